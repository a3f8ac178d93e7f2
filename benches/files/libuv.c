/* Reads by libuv; see files.h. Requests and buffers are static, as a good user's are. */
#include "../common.h"

#include <fcntl.h>
#include <uv.h>

static inline void on_read(int slot, int64_t length);

static uv_loop_t *loop;
static uv_file file;
static uv_fs_t requests[64];

static void on_done(uv_fs_t *request) {
  int64_t length = request->result;
  if (length < 0) die("read: %s", uv_strerror((int)length));
  uv_fs_req_cleanup(request);
  on_read((int)(request - requests), length);
}

static void loop_open(const char *path) {
  uv_fs_t request;
  loop = uv_default_loop();
  file = uv_fs_open(NULL, &request, path, O_RDONLY, 0, NULL);
  if (file < 0) die("uv_fs_open: %s", uv_strerror(file));
  uv_fs_req_cleanup(&request);
}

static inline void read_at(int slot, char *memory, uint64_t at) {
  uv_buf_t buffer = uv_buf_init(memory, 4096);
  int status = uv_fs_read(loop, &requests[slot], file, &buffer, 1, (int64_t)at, on_done);
  if (status < 0) die("uv_fs_read: %s", uv_strerror(status));
}

static void loop_run(void) { uv_run(loop, UV_RUN_DEFAULT); }

static void loop_close(void) {
  close(file);
  if (uv_loop_close(loop) < 0) die("uv_loop_close");
}

#include "files.h"
