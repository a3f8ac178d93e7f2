/* Other threads: posting functions, waking the loop, wakers. */
#include "harness.h"

#include <pthread.h>

typedef struct record {
    int calls;
    int wakes;
    int statuses[64];
    intptr_t numbers[64];
    pthread_t thread;
} record;

static record seen;

static void note(kolo_loop *loop, int status, void *user) {
    CHECK(loop != NULL);
    if (seen.calls < 64) {
        seen.statuses[seen.calls] = status;
        seen.numbers[seen.calls] = (intptr_t)user;
    }
    seen.calls++;
    seen.thread = pthread_self();
}

static void on_wake(kolo_loop *loop, kolo_waker waker, void *user) {
    (void)loop, (void)waker;
    CHECK(user == &seen);
    seen.wakes++;
    seen.thread = pthread_self();
}

static kolo_waker open_waker(kolo_loop *loop, kolo_remote **remote) {
    kolo_waker waker = 0;
    CHECK_OK(kolo_waker_open(loop, on_wake, &seen, &waker));
    CHECK_OK(kolo_waker_remote(loop, waker, remote));
    CHECK(*remote != NULL);
    return waker;
}

static kolo_remote *remote_of(kolo_loop *loop) {
    kolo_remote *remote = NULL;
    CHECK_OK(kolo_loop_remote(loop, &remote));
    CHECK(remote != NULL);
    return remote;
}

/* ---- post ---- */

TEST(posts_from_the_loops_own_thread_come_in_order) {
    kolo_remote *remote = remote_of(loop);
    for (intptr_t i = 0; i < 50; i++) CHECK_OK(kolo_remote_post(remote, note, (void *)i));
    CHECK_INT(seen.calls, 0); /* never inside the call */
    CHECK_INT(kolo_loop_alive(loop), 1); /* a waiting post keeps the loop alive */
    run_to_end(loop);
    CHECK_INT(seen.calls, 50);
    for (int i = 0; i < 50; i++) {
        CHECK_INT(seen.numbers[i], i);
        CHECK_OK(seen.statuses[i]);
    }
    CHECK_OK(kolo_remote_release(remote));
}

static void *post_one(void *remote) {
    CHECK_OK(kolo_remote_post(remote, note, (void *)7));
    return NULL;
}

TEST(a_post_ends_the_wait_and_runs_on_the_loops_thread) {
    kolo_remote *held = NULL, *remote = remote_of(loop);
    open_waker(loop, &held); /* something to wait for */
    pthread_t thread;
    CHECK_INT(pthread_create(&thread, NULL, post_one, remote), 0);
    RUN_UNTIL(loop, seen.calls == 1);
    CHECK(pthread_equal(seen.thread, pthread_self()));
    CHECK_INT(seen.numbers[0], 7);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_remote_release(held));
}

enum { THREADS = 4, POSTS = 5000 };

typedef struct poster {
    kolo_remote *remote;
    intptr_t number;
    int got;
} poster;

static poster posters[THREADS];

static void from_poster(kolo_loop *loop, int status, void *user) {
    (void)loop;
    CHECK_OK(status);
    intptr_t value = (intptr_t)user;
    poster *me = &posters[value / POSTS];
    CHECK_INT(value % POSTS, me->got); /* in the order of its thread, none lost, none twice */
    me->got++;
    seen.calls++;
}

static void *post_many(void *argument) {
    poster *me = argument;
    for (intptr_t i = 0; i < POSTS; i++) {
        int result;
        while ((result = kolo_remote_post(me->remote, from_poster, (void *)(me->number * POSTS + i))) == KOLO_ENOBUFS)
            usleep(100); /* the bound is there to slow the poster down */
        CHECK_OK(result);
    }
    CHECK_OK(kolo_remote_release(me->remote));
    return NULL;
}

TEST_WITHOUT_LOOP(posts_from_several_threads_each_in_its_order) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    kolo_remote *held = NULL, *remote;
    pthread_t threads[THREADS];
    options.post_capacity = 1000;
    CHECK_OK(kolo_loop_new(&options, &loop));
    open_waker(loop, &held);
    remote = remote_of(loop);
    for (int i = 0; i < THREADS; i++) {
        CHECK_OK(kolo_remote_retain(remote));
        posters[i].remote = remote;
        posters[i].number = i;
        CHECK_INT(pthread_create(&threads[i], NULL, post_many, &posters[i]), 0);
    }
    RUN_UNTIL(loop, seen.calls == THREADS * POSTS);
    for (int i = 0; i < THREADS; i++) CHECK_INT(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < THREADS; i++) CHECK_INT(posters[i].got, POSTS);
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_remote_release(held));
    CHECK_OK(kolo_loop_free(loop));
}

