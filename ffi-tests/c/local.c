/* Unix-domain sockets: listening and connecting by path and by abstract name, who is at the other end, adopting and
 * releasing, descriptors and whole handles passed from process to process. */
#include "harness.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

/* ---- a folder of the test's own ---- */
static char folder[64], path[96];

static void make_folder(void) {
    strcpy(folder, "/tmp/kolo-local-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/socket", folder);
}

static void remove_folder(void) {
    unlink(path);
    SYSTEM(rmdir(folder));
}

static bool is_socket(const char *at) {
    struct stat found;
    return lstat(at, &found) == 0 && S_ISSOCK(found.st_mode);
}

/* A blocking client of the system's. */
static int plain_connect(const char *at) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor = SYSTEM(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    snprintf(address.sun_path, sizeof address.sun_path, "%s", at);
    SYSTEM(connect(descriptor, (struct sockaddr *)&address, sizeof address));
    return descriptor;
}

static int plain_listen(const char *at) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int descriptor = SYSTEM(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    snprintf(address.sun_path, sizeof address.sun_path, "%s", at);
    SYSTEM(bind(descriptor, (struct sockaddr *)&address, sizeof address));
    SYSTEM(listen(descriptor, 8));
    return descriptor;
}

/* ---- a listener that records ---- */
typedef struct server {
    peer peer; /* the last accepted */
    int accepted, errors, closed, last_error;
} server;

