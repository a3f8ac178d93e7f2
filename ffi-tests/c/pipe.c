/* Pipes: anonymous and named ones, and descriptors from elsewhere. */
#include "harness.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

static bool blocks(int descriptor) { return (SYSTEM(fcntl(descriptor, F_GETFL)) & O_NONBLOCK) == 0; }

/* Not a socket's. */
static void write_all(int descriptor, const char *text, size_t length) {
    CHECK_INT(SYSTEM(write(descriptor, text, length)), length);
}
static void read_exactly(int descriptor, char *text, size_t length) {
    for (size_t got = 0; got < length;) got += (size_t)SYSTEM(read(descriptor, text + got, length - got));
}

static void open_both(kolo_loop *loop, peer *reader, peer *writer) {
    kolo_stream_handler handler = peer_handler();
    memset(reader, 0, sizeof *reader);
    memset(writer, 0, sizeof *writer);
    reader->loop = writer->loop = loop;
    CHECK_OK(kolo_pipe_pair(loop, &handler, reader, &handler, writer, &reader->stream, &writer->stream));
    CHECK_INT(kolo_kind_of(loop, reader->stream), KOLO_KIND_PIPE);
    CHECK_INT(kolo_kind_of(loop, writer->stream), KOLO_KIND_PIPE);
}

static void close_both(kolo_loop *loop, peer *reader, peer *writer) {
    if (!reader->closed) CHECK_OK(kolo_close(loop, reader->stream));
    if (!writer->closed) CHECK_OK(kolo_close(loop, writer->stream));
    run_to_end(loop);
    peer_free(reader);
    peer_free(writer);
}

static void note_done(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    (void)loop, (void)stream;
    *(int *)user = status == KOLO_OK ? 1 : status;
}

TEST(bytes_go_through_and_the_end_after_them) {
    peer reader, writer;
    int done = 0;
    enum { LENGTH = 500000 };
    static char bytes[LENGTH];
    open_both(loop, &reader, &writer);
    reader.discard = true; /* and checks against the pattern */
    pattern_fill(bytes, LENGTH, 0);
    CHECK_INT(kolo_stream_write(loop, writer.stream, bytes, LENGTH), 1);
    CHECK_OK(kolo_stream_shutdown(loop, writer.stream, note_done, &done));
    RUN_UNTIL(loop, reader.ended && done);
    CHECK_INT(reader.received, LENGTH);
    CHECK_INT(done, 1);
    CHECK_ERROR(kolo_stream_write(loop, writer.stream, "x", 1), KOLO_EPIPE);
    close_both(loop, &reader, &writer);
}

TEST(what_an_end_cannot_do) {
    peer reader, writer;
    open_both(loop, &reader, &writer);
    CHECK_ERROR(kolo_stream_write(loop, reader.stream, "x", 1), KOLO_EPIPE);
    CHECK_ERROR(kolo_stream_shutdown(loop, reader.stream, NULL, NULL), KOLO_EALREADY);
    CHECK_ERROR(kolo_stream_read_start(loop, writer.stream), KOLO_ENOTCONN);
    CHECK_INT(kolo_is_active(loop, writer.stream), 0);
    CHECK_INT(kolo_is_active(loop, reader.stream), 1);
    close_both(loop, &reader, &writer);
}

/* In a C program, which has not ignored SIGPIPE as Rust's have. */
TEST(a_reader_that_goes_is_an_error_and_no_signal) {
    peer reader, writer;
    signal(SIGPIPE, SIG_DFL);
    open_both(loop, &reader, &writer);
    CHECK_OK(kolo_close(loop, reader.stream));
    CHECK_INT(kolo_stream_write(loop, writer.stream, "to nobody", 9), 0);
    RUN_UNTIL(loop, writer.closed);
    CHECK_INT(writer.errors, 1);
    CHECK_ERROR(writer.last_error, KOLO_EPIPE);
    close_both(loop, &reader, &writer);
}

