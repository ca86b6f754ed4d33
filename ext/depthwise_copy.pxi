# The copies around a depthwise convolution: the source's planes into the layout of depthwise_plan.pxi, and outputs back.

cdef extern from "vec.h" nogil:
    vmask vless(vf, vf)


# The margins of the copy are zero before the first unit, and every unit leaves them so: the last vector of a row of pixels is
# written with zeros behind them, over what is margin or written later. Lines outside the image are zeroed each time where
# blocks of rows share the copy.

cdef struct Copy "convlayers_copy":
    const real* src             # the first pixel
    Py_ssize_t row              # from one line's row to the next
    Py_ssize_t lines
    Py_ssize_t vectors          # of a line
    real* even                  # where it goes
    real* odd                   # with step 2, where the pixel behind it goes; or NULL
    Py_ssize_t pitch
    vmask even_rest             # the lanes of the last vector that hold pixels
    vmask odd_rest


cdef inline void copy_lines "convlayers_copy_lines"(Py_ssize_t step, Py_ssize_t vectors, Copy* c) noexcept nogil:
    """Lines of one phase, step 1 or 2, or of both phases of step 2: each pixel is loaded once."""
    cdef const real* src = c.src
    cdef real* even = c.even
    cdef real* odd = c.odd
    cdef Py_ssize_t row = c.row, pitch = c.pitch, lines = c.lines, i, v
    cdef vmask even_rest = c.even_rest, odd_rest = c.odd_rest
    cdef vf a, b, x
    for i in range(lines):
        for v in range(vectors):
            a = load(src + v * step * VL)
            x = a
            if step == 2:
                b = load(src + v * step * VL + VL)
                x = vevens(a, b)
                if odd != NULL:
                    b = vodds(a, b)
                    if v == vectors - 1:
                        b = vselect(odd_rest, b, splat(0))
                    store(odd + v * VL, b)
            if v == vectors - 1:
                x = vselect(even_rest, x, splat(0))
            store(even + v * VL, x)
        src += row
        even += pitch
        if odd != NULL:
            odd += pitch


cdef inline void copy_vectors "convlayers_copy_vectors"(Py_ssize_t step, Copy* c) noexcept nogil:
    """Narrow images have a constant number of vectors."""
    if c.vectors == 1:
        copy_lines(step, 1, c)
    elif c.vectors == 2:
        copy_lines(step, 2, c)
    else:
        copy_lines(step, c.vectors, c)


cdef void set_copy(Depthwise* g, Copy* c) noexcept nogil:
    """What the copies of all images have in common."""
    cdef Phase* odd = g.odd if g.odd != NULL else g.even
    c.row, c.pitch, c.odd = g.rows.axis.step * g.cols.source, g.pitch, NULL
    c.vectors = vectors_over(max(g.even.count, odd.count))
    c.even_rest = vless(load(g.lanes), splat(g.even.count - (c.vectors - 1) * VL))
    c.odd_rest = vless(load(g.lanes), splat(odd.count - (c.vectors - 1) * VL))


cdef void copy_rest(Depthwise* g, const real* src, Py_ssize_t row, Py_ssize_t begin, Py_ssize_t end, real* dst) noexcept nogil:
    """Lines begin .. end, value by value."""
    cdef Py_ssize_t b, i, j
    cdef Phase* phase
    for b in range(g.cols.phases):
        phase = g.phases + b
        for i in range(begin, end):
            for j in range(phase.count):
                dst[(b * g.lines + i) * g.pitch + phase.first + j] = src[i * row + phase.start + j * g.cols.axis.step]


cdef void copy_image(Depthwise* g, Copy* c, const real* src, Py_ssize_t lines, real* dst) noexcept nogil:
    """Lines of one row phase of one image, each column phase in a plane of its own."""
    cdef Py_ssize_t step = g.cols.axis.step, span = g.even.start + step * c.vectors * VL
    c.lines = lines if step <= 2 else 0
    # Whole vectors are read as long as they end within the source.
    if c.lines and src + (lines - 1) * c.row + span > g.src_end:
        c.lines = max(0, floor_div(g.src_end - src - span, c.row) + 1)
    c.src, c.even = src + g.even.start, dst + (g.even - g.phases) * g.lines * g.pitch + g.even.first
    if g.odd != NULL:
        c.odd = dst + (g.odd - g.phases) * g.lines * g.pitch + g.odd.first
    if step == 1:
        copy_vectors(1, c)
    else:
        copy_vectors(2, c)
    if c.lines < lines:
        copy_rest(g, src, c.row, c.lines, lines, dst)


