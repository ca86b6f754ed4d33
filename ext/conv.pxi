# 2-d convolution, forward and input gradient, as gathers (see gather.pxi).
#
#     y[n,m,p,q]  = b[m] + sum_crs x[n,c, p s + r d - pad, q s + s' d - pad] w[m,c,r,s']
#     dx[n,c,h,w] = sum_mrs' dy[n,m,p,q] w[m,c,r,s']     over all with h = p s + r d - pad, w = q s + s' d - pad
#
# x (N,C,H,W), w (M,C/g,R,S), b (M,) or empty, y (N,M,P,Q). Forward is one gather, the input gradient one for each sub-grid
# of dx: they share the padded copy of a block, and where every second column is another sub-grid's, their outputs are computed
# side by side and then interleaved. Written one after the other, every value has a store of its own.

cdef inline bint is_plain(Py_ssize_t taps, Py_ssize_t strides, Py_ssize_t inputs, Py_ssize_t outputs) noexcept nogil:
    """Whether a 1 x 1 kernel reads the source where it lies: nothing skipped, nothing padded, a vector at least."""
    return taps == 1 and strides == 1 and inputs == outputs and outputs >= VL


def conv2d_forward(
    const real[:, :, :, ::1] x, const real[:, :, :, ::1] w, const real[::1] bias, real[:, :, :, ::1] y,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int groups,
    bint relu, int threads, /,
):
    """Fill y with the convolution of x and w, plus the bias unless it is empty, rectified if `relu`."""
    cdef Grids g
    cdef Gather* grid
    cdef Py_ssize_t kh = w.shape[2], kw = w.shape[3], height = x.shape[2], width = x.shape[3], p = y.shape[2], q = y.shape[3]
    cdef unsigned char[::1] tables
    g.plain = is_plain(kh * kw, stride_h * stride_w, height * width, p * q) and p == height
    g.parted, g.count, g.columns = False, 1, 1
    tables = _scratch(grids_memory(&g, kh, kw, 0), 1)
    grids_memory(&g, kh, kw, <size_t> &tables[0])
    if g.plain:
        height, width, p, q = 1, height * width, 1, p * q
    grid = g.grid
    forward_axis(&grid.rows, height, p, kh, stride_h, dilation_h, top)
    forward_axis(&grid.cols, width, q, kw, stride_w, dilation_w, left)
    grid.images, grid.groups, grid.channels, grid.filters = x.shape[0], groups, w.shape[1], w.shape[0] // groups
    grid.bias, grid.relu, grid.mode = &bias[0] if bias.shape[0] else NULL, relu, PLAIN if g.plain else ROWS
    g.src, g.dst, g.height, g.width = &x[0, 0, 0, 0], &y[0, 0, 0, 0], p, q
    gather(&g, &w[0, 0, 0, 0], grid.channels * kh * kw, kh * kw, kw, threads)


cdef void rest_axis(Axis* axis) noexcept nogil:
    """Outputs side by side in a part of their own, instead of a stride apart in the destination."""
    axis.first, axis.stride = 0, 1


def conv2d_backward_input(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] w, real[:, :, :, ::1] dx,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int groups, int threads, /,
):
    """Fill dx with the gradient with respect to the input: a gather from dy for each sub-grid of dx."""
    cdef Grids g
    cdef Gather* grid
    cdef Py_ssize_t kh = w.shape[2], kw = w.shape[3], height = dx.shape[2], width = dx.shape[3], j
    cdef Py_ssize_t p = dy.shape[2], q = dy.shape[3]
    cdef unsigned char[::1] tables
    g.plain = is_plain(kh * kw, stride_h * stride_w, height * width, p * q) and p == height
    g.parted = stride_w == 2 and width > 1
    g.columns = min(stride_w, width)
    g.count = min(stride_h, height) * g.columns
    tables = _scratch(grids_memory(&g, kh, kw, 0), 1)
    grids_memory(&g, kh, kw, <size_t> &tables[0])
    if g.plain:
        height, width, p, q = 1, height * width, 1, p * q
    g.src, g.dst, g.height, g.width = &dy[0, 0, 0, 0], &dx[0, 0, 0, 0], height, width
    for j in range(g.count):
        grid = g.grid + j
        backward_axis(&grid.rows, height, p, kh, stride_h, dilation_h, top, j // g.columns)
        backward_axis(&grid.cols, width, q, kw, stride_w, dilation_w, left, j % g.columns)
        grid.images, grid.groups, grid.channels, grid.filters = dx.shape[0], groups, w.shape[0] // groups, w.shape[1]
        grid.bias, grid.relu, grid.mode = NULL, False, PLAIN if g.plain else ROWS
        if g.parted:
            rest_axis(&grid.rows)
            rest_axis(&grid.cols)
    if not g.plain:
        join_grids(&g)
    gather(&g, &w[0, 0, 0, 0], kh * kw, w.shape[1] * kh * kw, kw, threads)
