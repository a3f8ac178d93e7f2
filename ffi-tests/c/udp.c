/* UDP sockets: each function, each error it can give, and what their callbacks may do. */
#include "harness.h"

#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

enum { MOST = 256 };

/* A socket that records what its handler hears. Each datagram is a number in text. */
typedef struct recorded {
    kolo_loop *loop;
    kolo_udp udp;
    kolo_address address;
    int heard, drained, errors, closed, sent;
    char texts[MOST][24];
    kolo_address from[MOST];
    kolo_datagram last; /* its pointers are dead */
    kolo_datagram_error error;
    int outcome;
    /* what to do in on_datagram */
    bool echo, close_self, stop;
    kolo_udp close_other;
} recorded;

static recorded *known(kolo_loop *loop, kolo_udp udp, void *user) {
    recorded *me = user;
    CHECK(me->loop == loop);
    CHECK(me->udp == udp);
    CHECK_INT(me->closed, 0);
    return me;
}

static void on_datagram(kolo_loop *loop, kolo_udp udp, const kolo_datagram *datagram, void *user) {
    recorded *me = known(loop, udp, user);
    CHECK_INT(datagram->size, sizeof *datagram);
    CHECK(datagram->data != NULL);
    CHECK(me->heard < MOST);
    CHECK(datagram->length < sizeof me->texts[0]);
    memcpy(me->texts[me->heard], datagram->data, datagram->length);
    me->texts[me->heard][datagram->length] = '\0';
    me->from[me->heard] = datagram->from;
    me->last = *datagram;
    me->heard++;
    if (me->echo) CHECK_INT(kolo_udp_send(loop, udp, datagram->data, datagram->length, &datagram->from), 0);
    if (me->stop) CHECK_OK(kolo_udp_receive_stop(loop, udp));
    if (me->close_other != 0) {
        CHECK_OK(kolo_close(loop, me->close_other));
        me->close_other = 0;
    }
    if (me->close_self) {
        CHECK_OK(kolo_close(loop, udp));
        CHECK_ERROR(kolo_udp_send(loop, udp, "x", 1, &me->address), KOLO_EBADF);
    }
}

static void on_drain(kolo_loop *loop, kolo_udp udp, void *user) { known(loop, udp, user)->drained++; }

static void on_error(kolo_loop *loop, kolo_udp udp, const kolo_datagram_error *error, void *user) {
    recorded *me = known(loop, udp, user);
    CHECK_INT(error->size, sizeof *error);
    CHECK(error->error < 0 && error->count > 0);
    me->errors++;
    me->error = *error;
}

static void on_close(kolo_loop *loop, kolo_udp udp, void *user) { known(loop, udp, user)->closed++; }

static kolo_udp_handler handler(void) {
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    handler.on_datagram = on_datagram;
    handler.on_drain = on_drain;
    handler.on_error = on_error;
    handler.on_close = on_close;
    return handler;
}

static void bind_with(kolo_loop *loop, recorded *me, kolo_address at, const kolo_udp_options *options,
                      const kolo_udp_handler *table) {
    memset(me, 0, sizeof *me);
    me->loop = loop;
    CHECK_OK(kolo_udp_bind(loop, &at, options, table, me, &me->udp));
    CHECK(me->udp != 0);
    CHECK_OK(kolo_udp_local(loop, me->udp, &me->address));
    CHECK(me->address.port != 0);
}

static void bind_one(kolo_loop *loop, recorded *me) {
    kolo_udp_handler table = handler();
    bind_with(loop, me, loopback_v4(0), NULL, &table);
}

static void close_one(kolo_loop *loop, recorded *me) {
    if (!me->closed) CHECK_OK(kolo_close(loop, me->udp));
    RUN_UNTIL(loop, me->closed);
    CHECK_INT(me->closed, 1);
}

/* A plain socket for the other side, and its address. */
static int raw_udp(kolo_address *bound) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int descriptor = SYSTEM(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    SYSTEM(bind(descriptor, (struct sockaddr *)&address, length));
    SYSTEM(getsockname(descriptor, (struct sockaddr *)&address, &length));
    CHECK_OK(kolo_address_from_sockaddr(&address, length, bound));
    return descriptor;
}

static void raw_send(int from, const kolo_address *to, const char *text) {
    struct sockaddr_storage place;
    int length = kolo_address_to_sockaddr(to, &place, sizeof place);
    SYSTEM(sendto(from, text, strlen(text), 0, (struct sockaddr *)&place, (socklen_t)length));
}

static void send_numbers(int from, const kolo_address *to, int count) {
    for (int i = 0; i < count; i++) {
        char text[24];
        snprintf(text, sizeof text, "%d", i);
        raw_send(from, to, text);
    }
}

