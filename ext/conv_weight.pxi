# 2-d convolution, gradient with respect to the filters.
#
#     dw[m,c,r,s'] = sum_npq dy[n,m,p,q] x[n,c, p s + r d - pad, q s + s' d - pad]
#
# x (N,C,H,W), dy (N,M,P,Q), dw (M,C/g,R,S). The sum runs over pixels, so pixels are the depth of the tile: dy is
# packed pixel by pixel as its `a`, and x is copied once into [image][row][column][channel], padded, where the values that
# one pixel contributes to neighbouring taps of a row are neighbours: the tile reads such a run in place, for any stride.
# Where runs are so short that they would leave most of a vector empty, as in first layers, all runs of a pixel are first
# copied side by side.
#
# The sum is split into blocks of pixels and the blocks into shards, by the sizes alone; a shard adds its blocks in order
# into a buffer of its own and the buffers are added in order: the same bits for any number of threads.

cdef enum:
    PACKED_BYTES = 256 * 1024       # of what a block's pixels are packed to: it stays in the second-level cache
    BLOCK_PIXELS = 512              # at least, where an image has fewer: amortises reading and writing the accumulators
    ROW_OF_PIXELS = 256             # at most, where rows may be of any length
    PART_PIXELS = 256               # for which the channels of a part are copied
    MOST_SHARDS = 16
    SHARD_BYTES = 16 * 1024 * 1024  # of all shard buffers together


cdef struct Weight:
    Py_ssize_t images
    Py_ssize_t groups
    Py_ssize_t channels         # computed together: all of a group, or a part
    Py_ssize_t all_channels     # per group
    Py_ssize_t filters          # per group
    Py_ssize_t height           # of x
    Py_ssize_t width
    Py_ssize_t p
    Py_ssize_t q
    Py_ssize_t kh
    Py_ssize_t kw
    Py_ssize_t stride_h
    Py_ssize_t stride_w
    Py_ssize_t top
    Py_ssize_t left
    Py_ssize_t dilation_h
    Py_ssize_t dilation_w
    const real* x
    const real* x_end
    const real* dy
    const real* dy_end
    Py_ssize_t block_images     # of a block
    Py_ssize_t block_rows
    Py_ssize_t row_blocks       # blocks of one image, or of one group of block_images
    Py_ssize_t blocks
    Py_ssize_t shards
    Py_ssize_t splits           # parts of the filters
    Py_ssize_t lines            # input rows of a block
    Py_ssize_t columns          # input columns of a block
    Py_ssize_t pieces           # runs of neighbouring values for one pixel: kernel rows, or all taps with dilation
    Py_ssize_t piece            # values of each
    bint joined                 # whether the pieces are copied side by side, into one run
    Py_ssize_t runs             # what the tile reads: the pieces, or one
    Py_ssize_t run              # values of a run
    Py_ssize_t padded_run       # in the shard buffers: a whole number of vectors
    Py_ssize_t depth            # pixels of a block
    Py_ssize_t* pixel           # where pixel k begins in the copy of x
    Py_ssize_t* place           # what the tile reads of pixel k: the same, or its joined pieces
    real* sums                  # [shard][group][filter][run][padded_run]
    char* workspace
    Py_ssize_t copy_bytes
    Py_ssize_t joined_bytes
    Py_ssize_t workspace_bytes