static void server_accept(kolo_loop *loop, kolo_listener listener, kolo_stream stream, void *user) {
    server *me = user;
    kolo_stream_handler handler = peer_handler();
    (void)listener;
    CHECK_INT(kolo_kind_of(loop, stream), KOLO_KIND_LOCAL);
    me->accepted++;
    me->peer.loop = loop;
    me->peer.stream = stream;
    CHECK_OK(kolo_stream_attach(loop, stream, &handler, &me->peer));
}
static void server_error(kolo_loop *loop, kolo_listener listener, int error, void *user) {
    server *me = user;
    (void)loop, (void)listener;
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

static kolo_listener listen_at(kolo_loop *loop, const char *name, size_t length, server *me) {
    kolo_listener_handler handler = server_handler();
    kolo_listener listener = 0;
    memset(me, 0, sizeof *me);
    CHECK_OK(kolo_local_listen(loop, name, length, NULL, &handler, me, &listener));
    CHECK_INT(kolo_kind_of(loop, listener), KOLO_KIND_LOCAL_LISTENER);
    return listener;
}

static void connect_to(kolo_loop *loop, const char *name, size_t length, peer *client) {
    kolo_stream_handler handler = peer_handler();
    memset(client, 0, sizeof *client);
    client->loop = loop;
    CHECK_OK(kolo_local_connect(loop, name, length, NULL, &handler, client, &client->stream));
    CHECK_INT(client->opened, 0); /* never inside the call */
}

static void finish(kolo_loop *loop, peer *client, server *me) {
    if (!client->closed) CHECK_OK(kolo_close(loop, client->stream));
    if (me->accepted && !me->peer.closed) CHECK_OK(kolo_close(loop, me->peer.stream));
    run_some_turns(loop);
    peer_free(client);
    peer_free(&me->peer);
}

/* ---- by name ---- */
TEST(by_path) {
    server me;
    peer client;
    char name[128];
    size_t length = 0;
    make_folder();
    kolo_listener listener = listen_at(loop, path, strlen(path), &me);
    CHECK(is_socket(path));
    CHECK_OK(kolo_local_name(loop, listener, name, sizeof name, &length));
    CHECK_STRING(name, path);
    CHECK_INT(length, strlen(path));
    connect_to(loop, path, strlen(path), &client);
    CHECK_INT(kolo_stream_write(loop, client.stream, "early ", 6), 0);
    RUN_UNTIL(loop, client.opened && me.accepted);
    CHECK_INT(kolo_stream_write(loop, client.stream, "bird", 4), 0);
    RUN_UNTIL(loop, me.peer.received == 10);
    CHECK_RECEIVED(&me.peer, "early bird");
    CHECK_OK(kolo_local_peer_name(loop, client.stream, name, sizeof name, &length));
    CHECK_STRING(name, path);
    CHECK_OK(kolo_local_name(loop, me.peer.stream, name, sizeof name, &length));
    CHECK_STRING(name, path);
    CHECK_OK(kolo_local_peer_name(loop, me.peer.stream, name, sizeof name, &length));
    CHECK_INT(length, 0);
    CHECK_STRING(name, "");
    /* Room for the name, and for the zero behind it. */
    CHECK_ERROR(kolo_local_name(loop, listener, name, strlen(path), &length), KOLO_ENOBUFS);
    CHECK_OK(kolo_local_name(loop, listener, name, strlen(path) + 1, &length));
    CHECK_ERROR(kolo_local_name(loop, listener, NULL, sizeof name, &length), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_name(loop, listener, name, sizeof name, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_peer_name(loop, client.stream, NULL, 9, &length), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_peer_name(loop, client.stream, name, 9, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_peer_name(loop, client.stream, name, 0, &length), KOLO_ENOBUFS);
    finish(loop, &client, &me);
    CHECK_OK(kolo_close(loop, listener));
    CHECK(!is_socket(path));
    run_to_end(loop);
    CHECK_INT(me.closed, 1);
    remove_folder();
}

TEST(by_abstract_name) {
    server me;
    peer client;
    char name[64] = "", got[128];
    size_t length = 0;
    size_t given = 1 + (size_t)snprintf(name + 1, sizeof name - 1, "kolo test %d", (int)getpid());
    name[given++] = 0; /* zero bytes count */
    name[given++] = 'x';
    kolo_listener listener = listen_at(loop, name, given, &me);
    connect_to(loop, name, given, &client);
    RUN_UNTIL(loop, client.opened && me.accepted);
    CHECK_OK(kolo_local_peer_name(loop, client.stream, got, sizeof got, &length));
    CHECK_INT(length, given);
    CHECK(memcmp(got, name, given) == 0);
    finish(loop, &client, &me);
    CHECK_OK(kolo_close(loop, listener));
    run_to_end(loop);
}

TEST(names_that_cannot_be) {
    char text[256];
    kolo_stream_handler handler = peer_handler();
    kolo_listener_handler listening = server_handler();
    kolo_handle out = 77;
    memset(text, 'a', sizeof text);
    CHECK_ERROR(kolo_local_connect(loop, text, sizeof text, NULL, &handler, NULL, &out), KOLO_ENAMETOOLONG);
    CHECK_ERROR(kolo_local_listen(loop, text, sizeof text, NULL, &listening, NULL, &out), KOLO_ENAMETOOLONG);
    text[0] = 0;
    CHECK_ERROR(kolo_local_connect(loop, text, 109, NULL, &handler, NULL, &out), KOLO_ENAMETOOLONG);
    CHECK_ERROR(kolo_local_connect(loop, text, 0, NULL, &handler, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_connect(loop, NULL, 0, NULL, &handler, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_connect(loop, NULL, 5, NULL, &handler, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_connect(loop, "a\0b", 3, NULL, &handler, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_listen(loop, "a\0b", 3, NULL, &listening, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_listen(loop, NULL, 0, NULL, &listening, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_listen(loop, "/no/such/place", 14, NULL, &listening, NULL, &out), KOLO_ENOENT);
    CHECK_INT(out, 77);
    run_to_end(loop);
}

TEST(what_the_system_says_comes_to_on_error) {
    peer client;
    make_folder();
    connect_to(loop, path, strlen(path), &client);
    run_to_end(loop);
    CHECK_INT(client.errors, 1);
    CHECK_ERROR(client.last_error, KOLO_ENOENT);
    CHECK_INT(client.closed, 1);
    int listener = plain_listen(path);
    raw_close(&listener);
    connect_to(loop, path, strlen(path), &client);
    run_to_end(loop);
    CHECK_ERROR(client.last_error, KOLO_ECONNREFUSED);
    remove_folder();
}

TEST(connecting_takes_no_longer_than_the_timeout) {
    int waiting[2];
    peer client;
    kolo_stream_handler handler = peer_handler();
    kolo_local_connect_options options = KOLO_LOCAL_CONNECT_OPTIONS_INIT;
    int64_t process;
    uint32_t user, group;
    make_folder();
    int full = plain_listen(path);
    SYSTEM(listen(full, 1));
    for (int i = 0; i < 2; i++) waiting[i] = plain_connect(path);
    memset(&client, 0, sizeof client);
    options.timeout_ns = MILLISECONDS(20);
    uint64_t began = clock_ns();
    CHECK_OK(kolo_local_connect(loop, path, strlen(path), &options, &handler, &client, &client.stream));
    CHECK_ERROR(kolo_local_peer_credentials(loop, client.stream, &process, &user, &group), KOLO_ENOTCONN);
    run_to_end(loop);
    CHECK(clock_ns() - began >= MILLISECONDS(20));
    CHECK_ERROR(client.last_error, KOLO_ETIMEDOUT);
    for (int i = 0; i < 2; i++) raw_close(&waiting[i]);
    raw_close(&full);
    remove_folder();
}

/* ---- the socket file ---- */
TEST(options_of_listening) {
    kolo_listener_handler handler = server_handler();
    kolo_local_listen_options options = KOLO_LOCAL_LISTEN_OPTIONS_INIT;
    kolo_listener listener = 0;
    server me;
    struct stat found;
    memset(&me, 0, sizeof me);
    make_folder();
    options.mode = 0600;
    options.backlog = 3;
    options.accepts_per_turn = 2;
    options.accept_policy = KOLO_ACCEPT_REJECT;
    options.retry_min_ns = MILLISECONDS(1);
    CHECK_OK(kolo_local_listen(loop, path, strlen(path), &options, &handler, &me, &listener));
    SYSTEM(lstat(path, &found));
    CHECK_INT(found.st_mode & 07777, 0600);
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), NULL, &handler, &me, &listener), KOLO_EADDRINUSE);
    options.replace_stale = true; /* this one is alive */
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), &options, &handler, &me, &listener), KOLO_EADDRINUSE);
    RUN_UNTIL(loop, me.accepted == 1); /* which was found out by connecting */
    run_some_turns(loop);
    CHECK_OK(kolo_close(loop, me.peer.stream));
    CHECK_OK(kolo_close(loop, listener));
    run_to_end(loop);

    int stale = plain_listen(path);
    raw_close(&stale);
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), NULL, &handler, &me, &listener), KOLO_EADDRINUSE);
    options.keep_file = true;
    CHECK_OK(kolo_local_listen(loop, path, strlen(path), &options, &handler, &me, &listener));
    CHECK_OK(kolo_close(loop, listener));
    CHECK(is_socket(path));

    kolo_local_listen_options wrong = KOLO_LOCAL_LISTEN_OPTIONS_INIT;
    SYSTEM(unlink(path));
    wrong.mode = 010000;
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), &wrong, &handler, &me, &listener), KOLO_EINVAL);
    wrong.mode = 0;
    wrong.accept_policy = 9;
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), &wrong, &handler, &me, &listener), KOLO_EINVAL);
    wrong.accept_policy = 0;
    wrong.retry_min_ns = 2;
    wrong.retry_max_ns = 1;
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), &wrong, &handler, &me, &listener), KOLO_EINVAL);
    wrong.retry_min_ns = 0;
    wrong.size = 3;
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), &wrong, &handler, &me, &listener), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), NULL, NULL, &me, &listener), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_listen(loop, path, strlen(path), NULL, &handler, &me, NULL), KOLO_EINVAL);
    CHECK(!is_socket(path));
    run_to_end(loop);
    peer_free(&me.peer);
    remove_folder();
}

