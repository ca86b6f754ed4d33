"""The kernels as functions of arrays: checks them, allocates, calls. The only door to the compiled code.

Arrays go in as anything NumPy can read; they are converted to C-contiguous `float32`, or `float64` where the first
argument is `float64`, and never written to. Integers and half precision become `float32`; complex numbers, strings and
objects are an `ArrayTypeError`. Images are `(N, C, H, W)`.
"""

from ._arrays import as_array
from .batchnorm import BatchNormPass, batch_norm, batch_norm_backward, scale_shift
from .conv import conv2d, conv2d_backward, conv2d_backward_input, conv2d_backward_weight
from .dense import linear, linear_backward_input, linear_backward_weight
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
    avg_pool2d,
    avg_pool2d_backward,
    global_avg_pool2d,
    global_avg_pool2d_backward,
    max_pool2d,
    max_pool2d_backward,
    pool_counts,
)
from .update import adam, rmsprop, sgd

__all__ = [
    "ALGORITHMS",
    "BatchNormPass",
    "adam",
    "add",
    "as_array",
    "avg_pool2d",
    "avg_pool2d_backward",
    "batch_norm",
    "batch_norm_backward",
    "check_algorithm",
    "column_sums",
    "conv2d",
    "conv2d_backward",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "cross_entropy",
    "explain_conv2d",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "linear",
    "linear_backward_input",
    "linear_backward_weight",
    "max_pool2d",
    "max_pool2d_backward",
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
    "tanh",
    "tanh_backward",
]
