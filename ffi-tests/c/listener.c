/* Listeners: binding, accepting, pausing, and what happens when the descriptors run out. */
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { MOST = 64 };

/* A listener that attaches a recorded stream to every connection. */
typedef struct server {
    kolo_listener listener;
    kolo_address address;
    int accepted, errors, closed;
    int last_error;
    peer peers[MOST];
    bool pause_in_accept, close_in_accept, ignore;
} server;

static void server_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user) {
    server *me = user;
    kolo_stream_handler handler = peer_handler();
    CHECK_INT(me->closed, 0);
    CHECK(me->accepted < MOST);
    if (!me->ignore) {
        peer *new_peer = &me->peers[me->accepted];
        new_peer->loop = loop;
        new_peer->stream = stream;
        CHECK_OK(kolo_stream_attach(loop, stream, &handler, new_peer));
    }
    me->accepted++;
    if (me->pause_in_accept) CHECK_OK(kolo_listener_pause(loop, listener));
    if (me->close_in_accept) CHECK_OK(kolo_close(loop, listener));
}

static void server_error(kolo_loop *loop, kolo_listener listener, int error, void *user) {
    (void)loop, (void)listener;
    server *me = user;
    CHECK_INT(me->closed, 0);
    me->errors++;
    me->last_error = error;
}

static void server_close(kolo_loop *loop, kolo_listener listener, void *user) {
    (void)loop, (void)listener;
    ((server *)user)->closed++;
}

static kolo_listener_handler server_handler(void) {
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    handler.on_accept = server_accept;
    handler.on_error = server_error;
    handler.on_close = server_close;
    return handler;
}

static void server_open(kolo_loop *loop, server *me, const kolo_address *any, const kolo_listen_options *options) {
    kolo_listener_handler handler = server_handler();
    memset(me, 0, sizeof *me);
    CHECK_OK(kolo_tcp_listen(loop, any, options, &handler, me, &me->listener));
    CHECK(me->listener != 0);
    CHECK_OK(kolo_listener_address(loop, me->listener, &me->address));
    CHECK(me->address.port != 0);
}

static void server_end(kolo_loop *loop, server *me) {
    if (!me->closed) CHECK_OK(kolo_close(loop, me->listener));
    for (int i = 0; i < me->accepted; i++)
        if (me->peers[i].stream != 0 && !me->peers[i].closed) CHECK_OK(kolo_close(loop, me->peers[i].stream));
    run_to_end(loop);
    CHECK_INT(me->closed, 1);
    for (int i = 0; i < me->accepted; i++) peer_free(&me->peers[i]);
}

static void check_hears(kolo_loop *loop, server *me, const kolo_address *target) {
    int number = me->accepted, socket = raw_connect(target);
    raw_write_all(socket, "hello", 5);
    RUN_UNTIL(loop, me->accepted == number + 1 && me->peers[number].received == 5);
    raw_close(&socket);
}

