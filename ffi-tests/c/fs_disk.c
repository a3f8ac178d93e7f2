/* Reads and writes of files that wait for a disk: around the kernel's memory (O_DIRECT), so that each of them does, whatever
 * was read before. By threads, or by the kernel alone on a loop over io_uring: what the program sees is the same. */
#include "harness.h"

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <sys/resource.h>

/* More than are with the kernel at a time, and than its queue holds. */
enum { BLOCK = 4096, BLOCKS = 300 };

static char path[PATH_MAX];

/* A file of blocks that say which one they are, opened with O_DIRECT. 0 where there is none. */
static kolo_file make_file(kolo_loop *loop) {
    static uint32_t block[BLOCK / sizeof(uint32_t)];
    const char *temporary = getenv("TMPDIR");
    kolo_file file = 0;
    snprintf(path, sizeof path, "%.2000s/kolo-c-XXXXXX", temporary != NULL ? temporary : "/tmp");
    int descriptor = SYSTEM(mkstemp(path));
    for (uint32_t i = 0; i < BLOCKS; i++) {
        for (size_t at = 0; at < BLOCK / sizeof(uint32_t); at++) block[at] = i;
        CHECK_INT(write(descriptor, block, BLOCK), BLOCK);
    }
    SYSTEM(close(descriptor));
    descriptor = open(path, O_RDWR | O_CLOEXEC | O_DIRECT);
    if (descriptor < 0) {
        puts("    this file system has no O_DIRECT");
        SYSTEM(unlink(path));
        return 0;
    }
    CHECK_OK(kolo_file_adopt(loop, descriptor, &file));
    return file;
}

static void remove_file(kolo_loop *loop, kolo_file file) {
    CHECK_OK(kolo_close(loop, file));
    run_to_end(loop);
    SYSTEM(unlink(path));
}

/* Memory for all blocks, as O_DIRECT wants it. */
static char *take_memory(size_t blocks) {
    void *memory = NULL;
    CHECK_INT(posix_memalign(&memory, BLOCK, blocks * BLOCK), 0);
    memset(memory, 0xff, blocks * BLOCK); /* valgrind does not see what the kernel writes by itself */
    return memory;
}

static uint32_t block_in(const char *memory) {
    uint32_t first, last;
    memcpy(&first, memory, sizeof first);
    memcpy(&last, memory + BLOCK - sizeof last, sizeof last);
    CHECK_INT(first, last);
    return first;
}

typedef struct told {
    int calls, ok, canceled;
    int status; /* of the last one */
    uint64_t length;
} told;

static void on_transfer(kolo_loop *loop, kolo_request request, int status, uint64_t length, void *user) {
    told *me = user;
    (void)loop, (void)request;
    me->calls++;
    me->ok += status == KOLO_OK;
    me->canceled += status == KOLO_ECANCELED;
    me->status = status;
    me->length = length;
}

static void start_reads(kolo_loop *loop, kolo_file file, char *memory, told *me, kolo_request *requests) {
    for (int i = 0; i < BLOCKS; i++) {
        char *to = memory + (size_t)i * BLOCK;
        CHECK_OK(kolo_file_read(loop, file, to, BLOCK, (int64_t)i * BLOCK, on_transfer, me, requests ? &requests[i] : NULL));
    }
    CHECK_INT(me->calls, 0);
}

static void check_blocks(const char *memory) {
    for (uint32_t i = 0; i < BLOCKS; i++) CHECK_INT(block_in(memory + (size_t)i * BLOCK), i);
}

