"""Networks that PyTorch's own exporter wrote: imported, they compute what PyTorch computes."""

import io
import warnings

import numpy as np
import pytest
from torch_peer import torch

import convlayers as cl
from convlayers.testing import assert_close


def network():
    """What PyTorch writes with arithmetic on shapes, decompositions and constants: channel shuffles, squeeze and excitation,
    group normalization, attention, pixel shuffles, slices."""
    nn, functional = torch().nn, torch().nn.functional

    class Shuffle(nn.Module):
        def forward(self, x):
            n, c, h, w = x.shape
            return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.narrow, self.wide = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

        def forward(self, x):
            return x * torch().sigmoid(self.wide(functional.relu(self.narrow(x.mean((2, 3), keepdim=True)))))

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.query, self.key = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            n, c, h, w = x.shape
            pixels = self.norm(x.flatten(2).transpose(1, 2))
            seen = torch().softmax(self.query(pixels) @ self.key(pixels).transpose(1, 2) / c**0.5, -1) @ pixels
            return seen.transpose(1, 2).reshape(n, c, h, w) + x

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            first = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), Shuffle(), Gate()]
            middle = [nn.Conv2d(8, 8, 3, 2, 1, groups=4), nn.SiLU(), nn.GroupNorm(2, 8), nn.PReLU(8), Attention()]
            last = [nn.Upsample(scale_factor=2, mode="bilinear"), nn.InstanceNorm2d(8, affine=True), nn.Hardswish()]
            large = [nn.ConvTranspose2d(8, 24, 3, 2, 1, output_padding=1), nn.PixelShuffle(2), nn.AdaptiveAvgPool2d(4)]
            self.body = nn.Sequential(*first, *middle, *last, *large, nn.Dropout(0.2))
            self.place = nn.Parameter(torch().randn(1, 6, 4, 4))
            self.head = nn.Linear(96, 5)

        def forward(self, x):
            left, right = (self.body(x) + self.place).chunk(2, 1)
            y = functional.pad(torch().cat([left * 2.5, right.abs() / 3], 1), (1, 1, 0, 2))[:, :, 1:5, 1:5]
            return functional.log_softmax(self.head(y.flatten(1)), 1)

    torch().manual_seed(0)
    made = Network().eval()
    made.body[1].running_mean.normal_()
    made.body[1].running_var.uniform_(0.5, 2)
    return made


@pytest.mark.parametrize("any_batch", [True, False], ids=["any batch", "one batch size"])
@pytest.mark.parametrize("opset", [11, 13, 17, 20])
def test_pytorch_exports_are_imported(opset, any_batch):
    made, file = network(), io.BytesIO()
    names = {"input_names": ["x"], "output_names": ["y"]}
    axes = {"dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}} if any_batch else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own: that it is the old one, and guesses of its tracing
        torch().onnx.export(made, (torch().randn(2, 3, 16, 16),), file, opset_version=opset, dynamo=False, **names, **axes)
    model = cl.import_onnx(file.getvalue())
    x = torch().randn(5, 3, 16, 16)
    assert_close(model(x.numpy()), made(x).detach().numpy(), 4000, f"opset {opset}")
    # Normalization before the activation is within the convolution; all other weights are there.
    folded = sum(p.numel() for p in made.body[1].parameters())
    assert sum(array.size for array in model.parameters().values()) >= sum(p.numel() for p in made.parameters()) - folded
    assert np.isfinite(model.forward(x.numpy(), training=True)[0]).all()
