# 2-d max and average pooling, forward and backward.
#
#     max      y[p,q] = max_rs x[p s + r d - pad, q s + s' d - pad]      dx = dy at the first maximum in row order
#     average  y[p,q] = (1/n_pq) sum_rs x[p s + r - pad, q s + s' - pad]  dx += dy / n_pq over the window
#
# x (planes, H, W), y (planes, P, Q); a plane is one channel of one image. Padding never wins a maximum and adds nothing to
# a sum; n_pq comes from the caller (count_include_pad). The index of a maximum is its tap r * S + s', in one byte or four.
# A plane belongs to one thread and is walked in one order: the same bits for any number of threads.

ctypedef fused index_t:
    unsigned char
    int


cdef struct Pool "convlayers_pool":
    Py_ssize_t height
    Py_ssize_t width
    Py_ssize_t p
    Py_ssize_t q
    Py_ssize_t kh
    Py_ssize_t kw
    Py_ssize_t stride_h
    Py_ssize_t stride_w
    Py_ssize_t top
    Py_ssize_t left
    Py_ssize_t dilation_h
    Py_ssize_t dilation_w
    Py_ssize_t first            # the windows first .. last of a row have all their columns inside
    Py_ssize_t last


cdef inline Py_ssize_t row_bytes(Py_ssize_t columns) noexcept nogil:
    """A row of scratch for one thread, two cache lines from the next: sharing a line halved the speed of two threads."""
    return (columns * <Py_ssize_t> sizeof(real) + 127) // 128 * 128 + 128


cdef inline void columns_inside(Pool* g, Py_ssize_t s, Py_ssize_t* first, Py_ssize_t* last) noexcept nogil:
    """The outputs first .. last whose tap in kernel column s lies inside the row."""
    cdef Py_ssize_t start = s * g.dilation_w - g.left
    first[0] = min(g.q, max(0, -floor_div(start, g.stride_w)))
    last[0] = max(first[0], min(g.q, floor_div(g.width - 1 - start, g.stride_w) + 1))


cdef inline void max_vector "convlayers_max_vector"(
    Pool* g, const real* x, Py_ssize_t kh, Py_ssize_t kw, real* best, real* index
) noexcept nogil:
    """VL windows, each a pixel on from the one before, wherever the stride would put them: no load is apart from the next."""
    cdef Py_ssize_t r, s
    cdef vf v, most = load(x), at = splat(0)
    cdef vmask better
    for r in range(kh):
        for s in range(kw):
            v = load(x + r * g.dilation_h * g.width + s * g.dilation_w)
            better = vbeats(v, most)
            at = vselect(better, splat(r * kw + s), at)
            most = vselect(better, v, most)
    store(best, most)
    store(index, at)


cdef inline void sum_vector "convlayers_sum_vector"(
    Pool* g, const real* x, Py_ssize_t kh, Py_ssize_t kw, real* sums
) noexcept nogil:
    """The sums of VL windows, each a pixel on from the one before."""
    cdef Py_ssize_t r, s
    cdef vf total = splat(0)
    for r in range(kh):
        for s in range(kw):
            total = total + load(x + r * g.width + s)
    store(sums, total)


cdef inline void any_vector "convlayers_any_vector"(
    Pool* g, const real* x, Py_ssize_t kh, Py_ssize_t kw, real* values, real* taps
) noexcept nogil:
    if taps == NULL:
        sum_vector(g, x, kh, kw, values)
    else:
        max_vector(g, x, kh, kw, values, taps)


