# Matrix product on the register tile, for dense layers.
#
#     c[i, j] = bias[j] + sum_k op(a)[i, k] op(b)[k, j]        op: as it stands, or transposed; max(c, 0) with relu
#
# c (m, n), a (m, k) or (k, m), b (k, n) or (n, k), bias (n,) or empty. Columns are the vector: b is read in place where a
# panel of it is VL neighbouring values, else packed. Each value is one sum over k in order: the same bits for any thread.

cdef struct Gemm:
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    const real* b
    Py_ssize_t b_row            # values from one k to the next
    Py_ssize_t b_column
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
    g.packed_a = <real*> take(&cursor, g.m * g.k * sizeof(real))
    g.place = <Py_ssize_t*> take(&cursor, g.k * sizeof(Py_ssize_t))
    g.packed = <Py_ssize_t*> take(&cursor, g.k * sizeof(Py_ssize_t))
    g.workspace_bytes = (g.k * PANEL * <Py_ssize_t> sizeof(real) + 63) // 64 * 64
    g.workspace = <char*> take(&cursor, threads * g.workspace_bytes)
    return cursor


cdef void pack_columns(Gemm* g, Py_ssize_t j, Py_ssize_t columns, real* panel) noexcept nogil:
    """A panel of b: `columns` values for each k, PANEL apart; the rest of a row is zero."""
    cdef Py_ssize_t k, k0, u
    for k0 in range(0, g.k, 64):
        for u in range(PANEL):
            for k in range(k0, min(k0 + 64, g.k)):
                panel[k * PANEL + u] = g.b[k * g.b_row + (j + u) * g.b_column] if u < columns else 0


cdef void run_gemm_unit(Gemm* g, Py_ssize_t unit, real* panel) noexcept nogil:
    """One panel of columns, for one part of the rows."""
    cdef Py_ssize_t j = unit // g.splits * PANEL, split = unit % g.splits, tiles = tile_count(g.m), i, t, row, u
    cdef Py_ssize_t columns = min(PANEL, g.n - j)
    cdef bint whole = columns == PANEL
    cdef int rows
    cdef real spill[TILE]
    cdef Tile args
    args.depth, args.accumulate, args.init, args.relu = g.k, g.bias != NULL, NULL, g.relu
    if whole and g.b_column == 1:
        args.b0 = g.b + j
        args.step = g.place
    else:
        pack_columns(g, j, columns, panel)
        args.b0 = panel
        args.step = g.packed
    args.b1 = args.b0 + VL
    args.ldc0 = args.ldc1 = g.n if whole else PANEL
    for t in range(split * tiles // g.splits, (split + 1) * tiles // g.splits):
        row = tile_start(t, g.m)
        rows = <int> (tile_start(t + 1, g.m) - row)
        args.a = g.packed_a + row * g.k
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


def gemm(
    const real[:, ::1] a, const real[:, ::1] b, const real[::1] bias, real[:, ::1] c, bint transpose_a, bint transpose_b,
    bint relu, int threads,
):
    """Fill c with op(a) op(b), plus the bias in every row unless it is empty, rectified if `relu`."""
    cdef Gemm g
    cdef Py_ssize_t u, tiles, panels, a_row, a_column, k
    cdef const real* pa = &a[0, 0]
    cdef unsigned char[::1] buffer
    g.m, g.n, g.k = c.shape[0], c.shape[1], a.shape[0] if transpose_a else a.shape[1]
    a_row, a_column = 1 if transpose_a else g.k, g.m if transpose_a else 1
    g.b_row, g.b_column = 1 if transpose_b else g.n, g.k if transpose_b else 1
    g.relu = relu
    g.b, g.c, g.bias = &b[0, 0], &c[0, 0], &bias[0] if bias.shape[0] else NULL
    tiles, panels = tile_count(g.m), (g.n + PANEL - 1) // PANEL
    g.splits = max(1, min(tiles, (2 * threads + panels - 1) // panels if threads > 1 else 1))
    buffer = _scratch(gemm_memory(&g, threads, 0))
    gemm_memory(&g, threads, <size_t> &buffer[0])
    with nogil:
        for k in range(g.k):
            g.place[k] = k * g.b_row
            g.packed[k] = k * PANEL
        with parallel(num_threads=threads):
            for u in prange(tiles, schedule="static"):
                pack_rows(pa + tile_start(u, g.m) * a_row, a_row, a_column, <int> (tile_start(u + 1, g.m) - tile_start(u, g.m)),
                          g.k, g.packed_a + tile_start(u, g.m) * g.k)
            for u in prange(panels * g.splits, schedule="dynamic"):
                run_gemm_unit(&g, u, <real*> (g.workspace + threadid() * g.workspace_bytes))
