# Panels of a gather's source, packed for the register tile: two vectors of output pixels for each tap (see gather_tiles.pxi).

cdef inline void pack_pair(
    const real* a, const real* b, const Py_ssize_t* place, Py_ssize_t begin, Py_ssize_t end, real* panel
) noexcept nogil:
    """Two vectors side by side for the taps begin .. end."""
    cdef Py_ssize_t k
    for k in range(begin, end):
        store(panel + k * PANEL, load(a + place[k]))
        store(panel + k * PANEL + VL, load(b + place[k]))


cdef inline void pack_row "convlayers_pack_row"(
    int taps, const real* src, const Py_ssize_t* place, Py_ssize_t count, real* panel, Py_ssize_t pitch
) noexcept nogil:
    """As many panels side by side in the source for a few taps."""
    cdef const real* at[PLAIN_TAPS]
    cdef Py_ssize_t i
    cdef int k
    for k in range(taps):
        at[k] = src + place[k]
    for i in range(count):
        for k in range(taps):
            store(panel + k * PANEL, load(at[k] + i * PANEL))
            store(panel + k * PANEL + VL, load(at[k] + i * PANEL + VL))
        panel += pitch


cdef void pack_plain(
    Gather* g, const Plan* plan, Py_ssize_t first, Py_ssize_t last, Py_ssize_t depth, const real* src, real* panels
) noexcept nogil:
    """What pack_panels does where pixels of the source follow each other.

    With a call for each panel of four taps 1x1 kernels took 1.01 to 1.10 times as long, most with few filters (Zen 3).
    """
    cdef Py_ssize_t k = 0, stop, v, chain
    cdef real* panel
    while k < depth:
        stop = min(depth, k + PLAIN_TAPS)
        panel, v = panels + k * PANEL, first
        while v < last:
            chain = min(plan.chain[v], (last - v) // 2)
            if chain > 0 and stop - k == PLAIN_TAPS:
                pack_row(PLAIN_TAPS, src + plan.src[v], g.place + k, chain, panel, g.panel)
            else:
                chain = 1
                pack_pair(src + plan.src[v], src + plan.src[min(v + 1, last - 1)], g.place + k, 0, stop - k, panel)
            panel += chain * g.panel
            v += 2 * chain
        k = stop


cdef inline void pack_seam(
    const real* a, const real* b, Py_ssize_t seam, const Py_ssize_t* place, Py_ssize_t begin, Py_ssize_t end, real* panel
) noexcept nogil:
    """A vector that has its first `seam` values from one place and the others from another."""
    cdef vmask first = first_lanes(seam)
    cdef Py_ssize_t k
    for k in range(begin, end):
        store(panel + k * PANEL, vselect(first, load(a + place[k]), load(b + place[k])))


cdef void pack_runs(
    Gather* g, Plan* plan, Py_ssize_t v, Py_ssize_t last, Py_ssize_t begin, Py_ssize_t end, const real* copy, real* panel
) noexcept nogil:
    """The same for vectors in any number of runs.

    A run is copied as a whole vector; what it writes too much lies where the next run, or the next tap, writes later.
    """
    cdef Py_ssize_t k, u, r
    cdef Run* run
    for k in range(begin, end):
        for u in range(v, last):
            for r in range(plan.begin[u], plan.begin[u + 1]):
                run = plan.runs + r
                store(panel + k * PANEL + (u - v) * VL + run.lane, load(copy + g.place[k] + run.src))


cdef void pack_panels(
    Gather* g, Plan* plan, Py_ssize_t first, Py_ssize_t last, Py_ssize_t depth, const real* copy, real* panels
) noexcept nogil:
    """The vectors first .. last of outputs for `depth` taps, two and two of them side by side.

    Some taps at a time: so many streams are read, and what is written of a panel lies in one piece.
    """
    cdef Py_ssize_t k = 0, taps = 4 if g.mode == PLAIN else 16, stop, v, u, next
    cdef const Run* run
    cdef const Run* then
    cdef real* panel
    if ASKS and g.mode == PLAIN and not g.joined:
        pack_plain(g, plan, first, last, depth, copy, panels)
        return
    while k < depth:
        stop = min(depth, k + taps)
        panel = panels
        for v in range(first, last, 2):
            next = min(v + 2, last)
            run = plan.runs + plan.begin[v]
            if plan.begin[next] - plan.begin[v] == next - v:
                pack_pair(copy + run.src, copy + run[next - v - 1].src, g.place, k, stop, panel)
            elif plan.seam[v] > 0 and plan.seam[next - 1] > 0:
                for u in range(v, next):
                    run = plan.runs + plan.begin[u]
                    then = plan.runs + plan.begin[u + 1] - 1
                    pack_seam(copy + run.src, copy + then.src - then.lane, plan.seam[u], g.place, k, stop, panel + (u - v) * VL)
            else:
                pack_runs(g, plan, v, next, k, stop, copy, panel)
            panel += g.panel
        k = stop
