# Depthwise 3 x 3 convolution row by row, where planes lie, at stride 1 or 2.
#
#     y[i, j]          = b + sum_sr w[r, s] x[i d + r - pad, j d + s - pad]
#     dw[r, s]        += sum_ij dy[i, j] x[i d + r - pad, j d + s - pad]
#     dx[i d + r - pad, j d + s - pad] += w[r, s] dy[i, j]
#
# A vector of outputs of one row is nine products of vectors that stay in registers: three rows of the source, each as the
# filter's three columns see it. Going down a panel of columns they move up, so that three loads serve nine products at stride
# 1, and eight at stride 2. Loads leave out the lanes beside the image, so nothing is padded, parted or copied; stores the lanes
# behind it. Strips of a copy took 1.2 to 5 times as long (Zen 5). At stride 2, rows of up to half a vector are taken two at a
# time. Nine taps and nine vectors do not fit 16 registers: for those there is depthwise_rows.pxi.

cdef enum:
    WINDOW_COLUMNS = 10         # of outputs and gradients, at least: planes of fewer are rows of pixels, or lanes
    STRIDED_COLUMNS = 7         # at stride 2
    WINDOW_BYTES = 8 * 1024     # of both planes in a block of rows, over which all panels go while the first level holds it
    WINDOW_ROWS = 8             # but so many at least


cdef inline bint fits_windows(Depthwise* g) noexcept nogil:
    cdef Span* rows = &g.rows
    cdef Span* cols = &g.cols
    if g.inputs * g.filters * rows.dilation * cols.dilation > 1 or rows.stride != cols.stride or rows.stride > 2:
        return False
    if rows.kernel != 3 or cols.kernel != 3 or rows.before > 2 or cols.before > 2:
        return False
    return min(cols.source, cols.target) >= (WINDOW_COLUMNS if rows.stride == 1 else STRIDED_COLUMNS)


