# The gathers of one pass: one forward, or one for each sub-grid of an input gradient, which share the padded copy of a block.
#
# The work is parted into blocks of output rows of one group of one image, and where those are fewer than the threads, into
# parts of the filters. Long sums are taken by slices of the channels, each copied and packed for itself.

cdef inline Plan* block_plan(Gather* g, Py_ssize_t block) noexcept nogil:
    return &g.last if block == g.blocks - 1 else &g.full


# Groups are counted over all images.

cdef inline const real* group_start(Gather* g, Py_ssize_t group) noexcept nogil:
    return g.packed_filters + group % g.groups * group_filters(g)


cdef inline const real* group_bias(Gather* g, Py_ssize_t group) noexcept nogil:
    return g.bias + group % g.groups * g.filters if g.bias != NULL else NULL


cdef void run_block(
    Gather* g, Py_ssize_t group, Py_ssize_t block, Py_ssize_t first, Py_ssize_t last, Py_ssize_t part, Py_ssize_t parts,
    const real* src, real* panels, real* dst
) noexcept nogil:
    """The tiles first .. last of one group's filters over one block of output rows: over one of so many parts of its panels."""
    cdef const real* filters = group_start(g, group)
    cdef const real* bias = group_bias(g, group)
    cdef Plan* plan = block_plan(g, block)
    cdef Py_ssize_t pairs = (plan.vectors + 1) // 2, v = 2 * (pairs * part // parts), end, packed, stop
    if g.mode == FILTER_LANES:
        run_pixels(g, min(g.block, g.rows.outputs - block * g.block) * g.cols.outputs, first, last, filters, bias, src, dst)
        return
    stop = min(plan.vectors, 2 * (pairs * (part + 1) // parts))
    while v < stop:
        end = min(stop, v + 2 * g.panels) if g.panels > 0 else stop
        if g.panels > 0:
            packed = packed_by_tile(g, plan, v, end, first, last)
            pack_panels(g, plan, v + packed, end, g.depth, src, panels + packed // 2 * g.panel)
        run_tiles(g, plan, v, end, first, last, filters, bias, src, panels, dst)
        finish_vectors(g, plan, v, end, first, last, dst)
        v = end


cdef inline Py_ssize_t whole_lines(Py_ssize_t values) noexcept nogil:
    """Bytes of so many values, in whole cache lines."""
    return (values * <Py_ssize_t> sizeof(real) + 63) // 64 * 64


# The gathers of one pass.
cdef struct Grids:
    Gather* grid                # the first has the most outputs
    Py_ssize_t count
    Py_ssize_t columns          # sub-grids of the columns, for each of the rows
    bint plain                  # whether the source is read where it lies: a 1 x 1 kernel
    bint in_place               # the same where filters are the lanes
    bint parted                 # whether outputs of a block wait in the thread's memory: for others to be interleaved with,
    bint pooled                 # or for the maximum of each 2 x 2 of them
    Pool pool                   # of a block
    const real* src
    const real* src_end
    real* dst
    Py_ssize_t height           # of dst
    Py_ssize_t width
    Py_ssize_t splits           # parts of the filters, each a unit of work,
    Py_ssize_t panel_parts      # or of the panels
    Py_ssize_t slices           # parts of the channels, one after the other
    Py_ssize_t most_rows        # of a block
    Py_ssize_t part             # values of a sub-grid's outputs of a block
    Py_ssize_t parts_bytes
    Py_ssize_t copy_bytes
    Py_ssize_t panel_bytes
    Py_ssize_t sums_bytes       # of one sub-grid
    Py_ssize_t workspace_bytes  # of one thread
    char* workspace             # of all threads
    const real* scale           # what filters are multiplied by, one value each, or NULL; forward alone


cdef size_t grids_memory(Grids* g, Py_ssize_t kernel_height, Py_ssize_t kernel_width, size_t cursor) noexcept nogil:
    """Place the gathers and the tables of their axes at `cursor`, where there is one; the address behind them."""
    cdef Axis axis
    cdef Py_ssize_t j
    cdef bint real_memory = cursor != 0
    g.grid = <Gather*> take(&cursor, g.count * sizeof(Gather))
    for j in range(g.count):
        cursor = axis_memory(&g.grid[j].rows if real_memory else &axis, kernel_height, cursor)
        cursor = axis_memory(&g.grid[j].cols if real_memory else &axis, kernel_width, cursor)
    return cursor


cdef void widen(Axis* all, const Axis* axis) noexcept nogil:
    """Let the shifts of `all` reach over those of `axis`; a sub-grid without a tap has none."""
    cdef Py_ssize_t high
    if axis.taps == 0:
        return
    if all.taps == 0:
        all.low, all.halo, all.taps = axis.low, axis.halo, axis.taps
    high = max(all.low + all.halo, axis.low + axis.halo)
    all.low = min(all.low, axis.low)
    all.halo = high - all.low


cdef void share_copy(Axis* axis, const Axis* all) noexcept nogil:
    """Count the shifts of a sub-grid, which has one phase, from where the copy for all of them begins."""
    cdef Py_ssize_t t
    for t in range(axis.taps):
        axis.shift[t] += axis.low - all.low
    axis.low, axis.halo, axis.line = all.low, all.halo, all.outputs + all.halo
    axis.phases, axis.phase[0] = 1, 0


cdef void join_grids(Grids* g) noexcept nogil:
    """One copy of the source for all sub-grids; the first has the most outputs."""
    cdef Axis rows = g.grid.rows, cols = g.grid.cols
    cdef Py_ssize_t j
    for j in range(g.count):
        widen(&rows, &g.grid[j].rows)
        widen(&cols, &g.grid[j].cols)
    for j in range(g.count):
        share_copy(&g.grid[j].rows, &rows)
        share_copy(&g.grid[j].cols, &cols)


cdef void choose_slices(Grids* g) noexcept nogil:
    """How many channels are copied and packed at once."""
    cdef Gather* lead = g.grid
    cdef Py_ssize_t j, taps = 0
    for j in range(g.count):
        taps = max(taps, g.grid[j].rows.taps * g.grid[j].cols.taps)
    g.slices = 1
    if 2 * lead.channels * taps > 3 * SLICE and lead.filters >= SLICE_FILTERS:
        g.slices = min(lead.channels, (lead.channels * taps + SLICE - 1) // SLICE)
    lead.slice = (lead.channels + g.slices - 1) // g.slices
    g.slices = (lead.channels + lead.slice - 1) // lead.slice
    g.most_rows = lead.rows.outputs
    if g.slices > 1 and not g.plain:
        g.most_rows = max(1, SUMS_BYTES // (g.count * lead.filters * lead.cols.outputs * <Py_ssize_t> sizeof(real)))


cdef bint reads_in_place(Gather* g) noexcept nogil:
    """Whether pixels can be read where they lie, one at a time: no padding, no stride, and no row behind the last block's."""
    cdef Axis* rows = &g.rows
    cdef Axis* cols = &g.cols
    if g.mode != FILTER_LANES or rows.step * cols.step != 1 or rows.outputs % g.block != 0:
        return False
    return rows.low == 0 and cols.low == 0 and cols.line == cols.size and rows.outputs + rows.halo <= rows.size


cdef Py_ssize_t parts_of_filters(Gather* lead, int threads, bint by_filters) noexcept nogil:
    """How many parts the filters of a unit make: where they are what threads share out, as many as make units even among
    threads, else as many as there are threads for each unit."""
    cdef Py_ssize_t units = lead.images * lead.groups * lead.blocks, splits = 1
    if by_filters and units < 4 * threads:
        while units * splits % threads:
            splits += 1
    elif threads > units:
        splits = threads // units
    return max(1, min(lead.tiles, splits))


cdef enum:
    SHARED_PANELS = 20          # of each thread, at least


cdef inline bint parts_panels(Gather* g, int threads) noexcept nogil:
    """Whether threads share out the panels of a single image's 1 x 1 kernel, and not its filters: else each of them packs all.

    Filters are packed first then, and waited for: 384 channels to 64 of 14 x 14 took 0.96 to 1.08 of the time as the machine's
    cores were near each other or far, 28 x 28 with few filters 0.90 to 0.99 (Zen 3).
    """
    cdef Py_ssize_t pixels = g.rows.outputs * g.cols.outputs
    if not TILE_PACKS or threads == 1 or g.mode != PLAIN or g.joined or g.slice < g.channels or g.panels == 0:
        return False
    if g.images * g.groups * g.blocks > 1 or g.tiles > PACKING_TILES:
        return False
    return pixels >= SHARED_PANELS * threads * PANEL and pixels >= 3 * g.filters


cdef void choose_units(Grids* g, int threads) noexcept nogil:
    cdef Gather* lead = g.grid
    cdef Gather* grid
    cdef Py_ssize_t j
    cdef bint by_filters
    cdef Forward lines
    choose_slices(g)
    by_filters = not g.parted and threads > 1 and parts_filters(lead, threads)
    choose_blocks(lead, g.most_rows, 2 if g.pooled else 1, 1 if by_filters else threads)
    g.part = lead.filters * lead.block * lead.cols.outputs + VL
    g.panel_bytes = g.sums_bytes = 0
    for j in range(g.count):
        grid = g.grid + j
        grid.slice, grid.block, grid.blocks, grid.plane = lead.slice, lead.block, lead.blocks, lead.plane
        grid.height, grid.width = g.height, g.width
        if g.parted:
            grid.height, grid.width = lead.block, grid.cols.outputs
        choose_tiles(grid)
        g.panel_bytes = max(g.panel_bytes, whole_lines(grid.panels * grid.panel))
        g.sums_bytes = max(g.sums_bytes, whole_lines(grid.filters * grid.sum_row))
    g.splits = 1 if g.parted else parts_of_filters(lead, threads, by_filters)
    g.panel_parts = 1
    if parts_panels(lead, threads):
        g.splits, g.panel_parts = 1, threads
    g.in_place = g.count == 1 and g.slices == 1 and reads_in_place(lead)
    g.copy_bytes = 0
    if g.in_place:
        lead.plane = lead.rows.size * lead.cols.size
    elif not g.plain:
        g.copy_bytes = whole_lines(lead.slice * lead.rows.phases * lead.cols.phases * lead.plane + PANEL)
    g.workspace_bytes = g.copy_bytes + g.panel_bytes + g.count * g.sums_bytes
    g.parts_bytes = whole_lines(g.count * g.part) if g.parted else 0
    g.workspace_bytes += g.parts_bytes
    if g.pooled:
        set_pool(&g.pool, lead.block, lead.cols.outputs, lead.block // 2, g.width, 2, 2, 2, 2, 0, 0, 1, 1)
        g.workspace_bytes += <Py_ssize_t> forward_memory(&g.pool, &lines, False, 0)


cdef size_t work_memory(Grids* g, size_t cursor) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(g.count):
        cursor = gather_memory(g.grid + j, cursor)
    return cursor


# What one thread works with.
cdef struct Space:
    real* copy
    real* panels
    real* sums
    real* parts
    size_t lines


cdef inline Space place_space(Grids* g, char* workspace) noexcept nogil:
    cdef Space space
    space.copy = <real*> workspace
    space.panels = <real*> (workspace + g.copy_bytes)
    space.sums = <real*> (workspace + g.copy_bytes + g.panel_bytes)
    space.parts = <real*> (workspace + g.copy_bytes + g.panel_bytes + g.count * g.sums_bytes)
    space.lines = <size_t> space.parts + g.parts_bytes
    return space


cdef void pool_block(Grids* g, Py_ssize_t plane, Py_ssize_t block, Space* space) noexcept nogil:
    """The maxima of each 2 x 2 of one block's outputs; `plane` is the first filter's in dst."""
    cdef Gather* grid = g.grid
    cdef Pool pool = g.pool
    cdef Py_ssize_t area = g.height * g.width, rows, row, planes = grid.filters, m
    cdef const real* parts = space.parts
    cdef real* dst = g.dst + plane * area + block * pool.p * g.width
    rows = min(pool.p, g.height - block * pool.p)
    if grid.blocks == 1:
        # Whole images: what belongs to the filters lies side by side.
        join_planes(&pool, planes)
        rows *= planes
        planes = 1
    for m in range(planes):
        row = 0
        while row < rows:
            max_batch(&pool, parts, space.parts + g.part, row, rows, dst, index_of(NULL, NULL), 0, False, space.lines)
            row += pool.batch
        parts += pool.height * pool.width
        dst += area


cdef const real* block_source(Grids* g, Py_ssize_t group, Py_ssize_t block, Py_ssize_t channel, Space* space) noexcept nogil:
    """A slice of the channels, from `channel` on, of the group's number `group` over all images: copied, or where it lies."""
    cdef Gather* grid = g.grid
    cdef const real* src = g.src + (group * grid.channels + channel) * grid.rows.size * grid.cols.size
    if g.plain:
        return src + block * grid.block * grid.cols.line
    if g.in_place:
        return src + block * grid.block * grid.cols.size
    copy_padded(src, g.src_end, min(grid.slice, grid.channels - channel), &grid.rows, &grid.cols, block * grid.block,
                grid.block + grid.rows.halo, space.copy)
    return space.copy


cdef real* block_target(Grids* g, Py_ssize_t j, Py_ssize_t plane, Py_ssize_t block, Space* space) noexcept nogil:
    """Where the outputs of sub-grid j go; `plane` is the first filter's in dst."""
    cdef Gather* grid = g.grid + j
    if g.parted:
        return space.parts + j * g.part
    return g.dst + (plane * g.height + grid.rows.first + block * grid.block * grid.rows.stride) * g.width + grid.cols.first


cdef inline Py_ssize_t tiles_before(Grids* g, Gather* grid, Py_ssize_t split) noexcept nogil:
    """The first tile of filters of one of the parts."""
    return split * grid.tiles // g.splits


cdef void run_slices(
    Grids* g, Py_ssize_t split, Py_ssize_t block, Py_ssize_t group, Py_ssize_t plane, Space* space
) noexcept nogil:
    """One block by slices of the channels; where nothing is copied, some panels after the other."""
    cdef Gather* grid = g.grid
    cdef Py_ssize_t begin = 0, end, slice, j, lead = block_plan(grid, block).vectors, apart
    cdef Py_ssize_t step = 2 * grid.panels if g.plain else max(lead, 1)
    cdef const real* src
    cdef real* dst
    cdef Plan* plan
    apart = g.sums_bytes // <Py_ssize_t> sizeof(real)
    while begin < lead:
        for slice in range(g.slices):
            src = block_source(g, group, block, slice * g.grid.slice, space)
            for j in range(g.count):
                grid = g.grid + j
                plan = block_plan(grid, block)
                end = min(plan.vectors, begin + step)
                add_slice(grid, plan, begin, end, tiles_before(g, grid, split), tiles_before(g, grid, split + 1),
                          slice * grid.slice, group_start(grid, group), group_bias(grid, group), src, space.panels,
                          space.sums + j * apart)
        for j in range(g.count):
            grid = g.grid + j
            plan = block_plan(grid, block)
            end = min(plan.vectors, begin + step)
            dst = block_target(g, j, plane, block, space)
            store_sums(grid, plan, begin, end, tiles_before(g, grid, split), tiles_before(g, grid, split + 1),
                       space.sums + j * apart, dst)
            finish_vectors(grid, plan, begin, end, tiles_before(g, grid, split), tiles_before(g, grid, split + 1), dst)
        begin += step


cdef void run_unit(Grids* g, Py_ssize_t unit, char* workspace) noexcept nogil:
    """One block of output rows of one group of one image, for one part of the filters or of the panels."""
    cdef Gather* grid = g.grid
    cdef Py_ssize_t part = unit % g.panel_parts, split = unit // g.panel_parts % g.splits, j
    cdef Py_ssize_t all = g.panel_parts * g.splits, block = unit // all % grid.blocks, group = unit // all // grid.blocks
    cdef Py_ssize_t plane = group * grid.filters
    cdef const real* src
    cdef Space space = place_space(g, workspace)
    if g.slices > 1:
        run_slices(g, split, block, group, plane, &space)
    else:
        src = block_source(g, group, block, 0, &space)
        for j in range(g.count):
            grid = g.grid + j
            if not (g.parted and is_blank(grid)):
                run_block(grid, group, block, tiles_before(g, grid, split), tiles_before(g, grid, split + 1), part,
                          g.panel_parts, src, space.panels, block_target(g, j, plane, block, &space))
    if g.pooled:
        pool_block(g, plane, block, &space)
    elif g.parted:
        interleave_block(g, group, block, space.parts)
    else:
        finish_rows(g.grid, block, tiles_before(g, g.grid, split), tiles_before(g, g.grid, split + 1),
                    block_target(g, 0, plane, block, &space))


cdef bint packs_when_needed(Grids* g) noexcept nogil:
    """Whether each tile of filters serves one unit: of a single image that is one block. It is packed there, and asked for
    while the tile before it is computed: single images of ResNet-50 were 1.03 times as fast, of MobileNetV2 1.06 (Zen 5)."""
    cdef Gather* lead = g.grid
    if not ASKS or g.count * lead.images * lead.groups * lead.blocks * g.panel_parts > 1:
        return False
    if lead.mode == FILTER_LANES or lead.joined:
        return False
    return lead.row_stride == lead.depth and lead.channel_stride == lead.rows.taps * lead.cols.taps


cdef void pack_unit(Grids* g, Py_ssize_t unit) noexcept nogil:
    """One tile of filters, counted over the groups of all sub-grids."""
    cdef Gather* grid = g.grid
    while unit >= grid.groups * grid.tiles:
        unit -= grid.groups * grid.tiles
        grid += 1
    pack_tile(grid, unit // grid.tiles, unit % grid.tiles)


cdef gather(
    Grids* g, const real* w, Py_ssize_t row_stride, Py_ssize_t channel_stride, Py_ssize_t kernel_width, int threads
):
    """Take scratch memory for gathers whose axes and sizes are set, pack the filters, do every unit of work in any order."""
    cdef Gather* lead = g.grid
    cdef Gather* grid
    cdef Py_ssize_t u, unit, j, tiles = 0
    cdef Shares shares
    cdef Units units
    cdef Py_ssize_t size = lead.groups * max(lead.filters * row_stride, lead.channels * channel_stride)
    g.src_end = g.src + lead.images * lead.groups * lead.channels * lead.rows.size * lead.cols.size
    choose_units(g, threads)
    for j in range(g.count):
        grid = g.grid + j
        grid.w, grid.w_end, grid.scale, grid.kernel_width = w, w + size, g.scale, kernel_width
        grid.row_stride, grid.channel_stride, grid.lazy = row_stride, channel_stride, False
    lead.lazy = packs_when_needed(g)
    work_memory(g, scratch(work_memory(g, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    share_out(&shares, lead.images * lead.groups * lead.blocks * g.splits * g.panel_parts, threads)
    with nogil:
        for j in range(g.count):
            fill_tables(g.grid + j)
            tiles += lead.groups * g.grid[j].tiles
        if lead.lazy:
            tiles = 0
        with parallel(num_threads=threads):
            for u in prange(tiles, schedule="static"):
                pack_unit(g, u)
            wait_for_all()
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    run_unit(g, unit, g.workspace + threadid() * g.workspace_bytes)
                units = next_units(&shares, threadid())
