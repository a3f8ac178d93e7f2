/* Errors and the version: numbers, names, texts. */
#include "harness.h"

#include <limits.h>

/* Every code of the header with its name; on Linux also the errno it is named for. */
#define ERRNO_CODES(X)                                                                                                 \
    X(EPERM) X(ENOENT) X(ESRCH) X(EINTR) X(EIO) X(ENXIO) X(E2BIG) X(ENOEXEC) X(EBADF) X(ECHILD) X(EAGAIN) X(ENOMEM)    \
    X(EACCES) X(EFAULT) X(ENOTBLK) X(EBUSY) X(EEXIST) X(EXDEV) X(ENODEV) X(ENOTDIR) X(EISDIR) X(EINVAL) X(ENFILE)      \
    X(EMFILE) X(ENOTTY) X(ETXTBSY) X(EFBIG) X(ENOSPC) X(ESPIPE) X(EROFS) X(EMLINK) X(EPIPE) X(EDOM) X(ERANGE)          \
    X(EDEADLK) X(ENAMETOOLONG) X(ENOLCK) X(ENOSYS) X(ENOTEMPTY) X(ELOOP) X(ENOMSG) X(EIDRM) X(EREMOTE) X(EPROTO)       \
    X(EBADMSG) X(EOVERFLOW) X(EILSEQ) X(EUSERS) X(ENOTSOCK) X(EDESTADDRREQ) X(EMSGSIZE) X(EPROTOTYPE)                  \
    X(ENOPROTOOPT) X(EPROTONOSUPPORT) X(ESOCKTNOSUPPORT) X(EPFNOSUPPORT) X(EAFNOSUPPORT) X(EADDRINUSE)                 \
    X(EADDRNOTAVAIL) X(ENETDOWN) X(ENETUNREACH) X(ENETRESET) X(ECONNABORTED) X(ECONNRESET) X(ENOBUFS) X(EISCONN)       \
    X(ENOTCONN) X(ESHUTDOWN) X(ETOOMANYREFS) X(ETIMEDOUT) X(ECONNREFUSED) X(EHOSTDOWN) X(EHOSTUNREACH) X(EALREADY)     \
    X(EINPROGRESS) X(ESTALE) X(EDQUOT) X(ECANCELED)
/* Not every system has these. */
#define LINUX_CODES(X)                                                                                                 \
    X(EUNATCH) X(ENODATA) X(ETIME) X(ENONET) X(ENOLINK) X(ECOMM) X(EMULTIHOP) X(ENOTUNIQ) X(EBADFD) X(EUCLEAN)         \
    X(EREMOTEIO) X(ENOMEDIUM) X(EMEDIUMTYPE) X(ENOKEY) X(EKEYEXPIRED) X(EKEYREVOKED) X(EKEYREJECTED)                   \
    X(EOWNERDEAD) X(ENOTRECOVERABLE) X(ERFKILL) X(EHWPOISON)


typedef struct code {
    int code;
    const char *name;
    int system;
} code;

