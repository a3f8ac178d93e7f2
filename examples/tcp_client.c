/* tcp_client.c: connects, sends a text or its standard input, prints what comes back; with a limit on every wait.
 *
 * Build:  cc tcp_client.c $(pkg-config --cflags --libs kolo) -o tcp_client
 * Try:    ./tcp_client 127.0.0.1 7000 hello                    (with ./echo_server running)
 *         printf 'GET / HTTP/1.0\r\n\r\n' | ./tcp_client localhost 8080
 *
 * What it shows: connecting by name, to whichever of the host's addresses answers first and within a time, read and
 * write timeouts, telling errors apart, half-close, and input that is read no faster than the peer takes it. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct client {
    const char *host;
    const char *text; /* what to send; NULL: the standard input */
    double connect_seconds, read_seconds, write_seconds;
    char peer[300]; /* the host and the port; once connected, the address */
    kolo_tcp stream;
    kolo_poll input; /* the standard input, while it is waited for; 0: not yet, or a file, which is always ready */
    bool connected, input_ended, failed;
};

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "tcp_client: %s: %s (%s)\n", what, kolo_strerror(result), kolo_error_name(result));
        exit(1);
    }
    return result;
}

static uint64_t nanoseconds(double seconds)
{
    return (uint64_t)(seconds * 1e9);
}

/* The program ends when the stream and the standard input, all that keeps the loop alive, are closed. */
static void end(kolo_loop *loop, struct client *client)
{
    kolo_close(loop, client->stream); /* KOLO_EBADF where an error has closed it: just as well */
    if (client->input != 0)
        check(kolo_close(loop, client->input), "close the input");
    client->input = 0;
}

/* ---- sending ---- */

static void end_of_input(kolo_loop *loop, struct client *client)
{
    client->input_ended = true;
    if (client->input != 0)
        check(kolo_close(loop, client->input), "close the input");
    client->input = 0;
    /* Half-close: the peer sees our end once all is sent, and can still answer. */
    check(kolo_stream_shutdown(loop, client->stream, NULL, NULL), "half-close");
}

/* Sends one piece of the standard input. Gives false when no more should be read now. */
static bool send_piece(kolo_loop *loop, struct client *client)
{
    static char piece[16 * 1024];
    ssize_t length = read(STDIN_FILENO, piece, sizeof piece);
    if (length < 0 && errno == EINTR)
        return true;
    if (length < 0)
        fprintf(stderr, "tcp_client: standard input: %s\n", strerror(errno));
    if (length <= 0) {
        end_of_input(loop, client);
        return false;
    }
    int result = kolo_stream_write(loop, client->stream, piece, (size_t)length);
    if (result < 0)
        return false; /* the connection is lost: on_error says why */
    return result == 0;
}

static void on_input(kolo_loop *loop, kolo_poll input, int status, uint32_t events, void *user)
{
    struct client *client = user;
    (void)events;
    check(status, "wait for the standard input");
    if (!send_piece(loop, client) && !client->input_ended)
        check(kolo_poll_stop(loop, input), "pause the input"); /* until on_drain */
}

static void send_input(kolo_loop *loop, struct client *client)
{
    if (client->input_ended)
        return;
    if (client->input != 0)
        check(kolo_poll_start(loop, client->input, KOLO_POLL_READABLE), "wait for the standard input");
    else
        while (send_piece(loop, client))
            ; /* a file is always ready: read until the peer is behind, and on from on_drain */
}

/* A terminal or a pipe is waited for; a file cannot be (the system says EPERM), and need not be. */
static void open_input(kolo_loop *loop, struct client *client)
{
    int result = kolo_poll_open(loop, STDIN_FILENO, on_input, client, &client->input);
    if (result == 0)
        result = kolo_poll_start(loop, client->input, KOLO_POLL_READABLE);
    if (result == KOLO_EPERM) {
        if (client->input != 0)
            kolo_close(loop, client->input);
        client->input = 0;
    } else {
        check(result, "standard input");
    }
}

/* ---- the stream ---- */

static void on_open(kolo_loop *loop, kolo_stream stream, void *user)
{
    struct client *client = user;
    kolo_address address;
    client->connected = true;
    if (kolo_tcp_peer(loop, stream, &address) == 0) /* unless it is gone again */
        kolo_address_format(&address, client->peer, sizeof client->peer);
    fprintf(stderr, "connected to %s\n", client->peer);
    check(kolo_stream_set_timeouts(loop, stream, nanoseconds(client->read_seconds), nanoseconds(client->write_seconds)),
          "set the timeouts");
    if (client->text != NULL) {
        check(kolo_stream_write(loop, stream, client->text, strlen(client->text)), "write");
        check(kolo_stream_write(loop, stream, "\n", 1), "write");
        end_of_input(loop, client);
    } else {
        open_input(loop, client);
        if (client->input == 0)
            send_input(loop, client);
    }
}

