# Depthwise 3 x 3 convolution row by row, where planes lie, at stride 1 or 2: short rows, with 16 registers.
#
#     y[i, j]          = b + sum_sr w[r, s] x[i d + r - pad, j d + s - pad]
#     dw[r, s]        += sum_ij dy[i, j] x[i d + r - pad, j d + s - pad]
#     dx[i d + r - pad, j d + s - pad] += w[r, s] dy[i, j]
#
# As in depthwise_windows.pxi, but here the taps alone fill most of the registers: a vector of the source is loaded anew for
# each vector of outputs, once for a few rows of them. Masks leave out what lies beside the image; rows above it and below are
# read from zeros. Few processors store with a mask as fast as without: so the last vector of a row moves back over its
# neighbour, and the last rows over those above. Planes of a few lines of the cache are no stream that a processor would
# foresee, so what comes next is asked for: without, these kernels took 1.3 to 4 times as long (Zen 3).
#
# A sum goes over the columns of each row, and down the rows: one after the other, nine products took 1.03 to 1.05 times as
# long. Which planes are summed so follows from their sizes alone, so that an image has the same bits in every batch.
#
# What comes next is asked for with each vector, as many lines as it takes: in loops before each strip, and with rows looked for
# one by one inside the image too, these kernels took 1.0 to 1.26 times as long (Zen 3).
#
# At stride 2 every second value of two vectors is one shuffle as long as halves stay apart: lanes 2, 3 and 4, 5 change places.
# Sums are put in order when they are stored, gradients taken out of it when they are loaded.

cdef enum:
    SHORT_COLUMNS = 128         # of outputs and gradients at stride 1, at most
    SPREAD_COLUMNS = 5          # of a source that is spread, at least
    STRIP_OUTPUTS = 4           # rows of outputs that are summed together, at most
    SIGHTS = 5                  # masks of a vector of outputs: of what it loads of the source, and of itself


cdef inline bint spreads(Depthwise* g) noexcept nogil:
    """Whether a pixel of the source feeds outputs two apart: the input gradient at stride 2."""
    return g.rows.backward and g.rows.stride == 2


cdef inline bint fits_rows(Depthwise* g) noexcept nogil:
    cdef Span* rows = &g.rows
    cdef Span* cols = &g.cols
    if g.inputs * g.filters * rows.dilation * cols.dilation > 1 or rows.stride != cols.stride or rows.stride > 2:
        return False
    if rows.kernel != 3 or cols.kernel != 3 or rows.before > 2 or cols.before > 2:
        return False
    if spreads(g):
        return cols.source >= SPREAD_COLUMNS and cols.target > VL
    return cols.target >= VL and rows.target >= STRIP_OUTPUTS and max(cols.source, cols.target) <= SHORT_COLUMNS * rows.stride


