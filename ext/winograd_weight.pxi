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
# Blocks of lines of tiles follow each other; within a block threads share the transforms, then the products of the values.
# Transformed channels that share a cache line are written by one thread: with a vector of them for each, 16 channels took
# 1.25 times as long (AVX2).
#
# Where the sums are small, with up to 64 channels, shards of the lines, as many as the sizes say, have sums of their own, and a
# thread takes a shard through blocks that no other core touches. The shards are added in order.
# A product continues its sums from block to block, tile after tile: the same bits for any block and any number of threads.
#
# The bias's gradient is summed line by line of tiles, from the copies that dy's are transformed from.

# Bytes of the transformed tiles of a block: they stay in the last-level cache until they are multiplied.
cdef enum:
    GRADIENT_TILES_BYTES = 4 * 1024 * 1024
    SHARD_TILES_BYTES = 1200 * 1024     # a sixth of it took 1.2 to 1.3 times as long with 64 channels: sums go by more often
    SHARD_SUMS_BYTES = 1024 * 1024      # of one shard, at most
    SHARD_TILES = 64                    # of one shard, at least, and half of that where there are two


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
    Py_ssize_t shards
    Part x
    Part dy
    real* biases                # [line][channel of dy], NULL for none
    Py_ssize_t* step            # k times the pitch of x
    real* sums                  # [shard][value][filter][channel], filters `ldc` apart
    Py_ssize_t ldc
    Py_ssize_t sum_value
    char* workspace
    Py_ssize_t copy_bytes       # of one thread: a line's copy or packed gradients, and in a shard its transformed tiles behind
    Py_ssize_t workspace_bytes


cdef inline Py_ssize_t cache_lines(Py_ssize_t channels) noexcept nogil:
    return (channels + CACHE_LINE - 1) // CACHE_LINE


