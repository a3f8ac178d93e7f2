/* Requests on libev, which only watches descriptors: the program gathers the answers to what one read brought. */
#include "requests.h"

#include <ev.h>

struct connection {
  ev_io io;
  struct beginning beginning;
  struct held_bytes held;
  bool finished;
};

static uint8_t buffer[READ_BUFFER_BYTES];
static struct answers gathered;

static void gather(void *user, const void *bytes, size_t length) {
  (void)user;
  add_answer(&gathered, bytes, length);
}

static void close_connection(struct ev_loop *loop, struct connection *connection) {
  ev_io_stop(loop, &connection->io);
  close(connection->io.fd);
  drop_held(&connection->held);
  free(connection->beginning.bytes);
  free(connection);
}

static void wait_for(struct ev_loop *loop, struct connection *connection, int events) {
  ev_io_stop(loop, &connection->io);
  ev_io_set(&connection->io, connection->io.fd, events);
  ev_io_start(loop, &connection->io);
}

static void send_rest(struct ev_loop *loop, struct connection *connection) {
  int done = send_held(connection->io.fd, &connection->held);
  if (done < 0) close_connection(loop, connection);
  if (done <= 0) return;
  if (connection->finished) shutdown(connection->io.fd, SHUT_WR);
  wait_for(loop, connection, EV_READ);
}

static void on_ready(struct ev_loop *loop, ev_io *io, int events) {
  struct connection *connection = (struct connection *)io;
  if (events & EV_WRITE) {
    send_rest(loop, connection);
    return;
  }
  ssize_t count = recv(io->fd, buffer, sizeof buffer, 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {
    close_connection(loop, connection);
    return;
  }
  if (connection->finished) return;
  gathered.length = 0;
  connection->finished = !take_requests(&connection->beginning, buffer, (size_t)count, gather, NULL);
  ssize_t sent = gathered.length > 0 ? send_some(io->fd, gathered.bytes, gathered.length) : 0;
  if (sent < 0) {
    close_connection(loop, connection);
  } else if ((size_t)sent < gathered.length) { /* reading goes on once the rest has left */
    hold(&connection->held, gathered.bytes + sent, gathered.length - (size_t)sent);
    wait_for(loop, connection, EV_WRITE);
  } else if (connection->finished) {
    shutdown(io->fd, SHUT_WR);
  }
}

static void on_accept(struct ev_loop *loop, ev_io *io, int events) {
  (void)events;
  for (;;) {
    int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && errno == EAGAIN) return;
    if (fd < 0 && accept_error_passes(errno)) continue;
    check_errno(fd, "accept");
    struct connection *connection = checked_alloc(1, sizeof *connection);
    ev_io_init(&connection->io, on_ready, fd, EV_READ);
    ev_io_start(loop, &connection->io);
  }
}

static void on_stdin(struct ev_loop *loop, ev_io *io, int events) {
  (void)io, (void)events;
  if (stdin_ended()) ev_break(loop, EVBREAK_ALL);
}

int main(int argc, char **argv) {
  parse_request_flags(argc, argv, false);
  struct ev_loop *loop = ev_default_loop(EVBACKEND_EPOLL);
  if (loop == NULL) die("ev_default_loop failed");
  int listener = listen_on_free_port();
  ev_io accepting, control;
  ev_io_init(&accepting, on_accept, listener, EV_READ);
  ev_io_start(loop, &accepting);
  ev_io_init(&control, on_stdin, STDIN_FILENO, EV_READ);
  ev_io_start(loop, &control);
  announce_listener(listener);
  ev_run(loop, 0);
  return 0;
}
