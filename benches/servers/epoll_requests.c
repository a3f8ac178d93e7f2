/* Requests on plain epoll, as lean as it gets (see epoll_echo.c); the answers to what one read brought leave together. */
#include "requests.h"

#include <sys/epoll.h>
#include <sys/resource.h>

enum { EVENTS_PER_WAIT = 1024, READS_PER_EVENT = 16 };

struct connection {
  struct beginning beginning;
  struct held_bytes held;
  bool hung_up; /* the peer's FIN was announced: a short read is not the last word */
  bool finished;
};

static int poller;
static struct connection *connections; /* indexed by descriptor */
static size_t connections_max;
static uint8_t buffer[READ_BUFFER_BYTES];
static struct answers gathered;

static void gather(void *user, const void *bytes, size_t length) {
  (void)user;
  add_answer(&gathered, bytes, length);
}

static void watch(int operation, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  check_errno(epoll_ctl(poller, operation, fd, &event), "epoll_ctl");
}

static const uint32_t stream_events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;

static void close_connection(int fd) {
  drop_held(&connections[fd].held);
  free(connections[fd].beginning.bytes);
  connections[fd] = (struct connection){0};
  close(fd);
}

static void accept_all(int listener) {
  for (;;) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && errno == EAGAIN) return;
    if (fd < 0 && accept_error_passes(errno)) continue;
    if ((size_t)check_errno(fd, "accept") >= connections_max) die("descriptor %d is past the table", fd);
    watch(EPOLL_CTL_ADD, fd, stream_events);
  }
}

static void read_and_answer(int fd, struct connection *connection) {
  for (int reads = 0; reads < READS_PER_EVENT; reads++) {
    ssize_t count = recv(fd, buffer, sizeof buffer, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
      close_connection(fd);
      return;
    }
    gathered.length = 0;
    bool was_finished = connection->finished;
    if (!was_finished) connection->finished = !take_requests(&connection->beginning, buffer, (size_t)count, gather, NULL);
    ssize_t sent = gathered.length > 0 ? send_some(fd, gathered.bytes, gathered.length) : 0;
    if (sent < 0) {
      close_connection(fd);
      return;
    }
    if ((size_t)sent < gathered.length) { /* reading goes on once the rest has left */
      hold(&connection->held, gathered.bytes + sent, gathered.length - (size_t)sent);
      return;
    }
    if (connection->finished && !was_finished) shutdown(fd, SHUT_WR);
    if (count < (ssize_t)sizeof buffer && !connection->hung_up) return;
  }
  watch(EPOLL_CTL_MOD, fd, stream_events); /* the neighbours first; this reports the descriptor anew if it is ready */
}

static void on_events(int fd, uint32_t events) {
  struct connection *connection = &connections[fd];
  if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) connection->hung_up = true;
  if (connection->held.bytes != NULL) {
    if (!(events & (EPOLLOUT | EPOLLHUP | EPOLLERR))) return;
    int done = send_held(fd, &connection->held);
    if (done < 0) close_connection(fd);
    if (done <= 0) return;
    if (connection->finished) shutdown(fd, SHUT_WR);
  } else if (!(events & ~(uint32_t)EPOLLOUT)) {
    return; /* the first edge of a new socket: writable, nothing to read */
  }
  read_and_answer(fd, connection);
}

int main(int argc, char **argv) {
  parse_request_flags(argc, argv, false);
  struct rlimit limit;
  check_errno(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
  connections_max = limit.rlim_cur;
  connections = checked_alloc(connections_max, sizeof *connections);
  poller = check_errno(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  int listener = listen_on_free_port();
  watch(EPOLL_CTL_ADD, listener, EPOLLIN);
  watch(EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN);
  announce_listener(listener);

  for (;;) {
    static struct epoll_event events[EVENTS_PER_WAIT];
    int count = epoll_wait(poller, events, EVENTS_PER_WAIT, -1);
    if (count < 0 && errno == EINTR) continue;
    check_errno(count, "epoll_wait");
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == listener) accept_all(listener);
      else if (fd != STDIN_FILENO) on_events(fd, events[i].events);
      else if (stdin_ended()) return 0;
    }
  }
}
