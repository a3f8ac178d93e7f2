/* Streams: reading, writing, half-close, watermarks, timeouts, cancellation, closing. TCP carries them here. */
#include "harness.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define MEGABYTE ((size_t)1024 * 1024)

static int done_calls;
static int done_status[4096];
static intptr_t done_order[4096];

static void note_done(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    (void)loop;
    CHECK(stream != 0);
    CHECK(done_calls < 4096);
    done_status[done_calls] = status;
    done_order[done_calls++] = (intptr_t)user;
}

/* ---- reading and writing ---- */

TEST(bytes_go_both_ways) {
    pair both;
    pair_open(loop, &both);
    CHECK_INT(kolo_stream_write(loop, both.client.stream, "ping", 4), 0);
    RUN_UNTIL(loop, both.server.received == 4);
    CHECK_RECEIVED(&both.server, "ping");
    CHECK_INT(kolo_stream_write(loop, both.server.stream, "pong!", 5), 0);
    RUN_UNTIL(loop, both.client.received == 5);
    CHECK_RECEIVED(&both.client, "pong!");
    pair_close(loop, &both);
}

TEST(an_empty_write_is_no_error) {
    pair both;
    pair_open(loop, &both);
    CHECK_INT(kolo_stream_write(loop, both.client.stream, "", 0), 0);
    CHECK_INT(kolo_stream_write(loop, both.client.stream, NULL, 0), 0);
    CHECK_INT(kolo_stream_write(loop, both.client.stream, "x", 1), 0);
    RUN_UNTIL(loop, both.server.received == 1);
    pair_close(loop, &both);
}

TEST(write_copies_what_it_keeps) {
    half end;
    half_open(loop, &end);
    size_t length = 4 * MEGABYTE;
    uint8_t *data = malloc(length), *got = malloc(length);
    CHECK(data != NULL && got != NULL);
    pattern_fill(data, length, 0);
    CHECK(kolo_stream_write(loop, end.peer.stream, data, length) >= 0);
    memset(data, 0xee, length); /* the program's memory again */
    free(data);
    raw_nonblocking(end.socket);
    size_t at = 0;
    while (at < length) {
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
        ssize_t received = recv(end.socket, got + at, length - at, 0);
        if (received > 0) at += (size_t)received;
    }
    CHECK(pattern_matches(got, length, 0));
    free(got);
    half_close(loop, &end);
}

typedef struct echo {
    kolo_stream stream;
    int closed;
    uint64_t bytes;
} echo;

static void echo_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    echo *me = user;
    me->bytes += length;
    int result = kolo_stream_write(loop, stream, data, length);
    CHECK(result >= 0);
    if (result == 1) CHECK_OK(kolo_stream_read_stop(loop, stream)); /* the peer is slow: wait for on_drain */
}

static void echo_drain(kolo_loop *loop, kolo_stream stream, void *user) {
    (void)user;
    CHECK_OK(kolo_stream_read_start(loop, stream));
}

static void echo_close(kolo_loop *loop, kolo_stream stream, void *user) {
    (void)loop, (void)stream;
    ((echo *)user)->closed++;
}

typedef struct feeder {
    kolo_stream stream;
    uint64_t sent, received, total;
    bool ended;
    int closed;
} feeder;

static void feed(kolo_loop *loop, feeder *me) {
    static uint8_t piece[50021];
    while (me->sent < me->total) {
        size_t length = sizeof piece;
        if (length > me->total - me->sent) length = (size_t)(me->total - me->sent);
        pattern_fill(piece, length, me->sent);
        int result = kolo_stream_write(loop, me->stream, piece, length);
        CHECK(result >= 0);
        me->sent += length;
        if (result == 1) return; /* on_drain goes on */
    }
    CHECK_OK(kolo_stream_shutdown(loop, me->stream, NULL, NULL));
}

static void feeder_open(kolo_loop *loop, kolo_stream stream, void *user) {
    feeder *me = user;
    me->stream = stream;
    feed(loop, me);
}

static void feeder_drain(kolo_loop *loop, kolo_stream stream, void *user) {
    (void)stream;
    feeder *me = user;
    if (me->sent < me->total) feed(loop, me);
}

static void feeder_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    (void)loop, (void)stream;
    feeder *me = user;
    CHECK(pattern_matches(data, length, me->received));
    me->received += length;
}

static void feeder_end(kolo_loop *loop, kolo_stream stream, void *user) {
    ((feeder *)user)->ended = true;
    CHECK_OK(kolo_close(loop, stream));
}

static void feeder_close(kolo_loop *loop, kolo_stream stream, void *user) {
    (void)loop, (void)stream;
    ((feeder *)user)->closed++;
}

static void echo_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = echo_data;
    handler.on_drain = echo_drain;
    handler.on_close = echo_close;
    CHECK_OK(kolo_stream_attach(loop, stream, &handler, user));
    CHECK_OK(kolo_close(loop, listener));
}

static void echo_of(kolo_loop *loop, uint64_t total) {
    kolo_address any = loopback_v4(0), bound;
    kolo_listener_handler accepting = KOLO_LISTENER_HANDLER_INIT;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_listener listener = 0;
    echo server = {0, 0, 0};
    feeder client = {0, 0, 0, 0, false, 0};
    client.total = total;
    accepting.on_accept = echo_accept;
    handler.on_open = feeder_open;
    handler.on_data = feeder_data;
    handler.on_drain = feeder_drain;
    handler.on_end = feeder_end;
    handler.on_close = feeder_close;
    CHECK_OK(kolo_tcp_listen(loop, &any, NULL, &accepting, &server, &listener));
    CHECK_OK(kolo_listener_address(loop, listener, &bound));
    CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &client, &client.stream));
    run_to_end(loop);
    CHECK_INT(client.received, total);
    CHECK(client.ended);
    CHECK_INT(server.bytes, total);
    CHECK_INT(client.closed, 1);
    CHECK_INT(server.closed, 1); /* without on_end: it shut down after its queue, and closed */
}

TEST(an_echo_of_nothing) { echo_of(loop, 0); }
TEST(an_echo_of_one_byte) { echo_of(loop, 1); }
TEST(an_echo_of_megabytes_byte_for_byte) { echo_of(loop, 16 * MEGABYTE); }

static void write_many(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)timer;
    kolo_stream stream = *(kolo_stream *)user;
    for (int i = 0; i < 5000; i++) {
        uint8_t byte = pattern_byte((uint64_t)i);
        CHECK(kolo_stream_write(loop, stream, &byte, 1) >= 0);
    }
}

TEST(small_writes_of_one_callback_arrive_in_order) {
    pair both;
    kolo_timer timer = 0;
    pair_open(loop, &both);
    both.server.discard = true; /* compares with the pattern */
    CHECK_OK(kolo_timer_open(loop, write_many, &both.client.stream, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, 0, 0));
    RUN_UNTIL(loop, both.server.received == 5000);
    CHECK(both.server.data_calls < 2500); /* gathered: not a packet for every byte */
    pair_close(loop, &both);
}

TEST(writes_before_the_connection_are_queued) {
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, 4, &bound);
    peer client;
    kolo_stream_handler handler = peer_handler();
    size_t queued = 0;
    memset(&client, 0, sizeof client);
    CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &client, &client.stream));
    CHECK_INT(kolo_stream_write(loop, client.stream, "early ", 6), 0);
    CHECK_INT(kolo_stream_write(loop, client.stream, "bird", 4), 0);
    CHECK_OK(kolo_stream_queued(loop, client.stream, &queued));
    CHECK_INT(queued, 10);
    RUN_UNTIL(loop, client.opened);
    int socket = raw_accept(listener);
    char text[11] = "";
    raw_nonblocking(socket);
    size_t at = 0;
    while (at < 10) {
        CHECK_INT(kolo_loop_run(loop, KOLO_RUN_NOWAIT), 1);
        ssize_t received = recv(socket, text + at, 10 - at, 0);
        if (received > 0) at += (size_t)received;
    }
    CHECK_STRING(text, "early bird");
    CHECK_OK(kolo_close(loop, client.stream));
    run_to_end(loop);
    raw_close(&socket);
    raw_close(&listener);
    peer_free(&client);
}

