/* Programs against kolo's C interface, written as bytes: which functions are called, in which order, with which handles
 * (of every kind; closed ones and wrong ones too) and arguments, from outside and from inside of callbacks.
 *
 * What must hold: no callback inside the call that causes it, nor inside another; none of a handle after it was closed,
 * except what was under way; on_close exactly once and last; each accepted write, request, post and deferred function
 * answered exactly once; an error where the handle is closed or of another kind; no panic; no descriptor left. What a
 * callback was given as its `user` is freed after the last use that is allowed, so that the address sanitizer sees others.
 *
 * Nothing here reaches beyond this machine, or files outside of a folder of its own. */
#include "fuzz.h"

#include <kolo.h>

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 16, STEPS_MAX = 300, STEPS_IN_CALLBACK_MAX = 3, COMPLETIONS_MAX = 64 };

typedef enum sort { NONE, TIMER, HOOK, WAKER, SIGNAL, POLL, LISTENER, STREAM, UDP, WATCH, FILE_HANDLE, DIRECTORY, REQUEST } sort;

/* What callbacks of a handle get. Freed in its on_close. */
typedef struct object {
    kolo_handle handle;
    sort sort;
    bool closed;      /* kolo_close has succeeded, or it has ended by itself */
    bool handle_told; /* the on_close of kolo_on_close */
    int under_way;    /* writes that were not answered yet */
    int descriptor;   /* of a poll handle: its own end and the other */
    int other;
    kolo_remote *remote;
} object;

/* What is under way, as one callback gets it. Freed when it is answered. */
typedef struct completion {
    object *owner; /* of a write; NULL of a request */
    int slot;      /* of a request */
    uint8_t *memory;
} completion;

/* A handle as the program remembers it, also when it is dead. */
typedef struct slot {
    kolo_handle handle;
    sort sort;
    object *object; /* NULL when that is gone, and for files, folders and requests */
    bool closed;
    uint64_t write; /* the last one */
} slot;

static struct {
    const uint8_t *bytes;
    size_t left;
    int steps;
    kolo_loop *loop;
    slot slots[SLOTS];
    int depth;            /* of callbacks */
    bool running;         /* inside of kolo_loop_run or kolo_loop_free */
    bool ending;          /* inside of kolo_loop_free */
    int objects;          /* alive */
    int completions;      /* not answered yet */
    int tasks;            /* posts and deferred functions not run yet */
    kolo_address refuses; /* nobody listens there */
} program;

static unsigned long long calls_made;
unsigned long long fuzz_calls_made(void) { return calls_made; }

/* ---- the bytes ---- */

static uint8_t take(void)
{
    if (program.left == 0)
        return 0;
    program.left--;
    return *program.bytes++;
}

static uint32_t take_below(uint32_t bound) { return take() % bound; }

/* Mostly small, now and then any. */
static uint64_t take_number(void)
{
    uint8_t first = take();
    if (first < 0xf0)
        return first;
    uint64_t number = 0;
    for (int i = 0; i < 8; i++)
        number = number << 8 | take();
    return number;
}

/* Up to a millisecond. */
static uint64_t take_delay(void) { return (uint64_t)take() * 4096; }

/* ---- what calls may answer ---- */

static int answered(int result)
{
    calls_made++;
    REQUIRE(result != KOLO_EPANIC && result != KOLO_EWRONGTHREAD && result != KOLO_EFORKED);
    REQUIRE(result >= 0 || strcmp(kolo_error_name(result), "KOLO_EUNKNOWN") != 0 || result == KOLO_EUNKNOWN);
    return result;
}

/* Of a call with a handle of the wanted sort. */
static int judged(const slot *at, sort wanted, int result)
{
    answered(result);
    /* Arguments may be wrong, too, and are looked at first. */
    if (at->closed || at->sort != wanted)
        REQUIRE(result < 0);
    return result;
}

static void mark_closed(object *me)
{
    me->closed = true;
    for (int i = 0; i < SLOTS; i++)
        if (program.slots[i].object == me)
            program.slots[i].closed = true;
}

/* ---- callbacks ---- */

static void step(void);

static void enter(kolo_loop *loop)
{
    REQUIRE(loop == program.loop);
    REQUIRE(program.running);
    REQUIRE(program.depth == 0);
    program.depth++;
}

static void leave(void)
{
    uint32_t steps = take_below(STEPS_IN_CALLBACK_MAX + 1);
    while (steps-- > 0)
        step();
    program.depth--;
}

static object *heard(kolo_loop *loop, kolo_handle handle, void *user, sort sort)
{
    object *me = user;
    enter(loop);
    REQUIRE(me->sort == sort && me->handle == handle && !me->closed && !me->handle_told);
    return me;
}

