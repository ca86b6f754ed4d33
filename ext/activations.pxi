# Activations beside relu, over arrays of any shape, passed flat; activations.h has y and dx of one value.
#
#     clip          min(max(x, a), b)            leaky_relu    x where x > 0, else a x
#     hard_sigmoid  min(max((x + 3) / 6, 0), 1)  hard_swish    x hard_sigmoid(x)
#     elu           b x where x > 0, else a b (e^x - 1)
#     celu          x where x > 0, else a (e^(x/a) - 1)
#     erf           2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x
#     sigmoid       1 / (1 + e^-x)               tanh          1 - 2 / (1 + e^2x)
#     silu          x sigmoid(x)                 softplus      log(1 + e^ax) / a, and x where a x > b
#     mish          x tanh(log(1 + e^x))
#     gelu          x Phi(x), Phi the normal distribution's; gelu_tanh with Hendrycks and Gimpel's approximation
#
# The backward pass takes y for sigmoid and tanh, x for the others. prelu is leaky_relu with a slope for each channel, and
#
#     dw[c] = sum dy x over the x of channel c that are not over 0

cdef extern from "activations.h" nogil:
    const char** activation_names
    void (**activation_values)(const real* x, real* y, Py_ssize_t count, real a, real b) noexcept nogil
    void (**activation_gradients)(
        const real* dy, const real* kept, real* dx, Py_ssize_t count, real a, real b) noexcept nogil


cdef dict _numbered_activations():
    cdef int i = 0
    numbers = {}
    while activation_names[i]:
        numbers[activation_names[i].decode()] = i
        i += 1
    return numbers


# Their places in the tables.
ACTIVATIONS = _numbered_activations()

# The constants come as double: Cython takes `real` for a float, and would round a number of Python's to that.


def activation_forward(str name, const real[::1] x, real[::1] y, double a, double b, int threads, /):
    """Fill y."""
    cdef Py_ssize_t u, n = x.shape[0]
    cdef int what = ACTIVATIONS[name]
    for u in prange(chunks(n), schedule="static", nogil=True, num_threads=threads):
        activation_values[what](&x[0] + u * CHUNK, &y[0] + u * CHUNK, min(CHUNK, n - u * CHUNK), <real> a, <real> b)


def activation_backward(
    str name, const real[::1] dy, const real[::1] kept, real[::1] dx, double a, double b, int threads, /
):
    """Fill dx from what the forward pass kept."""
    cdef Py_ssize_t u, n = dy.shape[0]
    cdef int what = ACTIVATIONS[name]
    for u in prange(chunks(n), schedule="static", nogil=True, num_threads=threads):
        activation_gradients[what](
            &dy[0] + u * CHUNK, &kept[0] + u * CHUNK, &dx[0] + u * CHUNK, min(CHUNK, n - u * CHUNK), <real> a, <real> b)


cdef double bent_sum(const real* dy, const real* x, Py_ssize_t count) noexcept nogil:
    """The sum of dy x where x is not over 0: a block's in the lanes of vectors, the blocks' in double."""
    cdef vf zero = splat(0), lanes
    cdef double total = 0
    cdef Py_ssize_t j = 0, end
    while j < count:
        lanes = zero
        end = min(count, j + NORM_BLOCK)
        while j + VL <= end:
            lanes = lanes + vselect(vless(zero, load(x + j)), zero, load(dy + j) * load(x + j))
            j += VL
        if j < end:
            lanes = lanes + vselect(
                vless(zero, load_part(x + j, end - j, 0)), zero, load_part(dy + j, end - j, 0) * load_part(x + j, end - j, 0))
            j = end
        total += lane_sum(lanes)
    return total


def prelu_forward(const real[:, ::1] x, const real[::1] w, real[:, ::1] y, int threads, /):
    """Fill y; x (planes, A), plane p of channel p modulo the number of weights."""
    cdef Py_ssize_t p, channels = w.shape[0], area = x.shape[1]
    cdef int what = ACTIVATIONS["leaky_relu"]
    for p in prange(x.shape[0], schedule="static", nogil=True, num_threads=threads):
        activation_values[what](&x[p, 0], &y[p, 0], area, w[p % channels], 0)


def prelu_backward(
    const real[:, ::1] dy, const real[:, ::1] x, const real[::1] w, real[:, ::1] dx, double[::1] sums, int threads, /
):
    """Fill dx, and sums with each plane's share of dw."""
    cdef Py_ssize_t p, channels = w.shape[0], area = x.shape[1]
    cdef int what = ACTIVATIONS["leaky_relu"]
    for p in prange(x.shape[0], schedule="static", nogil=True, num_threads=threads):
        activation_gradients[what](&dy[p, 0], &x[p, 0], &dx[p, 0], area, w[p % channels], 0)
        sums[p] = bent_sum(&dy[p, 0], &x[p, 0], area)
