/* A million timers on kolo; see timers.h. */
#include "../common.h"

#include <kolo.h>

static inline void timer_fired(size_t index);

static kolo_loop *loop;
static kolo_timer *timers;
static size_t timers_used;
static kolo_timer body_timer;
static void (*body_to_run)(void);

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void on_timer(kolo_loop *running, kolo_timer timer, void *user) {
  (void)running, (void)timer;
  timer_fired((size_t)((kolo_timer *)user - timers));
}

static void timers_alloc(size_t count) {
  timers = checked_alloc(count, sizeof *timers);
  timers_used = count;
}

static inline void timer_open(size_t index) {
  check_kolo(kolo_timer_open(loop, on_timer, &timers[index], &timers[index]), "kolo_timer_open");
}

static inline void timer_start(size_t index, uint32_t delay_ms) {
  check_kolo(kolo_timer_start(loop, timers[index], delay_ms * UINT64_C(1000000), 0), "kolo_timer_start");
}

static inline void timer_rearm(size_t index, uint32_t delay_ms) { timer_start(index, delay_ms); }

static inline void timer_stop(size_t index) { check_kolo(kolo_timer_stop(loop, timers[index]), "kolo_timer_stop"); }

static void timers_close(void) {
  for (size_t i = 0; i < timers_used; i++) check_kolo(kolo_close(loop, timers[i]), "kolo_close");
  check_kolo(kolo_loop_free(loop), "kolo_loop_free");
  free(timers);
}

static void on_body(kolo_loop *running, kolo_timer timer, void *user) {
  (void)running, (void)timer, (void)user;
  body_to_run();
}

static void loop_open(void) {
  check_kolo(kolo_loop_new(NULL, &loop), "kolo_loop_new");
  check_kolo(kolo_timer_open(loop, on_body, NULL, &body_timer), "kolo_timer_open");
}

static void loop_run_body(void (*body)(void)) {
  body_to_run = body;
  check_kolo(kolo_timer_start(loop, body_timer, 0, 0), "kolo_timer_start");
  check_kolo(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "kolo_loop_run");
}

static void loop_stop(void) { check_kolo(kolo_loop_stop(loop), "kolo_loop_stop"); }

#include "timers.h"
