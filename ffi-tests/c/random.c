/* Random calls, also inside callbacks, against the promises that hold for all handles: no callback of a handle after it
 * was closed but its last, on_close exactly once, each accepted write, post and deferred function answered exactly once,
 * and errors where the number is stale. A failure names its seed; KOLO_TEST_SEED=N runs that one alone. */
#include "harness.h"

#include <signal.h>
#include <sys/socket.h>

enum { SLOTS = 40, STEPS = 400, SEEDS = 60 };

typedef enum sort { NONE, TIMER, HOOK, WAKER, SIGNAL, POLL, LISTENER, STREAM } sort;

typedef struct slot {
    sort sort;
    kolo_handle handle;
    bool closed;    /* kolo_close has succeeded, or the stream has failed */
    int on_close;   /* how often heard */
    int writes;     /* owned writes that were not answered yet */
    bool connected; /* a stream that may be written */
    kolo_address address;
    kolo_remote *remote;
    int descriptors[2];
    struct slot *next_dead;
} slot;

static kolo_loop *the_loop;
static kolo_address refusing; /* nobody listens there */
static slot *slots[SLOTS];
static slot *dead;           /* closed, waiting to be checked at the end */
static uint64_t seed, state; /* of the random numbers */
static int depth;            /* of callbacks: one at most */
static int tasks_accepted, tasks_answered;
static bool ending;

static uint32_t random_below(uint32_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % bound;
}

#define HOLDS(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("    seed %llu\n", (unsigned long long)seed);                                                       \
            test_fail(__FILE__, __LINE__, #condition);                                                                 \
        }                                                                                                              \
    } while (0)

static void random_step(void);

static void enter(void) {
    HOLDS(depth == 0); /* callbacks never run inside another */
    depth++;
}

static void leave(void) {
    if (!ending) {
        uint32_t steps = random_below(3);
        for (uint32_t i = 0; i < steps; i++) random_step();
    }
    depth--;
}

/* ---- callbacks ---- */

static slot *heard(kolo_loop *loop, kolo_handle handle, void *user, sort sort) {
    slot *me = user;
    enter();
    HOLDS(loop == the_loop);
    HOLDS(me->sort == sort);
    HOLDS(me->handle == handle);
    HOLDS(!me->closed);
    HOLDS(me->on_close == 0);
    return me;
}

static void timer_fired(kolo_loop *loop, kolo_timer timer, void *user) {
    heard(loop, timer, user, TIMER);
    leave();
}
static void hook_called(kolo_loop *loop, kolo_hook hook, void *user) {
    heard(loop, hook, user, HOOK);
    leave();
}
static void waker_woken(kolo_loop *loop, kolo_waker waker, void *user) {
    heard(loop, waker, user, WAKER);
    leave();
}
static void signal_came(kolo_loop *loop, kolo_signal signal, int number, void *user) {
    heard(loop, signal, user, SIGNAL);
    HOLDS(number == SIGUSR1 || number == SIGUSR2);
    leave();
}
static void poll_ready(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    slot *me = heard(loop, poll, user, POLL);
    HOLDS(status == 0 && events != 0);
    char bytes[16];
    if (events & KOLO_POLL_READABLE) (void)recv(me->descriptors[0], bytes, sizeof bytes, MSG_DONTWAIT);
    leave();
}
static void task_called(kolo_loop *loop, int status, void *user) {
    (void)user;
    enter();
    HOLDS(loop == the_loop);
    HOLDS(status == (ending ? KOLO_ECANCELED : KOLO_OK));
    tasks_answered++;
    leave();
}
static void handle_closed(kolo_loop *loop, kolo_handle handle, void *user) {
    slot *me = user;
    enter();
    HOLDS(loop == the_loop);
    HOLDS(me->handle == handle);
    HOLDS(me->closed || ending);
    HOLDS(me->on_close == 0);
    HOLDS(me->writes == 0);
    HOLDS(kolo_close(loop, handle) == KOLO_EBADF);
    me->on_close++;
    leave();
}

