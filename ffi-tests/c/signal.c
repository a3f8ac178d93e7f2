/* Signals: any number of handles per signal, any number of loops, and the old disposition back at the end. */
#include "harness.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

typedef struct record {
    kolo_signal handle;
    int calls;
    int last;
    bool stop;
    bool close;
    kolo_signal close_other;
} record;

static void note(kolo_loop *loop, kolo_signal signal, int number, void *user) {
    record *me = user;
    CHECK(signal == me->handle);
    me->calls++;
    me->last = number;
    if (me->stop) CHECK_OK(kolo_signal_stop(loop, signal));
    if (me->close) CHECK_OK(kolo_close(loop, signal));
    if (me->close_other != 0) CHECK_OK(kolo_close(loop, me->close_other));
}

static void open_record(kolo_loop *loop, record *me, int number) {
    memset(me, 0, sizeof *me);
    CHECK_OK(kolo_signal_open(loop, note, me, &me->handle));
    CHECK_INT(kolo_is_active(loop, me->handle), 0);
    if (number == 0) return;
    CHECK_OK(kolo_signal_start(loop, me->handle, number));
    CHECK_INT(kolo_is_active(loop, me->handle), 1);
}

TEST(raise_comes_to_the_callback) {
    record one;
    open_record(loop, &one, SIGUSR1);
    CHECK_INT(raise(SIGUSR1), 0);
    CHECK_INT(one.calls, 0); /* inside kolo_loop_run only */
    RUN_UNTIL(loop, one.calls == 1);
    CHECK_INT(one.last, SIGUSR1);
    SYSTEM(kill(getpid(), SIGUSR1));
    RUN_UNTIL(loop, one.calls == 2);
}

TEST(common_signals_can_be_watched) {
    static const int numbers[] = {SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD,
                                  SIGPIPE, SIGALRM, SIGCONT, SIGTSTP, SIGWINCH, SIGURG};
    enum { COUNT = sizeof numbers / sizeof numbers[0] };
    record records[COUNT];
    for (int i = 0; i < COUNT; i++) open_record(loop, &records[i], numbers[i]);
    for (int i = 0; i < COUNT; i++) {
        CHECK_INT(raise(numbers[i]), 0);
        RUN_UNTIL(loop, records[i].calls == 1);
        CHECK_INT(records[i].last, numbers[i]);
    }
    for (int i = 0; i < COUNT; i++) CHECK_INT(records[i].calls, 1); /* each heard its own only */
}

TEST(real_time_signals_can_be_watched) {
    record one;
    open_record(loop, &one, SIGRTMIN + 3);
    CHECK_INT(raise(SIGRTMIN + 3), 0);
    RUN_UNTIL(loop, one.calls == 1);
    CHECK_INT(one.last, SIGRTMIN + 3);
}

TEST(several_handles_for_one_signal) {
    record records[10];
    for (int i = 0; i < 10; i++) open_record(loop, &records[i], SIGUSR2);
    CHECK_INT(raise(SIGUSR2), 0);
    for (int i = 0; i < 10; i++) RUN_UNTIL(loop, records[i].calls == 1);
    CHECK_OK(kolo_signal_stop(loop, records[3].handle)); /* the others go on */
    CHECK_OK(kolo_close(loop, records[4].handle));
    CHECK_INT(raise(SIGUSR2), 0);
    RUN_UNTIL(loop, records[9].calls == 2);
    run_some_turns(loop);
    for (int i = 0; i < 10; i++) CHECK_INT(records[i].calls, i == 3 || i == 4 ? 1 : 2);
}

TEST(several_raises_may_come_as_one) {
    record one;
    open_record(loop, &one, SIGUSR1);
    for (int i = 0; i < 1000; i++) CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loop, one.calls >= 1);
    run_some_turns(loop);
    CHECK(one.calls <= 1000);
}

TEST(start_moves_to_another_signal) {
    record one, keeper;
    open_record(loop, &keeper, SIGUSR1); /* so that SIGUSR1 still has a handler */
    open_record(loop, &one, SIGUSR1);
    CHECK_OK(kolo_signal_start(loop, one.handle, SIGUSR2));
    CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loop, keeper.calls == 1);
    run_some_turns(loop);
    CHECK_INT(one.calls, 0);
    CHECK_INT(raise(SIGUSR2), 0);
    RUN_UNTIL(loop, one.calls == 1);
    CHECK_INT(one.last, SIGUSR2);
}

