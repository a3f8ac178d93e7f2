/* Foreign descriptors: a level-triggered watch on a descriptor that stays the program's own. */
#include "harness.h"

#include <fcntl.h>
#include <sys/socket.h>

typedef struct record {
    kolo_poll handle;
    int calls;
    int status;
    uint32_t events;   /* of the last call */
    uint32_t all;      /* of all calls */
    int consume;       /* read one byte of this descriptor in every call */
    bool stop, close;
    kolo_poll close_other, stop_other;
} record;

static void note(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    record *me = user;
    CHECK(poll == me->handle);
    CHECK_OK(status);
    CHECK(events != 0);
    me->calls++;
    me->events = events;
    me->all |= events;
    if (me->consume >= 0 && (events & KOLO_POLL_READABLE)) {
        char byte;
        SYSTEM(read(me->consume, &byte, 1));
    }
    if (me->stop) CHECK_OK(kolo_poll_stop(loop, poll));
    if (me->close) CHECK_OK(kolo_close(loop, poll));
    if (me->close_other != 0) CHECK_OK(kolo_close(loop, me->close_other));
    if (me->stop_other != 0) CHECK_OK(kolo_poll_stop(loop, me->stop_other));
}

static void open_record(kolo_loop *loop, record *me, int descriptor, uint32_t events) {
    memset(me, 0, sizeof *me);
    me->consume = -1;
    CHECK_OK(kolo_poll_open(loop, descriptor, note, me, &me->handle));
    CHECK_INT(kolo_is_active(loop, me->handle), 0);
    if (events == 0) return;
    CHECK_OK(kolo_poll_start(loop, me->handle, events));
    CHECK_INT(kolo_is_active(loop, me->handle), 1);
}

static void pair_of_sockets(int sockets[2]) { SYSTEM(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets)); }

static void close_both(int sockets[2]) {
    raw_close(&sockets[0]);
    raw_close(&sockets[1]);
}

TEST(readable_when_there_is_something_to_read) {
    int sockets[2];
    record one;
    pair_of_sockets(sockets);
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
    one.consume = sockets[0];
    run_some_turns(loop);
    CHECK_INT(one.calls, 0);
    raw_write_all(sockets[1], "x", 1);
    RUN_UNTIL(loop, one.calls == 1);
    CHECK_INT(one.events, KOLO_POLL_READABLE);
    run_some_turns(loop);
    CHECK_INT(one.calls, 1); /* it was read: quiet again */
    CHECK_OK(kolo_close(loop, one.handle));
    close_both(sockets);
}

TEST(level_triggered) {
    int sockets[2];
    record one;
    pair_of_sockets(sockets);
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
    raw_write_all(sockets[1], "abc", 3);
    RUN_UNTIL(loop, one.calls == 5); /* nobody reads, so it is told again and again */
    one.consume = sockets[0];
    RUN_UNTIL(loop, one.calls == 8); /* one byte a time */
    run_some_turns(loop);
    CHECK_INT(one.calls, 8);
    CHECK_OK(kolo_close(loop, one.handle));
    close_both(sockets);
}

TEST(writable_when_there_is_room) {
    int sockets[2];
    record one;
    char block[4096];
    memset(block, 'w', sizeof block);
    pair_of_sockets(sockets);
    raw_nonblocking(sockets[0]);
    open_record(loop, &one, sockets[0], KOLO_POLL_WRITABLE);
    RUN_UNTIL(loop, one.calls == 3);
    CHECK_INT(one.all, KOLO_POLL_WRITABLE);
    while (write(sockets[0], block, sizeof block) > 0) {
    }
    CHECK_INT(errno, EAGAIN);
    run_some_turns(loop);
    int full = one.calls;
    run_some_turns(loop);
    CHECK_INT(one.calls, full);
    raw_nonblocking(sockets[1]);
    while (read(sockets[1], block, sizeof block) > 0) {
    }
    RUN_UNTIL(loop, one.calls > full);
    CHECK_OK(kolo_close(loop, one.handle));
    close_both(sockets);
}