static void check_arrives(int socket, const void *data, size_t length) {
    static uint8_t bytes[70000];
    CHECK_INT(SYSTEM(recv(socket, bytes, sizeof bytes, 0)), length);
    CHECK(memcmp(bytes, data, length) == 0);
}

static void check_numbers(const recorded *me, int count) {
    CHECK_INT(me->heard, count);
    for (int i = 0; i < count; i++) CHECK_INT(atoi(me->texts[i]), i);
}

/* ---- sending and receiving ---- */

TEST(an_echo) {
    recorded server, client;
    bind_one(loop, &server);
    bind_one(loop, &client);
    server.echo = true;
    CHECK_INT(kolo_kind_of(loop, server.udp), KOLO_KIND_UDP);
    CHECK_INT(kolo_is_active(loop, server.udp), 1);
    CHECK_OK(kolo_udp_send(loop, client.udp, "hello", 5, &server.address));
    CHECK_OK(kolo_udp_send(loop, client.udp, NULL, 0, &server.address));
    RUN_UNTIL(loop, client.heard == 2);
    CHECK_STRING(client.texts[0], "hello");
    CHECK_STRING(client.texts[1], "");
    CHECK_INT(client.from[0].port, server.address.port);
    CHECK_INT(client.last.to.family, KOLO_FAMILY_NONE);
    CHECK_INT(client.last.tos, -1);
    CHECK_INT(client.last.interface, 0);
    CHECK(!client.last.truncated);
    close_one(loop, &server);
    close_one(loop, &client);
}

TEST(an_echo_over_ipv6) {
    recorded server, client;
    kolo_udp_handler table = handler();
    bind_with(loop, &server, loopback_v6(0), NULL, &table);
    bind_with(loop, &client, loopback_v6(0), NULL, &table);
    server.echo = true;
    CHECK_OK(kolo_udp_send(loop, client.udp, "hello", 5, &server.address));
    RUN_UNTIL(loop, client.heard == 1);
    CHECK_INT(client.from[0].family, KOLO_FAMILY_IPV6);
    close_one(loop, &server);
    close_one(loop, &client);
}

TEST(many_datagrams_keep_their_order) {
    recorded server;
    kolo_address peer;
    int socket = raw_udp(&peer);
    bind_one(loop, &server);
    server.echo = true;
    send_numbers(socket, &server.address, 100);
    RUN_UNTIL(loop, server.heard == 100);
    check_numbers(&server, 100);
    for (int i = 0; i < 100; i++) {
        char text[24];
        check_arrives(socket, text, (size_t)snprintf(text, sizeof text, "%d", i));
    }
    close_one(loop, &server);
    raw_close(&socket);
}

TEST(bytes_in_pieces_and_segments) {
    recorded me;
    kolo_address peer;
    int socket = raw_udp(&peer);
    uint8_t bytes[3000];
    pattern_fill(bytes, sizeof bytes, 0);
    bind_one(loop, &me);
    kolo_transmit to = KOLO_TRANSMIT_INIT;
    to.to = &peer;
    kolo_buffer pieces[20];
    for (int i = 0; i < 20; i++) pieces[i] = (kolo_buffer){bytes + 100 * i, 100};
    CHECK_OK(kolo_udp_send_with(loop, me.udp, pieces, 3, &to));
    check_arrives(socket, bytes, 300);
    CHECK_OK(kolo_udp_send_with(loop, me.udp, pieces, 20, &to));
    check_arrives(socket, bytes, 2000);
    CHECK_OK(kolo_udp_send_with(loop, me.udp, NULL, 0, &to));
    check_arrives(socket, bytes, 0);
    kolo_buffer all = {bytes, sizeof bytes};
    to.segment_size = 1200;
    CHECK_OK(kolo_udp_send_with(loop, me.udp, &all, 1, &to));
    CHECK_OK(kolo_udp_try_send(loop, me.udp, &all, 1, &to));
    for (int i = 0; i < 2; i++) {
        check_arrives(socket, bytes, 1200);
        check_arrives(socket, bytes + 1200, 1200);
        check_arrives(socket, bytes + 2400, 600);
    }
    to.segment_size = 10; /* too many */
    CHECK_ERROR(kolo_udp_send_with(loop, me.udp, &all, 1, &to), KOLO_EINVAL);
    close_one(loop, &me);
    raw_close(&socket);
}

