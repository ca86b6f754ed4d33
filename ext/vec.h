/* The vector vocabulary of the kernels, and what one compilation of them is for.

   CONVLAYERS_DOUBLE      the data type: double if defined, else float
   CONVLAYERS_VEC_BYTES   bytes in a vector: 16, 32 or 64; 0 for a compiler without vector types
   CONVLAYERS_REGISTERS   vector registers of the instruction set, which bound the register tile

   GCC's and Clang's vector type compiles for any target: as one register where it fits, as several where it does not. */

#ifndef CONVLAYERS_VEC_H
#define CONVLAYERS_VEC_H

#include <math.h>
#include <stddef.h>
#include <string.h>

#ifdef CONVLAYERS_DOUBLE
typedef double real;
#define REAL_BYTES 8
#else
typedef float real;
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
#else
#define VL 1
typedef real vf;
#define splat(x) (x)
#define ALWAYS_INLINE static
typedef int vmask;
#define vselect(mask, a, b) ((mask) ? (a) : (b))
#define vnot(mask) (!(mask))
#endif
/* Whether v takes the place of the best value so far: the first of equals stays, and so does the first NaN. */
#define vbeats(v, best) (vnot((v) <= (best)) & ((best) == (best)))

/* The register tile: MR rows by NV vectors of accumulators, with NV loads and one broadcast beside them. */
#define NV 2
#if CONVLAYERS_REGISTERS >= 32
#define MR 14
#else
#define MR 6
#endif
#define PANEL (NV * VL)
#define TILE (MR * NV * VL)

/* The bodies below are written once and specialised by constant arguments, which only inlining brings about. */
struct convlayers_tile_args;
struct convlayers_pool;
ALWAYS_INLINE void convlayers_tile(int, int, struct convlayers_tile_args *);
ALWAYS_INLINE void convlayers_tile_rows(int, int, struct convlayers_tile_args *);
ALWAYS_INLINE void convlayers_max_vector(struct convlayers_pool *, const real *, ptrdiff_t, ptrdiff_t, real *, real *);
ALWAYS_INLINE void convlayers_sum_vector(struct convlayers_pool *, const real *, ptrdiff_t, ptrdiff_t, real *);
ALWAYS_INLINE ptrdiff_t convlayers_pick(ptrdiff_t, ptrdiff_t, const real *, const real *, real *, real *);
ALWAYS_INLINE void convlayers_any_vector(struct convlayers_pool *, const real *, ptrdiff_t, ptrdiff_t, real *, real *);

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
