# Matrix products for dense layers.
#
#     c[i, j] = bias[j] + sum_k op(a)[i, k] op(b)[k, j]        op: as it stands, or transposed; max(c, 0) with relu
#
# c (m, n), a (m, k) or (k, m), b (k, n) or (n, k), bias (n,) or None. gemm runs on the register tile, columns being the
# vector: b is read in place where one tile reads it, else some panels are packed side by side, a slice of k at a time.
# gemm_rows, for a (m, k) and b (n, k), runs on products of rows and packs nothing: better where n is short. Each value is a
# sum over k in an order that the sizes decide: the same bits for any thread.

# Bytes of panels that are packed and multiplied together. Rows of b and c lie pages apart: panel by panel, two lines of the
# cache were touched of each page.
cdef enum:
    GROUP_BYTES = 128 * 1024
    GEMM_SLICE = 256            # values of k: a panel and a tile's rows stay in the first-level cache
    # Panels that one thread writes and others read cost more than they save in small products, and up to larger ones where each
    # thread has rows enough: there it has rows of its own, and packs for itself.
    SMALL_WORK = 1000 * 1000        # multiply-adds
    LARGE_WORK = 32 * 1000 * 1000
    MANY_ROWS = 32                  # of a thread,
    MANY_COLUMNS = 4                # and at most so many columns for each row: columns are packed as often as there are threads

cdef struct Gemm:
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    const real* a
    const real* b
    bint transpose_a
    bint transpose_b
    const real* bias
    bint relu
    bint accumulate             # add to what c holds
    real* c
    real* packed_a
    Py_ssize_t* place           # row k of b where it lies
    Py_ssize_t* packed          # row k of a packed panel
    char* workspace
    Py_ssize_t workspace_bytes
    Py_ssize_t slice            # values of k that are packed at a time
    Py_ssize_t slices
    Py_ssize_t group            # panels of a unit
    Py_ssize_t tiles            # of rows
    Py_ssize_t splits           # parts of the tiles
    bint alone                  # whether each thread packs for itself


cdef size_t gemm_memory(Gemm* g, size_t cursor) noexcept nogil:
    g.packed_a = <real*> take(&cursor, (g.m * g.k + g.tiles * g.slices * VL) * sizeof(real))
    g.place = <Py_ssize_t*> take(&cursor, g.k * sizeof(Py_ssize_t))
    g.packed = <Py_ssize_t*> take(&cursor, g.k * sizeof(Py_ssize_t))
    g.workspace_bytes = ((g.group * g.slice + 1) * PANEL * <Py_ssize_t> sizeof(real) + 63) // 64 * 64
    return cursor


cdef inline Py_ssize_t first_row(Gemm* g, Py_ssize_t t) noexcept nogil:
    """Of tile t."""
    return t * g.m // g.tiles


cdef inline real* packed_rows(Gemm* g, Py_ssize_t t, Py_ssize_t slice) noexcept nogil:
    """The rows of tile t of op(a) for one slice of k, and a vector to spare."""
    cdef Py_ssize_t m = first_row(g, t), rows = first_row(g, t + 1) - m
    return g.packed_a + m * g.k + slice * g.slice * rows + (t * g.slices + slice) * VL


