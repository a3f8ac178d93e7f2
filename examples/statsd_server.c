/* statsd_server.c: collects metrics that programs send by UDP, and prints what came in each interval.
 *
 * Build:  cc statsd_server.c $(pkg-config --cflags --libs kolo) -o statsd_server
 * Try:    ./statsd_server 8125 2
 *         printf 'visits:1|c\nload:0.5|g\nquery:12|ms' | nc -u -w0 127.0.0.1 8125
 *         (or statsd_client, beside this file)
 *
 * The lines of a datagram are "name:value|type", as statsd has them: c counts (with "|@0.1" for one in ten that was sent),
 * g is a level (with a sign: a change of it), ms is a duration. Ctrl-C prints the last interval and ends.
 *
 * A server of datagrams gets them from anybody, so everything has a bound: the length of a name, how many names there
 * are. What does not fit or is no metric is counted, never answered. on_datagram is called once for each datagram, also
 * when the system hands over many of them together. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_MAX_BYTES = 64, METRICS_MAX = 1024, SLOTS = 2 * METRICS_MAX, NUMBER_MAX_BYTES = 32 };

enum type { COUNTER, GAUGE, DURATION };

struct metric {
    char name[NAME_MAX_BYTES];
    enum type type;
    bool used, touched; /* touched: in this interval */
    double value;       /* a counter's sum, a gauge's level */
    double sum, least, most;
    unsigned long count;
};

struct server {
    kolo_udp udp;
    kolo_timer timer;
    kolo_signal signals[2];
    uint64_t interval_ns;
    struct metric metrics[SLOTS]; /* a hash table with open addressing, never more than half full */
    unsigned long names, datagrams, bad_lines, without_room;
};

static struct server server;

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "statsd_server: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

/* The metric with this name and type; NULL if there is no room for another. */
static struct metric *find(const char *name, size_t length, enum type type)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    for (size_t at = (hash + (uint32_t)type) % SLOTS;; at = (at + 1) % SLOTS) {
        struct metric *metric = &server.metrics[at];
        if (metric->used && metric->type == type && strlen(metric->name) == length &&
            memcmp(metric->name, name, length) == 0)
            return metric;
        if (metric->used)
            continue;
        if (server.names == METRICS_MAX)
            return NULL;
        server.names++;
        memcpy(metric->name, name, length); /* what follows is zero */
        metric->used = true;
        metric->type = type;
        return metric;
    }
}

/* A number that ends at `end`; false if there is none. The datagram has no NUL at its end, strtod needs one. */
static bool number(const char *from, const char *end, double *out)
{
    char text[NUMBER_MAX_BYTES];
    size_t length = (size_t)(end - from);
    char *after;
    if (length == 0 || length >= sizeof text)
        return false;
    for (size_t i = 0; i < length; i++) /* no blanks, "inf", "nan" or "0x" */
        if (strchr("0123456789.+-eE", from[i]) == NULL || from[i] == '\0')
            return false;
    memcpy(text, from, length);
    text[length] = '\0';
    *out = strtod(text, &after);
    return *after == '\0' && *out - *out == 0; /* all of it, and finite */
}

/* One line, "name:value|type" and perhaps "|@rate"; false if it is none. */
static bool take_line(const char *line, const char *end)
{
    const char *colon = memchr(line, ':', (size_t)(end - line));
    const char *bar = colon == NULL ? NULL : memchr(colon, '|', (size_t)(end - colon));
    if (bar == NULL || colon == line || colon - line >= NAME_MAX_BYTES || memchr(line, '\0', (size_t)(colon - line)))
        return false;
    const char *type_end = memchr(bar + 1, '|', (size_t)(end - bar - 1));
    double value, rate = 1;
    if (type_end == NULL)
        type_end = end;
    else if (type_end + 1 >= end || type_end[1] != '@' || !number(type_end + 2, end, &rate) || rate <= 0 || rate > 1)
        return false;
    if (!number(colon + 1, bar, &value))
        return false;
    size_t type_length = (size_t)(type_end - bar - 1);
    enum type type;
    if (type_length == 1 && bar[1] == 'c')
        type = COUNTER;
    else if (type_length == 1 && bar[1] == 'g')
        type = GAUGE;
    else if (type_length == 2 && memcmp(bar + 1, "ms", 2) == 0)
        type = DURATION;
    else
        return false;

    struct metric *metric = find(line, (size_t)(colon - line), type);
    if (metric == NULL) {
        server.without_room++;
        return true;
    }
    bool first = !metric->touched;
    metric->touched = true;
    if (type == COUNTER)
        metric->value += value / rate;
    else if (type == GAUGE)
        metric->value = colon[1] == '+' || colon[1] == '-' ? metric->value + value : value;
    else {
        metric->count++;
        metric->sum += value;
        metric->least = first || value < metric->least ? value : metric->least;
        metric->most = first || value > metric->most ? value : metric->most;
    }
    return true;
}

