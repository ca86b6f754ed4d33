# Depthwise convolution, forward and input gradient: every channel has F filters of its own, M = C F.
#
#     y[n, c F + f, p, q] = b + sum_rs x[n, c, p s + r d - pad, q s + s' d - pad] w[c F + f, r, s']
#     dx[n, c, h, w]      = sum_frs dy[n, c F + f, p, q] w[c F + f, r, s']     over all with h = p s + r d - pad, w likewise
#
# x (N,C,H,W), w (M,1,R,S), b (M,) or empty, y (N,M,P,Q). Both are gathers, as gather.pxi describes them: a sum over taps for
# each sub-grid of the destination (one sub-grid forward, stride x stride of them backward), from a copy of the source's
# planes that is padded with zeros and parted by phase, so that every tap is a plain shift.
#
# Where each value feeds so few sums, loads are what limits the speed. So up to STRIP_ROWS rows of outputs are summed together,
# one kernel column at a time: its taps stay in registers, and a vector of the copy is loaded once for all the rows that
# it feeds. Each output is one sum over kernel columns in a fixed order and, within a column, over its taps from top to bottom,
# whatever the strip, the block or the thread: the same bits.
#
# Where a row of outputs fills its vectors well, they are stored in place, the last of a row moved back over its neighbour
# (DIRECT). Otherwise vectors run over a line of several images, a cell each, margins included, and the rows are
# cut out of a scratch buffer afterwards; so they are too where sub-grids interleave.

cdef extern from "vec.h" nogil:
    enum: COLUMN_TAPS
    enum: PAIRED_TAPS
    enum: STRIP_ROWS
    enum: STRIP_VECS
    vmask vless(vf, vf)
    void vhold(vf)


cdef enum:
    LINE_VALUES = 64 // sizeof(real)    # of a cache line
    LINE_VECTORS = 8            # of a line of several images: enough that its two ends waste little
    CELL_BYTES = 24 * 1024      # of the padded copy, which stays in the first-level cache beside what is written


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


# Taps below each other, of one phase: `apart` kernel rows and `spread` rows of the copy from one to the next.
cdef struct Column "convlayers_column":
    Py_ssize_t place            # of the first in the copy
    Py_ssize_t weight           # of the first in the filter


cdef struct Bundle:             # neighbouring columns that are summed in one go
    int taps
    Py_ssize_t first
    Py_ssize_t count            # of so many taps each,
    Py_ssize_t less             # and, behind them, of one tap less


cdef struct Grid:
    Py_ssize_t rows
    Py_ssize_t first            # bundle
    Py_ssize_t bundles


cdef struct Phase:              # of the source's columns
    Py_ssize_t start            # its first pixel
    Py_ssize_t first            # and that pixel's place in a cell
    Py_ssize_t count


cdef struct Depthwise:
    Span rows
    Span cols
    Py_ssize_t images
    Py_ssize_t channels
    Py_ssize_t inputs           # planes of the source for each channel, all summed
    Py_ssize_t filters          # planes of the destination for each channel
    const real* src
    const real* src_end
    const real* w
    const real* bias
    bint relu
    real* dst
    bint direct
    bint across
    Py_ssize_t side             # images side by side in a line
    Py_ssize_t sides            # units of so many images
    Py_ssize_t cell             # columns of an image in a line
    Py_ssize_t pitch            # from line to line of the copy, and of the scratch buffer of outputs
    Py_ssize_t block            # output rows of a block
    Py_ssize_t blocks
    Py_ssize_t lines            # of a plane of the copy, one for each pair of phases
    Py_ssize_t stack            # values of all the planes of one input
    Py_ssize_t line             # from row to row of what the strips write
    Py_ssize_t vectors          # of a line, or (direct) of an image
    Py_ssize_t tap              # from one tap of a column to the next in the filter
    Py_ssize_t* src_at          # where vectors begin in a line of the copy
    Py_ssize_t* dst_at          # and in a row of what the strips write
    Column* columns
    Bundle* bundles
    Grid* grids
    Py_ssize_t* copy_at         # with `across`, where each pixel of a source's plane goes in the copy
    Py_ssize_t* out_at          # and where each of a destination's plane comes from
    Phase* phases
    Phase* even                 # with column step 2, the phases of the pixels that are copied together; else the first alone
    Phase* odd
    real* lanes                 # 0, 1, ..
    char* workspace             # of all threads
    Py_ssize_t copy_bytes
    Py_ssize_t workspace_bytes  # of one thread


