/* TCP connections: connecting, addresses, options, adopting and releasing sockets. */
#include "harness.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* A kolo client connected to a plain socket. */
typedef struct connection {
    peer client;
    int listener, socket;
    kolo_address address; /* of the listener */
} connection;

static void connect_to(kolo_loop *loop, connection *me, const kolo_address *any, const kolo_connect_options *options) {
    kolo_stream_handler handler = peer_handler();
    memset(me, 0, sizeof *me);
    me->client.loop = loop;
    me->listener = raw_listen(any, 8, &me->address);
    CHECK_OK(kolo_tcp_connect(loop, &me->address, options, &handler, &me->client, &me->client.stream));
    CHECK(me->client.stream != 0);
    CHECK_INT(me->client.opened, 0); /* never inside the call */
    RUN_UNTIL(loop, me->client.opened);
    me->socket = raw_accept(me->listener);
}

static void connection_close(kolo_loop *loop, connection *me) {
    if (!me->client.closed) CHECK_OK(kolo_close(loop, me->client.stream));
    RUN_UNTIL(loop, me->client.closed);
    raw_close(&me->socket);
    raw_close(&me->listener);
    peer_free(&me->client);
}

static void talk(kolo_loop *loop, connection *me) {
    char text[6] = "";
    CHECK_INT(kolo_stream_write(loop, me->client.stream, "hello", 5), 0);
    size_t before = me->client.received;
    raw_write_all(me->socket, "world", 5);
    RUN_UNTIL(loop, me->client.received == before + 5);
    raw_read_exactly(me->socket, text, 5);
    CHECK_STRING(text, "hello");
}

static int fails_with(kolo_loop *loop, const kolo_address *address, const kolo_connect_options *options) {
    peer client;
    kolo_stream_handler handler = peer_handler();
    memset(&client, 0, sizeof client);
    CHECK_OK(kolo_tcp_connect(loop, address, options, &handler, &client, &client.stream));
    CHECK_INT(client.errors, 0); /* also failures at once come to on_error */
    run_to_end(loop);
    CHECK_INT(client.opened, 0);
    CHECK_INT(client.errors, 1);
    CHECK_INT(client.closed, 1);
    return client.last_error;
}

/* What the local side says comes from the call itself: there is no stream then. */
static int refused_at_once(kolo_loop *loop, const kolo_address *address, const kolo_connect_options *options) {
    peer client;
    kolo_stream_handler handler = peer_handler();
    memset(&client, 0, sizeof client);
    int descriptors = open_descriptors();
    int result = kolo_tcp_connect(loop, address, options, &handler, &client, &client.stream);
    CHECK_INT(client.stream, 0);
    CHECK_INT(open_descriptors(), descriptors);
    run_to_end(loop);
    CHECK_INT(client.errors + client.closed, 0);
    return result;
}

/* ---- connecting ---- */

TEST(connects_over_ipv4) {
    connection me;
    kolo_address any = loopback_v4(0);
    connect_to(loop, &me, &any, NULL);
    talk(loop, &me);
    connection_close(loop, &me);
}

static void *talk_there(void *argument) {
    connection *me = argument;
    CHECK_OK(kolo_loop_attach_thread(me->client.loop));
    /* What came while the loop was nobody's, and then more. */
    RUN_UNTIL(me->client.loop, me->client.received == 5 + 9);
    talk(me->client.loop, me);
    CHECK_OK(kolo_loop_detach_thread(me->client.loop));
    return NULL;
}

TEST(connections_move_with_their_loop_to_another_thread) {
    connection me;
    kolo_address any = loopback_v4(0);
    connect_to(loop, &me, &any, NULL);
    talk(loop, &me);
    CHECK_OK(kolo_loop_detach_thread(loop));
    raw_write_all(me.socket, "meanwhile", 9);
    on_another_thread(talk_there, &me);
    CHECK_OK(kolo_loop_attach_thread(loop));
    talk(loop, &me);
    CHECK_INT(me.client.received, 5 + 9 + 5 + 5);
    connection_close(loop, &me);
}