/* ---- read_start and read_stop ---- */

TEST(no_data_while_reading_is_stopped_and_none_is_lost) {
    half end;
    half_open(loop, &end);
    end.peer.discard = true;
    CHECK_OK(kolo_stream_read_stop(loop, end.peer.stream));
    CHECK_OK(kolo_stream_read_stop(loop, end.peer.stream));
    uint8_t data[10000];
    pattern_fill(data, sizeof data, 0);
    raw_write_all(end.socket, data, sizeof data);
    run_some_turns(loop);
    CHECK_INT(end.peer.received, 0);
    CHECK_OK(kolo_stream_read_start(loop, end.peer.stream));
    CHECK_OK(kolo_stream_read_start(loop, end.peer.stream));
    RUN_UNTIL(loop, end.peer.received == sizeof data);
    half_close(loop, &end);
}

TEST(stopping_in_on_data_holds_the_rest_back) {
    half end;
    half_open(loop, &end);
    end.peer.discard = true;
    end.peer.stop_in_data = true;
    uint8_t *data = malloc(MEGABYTE);
    CHECK(data != NULL);
    pattern_fill(data, MEGABYTE, 0);
    raw_nonblocking(end.socket);
    size_t sent = 0;
    int calls = 0;
    while (end.peer.received < MEGABYTE) {
        ssize_t part = send(end.socket, data + sent, MEGABYTE - sent, MSG_NOSIGNAL);
        if (part > 0) sent += (size_t)part;
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) >= 0);
        CHECK(end.peer.data_calls <= calls + 1); /* one piece for each read_start */
        calls = end.peer.data_calls;
        CHECK_OK(kolo_stream_read_start(loop, end.peer.stream));
    }
    free(data);
    half_close(loop, &end);
}

TEST(the_end_waits_for_read_start_too) {
    half end;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_read_stop(loop, end.peer.stream));
    raw_write_all(end.socket, "last words", 10);
    SYSTEM(shutdown(end.socket, SHUT_WR));
    run_some_turns(loop);
    CHECK_INT(end.peer.ended, 0);
    CHECK_OK(kolo_stream_read_start(loop, end.peer.stream));
    RUN_UNTIL(loop, end.peer.ended);
    CHECK_RECEIVED(&end.peer, "last words");
    half_close(loop, &end);
}

/* ---- the program's own buffers ---- */

typedef struct own_buffers {
    uint8_t memory[64];
    size_t give; /* how much of it */
    int asked, data_calls;
    size_t received;
    char text[200];
} own_buffers;

static void give_buffer(kolo_loop *loop, kolo_stream stream, size_t suggested, kolo_buffer *out, void *user) {
    (void)loop, (void)stream;
    own_buffers *me = user;
    CHECK(suggested > 0);
    me->asked++;
    out->base = me->memory;
    out->len = me->give;
}

static void data_in_own_buffer(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    (void)loop, (void)stream;
    own_buffers *me = user;
    CHECK(data == me->memory);
    CHECK(length > 0 && length <= me->give);
    CHECK(me->received + length < sizeof me->text);
    memcpy(me->text + me->received, data, length);
    me->received += length;
    me->data_calls++;
}

TEST(bytes_go_where_on_buffer_says) {
    half end;
    own_buffers own;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    memset(&own, 0, sizeof own);
    own.give = 16;
    handler.on_buffer = give_buffer;
    handler.on_data = data_in_own_buffer;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &own));
    static const char text[] = "0123456789abcdef0123456789abcdef0123456789abcdef!";
    raw_write_all(end.socket, text, sizeof text - 1);
    RUN_UNTIL(loop, own.received == sizeof text - 1);
    CHECK_STRING(own.text, text);
    CHECK(own.data_calls >= 4);
    kolo_stream_handler back = peer_handler();
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &back, &end.peer));
    half_close(loop, &end);
}

TEST(an_empty_buffer_pauses_reading) {
    half end;
    own_buffers own;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    memset(&own, 0, sizeof own);
    handler.on_buffer = give_buffer;
    handler.on_data = data_in_own_buffer;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &own));
    raw_write_all(end.socket, "kept", 4);
    RUN_UNTIL(loop, own.asked == 1);
    run_some_turns(loop);
    CHECK_INT(own.asked, 1); /* paused: not asked again and again */
    CHECK_INT(own.data_calls, 0);
    own.give = 64;
    CHECK_OK(kolo_stream_read_start(loop, end.peer.stream));
    RUN_UNTIL(loop, own.received == 4);
    CHECK_STRING(own.text, "kept");
    kolo_stream_handler back = peer_handler();
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &back, &end.peer));
    half_close(loop, &end);
}

/* ---- finishing ---- */

static void count_close(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)loop, (void)handle;
    ++*(int *)user;
}

static void finish_and_wait(kolo_loop *loop, const kolo_stream_handler *handler, void *user, uint64_t linger_ns,
                            kolo_stream *out) {
    half end;
    int closed = 0;
    char answer[8];
    half_open(loop, &end);
    kolo_stream stream = end.peer.stream;
    if (out != NULL) *out = stream;
    CHECK_OK(kolo_stream_attach(loop, stream, handler, user));
    CHECK_OK(kolo_on_close(loop, stream, count_close, &closed));
    CHECK_INT(kolo_stream_write(loop, stream, "bye", 3), 0);
    CHECK_OK(kolo_stream_finish(loop, stream, linger_ns));
    CHECK_ERROR(kolo_stream_write(loop, stream, "x", 1), KOLO_EPIPE);
    run_some_turns(loop);
    CHECK_INT(closed, linger_ns == 0);
    CHECK_INT(SYSTEM(read(end.socket, answer, sizeof answer)), 3);
    CHECK_INT(SYSTEM(read(end.socket, answer, sizeof answer)), 0);
    if (linger_ns != 0) {
        raw_write_all(end.socket, "what nobody wants", 17);
        run_some_turns(loop);
        CHECK_INT(closed, 0);
        CHECK_OK(kolo_stream_finish(loop, stream, linger_ns)); /* again: as it was */
        SYSTEM(shutdown(end.socket, SHUT_WR));
        RUN_UNTIL(loop, closed == 1);
    }
    CHECK_ERROR(kolo_stream_finish(loop, stream, linger_ns), KOLO_EBADF);
    raw_close(&end.socket);
    run_to_end(loop);
}

TEST(finishing) {
    kolo_stream_handler handler = peer_handler();
    peer me;
    memset(&me, 0, sizeof me);
    me.loop = loop;
    finish_and_wait(loop, &handler, &me, 0, &me.stream);
    CHECK_INT(me.closed, 1);
    CHECK_INT(me.ended + me.errors, 0);
}

TEST(finishing_with_a_linger) {
    kolo_stream_handler handler = peer_handler();
    peer me;
    memset(&me, 0, sizeof me);
    me.loop = loop;
    finish_and_wait(loop, &handler, &me, SECONDS(600), &me.stream);
    CHECK_INT(me.closed, 1);
    CHECK_INT(me.ended + me.errors, 0);
    CHECK_INT(me.received, 0); /* it was thrown away */
}

TEST(finishing_with_a_linger_asks_for_no_memory) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    own_buffers own;
    memset(&own, 0, sizeof own);
    own.give = 16;
    handler.on_buffer = give_buffer;
    handler.on_data = data_in_own_buffer;
    finish_and_wait(loop, &handler, &own, SECONDS(600), NULL);
    CHECK_INT(own.asked + own.data_calls, 0);
}

