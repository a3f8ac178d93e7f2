/* timers.c: one-shot, repeating and re-armed timers; one that does not keep the program alive.
 *
 * Build:  cc timers.c $(pkg-config --cflags --libs kolo) -o timers
 * Try:    ./timers       it ends by itself after a good half second */
#include <kolo.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const uint64_t MILLISECOND_NS = UINT64_C(1000000);

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "timers: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

struct program {
    uint64_t started_ns;
    int ticks;
    kolo_timer watchdog, tick, never;
};

/* Timers never fire early, so the printed times are at least those asked for. */
static void print(kolo_loop *loop, struct program *program, const char *what)
{
    uint64_t now_ns;
    check(kolo_loop_now(loop, &now_ns), "ask for the time");
    printf("%4" PRIu64 " ms  %s\n", (now_ns - program->started_ns) / MILLISECOND_NS, what);
}

static void on_once(kolo_loop *loop, kolo_timer timer, void *user)
{
    print(loop, user, "once: fired");
    check(kolo_close(loop, timer), "close a timer"); /* also possible later, or never: kolo_loop_free closes it */
}

static void on_tick(kolo_loop *loop, kolo_timer timer, void *user)
{
    struct program *program = user;
    uint64_t missed;
    char line[64];
    /* Periods that passed while the program was busy are skipped, not made up; the next ones keep to the beat. */
    check(kolo_timer_overrun(loop, timer, &missed), "ask for the missed periods");
    program->ticks++;
    snprintf(line, sizeof line, "tick %d%s", program->ticks, missed > 0 ? " (late: some were skipped)" : "");
    print(loop, program, line);
    /* Starting a running timer moves it: as long as the ticks go on, the watchdog does not bark. */
    check(kolo_timer_start(loop, program->watchdog, 250 * MILLISECOND_NS, 0), "re-arm the watchdog");
    if (program->ticks == 4) {
        check(kolo_timer_stop(loop, timer), "stop the ticks");
        print(loop, program, "ticks stopped");
    }
}

static void on_silence(kolo_loop *loop, kolo_timer timer, void *user)
{
    struct program *program = user;
    uint64_t left_ns;
    (void)timer;
    print(loop, program, "watchdog: no tick for 250 ms");
    check(kolo_timer_remaining(loop, program->never, &left_ns), "ask for the remaining time");
    printf("         the timer of one hour has %s left, but nothing waits for it\n",
           left_ns > 3000 * UINT64_C(1000) * MILLISECOND_NS ? "most of its time" : "little time");
}

static void on_never(kolo_loop *loop, kolo_timer timer, void *user)
{
    (void)timer;
    print(loop, user, "this program has run for an hour");
}

int main(void)
{
    struct program program = {0};
    kolo_loop *loop;
    kolo_timer once;

    check(kolo_loop_new(NULL, &loop), "create the loop");
    check(kolo_loop_now(loop, &program.started_ns), "ask for the time");

    check(kolo_timer_open(loop, on_once, &program, &once), "open a timer");
    check(kolo_timer_start(loop, once, 50 * MILLISECOND_NS, 0), "start a timer");

    check(kolo_timer_open(loop, on_tick, &program, &program.tick), "open a timer");
    check(kolo_timer_start(loop, program.tick, 80 * MILLISECOND_NS, 80 * MILLISECOND_NS), "start a timer");

    check(kolo_timer_open(loop, on_silence, &program, &program.watchdog), "open a timer");
    check(kolo_timer_start(loop, program.watchdog, UINT64_C(10000) * MILLISECOND_NS, 0), "start a timer");

    check(kolo_timer_open(loop, on_never, &program, &program.never), "open a timer");
    check(kolo_timer_start(loop, program.never, UINT64_C(3600000) * MILLISECOND_NS, 0), "start a timer");
    check(kolo_unref(loop, program.never), "let the loop end without it");

    /* Returns when nothing is left to wait for: the one-shot timer closed, the ticks stopped, the watchdog fired. */
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    print(loop, &program, "the loop has ended");
    check(kolo_loop_free(loop), "free the loop");
    return 0;
}
