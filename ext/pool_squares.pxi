# The gradient of max pooling over squares of 2 x 2 that tile their planes, nothing left over: by far the commonest.
#
#     dx[2 p + r, 2 q + s] = dy[p, q] where index[p, q] = 2 r + s, else 0
#
# dy, index (planes, P, Q), dx (planes, 2 P, 2 Q). A vector of dy makes two of each row of dx, with no lines in between
# (pool_backward.pxi): 1.5 to 2.4 times as fast on two threads, with images from 4 x 4 to 224 x 224 (Emerald Rapids, AVX-512
# and AVX2). The same for the forward pass took 0.5 to 1.6 times as long as lines do.

# Narrow rows, of up to half a vector of windows (AVX-512): as many as a vector holds, and what each lane of their dx takes of
# it. Row by row, most lanes were empty: 4 x 4 pixels took twice as long, 14 x 14 1.4 times (Zen 4).
cdef struct NarrowRows:
    Py_ssize_t rows             # of windows; 0 where rows are not narrow
    Py_ssize_t vectors          # of dx
    vmask source[4]             # the lane of dy, for each of dx
    vmask tap[4]                # and the tap that gets it


cdef void plan_narrow_rows(NarrowRows* g, Py_ssize_t q) noexcept nogil:
    cdef Py_ssize_t i, at
    g.rows = VL // q if PICKS and 2 * q <= VL else 0
    g.vectors = vectors_over(4 * q * g.rows)
    for i in range(4 * VL):
        at = i % (4 * q)
        (<lane*> g.source)[i] = <lane> (i // (4 * q) * q + at % (2 * q) // 2)
        (<lane*> g.tap)[i] = <lane> (at // (2 * q) * 2 + at % 2)


cdef inline vmask taps_of "convlayers_taps_of"(const unsigned char* index) noexcept nogil:
    cdef lane taps[VL]
    cdef int j
    for j in range(VL):
        taps[j] = <lane> index[j]
    return vbits(load(<const real*> taps))


cdef inline void spread_squares(const real* dy, const unsigned char* index, int row, real* dx) noexcept nogil:
    """Two vectors of row 0 or 1 of dx."""
    cdef vf even, odd, d = load(dy)
    cdef vmask at = taps_of(index)
    even = vselect(iequal(at, isplat(2 * row)), d, splat(0))
    odd = vselect(iequal(at, isplat(2 * row + 1)), d, splat(0))
    store(dx, vturns_low(even, odd))
    store(dx + VL, vturns_high(even, odd))


cdef void spread_rows(const real* dy, const unsigned char* index, Py_ssize_t rows, Py_ssize_t q, real* dx) noexcept nogil:
    """Rows of windows. Vectors run over into rows that are written later; the last rows go value by value."""
    cdef Py_ssize_t whole = max(0, rows - (vectors_over(q) * VL + q - 1) // q), p, j, r, s
    for p in range(whole):
        for r in range(2):
            j = 0
            while j < q:
                spread_squares(dy + j, index + j, <int> r, dx + 2 * (r * q + j))
                j += VL
        dy += q
        index += q
        dx += 4 * q
    for p in range(rows - whole):
        for r in range(2):
            for j in range(q):
                for s in range(2):
                    dx[2 * (r * q + j) + s] = dy[j] if index[j] == 2 * r + s else 0
        dy += q
        index += q
        dx += 4 * q


cdef void spread_narrow(
    const NarrowRows* g, const real* dy, const unsigned char* index, Py_ssize_t rows, Py_ssize_t q, real* dx
) noexcept nogil:
    """The same for narrow rows, several at a time."""
    cdef Py_ssize_t p = 0, v
    cdef vf d, at, none = splat(0)
    cdef vmask chosen
    while (rows - p) * q >= VL:
        d, at = load(dy), vreal(taps_of(index))
        for v in range(g.vectors):
            chosen = iequal(vbits(vpick(at, none, g.source[v])), g.tap[v])
            store(dx + v * VL, vselect(chosen, vpick(d, none, g.source[v]), none))
        p += g.rows
        dy += g.rows * q
        index += g.rows * q
        dx += 4 * g.rows * q
    spread_rows(dy, index, rows - p, q, dx)


cdef inline bint tiled_by_squares(const Pool* g, Py_ssize_t taps) noexcept nogil:
    """Whether the planes are such, but for rows of half a vector without narrow rows: of those lines have two in one."""
    return (taps == 4 and (PICKS or 2 * g.width != VL) and g.kh == 2 and g.kw == 2 and g.stride_h == 2 and g.stride_w == 2
            and g.dilation_h == 1 and g.dilation_w == 1 and g.top == 0 and g.left == 0
            and g.height == 2 * g.p and g.width == 2 * g.q)


cdef void spread_over_squares(
    const Pool* g, const real* dy, const unsigned char* index, Py_ssize_t planes, real* dx, int threads
) noexcept nogil:
    """All planes, whose rows of windows are those of one high plane, in units of a fixed size."""
    cdef Py_ssize_t rows = planes * g.p, step = max(1, 4 * BATCH // g.q), u, at
    cdef NarrowRows narrow
    plan_narrow_rows(&narrow, g.q)
    if not PICKS or narrow.rows == 0:
        for u in prange((rows + step - 1) // step, schedule="static", num_threads=threads):
            at = u * step * g.q
            spread_rows(dy + at, index + at, min(step, rows - u * step), g.q, dx + 4 * at)
        return
    for u in prange((rows + step - 1) // step, schedule="static", num_threads=threads):
        at = u * step * g.q
        spread_narrow(&narrow, dy + at, index + at, min(step, rows - u * step), g.q, dx + 4 * at)
