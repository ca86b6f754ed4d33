"""Convolutions along every rank, and transposed ones, against PyTorch over random configurations."""

import numpy as np
import pytest
from torch_peer import assert_agrees, torch

import convlayers as cl
from convlayers.shapes import transposed_window, window

_SEEDS = range(12)
_CONVS = {1: cl.Conv1d, 2: cl.Conv2d, 3: cl.Conv3d}


def drawn(rng, rank):
    """Sizes of a random convolution, of small sums."""
    kernel, stride, dilation = (rng.integers(1, high, rank).tolist() for high in (4, 4, 3))
    groups = int(rng.integers(1, 3))
    options = {"stride": stride, "dilation": dilation, "groups": groups, "bias": bool(rng.integers(2))}
    return kernel, options, (2 * groups, *rng.integers(5, 9, rank).tolist())


def peer_of(rank, win, options):
    """PyTorch's convolution; what differs between the ends of an axis it takes as padding of the input."""
    options = {key: value for key, value in options.items() if key != "bias"}
    ends = [n for pair in reversed(win.padding) for n in pair]

    def peer(x, weight, bias=None):
        functional = torch().nn.functional
        return getattr(functional, f"conv{rank}d")(functional.pad(x, ends), weight, bias, **options)

    return peer


@pytest.mark.parametrize("padding", ["number", "axes", "pairs", "same", "valid"])
@pytest.mark.parametrize("rank", _CONVS)
@pytest.mark.parametrize("seed", _SEEDS)
def test_conv(seed, rank, padding):
    torch()
    rng = np.random.default_rng(seed)
    kernel, options, shape = drawn(rng, rank)
    padding = {
        "number": int(rng.integers(3)),
        "axes": rng.integers(0, 3, rank).tolist(),
        "pairs": rng.integers(0, 3, (rank, 2)).tolist(),
    }.get(padding, padding)
    geometry = {"stride": options["stride"], "dilation": options["dilation"], "padding": padding}
    win = window(shape[1:], kernel, **geometry)
    layer = _CONVS[rank](2 * options["groups"], kernel, padding=padding, **options)
    assert_agrees(layer, peer_of(rank, win, options), [shape], length=3000, seed=seed)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("rank", _CONVS)
def test_same_is_what_pytorch_calls_same_at_stride_1(rank):
    """Where PyTorch has "same" at all: an odd pixel of padding lies behind, as in SAME_UPPER."""
    shape = (4, *(5, 6, 7)[:rank])
    for kernel, dilation in ((3, 1), (2, 1), (4, 2), (3, 2)):

        def peer(x, weight, bias, dilation=dilation):
            return getattr(torch().nn.functional, f"conv{rank}d")(x, weight, bias, padding="same", dilation=dilation)

        torch()
        assert_agrees(_CONVS[rank](3, kernel, padding="same", dilation=dilation), peer, [shape], length=1000)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("seed", range(24))
def test_conv_transpose(seed, rank):
    torch()
    rng = np.random.default_rng(seed)
    kernel, options, shape = drawn(rng, rank)
    options["padding"] = rng.integers(0, 3, rank).tolist()
    options["output_padding"] = [
        int(rng.integers(max(pair))) for pair in zip(options["stride"], options["dilation"], strict=True)
    ]
    layer = getattr(cl, f"ConvTranspose{rank}d")(2 * options["groups"], kernel, **options)

    def peer(x, weight, bias=None):
        chosen = {key: value for key, value in options.items() if key != "bias"}
        return getattr(torch().nn.functional, f"conv_transpose{rank}d")(x, weight, bias, **chosen)

    assert_agrees(layer, peer, [shape], length=3000 * 8 ** (rank // 3), seed=seed)


@pytest.mark.parametrize("seed", range(12))
def test_conv_transpose2d_with_uneven_padding(seed):
    """PyTorch has one number for both ends; what padding takes away from its output is cut off."""
    torch()
    rng = np.random.default_rng(seed)
    kernel, options, shape = drawn(rng, 2)
    padding = "same" if seed % 3 == 0 else rng.integers(0, 3, (2, 2)).tolist()
    geometry = {"stride": options["stride"], "dilation": options["dilation"], "padding": padding}
    (height, width), win, more = transposed_window(shape[1:], kernel, **geometry)

    def peer(x, weight, bias=None):
        chosen = {key: value for key, value in options.items() if key != "bias"}
        y = torch().nn.functional.conv_transpose2d(x, weight, bias, output_padding=more, **chosen)
        (top, _), (left, _) = win.padding
        return y[:, :, top : top + height, left : left + width]

    layer = cl.ConvTranspose2d(2 * options["groups"], kernel, padding=padding, **options)
    assert_agrees(layer, peer, [shape], length=3000, seed=seed)
