# 2-d max and average pooling, forward and backward.
#
#     max      y[p,q] = max_rs x[p s + r d - pad, q s + s' d - pad]      dx = dy at the first maximum in row order
#     average  y[p,q] = (1/n_pq) sum_rs x[p s + r - pad, q s + s' - pad]  dx += dy / n_pq over the window
#
# x (planes, H, W), y (planes, P, Q); a plane is one channel of one image. Padding never wins a maximum and adds nothing to
# a sum; n_pq comes from the caller (count_include_pad). The index of a maximum is its tap r * S + s', in one byte or four.
#
# A window is taken apart into its columns. Forward, the R rows of a row of windows become one line of what R pixels above
# each other give, and a window is then S values of the line. Backward is the transpose: a row of dy is spread over a line,
# or over R lines where each maximum chose its r, and a row of dx adds up the lines that reach it.
#
#     line[left + w]    w a column of x, with the padding on both sides
#
# Work goes by batches of output rows. Where windows of a row do not overlap, the lines of a batch have no gap between them
# and its outputs are one long row: planes of 4 x 4 then fill vectors as well as wide ones. Vectors run over the end of a
# row; the next row is written later and sets that right. A batch depends on the sizes alone and belongs to one thread:
# the same bits for any number of threads.

ctypedef fused index_t:
    unsigned char
    int

cdef enum:
    SUM                         # what a window gives: its sum,
    MAXIMUM                     # its maximum,
    INDEXED                     # or its maximum and the tap that holds it
    BATCH = 512                 # outputs a batch, about: lines and taps of 2x2 windows are 8 KiB of float32
    PREFETCH = 1024             # values ahead: rows are too short for the processor to see the stream that they make
    FAR = 1 << 30               # the tap of padding, behind all others


cdef struct Reach:
    Py_ssize_t p                # an output row
    Py_ssize_t line             # that meets a row of dx with kernel row r, p s + r d - pad = h: where lines of that r begin


cdef struct Pool "convlayers_pool":
    Py_ssize_t height
    Py_ssize_t width
    Py_ssize_t p
    Py_ssize_t q
    Py_ssize_t kh               # without taps that lie behind the input for every window
    Py_ssize_t kw
    Py_ssize_t taps_w           # S, with them
    Py_ssize_t stride_h
    Py_ssize_t stride_w
    Py_ssize_t top
    Py_ssize_t left
    Py_ssize_t dilation_h
    Py_ssize_t dilation_w
    Py_ssize_t span             # columns that the windows of a row reach, padding included
    Py_ssize_t inside           # how many of them are columns of x, from `left` on
    Py_ssize_t overlap          # windows that a window reaches into, to its right
    bint tiled                  # the outputs of a batch are one long row
    Py_ssize_t batch            # output rows a batch: a power of two
    Py_ssize_t pitch            # columns from line to line
    # Backward
    bint indexed                # of a maximum
    Py_ssize_t kinds            # lines of an output row: R for maxima, which chose their r, else one
    Py_ssize_t reaching         # the most output rows that reach a row of dx
    Py_ssize_t slots            # output rows whose lines are kept: a power of two
    Py_ssize_t* start           # reach[start[h]:start[h + 1]] is what reaches row h of dx
    Reach* reach


