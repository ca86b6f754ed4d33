/* The pool of threads of a process: it grows to what a kernel asks for, and no kernel waits for another one's threads.

   A kernel takes the threads that nobody has, the first ones first, so that a thread gets the same share of the work at every
   call. While other threads of Python compute too, it takes a part of the cores alone. A thread that has not begun when the
   caller is done, since it sleeps or its core computes something else, is not waited for, but within kernels that wait for all:
   the caller does its part too. Results do not depend on any of it. */

#ifndef CONVLAYERS_POOL_H
#define CONVLAYERS_POOL_H

#include "team.h"

#if CONVLAYERS_OWN_THREADS

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_futex /* where time has 64 bits alone */
#define SYS_futex SYS_futex_time64
#endif

#define CONVLAYERS_MOST_WORKERS 1023
#define CONVLAYERS_LINES 128  /* bytes: processors fetch two lines of the cache together */
#define CONVLAYERS_LOOKS 100  /* before a core is offered to others: 1 to 4 us */
#define CONVLAYERS_IDLE 3e5   /* ns before a thread without work sleeps; waking it takes about 50 us */
#define CONVLAYERS_WAIT 5e6   /* ns before one that waits for others' work does */
#define CONVLAYERS_TAKEN 2e4  /* ns that an offered core is away, if somebody took it */
#define CONVLAYERS_SHARED 5   /* ms for which cores are left to another thread of Python */

typedef struct {
    void (*body)(void *);
    void *data;
    int count;
    char apart[CONVLAYERS_LINES];
    atomic_int arrived; /* where all wait for all */
    atomic_int round, sleepers;
} convlayers_team;

enum { IDLE, CALLED, AT_WORK };

typedef struct convlayers_worker {
    atomic_int state, sleepers;
    atomic_int taken;
    int number; /* in its team */
    convlayers_team *team;
    struct convlayers_worker *next; /* in its team */
} convlayers_worker;

static convlayers_worker *workers[CONVLAYERS_MOST_WORKERS];
static atomic_int worker_count, worker_limit = CONVLAYERS_MOST_WORKERS;
static atomic_int teams; /* that compute */
static atomic_ulong shared_until; /* ms; 0 if nobody shares */
static int cores = 1; /* that the process may use */
static pthread_mutex_t starting = PTHREAD_MUTEX_INITIALIZER;
static __thread convlayers_team *team_here;
static __thread int number_here;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return 1e9 * time.tv_sec + time.tv_nsec;
}

