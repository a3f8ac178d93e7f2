/* Requests on kolo: one kolo_stream_write for each answer. Kolo gathers what a callback writes. */
#include "requests.h"

#include <kolo.h>

struct connection {
  struct beginning beginning;
  kolo_loop *loop;
  kolo_stream stream;
  bool finished, full;
};

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void answer(void *user, const void *bytes, size_t length) {
  struct connection *connection = user;
  int queued = kolo_stream_write(connection->loop, connection->stream, bytes, length);
  if (queued == 1) connection->full = true;
  else if (queued < 0) kolo_close(connection->loop, connection->stream); /* once is enough: later ones say EBADF */
}

static void on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
  struct connection *connection = user;
  if (connection->finished) return;
  connection->full = false;
  connection->finished = !take_requests(&connection->beginning, data, length, answer, connection);
  if (connection->finished) kolo_stream_shutdown(loop, stream, NULL, NULL);
  else if (connection->full) kolo_stream_read_stop(loop, stream); /* until on_drain */
}

static void on_drain(kolo_loop *loop, kolo_stream stream, void *user) {
  (void)user;
  kolo_stream_read_start(loop, stream); /* an error: the peer has ended its side */
}

static void on_close(kolo_loop *loop, kolo_stream stream, void *user) {
  (void)loop, (void)stream;
  struct connection *connection = user;
  free(connection->beginning.bytes);
  free(connection);
}

/* No on_end: kolo then sends what is queued, shuts down and closes. */
static const kolo_stream_handler handler = {.size = sizeof handler, .on_data = on_data, .on_drain = on_drain, .on_close = on_close};

static void on_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user) {
  (void)listener, (void)user;
  struct connection *connection = checked_alloc(1, sizeof *connection);
  connection->loop = loop;
  connection->stream = stream;
  check_kolo(kolo_stream_attach(loop, stream, &handler, connection), "kolo_stream_attach");
}

static void on_accept_error(kolo_loop *loop, kolo_listener listener, int error, void *user) {
  (void)loop, (void)listener, (void)user;
  check_kolo(error, "accept");
}

static void on_stdin(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
  (void)poll, (void)status, (void)events, (void)user;
  if (stdin_ended()) kolo_loop_stop(loop);
}

int main(int argc, char **argv) {
  parse_request_flags(argc, argv, false);
  kolo_loop *loop;
  check_kolo(kolo_loop_new(NULL, &loop), "kolo_loop_new");
  kolo_address address;
  check_kolo(kolo_address_parse("127.0.0.1", 0, &address), "kolo_address_parse");
  kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
  options.backlog = LISTEN_BACKLOG;
  kolo_listener_handler accepting = {.size = sizeof accepting, .on_accept = on_accept, .on_error = on_accept_error};
  kolo_listener listener;
  check_kolo(kolo_tcp_listen(loop, &address, &options, &accepting, NULL, &listener), "kolo_tcp_listen");
  kolo_poll control;
  check_kolo(kolo_poll_open(loop, STDIN_FILENO, on_stdin, NULL, &control), "kolo_poll_open");
  check_kolo(kolo_poll_start(loop, control, KOLO_POLL_READABLE), "kolo_poll_start");
  check_kolo(kolo_listener_address(loop, listener, &address), "kolo_listener_address");
  printf("driver %s\n", kolo_loop_driver_name(loop));
  announce_port(address.port);
  check_kolo(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "kolo_loop_run");
  check_kolo(kolo_loop_free(loop), "kolo_loop_free");
  return 0;
}
