/* The loop: run modes, the order of its phases, what keeps it alive, threads, forks, embedding, metrics. */
#include "harness.h"

#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

static void count_timer(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    ++*(int *)user;
}

static kolo_timer start_timer(kolo_loop *loop, uint64_t delay, kolo_timer_cb cb, void *user) {
    kolo_timer timer = 0;
    CHECK_OK(kolo_timer_open(loop, cb, user, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, delay, 0));
    return timer;
}

/* ---- making and freeing ---- */

TEST_WITHOUT_LOOP(new_and_free) {
    for (int i = 0; i < 20; i++) {
        kolo_loop *loop = NULL;
        CHECK_OK(kolo_loop_new(NULL, &loop));
        CHECK(loop != NULL);
        CHECK_OK(kolo_loop_free(loop));
    }
}

TEST_WITHOUT_LOOP(options_of_zeros_are_the_defaults) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    CHECK_INT(options.size, sizeof options);
    CHECK_OK(kolo_loop_new(&options, &loop));
    run_to_end(loop);
    CHECK_OK(kolo_loop_free(loop));
}

TEST_WITHOUT_LOOP(a_driver_by_name) {
    static const char *const names[] = {"poller", "polling"};
    for (int i = 0; i < 2; i++) {
        kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
        kolo_loop *loop = NULL;
        int fired = 0;
        options.driver = names[i];
        CHECK_OK(kolo_loop_new(&options, &loop));
        CHECK_STRING(kolo_loop_driver_name(loop), names[i]);
        start_timer(loop, 1000, count_timer, &fired);
        run_to_end(loop);
        CHECK_INT(fired, 1);
        CHECK_OK(kolo_loop_free(loop));
    }
}

TEST_WITHOUT_LOOP(a_driver_by_the_environment) {
    kolo_loop *loop = NULL;
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    SYSTEM(setenv("KOLO_DRIVER", "polling", 1));
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_STRING(kolo_loop_driver_name(loop), "polling");
    CHECK_OK(kolo_loop_free(loop));
    options.driver = "poller"; /* the program's word goes before the environment's */
    CHECK_OK(kolo_loop_new(&options, &loop));
    CHECK_STRING(kolo_loop_driver_name(loop), "poller");
    CHECK_OK(kolo_loop_free(loop));
}

TEST_WITHOUT_LOOP(a_driver_that_there_is_not) {
    kolo_loop *loop = NULL;
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    options.driver = "no such driver";
    CHECK_ERROR(kolo_loop_new(&options, &loop), KOLO_ENOTSUP);
    CHECK(loop == NULL);
}

TEST(user_pointer) {
    int mine = 0;
    void *got = &mine;
    CHECK_OK(kolo_loop_user(loop, &got));
    CHECK(got == NULL);
    CHECK_OK(kolo_loop_set_user(loop, &mine));
    CHECK_OK(kolo_loop_user(loop, &got));
    CHECK(got == &mine);
}

/* ---- run modes ---- */

TEST(an_empty_loop_ends_at_once_in_every_mode) {
    CHECK_INT(kolo_loop_alive(loop), 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 0);
}

TEST(default_runs_until_nothing_is_left) {
    int fired = 0;
    for (uint64_t i = 0; i < 10; i++) start_timer(loop, MILLISECONDS(i), count_timer, &fired);
    CHECK_INT(kolo_loop_alive(loop), 1);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(fired, 10);
    CHECK_INT(kolo_loop_alive(loop), 0);
}

TEST(once_is_one_turn_that_waits) {
    int fired = 0;
    start_timer(loop, MILLISECONDS(10), count_timer, &fired);
    start_timer(loop, SECONDS(3600), count_timer, &fired);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1);
    CHECK_INT(fired, 1);
}

static void count_status(kolo_loop *loop, int status, void *user) {
    (void)loop, (void)status;
    ++*(int *)user;
}

/* Something has happened already: a program that waits for it turn by turn must be asked before the next wait. */
TEST(once_does_not_wait_after_a_due_timer) {
    int fired = 0, never = 0;
    start_timer(loop, SECONDS(3600), count_timer, &never);
    start_timer(loop, 0, count_timer, &fired);
    busy_wait_ns(MILLISECONDS(1));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1);
    CHECK_INT(fired, 1);
}

TEST(once_does_not_wait_after_a_deferred_function) {
    int called_back = 0, never = 0;
    start_timer(loop, SECONDS(3600), count_timer, &never);
    CHECK_OK(kolo_loop_defer(loop, count_status, &called_back));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1);
    CHECK_INT(called_back, 1);
}

TEST(once_does_not_wait_after_a_post) {
    int called_back = 0, never = 0;
    kolo_remote *remote = NULL;
    start_timer(loop, SECONDS(3600), count_timer, &never);
    CHECK_OK(kolo_loop_remote(loop, &remote));
    CHECK_OK(kolo_remote_post(remote, count_status, &called_back));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1);
    CHECK_INT(called_back, 1);
    CHECK_OK(kolo_remote_release(remote));
}

