# One gather of gather.pxi on the register tile: filters packed, panels packed or read in place, outputs stored.
#
# Each output is one sum over (c, r, s) in that order, whatever the block, the mode or the thread: the same bits.

# Bytes of the padded copy that one thread works on: it must stay in the second-level cache beside a panel of filters.
# And, at least, of the panels that are packed together from planes that lie far apart: a few cache lines of each at a time.
cdef enum:
    COPY_BYTES = 256 * 1024
    PANELS_BYTES = 256 * 1024
    UNPACKED = 3072             # values of a plane, times the tiles that read them
    SMALL_PLANE = 256

# One tile packs for so many at most: with 256 filters of 56 x 56 it took 1.02 times as long, since it reads a line of each
# plane at a time; with up to 128 0.85 to 1.01 of the time (Zen 3).
cdef enum:
    PACKING_TILES = 24

# Sums of more than 3/2 SLICE taps are taken some channels at a time, where that many filters use what is copied and packed:
# else so few pixels fit that each pass over all the filters serves hardly any. The sums wait beside, so many bytes at most.
cdef enum:
    SLICE = 768
    SLICE_FILTERS = 64
    SUMS_BYTES = 512 * 1024


cdef inline Py_ssize_t most_panels() noexcept nogil:
    """Bytes of them, and of an image that is asked for while they are computed with. With 512 KB of second level 192 KB: 1x1
    layers took 0.97 to 1.01 of the time that 256 KB took (Zen 3)."""
    cdef Py_ssize_t most = PANELS_BYTES if second_level() == 0 else min(PANELS_BYTES, second_level() * 3 // 8)
    return max(most, second_level() // 4)


cdef struct Gather:
    Axis rows
    Axis cols
    Py_ssize_t images
    Py_ssize_t groups
    Py_ssize_t channels         # summed over, per group
    Py_ssize_t filters          # computed, per group
    Py_ssize_t width            # of the destination
    Py_ssize_t height
    const real* bias
    real ceiling                # see tile.pxi
    const real* residual        # added last, laid out as dst; NULL for none
    bint relu_of_sum            # the ReLU where there is a residual
    const real* dst             # where all outputs begin
    Mode mode
    bint joined                 # whether rows are whole images, see conv.pxi
    Py_ssize_t panels           # how many are packed together for all taps before the tiles read them, 0 for none
    Py_ssize_t panel            # values from one to the next
    Py_ssize_t slice            # channels that are copied and packed at once
    Py_ssize_t sum_row          # with several slices, values from one filter's sums to the next, else 0
    Py_ssize_t block            # output rows of a block
    Py_ssize_t blocks
    Py_ssize_t tiles            # of filters: as many rows of the register tile, or panels of them in mode FILTER_LANES
    Py_ssize_t plane            # values from one plane of the padded copy to the next
    Py_ssize_t depth            # length of the sum
    Plan full
    Plan last
    Py_ssize_t* place           # tap k in the padded copy (or in the source)
    Py_ssize_t* packed          # tap k in a packed panel
    Py_ssize_t* pixel           # where each output of a block begins in the padded copy (mode FILTER_LANES)
    real* packed_filters
    const real* w               # the filters as they are given, and where they end
    const real* w_end
    Py_ssize_t row_stride       # from one computed filter to the next there, and from channel to channel
    Py_ssize_t channel_stride
    Py_ssize_t kernel_width
    const real* scale           # what filters are multiplied by, one value each, or NULL; forward alone
    bint lazy                   # whether a tile of filters is packed when it is needed, by the one unit that uses it


cdef inline Py_ssize_t filter_start(Gather* g, Py_ssize_t t) noexcept nogil:
    """First filter of tile t."""
    return min(t * PANEL, g.filters) if g.mode == FILTER_LANES else tile_start(t, g.filters)


cdef inline Py_ssize_t image_bytes(Gather* g) noexcept nogil:
    """Of a group's channels."""
    return g.channels * g.rows.size * g.cols.size * <Py_ssize_t> sizeof(real)


cdef inline Py_ssize_t most_image(Gather* g) noexcept nogil:
    """Bytes of an image of which the next one is asked for. Small planes may be of more channels: 14 x 14 and 16 x 16 with 320
    to 576 took 0.84 to 0.97 of the time, 28 x 28 with 192 1.3 times as long (Zen 4)."""
    if g.rows.size * g.cols.size <= SMALL_PLANE:
        return max(most_panels(), second_level() * 3 // 4)
    return most_panels()


cdef Py_ssize_t block_cost(Gather* g, Py_ssize_t block) noexcept nogil:
    """Of an image in blocks of so many rows, in half cycles: vectors, the last of each block partly empty, and copies."""
    cdef Axis* rows = &g.rows
    cdef Py_ssize_t whole = rows.outputs // block, rest = rows.outputs % block, q = g.cols.outputs, vectors, lines
    vectors = whole * vectors_over(block * q) + vectors_over(rest * q)
    lines = rows.outputs + (whole + (1 if rest > 0 else 0)) * rows.halo
    lines *= rows.phases * g.cols.phases
    return g.channels * (vectors * rows.taps * g.cols.taps * g.filters + lines * 4 * vectors_over(g.cols.line))


cdef inline Py_ssize_t blocks_wanted(Gather* g, int threads, Py_ssize_t joined) noexcept nogil:
    """Of each image, or of so many, for two units a thread."""
    return (2 * threads + g.images * g.groups * joined - 1) // (g.images * g.groups * joined)


cdef bint parts_filters(Gather* g, int threads) noexcept nogil:
    """Whether threads should share out filters rather than rows: a block of rows would have less than two pairs of vectors, or
    a 1 x 1 kernel takes an image at once.

    Each block reads all filters: with rows shared out, single images of 7 x 7 with 512 channels took 1.6 times as long, of
    13 x 13 with 384 1.4; of 16 x 16 and more 0.8 to 1.0, since each part of the filters copies the source (Emerald Rapids).
    """
    cdef Py_ssize_t blocks = blocks_wanted(g, threads, g.rows.outputs if g.joined else 1)
    cdef bint few = g.rows.outputs * g.cols.outputs < blocks * 2 * PANEL
    few = few or g.mode == PLAIN and (g.joined or g.rows.outputs == 1)
    return few and blocks > 1 and tile_count(g.filters) >= 2 * threads


cdef void choose_blocks(Gather* g, Py_ssize_t most_rows, int step, int threads) noexcept nogil:
    """Rows of a block, a multiple of `step`; shared between `threads` where there are few images."""
    cdef Axis* rows = &g.rows
    cdef Axis* cols = &g.cols
    cdef Py_ssize_t line, wanted, most, block, cost, least = 0
    line = g.slice * rows.phases * cols.phases * (cols.outputs if g.joined else cols.line) * <Py_ssize_t> sizeof(real)
    most = min(min(rows.outputs, most_rows), max(1, COPY_BYTES // line - rows.halo))
    if g.mode == PLAIN:
        most = min(rows.outputs, VL) if g.joined else rows.outputs
    if threads > 1:
        wanted = blocks_wanted(g, threads, 1)
        most = min(most, (rows.outputs + wanted - 1) // wanted)
    # After so many rows at most, vectors and rows end together again.
    most = max(step, most)
    for block in range(max((most + 1) // 2, most - VL), most + 1):
        cost = block_cost(g, block)
        if block % step == 0 and (least == 0 or cost <= least):
            g.block, least = block, cost
    g.blocks = (rows.outputs + g.block - 1) // g.block
    g.plane = rows.size * cols.size if g.mode == PLAIN else (g.block + rows.halo) * cols.line


cdef inline bint packs_plain(Gather* g) noexcept nogil:
    """Whether panels of a 1 x 1 kernel are packed.

    Where they lie, its taps are a plane apart: each tile fetches them anew, from sets of the cache that planes of 4 KiB share.
    Small planes of an image that has been asked for serve a few tiles better so, if those ask ahead: with panels, 14 x 14 and
    less took 1.03 to 1.3 times as long with 32 to 128 filters (Emerald Rapids).
    """
    cdef bint few = g.tiles * g.plane <= UNPACKED and image_bytes(g) <= most_image(g)
    return g.joined or g.slice < g.channels or g.tiles > 1 and not (MR > ASKING_ROWS and few)


cdef inline Py_ssize_t even_panels(Py_ssize_t panels, Py_ssize_t most) noexcept nogil:
    """As few groups of up to `most` as there can be, of as many panels each."""
    cdef Py_ssize_t groups = (panels + max(1, most) - 1) // max(1, most)
    return (panels + max(1, groups) - 1) // max(1, groups)


cdef void choose_tiles(Gather* g) noexcept nogil:
    """The mode and what follows from it, when the blocks are chosen."""
    cdef Py_ssize_t taps = g.rows.taps * g.cols.taps, vectors = vectors_over(g.block * g.cols.outputs)
    g.depth = g.channels * taps
    if g.mode != PLAIN:
        g.mode = choose_mode(&g.rows, &g.cols, g.width, g.filters, g.depth, g.block) if g.slice == g.channels else PACKED
    g.tiles = (g.filters + PANEL - 1) // PANEL if g.mode == FILTER_LANES else tile_count(g.filters)
    g.panels = g.sum_row = 0
    g.panel = g.slice * taps * PANEL + VL
    if g.mode == PACKED or g.mode == PLAIN and packs_plain(g):
        g.panels = even_panels((vectors + 1) // 2, most_panels() // (g.panel * <Py_ssize_t> sizeof(real)))
    if g.slice < g.channels:
        g.sum_row = (g.panels if g.mode == PLAIN else (vectors + 1) // 2) * PANEL + CACHE_LINE


cdef inline Py_ssize_t group_filters(Gather* g) noexcept nogil:
    """Values of the packed filters of a group: a vector to spare behind each tile."""
    return g.filters * g.depth + g.tiles * VL


cdef size_t plan_memory(Plan* plan, Gather* g, size_t cursor) noexcept nogil:
    cdef Py_ssize_t most = g.block * vectors_over(g.cols.outputs if g.joined else g.cols.line)
    plan.src = <Py_ssize_t*> take(&cursor, most * sizeof(Py_ssize_t))
    plan.begin = <Py_ssize_t*> take(&cursor, (most + 1) * sizeof(Py_ssize_t))
    plan.seam = <Py_ssize_t*> take(&cursor, most * sizeof(Py_ssize_t))
    plan.whole = <Py_ssize_t*> take(&cursor, most * sizeof(Py_ssize_t))
    plan.chain = <Py_ssize_t*> take(&cursor, most * sizeof(Py_ssize_t))
    plan.runs = <Run*> take(&cursor, (most + g.block) * sizeof(Run))
    return cursor


cdef size_t gather_memory(Gather* g, size_t cursor) noexcept nogil:
    """Place everything but the axes' tables at `cursor`; the address behind it."""
    cursor = plan_memory(&g.full, g, cursor)
    cursor = plan_memory(&g.last, g, cursor)
    g.place = <Py_ssize_t*> take(&cursor, g.depth * sizeof(Py_ssize_t))
    g.packed = <Py_ssize_t*> take(&cursor, g.depth * sizeof(Py_ssize_t))
    g.pixel = <Py_ssize_t*> take(&cursor, (g.block * g.cols.outputs + MR + 2) * sizeof(Py_ssize_t))
    g.packed_filters = <real*> take(&cursor, g.groups * group_filters(g) * sizeof(real))
    return cursor


cdef void fill_tables(Gather* g) noexcept nogil:
    """Where taps, vectors and pixels lie; `rows.outputs` may end a row before the last block does."""
    cdef Axis* rows = &g.rows
    cdef Axis* cols = &g.cols
    cdef Py_ssize_t c, r, s, k = 0
    for c in range(g.slice):
        for r in range(rows.taps):
            for s in range(cols.taps):
                g.place[k] = ((c * rows.phases + rows.plane[r]) * cols.phases + cols.plane[s]) * g.plane
                g.place[k] += rows.shift[r] * cols.line + cols.shift[s]
                g.packed[k] = k * PANEL
                k += 1
    if g.mode == FILTER_LANES:
        place_pixels(g)
        return
    plan_block(&g.full, g.mode, rows, cols, g.width, g.block)
    plan_block(&g.last, g.mode, rows, cols, g.width, rows.outputs - (g.blocks - 1) * g.block)
    plan_chains(&g.full, g.panels > 0)
    plan_chains(&g.last, g.panels > 0)


cdef void scatter(Plan* plan, Py_ssize_t v, const real* values, real* dst, Py_ssize_t stride) noexcept nogil:
    """A vector's values to their places in one plane of the destination; reads a vector from each run's first value on."""
    cdef Py_ssize_t r, j
    cdef Run* run
    for r in range(plan.begin[v], plan.begin[v + 1]):
        run = plan.runs + r
        if PICKS and stride == 1:
            store_lanes(dst + run.dst - run.lane, load(values), ((<unsigned int> 1 << run.length) - 1) << run.lane)
            continue
        if run.room >= VL:
            store(dst + run.dst, load(values + run.lane))
            continue
        for j in range(run.length):
            dst[run.dst + j * stride] = values[run.lane + j]


cdef void run_pieces(Gather* g, Plan* plan, Py_ssize_t v, int vecs, int rows, Tile* t, real* dst) noexcept nogil:
    """The filters of one tile over one or two vectors whose outputs may lie apart."""
    cdef Py_ssize_t area = g.height * g.width, i
    cdef real spill[SPILL]
    # What the first vector scatters may run over into the second's outputs, so these are not written before.
    cdef bint whole0 = plan.whole[v], whole1 = whole0 and vecs == 2 and plan.whole[v + 1]
    t.c0 = dst + run_place(plan, v) if whole0 else spill
    t.c1 = dst + run_place(plan, v + 1) if whole1 else spill + VL
    t.ldc0 = area if whole0 else PANEL
    t.ldc1 = area if whole1 else PANEL
    t.panels = 1
    run_tile(rows, vecs, t)
    for i in range(rows):
        if not whole0:
            scatter(plan, v, spill + i * PANEL, dst + i * area, g.cols.stride)
        if vecs == 2 and not whole1:
            scatter(plan, v + 1, spill + i * PANEL + VL, dst + i * area, g.cols.stride)


cdef void run_chain(Gather* g, Plan* plan, Py_ssize_t v, Py_ssize_t panels, int rows, Tile* t, real* dst) noexcept nogil:
    """The filters of one tile over panels of outputs that follow each other."""
    t.c0 = dst + run_place(plan, v)
    t.c1 = t.c0 + VL
    t.ldc0 = t.ldc1 = g.height * g.width
    t.panels = panels
    t.next_b = g.panel
    if g.panels == 0 and panels > 1:
        t.next_b = plan.src[v + 2] - plan.src[v]
    run_tile(rows, 2, t)


cdef inline Py_ssize_t packed_by_tile(
    Gather* g, Plan* plan, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """How many of the vectors begin .. end the tile `first` packs while it computes with them, for those up to `last`: as many
    as one call of the tile finds where they lie."""
    cdef Py_ssize_t rows = filter_start(g, first + 1) - filter_start(g, first)
    if not TILE_PACKS or g.mode != PLAIN or g.joined or g.panels == 0 or rows < PACKING_ROWS or last - first > PACKING_TILES:
        return 0
    return 2 * min(plan.chain[begin], (end - begin - rest_alone(plan, end - 1)) // 2)


cdef void pack_and_run(
    Gather* g, Plan* plan, Py_ssize_t v, Py_ssize_t vectors, int rows, Tile* t, const real* src, real* panels, real* dst
) noexcept nogil:
    """The filters of one tile over as many vectors, which it reads in the source and packs."""
    cdef Tile packing = t[0]
    packing.step, packing.pack, packing.next_pack = g.place, panels, g.panel
    packing.b0, packing.b1 = src + plan.src[v], src + plan.src[v] + VL
    packing.c0 = dst + run_place(plan, v)
    packing.c1 = packing.c0 + VL
    packing.ldc0 = packing.ldc1 = g.height * g.width
    packing.panels, packing.next_b = vectors // 2, PANEL
    packing_rows(rows, &packing)


cdef void run_tiles(
    Gather* g, Plan* plan, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t first, Py_ssize_t last, const real* a,
    const real* bias, const real* src, real* panels, real* dst
) noexcept nogil:
    """The filters of the tiles first .. last over the vectors begin .. end of outputs.

    Tile by tile: its filters stay in the first-level cache, and what it writes are as many streams as it has rows.
    """
    cdef Py_ssize_t index, m, v, chain, stop = end - 1 if rest_alone(plan, end - 1) else end
    cdef Py_ssize_t packed = packed_by_tile(g, plan, begin, end, first, last)
    cdef real* out
    cdef int rows
    cdef Tile t
    cdef bint images
    t.ahead, t.asks = TAPS_AHEAD * PANEL, False
    t.depth, t.step, t.accumulate, t.ceiling = g.depth, g.packed if g.panels > 0 else g.place, False, g.ceiling
    images = g.mode == PLAIN and end - begin == plan.vectors and image_bytes(g) <= most_image(g) and not g.joined
    if ASKS and images:
        ask_for_next(g, plan, last - first - (packed > 0), src, &t)
    elif ASKS and g.mode == PLAIN and g.panels > 0 and has_room_to_ask():
        ask_for_panels(g, plan, begin, end, last - first - (packed > 0), 0, src, &t)
    if g.panels == 0:
        t.ahead = TAPS_AHEAD * g.plane
    for index in range(first, last):
        m = filter_start(g, index)
        rows = <int> (filter_start(g, index + 1) - m)
        t.a = a + m * g.depth + index * VL
        t.lda = rows
        t.init = bias + m if bias != NULL else NULL
        out = dst + m * g.height * g.width
        if ASKS and g.lazy and begin == 0:
            pack_tile(g, 0, index)
            ask_for_filters(g, end - begin, m + rows, rows, &t)
        elif ASKS and images and t.asks:
            ask_for_outputs(g, plan, rows, out, &t)
        v = begin
        if index == first and packed > 0:
            pack_and_run(g, plan, v, packed, rows, &t, src, panels, out)
            v += packed
        while v < stop:
            if g.panels > 0:
                t.b0 = panels + (v - begin) // 2 * g.panel
                t.b1 = t.b0 + VL
            else:
                t.b0 = src + plan.src[v]
                t.b1 = src + plan.src[min(v + 1, end - 1)]
            chain = min(plan.chain[v], (stop - v) // 2)
            if chain > 0:
                run_chain(g, plan, v, chain, rows, &t, out)
            else:
                run_pieces(g, plan, v, <int> min(2, stop - v), rows, &t, out)
            v += 2 * max(chain, 1)
        if stop < end:
            v = stop - begin
            run_rest(g, plan, rows, &t, panels + v // 2 * g.panel + v % 2 * VL if g.panels > 0 else src + plan.src[stop], out)


cdef void add_slice(
    Gather* g, Plan* plan, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t first, Py_ssize_t last, Py_ssize_t channel,
    const real* a, const real* bias, const real* src, real* panels, real* sums
) noexcept nogil:
    """What a slice of the channels, from `channel` on, adds to the sums of the tiles and vectors."""
    cdef Py_ssize_t taps = g.rows.taps * g.cols.taps, v = begin, stop, index, m, m0 = filter_start(g, first), rest
    cdef Py_ssize_t lane = rest_lane(plan, g.mode)
    cdef int rows
    cdef Tile t
    t.ahead, t.asks = TAPS_AHEAD * PANEL, False
    t.depth, t.step, t.accumulate = min(g.slice, g.channels - channel) * taps, g.packed, channel > 0
    t.ceiling = g.ceiling if channel + g.slice >= g.channels else 0
    t.ldc0, t.ldc1, t.next_b = g.sum_row, g.sum_row, g.panel
    while v < end:
        stop = min(end, v + 2 * g.panels)
        pack_panels(g, plan, v, stop, t.depth, src, panels)
        if ASKS and g.mode == PLAIN and has_room_to_ask():
            ask_for_panels(g, plan, v, stop, last - first, channel, src, &t)
        for index in range(first, last):
            m = filter_start(g, index)
            rows = <int> (filter_start(g, index + 1) - m)
            if ASKS and g.lazy and v + channel == 0:
                pack_tile(g, 0, index)
                ask_for_filters(g, stop - v, m + rows, rows, &t)
            t.a = a + m * g.depth + index * VL + channel * taps * rows
            t.lda = rows
            t.init = bias + m if bias != NULL else NULL
            t.b0, t.c0 = panels, sums + (m - m0) * g.sum_row + (v - begin) * VL
            t.b1, t.c1 = t.b0 + VL, t.c0 + VL
            run_vectors(rows, stop - v - (1 if rest_alone(plan, stop - 1) else 0), &t)
            if rest_alone(plan, stop - 1):
                rest = stop - 1 - v
                run_rest_sums(<int> plan.rest, rows, &t, panels + rest // 2 * g.panel + rest % 2 * VL + lane,
                              sums + (m - m0) * g.sum_row + (stop - 1 - begin) * VL + lane, g.sum_row)
        v = stop


cdef void store_sums(
    Gather* g, Plan* plan, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t first, Py_ssize_t last, const real* sums, real* dst
) noexcept nogil:
    """The sums of all slices to their places."""
    cdef Py_ssize_t m, v, area = g.height * g.width
    for m in range(filter_start(g, first), filter_start(g, last)):
        for v in range(begin, end):
            store_vector(g, plan, v, sums + (v - begin) * VL, dst + m * area)
        sums += g.sum_row
