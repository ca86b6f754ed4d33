"""Resize and Upsample."""

from typing import Any

import numpy as np

from ....layers.resize import Resize
from ....layers.upsample import Upsample
from ..handlers import handler
from ..op import BATCH, Op
from ..values import Tensor

_INTERPOLATED = {1: "linear", 2: "bilinear", 3: "trilinear"}
# What onnxruntime and PyTorch spread between the first and the last pixel, however many the scales make; by ONNX's text there
# would be part of one behind the last.
_BETWEEN_ENDS = ("align_corners", "tf_crop_and_resize")


def _behind_batch(op: Op, x: Tensor, values: list[Any] | None, one: Any) -> list[Any] | None:
    """One value an axis of a sample; that of the batch must leave it as it is."""
    if values is None:
        return None
    if len(values) != x.rank:
        op.refuse(f"{values} are not one value for each of {x.rank} axes")
    if not op.batch:
        return values
    if values[0] not in one:
        op.refuse("it resizes the batch axis")
    return values[1:]


def _floats(op: Op, name: str, number: int) -> list[float] | None:
    value = op.value(number)
    if value is None:
        return None
    array = op.constant(number, name)
    return [float(v) for v in array.reshape(-1)] or None


def _whole(scales: list[float] | None) -> list[int] | None:
    """Whole scales of an image's axes, None where there is a fraction, or the channels change."""
    if not scales or len(scales) < 2 or scales[0] != 1 or any(s != int(s) or s < 1 for s in scales):
        return None
    return [int(s) for s in scales[1:]]


def _resize(op: Op, scales: list[float] | None, sizes: list[int] | None, roi: Any, options: dict[str, Any]) -> Tensor:
    x = op.tensor(0)
    if sizes is None and scales is None:
        op.refuse("it has neither scales nor sizes")
    if scales and options["coordinate_transformation_mode"] in _BETWEEN_ENDS:
        sizes = [int(np.float32(n) * np.float32(s)) for n, s in zip(x.sample, scales, strict=True)]
        if options["antialias"] and any(n * s != length for n, s, length in zip(x.sample, scales, sizes, strict=True)):
            op.refuse(f"antialias with scales {scales} that leave a part of a pixel; give sizes")
        scales = None
    exact = scales if sizes is None else [n / m for n, m in zip(sizes, x.sample, strict=True)]
    whole = _whole(exact) if op.batch and options["keep_aspect_ratio_policy"] == "stretch" else None
    kind = (options["mode"], options["coordinate_transformation_mode"], options["nearest_mode"])
    if whole and not options["antialias"]:
        if kind in (("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor")):
            return op.layer(Upsample(whole), x)
        if kind[:2] == ("linear", "half_pixel") and len(whole) in _INTERPOLATED:
            return op.layer(Upsample(whole, mode=_INTERPOLATED[len(whole)]), x)
    if exact and exact[0] == 1 and len(exact) > 1:  # the channels stay as they are
        scales, sizes = scales and scales[1:], sizes and sizes[1:]
        roi = roi and [*roi[1 : len(exact)], *roi[len(exact) + 1 :]]
    return op.layer(Resize(scales=None if sizes else scales, sizes=sizes, roi=roi, **options), x)


