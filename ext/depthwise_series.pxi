# Depthwise planes that are read where they lie, one after the other: small ones as rows of pixels (depthwise_flat.pxi), others
# row by row (depthwise_windows.pxi, depthwise_rows.pxi) or, with larger kernels, many rows at a time (depthwise_tall.pxi).

cdef enum:
    SERIES_PLANES = 16          # of a unit of work, at most,
    SERIES_VALUES = 16384       # and of so many outputs, if not one
    SERIES_PIXELS = 1024        # of several images, for one channel's sums of taps, which stay in registers


# What is summed: outputs, gradients of inputs, or what planes add to the sums of the filter's taps.
cdef enum:
    OF_OUTPUT
    OF_INPUT
    OF_FILTER


# Some planes, and where their filters and biases begin; `apart`, in values from one to the next. For OF_FILTER y is dy,
# and `sums` has a vector for each tap.
cdef struct Series "convlayers_series":
    Py_ssize_t planes
    const real* x
    Py_ssize_t x_apart
    const real* w
    Py_ssize_t w_apart
    const real* bias            # or NULL
    Py_ssize_t bias_apart
    real* y
    Py_ssize_t y_apart
    real* sums
    Py_ssize_t x_ahead          # where the planes lie that come next, from these
    Py_ssize_t y_ahead


# Taps, or their sums, in the order in which they are summed: the filter's columns, and down each.

cdef inline void splat_taps "convlayers_splat_taps"(int sum, const real* w, vf* taps) noexcept nogil:
    cdef int c, r
    for c in range(3):
        for r in range(3):
            taps[3 * c + r] = splat(w[3 * (2 - r if sum == OF_INPUT else r) + c])


cdef inline void load_sums "convlayers_load_sums"(Series* f, vf* taps) noexcept nogil:
    cdef int c, r
    for c in range(3):
        for r in range(3):
            taps[3 * c + r] = load(f.sums + (3 * r + c) * VL)


cdef inline void store_sums_of "convlayers_store_sums_of"(Series* f, const vf* taps) noexcept nogil:
    cdef int c, r
    for c in range(3):
        for r in range(3):
            store(f.sums + (3 * r + c) * VL, taps[3 * c + r])


cdef inline bint in_series(Depthwise* g) noexcept nogil:
    return PICKS and (g.layout == FLAT or g.layout == WINDOWS or g.layout == TALL) or SHORT_ROWS and g.layout == SHORT


cdef inline Py_ssize_t series_planes(Depthwise* g) noexcept nogil:
    return max(1, min(SERIES_PLANES, SERIES_VALUES // (g.rows.target * g.cols.target)))


cdef inline Py_ssize_t series_units(Depthwise* g) noexcept nogil:
    return (g.images * g.channels + series_planes(g) - 1) // series_planes(g)


cdef inline Py_ssize_t series_images(Depthwise* g) noexcept nogil:
    return max(1, SERIES_PIXELS // (g.rows.source * g.cols.source))


cdef Series planes_from(Depthwise* g, Py_ssize_t image, Py_ssize_t channel, Py_ssize_t count) noexcept nogil:
    """From one plane on, those of the channels behind it."""
    cdef Series f
    cdef Py_ssize_t taps = g.rows.kernel * g.cols.kernel
    f.planes, f.w_apart, f.bias_apart, f.sums = count, taps, 1, NULL
    f.x, f.x_apart, f.y, f.y_apart = plane(&g.src, image, channel), g.src.channel, plane(&g.dst, image, channel), g.dst.channel
    f.w, f.bias = g.w + channel * taps, g.bias + channel if g.bias != NULL else NULL
    f.x_ahead, f.y_ahead = f.x_apart, f.y_apart
    return f


cdef inline void next_plane(Series* f) noexcept nogil:
    f.x += f.x_apart
    f.y += f.y_apart
    f.w += f.w_apart
    if f.bias != NULL:
        f.bias += f.bias_apart


cdef void run_series(Depthwise* g, Series* f) noexcept nogil:
    if SHORT_ROWS:
        run_short_rows(g, f)
    elif g.layout == FLAT:
        run_flat(g, f)
    elif g.layout == TALL:
        run_tall(g, f)
    else:
        run_windows(g, f)


cdef void run_series_unit(Depthwise* g, Py_ssize_t unit) noexcept nogil:
    """Planes in the order in which they lie; those of two images apart, since each channel has its filter."""
    cdef Py_ssize_t size = series_planes(g), first = unit * size, last = min(first + size, g.images * g.channels), count
    cdef Series f
    while first < last:
        count = min(last - first, g.channels - first % g.channels)
        f = planes_from(g, first // g.channels, first % g.channels, count)
        run_series(g, &f)
        first += count


cdef void run_series_channel(Depthwise* g, Py_ssize_t channel) noexcept nogil:
    """One channel of all images."""
    cdef Series f = planes_from(g, 0, channel, g.images)
    f.w_apart, f.bias_apart = 0, 0
    f.x_apart = f.x_ahead = g.src.image
    f.y_apart = f.y_ahead = g.dst.image
    run_series(g, &f)


cdef void add_series(
    Depthwise* g, Py_ssize_t image, Py_ssize_t images, Py_ssize_t begin, Py_ssize_t end, real* sums
) noexcept nogil:
    """What the channels begin .. end of some images add to the sums of their filters' taps, with dy for destination."""
    cdef Py_ssize_t c
    cdef Series f
    for c in range(begin, end):
        f = planes_from(g, image, c, images)
        f.bias, f.sums = NULL, sums + (c - begin) * 9 * VL
        f.x_apart, f.y_apart = g.src.image, g.dst.image
        if c + 1 == end and g.images > 1:
            f.x_ahead = images * g.src.image - (c - begin) * g.src.channel
            f.y_ahead = images * g.dst.image - (c - begin) * g.dst.channel
        if SHORT_ROWS:
            add_short_rows(g, &f)
        elif g.layout == FLAT:
            add_flat(g, &f)
        else:
            add_windows(g, &f)
