/* Misuse: each wrong call gets its error code, and the loop goes on working.
 *
 * The tables below hold every function that takes a loop; a function added to the header belongs into one of them. */
#include "harness.h"

#include <net/if.h>
#include <pty.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

/* ---- callbacks that must never be heard ---- */
static void no_timer(kolo_loop *loop, kolo_timer timer, void *user) { (void)loop, (void)timer, (void)user; }
static void no_hook(kolo_loop *loop, kolo_hook hook, void *user) { (void)loop, (void)hook, (void)user; }
static void no_waker(kolo_loop *loop, kolo_waker waker, void *user) { (void)loop, (void)waker, (void)user; }
static void no_signal(kolo_loop *loop, kolo_signal signal, int number, void *user) {
    (void)loop, (void)signal, (void)number, (void)user;
}
static void no_poll(kolo_loop *loop, kolo_poll poll, int status, uint32_t events, void *user) {
    (void)loop, (void)poll, (void)status, (void)events, (void)user;
}
static void no_watch(kolo_loop *loop, kolo_watch watch, const kolo_watch_event *event, void *user) {
    (void)loop, (void)watch, (void)event, (void)user;
}
static void no_status(kolo_loop *loop, int status, void *user) { (void)loop, (void)status, (void)user; }
static void no_close(kolo_loop *loop, kolo_handle handle, void *user) { (void)loop, (void)handle, (void)user; }
static void no_done(kolo_loop *loop, kolo_stream stream, int status, void *user) {
    (void)loop, (void)stream, (void)status, (void)user;
}
static void no_work(void *user) { (void)user; }
static void no_work_done(kolo_loop *loop, kolo_request request, int status, void *user) {
    (void)loop, (void)request, (void)status, (void)user;
}
static void no_resolve(kolo_loop *loop, kolo_request request, int status, const kolo_address *addresses, size_t count,
                       const char *name, void *user) {
    (void)loop, (void)request, (void)status, (void)addresses, (void)count, (void)name, (void)user;
}
static void no_reverse(kolo_loop *loop, kolo_request request, int status, const char *host, const char *service,
                       void *user) {
    (void)loop, (void)request, (void)status, (void)host, (void)service, (void)user;
}
static void no_transfer(kolo_loop *loop, kolo_request request, int status, uint64_t length, void *user) {
    (void)loop, (void)request, (void)status, (void)length, (void)user;
}
static void no_stat(kolo_loop *loop, kolo_request request, int status, const kolo_stat *stat, void *user) {
    (void)loop, (void)request, (void)status, (void)stat, (void)user;
}
static void no_statfs(kolo_loop *loop, kolo_request request, int status, const kolo_statfs *statfs, void *user) {
    (void)loop, (void)request, (void)status, (void)statfs, (void)user;
}
static void no_path(kolo_loop *loop, kolo_request request, int status, const char *path, size_t length, void *user) {
    (void)loop, (void)request, (void)status, (void)path, (void)length, (void)user;
}
static void no_file(kolo_loop *loop, kolo_request request, int status, kolo_file file, void *user) {
    (void)request, (void)user;
    if (status == KOLO_OK) kolo_close(loop, file);
}
static void no_entries(kolo_loop *loop, kolo_request request, int status, const kolo_directory_entry *entries,
                       size_t count, void *user) {
    (void)loop, (void)request, (void)status, (void)entries, (void)count, (void)user;
}
static void no_entry(kolo_loop *loop, kolo_directory directory, const kolo_directory_entry *entry, void *user) {
    (void)loop, (void)directory, (void)entry, (void)user;
}
static int no_walk(kolo_loop *loop, kolo_handle handle, int kind, void *user) {
    (void)loop, (void)handle, (void)kind, (void)user;
    return 0;
}

static void no_resize(kolo_loop *loop, kolo_tty tty, const kolo_window_size *size, void *user) {
    (void)loop, (void)tty, (void)size, (void)user;
}

/* Descriptors for the calls that need one; opened by with_descriptors(). */
static int spare_pair[2] = {-1, -1};
static int spare_terminal[2] = {-1, -1};
static kolo_address spare_address;

static void open_spare(void) {
    SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, spare_pair));
    SYSTEM(openpty(&spare_terminal[0], &spare_terminal[1], NULL, NULL, NULL));
    spare_address = loopback_v4(0);
}

static void close_spare(void) {
    raw_close(&spare_pair[0]);
    raw_close(&spare_pair[1]);
    raw_close(&spare_terminal[0]);
    raw_close(&spare_terminal[1]);
}

/* ---- functions that take a loop and no handle ---- */
typedef struct loop_call {
    const char *name;
    int (*call)(kolo_loop *loop);
} loop_call;

static int call_run(kolo_loop *loop) { return kolo_loop_run(loop, KOLO_RUN_NOWAIT); }
static int call_now(kolo_loop *loop) {
    uint64_t now;
    return kolo_loop_now(loop, &now);
}
static int call_backend_timeout(kolo_loop *loop) {
    int64_t timeout;
    return kolo_loop_backend_timeout(loop, &timeout);
}
static int call_set_user(kolo_loop *loop) { return kolo_loop_set_user(loop, NULL); }
static int call_user(kolo_loop *loop) {
    void *user;
    return kolo_loop_user(loop, &user);
}
static int call_metrics(kolo_loop *loop) {
    kolo_metrics metrics = KOLO_METRICS_INIT;
    return kolo_loop_metrics(loop, &metrics);
}
static int call_sim_set_descriptors(kolo_loop *loop) {
    kolo_sim sim;
    int error = kolo_sim_new(NULL, &sim);
    if (error < 0) return error;
    error = kolo_sim_set_descriptors(sim, loop, 0);
    CHECK_OK(kolo_sim_free(sim));
    return error;
}
static int call_defer(kolo_loop *loop) { return kolo_loop_defer(loop, no_status, NULL); }
static int call_walk(kolo_loop *loop) { return kolo_loop_walk(loop, no_walk, NULL); }
static int call_timer_open(kolo_loop *loop) {
    kolo_timer out;
    return kolo_timer_open(loop, no_timer, NULL, &out);
}
static int call_hook_open(kolo_loop *loop) {
    kolo_hook out;
    return kolo_hook_open(loop, KOLO_HOOK_CHECK, no_hook, NULL, &out);
}
static int call_remote(kolo_loop *loop) {
    kolo_remote *out;
    return kolo_loop_remote(loop, &out);
}
static int call_waker_open(kolo_loop *loop) {
    kolo_waker out;
    return kolo_waker_open(loop, no_waker, NULL, &out);
}
static int call_signal_open(kolo_loop *loop) {
    kolo_signal out;
    return kolo_signal_open(loop, no_signal, NULL, &out);
}
static int call_poll_open(kolo_loop *loop) {
    kolo_poll out;
    return kolo_poll_open(loop, spare_pair[0], no_poll, NULL, &out);
}
static int call_work_submit(kolo_loop *loop) {
    return kolo_work_submit(loop, KOLO_WORK_COMPUTE, no_work, no_work_done, NULL, NULL);
}
static int call_listen(kolo_loop *loop) {
    kolo_listener out;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    return kolo_tcp_listen(loop, &spare_address, NULL, &handler, NULL, &out);
}
static int call_listener_adopt(kolo_loop *loop) {
    kolo_listener out;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    return kolo_listener_adopt(loop, spare_pair[0], NULL, &handler, NULL, &out);
}
static int call_connect(kolo_loop *loop) {
    kolo_tcp out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_tcp_connect(loop, &spare_address, NULL, &handler, NULL, &out);
}
static int call_connect_any(kolo_loop *loop) {
    kolo_tcp out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_tcp_connect_any(loop, &spare_address, 1, NULL, &handler, NULL, &out);
}
static int call_connect_name(kolo_loop *loop) {
    kolo_tcp out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_tcp_connect_name(loop, "127.0.0.1", 1, NULL, &handler, NULL, &out);
}
static int call_resolve(kolo_loop *loop) {
    return kolo_resolve(loop, "127.0.0.1", "1", NULL, no_resolve, NULL, NULL);
}
static int call_reverse(kolo_loop *loop) { return kolo_reverse(loop, &spare_address, NULL, no_reverse, NULL, NULL); }
static int call_adopt(kolo_loop *loop) {
    kolo_tcp out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_tcp_adopt(loop, spare_pair[0], &handler, NULL, &out);
}
/* An abstract name, which goes with its socket; each call takes another. */
static size_t spare_name(char *name, size_t room) {
    static int count;
    int length = snprintf(name + 1, room - 1, "kolo misuse %d %d", (int)getpid(), ++count);
    name[0] = 0;
    return (size_t)length + 1;
}
static int call_local_listen(kolo_loop *loop) {
    char name[64];
    kolo_listener out;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    return kolo_local_listen(loop, name, spare_name(name, sizeof name), NULL, &handler, NULL, &out);
}
static int call_local_listener_adopt(kolo_loop *loop) {
    kolo_listener out;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    return kolo_local_listener_adopt(loop, spare_pair[0], NULL, &handler, NULL, &out);
}
static int call_local_connect(kolo_loop *loop) {
    char name[64];
    kolo_local out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_local_connect(loop, name, spare_name(name, sizeof name), NULL, &handler, NULL, &out);
}
static int call_local_pair(kolo_loop *loop) {
    kolo_local one, other;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_local_pair(loop, &handler, NULL, &handler, NULL, &one, &other);
}
static int call_local_adopt(kolo_loop *loop) {
    kolo_local out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_local_adopt(loop, spare_pair[0], &handler, NULL, &out);
}
static int call_pipe_pair(kolo_loop *loop) {
    kolo_pipe one, other;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_pipe_pair(loop, &handler, NULL, &handler, NULL, &one, &other);
}
static int call_pipe_half(kolo_loop *loop) {
    kolo_pipe out;
    int other = -1;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    int result = kolo_pipe_half(loop, KOLO_DIRECTION_READ, &handler, NULL, &out, &other);
    raw_close(&other);
    return result;
}
static int call_pipe_open(kolo_loop *loop) {
    kolo_pipe out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_pipe_open(loop, "/no/such/pipe", KOLO_DIRECTION_READ, &handler, NULL, &out);
}
static int call_pipe_adopt(kolo_loop *loop) {
    kolo_pipe out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_pipe_adopt(loop, spare_pair[0], &handler, NULL, &out);
}
static int call_pipe_reopen(kolo_loop *loop) {
    kolo_pipe out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_pipe_reopen(loop, spare_pair[0], &handler, NULL, &out);
}
static int call_watch_open(kolo_loop *loop) {
    kolo_watch out;
    return kolo_watch_open(loop, "/tmp", NULL, no_watch, NULL, &out);
}
static int call_udp_bind(kolo_loop *loop) {
    kolo_udp out;
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    kolo_address any = loopback_v4(0);
    return kolo_udp_bind(loop, &any, NULL, &handler, NULL, &out);
}
static int call_udp_adopt(kolo_loop *loop) {
    kolo_udp out;
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    return kolo_udp_adopt(loop, spare_pair[0], NULL, &handler, NULL, &out);
}
static int call_tty_open(kolo_loop *loop) {
    kolo_tty out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_tty_open(loop, spare_terminal[1], &handler, NULL, &out);
}
static kolo_process_options sleep_options(void) {
    static const char *const arguments[] = {"/bin/sleep", "600", NULL};
    kolo_process_options options = KOLO_PROCESS_OPTIONS_INIT;
    options.program = arguments[0];
    options.arguments = arguments;
    options.new_group = true;
    options.kill_on_close = true;
    options.parent_death_signal = SIGKILL; /* also when a test fails */
    return options;
}
static int call_spawn(kolo_loop *loop) {
    kolo_process out;
    kolo_process_options options = sleep_options();
    return kolo_process_spawn(loop, &options, NULL, NULL, &out);
}
static int call_driver_name(kolo_loop *loop) {
    return kolo_loop_driver_name(loop) == NULL ? KOLO_EBADF : KOLO_OK; /* NULL is its only error */
}