def _options(op: Op) -> dict[str, Any]:
    options = _given(op)
    kind = (options["mode"], options["coordinate_transformation_mode"], options["nearest_mode"])
    if kind == ("nearest", "tf_half_pixel_for_nn", "floor"):  # opsets 11 and 12: half a pixel further on
        options |= {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    return options


def _given(op: Op) -> dict[str, Any]:
    return {
        "mode": op.get_string("mode", "nearest"),
        "coordinate_transformation_mode": op.get_string("coordinate_transformation_mode", "half_pixel"),
        "nearest_mode": op.get_string("nearest_mode", "round_prefer_floor"),
        "cubic_coeff_a": op.get_float("cubic_coeff_a", -0.75),
        "exclude_outside": bool(op.get_int("exclude_outside", 0)),
        "antialias": bool(op.get_int("antialias", 0)),
        "keep_aspect_ratio_policy": op.get_string("keep_aspect_ratio_policy", "stretch"),
        "extrapolation_value": op.get_float("extrapolation_value", 0.0),
    }


_OLD = {
    "coordinate_transformation_mode": "asymmetric",
    "nearest_mode": "floor",
    "cubic_coeff_a": -0.75,
    "exclude_outside": False,
    "antialias": False,
    "keep_aspect_ratio_policy": "stretch",
    "extrapolation_value": 0.0,
}


def _old(op: Op, scales: list[float] | None) -> Tensor:
    mode = op.get_string("mode", "nearest")
    if mode not in ("nearest", "linear", "bilinear"):
        op.refuse(f"mode {mode!r} is not there")
    found = _behind_batch(op, op.tensor(0), scales, (1,))
    options: dict[str, Any] = {"mode": "linear" if mode == "bilinear" else mode, **_OLD}
    if op.op_type == "Upsample" or mode != "nearest" or not found or min(found) >= 1:
        return _resize(op, found, None, None, options)
    # onnxruntime's Resize of opset 10 takes the next pixel where an axis shrinks, and the one before where it grows.
    smaller = Resize(scales=[min(s, 1.0) for s in found], **{**options, "nearest_mode": "ceil"})
    op.inputs[0] = op.layer(smaller, op.tensor(0), part="smaller")
    return _resize(op, [max(s, 1.0) for s in found], None, None, options)


@handler("Upsample")
def upsample_7(op: Op) -> Tensor:
    scales = op.attributes.get("scales")
    if scales is None:
        scales = [1.0, 1.0, op.get_float("height_scale", 1.0), op.get_float("width_scale", 1.0)]
    return _old(op, [float(np.float32(s)) for s in scales])


@handler("Upsample", since=9)
def upsample_9(op: Op) -> Tensor:
    return _old(op, _floats(op, "scales", 1))


@handler("Resize", since=10)
def resize_10(op: Op) -> Tensor:
    return _old(op, _floats(op, "scales", 1))


@handler("Resize", since=11)
def resize_11(op: Op) -> Tensor:
    x, options = op.tensor(0), _options(op)
    scales, sizes, roi = _floats(op, "scales", 2), op.sizes("sizes", 3), _floats(op, "roi", 1)
    axes = op.get_ints("axes")
    if axes is not None:
        scales, sizes, roi = _every_axis(op, x, axes, scales, sizes, roi)
    crops = options["coordinate_transformation_mode"] == "tf_crop_and_resize"
    if not crops:
        roi = None
    elif roi is not None and op.batch:
        roi = [*roi[1 : x.rank], *roi[x.rank + 1 :]]
    return _resize(
        op,
        _behind_batch(op, x, scales, (1,)),
        _behind_batch(op, x, sizes, (BATCH, op.file_batch, 1)),
        roi,
        options,
    )


def _every_axis(op: Op, x: Tensor, axes: list[int], scales: Any, sizes: Any, roi: Any) -> tuple[Any, Any, Any]:
    """Values for some axes as values for all."""
    count, own = len(axes), [op.file_batch or 1, *x.sample] if op.batch else list(x.sample)
    if any(v is not None and len(v) != n for v, n in ((scales, count), (sizes, count), (roi, 2 * count))):
        op.refuse(f"its scales, sizes and roi are not one value for each of {count} axes")
    places = [a % x.rank for a in axes]

    def spread(values: Any, rest: list[Any]) -> Any:
        if values is None:
            return None
        found = list(rest)
        for place, value in zip(places, values, strict=True):
            found[place] = value
        return found

    wide = None if roi is None else [*spread(roi[:count], [0.0] * x.rank), *spread(roi[count:], [1.0] * x.rank)]
    return spread(scales, [1.0] * x.rank), spread(sizes, own), wide
