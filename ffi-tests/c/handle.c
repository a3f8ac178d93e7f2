/* What all handles have in common: closing, references, kinds, descriptions. */
#include "harness.h"

#include <signal.h>
#include <sys/socket.h>

static void no_timer(kolo_loop *loop, kolo_timer timer, void *user) { (void)loop, (void)timer, (void)user; }
static void no_hook(kolo_loop *loop, kolo_hook hook, void *user) { (void)loop, (void)hook, (void)user; }
static void no_waker(kolo_loop *loop, kolo_waker waker, void *user) { (void)loop, (void)waker, (void)user; }
static void no_signal(kolo_loop *loop, kolo_signal signal, int number, void *user) {
    (void)loop, (void)signal, (void)number, (void)user;
}
static void no_poll(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    (void)loop, (void)poll, (void)status, (void)events, (void)user;
}

/* One handle of every kind, each active. */
enum { KINDS = 7 };
typedef struct zoo {
    kolo_handle handles[KINDS];
    int descriptors[2]; /* of the poll */
    int socket;         /* the TCP stream's other end */
    peer stream;
} zoo;

static const int zoo_kinds[KINDS] = {KOLO_KIND_TIMER, KOLO_KIND_HOOK,     KOLO_KIND_WAKER, KOLO_KIND_SIGNAL,
                                     KOLO_KIND_POLL,  KOLO_KIND_LISTENER, KOLO_KIND_TCP};

static void zoo_open(kolo_loop *loop, zoo *all) {
    memset(all, 0, sizeof *all);
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &all->handles[0]));
    CHECK_OK(kolo_timer_start(loop, all->handles[0], SECONDS(3600), 0));
    CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, no_hook, NULL, &all->handles[1]));
    CHECK_OK(kolo_hook_start(loop, all->handles[1]));
    CHECK_OK(kolo_waker_open(loop, no_waker, NULL, &all->handles[2]));
    CHECK_OK(kolo_signal_open(loop, no_signal, NULL, &all->handles[3]));
    CHECK_OK(kolo_signal_start(loop, all->handles[3], SIGUSR1));
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, all->descriptors));
    CHECK_OK(kolo_poll_open(loop, all->descriptors[0], no_poll, NULL, &all->handles[4]));
    CHECK_OK(kolo_poll_start(loop, all->handles[4], KOLO_POLL_READABLE));
    kolo_address any = loopback_v4(0);
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    CHECK_OK(kolo_tcp_listen(loop, &any, NULL, &listening, NULL, &all->handles[5]));
    int sockets[2];
    raw_pair(sockets);
    kolo_stream_handler handler = peer_handler();
    all->stream.loop = loop;
    CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &handler, &all->stream, &all->handles[6]));
    all->stream.stream = all->handles[6];
    all->socket = sockets[1];
}

static void zoo_free(zoo *all) {
    raw_close(&all->descriptors[0]);
    raw_close(&all->descriptors[1]);
    raw_close(&all->socket);
    peer_free(&all->stream);
}

static void note_closed(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)loop;
    CHECK(handle != 0);
    ++*(int *)user;
}

TEST(handles_differ_and_are_not_zero) {
    zoo all;
    zoo_open(loop, &all);
    for (int i = 0; i < KINDS; i++) {
        CHECK(all.handles[i] != 0);
        for (int k = 0; k < i; k++) CHECK(all.handles[i] != all.handles[k]);
    }
    for (int i = 0; i < KINDS; i++) CHECK_OK(kolo_close(loop, all.handles[i]));
    run_to_end(loop);
    zoo_free(&all);
}

TEST(kind_of_every_kind) {
    zoo all;
    zoo_open(loop, &all);
    for (int i = 0; i < KINDS; i++) CHECK_INT(kolo_kind_of(loop, all.handles[i]), zoo_kinds[i]);
    for (int i = 0; i < KINDS; i++) {
        CHECK_OK(kolo_close(loop, all.handles[i]));
        CHECK_ERROR(kolo_kind_of(loop, all.handles[i]), KOLO_EBADF);
    }
    run_to_end(loop);
    zoo_free(&all);
}

TEST(close_is_one_call_for_every_kind) {
    zoo all;
    int closed[KINDS] = {0};
    zoo_open(loop, &all);
    for (int i = 0; i < KINDS; i++) CHECK_OK(kolo_on_close(loop, all.handles[i], note_closed, &closed[i]));
    for (int i = 0; i < KINDS; i++) {
        CHECK_OK(kolo_close(loop, all.handles[i]));
        CHECK_ERROR(kolo_close(loop, all.handles[i]), KOLO_EBADF);
        CHECK_ERROR(kolo_is_active(loop, all.handles[i]), KOLO_EBADF); /* dead at once */
        CHECK_INT(closed[i], 0);                                       /* but its callback comes later */
    }
    CHECK_INT(kolo_loop_alive(loop), 1); /* for those callbacks */
    run_to_end(loop);
    for (int i = 0; i < KINDS; i++) CHECK_INT(closed[i], 1);
    CHECK_INT(all.stream.closed, 1);
    zoo_free(&all);
}

