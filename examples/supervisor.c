/* supervisor.c: keeps programs running. What they print comes through with their names in front; one that fails is
 * started again, ever later while it goes on failing; SIGTERM or Ctrl-C stops all of them in order.
 *
 * Build:  cc supervisor.c $(pkg-config --cflags --libs kolo) -o supervisor
 * Try:    ./supervisor 'clock=while :; do date; sleep 1; done' 'flaky=echo trying; sleep 0.1; exit 3' 'once=echo done'
 *
 * Usage:  supervisor [--retry-min S] [--retry-max S] [--grace S] NAME=COMMAND...
 *
 * A command is run by /bin/sh, in a process group of its own. One that ends with status 0 is done; otherwise it is started
 * again after --retry-min seconds (0.1), twice as long each time up to --retry-max (10); one that ran longer than that
 * begins anew. On SIGTERM or SIGINT every group gets SIGTERM, and SIGKILL if it is not gone after --grace seconds (5) or
 * at a second signal. The exit status is 0 unless a group had to be killed. */
#include <kolo.h>

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double SECOND_NS = 1e9;
enum { LINE_MAX_BYTES = 4096 }; /* a longer line is printed in pieces */

struct supervisor {
    kolo_loop *loop;
    struct service *services;
    size_t count;
    uint64_t retry_min_ns, retry_max_ns, grace_ns;
    kolo_signal signals[2];
    kolo_timer grace;
    bool stopping;
    bool killed;
};

struct service {
    struct supervisor *supervisor;
    char *name;
    const char *command;
    kolo_process process; /* 0 while it does not run */
    kolo_timer retry;     /* 0 when it is done */
    uint64_t started_ns;
    uint64_t delay_ns;
};

/* One pipe of one run. It may outlive the run, and even the next one's beginning. */
struct output {
    struct service *service;
    const char *mark;
    size_t length;
    char line[LINE_MAX_BYTES];
};

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "supervisor: %s: %s\n", what, kolo_strerror(result));
        exit(1);
    }
    return result;
}

static void say(const struct service *service, const char *text)
{
    printf("%s: %s\n", service->name, text);
    fflush(stdout);
}

/* ---- what they print ---- */

static void print_line(struct output *output)
{
    printf("%s %s ", output->service->name, output->mark);
    fwrite(output->line, 1, output->length, stdout);
    putchar('\n');
    fflush(stdout);
    output->length = 0;
}

static void on_data(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length, void *user)
{
    struct output *output = user;
    (void)loop, (void)stream;
    for (size_t i = 0; i < length; i++) {
        if (data[i] == '\n' || output->length == LINE_MAX_BYTES) print_line(output);
        if (data[i] != '\n') output->line[output->length++] = (char)data[i];
    }
}

/* Without an on_end in the table the stream closes by itself at the end of the pipe. */
static void on_output_closed(kolo_loop *loop, kolo_stream stream, void *user)
{
    struct output *output = user;
    (void)loop, (void)stream;
    if (output->length > 0) print_line(output);
    free(output);
}

static kolo_stdio pipe_from(struct service *service, const char *mark, const kolo_stream_handler *handler,
                            kolo_stream *stream)
{
    kolo_stdio stdio = KOLO_STDIO_INIT;
    struct output *output = calloc(1, sizeof *output);
    if (output == NULL) check(KOLO_ENOMEM, "remember a pipe");
    output->service = service;
    output->mark = mark;
    stdio.type = KOLO_STDIO_CHILD_WRITES;
    stdio.handler = handler;
    stdio.user = output;
    stdio.out_stream = stream;
    return stdio;
}

/* ---- starting and ending ---- */

static void on_exit_of(kolo_loop *loop, kolo_process process, int status, int signal, void *user);
static void end_if_all_are_done(struct supervisor *supervisor);

