/* A program outside kolo's tree, built only with what is installed: one timer, run to its end. */
#include <kolo.h>
#include <stdio.h>
#include <string.h>

static int calls;

static void on_timer(kolo_loop *loop, kolo_timer timer, void *user) {
    calls++;
    if (user != &calls || kolo_close(loop, timer) != KOLO_OK) {
        calls = -100;
    }
}

int main(int argc, char **argv) {
    kolo_loop *loop = NULL;
    kolo_timer timer = 0;
    int error;

    if (argc != 2 || strcmp(argv[1], kolo_version_string()) != 0) {
        fprintf(stderr, "the library says version %s\n", kolo_version_string());
        return 2;
    }
    if ((error = kolo_loop_new(NULL, &loop)) < 0 || (error = kolo_timer_open(loop, on_timer, &calls, &timer)) < 0 ||
        (error = kolo_timer_start(loop, timer, 1000000, 0)) < 0 ||
        (error = kolo_loop_run(loop, KOLO_RUN_DEFAULT)) != 0 || (error = kolo_loop_free(loop)) < 0) {
        fprintf(stderr, "%s: %s\n", kolo_error_name(error), kolo_strerror(error));
        return 1;
    }
    printf("kolo %s, %d call\n", kolo_version_string(), calls);
    return calls == 1 ? 0 : 3;
}