static void stream_opened(kolo_loop *loop, kolo_stream stream, void *user) {
    heard(loop, stream, user, STREAM)->connected = true;
    leave();
}
static void stream_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    heard(loop, stream, user, STREAM);
    HOLDS(length > 0);
    uint8_t first = data[0], last = data[length - 1];
    leave();
    HOLDS(data[0] == first && data[length - 1] == last); /* whatever the steps did */
}
static void stream_end(kolo_loop *loop, kolo_stream stream, void *user) {
    slot *me = heard(loop, stream, user, STREAM);
    if (random_below(2)) {
        HOLDS(kolo_close(loop, stream) == KOLO_OK);
        me->closed = true;
    }
    leave();
}
static void stream_event(kolo_loop *loop, kolo_stream stream, void *user) {
    heard(loop, stream, user, STREAM);
    leave();
}
static void stream_timeout(kolo_loop *loop, kolo_stream stream, int which, void *user) {
    heard(loop, stream, user, STREAM);
    HOLDS(which == KOLO_TIMEOUT_READ || which == KOLO_TIMEOUT_WRITE);
    leave();
}
static void stream_error(kolo_loop *loop, kolo_stream stream, int error, void *user) {
    slot *me = heard(loop, stream, user, STREAM);
    HOLDS(error < 0);
    leave();
    me->closed = true;
}
static void stream_closed(kolo_loop *loop, kolo_stream stream, void *user) {
    slot *me = user;
    enter();
    HOLDS(loop == the_loop);
    HOLDS(me->handle == stream);
    /* Also closes by itself, once both sides have ended, where it has no on_end. */
    me->closed = true;
    HOLDS(me->on_close == 0); /* before that of the handle */
    HOLDS(me->writes == 0);
    leave();
}
static void write_done(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    slot *me = user;
    enter();
    HOLDS(loop == the_loop);
    HOLDS(me->handle == stream);
    HOLDS(me->on_close == 0);
    HOLDS(me->writes > 0);
    HOLDS(status <= 0);
    me->writes--;
    leave();
}

static kolo_stream_handler stream_table(void) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_open = stream_opened;
    handler.on_data = stream_data;
    if (random_below(2)) handler.on_end = stream_end;
    handler.on_drain = stream_event;
    handler.on_timeout = stream_timeout;
    handler.on_error = stream_error;
    handler.on_close = stream_closed;
    return handler;
}

/* ---- slots ---- */

static slot *new_slot(sort sort, uint32_t *at) {
    *at = random_below(SLOTS);
    if (slots[*at] != NULL) return NULL;
    slot *me = calloc(1, sizeof *me);
    HOLDS(me != NULL);
    me->sort = sort;
    me->descriptors[0] = me->descriptors[1] = -1;
    return me;
}

static void keep_slot(slot *me, uint32_t at) {
    HOLDS(me->handle != 0);
    slots[at] = me;
    HOLDS(kolo_on_close(the_loop, me->handle, handle_closed, me) == KOLO_OK);
}

static void bury(uint32_t at) {
    slots[at]->next_dead = dead;
    dead = slots[at];
    slots[at] = NULL;
}

static void accepted(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user) {
    uint32_t at;
    heard(loop, listener, user, LISTENER);
    slot *me = random_below(4) ? new_slot(STREAM, &at) : NULL;
    if (me != NULL) {
        kolo_stream_handler handler = stream_table();
        me->handle = stream;
        me->connected = true;
        HOLDS(kolo_stream_attach(loop, stream, &handler, me) == KOLO_OK);
        keep_slot(me, at);
    } /* else it is closed, having no handler */
    leave();
}
static void listener_closed(kolo_loop *loop, kolo_listener listener, void *user) {
    slot *me = user;
    enter();
    HOLDS(loop == the_loop && me->handle == listener && (me->closed || ending) && me->on_close == 0);
    leave();
}