TEST(once_does_not_wait_after_a_close) {
    int never = 0, closed = 0;
    kolo_timer timer = 0;
    start_timer(loop, SECONDS(3600), count_timer, &never);
    CHECK_OK(kolo_timer_open(loop, count_timer, &never, &timer));
    CHECK_OK(kolo_on_close(loop, timer, count_timer, &closed));
    CHECK_OK(kolo_close(loop, timer));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1);
    CHECK_INT(closed, 1);
}

TEST(nowait_is_one_turn_that_does_not_wait) {
    int fired = 0;
    start_timer(loop, SECONDS(3600), count_timer, &fired);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    start_timer(loop, 0, count_timer, &fired);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_INT(fired, 1);
}

/* ---- the order of a turn ---- */

static char phases[64];

static void note(const char *phase) {
    CHECK(strlen(phases) + strlen(phase) < sizeof phases);
    strcat(phases, phase);
}
static void note_timer(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    note(user);
}
static void note_hook(kolo_loop *loop, kolo_hook hook, void *user) {
    (void)loop, (void)hook;
    note(user);
}
static void note_status(kolo_loop *loop, int status, void *user) {
    (void)loop;
    CHECK_OK(status);
    note(user);
}
static void note_poll(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    (void)loop, (void)poll, (void)events;
    CHECK_OK(status);
    note(user);
}
static void note_closed(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)loop, (void)handle;
    note(user);
}

TEST(phases_come_in_their_order) {
    kolo_hook idle = 0, prepare = 0, check = 0;
    kolo_poll poll = 0;
    kolo_timer closing = 0;
    kolo_remote *remote = NULL;
    int sockets[2];
    /* All is set up in another order than the one it must come in. */
    CHECK_OK(kolo_timer_open(loop, note_timer, "?", &closing));
    CHECK_OK(kolo_on_close(loop, closing, note_closed, "closing"));
    CHECK_OK(kolo_close(loop, closing));
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, note_hook, "check ", &check));
    CHECK_OK(kolo_hook_start(loop, check));
    CHECK_OK(kolo_loop_remote(loop, &remote));
    CHECK_OK(kolo_remote_post(remote, note_status, "posted "));
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    raw_write_all(sockets[1], "x", 1);
    CHECK_OK(kolo_poll_open(loop, sockets[0], note_poll, "event ", &poll));
    CHECK_OK(kolo_poll_start(loop, poll, KOLO_POLL_READABLE));
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_PREPARE, note_hook, "prepare ", &prepare));
    CHECK_OK(kolo_hook_start(loop, prepare));
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_IDLE, note_hook, "idle ", &idle));
    CHECK_OK(kolo_hook_start(loop, idle));
    CHECK_OK(kolo_loop_defer(loop, note_status, "deferred "));
    start_timer(loop, 0, note_timer, "timer ");
    busy_wait_ns(MILLISECONDS(2));

    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_STRING(phases, "timer deferred idle prepare event posted check closing");

    CHECK_OK(kolo_close(loop, poll));
    raw_close(&sockets[0]);
    raw_close(&sockets[1]);
    CHECK_OK(kolo_remote_release(remote));
}

TEST(once_runs_the_timers_again_at_its_end) {
    kolo_hook check = 0;
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, note_hook, "check ", &check));
    CHECK_OK(kolo_hook_start(loop, check));
    /* Long enough that it is not due already when the run begins, however slow the machine is. */
    start_timer(loop, MILLISECONDS(250), note_timer, "timer ");
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1);
    CHECK_STRING(phases, "check timer ");
}

/* ---- stop ---- */

static void stop_loop(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)timer, (void)user;
    CHECK_OK(kolo_loop_stop(loop));
}

TEST(stop_ends_the_run_after_the_current_turn) {
    kolo_hook check = 0;
    int fired = 0;
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, note_hook, "check ", &check));
    CHECK_OK(kolo_hook_start(loop, check));
    start_timer(loop, 0, stop_loop, NULL);
    start_timer(loop, SECONDS(3600), count_timer, &fired);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 1); /* and did not wait for an hour */
    CHECK_STRING(phases, "check ");
    /* It was for that run only. */
    start_timer(loop, MILLISECONDS(1), count_timer, &fired);
    CHECK_OK(kolo_hook_stop(loop, check));
    RUN_UNTIL(loop, fired == 1);
}

TEST(stop_before_a_run_is_for_the_next_run) {
    int fired = 0;
    start_timer(loop, SECONDS(3600), count_timer, &fired);
    CHECK_OK(kolo_loop_stop(loop));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 1);
    CHECK_INT(fired, 0);
}

static void stop_posted(kolo_loop *loop, int status, void *user) {
    (void)user;
    CHECK_OK(status);
    CHECK_OK(kolo_loop_stop(loop));
}

static void *post_stop(void *remote) {
    CHECK_OK(kolo_remote_post(remote, stop_posted, NULL));
    CHECK_OK(kolo_remote_release(remote));
    return NULL;
}

