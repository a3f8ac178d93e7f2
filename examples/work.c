/* work.c: work that would block a loop, on its pool of threads.
 *
 * Build:  cc work.c $(pkg-config --cflags --libs kolo) -o work
 * Try:    ./work FILE...            the checksum (CRC-32) of each file, as they are done
 *         ./work --limit 2 FILE...  gives up what has not begun after 2 seconds
 *         Ctrl-C                    gives up what has not begun, and ends
 *
 * Reading a file waits for the disk, so each is a piece of work of the class KOLO_WORK_FILES: so many run at once as the
 * pool has threads for it. What a piece finds stands in memory of its own, which is the thread's until its callback comes
 * on the loop; so nothing needs a lock. */
#include <kolo.h>

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "work: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

struct file {
    const char *name;
    struct files *all;
    kolo_request request;
    uint32_t checksum;
    const char *failed; /* NULL: it was read */
};

struct files {
    kolo_timer limit;
    kolo_signal interrupt;
    int left, failed;
    int count;
    struct file *list;
};

/* On a thread of the pool: touches nothing but its own file's record. */
static void read_file(void *user)
{
    struct file *file = user;
    unsigned char bytes[64 * 1024];
    uint32_t sum = 0xffffffff;
    size_t length;
    FILE *stream = fopen(file->name, "rb");
    if (stream == NULL) {
        file->failed = strerror(errno);
        return;
    }
    while ((length = fread(bytes, 1, sizeof bytes, stream)) > 0) {
        for (size_t at = 0; at < length; at++) {
            sum ^= bytes[at];
            for (int bit = 0; bit < 8; bit++) sum = sum >> 1 ^ (sum & 1 ? 0xedb88320 : 0);
        }
    }
    if (ferror(stream)) file->failed = "cannot be read";
    fclose(stream);
    file->checksum = ~sum;
}

/* On the loop's thread, once for each file. */
static void on_done(kolo_loop *loop, kolo_request request, int status, void *user)
{
    struct file *file = user;
    struct files *all = file->all;
    (void)request; /* its number is dead now */
    file->request = 0;
    if (status < 0) file->failed = status == KOLO_ECANCELED ? "given up" : kolo_strerror(status);
    if (file->failed != NULL) {
        fprintf(stderr, "work: %s: %s\n", file->name, file->failed);
        all->failed++;
    } else {
        printf("%08x  %s\n", (unsigned)file->checksum, file->name);
    }
    if (--all->left == 0) { /* nothing keeps the loop alive any more */
        check(kolo_close(loop, all->limit), "close the timer");
        check(kolo_close(loop, all->interrupt), "close the signal");
    }
}

static void give_up(kolo_loop *loop, struct files *all)
{
    for (int i = 0; i < all->count; i++) {
        /* KOLO_EBUSY: a thread is at it, and will be done soon. */
        if (all->list[i].request != 0) (void)kolo_request_cancel(loop, all->list[i].request);
    }
}

static void on_limit(kolo_loop *loop, kolo_timer timer, void *user)
{
    (void)timer;
    give_up(loop, user);
}

static void on_interrupt(kolo_loop *loop, kolo_signal handle, int number, void *user)
{
    (void)handle, (void)number;
    give_up(loop, user);
}

int main(int argc, char **argv)
{
    struct files all = {0};
    kolo_loop *loop;
    int first = 1;
    double limit_s = 0;

    if (argc > 2 && strcmp(argv[1], "--limit") == 0) {
        limit_s = atof(argv[2]);
        first = 3;
    }
    if (first >= argc) {
        fprintf(stderr, "usage: work [--limit SECONDS] FILE...\n");
        return 2;
    }
    all.count = argc - first;
    all.list = calloc((size_t)all.count, sizeof *all.list);
    if (all.list == NULL) return 1;

    check(kolo_loop_new(NULL, &loop), "make a loop");
    check(kolo_timer_open(loop, on_limit, &all, &all.limit), "make a timer");
    if (limit_s > 0) check(kolo_timer_start(loop, all.limit, (uint64_t)(limit_s * 1e9), 0), "start the timer");
    check(kolo_signal_open(loop, on_interrupt, &all, &all.interrupt), "make a signal handle");
    check(kolo_signal_start(loop, all.interrupt, SIGINT), "watch SIGINT");

    for (int i = 0; i < all.count; i++) {
        struct file *file = &all.list[i];
        file->name = argv[first + i];
        file->all = &all;
        check(kolo_work_submit(loop, KOLO_WORK_FILES, read_file, on_done, file, &file->request), "submit work");
        all.left++;
    }
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop");
    free(all.list);
    return all.failed > 0;
}
