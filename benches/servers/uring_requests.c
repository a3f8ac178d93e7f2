/* Requests on plain io_uring; see uring.h. The answers to what one receive brought leave together. */
#include "requests.h"

#include <sys/mman.h>

struct session {
  struct beginning beginning;
};

static void send_bytes(int fd, const uint8_t *bytes, size_t length);
static uint8_t *turn_memory(size_t length);

/* More than all answers to what fits in the buffers; pages that are never touched cost nothing. */
enum { ANSWER_BYTES_MAX = 16 * 1024 * 1024 };

static uint8_t *arenas[2]; /* by turn, odd and even */
static size_t arena_filled;
static uint64_t arena_turn;
static struct answers gathered;

static void gather(void *user, const void *bytes, size_t length) {
  (void)user;
  if (gathered.length + length > gathered.capacity) die("more answers than fit");
  memcpy(gathered.bytes + gathered.length, bytes, length);
  gathered.length += length;
}

static bool on_bytes(int fd, struct session *session, const uint8_t *bytes, size_t length) {
  uint8_t *memory = turn_memory(0);
  gathered = (struct answers){.bytes = memory, .capacity = ANSWER_BYTES_MAX - arena_filled};
  bool goes_on = take_requests(&session->beginning, bytes, length, gather, NULL);
  turn_memory(gathered.length);
  if (gathered.length > 0) send_bytes(fd, gathered.bytes, gathered.length);
  return goes_on;
}

static void session_end(struct session *session) { free(session->beginning.bytes); }

#include "uring.h"

/* Takes so many bytes, which stay for this turn and the next. */
static uint8_t *turn_memory(size_t length) {
  if (arena_turn != turn) arena_filled = 0;
  arena_turn = turn;
  uint8_t *memory = arenas[turn % 2] + arena_filled;
  arena_filled += length;
  return memory;
}

int main(int argc, char **argv) {
  parse_request_flags(argc, argv, false);
  for (int i = 0; i < 2; i++) {
    arenas[i] = mmap(NULL, ANSWER_BYTES_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arenas[i] == MAP_FAILED) die("mmap: %s", strerror(errno));
  }
  return serve();
}