TEST(stop_and_start_again) {
    record one, keeper;
    open_record(loop, &keeper, SIGUSR1);
    open_record(loop, &one, SIGUSR1);
    CHECK_OK(kolo_signal_stop(loop, one.handle));
    CHECK_OK(kolo_signal_stop(loop, one.handle));
    CHECK_INT(kolo_is_active(loop, one.handle), 0);
    CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loop, keeper.calls == 1);
    run_some_turns(loop);
    CHECK_INT(one.calls, 0);
    CHECK_OK(kolo_signal_start(loop, one.handle, SIGUSR1));
    CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loop, one.calls == 1);
}

TEST(a_signal_that_waits_is_not_heard_after_stop) {
    record one, keeper;
    open_record(loop, &keeper, SIGUSR1);
    open_record(loop, &one, SIGUSR1);
    CHECK_INT(raise(SIGUSR1), 0);
    CHECK_OK(kolo_signal_stop(loop, one.handle));
    RUN_UNTIL(loop, keeper.calls == 1);
    run_some_turns(loop);
    CHECK_INT(one.calls, 0);
}

TEST(stopping_and_closing_itself_in_its_callback) {
    record stopping, closing;
    open_record(loop, &stopping, SIGUSR1);
    open_record(loop, &closing, SIGUSR1);
    stopping.stop = true;
    closing.close = true;
    CHECK_INT(raise(SIGUSR1), 0);
    run_to_end(loop);
    CHECK_INT(stopping.calls, 1);
    CHECK_INT(closing.calls, 1);
}

TEST(closing_a_neighbour_that_hears_the_same_signal) {
    record first, second;
    open_record(loop, &first, SIGUSR1);
    open_record(loop, &second, SIGUSR1);
    first.close_other = second.handle;
    second.close_other = first.handle;
    CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loop, first.calls + second.calls > 0);
    run_some_turns(loop);
    CHECK_INT(first.calls + second.calls, 1);
}

TEST(signals_that_cannot_be_watched) {
    static const int numbers[] = {SIGKILL, SIGSTOP, SIGSEGV, SIGFPE, SIGILL, SIGBUS, 0, -1, 65, 1000, -15};
    record one;
    open_record(loop, &one, 0);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction before, after;
        bool real = numbers[i] > 0 && numbers[i] < 65;
        if (real) SYSTEM(sigaction(numbers[i], NULL, &before));
        CHECK_ERROR(kolo_signal_start(loop, one.handle, numbers[i]), KOLO_EINVAL);
        CHECK_INT(kolo_is_active(loop, one.handle), 0);
        if (real) SYSTEM(sigaction(numbers[i], NULL, &after));
        if (real) CHECK(before.sa_handler == after.sa_handler);
    }
}

TEST(starting_without_descriptors) {
    record one;
    struct rlimit limit, before;
    if (getenv("KOLO_TEST_VALGRIND") != NULL) {
        printf("    valgrind hands descriptors out beyond the limit, and closes them: not tried\n");
        return;
    }
    open_record(loop, &one, 0);
    SYSTEM(getrlimit(RLIMIT_NOFILE, &before));
    limit = before;
    int lowest = SYSTEM(dup(0));
    SYSTEM(close(lowest));
    limit.rlim_cur = (rlim_t)lowest; /* no descriptor more */
    SYSTEM(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK_ERROR(kolo_signal_start(loop, one.handle, SIGUSR1), KOLO_EMFILE);
    CHECK_INT(kolo_is_active(loop, one.handle), 0);
    SYSTEM(setrlimit(RLIMIT_NOFILE, &before));
    CHECK_OK(kolo_signal_start(loop, one.handle, SIGUSR1));
    CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loop, one.calls == 1);
}

TEST_WITHOUT_LOOP(more_loops_than_can_watch_signals) {
    enum { MOST = 256 };
    static kolo_loop *loops[MOST + 1];
    static record records[MOST + 1];
    struct rlimit limit;
    SYSTEM(getrlimit(RLIMIT_NOFILE, &limit));
    if (limit.rlim_cur < 4096) {
        limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096; /* a loop needs a few descriptors */
        SYSTEM(setrlimit(RLIMIT_NOFILE, &limit));
    }
    for (int i = 0; i <= MOST; i++) {
        CHECK_OK(kolo_loop_new(NULL, &loops[i]));
        open_record(loops[i], &records[i], 0);
        CHECK_ERROR(kolo_signal_start(loops[i], records[i].handle, SIGUSR1), i < MOST ? KOLO_OK : KOLO_ENOBUFS);
    }
    CHECK_INT(kolo_is_active(loops[MOST], records[MOST].handle), 0);
    CHECK_INT(raise(SIGUSR1), 0);
    for (int i = 0; i < MOST; i++) RUN_UNTIL(loops[i], records[i].calls == 1);
    CHECK_OK(kolo_loop_free(loops[0]));
    CHECK_OK(kolo_signal_start(loops[MOST], records[MOST].handle, SIGUSR1)); /* the place of the first */
    CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loops[MOST], records[MOST].calls == 1);
    for (int i = 1; i <= MOST; i++) CHECK_OK(kolo_loop_free(loops[i]));
}

