"""The cases: layers by their sizes, models by their names."""

from typing import NamedTuple


class Conv(NamedTuple):
    """A square convolution: `batch, channels, side, side` to `filters`."""

    batch: int
    channels: int
    side: int
    filters: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1

    @property
    def output(self) -> int:
        return (self.side + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def title(self) -> str:
        text = f"{self.batch},{self.channels},{self.side},{self.side} -> {self.filters}, {self.kernel}x{self.kernel}"
        text += f", stride {self.stride}" if self.stride > 1 else ""
        return text + (", depthwise" if self.groups == self.channels and self.groups > 1 else "")

    @property
    def gflop(self) -> float:
        """The direct algorithm's count of one pass: a multiply and an add for each product."""
        area = self.output * self.output
        return 2e-9 * self.batch * self.filters * area * (self.channels // self.groups) * self.kernel**2


class Pool(NamedTuple):
    """A square pooling of `batch, channels, side, side`; kind is "max" or "average"."""

    kind: str
    batch: int
    channels: int
    side: int
    kernel: int
    stride: int
    padding: int = 0

    @property
    def title(self) -> str:
        shape = f"{self.batch},{self.channels},{self.side},{self.side}"
        return f"{self.kind} {self.kernel}x{self.kernel}, stride {self.stride}, on {shape}"


class Train(NamedTuple):
    """A training step of a model of `convlayers.models`: SGD with momentum 0.9, cross-entropy."""

    model: str
    batch: int

    @property
    def title(self) -> str:
        return f"{self.model}, batch {self.batch}"


class Infer(NamedTuple):
    """Inference of a model of `convlayers.models`."""

    model: str
    batch: int

    @property
    def title(self) -> str:
        return f"{self.model}, batch {self.batch}"


PASSES = ("forward", "input gradient", "weight gradient")

CONVS = (
    Conv(64, 1, 28, 6, 5, 1, 2),
    Conv(64, 6, 14, 16, 5),
    Conv(32, 3, 32, 64, 3, 1, 1),
    Conv(32, 64, 32, 64, 3, 1, 1),
    Conv(32, 128, 16, 128, 3, 1, 1),
    Conv(32, 256, 8, 256, 3, 1, 1),
    Conv(8, 3, 224, 64, 7, 2, 3),
    Conv(16, 128, 28, 256, 1),
    Conv(16, 64, 56, 128, 3, 2, 1),
    Conv(16, 128, 28, 128, 3, 1, 1, 128),
    Conv(16, 96, 28, 96, 7, 1, 3, 96),
    Conv(16, 16, 64, 16, 11, 1, 5),
)
POOLS = (
    Pool("max", 64, 6, 28, 2, 2),
    Pool("max", 32, 64, 32, 2, 2),
    Pool("max", 8, 64, 112, 3, 2, 1),
    Pool("average", 32, 64, 32, 2, 2),
    Pool("average", 32, 64, 32, 3, 1, 1),
)
MODELS = ("digits_cnn", "lenet5", "mnist_cnn", "vgg_small", "resnet20", "mobilenet_small")
TRAINS = tuple(Train(model, 64) for model in MODELS)
INFERS = tuple(Infer(model, 64) for model in MODELS)
KINDS = {"conv": Conv, "pool": Pool, "train": Train, "infer": Infer}
