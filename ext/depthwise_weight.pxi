# Depthwise convolution, gradient with respect to the filters and the bias.
#
#     dw[c F + f, r, s'] = sum_npq dy[n, c F + f, p, q] x[n, c, p s + r d - pad, q s + s' d - pad]
#
# x (N,C,H,W), dy (N,M,P,Q), dw (M,1,R,S), M = C F. x is copied as for the forward pass (depthwise.pxi), where each tap
# reads a plain shift of it; dy is read in place or copied into lines of the same layout. A tap has a vector of sums. The
# sums of up to TAP_SUMS taps stay in registers, those of a few whole kernel columns; KEPT_ROWS rows of dy are kept beside them,
# and a vector of the copy is loaded once for all of these rows. Lanes over margins are cleared on both sides: a value that is
# not finite must not reach the sums of taps that do not read it.
#
# A shard of the images and row blocks of one channel is one sequence of additions, and shards are added in order. Their number
# follows from the sizes alone: the same bits for any number of threads.

cdef extern from "vec.h" nogil:
    enum: KEPT_ROWS
    enum: TAP_SUMS


cdef enum:
    UNIT_VALUES = 4096          # of an image, in neighbouring channels, that a unit reads at once


cdef struct Dot "convlayers_dot":
    const real* x               # first row of the copy
    const real* dy
    Py_ssize_t rows
    Py_ssize_t spread           # rows of the copy between neighbouring taps of a column
    Py_ssize_t pitch            # from row to row of the copy
    Py_ssize_t line             # and of dy
    Py_ssize_t vectors
    const Py_ssize_t* src_at    # where they begin in a row of the copy
    const Py_ssize_t* dst_at    # and of dy
    const real* keep            # 1 for the lanes that count
    const Column* columns
    Py_ssize_t parts            # of so many columns each
    Py_ssize_t tap              # from one tap of a column to the next in the filter
    real* sums                  # [tap][lane]
    const real* ahead[2]        # what the next unit reads of x and dy, asked for by and by,
    Py_ssize_t portion[2]       # so many values at a time


cdef inline void dot_column "convlayers_dot_column"(
    int i, int rows, int taps, const real* x, vmask keep, const vf* dy, vf* acc
) noexcept nogil:
    """Row i of the copy, under one kernel column, with all the rows of dy that read it."""
    cdef vf v = vselect(keep, load(x), splat(0))
    cdef int r
    for r in range(taps):
        if 0 <= i - r < rows:
            acc[r] = acc[r] + v * dy[i - r]


cdef inline void dot_feed "convlayers_dot_feed"(
    int i, int rows, int taps, int cols, const real* x, const Column* columns, vmask keep, const vf* dy, vf* acc
) noexcept nogil:
    if i < rows + taps - 1:
        dot_column(i, rows, taps, x + columns[0].place, keep, dy, acc)
        if cols > 1:
            dot_column(i, rows, taps, x + columns[1].place, keep, dy, acc + taps)
        if cols > 2:
            dot_column(i, rows, taps, x + columns[2].place, keep, dy, acc + 2 * taps)


cdef inline void dot_rows "convlayers_dot_rows"(
    int rows, int taps, int cols, const real* x, Py_ssize_t row, const Column* columns, const real* gradient, Py_ssize_t line,
    vmask keep, vf* acc
) noexcept nogil:
    """`rows` rows of one vector of dy with all that they read under `cols` kernel columns."""
    cdef vf dy[KEPT_ROWS]
    cdef int b
    for b in range(rows):
        dy[b] = vselect(keep, load(gradient + b * line), splat(0))
    dot_feed(0, rows, taps, cols, x, columns, keep, dy, acc)
    dot_feed(1, rows, taps, cols, x + row, columns, keep, dy, acc)
    dot_feed(2, rows, taps, cols, x + 2 * row, columns, keep, dy, acc)
    dot_feed(3, rows, taps, cols, x + 3 * row, columns, keep, dy, acc)
    dot_feed(4, rows, taps, cols, x + 4 * row, columns, keep, dy, acc)
    dot_feed(5, rows, taps, cols, x + 5 * row, columns, keep, dy, acc)
    dot_feed(6, rows, taps, cols, x + 6 * row, columns, keep, dy, acc)
    dot_feed(7, rows, taps, cols, x + 7 * row, columns, keep, dy, acc)
    dot_feed(8, rows, taps, cols, x + 8 * row, columns, keep, dy, acc)
    dot_feed(9, rows, taps, cols, x + 9 * row, columns, keep, dy, acc)


