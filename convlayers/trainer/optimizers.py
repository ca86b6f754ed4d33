"""Optimizers: SGD, Adam, AdamW and RMSprop, by PyTorch's rules.

`p` is a parameter, `g` its gradient, `t` the step, from 1. Settings are plain attributes; `trainer.optimizer.lr = 1e-4`
takes effect at the next step. What changes which state is kept (a momentum where there was none) does so at the next `fit`.
State has the parameters' dtype, and a step writes into memory that is there already.
"""

import inspect
import math
from numbers import Real
from typing import Any

import numpy as np

from ..errors import ConfigError, FileFormatError
from .blocks import Block, cut


def _number(value: Any, name: str, *, positive: bool = False, below: float = math.inf) -> float:
    """`value` as a float from 0, or above 0 if `positive`, to less than `below`."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not 0 <= value < below or (positive and value == 0):
        low = "greater than 0" if positive else "at least 0"
        high = "finite" if below == math.inf else f"less than {below:g}"
        raise ConfigError(f"{name} must be {low} and {high}; got {value!r}")
    return float(value)


class Optimizer:
    """Base of the optimizers: holds the state, and cuts the parameters into blocks for `update`.

    A subclass keeps its constructor's arguments in attributes of the same names, lists its arrays of state in `slots()`,
    and computes one step of one block in `update`.
    """

    lr: float

    def __init__(self) -> None:
        self.steps = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._state: dict[str, np.ndarray] = {}
        self._blocks: list[Block] = []

    def slots(self) -> tuple[str, ...]:
        """Names of the arrays of state that the settings call for; each starts at zero."""
        return ()

    def update(self, block: Block) -> None:
        """Take one step in `block.parameter`; `block.gradient` stays as it is, `block.a` and `block.b` are workspace."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, as they are now: JSON values."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"

    def bind(self, parameters: dict[str, np.ndarray], gradients: dict[str, np.ndarray]) -> None:
        """Work on these arrays from now on; state is kept if names and shapes are those of before."""
        dtypes = {array.dtype for array in (*parameters.values(), *gradients.values())}
        if len(dtypes) > 1:
            raise ConfigError(f"parameters and gradients must have one dtype; got {', '.join(sorted(map(str, dtypes)))}")
        dtype = dtypes.pop() if dtypes else np.dtype(np.float32)
        shapes = {name: array.shape for name, array in parameters.items()}
        kept = self._state if shapes == self._shapes else {}
        self.steps = self.steps if shapes == self._shapes else 0
        size = sum(array.size for array in parameters.values())
        self._shapes = shapes
        self._state = {slot: kept[slot] if slot in kept else np.zeros(size, dtype) for slot in self.slots()}
        self._blocks = cut(parameters, gradients, self._state, dtype)

    def step(self) -> None:
        """One step along the gradients, in place."""
        self.steps += 1
        for block in self._blocks:
            block.gather()
            self.update(block)
            block.scatter()

    def _views(self) -> dict[str, np.ndarray]:
        views, start = {}, 0
        for name, shape in self._shapes.items():
            stop = start + math.prod(shape)
            for slot, flat in self._state.items():
                views[f"{slot}:{name}"] = flat[start:stop].reshape(shape)
            start = stop
        return views

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the state: `"steps"`, `(1,)`, and an array `"slot:parameter"` of each parameter's shape for every slot."""
        return {"steps": np.array([self.steps], np.int64), **{key: view.copy() for key, view in self._views().items()}}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Copy `state` in; keys and shapes must be those of `state_dict()`, else `FileFormatError` and nothing changes."""
        own = self.state_dict()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise FileFormatError(f"the state does not fit this {type(self).__name__}; missing or not of it: {', '.join(odd)}")
        for key, array in own.items():
            value = np.asarray(state[key])
            if value.shape != array.shape or value.dtype.kind != array.dtype.kind:
                raise FileFormatError(f"{key} is {array.dtype} {array.shape}; the state has {value.dtype} {value.shape}")
        self.steps = int(state["steps"][0])
        for key, view in self._views().items():
            view[...] = state[key]


def _decayed(block: Block, weight_decay: float) -> np.ndarray:
    """`g + weight_decay p`, in workspace a; the gradient itself where there is no decay."""
    if not weight_decay:
        return block.gradient
    np.multiply(block.parameter, weight_decay, out=block.a)
    return np.add(block.a, block.gradient, out=block.a)


def _average(mean: np.ndarray, value: np.ndarray, decay: float, work: np.ndarray) -> None:
    """`mean <- decay mean + (1 - decay) value`."""
    mean *= decay
    mean += np.multiply(value, 1 - decay, out=work)


def _average_square(mean: np.ndarray, value: np.ndarray, decay: float, work: np.ndarray) -> None:
    """`mean <- decay mean + (1 - decay) value^2`."""
    np.multiply(value, 1 - decay, out=work)
    work *= value
    mean *= decay
    mean += work


class SGD(Optimizer):
    """Stochastic gradient descent: `g <- g + weight_decay p`; `v <- momentum v + g`; `p <- p - lr v`.

    With `nesterov`, `p <- p - lr (g + momentum v)` (Sutskever et al. 2013, as PyTorch writes it); without momentum, `v = g`.
    Raises `ConfigError` unless lr > 0, momentum in [0, 1), weight_decay >= 0, and a momentum where there is `nesterov`.
    """

    def __init__(self, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.lr = _number(lr, "lr", positive=True)
        self.momentum = _number(momentum, "momentum", below=1)
        self.nesterov = bool(nesterov)
        self.weight_decay = _number(weight_decay, "weight_decay")
        if self.nesterov and not self.momentum:
            raise ConfigError(f"nesterov needs a momentum greater than 0; got {momentum!r}")

    def slots(self) -> tuple[str, ...]:
        return ("momentum_buffer",) if self.momentum else ()

    def update(self, block: Block) -> None:
        step = _decayed(block, self.weight_decay)
        if self.momentum:
            velocity = block.state["momentum_buffer"]
            velocity *= self.momentum
            velocity += step
            if self.nesterov:
                np.multiply(velocity, self.momentum, out=block.b)
                step = np.add(step, block.b, out=block.b)
            else:
                step = velocity
        np.multiply(step, self.lr, out=block.a)
        np.subtract(block.parameter, block.a, out=block.parameter)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015): `m <- b1 m + (1 - b1) g`; `v <- b2 v + (1 - b2) g^2`;
    `p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)`, after `g <- g + weight_decay p`.

    Raises `ConfigError` unless lr > 0, both betas in [0, 1), eps >= 0 and weight_decay >= 0.
    """

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0
    ) -> None:
        super().__init__()
        self.lr = _number(lr, "lr", positive=True)
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ConfigError(f"betas is a pair such as (0.9, 0.999); got {betas!r}")
        self.betas = (_number(betas[0], "betas[0]", below=1), _number(betas[1], "betas[1]", below=1))
        self.eps = _number(eps, "eps")
        self.weight_decay = _number(weight_decay, "weight_decay")

    def slots(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def update(self, block: Block) -> None:
        self._adapt(block, _decayed(block, self.weight_decay))

    def _adapt(self, block: Block, gradient: np.ndarray) -> None:
        mean, square, (beta1, beta2), work = block.state["exp_avg"], block.state["exp_avg_sq"], self.betas, block.b
        _average(mean, gradient, beta1, work)
        _average_square(square, gradient, beta2, work)
        # Both corrections are numbers, so they move out of the fraction: one pass fewer than the formula has.
        correction = math.sqrt(1 - beta2**self.steps)
        np.sqrt(square, out=work)
        work += self.eps * correction
        np.divide(mean, work, out=work)
        work *= self.lr * correction / (1 - beta1**self.steps)
        np.subtract(block.parameter, work, out=block.parameter)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): `p <- (1 - lr weight_decay) p`, then Adam's step."""

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay)

    def update(self, block: Block) -> None:
        np.multiply(block.parameter, 1 - self.lr * self.weight_decay, out=block.parameter)
        self._adapt(block, block.gradient)


