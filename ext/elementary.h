/* Exponentials and what is made of them, for one value, to about one unit in the last place; NaN stays. Without a branch or
   a call, so that loops over them become vector code: 0.2 ns a value for e^x with AVX-512, against 2 ns of the C library. */

#ifndef CONVLAYERS_ELEMENTARY_H
#define CONVLAYERS_ELEMENTARY_H

#include <math.h>

#define SINGLE (REAL_BYTES == 4)
/* e^LEAST is a normal number, and next to the smallest. */
#define LEAST ((real)(SINGLE ? -87 : -708))

ALWAYS_INLINE real magnitude(real x) { return SINGLE ? (real)fabsf((float)x) : (real)fabs(x); }
ALWAYS_INLINE real with_sign(real x, real sign) {
    return SINGLE ? (real)copysignf((float)x, (float)sign) : (real)copysign(x, sign);
}

/* e^(x + rest) = power (1 + growth), for LEAST <= x <= 0 and a small rest; what is below counts as LEAST.
   x = k log 2 + r, |r| <= log(2) / 2; log 2 is split in two. The constant rounds to an integer as it is added: k then
   stands in the last bits of the sum. */
typedef struct {
    real growth, power;
} Exponential;

ALWAYS_INLINE Exponential exponential_parts(real x, real rest) {
    const real round = SINGLE ? 12582912.0 : 6755399441055744.0;
    const real high = SINGLE ? 0.693359375 : 0.693147180369123816490;
    const real low = SINGLE ? -2.12194440054690582767e-4 : 1.90821492927058770002e-10;
    /* 1/n!, from n = 13 or 7 down to 1. */
    const double series[13] = {1.6059043836821613e-10, 2.0876756987868099e-9, 2.5052108385441720e-8, 2.7557319223985893e-7,
                               2.7557319223985888e-6,  2.4801587301587302e-5, 1.9841269841269841e-4, 1.3888888888888889e-3,
                               8.3333333333333333e-3,  4.1666666666666667e-2, 1.6666666666666667e-1, 0.5, 1.0};
    Exponential e;
    real inside = x < LEAST ? LEAST : x, rounded = inside * (real)1.44269504088896340736 + round, k = rounded - round;
    real r = inside - k * high - k * low + rest, sum = 0;
    unsigned_lane bits;
    for (int n = SINGLE ? 6 : 0; n < 13; n++) sum = sum * r + (real)series[n];
    memcpy(&bits, &rounded, sizeof bits);
    bits = (bits + (SINGLE ? 127 : 1023)) << (SINGLE ? 23 : 52);
    memcpy(&e.power, &bits, sizeof bits);
    e.growth = sum * r;
    return e;
}

/* e^x for x <= 0, with 0 for what is below the normal numbers. */
ALWAYS_INLINE real exponential(real x) {
    Exponential e = exponential_parts(x, 0);
    return x < LEAST ? 0 : (e.growth + 1) * e.power;
}

/* e^x - 1 for x <= 0, exact to the last digits near 0 too. */
ALWAYS_INLINE real exponential_less_one(real x) {
    Exponential e = exponential_parts(x, 0);
    return e.growth * e.power + (e.power - 1);
}

/* log(1 + x) for 0 <= x <= 1: 2 artanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...), s = x / (2 + x) <= 1/3. */
ALWAYS_INLINE real log_one_more(real x) {
    real s = x / (2 + x), square = s * s, sum = 0;
    for (int n = SINGLE ? 6 : 15; n > 0; n--) sum = (sum + (real)(1.0 / (2 * n + 1))) * square;
    return 2 * (s + s * sum);
}

/* The standard normal distribution at -t, t >= 0: `below` is Phi(-t), `bell` is e^(-t^2 / 2).

   Phi(-t) = bell w P(w), w = 1 / (1 + t / K): a polynomial, since e^(t^2 / 2) Phi(-t) falls as 1 / t (after Shepherd and
   Laframboise 1981, who take it for erfc). Its coefficients interpolate at the Chebyshev nodes of all w for which the bell is
   not 0, to 1e-8 and 2e-17 of the value. A rounding of t^2 would cost up to t^2 / 2 units: t = head + tail, the square of
   the head is exact, and the rest is handed on. */
typedef struct {
    real below, bell;
} Normal;

ALWAYS_INLINE Normal normal_at_minus(real t) {
    const real most = SINGLE ? 14 : 39, knee = SINGLE ? 4 : 6, round = SINGLE ? 49152.0 : 6442450944.0;
    const double narrow[10] = {0.014827985515246657,  -0.053184860132283432, 0.028800874500595414, 0.059320949410418966,
                               -0.013383636508897119, 0.10092767745864079,   0.066955634417195003, 0.096625324296147390,
                               0.099354799063311678,  0.099755254144296117};
    const double wide[22] = {
        -9.2528925537331332e-4, 9.6994938266202261e-3, -0.045108584759721229, 0.12220871554920868,  -0.21421438161196803,
        0.25662242111986672,    -0.21248595787160034,  0.10699140750262290,   -0.0087535328573161814, -0.035847515160341894,
        0.048861253085257294,   -0.015584945512256861, 0.029993706343945528,  0.020645822930044415, 0.034107179792067992,
        0.040828290428988995,   0.048830105655564693,  0.055557701923597103,  0.060949949368984041, 0.064643398378909444,
        0.066490381073541008,   0.066490380049358788};
    const double *series = SINGLE ? narrow : wide;
    Normal normal;
    real inside = t > most ? most : t, head = (inside + round) - round, tail = inside - head;
    real x = -head * head / 2, w = 1 / (1 + inside / knee), square = w * w, odd = 0, even = 0;
    Exponential e = exponential_parts(x, -(inside + head) / 2 * tail);
    /* Two chains side by side. */
    for (int n = 0; n < (SINGLE ? 10 : 22); n += 2) {
        odd = odd * square + (real)series[n];
        even = even * square + (real)series[n + 1];
    }
    normal.bell = x < LEAST ? 0 : (e.growth + 1) * e.power;
    normal.below = normal.bell * w * (odd * w + even);
    return normal;
}

#endif
