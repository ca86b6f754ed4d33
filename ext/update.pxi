# Steps of optimizers, in place and in one pass over memory; the rules are those of `convlayers.trainer.optimizers`.
#
# p a parameter, g its gradient, and arrays of state, all flat and of one size: each function takes them as tuples, one for
# each parameter, since a call for each would cost as much as a small one's arithmetic. All are cut into pieces, which threads
# share; nothing is summed over elements: the same bits for any number of threads. Settings arrive in double:
# Cython, to which `real` is a float, would round them.
#
# Settings that are 0 or 1 multiply like any others: the compiler makes a loop of its own for each combination of conditions,
# which were 25 KB of a module. Several short loops in place of one took up to 1.6 times as long.


cdef enum:
    MOST_ARRAYS = 5


# Up to CHUNK neighbouring values of a parameter, its gradient and its state; NULL for what there is not.
cdef struct Piece:
    real* array[MOST_ARRAYS]
    Py_ssize_t count
    Py_ssize_t before           # values in pieces before it


cdef struct Pieces:
    Piece* piece
    Py_ssize_t count
    Py_ssize_t values
    int threads                 # one for few values


cdef real* operand(array, Py_ssize_t count) except? NULL:
    """The address of an array of `count` values; NULL for None, and where there is nothing in it."""
    cdef Py_buffer buffer
    cdef Py_ssize_t found
    cdef bint values
    if array is None:
        return NULL
    PyObject_GetBuffer(array, &buffer, PyBUF_WRITABLE | PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)
    values = buffer.ndim == 1 and buffer.format == (b"f" if sizeof(real) == sizeof(float) else b"d")
    found = buffer.len // <Py_ssize_t> sizeof(real)
    PyBuffer_Release(&buffer)
    if not values:
        raise ValueError("arrays of parameters must be flat, and of the kernel's type")
    if found != count:
        raise ValueError(f"arrays of one parameter must have one size; got {count} and {found}")
    return <real*> buffer.buf if count > 0 else NULL


cdef Pieces cut_parameters(list parameters, int threads) except *:
    """All of them, in order. With views, and a loop of threads, for each parameter, `digits_cnn`'s eight took 8.6 us where they
    take 4.7, all in the caches."""
    cdef Py_ssize_t count, first, i
    cdef real* start[MOST_ARRAYS]
    cdef Pieces all
    cdef Piece* piece
    all.count = all.values = 0
    for arrays in parameters:
        all.count += chunks(len(arrays[0]))
    all.piece = piece = <Piece*> scratch(all.count * <Py_ssize_t> sizeof(Piece))
    for arrays in parameters:
        count, first = len(arrays[0]), 0
        for i in range(MOST_ARRAYS):
            start[i] = operand(arrays[i], count) if i < len(arrays) else NULL
        while first < count:
            for i in range(MOST_ARRAYS):
                piece.array[i] = start[i] + first if start[i] != NULL else NULL
            piece.count, piece.before = min(CHUNK, count - first), all.values + first
            piece += 1
            first += CHUNK
        all.values += count
    all.threads = threads if all.values > CHUNK else 1
    return all


cdef Py_ssize_t first_piece(const Pieces* all, int thread) noexcept nogil:
    """Of those that a thread takes: it has a share of the values."""
    cdef Py_ssize_t u = 0
    while u < all.count and all.piece[u].before * all.threads < all.values * thread:
        u += 1
    return u


cdef void sgd_values(const Piece* piece, real lr, real momentum, bint nesterov, real decay) noexcept nogil:
    cdef real* p = piece.array[0]
    cdef const real* g = piece.array[1]
    cdef real* v = piece.array[2] if momentum != 0 else NULL
    cdef real of_step = 1 if nesterov else 0, of_velocity = momentum if nesterov else 1, step
    cdef Py_ssize_t j
    for j in range(piece.count):
        step = g[j] + decay * p[j]
        if v != NULL:
            v[j] = momentum * v[j] + step
            step = of_step * step + of_velocity * v[j]
        p[j] = p[j] - lr * step


def sgd(list parameters, double lr, double momentum, bint nesterov, double decay, int threads, /):
    """(p, g, velocity or None)."""
    cdef Pieces all = cut_parameters(parameters, threads)
    cdef Py_ssize_t u
    cdef int thread
    for thread in prange(all.threads, schedule="static", nogil=True, num_threads=all.threads):
        for u in range(first_piece(&all, thread), first_piece(&all, thread + 1)):
            sgd_values(all.piece + u, lr, momentum, nesterov, decay)


cdef void adam_values(
    const Piece* piece, real rate, real beta1, real beta2, real eps, real decay, real shrink
) noexcept nogil:
    cdef real* p = piece.array[0]
    cdef const real* g = piece.array[1]
    cdef real* mean = piece.array[2]
    cdef real* square = piece.array[3]
    cdef Py_ssize_t j
    cdef real gradient
    for j in range(piece.count):
        gradient = g[j] + decay * p[j]
        mean[j] = beta1 * mean[j] + (1 - beta1) * gradient
        square[j] = beta2 * square[j] + (1 - beta2) * gradient * gradient
        p[j] = shrink * p[j] - rate * mean[j] / (<real> sqrt(square[j]) + eps)


def adam(list parameters, double rate, double beta1, double beta2, double eps, double decay, double shrink, int threads, /):
    """(p, g, mean, mean of squares); `rate` and `eps` hold the corrections of the bias, p is first multiplied by `shrink`."""
    cdef Pieces all = cut_parameters(parameters, threads)
    cdef Py_ssize_t u
    cdef int thread
    for thread in prange(all.threads, schedule="static", nogil=True, num_threads=all.threads):
        for u in range(first_piece(&all, thread), first_piece(&all, thread + 1)):
            adam_values(all.piece + u, rate, beta1, beta2, eps, decay, shrink)


cdef void rmsprop_values(
    const Piece* piece, real lr, real alpha, real eps, real decay, bint centered, real momentum
) noexcept nogil:
    cdef real* p = piece.array[0]
    cdef const real* g = piece.array[1]
    cdef real* square = piece.array[2]
    cdef real* mean = piece.array[3] if centered else NULL
    cdef real* velocity = piece.array[4] if momentum != 0 else NULL
    cdef Py_ssize_t j
    cdef real gradient, variance, step
    for j in range(piece.count):
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
    cdef Pieces all = cut_parameters(parameters, threads)
    cdef Py_ssize_t u
    cdef int thread
    for thread in prange(all.threads, schedule="static", nogil=True, num_threads=all.threads):
        for u in range(first_piece(&all, thread), first_piece(&all, thread + 1)):
            rmsprop_values(all.piece + u, lr, alpha, eps, decay, centered, momentum)
