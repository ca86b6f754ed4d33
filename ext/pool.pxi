# 2-d max and average pooling, forward and backward.
#
#     max      y[p,q] = max_rs x[p s + r d - pad, q s + s' d - pad]      dx = dy at the first maximum in row order
#     average  y[p,q] = (1/n_pq) sum_rs x[p s + r - pad, q s + s' - pad]  dx += dy / n_pq over the window
#
# x (planes, H, W), y (planes, P, Q); a plane is one channel of one image. Padding never wins a maximum and adds nothing to
# a sum; n_pq comes from the caller (count_include_pad). The index of a maximum is its tap r * S + s', in one byte or four.
#
# A window is taken apart into its columns. Forward, the R rows of a row of windows become one line of what R pixels above
# each other give, and a window is then S values of the line. Backward is the transpose: a row of dy is spread over a line,
# or over R lines where each maximum chose its r, and a row of dx adds up the lines that reach it.
#
#     line[left + w]    w a column of x, with the padding on both sides
#
# Work goes by batches of output rows. Where windows of a row do not overlap, the lines of a batch have no gap between them
# and its outputs are one long row: planes of 4 x 4 then fill vectors as well as wide ones. Vectors run over the end of a
# row; the next row is written later and sets that right. A batch depends on the sizes alone and belongs to one thread:
# the same bits for any number of threads.

# The taps of maxima, in one byte each or in four; both are NULL where there are none.
cdef struct Index:
    unsigned char* narrow
    int* wide

cdef enum:
    SUM                         # what a window gives: its sum,
    MAXIMUM                     # its maximum,
    INDEXED                     # or its maximum and the tap that holds it
    BATCH = 512                 # outputs a batch, about: lines and taps of 2x2 windows are 8 KiB of float32
    PREFETCH = 1024             # values ahead: rows are too short for the processor to see the stream that they make
    FAR = 1 << 30               # the tap of padding, behind all others


cdef inline Index index_of(const unsigned char* narrow, const int* wide) noexcept nogil:
    cdef Index index
    index.narrow, index.wide = <unsigned char*> narrow, <int*> wide
    return index


cdef inline Index index_at(Index index, Py_ssize_t output) noexcept nogil:
    """The taps from one output on."""
    if index.narrow != NULL:
        index.narrow += output
    elif index.wide != NULL:
        index.wide += output
    return index


cdef inline bint is_there(Index index) noexcept nogil:
    return index.narrow != NULL or index.wide != NULL


cdef void write_taps(const lane* taps, Py_ssize_t count, Index index) noexcept nogil:
    cdef Py_ssize_t j
    if index.narrow != NULL:
        for j in range(count):
            index.narrow[j] = <unsigned char> taps[j]
    else:
        for j in range(count):
            index.wide[j] = <int> taps[j]


cdef void read_taps(Index index, Py_ssize_t count, lane* taps) noexcept nogil:
    cdef Py_ssize_t j
    if index.narrow != NULL:
        for j in range(count):
            taps[j] = index.narrow[j]
    else:
        for j in range(count):
            taps[j] = index.wide[j]


cdef struct Reach:
    Py_ssize_t p                # an output row
    Py_ssize_t line             # that meets a row of dx with kernel row r, p s + r d - pad = h: where lines of that r begin


cdef struct Pool "convlayers_pool":
    Py_ssize_t height
    Py_ssize_t width
    Py_ssize_t p
    Py_ssize_t q
    Py_ssize_t kh               # without taps that lie behind the input for every window
    Py_ssize_t kw
    Py_ssize_t taps_w           # S, with them
    Py_ssize_t stride_h
    Py_ssize_t stride_w
    Py_ssize_t top
    Py_ssize_t left
    Py_ssize_t dilation_h
    Py_ssize_t dilation_w
    Py_ssize_t span             # columns that the windows of a row reach, padding included
    Py_ssize_t inside           # how many of them are columns of x, from `left` on
    Py_ssize_t overlap          # windows that a window reaches into, to its right
    bint tiled                  # the outputs of a batch are one long row
    Py_ssize_t batch            # output rows a batch: a power of two
    Py_ssize_t pitch            # columns from line to line
    # Backward
    bint indexed                # of a maximum
    Py_ssize_t kinds            # lines of an output row: R for maxima, which chose their r, else one
    Py_ssize_t reaching         # the most output rows that reach a row of dx
    Py_ssize_t slots            # output rows whose lines are kept: a power of two
    Py_ssize_t* start           # reach[start[h]:start[h + 1]] is what reaches row h of dx
    Reach* reach


cdef void set_pool(
    Pool* g, Py_ssize_t height, Py_ssize_t width, Py_ssize_t p, Py_ssize_t q, int kernel_h, int kernel_w,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w,
) noexcept nogil:
    g.height, g.width, g.p, g.q, g.taps_w = height, width, p, q, kernel_w
    g.kh, g.kw = min(kernel_h, (height - 1 + top) // dilation_h + 1), min(kernel_w, (width - 1 + left) // dilation_w + 1)
    g.stride_h, g.stride_w, g.top, g.left, g.dilation_h, g.dilation_w = stride_h, stride_w, top, left, dilation_h, dilation_w
    g.span = (q - 1) * stride_w + dilation_w * (g.kw - 1) + 1
    g.inside = min(width, g.span - left)
    g.overlap = dilation_w * (g.kw - 1) // stride_w
    # Longer rows fill their vectors by themselves, and a batch of VL of them, whole vectors of outputs, leaves the cache.
    g.tiled = g.overlap == 0 and q < 128
    g.pitch = (q if g.tiled else (q + g.overlap + VL - 1) // VL * VL) * stride_w
    g.batch = VL if g.tiled else 1
    while 2 * g.batch * q <= BATCH:
        g.batch *= 2


cdef inline Py_ssize_t buffer_bytes(Py_ssize_t values) noexcept nogil:
    """Scratch for one thread, two cache lines from the next: sharing a line halved the speed of two threads."""
    return (values * <Py_ssize_t> sizeof(real) + 127) // 128 * 128 + 128


cdef inline Py_ssize_t line_shift(Pool* g) noexcept nogil:
    """Where the first line starts, for the first column of x to lie on a vector's boundary."""
    return (g.left + VL - 1) // VL * VL - g.left


cdef inline Py_ssize_t line_bytes(Pool* g, Py_ssize_t lines) noexcept nogil:
    """Lines, and what vectors read and write behind the last one."""
    return buffer_bytes(line_shift(g) + lines * g.pitch + (VL + g.overlap + 2) * g.stride_w + 2 * VL)


cdef inline vf load_before(const real* p, const real* end) noexcept nogil:
    """The vector at p; nothing is read from `end` on."""
    cdef real lanes[VL]
    cdef Py_ssize_t j
    if p + VL <= end:
        return load(p)
    for j in range(VL):
        lanes[j] = p[j] if p + j < end else 0
    return load(lanes)


cdef inline void fill(real* dst, Py_ssize_t start, Py_ssize_t stop, vf v) noexcept nogil:
    """dst[start:stop] = v, and up to a vector more."""
    while start < stop:
        store(dst + start, v)
        start += VL
