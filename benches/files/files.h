/* Work on files, so much in flight. A peer defines, before including this:
 *
 *   static void loop_open(int descriptor);                            an open file, for reading and writing; its own from then on
 *   static inline void read_at(int slot, char *memory, uint64_t at);  starts a read of READ_BYTES; on_done is to be called
 *   static inline void write_at(int slot, char *memory, uint64_t at); a write of as many
 *   static inline void open_one(int slot, const char *path);          opens for reading and closes again; on_done is told READ_BYTES
 *   static void loop_run(void);                                       until nothing is in flight
 *   static void loop_close(void);
 *
 * What is measured:
 *
 *   read    random reads of a file that the kernel has in memory
 *   cold    random reads of a file that the kernel has not in memory; every fourth or so meets a block that was read before
 *   direct  random reads around the kernel's memory (O_DIRECT): each waits for the disk
 *   write   random writes around it
 *   open    opening for reading, and closing
 *
 * Each operation is followed by another one from its callback. What is read is compared with what was written. Output: "NAME
 * NANOSECONDS" a line: processor time of the whole process, threads of pools included, and time by the clock, per operation. */
#ifndef BENCH_FILES_H
#define BENCH_FILES_H

#include "../common.h"

#include <fcntl.h>

enum { READ_BYTES = 4096, FILE_BLOCKS = 16 * 1024, IN_FLIGHT_MAX = 64 };

static enum { READ, COLD, DIRECT, WRITE, OPEN } measured;
static uint64_t left, done, random_state = 42;
static uint64_t block_of[IN_FLIGHT_MAX];
static char memory_of[IN_FLIGHT_MAX][READ_BYTES] __attribute__((aligned(4096)));
static char path[4096];

static inline void read_at(int slot, char *memory, uint64_t at);
static inline void write_at(int slot, char *memory, uint64_t at);
static inline void open_one(int slot, const char *name);

static inline void start_one(int slot) {
  if (left == 0) return;
  left--;
  block_of[slot] = random_next(&random_state) % FILE_BLOCKS;
  switch (measured) {
    case READ: case COLD: case DIRECT: read_at(slot, memory_of[slot], block_of[slot] * READ_BYTES); break;
    case WRITE:
      memcpy(memory_of[slot], &block_of[slot], sizeof block_of[slot]);
      write_at(slot, memory_of[slot], block_of[slot] * READ_BYTES);
      break;
    case OPEN: open_one(slot, path); break;
  }
}

static inline void on_done(int slot, int64_t length) {
  uint64_t found = block_of[slot];
  if (measured != OPEN) memcpy(&found, memory_of[slot], sizeof found);
  if (length != READ_BYTES || found != block_of[slot]) die("block %llu: %lld bytes, of block %llu", (unsigned long long)block_of[slot], (long long)length, (unsigned long long)found);
  done++;
  start_one(slot);
}

static int make_file(void) {
  static uint64_t block[READ_BYTES / sizeof(uint64_t)];
  snprintf(path, sizeof path, "%s/kolo-bench-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
  int file = check_errno(mkstemp(path), path);
  for (uint64_t i = 0; i < FILE_BLOCKS; i++) {
    block[0] = i;
    if (write(file, block, sizeof block) != (ssize_t)sizeof block) die("%s: %s", path, strerror(errno));
  }
  check_errno(fsync(file), "fsync");
  close(file);
  return check_errno(open(path, O_RDWR | O_CLOEXEC | (measured == DIRECT || measured == WRITE ? O_DIRECT : 0)), path);
}

int main(int argc, char **argv) {
  static const char *const names[] = {"read", "cold", "direct", "write", "open"};
  uint64_t count = argc == 4 ? strtoull(argv[2], NULL, 10) : 0;
  int in_flight = argc == 4 ? atoi(argv[3]) : 0, known = 0;
  for (int i = 0; argc == 4 && i < 5; i++)
    if (strcmp(argv[1], names[i]) == 0) measured = i, known = 1;
  if (!known || count == 0 || in_flight < 1 || in_flight > IN_FLIGHT_MAX) die("usage: %s read|cold|direct|write|open COUNT IN_FLIGHT", argv[0]);
  int file = make_file();
  loop_open(file);
  for (int round = 0; round < 2; round++) { /* the first one starts threads, and brings everything into the caches */
    if (measured == COLD && (posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) != 0 || posix_fadvise(file, 0, 0, POSIX_FADV_RANDOM) != 0)) die("posix_fadvise");
    left = round == 0 ? count / 10 + 1 : count;
    done = 0;
    uint64_t expected = left, cpu = process_cpu_ns(), begin = wall_ns();
    for (int slot = 0; slot < in_flight; slot++) start_one(slot);
    loop_run();
    cpu = process_cpu_ns() - cpu;
    begin = wall_ns() - begin;
    if (done != expected) die("%llu operations instead of %llu", (unsigned long long)done, (unsigned long long)expected);
    if (round == 1) printf("%s %.3f\n%s_by_the_clock %.3f\n", argv[1], (double)cpu / (double)count, argv[1], (double)begin / (double)count);
  }
  loop_close();
  check_errno(unlink(path), "unlink");
  return 0;
}

#endif