cdef void zero_lines(real* dst, Py_ssize_t planes, Py_ssize_t plane, Py_ssize_t lines, Py_ssize_t pitch,
                     Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t n, i
    for n in range(planes):
        for i in range(lines):
            memset(dst + n * plane + i * pitch, 0, count * sizeof(real))


cdef void copy_cells(Depthwise* g, const real* src, Py_ssize_t images, Py_ssize_t first_row, real* dst) noexcept nogil:
    """One plane of each image, padded, side by side in lines, parted by phase."""
    cdef Py_ssize_t a, n, row, top, bottom, step = g.rows.axis.step, plane = g.lines * g.pitch
    cdef Copy c
    set_copy(g, &c)
    for a in range(g.rows.phases):
        row = (first_row + g.rows.low) * step + g.rows.axis.phase[a]
        top = min(g.lines, max(0, -floor_div(row, step)))
        bottom = max(top, min(g.lines, floor_div(g.rows.source - 1 - row, step) + 1))
        row += top * step
        for n in range(images):
            copy_image(g, &c, src + n * g.src.image + row * g.cols.source, bottom - top, dst + top * g.pitch + n * g.cell)
        if g.blocks > 1:
            zero_lines(dst, g.cols.phases, plane, top, g.pitch, g.side * g.cell)
            zero_lines(dst + bottom * g.pitch, g.cols.phases, plane, g.lines - bottom, g.pitch, g.side * g.cell)
        if images < g.side:
            zero_lines(dst + images * g.cell, g.cols.phases, plane, g.lines, g.pitch, (g.side - images) * g.cell)
        dst += g.cols.phases * plane


cdef struct Put "convlayers_put":
    const real* even            # what goes to the first pixel of a row, and on
    const real* odd             # what goes between them, with stride 2
    Py_ssize_t pitch
    Py_ssize_t lines
    Py_ssize_t vectors          # of a row of the destination, or (stride 2) pairs of them
    real* dst
    Py_ssize_t row


cdef inline void put_lines "convlayers_put_lines"(int stride, Py_ssize_t vectors, Put* t) noexcept nogil:
    """Rows in whole vectors: what the last of a row writes too much is written again by the next row."""
    cdef const real* even = t.even
    cdef const real* odd = t.odd
    cdef real* dst = t.dst
    cdef Py_ssize_t pitch = t.pitch, row = t.row, lines = t.lines, i, v
    cdef vf a, b
    for i in range(lines):
        for v in range(vectors):
            a = load(even + v * VL)
            if stride == 2:
                b = load(odd + v * VL)
                store(dst + 2 * v * VL, vturns_low(a, b))
                store(dst + 2 * v * VL + VL, vturns_high(a, b))
            else:
                store(dst + v * VL, a)
        even += pitch
        odd += pitch
        dst += row


cdef inline void put_vectors "convlayers_put_vectors"(int stride, Put* t) noexcept nogil:
    if t.vectors == 1:
        put_lines(stride, 1, t)
    elif t.vectors == 2:
        put_lines(stride, 2, t)
    else:
        put_lines(stride, t.vectors, t)


cdef void put_row(Depthwise* g, const real* out, real* dst) noexcept nogil:
    """One row value by value, from the same row of its column grids."""
    cdef Py_ssize_t j, t, stride = g.cols.axis.stride, plane = g.block * g.pitch
    for j in range(g.cols.grids):
        for t in range((g.cols.target - j + stride - 1) // stride):
            dst[j + t * stride] = out[j * plane + t]


cdef void put_image(Depthwise* g, const real* out, Py_ssize_t rows, real* dst) noexcept nogil:
    """Rows of one image, from the first of each row grid on; nothing is written behind them."""
    cdef Py_ssize_t width = g.cols.target, stride = g.rows.axis.stride, plane = g.block * g.pitch, whole = 0, h = 0, i
    cdef int paired = g.cols.axis.stride == 2 and g.cols.grids == 2
    cdef Put t
    t.pitch, t.row, t.vectors = g.pitch, width, 0
    if paired or g.cols.axis.stride == 1:
        t.vectors = (width + (1 + paired) * VL - 1) // ((1 + paired) * VL)
        whole = max(0, rows - (t.vectors * (1 + paired) * VL - 1) // width)
    # Rows of one grid follow each other in the destination, or those of several come by turns.
    t.lines = whole if stride == 1 else 1
    while h < rows:
        for i in range(min(stride, rows - h)):
            t.even = out + i * g.cols.grids * plane
            t.odd = t.even + plane
            t.dst = dst + (h + i) * width
            if h + i >= whole:
                put_row(g, t.even, t.dst)
            elif paired:
                put_vectors(2, &t)
            else:
                put_vectors(1, &t)
        if stride == 1 and h < whole:
            h += whole
            out += whole * g.pitch
        else:
            h += stride
            out += g.pitch


cdef void put_rows(Depthwise* g, const real* out, Py_ssize_t images, Py_ssize_t u0, Py_ssize_t rows, real* dst) noexcept nogil:
    """The rows that sub-grid rows u0 .. u0 + rows make, from [grid][row][image] to each image's plane."""
    cdef Py_ssize_t n, stride = g.rows.axis.stride
    for n in range(images):
        put_image(g, out + n * g.cell, min(g.rows.target - u0 * stride, rows * stride), dst + u0 * stride * g.cols.target)
        dst += g.dst.image


# With ACROSS, lane i of every vector belongs to plane i, and a plane becomes a vector for each of its pixels.

cdef void copy_across(
    const real* src, Py_ssize_t stride, Py_ssize_t planes, Py_ssize_t pixels, const Py_ssize_t* at, real* dst
) noexcept nogil:
    """Up to VL planes, `stride` apart, to a vector for each pixel; lanes without a plane are zero."""
    cdef vf v[VL]
    cdef Py_ssize_t block, j
    cdef int i
    for block in range(vectors_over(pixels)):
        # The last block moves back, over pixels that the one before it has copied as well.
        j = min(block * VL, pixels - VL)
        if planes == VL:
            for i in range(VL):
                v[i] = load(src + i * stride + j)
        else:
            for i in range(VL):
                v[i] = splat(0)
                if i < planes:
                    v[i] = load(src + i * stride + j)
        transpose_square(v)
        for i in range(VL):
            store(dst + at[j + i], v[i])


cdef void put_across(
    const real* src, const Py_ssize_t* at, Py_ssize_t planes, Py_ssize_t stride, Py_ssize_t pixels, real* dst
) noexcept nogil:
    """The way back."""
    cdef vf v[VL]
    cdef Py_ssize_t block, j
    cdef int i
    for block in range(vectors_over(pixels)):
        j = min(block * VL, pixels - VL)
        for i in range(VL):
            v[i] = load(src + at[j + i])
        transpose_square(v)
        for i in range(VL):
            if i < planes:
                store(dst + i * stride + j, v[i])