cdef void set_pool(
    Pool* g, Py_ssize_t height, Py_ssize_t width, Py_ssize_t p, Py_ssize_t q, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w,
) noexcept nogil:
    g.height, g.width, g.p, g.q, g.taps_w = height, width, p, q, kernel_w
    g.kh, g.kw = min(kernel_h, (height - 1 + top) // dilation_h + 1), min(kernel_w, (width - 1 + left) // dilation_w + 1)
    g.stride_h, g.stride_w, g.top, g.left, g.dilation_h, g.dilation_w = stride_h, stride_w, top, left, dilation_h, dilation_w
    g.span = (q - 1) * stride_w + dilation_w * (g.kw - 1) + 1
    g.inside = min(width, g.span - left)
    g.overlap = dilation_w * (g.kw - 1) // stride_w
    # Longer rows fill their vectors by themselves, and a batch of VL of them, whole vectors of outputs, leaves the cache.
    g.tiled = g.overlap == 0 and q < 128
    g.pitch = (q if g.tiled else (q + g.overlap + VL - 1) // VL * VL) * stride_w
    g.batch = VL if g.tiled else 1
    while 2 * g.batch * q <= BATCH:
        g.batch *= 2


cdef inline Py_ssize_t buffer_bytes(Py_ssize_t values) noexcept nogil:
    """Scratch for one thread, two cache lines from the next: sharing a line halved the speed of two threads."""
    return (values * <Py_ssize_t> sizeof(real) + 127) // 128 * 128 + 128


cdef inline Py_ssize_t line_shift(Pool* g) noexcept nogil:
    """Where the first line starts, for the first column of x to lie on a vector's boundary."""
    return (g.left + VL - 1) // VL * VL - g.left


cdef inline Py_ssize_t line_bytes(Pool* g, Py_ssize_t lines) noexcept nogil:
    """Lines, and what vectors read and write behind the last one."""
    return buffer_bytes(line_shift(g) + lines * g.pitch + (VL + g.overlap + 2) * g.stride_w + 2 * VL)


cdef inline vf load_before(const real* p, const real* end) noexcept nogil:
    """The vector at p; nothing is read from `end` on."""
    cdef real lanes[VL]
    cdef Py_ssize_t j
    if p + VL <= end:
        return load(p)
    for j in range(VL):
        lanes[j] = p[j] if p + j < end else 0
    return load(lanes)


cdef inline void fill(real* dst, Py_ssize_t start, Py_ssize_t stop, vf v) noexcept nogil:
    """dst[start:stop] = v, and up to a vector more."""
    while start < stop:
        store(dst + start, v)
        start += VL


# Forward


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
    int kind, Py_ssize_t tap, Py_ssize_t tap_below, const real* x, Py_ssize_t pairs, real* lines, real* taps
) noexcept nogil:
    """The same where a vector holds a row of x and the one below it, which make one line: two lines at a time."""
    cdef Py_ssize_t i
    cdef vf a, b, below
    cdef vmask better
    for i in range(pairs):
        a, b = load(x), load(x + VL)
        below = vhighs(a, b)
        a = vlows(a, b)
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
    cdef Py_ssize_t pairs = rows // 2 if kh == 2 and 2 * g.width == VL and g.pitch == g.width == g.inside else 0
    if pairs > 0 and g.dilation_h == 1 and g.stride_h == 2:
        combine_pairs(kind, tap, tap + g.taps_w, x, pairs, lines, taps)
        if rows % 2 == 0:
            return
        x += pairs * 2 * VL
        lines += pairs * VL
        if kind == INDEXED:
            taps += pairs * VL
        rows = 1
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
    Pool* g, const real* x, const real* end, Py_ssize_t row, Py_ssize_t all_rows, real* y, index_t* index, size_t memory
) noexcept nogil:
    cdef Forward f
    cdef Py_ssize_t j, rows = min(g.batch, all_rows - row)
    cdef const lane* chosen
    forward_memory(g, &f, index != NULL, memory)
    if index == NULL:
        pool_batch(MAXIMUM, g, &f, x, end, row, rows, NULL, y + row * g.q)
        return
    pool_batch(INDEXED, g, &f, x, end, row, rows, NULL, y + row * g.q)
    chosen = <const lane*> f.chosen
    index += row * g.q
    for j in range(rows * g.q):
        index[j] = <index_t> chosen[j]


cdef void average_batch(
    Pool* g, const real* x, const real* end, Py_ssize_t row, Py_ssize_t all_rows, const real* counts, real* y, size_t memory
) noexcept nogil:
    cdef Forward f
    forward_memory(g, &f, False, memory)
    pool_batch(SUM, g, &f, x, end, row, min(g.batch, all_rows - row), counts, y + row * g.q)


