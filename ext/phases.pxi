# An image as its phases, each of every s-th row and every t-th column, and back.
#
#     phases[n, a, b, c, i, j] = image[n, c, s i + a - top, t j + b - left]        0 outside the image
#
# image (N,C,H,W), phases (N,s,t,C,H',W'), 0 <= top < s, 0 <= left < t. As channels of an image they make of a convolution at
# stride 2 one at stride 1 (functional/algorithms/winograd_phases.py), as images of their own of one with a dilation one without
# (winograd_dilated.py). Each output is one input: the same bits for any thread.

cdef struct Phases:
    Py_ssize_t height           # of the image
    Py_ssize_t width
    Py_ssize_t down             # of a phase
    Py_ssize_t across
    Py_ssize_t next             # values from one phase to the next
    int top
    int left
    int down_step
    int across_step
    const real* end             # of the phases
    const real* images_end


cdef void split_row(const real* src, Py_ssize_t width, real* first, real* second) noexcept nogil:
    """Columns by turns, beginning with `first`."""
    cdef Py_ssize_t j
    for j in range(width // 2):
        first[j] = src[2 * j]
        second[j] = src[2 * j + 1]
    if width % 2:
        first[width // 2] = src[width - 1]


cdef void join_row(const real* first, const real* second, Py_ssize_t width, real* dst) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(width // 2):
        dst[2 * j] = first[j]
        dst[2 * j + 1] = second[j]
    if width % 2:
        dst[width - 1] = first[width // 2]


cdef bint have_vectors(const Phases* g, Py_ssize_t rows, real* phases, real** of) noexcept nogil:
    """Whether rows move whole, by vectors from three phases on; of[k] becomes where the image's column k goes."""
    cdef Py_ssize_t k, reach = (rows - 1) * g.across + ((g.width - 1) // g.across_step // VL + 1) * VL
    if not 2 <= g.across_step <= MOST_STRIDES:
        return False
    for k in range(g.across_step):
        of[k] = phases + (k + g.left) % g.across_step * g.next + (k + g.left) // g.across_step
        if g.across_step > 2 and of[k] + reach > g.end:
            return False
    return True


cdef inline void part_vectors(const real* src, Py_ssize_t step, real** to, Py_ssize_t j) noexcept nogil:
    """The inverse of join_vectors; of three, it reads two values behind the last one."""
    cdef vf a, b, c, d
    cdef Py_ssize_t k
    if step == 3:
        for k in range(3):
            store(to[k] + j, vthirds(load(src + k), load(src + k + VL), load(src + k + PANEL)))
        return
    a, b, c, d = load(src), load(src + VL), load(src + PANEL), load(src + PANEL + VL)
    a, b, c, d = vevens(a, b), vodds(a, b), vevens(c, d), vodds(c, d)
    store(to[0] + j, vevens(a, c))
    store(to[1] + j, vevens(b, d))
    store(to[2] + j, vodds(a, c))
    store(to[3] + j, vodds(b, d))


cdef void spread_row(const Phases* g, const real* image, real** to) noexcept nogil:
    """A row of the image to those of three or four phases of columns: no more than they have, for the rest is others'."""
    cdef Py_ssize_t step = g.across_step, j = 0, i = 0, k
    while i + step * VL <= g.width and image + i + step * VL + 2 <= g.images_end:
        part_vectors(image + i, step, to, j)
        i += step * VL
        j += VL
    while i < g.width:
        for k in range(min(step, g.width - i)):
            to[k][j] = image[i + k]
        i += step
        j += 1


cdef void move_columns(
    const Phases* g, Py_ssize_t rows, Py_ssize_t column, real* image, real* phase, bint join
) noexcept nogil:
    """Every step-th column from one on, value by value."""
    cdef Py_ssize_t step = g.across_step, count = (g.width - column + step - 1) // step, r, j
    image += column
    for r in range(rows):
        if join:
            for j in range(count):
                image[j * step] = phase[j]
        else:
            for j in range(count):
                phase[j] = image[j * step]
        image += g.down_step * g.width
        phase += g.across


cdef void move_row(const Phases* g, real* image, real** of, bint join) noexcept nogil:
    """A row of the image, to or from the rows of two to four phases of columns."""
    if g.across_step == 2 and join:
        join_row(of[0], of[1], g.width, image)
    elif g.across_step == 2:
        split_row(image, g.width, of[0], of[1])
    elif join:
        interleave_row(<const real**> of, g.across_step, g.width, image, image + g.width)
    else:
        spread_row(g, image, of)


cdef void move_rows(const Phases* g, Py_ssize_t rows, real* image, real* phases, bint join) noexcept nogil:
    """Every step-th row of the image, to or from the rows of its phases of columns."""
    cdef real* of[MOST_STRIDES]
    cdef real* phase
    cdef Py_ssize_t r, k
    cdef bint by_rows = have_vectors(g, rows, phases, of)
    for k in range(min(g.across_step, g.width)):
        if not by_rows:
            phase = phases + (k + g.left) % g.across_step * g.next + (k + g.left) // g.across_step
            move_columns(g, rows, k, image, phase, join)
    if by_rows:
        for r in range(rows):
            move_row(g, image, of, join)
            image += g.down_step * g.width
            for k in range(g.across_step):
                of[k] += g.across


cdef void move_channel(const Phases* g, real* image, real* phases, bint join) noexcept nogil:
    cdef Py_ssize_t area = g.down * g.across, row, k
    cdef bint full = g.down_step * g.down == g.height and g.across_step * g.across == g.width
    if not join and (g.top or g.left or not full):
        for k in range(g.down_step * g.across_step):
            memset(phases + k * g.next, 0, area * sizeof(real))
    for row in range(min(g.down_step, g.height)):
        k = (row + g.top) % g.down_step * g.across_step * g.next + (row + g.top) // g.down_step * g.across
        move_rows(g, (g.height - row + g.down_step - 1) // g.down_step, image + row * g.width, phases + k, join)


def phases(
    const real[:, :, :, ::1] src, real[:, :, :, ::1] dst, int top, int left, int down_step, int across_step, bint join,
    int threads, /
):
    """Fill dst with the phases of the images src, or with `join` with the images whose phases are src."""
    cdef Phases g
    cdef Py_ssize_t channels = dst.shape[1] if join else src.shape[1], units, unit, u
    cdef real* images = &dst[0, 0, 0, 0] if join else <real*> &src[0, 0, 0, 0]
    cdef real* parts = <real*> &src[0, 0, 0, 0] if join else &dst[0, 0, 0, 0]
    g.top, g.left, g.down_step, g.across_step = top, left, down_step, across_step
    if join:
        g.height, g.width, g.down, g.across, units = dst.shape[2], dst.shape[3], src.shape[2], src.shape[3], dst.shape[0]
    else:
        g.height, g.width, g.down, g.across, units = src.shape[2], src.shape[3], dst.shape[2], dst.shape[3], src.shape[0]
    g.next = channels * g.down * g.across
    g.images_end = images + units * channels * g.height * g.width
    g.end = parts + units * down_step * across_step * g.next
    for unit in prange(units * channels, nogil=True, num_threads=threads, schedule="static"):
        u = unit // channels * (down_step * across_step - 1) * channels + unit
        move_channel(&g, images + unit * g.height * g.width, parts + u * g.down * g.across, join)
