# The register tile that every matrix-like kernel runs on.
#
#     c[i, l] = start[i, l] + sum_k a[k, i] b[k, l]        i < rows <= MR,  l < vecs * VL <= PANEL
#
# a      `rows` values for each k, `lda` from one k to the next: `rows` where a is packed
# b      two vectors for each k, at b0 + step[k] and b1 + step[k]; the table lets one body read a packed panel
#        (step[k] = k * PANEL) and an image in place (step[k] = where tap k lies)
# c      at c0 and c1, `ldc0` and `ldc1` values from row to row
# start  c itself with `accumulate`, else init[i] for a row, else 0 where init is NULL
#
# Then again for each of `panels` in all, b0 and b1 moving on by `next_b`, c0 and c1 by PANEL. Apart from the calls that this
# saves, GCC keeps the accumulators out of memory only in loops that stand within another one: 1x1 kernels took 1.1 to 1.2
# times as long.
#
# Tiles of ASKING_ROWS and more ask for what they read `ahead` values on. Where `asks` is set they ask, tap by tap, for lines
# that are wanted later as well: of `next`, what somebody else will read, and of `target`, what will be written. As many lines
# at once held up what a tile reads itself: 1x1 kernels took 0.96 to 1.02 of the time, and so 0.90 to 0.96 (Emerald Rapids).
#
# With `asks` PACKS it writes what it reads to `pack`, panel by panel, `next_pack` values apart, for the tiles behind it, and
# asks for what it reads PACK_AHEAD values on: six rows of multiply-adds hide both. Apart, packing took a fifth of 1x1 layers
# with 24 filters (Zen 3).
#
# With a `ceiling` over 0, c = min(max(sum, 0), ceiling), NaN kept: the last pass of a layer and of the ReLU (infinity) or ReLU6
# behind it are one.
#
# The caller guarantees VL readable values at each vector's place. `rows` and `vecs` are constants after inlining: the
# accumulators then live in registers. Measured on Zen 5: 236 GFLOP/s a core with AVX-512 (14 x 2) and 114 with AVX2
# (6 x 2), against 256 and 128 for a bare chain of fused multiply-adds.

cdef extern from "vec.h" nogil:
    ctypedef float real
    ctypedef float vf
    ctypedef int vmask
    ctypedef int lane
    enum: VL
    enum: MR
    enum: PANEL
    enum: ASKS
    enum: TILE_PACKS
    enum: CACHE_LINE
    enum: TILE
    enum: PLAIN_TAPS
    enum: SPILL
    enum: PIXEL_CHUNK
    enum: MOST_TAPS
    enum: GUARD_BYTES
    void ALLOW(const void*, size_t)
    void FORBID(const void*, size_t)
    vf splat(real)
    real exponential(real)
    vf vselect(vmask, vf, vf)
    vf vreal(vmask)
    vf vevens(vf, vf)
    vf vodds(vf, vf)
    vf vlows(vf, vf)
    vf vruns_even(vf, vf)
    vf vruns_odd(vf, vf)
    vf vhighs(vf, vf)
    vf vthirds(vf, vf, vf)
    vf vplaces3(vf, int)
    vf vjoin3(vf, vf, vf, int)
    vf vturns_low(vf, vf)
    vf vfours_in_order(vf)
    vf vturns_high(vf, vf)
    vmask first_lanes "convlayers_first_lanes"(Py_ssize_t n)
    vmask isplat(lane)
    vmask iselect(vmask, vmask, vmask)
    vmask vbits(vf)
    vmask iequal "vequal"(vmask, vmask)
    vmask vequal(vf, vf)
    vmask vbeats(vf, vf)
    vf vrelu(vf)
    vf vsmaller(vf, vf)
    void prefetch_line "convlayers_prefetch"(const void* p, int write)
    void prefetch_far "convlayers_prefetch_far"(const void* p)
    Py_ssize_t second_level "convlayers_second_level"()
    vmask vprecedes(vf, vmask, vf, vmask)
    enum: PICKS
    vf vpick(vf, vf, vmask)
    vf load_lanes(const real* p, unsigned int lanes)
    void store_lanes(real* p, vf v, unsigned int lanes)
    enum: SHORT_ROWS
    vf load_masked(const real* p, vmask mask)
    vf vevens_apart(vf, vf)
    vf vodds_apart(vf, vf)
    vf vparted(vf)
    void hold_place "convlayers_hold_place"(const real*)
    void begin_line()


