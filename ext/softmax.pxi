# Softmax and its logarithm along one axis, and their gradients.
#
#     y_c = e^(z_c - max z) / s,  s = sum_c e^(z_c - max z)        dz_c = y_c (dy_c - sum_c dy_c y_c)
#     log: y_c = z_c - max z - log s                               dz_c = dy_c - e^y_c sum_c dy_c
#
# z, y, dy, dz (N, C, A), the sums over C. A tile holds all C of COLUMNS places, which the vectors run over: neighbouring
# pixels or, where A is 1, images. Places that a last tile leaves free are computed with what lies there, and dropped: every
# place goes through the same vector code and has the same bits, whatever stands beside it.

cdef enum:
    COLUMNS = 64


cdef void take_columns(const real* src, Py_ssize_t classes, Py_ssize_t area, Py_ssize_t count, real* tile) noexcept nogil:
    cdef Py_ssize_t c, j
    if area > 1:
        for c in range(classes):
            memcpy(tile + c * COLUMNS, src + c * area, count * sizeof(real))
    else:
        transpose_run(src, src + count * classes, classes, count, classes, tile, COLUMNS)


cdef void put_columns(const real* tile, Py_ssize_t classes, Py_ssize_t area, Py_ssize_t count, real* dst) noexcept nogil:
    cdef vf v[VL]
    cdef Py_ssize_t c = 0, j, i
    if area > 1:
        for c in range(classes):
            memcpy(dst + c * area, tile + c * COLUMNS, count * sizeof(real))
        return
    while c + VL <= classes:
        j = 0
        while j < count:
            for i in range(VL):
                v[i] = load(tile + (c + i) * COLUMNS + j)
            transpose_square(v)
            for i in range(min(VL, count - j)):
                store(dst + (j + i) * classes + c, v[i])
            j += VL
        c += VL
    while c < classes:
        for j in range(count):
            dst[j * classes + c] = tile[c * COLUMNS + j]
        c += 1


cdef void softmax_tile(real* tile, Py_ssize_t classes, bint logarithm) noexcept nogil:
    """z to y, in place."""
    cdef real top[COLUMNS]
    cdef real total[COLUMNS]
    cdef real e
    cdef Py_ssize_t c, j
    for j in range(COLUMNS):
        top[j] = tile[j]
        total[j] = 0
    for c in range(1, classes):
        for j in range(COLUMNS):
            # A NaN that is passed over here makes the sum NaN all the same.
            top[j] = tile[c * COLUMNS + j] if tile[c * COLUMNS + j] > top[j] else top[j]
    for c in range(classes):
        for j in range(COLUMNS):
            tile[c * COLUMNS + j] -= top[j]
            e = exponential(tile[c * COLUMNS + j])
            total[j] += e
            if not logarithm:
                tile[c * COLUMNS + j] = e
    for j in range(COLUMNS):
        total[j] = <real> log(<double> total[j]) if logarithm else 1 / total[j]
    for c in range(classes):
        for j in range(COLUMNS):
            if logarithm:
                tile[c * COLUMNS + j] -= total[j]
            else:
                tile[c * COLUMNS + j] *= total[j]


cdef void softmax_gradient_tile(real* tile, const real* y, Py_ssize_t classes, bint logarithm) noexcept nogil:
    """dy to dz, in place."""
    cdef real total[COLUMNS]
    cdef Py_ssize_t c, j
    for j in range(COLUMNS):
        total[j] = 0
    for c in range(classes):
        for j in range(COLUMNS):
            total[j] += tile[c * COLUMNS + j] * (1 if logarithm else y[c * COLUMNS + j])
    for c in range(classes):
        for j in range(COLUMNS):
            if logarithm:
                tile[c * COLUMNS + j] -= exponential(y[c * COLUMNS + j]) * total[j]
            else:
                tile[c * COLUMNS + j] = y[c * COLUMNS + j] * (tile[c * COLUMNS + j] - total[j])


cdef inline Py_ssize_t softmax_tiles(Py_ssize_t images, Py_ssize_t area) noexcept nogil:
    return images * ((area + COLUMNS - 1) // COLUMNS) if area > 1 else (images + COLUMNS - 1) // COLUMNS


cdef inline Py_ssize_t softmax_start(Py_ssize_t u, Py_ssize_t classes, Py_ssize_t area) noexcept nogil:
    cdef Py_ssize_t row = (area + COLUMNS - 1) // COLUMNS
    return u // row * classes * area + u % row * COLUMNS if area > 1 else u * COLUMNS * classes


cdef inline Py_ssize_t softmax_count(Py_ssize_t u, Py_ssize_t images, Py_ssize_t area) noexcept nogil:
    cdef Py_ssize_t row = (area + COLUMNS - 1) // COLUMNS
    return min(COLUMNS, area - u % row * COLUMNS) if area > 1 else min(COLUMNS, images - u * COLUMNS)


def softmax_forward(const real[:, :, ::1] z, real[:, :, ::1] y, bint logarithm, int threads, /):
    """Fill y."""
    cdef Py_ssize_t images = z.shape[0], classes = z.shape[1], area = z.shape[2], u, start, count
    cdef Py_ssize_t share = buffer_bytes(classes * COLUMNS + VL)
    cdef char* buffer = scratch_of_threads(threads, &share)
    cdef real* tile
    for u in prange(softmax_tiles(images, area), schedule="static", nogil=True, num_threads=threads):
        tile = <real*> (buffer + threadid() * share)
        start, count = softmax_start(u, classes, area), softmax_count(u, images, area)
        take_columns(&z[0, 0, 0] + start, classes, area, count, tile)
        softmax_tile(tile, classes, logarithm)
        put_columns(tile, classes, area, count, &y[0, 0, 0] + start)


def softmax_backward(
    const real[:, :, ::1] dy, const real[:, :, ::1] y, real[:, :, ::1] dz, bint logarithm, int threads, /
):
    """Fill dz."""
    cdef Py_ssize_t images = y.shape[0], classes = y.shape[1], area = y.shape[2], u, start, count
    cdef Py_ssize_t share = buffer_bytes(classes * COLUMNS + VL), both = 2 * share
    cdef char* buffer = scratch_of_threads(threads, &both)
    cdef real* tile
    cdef real* other
    for u in prange(softmax_tiles(images, area), schedule="static", nogil=True, num_threads=threads):
        tile = <real*> (buffer + threadid() * both)
        other = <real*> (buffer + threadid() * both + share)
        start, count = softmax_start(u, classes, area), softmax_count(u, images, area)
        take_columns(&dy[0, 0, 0] + start, classes, area, count, tile)
        take_columns(&y[0, 0, 0] + start, classes, area, count, other)
        softmax_gradient_tile(tile, other, classes, logarithm)
        put_columns(tile, classes, area, count, &dz[0, 0, 0] + start)