TEST(closing_unreferenced_handles_still_calls_on_close) {
    zoo all;
    int closed = 0;
    zoo_open(loop, &all);
    for (int i = 0; i < KINDS; i++) {
        CHECK_OK(kolo_unref(loop, all.handles[i]));
        CHECK_OK(kolo_on_close(loop, all.handles[i], note_closed, &closed));
        CHECK_OK(kolo_close(loop, all.handles[i]));
    }
    run_to_end(loop);
    CHECK_INT(closed, KINDS);
    zoo_free(&all);
}

TEST_WITHOUT_LOOP(loop_free_closes_every_kind) {
    zoo all;
    kolo_loop *loop = NULL;
    int closed[KINDS] = {0};
    CHECK_OK(kolo_loop_new(NULL, &loop));
    zoo_open(loop, &all);
    for (int i = 0; i < KINDS; i++) CHECK_OK(kolo_on_close(loop, all.handles[i], note_closed, &closed[i]));
    CHECK_OK(kolo_loop_free(loop));
    for (int i = 0; i < KINDS; i++) CHECK_INT(closed[i], 1);
    CHECK_INT(all.stream.closed, 1);
    zoo_free(&all);
}

static char closing_order[8];

static void table_closed(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)loop, (void)handle, (void)user;
    strcat(closing_order, "t");
}

static void handle_closed(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)loop, (void)handle, (void)user;
    strcat(closing_order, "h");
}

TEST(on_close_comes_after_that_of_the_table) {
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_address any = loopback_v4(0);
    kolo_listener listener = 0;
    kolo_tcp stream = 0;
    int sockets[2];
    listening.on_close = table_closed;
    CHECK_OK(kolo_tcp_listen(loop, &any, NULL, &listening, NULL, &listener));
    CHECK_OK(kolo_on_close(loop, listener, handle_closed, NULL));
    CHECK_OK(kolo_close(loop, listener));
    run_to_end(loop);
    CHECK_STRING(closing_order, "th");

    closing_order[0] = '\0';
    raw_pair(sockets);
    handler.on_close = table_closed;
    CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &handler, NULL, &stream));
    CHECK_OK(kolo_on_close(loop, stream, handle_closed, NULL));
    CHECK_OK(kolo_close(loop, stream));
    run_to_end(loop);
    CHECK_STRING(closing_order, "th");
    raw_close(&sockets[1]);
}

TEST(on_close_is_one_per_handle) {
    kolo_timer timer = 0;
    int first = 0, second = 0;
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timer));
    CHECK_OK(kolo_on_close(loop, timer, note_closed, &first));
    CHECK_OK(kolo_on_close(loop, timer, note_closed, &second)); /* instead of the first */
    CHECK_OK(kolo_close(loop, timer));
    CHECK_ERROR(kolo_on_close(loop, timer, note_closed, &first), KOLO_EBADF);
    run_to_end(loop);
    CHECK_INT(first, 0);
    CHECK_INT(second, 1);
}

TEST(on_close_can_be_taken_back) {
    kolo_timer timer = 0;
    int closed = 0;
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timer));
    CHECK_OK(kolo_on_close(loop, timer, note_closed, &closed));
    CHECK_OK(kolo_on_close(loop, timer, NULL, NULL));
    CHECK_OK(kolo_close(loop, timer));
    run_to_end(loop);
    CHECK_INT(closed, 0);
}

static void close_the_other_loops(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)timer;
    kolo_loop *other = user;
    kolo_metrics metrics = KOLO_METRICS_INIT;
    CHECK_OK(kolo_loop_metrics(other, &metrics));
    CHECK_INT(metrics.handles, 1);
    CHECK_OK(kolo_loop_free(other)); /* the callback is of this loop, not of that one */
    CHECK_ERROR(kolo_loop_alive(other), KOLO_EBADF);
    CHECK_INT(kolo_loop_alive(loop), 0); /* and this one is as before */
}

TEST(another_loop_is_freed_in_a_callback_of_this_one) {
    kolo_loop *other = NULL;
    kolo_timer timer = 0, theirs = 0;
    int closed = 0;
    CHECK_OK(kolo_loop_new(NULL, &other));
    CHECK_OK(kolo_timer_open(other, no_timer, NULL, &theirs));
    CHECK_OK(kolo_on_close(other, theirs, note_closed, &closed));
    CHECK_OK(kolo_timer_open(loop, close_the_other_loops, other, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, 0, 0));
    run_to_end(loop);
    CHECK_INT(closed, 1);
}

