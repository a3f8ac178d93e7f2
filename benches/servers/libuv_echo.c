/* Echo on libuv, at its best: connections from a static slab, one read buffer for all, uv_try_write at once, and
 * uv_write only for what the kernel would not take, with reading stopped until that is done. */
#include "../common.h"

#include <sys/resource.h>
#include <uv.h>

enum { CONNECTIONS_MAX = 16 * 1024 };

struct connection {
  union {
    uv_tcp_t tcp;
    struct connection *next_free;
  };
};

/* With --timeouts each connection has two timers beside it, in a slab of their own. */
struct timeouts {
  uv_timer_t read, write;
  unsigned open; /* handles whose closing callback is still to come */
};

struct rest {
  uv_write_t request;
  uint8_t bytes[];
};

static struct connection slab[CONNECTIONS_MAX];
static struct timeouts timeouts[CONNECTIONS_MAX];
static struct connection *first_free;
static size_t slab_used;
static bool with_timeouts;
static char buffer[READ_BUFFER_BYTES];

static void check_uv(int status, const char *what) {
  if (status < 0) die("%s: %s", what, uv_strerror(status));
}

static struct timeouts *timeouts_of(struct connection *connection) { return &timeouts[connection - slab]; }

static struct connection *take_connection(void) {
  struct connection *connection = first_free;
  if (connection != NULL) {
    first_free = connection->next_free;
    return connection;
  }
  if (slab_used == CONNECTIONS_MAX) die("more than %d connections", CONNECTIONS_MAX);
  return &slab[slab_used++];
}

static void give_back(struct connection *connection) {
  connection->next_free = first_free;
  first_free = connection;
}

static void on_closed(uv_handle_t *handle) {
  struct connection *connection = handle->data;
  if (!with_timeouts || --timeouts_of(connection)->open == 0) give_back(connection);
}

static void close_connection(struct connection *connection) {
  if (uv_is_closing((uv_handle_t *)&connection->tcp)) return;
  uv_close((uv_handle_t *)&connection->tcp, on_closed);
  if (with_timeouts) {
    uv_close((uv_handle_t *)&timeouts_of(connection)->read, on_closed);
    uv_close((uv_handle_t *)&timeouts_of(connection)->write, on_closed);
  }
}

static void on_timeout(uv_timer_t *timer) { close_connection(timer->data); }

static void start_timer(uv_timer_t *timer, struct connection *connection) {
  check_uv(uv_timer_init(connection->tcp.loop, timer), "uv_timer_init");
  timer->data = connection;
  check_uv(uv_timer_start(timer, on_timeout, IDLE_TIMEOUT_S * 1000, IDLE_TIMEOUT_S * 1000), "uv_timer_start");
}

static void lend_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
  (void)handle, (void)suggested;
  *out = uv_buf_init(buffer, sizeof buffer);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *data);

static void on_rest_written(uv_write_t *request, int status) {
  struct connection *connection = request->handle->data;
  free(request);
  if (status < 0) close_connection(connection);
  if (uv_is_closing((uv_handle_t *)&connection->tcp)) return;
  check_uv(uv_read_start((uv_stream_t *)&connection->tcp, lend_buffer, on_read), "uv_read_start");
  if (with_timeouts) uv_timer_again(&timeouts_of(connection)->write);
}

static void write_rest(uv_stream_t *stream, const char *bytes, size_t length) {
  struct rest *rest = malloc(sizeof *rest + length);
  if (rest == NULL) die("out of memory");
  memcpy(rest->bytes, bytes, length);
  uv_buf_t data = uv_buf_init((char *)rest->bytes, (unsigned)length);
  uv_read_stop(stream);
  if (uv_write(&rest->request, stream, &data, 1, on_rest_written) < 0) {
    free(rest);
    close_connection(stream->data);
  }
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *data) {
  if (count == 0) return; /* libuv's way to say EAGAIN */
  if (count < 0) {
    close_connection(stream->data);
    return;
  }
  if (with_timeouts) uv_timer_again(&timeouts_of(stream->data)->read);
  uv_buf_t echo = uv_buf_init(data->base, (unsigned)count);
  int sent = uv_try_write(stream, &echo, 1);
  if (sent == UV_EAGAIN) sent = 0;
  if (sent < 0) close_connection(stream->data);
  else if (sent < count) write_rest(stream, data->base + sent, (size_t)(count - sent));
  else if (with_timeouts) uv_timer_again(&timeouts_of(stream->data)->write);
}

static void on_connection(uv_stream_t *listener, int status) {
  check_uv(status, "connection");
  struct connection *connection = take_connection();
  check_uv(uv_tcp_init(listener->loop, &connection->tcp), "uv_tcp_init");
  connection->tcp.data = connection;
  if (with_timeouts) {
    start_timer(&timeouts_of(connection)->read, connection);
    start_timer(&timeouts_of(connection)->write, connection);
    timeouts_of(connection)->open = 3;
  }
  int accepted = uv_accept(listener, (uv_stream_t *)&connection->tcp);
  if (accepted == 0) accepted = uv_tcp_nodelay(&connection->tcp, 1);
  if (accepted == 0) accepted = uv_read_start((uv_stream_t *)&connection->tcp, lend_buffer, on_read);
  if (accepted < 0) close_connection(connection);
}

static void on_stdin(uv_poll_t *poll, int status, int events) {
  (void)status, (void)events;
  if (stdin_ended()) uv_stop(poll->loop);
}

int main(int argc, char **argv) {
  with_timeouts = parse_server_flags(argc, argv);
  uv_loop_t *loop = uv_default_loop();
  uv_tcp_t listener;
  uv_poll_t control;
  struct sockaddr_in address = loopback(0);
  check_uv(uv_tcp_init(loop, &listener), "uv_tcp_init");
  check_uv(uv_tcp_bind(&listener, (struct sockaddr *)&address, 0), "uv_tcp_bind");
  check_uv(uv_listen((uv_stream_t *)&listener, LISTEN_BACKLOG, on_connection), "uv_listen");
  check_uv(uv_poll_init(loop, &control, STDIN_FILENO), "uv_poll_init");
  check_uv(uv_poll_start(&control, UV_READABLE, on_stdin), "uv_poll_start");
  int length = sizeof address;
  check_uv(uv_tcp_getsockname(&listener, (struct sockaddr *)&address, &length), "uv_tcp_getsockname");
  announce_port(ntohs(address.sin_port));
  uv_run(loop, UV_RUN_DEFAULT);
  return 0;
}
