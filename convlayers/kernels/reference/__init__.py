"""Every kernel as plain NumPy in float64: the judge of the compiled ones, and where the mathematics is read.

Letters: `N C *size` the input, `M` filters of `*kernel` taps, `*output` the output's size, `g` groups. Functions of windows
serve any number of spatial axes; `win` is a `convlayers.shapes.Window`. Nothing here is optimised.
"""

from .activations import ACTIVATIONS, activation, activation_backward, prelu, prelu_backward, softmax, softmax_backward
from .batchnorm import batch_norm_backward, batch_norm_forward, moments
from .conv import conv_backward_input, conv_backward_weight, conv_forward
from .groupnorm import group_norm_backward, group_norm_forward, layer_norm_backward, layer_norm_forward
from .loss import cross_entropy
from .pointwise import add, column_sums, gemm, multiply, multiply_backward, relu_backward, relu_forward
from .pool import (
    adaptive_avg_pool_backward,
    adaptive_avg_pool_forward,
    adaptive_max_pool_backward,
    adaptive_max_pool_forward,
    avg_pool_backward,
    avg_pool_forward,
    expected_pool_backward,
    expected_pool_forward,
    global_avg_pool_backward,
    global_avg_pool_forward,
    global_max_pool_backward,
    global_max_pool_forward,
    lp_pool_backward,
    lp_pool_forward,
    max_pool_backward,
    max_pool_forward,
    pool_counts,
    stochastic_pool_forward,
)
from .shape import pad, pad_backward, upsample, upsample_backward
from .windows import fold, patches
