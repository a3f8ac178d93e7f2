/* Files, directories and operations on names: each function once with what it is for, its errors, and misuse. */
#include "harness.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>

/* ---- a folder for each test ---- */

static char folder[PATH_MAX];

static void make_folder(void) {
    const char *temporary = getenv("TMPDIR");
    char prefix[PATH_MAX / 2];
    snprintf(prefix, sizeof prefix, "%.2000s/kolo-c-", temporary != NULL ? temporary : "/tmp");
    int length = kolo_fs_mkdtemp_sync(prefix, folder, sizeof folder);
    CHECK_INT(length, strlen(prefix) + 6);
    CHECK_INT(strlen(folder), length);
}

static void remove_folder(void) {
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    CHECK_INT(system(command), 0);
}

/* A path in it; there are as many at a time as one call needs. */
static const char *in(const char *name) {
    static char paths[8][PATH_MAX + 512];
    static int next;
    next = (next + 1) % 8;
    snprintf(paths[next], sizeof paths[next], "%s/%s", folder, name);
    return paths[next];
}

static const char *make_file(const char *name, const void *bytes, size_t length) {
    const char *path = in(name);
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK_INT(fwrite(bytes, 1, length, file), length);
    CHECK_INT(fclose(file), 0);
    return path;
}

static bool exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

/* ---- callbacks that keep what they are told ---- */

typedef struct told {
    int calls;
    int status;
    kolo_request request;
    uint64_t length;
    kolo_stat stat;
    kolo_statfs statfs;
    kolo_handle handle;
    char path[PATH_MAX];
    size_t count;
    char last_name[300];
    uint32_t last_type;
} told;

static void on_done(kolo_loop *loop, kolo_request request, int status, void *user) {
    told *me = user;
    (void)loop;
    me->calls++;
    me->status = status;
    me->request = request;
}

static void on_transfer(kolo_loop *loop, kolo_request request, int status, uint64_t length, void *user) {
    on_done(loop, request, status, user);
    ((told *)user)->length = length;
}

static void on_stat(kolo_loop *loop, kolo_request request, int status, const kolo_stat *stat, void *user) {
    on_done(loop, request, status, user);
    CHECK((stat != NULL) == (status == 0));
    if (stat != NULL) ((told *)user)->stat = *stat;
}

static void on_statfs(kolo_loop *loop, kolo_request request, int status, const kolo_statfs *statfs, void *user) {
    on_done(loop, request, status, user);
    CHECK((statfs != NULL) == (status == 0));
    if (statfs != NULL) ((told *)user)->statfs = *statfs;
}

static void on_path(kolo_loop *loop, kolo_request request, int status, const char *path, size_t length, void *user) {
    on_done(loop, request, status, user);
    CHECK((path != NULL) == (status == 0));
    if (path != NULL) {
        CHECK_INT(strlen(path), length);
        snprintf(((told *)user)->path, PATH_MAX, "%s", path);
    }
}

static void on_file(kolo_loop *loop, kolo_request request, int status, kolo_file file, void *user) {
    on_done(loop, request, status, user);
    CHECK((file != 0) == (status == 0));
    ((told *)user)->handle = file;
}

static void on_entries(kolo_loop *loop, kolo_request request, int status, const kolo_directory_entry *entries,
                       size_t count, void *user) {
    told *me = user;
    on_done(loop, request, status, user);
    me->count = count;
    for (size_t i = 0; i < count; i++) {
        CHECK_INT(strlen(entries[i].name), entries[i].length);
        snprintf(me->last_name, sizeof me->last_name, "%s", entries[i].name);
        me->last_type = entries[i].type;
    }
}

static void on_entry(kolo_loop *loop, kolo_directory directory, const kolo_directory_entry *entry, void *user) {
    told *me = user;
    CHECK_ERROR(kolo_loop_run(loop, KOLO_RUN_NOWAIT), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBUSY);
    CHECK_INT(kolo_kind_of(loop, directory), KOLO_KIND_DIRECTORY);
    me->count++;
    me->last_type = entry->type;
}

static void on_closed(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)loop, (void)handle;
    ++*(int *)user;
}

/* Starts an operation, which must not be told inside the call, and waits for it. Its status must be `want`. */
#define EXPECT(me, call, want)                                                                                         \
    do {                                                                                                               \
        (me).calls = 0;                                                                                                \
        CHECK_OK(call);                                                                                                \
        CHECK_INT((me).calls, 0);                                                                                      \
        RUN_UNTIL(loop, (me).calls == 1);                                                                              \
        CHECK_ERROR((me).status, want);                                                                                \
    } while (0)

static kolo_file open_file(kolo_loop *loop, const char *path, uint32_t flags) {
    kolo_open_options options = KOLO_OPEN_OPTIONS_INIT;
    told me = {0};
    options.flags = flags;
    EXPECT(me, kolo_file_open(loop, path, &options, on_file, &me, NULL), KOLO_OK);
    CHECK_INT(kolo_kind_of(loop, me.handle), KOLO_KIND_FILE);
    return me.handle;
}

/* ---- a thread that is busy, so that what is submitted waits ---- */

static int busy_pipe[2];
static void wait_for_byte(void *user) {
    char byte;
    (void)user;
    CHECK_INT(read(busy_pipe[0], &byte, 1), 1);
}
static void no_done(kolo_loop *loop, kolo_request request, int status, void *user) {
    (void)loop, (void)request, (void)status, (void)user;
}
/* All threads for files: as many as there are by default. */
enum { FILE_THREADS = 4 };
static void occupy(kolo_loop *loop) {
    SYSTEM(pipe(busy_pipe));
    for (int i = 0; i < FILE_THREADS; i++)
        CHECK_OK(kolo_work_submit(loop, KOLO_WORK_FILES, wait_for_byte, no_done, NULL, NULL));
}
static void let_go(void) { CHECK_INT(write(busy_pipe[1], "abcd", FILE_THREADS), FILE_THREADS); }
static void end_busy(void) {
    raw_close(&busy_pipe[0]);
    raw_close(&busy_pipe[1]);
}

/* ---- files ---- */

