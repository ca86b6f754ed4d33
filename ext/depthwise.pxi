# Depthwise convolution, forward and input gradient: every channel has F filters of its own, M = C F.
#
#     y[n, c F + f, p, q] = b + sum_rs x[n, c, p s + r d - pad, q s + s' d - pad] w[c F + f, r, s']
#     dx[n, c, h, w]      = sum_frs dy[n, c F + f, p, q] w[c F + f, r, s']     over all with h = p s + r d - pad, w likewise
#
# x (N,C,H,W), w (M,1,R,S), b (M,) or empty, y (N,M,P,Q). A unit of work is one block of rows of one channel, of one image or a
# few: their planes are copied (depthwise_copy.pxi) in the layout of depthwise_plan.pxi and summed in strips
# (depthwise_strip.pxi); or planes are read where they lie (depthwise_series.pxi); or small ones of any channels are lanes
# (depthwise_mixed.pxi).
# Each output is one sum in one order, whatever the block, the batch or the thread: the same bits.

cdef Py_ssize_t vectors_in_line(Depthwise* g, Py_ssize_t images) noexcept nogil:
    """How many vectors of outputs a line of so many images has."""
    if g.layout == IN_PLACE:
        return images * g.vectors
    return g.cols.longest if g.layout == ACROSS else vectors_over(images * g.cell - g.cols.halo)


cdef void copy_source(Depthwise* g, const real* src, Py_ssize_t images, Py_ssize_t first_row, real* dst) noexcept nogil:
    """One plane of each image, in lines that begin `first_row` rows of outputs down."""
    cdef Py_ssize_t pixels = g.rows.source * g.cols.source
    if g.layout == ACROSS:
        copy_across(src, g.src.image, images, pixels, g.copy_at, dst)
    else:
        copy_cells(g, src, images, first_row, dst)


cdef inline real* copy_start(Depthwise* g, char* workspace) noexcept nogil:
    """So far into the workspace that the first pixel of a line lies on a cache line."""
    return <real*> workspace + (0 if g.layout == ACROSS else (VL - g.phases[0].first % VL) % VL)


cdef void run_bundles(Depthwise* g, Grid* grid, int rows, int vecs, Py_ssize_t panels, Strip* s) noexcept nogil:
    """Strips with all columns of a sub-grid; sums go through the outputs from one bundle to the next."""
    cdef Py_ssize_t i
    cdef Bundle* bundle
    s.panels = panels
    for i in range(grid.bundles):
        bundle = g.bundles + grid.first + i
        s.columns, s.count, s.less, s.accumulate = g.columns + bundle.first, bundle.count, bundle.less, i > 0
        s.ceiling = g.ceiling if i == grid.bundles - 1 else 0
        run_strip(rows, vecs, bundle.taps, s)


