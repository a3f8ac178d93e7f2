/* Simulations: worlds of virtual time, made, run and misused from C. */
#include "harness.h"

static kolo_sim new_sim(uint64_t seed, uint32_t preset) {
    kolo_sim_options options = KOLO_SIM_OPTIONS_INIT;
    kolo_sim sim = 0;
    options.seed = seed;
    options.preset = preset;
    CHECK_OK(kolo_sim_new(&options, &sim));
    CHECK(sim != 0);
    return sim;
}

static kolo_address at(const char *host, uint16_t port) {
    kolo_address address;
    CHECK_OK(kolo_address_parse(host, port, &address));
    return address;
}

static kolo_loop *new_loop(kolo_sim sim, const char *host) {
    kolo_address address = at(host, 0);
    kolo_loop *loop = NULL;
    CHECK_OK(kolo_sim_loop_new(sim, &address, NULL, &loop));
    CHECK(loop != NULL);
    return loop;
}

/* A server that records and a client that records, on hosts of their own. */
typedef struct world {
    kolo_sim sim;
    kolo_loop *server_loop, *client_loop;
    kolo_listener listener;
    peer client, server;
    int accepted, last_accept_error;
} world;

static void on_accept(kolo_loop *loop, kolo_listener listener, kolo_stream stream, void *user) {
    world *world = user;
    (void)listener;
    kolo_stream_handler handler = peer_handler();
    world->accepted++;
    world->server.loop = loop;
    world->server.stream = stream;
    CHECK_OK(kolo_stream_attach(loop, stream, &handler, &world->server));
}

static void on_accept_error(kolo_loop *loop, kolo_listener listener, int error, void *user) {
    (void)loop, (void)listener;
    ((world *)user)->last_accept_error = error;
}

static void world_open(world *world, uint64_t seed, uint32_t preset) {
    kolo_listener_handler listener = KOLO_LISTENER_HANDLER_INIT;
    kolo_stream_handler handler = peer_handler();
    kolo_address address = at("10.0.0.1", 80);
    memset(world, 0, sizeof *world);
    world->sim = new_sim(seed, preset);
    world->server_loop = new_loop(world->sim, "10.0.0.1");
    world->client_loop = new_loop(world->sim, "10.0.0.2");
    listener.on_accept = on_accept;
    listener.on_error = on_accept_error;
    CHECK_OK(kolo_tcp_listen(world->server_loop, &address, NULL, &listener, world, &world->listener));
    CHECK_OK(kolo_unref(world->server_loop, world->listener));
    world->client.loop = world->client_loop;
    CHECK_OK(kolo_tcp_connect(world->client_loop, &address, NULL, &handler, &world->client, &world->client.stream));
}

static void world_close(world *world) {
    CHECK_OK(kolo_loop_free(world->client_loop));
    CHECK_OK(kolo_loop_free(world->server_loop));
    CHECK_OK(kolo_sim_free(world->sim));
    peer_free(&world->client);
    peer_free(&world->server);
}

static uint64_t elapsed(kolo_sim sim) {
    uint64_t now;
    CHECK_OK(kolo_sim_elapsed(sim, &now));
    return now;
}

TEST_WITHOUT_LOOP(bytes_cross_between_hosts) {
    world world;
    world_open(&world, 1, KOLO_SIM_USUAL);
    CHECK_INT(kolo_stream_write(world.client_loop, world.client.stream, "question", 8), 0);
    CHECK_OK(kolo_stream_shutdown(world.client_loop, world.client.stream, NULL, NULL));
    world.server.close_at_end = true;
    world.client.close_at_end = true;
    CHECK_INT(kolo_sim_run(world.sim, SECONDS(60)), KOLO_SIM_DONE);
    CHECK_RECEIVED(&world.server, "question");
    CHECK_INT(world.client.opened, 1);
    CHECK_INT(world.client.closed, 1);
    CHECK_INT(world.server.closed, 1);
    CHECK(elapsed(world.sim) > 0);
    world_close(&world);
}

