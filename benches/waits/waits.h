/* The price of the loop itself: one turn, without any work of the program's. A peer defines, before including this:
 *
 *   static void loop_open(int fd);              fd is always readable; on_ready is to be called for it once watched
 *   static inline void loop_poll_once(void);    one turn that does not wait, nothing being ready
 *   static void timer_far(void);                start a timer that will not come
 *   static void fd_watch(void);                 level-triggered
 *   static void fd_unwatch(void);
 *   static void loop_run(void);                 until loop_stop
 *   static void loop_stop(void);
 *   static void loop_close(void);
 *
 * Output: "NAME NANOSECONDS" a line, processor time per turn. */
#ifndef BENCH_WAITS_H
#define BENCH_WAITS_H

#include "../common.h"

#include <sys/eventfd.h>

static uint64_t turn_count, ready_count;

static inline void on_ready(void) {
  if (++ready_count == turn_count) loop_stop();
}

static void report(const char *name, uint64_t total_ns) { printf("%s %.3f\n", name, (double)total_ns / (double)turn_count); }

static void one_ready(const char *name) {
  ready_count = 0;
  uint64_t begin = thread_cpu_ns();
  loop_run();
  report(name, thread_cpu_ns() - begin);
  if (ready_count != turn_count) die("%llu events instead of %llu", (unsigned long long)ready_count, (unsigned long long)turn_count);
}

static void nothing_ready(void) {
  ready_count = 0;
  uint64_t begin = thread_cpu_ns();
  for (uint64_t i = 0; i < turn_count; i++) loop_poll_once();
  report("nothing_ready", thread_cpu_ns() - begin);
  if (ready_count != 0) die("an event of a descriptor that nobody watches");
}

int main(int argc, char **argv) {
  turn_count = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
  if (turn_count == 0) die("usage: %s TURNS", argv[0]);
  int fd = check_errno(eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
  loop_open(fd);
  fd_watch();
  one_ready("one_ready");
  timer_far();
  one_ready("one_ready_timer");
  fd_unwatch();
  nothing_ready();
  loop_close();
  close(fd);
  return 0;
}

#endif
