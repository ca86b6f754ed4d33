# Pooling, forward: rows of windows become lines, lines become outputs (see pool.pxi).
#
#     max      y[p,q] = max_rs x[p s + r d - pad, q s + s' d - pad]          average  y[p,q] = (1/n_pq) sum_rs x[...]

cdef void join_planes(Pool* g, Py_ssize_t planes) noexcept nogil:
    """Planes that their windows divide into equal rows, nothing left over, are one high plane."""
    if g.top == 0 and g.height == g.p * g.stride_h and g.dilation_h * (g.kh - 1) < g.stride_h:
        g.height, g.p = planes * g.height, planes * g.p


cdef inline void combine_rows "convlayers_combine_rows"(
    int kind, Py_ssize_t kh, bint at_end, Pool* g, const real* x, const real* end, Py_ssize_t tap, Py_ssize_t rows,
    real* lines, real* taps
) noexcept nogil:
    """Lines of some output rows: `kh` pixels above each other, from x on, become one; its tap is `tap` + r S."""
    cdef Py_ssize_t i, r, w, width = g.inside, left = g.left, span = g.span, pitch = g.pitch
    cdef Py_ssize_t tap_step = g.dilation_h * g.width, row_step = g.stride_h * g.width
    cdef vf v, best, edge = splat(0 if kind == SUM else -INFINITY), far = vreal(isplat(FAR))
    cdef vmask better, at, first = isplat(tap), step = isplat(g.taps_w), next
    for i in range(rows):
        if left > 0:
            fill(lines, 0, left, edge)
            if kind == INDEXED:
                fill(taps, 0, left, far)
        w = 0
        while w < width:
            best = load_before(x + w, end) if at_end else load(x + w)
            at = next = first
            prefetch_line(x + w + PREFETCH, 0)
            for r in range(1, kh):
                v = load_before(x + r * tap_step + w, end) if at_end else load(x + r * tap_step + w)
                next = next + step
                prefetch_line(x + r * tap_step + w + PREFETCH, 0)
                if kind == SUM:
                    best = best + v
                else:
                    better = vbeats(v, best)
                    best = vselect(better, v, best)
                    if kind == INDEXED:
                        at = iselect(better, next, at)
            store(lines + left + w, best)
            if kind == INDEXED:
                store(taps + left + w, vreal(at))
            w += VL
        if left + width < span:
            fill(lines, left + width, span, edge)
            if kind == INDEXED:
                fill(taps, left + width, span, far)
        x += row_step
        lines += pitch
        if kind == INDEXED:
            taps += pitch


cdef inline void combine_pairs "convlayers_combine_pairs"(
    int kind, int rows, Py_ssize_t tap, Py_ssize_t tap_below, const real* x, Py_ssize_t vectors, real* lines, real* taps
) noexcept nogil:
    """The same where a vector holds two or four `rows` of x, of which each two make a line: a vector of lines at a time."""
    cdef Py_ssize_t i
    cdef vf a, b, below
    cdef vmask better
    for i in range(vectors):
        a, b = load(x), load(x + VL)
        below = vhighs(a, b) if rows == 2 else vruns_odd(a, b)
        a = vlows(a, b) if rows == 2 else vruns_even(a, b)
        if kind == SUM:
            a = a + below
        else:
            better = vbeats(below, a)
            a = vselect(better, below, a)
            if kind == INDEXED:
                store(taps + i * VL, vreal(iselect(better, isplat(tap_below), isplat(tap))))
        store(lines + i * VL, a)
        x += 2 * VL


cdef inline void combine_any "convlayers_combine_any"(
    int kind, Py_ssize_t kh, Pool* g, const real* x, const real* end, Py_ssize_t tap, Py_ssize_t rows, real* lines, real* taps
) noexcept nogil:
    # Constants unroll the rows. The last row of all is apart: its vectors would be read beyond the end of x.
    cdef Py_ssize_t held = VL // g.width if kh == 2 and g.pitch == g.width == g.inside else 0, vectors = 0
    if (held == 2 or held == 4 and VL >= 8) and held * g.width == VL and g.dilation_h == 1 and g.stride_h == 2:
        vectors = rows // held
    if vectors > 0:
        if held == 2:
            combine_pairs(kind, 2, tap, tap + g.taps_w, x, vectors, lines, taps)
        else:
            combine_pairs(kind, 4, tap, tap + g.taps_w, x, vectors, lines, taps)
        rows %= held
        if rows == 0:
            return
        x += vectors * 2 * VL
        lines += vectors * VL
        if kind == INDEXED:
            taps += vectors * VL
    if x + (rows - 1) * g.stride_h * g.width + (kh - 1) * g.dilation_h * g.width + g.inside + VL > end:
        combine_rows(kind, kh, True, g, x, end, tap, rows, lines, taps)
    elif kh == 2:
        combine_rows(kind, 2, False, g, x, end, tap, rows, lines, taps)
    elif kh == 3:
        combine_rows(kind, 3, False, g, x, end, tap, rows, lines, taps)
    else:
        combine_rows(kind, kh, False, g, x, end, tap, rows, lines, taps)