cdef struct Strip "convlayers_strip":
    Py_ssize_t strips           # below each other
    Py_ssize_t panels           # of one or two vectors, beside each other
    const Py_ssize_t* src_at    # where the vectors begin in a row of the copy
    const Py_ssize_t* dst_at    # and of the outputs
    const real* x               # the first row of the copy
    Py_ssize_t row              # from row to row there
    const Column* columns
    Py_ssize_t count
    Py_ssize_t less
    const real* w
    Py_ssize_t tap
    const real* ahead           # what the next unit reads, asked for by and by, so that it comes while there are sums to do
    Py_ssize_t portion          # cache lines at a time
    real* y
    Py_ssize_t line
    real init
    bint accumulate
    bint relu


cdef inline void feed "convlayers_feed"(
    int i, int rows, int vecs, int taps, const real* x0, const real* x1, Py_ssize_t row, const vf* w, vf* acc
) noexcept nogil:
    """Row i of the copy, under one kernel column, to all the output rows that it feeds."""
    cdef vf v0, v1
    cdef int b
    if i < rows + taps - 1:
        v0 = load(x0 + i * row)
        vhold(v0)
        if vecs == 2:
            v1 = load(x1 + i * row)
            vhold(v1)
        for b in range(rows):
            if 0 <= i - b < taps:
                acc[2 * b] = acc[2 * b] + w[i - b] * v0
                if vecs == 2:
                    acc[2 * b + 1] = acc[2 * b + 1] + w[i - b] * v1


cdef inline void strip_column "convlayers_strip_column"(
    int rows, int vecs, int taps, const real* x0, const real* x1, Py_ssize_t row, const real* tap, Py_ssize_t apart, vf* acc
) noexcept nogil:
    cdef vf w[COLUMN_TAPS]
    cdef int r
    for r in range(taps):
        w[r] = splat(tap[r * apart])
    # One by one: a loop around feed would be too large for the compiler to unroll.
    feed(0, rows, vecs, taps, x0, x1, row, w, acc)
    feed(1, rows, vecs, taps, x0, x1, row, w, acc)
    feed(2, rows, vecs, taps, x0, x1, row, w, acc)
    feed(3, rows, vecs, taps, x0, x1, row, w, acc)
    feed(4, rows, vecs, taps, x0, x1, row, w, acc)
    feed(5, rows, vecs, taps, x0, x1, row, w, acc)
    feed(6, rows, vecs, taps, x0, x1, row, w, acc)
    feed(7, rows, vecs, taps, x0, x1, row, w, acc)
    feed(8, rows, vecs, taps, x0, x1, row, w, acc)
    feed(9, rows, vecs, taps, x0, x1, row, w, acc)
    feed(10, rows, vecs, taps, x0, x1, row, w, acc)
    feed(11, rows, vecs, taps, x0, x1, row, w, acc)
    feed(12, rows, vecs, taps, x0, x1, row, w, acc)
    feed(13, rows, vecs, taps, x0, x1, row, w, acc)


cdef inline void strip_body "convlayers_strip_body"(int rows, int vecs, int taps, Strip* s) noexcept nogil:
    """Sums over columns of `taps` taps, panel by panel; constants keep acc and w in registers.

    GCC does so only because the loops over b are in a loop themselves: it then unrolls them before it places acc.
    """
    cdef vf acc[2 * STRIP_ROWS]
    cdef vf start = splat(s.init)
    cdef const real* x = s.x
    cdef const real* x0
    cdef const real* x1
    cdef const Column* column
    cdef real* y = s.y
    cdef real* y0
    cdef real* y1
    cdef Py_ssize_t line = s.line, row = s.row, apart = s.tap, strip, i, k
    cdef int b
    for strip in range(s.strips):
        for i in range(s.panels):
            x0 = x + s.src_at[i * vecs]
            y0 = y + s.dst_at[i * vecs]
            x1 = x + s.src_at[i * vecs + vecs - 1]
            y1 = y + s.dst_at[i * vecs + vecs - 1]
            for b in range(2 * rows):
                acc[b] = start
            if s.accumulate:
                for b in range(rows):
                    acc[2 * b] = load(y0 + b * line)
                if vecs == 2:
                    for b in range(rows):
                        acc[2 * b + 1] = load(y1 + b * line)
            for k in range(s.portion):
                prefetch_line(s.ahead + k * LINE_VALUES, 0)
            s.ahead += s.portion * LINE_VALUES
            for k in range(s.count):
                column = s.columns + k
                strip_column(rows, vecs, taps, x0 + column.place, x1 + column.place, row, s.w + column.weight, apart, acc)
            if 2 <= taps <= PAIRED_TAPS:
                for k in range(s.count, s.count + s.less):
                    column = s.columns + k
                    strip_column(rows, vecs, taps - 1, x0 + column.place, x1 + column.place, row, s.w + column.weight, apart,
                                 acc)
            if s.relu:
                for b in range(2 * rows):
                    acc[b] = vrelu(acc[b])
            for b in range(rows):
                store(y0 + b * line, acc[2 * b])
            if vecs == 2:
                for b in range(rows):
                    store(y1 + b * line, acc[2 * b + 1])
        x += rows * row
        y += rows * line