static void check_refused(const kolo_address *target) {
    struct sockaddr_storage place;
    int length = kolo_address_to_sockaddr(target, &place, sizeof place);
    int descriptor = SYSTEM(socket(place.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_INT(connect(descriptor, (struct sockaddr *)&place, (socklen_t)length), -1);
    CHECK_INT(errno, ECONNREFUSED);
    raw_close(&descriptor);
}

/* ---- binding ---- */

TEST(port_zero_gives_a_free_port_back) {
    server first, second;
    kolo_address any = loopback_v4(0);
    server_open(loop, &first, &any, NULL);
    server_open(loop, &second, &any, NULL);
    CHECK(first.address.port != second.address.port);
    CHECK_INT(first.address.family, KOLO_FAMILY_IPV4);
    check_hears(loop, &first, &first.address);
    check_hears(loop, &second, &second.address);
    CHECK_OK(kolo_close(loop, second.listener));
    for (int i = 0; i < second.accepted; i++) CHECK_OK(kolo_close(loop, second.peers[i].stream));
    server_end(loop, &first);
    CHECK_INT(second.closed, 1);
    peer_free(&second.peers[0]);
}

TEST(ipv6) {
    server me;
    kolo_address any = loopback_v6(0);
    server_open(loop, &me, &any, NULL);
    CHECK_INT(me.address.family, KOLO_FAMILY_IPV6);
    check_hears(loop, &me, &me.address);
    server_end(loop, &me);
}

TEST(dual_stack_by_default) {
    server me;
    kolo_address any, v4, v6, from;
    CHECK_OK(kolo_address_parse("::", 0, &any));
    server_open(loop, &me, &any, NULL);
    v4 = loopback_v4(me.address.port);
    v6 = loopback_v6(me.address.port);
    check_hears(loop, &me, &v6);
    CHECK_OK(kolo_tcp_peer(loop, me.peers[0].stream, &from));
    CHECK_INT(from.family, KOLO_FAMILY_IPV6);
    check_hears(loop, &me, &v4);
    CHECK_OK(kolo_tcp_local(loop, me.peers[1].stream, &from));
    CHECK_INT(from.port, me.address.port);
    server_end(loop, &me);
}

TEST(ipv6_only_leaves_ipv4_alone) {
    server me;
    kolo_address any, v4, v6;
    kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
    CHECK_OK(kolo_address_parse("::", 0, &any));
    options.ipv6_only = true;
    server_open(loop, &me, &any, &options);
    v4 = loopback_v4(me.address.port);
    v6 = loopback_v6(me.address.port);
    check_hears(loop, &me, &v6);
    check_refused(&v4);
    server_end(loop, &me);
}

TEST(an_address_in_use) {
    server me;
    kolo_address any = loopback_v4(0);
    kolo_listener_handler handler = server_handler();
    kolo_listener second = 0;
    server_open(loop, &me, &any, NULL);
    CHECK_ERROR(kolo_tcp_listen(loop, &me.address, NULL, &handler, &me, &second), KOLO_EADDRINUSE);
    CHECK_INT(second, 0);
    check_hears(loop, &me, &me.address); /* the first is unharmed */
    server_end(loop, &me);
}

TEST(an_address_that_is_not_ours) {
    kolo_address foreign;
    kolo_listener_handler handler = server_handler();
    kolo_listener listener = 0;
    CHECK_OK(kolo_address_parse("192.0.2.1", 0, &foreign)); /* reserved for documentation */
    CHECK_ERROR(kolo_tcp_listen(loop, &foreign, NULL, &handler, NULL, &listener), KOLO_EADDRNOTAVAIL);
    CHECK_INT(listener, 0);
}

TEST(a_port_can_be_taken_again_at_once) {
    /* Connections of the first listener are still in TIME_WAIT; SO_REUSEADDR is on by default. */
    server me;
    kolo_address any = loopback_v4(0), same;
    server_open(loop, &me, &any, NULL);
    same = me.address;
    int socket = raw_connect(&same);
    RUN_UNTIL(loop, me.accepted == 1);
    CHECK_OK(kolo_close(loop, me.peers[0].stream)); /* the server closes first */
    RUN_UNTIL(loop, me.peers[0].closed);
    char byte;
    CHECK_INT(recv(socket, &byte, 1, 0), 0);
    raw_close(&socket);
    server_end(loop, &me);
    server_open(loop, &me, &same, NULL);
    CHECK_INT(me.address.port, same.port);
    check_hears(loop, &me, &same);
    server_end(loop, &me);
}

TEST(reuse_port_shares_an_address) {
    static server first, second;
    kolo_address any = loopback_v4(0);
    kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
    int sockets[40];
    options.reuse_port = true;
    server_open(loop, &first, &any, &options);
    server_open(loop, &second, &first.address, &options);
    CHECK_INT(second.address.port, first.address.port);
    for (int i = 0; i < 40; i++) sockets[i] = raw_connect(&first.address);
    RUN_UNTIL(loop, first.accepted + second.accepted == 40); /* each connection went to one of the two */
    for (int i = 0; i < 40; i++) raw_close(&sockets[i]);
    for (int i = 0; i < second.accepted; i++) CHECK_OK(kolo_close(loop, second.peers[i].stream));
    CHECK_OK(kolo_close(loop, second.listener));
    server_end(loop, &first);
    CHECK_INT(second.closed, 1);
}

TEST(socket_options_are_those_asked_for) {
    server me;
    kolo_address any = loopback_v4(0);
    kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
    kolo_socket socket = -1;
    options.delay = true;
    options.receive_buffer = 40000;
    options.send_buffer = 30000;
    server_open(loop, &me, &any, &options);
    check_hears(loop, &me, &me.address);
    CHECK_OK(kolo_tcp_socket(loop, me.peers[0].stream, &socket));
    CHECK_INT(raw_option((int)socket, IPPROTO_TCP, TCP_NODELAY), 0);
    CHECK(raw_option((int)socket, SOL_SOCKET, SO_RCVBUF) >= 40000);
    CHECK(raw_option((int)socket, SOL_SOCKET, SO_RCVBUF) <= 80000);
    CHECK(raw_option((int)socket, SOL_SOCKET, SO_SNDBUF) >= 30000);
    CHECK(raw_option((int)socket, SOL_SOCKET, SO_SNDBUF) <= 60000);
    server_end(loop, &me);
    server_open(loop, &me, &any, NULL);
    check_hears(loop, &me, &me.address);
    CHECK_OK(kolo_tcp_socket(loop, me.peers[0].stream, &socket));
    CHECK(raw_option((int)socket, IPPROTO_TCP, TCP_NODELAY) != 0); /* off Nagle by default */
    CHECK(fcntl((int)socket, F_GETFD) & FD_CLOEXEC);
    CHECK(fcntl((int)socket, F_GETFL) & O_NONBLOCK);
    server_end(loop, &me);
}

/* ---- accepting ---- */

TEST(a_stream_left_without_a_handler_is_closed) {
    server me;
    kolo_address any = loopback_v4(0);
    char byte;
    server_open(loop, &me, &any, NULL);
    me.ignore = true;
    int descriptors = open_descriptors();
    int socket = raw_connect(&me.address);
    RUN_UNTIL(loop, me.accepted == 1);
    run_some_turns(loop);
    CHECK(recv(socket, &byte, 1, 0) <= 0);
    raw_close(&socket);
    CHECK_INT(open_descriptors(), descriptors);
    server_end(loop, &me);
}

TEST(a_listener_without_on_accept_closes_what_comes) {
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    kolo_address any = loopback_v4(0), bound;
    kolo_listener listener = 0;
    char byte;
    CHECK_OK(kolo_tcp_listen(loop, &any, NULL, &handler, NULL, &listener));
    CHECK_OK(kolo_listener_address(loop, listener, &bound));
    int socket = raw_connect(&bound);
    struct timeval soon = {0, 1000};
    SYSTEM(setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &soon, sizeof soon));
    ssize_t received;
    do { /* until it is accepted and closed */
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
        received = recv(socket, &byte, 1, 0);
    } while (received < 0 && errno == EAGAIN);
    CHECK(received == 0 || errno == ECONNRESET);
    raw_close(&socket);
}

TEST(a_turn_accepts_so_many_and_no_more) {
    server me;
    kolo_address any = loopback_v4(0);
    kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
    int sockets[10];
    options.accepts_per_turn = 2;
    server_open(loop, &me, &any, &options);
    for (int i = 0; i < 10; i++) sockets[i] = raw_connect(&me.address);
    int turns = 0;
    while (me.accepted < 10) {
        int before = me.accepted;
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_ONCE), 1);
        CHECK(me.accepted - before <= 2);
        CHECK(++turns < 100);
    }
    for (int i = 0; i < 10; i++) raw_close(&sockets[i]);
    server_end(loop, &me);
}

