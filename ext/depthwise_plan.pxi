# How a depthwise convolution is laid out: which taps read what, and where images lie in the padded copy of the source.
#
# The gather of gather.pxi, one plane at a time: for each sub-grid of the destination (one forward, stride x stride of them
# backward) a sum over taps, each of which reads a plain shift of the copy, which is padded with zeros and parted by phase.

cdef enum:
    LINE_VECTORS = 8            # of a line of several images: enough that its two ends waste little
    SMALL_VECTORS = 8           # of a small plane of outputs
    CELL_BYTES = 24 * 1024      # of the padded copy, which stays in the first-level cache beside what is written


# How outputs lie in vectors:
#   IN_PLACE    rows of one image, stored where they belong, the last vector of a row moved back over its neighbour
#   LINES       rows of several images, a cell each, margins included; cut out of a scratch buffer afterwards
#   ACROSS      one pixel of VL planes: no margins, no shifted lanes, but planes are transposed on the way in and out
#   FLAT        all pixels of a plane as one row, in vectors that shuffles shift: no copy (depthwise_flat.pxi)
#   WINDOWS     rows where they lie, three at a time in registers: no copy either (depthwise_windows.pxi)
#   SHORT       the same with fewer registers, for short rows (depthwise_rows.pxi)
#   TALL        larger kernels where planes lie, many rows at a time (depthwise_tall.pxi)
cdef enum Layout:
    IN_PLACE
    LINES
    ACROSS
    FLAT
    WINDOWS
    SHORT
    TALL


cdef struct Span:               # one axis, rows or columns
    Py_ssize_t source           # pixels
    Py_ssize_t target
    Py_ssize_t kernel
    Py_ssize_t stride
    Py_ssize_t dilation
    Py_ssize_t before
    bint backward
    Py_ssize_t grids            # sub-grids of the target
    Py_ssize_t longest          # outputs of the largest
    Py_ssize_t low              # the smallest shift of any sub-grid, and the largest above it
    Py_ssize_t halo
    Py_ssize_t phases           # of the source
    Py_ssize_t apart            # neighbouring taps of a phase: kernel rows, and source rows
    Py_ssize_t spread
    Axis axis                   # of the sub-grid in hand


cdef struct Bundle:             # neighbouring columns that are summed in one go
    int taps
    Py_ssize_t first
    Py_ssize_t count            # of so many taps each,
    Py_ssize_t less             # and, behind them, of one tap less


cdef struct Grid "convlayers_grid":
    Py_ssize_t rows
    Py_ssize_t first            # bundle
    Py_ssize_t bundles


cdef struct Phase:              # of the source's columns
    Py_ssize_t start            # its first pixel
    Py_ssize_t first            # and that pixel's place in a cell
    Py_ssize_t count


