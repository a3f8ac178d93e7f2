/* Wakes and posts on libuv; see wakes.h. */
#include "mailbox.h"

#include <uv.h>

struct side {
  uv_loop_t loop;
  uv_async_t waker, post_waker;
  struct mailbox mailbox;
  void (*on_wake)(struct side *);
};

static void check_uv(int status, const char *what) {
  if (status < 0) die("%s: %s", what, uv_strerror(status));
}

static void on_wake(uv_async_t *async) {
  struct side *side = async->data;
  side->on_wake(side);
}

static void on_post(uv_async_t *async) { mailbox_run(&((struct side *)async->data)->mailbox); }

static void side_open(struct side *side, void (*callback)(struct side *)) {
  side->on_wake = callback;
  mailbox_open(&side->mailbox);
  check_uv(uv_loop_init(&side->loop), "uv_loop_init");
  check_uv(uv_async_init(&side->loop, &side->waker, on_wake), "uv_async_init");
  check_uv(uv_async_init(&side->loop, &side->post_waker, on_post), "uv_async_init");
  side->waker.data = side->post_waker.data = side;
}

static void side_run(struct side *side) { uv_run(&side->loop, UV_RUN_DEFAULT); }

static void side_stop(struct side *side) { uv_stop(&side->loop); }

static void side_close(struct side *side) {
  uv_close((uv_handle_t *)&side->waker, NULL);
  uv_close((uv_handle_t *)&side->post_waker, NULL);
  uv_run(&side->loop, UV_RUN_DEFAULT);
  check_uv(uv_loop_close(&side->loop), "uv_loop_close");
  mailbox_close(&side->mailbox);
}

static inline void side_wake(struct side *side) { check_uv(uv_async_send(&side->waker), "uv_async_send"); }

static inline bool side_post(struct side *side, struct message *message) {
  bool first;
  if (!mailbox_put(&side->mailbox, message, &first)) return false;
  if (first) check_uv(uv_async_send(&side->post_waker), "uv_async_send");
  return true;
}

#include "wakes.h"