TEST(one_end_for_another_process) {
    peer mine;
    kolo_stream_handler handler = peer_handler();
    int other = -1;
    char text[6] = "";
    memset(&mine, 0, sizeof mine);
    CHECK_OK(kolo_pipe_half(loop, KOLO_DIRECTION_READ, &handler, &mine, &mine.stream, &other));
    CHECK(blocks(other));
    CHECK_INT(SYSTEM(fcntl(other, F_GETFD)) & FD_CLOEXEC, FD_CLOEXEC);
    pid_t child = (pid_t)SYSTEM(fork());
    if (child == 0) {
        ssize_t written = write(other, "child", 5);
        _exit(written != 5);
    }
    raw_close(&other);
    RUN_UNTIL(loop, mine.ended);
    CHECK_RECEIVED(&mine, "child");
    int status = 0;
    SYSTEM(waitpid(child, &status, 0));
    CHECK_INT(status, 0);
    CHECK_OK(kolo_close(loop, mine.stream));
    run_to_end(loop);
    peer_free(&mine);

    memset(&mine, 0, sizeof mine);
    CHECK_OK(kolo_pipe_half(loop, KOLO_DIRECTION_WRITE, &handler, &mine, &mine.stream, &other));
    CHECK_INT(kolo_stream_write(loop, mine.stream, "hello", 5), 0);
    read_exactly(other, text, 5);
    CHECK_STRING(text, "hello");
    raw_close(&other);
    CHECK_OK(kolo_close(loop, mine.stream));
    run_to_end(loop);
    peer_free(&mine);

    CHECK_ERROR(kolo_pipe_half(loop, 0, &handler, &mine, &mine.stream, &other), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_half(loop, 3, &handler, &mine, &mine.stream, &other), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_half(loop, 1, NULL, &mine, &mine.stream, &other), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_half(loop, 1, &handler, &mine, NULL, &other), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_half(loop, 1, &handler, &mine, &mine.stream, NULL), KOLO_EINVAL);
    kolo_pipe one, two;
    CHECK_ERROR(kolo_pipe_pair(loop, NULL, NULL, &handler, NULL, &one, &two), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_pair(loop, &handler, NULL, NULL, NULL, &one, &two), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_pair(loop, &handler, NULL, &handler, NULL, NULL, &two), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_pair(loop, &handler, NULL, &handler, NULL, &one, NULL), KOLO_EINVAL);
}