TEST(a_file_is_opened_written_and_read) {
    told me = {0};
    char back[100] = {0};
    make_folder();
    kolo_file file = open_file(loop, in("file"), KOLO_OPEN_READ | KOLO_OPEN_WRITE | KOLO_OPEN_CREATE);
    EXPECT(me, kolo_file_write(loop, file, "hello, file", 11, 0, on_transfer, &me, NULL), KOLO_OK);
    CHECK_INT(me.length, 11);
    EXPECT(me, kolo_file_read(loop, file, back, sizeof back, 7, on_transfer, &me, NULL), KOLO_OK);
    CHECK_INT(me.length, 4);
    CHECK_STRING(back, "file");
    EXPECT(me, kolo_file_read(loop, file, back, sizeof back, 11, on_transfer, &me, NULL), KOLO_OK);
    CHECK_INT(me.length, 0);
    kolo_buffer out[3] = {{"HE", 2}, {NULL, 0}, {"LLO", 3}};
    EXPECT(me, kolo_file_write_vectored(loop, file, out, 3, 0, on_transfer, &me, NULL), KOLO_OK);
    CHECK_INT(me.length, 5);
    kolo_buffer into[2] = {{back, 3}, {back + 50, 3}};
    EXPECT(me, kolo_file_read_vectored(loop, file, into, 2, 0, on_transfer, &me, NULL), KOLO_OK);
    CHECK_INT(me.length, 6);
    CHECK(memcmp(back, "HEL", 3) == 0 && memcmp(back + 50, "LO,", 3) == 0);
    /* The same here and now. */
    size_t moved = 0;
    CHECK_OK(kolo_file_write_sync(loop, file, "bye", 3, 2, &moved));
    CHECK_INT(moved, 3);
    CHECK_OK(kolo_file_read_sync(loop, file, back, sizeof back, 0, &moved));
    CHECK_INT(moved, 11);
    CHECK(memcmp(back, "HEbye, file", 11) == 0);
    CHECK_OK(kolo_file_write_vectored_sync(loop, file, out, 3, 11, &moved));
    CHECK_INT(moved, 5);
    CHECK_OK(kolo_file_read_vectored_sync(loop, file, into, 2, 10, &moved));
    CHECK_INT(moved, 6);
    CHECK(memcmp(back, "eHE", 3) == 0 && memcmp(back + 50, "LLO", 3) == 0);
    CHECK_OK(kolo_close(loop, file));
    run_to_end(loop);
    remove_folder();
}

TEST(opening_has_options_and_errors) {
    told me = {0};
    kolo_open_options options = KOLO_OPEN_OPTIONS_INIT;
    struct stat info;
    kolo_file file = 0;
    make_folder();
    umask(022);
    options.flags = KOLO_OPEN_WRITE | KOLO_OPEN_EXCLUSIVE;
    options.mode = 0640;
    EXPECT(me, kolo_file_open(loop, in("new"), &options, on_file, &me, NULL), KOLO_OK);
    CHECK_OK(kolo_close(loop, me.handle));
    SYSTEM(stat(in("new"), &info));
    CHECK_INT(info.st_mode & 0777, 0640);
    EXPECT(me, kolo_file_open(loop, in("new"), &options, on_file, &me, NULL), KOLO_EEXIST);
    CHECK_INT(kolo_system_error(), EEXIST);
    EXPECT(me, kolo_file_open(loop, in("none"), NULL, on_file, &me, NULL), KOLO_ENOENT);
    EXPECT(me, kolo_file_open(loop, in("new/below"), NULL, on_file, &me, NULL), KOLO_ENOTDIR);
    EXPECT(me, kolo_file_open(loop, "", NULL, on_file, &me, NULL), KOLO_ENOENT);
    CHECK_ERROR(kolo_file_open_sync(loop, in("none"), NULL, &file), KOLO_ENOENT);
    CHECK_INT(file, 0);
    CHECK_OK(kolo_file_open_sync(loop, in("new"), NULL, &file));
    CHECK_OK(kolo_close(loop, file));
    options.flags = KOLO_OPEN_TRUNCATE;
    CHECK_ERROR(kolo_file_open(loop, in("new"), &options, on_file, &me, NULL), KOLO_EINVAL);
    options.flags = KOLO_OPEN_DIRECTORY | KOLO_OPEN_WRITE;
    CHECK_ERROR(kolo_file_open(loop, in("new"), &options, on_file, &me, NULL), KOLO_EINVAL);
    options.flags = 1u << 31;
    CHECK_ERROR(kolo_file_open(loop, in("new"), &options, on_file, &me, NULL), KOLO_EINVAL);
    options.flags = 0;
    options.directory = file; /* closed */
    CHECK_ERROR(kolo_file_open(loop, "new", &options, on_file, &me, NULL), KOLO_EBADF);
    CHECK_ERROR(kolo_file_open_sync(loop, "new", &options, &file), KOLO_EBADF);
    options.size = 3;
    CHECK_ERROR(kolo_file_open(loop, in("new"), &options, on_file, &me, NULL), KOLO_EINVAL);
    /* In an open directory. */
    kolo_open_options at = KOLO_OPEN_OPTIONS_INIT;
    at.directory = open_file(loop, folder, KOLO_OPEN_DIRECTORY);
    EXPECT(me, kolo_file_open(loop, "new", &at, on_file, &me, NULL), KOLO_OK);
    CHECK_OK(kolo_close(loop, me.handle));
    at.flags = KOLO_OPEN_BENEATH;
    int beneath = kolo_file_open_sync(loop, "new", &at, &file);
    if (beneath == KOLO_ENOTSUP) { /* kernels before 5.6, and valgrind */
        puts("    nothing can be opened beneath a directory here");
    } else {
        CHECK_OK(beneath);
        CHECK_OK(kolo_close(loop, file));
        EXPECT(me, kolo_file_open(loop, "new", &at, on_file, &me, NULL), KOLO_OK);
        CHECK_OK(kolo_close(loop, me.handle));
        EXPECT(me, kolo_file_open(loop, "../new", &at, on_file, &me, NULL), KOLO_EXDEV);
        CHECK_ERROR(kolo_file_open_sync(loop, "/etc/passwd", &at, &file), KOLO_EXDEV);
    }
    CHECK_OK(kolo_close(loop, at.directory));
    run_to_end(loop);
    remove_folder();
}

