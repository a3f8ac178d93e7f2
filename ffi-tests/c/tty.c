/* Terminals: streams, modes that are put back however the process ends, the size of the window. On pseudo-terminals. */
#include "harness.h"

#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>

/* A terminal, and the side of it that an emulator has. */
typedef struct terminal {
    int emulator;
    int own;
    struct termios before;
} terminal;

static terminal terminal_open(void) {
    terminal one;
    SYSTEM(openpty(&one.emulator, &one.own, NULL, NULL, NULL));
    SYSTEM(tcgetattr(one.own, &one.before));
    return one;
}

static void terminal_close(terminal *one) {
    raw_close(&one->emulator);
    raw_close(&one->own);
}

static bool is_as_found(const terminal *one) {
    struct termios now;
    SYSTEM(tcgetattr(one->own, &now));
    return now.c_lflag == one->before.c_lflag && now.c_oflag == one->before.c_oflag &&
           now.c_iflag == one->before.c_iflag && memcmp(now.c_cc, one->before.c_cc, sizeof now.c_cc) == 0;
}

static tcflag_t local_flags(const terminal *one) {
    struct termios now;
    SYSTEM(tcgetattr(one->own, &now));
    return now.c_lflag;
}

static void type_keys(const terminal *one, const char *keys) {
    CHECK_INT(write(one->emulator, keys, strlen(keys)), strlen(keys));
}

static void wait_for_text(const terminal *one, const char *text) {
    char shown[64];
    size_t length = 0;
    while (length < strlen(text)) {
        length += (size_t)SYSTEM(read(one->emulator, shown + length, strlen(text) - length));
    }
    shown[length] = '\0';
    CHECK_STRING(shown, text);
}

static void resize(const terminal *one, unsigned short columns, unsigned short rows) {
    struct winsize size = {rows, columns, (unsigned short)(columns * 8), (unsigned short)(rows * 16)};
    SYSTEM(ioctl(one->emulator, TIOCSWINSZ, &size));
}

static kolo_tty open_tty(kolo_loop *loop, int descriptor, peer *me) {
    kolo_stream_handler handler = peer_handler();
    memset(me, 0, sizeof *me);
    me->loop = loop;
    CHECK_OK(kolo_tty_open(loop, descriptor, &handler, me, &me->stream));
    return me->stream;
}

static void close_tty(kolo_loop *loop, peer *me) {
    if (me->closed == 0) CHECK_OK(kolo_close(loop, me->stream));
    RUN_UNTIL(loop, me->closed == 1);
    peer_free(me);
}

/* Has the terminal for its own, in a session of its own, in the foreground. */
static void take_for_own(const terminal *one) {
    SYSTEM(setsid());
    SYSTEM(ioctl(one->own, TIOCSCTTY, 0));
}

/* In a child that has the terminal for its own: sets the mode, says so, and goes on as `then` does. */
static pid_t start_child(const terminal *one, int mode, void (*then)(kolo_loop *loop, kolo_tty tty)) {
    fflush(NULL);
    pid_t child = (pid_t)SYSTEM(fork());
    if (child != 0) return child;
    kolo_loop *loop;
    peer me;
    take_for_own(one);
    CHECK_OK(kolo_loop_new(NULL, &loop));
    kolo_tty tty = open_tty(loop, one->own, &me);
    CHECK_OK(kolo_tty_set_mode(loop, tty, mode));
    CHECK_INT(kolo_stream_write(loop, tty, "!", 1), 0);
    then(loop, tty);
    _exit(98);
}

static void run_on(kolo_loop *loop, kolo_tty tty) {
    (void)tty;
    kolo_loop_run(loop, KOLO_RUN_DEFAULT);
}

static int end_of(pid_t child) {
    int status;
    CHECK_INT(waitpid(child, &status, 0), child);
    return status;
}

/* ---- opening ---- */