TEST(named_pipes) {
    char folder[] = "/tmp/kolo-pipe-XXXXXX", path[64];
    peer reader, writer;
    kolo_stream_handler handler = peer_handler();
    memset(&reader, 0, sizeof reader);
    memset(&writer, 0, sizeof writer);
    CHECK(mkdtemp(folder) != NULL);
    snprintf(path, sizeof path, "%s/fifo", folder);
    CHECK_ERROR(kolo_pipe_open(loop, path, KOLO_DIRECTION_READ, &handler, &reader, &reader.stream), KOLO_ENOENT);
    SYSTEM(mkfifo(path, 0600));
    CHECK_ERROR(kolo_pipe_open(loop, path, KOLO_DIRECTION_WRITE, &handler, &writer, &writer.stream), KOLO_ENXIO);
    CHECK_OK(kolo_pipe_open(loop, path, KOLO_DIRECTION_READ, &handler, &reader, &reader.stream));
    run_some_turns(loop);
    CHECK_INT(reader.ended, 0);
    CHECK_OK(kolo_pipe_open(loop, path, KOLO_DIRECTION_WRITE, &handler, &writer, &writer.stream));
    CHECK_INT(kolo_stream_write(loop, writer.stream, "named", 5), 0);
    RUN_UNTIL(loop, reader.received == 5);
    CHECK_OK(kolo_close(loop, writer.stream));
    RUN_UNTIL(loop, reader.ended);
    CHECK_ERROR(kolo_pipe_open(loop, "/dev/null", KOLO_DIRECTION_READ, &handler, NULL, &reader.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_open(loop, path, 9, &handler, NULL, &reader.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_open(loop, NULL, KOLO_DIRECTION_READ, &handler, NULL, &reader.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_open(loop, path, KOLO_DIRECTION_READ, NULL, NULL, &reader.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_open(loop, path, KOLO_DIRECTION_READ, &handler, NULL, NULL), KOLO_EINVAL);
    close_both(loop, &reader, &writer);
    SYSTEM(unlink(path));
    SYSTEM(rmdir(folder));
}

TEST(descriptors_from_elsewhere) {
    int ends[2], datagrams[2], twin, released = -1, at = -1;
    peer reader;
    kolo_stream_handler handler = peer_handler();
    memset(&reader, 0, sizeof reader);
    SYSTEM(pipe(ends));
    SYSTEM(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagrams));
    twin = SYSTEM(dup(ends[0]));
    int file = SYSTEM(open("/proc/self/exe", O_RDONLY));
    int null = SYSTEM(open("/dev/null", O_RDONLY));
    CHECK_ERROR(kolo_pipe_adopt(loop, file, &handler, &reader, &reader.stream), KOLO_EPERM);
    CHECK_ERROR(kolo_pipe_adopt(loop, null, &handler, &reader, &reader.stream), KOLO_EPERM);
    CHECK_ERROR(kolo_pipe_adopt(loop, datagrams[0], &handler, &reader, &reader.stream), KOLO_EPROTOTYPE);
    CHECK_ERROR(kolo_pipe_adopt(loop, -1, &handler, &reader, &reader.stream), KOLO_EBADF);
    CHECK_ERROR(kolo_pipe_adopt(loop, 999, &handler, &reader, &reader.stream), KOLO_EBADF);
    CHECK_ERROR(kolo_pipe_adopt(loop, ends[0], NULL, &reader, &reader.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_adopt(loop, ends[0], &handler, &reader, NULL), KOLO_EINVAL);
    /* What could not be adopted is the caller's, as it was. */
    CHECK(descriptor_is_open(file) && descriptor_is_open(null) && descriptor_is_open(datagrams[0]));
    CHECK(blocks(null) && blocks(ends[0]));

    CHECK_OK(kolo_pipe_adopt(loop, ends[0], &handler, &reader, &reader.stream));
    CHECK_OK(kolo_pipe_descriptor(loop, reader.stream, &at));
    CHECK_INT(at, ends[0]);
    CHECK_ERROR(kolo_pipe_descriptor(loop, reader.stream, NULL), KOLO_EINVAL);
    CHECK(!blocks(twin));
    write_all(ends[1], "hello", 5);
    RUN_UNTIL(loop, reader.received == 5);
    CHECK_ERROR(kolo_pipe_release(loop, reader.stream, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_pipe_release(loop, reader.stream, &released));
    CHECK_INT(released, ends[0]);
    CHECK(blocks(twin));
    run_to_end(loop);
    CHECK_INT(reader.closed, 1);
    peer_free(&reader);
    for (int i = 0; i < 2; i++) raw_close(&ends[i]), raw_close(&datagrams[i]);
    raw_close(&twin);
    raw_close(&file);
    raw_close(&null);
}

TEST(a_reopened_descriptor_stays_its_owners) {
    int ends[2];
    peer reader;
    kolo_stream_handler handler = peer_handler();
    memset(&reader, 0, sizeof reader);
    SYSTEM(pipe(ends));
    CHECK_OK(kolo_pipe_reopen(loop, ends[0], &handler, &reader, &reader.stream));
    CHECK(blocks(ends[0])); /* it has a description of its own */
    write_all(ends[1], "hello", 5);
    RUN_UNTIL(loop, reader.received == 5);
    CHECK_OK(kolo_close(loop, reader.stream));
    run_to_end(loop);
    CHECK(descriptor_is_open(ends[0]));
    CHECK_ERROR(kolo_pipe_reopen(loop, -1, &handler, &reader, &reader.stream), KOLO_EBADF);
    CHECK_ERROR(kolo_pipe_reopen(loop, 999, &handler, &reader, &reader.stream), KOLO_EBADF);
    CHECK_ERROR(kolo_pipe_reopen(loop, ends[0], NULL, &reader, &reader.stream), KOLO_EINVAL);
    CHECK_ERROR(kolo_pipe_reopen(loop, ends[0], &handler, &reader, NULL), KOLO_EINVAL);
    raw_close(&ends[0]);
    raw_close(&ends[1]);
    peer_free(&reader);
}

TEST(an_end_that_its_shutdown_has_closed) {
    peer reader, writer;
    int at = -1;
    open_both(loop, &reader, &writer);
    CHECK_OK(kolo_stream_shutdown(loop, writer.stream, NULL, NULL));
    CHECK_ERROR(kolo_pipe_descriptor(loop, writer.stream, &at), KOLO_ENOTCONN);
    CHECK_ERROR(kolo_pipe_release(loop, writer.stream, &at), KOLO_ENOTCONN);
    close_both(loop, &reader, &writer);
}

static void close_in_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user) {
    (void)data, (void)length;
    ++*(int *)user;
    CHECK_OK(kolo_close(loop, stream));
}

TEST(closing_in_its_own_callback) {
    peer writer;
    kolo_stream_handler handler = peer_handler(), closing = KOLO_STREAM_HANDLER_INIT;
    kolo_pipe reader = 0;
    int heard = 0;
    memset(&writer, 0, sizeof writer);
    closing.on_data = close_in_data;
    CHECK_OK(kolo_pipe_pair(loop, &closing, &heard, &handler, &writer, &reader, &writer.stream));
    CHECK_INT(kolo_stream_write(loop, writer.stream, "x", 1), 0);
    RUN_UNTIL(loop, heard == 1);
    CHECK_OK(kolo_close(loop, writer.stream));
    run_to_end(loop);
    CHECK_INT(heard, 1);
    peer_free(&writer);
}
