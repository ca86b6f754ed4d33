# Kernels of one row or one column by Winograd's minimal filtering along it, F(m, r) with m + r = 9 (see winograd.pxi).
#
#     y = A^T [ sum_cb (G g_mcb) o (B^T d_c,b r) ]      for each tile of m outputs
#
# g_mcb are taps b r .. b r + r - 1 of a kernel, zeros behind its last one, and d_cj the eight inputs from the tile's place + j
# on: 8 products a part stand for m r. A tile is of one row or of one column, and a part of the taps is a channel more; what
# transforms such tiles stands in this file, and the rest is shared with those of images.
#
# The points are 0, +-1, +-1/2, +-2 and infinity: of 70 choices tried, none erred a tenth less. B^T depends on them alone: one
# transform serves F(7, 2) to F(4, 5), and the weight gradient, F(2, 7) to F(5, 4).

cdef enum:
    ALONG = 8                   # values of a transformed tile
    MOST_PARTS = 16             # of the taps of a kernel
    MOST_READ = ALONG + 5 * (MOST_PARTS - 1)


cdef inline void line_input "convlayers_line_input"(const vf* d, vf* v) noexcept nogil:
    """v = B^T d."""
    cdef vf even = d[2] - splat(4.25) * d[4] + d[6], odd = d[1] - splat(4.25) * d[3] + d[5]
    v[0] = d[0] - d[6] + splat(5.25) * (d[4] - d[2])
    v[1], v[2] = even + odd, even - odd
    even = d[6] - splat(5) * d[4] + splat(4) * d[2]
    odd = splat(0.5) * d[5] - splat(2.5) * d[3] + splat(2) * d[1]
    v[3], v[4] = even + odd, even - odd
    even = d[6] - splat(1.25) * d[4] + splat(0.25) * d[2]
    odd = splat(2) * d[5] - splat(2.5) * d[3] + splat(0.5) * d[1]
    v[5], v[6] = even + odd, even - odd
    v[7] = d[7] - d[1] + splat(5.25) * (d[3] - d[5])


cdef inline vf every_second "convlayers_every_second"(int first, int taps, const vf* g, real square) noexcept nogil:
    """The taps `first`, first + 2, ... times powers of the square of a point, added up by Horner's rule."""
    cdef int k = first + (taps - 1 - first) // 2 * 2
    cdef vf total = g[k]
    while k > first:
        k -= 2
        total = g[k] + splat(square) * total
    return total


cdef inline void line_filter "convlayers_line_filter"(int taps, const vf* g, vf* u) noexcept nogil:
    """u = G g, of 2 to 7 taps."""
    cdef vf even = splat(-2.0 / 9) * every_second(0, taps, g, 1), odd = splat(-2.0 / 9) * every_second(1, taps, g, 1)
    u[0] = g[0]
    u[1], u[2] = even + odd, even - odd
    even, odd = splat(32.0 / 45) * every_second(0, taps, g, 0.25), splat(16.0 / 45) * every_second(1, taps, g, 0.25)
    u[3], u[4] = even + odd, even - odd
    even, odd = splat(1.0 / 90) * every_second(0, taps, g, 4), splat(1.0 / 45) * every_second(1, taps, g, 4)
    u[5], u[6] = even + odd, even - odd
    u[7] = g[taps - 1]


cdef inline void line_output "convlayers_line_output"(int outputs, const vf* v, vf* y) noexcept nogil:
    """y = A^T v, 2 to 7 outputs."""
    cdef vf parts[2][3]
    cdef real low = 1, high = 1
    cdef int i
    for i in range(3):
        parts[0][i], parts[1][i] = v[2 * i + 1] + v[2 * i + 2], v[2 * i + 1] - v[2 * i + 2]
    for i in range(outputs):
        y[i] = parts[i % 2][0] + splat(low) * parts[i % 2][1] + splat(high) * parts[i % 2][2]
        low, high = low * 0.5, high * 2
    y[0] = y[0] + v[0]
    y[outputs - 1] = y[outputs - 1] + v[7]


cdef void tiles_along(
    const real* line, const Py_ssize_t* place, bint joined, real* dst, Py_ssize_t ldv
) noexcept nogil:
    """VL tiles, transformed: ALONG vectors, `ldv` values apart."""
    cdef vf d[ALONG]
    cdef vf v[ALONG]
    cdef int i
    for i in range(2):
        if joined:
            load_fours(line + 4 * i, place, True, d + 4 * i)
        else:
            load_fours(line + 4 * i, place, False, d + 4 * i)
    line_input(d, v)
    for i in range(ALONG):
        store(dst + i * ldv, v[i])


cdef void flat_down "convlayers_flat_down"(Winograd* g, const real** rows, Py_ssize_t count, real* dst) noexcept nogil:
    """A row as it is, or, of tiles that are columns, ALONG rows of each part of the taps, transformed; then zeros."""
    cdef int part
    if not g.upright:
        columns_down(1, 1, 0, rows, count, dst, g.pitch)
        return
    for part in range(g.parts):
        columns_down(ALONG, ALONG, 0, rows + part * g.taps, count, dst, g.pitch)
        dst += ALONG * g.pitch