static void timer_fired(kolo_loop *loop, kolo_timer timer, void *user)
{
    heard(loop, timer, user, TIMER);
    leave();
}
static void hook_called(kolo_loop *loop, kolo_hook hook, void *user)
{
    heard(loop, hook, user, HOOK);
    leave();
}
static void waker_woken(kolo_loop *loop, kolo_waker waker, void *user)
{
    heard(loop, waker, user, WAKER);
    leave();
}
static void signal_came(kolo_loop *loop, kolo_signal handle, int number, void *user)
{
    heard(loop, handle, user, SIGNAL);
    REQUIRE(number == SIGURG || number == SIGWINCH);
    leave();
}
static void poll_ready(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user)
{
    object *me = heard(loop, poll, user, POLL);
    char bytes[16];
    REQUIRE(status < 0 || events != 0);
    (void)!recv(me->descriptor, bytes, sizeof bytes, MSG_DONTWAIT);
    leave();
}
static void watch_told(kolo_loop *loop, kolo_watch watch, const kolo_watch_event *event, void *user)
{
    heard(loop, watch, user, WATCH);
    REQUIRE(event->size >= sizeof *event && event->change != 0);
    REQUIRE(event->path == NULL || strlen(event->path) == event->path_length);
    if (event->change == KOLO_WATCH_ERROR) {
        REQUIRE(event->error < 0);
        mark_closed(user); /* it ends by itself, or may */
    }
    leave();
}
static void task_called(kolo_loop *loop, int status, void *user)
{
    completion *task = user;
    enter(loop);
    REQUIRE(status == (program.ending ? KOLO_ECANCELED : KOLO_OK));
    free(task);
    program.tasks--;
    leave();
}

static void handle_closed(kolo_loop *loop, kolo_handle handle, void *user)
{
    object *me = user;
    enter(loop);
    REQUIRE(me->handle == handle && !me->handle_told && me->under_way == 0);
    REQUIRE(me->closed || program.ending);
    REQUIRE(kolo_close(loop, handle) == KOLO_EBADF);
    me->handle_told = true;
    for (int i = 0; i < SLOTS; i++) {
        if (program.slots[i].object == me) {
            program.slots[i].object = NULL;
            program.slots[i].closed = true;
        }
    }
    if (me->descriptor >= 0)
        close(me->descriptor);
    if (me->other >= 0)
        close(me->other);
    if (me->remote != NULL)
        REQUIRE(kolo_remote_release(me->remote) == KOLO_OK);
    free(me);
    program.objects--;
    leave();
}

static void stream_opened(kolo_loop *loop, kolo_stream stream, void *user)
{
    heard(loop, stream, user, STREAM);
    leave();
}
static void stream_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    heard(loop, stream, user, STREAM);
    REQUIRE(length > 0);
    uint8_t first = data[0], last = data[length - 1];
    leave();
    REQUIRE(data[0] == first && data[length - 1] == last); /* valid until it returns, whatever the steps did */
}
static void stream_event(kolo_loop *loop, kolo_stream stream, void *user)
{
    heard(loop, stream, user, STREAM);
    leave();
}
static void stream_timeout(kolo_loop *loop, kolo_stream stream, int which, void *user)
{
    heard(loop, stream, user, STREAM);
    REQUIRE(which == KOLO_TIMEOUT_READ || which == KOLO_TIMEOUT_WRITE);
    leave();
}
static void stream_error(kolo_loop *loop, kolo_stream stream, int error, void *user)
{
    object *me = heard(loop, stream, user, STREAM);
    REQUIRE(error < 0);
    leave();
    mark_closed(me); /* an error is a stream's end; until here it can be closed */
}
static void stream_closed(kolo_loop *loop, kolo_stream stream, void *user)
{
    object *me = user;
    enter(loop);
    REQUIRE(me->handle == stream && !me->handle_told && me->under_way == 0);
    mark_closed(me); /* by itself, when both sides have ended */
    leave();
}

static kolo_stream_handler stream_table(void)
{
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    uint8_t which = take();
    if (which & 1)
        handler.on_open = stream_opened;
    if (which & 2)
        handler.on_data = stream_data;
    if (which & 4)
        handler.on_end = stream_event;
    if (which & 8)
        handler.on_drain = stream_event;
    if (which & 16)
        handler.on_timeout = stream_timeout;
    handler.on_error = stream_error;
    handler.on_close = stream_closed;
    return handler;
}

/* ---- slots ---- */

static slot *pick(void) { return &program.slots[take_below(SLOTS)]; }

static slot *empty_slot(void)
{
    slot *at = pick();
    return at->object == NULL && (at->closed || at->sort == NONE) ? at : NULL;
}

static object *new_object(sort sort)
{
    object *me = calloc(1, sizeof *me);
    REQUIRE(me != NULL);
    me->sort = sort;
    me->descriptor = me->other = -1;
    program.objects++;
    return me;
}

static void drop_object(object *me)
{
    if (me->descriptor >= 0)
        close(me->descriptor);
    if (me->other >= 0)
        close(me->other);
    free(me);
    program.objects--;
}

/* The outcome of opening: keeps the handle, or forgets the object. */
static void opened(slot *at, object *me, int result)
{
    answered(result);
    if (result < 0) {
        drop_object(me); /* a call that fails has done nothing */
        return;
    }
    REQUIRE(me->handle != 0);
    *at = (slot){me->handle, me->sort, me, false, 0};
    REQUIRE(kolo_on_close(program.loop, me->handle, handle_closed, me) == KOLO_OK);
}

