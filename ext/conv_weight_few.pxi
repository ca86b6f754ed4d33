# 2-d convolution at stride 1, gradient with respect to few filters: those of a small first layer.
#
#     dw[m,c,r,s'] = sum_npq dy[n,m,p,q] x[n,c, p + r d - pad, q + s' d - pad]
#
# x (N,C,H,W), dy (N,M,P,Q), dw (M,C/g,R,S). With fewer filters than fill the lanes of a register tile, lanes are pixels
# instead: x and dy are copied to rows of one length, dy with zeros behind each row, so that every tap of a filter is one
# product of two long rows (dot.pxi), and neither operand is packed.
#
# Blocks of images or of rows are split into shards by the sizes alone and the shards are added in order: the same bits for
# any number of threads.

cdef enum:
    ROW_PIXELS = 2048           # of a block: four filters and their pixels stay in the first-level cache


cdef struct FewTaps:
    Py_ssize_t images
    Py_ssize_t groups
    Py_ssize_t channels         # per group
    Py_ssize_t filters          # per group
    Py_ssize_t taps             # of one filter
    Py_ssize_t p
    Py_ssize_t q
    Py_ssize_t kh
    Py_ssize_t kw
    Py_ssize_t dilation_h
    Py_ssize_t dilation_w
    Axis rows
    Axis cols
    const real* x
    const real* x_end
    const real* dy
    const real* dy_end
    Py_ssize_t block_images
    Py_ssize_t block_rows
    Py_ssize_t row_blocks       # blocks of one image, or of one group of block_images
    Py_ssize_t blocks
    Py_ssize_t shards
    Py_ssize_t pitch            # values from one copied row to the next
    Py_ssize_t lines            # copied rows of an image
    Py_ssize_t plane            # values from one channel's or filter's copy to the next
    real* sums                  # [shard][group][filter][tap]
    char* workspace
    Py_ssize_t workspace_bytes  # of one thread


# What one thread works with.
cdef struct FewSpace:
    real* x
    real* dy
    const real** filters
    const real** taps


cdef size_t place_few(FewTaps* g, FewSpace* space, size_t cursor) noexcept nogil:
    space.x = <real*> take(&cursor, (g.channels * g.plane + VL) * sizeof(real))
    space.dy = <real*> take(&cursor, (g.filters * g.plane + VL) * sizeof(real))
    space.filters = <const real**> take(&cursor, g.filters * sizeof(void*))
    space.taps = <const real**> take(&cursor, g.taps * sizeof(void*))
    return cursor