cdef void tiles_upright(
    Winograd* g, const real* lines, const Py_ssize_t* starts, const vmask* before, Py_ssize_t runs, real* dst
) noexcept nogil:
    """What they are made of for VL tiles, line by line of those that they lie in."""
    cdef Py_ssize_t run
    cdef vf v
    cdef int part, i
    for part in range(g.parts):
        for i in range(ALONG):
            v = load(lines + starts[0])
            for run in range(1, runs):
                v = vselect(before[run], v, load(lines + starts[run]))
            store(dst + part * PANEL + i * g.values_in, v)
            lines += g.pitch


cdef void transform_flat "convlayers_transform_flat"(Winograd* g, Py_ssize_t v, real* dst, Workspace* space) noexcept nogil:
    """Tiles v * VL .. v * VL + VL - 1 of a block."""
    cdef int part
    if g.upright:
        tiles_upright(g, space.copy, space.starts + v * VL, space.before + v * VL, space.runs[v], dst)
        return
    for part in range(g.parts):
        tiles_along(space.copy + part * g.taps, space.place + v * VL, space.joined[v], dst + part * PANEL, g.values_in)


cdef void filters_along "convlayers_filters_along"(
    Winograd* g, const real* taps, Py_ssize_t tap_stride, int part, real* dst
) noexcept nogil:
    """U = G g for one part of VL filters, whose taps are vectors `tap_stride` apart; zeros behind the last one."""
    cdef vf w[ALONG]
    cdef vf u[ALONG]
    cdef int first = part * g.taps, i
    for i in range(g.taps):
        w[i] = splat(0)
        if first + i < g.row_taps:
            w[i] = load(taps + (g.row_taps - 1 - first - i if g.flipped else first + i) * tap_stride)
    line_filter(g.taps, w, u)
    for i in range(ALONG):
        store(dst + i * g.filter_values, u[i])


cdef inline void outputs_of_line "convlayers_outputs_of_line"(
    int m, const real* products, Py_ssize_t ldv, vf scale, vf bias, real ceiling, real* dst, const Py_ssize_t* place
) noexcept nogil:
    """A^T of VL tiles of m outputs, 4 to 7, finished: a row in which tile follows tile."""
    cdef vf v[ALONG]
    cdef vf y[ALONG]
    cdef int i
    for i in range(ALONG):
        v[i] = load(products + i * ldv)
    line_output(m, v, y)
    for i in range(m):
        y[i] = finished(y[i], scale, bias, ceiling)
    store_fours(dst, place, m == 4, y)
    if m > 4:
        store_fours(dst + m - 4, place, False, y + m - 4)


cdef void outputs_upright(Winograd* g, const real* products, vf scale, vf bias, real* dst) noexcept nogil:
    """The same of tiles that are columns: m rows, in each of which tile follows tile."""
    cdef vf v[ALONG]
    cdef vf y[ALONG]
    cdef int i
    for i in range(ALONG):
        v[i] = load(products + i * g.values_out)
    line_output(g.m, v, y)
    for i in range(g.m):
        store(dst + i * g.row, finished(y[i], scale, bias, g.ceiling))


cdef void outputs_along "convlayers_outputs_along"(
    Winograd* g, const real* products, vf scale, vf bias, real* dst, const Py_ssize_t* place
) noexcept nogil:
    if g.upright:
        outputs_upright(g, products, scale, bias, dst)
    elif g.m == 4:
        outputs_of_line(4, products, g.values_out, scale, bias, g.ceiling, dst, place)
    elif g.m == 5:
        outputs_of_line(5, products, g.values_out, scale, bias, g.ceiling, dst, place)
    elif g.m == 6:
        outputs_of_line(6, products, g.values_out, scale, bias, g.ceiling, dst, place)
    else:
        outputs_of_line(7, products, g.values_out, scale, bias, g.ceiling, dst, place)


cdef void gradients_along "convlayers_gradients_along"(
    const real** rows, Py_ssize_t column, int taps, bint upright, real* dst, Py_ssize_t ldv
) noexcept nogil:
    """A tile of VL channels from a column on: of inputs, where taps is 0, else of as many gradients, 4 to 7."""
    cdef vf d[ALONG]
    cdef vf v[ALONG]
    cdef int i
    for i in range(ALONG if taps == 0 else taps):
        d[i] = load(rows[i] + column * VL if upright else rows[0] + (column + i) * VL)
    if taps == 0:
        line_input(d, v)
    elif taps == 4:
        line_filter(4, d, v)
    elif taps == 5:
        line_filter(5, d, v)
    elif taps == 6:
        line_filter(6, d, v)
    else:
        line_filter(7, d, v)
    for i in range(ALONG):
        store(dst + i * ldv, v[i])


cdef void open_flat_tiles(Winograd* g, int m, int taps) noexcept nogil:
    """The sizes of a tile for kernels of so many taps in a row or a column."""
    g.taps, g.row_taps = ALONG + 1 - m, taps
    g.parts = <int> parts_of(taps, g.taps)
    open_tiles(g, m, ALONG, ALONG + (g.parts - 1) * g.taps, m, 0)
    g.sets = ALONG
    if g.upright:
        g.reach, g.pace, g.side, g.made = 1, 1, 1, ALONG * g.parts
    else:
        g.reach_down, g.pace_down, g.side_down, g.made = 1, 1, 1, 1
