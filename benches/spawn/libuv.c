/* The programs of libuv; see spawn.h. */
#include "../common.h"

#include <uv.h>

static void on_exited(int status);

/* More than can be closing within one turn. */
enum { PROCESSES = 4096 };

static uv_loop_t *loop;
/* Handles are the caller's memory; those that have closed are used again. */
static uv_process_t processes[PROCESSES];
static uv_process_t *spare[PROCESSES];
static size_t spare_count;

static void check_uv(int status, const char *what) {
  if (status < 0) die("%s: %s", what, uv_strerror(status));
}

static void loop_open(void) {
  loop = uv_default_loop();
  for (size_t i = 0; i < PROCESSES; i++) spare[spare_count++] = &processes[i];
}

static void on_closed(uv_handle_t *handle) { spare[spare_count++] = (uv_process_t *)handle; }

static void on_exit_told(uv_process_t *process, int64_t status, int signal) {
  (void)signal;
  uv_close((uv_handle_t *)process, on_closed);
  on_exited((int)status);
}

static void spawn_true(void) {
  static char *arguments[] = {"true", NULL};
  uv_stdio_container_t stdio[3];
  for (int i = 0; i < 3; i++) {
    stdio[i].flags = UV_INHERIT_FD;
    stdio[i].data.fd = i;
  }
  uv_process_options_t options = {.exit_cb = on_exit_told, .file = "/bin/true", .args = arguments};
  options.stdio = stdio;
  options.stdio_count = 3;
  if (spare_count == 0) die("no handle is spare");
  check_uv(uv_spawn(loop, spare[--spare_count], &options), "uv_spawn");
}

static void loop_run(void) { uv_run(loop, UV_RUN_DEFAULT); }

static void loop_close(void) { check_uv(uv_loop_close(loop), "uv_loop_close"); }

#include "spawn.h"