TEST(stop_from_another_thread_by_a_post) {
    kolo_remote *remote = NULL;
    pthread_t thread;
    int fired = 0;
    start_timer(loop, SECONDS(3600), count_timer, &fired);
    CHECK_OK(kolo_loop_remote(loop, &remote));
    CHECK_INT(pthread_create(&thread, NULL, post_stop, remote), 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 1);
    CHECK_INT(pthread_join(thread, NULL), 0);
}

/* ---- the clock ---- */

TEST(the_clock_is_cached_and_can_be_updated) {
    uint64_t first = loop_now(loop), second;
    CHECK(first > 0);
    busy_wait_ns(MILLISECONDS(5));
    CHECK_INT(loop_now(loop), first);
    CHECK_OK(kolo_loop_update_now(loop));
    second = loop_now(loop);
    CHECK(second >= first + MILLISECONDS(5));
    busy_wait_ns(MILLISECONDS(1));
    CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) >= 0); /* a turn updates it as well */
    CHECK(loop_now(loop) >= second);
}

/* ---- deferred functions ---- */

static int statuses[16];
static int numbers[16];
static int called;

static void note_number(kolo_loop *loop, int status, void *user) {
    (void)loop;
    CHECK(called < 16);
    statuses[called] = status;
    numbers[called++] = (int)(intptr_t)user;
}

TEST(deferred_functions_come_in_order) {
    for (intptr_t i = 0; i < 10; i++) CHECK_OK(kolo_loop_defer(loop, note_number, (void *)i));
    CHECK_INT(called, 0);
    CHECK_INT(kolo_loop_alive(loop), 1);
    run_to_end(loop);
    CHECK_INT(called, 10);
    for (int i = 0; i < 10; i++) {
        CHECK_INT(numbers[i], i);
        CHECK_OK(statuses[i]);
    }
}

static int deferred_left;

static void defer_again(kolo_loop *loop, int status, void *user) {
    CHECK_OK(status);
    if (--deferred_left > 0) CHECK_OK(kolo_loop_defer(loop, defer_again, user));
}

static void count_hook(kolo_loop *loop, kolo_hook hook, void *user) {
    (void)loop, (void)hook;
    ++*(int *)user;
}

TEST(deferring_in_a_deferred_function_is_for_a_later_phase) {
    kolo_hook check = 0;
    int turns = 0;
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, count_hook, &turns, &check));
    CHECK_OK(kolo_hook_start(loop, check));
    CHECK_OK(kolo_unref(loop, check));
    deferred_left = 20;
    CHECK_OK(kolo_loop_defer(loop, defer_again, NULL));
    run_to_end(loop); /* never waits: a deferred function is always due */
    CHECK_INT(deferred_left, 0);
    CHECK(turns >= 10); /* the loop went round meanwhile: a turn has two such phases at most */
}

TEST_WITHOUT_LOOP(deferred_functions_hear_of_the_end_of_the_loop) {
    kolo_loop *loop = NULL;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    for (intptr_t i = 0; i < 3; i++) CHECK_OK(kolo_loop_defer(loop, note_number, (void *)i));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(called, 3);
    for (int i = 0; i < 3; i++) {
        CHECK_INT(numbers[i], i);
        CHECK_ERROR(statuses[i], KOLO_ECANCELED);
    }
}

/* ---- not inside a callback ---- */

static void run_inside(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)timer;
    for (int mode = KOLO_RUN_DEFAULT; mode <= KOLO_RUN_NOWAIT; mode++)
        CHECK_ERROR(kolo_loop_run(loop, mode), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBUSY);
    ++*(int *)user;
}

static void free_inside_close(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)handle;
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_run(loop, KOLO_RUN_NOWAIT), KOLO_EBUSY);
    ++*(int *)user;
}

TEST_WITHOUT_LOOP(run_and_free_are_refused_inside_callbacks) {
    kolo_loop *loop = NULL;
    int fired = 0, closed = 0;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    kolo_timer timer = start_timer(loop, 0, run_inside, &fired);
    CHECK_OK(kolo_on_close(loop, timer, free_inside_close, &closed));
    RUN_UNTIL(loop, fired == 1);
    CHECK_OK(kolo_loop_free(loop)); /* the close callback runs inside this call */
    CHECK_INT(closed, 1);
}

/* ---- a loop inside another loop ---- */

