# Batch normalisation of images, channel by channel, with a ReLU or ReLU6 in its last pass where one follows.
#
#     mean = (1/m) sum x      var = (1/m) sum (x - mean)^2      over the m = N A values of a channel
#     z = (x - mean) s + b    s = w / sqrt(var + eps)           y = z, or held between 0 and a ceiling
#     db = sum g              dw = sum g (x - mean) / sqrt(var + eps)        g = dy; so held, dy where 0 < z < ceiling, else 0
#     dx = s (g - db / m - (x - mean) dw / (m sqrt(var + eps)))              s g where mean and var are constants
#
# x, y, dy, dx (N, C, A), A pixels a plane; w, b, dw, db (C,). moments (2, C): mean and var, in double. affine (3, C): center,
# scale, shift with z = (x - center) scale + shift; the mean rounded to the data type is the center, and the shift holds the
# rest, so that a mean far larger than the deviation costs no digits. The gradient computes z again: the same expression
# gives the same bits, and y need not be kept, nor read.
#
# An array may be added in the last pass, as a residual block does: y = max(z + r, 0), whose gradient dr = dy where y > 0 takes
# the place of dy above. Block by block, while a block is in the first-level cache.
#
# A channel is cut into blocks that fit the first-level cache (batchnorm_blocks.pxi). The deviations of a block are taken from
# its own mean, in a second pass over the cached block, and blocks are merged in double and in order (Chan, Golub and LeVeque
# 1983): the variance keeps its digits for any mean, and the bits do not depend on the thread.
#
# Some channels at a time go through all passes, as many as the second-level cache holds of each thread's part. A thread's part
# is images, as of convolutions: it finds them in its own caches, and leaves them there. With channels as parts, a step of
# `resnet20` took 1.12 times as long on two cores without a common cache. Planes of one pixel, vectors (N, C), have passes of
# their own in batchnorm_vectors.pxi.

cdef void block_moments(Norm* g, Py_ssize_t c, Py_ssize_t block) noexcept nogil:
    """The mean of a block, as a center and what is added to that, and the sum of the squared deviations from the mean."""
    cdef double* sums = block_sums(g, c, block)
    cdef double size = block_size(g, block)
    cdef real center
    sum_block(TOTAL, False, g, c, block, 0, sums)
    center = <real> (sums[0] / size)
    sum_block(DEVIATIONS, False, g, c, block, center, sums)
    sums[1] -= sums[0] * sums[0] / size
    sums[0], sums[2] = sums[0] / size, center


cdef void merge_moments(Norm* g, Py_ssize_t c) noexcept nogil:
    """Means as distances from the first center: of a mean far larger than the deviation nothing is rounded but the result."""
    cdef double first = block_sums(g, c, 0)[2], count = 0, mean = 0, squares = 0, size, delta
    cdef double* sums
    cdef Py_ssize_t block
    for block in range(g.blocks):
        sums = block_sums(g, c, block)
        size = block_size(g, block)
        delta = sums[2] - first + sums[0] - mean
        mean += delta * size / (count + size)
        squares += sums[1] + delta * delta * count * size / (count + size)
        count += size
    g.mean[c] = first + mean
    g.var[c] = squares / count


cdef void fill_affine(Norm* g, Py_ssize_t c, double weight, double bias) noexcept nogil:
    cdef double scale = weight / sqrt(g.var[c] + g.eps)
    g.center[c] = <real> g.mean[c]
    g.scale[c] = <real> scale
    g.shift[c] = <real> (bias - (g.mean[c] - g.center[c]) * scale)


cdef void add_block(Norm* g, Py_ssize_t c, Py_ssize_t block) noexcept nogil:
    """The residual's values to a block of y."""
    cdef Stretch s = stretch(g, block)
    cdef real* y
    cdef Py_ssize_t n
    for n in range(s.first, s.last):
        y = plane(&g.out, n, c) + s.start
        add_values(y, g.residual + (y - g.out.start), s.count, g.relu_of_sum, y)


cdef void normalise_block(Norm* g, Py_ssize_t c, Py_ssize_t block) noexcept nogil:
    if g.relu:
        write_block(NORMALISED, True, g, c, block)
    else:
        write_block(NORMALISED, False, g, c, block)
    if g.residual != NULL:
        add_block(g, c, block)


