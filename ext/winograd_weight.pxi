# 3 x 3 and 5 x 5 convolution at stride 1, gradient with respect to the filters, by Winograd's minimal filtering,
# F(r x r, m x m), and of kernels of one row or one column, F(r, m) along it (winograd_lines.pxi).
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
    enum: VECTORS_OF_LINE

cdef enum:
    HALF_COLUMNS = 8            # a power of two, no less than the columns of a tile


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
    int side                    # columns of a tile
    int rows                    # and rows
    int taps                    # of dy, gradients along a tile of one row or column; of x 0
    real* values                # transformed: [value][panel][tile][pitch] of x, [value][tile][channel] of dy
    Py_ssize_t pitch            # from one tile to the next
    Py_ssize_t panel            # from PANEL channels to the next
    Py_ssize_t value            # from one value to the next


cdef struct WinogradWeight:
    int m
    int size
    bint flat                   # whether tiles are of one row or one column,
    bint upright                # and which of them
    int high                    # gradients down a tile, m or 1,
    int wide                    # and across
    int values                  # of a transformed tile
    Py_ssize_t lines            # lines of tiles in an image,
    Py_ssize_t segments         # of which so many make a row of tiles: with `flat`, else 1
    Py_ssize_t across           # tiles in a line
    Py_ssize_t total            # lines in all images
    Py_ssize_t block            # lines of a block
    Py_ssize_t shards           # of the lines; 1 where there are parts of the channels, of x and of dy
    Py_ssize_t x_parts
    Py_ssize_t dy_parts
    Part x
    Part dy
    Py_ssize_t taps             # of a filter's channel in dw,
    Py_ssize_t live             # of which so many are made at once
    real* biases                # [line][channel of dy], NULL for none
    Py_ssize_t bias_pitch
    Py_ssize_t* step            # k times the pitch of x
    real* sums                  # of a unit: [value][filter][channel], filters `ldc` apart
    Py_ssize_t ldc
    Py_ssize_t sum_value
    Py_ssize_t unit_sums        # values from one unit's to the next
    char* workspace
    int threads
    Py_ssize_t copy_bytes       # of one thread: a line's copy; its transformed tiles lie behind,
    Py_ssize_t sums_place       # and from here on the sums of its units
    Py_ssize_t workspace_bytes


cdef inline Py_ssize_t part_columns(const WinogradWeight* g, const Part* part) noexcept nogil:
    """Columns that a line of tiles reads."""
    return (g.across - 1) * g.wide + part.side


cdef inline bint is_narrow(const WinogradWeight* g, const Part* part) noexcept nogil:
    """Whether images are up to half a vector wide, and lie within the columns that are read."""
    return g.segments == 1 and 2 * part.width <= VL and 0 <= part.left <= part_columns(g, part) - part.width


cdef void copy_narrow(
    Part* part, const real* src, Py_ssize_t channels, Py_ssize_t top, Py_ssize_t columns, real* dst
) noexcept nogil:
    """What copy_channels does, from row `top` on, of narrow images: their rows are transposed as one, to the end of dst, and
    moved from there."""
    cdef Py_ssize_t first = max(0, top), rows = max(0, min(part.height, top + part.rows) - first), width = part.width, i, k
    cdef const real* row = dst + (part.rows * columns - rows * width) * VL
    if rows > 0:
        transpose_run(src + first * width, part.end, part.height * width, channels, rows * width, <real*> row, VL)
    for i in range(part.rows):
        if not first <= top + i < first + rows:
            zero_run(dst, columns * VL)
        else:
            zero_run(dst, part.left * VL)
            for k in range(width):
                store(dst + (part.left + k) * VL, load(row + k * VL))
            zero_run(dst + (part.left + width) * VL, (columns - part.left - width) * VL)
            row += width * VL
        dst += columns * VL


cdef inline Py_ssize_t row_number(const WinogradWeight* g, Py_ssize_t inside) noexcept nogil:
    """The row of tiles of an image that its line number `inside` is a part of. Most are all of one, and divisions are slow."""
    return inside if g.segments == 1 else inside // g.segments