static int call_fs_stat(kolo_loop *loop) { return kolo_fs_stat(loop, "/nonexistent/kolo", no_stat, NULL, NULL); }
static int call_fs_lstat(kolo_loop *loop) { return kolo_fs_lstat(loop, "/nonexistent/kolo", no_stat, NULL, NULL); }
static int call_fs_access(kolo_loop *loop) {
    return kolo_fs_access(loop, "/nonexistent/kolo", 0, no_work_done, NULL, NULL);
}
static int call_fs_mkdir(kolo_loop *loop) {
    return kolo_fs_mkdir(loop, "/nonexistent/kolo", 0, no_work_done, NULL, NULL);
}
static int call_fs_mkdtemp(kolo_loop *loop) { return kolo_fs_mkdtemp(loop, "/nonexistent/kolo", no_path, NULL, NULL); }
static int call_fs_rmdir(kolo_loop *loop) { return kolo_fs_rmdir(loop, "/nonexistent/kolo", no_work_done, NULL, NULL); }
static int call_fs_unlink(kolo_loop *loop) {
    return kolo_fs_unlink(loop, "/nonexistent/kolo", no_work_done, NULL, NULL);
}
static int call_fs_rename(kolo_loop *loop) {
    return kolo_fs_rename(loop, "/nonexistent/kolo", "/nonexistent/kolo", no_work_done, NULL, NULL);
}
static int call_fs_link(kolo_loop *loop) {
    return kolo_fs_link(loop, "/nonexistent/kolo", "/nonexistent/kolo", no_work_done, NULL, NULL);
}
static int call_fs_symlink(kolo_loop *loop) {
    return kolo_fs_symlink(loop, "/nonexistent/kolo", "/nonexistent/kolo", no_work_done, NULL, NULL);
}
static int call_fs_readlink(kolo_loop *loop) {
    return kolo_fs_readlink(loop, "/nonexistent/kolo", no_path, NULL, NULL);
}
static int call_fs_realpath(kolo_loop *loop) {
    return kolo_fs_realpath(loop, "/nonexistent/kolo", no_path, NULL, NULL);
}
static int call_fs_truncate(kolo_loop *loop) {
    return kolo_fs_truncate(loop, "/nonexistent/kolo", 0, no_work_done, NULL, NULL);
}
static int call_fs_chmod(kolo_loop *loop) {
    return kolo_fs_chmod(loop, "/nonexistent/kolo", 0, no_work_done, NULL, NULL);
}
static int call_fs_chown(kolo_loop *loop) {
    return kolo_fs_chown(loop, "/nonexistent/kolo", 0, 0, no_work_done, NULL, NULL);
}
static int call_fs_lchown(kolo_loop *loop) {
    return kolo_fs_lchown(loop, "/nonexistent/kolo", 0, 0, no_work_done, NULL, NULL);
}
static int call_fs_utimes(kolo_loop *loop) {
    return kolo_fs_utimes(loop, "/nonexistent/kolo", 0, 0, 0, no_work_done, NULL, NULL);
}
static int call_fs_lutimes(kolo_loop *loop) {
    return kolo_fs_lutimes(loop, "/nonexistent/kolo", 0, 0, 0, no_work_done, NULL, NULL);
}
static int call_fs_statfs(kolo_loop *loop) { return kolo_fs_statfs(loop, "/nonexistent/kolo", no_statfs, NULL, NULL); }
static int call_fs_copy(kolo_loop *loop) {
    return kolo_fs_copy(loop, "/nonexistent/kolo", "/nonexistent/kolo", 0, no_transfer, NULL, NULL);
}
static int call_file_open(kolo_loop *loop) { return kolo_file_open(loop, "/", NULL, no_file, NULL, NULL); }
static int call_file_open_sync(kolo_loop *loop) {
    kolo_file file;
    return kolo_file_open_sync(loop, "/", NULL, &file);
}
static int call_file_adopt(kolo_loop *loop) {
    kolo_file file;
    return kolo_file_adopt(loop, spare_pair[0], &file);
}
static int call_directory_open(kolo_loop *loop) { return kolo_directory_open(loop, "/", no_file, NULL, NULL); }
static int call_directory_open_sync(kolo_loop *loop) {
    kolo_directory directory;
    return kolo_directory_open_sync(loop, "/", &directory);
}

static const loop_call loop_calls[] = {
    {"kolo_loop_free", kolo_loop_free},
    {"kolo_loop_run", call_run},
    {"kolo_loop_stop", kolo_loop_stop},
    {"kolo_loop_alive", kolo_loop_alive},
    {"kolo_loop_now", call_now},
    {"kolo_loop_update_now", kolo_loop_update_now},
    {"kolo_loop_backend_fd", kolo_loop_backend_fd},
    {"kolo_loop_backend_timeout", call_backend_timeout},
    {"kolo_loop_fork", kolo_loop_fork},
    {"kolo_loop_detach_thread", kolo_loop_detach_thread},
    {"kolo_loop_set_user", call_set_user},
    {"kolo_loop_user", call_user},
    {"kolo_sim_set_descriptors", call_sim_set_descriptors},
    {"kolo_loop_metrics", call_metrics},
    {"kolo_loop_defer", call_defer},
    {"kolo_loop_walk", call_walk},
    {"kolo_timer_open", call_timer_open},
    {"kolo_hook_open", call_hook_open},
    {"kolo_loop_remote", call_remote},
    {"kolo_waker_open", call_waker_open},
    {"kolo_signal_open", call_signal_open},
    {"kolo_poll_open", call_poll_open},
    {"kolo_work_submit", call_work_submit},
    {"kolo_watch_open", call_watch_open},
    {"kolo_tcp_listen", call_listen},
    {"kolo_listener_adopt", call_listener_adopt},
    {"kolo_tcp_connect", call_connect},
    {"kolo_tcp_connect_any", call_connect_any},
    {"kolo_tcp_connect_name", call_connect_name},
    {"kolo_resolve", call_resolve},
    {"kolo_reverse", call_reverse},
    {"kolo_tcp_adopt", call_adopt},
    {"kolo_local_listen", call_local_listen},
    {"kolo_local_listener_adopt", call_local_listener_adopt},
    {"kolo_local_connect", call_local_connect},
    {"kolo_local_pair", call_local_pair},
    {"kolo_local_adopt", call_local_adopt},
    {"kolo_pipe_pair", call_pipe_pair},
    {"kolo_pipe_half", call_pipe_half},
    {"kolo_pipe_open", call_pipe_open},
    {"kolo_pipe_adopt", call_pipe_adopt},
    {"kolo_pipe_reopen", call_pipe_reopen},
    {"kolo_udp_bind", call_udp_bind},
    {"kolo_udp_adopt", call_udp_adopt},
    {"kolo_process_spawn", call_spawn},
    {"kolo_tty_open", call_tty_open},
    {"kolo_fs_stat", call_fs_stat},
    {"kolo_fs_lstat", call_fs_lstat},
    {"kolo_fs_access", call_fs_access},
    {"kolo_fs_mkdir", call_fs_mkdir},
    {"kolo_fs_mkdtemp", call_fs_mkdtemp},
    {"kolo_fs_rmdir", call_fs_rmdir},
    {"kolo_fs_unlink", call_fs_unlink},
    {"kolo_fs_rename", call_fs_rename},
    {"kolo_fs_link", call_fs_link},
    {"kolo_fs_symlink", call_fs_symlink},
    {"kolo_fs_readlink", call_fs_readlink},
    {"kolo_fs_realpath", call_fs_realpath},
    {"kolo_fs_truncate", call_fs_truncate},
    {"kolo_fs_chmod", call_fs_chmod},
    {"kolo_fs_chown", call_fs_chown},
    {"kolo_fs_lchown", call_fs_lchown},
    {"kolo_fs_utimes", call_fs_utimes},
    {"kolo_fs_lutimes", call_fs_lutimes},
    {"kolo_fs_statfs", call_fs_statfs},
    {"kolo_fs_copy", call_fs_copy},
    {"kolo_file_open", call_file_open},
    {"kolo_file_open_sync", call_file_open_sync},
    {"kolo_file_adopt", call_file_adopt},
    {"kolo_directory_open", call_directory_open},
    {"kolo_directory_open_sync", call_directory_open_sync},
};
#define LOOP_CALLS (sizeof loop_calls / sizeof loop_calls[0])

