# Sums over a vector's lanes, and vectors of which only some lanes are in use.

cdef extern from "vec.h" nogil:
    vf vrelu(vf)
    vf vrelu_gradient(vf, vf)


cdef inline double lane_sum(vf v) noexcept nogil:
    """The sum of a vector's lanes, in double and in their order."""
    cdef real lanes[VL]
    cdef double total = 0
    cdef Py_ssize_t j
    store(lanes, v)
    for j in range(VL):
        total += lanes[j]
    return total


cdef inline vf load_part(const real* p, Py_ssize_t count, real rest) noexcept nogil:
    """The first `count` lanes from p, `rest` in the others."""
    cdef real lanes[VL]
    cdef Py_ssize_t j
    for j in range(VL):
        lanes[j] = p[j] if j < count else rest
    return load(lanes)


cdef inline void store_part(real* p, Py_ssize_t count, vf v) noexcept nogil:
    """The first `count` lanes to p."""
    cdef real lanes[VL]
    cdef Py_ssize_t j
    store(lanes, v)
    for j in range(count):
        p[j] = lanes[j]
