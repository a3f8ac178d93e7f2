/* Wakes and posts on plain epoll: an edge-triggered eventfd, written for each wake and never read; see wakes.h.
 * Nothing coalesces here: this is what one wake-up costs in the kernel. */
#include "mailbox.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

struct side {
  int poller, waker, post_waker;
  bool stopped;
  struct mailbox mailbox;
  void (*on_wake)(struct side *);
};

static int watched_eventfd(int poller) {
  int fd = check_errno(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
  struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.fd = fd};
  check_errno(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  return fd;
}

static void side_open(struct side *side, void (*callback)(struct side *)) {
  side->on_wake = callback;
  side->stopped = false;
  mailbox_open(&side->mailbox);
  side->poller = check_errno(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
  side->waker = watched_eventfd(side->poller);
  side->post_waker = watched_eventfd(side->poller);
}

static void side_run(struct side *side) {
  while (!side->stopped) {
    struct epoll_event events[8];
    int ready = epoll_wait(side->poller, events, 8, -1);
    if (ready < 0 && errno == EINTR) continue;
    check_errno(ready, "epoll_wait");
    for (int i = 0; i < ready; i++) {
      if (events[i].data.fd == side->waker) side->on_wake(side);
      else mailbox_run(&side->mailbox);
    }
  }
}

static void side_stop(struct side *side) { side->stopped = true; }

static void side_close(struct side *side) {
  close(side->waker);
  close(side->post_waker);
  close(side->poller);
  mailbox_close(&side->mailbox);
}

static inline void signal_eventfd(int fd) {
  const uint64_t one = 1;
  if (write(fd, &one, sizeof one) != sizeof one) die("eventfd: %s", strerror(errno));
}

static inline void side_wake(struct side *side) { signal_eventfd(side->waker); }

static inline bool side_post(struct side *side, struct message *message) {
  bool first;
  if (!mailbox_put(&side->mailbox, message, &first)) return false;
  if (first) signal_eventfd(side->post_waker);
  return true;
}

#include "wakes.h"
