"""The layers, one family a file. `convlayers` finds them through their entry points; the lines below serve type checkers."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .activations import *
    from .adaptive_pooling import *
    from .arithmetic import *
    from .avg_pooling import *
    from .conv import *
    from .conv_transpose import *
    from .dense import *
    from .dropout import *
    from .elementary import *
    from .global_pooling import *
    from .group_normalization import *
    from .indexing import *
    from .initializers import *
    from .joins import *
    from .lp_pooling import *
    from .lrn import *
    from .max_pooling import *
    from .mixed_pooling import *
    from .normalization import *
    from .pad_axes import *
    from .parameter import *
    from .products import *
    from .reductions import *
    from .reshape import *
    from .resize import *
    from .smooth_activations import *
    from .softmax import *
    from .stochastic_pooling import *
    from .upsample import *
