# What a kernel makes of filters, kept from one call of inference to the next.
#
# `kept` is a dictionary and a key: under it lies an array of a copy of the filters, and behind that what was made of them. The
# copy is compared bit by bit at each call, so filters may change at any time. An array is never written again once it can be
# found: several threads of Python may run one model.

cdef enum:
    COMPARED_VALUES = 16 * 1024     # at a time


cdef bint same_values(const real* a, const real* b, Py_ssize_t count, int threads) noexcept nogil:
    """Bit for bit."""
    cdef Py_ssize_t parts = (count + COMPARED_VALUES - 1) // COMPARED_VALUES, part, values, different = 0
    if parts <= 1:
        return memcmp(a, b, count * sizeof(real)) == 0
    for part in prange(parts, num_threads=threads, schedule="static"):
        values = min(COMPARED_VALUES, count - part * COMPARED_VALUES)
        different += memcmp(a + part * COMPARED_VALUES, b + part * COMPARED_VALUES, values * sizeof(real)) != 0
    return different == 0


cdef inline Py_ssize_t copied_bytes(Py_ssize_t count) noexcept nogil:
    """Of `count` filter values, in whole lines of the cache."""
    return (count * <Py_ssize_t> sizeof(real) + 63) // 64 * 64


cdef find_kept(tuple kept, const real* filters, Py_ssize_t count, Py_ssize_t nbytes, int threads):
    """The array for these filters with so many bytes made of them, or None."""
    cdef unsigned char[::1] array
    cdef bint same
    found = (<dict> kept[0]).get(kept[1])
    if found is None:
        return None
    array = found
    if array.shape[0] != copied_bytes(count) + nbytes:
        return None
    with nogil:
        same = same_values(<const real*> &array[0], filters, count, threads)
    return found if same else None


cdef new_kept(const real* filters, Py_ssize_t count, Py_ssize_t nbytes):
    """An array with a copy of the filters and so many bytes for what is made of them."""
    cdef unsigned char[::1] array
    made = _memory.lasting(copied_bytes(count) + nbytes)
    array = made
    memcpy(&array[0], filters, count * sizeof(real))
    return made


cdef keep(tuple kept, array):
    """Where the next call finds it."""
    (<dict> kept[0])[kept[1]] = array
