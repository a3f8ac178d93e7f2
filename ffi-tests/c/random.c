/* Random calls, also inside callbacks, against the promises that hold for all handles: no callback of a handle after it
 * was closed but its last, on_close exactly once, each accepted write, send, piece of work, post and deferred function
 * answered exactly once, and errors where the number is stale. What a user may free is freed: a handle's own memory in its
 * on_close, that of a write when it is answered. A failure names its seed; KOLO_TEST_SEED=N runs that one alone. */
#include "harness.h"

#include <signal.h>
#include <sys/socket.h>

enum { SLOTS = 40, STEPS = 400, SEEDS = 60 };

typedef enum sort { NONE, TIMER, HOOK, WAKER, SIGNAL, POLL, LISTENER, STREAM, UDP, FILE_, REQUEST } sort;

typedef struct slot {
    sort sort;
    kolo_handle handle;
    bool closed;    /* kolo_close has succeeded, or the stream has failed */
    int on_close;   /* how often heard */
    int writes;     /* owned writes that were not answered yet */
    bool connected; /* a stream that may be written */
    bool local;     /* a Unix-domain listener */
    bool canceled;  /* a request that was taken back */
    bool kept;      /* to the end, to be used when stale */
    uint8_t worked; /* by a thread: how often */
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
static int alive;           /* slots whose on_close is still to come */
static unsigned long calls; /* of the library */

/* Numbers of handles whose memory is gone. */
enum { STALE = 16 };
static kolo_handle stale[STALE];

/* Memory of a write or a send, which is the library's until that is answered. */
typedef struct payload {
    slot *of;
    size_t length;
    uint8_t bytes[];
} payload;

static uint32_t random_below(uint32_t bound) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % bound;
}

#define HOLDS(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("    again: KOLO_TEST_SEED=%llu\n", (unsigned long long)seed);                                                       \
            test_fail(__FILE__, __LINE__, #condition);                                                                 \
        }                                                                                                              \
    } while (0)

static void random_step(void);

