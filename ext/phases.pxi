# An image as its four phases, each of every second row and every second column, and back.
#
#     phases[n, (2 a + b) C + c, i, j] = image[n, c, 2 i + a - top, 2 j + b - left]        0 outside the image
#
# image (N,C,H,W), phases (N,4C,H',W'), top and left 0 or 1. With them a convolution at stride 2 is one at stride 1
# (functional/algorithms/winograd_phases.py). Each output is one input: the same bits for any thread.

cdef struct Phases:
    Py_ssize_t height           # of the image
    Py_ssize_t width
    Py_ssize_t down             # of a phase
    Py_ssize_t across
    Py_ssize_t next             # values from one phase to the next
    int top
    int left


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


cdef void split_channel(const Phases* g, const real* image, real* phases) noexcept nogil:
    cdef Py_ssize_t area = g.down * g.across, r, k
    cdef real* row
    if g.top or g.left or 2 * g.down != g.height or 2 * g.across != g.width:
        for k in range(4):
            memset(phases + k * g.next, 0, area * sizeof(real))
    for r in range(g.height):
        row = phases + (r + g.top) % 2 * 2 * g.next + (r + g.top) // 2 * g.across
        split_row(image + r * g.width, g.width, row + g.left * g.next, row + g.next if not g.left else row + 1)


cdef void join_channel(const Phases* g, const real* phases, real* image) noexcept nogil:
    cdef Py_ssize_t r
    cdef const real* row
    for r in range(g.height):
        row = phases + (r + g.top) % 2 * 2 * g.next + (r + g.top) // 2 * g.across
        join_row(row + g.left * g.next, row + g.next if not g.left else row + 1, g.width, image + r * g.width)


def phases(
    const real[:, :, :, ::1] src, real[:, :, :, ::1] dst, int top, int left, bint join, int threads, /
):
    """Fill dst with the phases of the images src, or with `join` with the images whose phases are src."""
    cdef Phases g
    cdef Py_ssize_t images = src.shape[0], channels = dst.shape[1] if join else src.shape[1], n, unit
    g.top, g.left = top, left
    if join:
        g.height, g.width, g.down, g.across = dst.shape[2], dst.shape[3], src.shape[2], src.shape[3]
    else:
        g.height, g.width, g.down, g.across = src.shape[2], src.shape[3], dst.shape[2], dst.shape[3]
    g.next = channels * g.down * g.across
    for unit in prange(images * channels, nogil=True, num_threads=threads, schedule="static"):
        n = unit // channels
        if join:
            join_channel(&g, &src[0, 0, 0, 0] + (n * 3 * channels + unit) * g.down * g.across,
                         &dst[0, 0, 0, 0] + unit * g.height * g.width)
        else:
            split_channel(&g, &src[0, 0, 0, 0] + unit * g.height * g.width,
                          &dst[0, 0, 0, 0] + (n * 3 * channels + unit) * g.down * g.across)
