# The gather of conv.pxi with filters for lanes.
#
#     out[px, m] = start[m] + sum_k src[pixel[px] + place[k]] filter[k, m]
#
# A vector holds neighbouring filters of one output pixel, and a tile some pixels, wherever they lie: no lane is empty in
# rows that are no multiple of a vector, and no panel is packed. In return the outputs are transposed, so this is for images
# of a few vectors a row. The sums run in the order of the other modes: the same bits.

# Pixels that are computed before they are transposed: whole tiles and whole vectors of them.
cdef inline Py_ssize_t chunk_pixels(int vecs) noexcept nogil:
    return max(1, VL // 2) * (MR if vecs == 2 else MR + 2)


cdef void spread_pixels(const real* out, Py_ssize_t pixels, Py_ssize_t filters, real* dst, Py_ssize_t area) noexcept nogil:
    """dst[m * area + px] = out[px * PANEL + m], and nothing else."""
    cdef Py_ssize_t v, u, m, px
    cdef const real* square
    for v in range(pixels // VL):
        for u in range(vectors_over(filters)):
            square = out + v * VL * PANEL + u * VL
            transpose_vectors(False, square, PANEL, VL, filters - u * VL, square, dst + u * VL * area + v * VL, area)
    for m in range(filters):
        for px in range(pixels // VL * VL, pixels):
            dst[m * area + px] = out[px * PANEL + m]


cdef void run_pixels(
    Gather* g, Py_ssize_t pixels, Py_ssize_t first, Py_ssize_t last, const real* filters, const real* bias, const real* src,
    real* dst
) noexcept nogil:
    """The panels first .. last of filters over the first `pixels` outputs of a block."""
    cdef real out[PIXEL_CHUNK]
    cdef real init[PANEL]
    cdef Py_ssize_t area = g.height * g.width, panel, m, i, px, count, columns
    cdef int vecs, rows
    cdef Rows t
    t.src, t.step, t.depth, t.init, t.out, t.ceiling = src, g.place, g.depth, init, out, g.ceiling
    t.asks = False
    for panel in range(first, last):
        m = filter_start(g, panel)
        columns = filter_start(g, panel + 1) - m
        vecs = 2 if columns > VL else 1
        for i in range(PANEL):
            init[i] = bias[m + i] if bias != NULL and i < columns else 0
        t.b, t.ldb = filters + m * g.depth + panel * VL, columns
        px = 0
        while px < pixels:
            count = min(chunk_pixels(vecs), pixels - px)
            rows = rows_of_tile(count, vecs)
            t.row, t.tiles = g.pixel + px, (count + rows - 1) // rows
            run_rows(rows, vecs, &t)
            spread_pixels(out, count, columns, dst + m * area + px, area)
            px += count


cdef void place_pixels(Gather* g) noexcept nogil:
    """Where each output of a block begins in the padded copy; behind the last, for tiles that are not full, the last again."""
    cdef Py_ssize_t q = g.cols.outputs, count = g.block * q, px, at
    for px in range(count + MR + 2):
        at = min(px, count - 1)
        g.pixel[px] = at // q * g.cols.line + at % q
