"""PyTorch's side, in the better of its two memory formats where it has two."""

import functools
import time
from collections.abc import Callable

import torch
from torch import nn

import convlayers as cl
from convlayers.kernels import get_num_threads
from convlayers.layer import Layer, Shape

from .cases import Conv, Infer, Pool, Train
from .common import agree, batch_of, built
from .worker import serve

torch.set_num_threads(get_num_threads())
F = nn.functional
FORMATS = (torch.contiguous_format, torch.channels_last)


def _better(runs: list[Callable[[], object]]) -> Callable[[], object]:
    def cost(run: Callable[[], object]) -> float:
        run()
        run()
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    return min(runs, key=lambda run: min(cost(run) for _ in range(3)))


def _conv(case: Conv, which: str, memory_format: torch.memory_format) -> Callable[[], object]:
    x = torch.randn(case.batch, case.channels, case.side, case.side).contiguous(memory_format=memory_format)
    w = torch.randn(case.filters, case.channels // case.groups, case.kernel, case.kernel)
    w = w.contiguous(memory_format=memory_format)
    dy = torch.randn(case.batch, case.filters, case.output, case.output).contiguous(memory_format=memory_format)
    s, p, g = case.stride, case.padding, case.groups
    if which == "forward":
        return lambda: F.conv2d(x, w, None, s, p, 1, g)
    wanted = [which == "input gradient", which == "weight gradient", which == "weight gradient"]
    backward = torch.ops.aten.convolution_backward
    bias = [case.filters]
    return lambda: backward(dy, x, w, bias, [s, s], [p, p], [1, 1], False, [0, 0], g, wanted)


def _pool(case: Pool, which: str, memory_format: torch.memory_format) -> Callable[[], object]:
    x = torch.randn(case.batch, case.channels, case.side, case.side).contiguous(memory_format=memory_format)
    pool = F.max_pool2d if case.kind == "max" else F.avg_pool2d
    if which == "forward":
        # With gradients on, as in training: max pooling keeps its indices.
        x.requires_grad_()
        return lambda: pool(x, case.kernel, case.stride, case.padding)
    x.requires_grad_()
    y = pool(x, case.kernel, case.stride, case.padding)
    dy = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)


class _Sum(nn.Module):
    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return functools.reduce(torch.add, values)


class _Joined(nn.Module):
    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        return torch.cat(values, 1)


def _module(layer: Layer, shape: Shape) -> nn.Module:
    """The layer for an input of `shape`, as far as the classifiers of images in `convlayers.models` use it."""
    if isinstance(layer, cl.Conv2d):
        how = {"stride": layer.stride, "padding": layer.padding, "groups": layer.groups, "bias": layer.bias}
        return nn.Conv2d(shape[0], layer.out_channels, layer.kernel_size, **how)
    if isinstance(layer, cl.Dense):
        return nn.Linear(shape[0], layer.out_features)
    if isinstance(layer, cl.BatchNorm2d):
        return nn.BatchNorm2d(shape[0], layer.eps, layer.momentum)
    if isinstance(layer, cl.MaxPool2d):
        return nn.MaxPool2d(layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode)
    if isinstance(layer, cl.Clip):
        return nn.Hardtanh(*layer.constants(), inplace=True)
    if isinstance(layer, cl.Dropout):
        return nn.Dropout(layer.p)
    if isinstance(layer, cl.GlobalAvgPool2d):
        return nn.AdaptiveAvgPool2d(1)
    if isinstance(layer, cl.AdaptiveAvgPool2d):
        return nn.AdaptiveAvgPool2d(layer.output_size)
    plain = {cl.Add: _Sum, cl.Concat: _Joined, cl.Flatten: nn.Flatten}
    if type(layer) not in (cl.ReLU, *plain):
        raise SystemExit(f"PyTorch's side of the bench has no {type(layer).__name__}: it knows classifiers of images")
    # In place, as torchvision's models have it: nobody else reads what these networks put into a ReLU.
    return nn.ReLU(inplace=True) if isinstance(layer, cl.ReLU) else plain[type(layer)]()


class _Net(nn.Module):
    """The same network with the same weights, step by step; a value is dropped after its last reader."""

    def __init__(self, model: cl.Model) -> None:
        super().__init__()
        steps = model.steps
        self.parts = nn.ModuleList(_module(step.layer, model.value_shapes[step.sources[0]]) for step in steps)
        for part, step in zip(self.parts, steps, strict=True):
            arrays = {**step.layer.params, **step.layer.buffers}
            part.load_state_dict({key: torch.from_numpy(array.copy()) for key, array in arrays.items()}, strict=False)
        self.sources = [step.sources for step in steps]
        last = {source: number for number, sources in enumerate(self.sources) for source in sources}
        self.done = [[s for s in sources if last[s] == number] for number, sources in enumerate(self.sources)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {0: x}
        for number, part in enumerate(self.parts):
            x = part(*(values[s] for s in self.sources[number]))
            for source in self.done[number]:
                values.pop(source, None)
            values[number + 1] = x
        return x


def _net(case: Train | Infer, memory_format: torch.memory_format) -> tuple[_Net, torch.Tensor, torch.Tensor]:
    """The network, images and labels; its outputs agree with those of the model."""
    model = built(case)
    images, labels = batch_of(case, model)
    net = _Net(model).to(memory_format=memory_format)
    x, t = torch.from_numpy(images).contiguous(memory_format=memory_format), torch.from_numpy(labels)
    with torch.inference_mode():
        few = slice(0, 4)
        agree(net.eval()(x[few]).numpy(), model(images[few]), 10_000, f"{case.title}: PyTorch's output")
    return net, x, t


def training_step(case: Train, memory_format: torch.memory_format) -> Callable[[], object]:
    """One step of SGD with momentum."""
    net, x, t = _net(case, memory_format)
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), t).backward()
        optimizer.step()

    return step


def _train(case: Train, which: str, memory_format: torch.memory_format) -> Callable[[], object]:
    return training_step(case, memory_format)


def _infer(case: Infer, which: str, memory_format: torch.memory_format) -> Callable[[], object]:
    net, x, _ = _net(case, memory_format)
    net.eval()
    return lambda: _without_gradients(net, x)


def _without_gradients(net: _Net, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return net(x)


def prepare(case: Conv | Pool | Train | Infer, which: str) -> Callable[[], object]:
    """What is timed for one pass of a case."""
    make = {Conv: _conv, Pool: _pool, Train: _train, Infer: _infer}[type(case)]
    runs = [make(case, which, memory_format) for memory_format in FORMATS]  # type: ignore[operator]
    if isinstance(case, Train | Infer):
        return _better(runs)
    with torch.no_grad():
        return _better(runs) if isinstance(case, Conv) else _better_pool(runs)


def _better_pool(runs: list[Callable[[], object]]) -> Callable[[], object]:
    with torch.enable_grad():
        return _better(runs)


if __name__ == "__main__":
    serve(prepare)