TEST(backend_timeout_tells_how_long_to_wait) {
    int64_t timeout = 99;
    int fired = 0;
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    CHECK_INT(timeout, 0); /* nothing keeps it alive: a run would not wait */
    kolo_waker waker = 0;
    CHECK_OK(kolo_waker_open(loop, count_timer, &fired, &waker));
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    CHECK_INT(timeout, -1);
    start_timer(loop, SECONDS(50), count_timer, &fired);
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    CHECK(timeout > 0 && timeout <= (int64_t)SECONDS(50));
    kolo_timer due = start_timer(loop, 0, count_timer, &fired);
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    CHECK_INT(timeout, 0);
    CHECK_OK(kolo_timer_stop(loop, due));
    CHECK_OK(kolo_loop_defer(loop, note_number, NULL));
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    CHECK_INT(timeout, 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_OK(kolo_close(loop, due));
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    CHECK_INT(timeout, 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    kolo_hook idle = 0;
    int idles = 0;
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_IDLE, count_hook, &idles, &idle));
    CHECK_OK(kolo_hook_start(loop, idle));
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    CHECK_INT(timeout, 0);
}

static int wait_milliseconds(kolo_loop *loop) {
    int64_t timeout = 0;
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    return timeout < 0 ? -1 : (int)((timeout + 999999) / 1000000);
}

static void *post_from_a_thread(void *remote) {
    CHECK_OK(kolo_remote_post(remote, note_number, NULL));
    return NULL;
}

static void embed_with(kolo_loop *loop, int (*wait)(int outer, int inner, int milliseconds), int outer) {
    int inner = kolo_loop_backend_fd(loop);
    CHECK(inner >= 0);
    pair both;
    kolo_remote *remote = NULL;
    int fired = 0;
    pair_open(loop, &both);
    CHECK_INT(wait(outer, inner, 0), 0); /* all is handled: quiet */

    start_timer(loop, MILLISECONDS(3), count_timer, &fired);
    while (fired == 0) {
        wait(outer, inner, wait_milliseconds(loop));
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) == 1);
    }

    CHECK(kolo_stream_write(loop, both.client.stream, "hello", 5) >= 0);
    while (both.server.received < 5) {
        wait(outer, inner, wait_milliseconds(loop));
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) == 1);
    }

    CHECK_OK(kolo_loop_remote(loop, &remote));
    on_another_thread(post_from_a_thread, remote);
    CHECK_INT(wait(outer, inner, -1), 1); /* a post wakes the outer loop */
    while (called == 0) CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) == 1);
    called = 0;
    run_some_turns(loop);
    CHECK_INT(wait(outer, inner, 0), 0);
    CHECK_OK(kolo_remote_release(remote));
    pair_close(loop, &both);
}

static int wait_by_epoll(int outer, int inner, int milliseconds) {
    (void)inner;
    struct epoll_event event;
    return SYSTEM(epoll_wait(outer, &event, 1, milliseconds));
}

static int wait_by_poll(int outer, int inner, int milliseconds) {
    (void)outer;
    struct pollfd watched = {inner, POLLIN, 0};
    return SYSTEM(poll(&watched, 1, milliseconds));
}

TEST(embedded_in_an_epoll_loop) {
    int outer = SYSTEM(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    SYSTEM(epoll_ctl(outer, EPOLL_CTL_ADD, kolo_loop_backend_fd(loop), &event));
    embed_with(loop, wait_by_epoll, outer);
    raw_close(&outer);
}

TEST(embedded_in_a_poll_loop) { embed_with(loop, wait_by_poll, -1); }

static void turn_inner(kolo_loop *outer, kolo_poll poll, int status, uint32_t events, void *user) {
    (void)outer, (void)poll;
    CHECK_OK(status);
    CHECK(events & KOLO_POLL_READABLE);
    CHECK(kolo_loop_run(user, KOLO_RUN_NOWAIT) >= 0); /* another loop than the one that is running */
}

TEST_WITHOUT_LOOP(a_loop_inside_another_kolo_loop) {
    kolo_loop *outer = NULL, *inner = NULL;
    kolo_poll poll = 0;
    half end;
    CHECK_OK(kolo_loop_new(NULL, &outer));
    CHECK_OK(kolo_loop_new(NULL, &inner));
    half_open(inner, &end);
    CHECK_OK(kolo_poll_open(outer, kolo_loop_backend_fd(inner), turn_inner, inner, &poll));
    CHECK_OK(kolo_poll_start(outer, poll, KOLO_POLL_READABLE));
    run_some_turns(inner);
    raw_write_all(end.socket, "inside", 6);
    RUN_UNTIL(outer, end.peer.received == 6);
    half_close(inner, &end);
    CHECK_OK(kolo_loop_free(outer));
    CHECK_OK(kolo_loop_free(inner));
}

/* ---- threads ---- */

static void *a_loop_of_its_own(void *unused) {
    (void)unused;
    kolo_loop *loop = NULL;
    pair both;
    int fired = 0;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    pair_open(loop, &both);
    both.server.discard = true;
    size_t written = 0;
    uint8_t piece[1000];
    while (written < 200000) {
        pattern_fill(piece, sizeof piece, written);
        CHECK(kolo_stream_write(loop, both.client.stream, piece, sizeof piece) >= 0);
        written += sizeof piece;
        start_timer(loop, (uint64_t)written, count_timer, &fired);
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    }
    RUN_UNTIL(loop, both.server.received == written && fired == 200);
    pair_close(loop, &both);
    CHECK_OK(kolo_loop_free(loop));
    return NULL;
}

TEST_WITHOUT_LOOP(several_loops_in_several_threads) {
    pthread_t threads[6];
    for (int i = 0; i < 6; i++) CHECK_INT(pthread_create(&threads[i], NULL, a_loop_of_its_own, NULL), 0);
    for (int i = 0; i < 6; i++) CHECK_INT(pthread_join(threads[i], NULL), 0);
}

TEST_WITHOUT_LOOP(several_loops_on_one_thread) {
    kolo_loop *loops[5];
    int fired[5] = {0};
    for (int i = 0; i < 5; i++) {
        CHECK_OK(kolo_loop_new(NULL, &loops[i]));
        start_timer(loops[i], MILLISECONDS(1), count_timer, &fired[i]);
    }
    for (int i = 4; i >= 0; i--) run_to_end(loops[i]);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(fired[i], 1);
        CHECK_OK(kolo_loop_free(loops[i]));
    }
}

