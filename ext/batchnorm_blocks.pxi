# One block of a channel in batch normalization: what is summed of it, and what is written (see batchnorm.pxi).

cdef enum:
    NORM_BLOCK = 4096           # values: 16 KiB of float32
    LEAST_BLOCKS = 8            # of a channel, for threads to take parts of the images; but fewer where they would have fewer
    LEAST_BLOCK = 1024          # values than this: with 49 a step of `mobilenet_v2` took 1.03 times as long
    PARTIAL = 3
    AHEAD = 512                 # values between what is asked for and what is read

# What is computed of a block; d = x - center.
cdef enum:
    TOTAL                       # sum x
    DEVIATIONS                  # sum d, sum d^2
    GRADIENTS                   # sum g, sum g d
    NORMALISED                  # y
    INPUT_GRADIENT              # scale g + slope d + offset
    SCALED_GRADIENT             # scale g


cdef struct Norm "convlayers_norm":
    Py_ssize_t images
    Py_ssize_t channels
    Py_ssize_t area
    Py_ssize_t together         # images of a block, where a plane is smaller than a block
    Py_ssize_t pieces           # blocks of a plane, where it is larger
    Py_ssize_t blocks           # of a channel
    double eps
    Planes x
    Planes dy
    Planes out                  # y or dx
    const real* weight
    const real* bias
    double* mean
    double* var
    real* center
    real* scale
    real* shift
    real* slope
    real* offset
    real* dw
    real* db
    bint relu                   # whether y is max(z, 0),
    real bound                  # or the smaller of that and a bound; NaN for none
    double* partial             # PARTIAL values for each block of each channel
    const real* residual        # added to y and laid out like it, or NULL
    bint relu_of_sum
    const real* sum             # the sum's y, or NULL: dy, as it comes, is then rectified to g.dy first
    const real* dsum


cdef struct Stretch:
    Py_ssize_t first            # images first .. last
    Py_ssize_t last
    Py_ssize_t start            # pixels start .. start + count
    Py_ssize_t count


cdef void set_ceiling(Norm* g, double ceiling) noexcept nogil:
    """0 for no ReLU, infinity for one without an upper bound."""
    g.relu, g.bound = ceiling > 0, <real> (ceiling if ceiling < INFINITY else NAN)