/* ---- functions that take a handle ---- */
enum { ANY_STREAM = -1, ANY_LISTENER = -2, ANY_LOCAL = -3 };

static bool is_for(int wanted, int kind) {
    bool stream = kind == KOLO_KIND_TCP || kind == KOLO_KIND_TTY || kind == KOLO_KIND_LOCAL || kind == KOLO_KIND_PIPE;
    bool listener = kind == KOLO_KIND_LISTENER || kind == KOLO_KIND_LOCAL_LISTENER;
    bool local = kind == KOLO_KIND_LOCAL || kind == KOLO_KIND_LOCAL_LISTENER;
    return wanted == 0 || wanted == kind || (wanted == ANY_STREAM && stream) ||
           (wanted == ANY_LISTENER && listener) || (wanted == ANY_LOCAL && local);
}

typedef struct handle_call {
    const char *name;
    int kind; /* 0: any; ANY_STREAM, ANY_LISTENER: whatever carries it; ANY_LOCAL: a stream or a listener */
    int (*call)(kolo_loop *loop, kolo_handle handle);
} handle_call;

static int call_on_close(kolo_loop *loop, kolo_handle handle) { return kolo_on_close(loop, handle, no_close, NULL); }
static int call_describe(kolo_loop *loop, kolo_handle handle) {
    char text[64];
    return kolo_describe(loop, handle, text, sizeof text);
}
static int call_timer_start(kolo_loop *loop, kolo_handle handle) {
    return kolo_timer_start(loop, handle, SECONDS(60), SECONDS(60));
}
static int call_timer_remaining(kolo_loop *loop, kolo_handle handle) {
    uint64_t left;
    return kolo_timer_remaining(loop, handle, &left);
}
static int call_timer_overrun(kolo_loop *loop, kolo_handle handle) {
    uint64_t overrun;
    return kolo_timer_overrun(loop, handle, &overrun);
}
static int call_waker_remote(kolo_loop *loop, kolo_handle handle) {
    kolo_remote *remote = NULL;
    int result = kolo_waker_remote(loop, handle, &remote);
    if (result == KOLO_OK) kolo_remote_release(remote);
    return result;
}
static int call_signal_start(kolo_loop *loop, kolo_handle handle) { return kolo_signal_start(loop, handle, SIGUSR2); }
static int call_poll_start(kolo_loop *loop, kolo_handle handle) {
    return kolo_poll_start(loop, handle, KOLO_POLL_READABLE);
}
static int call_attach(kolo_loop *loop, kolo_handle handle) {
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return kolo_stream_attach(loop, handle, &handler, NULL);
}
static int call_stream_user(kolo_loop *loop, kolo_handle handle) {
    void *user;
    return kolo_stream_user(loop, handle, &user);
}
static int call_write(kolo_loop *loop, kolo_handle handle) { return kolo_stream_write(loop, handle, "x", 1); }
static int call_write_owned(kolo_loop *loop, kolo_handle handle) {
    kolo_buffer buffer = {"x", 1};
    return kolo_stream_write_owned(loop, handle, &buffer, 1, no_done, NULL, NULL);
}
static int call_write_cancel(kolo_loop *loop, kolo_handle handle) {
    int result = kolo_stream_write_cancel(loop, handle, 99);
    return result == KOLO_ENOENT ? KOLO_OK : result; /* the stream was right, there is no such write */
}
static int call_finish(kolo_loop *loop, kolo_handle handle) { return kolo_stream_finish(loop, handle, SECONDS(60)); }
static int call_set_timeouts(kolo_loop *loop, kolo_handle handle) {
    return kolo_stream_set_timeouts(loop, handle, SECONDS(60), 0);
}
static int call_set_watermarks(kolo_loop *loop, kolo_handle handle) {
    return kolo_stream_set_watermarks(loop, handle, 1000, 2000, 3000);
}
static int call_queued(kolo_loop *loop, kolo_handle handle) {
    size_t queued;
    return kolo_stream_queued(loop, handle, &queued);
}
static int call_shutdown(kolo_loop *loop, kolo_handle handle) {
    return kolo_stream_shutdown(loop, handle, no_done, NULL);
}
static int call_request_cancel(kolo_loop *loop, kolo_handle handle) {
    int result = kolo_request_cancel(loop, handle);
    return result == KOLO_EBUSY ? KOLO_OK : result; /* the request was right, a thread has begun it */
}
static void no_move(kolo_loop *loop, kolo_tcp tcp, int status, void *user) {
    (void)loop, (void)tcp, (void)status, (void)user;
}
static int call_move(kolo_loop *loop, kolo_handle handle) {
    kolo_remote *remote = NULL;
    int result = kolo_loop_remote(loop, &remote);
    if (result < 0) return result;
    result = kolo_tcp_move(loop, handle, remote, no_move, NULL);
    kolo_remote_release(remote);
    return result;
}
static int call_listener_address(kolo_loop *loop, kolo_handle handle) {
    kolo_address address;
    return kolo_listener_address(loop, handle, &address);
}
static int call_set_nodelay(kolo_loop *loop, kolo_handle handle) { return kolo_tcp_set_nodelay(loop, handle, true); }
static int call_set_keepalive(kolo_loop *loop, kolo_handle handle) {
    return kolo_tcp_set_keepalive(loop, handle, 60, 0, 0);
}
static int call_set_reset_on_close(kolo_loop *loop, kolo_handle handle) { return kolo_tcp_set_reset_on_close(loop, handle, true); }
static int call_set_buffers(kolo_loop *loop, kolo_handle handle) {
    return kolo_tcp_set_buffers(loop, handle, 100000, 100000);
}
static int call_buffers(kolo_loop *loop, kolo_handle handle) {
    uint32_t send_bytes, receive_bytes;
    return kolo_tcp_buffers(loop, handle, &send_bytes, &receive_bytes);
}
static int call_local(kolo_loop *loop, kolo_handle handle) {
    kolo_address address;
    return kolo_tcp_local(loop, handle, &address);
}
static int call_peer(kolo_loop *loop, kolo_handle handle) {
    kolo_address address;
    return kolo_tcp_peer(loop, handle, &address);
}
static int call_socket(kolo_loop *loop, kolo_handle handle) {
    kolo_socket socket;
    return kolo_tcp_socket(loop, handle, &socket);
}
static int call_watch_path(kolo_loop *loop, kolo_handle handle) {
    char path[64];
    int result = kolo_watch_path(loop, handle, path, sizeof path);
    return result < 0 ? result : KOLO_OK;
}
static int call_tty_set_mode(kolo_loop *loop, kolo_handle handle) {
    return kolo_tty_set_mode(loop, handle, KOLO_TTY_CBREAK);
}
static int call_tty_window_size(kolo_loop *loop, kolo_handle handle) {
    kolo_window_size size;
    return kolo_tty_window_size(loop, handle, &size);
}
static int call_tty_on_resize(kolo_loop *loop, kolo_handle handle) {
    return kolo_tty_on_resize(loop, handle, no_resize, NULL);
}
static int call_release(kolo_loop *loop, kolo_handle handle) {
    kolo_socket socket = -1;
    int result = kolo_tcp_release(loop, handle, &socket);
    if (result == KOLO_OK) SYSTEM(close((int)socket));
    return result;
}
static void no_sent(kolo_loop *loop, kolo_stream stream, int status, uint64_t sent, void *user) {
    (void)loop, (void)stream, (void)status, (void)sent, (void)user;
}
static int call_send_file(kolo_loop *loop, kolo_handle handle) {
    /* Of a file, since the table has one handle for each: the stream is wrong, the loop is looked at before. */
    int result = kolo_stream_send_file(loop, handle, handle, 0, 1, no_sent, NULL, NULL);
    return result == KOLO_EBADF && kolo_kind_of(loop, handle) == KOLO_KIND_FILE ? KOLO_OK : result;
}
static char file_memory[8];
static kolo_buffer file_buffer = {file_memory, sizeof file_memory};
static int call_file_release(kolo_loop *loop, kolo_handle handle) {
    kolo_socket descriptor = -1;
    int result = kolo_file_release(loop, handle, &descriptor);
    if (result == KOLO_OK) SYSTEM(close((int)descriptor));
    return result;
}
static int call_file_descriptor(kolo_loop *loop, kolo_handle handle) {
    kolo_socket descriptor;
    return kolo_file_descriptor(loop, handle, &descriptor);
}
static int call_file_read(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_read(loop, handle, file_memory, sizeof file_memory, 0, no_transfer, NULL, NULL);
}
static int call_file_read_vectored(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_read_vectored(loop, handle, &file_buffer, 1, 0, no_transfer, NULL, NULL);
}
static int call_file_read_sync(kolo_loop *loop, kolo_handle handle) {
    size_t moved;
    return kolo_file_read_sync(loop, handle, file_memory, sizeof file_memory, 0, &moved);
}
static int call_file_read_vectored_sync(kolo_loop *loop, kolo_handle handle) {
    size_t moved;
    return kolo_file_read_vectored_sync(loop, handle, &file_buffer, 1, 0, &moved);
}
static int call_file_write(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_write(loop, handle, file_memory, sizeof file_memory, 0, no_transfer, NULL, NULL);
}
static int call_file_write_vectored(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_write_vectored(loop, handle, &file_buffer, 1, 0, no_transfer, NULL, NULL);
}
static int call_file_write_sync(kolo_loop *loop, kolo_handle handle) {
    size_t moved;
    return kolo_file_write_sync(loop, handle, file_memory, sizeof file_memory, 0, &moved);
}
static int call_file_write_vectored_sync(kolo_loop *loop, kolo_handle handle) {
    size_t moved;
    return kolo_file_write_vectored_sync(loop, handle, &file_buffer, 1, 0, &moved);
}
static int call_file_stat(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_stat(loop, handle, no_stat, NULL, NULL);
}
static int call_file_stat_sync(kolo_loop *loop, kolo_handle handle) {
    kolo_stat stat = KOLO_STAT_INIT;
    return kolo_file_stat_sync(loop, handle, &stat);
}
static int call_file_fsync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_fsync(loop, handle, no_work_done, NULL, NULL);
}
static int call_file_fsync_sync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_fsync_sync(loop, handle);
}
static int call_file_fdatasync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_fdatasync(loop, handle, no_work_done, NULL, NULL);
}
static int call_file_fdatasync_sync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_fdatasync_sync(loop, handle);
}
static int call_file_truncate(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_truncate(loop, handle, 10, no_work_done, NULL, NULL);
}
static int call_file_truncate_sync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_truncate_sync(loop, handle, 10);
}
static int call_file_chmod(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_chmod(loop, handle, 0600, no_work_done, NULL, NULL);
}
static int call_file_chmod_sync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_chmod_sync(loop, handle, 0600);
}
static int call_file_chown(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_chown(loop, handle, UINT32_MAX, UINT32_MAX, no_work_done, NULL, NULL);
}
static int call_file_chown_sync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_chown_sync(loop, handle, UINT32_MAX, UINT32_MAX);
}
static int call_file_utimes(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_utimes(loop, handle, 0, 0, 0, no_work_done, NULL, NULL);
}
static int call_file_utimes_sync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_utimes_sync(loop, handle, 0, 0, 0);
}
static int call_directory_open_file(kolo_loop *loop, kolo_handle handle) {
    return kolo_directory_open_file(loop, handle, no_file, NULL, NULL);
}
static int call_directory_open_file_sync(kolo_loop *loop, kolo_handle handle) {
    kolo_directory directory;
    int result = kolo_directory_open_file_sync(loop, handle, &directory);
    return result == KOLO_ENOTDIR ? KOLO_OK : result; /* the file was right, but no directory */
}
static int call_file_close(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_close(loop, handle, no_work_done, NULL, NULL);
}
static int call_file_close_sync(kolo_loop *loop, kolo_handle handle) {
    return kolo_file_close_sync(loop, handle);
}
static int call_directory_read(kolo_loop *loop, kolo_handle handle) {
    int result = kolo_directory_read(loop, handle, no_entries, NULL, NULL);
    return result == KOLO_EBUSY ? KOLO_OK : result;
}
static int call_directory_read_sync(kolo_loop *loop, kolo_handle handle) {
    int result = kolo_directory_read_sync(loop, handle, no_entry, NULL);
    return result == KOLO_EBUSY ? KOLO_OK : result; /* the directory was right, and is being read */
}

