# Tiles of a Winograd convolution, coming out (see winograd.pxi): as they are, or the maximum of each 2 x 2 of them.
#
# Tiles that divide an image evenly are stored where they belong; others go to rows in which tile follows tile, and from there
# line by line.

cdef inline vf held "convlayers_held"(vf y, real ceiling) noexcept nogil:
    """Between 0 and the ceiling, if there is one."""
    y = vrelu(y) if ceiling > 0 else y
    return vsmaller(splat(ceiling), y) if 0 < ceiling < INFINITY else y


cdef inline vf finished "convlayers_finished"(vf y, vf scale, vf bias, real ceiling) noexcept nogil:
    """Scaled, shifted and held."""
    return held(y * scale + bias, ceiling)


cdef inline void output_pairs "convlayers_output_pairs"(
    int size, const real* products, Py_ssize_t ldv, vf scale, vf bias, real ceiling, real* dst, Py_ssize_t row
) noexcept nogil:
    """A^T M A for VL tiles of 2 x 2 outputs, finished: two rows in which tile follows tile."""
    cdef vf half[12]
    cdef vf y[6]
    cdef int i, j
    for j in range(size):
        for i in range(size):
            y[i] = load(products + (i * size + j) * ldv)
        winograd_output(size, 2, y, 1, half + j, size)
    for i in range(2):
        winograd_output(size, 2, half + size * i, 1, y, 1)
        for j in range(2):
            y[j] = finished(y[j], scale, bias, ceiling)
        store(dst + i * row, vturns_low(y[0], y[1]))
        store(dst + i * row + VL, vturns_high(y[0], y[1]))


cdef void output_tiles(
    Winograd* g, const real* products, vf scale, vf bias, real* dst, Py_ssize_t row, const Py_ssize_t* place, bint joined
) noexcept nogil:
    """A^T M A for VL tiles, finished: rows of outputs, `row` values apart."""
    cdef vf half[24]
    cdef vf y[6]
    cdef int i, j
    if g.m == 2 and g.size == 4:
        output_pairs(4, products, g.values_out, scale, bias, g.ceiling, dst, row)
        return
    if g.m == 2:
        output_pairs(6, products, g.values_out, scale, bias, g.ceiling, dst, row)
        return
    for j in range(6):
        for i in range(6):
            y[i] = load(products + (i * 6 + j) * g.values_out)
        winograd_output(6, 4, y, 1, half + j, 6)
    for i in range(4):
        winograd_output(6, 4, half + 6 * i, 1, y, 1)
        for j in range(4):
            y[j] = finished(y[j], scale, bias, g.ceiling)
        store_fours(dst + i * row, place, joined, y)


cdef inline vf larger "convlayers_larger"(vf v, vf best) noexcept nogil:
    """As pooling has it: of equals the first, and NaN before all (pool_forward.pxi)."""
    return vselect(vbeats(v, best), v, best)


cdef inline void squares_of_two "convlayers_squares_of_two"(
    int size, const real* products, Py_ssize_t ldv, vf scale, vf bias, real ceiling, real* dst
) noexcept nogil:
    """The maxima of VL tiles of 2 x 2 outputs, tile after tile."""
    cdef vf half[12]
    cdef vf y[6]
    cdef vf below[2]
    cdef int i, j
    for j in range(size):
        for i in range(size):
            y[i] = load(products + (i * size + j) * ldv)
        winograd_output(size, 2, y, 1, half + j, size)
    winograd_output(size, 2, half, 1, y, 1)
    winograd_output(size, 2, half + size, 1, below, 1)
    for j in range(2):
        y[j] = larger(below[j] * scale + bias, y[j] * scale + bias)
    store(dst, held(larger(y[1], y[0]), ceiling))