TEST(connects_over_ipv6) {
    connection me;
    kolo_address any = loopback_v6(0);
    connect_to(loop, &me, &any, NULL);
    talk(loop, &me);
    connection_close(loop, &me);
}

TEST(connect_refused) {
    kolo_address v4 = loopback_v4(0), v6 = loopback_v6(0), bound;
    int socket = raw_socket_bound(&v4, &bound);
    CHECK_ERROR(fails_with(loop, &bound, NULL), KOLO_ECONNREFUSED);
    raw_close(&socket);
    socket = raw_socket_bound(&v6, &bound);
    CHECK_ERROR(fails_with(loop, &bound, NULL), KOLO_ECONNREFUSED);
    raw_close(&socket);
}

TEST(connect_refused_cancels_queued_writes) {
    kolo_address any = loopback_v4(0), bound;
    int socket = raw_socket_bound(&any, &bound);
    peer client;
    kolo_stream_handler handler = peer_handler();
    memset(&client, 0, sizeof client);
    CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &client, &client.stream));
    CHECK_INT(kolo_stream_write(loop, client.stream, "never", 5), 0);
    run_to_end(loop);
    CHECK_INT(client.errors, 1);
    CHECK_INT(client.closed, 1);
    raw_close(&socket);
}

/* Leaves the process alone in a network of its own. Not every system lets everybody do that. */
static bool alone_in_a_network(void) {
    if (unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0) return true;
    printf("    no network namespace may be made here (%s): not tried\n", strerror(errno));
    return false;
}

TEST(network_unreachable) {
    kolo_address nowhere = loopback_v4(9);
    if (!alone_in_a_network()) return; /* where not even the loopback interface is up */
    CHECK_ERROR(fails_with(loop, &nowhere, NULL), KOLO_ENETUNREACH);
}

