# Strips of depthwise outputs: the loop that forward and input gradient spend their time in.
#
#     y[b, l] = start + sum_kr w[weight_k + r tap] x[place_k + (b + r) row + l]        b < rows <= STRIP_ROWS, l < vecs * VL
#
# Each value feeds few sums here, so loads limit the speed: a strip sums several rows together, one kernel column k at a
# time, whose taps r stay in registers, and loads a vector of the copy once for all the rows that it feeds. A sum goes over the
# columns in order and, within a column, over its taps from top to bottom, whatever the strip.
#
# x      the padded copy of the source; rows `row` apart
# y      rows `line` apart; `start` is y itself with `accumulate`, else one value
# Vectors begin at x + src_at[v] and y + dst_at[v]; the caller guarantees VL values there, and outputs that may be written.

cdef extern from "vec.h" nogil:
    enum: COLUMN_TAPS
    enum: PAIRED_TAPS
    enum: STRIP_ROWS
    enum: STRIP_VECS
    void vhold(vf)


cdef enum:
    LINE_VALUES = 64 // sizeof(real)    # of a cache line


# Taps below each other, of one phase: `apart` kernel rows and `spread` rows of the copy from one to the next.
cdef struct Column "convlayers_column":
    Py_ssize_t place            # of the first in the copy
    Py_ssize_t weight           # of the first in the filter


cdef struct Strip "convlayers_strip":
    Py_ssize_t strips           # below each other
    Py_ssize_t panels           # of one or two vectors, beside each other
    const Py_ssize_t* src_at    # where the vectors begin in a row of the copy
    const Py_ssize_t* dst_at    # and of the outputs
    const real* x               # the first row of the copy
    Py_ssize_t row              # from row to row there
    const Column* columns
    Py_ssize_t count            # of `taps` taps
    Py_ssize_t less             # behind them, of one tap less; none if taps > PAIRED_TAPS
    const real* w
    Py_ssize_t tap
    const real* ahead           # what the next unit reads, asked for by and by, so that it comes while there are sums to do
    Py_ssize_t portion          # cache lines at a time
    real* y
    Py_ssize_t line
    real init
    bint accumulate
    real ceiling                # see tile.pxi


cdef inline void feed "convlayers_feed"(
    int i, int rows, int vecs, int taps, const real* x0, const real* x1, Py_ssize_t row, const vf* w, vf* acc
) noexcept nogil:
    """Row i of the copy, under one kernel column, to all the output rows that it feeds."""
    cdef vf v0, v1
    cdef int b
    if i < rows + taps - 1:
        v0 = load(x0 + i * row)
        vhold(v0)
        if vecs == 2:
            v1 = load(x1 + i * row)
            vhold(v1)
        for b in range(rows):
            if 0 <= i - b < taps:
                acc[2 * b] = acc[2 * b] + w[i - b] * v0
                if vecs == 2:
                    acc[2 * b + 1] = acc[2 * b + 1] + w[i - b] * v1


cdef inline void strip_column "convlayers_strip_column"(
    int rows, int vecs, int taps, const real* x0, const real* x1, Py_ssize_t row, const real* tap, Py_ssize_t apart, vf* acc
) noexcept nogil:
    cdef vf w[COLUMN_TAPS]
    cdef int r
    for r in range(taps):
        w[r] = splat(tap[r * apart])
    # One by one: a loop around feed would be too large for the compiler to unroll.
    feed(0, rows, vecs, taps, x0, x1, row, w, acc)
    feed(1, rows, vecs, taps, x0, x1, row, w, acc)
    feed(2, rows, vecs, taps, x0, x1, row, w, acc)
    feed(3, rows, vecs, taps, x0, x1, row, w, acc)
    feed(4, rows, vecs, taps, x0, x1, row, w, acc)
    feed(5, rows, vecs, taps, x0, x1, row, w, acc)
    feed(6, rows, vecs, taps, x0, x1, row, w, acc)
    feed(7, rows, vecs, taps, x0, x1, row, w, acc)
    feed(8, rows, vecs, taps, x0, x1, row, w, acc)
    feed(9, rows, vecs, taps, x0, x1, row, w, acc)
    feed(10, rows, vecs, taps, x0, x1, row, w, acc)
    feed(11, rows, vecs, taps, x0, x1, row, w, acc)
    feed(12, rows, vecs, taps, x0, x1, row, w, acc)
    feed(13, rows, vecs, taps, x0, x1, row, w, acc)


