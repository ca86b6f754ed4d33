# 3 x 3 convolution at stride 2 by Winograd's minimal filtering (see winograd.pxi): forward and input gradient.
#
# Along one axis, the outputs y of a strided filter g are those of two filters at stride 1, on every second input each:
#
#     y_p = x_2p g_0 + x_2p+2 g_2  +  x_2p+1 g_1
#
# F(4, 2) computes four outputs of the first from 5 products, and the second takes 4: 9 in place of 12. In two dimensions a tile
# of 4 x 4 outputs takes 81 products in place of 144. The input gradient is its transpose, from 5 gradients to 8 inputs:
#
#     dx_2p = dy_p g_0 + dy_p-1 g_2        dx_2p+1 = dy_p g_1
#
# The four products with g_1 share it: of the 81 products only 36 have filters of their own.

cdef enum:
    STRIDED = 9                 # products along the side of a tile
    STRIDED_FILTERS = 6         # filters among them


cdef inline int filter_set(int size, int value) noexcept nogil:
    """Which transformed filter a value of the transformed tile is multiplied with."""
    if size != STRIDED:
        return value
    return min(value // STRIDED, STRIDED_FILTERS - 1) * STRIDED_FILTERS + min(value % STRIDED, STRIDED_FILTERS - 1)


cdef inline void strided_filter "convlayers_strided_filter"(const vf* g, int gs, vf* u, int us) noexcept nogil:
    """Three taps to six values."""
    winograd_filter(5, 2, g, 2 * gs, u, us)
    u[5 * us] = g[gs]


cdef inline void strided_input "convlayers_strided_input"(const vf* d, int ds, vf* v, int vs) noexcept nogil:
    """Nine inputs of the forward pass to nine values."""
    cdef int i
    winograd_input(5, d, 2 * ds, v, vs)
    for i in range(4):
        v[(5 + i) * vs] = d[(2 * i + 1) * ds]


cdef inline void strided_output "convlayers_strided_output"(const vf* v, int vs, vf* y, int ys) noexcept nogil:
    """Nine values to four outputs."""
    cdef int i
    winograd_output(5, 4, v, vs, y, ys)
    for i in range(4):
        y[i * ys] = y[i * ys] + v[(5 + i) * vs]


cdef inline void spread_input "convlayers_spread_input"(const vf* d, int ds, int odd, vf* v, int vs) noexcept nogil:
    """Five gradients to nine values; `odd` where the first input of a tile has an odd place among the padded ones."""
    cdef int i
    winograd_input(5, d, ds, v, vs)
    for i in range(4):
        v[(5 + i) * vs] = d[(i if odd else i + 1) * ds]


cdef inline void spread_output "convlayers_spread_output"(const vf* v, int vs, int odd, vf* y, int ys) noexcept nogil:
    """Nine values to eight inputs' gradients."""
    cdef vf both[4]
    cdef int i
    winograd_output(5, 4, v, vs, both, 1)
    for i in range(4):
        y[(2 * i + odd) * ys] = both[i]
        y[(2 * i + 1 - odd) * ys] = v[(5 + i) * vs]


cdef void strided_filter_values(const vf* g, real* dst, Py_ssize_t ldv) noexcept nogil:
    """The 36 values of VL filters."""
    cdef vf half[18]
    cdef vf u[6]
    cdef int i, j
    for j in range(3):
        strided_filter(g + j, 3, half + j, 3)
    for i in range(6):
        strided_filter(half + 3 * i, 1, u, 1)
        for j in range(6):
            store(dst + (6 * i + j) * ldv, u[j])


cdef void strided_output_tiles(
    const real* products, Py_ssize_t ldv, vf scale, vf bias, real ceiling, real* dst, Py_ssize_t row, const Py_ssize_t* place,
    bint joined
) noexcept nogil:
    """4 x 4 outputs of VL tiles, scaled and shifted, rows `row` values apart."""
    cdef vf half[36]
    cdef vf y[9]
    cdef int i, j
    for j in range(9):
        for i in range(9):
            y[i] = load(products + (9 * i + j) * ldv)
        strided_output(y, 1, half + j, 9)
    for i in range(4):
        strided_output(half + 9 * i, 1, y, 1)
        for j in range(4):
            y[j] = finished(y[j], scale, bias, ceiling)
        store_fours(dst + i * row, place, joined, y)


cdef void spread_output_tiles(
    const real* products, Py_ssize_t ldv, const int* odd, real* dst, Py_ssize_t row, const Py_ssize_t* place
) noexcept nogil:
    """8 x 8 gradients of VL tiles, rows `row` values apart."""
    cdef vf half[72]
    cdef vf y[9]
    cdef int i, j
    for j in range(9):
        for i in range(9):
            y[i] = load(products + (9 * i + j) * ldv)
        spread_output(y, 1, odd[0], half + j, 9)
    for i in range(8):
        spread_output(half + 9 * i, 1, odd[1], y, 1)
        store_fours(dst + i * row, place, False, y)
        store_fours(dst + i * row + 4, place, False, y + 4)
