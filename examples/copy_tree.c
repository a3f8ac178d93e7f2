/* copy_tree.c: copies a folder with all that is in it, many files at a time.
 *
 * Build:  cc copy_tree.c $(pkg-config --cflags --libs kolo) -o copy_tree
 * Try:    ./copy_tree FROM TO      TO must not exist yet; Ctrl-C stops it, and leaves no half-copied file
 *
 * What it shows of kolo:
 *   - operations on names that the loop's pool does (kolo_fs_mkdir, kolo_fs_copy, kolo_fs_symlink), each told by a callback
 *   - a folder read in batches (kolo_directory_read): the next one is asked for when the last one has been dealt with, so
 *     that a folder with millions of files takes no more memory than one with ten
 *   - taking requests back (kolo_request_cancel): a copy stops also while it runs
 *
 * Folders, regular files with their permissions, and symbolic links are copied; sockets, devices and FIFOs are named and
 * left out. One folder is copied at a time; those found in it wait on a stack. */
#include <kolo.h>

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A folder that is copied, or waits for it. */
struct folder {
    struct folder *below; /* on the stack */
    char *from, *to;
    unsigned mode;
    kolo_directory directory;
};

/* A file or a link that is copied. There are never more than one batch of names has. */
struct operation {
    struct operation *next, *previous;
    kolo_request request;
    char *from, *to;
};

static struct {
    kolo_loop *loop;
    kolo_signal interrupt;
    struct folder *waiting, *folder;
    struct operation *operations;
    kolo_stat target; /* the folder that everything goes to, which may lie in what is copied */
    bool stopped;
    int failures;
    unsigned long files, folders, links;
    uint64_t bytes;
} tree;

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "copy_tree: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

static void complain(const char *path, const char *why)
{
    fprintf(stderr, "copy_tree: %s: %s\n", path, why);
    tree.failures++;
}

