# The product of spectra, for convolution by Fourier transforms.
#
#     out[g, i, j, f] = sum_k left[g, i, k, f] right[g, k, j, f]        complex; right conjugated, or added to out, on demand
#
# left (G, rows, depth, 2F), right (G, depth, columns, 2F), out (G, rows, columns, 2F): real and imaginary parts in turn.
# Frequencies are the vector. A run of them is copied apart into vectors of real parts and of imaginary parts, the sum's index
# innermost, so the tile needs neither shuffles nor broadcasts. Each value is one sum over k in order, whatever the run: the
# same bits for any split. On Zen 5 all of it takes half the time of a complex BLAS product for each frequency.

cdef extern from "vec.h":
    enum: SPECTRA_COLUMNS

cdef enum:
    RUN_BYTES = 512 * 1024      # of the copies: half of a second-level cache
    MOST_VECTORS = 8            # of a run
    MOST_COLUMNS = 4            # of a tile: SPECTRA_COLUMNS is this, or less where registers are few

cdef struct Spectra "convlayers_spectra":
    Py_ssize_t rows
    Py_ssize_t depth
    Py_ssize_t columns
    Py_ssize_t frequencies
    Py_ssize_t run              # vectors of a run
    bint conjugate
    bint accumulate
    const real* left
    const real* right
    real* out
    Py_ssize_t pairs            # of vectors, in the copies of one vector of frequencies


cdef inline void part(const real* src, Py_ssize_t count, real* dst, real sign) noexcept nogil:
    """`count` complex values as a vector of real parts and a vector of imaginary parts; the rest of both is zero."""
    cdef Py_ssize_t i
    if count >= VL:
        for i in range(VL):
            dst[i] = src[2 * i]
            dst[VL + i] = sign * src[2 * i + 1]
    else:
        memset(dst, 0, 2 * VL * sizeof(real))
        for i in range(count):
            dst[i] = src[2 * i]
            dst[VL + i] = sign * src[2 * i + 1]


cdef inline void join(const real* src, Py_ssize_t count, real* dst, bint accumulate) noexcept nogil:
    """The inverse of `part`; `accumulate` adds."""
    cdef Py_ssize_t i
    for i in range(min(count, VL)):
        dst[2 * i] = src[i] + (dst[2 * i] if accumulate else 0)
        dst[2 * i + 1] = src[VL + i] + (dst[2 * i + 1] if accumulate else 0)


cdef void part_plane(Spectra* s, const real* plane, Py_ssize_t begin, Py_ssize_t end, real* dst, real sign) noexcept nogil:
    """A plane's part of the copies of frequencies begin .. end."""
    cdef Py_ssize_t v
    for v in range(vectors_over(end - begin)):
        part(plane + 2 * (begin + v * VL), end - begin - v * VL, dst, sign)
        dst += s.pairs * 2 * VL


cdef void part_run(Spectra* s, Py_ssize_t group, Py_ssize_t begin, Py_ssize_t end, real* copy) noexcept nogil:
    """Copy a run of both operands apart: for each vector of frequencies left[i][k], then right[j][k]."""
    cdef Py_ssize_t i, j, k, plane = 2 * s.frequencies
    cdef const real* left = s.left + group * s.rows * s.depth * plane
    cdef const real* right = s.right + group * s.depth * s.columns * plane
    for i in range(s.rows * s.depth):
        part_plane(s, left + i * plane, begin, end, copy + i * 2 * VL, 1)
    copy += s.rows * s.depth * 2 * VL
    for k in range(s.depth):
        for j in range(s.columns):
            part_plane(s, right + (k * s.columns + j) * plane, begin, end, copy + (j * s.depth + k) * 2 * VL,
                       -1 if s.conjugate else 1)


