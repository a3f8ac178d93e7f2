/* Echo on kolo, as its users would write it: attach a handler to what was accepted, write what came. */
#include "../common.h"

#include <kolo.h>

static bool with_timeouts;

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
  (void)user;
  int queued = kolo_stream_write(loop, stream, data, length);
  if (queued == 1) kolo_stream_read_stop(loop, stream); /* at the high mark: until on_drain */
  else if (queued < 0) kolo_close(loop, stream);
}

static void on_drain(kolo_loop *loop, kolo_stream stream, void *user) {
  (void)user;
  check_kolo(kolo_stream_read_start(loop, stream), "kolo_stream_read_start");
}

/* No on_end: kolo then sends what is queued, shuts down and closes. */
static const kolo_stream_handler echo = {.size = sizeof echo, .on_data = on_data, .on_drain = on_drain};

static void on_accept(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user) {
  (void)listener, (void)user;
  check_kolo(kolo_stream_attach(loop, stream, &echo, NULL), "kolo_stream_attach");
  if (!with_timeouts) return;
  const uint64_t limit_ns = IDLE_TIMEOUT_S * UINT64_C(1000000000);
  check_kolo(kolo_stream_set_timeouts(loop, stream, limit_ns, limit_ns), "kolo_stream_set_timeouts");
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
  with_timeouts = parse_server_flags(argc, argv);
  kolo_loop *loop;
  check_kolo(kolo_loop_new(NULL, &loop), "kolo_loop_new");

  kolo_address address;
  check_kolo(kolo_address_parse("127.0.0.1", 0, &address), "kolo_address_parse");
  kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
  options.backlog = LISTEN_BACKLOG;
  kolo_listener_handler handler = {.size = sizeof handler, .on_accept = on_accept, .on_error = on_accept_error};
  kolo_listener listener;
  check_kolo(kolo_tcp_listen(loop, &address, &options, &handler, NULL, &listener), "kolo_tcp_listen");
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
