/* A TCP server on plain io_uring, with no library but liburing's ring: accepts and receives are armed once (multishot),
 * what comes lies in a few provided buffers that fill up piece by piece, and each turn of the loop is one system call
 * that hands over all sends of the turn and waits. Needs Linux 6.12 (IOU_PBUF_RING_INC).
 *
 * A program defines, before including this,
 *
 *   struct session;      what it keeps for a connection; zeroed before its first bytes
 *   static bool on_bytes(int fd, struct session *session, const uint8_t *bytes, size_t length);
 *                        false: that was all; what was answered is sent, then our side ends
 *   static void session_end(struct session *session);
 *
 * and answers by send_bytes(fd, bytes, length), at most once for each on_bytes. The bytes must stay for this turn and
 * the next (see `turn`); those of on_bytes do.
 *
 * A send says MSG_DONTWAIT, so that it is over when the system call that hands it over has returned, and posts a
 * completion only when it failed or fell short (IOSQE_CQE_SKIP_SUCCESS; MSG_WAITALL makes a short one a failure). What
 * is left then is copied, and sent by a request that waits for room. Meanwhile reading stops at the high mark. */
#ifndef BENCH_URING_H
#define BENCH_URING_H

#include "../common.h"

#include <liburing.h>
#include <poll.h>
#include <sys/resource.h>

enum {
  SUBMISSIONS = 512,
  COMPLETIONS = 32 * 1024, /* more than there are connections: none is ever put aside */
  BUFFERS = 16,
  BUFFER_BYTES = 64 * 1024,
  BUFFER_GROUP = 0,
  BUFFERS_FILL_UP = 2,  /* IOU_PBUF_RING_INC, which the package's headers do not know yet */
  BUFFER_HAS_MORE = 16, /* IORING_CQE_F_BUF_MORE */
};

enum operation { ACCEPTS, RECEIVES, SENDS, SENDS_REST, CANCELS, POLLS_STDIN };

struct growing_bytes {
  uint8_t *bytes;
  size_t length, capacity;
};

struct connection {
  struct session session;
  const uint8_t *sent; /* the send of this turn or the last, which tells of itself only if it fails */
  size_t sent_length;
  struct io_uring_sqe *submission; /* that send, which can be changed until its batch is handed over */
  uint64_t submission_batch;
  struct growing_bytes outgoing;   /* the rest of a send that fell short, on its way */
  struct growing_bytes waiting;    /* what comes after that */
  bool open, receiving, cancelled, ended, broken, finished;
  bool awaits_send; /* the completion of a send is to come for certain */
};

static struct io_uring ring;
static struct io_uring_buf_ring *buffers;
static uint8_t *buffer_memory;
static uint32_t buffer_filled[BUFFERS];
static uint16_t given_back[2][BUFFERS]; /* by turn, odd and even: full buffers whose bytes may still be needed */
static size_t given_back_count[2];
static struct connection *connections; /* by descriptor */
static size_t connections_max;
static int *starved; /* receive anew once there are buffers again */
static size_t starved_count;
static uint64_t turn;
static unsigned turn_end;                    /* the completions of this turn end here */
static uint64_t batch, batch_at_turn_begin; /* how often submissions were handed over */
static int listener;

/* ---- requests ---- */

static uint64_t tag(enum operation operation, int fd) { return (uint64_t)operation << 32 | (uint32_t)fd; }

static struct io_uring_sqe *next_submission(enum operation operation, int fd) {
  struct io_uring_sqe *submission = io_uring_get_sqe(&ring);
  if (submission == NULL) {
    io_uring_submit(&ring);
    batch++;
    submission = io_uring_get_sqe(&ring);
    if (submission == NULL) die("no room for a submission");
  }
  submission->user_data = tag(operation, fd);
  return submission;
}

/* liburing's io_uring_prep_* write the whole entry, so the tag comes last. */
static void tagged(struct io_uring_sqe *submission, enum operation operation, int fd) {
  submission->user_data = tag(operation, fd);
}

