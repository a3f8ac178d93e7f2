/* The turns of kolo; see waits.h. */
#include "../common.h"

#include <kolo.h>

static inline void on_ready(void);

static kolo_loop *loop;
static kolo_poll poll_handle;
static kolo_timer timer;

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void on_poll(kolo_loop *running, kolo_poll handle, int status, uint32_t events, void *user) {
  (void)running, (void)handle, (void)events, (void)user;
  check_kolo(status, "poll");
  on_ready();
}

static void on_timer(kolo_loop *running, kolo_timer fired, void *user) {
  (void)running, (void)fired, (void)user;
  die("the far timer fired");
}

static void loop_open(int fd) {
  check_kolo(kolo_loop_new(NULL, &loop), "kolo_loop_new");
  check_kolo(kolo_poll_open(loop, fd, on_poll, NULL, &poll_handle), "kolo_poll_open");
  check_kolo(kolo_timer_open(loop, on_timer, NULL, &timer), "kolo_timer_open");
}

static inline void loop_poll_once(void) { check_kolo(kolo_loop_run(loop, KOLO_RUN_NOWAIT), "kolo_loop_run"); }

static void timer_far(void) {
  check_kolo(kolo_timer_start(loop, timer, UINT64_C(1000000000000), 0), "kolo_timer_start");
}

static void fd_watch(void) { check_kolo(kolo_poll_start(loop, poll_handle, KOLO_POLL_READABLE), "kolo_poll_start"); }

static void fd_unwatch(void) { check_kolo(kolo_poll_stop(loop, poll_handle), "kolo_poll_stop"); }

static void loop_run(void) { check_kolo(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "kolo_loop_run"); }

static void loop_stop(void) { check_kolo(kolo_loop_stop(loop), "kolo_loop_stop"); }

static void loop_close(void) { check_kolo(kolo_loop_free(loop), "kolo_loop_free"); }

#include "waits.h"
