/* Datagrams on kolo: the offloads are on by themselves, and nothing else is to be asked for. */
#include "datagrams.h"

#include <kolo.h>

static kolo_hook idle;
static kolo_udp udp;
static enum role role;

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void on_echo(kolo_loop *loop, kolo_udp socket, const kolo_datagram *datagram, void *user) {
  (void)user;
  check_kolo(kolo_udp_send(loop, socket, datagram->data, datagram->length, &datagram->from), "kolo_udp_send");
}

static void on_sink(kolo_loop *loop, kolo_udp socket, const kolo_datagram *datagram, void *user) {
  (void)loop, (void)socket, (void)user;
  datagram_count(datagram->data, datagram->length);
}

static void on_error(kolo_loop *loop, kolo_udp socket, const kolo_datagram_error *error, void *user) {
  (void)loop, (void)socket, (void)user;
  check_kolo(error->error, "a datagram");
}

static void on_idle(kolo_loop *loop, kolo_hook hook, void *user) {
  uint8_t datagram[DATAGRAM_BYTES_MAX];
  (void)user;
  if (!flood_goes_on()) {
    check_kolo(kolo_hook_stop(loop, hook), "kolo_hook_stop");
    return;
  }
  for (int i = 0; i < BURST; i++) {
    flood_next(datagram);
    int full = kolo_udp_send(loop, udp, datagram, datagram_bytes, NULL);
    check_kolo(full, "kolo_udp_send");
    if (full == 1) break; /* the next burst is as good */
  }
}

static void on_stdin(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
  char line[64];
  (void)poll, (void)status, (void)events, (void)user;
  enum control control = read_control(line, sizeof line);
  if (control == CONTROL_END) kolo_loop_stop(loop);
  if (control != CONTROL_LINE) return;
  if (role == ROLE_SINK) sink_report();
  if (role != ROLE_FLOOD) return;
  flood_start(line);
  check_kolo(kolo_hook_start(loop, idle), "kolo_hook_start");
}

int main(int argc, char **argv) {
  uint16_t port;
  role = parse_role(argc, argv, &port);
  kolo_loop *loop;
  check_kolo(kolo_loop_new(NULL, &loop), "kolo_loop_new");

  kolo_address address, peer;
  check_kolo(kolo_address_parse("127.0.0.1", 0, &address), "kolo_address_parse");
  kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
  handler.on_error = on_error;
  if (role == ROLE_ECHO) handler.on_datagram = on_echo;
  if (role == ROLE_SINK) handler.on_datagram = on_sink;
  check_kolo(kolo_udp_bind(loop, &address, NULL, &handler, NULL, &udp), "kolo_udp_bind");
  if (role == ROLE_FLOOD) {
    check_kolo(kolo_address_parse("127.0.0.1", port, &peer), "kolo_address_parse");
    check_kolo(kolo_udp_connect(loop, udp, &peer), "kolo_udp_connect");
    check_kolo(kolo_hook_open(loop, KOLO_HOOK_IDLE, on_idle, NULL, &idle), "kolo_hook_open");
  }
  kolo_poll control;
  check_kolo(kolo_poll_open(loop, STDIN_FILENO, on_stdin, NULL, &control), "kolo_poll_open");
  check_kolo(kolo_poll_start(loop, control, KOLO_POLL_READABLE), "kolo_poll_start");
  check_kolo(kolo_udp_local(loop, udp, &address), "kolo_udp_local");
  announce_port(address.port);

  check_kolo(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "kolo_loop_run");
  check_kolo(kolo_loop_free(loop), "kolo_loop_free");
  return 0;
}