static int is_open(kolo_sim sim, void *user) {
    world *world = user;
    /* A condition may look at everything, but not run anything. */
    CHECK_ERROR(kolo_sim_run(sim, 1), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_run(world->client_loop, KOLO_RUN_NOWAIT), KOLO_EBUSY);
    CHECK_ERROR(kolo_sim_free(sim), KOLO_EBUSY);
    return world->client.opened;
}

TEST_WITHOUT_LOOP(a_condition_ends_a_run) {
    world world;
    world_open(&world, 1, KOLO_SIM_PLAIN);
    CHECK_INT(kolo_sim_run_until(world.sim, UINT64_MAX, is_open, &world), KOLO_SIM_MET);
    CHECK_INT(world.client.opened, 1);
    CHECK_INT(kolo_sim_run(world.sim, SECONDS(5)), KOLO_SIM_QUIET);
    world_close(&world);
}

/* ---- the same seed ---- */

typedef struct text {
    char *bytes;
    size_t length;
    int lines;
} text;

static void keep_line(const char *line, size_t length, void *user) {
    text *text = user;
    CHECK_INT(strlen(line), length);
    text->bytes = realloc(text->bytes, text->length + length + 1);
    CHECK(text->bytes != NULL);
    memcpy(text->bytes + text->length, line, length);
    text->length += length;
    text->bytes[text->length++] = '\n';
    text->lines++;
}

static uint64_t busy_run(uint64_t seed, text *text) {
    world world;
    uint8_t data[20000];
    uint64_t digest, number;
    world_open(&world, seed, KOLO_SIM_HARSH);
    if (text != NULL) CHECK_OK(kolo_sim_on_trace(world.sim, keep_line, text));
    pattern_fill(data, sizeof data, 0);
    CHECK(kolo_stream_write(world.client_loop, world.client.stream, data, sizeof data) >= 0);
    CHECK(kolo_sim_run(world.sim, SECONDS(120)) >= 0);
    CHECK_OK(kolo_sim_random(world.sim, &number));
    CHECK_OK(kolo_sim_digest(world.sim, &digest));
    if (text != NULL) CHECK_OK(kolo_sim_on_trace(world.sim, NULL, NULL));
    world_close(&world);
    return digest ^ number;
}

TEST_WITHOUT_LOOP(the_same_seed_is_the_same_run) {
    text first = {NULL, 0, 0}, second = {NULL, 0, 0};
    uint64_t one = busy_run(5, &first);
    CHECK_INT(busy_run(5, &second), one);
    CHECK_INT(busy_run(5, NULL), one);
    CHECK(busy_run(6, NULL) != one);
    CHECK(first.lines > 20);
    CHECK_INT(first.length, second.length);
    CHECK(memcmp(first.bytes, second.bytes, first.length) == 0);
    free(first.bytes);
    free(second.bytes);
}

/* ---- faults ---- */

