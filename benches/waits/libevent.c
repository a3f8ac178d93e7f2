/* The turns of libevent; see waits.h. */
#include "../common.h"

#include <event2/event.h>

static inline void on_ready(void);

static struct event_base *base;
static struct event *io, *timer;

static void check_event(int status, const char *what) {
  if (status < 0) die("%s failed", what);
}

static void on_io(evutil_socket_t fd, short what, void *user) {
  (void)fd, (void)what, (void)user;
  on_ready();
}

static void on_timer(evutil_socket_t fd, short what, void *user) {
  (void)fd, (void)what, (void)user;
  die("the far timer fired");
}

static void loop_open(int fd) {
  base = event_base_new();
  if (base == NULL) die("event_base_new failed");
  io = event_new(base, fd, EV_READ | EV_PERSIST, on_io, NULL);
  timer = evtimer_new(base, on_timer, NULL);
  if (io == NULL || timer == NULL) die("event_new failed");
}

static inline void loop_poll_once(void) { check_event(event_base_loop(base, EVLOOP_NONBLOCK), "event_base_loop"); }

static void timer_far(void) {
  struct timeval far_away = {.tv_sec = 1000};
  check_event(evtimer_add(timer, &far_away), "evtimer_add");
}

static void fd_watch(void) { check_event(event_add(io, NULL), "event_add"); }

static void fd_unwatch(void) { check_event(event_del(io), "event_del"); }

static void loop_run(void) { check_event(event_base_dispatch(base), "event_base_dispatch"); }

static void loop_stop(void) { event_base_loopbreak(base); }

static void loop_close(void) {
  event_free(io);
  event_free(timer);
  event_base_free(base);
}

#include "waits.h"
