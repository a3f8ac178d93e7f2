/* post.c: worker threads hand their results to the loop.
 *
 * Build:  cc post.c -pthread $(pkg-config --cflags --libs kolo) -o post
 * Try:    ./post         four threads count primes, the loop adds up and shows how far they are
 *
 * A thread never touches the loop. It holds a kolo_remote, through which it may post a function that the loop runs on
 * its own thread: in order, none merged with another. So what the loop adds up needs no lock. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WORKERS = 4, SLICES = 25, SLICE_NUMBERS = 10000 }; /* the numbers below a million */

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "post: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

struct total { /* the loop's own: only its thread looks at it */
    int primes, results, workers_done;
    kolo_timer progress;
};

struct worker {
    int number;
    pthread_t thread;
    kolo_remote *remote;
    struct total *total;
};

struct result {
    int primes;
    bool last;
    struct worker *worker;
};

/* On the loop's thread. KOLO_ECANCELED comes when the loop is freed before it got to this: what was posted is ours to
 * free all the same. */
static void on_result(kolo_loop *loop, int status, void *user)
{
    struct result *result = user;
    struct total *total = result->worker->total;
    if (status == 0) {
        total->primes += result->primes;
        total->results++;
        if (result->last && ++total->workers_done == WORKERS)
            check(kolo_close(loop, total->progress), "close the timer"); /* the last handle: the loop ends */
    }
    free(result);
}

/* A queue with a bound: when the loop cannot keep up, KOLO_ENOBUFS says so and the worker waits. */
static void post_result(struct worker *worker, int primes, bool last)
{
    struct result *result = malloc(sizeof *result);
    int status;
    if (result == NULL)
        exit(1);
    *result = (struct result){primes, last, worker};
    while ((status = kolo_remote_post(worker->remote, on_result, result)) == KOLO_ENOBUFS) {
        struct timespec millisecond = {0, 1000000};
        nanosleep(&millisecond, NULL);
    }
    if (status == KOLO_ECANCELED) /* the loop is gone, and nobody wants to know any more */
        free(result);
    else
        check(status, "post a result");
}

static bool is_prime(int number)
{
    for (int divisor = 2; divisor * divisor <= number; divisor++)
        if (number % divisor == 0)
            return false;
    return number >= 2;
}

static void *work(void *argument)
{
    struct worker *worker = argument;
    for (int slice = 0; slice < SLICES; slice++) {
        int first = (slice * WORKERS + worker->number) * SLICE_NUMBERS, primes = 0;
        for (int number = first; number < first + SLICE_NUMBERS; number++)
            primes += is_prime(number);
        post_result(worker, primes, slice == SLICES - 1);
    }
    check(kolo_remote_release(worker->remote), "release the remote");
    return NULL;
}

static void on_progress(kolo_loop *loop, kolo_timer timer, void *user)
{
    struct total *total = user;
    (void)loop, (void)timer;
    printf("%d of %d results: %d primes so far\n", total->results, WORKERS * SLICES, total->primes);
}

int main(void)
{
    kolo_loop *loop;
    struct total total = {0, 0, 0, 0};
    struct worker workers[WORKERS];
    const uint64_t period_ns = UINT64_C(50000000);

    check(kolo_loop_new(NULL, &loop), "create the loop");
    check(kolo_timer_open(loop, on_progress, &total, &total.progress), "open a timer");
    check(kolo_timer_start(loop, total.progress, period_ns, period_ns), "start the timer"); /* keeps the loop alive, too */
    for (int i = 0; i < WORKERS; i++) {
        workers[i].number = i;
        workers[i].total = &total;
        check(kolo_loop_remote(loop, &workers[i].remote), "get a remote"); /* a reference for each thread */
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
            fputs("post: cannot create a thread\n", stderr);
            return 1;
        }
    }
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    for (int i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
    printf("%d results: %d primes below %d\n", total.results, total.primes, WORKERS * SLICES * SLICE_NUMBERS);
    check(kolo_loop_free(loop), "free the loop");
    return 0;
}
