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
from libc.string cimport memset

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

    #ifdef _MSC_VER
    static __declspec(thread) void *scratch_here, *arena_here;
    #else
    static __thread void *scratch_here, *arena_here;
    #endif
    """
    void* allocate(size_t size)
    void forbid "ASAN_POISON_MEMORY_REGION"(void* start, size_t size)
    void allow "ASAN_UNPOISON_MEMORY_REGION"(void* start, size_t size)
    void* scratch_here          # the calling thread's; NULL before its first kernel
    void* arena_here            # which the calling thread's arrays come from; NULL for the idle blocks

cdef enum:
    SMALL = 32 * 1024           # bytes below which NumPy's own allocation is faster than a block
    MOST_IDLE = 256
    ALIGNMENT = 64              # a cache line, and the widest vector
    SPACING = 128               # two lines, which processors fetch together
    STRETCH = 2048              # blocks asked for: some steps of a usual network; "lately" is one or two stretches

cpdef enum:
    JUNK = 0xFF                 # NaN in either type, so that a sum of what nobody wrote shows; a small number would not

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


cdef struct Memory:
    void* raw
    size_t size
    Py_ssize_t nbytes           # what was asked for


cdef void* aligned(const Memory* memory) noexcept:
    return <void*> ((<uintptr_t> memory.raw + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)


cdef int take(Memory* memory, Py_ssize_t nbytes, bint lasting) except -1:
    """So many bytes, on a cache line. Makes no Python object, so no garbage is collected meanwhile."""
    global used_bytes, asked_bytes, most_asked
    cdef size_t size = <size_t> nbytes + ALIGNMENT
    count_request()
    cdef void* raw = find_idle(&size, lasting)
    if raw == NULL:
        release_beyond(most_kept(size) - size)
        raw = allocate(size)
        if raw == NULL:
            release_beyond(0)
            raw = allocate(size)
    if raw == NULL:
        raise MemoryError(f"no memory for an array of {nbytes} bytes")
    memory.raw, memory.size, memory.nbytes = raw, size, nbytes
    used_bytes += size
    asked_bytes += <size_t> nbytes + ALIGNMENT
    most_asked = max(most_asked, asked_bytes)
    forbid(raw, size)
    allow(aligned(memory), nbytes)
    return 0


cdef void give(Memory* memory) noexcept:
    """To the idle blocks, if there is one to give."""
    global idle_count, idle_bytes, used_bytes, asked_bytes
    cdef void* raw = memory.raw
    memory.raw = NULL
    if raw == NULL:
        return
    used_bytes -= memory.size
    asked_bytes -= <size_t> memory.nbytes + ALIGNMENT
    forbid(raw, memory.size)
    if idle_count == MOST_IDLE:
        free(raw)
        return
    idle[idle_count].raw = raw
    idle[idle_count].size = memory.size
    idle[idle_count].since = requests
    idle_count += 1
    idle_bytes += memory.size


cdef class Block:
    """`nbytes` of writable memory on a cache line, as a buffer."""

    cdef Memory memory

    def __cinit__(self, Py_ssize_t nbytes, bint lasting=False):
        take(&self.memory, nbytes, lasting)

    def __dealloc__(self):
        give(&self.memory)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, aligned(&self.memory), self.memory.nbytes, 0, flags)


def use(arena, /):
    """Whose `empty(shape, dtype)` gives the calling thread's arrays now (kernels/arena.py), or None; returns who did before.
    Whoever calls keeps the arena as long as it is in use."""
    global arena_here
    before = None if arena_here == NULL else <object> arena_here
    arena_here = NULL if arena is None else <void*> arena
    return before


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
    if arena_here != NULL:
        array = (<object> arena_here).empty(shape, dtype)
    else:
        array = ndarray(shape, dtype) if nbytes < SMALL else ndarray(shape, dtype, Block(nbytes))
    if junk is not None:
        junk(array)
    return array


cdef enum:
    SLOTS = 2                   # for all threads of a kernel
    OF_THREADS = SLOTS


cdef class Scratch:
    """What a thread keeps for its kernels; given back when the thread ends."""

    cdef Memory memory[SLOTS + 1]
    cdef int threads            # how many threads of its kernels have memory of their own
    cdef Py_ssize_t pitch       # how far apart

    def __dealloc__(self):
        global scratch_here
        cdef int i
        if scratch_here == <void*> self:
            scratch_here = NULL
        for i in range(SLOTS + 1):
            give(&self.memory[i])


state = threading.local()       # holds what `scratch_here` borrows


cdef Scratch kept_scratch():
    if scratch_here == NULL:
        hold_scratch()
    return <Scratch> scratch_here


cdef int hold_scratch() except -1:
    """A collection of garbage may run kernels here, before the caller has any memory; never later."""
    global scratch_here
    cdef Scratch made = Scratch()
    state.scratch = made
    scratch_here = <void*> made
    return 0


cdef char* at_least(Memory* memory, Py_ssize_t nbytes) except NULL:
    """Memory that is kept for the calling thread and handed out again at its next call.

    Kernels hold its bare address. Were it, or what owns it, a new Python object, making that could start a collection of
    garbage and a finalizer that computes; its kernels would replace what the interrupted one already had.
    """
    if memory.raw == NULL or memory.nbytes < nbytes or junk is not None:
        give(memory)
        take(memory, max(nbytes, 1), True)
        if junk is not None:
            memset(aligned(memory), JUNK, memory.nbytes)
    return <char*> aligned(memory)


cdef char* scratch(Py_ssize_t nbytes, int slot) except NULL:
    """For all threads of a kernel. One that needs two buffers at once takes them from two slots."""
    return at_least(&kept_scratch().memory[slot], nbytes)


cdef char* scratch_of_threads(int threads, Py_ssize_t* nbytes) except NULL:
    """So many bytes for each thread of a kernel; `nbytes` becomes the distance from one thread's to the next.

    That only grows, so each thread works where it worked in the kernels before, in lines that its own caches hold. Where every
    kernel parted the same memory anew, a step of `resnet20` took 1.08 times as long on two cores without a common cache.
    """
    cdef Scratch kept = kept_scratch()
    cdef Py_ssize_t pitch = nbytes[0] // SPACING * SPACING + SPACING
    if junk is None:
        pitch, threads = max(pitch, kept.pitch), max(threads, kept.threads)
    cdef char* start = at_least(&kept.memory[OF_THREADS], threads * pitch)
    kept.threads = threads
    nbytes[0] = kept.pitch = pitch
    return start


# For the kernels, which are modules of their own.
functions = PyCapsule_New(<void*> scratch, NULL, NULL), PyCapsule_New(<void*> scratch_of_threads, NULL, NULL)
