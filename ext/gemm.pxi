# Matrix products for dense layers.
#
#     c[i, j] = bias[j] + sum_k op(a)[i, k] op(b)[k, j]        op: as it stands, or transposed; max(c, 0) with relu
#
# c (m, n), a (m, k) or (k, m), b (k, n) or (n, k), bias (n,) or empty. gemm runs on the register tile, columns being the
# vector: b is read in place where one tile reads it, else a panel is packed. gemm_rows, for a (m, k) and b (n, k), runs on
# products of rows and packs nothing: better where k is long or n short. Each value is a sum over k in an order that the sizes
# decide: the same bits for any thread.

cdef struct Gemm:
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    const real* b
    bint transpose_b
    const real* bias
    bint relu
    real* c
    real* packed_a
    Py_ssize_t* place           # row k of b where it lies
    Py_ssize_t* packed          # row k of a packed panel
    char* workspace
    Py_ssize_t workspace_bytes
    Py_ssize_t splits           # parts of the rows


cdef size_t gemm_memory(Gemm* g, int threads, size_t cursor) noexcept nogil:
    g.packed_a = <real*> take(&cursor, (g.m * g.k + tile_count(g.m) * VL) * sizeof(real))
    g.place = <Py_ssize_t*> take(&cursor, g.k * sizeof(Py_ssize_t))
    g.packed = <Py_ssize_t*> take(&cursor, g.k * sizeof(Py_ssize_t))
    g.workspace_bytes = ((g.k + 1) * PANEL * <Py_ssize_t> sizeof(real) + 63) // 64 * 64
    g.workspace = <char*> take(&cursor, threads * g.workspace_bytes)
    return cursor


cdef void pack_columns(Gemm* g, Py_ssize_t j, Py_ssize_t columns, real* panel) noexcept nogil:
    """A panel of op(b): `columns` values of each k, PANEL apart."""
    cdef Py_ssize_t k, u
    if g.transpose_b:
        transpose_run(g.b + j * g.k, g.b + g.n * g.k, g.k, columns, g.k, panel, PANEL)
    elif columns == PANEL:
        for k in range(g.k):
            store(panel + k * PANEL, load(g.b + k * g.n + j))
            store(panel + k * PANEL + VL, load(g.b + k * g.n + j + VL))
    else:
        for k in range(g.k):
            for u in range(PANEL):
                panel[k * PANEL + u] = g.b[k * g.n + j + u] if u < columns else 0


cdef void run_gemm_unit(Gemm* g, Py_ssize_t unit, real* panel) noexcept nogil:
    """One panel of columns, for one part of the rows."""
    cdef Py_ssize_t j = unit // g.splits * PANEL, split = unit % g.splits, tiles = tile_count(g.m), i, t, row, u
    cdef Py_ssize_t first = split * tiles // g.splits, last = (split + 1) * tiles // g.splits
    cdef Py_ssize_t columns = min(PANEL, g.n - j)
    cdef bint whole = columns == PANEL
    cdef int rows
    cdef real spill[TILE]
    cdef Tile args
    args.depth, args.accumulate, args.init, args.relu, args.panels, args.next_b = g.k, g.bias != NULL, NULL, g.relu, 1, 0
    if whole and last - first == 1 and not g.transpose_b:
        args.b0 = g.b + j
        args.step = g.place
    else:
        pack_columns(g, j, columns, panel)
        args.b0 = panel
        args.step = g.packed
    args.b1 = args.b0 + VL
    args.ldc0 = args.ldc1 = g.n if whole else PANEL
    for t in range(first, last):
        row = tile_start(t, g.m)
        rows = <int> (tile_start(t + 1, g.m) - row)
        args.a = g.packed_a + row * g.k + t * VL
        args.lda = rows
        args.c0 = g.c + row * g.n + j if whole else spill
        args.c1 = args.c0 + VL
        if g.bias != NULL:
            for i in range(rows):
                memcpy(args.c0 + i * args.ldc0, g.bias + j, columns * sizeof(real))
        run_tile(rows, 2 if columns > VL else 1, &args)
        if not whole:
            for i in range(rows):
                for u in range(columns):
                    g.c[(row + i) * g.n + j + u] = spill[i * PANEL + u]


