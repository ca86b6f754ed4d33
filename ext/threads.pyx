# cython: language_level=3
"""The threads that all kernels of a process compute on (pool.h); elsewhere the compiler's OpenMP runtime has them."""

from cpython.pycapsule cimport PyCapsule_New

cdef extern from "pool.h" nogil:
    """
    #if CONVLAYERS_OWN_THREADS
    #define started() atomic_load(&worker_count)
    #define limit_workers(most) atomic_store(&worker_limit, most)
    #define set_cores(count) (cores = (count))
    #else
    static char convlayers_nothing;
    #define open_pool() (&convlayers_nothing)
    #define started() 0
    #define limit_workers(most) ((void) (most))
    #define set_cores(count) ((void) (count))
    #define CONVLAYERS_MOST_WORKERS 0
    #endif
    """
    const void* open_pool()
    int started()
    void limit_workers(int most)
    void set_cores(int count)
    int MOST_WORKERS "CONVLAYERS_MOST_WORKERS"
    bint OWN_THREADS "CONVLAYERS_OWN_THREADS"


functions = PyCapsule_New(<void*> open_pool(), NULL, NULL)
own = OWN_THREADS


def share_out(int cores, /):
    """So many processors are what threads of Python that compute at once have together."""
    set_cores(cores)


def workers():
    """Threads that were started so far, beside the program's own."""
    return started()


def at_most(most=None, /):
    """Let kernels use so many threads beside the calling one, or as many as they ask for: for tests."""
    limit_workers(MOST_WORKERS if most is None else most)