static void *take_over(void *argument) {
    kolo_loop *loop = argument;
    CHECK_ERROR(kolo_loop_run(loop, KOLO_RUN_DEFAULT), KOLO_EWRONGTHREAD); /* nobody's is not mine either */
    CHECK_OK(kolo_loop_attach_thread(loop));
    CHECK_ERROR(kolo_loop_attach_thread(loop), KOLO_EBUSY);
    run_to_end(loop);
    CHECK_OK(kolo_loop_detach_thread(loop));
    CHECK_ERROR(kolo_loop_alive(loop), KOLO_EWRONGTHREAD);
    return NULL;
}

static void *try_to_take(void *argument) {
    CHECK_ERROR(kolo_loop_attach_thread(argument), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_detach_thread(argument), KOLO_EWRONGTHREAD);
    return NULL;
}

TEST(a_loop_moves_to_another_thread_and_back) {
    int fired = 0;
    start_timer(loop, MILLISECONDS(2), count_timer, &fired);
    on_another_thread(try_to_take, loop);
    CHECK_OK(kolo_loop_detach_thread(loop));
    CHECK_ERROR(kolo_loop_alive(loop), KOLO_EWRONGTHREAD);
    CHECK_ERROR(kolo_loop_detach_thread(loop), KOLO_EWRONGTHREAD);
    on_another_thread(take_over, loop);
    CHECK_INT(fired, 1);
    CHECK_OK(kolo_loop_attach_thread(loop));
    start_timer(loop, MILLISECONDS(2), count_timer, &fired);
    run_to_end(loop);
    CHECK_INT(fired, 2);
}

static void *free_it(void *argument) {
    CHECK_OK(kolo_loop_attach_thread(argument));
    CHECK_OK(kolo_loop_free(argument));
    return NULL;
}

TEST_WITHOUT_LOOP(a_loop_can_be_freed_by_the_thread_that_took_it) {
    kolo_loop *loop = NULL;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_OK(kolo_loop_detach_thread(loop));
    on_another_thread(free_it, loop);
    CHECK_ERROR(kolo_loop_attach_thread(loop), KOLO_EBADF);
}

static void *take_beside_its_own(void *argument) {
    kolo_loop *own = NULL, *taken = argument;
    int fired = 0;
    CHECK_OK(kolo_loop_new(NULL, &own));
    CHECK_OK(kolo_loop_attach_thread(taken));
    start_timer(own, MILLISECONDS(2), count_timer, &fired);
    start_timer(taken, MILLISECONDS(2), count_timer, &fired);
    run_to_end(own);
    run_to_end(taken);
    CHECK_OK(kolo_loop_free(taken));
    start_timer(own, MILLISECONDS(2), count_timer, &fired);
    run_to_end(own);
    CHECK_INT(fired, 3);
    CHECK_OK(kolo_loop_free(own));
    return NULL;
}

TEST_WITHOUT_LOOP(a_loop_that_comes_leaves_the_threads_own_alone) {
    kolo_loop *loop = NULL;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_OK(kolo_loop_detach_thread(loop));
    on_another_thread(take_beside_its_own, loop);
}

TEST_WITHOUT_LOOP(twenty_loops_on_one_thread_and_again) {
    kolo_loop *loops[20];
    int fired = 0;
    for (int round = 0; round < 3; round++) {
        int descriptors = open_descriptors();
        for (int i = 0; i < 20; i++) CHECK_OK(kolo_loop_new(NULL, &loops[i]));
        for (int i = 0; i < 20; i++) {
            start_timer(loops[i], MILLISECONDS(1), count_timer, &fired);
            run_to_end(loops[i]);
        }
        for (int i = 0; i < 20; i++) CHECK_OK(kolo_loop_free(loops[i]));
        CHECK_INT(open_descriptors(), descriptors);
    }
    CHECK_INT(fired, 3 * 20);
}

/* ---- fork ---- */