static void *checked(void *memory)
{
    if (memory == NULL) {
        fputs("copy_tree: out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static char *join(const char *folder, const char *name)
{
    size_t length = strlen(folder) + strlen(name) + 2;
    char *path = checked(malloc(length));
    snprintf(path, length, "%s/%s", folder, name);
    return path;
}

static char *text_copy(const char *text)
{
    return strcpy(checked(malloc(strlen(text) + 1)), text);
}

static void push_folder(char *from, char *to)
{
    struct folder *folder = checked(calloc(1, sizeof *folder));
    folder->from = from;
    folder->to = to;
    folder->below = tree.waiting;
    tree.waiting = folder;
}

/* ---- one folder after the other: stat, mkdir, open, batch after batch ---- */

static void next_folder(void);
static void next_batch(void);

static void fail_folder(const char *path, int status)
{
    if (status != KOLO_ECANCELED)
        complain(path, kolo_strerror(status));
    next_folder();
}

static void on_opened(kolo_loop *loop, kolo_request request, int status, kolo_directory directory, void *user)
{
    struct folder *folder = user;
    (void)loop;
    (void)request;
    if (status < 0) {
        fail_folder(folder->from, status);
        return;
    }
    folder->directory = directory;
    tree.folders++;
    next_batch();
}

static void on_made(kolo_loop *loop, kolo_request request, int status, void *user)
{
    struct folder *folder = user;
    (void)request;
    if (status < 0) {
        fail_folder(folder->to, status);
        return;
    }
    if (tree.target.inode == 0)
        check(kolo_fs_stat_sync(folder->to, &tree.target), folder->to);
    check(kolo_directory_open(loop, folder->from, on_opened, folder, NULL), "open a folder");
}

static void on_found(kolo_loop *loop, kolo_request request, int status, const kolo_stat *stat, void *user)
{
    struct folder *folder = user;
    (void)request;
    if (status < 0) {
        fail_folder(folder->from, status);
    } else if (stat->inode == tree.target.inode && stat->device == tree.target.device) {
        next_folder(); /* the copy itself: copying it would never end */
    } else {
        /* What is to be put into it must be allowed. */
        check(kolo_fs_mkdir(loop, folder->to, stat->mode | 0700, on_made, folder, NULL), "make a folder");
    }
}

static void next_folder(void)
{
    do {
        if (tree.folder != NULL) {
            if (tree.folder->directory != 0)
                kolo_close(tree.loop, tree.folder->directory);
            free(tree.folder->from);
            free(tree.folder->to);
            free(tree.folder);
        }
        tree.folder = tree.waiting;
        if (tree.folder == NULL) {
            kolo_close(tree.loop, tree.interrupt); /* the last handle: the loop ends */
            return;
        }
        tree.waiting = tree.folder->below;
    } while (tree.stopped);
    check(kolo_fs_stat(tree.loop, tree.folder->from, on_found, tree.folder, NULL), "look at a folder");
}

/* ---- what is in it ---- */

static void end_operation(struct operation *operation, int status)
{
    if (status < 0 && status != KOLO_ECANCELED)
        complain(operation->from, kolo_strerror(status));
    if (operation->previous != NULL)
        operation->previous->next = operation->next;
    else
        tree.operations = operation->next;
    if (operation->next != NULL)
        operation->next->previous = operation->previous;
    free(operation->from);
    free(operation->to);
    free(operation);
    if (tree.operations == NULL)
        next_batch();
}

static void on_copied(kolo_loop *loop, kolo_request request, int status, uint64_t length, void *user)
{
    (void)loop;
    (void)request;
    if (status == KOLO_OK) {
        tree.files++;
        tree.bytes += length;
    }
    end_operation(user, status);
}

static void on_linked(kolo_loop *loop, kolo_request request, int status, void *user)
{
    (void)loop;
    (void)request;
    tree.links += status == KOLO_OK;
    end_operation(user, status);
}

static void on_link_read(kolo_loop *loop, kolo_request request, int status, const char *target, size_t length, void *user)
{
    struct operation *operation = user;
    (void)request;
    (void)length;
    if (status < 0 || tree.stopped)
        end_operation(operation, status);
    else
        check(kolo_fs_symlink(loop, target, operation->to, on_linked, operation, &operation->request), "make a link");
}

static void begin_operation(uint32_t type, char *from, char *to)
{
    struct operation *operation = checked(calloc(1, sizeof *operation));
    operation->from = from;
    operation->to = to;
    operation->next = tree.operations;
    if (operation->next != NULL)
        operation->next->previous = operation;
    tree.operations = operation;
    if (type == KOLO_FILE_TYPE_LINK)
        check(kolo_fs_readlink(tree.loop, from, on_link_read, operation, &operation->request), "read a link");
    else
        check(kolo_fs_copy(tree.loop, from, to, KOLO_COPY_EXCLUSIVE, on_copied, operation, &operation->request),
              "copy a file");
}

static void on_entries(kolo_loop *loop, kolo_request request, int status, const kolo_directory_entry *entries, size_t count,
                       void *user)
{
    struct folder *folder = user;
    (void)loop;
    (void)request;
    if (status < 0) {
        fail_folder(folder->from, status);
        return;
    }
    if (count == 0) {
        next_folder();
        return;
    }
    for (size_t i = 0; i < count; i++) {
        char *from = join(folder->from, entries[i].name), *to = join(folder->to, entries[i].name);
        switch (entries[i].type) {
        case KOLO_FILE_TYPE_DIRECTORY:
            push_folder(from, to);
            break;
        case KOLO_FILE_TYPE_REGULAR:
        case KOLO_FILE_TYPE_LINK:
            begin_operation(entries[i].type, from, to);
            break;
        default:
            complain(from, "neither a file nor a folder nor a link: left out");
            free(from);
            free(to);
        }
    }
    if (tree.operations == NULL)
        next_batch(); /* folders only */
}

static void next_batch(void)
{
    if (tree.stopped)
        next_folder();
    else
        check(kolo_directory_read(tree.loop, tree.folder->directory, on_entries, tree.folder, NULL), "read a folder");
}

/* ---- stopping ---- */

static void on_interrupt(kolo_loop *loop, kolo_signal signal_handle, int number, void *user)
{
    (void)signal_handle;
    (void)number;
    (void)user;
    tree.stopped = true;
    /* What was not begun is taken back, a copy is stopped; what cannot be (KOLO_EBUSY) is over soon. */
    for (struct operation *operation = tree.operations; operation != NULL; operation = operation->next)
        kolo_request_cancel(loop, operation->request);
}

int main(int count, char **arguments)
{
    kolo_stat none = KOLO_STAT_INIT;
    if (count != 3) {
        fputs("usage: copy_tree FROM TO\n", stderr);
        return 2;
    }
    if (kolo_fs_lstat_sync(arguments[2], &none) == KOLO_OK) {
        fprintf(stderr, "copy_tree: %s: %s\n", arguments[2], kolo_strerror(KOLO_EEXIST));
        return 1;
    }
    tree.target = none;
    check(kolo_loop_new(NULL, &tree.loop), "create the loop");
    check(kolo_signal_open(tree.loop, on_interrupt, NULL, &tree.interrupt), "open a signal handle");
    check(kolo_signal_start(tree.loop, tree.interrupt, SIGINT), "watch a signal");
    push_folder(text_copy(arguments[1]), text_copy(arguments[2]));
    next_folder();
    check(kolo_loop_run(tree.loop, KOLO_RUN_DEFAULT), "run the loop");
    check(kolo_loop_free(tree.loop), "free the loop");
    printf("%s: %lu folders, %lu files (%" PRIu64 " bytes), %lu links; %d failed\n", tree.stopped ? "stopped" : "copied",
           tree.folders, tree.files, tree.bytes, tree.links, tree.failures);
    return tree.stopped || tree.failures > 0;
}
