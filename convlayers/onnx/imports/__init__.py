"""Import: any convolutional network in an ONNX file as a model that can be trained.

reading.py      bytes that nobody vouches for to a checked graph
functions.py    local functions, whole or written out
importer.py     the walk over the operators: each becomes layers, or a constant
folding.py      constants of constants, and shapes
handlers.py     which function reads which operator, and plug-ins' own
merging.py      two operators that are one layer
op.py           what such a function sees
ops/            the functions, a family a file
"""

from .api import import_onnx
from .handlers import available_handlers, handler

__all__ = ["available_handlers", "handler", "import_onnx"]
