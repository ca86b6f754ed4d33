# 2-d convolution, gradient with respect to the filters and the bias.
#
#     dw[m,c,r,s'] = sum_npq dy[n,m,p,q] x[n,c, p s + r d - pad, q s + s' d - pad]        db[m] = sum_npq dy[n,m,p,q]
#
# x (N,C,H,W), dy (N,M,P,Q), dw (M,C/g,R,S). Lanes are filters and the rows of a tile taps (c, r, s'), broadcast from where they
# lie (row_tiles.pxi): in x itself where nothing is padded, else in a padded copy, whatever the stride and the dilation. The
# sum runs over output pixels, block by block, and of a block dy alone is transposed, to panels [pixel][PANEL filters]; the
# bias's sums are taken from those, while they are in the cache: reading dy again took 5 to 12% of the time of both.
#
# The blocks are split into shards by the sizes alone; a shard adds its blocks in order into a buffer of its own and the
# buffers are added in order: the same bits for any number of threads.

cdef enum:
    BLOCK_PIXELS = 256              # at least, where there are so many: a panel of them stays in the first-level cache
    TAPS_BYTES = 128 * 1024         # of the copy of x: it stays in the second-level cache beside the panels
    MOST_SHARDS = 16
    SHARD_BYTES = 16 * 1024 * 1024  # of all shard buffers together


cdef struct Weight:
    Py_ssize_t images
    Py_ssize_t groups
    Py_ssize_t channels         # per group
    Py_ssize_t filters          # per group
    Py_ssize_t height           # of x
    Py_ssize_t width
    Py_ssize_t p
    Py_ssize_t q
    Py_ssize_t kh
    Py_ssize_t kw
    Py_ssize_t stride_h
    Py_ssize_t stride_w
    Py_ssize_t top
    Py_ssize_t left
    Py_ssize_t dilation_h
    Py_ssize_t dilation_w
    const real* x
    const real* x_end
    const real* dy
    const real* dy_end
    bint plain                  # whether nothing is padded: x is read where it lies
    Py_ssize_t block_images     # of a block: whole images, whole rows of one, or a part of a row
    Py_ssize_t block_rows
    Py_ssize_t block_columns
    Py_ssize_t row_blocks       # blocks of one image, or of one group of block_images
    Py_ssize_t column_blocks    # of a row
    Py_ssize_t blocks
    Py_ssize_t shards
    Py_ssize_t splits           # parts of the panels, each a unit of work
    Py_ssize_t panels           # of filters
    Py_ssize_t slice            # channels that are copied together
    Py_ssize_t slices
    Py_ssize_t lines            # of the copy of a channel
    Py_ssize_t row              # values from one line of what the tiles read to the next
    Py_ssize_t plane            # from one channel to the next
    Py_ssize_t image            # from one image to the next
    Py_ssize_t depth            # pixels of a block
    Py_ssize_t* tap             # where each tap of a slice lies
    Py_ssize_t* pixel           # where output k of a block begins
    Py_ssize_t slice_rows       # sums of a slice: its taps, and room for a tile that is not full
    real* sums                  # [shard][group][panel][slice][row][PANEL]
    real* biases                # [shard][group][panel][PANEL]; NULL for none
    char* workspace
    Py_ssize_t copy_bytes
    Py_ssize_t workspace_bytes


cdef inline Py_ssize_t reach(Py_ssize_t outputs, Py_ssize_t stride, Py_ssize_t kernel, Py_ssize_t dilation) noexcept nogil:
    """Inputs that so many outputs in a row see."""
    return (outputs - 1) * stride + (kernel - 1) * dilation + 1


cdef inline Py_ssize_t parts_of(Py_ssize_t count, Py_ssize_t size) noexcept nogil:
    return (count + size - 1) // size


cdef inline bint stays_inside(Weight* g) noexcept nogil:
    """Whether no output sees anything outside its image."""
    cdef bint rows = g.top == 0 and reach(g.p, g.stride_h, g.kh, g.dilation_h) <= g.height
    return rows and g.left == 0 and reach(g.q, g.stride_w, g.kw, g.dilation_w) <= g.width