TEST(both_directions_at_once) {
    int sockets[2];
    record one;
    pair_of_sockets(sockets);
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE | KOLO_POLL_WRITABLE);
    raw_write_all(sockets[1], "x", 1);
    RUN_UNTIL(loop, one.all == (KOLO_POLL_READABLE | KOLO_POLL_WRITABLE));
    CHECK_OK(kolo_close(loop, one.handle));
    close_both(sockets);
}

TEST(start_changes_the_set) {
    int sockets[2];
    record one;
    pair_of_sockets(sockets);
    raw_write_all(sockets[1], "x", 1);
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
    RUN_UNTIL(loop, one.calls > 0);
    CHECK_INT(one.all, KOLO_POLL_READABLE);
    CHECK_OK(kolo_poll_start(loop, one.handle, KOLO_POLL_WRITABLE));
    one.all = 0;
    one.calls = 0;
    RUN_UNTIL(loop, one.calls == 3);
    CHECK_INT(one.all, KOLO_POLL_WRITABLE);
    CHECK_OK(kolo_poll_start(loop, one.handle, KOLO_POLL_READABLE | KOLO_POLL_WRITABLE));
    RUN_UNTIL(loop, one.all == (KOLO_POLL_READABLE | KOLO_POLL_WRITABLE));
    CHECK_OK(kolo_close(loop, one.handle));
    close_both(sockets);
}

TEST(stop_and_start_again) {
    int sockets[2];
    record one;
    pair_of_sockets(sockets);
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
    raw_write_all(sockets[1], "x", 1);
    CHECK_OK(kolo_poll_stop(loop, one.handle));
    CHECK_OK(kolo_poll_stop(loop, one.handle));
    CHECK_INT(kolo_is_active(loop, one.handle), 0);
    CHECK_INT(kolo_loop_run(loop, KOLO_RUN_DEFAULT), 0); /* holds nothing up */
    CHECK_INT(one.calls, 0);
    CHECK_OK(kolo_poll_start(loop, one.handle, KOLO_POLL_READABLE));
    RUN_UNTIL(loop, one.calls == 1);
    CHECK_OK(kolo_close(loop, one.handle));
    close_both(sockets);
}

TEST(stopping_and_closing_itself_in_its_callback) {
    int first[2], second[2];
    record stopping, closing;
    pair_of_sockets(first);
    pair_of_sockets(second);
    raw_write_all(first[1], "x", 1);
    raw_write_all(second[1], "x", 1);
    open_record(loop, &stopping, first[0], KOLO_POLL_READABLE);
    open_record(loop, &closing, second[0], KOLO_POLL_READABLE);
    stopping.stop = true;
    closing.close = true;
    run_to_end(loop);
    CHECK_INT(stopping.calls, 1);
    CHECK_INT(closing.calls, 1);
    close_both(first);
    close_both(second);
}

static void silence_a_neighbour(kolo_loop *loop, bool close) {
    /* Both are ready in the same turn; whichever comes first silences the other. */
    int first[2], second[2];
    record one, other;
    pair_of_sockets(first);
    pair_of_sockets(second);
    raw_write_all(first[1], "x", 1);
    raw_write_all(second[1], "x", 1);
    open_record(loop, &one, first[0], KOLO_POLL_READABLE);
    open_record(loop, &other, second[0], KOLO_POLL_READABLE);
    *(close ? &one.close_other : &one.stop_other) = other.handle;
    *(close ? &other.close_other : &other.stop_other) = one.handle;
    one.stop = other.stop = true;
    run_to_end(loop);
    CHECK_INT(one.calls + other.calls, 1);
    kolo_close(loop, one.handle);
    kolo_close(loop, other.handle);
    run_to_end(loop);
    close_both(first);
    close_both(second);
}

TEST(closing_a_neighbour_that_is_ready) { silence_a_neighbour(loop, true); }
TEST(stopping_a_neighbour_that_is_ready) { silence_a_neighbour(loop, false); }

static bool tells_disconnect(kolo_loop *loop) {
    /* Only a hint with the portable driver, which may ask a system call that has no such thing. */
    return strcmp(kolo_loop_driver_name(loop), "polling") != 0;
}