cdef inline Py_ssize_t window_rows(Depthwise* g) noexcept nogil:
    """Of a block: rows of outputs, or pairs of rows of a gradient at stride 2."""
    cdef Py_ssize_t values = g.rows.axis.step * g.cols.source + g.rows.grids * g.cols.target
    return max(WINDOW_ROWS, WINDOW_BYTES // (values * <Py_ssize_t> sizeof(real)))


cdef inline void see_row "convlayers_see_row"(
    int stride, bint there, const real* p, const unsigned int* lanes, vf* seen
) noexcept nogil:
    """A row of the source under each column of the filter; zeros where there is none."""
    cdef vf a, b
    if not there:
        seen[0] = seen[1] = seen[2] = splat(0)
    elif stride == 1:
        seen[0] = load_lanes(p, lanes[0])
        seen[1] = load_lanes(p + 1, lanes[1])
        seen[2] = load_lanes(p + 2, lanes[2])
    else:
        a = load_lanes(p, lanes[0])
        b = load_lanes(p + VL, lanes[1])
        seen[0] = vevens(a, b)
        seen[1] = vodds(a, b)
        a = load_lanes(p + 2, lanes[2])
        b = load_lanes(p + 2 + VL, lanes[3])
        seen[2] = vevens(a, b)


cdef inline void ask_row(const real* p, Py_ssize_t count, bint write) noexcept nogil:
    prefetch(p, count * <Py_ssize_t> sizeof(real), write)


cdef inline void window_panel "convlayers_window_panel"(
    int stride, int sum, Depthwise* g, Series* f, const real* src, real* dst, Py_ssize_t top, Py_ssize_t column, vf* taps
) noexcept nogil:
    """A vector of columns of the block of rows from `top` on."""
    cdef vf above[3]
    cdef vf here[3]
    cdef vf below[3]
    cdef vf acc, init = splat(f.bias[0] if f.bias != NULL else 0)
    cdef unsigned int lanes[4]
    cdef unsigned int mine
    cdef Py_ssize_t height = g.rows.source, width = g.cols.source, q = g.cols.target, i
    cdef Py_ssize_t rows = min(g.block, g.rows.target - top)
    cdef Py_ssize_t h = top * stride - (2 - g.rows.before if sum == OF_INPUT else g.rows.before)
    cdef Py_ssize_t first = column * stride - (2 - g.cols.before if sum == OF_INPUT else g.cols.before)
    cdef Py_ssize_t count = min(VL, q - column), x_ahead, y_ahead
    cdef const real* x = src + h * width + first
    cdef real* y = dst + top * q + column
    cdef real ceiling = g.ceiling
    cdef int c
    mine = lanes_within(0, VL, count)
    if stride == 1:
        for c in range(3):
            lanes[c] = lanes_within(first + c, width, count)
    else:
        for c in range(2):
            lanes[c] = lanes_within(first + c * VL, width, 2 * count - c * VL)
            lanes[2 + c] = lanes_within(first + 2 + c * VL, width, 2 * count - c * VL)
    if top + rows < g.rows.target:
        x_ahead, y_ahead = rows * stride * width, rows * q
    else:
        x_ahead, y_ahead = f.x_ahead - top * stride * width, f.y_ahead - top * q
    see_row(stride, 0 <= h < height, x, lanes, above)
    if stride == 1:
        see_row(stride, 0 <= h + 1 < height, x + width, lanes, here)
    for i in range(rows):
        if column == 0:
            ask_row(x + x_ahead, stride * width, False)
            ask_row(y + y_ahead, q, sum != OF_FILTER)
        if stride == 2:
            see_row(stride, 0 <= h + 1 < height, x + width, lanes, here)
        see_row(stride, 0 <= h + 2 < height, x + 2 * width, lanes, below)
        if sum == OF_FILTER:
            acc = load_lanes(y, mine)
            for c in range(3):
                taps[3 * c] = taps[3 * c] + acc * above[c]
                taps[3 * c + 1] = taps[3 * c + 1] + acc * here[c]
                taps[3 * c + 2] = taps[3 * c + 2] + acc * below[c]
        else:
            acc = init
            for c in range(3):
                acc = acc + taps[3 * c] * above[2 - c if sum == OF_INPUT else c]
                acc = acc + taps[3 * c + 1] * here[2 - c if sum == OF_INPUT else c]
                acc = acc + taps[3 * c + 2] * below[2 - c if sum == OF_INPUT else c]
            if ceiling > 0:
                acc = vsmaller(splat(ceiling), vrelu(acc))
            store_lanes(y, acc, mine)
        for c in range(3):
            above[c] = here[c] if stride == 1 else below[c]
            here[c] = below[c]
        h += stride
        x += stride * width
        y += q


cdef inline void window_sums "convlayers_window_sums"(int stride, int sum, Depthwise* g, Series* f) noexcept nogil:
    """All outputs of the planes, each summed over the filter's columns in order and down each of them, as in the strips; or
    what the planes add to the sums of the taps."""
    cdef vf taps[9]
    cdef Py_ssize_t n, top, column
    if sum == OF_FILTER:
        load_sums(f, taps)
    for n in range(f.planes):
        if sum != OF_FILTER:
            splat_taps(sum, f.w, taps)
        top = 0
        while top < g.rows.target:
            column = 0
            while column < g.cols.target:
                window_panel(stride, sum, g, f, f.x, f.y, top, column, taps)
                column += VL
            top += g.block
        next_plane(f)
    if sum == OF_FILTER:
        store_sums_of(f, taps)


cdef inline void see_twice "convlayers_see_twice"(
    bint there, const real* p, const unsigned int* lanes, vf* seen
) noexcept nogil:
    """A row of the source from a pixel on, and from the next; zeros where there is none."""
    seen[0] = load_lanes(p, lanes[0]) if there else splat(0)
    seen[1] = load_lanes(p + 1, lanes[1]) if there else splat(0)


# Rows of up to half a vector of outputs, at stride 2 with a pixel of padding: one row in each half. With requests for the next
# plane, as above, they took 1.0 to 1.2 times as long (Zen 4).

cdef inline bint pairs_rows(Depthwise* g) noexcept nogil:
    return g.rows.stride == 2 and not g.rows.backward and g.cols.before == 1 and 2 * g.cols.target <= VL


cdef inline void see_pair "convlayers_see_pair"(bint both, const vf* one, const vf* other, vf* seen) noexcept nogil:
    """Two rows of the source, from their first pixel on and their second, under each column of the filter; or one alone."""
    cdef vf first = other[0] if both else splat(0), second = other[1] if both else splat(0)
    seen[0] = vevens(one[0], first)
    seen[1] = vevens(one[1], second)
    seen[2] = vodds(one[1], second)


cdef inline void pair_sums "convlayers_pair_sums"(int sum, Depthwise* g, Series* f) noexcept nogil:
    """What window_sums does, two rows at a time: five rows of the source, of which three are the first one's."""
    cdef vf taps[9]
    cdef vf rows[10]
    cdef vf above[3]
    cdef vf here[3]
    cdef vf below[3]
    cdef vf acc, init
    cdef unsigned int lanes[2]
    cdef Py_ssize_t height = g.rows.source, width = g.cols.source, q = g.cols.target, n, top, h
    cdef unsigned int mine = lanes_within(0, VL, q), second
    cdef const real* x
    cdef real* y
    cdef int c, r
    for c in range(2):
        lanes[c] = lanes_within(c - 1, width, 2 * q)
    if sum == OF_FILTER:
        load_sums(f, taps)
    for n in range(f.planes):
        if sum != OF_FILTER:
            splat_taps(sum, f.w, taps)
        init = splat(f.bias[0] if f.bias != NULL else 0)
        h = -g.rows.before
        x, y, top = f.x + h * width - 1, f.y, 0
        see_twice(0 <= h < height, x, lanes, rows)
        while top < g.rows.target:
            second = mine << VL // 2 if top + 1 < g.rows.target else 0
            for r in range(1, 5):
                see_twice(0 <= h + r < height, x + r * width, lanes, rows + 2 * r)
            see_pair(second > 0, rows, rows + 4, above)
            see_pair(second > 0, rows + 2, rows + 6, here)
            see_pair(second > 0, rows + 4, rows + 8, below)
            if sum == OF_FILTER:
                acc = vreal(vbits(load_lanes(y, mine)) | vbits(load_lanes(y + q - VL // 2, second)))
                for c in range(3):
                    taps[3 * c] = taps[3 * c] + acc * above[c]
                    taps[3 * c + 1] = taps[3 * c + 1] + acc * here[c]
                    taps[3 * c + 2] = taps[3 * c + 2] + acc * below[c]
            else:
                acc = init
                for c in range(3):
                    acc = acc + taps[3 * c] * above[c] + taps[3 * c + 1] * here[c] + taps[3 * c + 2] * below[c]
                if g.ceiling > 0:
                    acc = vsmaller(splat(g.ceiling), vrelu(acc))
                store_lanes(y, acc, mine)
                store_lanes(y + q - VL // 2, acc, second)
            rows[0], rows[1] = rows[8], rows[9]
            h += 4
            x += 4 * width
            y += 2 * q
            top += 2
        next_plane(f)
    if sum == OF_FILTER:
        store_sums_of(f, taps)


# The input gradient at stride 2. Two neighbouring outputs read the same two pixels of dy, near and far: one both, under two
# taps of the filter, and one of them alone, under the tap between. Which of the outputs comes first, and which pixel is read
# alone, is a matter of the padding's parity.

cdef inline void store_pairs "convlayers_store_pairs"(
    bint odd, vf alone, vf both, real* y, unsigned int low, unsigned int high
) noexcept nogil:
    cdef vf first = alone if odd else both
    cdef vf second = both if odd else alone
    store_lanes(y, vturns_low(first, second), low)
    store_lanes(y + VL, vturns_high(first, second), high)


cdef inline void spread_panel "convlayers_spread_panel"(
    Depthwise* g, Series* f, Py_ssize_t top, Py_ssize_t column, const vf* w
) noexcept nogil:
    """A vector of pairs of columns of the block of pairs of rows from `top` on."""
    cdef vf near[2]
    cdef vf far[2]
    cdef vf row[2]
    cdef vf alone, both, zero = splat(0)
    cdef unsigned int lanes[2]
    cdef unsigned int low, high
    cdef Py_ssize_t height = g.rows.source, width = g.cols.source, h = (g.rows.before + 1) // 2 - 1 + top, y_row = 2 * top
    cdef Py_ssize_t first = (g.cols.before + 1) // 2 - 1 + column, target = g.cols.target, x_ahead
    cdef Py_ssize_t pairs = min(g.block, (g.rows.target + 1) // 2 - top), y_ahead, i
    cdef const real* x = f.x + h * width + first
    cdef real* y = f.y + y_row * target + 2 * column
    cdef bint odd_row = g.rows.before % 2 == 1, odd = g.cols.before % 2 == 1
    lanes[0], lanes[1] = lanes_within(first, width, VL), lanes_within(first + 1, width, VL)
    low, high = lanes_within(2 * column, target, VL), lanes_within(2 * column + VL, target, VL)
    if y_row + 2 * pairs < g.rows.target:
        x_ahead, y_ahead = pairs * width, 2 * pairs * target
    else:
        x_ahead, y_ahead = f.x_ahead - top * width, f.y_ahead - y_row * target
    see_twice(0 <= h < height, x, lanes, near)
    for i in range(pairs):
        if column == 0:
            ask_row(x + x_ahead, width, False)
            ask_row(y + y_ahead, 2 * target, True)
        see_twice(0 <= h + 1 < height, x + width, lanes, far)
        row[0], row[1] = near[0] if odd_row else far[0], near[1] if odd_row else far[1]
        # Of the row that is read alone, and of both: over columns in order, and down each.
        alone = zero + w[4] * (row[0] if odd else row[1])
        both = zero + w[3] * row[1] + w[5] * row[0]
        if odd_row or y_row + 1 < g.rows.target:
            store_pairs(odd, alone, both, y if odd_row else y + target, low, high)
        alone = zero + w[7] * (near[0] if odd else near[1]) + w[1] * (far[0] if odd else far[1])
        both = zero + w[6] * near[1] + w[0] * far[1] + w[8] * near[0] + w[2] * far[0]
        if not odd_row or y_row + 1 < g.rows.target:
            store_pairs(odd, alone, both, y + target if odd_row else y, low, high)
        near[0], near[1] = far[0], far[1]
        h += 1
        y_row += 2
        x += width
        y += 2 * target


cdef void spread_windows(Depthwise* g, Series* f) noexcept nogil:
    cdef vf w[9]
    cdef Py_ssize_t n, top, column
    cdef int k
    for n in range(f.planes):
        for k in range(9):
            w[k] = splat(f.w[k])
        top = 0
        while 2 * top < g.rows.target:
            column = 0
            while 2 * column < g.cols.target:
                spread_panel(g, f, top, column, w)
                column += VL
            top += g.block
        next_plane(f)


cdef void run_windows(Depthwise* g, Series* f) noexcept nogil:
    if g.rows.backward and g.rows.stride == 1:
        window_sums(1, OF_INPUT, g, f)
    elif g.rows.backward:
        spread_windows(g, f)
    elif g.rows.stride == 1:
        window_sums(1, OF_OUTPUT, g, f)
    elif pairs_rows(g):
        pair_sums(OF_OUTPUT, g, f)
    else:
        window_sums(2, OF_OUTPUT, g, f)


cdef void add_windows(Depthwise* g, Series* f) noexcept nogil:
    if g.rows.stride == 1:
        window_sums(1, OF_FILTER, g, f)
    elif pairs_rows(g):
        pair_sums(OF_FILTER, g, f)
    else:
        window_sums(2, OF_FILTER, g, f)