cdef size_t few_memory(FewTaps* g, size_t cursor) noexcept nogil:
    """Split the pixels by the sizes alone and place everything but the axes at `cursor`."""
    cdef FewSpace space
    cdef Py_ssize_t halo = g.dilation_h * (g.kh - 1)
    g.pitch = g.q + g.dilation_w * (g.kw - 1)
    g.block_rows = max(1, min(g.p, ROW_PIXELS // g.pitch))
    g.lines = g.block_rows + halo
    g.block_images = 1
    if g.block_rows == g.p:
        g.block_images = max(1, min(g.images, ROW_PIXELS // (g.lines * g.pitch)))
    g.row_blocks = (g.p + g.block_rows - 1) // g.block_rows
    g.blocks = (g.images + g.block_images - 1) // g.block_images * g.row_blocks
    g.plane = vectors_over(g.block_images * g.lines * g.pitch) * VL
    g.shards = max(1, min(MOST_SHARDS, g.blocks))
    g.sums = <real*> take(&cursor, g.shards * g.groups * g.filters * g.taps * sizeof(real))
    g.workspace_bytes = <Py_ssize_t> place_few(g, &space, 0)
    return cursor


cdef void copy_gradients(FewTaps* g, const real* dy, Py_ssize_t rows, real* dst) noexcept nogil:
    """`rows` rows of one filter's gradients, each with zeros up to the pitch, and rows of zeros up to `lines`."""
    cdef Py_ssize_t i
    for i in range(rows):
        copy_run(dy + i * g.q, g.dy_end, 1, dst + i * g.pitch, g.q)
        zero_run(dst + i * g.pitch + g.q, g.pitch - g.q)
    zero_run(dst + rows * g.pitch, (g.lines - rows) * g.pitch)


cdef void add_few_block(FewTaps* g, Py_ssize_t block, Py_ssize_t group, FewSpace* space, real* sums) noexcept nogil:
    cdef Py_ssize_t n0 = block // g.row_blocks * g.block_images, images = min(g.block_images, g.images - n0), n, image, m, c
    cdef Py_ssize_t p0 = block % g.row_blocks * g.block_rows, rows = min(g.block_rows, g.p - p0)
    cdef Py_ssize_t count = (images - 1) * g.lines * g.pitch + (rows - 1) * g.pitch + g.q, size = g.lines * g.pitch
    for c in range(g.channels):
        for n in range(images):
            image = ((n0 + n) * g.groups + group) * g.channels + c
            copy_padded(g.x + image * g.rows.size * g.cols.size, g.x_end, 1, &g.rows, &g.cols, p0, g.lines,
                        space.x + c * g.plane + n * size)
    for m in range(g.filters):
        for n in range(images):
            image = ((n0 + n) * g.groups + group) * g.filters + m
            copy_gradients(g, g.dy + (image * g.p + p0) * g.q, rows, space.dy + m * g.plane + n * size)
    # Filters are the rows of tiles unless that leaves more of the last one empty.
    if (g.filters + DOT_ROWS - 1) // DOT_ROWS * g.taps <= (g.taps + DOT_ROWS - 1) // DOT_ROWS * g.filters:
        dot_products(space.filters, g.filters, space.taps, g.taps, count, sums, g.taps, 1)
    else:
        dot_products(space.taps, g.taps, space.filters, g.filters, count, sums, 1, g.taps)


cdef void run_few_unit(FewTaps* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """One shard of the blocks of one group."""
    cdef Py_ssize_t shard = unit // g.groups, group = unit % g.groups, block, m, c, r, s, k = 0
    cdef real* sums = g.sums + unit * g.filters * g.taps
    cdef FewSpace space
    place_few(g, &space, <size_t> workspace)
    for m in range(g.filters):
        space.filters[m] = space.dy + m * g.plane
    for c in range(g.channels):
        for r in range(g.kh):
            for s in range(g.kw):
                space.taps[k] = space.x + c * g.plane + r * g.dilation_h * g.pitch + s * g.dilation_w
                k += 1
    memset(sums, 0, g.filters * g.taps * sizeof(real))
    for block in range(shard * g.blocks // g.shards, (shard + 1) * g.blocks // g.shards):
        add_few_block(g, block, group, &space, sums)


def conv2d_backward_weight_few(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x, real[:, :, :, ::1] dw,
    int top, int left, int dilation_h, int dilation_w, int groups, int threads, /,
):
    """Fill dw with the gradient with respect to the filters; strides are 1. Returns whether all of it is finite.

    The zeros behind a row of dy meet pixels that are not their tap's: an infinity there makes a NaN of a finite sum.
    """
    cdef FewTaps g
    cdef Shares shares
    cdef Units units
    cdef Py_ssize_t u, unit, j, size = dw.shape[0] * dw.shape[1] * dw.shape[2] * dw.shape[3]
    cdef real* out = &dw[0, 0, 0, 0]
    cdef real total
    cdef bint finite = True
    cdef size_t cursor
    g.images, g.groups, g.channels, g.filters = x.shape[0], groups, dw.shape[1], dw.shape[0] // groups
    g.p, g.q, g.kh, g.kw = dy.shape[2], dy.shape[3], dw.shape[2], dw.shape[3]
    g.dilation_h, g.dilation_w = dilation_h, dilation_w
    g.taps = g.channels * g.kh * g.kw
    g.x, g.dy = &x[0, 0, 0, 0], &dy[0, 0, 0, 0]
    g.x_end = g.x + x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3]
    g.dy_end = g.dy + dy.shape[0] * dy.shape[1] * g.p * g.q
    cursor = scratch(axis_memory(&g.cols, g.kw, axis_memory(&g.rows, g.kh, 0)), 1)
    axis_memory(&g.cols, g.kw, axis_memory(&g.rows, g.kh, cursor))
    forward_axis(&g.rows, x.shape[2], g.p, g.kh, 1, dilation_h, top)
    forward_axis(&g.cols, x.shape[3], g.q, g.kw, 1, dilation_w, left)
    few_memory(&g, scratch(few_memory(&g, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    share_out(&shares, g.shards * g.groups, threads)
    with nogil:
        with parallel(num_threads=threads):
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    run_few_unit(&g, unit, g.workspace + threadid() * g.workspace_bytes)
                units = next_units(&shares, threadid())
        for j in range(size):
            total = g.sums[j]
            for u in range(1, g.shards):
                total = total + g.sums[u * size + j]
            out[j] = total
            finite = finite and total - total == 0
    return finite