cdef void run_panels(Depthwise* g, Grid* grid, Py_ssize_t vectors, int rows, Strip* s) noexcept nogil:
    """Strips from left to right and from top to bottom: outputs are written in the order in which they lie."""
    # Where vectors overlap, a panel is finished before the next begins.
    cdef Py_ssize_t whole = vectors // STRIP_VECS, panel, together = whole if grid.bundles == 1 else 1
    s.src_at, s.dst_at = g.src_at, g.dst_at
    for panel in range(0 if whole == 0 else whole // together):
        run_bundles(g, grid, rows, STRIP_VECS, together, s)
        s.src_at += together * STRIP_VECS
        s.dst_at += together * STRIP_VECS
    if vectors % STRIP_VECS:
        run_bundles(g, grid, rows, 1, 1, s)


cdef void run_grid(
    Depthwise* g, Grid* grid, Py_ssize_t vectors, Py_ssize_t rows, const real* copy, const real* w, real init, real* dst,
    const real* ahead
) noexcept nogil:
    """The first `rows` rows of a block, strip by strip; with dilation, every `spread`-th row makes a strip."""
    cdef Py_ssize_t start, n
    cdef int size
    cdef Strip s
    s.row, s.line, s.w, s.tap, s.init = g.rows.spread * g.pitch, g.rows.spread * g.line, w, g.tap, init
    s.ahead, s.portion = ahead, 0
    # Where the source is one stretch: elsewhere, finding its cache lines cost more than it gained.
    if g.layout == IN_PLACE:
        s.portion = rows * g.cols.source // LINE_VALUES // max(1, vectors // STRIP_VECS * rows // STRIP_ROWS)
    for start in range(min(g.rows.spread, rows)):
        s.x, s.y = copy + start * g.pitch, dst + start * g.line
        n = (rows - start + g.rows.spread - 1) // g.rows.spread
        size = STRIP_ROWS
        while n:
            s.strips = n // size
            if s.strips:
                run_panels(g, grid, vectors, size, &s)
            s.x += s.strips * size * s.row
            s.y += s.strips * size * s.line
            n -= s.strips * size
            size //= 2


cdef void run_depthwise_unit(Depthwise* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """One block of rows of one channel, for the images of one line."""
    cdef Py_ssize_t block = unit % g.blocks, channel = unit // g.blocks % g.channels, first = unit // g.blocks // g.channels
    cdef Py_ssize_t u0 = block * g.block, rows = min(g.block, g.rows.longest - u0), images, vectors, k, f, i, m, here
    cdef Py_ssize_t source = g.rows.source * g.cols.source, area = g.rows.target * g.cols.target
    cdef Py_ssize_t taps = g.rows.kernel * g.cols.kernel
    cdef const real* src
    cdef const real* ahead
    cdef real* copy = copy_start(g, workspace)
    cdef real* out = <real*> (workspace + g.copy_bytes)
    cdef real* dst
    first *= g.side
    images = min(g.side, g.images - first)
    vectors = vectors_in_line(g, images)
    src = plane(&g.src, first, channel)
    for k in range(g.inputs):
        copy_source(g, src + k * source, images, u0, copy + k * g.stack)
    ahead = src + (u0 + rows) * g.rows.axis.step * g.cols.source
    for f in range(g.filters):
        m = channel * g.filters + f
        dst = plane(&g.dst, first, channel) + f * area
        for i in range(g.rows.grids * g.cols.grids):
            here = min(rows, g.grids[i].rows - u0)
            if g.grids[i].bundles == 0:
                memset(out + i * g.block * g.pitch, 0, rows * g.pitch * sizeof(real))
            elif here > 0:
                run_grid(g, g.grids + i, vectors, here, copy, g.w + m * g.inputs * taps, g.bias[m] if g.bias != NULL else 0,
                         dst + u0 * g.line if g.layout == IN_PLACE else out + i * g.block * g.pitch, ahead)
        if g.layout == LINES:
            put_rows(g, out, images, u0, rows, dst)
        elif g.layout == ACROSS:
            put_across(out, g.out_at, images, g.dst.image, area, dst)


cdef inline Py_ssize_t depthwise_units(Depthwise* g) noexcept nogil:
    if in_series(g):
        return series_units(g)
    return mixed_units(g) if g.mixed else g.sides * g.channels * g.blocks


cdef set_geometry(Depthwise* g, tuple geometry, bint of_filters, bint mixed):
    """Strides, padding before and dilations, of rows and of columns: with the sizes, all that the layout follows from, and with
    `of_filters`, whether the filters' gradient is computed. With `mixed`, lanes may be planes of any channels
    (depthwise_mixed.pxi)."""
    g.rows.stride, g.cols.stride, g.rows.before, g.cols.before, g.rows.dilation, g.cols.dilation = geometry
    measure_span(&g.rows)
    measure_span(&g.cols)
    g.of_filters, g.mixed = of_filters, mixed
    choose_cells(g)


cdef void run_channel(Depthwise* g, Py_ssize_t channel, char* workspace) noexcept nogil:
    """All units of one channel."""
    cdef Py_ssize_t i
    if in_series(g):
        run_series_channel(g, channel)
        return
    for i in range(g.sides * g.blocks):
        run_depthwise_unit(g, (i // g.blocks * g.channels + channel) * g.blocks + i % g.blocks, workspace)


cdef size_t span_memory(Depthwise* g, const real[:, :, :, ::1] w, size_t cursor) noexcept nogil:
    """The taps of both axes; needed before the rest is measured."""
    return axis_memory(&g.cols.axis, w.shape[3], axis_memory(&g.rows.axis, w.shape[2], cursor))


cdef void set_sides(
    Depthwise* g, const real[:, :, :, ::1] src, const real[:, :, :, ::1] w, const real[:, :, :, ::1] dst, bint backward
) noexcept nogil:
    """Sizes and places, from arrays of which x is `dst` if `backward`; gradients of outputs have as many planes as outputs."""
    cdef Py_ssize_t channels = dst.shape[1] if backward else src.shape[1]
    g.images, g.channels = src.shape[0], channels
    g.inputs, g.filters = src.shape[1] // channels, dst.shape[1] // channels
    g.rows.source, g.cols.source, g.rows.target, g.cols.target = src.shape[2], src.shape[3], dst.shape[2], dst.shape[3]
    g.src = planes(&src[0, 0, 0, 0], channels, g.inputs * g.rows.source * g.cols.source)
    g.src_end = g.src.start + g.images * g.src.image
    g.dst = planes(&dst[0, 0, 0, 0], channels, g.filters * g.rows.target * g.cols.target)
    g.w = &w[0, 0, 0, 0]
    g.rows.kernel, g.cols.kernel = w.shape[2], w.shape[3]
    g.rows.backward = g.cols.backward = backward


cdef void scale_row(const real* src, real scale, Py_ssize_t count, real* dst) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(count):
        dst[k] = src[k] * scale


def depthwise(
    const real[:, :, :, ::1] src, const real[:, :, :, ::1] w, const real[::1] bias, real[:, :, :, ::1] dst, tuple geometry,
    bint backward, double ceiling, int threads, const real[::1] scale, /,
):
    """Fill dst with y, each channel of src convolved with its filters in w, times the scale, plus the bias, unless None,
    held between 0 and `ceiling` if that is over 0; with `backward`, fill dst with dx for src as dy."""
    cdef Depthwise g
    cdef Shares shares
    cdef Units units
    cdef Py_ssize_t unit, u, taps = w.shape[2] * w.shape[3], scales = scale.shape[0] if scale is not None else 0
    cdef size_t cursor = span_memory(&g, w, 0)
    cdef real* scaled
    take(&cursor, scales * taps * sizeof(real))
    cursor = span_memory(&g, w, scratch(<Py_ssize_t> cursor, 1))
    scaled = <real*> take(&cursor, scales * taps * sizeof(real))
    set_sides(&g, src, w, dst, backward)
    for u in range(scales):
        scale_row(g.w + u * taps, scale[u], taps, scaled + u * taps)
    if scales:
        g.w = scaled
    set_geometry(&g, geometry, False, True)
    g.bias, g.ceiling = &bias[0] if bias is not None else NULL, ceiling
    share_rows(&g, threads)
    share_out(&shares, depthwise_units(&g), threads)
    depthwise_memory(&g, scratch(depthwise_memory(&g, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    with nogil:
        fill_depthwise(&g)
        with parallel(num_threads=threads):
            memset(g.workspace + threadid() * g.workspace_bytes, 0, g.copy_bytes)
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    if in_series(&g):
                        run_series_unit(&g, unit)
                    elif g.mixed:
                        run_mixed_unit(&g, unit, g.workspace + threadid() * g.workspace_bytes)
                    else:
                        run_depthwise_unit(&g, unit, g.workspace + threadid() * g.workspace_bytes)
                units = next_units(&shares, threadid())
