/* The vector vocabulary of the kernels, and what one compilation of them is for.

   CONVLAYERS_DOUBLE      the data type: double if defined, else float
   CONVLAYERS_VEC_BYTES   bytes in a vector: 16, 32 or 64; 0 for a compiler without vector types
   CONVLAYERS_REGISTERS   vector registers of the instruction set, which bound the register tile

   GCC's and Clang's vector type compiles for any target: as one register where it fits, as several where it does not. */

#ifndef CONVLAYERS_VEC_H
#define CONVLAYERS_VEC_H

#include <stddef.h>
#include <string.h>

/* Under AddressSanitizer (tools/dev.py asan), bytes behind each part of a scratch buffer that nobody may touch. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define GUARD_BYTES 64
#define ALLOW ASAN_UNPOISON_MEMORY_REGION
#define FORBID ASAN_POISON_MEMORY_REGION
#else
#define GUARD_BYTES 0
#define ALLOW(start, size) ((void)0)
#define FORBID(start, size) ((void)0)
#endif

#ifdef CONVLAYERS_DOUBLE
typedef double real;
typedef long long integer;
#define REAL_BYTES 8
#else
typedef float real;
typedef int integer;
#define REAL_BYTES 4
#endif

#if CONVLAYERS_VEC_BYTES && (defined(__GNUC__) || defined(__clang__))
#define VL (CONVLAYERS_VEC_BYTES / REAL_BYTES)
typedef real vf __attribute__((vector_size(CONVLAYERS_VEC_BYTES), aligned(REAL_BYTES), may_alias));
/* A difference, not a sum: x + 0 is not folded, since it turns -0 into +0. */
#define splat(x) ((real)(x) - (vf){0})
#define ALWAYS_INLINE static inline __attribute__((always_inline))
typedef __typeof__((vf){0} < (vf){0}) vmask;
#define vselect(mask, a, b) ((vf)(((mask) & (vmask)(a)) | (~(mask) & (vmask)(b))))
#define vnot(mask) (~(mask))
#define LANES_2(start, step) (start), (start) + (step)
#define LANES_4(start, step) LANES_2(start, step), LANES_2((start) + 2 * (step), step)
#define LANES_8(start, step) LANES_4(start, step), LANES_4((start) + 4 * (step), step)
#define LANES_16(start, step) LANES_8(start, step), LANES_8((start) + 8 * (step), step)
#define PAIRS_2(start) (start), (start) + VL
#define PAIRS_4(start) PAIRS_2(start), PAIRS_2((start) + 1)
#define PAIRS_8(start) PAIRS_4(start), PAIRS_4((start) + 2)
#define PAIRS_16(start) PAIRS_8(start), PAIRS_8((start) + 4)
#if CONVLAYERS_VEC_BYTES == 16 * REAL_BYTES
#define EVEN_LANES LANES_16(0, 2)
#define ODD_LANES LANES_16(1, 2)
#define LOW_PAIRS PAIRS_16(0)
#define HIGH_PAIRS PAIRS_16(8)
#elif CONVLAYERS_VEC_BYTES == 8 * REAL_BYTES
#define EVEN_LANES LANES_8(0, 2)
#define ODD_LANES LANES_8(1, 2)
#define LOW_PAIRS PAIRS_8(0)
#define HIGH_PAIRS PAIRS_8(4)
#elif CONVLAYERS_VEC_BYTES == 4 * REAL_BYTES
#define EVEN_LANES LANES_4(0, 2)
#define ODD_LANES LANES_4(1, 2)
#define LOW_PAIRS PAIRS_4(0)
#define HIGH_PAIRS PAIRS_4(2)
#else
#define EVEN_LANES LANES_2(0, 2)
#define ODD_LANES LANES_2(1, 2)
#define LOW_PAIRS PAIRS_2(0)
#define HIGH_PAIRS PAIRS_2(1)
#endif
#if defined(__clang__)
#define vshuffle(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef integer vlanes __attribute__((vector_size(CONVLAYERS_VEC_BYTES)));
#define vshuffle(a, b, ...) __builtin_shuffle(a, b, (vlanes){__VA_ARGS__})
#endif
/* Every second value of a and b, from the first or the second, as one vector; and a0 b0 a1 b1 ..., as two. */
#define vevens(a, b) vshuffle(a, b, EVEN_LANES)
#define vodds(a, b) vshuffle(a, b, ODD_LANES)
#define vzip_low(a, b) vshuffle(a, b, LOW_PAIRS)
#define vzip_high(a, b) vshuffle(a, b, HIGH_PAIRS)
#else
#define VL 1
typedef real vf;
#define splat(x) (x)
#define ALWAYS_INLINE static
typedef int vmask;
#define vselect(mask, a, b) ((mask) ? (a) : (b))
#define vnot(mask) (!(mask))
#define vevens(a, b) (a)
#define vodds(a, b) (b)
#define vzip_low(a, b) (a)
#define vzip_high(a, b) (b)
#endif
#define vless(a, b) ((a) < (b))
/* Keeps v in a register where the compiler would rather load it again at each of its uses. */
#if defined(__AVX512F__) && CONVLAYERS_VEC_BYTES == 64
#define vhold(v) __asm__("" : "+v"(v))
#elif defined(__AVX__) && CONVLAYERS_VEC_BYTES == 32 || defined(__SSE2__) && CONVLAYERS_VEC_BYTES == 16
#define vhold(v) __asm__("" : "+x"(v))
#else
#define vhold(v) ((void)(v))
#endif