cdef inline vf every "convlayers_every"(int stride, const real* p, Py_ssize_t s) noexcept nogil:
    """Each `stride`-th value of p from s on."""
    cdef real lanes[VL]
    cdef Py_ssize_t j
    if stride == 1:
        return load(p + s)
    if stride == 2:
        # The columns of an even tap and of the odd one beside it come from one pair of loads.
        return vevens(load(p + s), load(p + s + VL)) if s % 2 == 0 else vodds(load(p + s - 1), load(p + s - 1 + VL))
    for j in range(VL):
        lanes[j] = p[j * stride + s]
    return load(lanes)


cdef inline void combine_columns "convlayers_combine_columns"(
    int kind, int stride, Py_ssize_t kw, Py_ssize_t dilation, const real* line, const real* taps, const real* counts,
    Py_ssize_t outputs, real* y, real* chosen
) noexcept nogil:
    """S values of a line become an output; whole vectors of outputs."""
    cdef Py_ssize_t j = 0, s
    cdef vf v, best
    cdef vmask better, next, at = isplat(0)
    while j < outputs:
        best = every(stride, line + j * stride, 0)
        if kind == INDEXED:
            at = vbits(every(stride, taps + j * stride, 0))
        for s in range(1, kw):
            v = every(stride, line + j * stride, s * dilation)
            if kind == SUM:
                best = best + v
            elif kind == MAXIMUM:
                best = vselect(vbeats(v, best), v, best)
            else:
                next = vbits(every(stride, taps + j * stride, s * dilation)) + isplat(s)
                better = vprecedes(v, next, best, at)
                best = vselect(better, v, best)
                at = iselect(better, next, at)
        store(y + j, best / load(counts + j) if kind == SUM else best)
        if kind == INDEXED:
            store(chosen + j, vreal(at))
        j += VL


cdef struct Forward "convlayers_forward":
    # What one thread works on: a batch of lines, their taps, the taps that windows chose, and a row of y.
    real* lines
    real* taps
    real* chosen
    real* last


cdef size_t forward_memory(Pool* g, Forward* f, bint indexed, size_t cursor) noexcept nogil:
    cdef Py_ssize_t line = line_bytes(g, g.batch), outputs = buffer_bytes(g.batch * g.q + VL)
    f.lines = <real*> take(&cursor, line) + line_shift(g)
    f.last = <real*> take(&cursor, outputs)
    if indexed:
        f.taps = <real*> take(&cursor, line) + line_shift(g)
        f.chosen = <real*> take(&cursor, outputs)
    return cursor