cdef inline Py_ssize_t odd_lines(Py_ssize_t values) noexcept nogil:
    """At least `values`, as an odd number of cache lines: rows so far apart share no set of the cache before they must."""
    cdef Py_ssize_t line = 64 // <Py_ssize_t> sizeof(real)
    return ((values + max(line, VL) - 1) // line | 1) * line


cdef size_t place_parts(WinogradWeight* g, size_t cursor) noexcept nogil:
    """The transformed tiles of a block, at `cursor`; the address behind them."""
    cdef Py_ssize_t tiles = g.block * g.across, values = g.size * g.size
    g.x.panel, g.dy.panel = tiles * g.x.pitch, PANEL
    g.x.value = (g.x.channels + PANEL - 1) // PANEL * g.x.panel + PANEL
    g.dy.value = tiles * g.dy.pitch + PANEL
    g.x.values = <real*> take(&cursor, values * g.x.value * sizeof(real))
    g.dy.values = <real*> take(&cursor, values * g.dy.value * sizeof(real))
    return cursor


cdef void choose_weight_shards(WinogradWeight* g) noexcept nogil:
    """Blocks and shards by the sizes alone: the sum's order follows from them."""
    cdef Py_ssize_t values = g.size * g.size, tiles = g.total * g.across, line
    # Up to a vector of channels needs no place for a second one.
    g.x.pitch, g.dy.pitch = PANEL if g.x.channels > VL else VL, odd_lines(vectors_over(g.dy.channels) * VL)
    g.ldc = odd_lines(vectors_over(g.x.channels) * VL)
    g.sum_value = g.dy.channels * g.ldc + PANEL
    line = values * (g.x.channels + g.dy.channels) * g.across * <Py_ssize_t> sizeof(real)
    g.shards = 1
    # Two shards as soon as can be: threads that share the tiles of a small problem took longer than one thread alone.
    if values * g.sum_value * <Py_ssize_t> sizeof(real) <= SHARD_SUMS_BYTES and line <= SHARD_TILES_BYTES:
        g.shards = max(1, min(MOST_SHARDS, g.total, max(tiles // SHARD_TILES, min(2, 2 * tiles // SHARD_TILES))))
    g.block = (GRADIENT_TILES_BYTES if g.shards == 1 else SHARD_TILES_BYTES) // line
    g.block = max(1, min(g.block, g.total))


cdef size_t winograd_weight_memory(WinogradWeight* g, int threads, size_t cursor) noexcept nogil:
    cdef Py_ssize_t copy
    g.step = <Py_ssize_t*> take(&cursor, g.block * g.across * sizeof(Py_ssize_t))
    g.sums = <real*> take(&cursor, g.shards * g.size * g.size * g.sum_value * sizeof(real))
    if g.biases != NULL:
        g.biases = <real*> take(&cursor, g.total * g.dy.pitch * sizeof(real))
    copy = max((g.size * (g.across * g.m + g.size - g.m) + 1) * VL, (g.block * g.across + 1) * (MR + VL))
    g.copy_bytes = (copy * <Py_ssize_t> sizeof(real) + 63) // 64 * 64
    g.workspace_bytes = g.copy_bytes
    if g.shards == 1:
        cursor = place_parts(g, cursor)
    else:
        g.workspace_bytes += <Py_ssize_t> place_parts(g, 0)
    g.workspace = <char*> take(&cursor, threads * g.workspace_bytes)
    return cursor


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


cdef void transform_vector(WinogradWeight* g, Part* part, Py_ssize_t line, Py_ssize_t c0, real* copy, real* dst) noexcept nogil:
    """The tiles of one line, for the channels c0 .. c0 + VL - 1."""
    cdef Py_ssize_t j, row = ((g.across - 1) * g.m + part.side) * VL
    copy_channels(g, part, line, c0, copy)
    if part == &g.dy and g.biases != NULL:
        store(g.biases + line * g.dy.pitch + c0, sum_copy(copy, g.m * g.m * g.across))
    for j in range(g.across):
        if line + 1 < g.total:
            ask_channels(g, part, line + 1, c0 + j * VL // g.across, c0 + (j + 1) * VL // g.across)
        if part.side == 6:
            gradient_tile(6, 0, copy + j * g.m * VL, row, dst, part.value)
        elif part.side == 2 and g.size == 6:
            gradient_tile(6, 2, copy + j * g.m * VL, row, dst, part.value)
        elif part.side == 2:
            gradient_tile(4, 2, copy + j * g.m * VL, row, dst, part.value)
        elif g.m == 4:
            gradient_tile(6, 4, copy + j * g.m * VL, row, dst, part.value)
        else:
            gradient_tile(4, 0, copy + j * g.m * VL, row, dst, part.value)
        dst += part.pitch


cdef void transform_line(
    WinogradWeight* g, Part* part, Py_ssize_t line, Py_ssize_t at, Py_ssize_t strip, real* copy
) noexcept nogil:
    """The tiles of one line, for the channels of one cache line; `at` is the line's first tile within the block."""
    cdef Py_ssize_t c0 = strip * CACHE_LINE
    while c0 < min(part.channels, (strip + 1) * CACHE_LINE):
        transform_vector(g, part, line, c0, copy, part.values + at * part.pitch + c0 // PANEL * part.panel + c0 % PANEL)
        c0 += VL


cdef void pack_gradients(const real* src, Py_ssize_t pitch, Py_ssize_t rows, Py_ssize_t tiles, real* dst) noexcept nogil:
    """dst[tile * rows + i] = src[tile * pitch + i], i < rows, and up to a vector behind them."""
    cdef Py_ssize_t k, v
    for k in range(tiles):
        for v in range(vectors_over(rows)):
            store(dst + v * VL, load(src + v * VL))
        src += pitch
        dst += rows


cdef void add_products(WinogradWeight* g, Py_ssize_t value, Py_ssize_t tiles, bint accumulate, real* packed) noexcept nogil:
    """sums[filter, channel] (+)= gradients^T inputs for one value, over the tiles of a block.

    Where several panels of channels follow, the gradients of a tile of filters are packed first: read where they lie, each
    step of a sum takes two lines of the cache.
    """
    cdef Py_ssize_t t, m
    cdef bint pack = g.x.channels > PANEL
    cdef int rows
    cdef Tile args
    args.ahead, args.asks = TAPS_AHEAD * PANEL, False
    args.depth, args.step, args.init, args.accumulate, args.ceiling = tiles, g.step, NULL, accumulate, 0
    args.ldc0, args.ldc1, args.next_b = g.ldc, g.ldc, g.x.panel
    for t in range(tile_count(g.dy.channels)):
        m = tile_start(t, g.dy.channels)
        rows = <int> (tile_start(t + 1, g.dy.channels) - m)
        args.a, args.lda = g.dy.values + value * g.dy.value + m, g.dy.pitch
        if pack:
            pack_gradients(args.a, g.dy.pitch, rows, tiles, packed)
            args.a, args.lda = packed, rows
        args.b0 = g.x.values + value * g.x.value
        args.b1 = args.b0 + VL
        args.c0 = g.sums + value * g.sum_value + m * g.ldc
        args.c1 = args.c0 + VL
        run_vectors(rows, vectors_over(g.x.channels), &args)


cdef void filter_output(int size, int taps, const vf* v, vf* y, int ys) noexcept nogil:
    """One axis of a filter's gradient."""
    if size == 4:
        winograd_output(4, 3, v, 1, y, ys)
    elif taps == 3:
        winograd_output(6, 3, v, 1, y, ys)
    else:
        winograd_output(6, 5, v, 1, y, ys)


cdef void gradient_filters(WinogradWeight* g, Py_ssize_t filter, bint accumulate, real* dw) noexcept nogil:
    """dw of one filter for all channels: (dw +) A^T S A, VL channels at a time."""
    cdef Py_ssize_t vector, c, k, lane
    cdef const real* sums = g.sums + filter * g.ldc
    cdef vf half[30]
    cdef vf y[MOST_TAPS]
    cdef vf v[6]
    cdef int i, j, size = g.size, taps = size + 1 - g.m
    for vector in range(vectors_over(g.x.channels)):
        c = vector * VL
        for j in range(size):
            for i in range(size):
                v[i] = load(sums + (i * size + j) * g.sum_value + c)
            filter_output(size, taps, v, half + j, 6)
        for i in range(taps):
            filter_output(size, taps, half + 6 * i, y + taps * i, 1)
        for lane in range(min(VL, g.x.channels - c)):
            for k in range(taps * taps):
                dw[0] = (<real*> y)[k * VL + lane] + (dw[0] if accumulate else 0)
                dw += 1


cdef void add_line_sums(WinogradWeight* g, bint accumulate, real* db) noexcept nogil:
    """(db +) the sums of all lines, which are added in order and in double precision."""
    cdef Py_ssize_t c, line
    cdef double total
    for c in range(g.dy.channels):
        total = 0
        for line in range(g.total):
            total += g.biases[line * g.dy.pitch + c]
        db[c] = <real> total + (db[c] if accumulate else 0)


cdef inline Py_ssize_t line_parts(WinogradWeight* g) noexcept nogil:
    """Units of transforming a line of tiles: the cache lines of channels of x, then those of dy."""
    return cache_lines(g.x.channels) + cache_lines(g.dy.channels)


cdef void transform_unit(WinogradWeight* g, Py_ssize_t first, Py_ssize_t unit, real* copy) noexcept nogil:
    """One unit of the block that begins with line `first`."""
    cdef Py_ssize_t line = unit // line_parts(g), part = unit % line_parts(g), of_x = cache_lines(g.x.channels)
    if part < of_x:
        transform_line(g, &g.x, first + line, line * g.across, part, copy)
    else:
        transform_line(g, &g.dy, first + line, line * g.across, part - of_x, copy)


cdef void sum_shared(WinogradWeight* g, int threads) noexcept nogil:
    """All lines of one group, block after block, each by all threads."""
    cdef Py_ssize_t first = 0, unit, lines
    cdef Shares transforms, products
    cdef Units units
    while first < g.total:
        lines = min(g.block, g.total - first)
        share_out(&transforms, lines * line_parts(g), threads)
        share_out(&products, g.size * g.size, threads)
        with parallel(num_threads=threads):
            units = next_units(&transforms, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    transform_unit(g, first, unit, <real*> (g.workspace + threadid() * g.workspace_bytes))
                units = next_units(&transforms, threadid())
            wait_for_all()
            units = next_units(&products, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    add_products(g, unit, lines * g.across, first > 0, <real*> (g.workspace + threadid() * g.workspace_bytes))
                units = next_units(&products, threadid())
        first += g.block


cdef void sum_shard(const WinogradWeight* shared, Py_ssize_t shard, char* workspace) noexcept nogil:
    """The lines of one shard, by one thread."""
    cdef WinogradWeight g = shared[0]
    cdef Py_ssize_t begin = shard * g.total // g.shards, end = (shard + 1) * g.total // g.shards, first = begin, u, lines
    place_parts(&g, <size_t> (workspace + g.copy_bytes))
    g.sums = g.sums + shard * g.size * g.size * g.sum_value
    while first < end:
        lines = min(g.block, end - first)
        for u in range(lines * line_parts(&g)):
            transform_unit(&g, first, u, <real*> workspace)
        for u in range(g.size * g.size):
            add_products(&g, u, lines * g.across, first > begin, <real*> workspace)
        first += g.block


cdef void add_sums(WinogradWeight* g, Py_ssize_t value) noexcept nogil:
    """Every shard's sums of one value to those of the first."""
    cdef real* sums = g.sums + value * g.sum_value
    cdef Py_ssize_t shard, j
    for shard in range(1, g.shards):
        for j in range(g.dy.channels * g.ldc):
            sums[j] += sums[shard * g.size * g.size * g.sum_value + j]


cdef void run_winograd_weight(WinogradWeight* g, int threads) noexcept nogil:
    """One group, up to the sums."""
    cdef Py_ssize_t u, unit
    cdef Shares shares
    cdef Units units
    for u in range(g.block * g.across):
        g.step[u] = u * g.x.pitch
    if g.shards == 1:
        sum_shared(g, threads)
    else:
        share_out(&shares, g.shards, threads)
        with parallel(num_threads=threads):
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    sum_shard(g, unit, g.workspace + threadid() * g.workspace_bytes)
                units = next_units(&shares, threadid())
            wait_for_all()
            for u in prange(g.size * g.size, schedule="static"):
                add_sums(g, u)


def winograd_backward_weight(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x, real[:, :, :, ::1] dw,
    int m, int top, int left, int groups, int threads, bint accumulate, real[::1] db, /,
):
    """Fill dw with the gradient with respect to the filters, and db with that with respect to the bias unless it is empty, or
    add both."""
    cdef WinogradWeight g
    cdef Py_ssize_t u, group, filters = dw.shape[0] // groups, channels = dw.shape[1], p = dy.shape[2], q = dy.shape[3]
    cdef Py_ssize_t images = x.shape[0], area = p * q
    cdef unsigned char[::1] buffer
    g.m, g.size, g.lines, g.across = m, m - 1 + <int> dw.shape[2], (p + m - 1) // m, (q + m - 1) // m
    g.total = images * g.lines
    g.x.channels, g.x.height, g.x.width, g.x.top, g.x.left, g.x.side = channels, x.shape[2], x.shape[3], top, left, g.size
    g.dy.channels, g.dy.height, g.dy.width, g.dy.top, g.dy.left, g.dy.side = filters, p, q, 0, 0, m
    g.x.image, g.dy.image = groups * channels * x.shape[2] * x.shape[3], groups * filters * area
    g.x.end, g.dy.end = &x[0, 0, 0, 0] + images * g.x.image, &dy[0, 0, 0, 0] + images * g.dy.image
    choose_weight_shards(&g)
    # Only whether there is one, until memory is taken for it.
    g.biases = &db[0] if db.shape[0] else NULL
    buffer = _scratch(winograd_weight_memory(&g, threads, 0))
    winograd_weight_memory(&g, threads, <size_t> &buffer[0])
    with nogil:
        for group in range(groups):
            g.x.src = &x[0, 0, 0, 0] + group * channels * x.shape[2] * x.shape[3]
            g.dy.src = &dy[0, 0, 0, 0] + group * filters * area
            run_winograd_weight(&g, threads)
            for u in prange(filters, schedule="static", num_threads=threads):
                gradient_filters(&g, u, accumulate, &dw[group * filters + u, 0, 0, 0])
            if g.biases != NULL:
                add_line_sums(&g, accumulate, &db[group * filters])
