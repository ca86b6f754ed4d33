# Where the planes of an array lie, (images, channels, pixels): whole arrays in memory, and a few channels of all images in
# scratch memory, which the second-level cache holds while a kernel goes over them several times. There they lie side by side.
# In an array they may lie powers of two apart and push each other out of the caches, and planes shorter than a page begin
# before the processor foresees them: several channels are moved at a time.

cdef extern from "vec.h" nogil:
    void copy_out "convlayers_copy_out"(void* dst, const void* src, Py_ssize_t nbytes)
    void fence "convlayers_fence"()


cdef enum:
    RUN_VALUES = 1024           # that are moved in one piece, where planes are smaller: a page of float32


cdef struct Planes "convlayers_planes":
    real* start
    Py_ssize_t image            # from one image to the next
    Py_ssize_t channel          # and from channel to channel


cdef inline Planes planes(const real* start, Py_ssize_t channels, Py_ssize_t area) noexcept nogil:
    """Those of a whole array."""
    cdef Planes p
    p.start, p.image, p.channel = <real*> start, channels * area, area
    return p


cdef inline Py_ssize_t scratch_image(Py_ssize_t channels, Py_ssize_t area) noexcept nogil:
    """From image to image in scratch memory: a line of the cache more than the planes take."""
    return channels * area + CACHE_LINE


cdef inline Planes scratch_planes(real* start, Py_ssize_t first, Py_ssize_t channels, Py_ssize_t area) noexcept nogil:
    """Those of `channels` channels from `first` on, which `plane` calls by their own numbers."""
    cdef Planes p
    p.start, p.image, p.channel = start - first * area, scratch_image(channels, area), area
    return p


cdef inline Py_ssize_t scratch_room(Py_ssize_t images, Py_ssize_t channels, Py_ssize_t area) noexcept nogil:
    """Bytes for them, with a vector to spare that may be read."""
    return row_bytes(images * scratch_image(channels, area) + VL)


cdef inline Py_ssize_t least_second_level() noexcept nogil:
    return max(second_level(), 1 << 20)


cdef Py_ssize_t channels_together(
    Py_ssize_t images, Py_ssize_t channels, Py_ssize_t area, int rooms, int threads
) noexcept nogil:
    """How many channels to take at once, so that each thread gets some and `rooms` rooms for them fit the second-level cache
    where one channel does. No result depends on it."""
    cdef Py_ssize_t most = least_second_level() * 7 // 8 // (rooms * scratch_room(images, 1, area))
    return max(1, min(min(most, RUN_VALUES // area), channels // (2 * threads)))


cdef inline real* plane(Planes* p, Py_ssize_t n, Py_ssize_t c) noexcept nogil:
    return p.start + n * p.image + c * p.channel


cdef void move_planes(
    Planes* src, Planes* dst, Py_ssize_t first, Py_ssize_t channels, Py_ssize_t images, Py_ssize_t area
) noexcept nogil:
    """A few channels of all images, while those of the next image are asked for: with calls of memcpy, which begin with the
    first lines of each, a step of `mobilenet_small` took 1.01 times as long (Zen 5)."""
    cdef Py_ssize_t n, j, count = channels * area
    cdef const real* source
    cdef const real* ahead
    cdef real* to
    for n in range(images):
        source, ahead, to = plane(src, n, first), plane(src, min(n + 1, images - 1), first), plane(dst, n, first)
        for j in range(count // VL):
            prefetch_line(ahead + j * VL, 0)
            store(to + j * VL, load(source + j * VL))
        for j in range(count // VL * VL, count):
            to[j] = source[j]


cdef void keep_planes(
    Planes* src, Planes* dst, Py_ssize_t first, Py_ssize_t channels, Py_ssize_t images, Py_ssize_t area
) noexcept nogil:
    """The same, to an array that nobody reads before the backward pass: past the caches where they would not hold it."""
    cdef Py_ssize_t n, nbytes = channels * area * <Py_ssize_t> sizeof(real)
    if images * dst.image * <Py_ssize_t> sizeof(real) < least_second_level():
        move_planes(src, dst, first, channels, images, area)
        return
    for n in range(images):
        copy_out(plane(dst, n, first), plane(src, n, first), nbytes)
    fence()
