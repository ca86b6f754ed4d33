# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Blocks of memory that are kept when they are freed, for arrays that come and go with every training step.

Fresh memory costs a page fault every 4 KiB: writing four fresh arrays took 1.7 to 2.2 times as long as writing four kept
ones. A block belongs to the arrays that are views of it; when the last of them dies it joins the idle blocks, and the next
array of about its size gets it. What is in use is freed as early as reference counts allow, as without the cache.

Blocks in use and idle ones together are at most twice what was in use at once lately; beyond that, the block that was idle
longest is given back. Inference has little in use while it goes from layer to layer, so a bound by what is in use gave
blocks back that the next call took anew: on the page faults `mobilenet_small` spent a sixteenth of its time.

Large blocks ask for huge pages (Linux): channels lie pages apart, and a kernel that reads one value of each waited for the
translation of addresses longer than it computed.

Compiled with AddressSanitizer (`python tools/dev.py asan`), only the bytes that somebody asked for can be touched: neither
the rest of a block nor a block that lies idle.
"""

from cpython.buffer cimport PyBuffer_FillInfo
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
    MOST_IDLE = 256
    ALIGNMENT = 64              # a cache line, and the widest vector
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
cdef size_t most_used = 0       # at once in this stretch
cdef size_t most_before = 0     # and in the one before
cdef Py_ssize_t requests = 0


cdef void* find_idle(size_t* size) noexcept:
    """The idle block that fits best and is not larger than 5/4 of what is wanted; NULL if there is none."""
    cdef int i, best = -1
    for i in range(idle_count):
        if size[0] <= idle[i].size <= size[0] + size[0] // 4 and (best < 0 or idle[i].size < idle[best].size):
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


cdef void count_request() noexcept:
    global requests, most_used, most_before
    requests += 1
    if requests % STRETCH == 0:
        most_before, most_used = most_used, used_bytes
        release_beyond(2 * max(most_before, most_used))


cdef class Block:
    """`nbytes` of writable memory on a cache line, as a buffer."""

    cdef void* raw
    cdef size_t size
    cdef Py_ssize_t nbytes

    def __cinit__(self, Py_ssize_t nbytes):
        global used_bytes, most_used
        self.nbytes = nbytes
        self.size = <size_t> nbytes + ALIGNMENT
        count_request()
        self.raw = find_idle(&self.size)
        if self.raw == NULL:
            release_beyond(2 * max(most_before, most_used, used_bytes + self.size) - self.size)
            self.raw = allocate(self.size)
            if self.raw == NULL:
                release_beyond(0)
                self.raw = allocate(self.size)
        if self.raw == NULL:
            raise MemoryError(f"no memory for an array of {nbytes} bytes")
        used_bytes += self.size
        most_used = max(most_used, used_bytes)
        forbid(self.raw, self.size)
        allow(self.aligned(), self.nbytes)

    cdef void* aligned(self) noexcept:
        return <void*> ((<uintptr_t> self.raw + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT)

    def __dealloc__(self):
        global idle_count, idle_bytes, used_bytes
        if self.raw == NULL:
            return
        used_bytes -= self.size
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
