# Group normalisation: each group of a sample's values is brought to mean 0 and variance 1, then scaled and shifted. Layer
# normalisation is one group, instance normalisation a group for each channel.
#
#     u = (x - mean) / sqrt(var + eps)      y = u w + b      mean and var over the m values of a group
#     db = sum dy      dw = sum dy u        over all samples
#     dx = (g - sum g / m - u sum g u / m) / sqrt(var + eps)      g = dy w
#
# x, y, dy, dx (R, P A): a row is a group of a sample, P planes of A values; row r is group r modulo `groups`. w, b (groups P):
# a value a plane; where A is 1 that is a value of its own for every value of the row, and the vectors load it. mean, var,
# center, scale and shift, one a row, and the blocks of a row's sums are those of batchnorm.pxi for a w of 1 and a b of 0: a row
# is a channel there. One thread takes a row through all passes: a sample's bits depend on neither threads nor batch.

cdef struct Groups "convlayers_groups":
    Norm rows
    Py_ssize_t groups
    Py_ssize_t planes           # of a row
    Py_ssize_t area             # of a plane
    const real* weight
    const real* bias
    double* dw                  # for each plane of each row or, where A is 1, for each place of a sample
    double* db


cdef void open_groups(
    Groups* g, const real[:, :, ::1] x, const real[::1] weight, double[:, ::1] moments, real[:, ::1] affine,
    real[:, :, ::1] out, Py_ssize_t area, double eps,
) noexcept nogil:
    cut_norm(&g.rows, x.shape[0], x.shape[1], x.shape[2])
    set_moments(&g.rows, moments, affine, eps)
    g.rows.x = planes(&x[0, 0, 0], x.shape[1], x.shape[2])
    g.rows.out = planes(&out[0, 0, 0], x.shape[1], x.shape[2])
    g.area, g.planes = area, x.shape[2] // area
    g.groups, g.weight = weight.shape[0] // g.planes, &weight[0]


cdef inline void span_sums "convlayers_span_sums"(
    bint each, Groups* g, Py_ssize_t r, Py_ssize_t start, Py_ssize_t count, const real* weight, double* sums
) noexcept nogil:
    """Add sum h and sum h d over a stretch of row r: h is dy, and dy w where each value has its weight; d = x - center."""
    cdef const real* x = g.rows.x.start + r * g.rows.area + start
    cdef const real* dy = g.rows.dy.start + r * g.rows.area + start
    cdef vf center = splat(g.rows.center[r]), first = splat(0), second = splat(0), h
    cdef Py_ssize_t j = 0, since = 0
    while j < count:
        if j + VL <= count:
            h = load(dy + j) * load(weight + j) if each else load(dy + j)
            second = second + h * (load(x + j) - center)
        else:
            h = load_part(dy + j, count - j, 0)
            if each:
                h = h * load_part(weight + j, count - j, 0)
            second = second + h * (load_part(x + j, count - j, g.rows.center[r]) - center)
        first = first + h
        j += VL
        if j - since >= NORM_BLOCK or j >= count:
            sums[0] += lane_sum(first)
            sums[1] += lane_sum(second)
            first = second = splat(0)
            since = j


cdef inline void group_sums "convlayers_group_sums"(bint each, Groups* g, Py_ssize_t r, double* sums) noexcept nogil:
    """sum g and sum g d over row r, and what its planes add to dw and db."""
    cdef Norm* n = &g.rows
    cdef const real* weight = g.weight + r % g.groups * g.planes
    cdef double rest = n.mean[r] - n.center[r], inverse = 1 / sqrt(n.var[r] + n.eps)
    cdef double plane[2]
    cdef Py_ssize_t p
    sums[0] = sums[1] = 0
    if each:
        span_sums(True, g, r, 0, n.area, weight, sums)
        return
    for p in range(g.planes):
        plane[0] = plane[1] = 0
        span_sums(False, g, r, p * g.area, g.area, weight, plane)
        sums[0] += weight[p] * plane[0]
        sums[1] += weight[p] * plane[1]
        g.dw[r * g.planes + p] = (plane[1] - rest * plane[0]) * inverse
        g.db[r * g.planes + p] = plane[0]


cdef inline vf spread_value(int what, vf d, vf dy, vf scale, vf shift, vf weight, vf bias) noexcept nogil:
    """NORMALISED: y. INPUT_GRADIENT: dx; there the shift is the slope of d."""
    if what == NORMALISED:
        return (d * scale + shift) * weight + bias
    return dy * (weight * scale) + (d * shift + bias)


cdef inline void write_span "convlayers_write_span"(
    int what, bint each, Groups* g, Py_ssize_t r, Py_ssize_t start, Py_ssize_t count, Py_ssize_t first
) noexcept nogil:
    """A stretch of row r of y or dx, whose weights start at number `first`."""
    cdef Norm* n = &g.rows
    cdef const real* weights = g.weight + first
    cdef const real* biases = NULL
    cdef Py_ssize_t j = 0, at = r * n.area + start, left
    cdef vf center = splat(n.center[r]), scale = splat(n.scale[r]), shift = splat(0), dy = splat(0)
    cdef vf weight = splat(weights[0]), bias = splat(0)
    if what == NORMALISED:
        biases = g.bias + first
        shift, bias = splat(n.shift[r]), splat(biases[0])
    else:
        shift, bias = splat(n.slope[r]), splat(n.offset[r])
    while j < count:
        left = count - j
        if left >= VL:
            if each:
                weight = load(weights + j)
                if what == NORMALISED:
                    bias = load(biases + j)
            if what == INPUT_GRADIENT:
                dy = load(n.dy.start + at + j)
            store(n.out.start + at + j, spread_value(what, load(n.x.start + at + j) - center, dy, scale, shift, weight, bias))
        else:
            if each:
                weight = load_part(weights + j, left, 0)
                if what == NORMALISED:
                    bias = load_part(biases + j, left, 0)
            if what == INPUT_GRADIENT:
                dy = load_part(n.dy.start + at + j, left, 0)
            store_part(n.out.start + at + j, left,
                       spread_value(what, load_part(n.x.start + at + j, left, 0) - center, dy, scale, shift, weight, bias))
        j += VL


