/* The activations that activations.pxi lists: y of x, and dx of dy and of what the forward pass kept. a and b are constants
   of the layer. Where a slope is 0 by definition dx is 0, whatever dy is; NaN stays NaN. */

#ifndef CONVLAYERS_ACTIVATIONS_H
#define CONVLAYERS_ACTIVATIONS_H

#include "vec.h"

#define ACTIVATIONS(EACH) \
    EACH(celu) EACH(clip) EACH(elu) EACH(erf) EACH(gelu) EACH(gelu_tanh) EACH(hard_sigmoid) EACH(hard_swish) EACH(leaky_relu) \
    EACH(mish) EACH(sigmoid) EACH(silu) EACH(softplus) EACH(tanh)

#define VALUE(name) ALWAYS_INLINE real name##_value(real x, real a, real b)
#define GRADIENT(name, kept) ALWAYS_INLINE real name##_gradient(real dy, real kept, real a, real b)

/* x, or a bound beyond which f(x) is 0 or x, and its slope 0 or 1: times 0 it is 0, where infinity would be NaN. */
ALWAYS_INLINE real floored(real x) { return x < LEAST ? LEAST : x; }
ALWAYS_INLINE real held(real x) { return x > -LEAST ? -LEAST : floored(x); }

VALUE(clip) { return x < a ? a : x > b ? b : x; }
GRADIENT(clip, x) { return x <= a || x >= b ? 0 : dy; }

VALUE(leaky_relu) { return x > 0 ? x : a * x; }
GRADIENT(leaky_relu, x) { return x > 0 ? dy : a * dy; }

VALUE(hard_sigmoid) { return x <= -3 ? 0 : x >= 3 ? 1 : (x + 3) / 6; }
GRADIENT(hard_sigmoid, x) { return x > -3 && x < 3 ? dy / 6 : 0; }

VALUE(hard_swish) { return x <= -3 ? 0 : x >= 3 ? x : x * (x + 3) / 6; }
GRADIENT(hard_swish, x) { return x <= -3 ? 0 : x < 3 ? dy * (x / 3 + (real)0.5) : dy; }

VALUE(elu) { return b * (x > 0 ? x : a * exponential_less_one(x)); }
GRADIENT(elu, x) { return dy * b * (x <= 0 ? a * exponential(x) : 1); }

/* a may be below 0, and z = x / a over it: e^z - 1 = -(e^-z - 1) / e^-z, divided twice by the root of that, which stays over 0
   where e^z is not yet infinite. */
VALUE(celu) {
    real z = x / a, back = -magnitude(z), less = exponential_less_one(back), root = exponential(back / 2);
    return x > 0 ? x : a * (z > 0 ? -less / root / root : less);
}
GRADIENT(celu, x) {
    real z = x / a, back = -magnitude(z), root = exponential(back / 2);
    return dy * (x > 0 ? 1 : z > 0 ? 1 / root / root : exponential(back));
}

/* 1 - 2 Phi(-sqrt(2) |x|) with the sign of x; below 1, where that loses digits, the power series. */
VALUE(erf) {
    const double series[20] = {
        -2.3784598852774293e-19, 4.7633480405150683e-18, -9.0639708428086728e-17, 1.6342614095367152e-15,
        -2.7835162072109215e-14, 4.4632242632864775e-13, -6.7113668551641105e-12, 9.4227590646504113e-11,
        -1.2290555301717928e-09, 1.4807192815879218e-08, -1.6365844691234924e-07, 1.6462114365889248e-06,
        -1.492565035840625e-05, 0.00012055332981789664, -0.00085483270234508533, 0.0052239776254421879,
        -0.026866170645131252, 0.11283791670955126, -0.37612638903183754, 1.1283791670955126};
    real size = magnitude(x), square = size * size, sum = 0;
    for (int n = SINGLE ? 9 : 0; n < 20; n++) sum = sum * square + (real)series[n];
    real wide = 1 - 2 * normal_at_minus((real)1.41421356237309504880 * size).below;
    return with_sign(size < 1 ? size * sum : size >= 1 ? wide : size, x);
}
GRADIENT(erf, x) { return dy * (real)1.12837916709551257390 * exponential(-x * x); }

VALUE(sigmoid) {
    real e = exponential(-magnitude(x));
    return (x < 0 ? e : 1) / (1 + e);
}
GRADIENT(sigmoid, y) { return dy * y * (1 - y); }

VALUE(tanh) {
    real less = exponential_less_one(-2 * magnitude(x));
    return with_sign(less / (less + 2), x);
}
GRADIENT(tanh, y) { return dy * (1 - y * y); }

VALUE(silu) { return floored(x) * sigmoid_value(x, a, b); }
GRADIENT(silu, x) {
    real e = exponential(-magnitude(x)), share = 1 / (1 + e);
    return dy * share * ((x < 0 ? e : 1) + held(x) * e * share);
}

/* b is the threshold, in units of a x. */
VALUE(softplus) {
    real z = a * x, over = z > 0 ? z : 0;
    return z > b ? x : (over + log_one_more(exponential(-magnitude(z)))) / a;
}
GRADIENT(softplus, x) { return a * x > b ? dy : dy * sigmoid_value(a * x, a, b); }

