/* What runs a kernel's loops on several threads.

   GCC makes of Cython's `parallel` and `prange` calls of five functions of its OpenMP runtime, libgomp. On Linux the kernels
   bring their own (pool.h has the threads): libgomp lets whoever waits spin for milliseconds, so that two processes of two
   threads each on two cores wait for each other's slices of time. A training step of `resnet20` took 80 times as long as alone,
   where 2 would be fair. Nor has libgomp threads after a fork, and a slim system has no libgomp. Other compilers call
   other functions, for which nothing here matters. */

#ifndef CONVLAYERS_TEAM_H
#define CONVLAYERS_TEAM_H

#if defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define CONVLAYERS_OWN_THREADS 1
#else
#define CONVLAYERS_OWN_THREADS 0
#endif

typedef struct {
    void (*run)(void (*body)(void *), void *data, int threads);
    void (*wait_for_all)(void);
    int (*number)(void); /* of the calling thread in its team */
    int (*count)(void);  /* threads in its team */
} convlayers_threads;

#endif