static void retry_later(struct service *service)
{
    char text[64];
    snprintf(text, sizeof text, "again in %.2f s", (double)service->delay_ns / SECOND_NS);
    say(service, text);
    check(kolo_timer_start(service->supervisor->loop, service->retry, service->delay_ns, 0), "wait");
}

static void start(struct service *service)
{
    kolo_loop *loop = service->supervisor->loop;
    const char *arguments[] = {"sh", "-c", service->command, NULL};
    kolo_process_options options = KOLO_PROCESS_OPTIONS_INIT;
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    kolo_stream streams[2];
    kolo_stdio stdio[3] = {KOLO_STDIO_INIT, KOLO_STDIO_INIT, KOLO_STDIO_INIT};
    int error;

    handler.on_data = on_data;
    handler.on_close = on_output_closed;
    stdio[0].type = KOLO_STDIO_NULL;
    stdio[1] = pipe_from(service, "|", &handler, &streams[0]);
    stdio[2] = pipe_from(service, "!", &handler, &streams[1]);
    options.program = "/bin/sh";
    options.arguments = arguments;
    options.stdio = stdio;
    options.stdio_count = 3;
    options.new_group = true;
    options.kill_on_close = true;
    error = kolo_process_spawn(loop, &options, on_exit_of, service, &service->process);
    check(kolo_loop_now(loop, &service->started_ns), "ask for the time");
    if (error < 0) {
        /* Too many descriptors or processes: no handler was taken over, and later may be better. */
        free(stdio[1].user);
        free(stdio[2].user);
        fprintf(stderr, "supervisor: start %s (step %d): %s\n", service->name, kolo_process_failed_step(),
                kolo_strerror(error));
        retry_later(service);
    }
}

static void on_retry(kolo_loop *loop, kolo_timer timer, void *user)
{
    (void)loop, (void)timer;
    start(user);
}

static void done(struct service *service)
{
    check(kolo_close(service->supervisor->loop, service->retry), "close a timer");
    service->retry = 0;
    end_if_all_are_done(service->supervisor);
}

static void on_exit_of(kolo_loop *loop, kolo_process process, int status, int signal, void *user)
{
    struct service *service = user;
    struct supervisor *supervisor = service->supervisor;
    uint64_t now_ns;
    char text[64];

    /* What it left in the background goes with it: while this runs, the number of the group is not used again. */
    (void)kolo_process_kill_group(loop, process, SIGKILL);
    service->process = 0; /* the handle closes by itself */
    if (signal != 0) snprintf(text, sizeof text, "ended by signal %d", signal);
    else if (status >= 0) snprintf(text, sizeof text, "ended with status %d", status);
    else snprintf(text, sizeof text, "ended, nobody knows how");
    say(service, text);
    if (supervisor->stopping || status == 0) {
        done(service);
        return;
    }
    check(kolo_loop_now(loop, &now_ns), "ask for the time");
    if (now_ns - service->started_ns > supervisor->retry_max_ns) service->delay_ns = supervisor->retry_min_ns;
    retry_later(service);
    service->delay_ns = service->delay_ns * 2 < supervisor->retry_max_ns ? service->delay_ns * 2 : supervisor->retry_max_ns;
}

/* ---- stopping ---- */

static void end_if_all_are_done(struct supervisor *supervisor)
{
    for (size_t i = 0; i < supervisor->count; i++)
        if (supervisor->services[i].retry != 0) return;
    /* With these gone nothing keeps the loop alive but pipes that are still to be read. */
    for (size_t i = 0; i < 2; i++) check(kolo_close(supervisor->loop, supervisor->signals[i]), "close a signal handle");
    check(kolo_close(supervisor->loop, supervisor->grace), "close a timer");
}

static void signal_all(struct supervisor *supervisor, int number)
{
    for (size_t i = 0; i < supervisor->count; i++) {
        struct service *service = &supervisor->services[i];
        /* One may just have ended: its on_exit comes. */
        if (service->process != 0) (void)kolo_process_kill_group(supervisor->loop, service->process, number);
    }
}

