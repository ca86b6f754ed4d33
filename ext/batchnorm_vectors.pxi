# Batch normalisation of vectors, planes of one pixel: the sums and passes of batchnorm.pxi with channels for lanes.
#
# A strip of neighbouring channels is taken through all passes by one thread. Its blocks are rows; their sums go where those
# of batchnorm.pxi go, and are merged there.

cdef enum:
    STRIP = 32                  # channels, at most
    BLOCK_ROWS = 256


cdef void strip_moments(Norm* g, Py_ssize_t c0, Py_ssize_t count, Py_ssize_t block) noexcept nogil:
    """Of each channel: the mean of a block, and the sum of the squared deviations from it."""
    cdef real center[STRIP]
    cdef real total[STRIP]
    cdef real squares[STRIP]
    cdef real d
    cdef Stretch s = stretch(g, block)
    cdef double size = block_size(g, block)
    cdef double* sums
    cdef const real* x
    cdef Py_ssize_t n, j
    for j in range(count):
        total[j] = 0
    for n in range(s.first, s.last):
        x = g.x.start + n * g.channels + c0
        for j in range(count):
            total[j] += x[j]
    for j in range(count):
        center[j] = <real> (total[j] / size)
        total[j] = 0
        squares[j] = 0
    for n in range(s.first, s.last):
        x = g.x.start + n * g.channels + c0
        for j in range(count):
            d = x[j] - center[j]
            total[j] += d
            squares[j] += d * d
    for j in range(count):
        sums = block_sums(g, c0 + j, block)
        sums[0], sums[2] = total[j] / size, center[j]
        sums[1] = squares[j] - <double> total[j] * total[j] / size


cdef inline real clip_gradient(const Norm* g, real z, real dy) noexcept nogil:
    """vclip_gradient of one value."""
    return 0 if g.relu and (not z > 0 or z >= g.bound) else dy


cdef void strip_gradients(Norm* g, Py_ssize_t c0, Py_ssize_t count, Py_ssize_t block) noexcept nogil:
    """Of each channel: sum g and sum g d over a block."""
    cdef real total[STRIP]
    cdef real products[STRIP]
    cdef real d, gradient
    cdef Stretch s = stretch(g, block)
    cdef const real* center = g.center + c0
    cdef const real* scale = g.scale + c0
    cdef const real* shift = g.shift + c0
    cdef const real* x
    cdef const real* dy
    cdef Py_ssize_t n, j
    for j in range(count):
        total[j] = 0
        products[j] = 0
    for n in range(s.first, s.last):
        x, dy = g.x.start + n * g.channels + c0, g.dy.start + n * g.channels + c0
        for j in range(count):
            d = x[j] - center[j]
            gradient = clip_gradient(g, d * scale[j] + shift[j], dy[j])
            total[j] += gradient
            products[j] += gradient * d
    for j in range(count):
        block_sums(g, c0 + j, block)[0] = total[j]
        block_sums(g, c0 + j, block)[1] = products[j]


cdef void strip_normalised(Norm* g, Py_ssize_t c0, Py_ssize_t count, Py_ssize_t n) noexcept nogil:
    """The row n of y."""
    cdef const real* center = g.center + c0
    cdef const real* scale = g.scale + c0
    cdef const real* shift = g.shift + c0
    cdef const real* x = g.x.start + n * g.channels + c0
    cdef real* y = g.out.start + n * g.channels + c0
    cdef real z
    cdef Py_ssize_t j
    for j in range(count):
        z = (x[j] - center[j]) * scale[j] + shift[j]
        if g.relu:
            z = 0 if z < 0 else g.bound if z > g.bound else z
        y[j] = z


cdef void strip_input_gradient(
    Norm* g, bint training, Py_ssize_t c0, Py_ssize_t count, Py_ssize_t n
) noexcept nogil:
    """The row n of dx."""
    cdef const real* center = g.center + c0
    cdef const real* scale = g.scale + c0
    cdef const real* shift = g.shift + c0
    cdef const real* slope = g.slope + c0
    cdef const real* offset = g.offset + c0
    cdef const real* x = g.x.start + n * g.channels + c0
    cdef const real* dy = g.dy.start + n * g.channels + c0
    cdef real* dx = g.out.start + n * g.channels + c0
    cdef real d, gradient
    cdef Py_ssize_t j
    for j in range(count):
        d = x[j] - center[j]
        gradient = clip_gradient(g, d * scale[j] + shift[j], dy[j])
        dx[j] = gradient * scale[j] + ((d * slope[j] + offset[j]) if training else 0)


cdef void strip_forward(Norm* g, bint training, Py_ssize_t c0) noexcept nogil:
    cdef Py_ssize_t count = min(STRIP, g.channels - c0), c, b, n
    if training:
        for b in range(g.blocks):
            strip_moments(g, c0, count, b)
    for c in range(c0, c0 + count):
        if training:
            merge_moments(g, c)
        fill_affine(g, c, g.weight[c], g.bias[c])
    for n in range(g.images):
        strip_normalised(g, c0, count, n)


cdef void strip_backward(Norm* g, bint training, Py_ssize_t c0) noexcept nogil:
    cdef Py_ssize_t count = min(STRIP, g.channels - c0), c, b, n
    for b in range(g.blocks):
        strip_gradients(g, c0, count, b)
    for c in range(c0, c0 + count):
        merge_gradients(g, c)
    for n in range(g.images):
        strip_input_gradient(g, training, c0, count, n)