TEST_WITHOUT_LOOP(the_queue_is_bounded) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    options.post_capacity = 4;
    CHECK_OK(kolo_loop_new(&options, &loop));
    kolo_remote *remote = remote_of(loop);
    for (int round = 0; round < 3; round++) {
        for (intptr_t i = 0; i < 4; i++) CHECK_OK(kolo_remote_post(remote, note, (void *)i));
        CHECK_ERROR(kolo_remote_post(remote, note, NULL), KOLO_ENOBUFS);
        CHECK_ERROR(kolo_remote_post(remote, note, NULL), KOLO_ENOBUFS);
        run_to_end(loop);
        CHECK_INT(seen.calls, 4 * (round + 1));
    }
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_loop_free(loop));
}

static int reposts_left;

static void post_again(kolo_loop *loop, int status, void *user) {
    (void)loop;
    CHECK_OK(status);
    if (--reposts_left > 0) CHECK_OK(kolo_remote_post(user, post_again, user));
}

static void count_hook(kolo_loop *loop, kolo_hook hook, void *user) {
    (void)loop, (void)hook;
    ++*(int *)user;
}

TEST(a_post_that_posts_itself_does_not_hold_up_the_turn) {
    kolo_remote *remote = remote_of(loop);
    kolo_hook check = 0;
    int turns = 0;
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, count_hook, &turns, &check));
    CHECK_OK(kolo_hook_start(loop, check));
    CHECK_OK(kolo_unref(loop, check));
    reposts_left = 100;
    CHECK_OK(kolo_remote_post(remote, post_again, remote));
    run_to_end(loop);
    CHECK_INT(reposts_left, 0);
    CHECK(turns >= 99);
    CHECK_OK(kolo_remote_release(remote));
}

/* ---- misuse ---- */

static void check_refused(kolo_remote *remote) {
    CHECK_ERROR(kolo_remote_post(remote, note, NULL), KOLO_EBADF);
    CHECK_ERROR(kolo_remote_wake(remote), KOLO_EBADF);
    CHECK_ERROR(kolo_remote_retain(remote), KOLO_EBADF);
    CHECK_ERROR(kolo_remote_release(remote), KOLO_EBADF);
}

TEST(a_released_remote_is_refused) {
    kolo_remote *remote = remote_of(loop);
    CHECK_OK(kolo_remote_retain(remote));
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_remote_wake(remote)); /* one reference is left */
    CHECK_OK(kolo_remote_release(remote));
    check_refused(remote);
    /* Also when others have come into being since, and when the loop is gone. */
    for (int i = 0; i < 10; i++) {
        kolo_remote *other = remote_of(loop);
        CHECK(other != remote);
        check_refused(remote);
        CHECK_OK(kolo_remote_wake(other));
        CHECK_OK(kolo_remote_release(other));
    }
    run_to_end(loop);
    CHECK_INT(seen.calls, 0);
}