TEST(host_unreachable) {
    kolo_address nowhere;
    struct ifreq loopback;
    struct rtentry route;
    struct sockaddr_in place;
    if (!alone_in_a_network()) return;
    int descriptor = SYSTEM(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    memset(&loopback, 0, sizeof loopback);
    strcpy(loopback.ifr_name, "lo");
    loopback.ifr_flags = IFF_UP | IFF_RUNNING | IFF_LOOPBACK;
    SYSTEM(ioctl(descriptor, SIOCSIFFLAGS, &loopback));
    /* A route that says that these hosts cannot be reached. */
    memset(&route, 0, sizeof route);
    memset(&place, 0, sizeof place);
    place.sin_family = AF_INET;
    CHECK_INT(inet_pton(AF_INET, "192.0.2.0", &place.sin_addr), 1);
    memcpy(&route.rt_dst, &place, sizeof place);
    CHECK_INT(inet_pton(AF_INET, "255.255.255.0", &place.sin_addr), 1);
    memcpy(&route.rt_genmask, &place, sizeof place);
    route.rt_flags = RTF_UP | RTF_REJECT;
    SYSTEM(ioctl(descriptor, SIOCADDRT, &route));
    raw_close(&descriptor);
    CHECK_OK(kolo_address_parse("192.0.2.1", 9, &nowhere));
    CHECK_ERROR(fails_with(loop, &nowhere, NULL), KOLO_EHOSTUNREACH);
}

/* A listener whose queue is full: the system answers no further connection attempt. */
typedef struct full_listener {
    int listener;
    int clients[16];
    int count;
    kolo_address address;
} full_listener;

static void fill_listener(full_listener *me) {
    kolo_address any = loopback_v4(0);
    struct sockaddr_storage place;
    me->count = 0;
    me->listener = raw_listen(&any, 0, &me->address);
    int length = kolo_address_to_sockaddr(&me->address, &place, sizeof place);
    for (;;) {
        CHECK(me->count < 16);
        int client = SYSTEM(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        me->clients[me->count++] = client;
        int result = connect(client, (struct sockaddr *)&place, (socklen_t)length);
        if (result == 0) continue;
        CHECK_INT(errno, EINPROGRESS);
        struct pollfd connecting = {client, POLLOUT, 0};
        if (SYSTEM(poll(&connecting, 1, 300)) == 0) return; /* no answer: it is full */
    }
}

static void empty_listener(full_listener *me) {
    for (int i = 0; i < me->count; i++) raw_close(&me->clients[i]);
    raw_close(&me->listener);
}

TEST(connect_times_out) {
    full_listener full;
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    fill_listener(&full);
    options.timeout_ns = MILLISECONDS(50);
    uint64_t start = clock_ns();
    CHECK_ERROR(fails_with(loop, &full.address, &options), KOLO_ETIMEDOUT);
    CHECK(clock_ns() >= start + options.timeout_ns);
    empty_listener(&full);
}

TEST(a_connect_timeout_ends_with_the_connection) {
    connection me;
    kolo_address any = loopback_v4(0);
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    options.timeout_ns = SECONDS(30);
    connect_to(loop, &me, &any, &options);
    int64_t timeout = 0;
    CHECK_OK(kolo_loop_backend_timeout(loop, &timeout));
    CHECK_INT(timeout, -1); /* no timer is left behind */
    connection_close(loop, &me);
}

TEST(closing_while_connecting) {
    full_listener full;
    peer client;
    kolo_stream_handler handler = peer_handler();
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    memset(&client, 0, sizeof client);
    options.timeout_ns = SECONDS(3600);
    fill_listener(&full);
    CHECK_OK(kolo_tcp_connect(loop, &full.address, &options, &handler, &client, &client.stream));
    CHECK_INT(kolo_stream_write(loop, client.stream, "queued", 6), 0);
    run_some_turns(loop);
    CHECK_OK(kolo_close(loop, client.stream));
    run_to_end(loop);
    CHECK_INT(client.closed, 1);
    CHECK_INT(client.opened, 0);
    CHECK_INT(client.errors, 0);
    empty_listener(&full);
}

TEST(closing_before_the_first_turn) {
    peer client;
    kolo_stream_handler handler = peer_handler();
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, 8, &bound);
    memset(&client, 0, sizeof client);
    CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &client, &client.stream));
    CHECK_OK(kolo_close(loop, client.stream));
    run_to_end(loop);
    CHECK_INT(client.closed, 1);
    CHECK_INT(client.opened + client.errors, 0);
    raw_close(&listener);
}

TEST(connects_from_a_chosen_address) {
    connection me;
    kolo_address any = loopback_v4(0), local, got;
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    CHECK_OK(kolo_address_parse("127.0.0.2", 0, &local));
    options.local = &local;
    connect_to(loop, &me, &any, &options);
    memset(&local, 0, sizeof local); /* needed only during the call */
    struct sockaddr_storage place;
    socklen_t length = sizeof place;
    SYSTEM(getpeername(me.socket, (struct sockaddr *)&place, &length));
    CHECK_OK(kolo_address_from_sockaddr(&place, length, &got));
    static const uint8_t ip[4] = {127, 0, 0, 2};
    CHECK(memcmp(got.ip, ip, 4) == 0);
    connection_close(loop, &me);
}

TEST(connects_from_a_chosen_port) {
    connection me;
    kolo_address any = loopback_v4(0), local;
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    int reserved = raw_socket_bound(&any, &local); /* a port that is free once this is closed */
    raw_close(&reserved);
    options.local = &local;
    options.reuse_address = true;
    connect_to(loop, &me, &any, &options);
    kolo_address got;
    CHECK_OK(kolo_tcp_local(loop, me.client.stream, &got));
    CHECK_INT(got.port, local.port);
    connection_close(loop, &me);
}

TEST(a_local_address_that_is_taken) {
    kolo_address any = loopback_v4(0), target, taken;
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    int listener = raw_listen(&any, 8, &target), holder = raw_listen(&any, 8, &taken);
    options.local = &taken;
    CHECK_ERROR(refused_at_once(loop, &target, &options), KOLO_EADDRINUSE);
    raw_close(&listener);
    raw_close(&holder);
}

