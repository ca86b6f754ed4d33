"""Optimizers: SGD, Adam, AdamW and RMSprop, by PyTorch's rules.

`p` is a parameter, `g` its gradient, `t` the step, from 1. Settings are plain attributes; `trainer.optimizer.lr = 1e-4`
takes effect at the next step. What changes which state is kept (a momentum where there was none) does so at the next `fit`.
State has the parameters' dtype, and a step writes into memory that is there already: one compiled pass over each parameter.
"""

import inspect
import math
from numbers import Real
from typing import Any

import numpy as np

from .. import functional
from ..errors import ConfigError, FileFormatError
from ..functional.update import Parameters


def _number(value: Any, name: str, *, positive: bool = False, below: float = math.inf) -> float:
    """`value` as a float from 0, or above 0 if `positive`, to less than `below`."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not real or not 0 <= value < below or (positive and value == 0):
        low = "greater than 0" if positive else "at least 0"
        high = "finite" if below == math.inf else f"less than {below:g}"
        raise ConfigError(f"{name} must be {low} and {high}; got {value!r}")
    return float(value)


class Part:
    """One parameter as flat arrays: `parameter`, `gradient`, and `state` by slot."""

    def __init__(self, parameter: np.ndarray, gradient: np.ndarray, state: dict[str, np.ndarray]) -> None:
        self._ends = parameter, gradient
        # Of an array that is not C-contiguous no flat view exists; a step copies it in and out.
        self.is_view = all(array.flags.c_contiguous for array in self._ends)
        self.parameter, self.gradient = (array.reshape(-1) for array in self._ends)
        self.state = state

    def arrays(self, *slots: str) -> tuple[np.ndarray, np.ndarray, *tuple[np.ndarray | None, ...]]:
        """Parameter, gradient and the state of these slots; None where the settings called for no such state."""
        return self.parameter, self.gradient, *map(self.state.get, slots)

    def gather(self) -> None:
        """Copy in what is no view."""
        for flat, array in zip((self.parameter, self.gradient), self._ends, strict=True):
            np.copyto(flat.reshape(array.shape), array)

    def scatter(self) -> None:
        """Copy the parameter back, which is no view."""
        np.copyto(self._ends[0], self.parameter.reshape(self._ends[0].shape))


class Optimizer:
    """Base of the optimizers: holds the state, and gives each parameter to `update` as flat arrays.

    A subclass keeps its constructor's arguments in attributes of the same names, lists its arrays of state in `slots()`,
    and computes one step of one parameter in `update`, or of all of them in `update_all`.
    """

    lr: float

    def __init__(self) -> None:
        self.steps = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._state: dict[str, np.ndarray] = {}
        self._parts: list[Part] = []
        self._copied: list[Part] = []
        self._arrays: dict[tuple[str, ...], Parameters] = {}

    def slots(self) -> tuple[str, ...]:
        """Names of the arrays of state that the settings call for; each starts at zero."""
        return ()

    def update(self, part: Part) -> None:
        """Take one step in `part.parameter`; `part.gradient` stays as it is."""
        raise NotImplementedError(f"{type(self).__name__} has no update")

    def update_all(self, parts: list[Part]) -> None:
        """Take one step in every parameter."""
        for part in parts:
            self.update(part)

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
        self._parts, start = [], 0
        for name, parameter in parameters.items():
            stop = start + parameter.size
            state = {slot: flat[start:stop] for slot, flat in self._state.items()}
            self._parts.append(Part(parameter, gradients[name], state))
            start = stop
        self._copied = [part for part in self._parts if not part.is_view]
        self._arrays = {}

    def step(self) -> None:
        """One step along the gradients, in place."""
        self.steps += 1
        for part in self._copied:
            part.gather()
        self.update_all(self._parts)
        for part in self._copied:
            part.scatter()

    def _all_arrays(self, parts: list[Part], *slots: str) -> Parameters:
        """`Part.arrays` of each; of the parameters that the optimizer works on they are found out once."""
        if parts is not self._parts:
            return [part.arrays(*slots) for part in parts]
        if slots not in self._arrays:
            self._arrays[slots] = [part.arrays(*slots) for part in parts]
        return self._arrays[slots]

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

    def update_all(self, parts: list[Part]) -> None:
        functional.sgd(
            self._all_arrays(parts, "momentum_buffer"),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


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

    def update_all(self, parts: list[Part]) -> None:
        self._adapt(parts, self.weight_decay, 1.0)

    def _adapt(self, parts: list[Part], weight_decay: float, shrink: float) -> None:
        # Both corrections are numbers, so they move out of the fraction.
        beta1, beta2 = self.betas
        correction = math.sqrt(1 - beta2**self.steps)
        functional.adam(
            self._all_arrays(parts, "exp_avg", "exp_avg_sq"),
            rate=self.lr * correction / (1 - beta1**self.steps),
            betas=self.betas,
            eps=self.eps * correction,
            weight_decay=weight_decay,
            shrink=shrink,
        )


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): `p <- (1 - lr weight_decay) p`, then Adam's step."""

    def __init__(
        self, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 1e-2
    ) -> None:
        super().__init__(lr, betas, eps, weight_decay)

    def update_all(self, parts: list[Part]) -> None:
        self._adapt(parts, 0.0, 1 - self.lr * self.weight_decay)


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

    def update_all(self, parts: list[Part]) -> None:
        functional.rmsprop(
            self._all_arrays(parts, "square_avg", "grad_avg", "momentum_buffer"),
            lr=self.lr,
            alpha=self.alpha,
            eps=self.eps,
            weight_decay=self.weight_decay,
            centered=self.centered,
            momentum=self.momentum,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {cls.__name__: cls for cls in (SGD, Adam, AdamW, RMSprop)}
