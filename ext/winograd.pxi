# 3 x 3 convolution at stride 1 by Winograd's minimal filtering, F(m x m, 3 x 3): forward and input gradient.
#
#     Y = A^T [ sum_c (G g_mc G^T) o (B^T d_c B) ] A        for each tile of m x m outputs
#
# src (N,C,H,W), filters (M,C/g,3,3), dst (N,M,P,Q); m is 2 or 4. The sum over channels is, for each of the (m + 2)^2 values
# of a transformed tile, a matrix product [M, C] [C, tiles]: 36 values for 16 outputs with m = 4, a quarter of the
# multiply-adds of the definition. Lanes of a vector are tiles.
#
# Tiles are counted along a line of tiles, line after line, image after image; a block of them is the unit of work. Each
# output is one sum over c in order, whatever the block or the thread: the same bits.

# Bytes of transformed tiles, going in and coming out, that a block may hold: with the filters' share they fit the
# second-level cache. Twice or half of it cost 3 to 10% with 64 channels (Zen 5).
cdef enum:
    TILES_BYTES = 640 * 1024


cdef struct Winograd:
    int m                       # outputs along the side of a tile
    int size                    # m + 2, its inputs
    Py_ssize_t images
    Py_ssize_t groups
    Py_ssize_t channels         # summed over, per group
    Py_ssize_t filters          # computed, per group
    Py_ssize_t height           # of src
    Py_ssize_t width
    Py_ssize_t p                # of dst
    Py_ssize_t q
    Py_ssize_t top              # padding
    Py_ssize_t left
    const real* src
    const real* src_end
    real* dst
    const real* bias
    bint relu
    Py_ssize_t lines            # lines of tiles in an image
    Py_ssize_t across           # tiles in a line
    Py_ssize_t tiles
    Py_ssize_t block            # tiles of a block, a whole number of vectors
    Py_ssize_t blocks
    Py_ssize_t splits           # parts of the filters, each a unit of work
    Py_ssize_t* step            # k * PANEL
    Py_ssize_t* staged          # 4 t: where the tiles of a vector lie in rows of their own
    real* filters_in            # transformed: [group][value][tile of rows][channel][row]
    Py_ssize_t filter_values    # from one value to the next
    char* workspace
    Py_ssize_t image            # values from one image of src to the next
    Py_ssize_t pitch            # from one copied row to the next
    Py_ssize_t row              # from one row of a block's outputs to the next
    Py_ssize_t values_in        # from one value of the transformed block to the next
    Py_ssize_t values_out
    Py_ssize_t workspace_bytes  # of one thread


# What one thread works with.
cdef struct Workspace:
    Py_ssize_t* place           # of each tile of a block in the copied lines
    Py_ssize_t* target          # and in dst, for its first filter
    bint* joined                # of each vector of tiles, in both
    real* copy                  # the lines of one channel, padded
    real* inputs                # transformed tiles: [value][panel][channel][PANEL]
    real* products              # [value][filter][tile]
    real* outputs               # rows of one filter's tiles: [row][tile][4 values]