static void kill_all(struct supervisor *supervisor)
{
    supervisor->killed = true;
    signal_all(supervisor, SIGKILL);
}

static void on_grace_over(kolo_loop *loop, kolo_timer timer, void *user)
{
    (void)loop, (void)timer;
    kill_all(user);
}

static void on_stop(kolo_loop *loop, kolo_signal handle, int number, void *user)
{
    struct supervisor *supervisor = user;
    (void)handle, (void)number;
    if (supervisor->stopping) {
        kill_all(supervisor);
        return;
    }
    supervisor->stopping = true;
    printf("supervisor: stopping\n");
    fflush(stdout);
    check(kolo_timer_start(loop, supervisor->grace, supervisor->grace_ns, 0), "start the grace");
    signal_all(supervisor, SIGTERM);
    for (size_t i = 0; i < supervisor->count; i++) {
        struct service *service = &supervisor->services[i];
        if (service->process == 0 && service->retry != 0) done(service); /* it was waiting for another try */
    }
}

/* ---- the program ---- */

static void usage(void)
{
    fprintf(stderr, "usage: supervisor [--retry-min S] [--retry-max S] [--grace S] NAME=COMMAND...\n");
    exit(2);
}

static uint64_t seconds(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value > 0 && value < 1e6)) usage();
    return (uint64_t)(value * SECOND_NS);
}

static int parse(int argc, char **argv, struct supervisor *supervisor)
{
    int at = 1;
    for (; at + 1 < argc && strncmp(argv[at], "--", 2) == 0; at += 2) {
        if (strcmp(argv[at], "--retry-min") == 0) supervisor->retry_min_ns = seconds(argv[at + 1]);
        else if (strcmp(argv[at], "--retry-max") == 0) supervisor->retry_max_ns = seconds(argv[at + 1]);
        else if (strcmp(argv[at], "--grace") == 0) supervisor->grace_ns = seconds(argv[at + 1]);
        else usage();
    }
    if (at >= argc) usage();
    return at;
}

static void parse_service(struct service *service, char *text, struct supervisor *supervisor)
{
    char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) usage();
    *equals = '\0';
    service->supervisor = supervisor;
    service->name = text;
    service->command = equals + 1;
    service->delay_ns = supervisor->retry_min_ns;
}

int main(int argc, char **argv)
{
    static const int stop_signals[2] = {SIGTERM, SIGINT};
    struct supervisor supervisor = {0};
    int first;

    supervisor.retry_min_ns = 100 * 1000000;
    supervisor.retry_max_ns = UINT64_C(10000000000);
    supervisor.grace_ns = UINT64_C(5000000000);
    first = parse(argc, argv, &supervisor);
    supervisor.count = (size_t)(argc - first);
    supervisor.services = calloc(supervisor.count, sizeof *supervisor.services);
    if (supervisor.services == NULL) check(KOLO_ENOMEM, "remember the programs");
    for (size_t i = 0; i < supervisor.count; i++)
        parse_service(&supervisor.services[i], argv[(size_t)first + i], &supervisor);

    check(kolo_loop_new(NULL, &supervisor.loop), "create the loop");
    check(kolo_timer_open(supervisor.loop, on_grace_over, &supervisor, &supervisor.grace), "open a timer");
    for (size_t i = 0; i < 2; i++) {
        check(kolo_signal_open(supervisor.loop, on_stop, &supervisor, &supervisor.signals[i]), "open a signal handle");
        check(kolo_signal_start(supervisor.loop, supervisor.signals[i], stop_signals[i]), "watch a signal");
    }
    for (size_t i = 0; i < supervisor.count; i++) {
        struct service *service = &supervisor.services[i];
        check(kolo_timer_open(supervisor.loop, on_retry, service, &service->retry), "open a timer");
        start(service);
    }
    check(kolo_loop_run(supervisor.loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(supervisor.loop), "free the loop");
    free(supervisor.services);
    return supervisor.killed ? 1 : 0;
}