static int call_local_name(kolo_loop *loop, kolo_handle handle) {
    char name[128];
    size_t length;
    return kolo_local_name(loop, handle, name, sizeof name, &length);
}
static int call_local_peer_name(kolo_loop *loop, kolo_handle handle) {
    char name[128];
    size_t length;
    return kolo_local_peer_name(loop, handle, name, sizeof name, &length);
}
static int call_local_credentials(kolo_loop *loop, kolo_handle handle) {
    int64_t process;
    uint32_t user, group;
    return kolo_local_peer_credentials(loop, handle, &process, &user, &group);
}
static int call_local_set_buffers(kolo_loop *loop, kolo_handle handle) {
    return kolo_local_set_buffers(loop, handle, 100000, 0);
}
static int call_local_socket(kolo_loop *loop, kolo_handle handle) {
    kolo_socket socket;
    return kolo_local_socket(loop, handle, &socket);
}
static int call_local_receive(kolo_loop *loop, kolo_handle handle) {
    return kolo_local_receive_descriptors(loop, handle, true);
}
static int call_local_waiting(kolo_loop *loop, kolo_handle handle) {
    size_t count;
    return kolo_local_descriptors_waiting(loop, handle, &count);
}
/* The stream was right, and no descriptor waits there. */
static int none_waits(int result) { return result == KOLO_ENOENT ? KOLO_OK : result; }
static int call_local_next_kind(kolo_loop *loop, kolo_handle handle) {
    int kind;
    return none_waits(kolo_local_next_kind(loop, handle, &kind));
}
static int call_local_take_descriptor(kolo_loop *loop, kolo_handle handle) {
    int taken;
    return none_waits(kolo_local_take_descriptor(loop, handle, &taken));
}
static int call_local_take_stream(kolo_loop *loop, kolo_handle handle) {
    kolo_stream out;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    return none_waits(kolo_local_take_stream(loop, handle, &handler, NULL, &out));
}
static int call_local_take_listener(kolo_loop *loop, kolo_handle handle) {
    kolo_listener out;
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    return none_waits(kolo_local_take_listener(loop, handle, &handler, NULL, &out));
}
static int call_local_write_with(kolo_loop *loop, kolo_handle handle) {
    int descriptor = STDIN_FILENO;
    return kolo_local_write_with_descriptors(loop, handle, "x", 1, &descriptor, 1, no_done, NULL, NULL);
}
static int call_local_send_handle(kolo_loop *loop, kolo_handle handle) {
    int result = kolo_local_send_handle(loop, handle, handle, "x", 1, no_done, NULL, NULL);
    return result == KOLO_EBUSY ? KOLO_OK : result; /* the streams were right, and it has writes queued */
}
static int call_local_release(kolo_loop *loop, kolo_handle handle) {
    kolo_socket socket = -1;
    int result = kolo_local_release(loop, handle, &socket);
    if (result == KOLO_OK) SYSTEM(close((int)socket));
    return result;
}
static int call_pipe_descriptor(kolo_loop *loop, kolo_handle handle) {
    int descriptor;
    return kolo_pipe_descriptor(loop, handle, &descriptor);
}
static int call_pipe_release(kolo_loop *loop, kolo_handle handle) {
    int descriptor = -1;
    int result = kolo_pipe_release(loop, handle, &descriptor);
    if (result == KOLO_OK) SYSTEM(close(descriptor));
    return result;
}

static int call_udp_attach(kolo_loop *loop, kolo_handle handle) {
    kolo_udp_handler handler = KOLO_UDP_HANDLER_INIT;
    return kolo_udp_attach(loop, handle, &handler, NULL);
}
static int call_udp_connect(kolo_loop *loop, kolo_handle handle) {
    kolo_address peer = loopback_v4(9);
    return kolo_udp_connect(loop, handle, &peer);
}
static int call_udp_send(kolo_loop *loop, kolo_handle handle) { return kolo_udp_send(loop, handle, "x", 1, NULL); }
static int call_udp_send_with(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_send_with(loop, handle, NULL, 0, NULL);
}
static int call_udp_send_owned(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_send_owned(loop, handle, NULL, 0, NULL, NULL, NULL, NULL);
}
static int call_udp_send_cancel(kolo_loop *loop, kolo_handle handle) {
    int result = kolo_udp_send_cancel(loop, handle, 99);
    return result == KOLO_ENOENT ? KOLO_OK : result; /* the socket was right, there is no such send */
}
static int call_udp_user(kolo_loop *loop, kolo_handle handle) {
    void *user = NULL;
    return kolo_udp_user(loop, handle, &user);
}
static int call_udp_try_send(kolo_loop *loop, kolo_handle handle) {
    int result = kolo_udp_try_send(loop, handle, NULL, 0, NULL);
    return result == KOLO_ECONNREFUSED ? KOLO_OK : result; /* nobody is there, and that is known by now */
}
static int call_udp_set_watermarks(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_set_watermarks(loop, handle, 1, 2, 1000);
}
static int call_udp_queued(kolo_loop *loop, kolo_handle handle) {
    size_t bytes;
    return kolo_udp_queued(loop, handle, &bytes);
}
static int call_udp_local(kolo_loop *loop, kolo_handle handle) {
    kolo_address address;
    return kolo_udp_local(loop, handle, &address);
}
static int call_udp_peer(kolo_loop *loop, kolo_handle handle) {
    kolo_address address;
    return kolo_udp_peer(loop, handle, &address);
}
static int call_udp_socket(kolo_loop *loop, kolo_handle handle) {
    kolo_socket socket;
    return kolo_udp_socket(loop, handle, &socket);
}
static uint32_t loopback_interface(void) { return if_nametoindex("lo"); }
static int call_udp_join(kolo_loop *loop, kolo_handle handle) {
    kolo_address group;
    CHECK_OK(kolo_address_parse("239.7.7.9", 0, &group));
    return kolo_udp_join(loop, handle, &group, NULL, loopback_interface());
}
static int call_udp_leave(kolo_loop *loop, kolo_handle handle) {
    kolo_address group;
    CHECK_OK(kolo_address_parse("239.7.7.9", 0, &group));
    return kolo_udp_leave(loop, handle, &group, NULL, loopback_interface());
}
static int call_udp_multicast_loop(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_set_multicast_loop(loop, handle, true);
}
static int call_udp_multicast_ttl(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_set_multicast_ttl(loop, handle, 1);
}
static int call_udp_multicast_interface(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_set_multicast_interface(loop, handle, 0);
}
static int call_udp_broadcast(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_set_broadcast(loop, handle, false);
}
static int call_udp_ttl(kolo_loop *loop, kolo_handle handle) { return kolo_udp_set_ttl(loop, handle, 64); }
static int call_udp_tos(kolo_loop *loop, kolo_handle handle) { return kolo_udp_set_tos(loop, handle, 0); }
static int call_udp_fragmentation(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_set_fragmentation(loop, handle, KOLO_FRAGMENTATION_SYSTEM);
}
static int call_udp_set_buffers(kolo_loop *loop, kolo_handle handle) {
    return kolo_udp_set_buffers(loop, handle, 0, 0);
}
static int call_udp_buffers(kolo_loop *loop, kolo_handle handle) {
    uint32_t send_bytes, receive_bytes;
    return kolo_udp_buffers(loop, handle, &send_bytes, &receive_bytes);
}
static int call_udp_release(kolo_loop *loop, kolo_handle handle) {
    kolo_socket socket = -1;
    int result = kolo_udp_release(loop, handle, &socket);
    if (result == KOLO_OK) SYSTEM(close((int)socket));
    return result;
}
static int call_process_kill(kolo_loop *loop, kolo_handle handle) { return kolo_process_kill(loop, handle, 0); }
static int call_process_kill_group(kolo_loop *loop, kolo_handle handle) {
    return kolo_process_kill_group(loop, handle, 0);
}
static int call_process_usage(kolo_loop *loop, kolo_handle handle) {
    kolo_resource_usage usage = KOLO_RESOURCE_USAGE_INIT;
    int result = kolo_process_usage(loop, handle, &usage);
    return result == KOLO_EBUSY ? KOLO_OK : result; /* the process was right, and runs */
}

