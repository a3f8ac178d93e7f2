/* many_loops.c: one address, a loop for each processor.
 *
 * Build:  cc many_loops.c $(pkg-config --cflags --libs kolo) -o many_loops
 * Try:    ./many_loops 7000 4     an echo server with four loops
 *         nc 127.0.0.1 7000       says which loop it got, then echoes
 *         Ctrl-C                  stops it: who is connected has 5 seconds to finish
 *
 * Each loop of the group listens at the address; a loop that has clearly more to do than another hands a new connection
 * on, so that all serve about as many. A connection stays with its loop, so its callbacks need no lock. */
#include <kolo.h>

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "many_loops: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

/* The numbers of the loops, for kolo_loop_set_user: a pointer to one is what a callback finds its own loop's by. */
static uint32_t numbers[256];

static int on_start(kolo_loop *loop, uint32_t index, void *user)
{
    (void)user;
    if (index >= sizeof numbers / sizeof numbers[0]) return KOLO_ERANGE;
    numbers[index] = index;
    return kolo_loop_set_user(loop, &numbers[index]);
}

static int finish(kolo_loop *loop, kolo_handle handle, int kind, void *user)
{
    (void)user;
    /* What is queued is sent, then the peer sees the end. */
    if (kind == KOLO_KIND_TCP) (void)kolo_stream_shutdown(loop, handle, NULL, NULL);
    return 0;
}

static void on_stop(kolo_loop *loop, uint32_t index, void *user)
{
    (void)index, (void)user;
    check(kolo_loop_walk(loop, finish, NULL), "walk");
}

static void on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)user;
    int queued = kolo_stream_write(loop, stream, data, length);
    if (queued == 1) (void)kolo_stream_read_stop(loop, stream); /* the peer takes less than it sends: wait for it */
    if (queued < 0) (void)kolo_close(loop, stream);
}

static void on_drain(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)user;
    (void)kolo_stream_read_start(loop, stream);
}

static void on_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user)
{
    kolo_stream_handler echo = KOLO_STREAM_HANDLER_INIT;
    char greeting[32];
    void *number = NULL;
    (void)listener, (void)user;
    echo.on_data = on_data;
    echo.on_drain = on_drain;
    check(kolo_stream_attach(loop, stream, &echo, NULL), "attach");
    check(kolo_loop_user(loop, &number), "ask for the number");
    int length = snprintf(greeting, sizeof greeting, "loop %u\n", (unsigned)*(uint32_t *)number);
    (void)kolo_stream_write(loop, stream, greeting, (size_t)length);
}

static void on_signal(kolo_loop *loop, kolo_signal handle, int number, void *user)
{
    (void)number, (void)user;
    check(kolo_close(loop, handle), "close the signal"); /* a second Ctrl-C does what it does to every program */
}

int main(int argc, char **argv)
{
    kolo_group_options options = KOLO_GROUP_OPTIONS_INIT;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    kolo_address address;
    char text[KOLO_ADDRESS_TEXT_MAX];
    kolo_group group;
    kolo_loop *loop;
    kolo_signal interrupt;

    options.loops = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
    if (options.loops > sizeof numbers / sizeof numbers[0]) options.loops = sizeof numbers / sizeof numbers[0];
    options.on_start = on_start;
    options.on_stop = on_stop;
    handler.on_accept = on_accept;

    /* This thread has a loop of its own, beside the group, which waits for Ctrl-C. */
    check(kolo_loop_new(NULL, &loop), "make a loop");
    check(kolo_signal_open(loop, on_signal, NULL, &interrupt), "make a signal handle");
    check(kolo_signal_start(loop, interrupt, SIGINT), "watch SIGINT");

    check(kolo_address_parse("127.0.0.1", argc > 1 ? (uint16_t)atoi(argv[1]) : 7000, &address), "parse");
    check(kolo_group_start(&options, &group), "start the loops");
    check(kolo_group_listen(group, &address, NULL, &handler, NULL, &address), "listen");
    check(kolo_address_format(&address, text, sizeof text), "format");
    printf("%d loops on %s\n", check(kolo_group_count(group), "count"), text);
    fflush(stdout);

    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_group_stop(group, UINT64_C(5000000000)), "stop");
    check(kolo_group_join(group), "join");
    check(kolo_loop_free(loop), "free the loop");
    return 0;
}