typedef struct chain {
    int left;
    int closed;
    bool loop_is_going;
} chain;

static void close_next(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)handle;
    chain *me = user;
    me->closed++;
    if (--me->left == 0) return;
    kolo_timer next = 0;
    int result = kolo_timer_open(loop, no_timer, NULL, &next);
    CHECK_ERROR(result, me->loop_is_going ? KOLO_ECANCELED : KOLO_OK);
    if (result < 0) return;
    CHECK_OK(kolo_on_close(loop, next, close_next, me));
    CHECK_OK(kolo_close(loop, next));
}

TEST(opening_and_closing_inside_on_close) {
    chain me = {100, 0, false};
    kolo_timer first = 0;
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &first));
    CHECK_OK(kolo_on_close(loop, first, close_next, &me));
    CHECK_OK(kolo_close(loop, first));
    run_to_end(loop);
    CHECK_INT(me.closed, 100);
}

TEST_WITHOUT_LOOP(nothing_opens_while_the_loop_is_freed) {
    chain me = {10, 0, true};
    kolo_loop *loop = NULL;
    kolo_timer first = 0;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &first));
    CHECK_OK(kolo_on_close(loop, first, close_next, &me));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(me.closed, 1);
}

TEST(a_stale_handle_stays_stale_when_its_place_is_taken_again) {
    enum { ROUNDS = 300 };
    kolo_timer timers[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timers[i]));
        CHECK_OK(kolo_close(loop, timers[i]));
        run_to_end(loop);
    }
    kolo_timer live = 0;
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &live));
    for (int i = 0; i < ROUNDS; i++) {
        CHECK(timers[i] != live);
        CHECK_ERROR(kolo_timer_start(loop, timers[i], 0, 0), KOLO_EBADF);
        for (int k = 0; k < i; k++) CHECK(timers[i] != timers[k]);
    }
}

TEST(numbers_that_were_never_handles) {
    static const kolo_handle numbers[] = {0, 1, 2, 0xffffffffu, (kolo_handle)1 << 32, (kolo_handle)1 << 63, UINT64_MAX};
    kolo_timer timer = 0;
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timer));
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (numbers[i] != timer) CHECK_ERROR(kolo_close(loop, numbers[i]), KOLO_EBADF);
    for (int bit = 0; bit < 64; bit++)
        CHECK_ERROR(kolo_close(loop, timer ^ ((kolo_handle)1 << bit)), KOLO_EBADF);
    CHECK_OK(kolo_close(loop, timer));
}

