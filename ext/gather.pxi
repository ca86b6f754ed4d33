# A convolution as a gather: what forward and input gradient have in common.
#
#     out[m, i, j] = sum_crs filter[m, c, r, s] src[c, i * step + offset_r, j * step + offset_s]      0 outside src
#
# The forward pass reads x with offset_r = r d - pad. The input gradient reads dy: with stride 1 it is one such sum, with
# stride s it is s x s of them, one for each sub-grid of dx (Axis.first, Axis.stride), and never multiplies by a zero
# that the stride put there.
#
# A block of output rows is computed from a copy of the source rows it needs, padded with zeros and parted by phase
# (index modulo step), so that every tap of every output is a plain shift of one plane: the tile reads it in place.

cdef struct Axis:
    Py_ssize_t size         # source pixels
    Py_ssize_t outputs      # output pixels on this sub-grid
    Py_ssize_t step         # source pixels from one output to the next
    Py_ssize_t first        # output i lies at first + i * stride of the destination
    Py_ssize_t stride
    Py_ssize_t taps
    Py_ssize_t* index       # the tap's place in the filter
    Py_ssize_t* shift       # (offset - phase) / step, less `low`
    Py_ssize_t* plane       # which of the phases the tap reads
    Py_ssize_t phases
    Py_ssize_t* phase       # offset modulo step, each once
    Py_ssize_t low          # the smallest (offset - phase) / step
    Py_ssize_t halo         # the largest shift
    Py_ssize_t line         # pixels of a copied line: outputs and halo


cdef inline Py_ssize_t floor_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return a if b == 1 else a // b - (a % b != 0 and (a < 0) != (b < 0))


cdef size_t axis_memory(Axis* axis, Py_ssize_t kernel, size_t cursor) noexcept nogil:
    """Place the tables of an axis with up to `kernel` taps at `cursor`; the address behind them."""
    axis.index = <Py_ssize_t*> take(&cursor, kernel * sizeof(Py_ssize_t))
    axis.shift = <Py_ssize_t*> take(&cursor, kernel * sizeof(Py_ssize_t))
    axis.plane = <Py_ssize_t*> take(&cursor, kernel * sizeof(Py_ssize_t))
    axis.phase = <Py_ssize_t*> take(&cursor, kernel * sizeof(Py_ssize_t))
    return cursor


cdef void add_tap(Axis* axis, Py_ssize_t index, Py_ssize_t offset) noexcept nogil:
    cdef Py_ssize_t t = axis.taps, shift = floor_div(offset, axis.step), p = 0, phase
    phase = offset - shift * axis.step
    while p < axis.phases and axis.phase[p] != phase:
        p += 1
    if p == axis.phases:
        axis.phase[p] = phase
        axis.phases += 1
    axis.index[t] = index
    axis.shift[t] = shift
    axis.plane[t] = p
    axis.taps += 1


cdef void settle_taps(Axis* axis) noexcept nogil:
    cdef Py_ssize_t t, high = 0
    axis.low = 0
    for t in range(axis.taps):
        axis.low = axis.shift[t] if t == 0 else min(axis.low, axis.shift[t])
    for t in range(axis.taps):
        axis.shift[t] -= axis.low
        high = max(high, axis.shift[t])
    axis.halo = high
    axis.line = axis.outputs + high


cdef void forward_axis(
    Axis* axis, Py_ssize_t size, Py_ssize_t outputs, Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t dilation,
    Py_ssize_t before
) noexcept nogil:
    """y[p] reads x[p stride + r dilation - before]."""
    cdef Py_ssize_t r
    axis.size, axis.outputs, axis.step, axis.first, axis.stride = size, outputs, stride, 0, 1
    axis.taps = axis.phases = 0
    for r in range(kernel):
        add_tap(axis, r, r * dilation - before)
    settle_taps(axis)


