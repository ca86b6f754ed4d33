"""Parameters cut into blocks, so that an optimizer's many elementwise passes find their operands in the cache.

A large parameter is cut into blocks of its own; small ones are gathered into one block, which saves a dozen NumPy calls for
each of them. Elementwise arithmetic does not depend on the cut, so neither do the bits.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

# Values a block: with two moments, gradient and workspace, about 400 KB of float32, which stay in a second-level cache.
_SIZE = 16_384


class _Piece(NamedTuple):
    parameter: np.ndarray
    gradient: np.ndarray


def _pieces(parameter: np.ndarray, gradient: np.ndarray) -> Iterator[_Piece]:
    if parameter.flags.c_contiguous and gradient.flags.c_contiguous:
        p, g = parameter.reshape(-1), gradient.reshape(-1)
        for start in range(0, p.size, _SIZE):
            yield _Piece(p[start : start + _SIZE], g[start : start + _SIZE])
    elif parameter.size:
        # No flat view exists; the block copies it in and out, in C order.
        yield _Piece(parameter, gradient)


def _groups(parameters: dict[str, np.ndarray], gradients: dict[str, np.ndarray]) -> list[list[_Piece]]:
    groups: list[list[_Piece]] = []
    room = 0
    for name, parameter in parameters.items():
        for piece in _pieces(parameter, gradients[name]):
            if piece.parameter.size > room:
                groups.append([])
                room = _SIZE
            groups[-1].append(piece)
            room -= piece.parameter.size
    return groups


class Block:
    """A stretch of the parameters as flat arrays: `parameter`, `gradient`, `state` by slot, and workspace `a` and `b`."""

    def __init__(self, pieces: list[_Piece], state: dict[str, np.ndarray], workspace: np.ndarray) -> None:
        size = sum(piece.parameter.size for piece in pieces)
        self.state = state
        self.a, self.b, parameter, gradient = (row[:size] for row in workspace)
        self._moves: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        if len(pieces) == 1 and pieces[0].parameter.ndim == 1:
            self.parameter, self.gradient = pieces[0]
            return
        self.parameter, self.gradient = parameter, gradient
        start = 0
        for p, g in pieces:
            stop = start + p.size
            self._moves.append((p, g, parameter[start:stop].reshape(p.shape), gradient[start:stop].reshape(p.shape)))
            start = stop

    def gather(self) -> None:
        """Copy small parameters and their gradients in."""
        for p, g, p_here, g_here in self._moves:
            np.copyto(p_here, p)
            np.copyto(g_here, g)

    def scatter(self) -> None:
        """Copy small parameters back."""
        for p, _, p_here, _ in self._moves:
            np.copyto(p, p_here)


def cut(
    parameters: dict[str, np.ndarray], gradients: dict[str, np.ndarray], slots: dict[str, np.ndarray], dtype: np.dtype
) -> list[Block]:
    """Blocks over all parameters; `slots` are flat arrays of state over all of them, in order."""
    groups = _groups(parameters, gradients)
    sizes = [sum(piece.parameter.size for piece in group) for group in groups]
    workspace = np.empty((4, max(sizes, default=0)), dtype)
    blocks, start = [], 0
    for group, size in zip(groups, sizes, strict=True):
        blocks.append(Block(group, {key: flat[start : start + size] for key, flat in slots.items()}, workspace))
        start += size
    return blocks