TEST(a_local_address_that_is_not_ours) {
    kolo_address any = loopback_v4(0), target, foreign;
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    int listener = raw_listen(&any, 8, &target);
    CHECK_OK(kolo_address_parse("192.0.2.1", 0, &foreign)); /* reserved for documentation */
    options.local = &foreign;
    CHECK_ERROR(refused_at_once(loop, &target, &options), KOLO_EADDRNOTAVAIL);
    raw_close(&listener);
}

TEST(a_local_address_of_the_other_family) {
    kolo_address any = loopback_v4(0), target, local = loopback_v6(0);
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    int listener = raw_listen(&any, 8, &target);
    options.local = &local;
    CHECK_ERROR(refused_at_once(loop, &target, &options), KOLO_EINVAL);
    raw_close(&listener);
}

TEST(many_connections_at_once) {
    enum { COUNT = 100 }; /* all wait to be accepted: fewer than any system's backlog */
    static peer clients[COUNT];
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, COUNT, &bound), sockets[COUNT];
    kolo_stream_handler handler = peer_handler();
    for (int i = 0; i < COUNT; i++) {
        CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &clients[i], &clients[i].stream));
        CHECK(kolo_stream_write(loop, clients[i].stream, "hi", 2) >= 0);
    }
    for (int i = 0; i < COUNT; i++) RUN_UNTIL(loop, clients[i].opened);
    for (int i = 0; i < COUNT; i++) {
        char text[3] = "";
        sockets[i] = raw_accept(listener);
        raw_read_exactly(sockets[i], text, 2);
        CHECK_STRING(text, "hi");
        raw_write_all(sockets[i], "!", 1);
        raw_close(&sockets[i]);
    }
    for (int i = 0; i < COUNT; i++) RUN_UNTIL(loop, clients[i].ended);
    for (int i = 0; i < COUNT; i++) {
        CHECK_INT(clients[i].received, 1);
        CHECK_OK(kolo_close(loop, clients[i].stream));
    }
    run_to_end(loop);
    for (int i = 0; i < COUNT; i++) {
        CHECK_INT(clients[i].closed, 1);
        peer_free(&clients[i]);
    }
    raw_close(&listener);
}

/* ---- addresses ---- */

static void addresses_of(kolo_loop *loop, const kolo_address *any) {
    connection me;
    kolo_address local, far_end;
    connect_to(loop, &me, any, NULL);
    CHECK_OK(kolo_tcp_peer(loop, me.client.stream, &far_end));
    CHECK_INT(far_end.family, any->family);
    CHECK_INT(far_end.port, me.address.port);
    CHECK(memcmp(far_end.ip, me.address.ip, 16) == 0);
    CHECK_OK(kolo_tcp_local(loop, me.client.stream, &local));
    CHECK_INT(local.family, any->family);
    CHECK(memcmp(local.ip, me.address.ip, 16) == 0);
    kolo_socket socket = -1;
    CHECK_OK(kolo_tcp_socket(loop, me.client.stream, &socket));
    CHECK_INT(local.port, raw_local_port((int)socket));
    connection_close(loop, &me);
}

TEST(addresses_of_both_ends_ipv4) {
    kolo_address any = loopback_v4(0);
    addresses_of(loop, &any);
}

TEST(addresses_of_both_ends_ipv6) {
    kolo_address any = loopback_v6(0);
    addresses_of(loop, &any);
}

TEST(no_peer_address_before_the_connection) {
    full_listener full;
    kolo_address address;
    kolo_tcp stream = 0;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    fill_listener(&full);
    CHECK_OK(kolo_tcp_connect(loop, &full.address, NULL, &handler, NULL, &stream));
    CHECK_ERROR(kolo_tcp_peer(loop, stream, &address), KOLO_ENOTCONN);
    CHECK_OK(kolo_close(loop, stream));
    run_to_end(loop);
    empty_listener(&full);
}

/* ---- options ---- */

static int socket_of(kolo_loop *loop, kolo_tcp stream) {
    kolo_socket socket = -1;
    CHECK_OK(kolo_tcp_socket(loop, stream, &socket));
    CHECK(descriptor_is_open((int)socket));
    return (int)socket;
}

