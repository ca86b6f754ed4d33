# An image from its parts: one for each phase of rows and columns under a stride.
#
#     dst[n, h, w] = part[h % s, w % 2][n, h // s, w // 2]
#
# The input gradient of a convolution with a stride is such parts, each a gather of its own. Written one after the other,
# every value has a store of its own and every cache line is visited once for each column phase; by parts, vectors are stored
# whole. Strides of 2 along the columns, any stride along the rows.

cdef struct Parts:
    Py_ssize_t planes
    Py_ssize_t height           # of dst
    Py_ssize_t width
    Py_ssize_t stride           # of the rows
    real* dst
    real* values                # [row phase][column phase][plane][row][column]
    Py_ssize_t pitch            # from one part to the next


cdef void take_parts(Parts* p, size_t cursor) noexcept nogil:
    """Where the parts lie, each a vector longer than it is."""
    p.pitch = p.planes * ((p.height + p.stride - 1) // p.stride) * ((p.width + 1) // 2) + VL
    p.values = <real*> cursor


cdef void interleave_row(const real* even, const real* odd, Py_ssize_t width, real* dst, const real* end) noexcept nogil:
    """A row of dst. Vectors run over into what follows, which is written later, but never over `end`."""
    cdef real pair[PANEL]
    cdef Py_ssize_t j = 0, k
    while 2 * j < width:
        if dst + 2 * j + PANEL <= end:
            store(dst + 2 * j, vturns_low(load(even + j), load(odd + j)))
            store(dst + 2 * j + VL, vturns_high(load(even + j), load(odd + j)))
        else:
            store(pair, vturns_low(load(even + j), load(odd + j)))
            store(pair + VL, vturns_high(load(even + j), load(odd + j)))
            for k in range(min(PANEL, width - 2 * j)):
                dst[2 * j + k] = pair[k]
        j += VL


cdef void interleave_parts(Parts* p, int threads) noexcept nogil:
    cdef Py_ssize_t n, h, rows, evens = (p.width + 1) // 2, odds = p.width // 2
    cdef const real* part
    cdef real* dst
    for n in prange(p.planes, schedule="static", num_threads=threads):
        dst = p.dst + n * p.height * p.width
        for h in range(p.height):
            rows = (p.height - h % p.stride + p.stride - 1) // p.stride
            part = p.values + h % p.stride * 2 * p.pitch
            interleave_row(part + (n * rows + h // p.stride) * evens, part + p.pitch + (n * rows + h // p.stride) * odds,
                           p.width, dst + h * p.width, dst + p.height * p.width)
