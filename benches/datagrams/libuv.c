/* Datagrams on libuv at its best: UV_UDP_RECVMMSG with a buffer for a whole batch, uv_udp_try_send, and uv_udp_send only
 * for what the kernel does not take at once. */
#include "datagrams.h"

#include <uv.h>

/* libuv receives at most 20 at once, each into 64 KiB. */
enum { CHUNK = 64 * 1024, CHUNKS = 20 };

static char buffer[CHUNKS * CHUNK];
static uv_udp_t udp;
static uv_idle_t idle;
static uv_poll_t control;
static enum role role;

static void check_uv(int status, const char *what) {
  if (status < 0) die("%s: %s", what, uv_strerror(status));
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out) {
  (void)handle, (void)suggested;
  *out = uv_buf_init(buffer, sizeof buffer);
}

struct held {
  uv_udp_send_t request;
  char bytes[];
};

static void on_sent(uv_udp_send_t *request, int status) {
  check_uv(status, "uv_udp_send");
  free(request->data);
}

static void send_datagram(const void *bytes, size_t length, const struct sockaddr *to) {
  uv_buf_t piece = uv_buf_init((char *)bytes, (unsigned)length);
  int sent = uv_udp_try_send(&udp, &piece, 1, to);
  if (sent >= 0) return;
  if (sent != UV_EAGAIN) check_uv(sent, "uv_udp_try_send");
  struct held *held = malloc(sizeof *held + length);
  if (held == NULL) die("out of memory");
  memcpy(held->bytes, bytes, length);
  held->request.data = held;
  piece = uv_buf_init(held->bytes, (unsigned)length);
  check_uv(uv_udp_send(&held->request, &udp, &piece, 1, to, on_sent), "uv_udp_send");
}

static void on_datagram(uv_udp_t *handle, ssize_t count, const uv_buf_t *piece, const struct sockaddr *from, unsigned flags) {
  (void)handle, (void)flags;
  check_uv((int)count, "a datagram");
  if (from == NULL) return; /* the socket is empty, or the batch is over */
  if (role == ROLE_ECHO) send_datagram(piece->base, (size_t)count, from);
  else datagram_count((const uint8_t *)piece->base, (size_t)count);
}

static void on_idle(uv_idle_t *handle) {
  uint8_t datagram[DATAGRAM_BYTES_MAX];
  if (!flood_goes_on()) {
    uv_idle_stop(handle);
    return;
  }
  for (int i = 0; i < BURST; i++) {
    flood_next(datagram);
    send_datagram(datagram, datagram_bytes, NULL);
  }
}

static void on_stdin(uv_poll_t *handle, int status, int events) {
  char line[64];
  (void)status, (void)events;
  enum control said = read_control(line, sizeof line);
  if (said == CONTROL_END) uv_stop(handle->loop);
  if (said != CONTROL_LINE) return;
  if (role == ROLE_SINK) sink_report();
  if (role != ROLE_FLOOD) return;
  flood_start(line);
  check_uv(uv_idle_start(&idle, on_idle), "uv_idle_start");
}

int main(int argc, char **argv) {
  uint16_t port;
  role = parse_role(argc, argv, &port);
  uv_loop_t *loop = uv_default_loop();
  check_uv(uv_udp_init_ex(loop, &udp, AF_INET | UV_UDP_RECVMMSG), "uv_udp_init_ex");
  struct sockaddr_in address = loopback(0), peer = loopback(port);
  check_uv(uv_udp_bind(&udp, (struct sockaddr *)&address, 0), "uv_udp_bind");
  if (role == ROLE_FLOOD) {
    check_uv(uv_udp_connect(&udp, (struct sockaddr *)&peer), "uv_udp_connect");
    check_uv(uv_idle_init(loop, &idle), "uv_idle_init");
  } else {
    check_uv(uv_udp_recv_start(&udp, on_alloc, on_datagram), "uv_udp_recv_start");
  }
  check_uv(uv_poll_init(loop, &control, STDIN_FILENO), "uv_poll_init");
  check_uv(uv_poll_start(&control, UV_READABLE, on_stdin), "uv_poll_start");
  int length = sizeof address;
  check_uv(uv_udp_getsockname(&udp, (struct sockaddr *)&address, &length), "uv_udp_getsockname");
  announce_port(ntohs(address.sin_port));
  uv_run(loop, UV_RUN_DEFAULT);
  return 0;
}
