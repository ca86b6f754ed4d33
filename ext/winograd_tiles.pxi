# Tiles of a Winograd convolution, going in and coming out (see winograd.pxi): rows of one channel are copied with their
# padding, the tiles of a vector transformed, and outputs stored in whole vectors where they belong.

cdef void copy_tile_lines(Winograd* g, const real* src, Py_ssize_t first, Py_ssize_t last, real* dst) noexcept nogil:
    """The rows of one channel that the lines of tiles first .. last - 1 read, padded; those of an image once.

    Writes up to VL - 1 values behind a row. Rows are copied in vectors that run over into the next one where that can be
    done: bounded value by value, they took as long as their transforms.
    """
    cdef Py_ssize_t begin = min(g.pitch, max(0, g.left)), close = max(begin, min(g.pitch, g.width + g.left))
    cdef Py_ssize_t skip = begin - g.left, n = first // g.lines, inside = first % g.lines, count, h, row, j
    cdef const real* at
    cdef const real* safe = g.src_end
    if begin > VL or g.pitch - close > VL or vectors_over(close - begin) * VL > g.images * g.image:
        safe = NULL
    else:
        safe -= vectors_over(close - begin) * VL
    while first < last:
        count = min(last - first, g.lines - inside)
        h = inside * g.pace - g.top
        for row in range(count * g.pace + halo(g)):
            at = src + n * g.image + (h + row) * g.width + skip
            if not 0 <= h + row < g.height:
                zero_run(dst, g.pitch)
            elif at <= safe:
                store(dst, splat(0))
                j = 0
                while j < close - begin:
                    store(dst + begin + j, load(at + j))
                    j += VL
                store(dst + close, splat(0))
            else:
                zero_run(dst, begin)
                copy_run(at, g.src_end, 1, dst + begin, close - begin)
                zero_run(dst + close, g.pitch - close)
            dst += g.pitch
        first += count
        inside = 0
        n += 1


