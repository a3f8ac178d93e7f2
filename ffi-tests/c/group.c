/* Groups of loops, and connections that move from one loop to another. */
#include "harness.h"

#include <pthread.h>

enum { LOOPS = 3, CLIENTS = 30 };

typedef struct shared {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int started, stopped, closed, accepted;
    kolo_loop *loops[LOOPS];
    int fail_at;
    kolo_group group;
    int answer;
} shared;

static void shared_init(shared *me) {
    memset(me, 0, sizeof *me);
    pthread_mutex_init(&me->lock, NULL);
    pthread_cond_init(&me->changed, NULL);
    me->fail_at = -1;
}

static void count(shared *me, int *what) {
    pthread_mutex_lock(&me->lock);
    ++*what;
    pthread_cond_broadcast(&me->changed);
    pthread_mutex_unlock(&me->lock);
}

static void await_count(shared *me, const int *what, int wanted) {
    pthread_mutex_lock(&me->lock);
    while (*what < wanted) pthread_cond_wait(&me->changed, &me->lock);
    pthread_mutex_unlock(&me->lock);
}

static int on_start(kolo_loop *loop, uint32_t index, void *user) {
    shared *me = user;
    CHECK(index < LOOPS);
    if ((int)index == me->fail_at) return KOLO_EDQUOT;
    me->loops[index] = loop;
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_detach_thread(loop), KOLO_EBUSY);
    count(me, &me->started);
    return 1; /* anything that is no error */
}

static void on_stop(kolo_loop *loop, uint32_t index, void *user) {
    shared *me = user;
    CHECK(me->loops[index] == loop);
    count(me, &me->stopped);
}

static kolo_group start(shared *me) {
    kolo_group_options options = KOLO_GROUP_OPTIONS_INIT;
    kolo_loop_options loop_options = KOLO_LOOP_OPTIONS_INIT;
    kolo_group group = 0;
    char driver[] = "poller";
    loop_options.driver = driver;
    options.loop_options = &loop_options;
    options.loops = LOOPS;
    options.on_start = on_start;
    options.on_stop = on_stop;
    options.user = me;
    CHECK_OK(kolo_group_start(&options, &group));
    memset(driver, 'x', sizeof driver - 1); /* it was read */
    CHECK(group != 0);
    return group;
}

/* An echo server on a group. */
static void on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    (void)user;
    CHECK(kolo_stream_write(loop, stream, data, length) >= 0);
}
static void on_close(kolo_loop *loop, kolo_stream stream, void *user) {
    shared *me = user;
    (void)loop, (void)stream;
    count(me, &me->closed);
}
static void on_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user) {
    kolo_stream_handler echo = KOLO_STREAM_HANDLER_INIT;
    shared *me = user;
    (void)listener;
    echo.on_data = on_data;
    echo.on_close = on_close;
    CHECK_OK(kolo_stream_attach(loop, stream, &echo, user));
    count(me, &me->accepted);
}

TEST_WITHOUT_LOOP(a_group_serves_and_stops) {
    shared me;
    kolo_address any = loopback_v4(0), address;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    int clients[CLIENTS];
    shared_init(&me);
    kolo_group group = start(&me);
    CHECK_INT(me.started, LOOPS);
    CHECK_INT(kolo_group_count(group), LOOPS);
    handler.on_accept = on_accept;
    CHECK_OK(kolo_group_listen(group, &any, NULL, &handler, &me, &address));
    CHECK(address.port != 0);
    for (int i = 0; i < CLIENTS; i++) {
        char byte = (char)i, back;
        clients[i] = raw_connect(&address);
        CHECK_INT(SYSTEM(write(clients[i], &byte, 1)), 1);
        CHECK_INT(SYSTEM(read(clients[i], &back, 1)), 1);
        CHECK_INT(back, byte);
    }
    await_count(&me, &me.accepted, CLIENTS);
    for (int i = 0; i < CLIENTS; i++) raw_close(&clients[i]);
    await_count(&me, &me.closed, CLIENTS);
    CHECK_OK(kolo_group_stop(group, SECONDS(100)));
    CHECK_OK(kolo_group_join(group));
    CHECK_INT(me.stopped, LOOPS);
    CHECK_ERROR(kolo_group_join(group), KOLO_EBADF);
    CHECK_ERROR(kolo_group_stop(group, 0), KOLO_EBADF);
    CHECK_ERROR(kolo_group_count(group), KOLO_EBADF);
    for (int i = 0; i < LOOPS; i++) CHECK_ERROR(kolo_loop_stop(me.loops[i]), KOLO_EBADF);
}