cdef inline Py_ssize_t row_vectors(Depthwise* g) noexcept nogil:
    """Vectors of outputs in a row, or, where they are spread, of pairs of outputs."""
    return vectors_over((g.cols.target + 1) // 2 if spreads(g) else g.cols.target)


cdef inline Py_ssize_t vector_start(Depthwise* g, Py_ssize_t v, bint moved) noexcept nogil:
    cdef Py_ssize_t outputs = (g.cols.target + 1) // 2 if spreads(g) else g.cols.target
    return min(v * VL, max(0, outputs - VL)) if moved else v * VL


cdef inline Py_ssize_t first_seen(Span* span, bint spread) noexcept nogil:
    """The source's pixel under the first tap of the first output; where they are spread, the nearer one of the first pair."""
    return (span.before + 1) // 2 - 1 if spread else (span.before - 2 if span.backward else -span.before)


cdef size_t rows_memory(Depthwise* g, size_t cursor) noexcept nogil:
    g.sights = <real*> take(&cursor, row_vectors(g) * SIGHTS * VL * sizeof(real))
    g.nothing = <real*> take(&cursor, g.cols.source * sizeof(real))
    return cursor


cdef void fill_sight(real* mask, Py_ssize_t first, Py_ssize_t size, Py_ssize_t count) noexcept nogil:
    """All bits of the lanes before `count` whose pixels, from `first` on, lie in a row of `size`."""
    cdef lane there[2]
    cdef Py_ssize_t j
    there[0], there[1] = 0, -1
    for j in range(VL):
        memcpy(mask + j, there + (0 <= first + j < size and j < count), sizeof(lane))


cdef void fill_rows(Depthwise* g, bint moved) noexcept nogil:
    """The masks of a row's vectors; `moved` where the last one moves back."""
    cdef bint spread = spreads(g)
    cdef Py_ssize_t width = g.cols.source, stride = 1 if spread else g.cols.stride, v, first, count
    cdef real* mask = g.sights
    memset(g.nothing, 0, width * sizeof(real))
    for v in range(row_vectors(g)):
        first = first_seen(&g.cols, spread) + vector_start(g, v, moved) * stride
        count = VL if spread else min(VL, g.cols.target - vector_start(g, v, moved))
        if stride == 1:
            fill_sight(mask, first, width, count)
            fill_sight(mask + VL, first + 1, width, count)
            fill_sight(mask + 2 * VL, first + 2, width, count)
        else:
            fill_sight(mask, first, width, 2 * count)
            fill_sight(mask + VL, first + VL, width, 2 * count - VL)
            fill_sight(mask + 2 * VL, first + 2, width, 2 * count)
            fill_sight(mask + 3 * VL, first + 2 + VL, width, 2 * count - VL)
        fill_sight(mask + 4 * VL, 0, VL, count)
        mask += SIGHTS * VL


cdef inline const real* row_of(Depthwise* g, const real* x, Py_ssize_t h) noexcept nogil:
    """Row h of a plane, or zeros where there is none."""
    return x + h * g.cols.source if 0 <= h < g.rows.source else g.nothing


cdef inline vf masked "convlayers_masked"(const real* p, const real* mask) noexcept nogil:
    return load_masked(p, vbits(load(mask)))


cdef inline void see "convlayers_see"(int stride, const real* x, const real* mask, vf* seen) noexcept nogil:
    """What the outputs of a vector see of a row under each column of the filter."""
    cdef vf a, b
    if stride == 1:
        seen[0] = masked(x, mask)
        seen[1] = masked(x + 1, mask + VL)
        seen[2] = masked(x + 2, mask + 2 * VL)
    else:
        a = masked(x, mask)
        b = masked(x + VL, mask + VL)
        seen[0] = vevens_apart(a, b)
        seen[1] = vodds_apart(a, b)
        a = masked(x + 2, mask + 2 * VL)
        b = masked(x + 2 + VL, mask + 3 * VL)
        seen[2] = vevens_apart(a, b)


cdef inline void short_feed "convlayers_short_feed"(
    int i, int count, int stride, int sum, const real* x, const real* mask, vf* taps, vf* acc
) noexcept nogil:
    """Row i of the source, to all the rows of outputs that see it."""
    cdef vf seen[3]
    cdef vf row
    cdef int b, c
    if i < (count - 1) * stride + 3:
        see(stride, x, mask, seen)
        for b in range(count):
            if 0 <= i - b * stride < 3:
                if sum == OF_FILTER:
                    for c in range(3):
                        taps[3 * c + i - b * stride] = taps[3 * c + i - b * stride] + acc[b] * seen[c]
                elif sum == OF_INPUT:
                    row = taps[i - b] * seen[2] + taps[3 + i - b] * seen[1]
                    acc[b] = acc[b] + (row + taps[6 + i - b] * seen[0])
                else:
                    row = taps[i - b * stride] * seen[0] + taps[3 + i - b * stride] * seen[1]
                    acc[b] = acc[b] + (row + taps[6 + i - b * stride] * seen[2])


# What the strips of all planes have in common.
cdef struct RowStrips "convlayers_row_strips":
    Py_ssize_t width            # of a row of the source
    Py_ssize_t height
    Py_ssize_t target           # outputs of a row
    const real* sights
    const real* nothing         # zeros for a row, from the column under the first tap on
    real ceiling


cdef inline void short_strip "convlayers_short_strip"(
    int count, int stride, int sum, const RowStrips* s, const real* src, Py_ssize_t h, const real* x_ahead, real* y,
    const real* y_ahead, vf init, vf* taps
) noexcept nogil:
    """`count` rows of outputs, which see the source from row h on, at src, each summed over the columns of the filter's rows
    and down these; or what they add to the sums of the taps."""
    cdef vf acc[STRIP_OUTPUTS]
    cdef const real* x[STRIP_OUTPUTS + 2]
    cdef const real* mask = s.sights
    cdef Py_ssize_t q = s.target, v = 0, at
    cdef real ceiling = s.ceiling
    cdef int b
    if h >= 0 and h + (count - 1) * stride + 3 <= s.height:
        for b in range(STRIP_OUTPUTS + 2):
            x[b] = src + b * s.width
    else:
        for b in range(STRIP_OUTPUTS + 2):
            x[b] = src + b * s.width if 0 <= h + b < s.height else s.nothing
    while v < q:
        for b in range(count * stride * stride * VL // CACHE_LINE):
            prefetch_line(x_ahead + b * CACHE_LINE, 0)
        for b in range(count * VL // CACHE_LINE):
            prefetch_line(y_ahead + b * CACHE_LINE, sum != OF_FILTER)
        x_ahead += count * stride * stride * VL
        y_ahead += count * VL
        at = v
        if sum != OF_FILTER:
            at = min(at, q - VL)
        for b in range(count):
            acc[b] = init
            if sum == OF_FILTER:
                acc[b] = masked(y + b * q + at, mask + 4 * VL)
                if stride == 2:
                    acc[b] = vparted(acc[b])
        # One by one: a loop around them would be too large for the compiler to unroll.
        short_feed(0, count, stride, sum, x[0] + at * stride, mask, taps, acc)
        short_feed(1, count, stride, sum, x[1] + at * stride, mask, taps, acc)
        short_feed(2, count, stride, sum, x[2] + at * stride, mask, taps, acc)
        short_feed(3, count, stride, sum, x[3] + at * stride, mask, taps, acc)
        short_feed(4, count, stride, sum, x[4] + at * stride, mask, taps, acc)
        short_feed(5, count, stride, sum, x[5] + at * stride, mask, taps, acc)
        mask += SIGHTS * VL
        v += VL
        if sum != OF_FILTER:
            for b in range(count):
                if ceiling > 0:
                    acc[b] = vsmaller(splat(ceiling), vrelu(acc[b]))
                if stride == 2:
                    acc[b] = vparted(acc[b])
            for b in range(count):
                store(y + b * q + at, acc[b])


cdef inline void row_sums "convlayers_row_sums"(int stride, int sum, Depthwise* g, Series* f) noexcept nogil:
    cdef vf taps[9]
    cdef vf init
    cdef RowStrips s
    cdef Py_ssize_t n, top, rows = g.rows.target, first = first_seen(&g.cols, False), above = first_seen(&g.rows, False), step
    cdef const real* src
    cdef const real* x_ahead
    cdef real* y
    cdef int count = STRIP_OUTPUTS // stride
    s.width, s.height, s.target, s.sights, s.ceiling = g.cols.source, g.rows.source, g.cols.target, g.sights, g.ceiling
    s.nothing = g.nothing + first
    step = stride * s.width
    if sum == OF_FILTER:
        load_sums(f, taps)
    for n in range(f.planes):
        if sum != OF_FILTER:
            splat_taps(sum, f.w, taps)
        init = splat(f.bias[0] if f.bias != NULL else 0)
        top = 0
        while top < rows:
            src, y = f.x + top * step + above * s.width + first, f.y + top * s.target
            x_ahead = f.x + top * step + f.x_ahead
            if top + count <= rows:
                short_strip(STRIP_OUTPUTS // stride, stride, sum, &s, src, above + top * stride, x_ahead, y, y + f.y_ahead,
                            init, taps)
                top += count
            elif sum == OF_FILTER:
                short_strip(1, stride, sum, &s, src, above + top * stride, x_ahead, y, y + f.y_ahead, init, taps)
                top += 1
            else:
                # The last strip moves back, as the last vector of a row does.
                top = rows - count
        next_plane(f)
    if sum == OF_FILTER:
        store_sums_of(f, taps)


cdef void store_ends(const vf* rows, Py_ssize_t count, int lines, real* y, Py_ssize_t target) noexcept nogil:
    """The first `count` values of two vectors each for one row or two."""
    cdef int i
    for i in range(lines):
        store_part(y + i * target, min(VL, count), rows[2 * i])
        store_part(y + i * target + VL, min(VL, count - VL), rows[2 * i + 1])


cdef inline void spread_pair "convlayers_spread_pair"(
    int odd_row, int odd, Depthwise* g, Series* f, Py_ssize_t pair, const vf* w
) noexcept nogil:
    """Two rows of gradients, which two rows of dy feed, or the first of them alone; see depthwise_windows.pxi."""
    cdef vf near0, near1, far0, far1, fed0, fed1, alone, both, single0, single1, twice0, twice1, zero = splat(0)
    cdef vf rows[4]
    cdef Py_ssize_t target = g.cols.target, first = first_seen(&g.cols, True), h = first_seen(&g.rows, True) + pair, v, at
    cdef Py_ssize_t vectors = row_vectors(g)
    cdef const real* a = row_of(g, f.x, h) + first
    cdef const real* b = row_of(g, f.x, h + 1) + first
    cdef const real* mask = g.sights
    cdef real* y = f.y + 2 * pair * target
    cdef const real* x_ahead = f.x + f.x_ahead + pair * g.cols.source
    cdef const real* y_ahead = y + f.y_ahead
    cdef bint whole
    # Rows of whole vectors, or of less than two, which run over into what is written next.
    whole = target % 2 == 0 and target >= 2 * VL or target < 2 * VL and 2 * pair + 2 < g.rows.target
    whole = whole and 2 * pair + 2 <= g.rows.target
    for v in range(vectors):
        prefetch_line(x_ahead + v * VL, 0)
        prefetch_line(y_ahead + v * 4 * VL, 1)
        prefetch_line(y_ahead + v * 4 * VL + CACHE_LINE, 1)
        at = max(0, min(v * VL, (target + 1) // 2 - VL))
        near0, near1 = masked(a + at, mask), masked(a + at + 1, mask + VL)
        far0, far1 = masked(b + at, mask), masked(b + at + 1, mask + VL)
        mask += SIGHTS * VL
        # The row that one row feeds, and the one that both do: over columns in order, and down each.
        fed0, fed1 = near0 if odd_row else far0, near1 if odd_row else far1
        alone = zero + w[4] * (fed0 if odd else fed1)
        both = zero + w[3] * fed1 + w[5] * fed0
        fed0, fed1 = alone if odd else both, both if odd else alone
        single0, single1 = vturns_low(fed0, fed1), vturns_high(fed0, fed1)
        alone = zero + w[7] * (near0 if odd else near1) + w[1] * (far0 if odd else far1)
        both = zero + w[6] * near1 + w[0] * far1 + w[8] * near0 + w[2] * far0
        fed0, fed1 = alone if odd else both, both if odd else alone
        twice0, twice1 = vturns_low(fed0, fed1), vturns_high(fed0, fed1)
        if whole:
            store(y + 2 * at, single0 if odd_row else twice0)
            store(y + 2 * at + VL, single1 if odd_row else twice1)
            store(y + target + 2 * at, twice0 if odd_row else single0)
            store(y + target + 2 * at + VL, twice1 if odd_row else single1)
        else:
            rows[0], rows[1] = single0 if odd_row else twice0, single1 if odd_row else twice1
            rows[2], rows[3] = twice0 if odd_row else single0, twice1 if odd_row else single1
            store_ends(rows, target - 2 * at, <int> min(2, g.rows.target - 2 * pair), y + 2 * at, target)


cdef inline void spread_planes "convlayers_spread_planes"(int odd_row, int odd, Depthwise* g, Series* f) noexcept nogil:
    cdef vf w[9]
    cdef Py_ssize_t n, pair
    cdef int k
    for n in range(f.planes):
        for k in range(9):
            w[k] = splat(f.w[k])
        for pair in range((g.rows.target + 1) // 2):
            spread_pair(odd_row, odd, g, f, pair, w)
        next_plane(f)


cdef void spread_short_rows(Depthwise* g, Series* f) noexcept nogil:
    """By the parity of the padding, which is odd most often."""
    if g.rows.before % 2 == 1 and g.cols.before % 2 == 1:
        spread_planes(1, 1, g, f)
    else:
        spread_planes(g.rows.before % 2, g.cols.before % 2, g, f)


cdef void run_short_rows(Depthwise* g, Series* f) noexcept nogil:
    if spreads(g):
        spread_short_rows(g, f)
    elif g.rows.backward:
        row_sums(1, OF_INPUT, g, f)
    elif g.rows.stride == 1:
        row_sums(1, OF_OUTPUT, g, f)
    else:
        row_sums(2, OF_OUTPUT, g, f)


cdef void add_short_rows(Depthwise* g, Series* f) noexcept nogil:
    if g.rows.stride == 1:
        row_sums(1, OF_FILTER, g, f)
    else:
        row_sums(2, OF_FILTER, g, f)