cdef inline void squares_of_four "convlayers_squares_of_four"(
    const real* products, Py_ssize_t ldv, vf scale, vf bias, real ceiling, vf* best
) noexcept nogil:
    """The maxima of each 2 x 2 of VL tiles of 4 x 4 outputs, row by row."""
    cdef vf half[24]
    cdef vf y[6]
    cdef vf below[4]
    cdef int i, j
    for j in range(6):
        for i in range(6):
            y[i] = load(products + (i * 6 + j) * ldv)
        winograd_output(6, 4, y, 1, half + j, 6)
    for i in range(2):
        winograd_output(6, 4, half + 12 * i, 1, y, 1)
        winograd_output(6, 4, half + 12 * i + 6, 1, below, 1)
        for j in range(4):
            y[j] = larger(below[j] * scale + bias, y[j] * scale + bias)
        for j in range(2):
            best[2 * i + j] = held(larger(y[2 * j + 1], y[2 * j]), ceiling)


cdef void output_maxima(
    Winograd* g, const real* products, vf scale, vf bias, real* dst, Py_ssize_t row, const Py_ssize_t* place, bint in_place
) noexcept nogil:
    """The maximum of each 2 x 2 of the outputs of VL tiles: `in_place`, where all of a tile's lie side by side, or in rows."""
    cdef vf best[4]
    cdef int i
    if g.m == 4:
        squares_of_four(products, g.values_out, scale, bias, g.ceiling, best)
        if in_place:
            store_fours(dst, place, False, best)
            return
        for i in range(4):
            best[i] = vfours_in_order(best[i])
        for i in range(2):
            store(dst + i * row, vturns_low(best[2 * i], best[2 * i + 1]))
            store(dst + i * row + VL, vturns_high(best[2 * i], best[2 * i + 1]))
    elif g.size == 4:
        squares_of_two(4, products, g.values_out, scale, bias, g.ceiling, dst)
    else:
        squares_of_two(6, products, g.values_out, scale, bias, g.ceiling, dst)


cdef void store_run(const real* src, Py_ssize_t count, real* dst) noexcept nogil:
    """`count` values exactly: whole vectors, the last one moved back over values that are there already."""
    cdef Py_ssize_t j = 0
    while j + VL <= count:
        store(dst + j, load(src + j))
        j += VL
    if j == count:
        return
    if count >= VL:
        store(dst + count - VL, load(src + count - VL))
        return
    while j + 4 <= count:
        memcpy(dst + j, src + j, 4 * sizeof(real))
        j += 4
    while j < count:
        dst[j] = src[j]
        j += 1


cdef void store_tiles(
    Winograd* g, const real* outputs, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1, real* dst
) noexcept nogil:
    """The rows of the tiles t0 .. t1 of one filter to their places."""
    cdef Py_ssize_t t = t0, line = t0 // g.across, j = t0 % g.across, n = line // g.lines, inside = line % g.lines
    cdef Py_ssize_t count, i, width, rows = g.side_down
    while t < t1:
        count = min(g.across - j, t1 - t)
        width = min(g.side * count, g.over - g.side * j)
        for i in range(min(rows, g.down - inside * rows)):
            store_run(outputs + i * g.row + g.side * (t - t0), width,
                      dst + n * image_stride + (inside * rows + i) * g.over + g.side * j)
        t += count
        j = 0
        inside += 1
        if inside == g.lines:
            inside = 0
            n += 1


cdef void ask_outputs(Winograd* g, const Line* line, const real* dst) noexcept nogil:
    """Ask for what is written of one line of tiles of a filter, and for the residual's values there."""
    cdef Py_ssize_t i, nbytes = line.width * <Py_ssize_t> sizeof(real)
    for i in range(line.rows):
        prefetch(dst + line.target + i * g.over, nbytes, True)
        if g.residual != NULL:
            prefetch(g.residual + (dst - g.dst) + line.target + i * g.over, nbytes, False)


cdef void add_residual(Winograd* g, Py_ssize_t lines, real* dst, Workspace* space) noexcept nogil:
    """The residual to what a block's lines of tiles wrote of one filter, which is in the cache still."""
    cdef const Line* line = space.lines
    cdef Py_ssize_t number, i
    cdef real* out
    for number in range(lines):
        for i in range(line.rows):
            out = dst + line.target + i * g.over
            add_values(out, g.residual + (out - g.dst), line.width, g.relu_of_sum, out)
        line += 1
