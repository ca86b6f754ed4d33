# The sums of a Winograd weight gradient (see winograd_weight.pxi), unit by unit of work.
#
# A thread takes the tiles of a unit through blocks of lines that no other core touches: transforms them, multiplies, and goes
# on with the sums. Shared by all threads, each block went through the last-level cache: a vector of tiles took 2500 cycles to
# store where it takes 300 to compute (Zen 4).
#
# Where the sums are small, units are shards of the lines, as many as the sizes say, with sums of their own that are added in
# order. Else they are parts of the channels: x is transformed once for each part of dy and dy for each part of x, and a part's
# filters are made of its sums before those leave the cache. A product continues its sums from block to block, tile after tile:
# the same bits for any block, any parts and any number of threads.

cdef enum:
    SHARD_TILES_BYTES = 1200 * 1024     # a sixth of it took 1.2 to 1.3 times as long with 64 channels: sums go by more often
    SHARD_SUMS_BYTES = 1024 * 1024      # of one shard, at most
    SHARD_TILES = 64                    # of one shard, at least, and half of that where there are two
    MOST_ACROSS = 64                    # tiles of a line: longer rows are several lines, where tiles are of one row or column
    TRANSFORM_CYCLES = 480              # of a vector of channels of a tile, copying included


cdef inline Py_ssize_t odd_lines(Py_ssize_t values) noexcept nogil:
    """At least `values`, as an odd number of cache lines: rows so far apart share no set of the cache before they must."""
    cdef Py_ssize_t line = 64 // <Py_ssize_t> sizeof(real)
    return ((values + max(line, VL) - 1) // line | 1) * line


cdef size_t place_parts(WinogradWeight* g, size_t cursor) noexcept nogil:
    """The transformed tiles of a block, at `cursor`, with room for the largest part; the address behind them."""
    g.x.values = <real*> take(&cursor, g.values * g.x.value * sizeof(real))
    g.dy.values = <real*> take(&cursor, g.values * g.dy.value * sizeof(real))
    return cursor


cdef inline Py_ssize_t part_channel(Py_ssize_t channels, Py_ssize_t step, Py_ssize_t part, Py_ssize_t parts) noexcept nogil:
    """The first channel of a part: whole steps, shared out evenly so that no part is larger than `most_channels`."""
    return min(channels, part * ((channels + step - 1) // step) // parts * step)


cdef inline Py_ssize_t most_channels(Py_ssize_t channels, Py_ssize_t step, Py_ssize_t parts) noexcept nogil:
    """Of a part."""
    return min(channels, ((channels + step - 1) // step + parts - 1) // parts * step)


cdef Py_ssize_t unit_cycles(WinogradWeight* g, Py_ssize_t channels, Py_ssize_t filters) noexcept nogil:
    """About as many for each tile of a unit: a product a vector of channels, and what transforming such a vector takes."""
    cdef Py_ssize_t vectors = vectors_over(channels)
    return vectors * filters * g.values + (vectors + vectors_over(filters)) * TRANSFORM_CYCLES


cdef void choose_weight_parts(WinogradWeight* g, int threads) noexcept nogil:
    """The parts of the channels with which all threads are done soonest, and whose sums are small enough. No result depends on
    them. Sums of 5/4 of the second level beside tiles of as much as it holds: half of the sums with 3/8 of the tiles took
    1.1 times as long, 9/4 with 5/4 as long (Zen 4, 1 MB).
    """
    cdef Py_ssize_t pairs = second_level() * 5 // 4 // (g.values * <Py_ssize_t> sizeof(real))
    cdef Py_ssize_t strips = (g.dy.channels + CACHE_LINE - 1) // CACHE_LINE, of_x, of_dy, c, m, cycles, least = 0
    g.x_parts, g.dy_parts = (g.x.channels + PANEL - 1) // PANEL, strips
    for of_x in range(1, (g.x.channels + PANEL - 1) // PANEL + 1):
        c = most_channels(g.x.channels, PANEL, of_x)
        for of_dy in range(1, strips + 1):
            m = most_channels(g.dy.channels, CACHE_LINE, of_dy)
            cycles = (of_x * of_dy + threads - 1) // threads * unit_cycles(g, c, m)
            if c * m <= pairs and (least == 0 or cycles < least):
                g.x_parts, g.dy_parts, least = of_x, of_dy, cycles


cdef void choose_weight_units(WinogradWeight* g, int threads) noexcept nogil:
    """Shards by the sizes alone, since the sum's order follows from them, or parts."""
    cdef Py_ssize_t tiles = g.total * g.across, values = g.values * <Py_ssize_t> sizeof(real)
    g.shards, g.x_parts, g.dy_parts = 1, 1, 1
    if values * vectors_over(g.x.channels) * VL * g.dy.channels <= SHARD_SUMS_BYTES:
        # Two shards as soon as can be: threads that share the tiles of a small problem took longer than one thread alone.
        g.shards = max(1, min(MOST_SHARDS, max(tiles // SHARD_TILES, min(2, 2 * tiles // SHARD_TILES))))
    g.shards = min(g.shards, g.total)
    if g.shards == 1:
        choose_weight_parts(g, threads)


cdef void choose_weight_block(WinogradWeight* g) noexcept nogil:
    """Lines of a block, and how its tiles and the sums of a unit lie, of the largest parts."""
    cdef Py_ssize_t line, most = SHARD_TILES_BYTES
    cdef Py_ssize_t c = most_channels(g.x.channels, PANEL, g.x_parts), m = most_channels(g.dy.channels, CACHE_LINE, g.dy_parts)
    # Up to a vector of channels needs no place for a second one.
    g.x.pitch, g.dy.pitch = PANEL if c > VL else VL, odd_lines(vectors_over(m) * VL)
    g.ldc = odd_lines(vectors_over(c) * VL)
    g.sum_value = m * g.ldc + PANEL
    g.unit_sums = g.values * g.sum_value
    if g.x_parts * g.dy_parts > 1:
        most = second_level()
    line = g.values * (c + m) * g.across * <Py_ssize_t> sizeof(real)
    g.block = max(1, min(most // line, g.total))
    g.x.panel, g.dy.panel = g.block * g.across * g.x.pitch, PANEL
    g.x.value = (c + PANEL - 1) // PANEL * g.x.panel + PANEL
    g.dy.value = g.block * g.across * g.dy.pitch + PANEL


cdef inline real* unit_sums(const WinogradWeight* g, int share, Py_ssize_t number) noexcept nogil:
    """The sums of a share's first, second or later unit."""
    return <real*> (g.workspace + share * g.workspace_bytes + g.sums_place) + number * g.unit_sums


cdef inline real* shard_sums(const WinogradWeight* g, Py_ssize_t shard) noexcept nogil:
    """Where the thread works whose share the shard is in."""
    cdef int share = share_of(shard, g.shards, g.threads)
    return unit_sums(g, share, shard - share_start(share, g.shards, g.threads))


cdef size_t winograd_weight_memory(WinogradWeight* g, size_t cursor) noexcept nogil:
    cdef Py_ssize_t copy, count = share_count(g.threads)
    g.step = <Py_ssize_t*> take(&cursor, g.block * g.across * sizeof(Py_ssize_t))
    g.bias_pitch = vectors_over(g.dy.channels) * VL
    if g.biases != NULL:
        g.biases = <real*> take(&cursor, g.total * g.bias_pitch * sizeof(real))
    copy = max(copy_values(g, &g.x), copy_values(g, &g.dy)) * VECTORS_OF_LINE + VL
    g.copy_bytes = (copy * <Py_ssize_t> sizeof(real) + 63) // 64 * 64
    g.sums_place = g.copy_bytes + <Py_ssize_t> place_parts(g, 0)
    # The sums of a part are done with when the next one begins.
    g.workspace_bytes = g.sums_place + (g.shards + count - 1) // count * g.unit_sums * <Py_ssize_t> sizeof(real)
    return cursor


cdef void add_products(WinogradWeight* g, Py_ssize_t value, Py_ssize_t tiles, bint accumulate) noexcept nogil:
    """sums[filter, channel] (+)= gradients^T inputs for one value, over the tiles of a block."""
    cdef Py_ssize_t t, m
    cdef int rows
    cdef Tile args
    args.ahead, args.asks = TAPS_AHEAD * PANEL, False
    args.depth, args.step, args.init, args.accumulate, args.ceiling = tiles, g.step, NULL, accumulate, 0
    args.ldc0, args.ldc1, args.next_b = g.ldc, g.ldc, g.x.panel
    for t in range(tile_count(g.dy.channels)):
        m = tile_start(t, g.dy.channels)
        rows = <int> (tile_start(t + 1, g.dy.channels) - m)
        args.a, args.lda = g.dy.values + value * g.dy.value + m, g.dy.pitch
        args.b0 = g.x.values + value * g.x.value
        args.b1 = args.b0 + VL
        args.c0 = g.sums + value * g.sum_value + m * g.ldc
        args.c1 = args.c0 + VL
        run_vectors(rows, vectors_over(g.x.channels), &args)


cdef void filter_output(int size, int taps, const vf* v, vf* y, int ys) noexcept nogil:
    """One axis of a filter's gradient."""
    if size == 4:
        winograd_output(4, 3, v, 1, y, ys)
    elif taps == 3:
        winograd_output(6, 3, v, 1, y, ys)
    else:
        winograd_output(6, 5, v, 1, y, ys)


cdef void gradient_filters(WinogradWeight* g, const real* sums, bint accumulate, real* dw) noexcept nogil:
    """dw of one filter for a unit's channels, from its sums: (dw +) A^T S A, VL channels at a time."""
    cdef Py_ssize_t vector, c, k, lane
    cdef vf half[30]
    cdef vf y[MOST_TAPS]
    cdef vf v[6]
    cdef int i, j, size = g.size, taps = size + 1 - g.m
    for vector in range(vectors_over(g.x.channels)):
        c = vector * VL
        if g.flat:
            for i in range(ALONG):
                half[i] = load(sums + i * g.sum_value + c)
            line_output(taps, half, y)
        for j in range(0 if g.flat else size):
            for i in range(size):
                v[i] = load(sums + (i * size + j) * g.sum_value + c)
            filter_output(size, taps, v, half + j, 6)
        for i in range(0 if g.flat else taps):
            filter_output(size, taps, half + 6 * i, y + taps * i, 1)
        for lane in range(min(VL, g.x.channels - c)):
            for k in range(g.live):
                dw[k] = (<real*> y)[k * VL + lane] + (dw[k] if accumulate else 0)
            dw += g.taps


cdef void add_line_sums(WinogradWeight* g, bint accumulate, real* db) noexcept nogil:
    """(db +) the sums of all lines, which are added in order and in double precision."""
    cdef Py_ssize_t c, line
    cdef double total
    for c in range(g.dy.channels):
        total = 0
        for line in range(g.total):
            total += g.biases[line * g.bias_pitch + c]
        db[c] = <real> total + (db[c] if accumulate else 0)


cdef WinogradWeight part_of(const WinogradWeight* whole, Py_ssize_t part, Py_ssize_t* first) noexcept nogil:
    """The channels of one part: of x, first[0] and on, and of dy, first[1] and on."""
    cdef WinogradWeight g = whole[0]
    cdef Py_ssize_t of_x = part % g.x_parts, of_dy = part // g.x_parts
    first[0] = part_channel(g.x.channels, PANEL, of_x, g.x_parts)
    first[1] = part_channel(g.dy.channels, CACHE_LINE, of_dy, g.dy_parts)
    g.x.channels = part_channel(g.x.channels, PANEL, of_x + 1, g.x_parts) - first[0]
    g.dy.channels = part_channel(g.dy.channels, CACHE_LINE, of_dy + 1, g.dy_parts) - first[1]
    g.x.src = g.x.src + first[0] * g.x.height * g.x.width
    g.dy.src = g.dy.src + first[1] * g.dy.height * g.dy.width
    if g.biases != NULL:
        g.biases = g.biases + first[1] if of_x == 0 else NULL
    return g


cdef void sum_lines(WinogradWeight* g, Py_ssize_t begin, Py_ssize_t end, char* workspace) noexcept nogil:
    """The sums over the lines begin .. end - 1."""
    cdef Py_ssize_t start = begin, lines, value
    place_parts(g, <size_t> (workspace + g.copy_bytes))
    while start < end:
        lines = min(g.block, end - start)
        transform_lines(g, &g.x, start, lines, <real*> workspace)
        transform_lines(g, &g.dy, start, lines, <real*> workspace)
        for value in range(g.values):
            add_products(g, value, lines * g.across, start > begin)
        start += g.block


cdef void run_winograd_sums(const WinogradWeight* whole, Py_ssize_t unit, int thread, bint accumulate, real* dw) noexcept nogil:
    """The lines of a shard; or all lines for a part of the channels, and its filters' gradients."""
    cdef Py_ssize_t first[2]
    cdef Py_ssize_t filter
    cdef char* workspace = whole.workspace + thread * whole.workspace_bytes
    cdef WinogradWeight g = whole[0]
    if g.shards > 1:
        g.sums = shard_sums(whole, unit)
        sum_lines(&g, unit * g.total // g.shards, (unit + 1) * g.total // g.shards, workspace)
        return
    g = part_of(whole, unit, first)
    g.sums = unit_sums(whole, thread, 0)
    sum_lines(&g, 0, g.total, workspace)
    dw += (first[1] * whole.x.channels + first[0]) * g.taps
    for filter in range(g.dy.channels):
        gradient_filters(&g, g.sums + filter * g.ldc, accumulate, dw + filter * whole.x.channels * g.taps)


cdef void add_shard_sums(WinogradWeight* g, Py_ssize_t value) noexcept nogil:
    """Every shard's sums of one value to those of the first."""
    cdef real* sums = g.sums + value * g.sum_value
    cdef const real* others
    cdef Py_ssize_t shard, j
    for shard in range(1, g.shards):
        others = shard_sums(g, shard) + value * g.sum_value
        for j in range(g.dy.channels * g.ldc):
            sums[j] += others[j]


cdef void run_winograd_weight(WinogradWeight* g, int threads, bint accumulate, real* dw) noexcept nogil:
    """One group."""
    cdef Py_ssize_t u, unit, area = g.taps
    cdef Shares shares
    cdef Units units
    for u in range(g.block * g.across):
        g.step[u] = u * g.x.pitch
    share_out(&shares, g.shards * g.x_parts * g.dy_parts, threads)
    g.sums = shard_sums(g, 0)
    with parallel(num_threads=threads):
        units = next_units(&shares, threadid())
        while units.first < units.end:
            for unit in range(units.first, units.end):
                run_winograd_sums(g, unit, threadid(), accumulate, dw)
            units = next_units(&shares, threadid())
        if g.shards > 1:
            wait_for_all()
            for u in prange(g.values, schedule="static"):
                add_shard_sums(g, u)
            wait_for_all()
            for u in prange(g.dy.channels, schedule="static"):
                gradient_filters(g, g.sums + u * g.ldc, accumulate, dw + u * g.x.channels * area)


cdef void open_weight_tiles(
    WinogradWeight* g, int m, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t p, Py_ssize_t q
) noexcept nogil:
    """The sizes of tiles for p x q gradients, and for kernels of so many rows and columns of taps."""
    g.m, g.taps, g.segments, g.upright = m, rows * columns, 1, columns == 1
    g.flat = g.upright or rows == 1
    g.size = ALONG if g.flat else m - 1 + <int> rows
    g.live = ALONG + 1 - m if g.flat else g.taps
    g.values = g.size if g.flat else g.size * g.size
    g.high, g.wide, g.x.rows, g.x.side = m, m, g.size, g.size
    if g.upright:
        g.wide, g.x.side = 1, 1
    elif g.flat:
        g.high, g.x.rows = 1, 1
    g.dy.rows, g.dy.side, g.x.taps, g.dy.taps = g.high, g.wide, 0, m
    g.across = parts_of(q, g.wide)
    if g.flat:
        g.segments = parts_of(g.across, MOST_ACROSS)
        g.across = parts_of(g.across, g.segments)
    g.lines = parts_of(p, g.high) * g.segments


cdef void run_weight_parts(const WinogradWeight* whole, int threads, bint accumulate, real* dw) noexcept nogil:
    """One group: of a row or column of taps one part after the other, as if the rest were padding."""
    cdef WinogradWeight g
    cdef Py_ssize_t first = 0
    while first < whole.taps:
        g = whole[0]
        g.live = min(whole.live, whole.taps - first)
        if g.upright:
            g.x.top -= first
        else:
            g.x.left -= first
        if first > 0:
            g.biases = NULL
        run_winograd_weight(&g, threads, accumulate, dw + first)
        first += whole.live


def winograd_backward_weight(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x, real[:, :, :, ::1] dw,
    int m, int top, int left, int groups, int threads, bint accumulate, real[::1] db, /,
):
    """Fill dw with the gradient with respect to the filters, and db with that with respect to the bias unless it is None, or
    add both."""
    cdef WinogradWeight g
    cdef Py_ssize_t group, filters = dw.shape[0] // groups, channels = dw.shape[1], p = dy.shape[2], q = dy.shape[3]
    cdef Py_ssize_t images = x.shape[0], area = p * q
    open_weight_tiles(&g, m, dw.shape[2], dw.shape[3], p, q)
    g.total = images * g.lines
    g.x.channels, g.x.height, g.x.width, g.x.top, g.x.left = channels, x.shape[2], x.shape[3], top, left
    g.dy.channels, g.dy.height, g.dy.width, g.dy.top, g.dy.left = filters, p, q, 0, 0
    g.x.image, g.dy.image = groups * channels * x.shape[2] * x.shape[3], groups * filters * area
    g.x.end, g.dy.end = &x[0, 0, 0, 0] + images * g.x.image, &dy[0, 0, 0, 0] + images * g.dy.image
    choose_weight_units(&g, threads)
    choose_weight_block(&g)
    g.threads = threads
    # Only whether there is one, until memory is taken for it.
    g.biases = &db[0] if db is not None else NULL
    winograd_weight_memory(&g, scratch(winograd_weight_memory(&g, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    with nogil:
        for group in range(groups):
            g.x.src = &x[0, 0, 0, 0] + group * channels * x.shape[2] * x.shape[3]
            g.dy.src = &dy[0, 0, 0, 0] + group * filters * area
            run_weight_parts(&g, threads, accumulate, &dw[group * filters, 0, 0, 0])
            if g.biases != NULL:
                add_line_sums(&g, accumulate, &db[group * filters])
