# 3 x 3 and 5 x 5 convolution at stride 1, gradient with respect to the filters, by Winograd's minimal filtering,
# F(r x r, m x m).
#
#     dW_mc = A^T [ sum_tiles (G dy_m G^T) o (B^T x_c B) ] A
#
# x (N,C,H,W), dy (N,M,P,Q), dw (M,C/g,r,r); with r = 3, m is 2 or 4, with r = 5 it is 2. A tile is m x m gradients and the
# s x s inputs that they saw, s = m + r - 1. The sum over tiles is, for each of the s^2 values of a transformed tile, a matrix
# product [M, tiles] [tiles, C]: with m = 4, 36 multiply-adds for 144 of the definition, with r = 5 for 100. Lanes of a vector
# are channels.
#
# A unit of work is a shard of the lines of tiles, or some channels of x and some of dy, as winograd_sums.pxi cuts them. Here is
# how a line of tiles is transformed.
#
# The bias's gradient is summed line by line of tiles, from the copies that dy's are transformed from.


cdef extern from "vec.h" nogil:
    enum: LINE_CHANNELS


# One operand: x or dy.
cdef struct Part:
    const real* src
    const real* end
    Py_ssize_t channels         # per group
    Py_ssize_t image            # values from one image to the next
    Py_ssize_t height
    Py_ssize_t width
    Py_ssize_t top              # the first tile begins so many rows above the image
    Py_ssize_t left
    int side                    # rows and columns of a tile
    real* values                # transformed: [value][panel][tile][pitch] of x, [value][tile][channel] of dy
    Py_ssize_t pitch            # from one tile to the next
    Py_ssize_t panel            # from PANEL channels to the next
    Py_ssize_t value            # from one value to the next


cdef struct WinogradWeight:
    int m
    int size
    Py_ssize_t lines            # lines of tiles in an image
    Py_ssize_t across           # tiles in a line
    Py_ssize_t total            # lines in all images
    Py_ssize_t block            # lines of a block
    Py_ssize_t shards           # of the lines; 1 where there are parts of the channels, of x and of dy
    Py_ssize_t x_parts
    Py_ssize_t dy_parts
    Part x
    Part dy
    real* biases                # [line][channel of dy], NULL for none
    Py_ssize_t bias_pitch
    Py_ssize_t* step            # k times the pitch of x
    real* sums                  # of a unit: [value][filter][channel], filters `ldc` apart
    Py_ssize_t ldc
    Py_ssize_t sum_value
    Py_ssize_t unit_sums        # values from one unit's to the next
    char* workspace
    int threads
    Py_ssize_t copy_bytes       # of one thread: a line's copy or packed gradients; its transformed tiles lie behind,
    Py_ssize_t sums_place       # and from here on the sums of its units
    Py_ssize_t workspace_bytes


cdef void copy_narrow(
    Part* part, const real* src, Py_ssize_t channels, Py_ssize_t top, Py_ssize_t begin, Py_ssize_t columns, real* dst
) noexcept nogil:
    """What copy_channels does, from row `top` on, of images of up to half a vector's width: their rows are transposed as one,
    to the end of dst, and moved from there."""
    cdef Py_ssize_t first = max(0, top), rows = min(part.height, top + part.side) - first, width = part.width, i, k
    cdef const real* row = dst + (part.side * columns - rows * width) * VL
    transpose_run(src + first * width, part.end, part.height * width, channels, rows * width, <real*> row, VL)
    for i in range(part.side):
        if not first <= top + i < first + rows:
            zero_run(dst, columns * VL)
        else:
            zero_run(dst, begin * VL)
            for k in range(width):
                store(dst + (begin + k) * VL, load(row + k * VL))
            zero_run(dst + (begin + width) * VL, (columns - begin - width) * VL)
            row += width * VL
        dst += columns * VL


cdef void copy_channels(
    WinogradWeight* g, Part* part, Py_ssize_t line, Py_ssize_t c0, real* dst
) noexcept nogil:
    """What a line of tiles reads of up to VL channels: [row][column][VL], zero outside the image."""
    cdef Py_ssize_t columns = (g.across - 1) * g.m + part.side, area = part.height * part.width, h, i
    cdef Py_ssize_t begin = min(columns, max(0, part.left)), last = max(begin, min(columns, part.width + part.left))
    cdef const real* src = part.src + line // g.lines * part.image + c0 * area
    h = line % g.lines * g.m - part.top
    if 2 * part.width <= VL and part.left >= 0 and last - begin == part.width and h < part.height and h + part.side > 0:
        copy_narrow(part, src, min(VL, part.channels - c0), h, begin, columns, dst)
        return
    for i in range(part.side):
        h = line % g.lines * g.m + i - part.top
        if 0 <= h < part.height:
            zero_run(dst, begin * VL)
            transpose_run(src + h * part.width + begin - part.left, part.end, area, min(VL, part.channels - c0), last - begin,
                          dst + begin * VL, VL)
            zero_run(dst + last * VL, (columns - last) * VL)
        else:
            zero_run(dst, columns * VL)
        dst += columns * VL


