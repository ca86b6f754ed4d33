"""Convolution of images as small as the kernel or smaller (functional/algorithms/small_images.py)."""

from itertools import product

import numpy as np
import pytest
from replays import assert_replayed

import convlayers as cl
from convlayers import functional as F
from convlayers import kernels
from convlayers.functional.algorithms.problem import FORWARD, Problem
from convlayers.functional.algorithms.small_images import is_product, live_part
from convlayers.functional.plan import plan_conv
from convlayers.kernels import memory, reference
from convlayers.randomness import generator
from convlayers.shapes import window
from convlayers.tolerance import largest_error, tolerance

IMAGES = [(1, 1), (2, 2), (1, 4), (3, 1), (2, 5), (4, 4)]
KERNELS = [(1, 1), (3, 3), (2, 2), (5, 3), (1, 7), (4, 4), (7, 7)]
PADDINGS = [0, 1, 3, ((0, 2), (1, 0)), ((2, 0), (0, 3))]


def drawn(*shape, dtype=np.float32):
    return generator(0, "small images", *shape).standard_normal(shape).astype(dtype)


def fitting(images, kernels_, paddings):
    for image, kernel, padding, stride, dilation in product(images, kernels_, paddings, (1, 2, (3, 1)), (1, 2)):
        try:
            yield window(image, kernel, stride=stride, padding=padding, dilation=dilation), image
        except cl.ConvlayersError:
            continue


def agree(actual, expected, length):
    assert actual.shape == expected.shape
    assert largest_error(actual, expected) <= tolerance(actual.dtype, length)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("isa", "dtype"), [*((isa, np.float32) for isa in kernels.available()), ("baseline", np.float64)])
