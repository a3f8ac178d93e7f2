/* Echo on libev: one level-triggered watcher for each connection, one read and one write per event. */
#include "../common.h"

#include <ev.h>
#include <fcntl.h>

struct connection {
  ev_io io;
  struct held_bytes held;
};

/* With --timeouts a connection grows by its two timers. */
struct timed_connection {
  struct connection connection;
  ev_timer read_timer, write_timer;
};

static bool with_timeouts;
static uint8_t buffer[READ_BUFFER_BYTES];

static struct timed_connection *timed(struct connection *connection) { return (struct timed_connection *)(void *)connection; }

static void close_connection(struct ev_loop *loop, struct connection *connection) {
  ev_io_stop(loop, &connection->io);
  if (with_timeouts) {
    ev_timer_stop(loop, &timed(connection)->read_timer);
    ev_timer_stop(loop, &timed(connection)->write_timer);
  }
  close(connection->io.fd);
  drop_held(&connection->held);
  free(connection);
}

static void on_timeout(struct ev_loop *loop, ev_timer *timer, int events) {
  (void)events;
  close_connection(loop, timer->data);
}

static void on_ready(struct ev_loop *loop, ev_io *io, int events);

static void wait_for(struct ev_loop *loop, struct connection *connection, int events) {
  ev_io_stop(loop, &connection->io);
  ev_io_set(&connection->io, connection->io.fd, events);
  ev_io_start(loop, &connection->io);
}

static void send_rest(struct ev_loop *loop, struct connection *connection) {
  int done = send_held(connection->io.fd, &connection->held);
  if (done < 0) close_connection(loop, connection);
  if (done <= 0) return;
  wait_for(loop, connection, EV_READ);
  if (with_timeouts) ev_timer_again(loop, &timed(connection)->write_timer);
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
  if (with_timeouts) ev_timer_again(loop, &timed(connection)->read_timer);
  ssize_t sent = send_some(io->fd, buffer, (size_t)count);
  if (sent < 0) {
    close_connection(loop, connection);
  } else if (sent < count) { /* reading goes on once the rest has left */
    hold(&connection->held, buffer + sent, (size_t)(count - sent));
    wait_for(loop, connection, EV_WRITE);
  } else if (with_timeouts) {
    ev_timer_again(loop, &timed(connection)->write_timer);
  }
}

static void start_timer(struct ev_loop *loop, ev_timer *timer, struct connection *connection) {
  ev_init(timer, on_timeout);
  timer->repeat = IDLE_TIMEOUT_S;
  timer->data = connection;
  ev_timer_again(loop, timer);
}

static void on_accept(struct ev_loop *loop, ev_io *io, int events) {
  (void)events;
  for (;;) {
    int fd = accept4(io->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && errno == EAGAIN) return;
    if (fd < 0 && accept_error_passes(errno)) continue;
    check_errno(fd, "accept");
    struct connection *connection =
        checked_alloc(1, with_timeouts ? sizeof(struct timed_connection) : sizeof(struct connection));
    ev_io_init(&connection->io, on_ready, fd, EV_READ);
    ev_io_start(loop, &connection->io);
    if (with_timeouts) {
      start_timer(loop, &timed(connection)->read_timer, connection);
      start_timer(loop, &timed(connection)->write_timer, connection);
    }
  }
}

static void on_stdin(struct ev_loop *loop, ev_io *io, int events) {
  (void)io, (void)events;
  if (stdin_ended()) ev_break(loop, EVBREAK_ALL);
}

int main(int argc, char **argv) {
  with_timeouts = parse_server_flags(argc, argv);
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
