/* The turns of libuv; see waits.h. */
#include "../common.h"

#include <uv.h>

static inline void on_ready(void);

static uv_loop_t *loop;
static uv_poll_t poll_handle;
static uv_timer_t timer;

static void check_uv(int status, const char *what) {
  if (status < 0) die("%s: %s", what, uv_strerror(status));
}

static void loop_open(int fd) {
  loop = uv_default_loop();
  check_uv(uv_poll_init(loop, &poll_handle, fd), "uv_poll_init");
  check_uv(uv_timer_init(loop, &timer), "uv_timer_init");
}

static inline void loop_poll_once(void) { uv_run(loop, UV_RUN_NOWAIT); }

static void on_timer(uv_timer_t *fired) {
  (void)fired;
  die("the far timer fired");
}

static void timer_far(void) { check_uv(uv_timer_start(&timer, on_timer, 1000 * 1000, 0), "uv_timer_start"); }

static void on_poll(uv_poll_t *handle, int status, int events) {
  (void)handle, (void)events;
  check_uv(status, "poll");
  on_ready();
}

static void fd_watch(void) { check_uv(uv_poll_start(&poll_handle, UV_READABLE, on_poll), "uv_poll_start"); }

static void fd_unwatch(void) { check_uv(uv_poll_stop(&poll_handle), "uv_poll_stop"); }

static void loop_run(void) { uv_run(loop, UV_RUN_DEFAULT); }

static void loop_stop(void) { uv_stop(loop); }

static void loop_close(void) {
  uv_close((uv_handle_t *)&poll_handle, NULL);
  uv_close((uv_handle_t *)&timer, NULL);
  uv_run(loop, UV_RUN_DEFAULT);
  check_uv(uv_loop_close(loop), "uv_loop_close");
}

#include "waits.h"
