# Depthwise 3 x 3 convolution of narrow planes, each as one row of pixels: stride 1, a pixel of padding, W <= VL.
#
#     y[j] = b + sum_rs w[r, s] x[j + (r - 1) W + s - 1]      dw[r, s] += sum_j dy[j] x[j + (r - 1) W + s - 1]
#
# A tap is a shift of the row, by lanes of two neighbouring vectors, which one shuffle picks. A vector of x is shifted to the
# left and to the right once, where a mask cuts off what comes from the rows beside; each of the three then serves the outputs
# above, beside and below it. Nothing is padded, transposed or cut out again: as rows of cells or across images, planes took
# 1.2 to 1.9 times as long (Emerald Rapids). Where a shuffle of any lanes takes several instructions there is no such kernel.

# Which lanes of two vectors.
cdef enum:
    PICK_LEFT                   # what lies to the left of the second one's
    PICK_RIGHT                  # to the right of the first one's
    PICK_UP                     # a row above the second one's
    PICK_DOWN                   # a row below the first one's
    PICK_TAIL                   # of a plane's last VL pixels, and zeros, those that no vector before holds
    PICK_END                    # and of its last two vectors its last VL pixels
    PICK_COUNT


cdef inline bint fits_flat(Depthwise* g) noexcept nogil:
    cdef Span* rows = &g.rows
    cdef Span* cols = &g.cols
    if g.inputs * g.filters * rows.stride * cols.stride * rows.dilation * cols.dilation > 1:
        return False
    return (rows.kernel == 3 and cols.kernel == 3 and rows.before == 1 and cols.before == 1 and rows.source == rows.target
            and cols.source == cols.target and cols.source <= VL <= rows.source * cols.source)


cdef inline bint has_long_planes(Depthwise* g) noexcept nogil:
    """Three vectors of pixels, for filter gradients: 6 x 6 to 9 x 9 are 1.06 to 1.5 times as fast so, 5 x 5 0.84 (Zen 5)."""
    return g.rows.source * g.cols.source > 2 * VL


cdef size_t flat_memory(Depthwise* g, size_t cursor) noexcept nogil:
    cdef Py_ssize_t values = vectors_over(g.rows.source * g.cols.source) * VL
    g.lefts = <real*> take(&cursor, values * sizeof(real))
    g.rights = <real*> take(&cursor, values * sizeof(real))
    g.insides = <real*> take(&cursor, values * sizeof(real))
    g.picks = <real*> take(&cursor, PICK_COUNT * VL * sizeof(real))
    return cursor


cdef void fill_pick(Depthwise* g, int which, Py_ssize_t first) noexcept nogil:
    cdef lane lanes[VL]
    cdef Py_ssize_t i
    for i in range(VL):
        lanes[i] = <lane> (first + i)
    memcpy(g.picks + which * VL, lanes, sizeof(lanes))


cdef void fill_flat(Depthwise* g) noexcept nogil:
    """The masks of all pixels for what lies to the left of them and to the right, and of whole vectors for pixels."""
    cdef Py_ssize_t width = g.cols.source, behind = vectors_over(g.rows.source * width) * VL - g.rows.source * width, j, k
    cdef lane there[2]
    there[0], there[1] = 0, -1
    for j in range(vectors_over(g.rows.source * width) * VL):
        k = j % width
        memcpy(g.lefts + j, there + (k > 0), sizeof(lane))
        memcpy(g.rights + j, there + (k < width - 1), sizeof(lane))
        memcpy(g.insides + j, there + (j < g.rows.source * width), sizeof(lane))
    fill_pick(g, PICK_LEFT, VL - 1)
    fill_pick(g, PICK_RIGHT, 1)
    fill_pick(g, PICK_UP, VL - width)
    fill_pick(g, PICK_DOWN, width)
    fill_pick(g, PICK_TAIL, behind)
    fill_pick(g, PICK_END, VL - behind)


cdef inline vmask pick_of(Depthwise* g, int which) noexcept nogil:
    return vbits(load(g.picks + which * VL))


cdef inline vf cut(vf v, const real* mask) noexcept nogil:
    return vreal(vbits(v) & vbits(load(mask)))


cdef inline void sides_of "convlayers_sides_of"(
    int sum, vf before, vf here, vf after, vmask left, vmask right, const real* lefts, const real* rights, vf* sides
) noexcept nogil:
    """What lies beside each pixel of a vector, in the order in which the filter's columns are summed."""
    cdef vf a = cut(vpick(before, here, left), lefts), b = cut(vpick(here, after, right), rights)
    sides[0] = b if sum == OF_INPUT else a
    sides[1] = here
    sides[2] = a if sum == OF_INPUT else b


