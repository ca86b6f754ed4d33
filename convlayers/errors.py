"""Every error that convlayers raises on purpose.

Each is a `ConvlayersError` and also the built-in exception that fits, so `except ValueError` works for a caller who
has never heard of this package. Messages say the rule, the value and the place.
"""


class ConvlayersError(Exception):
    """The base of all errors of this package."""


def located(error: ConvlayersError, place: str) -> ConvlayersError:
    """The same error with the place where it happened in front: `Conv2d "conv1": kernel 5x5 does not fit ...`."""
    return type(error)(f"{place}: {error}")


class ShapeError(ConvlayersError, ValueError):
    """Sizes that do not fit together: a rank, a channel count, a kernel larger than its input."""


class ConfigError(ConvlayersError, ValueError):
    """An argument whose value breaks a rule: a negative padding, an unknown algorithm, a probability over 1."""


class ArrayTypeError(ConvlayersError, TypeError):
    """An array, or an argument, of a kind that cannot be used: complex numbers, strings, objects."""


class DataError(ConvlayersError, ValueError):
    """Data that training or evaluation cannot use: NaN, labels out of range, no samples."""


class NotFiniteError(ConvlayersError, ArithmeticError):
    """A loss that is NaN or infinite; the message names the epoch, the batch and the layer where it began."""


class FileFormatError(ConvlayersError, ValueError):
    """A file that is truncated, corrupt, or not of the format that it should have."""


class FileAccessError(ConvlayersError, OSError):
    """A file that cannot be read or written: a missing folder, no permission, a full disk."""


class RegistryError(ConvlayersError, ValueError):
    """An id with two owners, or a registration that breaks a rule."""


class LayerNotFoundError(ConvlayersError, KeyError):
    """No installed distribution and no running program registers this id."""

    # KeyError shows the repr of its argument; these messages are sentences.
    __str__ = Exception.__str__


class PluginError(ConvlayersError, ImportError):
    """A plug-in that could not be imported; the message names its distribution."""


class MissingDependencyError(ConvlayersError, ImportError):
    """An optional package is needed for what was asked; the message says how to install it."""


class ExportError(ConvlayersError, ValueError):
    """A model that cannot be written as ONNX, or an ONNX file that fails its checks."""


class OnnxImportError(ConvlayersError, ValueError):
    """A sound ONNX file that cannot become a model; the message lists every operator in the way."""


class ExportMismatchError(ExportError):
    """onnxruntime and the model disagree; the message names the first layer whose output differs."""
