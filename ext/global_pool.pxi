# Global average pooling: y = (1/A) sum of a plane's A values, dx = dy / A for each of them.
#
# x, dx (planes, A), y, dy (planes,). A plane belongs to one thread and is added up in one order.

cdef void plane_mean(const real* x, Py_ssize_t area, real* y) noexcept nogil:
    cdef vf sums[4]
    cdef Py_ssize_t j = 0
    cdef int i
    for i in range(4):
        sums[i] = splat(0)
    while j + 4 * VL <= area:
        for i in range(4):
            sums[i] = sums[i] + load(x + j + i * VL)
        j += 4 * VL
    while j + VL <= area:
        sums[0] = sums[0] + load(x + j)
        j += VL
    if j < area:
        sums[1] = sums[1] + load_part(x + j, area - j, 0)
    y[0] = <real> (lane_sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / area)


def global_avg_pool_forward(const real[:, ::1] x, real[::1] y, int threads, /):
    """Fill y with the means of the planes."""
    cdef Py_ssize_t u
    for u in prange(x.shape[0], schedule="static", nogil=True, num_threads=threads):
        plane_mean(&x[u, 0], x.shape[1], &y[u])


def global_avg_pool_backward(const real[::1] dy, real[:, ::1] dx, int threads, /):
    """Fill dx: each dy over the plane's size, to every pixel."""
    cdef Py_ssize_t u, j, area = dx.shape[1]
    cdef real share
    for u in prange(dx.shape[0], schedule="static", nogil=True, num_threads=threads):
        share = dy[u] / area
        for j in range(area):
            dx[u, j] = share