cdef inline void strip_body "convlayers_strip_body"(int rows, int vecs, int taps, Strip* s) noexcept nogil:
    """Sums over columns of `taps` taps, panel by panel; constants keep acc and w in registers.

    GCC does so only because the loops over b are in a loop themselves: it then unrolls them before it places acc.
    """
    cdef vf acc[2 * STRIP_ROWS]
    cdef vf start = splat(s.init)
    cdef const real* x = s.x
    cdef const real* x0
    cdef const real* x1
    cdef const Column* column
    cdef real* y = s.y
    cdef real* y0
    cdef real* y1
    cdef Py_ssize_t line = s.line, row = s.row, apart = s.tap, strip, i, k
    cdef int b
    for strip in range(s.strips):
        for i in range(s.panels):
            x0 = x + s.src_at[i * vecs]
            y0 = y + s.dst_at[i * vecs]
            x1 = x + s.src_at[i * vecs + vecs - 1]
            y1 = y + s.dst_at[i * vecs + vecs - 1]
            for b in range(2 * rows):
                acc[b] = start
            if s.accumulate:
                for b in range(rows):
                    acc[2 * b] = load(y0 + b * line)
                if vecs == 2:
                    for b in range(rows):
                        acc[2 * b + 1] = load(y1 + b * line)
            for k in range(s.portion):
                prefetch_line(s.ahead + k * LINE_VALUES, 0)
            s.ahead += s.portion * LINE_VALUES
            # And for what the next strip writes: rows are as many streams, and stores waited for memory. 1.2 times with
            # images of 32 x 32, 1.4 with 112 x 112 (Zen 3).
            if s.portion > 0 and i % max(1, LINE_VALUES // VL) == 0:
                for b in range(rows):
                    prefetch_line(y0 + (rows + b) * line, 1)
                    if vecs == 2:
                        prefetch_line(y1 + (rows + b) * line, 1)
            for k in range(s.count):
                column = s.columns + k
                strip_column(rows, vecs, taps, x0 + column.place, x1 + column.place, row, s.w + column.weight, apart, acc)
            if 2 <= taps <= PAIRED_TAPS:
                for k in range(s.count, s.count + s.less):
                    column = s.columns + k
                    strip_column(rows, vecs, taps - 1, x0 + column.place, x1 + column.place, row, s.w + column.weight, apart,
                                 acc)
            if s.ceiling > 0:
                for b in range(2 * rows):
                    acc[b] = vrelu(acc[b])
            if 0 < s.ceiling < INFINITY:
                for b in range(2 * rows):
                    acc[b] = vsmaller(splat(s.ceiling), acc[b])
            for b in range(rows):
                store(y0 + b * line, acc[2 * b])
            if vecs == 2:
                for b in range(rows):
                    store(y1 + b * line, acc[2 * b + 1])
        x += rows * row
        y += rows * line


cdef inline void strip_rows "convlayers_strip_rows"(int vecs, int taps, int rows, Strip* s) noexcept nogil:
    if rows == 8:
        strip_body(8, vecs, taps, s)
    elif rows == 4:
        strip_body(4, vecs, taps, s)
    elif rows == 2:
        strip_body(2, vecs, taps, s)
    else:
        strip_body(1, vecs, taps, s)


cdef inline void strip_vecs "convlayers_strip_vecs"(int taps, int vecs, int rows, Strip* s) noexcept nogil:
    if STRIP_VECS == 2 and vecs == 2:
        strip_rows(2, taps, rows, s)
    else:
        strip_rows(1, taps, rows, s)


cdef void run_strip(int rows, int vecs, int taps, Strip* s) noexcept nogil:
    """`rows` is 1, 2, 4 or STRIP_ROWS."""
    if taps == 1:
        strip_vecs(1, vecs, rows, s)
    elif taps == 2:
        strip_vecs(2, vecs, rows, s)
    elif taps == 3:
        strip_vecs(3, vecs, rows, s)
    elif taps == 4:
        strip_vecs(4, vecs, rows, s)
    elif taps == 5:
        strip_vecs(5, vecs, rows, s)
    elif taps == 6:
        strip_vecs(6, vecs, rows, s)
    else:
        strip_vecs(7, vecs, rows, s)