static void arm_accept(void) {
  struct io_uring_sqe *submission = next_submission(ACCEPTS, listener);
  io_uring_prep_multishot_accept(submission, listener, NULL, NULL, SOCK_CLOEXEC);
  tagged(submission, ACCEPTS, listener);
}

static void arm_receive(int fd) {
  struct io_uring_sqe *submission = next_submission(RECEIVES, fd);
  io_uring_prep_recv_multishot(submission, fd, NULL, 0, 0);
  submission->flags |= IOSQE_BUFFER_SELECT;
  submission->buf_group = BUFFER_GROUP;
  tagged(submission, RECEIVES, fd);
  connections[fd].receiving = true;
  connections[fd].cancelled = false;
}

static void cancel_receive(int fd) {
  struct io_uring_sqe *submission = next_submission(CANCELS, fd);
  io_uring_prep_cancel64(submission, tag(RECEIVES, fd), 0);
  tagged(submission, CANCELS, fd);
  connections[fd].cancelled = true;
}

static void append(struct growing_bytes *to, const uint8_t *bytes, size_t length) {
  if (to->length + length > to->capacity) {
    to->capacity = 2 * (to->length + length);
    to->bytes = realloc(to->bytes, to->capacity);
    if (to->bytes == NULL) die("out of memory");
  }
  memcpy(to->bytes + to->length, bytes, length);
  to->length += length;
}

static void drop(struct growing_bytes *bytes) {
  free(bytes->bytes);
  *bytes = (struct growing_bytes){0};
}

/* ---- connections ---- */

/* Whether the send that was handed over in this turn failed. Its completion is there already, if there is one. */
static bool has_failed(int fd) {
  unsigned end = io_uring_smp_load_acquire(ring.cq.ktail);
  for (unsigned at = turn_end; at != end; at++)
    if (ring.cq.cqes[at & *ring.cq.kring_mask].user_data == tag(SENDS, fd)) return true;
  return false;
}

/* Finds out about a send that tells of itself only if it failed: if there may be a completion, awaits_send is set. */
static void settle_last_send(int fd) {
  struct connection *connection = &connections[fd];
  if (connection->awaits_send || connection->submission == NULL) return;
  if (connection->submission_batch == batch) { /* not handed over yet: now it has to tell of its success, too */
    connection->submission->flags &= (uint8_t)~IOSQE_CQE_SKIP_SUCCESS;
    connection->awaits_send = true;
  } else if (connection->submission_batch >= batch_at_turn_begin) {
    connection->awaits_send = has_failed(fd);
  }
}

/* Closes once nothing that names the descriptor is on its way. */
static void close_if_done(int fd) {
  struct connection *connection = &connections[fd];
  if (!connection->open || connection->receiving || connection->awaits_send) return;
  if (!connection->broken && !(connection->ended && connection->waiting.length == 0)) return;
  settle_last_send(fd);
  if (connection->awaits_send) return;
  drop(&connection->outgoing);
  drop(&connection->waiting);
  session_end(&connection->session);
  memset(connection, 0, sizeof *connection);
  close(fd);
}

/* Receiving, where it goes on, ends by itself then. */
static void break_connection(int fd) {
  connections[fd].broken = true;
  shutdown(fd, SHUT_RDWR);
  close_if_done(fd);
}

static void send_waiting(int fd) {
  struct connection *connection = &connections[fd];
  drop(&connection->outgoing);
  connection->outgoing = connection->waiting;
  connection->waiting = (struct growing_bytes){0};
  struct io_uring_sqe *submission = next_submission(SENDS_REST, fd);
  io_uring_prep_send(submission, fd, connection->outgoing.bytes, connection->outgoing.length, MSG_NOSIGNAL | MSG_WAITALL);
  tagged(submission, SENDS_REST, fd);
  connection->awaits_send = true;
}