TEST(finishing_after_all_without_a_linger) {
    half end;
    int closed = 0;
    half_open(loop, &end);
    CHECK_OK(kolo_on_close(loop, end.peer.stream, count_close, &closed));
    CHECK_OK(kolo_stream_finish(loop, end.peer.stream, SECONDS(600)));
    run_some_turns(loop);
    CHECK_INT(closed, 0);
    CHECK_OK(kolo_stream_finish(loop, end.peer.stream, 0));
    RUN_UNTIL(loop, closed == 1);
    half_close(loop, &end);
}

/* ---- handlers ---- */

TEST(another_handler_takes_over) {
    half end;
    peer second;
    void *user = NULL;
    kolo_stream_handler handler = peer_handler();
    half_open(loop, &end);
    CHECK_OK(kolo_stream_user(loop, end.peer.stream, &user));
    CHECK(user == &end.peer);
    raw_write_all(end.socket, "first", 5);
    RUN_UNTIL(loop, end.peer.received == 5);
    memset(&second, 0, sizeof second);
    second.stream = end.peer.stream;
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &second));
    memset(&handler, 0, sizeof handler); /* it was copied */
    CHECK_OK(kolo_stream_user(loop, end.peer.stream, &user));
    CHECK(user == &second);
    raw_write_all(end.socket, "second", 6);
    RUN_UNTIL(loop, second.received == 6);
    CHECK_INT(end.peer.received, 5);
    CHECK_OK(kolo_close(loop, second.stream));
    run_to_end(loop);
    CHECK_INT(second.closed, 1);
    CHECK_INT(end.peer.closed, 0); /* only the handler in place hears of it */
    peer_free(&second);
    peer_free(&end.peer);
    raw_close(&end.socket);
}

static void swap_handler(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    (void)data, (void)length;
    kolo_stream_handler handler = peer_handler();
    CHECK_OK(kolo_stream_attach(loop, stream, &handler, user));
}

TEST(a_handler_replaces_itself_in_its_callback) {
    half end;
    peer second;
    kolo_stream_handler first = KOLO_STREAM_HANDLER_INIT;
    half_open(loop, &end);
    memset(&second, 0, sizeof second);
    second.stream = end.peer.stream;
    first.on_data = swap_handler;
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &first, &second));
    raw_write_all(end.socket, "a", 1);
    run_some_turns(loop);
    raw_write_all(end.socket, "b", 1);
    RUN_UNTIL(loop, second.received == 1);
    CHECK_RECEIVED(&second, "b");
    CHECK_OK(kolo_close(loop, second.stream));
    run_to_end(loop);
    CHECK_INT(second.closed, 1);
    peer_free(&second);
    peer_free(&end.peer);
    raw_close(&end.socket);
}

static void ask_for_user(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    void *got = NULL;
    (void)data, (void)length;
    CHECK_OK(kolo_stream_user(loop, stream, &got));
    CHECK(got == user);
    ++*(int *)user;
}

TEST(the_user_pointer_inside_a_callback) {
    half end;
    int calls = 0;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    half_open(loop, &end);
    handler.on_data = ask_for_user;
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &calls));
    raw_write_all(end.socket, "x", 1);
    RUN_UNTIL(loop, calls == 1);
    CHECK_OK(kolo_close(loop, end.peer.stream));
    run_to_end(loop);
    raw_close(&end.socket);
}

TEST(without_on_data_bytes_wait_until_read_start) {
    int sockets[2];
    peer me;
    kolo_tcp stream = 0;
    kolo_stream_handler nothing = KOLO_STREAM_HANDLER_INIT, handler = peer_handler();
    raw_pair(sockets);
    memset(&me, 0, sizeof me);
    CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &nothing, NULL, &stream));
    CHECK_INT(kolo_is_active(loop, stream), 0);
    raw_write_all(sockets[1], "patient", 7);
    run_some_turns(loop);
    CHECK_OK(kolo_stream_attach(loop, stream, &handler, &me));
    CHECK_OK(kolo_stream_read_start(loop, stream));
    CHECK_INT(kolo_is_active(loop, stream), 1);
    RUN_UNTIL(loop, me.received == 7);
    CHECK_RECEIVED(&me, "patient");
    CHECK_OK(kolo_close(loop, stream));
    run_to_end(loop);
    peer_free(&me);
    raw_close(&sockets[1]);
}

TEST(a_handler_of_nulls_is_enough) {
    half end;
    kolo_stream_handler nothing = KOLO_STREAM_HANDLER_INIT;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &nothing, NULL));
    raw_write_all(end.socket, "unheard", 7);
    raw_close(&end.socket);
    CHECK_OK(kolo_close(loop, end.peer.stream));
    run_to_end(loop);
    peer_free(&end.peer);
}

/* ---- half-close ---- */

TEST(shutdown_is_a_half_close_after_the_queue) {
    pair both;
    pair_open(loop, &both);
    both.server.discard = true;
    uint8_t *data = malloc(2 * MEGABYTE);
    CHECK(data != NULL);
    pattern_fill(data, 2 * MEGABYTE, 0);
    CHECK(kolo_stream_write(loop, both.client.stream, data, 2 * MEGABYTE) >= 0);
    free(data);
    CHECK_OK(kolo_stream_shutdown(loop, both.client.stream, note_done, NULL));
    CHECK_INT(done_calls, 0);
    RUN_UNTIL(loop, both.server.ended);
    CHECK_INT(both.server.received, 2 * MEGABYTE);
    RUN_UNTIL(loop, done_calls == 1);
    CHECK_OK(done_status[0]);
    /* The other direction is still open. */
    CHECK_INT(both.client.ended, 0);
    CHECK_INT(kolo_stream_write(loop, both.server.stream, "still here", 10), 0);
    RUN_UNTIL(loop, both.client.received == 10);
    CHECK_OK(kolo_stream_shutdown(loop, both.server.stream, NULL, NULL));
    RUN_UNTIL(loop, both.client.ended);
    CHECK_INT(both.client.errors + both.server.errors, 0);
    pair_close(loop, &both);
}

TEST(nothing_is_written_after_shutdown) {
    pair both;
    kolo_buffer buffer = {"x", 1};
    uint64_t write = 77;
    pair_open(loop, &both);
    CHECK_OK(kolo_stream_shutdown(loop, both.client.stream, NULL, NULL));
    CHECK_ERROR(kolo_stream_write(loop, both.client.stream, "x", 1), KOLO_EPIPE);
    CHECK_ERROR(kolo_stream_write_owned(loop, both.client.stream, &buffer, 1, note_done, NULL, &write), KOLO_EPIPE);
    CHECK_ERROR(kolo_stream_shutdown(loop, both.client.stream, note_done, NULL), KOLO_EALREADY);
    RUN_UNTIL(loop, both.server.ended);
    CHECK_ERROR(kolo_stream_write(loop, both.client.stream, "x", 1), KOLO_EPIPE);
    CHECK_ERROR(kolo_stream_shutdown(loop, both.client.stream, note_done, NULL), KOLO_EALREADY);
    run_some_turns(loop);
    CHECK_INT(done_calls, 0); /* what was refused has no completion */
    pair_close(loop, &both);
}

TEST(shutdown_before_the_connection) {
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, 4, &bound);
    peer client;
    kolo_stream_handler handler = peer_handler();
    memset(&client, 0, sizeof client);
    CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &client, &client.stream));
    CHECK(kolo_stream_write(loop, client.stream, "bye", 3) >= 0);
    CHECK_OK(kolo_stream_shutdown(loop, client.stream, note_done, NULL));
    RUN_UNTIL(loop, done_calls == 1);
    CHECK_OK(done_status[0]);
    CHECK_INT(client.opened, 1);
    int socket = raw_accept(listener);
    char text[4] = "";
    raw_read_exactly(socket, text, 3);
    CHECK_STRING(text, "bye");
    CHECK_INT(recv(socket, text, 1, 0), 0);
    CHECK_OK(kolo_close(loop, client.stream));
    run_to_end(loop);
    raw_close(&socket);
    raw_close(&listener);
    peer_free(&client);
}