static void release_slot(slot *me) {
    if (me->remote != NULL) HOLDS(kolo_remote_release(me->remote) == KOLO_OK);
    for (int i = 0; i < 2; i++) raw_close(&me->descriptors[i]);
    free(me);
}

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
    alive--;
    leave();
    if (!me->kept) { /* nothing refers to it any more */
        for (uint32_t at = 0; at < SLOTS; at++)
            if (slots[at] == me) slots[at] = NULL;
        stale[random_below(STALE)] = handle;
        release_slot(me);
    }
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
static void shutdown_done(kolo_loop *loop, kolo_stream stream, int status, void *user) {
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
static void write_done(kolo_loop *loop, kolo_handle handle, int status, void *user) {
    payload *payload = user;
    slot *me = payload->of;
    for (size_t i = 0; i < payload->length; i++) HOLDS(payload->bytes[i] == (uint8_t)payload->length);
    free(payload);
    shutdown_done(loop, handle, status, me);
}

static void datagram_came(kolo_loop *loop, kolo_udp udp, const kolo_datagram *datagram, void *user) {
    heard(loop, udp, user, UDP);
    HOLDS(!datagram->truncated);
    const uint8_t *data = datagram->data;
    /* Each has its length in every byte: none is a part of one, or two. */
    for (size_t i = 0; i < datagram->length; i++) HOLDS(data[i] == (uint8_t)datagram->length);
    leave();
}
static void udp_drained(kolo_loop *loop, kolo_udp udp, void *user) {
    heard(loop, udp, user, UDP);
    leave();
}
static void udp_failed(kolo_loop *loop, kolo_udp udp, const kolo_datagram_error *error, void *user) {
    heard(loop, udp, user, UDP);
    HOLDS(error->error < 0);
    leave();
}
static void udp_closed(kolo_loop *loop, kolo_udp udp, void *user) {
    slot *me = user;
    enter();
    HOLDS(loop == the_loop && me->handle == udp && (me->closed || ending) && me->on_close == 0 && me->writes == 0);
    leave();
}

/* On another thread. */
static void work(void *user) {
    slot *me = user;
    me->worked++;
}
static void work_done(kolo_loop *loop, kolo_request request, int status, void *user) {
    slot *me = user;
    enter();
    HOLDS(loop == the_loop && me->handle == request);
    HOLDS(me->on_close == 0 && me->writes == 1);
    me->writes = 0;
    if (me->canceled) HOLDS(status == KOLO_ECANCELED && me->worked == 0);
    if (status == KOLO_OK) HOLDS(me->worked == 1);
    if (status != KOLO_OK) HOLDS(status == KOLO_ECANCELED && (me->canceled || me->closed || ending));
    me->closed = true; /* the number is dead */
    leave();
}
static void file_read(kolo_loop *loop, kolo_request request, int status, uint64_t length, void *user) {
    payload *payload = user;
    slot *me = payload->of; /* the request's */
    (void)length;
    free(payload);
    enter();
    HOLDS(loop == the_loop && me->handle == request);
    HOLDS(me->on_close == 0 && me->writes == 1);
    HOLDS(status == KOLO_OK || (status == KOLO_ECANCELED && (me->canceled || me->closed || ending)));
    me->writes = 0;
    me->closed = true;
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
    me->kept = random_below(3) == 0;
    return me;
}

static payload *new_payload(slot *of, size_t length) {
    payload *payload = malloc(sizeof *payload + length);
    HOLDS(payload != NULL);
    payload->of = of;
    payload->length = length;
    memset(payload->bytes, (int)(length & 255), length);
    return payload;
}

static void keep_slot(slot *me, uint32_t at) {
    HOLDS(me->handle != 0);
    slots[at] = me;
    alive++;
    HOLDS(kolo_on_close(the_loop, me->handle, handle_closed, me) == KOLO_OK);
}

/* A slot that is kept to the end. */
static void bury(uint32_t at) {
    slots[at]->next_dead = dead;
    dead = slots[at];
    slots[at] = NULL;
}

static void name_of(const slot *me, char name[64], size_t *length) {
    name[0] = 0; /* abstract */
    *length = 1 + (size_t)snprintf(name + 1, 63, "kolo-random-%d-%p", (int)getpid(), (const void *)me);
}

/* Two ends that are open at once, of a pair or a pipe. */
static void open_pair(slot *me, uint32_t at, bool pipe) {
    uint32_t other_at;
    slot *other = new_slot(STREAM, &other_at);
    if (other == NULL || other_at == at) {
        free(other);
        free(me);
        return;
    }
    kolo_stream_handler one_table = stream_table(), other_table = stream_table();
    me->connected = other->connected = true;
    HOLDS((pipe ? kolo_pipe_pair : kolo_local_pair)(the_loop, &one_table, me, &other_table, other, &me->handle,
                                                    &other->handle) == KOLO_OK);
    keep_slot(me, at);
    keep_slot(other, other_at);
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
    slot *me = new_slot((sort)(1 + random_below(10)), &at);
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
    case UDP: {
        kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
        if (random_below(4)) handler.on_datagram = datagram_came;
        handler.on_drain = udp_drained;
        handler.on_error = udp_failed;
        handler.on_close = udp_closed;
        HOLDS(kolo_udp_bind(the_loop, &any, NULL, &handler, me, &me->handle) == KOLO_OK);
        HOLDS(kolo_udp_local(the_loop, me->handle, &me->address) == KOLO_OK);
        break;
    }
    case FILE_: HOLDS(kolo_file_open_sync(the_loop, "/proc/self/exe", NULL, &me->handle) == KOLO_OK); break;
    case REQUEST:
        me->writes = 1;
        HOLDS(kolo_work_submit(the_loop, (int)random_below(3), work, work_done, me, &me->handle) == KOLO_OK);
        break;
    case LISTENER:
        listening.on_accept = accepted;
        listening.on_close = listener_closed;
        if (random_below(2)) {
            char name[64];
            size_t length;
            name_of(me, name, &length);
            me->local = true;
            HOLDS(kolo_local_listen(the_loop, name, length, NULL, &listening, me, &me->handle) == KOLO_OK);
            break;
        }
        HOLDS(kolo_tcp_listen(the_loop, &any, NULL, &listening, me, &me->handle) == KOLO_OK);
        HOLDS(kolo_listener_address(the_loop, me->handle, &me->address) == KOLO_OK);
        break;
    default: { /* a stream: a pair, a pipe; to a listener of ours, or to where none is */
        uint32_t how = random_below(4);
        if (how < 2) {
            open_pair(me, at, how == 0);
            return;
        }
        slot *to = slots[random_below(SLOTS)];
        kolo_stream_handler handler = stream_table();
        if (to != NULL && to->sort == LISTENER && to->local) {
            char name[64];
            size_t length;
            name_of(to, name, &length);
            HOLDS(kolo_local_connect(the_loop, name, length, NULL, &handler, me, &me->handle) == KOLO_OK);
            break;
        }
        any = to != NULL && to->sort == LISTENER ? to->address : refusing;
        HOLDS(kolo_tcp_connect(the_loop, &any, NULL, &handler, me, &me->handle) == KOLO_OK);
    }
    }
    keep_slot(me, at);
}

