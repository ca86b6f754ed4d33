# Global average pooling: y = (1/A) sum of a plane's A values, dx = dy / A for each of them.
#
# x, dx (planes, A), y, dy (planes,). A plane belongs to one thread and is added up in one order; lanes are added for VL planes
# at once, which one by one took most of the time with 8 x 8 pixels.

cdef void plane_means(const real* x, Py_ssize_t planes, Py_ssize_t area, real* y) noexcept nogil:
    """Of up to VL planes."""
    cdef vf sums[VL]
    cdef real totals[VL]
    cdef Py_ssize_t u
    for u in range(planes):
        sums[u] = neighbours_sum(x + u * area, area)
    lane_sums(sums, <int> planes, totals)
    for u in range(planes):
        y[u] = totals[u] / area


def global_avg_pool_forward(const real[:, ::1] x, real[::1] y, int threads, /):
    """Fill y with the means of the planes."""
    cdef Py_ssize_t u, planes = x.shape[0]
    for u in prange((planes + VL - 1) // VL, schedule="static", nogil=True, num_threads=threads):
        plane_means(&x[u * VL, 0], min(<Py_ssize_t> VL, planes - u * VL), x.shape[1], &y[u * VL])


def global_avg_pool_backward(const real[::1] dy, real[:, ::1] dx, int threads, /):
    """Fill dx: each dy over the plane's size, to every pixel."""
    cdef Py_ssize_t u, j, area = dx.shape[1]
    cdef real share
    for u in prange(dx.shape[0], schedule="static", nogil=True, num_threads=threads):
        share = dy[u] / area
        for j in range(area):
            dx[u, j] = share
