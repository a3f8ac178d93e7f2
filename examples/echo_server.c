/* echo_server.c: sends back what it gets. The smallest server that also minds slow readers.
 *
 * Build:  cc echo_server.c $(pkg-config --cflags --libs kolo) -o echo_server
 * Try:    ./echo_server 7000        and, in another terminal: nc 127.0.0.1 7000 */
#include <kolo.h>

#include <stdio.h>
#include <stdlib.h>

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "echo_server: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

static void on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)user;
    int result = kolo_stream_write(loop, stream, data, length);
    if (result == 1) /* above the high watermark: who does not take our answers is not asked for more */
        check(kolo_stream_read_stop(loop, stream), "pause reading");
    else if (result < 0)
        kolo_close(loop, stream);
}

static void on_drain(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)user;
    check(kolo_stream_read_start(loop, stream), "go on reading");
}

static void on_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user)
{
    (void)listener, (void)user;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = on_data;
    handler.on_drain = on_drain; /* no on_end: when the peer ends, what is queued is sent, then the stream closes */
    check(kolo_stream_attach(loop, stream, &handler, NULL), "attach");
}

int main(int count, char **arguments)
{
    kolo_loop *loop;
    kolo_address address;
    kolo_listener listener;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    char text[KOLO_ADDRESS_TEXT_MAX];
    handler.on_accept = on_accept;

    check(kolo_loop_new(NULL, &loop), "create the loop");
    check(kolo_address_parse("127.0.0.1", (uint16_t)(count > 1 ? atoi(arguments[1]) : 7000), &address), "address");
    check(kolo_tcp_listen(loop, &address, NULL, &handler, NULL, &listener), "listen");
    check(kolo_listener_address(loop, listener, &address), "ask for the address");
    check(kolo_address_format(&address, text, sizeof text), "format the address");
    printf("echo server on %s\n", text);
    fflush(stdout);

    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    return 0;
}