/* In an order in which each succeeds on a live handle of its kind; those that end the handle come last. */
static const handle_call handle_calls[] = {
    {"kolo_on_close", 0, call_on_close},
    {"kolo_ref", 0, kolo_ref},
    {"kolo_unref", 0, kolo_unref},
    {"kolo_has_ref", 0, kolo_has_ref},
    {"kolo_is_active", 0, kolo_is_active},
    {"kolo_kind_of", 0, kolo_kind_of},
    {"kolo_describe", 0, call_describe},
    {"kolo_timer_start", KOLO_KIND_TIMER, call_timer_start},
    {"kolo_timer_again", KOLO_KIND_TIMER, kolo_timer_again},
    {"kolo_timer_remaining", KOLO_KIND_TIMER, call_timer_remaining},
    {"kolo_timer_overrun", KOLO_KIND_TIMER, call_timer_overrun},
    {"kolo_timer_stop", KOLO_KIND_TIMER, kolo_timer_stop},
    {"kolo_hook_start", KOLO_KIND_HOOK, kolo_hook_start},
    {"kolo_hook_stop", KOLO_KIND_HOOK, kolo_hook_stop},
    {"kolo_waker_remote", KOLO_KIND_WAKER, call_waker_remote},
    {"kolo_signal_start", KOLO_KIND_SIGNAL, call_signal_start},
    {"kolo_signal_stop", KOLO_KIND_SIGNAL, kolo_signal_stop},
    {"kolo_poll_start", KOLO_KIND_POLL, call_poll_start},
    {"kolo_poll_stop", KOLO_KIND_POLL, kolo_poll_stop},
    {"kolo_request_cancel", KOLO_KIND_REQUEST, call_request_cancel},
    {"kolo_watch_path", KOLO_KIND_WATCH, call_watch_path},
    {"kolo_listener_address", KOLO_KIND_LISTENER, call_listener_address},
    {"kolo_listener_pause", ANY_LISTENER, kolo_listener_pause},
    {"kolo_listener_resume", ANY_LISTENER, kolo_listener_resume},
    {"kolo_stream_attach", ANY_STREAM, call_attach},
    {"kolo_stream_user", ANY_STREAM, call_stream_user},
    {"kolo_stream_read_stop", ANY_STREAM, kolo_stream_read_stop},
    {"kolo_stream_read_start", ANY_STREAM, kolo_stream_read_start},
    {"kolo_stream_write", ANY_STREAM, call_write},
    {"kolo_stream_write_owned", ANY_STREAM, call_write_owned},
    {"kolo_stream_write_cancel", ANY_STREAM, call_write_cancel},
    {"kolo_stream_set_timeouts", ANY_STREAM, call_set_timeouts},
    {"kolo_stream_set_watermarks", ANY_STREAM, call_set_watermarks},
    {"kolo_stream_queued", ANY_STREAM, call_queued},
    {"kolo_tcp_set_nodelay", KOLO_KIND_TCP, call_set_nodelay},
    {"kolo_tcp_set_keepalive", KOLO_KIND_TCP, call_set_keepalive},
    {"kolo_tcp_set_reset_on_close", KOLO_KIND_TCP, call_set_reset_on_close},
    {"kolo_tcp_set_buffers", KOLO_KIND_TCP, call_set_buffers},
    {"kolo_tcp_buffers", KOLO_KIND_TCP, call_buffers},
    {"kolo_tcp_local", KOLO_KIND_TCP, call_local},
    {"kolo_tcp_peer", KOLO_KIND_TCP, call_peer},
    {"kolo_tcp_socket", KOLO_KIND_TCP, call_socket},
    {"kolo_tty_set_mode", KOLO_KIND_TTY, call_tty_set_mode},
    {"kolo_tty_window_size", KOLO_KIND_TTY, call_tty_window_size},
    {"kolo_tty_on_resize", KOLO_KIND_TTY, call_tty_on_resize},
    {"kolo_local_name", ANY_LOCAL, call_local_name},
    {"kolo_local_peer_name", KOLO_KIND_LOCAL, call_local_peer_name},
    {"kolo_local_peer_credentials", KOLO_KIND_LOCAL, call_local_credentials},
    {"kolo_local_set_buffers", KOLO_KIND_LOCAL, call_local_set_buffers},
    {"kolo_local_socket", KOLO_KIND_LOCAL, call_local_socket},
    {"kolo_local_receive_descriptors", KOLO_KIND_LOCAL, call_local_receive},
    {"kolo_local_descriptors_waiting", KOLO_KIND_LOCAL, call_local_waiting},
    {"kolo_local_next_kind", KOLO_KIND_LOCAL, call_local_next_kind},
    {"kolo_local_take_descriptor", KOLO_KIND_LOCAL, call_local_take_descriptor},
    {"kolo_local_take_stream", KOLO_KIND_LOCAL, call_local_take_stream},
    {"kolo_local_take_listener", KOLO_KIND_LOCAL, call_local_take_listener},
    {"kolo_local_write_with_descriptors", KOLO_KIND_LOCAL, call_local_write_with},
    {"kolo_local_send_handle", KOLO_KIND_LOCAL, call_local_send_handle},
    {"kolo_pipe_descriptor", KOLO_KIND_PIPE, call_pipe_descriptor},
    {"kolo_stream_shutdown", ANY_STREAM, call_shutdown},
    {"kolo_stream_finish", ANY_STREAM, call_finish},
    {"kolo_tcp_release", KOLO_KIND_TCP, call_release},
    {"kolo_local_release", KOLO_KIND_LOCAL, call_local_release},
    {"kolo_pipe_release", KOLO_KIND_PIPE, call_pipe_release},
    {"kolo_tcp_move", KOLO_KIND_TCP, call_move},
    {"kolo_stream_reset", ANY_STREAM, kolo_stream_reset},
    {"kolo_udp_attach", KOLO_KIND_UDP, call_udp_attach},
    {"kolo_udp_connect", KOLO_KIND_UDP, call_udp_connect},
    {"kolo_udp_receive_start", KOLO_KIND_UDP, kolo_udp_receive_start},
    {"kolo_udp_receive_stop", KOLO_KIND_UDP, kolo_udp_receive_stop},
    {"kolo_udp_send", KOLO_KIND_UDP, call_udp_send},
    {"kolo_udp_send_with", KOLO_KIND_UDP, call_udp_send_with},
    {"kolo_udp_send_owned", KOLO_KIND_UDP, call_udp_send_owned},
    {"kolo_udp_send_cancel", KOLO_KIND_UDP, call_udp_send_cancel},
    {"kolo_udp_user", KOLO_KIND_UDP, call_udp_user},
    {"kolo_udp_try_send", KOLO_KIND_UDP, call_udp_try_send},
    {"kolo_udp_set_watermarks", KOLO_KIND_UDP, call_udp_set_watermarks},
    {"kolo_udp_queued", KOLO_KIND_UDP, call_udp_queued},
    {"kolo_udp_local", KOLO_KIND_UDP, call_udp_local},
    {"kolo_udp_peer", KOLO_KIND_UDP, call_udp_peer},
    {"kolo_udp_socket", KOLO_KIND_UDP, call_udp_socket},
    {"kolo_udp_join", KOLO_KIND_UDP, call_udp_join},
    {"kolo_udp_leave", KOLO_KIND_UDP, call_udp_leave},
    {"kolo_udp_set_multicast_loop", KOLO_KIND_UDP, call_udp_multicast_loop},
    {"kolo_udp_set_multicast_ttl", KOLO_KIND_UDP, call_udp_multicast_ttl},
    {"kolo_udp_set_multicast_interface", KOLO_KIND_UDP, call_udp_multicast_interface},
    {"kolo_udp_set_broadcast", KOLO_KIND_UDP, call_udp_broadcast},
    {"kolo_udp_set_ttl", KOLO_KIND_UDP, call_udp_ttl},
    {"kolo_udp_set_tos", KOLO_KIND_UDP, call_udp_tos},
    {"kolo_udp_set_fragmentation", KOLO_KIND_UDP, call_udp_fragmentation},
    {"kolo_udp_set_buffers", KOLO_KIND_UDP, call_udp_set_buffers},
    {"kolo_udp_buffers", KOLO_KIND_UDP, call_udp_buffers},
    {"kolo_udp_disconnect", KOLO_KIND_UDP, kolo_udp_disconnect},
    {"kolo_udp_release", KOLO_KIND_UDP, call_udp_release},
    {"kolo_process_id", KOLO_KIND_PROCESS, kolo_process_id},
    {"kolo_process_kill", KOLO_KIND_PROCESS, call_process_kill},
    {"kolo_process_kill_group", KOLO_KIND_PROCESS, call_process_kill_group},
    {"kolo_process_usage", KOLO_KIND_PROCESS, call_process_usage},
    {"kolo_stream_send_file", KOLO_KIND_FILE, call_send_file},
    {"kolo_file_release", KOLO_KIND_FILE, call_file_release},
    {"kolo_file_descriptor", KOLO_KIND_FILE, call_file_descriptor},
    {"kolo_file_read", KOLO_KIND_FILE, call_file_read},
    {"kolo_file_read_vectored", KOLO_KIND_FILE, call_file_read_vectored},
    {"kolo_file_read_sync", KOLO_KIND_FILE, call_file_read_sync},
    {"kolo_file_read_vectored_sync", KOLO_KIND_FILE, call_file_read_vectored_sync},
    {"kolo_file_write", KOLO_KIND_FILE, call_file_write},
    {"kolo_file_write_vectored", KOLO_KIND_FILE, call_file_write_vectored},
    {"kolo_file_write_sync", KOLO_KIND_FILE, call_file_write_sync},
    {"kolo_file_write_vectored_sync", KOLO_KIND_FILE, call_file_write_vectored_sync},
    {"kolo_file_stat", KOLO_KIND_FILE, call_file_stat},
    {"kolo_file_stat_sync", KOLO_KIND_FILE, call_file_stat_sync},
    {"kolo_file_fsync", KOLO_KIND_FILE, call_file_fsync},
    {"kolo_file_fsync_sync", KOLO_KIND_FILE, call_file_fsync_sync},
    {"kolo_file_fdatasync", KOLO_KIND_FILE, call_file_fdatasync},
    {"kolo_file_fdatasync_sync", KOLO_KIND_FILE, call_file_fdatasync_sync},
    {"kolo_file_truncate", KOLO_KIND_FILE, call_file_truncate},
    {"kolo_file_truncate_sync", KOLO_KIND_FILE, call_file_truncate_sync},
    {"kolo_file_chmod", KOLO_KIND_FILE, call_file_chmod},
    {"kolo_file_chmod_sync", KOLO_KIND_FILE, call_file_chmod_sync},
    {"kolo_file_chown", KOLO_KIND_FILE, call_file_chown},
    {"kolo_file_chown_sync", KOLO_KIND_FILE, call_file_chown_sync},
    {"kolo_file_utimes", KOLO_KIND_FILE, call_file_utimes},
    {"kolo_file_utimes_sync", KOLO_KIND_FILE, call_file_utimes_sync},
    {"kolo_directory_open_file", KOLO_KIND_FILE, call_directory_open_file},
    {"kolo_directory_open_file_sync", KOLO_KIND_FILE, call_directory_open_file_sync},
    {"kolo_file_close", KOLO_KIND_FILE, call_file_close},
    {"kolo_file_close_sync", KOLO_KIND_FILE, call_file_close_sync},
    {"kolo_directory_read", KOLO_KIND_DIRECTORY, call_directory_read},
    {"kolo_directory_read_sync", KOLO_KIND_DIRECTORY, call_directory_read_sync},
    {"kolo_close", 0, kolo_close},
};
#define HANDLE_CALLS (sizeof handle_calls / sizeof handle_calls[0])

