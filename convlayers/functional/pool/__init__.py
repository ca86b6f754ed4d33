"""Pooling as functions of arrays `(N, C, *size)`, each with its gradient."""

from .adaptive import (
    adaptive_avg_pool,
    adaptive_avg_pool_backward,
    adaptive_counts,
    adaptive_max_pool,
    adaptive_max_pool_backward,
    adaptive_taps,
)
from .lp import lp_pool, lp_pool_backward
from .plane import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward, pool_counts
from .stochastic import expected_pool, expected_pool_backward, stochastic_pool, stochastic_pool_backward
from .whole import global_avg_pool, global_avg_pool_backward, global_max_pool, global_max_pool_backward
from .windows import Index, avg_pool, avg_pool_backward, max_pool, max_pool_backward, min_pool