static void send_bytes(int fd, const uint8_t *bytes, size_t length) {
  struct connection *connection = &connections[fd];
  settle_last_send(fd);
  if (connection->awaits_send) {
    append(&connection->waiting, bytes, length);
    if (connection->waiting.length >= HELD_BYTES_HIGH && connection->receiving && !connection->cancelled) cancel_receive(fd);
    return;
  }
  struct io_uring_sqe *submission = next_submission(SENDS, fd);
  io_uring_prep_send(submission, fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT | MSG_WAITALL);
  submission->flags |= IOSQE_CQE_SKIP_SUCCESS;
  tagged(submission, SENDS, fd);
  connection->sent = bytes;
  connection->sent_length = length;
  connection->submission = submission;
  connection->submission_batch = batch;
}

/* The rest of a send goes before what waits already. */
static void put_before_waiting(struct connection *connection, const uint8_t *bytes, size_t length) {
  struct growing_bytes joined = {0};
  append(&joined, bytes, length);
  if (connection->waiting.length > 0) append(&joined, connection->waiting.bytes, connection->waiting.length);
  drop(&connection->waiting);
  connection->waiting = joined;
}

static void on_sent(int fd, int result, bool is_rest) {
  struct connection *connection = &connections[fd];
  connection->awaits_send = false;
  connection->submission = NULL;
  if (result == -EAGAIN) result = 0;
  if (result < 0 || connection->broken) {
    if (connection->broken) close_if_done(fd);
    else break_connection(fd);
    return;
  }
  const uint8_t *bytes = is_rest ? connection->outgoing.bytes : connection->sent;
  size_t length = is_rest ? connection->outgoing.length : connection->sent_length;
  if ((size_t)result < length) put_before_waiting(connection, bytes + result, length - (size_t)result);
  if (connection->waiting.length > 0) {
    send_waiting(fd);
    return;
  }
  drop(&connection->outgoing);
  if (connection->finished) shutdown(fd, SHUT_WR);
  if (!connection->receiving && !connection->ended) arm_receive(fd);
  close_if_done(fd);
}

/* ---- buffers ---- */

static void offer_buffer(uint16_t number) {
  buffer_filled[number] = 0;
  io_uring_buf_ring_add(buffers, buffer_memory + (size_t)number * BUFFER_BYTES, BUFFER_BYTES, number,
                        io_uring_buf_ring_mask(BUFFERS), 0);
  io_uring_buf_ring_advance(buffers, 1);
}

static void open_buffers(void) {
  if (posix_memalign((void **)&buffers, 4096, BUFFERS * sizeof(struct io_uring_buf)) != 0) die("out of memory");
  if (posix_memalign((void **)&buffer_memory, 4096, (size_t)BUFFERS * BUFFER_BYTES) != 0) die("out of memory");
  struct io_uring_buf_reg registration = {
      .ring_addr = (uintptr_t)buffers, .ring_entries = BUFFERS, .bgid = BUFFER_GROUP, .pad = BUFFERS_FILL_UP};
  int status = io_uring_register_buf_ring(&ring, &registration, 0);
  if (status < 0) die("io_uring_register_buf_ring: %s", strerror(-status));
  io_uring_buf_ring_init(buffers);
  for (uint16_t i = 0; i < BUFFERS; i++) offer_buffer(i);
}

/* Ends our side once all is sent. */
static void finish(int fd) {
  settle_last_send(fd);
  if (!connections[fd].awaits_send) shutdown(fd, SHUT_WR);
}

static void on_received(int fd, int result, uint32_t flags) {
  struct connection *connection = &connections[fd];
  if (!(flags & IORING_CQE_F_MORE)) connection->receiving = false;
  if (flags & IORING_CQE_F_BUFFER) {
    uint16_t number = (uint16_t)(flags >> IORING_CQE_BUFFER_SHIFT);
    const uint8_t *bytes = buffer_memory + (size_t)number * BUFFER_BYTES + buffer_filled[number];
    if (result > 0) buffer_filled[number] += (uint32_t)result;
    if (!(flags & BUFFER_HAS_MORE)) given_back[turn % 2][given_back_count[turn % 2]++] = number;
    if (result > 0 && !connection->broken && !connection->finished) {
      connection->finished = !on_bytes(fd, &connection->session, bytes, (size_t)result);
      if (connection->finished) finish(fd);
    }
  }
  if (connection->receiving || connection->ended) return;
  if (connection->broken || result == 0) {
    connection->ended = true;
    close_if_done(fd);
  } else if (result < 0 && result != -ECANCELED && result != -ENOBUFS) {
    connection->broken = true;
    close_if_done(fd);
  } else if (connection->awaits_send) {
    return; /* it goes on once all is sent */
  } else if (result == -ENOBUFS) {
    starved[starved_count++] = fd;
    connection->receiving = true; /* as good as */
  } else {
    arm_receive(fd);
  }
}

