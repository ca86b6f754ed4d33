# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Blocks of memory that are kept when they are freed, for arrays that come and go with every training step.

Fresh memory costs a page fault every 4 KiB: writing four fresh arrays took 1.7 to 2.2 times as long as writing four kept
ones. A block belongs to the arrays that are views of it; when the last of them dies it joins the idle blocks, and the next
array of about its size gets it. What is in use is freed as early as reference counts allow, as without the cache.

Blocks in use and idle ones together are at most twice what was asked for at once lately; beyond that, an idle block serves
that is larger than it need be, or else the one that was idle longest is given back. Inference has little in use while it goes
from layer to layer, so a bound by what is in use gave blocks back that the next call took anew: on the page faults
`mobilenet_small` spent a sixteenth of its time, and a network with the sizes of MobileNetV2 a quarter of a single image's.

Large blocks ask for huge pages (Linux): channels lie pages apart, and a kernel that reads one value of each waited for the
translation of addresses longer than it computed.

`empty` and `scratch` are called for every kernel, in between work that fills the caches, so they are compiled too: what
Python takes for a step is mostly waiting for its own code and data.

Compiled with AddressSanitizer (`python tools/dev.py asan`), only the bytes that somebody asked for can be touched: neither
the rest of a block nor a block that lies idle.
"""

import threading

import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free

cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__
    #include <sanitizer/asan_interface.h>
    #else
    #define ASAN_POISON_MEMORY_REGION(start, size) ((void) (start), (void) (size))
    #define ASAN_UNPOISON_MEMORY_REGION(start, size) ((void) (start), (void) (size))
    #endif

    #include <stdlib.h>
    #ifdef __linux__
    #include <sys/mman.h>
    #define HUGE_PAGE ((size_t) 2 << 20)

    static void *allocate(size_t size) {
        void *block;
        if (size < 2 * HUGE_PAGE) return malloc(size);
        if (posix_memalign(&block, HUGE_PAGE, size)) return NULL;
        /* Whole pages alone: what a block has behind its last one stays in small ones. Advice may be refused; no harm done. */
        (void) madvise(block, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
        return block;
    }
    #else
    #define allocate malloc
    #endif
    """
    void* allocate(size_t size)
    void forbid "ASAN_POISON_MEMORY_REGION"(void* start, size_t size)
    void allow "ASAN_UNPOISON_MEMORY_REGION"(void* start, size_t size)

cdef enum:
    SMALL = 32 * 1024           # bytes below which NumPy's own allocation is faster than a block
    MOST_IDLE = 256
    ALIGNMENT = 64              # a cache line, and the widest vector
    SPACING = 128               # two lines, which processors fetch together
    STRETCH = 2048              # blocks asked for: some steps of a usual network; "lately" is one or two stretches

cdef struct Idle:
    void* raw
    size_t size
    Py_ssize_t since            # how many blocks had been asked for

# Guarded by the global interpreter lock: blocks are made and freed by Python objects alone.
cdef Idle[MOST_IDLE] idle
cdef int idle_count = 0
cdef size_t idle_bytes = 0
cdef size_t used_bytes = 0
cdef size_t asked_bytes = 0     # what was asked for when those were given
cdef size_t most_asked = 0      # at once in this stretch
cdef size_t most_before = 0     # and in the one before
cdef Py_ssize_t requests = 0


cdef void* find_idle(size_t* size, bint lasting) noexcept:
    """The idle block that fits best and is not larger than 5/4 of what is wanted; or four times that where a new one would be
    more than may be kept, unless it is wanted for long; NULL if there is none."""
    cdef int i, best = -1
    cdef size_t most = size[0] + size[0] // 4
    if not lasting and used_bytes + idle_bytes + size[0] > most_kept(size[0]):
        most = 4 * size[0]
    for i in range(idle_count):
        if size[0] <= idle[i].size <= most and (best < 0 or idle[i].size < idle[best].size):
            best = i
    if best < 0:
        return NULL
    size[0] = idle[best].size
    return take_idle(best)


cdef void* take_idle(int which) noexcept:
    global idle_count, idle_bytes
    cdef void* raw = idle[which].raw
    idle_bytes -= idle[which].size
    idle_count -= 1
    idle[which] = idle[idle_count]
    return raw


cdef void release_beyond(size_t limit) noexcept:
    """Give idle blocks back, the longest idle first, until all blocks together have at most `limit` bytes."""
    cdef int i, oldest
    while idle_count > 0 and used_bytes + idle_bytes > limit:
        oldest = 0
        for i in range(1, idle_count):
            if idle[i].since < idle[oldest].since:
                oldest = i
        free(take_idle(oldest))


cdef inline size_t most_kept(size_t wanted) noexcept:
    """Bytes of blocks, in use and idle, while as many more are wanted."""
    return 2 * max(most_before, most_asked, asked_bytes + wanted)


