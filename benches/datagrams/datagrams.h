/* What the datagram programs share. Each peer's program is one of three, by its first argument:
 *
 *   PEER_udp echo              answers every datagram with its bytes; prints "port N" first
 *   PEER_udp sink SIZE         receives and checks every datagram; prints "port N" first; answers each line on stdin with
 *                              "received COUNT wrong COUNT"
 *   PEER_udp flood PORT SIZE   for each line "slice MS" on stdin sends datagrams to PORT for so long, and answers
 *                              "done COUNT WALL_NS"
 *
 * All end when stdin does. Nothing but what a program of that library would call is in the peers' files.
 *
 * A flood goes in bursts, one in each call back of the loop, and gives up the processor before each: sender and
 * receiver share one, and without it a real-time sender would only fill the receiver's buffer. A burst fits into the
 * buffer that the system gives a socket by default, so that what is lost is the library's fault. */
#ifndef BENCH_DATAGRAMS_H
#define BENCH_DATAGRAMS_H

#include "../common.h"

#include <sched.h>

enum { DATAGRAM_BYTES_MAX = 1472, BURST = 64, SEQUENCE_BYTES = 8, PATTERN_PERIOD = 65521 };

static uint8_t datagram_pattern[PATTERN_PERIOD + DATAGRAM_BYTES_MAX];
static size_t datagram_bytes;
static uint64_t sent_count, sent_sequence, received_count, wrong_count;
static uint64_t flood_begin, flood_end;

static inline void datagrams_fill(void) {
  uint64_t state = 0x9E3779B97F4A7C15u;
  for (size_t i = 0; i < PATTERN_PERIOD; i++) datagram_pattern[i] = (uint8_t)(random_next(&state) >> 56);
  memcpy(datagram_pattern + PATTERN_PERIOD, datagram_pattern, DATAGRAM_BYTES_MAX);
}

/* A datagram: its number, then bytes of the pattern from a place that depends on it. */
static inline void datagram_make(uint8_t *datagram, size_t length, uint64_t sequence) {
  memcpy(datagram, &sequence, SEQUENCE_BYTES);
  memcpy(datagram + SEQUENCE_BYTES, datagram_pattern + sequence % PATTERN_PERIOD, length - SEQUENCE_BYTES);
}

static inline bool datagram_is_right(const uint8_t *datagram, size_t length, size_t expected) {
  uint64_t sequence;
  if (length != expected) return false;
  memcpy(&sequence, datagram, SEQUENCE_BYTES);
  return memcmp(datagram + SEQUENCE_BYTES, datagram_pattern + sequence % PATTERN_PERIOD, length - SEQUENCE_BYTES) == 0;
}

/* The sink's part of a datagram. */
static inline void datagram_count(const uint8_t *datagram, size_t length) {
  received_count++;
  if (!datagram_is_right(datagram, length, datagram_bytes)) wrong_count++;
}

/* What stdin says. */
enum control { CONTROL_NOTHING, CONTROL_LINE, CONTROL_END };

static inline enum control read_control(char *line, size_t capacity) {
  ssize_t count = read(STDIN_FILENO, line, capacity - 1);
  if (count <= 0) return CONTROL_END;
  line[count] = '\0';
  return memchr(line, '\n', (size_t)count) != NULL ? CONTROL_LINE : CONTROL_NOTHING;
}

static inline void sink_report(void) {
  printf("received %llu wrong %llu\n", (unsigned long long)received_count, (unsigned long long)wrong_count);
  fflush(stdout);
}

static inline void flood_start(const char *line) {
  unsigned milliseconds;
  if (sscanf(line, "slice %u", &milliseconds) != 1) die("no command: %s", line);
  sent_count = 0;
  flood_begin = wall_ns();
  flood_end = flood_begin + (uint64_t)milliseconds * 1000000u;
}

/* False, and the answer is given, when the time is over. */
static inline bool flood_goes_on(void) {
  sched_yield();
  uint64_t now = wall_ns();
  if (now < flood_end) return true;
  printf("done %llu %llu\n", (unsigned long long)sent_count, (unsigned long long)(now - flood_begin));
  fflush(stdout);
  return false;
}

/* The next datagram of a flood, which is to be sent. */
static inline void flood_next(uint8_t *datagram) {
  datagram_make(datagram, datagram_bytes, sent_sequence++);
  sent_count++;
}

enum role { ROLE_ECHO, ROLE_SINK, ROLE_FLOOD };

static inline enum role parse_role(int argc, char **argv, uint16_t *port) {
  datagrams_fill();
  *port = 0;
  if (argc == 2 && strcmp(argv[1], "echo") == 0) return ROLE_ECHO;
  bool sink = argc == 3 && strcmp(argv[1], "sink") == 0, flood = argc == 4 && strcmp(argv[1], "flood") == 0;
  if (!sink && !flood) die("usage: %s echo | sink SIZE | flood PORT SIZE", argv[0]);
  datagram_bytes = (size_t)atoi(argv[argc - 1]);
  if (datagram_bytes < SEQUENCE_BYTES || datagram_bytes > DATAGRAM_BYTES_MAX) die("a size that is not supported");
  if (flood) *port = (uint16_t)atoi(argv[2]);
  return sink ? ROLE_SINK : ROLE_FLOOD;
}

#endif