TEST_WITHOUT_LOOP(what_is_open_after_the_grace_is_closed) {
    shared me;
    kolo_address any = loopback_v4(0), address;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    shared_init(&me);
    kolo_group group = start(&me);
    handler.on_accept = on_accept;
    CHECK_OK(kolo_group_listen(group, &any, NULL, &handler, &me, &address));
    int client = raw_connect(&address);
    await_count(&me, &me.accepted, 1);
    CHECK_OK(kolo_group_stop(group, 1));
    CHECK_OK(kolo_group_join(group));
    CHECK_INT(me.closed, 1);
    raw_close(&client);
}

TEST_WITHOUT_LOOP(an_error_of_on_start_is_returned) {
    shared me;
    kolo_group_options options = KOLO_GROUP_OPTIONS_INIT;
    kolo_group group = 7;
    shared_init(&me);
    me.fail_at = 1;
    options.loops = LOOPS;
    options.on_start = on_start;
    options.user = &me;
    CHECK_ERROR(kolo_group_start(&options, &group), KOLO_EDQUOT);
    CHECK(group == 7);
    CHECK_INT(me.started, 1);
}

static void in_a_loop(kolo_loop *loop, int status, void *user) {
    shared *me = user;
    kolo_address any = loopback_v4(0);
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    (void)loop;
    CHECK_INT(status, KOLO_OK);
    CHECK_ERROR(kolo_group_listen(me->group, &any, NULL, &handler, NULL, NULL), KOLO_EDEADLK);
    CHECK_ERROR(kolo_group_join(me->group), KOLO_EDEADLK);
    count(me, &me->answer);
}

TEST_WITHOUT_LOOP(a_loop_of_the_group_does_not_wait_for_itself) {
    shared me;
    kolo_remote *remote = NULL;
    shared_init(&me);
    me.group = start(&me);
    CHECK_OK(kolo_group_remote(me.group, LOOPS - 1, &remote));
    CHECK_OK(kolo_remote_post(remote, in_a_loop, &me));
    await_count(&me, &me.answer, 1);
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_group_stop(me.group, 0));
    CHECK_OK(kolo_group_join(me.group));
}