static inline void pause_here(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

/* While `word` has this value, or until something woke the thread: look, then look and offer the core to others, then sleep, at
   once if others took it. Offers alone do not do: Linux runs who made many of them after all others. */
static void wait_some(atomic_int *word, int value, atomic_int *sleepers, double awake) {
    double start = 0, before, after = 0;
    int looks;
    for (looks = 0; looks < CONVLAYERS_LOOKS; looks++) {
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        pause_here();
    }
    start = after = now();
    do {
        before = after;
        sched_yield();
        if (atomic_load_explicit(word, memory_order_acquire) != value) return;
        after = now();
    } while (after - before < CONVLAYERS_TAKEN && after - start < awake);
    atomic_fetch_add(sleepers, 1);
    if (atomic_load(word) == value) syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
    atomic_fetch_sub(sleepers, 1);
}

static void change(atomic_int *word, int value, atomic_int *sleepers) {
    atomic_store(word, value);
    if (atomic_load(sleepers)) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Whether the worker has begun now, or its caller has called it off. */
static int moved(convlayers_worker *worker, int to) {
    int called = CALLED;
    return atomic_compare_exchange_strong(&worker->state, &called, to);
}

static void *work(void *of) {
    convlayers_worker *self = of;
    for (;;) {
        wait_some(&self->state, IDLE, &self->sleepers, CONVLAYERS_IDLE);
        if (!moved(self, AT_WORK)) continue;
        team_here = self->team;
        number_here = self->number;
        team_here->body(team_here->data);
        change(&self->state, IDLE, &self->sleepers);
    }
    return NULL;
}

/* A new thread, which the caller has taken; NULL where there cannot be another one. Signals are for the program's threads, but
   for those that say what a thread did wrong itself. */
static convlayers_worker *new_worker(void) {
    void *made;
    pthread_t thread;
    sigset_t all, before;
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    int failed, i;
    if (posix_memalign(&made, CONVLAYERS_LINES, CONVLAYERS_LINES)) return NULL;
    *(convlayers_worker *) made = (convlayers_worker){.taken = 1};
    sigfillset(&all);
    for (i = 0; i < (int) (sizeof own / sizeof *own); i++) sigdelset(&all, own[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    failed = pthread_create(&thread, NULL, work, made);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) {
        free(made);
        return NULL;
    }
    pthread_detach(thread);
    return made;
}

/* One more for the pool, if it has fewer than `most`; where the system refuses, nobody asks again. */
static convlayers_worker *add_worker(int most) {
    convlayers_worker *worker = NULL;
    int count;
    pthread_mutex_lock(&starting);
    count = atomic_load(&worker_count);
    if (count < most) {
        worker = new_worker();
        if (worker) {
            workers[count] = worker;
            atomic_store(&worker_count, count + 1);
        } else
            atomic_store(&worker_limit, count);
    }
    pthread_mutex_unlock(&starting);
    return worker;
}

static int take(convlayers_worker *worker) {
    int taken = 0;
    return !atomic_load_explicit(&worker->taken, memory_order_relaxed) &&
           atomic_compare_exchange_strong(&worker->taken, &taken, 1);
}

/* How many threads a team may have of those that it asks for: all, unless another thread of Python computes, or did lately. */
static int fair_share(int threads) {
    int others = atomic_load_explicit(&teams, memory_order_relaxed), share;
    unsigned long time, until = atomic_load_explicit(&shared_until, memory_order_relaxed);
    if (!others && !until) return threads;
    time = (unsigned long) (long long) (now() / 1e6);
    if (others)
        atomic_store_explicit(&shared_until, (time + CONVLAYERS_SHARED) | 1, memory_order_relaxed);
    else if ((long) (until - time) <= 0) {
        atomic_store_explicit(&shared_until, 0, memory_order_relaxed);
        return threads;
    } else
        others = 1;
    share = cores / (others + 1) > 1 ? cores / (others + 1) : 1;
    return threads < share ? threads : share;
}

static convlayers_worker **join_team(convlayers_team *team, convlayers_worker *worker, convlayers_worker **end) {
    worker->team = team;
    worker->number = team->count++;
    worker->next = NULL;
    *end = worker;
    return &worker->next;
}

/* The members of a team of up to `threads`, the caller not among them. */
static convlayers_worker *form(convlayers_team *team, int threads) {
    convlayers_worker *first = NULL, **end = &first, *worker;
    int i, limit = atomic_load_explicit(&worker_limit, memory_order_relaxed), most = threads > cores ? threads : cores;
    threads = fair_share(threads);
    if (threads > limit + 1) threads = limit + 1;
    for (i = 0; i < atomic_load(&worker_count) && team->count < threads; i++)
        if (take(workers[i])) end = join_team(team, workers[i], end);
    while (team->count < threads && (worker = add_worker(most - 1))) end = join_team(team, worker, end);
    return first;
}

/* Does the parts of those that have not begun. */
static void stand_in(convlayers_team *team, convlayers_worker *members) {
    for (; members; members = members->next) {
        if (!moved(members, IDLE)) continue;
        number_here = members->number;
        team->body(team->data);
    }
}

static void dismiss(convlayers_worker *members) {
    convlayers_worker *worker;
    while ((worker = members)) {
        while (atomic_load(&worker->state) != IDLE) wait_some(&worker->state, AT_WORK, &worker->sleepers, CONVLAYERS_WAIT);
        members = worker->next;
        atomic_store_explicit(&worker->taken, 0, memory_order_release);
    }
}

static void run(void (*body)(void *), void *data, int threads) {
    convlayers_team team = {.body = body, .data = data, .count = 1}, *outer = team_here;
    convlayers_worker *members = form(&team, threads), *worker;
    int number = number_here;
    atomic_fetch_add(&teams, 1);
    for (worker = members; worker; worker = worker->next) change(&worker->state, CALLED, &worker->sleepers);
    team_here = &team;
    number_here = 0;
    body(data);
    stand_in(&team, members);
    dismiss(members);
    atomic_fetch_sub(&teams, 1);
    team_here = outer;
    number_here = number;
}

static void wait_for_all(void) {
    convlayers_team *team = team_here;
    int round;
    if (!team || team->count == 1) return;
    round = atomic_load_explicit(&team->round, memory_order_relaxed);
    if (atomic_fetch_add(&team->arrived, 1) + 1 < team->count) {
        while (atomic_load(&team->round) == round) wait_some(&team->round, round, &team->sleepers, CONVLAYERS_WAIT);
        return;
    }
    atomic_store_explicit(&team->arrived, 0, memory_order_relaxed);
    change(&team->round, round + 1, &team->sleepers);
}

static int thread_number(void) {
    return team_here ? number_here : 0;
}

static int thread_count(void) {
    return team_here ? team_here->count : 1;
}

/* A forked process has the calling thread alone. */
static void forget_workers(void) {
    atomic_store(&worker_count, 0);
    atomic_store(&teams, 0);
    pthread_mutex_init(&starting, NULL);
}

static const convlayers_threads pool = {run, wait_for_all, thread_number, thread_count};

static const convlayers_threads *open_pool(void) {
    pthread_atfork(NULL, NULL, forget_workers);
    return &pool;
}

#endif
#endif
