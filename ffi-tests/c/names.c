/* Names to addresses and back; connecting to several addresses, and by name. */
#include "harness.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>

typedef struct lookup {
    kolo_request request;
    int told, status, closed;
    size_t count;
    kolo_address addresses[8];
    char text[256];      /* the canonical name; or host, a slash, service */
    kolo_request closes; /* in its callback */
} lookup;

static void resolved(kolo_loop *loop, kolo_request request, int status, const kolo_address *addresses, size_t count,
                     const char *canonical_name, void *user) {
    lookup *me = user;
    CHECK(me->request == 0 || me->request == request);
    me->told++;
    me->status = status;
    me->count = count;
    CHECK((status == 0) == (count > 0));
    CHECK((addresses != NULL) == (count > 0));
    CHECK(status == 0 || canonical_name == NULL);
    for (size_t i = 0; i < count && i < 8; i++) me->addresses[i] = addresses[i];
    snprintf(me->text, sizeof me->text, "%s", canonical_name == NULL ? "none" : canonical_name);
    /* The number is dead when it comes. */
    CHECK_ERROR(kolo_request_cancel(loop, request), KOLO_EBADF);
    CHECK_ERROR(kolo_close(loop, request), KOLO_EBADF);
    if (me->closes != 0) CHECK_OK(kolo_close(loop, me->closes));
}

static void reversed(kolo_loop *loop, kolo_request request, int status, const char *host, const char *service,
                     void *user) {
    lookup *me = user;
    CHECK(me->request == 0 || me->request == request);
    me->told++;
    me->status = status;
    CHECK((host != NULL) == (status == 0));
    CHECK((service != NULL) == (status == 0));
    if (status == 0) snprintf(me->text, sizeof me->text, "%s/%s", host, service);
    CHECK_ERROR(kolo_close(loop, request), KOLO_EBADF);
}

static void request_closed(kolo_loop *loop, kolo_handle handle, void *user) {
    lookup *me = user;
    (void)loop, (void)handle;
    CHECK_INT(me->told, 1); /* on_close is last */
    me->closed++;
}

static void ask(kolo_loop *loop, lookup *me, const char *host, const char *service,
                const kolo_resolve_options *options) {
    memset(me, 0, sizeof *me);
    CHECK_OK(kolo_resolve(loop, host, service, options, resolved, me, &me->request));
    CHECK(me->request != 0);
    CHECK_INT(kolo_kind_of(loop, me->request), KOLO_KIND_REQUEST);
    CHECK_INT(me->told, 0); /* never inside the call */
}

static void check_address(const kolo_address *address, const char *want) {
    char text[KOLO_ADDRESS_TEXT_MAX];
    CHECK(kolo_address_format(address, text, sizeof text) > 0);
    CHECK_STRING(text, want);
}

/* ---- without asking anybody ---- */

TEST(numeric_hosts) {
    static const struct {
        const char *host, *service, *want;
    } hosts[] = {
        {"192.0.2.7", "80", "192.0.2.7:80"},
        {"2001:db8::7", NULL, "[2001:db8::7]:0"},
        {"fe80::1%7", "65535", "[fe80::1%7]:65535"},
    };
    lookup me;
    for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
        ask(loop, &me, hosts[i].host, hosts[i].service, NULL);
        CHECK_INT(kolo_is_active(loop, me.request), 1);
        run_to_end(loop);
        CHECK_INT(me.told, 1);
        CHECK_ERROR(me.status, KOLO_OK);
        CHECK_INT(me.count, 1);
        check_address(&me.addresses[0], hosts[i].want);
        CHECK_STRING(me.text, "none");
    }
    ask(loop, &me, "[::1]", "80", NULL);
    run_to_end(loop);
    CHECK_ERROR(me.status, KOLO_EAI_NONAME);
    CHECK_INT(kolo_system_error(), 0);
}

TEST(options_of_numeric_hosts) {
    kolo_resolve_options options = KOLO_RESOLVE_OPTIONS_INIT;
    lookup me;
    options.canonical_name = true;
    options.family = KOLO_FAMILY_IPV6;
    ask(loop, &me, "127.0.0.1", "80", &options);
    run_to_end(loop);
    CHECK_ERROR(me.status, KOLO_EAI_ADDRFAMILY);
    options.v4_mapped = true;
    ask(loop, &me, "127.0.0.1", "80", &options);
    run_to_end(loop);
    CHECK_ERROR(me.status, KOLO_OK);
    check_address(&me.addresses[0], "[::ffff:127.0.0.1]:80");
    CHECK_STRING(me.text, "127.0.0.1");
    options.socket_type = KOLO_SOCKET_DATAGRAM;
    options.timeout_ns = SECONDS(60);
    ask(loop, &me, "::1", "80", &options);
    run_to_end(loop);
    check_address(&me.addresses[0], "[::1]:80");
}