TEST(a_paused_listener_leaves_clients_waiting) {
    server me;
    kolo_address any = loopback_v4(0);
    int sockets[3];
    server_open(loop, &me, &any, NULL);
    CHECK_OK(kolo_listener_pause(loop, me.listener));
    CHECK_OK(kolo_listener_pause(loop, me.listener));
    for (int i = 0; i < 3; i++) sockets[i] = raw_connect(&me.address); /* into the system's queue */
    run_some_turns(loop);
    CHECK_INT(me.accepted, 0);
    CHECK_OK(kolo_listener_resume(loop, me.listener));
    CHECK_OK(kolo_listener_resume(loop, me.listener));
    RUN_UNTIL(loop, me.accepted == 3);
    for (int i = 0; i < 3; i++) raw_close(&sockets[i]);
    server_end(loop, &me);
}

TEST(pausing_in_on_accept_holds_the_others_back) {
    server me;
    kolo_address any = loopback_v4(0);
    int sockets[4];
    server_open(loop, &me, &any, NULL);
    me.pause_in_accept = true;
    for (int i = 0; i < 4; i++) sockets[i] = raw_connect(&me.address);
    for (int i = 1; i <= 4; i++) {
        RUN_UNTIL(loop, me.accepted == i);
        run_some_turns(loop);
        CHECK_INT(me.accepted, i);
        CHECK_OK(kolo_listener_resume(loop, me.listener));
    }
    for (int i = 0; i < 4; i++) raw_close(&sockets[i]);
    server_end(loop, &me);
}