static void open_one(void) {
    uint32_t at;
    slot *me = new_slot((sort)(1 + random_below(7)), &at);
    if (me == NULL) return;
    kolo_address any = loopback_v4(0);
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    switch (me->sort) {
    case TIMER: HOLDS(kolo_timer_open(the_loop, timer_fired, me, &me->handle) == KOLO_OK); break;
    case HOOK:
        HOLDS(kolo_hook_open(the_loop, 1 + (int)random_below(3), hook_called, me, &me->handle) == KOLO_OK);
        break;
    case WAKER:
        HOLDS(kolo_waker_open(the_loop, waker_woken, me, &me->handle) == KOLO_OK);
        HOLDS(kolo_waker_remote(the_loop, me->handle, &me->remote) == KOLO_OK);
        break;
    case SIGNAL: HOLDS(kolo_signal_open(the_loop, signal_came, me, &me->handle) == KOLO_OK); break;
    case POLL:
        SYSTEM(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, me->descriptors));
        HOLDS(kolo_poll_open(the_loop, me->descriptors[0], poll_ready, me, &me->handle) == KOLO_OK);
        break;
    case LISTENER:
        listening.on_accept = accepted;
        listening.on_close = listener_closed;
        HOLDS(kolo_tcp_listen(the_loop, &any, NULL, &listening, me, &me->handle) == KOLO_OK);
        HOLDS(kolo_listener_address(the_loop, me->handle, &me->address) == KOLO_OK);
        break;
    default: { /* a stream: to a listener of ours, or to where none is */
        slot *to = slots[random_below(SLOTS)];
        kolo_stream_handler handler = stream_table();
        any = to != NULL && to->sort == LISTENER ? to->address : refusing;
        HOLDS(kolo_tcp_connect(the_loop, &any, NULL, &handler, me, &me->handle) == KOLO_OK);
    }
    }
    keep_slot(me, at);
}

static const uint8_t block[70000];

static void act_on(slot *me) {
    kolo_handle handle = me->handle;
    bool dead_already = me->closed;
    int result = 0;
    size_t queued = 0;
    kolo_buffer buffers[2] = {{(void *)(uintptr_t)block, 1 + random_below(60000)}, {(void *)(uintptr_t)block, 7}};
    uint64_t write = 0;
    switch (me->sort) {
    case TIMER:
        switch (random_below(3)) {
        case 0: result = kolo_timer_start(the_loop, handle, random_below(300000), random_below(2) * 100000); break;
        case 1: result = kolo_timer_stop(the_loop, handle); break;
        default:
            result = kolo_timer_again(the_loop, handle);
            if (result == KOLO_EINVAL) result = 0; /* had no period */
        }
        break;
    case HOOK: result = random_below(3) ? kolo_hook_stop(the_loop, handle) : kolo_hook_start(the_loop, handle); break;
    case WAKER: {
        int woken = kolo_remote_wake(me->remote);
        HOLDS(woken == (me->closed ? KOLO_ECANCELED : KOLO_OK));
        return;
    }
    case SIGNAL:
        if (random_below(4) == 0) {
            result = kolo_signal_stop(the_loop, handle);
        } else {
            int number = random_below(2) ? SIGUSR1 : SIGUSR2;
            result = kolo_signal_start(the_loop, handle, number);
            if (result == KOLO_OK) (void)raise(number);
        }
        break;
    case POLL:
        if (random_below(3) == 0) {
            result = kolo_poll_stop(the_loop, handle);
        } else {
            result = kolo_poll_start(the_loop, handle, 1 + random_below(15));
            SYSTEM(send(me->descriptors[1], "x", 1, MSG_DONTWAIT) >= 0 || errno == EAGAIN ? 0 : -1);
        }
        break;
    case LISTENER:
        result = random_below(3) ? kolo_listener_resume(the_loop, handle) : kolo_listener_pause(the_loop, handle);
        break;
    default:
        switch (random_below(9)) {
        case 0:
        case 1: result = kolo_stream_write(the_loop, handle, block, random_below(sizeof block)); break;
        case 2:
        case 3:
            result = kolo_stream_write_owned(the_loop, handle, buffers, random_below(3), write_done, me, &write);
            if (result >= 0) {
                me->writes++;
                if (random_below(4) == 0) {
                    result = kolo_stream_write_cancel(the_loop, handle, write);
                    if (result == KOLO_EBUSY || result == KOLO_ENOENT) result = 0; /* begun, or ended */
                }
            }
            break;
        case 4:
            result = kolo_stream_shutdown(the_loop, handle, write_done, me);
            if (result >= 0) me->writes++;
            break;
        case 5: result = kolo_stream_read_stop(the_loop, handle); break;
        case 6: result = kolo_stream_read_start(the_loop, handle); break;
        case 7:
            result = kolo_stream_set_timeouts(the_loop, handle, random_below(2) * 200000, random_below(2) * 200000);
            break;
        default:
            result = random_below(2) ? kolo_stream_queued(the_loop, handle, &queued)
                                     : kolo_stream_set_watermarks(the_loop, handle, 1000, 5000, 100000);
        }
        if (result == KOLO_EBADF) me->closed = true; /* it may have failed, or finished, by itself */
        if (result == KOLO_EPIPE || result == KOLO_EALREADY || result == KOLO_ENOTCONN || result == KOLO_ENOBUFS ||
            result == KOLO_EBADF)
            return; /* after a shutdown, a failure, a full queue */
    }
    if (dead_already)
        HOLDS(result == KOLO_EBADF);
    else
        HOLDS(result >= 0);
}