/* ---- the disposition ---- */

static int old_handler_calls;
static void old_handler(int number) {
    (void)number;
    old_handler_calls++;
}

static struct sigaction disposition(int number) {
    struct sigaction now;
    memset(&now, 0, sizeof now);
    SYSTEM(sigaction(number, NULL, &now));
    return now;
}

static void check_same(const struct sigaction *got, const struct sigaction *want) {
    CHECK(got->sa_handler == want->sa_handler);
    CHECK_INT(got->sa_flags & ~0x04000000, want->sa_flags & ~0x04000000); /* SA_RESTORER is the C library's own */
    /* The thread sanitizer stands between: what it gives back of a mask is its own. */
    if (getenv("KOLO_SANITIZER") != NULL && strcmp(getenv("KOLO_SANITIZER"), "thread") == 0) return;
    for (int number = 1; number < 65; number++)
        CHECK_INT(sigismember(&got->sa_mask, number), sigismember(&want->sa_mask, number));
}

static void set_old_handler(void) {
    struct sigaction old;
    memset(&old, 0, sizeof old);
    old.sa_handler = old_handler;
    old.sa_flags = SA_RESTART | SA_NODEFER;
    sigemptyset(&old.sa_mask);
    sigaddset(&old.sa_mask, SIGHUP);
    SYSTEM(sigaction(SIGUSR1, &old, NULL));
}

TEST(the_old_handler_is_back_when_the_last_one_stops) {
    record first, second;
    set_old_handler();
    struct sigaction before = disposition(SIGUSR1), now;
    open_record(loop, &first, SIGUSR1);
    open_record(loop, &second, SIGUSR1);
    CHECK(disposition(SIGUSR1).sa_handler != old_handler);
    CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loop, first.calls == 1 && second.calls == 1);
    CHECK_INT(old_handler_calls, 0);
    CHECK_OK(kolo_close(loop, first.handle));
    CHECK(disposition(SIGUSR1).sa_handler != old_handler); /* one is still there */
    CHECK_OK(kolo_signal_stop(loop, second.handle));
    now = disposition(SIGUSR1);
    check_same(&now, &before);
    CHECK_INT(raise(SIGUSR1), 0);
    CHECK_INT(old_handler_calls, 1);
    /* And all over again. */
    CHECK_OK(kolo_signal_start(loop, second.handle, SIGUSR1));
    CHECK_INT(raise(SIGUSR1), 0);
    RUN_UNTIL(loop, second.calls == 2);
    CHECK_OK(kolo_close(loop, second.handle));
    now = disposition(SIGUSR1);
    check_same(&now, &before);
    CHECK_INT(old_handler_calls, 1);
}

TEST_WITHOUT_LOOP(the_old_disposition_is_back_when_the_loop_is_freed) {
    static void (*const old[])(int) = {SIG_DFL, SIG_IGN, old_handler};
    for (int i = 0; i < 3; i++) {
        kolo_loop *loop = NULL;
        record one;
        CHECK(signal(SIGUSR2, old[i]) != SIG_ERR);
        struct sigaction before = disposition(SIGUSR2), now;
        CHECK_OK(kolo_loop_new(NULL, &loop));
        open_record(loop, &one, SIGUSR2);
        CHECK(disposition(SIGUSR2).sa_handler != old[i]);
        CHECK_OK(kolo_loop_free(loop));
        now = disposition(SIGUSR2);
        check_same(&now, &before);
    }
}

TEST(moving_to_another_signal_gives_the_first_one_back) {
    record one;
    struct sigaction before = disposition(SIGUSR1), now;
    open_record(loop, &one, SIGUSR1);
    CHECK_OK(kolo_signal_start(loop, one.handle, SIGUSR2));
    now = disposition(SIGUSR1);
    check_same(&now, &before);
}

TEST(opening_alone_changes_nothing) {
    record one;
    struct sigaction before = disposition(SIGTERM), now;
    open_record(loop, &one, 0);
    now = disposition(SIGTERM);
    check_same(&now, &before);
    CHECK_INT(kolo_loop_alive(loop), 0);
}

/* ---- loops and threads ---- */

