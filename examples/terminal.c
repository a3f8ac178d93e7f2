/* terminal.c: shows the keys that are pressed, and the size of the window, until q.
 *
 * Build:  cc terminal.c $(pkg-config --cflags --libs kolo) -o terminal
 * Try:    ./terminal     press keys, make the window larger and smaller, press q; or end it from elsewhere with kill:
 *                        the terminal is as it was, however the program ends (but for kill -9)
 *
 * The terminal is the standard input. It may be closed, redirected, or no terminal: kolo_guess_kind tells. */
#include <kolo.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "terminal: %s: %s\n", what, kolo_strerror(result));
        exit(1); /* puts the terminal back, too */
    }
    return result;
}

static void say(kolo_loop *loop, kolo_tty tty, const char *text)
{
    check(kolo_stream_write(loop, tty, text, strlen(text)), "write");
}

static void say_size(kolo_loop *loop, kolo_tty tty, const kolo_window_size *size)
{
    char line[80];
    snprintf(line, sizeof line, "window: %d columns, %d rows\r\n", size->columns, size->rows);
    say(loop, tty, line);
}

static void on_resize(kolo_loop *loop, kolo_tty tty, const kolo_window_size *size, void *user)
{
    (void)user;
    say_size(loop, tty, size);
}

/* Closing puts the terminal back, and with the last handle closed the loop ends. */
static void on_all_written(kolo_loop *loop, kolo_stream tty, int status, void *user)
{
    (void)status, (void)user;
    check(kolo_close(loop, tty), "close");
}

/* A key is one byte, or several that come together: an arrow, a letter outside of ASCII. */
static void on_keys(kolo_loop *loop, kolo_stream tty, const uint8_t *keys, size_t length, void *user)
{
    (void)user;
    for (size_t i = 0; i < length; i++) {
        char line[40];
        if (keys[i] == 'q') {
            say(loop, tty, "bye\r\n");
            check(kolo_stream_read_stop(loop, tty), "stop reading"); /* what is typed now is not for us */
            check(kolo_stream_shutdown(loop, tty, on_all_written, NULL), "shut down");
            return;
        }
        if (keys[i] > ' ' && keys[i] < 127)
            snprintf(line, sizeof line, "key: %c\r\n", keys[i]);
        else
            snprintf(line, sizeof line, "key: byte %d\r\n", keys[i]);
        say(loop, tty, line);
    }
}

/* The window was closed (SIGHUP ends the program before, as a rule). */
static void on_error(kolo_loop *loop, kolo_stream tty, int error, void *user)
{
    (void)loop, (void)tty, (void)user;
    fprintf(stderr, "terminal: %s\n", kolo_strerror(error));
}

int main(void)
{
    kolo_loop *loop;
    kolo_tty tty;
    kolo_window_size size;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;

    if (kolo_guess_kind(0) != KOLO_DESCRIPTOR_TTY) {
        fprintf(stderr, "terminal: the standard input is no terminal\n");
        return 2;
    }
    check(kolo_loop_new(NULL, &loop), "create the loop");
    handler.on_data = on_keys;
    handler.on_error = on_error;
    check(kolo_tty_open(loop, 0, &handler, NULL, &tty), "open the terminal");
    check(kolo_tty_set_mode(loop, tty, KOLO_TTY_RAW), "set the mode");

    say(loop, tty, "press keys; q ends\r\n");
    check(kolo_tty_window_size(loop, tty, &size), "ask the size");
    say_size(loop, tty, &size);
    check(kolo_tty_on_resize(loop, tty, on_resize, NULL), "watch the size");

    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    return 0;
}
