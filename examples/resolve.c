/* resolve.c: looks up all its arguments at once: names to addresses, and addresses to names.
 *
 * Build:  cc resolve.c $(pkg-config --cflags --libs kolo) -o resolve
 * Try:    ./resolve localhost 127.0.0.1 ::1
 *         ./resolve --seconds 0.5 some.host.example other.host.example
 *
 * What it shows: lookups that run at the same time while the loop goes on, a limit on each, and which errors there are.
 * The lines come in the order of the answers. */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif
#include <kolo.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;

static int check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "resolve: %s: %s (%s)\n", what, kolo_strerror(result), kolo_error_name(result));
        exit(1);
    }
    return result;
}

static void failed(const char *what, int error)
{
    failures++;
    if (error == KOLO_ETIMEDOUT)
        fprintf(stderr, "%s: no answer in time\n", what);
    else
        fprintf(stderr, "%s: %s (%s)\n", what, kolo_strerror(error), kolo_error_name(error));
}

/* What it is given is only there during the callback. `user` is the argument. */
static void on_resolved(kolo_loop *loop, kolo_request request, int status, const kolo_address *addresses, size_t count,
                        const char *canonical_name, void *user)
{
    char text[KOLO_ADDRESS_TEXT_MAX];
    (void)loop, (void)request;
    if (status < 0) {
        failed(user, status);
        return;
    }
    printf("%s", (const char *)user);
    if (canonical_name != NULL && strcmp(canonical_name, user) != 0)
        printf(" (%s)", canonical_name);
    for (size_t i = 0; i < count; i++) {
        check(kolo_address_format_ip(&addresses[i], text, sizeof text), "address");
        printf("%s %s", i == 0 ? ":" : "", text);
    }
    printf("\n");
}

static void on_reversed(kolo_loop *loop, kolo_request request, int status, const char *host, const char *service,
                        void *user)
{
    (void)loop, (void)request, (void)service;
    if (status < 0)
        failed(user, status);
    else
        printf("%s: %s\n", (const char *)user, host);
}

static void ask(kolo_loop *loop, char *what, uint64_t timeout_ns)
{
    kolo_address address;
    if (kolo_address_parse(what, 0, &address) == 0) {
        kolo_reverse_options options = KOLO_REVERSE_OPTIONS_INIT;
        options.timeout_ns = timeout_ns;
        options.name_required = true;
        options.numeric_service = true;
        check(kolo_reverse(loop, &address, &options, on_reversed, what, NULL), what);
    } else {
        kolo_resolve_options options = KOLO_RESOLVE_OPTIONS_INIT;
        options.timeout_ns = timeout_ns;
        options.canonical_name = true;
        check(kolo_resolve(loop, what, NULL, &options, on_resolved, what, NULL), what);
    }
}

int main(int count, char **arguments)
{
    kolo_loop *loop;
    double seconds = 10;
    int first = 1;
    if (count > 2 && strcmp(arguments[1], "--seconds") == 0) {
        char *rest;
        seconds = strtod(arguments[2], &rest);
        first = *rest == '\0' && seconds > 0 && seconds <= 1e6 ? 3 : count;
    }
    if (first >= count) {
        fputs("usage: resolve [--seconds SECONDS] NAME-OR-ADDRESS...\n", stderr);
        return 2;
    }
    check(kolo_loop_new(NULL, &loop), "create the loop");
    for (int i = first; i < count; i++)
        ask(loop, arguments[i], (uint64_t)(seconds * 1e9));
    check(kolo_loop_run(loop, KOLO_RUN_DEFAULT), "run");
    check(kolo_loop_free(loop), "free the loop"); /* a resolver that is still busy is not waited for */
    return failures > 0;
}