/* A handle that has no callbacks of its own. */
static void keep(slot *at, kolo_handle handle, sort sort)
{
    REQUIRE(handle != 0);
    *at = (slot){handle, sort, NULL, false, 0};
}

/* For callbacks that bring a handle: a slot, or NULL when all are in use. */
static slot *any_empty_slot(void)
{
    for (int i = 0; i < SLOTS; i++)
        if (program.slots[i].object == NULL && (program.slots[i].closed || program.slots[i].sort == NONE))
            return &program.slots[i];
    return NULL;
}

/* ---- options of any size and contents ---- */

/* In memory of exactly the size that it says. `guarded`: offsets of pointers, which stay as they are. */
static void *any_options(const void *initial, size_t whole, const size_t *guarded, size_t guarded_count)
{
    uint8_t how = take();
    if (how < 64)
        return NULL;
    size_t size = how < 224 ? whole : take();
    size_t room = size < sizeof size ? sizeof size : size;
    uint8_t *memory = calloc(1, room);
    REQUIRE(memory != NULL);
    memcpy(memory, initial, room < whole ? room : whole);
    memcpy(memory, &size, sizeof size);
    for (uint32_t pokes = take_below(8); pokes > 0; pokes--) {
        size_t place = sizeof size + take();
        bool free_to_change = place < room;
        for (size_t i = 0; i < guarded_count; i++)
            free_to_change = free_to_change && (place < guarded[i] || place >= guarded[i] + sizeof(void *));
        uint8_t value = take();
        if (free_to_change)
            memory[place] = value;
    }
    return memory;
}

static void *listen_options(void)
{
    const kolo_listen_options initial = KOLO_LISTEN_OPTIONS_INIT;
    return any_options(&initial, sizeof initial, NULL, 0);
}
static void *connect_options(void)
{
    const kolo_connect_options initial = KOLO_CONNECT_OPTIONS_INIT;
    static const size_t guarded[] = {offsetof(kolo_connect_options, local), offsetof(kolo_connect_options, on_attempt)};
    return any_options(&initial, sizeof initial, guarded, 2);
}
static void *udp_options(void)
{
    const kolo_udp_options initial = KOLO_UDP_OPTIONS_INIT;
    return any_options(&initial, sizeof initial, NULL, 0);
}
static void *watch_options(void)
{
    const kolo_watch_options initial = KOLO_WATCH_OPTIONS_INIT;
    return any_options(&initial, sizeof initial, NULL, 0);
}

/* ---- addresses and paths ---- */

static kolo_address loopback(void)
{
    kolo_address address;
    REQUIRE(kolo_address_parse("127.0.0.1", 0, &address) == KOLO_OK);
    return address;
}

static kolo_address pick_address(void)
{
    slot *at = pick();
    kolo_address address = program.refuses;
    if (at->sort == LISTENER)
        (void)judged(at, LISTENER, kolo_listener_address(program.loop, at->handle, &address));
    else if (at->sort == UDP)
        (void)judged(at, UDP, kolo_udp_local(program.loop, at->handle, &address));
    else if (take_below(8) == 0)
        address.family = take(); /* most are none */
    return address;
}

static const char *pick_path(void)
{
    static const char *const paths[] = {"a", "b", "d", "d/e", "d/f", "none/x", "", ".", "l"};
    return paths[take_below(sizeof paths / sizeof paths[0])];
}

/* ---- requests ---- */

static completion *new_completion(object *owner, size_t bytes)
{
    completion *new = calloc(1, sizeof *new);
    REQUIRE(new != NULL);
    new->owner = owner;
    new->slot = -1;
    new->memory = malloc(bytes > 0 ? bytes : 1);
    REQUIRE(new->memory != NULL);
    memset(new->memory, 'k', bytes);
    program.completions++;
    return new;
}

static void free_completion(completion *done)
{
    free(done->memory);
    free(done);
    program.completions--;
}

/* Of a request that was submitted, or was not. */
static void submitted(slot *at, completion *request, int result, kolo_request handle)
{
    answered(result);
    if (result < 0) {
        free_completion(request);
        return;
    }
    REQUIRE(handle != 0);
    request->slot = (int)(at - program.slots);
    keep(at, handle, REQUEST);
}