static void count_poll(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    (void)loop, (void)poll;
    CHECK_OK(status);
    CHECK(events & KOLO_POLL_READABLE);
    ++*(int *)user;
}

static void wait_for_child(pid_t child) {
    int status = 0;
    SYSTEM(waitpid(child, &status, 0));
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 0);
}

TEST(a_forked_child_must_say_so_first) {
    int fired = 0;
    kolo_timer timer = start_timer(loop, MILLISECONDS(5), count_timer, &fired);
    fflush(NULL);
    pid_t child = SYSTEM(fork());
    if (child == 0) {
        kolo_timer other = 0;
        uint64_t now;
        CHECK_ERROR(kolo_loop_run(loop, KOLO_RUN_DEFAULT), KOLO_EFORKED);
        CHECK_ERROR(kolo_loop_alive(loop), KOLO_EFORKED);
        CHECK_ERROR(kolo_timer_stop(loop, timer), KOLO_EFORKED);
        CHECK_ERROR(kolo_timer_open(loop, count_timer, &fired, &other), KOLO_EFORKED);
        CHECK_ERROR(kolo_loop_now(loop, &now), KOLO_EFORKED);
        CHECK_OK(kolo_loop_fork(loop));
        run_to_end(loop); /* the timer was inherited */
        CHECK_INT(fired, 1);
        CHECK_OK(kolo_loop_free(loop));
        _exit(0);
    }
    run_to_end(loop);
    CHECK_INT(fired, 1);
    wait_for_child(child);
}

TEST(parent_and_child_do_not_disturb_each_other) {
    int parents[2], childs[2], heard = 0;
    kolo_poll poll = 0;
    kolo_waker waker = 0;
    kolo_remote *remote = NULL;
    int woken = 0;
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, parents));
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, childs));
    CHECK_OK(kolo_poll_open(loop, parents[0], count_poll, &heard, &poll));
    CHECK_OK(kolo_poll_start(loop, poll, KOLO_POLL_READABLE));
    CHECK_OK(kolo_waker_open(loop, count_timer, &woken, &waker));
    CHECK_OK(kolo_waker_remote(loop, waker, &remote));
    run_some_turns(loop);
    fflush(NULL);
    pid_t child = SYSTEM(fork());
    if (child == 0) {
        CHECK_OK(kolo_loop_fork(loop));
        /* Closes what it inherited and works with its own. */
        kolo_poll own = 0;
        CHECK_OK(kolo_close(loop, poll));
        CHECK_OK(kolo_poll_open(loop, childs[0], count_poll, &heard, &own));
        CHECK_OK(kolo_poll_start(loop, own, KOLO_POLL_READABLE));
        raw_write_all(childs[1], "c", 1);
        RUN_UNTIL(loop, heard >= 1);
        CHECK_OK(kolo_close(loop, own));
        CHECK_OK(kolo_remote_wake(remote)); /* its own wake-up, not the parent's */
        RUN_UNTIL(loop, woken == 1);
        CHECK_OK(kolo_loop_free(loop));
        CHECK_OK(kolo_remote_release(remote));
        _exit(0);
    }
    wait_for_child(child);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_INT(heard, 0);
    CHECK_INT(woken, 0);
    raw_write_all(parents[1], "p", 1);
    RUN_UNTIL(loop, heard >= 1);
    CHECK_OK(kolo_remote_wake(remote));
    RUN_UNTIL(loop, woken == 1);
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_close(loop, poll));
    for (int i = 0; i < 2; i++) {
        raw_close(&parents[i]);
        raw_close(&childs[i]);
    }
}

TEST(an_inherited_connection_works_in_the_child) {
    half end;
    half_open(loop, &end);
    run_some_turns(loop);
    fflush(NULL);
    pid_t child = SYSTEM(fork());
    if (child == 0) {
        CHECK_OK(kolo_loop_fork(loop));
        CHECK(kolo_stream_write(loop, end.peer.stream, "from the child", 14) >= 0);
        RUN_UNTIL(loop, end.peer.received == 2);
        CHECK_OK(kolo_loop_free(loop));
        peer_free(&end.peer);
        _exit(0);
    }
    char text[15] = "";
    raw_read_exactly(end.socket, text, 14);
    CHECK_STRING(text, "from the child");
    raw_write_all(end.socket, "ok", 2); /* the parent's loop does not run meanwhile */
    wait_for_child(child);
    half_close(loop, &end);
}

static void *fork_and_use_on_this_thread(void *unused) {
    (void)unused;
    fflush(NULL);
    pid_t child = SYSTEM(fork());
    if (child == 0) {
        kolo_loop *fresh = NULL;
        int fired = 0;
        CHECK_OK(kolo_loop_new(NULL, &fresh)); /* a new loop needs no kolo_loop_fork */
        start_timer(fresh, 1000, count_timer, &fired);
        run_to_end(fresh);
        CHECK_INT(fired, 1);
        CHECK_OK(kolo_loop_free(fresh));
        _exit(0);
    }
    wait_for_child(child);
    return NULL;
}