TEST(without_on_end_the_stream_drains_and_closes) {
    half end;
    peer quiet;
    kolo_stream_handler handler = peer_handler();
    size_t length = 3 * MEGABYTE;
    uint8_t *data = malloc(length), *got = malloc(length + 1);
    CHECK(data != NULL && got != NULL);
    half_open(loop, &end);
    handler.on_end = NULL;
    memset(&quiet, 0, sizeof quiet);
    quiet.stream = end.peer.stream;
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &quiet));
    pattern_fill(data, length, 0);
    CHECK(kolo_stream_write(loop, quiet.stream, data, length) >= 0);
    SYSTEM(shutdown(end.socket, SHUT_WR));
    raw_nonblocking(end.socket);
    size_t at = 0;
    for (;;) {
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) >= 0);
        ssize_t received = recv(end.socket, got + at, length + 1 - at, 0);
        if (received == 0) break; /* its shutdown came after the queue */
        if (received > 0) at += (size_t)received;
        if (received < 0) CHECK_INT(errno, EAGAIN);
    }
    CHECK_INT(at, length);
    CHECK(pattern_matches(got, length, 0));
    RUN_UNTIL(loop, quiet.closed);
    CHECK_INT(quiet.errors, 0);
    free(data);
    free(got);
    peer_free(&quiet);
    peer_free(&end.peer);
    raw_close(&end.socket);
}

TEST(the_end_comes_after_the_last_byte) {
    half end;
    half_open(loop, &end);
    raw_write_all(end.socket, "complete", 8);
    raw_close(&end.socket);
    RUN_UNTIL(loop, end.peer.ended);
    CHECK_RECEIVED(&end.peer, "complete");
    CHECK_INT(end.peer.closed, 0); /* with on_end, closing is the program's decision */
    CHECK_INT(kolo_is_active(loop, end.peer.stream), 0); /* but by itself nothing more can happen on it */
    CHECK_ERROR(kolo_stream_read_start(loop, end.peer.stream), KOLO_ENOTCONN);
    half_close(loop, &end);
}

/* ---- watermarks and the bound ---- */

static size_t queued_of(kolo_loop *loop, kolo_stream stream) {
    size_t queued = SIZE_MAX;
    CHECK_OK(kolo_stream_queued(loop, stream, &queued));
    return queued;
}

/* Writes until so much stands in the queue and the system's own buffers take no more. */
static uint64_t fill_queue(kolo_loop *loop, kolo_stream stream, size_t at_least) {
    static uint8_t block[16384];
    uint64_t written = 0;
    for (;;) {
        size_t before = queued_of(loop, stream);
        if (before >= at_least) {
            run_some_turns(loop);
            if (queued_of(loop, stream) >= at_least) return written;
            continue;
        }
        pattern_fill(block, sizeof block, written);
        CHECK(kolo_stream_write(loop, stream, block, sizeof block) >= 0);
        written += sizeof block;
        run_some_turns(loop);
    }
}

/* Reads from the plain end, turning the loop, until so many bytes have come; they must follow the pattern. */
static void drain_pattern(kolo_loop *loop, int socket, uint64_t *at, uint64_t until) {
    static uint8_t block[65536];
    raw_nonblocking(socket);
    while (*at < until) {
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) >= 0);
        size_t want = sizeof block;
        if (want > until - *at) want = (size_t)(until - *at);
        ssize_t received = recv(socket, block, want, 0);
        if (received < 0 && errno == EAGAIN) continue;
        SYSTEM(received);
        CHECK(received > 0);
        CHECK(pattern_matches(block, (size_t)received, *at));
        *at += (uint64_t)received;
    }
}

TEST(write_tells_when_the_high_watermark_is_reached) {
    half end;
    half_open(loop, &end);
    uint64_t at = 0, written = fill_queue(loop, end.peer.stream, 1);
    size_t standing = queued_of(loop, end.peer.stream);
    uint8_t data[1000];
    /* The peer does not read, so from here on each byte stands in the queue. */
    CHECK_OK(kolo_stream_set_watermarks(loop, end.peer.stream, standing + 1000, standing + 3000, standing + 100000));
    for (int i = 0; i < 5; i++) {
        pattern_fill(data, sizeof data, written);
        CHECK_INT(kolo_stream_write(loop, end.peer.stream, data, sizeof data), i < 2 ? 0 : 1);
        written += sizeof data;
        CHECK_INT(queued_of(loop, end.peer.stream), standing + 1000 * (size_t)(i + 1));
    }
    run_some_turns(loop);
    CHECK_INT(end.peer.drained, 0);
    drain_pattern(loop, end.socket, &at, written);
    RUN_UNTIL(loop, end.peer.drained == 1);
    CHECK_INT(queued_of(loop, end.peer.stream), 0);
    run_some_turns(loop);
    CHECK_INT(end.peer.drained, 1); /* once, until it stands above the high mark again */
    half_close(loop, &end);
}

TEST(no_on_drain_without_the_high_watermark) {
    half end;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_set_watermarks(loop, end.peer.stream, 1000, 64 * MEGABYTE, 65 * MEGABYTE));
    uint64_t at = 0, written = fill_queue(loop, end.peer.stream, 100000);
    drain_pattern(loop, end.socket, &at, written);
    run_some_turns(loop);
    CHECK_INT(queued_of(loop, end.peer.stream), 0);
    CHECK_INT(end.peer.drained, 0);
    half_close(loop, &end);
}

TEST(the_hard_bound_refuses_and_loses_nothing) {
    half end;
    half_open(loop, &end);
    uint64_t at = 0, written = fill_queue(loop, end.peer.stream, 1);
    size_t standing = queued_of(loop, end.peer.stream);
    uint8_t data[4000];
    kolo_buffer buffer = {data, sizeof data};
    uint64_t write = 0;
    CHECK_OK(kolo_stream_set_watermarks(loop, end.peer.stream, standing, standing + 100, standing + 10000));
    for (int i = 0; i < 2; i++) {
        pattern_fill(data, sizeof data, written);
        CHECK_INT(kolo_stream_write(loop, end.peer.stream, data, sizeof data), 1);
        written += sizeof data;
    }
    memset(data, 0xbb, sizeof data); /* must never be seen */
    CHECK_ERROR(kolo_stream_write(loop, end.peer.stream, data, sizeof data), KOLO_ENOBUFS);
    CHECK_ERROR(kolo_stream_write_owned(loop, end.peer.stream, &buffer, 1, note_done, NULL, &write), KOLO_ENOBUFS);
    CHECK_INT(queued_of(loop, end.peer.stream), standing + 8000);
    pattern_fill(data, 2000, written); /* what still fits is taken */
    CHECK_INT(kolo_stream_write(loop, end.peer.stream, data, 2000), 1);
    written += 2000;
    CHECK_INT(queued_of(loop, end.peer.stream), standing + 10000);
    CHECK_ERROR(kolo_stream_write(loop, end.peer.stream, data, 1), KOLO_ENOBUFS);
    drain_pattern(loop, end.socket, &at, written);
    CHECK_INT(done_calls, 0);
    CHECK_INT(end.peer.errors, 0);
    pattern_fill(data, sizeof data, written); /* and the stream goes on */
    CHECK(kolo_stream_write(loop, end.peer.stream, data, sizeof data) >= 0);
    written += sizeof data;
    drain_pattern(loop, end.socket, &at, written);
    half_close(loop, &end);
}