TEST_WITHOUT_LOOP(several_loops_hear_the_same_signal) {
    kolo_loop *loops[3];
    record records[3];
    for (int i = 0; i < 3; i++) {
        CHECK_OK(kolo_loop_new(NULL, &loops[i]));
        open_record(loops[i], &records[i], SIGUSR1);
    }
    CHECK_INT(raise(SIGUSR1), 0);
    for (int i = 0; i < 3; i++) RUN_UNTIL(loops[i], records[i].calls == 1);
    CHECK_OK(kolo_loop_free(loops[0]));
    CHECK_INT(raise(SIGUSR1), 0); /* does not kill: two loops still watch */
    for (int i = 1; i < 3; i++) RUN_UNTIL(loops[i], records[i].calls == 2);
    CHECK_OK(kolo_loop_free(loops[1]));
    CHECK_OK(kolo_loop_free(loops[2]));
    CHECK(disposition(SIGUSR1).sa_handler == SIG_DFL);
}

static pthread_barrier_t all_watch;

static void *watch_until_heard(void *argument) {
    kolo_loop *loop = NULL;
    record *me = argument;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    open_record(loop, me, SIGUSR1);
    pthread_barrier_wait(&all_watch);
    RUN_UNTIL(loop, me->calls >= 1);
    CHECK_OK(kolo_loop_free(loop));
    return NULL;
}

TEST(loops_in_several_threads_all_hear_one_kill) {
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    record records[THREADS], mine;
    open_record(loop, &mine, SIGUSR1);
    CHECK_INT(pthread_barrier_init(&all_watch, NULL, THREADS + 1), 0);
    for (int i = 0; i < THREADS; i++) CHECK_INT(pthread_create(&threads[i], NULL, watch_until_heard, &records[i]), 0);
    pthread_barrier_wait(&all_watch);
    SYSTEM(kill(getpid(), SIGUSR1));
    RUN_UNTIL(loop, mine.calls >= 1);
    for (int i = 0; i < THREADS; i++) CHECK_INT(pthread_join(threads[i], NULL), 0);
    pthread_barrier_destroy(&all_watch);
    for (int i = 0; i < THREADS; i++) CHECK(records[i].calls >= 1);
}

static void *kill_us(void *unused) {
    (void)unused;
    SYSTEM(kill(getpid(), SIGUSR1));
    return NULL;
}

TEST(a_signal_ends_the_wait) {
    record one;
    open_record(loop, &one, SIGUSR1);
    for (int i = 1; i <= 10; i++) {
        pthread_t thread;
        CHECK_INT(pthread_create(&thread, NULL, kill_us, NULL), 0);
        RUN_UNTIL(loop, one.calls == i);
        CHECK_INT(pthread_join(thread, NULL), 0);
    }
}

static void ignore_it(int number) { (void)number; }
static void fired_once(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    ++*(int *)user;
}

TEST(signals_of_the_program_do_not_disturb_the_wait) {
    /* A handler of the program's own, without SA_RESTART, interrupts every system call. */
    struct sigaction own;
    memset(&own, 0, sizeof own);
    own.sa_handler = ignore_it;
    SYSTEM(sigaction(SIGUSR1, &own, NULL));
    kolo_timer timer = 0;
    int fired = 0;
    CHECK_OK(kolo_timer_open(loop, fired_once, &fired, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(20), 0));
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, kill_us, NULL), 0);
    RUN_UNTIL(loop, fired == 1);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

static void *interrupt_near_the_end(void *argument) {
    usleep(*(useconds_t *)argument);
    SYSTEM(kill(getpid(), SIGUSR1));
    return NULL;
}

TEST(an_interrupted_wait_goes_on_for_what_is_left) {
    /* The signal comes when most of the wait is over. Were the wait begun anew, the timer would be that much late, in
     * every round; a slow machine is late in some. */
    struct sigaction own;
    bool on_time = false;
    memset(&own, 0, sizeof own);
    own.sa_handler = ignore_it;
    SYSTEM(sigaction(SIGUSR1, &own, NULL));
    for (int round = 0; round < 10 && !on_time; round++) {
        kolo_timer timer = 0;
        pthread_t thread;
        useconds_t pause = 250000;
        int fired = 0;
        CHECK_OK(kolo_timer_open(loop, fired_once, &fired, &timer));
        CHECK_INT(pthread_create(&thread, NULL, interrupt_near_the_end, &pause), 0);
        uint64_t start = clock_ns();
        CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(300), 0));
        RUN_UNTIL(loop, fired == 1);
        on_time = clock_ns() - start < MILLISECONDS(500);
        CHECK_INT(pthread_join(thread, NULL), 0);
        CHECK_OK(kolo_close(loop, timer));
    }
    CHECK(on_time);
}

TEST(an_unreferenced_signal_does_not_hold_the_loop) {
    record one;
    open_record(loop, &one, SIGINT);
    CHECK_INT(kolo_loop_alive(loop), 1);
    CHECK_OK(kolo_unref(loop, one.handle));
    run_to_end(loop);
}
