/* Files by kolo; see files.h. */
#include "../common.h"

#include <kolo.h>

static inline void on_done(int slot, int64_t length);

static kolo_loop *loop;
static kolo_file file;

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void on_transfer(kolo_loop *running, kolo_request request, int status, uint64_t length, void *user) {
  (void)running, (void)request;
  check_kolo(status, "a transfer");
  on_done((int)(intptr_t)user, (int64_t)length);
}

static void on_open(kolo_loop *running, kolo_request request, int status, kolo_file opened, void *user) {
  (void)request;
  check_kolo(status, "kolo_file_open");
  check_kolo(kolo_file_close_sync(running, opened), "kolo_file_close_sync");
  on_done((int)(intptr_t)user, 4096);
}

static void loop_open(int descriptor) {
  check_kolo(kolo_loop_new(NULL, &loop), "kolo_loop_new");
  check_kolo(kolo_file_adopt(loop, descriptor, &file), "kolo_file_adopt");
}

static inline void read_at(int slot, char *memory, uint64_t at) {
  check_kolo(kolo_file_read(loop, file, memory, 4096, (int64_t)at, on_transfer, (void *)(intptr_t)slot, NULL), "kolo_file_read");
}

static inline void write_at(int slot, char *memory, uint64_t at) {
  check_kolo(kolo_file_write(loop, file, memory, 4096, (int64_t)at, on_transfer, (void *)(intptr_t)slot, NULL), "kolo_file_write");
}

static inline void open_one(int slot, const char *name) {
  check_kolo(kolo_file_open(loop, name, NULL, on_open, (void *)(intptr_t)slot, NULL), "kolo_file_open");
}

static void loop_run(void) { check_kolo(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "kolo_loop_run"); }

static void loop_close(void) { check_kolo(kolo_loop_free(loop), "kolo_loop_free"); }

#include "files.h"
