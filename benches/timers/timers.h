/* Many timers: the phases and their checks, the same for every peer. A peer defines, before including this:
 *
 *   static void timers_alloc(size_t count);
 *   static inline void timer_open(size_t index);                      make timer `index` ready for use
 *   static inline void timer_start(size_t index, uint32_t delay_ms);  it is not running
 *   static inline void timer_rearm(size_t index, uint32_t delay_ms);  it is running: move its deadline
 *   static inline void timer_stop(size_t index);
 *   static void timers_close(void);
 *   static void loop_open(void);
 *   static void loop_run_body(void (*body)(void));  run the loop, with body inside one of its callbacks, until
 *                                                   no timer runs any more or loop_stop was called
 *   static void loop_stop(void);
 *
 * and calls timer_fired(index) from the timers' callback. All loops of the phases run inside a callback, as a
 * program's would: there the loop's time is cached, and checks that a library makes are those of real use.
 *
 * Output: "NAME NANOSECONDS" a line, processor time per timer (wall_* are milliseconds in all). */
#ifndef BENCH_TIMERS_H
#define BENCH_TIMERS_H

#include "../common.h"

enum { FAR_MS = 60 * 1000 };

static size_t timer_count;
static uint32_t run_within_ms = 1000; /* the deadlines of those that are run */
static uint32_t *delays_ms;
static uint32_t *order;
static uint64_t fired_count, fired_sum, fired_squares;
static uint64_t started_cpu_ns, run_cpu_ns, run_wall_ns, started_wall_ns;

static inline void timer_fired(size_t index) {
  fired_sum += index;
  fired_squares += index * index;
  if (++fired_count < timer_count) return;
  run_cpu_ns = thread_cpu_ns() - started_cpu_ns;
  run_wall_ns = wall_ns() - started_wall_ns;
}

static void report(const char *name, uint64_t total_ns) { printf("%s %.3f\n", name, (double)total_ns / (double)timer_count); }

static void shuffle(uint64_t seed) {
  for (size_t i = 0; i < timer_count; i++) order[i] = (uint32_t)i;
  for (size_t i = timer_count - 1; i > 0; i--) {
    size_t other = random_next(&seed) % (i + 1);
    uint32_t swapped = order[i];
    order[i] = order[other];
    order[other] = swapped;
  }
}

/* ---- insert and run ---- */

static uint64_t insert_cpu_ns;

static void start_all(void) {
  started_wall_ns = wall_ns();
  uint64_t begin = thread_cpu_ns();
  for (size_t i = 0; i < timer_count; i++) timer_start(i, delays_ms[i]);
  started_cpu_ns = thread_cpu_ns();
  insert_cpu_ns = started_cpu_ns - begin;
}

/* Each timer fired once, and the last one not before its time. */
static void check_run(void) {
  uint64_t sum = 0, squares = 0;
  uint32_t longest_ms = 0;
  for (size_t i = 0; i < timer_count; i++) {
    sum += i;
    squares += i * i;
    if (delays_ms[i] > longest_ms) longest_ms = delays_ms[i];
  }
  if (fired_count != timer_count || fired_sum != sum || fired_squares != squares)
    die("%llu of %zu timers fired, or not each of them once", (unsigned long long)fired_count, timer_count);
  /* libuv, libev and libevent count from the loop's time, read before the callback that starts the timers. */
  if (run_wall_ns + 20 * 1000000u < longest_ms * UINT64_C(1000000)) die("the last timer fired too early");
}

static void insert_and_run(const char *order_name) {
  fired_count = fired_sum = fired_squares = 0;
  loop_run_body(start_all);
  check_run();
  char name[32];
  snprintf(name, sizeof name, "insert_%s", order_name);
  report(name, insert_cpu_ns);
  snprintf(name, sizeof name, "run_%s", order_name);
  report(name, run_cpu_ns);
  printf("wall_%s %.3f\n", order_name, (double)run_wall_ns / 1e6);
}

/* ---- cancel, re-arm ---- */

static void start_far(void) {
  for (size_t i = 0; i < timer_count; i++) timer_start(i, FAR_MS + delays_ms[i]);
}

static void cancel_in_random_order(void) {
  start_far();
  uint64_t begin = thread_cpu_ns();
  for (size_t i = 0; i < timer_count; i++) timer_stop(order[i]);
  report("cancel", thread_cpu_ns() - begin);
  loop_stop();
}

/* As idle timeouts are: a random one at a time is put off, to a deadline that moves on with the clock. */
static void rearm_in_random_order(void) {
  start_far();
  uint64_t begin = thread_cpu_ns();
  for (size_t i = 0; i < timer_count; i++)
    timer_rearm(order[i], FAR_MS + run_within_ms + (uint32_t)(i * run_within_ms / timer_count));
  report("rearm", thread_cpu_ns() - begin);
  for (size_t i = 0; i < timer_count; i++) timer_stop(i);
  loop_stop();
}

static void open_all(void) {
  uint64_t begin = thread_cpu_ns();
  for (size_t i = 0; i < timer_count; i++) timer_open(i);
  report("open", thread_cpu_ns() - begin);
  loop_stop();
}

int main(int argc, char **argv) {
  timer_count = argc >= 2 ? strtoull(argv[1], NULL, 10) : 0;
  if (argc >= 3) run_within_ms = (uint32_t)strtoul(argv[2], NULL, 10);
  bool random_only = argc == 4 && strcmp(argv[3], "random") == 0; /* what the growth with their number is drawn of */
  if (timer_count == 0 || run_within_ms == 0 || argc > 4 || (argc == 4 && !random_only))
    die("usage: %s COUNT [WITHIN_MS [random]]", argv[0]);
  delays_ms = checked_alloc(timer_count, sizeof *delays_ms);
  order = checked_alloc(timer_count, sizeof *order);
  loop_open();
  timers_alloc(timer_count);
  loop_run_body(open_all);

  uint64_t seed = 20240501;
  if (!random_only) {
    for (size_t i = 0; i < timer_count; i++) delays_ms[i] = (uint32_t)(i * run_within_ms / timer_count);
    insert_and_run("ascending");
  }
  for (size_t i = 0; i < timer_count; i++) delays_ms[i] = (uint32_t)(random_next(&seed) % run_within_ms);
  insert_and_run("random");
  if (!random_only) {
    shuffle(1);
    loop_run_body(cancel_in_random_order);
  }
  shuffle(2);
  loop_run_body(rearm_in_random_order);
  timers_close();
  free(delays_ms);
  free(order);
  return 0;
}

#endif
