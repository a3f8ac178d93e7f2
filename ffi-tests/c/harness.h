/* The small harness of the C tests.
 *
 *   TEST(name) { ... }           a test with a fresh loop, `loop`, that the harness frees afterwards
 *   TEST_WITHOUT_LOOP(name)      a test that makes its own loops, or none
 *
 * Every test runs in a process of its own under a time limit, so that a crash or a hang fails that test alone, and
 * must leave no descriptor open. `./timer` runs all tests of the program, `./timer NAME...` the named ones, and
 * `./timer --list` names them. KOLO_TEST_NO_FORK=1 runs them in the program's own process, for a debugger;
 * KOLO_TEST_SECONDS changes the time limit. KOLO_TEST_VALGRIND=1 says that valgrind is running them.
 */
#ifndef HARNESS_H
#define HARNESS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <kolo.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct test_entry {
    const char *name;
    void (*with_loop)(kolo_loop *loop);
    void (*without_loop)(void);
    struct test_entry *next;
} test_entry;

void test_register(test_entry *entry);

#define TEST(id)                                                                                                       \
    static void id(kolo_loop *loop);                                                                                   \
    static test_entry id##_entry = {#id, id, NULL, NULL};                                                              \
    __attribute__((constructor)) static void id##_register(void) { test_register(&id##_entry); }                       \
    static void id(kolo_loop *loop)

#define TEST_WITHOUT_LOOP(id)                                                                                          \
    static void id(void);                                                                                              \
    static test_entry id##_entry = {#id, NULL, id, NULL};                                                              \
    __attribute__((constructor)) static void id##_register(void) { test_register(&id##_entry); }                       \
    static void id(void)

/* ---- checks: the first that does not hold ends the test ---- */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) test_fail(__FILE__, __LINE__, #condition);                                                   \
    } while (0)
#define CHECK_INT(got, want) test_check_int(__FILE__, __LINE__, #got, (long long)(got), (long long)(want))
#define CHECK_STRING(got, want) test_check_string(__FILE__, __LINE__, #got, (got), (want))
/* A call that answers with a kolo_error: shows the names of both. */
#define CHECK_ERROR(call, want) test_check_error(__FILE__, __LINE__, #call, (call), (want))
#define CHECK_OK(call) CHECK_ERROR(call, KOLO_OK)
/* A call of the C library that sets errno. Gives its result. */
#define SYSTEM(call) test_check_system(__FILE__, __LINE__, #call, (long)(call))

__attribute__((noreturn)) void test_fail(const char *file, int line, const char *what);
void test_check_int(const char *file, int line, const char *what, long long got, long long want);
void test_check_string(const char *file, int line, const char *what, const char *got, const char *want);
void test_check_error(const char *file, int line, const char *what, int got, int want);
int test_check_system(const char *file, int line, const char *what, long result);

/* ---- running ---- */
/* Turns the loop until the condition holds. The loop running out of work before that is a failure. */
#define RUN_UNTIL(loop_, condition)                                                                                    \
    do {                                                                                                               \
        while (!(condition)) {                                                                                         \
            int alive_ = kolo_loop_run((loop_), KOLO_RUN_ONCE);                                                        \
            if (alive_ < 0) test_check_error(__FILE__, __LINE__, "kolo_loop_run", alive_, KOLO_OK);                    \
            if (alive_ == 0 && !(condition))                                                                           \
                test_fail(__FILE__, __LINE__, "the loop ran out of work before: " #condition);                         \
        }                                                                                                              \
    } while (0)
/* Some turns without waiting: for what must NOT happen. */
void run_some_turns(kolo_loop *loop);
/* Runs the loop to its end: nothing must keep it alive for ever. */
void run_to_end(kolo_loop *loop);

#define MILLISECONDS(n) ((uint64_t)(n) * 1000000u)
#define SECONDS(n) ((uint64_t)(n) * 1000000000u)
uint64_t clock_ns(void);        /* CLOCK_MONOTONIC, read on its own, not through kolo */
void busy_wait_ns(uint64_t ns); /* keeps the processor, so that the loop's clock grows old */
uint64_t loop_now(kolo_loop *loop);

/* ---- threads ---- */
/* Runs a function on another thread and waits for it. */
void on_another_thread(void *(*function)(void *), void *argument);

/* ---- plain sockets, for the other side of a connection ---- */
kolo_address loopback_v4(uint16_t port);
kolo_address loopback_v6(uint16_t port);
int raw_socket_bound(const kolo_address *address, kolo_address *bound); /* bound, not listening: connecting is refused */
int raw_listen(const kolo_address *address, int backlog, kolo_address *bound);
int raw_accept(int listener);
int raw_connect(const kolo_address *address);
void raw_pair(int sockets[2]); /* two ends of a TCP connection, blocking */
void raw_write_all(int socket, const void *data, size_t length);
void raw_read_exactly(int socket, void *data, size_t length);
void raw_nonblocking(int descriptor);
void raw_close(int *descriptor);
int raw_option(int socket, int level, int name);
uint16_t raw_local_port(int socket);
int open_descriptors(void);
bool descriptor_is_open(int descriptor);

/* A byte that depends on its place, with a period that no buffer size divides. */
uint8_t pattern_byte(uint64_t offset);
void pattern_fill(void *data, size_t length, uint64_t offset);
bool pattern_matches(const void *data, size_t length, uint64_t offset);

/* ---- a stream that records what its handler hears ---- */
typedef struct peer {
    kolo_loop *loop;
    kolo_stream stream;
    int opened, data_calls, ended, drained, timeouts, errors, closed;
    int last_error;
    int last_timeout;
    uint8_t *data; /* all that was received */
    size_t received;
    size_t capacity;
    bool discard;       /* count and check against the pattern instead of keeping */
    bool close_at_end;  /* kolo_close in on_end */
    bool shutdown_at_end;
    bool stop_in_data;  /* kolo_stream_read_stop in every on_data */
} peer;

kolo_stream_handler peer_handler(void); /* every member but on_buffer */
void peer_free(peer *peer);
/* Checks that just these bytes have arrived. */
#define CHECK_RECEIVED(peer_, text)                                                                                    \
    do {                                                                                                               \
        CHECK_INT((peer_)->received, strlen(text));                                                                    \
        CHECK(memcmp((peer_)->data, (text), strlen(text)) == 0);                                                       \
    } while (0)

/* Two ends of a TCP connection on one loop, both recorded. */
typedef struct pair {
    peer client;
    peer server;
} pair;
void pair_open(kolo_loop *loop, pair *pair);
void pair_close(kolo_loop *loop, pair *pair); /* closes what is still open, runs its on_close, frees the record */

/* A recorded kolo end and a plain blocking socket. */
typedef struct half {
    peer peer;
    int socket;
} half;
void half_open(kolo_loop *loop, half *half);
void half_close(kolo_loop *loop, half *half);

#endif
