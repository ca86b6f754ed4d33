# The gradient of max pooling over squares of 2 x 2 that tile their planes, nothing left over: by far the commonest.
#
#     dx[2 p + r, 2 q + s] = dy[p, q] where index[p, q] = 2 r + s, else 0
#
# dy, index (planes, P, Q), dx (planes, 2 P, 2 Q). A vector of dy makes two of each row of dx, with no lines in between
# (pool_backward.pxi): 1.5 to 2.4 times as fast on two threads, with images from 4 x 4 to 224 x 224 (Emerald Rapids, AVX-512
# and AVX2). The same for the forward pass took 0.5 to 1.6 times as long as lines do.

cdef inline void spread_squares(const real* dy, const unsigned char* index, int row, real* dx) noexcept nogil:
    """Two vectors of row 0 or 1 of dx."""
    cdef lane taps[VL]
    cdef vf even, odd, d = load(dy)
    cdef vmask at
    cdef int j
    for j in range(VL):
        taps[j] = <lane> index[j]
    at = vbits(load(<const real*> taps))
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


cdef inline bint tiled_by_squares(const Pool* g, Py_ssize_t taps) noexcept nogil:
    """Whether the planes are such, but for rows of half a vector, of which lines have two in one."""
    return (taps == 4 and 2 * g.width != VL and g.kh == 2 and g.kw == 2 and g.stride_h == 2 and g.stride_w == 2
            and g.dilation_h == 1 and g.dilation_w == 1 and g.top == 0 and g.left == 0
            and g.height == 2 * g.p and g.width == 2 * g.q)


cdef void spread_over_squares(
    const Pool* g, const real* dy, const unsigned char* index, Py_ssize_t planes, real* dx, int threads
) noexcept nogil:
    """All planes, whose rows of windows are those of one high plane, in units of a fixed size."""
    cdef Py_ssize_t rows = planes * g.p, step = max(1, 4 * BATCH // g.q), u, at
    for u in prange((rows + step - 1) // step, schedule="static", num_threads=threads):
        at = u * step * g.q
        spread_rows(dy + at, index + at, min(step, rows - u * step), g.q, dx + 4 * at)
