# Steps of optimizers, in place and in one pass over memory; the rules are those of `convlayers.trainer.optimizers`.
#
# p a parameter, g its gradient, and arrays of state, all flat and of one size: each function takes them as tuples, one for
# each parameter, since a call for each would cost as much as a small one's arithmetic. A parameter is cut into chunks by
# its size alone; nothing is summed over elements: the same bits for any number of threads. Settings arrive in double:
# Cython, to which `real` is a float, would round them.


cdef real* operand(tuple arrays, Py_ssize_t number, Py_ssize_t count) except? NULL:
    """The address of an array of `count` values; NULL for None, and where there is nothing in it."""
    cdef real[::1] view
    if arrays[number] is None:
        return NULL
    view = arrays[number]
    if view.shape[0] != count:
        raise ValueError(f"arrays of one parameter must have one size; got {count} and {view.shape[0]}")
    return &view[0] if count > 0 else NULL


# Passes take a piece of a chunk at a time: what they leave in between stays in the first-level cache. One pass with conditions
# inside became a loop for every combination of them, 14 KB for rmsprop.
cdef enum:
    PIECE = 512                 # values


cdef void decayed(const real* p, const real* g, real decay, Py_ssize_t count, real* step) noexcept nogil:
    cdef Py_ssize_t j
    if decay == 0:
        memcpy(step, g, count * sizeof(real))
        return
    for j in range(count):
        step[j] = g[j] + decay * p[j]


cdef void descend(real* p, real lr, Py_ssize_t count, const real* step) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        p[j] = p[j] - lr * step[j]


cdef void sgd_values(
    real* p, const real* g, real* v, Py_ssize_t count, real lr, real momentum, bint nesterov, real decay
) noexcept nogil:
    cdef real step[PIECE]
    cdef Py_ssize_t start = 0, size, j
    while start < count:
        size = min(PIECE, count - start)
        decayed(p + start, g + start, decay, size, step)
        if v != NULL:
            for j in range(size):
                v[start + j] = momentum * v[start + j] + step[j]
                step[j] = step[j] + momentum * v[start + j] if nesterov else v[start + j]
        descend(p + start, lr, size, step)
        start += size


def sgd(list parameters, double lr, double momentum, bint nesterov, double decay, int threads, /):
    """(p, g, velocity or None)."""
    cdef Py_ssize_t u, count
    cdef real* p
    cdef real* g
    cdef real* v
    for arrays in parameters:
        count = arrays[0].size
        p, g, v = operand(arrays, 0, count), operand(arrays, 1, count), operand(arrays, 2, count) if momentum != 0 else NULL
        for u in prange(chunks(count), schedule="static", nogil=True, num_threads=threads if count > CHUNK else 1):
            sgd_values(
                p + u * CHUNK, g + u * CHUNK, v + u * CHUNK if v != NULL else NULL, min(CHUNK, count - u * CHUNK),
                lr, momentum, nesterov, decay,
            )


cdef void adam_values(
    real* p, const real* g, real* mean, real* square, Py_ssize_t count,
    real rate, real beta1, real beta2, real eps, real decay, real shrink
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real gradient
    for j in range(count):
        gradient = g[j]
        if decay != 0:
            gradient = gradient + decay * p[j]
        mean[j] = beta1 * mean[j] + (1 - beta1) * gradient
        square[j] = beta2 * square[j] + (1 - beta2) * gradient * gradient
        p[j] = shrink * p[j] - rate * mean[j] / (<real> sqrt(square[j]) + eps)


def adam(list parameters, double rate, double beta1, double beta2, double eps, double decay, double shrink, int threads, /):
    """(p, g, mean, mean of squares); `rate` and `eps` hold the corrections of the bias, p is first multiplied by `shrink`."""
    cdef Py_ssize_t u, count
    cdef real* p
    cdef real* g
    cdef real* mean
    cdef real* square
    for arrays in parameters:
        count = arrays[0].size
        p, g, mean = operand(arrays, 0, count), operand(arrays, 1, count), operand(arrays, 2, count)
        square = operand(arrays, 3, count)
        for u in prange(chunks(count), schedule="static", nogil=True, num_threads=threads if count > CHUNK else 1):
            adam_values(
                p + u * CHUNK, g + u * CHUNK, mean + u * CHUNK, square + u * CHUNK, min(CHUNK, count - u * CHUNK),
                rate, beta1, beta2, eps, decay, shrink,
            )


cdef void center(real* mean, real alpha, Py_ssize_t count, const real* step, real* variance) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        mean[j] = alpha * mean[j] + (1 - alpha) * step[j]
        variance[j] = variance[j] - mean[j] * mean[j]
        # Rounding can leave it just below zero.
        variance[j] = 0 if variance[j] < 0 else variance[j]


cdef void rmsprop_values(
    real* p, const real* g, real* square, real* mean, real* velocity, Py_ssize_t count,
    real lr, real alpha, real eps, real decay, real momentum
) noexcept nogil:
    cdef real step[PIECE]
    cdef real variance[PIECE]
    cdef Py_ssize_t start = 0, size, j
    while start < count:
        size = min(PIECE, count - start)
        decayed(p + start, g + start, decay, size, step)
        for j in range(size):
            square[start + j] = alpha * square[start + j] + (1 - alpha) * step[j] * step[j]
            variance[j] = square[start + j]
        if mean != NULL:
            center(mean + start, alpha, size, step, variance)
        for j in range(size):
            step[j] = step[j] / (<real> sqrt(variance[j]) + eps)
        if velocity != NULL:
            for j in range(size):
                velocity[start + j] = momentum * velocity[start + j] + step[j]
                step[j] = velocity[start + j]
        descend(p + start, lr, size, step)
        start += size


def rmsprop(
    list parameters, double lr, double alpha, double eps, double decay, bint centered, double momentum, int threads, /
):
    """(p, g, mean of squares, mean or None, velocity or None)."""
    cdef Py_ssize_t u, count
    cdef real* p
    cdef real* g
    cdef real* square
    cdef real* mean
    cdef real* velocity
    for arrays in parameters:
        count = arrays[0].size
        p, g, square = operand(arrays, 0, count), operand(arrays, 1, count), operand(arrays, 2, count)
        mean = operand(arrays, 3, count) if centered else NULL
        velocity = operand(arrays, 4, count) if momentum != 0 else NULL
        for u in prange(chunks(count), schedule="static", nogil=True, num_threads=threads if count > CHUNK else 1):
            rmsprop_values(
                p + u * CHUNK, g + u * CHUNK, square + u * CHUNK, mean + u * CHUNK if mean != NULL else NULL,
                velocity + u * CHUNK if velocity != NULL else NULL, min(CHUNK, count - u * CHUNK),
                lr, alpha, eps, decay, momentum,
            )