TEST(watermarks_that_contradict_each_other) {
    half end;
    half_open(loop, &end);
    CHECK_ERROR(kolo_stream_set_watermarks(loop, end.peer.stream, 2000, 1000, 3000), KOLO_EINVAL);
    CHECK_ERROR(kolo_stream_set_watermarks(loop, end.peer.stream, 1000, 3000, 2000), KOLO_EINVAL);
    CHECK_OK(kolo_stream_set_watermarks(loop, end.peer.stream, 1000, 1000, 1000));
    half_close(loop, &end);
}

/* ---- write_owned ---- */

TEST(owned_writes_complete_once_and_in_order) {
    pair both;
    enum { COUNT = 300 };
    static uint8_t memory[COUNT][700];
    uint64_t offset = 0, previous = 0;
    pair_open(loop, &both);
    both.server.discard = true;
    for (int i = 0; i < COUNT; i++) {
        uint64_t write = 0;
        pattern_fill(memory[i], sizeof memory[i], offset);
        offset += sizeof memory[i];
        kolo_buffer buffers[3] = {{memory[i], 100}, {memory[i] + 100, 0}, {memory[i] + 100, 600}};
        CHECK(kolo_stream_write_owned(loop, both.client.stream, buffers, 3, note_done, (void *)(intptr_t)i, &write) >= 0);
        CHECK(write != 0 && write != previous);
        previous = write;
        memset(buffers, 0, sizeof buffers); /* the array itself was copied */
        CHECK(done_calls <= i);
    }
    CHECK_INT(done_calls, 0); /* never inside the call */
    RUN_UNTIL(loop, both.server.received == offset && done_calls == COUNT);
    run_some_turns(loop);
    CHECK_INT(done_calls, COUNT);
    for (int i = 0; i < COUNT; i++) {
        CHECK_OK(done_status[i]);
        CHECK_INT(done_order[i], i);
    }
    pair_close(loop, &both);
}

TEST(an_owned_write_of_many_buffers) {
    pair both;
    enum { COUNT = 5000 }; /* more than one writev takes */
    static kolo_buffer buffers[COUNT];
    static uint8_t memory[COUNT * 3];
    pair_open(loop, &both);
    both.server.discard = true;
    pattern_fill(memory, sizeof memory, 0);
    for (int i = 0; i < COUNT; i++) {
        buffers[i].base = memory + 3 * i;
        buffers[i].len = 3;
    }
    CHECK(kolo_stream_write_owned(loop, both.client.stream, buffers, COUNT, note_done, NULL, NULL) >= 0);
    RUN_UNTIL(loop, both.server.received == sizeof memory && done_calls == 1);
    CHECK_OK(done_status[0]);
    pair_close(loop, &both);
}

TEST(an_owned_write_larger_than_every_buffer) {
    pair both;
    size_t length = 8 * MEGABYTE;
    uint8_t *memory = malloc(length);
    CHECK(memory != NULL);
    pair_open(loop, &both);
    both.server.discard = true;
    pattern_fill(memory, length, 0);
    kolo_buffer buffer = {memory, length};
    CHECK_INT(kolo_stream_write_owned(loop, both.client.stream, &buffer, 1, note_done, NULL, NULL), 1);
    RUN_UNTIL(loop, done_calls == 1);
    CHECK_OK(done_status[0]);
    free(memory); /* ours again from its completion on */
    RUN_UNTIL(loop, both.server.received == length);
    pair_close(loop, &both);
}

TEST(owned_and_copied_writes_keep_their_order) {
    pair both;
    static uint8_t memory[100][40];
    uint64_t offset = 0;
    pair_open(loop, &both);
    both.server.discard = true;
    for (int i = 0; i < 100; i++) {
        uint8_t copied[25];
        pattern_fill(copied, sizeof copied, offset);
        offset += sizeof copied;
        CHECK(kolo_stream_write(loop, both.client.stream, copied, sizeof copied) >= 0);
        pattern_fill(memory[i], sizeof memory[i], offset);
        offset += sizeof memory[i];
        kolo_buffer buffer = {memory[i], sizeof memory[i]};
        CHECK(kolo_stream_write_owned(loop, both.client.stream, &buffer, 1, NULL, NULL, NULL) >= 0);
    }
    RUN_UNTIL(loop, both.server.received == offset);
    pair_close(loop, &both);
}

TEST(an_empty_owned_write_completes_in_its_turn) {
    pair both;
    kolo_buffer empty = {NULL, 0}, full = {"abc", 3};
    pair_open(loop, &both);
    CHECK_INT(kolo_stream_write_owned(loop, both.client.stream, &full, 1, note_done, (void *)1, NULL), 0);
    CHECK_INT(kolo_stream_write_owned(loop, both.client.stream, &empty, 1, note_done, (void *)2, NULL), 0);
    CHECK_INT(kolo_stream_write_owned(loop, both.client.stream, NULL, 0, note_done, (void *)3, NULL), 0);
    CHECK_INT(kolo_stream_write_owned(loop, both.client.stream, &full, 1, note_done, (void *)4, NULL), 0);
    RUN_UNTIL(loop, done_calls == 4 && both.server.received == 6);
    for (int i = 0; i < 4; i++) {
        CHECK_INT(done_order[i], i + 1);
        CHECK_OK(done_status[i]);
    }
    pair_close(loop, &both);
}

typedef struct done_chain {
    int left;
    int calls;
} done_chain;

static void write_next(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    static kolo_buffer buffer = {"z", 1};
    done_chain *me = user;
    CHECK_OK(status);
    me->calls++;
    if (--me->left > 0) CHECK(kolo_stream_write_owned(loop, stream, &buffer, 1, write_next, me, NULL) >= 0);
}

TEST(writing_in_a_completion) {
    pair both;
    done_chain me = {200, 0};
    kolo_buffer buffer = {"z", 1};
    pair_open(loop, &both);
    CHECK(kolo_stream_write_owned(loop, both.client.stream, &buffer, 1, write_next, &me, NULL) >= 0);
    RUN_UNTIL(loop, both.server.received == 200);
    CHECK_INT(me.calls, 200);
    pair_close(loop, &both);
}

/* ---- cancellation ---- */

TEST(a_write_that_has_not_begun_can_be_cancelled) {
    half end;
    static uint8_t first[100000], third[100000];
    static uint8_t second[5000];
    uint64_t at = 0, writes[3] = {0};
    half_open(loop, &end);
    uint64_t written = fill_queue(loop, end.peer.stream, 1);
    pattern_fill(first, sizeof first, written);
    memset(second, 0xcc, sizeof second);
    pattern_fill(third, sizeof third, written + sizeof first);
    kolo_buffer buffers[3] = {{first, sizeof first}, {second, sizeof second}, {third, sizeof third}};
    for (int i = 0; i < 3; i++)
        CHECK(kolo_stream_write_owned(loop, end.peer.stream, &buffers[i], 1, note_done, (void *)(intptr_t)i, &writes[i]) >=
              0);
    size_t standing = queued_of(loop, end.peer.stream);
    CHECK_OK(kolo_stream_write_cancel(loop, end.peer.stream, writes[1]));
    CHECK_INT(done_calls, 0);
    CHECK_INT(queued_of(loop, end.peer.stream), standing - sizeof second);
    CHECK_ERROR(kolo_stream_write_cancel(loop, end.peer.stream, writes[1]), KOLO_ENOENT); /* once is enough */
    RUN_UNTIL(loop, done_calls >= 1);
    written += sizeof first + sizeof third;
    drain_pattern(loop, end.socket, &at, written); /* the others arrive, the second does not */
    RUN_UNTIL(loop, done_calls == 3);
    int cancelled = 0;
    for (int i = 0; i < 3; i++) {
        if (done_order[i] == 1) {
            CHECK_ERROR(done_status[i], KOLO_ECANCELED);
            cancelled++;
        } else {
            CHECK_OK(done_status[i]);
        }
    }
    CHECK_INT(cancelled, 1);
    CHECK_ERROR(kolo_stream_write_cancel(loop, end.peer.stream, writes[0]), KOLO_ENOENT); /* finished */
    half_close(loop, &end);
}