/* ---- the loop ---- */

static void on_accepted(int result, uint32_t flags) {
  if (!(flags & IORING_CQE_F_MORE)) arm_accept();
  if (result < 0 && accept_error_passes(-result)) return;
  if (result < 0) die("accept: %s", strerror(-result));
  if ((size_t)result >= connections_max) die("descriptor %d is past the table", result);
  connections[result].open = true;
  arm_receive(result);
}

static bool on_completion(const struct io_uring_cqe *completion) {
  int fd = (int)(uint32_t)completion->user_data;
  switch ((enum operation)(completion->user_data >> 32)) {
  case ACCEPTS: on_accepted(completion->res, completion->flags); break;
  case RECEIVES: on_received(fd, completion->res, completion->flags); break;
  case SENDS: on_sent(fd, completion->res, false); break;
  case SENDS_REST: on_sent(fd, completion->res, true); break;
  case CANCELS:
    if (completion->res == -EALREADY) connections[fd].cancelled = false; /* to be tried again with the next bytes */
    break;
  case POLLS_STDIN:
    if (stdin_ended()) return false;
    die("stdin is not to be written to");
  }
  return true;
}

static bool run_turn(void) {
  turn++;
  batch_at_turn_begin = batch;
  unsigned head = *ring.cq.khead;
  turn_end = io_uring_smp_load_acquire(ring.cq.ktail);
  for (; head != turn_end; head++)
    if (!on_completion(&ring.cq.cqes[head & *ring.cq.kring_mask])) return false;
  io_uring_smp_store_release(ring.cq.khead, head);
  /* The sends of the turn before are over, and those that failed were copied. */
  unsigned before = (turn + 1) % 2;
  for (size_t i = 0; i < given_back_count[before]; i++) offer_buffer(given_back[before][i]);
  given_back_count[before] = 0;
  return true;
}

static void receive_for_starved(void) {
  for (size_t i = 0; i < starved_count; i++) arm_receive(starved[i]);
  starved_count = 0;
}

/* One system call: all submissions, and the wait. */
static void hand_over(unsigned completions_min) {
  int status = io_uring_submit_and_wait(&ring, completions_min);
  batch++;
  if (status < 0 && status != -EINTR && status != -EBUSY) die("io_uring_enter: %s", strerror(-status));
}

static int serve(void) {
  struct rlimit limit;
  check_errno(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
  connections_max = limit.rlim_cur;
  connections = checked_alloc(connections_max, sizeof *connections);
  starved = checked_alloc(connections_max, sizeof *starved);
  struct io_uring_params parameters = {
      .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL,
      .cq_entries = COMPLETIONS,
  };
  int status = io_uring_queue_init_params(SUBMISSIONS, &ring, &parameters);
  if (status < 0) die("io_uring: %s", strerror(-status));
  open_buffers();
  listener = listen_on_free_port();
  arm_accept();
  struct io_uring_sqe *submission = next_submission(POLLS_STDIN, STDIN_FILENO);
  io_uring_prep_poll_add(submission, STDIN_FILENO, POLLIN);
  tagged(submission, POLLS_STDIN, STDIN_FILENO);
  announce_listener(listener);
  while (run_turn()) {
    bool hungry = starved_count > 0;
    hand_over(hungry ? 0 : 1);
    if (!hungry) continue;
    if (!run_turn()) break; /* which gives the buffers of the turn before back, whose sends are over */
    receive_for_starved();
    hand_over(0);
  }
  return 0;
}

#endif
