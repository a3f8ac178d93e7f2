/* local_server.c: a server of several processes. One accepts connections and hands each, whole, to the worker that has
 * the fewest; an administrator asks it how it is through a Unix-domain socket, and is asked who he is.
 *
 * Build:  cc local_server.c $(pkg-config --cflags --libs kolo) -o local_server
 * Try:    ./local_server /tmp/control 7000 2      and, in other terminals: nc 127.0.0.1 7000
 *         echo status | nc -U /tmp/control        (or: stop) */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS_MAX = 64, LINE_MAX_LENGTH = 32 };

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "local_server: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

/* ---- a worker: a process that serves the connections it is handed ---- */

static kolo_local to_master;
static char greeting[64];

static void served_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)user;
    kolo_stream_write(loop, stream, greeting, strlen(greeting));
    if (kolo_stream_write(loop, stream, data, length) != 0) /* does not take our answers, or is gone */
        kolo_close(loop, stream);
}

static void served_close(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)stream, (void)user;
    kolo_stream_write(loop, to_master, "-", 1); /* one fewer here; should the master be gone, nobody counts */
}

static void take_connections(kolo_loop *loop, kolo_stream master, size_t waiting, bool lost, void *user)
{
    (void)user;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = served_data;
    handler.on_close = served_close;
    if (lost) /* this process could hold no more; the peers of those see their connection end */
        fprintf(stderr, "%sout of descriptors\n", greeting);
    for (; waiting > 0; waiting--) {
        kolo_stream taken;
        int descriptor, result = kolo_local_take_stream(loop, master, &handler, NULL, &taken);
        if (result >= 0)
            continue;
        /* Broken off meanwhile, usually. What is not taken would wait for ever. */
        if (kolo_local_take_descriptor(loop, master, &descriptor) >= 0)
            close(descriptor);
        kolo_stream_write(loop, to_master, "-", 1);
    }
}

/* Each byte stands for a handed connection; take_connections has it already. */
static void no_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)loop, (void)stream, (void)data, (void)length, (void)user;
}

static void master_gone(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)stream, (void)user;
    kolo_loop_stop(loop);
}

static int work(int channel, int number)
{
    kolo_loop *loop;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = no_data;
    handler.on_descriptors = take_connections;
    handler.on_close = master_gone;
    signal(SIGINT, SIG_IGN); /* the terminal's goes to all; the master says when to end */
    snprintf(greeting, sizeof greeting, "worker %d: ", number);
    check(kolo_loop_new(NULL, &loop), "create the worker's loop");
    check(kolo_local_adopt(loop, channel, &handler, NULL, &to_master), "take over the channel");
    check(kolo_local_receive_descriptors(loop, to_master, true), "take descriptors");
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run the worker");
    kolo_loop_free(loop);
    return 0;
}

/* ---- the master ---- */

typedef struct worker {
    pid_t process;
    kolo_local channel; /* 0: it has ended */
    unsigned connections;
} worker;

static worker workers[WORKERS_MAX];
static int worker_count;
static int alive;
static kolo_listener listener, control;

static void worker_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)loop, (void)stream, (void)data;
    ((worker *)user)->connections -= (unsigned)length; /* a byte for each that has closed */
}

static void worker_close(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)stream;
    worker *one = user;
    one->channel = 0;
    if (--alive == 0)
        kolo_loop_stop(loop);
}

static void on_accept(kolo_loop *loop, kolo_listener from, kolo_stream stream, void *user)
{
    (void)from, (void)user;
    worker *least = NULL;
    for (int i = 0; i < worker_count; i++)
        if (workers[i].channel != 0 && (least == NULL || workers[i].connections < least->connections))
            least = &workers[i];
    /* Without a handler the stream closes when this returns: here, not there. It does so too if nobody can take it. */
    if (least != NULL && kolo_local_send_handle(loop, least->channel, stream, "+", 1, NULL, NULL, NULL) >= 0)
        least->connections++;
}

static void stop(kolo_loop *loop)
{
    kolo_close(loop, listener);
    kolo_close(loop, control); /* its socket file goes, too */
    kolo_loop_stop(loop);
}

static void on_signal(kolo_loop *loop, kolo_signal handle, int number, void *user)
{
    (void)handle, (void)number, (void)user;
    stop(loop);
}

/* ---- its control socket ---- */

typedef struct asker {
    char line[LINE_MAX_LENGTH];
    size_t length;
} asker;

static void say(kolo_loop *loop, kolo_stream stream, const char *text)
{
    kolo_stream_write(loop, stream, text, strlen(text)); /* too much, or gone: on_error and on_close tell */
}