cdef void copy_channels(
    const WinogradWeight* g, const Part* part, const real* src, Py_ssize_t channels, Py_ssize_t inside, bint first, real* dst,
    const real** rows
) noexcept nogil:
    """What the line of tiles number `inside` of an image reads of up to VL channels: `rows` of [column][VL], zero outside the
    image, in dst. Rows that lines share stay where they are: unless it is the `first` one, the line before has copied them."""
    cdef Py_ssize_t columns = part_columns(g, part), area = part.height * part.width, place, i
    cdef Py_ssize_t row_of = row_number(g, inside), h = row_of * g.high - part.top
    cdef Py_ssize_t left = part.left - (inside - row_of * g.segments) * g.across * g.wide
    cdef Py_ssize_t begin = min(columns, max(0, left)), last = max(begin, min(columns, part.width + left))
    cdef bint narrow = is_narrow(g, part)
    cdef real* row
    place = 0 if narrow else row_of * g.high % part.rows
    if narrow:
        copy_narrow(part, src, channels, h, columns, dst)
    for i in range(part.rows):
        row = dst + place * columns * VL
        rows[i] = row
        place = place + 1 if place + 1 < part.rows else 0
        if narrow or i < part.rows - g.high and inside > 0 and not first and g.segments == 1:
            continue
        if 0 <= h + i < part.height:
            zero_run(row, begin * VL)
            transpose_run(src + (h + i) * part.width + begin - left, part.end, area, channels, last - begin,
                          row + begin * VL, VL)
            zero_run(row + last * VL, (columns - last) * VL)
        else:
            zero_run(row, columns * VL)


cdef inline void gradient_axis "convlayers_winograd_gradient_axis"(int size, int taps, const vf* d, vf* v) noexcept nogil:
    """B^T d for inputs, where taps is 0, else G g for as many gradients."""
    if taps > 0:
        winograd_filter(size, taps, d, 1, v, 1)
    else:
        winograd_input(size, d, 1, v, 1)


cdef inline void gradient_tile "convlayers_winograd_gradient_tile"(
    int size, int taps, const real** rows, Py_ssize_t column, int slot, int known, real* half, real* dst, Py_ssize_t ldv
) noexcept nogil:
    """One tile of VL channels, from a column of the rows on: each column first, but for those that the tile before has left in
    `half`, a ring of HALF_COLUMNS; then each row."""
    cdef vf v[6]
    cdef vf d[6]
    cdef real* at
    cdef int i, j, side = taps if taps > 0 else size
    for j in range(known, side):
        for i in range(side):
            d[i] = load(rows[i] + (column + j) * VL)
        gradient_axis(size, taps, d, v)
        at = half + (slot + j) % HALF_COLUMNS * size * VL
        for i in range(size):
            store(at + i * VL, v[i])
    for i in range(size):
        for j in range(side):
            d[j] = load(half + ((slot + j) % HALF_COLUMNS * size + i) * VL)
        gradient_axis(size, taps, d, v)
        for j in range(size):
            store(dst + (i * size + j) * ldv, v[j])


cdef inline void ask_channels(
    const WinogradWeight* g, const Part* part, const real* src, Py_ssize_t inside, Py_ssize_t first, Py_ssize_t last
) noexcept nogil:
    """Ask for the rows that line of tiles number `inside` of an image is the first to read, of the channels first .. last - 1
    from src on."""
    cdef Py_ssize_t row_of = row_number(g, inside), h = row_of * g.high - part.top + part.rows - g.high, c, at
    cdef Py_ssize_t area = part.height * part.width, values = min(g.high, part.height - h) * part.width
    cdef Py_ssize_t start = (inside - row_of * g.segments) * g.across * g.wide
    cdef Py_ssize_t nbytes = (values if g.segments == 1 else min(values - start, g.across * g.wide)) * <Py_ssize_t> sizeof(real)
    src += h * part.width + start
    for c in range(first, last):
        for at in range(0, nbytes, 64):
            prefetch_far(<const char*> (src + c * area) + at)