cdef void choose_weight_blocks(Weight* g) noexcept nogil:
    """Split the pixels by the sizes alone: no thread count here, for the sum's order follows from it."""
    cdef Py_ssize_t line, image, buffer, separate, pixels
    g.columns = (g.q - 1) * g.stride_w + g.dilation_w * (g.kw - 1) + 1
    line = g.columns * g.channels * <Py_ssize_t> sizeof(real)
    g.lines = (g.p - 1) * g.stride_h + g.dilation_h * (g.kh - 1) + 1
    image = line * g.lines
    g.pieces = g.kh if g.dilation_w == 1 else g.kh * g.kw
    g.piece = g.channels * g.kw if g.dilation_w == 1 else g.channels
    # A vector takes half a cycle a filter in the tile and two to copy.
    separate = g.pieces * vectors_over(g.piece)
    g.joined = vectors_over(g.pieces * g.piece) * g.filters + 4 * separate < separate * g.filters
    g.runs = 1 if g.joined else g.pieces
    g.run = g.pieces * g.piece if g.joined else g.piece
    g.padded_run = vectors_over(g.run) * VL
    pixels = PACKED_BYTES // ((g.filters + (g.padded_run if g.joined else 0)) * <Py_ssize_t> sizeof(real))
    g.block_rows, g.block_images = g.p, 1
    if image > COPY_BYTES or g.p * g.q > 2 * pixels:
        g.block_rows = (COPY_BYTES // line - g.dilation_h * (g.kh - 1)) // g.stride_h
        g.block_rows = max(1, min(g.p, min(g.block_rows, pixels // g.q)))
    else:
        g.block_images = max(1, min(g.images, min(COPY_BYTES // image, (BLOCK_PIXELS + g.p * g.q - 1) // (g.p * g.q))))
    g.row_blocks = (g.p + g.block_rows - 1) // g.block_rows
    g.blocks = (g.images + g.block_images - 1) // g.block_images * g.row_blocks
    g.lines = (g.block_rows - 1) * g.stride_h + g.dilation_h * (g.kh - 1) + 1
    g.depth = g.block_images * g.block_rows * g.q
    buffer = g.groups * g.filters * g.runs * g.padded_run * <Py_ssize_t> sizeof(real)
    g.shards = max(1, min(min(MOST_SHARDS, g.blocks), SHARD_BYTES // buffer))
    # More units than shards where those are few: parts of the filters, each with a copy of x to itself.
    g.splits = min(tile_count(g.filters), (MOST_SHARDS + g.shards * g.groups - 1) // (g.shards * g.groups))


cdef size_t weight_memory(Weight* g, int threads, size_t cursor) noexcept nogil:
    cdef Py_ssize_t most_filters = (tile_count(g.filters) + g.splits - 1) // g.splits * MR
    g.pixel = <Py_ssize_t*> take(&cursor, g.depth * sizeof(Py_ssize_t))
    g.place = <Py_ssize_t*> take(&cursor, g.depth * sizeof(Py_ssize_t))
    g.sums = <real*> take(&cursor, g.shards * g.groups * g.filters * g.runs * g.padded_run * sizeof(real))
    g.copy_bytes = (g.block_images * g.lines * g.columns * g.channels + PANEL) * <Py_ssize_t> sizeof(real)
    g.copy_bytes = (g.copy_bytes + 63) // 64 * 64
    g.joined_bytes = 0
    if g.joined:
        g.joined_bytes = ((g.depth * g.padded_run + PANEL) * <Py_ssize_t> sizeof(real) + 63) // 64 * 64
    g.workspace_bytes = g.copy_bytes + g.joined_bytes
    g.workspace_bytes += ((g.depth * most_filters + VL) * <Py_ssize_t> sizeof(real) + 63) // 64 * 64
    g.workspace = <char*> take(&cursor, threads * g.workspace_bytes)
    return cursor


cdef inline Py_ssize_t piece_place(Weight* g, Py_ssize_t r) noexcept nogil:
    """Where piece r lies from the pixel's first tap on."""
    if g.dilation_w == 1:
        return r * g.dilation_h * g.columns * g.channels
    return (r // g.kw * g.dilation_h * g.columns + r % g.kw * g.dilation_w) * g.channels


cdef void fill_places(Weight* g) noexcept nogil:
    cdef Py_ssize_t n, p, q, k = 0
    for n in range(g.block_images):
        for p in range(g.block_rows):
            for q in range(g.q):
                g.pixel[k] = ((n * g.lines + p * g.stride_h) * g.columns + q * g.stride_w) * g.channels
                g.place[k] = k * g.padded_run if g.joined else g.pixel[k]
                k += 1


cdef void copy_channels_last(Weight* g, const real* x, Py_ssize_t first_row, real* dst) noexcept nogil:
    """The lines of x that a block's outputs read, as [line][column][channel], with zeros outside the image."""
    cdef Py_ssize_t i, h, c, j, first, last, area = g.height * g.width, row = g.columns * g.channels
    cdef const real* src
    first = min(g.columns, g.left)
    last = max(first, min(g.columns, g.width + g.left))
    for i in range(g.lines):
        h = first_row * g.stride_h - g.top + i
        src = x + h * g.width - g.left
        if h < 0 or h >= g.height:
            zero_run(dst, row)
        else:
            zero_run(dst, first * g.channels)
            if g.channels == 1:
                copy_run(src + first, g.x_end, 1, dst + first, last - first)
            elif g.channels < 6:
                # A square of shuffles takes as long as five channels one by one.
                for c in range(g.channels):
                    for j in range(first, last):
                        dst[j * g.channels + c] = src[c * area + j]
            else:
                # Some channels at a time: so many streams are read. The last ones first, for transpose_run runs over.
                c = (g.channels - 1) // CACHE_LINE * CACHE_LINE
                while c >= 0:
                    transpose_run(src + first + c * area, g.x_end, area, min(CACHE_LINE, g.channels - c), last - first,
                                  dst + first * g.channels + c, g.channels)
                    c -= CACHE_LINE
            zero_run(dst + last * g.channels, (g.columns - last) * g.channels)
        dst += row


cdef void join_pieces(Weight* g, const real* copy, Py_ssize_t depth, real* dst) noexcept nogil:
    """The pieces of each pixel side by side; what a vector copies too much lies where the next one is written later."""
    cdef Py_ssize_t k, r, v
    cdef const real* src
    for k in range(depth):
        for r in range(g.pieces):
            src = copy + g.pixel[k] + piece_place(g, r)
            for v in range(vectors_over(g.piece)):
                store(dst + r * g.piece + v * VL, load(src + v * VL))
        dst += g.padded_run


cdef void add_block(
    Weight* g, const real* a, const real* copy, Py_ssize_t depth, Py_ssize_t first, Py_ssize_t last, bint accumulate, real* sums
) noexcept nogil:
    """sums[m, run] (+)= a^T times the block's copy of x, for the filters of tiles first .. last."""
    cdef Py_ssize_t r, panel, v, tile_index, m, base, ldc = g.runs * g.padded_run, m0 = tile_start(first, g.filters)
    cdef int vecs
    cdef Tile t
    t.depth, t.step, t.init, t.accumulate, t.relu, t.ldc0, t.ldc1 = depth, g.place, NULL, accumulate, False, ldc, ldc
    t.panels, t.next_b = 1, 0
    for r in range(g.runs):
        base = 0 if g.joined else piece_place(g, r)
        for panel in range((g.padded_run + PANEL - 1) // PANEL):
            v = panel * PANEL
            vecs = 2 if v + VL < g.padded_run else 1
            t.b0 = copy + base + v
            t.b1 = t.b0 + VL
            for tile_index in range(first, last):
                m = tile_start(tile_index, g.filters)
                t.lda = tile_start(tile_index + 1, g.filters) - m
                t.a = a + (m - m0) * depth
                t.c0 = sums + m * ldc + r * g.padded_run + v
                t.c1 = t.c0 + VL
                run_tile(<int> t.lda, vecs, &t)


cdef void pack_gradient(
    Weight* g, const real* dy, Py_ssize_t images, Py_ssize_t pixels, int rows, real* dst
) noexcept nogil:
    """dst[k * rows + i] = dy[n, i, pixel]: the `a` of one tile; k counts the pixels of the block's images."""
    cdef Py_ssize_t n, area = g.p * g.q
    for n in range(images):
        transpose_run(dy + n * g.groups * g.filters * area, g.dy_end, area, rows, pixels, dst + n * pixels * rows, rows)


cdef void run_weight_unit(Weight* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """One shard of the pixels, for one part of one group's filters."""
    cdef Py_ssize_t split = unit % g.splits, group = unit // g.splits % g.groups, shard = unit // g.splits // g.groups
    cdef Py_ssize_t tiles = tile_count(g.filters), first = split * tiles // g.splits, last = (split + 1) * tiles // g.splits
    cdef Py_ssize_t begin = shard * g.blocks // g.shards, end = (shard + 1) * g.blocks // g.shards
    cdef Py_ssize_t block, n0, images, n, p0, rows, t, m, m0 = tile_start(first, g.filters), image
    cdef real* copy = <real*> workspace
    cdef real* joined = <real*> (workspace + g.copy_bytes)
    cdef real* a = <real*> (workspace + g.copy_bytes + g.joined_bytes)
    cdef real* sums = g.sums + (shard * g.groups + group) * g.filters * g.runs * g.padded_run
    for block in range(begin, end):
        n0 = block // g.row_blocks * g.block_images
        images = min(g.block_images, g.images - n0)
        p0 = block % g.row_blocks * g.block_rows
        rows = min(g.block_rows, g.p - p0)
        for n in range(images):
            image = (n0 + n) * g.groups + group
            copy_channels_last(g, g.x + image * g.all_channels * g.height * g.width, p0,
                               copy + n * g.lines * g.columns * g.channels)
        image = n0 * g.groups + group
        for t in range(first, last):
            m = tile_start(t, g.filters)
            pack_gradient(g, g.dy + (image * g.filters + m) * g.p * g.q + p0 * g.q, images, rows * g.q,
                          <int> (tile_start(t + 1, g.filters) - m), a + (m - m0) * images * rows * g.q)
        if g.joined:
            join_pieces(g, copy, images * rows * g.q, joined)
        add_block(g, a, joined if g.joined else copy, images * rows * g.q, first, last, block > begin, sums)


cdef void add_shards(Weight* g, Py_ssize_t filter, real* dw) noexcept nogil:
    """dw of one filter: its shards in order, from [run][value] back to [channel][row][column]."""
    cdef Py_ssize_t row = g.runs * g.padded_run, size = g.groups * g.filters * row, r, s, c, j, at, shard
    cdef real* sums = g.sums + filter * row
    cdef const real* more
    for shard in range(1, g.shards):
        more = sums + shard * size
        for j in range(row):
            sums[j] += more[j]
    for c in range(g.channels):
        for r in range(g.kh):
            for s in range(g.kw):
                # The tap's piece, and its place there.
                at = r if g.dilation_w == 1 else r * g.kw + s
                at = at * (g.piece if g.joined else g.padded_run) + (s * g.channels if g.dilation_w == 1 else 0) + c
                dw[(c * g.kh + r) * g.kw + s] = sums[at]


cdef inline bint kernel_reads_in_place(Weight* g) noexcept nogil:
    """Whether pixel k of dy saw pixel k of x alone."""
    return g.kh * g.kw * g.stride_h * g.stride_w == 1 and g.top == 0 and g.left == 0 and g.p == g.height and g.q == g.width


cdef inline Py_ssize_t longest_row(Py_ssize_t area) noexcept nogil:
    """The largest divisor up to ROW_OF_PIXELS."""
    cdef Py_ssize_t q = min(area, ROW_OF_PIXELS)
    while area % q != 0:
        q -= 1
    return q


cdef Py_ssize_t channels_together(Weight* g) noexcept nogil:
    """So many that the copy for PART_PIXELS outputs, and the sums over them, stay in the second-level cache.

    By the sizes alone. All 2048 channels of 7 x 7 images at once left room for one image at a time, and 4 MB of sums were read
    and written for each: parts took four fifths of the time, and half of it with 512 channels and a stride (Zen 3).
    """
    cdef Py_ssize_t rows = min(g.p, (PART_PIXELS + g.q - 1) // g.q), images, copied, parts
    images = min(g.images, max(1, PART_PIXELS // (rows * g.q)))
    copied = images * ((rows - 1) * g.stride_h + g.dilation_h * (g.kh - 1) + 1)
    copied *= ((g.q - 1) * g.stride_w + g.dilation_w * (g.kw - 1) + 1) * <Py_ssize_t> sizeof(real)
    parts = (g.all_channels * copied + COPY_BYTES - 1) // COPY_BYTES
    if parts == 1:
        return g.all_channels
    return min(g.all_channels, max(2 * CACHE_LINE, ((g.all_channels - 1) // parts // CACHE_LINE + 1) * CACHE_LINE))


cdef weight_part(Weight* g, real* dw, int threads):
    """The gradient with respect to the filters' taps of some channels, at dw."""
    cdef unsigned char[::1] buffer
    cdef Py_ssize_t u, filter_size = g.all_channels * g.kh * g.kw
    choose_weight_blocks(g)
    buffer = _scratch(weight_memory(g, threads, 0))
    weight_memory(g, threads, <size_t> &buffer[0])
    with nogil:
        fill_places(g)
        with parallel(num_threads=threads):
            for u in prange(g.shards * g.groups * g.splits, schedule="dynamic"):
                run_weight_unit(g, u, g.workspace + threadid() * g.workspace_bytes)
            for u in prange(g.groups * g.filters, schedule="static"):
                add_shards(g, u, dw + u * filter_size)


def conv2d_backward_weight(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x, real[:, :, :, ::1] dw,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int groups, int threads, /,
):
    """Fill dw with the gradient with respect to the filters."""
    cdef Weight g
    cdef Py_ssize_t filters = dw.shape[0], area = dy.shape[2] * dy.shape[3], together, first = 0
    g.images, g.groups, g.all_channels, g.filters = x.shape[0], groups, dw.shape[1], filters // groups
    g.height, g.width, g.p, g.q, g.kh, g.kw = x.shape[2], x.shape[3], dy.shape[2], dy.shape[3], dw.shape[2], dw.shape[3]
    g.stride_h, g.stride_w, g.top, g.left, g.dilation_h, g.dilation_w = stride_h, stride_w, top, left, dilation_h, dilation_w
    g.channels = g.all_channels
    if kernel_reads_in_place(&g):
        # Rows of a 1 x 1 kernel's pixels may be of any length: long ones are read faster.
        g.q = longest_row(area)
        g.p = area // g.q
        g.height, g.width = g.p, g.q
    g.dy = &dy[0, 0, 0, 0]
    g.x_end = &x[0, 0, 0, 0] + x.shape[0] * x.shape[1] * g.height * g.width
    g.dy_end = g.dy + g.images * filters * area
    together = channels_together(&g)
    while first < g.all_channels:
        g.channels = min(together, g.all_channels - first)
        g.x = &x[0, 0, 0, 0] + first * g.height * g.width
        weight_part(&g, &dw[0, 0, 0, 0] + first * g.kh * g.kw, threads)
        first += g.channels