TEST_WITHOUT_LOOP(partitions_and_resets) {
    world world;
    kolo_address server = at("10.0.0.1", 0), client = at("10.0.0.2", 1), nobody = at("10.9.9.9", 0);
    world_open(&world, 1, KOLO_SIM_PLAIN);
    CHECK_INT(kolo_sim_run_until(world.sim, UINT64_MAX, is_open, &world), KOLO_SIM_MET);
    CHECK(kolo_sim_run(world.sim, MILLISECONDS(10)) >= 0);
    CHECK_OK(kolo_sim_partition(world.sim, &server, &client));
    CHECK_INT(kolo_stream_write(world.client_loop, world.client.stream, "x", 1), 0);
    CHECK_INT(kolo_sim_run(world.sim, SECONDS(30)), KOLO_SIM_TIME_LIMIT);
    CHECK_INT(world.server.received, 0);
    CHECK_OK(kolo_sim_heal(world.sim, &client, &server));
    CHECK(kolo_sim_run(world.sim, SECONDS(300)) >= 0);
    CHECK_INT(world.server.received, 1);
    CHECK_OK(kolo_sim_partition(world.sim, &server, &client));
    CHECK_OK(kolo_sim_heal_all(world.sim));
    CHECK_INT(kolo_sim_reset_connections(world.sim, &server, &client), 1);
    CHECK_INT(kolo_sim_run(world.sim, SECONDS(1)), KOLO_SIM_DONE);
    CHECK_INT(world.client.last_error, KOLO_ECONNRESET);
    CHECK_INT(world.server.last_error, KOLO_ECONNRESET);

    CHECK_ERROR(kolo_sim_partition(world.sim, &server, &nobody), KOLO_ENOENT);
    CHECK_ERROR(kolo_sim_heal(world.sim, &nobody, &server), KOLO_ENOENT);
    CHECK_ERROR(kolo_sim_reset_connections(world.sim, &nobody, &server), KOLO_ENOENT);
    CHECK_ERROR(kolo_sim_partition(world.sim, NULL, &server), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_partition(world.sim, &server, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_heal(world.sim, NULL, &server), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_reset_connections(world.sim, &server, NULL), KOLO_EINVAL);
    world_close(&world);
}

TEST_WITHOUT_LOOP(links_and_descriptors_and_addresses) {
    world world;
    kolo_sim_link link = KOLO_SIM_LINK_INIT;
    kolo_address server = at("10.0.0.1", 0), client = at("10.0.0.2", 0), nobody = at("10.9.9.9", 0);
    kolo_address six = at("2001:db8::1", 0), loopback = at("127.0.0.1", 0);
    world_open(&world, 1, KOLO_SIM_PLAIN);
    link.latency_min_ns = SECONDS(2);
    CHECK_OK(kolo_sim_set_link(world.sim, &server, &client, &link));
    /* The listener is one of two: no connection may come. */
    CHECK_OK(kolo_sim_set_descriptors(world.sim, world.server_loop, 1));
    CHECK(kolo_sim_run(world.sim, SECONDS(6)) >= 0);
    CHECK_INT(world.client.opened, 1);
    CHECK_INT(world.accepted, 0);
    CHECK_INT(world.last_accept_error, KOLO_EMFILE);
    CHECK_OK(kolo_sim_set_descriptors(world.sim, world.server_loop, 0));
    CHECK(kolo_sim_run(world.sim, SECONDS(6)) >= 0);
    CHECK_INT(world.accepted, 1);
    CHECK_OK(kolo_sim_set_link(world.sim, &server, &client, NULL));

    CHECK_OK(kolo_sim_add_address(world.sim, &server, &six));
    CHECK_ERROR(kolo_sim_add_address(world.sim, &client, &six), KOLO_EADDRINUSE);
    CHECK_ERROR(kolo_sim_add_address(world.sim, &client, &loopback), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_add_address(world.sim, &nobody, &loopback), KOLO_ENOENT);
    CHECK_ERROR(kolo_sim_add_address(world.sim, NULL, &six), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_add_address(world.sim, &server, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_set_link(world.sim, &server, &nobody, NULL), KOLO_ENOENT);
    CHECK_ERROR(kolo_sim_set_link(world.sim, NULL, &server, NULL), KOLO_EINVAL);
    link.loss_ppm = 1000001;
    CHECK_ERROR(kolo_sim_set_link(world.sim, &server, &client, &link), KOLO_EINVAL);
    link.loss_ppm = 0, link.size = 1;
    CHECK_ERROR(kolo_sim_set_link(world.sim, &server, &client, &link), KOLO_EINVAL);

    kolo_loop *real = NULL;
    CHECK_OK(kolo_loop_new(NULL, &real));
    CHECK_ERROR(kolo_sim_set_descriptors(world.sim, real, 1), KOLO_EINVAL);
    CHECK_OK(kolo_loop_free(real));
    CHECK_ERROR(kolo_sim_set_descriptors(world.sim, NULL, 1), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_set_descriptors(world.sim, real, 1), KOLO_EBADF);
    world_close(&world);
}

/* ---- names ---- */

typedef struct found {
    int calls, status;
    size_t count;
} found;

static void on_resolved(kolo_loop *loop, kolo_request request, int status, const kolo_address *addresses, size_t count,
                        const char *name, void *user) {
    found *found = user;
    (void)loop, (void)request, (void)addresses, (void)name;
    found->calls++;
    found->status = status;
    found->count = count;
}

TEST_WITHOUT_LOOP(names_are_the_simulations) {
    kolo_sim sim = new_sim(3, KOLO_SIM_USUAL);
    kolo_loop *loop = new_loop(sim, "10.0.0.2");
    kolo_address addresses[2] = {at("10.0.0.1", 0), at("10.0.0.3", 0)};
    found found = {0, 0, 0};
    CHECK_OK(kolo_sim_set_name(sim, "server.example", addresses, 2));
    CHECK_OK(kolo_resolve(loop, "server.example", "80", NULL, on_resolved, &found, NULL));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(found.calls, 1);
    CHECK_INT(found.status, KOLO_OK);
    CHECK_INT(found.count, 2);
    CHECK_OK(kolo_sim_set_name(sim, "server.example", NULL, 0));
    CHECK_OK(kolo_resolve(loop, "server.example", "80", NULL, on_resolved, &found, NULL));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(found.status, KOLO_EAI_NONAME);
    CHECK_ERROR(kolo_sim_set_name(sim, NULL, addresses, 1), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_set_name(sim, "x", NULL, 1), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_set_name(sim, "\xff", addresses, 1), KOLO_EINVAL);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_OK(kolo_sim_free(sim));
}

/* ---- loops ---- */

static void stop(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)timer, (void)user;
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBUSY);
    CHECK_OK(kolo_loop_stop(loop));
}