TEST(a_write_that_has_begun_cannot_be_cancelled) {
    half end;
    size_t length = 8 * MEGABYTE;
    uint8_t *memory = malloc(length);
    uint64_t at = 0, write = 0;
    CHECK(memory != NULL);
    half_open(loop, &end);
    pattern_fill(memory, length, 0);
    kolo_buffer buffer = {memory, length};
    CHECK(kolo_stream_write_owned(loop, end.peer.stream, &buffer, 1, note_done, NULL, &write) >= 0);
    run_some_turns(loop); /* the system's buffers hold a part of it now */
    CHECK(queued_of(loop, end.peer.stream) < length);
    CHECK_ERROR(kolo_stream_write_cancel(loop, end.peer.stream, write), KOLO_EBUSY);
    drain_pattern(loop, end.socket, &at, length);
    RUN_UNTIL(loop, done_calls == 1);
    CHECK_OK(done_status[0]);
    CHECK_ERROR(kolo_stream_write_cancel(loop, end.peer.stream, write), KOLO_ENOENT);
    free(memory);
    half_close(loop, &end);
}

TEST(a_write_that_never_was_cannot_be_cancelled) {
    half end;
    half_open(loop, &end);
    CHECK_ERROR(kolo_stream_write_cancel(loop, end.peer.stream, 0), KOLO_ENOENT);
    CHECK_ERROR(kolo_stream_write_cancel(loop, end.peer.stream, 12345), KOLO_ENOENT);
    CHECK_ERROR(kolo_stream_write_cancel(loop, end.peer.stream, UINT64_MAX), KOLO_ENOENT);
    half_close(loop, &end);
}

TEST(cancelling_before_the_connection) {
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, 4, &bound);
    peer client;
    kolo_stream_handler handler = peer_handler();
    kolo_buffer buffer = {"no", 2};
    uint64_t write = 0;
    memset(&client, 0, sizeof client);
    CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &client, &client.stream));
    CHECK_INT(kolo_stream_write_owned(loop, client.stream, &buffer, 1, note_done, NULL, &write), 0);
    CHECK_INT(kolo_stream_write(loop, client.stream, "yes", 3), 0);
    CHECK_OK(kolo_stream_write_cancel(loop, client.stream, write));
    RUN_UNTIL(loop, client.opened && done_calls == 1);
    CHECK_ERROR(done_status[0], KOLO_ECANCELED);
    CHECK_OK(kolo_stream_shutdown(loop, client.stream, note_done, NULL));
    RUN_UNTIL(loop, done_calls == 2);
    int socket = raw_accept(listener);
    char text[8] = "";
    raw_read_exactly(socket, text, 3);
    CHECK_STRING(text, "yes");
    CHECK_INT(recv(socket, text, 1, 0), 0);
    CHECK_OK(kolo_close(loop, client.stream));
    run_to_end(loop);
    raw_close(&socket);
    raw_close(&listener);
    peer_free(&client);
}

/* ---- closing ---- */

typedef struct closing {
    int done;
    int closed;
    int wrong_order;
} closing;

static void done_before_close(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    (void)loop, (void)stream;
    closing *me = user;
    CHECK_ERROR(status, KOLO_ECANCELED);
    if (me->closed) me->wrong_order++;
    me->done++;
}

static void note_closing(kolo_loop *loop, kolo_stream stream, void *user) {
    (void)loop, (void)stream;
    ((closing *)user)->closed++;
}

static void queue_some(kolo_loop *loop, kolo_stream stream, closing *me, int count) {
    static uint8_t memory[10000];
    kolo_buffer buffer = {memory, sizeof memory};
    for (int i = 0; i < count; i++)
        CHECK(kolo_stream_write_owned(loop, stream, &buffer, 1, done_before_close, me, NULL) >= 0);
}

static void close_with_writes_pending(kolo_loop *loop, int (*end_it)(kolo_loop *, kolo_stream)) {
    half end;
    closing me = {0, 0, 0};
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_close = note_closing;
    half_open(loop, &end);
    fill_queue(loop, end.peer.stream, 100000);
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &me));
    queue_some(loop, end.peer.stream, &me, 20);
    CHECK_OK(kolo_stream_shutdown(loop, end.peer.stream, done_before_close, &me));
    CHECK_OK(end_it(loop, end.peer.stream));
    CHECK_INT(me.done, 0); /* callbacks never run inside the call that causes them */
    CHECK_INT(me.closed, 0);
    run_to_end(loop);
    CHECK_INT(me.done, 21);
    CHECK_INT(me.closed, 1);
    CHECK_INT(me.wrong_order, 0);
    raw_close(&end.socket);
    peer_free(&end.peer);
}

TEST(close_completes_pending_writes_with_ecanceled_first) { close_with_writes_pending(loop, kolo_close); }
TEST(reset_completes_pending_writes_with_ecanceled_first) { close_with_writes_pending(loop, kolo_stream_reset); }

TEST_WITHOUT_LOOP(loop_free_completes_pending_writes_first) {
    kolo_loop *loop = NULL;
    half end;
    closing me = {0, 0, 0};
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_close = note_closing;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    half_open(loop, &end);
    fill_queue(loop, end.peer.stream, 100000);
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &me));
    queue_some(loop, end.peer.stream, &me, 20);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(me.done, 20);
    CHECK_INT(me.closed, 1);
    CHECK_INT(me.wrong_order, 0);
    raw_close(&end.socket);
    peer_free(&end.peer);
}

TEST(writes_that_fail_complete_with_the_error) {
    half end;
    half_open(loop, &end);
    fill_queue(loop, end.peer.stream, 1);
    static uint8_t memory[1000];
    kolo_buffer buffer = {memory, sizeof memory};
    for (intptr_t i = 0; i < 5; i++)
        CHECK(kolo_stream_write_owned(loop, end.peer.stream, &buffer, 1, note_done, (void *)i, NULL) >= 0);
    struct linger hard = {1, 0};
    SYSTEM(setsockopt(end.socket, SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
    raw_close(&end.socket); /* a reset */
    run_to_end(loop);
    CHECK_INT(end.peer.errors, 1);
    CHECK(end.peer.last_error == KOLO_ECONNRESET || end.peer.last_error == KOLO_EPIPE);
    CHECK_INT(end.peer.closed, 1);
    CHECK_INT(done_calls, 5);
    for (int i = 0; i < 5; i++) {
        CHECK_INT(done_order[i], i);
        CHECK(done_status[i] == end.peer.last_error || done_status[i] == KOLO_ECANCELED);
    }
    half_close(loop, &end);
}

/* A handler that closes a stream, itself or another, in one of its callbacks. */
typedef struct closer {
    kolo_stream victim;
    const char *in;
    int calls;
    int closed;
    int after; /* callbacks heard after the close */
    bool did;
} closer;

static void closer_act(kolo_loop *loop, closer *me, const char *callback) {
    if (me->did) {
        me->after++;
        return;
    }
    if (strcmp(callback, me->in) != 0) return;
    me->calls++;
    me->did = true;
    CHECK_OK(kolo_close(loop, me->victim));
    CHECK_ERROR(kolo_stream_write(loop, me->victim, "x", 1), KOLO_EBADF);
}
static void closer_open(kolo_loop *loop, kolo_stream stream, void *user) {
    ((closer *)user)->victim = stream;
    closer_act(loop, user, "open");
}
static void closer_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    (void)stream;
    uint8_t before = data[length - 1];
    closer_act(loop, user, "data");
    CHECK_INT(data[length - 1], before); /* valid for the whole callback, also after the close */
}
static void closer_end(kolo_loop *loop, kolo_stream stream, void *user) {
    (void)stream;
    closer_act(loop, user, "end");
}
static void closer_drain(kolo_loop *loop, kolo_stream stream, void *user) {
    (void)stream;
    closer_act(loop, user, "drain");
}
static void closer_timeout(kolo_loop *loop, kolo_stream stream, int which, void *user) {
    (void)stream, (void)which;
    closer_act(loop, user, "timeout");
}
static void closer_error(kolo_loop *loop, kolo_stream stream, int error, void *user) {
    (void)stream, (void)error;
    closer_act(loop, user, "error");
}
static void closer_close(kolo_loop *loop, kolo_stream stream, void *user) {
    (void)loop, (void)stream;
    ((closer *)user)->closed++;
}
static void closer_done(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    (void)stream, (void)status;
    closer *me = user;
    if (!me->did) closer_act(loop, me, "done");
}

static kolo_stream_handler closer_handler(void) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_open = closer_open;
    handler.on_data = closer_data;
    handler.on_end = closer_end;
    handler.on_drain = closer_drain;
    handler.on_timeout = closer_timeout;
    handler.on_error = closer_error;
    handler.on_close = closer_close;
    return handler;
}

