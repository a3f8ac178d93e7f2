/* Watching: events with their paths, the options and their errors, polling, closing inside of callbacks, forks. */
#include "harness.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/wait.h>

/* ---- a folder of the test's own, and what is done in it ---- */
static char folder[64];

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *where) {
    (void)status, (void)kind, (void)where;
    return remove(path);
}

static void remove_folder(void) {
    if (folder[0] != 0) nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    folder[0] = 0;
}

static void make_folder(void) {
    strcpy(folder, "/tmp/kolo-watch-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
}

static const char *at(const char *name) {
    static char paths[2][512];
    static int turn;
    turn = !turn;
    snprintf(paths[turn], sizeof paths[turn], "%s/%s", folder, name);
    return paths[turn];
}

static void make(const char *name) { SYSTEM(close(SYSTEM(open(at(name), O_CREAT | O_EXCL | O_WRONLY, 0600)))); }

static void append(const char *name) {
    int file = SYSTEM(open(at(name), O_APPEND | O_WRONLY));
    SYSTEM(write(file, "more", 4));
    SYSTEM(close(file));
}

static void rename_to(const char *from, const char *to) { SYSTEM(rename(at(from), at(to))); }

/* ---- a watch that notes what it is told ---- */
enum { LINES = 64, LINE = 128 };
typedef struct record {
    kolo_watch handle;
    char lines[LINES][LINE];
    int count;
    bool ready, close, fail;
    kolo_watch close_other;
    kolo_watch_state before, after; /* of the last event that had them */
    bool had_before, had_after;
    int closed;
} record;

static const char *change_name(int change) {
    switch (change) {
    case KOLO_WATCH_CREATED: return "created";
    case KOLO_WATCH_MODIFIED: return "modified";
    case KOLO_WATCH_METADATA: return "metadata";
    case KOLO_WATCH_REMOVED: return "removed";
    case KOLO_WATCH_RENAMED: return "renamed";
    case KOLO_WATCH_OVERFLOW: return "overflow";
    case KOLO_WATCH_ERROR: return "error";
    case KOLO_WATCH_READY: return "ready";
    default: test_fail(__FILE__, __LINE__, "an event is exactly one change");
    }
}

static void note(kolo_loop *loop, kolo_watch watch, const kolo_watch_event *event, void *user) {
    record *me = user;
    CHECK(watch == me->handle);
    CHECK_INT(event->size, sizeof *event);
    CHECK_INT(strlen(event->path), event->path_length);
    CHECK((event->change == KOLO_WATCH_ERROR) == (event->error < 0));
    CHECK((event->change == KOLO_WATCH_RENAMED) == (event->from != NULL));
    if (event->from != NULL) CHECK_INT(strlen(event->from), event->from_length);
    me->had_before = event->before != NULL;
    me->had_after = event->after != NULL;
    if (event->before != NULL) me->before = *event->before;
    if (event->after != NULL) me->after = *event->after;
    if (event->change == KOLO_WATCH_READY) {
        me->ready = true;
        return;
    }
    CHECK(me->count < LINES);
    snprintf(me->lines[me->count++], LINE, "%s %s%s%s%s", change_name(event->change), event->from ? event->from : "",
             event->from ? " -> " : "", event->path, event->is_directory ? "/" : "");
    if (me->close) CHECK_OK(kolo_close(loop, watch));
    if (me->close_other != 0) CHECK_OK(kolo_close(loop, me->close_other));
    me->close_other = 0;
}

static void noted_close(kolo_loop *loop, kolo_handle handle, void *user) {
    record *me = user;
    (void)loop;
    CHECK(handle == me->handle);
    me->closed++;
}

static void open_record(kolo_loop *loop, record *me, const char *path, const kolo_watch_options *options) {
    memset(me, 0, sizeof *me);
    CHECK_OK(kolo_watch_open(loop, path, options, note, me, &me->handle));
    CHECK_OK(kolo_on_close(loop, me->handle, noted_close, me));
    CHECK_INT(kolo_is_active(loop, me->handle), 1);
    CHECK_INT(kolo_kind_of(loop, me->handle), KOLO_KIND_WATCH);
    RUN_UNTIL(loop, me->ready);
}

/* The next line is this one. */
static void expect(kolo_loop *loop, record *me, const char *line) {
    RUN_UNTIL(loop, me->count > 0);
    CHECK_STRING(me->lines[0], line);
    memmove(me->lines[0], me->lines[1], (size_t)(LINES - 1) * LINE);
    me->count--;
}

TEST(names_in_a_folder) {
    static record one;
    make_folder();
    open_record(loop, &one, folder, NULL);
    make("a");
    CHECK_INT(one.count, 0); /* inside kolo_loop_run only */
    SYSTEM(mkdir(at("sub"), 0700));
    append("a");
    SYSTEM(chmod(at("a"), 0640));
    rename_to("a", "b");
    SYSTEM(unlink(at("b")));
    make("sub/unseen");
    expect(loop, &one, "created a");
    expect(loop, &one, "created sub/");
    expect(loop, &one, "modified a");
    expect(loop, &one, "metadata a");
    expect(loop, &one, "renamed a -> b");
    expect(loop, &one, "removed b");
    run_some_turns(loop);
    CHECK_INT(one.count, 0);
    CHECK(!one.had_before && !one.had_after); /* only a watch that polls knows */
    remove_folder();
}

TEST(a_tree) {
    static record one;
    kolo_watch_options options = KOLO_WATCH_OPTIONS_INIT;
    make_folder();
    SYSTEM(mkdir(at("old"), 0700));
    options.recursive = true;
    open_record(loop, &one, folder, &options);
    make("old/file");
    expect(loop, &one, "created old/file");
    SYSTEM(mkdir(at("new"), 0700));
    SYSTEM(mkdir(at("new/deep"), 0700));
    make("new/deep/file");
    expect(loop, &one, "created new/");
    expect(loop, &one, "created new/deep/");
    expect(loop, &one, "created new/deep/file");
    rename_to("new/deep", "old/deep");
    append("old/deep/file");
    expect(loop, &one, "renamed new/deep -> old/deep/");
    expect(loop, &one, "modified old/deep/file");
    remove_folder();
}

TEST(a_file_that_is_replaced) {
    static record one;
    make_folder();
    make("file");
    open_record(loop, &one, at("file"), NULL);
    make("other");
    rename_to("other", "file");
    expect(loop, &one, "created ");
    append("file");
    expect(loop, &one, "modified ");
    SYSTEM(unlink(at("file")));
    expect(loop, &one, "removed ");
    make("file");
    expect(loop, &one, "created ");
    remove_folder();
}

TEST(only_what_is_asked_for) {
    static record one;
    kolo_watch_options options = KOLO_WATCH_OPTIONS_INIT;
    make_folder();
    make("a");
    options.changes = KOLO_WATCH_CREATED | KOLO_WATCH_REMOVED | KOLO_WATCH_READY;
    open_record(loop, &one, folder, &options);
    append("a");
    rename_to("a", "b");
    expect(loop, &one, "removed a");
    expect(loop, &one, "created b");
    remove_folder();
}

TEST(polling) {
    static record one, tree;
    kolo_watch_options options = KOLO_WATCH_OPTIONS_INIT;
    make_folder();
    make("file");
    options.poll_ns = MILLISECONDS(2);
    open_record(loop, &one, at("file"), &options);
    options.recursive = true;
    open_record(loop, &tree, folder, &options);
    append("file");
    expect(loop, &one, "modified ");
    CHECK(one.had_before && one.had_after);
    CHECK_INT(one.before.bytes, 0);
    CHECK_INT(one.after.bytes, 4);
    CHECK(one.before.inode == one.after.inode && one.after.inode != 0);
    CHECK(one.after.modified_ns >= one.before.modified_ns);
    CHECK_INT(one.after.mode & 0777, 0600);
    expect(loop, &tree, "modified file");
    SYSTEM(unlink(at("file")));
    expect(loop, &one, "removed ");
    CHECK(one.had_before && !one.had_after);
    expect(loop, &tree, "removed file");
    SYSTEM(mkdir(at("sub"), 0700));
    expect(loop, &tree, "created sub/");
    rename_to("sub", "other");
    expect(loop, &tree, "renamed sub -> other/");
    remove_folder();
}

TEST(the_path) {
    static record one;
    char path[64];
    int length;
    make_folder();
    length = (int)strlen(folder);
    open_record(loop, &one, folder, NULL);
    CHECK_INT(kolo_watch_path(loop, one.handle, path, sizeof path), length);
    CHECK_STRING(path, folder);
    CHECK_INT(kolo_watch_path(loop, one.handle, path, (size_t)length + 1), length);
    CHECK_ERROR(kolo_watch_path(loop, one.handle, path, (size_t)length), KOLO_ENOBUFS);
    CHECK_ERROR(kolo_watch_path(loop, one.handle, NULL, sizeof path), KOLO_EINVAL);
    CHECK_OK(kolo_close(loop, one.handle));
    CHECK_ERROR(kolo_watch_path(loop, one.handle, path, sizeof path), KOLO_EBADF);
    run_to_end(loop);

    /* A relative one counts from the folder of the time, also later. */
    SYSTEM(chdir(folder));
    open_record(loop, &one, ".", NULL);
    SYSTEM(chdir("/"));
    CHECK_INT(kolo_watch_path(loop, one.handle, path, sizeof path), length);
    make("a");
    expect(loop, &one, "created a");
    remove_folder();
}

TEST(what_open_refuses) {
    kolo_watch out = 77;
    static record none;
    kolo_watch_options options = KOLO_WATCH_OPTIONS_INIT;
    make_folder();
    make("file");
    for (int polls = 0; polls < 2; polls++) {
        options.poll_ns = polls ? SECONDS(1) : 0;
        CHECK_ERROR(kolo_watch_open(loop, NULL, &options, note, &none, &out), KOLO_EINVAL);
        CHECK_ERROR(kolo_watch_open(loop, folder, &options, NULL, &none, &out), KOLO_EINVAL);
        CHECK_ERROR(kolo_watch_open(loop, folder, &options, note, &none, NULL), KOLO_EINVAL);
        CHECK_ERROR(kolo_watch_open(loop, "", &options, note, &none, &out), KOLO_EINVAL);
        CHECK_ERROR(kolo_watch_open(loop, at("absent"), &options, note, &none, &out), KOLO_ENOENT);
        CHECK_ERROR(kolo_watch_open(loop, at("file/below"), &options, note, &none, &out), KOLO_ENOTDIR);
        options.changes = KOLO_WATCH_READY << 1;
        CHECK_ERROR(kolo_watch_open(loop, folder, &options, note, &none, &out), KOLO_EINVAL);
        options.changes = 0;
    }
    options.size = 1;
    CHECK_ERROR(kolo_watch_open(loop, folder, &options, note, &none, &out), KOLO_EINVAL);
    CHECK_INT(out, 77);
    CHECK_INT(kolo_loop_alive(loop), 0);
    remove_folder();
}

TEST(closing_inside_of_the_callback) {
    static record one, other;
    make_folder();
    open_record(loop, &one, folder, NULL);
    open_record(loop, &other, folder, NULL);
    one.close = true;
    one.close_other = other.handle;
    make("a");
    make("b");
    run_to_end(loop);
    CHECK_INT(one.count, 1);
    CHECK(other.count <= 1); /* it may have had its turn first */
    CHECK_INT(one.closed, 1);
    CHECK_INT(other.closed, 1);
    remove_folder();
}

TEST_WITHOUT_LOOP(freeing_with_events_waiting) {
    kolo_loop *loop;
    static record one, looks;
    kolo_watch_options options = KOLO_WATCH_OPTIONS_INIT;
    make_folder();
    CHECK_OK(kolo_loop_new(NULL, &loop));
    options.recursive = true;
    open_record(loop, &one, folder, &options);
    options.poll_ns = 1;
    open_record(loop, &looks, folder, &options);
    for (int i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        SYSTEM(mkdir(at(name), 0700));
    }
    CHECK_OK(kolo_loop_run(loop, KOLO_RUN_NOWAIT) < 0 ? -1 : 0);
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(one.closed, 1);
    CHECK_INT(looks.closed, 1);
    remove_folder();
}

TEST(unref_lets_the_loop_end) {
    static record one;
    make_folder();
    open_record(loop, &one, folder, NULL);
    CHECK_INT(kolo_loop_alive(loop), 1);
    CHECK_OK(kolo_unref(loop, one.handle));
    run_to_end(loop);
    make("a");
    CHECK_OK(kolo_ref(loop, one.handle));
    expect(loop, &one, "created a");
    remove_folder();
}

TEST(a_forked_child_watches_on) {
    static record one;
    kolo_watch_options options = KOLO_WATCH_OPTIONS_INIT;
    make_folder();
    SYSTEM(mkdir(at("sub"), 0700));
    options.recursive = true;
    open_record(loop, &one, folder, &options);
    pid_t child = (pid_t)SYSTEM(fork());
    if (child == 0) {
        kolo_watch other;
        CHECK_ERROR(kolo_watch_open(loop, folder, NULL, note, &one, &other), KOLO_EFORKED);
        CHECK_OK(kolo_loop_fork(loop));
        expect(loop, &one, "overflow ");
        make("sub/child");
        expect(loop, &one, "created sub/child");
        CHECK_OK(kolo_loop_free(loop));
        _exit(0);
    }
    int status;
    SYSTEM(waitpid(child, &status, 0));
    CHECK_INT(status, 0);
    expect(loop, &one, "created sub/child");
    remove_folder();
}
