# A depthwise convolution with the batch normalizations before and behind it, channel by channel, in training.
#
#     u = norm(x)      z = u * w + b      y = norm'(z)        norm and norm' by the batch's moments, with a ReLU or ReLU6
#
# x, u (N, C, H, W), z, y (N, C, P, Q): no channel reads another, so one thread takes a channel of all images through
# everything, forward and back. Layer by layer each pass goes through memory; here x, and dy and z, are read once, and z and
# y, or dx, written. Between, a channel lies in scratch memory that the second-level cache holds: in one piece, since planes
# that lie powers of two apart push each other out of it. The backward pass computes u again. The bits are those of the layers
# one by one.

cdef struct Chain "convlayers_chain":
    Norm before
    bint begins                 # with a norm: else u is x
    Norm after
    Depthwise conv
    DepthwiseWeight weight      # backward, beside `conv` for the input's gradient
    real* db                    # of the convolution, or NULL
    Py_ssize_t group            # channels that are taken together
    Py_ssize_t room             # bytes for those of x or of z
    int rooms                   # of one thread
    char* workspace
    Py_ssize_t workspace_bytes  # of one thread


# What one thread works with: the convolutions' workspaces, and room for planes.
cdef struct ChainSpace:
    char* conv
    char* weight
    char* rooms


cdef size_t place_chain(Chain* g, ChainSpace* space, size_t cursor) noexcept nogil:
    space.conv = <char*> take(&cursor, g.conv.workspace_bytes)
    space.weight = <char*> take(&cursor, g.weight.g.workspace_bytes)
    space.rooms = <char*> take(&cursor, g.rooms * g.room)
    return cursor


cdef ChainSpace chain_space(Chain* g, int thread) noexcept nogil:
    cdef ChainSpace space
    place_chain(g, &space, <size_t> (g.workspace + thread * g.workspace_bytes))
    return space


cdef size_t chain_memory(Chain* g, bint backward, size_t cursor) noexcept nogil:
    cdef ChainSpace space
    cursor = norm_memory(&g.before, norm_memory(&g.after, cursor))
    cursor = depthwise_memory(&g.conv, cursor)
    g.weight.g.workspace_bytes = 0
    if backward:
        cursor = depthwise_weight_memory(&g.weight, cursor)
    g.workspace_bytes = <Py_ssize_t> place_chain(g, &space, 0)
    return cursor


cdef void set_rooms(Chain* g, bint backward, int threads) noexcept nogil:
    """How many channels to take together, and with that where images lie in scratch memory, which tables hold."""
    cdef Py_ssize_t images = g.before.images, area = max(g.before.area, g.after.area)
    g.rooms = 3 if backward else 2
    g.group = channels_together(images, g.conv.channels, area, g.rooms, threads)
    g.room = scratch_room(images, g.group, area)


cdef inline real* room(Chain* g, ChainSpace* space, int which) noexcept nogil:
    return <real*> (space.rooms + which * g.room)


cdef set_norms(Chain* g, before, after, Py_ssize_t source, Py_ssize_t target):
    """Both norms, of planes of so many pixels, when the convolution is known."""
    cut_norm(&g.before, g.conv.images, g.conv.channels, source)
    cut_norm(&g.after, g.conv.images, g.conv.channels, target)
    g.begins = before is not None
    if g.begins:
        set_norm(&g.before, before)
    set_norm(&g.after, after)


cdef void chain_forward(Chain* chain, Py_ssize_t first, Py_ssize_t count, int thread) noexcept nogil:
    """A few channels of z and y."""
    cdef Norm before = chain.before, after = chain.after
    cdef ChainSpace space = chain_space(chain, thread)
    cdef Depthwise conv = chain.conv
    cdef Py_ssize_t c
    if chain.begins:
        before.x = before.out = conv.src = scratch_planes(room(chain, &space, 0), first, chain.group, before.area)
        conv.src_end = room(chain, &space, 1)
        move_planes(&chain.before.x, &before.x, first, count, before.images, before.area)
    conv.dst = after.x = scratch_planes(room(chain, &space, 1), first, chain.group, after.area)
    for c in range(first, first + count):
        if chain.begins:
            normalise_by_batch(&before, c)
        run_channel(&conv, c, space.conv)
    keep_planes(&after.x, &chain.after.x, first, count, after.images, after.area)
    for c in range(first, first + count):
        normalise_by_batch(&after, c)


