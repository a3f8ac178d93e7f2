/* Wakes and posts on libev; see wakes.h. */
#include "mailbox.h"

#include <ev.h>

struct side {
  struct ev_loop *loop;
  ev_async waker, post_waker;
  struct mailbox mailbox;
  void (*on_wake)(struct side *);
};

static void on_wake(struct ev_loop *loop, ev_async *async, int events) {
  (void)loop, (void)events;
  struct side *side = async->data;
  side->on_wake(side);
}

static void on_post(struct ev_loop *loop, ev_async *async, int events) {
  (void)loop, (void)events;
  mailbox_run(&((struct side *)async->data)->mailbox);
}

static void side_open(struct side *side, void (*callback)(struct side *)) {
  side->on_wake = callback;
  mailbox_open(&side->mailbox);
  side->loop = ev_loop_new(EVBACKEND_EPOLL);
  if (side->loop == NULL) die("ev_loop_new failed");
  ev_async_init(&side->waker, on_wake);
  ev_async_init(&side->post_waker, on_post);
  side->waker.data = side->post_waker.data = side;
  ev_async_start(side->loop, &side->waker);
  ev_async_start(side->loop, &side->post_waker);
}

static void side_run(struct side *side) { ev_run(side->loop, 0); }

static void side_stop(struct side *side) { ev_break(side->loop, EVBREAK_ALL); }

static void side_close(struct side *side) {
  ev_async_stop(side->loop, &side->waker);
  ev_async_stop(side->loop, &side->post_waker);
  ev_loop_destroy(side->loop);
  mailbox_close(&side->mailbox);
}

static inline void side_wake(struct side *side) { ev_async_send(side->loop, &side->waker); }

static inline bool side_post(struct side *side, struct message *message) {
  bool first;
  if (!mailbox_put(&side->mailbox, message, &first)) return false;
  if (first) ev_async_send(side->loop, &side->post_waker);
  return true;
}

#include "wakes.h"