cdef void backward_axis(
    Axis* axis, Py_ssize_t size, Py_ssize_t outputs, Py_ssize_t kernel, Py_ssize_t stride, Py_ssize_t dilation,
    Py_ssize_t before, Py_ssize_t phase
) noexcept nogil:
    """dx[phase + i stride] reads dy[i + (phase + before - r dilation) / stride] wherever that is a whole number."""
    cdef Py_ssize_t r, reach
    axis.size, axis.step, axis.first, axis.stride = outputs, 1, phase, stride
    axis.outputs = (size - phase + stride - 1) // stride
    axis.taps = axis.phases = 0
    for r in range(kernel):
        reach = phase + before - r * dilation
        if reach % stride == 0:
            add_tap(axis, r, reach // stride)
    settle_taps(axis)


# Which values of a vector are which outputs: a vector's values are runs of neighbouring output pixels.
cdef struct Run:
    Py_ssize_t lane         # first value of the vector
    Py_ssize_t length
    Py_ssize_t src          # its place in a plane of the padded copy
    Py_ssize_t dst          # its place in the destination's plane, from the block's first row
    Py_ssize_t room         # values from there on that are all written, in order: a vector may run over into them


cdef struct Plan:
    Py_ssize_t vectors
    Py_ssize_t pixels       # outputs
    Py_ssize_t rest         # those of the last vector that are computed apart (gather_ends.pxi)
    Py_ssize_t covered      # values of the block's plane that are all written, in order; or of each of its rows
    bint rows_apart         # rows are images, see conv.pxi
    Py_ssize_t* src         # where each vector begins in a plane (not in packed mode)
    Py_ssize_t* begin       # vector v has the runs begin[v] .. begin[v + 1]
    Py_ssize_t* seam        # values of vector v before its second run: VL if it has one run, 0 if more than two
    Py_ssize_t* whole       # whether vector v is VL neighbouring values of the destination
    Py_ssize_t* chain       # panels from vector v on that one call of the tile computes
    Run* runs


# Where vectors lie over the outputs of a block:
#   ROWS    from the start of each row, the last of a row partly empty
#   PITCH   one after the other over the padded copy, its margin included
#   PACKED  one after the other over the outputs alone; a panel is packed for all taps
#   PLAIN   over the source itself, when it needs no padded copy: a 1 x 1 kernel; rows are all pixels of an image, or several
#           images, or those of few large ones
#   FILTER_LANES  over the filters, one output pixel after the other (gather_pixels.pxi)
cdef enum Mode:
    ROWS
    PITCH
    PACKED
    PLAIN
    FILTER_LANES


cdef inline Py_ssize_t vectors_over(Py_ssize_t pixels) noexcept nogil:
    return (pixels + VL - 1) // VL


cdef enum:
    NEAR_ROWS = 64              # of the copy that all taps of a vector read, with 16 registers


cdef Mode choose_mode(
    Axis* rows, Axis* cols, Py_ssize_t width, Py_ssize_t filters, Py_ssize_t depth, Py_ssize_t block
) noexcept nogil:
    """The mode that costs least: multiply-adds of empty lanes, against copies of a panel, against stores in pieces.

    In half cycles: a tap of one vector and one filter takes 1, and 19/16 where it is read in place: each is a line of the cache
    far from the next, and packed panels took 1.2 to 1.4 times less with 64 channels (Zen 3). The lines of up to NEAR_ROWS rows
    stay in the first level: packed, first layers of 3 channels with 32 filters took 1.09 to 1.10 times as long (Zen 3). Storing
    a vector takes 2 in place and about 16 in pieces; a vector packed for a tap takes 5, with a seam 8, and 11 for each run
    where it may have many. With filters for lanes, a tap of one pixel takes 17/16 for each vector of filters, a sixth more
    where a tile has only one; transposing a panel of them takes as long as 12 taps of two (Zen 5, Zen 3 and Emerald Rapids).
    """
    cdef Py_ssize_t q = cols.outputs, pitch = cols.line, by_rows, by_pitch, packed, lanes, rest = filters % PANEL
    cdef Py_ssize_t tap = 19
    cdef bint joined = cols.stride == 1 and rows.stride == 1 and width == q
    if MR == 6 and depth * cols.phases <= NEAR_ROWS * cols.taps:
        tap = 16
    by_rows = block * vectors_over(q) * filters * (tap * depth // 16 + (2 if cols.stride == 1 and q % VL == 0 else 16))
    by_pitch = vectors_over((block - 1) * pitch + q) * filters * (tap * depth // 16 + 16)
    packed = vectors_over(block * q) * filters * (depth + (2 if joined else 16))
    if q >= VL:
        packed += (5 if q % VL == 0 else 8) * depth * vectors_over(block * q)
    else:
        packed += 11 * depth * (vectors_over(block * q) + block)
    lanes = depth * (34 * (filters // PANEL) + (34 if rest > VL else 20 if rest > 0 else 0))
    lanes = (lanes + 408 * ((filters + PANEL - 1) // PANEL)) * ((block * q + MR - 1) // MR * MR) // 16
    if joined and lanes < packed and lanes < by_rows and lanes < by_pitch:
        return FILTER_LANES
    if packed < by_rows and packed < by_pitch:
        return PACKED
    return ROWS if by_rows <= by_pitch else PITCH


cdef void add_run(Plan* plan, Axis* rows, Axis* cols, Py_ssize_t width, Py_ssize_t lane, Py_ssize_t length, Py_ssize_t i,
                  Py_ssize_t j) noexcept nogil:
    cdef Run* run = plan.runs + plan.begin[plan.vectors + 1]
    run.lane = lane
    run.length = length
    run.src = i * cols.line + j
    run.dst = i * rows.stride * width + j * cols.stride
    run.room = plan.covered - (j if plan.rows_apart else run.dst)
    plan.begin[plan.vectors + 1] += 1


cdef inline Py_ssize_t run_place(Plan* plan, Py_ssize_t v) noexcept nogil:
    """Where the first value of vector v lies in the destination."""
    return plan.runs[plan.begin[v]].dst


cdef Py_ssize_t seam_of(Plan* plan, Py_ssize_t v) noexcept nogil:
    cdef Py_ssize_t runs = plan.begin[v + 1] - plan.begin[v]
    return VL if runs == 1 else plan.runs[plan.begin[v]].length if runs == 2 else 0


cdef bint is_whole(Plan* plan, Py_ssize_t v, Axis* cols) noexcept nogil:
    """Whether a vector's runs follow each other without a gap, in the vector and in the destination.

    One run that is shorter will do where what it has too much is written again by the vectors behind it.
    """
    cdef Py_ssize_t r, lane = 0
    cdef Run* run
    run = plan.runs + plan.begin[v]
    if plan.begin[v + 1] - plan.begin[v] == 1 and run.lane == 0 and run.room >= VL:
        return True
    for r in range(plan.begin[v], plan.begin[v + 1]):
        run = plan.runs + r
        if run.lane != lane or run.dst != run_place(plan, v) + lane:
            return False
        lane += run.length
    return cols.stride == 1 and lane == VL


cdef void plan_block(Plan* plan, Mode mode, Axis* rows, Axis* cols, Py_ssize_t width, Py_ssize_t block) noexcept nogil:
    """Lay vectors over `block` rows of outputs."""
    cdef Py_ssize_t q = cols.outputs, line, vector, position, end, i, j, at, length
    # Distance between the starts of two rows, in the sequence that vectors run through.
    line = q if mode == PACKED or mode == PLAIN else cols.line
    if mode == ROWS:
        line = vectors_over(q) * VL
    end = (block - 1) * line + q
    plan.rows_apart = mode == PLAIN and rows.stride > 1
    plan.covered = block * q if cols.stride == 1 and rows.stride == 1 and width == q else q if plan.rows_apart else 0
    plan.vectors, plan.pixels = 0, block * q
    plan.rest = rest_pixels(plan.pixels) if mode == PACKED or mode == PLAIN and not plan.rows_apart else 0
    plan.begin[0] = 0
    for vector in range(vectors_over(end)):
        position = vector * VL
        if mode == PLAIN:
            # The last vector moves back, over values that the one before it computes as well.
            position = min(position, end - VL)
        plan.src[vector] = position
        if mode == ROWS or mode == PLAIN:
            plan.src[vector] = position // line * cols.line + position % line
        at = position
        plan.begin[vector + 1] = plan.begin[vector]
        while at < min(position + VL, end):
            i = at // line
            j = at % line
            length = min(min(line, q) - j, position + VL - at)
            if length > 0:
                add_run(plan, rows, cols, width, at - position, length, i, j)
            at += max(length, 1)
        plan.seam[vector] = seam_of(plan, vector)
        plan.whole[vector] = is_whole(plan, vector, cols)
        plan.vectors += 1


cdef void plan_chains(Plan* plan, bint packed) noexcept nogil:
    """Panels of two vectors follow each other while they are whole and, where they are read in place, equally far apart."""
    cdef Py_ssize_t v, step
    cdef const Py_ssize_t* src = plan.src
    # A sub-grid may have no row left in the last block.
    for v in range((plan.vectors + 1) // 2 * 2 - 2, -1, -2):
        plan.chain[v] = 0
        if v + 1 == plan.vectors or not (plan.whole[v] and plan.whole[v + 1]):
            continue
        if run_place(plan, v + 1) != run_place(plan, v) + VL:
            continue
        plan.chain[v] = 1
        if v + 2 >= plan.vectors or plan.chain[v + 2] == 0 or run_place(plan, v + 2) != run_place(plan, v) + PANEL:
            continue
        step = src[v + 2] - src[v]
        if packed or src[v + 3] - src[v + 1] == step and (plan.chain[v + 2] == 1 or src[v + 4] - src[v + 2] == step):
            plan.chain[v] += plan.chain[v + 2]


# Lines are written from left to right, whole vectors at a time: what a vector writes too much is written again by what
# follows it, and the copy has a vector to spare at its end. Calls of memcpy for lines this short cost more than the copy.

cdef inline void zero_run(real* dst, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t v
    for v in range(vectors_over(count)):
        store(dst + v * VL, splat(0))


cdef inline vf fourths(const real* src) noexcept nogil:
    """Every fourth value of two panels."""
    return vevens(vevens(load(src), load(src + VL)), vevens(load(src + PANEL), load(src + PANEL + VL)))


cdef inline void copy_run(const real* src, const real* end, Py_ssize_t stride, real* dst, Py_ssize_t count) noexcept nogil:
    """`count` values, `stride` apart; nothing is read at or behind `end`."""
    cdef Py_ssize_t v, j, whole
    if stride == 1:
        whole = min(vectors_over(count), max(end - src, 0) // VL)
        for v in range(whole):
            store(dst + v * VL, load(src + v * VL))
        for j in range(whole * VL, count):
            dst[j] = src[j]
    elif stride == 2:
        whole = min(vectors_over(count), max(end - src, 0) // PANEL)
        for v in range(whole):
            store(dst + v * VL, vevens(load(src + v * PANEL), load(src + v * PANEL + VL)))
        for j in range(whole * VL, count):
            dst[j] = src[2 * j]
    elif stride == 3:
        whole = min(vectors_over(count), max(end - src, 0) // (3 * VL))
        for v in range(whole):
            store(dst + v * VL, vthirds(load(src + v * 3 * VL), load(src + v * 3 * VL + VL), load(src + v * 3 * VL + PANEL)))
        for j in range(whole * VL, count):
            dst[j] = src[3 * j]
    elif stride == 4:
        whole = min(vectors_over(count), max(end - src, 0) // (2 * PANEL))
        for v in range(whole):
            store(dst + v * VL, fourths(src + v * 2 * PANEL))
        for j in range(whole * VL, count):
            dst[j] = src[4 * j]
    else:
        for j in range(count):
            dst[j] = src[j * stride]


# Rows of so many bytes and more of the channel that comes next are asked for: 56 x 56 and 224 x 224 took 0.91 to 1.0 of the
# time, shorter rows 1.0 to 1.03 (Zen 4). With 16 registers each vector of float32 asks, in rows of any length: 1x1 kernels of
# 28 x 28 at stride 2 took 0.90 of the time, other layers 0.98 to 1.0 (Zen 3).
cdef enum:
    ASKED_ROW = 192

# Where loads may leave out lanes, those beside the image are a short line's zeros, in one go: 1.15 times with 16 channels of
# 16 x 16 at stride 2 (Zen 5).

cdef void copy_short(
    const real* src, Axis* rows, Axis* cols, Py_ssize_t row, Py_ssize_t column, Py_ssize_t lines, real* dst
) noexcept nogil:
    """The lines of one phase of the rows and one of the columns, from a row and a column of the source on."""
    cdef unsigned int low = lanes_within(column, cols.size, VL), high = lanes_within(column + VL, cols.size, VL)
    cdef const real* at
    cdef vf here, behind
    cdef Py_ssize_t i, step = cols.step
    for i in range(lines):
        if not 0 <= row < rows.size:
            store(dst, splat(0))
        elif step == 1:
            store(dst, load_lanes(src + row * cols.size + column, low))
        else:
            at = src + row * cols.size + column
            here, behind = load_lanes(at, low), load_lanes(at + VL, high)
            store(dst, vevens(here, behind))
        row += rows.step
        dst += cols.line


# Lines of a padded copy: values of rows of the source between zeros.
cdef struct Padded "convlayers_padded":
    const real* src             # the first value
    const real* end             # of what may be read
    Py_ssize_t step             # from one value to the next
    Py_ssize_t row              # from one line to the next
    Py_ssize_t plane            # to the channel behind,
    Py_ssize_t asked            # of which so many bytes of each row are asked for
    Py_ssize_t lines
    Py_ssize_t first            # zeros before the values
    Py_ssize_t count
    Py_ssize_t width
    real* dst


cdef inline void padded_lines "convlayers_padded_lines"(int step, const Padded* p) noexcept nogil:
    """`step` is 1, 2, or 0 for any: where speed is worth the code, each has its own."""
    cdef const real* src = p.src
    cdef const real* end = p.end
    cdef real* dst = p.dst
    cdef Py_ssize_t first = p.first, last = first + p.count, width = p.width, row = p.row, vectors = vectors_over(p.count), i, v
    for i in range(p.lines):
        if (MR > 6 or step == 0) and p.asked > 0:
            prefetch(src + p.plane, p.asked, False)
        zero_run(dst, first)
        if step > 0 and src + vectors * VL * step <= end:
            for v in range(vectors):
                if MR == 6:
                    prefetch_line(src + p.plane + v * VL * step, 0)
                if step == 1:
                    store(dst + first + v * VL, load(src + v * VL))
                else:
                    store(dst + first + v * VL, vevens(load(src + v * PANEL), load(src + v * PANEL + VL)))
        else:
            copy_run(src, end, p.step, dst + first, p.count)
        zero_run(dst + last, width - last)
        src += row
        dst += width


cdef void copy_phase(Padded* p, Axis* cols, Py_ssize_t phase, const real* row) noexcept nogil:
    """One phase of the columns of rows of which `row` is the first."""
    cdef Py_ssize_t start = cols.low * cols.step + phase
    p.first = min(p.width, max(0, -floor_div(start, cols.step)))
    p.count = max(0, min(p.width, floor_div(cols.size - 1 - start, cols.step) + 1) - p.first)
    p.src = row + start + p.first * cols.step
    if ASKS and cols.step == 1:
        padded_lines(1, p)
    elif ASKS and cols.step == 2:
        padded_lines(2, p)
    else:
        padded_lines(0, p)


cdef void copy_whole_rows(
    const real* src, const real* end, Py_ssize_t channels, Py_ssize_t plane, Py_ssize_t first, Py_ssize_t values, real* dst
) noexcept nogil:
    """Of each channel as many values, from `first` on, and zeros behind the last row."""
    cdef Py_ssize_t count = max(0, min(values, plane - first)), c
    for c in range(channels):
        copy_run(src + first, end, 1, dst, count)
        zero_run(dst + count, values - count)
        src += plane
        dst += values


cdef void copy_padded(
    const real* src, const real* end, Py_ssize_t channels, Axis* rows, Axis* cols, Py_ssize_t first_row, Py_ssize_t lines,
    real* dst
) noexcept nogil:
    """The padded copy for the outputs from `first_row` on: [channel][row phase][column phase][lines][outputs + halo]."""
    cdef Py_ssize_t c, a, b, h, top, bottom
    cdef Padded p
    if rows.step * cols.step == 1 and cols.low == 0 and cols.line == cols.size and first_row + rows.low >= 0:
        copy_whole_rows(src, end, channels, rows.size * cols.size, (first_row + rows.low) * cols.size, lines * cols.size, dst)
        return
    p.end, p.step, p.row, p.plane, p.width = end, cols.step, rows.step * cols.size, rows.size * cols.size, cols.line
    for c in range(channels):
        for a in range(rows.phases):
            h = (first_row + rows.low) * rows.step + rows.phase[a]
            top = min(lines, max(0, -floor_div(h, rows.step)))
            bottom = max(top, min(lines, floor_div(rows.size - 1 - h, rows.step) + 1))
            p.lines = bottom - top
            for b in range(cols.phases):
                if PICKS and cols.step <= 2 and p.width <= VL:
                    copy_short(src, rows, cols, h, cols.low * cols.step + cols.phase[b], lines, dst)
                    dst += lines * p.width
                    continue
                zero_run(dst, top * p.width)
                p.dst = dst + top * p.width
                p.asked = 0
                if b == 0 and cols.size * <Py_ssize_t> sizeof(real) >= ASKED_ROW:
                    p.asked = cols.size * <Py_ssize_t> sizeof(real)
                copy_phase(&p, cols, cols.phase[b], src + (h + top * rows.step) * cols.size)
                zero_run(dst + bottom * p.width, (lines - bottom) * p.width)
                dst += lines * p.width
        src += p.plane
