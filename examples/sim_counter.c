/* sim_counter.c: a server tested in a simulation, with a bug that seeds find.
 *
 * A counter: for each line "add N" that a client sends, the server answers "total T". It runs, with three clients, on
 * loops of a simulation: the network is in memory, time is virtual, and what goes wrong is drawn from a seed. The server
 * as it stands has a bug that many network programs have: it takes what one on_data brings for one message. Mostly
 * that is so, in a test on one machine nearly always. Here some reads bring only a part of what has come, and some writes
 * take only a part of what they are given, as the manuals of recv(2) and send(2) allow.
 *
 * Build:  cc sim_counter.c $(pkg-config --cflags --libs kolo) -o sim_counter
 * Try:    ./sim_counter                     tries seeds from 1 on, says which finds the bug, and runs it again
 *         ./sim_counter --seed 7 --trace    what happens with this seed, line by line
 *         ./sim_counter --fixed             the server without the bug: every seed passes
 *         ./sim_counter --seeds 5000        so many seeds
 *
 * Exits with 0 if all was well, 1 if a seed found the bug, 2 on errors.
 */
#include <kolo.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIENTS = 3, REQUESTS = 20, LINE_LENGTH = 64 };

/* ---- the server under test -------------------------------------------------------------------------------------- */

typedef struct server {
    bool fixed;
} server;

/* One connection's state. */
typedef struct session {
    const server *server;
    long total;
    size_t length; /* of an unfinished line; only the fixed server keeps one */
    char line[LINE_LENGTH];
} session;

static void handle_line(kolo_loop *loop, kolo_stream stream, session *session, const char *line)
{
    char answer[LINE_LENGTH];
    if (strncmp(line, "add ", 4) == 0) session->total += strtol(line + 4, NULL, 10);
    int length = snprintf(answer, sizeof answer, "total %ld\n", session->total);
    kolo_stream_write(loop, stream, answer, (size_t)length);
}

static void server_on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    session *session = user;
    if (!session->server->fixed) {
        /* The bug: what comes is taken for one line. */
        char line[LINE_LENGTH];
        size_t taken = length < sizeof line - 1 ? length : sizeof line - 1;
        memcpy(line, data, taken);
        line[taken] = '\0';
        handle_line(loop, stream, session, line);
        return;
    }
    for (size_t i = 0; i < length; i++) {
        if (data[i] != '\n') {
            if (session->length < sizeof session->line - 1) session->line[session->length++] = (char)data[i];
            continue;
        }
        session->line[session->length] = '\0';
        session->length = 0;
        handle_line(loop, stream, session, session->line);
    }
}

static void server_on_close(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)loop, (void)stream;
    free(user);
}

static void server_on_accept(kolo_loop *loop, kolo_listener listener, kolo_stream stream, void *user)
{
    (void)listener;
    session *session = calloc(1, sizeof *session);
    if (session == NULL) return; /* a stream without a handler is closed */
    session->server = user;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = server_on_data;
    handler.on_close = server_on_close;
    if (kolo_stream_attach(loop, stream, &handler, session) < 0) free(session);
}

/* ---- its clients ------------------------------------------------------------------------------------------------ */

typedef struct client {
    kolo_stream stream;
    kolo_timer timer;
    int sent;
    int answered;
    long total;      /* what the server should say when all were answered */
    long last_total; /* what it said last */
    bool closed;
    size_t length;
    char line[LINE_LENGTH];
} client;

static void client_on_timer(kolo_loop *loop, kolo_timer timer, void *user)
{
    client *client = user;
    char line[LINE_LENGTH];
    int number = client->sent + 1;
    int length = snprintf(line, sizeof line, "add %d\n", number);
    kolo_stream_write(loop, client->stream, line, (size_t)length);
    client->total += number;
    if (++client->sent == REQUESTS) {
        kolo_close(loop, timer);
        kolo_stream_shutdown(loop, client->stream, NULL, NULL);
    }
}

static void client_on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    (void)loop, (void)stream;
    client *client = user;
    for (size_t i = 0; i < length; i++) {
        if (data[i] != '\n') {
            if (client->length < sizeof client->line - 1) client->line[client->length++] = (char)data[i];
            continue;
        }
        client->line[client->length] = '\0';
        client->length = 0;
        client->answered++;
        if (strncmp(client->line, "total ", 6) == 0) client->last_total = strtol(client->line + 6, NULL, 10);
    }
}

static void client_on_end(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)user;
    kolo_close(loop, stream);
}

static void client_on_close(kolo_loop *loop, kolo_stream stream, void *user)
{
    (void)loop, (void)stream;
    ((client *)user)->closed = true;
}

/* ---- one seed --------------------------------------------------------------------------------------------------- */

static void print_line(const char *line, size_t length, void *user)
{
    (void)length, (void)user;
    puts(line);
}