TEST(pausing_and_resuming_is_as_with_every_listener) {
    server me;
    make_folder();
    kolo_listener listener = listen_at(loop, path, strlen(path), &me);
    CHECK_OK(kolo_listener_pause(loop, listener));
    int client = plain_connect(path);
    run_some_turns(loop);
    CHECK_INT(me.accepted, 0);
    CHECK_OK(kolo_listener_resume(loop, listener));
    RUN_UNTIL(loop, me.accepted == 1);
    kolo_address address;
    CHECK_ERROR(kolo_listener_address(loop, listener, &address), KOLO_EBADF);
    CHECK_OK(kolo_close(loop, me.peer.stream));
    CHECK_OK(kolo_close(loop, listener));
    run_to_end(loop);
    peer_free(&me.peer);
    raw_close(&client);
    remove_folder();
}

static void close_in_accept(kolo_loop *loop, kolo_listener listener, kolo_stream stream, void *user) {
    (void)stream;
    ++*(int *)user;
    CHECK_OK(kolo_close(loop, listener));
    CHECK_ERROR(kolo_close(loop, listener), KOLO_EBADF);
}

TEST(closing_in_its_own_callback) {
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    kolo_listener listener = 0;
    int accepted = 0;
    make_folder();
    handler.on_accept = close_in_accept;
    CHECK_OK(kolo_local_listen(loop, path, strlen(path), NULL, &handler, &accepted, &listener));
    int client = plain_connect(path);
    run_to_end(loop);
    CHECK_INT(accepted, 1);
    raw_close(&client);
    remove_folder();
}

