/* Wakes and posts on kolo; see wakes.h. */
#include "message.h"

#include <kolo.h>

struct side {
  kolo_loop *loop;
  kolo_waker waker;
  kolo_remote *waker_remote, *loop_remote;
  void (*on_wake)(struct side *);
};

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void on_wake(kolo_loop *loop, kolo_waker waker, void *user) {
  (void)loop, (void)waker;
  struct side *side = user;
  side->on_wake(side);
}

static void side_open(struct side *side, void (*callback)(struct side *)) {
  side->on_wake = callback;
  check_kolo(kolo_loop_new(NULL, &side->loop), "kolo_loop_new");
  check_kolo(kolo_waker_open(side->loop, on_wake, side, &side->waker), "kolo_waker_open");
  check_kolo(kolo_waker_remote(side->loop, side->waker, &side->waker_remote), "kolo_waker_remote");
  check_kolo(kolo_loop_remote(side->loop, &side->loop_remote), "kolo_loop_remote");
}

static void side_run(struct side *side) { check_kolo(kolo_loop_run(side->loop, KOLO_RUN_DEFAULT), "kolo_loop_run"); }

static void side_stop(struct side *side) { check_kolo(kolo_loop_stop(side->loop), "kolo_loop_stop"); }

static void side_close(struct side *side) {
  check_kolo(kolo_loop_free(side->loop), "kolo_loop_free");
  check_kolo(kolo_remote_release(side->waker_remote), "kolo_remote_release");
  check_kolo(kolo_remote_release(side->loop_remote), "kolo_remote_release");
}

static inline void side_wake(struct side *side) { check_kolo(kolo_remote_wake(side->waker_remote), "kolo_remote_wake"); }

static void run_message(kolo_loop *loop, int status, void *user) {
  (void)loop;
  check_kolo(status, "post");
  struct message *message = user;
  message->run(message);
}

static inline bool side_post(struct side *side, struct message *message) {
  int status = kolo_remote_post(side->loop_remote, run_message, message);
  if (status != KOLO_ENOBUFS) check_kolo(status, "kolo_remote_post");
  return status == 0;
}

#include "wakes.h"
