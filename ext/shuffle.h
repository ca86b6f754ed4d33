/* Vectors whose lanes change places: orders of lanes, transposition, sums across lanes. Included by vec.h. */

#ifndef CONVLAYERS_SHUFFLE_H
#define CONVLAYERS_SHUFFLE_H

#if VL > 1
/* Lanes of two vectors, b's counted on from a's. */
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vmask){__VA_ARGS__})
#endif

/* Orders of lanes: every second one, a half of each vector, or one from each by turns. */
#define EVERY2(i) (i), (i) + 2
#define EVERY4(i) EVERY2(i), EVERY2((i) + 4)
#define EVERY8(i) EVERY4(i), EVERY4((i) + 8)
#define EVERY16(i) EVERY8(i), EVERY8((i) + 16)
#define RUN2(i) (i), (i) + 1
#define RUN4(i) RUN2(i), RUN2((i) + 2)
#define RUN8(i) RUN4(i), RUN4((i) + 4)
#define HALF2(i) (i), (i) + VL
#define HALF4(i) RUN2(i), RUN2((i) + VL)
#define HALF8(i) RUN4(i), RUN4((i) + VL)
#define HALF16(i) RUN8(i), RUN8((i) + VL)
#define TURN2(i) (i), (i) + VL
#define TURN4(i) TURN2(i), TURN2((i) + 1)
#define TURN8(i) TURN4(i), TURN4((i) + 2)
#define TURN16(i) TURN8(i), TURN8((i) + 4)
#if VL == 2
#define LANES(order, i) order##2(i)
#elif VL == 4
#define LANES(order, i) order##4(i)
#elif VL == 8
#define LANES(order, i) order##8(i)
#else
#define LANES(order, i) order##16(i)
#endif
#define vevens(a, b) SHUFFLE(a, b, LANES(EVERY, 0))
#define vodds(a, b) SHUFFLE(a, b, LANES(EVERY, 1))
#define vlows(a, b) SHUFFLE(a, b, LANES(HALF, 0))
#define vhighs(a, b) SHUFFLE(a, b, LANES(HALF, VL / 2))
#define vturns_low(a, b) SHUFFLE(a, b, LANES(TURN, 0))
#define vturns_high(a, b) SHUFFLE(a, b, LANES(TURN, VL / 2))

/* A lane's number under F(lane, s), for each lane. */
#define EACH2(F, l, s) F(l, s), F((l) + 1, s)
#define EACH4(F, l, s) EACH2(F, l, s), EACH2(F, (l) + 2, s)
#define EACH8(F, l, s) EACH4(F, l, s), EACH4(F, (l) + 4, s)
#define EACH16(F, l, s) EACH8(F, l, s), EACH8(F, (l) + 8, s)
#if VL == 2
#define EACH(F, s) EACH2(F, 0, s)
#elif VL == 4
#define EACH(F, s) EACH4(F, 0, s)
#elif VL == 8
#define EACH(F, s) EACH8(F, 0, s)
#else
#define EACH(F, s) EACH16(F, 0, s)
#endif
#define ITSELF(l, s) (l)
/* Of a, the lanes without bit s and beside them b's, moved up; and b's lanes with bit s, with a's moved down. */
#define LOWER(l, s) ((l) & (s) ? VL + (l) - (s) : (l))
#define UPPER(l, s) ((l) & (s) ? VL + (l) : (l) + (s))
#define vlower(a, b, s) SHUFFLE(a, b, EACH(LOWER, s))
#define vupper(a, b, s) SHUFFLE(a, b, EACH(UPPER, s))
/* Every second run of VL / 4 lanes, from the first one on or from the second. */
#define RUN_OF(l, s) (2 * (l) - (l) % (s))
#define RUN_BEHIND(l, s) (RUN_OF(l, s) + (s))
#if VL > 4
#define vruns_even(a, b) SHUFFLE(a, b, EACH(RUN_OF, VL / 4))
#define vruns_odd(a, b) SHUFFLE(a, b, EACH(RUN_BEHIND, VL / 4))
#endif
/* Every third lane of three vectors, whose places differ: the number of lanes is no multiple of three. And back, where lane l of
   vector s goes to place 3 l + s. */