cdef struct Depthwise "convlayers_depthwise":
    Span rows
    Span cols
    Py_ssize_t images
    Py_ssize_t channels
    Py_ssize_t inputs           # planes of the source for each channel, all summed
    Py_ssize_t filters          # planes of the destination for each channel
    Planes src                  # a channel is all of its inputs
    const real* src_end
    const real* w
    const real* bias
    real ceiling                # see tile.pxi
    Planes dst                  # and all of its filters
    Layout layout
    bint of_filters             # whether taps are summed, not outputs
    bint mixed                  # lanes are planes in the order of memory, of any channels; until the layout is chosen, may be
    Py_ssize_t side             # images side by side in a line
    Py_ssize_t sides            # units of so many images
    Py_ssize_t cell             # columns of an image in a line
    Py_ssize_t pitch            # from line to line of the copy, and of the scratch buffer of outputs
    Py_ssize_t block            # output rows of a block
    Py_ssize_t blocks
    Py_ssize_t lines            # of a plane of the copy, one for each pair of phases
    Py_ssize_t stack            # values of all the planes of one input
    Py_ssize_t line             # from row to row of what the strips write
    Py_ssize_t vectors          # of an image's row, in place
    Py_ssize_t tap              # from one tap of a column to the next in the filter
    Py_ssize_t* src_at          # where vectors begin in a line of the copy
    Py_ssize_t* dst_at          # and in a row of what the strips write
    Column* columns
    Bundle* bundles
    Grid* grids
    Py_ssize_t* copy_at         # with ACROSS, where each pixel of a source's plane goes in the copy
    Py_ssize_t* out_at          # and where each of a destination's plane comes from
    real* lefts                 # with FLAT, masks of all pixels: whether there is one to the left of it, and to the right
    real* rights
    real* insides               # and whether there is a pixel at all
    real* picks                 # see depthwise_flat.pxi
    real* sights                # with SHORT, masks of what the vectors of a row load, see depthwise_rows.pxi
    real* nothing               # and a row of zeros
    Phase* phases
    Phase* even                 # with column step 2, the phases of the pixels that are copied together; else the first alone
    Phase* odd
    real* lanes                 # 0, 1, ..
    char* workspace             # of all threads
    Py_ssize_t copy_bytes
    Py_ssize_t taps_place       # of one thread: where mixed lanes have their taps and biases
    Py_ssize_t workspace_bytes  # of one thread


cdef void part_axis(Span* span, Py_ssize_t grid) noexcept nogil:
    """The taps of one sub-grid."""
    if span.backward:
        backward_axis(&span.axis, span.target, span.source, span.kernel, span.stride, span.dilation, span.before, grid)
    else:
        forward_axis(&span.axis, span.source, span.target, span.kernel, span.stride, span.dilation, span.before)


cdef void measure_span(Span* span) noexcept nogil:
    """What all sub-grids need of the source, so that one copy serves them all."""
    cdef Py_ssize_t grid, high = 0, a = span.stride, b = span.dilation
    cdef bint empty = True
    while b:
        a, b = b, a % b
    span.apart, span.spread = span.stride // a, span.dilation // a
    span.grids = min(span.stride, span.target) if span.backward else 1
    span.low = 0
    for grid in range(span.grids):
        part_axis(span, grid)
        if grid == 0:
            span.longest = span.axis.outputs
        if span.axis.taps:
            span.low = span.axis.low if empty else min(span.low, span.axis.low)
            high = span.axis.low + span.axis.halo if empty else max(high, span.axis.low + span.axis.halo)
            empty = False
    span.halo = high - span.low
    span.phases = 1 if span.backward else span.axis.phases
    span.axis.phase[0] = 0 if span.backward else span.axis.phase[0]


cdef inline bint fill_lanes(Py_ssize_t planes) noexcept nogil:
    """Whether three lanes of four are in use."""
    return 4 * planes >= 3 * VL * vectors_over(planes)


cdef bint fits_across(Depthwise* g) noexcept nogil:
    """Whether planes have a vector of pixels, and so few that the first-level cache about holds VL of them."""
    cdef Py_ssize_t source = g.rows.source * g.cols.source, target = g.rows.target * g.cols.target
    return VL > 1 and min(source, target) >= VL and max(source, target) * VL * <Py_ssize_t> sizeof(real) <= 2 * CELL_BYTES


cdef Layout choose_layout(Depthwise* g) noexcept nogil:
    cdef Py_ssize_t q = g.cols.longest, whole = vectors_over(q), taps = g.inputs * g.rows.kernel * g.cols.kernel
    if PICKS and fits_windows(g):
        return WINDOWS
    if PICKS and fits_flat(g) and (not g.of_filters or has_long_planes(g)):
        return FLAT
    if PICKS and fits_tall(g) and not g.of_filters:
        return TALL
    if SHORT_ROWS and fits_rows(g):
        return SHORT
    # In half cycles of a vector: a tap takes 1, a store in place 2, a store that is cut out again about 8 (Zen 5).
    if g.rows.axis.stride == 1 and g.cols.axis.stride == 1 and q >= VL:
        if whole * VL * (taps + 2) <= (q + g.cols.halo) * (taps + 8):
            return IN_PLACE
    return ACROSS if fits_across(g) and fill_lanes(g.images) else LINES


