"""The kernels as functions of arrays: checks them, allocates, calls. The only door to the compiled code.

Arrays go in as anything NumPy can read; they are converted to C-contiguous `float32`, or `float64` where the first
argument is `float64`, and never written to. Integers and half precision become `float32`; complex numbers, strings and
objects are an `ArrayTypeError`. Images are `(N, C, H, W)`.
"""

from ._arrays import as_array
from .batchnorm import BatchNormPass, batch_norm, batch_norm_backward, scale_shift
from .conv import conv2d, conv2d_backward, conv2d_backward_input, conv2d_backward_weight
from .dense import linear, linear_backward_input, linear_backward_weight
from .dropout import dropout_factors
from .join import concat, multiply, multiply_backward, split
from .loss import cross_entropy
from .plan import ALGORITHMS, check_algorithm, explain_conv2d
from .pointwise import (
    add,
    column_sums,
    relu,
    relu_backward,
    sigmoid,
    sigmoid_backward,
    softmax,
    softmax_backward,
    tanh,
    tanh_backward,
)
from .pool import (
    adaptive_avg_pool,
    adaptive_avg_pool_backward,
    adaptive_counts,
    adaptive_max_pool,
    adaptive_max_pool_backward,
    adaptive_taps,
    avg_pool,
    avg_pool2d,
    avg_pool2d_backward,
    avg_pool_backward,
    expected_pool,
    expected_pool_backward,
    global_avg_pool,
    global_avg_pool_backward,
    global_max_pool,
    global_max_pool_backward,
    lp_pool,
    lp_pool_backward,
    max_pool,
    max_pool2d,
    max_pool2d_backward,
    max_pool_backward,
    min_pool,
    pool_counts,
    stochastic_pool,
    stochastic_pool_backward,
)
from .rearrange import PAD_MODES, pad, pad_backward, permute
from .update import adam, rmsprop, sgd
from .upsample import interpolation, upsample, upsample_backward

__all__ = [
    "ALGORITHMS",
    "PAD_MODES",
    "BatchNormPass",
    "adam",
    "adaptive_avg_pool",
    "adaptive_avg_pool_backward",
    "adaptive_counts",
    "adaptive_max_pool",
    "adaptive_max_pool_backward",
    "adaptive_taps",
    "add",
    "as_array",
    "avg_pool",
    "avg_pool2d",
    "avg_pool2d_backward",
    "avg_pool_backward",
    "batch_norm",
    "batch_norm_backward",
    "check_algorithm",
    "column_sums",
    "concat",
    "conv2d",
    "conv2d_backward",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "cross_entropy",
    "dropout_factors",
    "expected_pool",
    "expected_pool_backward",
    "explain_conv2d",
    "global_avg_pool",
    "global_avg_pool_backward",
    "global_max_pool",
    "global_max_pool_backward",
    "interpolation",
    "linear",
    "linear_backward_input",
    "linear_backward_weight",
    "lp_pool",
    "lp_pool_backward",
    "max_pool",
    "max_pool2d",
    "max_pool2d_backward",
    "max_pool_backward",
    "min_pool",
    "multiply",
    "multiply_backward",
    "pad",
    "pad_backward",
    "permute",
    "pool_counts",
    "relu",
    "relu_backward",
    "rmsprop",
    "scale_shift",
    "sgd",
    "sigmoid",
    "sigmoid_backward",
    "softmax",
    "softmax_backward",
    "split",
    "stochastic_pool",
    "stochastic_pool_backward",
    "tanh",
    "tanh_backward",
    "upsample",
    "upsample_backward",
]
