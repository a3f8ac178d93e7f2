/* What every program of the suite needs: clocks, a seeded generator, errors that end the program, and for the
 * servers the two lines of the protocol with the driver: print the port, stop when stdin ends. */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#define _GNU_SOURCE

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* One read buffer for all connections, of the size that libuv suggests and kolo uses. */
enum { READ_BUFFER_BYTES = 64 * 1024, LISTEN_BACKLOG = 1024 };

/* Bytes that a server may hold for one peer before it stops reading from it. */
enum { HELD_BYTES_HIGH = 64 * 1024, HELD_BYTES_LOW = 16 * 1024 };

/* Longer than any run: an armed timeout must cost what it costs, and never fire. */
enum { IDLE_TIMEOUT_S = 600 };

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vfprintf(stderr, format, args);
  va_end(args);
  fputc('\n', stderr);
  exit(1);
}

/* For calls that answer -1 and set errno. */
static inline int check_errno(int result, const char *what) {
  if (result < 0) die("%s: %s", what, strerror(errno));
  return result;
}

static inline uint64_t clock_ns(clockid_t clock) {
  struct timespec now;
  check_errno(clock_gettime(clock, &now), "clock_gettime");
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t wall_ns(void) { return clock_ns(CLOCK_MONOTONIC); }
static inline uint64_t thread_cpu_ns(void) { return clock_ns(CLOCK_THREAD_CPUTIME_ID); }
static inline uint64_t process_cpu_ns(void) { return clock_ns(CLOCK_PROCESS_CPUTIME_ID); }

/* xorshift64*: the same numbers for every peer. */
static inline uint64_t random_next(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 2685821657736338717u;
}

static inline void *checked_alloc(size_t count, size_t bytes) {
  void *memory = calloc(count, bytes);
  if (memory == NULL) die("out of memory");
  return memory;
}

/* ---- servers ---- */

static inline bool parse_server_flags(int argc, char **argv) {
  if (argc == 1) return false;
  if (argc == 2 && strcmp(argv[1], "--timeouts") == 0) return true;
  die("usage: %s [--timeouts]   (an echo server on a free port of 127.0.0.1, until stdin ends)", argv[0]);
}

static inline struct sockaddr_in loopback(uint16_t port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

/* TCP_NODELAY is set on the listener: Linux hands it down to accepted sockets, which saves a call for each. */
static inline int listen_on_free_port(void) {
  int listener = check_errno(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), "socket");
  int on = 1;
  check_errno(setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), "TCP_NODELAY");
  struct sockaddr_in address = loopback(0);
  check_errno(bind(listener, (struct sockaddr *)&address, sizeof address), "bind");
  check_errno(listen(listener, LISTEN_BACKLOG), "listen");
  return listener;
}

static inline void announce_port(uint16_t port) {
  printf("port %u\n", port);
  fflush(stdout);
}

static inline void announce_listener(int listener) {
  struct sockaddr_in address;
  socklen_t length = sizeof address;
  check_errno(getsockname(listener, (struct sockaddr *)&address, &length), "getsockname");
  announce_port(ntohs(address.sin_port));
}

/* True once the driver closed its end; what it might write is of no interest. */
static inline bool stdin_ended(void) {
  char ignored[64];
  return read(STDIN_FILENO, ignored, sizeof ignored) <= 0;
}

/* An accept that failed for the one connection's sake alone. */
static inline bool accept_error_passes(int error) {
  return error == ECONNABORTED || error == EINTR || error == EPROTO;
}

/* The part of an echo that the kernel would not take yet. */
struct held_bytes {
  uint8_t *bytes;
  size_t length, sent;
};

static inline void hold(struct held_bytes *held, const uint8_t *bytes, size_t length) {
  held->bytes = malloc(length);
  if (held->bytes == NULL) die("out of memory");
  memcpy(held->bytes, bytes, length);
  held->length = length;
  held->sent = 0;
}

static inline void drop_held(struct held_bytes *held) {
  free(held->bytes);
  held->bytes = NULL;
  held->length = held->sent = 0;
}

/* Sends what it can: the count, 0 when the kernel's buffer is full, -1 when the peer is gone. */
static inline ssize_t send_some(int fd, const uint8_t *bytes, size_t length) {
  for (;;) {
    ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
    if (sent >= 0) return sent;
    if (errno == EAGAIN) return 0;
    if (errno != EINTR) return -1;
  }
}

/* Sends held bytes: 1 when none is left, 0 when the kernel is full again, -1 when the peer is gone. */
static inline int send_held(int fd, struct held_bytes *held) {
  while (held->sent < held->length) {
    ssize_t sent = send_some(fd, held->bytes + held->sent, held->length - held->sent);
    if (sent <= 0) return (int)sent;
    held->sent += (size_t)sent;
  }
  drop_held(held);
  return 1;
}

#endif
