# Steps of optimizers, in place and in one pass over memory; the rules are those of `convlayers.trainer.optimizers`.
#
# p a parameter, g its gradient, and arrays of state, all flat and of one size: each function takes them as tuples, one for
# each parameter, since a call for each would cost as much as a small one's arithmetic. A parameter is cut into chunks by
# its size alone; nothing is summed over elements: the same bits for any number of threads. Settings arrive in double:
# Cython, to which `real` is a float, would round them.
#
# Settings that are 0 or 1 multiply like any others: the compiler makes a loop of its own for each combination of conditions,
# which were 25 KB of a module. Several short loops in place of one took up to 1.6 times as long.


cdef real* operand(tuple arrays, Py_ssize_t number, Py_ssize_t count) except? NULL:
    """The address of an array of `count` values; NULL for None, and where there is nothing in it."""
    cdef real[::1] view
    if arrays[number] is None:
        return NULL
    view = arrays[number]
    if view.shape[0] != count:
        raise ValueError(f"arrays of one parameter must have one size; got {count} and {view.shape[0]}")
    return &view[0] if count > 0 else NULL


cdef void sgd_values(
    real* p, const real* g, real* v, Py_ssize_t count, real lr, real momentum, bint nesterov, real decay
) noexcept nogil:
    cdef real of_step = 1 if nesterov else 0, of_velocity = momentum if nesterov else 1, step
    cdef Py_ssize_t j
    for j in range(count):
        step = g[j] + decay * p[j]
        if v != NULL:
            v[j] = momentum * v[j] + step
            step = of_step * step + of_velocity * v[j]
        p[j] = p[j] - lr * step


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
        gradient = g[j] + decay * p[j]
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


cdef void rmsprop_values(
    real* p, const real* g, real* square, real* mean, real* velocity, Py_ssize_t count,
    real lr, real alpha, real eps, real decay, real momentum
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real gradient, variance, step
    for j in range(count):
        gradient = g[j] + decay * p[j]
        square[j] = alpha * square[j] + (1 - alpha) * gradient * gradient
        variance = square[j]
        if mean != NULL:
            mean[j] = alpha * mean[j] + (1 - alpha) * gradient
            variance = variance - mean[j] * mean[j]
            # Rounding can leave it just below zero.
            variance = 0 if variance < 0 else variance
        step = gradient / (<real> sqrt(variance) + eps)
        if velocity != NULL:
            velocity[j] = momentum * velocity[j] + step
            step = velocity[j]
        p[j] = p[j] - lr * step


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
