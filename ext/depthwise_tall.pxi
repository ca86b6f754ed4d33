# Depthwise convolution with 5 x 5 and 7 x 7 kernels, where planes lie: tall strips of one vector of columns, at stride 1, and
# forward at stride 2. Rows of up to half a vector, at stride 1, are those of two planes, one in each half.
#
#     y[i, j] = b + sum_sr w[r, s] x[i d + r - pad, j d + s - pad]
#
# The sums of up to fourteen rows of outputs and the taps of one kernel column stay in registers. A row of the source is loaded
# once for each kernel column, without the lanes beside the image, and feeds all rows of outputs that see it; rows above the
# image and below are left out, taps and all. Nothing is padded, transposed or copied, and a load serves up to seven
# multiply-adds: 12 x 12 to 48 x 48 took 0.7 to 0.95 of the time of strips of a copy, single images of 14 x 14 0.6, 56 x 56 and
# more 1.2, 10 x 10, of which lanes stay empty, 1.25 (Zen 4). A sum goes over the columns in order, and down each of them, as in
# the strips; at stride 2 two columns take turns.

cdef enum:
    TALL_ROWS = 14              # of outputs in a strip, at most
    LESS_TALL_ROWS = 8
    STRIDED_ROWS = 7            # at stride 2
    TALL_COLUMNS = 12           # of outputs, at least
    MOST_TALL_COLUMNS = 48
    PAIRED_COLUMNS = 5          # of two planes in a vector, at least


cdef inline bint fits_tall(Depthwise* g) noexcept nogil:
    cdef Span* rows = &g.rows
    cdef Span* cols = &g.cols
    if g.inputs * g.filters * rows.dilation * cols.dilation > 1 or rows.kernel != cols.kernel or rows.stride != cols.stride:
        return False
    if rows.stride > (1 if rows.backward else 2):
        return False
    if not (rows.kernel == 5 or rows.kernel == 7) or max(rows.before, cols.before) >= rows.kernel:
        return False
    return TALL_COLUMNS <= cols.target <= MOST_TALL_COLUMNS or pairs_planes(g) and not fill_lanes(g.images)


cdef inline bint pairs_planes(Depthwise* g) noexcept nogil:
    """Where images do not fill the lanes of vectors: 1.3 to 1.6 times as fast as lanes of cells or of any channels, 0.9 to 1.1
    as fast as lanes of images (Zen 4)."""
    return g.rows.stride == 1 and PAIRED_COLUMNS <= g.cols.target <= VL // 2


cdef inline int rows_of_strip(Py_ssize_t rows) noexcept nogil:
    """The height of strips that leaves the fewest rows over, with what each strip reads above and below counted in."""
    cdef Py_ssize_t tall = (rows + TALL_ROWS - 1) // TALL_ROWS, less = (rows + LESS_TALL_ROWS - 1) // LESS_TALL_ROWS
    return TALL_ROWS if tall * (TALL_ROWS + 2) <= less * (LESS_TALL_ROWS + 2) else LESS_TALL_ROWS