TEST(closing_in_on_accept) {
    server me;
    kolo_address any = loopback_v4(0);
    int sockets[3];
    server_open(loop, &me, &any, NULL);
    me.close_in_accept = true;
    for (int i = 0; i < 3; i++) sockets[i] = raw_connect(&me.address);
    RUN_UNTIL(loop, me.closed);
    CHECK_INT(me.accepted, 1); /* none after the close */
    raw_write_all(sockets[0], "lives on", 8);
    RUN_UNTIL(loop, me.peers[0].received == 8); /* what was accepted is not the listener's any more */
    CHECK_ERROR(kolo_listener_resume(loop, me.listener), KOLO_EBADF);
    check_refused(&me.address);
    for (int i = 0; i < 3; i++) raw_close(&sockets[i]);
    server_end(loop, &me);
}

TEST(closing_refuses_those_who_wait) {
    server me;
    kolo_address any = loopback_v4(0);
    char byte;
    server_open(loop, &me, &any, NULL);
    int socket = raw_connect(&me.address);
    CHECK_OK(kolo_close(loop, me.listener));
    run_to_end(loop);
    CHECK_INT(me.closed, 1);
    CHECK_INT(me.accepted, 0);
    CHECK_INT(recv(socket, &byte, 1, 0), -1);
    CHECK_INT(errno, ECONNRESET);
    raw_close(&socket);
}

TEST(an_unreferenced_listener_does_not_hold_the_loop) {
    server me;
    kolo_address any = loopback_v4(0);
    server_open(loop, &me, &any, NULL);
    CHECK_INT(kolo_loop_alive(loop), 1);
    CHECK_OK(kolo_unref(loop, me.listener));
    run_to_end(loop);
    server_end(loop, &me);
}

/* ---- adopting ---- */

TEST(adopts_a_listening_socket) {
    server me;
    kolo_listener_handler handler = server_handler();
    kolo_address any = loopback_v4(0), bound;
    int socket = raw_listen(&any, 8, &bound);
    memset(&me, 0, sizeof me);
    CHECK_OK(kolo_listener_adopt(loop, socket, NULL, &handler, &me, &me.listener));
    CHECK_OK(kolo_listener_address(loop, me.listener, &me.address));
    CHECK_INT(me.address.port, bound.port);
    check_hears(loop, &me, &bound);
    server_end(loop, &me);
    CHECK(!descriptor_is_open(socket));
}

