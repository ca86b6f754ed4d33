# The gather of conv.pxi with filters for lanes.
#
#     out[px, m] = start[m] + sum_k src[pixel[px] + place[k]] filter[k, m]
#
# A vector holds neighbouring filters of one output pixel, and a tile some pixels, wherever they lie: no lane is empty in
# rows that are no multiple of a vector, and no panel is packed. In return the outputs are transposed, so this is for images
# of a few vectors a row. The sums run in the order of the other modes: the same bits.

# Pixels that are computed before they are transposed: whole tiles and whole vectors of them. With a single vector of filters,
# a tile has two pixels more, since fewer sums than eight wait for each other.
cdef inline int tile_pixels(int vecs) noexcept nogil:
    return MR if vecs == 2 else MR + 2


cdef inline Py_ssize_t chunk_pixels(int vecs) noexcept nogil:
    return max(1, VL // 2) * tile_pixels(vecs)


cdef inline void pixel_tiles "convlayers_pixel_tiles"(
    int pixels, int vecs, Gather* g, const real* src, const Py_ssize_t* pixel, Py_ssize_t tiles, const real* filters,
    Py_ssize_t lda, const real* init, real* out
) noexcept nogil:
    """`tiles` tiles of `pixels` outputs each: out[pixel][PANEL]."""
    cdef vf acc[MR + 2][2]
    cdef const real* at[MR + 2]
    cdef const real* w
    cdef const Py_ssize_t* place = g.place
    cdef vf x, y0, y1
    cdef Py_ssize_t t, k, depth = g.depth
    cdef bint relu = g.relu
    cdef int i
    for t in range(tiles):
        for i in range(pixels):
            at[i] = src + pixel[i]
            acc[i][0] = load(init)
            if vecs == 2:
                acc[i][1] = load(init + VL)
        w = filters
        for k in range(depth):
            y0 = load(w)
            if vecs == 2:
                y1 = load(w + VL)
            for i in range(pixels):
                x = splat(at[i][place[k]])
                acc[i][0] = acc[i][0] + x * y0
                if vecs == 2:
                    acc[i][1] = acc[i][1] + x * y1
            w += lda
        for i in range(pixels):
            store(out + i * PANEL, vrelu(acc[i][0]) if relu else acc[i][0])
            if vecs == 2:
                store(out + i * PANEL + VL, vrelu(acc[i][1]) if relu else acc[i][1])
        pixel += pixels
        out += pixels * PANEL


cdef void spread_pixels(const real* out, Py_ssize_t pixels, Py_ssize_t filters, real* dst, Py_ssize_t area) noexcept nogil:
    """dst[m * area + px] = out[px * PANEL + m], and nothing else."""
    cdef Py_ssize_t v, u, m, px
    cdef const real* square
    for v in range(pixels // VL):
        for u in range(vectors_over(filters)):
            square = out + v * VL * PANEL + u * VL
            transpose_vectors(square, PANEL, VL, filters - u * VL, dst + u * VL * area + v * VL, area)
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
    cdef const real* w
    cdef int vecs
    for panel in range(first, last):
        m = filter_start(g, panel)
        columns = filter_start(g, panel + 1) - m
        vecs = 2 if columns > VL else 1
        for i in range(PANEL):
            init[i] = bias[m + i] if bias != NULL and i < columns else 0
        w = filters + m * g.depth + panel * VL
        px = 0
        while px < pixels:
            count = min(chunk_pixels(vecs), pixels - px)
            if vecs == 2:
                pixel_tiles(MR, 2, g, src, g.pixel + px, (count + MR - 1) // MR, w, columns, init, out)
            else:
                pixel_tiles(MR + 2, 1, g, src, g.pixel + px, (count + MR + 1) // (MR + 2), w, columns, init, out)
            spread_pixels(out, count, columns, dst + m * area + px, area)
            px += count


cdef void place_pixels(Gather* g) noexcept nogil:
    """Where each output of a block begins in the padded copy; behind the last, for tiles that are not full, the last again."""
    cdef Py_ssize_t q = g.cols.outputs, count = g.block * q, px, at
    for px in range(count + MR + 2):
        at = min(px, count - 1)
        g.pixel[px] = at // q * g.cols.line + at % q
