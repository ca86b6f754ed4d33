/* Units of work handed out to threads. Each has a share of neighbouring units, the same at every call, so that it finds in its
   own caches what it wrote there as the layer before; whoever is done takes units of others, so that nobody waits for a core
   that does something else meanwhile. No result depends on who computes a unit. */

#ifndef CONVLAYERS_SHARES_H
#define CONVLAYERS_SHARES_H

#include <stddef.h>

#ifdef _MSC_VER
#include <intrin.h>
typedef volatile __int64 convlayers_counter;
#define counter_start(c, value) (*(c) = (value))
#define counter_value(c) (*(c))
#define counter_move(c, from, to) (_InterlockedCompareExchange64(c, to, from) == (from))
#else
#include <stdatomic.h>
typedef _Atomic ptrdiff_t convlayers_counter;
#define counter_start(c, value) atomic_init(c, value)
#define counter_value(c) atomic_load_explicit(c, memory_order_relaxed)
#define counter_move(c, from, to) \
    atomic_compare_exchange_strong_explicit(c, &(from), to, memory_order_relaxed, memory_order_relaxed)
#endif

#define CONVLAYERS_MOST_SHARES 32 /* of more threads, some have one together */

typedef struct {
    convlayers_counter next;
    ptrdiff_t end;
    char line[128 - 2 * sizeof(ptrdiff_t)]; /* apart: cores would take turns with a line of the cache that they share */
} convlayers_share;

typedef struct {
    int count;
    convlayers_share of[CONVLAYERS_MOST_SHARES];
} convlayers_shares;

typedef struct {
    ptrdiff_t first, end;
} convlayers_units;

static int convlayers_share_count(int threads) {
    return threads < CONVLAYERS_MOST_SHARES ? threads : CONVLAYERS_MOST_SHARES;
}

static ptrdiff_t convlayers_share_start(int share, ptrdiff_t units, int threads) {
    return units * share / convlayers_share_count(threads);
}

/* The share that a unit is in. */
static int convlayers_share_of(ptrdiff_t unit, ptrdiff_t units, int threads) {
    return (int) (((unit + 1) * convlayers_share_count(threads) - 1) / units);
}

static void convlayers_share_out(convlayers_shares *s, ptrdiff_t units, int threads) {
    int i;
    s->count = convlayers_share_count(threads);
    for (i = 0; i < s->count; i++) {
        counter_start(&s->of[i].next, convlayers_share_start(i, units, threads));
        s->of[i].end = convlayers_share_start(i + 1, units, threads);
    }
}

/* Units for this thread, none where none is left: half of a share's rest at a time, since each time all stores must be done,
   which small units would wait for longer than they take. */
static convlayers_units convlayers_next_units(convlayers_shares *s, int thread) {
    convlayers_units units;
    int i;
    for (i = 0; i < s->count; i++) {
        convlayers_share *share = s->of + (thread + i) % s->count;
        units.first = counter_value(&share->next);
        while (units.first < share->end) {
            units.end = units.first + (share->end - units.first + 1) / 2;
            if (counter_move(&share->next, units.first, units.end)) return units;
            units.first = counter_value(&share->next);
        }
    }
    units.first = units.end = 0;
    return units;
}

#endif
