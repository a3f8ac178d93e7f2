/* watch.c: prints what changes in a folder, and in all folders below it, until Ctrl-C.
 *
 * Build:  cc watch.c $(pkg-config --cflags --libs kolo) -o watch
 * Try:    ./watch .                    and change something; or a file: ./watch ~/.profile
 *         ./watch --poll 500 /mnt/nfs  looks every 500 milliseconds, where the system tells nothing
 *
 * Paths are relative to what is watched; the empty one, here ".", is what is watched itself. It may be removed and made
 * again, or replaced as editors do it: the watch goes on. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "watch: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

/* Names are bytes: whatever might confuse a terminal is written as \xNN. */
static void print_path(const char *path, size_t length, bool is_directory)
{
    if (length == 0) putchar('.');
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)path[i];
        if (byte < 0x20 || byte == 0x7f || byte == '\\') printf("\\x%02x", byte);
        else putchar(byte);
    }
    if (is_directory) putchar('/');
}

static void on_event(kolo_loop *loop, kolo_watch watch, const kolo_watch_event *event, void *user)
{
    (void)loop, (void)watch, (void)user;
    switch (event->change) {
    case KOLO_WATCH_CREATED: printf("created   "); break;
    case KOLO_WATCH_MODIFIED: printf("modified  "); break;
    case KOLO_WATCH_METADATA: printf("metadata  "); break;
    case KOLO_WATCH_REMOVED: printf("removed   "); break;
    case KOLO_WATCH_RENAMED:
        printf("renamed   ");
        print_path(event->from, event->from_length, event->is_directory);
        printf(" -> ");
        break;
    case KOLO_WATCH_READY: puts("watching"); fflush(stdout); return;
    /* A program that mirrors a folder compares all of it now. */
    case KOLO_WATCH_OVERFLOW: puts("changes were lost: look at everything anew"); fflush(stdout); return;
    case KOLO_WATCH_ERROR: printf("cannot watch (%s) ", kolo_strerror(event->error)); break;
    default: return; /* of a later version */
    }
    print_path(event->path, event->path_length, event->is_directory);
    if (event->before != NULL && event->after != NULL && event->before->bytes != event->after->bytes)
        printf("  %llu -> %llu bytes", (unsigned long long)event->before->bytes,
               (unsigned long long)event->after->bytes);
    putchar('\n');
    fflush(stdout);
}

static void on_interrupt(kolo_loop *loop, kolo_signal signal_handle, int number, void *user)
{
    kolo_watch *watch = user;
    (void)number;
    check(kolo_close(loop, *watch), "close the watch");
    check(kolo_close(loop, signal_handle), "close the signal handle"); /* nothing is left: the loop ends */
}

int main(int argc, char **argv)
{
    kolo_loop *loop;
    kolo_watch watch;
    kolo_signal interrupt;
    kolo_watch_options options = KOLO_WATCH_OPTIONS_INIT;
    int at = 1;

    options.recursive = true;
    if (argc > 2 && strcmp(argv[1], "--poll") == 0) {
        options.poll_ns = strtoull(argv[2], NULL, 10) * 1000000u;
        at = 3;
    }
    if (argc != at + 1) {
        fprintf(stderr, "usage: watch [--poll MILLISECONDS] PATH\n");
        return 2;
    }

    check(kolo_loop_new(NULL, &loop), "create the loop");
    check(kolo_watch_open(loop, argv[at], &options, on_event, NULL, &watch), argv[at]);
    check(kolo_signal_open(loop, on_interrupt, &watch, &interrupt), "open a signal handle");
    check(kolo_signal_start(loop, interrupt, SIGINT), "SIGINT");

    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    return 0;
}