class RMSprop(Optimizer):
    """RMSprop (Tieleman and Hinton 2012): `v <- alpha v + (1 - alpha) g^2`; `p <- p - lr g / (sqrt(v) + eps)`.

    `centered` takes `v - mean(g)^2` for v under the root (Graves 2013); `momentum` smooths the steps,
    `u <- momentum u + g / (sqrt(v) + eps)`, `p <- p - lr u`; `weight_decay` first adds `weight_decay p` to g.
    Raises `ConfigError` unless lr > 0, alpha and momentum in [0, 1), eps >= 0 and weight_decay >= 0.
    """

    def __init__(
        self,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
    ) -> None:
        super().__init__()
        self.lr = _number(lr, "lr", positive=True)
        self.alpha = _number(alpha, "alpha", below=1)
        self.eps = _number(eps, "eps")
        self.weight_decay = _number(weight_decay, "weight_decay")
        self.momentum = _number(momentum, "momentum", below=1)
        self.centered = bool(centered)

    def slots(self) -> tuple[str, ...]:
        extra = [name for name, used in (("grad_avg", self.centered), ("momentum_buffer", self.momentum)) if used]
        return ("square_avg", *extra)

    def update(self, block: Block) -> None:
        gradient, work = _decayed(block, self.weight_decay), block.b
        square = block.state["square_avg"]
        _average_square(square, gradient, self.alpha, work)
        if self.centered:
            mean = block.state["grad_avg"]
            _average(mean, gradient, self.alpha, work)
            np.multiply(mean, mean, out=work)
            np.subtract(square, work, out=work)
            # A variance; rounding can leave it just below zero.
            np.maximum(work, 0, out=work)
            np.sqrt(work, out=work)
        else:
            np.sqrt(square, out=work)
        work += self.eps
        np.divide(gradient, work, out=work)
        if self.momentum:
            velocity = block.state["momentum_buffer"]
            velocity *= self.momentum
            velocity += work
            np.multiply(velocity, self.lr, out=work)
        else:
            work *= self.lr
        np.subtract(block.parameter, work, out=block.parameter)


OPTIMIZERS: dict[str, type[Optimizer]] = {cls.__name__: cls for cls in (SGD, Adam, AdamW, RMSprop)}
