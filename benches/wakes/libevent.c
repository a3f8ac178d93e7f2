/* Wakes and posts on libevent, with its locks; see wakes.h. */
#include "mailbox.h"

#include <event2/event.h>
#include <event2/thread.h>

struct side {
  struct event_base *base;
  struct event *waker, *post_waker;
  struct mailbox mailbox;
  void (*on_wake)(struct side *);
};

static void on_wake(evutil_socket_t fd, short what, void *user) {
  (void)fd, (void)what;
  struct side *side = user;
  side->on_wake(side);
}

static void on_post(evutil_socket_t fd, short what, void *user) {
  (void)fd, (void)what;
  mailbox_run(&((struct side *)user)->mailbox);
}

static void side_open(struct side *side, void (*callback)(struct side *)) {
  static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&once);
  if (evthread_use_pthreads() < 0) die("evthread_use_pthreads failed");
  pthread_mutex_unlock(&once);
  side->on_wake = callback;
  mailbox_open(&side->mailbox);
  side->base = event_base_new();
  if (side->base == NULL) die("event_base_new failed");
  side->waker = event_new(side->base, -1, EV_PERSIST, on_wake, side);
  side->post_waker = event_new(side->base, -1, EV_PERSIST, on_post, side);
  if (side->waker == NULL || side->post_waker == NULL) die("event_new failed");
}

static void side_run(struct side *side) {
  if (event_base_loop(side->base, EVLOOP_NO_EXIT_ON_EMPTY) < 0) die("event_base_loop failed");
}

static void side_stop(struct side *side) { event_base_loopbreak(side->base); }

static void side_close(struct side *side) {
  event_free(side->waker);
  event_free(side->post_waker);
  event_base_free(side->base);
  mailbox_close(&side->mailbox);
}

static inline void side_wake(struct side *side) { event_active(side->waker, EV_READ, 0); }

static inline bool side_post(struct side *side, struct message *message) {
  bool first;
  if (!mailbox_put(&side->mailbox, message, &first)) return false;
  if (first) event_active(side->post_waker, EV_READ, 0);
  return true;
}

#include "wakes.h"