/* Transposition: rounds of exchanges between the vectors i and i + s, s = 1, 2, 4, ... below the size of the square. */
#if VL > 1
#define LOWER(l, s) ((l) & (s) ? VL + (l) - (s) : (l))
#define UPPER(l, s) ((l) & (s) ? VL + (l) : (l) + (s))
#if VL == 16
#define LANES(F, s) F(0, s), F(1, s), F(2, s), F(3, s), F(4, s), F(5, s), F(6, s), F(7, s), F(8, s), F(9, s), F(10, s), \
    F(11, s), F(12, s), F(13, s), F(14, s), F(15, s)
#elif VL == 8
#define LANES(F, s) F(0, s), F(1, s), F(2, s), F(3, s), F(4, s), F(5, s), F(6, s), F(7, s)
#elif VL == 4
#define LANES(F, s) F(0, s), F(1, s), F(2, s), F(3, s)
#else
#define LANES(F, s) F(0, s), F(1, s)
#endif
#define EXCHANGE(v, n, s) \
    for (int i = 0; i < (n); i++) \
        if (!(i & (s))) { \
            const vf lower = vshuffle((v)[i], (v)[i + (s)], LANES(LOWER, s)); \
            (v)[i + (s)] = vshuffle((v)[i], (v)[i + (s)], LANES(UPPER, s)); \
            (v)[i] = lower; \
        }
#endif

/* The last n lanes of v, zeros in the others. */
ALWAYS_INLINE vf convlayers_last_lanes(vf v, ptrdiff_t n) {
#if VL > 1
#define ITSELF(l, s) (l)
    return vselect((vf){LANES(ITSELF, 0)} >= splat(VL - n), v, (vf){0});
#else
    return n > 0 ? v : 0;
#endif
}

/* v[i][k] <-> v[k][i] in a square of VL vectors. */
ALWAYS_INLINE void convlayers_transpose_square(vf *v) {
#if VL > 1
    EXCHANGE(v, VL, 1)
#endif
#if VL > 2
    EXCHANGE(v, VL, 2)
#endif
#if VL > 4
    EXCHANGE(v, VL, 4)
#endif
#if VL > 8
    EXCHANGE(v, VL, 8)
#endif
    (void)v;
}

