/* One of two translation units of a program that both include the header; plain C that is plain C++ as well.
 * Every initialiser is used here, for objects of every storage duration, under -Wextra. */
#include <kolo.h>

#include <stdio.h>
#include <string.h>

int other_unit(kolo_loop *loop);

static const kolo_loop_options static_loop_options = KOLO_LOOP_OPTIONS_INIT;
static const kolo_metrics static_metrics = KOLO_METRICS_INIT;
static const kolo_stream_handler static_stream_handler = KOLO_STREAM_HANDLER_INIT;
static const kolo_listen_options static_listen_options = KOLO_LISTEN_OPTIONS_INIT;
static const kolo_connect_options static_connect_options = KOLO_CONNECT_OPTIONS_INIT;
static const kolo_resolve_options static_resolve_options = KOLO_RESOLVE_OPTIONS_INIT;
static const kolo_reverse_options static_reverse_options = KOLO_REVERSE_OPTIONS_INIT;
static const kolo_listener_handler static_listener_handler = KOLO_LISTENER_HANDLER_INIT;

static int failures;

static void check(int holds, const char *what) {
    printf("%-6s header/%s\n", holds ? "ok" : "FAILED", what);
    if (!holds) failures++;
}

static void quit(kolo_loop *loop, kolo_timer timer, void *user) {
    *(int *)user += 1;
    (void)kolo_close(loop, timer);
}

int main(void) {
    kolo_loop_options loop_options = KOLO_LOOP_OPTIONS_INIT;
    kolo_metrics metrics = KOLO_METRICS_INIT;
    kolo_stream_handler stream_handler = KOLO_STREAM_HANDLER_INIT;
    kolo_listen_options listen_options = KOLO_LISTEN_OPTIONS_INIT;
    kolo_connect_options connect_options = KOLO_CONNECT_OPTIONS_INIT;
    kolo_resolve_options resolve_options = KOLO_RESOLVE_OPTIONS_INIT;
    kolo_reverse_options reverse_options = KOLO_REVERSE_OPTIONS_INIT;
    kolo_listener_handler listener_handler = KOLO_LISTENER_HANDLER_INIT;
    kolo_loop *loop = NULL;
    kolo_timer timer = 0;
    int fired = 0;

    check(loop_options.size == sizeof(kolo_loop_options) && static_loop_options.size == loop_options.size,
          "loop_options_initialiser");
    check(metrics.size == sizeof(kolo_metrics) && static_metrics.size == metrics.size, "metrics_initialiser");
    check(stream_handler.size == sizeof(kolo_stream_handler) && static_stream_handler.size == stream_handler.size,
          "stream_handler_initialiser");
    check(listen_options.size == sizeof(kolo_listen_options) && static_listen_options.size == listen_options.size,
          "listen_options_initialiser");
    check(connect_options.size == sizeof(kolo_connect_options) && static_connect_options.size == connect_options.size,
          "connect_options_initialiser");
    check(resolve_options.size == sizeof(kolo_resolve_options) && static_resolve_options.size == resolve_options.size,
          "resolve_options_initialiser");
    check(reverse_options.size == sizeof(kolo_reverse_options) && static_reverse_options.size == reverse_options.size,
          "reverse_options_initialiser");
    check(listener_handler.size == sizeof(kolo_listener_handler) &&
              static_listener_handler.size == listener_handler.size,
          "listener_handler_initialiser");

    check(kolo_loop_new(&loop_options, &loop) == KOLO_OK, "loop_new");
    check(kolo_timer_open(loop, quit, &fired, &timer) == KOLO_OK, "timer_open");
    check(kolo_timer_start(loop, timer, 1000, 0) == KOLO_OK, "timer_start");
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT) == 0 && fired == 1, "loop_run");
    check(kolo_loop_metrics(loop, &metrics) == KOLO_OK && metrics.callbacks >= 1, "loop_metrics");
    check(other_unit(loop) == 0, "two_translation_units");
    check(kolo_loop_free(loop) == KOLO_OK, "loop_free");
    return failures != 0;
}
