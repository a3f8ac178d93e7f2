/* Starting and reaping programs. A peer defines, before including this:
 *
 *   static void loop_open(void);
 *   static void spawn_true(void);   start /bin/true, with the standard descriptors; on_exited is to be called at its end
 *   static void loop_run(void);     until no program runs any more
 *   static void loop_close(void);
 *
 * Usage: PROGRAM COUNT MEBIBYTES. So much memory is resident before the first program is started.
 *
 * Output: "NAME NANOSECONDS" a line, per program. "one_*": each is started when the last one was told to have ended;
 * "many_*": AT_ONCE of them run at a time. "*_time" is the clock on the wall; "*_total" the processor time of the
 * parent and of the programs, which are the same for all; "*_parent" the parent's alone. */
#ifndef BENCH_SPAWN_H
#define BENCH_SPAWN_H

#include "../common.h"

#include <sys/mman.h>
#include <sys/resource.h>

enum { AT_ONCE = 16 };

static uint64_t left, exited;

static void spawn_one(void) {
  left--;
  spawn_true();
}

static void on_exited(int status) {
  if (status != 0) die("/bin/true ended with status %d", status);
  exited++;
  if (left > 0) spawn_one();
}

static uint64_t children_cpu_ns(void) {
  struct rusage usage;
  check_errno(getrusage(RUSAGE_CHILDREN, &usage), "getrusage");
  return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000u +
         (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u;
}

static void measure(const char *name, uint64_t count, uint64_t at_once) {
  left = count;
  exited = 0;
  uint64_t wall = wall_ns(), parent = process_cpu_ns(), children = children_cpu_ns();
  while (at_once-- > 0 && left > 0) spawn_one();
  loop_run();
  wall = wall_ns() - wall;
  parent = process_cpu_ns() - parent;
  children = children_cpu_ns() - children;
  if (exited != count) die("%llu ends of %llu programs", (unsigned long long)exited, (unsigned long long)count);
  printf("%s_time %.3f\n", name, (double)wall / (double)count);
  printf("%s_total %.3f\n", name, (double)(parent + children) / (double)count);
  printf("%s_parent %.3f\n", name, (double)parent / (double)count);
}

int main(int argc, char **argv) {
  uint64_t count = argc == 3 ? strtoull(argv[1], NULL, 10) : 0;
  size_t bytes = argc == 3 ? (size_t)strtoull(argv[2], NULL, 10) << 20 : 0;
  if (count == 0) die("usage: %s COUNT MEBIBYTES", argv[0]);
  if (bytes > 0) {
    /* In small pages, as a heap that grew has them. */
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("mmap: %s", strerror(errno));
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
  }
  loop_open();
  measure("warm", AT_ONCE, AT_ONCE);
  measure("one", count, 1);
  measure("many", count, AT_ONCE);
  loop_close();
  return 0;
}

#endif
