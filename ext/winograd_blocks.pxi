# Kernels larger than 3 x 3 at stride 1, by Winograd's minimal filtering of blocks of 3 x 3 taps: forward and input gradient.
#
#     Y_ij = A^T [ sum_abc (G g_mcab G^T) o (B^T d_c,i+a,j+b B) ] A      for each tile of 3 x 3 outputs
#
# g_ab are the taps (3 a .. 3 a + 2, 3 b .. 3 b + 2) of a kernel (R, S), zeros behind its last ones, and d_ij the 5 x 5 inputs
# from (3 i - top, 3 j - left) on. F(3, 3), on the points 0, 1/2, -1, 2 and infinity, moves on by 3 outputs and by 3 taps alike:
# block (a, b) sees in tile (i, j) what block (0, 0) sees in tile (i + a, j + b). So the sum is, for each of the 25 values of a
# tile, a convolution of an image of tiles with a kernel of (ceil(R / 3), ceil(S / 3)) taps, and a tile is transformed once for
# all blocks: 25 products stand for 81 where R and S are multiples of 3.
#
# src (N,C,H,W), w (M,C/g,R,S), dst (N,M,P,Q). Lanes are neighbouring tiles of a line, and on from line to line, what lies
# between the last tile of one and the first of the next included. A block of lines of one group of one image is the unit of
# work. Each output is one sum over (c, a, b) in order, whatever the block or the thread: the same bits.

cdef extern from "vec.h" nogil:
    vf vthird_in "convlayers_third_in"(int which, const real* p)
    void vthirds_out "convlayers_thirds_out"(const vf* v, real* p)

cdef enum:
    SIDE = 5                    # of a transformed tile
    VALUES = 25


# One channel of an image on its way to tiles, or back.
cdef struct Tiles:
    Py_ssize_t height           # of the image
    Py_ssize_t width
    Py_ssize_t left             # of the first tile beside the image
    Py_ssize_t across           # tiles of a line
    Py_ssize_t pitch            # the same in whole vectors
    Py_ssize_t value            # values from one of a tile's to the next


cdef inline void store_some(real* dst, const real* end, vf v, Py_ssize_t count) noexcept nogil:
    """Up to `count` values. A whole vector where that stays before `end`: what it has too much is written again later."""
    if dst + VL <= end:
        store(dst, v)
    else:
        store_part(dst, min(count, VL), v)


cdef void fill_line(Tiles* g, const real* src, const real* end, Py_ssize_t h, real* line) noexcept nogil:
    """Row h of the image with its margins."""
    cdef Py_ssize_t size = 3 * (g.pitch + 1), begin = min(size, max(0, g.left))
    cdef Py_ssize_t last = max(begin, min(size, g.width + g.left))
    zero_run(line, begin)
    copy_run(src + h * g.width + begin - g.left, end, 1, line + begin, last - begin)
    zero_run(line + last, size - last)


cdef void transform_line_across(Tiles* g, bint gradient, const real* line, real* dst) noexcept nogil:
    """The tiles of one row, transformed along it: SIDE rows of one value each, `pitch` apart."""
    cdef vf d[SIDE]
    cdef vf v[SIDE]
    cdef Py_ssize_t j = 0
    cdef int i
    while j < g.pitch:
        for i in range(3):
            d[i] = vthird_in(i, line + 3 * j)
        if gradient:
            winograd_filter(SIDE, 3, d, 1, v, 1)
        else:
            d[3] = vthird_in(0, line + 3 * j + 3)
            d[4] = vthird_in(1, line + 3 * j + 3)
            winograd_input(SIDE, d, 1, v, 1)
        for i in range(SIDE):
            store(dst + i * g.pitch + j, v[i])
        j += VL


cdef inline real* ring_row(Tiles* g, real* ring, Py_ssize_t row) noexcept nogil:
    return ring + row % SIDE * SIDE * g.pitch