/* ---- who is there; pairs; adopting and releasing ---- */
TEST(who_is_at_the_other_end) {
    peer one, other;
    kolo_stream_handler handler = peer_handler();
    int64_t process = 0;
    uint32_t user = 77, group = 77;
    kolo_socket socket = -1;
    memset(&one, 0, sizeof one);
    memset(&other, 0, sizeof other);
    CHECK_OK(kolo_local_pair(loop, &handler, &one, &handler, &other, &one.stream, &other.stream));
    CHECK_OK(kolo_local_peer_credentials(loop, one.stream, &process, &user, &group));
    CHECK_INT(process, getpid());
    CHECK_INT(user, geteuid());
    CHECK_INT(group, getegid());
    CHECK_ERROR(kolo_local_peer_credentials(loop, one.stream, NULL, &user, &group), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_peer_credentials(loop, one.stream, &process, NULL, &group), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_peer_credentials(loop, one.stream, &process, &user, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_local_set_buffers(loop, one.stream, 50000, 0));
    CHECK_OK(kolo_local_socket(loop, one.stream, &socket));
    CHECK(raw_option((int)socket, SOL_SOCKET, SO_SNDBUF) >= 50000);
    CHECK_ERROR(kolo_local_socket(loop, one.stream, NULL), KOLO_EINVAL);
    CHECK_INT(kolo_stream_write(loop, one.stream, "over", 4), 0);
    RUN_UNTIL(loop, other.received == 4);
    CHECK_OK(kolo_close(loop, one.stream));
    RUN_UNTIL(loop, other.ended);
    CHECK_OK(kolo_close(loop, other.stream));
    run_to_end(loop);
    peer_free(&one);
    peer_free(&other);

    kolo_local local;
    CHECK_ERROR(kolo_local_pair(loop, NULL, NULL, &handler, NULL, &local, &local), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_pair(loop, &handler, NULL, NULL, NULL, &local, &local), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_pair(loop, &handler, NULL, &handler, NULL, NULL, &local), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_pair(loop, &handler, NULL, &handler, NULL, &local, NULL), KOLO_EINVAL);
}

TEST(adopting_and_releasing) {
    int sockets[2], tcp[2], datagrams[2];
    peer mine;
    kolo_stream_handler handler = peer_handler();
    kolo_socket released = -1;
    char text[6] = "";
    memset(&mine, 0, sizeof mine);
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
    SYSTEM(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
    raw_pair(tcp);
    CHECK_ERROR(kolo_local_adopt(loop, tcp[0], &handler, &mine, &mine.stream), KOLO_EAFNOSUPPORT);
    CHECK_ERROR(kolo_local_adopt(loop, datagrams[0], &handler, &mine, &mine.stream), KOLO_EPROTOTYPE);
    CHECK_ERROR(kolo_local_adopt(loop, -1, &handler, &mine, &mine.stream), KOLO_EBADF);
    CHECK_ERROR(kolo_local_adopt(loop, 999, &handler, &mine, &mine.stream), KOLO_EBADF);
    CHECK_ERROR(kolo_local_adopt(loop, sockets[0], NULL, &mine, &mine.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_adopt(loop, sockets[0], &handler, &mine, NULL), KOLO_EINVAL);
    CHECK(descriptor_is_open(tcp[0]) && descriptor_is_open(datagrams[0]) && descriptor_is_open(sockets[0]));
    CHECK_OK(kolo_local_adopt(loop, sockets[0], &handler, &mine, &mine.stream));
    raw_write_all(sockets[1], "hello", 5);
    RUN_UNTIL(loop, mine.received == 5);
    CHECK_ERROR(kolo_local_release(loop, mine.stream, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_local_release(loop, mine.stream, &released));
    CHECK_INT(released, sockets[0]);
    run_to_end(loop);
    CHECK_INT(mine.closed, 1);
    raw_write_all(sockets[0], "still", 5);
    raw_read_exactly(sockets[1], text, 5);
    CHECK_STRING(text, "still");
    peer_free(&mine);
    for (int i = 0; i < 2; i++) raw_close(&sockets[i]), raw_close(&tcp[i]), raw_close(&datagrams[i]);
}

TEST(a_listening_socket_from_elsewhere) {
    kolo_listener_handler handler = server_handler();
    kolo_listener listener = 0;
    server me;
    int pair_[2];
    memset(&me, 0, sizeof me);
    make_folder();
    int listening = plain_listen(path);
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, pair_));
    CHECK_ERROR(kolo_local_listener_adopt(loop, pair_[0], NULL, &handler, &me, &listener), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_listener_adopt(loop, -1, NULL, &handler, &me, &listener), KOLO_EBADF);
    CHECK_ERROR(kolo_local_listener_adopt(loop, listening, NULL, NULL, &me, &listener), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_listener_adopt(loop, listening, NULL, &handler, &me, NULL), KOLO_EINVAL);
    CHECK(descriptor_is_open(listening) && descriptor_is_open(pair_[0]));
    CHECK_OK(kolo_local_listener_adopt(loop, listening, NULL, &handler, &me, &listener));
    int client = plain_connect(path);
    RUN_UNTIL(loop, me.accepted == 1);
    CHECK_OK(kolo_close(loop, listener));
    CHECK_OK(kolo_close(loop, me.peer.stream));
    run_to_end(loop);
    CHECK(is_socket(path)); /* not kolo's to remove */
    peer_free(&me.peer);
    raw_close(&client);
    raw_close(&pair_[0]);
    raw_close(&pair_[1]);
    remove_folder();
}

/* ---- descriptors ---- */
typedef struct taker {
    peer peer; /* first: peer_handler's functions take it */
    int told, lost;
    size_t waiting;
    size_t received_then;
} taker;

static void taker_descriptors(kolo_loop *loop, kolo_stream stream, size_t waiting, bool lost, void *user) {
    taker *me = user;
    size_t count = 0;
    CHECK_OK(kolo_local_descriptors_waiting(loop, stream, &count));
    CHECK_INT(count, waiting);
    me->told++;
    me->lost += lost;
    me->waiting = waiting;
    me->received_then = me->peer.received;
}

static void taking(kolo_loop *loop, taker *receiver, peer *sender) {
    kolo_stream_handler handler = peer_handler(), takes = peer_handler();
    takes.on_descriptors = taker_descriptors;
    memset(receiver, 0, sizeof *receiver);
    memset(sender, 0, sizeof *sender);
    receiver->peer.loop = sender->loop = loop;
    CHECK_OK(kolo_local_pair(loop, &takes, receiver, &handler, sender, &receiver->peer.stream, &sender->stream));
    CHECK_OK(kolo_local_receive_descriptors(loop, receiver->peer.stream, true));
}

static void taking_ends(kolo_loop *loop, taker *receiver, peer *sender) {
    if (!sender->closed) CHECK_OK(kolo_close(loop, sender->stream));
    if (!receiver->peer.closed) CHECK_OK(kolo_close(loop, receiver->peer.stream));
    run_some_turns(loop);
    peer_free(&receiver->peer);
    peer_free(sender);
}

static void count_done(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    (void)loop, (void)stream;
    *(int *)user = status == KOLO_OK ? 1 : status;
}

TEST(descriptors_come_before_their_bytes) {
    taker receiver;
    peer sender;
    int ends[2], taken = -1, done = 0, kind = 77;
    size_t count = 77;
    uint64_t named = 0;
    char text[6] = "";
    taking(loop, &receiver, &sender);
    kolo_local local = receiver.peer.stream;
    SYSTEM(pipe(ends));
    CHECK_ERROR(kolo_local_take_descriptor(loop, local, &taken), KOLO_ENOENT);
    CHECK_ERROR(kolo_local_next_kind(loop, local, &kind), KOLO_ENOENT);
    CHECK_INT(kolo_stream_write(loop, sender.stream, "before ", 7), 0);
    CHECK_INT(kolo_local_write_with_descriptors(loop, sender.stream, "with", 4, ends, 2, count_done, &done, &named), 0);
    CHECK(named != 0);
    CHECK_INT(done, 0); /* never inside the call */
    raw_close(&ends[0]); /* the caller's are its own */
    RUN_UNTIL(loop, receiver.peer.received == 11 && done);
    CHECK_INT(done, 1);
    CHECK_INT(receiver.told, 1);
    CHECK_INT(receiver.lost, 0);
    CHECK(receiver.received_then <= 7);
    CHECK_OK(kolo_local_descriptors_waiting(loop, local, &count));
    CHECK_INT(count, 2);
    CHECK_OK(kolo_local_next_kind(loop, local, &kind));
    CHECK_INT(kind, KOLO_KIND_PIPE);
    CHECK_ERROR(kolo_local_take_descriptor(loop, local, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_next_kind(loop, local, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_descriptors_waiting(loop, local, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_local_take_descriptor(loop, local, &taken));
    CHECK_INT(SYSTEM(fcntl(taken, F_GETFD)) & FD_CLOEXEC, FD_CLOEXEC);
    CHECK_INT(SYSTEM(write(ends[1], "piped", 5)), 5);
    CHECK_INT(SYSTEM(read(taken, text, 5)), 5);
    CHECK_STRING(text, "piped");
    /* The other one is closed with the stream: the harness finds what stays open. */
    raw_close(&taken);
    raw_close(&ends[1]);
    taking_ends(loop, &receiver, &sender);
}

TEST(descriptors_that_cannot_be_passed) {
    taker receiver;
    peer sender;
    int many[254], bad[2] = {STDIN_FILENO, 999}, negative = -1;
    taking(loop, &receiver, &sender);
    for (int i = 0; i < 254; i++) many[i] = STDIN_FILENO;
    kolo_local local = sender.stream;
    int (*pass)(kolo_loop *, kolo_local, const void *, size_t, const int *, size_t, kolo_write_cb, void *, uint64_t *) =
        kolo_local_write_with_descriptors;
    CHECK_ERROR(pass(loop, local, "x", 1, many, 0, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(pass(loop, local, "x", 1, many, 254, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(pass(loop, local, "x", 1, NULL, 1, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(pass(loop, local, NULL, 1, many, 1, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(pass(loop, local, "x", 0, many, 1, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(pass(loop, local, "x", 1, bad, 2, NULL, NULL, NULL), KOLO_EBADF);
    CHECK_ERROR(pass(loop, local, "x", 1, &negative, 1, NULL, NULL, NULL), KOLO_EBADF);
    CHECK_INT(pass(loop, local, "x", 1, many, 253, NULL, NULL, NULL), 0);
    RUN_UNTIL(loop, receiver.peer.received == 1);
    CHECK_INT(receiver.waiting, 253);
    CHECK_OK(kolo_stream_shutdown(loop, local, NULL, NULL));
    CHECK_ERROR(pass(loop, local, "x", 1, many, 1, NULL, NULL, NULL), KOLO_EPIPE);
    taking_ends(loop, &receiver, &sender);
}

TEST(a_write_with_descriptors_is_cancelled) {
    taker receiver;
    peer sender;
    int descriptor = STDIN_FILENO, done = 0;
    uint64_t write = 0;
    static char block[65536];
    taking(loop, &receiver, &sender);
    CHECK_OK(kolo_stream_read_stop(loop, receiver.peer.stream));
    for (int i = 0; i < 40; i++) CHECK(kolo_stream_write(loop, sender.stream, block, sizeof block) >= 0);
    int before = open_descriptors();
    CHECK(kolo_local_write_with_descriptors(loop, sender.stream, "x", 1, &descriptor, 1, count_done, &done, &write) >= 0);
    CHECK_INT(open_descriptors(), before + 1);
    CHECK_OK(kolo_stream_write_cancel(loop, sender.stream, write));
    CHECK_INT(open_descriptors(), before);
    RUN_UNTIL(loop, done);
    CHECK_ERROR(done, KOLO_ECANCELED);
    taking_ends(loop, &receiver, &sender);
}

static void close_in_descriptors(kolo_loop *loop, kolo_stream stream, size_t waiting, bool lost, void *user) {
    peer *me = user;
    (void)lost;
    CHECK_INT(waiting, 1);
    CHECK_INT(me->received, 0);
    CHECK_OK(kolo_close(loop, stream));
}

TEST(closing_in_on_descriptors) {
    peer receiver, sender;
    int descriptor = STDIN_FILENO;
    kolo_stream_handler handler = peer_handler(), closing = peer_handler();
    memset(&receiver, 0, sizeof receiver);
    memset(&sender, 0, sizeof sender);
    closing.on_descriptors = close_in_descriptors;
    CHECK_OK(kolo_local_pair(loop, &closing, &receiver, &handler, &sender, &receiver.stream, &sender.stream));
    CHECK_OK(kolo_local_receive_descriptors(loop, receiver.stream, true));
    CHECK_INT(kolo_local_write_with_descriptors(loop, sender.stream, "x", 1, &descriptor, 1, NULL, NULL, NULL), 0);
    RUN_UNTIL(loop, receiver.closed);
    CHECK_INT(receiver.received, 0);
    if (!sender.closed) CHECK_OK(kolo_close(loop, sender.stream));
    run_to_end(loop);
    peer_free(&receiver);
    peer_free(&sender);
}

/* ---- handles ---- */
static void no_timer(kolo_loop *loop, kolo_timer timer, void *user) { (void)loop, (void)timer, (void)user; }

TEST(handles_arrive_as_what_they_are) {
    taker receiver;
    peer sender, again;
    half tcp;
    server me;
    kolo_timer timer = 0;
    kolo_listener listener = 0, taken = 0;
    kolo_udp udp = 0;
    kolo_stream_handler handler = peer_handler();
    kolo_listener_handler listening = server_handler();
    kolo_udp_handler datagrams = KOLO_UDP_HANDLER_INIT;
    kolo_address any = loopback_v4(0), there;
    int kind = 0, done = 0, descriptor = -1;
    char text[6] = "";
    memset(&again, 0, sizeof again);
    memset(&me, 0, sizeof me);
    taking(loop, &receiver, &sender);
    kolo_local local = receiver.peer.stream;
    half_open(loop, &tcp);
    CHECK_OK(kolo_tcp_listen(loop, &any, NULL, &listening, &me, &listener));
    CHECK_OK(kolo_listener_address(loop, listener, &there));
    CHECK_OK(kolo_udp_bind(loop, &any, NULL, &datagrams, NULL, &udp));
    CHECK_INT(kolo_local_send_handle(loop, sender.stream, tcp.peer.stream, "t", 1, count_done, &done, NULL), 0);
    CHECK_INT(kolo_local_send_handle(loop, sender.stream, listener, "l", 1, NULL, NULL, NULL), 0);
    CHECK_INT(kolo_local_send_handle(loop, sender.stream, udp, "u", 1, NULL, NULL, NULL), 0);
    CHECK_OK(kolo_close(loop, tcp.peer.stream));
    CHECK_OK(kolo_close(loop, listener));
    CHECK_OK(kolo_close(loop, udp));
    RUN_UNTIL(loop, receiver.peer.received == 3 && done);
    CHECK_INT(done, 1);

    CHECK_OK(kolo_local_next_kind(loop, local, &kind));
    CHECK_INT(kind, KOLO_KIND_TCP);
    CHECK_ERROR(kolo_local_take_listener(loop, local, &listening, &me, &taken), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_take_stream(loop, local, NULL, &again, &again.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_take_stream(loop, local, &handler, &again, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_local_take_stream(loop, local, &handler, &again, &again.stream));
    CHECK_INT(kolo_kind_of(loop, again.stream), KOLO_KIND_TCP);
    CHECK_INT(kolo_stream_write(loop, again.stream, "moved", 5), 0);
    raw_read_exactly(tcp.socket, text, 5);
    CHECK_STRING(text, "moved");
    raw_write_all(tcp.socket, "too", 3);
    RUN_UNTIL(loop, again.received == 3);

    CHECK_OK(kolo_local_next_kind(loop, local, &kind));
    CHECK_INT(kind, KOLO_KIND_LISTENER);
    CHECK_ERROR(kolo_local_take_stream(loop, local, &handler, &again, &again.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_take_listener(loop, local, NULL, &me, &taken), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_take_listener(loop, local, &listening, &me, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_local_take_listener(loop, local, &listening, &me, &taken));
    kolo_address same;
    CHECK_OK(kolo_listener_address(loop, taken, &same));
    CHECK_INT(kolo_address_equal(&same, &there), 1);
    CHECK_OK(kolo_close(loop, taken));

    CHECK_OK(kolo_local_next_kind(loop, local, &kind));
    CHECK_INT(kind, KOLO_KIND_UDP);
    CHECK_OK(kolo_local_take_descriptor(loop, local, &descriptor));
    CHECK_OK(kolo_udp_adopt(loop, descriptor, NULL, &datagrams, NULL, &udp));
    CHECK_OK(kolo_close(loop, udp));
    CHECK_ERROR(kolo_local_take_stream(loop, local, &handler, &again, &again.stream), KOLO_ENOENT);
    CHECK_ERROR(kolo_local_take_listener(loop, local, &listening, &me, &taken), KOLO_ENOENT);

    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timer));
    CHECK_ERROR(kolo_local_send_handle(loop, sender.stream, timer, "x", 1, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_close(loop, timer));
    CHECK_ERROR(kolo_local_send_handle(loop, sender.stream, again.stream, "", 0, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_send_handle(loop, sender.stream, again.stream, NULL, 1, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_local_send_handle(loop, sender.stream, listener, "x", 1, NULL, NULL, NULL), KOLO_EBADF);
    CHECK_OK(kolo_close(loop, again.stream));
    taking_ends(loop, &receiver, &sender);
    half_close(loop, &tcp);
    peer_free(&again);
}

/* A worker in a process of its own answers on a connection that it is handed. */
TEST_WITHOUT_LOOP(a_connection_is_handed_to_another_process) {
    int control[2], tcp[2];
    char text[16] = "";
    raw_pair(tcp);
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, control));
    pid_t child = (pid_t)SYSTEM(fork());
    if (child == 0) {
        kolo_loop *loop = NULL;
        taker worker;
        peer served;
        kolo_stream_handler handler = peer_handler(), takes = peer_handler();
        SYSTEM(close(control[0]));
        SYSTEM(close(tcp[0]));
        SYSTEM(close(tcp[1]));
        memset(&worker, 0, sizeof worker);
        memset(&served, 0, sizeof served);
        takes.on_descriptors = taker_descriptors;
        CHECK_OK(kolo_loop_new(NULL, &loop));
        CHECK_OK(kolo_local_adopt(loop, control[1], &takes, &worker, &worker.peer.stream));
        CHECK_OK(kolo_local_receive_descriptors(loop, worker.peer.stream, true));
        RUN_UNTIL(loop, worker.told);
        CHECK_OK(kolo_local_take_stream(loop, worker.peer.stream, &handler, &served, &served.stream));
        RUN_UNTIL(loop, served.received == 4);
        CHECK_INT(kolo_stream_write(loop, served.stream, "a worker", 8), 0);
        CHECK_OK(kolo_loop_free(loop));
        _exit(0);
    }
    kolo_loop *loop = NULL;
    peer to_worker, connection;
    kolo_stream_handler handler = peer_handler(), quiet = KOLO_STREAM_HANDLER_INIT;
    memset(&to_worker, 0, sizeof to_worker);
    memset(&connection, 0, sizeof connection);
    raw_close(&control[1]);
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_OK(kolo_local_adopt(loop, control[0], &handler, &to_worker, &to_worker.stream));
    CHECK_OK(kolo_tcp_adopt(loop, tcp[0], &quiet, NULL, &connection.stream));
    CHECK_INT(kolo_local_send_handle(loop, to_worker.stream, connection.stream, "!", 1, NULL, NULL, NULL), 0);
    CHECK_OK(kolo_close(loop, connection.stream));
    run_some_turns(loop);
    raw_write_all(tcp[1], "who?", 4);
    raw_read_exactly(tcp[1], text, 8);
    CHECK_STRING(text, "a worker");
    CHECK_OK(kolo_loop_free(loop));
    int status = 0;
    SYSTEM(waitpid(child, &status, 0));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    raw_close(&tcp[1]);
    peer_free(&to_worker);
}

TEST_WITHOUT_LOOP(the_loop_is_freed_with_everything_under_way) {
    kolo_loop *loop = NULL;
    server me;
    peer client, sender;
    taker receiver;
    int descriptors[2] = {STDIN_FILENO, STDIN_FILENO};
    CHECK_OK(kolo_loop_new(NULL, &loop));
    make_folder();
    listen_at(loop, path, strlen(path), &me);
    connect_to(loop, path, strlen(path), &client);
    taking(loop, &receiver, &sender);
    CHECK_INT(kolo_local_write_with_descriptors(loop, sender.stream, "x", 1, descriptors, 2, NULL, NULL, NULL), 0);
    RUN_UNTIL(loop, receiver.told);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(me.closed, 1);
    CHECK_INT(client.closed, 1);
    CHECK_INT(receiver.peer.closed, 1);
    peer_free(&client);
    peer_free(&me.peer);
    peer_free(&receiver.peer);
    peer_free(&sender);
    remove_folder();
}