TEST_WITHOUT_LOOP(wrong_arguments) {
    shared me;
    kolo_group_options options = KOLO_GROUP_OPTIONS_INIT;
    kolo_loop_options loop_options = KOLO_LOOP_OPTIONS_INIT;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    kolo_address any = loopback_v4(0), none;
    kolo_remote *remote = NULL;
    kolo_group group = 7;
    memset(&none, 0, sizeof none);
    shared_init(&me);
    CHECK_ERROR(kolo_group_start(NULL, NULL), KOLO_EINVAL);
    options.size = 4;
    CHECK_ERROR(kolo_group_start(&options, &group), KOLO_EINVAL);
    options.size = sizeof options;
    options.share_socket = 2;
    CHECK_ERROR(kolo_group_start(&options, &group), KOLO_EINVAL);
    options.share_socket = 0;
    options.loops = 65537;
    CHECK_ERROR(kolo_group_start(&options, &group), KOLO_EINVAL);
    options.loops = UINT32_MAX; /* and no attempt at the memory for so many */
    CHECK_ERROR(kolo_group_start(&options, &group), KOLO_EINVAL);
    options.loops = 0;
    options.loop_options = &loop_options;
    loop_options.driver = "no such driver";
    CHECK_ERROR(kolo_group_start(&options, &group), KOLO_ENOTSUP);
    loop_options.slow_callback_ns = 1; /* without on_slow */
    CHECK_ERROR(kolo_group_start(&options, &group), KOLO_EINVAL);
    CHECK(group == 7);
    CHECK_ERROR(kolo_group_join(0), KOLO_EBADF);
    CHECK_ERROR(kolo_group_remote(0, 0, &remote), KOLO_EBADF);
    CHECK_ERROR(kolo_group_listen(0, &any, NULL, &handler, NULL, NULL), KOLO_EBADF);
    group = start(&me);
    CHECK_ERROR(kolo_group_remote(group, LOOPS, &remote), KOLO_EINVAL);
    CHECK_ERROR(kolo_group_remote(group, 0, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_group_listen(group, NULL, NULL, &handler, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_group_listen(group, &none, NULL, &handler, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_group_listen(group, &any, NULL, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK(remote == NULL);
    CHECK_OK(kolo_group_stop(group, 0));
    CHECK_OK(kolo_group_join(group));
}

TEST_WITHOUT_LOOP(groups_may_have_the_defaults) {
    kolo_group group = 0;
    CHECK_OK(kolo_group_start(NULL, &group));
    CHECK(kolo_group_count(group) >= 1);
    CHECK_OK(kolo_group_stop(group, 0));
    CHECK_OK(kolo_group_join(group));
}

typedef struct pooled {
    shared shared;
    kolo_pool pool;
    pthread_t workers[LOOPS];
} pooled;

typedef struct piece {
    pooled *of;
    uint32_t index;
} piece;

static void note_worker(void *user) {
    piece *me = user;
    me->of->workers[me->index] = pthread_self();
}

static void worker_noted(kolo_loop *loop, kolo_request request, int status, void *user) {
    piece *me = user;
    (void)loop, (void)request;
    CHECK_OK(status);
    count(&me->of->shared, &me->of->shared.accepted);
    free(me);
}

static int close_pool_and_work(kolo_loop *loop, uint32_t index, void *user) {
    pooled *me = user;
    piece *work = malloc(sizeof *work);
    CHECK(work != NULL);
    work->of = me;
    work->index = index;
    if (index == 0) CHECK_OK(kolo_pool_close(me->pool));
    CHECK_OK(kolo_work_submit(loop, KOLO_WORK_COMPUTE, note_worker, worker_noted, work, NULL));
    return KOLO_OK;
}

TEST_WITHOUT_LOOP(a_pool_that_is_closed_while_the_group_starts_is_still_its_loops) {
    kolo_group_options options = KOLO_GROUP_OPTIONS_INIT;
    kolo_loop_options loop_options = KOLO_LOOP_OPTIONS_INIT;
    kolo_pool_options pool_options = KOLO_POOL_OPTIONS_INIT;
    kolo_group group = 0;
    pooled me;
    memset(&me, 0, sizeof me);
    shared_init(&me.shared);
    pool_options.compute_threads = 1;
    pool_options.idle_ns = SECONDS(1000);
    CHECK_OK(kolo_pool_open(&pool_options, &me.pool));
    loop_options.pool = me.pool;
    options.loop_options = &loop_options;
    options.loops = LOOPS;
    options.on_start = close_pool_and_work;
    options.user = &me;
    CHECK_OK(kolo_group_start(&options, &group));
    await_count(&me.shared, &me.shared.accepted, LOOPS);
    /* One pool, of one thread. */
    for (int i = 1; i < LOOPS; i++) CHECK(pthread_equal(me.workers[0], me.workers[i]));
    CHECK_OK(kolo_group_stop(group, 0));
    CHECK_OK(kolo_group_join(group));
    CHECK_ERROR(kolo_group_start(&options, &group), KOLO_EBADF); /* it is closed now */
}

/* ---- moving ---- */

typedef struct mover {
    int told, status, received, closed;
    kolo_tcp tcp;
    bool attaches;
} mover;

static void mover_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    mover *me = user;
    (void)loop, (void)stream, (void)data;
    me->received += (int)length;
}
static void mover_close(kolo_loop *loop, kolo_stream stream, void *user) {
    mover *me = user;
    (void)loop, (void)stream;
    me->closed++;
}
static void arrived(kolo_loop *loop, kolo_tcp tcp, int status, void *user) {
    mover *me = user;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    me->told++;
    me->status = status;
    me->tcp = tcp;
    handler.on_data = mover_data;
    handler.on_close = mover_close;
    if (me->attaches) CHECK_OK(kolo_stream_attach(loop, tcp, &handler, me));
}

static kolo_tcp adopted(kolo_loop *loop, mover *me, int sockets[2]) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_tcp tcp = 0;
    handler.on_close = mover_close; /* no on_data: what comes waits in the socket */
    raw_pair(sockets);
    CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &handler, me, &tcp));
    return tcp;
}

TEST(a_connection_moves_with_what_was_not_read) {
    kolo_loop *there = NULL;
    kolo_remote *remote = NULL;
    mover me;
    int sockets[2];
    memset(&me, 0, sizeof me);
    me.attaches = true;
    CHECK_OK(kolo_loop_new(NULL, &there));
    CHECK_OK(kolo_loop_remote(there, &remote));
    kolo_tcp tcp = adopted(loop, &me, sockets);
    CHECK_INT(SYSTEM(write(sockets[1], "before", 6)), 6);
    CHECK_OK(kolo_tcp_move(loop, tcp, remote, arrived, &me));
    CHECK_ERROR(kolo_tcp_move(loop, tcp, remote, arrived, &me), KOLO_EBADF);
    CHECK_INT(me.told, 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(me.closed, 1);
    RUN_UNTIL(there, me.received == 6);
    CHECK_INT(me.told, 1);
    CHECK_INT(me.status, KOLO_OK);
    CHECK_INT(kolo_kind_of(there, me.tcp), KOLO_KIND_TCP);
    CHECK_INT(SYSTEM(write(sockets[1], "after", 5)), 5);
    RUN_UNTIL(there, me.received == 11);
    raw_close(&sockets[1]);
    CHECK_INT(kolo_loop_run(there, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(me.closed, 2);
    CHECK_OK(kolo_remote_release(remote));
    CHECK_OK(kolo_loop_free(there));
}

TEST(a_connection_that_cannot_move_stays) {
    kolo_loop *there = NULL;
    kolo_remote *remote = NULL;
    mover me;
    int sockets[2];
    memset(&me, 0, sizeof me);
    CHECK_OK(kolo_loop_new(NULL, &there));
    CHECK_OK(kolo_loop_remote(there, &remote));
    kolo_tcp tcp = adopted(loop, &me, sockets);
    CHECK_ERROR(kolo_tcp_move(loop, tcp, NULL, arrived, &me), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_move(loop, tcp, remote, NULL, &me), KOLO_EINVAL);
    CHECK_OK(kolo_loop_free(there));
    CHECK_ERROR(kolo_tcp_move(loop, tcp, remote, arrived, &me), KOLO_ECANCELED);
    CHECK_INT(kolo_kind_of(loop, tcp), KOLO_KIND_TCP);
    CHECK_OK(kolo_close(loop, tcp));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(me.told, 0);
    CHECK_INT(me.closed, 1);
    raw_close(&sockets[1]);
    CHECK_OK(kolo_remote_release(remote));
}

TEST(a_loop_that_goes_says_so_to_what_was_on_its_way) {
    kolo_loop *there = NULL;
    kolo_remote *remote = NULL;
    mover me;
    char byte;
    int sockets[2];
    memset(&me, 0, sizeof me);
    CHECK_OK(kolo_loop_new(NULL, &there));
    CHECK_OK(kolo_loop_remote(there, &remote));
    kolo_tcp tcp = adopted(loop, &me, sockets);
    CHECK_OK(kolo_tcp_move(loop, tcp, remote, arrived, &me));
    CHECK_OK(kolo_loop_free(there));
    CHECK_INT(me.told, 1);
    CHECK_INT(me.status, KOLO_ECANCELED);
    CHECK(me.tcp == 0);
    CHECK_INT(SYSTEM(read(sockets[1], &byte, 1)), 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0); /* its handle here closes */
    CHECK_INT(me.closed, 1);
    raw_close(&sockets[1]);
    CHECK_OK(kolo_remote_release(remote));
}
