/* A million timers on libevent; see timers.h. */
#include "../common.h"

#include <event2/event.h>
#include <event2/event_struct.h>

static inline void timer_fired(size_t index);

static struct event_base *base;
static struct event *timers;
static struct event body_timer;
static void (*body_to_run)(void);

static void check_event(int status, const char *what) {
  if (status < 0) die("%s failed", what);
}

static void on_timer(evutil_socket_t fd, short what, void *user) {
  (void)fd, (void)what;
  timer_fired((size_t)((struct event *)user - timers));
}

static void timers_alloc(size_t count) { timers = checked_alloc(count, sizeof *timers); }

static inline void timer_open(size_t index) {
  check_event(evtimer_assign(&timers[index], base, on_timer, &timers[index]), "evtimer_assign");
}

static inline void timer_start(size_t index, uint32_t delay_ms) {
  struct timeval delay = {.tv_sec = delay_ms / 1000, .tv_usec = delay_ms % 1000 * 1000};
  check_event(evtimer_add(&timers[index], &delay), "evtimer_add");
}

static inline void timer_rearm(size_t index, uint32_t delay_ms) { timer_start(index, delay_ms); }

static inline void timer_stop(size_t index) { check_event(evtimer_del(&timers[index]), "evtimer_del"); }

static void timers_close(void) {
  event_base_free(base);
  free(timers);
}

static void on_body(evutil_socket_t fd, short what, void *user) {
  (void)fd, (void)what, (void)user;
  body_to_run();
}

static void loop_open(void) {
  base = event_base_new();
  if (base == NULL) die("event_base_new failed");
  check_event(evtimer_assign(&body_timer, base, on_body, NULL), "evtimer_assign");
}

static void loop_run_body(void (*body)(void)) {
  struct timeval at_once = {.tv_sec = 0};
  body_to_run = body;
  check_event(evtimer_add(&body_timer, &at_once), "evtimer_add");
  check_event(event_base_dispatch(base), "event_base_dispatch");
}

static void loop_stop(void) { event_base_loopbreak(base); }

#include "timers.h"