cdef inline void gradient_tile "convlayers_winograd_gradient_tile"(
    int size, int taps, const real* copy, Py_ssize_t row, real* dst, Py_ssize_t ldv
) noexcept nogil:
    """One tile of VL channels: B^T d B for inputs, where taps is 0, else G g G^T for gradients of taps x taps."""
    cdef vf half[36]
    cdef vf v[6]
    cdef vf d[6]
    cdef int i, j, side = taps if taps > 0 else size
    for i in range(side):
        for j in range(side):
            d[j] = load(copy + i * row + j * VL)
        if taps > 0:
            winograd_filter(size, taps, d, 1, half + size * i, 1)
        else:
            winograd_input(size, d, 1, half + size * i, 1)
    for j in range(size):
        if taps > 0:
            winograd_filter(size, taps, half + j, size, v, 1)
        else:
            winograd_input(size, half + j, size, v, 1)
        for i in range(size):
            store(dst + (i * size + j) * ldv, v[i])


cdef inline void ask_channels(
    WinogradWeight* g, Part* part, Py_ssize_t line, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Ask for the rows that a line of tiles is the first to read, of the channels first .. last - 1."""
    cdef Py_ssize_t h = line % g.lines * g.m - part.top + part.side - g.m, area = part.height * part.width, c, at
    cdef Py_ssize_t nbytes = min(g.m, part.height - h) * part.width * <Py_ssize_t> sizeof(real)
    cdef const real* src = part.src + line // g.lines * part.image + h * part.width
    for c in range(first, min(last, part.channels)):
        for at in range(0, nbytes, 64):
            prefetch_far(<const char*> (src + c * area) + at)


cdef inline vf sum_copy(const real* copy, Py_ssize_t count) noexcept nogil:
    """Of `count` vectors, an even number."""
    cdef vf a = splat(0), b = splat(0)
    cdef Py_ssize_t k
    for k in range(count // 2):
        a = a + load(copy + 2 * k * VL)
        b = b + load(copy + (2 * k + 1) * VL)
    return a + b


cdef inline void gradient_vector(WinogradWeight* g, Part* part, const real* copy, Py_ssize_t row, real* dst) noexcept nogil:
    """One tile, for VL channels."""
    if part.side == 6:
        gradient_tile(6, 0, copy, row, dst, part.value)
    elif part.side == 2 and g.size == 6:
        gradient_tile(6, 2, copy, row, dst, part.value)
    elif part.side == 2:
        gradient_tile(4, 2, copy, row, dst, part.value)
    elif g.m == 4:
        gradient_tile(6, 4, copy, row, dst, part.value)
    else:
        gradient_tile(4, 0, copy, row, dst, part.value)


cdef void transform_line(WinogradWeight* g, Part* part, Py_ssize_t line, Py_ssize_t at, real* copy) noexcept nogil:
    """The tiles of one line; `at` is the first one's place within the block.

    The channels of a line of the cache at a time, tile by tile: the second vector of a line finds it in the first level.
    """
    cdef Py_ssize_t columns = (g.across - 1) * g.m + part.side, size = part.side * columns * VL, c0 = 0, some, u, j
    cdef real* dst
    while c0 < part.channels:
        some = min(LINE_CHANNELS, part.channels - c0)
        for u in range(vectors_over(some)):
            copy_channels(g, part, line, c0 + u * VL, copy + u * size)
            if part == &g.dy and g.biases != NULL:
                store(g.biases + line * g.bias_pitch + c0 + u * VL, sum_copy(copy + u * size, g.m * g.m * g.across))
        dst = part.values + at * part.pitch + c0 // PANEL * part.panel + c0 % PANEL
        for j in range(g.across):
            if line + 1 < g.total:
                ask_channels(g, part, line + 1, c0 + j * some // g.across, c0 + (j + 1) * some // g.across)
            for u in range(vectors_over(some)):
                gradient_vector(g, part, copy + u * size + j * g.m * VL, columns * VL, dst + u * VL)
            dst += part.pitch
        c0 += LINE_CHANNELS
