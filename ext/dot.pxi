# Products of rows: sums over neighbouring values of both operands, so that neither is packed.
#
#     c[i, j] += sum_k a[i][k] b[j][k]        k < count
#
# Lanes are k, so every sum ends in a vector whose lanes are added: worth it where sums are long (a dense layer forward) or
# where a register tile's lanes would stay empty (the weight gradient of a first layer). A tile of 4 rows and 6 columns loads
# ten vectors for 24 multiply-adds; with 16 registers it has 2 columns.

cdef extern from "vec.h" nogil:
    enum: DOT_ROWS
    enum: DOT_COLS
    enum: DOT_SUMS
    vf square_sums "convlayers_square_sums"(vf* v)
    vf last_lanes "convlayers_last_lanes"(vf v, Py_ssize_t n)


cdef inline void lane_sums "convlayers_lane_sums"(const vf* v, int count, real* sums) noexcept nogil:
    """The sum of each vector's lanes, VL vectors at a time."""
    cdef vf square[VL]
    cdef int i, first = 0
    while first < count:
        for i in range(VL):
            square[i] = v[first + i] if first + i < count else splat(0)
        store(sums + first, square_sums(square))
        first += VL


cdef inline void dot_tile "convlayers_dot_tile"(
    int cols, const real** a, const real** b, Py_ssize_t count, real* sums
) noexcept nogil:
    """DOT_ROWS by `cols` sums, sums[j * DOT_ROWS + i]; at least a vector of values."""
    cdef vf acc[DOT_SUMS]
    cdef vf x[DOT_ROWS]
    cdef vf y
    cdef Py_ssize_t k = 0, left
    cdef int i, j
    for i in range(cols * DOT_ROWS):
        acc[i] = splat(0)
    while k + VL <= count:
        for i in range(DOT_ROWS):
            x[i] = load(a[i] + k)
        for j in range(cols):
            y = load(b[j] + k)
            for i in range(DOT_ROWS):
                acc[j * DOT_ROWS + i] = acc[j * DOT_ROWS + i] + x[i] * y
        k += VL
    left = count - k
    if left > 0:
        # The last vector once more, less the lanes that are in the sums already; of both, since 0 times infinity is no 0.
        k = count - VL
        for i in range(DOT_ROWS):
            x[i] = last_lanes(load(a[i] + k), left)
        for j in range(cols):
            y = last_lanes(load(b[j] + k), left)
            for i in range(DOT_ROWS):
                acc[j * DOT_ROWS + i] = acc[j * DOT_ROWS + i] + x[i] * y
    lane_sums(acc, cols * DOT_ROWS, sums)


cdef void short_dot_tile(int cols, const real** a, const real** b, Py_ssize_t count, real* sums) noexcept nogil:
    """The same for less than a vector of values."""
    cdef Py_ssize_t k
    cdef int i, j
    for j in range(cols):
        for i in range(DOT_ROWS):
            sums[j * DOT_ROWS + i] = 0
            for k in range(count):
                sums[j * DOT_ROWS + i] += a[i][k] * b[j][k]


cdef void run_dot_tile(int cols, const real** a, const real** b, Py_ssize_t count, real* sums) noexcept nogil:
    if count < VL:
        short_dot_tile(cols, a, b, count, sums)
    elif cols == 1:
        dot_tile(1, a, b, count, sums)
    elif cols == 2:
        dot_tile(2, a, b, count, sums)
    elif cols == 3:
        dot_tile(3, a, b, count, sums)
    elif cols == 4:
        dot_tile(4, a, b, count, sums)
    elif DOT_COLS > 4 and cols == 5:
        dot_tile(5, a, b, count, sums)
    elif DOT_COLS > 4:
        dot_tile(6, a, b, count, sums)


cdef void dot_products(
    const real** a, Py_ssize_t rows, const real** b, Py_ssize_t cols, Py_ssize_t count, real* c, Py_ssize_t row_stride,
    Py_ssize_t column_stride
) noexcept nogil:
    """c[i * row_stride + j * column_stride] += a[i] . b[j] for all rows and columns."""
    cdef const real* few[DOT_ROWS]
    cdef real sums[DOT_SUMS]
    cdef Py_ssize_t i0, j0 = 0, i, j, width
    while j0 < cols:
        width = min(DOT_COLS, cols - j0)
        i0 = 0
        while i0 < rows:
            for i in range(DOT_ROWS):
                few[i] = a[min(i0 + i, rows - 1)]
            run_dot_tile(<int> width, few, b + j0, count, sums)
            for j in range(width):
                for i in range(min(DOT_ROWS, rows - i0)):
                    c[(i0 + i) * row_stride + (j0 + j) * column_stride] += sums[j * DOT_ROWS + i]
            i0 += DOT_ROWS
        j0 += DOT_COLS