cdef void normalise_channel(Norm* g, Py_ssize_t c) noexcept nogil:
    cdef Py_ssize_t b
    for b in range(g.blocks):
        normalise_block(g, c, b)


cdef void normalise_by_batch(Norm* g, Py_ssize_t c) noexcept nogil:
    """All forward passes over a channel, by its own moments."""
    cdef Py_ssize_t b
    for b in range(g.blocks):
        block_moments(g, c, b)
    merge_moments(g, c)
    fill_affine(g, c, g.weight[c], g.bias[c])
    normalise_channel(g, c)


def batch_norm_affine(
    const real[::1] weight, const real[::1] bias, const real[::1] mean, const real[::1] var, double eps, real[:, ::1] affine, /
):
    """Fill affine (2, C) with scale and shift: what normalization by these moments is, y = scale x + shift."""
    cdef Py_ssize_t c
    cdef double scale
    for c in range(weight.shape[0]):
        scale = weight[c] / sqrt(var[c] + eps)
        affine[0, c], affine[1, c] = <real> scale, <real> (bias[c] - mean[c] * scale)


def batch_norm_follow(
    real[::1] mean, real[::1] var, const double[:, ::1] moments, double momentum, double unbiased, /
):
    """Move the running mean and variance by `momentum` towards the moments, the variance times `unbiased`."""
    cdef Py_ssize_t c
    for c in range(mean.shape[0]):
        mean[c] = <real> ((1 - momentum) * mean[c] + momentum * moments[0, c])
        var[c] = <real> ((1 - momentum) * var[c] + momentum * unbiased * moments[1, c])


