"""Images of any size: a model at other sizes, and which axes of its values follow the image's."""

from collections.abc import Sequence

from ..errors import ConvlayersError, ExportError
from ..layer import Shape
from ..model import Model
from .rewiring import rewired

# By the number of spatial axes.
_SYMBOLS = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}
# What is added to the image's axes, the second time to the first axis and so on. The small ones come first; a network that
# halves its images and joins them again takes multiples of a power of two alone.
_MORE = (1, 2, 4, 8, 16, 32, 64)


def resized_models(model: Model) -> list[Model]:
    """The same layers at two other sizes, larger, of another proportion.

    Raises `ExportError` with the first layer that fixes the size.
    """
    if not any(len(shape) - 1 in _SYMBOLS for shape in model.input_shapes):
        raise ExportError(f"dynamic_image needs an input with one to three axes behind the channels; got {model.input_shapes}")
    found: list[Model] = []
    for more in _MORE:
        try:
            found.append(_resized(model, more))
        except ConvlayersError as error:
            reason = error
        if len(found) == 2:
            return found
    raise ExportError(f"dynamic_image: the network takes images of one size, since {reason}") from reason


def _resized(model: Model, more: int) -> Model:
    shapes = [
        (shape[0], *(n + more * (axis + 1) for axis, n in enumerate(shape[1:]))) if len(shape) - 1 in _SYMBOLS else shape
        for shape in model.input_shapes
    ]
    return rewired(model, shapes)


def open_axes(model: Model, resized: Sequence[Model]) -> dict[str, tuple[int | str | None, ...]]:
    """What an exported file says of each value's axes behind the batch, by the value's name in the model.

    Inputs of one size have the same symbols, `height` and `width`; those of a second size `height_2` and so on.
    """
    others = [dict(zip(other.value_names, other.value_shapes, strict=True)) for other in resized]
    axes: dict[str, tuple[int | str | None, ...]] = {}
    for name, shape in zip(model.value_names, model.value_shapes, strict=True):
        differs = [any(other[name][axis] != size for other in others) for axis, size in enumerate(shape)]
        axes[name] = tuple(None if d else size for d, size in zip(differs, shape, strict=True))
    sizes: list[Shape] = []
    for name, shape in zip(model.input_names, model.input_shapes, strict=True):
        size = tuple(n for n, axis in zip(shape, axes[name], strict=True) if axis is None)
        if size:
            sizes += [size] if size not in sizes else []
            behind = f"_{sizes.index(size) + 1}" if sizes.index(size) else ""
            symbols = iter(_SYMBOLS[len(size)])
            axes[name] = tuple(next(symbols) + behind if axis is None else axis for axis in axes[name])
    return axes