cdef void prefetch_tile_lines(Winograd* g, const real* src, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Ask for what copy_tile_lines will read."""
    cdef Py_ssize_t n = first // g.lines, inside = first % g.lines, count, h, end
    while first < last:
        count = min(last - first, g.lines - inside)
        h = max(0, inside * g.pace - g.top)
        end = min(g.height, (inside + count) * g.pace + halo(g) - g.top)
        prefetch(src + n * g.image + h * g.width, (end - h) * g.width * <Py_ssize_t> sizeof(real), False)
        first += count
        inside = 0
        n += 1


cdef bint is_joined(const Py_ssize_t* place) noexcept nogil:
    """Whether each quarter of a vector's tiles lies in one piece: with tiles 4 inputs apart, neighbours in one line."""
    cdef Py_ssize_t t
    for t in range(1, VL):
        if t % max(1, VL // 4) != 0 and place[t] != place[t - 1] + 4:
            return False
    return VL >= 4


cdef inline bint divides_evenly(Winograd* g) noexcept nogil:
    """Whether tiles of 4 x 4 outputs or more leave none over."""
    return g.m >= 4 and g.p == g.m * g.lines and g.q == g.m * g.across


cdef void place_one_tile(Winograd* g) noexcept nogil:
    """Whether images of 4 x 4 outputs are copied by transposition, and where the values of their tile lie then.

    Row by row, 16 to 32 channels took 1.3 to 1.9 times as long (Emerald Rapids, AVX-512).
    """
    cdef Py_ssize_t area = g.height * g.width, i, j, h, w
    g.one_tile = VL >= 4 and g.size == 6 and g.lines * g.across == 1 and divides_evenly(g) and area % VL == 0
    for i in range(6):
        for j in range(6):
            h, w = i - g.top, j - g.left
            g.pixel[i * 6 + j] = (h * g.width + w if 0 <= h < g.height and 0 <= w < g.width else area) * VL


cdef void copy_one_tile(Winograd* g, const real* src, Py_ssize_t first, real* dst) noexcept nogil:
    """One channel of VL images: [pixel][image], in load_fours' order of lanes, and zeros, the last image repeated."""
    cdef Py_ssize_t area = g.height * g.width, k = 0
    cdef vf v[VL]
    cdef int i
    while k < area:
        for i in range(VL):
            v[i] = load(src + min(first + i % 4 * (VL // 4) + i // 4, g.images - 1) * g.image + k)
        transpose_square(v)
        for i in range(VL):
            store(dst + (k + i) * VL, v[i])
        k += VL
    store(dst + area * VL, splat(0))


cdef void place_block(Winograd* g, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """Where each tile of a block begins in the copied lines and in dst; those behind the last are where the last one is."""
    cdef Py_ssize_t line = t0 // g.across, j = t0 % g.across, inside = line % g.lines, n = line // g.lines, row = 0, t, v
    for t in range(vectors_over(t1 - t0) * VL):
        space.place[t] = row * g.pitch + j * g.pace
        space.target[t] = n * image_stride + (inside * g.q + j) * g.m
        if t >= t1 - t0 - 1:
            continue
        j += 1
        if j == g.across:
            j = 0
            row += g.pace
            inside += 1
        if inside == g.lines:
            inside = 0
            n += 1
            row += halo(g)
    for v in range(vectors_over(t1 - t0)):
        space.joined[v] = g.pace == 4 and is_joined(space.place + v * VL)


cdef inline void input_tiles "convlayers_winograd_input_tiles"(
    int size, const real* copy, Py_ssize_t pitch, const Py_ssize_t* place, bint joined, bint one_tile, real* dst, Py_ssize_t ldv
) noexcept nogil:
    """V = B^T d B for VL tiles: (m + 2)^2 vectors, `ldv` values apart. Of images of one tile, `place` is each value's."""
    cdef vf d[8]
    cdef vf half[36]
    cdef vf v[6]
    cdef int i, j
    for i in range(size):
        if one_tile:
            for j in range(size):
                d[j] = load(copy + place[i * size + j])
        else:
            load_fours(copy + i * pitch, place, joined, d)
        if size == 6 and not one_tile:
            load_fours(copy + i * pitch + 4, place, joined, d + 4)
        winograd_input(size, d, 1, half + size * i, 1)
    for j in range(size):
        winograd_input(size, half + j, size, v, 1)
        for i in range(size):
            store(dst + (i * size + j) * ldv, v[i])


cdef void transform_block(Winograd* g, const real* src, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """The tiles t0 .. t1 of all channels of one group: [value][panel][channel][PANEL]."""
    cdef Py_ssize_t c, v, vectors = vectors_over(t1 - t0)
    cdef const Py_ssize_t* place
    cdef real* dst
    for c in range(g.channels):
        if c + 1 < g.channels:
            prefetch_tile_lines(g, src + (c + 1) * g.height * g.width, t0 // g.across, (t1 - 1) // g.across + 1)
        copy_tile_lines(g, src + c * g.height * g.width, t0 // g.across, (t1 - 1) // g.across + 1, space.copy)
        for v in range(vectors):
            dst = space.inputs + (v // 2 * g.channels + c) * PANEL + v % 2 * VL
            place = space.place + v * VL
            if g.reach == 9:
                strided_input_tiles(space.copy, g.pitch, place, dst, g.values_in)
            elif g.reach == 5:
                spread_input_tiles(space.copy, g.pitch, place, space.joined[v], g.odd, dst, g.values_in)
            elif g.size == 4:
                input_tiles(4, space.copy, g.pitch, place, False, False, dst, g.values_in)
            elif space.joined[v]:
                input_tiles(6, space.copy, g.pitch, place, True, False, dst, g.values_in)
            else:
                input_tiles(6, space.copy, g.pitch, place, False, False, dst, g.values_in)


cdef void transform_images(Winograd* g, const real* src, Py_ssize_t t0, Py_ssize_t t1, Workspace* space) noexcept nogil:
    """The same where each tile is an image."""
    cdef Py_ssize_t c, v
    for c in range(g.channels):
        for v in range(vectors_over(t1 - t0)):
            copy_one_tile(g, src + c * g.height * g.width, t0 + v * VL, space.copy)
            input_tiles(6, space.copy, 0, g.pixel, False, True,
                        space.inputs + (v // 2 * g.channels + c) * PANEL + v % 2 * VL, g.values_in)


cdef void output_tiles(
    Winograd* g, const real* products, vf bias, real* dst, Py_ssize_t row, const Py_ssize_t* place, bint joined
) noexcept nogil:
    """A^T M A for VL tiles: rows of the tiles' outputs, `row` values apart; for m = 2 both rows in one piece of four."""
    cdef vf half[24]
    cdef vf y[16]
    cdef int i, j
    if g.size == 6:
        for j in range(6):
            for i in range(6):
                y[i] = load(products + (i * 6 + j) * g.values_out)
            winograd_output(6, 4, y, 1, half + j, 6)
        for i in range(4):
            winograd_output(6, 4, half + 6 * i, 1, y, 1)
            for j in range(4):
                y[j] = y[j] + bias
                y[j] = vrelu(y[j]) if g.relu else y[j]
            store_fours(dst + i * row, place, joined, y)
    else:
        for j in range(4):
            for i in range(4):
                y[i] = load(products + (i * 4 + j) * g.values_out)
            winograd_output(4, 2, y, 1, half + j, 4)
        for i in range(2):
            winograd_output(4, 2, half + 4 * i, 1, y + 2 * i, 1)
        for j in range(4):
            y[j] = y[j] + bias
            y[j] = vrelu(y[j]) if g.relu else y[j]
        store_fours(dst, place, joined, y)


cdef void store_run(const real* src, Py_ssize_t count, real* dst) noexcept nogil:
    """`count` values exactly: whole vectors, the last one moved back over values that are there already."""
    cdef Py_ssize_t j = 0
    while j + VL <= count:
        store(dst + j, load(src + j))
        j += VL
    if j == count:
        return
    if count >= VL:
        store(dst + count - VL, load(src + count - VL))
        return
    while j + 4 <= count:
        memcpy(dst + j, src + j, 4 * sizeof(real))
        j += 4
    while j < count:
        dst[j] = src[j]
        j += 1


cdef void store_tiles(
    Winograd* g, const real* outputs, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1, real* dst
) noexcept nogil:
    """The rows of the tiles t0 .. t1 of one filter to their places."""
    cdef Py_ssize_t t = t0, line = t0 // g.across, j = t0 % g.across, n = line // g.lines, inside = line % g.lines
    cdef Py_ssize_t count, i, width, k
    cdef const real* src
    cdef real* out
    while t < t1:
        count = min(g.across - j, t1 - t)
        width = min(g.m * count, g.q - g.m * j)
        for i in range(min(g.m, g.p - inside * g.m)):
            out = dst + n * image_stride + (inside * g.m + i) * g.q + g.m * j
            if g.m >= 4:
                store_run(outputs + i * g.row + g.m * (t - t0), width, out)
            else:
                src = outputs + 4 * (t - t0) + 2 * i
                for k in range(width):
                    out[k] = src[k // 2 * 4 + k % 2]
        t += count
        j = 0
        inside += 1
        if inside == g.lines:
            inside = 0
            n += 1


cdef void prefetch_outputs(Winograd* g, real* dst, Py_ssize_t image_stride, Py_ssize_t t0, Py_ssize_t t1) noexcept nogil:
    """Ask for what store_tiles will write."""
    cdef Py_ssize_t line = t0 // g.across, last = (t1 - 1) // g.across + 1, n = line // g.lines, inside = line % g.lines, count
    cdef Py_ssize_t p, end
    while line < last:
        count = min(last - line, g.lines - inside)
        p = inside * g.m
        end = min(g.p, (inside + count) * g.m)
        prefetch(dst + n * image_stride + p * g.q, (end - p) * g.q * <Py_ssize_t> sizeof(real), True)
        line += count
        inside = 0
        n += 1