static void check_call(const char *name, const char *how, int got, int want) {
    if (got == want) return;
    printf("    %s, %s: gave %d (%s), not %d (%s)\n", name, how, got, kolo_error_name(got), want,
           kolo_error_name(want));
    fflush(stdout);
    _exit(1);
}

/* ---- the loop works: after every misuse ---- */

static void count_timer(kolo_loop *loop, kolo_timer timer, void *user) {
    (void)loop, (void)timer;
    ++*(int *)user;
}

static void check_works(kolo_loop *loop) {
    kolo_timer timer = 0;
    int fired = 0;
    pair both;
    CHECK_OK(kolo_timer_open(loop, count_timer, &fired, &timer));
    CHECK_OK(kolo_timer_start(loop, timer, 1000, 0));
    RUN_UNTIL(loop, fired == 1);
    CHECK_OK(kolo_close(loop, timer));
    pair_open(loop, &both);
    CHECK_INT(kolo_stream_write(loop, both.client.stream, "works", 5), 0);
    RUN_UNTIL(loop, both.server.received == 5);
    pair_close(loop, &both);
}

/* ---- handles ---- */

enum { KINDS = 17 };
static const int all_kinds[KINDS] = {KOLO_KIND_TIMER, KOLO_KIND_HOOK,     KOLO_KIND_WAKER, KOLO_KIND_SIGNAL,
                                     KOLO_KIND_POLL,  KOLO_KIND_LISTENER, KOLO_KIND_TCP,   KOLO_KIND_UDP,
                                     KOLO_KIND_PROCESS,
                                     KOLO_KIND_REQUEST, KOLO_KIND_TTY, KOLO_KIND_WATCH,
                                     KOLO_KIND_FILE, KOLO_KIND_DIRECTORY,
                                     KOLO_KIND_LOCAL, KOLO_KIND_LOCAL_LISTENER, KOLO_KIND_PIPE};

static int tcp_other_end = -1;
static int local_other_end = -1;

static kolo_handle open_kind(kolo_loop *loop, int kind) {
    kolo_handle handle = 0;
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_udp_handler datagrams = KOLO_UDP_HANDLER_INIT;
    kolo_process_options program = sleep_options();
    kolo_address any = loopback_v4(0);
    char path[64];
    int sockets[2];
    char name[64];
    switch (kind) {
    case KOLO_KIND_TIMER: CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &handle)); break;
    case KOLO_KIND_HOOK: CHECK_OK(kolo_hook_open(loop, KOLO_HOOK_CHECK, no_hook, NULL, &handle)); break;
    case KOLO_KIND_WAKER: CHECK_OK(kolo_waker_open(loop, no_waker, NULL, &handle)); break;
    case KOLO_KIND_SIGNAL: CHECK_OK(kolo_signal_open(loop, no_signal, NULL, &handle)); break;
    case KOLO_KIND_POLL: CHECK_OK(kolo_poll_open(loop, spare_pair[0], no_poll, NULL, &handle)); break;
    case KOLO_KIND_PROCESS:
        CHECK_OK(kolo_process_spawn(loop, &program, NULL, NULL, &handle));
        break;
    case KOLO_KIND_REQUEST: /* without a thread, which a forked child would miss */
        CHECK_OK(kolo_resolve(loop, "127.0.0.1", "1", NULL, no_resolve, NULL, &handle));
        break;
    case KOLO_KIND_WATCH: CHECK_OK(kolo_watch_open(loop, "/tmp", NULL, no_watch, NULL, &handle)); break;
    case KOLO_KIND_TTY: CHECK_OK(kolo_tty_open(loop, spare_terminal[1], &handler, NULL, &handle)); break;
    case KOLO_KIND_FILE:
        snprintf(path, sizeof path, "/tmp/kolo-misuse-XXXXXX");
        sockets[0] = SYSTEM(mkstemp(path));
        SYSTEM(unlink(path));
        CHECK_OK(kolo_file_adopt(loop, sockets[0], &handle));
        break;
    case KOLO_KIND_DIRECTORY: CHECK_OK(kolo_directory_open_sync(loop, "/", &handle)); break;
    case KOLO_KIND_LISTENER: CHECK_OK(kolo_tcp_listen(loop, &any, NULL, &listening, NULL, &handle)); break;
    case KOLO_KIND_LOCAL:
    case KOLO_KIND_PIPE: /* which a socket may be, too: one that goes both ways */
        SYSTEM(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
        if (kind == KOLO_KIND_LOCAL) CHECK_OK(kolo_local_adopt(loop, sockets[0], &handler, NULL, &handle));
        if (kind == KOLO_KIND_PIPE) CHECK_OK(kolo_pipe_adopt(loop, sockets[0], &handler, NULL, &handle));
        raw_close(&local_other_end);
        local_other_end = sockets[1];
        break;
    case KOLO_KIND_LOCAL_LISTENER:
        CHECK_OK(kolo_local_listen(loop, name, spare_name(name, sizeof name), NULL, &listening, NULL, &handle));
        break;
    case KOLO_KIND_UDP: CHECK_OK(kolo_udp_bind(loop, &any, NULL, &datagrams, NULL, &handle)); break;
    default:
        raw_pair(sockets);
        CHECK_OK(kolo_tcp_adopt(loop, sockets[0], &handler, NULL, &handle));
        raw_close(&tcp_other_end);
        tcp_other_end = sockets[1];
    }
    return handle;
}

TEST(every_handle_call_succeeds_on_the_right_handle) {
    /* So that the tables below are known to test what they mean to. */
    open_spare();
    for (int k = 0; k < KINDS; k++) {
        kolo_handle handle = open_kind(loop, all_kinds[k]);
        for (size_t i = 0; i < HANDLE_CALLS; i++) {
            if (!is_for(handle_calls[i].kind, all_kinds[k])) continue;
            int result = handle_calls[i].call(loop, handle);
            if (result < 0) check_call(handle_calls[i].name, "right handle", result, KOLO_OK);
            bool ends_it = handle_calls[i].call != kolo_close && kolo_kind_of(loop, handle) == KOLO_EBADF;
            if (ends_it) handle = open_kind(loop, all_kinds[k]);
        }
    }
    run_to_end(loop);
    check_works(loop);
    raw_close(&tcp_other_end);
    raw_close(&local_other_end);
    close_spare();
}

TEST(handles_of_the_wrong_kind) {
    kolo_handle handles[KINDS];
    open_spare();
    for (int k = 0; k < KINDS; k++) handles[k] = open_kind(loop, all_kinds[k]);
    for (size_t i = 0; i < HANDLE_CALLS; i++) {
        if (handle_calls[i].kind == 0) continue;
        for (int k = 0; k < KINDS; k++) {
            if (is_for(handle_calls[i].kind, all_kinds[k])) continue;
            check_call(handle_calls[i].name, "wrong kind", handle_calls[i].call(loop, handles[k]), KOLO_EBADF);
        }
    }
    for (int k = 0; k < KINDS; k++) CHECK_OK(kolo_close(loop, handles[k]));
    run_to_end(loop);
    check_works(loop);
    raw_close(&tcp_other_end);
    raw_close(&local_other_end);
    close_spare();
}

static void check_all_refuse(kolo_loop *loop, kolo_handle handle, const char *how) {
    for (size_t i = 0; i < HANDLE_CALLS; i++)
        check_call(handle_calls[i].name, how, handle_calls[i].call(loop, handle), KOLO_EBADF);
}