TEST(disconnect_is_told_without_reading) {
    int sockets[2];
    record one;
    raw_pair(sockets);
    open_record(loop, &one, sockets[0], KOLO_POLL_DISCONNECT);
    run_some_turns(loop);
    CHECK_INT(one.calls, 0);
    raw_write_all(sockets[1], "unread", 6);
    run_some_turns(loop);
    CHECK_INT(one.calls, 0); /* data alone is not what was asked for */
    raw_close(&sockets[1]);
    if (tells_disconnect(loop)) {
        RUN_UNTIL(loop, one.calls == 1);
        CHECK(one.events & KOLO_POLL_DISCONNECT);
    }
    CHECK_OK(kolo_close(loop, one.handle));
    raw_close(&sockets[0]);
}

TEST(a_closed_pipe_wakes_its_reader) {
    int ends[2];
    record one;
    SYSTEM(pipe(ends));
    open_record(loop, &one, ends[0], KOLO_POLL_READABLE | KOLO_POLL_DISCONNECT);
    run_some_turns(loop);
    CHECK_INT(one.calls, 0);
    raw_close(&ends[1]);
    RUN_UNTIL(loop, one.calls == 1);
    CHECK_OK(kolo_close(loop, one.handle));
    raw_close(&ends[0]);
}

TEST(a_readable_end_of_stream_is_readable) {
    int sockets[2];
    record one;
    char byte;
    pair_of_sockets(sockets);
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
    raw_close(&sockets[1]);
    RUN_UNTIL(loop, one.all & KOLO_POLL_READABLE);
    CHECK_INT(read(sockets[0], &byte, 1), 0);
    CHECK_OK(kolo_close(loop, one.handle));
    raw_close(&sockets[0]);
}

TEST(urgent_data_is_priority) {
    int sockets[2];
    record one;
    raw_pair(sockets);
    open_record(loop, &one, sockets[0], KOLO_POLL_PRIORITY);
    run_some_turns(loop);
    CHECK_INT(one.calls, 0);
    CHECK_INT(send(sockets[1], "!", 1, MSG_OOB), 1);
    RUN_UNTIL(loop, one.calls == 1);
    CHECK(one.events & KOLO_POLL_PRIORITY);
    CHECK_OK(kolo_close(loop, one.handle));
    close_both(sockets);
}

TEST(a_pipe_both_ways) {
    int ends[2];
    record reading, writing;
    SYSTEM(pipe(ends));
    open_record(loop, &reading, ends[0], KOLO_POLL_READABLE);
    open_record(loop, &writing, ends[1], KOLO_POLL_WRITABLE);
    reading.consume = ends[0];
    RUN_UNTIL(loop, writing.calls == 1);
    CHECK_INT(write(ends[1], "x", 1), 1);
    CHECK_OK(kolo_poll_stop(loop, writing.handle));
    RUN_UNTIL(loop, reading.calls == 1);
    CHECK_OK(kolo_close(loop, reading.handle));
    CHECK_OK(kolo_close(loop, writing.handle));
    close_both(ends);
}

TEST(one_started_handle_per_descriptor) {
    int sockets[2];
    record one, other;
    pair_of_sockets(sockets);
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
    open_record(loop, &other, sockets[0], 0);
    CHECK_ERROR(kolo_poll_start(loop, other.handle, KOLO_POLL_WRITABLE), KOLO_EEXIST);
    CHECK_INT(kolo_is_active(loop, other.handle), 0);
    raw_write_all(sockets[1], "x", 1);
    RUN_UNTIL(loop, one.calls == 1); /* the first is unharmed */
    CHECK_OK(kolo_poll_stop(loop, one.handle));
    CHECK_OK(kolo_poll_start(loop, other.handle, KOLO_POLL_WRITABLE)); /* now the place is free */
    RUN_UNTIL(loop, other.calls == 1);
    CHECK_OK(kolo_close(loop, one.handle));
    CHECK_OK(kolo_close(loop, other.handle));
    run_to_end(loop);
    close_both(sockets);
}