TEST(many_are_under_way_and_each_is_told_once) {
    told me = {0};
    kolo_file file = make_file(loop);
    if (file == 0) return;
    char *memory = take_memory(BLOCKS);
    start_reads(loop, file, memory, &me, NULL);
    run_to_end(loop);
    CHECK_INT(me.ok, BLOCKS);
    CHECK_INT(me.calls, BLOCKS);
    check_blocks(memory);
    /* Written backwards, into another order. */
    me = (told){0};
    for (int i = 0; i < BLOCKS; i++) {
        const char *from = memory + (size_t)(BLOCKS - 1 - i) * BLOCK;
        CHECK_OK(kolo_file_write(loop, file, from, BLOCK, (int64_t)i * BLOCK, on_transfer, &me, NULL));
    }
    run_to_end(loop);
    CHECK_INT(me.ok, BLOCKS);
    kolo_buffer into[3] = {{memory, BLOCK}, {memory + 2 * BLOCK, BLOCK}, {memory + BLOCK, BLOCK}};
    me = (told){0};
    CHECK_OK(kolo_file_read_vectored(loop, file, into, 3, 0, on_transfer, &me, NULL));
    run_to_end(loop);
    CHECK_INT(me.length, 3 * BLOCK);
    CHECK_INT(block_in(memory), BLOCKS - 1);
    CHECK_INT(block_in(memory + BLOCK), BLOCKS - 3);
    CHECK_INT(block_in(memory + 2 * BLOCK), BLOCKS - 2);
    CHECK_OK(kolo_file_write_vectored(loop, file, into, 3, BLOCKS * BLOCK, on_transfer, &me, NULL));
    run_to_end(loop);
    CHECK_INT(me.length, 3 * BLOCK);
    free(memory);
    remove_file(loop, file);
}

