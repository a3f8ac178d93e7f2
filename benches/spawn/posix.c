/* posix_spawn(3) and waitpid(2) without a library or a loop; see spawn.h. */
#include "../common.h"

#include <spawn.h>
#include <sys/wait.h>

static void on_exited(int status);

extern char **environ;

static unsigned running;

static void loop_open(void) {}

static void spawn_true(void) {
  static char *arguments[] = {"true", NULL};
  pid_t pid;
  int error = posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, environ);
  if (error != 0) die("posix_spawn: %s", strerror(error));
  running++;
}

static void loop_run(void) {
  while (running > 0) {
    int status;
    check_errno(waitpid(-1, &status, 0), "waitpid");
    running--;
    on_exited(status);
  }
}

static void loop_close(void) {}

#include "spawn.h"