cdef enum:
    ASKING_ROWS = 11            # which 32 registers alone hold
    TAPS_AHEAD = 16
    PACKS = 2                   # in place of True
    PACK_AHEAD = 32             # two panels: with one or four 0.9 to 1.0 times as fast
    PACKING_ROWS = 4            # at least


# What is asked for early, by how many bytes that moves on with each tap, and by how many more behind a panel.
cdef struct Ask "convlayers_ask":
    const char* at
    Py_ssize_t step
    Py_ssize_t skip


cdef struct Tile "convlayers_tile_args":
    Py_ssize_t depth
    const real* a
    Py_ssize_t lda
    const real* b0
    const real* b1
    const Py_ssize_t* step
    real* c0
    real* c1
    Py_ssize_t ldc0
    Py_ssize_t ldc1
    const real* init
    Py_ssize_t panels
    Py_ssize_t next_b
    bint accumulate
    real ceiling
    Py_ssize_t ahead
    bint asks
    Ask next
    Ask target
    real* pack
    Py_ssize_t next_pack


cdef inline vf load(const real* p) noexcept nogil:
    return (<const vf*> p)[0]


cdef inline void store(real* p, vf v) noexcept nogil:
    (<vf*> p)[0] = v


cdef inline unsigned int lanes_within(Py_ssize_t first, Py_ssize_t size, Py_ssize_t count) noexcept nogil:
    """A bit for each lane below `count` whose pixel, of those from `first` on, lies in a row of `size`."""
    cdef Py_ssize_t low = min(max(0, -first), VL), high = max(low, min(min(count, VL), size - first))
    return (<unsigned int> 1 << high) - (<unsigned int> 1 << low)


cdef inline void prefetch(const void* p, Py_ssize_t nbytes, bint write) noexcept nogil:
    """Ask for `nbytes` that are needed soon; nothing happens where the addresses are not ours."""
    cdef Py_ssize_t at
    for at in range(0, nbytes, 64):
        if write:
            prefetch_line(<const char*> p + at, 1)
        else:
            prefetch_line(<const char*> p + at, 0)


cdef inline void tile "convlayers_tile"(int rows, int vecs, int asks, Tile* t) noexcept nogil:
    cdef vf acc[MR][2]
    cdef vf x, y0, y1
    # Copies: what is stored might be a field of t, for all the compiler knows.
    cdef const real* a
    cdef const real* b0 = t.b0
    cdef const real* b1 = t.b1
    cdef const real* init = t.init
    cdef const Py_ssize_t* step = t.step
    cdef real* c0 = t.c0
    cdef real* c1 = t.c1
    cdef Py_ssize_t k, panel, depth = t.depth, lda = t.lda, ldc0 = t.ldc0, ldc1 = t.ldc1, next_b = t.next_b, ahead = t.ahead
    cdef bint accumulate = t.accumulate
    cdef real ceiling = t.ceiling
    cdef Ask next = t.next
    cdef Ask target = t.target
    cdef real* pack = t.pack
    cdef int i
    for panel in range(t.panels):
        if accumulate:
            for i in range(rows):
                acc[i][0] = load(c0 + i * ldc0)
                acc[i][1] = load(c1 + i * ldc1) if vecs == 2 else acc[i][0]
        elif init != NULL:
            for i in range(rows):
                acc[i][0] = acc[i][1] = splat(init[i])
        else:
            for i in range(rows):
                acc[i][0] = acc[i][1] = splat(0)
        a = t.a
        if asks:
            begin_line()
        for k in range(depth):
            y0 = load(b0 + step[k])
            if vecs == 2:
                y1 = load(b1 + step[k])
            if rows >= ASKING_ROWS:
                prefetch_line(b0 + step[k] + ahead, 0)
                if vecs == 2:
                    prefetch_line(b1 + step[k] + ahead, 0)
            if asks == PACKS:
                store(pack + k * PANEL, y0)
                store(pack + k * PANEL + VL, y1)
                prefetch_line(b0 + step[k] + PACK_AHEAD, 0)
            elif asks:
                prefetch_far(next.at)
                prefetch_far(target.at)
                next.at += next.step
                target.at += target.step
            for i in range(rows):
                x = splat(a[i])
                acc[i][0] = acc[i][0] + x * y0
                if vecs == 2:
                    acc[i][1] = acc[i][1] + x * y1
            a += lda
        if 0 < ceiling < INFINITY:
            for i in range(rows):
                acc[i][0] = vsmaller(splat(ceiling), acc[i][0])
                if vecs == 2:
                    acc[i][1] = vsmaller(splat(ceiling), acc[i][1])
        for i in range(rows):
            store(c0 + i * ldc0, vrelu(acc[i][0]) if ceiling > 0 else acc[i][0])
            if vecs == 2:
                store(c1 + i * ldc1, vrelu(acc[i][1]) if ceiling > 0 else acc[i][1])
        b0 += next_b
        b1 += next_b
        c0 += PANEL
        c1 += PANEL
        if asks == PACKS:
            pack += t.next_pack
        elif asks:
            next.at += next.skip
    if asks:
        t.next.at, t.target.at = next.at, target.at


