/* soak.c: everything at once, for as long as is asked, and then the question whether anything has grown.
 *
 *   soak SECONDS
 *   soak --can      whether there is the driver that KOLO_DRIVER names
 *
 * On one loop: TCP connections that come, talk, stall, are reset and go; datagrams; files written, read, copied and
 * removed; names and work on the pool; child processes; timers that are started and stopped by the hundred; functions
 * posted by two threads; a folder that is watched; pipes and Unix-domain pairs. Beside it a group of loops, among which
 * connections are moved.
 *
 * After a warm-up (a third of the time) and at the end, everything of one round is let go, and memory and descriptors are
 * looked at. Exit status 1 when there is more than before, a promise was broken, or some kind of thing did not happen. */
#define _GNU_SOURCE 1
#include <kolo.h>

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { CONNECTIONS = 40, TIMERS = 400, POSTERS = 2, POSTS_WAITING_MAX = 500, BLOCK = 20000 };

/* Allocators keep some. More is a leak: each round makes tens of thousands of things. */
static const uint64_t GROWTH_BYTES_MAX = 4 * 1024 * 1024;

static kolo_loop *loop;
static kolo_address tcp_address, udp_address, group_address;
static kolo_udp datagrams;
static kolo_timer timers[TIMERS];
static kolo_group group;
static kolo_remote *group_remotes[2];
static bool resting; /* nothing new is begun */
static uint64_t random_state = 88172645463325252u;
static uint8_t block[BLOCK];
static char folder[] = "/tmp/kolo-soak-XXXXXX";

/* How often each thing has happened, and how many of them are under way. */
enum { TCP, UDP, FILES, NAMES, WORK, PROCESSES, TICKS, POSTS, CHANGES, PAIRS, MOVES, KINDS };
static const char *const kinds[KINDS] = {"connections", "datagrams", "files", "names", "works", "processes",
                                         "timers",      "posts",     "changes", "pairs", "moves"};
static atomic_ulong done[KINDS];
static atomic_long under_way[KINDS];

static uint32_t random_below(uint32_t bound)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 33) % bound;
}

static void begin(int kind) { atomic_fetch_add(&under_way[kind], 1); }
static void end(int kind)
{
    atomic_fetch_sub(&under_way[kind], 1);
    atomic_fetch_add(&done[kind], 1);
}

/* ---- TCP: a client that talks and ends in one of several ways; a server that echoes ---- */

static void echo_data(kolo_loop *on, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)user;
    int result = kolo_stream_write(on, stream, data, length);
    if (result == KOLO_ENOBUFS)
        kolo_stream_reset(on, stream);
    else if (result == 1 && length % 3 == 0)
        kolo_stream_read_stop(on, stream);
}
static void echo_drain(kolo_loop *on, kolo_stream stream, void *user)
{
    (void)user;
    kolo_stream_read_start(on, stream);
}
static void close_on_timeout(kolo_loop *on, kolo_stream stream, int which, void *user)
{
    (void)which;
    (void)user;
    kolo_close(on, stream);
}
static kolo_stream_handler echo_table(void)
{
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = echo_data;
    handler.on_drain = echo_drain;
    handler.on_timeout = close_on_timeout;
    return handler;
}
static void echo_accept(kolo_loop *on, kolo_listener listener, kolo_stream stream, void *user)
{
    (void)listener;
    (void)user;
    kolo_stream_handler handler = echo_table();
    CHECK(kolo_stream_attach(on, stream, &handler, NULL) == KOLO_OK);
    CHECK(kolo_stream_set_timeouts(on, stream, 300000000, 300000000) == KOLO_OK);
    CHECK(kolo_stream_set_watermarks(on, stream, 10000, 50000, 400000) == KOLO_OK);
}

typedef struct client {
    size_t left; /* bytes that it still wants to hear */
    int ending;
} client;