TEST(closing_itself_in_each_callback) {
    static const char *const callbacks[] = {"data", "end", "drain", "timeout", "error", "done"};
    for (size_t i = 0; i < sizeof callbacks / sizeof callbacks[0]; i++) {
        half end;
        closer me;
        kolo_stream_handler handler = closer_handler();
        kolo_buffer buffer = {"x", 1};
        memset(&me, 0, sizeof me);
        half_open(loop, &end);
        me.victim = end.peer.stream;
        me.in = callbacks[i];
        CHECK_OK(kolo_stream_attach(loop, me.victim, &handler, &me));
        uint64_t at = 0, written = 0;
        struct linger hard = {1, 0};
        switch (i) {
        case 0: raw_write_all(end.socket, "data", 4); break;
        case 1: SYSTEM(shutdown(end.socket, SHUT_WR)); break;
        case 2:
            CHECK_OK(kolo_stream_set_watermarks(loop, me.victim, 100, 1000, 64 * MEGABYTE));
            written = fill_queue(loop, me.victim, 2000);
            drain_pattern(loop, end.socket, &at, written);
            break;
        case 3: CHECK_OK(kolo_stream_set_timeouts(loop, me.victim, MILLISECONDS(5), 0)); break;
        case 4:
            SYSTEM(setsockopt(end.socket, SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
            raw_close(&end.socket);
            break;
        default: CHECK(kolo_stream_write_owned(loop, me.victim, &buffer, 1, closer_done, &me, NULL) >= 0);
        }
        run_to_end(loop);
        CHECK_INT(me.calls, 1);
        CHECK_INT(me.after, 0);
        CHECK_INT(me.closed, 1);
        raw_close(&end.socket);
        peer_free(&end.peer);
    }
}

TEST(closing_itself_in_on_open) {
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, 4, &bound);
    closer me;
    kolo_stream_handler handler = closer_handler();
    memset(&me, 0, sizeof me);
    me.in = "open";
    CHECK_OK(kolo_tcp_connect(loop, &bound, NULL, &handler, &me, &me.victim));
    run_to_end(loop);
    CHECK_INT(me.calls, 1);
    CHECK_INT(me.after, 0);
    CHECK_INT(me.closed, 1);
    raw_close(&listener);
}

TEST(closing_a_neighbour_with_data_pending_in_the_same_turn) {
    /* Both have data when the turn begins; whichever is heard first closes the other, which is then silent. */
    half ends[2];
    closer closers[2];
    kolo_stream_handler handler = closer_handler();
    for (int i = 0; i < 2; i++) {
        half_open(loop, &ends[i]);
        memset(&closers[i], 0, sizeof closers[i]);
        closers[i].in = "data";
        CHECK_OK(kolo_stream_attach(loop, ends[i].peer.stream, &handler, &closers[i]));
    }
    run_some_turns(loop);
    closers[0].victim = ends[1].peer.stream;
    closers[1].victim = ends[0].peer.stream;
    raw_write_all(ends[0].socket, "a", 1);
    raw_write_all(ends[1].socket, "b", 1);
    RUN_UNTIL(loop, closers[0].calls + closers[1].calls > 0);
    run_some_turns(loop);
    CHECK_INT(closers[0].calls + closers[1].calls, 1);
    CHECK_INT(closers[0].closed + closers[1].closed, 1);
    int open = closers[0].closed ? 1 : 0;
    CHECK_INT(closers[1 - open].calls, 0);
    CHECK_OK(kolo_close(loop, ends[open].peer.stream));
    run_to_end(loop);
    for (int i = 0; i < 2; i++) raw_close(&ends[i].socket);
}

TEST(reset_gives_the_peer_econnreset) {
    pair both;
    pair_open(loop, &both);
    CHECK_OK(kolo_stream_reset(loop, both.server.stream));
    CHECK_ERROR(kolo_stream_reset(loop, both.server.stream), KOLO_EBADF);
    RUN_UNTIL(loop, both.client.closed);
    CHECK_INT(both.client.errors, 1);
    CHECK_ERROR(both.client.last_error, KOLO_ECONNRESET);
    CHECK_INT(both.client.ended, 0);
    CHECK_INT(both.server.closed, 1);
    CHECK_INT(both.server.errors, 0); /* the one that resets hears on_close only */
    pair_close(loop, &both);
}

static void misuse_in_error(kolo_loop *loop, kolo_stream stream, int error, void *user) {
    kolo_buffer buffer = {"x", 1};
    (void)error;
    CHECK_ERROR(kolo_stream_write(loop, stream, "x", 1), KOLO_ENOTCONN);
    CHECK_ERROR(kolo_stream_write_owned(loop, stream, &buffer, 1, note_done, NULL, NULL), KOLO_ENOTCONN);
    CHECK_ERROR(kolo_stream_read_start(loop, stream), KOLO_ENOTCONN);
    CHECK_ERROR(kolo_stream_shutdown(loop, stream, note_done, NULL), KOLO_ENOTCONN);
    ((closing *)user)->done++;
}

TEST(a_broken_stream_takes_nothing_more) {
    half end;
    closing me = {0, 0, 0};
    kolo_stream_handler handler = peer_handler();
    struct linger hard = {1, 0};
    half_open(loop, &end);
    handler.on_error = misuse_in_error;
    handler.on_close = note_closing;
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &me));
    SYSTEM(setsockopt(end.socket, SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
    raw_close(&end.socket);
    run_to_end(loop);
    CHECK_INT(me.done, 1);
    CHECK_INT(me.closed, 1);
    CHECK_INT(done_calls, 0);
}

TEST(an_error_without_a_handler_closes_the_stream) {
    half end;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    closing me = {0, 0, 0};
    handler.on_close = note_closing;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_attach(loop, end.peer.stream, &handler, &me));
    fill_queue(loop, end.peer.stream, 1);
    struct linger hard = {1, 0};
    SYSTEM(setsockopt(end.socket, SOL_SOCKET, SO_LINGER, &hard, sizeof hard));
    raw_close(&end.socket);
    run_to_end(loop);
    CHECK_INT(me.closed, 1);
    peer_free(&end.peer);
}

TEST(sigpipe_never_kills) {
    half end;
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    half_open(loop, &end);
    CHECK_OK(kolo_stream_read_stop(loop, end.peer.stream)); /* so that writing finds it out */
    raw_close(&end.socket);
    for (int i = 0; i < 100 && !end.peer.closed; i++) {
        if (kolo_stream_write(loop, end.peer.stream, "into the void", 13) < 0) break;
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) >= 0);
    }
    run_to_end(loop);
    CHECK_INT(end.peer.errors, 1);
    CHECK(end.peer.last_error == KOLO_EPIPE || end.peer.last_error == KOLO_ECONNRESET);
    CHECK_INT(end.peer.closed, 1);
    half_close(loop, &end);
}