#define ADD_PAIRS(v, n, s) \
    for (int i = 0; i < (n) / 2; i++) \
        (v)[i] = vshuffle((v)[2 * i], (v)[2 * i + 1], LANES(LOWER, s)) + vshuffle((v)[2 * i], (v)[2 * i + 1], LANES(UPPER, s));

/* The sum of the lanes of each of VL vectors, as one vector; v is used up. */
ALWAYS_INLINE vf convlayers_square_sums(vf *v) {
#if VL > 1
    ADD_PAIRS(v, VL, 1)
#endif
#if VL > 2
    ADD_PAIRS(v, VL / 2, 2)
#endif
#if VL > 4
    ADD_PAIRS(v, VL / 4, 4)
#endif
#if VL > 8
    ADD_PAIRS(v, VL / 8, 8)
#endif
    return v[0];
}

/* Four neighbouring values at each of VL places, as four vectors of one value each: v[p] holds src[place[t] + p]. Which t a
   lane has is the implementation's choice, the same in both functions: lane 4 l + k has t = k VL / 4 + l. `joined` says that
   each quarter of the places lies in one piece. */
#if VL > 4 && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define JOINED_BY_SHUFFLES
typedef real vfour __attribute__((vector_size(4 * REAL_BYTES), aligned(REAL_BYTES), may_alias));
#define FOUR(p) (*(const vfour *)(p))
#define JOIN_TWO(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
#if VL == 16
#define JOIN(src, place) __builtin_shufflevector( \
    JOIN_TWO(FOUR((src) + (place)[0]), FOUR((src) + (place)[1])), JOIN_TWO(FOUR((src) + (place)[2]), FOUR((src) + (place)[3])), \
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#else
#define JOIN(src, place) JOIN_TWO(FOUR((src) + (place)[0]), FOUR((src) + (place)[1]))
#endif
#endif
#endif

ALWAYS_INLINE void convlayers_load_fours(const real *src, const ptrdiff_t *place, int joined, vf *v) {
#if VL >= 4
    for (int i = 0; i < 4; i++) {
        if (joined || VL == 4)
            v[i] = *(const vf *)(src + place[i * (VL / 4)]);
        else {
#ifdef JOINED_BY_SHUFFLES
            v[i] = (vf)JOIN(src, place + i * (VL / 4));
#else
            real piece[VL];
            for (int t = 0; t < VL / 4; t++) memcpy(piece + 4 * t, src + place[i * (VL / 4) + t], 4 * sizeof(real));
            v[i] = *(const vf *)piece;
#endif
        }
    }
    EXCHANGE(v, 4, 1)
    EXCHANGE(v, 4, 2)
#else
    (void)joined;
    for (int i = 0; i < 4; i++)
        for (int t = 0; t < VL; t++) ((real *)v)[i * VL + t] = src[place[t] + i];
#endif
}

ALWAYS_INLINE void convlayers_store_fours(real *dst, const vf *v) {
#if VL >= 4
    vf w[4] = {v[0], v[1], v[2], v[3]};
    EXCHANGE(w, 4, 1)
    EXCHANGE(w, 4, 2)
    for (int i = 0; i < 4; i++) *(vf *)(dst + i * VL) = w[i];
#else
    for (int i = 0; i < 4; i++)
        for (int l = 0; l < VL; l++) dst[4 * l + i] = ((const real *)v)[i * VL + l];
#endif
}

#if defined(__GNUC__) || defined(__clang__)
#define convlayers_prefetch(p, write) __builtin_prefetch(p, write)
#else
#define convlayers_prefetch(p, write) ((void)(p))
#endif

/* Whether v takes the place of the best value so far: the first of equals stays, and so does the first NaN. */
#define vbeats(v, best) (vnot((v) <= (best)) & ((best) == (best)))

/* max(v, 0), and dy where v is over 0: NaN stays in the first and counts as not over 0 in the second. */
ALWAYS_INLINE vf vrelu(vf v) { return vselect(v < splat(0), splat(0), v); }
ALWAYS_INLINE vf vrelu_gradient(vf v, vf dy) { return vselect(v > splat(0), dy, splat(0)); }