def batch_norm_forward(
    const real[:, :, ::1] x, weights, norm, real[:, :, ::1] y, bint training, double ceiling, int threads,
    const real[::1] residual, /,
):
    """Fill y and norm's affine, from the moments given or, in training, from those of x, which are filled in. The residual is
    laid out like y, of planes of more than one pixel, unless it is None. y is held between 0 and `ceiling` if that is over 0;
    with a residual the sum is, and the ceiling infinity."""
    cdef Norm g
    cdef Py_ssize_t c, u, first, some, most, channels = x.shape[1]
    cut_norm(&g, x.shape[0], channels, x.shape[2])
    set_norm(&g, norm)
    set_ceiling(&g, ceiling)
    set_weights(&g, weights)
    g.x, g.out = planes(&x[0, 0, 0], channels, g.area), planes(&y[0, 0, 0], channels, g.area)
    if residual is not None:
        g.residual, g.relu_of_sum, g.relu = &residual[0], g.relu, False
    # Without moments there is one pass. With them four times as many channels, which the last level holds: threads wait for
    # each other less often, 1.07 to 1.12 times with 16 and 32 channels of 32 x 32 and 16 x 16, 0.99 to 1.02 with more. The
    # gradient, which reads two arrays, took 0.94 to 1.05 (Zen 3).
    most = 4 * channels_at_once(&g, 1, threads) if training else channels
    norm_memory(&g, scratch(norm_memory(&g, 0)))
    with nogil, parallel(num_threads=threads):
        if g.area == 1:
            for u in prange((channels + STRIP - 1) // STRIP, schedule="static"):
                strip_forward(&g, training, u * STRIP)
        else:
            first = 0
            while first < channels:
                some = min(most, channels - first)
                if training:
                    for u in prange(some * g.blocks, schedule="static"):
                        block_moments(&g, first + u % some, u // some)
                    wait_for_all()
                for c in prange(first, first + some, schedule="static"):
                    if training:
                        merge_moments(&g, c)
                    fill_affine(&g, c, g.weight[c], g.bias[c])
                wait_for_all()
                for u in prange(some * g.blocks, schedule="static"):
                    normalise_block(&g, first + u % some, u // some)
                first = first + some


cdef void rectify_block(Norm* g, Py_ssize_t c, Py_ssize_t block) noexcept nogil:
    """The gradient of what a sum's ReLU took, for a block."""
    cdef Stretch s = stretch(g, block)
    cdef real* gradient
    cdef Py_ssize_t n, at
    for n in range(s.first, s.last):
        gradient = plane(&g.dy, n, c) + s.start
        at = gradient - g.dy.start
        relu_gradients(g.dsum + at, g.sum + at, gradient, s.count)


cdef void block_gradients(Norm* g, Py_ssize_t c, Py_ssize_t block) noexcept nogil:
    if g.sum != NULL:
        rectify_block(g, c, block)
    if g.relu:
        sum_block(GRADIENTS, True, g, c, block, g.center[c], block_sums(g, c, block))
    else:
        sum_block(GRADIENTS, False, g, c, block, g.center[c], block_sums(g, c, block))


cdef double fill_slope(Norm* g, Py_ssize_t c, double total, double product) noexcept nogil:
    """What dx takes of total = sum g and product = sum g (x - center); returns sum g (x - mean) / sqrt(var + eps)."""
    cdef double rest = g.mean[c] - g.center[c], m = <double> (g.images * g.area), slope
    cdef double inverse = 1 / sqrt(g.var[c] + g.eps)
    product = (product - rest * total) * inverse
    slope = -g.scale[c] * product * inverse / m
    g.slope[c] = <real> slope
    g.offset[c] = <real> (-g.scale[c] * total / m - slope * rest)
    return product


cdef void merge_gradients(Norm* g, Py_ssize_t c) noexcept nogil:
    """Adds to dw and db; and what dx takes of them."""
    cdef double total = 0, product = 0
    cdef Py_ssize_t block
    for block in range(g.blocks):
        total += block_sums(g, c, block)[0]
        product += block_sums(g, c, block)[1]
    g.db[c] += <real> total
    g.dw[c] += <real> fill_slope(g, c, total, product)


cdef void spread_block(Norm* g, bint training, Py_ssize_t c, Py_ssize_t block) noexcept nogil:
    if training and g.relu:
        write_block(INPUT_GRADIENT, True, g, c, block)
    elif training:
        write_block(INPUT_GRADIENT, False, g, c, block)
    elif g.relu:
        write_block(SCALED_GRADIENT, True, g, c, block)
    else:
        write_block(SCALED_GRADIENT, False, g, c, block)


cdef void differentiate_channel(Norm* g, bint training, Py_ssize_t c) noexcept nogil:
    """All backward passes over a channel."""
    cdef Py_ssize_t b
    for b in range(g.blocks):
        block_gradients(g, c, b)
    merge_gradients(g, c)
    for b in range(g.blocks):
        spread_block(g, training, c, b)


def batch_norm_backward(
    const real[:, :, ::1] dy, const real[:, :, ::1] x, norm, real[:, :, ::1] dx, real[::1] dw, real[::1] db,
    bint training, double ceiling, int threads, const real[::1] sum, real[::1] dr, /,
):
    """Fill dx, and add to dw and db; norm is what the forward pass left. With the sum's y, if that was rectified, fill dr, the
    residual's gradient, too; else both are None."""
    cdef Norm g
    cdef Py_ssize_t c, u, first, some, most, channels = x.shape[1]
    cut_norm(&g, x.shape[0], channels, x.shape[2])
    set_norm(&g, norm)
    set_ceiling(&g, ceiling)
    g.x, g.dy = planes(&x[0, 0, 0], channels, g.area), planes(&dy[0, 0, 0], channels, g.area)
    g.out, g.dw, g.db = planes(&dx[0, 0, 0], channels, g.area), &dw[0], &db[0]
    if sum is not None:
        g.sum, g.dsum, g.dy = &sum[0], g.dy.start, planes(&dr[0], channels, g.area)
    most = channels_at_once(&g, 2, threads)
    norm_memory(&g, scratch(norm_memory(&g, 0)))
    with nogil, parallel(num_threads=threads):
        if g.area == 1:
            for u in prange((channels + STRIP - 1) // STRIP, schedule="static"):
                strip_backward(&g, training, u * STRIP)
        else:
            first = 0
            while first < channels:
                some = min(most, channels - first)
                for u in prange(some * g.blocks, schedule="static"):
                    block_gradients(&g, first + u % some, u // some)
                wait_for_all()
                for c in prange(first, first + some, schedule="static"):
                    merge_gradients(&g, c)
                wait_for_all()
                for u in prange(some * g.blocks, schedule="static"):
                    spread_block(&g, training, first + u % some, u // some)
                first = first + some