TEST(the_descriptor_stays_the_callers) {
    int sockets[2];
    record one;
    char byte;
    pair_of_sockets(sockets);
    int flags = SYSTEM(fcntl(sockets[0], F_GETFL));
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
    run_some_turns(loop);
    CHECK_OK(kolo_close(loop, one.handle));
    run_to_end(loop);
    CHECK(descriptor_is_open(sockets[0]));
    CHECK_INT(SYSTEM(fcntl(sockets[0], F_GETFL)), flags); /* blocking as before */
    raw_write_all(sockets[1], "x", 1);
    CHECK_INT(read(sockets[0], &byte, 1), 1);
    close_both(sockets);
}

TEST(a_number_used_again_after_close) {
    /* The descriptor is closed in kolo, then in the system; the next one gets the same number. */
    for (int i = 0; i < 10; i++) {
        int sockets[2];
        record one;
        pair_of_sockets(sockets);
        open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
        raw_write_all(sockets[1], "x", 1);
        RUN_UNTIL(loop, one.calls == 1);
        CHECK_OK(kolo_close(loop, one.handle));
        close_both(sockets); /* at once: kolo no longer knows it */
    }
    run_to_end(loop);
}

TEST(descriptors_that_cannot_be_watched) {
    record one;
    int sockets[2];
    kolo_poll handle = 0;
    pair_of_sockets(sockets);
    int number = sockets[0];
    close_both(sockets);
    static const kolo_socket wrong[] = {-1, -100, 1 << 20};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK_ERROR(kolo_poll_open(loop, wrong[i], note, &one, &handle), KOLO_EBADF);
    CHECK_ERROR(kolo_poll_open(loop, number, note, &one, &handle), KOLO_EBADF);
    CHECK_INT(handle, 0);
    int file = SYSTEM(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    /* A plain file is always ready; the system refuses to watch it. */
    int result = kolo_poll_open(loop, file, note, &one, &handle);
    if (result == KOLO_OK) result = kolo_poll_start(loop, handle, KOLO_POLL_READABLE);
    CHECK_ERROR(result, KOLO_EPERM);
    raw_close(&file);
}

TEST(sets_that_there_are_not) {
    static const uint32_t wrong[] = {0, 16, 0x80000000u, 0xffffffffu, KOLO_POLL_READABLE | 64};
    int sockets[2];
    record one;
    pair_of_sockets(sockets);
    open_record(loop, &one, sockets[0], 0);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK_ERROR(kolo_poll_start(loop, one.handle, wrong[i]), KOLO_EINVAL);
    CHECK_INT(kolo_is_active(loop, one.handle), 0);
    CHECK_OK(kolo_close(loop, one.handle));
    close_both(sockets);
}

TEST(many_descriptors) {
    enum { COUNT = 300 };
    static int sockets[COUNT][2];
    static record records[COUNT];
    int heard = 0;
    for (int i = 0; i < COUNT; i++) {
        pair_of_sockets(sockets[i]);
        open_record(loop, &records[i], sockets[i][0], KOLO_POLL_READABLE);
        records[i].stop = true;
    }
    for (int i = 0; i < COUNT; i += 3) raw_write_all(sockets[i][1], "x", 1);
    for (int i = 0; i < COUNT; i += 3) RUN_UNTIL(loop, records[i].calls == 1);
    for (int i = 0; i < COUNT; i++) heard += records[i].calls;
    CHECK_INT(heard, COUNT / 3);
    for (int i = 0; i < COUNT; i++) {
        CHECK_OK(kolo_close(loop, records[i].handle));
        close_both(sockets[i]);
    }
}

TEST_WITHOUT_LOOP(loop_free_leaves_the_descriptor_open) {
    int sockets[2];
    record one;
    kolo_loop *loop = NULL;
    pair_of_sockets(sockets);
    CHECK_OK(kolo_loop_new(NULL, &loop));
    open_record(loop, &one, sockets[0], KOLO_POLL_READABLE);
    raw_write_all(sockets[1], "x", 1);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(one.calls, 0);
    CHECK(descriptor_is_open(sockets[0]));
    close_both(sockets);
}
