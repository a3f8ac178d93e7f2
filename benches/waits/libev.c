/* The turns of libev; see waits.h. */
#include "../common.h"

#include <ev.h>

static inline void on_ready(void);

static struct ev_loop *loop;
static ev_io io;
static ev_timer timer;

static void on_io(struct ev_loop *running, ev_io *ready, int events) {
  (void)running, (void)ready, (void)events;
  on_ready();
}

static void on_timer(struct ev_loop *running, ev_timer *fired, int events) {
  (void)running, (void)fired, (void)events;
  die("the far timer fired");
}

static void loop_open(int fd) {
  loop = ev_loop_new(EVBACKEND_EPOLL);
  if (loop == NULL) die("ev_loop_new failed");
  ev_io_init(&io, on_io, fd, EV_READ);
  ev_timer_init(&timer, on_timer, 1000., 0.);
}

static inline void loop_poll_once(void) { ev_run(loop, EVRUN_NOWAIT); }

static void timer_far(void) { ev_timer_start(loop, &timer); }

static void fd_watch(void) { ev_io_start(loop, &io); }

static void fd_unwatch(void) { ev_io_stop(loop, &io); }

static void loop_run(void) { ev_run(loop, 0); }

static void loop_stop(void) { ev_break(loop, EVBREAK_ALL); }

static void loop_close(void) {
  ev_timer_stop(loop, &timer);
  ev_loop_destroy(loop);
}

#include "waits.h"