cdef void choose_weight_blocks(Weight* g) noexcept nogil:
    """Split the pixels by the sizes alone: no thread count here, for the sum's order follows from it."""
    cdef Py_ssize_t area = g.p * g.q
    g.block_images, g.block_rows, g.block_columns = 1, g.p, g.q
    if area < BLOCK_PIXELS:
        g.block_images = min(g.images, parts_of(BLOCK_PIXELS, area))
    elif g.q < 2 * BLOCK_PIXELS:
        g.block_rows = parts_of(g.p, area // BLOCK_PIXELS)
    else:
        g.block_rows, g.block_columns = 1, parts_of(g.q, g.q // BLOCK_PIXELS)
    g.row_blocks, g.column_blocks = parts_of(g.p, g.block_rows), parts_of(g.q, g.block_columns)
    g.blocks = parts_of(g.images, g.block_images) * g.row_blocks * g.column_blocks
    g.depth = g.block_images * g.block_rows * g.block_columns


cdef void choose_weight_slices(Weight* g) noexcept nogil:
    """What is copied of x, and the buffers of sums."""
    cdef Py_ssize_t columns = reach(g.block_columns, g.stride_w, g.kw, g.dilation_w), buffer
    g.lines = reach(g.block_rows, g.stride_h, g.kh, g.dilation_h)
    g.slices = 1
    if g.plain:
        g.row, g.plane, g.image = g.width, g.height * g.width, g.groups * g.channels * g.height * g.width
    else:
        g.row = columns
        g.image = g.lines * columns
        g.plane = g.block_images * g.image
        g.slices = min(g.channels, parts_of(g.channels * g.plane * <Py_ssize_t> sizeof(real), TAPS_BYTES))
    g.slice = parts_of(g.channels, g.slices)
    g.slices = parts_of(g.channels, g.slice)
    g.slice_rows = g.slice * g.kh * g.kw + MR + 2
    g.panels = parts_of(g.filters, PANEL)
    buffer = g.groups * g.panels * g.slices * g.slice_rows * PANEL * <Py_ssize_t> sizeof(real)
    g.shards = max(1, min(min(MOST_SHARDS, g.blocks), SHARD_BYTES // buffer))
    # More units than shards where those are few: parts of the filters, each with a copy of x to itself.
    g.splits = min(g.panels, parts_of(MOST_SHARDS, g.shards * g.groups))


cdef size_t weight_memory(Weight* g, size_t cursor) noexcept nogil:
    cdef Py_ssize_t most_panels = parts_of(g.panels, g.splits) if g.slices > 1 else 1
    g.tap = <Py_ssize_t*> take(&cursor, g.slice_rows * sizeof(Py_ssize_t))
    g.pixel = <Py_ssize_t*> take(&cursor, g.depth * sizeof(Py_ssize_t))
    g.sums = <real*> take(&cursor, g.shards * g.groups * g.panels * g.slices * g.slice_rows * PANEL * sizeof(real))
    if g.biases != NULL:
        g.biases = <real*> take(&cursor, g.shards * g.groups * g.panels * PANEL * sizeof(real))
    g.copy_bytes = 0 if g.plain else whole_lines(g.slice * g.plane + VL)
    g.workspace_bytes = g.copy_bytes + whole_lines(most_panels * g.depth * PANEL + VL)
    return cursor


cdef void fill_places(Weight* g) noexcept nogil:
    """The tables of the tiles; taps behind the last, for a tile that is not full, are the last one again."""
    cdef Py_ssize_t taps = g.kh * g.kw, k, at
    for k in range(g.slice_rows):
        at = min(k, g.slice * taps - 1)
        g.tap[k] = at // taps * g.plane + at % taps // g.kw * g.dilation_h * g.row + at % g.kw * g.dilation_w
    for k in range(g.depth):
        at = k % (g.block_rows * g.block_columns)
        g.pixel[k] = k // (g.block_rows * g.block_columns) * g.image
        g.pixel[k] += at // g.block_columns * g.stride_h * g.row + at % g.block_columns * g.stride_w


# A block of pixels.
cdef struct Pixels:
    Py_ssize_t image            # the first, counted with the groups
    Py_ssize_t images
    Py_ssize_t p
    Py_ssize_t rows
    Py_ssize_t q
    Py_ssize_t columns
    Py_ssize_t count


cdef inline Pixels block_pixels(Weight* g, Py_ssize_t block, Py_ssize_t group) noexcept nogil:
    cdef Pixels b
    cdef Py_ssize_t n = block // (g.row_blocks * g.column_blocks) * g.block_images
    b.image, b.images = n * g.groups + group, min(g.block_images, g.images - n)
    b.p, b.q = block // g.column_blocks % g.row_blocks * g.block_rows, block % g.column_blocks * g.block_columns
    b.rows, b.columns = min(g.block_rows, g.p - b.p), min(g.block_columns, g.q - b.q)
    b.count = b.images * b.rows * b.columns
    return b


cdef void copy_block(Weight* g, Pixels* b, Py_ssize_t channel, Py_ssize_t channels, real* dst) noexcept nogil:
    """What the block's outputs see of some channels, with zeros outside the image: [channel][image][line][column]."""
    cdef Py_ssize_t c, n, i, h, w = b.q * g.stride_w - g.left, area = g.height * g.width
    cdef Py_ssize_t first = min(g.row, max(0, -w)), last = max(first, min(g.row, g.width - w))
    cdef const real* src
    for c in range(channel, channel + channels):
        for n in range(b.images):
            src = g.x + ((b.image + n * g.groups) * g.channels + c) * area
            for i in range(g.lines):
                h = b.p * g.stride_h - g.top + i
                if 0 <= h < g.height:
                    zero_run(dst, first)
                    copy_run(src + h * g.width + w + first, g.x_end, 1, dst + first, last - first)
                    zero_run(dst + last, g.row - last)
                else:
                    zero_run(dst, g.row)
                dst += g.row
        dst += (g.block_images - b.images) * g.image


cdef void transpose_gradients(Weight* g, Pixels* b, Py_ssize_t panel, real* dst) noexcept nogil:
    """The block's gradients of PANEL filters, or of those that are left: [pixel][PANEL]."""
    cdef Py_ssize_t n, area = g.p * g.q, m = panel * PANEL, count = b.rows * b.columns
    for n in range(b.images):
        transpose_run(g.dy + ((b.image + n * g.groups) * g.filters + m) * area + b.p * g.q + b.q, g.dy_end, area,
                      min(PANEL, g.filters - m), count, dst + n * count * PANEL, PANEL)


cdef void add_gradients(const real* gradients, Py_ssize_t count, bint first, real* sums) noexcept nogil:
    """sums[PANEL] (+)= what a panel has of `count` pixels, two by two, since additions to one sum wait for each other."""
    cdef vf a = splat(0), b = splat(0), c = splat(0), d = splat(0)
    cdef Py_ssize_t k
    for k in range(count // 2):
        a = a + load(gradients)
        b = b + load(gradients + VL)
        c = c + load(gradients + PANEL)
        d = d + load(gradients + PANEL + VL)
        gradients += 2 * PANEL
    if count % 2 == 1:
        a = a + load(gradients)
        b = b + load(gradients + VL)
    store(sums, a + c if first else load(sums) + (a + c))
    store(sums + VL, b + d if first else load(sums + VL) + (b + d))


cdef inline void ask_for_next_block(
    Weight* g, Py_ssize_t done, Py_ssize_t panels, Py_ssize_t taps, const real* src, const real* dy, Rows* t
) noexcept nogil:
    """Let the tiles of one of so many panels, `done` of which have been computed, over a block of whole images, which begin at
    src and dy, ask for their part of the images behind them.

    With 16 registers only where half of the second level holds those: 64 and 128 channels of 16 x 16 1.06 to 1.08 times, 256 of
    8 x 8, which do not fit, 0.87 to 0.94 (Zen 3, 512 KB).
    """
    cdef Py_ssize_t bytes_x = g.block_images * g.image * <Py_ssize_t> sizeof(real), bytes_dy, calls
    bytes_dy = g.block_images * g.groups * g.filters * g.p * g.q * <Py_ssize_t> sizeof(real)
    calls = panels * parts_of(taps, rows_of_tile(taps, 2)) * g.depth
    t.asks = g.plain and g.groups * g.splits * g.row_blocks * g.column_blocks == 1
    t.asks = t.asks and (MR > FEWER_ROWS or 2 * (bytes_x + bytes_dy) <= second_level())
    t.next.at, t.next.step = <const char*> src + bytes_x + done * bytes_x // panels, bytes_x // calls
    t.other.at, t.other.step = <const char*> dy + bytes_dy + done * bytes_dy // panels, bytes_dy // calls


cdef void ask_for_gradients(Weight* g, const Pixels* b, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    """Ask for what the next block of an image reads of dy, of the panels first .. last: first layers of large images so took
    0.88 to 0.97 of the time, others the same (Zen 4); with AVX2 1.01 to 1.035 times as long (Zen 3), so not there."""
    cdef Py_ssize_t area = g.p * g.q, m, at
    cdef const char* plane
    for m in range(first * PANEL, min(g.filters, last * PANEL)):
        plane = <const char*> (g.dy + (b.image * g.filters + m) * area + b.p * g.q + b.q + b.count)
        at = 0
        while at < b.count * <Py_ssize_t> sizeof(real):
            prefetch_far(plane + at)
            at += 64


cdef void add_taps(
    Weight* g, Py_ssize_t panel, Py_ssize_t taps, const real* src, const real* gradients, Py_ssize_t depth, const real* init,
    real* sums, Rows* t
) noexcept nogil:
    """What a block adds to the sums of one slice's taps, for one panel of filters."""
    cdef int vecs = 2 if g.filters - panel * PANEL > VL else 1, rows = rows_of_tile(taps, vecs)
    t.src, t.row, t.step, t.depth, t.ldb, t.init, t.ceiling = src, g.tap, g.pixel, depth, PANEL, init, 0
    t.tiles, t.b, t.out = parts_of(taps, rows), gradients, sums
    run_rows(rows, vecs, t)


cdef void run_weight_unit(Weight* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """One shard of the pixels, for one part of one group's filters.

    A panel is transposed just before it is used first, and with one slice that is all: it stays in the first level.
    """
    cdef Py_ssize_t split = unit % g.splits, group = unit // g.splits % g.groups, shard = unit // g.splits // g.groups
    cdef Py_ssize_t first = split * g.panels // g.splits, last = (split + 1) * g.panels // g.splits
    cdef Py_ssize_t begin = shard * g.blocks // g.shards, end = (shard + 1) * g.blocks // g.shards
    cdef Py_ssize_t block, slice, panel, taps, panels = (shard * g.groups + group) * g.panels
    cdef real* copy = <real*> workspace
    cdef real* gradients
    cdef real* sums = g.sums + panels * g.slices * g.slice_rows * PANEL
    cdef const real* src
    cdef real zeros[PANEL]
    cdef Pixels b
    cdef Rows t
    memset(zeros, 0, sizeof(zeros))
    for block in range(begin, end):
        b = block_pixels(g, block, group)
        if MR > FEWER_ROWS and g.row_blocks * g.column_blocks > 1:
            ask_for_gradients(g, &b, first, last)
        for slice in range(g.slices):
            taps = min(g.slice, g.channels - slice * g.slice) * g.kh * g.kw
            if g.plain:
                src = g.x + b.image * g.channels * g.plane + b.p * g.stride_h * g.width + b.q * g.stride_w
            else:
                copy_block(g, &b, slice * g.slice, taps // (g.kh * g.kw), copy)
                src = copy
            for panel in range(first, last):
                gradients = <real*> (workspace + g.copy_bytes) + (0 if g.slices == 1 else (panel - first) * g.depth * PANEL)
                if slice == 0:
                    transpose_gradients(g, &b, panel, gradients)
                if slice == 0 and g.biases != NULL:
                    add_gradients(gradients, b.count, block == begin, g.biases + (panels + panel) * PANEL)
                ask_for_next_block(g, panel - first, last - first, taps, src, g.dy + b.image * g.filters * g.p * g.q, &t)
                add_taps(g, panel, taps, src, gradients, b.count, zeros if block == begin else NULL,
                         sums + (panel * g.slices + slice) * g.slice_rows * PANEL, &t)


cdef void add_shards(Weight* g, Py_ssize_t unit, real* dw) noexcept nogil:
    """dw of one slice's taps of one panel of filters: its shards in order."""
    cdef Py_ssize_t slice = unit % g.slices, panel = unit // g.slices % g.panels, group = unit // g.slices // g.panels
    cdef Py_ssize_t size = g.groups * g.panels * g.slices * g.slice_rows * PANEL, taps = g.kh * g.kw, shard, k
    cdef Py_ssize_t count = min(g.slice, g.channels - slice * g.slice) * taps, m = panel * PANEL
    cdef real* sums = g.sums + unit * g.slice_rows * PANEL
    cdef const real* more
    for shard in range(1, g.shards):
        more = sums + shard * size
        for k in range(count * PANEL // VL):
            store(sums + k * VL, load(sums + k * VL) + load(more + k * VL))
    dw += ((group * g.filters + m) * g.channels + slice * g.slice) * taps
    spread_pixels(sums, count, min(PANEL, g.filters - m), dw, g.channels * taps)


cdef void add_biases(Weight* g, real* db) noexcept nogil:
    """db: its shards in order."""
    cdef Py_ssize_t size = g.groups * g.panels * PANEL, m, shard, at
    for m in range(g.groups * g.filters):
        at = m // g.filters * g.panels * PANEL + m % g.filters
        db[m] = g.biases[at]
        for shard in range(1, g.shards):
            db[m] += g.biases[shard * size + at]


cdef inline Py_ssize_t longest_row(Py_ssize_t area) noexcept nogil:
    """The largest divisor of less than two blocks of pixels."""
    cdef Py_ssize_t q = min(area, 2 * BLOCK_PIXELS - 1)
    while area % q != 0:
        q -= 1
    return q


def conv2d_backward_weight(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x, real[:, :, :, ::1] dw,
    int stride_h, int stride_w, int top, int left, int dilation_h, int dilation_w, int groups, int threads, real[::1] db, /,
):
    """Fill dw with the gradient with respect to the filters, and db with that with respect to the bias unless it is None."""
    cdef Weight g
    cdef Shares shares
    cdef Units units
    cdef Py_ssize_t u, unit, area = dy.shape[2] * dy.shape[3]
    g.images, g.groups, g.channels, g.filters = x.shape[0], groups, dw.shape[1], dw.shape[0] // groups
    g.height, g.width, g.p, g.q, g.kh, g.kw = x.shape[2], x.shape[3], dy.shape[2], dy.shape[3], dw.shape[2], dw.shape[3]
    g.stride_h, g.stride_w, g.top, g.left, g.dilation_h, g.dilation_w = stride_h, stride_w, top, left, dilation_h, dilation_w
    g.plain = stays_inside(&g)
    if g.plain and g.kh * g.kw * stride_h * stride_w == 1 and g.p == g.height and g.q == g.width:
        # Pixel k of dy saw pixel k of x alone: rows may be of any length.
        g.q = longest_row(area)
        g.p = area // g.q
        g.height, g.width = g.p, g.q
    g.x, g.dy = &x[0, 0, 0, 0], &dy[0, 0, 0, 0]
    g.x_end = g.x + g.images * g.groups * g.channels * g.height * g.width
    g.dy_end = g.dy + g.images * g.groups * g.filters * area
    choose_weight_blocks(&g)
    choose_weight_slices(&g)
    # Only whether there is one, until memory is taken for it.
    g.biases = &db[0] if db is not None else NULL
    share_out(&shares, g.shards * g.groups * g.splits, threads)
    weight_memory(&g, scratch(weight_memory(&g, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    with nogil:
        fill_places(&g)
        with parallel(num_threads=threads):
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    run_weight_unit(&g, unit, g.workspace + threadid() * g.workspace_bytes)
                units = next_units(&shares, threadid())
            wait_for_all()
            for u in prange(g.groups * g.panels * g.slices, schedule="static"):
                add_shards(&g, u, &dw[0, 0, 0, 0])
        if g.biases != NULL:
            add_biases(&g, &db[0])