cdef bint choose_mixed(Depthwise* g) noexcept nogil:
    """Whether lanes of any channels are better than lines.

    In a single image, 1.2 to 2.7 times; in a few, with planes of 4 x 4 to 10 x 10 outputs, 1.1 to 3.6. Larger ones of several
    images took 0.8 of the speed, and so did mixed lanes where images of one channel fill them (Emerald Rapids, AVX-512).
    """
    cdef Py_ssize_t target = g.rows.target * g.cols.target
    return fits_across(g) and fill_lanes(g.images * g.channels) and (g.images == 1 or target <= SMALL_VECTORS * VL)


cdef void choose_cells(Depthwise* g) noexcept nogil:
    """How images lie in the lines of the copy, and how many of their rows make a block; from the sizes alone."""
    cdef Py_ssize_t q = g.cols.longest, whole = vectors_over(q), taps = g.inputs * g.rows.kernel * g.cols.kernel, image, rows
    cdef Py_ssize_t line_bytes, last
    g.cell = q + g.cols.halo
    g.vectors = whole
    g.layout = choose_layout(g)
    g.mixed = g.mixed and g.layout == LINES and choose_mixed(g)
    if g.mixed:
        g.layout = ACROSS
    if g.layout == ACROSS:
        g.side, g.sides, g.pitch = VL, vectors_over(g.images), g.cell * VL
        g.block, g.blocks = g.rows.longest, 1
        return
    if in_series(g):
        g.side, g.sides, g.pitch = 1, g.images, g.cell
        g.block, g.blocks = window_rows(g), 1
        return
    line_bytes = g.inputs * g.rows.phases * g.cols.phases * <Py_ssize_t> sizeof(real)
    image = line_bytes * (g.rows.longest + g.rows.halo) * g.cell
    # Beside each other: an even number of vectors, or enough of them.
    g.side = 1 + whole % STRIP_VECS if g.layout == IN_PLACE else LINE_VECTORS * VL // g.cell
    g.side = min(g.images, max(1, min(g.side, CELL_BYTES // image)))
    g.sides = (g.images + g.side - 1) // g.side
    g.side = (g.images + g.sides - 1) // g.sides
    # The last vector of an image's row ends within its line.
    last = max(g.cell, vectors_over(max(q, min(g.cell, g.cols.source))) * VL)
    g.pitch = vectors_over((g.side - 1) * g.cell + last) * VL
    rows = max(2 * STRIP_ROWS, CELL_BYTES // (line_bytes * g.pitch) - g.rows.halo)
    g.blocks = (g.rows.longest + rows - 1) // rows
    g.block = (g.rows.longest + g.blocks - 1) // g.blocks


cdef void share_rows(Depthwise* g, int threads) noexcept nogil:
    """Smaller blocks where there are few of them for the threads; a block does not show in the sums."""
    cdef Py_ssize_t wanted = (4 * threads + g.sides * g.channels - 1) // (g.sides * g.channels)
    if threads > 1 and g.blocks < wanted and (g.layout == IN_PLACE or g.layout == LINES):
        g.block = max(min(STRIP_ROWS, g.block), (g.rows.longest + wanted - 1) // wanted)
        g.blocks = (g.rows.longest + g.block - 1) // g.block


cdef size_t depthwise_memory(Depthwise* g, size_t cursor) noexcept nogil:
    """Place tables at `cursor`; the address behind them."""
    cdef Py_ssize_t most = max(g.side * g.vectors, g.pitch // VL), grids = g.rows.grids * g.cols.grids
    cdef Py_ssize_t out_rows = 0 if g.layout == IN_PLACE or in_series(g) else grids * g.block
    g.line = g.cols.target if g.layout == IN_PLACE else g.pitch
    g.lines = g.block + g.rows.halo
    # With a vector to spare, for pixels that no window reads.
    g.stack = g.rows.phases * g.cols.phases * g.lines * g.pitch + VL
    g.src_at = <Py_ssize_t*> take(&cursor, most * sizeof(Py_ssize_t))
    g.dst_at = <Py_ssize_t*> take(&cursor, most * sizeof(Py_ssize_t))
    g.columns = <Column*> take(&cursor, g.inputs * g.rows.kernel * g.cols.kernel * sizeof(Column))
    g.bundles = <Bundle*> take(&cursor, g.rows.kernel * g.cols.grids * sizeof(Bundle))
    g.grids = <Grid*> take(&cursor, grids * sizeof(Grid))
    g.copy_at = <Py_ssize_t*> take(&cursor, (g.layout == ACROSS) * g.rows.source * g.cols.source * sizeof(Py_ssize_t))
    g.out_at = <Py_ssize_t*> take(&cursor, (g.layout == ACROSS) * g.rows.target * g.cols.target * sizeof(Py_ssize_t))
    g.phases = <Phase*> take(&cursor, g.cols.phases * sizeof(Phase))
    g.lanes = <real*> take(&cursor, VL * sizeof(real))
    # Whole vectors are written past the end of a line, and read past that of a row.
    g.copy_bytes = (g.inputs * g.stack + 2 * PANEL) * <Py_ssize_t> sizeof(real)
    g.copy_bytes = 0 if in_series(g) else (g.copy_bytes + 63) // 64 * 64
    if PICKS and g.layout == FLAT:
        cursor = flat_memory(g, cursor)
    if SHORT_ROWS and g.layout == SHORT:
        cursor = rows_memory(g, cursor)
    g.taps_place = g.workspace_bytes = g.copy_bytes + row_bytes(out_rows * g.pitch + 2 * PANEL)
    if g.mixed:
        g.workspace_bytes += row_bytes((g.inputs * g.rows.kernel * g.cols.kernel + 1) * VL)
    return cursor


cdef void add_bundle(Depthwise* g, Grid* grid, int taps, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """Columns of `taps` taps: joined to those before them if the same loop can sum them."""
    cdef Bundle* last = g.bundles + grid.first + grid.bundles - 1
    if grid.bundles and last.taps == taps and last.less == 0:
        last.count += count
    elif grid.bundles and last.taps == taps + 1 and last.taps <= PAIRED_TAPS:
        last.less += count
    else:
        last += 1
        last.taps, last.first, last.count, last.less = taps, first, count, 0
        grid.bundles += 1


cdef Py_ssize_t list_columns(Depthwise* g, Grid* grid, Py_ssize_t phase, Py_ssize_t count) noexcept nogil:
    """Append the columns of one row phase of the sub-grid in hand to the `count` there are; how many there are then."""
    cdef Axis* rows = &g.rows.axis
    cdef Axis* cols = &g.cols.axis
    cdef Py_ssize_t n, parts, part, t, s, k, first, plane, row
    cdef Column* column
    # Taps in the order of the rows that they read: backward, that is from the last to the first.
    n = rows.taps if g.rows.backward else (rows.taps - phase + g.rows.apart - 1) // g.rows.apart
    parts = (n + COLUMN_TAPS - 1) // COLUMN_TAPS
    for part in range(parts):
        t = part * n // parts
        t = rows.taps - 1 - t if g.rows.backward else phase + t * g.rows.apart
        row = rows.shift[t] + rows.low - g.rows.low
        first = count
        for k in range(g.inputs):
            for s in range(cols.taps):
                column = g.columns + count
                plane = rows.plane[t] * g.cols.phases + cols.plane[s]
                column.place = (cols.shift[s] + cols.low - g.cols.low) * (VL if g.layout == ACROSS else 1)
                column.place += k * g.stack + (plane * g.lines + row) * g.pitch
                column.weight = (k * g.rows.kernel + rows.index[t]) * g.cols.kernel + cols.index[s]
                count += 1
        add_bundle(g, grid, <int> ((part + 1) * n // parts - part * n // parts), first, count - first)
    return count


cdef void fill_phases(Depthwise* g) noexcept nogil:
    """Where the pixels of each column phase lie, in a row of the source and in a cell."""
    cdef Py_ssize_t b, step = g.cols.axis.step, start
    cdef Phase* phase
    for b in range(g.cols.phases):
        phase = g.phases + b
        start = g.cols.low * step + g.cols.axis.phase[b]
        phase.first = min(g.cell, max(0, -floor_div(start, step)))
        phase.count = max(phase.first, min(g.cell, floor_div(g.cols.source - 1 - start, step) + 1)) - phase.first
        phase.start = start + phase.first * step
    g.even, g.odd = g.phases, NULL
    if step == 2 and g.cols.phases == 2:
        b = g.phases[0].start > g.phases[1].start
        g.even, g.odd = g.phases + b, g.phases + 1 - b


cdef void fill_pixels(Depthwise* g) noexcept nogil:
    """Where pixels lie when images lie across the lanes; those that no window reads go to the end of the copy."""
    cdef Axis* rows = &g.rows.axis
    cdef Axis* cols = &g.cols.axis
    cdef Py_ssize_t a, b, i, j, h, w
    for i in range(g.rows.source * g.cols.source):
        g.copy_at[i] = g.stack - VL
    for a in range(g.rows.phases):
        for i in range(g.lines):
            h = (i + g.rows.low) * rows.step + rows.phase[a]
            for b in range(g.cols.phases):
                for j in range(g.cell):
                    w = (j + g.cols.low) * cols.step + cols.phase[b]
                    if 0 <= h < g.rows.source and 0 <= w < g.cols.source:
                        g.copy_at[h * g.cols.source + w] = ((a * g.cols.phases + b) * g.lines + i) * g.pitch + j * VL
    for h in range(g.rows.target):
        for w in range(g.cols.target):
            i = h % rows.stride * g.cols.grids + w % cols.stride
            g.out_at[h * g.cols.target + w] = (i * g.block + h // rows.stride) * g.pitch + w // cols.stride * VL


cdef void fill_depthwise(Depthwise* g) noexcept nogil:
    cdef Py_ssize_t i, j, v, n, at, phase, columns = 0, bundles = 0
    cdef Grid* grid
    g.tap = g.cols.kernel * (-g.rows.apart if g.rows.backward else g.rows.apart)
    for i in range(VL):
        g.lanes[i] = i
    if g.layout == IN_PLACE:
        for n in range(g.side):
            for v in range(g.vectors):
                at = min(v * VL, g.cols.target - VL)
                g.src_at[n * g.vectors + v] = n * g.cell + at
                g.dst_at[n * g.vectors + v] = n * g.dst.image + at
    else:
        for v in range(g.pitch // VL):
            g.src_at[v] = g.dst_at[v] = v * VL
    fill_phases(g)
    if g.layout == ACROSS:
        fill_pixels(g)
    for i in range(g.rows.grids):
        part_axis(&g.rows, i)
        for j in range(g.cols.grids):
            part_axis(&g.cols, j)
            grid = g.grids + i * g.cols.grids + j
            grid.rows = g.rows.axis.outputs
            grid.first, grid.bundles = bundles, 0
            if g.rows.axis.taps and g.cols.axis.taps:
                for phase in range(g.rows.axis.phases):
                    columns = list_columns(g, grid, phase, columns)
            bundles += grid.bundles
    if PICKS and g.layout == FLAT:
        fill_flat(g)
    if SHORT_ROWS and g.layout == SHORT:
        fill_rows(g, True)