static const uint8_t block[70000];

/* A read of a file: a request with a slot of its own. */
static int read_file(kolo_file file) {
    uint32_t at;
    kolo_socket descriptor;
    slot *me = new_slot(REQUEST, &at);
    if (me == NULL) return kolo_file_descriptor(the_loop, file, &descriptor);
    payload *memory = new_payload(me, random_below(30000));
    int64_t offset = random_below(2) ? 0 : random_below(100000);
    int result = kolo_file_read(the_loop, file, memory->bytes, memory->length, offset, file_read, memory, &me->handle);
    if (result != KOLO_OK) {
        free(memory);
        free(me);
        return result;
    }
    me->writes = 1;
    keep_slot(me, at);
    return result;
}

static int act_on_udp(slot *me) {
    slot *to = slots[random_below(SLOTS)];
    const kolo_address *address = to != NULL && to->sort == UDP ? &to->address : &me->address;
    kolo_transmit transmit = KOLO_TRANSMIT_INIT;
    transmit.to = random_below(10) ? address : NULL;
    size_t length = random_below(3) ? random_below(200) : random_below(20000), queued;
    switch (random_below(7)) {
    case 0:
    case 1: {
        payload *payload = new_payload(me, length);
        kolo_buffer buffer = {payload->bytes, length};
        int result = kolo_udp_send_owned(the_loop, me->handle, &buffer, 1, &transmit, write_done, payload, NULL);
        if (result >= 0)
            me->writes++;
        else
            free(payload);
        return result;
    }
    case 2:
    case 3: {
        uint8_t bytes[256];
        memset(bytes, (int)(length & 255), sizeof bytes);
        length &= 255;
        memset(bytes, (int)length, sizeof bytes);
        kolo_buffer buffer = {bytes, length};
        if (random_below(3) == 0) {
            int result = kolo_udp_try_send(the_loop, me->handle, &buffer, 1, &transmit);
            return result == KOLO_EAGAIN || result == KOLO_ECONNREFUSED ? KOLO_OK : result;
        }
        return kolo_udp_send(the_loop, me->handle, bytes, length, transmit.to);
    }
    case 4: return kolo_udp_receive_stop(the_loop, me->handle);
    case 5: return kolo_udp_receive_start(the_loop, me->handle);
    default:
        return random_below(2) ? kolo_udp_queued(the_loop, me->handle, &queued)
                               : kolo_udp_set_watermarks(the_loop, me->handle, 100, 500, 100000);
    }
}

