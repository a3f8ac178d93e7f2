/* statsd_client.c: sends metrics by UDP, many in one datagram, and hears when nobody is there.
 *
 * Build:  cc statsd_client.c $(pkg-config --cflags --libs kolo) -o statsd_client
 * Try:    ./statsd_server 8125 1 &      (beside this file)
 *         ./statsd_client 8125 'visits:1|c' 'query:12|ms'
 *         ./statsd_client 8125 --times 100000 'visits:1|c'
 *
 * A datagram is not acknowledged: that it was sent says nothing about whether it arrived. What the network says
 * against it (nobody listens there) comes to on_error, a moment later. So this program waits that moment at its end.
 *
 * Metrics are put together into datagrams that fit any Ethernet. Those that are sent in one callback are handed to the
 * system together. When the system does not keep up, kolo_udp_send returns 1, and this program pauses until on_drain. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 1500 bytes of Ethernet less the headers of IPv6 and UDP, and some for tunnels. */
enum { DATAGRAM_BYTES = 1432, BURST = 256 };

static const uint64_t linger_ns = UINT64_C(200000000); /* for what the network has to say */

struct client {
    kolo_udp udp;
    kolo_hook sending; /* while there is something to send */
    kolo_timer linger;
    char **metrics;
    int metric_count, next;
    unsigned long times, datagrams, refused;
    char datagram[DATAGRAM_BYTES];
    size_t length;
};

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "statsd_client: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

static bool send_collected(kolo_loop *loop, struct client *client)
{
    int full = check(kolo_udp_send(loop, client->udp, client->datagram, client->length, NULL), "send");
    client->datagrams++;
    client->length = 0;
    return full == 1;
}

/* The next metric of all that are to be sent; NULL after the last. */
static const char *take_metric(struct client *client)
{
    if (client->times == 0)
        return NULL;
    const char *metric = client->metrics[client->next];
    if (++client->next == client->metric_count) {
        client->next = 0;
        client->times--;
    }
    return metric;
}

/* Called in every turn while there is something to send: one burst at a time, so that the loop can do other things, too. */
static void on_sending(kolo_loop *loop, kolo_hook hook, void *user)
{
    struct client *client = user;
    for (int sent = 0; sent < BURST;) {
        const char *metric = take_metric(client);
        if (metric == NULL) {
            if (client->length > 0)
                send_collected(loop, client);
            check(kolo_close(loop, hook), "close the hook");
            check(kolo_timer_start(loop, client->linger, linger_ns, 0), "start the timer");
            return;
        }
        size_t length = strlen(metric);
        bool paused = false;
        if (client->length > 0 && client->length + 1 + length > DATAGRAM_BYTES) {
            paused = send_collected(loop, client);
            sent++;
        }
        if (client->length > 0)
            client->datagram[client->length++] = '\n';
        memcpy(client->datagram + client->length, metric, length);
        client->length += length;
        if (paused) {
            check(kolo_hook_stop(loop, hook), "pause");
            return;
        }
    }
}

static void on_drain(kolo_loop *loop, kolo_udp udp, void *user)
{
    struct client *client = user;
    (void)udp;
    int started = kolo_hook_start(loop, client->sending);
    if (started != KOLO_EBADF) /* closed: all is sent */
        check(started, "go on");
}

static void on_error(kolo_loop *loop, kolo_udp udp, const kolo_datagram_error *error, void *user)
{
    struct client *client = user;
    (void)loop, (void)udp;
    if (client->refused == 0)
        fprintf(stderr, "statsd_client: %s\n", kolo_strerror(error->error));
    client->refused += error->count;
}

static void on_linger(kolo_loop *loop, kolo_timer timer, void *user)
{
    struct client *client = user;
    check(kolo_close(loop, timer), "close the timer");
    check(kolo_close(loop, client->udp), "close the socket"); /* the last handles: the loop ends */
}

static void on_datagram(kolo_loop *loop, kolo_udp udp, const kolo_datagram *datagram, void *user)
{
    /* A statsd server does not answer. But a socket that receives is told of the network's errors at once, and not only
     * when it sends again. */
    (void)loop, (void)udp, (void)datagram, (void)user;
}

static int usage(void)
{
    fputs("usage: statsd_client PORT [--times COUNT] METRIC...   (such as 'visits:1|c')\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct client client = {.times = 1};
    kolo_loop *loop;
    kolo_address local, server;
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    if (argc < 3)
        return usage();
    long port = strtol(argv[1], NULL, 10);
    client.metrics = argv + 2;
    if (strcmp(argv[2], "--times") == 0) {
        if (argc < 5)
            return usage();
        client.times = strtoul(argv[3], NULL, 10);
        client.metrics = argv + 4;
    }
    client.metric_count = (int)(argv + argc - client.metrics);
    if (port < 1 || port > 65535)
        return usage();
    for (int i = 0; i < client.metric_count; i++) {
        if (strlen(client.metrics[i]) > DATAGRAM_BYTES || client.metrics[i][0] == '\0') {
            fputs("statsd_client: a metric that does not fit into a datagram\n", stderr);
            return 2;
        }
    }

    check(kolo_loop_new(NULL, &loop), "create the loop");
    check(kolo_address_parse("127.0.0.1", 0, &local), "parse an address");
    check(kolo_address_parse("127.0.0.1", (uint16_t)port, &server), "parse an address");
    handler.on_datagram = on_datagram;
    handler.on_drain = on_drain;
    handler.on_error = on_error;
    check(kolo_udp_bind(loop, &local, NULL, &handler, &client, &client.udp), "bind");
    check(kolo_udp_connect(loop, client.udp, &server), "connect"); /* sends nothing: it names the peer */
    check(kolo_hook_open(loop, KOLO_HOOK_IDLE, on_sending, &client, &client.sending), "open a hook");
    check(kolo_hook_start(loop, client.sending), "start the hook");
    check(kolo_timer_open(loop, on_linger, &client, &client.linger), "open a timer");

    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    printf("%lu datagrams sent, %lu refused\n", client.datagrams, client.refused);
    return client.refused > 0;
}