def depthwise_chain_forward(
    const real[:, :, :, ::1] x, before_weights, before, const real[:, :, :, ::1] w, const real[::1] bias,
    real[:, :, :, ::1] z, after_weights, after, real[:, :, :, ::1] y, tuple geometry,
    double ceiling_before, double ceiling_after, int threads, /,
):
    """Fill z, y and the moments and affine of both norms; `before` may be None, and the bias too."""
    cdef Chain g
    cdef Shares shares
    cdef Units units
    cdef Py_ssize_t unit, channels = x.shape[1]
    span_memory(&g.conv, w, scratch(span_memory(&g.conv, w, 0), 1))
    set_sides(&g.conv, x, w, z, False)
    set_geometry(&g.conv, geometry, False, False)
    g.conv.bias, g.conv.ceiling = &bias[0] if bias is not None else NULL, 0
    set_norms(&g, before, after, x.shape[2] * x.shape[3], y.shape[2] * y.shape[3])
    set_ceiling(&g.before, ceiling_before)
    set_ceiling(&g.after, ceiling_after)
    if g.begins:
        set_weights(&g.before, before_weights)
    set_weights(&g.after, after_weights)
    g.before.x, g.after.x = g.conv.src, g.conv.dst
    g.after.out = planes(&y[0, 0, 0, 0], channels, g.after.area)
    set_rooms(&g, False, threads)
    g.conv.dst.image = scratch_image(g.group, g.after.area)
    if g.begins:
        g.conv.src.image = scratch_image(g.group, g.before.area)
    share_out(&shares, (channels + g.group - 1) // g.group, threads)
    chain_memory(&g, False, scratch(chain_memory(&g, False, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    with nogil:
        fill_depthwise(&g.conv)
        with parallel(num_threads=threads):
            memset(chain_space(&g, threadid()).conv, 0, g.conv.copy_bytes)
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    chain_forward(&g, unit * g.group, min(g.group, channels - unit * g.group), threadid())
                units = next_units(&shares, threadid())


cdef void chain_backward(Chain* chain, Py_ssize_t first, Py_ssize_t count, int thread) noexcept nogil:
    """A few channels of dx and of the sums behind dw, db and the norms' gradients."""
    cdef Norm before = chain.before, after = chain.after
    cdef ChainSpace space = chain_space(chain, thread)
    cdef Depthwise conv = chain.conv
    cdef DepthwiseWeight weight = chain.weight
    cdef Py_ssize_t c, shard
    # First dy, then the gradient of z; first z, then u, then the gradient of u; x.
    after.dy = after.out = conv.src = weight.g.dst = scratch_planes(room(chain, &space, 0), first, chain.group, after.area)
    conv.src_end = weight.dy_end = room(chain, &space, 1)
    after.x = scratch_planes(room(chain, &space, 1), first, chain.group, after.area)
    move_planes(&chain.after.dy, &after.dy, first, count, after.images, after.area)
    move_planes(&chain.after.x, &after.x, first, count, after.images, after.area)
    for c in range(first, first + count):
        differentiate_channel(&after, True, c)
        if chain.db != NULL:
            chain.db[c] += channel_sum(plane(&after.out, 0, c), after.images, after.out.image, after.area)
    if chain.begins:
        before.x = scratch_planes(room(chain, &space, 2), first, chain.group, before.area)
        move_planes(&chain.before.x, &before.x, first, count, before.images, before.area)
        before.out = before.dy = conv.dst = weight.g.src = scratch_planes(
            room(chain, &space, 1), first, chain.group, before.area)
        weight.g.src_end = room(chain, &space, 2)
    for c in range(first, first + count):
        if chain.begins:
            normalise_channel(&before, c)
        for shard in range(weight.shards):
            add_shard(&weight, shard, c, c + 1, space.weight)
        run_channel(&conv, c, space.conv)
    if chain.begins:
        before.out = chain.before.out
        for c in range(first, first + count):
            differentiate_channel(&before, True, c)


cdef set_gradients(Norm* g, gradients):
    """Where to add those of weight and bias; the caller keeps the arrays."""
    cdef real[::1] dw = gradients[0], db = gradients[1]
    g.dw, g.db = &dw[0], &db[0]


def depthwise_chain_backward(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x, before, const real[:, :, :, ::1] w,
    const real[:, :, :, ::1] z, after, real[:, :, :, ::1] dx, before_gradients, real[:, :, :, ::1] dw, real[::1] db,
    after_gradients, tuple geometry, double ceiling_before, double ceiling_after, int threads, /,
):
    """Fill dx, and add to dw, to db unless it is None, and to the gradients of both norms, of weight and bias each. The norms
    are what forward left; `before` may be None."""
    cdef Chain g
    cdef Shares shares
    cdef Units units
    cdef Depthwise* weight = &g.weight.g
    cdef Py_ssize_t unit, channels = x.shape[1]
    span_memory(weight, w, span_memory(&g.conv, w, scratch(span_memory(weight, w, span_memory(&g.conv, w, 0)), 1)))
    set_sides(&g.conv, dy, w, dx, True)
    set_geometry(&g.conv, geometry, False, False)
    set_sides(weight, x, w, z, False)
    set_geometry(weight, geometry, True, False)
    set_shards(&g.weight)
    g.conv.bias, g.conv.ceiling = NULL, 0
    set_norms(&g, before, after, x.shape[2] * x.shape[3], z.shape[2] * z.shape[3])
    set_ceiling(&g.before, ceiling_before)
    set_ceiling(&g.after, ceiling_after)
    g.before.x, g.before.out, g.after.x, g.after.dy = weight.src, g.conv.dst, weight.dst, g.conv.src
    if g.begins:
        set_gradients(&g.before, before_gradients)
    set_gradients(&g.after, after_gradients)
    g.db = &db[0] if db is not None else NULL
    set_rooms(&g, True, threads)
    g.conv.src.image = weight.dst.image = scratch_image(g.group, g.after.area)
    if g.begins:
        g.conv.dst.image = weight.src.image = scratch_image(g.group, g.before.area)
    share_out(&shares, (channels + g.group - 1) // g.group, threads)
    chain_memory(&g, True, scratch(chain_memory(&g, True, 0)))
    g.workspace = scratch_of_threads(threads, &g.workspace_bytes)
    with nogil:
        fill_depthwise(&g.conv)
        fill_depthwise(weight)
        fill_keep(weight, g.weight.keep)
        with parallel(num_threads=threads):
            memset(chain_space(&g, threadid()).conv, 0, g.conv.copy_bytes)
            memset(chain_space(&g, threadid()).weight, 0, weight.copy_bytes)
            units = next_units(&shares, threadid())
            while units.first < units.end:
                for unit in range(units.first, units.end):
                    chain_backward(&g, unit * g.group, min(g.group, channels - unit * g.group), threadid())
                units = next_units(&shares, threadid())
        add_results(&g.weight, &dw[0, 0, 0, 0])