static void act_on(slot *me) {
    kolo_handle handle = me->handle;
    bool dead_already = me->closed;
    int result = 0;
    size_t queued = 0;
    uint64_t write = 0;
    calls++;
    switch (me->sort) {
    case UDP:
        result = act_on_udp(me);
        if (!dead_already && (result == KOLO_EDESTADDRREQ || result == KOLO_ENOBUFS)) return;
        break;
    case FILE_: result = read_file(handle); break;
    case REQUEST:
        result = kolo_request_cancel(the_loop, handle);
        if (result == KOLO_OK) me->canceled = true;
        if (result == KOLO_EBUSY) result = KOLO_OK;
        break;
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
        case 3: {
            payload *payload = new_payload(me, random_below(3) ? random_below(300) : random_below(60000));
            size_t first = payload->length / 3;
            kolo_buffer buffers[2] = {{payload->bytes, first}, {payload->bytes + first, payload->length - first}};
            result = kolo_stream_write_owned(the_loop, handle, buffers, 2, write_done, payload, &write);
            if (result < 0) {
                free(payload);
            } else {
                me->writes++;
                if (random_below(4) == 0) {
                    result = kolo_stream_write_cancel(the_loop, handle, write);
                    if (result == KOLO_EBUSY || result == KOLO_ENOENT) result = 0; /* begun, or ended */
                }
            }
            break;
        }
        case 4:
            result = kolo_stream_shutdown(the_loop, handle, shutdown_done, me);
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
    calls++;
    int result = random_below(5) == 0 && me->sort == STREAM ? kolo_stream_reset(the_loop, me->handle)
                                                            : kolo_close(the_loop, me->handle);
    if (me->closed) HOLDS(result == KOLO_EBADF);
    if (me->sort != STREAM) HOLDS(result == (me->closed ? KOLO_EBADF : KOLO_OK));
    me->closed = true;
    if (me->kept && random_below(2)) bury(at); /* else it is there for a while, to be used when stale */
}

/* Numbers of which nothing is known but that they are dead. */
static void use_stale(void) {
    kolo_handle handle = stale[random_below(STALE)];
    HOLDS(kolo_close(the_loop, handle) == KOLO_EBADF);
    HOLDS(kolo_ref(the_loop, handle) == KOLO_EBADF);
    HOLDS(kolo_timer_stop(the_loop, handle) == KOLO_EBADF);
    HOLDS(kolo_stream_write(the_loop, handle, "x", 1) == KOLO_EBADF);
    HOLDS(kolo_udp_send(the_loop, handle, "x", 1, NULL) == KOLO_EBADF);
    HOLDS(kolo_request_cancel(the_loop, handle) == KOLO_EBADF);
    calls += 6;
}

static void random_step(void) {
    uint32_t at = random_below(SLOTS);
    kolo_remote *remote = NULL;
    switch (random_below(13)) {
    case 0:
    case 1:
    case 2:
        calls++;
        open_one();
        break;
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
    case 6: use_stale(); break;
    default:
        if (slots[at] != NULL) act_on(slots[at]);
    }
}

static void run_seed(uint64_t number) {
    seed = number;
    state = number * 0x9e3779b97f4a7c15u + 1;
    tasks_accepted = tasks_answered = 0;
    ending = false;
    memset(stale, 0, sizeof stale);
    CHECK_OK(kolo_loop_new(NULL, &the_loop));
    for (int i = 0; i < STEPS; i++) {
        random_step();
        if (random_below(4) == 0) HOLDS(kolo_loop_run(the_loop, KOLO_RUN_NOWAIT) >= 0);
    }
    ending = true;
    HOLDS(kolo_loop_free(the_loop) == KOLO_OK);
    HOLDS(tasks_answered == tasks_accepted);
    HOLDS(alive == 0);
    for (uint32_t at = 0; at < SLOTS; at++)
        if (slots[at] != NULL) bury(at);
    while (dead != NULL) {
        slot *me = dead;
        dead = me->next_dead;
        HOLDS(me->on_close == 1);
        HOLDS(me->writes == 0);
        release_slot(me);
    }
}

TEST_WITHOUT_LOOP(random_calls_keep_the_promises) {
    const char *one = getenv("KOLO_TEST_SEED");
    uint64_t first = one == NULL ? 1 : strtoull(one, NULL, 10);
    uint64_t last = one == NULL ? SEEDS : first;
    kolo_address any = loopback_v4(0);
    int socket = raw_socket_bound(&any, &refusing);
    for (uint64_t number = first; number <= last; number++) run_seed(number);
    printf("    %lu calls, seeds %llu to %llu\n", calls, (unsigned long long)first, (unsigned long long)last);
    raw_close(&socket);
}