cdef inline void spectra_tile "convlayers_spectra_tile"(
    int rows, int columns, Spectra* s, const real* a, const real* b, Py_ssize_t count, real* out
) noexcept nogil:
    """out[i, j] of one vector of frequencies, of which `count` are there."""
    # Room for every instance that `run_spectra_tile` writes down, also for those that few registers rule out: the compiler
    # looks at their loops before it sees that nothing calls them, and takes an index beyond the array for a promise.
    cdef vf re[2][MOST_COLUMNS]
    cdef vf im[2][MOST_COLUMNS]
    cdef vf ar[2]
    cdef vf ai[2]
    cdef vf br, bi
    cdef real pair[2 * VL]
    cdef Py_ssize_t k, step = s.depth * 2 * VL
    cdef int i, j
    for i in range(rows):
        for j in range(columns):
            re[i][j] = splat(0)
            im[i][j] = splat(0)
    for k in range(s.depth):
        for i in range(rows):
            ar[i] = load(a + i * step)
            ai[i] = load(a + i * step + VL)
        for j in range(columns):
            br = load(b + j * step)
            bi = load(b + j * step + VL)
            for i in range(rows):
                re[i][j] = re[i][j] + ar[i] * br
                im[i][j] = im[i][j] + ar[i] * bi
                re[i][j] = re[i][j] - ai[i] * bi
                im[i][j] = im[i][j] + ai[i] * br
        a += 2 * VL
        b += 2 * VL
    for i in range(rows):
        for j in range(columns):
            store(pair, re[i][j])
            store(pair + VL, im[i][j])
            join(pair, count, out + (i * s.columns + j) * 2 * s.frequencies, s.accumulate)


cdef void run_spectra_tile(
    int rows, int columns, Spectra* s, const real* a, const real* b, Py_ssize_t count, real* out
) noexcept nogil:
    if rows == 2 and columns == 1:
        spectra_tile(2, 1, s, a, b, count, out)
    elif rows == 2 and columns == 2:
        spectra_tile(2, 2, s, a, b, count, out)
    elif rows == 2 and columns == 3 and SPECTRA_COLUMNS > 2:
        spectra_tile(2, 3, s, a, b, count, out)
    elif rows == 2 and SPECTRA_COLUMNS > 2:
        spectra_tile(2, 4, s, a, b, count, out)
    elif columns == 1:
        spectra_tile(1, 1, s, a, b, count, out)
    elif columns == 2:
        spectra_tile(1, 2, s, a, b, count, out)
    elif columns == 3 and SPECTRA_COLUMNS > 2:
        spectra_tile(1, 3, s, a, b, count, out)
    elif SPECTRA_COLUMNS > 2:
        spectra_tile(1, 4, s, a, b, count, out)


cdef void multiply_run(Spectra* s, Py_ssize_t group, Py_ssize_t begin, Py_ssize_t end, real* copy) noexcept nogil:
    """Frequencies begin .. end of one group."""
    cdef Py_ssize_t v, i, j, plane = 2 * s.frequencies, step = s.depth * 2 * VL
    cdef real* out = s.out + group * s.rows * s.columns * plane + 2 * begin
    part_run(s, group, begin, end, copy)
    for v in range(vectors_over(end - begin)):
        j = 0
        while j < s.columns:
            for i in range(0, s.rows, 2):
                run_spectra_tile(<int> min(2, s.rows - i), <int> min(SPECTRA_COLUMNS, s.columns - j), s, copy + i * step,
                                 copy + (s.rows + j) * step, end - begin - v * VL, out + (i * s.columns + j) * plane)
            j += SPECTRA_COLUMNS
        copy += s.pairs * 2 * VL
        out += 2 * VL


def multiply_spectra(
    const real[:, :, :, ::1] left, const real[:, :, :, ::1] right, real[:, :, :, ::1] out, bint conjugate, bint accumulate,
    Py_ssize_t begin, Py_ssize_t end, /,
):
    """Fill frequencies begin .. end of out with the sum over the axis that left and right share; `accumulate` adds it.

    For the calling thread alone: NumPy's transforms, before and after, share their work among Python's threads.
    """
    cdef Spectra s
    cdef Py_ssize_t group, f, vector_bytes
    cdef real* buffer
    s.rows, s.depth, s.columns, s.frequencies = left.shape[1], left.shape[2], right.shape[2], left.shape[3] // 2
    s.left, s.right, s.out = &left[0, 0, 0, 0], &right[0, 0, 0, 0], &out[0, 0, 0, 0]
    s.conjugate, s.accumulate = conjugate, accumulate
    s.pairs = (s.rows + s.columns) * s.depth
    vector_bytes = s.pairs * 2 * VL * <Py_ssize_t> sizeof(real)
    s.run = max(1, min(MOST_VECTORS, RUN_BYTES // vector_bytes))
    buffer = <real*> scratch(s.run * vector_bytes)
    with nogil:
        for group in range(left.shape[0]):
            f = begin
            while f < end:
                multiply_run(&s, group, f, min(end, f + s.run * VL), buffer)
                f += s.run * VL