cdef void transform_line_down(
    Tiles* g, bint gradient, real* ring, Py_ssize_t first, real* dst, const real* end
) noexcept nogil:
    """A line of tiles from the rows of the ring, from number `first` on; `end` is that of dst's first plane."""
    cdef const real* rows[SIDE]
    cdef vf d[SIDE]
    cdef vf v[SIDE]
    cdef Py_ssize_t j
    cdef int i, k
    for i in range(SIDE):
        rows[i] = ring_row(g, ring, first + i)
    for k in range(SIDE):
        j = 0
        while j < g.across:
            for i in range(3 if gradient else SIDE):
                d[i] = load(rows[i] + k * g.pitch + j)
            if gradient:
                winograd_filter(SIDE, 3, d, 1, v, 1)
            else:
                winograd_input(SIDE, d, 1, v, 1)
            for i in range(SIDE):
                store_some(dst + (SIDE * i + k) * g.value + j, end + (SIDE * i + k) * g.value, v[i], g.across - j)
            j += VL


cdef size_t spread_memory(Tiles* g, real** line, real** ring, size_t cursor) noexcept nogil:
    """A row of the image with its margins, and the rows that a line of tiles is made of, transformed; at `cursor`."""
    # Tiles reach two inputs over; a vector of tiles is read as three, and from three inputs further on once more.
    line[0] = <real*> take(&cursor, (3 * (g.pitch + VL) + 3) * sizeof(real))
    ring[0] = <real*> take(&cursor, SIDE * SIDE * g.pitch * sizeof(real))
    return cursor


cdef void spread_channel(
    Tiles* g, bint gradient, const real* src, const real* src_end, Py_ssize_t top, Py_ssize_t lines, real* dst, size_t workspace
) noexcept nogil:
    """Lines of tiles of one channel of one image, from `top` rows above it on: neighbours share two rows, transformed once."""
    cdef Py_ssize_t reach = 3 if gradient else SIDE, row = 0, i, h
    cdef real* line
    cdef real* ring
    spread_memory(g, &line, &ring, workspace)
    for i in range(lines):
        while row < 3 * i + reach:
            h = row - top
            if 0 <= h < g.height:
                fill_line(g, src, src_end, h, line)
                transform_line_across(g, gradient, line, ring_row(g, ring, row))
            else:
                zero_run(ring_row(g, ring, row), SIDE * g.pitch)
            row += 1
        transform_line_down(g, gradient, ring, 3 * i, dst + i * g.across, dst + lines * g.across)


cdef void output_line(Tiles* g, const real* src, vf bias, bint relu, real* rows) noexcept nogil:
    """The three rows of outputs of one line of tiles, 3 `pitch` values apart; reads whole vectors."""
    cdef vf v[SIDE]
    cdef vf half[3 * SIDE]
    cdef vf y[3]
    cdef Py_ssize_t j = 0
    cdef int i, k
    while j < g.across:
        for k in range(SIDE):
            for i in range(SIDE):
                v[i] = load(src + (SIDE * i + k) * g.value + j)
            winograd_output(SIDE, 3, v, 1, half + k, SIDE)
        for i in range(3):
            winograd_output(SIDE, 3, half + SIDE * i, 1, y, 1)
            for k in range(3):
                y[k] = y[k] + bias
                y[k] = vrelu(y[k]) if relu else y[k]
            vthirds_out(y, rows + 3 * (i * g.pitch + j))
        j += VL


# Filters. Lanes are blocks of taps, counted over the channels of a filter: [channel][a][b].

cdef struct TapBlocks:
    Py_ssize_t kh
    Py_ssize_t kw
    Py_ssize_t down             # blocks of 3 x 3 taps
    Py_ssize_t across
    Py_ssize_t channel_stride   # of the kernels
    Py_ssize_t count            # blocks of a filter
    Py_ssize_t value            # values from one of a filter's to the next


cdef inline void measure_blocks(TapBlocks* g, Py_ssize_t channels, Py_ssize_t kh, Py_ssize_t kw) noexcept nogil:
    g.kh, g.kw, g.down, g.across = kh, kw, (kh + 2) // 3, (kw + 2) // 3
    g.count = channels * g.down * g.across