TEST(what_is_no_remote_is_refused) {
    int number = 0;
    CHECK_ERROR(kolo_remote_post(NULL, note, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_remote_wake(NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_remote_retain(NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_remote_release(NULL), KOLO_EINVAL);
    check_refused((kolo_remote *)(void *)loop);
    check_refused((kolo_remote *)(void *)&number);
    check_refused((kolo_remote *)1);
    check_refused((kolo_remote *)UINTPTR_MAX);
}

TEST(a_process_holds_65536_remotes_at_most) {
    enum { MOST = 65536 };
    static kolo_remote *held[MOST];
    kolo_remote *one_more = NULL;
    for (int i = 0; i < MOST; i++) CHECK_OK(kolo_loop_remote(loop, &held[i]));
    CHECK_ERROR(kolo_loop_remote(loop, &one_more), KOLO_ENOBUFS);
    CHECK(one_more == NULL);
    CHECK_OK(kolo_remote_release(held[7]));
    CHECK_OK(kolo_loop_remote(loop, &held[7]));
    for (int i = 0; i < MOST; i++) CHECK_OK(kolo_remote_release(held[i]));
}

/* ---- the end of the loop ---- */

TEST_WITHOUT_LOOP(posts_still_waiting_hear_of_the_end) {
    kolo_loop *loop = NULL;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    kolo_remote *remote = remote_of(loop);
    for (intptr_t i = 0; i < 5; i++) CHECK_OK(kolo_remote_post(remote, note, (void *)i));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(seen.calls, 5);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(seen.numbers[i], i);
        CHECK_ERROR(seen.statuses[i], KOLO_ECANCELED);
    }
    CHECK_OK(kolo_remote_release(remote));
}

TEST_WITHOUT_LOOP(a_remote_outlives_its_loop) {
    kolo_loop *loop = NULL;
    kolo_remote *waking = NULL;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    kolo_remote *remote = remote_of(loop);
    open_waker(loop, &waking);
    CHECK_OK(kolo_loop_free(loop));
    for (int i = 0; i < 3; i++) {
        CHECK_ERROR(kolo_remote_post(remote, note, NULL), KOLO_ECANCELED);
        CHECK_ERROR(kolo_remote_wake(remote), KOLO_ECANCELED);
        CHECK_ERROR(kolo_remote_post(waking, note, NULL), KOLO_ECANCELED);
        CHECK_ERROR(kolo_remote_wake(waking), KOLO_ECANCELED);
    }
    CHECK_OK(kolo_remote_retain(remote));
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_remote_release(waking));
    CHECK_INT(seen.calls, 0);
    CHECK_INT(seen.wakes, 0);
}

static int accepted_posts; /* of the thread below; read after it was joined */

static void *post_until_the_loop_is_gone(void *remote) {
    for (;;) {
        int result = kolo_remote_post(remote, note, NULL);
        if (result == KOLO_ECANCELED) break;
        if (result == KOLO_OK)
            accepted_posts++;
        else
            CHECK_ERROR(result, KOLO_ENOBUFS);
    }
    CHECK_ERROR(kolo_remote_wake(remote), KOLO_ECANCELED);
    CHECK_OK(kolo_remote_release(remote));
    return NULL;
}

TEST_WITHOUT_LOOP(every_accepted_post_is_called_once_whenever_the_loop_goes) {
    for (int round = 0; round < 20; round++) {
        kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
        kolo_loop *loop = NULL;
        kolo_remote *held = NULL;
        pthread_t thread;
        memset(&seen, 0, sizeof seen);
        accepted_posts = 0;
        options.post_capacity = 100;
        CHECK_OK(kolo_loop_new(&options, &loop));
        open_waker(loop, &held);
        kolo_remote *remote = remote_of(loop);
        CHECK_INT(pthread_create(&thread, NULL, post_until_the_loop_is_gone, remote), 0); /* takes the reference */
        RUN_UNTIL(loop, seen.calls > round * 10);
        CHECK_OK(kolo_loop_free(loop));
        CHECK_INT(pthread_join(thread, NULL), 0);
        CHECK_INT(seen.calls, accepted_posts);
        CHECK_OK(kolo_remote_release(held));
    }
}

static void post_while_freed(kolo_loop *loop, int status, void *user) {
    (void)loop;
    seen.calls++;
    CHECK_ERROR(status, KOLO_ECANCELED);
    CHECK_ERROR(kolo_remote_post(user, note, NULL), KOLO_ECANCELED); /* too late for another */
}

TEST_WITHOUT_LOOP(no_post_is_taken_while_the_loop_is_freed) {
    kolo_loop *loop = NULL;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    kolo_remote *remote = remote_of(loop);
    CHECK_OK(kolo_remote_post(remote, post_while_freed, remote));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(seen.calls, 1);
    CHECK_OK(kolo_remote_release(remote));
}

/* ---- wake ---- */

static void *wake_it(void *remote) {
    CHECK_OK(kolo_remote_wake(remote));
    return NULL;
}

static void never(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer, (void)user;
    test_fail(__FILE__, __LINE__, "an hour has not passed");
}

TEST(waking_the_loop_ends_its_wait) {
    kolo_remote *remote = remote_of(loop);
    kolo_timer timer = 0;
    CHECK_OK(kolo_timer_open(loop, never, NULL, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, SECONDS(3600), 0));
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        CHECK_INT(pthread_create(&thread, NULL, wake_it, remote), 0);
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1); /* would take an hour */
        CHECK_INT(pthread_join(thread, NULL), 0);
    }
    CHECK_OK(kolo_remote_release(remote));
}

TEST(a_wake_before_the_wait_is_not_lost) {
    kolo_remote *remote = remote_of(loop);
    kolo_timer timer = 0;
    CHECK_OK(kolo_timer_open(loop, never, NULL, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, SECONDS(3600), 0));
    CHECK_OK(kolo_remote_wake(remote));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1);
    CHECK_OK(kolo_remote_release(remote));
}

TEST(wakes_coalesce) {
    kolo_remote *remote = NULL;
    open_waker(loop, &remote);
    for (int i = 0; i < 1000; i++) CHECK_OK(kolo_remote_wake(remote));
    CHECK_INT(seen.wakes, 0);
    run_some_turns(loop);
    CHECK_INT(seen.wakes, 1);
    CHECK_OK(kolo_remote_wake(remote)); /* and the next one is a new one */
    RUN_UNTIL(loop, seen.wakes == 2);
    CHECK(pthread_equal(seen.thread, pthread_self()));
    CHECK_OK(kolo_remote_release(remote));
}

