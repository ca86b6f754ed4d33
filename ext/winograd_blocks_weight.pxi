# The weight gradient of large kernels by blocks of 3 x 3 taps (see winograd_blocks.pxi): F(3, 3), with gradients for a filter.
#
#     dw_mcab = A^T [ sum_ij (G dy_m,ij G^T) o (B^T d_c,i+a,j+b B) ] A
#
# The sum over tiles is, for each of the 25 values, the weight gradient of a convolution of images of tiles with kernels of
# (ceil(R / 3), ceil(S / 3)) taps: those of conv_weight.pxi, of 25 groups of channels. What stands here is before and after.
# Planes of tiles are (N, 25 channels, lines, across): all channels of one value of a tile, row by row, behind those of another.

def winograd_blocks_input(
    const real[:, :, :, ::1] x, real[:, :, :, ::1] v, int top, int left, bint gradient, int threads, /
):
    """Fill v with the transformed tiles of x (N,C,H,W): of 5 x 5 inputs, or of 3 x 3 gradients with `gradient`."""
    cdef Tiles g
    cdef Py_ssize_t u, channels = x.shape[1], area = x.shape[2] * x.shape[3], lines = v.shape[2], workspace
    cdef const real* src = &x[0, 0, 0, 0]
    cdef const real* end = src + x.shape[0] * channels * area
    cdef real* dst = &v[0, 0, 0, 0]
    cdef real* none
    cdef char* start
    g.height, g.width, g.left, g.across = x.shape[2], x.shape[3], left, v.shape[3]
    g.pitch, g.value = vectors_over(g.across) * VL, channels * lines * g.across
    workspace = <Py_ssize_t> spread_memory(&g, &none, &none, 0)
    start = scratch_of_threads(threads, &workspace)
    with nogil:
        for u in prange(x.shape[0] * channels, schedule="static", num_threads=threads):
            spread_channel(&g, gradient, src + u * area, end, top, lines,
                           dst + (u // channels * VALUES * channels + u % channels) * lines * g.across,
                           <size_t> (start + threadid() * workspace))


cdef void scatter_taps(TapBlocks* g, const vf* taps, Py_ssize_t first, Py_ssize_t blocks, real* dw) noexcept nogil:
    """What gather_taps reads, written."""
    cdef const real* values = <const real*> taps
    cdef Py_ssize_t lane, block, r, s, i
    cdef real* kernel
    for lane in range(blocks):
        block = first + lane
        kernel = dw + block // (g.down * g.across) * g.channel_stride
        for i in range(9):
            r = block // g.across % g.down * 3 + i // 3
            s = block % g.across * 3 + i % 3
            if r < g.kh and s < g.kw:
                kernel[r * g.kw + s] = values[i * VL + lane]


cdef void gather_filter(TapBlocks* g, const real* du, const real* end, real* dw) noexcept nogil:
    """The gradient of one filter: A^T dU A, blocks side by side."""
    cdef vf v[SIDE]
    cdef vf half[3 * SIDE]
    cdef vf taps[9]
    cdef const real* at
    cdef Py_ssize_t block = 0
    cdef int i, k
    while block < g.count:
        for k in range(SIDE):
            for i in range(SIDE):
                at = du + (SIDE * i + k) * g.value + block
                v[i] = load(at) if at + VL <= end else load_part(at, g.count - block, 0)
            winograd_output(SIDE, 3, v, 1, half + k, SIDE)
        for i in range(3):
            winograd_output(SIDE, 3, half + SIDE * i, 1, taps + 3 * i, 1)
        scatter_taps(g, taps, block, min(VL, g.count - block), dw)
        block += VL


def winograd_blocks_weight(const real[:, :, :, ::1] du, real[:, :, :, ::1] dw, int threads, /):
    """Fill dw (M,C/g,R,S) from the gradients (25 M, C/g, a, b) of its transformed blocks."""
    cdef TapBlocks g
    cdef Py_ssize_t i, filters = dw.shape[0], channels = dw.shape[1]
    cdef const real* src = &du[0, 0, 0, 0]
    cdef real* dst = &dw[0, 0, 0, 0]
    measure_blocks(&g, channels, dw.shape[2], dw.shape[3])
    g.channel_stride, g.value = g.kh * g.kw, filters * g.count
    with nogil:
        for i in prange(filters, schedule="static", num_threads=threads):
            gather_filter(&g, src + i * g.count, src + VALUES * g.value, dst + i * channels * g.channel_stride)