cdef void gather_taps(
    TapBlocks* g, const real* w, bint flipped, Py_ssize_t first, Py_ssize_t blocks, real* taps
) noexcept nogil:
    """taps[3 r + s][lane] of the blocks from `first` on, zeros behind the kernel's last taps."""
    cdef Py_ssize_t lane, block, r, s, i
    cdef const real* kernel
    for lane in range(blocks):
        block = first + lane
        kernel = w + block // (g.down * g.across) * g.channel_stride
        for i in range(9):
            r = block // g.across % g.down * 3 + i // 3
            s = block % g.across * 3 + i % 3
            if r >= g.kh or s >= g.kw:
                taps[i * VL + lane] = 0
            elif flipped:
                taps[i * VL + lane] = kernel[(g.kh - 1 - r) * g.kw + g.kw - 1 - s]
            else:
                taps[i * VL + lane] = kernel[r * g.kw + s]


cdef void transform_taps(const real* taps, vf* u) noexcept nogil:
    """U = G g G^T."""
    cdef vf g[9]
    cdef vf half[3 * SIDE]
    cdef int i
    for i in range(9):
        g[i] = load(taps + i * VL)
    for i in range(3):
        winograd_filter(SIDE, 3, g + i, 3, half + i, 3)
    for i in range(SIDE):
        winograd_filter(SIDE, 3, half + 3 * i, 1, u + SIDE * i, 1)


cdef void spread_filter(TapBlocks* g, const real* w, bint flipped, real* u) noexcept nogil:
    """One filter: its blocks of each of the 25 values."""
    cdef real taps[9 * VL]
    cdef vf values[VALUES]
    cdef Py_ssize_t block = 0
    cdef int i
    memset(taps, 0, sizeof(taps))
    while block < g.count:
        gather_taps(g, w, flipped, block, min(VL, g.count - block), taps)
        transform_taps(taps, values)
        for i in range(VALUES):
            store_some(u + i * g.value + block, u + i * g.value + g.count, values[i], g.count - block)
        block += VL


cdef struct BlockConv:
    Py_ssize_t images
    Py_ssize_t groups
    Py_ssize_t channels         # summed over, per group
    Py_ssize_t filters          # computed, per group
    Py_ssize_t p                # of dst
    Py_ssize_t q
    Py_ssize_t top
    const real* src
    const real* src_end
    real* dst
    const real* bias
    bint relu
    Tiles tiles                 # going in
    Tiles outputs               # and coming out
    TapBlocks taps
    Py_ssize_t lines            # of tiles of outputs in an image
    Py_ssize_t block            # lines of a block
    Py_ssize_t blocks
    Py_ssize_t plane            # transformed tiles of one channel of a block
    Py_ssize_t part             # tiles of rows of which a unit holds the products at once
    Py_ssize_t* step            # where block (c, a, b) finds its tiles
    real* spread                # transformed filters: [group][filter][value][block of taps]
    real* packed                # [group][value][tile of rows][block of taps][row]
    Py_ssize_t packed_value     # from one value to the next
    char* workspace
    Py_ssize_t workspace_bytes  # of one thread


# What one thread works with.
cdef struct BlockSpace:
    real* tiles                 # [value][channel][line][tile]
    real* products              # [value][filter][line][tile]
    real* rows                  # of outputs of one line of tiles
    size_t spread


cdef size_t place_block_space(BlockConv* g, BlockSpace* space, size_t cursor) noexcept nogil:
    cdef real* none
    # A vector runs over into the next channel, and behind the last one.
    space.tiles = <real*> take(&cursor, (VALUES * g.tiles.value + PANEL) * sizeof(real))
    space.products = <real*> take(&cursor, (VALUES * g.outputs.value + VL) * sizeof(real))
    space.rows = <real*> take(&cursor, (9 * g.outputs.pitch + VL) * sizeof(real))
    space.spread = cursor
    return spread_memory(&g.tiles, &none, &none, cursor)


cdef inline Py_ssize_t block_vectors(BlockConv* g, Py_ssize_t lines) noexcept nogil:
    """Vectors over so many lines of tiles."""
    return vectors_over((lines - 1) * g.tiles.across + g.outputs.across)