TEST(transfers_tell_their_errors) {
    told me = {0};
    char back[10];
    size_t moved = 99;
    make_folder();
    kolo_file reads = open_file(loop, make_file("read", "abc", 3), KOLO_OPEN_READ);
    kolo_file writes = open_file(loop, in("read"), KOLO_OPEN_WRITE);
    kolo_file directory = open_file(loop, folder, KOLO_OPEN_DIRECTORY);
    EXPECT(me, kolo_file_write(loop, reads, "x", 1, 0, on_transfer, &me, NULL), KOLO_EBADF);
    CHECK_INT(me.length, 0);
    EXPECT(me, kolo_file_read(loop, writes, back, 1, 0, on_transfer, &me, NULL), KOLO_EBADF);
    EXPECT(me, kolo_file_read(loop, directory, back, 1, 0, on_transfer, &me, NULL), KOLO_EISDIR);
    CHECK_ERROR(kolo_file_read_sync(loop, directory, back, 1, 0, &moved), KOLO_EISDIR);
    CHECK_INT(moved, 99);
    CHECK_INT(kolo_system_error(), EISDIR);
    CHECK_OK(kolo_close(loop, reads));
    CHECK_OK(kolo_close(loop, writes));
    CHECK_OK(kolo_close(loop, directory));
    run_to_end(loop);
    remove_folder();
}

TEST(a_write_that_does_not_fit_tells_how_much_was_written) {
    told me = {0};
    static char bytes[80000];
    size_t moved = 0;
    struct rlimit limit = {100000, RLIM_INFINITY};
    make_folder();
    kolo_file file = open_file(loop, in("limited"), KOLO_OPEN_WRITE | KOLO_OPEN_CREATE);
    signal(SIGXFSZ, SIG_IGN);
    SYSTEM(setrlimit(RLIMIT_FSIZE, &limit));
    EXPECT(me, kolo_file_write(loop, file, bytes, sizeof bytes, 50000, on_transfer, &me, NULL), KOLO_EFBIG);
    CHECK_INT(me.length, 50000);
    /* Here and now: fewer, and then why. */
    CHECK_OK(kolo_file_write_sync(loop, file, bytes, sizeof bytes, 60000, &moved));
    CHECK_INT(moved, 40000);
    CHECK_ERROR(kolo_file_write_sync(loop, file, bytes, 1, 100000, &moved), KOLO_EFBIG);
    limit.rlim_cur = RLIM_INFINITY;
    SYSTEM(setrlimit(RLIMIT_FSIZE, &limit));
    CHECK_OK(kolo_close(loop, file));
    run_to_end(loop);
    remove_folder();
}