TEST_WITHOUT_LOOP(a_stopped_loop_ends_the_run_at_its_time) {
    kolo_sim sim = new_sim(1, KOLO_SIM_USUAL);
    kolo_loop *loop = new_loop(sim, "10.0.0.1");
    kolo_timer timer;
    CHECK_OK(kolo_timer_open(loop, stop, NULL, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, SECONDS(3600), SECONDS(3600)));
    CHECK_INT(kolo_sim_run(sim, UINT64_MAX), KOLO_SIM_STOPPED);
    CHECK_INT(elapsed(sim), SECONDS(3600));
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 1);
    CHECK_INT(elapsed(sim), SECONDS(7200));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(kolo_sim_run(sim, UINT64_MAX), KOLO_SIM_DONE);
    CHECK_OK(kolo_sim_free(sim));
}

typedef struct neighbour {
    kolo_loop *other;
    int freed;
} neighbour;

static void free_other(kolo_loop *loop, kolo_timer timer, void *user) {
    neighbour *neighbour = user;
    if (neighbour->freed++ == 0) CHECK_OK(kolo_loop_free(neighbour->other));
    CHECK_OK(kolo_close(loop, timer));
}

TEST_WITHOUT_LOOP(a_callback_frees_the_loop_of_its_peer) {
    world world;
    neighbour neighbour = {NULL, 0};
    kolo_timer timer;
    world_open(&world, 1, KOLO_SIM_PLAIN);
    neighbour.other = world.server_loop;
    CHECK_OK(kolo_timer_open(world.client_loop, free_other, &neighbour, &timer));
    CHECK_OK(kolo_timer_start(world.client_loop, timer, SECONDS(1), 0));
    CHECK(kolo_sim_run(world.sim, SECONDS(10)) >= 0);
    CHECK_INT(neighbour.freed, 1);
    CHECK_INT(world.server.closed, 1);
    CHECK_INT(world.client.ended, 1);
    CHECK_OK(kolo_loop_free(world.client_loop));
    CHECK_OK(kolo_sim_free(world.sim));
    peer_free(&world.client);
    peer_free(&world.server);
}

TEST_WITHOUT_LOOP(loops_outlive_their_simulations_number) {
    world world;
    world_open(&world, 1, KOLO_SIM_PLAIN);
    CHECK_OK(kolo_sim_free(world.sim));
    CHECK_ERROR(kolo_sim_free(world.sim), KOLO_EBADF);
    world.client.close_at_end = true;
    world.server.close_at_end = true;
    CHECK_OK(kolo_stream_shutdown(world.client_loop, world.client.stream, NULL, NULL));
    CHECK_INT(kolo_loop_run(world.client_loop, KOLO_RUN_DEFAULT), 0);
    CHECK_INT(world.client.closed, 1);
    CHECK_OK(kolo_loop_free(world.client_loop));
    CHECK_OK(kolo_loop_free(world.server_loop));
    peer_free(&world.client);
    peer_free(&world.server);
}

