# What the tiles of a gather ask for early (tile.pxi): inputs and outputs of 1 x 1 kernels, and a single image's filters.
#
# What is packed next is read while products are computed and not when it is packed: packing 512 channels of 28 x 28 waited for
# most of a quarter of the time (Zen 5). No result depends on it.

cdef inline void ask_for_next(Gather* g, Plan* plan, Py_ssize_t tiles, const real* src, Tile* t) noexcept nogil:
    """Let so many tiles of filters over a whole image ask for the next image."""
    t.asks = g.depth * tiles > 0
    t.next.skip = 0
    if t.asks:
        t.next.at, t.next.step = <const char*> src + image_bytes(g), image_bytes(g) * 2 // (plan.vectors * tiles * g.depth)


cdef inline void ask_for_columns(
    Gather* g, Py_ssize_t vectors, Py_ssize_t tiles, const real* next, Tile* t
) noexcept nogil:
    """Let so many tiles over panels of as many vectors ask for those that are packed next: with each panel, a line of the cache
    of each channel."""
    cdef Py_ssize_t passes = tiles * (vectors // 2), plane = g.plane * <Py_ssize_t> sizeof(real)
    t.asks = passes > 0
    if t.asks:
        t.next.at, t.next.step = <const char*> next, plane
        t.next.skip = (vectors * VL * <Py_ssize_t> sizeof(real) + 64) // passes - t.depth * plane
        t.target.at, t.target.step = t.next.at, 0


cdef inline void ask_for_pixels(
    Gather* g, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t tiles, const real* src, Tile* t
) noexcept nogil:
    """The same over pixels of several images: the channels in hand of what lies an image on."""
    cdef Py_ssize_t passes = tiles * ((end - begin) // 2), pixel = t.depth * <Py_ssize_t> sizeof(real), first = begin * VL
    t.asks = passes > 0
    if t.asks:
        t.next.at = <const char*> (src + (first // g.cols.outputs + 1) * g.cols.line) + first % g.cols.outputs * pixel
        t.next.step, t.next.skip = (end - begin) * VL * pixel // (passes * t.depth), 0
        t.target.at, t.target.step = t.next.at, 0


cdef inline void ask_for_filters(Gather* g, Py_ssize_t vectors, Py_ssize_t m, int rows, Tile* t) noexcept nogil:
    """Let a tile over so many vectors ask for as many filters from m on, which are packed next."""
    cdef Py_ssize_t taps = vectors // 2 * t.depth, half = rows * g.depth * <Py_ssize_t> sizeof(real) // 2
    t.asks = taps > 0 and m < g.filters
    if t.asks:
        t.next.at = <const char*> (g.w + m * g.row_stride)
        t.target.at = t.next.at + half
        t.next.step = t.target.step = half // taps
        t.next.skip = 0


cdef enum:
    ROOM_TO_ASK = 1 << 20           # bytes of the second level, at least


cdef inline bint has_room_to_ask() noexcept nogil:
    """Whether what is asked for does not push out the panels in hand: with 512 KB of second level, layers of 28 x 28 and
    56 x 56 took 1.03 to 1.12 times as long when they asked, and 1024 channels of 14 x 14 1.13 times (Zen 3)."""
    return not 0 < second_level() < ROOM_TO_ASK


cdef void ask_for_panels(
    Gather* g, Plan* plan, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t tiles, Py_ssize_t channel, const real* src, Tile* t
) noexcept nogil:
    """What is packed behind the vectors begin .. end, from `channel` on, where src lies: the next slice of the channels, the
    next vectors, or the first of the next image."""
    if g.joined:
        ask_for_pixels(g, begin, end, tiles, src, t)
    elif channel + g.slice < g.channels:
        ask_for_columns(g, end - begin, tiles, src + plan.src[begin] + g.slice * g.plane, t)
    else:
        src -= channel * g.plane
        ask_for_columns(g, end - begin, tiles, src + (plan.src[end] if end < plan.vectors else g.channels * g.plane), t)


cdef inline void ask_for_outputs(Gather* g, Plan* plan, int rows, const real* out, Tile* t) noexcept nogil:
    """Let a tile over a whole image ask for where the next one, of as many filters, will store its outputs."""
    cdef Py_ssize_t planes = rows * g.plane * <Py_ssize_t> sizeof(real)
    t.target.at, t.target.step = <const char*> out + planes, planes * 2 // (plan.vectors * g.depth)
