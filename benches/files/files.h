/* Random reads of a cached file, so many in flight. A peer defines, before including this:
 *
 *   static void loop_open(const char *path);                         opens the file for reading too
 *   static inline void read_at(int slot, char *memory, uint64_t at); starts a read of READ_BYTES; on_read is to be called
 *   static void loop_run(void);                                      until nothing is in flight
 *   static void loop_close(void);
 *
 * Each read is followed by another one from its callback. What comes is compared with what was written. Output: "NAME
 * NANOSECONDS" a line: processor time of the whole process, threads of pools included, and time by the clock, per read. */
#ifndef BENCH_FILES_H
#define BENCH_FILES_H

#include "../common.h"

#include <fcntl.h>

enum { READ_BYTES = 4096, FILE_BLOCKS = 16 * 1024, IN_FLIGHT = 64 };

static uint64_t reads_left, reads_done, random_state = 42;
static uint64_t block_of[IN_FLIGHT];
static char memory_of[IN_FLIGHT][READ_BYTES];

static inline void read_at(int slot, char *memory, uint64_t at);

static inline void start_read(int slot) {
  if (reads_left == 0) return;
  reads_left--;
  block_of[slot] = random_next(&random_state) % FILE_BLOCKS;
  read_at(slot, memory_of[slot], block_of[slot] * READ_BYTES);
}

static inline void on_read(int slot, int64_t length) {
  uint64_t found;
  memcpy(&found, memory_of[slot], sizeof found);
  if (length != READ_BYTES || found != block_of[slot]) die("block %llu: %lld bytes, of block %llu", (unsigned long long)block_of[slot], (long long)length, (unsigned long long)found);
  reads_done++;
  start_read(slot);
}

static void make_file(const char *path) {
  static uint64_t block[READ_BYTES / sizeof(uint64_t)];
  int file = check_errno(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), path);
  for (uint64_t i = 0; i < FILE_BLOCKS; i++) {
    block[0] = i;
    if (write(file, block, sizeof block) != (ssize_t)sizeof block) die("%s: %s", path, strerror(errno));
  }
  close(file);
}

int main(int argc, char **argv) {
  uint64_t count = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
  if (count == 0) die("usage: %s READS", argv[0]);
  char path[] = "/tmp/kolo-bench-XXXXXX";
  close(check_errno(mkstemp(path), "mkstemp"));
  make_file(path);
  loop_open(path);
  check_errno(unlink(path), "unlink");
  for (int round = 0; round < 2; round++) { /* the first one starts threads, and brings everything into the caches */
    reads_left = round == 0 ? count / 10 + 1 : count;
    reads_done = 0;
    uint64_t expected = reads_left, cpu = process_cpu_ns(), begin = wall_ns();
    for (int slot = 0; slot < IN_FLIGHT; slot++) start_read(slot);
    loop_run();
    cpu = process_cpu_ns() - cpu;
    begin = wall_ns() - begin;
    if (reads_done != expected) die("%llu reads instead of %llu", (unsigned long long)reads_done, (unsigned long long)expected);
    if (round == 1) printf("read %.3f\nread_by_the_clock %.3f\n", (double)cpu / (double)count, (double)begin / (double)count);
  }
  loop_close();
  return 0;
}

#endif