static void check(int result, const char *what)
{
    if (result >= 0) return;
    fprintf(stderr, "sim_counter: %s: %s\n", what, kolo_strerror(result));
    exit(2);
}

static kolo_address address_of(const char *host, uint16_t port)
{
    kolo_address address;
    check(kolo_address_parse(host, port, &address), host);
    return address;
}

static void start_client(kolo_loop *loop, const kolo_address *server, client *client)
{
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = client_on_data;
    handler.on_end = client_on_end;
    handler.on_close = client_on_close;
    check(kolo_tcp_connect(loop, server, NULL, &handler, client, &client->stream), "kolo_tcp_connect");
    check(kolo_timer_open(loop, client_on_timer, client, &client->timer), "kolo_timer_open");
    check(kolo_timer_start(loop, client->timer, 10000000, 10000000), "kolo_timer_start");
}

/* Runs the world of a seed. Whether all answers were right; why not stands in `why`. */
static bool run_seed(uint64_t seed, bool fixed, bool trace, uint64_t *digest, char why[128])
{
    kolo_sim sim;
    kolo_sim_options options = KOLO_SIM_OPTIONS_INIT;
    options.seed = seed;
    /* Three reads and writes in ten thousand are partial: as rare as such bugs are met. */
    options.partial_read_ppm = 300;
    options.partial_write_ppm = 300;
    check(kolo_sim_new(&options, &sim), "kolo_sim_new");
    if (trace) check(kolo_sim_on_trace(sim, print_line, NULL), "kolo_sim_on_trace");

    server server = {fixed};
    kolo_address address = address_of("10.0.0.1", 7000);
    kolo_loop *server_loop;
    check(kolo_sim_loop_new(sim, &address, NULL, &server_loop), "kolo_sim_loop_new");
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    handler.on_accept = server_on_accept;
    kolo_listener listener;
    check(kolo_tcp_listen(server_loop, &address, NULL, &handler, &server, &listener), "kolo_tcp_listen");
    /* The run is over when the clients are. */
    check(kolo_unref(server_loop, listener), "kolo_unref");

    client clients[CLIENTS];
    kolo_loop *loops[CLIENTS];
    memset(clients, 0, sizeof clients);
    for (int i = 0; i < CLIENTS; i++) {
        char host[16];
        snprintf(host, sizeof host, "10.0.1.%d", i + 1);
        kolo_address at = address_of(host, 0);
        check(kolo_sim_loop_new(sim, &at, NULL, &loops[i]), "kolo_sim_loop_new");
        start_client(loops[i], &address, &clients[i]);
    }

    int outcome = kolo_sim_run(sim, 3600 * UINT64_C(1000000000));
    check(outcome, "kolo_sim_run");
    bool right = true;
    if (outcome != KOLO_SIM_DONE) {
        snprintf(why, 128, "the run was not over after an hour");
        right = false;
    }
    for (int i = 0; right && i < CLIENTS; i++) {
        const client *it = &clients[i];
        right = it->closed && it->answered == REQUESTS && it->last_total == it->total;
        if (!right)
            snprintf(why, 128, "client %d: %d answers, total %ld; should be %d answers, total %ld", i + 1, it->answered,
                     it->last_total, REQUESTS, it->total);
    }
    check(kolo_sim_digest(sim, digest), "kolo_sim_digest");
    for (int i = 0; i < CLIENTS; i++) check(kolo_loop_free(loops[i]), "kolo_loop_free");
    check(kolo_loop_free(server_loop), "kolo_loop_free");
    check(kolo_sim_free(sim), "kolo_sim_free");
    return right;
}

int main(int argc, char **argv)
{
    bool fixed = false, trace = false;
    uint64_t seeds = 1000, only = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--fixed") == 0) {
            fixed = true;
        } else if (strcmp(argv[i], "--trace") == 0) {
            trace = true;
        } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
            only = strtoull(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc) {
            seeds = strtoull(argv[++i], NULL, 10);
        } else {
            fprintf(stderr, "usage: sim_counter [--fixed] [--seeds N | --seed S [--trace]]\n");
            return 2;
        }
    }
    uint64_t first = only != 0 ? only : 1, last = only != 0 ? only : seeds;
    for (uint64_t seed = first; seed <= last; seed++) {
        char why[128] = "";
        uint64_t digest, again;
        if (run_seed(seed, fixed, trace, &digest, why)) continue;
        printf("seed %" PRIu64 ": %s\n", seed, why);
        /* The same seed is the same run: the bug can be looked at as often as it takes. */
        if (!run_seed(seed, fixed, false, &again, why) && again == digest)
            printf("and again, the same run: ./sim_counter --seed %" PRIu64 " --trace shows it\n", seed);
        return 1;
    }
    printf("%" PRIu64 " %s passed\n", last - first + 1, last == first ? "seed" : "seeds");
    return 0;
}
