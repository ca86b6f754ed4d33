/* The vector vocabulary of the kernels, and what one compilation of them is for.

   CONVLAYERS_DOUBLE      the data type: double if defined, else float
   CONVLAYERS_VEC_BYTES   bytes in a vector: 16, 32 or 64; 0 for a compiler without vector types
   CONVLAYERS_REGISTERS   vector registers of the instruction set, which bound the register tile

   GCC's and Clang's vector type compiles for any target: as one register where it fits, as several where it does not. */

#ifndef CONVLAYERS_VEC_H
#define CONVLAYERS_VEC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Under AddressSanitizer (tools/dev.py asan), bytes behind each part of a scratch buffer that nobody may touch. */
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#define GUARD_BYTES 64
#define ALLOW ASAN_UNPOISON_MEMORY_REGION
#define FORBID ASAN_POISON_MEMORY_REGION
#else
#define GUARD_BYTES 0
#define ALLOW(start, size) ((void)(start), (void)(size))
#define FORBID(start, size) ((void)0)
#endif

#ifdef CONVLAYERS_DOUBLE
typedef double real;
typedef int64_t lane;
typedef uint64_t unsigned_lane;
#define REAL_BYTES 8
#else
typedef float real;
typedef int32_t lane;
typedef uint32_t unsigned_lane;
#define REAL_BYTES 4
#endif

