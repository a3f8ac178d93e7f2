/* Files by the system calls alone, one after the other: what the kernel's part costs; see files.h. */
#include "../common.h"

#include <fcntl.h>

static inline void on_done(int slot, int64_t length);

static int file = -1;
static struct { char *memory; const char *name; uint64_t at; int writes; } started[64];
static int slots[65], first, last; /* of the ring */

static void loop_open(int descriptor) { file = descriptor; }

static inline void start(int slot, char *memory, const char *name, uint64_t at, int writes) {
  started[slot].memory = memory;
  started[slot].name = name;
  started[slot].at = at;
  started[slot].writes = writes;
  slots[last] = slot;
  last = (last + 1) % 65;
}

static inline void read_at(int slot, char *memory, uint64_t at) { start(slot, memory, NULL, at, 0); }

static inline void write_at(int slot, char *memory, uint64_t at) { start(slot, memory, NULL, at, 1); }

static inline void open_one(int slot, const char *name) { start(slot, NULL, name, 0, 0); }

static void loop_run(void) {
  while (first != last) {
    int slot = slots[first];
    first = (first + 1) % 65;
    if (started[slot].name) {
      close(check_errno(open(started[slot].name, O_RDONLY | O_CLOEXEC), started[slot].name));
      on_done(slot, 4096);
    } else if (started[slot].writes) {
      on_done(slot, pwrite(file, started[slot].memory, 4096, (off_t)started[slot].at));
    } else {
      on_done(slot, pread(file, started[slot].memory, 4096, (off_t)started[slot].at));
    }
  }
}

static void loop_close(void) { close(file); }

#include "files.h"
