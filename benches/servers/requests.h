/* What the servers of requests share: where a request ends in the bytes that came, and what is answered to it.
 *
 *   SERVER frames    every FRAME_BYTES bytes are a request, and the answer is the same bytes
 *   SERVER http      HTTP/1.1: GET without a body, many on one connection, also before the first is answered
 *
 * After the answer to a request that is the last one (a bad one, or "Connection: close"), a server ends its side and
 * takes no notice of what else comes until the peer has ended its own. */
#ifndef BENCH_REQUESTS_H
#define BENCH_REQUESTS_H

#include "../common.h"

#include <strings.h>

enum { FRAME_BYTES = 64, HEAD_BYTES_MAX = 8192 };

enum verdict { REQUEST_INCOMPLETE, REQUEST_COMPLETE, REQUEST_LAST };

struct request {
  size_t length;
  const void *answer;
  size_t answer_length;
};

static bool speaks_http;

static inline void answer_with(struct request *request, const char *text, size_t length) {
  request->answer = text;
  request->answer_length = length;
}

static const char answer_ok[] = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 14\r\n\r\nHello, world!\n";
static const char answer_ok_last[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 14\r\n\r\nHello, world!\n";
static const char answer_bad[] = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

static inline bool line_begins(const uint8_t *line, size_t length, const char *with, size_t with_length) {
  return length >= with_length && strncasecmp((const char *)line, with, with_length) == 0;
}

static inline bool is_request_line(const uint8_t *line, size_t length) {
  static const char version[] = " HTTP/1.1";
  return length > 4 + sizeof version - 1 && memcmp(line, "GET ", 4) == 0 &&
         memcmp(line + length - (sizeof version - 1), version, sizeof version - 1) == 0;
}

static inline enum verdict bad_request(struct request *request) {
  answer_with(request, answer_bad, sizeof answer_bad - 1);
  return REQUEST_LAST;
}

/* The head, line by line (RFC 9112); a request with a body is a bad one here. */
static inline enum verdict next_http(const uint8_t *bytes, size_t length, struct request *request) {
  const uint8_t *line = bytes, *end = bytes + length;
  bool last = false;
  for (;;) {
    const uint8_t *feed = memchr(line, '\n', (size_t)(end - line));
    if (feed == NULL) return length < HEAD_BYTES_MAX ? REQUEST_INCOMPLETE : bad_request(request);
    size_t line_length = (size_t)(feed - line);
    if (line_length == 0 || line[--line_length] != '\r') return bad_request(request);
    if (line == bytes) {
      if (!is_request_line(line, line_length)) return bad_request(request);
    } else if (line_length == 0) {
      break;
    } else if (line_begins(line, line_length, "Content-Length:", 15) || line_begins(line, line_length, "Transfer-Encoding:", 18)) {
      return bad_request(request);
    } else if (line_begins(line, line_length, "Connection: close", 17)) {
      last = true;
    }
    line = feed + 1;
  }
  request->length = (size_t)(line + 2 - bytes);
  if (last) answer_with(request, answer_ok_last, sizeof answer_ok_last - 1);
  else answer_with(request, answer_ok, sizeof answer_ok - 1);
  return last ? REQUEST_LAST : REQUEST_COMPLETE;
}

static inline enum verdict next_request(const uint8_t *bytes, size_t length, struct request *request) {
  if (speaks_http) return next_http(bytes, length, request);
  if (length < FRAME_BYTES) return REQUEST_INCOMPLETE;
  *request = (struct request){.length = FRAME_BYTES, .answer = bytes, .answer_length = FRAME_BYTES};
  return REQUEST_COMPLETE;
}

/* The beginning of a request whose rest is to come. */
struct beginning {
  uint8_t *bytes;
  size_t length;
};

static inline void keep_beginning(struct beginning *beginning, const uint8_t *bytes, size_t length) {
  uint8_t *copy = NULL;
  if (length > 0) {
    copy = malloc(length);
    if (copy == NULL) die("out of memory");
    memcpy(copy, bytes, length);
  }
  free(beginning->bytes);
  *beginning = (struct beginning){copy, length};
}

static inline const uint8_t *join_beginning(struct beginning *beginning, const uint8_t *bytes, size_t length) {
  beginning->bytes = realloc(beginning->bytes, beginning->length + length);
  if (beginning->bytes == NULL) die("out of memory");
  memcpy(beginning->bytes + beginning->length, bytes, length);
  beginning->length += length;
  return beginning->bytes;
}

/* Calls answer(connection, bytes, length) for each request that is whole now. False: that was the last one. */
__attribute__((always_inline)) static inline bool take_requests(struct beginning *beginning, const uint8_t *bytes, size_t length,
                                                                void (*answer)(void *, const void *, size_t), void *connection) {
  if (beginning->length > 0) {
    bytes = join_beginning(beginning, bytes, length);
    length = beginning->length;
  }
  enum verdict verdict = REQUEST_INCOMPLETE;
  struct request request;
  while (length > 0 && (verdict = next_request(bytes, length, &request)) != REQUEST_INCOMPLETE) {
    answer(connection, request.answer, request.answer_length);
    if (verdict == REQUEST_LAST) {
      length = 0;
      break;
    }
    bytes += request.length;
    length -= request.length;
  }
  if (length > 0 || beginning->bytes != NULL) keep_beginning(beginning, bytes, length);
  return verdict != REQUEST_LAST;
}

/* ---- answers gathered by the program, where the library does not ---- */

struct answers {
  uint8_t *bytes;
  size_t length, capacity;
};

static inline void add_answer(struct answers *answers, const void *bytes, size_t length) {
  if (answers->length + length > answers->capacity) {
    answers->capacity = 2 * answers->capacity + length;
    answers->bytes = realloc(answers->bytes, answers->capacity);
    if (answers->bytes == NULL) die("out of memory");
  }
  memcpy(answers->bytes + answers->length, bytes, length);
  answers->length += length;
}

/* True: "gather" was asked for as well, for a program that knows it. */
static inline bool parse_request_flags(int argc, char **argv, bool can_gather) {
  bool gathers = argc == 3 && can_gather && strcmp(argv[2], "gather") == 0;
  bool frames = argc >= 2 && strcmp(argv[1], "frames") == 0;
  speaks_http = argc >= 2 && strcmp(argv[1], "http") == 0;
  if ((!frames && !speaks_http) || (argc != 2 && !gathers))
    die("usage: %s frames|http%s   (a server on a free port of 127.0.0.1, until stdin ends)", argv[0], can_gather ? " [gather]" : "");
  return gathers;
}

#endif
