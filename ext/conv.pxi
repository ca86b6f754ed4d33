# 2-d convolution, forward and input gradient, as gathers (see gather.pxi).
#
#     y[n,m,p,q]  = b[m] + sum_crs x[n,c, p s + r d - pad, q s + s' d - pad] w[m,c,r,s']
#     dx[n,c,h,w] = sum_mrs' dy[n,m,p,q] w[m,c,r,s']     over all with h = p s + r d - pad, w = q s + s' d - pad
#
# x (N,C,H,W), w (M,C/g,R,S), b (M,) or empty, y (N,M,P,Q). Forward is one gather, the input gradient one for each sub-grid
# of dx: they share the padded copy of a block, and where columns are two to four sub-grids', their outputs are computed side by
# side and then interleaved.

cdef enum:
    PARTED_PANELS = 64          # of an image, at least, whose rows are shared out
    JOINED_CHANNELS = 96        # at least, where images are taken together
    JOINED_FILTERS = 128


cdef inline bint is_plain(Py_ssize_t taps, Py_ssize_t strides, Py_ssize_t inputs, Py_ssize_t outputs) noexcept nogil:
    """Whether a 1 x 1 kernel reads the source where it lies: nothing skipped, nothing padded, a vector at least."""
    return taps == 1 and strides == 1 and inputs == outputs and outputs >= VL


cdef inline bint parts_pixels(Py_ssize_t images, Py_ssize_t rows, Py_ssize_t columns, int threads) noexcept nogil:
    """Whether threads share out the rows of few images, and not the filters of a 1 x 1 kernel: else each of them packs all
    pixels. 1.1 to 1.5 times with 56 x 56 and 112 x 112, 0.9 with 28 x 28, which make few panels (Zen 5)."""
    return 1 < threads and images < 2 * threads and columns >= VL and rows * columns >= PARTED_PANELS * PANEL


cdef bint joins_images(Py_ssize_t images, Py_ssize_t pixels, Py_ssize_t channels, Py_ssize_t filters) noexcept nogil:
    """Whether a 1 x 1 kernel takes several images in one go, as rows of one image: panels are packed across their ends, so that
    few lanes stay empty, but what a vector has of two images is packed and stored in pieces.

    Planes of 6 x 6 and 7 x 7, of which it leaves a quarter empty: 1.04 to 1.27 times with 128 filters and more, 0.9 to 1.0
    with 64; 14 x 14, a 16th, 0.92 to 1.03 (Zen 5, AVX-512).
    """
    if images == 1:
        return False
    return channels >= JOINED_CHANNELS and filters >= JOINED_FILTERS and 8 * pixels <= 7 * vectors_over(pixels) * VL


cdef void rest_axis(Axis* axis) noexcept nogil:
    """Outputs side by side in a part of their own, instead of a stride apart in the destination."""
    axis.first, axis.stride = 0, 1


def conv2d(
    const real[:, :, :, ::1] src, const real[:, :, :, ::1] w, const real[::1] bias, real[:, :, :, ::1] dst, tuple geometry,
    int groups, bint backward, double ceiling, int threads, bint pooled, const real[::1] scale, const real[::1] residual, /,
):
    """Fill dst with y, the convolution of src and w, times the scale, plus the bias and plus the residual, laid out as dst,
    unless they are None, held between 0 and `ceiling` if that is over 0, which is infinity with a residual; with `backward`,
    fill dst with dx for src as dy, without a bias or a ceiling: a gather for each sub-grid of dx. With `pooled`, without a
    residual and but for 1 x 1 kernels, dst is the maximum of each 2 x 2 of y, (N,M,P//2,Q//2)."""
    cdef Grids g
    cdef Gather* grid
    cdef Py_ssize_t stride_h, stride_w, top, left, dilation_h, dilation_w, j, row = w.shape[1] * w.shape[2] * w.shape[3]
    cdef Py_ssize_t kh = w.shape[2], kw = w.shape[3], height = src.shape[2], width = src.shape[3]
    # A row or column that no 2 x 2 holds is not computed.
    cdef Py_ssize_t p = dst.shape[2] * (2 if pooled else 1), q = dst.shape[3] * (2 if pooled else 1)
    stride_h, stride_w, top, left, dilation_h, dilation_w = geometry
    g.plain = is_plain(kh * kw, stride_h * stride_w, height * width, p * q) and p == height
    g.pooled, g.parted = pooled, pooled or backward and 1 < stride_w <= min(MOST_STRIDES, q)
    g.columns = min(stride_w, q) if backward else 1
    g.count = min(stride_h, p) * g.columns if backward else 1
    grids_memory(&g, kh, kw, scratch(grids_memory(&g, kh, kw, 0), 1))
    if g.plain and not parts_pixels(src.shape[0] * groups, p, q, threads):
        height, width, p, q = 1, height * width, 1, p * q
    g.src, g.dst, g.height, g.width = &src[0, 0, 0, 0], &dst[0, 0, 0, 0], p, q
    if pooled:
        g.height, g.width = dst.shape[2], dst.shape[3]
    g.scale = &scale[0] if scale is not None else NULL
    for j in range(g.count):
        grid = g.grid + j
        grid.channels, grid.filters = w.shape[1], w.shape[0] // groups
        if backward:
            grid.channels, grid.filters = grid.filters, grid.channels
            backward_axis(&grid.rows, p, height, kh, stride_h, dilation_h, top, j // g.columns)
            backward_axis(&grid.cols, q, width, kw, stride_w, dilation_w, left, j % g.columns)
        else:
            forward_axis(&grid.rows, height, p, kh, stride_h, dilation_h, top)
            forward_axis(&grid.cols, width, q, kw, stride_w, dilation_w, left)
        grid.images, grid.groups, grid.mode = src.shape[0], groups, PLAIN if g.plain else ROWS
        grid.bias, grid.ceiling, grid.dst = &bias[0] if bias is not None else NULL, ceiling, g.dst
        grid.joined = g.plain and p == 1 and joins_images(grid.images, q, grid.channels, grid.filters)
        if grid.joined:
            grid.images, grid.rows.outputs, grid.rows.stride = 1, grid.images, groups * grid.filters
            grid.cols.line = groups * grid.channels * q
        grid.residual = NULL
        if residual is not None:
            grid.residual, grid.ceiling, grid.relu_of_sum = &residual[0], 0, ceiling > 0
        if g.parted:
            rest_axis(&grid.rows)
            rest_axis(&grid.cols)
    if backward and not g.plain:
        join_grids(&g)
    if backward:
        gather(&g, &w[0, 0, 0, 0], kh * kw, row, kw, threads)
    else:
        gather(&g, &w[0, 0, 0, 0], row, kh * kw, kw, threads)
