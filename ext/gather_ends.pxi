# The last pixels of a gather's outputs, and what is added to outputs that are there (see gather_tiles.pxi).
#
# Where an image leaves a few pixels behind its last whole vector, 1 of 7 x 7 or 4 of 14 x 14 with 16 lanes, a vector for them
# would be moved back over others and compute most of its lanes again. For so few, lanes are the filters of a tile, as they are
# packed: a multiply-add for each pixel and tap in place of one for each filter and tap.
#
#     out[i, px] = start[i] + sum_k a[k, i] b[k, px]        lanes i

cdef enum:
    REST_PIXELS = 4             # at most


cdef inline Py_ssize_t rest_pixels(Py_ssize_t pixels) noexcept nogil:
    """Of those behind the last whole vector, how many are taken apart."""
    return pixels % VL if MR <= VL and pixels % VL <= REST_PIXELS and pixels > VL else 0


cdef inline bint rest_alone(const Plan* plan, Py_ssize_t v) noexcept nogil:
    """Whether vector v is the last one, of which the rest alone is computed."""
    return plan.rest > 0 and v == plan.vectors - 1


cdef inline void rest_sums "convlayers_rest_sums"(
    int pixels, int rows, const Tile* t, const real* b, real* out, Py_ssize_t ldc
) noexcept nogil:
    cdef vf acc[REST_PIXELS]
    cdef vf row
    cdef real lanes[VL]
    cdef const real* a = t.a
    cdef const real* x
    cdef Py_ssize_t k
    cdef int i, j
    for j in range(pixels):
        for i in range(VL):
            lanes[i] = 0
        for i in range(rows):
            lanes[i] = out[i * ldc + j] if t.accumulate else t.init[i] if t.init != NULL else 0
        acc[j] = load(lanes)
    for k in range(t.depth):
        # Lanes behind the tile's rows are those of the next tap; nobody asks for what becomes of them.
        row = load(a)
        x = b + t.step[k]
        for j in range(pixels):
            acc[j] = acc[j] + splat(x[j]) * row
        a += rows
    for j in range(pixels):
        store(lanes, held(acc[j], t.ceiling))
        for i in range(rows):
            out[i * ldc + j] = lanes[i]


cdef inline Py_ssize_t rest_lane(const Plan* plan, Mode mode) noexcept nogil:
    """The first lane of the last vector that is computed."""
    return VL - plan.rest if mode == PLAIN else 0


cdef void run_rest_sums(int pixels, int rows, const Tile* t, const real* b, real* out, Py_ssize_t ldc) noexcept nogil:
    """The filters of one tile over as many pixels from b on: out[i * ldc + px]."""
    if pixels == 1:
        rest_sums(1, rows, t, b, out, ldc)
    elif pixels == 4:
        rest_sums(4, rows, t, b, out, ldc)
    else:
        rest_sums(pixels, rows, t, b, out, ldc)


cdef void run_rest(Gather* g, Plan* plan, int rows, const Tile* t, const real* b, real* dst) noexcept nogil:
    """The filters of one tile over the rest of a block, whose last vector's values begin at b and whose plane at dst."""
    cdef real spill[SPILL]
    cdef Py_ssize_t v = plan.vectors - 1, lane = rest_lane(plan, g.mode), area = g.height * g.width, i
    if g.mode == PLAIN:
        run_rest_sums(<int> plan.rest, rows, t, b + lane, dst + run_place(plan, v) + lane, area)
        return
    run_rest_sums(<int> plan.rest, rows, t, b, spill, PANEL)
    for i in range(rows):
        scatter(plan, v, spill + i * PANEL, dst + i * area, g.cols.stride)


cdef void store_vector(Gather* g, Plan* plan, Py_ssize_t v, const real* sums, real* dst) noexcept nogil:
    """A filter's sums of one vector to its plane."""
    cdef Py_ssize_t lane
    if plan.whole[v] and not rest_alone(plan, v):
        store(dst + run_place(plan, v), load(sums))
    elif g.mode == PLAIN and rest_alone(plan, v):
        for lane in range(VL - plan.rest, VL):
            dst[run_place(plan, v) + lane] = sums[lane]
    else:
        scatter(plan, v, sums, dst, g.cols.stride)


cdef void add_to_pixels(
    Gather* g, Py_ssize_t first, Py_ssize_t last, Py_ssize_t begin, Py_ssize_t end, real* dst
) noexcept nogil:
    """To the pixels begin .. end of a block whose outputs begin at dst, for the filters of the tiles first .. last."""
    cdef Py_ssize_t m
    cdef real* out
    for m in range(filter_start(g, first), filter_start(g, last)):
        out = dst + m * g.height * g.width + begin
        add_values(out, g.residual + (out - g.dst), end - begin, g.relu_of_sum, out)


cdef inline void finish_vectors(
    Gather* g, Plan* plan, Py_ssize_t begin, Py_ssize_t end, Py_ssize_t first, Py_ssize_t last, real* dst
) noexcept nogil:
    """The residual for the vectors begin .. end of an image that is taken at once, while they are in the caches. The last
    vector of all moves back over values that have theirs: it has written them anew."""
    if g.residual != NULL and g.mode == PLAIN and not g.joined:
        add_to_pixels(g, first, last, plan.pixels - plan.rest if rest_alone(plan, begin) else plan.src[begin],
                      min(end * VL, plan.pixels), dst)


cdef inline void finish_rows(Gather* g, Py_ssize_t block, Py_ssize_t first, Py_ssize_t last, real* dst) noexcept nogil:
    """And for a whole block of rows, or of images."""
    cdef Py_ssize_t rows = min(g.block, g.rows.outputs - block * g.block), i
    if g.residual != NULL and g.joined:
        for i in range(rows):
            add_to_pixels(g, first, last, 0, g.width, dst + i * g.rows.stride * g.width)
    elif g.residual != NULL and g.mode != PLAIN:
        add_to_pixels(g, first, last, 0, rows * g.width, dst)