TEST_WITHOUT_LOOP(a_loop_that_waits_for_nothing_is_a_deadlock) {
    kolo_sim sim = new_sim(1, KOLO_SIM_PLAIN);
    kolo_loop *loop = new_loop(sim, "10.0.0.1");
    kolo_address address = at("0.0.0.0", 80);
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    kolo_listener listener;
    world world;
    handler.on_accept = on_accept;
    CHECK_OK(kolo_tcp_listen(loop, &address, NULL, &handler, &world, &listener));
    CHECK_ERROR(kolo_loop_run(loop, KOLO_RUN_DEFAULT), KOLO_EDEADLK);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
    CHECK_INT(kolo_sim_run(sim, UINT64_MAX), KOLO_SIM_QUIET);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_OK(kolo_sim_free(sim));
}

static void no_poll(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    (void)loop, (void)poll, (void)status, (void)events, (void)user;
}
static void no_signal(kolo_loop *loop, kolo_signal signal, int number, void *user) {
    (void)loop, (void)signal, (void)number, (void)user;
}

TEST_WITHOUT_LOOP(what_needs_a_kernel_is_not_supported) {
    world world;
    kolo_handle handle;
    kolo_socket raw;
    int sockets[2];
    kolo_stream_handler handler = peer_handler();
    world_open(&world, 1, KOLO_SIM_PLAIN);
    kolo_loop *loop = world.client_loop;
    CHECK_INT(kolo_sim_run_until(world.sim, UINT64_MAX, is_open, &world), KOLO_SIM_MET);
    raw_pair(sockets);
    CHECK_ERROR(kolo_poll_open(loop, sockets[0], no_poll, NULL, &handle), KOLO_ENOTSUP);
    CHECK_ERROR(kolo_tcp_adopt(loop, sockets[0], &handler, &world.client, &handle), KOLO_ENOTSUP);
    CHECK(descriptor_is_open(sockets[0]));
    raw_close(&sockets[0]);
    raw_close(&sockets[1]);
    CHECK_ERROR(kolo_signal_open(loop, no_signal, NULL, &handle), KOLO_ENOTSUP);
    CHECK_ERROR(kolo_tcp_socket(loop, world.client.stream, &raw), KOLO_ENOTSUP);
    CHECK_ERROR(kolo_tcp_release(loop, world.client.stream, &raw), KOLO_ENOTSUP);
    CHECK_ERROR(kolo_loop_backend_fd(loop), KOLO_ENOTSUP);
    CHECK_ERROR(kolo_loop_detach_thread(loop), KOLO_ENOTSUP);
    CHECK_INT(world.client.closed, 0);
    CHECK_STRING(kolo_loop_driver_name(loop), "sim");
    CHECK((kolo_features() & KOLO_FEATURE_SIM) != 0);
    world_close(&world);
}

/* ---- misuse ---- */

