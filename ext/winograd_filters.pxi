# Transformed filters of a Winograd convolution, and their products with tiles (see winograd.pxi).

cdef enum:
    MOST_TRANSPOSED = 72            # taps at once: 8 channels of 3 x 3


cdef inline real* filters_of(Winograd* g, int thread, Py_ssize_t group) noexcept nogil:
    """The transformed filters of a group that a thread writes and reads."""
    cdef Workspace space
    cdef real* filters = g.filters_in
    if g.copies > 1:
        place_workspace(g, &space, <size_t> (g.workspace + thread * g.workspace_bytes))
        filters = space.filters
    return filters + (0 if g.fleeting else group) * g.sets * g.filter_values


cdef inline Py_ssize_t filter_tile(Winograd* g, Py_ssize_t t) noexcept nogil:
    """Where the rows of tile t begin within a value of the transformed filters."""
    return 0 if g.fleeting else tile_start(t, g.filters) * g.depth + t * VL


cdef inline void filter_values "convlayers_filter_values"(
    int size, int count, const real* taps, Py_ssize_t tap_stride, bint flipped, real* dst, Py_ssize_t ldv
) noexcept nogil:
    """U = G g G^T for VL filters of count x count taps, which are vectors `tap_stride` apart."""
    cdef vf g[MOST_TAPS]
    cdef vf half[30]
    cdef vf u[6]
    cdef int i, j
    for i in range(count * count):
        g[i] = load(taps + (count * count - 1 - i if flipped else i) * tap_stride)
    if size == STRIDED:
        strided_filter_values(g, dst, ldv)
        return
    for j in range(count):
        winograd_filter(size, count, g + j, count, half + j, count)
    for i in range(size):
        winograd_filter(size, count, half + count * i, 1, u, 1)
        for j in range(size):
            store(dst + (i * size + j) * ldv, u[j])


cdef void transform_filters(Winograd* g, Py_ssize_t unit, int thread) noexcept nogil:
    """One tile of rows of one group, for all channels: [channel][row] of every value.

    The taps of some channels are transposed at once where they are neighbours, as forward: 3 x 3 of them alone leave most of a
    second vector empty.
    """
    cdef Py_ssize_t tiles = tile_count(g.filters), group = unit // tiles, t = unit % tiles, m = tile_start(t, g.filters)
    cdef Py_ssize_t rows = tile_start(t + 1, g.filters) - m, c = 0, some, k, i, area = g.row_taps if g.flat else g.taps * g.taps
    cdef Py_ssize_t group_stride = max(g.filters * g.row_stride, g.channels * g.channel_stride)
    cdef Py_ssize_t most = MOST_TRANSPOSED // area if g.channel_stride == area else 1
    cdef real taps[MOST_TRANSPOSED * (MR + VL)]
    cdef Py_ssize_t pitch = vectors_over(rows) * VL
    cdef real* dst = filters_of(g, thread, group) + filter_tile(g, t)
    cdef int part
    cdef const real* w = g.w + group * group_stride + m * g.row_stride
    while c < g.channels:
        some = min(most, g.channels - c)
        ask_taps(w + (some + CHANNELS_AHEAD) * g.channel_stride, g.row_stride, rows)
        transpose_run(w, g.w_end, g.row_stride, rows, some * area, taps, pitch)
        # What a vector writes too much lies where the next channel's rows are written later.
        for k in range(some):
            if g.flat:
                for part in range(g.parts):
                    for i in range(vectors_over(rows)):
                        filters_along(g, taps + k * area * pitch + i * VL, pitch, part, dst + i * VL)
                    dst += rows
                continue
            for i in range(vectors_over(rows)):
                if g.taps == 3:
                    filter_values(g.size, 3, taps + k * area * pitch + i * VL, pitch, g.flipped, dst + i * VL, g.filter_values)
                else:
                    filter_values(6, 5, taps + k * area * pitch + i * VL, pitch, g.flipped, dst + i * VL, g.filter_values)
            dst += rows
        w += some * g.channel_stride
        c += some


