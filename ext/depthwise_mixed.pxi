# Depthwise convolution of small planes, a lane each, in the order in which they lie: of any channels, of one image or several.
#
# With few images, planes of one channel fill no vector. A plane of each lane becomes a vector for each of its pixels, as where
# lanes are images (ACROSS), and so does each tap, since every lane has filters of its own. Sums go in the order of the strips.

cdef enum:
    MIXED_SUMS = 8              # outputs that are summed together: each tap is loaded once for them


cdef inline Py_ssize_t mixed_units(Depthwise* g) noexcept nogil:
    return vectors_over(g.images * g.channels)


cdef void mix_taps(Depthwise* g, Py_ssize_t channel, Py_ssize_t f, real* taps) noexcept nogil:
    """A vector for each tap of the filters f of the lanes' channels, from `channel` on, and one for the biases."""
    cdef Py_ssize_t size = g.inputs * g.rows.kernel * g.cols.kernel, step = g.filters * size, m, k, lane
    cdef bint joined = channel + VL <= g.channels
    if joined:
        transpose_run(g.w + channel * step + f * size, g.w + g.channels * step, step, VL, size, taps, VL)
    for lane in range(VL):
        m = (channel + lane) % g.channels * g.filters + f
        taps[size * VL + lane] = g.bias[m] if g.bias != NULL else 0
        if not joined:
            for k in range(size):
                taps[k * VL + lane] = g.w[m * size + k]


cdef inline void mixed_sums "convlayers_mixed_sums"(
    int count, Depthwise* g, Grid* grid, const real* copy, const real* taps, real* dst
) noexcept nogil:
    """The first `count` neighbouring outputs, margins included."""
    cdef vf acc[MIXED_SUMS]
    cdef vf w
    cdef vf bias = load(taps + g.inputs * g.rows.kernel * g.cols.kernel * VL)
    cdef const real* x
    cdef const real* tap
    cdef const Bundle* bundle
    cdef const Column* column
    cdef Py_ssize_t i, k, r, row = g.rows.spread * g.pitch, apart = g.tap * VL
    cdef int b
    for b in range(count):
        acc[b] = bias
    for i in range(grid.bundles):
        bundle = g.bundles + grid.first + i
        for k in range(bundle.count + bundle.less):
            column = g.columns + bundle.first + k
            x, tap = copy + column.place, taps + column.weight * VL
            for r in range(bundle.taps - (k >= bundle.count)):
                w = load(tap + r * apart)
                for b in range(count):
                    acc[b] = acc[b] + w * load(x + b * VL)
                x += row
    for b in range(count):
        store(dst + b * VL, vsmaller(splat(g.ceiling), vrelu(acc[b])) if g.ceiling > 0 else acc[b])


cdef void run_mixed_grid(Depthwise* g, Grid* grid, const real* copy, const real* taps, real* dst) noexcept nogil:
    """All outputs of a sub-grid, row after row as one line; the last of them move back over those before."""
    cdef Py_ssize_t outputs = (grid.rows - 1) * g.cell + g.cols.longest, at = 0
    while at < outputs and outputs >= MIXED_SUMS:
        at = min(at, outputs - MIXED_SUMS)
        mixed_sums(MIXED_SUMS, g, grid, copy + at * VL, taps, dst + at * VL)
        at += MIXED_SUMS
    while at < outputs:
        mixed_sums(1, g, grid, copy + at * VL, taps, dst + at * VL)
        at += 1


cdef void run_mixed_unit(Depthwise* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """The planes of all lanes, each with all its filters."""
    cdef Py_ssize_t lanes = min(VL, g.images * g.channels - unit * VL), f, i, k
    cdef Py_ssize_t source = g.rows.source * g.cols.source, area = g.rows.target * g.cols.target
    cdef const real* src = g.src.start + unit * VL * g.src.channel
    cdef real* copy = <real*> workspace
    cdef real* out = <real*> (workspace + g.copy_bytes)
    cdef real* taps = <real*> (workspace + g.taps_place)
    cdef real* part
    for k in range(g.inputs):
        copy_across(src + k * source, g.src.channel, lanes, source, g.copy_at, copy + k * g.stack)
    for f in range(g.filters):
        mix_taps(g, unit * VL % g.channels, f, taps)
        for i in range(g.rows.grids * g.cols.grids):
            part = out + i * g.block * g.pitch
            if g.grids[i].bundles == 0:
                memset(part, 0, g.block * g.pitch * sizeof(real))
            else:
                run_mixed_grid(g, g.grids + i, copy, taps, part)
        put_across(out, g.out_at, lanes, g.dst.channel, area, g.dst.start + unit * VL * g.dst.channel + f * area)