cdef size_t place_workspace(Winograd* g, Workspace* space, size_t cursor) noexcept nogil:
    """One thread's buffers, at `cursor`; the address behind them."""
    cdef Py_ssize_t values = g.size * g.size, lines = min(g.images * g.lines, g.block // g.across + 2)
    space.place = <Py_ssize_t*> take(&cursor, g.block * sizeof(Py_ssize_t))
    space.target = <Py_ssize_t*> take(&cursor, g.block * sizeof(Py_ssize_t))
    space.joined = <bint*> take(&cursor, g.block // VL * sizeof(bint))
    # Two rows of halo for each image that a block touches, and a vector to spare.
    space.copy = <real*> take(&cursor, ((lines * g.m + 2 * (lines // g.lines + 2)) * g.pitch + VL) * sizeof(real))
    space.inputs = <real*> take(&cursor, values * g.values_in * sizeof(real))
    space.products = <real*> take(&cursor, values * g.values_out * sizeof(real))
    space.outputs = <real*> take(&cursor, 4 * g.row * sizeof(real))
    return cursor


cdef void choose_winograd_blocks(Winograd* g, int threads) noexcept nogil:
    cdef Py_ssize_t values = g.size * g.size, most, units
    g.lines, g.across = (g.p + g.m - 1) // g.m, (g.q + g.m - 1) // g.m
    g.tiles = g.images * g.lines * g.across
    most = TILES_BYTES // (values * (g.channels + g.filters) * <Py_ssize_t> sizeof(real))
    g.block = max(PANEL, most // PANEL * PANEL)
    # A block for every thread at least, if that leaves a vector of tiles to each.
    g.block = min(g.block, vectors_over((g.tiles + threads - 1) // threads) * VL)
    g.blocks = (g.tiles + g.block - 1) // g.block
    units = g.groups * g.blocks
    g.splits = max(1, min(tile_count(g.filters), threads // units if threads > units else 1))
    # A line of cache more than the values: a power of two would put all values of a tile into the same sets.
    g.values_in = (g.block + PANEL - 1) // PANEL * PANEL * g.channels + 64 // <Py_ssize_t> sizeof(real)
    g.values_out = g.filters * g.block + 64 // <Py_ssize_t> sizeof(real)
    g.row = 4 * g.block + VL
    g.pitch = g.across * g.m + 2
    g.filter_values = g.filters * g.channels + tile_count(g.filters) * VL


cdef size_t winograd_memory(Winograd* g, int threads, size_t cursor) noexcept nogil:
    cdef Workspace space
    g.step = <Py_ssize_t*> take(&cursor, g.channels * sizeof(Py_ssize_t))
    g.staged = <Py_ssize_t*> take(&cursor, VL * sizeof(Py_ssize_t))
    g.filters_in = <real*> take(&cursor, g.groups * g.size * g.size * g.filter_values * sizeof(real))
    g.workspace_bytes = <Py_ssize_t> place_workspace(g, &space, 0)
    g.workspace = <char*> take(&cursor, threads * g.workspace_bytes)
    return cursor


# Filters


cdef inline Py_ssize_t filter_tile(Winograd* g, Py_ssize_t t) noexcept nogil:
    """Where the rows of tile t begin within a value of the transformed filters."""
    return tile_start(t, g.filters) * g.channels + t * VL


cdef void filter_values(
    int size, const real* taps, Py_ssize_t tap_stride, bint flipped, real* dst, Py_ssize_t ldv
) noexcept nogil:
    """U = G g G^T for VL filters, whose taps are vectors `tap_stride` apart."""
    cdef vf g[9]
    cdef vf half[18]
    cdef vf u[6]
    cdef int i, j
    for i in range(9):
        g[i] = load(taps + (8 - i if flipped else i) * tap_stride)
    for j in range(3):
        winograd_filter(size, 3, g + j, 3, half + j, 3)
    for i in range(size):
        winograd_filter(size, 3, half + 3 * i, 1, u, 1)
        for j in range(size):
            store(dst + (i * size + j) * ldv, u[j])


cdef void transform_filters(
    Winograd* g, const real* w, const real* end, Py_ssize_t row_stride, Py_ssize_t channel_stride, bint flipped, Py_ssize_t unit
) noexcept nogil:
    """One tile of rows of one group, for all channels: [channel][row] of every value."""
    cdef Py_ssize_t tiles = tile_count(g.filters), group = unit // tiles, t = unit % tiles, m = tile_start(t, g.filters)
    cdef Py_ssize_t rows = tile_start(t + 1, g.filters) - m, c, i
    cdef Py_ssize_t group_stride = max(g.filters * row_stride, g.channels * channel_stride)
    cdef real taps[TAPS_3X3]
    cdef Py_ssize_t pitch = vectors_over(rows) * VL
    cdef real* dst = g.filters_in + group * g.size * g.size * g.filter_values + filter_tile(g, t)
    w += group * group_stride + m * row_stride
    for c in range(g.channels):
        transpose_run(w + c * channel_stride, end, row_stride, rows, 9, taps, pitch)
        # What a vector writes too much lies where the next channel's rows are written later.
        for i in range(vectors_over(rows)):
            if g.size == 4:
                filter_values(4, taps + i * VL, pitch, flipped, dst + i * VL, g.filter_values)
            else:
                filter_values(6, taps + i * VL, pitch, flipped, dst + i * VL, g.filter_values)
        dst += rows


# Tiles


cdef void copy_tile_lines(Winograd* g, const real* src, Py_ssize_t first, Py_ssize_t last, real* dst) noexcept nogil:
    """The rows of one channel that the lines of tiles first .. last - 1 read, padded; those of an image once.

    Writes up to VL - 1 values behind a row. Rows are copied in vectors that run over into the next one where that can be
    done: bounded value by value, they took as long as their transforms.
    """
    cdef Py_ssize_t begin = min(g.pitch, max(0, g.left)), close = max(begin, min(g.pitch, g.width + g.left))
    cdef Py_ssize_t skip = begin - g.left, line = first, next, n, h, row, j
    cdef const real* at
    cdef const real* safe = g.src_end
    if begin > VL or g.pitch - close > VL or vectors_over(close - begin) * VL > g.images * g.image:
        safe = NULL
    else:
        safe -= vectors_over(close - begin) * VL
    while line < last:
        n = line // g.lines
        next = min(last, (n + 1) * g.lines)
        h = line % g.lines * g.m - g.top
        for row in range((next - line) * g.m + 2):
            at = src + n * g.image + (h + row) * g.width + skip
            if not 0 <= h + row < g.height:
                zero_run(dst, g.pitch)
            elif at <= safe:
                store(dst, splat(0))
                j = 0
                while j < close - begin:
                    store(dst + begin + j, load(at + j))
                    j += VL
                store(dst + close, splat(0))
            else:
                zero_run(dst, begin)
                copy_run(at, g.src_end, 1, dst + begin, close - begin)
                zero_run(dst + close, g.pitch - close)
            dst += g.pitch
        line = next


cdef void prefetch_tile_lines(Winograd* g, const real* src, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Ask for what copy_tile_lines will read."""
    cdef Py_ssize_t line = first, next, n, h, row
    while line < last:
        n = line // g.lines
        next = min(last, (n + 1) * g.lines)
        h = max(0, line % g.lines * g.m - g.top)
        row = min(g.height, ((next - 1) % g.lines + 1) * g.m + 2 - g.top)
        prefetch(src + n * g.image + h * g.width, (row - h) * g.width * <Py_ssize_t> sizeof(real), False)
        line = next


cdef bint is_joined(const Py_ssize_t* place) noexcept nogil:
    """Whether each quarter of a vector's tiles lies in one piece: with m = 4, neighbours in one line."""
    cdef Py_ssize_t t
    for t in range(1, VL):
        if t % max(1, VL // 4) != 0 and place[t] != place[t - 1] + 4:
            return False
    return VL >= 4


cdef void place_block(Winograd* g, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """Where each tile of a block begins in the copied lines and in dst; those behind the last are where the last one is."""
    cdef Py_ssize_t t, v, line, first = t0 // g.across, images
    for t in range(t0, t0 + vectors_over(t1 - t0) * VL):
        line = min(t, t1 - 1) // g.across
        images = line // g.lines - first // g.lines
        space.place[t - t0] = ((line - first) * g.m + 2 * images) * g.pitch + min(t, t1 - 1) % g.across * g.m
        space.target[t - t0] = line // g.lines * image_stride + (line % g.lines * g.q + min(t, t1 - 1) % g.across) * g.m
    for v in range(vectors_over(t1 - t0)):
        space.joined[v] = g.m == 4 and is_joined(space.place + v * VL)


cdef inline void input_tiles "convlayers_winograd_input_tiles"(
    int size, const real* copy, Py_ssize_t pitch, const Py_ssize_t* place, bint joined, real* dst, Py_ssize_t ldv
) noexcept nogil:
    """V = B^T d B for VL tiles: (m + 2)^2 vectors, `ldv` values apart."""
    cdef vf d[8]
    cdef vf half[36]
    cdef vf v[6]
    cdef int i, j
    for i in range(size):
        load_fours(copy + i * pitch, place, joined, d)
        if size == 6:
            load_fours(copy + i * pitch + 4, place, joined, d + 4)
        winograd_input(size, d, 1, half + size * i, 1)
    for j in range(size):
        winograd_input(size, half + j, size, v, 1)
        for i in range(size):
            store(dst + (i * size + j) * ldv, v[i])


cdef void transform_block(Winograd* g, const real* src, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """The tiles t0 .. t1 of all channels of one group: [value][panel][channel][PANEL]."""
    cdef Py_ssize_t c, v, vectors = vectors_over(t1 - t0)
    cdef const Py_ssize_t* place
    cdef real* dst
    for c in range(g.channels):
        if c + 1 < g.channels:
            prefetch_tile_lines(g, src + (c + 1) * g.height * g.width, t0 // g.across, (t1 - 1) // g.across + 1)
        copy_tile_lines(g, src + c * g.height * g.width, t0 // g.across, (t1 - 1) // g.across + 1, space.copy)
        for v in range(vectors):
            dst = space.inputs + (v // 2 * g.channels + c) * PANEL + v % 2 * VL
            place = space.place + v * VL
            if g.size == 4:
                input_tiles(4, space.copy, g.pitch, place, False, dst, g.values_in)
            elif space.joined[v]:
                input_tiles(6, space.copy, g.pitch, place, True, dst, g.values_in)
            else:
                input_tiles(6, space.copy, g.pitch, place, False, dst, g.values_in)


cdef void multiply_block(
    Winograd* g, const real* filters, Py_ssize_t vectors, Py_ssize_t first, Py_ssize_t last, const real* inputs, real* products
) noexcept nogil:
    """For each value the product of filters and tiles: [value][filter][tile]."""
    cdef Py_ssize_t value, t, m
    cdef Tile args
    args.depth, args.step, args.init, args.accumulate, args.relu = g.channels, g.step, NULL, False, False
    args.ldc0 = args.ldc1 = g.block
    args.next_b = g.channels * PANEL
    for value in range(g.size * g.size):
        for t in range(first, last):
            m = tile_start(t, g.filters)
            args.lda = tile_start(t + 1, g.filters) - m
            args.a = filters + value * g.filter_values + filter_tile(g, t)
            prefetch(args.a + args.lda * g.channels + VL, args.lda * g.channels * <Py_ssize_t> sizeof(real), False)
            args.b0 = inputs + value * g.values_in
            args.b1 = args.b0 + VL
            args.c0 = products + value * g.values_out + m * g.block
            args.c1 = args.c0 + VL
            run_vectors(<int> args.lda, vectors, &args)


cdef void output_tiles(
    Winograd* g, const real* products, vf bias, real* dst, Py_ssize_t row, const Py_ssize_t* place, bint joined
) noexcept nogil:
    """A^T M A for VL tiles: rows of the tiles' outputs, `row` values apart; for m = 2 both rows in one piece of four."""
    cdef vf half[24]
    cdef vf y[16]
    cdef int i, j
    if g.size == 6:
        for j in range(6):
            for i in range(6):
                y[i] = load(products + (i * 6 + j) * g.values_out)
            winograd_output(6, 4, y, 1, half + j, 6)
        for i in range(4):
            winograd_output(6, 4, half + 6 * i, 1, y, 1)
            for j in range(4):
                y[j] = y[j] + bias
                y[j] = vrelu(y[j]) if g.relu else y[j]
            store_fours(dst + i * row, place, joined, y)
    else:
        for j in range(4):
            for i in range(4):
                y[i] = load(products + (i * 4 + j) * g.values_out)
            winograd_output(4, 2, y, 1, half + j, 4)
        for i in range(2):
            winograd_output(4, 2, half + 4 * i, 1, y + 2 * i, 1)
        for j in range(4):
            y[j] = y[j] + bias
            y[j] = vrelu(y[j]) if g.relu else y[j]
        store_fours(dst, place, joined, y)


cdef void store_run(const real* src, Py_ssize_t count, real* dst) noexcept nogil:
    """`count` values exactly: whole vectors, the last one moved back over values that are there already."""
    cdef Py_ssize_t j = 0
    while j + VL <= count:
        store(dst + j, load(src + j))
        j += VL
    if j == count:
        return
    if count >= VL:
        store(dst + count - VL, load(src + count - VL))
        return
    while j + 4 <= count:
        memcpy(dst + j, src + j, 4 * sizeof(real))
        j += 4
    while j < count:
        dst[j] = src[j]
        j += 1


cdef void store_tiles(
    Winograd* g, const real* outputs, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1, real* dst
) noexcept nogil:
    """The rows of the tiles t0 .. t1 of one filter to their places."""
    cdef Py_ssize_t t = t0, line, j, count, p, i, width, k
    cdef const real* src
    cdef real* out
    while t < t1:
        line = t // g.across
        j = t % g.across
        count = min(g.across - j, t1 - t)
        width = min(g.m * count, g.q - g.m * j)
        for i in range(min(g.m, g.p - line % g.lines * g.m)):
            p = line % g.lines * g.m + i
            out = dst + line // g.lines * image_stride + p * g.q + g.m * j
            if g.m == 4:
                store_run(outputs + i * g.row + 4 * (t - t0), width, out)
            else:
                src = outputs + 4 * (t - t0) + 2 * i
                for k in range(width):
                    out[k] = src[k // 2 * 4 + k % 2]
        t += count


cdef void prefetch_outputs(Winograd* g, real* dst, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1) noexcept nogil:
    """Ask for what store_tiles will write."""
    cdef Py_ssize_t line = t0 // g.across, last = (t1 - 1) // g.across + 1, next, p, end
    while line < last:
        next = min(last, (line // g.lines + 1) * g.lines)
        p = line % g.lines * g.m
        end = min(g.p, ((next - 1) % g.lines + 1) * g.m)
        prefetch(dst + line // g.lines * image_stride + p * g.q, (end - p) * g.q * <Py_ssize_t> sizeof(real), True)
        line = next


cdef void run_winograd_unit(Winograd* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """One block of tiles of one group, for one part of the filters."""
    cdef Py_ssize_t split = unit % g.splits, block = unit // g.splits % g.blocks, group = unit // g.splits // g.blocks
    cdef Py_ssize_t count = tile_count(g.filters), first = split * count // g.splits, last = (split + 1) * count // g.splits
    cdef Py_ssize_t t0 = block * g.block, t1 = min(g.tiles, t0 + g.block), m, v, area = g.p * g.q
    cdef bint whole = g.m == 4 and g.p == 4 * g.lines and g.q == 4 * g.across
    cdef real* dst
    cdef const real* products
    cdef Workspace space
    cdef vf bias = splat(0)
    place_workspace(g, &space, <size_t> workspace)
    place_block(g, g.groups * g.filters * area, t0, t1, &space)
    transform_block(g, g.src + group * g.channels * g.height * g.width, t0, t1, &space)
    multiply_block(g, g.filters_in + group * g.size * g.size * g.filter_values, vectors_over(t1 - t0), first, last,
                   space.inputs, space.products)
    for m in range(tile_start(first, g.filters), tile_start(last, g.filters)):
        if g.bias != NULL:
            bias = splat(g.bias[group * g.filters + m])
        dst = g.dst + (group * g.filters + m) * area
        if m + 1 < tile_start(last, g.filters):
            prefetch_outputs(g, dst + area, g.groups * g.filters * area, t0, t1)
        for v in range(vectors_over(t1 - t0)):
            products = space.products + m * g.block + v * VL
            if whole:
                output_tiles(g, products, bias, dst, g.q, space.target + v * VL, space.joined[v])
            else:
                output_tiles(g, products, bias, space.outputs + 4 * v * VL, g.row, g.staged, True)
        if not whole:
            store_tiles(g, space.outputs, g.groups * g.filters * area, t0, t1, dst)


cdef winograd(
    Winograd* g, const real[:, :, :, ::1] w, Py_ssize_t row_stride, Py_ssize_t channel_stride, bint flipped, int threads
):
    """Take scratch memory for a convolution whose sizes are set, and run it."""
    cdef unsigned char[::1] buffer
    cdef Py_ssize_t u, units
    cdef const real* taps = &w[0, 0, 0, 0]
    cdef const real* end = taps + w.shape[0] * w.shape[1] * 9
    g.size = g.m + 2
    g.image = g.groups * g.channels * g.height * g.width
    g.src_end = g.src + g.images * g.image
    choose_winograd_blocks(g, threads)
    buffer = _scratch(winograd_memory(g, threads, 0))
    winograd_memory(g, threads, <size_t> &buffer[0])
    units = g.groups * g.blocks * g.splits
    with nogil:
        for u in range(g.channels):
            g.step[u] = u * PANEL
        for u in range(VL):
            g.staged[u] = 4 * u
        with parallel(num_threads=threads):
            for u in prange(g.groups * tile_count(g.filters), schedule="static"):
                transform_filters(g, taps, end, row_stride, channel_stride, flipped, u)
            for u in prange(units, schedule="dynamic"):
                run_winograd_unit(g, u, g.workspace + threadid() * g.workspace_bytes)


def winograd_forward(
    const real[:, :, :, ::1] x, const real[:, :, :, ::1] w, const real[::1] bias, real[:, :, :, ::1] y,
    int m, int top, int left, int groups, bint relu, int threads, /,
):
    """Fill y with the convolution of x and w, plus the bias unless it is empty, rectified if `relu`."""
    cdef Winograd g
    g.m, g.images, g.groups, g.channels, g.filters = m, x.shape[0], groups, w.shape[1], w.shape[0] // groups
    g.height, g.width, g.p, g.q, g.top, g.left = x.shape[2], x.shape[3], y.shape[2], y.shape[3], top, left
    g.src, g.dst, g.bias, g.relu = &x[0, 0, 0, 0], &y[0, 0, 0, 0], &bias[0] if bias.shape[0] else NULL, relu
    winograd(&g, w, g.channels * 9, 9, False, threads)


def winograd_backward_input(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] w, real[:, :, :, ::1] dx,
    int m, int top, int left, int groups, int threads, /,
):
    """Fill dx with the gradient with respect to the input: dy convolved with the flipped filters, padded by 2 - pad."""
    cdef Winograd g
    g.m, g.images, g.groups, g.channels, g.filters = m, dx.shape[0], groups, w.shape[0] // groups, w.shape[1]
    g.height, g.width, g.p, g.q, g.top, g.left = dy.shape[2], dy.shape[3], dx.shape[2], dx.shape[3], 2 - top, 2 - left
    g.src, g.dst, g.bias, g.relu = &dy[0, 0, 0, 0], &dx[0, 0, 0, 0], NULL, False
    winograd(&g, w, 9, g.filters * 9, True, threads)