cdef inline vf tail_of(const real* src, Py_ssize_t area, vmask tail) noexcept nogil:
    """The last vector of a plane, with zeros behind it."""
    return vpick(load(src + area - VL), splat(0), tail)


cdef inline void flat_sums "convlayers_flat_sums"(int sum, Depthwise* g, Series* f) noexcept nogil:
    """All outputs of the planes, each summed over the filter's columns in order and down each of them, as in the strips; or
    what the planes add to the sums of the taps."""
    cdef vf taps[9]
    cdef vf above[3]
    cdef vf here[3]
    cdef vf below[3]
    cdef vf acc, last, x, then, next, dy, zero = splat(0)
    cdef Py_ssize_t area = g.rows.source * g.cols.source, width = g.cols.source, vectors = vectors_over(area), v, u
    cdef Py_ssize_t plane
    cdef vmask left = pick_of(g, PICK_LEFT), right = pick_of(g, PICK_RIGHT), up = pick_of(g, PICK_UP)
    cdef vmask down = pick_of(g, PICK_DOWN), tail = pick_of(g, PICK_TAIL)
    cdef const real* src = f.x
    cdef const real* w = f.w
    cdef const real* lefts
    cdef const real* rights
    cdef const real* bias = f.bias
    cdef real* dst = f.y
    cdef real ceiling = g.ceiling
    cdef int c, r
    if sum == OF_FILTER:
        load_sums(f, taps)
    for plane in range(f.planes):
        if sum != OF_FILTER:
            splat_taps(sum, w, taps)
        lefts, rights = g.lefts, g.rights
        x = load(src) if vectors > 1 else tail_of(src, area, tail)
        next = zero
        if vectors > 1:
            next = load(src + VL) if vectors > 2 else tail_of(src, area, tail)
        for c in range(3):
            above[c] = zero
        sides_of(sum, zero, x, next, left, right, lefts, rights, here)
        acc = zero
        for v in range(vectors):
            last = acc
            # Here, the next one, and the one after that, whose lanes the next one's right side takes.
            u = v + 2
            x, then, next = here[1], next, zero
            if u < vectors - 1:
                next = load(src + u * VL)
            elif u == vectors - 1:
                next = tail_of(src, area, tail)
            for c in range(3):
                below[c] = zero
            if v + 1 < vectors:
                lefts += VL
                rights += VL
                sides_of(sum, x, then, next, left, right, lefts, rights, below)
            acc = splat(bias[0] if bias != NULL else 0)
            if sum == OF_FILTER:
                dy = load(dst + v * VL) if v + 1 < vectors else tail_of(dst, area, tail)
                for c in range(3):
                    # Behind the last pixel, where dy is 0, rows above are not, and might not be finite.
                    taps[3 * c] = taps[3 * c] + dy * cut(vpick(above[c], here[c], up), g.insides + v * VL)
                    taps[3 * c + 1] = taps[3 * c + 1] + dy * here[c]
                    taps[3 * c + 2] = taps[3 * c + 2] + dy * vpick(here[c], below[c], down)
            else:
                for c in range(3):
                    acc = acc + taps[3 * c] * vpick(above[c], here[c], up)
                    acc = acc + taps[3 * c + 1] * here[c]
                    acc = acc + taps[3 * c + 2] * vpick(here[c], below[c], down)
                if ceiling > 0:
                    acc = vsmaller(splat(ceiling), vrelu(acc))
                if v + 1 < vectors:
                    store(dst + v * VL, acc)
            for c in range(3):
                above[c] = here[c]
                here[c] = below[c]
        if sum != OF_FILTER:
            # The last vector moves back, over outputs that are stored already.
            store(dst + area - VL, vpick(last, acc, pick_of(g, PICK_END)))
        src += f.x_apart
        dst += f.y_apart
        w += f.w_apart
        if bias != NULL:
            bias += f.bias_apart
    if sum == OF_FILTER:
        store_sums_of(f, taps)


cdef void run_flat(Depthwise* g, Series* f) noexcept nogil:
    if g.rows.backward:
        flat_sums(OF_INPUT, g, f)
    else:
        flat_sums(OF_OUTPUT, g, f)


cdef void add_flat(Depthwise* g, Series* f) noexcept nogil:
    flat_sums(OF_FILTER, g, f)
