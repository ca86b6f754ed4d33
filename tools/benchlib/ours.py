"""convlayers' side; every result is compared with the float64 reference before it is timed."""

from collections.abc import Callable

import numpy as np

import convlayers as cl
from convlayers import functional as F
from convlayers.kernels import reference
from convlayers.shapes import window
from convlayers.trainer import SGD
from convlayers.trainer.losses import get_loss

from .cases import Conv, Infer, Pool, Train
from .common import agree, batch_of, built, draw
from .worker import serve


def _conv(case: Conv, which: str) -> Callable[[], object]:
    x = draw(0, case.batch, case.channels, case.side, case.side)
    w = draw(1, case.filters, case.channels // case.groups, case.kernel, case.kernel)
    dy = draw(2, case.batch, case.filters, case.output, case.output)
    how = {"stride": case.stride, "padding": case.padding, "groups": case.groups}
    win = window(x.shape[2:], case.kernel, stride=case.stride, padding=case.padding)
    # Two images tell as much as all of them, and the reference is slow.
    few = slice(0, 2)
    if which == "forward":
        expected = reference.conv_forward(x[few], w, None, win, case.groups)
        agree(F.conv2d(x, w, **how)[few], expected, w[0].size, case.title)
        return lambda: F.conv2d(x, w, **how)
    if which == "input gradient":
        expected = reference.conv_backward_input(dy[few], w, x[few].shape, win, case.groups)
        agree(F.conv2d_backward_input(dy, w, x.shape, **how)[few], expected, w.size // case.channels, case.title)
        return lambda: F.conv2d_backward_input(dy, w, x.shape, **how)
    expected, _ = reference.conv_backward_weight(dy[few], x[few], w.shape, win, case.groups)
    agree(F.conv2d_backward_weight(dy[few], x[few], w.shape, **how)[0], expected, 2 * case.output**2, case.title)
    return lambda: F.conv2d_backward_weight(dy, x, w.shape, **how)


def _pool(case: Pool, which: str) -> Callable[[], object]:
    x = draw(0, case.batch, case.channels, case.side, case.side)
    win = window(x.shape[2:], case.kernel, stride=case.stride, padding=case.padding)
    dy = draw(1, *x.shape[:2], *win.output)
    length = case.kernel**2
    if case.kind == "max":
        y, index = F.max_pool2d(x, win)
        agree(y, reference.max_pool_forward(x, win)[0], 1, case.title)
        dx = reference.max_pool_backward(dy, index, x.shape, win)
        agree(F.max_pool2d_backward(dy, index, x.shape, win), dx, length, case.title)
        backward = lambda: F.max_pool2d_backward(dy, index, x.shape, win)  # noqa: E731
        return backward if which != "forward" else lambda: F.max_pool2d(x, win)
    agree(F.avg_pool2d(x, win), reference.avg_pool_forward(x, win, True), length, case.title)
    agree(F.avg_pool2d_backward(dy, x.shape, win), reference.avg_pool_backward(dy, x.shape, win, True), length, case.title)
    return (lambda: F.avg_pool2d(x, win)) if which == "forward" else lambda: F.avg_pool2d_backward(dy, x.shape, win)


# A ReLU whose input is a rounding from 0 may bend the other way in float32: measured on the deep models, that moves the whole
# gradient by up to 0.003 of its norm, in PyTorch too, and with tanh in place of ReLU by 4e-6. A wrong kernel moves it by more.
# `resnet50` at few images bends so much, in PyTorch too (0.02 of the norm), that it is asked how far the exact gradient moves
# when images and parameters do by so many roundings as sums of some hundred terms have.
_BENT = 0.01
_ROUNDINGS = 1e-6


def _flat(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays.values()])


def _gradients(model: cl.Model, x: np.ndarray, t: np.ndarray) -> dict[str, np.ndarray]:
    model.zero_gradients()
    y, tape = model.forward(x, training=True, step=0)
    model.backward(get_loss("cross_entropy")(y, t)[1], tape)
    return {key: g.copy() for key, g in model.gradients().items()}


def _widened(case: Train | Infer) -> cl.Model:
    """The same network in float64: the judge of gradients and outputs."""
    model = built(case)
    for _, layer in model.layers():
        layer.params = {key: p.astype(np.float64) for key, p in layer.params.items()}
        layer.grads = {key: np.zeros_like(p) for key, p in layer.params.items()}
    return model


def _distance(actual: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(actual - exact) / np.linalg.norm(exact))


def _sensitivity(case: Train, x: np.ndarray, t: np.ndarray, exact: np.ndarray) -> float:
    """How far the exact gradient moves with roundings, relative to its norm."""
    model, rng = _widened(case), np.random.default_rng(0)
    for parameter in model.parameters().values():
        parameter *= 1 + _ROUNDINGS * rng.uniform(-1, 1, parameter.shape)
    return _distance(_flat(_gradients(model, x * (1 + _ROUNDINGS * rng.uniform(-1, 1, x.shape)), t)), exact)


def training_step(case: Train) -> Callable[[], object]:
    """One step of SGD with momentum, unchecked."""
    model = built(case)
    x, t = batch_of(case, model)
    optimizer, loss = SGD(lr=0.01, momentum=0.9), get_loss("cross_entropy")
    gradients = model.gradients()
    optimizer.bind(model.parameters(), gradients)

    def step() -> None:
        for gradient in gradients.values():
            gradient.fill(0)
        y, tape = model.forward(x, training=True, step=0)
        model.backward(loss(y, t)[1], tape, input_gradient=False)
        optimizer.step()

    return step


def _train(case: Train, which: str) -> Callable[[], object]:
    model = built(case)
    x, t = batch_of(case, model)
    expected, actual = (_flat(_gradients(*of, t)) for of in ((_widened(case), x.astype(np.float64)), (model, x)))
    error, bound = _distance(actual, expected), _BENT
    if not error <= bound:
        bound = max(bound, _sensitivity(case, x.astype(np.float64), t, expected))
    if not error <= bound:
        raise SystemExit(f"{case.title}: the gradient is off by {error:.2g} of its norm, over {bound:.2g}; nothing is timed")
    return training_step(case)


def _infer(case: Infer, which: str) -> Callable[[], object]:
    model = built(case)
    x, _ = batch_of(case, model)
    agree(model(x), _widened(case)(x.astype(np.float64)), 10_000, f"{case.title}: output")
    return lambda: model(x)


def prepare(case: Conv | Pool | Train | Infer, which: str) -> Callable[[], object]:
    """What is timed for one pass of a case."""
    return {Conv: _conv, Pool: _pool, Train: _train, Infer: _infer}[type(case)](case, which)  # type: ignore[operator]


if __name__ == "__main__":
    serve(prepare)
