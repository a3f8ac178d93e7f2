/* A million timers on libev; see timers.h. Re-arming goes by ev_timer_again, which moves the entry in the heap. */
#include "../common.h"

#include <ev.h>

static inline void timer_fired(size_t index);

static struct ev_loop *loop;
static ev_timer *timers;
static ev_timer body_timer;
static void (*body_to_run)(void);

static void on_timer(struct ev_loop *running, ev_timer *timer, int events) {
  (void)running, (void)events;
  timer_fired((size_t)(timer - timers));
}

static void timers_alloc(size_t count) { timers = checked_alloc(count, sizeof *timers); }

static inline void timer_open(size_t index) { ev_init(&timers[index], on_timer); }

static inline void timer_start(size_t index, uint32_t delay_ms) {
  ev_timer_set(&timers[index], delay_ms * 0.001, 0.);
  ev_timer_start(loop, &timers[index]);
}

static inline void timer_rearm(size_t index, uint32_t delay_ms) {
  timers[index].repeat = delay_ms * 0.001;
  ev_timer_again(loop, &timers[index]);
}

static inline void timer_stop(size_t index) { ev_timer_stop(loop, &timers[index]); }

static void timers_close(void) {
  ev_loop_destroy(loop);
  free(timers);
}

static void loop_open(void) {
  loop = ev_loop_new(EVBACKEND_EPOLL);
  if (loop == NULL) die("ev_loop_new failed");
}

static void on_body(struct ev_loop *running, ev_timer *timer, int events) {
  (void)running, (void)timer, (void)events;
  body_to_run();
}

static void loop_run_body(void (*body)(void)) {
  body_to_run = body;
  ev_timer_init(&body_timer, on_body, 0., 0.);
  ev_timer_start(loop, &body_timer);
  ev_run(loop, 0);
}

static void loop_stop(void) { ev_break(loop, EVBREAK_ALL); }

#include "timers.h"
