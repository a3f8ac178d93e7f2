/* Errors and the version: numbers, names, texts. */
#include "harness.h"

#include <limits.h>

/* Every code of the header with its name; on Linux also the errno it is named for. */
#define ERRNO_CODES(X)                                                                                                 \
    X(EPERM) X(ENOENT) X(ESRCH) X(EINTR) X(EIO) X(ENXIO) X(E2BIG) X(ENOEXEC) X(EBADF) X(ECHILD) X(EAGAIN)              \
    X(ENOMEM) X(EACCES) X(EFAULT) X(EBUSY) X(EEXIST) X(EXDEV) X(ENODEV) X(ENOTDIR) X(EISDIR) X(EINVAL) X(ENFILE)       \
    X(EMFILE) X(ENOTTY) X(ETXTBSY) X(EFBIG) X(ENOSPC) X(ESPIPE) X(EROFS) X(EMLINK) X(EPIPE) X(ERANGE) X(EDEADLK)       \
    X(ENAMETOOLONG) X(ENOSYS) X(ENOTEMPTY) X(ELOOP) X(EPROTO) X(EOVERFLOW) X(EILSEQ) X(ENOTSOCK) X(EDESTADDRREQ)       \
    X(EMSGSIZE) X(EPROTOTYPE) X(ENOPROTOOPT) X(EPROTONOSUPPORT) X(EAFNOSUPPORT) X(EADDRINUSE) X(EADDRNOTAVAIL)         \
    X(ENETDOWN) X(ENETUNREACH) X(ENETRESET) X(ECONNABORTED) X(ECONNRESET) X(ENOBUFS) X(EISCONN) X(ENOTCONN)            \
    X(ETIMEDOUT) X(ECONNREFUSED) X(EHOSTDOWN) X(EHOSTUNREACH) X(EALREADY) X(EINPROGRESS) X(EDQUOT) X(ECANCELED)

typedef struct code {
    int code;
    const char *name;
    int system;
} code;

static const code codes[] = {
#define CODE(name) {KOLO_##name, "KOLO_" #name, name},
    ERRNO_CODES(CODE)
#undef CODE
    {KOLO_OK, "KOLO_OK", 0},
    {KOLO_ENOTSUP, "KOLO_ENOTSUP", EOPNOTSUPP},
    {KOLO_EWRONGTHREAD, "KOLO_EWRONGTHREAD", 4001},
    {KOLO_EFORKED, "KOLO_EFORKED", 4002},
    {KOLO_EPANIC, "KOLO_EPANIC", 4003},
    {KOLO_EUNKNOWN, "KOLO_EUNKNOWN", 4094},
};
#define CODES (sizeof codes / sizeof codes[0])

TEST_WITHOUT_LOOP(every_code_has_its_name) {
    for (size_t i = 0; i < CODES; i++) CHECK_STRING(kolo_error_name(codes[i].code), codes[i].name);
}

TEST_WITHOUT_LOOP(every_code_has_a_text_of_its_own) {
    for (size_t i = 0; i < CODES; i++) {
        const char *text = kolo_strerror(codes[i].code);
        CHECK(text != NULL && strlen(text) > 1);
        for (size_t k = 0; k < i; k++) CHECK(strcmp(text, kolo_strerror(codes[k].code)) != 0);
    }
}

TEST_WITHOUT_LOOP(numbers_are_those_of_linux) {
#ifdef __linux__
    for (size_t i = 0; i < CODES; i++) CHECK_INT(codes[i].code, -codes[i].system);
#endif
    CHECK_INT(KOLO_EADDRINUSE, -98); /* the same on every system */
}

TEST_WITHOUT_LOOP(any_number_has_a_name_and_a_text) {
    static const int numbers[] = {1, 4096, -133, -200, -4000, -4004, -4095, -99999, INT_MAX, INT_MIN};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        CHECK(kolo_strerror(numbers[i]) != NULL && kolo_strerror(numbers[i])[0] != '\0');
        CHECK(kolo_error_name(numbers[i]) != NULL && kolo_error_name(numbers[i])[0] != '\0');
    }
}

static void *ask_names(void *unused) {
    (void)unused;
    CHECK_STRING(kolo_error_name(KOLO_EPIPE), "KOLO_EPIPE");
    CHECK(strlen(kolo_strerror(KOLO_EPIPE)) > 1);
    return NULL;
}

TEST_WITHOUT_LOOP(names_can_be_asked_on_any_thread) { on_another_thread(ask_names, NULL); }

TEST(system_error_is_the_code_behind_the_last_error) {
    kolo_address any = loopback_v4(0), taken;
    int socket = raw_listen(&any, 1, &taken);
    kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
    kolo_listener listener = 0;
    CHECK_ERROR(kolo_tcp_listen(loop, &taken, NULL, &handler, NULL, &listener), KOLO_EADDRINUSE);
    CHECK_INT(kolo_system_error(), EADDRINUSE);
    raw_close(&socket);
}

static int code_in_callback;

static void remember_code(kolo_loop *loop, kolo_stream stream, int error, void *user) {
    (void)loop, (void)stream, (void)user;
    CHECK_ERROR(error, KOLO_ECONNREFUSED);
    code_in_callback = kolo_system_error();
}

TEST(system_error_holds_in_a_callback_that_reports_one) {
    kolo_address any = loopback_v4(0), refusing;
    int socket = raw_socket_bound(&any, &refusing);
    kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
    handler.on_error = remember_code;
    kolo_tcp stream = 0;
    CHECK_OK(kolo_tcp_connect(loop, &refusing, NULL, &handler, NULL, &stream));
    run_to_end(loop);
    CHECK_INT(code_in_callback, ECONNREFUSED);
    raw_close(&socket);
}

TEST_WITHOUT_LOOP(version_number_and_text_agree) {
    uint32_t version = kolo_version();
    char text[40];
    snprintf(text, sizeof text, "%u.%u.%u", version >> 16, (version >> 8) & 255u, version & 255u);
    CHECK_STRING(kolo_version_string(), text);
    CHECK(version > 0);
}