TEST(a_waker_is_active_until_closed) {
    kolo_remote *remote = NULL;
    kolo_waker waker = open_waker(loop, &remote);
    CHECK_INT(kolo_is_active(loop, waker), 1);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_OK(kolo_remote_wake(remote));
    CHECK_OK(kolo_close(loop, waker)); /* no callback after this, though it was woken */
    run_to_end(loop);
    CHECK_INT(seen.wakes, 0);
    CHECK_ERROR(kolo_remote_wake(remote), KOLO_ECANCELED);
    CHECK_OK(kolo_remote_release(remote));
}

TEST(each_waker_has_its_own_callback) {
    enum { COUNT = 20 };
    kolo_remote *remotes[COUNT];
    for (int i = 0; i < COUNT; i++) open_waker(loop, &remotes[i]);
    for (int i = 0; i < COUNT; i += 2) CHECK_OK(kolo_remote_wake(remotes[i]));
    run_some_turns(loop);
    CHECK_INT(seen.wakes, COUNT / 2);
    for (int i = 0; i < COUNT; i++) CHECK_OK(kolo_remote_release(remotes[i]));
}

TEST(posting_through_a_wakers_remote) {
    kolo_remote *remote = NULL;
    open_waker(loop, &remote);
    CHECK_OK(kolo_remote_post(remote, note, (void *)3));
    RUN_UNTIL(loop, seen.calls == 1);
    CHECK_INT(seen.numbers[0], 3);
    CHECK_OK(kolo_remote_release(remote));
}

enum { WAKES = 20000 };
static int woken_value; /* written by the thread before each wake */

static void *wake_many(void *remote) {
    for (int i = 1; i <= WAKES; i++) {
        __atomic_store_n(&woken_value, i, __ATOMIC_RELEASE);
        CHECK_OK(kolo_remote_wake(remote));
    }
    return NULL;
}

static int last_seen;

static void note_value(kolo_loop *loop, kolo_waker waker, void *user) {
    (void)loop, (void)waker, (void)user;
    last_seen = __atomic_load_n(&woken_value, __ATOMIC_ACQUIRE);
}

TEST(the_last_wake_is_never_lost) {
    kolo_waker waker = 0;
    kolo_remote *remote = NULL;
    pthread_t thread;
    CHECK_OK(kolo_waker_open(loop, note_value, NULL, &waker));
    CHECK_OK(kolo_waker_remote(loop, waker, &remote));
    CHECK_INT(pthread_create(&thread, NULL, wake_many, remote), 0);
    RUN_UNTIL(loop, last_seen == WAKES); /* hangs when a callback missed what was written before its wake */
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_OK(kolo_remote_release(remote));
}

static void close_itself(kolo_loop *loop, kolo_waker waker, void *user) {
    CHECK_OK(kolo_close(loop, waker));
    ++*(int *)user;
}

TEST(a_waker_closes_itself) {
    kolo_waker waker = 0;
    kolo_remote *remote = NULL;
    int calls = 0;
    CHECK_OK(kolo_waker_open(loop, close_itself, &calls, &waker));
    CHECK_OK(kolo_waker_remote(loop, waker, &remote));
    CHECK_OK(kolo_remote_wake(remote));
    run_to_end(loop);
    CHECK_INT(calls, 1);
    CHECK_OK(kolo_remote_release(remote));
}

static kolo_waker neighbours[2];
static int neighbour_calls;

static void close_the_other(kolo_loop *loop, kolo_waker waker, void *user) {
    (void)user;
    neighbour_calls++;
    CHECK_OK(kolo_close(loop, neighbours[waker == neighbours[0]]));
}

TEST(a_waker_closes_its_woken_neighbour) {
    kolo_remote *remotes[2];
    for (int i = 0; i < 2; i++) {
        CHECK_OK(kolo_waker_open(loop, close_the_other, NULL, &neighbours[i]));
        CHECK_OK(kolo_waker_remote(loop, neighbours[i], &remotes[i]));
        CHECK_OK(kolo_remote_wake(remotes[i]));
    }
    run_some_turns(loop);
    CHECK_INT(neighbour_calls, 1);
    for (int i = 0; i < 2; i++) CHECK_OK(kolo_remote_release(remotes[i]));
}

TEST(null_pointers_are_refused_on_any_thread) {
    kolo_remote *remote = remote_of(loop);
    CHECK_ERROR(kolo_remote_post(NULL, note, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_remote_post(remote, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_remote_wake(NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_remote_retain(NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_remote_release(NULL), KOLO_EINVAL);
    CHECK_OK(kolo_remote_release(remote));
}