#if CONVLAYERS_VEC_BYTES && (defined(__GNUC__) || defined(__clang__))
#define VL (CONVLAYERS_VEC_BYTES / REAL_BYTES)
typedef real vf __attribute__((vector_size(CONVLAYERS_VEC_BYTES), aligned(REAL_BYTES), may_alias));
/* A difference, not a sum: x + 0 is not folded, since it turns -0 into +0. */
#define splat(x) ((real)(x) - (vf){0})
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NEVER_INLINE static __attribute__((noinline))
/* Integers as wide as a real: a comparison's outcome, all bits set or none, and the taps of a pooling. */
typedef lane vmask __attribute__((vector_size(CONVLAYERS_VEC_BYTES)));
#define isplat(x) ((vmask){0} + (lane)(x))
#define iselect(mask, a, b) (((mask) & (a)) | (~(mask) & (b)))
#define vselect(mask, a, b) ((vf)iselect(mask, (vmask)(a), (vmask)(b)))
#define vnot(mask) (~(mask))
#define vbits(v) ((vmask)(v))
#define vreal(bits) ((vf)(bits))
#else
#define VL 1
typedef real vf;
#define splat(x) (x)
#define ALWAYS_INLINE static
#define NEVER_INLINE static
typedef lane vmask;
#define isplat(x) ((lane)(x))
#define iselect(mask, a, b) ((mask) ? (a) : (b))
#define vselect(mask, a, b) ((mask) ? (a) : (b))
#define vnot(mask) (!(mask))
static vmask vbits(vf v) {
    vmask bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static vf vreal(vmask bits) {
    vf v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
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
/* Begins a line of the cache of instructions, just before a loop that is to touch as few as it can; what is held in a register
   before is not loaded in between. */
#if defined(__AVX__) && CONVLAYERS_VEC_BYTES == 32
#define begin_line() __asm__ volatile(".p2align 6")
#define convlayers_hold_place(p) __asm__ volatile("" : "+r"(p))
#else
#define begin_line() ((void)0)
#define convlayers_hold_place(p) ((void)(p))
#endif
#define vequal(a, b) ((a) == (b))
/* Whether v takes the place of the best value so far: the first of equals stays, and so does the first NaN. */
#define vbeats(v, best) (vnot((v) <= (best)) & ((best) == (best)))
/* The same for values in any order, v of tap i and best of tap at: of equals, and of NaN, the lower tap wins. */
#define vprecedes(v, i, best, at) \
    (vbeats(v, best) | ((((v) == (best)) | (((v) != (v)) & ((best) != (best)))) & ((i) < (at))))

/* The larger and the smaller, b where either is NaN: one instruction of x86, where a selection takes three. */
#if defined(__AVX512F__) && CONVLAYERS_VEC_BYTES == 64
#define X86_OF(operation) _mm512_##operation
#elif defined(__AVX__) && CONVLAYERS_VEC_BYTES == 32
#define X86_OF(operation) _mm256_##operation
#elif defined(__SSE2__) && CONVLAYERS_VEC_BYTES == 16
#define X86_OF(operation) _mm_##operation
#endif
#ifndef X86_OF
#define vlarger(a, b) vselect((a) > (b), a, b)
#define vsmaller(a, b) vselect((a) < (b), a, b)
#else
#include <immintrin.h>
#ifdef CONVLAYERS_DOUBLE
#define vlarger(a, b) ((vf)X86_OF(max_pd)(a, b))
#define vsmaller(a, b) ((vf)X86_OF(min_pd)(a, b))
#else
#define vlarger(a, b) ((vf)X86_OF(max_ps)(a, b))
#define vsmaller(a, b) ((vf)X86_OF(min_ps)(a, b))
#endif
#endif

/* max(v, 0), and dy where v is over 0: NaN stays in the first and counts as not over 0 in the second. */
ALWAYS_INLINE vf vrelu(vf v) { return vlarger(splat(0), v); }
ALWAYS_INLINE vf vrelu_gradient(vf v, vf dy) { return vselect(v > splat(0), dy, splat(0)); }
/* The same of min(max(v, 0), bound); NaN is no bound. */
ALWAYS_INLINE vf vclip_gradient(vf v, vf bound, vf dy) { return vselect(v >= bound, splat(0), vrelu_gradient(v, dy)); }

/* Lanes of two vectors by number, b's counted on from a's, and loads and stores of some lanes alone, a bit each, zeros in the
   others: where one instruction does so, and for float64, of which less code is asked, not at all. With 64 bytes alone, for
   tests, the compiler finds a way. */
#if defined(__AVX512F__) && CONVLAYERS_VEC_BYTES == 64 && !defined(CONVLAYERS_DOUBLE)
#define PICKS 1
#define vpick(a, b, lanes) ((vf)_mm512_permutex2var_ps(a, (__m512i)(lanes), b))
#define load_lanes(p, lanes) ((vf)_mm512_maskz_loadu_ps((__mmask16)(lanes), p))
#define store_lanes(p, v, lanes) _mm512_mask_storeu_ps(p, (__mmask16)(lanes), v)
#elif CONVLAYERS_VEC_BYTES == 64 && !defined(CONVLAYERS_DOUBLE) && defined(__GNUC__) && !defined(__clang__)
#define PICKS 1
#define vpick(a, b, lanes) ((vf)__builtin_shuffle((vmask)(a), (vmask)(b), lanes))
static vf load_lanes(const real *p, unsigned lanes) {
    vf v = {0};
    for (int i = 0; i < VL; i++)
        if (lanes >> i & 1) v[i] = p[i];
    return v;
}
static void store_lanes(real *p, vf v, unsigned lanes) {
    for (int i = 0; i < VL; i++)
        if (lanes >> i & 1) p[i] = v[i];
}
#else
#define PICKS 0
#define vpick(a, b, lanes) (a)
#define load_lanes(p, lanes) splat(0)
#define store_lanes(p, v, lanes) ((void)0)
#endif

/* Short rows of depthwise planes, see depthwise_rows.pxi: loads of the lanes whose bits are set, zeros in the others. */
#if defined(__AVX2__) && CONVLAYERS_VEC_BYTES == 32 && !defined(CONVLAYERS_DOUBLE)
#define SHORT_ROWS 1
#define load_masked(p, mask) ((vf)_mm256_maskload_ps(p, (__m256i)(mask)))
/* As vevens and vodds with halves apart, and the order of lanes that they have; and that put right again, which is the same. */
#define vevens_apart(a, b) ((vf)_mm256_shuffle_ps(a, b, 0x88))
#define vodds_apart(a, b) ((vf)_mm256_shuffle_ps(a, b, 0xdd))
#define vparted(v) ((vf)_mm256_permute4x64_pd((__m256d)(v), 0xd8))
#else
#define SHORT_ROWS 0
#define load_masked(p, mask) splat(0)
#define vevens_apart(a, b) (a)
#define vodds_apart(a, b) (b)
#define vparted(v) (v)
#endif

/* Asks for a line of the cache that is needed soon; nothing happens where the address is not ours. The empty statement behind
   it stays: without, GCC finds that a function of nothing else has no effect, and drops the calls of it. */
#if defined(__GNUC__) || defined(__clang__)
#define convlayers_prefetch(p, write) (__extension__({ __builtin_prefetch(p, write); __asm__ volatile(""); }))
#define convlayers_prefetch_far(p) (__extension__({ __builtin_prefetch(p, 0, 2); __asm__ volatile(""); }))
#else
#define convlayers_prefetch(p, write) ((void)(p))
#define convlayers_prefetch_far(p) ((void)(p))
#endif

/* Bytes of a core's second-level cache, 0 where the system does not tell. Asking takes a microsecond: once is enough. */
#if defined(__linux__)
#include <unistd.h>
#endif
static ptrdiff_t convlayers_second_level(void) {
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
    static ptrdiff_t size = -1;
    if (size < 0) size = sysconf(_SC_LEVEL2_CACHE_SIZE) > 0 ? sysconf(_SC_LEVEL2_CACHE_SIZE) : 0;
    return size;
#else
    return 0;
#endif
}

/* Copies past all caches, to memory that nobody reads soon: a store that misses reads its line first.
   Each thread ends its copies with a fence, since these stores wait for no other. */
#ifdef __SSE2__
#include <emmintrin.h>
static void convlayers_copy_out(void *dst, const void *src, ptrdiff_t nbytes) {
    ptrdiff_t at, whole = (uintptr_t)dst % 16 ? 0 : nbytes / 16 * 16;
    for (at = 0; at < whole; at += 16)
        _mm_stream_si128((__m128i *)((char *)dst + at), _mm_loadu_si128((const __m128i *)((const char *)src + at)));
    memcpy((char *)dst + whole, (const char *)src + whole, nbytes - whole);
}
#define convlayers_fence() _mm_sfence()
#else
#define convlayers_copy_out(dst, src, nbytes) memcpy(dst, src, nbytes)
#define convlayers_fence() ((void)0)
#endif

#include "elementary.h"
#include "shuffle.h"
#include "bodies.h"

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