cdef inline void strip_rows "convlayers_strip_rows"(int vecs, int taps, int rows, Strip* s) noexcept nogil:
    if rows == 8:
        strip_body(8, vecs, taps, s)
    elif rows == 4:
        strip_body(4, vecs, taps, s)
    elif rows == 2:
        strip_body(2, vecs, taps, s)
    else:
        strip_body(1, vecs, taps, s)


cdef inline void strip_vecs "convlayers_strip_vecs"(int taps, int vecs, int rows, Strip* s) noexcept nogil:
    if STRIP_VECS == 2 and vecs == 2:
        strip_rows(2, taps, rows, s)
    else:
        strip_rows(1, taps, rows, s)


cdef void run_strip(int rows, int vecs, int taps, Strip* s) noexcept nogil:
    """`rows` is 1, 2, 4 or STRIP_ROWS."""
    if taps == 1:
        strip_vecs(1, vecs, rows, s)
    elif taps == 2:
        strip_vecs(2, vecs, rows, s)
    elif taps == 3:
        strip_vecs(3, vecs, rows, s)
    elif taps == 4:
        strip_vecs(4, vecs, rows, s)
    elif taps == 5:
        strip_vecs(5, vecs, rows, s)
    elif taps == 6:
        strip_vecs(6, vecs, rows, s)
    else:
        strip_vecs(7, vecs, rows, s)


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


cdef bint choose_across(Depthwise* g) noexcept nogil:
    """Whether images go across the lanes: enough of them, and planes that the first-level cache about holds."""
    cdef Py_ssize_t source = g.rows.source * g.cols.source, target = g.rows.target * g.cols.target, lanes
    lanes = (g.images + VL - 1) // VL * VL
    if VL == 1 or min(source, target) < VL or 4 * g.images < 3 * lanes:
        return False
    return max(source, target) * VL * <Py_ssize_t> sizeof(real) <= 2 * CELL_BYTES


