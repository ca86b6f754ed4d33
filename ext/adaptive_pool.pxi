# Adaptive pooling where windows differ in length and neighbours share pixels: window (p, q) of a plane has the rows
# rows[p,0] .. rows[p,1] and the columns columns[q,0] .. columns[q,1].
#
#     max      y[p,q] = max_hw x[h,w]                 dx = dy at the first maximum in row order
#     average  y[p,q] = (1/n_pq) sum_hw x[h,w]        dx += dy / n_pq over the window
#
# x (planes, H, W), y (planes, P, Q); the index of a maximum is its pixel, h * W + w. The rows of a row of windows become one
# line, a vector at a time, and a window is then a part of the line; backward, a row of dy becomes a line, and each row that its
# windows have takes it. Windows cover their plane, begin one behind the other and share one pixel at most. A plane belongs to
# one thread. Pixels copied side by side, for the kernels of windows of one size, took 10 to 25 times as long (Zen 3).

cdef struct Cells:
    Py_ssize_t height
    Py_ssize_t width
    Py_ssize_t p
    Py_ssize_t q
    const int* rows
    const int* columns
    const real* end             # of x


cdef Cells cells_of(const int[:, ::1] rows, const int[:, ::1] columns, const real[:, :, ::1] x) noexcept:
    cdef Cells g
    g.height, g.width, g.p, g.q = x.shape[1], x.shape[2], rows.shape[0], columns.shape[0]
    g.rows, g.columns, g.end = &rows[0, 0], &columns[0, 0], &x[0, 0, 0] + x.shape[0] * x.shape[1] * x.shape[2]
    return g


cdef inline real cell_share(const Cells* g, Py_ssize_t p, Py_ssize_t q) noexcept nogil:
    """How many pixels a window has."""
    return <real> ((g.rows[2 * p + 1] - g.rows[2 * p]) * (g.columns[2 * q + 1] - g.columns[2 * q]))


cdef void cell_means(const Cells* g, const real* x, real* line, real* y) noexcept nogil:
    """Of one plane."""
    cdef Py_ssize_t p, q, r, w, j
    cdef vf sums
    cdef real total
    for p in range(g.p):
        w = 0
        while w < g.width:
            sums = load_before(x + g.rows[2 * p] * g.width + w, g.end)
            for r in range(g.rows[2 * p] + 1, g.rows[2 * p + 1]):
                sums = sums + load_before(x + r * g.width + w, g.end)
            store(line + w, sums)
            w += VL
        for q in range(g.q):
            total = 0
            for j in range(g.columns[2 * q], g.columns[2 * q + 1]):
                total = total + line[j]
            y[p * g.q + q] = total / cell_share(g, p, q)


cdef inline bint wins(real v, lane row, real best, lane row_of_best) noexcept nogil:
    """Whether v, of a column behind that of `best`, is the larger or as large in an earlier row; NaN is the largest."""
    if v != v or best != best:
        return v != v and (best == best or row < row_of_best)
    return v > best or (v == best and row < row_of_best)


cdef void cell_maxima(const Cells* g, const real* x, real* line, real* highest, real* y, int* index) noexcept nogil:
    """Of one plane; `highest` gets the row of each maximum of the line, as a lane."""
    cdef Py_ssize_t p, q, r, w, j, at
    cdef vf best, v
    cdef vmask row, better
    cdef const lane* rows = <const lane*> highest
    for p in range(g.p):
        w = 0
        while w < g.width:
            best, row = load_before(x + g.rows[2 * p] * g.width + w, g.end), isplat(g.rows[2 * p])
            for r in range(g.rows[2 * p] + 1, g.rows[2 * p + 1]):
                v = load_before(x + r * g.width + w, g.end)
                better = vbeats(v, best)
                best, row = vselect(better, v, best), iselect(better, isplat(r), row)
            store(line + w, best)
            store(highest + w, vreal(row))
            w += VL
        for q in range(g.q):
            at = g.columns[2 * q]
            for j in range(at + 1, g.columns[2 * q + 1]):
                if wins(line[j], rows[j], line[at], rows[at]):
                    at = j
            y[p * g.q + q] = line[at]
            index[p * g.q + q] = <int> (rows[at] * g.width + at)