TEST(no_host_is_this_machine) {
    kolo_resolve_options options = KOLO_RESOLVE_OPTIONS_INIT;
    lookup me;
    options.family = KOLO_FAMILY_IPV4;
    ask(loop, &me, NULL, "7", &options);
    run_to_end(loop);
    CHECK_INT(me.count, 1);
    check_address(&me.addresses[0], "127.0.0.1:7");
    options.passive = true;
    ask(loop, &me, NULL, "7", &options);
    run_to_end(loop);
    check_address(&me.addresses[0], "0.0.0.0:7");
}

TEST(reverse_to_numbers) {
    kolo_reverse_options options = KOLO_REVERSE_OPTIONS_INIT;
    kolo_address address;
    lookup me;
    memset(&me, 0, sizeof me);
    options.numeric_host = options.numeric_service = true;
    CHECK_OK(kolo_address_parse("192.0.2.7", 80, &address));
    CHECK_OK(kolo_reverse(loop, &address, &options, reversed, &me, &me.request));
    CHECK_INT(me.told, 0);
    run_to_end(loop);
    CHECK_INT(me.told, 1);
    CHECK_STRING(me.text, "192.0.2.7/80");
}

TEST(the_number_is_not_needed) {
    kolo_address address = loopback_v4(80);
    kolo_reverse_options options = KOLO_REVERSE_OPTIONS_INIT;
    lookup one, two;
    memset(&one, 0, sizeof one);
    memset(&two, 0, sizeof two);
    options.numeric_host = options.numeric_service = true;
    CHECK_OK(kolo_resolve(loop, "127.0.0.1", NULL, NULL, resolved, &one, NULL));
    CHECK_OK(kolo_reverse(loop, &address, &options, reversed, &two, NULL));
    run_to_end(loop);
    CHECK_INT(one.told + two.told, 2);
}