TEST_WITHOUT_LOOP(options_that_make_no_sense_are_refused) {
    kolo_sim_options options = KOLO_SIM_OPTIONS_INIT;
    kolo_sim_link link = KOLO_SIM_LINK_INIT;
    kolo_sim sim = 7;
    CHECK_ERROR(kolo_sim_new(&options, NULL), KOLO_EINVAL);
    options.preset = 3;
    CHECK_ERROR(kolo_sim_new(&options, &sim), KOLO_EINVAL);
    options.preset = 0, options.partial_write_ppm = 1000001;
    CHECK_ERROR(kolo_sim_new(&options, &sim), KOLO_EINVAL);
    options.partial_write_ppm = 0, options.turn_min_ns = SECONDS(1);
    CHECK_ERROR(kolo_sim_new(&options, &sim), KOLO_EINVAL);
    options.turn_min_ns = 0, options.size = 3;
    CHECK_ERROR(kolo_sim_new(&options, &sim), KOLO_EINVAL);
    options.size = sizeof options, options.link = &link, link.packet_max = 63;
    CHECK_ERROR(kolo_sim_new(&options, &sim), KOLO_EINVAL);
    link.packet_max = 0, link.latency_min_ns = 2, link.latency_max_ns = 1;
    CHECK_ERROR(kolo_sim_new(&options, &sim), KOLO_EINVAL);
    link.latency_min_ns = 0, link.size = 0;
    CHECK_ERROR(kolo_sim_new(&options, &sim), KOLO_EINVAL);
    CHECK_INT(sim, 7);
    link.size = sizeof link;
    CHECK_OK(kolo_sim_new(&options, &sim));
    CHECK_OK(kolo_sim_free(sim));
    CHECK_OK(kolo_sim_new(NULL, &sim));
    CHECK_OK(kolo_sim_free(sim));
}

/* Every function with a simulation's number. */
static void every_call(kolo_sim sim, int error) {
    kolo_address address = at("10.0.0.1", 0);
    kolo_loop *loop = NULL;
    uint64_t number = 0;
    CHECK_ERROR(kolo_sim_loop_new(sim, &address, NULL, &loop), error);
    CHECK_ERROR(kolo_sim_add_address(sim, &address, &address), error);
    CHECK_ERROR(kolo_sim_set_name(sim, "x", &address, 1), error);
    CHECK_ERROR(kolo_sim_run(sim, 1), error);
    CHECK_ERROR(kolo_sim_run_until(sim, 1, is_open, NULL), error);
    CHECK_ERROR(kolo_sim_elapsed(sim, &number), error);
    CHECK_ERROR(kolo_sim_random(sim, &number), error);
    CHECK_ERROR(kolo_sim_digest(sim, &number), error);
    CHECK_ERROR(kolo_sim_on_trace(sim, NULL, NULL), error);
    CHECK_ERROR(kolo_sim_set_link(sim, &address, &address, NULL), error);
    CHECK_ERROR(kolo_sim_partition(sim, &address, &address), error);
    CHECK_ERROR(kolo_sim_heal(sim, &address, &address), error);
    CHECK_ERROR(kolo_sim_heal_all(sim), error);
    CHECK_ERROR(kolo_sim_reset_connections(sim, &address, &address), error);
    CHECK_ERROR(kolo_sim_set_descriptors(sim, NULL, 0), error);
    CHECK_ERROR(kolo_sim_free(sim), error);
}

static void *elsewhere(void *sim) {
    every_call(*(kolo_sim *)sim, KOLO_EWRONGTHREAD);
    return NULL;
}

static void *run_elsewhere(void *loop) {
    CHECK_ERROR(kolo_loop_run(loop, KOLO_RUN_NOWAIT), KOLO_EWRONGTHREAD);
    return NULL;
}

TEST_WITHOUT_LOOP(a_number_that_is_none_or_of_another_thread) {
    kolo_sim sim = new_sim(1, KOLO_SIM_USUAL);
    kolo_loop *loop = new_loop(sim, "10.0.0.1");
    uint64_t number = 0;
    every_call(0, KOLO_EBADF);
    every_call(12345, KOLO_EBADF);
    on_another_thread(elsewhere, &sim);
    on_another_thread(run_elsewhere, loop);
    CHECK_ERROR(kolo_sim_elapsed(sim, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_random(sim, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_digest(sim, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_run_until(sim, 1, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_loop_new(sim, NULL, NULL, &loop), KOLO_EINVAL);
    kolo_address address = at("10.0.0.1", 0), any = at("0.0.0.0", 0);
    CHECK_ERROR(kolo_sim_loop_new(sim, &address, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_sim_loop_new(sim, &any, NULL, &loop), KOLO_EINVAL);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_OK(kolo_sim_random(sim, &number));
    CHECK_OK(kolo_sim_free(sim));
    every_call(sim, KOLO_EBADF);
}