/* e^x for x <= 0, to about one unit in the last place, with 0 for what is below the normal numbers; NaN stays. Without a
   branch or a call, so that loops over it become vector code: 0.2 ns a value with AVX-512, against 2 ns of the C library.
   x = k log 2 + r, |r| <= log(2) / 2; log 2 is split in two, and the constant rounds to an integer as it is added. */
ALWAYS_INLINE real exponential(real x) {
    const real least = REAL_BYTES == 4 ? -87 : -708, round = REAL_BYTES == 4 ? 12582912.0 : 6755399441055744.0;
    const real high = REAL_BYTES == 4 ? 0.693359375 : 0.693147180369123816490;
    const real low = REAL_BYTES == 4 ? -2.12194440054690582767e-4 : 1.90821492927058770002e-10;
    real inside = x < least ? least : x, k = inside * (real)1.44269504088896340736 + round - round;
    /* 1/n!, from n = 13 or 7 down to 0. */
    const double series[14] = {1.6059043836821613e-10, 2.0876756987868099e-9, 2.5052108385441720e-8, 2.7557319223985893e-7,
                               2.7557319223985888e-6,  2.4801587301587302e-5, 1.9841269841269841e-4, 1.3888888888888889e-3,
                               8.3333333333333333e-3,  4.1666666666666667e-2, 1.6666666666666667e-1, 0.5, 1.0, 1.0};
    real r = inside - k * high - k * low, sum = 0, power;
    for (int n = REAL_BYTES == 4 ? 6 : 0; n < 14; n++) sum = sum * r + (real)series[n];
    lane bits = ((lane)k + (REAL_BYTES == 4 ? 127 : 1023)) << (REAL_BYTES == 4 ? 23 : 52);
    memcpy(&power, &bits, sizeof power);
    return x < least ? 0 : sum * power;
}

/* The register tile: MR rows by NV vectors of accumulators, with NV loads and one broadcast beside them. */
#define NV 2
#if CONVLAYERS_REGISTERS >= 32
#define MR 14
#else
#define MR 6
#endif
/* The tile of spectra: two rows by so many columns of complex accumulators, with four vectors and two loads beside them. */
#if CONVLAYERS_REGISTERS >= 32
#define SPECTRA_COLUMNS 4
#else
#define SPECTRA_COLUMNS 2
#endif
#define PANEL (NV * VL)
#define TILE (MR * NV * VL)
/* The tile of products of rows: so many rows and columns of accumulators, beside a vector for each row and one more. */
#define DOT_ROWS 4
#if CONVLAYERS_REGISTERS >= 32
#define DOT_COLS 6
#else
#define DOT_COLS 2
#endif
#define DOT_SUMS ((DOT_ROWS * DOT_COLS + VL - 1) / VL * VL)
/* Nine taps of the filters of a tile, in whole vectors. */
#define TAPS_3X3 (9 * ((MR + VL - 1) / VL * VL))

/* The points of the Winograd transforms, +-A and +-B beside 0 and infinity; see winograd.pxi. */
#define WINOGRAD_A ((real)0.70710678118654752440)
#define WINOGRAD_B ((real)1.41421356237309504880)

/* Depthwise convolution: STRIP_ROWS rows by STRIP_VECS vectors of outputs, or TAP_SUMS sums over pixels for KEPT_ROWS rows of
   gradients, stay in registers beside COLUMN_TAPS broadcast taps or a vector for each kernel column. */
#define COLUMN_TAPS 7
#define STRIP_ROWS 8
#define KEPT_ROWS 4
#if CONVLAYERS_REGISTERS >= 32
#define STRIP_VECS 2
#define TAP_SUMS 21
#else
#define STRIP_VECS 1
#define TAP_SUMS 10
#endif

