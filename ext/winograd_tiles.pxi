# Tiles of a Winograd convolution, going in (see winograd.pxi).
#
# A line of tiles of one channel is transformed down its columns first, by vectors of neighbouring columns, and put between its
# margins; then the tiles of a vector across. Tiles share columns, which are transformed once, and nothing else is kept in
# between: 1.0 to 1.2 times as fast as copying rows with their margins and transforming tile by tile (Emerald Rapids).

cdef inline void tile_input "convlayers_tile_input"(int size, int reach, const vf* d, int odd, vf* v, int vs) noexcept nogil:
    """One axis of a tile: `reach` inputs to `size` values."""
    if size == 1:
        v[0] = d[0]
    elif size == ALONG:
        line_input(d, v)
    elif reach == 9:
        strided_input(d, 1, v, vs)
    elif reach == 5:
        spread_input(d, 1, odd, v, vs)
    elif reach < size:
        winograd_filter(6, reach, d, 1, v, vs)
    else:
        winograd_input(size, d, 1, v, vs)


cdef inline void columns_down "convlayers_columns_down"(
    int size, int reach, int odd, const real** rows, Py_ssize_t count, real* dst, Py_ssize_t pitch
) noexcept nogil:
    """`reach` rows to `size` rows of values, column by column; zeros behind the last one."""
    cdef vf d[9]
    cdef vf v[9]
    cdef Py_ssize_t j = 0
    cdef int i
    while j < count:
        for i in range(reach):
            d[i] = load(rows[i] + j)
        if j + VL > count:
            for i in range(reach):
                d[i] = vreal(vbits(d[i]) & first_lanes(count - j))
        tile_input(size, reach, d, odd, v, 1)
        for i in range(size):
            store(dst + i * pitch + j, v[i])
        j += VL