TEST(what_is_no_terminal_is_refused) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_tty tty = 7;
    int ends[2], null = (int)SYSTEM(open("/dev/null", O_RDWR));
    SYSTEM(pipe(ends));
    CHECK_ERROR(kolo_tty_open(loop, ends[0], &handler, NULL, &tty), KOLO_ENOTTY);
    CHECK_ERROR(kolo_tty_open(loop, null, &handler, NULL, &tty), KOLO_ENOTTY);
    int closed = ends[1];
    raw_close(&ends[1]);
    CHECK_ERROR(kolo_tty_open(loop, closed, &handler, NULL, &tty), KOLO_EBADF);
    CHECK_ERROR(kolo_tty_open(loop, -1, &handler, NULL, &tty), KOLO_EBADF);
    CHECK_INT(tty, 7);
    raw_close(&ends[0]);
    raw_close(&null);
}

TEST(null_pointers_and_structs_of_a_wrong_size) {
    terminal one = terminal_open();
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_tty tty = 0;
    CHECK_ERROR(kolo_tty_open(loop, one.own, NULL, NULL, &tty), KOLO_EINVAL);
    CHECK_ERROR(kolo_tty_open(loop, one.own, &handler, NULL, NULL), KOLO_EINVAL);
    handler.size = 3;
    CHECK_ERROR(kolo_tty_open(loop, one.own, &handler, NULL, &tty), KOLO_EINVAL);
    handler.size = sizeof handler;
    CHECK_OK(kolo_tty_open(loop, one.own, &handler, NULL, &tty));
    CHECK_ERROR(kolo_tty_window_size(loop, tty, NULL), KOLO_EINVAL);
    static const int modes[] = {-1, 4, 99, INT32_MAX};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        CHECK_ERROR(kolo_tty_set_mode(loop, tty, modes[i]), KOLO_EINVAL);
    CHECK(is_as_found(&one));
    terminal_close(&one);
}

TEST(a_terminal_is_a_stream) {
    terminal one = terminal_open();
    peer me;
    int flags = fcntl(one.own, F_GETFL);
    kolo_tty tty = open_tty(loop, one.own, &me);
    CHECK_INT(kolo_kind_of(loop, tty), KOLO_KIND_TTY);
    type_keys(&one, "first\rsecond\r");
    RUN_UNTIL(loop, me.received == strlen("first\nsecond\n"));
    CHECK_RECEIVED(&me, "first\nsecond\n");
    CHECK_INT(kolo_stream_write(loop, tty, "text\n", 5), 0);
    wait_for_text(&one, "first\r\nsecond\r\ntext\r\n");
    CHECK_INT(fcntl(one.own, F_GETFL), flags); /* the others' calls still wait */
    type_keys(&one, "\x04");
    RUN_UNTIL(loop, me.ended == 1);
    CHECK_INT(me.opened, 0);
    close_tty(loop, &me);
    CHECK(descriptor_is_open(one.own));
    terminal_close(&one);
}

/* ---- modes ---- */

TEST(modes_and_back) {
    terminal one = terminal_open();
    peer me;
    kolo_tty tty = open_tty(loop, one.own, &me);
    CHECK_OK(kolo_tty_set_mode(loop, tty, KOLO_TTY_NORMAL));
    CHECK(is_as_found(&one));
    CHECK_OK(kolo_tty_set_mode(loop, tty, KOLO_TTY_RAW));
    CHECK_INT(local_flags(&one) & (ICANON | ECHO | ISIG), 0);
    type_keys(&one, "\x03\rq");
    RUN_UNTIL(loop, me.received == 3);
    CHECK_RECEIVED(&me, "\x03\rq");
    CHECK_OK(kolo_tty_set_mode(loop, tty, KOLO_TTY_CBREAK));
    CHECK_INT(local_flags(&one) & (ICANON | ECHO | ISIG), ISIG);
    CHECK_OK(kolo_tty_set_mode(loop, tty, KOLO_TTY_RAW_INPUT));
    CHECK_INT(local_flags(&one) & (ICANON | ECHO | ISIG), 0);
    CHECK_INT(kolo_stream_write(loop, tty, "\n", 1), 0);
    wait_for_text(&one, "\r\n");
    CHECK_OK(kolo_tty_set_mode(loop, tty, KOLO_TTY_NORMAL));
    CHECK(is_as_found(&one));
    close_tty(loop, &me);
    terminal_close(&one);
}