TEST(stale_handles) {
    open_spare();
    for (int k = 0; k < KINDS; k++) {
        kolo_handle handle = open_kind(loop, all_kinds[k]);
        CHECK_OK(kolo_close(loop, handle));
        check_all_refuse(loop, handle, "closed, before its on_close");
        run_to_end(loop);
        check_all_refuse(loop, handle, "closed, after its on_close");
        kolo_handle same_place = open_kind(loop, all_kinds[k]);
        check_all_refuse(loop, handle, "its place taken again");
        CHECK_OK(kolo_close(loop, same_place));
        run_to_end(loop);
    }
    check_works(loop);
    raw_close(&tcp_other_end);
    raw_close(&local_other_end);
    close_spare();
}

TEST(the_zero_handle_and_made_up_ones) {
    open_spare();
    check_all_refuse(loop, 0, "zero");
    check_all_refuse(loop, UINT64_MAX, "all ones");
    check_all_refuse(loop, 0x123456789abcdef0u, "made up");
    check_works(loop);
    close_spare();
}

TEST_WITHOUT_LOOP(handles_of_another_loop) {
    kolo_loop *mine = NULL, *other = NULL;
    open_spare();
    CHECK_OK(kolo_loop_new(NULL, &mine));
    CHECK_OK(kolo_loop_new(NULL, &other));
    for (int k = 0; k < KINDS; k++) {
        kolo_handle handle = open_kind(other, all_kinds[k]);
        check_all_refuse(mine, handle, "another loop's");
        /* Also with handles of the same kind and place in this loop. */
        close_spare();
        open_spare();
        kolo_handle same = open_kind(mine, all_kinds[k]);
        CHECK(same != handle);
        check_all_refuse(mine, handle, "another loop's, same place here");
        CHECK_OK(kolo_close(mine, same));
        CHECK_OK(kolo_close(other, handle));
        run_to_end(mine);
        run_to_end(other);
    }
    check_works(mine);
    check_works(other);
    CHECK_OK(kolo_loop_free(mine));
    CHECK_OK(kolo_loop_free(other));
    raw_close(&tcp_other_end);
    raw_close(&local_other_end);
    close_spare();
}

TEST(a_null_loop) {
    open_spare();
    kolo_timer timer = open_kind(loop, KOLO_KIND_TIMER);
    for (size_t i = 0; i < LOOP_CALLS; i++)
        check_call(loop_calls[i].name, "null loop", loop_calls[i].call(NULL), KOLO_EINVAL);
    for (size_t i = 0; i < HANDLE_CALLS; i++)
        check_call(handle_calls[i].name, "null loop", handle_calls[i].call(NULL, timer), KOLO_EINVAL);
    CHECK_ERROR(kolo_loop_attach_thread(NULL), KOLO_EINVAL);
    CHECK(kolo_loop_driver_name(NULL) == NULL);
    check_works(loop);
    close_spare();
}

TEST_WITHOUT_LOOP(a_freed_loop) {
    kolo_loop *loop = NULL;
    open_spare();
    CHECK_OK(kolo_loop_new(NULL, &loop));
    kolo_timer timer = open_kind(loop, KOLO_KIND_TIMER);
    CHECK_OK(kolo_loop_free(loop));
    for (size_t i = 0; i < LOOP_CALLS; i++)
        check_call(loop_calls[i].name, "freed loop", loop_calls[i].call(loop), KOLO_EBADF);
    for (size_t i = 0; i < HANDLE_CALLS; i++)
        check_call(handle_calls[i].name, "freed loop", handle_calls[i].call(loop, timer), KOLO_EBADF);
    CHECK_ERROR(kolo_loop_attach_thread(loop), KOLO_EBADF);
    CHECK(call_driver_name(loop) == KOLO_EBADF);
    close_spare();
}

TEST(a_pointer_that_never_was_a_loop) {
    static union {
        char bytes[4096];
        uint64_t align;
    } memory;
    kolo_loop *wrong = (kolo_loop *)(void *)memory.bytes;
    open_spare();
    for (size_t i = 0; i < LOOP_CALLS; i++)
        check_call(loop_calls[i].name, "no loop", loop_calls[i].call(wrong), KOLO_EBADF);
    kolo_loop *odd = (kolo_loop *)(uintptr_t)3;
    CHECK_ERROR(kolo_loop_alive(odd), KOLO_EBADF);
    check_works(loop);
    close_spare();
}

/* ---- threads ---- */

typedef struct thread_case {
    kolo_loop *loop;
    kolo_handle handles[KINDS];
} thread_case;

static void *call_all(void *argument) {
    thread_case *me = argument;
    for (size_t i = 0; i < LOOP_CALLS; i++)
        check_call(loop_calls[i].name, "wrong thread", loop_calls[i].call(me->loop), KOLO_EWRONGTHREAD);
    for (int k = 0; k < KINDS; k++)
        for (size_t i = 0; i < HANDLE_CALLS; i++)
            check_call(handle_calls[i].name, "wrong thread", handle_calls[i].call(me->loop, me->handles[k]),
                       KOLO_EWRONGTHREAD);
    CHECK_ERROR(kolo_loop_attach_thread(me->loop), KOLO_EBUSY);
    return NULL;
}

TEST(the_wrong_thread) {
    thread_case me;
    open_spare();
    me.loop = loop;
    for (int k = 0; k < KINDS; k++) me.handles[k] = open_kind(loop, all_kinds[k]);
    on_another_thread(call_all, &me);
    for (int k = 0; k < KINDS; k++) CHECK_OK(kolo_close(loop, me.handles[k])); /* all are still alive */
    run_to_end(loop);
    check_works(loop);
    raw_close(&tcp_other_end);
    raw_close(&local_other_end);
    close_spare();
}

static void *name_of_the_driver(void *loop) {
    CHECK_STRING(kolo_loop_driver_name(loop), "poller");
    return NULL;
}

TEST_WITHOUT_LOOP(the_drivers_name_may_be_asked_on_any_thread) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    options.driver = "poller";
    CHECK_OK(kolo_loop_new(&options, &loop));
    on_another_thread(name_of_the_driver, loop);
    CHECK_OK(kolo_loop_free(loop));
}

/* ---- null pointers and null callbacks ---- */