#define THIRD_OF(l) ((l) * (VL == 16 ? 11 : VL == 2 ? 1 : 3) % VL)
#define FROM_VECTOR(l, s) (3 * THIRD_OF(l) / VL == (s) ? VL + (l) : (l))
#define TIMES_THREE(l, s) (3 * (l) % VL)
#define PLACE_BACK(l, s) (THIRD_OF((l) + VL - (s)))
#define BY_TURNS2(l, s) (((s) * VL + (l)) % 3 == 1 ? VL + (l) : (l))
#define BY_TURNS3(l, s) (((s) * VL + (l)) % 3 == 2 ? VL + (l) : (l))
static inline vf vthirds(vf a, vf b, vf c) {
    a = SHUFFLE(a, b, EACH(FROM_VECTOR, 1));
    a = SHUFFLE(a, c, EACH(FROM_VECTOR, 2));
    return SHUFFLE(a, a, EACH(TIMES_THREE, 0));
}
#define vplaces3(a, s) SHUFFLE(a, a, EACH(PLACE_BACK, s))
#define vjoin3(a, b, c, s) SHUFFLE(SHUFFLE(a, b, EACH(BY_TURNS2, s)), c, EACH(BY_TURNS3, s))
#else
#define vthirds(a, b, c) (a)
#define vplaces3(a, s) (a)
#define vjoin3(a, b, c, s) ((s) == 0 ? (a) : (s) == 1 ? (b) : (c))
#define vevens(a, b) (a)
#define vodds(a, b) (b)
#define vlows(a, b) (a)
#define vhighs(a, b) (b)
#define vturns_low(a, b) (a)
#define vturns_high(a, b) (b)
#define vlower(a, b, s) (a)
#define vupper(a, b, s) (b)
#endif

#if VL <= 4
#define vruns_even(a, b) vevens(a, b)
#define vruns_odd(a, b) vodds(a, b)
#endif

/* A round of transposition: vectors i and i + s exchange lanes. Rounds with s = 1, 2, 4, ... turn a square. */
#define EXCHANGE(v, n, s) \
    for (int i = 0; i < (n); i++) \
        if (!(i & (s))) { \
            const vf lower = vlower((v)[i], (v)[i + (s)], s); \
            (v)[i + (s)] = vupper((v)[i], (v)[i + (s)], s); \
            (v)[i] = lower; \
        }
/* A round of sums: the same, added up, so that half as many vectors remain. */
#define ADD_PAIRS(v, n, s) \
    for (int i = 0; i < (n) / 2; i++) (v)[i] = vlower((v)[2 * i], (v)[2 * i + 1], s) + vupper((v)[2 * i], (v)[2 * i + 1], s);

/* The rounds with s = 1 and 2 in one. x86 has instructions that take floats from two vectors by turns, or a half of each, four
   lanes at a time: so eight of them do for four vectors, where EXCHANGE with s = 1 takes two for each vector, twelve in all. */
#if VL >= 4 && REAL_BYTES == 4
#define TURN_OF_FOUR(l, s) (((l) & 1) * VL + ((l) & ~3) + ((l) & 2) / 2 + (s))
#define HALF_OF_FOUR(l, s) (((l) & 2) / 2 * VL + ((l) & ~3) + ((l) & 1) + (s))
#define EVERY_OF_FOUR(l, s) (((l) & 2) / 2 * VL + ((l) & ~3) + ((l) & 1) * 2 + (s))
#define FOURS(order, a, b, s) SHUFFLE(a, b, EACH(order##_OF_FOUR, s))
#define EXCHANGE_FOURS(v, n) \
    for (int i = 0; i < (n); i += 4) { \
        const vf a = FOURS(TURN, (v)[i], (v)[i + 1], 0), b = FOURS(TURN, (v)[i + 2], (v)[i + 3], 0); \
        const vf c = FOURS(TURN, (v)[i], (v)[i + 1], 2), d = FOURS(TURN, (v)[i + 2], (v)[i + 3], 2); \
        (v)[i] = FOURS(HALF, a, b, 0), (v)[i + 1] = FOURS(HALF, a, b, 2); \
        (v)[i + 2] = FOURS(HALF, c, d, 0), (v)[i + 3] = FOURS(HALF, c, d, 2); \
    }
#define ADD_TWO(a, b) (FOURS(EVERY, a, b, 0) + FOURS(EVERY, a, b, 1))
#define ADD_FOURS(v, n) \
    for (int i = 0; i < (n); i += 4) (v)[i / 4] = ADD_TWO(ADD_TWO((v)[i], (v)[i + 1]), ADD_TWO((v)[i + 2], (v)[i + 3]));
#else
#define EXCHANGE_FOURS(v, n) EXCHANGE(v, n, 1) EXCHANGE(v, n, 2)
#define ADD_FOURS(v, n) ADD_PAIRS(v, n, 1) ADD_PAIRS(v, (n) / 2, 2)
#endif

/* v[i][k] <-> v[k][i] in a square of VL vectors. */
ALWAYS_INLINE void convlayers_transpose_square(vf *v) {
#if VL == 2
    EXCHANGE(v, VL, 1)
#endif
#if VL > 2
    EXCHANGE_FOURS(v, VL)
#endif
#if VL > 4
    EXCHANGE(v, VL, 4)
#endif
#if VL > 8
    EXCHANGE(v, VL, 8)
#endif
    (void)v;
}

