# Pooling, backward: outputs spread over lines, rows of dx add up the lines that reach them (see pool.pxi).
#
#     max      dx = dy at the first maximum in row order          average  dx += dy / n_pq over the window

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
    Pool* g, Lines* l, const real* dy, Index index, const real* counts, Py_ssize_t slot, Py_ssize_t rows
) noexcept nogil:
    """The lines of some output rows, from `slot` on; there is an index, or counts are not NULL."""
    cdef Py_ssize_t j, r, outputs = rows * g.q
    cdef real* flat_dy = l.dy if g.tiled else l.flat
    cdef real* flat_taps = l.taps if g.tiled else l.flat
    if counts != NULL:
        for j in range(outputs):
            flat_dy[j] = dy[j] / counts[j]
    else:
        memcpy(flat_dy, dy, outputs * sizeof(real))
    if not g.tiled:
        part_rows(g, rows, flat_dy, l.dy)
    if counts == NULL:
        read_taps(index, outputs, <lane*> flat_taps)
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
    Pool* g, const real* dy, Index index, const real* counts, Py_ssize_t planes, real* dx, size_t memory
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
        fill_lines(g, &l, dy + filled * g.q, index_at(index, filled * g.q),
                   counts + filled % g.p * g.q if counts != NULL else NULL, 0, rows)
        place_pairs(&l, g.slots * g.pitch if g.indexed else 0, rows * g.width, dx + filled * VL)
        filled += rows
    for u in range(0 if pairs else planes):
        h = 0
        while h < g.height:
            h = add_rows(g, &l, h, u * g.p, filled, dx + u * g.height * g.width, end)
            if h < g.height:
                rows = min(g.batch, planes * g.p - filled)
                fill_lines(g, &l, dy + filled * g.q, index_at(index, filled * g.q),
                           counts + filled % g.p * g.q if counts != NULL else NULL, filled & (g.slots - 1), rows)
                filled += rows


cdef void run_backward(
    Pool* g, const real* dy, Index index, const real* counts, Py_ssize_t planes, real* dx, int threads, char* lines,
    Py_ssize_t share
) noexcept nogil:
    """Planes enough for a batch at a time, each thread in its share of `lines`; there is an index, or counts are not NULL."""
    cdef Py_ssize_t u, some = (g.batch + g.p - 1) // g.p, outputs = g.p * g.q, area = g.height * g.width
    list_reaches(g)
    for u in prange((planes + some - 1) // some, schedule="static", num_threads=threads):
        backward_planes(
            g, dy + u * some * outputs, index_at(index, u * some * outputs), counts,
            min(some, planes - u * some), dx + u * some * area, <size_t> (lines + threadid() * share),
        )


cdef void scatter_planes(
    Pool* g, const real* dy, Index index, Py_ssize_t planes, real* dx,
    const Py_ssize_t* offset, Py_ssize_t taps, int threads,
) noexcept nogil:
    """Each dy goes to its tap's offset from the window."""
    cdef Py_ssize_t u, p, q, tap, origin, at, area = g.height * g.width, output
    for u in prange(planes, schedule="static", num_threads=threads):
        memset(dx + u * area, 0, area * sizeof(real))
        for p in range(g.p):
            origin = (p * g.stride_h - g.top) * g.width - g.left
            for q in range(g.q):
                output = (u * g.p + p) * g.q + q
                tap = index.narrow[output] if index.narrow != NULL else index.wide[output]
                # The index comes from the caller; whatever it says, nothing is read or written out of bounds.
                if 0 <= tap < taps:
                    at = origin + q * g.stride_w + offset[tap]
                    if 0 <= at < area:
                        dx[u * area + at] += dy[output]


def max_pool2d_backward(
    const real[:, :, :, ::1] dy, const unsigned char[:, :, :, ::1] narrow, const int[:, :, :, ::1] wide,
    real[:, :, :, ::1] dx, int kernel_h, int kernel_w, int stride_h, int stride_w, int top, int left, int dilation_h,
    int dilation_w, int threads, /,
):
    """Fill dx: each dy goes to the pixel that held its window's maximum; of the index, one array is None."""
    cdef Pool g
    cdef const unsigned char* bytes = &narrow[0, 0, 0, 0] if narrow is not None else NULL
    cdef Index index = index_of(bytes, &wide[0, 0, 0, 0] if wide is not None else NULL)
    cdef Lines l
    cdef Py_ssize_t tap, planes = dx.shape[0] * dx.shape[1], taps = <Py_ssize_t> kernel_h * kernel_w, share
    cdef Py_ssize_t* offset
    cdef char* lines
    set_pool(&g, dx.shape[2], dx.shape[3], dy.shape[2], dy.shape[3], kernel_h, kernel_w, stride_h, stride_w, top, left,
             dilation_h, dilation_w)
    if index.narrow != NULL and tiled_by_squares(&g, taps):
        with nogil:
            spread_over_squares(&g, &dy[0, 0, 0, 0], index.narrow, planes, &dx[0, 0, 0, 0], threads)
        return
    # Spreading tries all taps of VL windows at a time: from about so many taps on, the scatter is faster.
    if g.kh * g.kw <= 2 * VL:
        plan_reaches(&g, True)
        table_memory(&g, scratch(table_memory(&g, 0)))
        share = line_memory(&g, &l, 0)
        lines = scratch_of_threads(threads, &share)
        with nogil:
            run_backward(&g, &dy[0, 0, 0, 0], index, NULL, planes, &dx[0, 0, 0, 0], threads, lines, share)
        return
    # A table, since dividing a tap into its row and column for every output took half of the time.
    offset = <Py_ssize_t*> scratch(taps * <Py_ssize_t> sizeof(Py_ssize_t))
    for tap in range(taps):
        offset[tap] = tap // kernel_w * dilation_h * g.width + tap % kernel_w * dilation_w
    with nogil:
        scatter_planes(&g, &dy[0, 0, 0, 0], index, planes, &dx[0, 0, 0, 0], offset, taps, threads)


def avg_pool2d_backward(
    const real[:, :, :, ::1] dy, const real[:, ::1] counts, real[:, :, :, ::1] dx, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int threads, /,
):
    """Fill dx: each dy over its count, to every pixel of its window."""
    cdef Pool g
    cdef Lines l
    cdef Py_ssize_t planes = dx.shape[0] * dx.shape[1], share
    cdef size_t cursor
    cdef char* lines
    cdef real* divisors
    set_pool(&g, dx.shape[2], dx.shape[3], dy.shape[2], dy.shape[3], kernel_h, kernel_w, stride_h, stride_w, top, left, 1, 1)
    plan_reaches(&g, False)
    cursor = scratch(table_memory(&g, 0) + buffer_bytes((g.p + g.batch) * g.q))
    divisors = <real*> table_memory(&g, cursor)
    share = line_memory(&g, &l, 0)
    lines = scratch_of_threads(threads, &share)
    repeat(&counts[0, 0], g.p * g.q, (g.p + g.batch) * g.q, divisors)
    with nogil:
        run_backward(&g, &dy[0, 0, 0, 0], index_of(NULL, NULL), divisors, planes, &dx[0, 0, 0, 0], threads, lines, share)
