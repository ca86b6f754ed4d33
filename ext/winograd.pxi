# 3 x 3 and 5 x 5 convolution by Winograd's minimal filtering, F(m x m, r x r): forward and input gradient; stride 1, alone or
# over the phases of an image (phases.pxi), and the frame of what winograd_strided.pxi has for stride 2 and winograd_lines.pxi
# for kernels of one row or column. Filters and products are winograd_filters.pxi's, tiles winograd_tiles.pxi's and
# winograd_outputs.pxi's.
#
#     Y = A^T [ sum_c (G g_mc G^T) o (B^T d_c B) ] A        for each tile of m x m outputs
#
# src (N,C,H,W), filters (M,C/g,r,r), dst (N,M,P,Q); with r = 3, m is 2 or 4, with r = 5 it is 2. The sum over channels is, for
# each of the (m + r - 1)^2 values of a transformed tile, a matrix product [M, C] [C, tiles]: with F(4, 3) 36 values for 16
# outputs, a quarter of the multiply-adds of the definition, with F(2, 5) 36 for 4, 2.8 times fewer. Lanes are tiles.
#
# Tiles are counted along a line of tiles, line after line, image after image; a block of them is the unit of work. Each
# output is one sum over c in order, whatever the block or the thread: the same bits.

# Bytes of transformed tiles, going in and coming out, that a block may hold: with the filters' share they fit the
# second-level cache. Twice or half of it cost 3 to 10% with 64 channels (Zen 5, 1 MB). With 2 MB, up to twice of it pays where
# blocks are of fewer than 64 tiles else, 1.05 to 1.1 times with 32 to 64 channels, and costs as much where they are not.
cdef enum:
    TILES_BYTES = 640 * 1024
    FEW_TILES = 64
    STRIDED_BYTES = 1536 * 1024     # at stride 2: of what goes in
    PRODUCTS_BYTES = 320 * 1024     # and of what comes out, of as many filters at a time
    # Transformed filters of so few bytes, for so few threads, are made by each thread for itself: a line that another core has
    # read takes longer to write than to compute. Shared, 64 images of 4 x 4 with 16 x 32 filters took 1.4 to 1.5 times as long.
    OWN_FILTERS = 640 * 1024
    OWN_THREADS = 4
    # With so few blocks of tiles, more of them go to the products tile by tile of rows, and never leave the second level: 36
    # values of 512 x 512 filters are 38 MB, written and read.
    FLEETING_BLOCKS = 2


