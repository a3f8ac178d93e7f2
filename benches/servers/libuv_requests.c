/* Requests on libuv: uv_try_write for each answer, uv_write for what the kernel would not take. With "gather" the
 * program puts the answers to what one read brought together itself, and writes them at once. */
#include "requests.h"

#include <uv.h>

struct connection {
  uv_tcp_t tcp;
  struct beginning beginning;
  size_t writes; /* that wait for the kernel */
  bool finished, ended;
};

struct rest {
  uv_write_t request;
  uint8_t bytes[];
};

static bool gathers;
static struct answers gathered;
static char buffer[READ_BUFFER_BYTES];

static void check_uv(int status, const char *what) {
  if (status < 0) die("%s: %s", what, uv_strerror(status));
}

static void on_closed(uv_handle_t *handle) {
  struct connection *connection = handle->data;
  free(connection->beginning.bytes);
  free(connection);
}

static void close_connection(struct connection *connection) {
  if (!uv_is_closing((uv_handle_t *)&connection->tcp)) uv_close((uv_handle_t *)&connection->tcp, on_closed);
}

static void lend_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
  (void)handle, (void)suggested;
  *out = uv_buf_init(buffer, sizeof buffer);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *data);

static void on_written(uv_write_t *request, int status) {
  struct connection *connection = request->handle->data;
  free(request);
  if (status < 0) close_connection(connection);
  if (--connection->writes > 0 || uv_is_closing((uv_handle_t *)&connection->tcp)) return;
  if (connection->ended) close_connection(connection);
  else check_uv(uv_read_start((uv_stream_t *)&connection->tcp, lend_buffer, on_read), "uv_read_start");
}

static void write_rest(struct connection *connection, const void *bytes, size_t length) {
  struct rest *rest = malloc(sizeof *rest + length);
  if (rest == NULL) die("out of memory");
  memcpy(rest->bytes, bytes, length);
  uv_buf_t data = uv_buf_init((char *)rest->bytes, (unsigned)length);
  if (connection->writes++ == 0) uv_read_stop((uv_stream_t *)&connection->tcp);
  if (uv_write(&rest->request, (uv_stream_t *)&connection->tcp, &data, 1, on_written) < 0) {
    connection->writes--;
    free(rest);
    close_connection(connection);
  }
}

static void answer(void *user, const void *bytes, size_t length) {
  struct connection *connection = user;
  if (uv_is_closing((uv_handle_t *)&connection->tcp)) return;
  uv_buf_t data = uv_buf_init((char *)(uintptr_t)bytes, (unsigned)length);
  int sent = uv_try_write((uv_stream_t *)&connection->tcp, &data, 1);
  if (sent == UV_EAGAIN) sent = 0;
  if (sent < 0) close_connection(connection);
  else if ((size_t)sent < length) write_rest(connection, (const char *)bytes + sent, length - (size_t)sent);
}

static void gather(void *user, const void *bytes, size_t length) {
  (void)user;
  add_answer(&gathered, bytes, length);
}

static void on_shut_down(uv_shutdown_t *request, int status) {
  (void)status;
  free(request);
}

static void finish(struct connection *connection) {
  connection->finished = true;
  if (uv_is_closing((uv_handle_t *)&connection->tcp)) return;
  uv_shutdown_t *request = checked_alloc(1, sizeof *request);
  if (uv_shutdown(request, (uv_stream_t *)&connection->tcp, on_shut_down) == 0) return;
  free(request);
  close_connection(connection);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *data) {
  struct connection *connection = stream->data;
  if (count < 0) {
    connection->ended = true;
    if (count != UV_EOF || connection->writes == 0) close_connection(connection);
  }
  if (count <= 0 || connection->finished) return;
  const uint8_t *bytes = (const uint8_t *)data->base;
  bool goes_on = take_requests(&connection->beginning, bytes, (size_t)count, gathers ? gather : answer, connection);
  if (gathered.length > 0) answer(connection, gathered.bytes, gathered.length);
  gathered.length = 0;
  if (!goes_on) finish(connection);
}

static void on_connection(uv_stream_t *listener, int status) {
  check_uv(status, "connection");
  struct connection *connection = checked_alloc(1, sizeof *connection);
  check_uv(uv_tcp_init(listener->loop, &connection->tcp), "uv_tcp_init");
  connection->tcp.data = connection;
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
  gathers = parse_request_flags(argc, argv, true);
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