def test_every_direction_beside_the_reference(isa, dtype, groups):
    kinds = set()
    for win, image in fitting(IMAGES, KERNELS, PADDINGS):
        x, w, b = (drawn(*shape, dtype=dtype) for shape in ((3, 4, *image), (6, 4 // groups, *win.kernel), (6,)))
        dy = drawn(3, 6, *win.output, dtype=dtype)
        how = {"stride": win.stride, "padding": win.padding, "dilation": win.dilation, "groups": groups}
        part = live_part(plan_conv(FORWARD, x.shape, w.shape, x.dtype.name, **how).problem)
        kinds.add((part.win.kernel == win.kernel, is_product(part)))
        with kernels.using(isa=isa, threads=2), memory.poisoned():
            y, dx = F.conv2d(x, w, b, **how), F.conv2d_backward_input(dy, w, x.shape, **how)
            dw, db = F.conv2d_backward_weight(dy, x, w.shape, **how)
        wide = [a.astype(np.float64) for a in (x, w, b, dy)]
        agree(y, reference.conv_forward(*wide[:3], win, groups), w[0].size + 1)
        agree(dx, reference.conv_backward_input(wide[3], wide[1], x.shape, win, groups), w.size // 2)
        wide_dw, wide_db = reference.conv_backward_weight(wide[3], wide[0], w.shape, win, groups)
        agree(dw, wide_dw, dy.size // 6)
        agree(db, wide_db, dy.size // 6)
    assert {all_taps for all_taps, _ in kinds} == {True, False}
    assert {whole for _, whole in kinds} == ({True, False} if groups == 1 else {False})


def problem(image, kernel, **how):
    return plan_conv(FORWARD, (16, 4, *image), (8, 4, *kernel), "float32", **how).problem


def parts(asked: Problem):
    part = live_part(asked)
    return part.win.kernel, part.win.padding, is_product(part)


def test_which_taps_are_left():
    assert parts(problem((1, 1), (3, 3), padding=1)) == ((1, 1), ((0, 0), (0, 0)), True)
    assert parts(problem((1, 9), (3, 3), padding=1)) == ((1, 3), ((0, 0), (1, 1)), False)
    # The last layers of ResNet-18 on images of 32 x 32: what is padded behind is read by nobody.
    assert parts(problem((2, 2), (3, 3), padding=1, stride=2)) == ((2, 2), ((0, 1), (0, 1)), True)
    assert parts(problem((4, 4), (9, 9), padding=8, dilation=2, stride=9)) == ((2, 2), ((0, 2), (0, 2)), False)
    # More than half of the taps: not worth their copy.
    assert parts(problem((2, 9), (5, 3), padding=((2, 2), (1, 1)))) == ((5, 3), ((2, 2), (1, 1)), False)
    assert parts(problem((2, 2), (3, 3), padding=1)) == ((3, 3), ((1, 1), (1, 1)), False)
    # None at all: every output is the bias.
    assert parts(problem((1, 1), (2, 2), padding=((4, 0), (4, 0)), stride=9))[0] == (2, 2)


def test_what_is_a_product():
    assert is_product(problem((3, 5), (3, 5)))
    assert not is_product(problem((3, 5), (3, 4)))
    assert not is_product(problem((3, 3), (3, 3), padding=1))
    assert not is_product(problem((2, 2), (2, 2), dilation=2, padding=((0, 1), (0, 1))))
    assert not is_product(problem((1, 1), (1, 1), padding=1))


@pytest.mark.parametrize(
    ("channels", "filters", "side", "kernel", "stride", "padding"),
    [(256, 256, 1, 1, 1, 0), (100, 40, 1, 1, 1, 0), (300, 12, 1, 1, 1, 0), (64, 100, 1, 3, 1, 1), (512, 33, 2, 3, 2, 1)],
)
def test_an_image_gets_the_same_bits_in_every_batch(channels, filters, side, kernel, stride, padding):
    """Of up to three images, and of more: 65 and more are computed with other blocks than 4."""
    x, w = drawn(130, channels, side, side), drawn(filters, channels, kernel, kernel)
    how = {"stride": stride, "padding": padding}
    for counts in ((1, 2, 3), (4, 5, 8, 31, 33, 65, 130)):
        all_y = F.conv2d(x[: counts[-1]], w, **how)
        all_dx = F.conv2d_backward_input(all_y, w, x[: counts[-1]].shape, **how)
        for count in counts:
            y = F.conv2d(x[:count], w, **how)
            assert y.tobytes() == all_y[:count].tobytes()
            assert F.conv2d_backward_input(y, w, x[:count].shape, **how).tobytes() == all_dx[:count].tobytes()


@pytest.mark.parametrize(("channels", "kernel"), [(64, 1), (300, 1), (20, 3)])
def test_an_image_gets_the_same_bits_behind_a_normalization(channels, kernel):
    """What inference folds it into does not depend on the batch either."""
    layers = [cl.Conv2d(24, kernel, padding=kernel // 2), cl.BatchNorm2d(), cl.ReLU()]
    model = cl.Sequential(layers, input_shape=(channels, 1, 1), seed=2)
    x = drawn(400, channels, 1, 1)
    model.forward(x[:50], training=True, step=0)
    for counts in ((1, 3), (4, 16, 33, 63, 64, 65, 400)):
        together = model(x[: counts[-1]])
        for count in counts:
            assert model(x[:count]).tobytes() == together[:count].tobytes()


def test_the_first_layer_of_a_generator():
    """A transposed convolution from one pixel to as many as its kernel has."""
    x, w = drawn(5, 30, 1, 1), drawn(30, 12, 4, 4)
    y = F.conv_transpose2d(x, w)
    expected = np.einsum("nc,cmrs->nmrs", x[:, :, 0, 0].astype(np.float64), w.astype(np.float64))
    agree(y, expected, 30)
    dw, _ = F.conv_transpose2d_backward_weight(y, x, w.shape)
    agree(dw, np.einsum("nmrs,nc->cmrs", y.astype(np.float64), x[:, :, 0, 0].astype(np.float64)), 5)


def shrinking():
    layers = [
        *(cl.Conv2d(24, 3, padding=1, bias=False), cl.BatchNorm2d(), cl.ReLU()),
        *(cl.Conv2d(40, 3, stride=2, padding=1), cl.ReLU()),
        *(cl.Conv2d(40, 3, padding=1), cl.BatchNorm2d(), cl.ReLU()),
        *(cl.Conv2d(300, 1), cl.Flatten(), cl.Dense(5)),
    ]
    return cl.Sequential(layers, input_shape=(3, 2, 2), seed=1)


@pytest.mark.parametrize("isa", kernels.available())
def test_a_model_on_small_images_is_recorded(isa):
    """To the same bits as layer by layer, in steps and in inference, whose convolutions take over what is behind them."""
    with kernels.using(isa=isa):
        assert_replayed(shrinking, (6, 3, 2, 2), isa)