static void close_in_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    (void)data, (void)length;
    CHECK_OK(kolo_close(loop, stream));
    CHECK(is_as_found(user));
}

TEST(closing_in_its_own_callback_puts_the_mode_back) {
    terminal one = terminal_open();
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_tty tty = 0;
    handler.on_data = close_in_data;
    CHECK_OK(kolo_tty_open(loop, one.own, &handler, &one, &tty));
    CHECK_OK(kolo_tty_set_mode(loop, tty, KOLO_TTY_RAW));
    type_keys(&one, "q");
    run_to_end(loop);
    CHECK(is_as_found(&one));
    terminal_close(&one);
}

TEST_WITHOUT_LOOP(freeing_the_loop_puts_the_mode_back) {
    terminal one = terminal_open(), other = terminal_open();
    kolo_loop *loop;
    peer me, you;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_OK(kolo_tty_set_mode(loop, open_tty(loop, one.own, &me), KOLO_TTY_RAW));
    CHECK_OK(kolo_tty_set_mode(loop, open_tty(loop, other.own, &you), KOLO_TTY_CBREAK));
    CHECK(!is_as_found(&one) && !is_as_found(&other));
    CHECK_OK(kolo_loop_free(loop));
    CHECK(is_as_found(&one) && is_as_found(&other));
    peer_free(&me);
    peer_free(&you);
    terminal_close(&one);
    terminal_close(&other);
}

TEST_WITHOUT_LOOP(every_signal_that_ends_a_process_puts_the_mode_back) {
    static const int numbers[] = {SIGHUP, SIGINT,  SIGQUIT, SIGTERM, SIGABRT, SIGPIPE, SIGALRM, SIGUSR1,
                                  SIGUSR2, SIGXCPU, SIGXFSZ, SIGSYS, SIGVTALRM, SIGPROF};
    bool valgrind = getenv("KOLO_TEST_VALGRIND") != NULL;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (valgrind && numbers[i] == SIGSYS) continue; /* which it takes for a fault of its own, from wherever it comes */
        terminal one = terminal_open();
        pid_t child = start_child(&one, KOLO_TTY_RAW, run_on);
        wait_for_text(&one, "!");
        CHECK(!is_as_found(&one));
        SYSTEM(kill(child, numbers[i]));
        int status = end_of(child);
        CHECK(WIFSIGNALED(status));
        CHECK_INT(WTERMSIG(status), numbers[i]);
        CHECK(is_as_found(&one));
        terminal_close(&one);
    }
}

static void fault(kolo_loop *loop, kolo_tty tty) {
    (void)loop, (void)tty;
    volatile int *volatile nowhere = NULL;
    *nowhere = 1;
}

static void abort_it(kolo_loop *loop, kolo_tty tty) {
    (void)loop, (void)tty;
    abort();
}

static void exit_it(kolo_loop *loop, kolo_tty tty) {
    (void)loop, (void)tty;
    exit(7);
}

static void free_and_exit(kolo_loop *loop, kolo_tty tty) {
    (void)tty;
    CHECK_OK(kolo_loop_free(loop));
    _exit(7);
}

TEST_WITHOUT_LOOP(however_a_process_ends_the_mode_is_put_back) {
    static const struct {
        void (*then)(kolo_loop *loop, kolo_tty tty);
        int signal; /* 0: an exit with status 7 */
    } cases[] = {{fault, SIGSEGV}, {abort_it, SIGABRT}, {exit_it, 0}, {free_and_exit, 0}};
    bool valgrind = getenv("KOLO_TEST_VALGRIND") != NULL;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (valgrind && (cases[i].then == fault || cases[i].then == exit_it)) continue; /* it would report them */
        terminal one = terminal_open();
        int status = end_of(start_child(&one, KOLO_TTY_RAW, cases[i].then));
        if (cases[i].signal != 0) {
            CHECK(WIFSIGNALED(status));
            CHECK_INT(WTERMSIG(status), cases[i].signal);
        } else {
            CHECK(WIFEXITED(status));
            CHECK_INT(WEXITSTATUS(status), 7);
        }
        CHECK(is_as_found(&one));
        terminal_close(&one);
    }
}

