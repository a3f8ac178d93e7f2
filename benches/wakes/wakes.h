/* Waking a loop from another thread, and posting work to it: the scenarios and their checks, the same for every
 * peer. A peer defines, before including this:
 *
 *   struct side;                                    a loop of one thread with a way to wake it
 *   static void side_open(struct side *, void (*on_wake)(struct side *));    on the thread that will run it
 *   static void side_run(struct side *);            until side_stop
 *   static void side_stop(struct side *);           inside one of its callbacks
 *   static void side_close(struct side *);          on its thread
 *   static inline void side_wake(struct side *);    from any thread
 *   static inline bool side_post(struct side *, struct message *);  from any thread; false: full, try again
 *
 * Output: "NAME NANOSECONDS" a line: processor time of the whole process, wall_* elapsed time. */
#ifndef BENCH_WAKES_H
#define BENCH_WAKES_H

#include "message.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>

enum { HANG_SECONDS = 120 };

static struct side near_side, far_side;
static sem_t far_ready, inside_callback, let_go, all_seen, may_close;
static uint64_t count, seen;
static atomic_bool ending;
static void (*far_on_wake)(struct side *);

static void *far_thread(void *ignored) {
  (void)ignored;
  side_open(&far_side, far_on_wake);
  sem_post(&far_ready);
  side_run(&far_side);
  sem_wait(&may_close);
  side_close(&far_side);
  return NULL;
}

static pthread_t start_far_thread(void (*on_wake)(struct side *)) {
  pthread_t thread;
  far_on_wake = on_wake;
  if (pthread_create(&thread, NULL, far_thread, NULL) != 0) die("no thread");
  sem_wait(&far_ready);
  return thread;
}

/* The far side closes only when nobody can still be inside a call that wakes it. */
static void end_far_thread(pthread_t thread) {
  sem_post(&may_close);
  pthread_join(thread, NULL);
}

static void report(const char *name, uint64_t total_ns) { printf("%s %.3f\n", name, (double)total_ns / (double)count); }

static void post_or_die(struct side *side, struct message *message) {
  if (!side_post(side, message)) die("the post queue is full");
}

/* ---- coalesced: the loop sits in a callback while another thread wakes it again and again ---- */

static void on_wake_blocking(struct side *side) {
  if (seen++ == 0) {
    sem_post(&inside_callback);
    sem_wait(&let_go);
  } else {
    side_stop(side); /* the many wakes have come as one */
  }
}

static void coalesced(void) {
  pthread_t thread = start_far_thread(on_wake_blocking);
  side_wake(&far_side);
  sem_wait(&inside_callback);
  side_wake(&far_side); /* this one is the wake-up that the following ones find pending */
  uint64_t begin = thread_cpu_ns();
  for (uint64_t i = 0; i < count; i++) side_wake(&far_side);
  uint64_t total = thread_cpu_ns() - begin;
  sem_post(&let_go);
  end_far_thread(thread);
  if (seen != 2) die("woken %llu times instead of once more", (unsigned long long)seen - 1);
  report("coalesced", total);
}

/* ---- round trips between two loops ---- */

static void far_answers_wake(struct side *side) {
  if (ending) side_stop(side);
  else side_wake(&near_side);
}

static void near_counts_wake(struct side *side) {
  ending = ++seen == count;
  side_wake(&far_side);
  if (ending) side_stop(side);
}

static struct message to_near, to_far;

static void run_at_far(struct message *message) {
  if (message->number == count) side_stop(&far_side);
  else post_or_die(&near_side, &to_near);
}

static void run_at_near(struct message *message) {
  (void)message;
  to_far.number = ++seen;
  post_or_die(&far_side, &to_far);
  if (seen == count) side_stop(&near_side);
}

static void no_wake_expected(struct side *side) {
  (void)side;
  die("a wake that nobody sent");
}

static void round_trips(const char *name, bool posts) {
  to_near.run = run_at_near;
  to_far.run = run_at_far;
  side_open(&near_side, posts ? no_wake_expected : near_counts_wake);
  pthread_t thread = start_far_thread(posts ? no_wake_expected : far_answers_wake);
  uint64_t wall = wall_ns(), begin = process_cpu_ns();
  if (posts) post_or_die(&far_side, &to_far);
  else side_wake(&far_side);
  side_run(&near_side);
  report(name, process_cpu_ns() - begin);
  printf("wall_%s %.3f\n", name, (double)(wall_ns() - wall) / (double)count);
  end_far_thread(thread);
  side_close(&near_side);
  if (seen != count) die("%llu round trips instead of %llu", (unsigned long long)seen, (unsigned long long)count);
}

/* ---- flood: one thread posts as fast as it can ---- */

static void run_in_order(struct message *message) {
  if (message->number != seen) die("post %llu came when %llu was due", (unsigned long long)message->number, (unsigned long long)seen);
  if (++seen < count) return;
  side_stop(&far_side);
  sem_post(&all_seen);
}

static void flood(void) {
  struct message *messages = checked_alloc(count, sizeof *messages);
  for (uint64_t i = 0; i < count; i++) messages[i] = (struct message){.run = run_in_order, .number = i};
  pthread_t thread = start_far_thread(no_wake_expected);
  uint64_t wall = wall_ns(), begin = process_cpu_ns();
  for (uint64_t i = 0; i < count; i++)
    while (!side_post(&far_side, &messages[i])) sched_yield();
  sem_wait(&all_seen);
  report("flood", process_cpu_ns() - begin);
  printf("wall_flood %.3f\n", (double)(wall_ns() - wall) / (double)count);
  end_far_thread(thread);
  free(messages);
}

int main(int argc, char **argv) {
  count = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
  if (count == 0) die("usage: %s coalesced|wake_round_trip|post_round_trip|flood COUNT", argv[0]);
  alarm(HANG_SECONDS); /* a wake that is lost ends here */
  sem_init(&far_ready, 0, 0);
  sem_init(&inside_callback, 0, 0);
  sem_init(&let_go, 0, 0);
  sem_init(&all_seen, 0, 0);
  sem_init(&may_close, 0, 0);
  if (strcmp(argv[1], "coalesced") == 0) coalesced();
  else if (strcmp(argv[1], "wake_round_trip") == 0) round_trips("wake_round_trip", false);
  else if (strcmp(argv[1], "post_round_trip") == 0) round_trips("post_round_trip", true);
  else if (strcmp(argv[1], "flood") == 0) flood();
  else die("no scenario %s", argv[1]);
  return 0;
}

#endif