TEST(nodelay_is_on_by_default_and_can_be_switched) {
    connection me;
    kolo_address any = loopback_v4(0);
    connect_to(loop, &me, &any, NULL);
    int socket = socket_of(loop, me.client.stream);
    CHECK(raw_option(socket, IPPROTO_TCP, TCP_NODELAY) != 0);
    CHECK_OK(kolo_tcp_set_nodelay(loop, me.client.stream, false));
    CHECK_INT(raw_option(socket, IPPROTO_TCP, TCP_NODELAY), 0);
    CHECK_OK(kolo_tcp_set_nodelay(loop, me.client.stream, true));
    CHECK(raw_option(socket, IPPROTO_TCP, TCP_NODELAY) != 0);
    connection_close(loop, &me);
}

TEST(connect_options_reach_the_socket) {
    connection me;
    kolo_address any = loopback_v4(0);
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    uint32_t send_bytes = 0, receive_bytes = 0;
    options.delay = true;
    options.send_buffer = 32768;
    options.receive_buffer = 49152;
    connect_to(loop, &me, &any, &options);
    int socket = socket_of(loop, me.client.stream);
    CHECK_INT(raw_option(socket, IPPROTO_TCP, TCP_NODELAY), 0);
    CHECK(raw_option(socket, SOL_SOCKET, SO_SNDBUF) >= 32768);
    CHECK(raw_option(socket, SOL_SOCKET, SO_SNDBUF) <= 2 * 32768);
    CHECK_OK(kolo_tcp_buffers(loop, me.client.stream, &send_bytes, &receive_bytes));
    CHECK_INT(send_bytes, raw_option(socket, SOL_SOCKET, SO_SNDBUF));
    CHECK_INT(receive_bytes, raw_option(socket, SOL_SOCKET, SO_RCVBUF));
    CHECK(receive_bytes >= 49152);
    connection_close(loop, &me);
}

TEST(keepalive) {
    connection me;
    kolo_address any = loopback_v4(0);
    connect_to(loop, &me, &any, NULL);
    int socket = socket_of(loop, me.client.stream);
    CHECK_INT(raw_option(socket, SOL_SOCKET, SO_KEEPALIVE), 0);
    int count = raw_option(socket, IPPROTO_TCP, TCP_KEEPCNT);
    CHECK_OK(kolo_tcp_set_keepalive(loop, me.client.stream, 77, 11, 5));
    CHECK(raw_option(socket, SOL_SOCKET, SO_KEEPALIVE) != 0);
    CHECK_INT(raw_option(socket, IPPROTO_TCP, TCP_KEEPIDLE), 77);
    CHECK_INT(raw_option(socket, IPPROTO_TCP, TCP_KEEPINTVL), 11);
    CHECK_INT(raw_option(socket, IPPROTO_TCP, TCP_KEEPCNT), 5);
    CHECK_OK(kolo_tcp_set_keepalive(loop, me.client.stream, 0, 0, 0));
    CHECK_INT(raw_option(socket, SOL_SOCKET, SO_KEEPALIVE), 0);
    connection_close(loop, &me);
    connect_to(loop, &me, &any, NULL);
    socket = socket_of(loop, me.client.stream);
    CHECK_OK(kolo_tcp_set_keepalive(loop, me.client.stream, 60, 0, 0)); /* the system's interval and count */
    CHECK_INT(raw_option(socket, IPPROTO_TCP, TCP_KEEPIDLE), 60);
    CHECK_INT(raw_option(socket, IPPROTO_TCP, TCP_KEEPCNT), count);
    connection_close(loop, &me);
}