cdef void choose_line_blocks(BlockConv* g, int threads) noexcept nogil:
    cdef Py_ssize_t line = VALUES * g.channels * g.tiles.across * <Py_ssize_t> sizeof(real), most, parts
    most = max(1, most_tiles_bytes() // line - g.taps.down + 1)
    # A block for every thread at least.
    parts = (threads + g.images * g.groups - 1) // (g.images * g.groups)
    most = min(most, (g.lines + parts - 1) // parts)
    g.blocks = (g.lines + most - 1) // most
    g.block = (g.lines + g.blocks - 1) // g.blocks
    g.blocks = (g.lines + g.block - 1) // g.block
    g.plane = (g.block + g.taps.down - 1) * g.tiles.across
    # A line of cache more than the values: a power of two would put all values of a tile into the same sets.
    g.tiles.value = g.channels * g.plane + CACHE_LINE
    line = VALUES * MR * block_vectors(g, g.block) * VL * <Py_ssize_t> sizeof(real)
    g.part = max(1, min(tile_count(g.filters), PRODUCTS_BYTES // line))
    g.outputs.value = min(g.filters, g.part * MR) * block_vectors(g, g.block) * VL + CACHE_LINE


cdef size_t block_memory(BlockConv* g, size_t cursor) noexcept nogil:
    cdef BlockSpace space
    g.step = <Py_ssize_t*> take(&cursor, g.taps.count * sizeof(Py_ssize_t))
    g.spread = <real*> take(&cursor, (g.groups * g.filters * VALUES * g.taps.count + VL) * sizeof(real))
    g.packed_value = g.filters * g.taps.count + tile_count(g.filters) * VL
    g.packed = <real*> take(&cursor, g.groups * VALUES * g.packed_value * sizeof(real))
    g.workspace_bytes = <Py_ssize_t> place_block_space(g, &space, 0)
    return cursor


cdef void place_steps(BlockConv* g) noexcept nogil:
    cdef Py_ssize_t c, a, b, k = 0
    for c in range(g.channels):
        for a in range(g.taps.down):
            for b in range(g.taps.across):
                g.step[k] = c * g.plane + a * g.tiles.across + b
                k += 1


cdef void pack_blocks(BlockConv* g, Py_ssize_t unit) noexcept nogil:
    """One value of the filters of one tile of rows."""
    cdef Py_ssize_t tiles = tile_count(g.filters), t = unit % tiles
    cdef Py_ssize_t value = unit // tiles % VALUES, group = unit // tiles // VALUES
    cdef Py_ssize_t m = tile_start(t, g.filters), rows = tile_start(t + 1, g.filters) - m, stride = VALUES * g.taps.count
    cdef const real* src = g.spread + (group * g.filters + m) * stride + value * g.taps.count
    transpose_run(src, g.spread + g.groups * g.filters * stride, stride, rows, g.taps.count,
                  g.packed + (group * VALUES + value) * g.packed_value + m * g.taps.count + t * VL, rows)


cdef void multiply_tiles(
    BlockConv* g, Py_ssize_t group, Py_ssize_t first, Py_ssize_t last, Py_ssize_t vectors, BlockSpace* space
) noexcept nogil:
    """The products of a block for the filters of the tiles of rows first .. last - 1."""
    cdef Py_ssize_t value, t, m, start = tile_start(first, g.filters)
    cdef Tile args
    args.ahead, args.asks = TAPS_AHEAD * PANEL, False
    args.depth, args.step, args.init, args.accumulate, args.ceiling, args.next_b = g.taps.count, g.step, NULL, False, 0, PANEL
    args.ldc0 = args.ldc1 = vectors * VL
    for value in range(VALUES):
        for t in range(first, last):
            m = tile_start(t, g.filters)
            args.lda = tile_start(t + 1, g.filters) - m
            args.a = g.packed + (group * VALUES + value) * g.packed_value + m * g.taps.count + t * VL
            args.b0 = space.tiles + value * g.tiles.value
            args.b1 = args.b0 + VL
            args.c0 = space.products + value * g.outputs.value + (m - start) * vectors * VL
            args.c1 = args.c0 + VL
            run_vectors(<int> args.lda, vectors, &args)


cdef void finish_block(
    BlockConv* g, Py_ssize_t m, const real* products, Py_ssize_t first, Py_ssize_t lines, real* dst, real* rows
) noexcept nogil:
    """The outputs of one filter; `dst` is its plane, and `first` the block's first line of tiles."""
    cdef vf bias = splat(0 if g.bias == NULL else g.bias[m])
    cdef Py_ssize_t i, k, p
    for i in range(lines):
        output_line(&g.outputs, products + i * g.tiles.across, bias, g.relu, rows)
        p = 3 * (first + i)
        for k in range(min(3, g.p - p)):
            store_run(rows + 3 * k * g.outputs.pitch, g.q, dst + (p + k) * g.q)


cdef void run_block_unit(BlockConv* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """One block of lines of one group of one image."""
    cdef Py_ssize_t first = unit % g.blocks * g.block, lines = min(g.block, g.lines - first), group = unit // g.blocks
    cdef Py_ssize_t vectors = block_vectors(g, lines), area = g.tiles.height * g.tiles.width, t = 0, last, start, c, m
    cdef BlockSpace space
    place_block_space(g, &space, <size_t> workspace)
    for c in range(g.channels):
        spread_channel(&g.tiles, False, g.src + (group * g.channels + c) * area, g.src_end, g.top - 3 * first,
                       lines + g.taps.down - 1, space.tiles + c * g.plane, space.spread)
    while t < tile_count(g.filters):
        last, start = min(tile_count(g.filters), t + g.part), tile_start(t, g.filters)
        multiply_tiles(g, group % g.groups, t, last, vectors, &space)
        for m in range(start, tile_start(last, g.filters)):
            finish_block(g, group % g.groups * g.filters + m, space.products + (m - start) * vectors * VL, first, lines,
                         g.dst + (group * g.filters + m) * g.p * g.q, space.rows)
        t = last


def winograd_blocks_forward(
    const real[:, :, :, ::1] x, const real[:, :, :, ::1] w, const real[::1] bias, real[:, :, :, ::1] y,
    int top, int left, int groups, bint flipped, bint relu, int threads, /,
):
    """Fill y with the convolution of x and w, plus the bias unless it is None, rectified if `relu`.

    With `flipped`, with the kernels turned by 180 degrees, filters and channels exchanged: the input gradient of dy, padded by
    R - 1 - top and S - 1 - left.
    """
    cdef BlockConv g
    cdef Shares shares
    cdef Units units
    cdef Py_ssize_t u, unit, taps = w.shape[2] * w.shape[3], row_stride
    cdef Py_ssize_t group_stride = w.shape[0] // groups * w.shape[1] * taps
    cdef const real* weights = &w[0, 0, 0, 0]
    g.images, g.groups, g.channels, g.filters = x.shape[0], groups, x.shape[1] // groups, y.shape[1] // groups
    g.p, g.q, g.top, g.relu, g.bias = y.shape[2], y.shape[3], top, relu, &bias[0] if bias is not None else NULL
    g.src, g.dst = &x[0, 0, 0, 0], &y[0, 0, 0, 0]
    g.src_end = g.src + x.shape[0] * x.shape[1] * x.shape[2] * x.shape[3]
    measure_blocks(&g.taps, g.channels, w.shape[2], w.shape[3])
    g.taps.value = g.taps.count
    g.taps.channel_stride, row_stride = (w.shape[1] * taps, taps) if flipped else (taps, w.shape[1] * taps)
    g.lines, g.outputs.across = (g.p + 2) // 3, (g.q + 2) // 3
    g.tiles.height, g.tiles.width, g.tiles.left = x.shape[2], x.shape[3], left
    g.tiles.across = g.outputs.across + g.taps.across - 1
    g.tiles.pitch, g.outputs.pitch = vectors_over(g.tiles.across) * VL, vectors_over(g.outputs.across) * VL
    choose_line_blocks(&g, threads)
    block_memory(&g, scratch(block_memory(&g, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    share_out(&shares, g.images * g.groups * g.blocks, threads)
    with nogil:
        place_steps(&g)
        with parallel(num_threads=threads):
            for u in prange(g.groups * g.filters, schedule="static"):
                spread_filter(&g.taps, weights + u // g.filters * group_stride + u % g.filters * row_stride, flipped,
                              g.spread + u * VALUES * g.taps.count)
            wait_for_all()
            for u in prange(g.groups * VALUES * tile_count(g.filters), schedule="static"):
                pack_blocks(&g, u)
            wait_for_all()
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    run_block_unit(&g, unit, g.workspace + threadid() * g.workspace_bytes)
                units = next_units(&shares, threadid())
