/* The turns of plain epoll; see waits.h. */
#include "../common.h"

#include <sys/epoll.h>

static inline void on_ready(void);

static int poller, watched, timeout_ms = -1;
static bool stopped;

static void loop_open(int fd) {
  watched = fd;
  poller = check_errno(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
}

static inline void turn(int wait_ms) {
  struct epoll_event events[1024];
  int count = check_errno(epoll_wait(poller, events, 1024, wait_ms), "epoll_wait");
  for (int i = 0; i < count; i++) on_ready();
}

static inline void loop_poll_once(void) { turn(0); }

static void timer_far(void) { timeout_ms = 1000 * 1000; }

static void fd_watch(void) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = watched};
  check_errno(epoll_ctl(poller, EPOLL_CTL_ADD, watched, &event), "epoll_ctl");
}

static void fd_unwatch(void) { check_errno(epoll_ctl(poller, EPOLL_CTL_DEL, watched, NULL), "epoll_ctl"); }

static void loop_run(void) {
  for (stopped = false; !stopped;) turn(timeout_ms);
}

static void loop_stop(void) { stopped = true; }

static void loop_close(void) { close(poller); }

#include "waits.h"