static void close_one(uint32_t at) {
    slot *me = slots[at];
    int result = random_below(5) == 0 && me->sort == STREAM ? kolo_stream_reset(the_loop, me->handle)
                                                            : kolo_close(the_loop, me->handle);
    if (me->closed) HOLDS(result == KOLO_EBADF);
    if (me->sort != STREAM) HOLDS(result == (me->closed ? KOLO_EBADF : KOLO_OK));
    me->closed = true;
    if (random_below(2)) bury(at); /* else it is kept for a while, to be used when stale */
}

static void random_step(void) {
    uint32_t at = random_below(SLOTS);
    kolo_remote *remote = NULL;
    switch (random_below(12)) {
    case 0:
    case 1:
    case 2: open_one(); break;
    case 3:
        if (slots[at] != NULL) close_one(at);
        break;
    case 4:
        if (kolo_loop_defer(the_loop, task_called, NULL) == KOLO_OK) tasks_accepted++;
        break;
    case 5:
        HOLDS(kolo_loop_remote(the_loop, &remote) == KOLO_OK);
        if (kolo_remote_post(remote, task_called, NULL) == KOLO_OK) tasks_accepted++;
        HOLDS(kolo_remote_release(remote) == KOLO_OK);
        break;
    default:
        if (slots[at] != NULL) act_on(slots[at]);
    }
}

static void run_seed(uint64_t number) {
    seed = number;
    state = number * 0x9e3779b97f4a7c15u + 1;
    tasks_accepted = tasks_answered = 0;
    ending = false;
    CHECK_OK(kolo_loop_new(NULL, &the_loop));
    for (int i = 0; i < STEPS; i++) {
        random_step();
        if (random_below(4) == 0) HOLDS(kolo_loop_run(the_loop, KOLO_RUN_NOWAIT) >= 0);
    }
    ending = true;
    HOLDS(kolo_loop_free(the_loop) == KOLO_OK);
    HOLDS(tasks_answered == tasks_accepted);
    for (uint32_t at = 0; at < SLOTS; at++)
        if (slots[at] != NULL) bury(at);
    while (dead != NULL) {
        slot *me = dead;
        dead = me->next_dead;
        HOLDS(me->on_close == 1);
        HOLDS(me->writes == 0);
        if (me->remote != NULL) HOLDS(kolo_remote_release(me->remote) == KOLO_OK);
        for (int i = 0; i < 2; i++) raw_close(&me->descriptors[i]);
        free(me);
    }
}

TEST_WITHOUT_LOOP(random_calls_keep_the_promises) {
    const char *one = getenv("KOLO_TEST_SEED");
    uint64_t first = one == NULL ? 1 : strtoull(one, NULL, 10);
    uint64_t last = one == NULL ? SEEDS : first;
    kolo_address any = loopback_v4(0);
    int socket = raw_socket_bound(&any, &refusing);
    for (uint64_t number = first; number <= last; number++) run_seed(number);
    raw_close(&socket);
}
