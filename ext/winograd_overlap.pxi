# The input gradient of a Winograd convolution by tiles that overlap: the transpose of F(m x m, r x r) (see winograd.pxi).
#
#     dX = sum over tiles of B [ sum_m (G w_mc G^T) o (G dY_m G^T) ] B^T
#
# A tile of m x m gradients and r x r taps are polynomials: their product, of m + r - 1 coefficients along each axis, is
# interpolated from its values at the points. Tiles of dy lie m apart without a halo, those of dx overlap by r - 1 and are added
# up. As a convolution of dy with its padding, an input gradient has tiles for all pixels of dx: for 4 x 4 gradients of
# 6 x 6 pixels, four in place of one.
#
# Blocks are of whole images, so that no two units write to one pixel. Where tiles share a pixel, they are added in the order in
# which they lie, whatever the block or the thread: the same bits.


cdef inline void winograd_product "convlayers_winograd_product"(const vf* v, int vs, vf* y, int ys) noexcept nogil:
    """y = B v: six coefficients, of values at the points that both G have divided."""
    cdef vf sum_a = v[vs] + v[2 * vs], sum_b = v[3 * vs] + v[4 * vs]
    cdef vf difference_a = splat(WINOGRAD_A) * (v[vs] - v[2 * vs]), difference_b = splat(WINOGRAD_B) * (v[3 * vs] - v[4 * vs])
    y[0] = v[0]
    y[ys] = splat(3) * (difference_a - difference_b) + v[5 * vs]
    y[2 * ys] = splat(3) * (sum_a - sum_b) - splat(2.5) * v[0]
    y[3 * ys] = splat(6) * difference_b - splat(1.5) * difference_a - splat(2.5) * v[5 * vs]
    y[4 * ys] = v[0] - splat(1.5) * sum_a + splat(6) * sum_b
    y[5 * ys] = v[5 * vs]


cdef inline int overlap_parts(Winograd* g) noexcept nogil:
    """Pieces of m columns in a row of a tile of dx, the last of them with zeros."""
    return (g.size + g.m - 1) // g.m


cdef inline Py_ssize_t overlap_bytes(Winograd* g) noexcept nogil:
    """Of the masks of a row's pieces."""
    return overlap_parts(g) * vectors_over(g.q) * <Py_ssize_t> sizeof(vmask) if g.overlaps else 0


cdef inline Py_ssize_t staged_values(Winograd* g) noexcept nogil:
    """Of one filter's tiles, before they are where they belong. Pieces are read in whole vectors, and from m columns before."""
    return (g.size * overlap_parts(g) * g.row + 4 * VL) if g.overlaps else g.side_down * g.pool * g.row


cdef void product_tiles(Winograd* g, const real* products, Py_ssize_t vectors, real* dst) noexcept nogil:
    """B M B^T of a filter's tiles: for each piece of each row of a tile a row in which tile follows tile."""
    cdef vf half[36]
    cdef vf y[8]
    cdef real* row
    cdef Py_ssize_t v
    cdef int i, j
    for v in range(vectors):
        for j in range(6):
            for i in range(6):
                y[i] = load(products + (i * 6 + j) * g.values_out)
            winograd_product(y, 1, half + j, 6)
        y[6] = y[7] = splat(0)
        row = dst
        for i in range(6):
            winograd_product(half + 6 * i, 1, y, 1)
            if g.m == 4:
                store_fours(row, g.staged, True, y)
                store_fours(row + g.row, g.staged, True, y + 4)
            else:
                for j in range(3):
                    store(row + j * g.row, vturns_low(y[2 * j], y[2 * j + 1]))
                    store(row + j * g.row + VL, vturns_high(y[2 * j], y[2 * j + 1]))
            row += overlap_parts(g) * g.row
        products += VL
        dst += g.m * VL


cdef void place_pieces(Winograd* g, vmask* pieces) noexcept nogil:
    """For each piece of a tile, the lanes of a row of dst that its tiles reach."""
    cdef Py_ssize_t k, v, first
    for k in range(overlap_parts(g)):
        for v in range(vectors_over(g.q)):
            first = k * g.m - g.cut[1] - v * VL
            pieces[0] = first_lanes(first + g.across * g.m) ^ first_lanes(first)
            pieces += 1


cdef inline vf sum_of_pieces(Winograd* g, const real* tiles, Py_ssize_t h, Py_ssize_t v, const vmask* pieces) noexcept nogil:
    """Vector v of row h of an image, whose first tile is at `tiles`: of all the lines of tiles that reach it."""
    cdef Py_ssize_t line = max(0, (h - g.size + g.m) // g.m), parts = overlap_parts(g), k
    cdef const real* piece
    cdef vf total = splat(0)
    while line < g.lines and line * g.m <= h:
        piece = tiles + line * g.across * g.m + (h - line * g.m) * parts * g.row
        for k in range(parts):
            total = total + vreal(vbits(load(piece)) & pieces[k * vectors_over(g.q) + v])
            piece += g.row - g.m
        line += 1
    return total


cdef void finish_overlap(
    Winograd* g, const real* products, Py_ssize_t t0, Py_ssize_t t1, real* dst, Workspace* space
) noexcept nogil:
    """What finish_filter does, of whole images. A row's last vector runs over into the next row, which is written later."""
    cdef Py_ssize_t tiles = g.lines * g.across, area = g.p * g.q, n, h, v, at
    cdef const real* rows = space.outputs + VL
    cdef const real* residual
    cdef vf y
    product_tiles(g, products, vectors_over(t1 - t0), space.outputs + VL)
    dst += t0 // tiles * g.groups * g.filters * area
    for n in range((t1 - t0) // tiles):
        residual = NULL
        if g.residual != NULL:
            residual = g.residual + (dst - g.dst)
        for h in range(g.p):
            for v in range(vectors_over(g.q)):
                at = h * g.q + v * VL
                y = sum_of_pieces(g, rows + g.cut[1] + v * VL, h + g.cut[0], v, space.pieces)
                if at + VL <= area:
                    store(dst + at, y if residual == NULL else y + load(residual + at))
                    continue
                for at in range(at, (h + 1) * g.q):
                    dst[at] = (<real*> &y)[at - h * g.q - v * VL] + (0 if residual == NULL else residual[at])
        rows += tiles * g.m
        dst += g.groups * g.filters * area
