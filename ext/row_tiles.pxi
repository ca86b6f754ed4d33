# The register tile with rows that lie anywhere.
#
#     out[i, l] = start[i, l] + sum_k src[row[i] + step[k]] b[k, l]        l < vecs * VL <= PANEL
#
# Two tables say where a row begins and where its term k lies from there: the rows of the tile are outputs of an image and the
# terms a filter's taps (gather_pixels.pxi), or the rows are taps and the terms outputs (conv_weight.pxi). Nothing is packed
# but b: `ldb` values from one k to the next. `start` is `init`, PANEL values, or out itself where that is NULL. out has PANEL
# values a row.
#
# With two vectors and `asks`, each term asks early for lines of `next` and `other`, as in tile.pxi.
#
# Sums with one vector have two rows more, since fewer than eight wait for each other. With 32 registers there are tiles of
# fewer rows too, for counts that leave less of them empty: 32 rows are three tiles of 11, or three of 14 with a quarter empty.
# With one vector these are the faster ones besides: the places of ten rows fit the general registers.

cdef enum:
    FEWER_ROWS = 11             # with two vectors
    FEWER_SINGLES = 10          # with one


cdef struct Rows "convlayers_rows":
    const real* src
    const Py_ssize_t* row
    Py_ssize_t tiles            # of `rows` rows each
    const Py_ssize_t* step
    Py_ssize_t depth
    const real* b
    Py_ssize_t ldb
    const real* init
    real* out
    real ceiling                # see tile.pxi
    bint asks
    Ask next
    Ask other


cdef inline int rows_of_tile(Py_ssize_t count, int vecs) noexcept nogil:
    """The rows of each tile of `count` rows in all."""
    cdef int most = MR if vecs == 2 else MR + 2, fewer = FEWER_ROWS if vecs == 2 else FEWER_SINGLES
    return fewer if MR > fewer and (count + fewer - 1) // fewer * fewer < (count + most - 1) // most * most else most


cdef inline void row_tiles "convlayers_row_tiles"(int rows, int vecs, bint asks, Rows* t) noexcept nogil:
    cdef vf acc[MR + 2][2]
    cdef const real* at[MR + 2]
    cdef const real* b
    # Copies: what is stored might be a field of t, for all the compiler knows.
    cdef const real* src = t.src
    cdef const real* init = t.init
    cdef const Py_ssize_t* row = t.row
    cdef const Py_ssize_t* step = t.step
    cdef real* out = t.out
    cdef Py_ssize_t tile, k, depth = t.depth, ldb = t.ldb, tiles = t.tiles
    cdef real ceiling = t.ceiling
    cdef Ask next = t.next
    cdef Ask other = t.other
    cdef vf x, y0, y1
    cdef int i
    for tile in range(tiles):
        for i in range(rows):
            at[i] = src + row[i]
            acc[i][0] = load(init if init != NULL else out + i * PANEL)
            if vecs == 2:
                acc[i][1] = load(init + VL if init != NULL else out + i * PANEL + VL)
        b = t.b
        for i in range(rows):
            hold_place(at[i])
        for k in range(depth):
            y0 = load(b)
            if vecs == 2:
                y1 = load(b + VL)
            if asks:
                prefetch_far(next.at)
                prefetch_far(other.at)
                next.at += next.step
                other.at += other.step
            for i in range(rows):
                x = splat(at[i][step[k]])
                acc[i][0] = acc[i][0] + x * y0
                if vecs == 2:
                    acc[i][1] = acc[i][1] + x * y1
            b += ldb
        if 0 < ceiling < INFINITY:
            for i in range(rows):
                acc[i][0] = vsmaller(splat(ceiling), acc[i][0])
                if vecs == 2:
                    acc[i][1] = vsmaller(splat(ceiling), acc[i][1])
        for i in range(rows):
            store(out + i * PANEL, vrelu(acc[i][0]) if ceiling > 0 else acc[i][0])
            if vecs == 2:
                store(out + i * PANEL + VL, vrelu(acc[i][1]) if ceiling > 0 else acc[i][1])
        row += rows
        out += rows * PANEL
    if asks:
        t.next.at, t.other.at = next.at, other.at


cdef void run_rows(int rows, int vecs, Rows* t) noexcept nogil:
    if ASKS and t.asks and vecs == 2:
        if rows == MR or MR < FEWER_ROWS:
            row_tiles(MR, 2, True, t)
        else:
            row_tiles(FEWER_ROWS, 2, True, t)
    elif vecs == 2 and rows == MR:
        row_tiles(MR, 2, False, t)
    elif vecs == 1 and rows == MR + 2:
        row_tiles(MR + 2, 1, False, t)
    elif MR > FEWER_ROWS:
        if vecs == 2:
            row_tiles(FEWER_ROWS, 2, False, t)
        else:
            row_tiles(FEWER_SINGLES, 1, False, t)
