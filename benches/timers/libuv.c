/* A million timers on libuv; see timers.h. */
#include "../common.h"

#include <uv.h>

static inline void timer_fired(size_t index);

static uv_loop_t *loop;
static uv_timer_t *timers;
static size_t timers_used;
static uv_timer_t body_timer;
static void (*body_to_run)(void);

static void check_uv(int status, const char *what) {
  if (status < 0) die("%s: %s", what, uv_strerror(status));
}

static void on_timer(uv_timer_t *timer) { timer_fired((size_t)(timer - timers)); }

static void timers_alloc(size_t count) {
  timers = checked_alloc(count, sizeof *timers);
  timers_used = count;
}

static inline void timer_open(size_t index) { check_uv(uv_timer_init(loop, &timers[index]), "uv_timer_init"); }

static inline void timer_start(size_t index, uint32_t delay_ms) {
  check_uv(uv_timer_start(&timers[index], on_timer, delay_ms, 0), "uv_timer_start");
}

static inline void timer_rearm(size_t index, uint32_t delay_ms) { timer_start(index, delay_ms); }

static inline void timer_stop(size_t index) { check_uv(uv_timer_stop(&timers[index]), "uv_timer_stop"); }

static void timers_close(void) {
  for (size_t i = 0; i < timers_used; i++) uv_close((uv_handle_t *)&timers[i], NULL);
  uv_close((uv_handle_t *)&body_timer, NULL);
  uv_run(loop, UV_RUN_DEFAULT);
  check_uv(uv_loop_close(loop), "uv_loop_close");
  free(timers);
}

static void loop_open(void) {
  loop = uv_default_loop();
  check_uv(uv_timer_init(loop, &body_timer), "uv_timer_init");
}

static void on_body(uv_timer_t *timer) {
  (void)timer;
  body_to_run();
}

static void loop_run_body(void (*body)(void)) {
  body_to_run = body;
  check_uv(uv_timer_start(&body_timer, on_body, 0, 0), "uv_timer_start");
  uv_run(loop, UV_RUN_DEFAULT);
}

static void loop_stop(void) { uv_stop(loop); }

#include "timers.h"