static void request_over(kolo_loop *loop, kolo_request request, completion *done)
{
    enter(loop);
    slot *at = &program.slots[done->slot];
    REQUIRE(at->handle == request && at->sort == REQUEST);
    at->closed = true;
    free_completion(done);
}
static void fs_done(kolo_loop *loop, kolo_request request, int status, void *user)
{
    (void)status;
    request_over(loop, request, user);
    leave();
}
static void work_done(kolo_loop *loop, kolo_request request, int status, void *user)
{
    REQUIRE(status == KOLO_OK || status == KOLO_ECANCELED);
    request_over(loop, request, user);
    leave();
}
static void transfer_done(kolo_loop *loop, kolo_request request, int status, uint64_t length, void *user)
{
    (void)length;
    fs_done(loop, request, status, user);
}
static void stat_done(kolo_loop *loop, kolo_request request, int status, const kolo_stat *stat, void *user)
{
    REQUIRE((status == KOLO_OK) == (stat != NULL));
    fs_done(loop, request, status, user);
}
static void file_done(kolo_loop *loop, kolo_request request, int status, kolo_file file, void *user)
{
    REQUIRE((status == KOLO_OK) == (file != 0));
    request_over(loop, request, user);
    if (status == KOLO_OK) {
        slot *at = any_empty_slot();
        if (at != NULL)
            keep(at, file, FILE_HANDLE);
        else
            REQUIRE(kolo_close(loop, file) == KOLO_OK);
    }
    leave();
}
static void directory_done(kolo_loop *loop, kolo_request request, int status, kolo_directory directory, void *user)
{
    REQUIRE((status == KOLO_OK) == (directory != 0));
    request_over(loop, request, user);
    if (status == KOLO_OK) {
        slot *at = any_empty_slot();
        if (at != NULL)
            keep(at, directory, DIRECTORY);
        else
            REQUIRE(kolo_close(loop, directory) == KOLO_OK);
    }
    leave();
}
static void entries_done(kolo_loop *loop, kolo_request request, int status, const kolo_directory_entry *entries,
                         size_t count, void *user)
{
    for (size_t i = 0; i < count; i++)
        REQUIRE(strlen(entries[i].name) == entries[i].length);
    fs_done(loop, request, status, user);
}
static void resolve_done(kolo_loop *loop, kolo_request request, int status, const kolo_address *addresses, size_t count,
                         const char *name, void *user)
{
    (void)addresses;
    (void)name;
    REQUIRE((status == KOLO_OK) == (count > 0));
    fs_done(loop, request, status, user);
}
static void some_work(void *user)
{
    completion *mine = user;
    mine->memory[0]++;
}

/* ---- writes ---- */

static void write_done(kolo_loop *loop, kolo_stream stream, int status, void *user)
{
    completion *done = user;
    enter(loop);
    REQUIRE(status <= 0);
    REQUIRE(done->owner->handle == stream && done->owner->under_way > 0 && !done->owner->handle_told);
    done->owner->under_way--;
    free_completion(done);
    leave();
}
static void file_sent(kolo_loop *loop, kolo_stream stream, int status, uint64_t sent, void *user)
{
    (void)sent;
    write_done(loop, stream, status, user);
}
static void datagram_sent(kolo_loop *loop, kolo_udp udp, int status, void *user)
{
    write_done(loop, udp, status, user);
}

/* Of a write that was taken, or was not. */
static void written(object *me, completion *write, int result)
{
    if (result < 0) {
        free_completion(write);
        return;
    }
    REQUIRE(me != NULL);
    me->under_way++;
}

/* ---- opening ---- */

static void accepted(kolo_loop *loop, kolo_listener listener, kolo_stream stream, void *user)
{
    heard(loop, listener, user, LISTENER);
    slot *at = take_below(4) > 0 ? any_empty_slot() : NULL;
    if (at != NULL) {
        object *me = new_object(STREAM);
        kolo_stream_handler handler = stream_table();
        me->handle = stream;
        opened(at, me, kolo_stream_attach(loop, stream, &handler, me));
        REQUIRE(at->object == me);
    } /* else it is closed, having no handler */
    leave();
}
static void listener_error(kolo_loop *loop, kolo_listener listener, int error, void *user)
{
    heard(loop, listener, user, LISTENER);
    REQUIRE(error < 0);
    leave();
}
static void datagram_came(kolo_loop *loop, kolo_udp udp, const kolo_datagram *datagram, void *user)
{
    heard(loop, udp, user, UDP);
    REQUIRE(datagram->size >= sizeof *datagram && (datagram->length == 0 || datagram->data != NULL));
    leave();
}
static void udp_drained(kolo_loop *loop, kolo_udp udp, void *user)
{
    heard(loop, udp, user, UDP);
    leave();
}
static void udp_error(kolo_loop *loop, kolo_udp udp, const kolo_datagram_error *error, void *user)
{
    heard(loop, udp, user, UDP);
    REQUIRE(error->error < 0);
    leave();
}

static void open_pair(slot *at, bool pipe)
{
    slot *second_at = empty_slot();
    if (second_at == NULL || second_at == at)
        return;
    object *first = new_object(STREAM), *second = new_object(STREAM);
    kolo_stream_handler one = stream_table(), two = stream_table();
    int result = pipe ? kolo_pipe_pair(program.loop, &one, first, &two, second, &first->handle, &second->handle)
                      : kolo_local_pair(program.loop, &one, first, &two, second, &first->handle, &second->handle);
    opened(at, first, result);
    opened(second_at, second, result);
}

static void open_listener(slot *at)
{
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    object *me = new_object(LISTENER);
    kolo_address where = loopback();
    void *options = listen_options();
    handler.on_accept = accepted;
    handler.on_error = listener_error;
    opened(at, me, kolo_tcp_listen(program.loop, &where, options, &handler, me, &me->handle));
    free(options);
}