cdef inline Py_ssize_t pick "convlayers_pick"(
    Py_ssize_t stride, Py_ssize_t count, const real* values, const real* taps, real* best, real* index
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        best[j] = values[j * stride]
    if taps != NULL:
        for j in range(count):
            index[j] = taps[j * stride]
    return count


cdef Py_ssize_t whole_windows(
    Pool* g, const real* x, const real* end, Py_ssize_t count, real* best, real* index
) noexcept nogil:
    """A row of windows that lie inside the plane, as long as whole vectors can be read before `end`; how many were done.

    Maxima and their taps, or sums where `index` is NULL.
    """
    cdef Py_ssize_t done = 0, start = 0, reach = g.dilation_h * (g.kh - 1) * g.width + g.dilation_w * (g.kw - 1) + VL
    cdef real values[VL]
    cdef real taps[VL]
    cdef real* tap = taps if index != NULL else NULL
    while done < count and x + start + reach <= end:
        # Constant sizes unroll the taps.
        if g.kh == 2 and g.kw == 2:
            any_vector(g, x + start, 2, 2, values, tap)
        elif g.kh == 3 and g.kw == 3:
            any_vector(g, x + start, 3, 3, values, tap)
        else:
            any_vector(g, x + start, g.kh, g.kw, values, tap)
        # Constant strides, where the row goes on for a vector, make the choice of every second value a shuffle.
        if g.stride_w == 1 and done + VL <= count:
            done += pick(1, VL, values, tap, best + done, index + done)
        elif g.stride_w == 2 and done + VL // 2 <= count:
            done += pick(2, VL // 2, values, tap, best + done, index + done)
        else:
            while done < count and done * g.stride_w < start + VL:
                pick(1, 1, values + done * g.stride_w - start, taps + done * g.stride_w - start if tap != NULL else NULL,
                     best + done, index + done)
                done += 1
        start = max(start + VL, done * g.stride_w)
    return done


cdef void max_window(Pool* g, const real* x, Py_ssize_t p, Py_ssize_t q, real* best, real* index) noexcept nogil:
    """One window, which may hang over an edge: taps outside do not count."""
    cdef Py_ssize_t r, s, h, w
    cdef real v
    index[0] = -1
    for r in range(g.kh):
        h = p * g.stride_h + r * g.dilation_h - g.top
        for s in range(g.kw):
            w = q * g.stride_w + s * g.dilation_w - g.left
            if 0 <= h < g.height and 0 <= w < g.width:
                v = x[h * g.width + w]
                if index[0] < 0 or (not v <= best[0] and best[0] == best[0]):
                    best[0] = v
                    index[0] = r * g.kw + s


cdef void max_row(Pool* g, const real* x, const real* end, Py_ssize_t p, real* best, real* index) noexcept nogil:
    cdef Py_ssize_t top = p * g.stride_h - g.top, first = 0, done = 0, q
    cdef const real* src
    if top >= 0 and top + g.dilation_h * (g.kh - 1) < g.height:
        first = g.first
        src = x + top * g.width + first * g.stride_w - g.left
        done = whole_windows(g, src, end, g.last - first, best + first, index + first)
    for q in range(first):
        max_window(g, x, p, q, best + q, index + q)
    for q in range(first + done, g.q):
        max_window(g, x, p, q, best + q, index + q)


def max_pool2d_forward(
    const real[:, :, ::1] x, real[:, :, ::1] y, index_t[:, :, ::1] index, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int threads,
):
    """Fill y with the maxima and index with the taps that hold them."""
    cdef Pool g
    cdef Py_ssize_t u, p, j, planes = x.shape[0], other = 0
    cdef const real* end = &x[0, 0, 0] + planes * x.shape[1] * x.shape[2]
    cdef real* row
    cdef unsigned char[::1] buffer = _scratch(threads * row_bytes(y.shape[2]))
    g.height, g.width, g.p, g.q, g.kh, g.kw = x.shape[1], x.shape[2], y.shape[1], y.shape[2], kernel_h, kernel_w
    g.stride_h, g.stride_w, g.top, g.left, g.dilation_h, g.dilation_w = stride_h, stride_w, top, left, dilation_h, dilation_w
    columns_inside(&g, 0, &g.first, &other)
    columns_inside(&g, g.kw - 1, &other, &g.last)
    with nogil, parallel(num_threads=threads):
        for u in prange(planes, schedule="static"):
            row = <real*> (&buffer[0] + threadid() * row_bytes(g.q))
            for p in range(g.p):
                max_row(&g, &x[u, 0, 0], end, p, &y[u, p, 0], row)
                for j in range(g.q):
                    index[u, p, j] = <index_t> row[j]


def max_pool2d_backward(
    const real[:, :, ::1] dy, const index_t[:, :, ::1] index, real[:, :, ::1] dx, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int threads,
):
    """Fill dx: each dy goes to the pixel that held its window's maximum."""
    cdef Py_ssize_t u, p, q, tap, planes = dx.shape[0], area = dx.shape[1] * dx.shape[2], width = dx.shape[2]
    cdef Py_ssize_t rows = dy.shape[1], cols = dy.shape[2], origin, at, taps = kernel_h * kernel_w
    cdef real* plane
    # A table, since dividing a tap into its row and column for every output took half of the time.
    cdef unsigned char[::1] buffer = _scratch(taps * sizeof(Py_ssize_t))
    cdef Py_ssize_t* offset = <Py_ssize_t*> &buffer[0]
    for tap in range(taps):
        offset[tap] = tap // kernel_w * dilation_h * width + tap % kernel_w * dilation_w
    for u in prange(planes, schedule="static", nogil=True, num_threads=threads):
        plane = &dx[u, 0, 0]
        memset(plane, 0, area * sizeof(real))
        for p in range(rows):
            origin = (p * stride_h - top) * width - left
            for q in range(cols):
                tap = index[u, p, q]
                # The index comes from the caller; whatever it says, nothing is read or written out of bounds.
                if 0 <= tap < taps:
                    at = origin + q * stride_w + offset[tap]
                    if 0 <= at < area:
                        plane[at] += dy[u, p, q]


cdef inline void add_columns(const real* src, Py_ssize_t count, real* dst, Py_ssize_t stride) noexcept nogil:
    """dst[j * stride] += src[j]."""
    cdef Py_ssize_t j = 0
    while stride == 1 and j + VL <= count:
        store(dst + j, load(dst + j) + load(src + j))
        j += VL
    while j < count:
        dst[j * stride] += src[j]
        j += 1


def avg_pool2d_forward(
    const real[:, :, ::1] x, const real[:, ::1] counts, real[:, :, ::1] y, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int threads,
):
    """Fill y with the windows' sums over `counts` (P, Q)."""
    cdef Pool g
    cdef Py_ssize_t u, planes = x.shape[0], other = 0
    cdef const real* end = &x[0, 0, 0] + planes * x.shape[1] * x.shape[2]
    g.height, g.width, g.p, g.q, g.kh, g.kw = x.shape[1], x.shape[2], y.shape[1], y.shape[2], kernel_h, kernel_w
    g.stride_h, g.stride_w, g.top, g.left, g.dilation_h, g.dilation_w = stride_h, stride_w, top, left, 1, 1
    columns_inside(&g, 0, &g.first, &other)
    columns_inside(&g, g.kw - 1, &other, &g.last)
    for u in prange(planes, schedule="static", nogil=True, num_threads=threads):
        avg_plane_forward(&g, &x[u, 0, 0], end, &counts[0, 0], &y[u, 0, 0])


cdef real sum_window(Pool* g, const real* x, Py_ssize_t p, Py_ssize_t q) noexcept nogil:
    """One window, which may hang over an edge: taps outside are zero."""
    cdef Py_ssize_t r, s, h, w
    cdef real total = 0
    for r in range(g.kh):
        h = p * g.stride_h + r - g.top
        for s in range(g.kw):
            w = q * g.stride_w + s - g.left
            if 0 <= h < g.height and 0 <= w < g.width:
                total += x[h * g.width + w]
    return total


cdef void avg_plane_forward(Pool* g, const real* x, const real* end, const real* counts, real* y) noexcept nogil:
    cdef Py_ssize_t p, q, top, first, done
    for p in range(g.p):
        top = p * g.stride_h - g.top
        first = done = 0
        if top >= 0 and top + g.kh <= g.height:
            first = g.first
            done = whole_windows(g, x + top * g.width + first * g.stride_w - g.left, end, g.last - first, y + first, NULL)
        for q in range(first):
            y[q] = sum_window(g, x, p, q)
        for q in range(first + done, g.q):
            y[q] = sum_window(g, x, p, q)
        for q in range(g.q):
            y[q] = y[q] / counts[q]
        y += g.q
        counts += g.q


cdef void avg_plane_backward(
    Pool* g, const real* dy, const real* counts, real* share, real* line, real* dx
) noexcept nogil:
    """A row of outputs spreads over the columns once, into `line`, and that over the rows of its windows."""
    cdef Py_ssize_t p, r, s, h, j, first = 0, last = 0
    memset(dx, 0, g.height * g.width * sizeof(real))
    for p in range(g.p):
        for j in range(g.q):
            share[j] = dy[j] / counts[j]
        memset(line, 0, g.width * sizeof(real))
        for s in range(g.kw):
            columns_inside(g, s, &first, &last)
            add_columns(share + first, last - first, line + first * g.stride_w + s - g.left, g.stride_w)
        for r in range(g.kh):
            h = p * g.stride_h + r - g.top
            if 0 <= h < g.height:
                add_columns(line, g.width, dx + h * g.width, 1)
        dy += g.q
        counts += g.q


def avg_pool2d_backward(
    const real[:, :, ::1] dy, const real[:, ::1] counts, real[:, :, ::1] dx, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int threads,
):
    """Fill dx: each dy over its count, to every pixel of its window."""
    cdef Pool g
    cdef Py_ssize_t u, planes = dx.shape[0]
    cdef unsigned char[::1] buffer = _scratch(threads * (row_bytes(dy.shape[2]) + row_bytes(dx.shape[2])))
    cdef real* share
    cdef real* line
    g.height, g.width, g.p, g.q, g.kh, g.kw = dx.shape[1], dx.shape[2], dy.shape[1], dy.shape[2], kernel_h, kernel_w
    g.stride_h, g.stride_w, g.top, g.left, g.dilation_h, g.dilation_w = stride_h, stride_w, top, left, 1, 1
    with nogil, parallel(num_threads=threads):
        for u in prange(planes, schedule="static"):
            share = <real*> (&buffer[0] + threadid() * (row_bytes(g.q) + row_bytes(g.width)))
            line = <real*> (<char*> share + row_bytes(g.q))
            avg_plane_backward(&g, &dy[u, 0, 0], &counts[0, 0], share, line, &dx[u, 0, 0])
