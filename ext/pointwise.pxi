# Elementwise kernels over arrays of any shape, passed flat.
#
#     relu  y = max(x, 0), NaN stays      dx = dy where y > 0, else 0

cdef enum:
    CHUNK = 16384               # values that a thread takes at a time: 64 KiB of float32


cdef void relu_values(const real* x, real* y, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        y[j] = 0 if x[j] < 0 else x[j]


cdef void relu_gradients(const real* dy, const real* y, real* dx, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(count):
        dx[j] = dy[j] if y[j] > 0 else 0


def relu_forward(const real[::1] x, real[::1] y, int threads):
    """Fill y."""
    cdef Py_ssize_t u, n = x.shape[0]
    for u in prange((n + CHUNK - 1) // CHUNK, schedule="static", nogil=True, num_threads=threads):
        relu_values(&x[0] + u * CHUNK, &y[0] + u * CHUNK, min(CHUNK, n - u * CHUNK))


def relu_backward(const real[::1] dy, const real[::1] y, real[::1] dx, int threads):
    """Fill dx from the forward pass's output."""
    cdef Py_ssize_t u, n = dy.shape[0]
    for u in prange((n + CHUNK - 1) // CHUNK, schedule="static", nogil=True, num_threads=threads):
        relu_gradients(&dy[0] + u * CHUNK, &y[0] + u * CHUNK, &dx[0] + u * CHUNK, min(CHUNK, n - u * CHUNK))