cdef void pack_a(const real* a, Gemm* g, Py_ssize_t t, bint transposed) noexcept nogil:
    """The rows of tile t of op(a): [k][row], and a vector to spare behind them."""
    cdef Py_ssize_t m = tile_start(t, g.m), rows = tile_start(t + 1, g.m) - m, k, i
    cdef real* dst = g.packed_a + m * g.k + t * VL
    if transposed:
        for k in range(g.k):
            for i in range(rows):
                dst[k * rows + i] = a[k * g.m + m + i]
    else:
        transpose_run(a + m * g.k, a + g.m * g.k, g.k, rows, g.k, dst, rows)


def gemm(
    const real[:, ::1] a, const real[:, ::1] b, const real[::1] bias, real[:, ::1] c, bint transpose_a, bint transpose_b,
    bint relu, int threads, /,
):
    """Fill c with op(a) op(b), plus the bias in every row unless it is empty, rectified if `relu`."""
    cdef Gemm g
    cdef Py_ssize_t u, tiles, panels, k
    cdef unsigned char[::1] buffer
    g.m, g.n, g.k = c.shape[0], c.shape[1], b.shape[1] if transpose_b else b.shape[0]
    g.transpose_b, g.relu = transpose_b, relu
    g.b, g.c, g.bias = &b[0, 0], &c[0, 0], &bias[0] if bias.shape[0] else NULL
    tiles, panels = tile_count(g.m), (g.n + PANEL - 1) // PANEL
    g.splits = max(1, min(tiles, (2 * threads + panels - 1) // panels if threads > 1 else 1))
    buffer = _scratch(gemm_memory(&g, threads, 0))
    gemm_memory(&g, threads, <size_t> &buffer[0])
    with nogil:
        for k in range(g.k):
            g.place[k] = k * g.n
            g.packed[k] = k * PANEL
        with parallel(num_threads=threads):
            for u in prange(tiles, schedule="static"):
                pack_a(&a[0, 0], &g, u, transpose_a)
            for u in prange(panels * g.splits, schedule="dynamic"):
                run_gemm_unit(&g, u, <real*> (g.workspace + threadid() * g.workspace_bytes))


# Depth of a block of gemm_rows: six rows of b stay in the first-level cache while the rows of a pass by.
cdef enum:
    BLOCK_DEPTH = 1536


cdef struct RowProducts:
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    const real* a
    const real* b
    const real* bias
    real* c
    bint relu
    Py_ssize_t splits           # parts of the rows of a


cdef void run_rows_unit(RowProducts* g, Py_ssize_t unit, const real** rows) noexcept nogil:
    """A few columns, for one part of the rows, over all blocks of k in order."""
    cdef Py_ssize_t j0 = unit // g.splits * DOT_COLS, cols = min(DOT_COLS, g.n - j0), split = unit % g.splits, i, j, k = 0
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
    """Fill c with a b^T, plus the bias in every row unless it is empty, rectified if `relu`."""
    cdef RowProducts g
    cdef Py_ssize_t u, tiles, pointers
    cdef unsigned char[::1] buffer
    cdef const real** rows
    g.m, g.n, g.k, g.relu = c.shape[0], c.shape[1], a.shape[1], relu
    g.a, g.b, g.c, g.bias = &a[0, 0], &b[0, 0], &c[0, 0], &bias[0] if bias.shape[0] else NULL
    tiles = (g.n + DOT_COLS - 1) // DOT_COLS
    g.splits = max(1, min((g.m + DOT_ROWS - 1) // DOT_ROWS, (2 * threads + tiles - 1) // tiles if threads > 1 else 1))
    pointers = g.m + DOT_COLS
    buffer = _scratch(threads * pointers * sizeof(void*))
    with nogil, parallel(num_threads=threads):
        for u in prange(tiles * g.splits, schedule="dynamic"):
            rows = <const real**> &buffer[0] + threadid() * pointers
            run_rows_unit(&g, u, rows)