cdef inline void write_group "convlayers_write_group"(int what, bint each, Groups* g, Py_ssize_t r) noexcept nogil:
    """Row r of y or dx."""
    cdef Py_ssize_t p, first = r % g.groups * g.planes
    if each:
        write_span(what, True, g, r, 0, g.rows.area, first)
        return
    for p in range(g.planes):
        write_span(what, False, g, r, p * g.area, g.area, first + p)


cdef void group_forward(Groups* g, Py_ssize_t r) noexcept nogil:
    cdef Norm* n = &g.rows
    cdef Py_ssize_t b
    for b in range(n.blocks):
        block_moments(n, r, b)
    merge_moments(n, r)
    fill_affine(n, r, 1, 0)
    if g.area == 1:
        write_group(NORMALISED, True, g, r)
    else:
        write_group(NORMALISED, False, g, r)


cdef void group_backward(Groups* g, Py_ssize_t r) noexcept nogil:
    cdef double sums[2]
    if g.area == 1:
        group_sums(True, g, r, sums)
    else:
        group_sums(False, g, r, sums)
    fill_slope(&g.rows, r, sums[0], sums[1])
    if g.area == 1:
        write_group(INPUT_GRADIENT, True, g, r)
    else:
        write_group(INPUT_GRADIENT, False, g, r)


cdef void weight_strip(Groups* g, Py_ssize_t group, Py_ssize_t first) noexcept nogil:
    """dw and db of a strip of a group whose values have a weight each: rows for the samples, blocks of them in double."""
    cdef Norm* n = &g.rows
    cdef real products[STRIP]
    cdef real total[STRIP]
    cdef real center, scale, shift
    cdef Py_ssize_t count = min(STRIP, n.area - first), samples = n.channels // g.groups, i = 0, j, end, r
    cdef const real* x
    cdef const real* dy
    cdef double* dw = g.dw + group * n.area + first
    cdef double* db = g.db + group * n.area + first
    for j in range(count):
        dw[j] = db[j] = 0
    while i < samples:
        end = min(samples, i + BLOCK_ROWS)
        for j in range(count):
            products[j] = total[j] = 0
        while i < end:
            r = i * g.groups + group
            x, dy = n.x.start + r * n.area + first, n.dy.start + r * n.area + first
            center, scale, shift = n.center[r], n.scale[r], n.shift[r]
            for j in range(count):
                total[j] += dy[j]
                products[j] += dy[j] * ((x[j] - center) * scale + shift)
            i += 1
        for j in range(count):
            dw[j] += products[j]
            db[j] += total[j]


def group_norm_forward(
    const real[:, :, ::1] x, const real[::1] weight, const real[::1] bias, double eps, Py_ssize_t area,
    double[:, ::1] moments, real[:, ::1] affine, real[:, :, ::1] y, int threads, /,
):
    """Fill y, moments and affine; x and y (1, R, P A)."""
    cdef Groups g
    cdef Py_ssize_t r
    open_groups(&g, x, weight, moments, affine, y, area, eps)
    g.bias = &bias[0]
    g.rows.partial = <double*> scratch(PARTIAL * g.rows.channels * g.rows.blocks * <Py_ssize_t> sizeof(double))
    for r in prange(g.rows.channels, schedule="static", nogil=True, num_threads=threads):
        group_forward(&g, r)


def group_norm_backward(
    const real[:, :, ::1] dy, const real[:, :, ::1] x, const real[::1] weight, double eps, Py_ssize_t area,
    double[:, ::1] moments, real[:, ::1] affine, real[:, :, ::1] dx, double[:, ::1] dw, double[:, ::1] db, int threads, /,
):
    """Fill dx, and dw and db (samples, groups P), what each sample adds, or (1, groups P), the sums, where A is 1."""
    cdef Groups g
    cdef Py_ssize_t r, u, rows = x.shape[1], strips = (x.shape[2] + STRIP - 1) // STRIP
    open_groups(&g, x, weight, moments, affine, dx, area, eps)
    g.rows.dy, g.dw, g.db = planes(&dy[0, 0, 0], rows, x.shape[2]), &dw[0, 0], &db[0, 0]
    g.rows.slope = <real*> scratch(2 * rows * <Py_ssize_t> sizeof(real))
    g.rows.offset = g.rows.slope + rows
    with nogil, parallel(num_threads=threads):
        for r in prange(rows, schedule="static"):
            group_backward(&g, r)
        if area == 1:
            wait_for_all()
            for u in prange(g.groups * strips, schedule="static"):
                weight_strip(&g, u // strips, u % strips * STRIP)
