/* What a kernel module calls in place of libgomp's functions (team.h). */

#ifndef CONVLAYERS_OPENMP_H
#define CONVLAYERS_OPENMP_H

#include "team.h"

#if CONVLAYERS_OWN_THREADS

#define CONVLAYERS_WITHIN __attribute__((visibility("hidden")))

static const convlayers_threads *convlayers_pool;

/* One thread needs no team: a relu of 16 values took 0.4 us, with libgomp's team of one 1.2. */
CONVLAYERS_WITHIN void GOMP_parallel(void (*body)(void *), void *data, unsigned threads, unsigned flags) {
    (void) flags;
    if (threads == 1)
        body(data);
    else
        convlayers_pool->run(body, data, (int) threads);
}

CONVLAYERS_WITHIN void GOMP_barrier(void) {
    convlayers_pool->wait_for_all();
}

CONVLAYERS_WITHIN int omp_get_thread_num(void) {
    return convlayers_pool->number();
}

CONVLAYERS_WITHIN int omp_get_num_threads(void) {
    return convlayers_pool->count();
}

/* For a region that does not say how many threads it wants, of which there is none. */
CONVLAYERS_WITHIN int omp_get_max_threads(void) {
    return 1;
}

#define convlayers_use_threads(of) (convlayers_pool = (of))
#else
#define convlayers_use_threads(of) ((void) (of))
#endif

/* Until all threads are here: Cython's loops do not wait for each other (`omp for nowait`), but where GCC happens to. */
static void convlayers_wait_for_all(void) {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

#endif