cdef inline Py_ssize_t most_tiles_bytes() noexcept nogil:
    return min(2 * TILES_BYTES, max(TILES_BYTES, second_level() * 5 // 8))


cdef struct Winograd "convlayers_winograd_args":
    int m                       # outputs along the side of a tile
    int taps                    # r
    bint flat                   # whether tiles are of one row or one column (winograd_lines.pxi),
    bint upright                # and which of them,
    int parts                   # of how many parts of r taps the kernels are then, else 1,
    int row_taps                # and of how many taps
    int size                    # values along the side of a transformed tile: m + r - 1 at stride 1
    int reach                   # inputs along the side, and from one tile to the next: of a row,
    int pace
    int reach_down              # and of a column
    int pace_down
    int made                    # rows of a line of tiles, transformed down
    int sets                    # transformed filters
    int odd[2]                  # input gradient at stride 2: whether padding puts a tile's first row and column at odd places
    int idle                    # values that are zero in filters of a phase, see is_idle
    bint phases_out             # whether the filters are of phases, or the channels
    bint overlaps               # whether tiles overlap in dst, not in src (winograd_overlap.pxi)
    Py_ssize_t cut[2]           # rows and columns of dst, as they are summed, in front of its first ones
    Py_ssize_t images
    Py_ssize_t groups
    Py_ssize_t channels         # summed over, per group
    Py_ssize_t depth            # of the sum: a part of the taps of a channel at a time
    Py_ssize_t filters          # computed, per group
    Py_ssize_t height           # of src
    Py_ssize_t width
    Py_ssize_t p                # of the convolution's outputs
    Py_ssize_t q
    int pool                    # 2 where dst is the maximum of each 2 x 2 of them, else 1
    Py_ssize_t down             # of dst
    Py_ssize_t over
    int side                    # outputs along the side of a tile in dst, of a row
    int side_down               # and of a column
    Py_ssize_t top              # padding
    Py_ssize_t left
    const real* src
    const real* src_end
    real* dst
    const real* bias
    const real* scale
    const real* residual        # added last, as dst is laid out; NULL for none
    real ceiling                # see tile.pxi
    bint relu_of_sum            # the ReLU where there is a residual
    Py_ssize_t lines            # lines of tiles in an image
    Py_ssize_t held             # transformed lines that are kept at once
    Py_ssize_t across           # tiles in a line
    Py_ssize_t tiles
    Py_ssize_t block            # tiles of a block, a whole number of vectors, and those in use
    Py_ssize_t share
    Py_ssize_t blocks
    Py_ssize_t splits           # parts of the filters, each a unit of work
    Py_ssize_t part             # tiles of rows of which a unit holds the products at once
    bint one_tile               # an image is one tile, copied by transposition (winograd_tiles.pxi)
    Py_ssize_t pixel[36]        # where each value of that tile lies in the copy
    Py_ssize_t* step            # k * PANEL
    Py_ssize_t* staged          # 4 t: where the tiles of a vector lie in rows of their own
    bint asks                   # whether lines of dst are asked for early: not where a quarter of the second level holds them
    const real* w               # taps
    const real* w_end
    Py_ssize_t row_stride       # from one filter to the next, and from one channel
    Py_ssize_t channel_stride
    bint flipped
    real* filters_in            # transformed, for all threads: [group][value][tile of rows][channel][row]
    int copies                  # one for all threads, or one for each; none where they are kept
    bint fleeting               # a copy holds one tile of rows, made when it is needed
    Py_ssize_t filter_values    # from one value to the next
    char* workspace
    Py_ssize_t image            # values from one image of src to the next
    Py_ssize_t pitch            # from one row of transformed lines to the next
    Py_ssize_t span             # of a row of the image, in whole vectors
    Py_ssize_t row              # from one row of a block's outputs to the next
    Py_ssize_t values_in        # from one value of the transformed block to the next
    Py_ssize_t values_out
    Py_ssize_t workspace_bytes  # of one thread


# What a line of tiles reads of each channel, and writes of each filter.
cdef struct Line:
    Py_ssize_t top              # the first row; rows outside the image are zeros
    Py_ssize_t start            # where it begins, in values from the channel's first
    Py_ssize_t column           # that value's place in a row of tiles
    Py_ssize_t count            # values of a row
    Py_ssize_t known            # rows that the line before has read
    Py_ssize_t target           # where its outputs begin
    Py_ssize_t rows             # of outputs; 1 where they lie in one piece
    Py_ssize_t width            # outputs of a row


# What one thread works with.
cdef struct Workspace "convlayers_workspace":
    Py_ssize_t* place           # of each tile of a block in the transformed lines
    Py_ssize_t* target          # and in dst, for its first filter
    bint* joined                # of each vector of tiles, in both
    Py_ssize_t* runs            # tiles one or two apart: how many lines a vector's tiles lie in,
    Py_ssize_t* starts          # for each of them where lane 0 would begin,
    vmask* before               # and the lanes before its first
    Py_ssize_t* last            # the line of the last tile of each vector, counted from the block's first
    Line* lines
    real* spare                 # a row of zeros, and rows that would be read over the end of src
    real* copy                  # the lines of one channel, transformed down and padded; of tiles that are images, pixels
    real* inputs                # transformed tiles: [value][panel][channel][PANEL]
    real* products              # [value][filter][tile]
    real* outputs               # rows of one filter's tiles: [row][tile][side values]
    vmask* pieces               # of tiles that overlap (winograd_overlap.pxi)
    real* filters               # transformed, where each thread has a copy


cdef inline int halo(Winograd* g) noexcept nogil:
    """Inputs that a tile shares with the next."""
    return g.reach - g.pace


cdef inline Py_ssize_t tile_values(Winograd* g) noexcept nogil:
    """Of a transformed tile."""
    return g.size if g.flat else g.size * g.size


cdef inline Py_ssize_t transformed_bytes(Winograd* g) noexcept nogil:
    """Of a copy of the filters."""
    return (1 if g.fleeting else g.groups) * g.sets * g.filter_values * <Py_ssize_t> sizeof(real)


cdef size_t place_workspace(Winograd* g, Workspace* space, size_t cursor) noexcept nogil:
    """One thread's buffers, at `cursor`; the address behind them."""
    cdef Py_ssize_t values = tile_values(g), lines = min(g.images * g.lines, g.block // g.across + 2), copy
    space.place = <Py_ssize_t*> take(&cursor, g.block * sizeof(Py_ssize_t))
    space.target = <Py_ssize_t*> take(&cursor, g.block * sizeof(Py_ssize_t))
    space.joined = <bint*> take(&cursor, g.block // VL * sizeof(bint))
    space.last = <Py_ssize_t*> take(&cursor, g.block // VL * sizeof(Py_ssize_t))
    space.runs = <Py_ssize_t*> take(&cursor, g.block // VL * sizeof(Py_ssize_t))
    space.starts = <Py_ssize_t*> take(&cursor, g.block * sizeof(Py_ssize_t))
    space.before = <vmask*> take(&cursor, g.block * sizeof(vmask))
    space.lines = <Line*> take(&cursor, lines * sizeof(Line))
    space.spare = <real*> take(&cursor, (g.reach_down + 1) * g.span * sizeof(real))
    # Tiles are read in fours, the last one up to three values too far, and tiles one or two apart in vectors that may begin
    # before the first line: a line of the cache in front of it.
    copy = (g.height * g.width + 1) * VL if g.one_tile else g.held * g.made * g.pitch + max(VL, 4)
    space.copy = <real*> take(&cursor, (CACHE_LINE + copy) * sizeof(real)) + CACHE_LINE
    space.inputs = <real*> take(&cursor, values * g.values_in * sizeof(real))
    space.products = <real*> take(&cursor, values * g.values_out * sizeof(real))
    space.outputs = <real*> take(&cursor, staged_values(g) * sizeof(real))
    space.pieces = <vmask*> take(&cursor, overlap_bytes(g))
    space.filters = <real*> take(&cursor, transformed_bytes(g) if g.copies > 1 else 0)
    return cursor


cdef void choose_winograd_blocks(Winograd* g, bint kept, int threads) noexcept nogil:
    cdef Py_ssize_t values = tile_values(g), most, tile, units
    g.depth = g.channels * g.parts
    g.lines = parts_of(g.height if g.overlaps else g.p, g.side_down * g.pool)
    g.across = parts_of(g.width if g.overlaps else g.q, g.side * g.pool)
    g.tiles = g.images * g.lines * g.across
    g.held = (VL - 1) // g.across + 2
    place_one_tile(g)
    g.part = tile_count(g.filters)
    if g.size == STRIDED:
        most = STRIDED_BYTES // (values * g.channels * <Py_ssize_t> sizeof(real))
    else:
        tile = values * (g.depth + g.filters) * <Py_ssize_t> sizeof(real)
        most = max(TILES_BYTES // tile, min(FEW_TILES, most_tiles_bytes() // tile))
    g.block = max(PANEL, most // PANEL * PANEL)
    # A block for every thread at least, if that leaves a vector of tiles to each.
    g.block = min(g.block, vectors_over((g.tiles + threads - 1) // threads) * VL)
    g.share = g.block
    if g.overlaps:
        g.share = max(1, min(g.block // (g.lines * g.across), (g.images + threads - 1) // threads)) * g.lines * g.across
        g.block = vectors_over(g.share) * VL
    g.blocks = (g.tiles + g.share - 1) // g.share
    units = g.groups * g.blocks
    g.splits = max(1, min(tile_count(g.filters), threads // units if threads > units else 1))
    if g.size == STRIDED:
        g.part = min(g.part, max(1, PRODUCTS_BYTES // (values * g.block * MR * <Py_ssize_t> sizeof(real))))
    # A line of cache more than the values: a power of two would put all values of a tile into the same sets.
    g.values_in = (g.block + PANEL - 1) // PANEL * PANEL * g.depth + 64 // <Py_ssize_t> sizeof(real)
    g.values_out = min(g.filters, g.part * MR) * g.block + 64 // <Py_ssize_t> sizeof(real)
    g.row = g.side * g.pool * g.block + VL
    g.span = vectors_over(g.width) * VL
    # Rows begin with a line of cache, as most tiles then do.
    g.pitch = vectors_over(max(g.across * g.pace + halo(g), g.left + g.span)) * VL
    if g.pace == 2:
        # Even columns and odd ones, each with what half a vector writes too much.
        g.pitch = 2 * vectors_over(max(g.across + halo(g), (max(0, g.left) + g.span + VL) // 2 + 1)) * VL
    if g.flat:
        # The rows of sequences are long: of each no more than the tiles of a block read (first_read).
        g.pitch = vectors_over(min(g.across, g.block) * g.pace + halo(g) + PANEL) * VL
        g.span = min(g.span, g.pitch)
    g.filter_values = g.filters * g.depth + tile_count(g.filters) * VL
    g.copies, g.fleeting = 1, False
    if kept:
        g.copies = 0
    elif transformed_bytes(g) > OWN_FILTERS and g.blocks <= FLEETING_BLOCKS:
        g.copies, g.fleeting, g.part = threads, True, 1
        g.filter_values = min(MR, g.filters) * g.depth + VL
    elif threads <= OWN_THREADS and transformed_bytes(g) <= OWN_FILTERS:
        g.copies = threads


cdef size_t winograd_memory(Winograd* g, size_t cursor) noexcept nogil:
    cdef Workspace space
    g.step = <Py_ssize_t*> take(&cursor, g.depth * sizeof(Py_ssize_t))
    g.staged = <Py_ssize_t*> take(&cursor, VL * sizeof(Py_ssize_t))
    g.filters_in = <real*> take(&cursor, transformed_bytes(g) if g.copies == 1 else 0)
    g.workspace_bytes = <Py_ssize_t> place_workspace(g, &space, 0)
    return cursor


cdef void finish_filter(
    Winograd* g, Py_ssize_t m, const real* products, Py_ssize_t t0, Py_ssize_t t1, real* dst, const real* next, Workspace* space
) noexcept nogil:
    """The outputs of one filter, from its products to where they belong; asks for what is written to `next`, unless NULL."""
    cdef bint whole = divides_evenly(g) and (g.pool == 1 or g.across == 1), joined
    cdef vf bias = splat(0 if g.bias == NULL else g.bias[m])
    cdef vf scale = splat(1 if g.scale == NULL else g.scale[m])
    cdef const Py_ssize_t* place
    cdef real* out = dst if whole else space.outputs
    cdef Py_ssize_t v, number = 0, row = g.q if whole else g.row
    if g.overlaps:
        finish_overlap(g, products, t0, t1, dst, space)
        return
    for v in range(vectors_over(t1 - t0)):
        while next != NULL and number <= space.last[v]:
            ask_outputs(g, space.lines + number, next)
            number += 1
        place = space.target + v * VL if whole else g.staged
        joined = space.joined[v] if whole else True
        if g.pool == 2:
            output_maxima(g, products, scale, bias, out, row, place, whole)
        elif g.flat:
            outputs_along(g, products, scale, bias, out, place)
        elif g.size != STRIDED:
            output_tiles(g, products, scale, bias, out, row, place, joined)
        elif g.m == 4:
            strided_output_tiles(products, g.values_out, scale, bias, g.ceiling, out, row, place, not whole)
        else:
            spread_output_tiles(products, g.values_out, g.odd, out, row, place)
        products += VL
        if not whole:
            out += g.side * VL
    if not whole:
        store_tiles(g, space.outputs, g.groups * g.filters * g.down * g.over, t0, t1, dst)
    if g.residual != NULL:
        add_residual(g, space.last[vectors_over(t1 - t0) - 1] + 1, dst, space)


cdef void run_winograd_unit(Winograd* g, Py_ssize_t unit, int thread) noexcept nogil:
    """One block of tiles of one group, for one part of the filters."""
    cdef Py_ssize_t split = unit % g.splits, block = unit // g.splits % g.blocks, group = unit // g.splits // g.blocks
    cdef Py_ssize_t count = tile_count(g.filters), first = split * count // g.splits, last = (split + 1) * count // g.splits
    cdef Py_ssize_t t0 = block * g.share, t1 = min(g.tiles, t0 + g.share), m, next, start, area = g.down * g.over
    cdef Py_ssize_t image_stride = g.groups * g.filters * area, end = tile_start(last, g.filters)
    cdef real* dst
    cdef Workspace space
    place_workspace(g, &space, <size_t> (g.workspace + thread * g.workspace_bytes))
    place_block(g, image_stride, t0, t1, &space)
    if g.overlaps:
        place_pieces(g, space.pieces)
    if g.one_tile:
        transform_images(g, g.src + group * g.channels * g.height * g.width, t0, t1, &space)
    else:
        transform_block(g, g.src + group * g.channels * g.height * g.width, t0, t1, &space)
    while first < last:
        next = min(last, first + g.part)
        start = tile_start(first, g.filters)
        if g.fleeting:
            transform_filters(g, group * count + first, thread)
        multiply_block(g, filters_of(g, thread, group), vectors_over(t1 - t0), first, next, space.inputs, space.products)
        for m in range(start, tile_start(next, g.filters)):
            dst = g.dst + (group * g.filters + m) * area
            finish_filter(g, group * g.filters + m, space.products + (m - start) * g.block, t0, t1, dst,
                          dst + area if g.asks and m + 1 < end else NULL, &space)
        first = next


cdef run_winograd(Winograd* g, const real[:, :, :, ::1] w, tuple kept, int threads):
    """Take scratch memory for a convolution whose sizes are set, and run it, with filters that were kept if there are any."""
    cdef unsigned char[::1] array
    cdef Py_ssize_t u, unit, tiles = g.groups * tile_count(g.filters)
    cdef Py_ssize_t count = w.shape[0] * w.shape[1] * w.shape[2] * w.shape[3]
    cdef Shares shares
    cdef Units units
    cdef bint found = False
    g.image = g.groups * g.channels * g.height * g.width
    g.src_end = g.src + g.images * g.image
    g.w, g.w_end = &w[0, 0, 0, 0], &w[0, 0, 0, 0] + count
    choose_winograd_blocks(g, kept is not None, threads)
    if kept is not None:
        filters = find_kept(kept, g.w, count, transformed_bytes(g), threads)
        found = filters is not None
        if not found:
            filters = new_kept(g.w, count, transformed_bytes(g))
        array = filters
        g.w = <const real*> &array[0]
        g.w_end = g.w + count
    winograd_memory(g, scratch(winograd_memory(g, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    if kept is not None:
        g.filters_in = <real*> (&array[0] + copied_bytes(count))
    g.asks = g.images * g.groups * g.filters * g.down * g.over * <Py_ssize_t> sizeof(real) > second_level() // 4
    share_out(&shares, g.groups * g.blocks * g.splits, threads)
    with nogil:
        for u in range(g.depth):
            g.step[u] = u * PANEL
        for u in range(VL):
            g.staged[u] = g.m * u
        with parallel(num_threads=threads):
            if g.copies > 1 and not g.fleeting:
                transform_all(g, threadid())
            elif not (found or g.fleeting):
                for u in prange(tiles, schedule="static"):
                    transform_filters(g, u, 0)
                wait_for_all()
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    run_winograd_unit(g, unit, threadid())
                units = next_units(&shares, threadid())
    if kept is not None and not found:
        keep(kept, filters)


cdef void open_tiles(Winograd* g, int m, int size, int reach, int pace, int filters) noexcept nogil:
    """The sizes of a tile: outputs, values, inputs and inputs to the next along its side, and values along a filter's."""
    g.m, g.size, g.reach, g.pace, g.sets, g.side = m, size, reach, pace, filters * filters, m // g.pool
    g.reach_down, g.pace_down, g.side_down, g.made = g.reach, g.pace, g.side, size


def winograd(
    const real[:, :, :, ::1] src, const real[:, :, :, ::1] w, const real[::1] bias, real[:, :, :, ::1] dst, tuple tiles,
    bint backward, double ceiling, int threads, tuple kept, bint pooled, const real[::1] scale, const real[::1] residual, /,
):
    """Fill dst with y, the convolution of src and w, times the scale, plus the bias and plus the residual, laid out as dst,
    unless they are None, held between 0 and `ceiling` if that is over 0, which is infinity with a residual; with `backward`,
    fill dst with dx for src as dy, convolved with the flipped filters and padded by r - 1 - pad. With `pooled`, at stride 1 and
    without a residual, dst is the maximum of each 2 x 2 of them, (N,M,P//2,Q//2), NaN kept. `tiles` are m, stride, top,
    left, groups, what of the filters is zero (is_idle), and whether gradients' tiles overlap; `kept` is None, or where
    transformed filters stay for the next call (kept.pxi)."""
    cdef Winograd g
    cdef Py_ssize_t stride, top, left
    cdef int m, area = <int> (w.shape[2] * w.shape[3])
    m, stride, top, left, g.groups, g.idle, g.overlaps = tiles
    g.phases_out = backward
    g.taps, g.parts, g.upright = <int> w.shape[2], 1, w.shape[3] == 1
    g.flat = g.upright or w.shape[2] == 1
    g.images, g.channels, g.filters = src.shape[0], w.shape[1], w.shape[0] // g.groups
    # A row or column that no 2 x 2 holds is not computed.
    g.height, g.width, g.down, g.over, g.top, g.left = src.shape[2], src.shape[3], dst.shape[2], dst.shape[3], top, left
    g.pool = 2 if pooled else 1
    g.p, g.q = g.pool * g.down, g.pool * g.over
    g.src, g.dst, g.ceiling = &src[0, 0, 0, 0], &dst[0, 0, 0, 0], ceiling
    g.bias, g.scale = &bias[0] if bias is not None else NULL, &scale[0] if scale is not None else NULL
    g.residual = NULL
    if residual is not None:
        g.residual, g.ceiling, g.relu_of_sum = &residual[0], 0, ceiling > 0
    if g.flat:
        open_flat_tiles(&g, m, area)
    elif stride == 1:
        open_tiles(&g, m, m + g.taps - 1, m + g.taps - 1, m, m + g.taps - 1)
    elif not backward:
        open_tiles(&g, 4, STRIDED, 9, 8, STRIDED_FILTERS)
    g.flipped, g.row_stride, g.channel_stride = False, g.channels * area, area
    if not backward:
        run_winograd(&g, w, kept, threads)
        return
    g.flipped, g.row_stride, g.channel_stride = not g.overlaps, g.channel_stride, g.row_stride
    g.channels, g.filters, g.top, g.left = g.filters, g.channels, <int> w.shape[2] - 1 - top, <int> w.shape[3] - 1 - left
    if stride == 2:
        # The first tile begins with input 0, which has place `pad` among the padded ones.
        open_tiles(&g, 8, STRIDED, 5, 4, STRIDED_FILTERS)
        g.top, g.left, g.odd[0], g.odd[1] = 1 - (top + 1) // 2, 1 - (left + 1) // 2, top % 2, left % 2
    elif g.overlaps:
        open_tiles(&g, m, 6, m, m, 6)
        g.top, g.left, g.cut[0], g.cut[1] = 0, 0, top, left
    run_winograd(&g, w, kept, threads)