cdef void ask_next(Dot* d) noexcept nogil:
    cdef int i
    for i in range(2):
        prefetch(d.ahead[i], d.portion[i] * <Py_ssize_t> sizeof(real), False)
        d.ahead[i] += d.portion[i]


cdef inline void dot_body "convlayers_dot_body"(int taps, int cols, Dot* d) noexcept nogil:
    """Add to the sums of each part of the columns, over all rows and vectors; constants keep acc in registers."""
    cdef vf acc[3 * COLUMN_TAPS]
    cdef const real* x
    cdef const real* dy
    cdef real* sums[3]
    cdef const Column* columns
    cdef Py_ssize_t part, v, start, n, row = d.spread * d.pitch, line = d.spread * d.line
    cdef vmask keep
    cdef int r
    for part in range(d.parts):
        columns = d.columns + part * cols
        for r in range(cols):
            sums[r] = d.sums + columns[r].weight * VL
        if VL == 1:  # nothing is inlined there, and the compiler does not see which of them are in use
            for r in range(3 * COLUMN_TAPS):
                acc[r] = splat(0)
        for r in range(taps):
            acc[r] = load(sums[0] + r * d.tap * VL)
            if cols > 1:
                acc[taps + r] = load(sums[1] + r * d.tap * VL)
            if cols > 2:
                acc[2 * taps + r] = load(sums[2] + r * d.tap * VL)
        for start in range(min(d.spread, d.rows)):
            x = d.x + start * d.pitch
            dy = d.dy + start * d.line
            n = (d.rows - start + d.spread - 1) // d.spread
            while n >= KEPT_ROWS:
                if part == 0:
                    ask_next(d)
                for v in range(d.vectors):
                    keep = vless(splat(0), load(d.keep + v * VL))
                    dot_rows(KEPT_ROWS, taps, cols, x + d.src_at[v], row, columns, dy + d.dst_at[v], line, keep, acc)
                x += KEPT_ROWS * row
                dy += KEPT_ROWS * line
                n -= KEPT_ROWS
            while n:
                for v in range(d.vectors):
                    keep = vless(splat(0), load(d.keep + v * VL))
                    dot_rows(1, taps, cols, x + d.src_at[v], row, columns, dy + d.dst_at[v], line, keep, acc)
                x += row
                dy += line
                n -= 1
        for r in range(taps):
            store(sums[0] + r * d.tap * VL, acc[r])
            if cols > 1:
                store(sums[1] + r * d.tap * VL, acc[taps + r])
            if cols > 2:
                store(sums[2] + r * d.tap * VL, acc[2 * taps + r])


cdef inline void dot_columns "convlayers_dot_columns"(int taps, int cols, Dot* d) noexcept nogil:
    if cols == 1:
        dot_body(taps, 1, d)
    elif 2 * taps <= TAP_SUMS and cols == 2:
        dot_body(taps, 2, d)
    elif 3 * taps <= TAP_SUMS:
        dot_body(taps, 3, d)


cdef void run_dot(int taps, int cols, Dot* d) noexcept nogil:
    if taps == 1:
        dot_columns(1, cols, d)
    elif taps == 2:
        dot_columns(2, cols, d)
    elif taps == 3:
        dot_columns(3, cols, d)
    elif taps == 4:
        dot_columns(4, cols, d)
    elif taps == 5:
        dot_columns(5, cols, d)
    elif taps == 6:
        dot_columns(6, cols, d)
    else:
        dot_columns(7, cols, d)