TEST(what_cannot_be_adopted_stays_the_callers) {
    kolo_listener_handler handler = server_handler();
    kolo_listener listener = 0;
    int ends[2], sockets[2];
    SYSTEM(pipe(ends));
    CHECK_ERROR(kolo_listener_adopt(loop, ends[0], NULL, &handler, NULL, &listener), KOLO_ENOTSOCK);
    CHECK(descriptor_is_open(ends[0]));
    int number = ends[0];
    raw_close(&ends[0]);
    raw_close(&ends[1]);
    CHECK_ERROR(kolo_listener_adopt(loop, number, NULL, &handler, NULL, &listener), KOLO_EBADF);
    raw_pair(sockets);
    CHECK_ERROR(kolo_listener_adopt(loop, sockets[0], NULL, &handler, NULL, &listener), KOLO_EINVAL);
    CHECK(descriptor_is_open(sockets[0]));
    raw_close(&sockets[0]);
    raw_close(&sockets[1]);
    kolo_address any = loopback_v4(0);
    int bound = raw_socket_bound(&any, NULL); /* does not listen */
    CHECK_ERROR(kolo_listener_adopt(loop, bound, NULL, &handler, NULL, &listener), KOLO_EINVAL);
    CHECK(descriptor_is_open(bound));
    raw_close(&bound);
    CHECK_INT(listener, 0);
}

/* ---- out of descriptors ---- */

/* valgrind keeps the limit itself: it lets the system accept, closes what is beyond, and so loses the connection. */
static bool limit_is_the_systems(void) {
    if (getenv("KOLO_TEST_VALGRIND") == NULL) return true;
    printf("    valgrind loses connections at the limit: not tried\n");
    return false;
}

typedef struct exhausted {
    rlim_t before;
} exhausted;

