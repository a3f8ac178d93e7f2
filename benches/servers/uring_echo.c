/* Echo on plain io_uring; see uring.h. What came is sent from where the kernel put it. */
#include "../common.h"

struct session {};

static void send_bytes(int fd, const uint8_t *bytes, size_t length);

static bool on_bytes(int fd, struct session *session, const uint8_t *bytes, size_t length) {
  (void)session;
  send_bytes(fd, bytes, length);
  return true;
}

static void session_end(struct session *session) { (void)session; }

#include "uring.h"

int main(int argc, char **argv) {
  if (parse_server_flags(argc, argv)) die("no timeouts in the plain io_uring server");
  return serve();
}