static const terminal *the_terminal;

static void own_handler(int number) {
    (void)number;
    int saved = errno;
    _exit(kolo_tty_reset_mode() == 0 && errno == saved ? 7 : 8);
}

static void with_own_handler(kolo_loop *loop, kolo_tty tty) {
    (void)tty;
    signal(SIGTERM, own_handler);
    SYSTEM(raise(SIGTERM));
    kolo_loop_run(loop, KOLO_RUN_DEFAULT);
}

TEST_WITHOUT_LOOP(a_handler_of_the_programs_own_puts_the_mode_back) {
    terminal one = terminal_open();
    the_terminal = &one;
    int status = end_of(start_child(&one, KOLO_TTY_RAW, with_own_handler));
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 7);
    CHECK(is_as_found(&one));
    terminal_close(&one);
}

TEST(reset_mode_holds_until_a_mode_is_set_again) {
    terminal one = terminal_open();
    peer me;
    CHECK_OK(kolo_tty_reset_mode()); /* nothing to do */
    kolo_tty tty = open_tty(loop, one.own, &me);
    CHECK_OK(kolo_tty_set_mode(loop, tty, KOLO_TTY_RAW));
    CHECK_OK(kolo_tty_reset_mode());
    CHECK(is_as_found(&one));
    SYSTEM(raise(SIGCONT));
    CHECK(is_as_found(&one));
    CHECK_OK(kolo_tty_set_mode(loop, tty, KOLO_TTY_RAW));
    CHECK(!is_as_found(&one));
    close_tty(loop, &me);
    CHECK(is_as_found(&one));
    terminal_close(&one);
}

/* ---- the window ---- */

typedef struct sizes {
    int calls;
    kolo_window_size last;
    bool close;
    bool stop;
} sizes;

static void note_size(kolo_loop *loop, kolo_tty tty, const kolo_window_size *size, void *user) {
    sizes *me = user;
    me->calls++;
    me->last = *size;
    if (me->close) CHECK_OK(kolo_close(loop, tty));
    if (me->stop) CHECK_OK(kolo_tty_on_resize(loop, tty, NULL, NULL));
}

TEST(the_size_of_the_window) {
    terminal one = terminal_open();
    peer me;
    kolo_window_size size;
    resize(&one, 120, 40);
    kolo_tty tty = open_tty(loop, one.own, &me);
    memset(&size, 0xa5, sizeof size);
    CHECK_OK(kolo_tty_window_size(loop, tty, &size));
    CHECK_INT(size.columns, 120);
    CHECK_INT(size.rows, 40);
    CHECK_INT(size.width_px, 960);
    CHECK_INT(size.height_px, 640);
    close_tty(loop, &me);
    terminal_close(&one);
}

/* In the child, which has the terminal for its own. */
static void watch_window(kolo_loop *loop, kolo_tty tty) {
    const terminal *one = the_terminal;
    sizes mine = {0, {0, 0, 0, 0}, false, false};
    CHECK_OK(kolo_tty_on_resize(loop, tty, note_size, &mine));
    resize(one, 81, 25);
    CHECK_INT(mine.calls, 0); /* inside kolo_loop_run only */
    RUN_UNTIL(loop, mine.calls == 1);
    CHECK_INT(mine.last.columns, 81);
    SYSTEM(raise(SIGWINCH)); /* the same size still */
    run_some_turns(loop);
    CHECK_INT(mine.calls, 1);
    mine.stop = true;
    resize(one, 82, 25);
    RUN_UNTIL(loop, mine.calls == 2);
    resize(one, 83, 25);
    run_some_turns(loop);
    CHECK_INT(mine.calls, 2);
    mine.stop = false;
    mine.close = true;
    CHECK_OK(kolo_tty_on_resize(loop, tty, note_size, &mine));
    resize(one, 84, 25);
    RUN_UNTIL(loop, mine.calls == 3);
    CHECK_ERROR(kolo_tty_on_resize(loop, tty, note_size, &mine), KOLO_EBADF);
    run_to_end(loop);
    CHECK(is_as_found(one));
    CHECK_OK(kolo_loop_free(loop));
    _exit(7);
}

