/* The load of the echoes: sends WINDOW datagrams on each of SOCKETS sockets, waits until all are back, compares every
 * byte, and begins again. They are sent one by one as far as the network is concerned: what comes together at the server
 * comes so because it was sent so fast, as from many machines.
 *
 *   udp_load PORT SIZE SOCKETS WINDOW
 *
 * After "ready", each line "slice MS" on stdin is answered by "done ECHOES WALL_NS LOST". A wrong byte, or a datagram
 * that was never sent, ends the program with exit status 1. What is not back after a fifth of a second is lost. */
#include "datagrams.h"

#include <poll.h>

enum { SOCKETS_MAX = 256, WINDOW_MAX = 64, LOST_AFTER_MS = 200 };

static struct mmsghdr messages[WINDOW_MAX];
static struct iovec pieces[WINDOW_MAX];
static uint8_t bytes[WINDOW_MAX][2048];
static int sockets[SOCKETS_MAX];
static int socket_count, window;

static void send_window(int at, uint64_t sequence) {
  for (int i = 0; i < window; i++) {
    datagram_make(bytes[i], datagram_bytes, sequence + (uint64_t)i);
    pieces[i] = (struct iovec){bytes[i], datagram_bytes};
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
  }
  for (int sent = 0; sent < window;)
    sent += check_errno(sendmmsg(sockets[at], messages + sent, (unsigned)(window - sent), 0), "sendmmsg");
}

/* How many came back; the sequence numbers must be of this round, each once. */
static int receive_window(int at, uint64_t sequence) {
  bool seen[WINDOW_MAX] = {false};
  int back = 0;
  while (back < window) {
    for (int i = 0; i < window; i++) {
      pieces[i] = (struct iovec){bytes[i], sizeof bytes[i]};
      messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
    }
    int count = recvmmsg(sockets[at], messages, (unsigned)(window - back), MSG_DONTWAIT, NULL);
    if (count < 0 && errno == EAGAIN) {
      struct pollfd waiting = {.fd = sockets[at], .events = POLLIN};
      if (check_errno(poll(&waiting, 1, LOST_AFTER_MS), "poll") == 0) return back;
      continue;
    }
    check_errno(count, "recvmmsg");
    for (int i = 0; i < count; i++) {
      uint64_t number;
      if (!datagram_is_right(bytes[i], messages[i].msg_len, datagram_bytes)) die("a wrong byte came back");
      memcpy(&number, bytes[i], SEQUENCE_BYTES);
      if (number < sequence) continue; /* of a round that was given up */
      if (number >= sequence + (uint64_t)window || seen[number - sequence]) die("a datagram came back that was not sent");
      seen[number - sequence] = true;
      back++;
    }
  }
  return back;
}

int main(int argc, char **argv) {
  if (argc != 5) die("usage: %s PORT SIZE SOCKETS WINDOW", argv[0]);
  datagrams_fill();
  datagram_bytes = (size_t)atoi(argv[2]);
  socket_count = atoi(argv[3]);
  window = atoi(argv[4]);
  if (datagram_bytes < SEQUENCE_BYTES || datagram_bytes > DATAGRAM_BYTES_MAX || socket_count < 1 ||
      socket_count > SOCKETS_MAX || window < 1 || window > WINDOW_MAX)
    die("a number that is not supported");
  struct sockaddr_in peer = loopback((uint16_t)atoi(argv[1]));
  for (int i = 0; i < socket_count; i++) {
    sockets[i] = check_errno(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
    check_errno(connect(sockets[i], (struct sockaddr *)&peer, sizeof peer), "connect");
  }
  puts("ready");
  fflush(stdout);
  char line[64];
  uint64_t sequence = 0;
  while (fgets(line, sizeof line, stdin) != NULL) {
    unsigned milliseconds;
    if (sscanf(line, "slice %u", &milliseconds) != 1) die("no command: %s", line);
    uint64_t begin = wall_ns(), end = begin + (uint64_t)milliseconds * 1000000u, back = 0, lost = 0;
    while (wall_ns() < end) {
      for (int i = 0; i < socket_count; i++) send_window(i, sequence + (uint64_t)(i * window));
      for (int i = 0; i < socket_count; i++) {
        int came = receive_window(i, sequence + (uint64_t)(i * window));
        back += (uint64_t)came;
        lost += (uint64_t)(window - came);
      }
      sequence += (uint64_t)(socket_count * window);
    }
    printf("done %llu %llu %llu\n", (unsigned long long)back, (unsigned long long)(wall_ns() - begin),
           (unsigned long long)lost);
    fflush(stdout);
  }
  return 0;
}