TEST(reset_on_close) {
    connection me;
    kolo_address any = loopback_v4(0);
    struct linger got;
    socklen_t length = sizeof got;
    connect_to(loop, &me, &any, NULL);
    int socket = socket_of(loop, me.client.stream);
    CHECK_OK(kolo_tcp_set_reset_on_close(loop, me.client.stream, true));
    SYSTEM(getsockopt(socket, SOL_SOCKET, SO_LINGER, &got, &length));
    CHECK(got.l_onoff != 0);
    CHECK_INT(got.l_linger, 0);
    CHECK_OK(kolo_tcp_set_reset_on_close(loop, me.client.stream, false));
    SYSTEM(getsockopt(socket, SOL_SOCKET, SO_LINGER, &got, &length));
    CHECK_INT(got.l_onoff, 0);
    CHECK_OK(kolo_tcp_set_reset_on_close(loop, me.client.stream, true));
    CHECK_OK(kolo_close(loop, me.client.stream));
    run_to_end(loop);
    char byte;
    CHECK_INT(recv(me.socket, &byte, 1, 0), -1);
    CHECK_INT(errno, ECONNRESET);
    connection_close(loop, &me);
}

TEST(buffers) {
    connection me;
    kolo_address any = loopback_v4(0);
    uint32_t send_before = 0, receive_before = 0, send_bytes = 0, receive_bytes = 0;
    connect_to(loop, &me, &any, NULL);
    int socket = socket_of(loop, me.client.stream);
    CHECK_OK(kolo_tcp_buffers(loop, me.client.stream, &send_before, &receive_before));
    CHECK_INT(send_before, raw_option(socket, SOL_SOCKET, SO_SNDBUF));
    CHECK_INT(receive_before, raw_option(socket, SOL_SOCKET, SO_RCVBUF));
    CHECK_OK(kolo_tcp_set_buffers(loop, me.client.stream, 20000, 0)); /* 0 leaves the other alone */
    CHECK_OK(kolo_tcp_buffers(loop, me.client.stream, &send_bytes, &receive_bytes));
    CHECK(send_bytes >= 20000 && send_bytes <= 40000);
    CHECK_INT(receive_bytes, receive_before);
    CHECK_OK(kolo_tcp_set_buffers(loop, me.client.stream, 0, 30000));
    CHECK_OK(kolo_tcp_buffers(loop, me.client.stream, &send_before, &receive_bytes));
    CHECK_INT(send_before, send_bytes);
    CHECK(receive_bytes >= 30000 && receive_bytes <= 60000);
    connection_close(loop, &me);
}

/* ---- adopting and releasing ---- */

TEST(adopts_a_connected_socket) {
    half end;
    half_open(loop, &end); /* adopts one of two */
    CHECK_INT(socket_of(loop, end.peer.stream) != end.socket, 1);
    CHECK(kolo_stream_write(loop, end.peer.stream, "adopted", 7) >= 0);
    run_some_turns(loop);
    char text[8] = "";
    raw_read_exactly(end.socket, text, 7);
    CHECK_STRING(text, "adopted");
    raw_write_all(end.socket, "back", 4);
    RUN_UNTIL(loop, end.peer.received == 4);
    CHECK_INT(end.peer.opened, 0); /* it was connected all along */
    half_close(loop, &end);
}

TEST(an_adopted_socket_is_kolos_to_close) {
    int sockets[2];
    kolo_tcp stream = 0;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    raw_pair(sockets);
    CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &handler, NULL, &stream));
    CHECK_OK(kolo_close(loop, stream));
    run_to_end(loop);
    CHECK(!descriptor_is_open(sockets[0]));
    raw_close(&sockets[1]);
}

TEST(an_adopted_socket_without_an_internet_address) {
    int sockets[2];
    kolo_tcp stream = 0;
    kolo_address address;
    peer me;
    kolo_stream_handler handler = peer_handler();
    memset(&me, 0, sizeof me);
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets));
    CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &handler, &me, &stream)); /* any connected stream socket will do */
    CHECK_ERROR(kolo_tcp_local(loop, stream, &address), KOLO_EAFNOSUPPORT);
    CHECK_ERROR(kolo_tcp_peer(loop, stream, &address), KOLO_EAFNOSUPPORT);
    CHECK_INT(kolo_stream_write(loop, stream, "to", 2), 0);
    raw_write_all(sockets[1], "fro", 3);
    RUN_UNTIL(loop, me.received == 3);
    char text[3] = "";
    raw_read_exactly(sockets[1], text, 2);
    CHECK_STRING(text, "to");
    CHECK_OK(kolo_close(loop, stream));
    run_to_end(loop);
    peer_free(&me);
    raw_close(&sockets[1]);
}