TEST(what_no_datagram_can_hold) {
    recorded me;
    static uint8_t bytes[65508];
    bind_one(loop, &me);
    CHECK_ERROR(kolo_udp_send(loop, me.udp, bytes, sizeof bytes, &me.address), KOLO_EMSGSIZE);
    kolo_buffer half = {bytes, 40000}, both[2] = {half, half};
    kolo_transmit to = KOLO_TRANSMIT_INIT;
    to.to = &me.address;
    CHECK_ERROR(kolo_udp_send_with(loop, me.udp, both, 2, &to), KOLO_EMSGSIZE);
    CHECK_ERROR(kolo_udp_try_send(loop, me.udp, both, 2, &to), KOLO_EMSGSIZE);
    CHECK_ERROR(kolo_udp_send_owned(loop, me.udp, both, 2, &to, NULL, NULL, NULL), KOLO_EMSGSIZE);
    CHECK_ERROR(kolo_udp_send(loop, me.udp, "x", 1, NULL), KOLO_EDESTADDRREQ);
    kolo_address v6 = loopback_v6(9);
    CHECK_ERROR(kolo_udp_send(loop, me.udp, "x", 1, &v6), KOLO_EAFNOSUPPORT);
    close_one(loop, &me);
}

static void on_sent(kolo_loop *loop, kolo_udp udp, int status, void *user) {
    recorded *me = known(loop, udp, user);
    me->sent++;
    me->outcome = status;
}

TEST(owned_datagrams_are_told_once) {
    recorded me;
    kolo_address peer, broadcast;
    int socket = raw_udp(&peer);
    bind_one(loop, &me);
    kolo_transmit to = KOLO_TRANSMIT_INIT;
    kolo_buffer pieces[2] = {{(void *)"two ", 4}, {(void *)"pieces", 6}};
    to.to = &peer;
    CHECK_OK(kolo_udp_send_owned(loop, me.udp, pieces, 2, &to, on_sent, &me, NULL));
    CHECK_INT(me.sent, 0); /* never inside the call */
    RUN_UNTIL(loop, me.sent == 1);
    CHECK_OK(me.outcome);
    check_arrives(socket, "two pieces", 10);
    CHECK_OK(kolo_udp_send_owned(loop, me.udp, pieces, 1, &to, NULL, NULL, NULL));
    check_arrives(socket, "two ", 4);
    CHECK_OK(kolo_address_parse("255.255.255.255", 9, &broadcast));
    to.to = &broadcast;
    CHECK_OK(kolo_udp_send_owned(loop, me.udp, pieces, 1, &to, on_sent, &me, NULL));
    RUN_UNTIL(loop, me.sent == 2);
    CHECK_ERROR(me.outcome, KOLO_EACCES);
    CHECK_INT(me.errors, 0);
    close_one(loop, &me);
    raw_close(&socket);
}

TEST(owned_datagrams_are_taken_back) {
    recorded me;
    kolo_address nowhere = loopback_v4(9);
    kolo_transmit to = KOLO_TRANSMIT_INIT;
    kolo_buffer piece = {(void *)"x", 1};
    uint64_t send = 0, other = 0;
    bind_one(loop, &me);
    to.to = &nowhere;
    CHECK_OK(kolo_udp_send_owned(loop, me.udp, &piece, 1, &to, on_sent, &me, &send));
    CHECK(send != 0);
    CHECK_OK(kolo_udp_send_owned(loop, me.udp, &piece, 1, &to, on_sent, &me, &other));
    CHECK(other != 0 && other != send);
    /* On the loopback no socket is ever full: they have gone. */
    CHECK_ERROR(kolo_udp_send_cancel(loop, me.udp, send), KOLO_ENOENT);
    CHECK_ERROR(kolo_udp_send_cancel(loop, me.udp, 0), KOLO_ENOENT);
    CHECK_ERROR(kolo_udp_send_cancel(loop, me.udp, UINT64_MAX), KOLO_ENOENT);
    RUN_UNTIL(loop, me.sent == 2);
    CHECK_OK(me.outcome);
    kolo_udp udp = me.udp;
    close_one(loop, &me);
    CHECK_ERROR(kolo_udp_send_cancel(loop, udp, send), KOLO_EBADF);
}

typedef struct knows_its_user {
    int datagrams;
    bool attaches;
} knows_its_user;

static void check_user(kolo_loop *loop, kolo_udp udp, const kolo_datagram *datagram, void *user) {
    knows_its_user *me = user;
    void *found = NULL;
    (void)datagram;
    CHECK_OK(kolo_udp_user(loop, udp, &found));
    CHECK(found == user);
    if (me->attaches) {
        kolo_udp_handler table = KOLO_UDP_HANDLER_INIT;
        CHECK_OK(kolo_udp_attach(loop, udp, &table, &table));
        CHECK_OK(kolo_udp_user(loop, udp, &found));
        CHECK(found == &table);
    }
    me->datagrams++;
}