/* With e = e^-|x|, p = 1 or e^2 and q = e^2 or 1 for x >= 0 or x < 0: tanh(softplus x) = (p + 2 e) / (p + 2 e + 2 q), and its
   slope is 4 e (1 + e) sqrt(q) over the square of that divisor. */
VALUE(mish) {
    real e = exponential(-magnitude(x)), top = (x < 0 ? e * e : 1) + 2 * e;
    return floored(x) * top / (top + 2 * (x < 0 ? 1 : e * e));
}
GRADIENT(mish, x) {
    real e = exponential(-magnitude(x)), top = (x < 0 ? e * e : 1) + 2 * e, share = 1 / (top + 2 * (x < 0 ? 1 : e * e));
    return dy * share * (top + held(x) * 4 * e * (1 + e) * (x < 0 ? 1 : e) * share);
}

VALUE(gelu) {
    real below = normal_at_minus(magnitude(x)).below;
    return floored(x) * (x < 0 ? below : 1 - below);
}
GRADIENT(gelu, x) {
    Normal normal = normal_at_minus(magnitude(x));
    return dy * ((x < 0 ? normal.below : 1 - normal.below) + held(x) * (real)0.39894228040143267794 * normal.bell);
}

/* x sigmoid(u), u = 2 sqrt(2 / pi) (x + 0.044715 x^3), which is x (1 + tanh(u / 2)) / 2. */
#define GELU_TANH ((real)1.59576912160573071176)
#define GELU_CUBIC ((real)0.044715)
VALUE(gelu_tanh) { return floored(x) * sigmoid_value(GELU_TANH * x * (1 + GELU_CUBIC * x * x), a, b); }
GRADIENT(gelu_tanh, x) {
    real v = held(x), u = GELU_TANH * v * (1 + GELU_CUBIC * v * v), e = exponential(-magnitude(u)), share = 1 / (1 + e);
    return dy * share * ((u < 0 ? e : 1) + v * GELU_TANH * (1 + 3 * GELU_CUBIC * v * v) * e * share);
}

/* The loops, with the function inlined, over blocks of one size, the last one filled up: all values then go through the same
   vector code, and a value has the same bits wherever it stands. */
#define BLOCK 64

ALWAYS_INLINE const real *whole_block(const real *values, ptrdiff_t count, real *buffer) {
    if (count >= BLOCK) return values;
    memset(buffer, 0, BLOCK * sizeof(real));
    return memcpy(buffer, values, count * sizeof(real));
}

ALWAYS_INLINE void map_values(
    real value(real, real, real), const real *x, real *y, ptrdiff_t count, real a, real b
) {
    real input[BLOCK], output[BLOCK];
    for (; count > 0; count -= BLOCK, x += BLOCK, y += BLOCK) {
        const real *__restrict from = whole_block(x, count, input);
        real *__restrict to = count >= BLOCK ? y : output;
        for (int j = 0; j < BLOCK; j++) to[j] = value(from[j], a, b);
        if (to == output) memcpy(y, output, count * sizeof(real));
    }
}

ALWAYS_INLINE void map_gradients(
    real gradient(real, real, real, real), const real *dy, const real *kept, real *dx, ptrdiff_t count, real a, real b
) {
    real inputs[2][BLOCK], output[BLOCK];
    for (; count > 0; count -= BLOCK, dy += BLOCK, kept += BLOCK, dx += BLOCK) {
        const real *__restrict from = whole_block(dy, count, inputs[0]), *__restrict at = whole_block(kept, count, inputs[1]);
        real *__restrict to = count >= BLOCK ? dx : output;
        for (int j = 0; j < BLOCK; j++) to[j] = gradient(from[j], at[j], a, b);
        if (to == output) memcpy(dx, output, count * sizeof(real));
    }
}

#define NAME(name) #name,
#define VALUES(name) \
    static void name##_values(const real *x, real *y, ptrdiff_t count, real a, real b) { \
        map_values(name##_value, x, y, count, a, b); \
    }
#define GRADIENTS(name) \
    static void name##_gradients(const real *dy, const real *kept, real *dx, ptrdiff_t count, real a, real b) { \
        map_gradients(name##_gradient, dy, kept, dx, count, a, b); \
    }
#define TO_VALUES(name) name##_values,
#define TO_GRADIENTS(name) name##_gradients,
ACTIVATIONS(VALUES)
ACTIVATIONS(GRADIENTS)

static const char *const activation_names[] = {ACTIVATIONS(NAME) NULL};
static void (*const activation_values[])(const real *, real *, ptrdiff_t, real, real) = {ACTIVATIONS(TO_VALUES)};
static void (*const activation_gradients[])(const real *, const real *, real *, ptrdiff_t, real, real) = {
    ACTIVATIONS(TO_GRADIENTS)};

#undef VALUE
#undef GRADIENT
#undef GELU_TANH
#undef GELU_CUBIC
#undef BLOCK
#undef NAME
#undef VALUES
#undef GRADIENTS
#undef TO_VALUES
#undef TO_GRADIENTS

#endif