static const code codes[] = {
#define CODE(name) {KOLO_##name, "KOLO_" #name, name},
    ERRNO_CODES(CODE)
#ifdef __linux__
    LINUX_CODES(CODE)
#endif
#undef CODE
    {KOLO_OK, "KOLO_OK", 0},
    {KOLO_ENOTSUP, "KOLO_ENOTSUP", EOPNOTSUPP},
    {KOLO_EAI_ADDRFAMILY, "KOLO_EAI_ADDRFAMILY", 3000},
    {KOLO_EAI_AGAIN, "KOLO_EAI_AGAIN", 3001},
    {KOLO_EAI_BADFLAGS, "KOLO_EAI_BADFLAGS", 3002},
    {KOLO_EAI_CANCELED, "KOLO_EAI_CANCELED", 3003},
    {KOLO_EAI_FAIL, "KOLO_EAI_FAIL", 3004},
    {KOLO_EAI_FAMILY, "KOLO_EAI_FAMILY", 3005},
    {KOLO_EAI_MEMORY, "KOLO_EAI_MEMORY", 3006},
    {KOLO_EAI_NODATA, "KOLO_EAI_NODATA", 3007},
    {KOLO_EAI_NONAME, "KOLO_EAI_NONAME", 3008},
    {KOLO_EAI_OVERFLOW, "KOLO_EAI_OVERFLOW", 3009},
    {KOLO_EAI_SERVICE, "KOLO_EAI_SERVICE", 3010},
    {KOLO_EAI_SOCKTYPE, "KOLO_EAI_SOCKTYPE", 3011},
    {KOLO_EAI_BADHINTS, "KOLO_EAI_BADHINTS", 3013},
    {KOLO_EAI_PROTOCOL, "KOLO_EAI_PROTOCOL", 3014},
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
    static const int numbers[] = {1, 4096, -134, -200, -3012, -4000, -4004, -4095, -99999, INT_MAX, INT_MIN};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        CHECK(kolo_strerror(numbers[i]) != NULL && kolo_strerror(numbers[i])[0] != '\0');
        CHECK(kolo_error_name(numbers[i]) != NULL && kolo_error_name(numbers[i])[0] != '\0');
    }
}

TEST_WITHOUT_LOOP(a_system_error_gets_its_code) {
    for (size_t i = 0; i < CODES; i++) {
        if (codes[i].system < 1000) CHECK_INT(kolo_error_from_system(codes[i].system), codes[i].code);
    }
    CHECK_INT(kolo_error_from_system(EWOULDBLOCK), KOLO_EAGAIN);
    CHECK_INT(kolo_error_from_system(99999), KOLO_EUNKNOWN);
    CHECK_INT(kolo_error_from_system(-EPIPE), KOLO_EUNKNOWN);
    CHECK_INT(kolo_error_from_system(INT_MIN), KOLO_EUNKNOWN);
}

TEST_WITHOUT_LOOP(formats_every_code_with_its_name) {
    for (size_t i = 0; i < CODES; i++) {
        char text[KOLO_ERROR_TEXT_MAX], expected[KOLO_ERROR_TEXT_MAX];
        snprintf(expected, sizeof expected, "%s (%s)", kolo_strerror(codes[i].code), codes[i].name);
        CHECK_INT(kolo_error_format(codes[i].code, 0, text, sizeof text), strlen(expected));
        CHECK_STRING(text, expected);
    }
}

TEST_WITHOUT_LOOP(formats_what_has_no_code_with_its_number) {
    char text[KOLO_ERROR_TEXT_MAX];
    CHECK(kolo_error_format(KOLO_EUNKNOWN, 99999, text, sizeof text) > 0);
    CHECK(strstr(text, "99999") != NULL && strstr(text, "KOLO_EUNKNOWN") != NULL);
    CHECK(kolo_error_format(-77777, 0, text, sizeof text) > 0);
    CHECK(strstr(text, "-77777") != NULL);
    CHECK(kolo_error_format(INT_MIN, INT_MIN, text, sizeof text) > 0);
}

TEST_WITHOUT_LOOP(formatting_an_error_needs_room_for_the_nul) {
    char text[80];
    memset(text, '#', sizeof text);
    size_t length = strlen("timed out (KOLO_ETIMEDOUT)");
    CHECK_ERROR(kolo_error_format(KOLO_ETIMEDOUT, 0, text, length), KOLO_ENOBUFS);
    CHECK_ERROR(kolo_error_format(KOLO_ETIMEDOUT, 0, text, 0), KOLO_ENOBUFS);
    CHECK_INT(text[0], '#');
    CHECK_INT(kolo_error_format(KOLO_ETIMEDOUT, 0, text, length + 1), length);
    CHECK_INT(text[length + 1], '#');
    CHECK_ERROR(kolo_error_format(KOLO_ETIMEDOUT, 0, NULL, 80), KOLO_EINVAL);
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