/* From here on the process gets no new descriptor. */
static void exhaust(exhausted *me) {
    struct rlimit limit;
    SYSTEM(getrlimit(RLIMIT_NOFILE, &limit));
    me->before = limit.rlim_cur;
    int lowest = SYSTEM(dup(0));
    SYSTEM(close(lowest)); /* it and all above it are beyond the limit now */
    limit.rlim_cur = (rlim_t)lowest;
    SYSTEM(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK_INT(dup(0), -1);
    CHECK_INT(errno, EMFILE);
}

static void relieve(exhausted *me) {
    struct rlimit limit;
    SYSTEM(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = me->before;
    SYSTEM(setrlimit(RLIMIT_NOFILE, &limit));
}

static void count_timer(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    ++*(int *)user;
}

static uint64_t turns_of(kolo_loop *loop) {
    kolo_metrics metrics = KOLO_METRICS_INIT;
    CHECK_OK(kolo_loop_metrics(loop, &metrics));
    return metrics.turns;
}

TEST(out_of_descriptors_it_reports_waits_and_recovers) {
    enum { CLIENTS = 5 };
    server me;
    exhausted limit;
    kolo_address any = loopback_v4(0);
    kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
    kolo_timer timer = 0;
    int sockets[CLIENTS], fired = 0;
    if (!limit_is_the_systems()) return;
    options.accept_policy = KOLO_ACCEPT_WAIT;
    options.retry_min_ns = MILLISECONDS(20);
    options.retry_max_ns = MILLISECONDS(100);
    server_open(loop, &me, &any, &options);
    run_some_turns(loop);
    for (int i = 0; i < CLIENTS; i++) {
        sockets[i] = raw_connect(&me.address);
        raw_write_all(sockets[i], "patience", 8);
    }
    exhaust(&limit);
    uint64_t turns = turns_of(loop), start = clock_ns();
    CHECK_OK(kolo_timer_open(loop, count_timer, &fired, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(200), 0));
    RUN_UNTIL(loop, fired == 1);
    uint64_t elapsed = clock_ns() - start;
    CHECK_ERROR(me.last_error, KOLO_EMFILE);
    CHECK_INT(me.errors, 1); /* once, until accepting succeeds again */
    CHECK(turns_of(loop) - turns <= 4 * (elapsed / options.retry_min_ns + 1) + 4); /* and does not spin */
    CHECK_INT(me.accepted, 0);
    CHECK_INT(kolo_is_active(loop, me.listener), 1);
    relieve(&limit);
    RUN_UNTIL(loop, me.accepted == CLIENTS); /* nobody was lost */
    for (int i = 0; i < CLIENTS; i++) RUN_UNTIL(loop, me.peers[i].received == 8);
    check_hears(loop, &me, &me.address);
    CHECK_INT(me.errors, 1);
    int late = raw_connect(&me.address);
    exhaust(&limit);
    RUN_UNTIL(loop, me.errors == 2); /* the next time is told anew */
    relieve(&limit);
    RUN_UNTIL(loop, me.accepted == CLIENTS + 2);
    raw_close(&late);
    for (int i = 0; i < CLIENTS; i++) raw_close(&sockets[i]);
    server_end(loop, &me);
}

TEST(out_of_descriptors_it_rejects_when_told_so) {
    enum { CLIENTS = 5 };
    server me;
    exhausted limit;
    kolo_address any = loopback_v4(0);
    kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
    kolo_timer timer = 0;
    int sockets[CLIENTS], fired = 0;
    if (!limit_is_the_systems()) return;
    options.accept_policy = KOLO_ACCEPT_REJECT;
    options.retry_min_ns = MILLISECONDS(20);
    options.retry_max_ns = MILLISECONDS(100);
    server_open(loop, &me, &any, &options);
    for (int i = 0; i < CLIENTS; i++) sockets[i] = raw_connect(&me.address);
    exhaust(&limit);
    uint64_t turns = turns_of(loop), start = clock_ns();
    CHECK_OK(kolo_timer_open(loop, count_timer, &fired, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(200), 0));
    RUN_UNTIL(loop, fired == 1 && me.errors >= 1);
    uint64_t elapsed = clock_ns() - start;
    CHECK_ERROR(me.last_error, KOLO_EMFILE);
    CHECK(turns_of(loop) - turns <= 4 * (elapsed / options.retry_min_ns + 1) + 4);
    CHECK_INT(me.accepted, 0);
    for (int i = 0; i < CLIENTS; i++) { /* each is told at once, and does not wait for nothing */
        char byte;
        CHECK_INT(recv(sockets[i], &byte, 1, 0), -1);
        CHECK_INT(errno, ECONNRESET);
    }
    relieve(&limit);
    check_hears(loop, &me, &me.address);
    for (int i = 0; i < CLIENTS; i++) raw_close(&sockets[i]);
    server_end(loop, &me);
}

TEST(out_of_descriptors_the_other_streams_go_on) {
    server me;
    exhausted limit;
    kolo_address any = loopback_v4(0);
    half end;
    half_open(loop, &end);
    server_open(loop, &me, &any, NULL);
    int socket = raw_connect(&me.address);
    exhaust(&limit);
    RUN_UNTIL(loop, me.errors >= 1);
    raw_write_all(end.socket, "unharmed", 8);
    RUN_UNTIL(loop, end.peer.received == 8);
    CHECK_OK(kolo_close(loop, me.listener)); /* also while it backs off */
    RUN_UNTIL(loop, me.closed);
    relieve(&limit);
    raw_close(&socket);
    half_close(loop, &end);
}

TEST(out_of_descriptors_connecting_and_listening_say_so) {
    exhausted limit;
    kolo_address any = loopback_v4(0), bound;
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    kolo_stream_handler handler = peer_handler();
    kolo_listener listener = 0;
    peer client;
    int raw = raw_listen(&any, 4, &bound);
    memset(&client, 0, sizeof client);
    exhaust(&limit);
    CHECK_ERROR(kolo_tcp_listen(loop, &any, NULL, &listening, NULL, &listener), KOLO_EMFILE);
    CHECK_ERROR(kolo_tcp_connect(loop, &bound, NULL, &handler, &client, &client.stream), KOLO_EMFILE);
    CHECK_INT(client.stream, 0);
    run_to_end(loop);
    CHECK_INT(client.errors + client.closed, 0); /* there was never a stream */
    kolo_loop *another = NULL;
    CHECK_ERROR(kolo_loop_new(NULL, &another), KOLO_EMFILE);
    CHECK(another == NULL);
    relieve(&limit);
    raw_close(&raw);
}