static void on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)stream;
    if (fwrite(data, 1, length, stdout) != length || fflush(stdout) != 0) {
        struct client *client = user;
        fprintf(stderr, "tcp_client: standard output: %s\n", strerror(errno));
        client->failed = true;
        end(loop, client);
    }
}

static void on_end(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)stream;
    end(loop, user); /* the peer has said all */
}

static void on_drain(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)stream;
    send_input(loop, user);
}

static void on_timeout(kolo_loop *loop, kolo_stream stream, int which, void *user)
{
    struct client *client = user;
    (void)stream;
    if (which == KOLO_TIMEOUT_READ && !client->input_ended)
        return; /* while we speak, the peer need not answer; the timeout counts anew */
    if (which == KOLO_TIMEOUT_READ)
        fprintf(stderr, "tcp_client: %s has sent nothing for %g seconds\n", client->peer, client->read_seconds);
    else
        fprintf(stderr, "tcp_client: %s has taken nothing for %g seconds\n", client->peer, client->write_seconds);
    client->failed = true;
    end(loop, client);
}

static void on_error(kolo_loop *loop, kolo_stream stream, int error, void *user)
{
    struct client *client = user;
    const char *name = kolo_error_name(error);
    (void)stream;
    if (client->connected)
        fprintf(stderr, "tcp_client: connection to %s lost: %s (%s)\n", client->peer, kolo_strerror(error), name);
    else if (error == KOLO_ETIMEDOUT)
        fprintf(stderr, "tcp_client: %s does not answer\n", client->peer);
    else if (error == KOLO_ECONNREFUSED)
        fprintf(stderr, "tcp_client: nobody listens on %s\n", client->peer);
    else if (error == KOLO_ENETUNREACH || error == KOLO_EHOSTUNREACH)
        fprintf(stderr, "tcp_client: no way to %s: %s\n", client->peer, kolo_strerror(error));
    else if (error == KOLO_EAI_NONAME || error == KOLO_EAI_NODATA)
        fprintf(stderr, "tcp_client: there is no host %s\n", client->host);
    else if (error == KOLO_EAI_AGAIN)
        fprintf(stderr, "tcp_client: no name server answers for %s\n", client->host);
    else
        fprintf(stderr, "tcp_client: cannot connect to %s: %s (%s)\n", client->peer, kolo_strerror(error), name);
    client->failed = true;
    end(loop, client);
}

static void connect_by_name(kolo_loop *loop, struct client *client, uint16_t port)
{
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    options.timeout_ns = nanoseconds(client->connect_seconds);
    handler.on_open = on_open;
    handler.on_data = on_data;
    handler.on_end = on_end;
    handler.on_drain = on_drain;
    handler.on_timeout = on_timeout;
    handler.on_error = on_error;
    snprintf(client->peer, sizeof client->peer, strchr(client->host, ':') != NULL ? "[%s]:%u" : "%s:%u", client->host,
             (unsigned)port);
    check(kolo_tcp_connect_name(loop, client->host, port, &options, &handler, client, &client->stream), client->host);
}

/* ---- the program ---- */

static int usage(void)
{
    fputs("usage: tcp_client [--connect-timeout SECONDS] [--read-timeout SECONDS] [--write-timeout SECONDS]\n"
          "                  HOST PORT [TEXT]\n"
          "Default: 10 seconds each. 0: the system's limit to connect, none to read and write.\n",
          stderr);
    return 2;
}

int main(int count, char **arguments)
{
    struct client client = {.connect_seconds = 10, .read_seconds = 10, .write_seconds = 10};
    kolo_loop *loop;
    char *rest;
    int first = 1;
    for (; first + 1 < count && strncmp(arguments[first], "--", 2) == 0; first += 2) {
        const char *option = arguments[first];
        double *seconds = strcmp(option, "--connect-timeout") == 0 ? &client.connect_seconds
                          : strcmp(option, "--read-timeout") == 0  ? &client.read_seconds
                          : strcmp(option, "--write-timeout") == 0 ? &client.write_seconds
                                                                   : NULL;
        if (seconds == NULL)
            return usage();
        *seconds = strtod(arguments[first + 1], &rest);
        if (*rest != '\0' || !(*seconds >= 0 && *seconds <= 1e6))
            return usage();
    }
    if (count - first < 2 || count - first > 3)
        return usage();
    client.host = arguments[first];
    client.text = arguments[first + 2]; /* the array ends with NULL */
    unsigned long port = strtoul(arguments[first + 1], &rest, 10);
    if (*rest != '\0' || rest == arguments[first + 1] || port > UINT16_MAX)
        return usage();

    check(kolo_loop_new(NULL, &loop), "create the loop");
    connect_by_name(loop, &client, (uint16_t)port);
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    return client.failed ? 1 : 0;
}