cdef void count_request() noexcept:
    global requests, most_asked, most_before
    requests += 1
    if requests % STRETCH == 0:
        most_before, most_asked = most_asked, asked_bytes
        release_beyond(most_kept(0))


cdef class Block:
    """`nbytes` of writable memory on a cache line, as a buffer."""

    cdef void* raw
    cdef size_t size
    cdef Py_ssize_t nbytes

    def __cinit__(self, Py_ssize_t nbytes, bint lasting=False):
        global used_bytes, asked_bytes, most_asked
        self.nbytes = nbytes
        self.size = <size_t> nbytes + ALIGNMENT
        count_request()
        self.raw = find_idle(&self.size, lasting)
        if self.raw == NULL:
            release_beyond(most_kept(self.size) - self.size)
            self.raw = allocate(self.size)
            if self.raw == NULL:
                release_beyond(0)
                self.raw = allocate(self.size)
        if self.raw == NULL:
            raise MemoryError(f"no memory for an array of {nbytes} bytes")
        used_bytes += self.size
        asked_bytes += <size_t> nbytes + ALIGNMENT
        most_asked = max(most_asked, asked_bytes)
        forbid(self.raw, self.size)
        allow(self.aligned(), self.nbytes)

    cdef void* aligned(self) noexcept:
        return <void*> ((<uintptr_t> self.raw + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)

    def __dealloc__(self):
        global idle_count, idle_bytes, used_bytes, asked_bytes
        if self.raw == NULL:
            return
        used_bytes -= self.size
        asked_bytes -= <size_t> self.nbytes + ALIGNMENT
        forbid(self.raw, self.size)
        if idle_count == MOST_IDLE:
            free(self.raw)
            return
        idle[idle_count].raw = self.raw
        idle[idle_count].size = self.size
        idle[idle_count].since = requests
        idle_count += 1
        idle_bytes += self.size

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.aligned(), self.nbytes, 0, flags)


def usage():
    """Bytes in use and bytes idle."""
    return used_bytes, idle_bytes


def release():
    """Give the idle blocks back to the operating system."""
    release_beyond(0)


def lasting(Py_ssize_t nbytes, /):
    """So many bytes, aligned, for what outlives a step; junk under `poisoned()`."""
    array = ndarray(nbytes, uint8, Block(nbytes, True))
    if junk is not None:
        junk(array)
    return array


state = threading.local()       # scratch memory of the thread, by slot
cdef object ndarray = np.ndarray, uint8 = np.uint8
cdef object junk = None


def fill_with(function, /):
    """Let `function(array)` fill what is handed out, None for nobody; returns who did so far."""
    global junk
    before, junk = junk, function
    return before


def empty(tuple shape, dtype, /):
    """An array for a kernel to fill; its contents are undefined, and NaN under `poisoned()`."""
    cdef Py_ssize_t nbytes = dtype.itemsize, size
    for size in shape:
        nbytes *= size
    array = ndarray(shape, dtype) if nbytes < SMALL else ndarray(shape, dtype, Block(nbytes))
    if junk is not None:
        junk(array)
    return array


cdef class Scratch:
    """What a thread keeps under one name; and for how many threads of its kernels, how far apart."""

    cdef Block block
    cdef int threads
    cdef Py_ssize_t pitch


cdef Scratch kept_scratch(object name, Py_ssize_t nbytes):
    """At least `nbytes` of aligned memory, kept for the calling thread and handed out again at its next call."""
    cdef dict names = state.__dict__
    cdef Scratch scratch = names.get(name)
    if scratch is None or scratch.block.nbytes < nbytes or junk is not None:
        scratch = names[name] = Scratch()
        scratch.block = Block(max(nbytes, 1), True)
        if junk is not None:
            junk(ndarray(scratch.block.nbytes, uint8, scratch.block))
    return scratch


cdef char* scratch(Py_ssize_t nbytes, int slot) except NULL:
    """For all threads of a kernel. One that needs two buffers at once takes them from two slots."""
    return <char*> kept_scratch(slot, nbytes).block.aligned()


cdef char* scratch_of_threads(int threads, Py_ssize_t* nbytes) except NULL:
    """So many bytes for each thread of a kernel; `nbytes` becomes the distance from one thread's to the next.

    That only grows, so each thread works where it worked in the kernels before, in lines that its own caches hold. Where every
    kernel parted the same memory anew, a step of `resnet20` took 1.08 times as long on two cores without a common cache.
    """
    cdef Py_ssize_t pitch = nbytes[0] // SPACING * SPACING + SPACING
    cdef Scratch before = state.__dict__.get("threads"), found
    if before is not None and junk is None:
        pitch, threads = max(pitch, before.pitch), max(threads, before.threads)
    found = kept_scratch("threads", threads * pitch)
    found.threads = threads
    nbytes[0] = found.pitch = pitch
    return <char*> found.block.aligned()


# For the kernels, which are modules of their own.
functions = PyCapsule_New(<void*> scratch, NULL, NULL), PyCapsule_New(<void*> scratch_of_threads, NULL, NULL)