static void owned_done(kolo_loop *on, kolo_stream stream, int status, void *user)
{
    (void)on;
    (void)stream;
    (void)status;
    free(user);
}
static void client_open(kolo_loop *on, kolo_stream stream, void *user)
{
    client *me = user;
    size_t length = 1 + random_below(BLOCK);
    uint8_t *copy = malloc(length);
    CHECK(copy != NULL);
    memcpy(copy, block, length);
    kolo_buffer buffer = {copy, length};
    me->left = length + 100;
    CHECK(kolo_stream_set_timeouts(on, stream, 500000000, 500000000) == KOLO_OK);
    CHECK(kolo_stream_write(on, stream, block, 100) >= 0);
    if (kolo_stream_write_owned(on, stream, &buffer, 1, owned_done, copy, NULL) < 0)
        free(copy);
}
static void client_data(kolo_loop *on, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    client *me = user;
    (void)data;
    CHECK(length <= me->left);
    me->left -= length;
    if (me->left > 0 && me->ending != 3)
        return;
    switch (me->ending) {
    case 0: kolo_close(on, stream); break;
    case 1: kolo_stream_shutdown(on, stream, NULL, NULL); break;
    case 2: kolo_stream_reset(on, stream); break;
    case 3: kolo_close(on, stream); break; /* in the middle */
    default: break;                        /* stalls, until a timeout of either side */
    }
}
static void start_client(void);
static void client_closed(kolo_loop *on, kolo_stream stream, void *user)
{
    (void)on;
    (void)stream;
    free(user);
    end(TCP);
    start_client();
}
static void start_client(void)
{
    if (resting)
        return;
    client *me = calloc(1, sizeof *me);
    kolo_tcp stream;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    CHECK(me != NULL);
    me->ending = (int)random_below(5);
    handler.on_open = client_open;
    handler.on_data = client_data;
    handler.on_timeout = close_on_timeout;
    handler.on_close = client_closed;
    options.timeout_ns = 5000000000;
    begin(TCP);
    kolo_address to[2] = {tcp_address, group_address};
    CHECK(kolo_tcp_connect_any(loop, &to[random_below(2)], 1, &options, &handler, me, &stream) == KOLO_OK);
}

/* ---- datagrams ---- */

static void datagram_came(kolo_loop *on, kolo_udp udp, const kolo_datagram *datagram, void *user)
{
    (void)on;
    (void)udp;
    (void)datagram;
    (void)user;
    atomic_fetch_add(&done[UDP], 1);
}

/* ---- files ---- */

typedef struct copying {
    char from[64], to[64];
    kolo_file file;
    uint8_t bytes[5000];
} copying;

static void copying_over(copying *me)
{
    unlink(me->from);
    unlink(me->to);
    free(me);
    end(FILES);
}
static void copied(kolo_loop *on, kolo_request request, int status, uint64_t length, void *user)
{
    (void)on;
    (void)request;
    CHECK(status == KOLO_OK ? length == sizeof ((copying *)0)->bytes : status == KOLO_ECANCELED);
    copying_over(user);
}
static void file_written(kolo_loop *on, kolo_request request, int status, uint64_t length, void *user)
{
    copying *me = user;
    (void)request;
    CHECK(status == KOLO_OK && length == sizeof me->bytes);
    CHECK(kolo_close(on, me->file) == KOLO_OK);
    CHECK(kolo_fs_copy(on, me->from, me->to, 0, copied, me, NULL) == KOLO_OK);
}
static void file_opened(kolo_loop *on, kolo_request request, int status, kolo_file file, void *user)
{
    copying *me = user;
    (void)request;
    CHECK(status == KOLO_OK);
    me->file = file;
    CHECK(kolo_file_write(on, file, me->bytes, sizeof me->bytes, 0, file_written, me, NULL) == KOLO_OK);
}
static void start_file(void)
{
    static unsigned number;
    copying *me = calloc(1, sizeof *me);
    kolo_open_options options = KOLO_OPEN_OPTIONS_INIT;
    CHECK(me != NULL);
    snprintf(me->from, sizeof me->from, "%s/w/%u", folder, ++number);
    snprintf(me->to, sizeof me->to, "%s/w/%u.copy", folder, number);
    options.flags = KOLO_OPEN_WRITE | KOLO_OPEN_CREATE | KOLO_OPEN_EXCLUSIVE;
    options.mode = 0600;
    begin(FILES);
    CHECK(kolo_file_open(loop, me->from, &options, file_opened, me, NULL) == KOLO_OK);
}

/* ---- names, work, processes ---- */

static void resolved(kolo_loop *on, kolo_request request, int status, const kolo_address *addresses, size_t count,
                     const char *name, void *user)
{
    (void)on;
    (void)request;
    (void)addresses;
    (void)name;
    (void)user;
    CHECK(status == KOLO_OK ? count > 0 : status == KOLO_ECANCELED);
    end(NAMES);
}
static void start_name(void)
{
    kolo_request request;
    begin(NAMES);
    CHECK(kolo_resolve(loop, random_below(2) ? "localhost" : "127.0.0.1", "80", NULL, resolved, NULL, &request) == KOLO_OK);
    if (random_below(4) == 0)
        (void)kolo_request_cancel(loop, request);
}