cdef inline vf sum_copy(const real* copy, Py_ssize_t count) noexcept nogil:
    """Of `count` vectors."""
    cdef vf a = splat(0), b = splat(0)
    cdef Py_ssize_t k
    for k in range(count // 2):
        a = a + load(copy + 2 * k * VL)
        b = b + load(copy + (2 * k + 1) * VL)
    if count % 2:
        a = a + load(copy + (count - 1) * VL)
    return a + b


# What VL channels of a line are transformed from.
cdef struct Channels:
    const real* rows[ALONG]
    real* half                  # tiles on their way


cdef inline void gradient_vector(WinogradWeight* g, Part* part, Channels* source, Py_ssize_t j, real* dst) noexcept nogil:
    """Tile j of a line, for VL channels.

    Where the compiler knows the slots of `half`, 16 channels took 0.95 of the time (Zen 3). In every module that would
    be too much for the wheel.
    """
    cdef int known = 0 if j == 0 else part.side - g.m
    if g.flat:
        gradients_along(source.rows, j * g.wide, part.taps, g.upright, dst, part.value)
    elif ASKS and MR == 6 and part.side == 6 and known == 2 and j % 2:
        gradient_tile(6, 0, source.rows, j * 4, 4, 2, source.half, dst, part.value)
    elif ASKS and MR == 6 and part.side == 6 and known == 2:
        gradient_tile(6, 0, source.rows, j * 4, 0, 2, source.half, dst, part.value)
    elif part.side == 6:
        gradient_tile(6, 0, source.rows, j * g.m, j * g.m, known, source.half, dst, part.value)
    elif part.side == 2 and g.size == 6:
        gradient_tile(6, 2, source.rows, j * 2, 0, 0, source.half, dst, part.value)
    elif part.side == 2:
        gradient_tile(4, 2, source.rows, j * 2, 0, 0, source.half, dst, part.value)
    elif g.m == 4:
        gradient_tile(6, 4, source.rows, j * 4, 0, 0, source.half, dst, part.value)
    else:
        gradient_tile(4, 0, source.rows, j * 2, j * 2, known, source.half, dst, part.value)


cdef inline Py_ssize_t copy_values(const WinogradWeight* g, const Part* part) noexcept nogil:
    """Of VL channels: the copy of a line and `half`."""
    return (part.rows * part_columns(g, part) + HALF_COLUMNS * g.size) * VL


cdef void transform_lines(WinogradWeight* g, Part* part, Py_ssize_t start, Py_ssize_t lines, real* copy) noexcept nogil:
    """The tiles of the lines of a block, of which `start` is the first.

    The channels of a line of the cache at a time, tile by tile: the second vector of a line finds it in the first level.
    """
    cdef Py_ssize_t size = copy_values(g, part), area = part.height * part.width, c0 = 0, some, asked, line, inside, next, u, j
    cdef Channels channels[VECTORS_OF_LINE]
    cdef const real* src
    cdef const real* behind
    cdef real* dst
    while c0 < part.channels:
        some = min(LINE_CHANNELS, part.channels - c0)
        asked = (some + g.across - 1) // g.across
        dst = part.values + c0 // PANEL * part.panel + c0 % PANEL
        src, inside = part.src + start // g.lines * part.image + c0 * area, start % g.lines
        for line in range(start, start + lines):
            for u in range(vectors_over(some)):
                channels[u].half = copy + (u + 1) * size - HALF_COLUMNS * g.size * VL
                copy_channels(g, part, src + u * VL * area, min(VL, some - u * VL), inside, line == start, copy + u * size,
                              channels[u].rows)
                if part == &g.dy and g.biases != NULL:
                    store(g.biases + line * g.bias_pitch + c0 + u * VL, sum_copy(copy + u * size, g.high * g.wide * g.across))
            behind, next = src, inside + 1
            if next == g.lines:
                behind, next = src + part.image, 0
            for j in range(g.across):
                if line + 1 < start + lines:
                    ask_channels(g, part, behind, next, j * asked, min(some, (j + 1) * asked))
                for u in range(vectors_over(some)):
                    gradient_vector(g, part, channels + u, j, dst + u * VL)
                dst += part.pitch
            src, inside = behind, next
        c0 += LINE_CHANNELS
