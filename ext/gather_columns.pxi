# Sub-grids of every second, third or fourth column of dx, side by side again.
#
# Written one after the other, every value has a store of its own; so they wait in the thread's memory, block by block.

cdef enum:
    MOST_STRIDES = 4            # sub-grids that are interleaved


cdef inline void join_vectors(const real** rows, Py_ssize_t columns, Py_ssize_t j, real* dst) noexcept nogil:
    """The vectors at j of all rows, value by value by turns."""
    cdef vf a = load(rows[0] + j), b = load(rows[1] + j), c, d, e
    if columns == 2:
        store(dst, vturns_low(a, b))
        store(dst + VL, vturns_high(a, b))
        return
    c = load(rows[2] + j)
    if columns == 3:
        a, b, c = vplaces3(a, 0), vplaces3(b, 1), vplaces3(c, 2)
        store(dst, vjoin3(a, b, c, 0))
        store(dst + VL, vjoin3(a, b, c, 1))
        store(dst + 2 * VL, vjoin3(a, b, c, 2))
        return
    d = load(rows[3] + j)
    e, c = vturns_low(a, c), vturns_high(a, c)
    a, d = vturns_low(b, d), vturns_high(b, d)
    store(dst, vturns_low(e, a))
    store(dst + VL, vturns_high(e, a))
    store(dst + 2 * VL, vturns_low(c, d))
    store(dst + 3 * VL, vturns_high(c, d))


cdef void interleave_row(
    const real** rows, Py_ssize_t columns, Py_ssize_t width, real* dst, const real* end
) noexcept nogil:
    """A row of dst. Vectors run over into what follows, which is written later, but never over `end`."""
    cdef real some[2 * PANEL]
    cdef Py_ssize_t j = 0, k
    while columns * j < width:
        if dst + columns * (j + VL) <= end:
            join_vectors(rows, columns, j, dst + columns * j)
        else:
            join_vectors(rows, columns, j, some)
            for k in range(min(columns * VL, width - columns * j)):
                dst[columns * j + k] = some[k]
        j += VL


cdef inline bint is_blank(const Gather* grid) noexcept nogil:
    """Whether a sub-grid has no tap and is all zeros, as three of four are of a 1 x 1 kernel at stride 2."""
    return grid.depth == 0


cdef inline const real* part_row(Grids* g, Py_ssize_t j, Py_ssize_t row, const real* parts) noexcept nogil:
    """A row of sub-grid j's outputs, counted over all filters; of a blank one, its only row."""
    return parts + j * g.part + (0 if is_blank(g.grid + j) else row * g.grid[j].cols.outputs)


cdef void interleave_block(Grids* g, Py_ssize_t group, Py_ssize_t block, real* parts) noexcept nogil:
    """The rows of one block of all filters of a group, from the sub-grids' outputs and zeros."""
    cdef Gather* lead = g.grid
    cdef Py_ssize_t strides = g.count // g.columns, m, i, j, k
    cdef Py_ssize_t first = block * lead.block * strides, last = min(g.height, first + lead.block * strides)
    cdef real* dst = g.dst + (group * lead.filters * g.height + first) * g.width
    cdef real* end = dst + (last - first) * g.width
    cdef real* row
    cdef const real* rows[MOST_STRIDES]
    for j in range(g.count):
        if is_blank(g.grid + j):
            zero_run(parts + j * g.part, g.grid[j].cols.outputs)
    for m in range(lead.filters):
        row = dst
        for i in range(m * lead.block, (m + 1) * lead.block):
            for j in range(strides):
                if row < end:
                    for k in range(g.columns):
                        rows[k] = part_row(g, j * g.columns + k, i, parts)
                    interleave_row(rows, g.columns, g.width, row, end)
                    row += g.width
        dst += g.height * g.width
        end += g.height * g.width