cdef void choose_cells(Depthwise* g) noexcept nogil:
    """How images lie in the lines of the copy, and how many of their rows make a block; from the sizes alone."""
    cdef Py_ssize_t q = g.cols.longest, whole = vectors_over(q), taps = g.inputs * g.rows.kernel * g.cols.kernel, image, rows
    cdef Py_ssize_t line_bytes, last
    g.cell = q + g.cols.halo
    # In half cycles of a vector: a tap takes 1, a store in place 2, a store that is cut out again about 8 (Zen 5).
    g.direct = g.rows.axis.stride == 1 and g.cols.axis.stride == 1 and q >= VL
    g.direct = g.direct and whole * VL * (taps + 2) <= g.cell * (taps + 8)
    g.vectors = whole
    g.across = not g.direct and choose_across(g)
    if g.across:
        g.side, g.sides, g.pitch = VL, (g.images + VL - 1) // VL, g.cell * VL
        g.block, g.blocks = g.rows.longest, 1
        return
    line_bytes = g.inputs * g.rows.phases * g.cols.phases * <Py_ssize_t> sizeof(real)
    image = line_bytes * (g.rows.longest + g.rows.halo) * g.cell
    # Beside each other: an even number of vectors, or enough of them.
    g.side = 1 + whole % STRIP_VECS if g.direct else LINE_VECTORS * VL // g.cell
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
    if threads > 1 and g.blocks < wanted and not g.across:
        g.block = max(min(STRIP_ROWS, g.block), (g.rows.longest + wanted - 1) // wanted)
        g.blocks = (g.rows.longest + g.block - 1) // g.block


cdef size_t depthwise_memory(Depthwise* g, Py_ssize_t out_rows, int threads, size_t cursor) noexcept nogil:
    """Place tables and workspace, with so many rows of outputs for a thread, at `cursor`; the address behind them."""
    cdef Py_ssize_t most = max(g.side * g.vectors, g.pitch // VL), grids = g.rows.grids * g.cols.grids
    g.line = g.cols.target if g.direct else g.pitch
    g.lines = g.block + g.rows.halo
    # With a vector to spare, for pixels that no window reads.
    g.stack = g.rows.phases * g.cols.phases * g.lines * g.pitch + VL
    g.src_at = <Py_ssize_t*> take(&cursor, most * sizeof(Py_ssize_t))
    g.dst_at = <Py_ssize_t*> take(&cursor, most * sizeof(Py_ssize_t))
    g.columns = <Column*> take(&cursor, g.inputs * g.rows.kernel * g.cols.kernel * sizeof(Column))
    g.bundles = <Bundle*> take(&cursor, g.rows.kernel * g.cols.grids * sizeof(Bundle))
    g.grids = <Grid*> take(&cursor, grids * sizeof(Grid))
    g.copy_at = <Py_ssize_t*> take(&cursor, g.across * g.rows.source * g.cols.source * sizeof(Py_ssize_t))
    g.out_at = <Py_ssize_t*> take(&cursor, g.across * g.rows.target * g.cols.target * sizeof(Py_ssize_t))
    g.phases = <Phase*> take(&cursor, g.cols.phases * sizeof(Phase))
    g.lanes = <real*> take(&cursor, VL * sizeof(real))
    # Whole vectors are written past the end of a line, and read past that of a row.
    g.copy_bytes = (g.inputs * g.stack + 2 * PANEL) * <Py_ssize_t> sizeof(real)
    g.copy_bytes = (g.copy_bytes + 63) // 64 * 64
    g.workspace_bytes = g.copy_bytes + row_bytes(out_rows * g.pitch + 2 * PANEL)
    g.workspace = <char*> take(&cursor, threads * g.workspace_bytes)
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
                column.place = (cols.shift[s] + cols.low - g.cols.low) * (VL if g.across else 1)
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
    if g.direct:
        for n in range(g.side):
            for v in range(g.vectors):
                at = min(v * VL, g.cols.target - VL)
                g.src_at[n * g.vectors + v] = n * g.cell + at
                g.dst_at[n * g.vectors + v] = n * g.channels * g.filters * g.rows.target * g.cols.target + at
    else:
        for v in range(g.pitch // VL):
            g.src_at[v] = g.dst_at[v] = v * VL
    fill_phases(g)
    if g.across:
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


# The margins of the copy are zero before the first unit, and every unit leaves them so: the last vector of a row of pixels is
# written with zeros behind them, over what is margin or written later. Lines outside the image are zeroed each time where
# blocks of rows share the copy.

cdef struct Copy "convlayers_copy":
    const real* src             # the first pixel
    Py_ssize_t row              # from one line's row to the next
    Py_ssize_t lines
    Py_ssize_t vectors          # of a line
    real* even                  # where it goes
    real* odd                   # with step 2, where the pixel behind it goes; or NULL
    Py_ssize_t pitch
    vmask even_rest             # the lanes of the last vector that hold pixels
    vmask odd_rest


cdef inline void copy_lines "convlayers_copy_lines"(Py_ssize_t step, Py_ssize_t vectors, Copy* c) noexcept nogil:
    """Lines of one phase, step 1 or 2, or of both phases of step 2: each pixel is loaded once."""
    cdef const real* src = c.src
    cdef real* even = c.even
    cdef real* odd = c.odd
    cdef Py_ssize_t row = c.row, pitch = c.pitch, lines = c.lines, i, v
    cdef vmask even_rest = c.even_rest, odd_rest = c.odd_rest
    cdef vf a, b, x
    for i in range(lines):
        for v in range(vectors):
            a = load(src + v * step * VL)
            x = a
            if step == 2:
                b = load(src + v * step * VL + VL)
                x = vevens(a, b)
                if odd != NULL:
                    b = vodds(a, b)
                    if v == vectors - 1:
                        b = vselect(odd_rest, b, splat(0))
                    store(odd + v * VL, b)
            if v == vectors - 1:
                x = vselect(even_rest, x, splat(0))
            store(even + v * VL, x)
        src += row
        even += pitch
        if odd != NULL:
            odd += pitch


cdef inline void copy_vectors "convlayers_copy_vectors"(Py_ssize_t step, Copy* c) noexcept nogil:
    """Narrow images have a constant number of vectors."""
    if c.vectors == 1:
        copy_lines(step, 1, c)
    elif c.vectors == 2:
        copy_lines(step, 2, c)
    else:
        copy_lines(step, c.vectors, c)


cdef void set_copy(Depthwise* g, Copy* c) noexcept nogil:
    """What the copies of all images have in common."""
    cdef Phase* odd = g.odd if g.odd != NULL else g.even
    c.row, c.pitch, c.odd = g.rows.axis.step * g.cols.source, g.pitch, NULL
    c.vectors = vectors_over(max(g.even.count, odd.count))
    c.even_rest = vless(load(g.lanes), splat(g.even.count - (c.vectors - 1) * VL))
    c.odd_rest = vless(load(g.lanes), splat(odd.count - (c.vectors - 1) * VL))


cdef void copy_rest(Depthwise* g, const real* src, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, real* dst) noexcept nogil:
    """Lines begin .. end, value by value."""
    cdef Py_ssize_t b, i, j
    cdef Phase* phase
    for b in range(g.cols.phases):
        phase = g.phases + b
        for i in range(begin, end):
            for j in range(phase.count):
                dst[(b * g.lines + i) * g.pitch + phase.first + j] = src[i * row + phase.start + j * g.cols.axis.step]


cdef void copy_image(Depthwise* g, Copy* c, const real* src, Py_ssize_t lines, real* dst) noexcept nogil:
    """Lines of one row phase of one image, each column phase in a plane of its own."""
    cdef Py_ssize_t step = g.cols.axis.step, span = g.even.start + step * c.vectors * VL
    c.lines = lines if step <= 2 else 0
    # Whole vectors are read as long as they end within the source.
    if c.lines and src + (lines - 1) * c.row + span > g.src_end:
        c.lines = max(0, floor_div(g.src_end - src - span, c.row) + 1)
    c.src, c.even = src + g.even.start, dst + (g.even - g.phases) * g.lines * g.pitch + g.even.first
    if g.odd != NULL:
        c.odd = dst + (g.odd - g.phases) * g.lines * g.pitch + g.odd.first
    if step == 1:
        copy_vectors(1, c)
    else:
        copy_vectors(2, c)
    if c.lines < lines:
        copy_rest(g, src, c.row, c.lines, lines, dst)


cdef void zero_lines(real* dst, Py_ssize_t planes, Py_ssize_t plane, Py_ssize_t lines, Py_ssize_t pitch,
                     Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t n, i
    for n in range(planes):
        for i in range(lines):
            memset(dst + n * plane + i * pitch, 0, count * sizeof(real))


cdef void copy_cells(Depthwise* g, const real* src, Py_ssize_t images, Py_ssize_t first_row, real* dst) noexcept nogil:
    """One plane of each image, padded, side by side in lines, parted by phase."""
    if g.across:
        copy_across(src, g.channels * g.inputs * g.rows.source * g.cols.source, images, g.rows.source * g.cols.source,
                    g.copy_at, dst)
        return
    cdef Py_ssize_t a, n, row, top, bottom, step = g.rows.axis.step, plane = g.lines * g.pitch
    cdef Py_ssize_t image = g.channels * g.inputs * g.rows.source * g.cols.source
    cdef Copy c
    set_copy(g, &c)
    for a in range(g.rows.phases):
        row = (first_row + g.rows.low) * step + g.rows.axis.phase[a]
        top = min(g.lines, max(0, -floor_div(row, step)))
        bottom = max(top, min(g.lines, floor_div(g.rows.source - 1 - row, step) + 1))
        row += top * step
        for n in range(images):
            copy_image(g, &c, src + n * image + row * g.cols.source, bottom - top, dst + top * g.pitch + n * g.cell)
        if g.blocks > 1:
            zero_lines(dst, g.cols.phases, plane, top, g.pitch, g.side * g.cell)
            zero_lines(dst + bottom * g.pitch, g.cols.phases, plane, g.lines - bottom, g.pitch, g.side * g.cell)
        if images < g.side:
            zero_lines(dst + images * g.cell, g.cols.phases, plane, g.lines, g.pitch, (g.side - images) * g.cell)
        dst += g.cols.phases * plane


cdef void run_bundles(Depthwise* g, Grid* grid, int rows, int vecs, Py_ssize_t panels, Strip* s) noexcept nogil:
    """Strips with all columns of a sub-grid; sums go through the outputs from one bundle to the next."""
    cdef Py_ssize_t i
    cdef Bundle* bundle
    s.panels = panels
    for i in range(grid.bundles):
        bundle = g.bundles + grid.first + i
        s.columns, s.count, s.less, s.accumulate = g.columns + bundle.first, bundle.count, bundle.less, i > 0
        s.relu = g.relu and i == grid.bundles - 1
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
    # Only where the source is one stretch: elsewhere, finding the lines cost more than it gained.
    s.ahead = ahead
    s.portion = rows * g.cols.source // LINE_VALUES // max(1, vectors // STRIP_VECS * rows // STRIP_ROWS) if g.direct else 0
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


cdef struct Put "convlayers_put":
    const real* even            # what goes to the first pixel of a row, and on
    const real* odd             # what goes between them, with stride 2
    Py_ssize_t pitch
    Py_ssize_t lines
    Py_ssize_t vectors          # of a row of the destination, or (stride 2) pairs of them
    real* dst
    Py_ssize_t row


cdef inline void put_lines "convlayers_put_lines"(int stride, Py_ssize_t vectors, Put* t) noexcept nogil:
    """Rows in whole vectors: what the last of a row writes too much is written again by the next row."""
    cdef const real* even = t.even
    cdef const real* odd = t.odd
    cdef real* dst = t.dst
    cdef Py_ssize_t pitch = t.pitch, row = t.row, lines = t.lines, i, v
    cdef vf a, b
    for i in range(lines):
        for v in range(vectors):
            a = load(even + v * VL)
            if stride == 2:
                b = load(odd + v * VL)
                store(dst + 2 * v * VL, vturns_low(a, b))
                store(dst + 2 * v * VL + VL, vturns_high(a, b))
            else:
                store(dst + v * VL, a)
        even += pitch
        odd += pitch
        dst += row


cdef inline void put_vectors "convlayers_put_vectors"(int stride, Put* t) noexcept nogil:
    if t.vectors == 1:
        put_lines(stride, 1, t)
    elif t.vectors == 2:
        put_lines(stride, 2, t)
    else:
        put_lines(stride, t.vectors, t)


cdef void put_row(Depthwise* g, const real* out, real* dst) noexcept nogil:
    """One row value by value, from the same row of its column grids."""
    cdef Py_ssize_t j, t, stride = g.cols.axis.stride, plane = g.block * g.pitch
    for j in range(g.cols.grids):
        for t in range((g.cols.target - j + stride - 1) // stride):
            dst[j + t * stride] = out[j * plane + t]


cdef void put_image(Depthwise* g, const real* out, Py_ssize_t first, Py_ssize_t last, real* dst) noexcept nogil:
    """Rows first .. last of one image from [grid][row]; nothing is written behind them."""
    cdef Py_ssize_t width = g.cols.target, stride = g.rows.axis.stride, plane = g.block * g.pitch, whole = first, h, i
    cdef int paired = g.cols.axis.stride == 2 and g.cols.grids == 2
    cdef Put t
    t.pitch, t.row, t.lines = g.pitch, width, 1
    if paired or g.cols.axis.stride == 1:
        t.vectors = (width + (1 + paired) * VL - 1) // ((1 + paired) * VL)
        whole = max(first, min(last, last - (t.vectors * (1 + paired) * VL - 1) // width))
    # Rows of one grid follow each other in the destination, or they come by turns.
    if stride == 1:
        t.lines = whole - first
    h = first
    while h < whole:
        t.even = out + (h % stride * g.cols.grids * g.block + (h - first) // stride) * g.pitch
        t.odd = t.even + plane
        t.dst = dst + h * width
        if paired:
            put_vectors(2, &t)
        else:
            put_vectors(1, &t)
        h += t.lines
    for h in range(whole, last):
        put_row(g, out + (h % stride * g.cols.grids * g.block + (h - first) // stride) * g.pitch, dst + h * width)


cdef void put_rows(Depthwise* g, const real* out, Py_ssize_t images, Py_ssize_t u0, Py_ssize_t rows, real* dst) noexcept nogil:
    """The rows that sub-grid rows u0 .. u0 + rows make, from [grid][row][image] to each image's plane."""
    cdef Py_ssize_t n, stride = g.rows.axis.stride
    for n in range(images):
        put_image(g, out + n * g.cell, u0 * stride, min(g.rows.target, (u0 + rows) * stride), dst)
        dst += g.channels * g.filters * g.rows.target * g.cols.target


# With `across`, lane i of every vector belongs to image i: there are no margins to compute, no lane to shift, and a stride
# costs nothing. Planes are transposed on the way in and out.

cdef void copy_across(
    const real* src, Py_ssize_t stride, Py_ssize_t images, Py_ssize_t pixels, const Py_ssize_t* at, real* dst
) noexcept nogil:
    """Planes of VL images, `stride` apart, to a vector for each pixel; lanes without an image are zero."""
    cdef vf v[VL]
    cdef Py_ssize_t block, j
    cdef int i
    for block in range(vectors_over(pixels)):
        # The last block moves back, over pixels that the one before it has copied as well.
        j = min(block * VL, pixels - VL)
        if images == VL:
            for i in range(VL):
                v[i] = load(src + i * stride + j)
        else:
            for i in range(VL):
                v[i] = splat(0)
                if i < images:
                    v[i] = load(src + i * stride + j)
        transpose_square(v)
        for i in range(VL):
            store(dst + at[j + i], v[i])


cdef void put_across(
    const real* src, const Py_ssize_t* at, Py_ssize_t images, Py_ssize_t stride, Py_ssize_t pixels, real* dst
) noexcept nogil:
    """The way back."""
    cdef vf v[VL]
    cdef Py_ssize_t block, j
    cdef int i
    for block in range(vectors_over(pixels)):
        j = min(block * VL, pixels - VL)
        for i in range(VL):
            v[i] = load(src + at[j + i])
        transpose_square(v)
        for i in range(VL):
            if i < images:
                store(dst + i * stride + j, v[i])


cdef inline real* copy_start(Depthwise* g, char* workspace) noexcept nogil:
    """So far into the workspace that the first pixel of a line lies on a cache line."""
    return <real*> workspace + (0 if g.across else (VL - g.phases[0].first % VL) % VL)


cdef void run_depthwise_unit(Depthwise* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """One block of rows of one channel, for the images of one line."""
    cdef Py_ssize_t block = unit % g.blocks, channel = unit // g.blocks % g.channels, first = unit // g.blocks // g.channels
    cdef Py_ssize_t u0 = block * g.block, rows = min(g.block, g.rows.longest - u0), images, vectors, k, f, i, m, here
    cdef Py_ssize_t source = g.rows.axis.size * g.cols.axis.size, area = g.rows.target * g.cols.target
    cdef Py_ssize_t taps = g.rows.kernel * g.cols.kernel
    cdef const real* ahead
    cdef real* copy = copy_start(g, workspace)
    cdef real* out = <real*> (workspace + g.copy_bytes)
    cdef real* dst
    first *= g.side
    images = min(g.side, g.images - first)
    vectors = images * g.vectors if g.direct else vectors_over(images * g.cell - g.cols.halo)
    if g.across:
        vectors = g.cols.longest
    for k in range(g.inputs):
        copy_cells(g, g.src + ((first * g.channels + channel) * g.inputs + k) * source, images, u0, copy + k * g.stack)
    ahead = g.src + (first * g.channels + channel) * g.inputs * source + (u0 + rows) * g.rows.axis.step * g.cols.source
    for f in range(g.filters):
        m = channel * g.filters + f
        dst = g.dst + (first * g.channels * g.filters + m) * area
        for i in range(g.rows.grids * g.cols.grids):
            here = min(rows, g.grids[i].rows - u0)
            if g.grids[i].bundles == 0:
                memset(out + i * g.block * g.pitch, 0, rows * g.pitch * sizeof(real))
            elif here > 0:
                run_grid(g, g.grids + i, vectors, here, copy, g.w + m * g.inputs * taps, g.bias[m] if g.bias != NULL else 0,
                         dst + u0 * g.line if g.direct else out + i * g.block * g.pitch, ahead)
        if g.across:
            put_across(out, g.out_at, images, g.channels * g.filters * area, area, dst)
        elif not g.direct:
            put_rows(g, out, images, u0, rows, dst)


cdef void set_spans(
    Depthwise* g, bint backward, Py_ssize_t kernel_h, Py_ssize_t kernel_w, Py_ssize_t stride_h, Py_ssize_t stride_w,
    Py_ssize_t top, Py_ssize_t left, Py_ssize_t dilation_h, Py_ssize_t dilation_w
) noexcept nogil:
    g.rows.backward = g.cols.backward = backward
    g.rows.kernel, g.rows.stride, g.rows.before, g.rows.dilation = kernel_h, stride_h, top, dilation_h
    g.cols.kernel, g.cols.stride, g.cols.before, g.cols.dilation = kernel_w, stride_w, left, dilation_w
    measure_span(&g.rows)
    measure_span(&g.cols)
    choose_cells(g)


cdef run_depthwise(Depthwise* g, int threads):
    """Take scratch memory for a gather whose spans and sizes are set, and run it; units may run in any order."""
    cdef Py_ssize_t u, out_rows
    cdef unsigned char[::1] buffer
    g.src_end = g.src + g.images * g.channels * g.inputs * g.rows.source * g.cols.source
    share_rows(g, threads)
    out_rows = 0 if g.direct else g.rows.grids * g.cols.grids * g.block
    buffer = _scratch(depthwise_memory(g, out_rows, threads, 0))
    depthwise_memory(g, out_rows, threads, <size_t> &buffer[0])
    with nogil:
        fill_depthwise(g)
        with parallel(num_threads=threads):
            memset(g.workspace + threadid() * g.workspace_bytes, 0, g.copy_bytes)
            for u in prange(g.sides * g.channels * g.blocks, schedule="guided"):
                run_depthwise_unit(g, u, g.workspace + threadid() * g.workspace_bytes)


def depthwise_forward(
    const real[:, :, :, ::1] x, const real[:, :, :, ::1] w, const real[::1] bias, real[:, :, :, ::1] y,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, bint relu, int threads,
):
    """Fill y with each channel of x convolved with its filters in w, plus the bias unless empty, rectified if `relu`."""
    cdef Depthwise g
    cdef Py_ssize_t kh = w.shape[2], kw = w.shape[3]
    cdef unsigned char[::1] tables = _scratch(axis_memory(&g.cols.axis, kw, axis_memory(&g.rows.axis, kh, 0)), 1)
    axis_memory(&g.cols.axis, kw, axis_memory(&g.rows.axis, kh, <size_t> &tables[0]))
    g.images, g.channels, g.inputs, g.filters = x.shape[0], x.shape[1], 1, w.shape[0] // x.shape[1]
    g.rows.source, g.cols.source, g.rows.target, g.cols.target = x.shape[2], x.shape[3], y.shape[2], y.shape[3]
    g.src, g.w, g.bias, g.dst = &x[0, 0, 0, 0], &w[0, 0, 0, 0], &bias[0] if bias.shape[0] else NULL, &y[0, 0, 0, 0]
    g.relu = relu
    set_spans(&g, False, kh, kw, stride_h, stride_w, top, left, dilation_h, dilation_w)
    run_depthwise(&g, threads)


def depthwise_backward_input(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] w, real[:, :, :, ::1] dx,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int threads,
):
    """Fill dx with the gradient with respect to the input."""
    cdef Depthwise g
    cdef Py_ssize_t kh = w.shape[2], kw = w.shape[3]
    cdef unsigned char[::1] tables = _scratch(axis_memory(&g.cols.axis, kw, axis_memory(&g.rows.axis, kh, 0)), 1)
    axis_memory(&g.cols.axis, kw, axis_memory(&g.rows.axis, kh, <size_t> &tables[0]))
    g.images, g.channels, g.inputs, g.filters = dx.shape[0], dx.shape[1], w.shape[0] // dx.shape[1], 1
    g.rows.source, g.cols.source, g.rows.target, g.cols.target = dy.shape[2], dy.shape[3], dx.shape[2], dx.shape[3]
    g.src, g.w, g.bias, g.dst = &dy[0, 0, 0, 0], &w[0, 0, 0, 0], NULL, &dx[0, 0, 0, 0]
    g.relu = False
    set_spans(&g, True, kh, kw, stride_h, stride_w, top, left, dilation_h, dilation_w)
    run_depthwise(&g, threads)