cdef inline void tile_rows "convlayers_tile_rows"(int vecs, int rows, Tile* t) noexcept nogil:
    if rows == 1:
        tile(1, vecs, False, t)
    elif rows == 2:
        tile(2, vecs, False, t)
    elif rows == 3:
        tile(3, vecs, False, t)
    elif rows == 4:
        tile(4, vecs, False, t)
    elif rows == 5:
        tile(5, vecs, False, t)
    elif rows == 6:
        tile(6, vecs, False, t)
    elif MR > 6 and rows == 7:
        tile(7, vecs, False, t)
    elif MR > 6 and rows == 8:
        tile(8, vecs, False, t)
    elif MR > 6 and rows == 9:
        tile(9, vecs, False, t)
    elif MR > 6 and rows == 10:
        tile(10, vecs, False, t)
    elif MR > 6 and rows == 11:
        tile(11, vecs, False, t)
    elif MR > 6 and rows == 12:
        tile(12, vecs, False, t)
    elif MR > 6 and rows == 13:
        tile(13, vecs, False, t)
    elif MR > 6:
        tile(14, vecs, False, t)


cdef inline void asking_rows "convlayers_asking_rows"(int rows, Tile* t) noexcept nogil:
    if MR == 6 and rows == 5:
        tile(5, 2, True, t)
    elif MR == 6:
        tile(6, 2, True, t)
    elif rows == 11:
        tile(11, 2, True, t)
    elif rows == 12:
        tile(12, 2, True, t)
    elif rows == 13:
        tile(13, 2, True, t)
    else:
        tile(14, 2, True, t)


cdef inline void packing_rows "convlayers_packing_rows"(int rows, Tile* t) noexcept nogil:
    if rows == PACKING_ROWS:
        tile(PACKING_ROWS, 2, PACKS, t)
    elif rows == 5:
        tile(5, 2, PACKS, t)
    else:
        tile(6, 2, PACKS, t)


cdef void run_tile(int rows, int vecs, Tile* t) noexcept nogil:
    if ASKS and t.asks and vecs == 2 and rows >= min(ASKING_ROWS, MR - 1):
        asking_rows(rows, t)
    elif vecs == 2:
        tile_rows(2, rows, t)
    else:
        tile_rows(1, rows, t)


cdef void run_vectors(int rows, Py_ssize_t vectors, Tile* t) noexcept nogil:
    """The tile over so many vectors side by side, the last of them perhaps without a neighbour."""
    t.panels = vectors // 2
    if t.panels > 0:
        run_tile(rows, 2, t)
    if vectors % 2 == 1:
        t.b0 += t.panels * t.next_b
        t.c0 += t.panels * PANEL
        t.panels = 1
        run_tile(rows, 1, t)


cdef inline Py_ssize_t tile_count(Py_ssize_t rows) noexcept nogil:
    return (rows + MR - 1) // MR


cdef inline Py_ssize_t tile_start(Py_ssize_t t, Py_ssize_t rows) noexcept nogil:
    """First row of tile t: rows are shared out evenly, so that 16 rows make 8 + 8 and not 14 + 2."""
    return t * rows // tile_count(rows)


cdef inline size_t take(size_t* cursor, Py_ssize_t nbytes) noexcept nogil:
    """The address of the next `nbytes` of a scratch buffer, on a cache line of their own; from 0 on, it only counts."""
    cdef size_t at = cursor[0]
    cursor[0] = at + <size_t> ((nbytes + 63) // 64 * 64 + GUARD_BYTES)
    if GUARD_BYTES and at >> 40:        # an address: counts stay below
        FORBID(<void*> (at + nbytes), cursor[0] - at - nbytes)
    return at


cdef inline Py_ssize_t row_bytes(Py_ssize_t columns) noexcept nogil:
    """A row of scratch for one thread, two cache lines from the next: sharing a line halved the speed of two threads."""
    return (columns * <Py_ssize_t> sizeof(real) + 127) // 128 * 128 + 128