cdef void spread_means(const Cells* g, const real* dy, real* line, real* dx) noexcept nogil:
    """To one plane."""
    cdef Py_ssize_t p, q, r, j, done = 0, bytes = g.width * <Py_ssize_t> sizeof(real)
    cdef real share
    for p in range(g.p):
        memset(line, 0, bytes)
        for q in range(g.q):
            share = dy[p * g.q + q] / cell_share(g, p, q)
            for j in range(g.columns[2 * q], g.columns[2 * q + 1]):
                line[j] = line[j] + share
        for r in range(g.rows[2 * p], g.rows[2 * p + 1]):
            if r >= done:
                memcpy(dx + r * g.width, line, bytes)
                continue
            for j in range(g.width):
                dx[r * g.width + j] = dx[r * g.width + j] + line[j]
        done = g.rows[2 * p + 1]


def adaptive_avg_pool_forward(
    const real[:, :, ::1] x, const int[:, ::1] rows, const int[:, ::1] columns, real[:, :, ::1] y, int threads, /
):
    """Fill y with the means of the windows."""
    cdef Cells g = cells_of(rows, columns, x)
    cdef Py_ssize_t u, bytes = buffer_bytes(g.width + VL)
    cdef char* lines = scratch_of_threads(threads, &bytes)
    for u in prange(x.shape[0], schedule="static", nogil=True, num_threads=threads):
        cell_means(&g, &x[u, 0, 0], <real*> (lines + threadid() * bytes), &y[u, 0, 0])


def adaptive_max_pool_forward(
    const real[:, :, ::1] x, const int[:, ::1] rows, const int[:, ::1] columns, real[:, :, ::1] y, int[:, :, ::1] index,
    int threads, /
):
    """Fill y with the maxima of the windows, and index with their pixels."""
    cdef Cells g = cells_of(rows, columns, x)
    cdef Py_ssize_t u, half = buffer_bytes(g.width + VL), bytes = 2 * half
    cdef char* lines = scratch_of_threads(threads, &bytes)
    cdef char* own
    for u in prange(x.shape[0], schedule="static", nogil=True, num_threads=threads):
        own = lines + threadid() * bytes
        cell_maxima(&g, &x[u, 0, 0], <real*> own, <real*> (own + half), &y[u, 0, 0], &index[u, 0, 0])


def adaptive_avg_pool_backward(
    const real[:, :, ::1] dy, const int[:, ::1] rows, const int[:, ::1] columns, real[:, :, ::1] dx, int threads, /
):
    """Fill dx: each dy over its window's size, to every pixel of the window."""
    cdef Cells g = cells_of(rows, columns, dx)
    cdef Py_ssize_t u, bytes = buffer_bytes(g.width)
    cdef char* lines = scratch_of_threads(threads, &bytes)
    for u in prange(dx.shape[0], schedule="static", nogil=True, num_threads=threads):
        spread_means(&g, &dy[u, 0, 0], <real*> (lines + threadid() * bytes), &dx[u, 0, 0])


cdef void put_back(const real* dy, const int* index, Py_ssize_t outputs, real* dx, Py_ssize_t area) noexcept nogil:
    cdef Py_ssize_t j
    memset(dx, 0, area * sizeof(real))
    for j in range(outputs):
        if 0 <= index[j] < area:
            dx[index[j]] = dx[index[j]] + dy[j]


def adaptive_max_pool_backward(const real[:, ::1] dy, const int[:, ::1] index, real[:, ::1] dx, int threads, /):
    """Fill dx: each dy to the pixel of its maximum, to none where the index is that of another plane's; planes are flat."""
    cdef Py_ssize_t u
    for u in prange(dx.shape[0], schedule="static", nogil=True, num_threads=threads):
        put_back(&dy[u, 0], &index[u, 0], dy.shape[1], &dx[u, 0], dx.shape[1])