TEST(a_child_can_make_loops_of_its_own) {
    int fired = 0;
    start_timer(loop, MILLISECONDS(1), count_timer, &fired);
    fork_and_use_on_this_thread(NULL);
    on_another_thread(fork_and_use_on_this_thread, NULL);
    run_to_end(loop);
}

/* ---- metrics, the watchdog, the bound of a turn ---- */

static void busy(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    busy_wait_ns(*(uint64_t *)user);
}

static kolo_metrics metrics_of(kolo_loop *loop) {
    kolo_metrics metrics = KOLO_METRICS_INIT;
    CHECK_OK(kolo_loop_metrics(loop, &metrics));
    CHECK_INT(metrics.size, sizeof metrics);
    return metrics;
}

TEST(metrics_count) {
    kolo_metrics start = metrics_of(loop), now;
    int fired = 0;
    kolo_hook check = 0;
    kolo_remote *remote = NULL;
    CHECK_INT(start.turns, 0);
    CHECK_INT(start.callbacks, 0);
    CHECK_INT(start.handles, 0);
    CHECK_INT(start.posts_waiting, 0);
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, count_hook, &fired, &check));
    CHECK_OK(kolo_hook_start(loop, check));
    for (int i = 0; i < 7; i++) CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    now = metrics_of(loop);
    CHECK_INT(now.turns, 7);
    CHECK_INT(now.callbacks, 7);
    CHECK_INT(now.handles, 1);
    CHECK_OK(kolo_close(loop, check));
    CHECK_INT(metrics_of(loop).handles, 1); /* it is closing */
    CHECK_OK(kolo_loop_remote(loop, &remote));
    for (int i = 0; i < 3; i++) CHECK_OK(kolo_remote_post(remote, note_number, NULL));
    CHECK_INT(metrics_of(loop).posts_waiting, 3);
    run_some_turns(loop);
    now = metrics_of(loop);
    CHECK_INT(now.posts_waiting, 0);
    CHECK_INT(now.handles, 0);
    CHECK_INT(now.callbacks, 10);
    CHECK_INT(now.callback_ns, 0); /* times only when asked for */
    CHECK_INT(now.longest_callback_ns, 0);
    CHECK_OK(kolo_remote_release(remote));
}

TEST(metrics_count_events) {
    half end;
    half_open(loop, &end);
    run_some_turns(loop);
    uint64_t before = metrics_of(loop).events;
    raw_write_all(end.socket, "x", 1);
    RUN_UNTIL(loop, end.peer.received == 1);
    CHECK(metrics_of(loop).events > before);
    half_close(loop, &end);
}

TEST_WITHOUT_LOOP(metrics_measure_time_when_asked) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    uint64_t short_time = MILLISECONDS(2), long_time = MILLISECONDS(6);
    int fired = 0;
    options.measure_time = true;
    CHECK_OK(kolo_loop_new(&options, &loop));
    start_timer(loop, 0, busy, &short_time);
    start_timer(loop, 0, busy, &long_time);
    run_to_end(loop);
    kolo_metrics now = metrics_of(loop);
    CHECK(now.callback_ns >= short_time + long_time);
    CHECK(now.longest_callback_ns >= long_time);
    CHECK(now.longest_callback_ns <= now.callback_ns);
    uint64_t idle_before = now.idle_ns;
    start_timer(loop, MILLISECONDS(30), count_timer, &fired);
    run_to_end(loop);
    CHECK(metrics_of(loop).idle_ns > idle_before);
    CHECK_OK(kolo_loop_free(loop));
}

typedef struct slow {
    int reports;
    kolo_handle handle;
    uint64_t elapsed;
} slow;

static void note_slow(kolo_loop *loop, kolo_handle handle, uint64_t elapsed_ns, void *user) {
    (void)loop;
    slow *me = user;
    me->reports++;
    me->handle = handle;
    me->elapsed = elapsed_ns;
}

TEST_WITHOUT_LOOP(the_watchdog_reports_a_slow_callback) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    slow seen = {0, 0, 0};
    uint64_t length = MILLISECONDS(30);
    options.slow_callback_ns = MILLISECONDS(20);
    options.on_slow = note_slow;
    options.on_slow_user = &seen;
    CHECK_OK(kolo_loop_new(&options, &loop));
    kolo_timer timer = start_timer(loop, 0, busy, &length);
    run_to_end(loop);
    CHECK_INT(seen.reports, 1);
    CHECK(seen.handle == timer);
    CHECK(seen.elapsed >= length);
    CHECK_OK(kolo_loop_free(loop));
}

static void busy_and_closed(kolo_loop *loop, kolo_timer timer, void *user) {
    busy(loop, timer, user);
    CHECK_OK(kolo_close(loop, timer));
}

