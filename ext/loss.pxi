# Softmax cross-entropy: the value and the gradient of logits in one call.
#
#     c = (1/n) sum_i (log sum_j e^(z_ij - max z_i) - (z_i,label - max z_i))        dz = (softmax(z) - onehot) / n
#
# z and dz (N, classes, pixels), labels (N, pixels); n = N pixels. VL pixels are computed at a time. Where an image has one
# pixel alone, a block of images is first turned round, so that images take the place of pixels. Each block adds up its
# values in double, and the blocks' sums are added in order: the same bits for any number of threads.

cdef enum:
    PIXELS = 256                # a block's, at most
    BLOCK_VALUES = 16384        # of a block that is turned round


cdef double softmax_block(
    const real* z, const Py_ssize_t* labels, real* dz, Py_ssize_t classes, Py_ssize_t pitch, Py_ssize_t pixels, real weight
) noexcept nogil:
    """The sum of the values of some pixels, and their gradients; a class lies `pitch` values behind the last. z may be dz."""
    cdef real top[PIXELS]
    cdef real chosen[PIXELS]
    cdef real total[PIXELS]
    cdef double value = 0
    cdef Py_ssize_t c, j
    for j in range(pixels):
        top[j] = z[j]
        total[j] = 0
    for c in range(1, classes):
        for j in range(pixels):
            # A NaN that is passed over here makes the sum NaN all the same.
            top[j] = z[c * pitch + j] if z[c * pitch + j] > top[j] else top[j]
    for j in range(pixels):
        chosen[j] = z[labels[j] * pitch + j] - top[j]
    for c in range(classes):
        for j in range(pixels):
            dz[c * pitch + j] = exponential(z[c * pitch + j] - top[j])
            total[j] += dz[c * pitch + j]
    for j in range(pixels):
        value += log(<double> total[j]) - chosen[j]
        total[j] = weight / total[j]
    for c in range(classes):
        for j in range(pixels):
            dz[c * pitch + j] *= total[j]
    for j in range(pixels):
        dz[labels[j] * pitch + j] -= weight
    return value


cdef double softmax_images(
    const real* z, const Py_ssize_t* labels, real* dz, Py_ssize_t classes, Py_ssize_t images, real weight, real* turned
) noexcept nogil:
    """The same for some images of one pixel each."""
    cdef Py_ssize_t c, i
    cdef double value
    for c in range(classes):
        for i in range(images):
            turned[c * images + i] = z[i * classes + c]
    value = softmax_block(turned, labels, turned, classes, images, images, weight)
    for i in range(images):
        for c in range(classes):
            dz[i * classes + c] = turned[c * images + i]
    return value


def cross_entropy(const real[:, :, ::1] z, const Py_ssize_t[:, ::1] labels, real[:, :, ::1] dz, int threads, /):
    """Fill dz and return c. The first label that is no class raises an IndexError."""
    cdef Py_ssize_t n = labels.shape[0] * labels.shape[1], classes = z.shape[1], pixels = z.shape[2]
    cdef Py_ssize_t u, i, j, block, row, blocks
    cdef const Py_ssize_t* label = &labels[0, 0]
    cdef real weight = <real> (1.0 / n)
    cdef double* sums
    cdef double value = 0
    cdef Py_ssize_t share
    cdef char* turned
    for i in range(n):
        if not 0 <= label[i] < classes:
            raise IndexError(f"labels are integers from 0 to {classes - 1}; got {label[i]}")
    block = PIXELS if pixels > 1 else max(1, min(PIXELS, BLOCK_VALUES // classes))
    row = (pixels + block - 1) // block if pixels > 1 else 1
    blocks = z.shape[0] * row if pixels > 1 else (n + block - 1) // block
    share = buffer_bytes(block * classes) if pixels == 1 else 0
    turned = scratch_of_threads(threads, &share)
    sums = <double*> scratch(blocks * <Py_ssize_t> sizeof(double))
    for u in prange(blocks, schedule="static", nogil=True, num_threads=threads):
        if pixels == 1:
            i = u * block
            sums[u] = softmax_images(
                &z[i, 0, 0], label + i, &dz[i, 0, 0], classes, min(block, n - i), weight,
                <real*> (turned + threadid() * share),
            )
        else:
            i, j = u // row, u % row * block
            sums[u] = softmax_block(
                &z[i, 0, j], label + i * pixels + j, &dz[i, 0, j], classes, pixels, min(block, pixels - j), weight
            )
    for u in range(blocks):
        value += sums[u]
    return value / n