static void open_connection(slot *at)
{
    object *me = new_object(STREAM);
    kolo_stream_handler handler = stream_table();
    kolo_address to[3];
    void *options = connect_options();
    uint32_t count = take_below(4);
    for (uint32_t i = 0; i < 3; i++)
        to[i] = i <= count ? pick_address() : program.refuses;
    int result = count == 0 ? kolo_tcp_connect(program.loop, &to[0], options, &handler, me, &me->handle)
                            : kolo_tcp_connect_any(program.loop, to, count, options, &handler, me, &me->handle);
    opened(at, me, result);
    free(options);
}

static void open_udp(slot *at)
{
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    object *me = new_object(UDP);
    kolo_address where = loopback();
    void *options = udp_options();
    handler.on_datagram = datagram_came;
    handler.on_drain = udp_drained;
    handler.on_error = udp_error;
    opened(at, me, kolo_udp_bind(program.loop, &where, options, &handler, me, &me->handle));
    free(options);
}

static void open_poll(slot *at)
{
    object *me = new_object(POLL);
    int pair[2];
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    me->descriptor = pair[0];
    me->other = pair[1];
    opened(at, me, kolo_poll_open(program.loop, pair[0], poll_ready, me, &me->handle));
}

static void open_file(slot *at)
{
    kolo_open_options options = KOLO_OPEN_OPTIONS_INIT;
    options.flags = take() & 63;
    kolo_file file = 0;
    completion *request;
    kolo_request handle = 0;
    if (take_below(2)) {
        if (answered(kolo_file_open_sync(program.loop, pick_path(), &options, &file)) == KOLO_OK)
            keep(at, file, FILE_HANDLE);
    } else {
        request = new_completion(NULL, 1);
        int result = kolo_file_open(program.loop, pick_path(), &options, file_done, request, &handle);
        submitted(at, request, result, handle);
    }
}

static void open_one(void)
{
    slot *at = empty_slot();
    object *me;
    void *options;
    if (at == NULL)
        return;
    switch (take_below(12)) {
    case 0:
        me = new_object(TIMER);
        opened(at, me, kolo_timer_open(program.loop, timer_fired, me, &me->handle));
        break;
    case 1:
        me = new_object(HOOK);
        opened(at, me, kolo_hook_open(program.loop, (int)take_below(5), hook_called, me, &me->handle));
        break;
    case 2:
        me = new_object(WAKER);
        opened(at, me, kolo_waker_open(program.loop, waker_woken, me, &me->handle));
        if (at->object == me)
            REQUIRE(kolo_waker_remote(program.loop, me->handle, &me->remote) == KOLO_OK);
        break;
    case 3:
        me = new_object(SIGNAL);
        opened(at, me, kolo_signal_open(program.loop, signal_came, me, &me->handle));
        break;
    case 4: open_poll(at); break;
    case 5: open_listener(at); break;
    case 6: open_connection(at); break;
    case 7: open_pair(at, false); break;
    case 8: open_pair(at, true); break;
    case 9: open_udp(at); break;
    case 10:
        me = new_object(WATCH);
        options = watch_options();
        opened(at, me, kolo_watch_open(program.loop, pick_path(), options, watch_told, me, &me->handle));
        free(options);
        break;
    default: open_file(at);
    }
}

/* ---- using: with a handle of whatever kind stands in the slot ---- */