static void compute(void *user)
{
    uint8_t *bytes = user;
    for (int i = 0; i < 1000; i++)
        bytes[i % 100]++;
}
static void computed(kolo_loop *on, kolo_request request, int status, void *user)
{
    (void)on;
    (void)request;
    CHECK(status == KOLO_OK || status == KOLO_ECANCELED);
    free(user);
    end(WORK);
}
static void start_work(void)
{
    kolo_request request;
    void *bytes = calloc(1, 100);
    CHECK(bytes != NULL);
    begin(WORK);
    CHECK(kolo_work_submit(loop, KOLO_WORK_COMPUTE, compute, computed, bytes, &request) == KOLO_OK);
    if (random_below(4) == 0)
        (void)kolo_request_cancel(loop, request);
}

static void exited(kolo_loop *on, kolo_process process, int status, int number, void *user)
{
    (void)on;
    (void)process;
    (void)user;
    CHECK(status == 0 && number == 0);
    end(PROCESSES);
}
static void start_process(void)
{
    static const char *const arguments[] = {"/bin/true", NULL};
    kolo_process_options options = KOLO_PROCESS_OPTIONS_INIT;
    kolo_process process;
    options.program = arguments[0];
    options.arguments = arguments;
    begin(PROCESSES);
    CHECK(kolo_process_spawn(loop, &options, exited, NULL, &process) == KOLO_OK);
}

/* ---- pairs ---- */

static void pair_data(kolo_loop *on, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)data;
    (void)length;
    (void)user;
    kolo_close(on, stream); /* with the rest unread; the other end hears of it */
}
static void pair_end(kolo_loop *on, kolo_stream stream, void *user)
{
    (void)user;
    kolo_close(on, stream);
}
static void pair_closed(kolo_loop *on, kolo_stream stream, void *user)
{
    (void)on;
    (void)stream;
    (void)user;
    end(PAIRS);
}
static void pair_written(kolo_loop *on, kolo_stream stream, int status, void *user)
{
    (void)status;
    (void)user;
    kolo_close(on, stream); /* the writing end of a pipe hears nothing of its reader */
}
static void start_pair(void)
{
    kolo_stream one, other;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = pair_data;
    handler.on_end = pair_end;
    handler.on_close = pair_closed;
    begin(PAIRS);
    begin(PAIRS);
    if (random_below(2)) {
        CHECK(kolo_local_pair(loop, &handler, NULL, &handler, NULL, &one, &other) == KOLO_OK);
        CHECK(kolo_stream_write(loop, one, block, 1 + random_below(BLOCK)) >= 0);
    } else {
        CHECK(kolo_pipe_pair(loop, &handler, NULL, &handler, NULL, &one, &other) == KOLO_OK);
        CHECK(kolo_stream_write(loop, other, block, 1 + random_below(BLOCK)) >= 0);
        CHECK(kolo_stream_shutdown(loop, other, pair_written, NULL) == KOLO_OK);
    }
}

/* ---- timers, posts, the watched folder ---- */

static void ticked(kolo_loop *on, kolo_timer timer, void *user)
{
    (void)on;
    (void)timer;
    (void)user;
    atomic_fetch_add(&done[TICKS], 1);
}
static void posted(kolo_loop *on, int status, void *user)
{
    (void)on;
    (void)user;
    CHECK(status == KOLO_OK || status == KOLO_ECANCELED);
    end(POSTS);
}
static atomic_bool posting = true;
static void *poster(void *user)
{
    kolo_remote *remote = user;
    while (atomic_load(&posting)) {
        for (int i = 0; i < 20; i++) {
            begin(POSTS);
            int result = kolo_remote_post(remote, posted, NULL);
            if (result != KOLO_OK) {
                CHECK(result == KOLO_ENOBUFS);
                atomic_fetch_sub(&under_way[POSTS], 1);
            }
        }
        do
            usleep(2000);
        while (atomic_load(&posting) && atomic_load(&under_way[POSTS]) > POSTS_WAITING_MAX / 2);
    }
    CHECK(kolo_remote_release(remote) == KOLO_OK);
    return NULL;
}
static void changed(kolo_loop *on, kolo_watch watch, const kolo_watch_event *event, void *user)
{
    (void)on;
    (void)watch;
    (void)user;
    CHECK(event->change != KOLO_WATCH_ERROR);
    atomic_fetch_add(&done[CHANGES], 1);
}

/* ---- the group: connections that one of its loops accepts are moved to a loop at random ---- */