cdef inline void columns_apart "convlayers_columns_apart"(
    int size, int reach, const real** rows, Py_ssize_t count, real* dst, Py_ssize_t column, Py_ssize_t pitch
) noexcept nogil:
    """The same from place `column` of a row on, places of even and of odd number half a `pitch` apart: what tiles two columns
    apart have at one place lies in a row then."""
    cdef vf d[6]
    cdef vf v[6]
    cdef vf none = splat(0)
    cdef Py_ssize_t half = pitch // 2, j = 0
    cdef real* first = dst + column % 2 * half + column // 2
    cdef real* second = dst + column // 2 + (1 if column % 2 else half)
    cdef real* single
    cdef int i
    while j < count:
        for i in range(reach):
            d[i] = load(rows[i] + j)
        if j + VL > count:
            for i in range(reach):
                d[i] = vreal(vbits(d[i]) & first_lanes(count - j))
        tile_input(size, reach, d, 0, v, 1)
        single = first if j % 2 == 0 else second
        for i in range(size):
            if VL == 1:
                single[i * pitch + j // 2] = (<real*> &v[i])[0]
                continue
            store(first + i * pitch, vevens(v[i], none))
            store(second + i * pitch, vodds(v[i], none))
        first += VL // 2
        second += VL // 2
        j += VL


cdef void line_down(Winograd* g, const real* src, const Line* line, bint ask, real* dst, Workspace* space) noexcept nogil:
    """One line of tiles of one channel, transformed down its columns; `ask` for the same line of the next channel."""
    cdef const real* rows[MOST_READ]
    cdef const real* at = src + line.start
    cdef Py_ssize_t span = vectors_over(line.count) * VL
    cdef int i
    for i in range(g.reach_down):
        if ask and i >= line.known:
            prefetch(at + g.height * g.width, line.count * <Py_ssize_t> sizeof(real), False)
        rows[i] = at
        if not 0 <= line.top + i < g.height:
            rows[i] = space.spare
        elif at + span > g.src_end:
            rows[i] = space.spare + (i + 1) * g.span
            copy_run(at, g.src_end, 1, <real*> rows[i], line.count)
        at += g.width
    if g.flat:
        flat_down(g, rows, line.count, dst + line.column)
    elif g.reach == 9:
        columns_down(9, 9, 0, rows, line.count, dst + line.column, g.pitch)
    elif g.reach == 5:
        columns_down(9, 5, g.odd[0], rows, line.count, dst + line.column, g.pitch)
    elif g.pace == 4 and g.overlaps:
        columns_down(6, 4, 0, rows, line.count, dst + line.column, g.pitch)
    elif g.pace == 4:
        columns_down(6, 6, 0, rows, line.count, dst + line.column, g.pitch)
    elif g.size == 4:
        columns_apart(4, 4, rows, line.count, dst, line.column, g.pitch)
    elif g.overlaps:
        columns_apart(6, 2, rows, line.count, dst, line.column, g.pitch)
    else:
        columns_apart(6, 6, rows, line.count, dst, line.column, g.pitch)


cdef bint is_joined(const Py_ssize_t* place) noexcept nogil:
    """Whether each quarter of a vector's tiles lies in one piece: with tiles 4 inputs apart, neighbours in one line."""
    cdef Py_ssize_t t
    for t in range(1, VL):
        if t % max(1, VL // 4) != 0 and place[t] != place[t - 1] + 4:
            return False
    return VL >= 4


cdef inline bint divides_evenly(Winograd* g) noexcept nogil:
    """Whether tiles of 4 x 4 outputs or more leave none over."""
    return g.m >= 4 and not g.flat and g.p == g.m * g.lines and g.q == g.m * g.across


cdef void place_one_tile(Winograd* g) noexcept nogil:
    """Whether images of 4 x 4 outputs are copied by transposition, and where the values of their tile lie then.

    Row by row, 16 to 32 channels took 1.3 to 1.9 times as long (Emerald Rapids, AVX-512).
    """
    cdef Py_ssize_t area = g.height * g.width, i, j, h, w
    g.one_tile = VL >= 4 and g.size == 6 and not g.overlaps and g.lines * g.across == 1 and divides_evenly(g) and area % VL == 0
    for i in range(6):
        for j in range(6):
            h, w = i - g.top, j - g.left
            g.pixel[i * 6 + j] = (h * g.width + w if 0 <= h < g.height and 0 <= w < g.width else area) * VL


cdef void copy_one_tile(Winograd* g, const real* src, Py_ssize_t first, real* dst) noexcept nogil:
    """One channel of VL images: [pixel][image], in load_fours' order of lanes, and zeros, the last image repeated."""
    cdef Py_ssize_t area = g.height * g.width, k = 0
    cdef vf v[VL]
    cdef int i
    while k < area:
        for i in range(VL):
            v[i] = load(src + min(first + i % 4 * (VL // 4) + i // 4, g.images - 1) * g.image + k)
        transpose_square(v)
        for i in range(VL):
            store(dst + (k + i) * VL, v[i])
        k += VL
    store(dst + area * VL, splat(0))


cdef void place_runs(Winograd* g, Py_ssize_t tiles, Workspace* space) noexcept nogil:
    """Of each vector of tiles one or two apart, what lies in a line of them; lanes behind the last tile belong to its line."""
    cdef Py_ssize_t t, v = 0, k
    for t in range(tiles):
        if t % VL > 0 and space.place[t] == space.place[t - 1] + 1:
            continue
        if t % VL == 0:
            v = t // VL
            space.runs[v] = 0
        k = v * VL + space.runs[v]
        space.starts[k] = space.place[t] - t % VL
        space.before[k] = first_lanes(t % VL)
        space.runs[v] += 1


cdef inline Py_ssize_t first_read(Winograd* g, Py_ssize_t j) noexcept nogil:
    """The first column of an image that a line reads from tile j on: whole vectors before it are left out."""
    cdef Py_ssize_t skipped = max(0, -g.left)
    return max(0, j * g.pace - g.left - skipped) // VL * VL + skipped


cdef inline Py_ssize_t first_kept(Winograd* g, Py_ssize_t j) noexcept nogil:
    """And its place in the row: what is kept of long ones begins there. A block has one or two of those then, each in its place
    alone, so that margins stay zeros."""
    return first_read(g, j) + g.left if g.flat and g.across >= g.block and first_read(g, j) > max(0, -g.left) else 0


cdef void place_lines(Winograd* g, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """What each line of a block reads of a channel and writes of a filter: whole rows but for the first line and the last."""
    cdef Py_ssize_t first = t0 // g.across, last = (t1 - 1) // g.across, n = first // g.lines, inside = first % g.lines
    cdef Py_ssize_t number, j0, j1, begin
    cdef Line* line = space.lines
    for number in range(first, last + 1):
        j0 = t0 % g.across if number == first else 0
        j1 = (t1 - 1) % g.across + 1 if number == last else g.across
        begin = first_read(g, j0)
        line.count = max(0, min(g.width, (j1 - 1) * g.pace + g.reach - g.left) - begin)
        line.column = begin + g.left - first_kept(g, j0)
        line.top = inside * g.pace_down - g.top
        line.start = n * g.image + line.top * g.width + begin
        line.known = g.reach_down - g.pace_down if inside > 0 and number > first else 0
        line.target = n * image_stride + inside * g.side_down * g.over + j0 * g.side
        line.rows = min(g.side_down, g.down - inside * g.side_down)
        line.width = min(g.over, j1 * g.side) - j0 * g.side
        if line.width == g.over:
            line.rows, line.width = 1, line.rows * g.over
        line += 1
        inside += 1
        if inside == g.lines:
            inside = 0
            n += 1


cdef void place_block(Winograd* g, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """Where each tile of a block begins among the transformed lines and in dst; those behind the last are where that one is."""
    cdef Py_ssize_t line = t0 // g.across, j = t0 % g.across, inside = line % g.lines, n = line // g.lines, number = 0, t, v
    cdef Py_ssize_t kept = first_kept(g, j)
    for t in range(vectors_over(t1 - t0) * VL):
        space.place[t] = number % g.held * g.made * g.pitch + j * (1 if g.pace == 2 else g.pace) - kept
        space.target[t] = n * image_stride + inside * g.side_down * g.over + j * g.side
        space.last[t // VL] = number
        if t >= t1 - t0 - 1:
            continue
        j += 1
        if j == g.across:
            j, kept = 0, 0
            number += 1
            inside += 1
        if inside == g.lines:
            inside = 0
            n += 1
    for v in range(vectors_over(t1 - t0)):
        space.joined[v] = g.pace == 4 and is_joined(space.place + v * VL)
    if g.pace <= 2:
        place_runs(g, t1 - t0, space)
    place_lines(g, image_stride, t0, t1, space)


cdef inline void tiles_across "convlayers_tiles_across"(
    int size, int reach, int odd, const real* lines, Py_ssize_t pitch, const Py_ssize_t* place, bint joined, real* dst,
    Py_ssize_t ldv
) noexcept nogil:
    """VL tiles of lines that are transformed down, transformed across: size^2 vectors, `ldv` values apart."""
    cdef vf d[12]
    cdef vf v[9]
    cdef int i, j
    for i in range(size):
        for j in range((reach + 3) // 4):
            load_fours(lines + i * pitch + 4 * j, place, joined, d + 4 * j)
        tile_input(size, reach, d, odd, v, 1)
        for j in range(size):
            store(dst + (i * size + j) * ldv, v[j])


cdef inline void tiles_apart "convlayers_tiles_apart"(
    int size, int reach, const real* lines, Py_ssize_t pitch, const Py_ssize_t* starts, const vmask* before, Py_ssize_t runs,
    real* dst, Py_ssize_t ldv
) noexcept nogil:
    """The same for tiles two columns apart, line by line of those that a vector's tiles lie in."""
    cdef vf d[6]
    cdef vf v[6]
    cdef Py_ssize_t run
    cdef int i, j
    for i in range(size):
        for j in range(reach):
            d[j] = load(lines + starts[0] + j % 2 * (pitch // 2) + j // 2)
        for run in range(1, runs):
            for j in range(reach):
                d[j] = vselect(before[run], d[j], load(lines + starts[run] + j % 2 * (pitch // 2) + j // 2))
        tile_input(size, reach, d, 0, v, 1)
        for j in range(size):
            store(dst + (i * size + j) * ldv, v[j])
        lines += pitch


cdef void transform_vector_across(Winograd* g, Py_ssize_t v, real* dst, Workspace* space) noexcept nogil:
    """Tiles v * VL .. v * VL + VL - 1 of a block."""
    cdef const Py_ssize_t* place = space.place + v * VL
    if g.reach == 9:
        tiles_across(9, 9, 0, space.copy, g.pitch, place, False, dst, g.values_in)
    elif g.reach == 5:
        tiles_across(9, 5, g.odd[1], space.copy, g.pitch, place, space.joined[v], dst, g.values_in)
    elif g.pace == 2 and g.size == 4:
        tiles_apart(4, 4, space.copy, g.pitch, space.starts + v * VL, space.before + v * VL, space.runs[v], dst, g.values_in)
    elif g.pace == 2 and g.overlaps:
        tiles_apart(6, 2, space.copy, g.pitch, space.starts + v * VL, space.before + v * VL, space.runs[v], dst, g.values_in)
    elif g.pace == 2:
        tiles_apart(6, 6, space.copy, g.pitch, space.starts + v * VL, space.before + v * VL, space.runs[v], dst, g.values_in)
    elif g.overlaps:
        tiles_across(6, 4, 0, space.copy, g.pitch, place, False, dst, g.values_in)
    elif space.joined[v]:
        tiles_across(6, 6, 0, space.copy, g.pitch, place, True, dst, g.values_in)
    else:
        tiles_across(6, 6, 0, space.copy, g.pitch, place, False, dst, g.values_in)


cdef void transform_block(Winograd* g, const real* src, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """The tiles t0 .. t1 of all channels of one group, V = B^T d B: [value][panel][channel][PANEL]."""
    cdef Py_ssize_t c, v, number, vectors = vectors_over(t1 - t0), values = g.made * g.pitch
    zero_run(space.spare, g.span)
    # What lies beside the images is never written.
    memset(space.copy, 0, g.held * values * sizeof(real))
    for c in range(g.channels):
        number = 0
        for v in range(vectors):
            while number <= space.last[v]:
                line_down(g, src, space.lines + number, c + 1 < g.channels, space.copy + number % g.held * values, space)
                number += 1
            if g.flat:
                transform_flat(g, v, space.inputs + (v // 2 * g.channels + c) * g.parts * PANEL + v % 2 * VL, space)
            else:
                transform_vector_across(g, v, space.inputs + (v // 2 * g.channels + c) * PANEL + v % 2 * VL, space)
        src += g.height * g.width


cdef void image_tiles(const real* copy, const Py_ssize_t* pixel, real* dst, Py_ssize_t ldv) noexcept nogil:
    """VL tiles that are images: 36 vectors, `ldv` values apart."""
    cdef vf d[6]
    cdef vf half[36]
    cdef vf v[6]
    cdef int i, j
    for j in range(6):
        for i in range(6):
            d[i] = load(copy + pixel[i * 6 + j])
        winograd_input(6, d, 1, half + j, 6)
    for i in range(6):
        winograd_input(6, half + 6 * i, 1, v, 1)
        for j in range(6):
            store(dst + (i * 6 + j) * ldv, v[j])


cdef void transform_images(Winograd* g, const real* src, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """The same where each tile is an image."""
    cdef Py_ssize_t c, v
    for c in range(g.channels):
        for v in range(vectors_over(t1 - t0)):
            copy_one_tile(g, src + c * g.height * g.width, t0 + v * VL, space.copy)
            image_tiles(space.copy, g.pixel, space.inputs + (v // 2 * g.channels + c) * PANEL + v % 2 * VL, g.values_in)
