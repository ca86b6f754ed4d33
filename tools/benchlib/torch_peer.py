"""PyTorch's side, in the better of its two memory formats where it has two."""

import time
from collections.abc import Callable

import torch
from torch import nn

import convlayers as cl
from convlayers.kernels import get_num_threads
from convlayers.layers.activations import ReLU
from convlayers.layers.conv import Conv2d
from convlayers.layers.dense import Dense, Flatten
from convlayers.layers.pooling import MaxPool2d

from .cases import Conv, Pool, Train
from .worker import serve

torch.set_num_threads(get_num_threads())
F = nn.functional


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


def _module(model: cl.Sequential) -> nn.Sequential:
    """The same network, layer by layer, for `nn`."""
    modules: list[nn.Module] = []
    shapes = [model.input_shapes[0], *model.value_shapes[1:]]
    for (_, layer), shape in zip(model.layers(), shapes, strict=False):
        if isinstance(layer, Conv2d):
            modules.append(nn.Conv2d(shape[0], layer.out_channels, layer.kernel_size, padding=layer.padding))
        elif isinstance(layer, Dense):
            modules.append(nn.Linear(shape[0], layer.out_features))
        elif isinstance(layer, MaxPool2d):
            modules.append(nn.MaxPool2d(layer.kernel_size))
        else:
            modules.append({ReLU: nn.ReLU, Flatten: nn.Flatten}[type(layer)]())
    return nn.Sequential(*modules)


def _train(case: Train, which: str, memory_format: torch.memory_format) -> Callable[[], object]:
    model = getattr(cl.models, case.model)()
    net = _module(model).to(memory_format=memory_format)
    x = torch.randn(case.batch, *model.input_shape).contiguous(memory_format=memory_format)
    t = torch.arange(case.batch) % model.output_shape[0]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), t).backward()
        optimizer.step()

    return step


def prepare(case: Conv | Pool | Train, which: str) -> Callable[[], object]:
    """What is timed for one pass of a case."""
    make = {Conv: _conv, Pool: _pool, Train: _train}[type(case)]
    formats = (torch.contiguous_format, torch.channels_last)
    runs = [make(case, which, memory_format) for memory_format in formats]  # type: ignore[operator]
    if isinstance(case, Train):
        return _better(runs)
    with torch.no_grad():
        return _better(runs) if isinstance(case, Conv) else _better_pool(runs)


def _better_pool(runs: list[Callable[[], object]]) -> Callable[[], object]:
    with torch.enable_grad():
        return _better(runs)


if __name__ == "__main__":
    serve(prepare)
