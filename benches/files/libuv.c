/* Files by libuv; see files.h. Requests and buffers are static, as a good user's are. Since 1.49 libuv hands files to io_uring only
 * where the loop is asked to (UV_LOOP_USE_IO_URING_SQPOLL); that takes a kernel thread that polls, whose time is not the process's, so
 * it is left as it is made. */
#include "../common.h"

#include <fcntl.h>
#include <uv.h>

static inline void on_done(int slot, int64_t length);

static uv_loop_t *loop;
static uv_file file;
static uv_fs_t requests[64];

static void on_transfer(uv_fs_t *request) {
  int64_t length = request->result;
  if (length < 0) die("a transfer: %s", uv_strerror((int)length));
  uv_fs_req_cleanup(request);
  on_done((int)(request - requests), length);
}

static void on_open(uv_fs_t *request) {
  uv_file opened = (uv_file)request->result;
  if (opened < 0) die("uv_fs_open: %s", uv_strerror(opened));
  uv_fs_req_cleanup(request);
  uv_fs_t closing;
  if (uv_fs_close(NULL, &closing, opened, NULL) < 0) die("uv_fs_close");
  uv_fs_req_cleanup(&closing);
  on_done((int)(request - requests), 4096);
}

static void loop_open(int descriptor) {
  loop = uv_default_loop();
  file = descriptor;
}

static inline void read_at(int slot, char *memory, uint64_t at) {
  uv_buf_t buffer = uv_buf_init(memory, 4096);
  int status = uv_fs_read(loop, &requests[slot], file, &buffer, 1, (int64_t)at, on_transfer);
  if (status < 0) die("uv_fs_read: %s", uv_strerror(status));
}

static inline void write_at(int slot, char *memory, uint64_t at) {
  uv_buf_t buffer = uv_buf_init(memory, 4096);
  int status = uv_fs_write(loop, &requests[slot], file, &buffer, 1, (int64_t)at, on_transfer);
  if (status < 0) die("uv_fs_write: %s", uv_strerror(status));
}

static inline void open_one(int slot, const char *name) {
  int status = uv_fs_open(loop, &requests[slot], name, O_RDONLY, 0, on_open);
  if (status < 0) die("uv_fs_open: %s", uv_strerror(status));
}

static void loop_run(void) { uv_run(loop, UV_RUN_DEFAULT); }

static void loop_close(void) {
  close(file);
  if (uv_loop_close(loop) < 0) die("uv_loop_close");
}

#include "files.h"