/* ---- timeouts ---- */

TEST(a_read_idle_timeout_counts_anew) {
    half end;
    half_open(loop, &end);
    uint64_t idle = MILLISECONDS(10), start = clock_ns();
    CHECK_OK(kolo_stream_set_timeouts(loop, end.peer.stream, idle, 0));
    RUN_UNTIL(loop, end.peer.timeouts == 1);
    CHECK(clock_ns() >= start + idle);
    CHECK_INT(end.peer.last_timeout, KOLO_TIMEOUT_READ);
    RUN_UNTIL(loop, end.peer.timeouts == 3);
    CHECK(clock_ns() >= start + 3 * idle);
    CHECK_INT(end.peer.errors, 0);
    CHECK_OK(kolo_stream_set_timeouts(loop, end.peer.stream, 0, 0)); /* none any more */
    int before = end.peer.timeouts;
    busy_wait_ns(2 * idle);
    run_some_turns(loop);
    CHECK_INT(end.peer.timeouts, before);
    half_close(loop, &end);
}

TEST(data_puts_the_read_idle_timeout_off) {
    half end;
    uint64_t idle = MILLISECONDS(40), last = 0;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_set_timeouts(loop, end.peer.stream, idle, 0));
    for (size_t i = 1; i <= 10; i++) {
        int timeouts = end.peer.timeouts;
        busy_wait_ns(idle / 4);
        last = clock_ns();
        raw_write_all(end.socket, "x", 1);
        RUN_UNTIL(loop, end.peer.received == i);
        if (end.peer.timeouts != timeouts) break; /* the machine was too slow for this test's beat: try the next part */
    }
    int before = end.peer.timeouts;
    RUN_UNTIL(loop, end.peer.timeouts > before);
    CHECK(clock_ns() >= last + idle);
    half_close(loop, &end);
}

TEST(without_on_timeout_it_is_an_error) {
    half end;
    peer me;
    kolo_stream_handler handler = peer_handler();
    handler.on_timeout = NULL;
    memset(&me, 0, sizeof me);
    half_open(loop, &end);
    me.stream = end.peer.stream;
    CHECK_OK(kolo_stream_attach(loop, me.stream, &handler, &me));
    CHECK_OK(kolo_stream_set_timeouts(loop, me.stream, MILLISECONDS(5), 0));
    run_to_end(loop);
    CHECK_INT(me.errors, 1);
    CHECK_ERROR(me.last_error, KOLO_ETIMEDOUT);
    CHECK_INT(me.closed, 1);
    raw_close(&end.socket);
}

TEST(a_write_stall_timeout_when_the_peer_does_not_read) {
    half end;
    uint64_t stall = MILLISECONDS(10);
    half_open(loop, &end);
    fill_queue(loop, end.peer.stream, 1000);
    uint64_t start = clock_ns();
    CHECK_OK(kolo_stream_set_timeouts(loop, end.peer.stream, 0, stall));
    RUN_UNTIL(loop, end.peer.timeouts == 1);
    CHECK(clock_ns() >= start + stall);
    CHECK_INT(end.peer.last_timeout, KOLO_TIMEOUT_WRITE);
    RUN_UNTIL(loop, end.peer.timeouts == 2);
    half_close(loop, &end);
}

static void count_timer(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    ++*(int *)user;
}

TEST(no_write_stall_timeout_without_a_queue) {
    half end;
    kolo_timer timer = 0;
    int fired = 0;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_set_timeouts(loop, end.peer.stream, 0, MILLISECONDS(2)));
    CHECK(kolo_stream_write(loop, end.peer.stream, "goes at once", 12) >= 0);
    CHECK_OK(kolo_timer_open(loop, count_timer, &fired, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(30), 0));
    RUN_UNTIL(loop, fired == 1);
    CHECK_INT(end.peer.timeouts, 0);
    half_close(loop, &end);
}

typedef struct late_write {
    kolo_stream stream;
    uint64_t written_at, stall;
    bool fired, early;
} late_write;

static void busy_then_write(kolo_loop *loop, kolo_timer timer, void *user) {
    static uint8_t block[8 * 1024 * 1024];
    late_write *me = user;
    (void)timer;
    busy_wait_ns(4 * me->stall);
    me->written_at = clock_ns();
    CHECK(kolo_stream_write(loop, me->stream, block, sizeof block) >= 0);
}

static void note_stall(kolo_loop *loop, kolo_stream stream, int which, void *user) {
    late_write *me = user;
    (void)loop, (void)stream;
    CHECK_INT(which, KOLO_TIMEOUT_WRITE);
    if (!me->fired) me->early = clock_ns() < me->written_at + me->stall;
    me->fired = true;
}

TEST(a_write_stall_counts_from_the_write_not_from_the_turn) {
    /* The callback took long before it wrote; the peer gets its whole time all the same. */
    half end;
    late_write me = {0, 0, MILLISECONDS(20), false, false};
    kolo_stream_handler handler = peer_handler();
    kolo_timer timer = 0;
    half_open(loop, &end);
    handler.on_timeout = note_stall;
    handler.on_close = NULL;
    me.stream = end.peer.stream;
    CHECK_OK(kolo_stream_set_timeouts(loop, me.stream, 0, me.stall));
    CHECK_OK(kolo_stream_attach(loop, me.stream, &handler, &me));
    CHECK_OK(kolo_timer_open(loop, busy_then_write, &me, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, 0, 0));
    RUN_UNTIL(loop, me.fired);
    CHECK(!me.early);
    CHECK_OK(kolo_close(loop, me.stream));
    run_to_end(loop);
    raw_close(&end.socket);
}

TEST(timeouts_beyond_all_time) {
    half end;
    kolo_timer timer = 0;
    int fired = 0;
    half_open(loop, &end);
    CHECK_OK(kolo_stream_set_timeouts(loop, end.peer.stream, UINT64_MAX, UINT64_MAX));
    CHECK_OK(kolo_timer_open(loop, count_timer, &fired, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(5), 0));
    RUN_UNTIL(loop, fired == 1);
    CHECK_INT(end.peer.timeouts, 0);
    half_close(loop, &end);
}

/* ---- fairness ---- */

static pthread_t flooding;
static int flood_ended;

static void *flood(void *argument) {
    static uint8_t block[65536];
    int socket = *(int *)argument;
    while (!__atomic_load_n(&flood_ended, __ATOMIC_ACQUIRE))
        if (send(socket, block, sizeof block, MSG_NOSIGNAL) < 0) break;
    return NULL;
}

static void drop_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    (void)loop, (void)stream, (void)data;
    *(uint64_t *)user += length;
}

TEST(a_flooding_stream_does_not_starve_its_neighbours) {
    half loud, quiet;
    uint64_t flooded = 0;
    int fired = 0;
    kolo_timer timer = 0;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_data = drop_data;
    half_open(loop, &loud);
    half_open(loop, &quiet);
    CHECK_OK(kolo_stream_attach(loop, loud.peer.stream, &handler, &flooded));
    CHECK_INT(pthread_create(&flooding, NULL, flood, &loud.socket), 0);
    RUN_UNTIL(loop, flooded > MEGABYTE);
    CHECK_OK(kolo_timer_open(loop, count_timer, &fired, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, MILLISECONDS(1), MILLISECONDS(1)));
    for (size_t i = 1; i <= 20; i++) {
        raw_write_all(quiet.socket, "q", 1);
        RUN_UNTIL(loop, quiet.peer.received == i);
    }
    RUN_UNTIL(loop, fired >= 10);
    CHECK_OK(kolo_close(loop, loud.peer.stream));
    __atomic_store_n(&flood_ended, 1, __ATOMIC_RELEASE);
    run_some_turns(loop);
    CHECK_INT(pthread_join(flooding, NULL), 0);
    raw_close(&loud.socket);
    half_close(loop, &quiet);
}
