"""The layers, one family a file. `convlayers` finds them through their entry points; the lines below serve type checkers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .activations import *
    from .conv import *
    from .dense import *
    from .dropout import *
    from .joins import *
    from .normalization import *
    from .pooling import *