cdef inline void tall_feed "convlayers_tall_feed"(
    bint pair, int i, int rows, int taps, Py_ssize_t begin, Py_ssize_t end, const real* x, Py_ssize_t width, unsigned int lanes,
    Py_ssize_t other, const vf* w, vf* acc
) noexcept nogil:
    """Row i of what a strip sees, under one kernel column, to all the rows of outputs that see it; with `pair`, the same row of
    the plane `other` values on in the upper half."""
    cdef vf v
    cdef int b
    if i < rows + taps - 1 and begin <= i < end:
        v = load_lanes(x + i * width, lanes)
        if pair:
            v = vreal(vbits(v) | vbits(load_lanes(x + i * width + other - VL // 2, lanes << VL // 2)))
        for b in range(rows):
            if 0 <= i - b < taps:
                acc[b] = acc[b] + w[i - b] * v


cdef inline void tall_column "convlayers_tall_column"(
    bint pair, int rows, int taps, Py_ssize_t begin, Py_ssize_t end, const real* x, Py_ssize_t width, unsigned int lanes,
    Py_ssize_t other, const real* tap, Py_ssize_t apart, Py_ssize_t other_tap, vf* acc
) noexcept nogil:
    cdef vf w[COLUMN_TAPS]
    cdef int r
    for r in range(taps):
        w[r] = splat(tap[r * apart])
        if pair:
            w[r] = vselect(first_lanes(VL // 2), w[r], splat(tap[r * apart + other_tap]))
    # One by one: a loop around tall_feed would be too large for the compiler to unroll.
    tall_feed(pair, 0, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 1, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 2, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 3, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 4, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 5, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 6, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 7, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 8, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 9, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 10, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 11, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 12, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 13, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 14, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 15, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 16, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 17, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 18, rows, taps, begin, end, x, width, lanes, other, w, acc)
    tall_feed(pair, 19, rows, taps, begin, end, x, width, lanes, other, w, acc)


# At stride 2 a row of the source is loaded once for two kernel columns, which take turns: an even pixel and the odd one behind.
# With tall_feed as one function, strips at stride 2 were 0.86 to 0.97 times as fast.

cdef inline void strided_feed "convlayers_strided_feed"(
    int i, int rows, int taps, bint both, Py_ssize_t begin, Py_ssize_t end, const real* x, Py_ssize_t width,
    const unsigned int* lanes, const vf* w, vf* acc
) noexcept nogil:
    """Row i of what a strip sees, under one kernel column or two, to all the rows of outputs that see it."""
    cdef vf first, second, v
    cdef int b
    if i < 2 * rows - 2 + taps and begin <= i < end:
        first, second = load_lanes(x + i * width, lanes[0]), load_lanes(x + i * width + VL, lanes[1])
        v = vevens(first, second)
        for b in range(rows):
            if 0 <= i - 2 * b < taps:
                acc[b] = acc[b] + w[i - 2 * b] * v
        if both:
            v = vodds(first, second)
            for b in range(rows):
                if 0 <= i - 2 * b < taps:
                    acc[b] = acc[b] + w[taps + i - 2 * b] * v


cdef inline void strided_columns "convlayers_strided_columns"(
    int rows, int taps, bint both, Py_ssize_t begin, Py_ssize_t end, const real* x, Py_ssize_t width, Py_ssize_t first,
    Py_ssize_t count, const real* tap, vf* acc
) noexcept nogil:
    cdef vf w[2 * COLUMN_TAPS]
    cdef unsigned int lanes[2]
    cdef int r
    lanes[0], lanes[1] = lanes_within(first, width, 2 * count), lanes_within(first + VL, width, 2 * count - VL)
    for r in range(taps):
        w[r] = splat(tap[r * taps])
        if both:
            w[taps + r] = splat(tap[r * taps + 1])
    strided_feed(0, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(1, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(2, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(3, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(4, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(5, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(6, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(7, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(8, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(9, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(10, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(11, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(12, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(13, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(14, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(15, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(16, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(17, rows, taps, both, begin, end, x, width, lanes, w, acc)
    strided_feed(18, rows, taps, both, begin, end, x, width, lanes, w, acc)


cdef inline void tall_plane "convlayers_tall_plane"(
    int stride, bint pair, int rows, int taps, Depthwise* g, Series* f
) noexcept nogil:
    """All outputs of one plane, strip by strip of `rows` rows; with `pair`, of the next one too, or of that one twice."""
    cdef vf acc[TALL_ROWS]
    cdef vf start = splat(f.bias[0] if f.bias != NULL else 0)
    cdef bint backward = g.rows.backward, both = f.planes > 1
    cdef Py_ssize_t x_other = f.x_apart if both else 0, w_other = f.w_apart if both else 0
    cdef Py_ssize_t width = g.cols.source, target = g.cols.target, top = 0, column, h, first, begin, end, count, s
    cdef Py_ssize_t above = taps - 1 - g.rows.before if backward else g.rows.before
    cdef Py_ssize_t left = taps - 1 - g.cols.before if backward else g.cols.before
    # The input gradient's kernel is turned by 180 degrees: down each column, its taps are read from the last one on.
    cdef Py_ssize_t down = -taps if backward else taps
    cdef const real* w
    cdef const real* x
    cdef real* y
    cdef real ceiling = g.ceiling
    cdef unsigned int mine
    cdef int b
    if pair and both and f.bias != NULL:
        start = vselect(first_lanes(VL // 2), start, splat(f.bias[f.bias_apart]))
    while top < g.rows.target:
        h = top * stride - above
        begin, end = max(0, -h), g.rows.source - h
        column = 0
        while column < target:
            count = min(VL, target - column)
            y = f.y + top * target + column
            if column == 0:
                prefetch(f.x + f.x_ahead + top * stride * width, rows * stride * width * <Py_ssize_t> sizeof(real), False)
                prefetch(y + f.y_ahead, rows * target * <Py_ssize_t> sizeof(real), True)
            for b in range(rows):
                acc[b] = start
            w = f.w + (taps * taps - taps if backward else 0)
            for s in range(taps):
                first = column * stride + (taps - 1 - s if backward else s) - left
                x = f.x + h * width + first
                if stride == 1:
                    tall_column(pair, rows, taps, begin, end, x, width, lanes_within(first, width, count), x_other, w, down,
                                w_other, acc)
                elif s % 2 == 0 and s + 1 < taps:
                    strided_columns(rows, taps, True, begin, end, x, width, first, count, w, acc)
                elif s % 2 == 0:
                    strided_columns(rows, taps, False, begin, end, x, width, first, count, w, acc)
                w += 1
            if ceiling > 0:
                for b in range(rows):
                    acc[b] = vsmaller(splat(ceiling), vrelu(acc[b]))
            mine = lanes_within(0, VL, count)
            for b in range(rows):
                if top + b < g.rows.target:
                    store_lanes(y + b * target, acc[b], mine)
                    if pair and both:
                        store_lanes(y + b * target + f.y_apart - VL // 2, acc[b], mine << VL // 2)
            column += VL
        top += rows


cdef void run_tall(Depthwise* g, Series* f) noexcept nogil:
    cdef int rows = rows_of_strip(g.rows.target)
    cdef bint pair = pairs_planes(g)
    while f.planes > 0:
        if g.rows.stride == 2 and g.rows.kernel == 5:
            tall_plane(2, False, STRIDED_ROWS, 5, g, f)
        elif g.rows.stride == 2:
            tall_plane(2, False, STRIDED_ROWS, 7, g, f)
        elif pair and g.rows.kernel == 5:
            tall_plane(1, True, LESS_TALL_ROWS, 5, g, f)
        elif pair:
            tall_plane(1, True, LESS_TALL_ROWS, 7, g, f)
        elif rows == TALL_ROWS and g.rows.kernel == 5:
            tall_plane(1, False, TALL_ROWS, 5, g, f)
        elif rows == TALL_ROWS:
            tall_plane(1, False, TALL_ROWS, 7, g, f)
        elif g.rows.kernel == 5:
            tall_plane(1, False, LESS_TALL_ROWS, 5, g, f)
        else:
            tall_plane(1, False, LESS_TALL_ROWS, 7, g, f)
        if pair and f.planes > 1:
            next_plane(f)
            f.planes -= 1
        next_plane(f)
        f.planes -= 1
