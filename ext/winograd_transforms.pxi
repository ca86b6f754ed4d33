# The Winograd transforms in one dimension, each on vectors; two applied one after the other make a tile's.
#
#     y = A^T [ (G g) o (B^T d) ]        o: product of corresponding values
#
# computes m outputs of a filter g of r taps from m + r - 1 inputs d. F(m, r) with m + r - 1 = 4 uses the points 0, +-1 and
# infinity (Winograd 1980; Lavin and Gray 2016), with m + r - 1 = 6 the points 0, +-a, +-b and infinity. B^T depends on the
# points alone, so one input transform serves F(4, 3), the convolution, and F(3, 4), its weight gradient, and so F(2, 5) and
# F(5, 2). With m + r - 1 = 5, F(4, 2), of which strided convolutions are made, and F(3, 3), of which larger kernels are, use 0,
# 1/2, -1, 2 and infinity: of ten choices tried the one that errs least.
#
# a = sqrt(1/2), b = sqrt(2): on unit-variance outputs of 64 channels the largest error is 5e-6, with the customary a = 1,
# b = 2 it is 2e-5 (float32; the choice of points is the subject of Barabasz et al. 2020, ACM TOMS 46(4)). With a b = 1 the
# coefficients a^2 b^2 and a^2 + b^2 are 1 and 5/2, exact in binary.

cdef extern from "vec.h" nogil:
    real WINOGRAD_A
    real WINOGRAD_B


cdef inline void winograd_input "convlayers_winograd_input"(int size, const vf* d, int ds, vf* v, int vs) noexcept nogil:
    """v = B^T d, `size` = m + r - 1 values, `ds` and `vs` vectors apart."""
    cdef vf even_a, odd_a, even_b, odd_b
    if size == 4:
        v[0] = d[0] - d[2 * ds]
        v[vs] = d[2 * ds] + d[ds]
        v[2 * vs] = d[2 * ds] - d[ds]
        v[3 * vs] = d[3 * ds] - d[ds]
    elif size == 5:
        v[0] = d[0] + d[3 * ds] - splat(1.5) * (d[ds] + d[2 * ds])
        v[vs] = d[3 * ds] - d[2 * ds] - splat(2) * d[ds]
        v[2 * vs] = d[3 * ds] + d[ds] - splat(2.5) * d[2 * ds]
        v[3 * vs] = d[3 * ds] + splat(0.5) * (d[2 * ds] - d[ds])
        v[4 * vs] = d[ds] + d[4 * ds] - splat(1.5) * (d[2 * ds] + d[3 * ds])
    else:
        even_a = d[4 * ds] - splat(2) * d[2 * ds]
        odd_a = splat(WINOGRAD_A) * (d[3 * ds] - splat(2) * d[ds])
        even_b = d[4 * ds] - splat(0.5) * d[2 * ds]
        odd_b = splat(WINOGRAD_B) * (d[3 * ds] - splat(0.5) * d[ds])
        v[0] = d[0] - splat(2.5) * d[2 * ds] + d[4 * ds]
        v[vs] = even_a + odd_a
        v[2 * vs] = even_a - odd_a
        v[3 * vs] = even_b + odd_b
        v[4 * vs] = even_b - odd_b
        v[5 * vs] = d[ds] - splat(2.5) * d[3 * ds] + d[5 * ds]


cdef inline void winograd_filter "convlayers_winograd_filter"(
    int size, int taps, const vf* g, int gs, vf* u, int us
) noexcept nogil:
    """u = G g for `taps` = r of 2 to 5: the values of the polynomial g at the points, over a divisor for each point."""
    cdef vf even, odd, last
    u[0] = g[0]
    if size == 4:
        even = splat(0.5) * (g[0] + g[2 * gs] if taps > 2 else g[0])
        odd = splat(0.5) * g[gs]
        u[us] = even + odd
        u[2 * us] = even - odd
        u[3 * us] = g[(taps - 1) * gs]
    elif size == 5:
        last = g[2 * gs] if taps > 2 else splat(0)
        u[us] = splat(-8.0 / 9) * (g[0] + splat(0.5) * g[gs] + splat(0.25) * last)
        u[2 * us] = splat(-2.0 / 9) * (g[0] - g[gs] + last)
        u[3 * us] = splat(1.0 / 9) * (g[0] + splat(2) * g[gs] + splat(4) * last)
        u[4 * us] = g[(taps - 1) * gs]
    else:
        # The polynomials' even and odd powers, of which a^2 = 1/2 and b^2 = 2 are left.
        last = g[2 * gs] + splat(0.5) * g[4 * gs] if taps > 4 else g[2 * gs] if taps > 2 else splat(0)
        even = splat(-2.0 / 3) * (g[0] + splat(0.5) * last)
        odd = splat(-2.0 / 3 * WINOGRAD_A) * (g[gs] + splat(0.5) * g[3 * gs] if taps > 3 else g[gs])
        u[us] = even + odd
        u[2 * us] = even - odd
        last = g[2 * gs] + splat(2) * g[4 * gs] if taps > 4 else g[2 * gs] if taps > 2 else splat(0)
        even = splat(1.0 / 6) * (g[0] + splat(2) * last)
        odd = splat(1.0 / 6 * WINOGRAD_B) * (g[gs] + splat(2) * g[3 * gs] if taps > 3 else g[gs])
        u[3 * us] = even + odd
        u[4 * us] = even - odd
        u[5 * us] = g[(taps - 1) * gs]


cdef inline void winograd_output "convlayers_winograd_output"(
    int size, int outputs, const vf* v, int vs, vf* y, int ys
) noexcept nogil:
    """y = A^T v, `outputs` = m of 2 to 5."""
    cdef vf sum_a = v[vs] + v[2 * vs], difference_a = v[vs] - v[2 * vs], sum_b, difference_b
    if size == 4:
        y[0] = v[0] + sum_a
        if outputs == 2:
            y[ys] = difference_a + v[3 * vs]
        else:
            y[ys] = difference_a
            y[2 * ys] = sum_a + v[3 * vs]
    elif size == 5:
        y[0] = v[0] + sum_a + v[3 * vs]
        y[ys] = splat(0.5) * v[vs] - v[2 * vs] + splat(2) * v[3 * vs]
        y[2 * ys] = splat(0.25) * v[vs] + v[2 * vs] + splat(4) * v[3 * vs]
        if outputs == 3:
            y[2 * ys] = y[2 * ys] + v[4 * vs]
            return
        y[3 * ys] = splat(0.125) * v[vs] - v[2 * vs] + splat(8) * v[3 * vs] + v[4 * vs]
    else:
        sum_b = v[3 * vs] + v[4 * vs]
        difference_b = v[3 * vs] - v[4 * vs]
        y[0] = v[0] + sum_a + sum_b
        y[ys] = splat(WINOGRAD_A) * difference_a + splat(WINOGRAD_B) * difference_b
        if outputs > 2:
            y[2 * ys] = splat(0.5) * sum_a + splat(2) * sum_b
        if outputs > 3:
            y[3 * ys] = splat(0.5 * WINOGRAD_A) * difference_a + splat(2 * WINOGRAD_B) * difference_b
        if outputs > 4:
            y[4 * ys] = splat(0.25) * sum_a + splat(4) * sum_b
        y[(outputs - 1) * ys] = y[(outputs - 1) * ys] + v[5 * vs]