static void use_small(slot *at)
{
    kolo_loop *loop = program.loop;
    uint64_t number = 0;
    switch (take_below(14)) {
    case 0: judged(at, TIMER, kolo_timer_start(loop, at->handle, take_delay(), take_below(2) ? take_delay() : 0)); break;
    case 1: judged(at, TIMER, kolo_timer_stop(loop, at->handle)); break;
    case 2: judged(at, TIMER, kolo_timer_again(loop, at->handle)); break;
    case 3: judged(at, TIMER, kolo_timer_remaining(loop, at->handle, &number)); break;
    case 4: judged(at, TIMER, kolo_timer_start(loop, at->handle, take_number(), take_number())); break;
    case 5: judged(at, HOOK, kolo_hook_start(loop, at->handle)); break;
    case 6: judged(at, HOOK, kolo_hook_stop(loop, at->handle)); break;
    case 7: judged(at, SIGNAL, kolo_signal_start(loop, at->handle, take_below(2) ? SIGURG : SIGWINCH)); break;
    case 8: judged(at, SIGNAL, kolo_signal_stop(loop, at->handle)); break;
    case 9: judged(at, POLL, kolo_poll_start(loop, at->handle, take())); break;
    case 10: judged(at, POLL, kolo_poll_stop(loop, at->handle)); break;
    case 11:
        if (at->object != NULL && at->object->remote != NULL)
            REQUIRE(kolo_remote_wake(at->object->remote) == (at->closed ? KOLO_ECANCELED : KOLO_OK));
        break;
    case 12:
        if (at->object != NULL && at->object->other >= 0)
            (void)!send(at->object->other, "k", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
        break;
    default: raise(take_below(2) ? SIGURG : SIGWINCH);
    }
}

static void use_stream(slot *at)
{
    kolo_loop *loop = program.loop;
    static const uint8_t block[100000];
    completion *write;
    size_t length, count = 0;
    slot *file;
    int result;
    switch (take_below(13)) {
    case 0:
    case 1: judged(at, STREAM, kolo_stream_write(loop, at->handle, block, (size_t)take() * take())); break;
    case 2:
        length = (size_t)take() * take();
        write = new_completion(at->object, length);
        const kolo_buffer buffers[2] = {{write->memory, length / 2}, {write->memory + length / 2, length - length / 2}};
        result = kolo_stream_write_owned(loop, at->handle, buffers, take_below(3), write_done, write, &at->write);
        written(at->object, write, judged(at, STREAM, result));
        break;
    case 3: judged(at, STREAM, kolo_stream_write_cancel(loop, at->handle, take_below(4) ? at->write : take_number())); break;
    case 4:
        write = new_completion(at->object, 0);
        written(at->object, write, judged(at, STREAM, kolo_stream_shutdown(loop, at->handle, write_done, write)));
        break;
    case 5: judged(at, STREAM, kolo_stream_read_stop(loop, at->handle)); break;
    case 6: judged(at, STREAM, kolo_stream_read_start(loop, at->handle)); break;
    case 7: judged(at, STREAM, kolo_stream_set_timeouts(loop, at->handle, take_delay(), take_delay())); break;
    case 8:
        judged(at, STREAM, kolo_stream_set_watermarks(loop, at->handle, take_number(), take_number() * 16, take_number() * 64));
        break;
    case 9: judged(at, STREAM, kolo_stream_queued(loop, at->handle, &count)); break;
    case 10: /* into itself or another; what is sent must be a file */
        file = pick();
        write = new_completion(at->object, 0);
        result = kolo_stream_send_file(loop, at->handle, file->handle, take_number(), take_number(), file_sent, write,
                                       &at->write);
        if (file->closed || file->sort != FILE_HANDLE)
            REQUIRE(result < 0);
        written(at->object, write, judged(at, STREAM, result));
        break;
    case 11:
        if (judged(at, STREAM, kolo_stream_reset(loop, at->handle)) >= 0 && at->object != NULL)
            mark_closed(at->object);
        break;
    default:
        result = judged(at, STREAM, kolo_tcp_set_nodelay(loop, at->handle, take_below(2)));
        judged(at, STREAM, kolo_tcp_set_keepalive(loop, at->handle, take(), take(), take()));
        judged(at, STREAM, kolo_tcp_set_buffers(loop, at->handle, (uint32_t)take_number(), (uint32_t)take_number()));
    }
}

static void use_udp(slot *at)
{
    kolo_loop *loop = program.loop;
    static const uint8_t block[2048];
    kolo_address to = pick_address();
    kolo_transmit transmit = KOLO_TRANSMIT_INIT;
    size_t length = take() * 8u, count = 0;
    completion *write;
    int result;
    transmit.to = take_below(8) ? &to : NULL;
    switch (take_below(10)) {
    case 9: judged(at, UDP, kolo_udp_send_cancel(loop, at->handle, at->write)); break;
    case 0:
    case 1: judged(at, UDP, kolo_udp_send(loop, at->handle, block, length, transmit.to)); break;
    case 2:
        transmit.segment_size = take();
        write = new_completion(at->object, length);
        const kolo_buffer buffer = {write->memory, length};
        result = kolo_udp_send_owned(loop, at->handle, &buffer, 1, &transmit, datagram_sent, write,
                                     &at->write);
        written(at->object, write, judged(at, UDP, result));
        break;
    case 3: {
        const kolo_buffer whole = {(void *)(uintptr_t)block, length};
        judged(at, UDP, kolo_udp_try_send(loop, at->handle, &whole, 1, &transmit));
        break;
    }
    case 4: judged(at, UDP, kolo_udp_connect(loop, at->handle, &to)); break;
    case 5: judged(at, UDP, kolo_udp_disconnect(loop, at->handle)); break;
    case 6: judged(at, UDP, kolo_udp_receive_start(loop, at->handle)); break;
    case 7: judged(at, UDP, kolo_udp_receive_stop(loop, at->handle)); break;
    default:
        judged(at, UDP, kolo_udp_queued(loop, at->handle, &count));
        judged(at, UDP, kolo_udp_set_watermarks(loop, at->handle, take_number(), take_number() * 16, take_number() * 64));
        judged(at, UDP, kolo_udp_set_ttl(loop, at->handle, take()));
    }
}

/* A call on a file or folder that answers later. */
static void use_file(slot *at)
{
    kolo_loop *loop = program.loop;
    slot *to = empty_slot();
    if (to == NULL || to == at || program.completions >= COMPLETIONS_MAX)
        return;
    completion *request = new_completion(NULL, 4096);
    kolo_request handle = 0;
    size_t length = take() * 16u;
    int64_t offset = take_below(8) ? take() : (int64_t)take_number();
    int result;
    switch (take_below(7)) {
    case 0:
        result = judged(at, FILE_HANDLE, kolo_file_read(loop, at->handle, request->memory, length, offset, transfer_done, request, &handle));
        break;
    case 1:
        if (offset > 100000) /* no file of exabytes */
            offset = KOLO_OFFSET_CURRENT;
        result = judged(at, FILE_HANDLE, kolo_file_write(loop, at->handle, request->memory, length, offset, transfer_done, request, &handle));
        break;
    case 2: result = judged(at, FILE_HANDLE, kolo_file_stat(loop, at->handle, stat_done, request, &handle)); break;
    case 3: result = judged(at, FILE_HANDLE, kolo_file_truncate(loop, at->handle, length, fs_done, request, &handle)); break;
    case 4:
        result = judged(at, FILE_HANDLE, kolo_file_close(loop, at->handle, fs_done, request, &handle));
        if (result >= 0)
            at->closed = true;
        break;
    case 5: result = judged(at, FILE_HANDLE, kolo_directory_open_file(loop, at->handle, directory_done, request, &handle)); break;
    default: result = judged(at, DIRECTORY, kolo_directory_read(loop, at->handle, entries_done, request, &handle));
    }
    submitted(to, request, result, handle);
}

/* A request that needs no handle. */
static void submit(void)
{
    kolo_loop *loop = program.loop;
    static const char *const hosts[] = {"127.0.0.1", "::1", "300.1.1.1", "", "::1%9999", "a b"};
    slot *at = empty_slot();
    if (at == NULL || program.completions >= COMPLETIONS_MAX)
        return;
    completion *request = new_completion(NULL, 1);
    kolo_request handle = 0;
    int result;
    switch (take_below(10)) {
    case 0: result = kolo_work_submit(loop, (int)take_below(5), some_work, work_done, request, &handle); break;
    case 1: result = kolo_fs_stat(loop, pick_path(), stat_done, request, &handle); break;
    case 2: result = kolo_fs_mkdir(loop, pick_path(), 0700, fs_done, request, &handle); break;
    case 3: result = kolo_fs_rmdir(loop, pick_path(), fs_done, request, &handle); break;
    case 4: result = kolo_fs_unlink(loop, pick_path(), fs_done, request, &handle); break;
    case 5: result = kolo_fs_rename(loop, pick_path(), pick_path(), fs_done, request, &handle); break;
    case 6: result = kolo_fs_symlink(loop, pick_path(), "l", fs_done, request, &handle); break;
    case 7: result = kolo_directory_open(loop, pick_path(), directory_done, request, &handle); break;
    case 8: result = kolo_fs_copy(loop, pick_path(), pick_path(), take_below(5), transfer_done, request, &handle); break;
    default:
        result = kolo_resolve(loop, hosts[take_below(6)], take_below(2) ? "80" : NULL, NULL, resolve_done, request, &handle);
    }
    submitted(at, request, result, handle);
}

static int close_unknown(kolo_handle number)
{
    for (int i = 0; i < SLOTS; i++)
        if (program.slots[i].handle == number)
            return KOLO_EBADF; /* a good guess */
    int result = kolo_close(program.loop, number);
    REQUIRE(result == KOLO_EBADF);
    return result;
}

/* What every handle has. */
static void use_any(slot *at)
{
    kolo_loop *loop = program.loop;
    bool dead = at->closed || at->sort == NONE;
    char text[200];
    int result;
    switch (take_below(8)) {
    case 0: result = kolo_ref(loop, at->handle); break;
    case 1: result = kolo_unref(loop, at->handle); break;
    case 2: result = kolo_has_ref(loop, at->handle); break;
    case 3: result = kolo_is_active(loop, at->handle); break;
    case 4: result = kolo_kind_of(loop, at->handle); break;
    case 5: result = kolo_describe(loop, at->handle, text, take() % sizeof text); break;
    case 6:
        result = kolo_request_cancel(loop, at->handle);
        if (at->sort != REQUEST)
            REQUIRE(result < 0);
        break;
    default: /* a number that nobody has given: another generation, or none */
        result = close_unknown(at->handle ^ (take_number() | 1) << 32);
    }
    answered(result);
    if (dead)
        REQUIRE(result < 0);
}

static void close_one(slot *at)
{
    int result = answered(kolo_close(program.loop, at->handle));
    if (at->closed || at->sort == NONE) {
        REQUIRE(result == KOLO_EBADF);
        return;
    }
    if (result < 0) {
        /* A stream may have ended by itself, and its callback not have come yet. */
        REQUIRE(result == KOLO_EBADF && (at->sort == STREAM || at->sort == WATCH || at->sort == REQUEST));
        return;
    }
    if (at->object != NULL)
        mark_closed(at->object);
    else if (at->sort != REQUEST) /* a request is told once more */
        at->closed = true;
}

static void post_one(void)
{
    completion *task = calloc(1, sizeof *task);
    kolo_remote *remote = NULL;
    REQUIRE(task != NULL);
    int result;
    if (take_below(2)) {
        result = answered(kolo_loop_defer(program.loop, task_called, task));
    } else {
        REQUIRE(kolo_loop_remote(program.loop, &remote) == KOLO_OK);
        result = answered(kolo_remote_post(remote, task_called, task));
        REQUIRE(kolo_remote_release(remote) == KOLO_OK);
    }
    if (result < 0)
        free(task);
    else
        program.tasks++;
}

static int walked(kolo_loop *loop, kolo_handle handle, int kind, void *user)
{
    (void)user;
    REQUIRE(loop == program.loop && handle != 0 && kind > 0);
    return take_below(16) == 0;
}

static void run(void)
{
    if (program.depth > 0) {
        REQUIRE(kolo_loop_run(program.loop, KOLO_RUN_NOWAIT) == KOLO_EBUSY);
        REQUIRE(kolo_loop_free(program.loop) == KOLO_EBUSY);
        return;
    }
    program.running = true;
    REQUIRE(answered(kolo_loop_run(program.loop, KOLO_RUN_NOWAIT)) >= 0);
    program.running = false;
}

static void step(void)
{
    if (program.left == 0 || program.steps >= STEPS_MAX)
        return;
    program.steps++;
    switch (take_below(16)) {
    case 0:
    case 1: open_one(); break;
    case 2: close_one(pick()); break;
    case 3: use_small(pick()); break;
    case 4:
    case 5: use_stream(pick()); break;
    case 6: use_udp(pick()); break;
    case 7: use_file(pick()); break;
    case 8: submit(); break;
    case 9: use_any(pick()); break;
    case 10: post_one(); break;
    case 11: answered(take_below(2) ? kolo_loop_stop(program.loop) : kolo_loop_walk(program.loop, walked, NULL)); break;
    default: run();
    }
}

/* ---- a program, from beginning to end ---- */

static kolo_loop *new_loop(void)
{
    /* The last is slow to make, and can do only what the others can. */
    static const char *const drivers[] = {NULL, NULL, NULL, NULL, "polling", "polling", "polling", "uring"};
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    options.driver = drivers[take_below(8)];
    options.post_capacity = take_below(8);
    options.events_per_turn = take_below(8);
    int result = answered(kolo_loop_new(&options, &loop));
    if (result == KOLO_ENOTSUP) { /* no io_uring here */
        options.driver = NULL;
        result = kolo_loop_new(&options, &loop);
    }
    REQUIRE(result == KOLO_OK && loop != NULL);
    return loop;
}

/* Bound and not listening, in a folder of its own: once for the process. */
static void prepare(void)
{
    static bool prepared;
    static char folder[] = "/tmp/kolo-fuzz-XXXXXX";
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;
    if (prepared)
        return;
    prepared = true;
    REQUIRE(mkdtemp(folder) != NULL && chdir(folder) == 0);
    int socket_bound = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    name.sin_family = AF_INET;
    name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(bind(socket_bound, (struct sockaddr *)&name, sizeof name) == 0);
    REQUIRE(getsockname(socket_bound, (struct sockaddr *)&name, &length) == 0);
    static kolo_address refuses;
    REQUIRE(kolo_address_from_sockaddr(&name, length, &refuses) == KOLO_OK);
    program.refuses = refuses;
    /* What is opened once and stays: the library's own part of signals. */
    kolo_loop *loop = NULL;
    kolo_signal handle = 0;
    REQUIRE(kolo_loop_new(NULL, &loop) == KOLO_OK);
    REQUIRE(kolo_signal_open(loop, signal_came, NULL, &handle) == KOLO_OK);
    REQUIRE(kolo_signal_start(loop, handle, SIGURG) == KOLO_OK);
    REQUIRE(kolo_loop_free(loop) == KOLO_OK);
}

/* The folder as each program finds it. */
static void prepare_folder(void)
{
    static const char *const files[] = {"a", "b", "d/e", "d/f", "l"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (unlink(files[i]) != 0)
            (void)rmdir(files[i]);
    (void)unlink("d");
    (void)rmdir("d");
    (void)mkdir("d", 0700);
    int file = open("a", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    REQUIRE(file >= 0 && write(file, "some bytes of a file\n", 21) == 21 && close(file) == 0);
}

/* The lowest number that a descriptor can have now. */
static int lowest_descriptor(void)
{
    int lowest = dup(0);
    if (lowest >= 0)
        close(lowest);
    return lowest;
}

/* Nothing was left open. A name that was given up may still be looked up by a thread of its own, which kolo_loop_free does
 * not wait for, and which has files open until it ends: what is open for long is not closed any more. */
static void require_nothing_open(int lowest)
{
    struct timespec moment = {0, 1000000};
    for (int moments = 0; lowest_descriptor() > lowest; moments++) {
        REQUIRE(moments < 10000);
        nanosleep(&moment, NULL);
    }
}

void fuzz_calls(const uint8_t *data, size_t length)
{
    prepare();
    prepare_folder();
    kolo_address refuses = program.refuses;
    memset(&program, 0, sizeof program);
    program.refuses = refuses;
    program.bytes = data;
    program.left = length;
    int lowest = lowest_descriptor();

    program.loop = new_loop();
    while (program.left > 0 && program.steps < STEPS_MAX)
        step();
    program.running = program.ending = true;
    REQUIRE(kolo_loop_free(program.loop) == KOLO_OK);
    program.running = false;
    REQUIRE(program.objects == 0);
    REQUIRE(program.completions == 0);
    REQUIRE(program.tasks == 0);
    REQUIRE(program.depth == 0);
    REQUIRE(kolo_loop_run(program.loop, KOLO_RUN_NOWAIT) == KOLO_EBADF);
    require_nothing_open(lowest);
}
