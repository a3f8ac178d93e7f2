/* signals.c: signals as ordinary events. Counts some, and ends on SIGTERM.
 *
 * Build:  cc signals.c $(pkg-config --cflags --libs kolo) -o signals
 * Try:    ./signals      press Ctrl-C a few times; then, from another terminal: kill -USR1 PID; kill PID
 *
 * The callbacks run on the loop, between other callbacks: they may do anything, unlike a signal handler. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "signals: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

struct counter {
    const char *name;
    int number;
    int count;
    kolo_signal handle;
};

static struct counter counters[] = {
    {"SIGINT", SIGINT, 0, 0}, {"SIGHUP", SIGHUP, 0, 0}, {"SIGUSR1", SIGUSR1, 0, 0}, {"SIGUSR2", SIGUSR2, 0, 0}};
enum { COUNTERS = sizeof counters / sizeof counters[0] };

/* The system itself merges signals of one number that come before the first was delivered: a count is a lower bound. */
static void on_counted(kolo_loop *loop, kolo_signal signal_handle, int number, void *user)
{
    struct counter *counter = user;
    (void)loop, (void)signal_handle, (void)number;
    counter->count++;
    printf("%s: %d so far\n", counter->name, counter->count);
    fflush(stdout);
}

static void on_terminate(kolo_loop *loop, kolo_signal signal_handle, int number, void *user)
{
    (void)number, (void)user;
    for (size_t i = 0; i < COUNTERS; i++) {
        printf("%s: %d\n", counters[i].name, counters[i].count);
        /* With its last handle closed, a signal does again what it did before. */
        check(kolo_close(loop, counters[i].handle), "close a signal handle");
    }
    check(kolo_close(loop, signal_handle), "close a signal handle"); /* the last one: the loop ends */
}

int main(void)
{
    kolo_loop *loop;
    kolo_signal terminate;

    check(kolo_loop_new(NULL, &loop), "create the loop");
    for (size_t i = 0; i < COUNTERS; i++) {
        check(kolo_signal_open(loop, on_counted, &counters[i], &counters[i].handle), "open a signal handle");
        check(kolo_signal_start(loop, counters[i].handle, counters[i].number), counters[i].name);
    }
    check(kolo_signal_open(loop, on_terminate, NULL, &terminate), "open a signal handle");
    check(kolo_signal_start(loop, terminate, SIGTERM), "SIGTERM");
    printf("process %ld waits for signals; end it with SIGTERM\n", (long)getpid());
    fflush(stdout);

    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    return 0;
}