cdef void transform_all(Winograd* g, int thread) noexcept nogil:
    """All of them, by one thread for itself."""
    cdef Py_ssize_t unit
    for unit in range(g.groups * tile_count(g.filters)):
        transform_filters(g, unit, thread)


cdef inline bint is_idle(Winograd* g, Py_ssize_t value, Py_ssize_t phase) noexcept nogil:
    """Whether a value is zero in all filters of phase 2 a + b, which have fewer than r taps: the first value of an axis is the
    filter's first tap, and the last one its last. `idle` has two bits for each a, and four further on for each b."""
    cdef Py_ssize_t last = g.size - 1, i = value // g.size, j = value % g.size
    cdef int of_row = g.idle >> phase // 2 * 2, of_column = g.idle >> 4 + phase % 2 * 2
    return (i == 0 and of_row & 1) or (i == last and of_row & 2) or (j == 0 and of_column & 1) or (j == last and of_column & 2)


cdef void multiply_depths(
    Winograd* g, Py_ssize_t first, Py_ssize_t count, Py_ssize_t vectors, const Tile* whole
) noexcept nogil:
    """A tile of rows for some of the channels, added to what others gave."""
    cdef Tile args = whole[0]
    args.depth = count
    args.a = args.a + first * args.lda
    args.b0 = args.b0 + first * PANEL
    args.b1, args.c1 = args.b0 + VL, args.c0 + VL
    run_vectors(<int> args.lda, vectors, &args)


cdef void multiply_value(Winograd* g, Py_ssize_t value, Py_ssize_t m, Py_ssize_t vectors, Tile* args) noexcept nogil:
    """The products of one value for a tile of rows from row m on, but for those with filters that are zero."""
    cdef Py_ssize_t phase = 0, first, depth = g.channels // 4, rows = g.filters // 4
    args.accumulate = False
    if not g.idle:
        multiply_depths(g, 0, g.depth, vectors, args)
        return
    if g.phases_out:
        for phase in range(m // rows, (m + args.lda - 1) // rows + 1):
            if not is_idle(g, value, phase):
                multiply_depths(g, 0, g.channels, vectors, args)
                return
    else:
        while phase < 4:
            first = phase
            while phase < 4 and not is_idle(g, value, phase):
                phase += 1
            if phase > first:
                multiply_depths(g, first * depth, (phase - first) * depth, vectors, args)
                args.accumulate = True
            phase += 1
    if not args.accumulate:
        memset(args.c0, 0, args.lda * g.block * sizeof(real))


cdef void multiply_block(
    Winograd* g, const real* filters, Py_ssize_t vectors, Py_ssize_t first, Py_ssize_t last, const real* inputs, real* products
) noexcept nogil:
    """For each value the product of tiles and the filters of the tiles of rows first .. last - 1: [value][filter][tile]."""
    cdef Py_ssize_t value, t, m, start = tile_start(first, g.filters)
    cdef Tile args
    args.ahead, args.asks = TAPS_AHEAD * PANEL, False
    args.step, args.init, args.ceiling, args.ldc0, args.ldc1 = g.step, NULL, 0, g.block, g.block
    args.next_b = g.depth * PANEL
    for value in range(tile_values(g)):
        for t in range(first, last):
            m = tile_start(t, g.filters)
            args.lda = tile_start(t + 1, g.filters) - m
            args.a = filters + filter_set(g.size, <int> value) * g.filter_values + filter_tile(g, t)
            prefetch(args.a + args.lda * g.depth + VL, args.lda * g.depth * <Py_ssize_t> sizeof(real), False)
            args.b0, args.c0 = inputs + value * g.values_in, products + value * g.values_out + (m - start) * g.block
            multiply_value(g, value, m, vectors, &args)