cdef void cut_norm(Norm* g, Py_ssize_t images, Py_ssize_t channels, Py_ssize_t area) noexcept nogil:
    g.dy = planes(NULL, 0, 0)
    g.residual = g.sum = NULL
    set_ceiling(g, 0)
    g.images, g.channels, g.area = images, channels, area
    g.together = max((images + LEAST_BLOCKS - 1) // LEAST_BLOCKS, LEAST_BLOCK // area)
    g.together = BLOCK_ROWS if area == 1 else max(1, min(NORM_BLOCK // area, g.together))
    g.pieces = (area + NORM_BLOCK - 1) // NORM_BLOCK
    g.blocks = (images + g.together - 1) // g.together * g.pieces


cdef inline Py_ssize_t channels_at_once(Norm* g, int arrays, int threads) noexcept nogil:
    """Of how many channels half of the second-level cache holds a thread's part of so many arrays."""
    return max(1, second_level() // 2 * threads // (arrays * g.images * g.area * <Py_ssize_t> sizeof(real)))


cdef void set_moments(Norm* g, double[:, ::1] moments, real[:, ::1] affine, double eps) noexcept nogil:
    g.mean, g.var, g.eps = &moments[0, 0], &moments[1, 0], eps
    g.center, g.scale, g.shift = &affine[0, 0], &affine[1, 0], &affine[2, 0]


cdef set_norm(Norm* g, norm):
    """Moments, affine and eps; the caller keeps the arrays."""
    set_moments(g, norm[0], norm[1], norm[2])


cdef set_weights(Norm* g, weights):
    """Weight and bias; the caller keeps the arrays."""
    cdef const real[::1] weight = weights[0], bias = weights[1]
    g.weight, g.bias = &weight[0], &bias[0]


cdef size_t norm_memory(Norm* g, size_t cursor) noexcept nogil:
    g.partial = <double*> take(&cursor, PARTIAL * g.channels * g.blocks * sizeof(double))
    g.slope = <real*> take(&cursor, g.channels * sizeof(real))
    g.offset = <real*> take(&cursor, g.channels * sizeof(real))
    return cursor


cdef inline Stretch stretch(Norm* g, Py_ssize_t block) noexcept nogil:
    cdef Stretch s
    cdef Py_ssize_t piece = block % g.pieces
    s.first = block // g.pieces * g.together
    s.last = min(g.images, s.first + g.together)
    s.start = piece * g.area // g.pieces
    s.count = (piece + 1) * g.area // g.pieces - s.start
    return s


cdef inline double block_size(Norm* g, Py_ssize_t block) noexcept nogil:
    cdef Stretch s = stretch(g, block)
    return <double> ((s.last - s.first) * s.count)


cdef inline double* block_sums(Norm* g, Py_ssize_t c, Py_ssize_t block) noexcept nogil:
    return g.partial + PARTIAL * (c * g.blocks + block)


cdef inline void ask_ahead(Norm* g, Planes* p, const real* at, Py_ssize_t n, Stretch s, bint write) noexcept nogil:
    """Ask for the plane of an image that follows soon: planes shorter than a page begin before the processor foresees them.

    1.1 to 1.3 times with planes of 8 x 8 and 16 x 16, nothing with larger ones (Zen 3).
    """
    cdef Py_ssize_t ahead = AHEAD // s.count
    if s.count <= AHEAD and n + ahead < g.images:
        prefetch(at + ahead * p.image, s.count * <Py_ssize_t> sizeof(real), write)


cdef inline void add_terms(
    int what, bint relu, vf d, vf dy, vf scale, vf shift, vf bound, vf* first, vf* second
) noexcept nogil:
    if what == TOTAL:
        first[0] = first[0] + d
    elif what == DEVIATIONS:
        first[0] = first[0] + d
        second[0] = second[0] + d * d
    else:
        if relu:
            dy = vclip_gradient(d * scale + shift, bound, dy)
        first[0] = first[0] + dy
        second[0] = second[0] + dy * d


cdef inline void sum_block "convlayers_sum_block"(
    int what, bint relu, Norm* g, Py_ssize_t c, Py_ssize_t block, real center, double* sums
) noexcept nogil:
    """The two sums of a block of channel c. Four accumulators each, since an addition waits for the one before it."""
    cdef vf first[4]
    cdef vf second[4]
    cdef vf mid = splat(center), scale = splat(0), shift = splat(0), bound = splat(g.bound), dy = splat(0)
    cdef Stretch s = stretch(g, block)
    cdef Py_ssize_t n, j
    cdef const real* x
    cdef const real* gradient
    cdef int i
    if relu:
        scale, shift = splat(g.scale[c]), splat(g.shift[c])
    for i in range(4):
        first[i] = splat(0)
        second[i] = splat(0)
    x, gradient = plane(&g.x, s.first, c) + s.start, plane(&g.dy, s.first, c) + s.start
    for n in range(s.first, s.last):
        if what != DEVIATIONS:
            ask_ahead(g, &g.x, x, n, s, False)
        if what == GRADIENTS:
            ask_ahead(g, &g.dy, gradient, n, s, False)
        j = 0
        while j + 4 * VL <= s.count:
            if what != DEVIATIONS and s.count > AHEAD:
                for i in range(4):
                    prefetch_far(x + g.x.image + j + i * VL)
                    if what == GRADIENTS:
                        prefetch_far(gradient + g.dy.image + j + i * VL)
            for i in range(4):
                if what == GRADIENTS:
                    dy = load(gradient + j + i * VL)
                add_terms(what, relu, load(x + j + i * VL) - mid, dy, scale, shift, bound, first + i, second + i)
            j += 4 * VL
        while j + VL <= s.count:
            if what == GRADIENTS:
                dy = load(gradient + j)
            add_terms(what, relu, load(x + j) - mid, dy, scale, shift, bound, first, second)
            j += VL
        if j < s.count:
            # In the lanes behind the last value d and dy are 0.
            if what == GRADIENTS:
                dy = load_part(gradient + j, s.count - j, 0)
            add_terms(what, relu, load_part(x + j, s.count - j, center) - mid, dy, scale, shift, bound, first, second)
        x += g.x.image
        gradient += g.dy.image
    sums[0] = lane_sum((first[0] + first[1]) + (first[2] + first[3]))
    if what != TOTAL:
        sums[1] = lane_sum((second[0] + second[1]) + (second[2] + second[3]))


cdef inline vf written(
    int what, bint relu, vf d, vf dy, vf scale, vf shift, vf bound, vf slope, vf offset
) noexcept nogil:
    cdef vf z
    if what == NORMALISED:
        z = d * scale + shift
        return vsmaller(bound, vrelu(z)) if relu else z
    if relu:
        dy = vclip_gradient(d * scale + shift, bound, dy)
    if what == SCALED_GRADIENT:
        return dy * scale
    return dy * scale + (d * slope + offset)


cdef inline void write_block "convlayers_write_block"(
    int what, bint relu, Norm* g, Py_ssize_t c, Py_ssize_t block
) noexcept nogil:
    """The outputs of a block of channel c."""
    cdef vf center = splat(g.center[c]), scale = splat(g.scale[c]), shift = splat(g.shift[c])
    cdef vf slope = splat(0), offset = splat(0), dy = splat(0), bound = splat(g.bound)
    cdef Stretch s = stretch(g, block)
    cdef Py_ssize_t n, j
    cdef const real* x
    cdef const real* gradient
    cdef real* out
    if what == INPUT_GRADIENT:
        slope, offset = splat(g.slope[c]), splat(g.offset[c])
    x, gradient = plane(&g.x, s.first, c) + s.start, plane(&g.dy, s.first, c) + s.start
    out = plane(&g.out, s.first, c) + s.start
    for n in range(s.first, s.last):
        ask_ahead(g, &g.out, out, n, s, True)
        j = 0
        while j + VL <= s.count:
            if what != NORMALISED:
                dy = load(gradient + j)
            store(out + j, written(what, relu, load(x + j) - center, dy, scale, shift, bound, slope, offset))
            j += VL
        if j < s.count:
            if what != NORMALISED:
                dy = load_part(gradient + j, s.count - j, 0)
            store_part(out + j, s.count - j,
                       written(what, relu, load_part(x + j, s.count - j, 0) - center, dy, scale, shift, bound, slope, offset))
        x += g.x.image
        gradient += g.dy.image
        out += g.out.image