TEST(ends_and_errors_are_those_of_the_system) {
    told me = {0};
    kolo_file file = make_file(loop);
    if (file == 0) return;
    char *memory = take_memory(2);
    SYSTEM(truncate(path, BLOCK + 100));
    CHECK_OK(kolo_file_read(loop, file, memory, 2 * BLOCK, 0, on_transfer, &me, NULL));
    run_to_end(loop);
    CHECK_OK(me.status);
    CHECK_INT(me.length, BLOCK + 100);
    CHECK_OK(kolo_file_read(loop, file, memory, BLOCK, 7 * BLOCK, on_transfer, &me, NULL));
    run_to_end(loop);
    CHECK_OK(me.status);
    CHECK_INT(me.length, 0);
    /* A thread's, also on a loop over io_uring; under valgrind that could not run while the loop waits in its ring. */
    if (getenv("KOLO_TEST_VALGRIND") == NULL) {
        CHECK_OK(kolo_file_read(loop, file, memory, BLOCK, INT64_MAX, on_transfer, &me, NULL));
        run_to_end(loop);
        CHECK(me.status == KOLO_EINVAL || me.status == KOLO_OK);
        CHECK_INT(me.length, 0);
    }
    /* NULL where there must be memory, and no callback: nothing is begun. */
    me.calls = 0;
    CHECK_ERROR(kolo_file_read(loop, file, NULL, BLOCK, 0, on_transfer, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_read(loop, file, memory, BLOCK, 0, NULL, &me, NULL), KOLO_EINVAL);
    run_to_end(loop);
    CHECK_INT(me.calls, 0);
    free(memory);
    remove_file(loop, file);
}

TEST(what_was_begun_is_told_and_what_waited_is_canceled) {
    told me = {0};
    static kolo_request requests[BLOCKS];
    int taken_back = 0;
    kolo_file file = make_file(loop);
    if (file == 0) return;
    char *memory = take_memory(BLOCKS);
    start_reads(loop, file, memory, &me, requests);
    for (int i = BLOCKS - 1; i >= 0; i--) {
        int status = kolo_request_cancel(loop, requests[i]);
        CHECK(status == KOLO_OK || status == KOLO_EBUSY);
        taken_back += status == KOLO_OK;
    }
    CHECK(taken_back > 0);
    CHECK_INT(me.calls, 0);
    run_to_end(loop);
    CHECK_INT(me.calls, BLOCKS);
    CHECK_INT(me.canceled, taken_back);
    CHECK_INT(me.ok, BLOCKS - taken_back);
    CHECK_ERROR(kolo_request_cancel(loop, requests[0]), KOLO_EBADF);
    free(memory);
    remove_file(loop, file);
}

static kolo_request to_close[BLOCKS];

static void close_the_others(kolo_loop *loop, kolo_request request, int status, uint64_t length, void *user) {
    told *me = user;
    bool first = me->calls == 0;
    on_transfer(loop, request, status, length, user);
    if (!first) return;
    CHECK_ERROR(kolo_close(loop, request), KOLO_EBADF); /* it is over */
    for (int i = 0; i < BLOCKS; i++) {
        if (to_close[i] != request) CHECK_OK(kolo_close(loop, to_close[i]));
    }
}

TEST(the_first_one_closes_all_others) {
    told me = {0};
    kolo_file file = make_file(loop);
    if (file == 0) return;
    char *memory = take_memory(BLOCKS);
    for (int i = 0; i < BLOCKS; i++) {
        CHECK_OK(kolo_file_read(loop, file, memory + (size_t)i * BLOCK, BLOCK, (int64_t)i * BLOCK, close_the_others, &me,
                                &to_close[i]));
    }
    CHECK_OK(kolo_close(loop, file));
    run_to_end(loop);
    CHECK_INT(me.calls, BLOCKS);
    CHECK_INT(me.ok, 1);
    CHECK_INT(me.canceled, BLOCKS - 1);
    free(memory); /* nobody writes there any more */
    SYSTEM(unlink(path));
}

TEST_WITHOUT_LOOP(a_loop_is_freed_with_them_under_way) {
    told me = {0};
    kolo_loop *loop;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    kolo_file file = make_file(loop);
    if (file != 0) {
        char *memory = take_memory(BLOCKS);
        start_reads(loop, file, memory, &me, NULL);
        CHECK_OK(kolo_loop_free(loop));
        CHECK_INT(me.calls, BLOCKS);
        CHECK_INT(me.canceled, BLOCKS);
        free(memory);
        SYSTEM(unlink(path));
    } else {
        CHECK_OK(kolo_loop_free(loop));
    }
}

static void *run_there(void *argument) {
    kolo_loop *loop = argument;
    CHECK_OK(kolo_loop_attach_thread(loop));
    run_to_end(loop);
    CHECK_OK(kolo_loop_detach_thread(loop));
    return NULL;
}

TEST(a_loop_goes_to_another_thread_with_them_under_way) {
    told me = {0};
    kolo_file file = make_file(loop);
    if (file == 0) return;
    char *memory = take_memory(BLOCKS);
    start_reads(loop, file, memory, &me, NULL);
    CHECK_OK(kolo_loop_detach_thread(loop));
    CHECK_INT(me.calls, 0);
    on_another_thread(run_there, loop);
    CHECK_OK(kolo_loop_attach_thread(loop));
    CHECK_INT(me.ok, BLOCKS);
    check_blocks(memory);
    free(memory);
    remove_file(loop, file);
}

static void on_file(kolo_loop *loop, kolo_request request, int status, kolo_file file, void *user) {
    on_transfer(loop, request, status, 0, user);
    CHECK(status == KOLO_OK || status == KOLO_EMFILE);
    CHECK((file != 0) == (status == KOLO_OK));
}

TEST(descriptors_that_run_out_are_told_to_each_who_opens) {
    told me = {0};
    struct rlimit limit, less;
    if (getenv("KOLO_TEST_VALGRIND") != NULL) return; /* it does not know openat2(2): threads open, see above */
    kolo_file file = make_file(loop);
    if (file == 0) return;
    SYSTEM(getrlimit(RLIMIT_NOFILE, &limit));
    less = limit;
    less.rlim_cur = (rlim_t)SYSTEM(dup(0)) + 11;
    SYSTEM(close((int)less.rlim_cur - 11));
    SYSTEM(setrlimit(RLIMIT_NOFILE, &less));
    for (int i = 0; i < 50; i++) CHECK_OK(kolo_file_open(loop, path, NULL, on_file, &me, NULL));
    CHECK_INT(me.calls, 0);
    run_to_end(loop);
    SYSTEM(setrlimit(RLIMIT_NOFILE, &limit));
    CHECK_INT(me.calls, 50);
    CHECK(me.ok > 0 && me.ok <= 11);
    /* The handles go with the loop. */
    SYSTEM(unlink(path));
    CHECK_OK(kolo_close(loop, file));
    run_to_end(loop);
}