/* The sum of the lanes of each of VL vectors, as one vector; v is used up. */
ALWAYS_INLINE vf convlayers_square_sums(vf *v) {
#if VL == 2
    ADD_PAIRS(v, VL, 1)
#endif
#if VL > 2
    ADD_FOURS(v, VL)
#endif
#if VL > 4
    ADD_PAIRS(v, VL / 4, 4)
#endif
#if VL > 8
    ADD_PAIRS(v, VL / 8, 8)
#endif
    return v[0];
}

/* All bits set in the first n lanes. */
ALWAYS_INLINE vmask convlayers_first_lanes(ptrdiff_t n) {
#if VL > 1
    const vf number = {EACH(ITSELF, 0)};
    return number < splat(n);
#else
    return n > 0 ? ~(lane)0 : 0;
#endif
}

/* The last n lanes of v, zeros in the others. */
ALWAYS_INLINE vf convlayers_last_lanes(vf v, ptrdiff_t n) {
#if VL > 1
    const vf number = {EACH(ITSELF, 0)};
    return vselect(number >= splat(VL - n), v, splat(0));
#else
    return n > 0 ? v : 0;
#endif
}

/* Every third value from p + which on, of three vectors; and three vectors back by turns, to p. */
ALWAYS_INLINE vf convlayers_third_in(int which, const real *p) {
#if VL > 1
#define THIRD_OF_TWO(l, f) (3 * (l) + (f) < 2 * VL ? 3 * (l) + (f) : 0)
#define THIRD_OF_LAST(l, f) (3 * (l) + (f) < 2 * VL ? (l) : 3 * (l) + (f) - VL)
#define THIRD(f) SHUFFLE(SHUFFLE(a, b, EACH(THIRD_OF_TWO, f)), c, EACH(THIRD_OF_LAST, f))
    const vf a = *(const vf *)p, b = *(const vf *)(p + VL), c = *(const vf *)(p + 2 * VL);
    return which == 0 ? THIRD(0) : which == 1 ? THIRD(1) : THIRD(2);
#else
    return p[which];
#endif
}

ALWAYS_INLINE void convlayers_thirds_out(const vf *v, real *p) {
#if VL > 1
/* Value i of the result is v[i % 3][i / 3]. */
#define TURN_OF_TWO(l, o) (((l) + (o) * VL) % 3 == 1 ? VL + ((l) + (o) * VL) / 3 : ((l) + (o) * VL) / 3)
#define TURN_OF_LAST(l, o) (((l) + (o) * VL) % 3 == 2 ? VL + ((l) + (o) * VL) / 3 : (l))
#define TURN_OF(o) SHUFFLE(SHUFFLE(v[0], v[1], EACH(TURN_OF_TWO, o)), v[2], EACH(TURN_OF_LAST, o))
    *(vf *)p = TURN_OF(0);
    *(vf *)(p + VL) = TURN_OF(1);
    *(vf *)(p + 2 * VL) = TURN_OF(2);
#else
    for (int i = 0; i < 3; i++) p[i] = v[i];
#endif
}

/* Four neighbouring values at each of VL places, as four vectors of one value each: v[p] holds src[place[t] + p]. Which t a
   lane has is the implementation's choice, the same in both functions: lane 4 l + k has t = k VL / 4 + l, which
   `vfours_in_order` undoes. `joined` says that each quarter of the places lies in one piece. */
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

#if VL > 4
#define PLACE_OF_FOUR(t, s) (4 * ((t) % (VL / 4)) + (t) / (VL / 4))
#define vfours_in_order(v) SHUFFLE(v, v, EACH(PLACE_OF_FOUR, 0))
#else
#define vfours_in_order(v) (v)
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
    EXCHANGE_FOURS(v, 4)
#else
    (void)joined;
    for (int i = 0; i < 4; i++)
        for (int t = 0; t < VL; t++) ((real *)v)[i * VL + t] = src[place[t] + i];
#endif
}

ALWAYS_INLINE void convlayers_store_fours(real *dst, const ptrdiff_t *place, int joined, const vf *v) {
#if VL >= 4
    vf w[4] = {v[0], v[1], v[2], v[3]};
    EXCHANGE_FOURS(w, 4)
    for (int i = 0; i < 4; i++) {
        real *quarter = dst + place[i * (VL / 4)];
        if (joined || VL == 4)
            *(vf *)quarter = w[i];
        else
            for (int t = 0; t < VL / 4; t++) memcpy(dst + place[i * (VL / 4) + t], (const real *)(w + i) + 4 * t, 4 * sizeof(real));
    }
#else
    (void)joined;
    for (int i = 0; i < 4; i++)
        for (int t = 0; t < VL; t++) dst[place[t] + i] = ((const real *)v)[i * VL + t];
#endif
}

#endif