TEST(what_cannot_be_adopted_stays_the_callers) {
    kolo_tcp stream = 0;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    int ends[2];
    SYSTEM(pipe(ends));
    CHECK_ERROR(kolo_tcp_adopt(loop, ends[0], &handler, NULL, &stream), KOLO_ENOTSOCK);
    CHECK(descriptor_is_open(ends[0]));
    int number = ends[0];
    raw_close(&ends[0]);
    raw_close(&ends[1]);
    CHECK_ERROR(kolo_tcp_adopt(loop, number, &handler, NULL, &stream), KOLO_EBADF);
    CHECK_ERROR(kolo_tcp_adopt(loop, -1, &handler, NULL, &stream), KOLO_EBADF);
    int unconnected = SYSTEM(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    CHECK_ERROR(kolo_tcp_adopt(loop, unconnected, &handler, NULL, &stream), KOLO_ENOTCONN);
    CHECK(descriptor_is_open(unconnected));
    raw_close(&unconnected);
    CHECK_INT(stream, 0);
}

TEST(releases_the_socket_to_the_caller) {
    half end;
    kolo_socket released = -1;
    half_open(loop, &end);
    raw_write_all(end.socket, "one", 3);
    RUN_UNTIL(loop, end.peer.received == 3);
    int socket = socket_of(loop, end.peer.stream);
    CHECK_OK(kolo_tcp_release(loop, end.peer.stream, &released));
    CHECK_INT(released, socket);
    CHECK_ERROR(kolo_close(loop, end.peer.stream), KOLO_EBADF); /* the handle is closed */
    CHECK_INT(end.peer.closed, 0);
    run_to_end(loop);
    CHECK_INT(end.peer.closed, 1);
    CHECK(descriptor_is_open(socket));
    /* The connection lives on in the caller's hands: another loop takes it. */
    raw_write_all(end.socket, "two", 3);
    peer second;
    kolo_stream_handler handler = peer_handler();
    memset(&second, 0, sizeof second);
    CHECK_OK(kolo_tcp_adopt(loop, released, &handler, &second, &second.stream));
    RUN_UNTIL(loop, second.received == 3);
    CHECK_RECEIVED(&second, "two");
    CHECK_OK(kolo_close(loop, second.stream));
    run_to_end(loop);
    peer_free(&second);
    half_close(loop, &end);
}

TEST(releases_inside_on_data_and_moves_to_another_loop) {
    kolo_loop *other = NULL;
    half end;
    kolo_socket released = -1;
    CHECK_OK(kolo_loop_new(NULL, &other));
    half_open(loop, &end);
    CHECK_OK(kolo_tcp_release(loop, end.peer.stream, &released));
    run_to_end(loop);
    peer second;
    kolo_stream_handler handler = peer_handler();
    memset(&second, 0, sizeof second);
    CHECK_OK(kolo_tcp_adopt(other, released, &handler, &second, &second.stream));
    raw_write_all(end.socket, "moved", 5);
    RUN_UNTIL(other, second.received == 5);
    CHECK_OK(kolo_loop_free(other));
    CHECK_INT(second.closed, 1);
    peer_free(&second);
    half_close(loop, &end);
}

TEST(no_release_with_bytes_in_the_queue) {
    half end;
    kolo_socket released = -1;
    static uint8_t block[1 << 20];
    size_t queued = 0;
    half_open(loop, &end);
    while (queued == 0) {
        CHECK(kolo_stream_write(loop, end.peer.stream, block, sizeof block) >= 0);
        run_some_turns(loop);
        CHECK_OK(kolo_stream_queued(loop, end.peer.stream, &queued));
    }
    CHECK_ERROR(kolo_tcp_release(loop, end.peer.stream, &released), KOLO_EBUSY);
    CHECK_INT(released, -1);
    CHECK_INT(kolo_is_active(loop, end.peer.stream), 1); /* and nothing has changed */
    half_close(loop, &end);
}

static int late_socket;

static void adopt_too_late(kolo_loop *loop, kolo_handle handle, void *user) {
    kolo_tcp stream = 0;
    kolo_listener listener = 0;
    kolo_stream_handler streaming = KOLO_STREAM_HANDLER_INIT;
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    (void)handle;
    CHECK_ERROR(kolo_tcp_adopt(loop, late_socket, &streaming, NULL, &stream), KOLO_ECANCELED);
    CHECK(descriptor_is_open(late_socket));
    CHECK_ERROR(kolo_listener_adopt(loop, *(int *)user, NULL, &listening, NULL, &listener), KOLO_ECANCELED);
    CHECK(descriptor_is_open(*(int *)user));
    CHECK_INT(stream, 0);
    CHECK_INT(listener, 0);
}

TEST_WITHOUT_LOOP(what_comes_too_late_to_be_adopted_stays_the_callers) {
    kolo_loop *loop = NULL;
    kolo_tcp stream = 0;
    kolo_address any = loopback_v4(0);
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    int sockets[2], others[2], listening = raw_listen(&any, 1, NULL);
    raw_pair(sockets);
    raw_pair(others);
    late_socket = others[0];
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &handler, NULL, &stream));
    CHECK_OK(kolo_on_close(loop, stream, adopt_too_late, &listening));
    CHECK_OK(kolo_loop_free(loop));
    raw_close(&sockets[1]);
    raw_close(&others[0]);
    raw_close(&others[1]);
    raw_close(&listening);
}