TEST(null_pointers_and_callbacks) {
    kolo_handle out = 77, handles[KINDS];
    kolo_remote *remote = NULL;
    kolo_address any = loopback_v4(0), none;
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_buffer buffer = {"x", 1}, hollow = {NULL, 5};
    uint32_t bytes = 0;
    int descriptors;
    open_spare();
    for (int k = 0; k < KINDS; k++) handles[k] = open_kind(loop, all_kinds[k]);
    kolo_handle timer = handles[0], waker = handles[2], listener = handles[5], stream = handles[6];
    memset(&none, 0, sizeof none);
    descriptors = open_descriptors();

    CHECK_ERROR(kolo_loop_new(NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_loop_now(loop, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_loop_backend_timeout(loop, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_loop_user(loop, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_loop_metrics(loop, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_loop_defer(loop, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_loop_walk(loop, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_loop_remote(loop, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_describe(loop, timer, NULL, 10), KOLO_EINVAL);
    CHECK_ERROR(kolo_timer_open(loop, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_timer_open(loop, no_timer, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_timer_remaining(loop, timer, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_timer_overrun(loop, timer, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_hook_open(loop, KOLO_HOOK_IDLE, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_hook_open(loop, KOLO_HOOK_IDLE, no_hook, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_waker_open(loop, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_waker_open(loop, no_waker, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_waker_remote(loop, waker, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_signal_open(loop, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_signal_open(loop, no_signal, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_poll_open(loop, spare_pair[0], NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_poll_open(loop, spare_pair[0], no_poll, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_listen(loop, NULL, NULL, &listening, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_listen(loop, &any, NULL, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_listen(loop, &any, NULL, &listening, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_listen(loop, &none, NULL, &listening, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_listener_adopt(loop, spare_pair[0], NULL, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_listener_adopt(loop, spare_pair[0], NULL, &listening, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_listener_address(loop, listener, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_connect(loop, NULL, NULL, &handler, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_connect(loop, &any, NULL, NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_connect(loop, &any, NULL, &handler, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_connect(loop, &none, NULL, &handler, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_adopt(loop, spare_pair[0], NULL, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_adopt(loop, spare_pair[0], &handler, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_release(loop, stream, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_buffers(loop, stream, NULL, &bytes), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_buffers(loop, stream, &bytes, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_local(loop, stream, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_peer(loop, stream, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_socket(loop, stream, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_stream_attach(loop, stream, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_stream_user(loop, stream, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_stream_write(loop, stream, NULL, 5), KOLO_EINVAL);
    CHECK_ERROR(kolo_stream_write_owned(loop, stream, NULL, 1, no_done, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_stream_write_owned(loop, stream, &hollow, 1, no_done, NULL, NULL), KOLO_EINVAL);
    CHECK_ERROR(kolo_stream_queued(loop, stream, NULL), KOLO_EINVAL);

    CHECK_INT(out, 77); /* an out-parameter is written on success only */
    CHECK_INT(open_descriptors(), descriptors);
    /* And these NULLs are allowed. */
    CHECK_OK(kolo_on_close(loop, timer, no_close, NULL));
    CHECK_OK(kolo_on_close(loop, timer, NULL, NULL)); /* none any more */
    CHECK(kolo_stream_write_owned(loop, stream, &buffer, 1, NULL, NULL, NULL) >= 0);
    CHECK_OK(kolo_stream_shutdown(loop, stream, NULL, NULL));
    CHECK_OK(kolo_loop_remote(loop, &remote));
    CHECK_OK(kolo_remote_release(remote));
    for (int k = 0; k < KINDS; k++) CHECK_OK(kolo_close(loop, handles[k]));
    run_to_end(loop);
    check_works(loop);
    raw_close(&tcp_other_end);
    raw_close(&local_other_end);
    close_spare();
}

/* ---- sizes ---- */

static const size_t wrong_sizes[] = {0, 1, 4, 7, 1 << 20, SIZE_MAX, SIZE_MAX / 2};
#define WRONG_SIZES (sizeof wrong_sizes / sizeof wrong_sizes[0])

TEST(structs_of_an_absurd_size) {
    kolo_address any = loopback_v4(0);
    open_spare();
    kolo_handle stream = open_kind(loop, KOLO_KIND_TCP), out = 0;
    for (size_t i = 0; i < WRONG_SIZES; i++) {
        kolo_loop *another = NULL;
        kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
        kolo_metrics metrics = KOLO_METRICS_INIT;
        kolo_listen_options listening_options = KOLO_LISTEN_OPTIONS_INIT;
        kolo_connect_options connecting_options = KOLO_CONNECT_OPTIONS_INIT;
        kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
        kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;

        options.size = wrong_sizes[i];
        CHECK_ERROR(kolo_loop_new(&options, &another), KOLO_EINVAL);
        CHECK(another == NULL);
        metrics.size = wrong_sizes[i];
        CHECK_ERROR(kolo_loop_metrics(loop, &metrics), KOLO_EINVAL);
        CHECK_INT(metrics.turns, 0);

        listening_options.size = wrong_sizes[i];
        CHECK_ERROR(kolo_tcp_listen(loop, &any, &listening_options, &listening, NULL, &out), KOLO_EINVAL);
        CHECK_ERROR(kolo_listener_adopt(loop, spare_pair[0], &listening_options, &listening, NULL, &out), KOLO_EINVAL);
        listening.size = wrong_sizes[i];
        CHECK_ERROR(kolo_tcp_listen(loop, &any, NULL, &listening, NULL, &out), KOLO_EINVAL);

        connecting_options.size = wrong_sizes[i];
        CHECK_ERROR(kolo_tcp_connect(loop, &any, &connecting_options, &handler, NULL, &out), KOLO_EINVAL);
        handler.size = wrong_sizes[i];
        CHECK_ERROR(kolo_tcp_connect(loop, &any, NULL, &handler, NULL, &out), KOLO_EINVAL);
        CHECK_ERROR(kolo_tcp_adopt(loop, spare_pair[0], &handler, NULL, &out), KOLO_EINVAL);
        CHECK_ERROR(kolo_stream_attach(loop, stream, &handler, NULL), KOLO_EINVAL);
    }
    CHECK_INT(out, 0);
    CHECK_OK(kolo_close(loop, stream));
    run_to_end(loop);
    check_works(loop);
    raw_close(&tcp_other_end);
    raw_close(&local_other_end);
    close_spare();
}

TEST_WITHOUT_LOOP(structs_of_a_later_version) {
    /* A program built against a later header may run with this library as long as it leaves what is new at zero. */
    union {
        kolo_loop_options known;
        uint8_t bytes[sizeof(kolo_loop_options) + 24];
    } later;
    kolo_loop *loop = NULL;
    memset(&later, 0, sizeof later);
    later.known.size = sizeof later;
    CHECK_OK(kolo_loop_new(&later.known, &loop));
    check_works(loop);
    CHECK_OK(kolo_loop_free(loop));
    loop = NULL;
    later.bytes[sizeof(kolo_loop_options) + 3] = 1; /* asks for something that this library does not know */
    CHECK_ERROR(kolo_loop_new(&later.known, &loop), KOLO_EINVAL);
    CHECK(loop == NULL);
}

/* ---- enumerations ---- */

TEST(enumerations_that_there_are_not) {
    static const int modes[] = {3, -1, 99, 0x7fffffff};
    kolo_address any = loopback_v4(0);
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_handle out = 0;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
        CHECK_ERROR(kolo_loop_run(loop, modes[i]), KOLO_EINVAL);
        options.accept_policy = modes[i];
        CHECK_ERROR(kolo_tcp_listen(loop, &any, &options, &listening, NULL, &out), KOLO_EINVAL);
    }
    any.family = 77;
    CHECK_ERROR(kolo_tcp_listen(loop, &any, NULL, &listening, NULL, &out), KOLO_EINVAL);
    CHECK_ERROR(kolo_tcp_connect(loop, &any, NULL, &handler, NULL, &out), KOLO_EINVAL);
    CHECK_INT(out, 0);
    check_works(loop);
}

TEST_WITHOUT_LOOP(a_watchdog_without_a_callback) {
    kolo_loop_options options = KOLO_LOOP_OPTIONS_INIT;
    kolo_loop *loop = NULL;
    options.slow_callback_ns = 1;
    CHECK_ERROR(kolo_loop_new(&options, &loop), KOLO_EINVAL);
    CHECK(loop == NULL);
}

TEST(a_backoff_that_contradicts_itself) {
    kolo_address any = loopback_v4(0);
    kolo_listener_handler listening = KOLO_LISTENER_HANDLER_INIT;
    kolo_listen_options options = KOLO_LISTEN_OPTIONS_INIT;
    kolo_handle out = 0;
    options.retry_min_ns = SECONDS(2);
    options.retry_max_ns = SECONDS(1);
    CHECK_ERROR(kolo_tcp_listen(loop, &any, &options, &listening, NULL, &out), KOLO_EINVAL);
    CHECK_INT(out, 0);
}

/* ---- inside callbacks ---- */

static void misuse_in_callback(kolo_loop *loop, kolo_timer timer, void *user) {
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_run(loop, KOLO_RUN_NOWAIT), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_detach_thread(loop), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_fork(loop), KOLO_EBUSY);
    CHECK_OK(kolo_close(loop, timer));
    CHECK_ERROR(kolo_close(loop, timer), KOLO_EBADF);
    check_all_refuse(loop, timer, "closed in its own callback");
    ++*(int *)user;
}

static void misuse_in_close(kolo_loop *loop, kolo_handle handle, void *user) {
    check_all_refuse(loop, handle, "in its on_close");
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBUSY);
    ++*(int *)user;
}

TEST(what_is_refused_inside_callbacks) {
    kolo_timer timer = 0;
    int calls = 0;
    open_spare();
    CHECK_OK(kolo_timer_open(loop, misuse_in_callback, &calls, &timer));
    CHECK_OK(kolo_on_close(loop, timer, misuse_in_close, &calls));
    CHECK_OK(kolo_timer_start(loop, timer, 0, 0));
    run_to_end(loop);
    CHECK_INT(calls, 2);
    check_works(loop);
    close_spare();
}

static int free_in_walk(kolo_loop *loop, kolo_handle handle, int kind, void *user) {
    (void)handle, (void)kind;
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_run(loop, KOLO_RUN_NOWAIT), KOLO_EBUSY);
    CHECK_ERROR(kolo_loop_detach_thread(loop), KOLO_EBUSY);
    ++*(int *)user;
    return 0;
}

TEST(what_is_refused_inside_a_walk) {
    kolo_timer timer = 0;
    int calls = 0;
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timer));
    CHECK_OK(kolo_loop_walk(loop, free_in_walk, &calls));
    CHECK_INT(calls, 1);
    check_works(loop);
}

static void open_while_freed(kolo_loop *loop, kolo_handle handle, void *user) {
    (void)handle;
    for (size_t i = 0; i < LOOP_CALLS; i++) {
        if (strstr(loop_calls[i].name, "_open") == NULL && strstr(loop_calls[i].name, "tcp") == NULL &&
            loop_calls[i].call != call_defer)
            continue;
        check_call(loop_calls[i].name, "while the loop is freed", loop_calls[i].call(loop), KOLO_ECANCELED);
    }
    ++*(int *)user;
}

TEST_WITHOUT_LOOP(nothing_can_be_opened_while_the_loop_is_freed) {
    kolo_loop *loop = NULL;
    kolo_timer timer = 0;
    int calls = 0, descriptors;
    open_spare();
    descriptors = open_descriptors();
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_OK(kolo_timer_open(loop, no_timer, NULL, &timer));
    CHECK_OK(kolo_on_close(loop, timer, open_while_freed, &calls));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_INT(calls, 1);
    CHECK_INT(open_descriptors(), descriptors);
    close_spare();
}

/* ---- forks ---- */

TEST(a_forked_child_is_told_so_by_every_function) {
    kolo_handle handles[KINDS];
    open_spare();
    for (int k = 0; k < KINDS; k++) handles[k] = open_kind(loop, all_kinds[k]);
    fflush(NULL);
    pid_t child = SYSTEM(fork());
    if (child == 0) {
        for (size_t i = 0; i < LOOP_CALLS; i++)
            if (loop_calls[i].call != kolo_loop_fork && loop_calls[i].call != call_driver_name)
                check_call(loop_calls[i].name, "in a forked child", loop_calls[i].call(loop), KOLO_EFORKED);
        for (int k = 0; k < KINDS; k++)
            for (size_t i = 0; i < HANDLE_CALLS; i++)
                check_call(handle_calls[i].name, "in a forked child", handle_calls[i].call(loop, handles[k]),
                           KOLO_EFORKED);
        CHECK_OK(kolo_loop_fork(loop));
        for (int k = 0; k < KINDS; k++) CHECK_OK(kolo_close(loop, handles[k]));
        run_to_end(loop);
        check_works(loop);
        CHECK_OK(kolo_loop_free(loop));
        _exit(0);
    }
    int status = 0;
    SYSTEM(waitpid(child, &status, 0));
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), 0);
    for (int k = 0; k < KINDS; k++) CHECK_OK(kolo_close(loop, handles[k]));
    run_to_end(loop);
    check_works(loop);
    raw_close(&tcp_other_end);
    raw_close(&local_other_end);
    close_spare();
}

TEST_WITHOUT_LOOP(freeing_twice) {
    kolo_loop *loop = NULL;
    CHECK_OK(kolo_loop_new(NULL, &loop));
    CHECK_OK(kolo_loop_free(loop));
    CHECK_ERROR(kolo_loop_free(loop), KOLO_EBADF);
    CHECK_ERROR(kolo_loop_free(NULL), KOLO_EINVAL);
}