cdef void dot_all(int taps, const Column* columns, Py_ssize_t count, Dot* d) noexcept nogil:
    """Columns of as many taps, in parts as even as can be: a few of `most` columns, the others of one less."""
    cdef Py_ssize_t most = min(3, max(1, TAP_SUMS // taps)), parts = (count + most - 1) // most
    most = (count + parts - 1) // parts
    d.columns = columns
    d.parts = count - parts * (most - 1)
    run_dot(taps, <int> most, d)
    d.columns += d.parts * most
    d.parts = parts - d.parts
    if d.parts:
        run_dot(taps, <int> most - 1, d)


cdef void fill_keep(Depthwise* g, real* keep) noexcept nogil:
    """Which lanes of each vector are outputs that no vector before it holds."""
    cdef Py_ssize_t n, v, j, at
    if SHORT_ROWS and g.layout == SHORT:
        fill_rows(g, False)
    elif g.layout == ACROSS:
        for j in range(g.pitch):
            keep[j] = 1
    elif g.layout == IN_PLACE:
        for n in range(g.side):
            for v in range(g.vectors):
                at = min(v * VL, g.cols.target - VL)
                for j in range(VL):
                    keep[(n * g.vectors + v) * VL + j] = at + j >= v * VL
    else:
        for j in range(g.pitch):
            keep[j] = j % g.cell < g.cols.target and j < g.side * g.cell


cdef void copy_gradient(Depthwise* g, const real* dy, const real* end, Py_ssize_t images, Py_ssize_t rows,
                        real* dst) noexcept nogil:
    """Rows of one filter's gradients, side by side in lines as the images are in the copy of x; others are zero."""
    cdef Py_ssize_t n, i, q = g.cols.target, span = vectors_over(q) * VL
    cdef Copy c
    c.row, c.vectors, c.pitch, c.odd = q, span // VL, g.pitch, NULL
    c.even_rest = c.odd_rest = vless(load(g.lanes), splat(q - span + VL))
    for n in range(images):
        c.lines = max(0, min(rows, floor_div(end - dy - span, q) + 1))
        c.src, c.even = dy, dst + n * g.cell
        copy_vectors(1, &c)
        for i in range(c.lines, rows):
            memcpy(dst + n * g.cell + i * g.pitch, dy + i * q, q * sizeof(real))
        dy += g.dst.image
    zero_lines(dst + images * g.cell, 1, 0, rows, g.pitch, (g.side - images) * g.cell)


cdef struct DepthwiseWeight:
    Depthwise g                 # with dy for its destination
    const real* dy_end
    Py_ssize_t taps
    Py_ssize_t shards
    real* keep
    Py_ssize_t together         # channels of a unit
    real* results               # [shard][filter][tap, and one for the sum of dy]
    Py_ssize_t sums_place       # in a thread's workspace: [filter of a unit][tap, and one][lane]


cdef void look_ahead(DepthwiseWeight* d, Py_ssize_t channel, Py_ssize_t next, Dot* dot) noexcept nogil:
    """What image `next` has for the unit behind this one, in portions for this one's steps.

    Planes of a channel lie far apart: 1.1 to 1.2 times with 28 x 28 and 32 x 32 (Emerald Rapids). Rows that follow each other
    are foreseen by the processor; with several images a unit, and with strides, 0.9 to 1.0.
    """
    cdef Depthwise* g = &d.g
    cdef Py_ssize_t steps = max(1, dot.rows // KEPT_ROWS)
    dot.portion[0] = dot.portion[1] = 0
    if g.layout == IN_PLACE and g.side == 1 and g.blocks == 1 and g.rows.axis.step == 1 and next < g.images:
        dot.ahead[0], dot.ahead[1] = plane(&g.src, next, channel), plane(&g.dst, next, channel)
        dot.portion[0] = g.rows.source * g.cols.source // steps
        dot.portion[1] = g.rows.target * g.cols.target // steps


cdef void add_images(DepthwiseWeight* d, Py_ssize_t channel, Py_ssize_t index, real* copy, real* out,
                     real* sums) noexcept nogil:
    """One block of rows of one channel, for the images of one line."""
    cdef Depthwise* g = &d.g
    cdef Py_ssize_t u0 = index % g.blocks * g.block, first = index // g.blocks * g.side, area = g.rows.target * g.cols.target
    cdef Py_ssize_t rows = min(g.block, g.rows.longest - u0), images = min(g.side, g.images - first), f, n, b
    cdef const real* dy
    cdef Bundle* bundle
    cdef Dot dot
    copy_source(g, plane(&g.src, first, channel), images, u0, copy)
    dot.x, dot.rows, dot.spread, dot.pitch, dot.line, dot.tap = copy, rows, g.rows.spread, g.pitch, g.line, g.tap
    dot.vectors = vectors_in_line(g, images)
    dot.src_at, dot.dst_at, dot.keep = g.src_at, g.dst_at, d.keep
    look_ahead(d, channel, first + g.side, &dot)
    for f in range(g.filters):
        dy = plane(&g.dst, first, channel) + f * area + u0 * g.cols.target
        dot.sums = sums + f * d.taps * VL
        # First, and in order: what follows reads several rows at a time, which was 3 times as slow on data out of the cache.
        for n in range(images):
            prefetch(dy + n * g.dst.image, rows * g.cols.target * <Py_ssize_t> sizeof(real), False)
        if g.layout == LINES:
            copy_gradient(g, dy, d.dy_end, images, rows, out)
        elif g.layout == ACROSS:
            copy_across(dy, g.dst.image, images, area, g.out_at, out)
        dot.dy = dy if g.layout == IN_PLACE else out
        for b in range(g.grids[0].bundles):
            bundle = g.bundles + b
            dot_all(bundle.taps, g.columns + bundle.first, bundle.count, &dot)
            dot.portion[0] = dot.portion[1] = 0
            if bundle.less:
                dot_all(bundle.taps - 1, g.columns + bundle.first + bundle.count, bundle.less, &dot)


cdef void add_shard(DepthwiseWeight* d, Py_ssize_t shard, Py_ssize_t begin, Py_ssize_t end, char* workspace) noexcept nogil:
    """One shard of channels begin .. end, image by image, since the processor foresees what it reads while that is in one
    piece."""
    cdef Depthwise* g = &d.g
    cdef Py_ssize_t all = g.sides * g.blocks, size = g.filters * d.taps, u, c, k, last = (shard + 1) * all // d.shards, count
    cdef real* result = d.results + (shard * g.channels + begin) * size
    cdef real* sums = <real*> (workspace + d.sums_place)
    memset(sums, 0, (end - begin) * size * VL * sizeof(real))
    u = shard * all // d.shards
    while u < last:
        if in_series(g):
            count = min(last - u, series_images(g))
            add_series(g, u, count, begin, end, sums)
            u += count
            continue
        for c in range(begin, end):
            add_images(d, c, u, copy_start(g, workspace), <real*> (workspace + g.copy_bytes), sums + (c - begin) * size * VL)
        u += 1
    for k in range((end - begin) * size):
        result[k] = sum_lanes(sums + k * VL)


cdef void add_results(DepthwiseWeight* d, real* dw) noexcept nogil:
    """Adds the sums of the shards, in order."""
    cdef Py_ssize_t size = d.g.channels * d.g.filters * d.taps, shard, j
    cdef real total
    for j in range(size):
        total = 0
        for shard in range(d.shards):
            total += d.results[shard * size + j]
        dw[j] += total


cdef size_t depthwise_weight_memory(DepthwiseWeight* d, size_t cursor) noexcept nogil:
    cdef Depthwise* g = &d.g
    cursor = depthwise_memory(g, cursor)
    d.keep = <real*> take(&cursor, max(g.side * g.vectors * VL, g.pitch) * sizeof(real))
    d.results = <real*> take(&cursor, d.shards * g.channels * g.filters * d.taps * sizeof(real))
    d.sums_place = g.workspace_bytes
    g.workspace_bytes += row_bytes(d.together * g.filters * d.taps * VL)
    return cursor


cdef void set_shards(DepthwiseWeight* d) noexcept nogil:
    cdef Depthwise* g = &d.g
    cdef Py_ssize_t parts
    d.taps = g.rows.kernel * g.cols.kernel
    d.dy_end = g.dst.start + g.images * g.dst.image
    d.together = max(1, min(g.channels, UNIT_VALUES // (g.rows.source * g.cols.source)))
    parts = (g.channels + d.together - 1) // d.together
    d.shards = min(g.sides * g.blocks, (MOST_SHARDS + parts - 1) // parts)


def depthwise_backward_weight(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x, real[:, :, :, ::1] dw, tuple geometry, int threads, /
):
    """Fill dw with the gradient with respect to the filters."""
    cdef DepthwiseWeight d
    cdef Shares shares
    cdef Units units
    cdef Depthwise* g = &d.g
    cdef Py_ssize_t unit, c, parts
    span_memory(g, dw, scratch(span_memory(g, dw, 0), 1))
    set_sides(g, x, dw, dy, False)
    set_geometry(g, geometry, True, False)
    set_shards(&d)
    parts = (g.channels + d.together - 1) // d.together
    share_out(&shares, d.shards * parts, threads)
    depthwise_weight_memory(&d, scratch(depthwise_weight_memory(&d, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    with nogil:
        fill_depthwise(g)
        fill_keep(g, d.keep)
        with parallel(num_threads=threads):
            memset(g.workspace + threadid() * g.workspace_bytes, 0, g.copy_bytes)
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    c = unit % parts * d.together
                    add_shard(&d, unit // parts, c, min(g.channels, c + d.together),
                              g.workspace + threadid() * g.workspace_bytes)
                units = next_units(&shares, threadid())
        memset(&dw[0, 0, 0, 0], 0, g.channels * g.filters * d.taps * sizeof(real))
        add_results(&d, &dw[0, 0, 0, 0])