static void moved_in(kolo_loop *on, kolo_tcp stream, int status, void *user)
{
    (void)user;
    if (status != KOLO_OK)
        return;
    kolo_stream_handler handler = echo_table();
    CHECK(kolo_stream_attach(on, stream, &handler, NULL) == KOLO_OK);
    CHECK(kolo_stream_set_timeouts(on, stream, 300000000, 300000000) == KOLO_OK);
    atomic_fetch_add(&done[MOVES], 1);
}
static void group_accept(kolo_loop *on, kolo_listener listener, kolo_stream stream, void *user)
{
    static atomic_uint turn;
    (void)listener;
    (void)user;
    int result = kolo_tcp_move(on, stream, group_remotes[atomic_fetch_add(&turn, 1) % 2], moved_in, NULL);
    if (result != KOLO_OK)
        kolo_close(on, stream);
}

/* ---- rounds ---- */

static void keep_busy(kolo_loop *on, kolo_timer timer, void *user)
{
    (void)on;
    (void)timer;
    (void)user;
    if (resting)
        return;
    for (int i = 0; i < 50; i++) {
        kolo_timer some = timers[random_below(TIMERS)];
        if (random_below(4) == 0)
            CHECK(kolo_timer_stop(loop, some) == KOLO_OK);
        else
            CHECK(kolo_timer_start(loop, some, random_below(200) * 1000000u, random_below(2) * 10000000u) == KOLO_OK);
    }
    for (int i = 0; i < 10; i++) {
        int result = kolo_udp_send(loop, datagrams, block, random_below(1400), &udp_address);
        CHECK(result >= 0 || result == KOLO_ENOBUFS);
    }
    if (atomic_load(&under_way[FILES]) < 20)
        start_file();
    if (atomic_load(&under_way[NAMES]) < 20)
        start_name();
    if (atomic_load(&under_way[WORK]) < 20)
        start_work();
    if (atomic_load(&under_way[PAIRS]) < 40)
        start_pair();
    if (atomic_load(&under_way[PROCESSES]) < 4 && random_below(4) == 0)
        start_process();
}

typedef struct state {
    uint64_t bytes;
    int descriptors;
    uint64_t handles;
} state;

static int descriptors(void)
{
    DIR *listing = opendir("/proc/self/fd");
    int count = 0;
    CHECK(listing != NULL);
    while (readdir(listing) != NULL)
        count++;
    closedir(listing);
    return count - 3; /* ".", "..", and the listing itself */
}

static uint64_t now_ns(void) { return kolo_clock_monotonic(); }

static void run_for(uint64_t ns)
{
    uint64_t until = now_ns() + ns;
    while (now_ns() < until)
        CHECK(kolo_loop_run(loop, KOLO_RUN_ONCE) >= 0);
}

/* Lets everything under way come to its end, and looks at what there is then. */
static state rest(void)
{
    state at = {0, 0, 0};
    kolo_metrics metrics = KOLO_METRICS_INIT;
    uint64_t limit = now_ns() + UINT64_C(30000000000);
    resting = true;
    for (int i = 0; i < TIMERS; i++)
        CHECK(kolo_timer_stop(loop, timers[i]) == KOLO_OK);
    for (int kind = 0; kind < KINDS; kind++) {
        if (kind == POSTS)
            continue;
        while (atomic_load(&under_way[kind]) > 0) {
            if (now_ns() > limit) {
                fprintf(stderr, "soak: of the %s %ld never end\n", kinds[kind], atomic_load(&under_way[kind]));
                exit(1);
            }
            run_for(10000000);
        }
    }
    /* The servers' ends, also those of the group, have timeouts of 300 ms, and all see the end of their peer. */
    run_for(UINT64_C(1500000000));
    malloc_trim(0);
    CHECK(kolo_resident_memory(&at.bytes) == KOLO_OK);
    CHECK(kolo_loop_metrics(loop, &metrics) == KOLO_OK);
    at.descriptors = descriptors();
    at.handles = metrics.handles;
    printf("at rest: %" PRIu64 " KiB, %d descriptors, %" PRIu64 " handles\n", at.bytes / 1024, at.descriptors, at.handles);
    fflush(stdout);
    return at;
}

static void work_for(uint64_t ns)
{
    resting = false;
    for (long i = atomic_load(&under_way[TCP]); i < CONNECTIONS; i++)
        start_client();
    run_for(ns);
}

