/* The programs of kolo; see spawn.h. */
#include "../common.h"

#include <kolo.h>

static void on_exited(int status);

static kolo_loop *loop;

static void check_kolo(int status, const char *what) {
  if (status < 0) die("%s: %s", what, kolo_strerror(status));
}

static void loop_open(void) { check_kolo(kolo_loop_new(NULL, &loop), "kolo_loop_new"); }

static void on_exit_told(kolo_loop *running, kolo_process process, int status, int signal, void *user) {
  (void)running, (void)process, (void)signal, (void)user;
  on_exited(status);
}

static void spawn_true(void) {
  static const char *const arguments[] = {"true", NULL};
  kolo_process_options options = KOLO_PROCESS_OPTIONS_INIT;
  kolo_process process;
  options.program = "/bin/true";
  options.arguments = arguments;
  check_kolo(kolo_process_spawn(loop, &options, on_exit_told, NULL, &process), "kolo_process_spawn");
}

static void loop_run(void) { check_kolo(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "kolo_loop_run"); }

static void loop_close(void) { check_kolo(kolo_loop_free(loop), "kolo_loop_free"); }

#include "spawn.h"