TEST(references_are_a_switch_not_a_count) {
    zoo all;
    zoo_open(loop, &all);
    for (int i = 0; i < KINDS; i++) {
        CHECK_INT(kolo_has_ref(loop, all.handles[i]), 1);
        CHECK_OK(kolo_unref(loop, all.handles[i]));
        CHECK_OK(kolo_unref(loop, all.handles[i]));
        CHECK_INT(kolo_has_ref(loop, all.handles[i]), 0);
        CHECK_OK(kolo_ref(loop, all.handles[i]));
        CHECK_INT(kolo_has_ref(loop, all.handles[i]), 1);
        CHECK_OK(kolo_unref(loop, all.handles[i]));
    }
    CHECK_INT(kolo_loop_alive(loop), 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    for (int i = 0; i < KINDS; i++) {
        CHECK_OK(kolo_ref(loop, all.handles[i]));
        CHECK_INT(kolo_loop_alive(loop), 1); /* each kind alone keeps the loop alive */
        CHECK_OK(kolo_unref(loop, all.handles[i]));
        CHECK_INT(kolo_loop_alive(loop), 0);
    }
    for (int i = 0; i < KINDS; i++) CHECK_OK(kolo_close(loop, all.handles[i]));
    run_to_end(loop);
    zoo_free(&all);
}

TEST(active_means_started) {
    zoo all;
    zoo_open(loop, &all);
    for (int i = 0; i < KINDS; i++) CHECK_INT(kolo_is_active(loop, all.handles[i]), 1);
    CHECK_OK(kolo_timer_stop(loop, all.handles[0]));
    CHECK_OK(kolo_hook_stop(loop, all.handles[1]));
    CHECK_OK(kolo_signal_stop(loop, all.handles[3]));
    CHECK_OK(kolo_poll_stop(loop, all.handles[4]));
    static const int stopped[] = {0, 1, 3, 4};
    for (int i = 0; i < 4; i++) CHECK_INT(kolo_is_active(loop, all.handles[stopped[i]]), 0);
    CHECK_OK(kolo_close(loop, all.handles[2]));
    CHECK_OK(kolo_close(loop, all.handles[5]));
    CHECK_OK(kolo_close(loop, all.handles[6]));
    run_to_end(loop); /* handles that are not active hold nothing up */
    for (int i = 0; i < 4; i++) CHECK_OK(kolo_close(loop, all.handles[stopped[i]]));
    run_to_end(loop);
    zoo_free(&all);
}

TEST(describe_gives_a_line_for_every_kind) {
    zoo all;
    zoo_open(loop, &all);
    for (int i = 0; i < KINDS; i++) {
        char whole[512], cut[8];
        int length = kolo_describe(loop, all.handles[i], whole, sizeof whole);
        CHECK(length > 8 && length < (int)sizeof whole);
        CHECK_INT(strlen(whole), length);
        CHECK(strchr(whole, '\n') == NULL);
        memset(cut, '#', sizeof cut);
        CHECK_INT(kolo_describe(loop, all.handles[i], cut, sizeof cut - 1), length); /* the whole length all the same */
        CHECK_INT(strlen(cut), sizeof cut - 2);
        CHECK(memcmp(cut, whole, sizeof cut - 2) == 0);
        CHECK_INT(cut[sizeof cut - 1], '#');
        CHECK_INT(kolo_describe(loop, all.handles[i], NULL, 0), length); /* only asks how long it is */
    }
    char text[512];
    char number[16];
    snprintf(number, sizeof number, "%d", all.descriptors[0]);
    CHECK(kolo_describe(loop, all.handles[4], text, sizeof text) > 0);
    CHECK(strstr(text, number) != NULL); /* a poll tells its descriptor */
    for (int i = 0; i < KINDS; i++) {
        CHECK_OK(kolo_close(loop, all.handles[i]));
        CHECK_ERROR(kolo_describe(loop, all.handles[i], text, sizeof text), KOLO_EBADF);
    }
    run_to_end(loop);
    zoo_free(&all);
}

typedef struct walk {
    kolo_handle seen[64];
    int kinds[64];
    int count;
    int stop_after;
    bool close_each;
    int open_more;
} walk;

static int visit(kolo_loop *loop, kolo_handle handle, int kind, void *user) {
    walk *me = user;
    CHECK(me->count < 64);
    CHECK_INT(kolo_kind_of(loop, handle), kind);
    me->seen[me->count] = handle;
    me->kinds[me->count++] = kind;
    if (me->close_each) CHECK_OK(kolo_close(loop, handle));
    if (me->open_more > 0) {
        kolo_timer timer = 0;
        me->open_more--;
        CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timer));
    }
    return me->count == me->stop_after;
}

TEST(walk_visits_every_live_handle_once) {
    zoo all;
    walk me;
    zoo_open(loop, &all);
    memset(&me, 0, sizeof me);
    CHECK_OK(kolo_loop_walk(loop, visit, &me));
    CHECK_INT(me.count, KINDS);
    for (int i = 0; i < KINDS; i++) {
        int times = 0;
        for (int k = 0; k < me.count; k++)
            if (me.seen[k] == all.handles[i]) {
                times++;
                CHECK_INT(me.kinds[k], zoo_kinds[i]);
            }
        CHECK_INT(times, 1);
    }
    /* A closed handle is not live, even before its on_close. */
    CHECK_OK(kolo_close(loop, all.handles[0]));
    memset(&me, 0, sizeof me);
    CHECK_OK(kolo_loop_walk(loop, visit, &me));
    CHECK_INT(me.count, KINDS - 1);
    /* Closing inside the walk. */
    memset(&me, 0, sizeof me);
    me.close_each = true;
    CHECK_OK(kolo_loop_walk(loop, visit, &me));
    CHECK_INT(me.count, KINDS - 1);
    run_to_end(loop);
    zoo_free(&all);
}

TEST(walk_ends_when_the_callback_says_so) {
    zoo all;
    walk me;
    zoo_open(loop, &all);
    memset(&me, 0, sizeof me);
    me.stop_after = 3;
    CHECK_INT(kolo_loop_walk(loop, visit, &me), 1);
    CHECK_INT(me.count, 3);
    for (int i = 0; i < KINDS; i++) CHECK_OK(kolo_close(loop, all.handles[i]));
    run_to_end(loop);
    zoo_free(&all);
}

TEST(walk_bears_opening_inside) {
    kolo_timer timers[5];
    walk me;
    memset(&me, 0, sizeof me);
    for (int i = 0; i < 5; i++) CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timers[i]));
    me.open_more = 20;
    CHECK_OK(kolo_loop_walk(loop, visit, &me));
    for (int i = 0; i < 5; i++) {
        int times = 0;
        for (int k = 0; k < me.count; k++) times += me.seen[k] == timers[i];
        CHECK_INT(times, 1);
    }
}

TEST(walk_of_an_empty_loop) {
    walk me;
    memset(&me, 0, sizeof me);
    CHECK_OK(kolo_loop_walk(loop, visit, &me));
    CHECK_INT(me.count, 0);
}