cdef inline void pool_batch "convlayers_pool_batch"(
    int kind, Pool* g, Forward* f, const real* x, const real* end, Py_ssize_t row, Py_ssize_t rows,
    const real* counts, real* y
) noexcept nogil:
    """Output rows `row` on, counted over all planes; x at the first plane, y and counts at the first of these rows."""
    cdef Py_ssize_t i = 0, u, p, top, r0, r1, run, at, outputs = g.q, segments = rows
    cdef real* dst
    while i < rows:
        u, p = (row + i) // g.p, (row + i) % g.p
        top = p * g.stride_h - g.top
        # Kernel rows that hang over the plane's edge are left out; no arithmetic sees them.
        r0 = (max(0, -top) + g.dilation_h - 1) // g.dilation_h
        r1 = min(g.kh, (g.height - 1 - top) // g.dilation_h + 1)
        run = 1
        if r0 == 0 and r1 == g.kh:
            run = min(rows - i, min(g.p - p, (g.height - 1 - top - g.dilation_h * (g.kh - 1)) // g.stride_h + 1))
        at = i * g.pitch
        combine_any(kind, r1 - r0, g, x + (u * g.height + top + r0 * g.dilation_h) * g.width, end, r0 * g.taps_w, run,
                    f.lines + at, f.taps + at)
        i += run
    if g.tiled:
        segments, outputs = 1, rows * g.q
    for i in range(segments):
        # Whole vectors reach into the next row, which is written later; behind the batch lies another thread's.
        dst = y if (segments - i) * outputs >= (outputs + VL - 1) // VL * VL else f.last
        at = i * g.pitch
        if g.stride_w == 2 and g.kw == 2 and g.dilation_w == 1:
            combine_columns(kind, 2, 2, 1, f.lines + at, f.taps + at, counts, outputs, dst, f.chosen + i * outputs)
        elif g.stride_w == 2 and g.kw == 3 and g.dilation_w == 1:
            combine_columns(kind, 2, 3, 1, f.lines + at, f.taps + at, counts, outputs, dst, f.chosen + i * outputs)
        elif g.stride_w == 1 and g.kw == 3 and g.dilation_w == 1:
            combine_columns(kind, 1, 3, 1, f.lines + at, f.taps + at, counts, outputs, dst, f.chosen + i * outputs)
        else:
            combine_columns(kind, <int> g.stride_w, g.kw, g.dilation_w, f.lines + at, f.taps + at, counts, outputs, dst,
                            f.chosen + i * outputs)
        if dst == f.last:
            memcpy(y, dst, outputs * sizeof(real))
        y += outputs
        if kind == SUM:
            counts += outputs


cdef void max_batch(
    Pool* g, const real* x, const real* end, Py_ssize_t row, Py_ssize_t all_rows, real* y, Index index, lane taps, bint relu,
    size_t memory
) noexcept nogil:
    cdef Forward f
    cdef Py_ssize_t j, values = min(g.batch, all_rows - row) * g.q
    cdef lane* chosen
    forward_memory(g, &f, is_there(index), memory)
    y += row * g.q
    if not is_there(index):
        pool_batch(MAXIMUM, g, &f, x, end, row, values // g.q, NULL, y)
    else:
        pool_batch(INDEXED, g, &f, x, end, row, values // g.q, NULL, y)
        chosen = <lane*> f.chosen
        if relu:
            for j in range(values):
                chosen[j] = chosen[j] if y[j] > 0 else taps
        write_taps(chosen, values, index_at(index, row * g.q))
    if relu:
        relu_values(y, y, values)


cdef void average_batch(
    Pool* g, const real* x, const real* end, Py_ssize_t row, Py_ssize_t all_rows, const real* counts, real* y, size_t memory
) noexcept nogil:
    cdef Forward f
    forward_memory(g, &f, False, memory)
    pool_batch(SUM, g, &f, x, end, row, min(g.batch, all_rows - row), counts, y + row * g.q)


def max_pool2d_forward(
    const real[:, :, :, ::1] x, real[:, :, :, ::1] y, unsigned char[:, :, :, ::1] narrow, int[:, :, :, ::1] wide,
    int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w,
    bint relu, int threads, /,
):
    """Fill y with the maxima, and `narrow` or `wide`, whichever is not None, with the taps that hold them.

    With `relu`, max(y, 0), NaN kept, and where y is not over 0 the index is R S: no tap, and no gradient.
    """
    cdef Pool g
    cdef Forward f
    cdef Py_ssize_t u, planes = x.shape[0] * x.shape[1], rows = planes * y.shape[2], share
    cdef const real* end = &x[0, 0, 0, 0] + planes * x.shape[2] * x.shape[3]
    cdef unsigned char* bytes = &narrow[0, 0, 0, 0] if narrow is not None else NULL
    cdef Index index = index_of(bytes, &wide[0, 0, 0, 0] if wide is not None else NULL)
    cdef char* lines
    set_pool(&g, x.shape[2], x.shape[3], y.shape[2], y.shape[3], kernel_h, kernel_w, stride_h, stride_w, top, left,
             dilation_h, dilation_w)
    join_planes(&g, planes)
    share = forward_memory(&g, &f, is_there(index), 0)
    lines = scratch_of_threads(threads, &share)
    for u in prange((rows + g.batch - 1) // g.batch, schedule="static", nogil=True, num_threads=threads):
        max_batch(&g, &x[0, 0, 0, 0], end, u * g.batch, rows, &y[0, 0, 0, 0], index, kernel_h * kernel_w, relu,
                  <size_t> (lines + threadid() * share))


def avg_pool2d_forward(
    const real[:, :, :, ::1] x, const real[:, ::1] counts, real[:, :, :, ::1] y, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int threads, /,
):
    """Fill y with the windows' sums over `counts` (P, Q)."""
    cdef Pool g
    cdef Forward f
    cdef Py_ssize_t u, planes = x.shape[0] * x.shape[1], period = y.shape[2], rows = planes * period, share
    cdef const real* end = &x[0, 0, 0, 0] + planes * x.shape[2] * x.shape[3]
    cdef real* divisors
    cdef char* lines
    set_pool(&g, x.shape[2], x.shape[3], period, y.shape[3], kernel_h, kernel_w, stride_h, stride_w, top, left, 1, 1)
    join_planes(&g, planes)
    share = forward_memory(&g, &f, False, 0)
    lines = scratch_of_threads(threads, &share)
    divisors = <real*> scratch(buffer_bytes((period + g.batch) * g.q + VL))
    repeat(&counts[0, 0], period * g.q, (period + g.batch) * g.q + VL, divisors)
    for u in prange((rows + g.batch - 1) // g.batch, schedule="static", nogil=True, num_threads=threads):
        average_batch(&g, &x[0, 0, 0, 0], end, u * g.batch, rows, divisors + u * g.batch % period * g.q, &y[0, 0, 0, 0],
                      <size_t> (lines + threadid() * share))


cdef void repeat(const real* src, Py_ssize_t period, Py_ssize_t count, real* dst) noexcept nogil:
    """dst[j] = src[j % period]: a table that a batch may start to read anywhere in its first period."""
    cdef Py_ssize_t j
    for j in range(min(period, count)):
        dst[j] = src[j]
    for j in range(period, count):
        dst[j] = dst[j - period]
