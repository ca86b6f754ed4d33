# Elementwise kernels over arrays of any shape, passed flat, copies of rows, and the sum of a matrix over its rows.
#
#     relu  y = max(x, 0), NaN stays      dx = dy where y > 0, else 0
#     add   y = a + b, or max(a + b, 0)

cdef enum:
    CHUNK = 16384               # values that a thread takes at a time: 64 KiB of float32


cdef inline Py_ssize_t chunks(Py_ssize_t count) noexcept nogil:
    return (count + CHUNK - 1) // CHUNK


cdef void relu_values(const real* x, real* y, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        y[j] = 0 if x[j] < 0 else x[j]


cdef void relu_gradients(const real* dy, const real* y, real* dx, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        dx[j] = dy[j] if y[j] > 0 else 0


cdef void add_values(const real* a, const real* b, Py_ssize_t count, bint relu, real* y) noexcept nogil:
    """y, which may be a."""
    cdef Py_ssize_t j = 0
    cdef vf v
    while j + VL <= count:
        v = load(a + j) + load(b + j)
        store(y + j, vrelu(v) if relu else v)
        j += VL
    if j < count:
        v = load_part(a + j, count - j, 0) + load_part(b + j, count - j, 0)
        store_part(y + j, count - j, vrelu(v) if relu else v)


def relu_forward(const real[::1] x, real[::1] y, int threads, /):
    """Fill y."""
    cdef Py_ssize_t u, n = x.shape[0]
    for u in prange(chunks(n), schedule="static", nogil=True, num_threads=threads):
        relu_values(&x[0] + u * CHUNK, &y[0] + u * CHUNK, min(CHUNK, n - u * CHUNK))


def relu_backward(const real[::1] dy, const real[::1] y, real[::1] dx, int threads, /):
    """Fill dx from the forward pass's output."""
    cdef Py_ssize_t u, n = dy.shape[0]
    for u in prange(chunks(n), schedule="static", nogil=True, num_threads=threads):
        relu_gradients(&dy[0] + u * CHUNK, &y[0] + u * CHUNK, &dx[0] + u * CHUNK, min(CHUNK, n - u * CHUNK))


def add(const real[::1] a, const real[::1] b, real[::1] y, bint relu, int threads, /):
    """Fill y, which may be a."""
    cdef Py_ssize_t u, n = a.shape[0]
    for u in prange(chunks(n), schedule="static", nogil=True, num_threads=threads):
        add_values(&a[0] + u * CHUNK, &b[0] + u * CHUNK, min(CHUNK, n - u * CHUNK), relu, &y[0] + u * CHUNK)


def copy_matrix(const real[:, :] src, real[:, :] dst, int threads, /):
    """Fill dst with src, in neither of which rows need follow each other; the values of a row do."""
    cdef Py_ssize_t count = src.shape[1], pieces = chunks(count), u, j
    for u in prange(src.shape[0] * pieces, schedule="static", nogil=True, num_threads=threads):
        j = u % pieces * CHUNK
        memcpy(&dst[u // pieces, j], &src[u // pieces, j], min(CHUNK, count - j) * sizeof(real))


def column_sums(const real[:, ::1] x, real[::1] y, /):
    """Fill y with the sums of x over its rows, added in order."""
    cdef Py_ssize_t i, j
    memset(&y[0], 0, y.shape[0] * sizeof(real))
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            y[j] += x[i, j]