static void set_up(pthread_t *threads)
{
    kolo_address any;
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_listener listener;
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    kolo_udp receiver;
    kolo_udp_handler receiving = KOLO_UDP_HANDLER_INIT;
    kolo_watch_options watching = KOLO_WATCH_OPTIONS_INIT;
    kolo_group_options grouped = KOLO_GROUP_OPTIONS_INIT;
    kolo_watch watch;
    kolo_timer busy;
    char path[64];
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/w", folder);
    CHECK(mkdir(path, 0700) == 0);
    options.post_capacity = POSTS_WAITING_MAX;
    CHECK(kolo_loop_new(&options, &loop) == KOLO_OK);
    CHECK(kolo_address_parse("127.0.0.1", 0, &any) == KOLO_OK);
    listening.on_accept = echo_accept;
    CHECK(kolo_tcp_listen(loop, &any, NULL, &listening, NULL, &listener) == KOLO_OK);
    CHECK(kolo_listener_address(loop, listener, &tcp_address) == KOLO_OK);
    receiving.on_datagram = datagram_came;
    CHECK(kolo_udp_bind(loop, &any, NULL, &receiving, NULL, &receiver) == KOLO_OK);
    CHECK(kolo_udp_local(loop, receiver, &udp_address) == KOLO_OK);
    CHECK(kolo_udp_bind(loop, &any, NULL, &receiving, NULL, &datagrams) == KOLO_OK);
    watching.recursive = true;
    CHECK(kolo_watch_open(loop, folder, &watching, changed, NULL, &watch) == KOLO_OK);
    for (int i = 0; i < TIMERS; i++)
        CHECK(kolo_timer_open(loop, ticked, NULL, &timers[i]) == KOLO_OK);
    CHECK(kolo_timer_open(loop, keep_busy, NULL, &busy) == KOLO_OK);
    CHECK(kolo_timer_start(loop, busy, 1000000, 5000000) == KOLO_OK);

    grouped.loops = 2;
    CHECK(kolo_group_start(&grouped, &group) == KOLO_OK);
    for (uint32_t i = 0; i < 2; i++)
        CHECK(kolo_group_remote(group, i, &group_remotes[i]) == KOLO_OK);
    listening.on_accept = group_accept;
    CHECK(kolo_group_listen(group, &any, NULL, &listening, NULL, &group_address) == KOLO_OK);
    for (int i = 0; i < POSTERS; i++) {
        kolo_remote *remote;
        CHECK(kolo_loop_remote(loop, &remote) == KOLO_OK);
        CHECK(pthread_create(&threads[i], NULL, poster, remote) == 0);
    }
}

int main(int count, char **arguments)
{
    pthread_t threads[POSTERS];
    double seconds = count == 2 ? strtod(arguments[1], NULL) : 0;
    bool good = true;
    if (count == 2 && strcmp(arguments[1], "--can") == 0)
        return kolo_loop_new(NULL, &loop) == KOLO_OK && kolo_loop_free(loop) == KOLO_OK ? 0 : 1;
    if (!(seconds >= 1)) {
        fputs("usage: soak SECONDS\n", stderr);
        return 2;
    }
    uint64_t whole = (uint64_t)(seconds * 1e9);
    set_up(threads);
    work_for(whole / 3);
    state warm = rest();
    for (int part = 0; part < 3; part++) {
        work_for(whole * 2 / 9);
        state now = rest();
        /* The pool's threads come and go; they hold no descriptors. */
        good = good && now.descriptors <= warm.descriptors && now.handles <= warm.handles;
        if (part == 2)
            good = good && now.bytes <= warm.bytes + GROWTH_BYTES_MAX;
        printf("figure: soak-growth %" PRId64 " KiB\n", (int64_t)(now.bytes - warm.bytes) / 1024);
    }
    atomic_store(&posting, false);
    for (int i = 0; i < POSTERS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < 2; i++)
        CHECK(kolo_remote_release(group_remotes[i]) == KOLO_OK);
    CHECK(kolo_group_stop(group, 0) == KOLO_OK);
    CHECK(kolo_group_join(group) == KOLO_OK);
    CHECK(kolo_loop_free(loop) == KOLO_OK);
    char path[64];
    snprintf(path, sizeof path, "%s/w", folder);
    CHECK(rmdir(path) == 0 && rmdir(folder) == 0);
    for (int kind = 0; kind < KINDS; kind++) {
        printf("figure: soak-%s %lu %s\n", kinds[kind], atomic_load(&done[kind]), kinds[kind]);
        good = good && atomic_load(&done[kind]) > 0 && atomic_load(&under_way[kind]) == 0;
    }
    printf("figure: soak-seconds %.0f s\n", seconds);
    puts(good ? "1 passed, 0 failed" : "0 passed, 1 failed");
    return good ? 0 : 1;
}