def max_pool2d_forward(
    const real[:, :, ::1] x, real[:, :, ::1] y, index_t[:, :, ::1] index, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int threads,
):
    """Fill y with the maxima and index with the taps that hold them; an empty index is left alone."""
    cdef Pool g
    cdef Forward f
    cdef bint indexed = index.shape[0] > 0
    cdef Py_ssize_t u, rows = y.shape[0] * y.shape[1], share
    cdef const real* end = &x[0, 0, 0] + x.shape[0] * x.shape[1] * x.shape[2]
    cdef index_t* taps = &index[0, 0, 0] if indexed else NULL
    cdef unsigned char[::1] buffer
    set_pool(&g, x.shape[1], x.shape[2], y.shape[1], y.shape[2], kernel_h, kernel_w, stride_h, stride_w, top, left,
             dilation_h, dilation_w)
    join_planes(&g, x.shape[0])
    share = forward_memory(&g, &f, indexed, 0)
    buffer = _scratch(threads * share)
    for u in prange((rows + g.batch - 1) // g.batch, schedule="static", nogil=True, num_threads=threads):
        max_batch(&g, &x[0, 0, 0], end, u * g.batch, rows, &y[0, 0, 0], taps, <size_t> &buffer[0] + threadid() * share)


def avg_pool2d_forward(
    const real[:, :, ::1] x, const real[:, ::1] counts, real[:, :, ::1] y, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int threads,
):
    """Fill y with the windows' sums over `counts` (P, Q)."""
    cdef Pool g
    cdef Forward f
    cdef Py_ssize_t u, rows = y.shape[0] * y.shape[1], period = y.shape[1], share, table
    cdef const real* end = &x[0, 0, 0] + x.shape[0] * x.shape[1] * x.shape[2]
    cdef real* divisors
    cdef unsigned char[::1] buffer
    set_pool(&g, x.shape[1], x.shape[2], period, y.shape[2], kernel_h, kernel_w, stride_h, stride_w, top, left, 1, 1)
    join_planes(&g, x.shape[0])
    share = forward_memory(&g, &f, False, 0)
    table = buffer_bytes((period + g.batch) * g.q + VL)
    buffer = _scratch(table + threads * share)
    divisors = <real*> &buffer[0]
    repeat(&counts[0, 0], period * g.q, (period + g.batch) * g.q + VL, divisors)
    for u in prange((rows + g.batch - 1) // g.batch, schedule="static", nogil=True, num_threads=threads):
        average_batch(&g, &x[0, 0, 0], end, u * g.batch, rows, divisors + u * g.batch % period * g.q, &y[0, 0, 0],
                      <size_t> &buffer[0] + table + threadid() * share)


cdef void repeat(const real* src, Py_ssize_t period, Py_ssize_t count, real* dst) noexcept nogil:
    """dst[j] = src[j % period]: a table that a batch may start to read anywhere in its first period."""
    cdef Py_ssize_t j
    for j in range(min(period, count)):
        dst[j] = src[j]
    for j in range(period, count):
        dst[j] = dst[j - period]


# Backward


cdef inline void spread "convlayers_spread"(
    bint indexed, int stride, Py_ssize_t kw, Py_ssize_t dilation, const real* dy, const real* taps, Py_ssize_t tap,
    Py_ssize_t outputs, real* line
) noexcept nogil:
    """line[q s + s' d] += dy[q], where taps[q] = tap + s' if there are taps: a phase of s columns at a time."""
    cdef Py_ssize_t j = 0, s, back
    cdef int phase, k
    cdef real lanes[VL]
    cdef vf v, even = splat(0), total
    while j < outputs:
        for phase in range(stride):
            total = splat(0)
            for s in range(kw):
                if s * dilation % stride == phase:
                    back = s * dilation // stride
                    v = load(dy + j - back)
                    if indexed:
                        v = vselect(iequal(vbits(load(taps + j - back)), isplat(tap + s)), v, splat(0))
                    total = total + v
            if stride == 1:
                store(line + j, total)
            elif stride > 2:
                store(lanes, total)
                for k in range(VL):
                    line[(j + k) * stride + phase] = lanes[k]
            elif phase == 0:
                even = total
            else:
                store(line + 2 * j, vturns_low(even, total))
                store(line + 2 * j + VL, vturns_high(even, total))
        j += VL


cdef void spread_any(
    bint indexed, Pool* g, const real* dy, const real* taps, Py_ssize_t tap, Py_ssize_t outputs, real* line
) noexcept nogil:
    # Constants unroll the taps and their phases.
    cdef bint dense = g.dilation_w == 1
    if dense and g.stride_w == 2 and g.kw == 2 and indexed:
        spread(True, 2, 2, 1, dy, taps, tap, outputs, line)
    elif dense and g.stride_w == 2 and g.kw == 3 and indexed:
        spread(True, 2, 3, 1, dy, taps, tap, outputs, line)
    elif dense and g.stride_w == 1 and g.kw == 3 and indexed:
        spread(True, 1, 3, 1, dy, taps, tap, outputs, line)
    elif dense and g.stride_w == 2 and g.kw == 2:
        spread(False, 2, 2, 1, dy, taps, tap, outputs, line)
    elif dense and g.stride_w == 1 and g.kw == 3:
        spread(False, 1, 3, 1, dy, taps, tap, outputs, line)
    else:
        spread(indexed, <int> g.stride_w, g.kw, g.dilation_w, dy, taps, tap, outputs, line)


cdef struct Lines:
    # What one thread works on.
    real* lines                 # [kind][slot][column]
    real* dy                    # a batch of dy, with zeros around a row for the windows that overlap
    real* taps
    real* flat                  # the same without the zeros
    real* row                   # the last row of dx, which whole vectors would overrun


cdef size_t table_memory(Pool* g, size_t cursor) noexcept nogil:
    g.start = <Py_ssize_t*> take(&cursor, (g.height + 1) * sizeof(Py_ssize_t))
    g.reach = <Reach*> take(&cursor, g.height * g.reaching * sizeof(Reach))
    return cursor


cdef size_t line_memory(Pool* g, Lines* l, size_t cursor) noexcept nogil:
    cdef Py_ssize_t front = (g.overlap + VL - 1) // VL * VL, row = buffer_bytes(front + g.batch * g.pitch // g.stride_w + VL)
    l.lines = <real*> take(&cursor, line_bytes(g, g.kinds * g.slots))
    l.dy = <real*> take(&cursor, row) + front
    l.taps = <real*> take(&cursor, row) + front
    l.flat = <real*> take(&cursor, buffer_bytes(g.batch * g.q + VL))
    l.row = <real*> take(&cursor, buffer_bytes(g.width + VL))
    return cursor


cdef void plan_reaches(Pool* g, bint indexed) noexcept nogil:
    g.indexed = indexed
    g.kinds = g.kh if indexed else 1
    g.reaching = min(g.p, g.dilation_h * (g.kh - 1) // g.stride_h + 1)
    g.slots = g.batch
    while g.slots < g.batch + g.reaching - 1:
        g.slots *= 2


cdef void list_reaches(Pool* g) noexcept nogil:
    """What reaches each row of dx, in the order in which it is added."""
    cdef Py_ssize_t h, p, last, d, n = 0
    for h in range(g.height):
        g.start[h] = n
        last = (h + g.top) // g.stride_h
        for p in range(max(0, last - g.dilation_h * (g.kh - 1) // g.stride_h), min(g.p, last + 1)):
            d = h + g.top - p * g.stride_h
            if d % g.dilation_h == 0 and d // g.dilation_h < g.kh:
                g.reach[n].p = p
                g.reach[n].line = d // g.dilation_h * g.slots * g.pitch if g.indexed else 0
                n += 1
    g.start[g.height] = n


cdef inline void add_lines "convlayers_add_lines"(
    Py_ssize_t count, const real* a, const real* b, const real* c, Py_ssize_t width, real* dx
) noexcept nogil:
    """dx = a, a + b or a + b + c; up to a vector more is written."""
    cdef Py_ssize_t w = 0
    cdef vf total
    while w < width:
        total = load(a + w)
        if count > 1:
            total = total + load(b + w)
        if count > 2:
            total = total + load(c + w)
        store(dx + w, total)
        w += VL


cdef Py_ssize_t add_rows(
    Pool* g, Lines* l, Py_ssize_t h, Py_ssize_t base, Py_ssize_t filled, real* dx, const real* end
) noexcept nogil:
    """Rows h on of a plane whose first output row is `base`, as far as the lines are filled; the row to go on from."""
    cdef Py_ssize_t i, n, width = g.width, inside = g.inside, pitch = g.pitch, mask = g.slots - 1, height = g.height
    cdef const real* lines = l.lines + g.left
    cdef const Py_ssize_t* start = g.start
    cdef const Reach* reach
    cdef const real* a
    cdef const real* b
    cdef const real* c
    cdef real* dst
    while h < height:
        n = start[h + 1] - start[h]
        reach = g.reach + start[h]
        if n > 0 and base + reach[n - 1].p >= filled:
            break
        # Whole vectors reach into the next row, which is written later; behind the last row lies another thread's.
        dst = dx + h * width if dx + (h + 1) * width + VL <= end else l.row
        if n == 0:
            fill(dst, 0, width, splat(0))
        else:
            a = lines + reach[0].line + ((base + reach[0].p) & mask) * pitch
            if n == 1:
                add_lines(1, a, NULL, NULL, inside, dst)
            else:
                b = lines + reach[1].line + ((base + reach[1].p) & mask) * pitch
                if n == 2:
                    add_lines(2, a, b, NULL, inside, dst)
                else:
                    c = lines + reach[2].line + ((base + reach[2].p) & mask) * pitch
                    add_lines(3, a, b, c, inside, dst)
                    for i in range(3, n):
                        a = lines + reach[i].line + ((base + reach[i].p) & mask) * pitch
                        add_lines(2, dst, a, NULL, inside, dst)
            if inside < width:
                fill(dst, inside, width, splat(0))
        if dst == l.row:
            memcpy(dx + h * width, dst, width * sizeof(real))
        h += 1
    return h


cdef void part_rows(Pool* g, Py_ssize_t rows, const real* flat, real* dst) noexcept nogil:
    """Rows with zeros between them, as many as windows overlap."""
    cdef Py_ssize_t i, j, pitch = g.pitch // g.stride_w
    for i in range(rows):
        j = 0
        while j < g.q:
            store(dst + j, load(flat + j))
            j += VL
        fill(dst, g.q, pitch, splat(0))
        flat += g.q
        dst += pitch


cdef void fill_lines(
    Pool* g, Lines* l, const real* dy, const index_t* index, const real* counts, Py_ssize_t slot, Py_ssize_t rows
) noexcept nogil:
    """The lines of some output rows, from `slot` on; index or counts is NULL."""
    cdef Py_ssize_t j, r, outputs = rows * g.q
    cdef real* flat_dy = l.dy if g.tiled else l.flat
    cdef real* flat_taps = l.taps if g.tiled else l.flat
    cdef lane* taps = <lane*> flat_taps
    if index == NULL:
        for j in range(outputs):
            flat_dy[j] = dy[j] / counts[j]
    else:
        memcpy(flat_dy, dy, outputs * sizeof(real))
    if not g.tiled:
        part_rows(g, rows, flat_dy, l.dy)
    if index != NULL:
        for j in range(outputs):
            taps[j] = index[j]
        if not g.tiled:
            part_rows(g, rows, flat_taps, l.taps)
    for r in range(g.kinds):
        # With the zeros between them, rows are one long row.
        spread_any(g.indexed, g, l.dy, l.taps, r * g.taps_w, rows * (g.pitch // g.stride_w),
                   l.lines + (r * g.slots + slot) * g.pitch)


cdef void place_pairs(Lines* l, Py_ssize_t below, Py_ssize_t count, real* dx) noexcept nogil:
    """Rows of dx of half a vector: each two come from a line, and from the line `below` values further on."""
    cdef Py_ssize_t j = 0
    cdef vf a, b
    while j + VL <= count:
        a, b = load(l.lines + j), load(l.lines + below + j)
        store(dx + 2 * j, vlows(a, b))
        store(dx + 2 * j + VL, vhighs(a, b))
        j += VL
    if j < count:
        store(dx + 2 * j, vlows(load(l.lines + j), load(l.lines + below + j)))


cdef void backward_planes(
    Pool* g, const real* dy, const index_t* index, const real* counts, Py_ssize_t planes, real* dx, size_t memory
) noexcept nogil:
    """dx of some planes, a row after the other; the lines are filled a batch at a time, when a row comes to need them."""
    cdef Lines l
    cdef Py_ssize_t u, h, rows, filled = 0
    cdef bint pairs = g.kh == 2 and g.dilation_h == 1 and g.stride_h == 2 and g.height == 2 * g.p and g.top == 0
    cdef const real* end = dx + planes * g.height * g.width
    pairs = pairs and 2 * g.width == VL and g.pitch == g.width == g.inside
    line_memory(g, &l, memory)
    fill(l.dy, -g.overlap, 0, splat(0))
    while pairs and filled < planes * g.p:
        rows = min(g.batch, planes * g.p - filled)
        fill_lines(g, &l, dy + filled * g.q, index + filled * g.q if index != NULL else NULL,
                   counts + filled % g.p * g.q if counts != NULL else NULL, 0, rows)
        place_pairs(&l, g.slots * g.pitch if g.indexed else 0, rows * g.width, dx + filled * VL)
        filled += rows
    for u in range(0 if pairs else planes):
        h = 0
        while h < g.height:
            h = add_rows(g, &l, h, u * g.p, filled, dx + u * g.height * g.width, end)
            if h < g.height:
                rows = min(g.batch, planes * g.p - filled)
                fill_lines(g, &l, dy + filled * g.q, index + filled * g.q if index != NULL else NULL,
                           counts + filled % g.p * g.q if counts != NULL else NULL, filled & (g.slots - 1), rows)
                filled += rows


cdef void run_backward(
    Pool* g, const real* dy, const index_t* index, const real* counts, Py_ssize_t planes, real* dx, int threads, size_t memory
) noexcept nogil:
    """Planes enough for a batch at a time; index or counts is NULL."""
    cdef Lines l
    cdef Py_ssize_t u, some = (g.batch + g.p - 1) // g.p, outputs = g.p * g.q, area = g.height * g.width
    cdef Py_ssize_t share = line_memory(g, &l, 0)
    memory = table_memory(g, memory)
    list_reaches(g)
    for u in prange((planes + some - 1) // some, schedule="static", num_threads=threads):
        backward_planes(
            g, dy + u * some * outputs, index + u * some * outputs if index != NULL else NULL, counts,
            min(some, planes - u * some), dx + u * some * area, memory + threadid() * share,
        )


cdef void scatter_planes(
    Pool* g, const real* dy, const index_t* index, Py_ssize_t planes, real* dx,
    const Py_ssize_t* offset, Py_ssize_t taps, int threads,
) noexcept nogil:
    """Each dy goes to its tap's offset from the window."""
    cdef Py_ssize_t u, p, q, tap, origin, at, area = g.height * g.width
    for u in prange(planes, schedule="static", num_threads=threads):
        memset(dx + u * area, 0, area * sizeof(real))
        for p in range(g.p):
            origin = (p * g.stride_h - g.top) * g.width - g.left
            for q in range(g.q):
                tap = index[(u * g.p + p) * g.q + q]
                # The index comes from the caller; whatever it says, nothing is read or written out of bounds.
                if 0 <= tap < taps:
                    at = origin + q * g.stride_w + offset[tap]
                    if 0 <= at < area:
                        dx[u * area + at] += dy[(u * g.p + p) * g.q + q]


def max_pool2d_backward(
    const real[:, :, ::1] dy, const index_t[:, :, ::1] index, real[:, :, ::1] dx, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int threads,
):
    """Fill dx: each dy goes to the pixel that held its window's maximum."""
    cdef Pool g
    cdef Lines l
    cdef Py_ssize_t tap, planes = dx.shape[0], taps = <Py_ssize_t> kernel_h * kernel_w
    cdef Py_ssize_t* offset
    cdef unsigned char[::1] buffer
    set_pool(&g, dx.shape[1], dx.shape[2], dy.shape[1], dy.shape[2], kernel_h, kernel_w, stride_h, stride_w, top, left,
             dilation_h, dilation_w)
    # Spreading tries all taps of VL windows at a time: from about so many taps on, the scatter is faster.
    if g.kh * g.kw <= 2 * VL:
        plan_reaches(&g, True)
        buffer = _scratch(table_memory(&g, 0) + threads * line_memory(&g, &l, 0))
        with nogil:
            run_backward(&g, &dy[0, 0, 0], &index[0, 0, 0], NULL, planes, &dx[0, 0, 0], threads, <size_t> &buffer[0])
        return
    buffer = _scratch(taps * sizeof(Py_ssize_t))
    # A table, since dividing a tap into its row and column for every output took half of the time.
    offset = <Py_ssize_t*> &buffer[0]
    for tap in range(taps):
        offset[tap] = tap // kernel_w * dilation_h * g.width + tap % kernel_w * dilation_w
    with nogil:
        scatter_planes(&g, &dy[0, 0, 0], &index[0, 0, 0], planes, &dx[0, 0, 0], offset, taps, threads)


def avg_pool2d_backward(
    const real[:, :, ::1] dy, const real[:, ::1] counts, real[:, :, ::1] dx, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int threads,
):
    """Fill dx: each dy over its count, to every pixel of its window."""
    cdef Pool g
    cdef Lines l
    cdef Py_ssize_t planes = dx.shape[0], table
    cdef const unsigned char* no_index = NULL
    cdef unsigned char[::1] buffer
    cdef real* divisors
    set_pool(&g, dx.shape[1], dx.shape[2], dy.shape[1], dy.shape[2], kernel_h, kernel_w, stride_h, stride_w, top, left, 1, 1)
    plan_reaches(&g, False)
    table = buffer_bytes((g.p + g.batch) * g.q)
    buffer = _scratch(table + table_memory(&g, 0) + threads * line_memory(&g, &l, 0))
    divisors = <real*> &buffer[0]
    repeat(&counts[0, 0], g.p * g.q, (g.p + g.batch) * g.q, divisors)
    with nogil:
        run_backward(&g, &dy[0, 0, 0], no_index, divisors, planes, &dx[0, 0, 0], threads, <size_t> &buffer[0] + table)