static void on_datagram(kolo_loop *loop, kolo_udp udp, const kolo_datagram *datagram, void *user)
{
    const char *line = (const char *)datagram->data, *end = line + datagram->length;
    (void)loop, (void)udp, (void)user;
    server.datagrams++;
    while (line < end) {
        const char *line_end = memchr(line, '\n', (size_t)(end - line));
        if (line_end == NULL)
            line_end = end;
        if (line_end > line && !take_line(line, line_end))
            server.bad_lines++;
        line = line_end + 1;
    }
}

static void print_name(const char *name)
{
    for (; *name != '\0'; name++) /* it came from anybody: nothing that a terminal would obey */
        putchar(*name >= ' ' && *name <= '~' ? *name : '?');
}

/* Prints the interval and begins the next. Levels stay, all else starts at zero. */
static void flush(void)
{
    printf("%lu datagrams, %lu lines that are no metric, %lu without room\n", server.datagrams, server.bad_lines,
           server.without_room);
    for (size_t i = 0; i < SLOTS; i++) {
        struct metric *metric = &server.metrics[i];
        if (!metric->used || (!metric->touched && metric->type != GAUGE))
            continue;
        printf("  ");
        print_name(metric->name);
        if (metric->type == COUNTER)
            printf(" counted %g\n", metric->value);
        else if (metric->type == GAUGE)
            printf(" is %g\n", metric->value);
        else
            printf(" took %g ms on average, %g to %g, %lu times\n", metric->sum / (double)metric->count, metric->least,
                   metric->most, metric->count);
        metric->touched = false;
        if (metric->type != GAUGE)
            metric->value = metric->sum = 0;
        metric->count = 0;
    }
    fflush(stdout);
    server.datagrams = server.bad_lines = server.without_room = 0;
}

static void on_interval(kolo_loop *loop, kolo_timer timer, void *user)
{
    (void)loop, (void)timer, (void)user;
    flush();
}

static void on_signal(kolo_loop *loop, kolo_signal signal_handle, int signal_number, void *user)
{
    (void)signal_handle, (void)signal_number, (void)user;
    flush();
    check(kolo_close(loop, server.udp), "close the socket");
    check(kolo_close(loop, server.timer), "close the timer");
    for (int i = 0; i < 2; i++)
        check(kolo_close(loop, server.signals[i]), "close a signal handle"); /* the last handles: the loop ends */
}

int main(int argc, char **argv)
{
    static const int numbers[2] = {SIGINT, SIGTERM};
    kolo_loop *loop;
    kolo_address address;
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    kolo_udp_options options = KOLO_UDP_OPTIONS_INIT;
    char text[KOLO_ADDRESS_TEXT_MAX];
    long port = argc > 1 ? strtol(argv[1], NULL, 10) : 8125;
    double seconds = argc > 2 ? strtod(argv[2], NULL) : 10;
    if (argc > 3 || port < 0 || port > 65535 || !(seconds >= 0.01 && seconds <= 86400)) {
        fputs("usage: statsd_server [PORT [SECONDS]]   (port 0: any; every so many seconds it prints)\n", stderr);
        return 2;
    }
    server.interval_ns = (uint64_t)(seconds * 1e9);

    check(kolo_loop_new(NULL, &loop), "create the loop");
    check(kolo_address_parse("127.0.0.1", (uint16_t)port, &address), "parse the address");
    handler.on_datagram = on_datagram;
    options.receive_buffer = 1 << 20; /* what comes while this program does something else waits there */
    check(kolo_udp_bind(loop, &address, &options, &handler, NULL, &server.udp), "bind");
    check(kolo_udp_local(loop, server.udp, &address), "ask for the address");
    check(kolo_timer_open(loop, on_interval, NULL, &server.timer), "open a timer");
    check(kolo_timer_start(loop, server.timer, server.interval_ns, server.interval_ns), "start the timer");
    for (int i = 0; i < 2; i++) {
        check(kolo_signal_open(loop, on_signal, NULL, &server.signals[i]), "open a signal handle");
        check(kolo_signal_start(loop, server.signals[i], numbers[i]), "watch a signal");
    }
    check(kolo_address_format(&address, text, sizeof text), "format the address");
    printf("statsd server on %s\n", text);
    fflush(stdout);

    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    return 0;
}
