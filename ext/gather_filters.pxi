# The filters of a gather, packed for the register tile: tile after tile, [tap][row].

cdef enum:
    TAPS = 64                       # of a kernel that is transposed at once
    CHANNELS_AHEAD = 12             # between what is asked for and what is transposed


cdef inline void ask_taps(const real* w, Py_ssize_t row_stride, Py_ssize_t rows) noexcept nogil:
    """Ask for the taps of a channel: they are too few, or too far from the next one's, for the processor to foresee them.

    Of an input gradient's 512 x 512 filters of 3 x 3, channels are pages apart: 1.1 to 1.6 times for one image (Zen 3).
    """
    cdef Py_ssize_t i
    for i in range(rows):
        prefetch_line(w + i * row_stride, 0)


cdef void pack_taps(
    const real* w, const real* end, Py_ssize_t row_stride, Py_ssize_t channel_stride, Py_ssize_t kernel_width, Gather* g,
    int rows, real* dst
) noexcept nogil:
    """Any taps in any order: all taps of one channel are transposed, then taken as they are needed.

    A row is the taps of a kernel; there are up to MR of them, or PANEL with filters for lanes.
    """
    cdef Py_ssize_t c, r, s, v, tap, pitch = vectors_over(rows) * VL
    cdef real taps[TAPS * (PANEL + MR)]
    for c in range(g.channels):
        ask_taps(w + (c + CHANNELS_AHEAD) * channel_stride, row_stride, rows)
        transpose_run(w + c * channel_stride, end, row_stride, rows, row_stride, taps, pitch)
        for r in range(g.rows.taps):
            for s in range(g.cols.taps):
                tap = g.rows.index[r] * kernel_width + g.cols.index[s]
                for v in range(vectors_over(rows)):
                    store(dst + v * VL, load(taps + tap * pitch + v * VL))
                dst += rows


cdef inline bint is_nine(Gather* g, Py_ssize_t row_stride, const real* last, const real* end) noexcept nogil:
    """Whether all taps of 3 x 3 are in use, with vectors that hold them but for one, which end within the filters. Of float32
    alone, where speed is worth the code, and AVX2, with which it was measured."""
    return ASKS and VL == 8 and row_stride == 9 and g.rows.taps * g.cols.taps == 9 and last + VL <= end


cdef void pack_nine(const real* w, Py_ssize_t channel_stride, Py_ssize_t channels, int rows, real* dst) noexcept nogil:
    """The nine taps in order. The first rows are written last: what the others have too much lies in the next tap."""
    cdef Py_ssize_t c, i, i0
    for c in range(channels):
        ask_taps(w + CHANNELS_AHEAD * channel_stride, 9, rows)
        i0 = (rows - 1) // VL * VL
        while i0 >= 0:
            transpose_vectors(False, w + i0 * 9, 9, min(VL, rows - i0), VL, w, dst + i0, rows)
            i0 -= VL
        for i in range(rows):
            dst[8 * rows + i] = w[9 * i + 8]
        w += channel_stride
        dst += 9 * rows


cdef void pack_tap_by_tap(
    const real* w, Py_ssize_t row_stride, Py_ssize_t channel_stride, Py_ssize_t kernel_width, Gather* g, int rows, real* dst
) noexcept nogil:
    """The same for large kernels."""
    cdef Py_ssize_t c, r, s, i, tap
    for c in range(g.channels):
        for r in range(g.rows.taps):
            for s in range(g.cols.taps):
                tap = g.rows.index[r] * kernel_width + g.cols.index[s]
                for i in range(rows):
                    dst[i] = w[i * row_stride + c * channel_stride + tap]
                dst += rows


cdef void pack_filters(
    const real* w, const real* end, Py_ssize_t row_stride, Py_ssize_t channel_stride, Py_ssize_t kernel_width, Gather* g,
    int rows, const real* scale, real* dst
) noexcept nogil:
    """dst[k * rows + i] = w[i, c, r, s] for the taps k = (c, r, s) in use, and up to a vector behind them; forward, times
    scale[i], unless that is NULL.

    Value by value it took more than half of the time of a single image with 256 channels of 8 x 8.
    """
    cdef Py_ssize_t k, i
    if channel_stride == g.rows.taps * g.cols.taps and row_stride == g.depth:
        # Forward: a filter's taps are neighbours, in this order.
        if scale == NULL:
            transpose_run(w, end, row_stride, rows, g.depth, dst, rows)
        else:
            transpose_scaled(w, end, row_stride, rows, g.depth, scale, dst, rows)
    elif row_stride == 1:
        # The input gradient of a 1 x 1 kernel: the rows are neighbours.
        for k in range(g.depth):
            if rows <= VL and w + VL <= end:
                store(dst + k * rows, load(w))
            else:
                for i in range(rows):
                    dst[k * rows + i] = w[i]
            w += channel_stride
    elif is_nine(g, row_stride, w + (g.channels - 1) * channel_stride + (rows - 1) * row_stride, end):
        pack_nine(w, channel_stride, g.channels, rows, dst)
    elif row_stride <= TAPS:
        pack_taps(w, end, row_stride, channel_stride, kernel_width, g, rows, dst)
    else:
        pack_tap_by_tap(w, row_stride, channel_stride, kernel_width, g, rows, dst)


cdef void pack_tile(Gather* g, Py_ssize_t group, Py_ssize_t t) noexcept nogil:
    """The filters of tile t of one group."""
    cdef Py_ssize_t m = filter_start(g, t), first = group * max(g.filters * g.row_stride, g.channels * g.channel_stride)
    pack_filters(g.w + first + m * g.row_stride, g.w_end, g.row_stride, g.channel_stride, g.kernel_width, g,
                 <int> (filter_start(g, t + 1) - m), g.scale + group * g.filters + m if g.scale != NULL else NULL,
                 g.packed_filters + group * group_filters(g) + m * g.depth + t * VL)
