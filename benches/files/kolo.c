/* Reads by kolo; see files.h. */
#include "../common.h"

#include <kolo.h>

static inline void on_read(int slot, int64_t length);

static kolo_loop *loop;
static kolo_file file;

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void on_done(kolo_loop *running, kolo_request request, int status, uint64_t length, void *user) {
  (void)running, (void)request;
  check_kolo(status, "read");
  on_read((int)(intptr_t)user, (int64_t)length);
}

static void loop_open(const char *path) {
  check_kolo(kolo_loop_new(NULL, &loop), "kolo_loop_new");
  check_kolo(kolo_file_open_sync(loop, path, NULL, &file), "kolo_file_open_sync");
}

static inline void read_at(int slot, char *memory, uint64_t at) {
  check_kolo(kolo_file_read(loop, file, memory, 4096, (int64_t)at, on_done, (void *)(intptr_t)slot, NULL), "kolo_file_read");
}

static void loop_run(void) { check_kolo(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "kolo_loop_run"); }

static void loop_close(void) { check_kolo(kolo_loop_free(loop), "kolo_loop_free"); }

#include "files.h"
