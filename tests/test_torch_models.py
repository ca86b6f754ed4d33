"""The reference architectures beside the same networks written with PyTorch's functions: outputs in float64."""

import numpy as np
import pytest

import convlayers as cl
from convlayers.testing import assert_close

torch = pytest.importorskip("torch", reason="PyTorch is the third judge: pip install convlayers[bench]")
F = torch.nn.functional


class Peer:
    """Functions of PyTorch's with the parameters that a model has under a layer's name."""

    def __init__(self, model):
        self._state = {key: torch.from_numpy(array) for key, array in (model.parameters() | model.buffers()).items()}

    def _of(self, name, *keys):
        return [self._state.get(f"{name}.{key}") for key in keys]

    def conv(self, x, name, function=F.conv2d, **how):
        return function(x, *self._of(name, "weight", "bias"), **how)

    def same(self, x, name, **how):
        return self.conv(x, name, padding=self._state[f"{name}.weight"].shape[-1] // 2, **how)

    def norm(self, x, name):
        mean, var, *affine = self._of(name, "running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, mean, var, *affine)

    def conv_norm(self, x, name, place, **how):
        """The layers `place` and `place + 1` of a chain."""
        return self.norm(self.same(x, f"{name}/{place}", **how), f"{name}/{place + 1}")

    def dense(self, x, name):
        return F.linear(x, *self._of(name, "weight", "bias"))


def alexnet(net, x):
    x = F.max_pool2d(net.conv(x, "features/0", stride=4, padding=2).relu(), 3, 2)
    x = F.max_pool2d(net.same(x, "features/3").relu(), 3, 2)
    for place in (6, 8, 10):
        x = net.same(x, f"features/{place}").relu()
    x = F.adaptive_avg_pool2d(F.max_pool2d(x, 3, 2), (2, 1)).flatten(1)
    return net.dense(net.dense(net.dense(x, "classifier/3").relu(), "classifier/6").relu(), "classifier/8")


def vgg11(net, x):
    place = 0
    for depth in (1, 1, 2, 2, 2):
        for _ in range(depth):
            x, place = net.conv_norm(x, "features", place).relu(), place + 3
        x, place = F.max_pool2d(x, 2), place + 1
    x = x.flatten(1)
    return net.dense(net.dense(net.dense(x, "classifier/2").relu(), "classifier/5").relu(), "classifier/8")


def stem(net, x):
    return F.max_pool2d(net.conv_norm(x, "stem", 0, stride=2).relu(), 3, 2, 1)


def resnet18(net, x):
    x = stem(net, x)
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f"stage{stage}/{block}", 2 if stage > 1 and block == 0 else 1
            y = net.conv_norm(net.conv_norm(x, name, 0, stride=stride).relu(), name, 3)
            x = (y + (net.conv_norm(x, f"{name}/shortcut", 0, stride=2) if stride == 2 else x)).relu()
    return net.dense(x.mean((2, 3)), "classifier/2")


def resnet50(net, x):
    x = stem(net, x)
    for stage, depth in enumerate((3, 4, 6, 3), 1):
        for block in range(depth):
            name, stride = f"stage{stage}/{block}", 2 if stage > 1 and block == 0 else 1
            y = net.conv_norm(net.conv_norm(x, name, 0).relu(), name, 3, stride=stride).relu()
            y = net.conv_norm(y, name, 6)
            x = (y + (net.conv_norm(x, f"{name}/shortcut", 0, stride=stride) if block == 0 else x)).relu()
    return net.dense(x.mean((2, 3)), "classifier/2")


def mobilenet_v2(net, x):
    x, number = F.relu6(net.conv_norm(x, "stem", 0, stride=2)), 0
    plan = [(1, 1, 1), (6, 2, 2), (6, 3, 2), (6, 4, 2), (6, 3, 1), (6, 3, 2), (6, 1, 1)]
    for expansion, count, stride in plan:
        for repeat in range(count):
            number += 1
            name, y, place = f"block{number}", x, 0
            if expansion > 1:
                y, place = F.relu6(net.conv_norm(x, name, 0)), 3
            how = {"groups": y.shape[1], "stride": 1 if repeat else stride}
            y = net.conv_norm(F.relu6(net.conv_norm(y, name, place, **how)), name, place + 3)
            x = x + y if repeat else y
    return net.dense(F.relu6(net.conv_norm(x, "classifier", 0)).mean((2, 3)), "classifier/6")


def squeezenet(net, x):
    x, number = net.conv(x, "stem/0", stride=2).relu(), 1
    for count in (2, 2, 4):
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for _ in range(count):
            number += 1
            s = net.same(x, f"fire{number}/squeeze/0").relu()
            x = torch.cat([net.same(s, f"fire{number}/expand{size}/0").relu() for size in ("1x1", "3x3")], 1)
    return net.same(x, "classifier/1").relu().mean((2, 3))


def unet(net, x):
    def pair(x, name):
        return net.conv_norm(net.conv_norm(x, name, 0).relu(), name, 3).relu()

    sides = []
    for level in range(2):
        sides.append(pair(x, f"down{level}"))
        x = F.max_pool2d(sides[-1], 2)
    x = pair(x, "bottom")
    for level in (1, 0):
        x = net.conv(x, f"up{level}/enlarge", F.conv_transpose2d, stride=2)
        x = pair(torch.cat([sides[level], x], 1), f"up{level}")
    return net.conv(x, "scores")


def tcn(net, x):
    def causal(x, name, dilation):
        return net.conv(F.pad(x, (2 * dilation, 0)), name, F.conv1d, dilation=dilation).relu()

    for level in range(3):
        name = f"level{level}"
        y = causal(causal(x, f"{name}/0", 2**level), f"{name}/3", 2**level)
        x = (y + (net.conv(x, f"{name}/shortcut", F.conv1d) if level == 0 else x)).relu()
    return net.conv(x, "scores", F.conv1d)


CASES = [
    (alexnet, (3, 95, 64), {"hidden": 16}),
    (vgg11, (3, 33, 32), {"hidden": 16, "batch_norm": True}),
    (resnet18, (3, 33, 18), {}),
    (resnet50, (3, 33, 18), {}),
    (mobilenet_v2, (3, 33, 18), {}),
    (squeezenet, (3, 41, 36), {"version": "1.1"}),
    (unet, (2, 12, 8), {"width": 5, "depth": 2, "batch_norm": True}),
    (tcn, (2, 20), {"filters": 6, "levels": 3, "kernel_size": 3}),
]


@pytest.mark.parametrize(("peer", "shape", "options"), CASES, ids=[peer.__name__ for peer, *_ in CASES])
def test_outputs(peer, shape, options):
    model, rng = getattr(cl.models, peer.__name__)(shape, 5, **options), np.random.default_rng(0)
    for _, layer in model.layers():
        layer.params = {key: array.astype(np.float64) for key, array in layer.params.items()}
        # Statistics, factors and shifts that are not those of a fresh model.
        layer.buffers = {key: rng.uniform(0.5, 1.5, array.shape) for key, array in layer.buffers.items()}
        if layer.buffers:
            layer.params.update({key: rng.uniform(0.5, 1.0, array.shape) for key, array in layer.params.items()})
    x = rng.standard_normal((2, *shape))
    expected = peer(Peer(model), torch.from_numpy(x)).numpy()
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max(), "an output that says nothing"
    y, _ = model.forward(x, training=False)
    scale = np.abs(expected).max()
    assert_close(y / scale, expected / scale, 9 * 512, peer.__name__)
