/* Reads by pread(2) alone, one after the other: what the kernel's part costs; see files.h. */
#include "../common.h"

#include <fcntl.h>

static inline void on_read(int slot, int64_t length);

static int file = -1;
static struct { char *memory; uint64_t at; } started[64];
static int first, last; /* of the ring */

static void loop_open(const char *path) { file = check_errno(open(path, O_RDONLY | O_CLOEXEC), path); }

static int slots[65];

static inline void read_at(int slot, char *memory, uint64_t at) {
  started[slot].memory = memory;
  started[slot].at = at;
  slots[last] = slot;
  last = (last + 1) % 65;
}

static void loop_run(void) {
  while (first != last) {
    int slot = slots[first];
    first = (first + 1) % 65;
    on_read(slot, pread(file, started[slot].memory, 4096, (off_t)started[slot].at));
  }
}

static void loop_close(void) { close(file); }

#include "files.h"
