# Sums over a vector's lanes, and vectors of which only some lanes are in use.

cdef extern from "vec.h" nogil:
    vf vclip_gradient(vf, vf, vf)


cdef inline double lane_sum(vf v) noexcept nogil:
    """The sum of a vector's lanes, in double and in their order."""
    cdef real lanes[VL]
    cdef double total = 0
    cdef Py_ssize_t j
    store(lanes, v)
    for j in range(VL):
        total += lanes[j]
    return total


cdef inline vf load_part(const real* p, Py_ssize_t count, real rest) noexcept nogil:
    """The first `count` lanes from p, `rest` in the others."""
    cdef real lanes[VL]
    cdef Py_ssize_t j
    for j in range(VL):
        lanes[j] = p[j] if j < count else rest
    return load(lanes)


cdef inline void store_part(real* p, Py_ssize_t count, vf v) noexcept nogil:
    """The first `count` lanes to p."""
    cdef real lanes[VL]
    cdef Py_ssize_t j
    store(lanes, v)
    for j in range(count):
        p[j] = lanes[j]


cdef inline real sum_lanes(const real* values) noexcept nogil:
    cdef real total = values[0]
    cdef int i
    for i in range(1, VL):
        total = total + values[i]
    return total


cdef inline vf neighbours_sum(const real* src, Py_ssize_t count) noexcept nogil:
    """VL sums over neighbours: four vectors at a time, since additions to one sum wait for each other."""
    cdef vf a = splat(0), b = splat(0), c = splat(0), d = splat(0)
    cdef Py_ssize_t j = 0
    while j + 4 * VL <= count:
        a = a + load(src + j)
        b = b + load(src + j + VL)
        c = c + load(src + j + 2 * VL)
        d = d + load(src + j + 3 * VL)
        j += 4 * VL
    while j + VL <= count:
        a = a + load(src + j)
        j += VL
    if j < count:
        b = b + (last_lanes(load(src + count - VL), count - j) if count > VL else load_part(src, count, 0))
    return (a + b) + (c + d)


cdef enum:
    SUMMED_IMAGES = 32          # before their lanes are added: lanes of one image alone took most of the time with 4 x 4 pixels


cdef real channel_sum(const real* x, Py_ssize_t images, Py_ssize_t stride, Py_ssize_t area) noexcept nogil:
    """The sum of one channel, in double precision across groups of images."""
    cdef double total = 0
    cdef Py_ssize_t n
    cdef vf lanes = splat(0)
    for n in range(images):
        lanes = lanes + neighbours_sum(x + n * stride, area)
        if n % SUMMED_IMAGES == SUMMED_IMAGES - 1:
            total += lane_sum(lanes)
            lanes = splat(0)
    return <real> (total + lane_sum(lanes))


def channel_sums(const real[:, :, ::1] x, real[::1] sums, int threads, /):
    """Fill sums (C,) with those of x (N, C, area): the gradient of a convolution's bias."""
    cdef Py_ssize_t u, channels = x.shape[1], area = x.shape[2]
    for u in prange(channels, schedule="static", nogil=True, num_threads=threads):
        sums[u] = channel_sum(&x[0, u, 0], x.shape[0], channels * area, area)