TEST_WITHOUT_LOOP(the_watchdog_names_a_handle_that_closed_itself) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    slow seen = {0, 0, 0};
    uint64_t length = MILLISECONDS(2);
    options.slow_callback_ns = MILLISECONDS(1);
    options.on_slow = note_slow;
    options.on_slow_user = &seen;
    CHECK_OK(kolo_loop_new(&options, &loop));
    kolo_timer timer = start_timer(loop, 0, busy_and_closed, &length);
    run_to_end(loop);
    CHECK(seen.reports >= 1);
    CHECK(seen.handle == timer);
    CHECK_OK(kolo_loop_free(loop));
}

TEST_WITHOUT_LOOP(the_watchdog_is_silent_about_quick_callbacks) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    slow seen = {0, 0, 0};
    int fired = 0;
    options.slow_callback_ns = SECONDS(3600);
    options.on_slow = note_slow;
    options.on_slow_user = &seen;
    CHECK_OK(kolo_loop_new(&options, &loop));
    for (int i = 0; i < 100; i++) start_timer(loop, 0, count_timer, &fired);
    run_to_end(loop);
    CHECK_INT(fired, 100);
    CHECK_INT(seen.reports, 0);
    CHECK_OK(kolo_loop_free(loop));
}

TEST_WITHOUT_LOOP(the_watchdog_sees_callbacks_of_every_sort) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    slow seen = {0, 0, 0};
    int heard = 0, sockets[2];
    kolo_poll poll = 0;
    options.slow_callback_ns = 1;
    options.on_slow = note_slow;
    options.on_slow_user = &seen;
    CHECK_OK(kolo_loop_new(&options, &loop));
    CHECK_OK(kolo_loop_defer(loop, note_number, NULL));
    run_to_end(loop);
    CHECK_INT(seen.reports, 1);
    CHECK_INT(seen.handle, 0); /* a function that belongs to no handle */
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    raw_write_all(sockets[1], "x", 1);
    CHECK_OK(kolo_poll_open(loop, sockets[0], count_poll, &heard, &poll));
    CHECK_OK(kolo_poll_start(loop, poll, KOLO_POLL_READABLE));
    RUN_UNTIL(loop, heard == 1);
    CHECK(seen.reports >= 2);
    CHECK(seen.handle == poll);
    CHECK_OK(kolo_loop_free(loop));
    raw_close(&sockets[0]);
    raw_close(&sockets[1]);
}

TEST_WITHOUT_LOOP(a_turn_handles_so_many_events_and_no_more) {
    enum { COUNT = 12 };
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    int sockets[COUNT][2], heard[COUNT] = {0}, turns = 0, all = 0;
    options.events_per_turn = 3;
    CHECK_OK(kolo_loop_new(&options, &loop));
    for (int i = 0; i < COUNT; i++) {
        kolo_poll poll = 0;
        SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets[i]));
        raw_write_all(sockets[i][1], "x", 1);
        CHECK_OK(kolo_poll_open(loop, sockets[i][0], count_poll, &heard[i], &poll));
        CHECK_OK(kolo_poll_start(loop, poll, KOLO_POLL_READABLE));
    }
    while (all < COUNT) { /* level-triggered and never read: fairness alone brings every one its turn */
        int before = 0, after = 0;
        for (int i = 0; i < COUNT; i++) before += heard[i];
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
        for (int i = 0; i < COUNT; i++) after += heard[i];
        CHECK(after - before <= 3);
        all = 0;
        for (int i = 0; i < COUNT; i++) all += heard[i] > 0;
        CHECK(++turns <= 20);
    }
    CHECK_OK(kolo_loop_free(loop));
    for (int i = 0; i < COUNT; i++) {
        raw_close(&sockets[i][0]);
        raw_close(&sockets[i][1]);
    }
}

/* ---- a callback that does not return ---- */

typedef struct stuck {
    sem_t reported;
    int reports;
    kolo_handle handle;
} stuck;

static void on_stuck(kolo_handle handle, uint64_t elapsed_ns, void *user) {
    stuck *me = user;
    CHECK(elapsed_ns > MILLISECONDS(20));
    me->handle = handle;
    me->reports++;
    sem_post(&me->reported);
}

static void until_reported(kolo_loop *loop, kolo_timer timer, void *user) {
    stuck *me = user;
    (void)loop;
    while (sem_wait(&me->reported) != 0) CHECK(errno == EINTR);
    CHECK(me->handle == timer);
}

TEST_WITHOUT_LOOP(a_stuck_callback_is_reported_while_it_is_stuck) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    kolo_timer timer = 0;
    stuck me;
    memset(&me, 0, sizeof me);
    sem_init(&me.reported, 0, 0);
    options.stuck_callback_ns = MILLISECONDS(20);
    CHECK_ERROR(kolo_loop_new(&options, &loop), KOLO_EINVAL);
    options.on_stuck = on_stuck;
    options.on_stuck_user = &me;
    CHECK_OK(kolo_loop_new(&options, &loop));
    CHECK_OK(kolo_timer_open(loop, until_reported, &me, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, 1, 0));
    run_to_end(loop);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(me.reports, 1);
    sem_destroy(&me.reported);
}