TEST_WITHOUT_LOOP(another_size_of_the_window_is_told) {
    terminal one = terminal_open();
    resize(&one, 80, 25);
    the_terminal = &one;
    int status = end_of(start_child(&one, KOLO_TTY_RAW, watch_window));
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 7);
    terminal_close(&one);
}

/* ---- misuse ---- */

TEST(closed_handles_and_those_of_another_kind) {
    terminal one = terminal_open();
    peer me;
    kolo_window_size size;
    pair both;
    pair_open(loop, &both);
    kolo_tty tty = open_tty(loop, one.own, &me);
    close_tty(loop, &me);
    kolo_handle wrong[] = {tty, both.client.stream, 0};
    for (size_t i = 0; i < 3; i++) {
        CHECK_ERROR(kolo_tty_set_mode(loop, wrong[i], KOLO_TTY_RAW), KOLO_EBADF);
        CHECK_ERROR(kolo_tty_set_mode(loop, wrong[i], KOLO_TTY_NORMAL), KOLO_EBADF);
        CHECK_ERROR(kolo_tty_window_size(loop, wrong[i], &size), KOLO_EBADF);
        CHECK_ERROR(kolo_tty_on_resize(loop, wrong[i], note_size, NULL), KOLO_EBADF);
        CHECK_ERROR(kolo_tty_on_resize(loop, wrong[i], NULL, NULL), KOLO_EBADF);
    }
    CHECK(is_as_found(&one));
    pair_close(loop, &both);
    terminal_close(&one);
}

/* ---- what a descriptor is ---- */

TEST_WITHOUT_LOOP(guesses_what_a_descriptor_is) {
    terminal one = terminal_open();
    int ends[2], locals[2], datagrams[2];
    SYSTEM(pipe(ends));
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, locals));
    SYSTEM(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
    kolo_address any = loopback_v4(0), bound;
    int listener = raw_listen(&any, 1, &bound), tcp[2];
    raw_pair(tcp);
    int udp = (int)SYSTEM(socket(AF_INET6, SOCK_DGRAM, 0));
    int null = (int)SYSTEM(open("/dev/null", O_RDONLY));
    int folder = (int)SYSTEM(open("/", O_RDONLY));
    int file = (int)SYSTEM(open("/proc/self/exe", O_RDONLY));
    const struct {
        int descriptor, kind;
    } cases[] = {{one.own, KOLO_DESCRIPTOR_TTY},         {ends[0], KOLO_DESCRIPTOR_PIPE},
                 {ends[1], KOLO_DESCRIPTOR_PIPE},        {locals[0], KOLO_DESCRIPTOR_LOCAL},
                 {datagrams[0], KOLO_DESCRIPTOR_LOCAL_DATAGRAM}, {listener, KOLO_DESCRIPTOR_TCP_LISTENER},
                 {tcp[0], KOLO_DESCRIPTOR_TCP},          {udp, KOLO_DESCRIPTOR_UDP},
                 {null, KOLO_DESCRIPTOR_DEVICE},         {folder, KOLO_DESCRIPTOR_DIRECTORY},
                 {file, KOLO_DESCRIPTOR_FILE},           {-1, KOLO_EBADF},
                 {9999, KOLO_EBADF}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        CHECK_INT(kolo_guess_kind(cases[i].descriptor), cases[i].kind);
    int *all[] = {&ends[0], &ends[1], &locals[0], &locals[1], &datagrams[0], &datagrams[1], &listener,
                  &tcp[0],  &tcp[1],  &udp,       &null,      &folder,       &file};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) raw_close(all[i]);
    terminal_close(&one);
}