TEST(the_user_pointer) {
    knows_its_user me = {0, false};
    kolo_address any = loopback_v4(0), address;
    kolo_udp_handler table = KOLO_UDP_HANDLER_INIT;
    kolo_udp udp = 0;
    void *found = NULL;
    table.on_datagram = check_user;
    CHECK_OK(kolo_udp_bind(loop, &any, NULL, &table, &me, &udp));
    CHECK_OK(kolo_udp_user(loop, udp, &found));
    CHECK(found == &me);
    CHECK_ERROR(kolo_udp_user(loop, udp, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_udp_local(loop, udp, &address));
    CHECK_OK(kolo_udp_send(loop, udp, "x", 1, &address));
    RUN_UNTIL(loop, me.datagrams == 1);
    me.attaches = true;
    CHECK_OK(kolo_udp_send(loop, udp, "x", 1, &address));
    RUN_UNTIL(loop, me.datagrams == 2);
    CHECK_OK(kolo_close(loop, udp));
    CHECK_ERROR(kolo_udp_user(loop, udp, &found), KOLO_EBADF);
    run_to_end(loop);
}

TEST(the_queue_is_bounded) {
    recorded me;
    size_t bytes = 77;
    bind_one(loop, &me);
    CHECK_ERROR(kolo_udp_set_watermarks(loop, me.udp, 2, 1, 3), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_set_watermarks(loop, me.udp, 0, 0, 3), KOLO_EINVAL);
    CHECK_OK(kolo_udp_set_watermarks(loop, me.udp, 0, 100, 164));
    /* Counts for its bytes and 64 more. */
    uint8_t data[101] = {0};
    CHECK_ERROR(kolo_udp_send(loop, me.udp, data, 101, &me.address), KOLO_ENOBUFS);
    CHECK_OK(kolo_udp_send(loop, me.udp, data, 10, &me.address));
    CHECK_OK(kolo_udp_queued(loop, me.udp, &bytes));
    CHECK_INT(bytes, 0);
    RUN_UNTIL(loop, me.heard == 1);
    close_one(loop, &me);
}

/* ---- receiving: stopping, closing ---- */

TEST(stopping_in_the_middle_loses_nothing) {
    recorded me;
    kolo_address peer;
    int socket = raw_udp(&peer);
    bind_one(loop, &me);
    me.stop = true;
    send_numbers(socket, &me.address, 20);
    for (int i = 1; i <= 20; i++) {
        run_to_end(loop); /* stopped, it does not keep the loop alive */
        CHECK_INT(me.heard, i);
        CHECK_OK(kolo_udp_receive_stop(loop, me.udp));
        CHECK_OK(kolo_udp_receive_start(loop, me.udp));
        CHECK_OK(kolo_udp_receive_start(loop, me.udp));
    }
    check_numbers(&me, 20);
    close_one(loop, &me);
    raw_close(&socket);
}

TEST(closing_itself_in_its_callback) {
    recorded me;
    kolo_address peer;
    int socket = raw_udp(&peer);
    bind_one(loop, &me);
    me.close_self = true;
    send_numbers(socket, &me.address, 20);
    run_to_end(loop);
    CHECK_INT(me.heard, 1);
    CHECK_INT(me.closed, 1);
    raw_close(&socket);
}

TEST(closing_another_in_a_callback) {
    recorded me, other;
    kolo_address peer;
    int socket = raw_udp(&peer);
    bind_one(loop, &me);
    bind_one(loop, &other);
    me.close_other = other.udp;
    send_numbers(socket, &me.address, 3);
    RUN_UNTIL(loop, other.closed && me.heard == 3);
    close_one(loop, &me);
    raw_close(&socket);
}

TEST(a_handler_without_callbacks) {
    recorded me;
    kolo_udp_handler table = KOLO_UDP_HANDLER_INIT, full = handler();
    bind_with(loop, &me, loopback_v4(0), NULL, &table);
    CHECK_INT(kolo_is_active(loop, me.udp), 0);
    CHECK_OK(kolo_udp_send(loop, me.udp, "0", 1, &me.address));
    run_to_end(loop);
    /* Another handler, and receiving: what waited comes. */
    CHECK_OK(kolo_udp_attach(loop, me.udp, &full, &me));
    CHECK_OK(kolo_udp_receive_start(loop, me.udp));
    RUN_UNTIL(loop, me.heard == 1);
    CHECK_OK(kolo_udp_attach(loop, me.udp, &table, NULL));
    CHECK_OK(kolo_udp_send(loop, me.udp, "1", 1, &me.address));
    run_some_turns(loop);
    CHECK_INT(me.heard, 1);
    CHECK_OK(kolo_close(loop, me.udp));
    run_to_end(loop);
    CHECK_INT(me.closed, 0);
}

TEST_WITHOUT_LOOP(freeing_the_loop_tells_every_socket) {
    kolo_loop *loop = NULL;
    recorded one, two;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    bind_one(loop, &one);
    bind_one(loop, &two);
    kolo_buffer data = {(void *)"x", 1};
    kolo_transmit to = KOLO_TRANSMIT_INIT;
    to.to = &two.address;
    CHECK_OK(kolo_udp_send_owned(loop, one.udp, &data, 1, &to, on_sent, &one, NULL));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(one.closed, 1);
    CHECK_INT(two.closed, 1);
    CHECK_INT(one.sent, 1);
}

/* ---- connecting, errors ---- */

TEST(connecting_and_disconnecting) {
    recorded me;
    kolo_address peer, other, found;
    int socket = raw_udp(&peer), second = raw_udp(&other);
    bind_one(loop, &me);
    CHECK_ERROR(kolo_udp_peer(loop, me.udp, &found), KOLO_ENOTCONN);
    CHECK_OK(kolo_udp_connect(loop, me.udp, &peer));
    CHECK_OK(kolo_udp_peer(loop, me.udp, &found));
    CHECK_INT(found.port, peer.port);
    CHECK_OK(kolo_udp_send(loop, me.udp, "connected", 9, NULL));
    check_arrives(socket, "connected", 9);
    raw_send(second, &me.address, "from another");
    raw_send(socket, &me.address, "0");
    RUN_UNTIL(loop, me.heard == 1);
    run_some_turns(loop);
    check_numbers(&me, 1);
    CHECK_OK(kolo_udp_disconnect(loop, me.udp));
    CHECK_OK(kolo_udp_disconnect(loop, me.udp));
    raw_send(second, &me.address, "1");
    RUN_UNTIL(loop, me.heard == 2);
    check_numbers(&me, 2);
    kolo_address v6 = loopback_v6(9), broadcast;
    CHECK_ERROR(kolo_udp_connect(loop, me.udp, &v6), KOLO_EAFNOSUPPORT);
    CHECK_OK(kolo_address_parse("255.255.255.255", 9, &broadcast));
    CHECK_ERROR(kolo_udp_connect(loop, me.udp, &broadcast), KOLO_EACCES);
    CHECK_OK(kolo_udp_set_broadcast(loop, me.udp, true));
    close_one(loop, &me);
    raw_close(&socket);
    raw_close(&second);
}

TEST(a_refused_datagram_is_told_and_the_socket_lives_on) {
    recorded me;
    kolo_address nobody, peer;
    int socket = raw_udp(&nobody);
    raw_close(&socket);
    bind_one(loop, &me);
    CHECK_OK(kolo_udp_connect(loop, me.udp, &nobody));
    for (int i = 1; i <= 3; i++) {
        CHECK_OK(kolo_udp_send(loop, me.udp, "hello?", 6, NULL));
        RUN_UNTIL(loop, me.errors == i);
        CHECK_ERROR(me.error.error, KOLO_ECONNREFUSED);
        CHECK_INT(me.error.to.port, nobody.port);
        CHECK_INT(me.error.count, 1);
    }
    socket = raw_udp(&peer);
    CHECK_OK(kolo_udp_connect(loop, me.udp, &peer));
    CHECK_OK(kolo_udp_send(loop, me.udp, "hello", 5, NULL));
    check_arrives(socket, "hello", 5);
    close_one(loop, &me);
    raw_close(&socket);
}

#ifdef __linux__
TEST(an_unconnected_socket_hears_who_refused) {
    recorded me;
    kolo_address nobody;
    kolo_udp_handler table = handler();
    kolo_udp_options options = KOLO_UDP_OPTIONS_INIT;
    int socket = raw_udp(&nobody);
    raw_close(&socket);
    options.report_errors = true;
    bind_with(loop, &me, loopback_v4(0), &options, &table);
    CHECK_OK(kolo_udp_send(loop, me.udp, "hello?", 6, &nobody));
    RUN_UNTIL(loop, me.errors == 1);
    CHECK_ERROR(me.error.error, KOLO_ECONNREFUSED);
    CHECK_INT(me.error.to.port, nobody.port);
    CHECK_INT(me.error.by.family, KOLO_FAMILY_IPV4);
    CHECK_INT(me.error.mtu, 0);
    close_one(loop, &me);
}

TEST(where_and_how_a_datagram_came) {
    recorded server, client;
    kolo_address any, other;
    kolo_udp_handler table = handler();
    kolo_udp_options options = KOLO_UDP_OPTIONS_INIT;
    options.receive_info = true;
    options.receive_tos = true;
    CHECK_OK(kolo_address_parse("0.0.0.0", 0, &any));
    bind_with(loop, &server, any, &options, &table);
    bind_with(loop, &client, loopback_v4(0), &options, &table);
    CHECK_OK(kolo_udp_set_tos(loop, client.udp, 0x2e));
    CHECK_OK(kolo_address_parse("127.0.0.7", server.address.port, &other));
    CHECK_OK(kolo_udp_send(loop, client.udp, "to seven", 8, &other));
    RUN_UNTIL(loop, server.heard == 1);
    CHECK(memcmp(server.last.to.ip, other.ip, 4) == 0);
    CHECK_INT(server.last.to.port, 0);
    CHECK_INT(server.last.interface, if_nametoindex("lo"));
    CHECK_INT(server.last.tos, 0x2e);
    /* The answer comes from there, and with a class of its own. */
    kolo_buffer answer = {(void *)"answer", 6};
    kolo_transmit how = KOLO_TRANSMIT_INIT;
    how.to = &client.address;
    how.source = &server.last.to;
    how.interface = server.last.interface;
    how.has_tos = true;
    how.tos = 0;
    CHECK_OK(kolo_udp_send_with(loop, server.udp, &answer, 1, &how));
    RUN_UNTIL(loop, client.heard == 1);
    CHECK(memcmp(client.from[0].ip, other.ip, 4) == 0);
    CHECK_INT(client.last.tos, 0);
    close_one(loop, &server);
    close_one(loop, &client);
}

TEST(multicast_on_the_loopback_interface) {
    recorded me, sender;
    kolo_address any, group, source;
    kolo_udp_handler table = handler();
    kolo_udp_options options = KOLO_UDP_OPTIONS_INIT;
    uint32_t lo = if_nametoindex("lo");
    options.reuse_address = true;
    CHECK_OK(kolo_address_parse("239.7.7.7", 0, &group));
    CHECK_OK(kolo_address_parse("239.7.7.7", 0, &any));
    bind_with(loop, &me, any, &options, &table); /* at the group's address: nothing else comes */
    group.port = me.address.port;
    bind_one(loop, &sender);
    CHECK_OK(kolo_udp_set_multicast_interface(loop, sender.udp, lo));
    CHECK_OK(kolo_udp_set_multicast_ttl(loop, sender.udp, 0));
    CHECK_ERROR(kolo_udp_set_multicast_ttl(loop, sender.udp, 256), KOLO_EINVAL);
    CHECK_OK(kolo_udp_set_multicast_loop(loop, sender.udp, true));
    CHECK_OK(kolo_udp_join(loop, me.udp, &group, NULL, lo));
    CHECK_ERROR(kolo_udp_join(loop, me.udp, &group, NULL, lo), KOLO_EADDRINUSE);
    CHECK_OK(kolo_udp_send(loop, sender.udp, "0", 1, &group));
    RUN_UNTIL(loop, me.heard == 1);
    CHECK_OK(kolo_udp_leave(loop, me.udp, &group, NULL, lo));
    CHECK_ERROR(kolo_udp_leave(loop, me.udp, &group, NULL, lo), KOLO_EADDRNOTAVAIL);
    source = loopback_v4(0);
    CHECK_OK(kolo_udp_join(loop, me.udp, &group, &source, lo));
    CHECK_OK(kolo_udp_send(loop, sender.udp, "1", 1, &group));
    RUN_UNTIL(loop, me.heard == 2);
    CHECK_OK(kolo_udp_leave(loop, me.udp, &group, &source, lo));
    CHECK_ERROR(kolo_udp_join(loop, me.udp, &source, NULL, lo), KOLO_EINVAL);
    kolo_address v6 = loopback_v6(0);
    CHECK_ERROR(kolo_udp_join(loop, me.udp, &group, &v6, lo), KOLO_EINVAL);
    check_numbers(&me, 2);
    close_one(loop, &me);
    close_one(loop, &sender);
}

TEST(fragmentation) {
    recorded me;
    kolo_socket socket;
    static const int expected[] = {IP_PMTUDISC_WANT, IP_PMTUDISC_DONT, IP_PMTUDISC_DO, IP_PMTUDISC_PROBE};
    bind_one(loop, &me);
    CHECK_OK(kolo_udp_socket(loop, me.udp, &socket));
    for (int how = KOLO_FRAGMENTATION_SYSTEM; how <= KOLO_FRAGMENTATION_PROBE; how++) {
        CHECK_OK(kolo_udp_set_fragmentation(loop, me.udp, how));
        CHECK_INT(raw_option((int)socket, IPPROTO_IP, IP_MTU_DISCOVER), expected[how]);
    }
    CHECK_ERROR(kolo_udp_set_fragmentation(loop, me.udp, 4), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_set_fragmentation(loop, me.udp, -1), KOLO_EINVAL);
    close_one(loop, &me);
}
#endif

/* ---- options ---- */

TEST(options_reach_the_socket) {
    recorded me;
    kolo_socket socket;
    uint32_t send_bytes = 0, receive_bytes = 0;
    kolo_udp_handler table = handler();
    kolo_udp_options options = KOLO_UDP_OPTIONS_INIT;
    options.reuse_address = true;
    options.broadcast = true;
    options.no_receive_offload = true;
    options.no_send_offload = true;
    options.send_buffer = 50000;
    options.receive_buffer = 60000;
    bind_with(loop, &me, loopback_v4(0), &options, &table);
    CHECK_OK(kolo_udp_socket(loop, me.udp, &socket));
    CHECK(raw_option((int)socket, SOL_SOCKET, SO_REUSEADDR) != 0);
    CHECK(raw_option((int)socket, SOL_SOCKET, SO_BROADCAST) != 0);
    CHECK_OK(kolo_udp_buffers(loop, me.udp, &send_bytes, &receive_bytes));
    CHECK(send_bytes >= 50000 && receive_bytes >= 60000);
    CHECK_OK(kolo_udp_set_buffers(loop, me.udp, 70000, 0));
    CHECK_OK(kolo_udp_buffers(loop, me.udp, &send_bytes, &receive_bytes));
    CHECK(send_bytes >= 70000);
    CHECK_OK(kolo_udp_set_broadcast(loop, me.udp, false));
    CHECK_INT(raw_option((int)socket, SOL_SOCKET, SO_BROADCAST), 0);
    CHECK_OK(kolo_udp_set_ttl(loop, me.udp, 7));
    CHECK_INT(raw_option((int)socket, IPPROTO_IP, IP_TTL), 7);
    CHECK_ERROR(kolo_udp_set_ttl(loop, me.udp, 0), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_set_ttl(loop, me.udp, 256), KOLO_EINVAL);
    close_one(loop, &me);
}

TEST(addresses_that_cannot_be_had) {
    recorded me;
    kolo_udp out = 77;
    kolo_address foreign;
    kolo_udp_handler table = handler();
    bind_one(loop, &me);
    CHECK_ERROR(kolo_udp_bind(loop, &me.address, NULL, &table, NULL, &out), KOLO_EADDRINUSE);
    CHECK_OK(kolo_address_parse("192.0.2.1", 0, &foreign)); /* TEST-NET-1: nobody's */
    CHECK_ERROR(kolo_udp_bind(loop, &foreign, NULL, &table, NULL, &out), KOLO_EADDRNOTAVAIL);
    CHECK_INT(out, 77);
    kolo_udp_options options = KOLO_UDP_OPTIONS_INIT;
    recorded one, two;
    options.reuse_port = true;
    bind_with(loop, &one, loopback_v4(0), &options, &table);
    bind_with(loop, &two, one.address, &options, &table);
    CHECK_INT(two.address.port, one.address.port);
    close_one(loop, &me);
    close_one(loop, &one);
    close_one(loop, &two);
}

TEST(ipv6_only) {
    recorded me;
    kolo_address any;
    kolo_socket socket;
    kolo_udp_handler table = handler();
    kolo_udp_options options = KOLO_UDP_OPTIONS_INIT;
    CHECK_OK(kolo_address_parse("::", 0, &any));
    bind_with(loop, &me, any, NULL, &table);
    kolo_address v4 = loopback_v4(me.address.port);
    recorded sender;
    bind_one(loop, &sender);
    CHECK_OK(kolo_udp_send(loop, sender.udp, "0", 1, &v4));
    RUN_UNTIL(loop, me.heard == 1);
    close_one(loop, &me);
    options.ipv6_only = true;
    bind_with(loop, &me, any, &options, &table);
    CHECK_OK(kolo_udp_socket(loop, me.udp, &socket));
    CHECK_INT(raw_option((int)socket, IPPROTO_IPV6, IPV6_V6ONLY), 1);
    close_one(loop, &me);
    close_one(loop, &sender);
}

/* ---- adopting and releasing ---- */

TEST(adopting_and_releasing) {
    recorded me = {.loop = loop};
    kolo_address address, peer;
    kolo_udp_handler table = handler();
    int ours = raw_udp(&address), other = raw_udp(&peer);
    CHECK_OK(kolo_udp_adopt(loop, ours, NULL, &table, &me, &me.udp));
    raw_send(other, &address, "0");
    RUN_UNTIL(loop, me.heard == 1);
    kolo_socket released = -1;
    CHECK_OK(kolo_udp_release(loop, me.udp, &released));
    CHECK_INT(released, ours);
    run_to_end(loop);
    CHECK_INT(me.closed, 1);
    raw_send(other, &address, "still works");
    check_arrives(ours, "still works", 11);
    raw_close(&ours);
    raw_close(&other);
}

TEST(what_cannot_be_adopted_stays_the_callers) {
    kolo_udp out = 77;
    kolo_udp_handler table = handler();
    int stream = SYSTEM(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), local[2], pipes[2];
    SYSTEM(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, local));
    SYSTEM(pipe(pipes));
    CHECK_ERROR(kolo_udp_adopt(loop, stream, NULL, &table, NULL, &out), KOLO_EPROTOTYPE);
    CHECK_ERROR(kolo_udp_adopt(loop, local[0], NULL, &table, NULL, &out), KOLO_EAFNOSUPPORT);
    CHECK_ERROR(kolo_udp_adopt(loop, pipes[0], NULL, &table, NULL, &out), KOLO_ENOTSOCK);
    CHECK_ERROR(kolo_udp_adopt(loop, -1, NULL, &table, NULL, &out), KOLO_EBADF);
    CHECK_INT(out, 77);
    raw_close(&stream);
    for (int i = 0; i < 2; i++) {
        raw_close(&local[i]);
        raw_close(&pipes[i]);
    }
}

