# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: nonecheck=False, binding=False
"""The compiled kernels for one instruction set and one data type; see vec.h for what tells the compilations apart.

Shared by all of them: arrays are C-contiguous and of the sizes that `convlayers.functional` has checked; outputs are
written whole; scratch memory comes from `convlayers.kernels.memory`; results do not depend on `threads`.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport parallel, prange, threadid
from libc.math cimport INFINITY, NAN, log, sqrt
from libc.string cimport memcmp, memcpy, memset

from . import _memory, _threads

cdef extern from "shares.h" nogil:
    ctypedef struct Shares "convlayers_shares":
        pass
    int share_count "convlayers_share_count"(int threads)
    Py_ssize_t share_start "convlayers_share_start"(int share, Py_ssize_t units, int threads)
    int share_of "convlayers_share_of"(Py_ssize_t unit, Py_ssize_t units, int threads)
    void share_out "convlayers_share_out"(Shares*, Py_ssize_t units, int threads)
    ctypedef struct Units "convlayers_units":
        Py_ssize_t first
        Py_ssize_t end
    Units next_units "convlayers_next_units"(Shares*, int thread)

cdef extern from "openmp.h" nogil:
    void use_threads "convlayers_use_threads"(void*)
    void wait_for_all "convlayers_wait_for_all"()

use_threads(PyCapsule_GetPointer(_threads.functions, NULL))

include "tile.pxi"
include "kept.pxi"
include "row_tiles.pxi"
include "reduce.pxi"
include "pool.pxi"
include "pool_forward.pxi"
include "gather.pxi"
include "transpose.pxi"
include "gather_tiles.pxi"
include "gather_panels.pxi"
include "gather_ends.pxi"
include "gather_asks.pxi"
include "gather_filters.pxi"
include "gather_pixels.pxi"
include "gather_grids.pxi"
include "gather_columns.pxi"
include "conv.pxi"
include "conv_weight.pxi"
include "winograd_transforms.pxi"
include "winograd_strided.pxi"
include "winograd.pxi"
include "winograd_filters.pxi"
include "winograd_tiles.pxi"
include "winograd_outputs.pxi"
include "winograd_overlap.pxi"
include "winograd_lines.pxi"
include "winograd_weight.pxi"
include "winograd_sums.pxi"
include "winograd_blocks.pxi"
include "winograd_blocks_weight.pxi"
include "phases.pxi"
include "dot.pxi"
include "conv_weight_few.pxi"
include "gemm.pxi"
include "spectra.pxi"
include "pool_squares.pxi"
include "pool_backward.pxi"
include "global_pool.pxi"
include "adaptive_pool.pxi"
include "planes.pxi"
include "batchnorm_blocks.pxi"
include "batchnorm.pxi"
include "batchnorm_vectors.pxi"
include "groupnorm.pxi"
include "depthwise_strip.pxi"
include "depthwise_plan.pxi"
include "depthwise_copy.pxi"
include "depthwise_series.pxi"
include "depthwise_flat.pxi"
include "depthwise_windows.pxi"
include "depthwise_rows.pxi"
include "depthwise_tall.pxi"
include "depthwise_mixed.pxi"
include "depthwise.pxi"
include "depthwise_weight.pxi"
include "depthwise_chain.pxi"
include "pointwise.pxi"
include "activations.pxi"
include "softmax.pxi"
include "loss.pxi"
include "update.pxi"


cdef extern from "vec.h":
    int convlayers_cpu_level()


# Functions of ext/memory.pyx. As Python calls, with a view of what they returned: `digits_cnn`'s step took 1.08 times as long.
ctypedef char* (*Scratch)(Py_ssize_t nbytes, int slot) except NULL
ctypedef char* (*ScratchOfThreads)(int threads, Py_ssize_t* nbytes) except NULL
cdef Scratch _scratch = <Scratch> PyCapsule_GetPointer(_memory.functions[0], NULL)
cdef ScratchOfThreads _scratch_of_threads = <ScratchOfThreads> PyCapsule_GetPointer(_memory.functions[1], NULL)


cdef size_t scratch(Py_ssize_t nbytes, int slot=0) except 0:
    """The address of scratch memory for all threads, without the guards that its last user put between its parts. A second
    slot holds what must not move while the first one grows."""
    cdef char* start = _scratch(nbytes, slot)
    ALLOW(start, nbytes)
    return <size_t> start


cdef char* scratch_of_threads(int threads, Py_ssize_t* nbytes) except NULL:
    """Scratch memory of so many bytes for each thread; `nbytes` becomes the distance from one thread's to the next."""
    cdef Py_ssize_t needed = nbytes[0]
    cdef char* start = _scratch_of_threads(threads, nbytes)
    cdef int i
    if GUARD_BYTES:
        ALLOW(start, threads * nbytes[0])
        for i in range(threads):
            FORBID(start + i * nbytes[0] + needed, nbytes[0] - needed)
    return start


def cpu_level():
    """What the processor and the operating system offer: 2 AVX-512, 1 AVX2 with FMA, 0 neither."""
    return convlayers_cpu_level()


def layout():
    """Values a vector, rows a tile: what decides where the block edges lie."""
    return VL, MR