/* ---- everything in flight ---- */

static int done_calls;
static void note_done(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    (void)loop, (void)stream, (void)user;
    CHECK_ERROR(status, KOLO_ECANCELED);
    done_calls++;
}

TEST_WITHOUT_LOOP(loop_free_with_everything_in_flight) {
    kolo_loop *loop = NULL;
    full_listener full;
    half ends[3];
    pair both;
    peer connecting;
    static uint8_t memory[8 * 1024 * 1024];
    kolo_buffer buffer = {memory, sizeof memory};
    kolo_stream_handler handler = peer_handler();
    memset(&connecting, 0, sizeof connecting);
    CHECK_OK(kolo_loop_new(NULL, &loop));
    fill_listener(&full);
    CHECK_OK(kolo_tcp_connect(loop, &full.address, NULL, &handler, &connecting, &connecting.stream));
    CHECK(kolo_stream_write_owned(loop, connecting.stream, &buffer, 1, note_done, NULL, NULL) >= 0);
    pair_open(loop, &both);
    CHECK(kolo_stream_write(loop, both.client.stream, "unread", 6) >= 0);
    for (int i = 0; i < 3; i++) {
        half_open(loop, &ends[i]);
        CHECK(kolo_stream_write_owned(loop, ends[i].peer.stream, &buffer, 1, note_done, NULL, NULL) >= 0);
        CHECK_OK(kolo_stream_set_timeouts(loop, ends[i].peer.stream, SECONDS(9), SECONDS(9)));
    }
    run_some_turns(loop);
    raw_write_all(ends[0].socket, "pending", 7);
    CHECK_OK(kolo_stream_reset(loop, ends[1].peer.stream)); /* closing already, its callback still to come */
    CHECK_OK(kolo_loop_free(loop));
    for (int i = 0; i < 3; i++) CHECK_INT(ends[i].peer.closed, 1);
    CHECK_INT(both.client.closed, 1);
    CHECK_INT(both.server.closed, 1);
    CHECK_INT(connecting.closed, 1);
    CHECK_INT(connecting.errors, 0);
    CHECK_INT(done_calls, 4);
    for (int i = 0; i < 3; i++) {
        raw_close(&ends[i].socket);
        peer_free(&ends[i].peer);
    }
    peer_free(&both.client);
    peer_free(&both.server);
    empty_listener(&full);
}
