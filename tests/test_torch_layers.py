"""Layers against PyTorch over random configurations; each family adds its own."""

import numpy as np
import pytest
from torch_peer import assert_agrees, torch

import convlayers as cl

_SEEDS = range(12)


@pytest.mark.parametrize("seed", _SEEDS)
def test_conv2d(seed):
    rng = np.random.default_rng(seed)
    kernel, stride, dilation = (rng.integers(1, high, 2).tolist() for high in (4, 3, 3))
    padding, groups = rng.integers(0, 3, 2).tolist(), int(rng.integers(1, 3))
    shape = (2 * groups, *rng.integers(8, 12, 2).tolist())
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def peer(x, weight, bias):
        return torch().nn.functional.conv2d(x, weight, bias, **options)

    torch()
    assert_agrees(cl.Conv2d(4 * groups, kernel, **options), peer, [shape], length=500, seed=seed)
