# Transposition a vector at a time.
#
#     dst[k * pitch + i] = scale[i] src[i * stride + k]        i < rows,  k < count;  scale 1 where there is none
#
# VL rows of VL values are exchanged in log2(VL) rounds of shuffles: about 5 cycles a vector where element by element takes
# 16 (Zen 5, AVX-512).
#
# Rows that lie a multiple of 4 KiB apart, as channels of 32 x 32 images do, all want the lines of one set of the first-level
# cache: each was fetched anew for each vector of it, 5.3 ns a vector where other rows took 1.3. Such rows are copied first,
# some vectors of each, which makes it 2.1 (Zen 4, AVX-512, rows that are not aligned). As many rows as a set has lines are read
# where they lie: Winograd's weight gradient of 16 channels of 32 x 32 took 0.97 of the time, 1x1 kernels' 0.98 (Zen 3, AVX2).

cdef enum:
    SETS_BYTES = 4096           # addresses so far apart share the lines of a set
    WAYS = 8                    # lines of a set, at least
    MOST_COLLIDING = 4
    NEAR_VECTORS = 8            # of a row that are copied at once
    NEAR_PITCH = (NEAR_VECTORS + 1) * VL

cdef extern from "vec.h" nogil:
    void transpose_square "convlayers_transpose_square"(vf* v)
    void load_fours "convlayers_load_fours"(const real* src, const Py_ssize_t* place, bint joined, vf* v)
    void store_fours "convlayers_store_fours"(real* dst, const Py_ssize_t* place, bint joined, const vf* v)


cdef inline void transpose_vectors "convlayers_transpose_vectors"(
    int scaled, const real* src, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t count, const real* scale, real* dst,
    Py_ssize_t pitch
) noexcept nogil:
    """VL values of each of up to VL rows, the first `count` of them kept; lanes behind `rows` repeat the last one."""
    cdef vf v[VL]
    cdef int i
    for i in range(VL):
        v[i] = load(src + min(i, rows - 1) * stride)
        if scaled:
            v[i] = v[i] * splat(scale[min(i, rows - 1)])
    transpose_square(v)
    for i in range(VL):
        if i < count:
            store(dst + i * pitch, v[i])


cdef inline void copy_near(const real* src, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t vectors, real* dst) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(rows):
        for j in range(vectors):
            store(dst + i * NEAR_PITCH + j * VL, load(src + i * stride + j * VL))


cdef inline void transpose_rows "convlayers_transpose_rows"(
    int scaled, const real* src, const real* end, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t count, const real* scale,
    real* dst, Py_ssize_t pitch
) noexcept nogil:
    """For pitch >= rows. Reads nothing at or behind `end`; writes whole vectors, up to VL - 1 values behind the last row.

    What a row has too much lies at the start of the next one: so the first lanes are written last.
    """
    cdef real near[VL * NEAR_PITCH]
    cdef Py_ssize_t k = 0, i0, i, j, some, left = end - src - (rows - 1) * stride, step = stride
    cdef bint collide = VL > WAYS and stride * <Py_ssize_t> sizeof(real) % SETS_BYTES == 0 and rows > MOST_COLLIDING
    cdef const real* at
    while k < count and k + VL <= left:
        some = min(NEAR_VECTORS, min((count - k + VL - 1) // VL, (left - k) // VL))
        i0 = (rows - 1) // VL * VL
        while i0 >= 0:
            at = src + i0 * stride + k
            if collide:
                copy_near(at, stride, min(VL, rows - i0), some, near)
                at, step = near, NEAR_PITCH
            for j in range(some):
                transpose_vectors(scaled, at + j * VL, step, min(VL, rows - i0), count - k - j * VL, scale + i0,
                                  dst + (k + j * VL) * pitch + i0, pitch)
            i0 -= VL
        k += some * VL
    while k < count:
        for i in range(rows):
            dst[k * pitch + i] = src[i * stride + k] * scale[i] if scaled else src[i * stride + k]
        k += 1


# Apart: asking of each vector whether it is scaled, steps of `mnist_cnn` and `resnet20` took 1.03 times as long.

cdef void transpose_run(
    const real* src, const real* end, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t count, real* dst, Py_ssize_t pitch
) noexcept nogil:
    transpose_rows(False, src, end, stride, rows, count, src, dst, pitch)


cdef void transpose_scaled(
    const real* src, const real* end, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t count, const real* scale, real* dst,
    Py_ssize_t pitch
) noexcept nogil:
    transpose_rows(True, src, end, stride, rows, count, scale, dst, pitch)