TEST(resolve_misuse) {
    char text[300];
    lookup me;
    kolo_resolve_options options = KOLO_RESOLVE_OPTIONS_INIT;
    memset(&me, 0, sizeof me);
    memset(text, 'a', sizeof text);
    text[254] = '\0';
    CHECK_ERROR(kolo_resolve(loop, "a", "1", NULL, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_resolve(loop, NULL, NULL, NULL, resolved, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_resolve(loop, "", "1", NULL, resolved, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_resolve(loop, "a", "", NULL, resolved, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_resolve(loop, "a", "65536", NULL, resolved, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_resolve(loop, "caf\xe9", "1", NULL, resolved, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_resolve(loop, text, "1", NULL, resolved, &me, NULL), KOLO_ENAMETOOLONG);
    options.family = 5;
    CHECK_ERROR(kolo_resolve(loop, "::1", "1", &options, resolved, &me, NULL), KOLO_EINVAL);
    options.family = 0;
    options.socket_type = 3;
    CHECK_ERROR(kolo_resolve(loop, "::1", "1", &options, resolved, &me, NULL), KOLO_EINVAL);
    options.socket_type = 0;
    options.size = 1;
    CHECK_ERROR(kolo_resolve(loop, "::1", "1", &options, resolved, &me, NULL), KOLO_EINVAL);
    run_to_end(loop);
    CHECK_INT(me.told, 0);
}

TEST(reverse_misuse) {
    lookup me;
    kolo_reverse_options options = KOLO_REVERSE_OPTIONS_INIT;
    kolo_address address = loopback_v4(1), none;
    memset(&me, 0, sizeof me);
    memset(&none, 0, sizeof none);
    CHECK_ERROR(kolo_reverse(loop, NULL, NULL, reversed, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_reverse(loop, &none, NULL, reversed, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_reverse(loop, &address, NULL, NULL, &me, NULL), KOLO_EINVAL);
    options.size = 1;
    CHECK_ERROR(kolo_reverse(loop, &address, &options, reversed, &me, NULL), KOLO_EINVAL);
    run_to_end(loop);
    CHECK_INT(me.told, 0);
}

/* ---- while the lookup waits for a thread ---- */

/* Threads of kolo's pools, by their names: a sanitizer has threads of its own. */
static int pool_threads(void) {
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        char path[300], name[32] = "";
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        FILE *file = fopen(path, "r"); /* NULL: it has just ended */
        if (file == NULL) continue;
        if (fgets(name, sizeof name, file) != NULL && strncmp(name, "kolo-", 5) == 0) count++;
        fclose(file);
    }
    closedir(tasks);
    return count;
}

/* A thread that is inside the resolver is not waited for by kolo: here it is. */
static void await_threads(void) {
    while (pool_threads() > 0) usleep(1000);
}

typedef struct busy {
    sem_t begun, go_on;
    kolo_pool pool;
    kolo_loop *loop;
} busy;

static void stay(void *user) {
    busy *me = user;
    sem_post(&me->begun);
    while (sem_wait(&me->go_on) != 0) CHECK(errno == EINTR);
}

static void stayed(kolo_loop *loop, kolo_request request, int status, void *user) {
    (void)loop, (void)request, (void)status, (void)user;
}

/* A loop whose only thread for names is busy. */
static void busy_open(busy *me) {
    kolo_pool_options pool = KOLO_POOL_OPTIONS_INIT;
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    sem_init(&me->begun, 0, 0);
    sem_init(&me->go_on, 0, 0);
    pool.slow_threads = 1;
    CHECK_OK(kolo_pool_open(&pool, &me->pool));
    options.pool = me->pool;
    CHECK_OK(kolo_loop_new(&options, &me->loop));
    CHECK_OK(kolo_work_submit(me->loop, KOLO_WORK_SLOW, stay, stayed, me, NULL));
    while (sem_wait(&me->begun) != 0) CHECK(errno == EINTR);
}

static void busy_close(busy *me) {
    sem_post(&me->go_on);
    if (me->loop != NULL) CHECK_OK(kolo_loop_free(me->loop));
    CHECK_OK(kolo_pool_close(me->pool));
    await_threads();
    sem_destroy(&me->begun);
    sem_destroy(&me->go_on);
}

TEST_WITHOUT_LOOP(waiting_lookups_are_cancelled_closed_and_timed_out) {
    busy me;
    lookup cancelled, closed, late;
    kolo_address address = loopback_v4(1);
    kolo_resolve_options options = KOLO_RESOLVE_OPTIONS_INIT;
    busy_open(&me);
    ask(me.loop, &cancelled, "localhost", NULL, NULL);
    memset(&closed, 0, sizeof closed);
    CHECK_OK(kolo_reverse(me.loop, &address, NULL, reversed, &closed, &closed.request));
    CHECK_OK(kolo_on_close(me.loop, closed.request, request_closed, &closed));
    options.timeout_ns = MILLISECONDS(20);
    uint64_t begun = clock_ns();
    ask(me.loop, &late, "localhost", NULL, &options);
    CHECK_OK(kolo_request_cancel(me.loop, cancelled.request));
    CHECK_INT(cancelled.told, 0);
    CHECK_ERROR(kolo_request_cancel(me.loop, cancelled.request), KOLO_EBUSY);
    CHECK_OK(kolo_close(me.loop, closed.request));
    CHECK_ERROR(kolo_close(me.loop, closed.request), KOLO_EBADF);
    RUN_UNTIL(me.loop, late.told);
    CHECK(clock_ns() - begun >= MILLISECONDS(20));
    CHECK_ERROR(cancelled.status, KOLO_ECANCELED);
    CHECK_ERROR(closed.status, KOLO_ECANCELED);
    CHECK_INT(closed.closed, 1);
    CHECK_ERROR(late.status, KOLO_ETIMEDOUT);
    busy_close(&me);
    CHECK_INT(cancelled.told + closed.told + late.told, 3);
}

TEST_WITHOUT_LOOP(a_lookup_closes_another_in_its_callback) {
    busy me;
    lookup waits, known;
    busy_open(&me);
    ask(me.loop, &waits, "localhost", NULL, NULL);
    ask(me.loop, &known, "127.0.0.1", NULL, NULL);
    known.closes = waits.request;
    RUN_UNTIL(me.loop, waits.told);
    CHECK_INT(known.told, 1);
    CHECK_ERROR(waits.status, KOLO_ECANCELED);
    busy_close(&me);
}

TEST_WITHOUT_LOOP(freeing_the_loop_tells_what_is_under_way) {
    busy me;
    lookup waits, known;
    peer client;
    kolo_stream_handler handler = peer_handler();
    busy_open(&me);
    memset(&client, 0, sizeof client);
    client.loop = me.loop;
    ask(me.loop, &waits, "localhost", NULL, NULL);
    ask(me.loop, &known, "127.0.0.1", NULL, NULL);
    CHECK_OK(kolo_tcp_connect_name(me.loop, "localhost", 1, NULL, &handler, &client, &client.stream));
    sem_post(&me.go_on); /* that work is waited for */
    CHECK_OK(kolo_loop_free(me.loop));
    CHECK_ERROR(waits.status, KOLO_ECANCELED);
    CHECK_ERROR(known.status, KOLO_ECANCELED);
    CHECK_INT(waits.told + known.told, 2);
    CHECK_INT(client.closed, 1);
    CHECK_INT(client.opened + client.errors, 0);
    me.loop = NULL;
    busy_close(&me);
}

/* ---- the machine's own names ---- */

TEST(localhost) {
    lookup me;
    ask(loop, &me, "localhost", "7", NULL);
    run_to_end(loop);
    CHECK_ERROR(me.status, KOLO_OK);
    CHECK(me.count == 1 || me.count == 2);
    for (size_t i = 0; i < me.count; i++) {
        CHECK_INT(kolo_address_is_loopback(&me.addresses[i]), 1);
        CHECK_INT(me.addresses[i].port, 7);
    }
}

TEST(the_loopback_has_a_name_or_stands_for_itself) {
    kolo_address address = loopback_v4(7);
    kolo_reverse_options options = KOLO_REVERSE_OPTIONS_INIT;
    lookup me;
    memset(&me, 0, sizeof me);
    options.numeric_service = true;
    options.timeout_ns = SECONDS(60);
    CHECK_OK(kolo_reverse(loop, &address, &options, reversed, &me, &me.request));
    run_to_end(loop);
    CHECK_ERROR(me.status, KOLO_OK);
    CHECK(strlen(me.text) > 2 && strcmp(me.text + strlen(me.text) - 2, "/7") == 0);
}

/* ---- connecting ---- */

typedef struct racer {
    peer client;
} racer;

static void race(kolo_loop *loop, racer *me, const kolo_address *addresses, size_t count,
                 const kolo_connect_options *options) {
    kolo_stream_handler handler = peer_handler();
    memset(me, 0, sizeof *me);
    me->client.loop = loop;
    CHECK_OK(kolo_tcp_connect_any(loop, addresses, count, options, &handler, &me->client, &me->client.stream));
    CHECK_INT(me->client.opened + me->client.errors, 0); /* never inside the call */
    CHECK_INT(kolo_kind_of(loop, me->client.stream), KOLO_KIND_TCP);
}

static void racer_close(kolo_loop *loop, racer *me) {
    if (!me->client.closed) CHECK_OK(kolo_close(loop, me->client.stream));
    RUN_UNTIL(loop, me->client.closed);
    peer_free(&me->client);
}

static void check_peer(kolo_loop *loop, kolo_tcp stream, const kolo_address *want) {
    kolo_address address;
    CHECK_OK(kolo_tcp_peer(loop, stream, &address));
    CHECK(memcmp(&address, want, sizeof address) == 0);
}

/* A listener that answers no more: its queue is full. */
typedef struct silent {
    kolo_address address;
    int sockets[32], count;
} silent;

static void silent_open(silent *me, const kolo_address *any) {
    me->sockets[0] = raw_listen(any, 0, &me->address);
    me->count = 1;
    for (bool full = false; !full;) {
        struct timeval limit = {0, 20 * 1000};
        struct sockaddr_storage to;
        int length = kolo_address_to_sockaddr(&me->address, &to, sizeof to);
        int next = SYSTEM(socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
        CHECK(me->count < 32);
        me->sockets[me->count++] = next;
        SYSTEM(setsockopt(next, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit)); /* which is that of connect, too */
        full = connect(next, (struct sockaddr *)&to, (socklen_t)length) < 0;
    }
}

static void silent_close(silent *me) {
    while (me->count > 0) raw_close(&me->sockets[--me->count]);
}

TEST(any_of_several_addresses) {
    kolo_address any4 = loopback_v4(0), any6 = loopback_v6(0), addresses[3];
    silent nobody;
    racer me;
    int refuses = raw_socket_bound(&any6, &addresses[0]);
    int listener = raw_listen(&any4, 8, &addresses[2]);
    silent_open(&nobody, &any4);
    addresses[1] = nobody.address;
    int descriptors = open_descriptors();
    uint64_t begun = clock_ns();
    race(loop, &me, addresses, 3, NULL);
    CHECK_INT(kolo_stream_write(loop, me.client.stream, "early", 5), 0);
    kolo_address address;
    CHECK_ERROR(kolo_tcp_peer(loop, me.client.stream, &address), KOLO_ENOTCONN);
    RUN_UNTIL(loop, me.client.opened);
    CHECK(clock_ns() - begun >= MILLISECONDS(250)); /* the silent one had its time */
    check_peer(loop, me.client.stream, &addresses[2]);
    CHECK_INT(open_descriptors(), descriptors + 1); /* the losers are closed */
    int socket = raw_accept(listener);
    char text[6] = "";
    raw_read_exactly(socket, text, 5);
    CHECK_STRING(text, "early");
    raw_write_all(socket, "late", 4);
    RUN_UNTIL(loop, me.client.received == 4);
    racer_close(loop, &me);
    CHECK_INT(me.client.errors, 0);
    raw_close(&socket);
    raw_close(&listener);
    raw_close(&refuses);
    silent_close(&nobody);
}

TEST(none_of_several_addresses) {
    kolo_address any4 = loopback_v4(0), any6 = loopback_v6(0), addresses[2];
    racer me;
    int one = raw_socket_bound(&any6, &addresses[0]), two = raw_socket_bound(&any4, &addresses[1]);
    race(loop, &me, addresses, 2, NULL);
    run_to_end(loop);
    CHECK_INT(me.client.errors, 1);
    CHECK_ERROR(me.client.last_error, KOLO_ECONNREFUSED);
    CHECK_INT(me.client.closed, 1);
    peer_free(&me.client);
    raw_close(&one);
    raw_close(&two);
}

TEST(the_timeout_is_for_all_addresses) {
    kolo_address any4 = loopback_v4(0), any6 = loopback_v6(0), addresses[2];
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    silent one, two;
    racer me;
    silent_open(&one, &any4);
    silent_open(&two, &any6);
    addresses[0] = one.address;
    addresses[1] = two.address;
    options.timeout_ns = MILLISECONDS(50);
    options.attempt_delay_ns = MILLISECONDS(10);
    int descriptors = open_descriptors();
    race(loop, &me, addresses, 2, &options);
    run_to_end(loop);
    CHECK_ERROR(me.client.last_error, KOLO_ETIMEDOUT);
    CHECK_INT(open_descriptors(), descriptors);
    peer_free(&me.client);
    /* Closed while both are under way. */
    options.timeout_ns = 0;
    race(loop, &me, addresses, 2, &options);
    RUN_UNTIL(loop, open_descriptors() == descriptors + 2);
    CHECK_OK(kolo_close(loop, me.client.stream));
    CHECK_INT(open_descriptors(), descriptors);
    RUN_UNTIL(loop, me.client.closed);
    CHECK_INT(me.client.errors, 0);
    peer_free(&me.client);
    silent_close(&one);
    silent_close(&two);
}

typedef struct watcher {
    peer client; /* the handler's user pointer */
    int told;
    kolo_address addresses[8];
    int statuses[8];
} watcher;

static void attempted(kolo_loop *loop, kolo_stream stream, const kolo_address *address, int status, void *user) {
    watcher *me = user;
    void *own = NULL;
    CHECK(me->client.stream == stream);
    CHECK(me->told < 8);
    CHECK_OK(kolo_stream_user(loop, stream, &own));
    CHECK(own == user);
    me->addresses[me->told] = *address;
    me->statuses[me->told++] = status;
}

TEST(attempts_are_told) {
    kolo_address any4 = loopback_v4(0), any6 = loopback_v6(0), addresses[2];
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    kolo_stream_handler handler = peer_handler();
    watcher me;
    int refuses = raw_socket_bound(&any6, &addresses[0]), listener = raw_listen(&any4, 8, &addresses[1]);
    memset(&me, 0, sizeof me);
    me.client.loop = loop;
    options.on_attempt = attempted;
    CHECK_OK(kolo_tcp_connect_any(loop, addresses, 2, &options, &handler, &me, &me.client.stream));
    CHECK_INT(me.told, 0);
    RUN_UNTIL(loop, me.client.opened);
    CHECK_INT(me.told, 3);
    CHECK(memcmp(&me.addresses[0], &addresses[0], sizeof addresses[0]) == 0);
    CHECK_ERROR(me.statuses[0], KOLO_OK);
    CHECK(memcmp(&me.addresses[1], &addresses[0], sizeof addresses[0]) == 0);
    CHECK_ERROR(me.statuses[1], KOLO_ECONNREFUSED);
    CHECK(memcmp(&me.addresses[2], &addresses[1], sizeof addresses[1]) == 0);
    CHECK_ERROR(me.statuses[2], KOLO_OK);
    /* The handler works on as ever. */
    int socket = raw_accept(listener);
    raw_write_all(socket, "late", 4);
    RUN_UNTIL(loop, me.client.received == 4);
    raw_close(&socket);
    RUN_UNTIL(loop, me.client.ended);
    CHECK_OK(kolo_close(loop, me.client.stream));
    RUN_UNTIL(loop, me.client.closed);
    peer_free(&me.client);
    memset(&me, 0, sizeof me);
    me.client.loop = loop;
    CHECK_OK(kolo_tcp_connect_name(loop, "::1", addresses[0].port, &options, &handler, &me, &me.client.stream));
    run_to_end(loop);
    CHECK_INT(me.told, 2);
    CHECK_ERROR(me.statuses[1], KOLO_ECONNREFUSED);
    peer_free(&me.client);
    raw_close(&refuses);
    raw_close(&listener);
}

TEST(only_the_family_that_is_wanted) {
    kolo_address any4 = loopback_v4(0), any6 = loopback_v6(0), addresses[2], local = loopback_v4(0);
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    racer me;
    int six = raw_listen(&any6, 8, &addresses[0]), four = raw_listen(&any4, 8, &addresses[1]);
    options.family = KOLO_FAMILY_IPV4;
    race(loop, &me, addresses, 2, &options);
    RUN_UNTIL(loop, me.client.opened);
    check_peer(loop, me.client.stream, &addresses[1]);
    racer_close(loop, &me);
    options.family = KOLO_FAMILY_NONE;
    options.local = &local;
    race(loop, &me, addresses, 2, &options);
    RUN_UNTIL(loop, me.client.opened);
    check_peer(loop, me.client.stream, &addresses[1]);
    racer_close(loop, &me);
    raw_close(&six);
    raw_close(&four);
}

TEST(connect_any_misuse) {
    kolo_address addresses[2] = {loopback_v4(1), loopback_v6(1)}, local = loopback_v6(0);
    kolo_stream_handler handler = peer_handler(), wrong = handler;
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    peer client;
    kolo_tcp out = 0;
    memset(&client, 0, sizeof client);
    wrong.size = 3;
#define REFUSED(addresses_, count_, options_, handler_, out_)                                                          \
    CHECK_ERROR(kolo_tcp_connect_any(loop, addresses_, count_, options_, handler_, &client, out_), KOLO_EINVAL)
    REFUSED(NULL, 2, NULL, &handler, &out);
    REFUSED(addresses, 0, NULL, &handler, &out);
    REFUSED(addresses, SIZE_MAX, NULL, &handler, &out);
    REFUSED(addresses, 2, NULL, NULL, &out);
    REFUSED(addresses, 2, NULL, &wrong, &out);
    REFUSED(addresses, 2, NULL, &handler, NULL);
    options.attempt_delay_ns = MILLISECONDS(10) - 1;
    REFUSED(addresses, 2, &options, &handler, &out);
    options.attempt_delay_ns = SECONDS(2) + 1;
    REFUSED(addresses, 2, &options, &handler, &out);
    options.attempt_delay_ns = 0;
    options.family = 1;
    REFUSED(addresses, 2, &options, &handler, &out);
    options.family = KOLO_FAMILY_IPV4;
    REFUSED(addresses + 1, 1, &options, &handler, &out); /* none of that family */
    options.local = &local;
    REFUSED(addresses, 2, &options, &handler, &out);
    options.size = 8;
    REFUSED(addresses, 2, &options, &handler, &out);
    addresses[0].family = 9;
    REFUSED(addresses, 2, NULL, &handler, &out);
    CHECK_INT(out, 0);
    run_to_end(loop);
    CHECK_INT(client.opened + client.errors + client.closed, 0);
}

TEST(connect_by_name) {
    static const char *const hosts[] = {"localhost", "127.0.0.1"};
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, 8, &bound);
    for (size_t i = 0; i < 2; i++) {
        racer me;
        kolo_stream_handler handler = peer_handler();
        memset(&me, 0, sizeof me);
        me.client.loop = loop;
        CHECK_OK(kolo_tcp_connect_name(loop, hosts[i], bound.port, NULL, &handler, &me.client, &me.client.stream));
        CHECK_INT(kolo_stream_write(loop, me.client.stream, "early", 5), 0);
        CHECK_INT(me.client.opened, 0); /* never inside the call */
        RUN_UNTIL(loop, me.client.opened);
        check_peer(loop, me.client.stream, &bound);
        int socket = raw_accept(listener);
        char text[6] = "";
        raw_read_exactly(socket, text, 5);
        CHECK_STRING(text, "early");
        racer_close(loop, &me);
        raw_close(&socket);
    }
    raw_close(&listener);
}

TEST(connect_by_name_fails) {
    kolo_stream_handler handler = peer_handler();
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    peer client;
    memset(&client, 0, sizeof client);
    client.loop = loop;
    options.family = KOLO_FAMILY_IPV6;
    CHECK_OK(kolo_tcp_connect_name(loop, "127.0.0.1", 1, &options, &handler, &client, &client.stream));
    CHECK_INT(client.errors, 0);
    run_to_end(loop);
    CHECK_INT(client.errors, 1);
    CHECK_ERROR(client.last_error, KOLO_EAI_ADDRFAMILY);
    CHECK_INT(client.closed, 1);
}

TEST_WITHOUT_LOOP(connect_by_name_is_closed_and_timed_out_while_it_resolves) {
    busy me;
    kolo_stream_handler handler = peer_handler();
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    kolo_metrics metrics = KOLO_METRICS_INIT;
    peer closed, late;
    busy_open(&me);
    memset(&closed, 0, sizeof closed);
    memset(&late, 0, sizeof late);
    closed.loop = late.loop = me.loop;
    CHECK_OK(kolo_tcp_connect_name(me.loop, "localhost", 1, NULL, &handler, &closed, &closed.stream));
    options.timeout_ns = MILLISECONDS(20);
    CHECK_OK(kolo_tcp_connect_name(me.loop, "localhost", 1, &options, &handler, &late, &late.stream));
    CHECK_OK(kolo_loop_metrics(me.loop, &metrics));
    CHECK_INT(metrics.handles, 3); /* the work, the streams; the lookups are kolo's own */
    CHECK_OK(kolo_close(me.loop, closed.stream));
    RUN_UNTIL(me.loop, closed.closed && late.closed);
    CHECK_INT(closed.errors, 0);
    CHECK_ERROR(late.last_error, KOLO_ETIMEDOUT);
    busy_close(&me);
}

TEST(connect_by_name_misuse) {
    char text[300];
    kolo_stream_handler handler = peer_handler(), wrong = handler;
    kolo_connect_options options = KOLO_CONNECT_OPTIONS_INIT;
    peer client;
    kolo_tcp out = 0;
    memset(&client, 0, sizeof client);
    memset(text, 'a', sizeof text);
    text[254] = '\0';
    wrong.size = 3;
#define REFUSED_NAME(host_, options_, handler_, out_, error_)                                                          \
    CHECK_ERROR(kolo_tcp_connect_name(loop, host_, 1, options_, handler_, &client, out_), error_)
    REFUSED_NAME(NULL, NULL, &handler, &out, KOLO_EINVAL);
    REFUSED_NAME("", NULL, &handler, &out, KOLO_EINVAL);
    REFUSED_NAME("caf\xe9", NULL, &handler, &out, KOLO_EINVAL);
    REFUSED_NAME(text, NULL, &handler, &out, KOLO_ENAMETOOLONG);
    REFUSED_NAME("::1", NULL, NULL, &out, KOLO_EINVAL);
    REFUSED_NAME("::1", NULL, &wrong, &out, KOLO_EINVAL);
    REFUSED_NAME("::1", NULL, &handler, NULL, KOLO_EINVAL);
    options.attempt_delay_ns = 1;
    REFUSED_NAME("::1", &options, &handler, &out, KOLO_EINVAL);
    CHECK_INT(out, 0);
    run_to_end(loop);
    CHECK_INT(client.opened + client.errors + client.closed, 0);
}

/* ---- a resolver that is stuck ---- */

static void write_file(const char *path, const char *content) {
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    CHECK(fputs(content, file) >= 0);
    CHECK(fclose(file) == 0);
}

/* As this process sees it. */
static void put_in_place_of(const char *path, const char *content) {
    char own[] = "/tmp/kolo-names-XXXXXX";
    int file = SYSTEM(mkstemp(own));
    raw_close(&file);
    write_file(own, content);
    SYSTEM(mount(own, path, "", MS_BIND, ""));
    SYSTEM(unlink(own));
}

/* Leaves the process alone in a network whose name server is silent; its socket. -1 where that may not be done. */
static int silent_name_server(void) {
    struct ifreq loopback;
    struct sockaddr_in at;
    char map[64];
    unsigned user = (unsigned)getuid();
    bool own_users = unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET) == 0;
    /* Not for a process of several threads, such as a sanitizer's; but root needs no users of its own. */
    if (access("/etc/resolv.conf", F_OK) != 0 || (!own_users && unshare(CLONE_NEWNS | CLONE_NEWNET) != 0)) {
        printf("    no namespaces may be made here (%s): not tried\n", strerror(errno));
        return -1;
    }
    if (own_users) {
        snprintf(map, sizeof map, "0 %u 1", user);
        write_file("/proc/self/uid_map", map);
    } else {
        SYSTEM(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL)); /* what is mounted here is not seen elsewhere */
    }
    put_in_place_of("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n");
    if (access("/etc/nsswitch.conf", F_OK) == 0) put_in_place_of("/etc/nsswitch.conf", "hosts: dns\n");
    int descriptor = SYSTEM(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    memset(&loopback, 0, sizeof loopback);
    strcpy(loopback.ifr_name, "lo");
    loopback.ifr_flags = IFF_UP;
    SYSTEM(ioctl(descriptor, SIOCSIFFLAGS, &loopback));
    memset(&at, 0, sizeof at);
    at.sin_family = AF_INET;
    at.sin_port = htons(53);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    SYSTEM(bind(descriptor, (struct sockaddr *)&at, sizeof at));
    return descriptor;
}

static void await_query(int server) {
    char query[512];
    CHECK(SYSTEM(recv(server, query, sizeof query, 0)) > 12);
}

TEST_WITHOUT_LOOP(a_stuck_resolver_is_given_up) {
    int server = silent_name_server();
    kolo_loop *loop = NULL;
    kolo_resolve_options options = KOLO_RESOLVE_OPTIONS_INIT;
    kolo_stream_handler handler = peer_handler();
    lookup cancelled, late, freed;
    peer client;
    if (server < 0) return;
    options.family = KOLO_FAMILY_IPV4; /* one query */
    CHECK_OK(kolo_loop_new(NULL, &loop));
    ask(loop, &cancelled, "stuck.test", "80", &options);
    await_query(server);
    CHECK_OK(kolo_request_cancel(loop, cancelled.request));
    CHECK_INT(cancelled.told, 0); /* never inside the call */
    run_to_end(loop);
    CHECK_ERROR(cancelled.status, KOLO_ECANCELED);

    options.timeout_ns = MILLISECONDS(20);
    ask(loop, &late, "stuck.test", "80", &options);
    await_query(server);
    run_to_end(loop);
    CHECK_ERROR(late.status, KOLO_ETIMEDOUT);

    options.timeout_ns = 0;
    ask(loop, &freed, "stuck.test", "80", &options);
    await_query(server);
    memset(&client, 0, sizeof client);
    client.loop = loop;
    CHECK_OK(kolo_tcp_connect_name(loop, "stuck.test", 80, NULL, &handler, &client, &client.stream));
    await_query(server);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_ERROR(freed.status, KOLO_ECANCELED);
    CHECK_INT(client.closed, 1);
    CHECK_INT(cancelled.told + late.told + freed.told, 3);
    await_threads(); /* they come back by themselves */
    raw_close(&server);
}