/* The bodies below are written once and specialised by constant arguments, which only inlining brings about. */
struct convlayers_tile_args;
struct convlayers_pool;
struct convlayers_strip;
struct convlayers_dot;
struct convlayers_column;
struct convlayers_copy;
struct convlayers_put;
struct convlayers_spectra;
ALWAYS_INLINE void convlayers_tile(int, int, struct convlayers_tile_args *);
ALWAYS_INLINE void convlayers_tile_rows(int, int, struct convlayers_tile_args *);
ALWAYS_INLINE void convlayers_max_vector(struct convlayers_pool *, const real *, ptrdiff_t, ptrdiff_t, real *, real *);
ALWAYS_INLINE void convlayers_sum_vector(struct convlayers_pool *, const real *, ptrdiff_t, ptrdiff_t, real *);
ALWAYS_INLINE void convlayers_winograd_input(int, const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_winograd_filter(int, int, const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_winograd_output(int, int, const vf *, int, vf *, int);
ALWAYS_INLINE void convlayers_winograd_input_tiles(int, const real *, ptrdiff_t, const ptrdiff_t *, int, real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_winograd_gradient_tile(int, int, const real *, ptrdiff_t, real *, ptrdiff_t);
ALWAYS_INLINE void convlayers_lane_sums(const vf *, int, real *);
ALWAYS_INLINE void convlayers_dot_tile(int, const real **, const real **, ptrdiff_t, real *);
ALWAYS_INLINE ptrdiff_t convlayers_pick(ptrdiff_t, ptrdiff_t, const real *, const real *, real *, real *);
ALWAYS_INLINE void convlayers_any_vector(struct convlayers_pool *, const real *, ptrdiff_t, ptrdiff_t, real *, real *);
ALWAYS_INLINE void convlayers_feed(int, int, int, int, const real *, const real *, ptrdiff_t, const vf *, vf *);
ALWAYS_INLINE void convlayers_strip_body(int, int, int, struct convlayers_strip *);
ALWAYS_INLINE void convlayers_strip_rows(int, int, int, struct convlayers_strip *);
ALWAYS_INLINE void convlayers_strip_vecs(int, int, int, struct convlayers_strip *);
ALWAYS_INLINE void convlayers_copy_lines(ptrdiff_t, ptrdiff_t, struct convlayers_copy *);
ALWAYS_INLINE void convlayers_copy_vectors(ptrdiff_t, struct convlayers_copy *);
ALWAYS_INLINE void convlayers_put_lines(int, ptrdiff_t, struct convlayers_put *);
ALWAYS_INLINE void convlayers_put_vectors(int, struct convlayers_put *);
ALWAYS_INLINE void convlayers_dot_column(int, int, int, const real *, vmask, const vf *, vf *);
ALWAYS_INLINE void convlayers_dot_feed(int, int, int, int, const real *, const struct convlayers_column *, vmask, const vf *, vf *);
ALWAYS_INLINE void convlayers_dot_rows(int, int, int, const real *, ptrdiff_t, const struct convlayers_column *, const real *,
                                       ptrdiff_t, vmask, vf *);
ALWAYS_INLINE void convlayers_dot_body(int, int, struct convlayers_dot *);
ALWAYS_INLINE void convlayers_dot_columns(int, int, struct convlayers_dot *);

struct convlayers_norm;
ALWAYS_INLINE void convlayers_sum_block(int, int, struct convlayers_norm *, ptrdiff_t, ptrdiff_t, real, double *);
ALWAYS_INLINE void convlayers_write_block(int, int, struct convlayers_norm *, ptrdiff_t, ptrdiff_t);
ALWAYS_INLINE void convlayers_spectra_tile(int, int, struct convlayers_spectra *, const real *, const real *, ptrdiff_t, real *);

/* 2: AVX-512 as in x86-64-v4; 1: AVX2 and FMA as in x86-64-v3; 0: anything else. Asks the operating system too. */
static int convlayers_cpu_level(void) {
#if (defined(__GNUC__) || defined(__clang__)) && (defined(__x86_64__) || defined(__i386__))
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return 2;
    return 1;
#else
    return 0;
#endif
}

#endif