cdef void choose_group(Gemm* g, int threads) noexcept nogil:
    """As many panels as stay in the cache, but two units or more for each thread; parts of the rows where panels are few, and
    where threads work alone, which then have as many tiles each."""
    cdef Py_ssize_t panels = (g.n + PANEL - 1) // PANEL, units, work = g.m * g.n * g.k
    g.slices = (g.k + GEMM_SLICE - 1) // GEMM_SLICE
    g.slice = (g.k + g.slices - 1) // g.slices
    g.slices = (g.k + g.slice - 1) // g.slice
    g.tiles = tile_count(g.m)
    g.group = max(1, min(panels, GROUP_BYTES // (g.slice * PANEL * <Py_ssize_t> sizeof(real))))
    g.alone = work <= LARGE_WORK and g.m >= MANY_ROWS * threads and g.n <= MANY_COLUMNS * g.m
    g.alone = threads > 1 and (g.alone or work <= SMALL_WORK)
    if g.alone:
        g.splits = min(threads, g.tiles)
        g.tiles = (g.tiles + g.splits - 1) // g.splits * g.splits
        return
    g.group = max(1, min(g.group, panels // (2 * threads)))
    units = (panels + g.group - 1) // g.group
    g.splits = max(1, min(g.tiles, (2 * threads + units - 1) // units if threads > 1 else 1))


cdef void pack_last(Gemm* g, Py_ssize_t k0, Py_ssize_t depth, Py_ssize_t j, Py_ssize_t columns, real* panel) noexcept nogil:
    """The panel of op(b) from column j on that has fewer than PANEL columns."""
    cdef Py_ssize_t k, u
    for k in range(depth):
        for u in range(PANEL):
            panel[k * PANEL + u] = g.b[(k0 + k) * g.n + j + u] if u < columns else 0


cdef void pack_columns(
    Gemm* g, Py_ssize_t k0, Py_ssize_t depth, Py_ssize_t j, Py_ssize_t columns, real* panels
) noexcept nogil:
    """Panels of op(b), one after the other: from column j on PANEL values of each k of a slice."""
    cdef Py_ssize_t k, panel, whole = columns // PANEL, size = depth * PANEL, some
    cdef const real* row
    if g.transpose_b:
        for panel in range((columns + PANEL - 1) // PANEL):
            some = min(PANEL, columns - panel * PANEL)
            row = g.b + (j + panel * PANEL) * g.k + k0
            transpose_run(row, g.b + g.n * g.k, g.k, some, depth, panels + panel * size, PANEL)
        return
    for k in range(depth):
        row = g.b + (k0 + k) * g.n + j
        for panel in range(whole):
            store(panels + panel * size + k * PANEL, load(row + panel * PANEL))
            store(panels + panel * size + k * PANEL + VL, load(row + panel * PANEL + VL))
    if whole * PANEL < columns:
        pack_last(g, k0, depth, j + whole * PANEL, columns - whole * PANEL, panels + whole * size)


cdef inline void copy_rows(
    const real* src, Py_ssize_t pitch, int rows, Py_ssize_t columns, real* dst, Py_ssize_t ld
) noexcept nogil:
    cdef int i
    for i in range(rows):
        memcpy(dst + i * ld, src + i * pitch, columns * sizeof(real))


cdef void run_last(Gemm* g, Py_ssize_t j, const real* start, Py_ssize_t pitch, real* c, int rows, Tile* args) noexcept nogil:
    """A tile over fewer than PANEL columns, added to what `start` holds, if it is there."""
    cdef Py_ssize_t columns = g.n - j
    cdef real spill[TILE]
    args.c0, args.c1, args.ldc0, args.ldc1, args.panels = spill, spill + VL, PANEL, PANEL, 1
    if start != NULL:
        copy_rows(start, pitch, rows, columns, spill, PANEL)
    run_tile(rows, 2 if columns > VL else 1, args)
    copy_rows(spill, PANEL, rows, columns, c, g.n)


cdef void run_slice(
    Gemm* g, Py_ssize_t k0, Py_ssize_t j, Py_ssize_t columns, Py_ssize_t first, Py_ssize_t last, real* packed
) noexcept nogil:
    """What a slice of k adds to a group of panels of columns, for the tiles of rows first .. last - 1."""
    cdef Py_ssize_t whole = columns // PANEL, depth = min(g.slice, g.k - k0), t, row
    cdef bint begin = k0 == 0 and not g.accumulate
    cdef const real* panels = packed
    cdef const real* bias = g.bias + j if g.bias != NULL else NULL
    cdef real* c
    cdef int rows
    cdef Tile args
    args.ahead, args.asks = TAPS_AHEAD * PANEL, False
    args.depth, args.accumulate, args.init = depth, bias != NULL or not begin, NULL
    args.ceiling = INFINITY if g.relu and k0 + depth == g.k else 0
    if whole * PANEL == columns and last - first == 1 and not g.transpose_b:
        panels = g.b + k0 * g.n + j
        args.step, args.next_b = g.place, PANEL
    else:
        pack_columns(g, k0, depth, j, columns, packed)
        args.step, args.next_b = g.packed, depth * PANEL
    for t in range(first, last):
        row = first_row(g, t)
        rows = <int> (first_row(g, t + 1) - row)
        c = g.c + row * g.n + j
        args.a, args.lda = packed_rows(g, t, k0 // g.slice), rows
        if whole > 0:
            if begin and bias != NULL:
                copy_rows(bias, 0, rows, whole * PANEL, c, g.n)
            args.b0, args.c0, args.ldc0, args.ldc1, args.panels = panels, c, g.n, g.n, whole
            args.b1, args.c1 = args.b0 + VL, args.c0 + VL
            run_tile(rows, 2, &args)
        if whole * PANEL < columns:
            args.b0 = panels + whole * args.next_b
            args.b1 = args.b0 + VL
            c += whole * PANEL
            if begin:
                run_last(g, j + whole * PANEL, bias + whole * PANEL if bias != NULL else NULL, 0, c, rows, &args)
            else:
                run_last(g, j + whole * PANEL, c, g.n, c, rows, &args)


cdef void pack_a(Gemm* g, Py_ssize_t unit) noexcept nogil:
    """The rows of one tile of op(a) for one slice of k: [k][row]."""
    cdef Py_ssize_t slice = unit % g.slices, t = unit // g.slices, k0 = slice * g.slice, depth = min(g.slice, g.k - k0), k, i
    cdef Py_ssize_t m = first_row(g, t), rows = first_row(g, t + 1) - m
    cdef real* dst = packed_rows(g, t, slice)
    if g.transpose_a:
        for k in range(k0, k0 + depth):
            for i in range(rows):
                dst[(k - k0) * rows + i] = g.a[k * g.m + m + i]
    else:
        transpose_run(g.a + m * g.k + k0, g.a + g.m * g.k, g.k, rows, depth, dst, rows)


cdef void run_gemm_unit(Gemm* g, Py_ssize_t unit, real* packed) noexcept nogil:
    """A group of panels of columns for one part of the rows, or all groups where threads work alone."""
    cdef Py_ssize_t columns = g.group * PANEL, j = unit // g.splits * columns, split = unit % g.splits, k0, u
    cdef Py_ssize_t first = split * g.tiles // g.splits, last = (split + 1) * g.tiles // g.splits
    cdef Py_ssize_t end = g.n if g.alone else min(g.n, j + columns)
    if g.alone:
        for u in range(first * g.slices, last * g.slices):
            pack_a(g, u)
    while j < end:
        k0 = 0
        while k0 < g.k:
            run_slice(g, k0, j, min(columns, g.n - j), first, last, packed)
            k0 += g.slice
        j += columns


def gemm(
    const real[:, ::1] a, const real[:, ::1] b, const real[::1] bias, real[:, ::1] c, bint transpose_a, bint transpose_b,
    bint relu, bint accumulate, int threads, /,
):
    """Fill c with op(a) op(b), plus the bias in every row unless it is None, rectified if `relu`; or, without a bias, add to c
    with `accumulate`."""
    cdef Gemm g
    cdef Shares shares
    cdef Units units
    cdef Py_ssize_t u, unit, k, groups
    g.m, g.n, g.k = c.shape[0], c.shape[1], b.shape[1] if transpose_b else b.shape[0]
    g.transpose_a, g.transpose_b, g.relu, g.accumulate = transpose_a, transpose_b, relu, accumulate
    g.a, g.b, g.c, g.bias = &a[0, 0], &b[0, 0], &c[0, 0], &bias[0] if bias is not None else NULL
    choose_group(&g, threads)
    if g.alone:
        threads = <int> g.splits
    groups = 1 if g.alone else (g.n + g.group * PANEL - 1) // (g.group * PANEL)
    share_out(&shares, groups * g.splits, threads)
    gemm_memory(&g, scratch(gemm_memory(&g, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    with nogil:
        for k in range(g.k):
            g.place[k] = k * g.n
            g.packed[k] = k * PANEL
        with parallel(num_threads=threads):
            if not g.alone:
                for u in prange(g.tiles * g.slices, schedule="static"):
                    pack_a(&g, u)
                wait_for_all()
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    run_gemm_unit(&g, unit, <real*> (g.workspace + threadid() * g.workspace_bytes))
                units = next_units(&shares, threadid())


# A block of gemm_rows: six rows of b stay in the first-level cache while the rows of a pass by, and those in the second
# level while the rows of b do. Read for every six rows of b from behind it, they took two to three times as long.
cdef enum:
    BLOCK_DEPTH = 768
    UNIT_ROWS = 64


cdef struct RowProducts:
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    const real* a
    const real* b
    const real* bias
    real* c
    bint relu
    Py_ssize_t parts            # of the columns
    Py_ssize_t splits           # parts of the rows of a


cdef inline Py_ssize_t part_start(RowProducts* g, Py_ssize_t part) noexcept nogil:
    """The first column of a part: whole tiles of them."""
    return min(g.n, part * ((g.n + DOT_COLS - 1) // DOT_COLS) // g.parts * DOT_COLS)


cdef void run_rows_unit(RowProducts* g, Py_ssize_t unit, const real** rows) noexcept nogil:
    """One part of the columns, for one part of the rows, over all blocks of k in order."""
    cdef Py_ssize_t part = unit // g.splits, j0 = part_start(g, part), cols = part_start(g, part + 1) - j0
    cdef Py_ssize_t split = unit % g.splits, i, j, k = 0
    cdef Py_ssize_t first = split * g.m // g.splits, count = (split + 1) * g.m // g.splits - first
    cdef real* c = g.c + first * g.n + j0
    for i in range(count):
        for j in range(cols):
            c[i * g.n + j] = g.bias[j0 + j] if g.bias != NULL else 0
    while k < g.k:
        for i in range(count):
            rows[i] = g.a + (first + i) * g.k + k
        for j in range(cols):
            rows[count + j] = g.b + (j0 + j) * g.k + k
        dot_products(rows, count, rows + count, cols, min(BLOCK_DEPTH, g.k - k), c, g.n, 1)
        k += BLOCK_DEPTH
    if g.relu:
        for i in range(count):
            for j in range(cols):
                c[i * g.n + j] = 0 if c[i * g.n + j] < 0 else c[i * g.n + j]


def gemm_rows(
    const real[:, ::1] a, const real[:, ::1] b, const real[::1] bias, real[:, ::1] c, bint relu, int threads, /
):
    """Fill c with a b^T, plus the bias in every row unless it is None, rectified if `relu`."""
    cdef RowProducts g
    cdef Shares shares
    cdef Units units
    cdef Py_ssize_t unit, tiles, nbytes
    cdef char* start
    cdef const real** rows
    g.m, g.n, g.k, g.relu = c.shape[0], c.shape[1], a.shape[1], relu
    g.a, g.b, g.c, g.bias = &a[0, 0], &b[0, 0], &c[0, 0], &bias[0] if bias is not None else NULL
    tiles = (g.n + DOT_COLS - 1) // DOT_COLS
    # A part of the columns for each thread: every part reads all of its rows of a again.
    g.parts = min(tiles, threads)
    g.splits = max(1, min((g.m + DOT_ROWS - 1) // DOT_ROWS, (2 * threads + tiles - 1) // tiles if threads > 1 else 1))
    g.splits = max(g.splits, (g.m + UNIT_ROWS - 1) // UNIT_ROWS)
    nbytes = (g.m + (tiles + g.parts - 1) // g.parts * DOT_COLS) * <Py_ssize_t> sizeof(void*)
    start = scratch_of_threads(threads, &nbytes)
    share_out(&shares, g.parts * g.splits, threads)
    with nogil, parallel(num_threads=threads):
        rows = <const real**> (start + threadid() * nbytes)
        units = next_units(&shares, threadid())
        while units.first < units.end:
            for unit in range(units.first, units.end):
                run_rows_unit(&g, unit, rows)
            units = next_units(&shares, threadid())