TEST(what_an_open_file_can_do) {
    told me = {0};
    kolo_stat stat = KOLO_STAT_INIT;
    struct stat info;
    make_folder();
    kolo_file file = open_file(loop, make_file("file", "0123456789", 10), KOLO_OPEN_READ | KOLO_OPEN_WRITE);
    EXPECT(me, kolo_file_fsync(loop, file, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_file_fdatasync(loop, file, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_file_truncate(loop, file, 4, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_file_truncate(loop, file, UINT64_MAX, on_done, &me, NULL), KOLO_EINVAL);
    EXPECT(me, kolo_file_chmod(loop, file, 0604, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_file_chown(loop, file, UINT32_MAX, UINT32_MAX, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_file_utimes(loop, file, INT64_C(1000000001), INT64_C(-1), 0, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_file_stat(loop, file, on_stat, &me, NULL), KOLO_OK);
    SYSTEM(lstat(in("file"), &info));
    CHECK_INT(me.stat.size, sizeof(kolo_stat));
    CHECK_INT(me.stat.type, KOLO_FILE_TYPE_REGULAR);
    CHECK_INT(me.stat.mode, 0604);
    CHECK_INT(me.stat.length, 4);
    CHECK_INT(me.stat.inode, info.st_ino);
    CHECK_INT(me.stat.device, info.st_dev);
    CHECK_INT(me.stat.links, 1);
    CHECK_INT(me.stat.uid, info.st_uid);
    CHECK_INT(me.stat.gid, info.st_gid);
    CHECK_INT(me.stat.accessed_ns, 1000000001);
    CHECK_INT(me.stat.modified_ns, -1);
    CHECK(me.stat.changed_ns > 0);
    CHECK_OK(kolo_file_fsync_sync(loop, file));
    CHECK_OK(kolo_file_fdatasync_sync(loop, file));
    CHECK_OK(kolo_file_truncate_sync(loop, file, 7));
    CHECK_OK(kolo_file_chmod_sync(loop, file, 0600));
    CHECK_OK(kolo_file_chown_sync(loop, file, info.st_uid, info.st_gid));
    CHECK_OK(kolo_file_utimes_sync(loop, file, 0, 5, KOLO_UTIMES_ACCESSED_NOW));
    CHECK_OK(kolo_file_stat_sync(loop, file, &stat));
    CHECK_INT(stat.length, 7);
    CHECK_INT(stat.mode, 0600);
    CHECK_INT(stat.modified_ns, 5);
    CHECK(stat.accessed_ns > 1000000001);
    stat.size = 1;
    CHECK_ERROR(kolo_file_stat_sync(loop, file, &stat), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_utimes(loop, file, 0, 0, 3, on_done, &me, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_utimes_sync(loop, file, 0, 0, 16), KOLO_EINVAL);
    CHECK_OK(kolo_close(loop, file));
    run_to_end(loop);
    remove_folder();
}

TEST(closing_tells_what_close_says) {
    told me = {0};
    int closed = 0;
    make_folder();
    kolo_file file = open_file(loop, in("file"), KOLO_OPEN_WRITE | KOLO_OPEN_CREATE);
    CHECK_OK(kolo_on_close(loop, file, on_closed, &closed));
    kolo_request request = 0;
    CHECK_OK(kolo_file_close(loop, file, on_done, &me, &request));
    CHECK_INT(kolo_kind_of(loop, request), KOLO_KIND_REQUEST);
    CHECK_ERROR(kolo_close(loop, file), KOLO_EBADF);
    CHECK_ERROR(kolo_file_close(loop, file, on_done, &me, NULL), KOLO_EBADF);
    run_to_end(loop);
    CHECK_INT(me.calls, 1);
    CHECK_OK(me.status);
    CHECK_INT(closed, 1);
    file = open_file(loop, in("file"), KOLO_OPEN_WRITE);
    CHECK_OK(kolo_file_close_sync(loop, file));
    CHECK_ERROR(kolo_file_close_sync(loop, file), KOLO_EBADF);
    CHECK_ERROR(kolo_file_close(loop, file, NULL, NULL, NULL), KOLO_EINVAL);
    run_to_end(loop);
    remove_folder();
}

TEST(descriptors_come_in_and_go_out) {
    told me = {0};
    kolo_file file = 0, none = 77;
    kolo_socket socket = -1;
    char back[4] = {0};
    make_folder();
    int descriptor = SYSTEM(open(make_file("file", "abc", 3), O_RDWR));
    CHECK_ERROR(kolo_file_adopt(loop, descriptor, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_adopt(loop, -1, &none), KOLO_EBADF);
    CHECK_ERROR(kolo_file_adopt(loop, 100000, &none), KOLO_EBADF);
    CHECK_INT(none, 77);
    CHECK_OK(kolo_file_adopt(loop, descriptor, &file));
    CHECK_OK(kolo_file_descriptor(loop, file, &socket));
    CHECK_INT(socket, descriptor);
    CHECK_ERROR(kolo_file_descriptor(loop, file, NULL), KOLO_EINVAL);
    EXPECT(me, kolo_file_read(loop, file, back, 3, 0, on_transfer, &me, NULL), KOLO_OK);
    CHECK_STRING(back, "abc");
    occupy(loop);
    CHECK_OK(kolo_file_fsync(loop, file, on_done, &me, NULL));
    CHECK_ERROR(kolo_file_release(loop, file, &socket), KOLO_EBUSY);
    let_go();
    run_to_end(loop);
    end_busy();
    CHECK_ERROR(kolo_file_release(loop, file, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_file_release(loop, file, &socket));
    CHECK_INT(socket, descriptor);
    CHECK_ERROR(kolo_file_release(loop, file, &socket), KOLO_EBADF);
    CHECK(descriptor_is_open(descriptor));
    run_to_end(loop);
    SYSTEM(close(descriptor));
    remove_folder();
}

TEST(the_current_position_is_for_one_at_a_time) {
    told me = {0}, other = {0};
    char back[10] = {0};
    size_t moved = 0;
    make_folder();
    kolo_file file = open_file(loop, make_file("file", "abcdef", 6), KOLO_OPEN_READ);
    EXPECT(me, kolo_file_read(loop, file, back, 2, KOLO_OFFSET_CURRENT, on_transfer, &me, NULL), KOLO_OK);
    CHECK_STRING(back, "ab");
    CHECK_OK(kolo_file_read_sync(loop, file, back, 2, KOLO_OFFSET_CURRENT, &moved));
    CHECK_STRING(back, "cd");
    occupy(loop);
    CHECK_OK(kolo_file_read(loop, file, back, 2, KOLO_OFFSET_CURRENT, on_transfer, &me, NULL));
    CHECK_ERROR(kolo_file_read(loop, file, back, 2, KOLO_OFFSET_CURRENT, on_transfer, &other, NULL), KOLO_EBUSY);
    CHECK_ERROR(kolo_file_read_sync(loop, file, back, 2, KOLO_OFFSET_CURRENT, &moved), KOLO_EBUSY);
    CHECK_ERROR(kolo_file_read(loop, file, back, 2, -2, on_transfer, &other, NULL), KOLO_EINVAL);
    let_go();
    CHECK_OK(kolo_close(loop, file));
    run_to_end(loop);
    CHECK_STRING(back, "ef");
    CHECK_INT(other.calls, 0);
    end_busy();
    remove_folder();
}

TEST(null_where_something_is_needed) {
    kolo_file file = 0;
    kolo_directory directory = 0;
    char back[10];
    size_t moved;
    kolo_buffer hollow = {NULL, 5}, huge[2] = {{back, SIZE_MAX / 2}, {back, 2}};
    make_folder();
    file = open_file(loop, make_file("file", "abc", 3), KOLO_OPEN_READ);
    CHECK_ERROR(kolo_file_open(loop, NULL, NULL, on_file, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_open(loop, in("file"), NULL, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_open_sync(loop, NULL, NULL, &file), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_open_sync(loop, in("file"), NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_read(loop, file, NULL, 5, 0, on_transfer, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_read(loop, file, back, 5, 0, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_read(loop, file, back, SIZE_MAX, 0, on_transfer, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_read_vectored(loop, file, &hollow, 1, 0, on_transfer, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_read_vectored(loop, file, NULL, 1, 0, on_transfer, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_read_vectored(loop, file, huge, 2, 0, on_transfer, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_write(loop, file, NULL, 5, 0, on_transfer, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_write_vectored(loop, file, &hollow, 1, 0, on_transfer, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_read_sync(loop, file, back, 5, 0, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_write_sync(loop, file, NULL, 5, 0, &moved), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_stat(loop, file, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_stat_sync(loop, file, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_fsync(loop, file, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_fdatasync(loop, file, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_truncate(loop, file, 0, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_chmod(loop, file, 0600, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_chown(loop, file, 0, 0, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_file_utimes(loop, file, 0, 0, 0, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_directory_open(loop, NULL, on_file, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_directory_open(loop, folder, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_directory_open_sync(loop, NULL, &directory), KOLO_EINVAL);
    CHECK_ERROR(kolo_directory_open_sync(loop, folder, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_directory_open_file(loop, file, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_directory_open_file_sync(loop, file, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_directory_open_sync(loop, folder, &directory));
    CHECK_ERROR(kolo_directory_read(loop, directory, NULL, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_directory_read_sync(loop, directory, NULL, NULL), KOLO_EINVAL);
    CHECK_OK(kolo_close(loop, directory));
    CHECK_OK(kolo_close(loop, file));
    run_to_end(loop);
    remove_folder();
}

/* ---- requests ---- */

static void close_own_file(kolo_loop *loop, kolo_request request, int status, uint64_t length, void *user) {
    told *me = user;
    on_transfer(loop, request, status, length, user);
    CHECK_ERROR(kolo_request_cancel(loop, request), KOLO_EBADF);
    CHECK_OK(kolo_close(loop, me->handle));
    CHECK_ERROR(kolo_file_read(loop, me->handle, me->path, 1, 0, on_transfer, me, NULL), KOLO_EBADF);
}

TEST(a_callback_closes_its_own_file) {
    told me = {0};
    int closed = 0;
    make_folder();
    me.handle = open_file(loop, make_file("file", "abc", 3), KOLO_OPEN_READ);
    CHECK_OK(kolo_on_close(loop, me.handle, on_closed, &closed));
    CHECK_OK(kolo_file_read(loop, me.handle, me.path, 3, 0, close_own_file, &me, NULL));
    run_to_end(loop);
    CHECK_INT(me.calls, 1);
    CHECK_INT(me.length, 3);
    CHECK_INT(closed, 1);
    remove_folder();
}

TEST(what_was_not_begun_is_taken_back) {
    told me = {0}, closed = {0};
    kolo_request request = 0, other = 0;
    make_folder();
    occupy(loop);
    CHECK_OK(kolo_fs_mkdir(loop, in("never"), 0777, on_done, &me, &request));
    CHECK_OK(kolo_fs_mkdir(loop, in("closed"), 0777, on_done, &closed, &other));
    CHECK_OK(kolo_request_cancel(loop, request));
    CHECK_OK(kolo_close(loop, other));
    CHECK_INT(me.calls + closed.calls, 0);
    let_go();
    run_to_end(loop);
    CHECK_ERROR(me.status, KOLO_ECANCELED);
    CHECK_ERROR(closed.status, KOLO_ECANCELED);
    CHECK_INT(me.calls + closed.calls, 2);
    CHECK(!exists(in("never")) && !exists(in("closed")));
    end_busy();
    remove_folder();
}

TEST(a_copy_is_stopped_while_it_runs) {
    told me = {0};
    kolo_request request = 0;
    struct stat info;
    /* valgrind lets nobody else run while one thread copies inside the kernel. */
    if (getenv("KOLO_TEST_VALGRIND") != NULL) return;
    make_folder();
    make_file("endless", "", 0); /* sparse, and long enough */
    CHECK_OK(kolo_fs_truncate_sync(in("endless"), UINT64_C(1) << 34));
    CHECK_OK(kolo_fs_copy(loop, in("endless"), in("part"), 0, on_transfer, &me, &request));
    while (stat(in("part"), &info) != 0 || info.st_size == 0) usleep(1000);
    CHECK_OK(kolo_request_cancel(loop, request));
    run_to_end(loop);
    CHECK_ERROR(me.status, KOLO_ECANCELED);
    CHECK(!exists(in("part")));
    remove_folder();
}

TEST_WITHOUT_LOOP(a_loop_is_freed_with_everything_under_way) {
    kolo_loop *loop = NULL;
    static char memory[100000];
    told me = {0};
    make_folder();
    CHECK_OK(kolo_loop_new(NULL, &loop));
    kolo_file file = open_file(loop, in("file"), KOLO_OPEN_READ | KOLO_OPEN_WRITE | KOLO_OPEN_CREATE);
    me.calls = 0;
    CHECK_OK(kolo_file_write(loop, file, memory, sizeof memory, 0, on_transfer, &me, NULL));
    CHECK_OK(kolo_file_read(loop, file, memory, sizeof memory, 0, on_transfer, &me, NULL));
    CHECK_OK(kolo_file_fsync(loop, file, on_done, &me, NULL));
    CHECK_OK(kolo_file_open(loop, in("file"), NULL, on_file, &me, NULL));
    CHECK_OK(kolo_directory_open(loop, folder, on_file, &me, NULL));
    CHECK_OK(kolo_fs_stat(loop, folder, on_stat, &me, NULL));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(me.calls, 6);
    remove_folder();
}

/* ---- names ---- */

TEST(names_on_the_pool) {
    told me = {0};
    make_folder();
    EXPECT(me, kolo_fs_mkdir(loop, in("a"), 0755, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_mkdir(loop, in("a"), 0755, on_done, &me, NULL), KOLO_EEXIST);
    make_file("a/file", "12345", 5);
    EXPECT(me, kolo_fs_rmdir(loop, in("a"), on_done, &me, NULL), KOLO_ENOTEMPTY);
    EXPECT(me, kolo_fs_rename(loop, in("a/file"), in("b"), on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_rmdir(loop, in("a"), on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_link(loop, in("b"), in("c"), on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_symlink(loop, "c", in("d"), on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_readlink(loop, in("d"), on_path, &me, NULL), KOLO_OK);
    CHECK_STRING(me.path, "c");
    EXPECT(me, kolo_fs_readlink(loop, in("c"), on_path, &me, NULL), KOLO_EINVAL);
    EXPECT(me, kolo_fs_realpath(loop, in("d"), on_path, &me, NULL), KOLO_OK);
    CHECK_STRING(strrchr(me.path, '/'), "/c");
    EXPECT(me, kolo_fs_lstat(loop, in("d"), on_stat, &me, NULL), KOLO_OK);
    CHECK_INT(me.stat.type, KOLO_FILE_TYPE_LINK);
    EXPECT(me, kolo_fs_stat(loop, in("d"), on_stat, &me, NULL), KOLO_OK);
    CHECK_INT(me.stat.type, KOLO_FILE_TYPE_REGULAR);
    CHECK_INT(me.stat.links, 2);
    EXPECT(me, kolo_fs_truncate(loop, in("b"), 3, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_chmod(loop, in("b"), 0640, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_chown(loop, in("b"), UINT32_MAX, UINT32_MAX, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_lchown(loop, in("d"), UINT32_MAX, UINT32_MAX, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_utimes(loop, in("b"), 1, 2, 0, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_lutimes(loop, in("d"), 3, 4, 0, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_stat(loop, in("c"), on_stat, &me, NULL), KOLO_OK);
    CHECK_INT(me.stat.length, 3);
    CHECK_INT(me.stat.mode, 0640);
    CHECK_INT(me.stat.accessed_ns, 1);
    CHECK_INT(me.stat.modified_ns, 2);
    EXPECT(me, kolo_fs_lstat(loop, in("d"), on_stat, &me, NULL), KOLO_OK);
    CHECK_INT(me.stat.modified_ns, 4);
    EXPECT(me, kolo_fs_access(loop, in("b"), KOLO_ACCESS_READ | KOLO_ACCESS_WRITE, on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_access(loop, in("b"), KOLO_ACCESS_EXECUTE, on_done, &me, NULL), KOLO_EACCES);
    EXPECT(me, kolo_fs_statfs(loop, folder, on_statfs, &me, NULL), KOLO_OK);
    CHECK(me.statfs.blocks > 0 && me.statfs.block_size > 0);
    EXPECT(me, kolo_fs_copy(loop, in("b"), in("e"), KOLO_COPY_EXCLUSIVE, on_transfer, &me, NULL), KOLO_OK);
    CHECK_INT(me.length, 3);
    EXPECT(me, kolo_fs_copy(loop, in("b"), in("e"), KOLO_COPY_EXCLUSIVE, on_transfer, &me, NULL), KOLO_EEXIST);
    EXPECT(me, kolo_fs_copy(loop, in("b"), in("c"), 0, on_transfer, &me, NULL), KOLO_EINVAL);
    EXPECT(me, kolo_fs_unlink(loop, in("e"), on_done, &me, NULL), KOLO_OK);
    EXPECT(me, kolo_fs_unlink(loop, in("e"), on_done, &me, NULL), KOLO_ENOENT);
    EXPECT(me, kolo_fs_mkdtemp(loop, in("tmp"), on_path, &me, NULL), KOLO_OK);
    CHECK_INT(strlen(me.path), strlen(in("tmp")) + 6);
    CHECK(exists(me.path));
    EXPECT(me, kolo_fs_mkdtemp(loop, in("none/tmp"), on_path, &me, NULL), KOLO_ENOENT);
    run_to_end(loop);
    remove_folder();
}

static void *names_here(void *user) {
    kolo_stat stat = KOLO_STAT_INIT;
    kolo_statfs statfs = KOLO_STATFS_INIT;
    char text[PATH_MAX] = "untouched";
    uint64_t copied = 0;
    (void)user;
    CHECK_OK(kolo_fs_mkdir_sync(in("a"), 0755));
    CHECK_ERROR(kolo_fs_mkdir_sync(in("a"), 0755), KOLO_EEXIST);
    CHECK_INT(kolo_system_error(), EEXIST);
    make_file("a/file", "12345", 5);
    CHECK_ERROR(kolo_fs_rmdir_sync(in("a")), KOLO_ENOTEMPTY);
    CHECK_OK(kolo_fs_rename_sync(in("a/file"), in("b")));
    CHECK_OK(kolo_fs_rmdir_sync(in("a")));
    CHECK_OK(kolo_fs_link_sync(in("b"), in("c")));
    CHECK_OK(kolo_fs_symlink_sync("twelve bytes", in("d")));
    CHECK_ERROR(kolo_fs_readlink_sync(in("d"), text, 12), KOLO_ENOBUFS);
    CHECK_STRING(text, "untouched");
    CHECK_INT(kolo_fs_readlink_sync(in("d"), text, 13), 12);
    CHECK_STRING(text, "twelve bytes");
    CHECK(kolo_fs_realpath_sync(in("./c"), text, sizeof text) > 2);
    CHECK_STRING(strrchr(text, '/'), "/c");
    CHECK_OK(kolo_fs_lstat_sync(in("d"), &stat));
    CHECK_INT(stat.type, KOLO_FILE_TYPE_LINK);
    CHECK_ERROR(kolo_fs_stat_sync(in("d"), &stat), KOLO_ENOENT);
    CHECK_INT(stat.type, KOLO_FILE_TYPE_LINK); /* as it was */
    CHECK_OK(kolo_fs_truncate_sync(in("b"), 3));
    CHECK_OK(kolo_fs_chmod_sync(in("b"), 0640));
    CHECK_OK(kolo_fs_chown_sync(in("b"), UINT32_MAX, UINT32_MAX));
    CHECK_OK(kolo_fs_lchown_sync(in("d"), UINT32_MAX, UINT32_MAX));
    CHECK_OK(kolo_fs_utimes_sync(in("b"), 1, 2, KOLO_UTIMES_MODIFIED_KEEP));
    CHECK_OK(kolo_fs_lutimes_sync(in("d"), 3, 4, 0));
    CHECK_OK(kolo_fs_stat_sync(in("c"), &stat));
    CHECK_INT(stat.length, 3);
    CHECK_INT(stat.mode, 0640);
    CHECK_INT(stat.accessed_ns, 1);
    CHECK(stat.modified_ns > 2);
    CHECK_OK(kolo_fs_access_sync(in("b"), KOLO_ACCESS_EXISTS));
    CHECK_ERROR(kolo_fs_access_sync(in("b"), KOLO_ACCESS_EXECUTE), KOLO_EACCES);
    CHECK_OK(kolo_fs_statfs_sync(folder, &statfs));
    CHECK(statfs.blocks > 0);
    CHECK_OK(kolo_fs_copy_sync(in("b"), in("e"), 0, &copied));
    CHECK_INT(copied, 3);
    CHECK_OK(kolo_fs_copy_sync(in("b"), in("e"), 0, NULL));
    CHECK_OK(kolo_fs_unlink_sync(in("e")));
    CHECK_ERROR(kolo_fs_unlink_sync(in("e")), KOLO_ENOENT);
    CHECK_ERROR(kolo_fs_mkdtemp_sync(in("tmp"), text, strlen(in("tmp")) + 6), KOLO_ENOBUFS);
    CHECK_INT(kolo_fs_mkdtemp_sync(in("tmp"), text, strlen(in("tmp")) + 7), strlen(in("tmp")) + 6);
    CHECK_OK(kolo_fs_rmdir_sync(text));
    /* Misuse. */
    CHECK_ERROR(kolo_fs_stat_sync(NULL, &stat), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_stat_sync(in("b"), NULL), KOLO_EINVAL);
    stat.size = 5;
    CHECK_ERROR(kolo_fs_stat_sync(in("b"), &stat), KOLO_EINVAL);
    statfs.size = 5;
    CHECK_ERROR(kolo_fs_statfs_sync(in("b"), &statfs), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_rename_sync(in("b"), NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_rename_sync(NULL, in("b")), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_access_sync(in("b"), 8), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_copy_sync(in("b"), in("e"), 4, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_utimes_sync(in("b"), 0, 0, 12), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_readlink_sync(in("d"), NULL, 100), KOLO_EINVAL);
    return NULL;
}

TEST_WITHOUT_LOOP(names_here_and_now_on_any_thread) {
    make_folder();
    on_another_thread(names_here, NULL);
    remove_folder();
}

TEST(names_misused) {
    told me = {0};
    kolo_request request = 77;
    make_folder();
    CHECK_ERROR(kolo_fs_stat(loop, NULL, on_stat, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_stat(loop, "x", NULL, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_lstat(loop, "x", NULL, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_access(loop, "x", 8, on_done, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_mkdir(loop, "x", 0, NULL, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_mkdtemp(loop, "x", NULL, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_rename(loop, "x", NULL, on_done, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_link(loop, NULL, "x", on_done, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_symlink(loop, NULL, "x", on_done, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_readlink(loop, "x", NULL, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_statfs(loop, "x", NULL, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_copy(loop, "x", "y", 4, on_transfer, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_copy(loop, "x", "y", 0, NULL, &me, &request), KOLO_EINVAL);
    CHECK_ERROR(kolo_fs_utimes(loop, "x", 0, 0, 3, on_done, &me, &request), KOLO_EINVAL);
    CHECK_INT(request, 77);
    run_to_end(loop);
    CHECK_INT(me.calls, 0);
    /* Errors of the names themselves. */
    char name[301];
    memset(name, 'x', 300);
    name[300] = '\0';
    EXPECT(me, kolo_fs_stat(loop, in(name), on_stat, &me, NULL), KOLO_ENAMETOOLONG);
    CHECK_OK(kolo_fs_symlink_sync("loop", in("loop")));
    EXPECT(me, kolo_fs_stat(loop, in("loop"), on_stat, &me, NULL), KOLO_ELOOP);
    EXPECT(me, kolo_fs_rmdir(loop, in("loop"), on_done, &me, NULL), KOLO_ENOTDIR);
    EXPECT(me, kolo_fs_unlink(loop, folder, on_done, &me, NULL), KOLO_EISDIR);
    run_to_end(loop);
    remove_folder();
}

/* ---- directories ---- */

TEST(a_directory_is_read_in_batches) {
    told me = {0};
    size_t total = 0;
    int closed = 0;
    char name[32];
    make_folder();
    for (int i = 0; i < 600; i++) {
        snprintf(name, sizeof name, "file-%d", i);
        make_file(name, "", 0);
    }
    EXPECT(me, kolo_directory_open(loop, folder, on_file, &me, NULL), KOLO_OK);
    kolo_directory directory = me.handle;
    CHECK_INT(kolo_kind_of(loop, directory), KOLO_KIND_DIRECTORY);
    CHECK_OK(kolo_on_close(loop, directory, on_closed, &closed));
    int batches = 0;
    do {
        kolo_request request = 0;
        me.calls = 0;
        CHECK_OK(kolo_directory_read(loop, directory, on_entries, &me, &request));
        CHECK_ERROR(kolo_directory_read(loop, directory, on_entries, &me, NULL), KOLO_EBUSY);
        CHECK_ERROR(kolo_directory_read_sync(loop, directory, on_entry, &me), KOLO_EBUSY);
        RUN_UNTIL(loop, me.calls == 1);
        CHECK_OK(me.status);
        if (me.count > 0) CHECK_INT(me.last_type, KOLO_FILE_TYPE_REGULAR);
        total += me.count;
        batches++;
    } while (me.count > 0);
    CHECK_INT(total, 600);
    CHECK(batches > 2);
    CHECK_OK(kolo_close(loop, directory));
    CHECK_ERROR(kolo_directory_read(loop, directory, on_entries, &me, NULL), KOLO_EBADF);
    run_to_end(loop);
    CHECK_INT(closed, 1);
    remove_folder();
}

TEST(a_directory_is_read_here_and_now) {
    told me = {0};
    kolo_directory directory = 0;
    make_folder();
    make_file("only", "", 0);
    CHECK_OK(kolo_directory_open_sync(loop, folder, &directory));
    CHECK_INT(kolo_directory_read_sync(loop, directory, on_entry, &me), 1);
    CHECK_INT(kolo_directory_read_sync(loop, directory, on_entry, &me), 0);
    CHECK_INT(me.count, 1);
    CHECK_OK(kolo_close(loop, directory));
    CHECK_ERROR(kolo_directory_read_sync(loop, directory, on_entry, &me), KOLO_EBADF);
    CHECK_ERROR(kolo_directory_open_sync(loop, in("only"), &directory), KOLO_ENOTDIR);
    EXPECT(me, kolo_directory_open(loop, in("none"), on_file, &me, NULL), KOLO_ENOENT);
    /* Through an open file. */
    kolo_file file = open_file(loop, folder, KOLO_OPEN_DIRECTORY);
    EXPECT(me, kolo_directory_open_file(loop, file, on_file, &me, NULL), KOLO_OK);
    directory = me.handle;
    EXPECT(me, kolo_directory_read(loop, directory, on_entries, &me, NULL), KOLO_OK);
    CHECK_INT(me.count, 1);
    CHECK_STRING(me.last_name, "only");
    CHECK_OK(kolo_close(loop, directory));
    CHECK_OK(kolo_directory_open_file_sync(loop, file, &directory));
    CHECK_INT(kolo_directory_read_sync(loop, directory, on_entry, &me), 1);
    CHECK_OK(kolo_close(loop, directory));
    CHECK_OK(kolo_close(loop, file));
    CHECK_ERROR(kolo_directory_open_file(loop, file, on_file, &me, NULL), KOLO_EBADF);
    CHECK_ERROR(kolo_directory_open_file_sync(loop, file, &directory), KOLO_EBADF);
    run_to_end(loop);
    remove_folder();
}

/* ---- files over streams ---- */

typedef struct sent {
    int calls;
    int status;
    uint64_t bytes;
} sent;

static void on_sent(kolo_loop *loop, kolo_stream stream, int status, uint64_t bytes, void *user) {
    sent *me = user;
    (void)loop, (void)stream;
    me->calls++;
    me->status = status;
    me->bytes = bytes;
}

TEST(a_file_is_sent_over_a_stream) {
    enum { BYTES = 3000000 };
    static uint8_t bytes[BYTES];
    sent me = {0}, none = {0};
    pair both;
    make_folder();
    pattern_fill(bytes, BYTES, 0);
    kolo_file file = open_file(loop, make_file("large", bytes, BYTES), KOLO_OPEN_READ);
    pair_open(loop, &both);
    both.server.discard = true; /* compares with the pattern */
    CHECK(kolo_stream_write(loop, both.client.stream, bytes, 1000) >= 0);
    CHECK(kolo_stream_send_file(loop, both.client.stream, file, 1000, BYTES - 2000, on_sent, &me, NULL) >= 0);
    CHECK(kolo_stream_send_file(loop, both.client.stream, file, BYTES - 1000, UINT64_MAX, NULL, NULL, NULL) >= 0);
    CHECK_INT(me.calls, 0);
    CHECK_OK(kolo_close(loop, file));
    RUN_UNTIL(loop, both.server.received == BYTES);
    RUN_UNTIL(loop, me.calls == 1);
    CHECK_OK(me.status);
    CHECK_INT(me.bytes, BYTES - 2000);
    CHECK_ERROR(kolo_stream_send_file(loop, both.client.stream, file, 0, 1, on_sent, &none, NULL), KOLO_EBADF);
    file = open_file(loop, in("large"), KOLO_OPEN_WRITE);
    CHECK_ERROR(kolo_stream_send_file(loop, both.client.stream, file, 0, 1, on_sent, &none, NULL), KOLO_EBADF);
    CHECK_ERROR(kolo_stream_send_file(loop, file, file, 0, 1, on_sent, &none, NULL), KOLO_EBADF);
    CHECK_OK(kolo_close(loop, file));
    file = open_file(loop, in("large"), KOLO_OPEN_READ);
    CHECK_ERROR(kolo_stream_send_file(loop, both.client.stream, file, UINT64_MAX, 1, on_sent, &none, NULL),
                KOLO_EINVAL);
    CHECK_OK(kolo_close(loop, file));
    pair_close(loop, &both);
    run_to_end(loop);
    CHECK_INT(none.calls, 0);
    remove_folder();
}

TEST(a_file_that_is_sent_is_cancelled_or_its_stream_closed) {
    sent first = {0}, second = {0};
    uint64_t begun = 0, waiting = 0;
    half half;
    make_folder();
    make_file("large", "", 0);
    CHECK_OK(kolo_fs_truncate_sync(in("large"), 100000000));
    kolo_file file = open_file(loop, in("large"), KOLO_OPEN_READ);
    half_open(loop, &half);
    CHECK(kolo_stream_send_file(loop, half.peer.stream, file, 0, 100000000, on_sent, &first, &begun) >= 0);
    CHECK(kolo_stream_send_file(loop, half.peer.stream, file, 0, 100000000, on_sent, &second, &waiting) >= 0);
    CHECK_ERROR(kolo_stream_write_cancel(loop, half.peer.stream, begun), KOLO_EBUSY);
    CHECK_OK(kolo_stream_write_cancel(loop, half.peer.stream, waiting));
    CHECK_INT(second.calls, 0);
    RUN_UNTIL(loop, second.calls == 1);
    CHECK_ERROR(second.status, KOLO_ECANCELED);
    CHECK_INT(second.bytes, 0);
    CHECK_OK(kolo_close(loop, half.peer.stream));
    RUN_UNTIL(loop, first.calls == 1);
    CHECK_ERROR(first.status, KOLO_ECANCELED);
    CHECK(first.bytes > 0 && first.bytes < 100000000);
    CHECK_OK(kolo_close(loop, file));
    half_close(loop, &half);
    run_to_end(loop);
    remove_folder();
}

TEST(a_file_that_becomes_shorter_breaks_its_stream) {
    sent me = {0};
    half half;
    char byte;
    make_folder();
    make_file("large", "", 0);
    CHECK_OK(kolo_fs_truncate_sync(in("large"), 50000000));
    kolo_file file = open_file(loop, in("large"), KOLO_OPEN_READ);
    half_open(loop, &half);
    CHECK(kolo_stream_send_file(loop, half.peer.stream, file, 0, 50000000, on_sent, &me, NULL) >= 0);
    CHECK_OK(kolo_fs_truncate_sync(in("large"), 0));
    raw_nonblocking(half.socket);
    while (half.peer.closed == 0) {
        static char away[65536];
        while (read(half.socket, away, sizeof away) > 0) continue;
        CHECK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) >= 0);
    }
    CHECK_INT(me.calls, 1);
    CHECK_ERROR(me.status, KOLO_ENODATA);
    CHECK(me.bytes > 0 && me.bytes < 50000000);
    CHECK_INT(half.peer.errors, 1);
    CHECK_ERROR(half.peer.last_error, KOLO_ENODATA);
    /* Not an end: a reset. (What was read above may have met it already.) */
    ssize_t got = read(half.socket, &byte, 1);
    CHECK(got == 0 || (got < 0 && errno == ECONNRESET));
    CHECK_OK(kolo_close(loop, file));
    half_close(loop, &half);
    run_to_end(loop);
    remove_folder();
}