/* ---- misuse ---- */

TEST(null_pointers) {
    recorded me;
    kolo_udp out = 77;
    kolo_address any = loopback_v4(0), none = any;
    kolo_udp_handler table = handler();
    uint32_t bytes;
    bind_one(loop, &me);
    none.family = KOLO_FAMILY_NONE;
    CHECK_ERROR(kolo_udp_bind(loop, NULL, NULL, &table, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_bind(loop, &none, NULL, &table, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_bind(loop, &any, NULL, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_bind(loop, &any, NULL, &table, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_adopt(loop, 0, NULL, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_adopt(loop, 0, NULL, &table, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_release(loop, me.udp, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_attach(loop, me.udp, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_connect(loop, me.udp, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_connect(loop, me.udp, &none), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_send(loop, me.udp, NULL, 1, &any), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_send(loop, me.udp, "x", 1, &none), KOLO_EINVAL);
    kolo_buffer hollow = {NULL, 1};
    kolo_transmit to = KOLO_TRANSMIT_INIT;
    to.to = &me.address;
    CHECK_ERROR(kolo_udp_send_with(loop, me.udp, NULL, 1, &to), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_send_with(loop, me.udp, &hollow, 1, &to), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_send_owned(loop, me.udp, &hollow, 1, &to, on_sent, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_try_send(loop, me.udp, &hollow, 1, &to), KOLO_EINVAL);
    to.source = &none;
    CHECK_ERROR(kolo_udp_send_with(loop, me.udp, NULL, 0, &to), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_send_with(loop, me.udp, NULL, 0, NULL), KOLO_EDESTADDRREQ);
    CHECK_ERROR(kolo_udp_queued(loop, me.udp, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_local(loop, me.udp, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_peer(loop, me.udp, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_socket(loop, me.udp, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_buffers(loop, me.udp, NULL, &bytes), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_buffers(loop, me.udp, &bytes, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_join(loop, me.udp, NULL, NULL, 0), KOLO_EINVAL);
    CHECK_ERROR(kolo_udp_leave(loop, me.udp, NULL, NULL, 0), KOLO_EINVAL);
    CHECK_INT(out, 77);
    CHECK_INT(me.sent, 0);
    close_one(loop, &me);
}

TEST(structs_of_an_absurd_size) {
    static const size_t wrong[] = {0, 1, 7, 1 << 20, SIZE_MAX};
    recorded me;
    kolo_udp out = 77;
    kolo_address any = loopback_v4(0);
    bind_one(loop, &me);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        kolo_udp_handler table = handler();
        kolo_udp_options options = KOLO_UDP_OPTIONS_INIT;
        kolo_transmit to = KOLO_TRANSMIT_INIT;
        options.size = wrong[i];
        CHECK_ERROR(kolo_udp_bind(loop, &any, &options, &table, NULL, &out), KOLO_EINVAL);
        to.size = wrong[i];
        to.to = &me.address;
        CHECK_ERROR(kolo_udp_send_with(loop, me.udp, NULL, 0, &to), KOLO_EINVAL);
        CHECK_ERROR(kolo_udp_try_send(loop, me.udp, NULL, 0, &to), KOLO_EINVAL);
        CHECK_ERROR(kolo_udp_send_owned(loop, me.udp, NULL, 0, &to, on_sent, &me, NULL), KOLO_EINVAL);
        table.size = wrong[i];
        CHECK_ERROR(kolo_udp_bind(loop, &any, NULL, &table, NULL, &out), KOLO_EINVAL);
        CHECK_ERROR(kolo_udp_attach(loop, me.udp, &table, NULL), KOLO_EINVAL);
    }
    CHECK_INT(out, 77);
    run_some_turns(loop);
    CHECK_INT(me.heard, 0);
    close_one(loop, &me);
}