static void answer(kolo_loop *loop, kolo_stream stream, const char *line)
{
    char text[128];
    if (strcmp(line, "status") == 0) {
        for (int i = 0; i < worker_count; i++) {
            snprintf(text, sizeof text, "worker %d, process %ld: %s, connections: %u\n", i + 1,
                     (long)workers[i].process, workers[i].channel != 0 ? "serving" : "ended", workers[i].connections);
            say(loop, stream, text);
        }
    } else if (strcmp(line, "stop") == 0) {
        say(loop, stream, "stopping\n");
        stop(loop);
    } else {
        say(loop, stream, "status or stop?\n");
    }
}

static void control_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    asker *one = user;
    for (size_t i = 0; i < length; i++) {
        if (data[i] == '\n') {
            one->line[one->length] = 0;
            one->length = 0;
            answer(loop, stream, one->line);
        } else if (one->length + 1 < sizeof one->line) {
            one->line[one->length++] = (char)data[i];
        }
    }
}

static void control_close(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)loop, (void)stream;
    free(user);
}

static void on_control(kolo_loop *loop, kolo_listener from, kolo_stream stream, void *user)
{
    (void)from, (void)user;
    int64_t process = 0;
    uint32_t who = 0, group = 0;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    /* The mode of the socket file keeps others out already; this also tells who it is. */
    if (kolo_local_peer_credentials(loop, stream, &process, &who, &group) < 0 || (who != geteuid() && who != 0))
        return;
    printf("asked by process %ld of user %ld\n", (long)process, (long)who);
    fflush(stdout);
    handler.on_data = control_data;
    handler.on_close = control_close;
    asker *one = calloc(1, sizeof *one);
    if (one == NULL || kolo_stream_attach(loop, stream, &handler, one) < 0)
        free(one);
    else
        kolo_stream_set_timeouts(loop, stream, 60000000000u, 10000000000u);
}

/* ---- putting it together ---- */

/* Before there is a loop, so that the workers share nothing with it. */
static void start_workers(int channels[])
{
    for (int i = 0; i < worker_count; i++) {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0 || (workers[i].process = fork()) < 0) {
            perror("local_server: start a worker");
            exit(1);
        }
        if (workers[i].process == 0) {
            for (int other = 0; other < i; other++)
                close(channels[other]);
            close(ends[0]);
            exit(work(ends[1], i + 1));
        }
        close(ends[1]);
        channels[i] = ends[0];
    }
}

static void listen_everywhere(kolo_loop *loop, const char *path, int port)
{
    kolo_address address;
    char text[KOLO_ADDRESS_TEXT_MAX];
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    kolo_local_listen_options options = KOLO_LOCAL_LISTEN_OPTIONS_INIT;
    options.mode = 0600;
    options.replace_stale = true; /* one that a crash has left there, never one that is served */
    handler.on_accept = on_control;
    check(kolo_local_listen(loop, path, strlen(path), &options, &handler, NULL, &control), path);
    handler.on_accept = on_accept;
    check(kolo_address_parse("127.0.0.1", (uint16_t)port, &address), "address");
    check(kolo_tcp_listen(loop, &address, NULL, &handler, NULL, &listener), "listen");
    check(kolo_listener_address(loop, listener, &address), "ask for the address");
    check(kolo_address_format(&address, text, sizeof text), "format the address");
    printf("%d workers serve %s, control at %s\n", worker_count, text, path);
    fflush(stdout);
}

int main(int count, char **arguments)
{
    kolo_loop *loop;
    kolo_signal interrupt, terminate;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    int channels[WORKERS_MAX];
    if (count < 2) {
        fprintf(stderr, "usage: local_server CONTROL-SOCKET [PORT [WORKERS]]\n");
        return 1;
    }
    worker_count = count > 3 ? atoi(arguments[3]) : 2;
    if (worker_count < 1 || worker_count > WORKERS_MAX)
        worker_count = 1;
    start_workers(channels);
    check(kolo_loop_new(NULL, &loop), "create the loop");
    handler.on_data = worker_data;
    handler.on_close = worker_close;
    alive = worker_count;
    for (int i = 0; i < worker_count; i++)
        check(kolo_local_adopt(loop, channels[i], &handler, &workers[i], &workers[i].channel), "talk to a worker");
    check(kolo_signal_open(loop, on_signal, NULL, &interrupt), "watch for signals");
    check(kolo_signal_start(loop, interrupt, SIGINT), "watch for SIGINT");
    check(kolo_signal_open(loop, on_signal, NULL, &terminate), "watch for signals");
    check(kolo_signal_start(loop, terminate, SIGTERM), "watch for SIGTERM");
    listen_everywhere(loop, arguments[1], count > 2 ? atoi(arguments[2]) : 7000);
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    kolo_loop_free(loop); /* the channels close, which ends the workers */
    for (int i = 0; i < worker_count; i++)
        waitpid(workers[i].process, NULL, 0);
    printf("stopped\n");
    return 0;
}
