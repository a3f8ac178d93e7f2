/*
 * kolo.h: an event loop
 *
 * One thread waits for many things at once, and calls a function when one of them happens: timers,
 * connections and datagrams, files, names, child processes, terminals, changed folders, signals,
 * work on and from other threads, and descriptors of other libraries.
 *
 * This file is the manual, and it is generated: every part begins with an introduction, then come
 * its types, then its functions. Loops and handles; errors and the version; the loop; any handle;
 * timers; hooks; other threads; work on other threads; signals; foreign descriptors; addresses;
 * the system; streams; TCP; names; listening; many loops; UDP; UDP options; Unix-domain sockets;
 * pipes; child processes; terminals; watching files and folders; the file system; files;
 * directories; simulations; initialisers.
 *
 *
 * An echo server
 *
 *     #include <kolo.h>
 *     #include <stdio.h>
 *
 *     static void echo(kolo_loop *loop, kolo_stream stream, const uint8_t *data, size_t length,
 *                      void *user) {
 *         (void)user;
 *         kolo_stream_write(loop, stream, data, length);
 *     }
 *
 *     static void accepted(kolo_loop *loop, kolo_listener listener, kolo_tcp stream, void *user) {
 *         kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
 *         (void)listener, (void)user;
 *         handler.on_data = echo;
 *         kolo_stream_attach(loop, stream, &handler, NULL);
 *     }
 *
 *     int main(void) {
 *         kolo_loop *loop;
 *         kolo_address address;
 *         kolo_listener listener;
 *         kolo_listener_handler handler = KOLO_LISTENER_HANDLER_INIT;
 *         int error = kolo_loop_new(NULL, &loop);
 *         if (error < 0) return 1;
 *         handler.on_accept = accepted;
 *         kolo_address_parse("127.0.0.1", 7000, &address);
 *         error = kolo_tcp_listen(loop, &address, NULL, &handler, NULL, &listener);
 *         if (error >= 0) error = kolo_loop_run(loop, KOLO_RUN_DEFAULT);
 *         if (error < 0) fprintf(stderr, "%s\n", kolo_strerror(error));
 *         kolo_loop_free(loop);
 *         return error < 0;
 *     }
 *
 *
 * What holds everywhere
 *
 * Handles are numbers. kolo_timer_open and its like write a handle's number; the other functions
 * take it. No memory of a handle is the program's, and none can dangle: a handle that is closed, of
 * another kind, or of another loop gets KOLO_EBADF. kolo_close works on every kind, from anywhere.
 *
 * Callbacks get the loop, the handle and the `user` pointer that was given with them. They run on
 * the loop's thread, inside kolo_loop_run or kolo_loop_free, one at a time, and never inside the
 * call that causes them. (Only kolo_loop_walk calls back at once.) A callback may call every
 * function, and close its own handle or any other, unless it says so here. It must return: no C++
 * exception may leave it, and no longjmp.
 *
 * Closing is last. After kolo_close a handle's callbacks come no more; what was under way completes
 * with KOLO_ECANCELED; then its on_close comes, once, and after that kolo keeps nothing of the
 * program's: the place to free what `user` points to.
 *
 * Errors are negative ints, zero and above is success. Besides the errors that a function names,
 * every function that takes a loop returns
 *
 *     KOLO_EINVAL        if the loop is NULL;
 *     KOLO_EBADF         if it is no loop, or was freed;
 *     KOLO_EWRONGTHREAD  if it belongs to another thread, or to none;
 *     KOLO_EFORKED       in a forked child, before kolo_loop_fork;
 *     KOLO_EPANIC        if a bug inside kolo was met. The loop can still be freed;
 *
 * every function that takes a handle KOLO_EBADF; and every function that needs a pointer KOLO_EINVAL
 * for NULL. A call that fails has done nothing, and leaves what it would have written through an
 * `out` pointer as it was.
 *
 * Threads. A loop belongs to one thread: the one that made it, or that took it with
 * kolo_loop_attach_thread. Other threads hold a kolo_remote. A process may have many loops, and so
 * may a thread. Functions that may be called from any thread say so.
 *
 * Memory. What is handed to a function (options, handlers, addresses, bytes, texts) is read or
 * copied before it returns and need not live longer; the exceptions are kolo_stream_write_owned,
 * kolo_udp_send_owned and the memory that files are read into and written from, which are lent until
 * their callback. What a callback is handed is there until it returns. Texts that are returned are
 * static.
 *
 * Time is monotonic, in nanoseconds: names end with _ns. 0 means "none" where a timeout is meant.
 *
 * Structs with a `size` member may grow. Begin with their initialiser (KOLO_..._INIT), or with zeros
 * and the size, and zero means the default. A program that was compiled with an older header works
 * on; one that asks a library for what is too new for it gets KOLO_EINVAL.
 *
 * Stability. Within one major version functions, constants and, at the end of structs with a size,
 * members are added; nothing else changes. kolo_address, kolo_buffer, and every struct that says so
 * stay as they are.
 *
 * For other languages: functions take and return numbers and pointers only; enumerations travel as
 * int, and a value that there is not gets KOLO_EINVAL; all constants are enumerators. Only the
 * initialisers and the version are macros.
 *
 * SIGPIPE: kolo's own writes never raise it.
 */
#ifndef KOLO_H
#define KOLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** The version of this header; kolo_version tells that of the library. */
#define KOLO_VERSION_MAJOR 0
#define KOLO_VERSION_MINOR 1
#define KOLO_VERSION_PATCH 0
#define KOLO_VERSION (KOLO_VERSION_MAJOR << 16 | KOLO_VERSION_MINOR << 8 | KOLO_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* Loops and handles ==============================================================================
 *
 * A loop and a remote are opaque: kolo makes them and frees them. A handle is a number. It can be
 * copied, kept, compared and hashed; it needs no memory of the program's. Every kind of handle has
 * a name for its number, for the reader's sake; to the compiler they are all uint64_t.
 */

/** An event loop. Made by kolo_loop_new, freed by kolo_loop_free. It belongs to one thread. */
typedef struct kolo_loop kolo_loop;

/**
 * What other threads hold of a loop: see kolo_remote_post and kolo_remote_wake. It is counted
 * how many hold it, and it may outlive its loop. There is nothing where the pointer points to: it
 * is a number, so that one that was released is found out (KOLO_EBADF).
 */
typedef struct kolo_remote kolo_remote;

/**
 * The number of a handle, whatever its kind. 0 is never a handle. Once a handle is closed its
 * number is dead: every call with it returns KOLO_EBADF, also after its place was taken by a
 * new handle, and also in another loop.
 */
typedef uint64_t kolo_handle;

/** A timer. */
typedef kolo_handle kolo_timer;

/** A function called once in every turn. */
typedef kolo_handle kolo_hook;

/** A callback that other threads trigger. */
typedef kolo_handle kolo_waker;

/** A watched signal. */
typedef kolo_handle kolo_signal;

/** A watched descriptor that somebody else reads and writes. */
typedef kolo_handle kolo_poll;

/** A socket that listens for connections. */
typedef kolo_handle kolo_listener;

/** A stream of bytes in both directions, whatever carries it. */
typedef kolo_handle kolo_stream;

/** A TCP connection: a stream. All kolo_stream_ functions take it, and the kolo_tcp_ functions. */
typedef kolo_stream kolo_tcp;

/** A UDP socket. */
typedef kolo_handle kolo_udp;

/** A program that runs. */
typedef kolo_handle kolo_process;

/** Work under way on another thread: a handle that ends by itself. */
typedef kolo_handle kolo_request;

/** A watched file or folder. */
typedef kolo_handle kolo_watch;

/** An open file. */
typedef kolo_handle kolo_file;

/** An open directory. */
typedef kolo_handle kolo_directory;

/** The number of a pool of threads. It belongs to no loop; 0 is never one. */
typedef uint64_t kolo_pool;

/** A Unix-domain stream. All kolo_stream_ functions take it, and the kolo_local_ functions. */
typedef kolo_stream kolo_local;

/** One end of a pipe: a stream. All kolo_stream_ functions take it, and the kolo_pipe_ functions. */
typedef kolo_stream kolo_pipe;

/** A terminal: a stream. All kolo_stream_ functions take it, and the kolo_tty_ functions. */
typedef kolo_stream kolo_tty;

/** The number of a group of loops. It belongs to no loop; 0 is never one. */
typedef uint64_t kolo_group;

/** The number of a simulation. It belongs to one thread; 0 is never one. */
typedef uint64_t kolo_sim;

/**
 * A descriptor of the system's: a file descriptor, or a SOCKET on Windows.
 *
 * A descriptor that was adopted (kolo_tcp_adopt and its like) has one handle, which closes it. So none
 * can be adopted that a handle of this process has already, in whatever loop, whether it was adopted or its
 * number was asked for (kolo_tcp_socket and its like): that is KOLO_EEXIST, and nothing else happens. A
 * duplicate (dup) can be. It is the number that counts, until its handle closes or releases it: who
 * closes kolo's descriptor behind its back finds that the number is still taken when another file has
 * it, rightly, since kolo will close it. A number that is kolo's and was neither adopted nor asked for
 * is not found out.
 */
typedef ptrdiff_t kolo_socket;

/* Errors, the version, the features ==============================================================
 *
 * Every function that can fail returns an int: 0 or a positive value on success, a negative
 * kolo_error otherwise. The numbers are Linux' errno negated, and are the same on every system, so
 * that programs may store and compare them. Those of looking up names are numbered from -3000 on,
 * kolo's own from -4001 on.
 */

/**
 * What went wrong. The functions return int; this is the list of the names. Codes may be added,
 * so treat those that you do not know as you treat KOLO_EUNKNOWN.
 */
typedef enum kolo_error {
    /** Success. */
    KOLO_OK = 0,
    /** Operation not permitted. */
    KOLO_EPERM = -1,
    /** No such file, handle or request. */
    KOLO_ENOENT = -2,
    /** No such process. */
    KOLO_ESRCH = -3,
    /** Interrupted system call. */
    KOLO_EINTR = -4,
    /** Input/output error. */
    KOLO_EIO = -5,
    /** No such device or address. */
    KOLO_ENXIO = -6,
    /** Argument list too long. */
    KOLO_E2BIG = -7,
    /** Exec format error. */
    KOLO_ENOEXEC = -8,
    /** Bad handle or descriptor. */
    KOLO_EBADF = -9,
    /** No child processes. */
    KOLO_ECHILD = -10,
    /** Resource temporarily unavailable. */
    KOLO_EAGAIN = -11,
    /** Out of memory. */
    KOLO_ENOMEM = -12,
    /** Permission denied. */
    KOLO_EACCES = -13,
    /** Bad address in a system call. */
    KOLO_EFAULT = -14,
    /** Block device required. */
    KOLO_ENOTBLK = -15,
    /** Resource busy. */
    KOLO_EBUSY = -16,
    /** Already exists. */
    KOLO_EEXIST = -17,
    /** Cross-device link. */
    KOLO_EXDEV = -18,
    /** No such device. */
    KOLO_ENODEV = -19,
    /** Not a directory. */
    KOLO_ENOTDIR = -20,
    /** Is a directory. */
    KOLO_EISDIR = -21,
    /** Invalid argument. */
    KOLO_EINVAL = -22,
    /** Too many open files in the system. */
    KOLO_ENFILE = -23,
    /** Too many open files in the process. */
    KOLO_EMFILE = -24,
    /** Not a terminal. */
    KOLO_ENOTTY = -25,
    /** Text file busy. */
    KOLO_ETXTBSY = -26,
    /** File too large. */
    KOLO_EFBIG = -27,
    /** No space left on device. */
    KOLO_ENOSPC = -28,
    /** Illegal seek. */
    KOLO_ESPIPE = -29,
    /** Read-only file system. */
    KOLO_EROFS = -30,
    /** Too many links. */
    KOLO_EMLINK = -31,
    /** Broken pipe or stream already shut down. */
    KOLO_EPIPE = -32,
    /** Argument out of domain. */
    KOLO_EDOM = -33,
    /** Result out of range. */
    KOLO_ERANGE = -34,
    /** Resource deadlock avoided. */
    KOLO_EDEADLK = -35,
    /** Name too long. */
    KOLO_ENAMETOOLONG = -36,
    /** No locks available. */
    KOLO_ENOLCK = -37,
    /** Function not implemented. */
    KOLO_ENOSYS = -38,
    /** Directory not empty. */
    KOLO_ENOTEMPTY = -39,
    /** Too many symbolic links. */
    KOLO_ELOOP = -40,
    /** No message of that type. */
    KOLO_ENOMSG = -42,
    /** Identifier removed. */
    KOLO_EIDRM = -43,
    /** Protocol driver not attached. */
    KOLO_EUNATCH = -49,
    /** No data available. */
    KOLO_ENODATA = -61,
    /** Timer expired. */
    KOLO_ETIME = -62,
    /** Machine is not on the network. */
    KOLO_ENONET = -64,
    /** Object is remote. */
    KOLO_EREMOTE = -66,
    /** Link was severed. */
    KOLO_ENOLINK = -67,
    /** Communication error on send. */
    KOLO_ECOMM = -70,
    /** Protocol error. */
    KOLO_EPROTO = -71,
    /** Multihop attempted. */
    KOLO_EMULTIHOP = -72,
    /** Bad message. */
    KOLO_EBADMSG = -74,
    /** Value too large. */
    KOLO_EOVERFLOW = -75,
    /** Name not unique on the network. */
    KOLO_ENOTUNIQ = -76,
    /** Descriptor in a bad state. */
    KOLO_EBADFD = -77,
    /** Illegal byte sequence. */
    KOLO_EILSEQ = -84,
    /** Too many users. */
    KOLO_EUSERS = -87,
    /** Not a socket. */
    KOLO_ENOTSOCK = -88,
    /** Destination address required. */
    KOLO_EDESTADDRREQ = -89,
    /** Message too long. */
    KOLO_EMSGSIZE = -90,
    /** Wrong protocol type for the socket. */
    KOLO_EPROTOTYPE = -91,
    /** Protocol option not available. */
    KOLO_ENOPROTOOPT = -92,
    /** Protocol not supported. */
    KOLO_EPROTONOSUPPORT = -93,
    /** Socket type not supported. */
    KOLO_ESOCKTNOSUPPORT = -94,
    /** Not supported on this system. */
    KOLO_ENOTSUP = -95,
    /** Protocol family not supported. */
    KOLO_EPFNOSUPPORT = -96,
    /** Address family not supported. */
    KOLO_EAFNOSUPPORT = -97,
    /** Address already in use. */
    KOLO_EADDRINUSE = -98,
    /** Address not available. */
    KOLO_EADDRNOTAVAIL = -99,
    /** Network is down. */
    KOLO_ENETDOWN = -100,
    /** Network is unreachable. */
    KOLO_ENETUNREACH = -101,
    /** Connection dropped by the network. */
    KOLO_ENETRESET = -102,
    /** Connection aborted. */
    KOLO_ECONNABORTED = -103,
    /** Connection reset by peer. */
    KOLO_ECONNRESET = -104,
    /** Queue or buffer space exhausted. */
    KOLO_ENOBUFS = -105,
    /** Already connected. */
    KOLO_EISCONN = -106,
    /** Not connected. */
    KOLO_ENOTCONN = -107,
    /** Endpoint was shut down. */
    KOLO_ESHUTDOWN = -108,
    /** Too many references. */
    KOLO_ETOOMANYREFS = -109,
    /** Timed out. */
    KOLO_ETIMEDOUT = -110,
    /** Connection refused. */
    KOLO_ECONNREFUSED = -111,
    /** Host is down. */
    KOLO_EHOSTDOWN = -112,
    /** Host is unreachable. */
    KOLO_EHOSTUNREACH = -113,
    /** Already under way. */
    KOLO_EALREADY = -114,
    /** Now in progress. */
    KOLO_EINPROGRESS = -115,
    /** Stale file handle. */
    KOLO_ESTALE = -116,
    /** Structure needs cleaning. */
    KOLO_EUCLEAN = -117,
    /** Remote input/output error. */
    KOLO_EREMOTEIO = -121,
    /** Disk quota exceeded. */
    KOLO_EDQUOT = -122,
    /** No medium found. */
    KOLO_ENOMEDIUM = -123,
    /** Wrong medium type. */
    KOLO_EMEDIUMTYPE = -124,
    /** Canceled. */
    KOLO_ECANCELED = -125,
    /** Required key not available. */
    KOLO_ENOKEY = -126,
    /** Key has expired. */
    KOLO_EKEYEXPIRED = -127,
    /** Key was revoked. */
    KOLO_EKEYREVOKED = -128,
    /** Key was rejected. */
    KOLO_EKEYREJECTED = -129,
    /** Owner died. */
    KOLO_EOWNERDEAD = -130,
    /** State not recoverable. */
    KOLO_ENOTRECOVERABLE = -131,
    /** Switched off by RF-kill. */
    KOLO_ERFKILL = -132,
    /** Memory page has a hardware error. */
    KOLO_EHWPOISON = -133,
    /** The name has no address of that family. */
    KOLO_EAI_ADDRFAMILY = -3000,
    /** Name lookup failed for now: try again. */
    KOLO_EAI_AGAIN = -3001,
    /** Bad flags for a name lookup. */
    KOLO_EAI_BADFLAGS = -3002,
    /** Name lookup canceled. */
    KOLO_EAI_CANCELED = -3003,
    /** Name lookup failed for good. */
    KOLO_EAI_FAIL = -3004,
    /** Address family not supported by name lookups. */
    KOLO_EAI_FAMILY = -3005,
    /** Out of memory in a name lookup. */
    KOLO_EAI_MEMORY = -3006,
    /** The name has no address. */
    KOLO_EAI_NODATA = -3007,
    /** No such name or service. */
    KOLO_EAI_NONAME = -3008,
    /** The name does not fit. */
    KOLO_EAI_OVERFLOW = -3009,
    /** No such service for that socket type. */
    KOLO_EAI_SERVICE = -3010,
    /** Socket type not supported by name lookups. */
    KOLO_EAI_SOCKTYPE = -3011,
    /** Bad hints for a name lookup. */
    KOLO_EAI_BADHINTS = -3013,
    /** Protocol of a name lookup unknown. */
    KOLO_EAI_PROTOCOL = -3014,
    /** Called on a thread that does not own the loop. */
    KOLO_EWRONGTHREAD = -4001,
    /** In a forked child, before kolo_loop_fork. */
    KOLO_EFORKED = -4002,
    /** A bug inside kolo was caught where it would have left the library. */
    KOLO_EPANIC = -4003,
    /** A system error without a name here: see kolo_system_error. */
    KOLO_EUNKNOWN = -4094,
} kolo_error;

/** What a library can be built without; see kolo_features. */
typedef enum kolo_feature {
    /** TCP and UDP. */
    KOLO_FEATURE_NET = 1,
    /** Unix-domain sockets, pipes, descriptors passed between processes. */
    KOLO_FEATURE_LOCAL = 2,
    /** Child processes. */
    KOLO_FEATURE_PROCESS = 4,
    /** Files and folders. */
    KOLO_FEATURE_FS = 8,
    /** Names to addresses and back. */
    KOLO_FEATURE_DNS = 16,
    /** Watching files and folders for changes. */
    KOLO_FEATURE_WATCH = 32,
    /** Terminals. */
    KOLO_FEATURE_TTY = 64,
    /** Simulations. */
    KOLO_FEATURE_SIM = 128,
} kolo_feature;

/**
 * A short English text for an error: "connection refused" for KOLO_ECONNREFUSED. Any number is
 * allowed; for one that is no kolo_error the text says so.
 *
 * The text is static: it must not be freed or changed. Never NULL. Any thread.
 */
const char *kolo_strerror(int error);

/**
 * The name of an error: "KOLO_ECONNREFUSED", or "unknown" for a number that is no kolo_error.
 *
 * The text is static: it must not be freed or changed. Never NULL. Any thread.
 */
const char *kolo_error_name(int error);

/**
 * The code for an error number of the operating system's: errno, or on Windows that of
 * WSAGetLastError and GetLastError. KOLO_OK for 0, KOLO_EUNKNOWN for one that has no name here.
 * Never fails otherwise, and leaves kolo_system_error as it is. Any thread.
 */
int kolo_error_from_system(int system);

/**
 * Writes an error as a text for people, with its name: "timed out (KOLO_ETIMEDOUT)". `system` is
 * the operating system's number behind it (kolo_system_error), or 0: with KOLO_EUNKNOWN, that
 * number and the system's text for it are written as well. Any `error` is allowed; of one that is
 * no kolo_error the number is written. KOLO_ERROR_TEXT_MAX bytes are enough for any. Any thread.
 *
 * Returns the length of the text without its NUL.
 *
 * Errors: KOLO_EINVAL if `text` is NULL; KOLO_ENOBUFS if text and NUL do not fit into `capacity`
 * bytes: then nothing is written.
 */
int kolo_error_format(int error, int system, char *text, size_t capacity);

/**
 * The operating system's own number (errno, WSAGetLastError) behind the last error that kolo
 * returned or handed to a callback on this thread; 0 if it was kolo's own error, such as
 * KOLO_EBADF for a closed handle. A call that succeeds leaves it as it is.
 */
int kolo_system_error(void);

/**
 * The version of the library that the program runs with: major << 16 | minor << 8 | patch. To be
 * compared with KOLO_VERSION, the version of the header that it was compiled with: within one
 * major version, a library that is not older serves. Any thread.
 */
uint32_t kolo_version(void);

/** The same as a text: "1.2.3". Static, never NULL. Any thread. */
const char *kolo_version_string(void);

/**
 * What the library that the program runs with was built with: kolo_feature combined with |. The
 * functions of a feature that it lacks are not in it, so a program that can do without one looks
 * them up at run time (dlsym). Any thread.
 */
uint32_t kolo_features(void);

/* The loop =======================================================================================
 *
 * One turn of the loop, in this order:
 *
 * 1. the clock is updated, and timers that are due fire;
 * 2. deferred functions run;
 * 3. idle hooks, then prepare hooks run;
 * 4. the loop waits, unless something is at hand;
 * 5. what came is handed out, then posted functions and wakers run, then what these deferred;
 * 6. check hooks run;
 * 7. the closing callbacks of closed handles run.
 *
 * A loop is alive, and kolo_loop_run goes on, as long as there is an active handle with its
 * reference (see kolo_unref), a handle that is closing, or a deferred or posted function. One turn
 * is bounded, so that no busy connection keeps the others, or timers, from their turn.
 */

/** How long kolo_loop_run runs. */
typedef enum kolo_run_mode {
    /** Until nothing keeps the loop alive, or kolo_loop_stop. */
    KOLO_RUN_DEFAULT = 0,
    /** One turn, which waits until something happens. */
    KOLO_RUN_ONCE = 1,
    /** One turn, which does not wait. */
    KOLO_RUN_NOWAIT = 2,
} kolo_run_mode;

/**
 * The watchdog's report: a callback of `handle` took `elapsed_ns` nanoseconds. `handle` is 0 for
 * a deferred or posted function. It may be closed already.
 */
typedef void (*kolo_slow_cb)(kolo_loop *loop, kolo_handle handle, uint64_t elapsed_ns, void *user);

/**
 * The watchdog's report while a callback of `handle` is still running, after `elapsed_ns` nanoseconds.
 * `handle` is 0 for a deferred or posted function. Called on a thread of kolo's own, for the loop's is
 * the one that is stuck: so nothing may be done with the loop. It can write a log, or end the process.
 */
typedef void (*kolo_stuck_cb)(kolo_handle handle, uint64_t elapsed_ns, void *user);

/** How a loop is made. Begin with KOLO_LOOP_OPTIONS_INIT; a member that is zero means its default. */
typedef struct kolo_loop_options {
    /** sizeof(kolo_loop_options), set by KOLO_LOOP_OPTIONS_INIT. */
    size_t size;
    /**
     * The driver by name, such as "poller" (the system's own interface: epoll, kqueue...),
     * "polling" (the portable one) or "uring" (io_uring, Linux 6.12 and later where nothing
     * forbids it: fewer system calls, which pays with many connections). NULL: what the
     * environment variable KOLO_DRIVER says, or else the best there is. Read during the call.
     */
    const char *driver;
    /**
     * Events handed out in one turn, at most: after so many, timers and closing handles have
     * their turn. Default 1024.
     */
    uint32_t events_per_turn;
    /** Posted functions that may wait, at most; one more gets KOLO_ENOBUFS. Default 65536. */
    uint32_t post_capacity;
    /** The watchdog: callbacks that take longer than this are reported to on_slow. 0: no watchdog. */
    uint64_t slow_callback_ns;
    /** Called right after a callback that took longer returned. Needed with slow_callback_ns. */
    kolo_slow_cb on_slow;
    /** What on_slow gets as its last argument. */
    void *on_slow_user;
    /** Keep the times in kolo_metrics. Costs two readings of the clock for every callback. */
    bool measure_time;
    /**
     * The threads for work, files and names: see kolo_pool_open. 0: a pool of the loop's own, made
     * when it is first needed.
     */
    kolo_pool pool;
    /**
     * The same for a callback that does not return: when one has run for longer than this, on_stuck is
     * called, once, while it runs. Takes a thread for the loop, which looks four times as often as this
     * is long; in a forked child there is none. 0: no such watchdog.
     */
    uint64_t stuck_callback_ns;
    /** Needed with stuck_callback_ns. */
    kolo_stuck_cb on_stuck;
    /** What on_stuck gets as its last argument. */
    void *on_stuck_user;
} kolo_loop_options;

/** What a loop tells of itself: counted since it was made. Begin with KOLO_METRICS_INIT. */
typedef struct kolo_metrics {
    /** sizeof(kolo_metrics), set by KOLO_METRICS_INIT. */
    size_t size;
    /** Turns of the loop. */
    uint64_t turns;
    /** Events that the driver delivered. */
    uint64_t events;
    /** Callbacks that were called. */
    uint64_t callbacks;
    /** Nanoseconds spent waiting. 0 without measure_time. */
    uint64_t idle_ns;
    /** Nanoseconds spent in callbacks. 0 without measure_time or a watchdog. */
    uint64_t callback_ns;
    /** The longest callback in nanoseconds. 0 without measure_time or a watchdog. */
    uint64_t longest_callback_ns;
    /** Handles that exist now, those that are closing included. */
    uint64_t handles;
    /** Posted functions that wait now. */
    uint64_t posts_waiting;
} kolo_metrics;

/**
 * A deferred function. `status` is 0; or KOLO_ECANCELED when the loop is being freed before the
 * function's turn came: then free what `user` points to, and do no more.
 */
typedef void (*kolo_defer_cb)(kolo_loop *loop, int status, void *user);

/** Gets one handle of a walk and its kolo_kind. Any value but 0 ends the walk. */
typedef int (*kolo_walk_cb)(kolo_loop *loop, kolo_handle handle, int kind, void *user);

/**
 * Makes a loop, which belongs to the calling thread until kolo_loop_free or
 * kolo_loop_detach_thread. `options` may be NULL for the defaults.
 *
 * Errors: KOLO_EINVAL if `out` is NULL, if slow_callback_ns is given without on_slow or
 * stuck_callback_ns without on_stuck, or for options of a wrong size; KOLO_EAGAIN if the system gives
 * no thread for stuck_callback_ns; KOLO_EBADF for a pool that was closed; KOLO_ENOTSUP for a driver
 * that this system does not have; the system's when descriptors or memory are short: KOLO_EMFILE,
 * KOLO_ENFILE, KOLO_ENOMEM. Any thread.
 */
int kolo_loop_new(const kolo_loop_options *options,
                  kolo_loop **out);

/**
 * Frees a loop. Everything that is still open is closed first: pending writes and functions hear
 * KOLO_ECANCELED, and all on_close callbacks run, during this call. They may use the loop, except
 * that nothing new can be opened or deferred (KOLO_ECANCELED). Afterwards every call with this
 * pointer returns KOLO_EBADF, as long as no new loop was made at the same address. Remotes of the
 * loop stay valid and answer KOLO_ECANCELED.
 *
 * Errors: KOLO_EBUSY inside a callback of this loop, and for a loop of a group.
 */
int kolo_loop_free(kolo_loop *loop);

/**
 * Runs the loop: makes turns, in which callbacks run, as `mode` (a kolo_run_mode) says.
 *
 * Returns 1 if something still keeps the loop alive, as after kolo_loop_stop, and 0 if nothing
 * does.
 *
 * Errors: KOLO_EINVAL for a mode that there is not; KOLO_EBUSY inside a callback of this loop;
 * the system's, if waiting fails.
 */
int kolo_loop_run(kolo_loop *loop, int mode);

/**
 * Makes kolo_loop_run return after the turn that is running; if none is, the next run returns at
 * once. To stop a loop from another thread, post a function that calls this.
 */
int kolo_loop_stop(kolo_loop *loop);

/** Returns 1 if something keeps the loop alive, else 0. */
int kolo_loop_alive(kolo_loop *loop);

/**
 * The loop's clock: monotonic nanoseconds since an arbitrary point in the past. It is read once a
 * turn and where timers need it, so in a callback that has run for long it is behind: see
 * kolo_loop_update_now.
 */
int kolo_loop_now(kolo_loop *loop, uint64_t *out_ns);

/** Reads the loop's clock anew. */
int kolo_loop_update_now(kolo_loop *loop);

/**
 * For a program that has another loop already: returns a descriptor that becomes readable when
 * this loop has something to do. Then, and after kolo_loop_backend_timeout at the latest, call
 * kolo_loop_run with KOLO_RUN_NOWAIT. The descriptor is kolo's: only wait for it.
 *
 * Errors: KOLO_ENOTSUP where the system has no such descriptor.
 */
int kolo_loop_backend_fd(kolo_loop *loop);

/**
 * How many nanoseconds another loop may wait before it must run this one; -1 for no limit but
 * the descriptor's.
 */
int kolo_loop_backend_timeout(kolo_loop *loop, int64_t *out_ns);

/**
 * Makes the loop usable in the child of a fork, where every other call returns KOLO_EFORKED
 * before this one. The parent is not disturbed. Handles stay as they are, and share their
 * sockets with the parent: close in the child what it does not serve. Fork on the loop's thread
 * and outside of its callbacks: when one that has forked returns in the child, nothing more is
 * called back there, and kolo_loop_run returns KOLO_EFORKED. A child that only calls exec needs
 * nothing of this. In a process that has not forked since it made the loop, nothing happens.
 *
 * Errors: KOLO_EBUSY inside a callback of this loop; the system's when descriptors are short, and
 * then it may be tried again.
 */
int kolo_loop_fork(kolo_loop *loop);

/**
 * The calling thread, to which the loop belongs, gives it up. Until a thread takes it with
 * kolo_loop_attach_thread, every call with it returns KOLO_EWRONGTHREAD. A thread that ends gives
 * up nothing by itself: detach first, or free.
 *
 * Errors: KOLO_EBUSY inside a callback of this loop.
 */
int kolo_loop_detach_thread(kolo_loop *loop);

/**
 * The calling thread takes a loop that belongs to none. What the former thread did before
 * kolo_loop_detach_thread is visible to it.
 *
 * Errors: KOLO_EBUSY if the loop belongs to a thread, also if that is the calling one; with the
 * driver "uring" the system's when descriptors are short, such as KOLO_EMFILE: then the loop
 * still belongs to nobody.
 */
int kolo_loop_attach_thread(kolo_loop *loop);

/** Keeps a pointer with the loop, for the program's own use. NULL at first. */
int kolo_loop_set_user(kolo_loop *loop, void *user);

/** The pointer that kolo_loop_set_user set last. */
int kolo_loop_user(kolo_loop *loop, void **out);

/**
 * The name of the loop's driver: "poller", "polling", "uring". NULL for NULL and for what is not a loop.
 * The text is static. Any thread.
 */
const char *kolo_loop_driver_name(kolo_loop *loop);

/**
 * Fills `out` in with the loop's counters, as far as its `size` says that there is room.
 *
 * Errors: KOLO_EINVAL if `out` is NULL or its size is wrong.
 */
int kolo_loop_metrics(kolo_loop *loop, kolo_metrics *out);

/**
 * Runs a function when this callback has returned, in the next phase of the turn that runs deferred
 * functions (2 or 5 above): those deferred by a deferred function wait for the phase after. They
 * run in order, and keep the loop alive until they ran.
 *
 * Errors: KOLO_EINVAL if `cb` is NULL; KOLO_ECANCELED while the loop is being freed; KOLO_ENOBUFS when
 * 1048576 wait already.
 */
int kolo_loop_defer(kolo_loop *loop,
                    kolo_defer_cb cb,
                    void *user);

/**
 * Calls `cb` for every open handle, in no particular order, during this call. It may close and
 * open handles: those closed meanwhile are left out, and those opened do not show up.
 *
 * Returns 0, or 1 if `cb` ended the walk.
 *
 * Errors: KOLO_EINVAL if `cb` is NULL.
 */
int kolo_loop_walk(kolo_loop *loop, kolo_walk_cb cb, void *user);

/* Any handle =====================================================================================
 *
 * What all handles have in common, whatever their kind.
 */

/** What a handle is. */
typedef enum kolo_kind {
    /** A kolo_timer. */
    KOLO_KIND_TIMER = 1,
    /** A kolo_hook. */
    KOLO_KIND_HOOK = 2,
    /** A kolo_waker. */
    KOLO_KIND_WAKER = 3,
    /** A kolo_signal. */
    KOLO_KIND_SIGNAL = 4,
    /** A kolo_poll. */
    KOLO_KIND_POLL = 5,
    /** A kolo_listener. */
    KOLO_KIND_LISTENER = 6,
    /** A kolo_tcp. */
    KOLO_KIND_TCP = 7,
    /** A kolo_udp. */
    KOLO_KIND_UDP = 8,
    /** A kolo_local. */
    KOLO_KIND_LOCAL = 9,
    /** A kolo_listener of the Unix domain. */
    KOLO_KIND_LOCAL_LISTENER = 10,
    /** A kolo_pipe. */
    KOLO_KIND_PIPE = 11,
    /** A kolo_process. */
    KOLO_KIND_PROCESS = 12,
    /** A kolo_request. */
    KOLO_KIND_REQUEST = 13,
    /** A kolo_file. */
    KOLO_KIND_FILE = 14,
    /** A kolo_watch. */
    KOLO_KIND_WATCH = 15,
    /** A kolo_tty. */
    KOLO_KIND_TTY = 16,
    /** A kolo_directory. */
    KOLO_KIND_DIRECTORY = 17,
} kolo_kind;

/** The handle has closed: nothing more will be heard of it, and what `user` points to may be freed. */
typedef void (*kolo_close_cb)(kolo_loop *loop, kolo_handle handle, void *user);

/**
 * Closes a handle of any kind. It is dead at once: its number is refused from now on, its callback
 * does not come any more, and a descriptor of kolo's is closed. Writes that are still queued are
 * dropped, and complete with KOLO_ECANCELED in the closing phase of this turn (to have them sent
 * first, use kolo_stream_shutdown). Last, in the same phase, its on_close comes, exactly once.
 *
 * May be called anywhere on the loop's thread, also in the handle's own callback.
 *
 * Errors: KOLO_EBADF for a handle that is closed already.
 */
int kolo_close(kolo_loop *loop, kolo_handle handle);

/**
 * Sets the function that is called when the handle has closed, in place of the one that was set
 * before; NULL for none. For streams, listeners and UDP sockets it comes after the on_close of their
 * handler table.
 */
int kolo_on_close(kolo_loop *loop,
                  kolo_handle handle,
                  kolo_close_cb cb,
                  void *user);

/**
 * The handle keeps the loop alive while it is active: as every handle does at first. A switch,
 * not a count.
 */
int kolo_ref(kolo_loop *loop, kolo_handle handle);

/**
 * The handle works on, but no longer keeps the loop alive: for a signal or a timer of
 * housekeeping that should not keep the program from ending.
 */
int kolo_unref(kolo_loop *loop, kolo_handle handle);

/** Returns 1 if the handle keeps the loop alive while it is active, else 0. */
int kolo_has_ref(kolo_loop *loop, kolo_handle handle);

/**
 * Returns 1 if something can still happen on the handle by itself, else 0: a timer, a hook, a
 * signal or a poll is started, a waker is open, a listener is not paused, a stream connects,
 * reads or has writes queued, a UDP socket receives or has datagrams queued.
 */
int kolo_is_active(kolo_loop *loop, kolo_handle handle);

/** Returns what the handle is: a kolo_kind. */
int kolo_kind_of(kolo_loop *loop, kolo_handle handle);

/**
 * Writes one line about the handle, for a person to read in a log or a debugger: its kind, its
 * state, its descriptor. The words may change from version to version. The text is cut to fit
 * into `capacity` bytes, and ends with a NUL if `capacity` is not 0.
 *
 * Returns the length of the whole line without its NUL: if that is `capacity` or more, it was cut.
 *
 * Errors: KOLO_EINVAL if `text` is NULL and `capacity` is not 0.
 */
int kolo_describe(kolo_loop *loop, kolo_handle handle, char *text, size_t capacity);

/* Timers =========================================================================================
 *
 * A timer calls a function once, or again and again, when its time has come. It never fires early.
 * Timers that are due fire in the order of their deadlines, and those with the same deadline in
 * the order in which they were started. Starting, stopping and starting anew take constant time,
 * however many timers there are.
 *
 * A delay counts from the call, or at least from a reading of the clock that is no older than the
 * callback in which the call is made. A timer that is started with no delay
 * fires the next time that timers are looked at, never in the phase that is running.
 */

/** A timer's time has come. It may be stopped, started anew or closed here. */
typedef void (*kolo_timer_cb)(kolo_loop *loop, kolo_timer timer, void *user);

/**
 * Makes a timer, which does not run yet. It stays open until kolo_close, however often it fires.
 *
 * Errors: KOLO_EINVAL if `cb` or `out` is NULL; KOLO_ENOBUFS if the loop holds as many handles as
 * it can (16 million); KOLO_ECANCELED while the loop is being freed.
 */
int kolo_timer_open(kolo_loop *loop, kolo_timer_cb cb, void *user, kolo_timer *out);

/**
 * Has the timer fire after `delay_ns` nanoseconds and, unless `period_ns` is 0, every `period_ns`
 * nanoseconds after that. A timer that runs is started anew.
 *
 * A repeating timer keeps its phase: its deadlines are the first one plus multiples of the period.
 * Periods that pass while the loop is busy are not made up for: the callback comes once, and
 * kolo_timer_overrun tells how many were skipped.
 */
int kolo_timer_start(kolo_loop *loop, kolo_timer timer, uint64_t delay_ns, uint64_t period_ns);

/** Stops the timer. One that does not run stays as it is, and that is no error. */
int kolo_timer_stop(kolo_loop *loop, kolo_timer timer);

/**
 * Starts a repeating timer anew, with its period as the delay, whether it runs or not: for an idle
 * timeout that is put off again and again.
 *
 * Errors: KOLO_EINVAL if the timer was not started with a period last.
 */
int kolo_timer_again(kolo_loop *loop, kolo_timer timer);

/**
 * The nanoseconds until the timer fires, by the loop's clock (kolo_loop_now); 0 if it is due.
 *
 * Errors: KOLO_EINVAL if `out_ns` is NULL; KOLO_ENOENT if the timer does not run.
 */
int kolo_timer_remaining(kolo_loop *loop, kolo_timer timer, uint64_t *out_ns);

/**
 * How many periods of a repeating timer were skipped right before its last callback, because the
 * loop was busy.
 *
 * Errors: KOLO_EINVAL if `out_count` is NULL.
 */
int kolo_timer_overrun(kolo_loop *loop, kolo_timer timer, uint64_t *out_count);

/* Hooks ==========================================================================================
 *
 * A hook is a function that runs once in every turn while it is started. Hooks of a kind run in
 * the order in which they were started; one that is started by a hook of its kind runs from the
 * next turn on.
 */

/** Where in the turn a hook runs. */
typedef enum kolo_hook_kind {
    /**
     * Before the prepare hooks. While one is started the loop does not wait, so that it can do a
     * piece of work in each turn.
     */
    KOLO_HOOK_IDLE = 1,
    /** Right before the loop waits. */
    KOLO_HOOK_PREPARE = 2,
    /** After the wait and all that it brought. */
    KOLO_HOOK_CHECK = 3,
} kolo_hook_kind;

/** A hook's place in the turn has come. */
typedef void (*kolo_hook_cb)(kolo_loop *loop, kolo_hook hook, void *user);

/**
 * Makes a hook of a kind (a kolo_hook_kind), which is not started yet.
 *
 * Errors: KOLO_EINVAL if `cb` or `out` is NULL, or for a kind that there is not; KOLO_ENOBUFS if
 * the loop holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_hook_open(kolo_loop *loop, int kind, kolo_hook_cb cb, void *user, kolo_hook *out);

/** Starts the hook; one that is started keeps its place. */
int kolo_hook_start(kolo_loop *loop, kolo_hook hook);

/** Stops the hook, also if its turn in this phase was still to come. */
int kolo_hook_stop(kolo_loop *loop, kolo_hook hook);

/* Other threads ==================================================================================
 *
 * Another thread never touches the loop. It holds a remote, with which it posts functions that run
 * on the loop's thread, and wakes the loop. The functions here that take a kolo_remote, and no
 * others that take anything of a loop's, may be called from any thread.
 */

/**
 * A posted function, which runs on the loop's thread. `status` is 0; or KOLO_ECANCELED when the
 * loop is being freed before the function's turn came: then free what `user` points to, and do no
 * more.
 */
typedef void (*kolo_post_cb)(kolo_loop *loop, int status, void *user);

/** A waker was woken, by one kolo_remote_wake or many. */
typedef void (*kolo_waker_cb)(kolo_loop *loop, kolo_waker waker, void *user);

/**
 * Makes a remote of the loop, to be handed to other threads. The caller holds one reference, and
 * lets it go with kolo_remote_release.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOBUFS if the process holds 65536 remotes.
 */
int kolo_loop_remote(kolo_loop *loop, kolo_remote **out);

/**
 * Adds a reference to a remote. Any thread that holds one.
 *
 * Errors: KOLO_EINVAL for NULL; KOLO_EBADF for one that was released; KOLO_EOVERFLOW for more than
 * UINT32_MAX references.
 */
int kolo_remote_retain(kolo_remote *remote);

/**
 * Lets go of a reference; with the last one the remote is freed, and every call with the pointer
 * returns KOLO_EBADF. Any thread that holds one. May come before or after the loop is freed.
 *
 * Errors: KOLO_EINVAL for NULL; KOLO_EBADF for one that was released.
 */
int kolo_remote_release(kolo_remote *remote);

/**
 * Runs a function on the loop's thread, in its next turn, and ends the loop's wait. Functions
 * that one thread posts run in the order in which it posts them; every one runs. What the thread
 * did before is visible to the function. A function that waits keeps the loop alive.
 *
 * When the loop is freed first, the function is called from kolo_loop_free with KOLO_ECANCELED. So
 * after a post that returned 0 the function is called exactly once. Any thread.
 *
 * Errors: KOLO_EINVAL if `remote` or `cb` is NULL; KOLO_EBADF for a remote that was released;
 * KOLO_ENOBUFS if as many wait as the loop's post_capacity; KOLO_ECANCELED if the loop is gone. Then
 * the function is not called.
 */
int kolo_remote_post(kolo_remote *remote,
                     kolo_post_cb cb,
                     void *user);

/**
 * Ends the loop's wait; if the remote is a waker's, its callback runs. Wakes that come before the
 * loop has looked are one: what each of the threads did before is visible to the callback. Costs a
 * few nanoseconds when another wake is on its way already. Any thread.
 *
 * Errors: KOLO_EINVAL for NULL; KOLO_EBADF for a remote that was released; KOLO_ECANCELED if the loop
 * is gone or the waker is closed.
 */
int kolo_remote_wake(kolo_remote *remote);

/**
 * Makes a waker: a callback that other threads trigger. It is active until it is closed: to have
 * it not keep the loop alive, use kolo_unref.
 *
 * Errors: KOLO_EINVAL if `cb` or `out` is NULL; KOLO_ENOBUFS if the loop holds as many handles as
 * it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_waker_open(kolo_loop *loop, kolo_waker_cb cb, void *user, kolo_waker *out);

/**
 * Makes a remote whose kolo_remote_wake triggers the waker; functions are posted to the loop as
 * with any remote. The caller holds one reference, and lets it go with kolo_remote_release.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOBUFS if the process holds 65536 remotes.
 */
int kolo_waker_remote(kolo_loop *loop, kolo_waker waker, kolo_remote **out);

/* Work on other threads ==========================================================================
 *
 * A loop has a pool of threads for what would block it: computations, files, names.
 * kolo_work_submit has a function run on one of them, and another one on the loop when it is done.
 * Each class of work has threads and a queue of its own, so that slow names never keep files
 * waiting. Threads are started when they are needed, and end when they were idle for a while.
 *
 * What is under way is a request: a handle that ends by itself. Its callback comes exactly once;
 * when it comes, the number is dead. kolo_request_cancel takes back what has not begun. kolo_close
 * works as on every handle: the callback comes with KOLO_ECANCELED, as soon as no thread is at the
 * work any more.
 */

/** What kind of work it is. Each class has threads of its own. */
typedef enum kolo_work_class {
    /** Keeps a processor busy. */
    KOLO_WORK_COMPUTE = 0,
    /** Waits for disks. kolo's own files are here. */
    KOLO_WORK_FILES = 1,
    /** Waits for who knows how long, such as for another machine. kolo's own names are here. */
    KOLO_WORK_SLOW = 2,
} kolo_work_class;

/** How a pool is made. Begin with KOLO_POOL_OPTIONS_INIT; a member that is zero means its default. */
typedef struct kolo_pool_options {
    /** sizeof(kolo_pool_options), set by KOLO_POOL_OPTIONS_INIT. */
    size_t size;
    /** Threads of KOLO_WORK_COMPUTE, at most. Default: as many as processors are to be had. */
    uint32_t compute_threads;
    /** Threads of KOLO_WORK_FILES, at most. Default 4. */
    uint32_t file_threads;
    /** Threads of KOLO_WORK_SLOW, at most. Default 4. */
    uint32_t slow_threads;
    /**
     * Pieces of work of one class that may wait, at most; one more gets KOLO_ENOBUFS. Default
     * 65536.
     */
    uint32_t queue_capacity;
    /** How long a thread waits for work before it ends. Default 10 seconds. */
    uint64_t idle_ns;
    /** The size of each thread's stack in bytes. Default 2 MiB. */
    size_t stack_size;
} kolo_pool_options;

/** Work, on a pool's thread. It must not touch the loop; with a kolo_remote it can post to it. */
typedef void (*kolo_work_cb)(void *user);

/** Work is done. `status` is 0; or KOLO_ECANCELED when it was taken back, or the request closed. */
typedef void (*kolo_work_done_cb)(kolo_loop *loop, kolo_request request, int status, void *user);

/**
 * Makes a pool that loops can share: see kolo_loop_options. No thread is started yet. `options`
 * may be NULL for the defaults. Any thread.
 *
 * Errors: KOLO_EINVAL if `out` is NULL, and for options of a wrong size.
 */
int kolo_pool_open(const kolo_pool_options *options, kolo_pool *out);

/**
 * Lets go of a pool: its number is dead. Loops that have it keep it; with the last of them, or at
 * once if there is none, its threads end, and that waits for the work that they have begun, except
 * for names being looked up. Any thread, but not one of the pool's.
 *
 * Errors: KOLO_EBADF for a pool that was closed already.
 */
int kolo_pool_close(kolo_pool pool);

/**
 * Has `work` called on a thread of the loop's pool, and then `done` on the loop's thread, both
 * with `user`. `work_class` is a kolo_work_class. What `user` points to is the work's until `done`
 * comes.
 *
 * `done` comes exactly once, never before this returns: also when the work was taken back, and
 * when the loop is freed, which takes back what has not begun and waits for what has. `out` may be
 * NULL.
 *
 * Errors: KOLO_EINVAL if `work` or `done` is NULL, and for a class that there is not; KOLO_ENOBUFS
 * if as much work waits as may, or the loop holds as many handles as it can; KOLO_EAGAIN if the
 * system gives no thread; KOLO_ECANCELED while the loop is being freed. Then neither function is
 * called.
 */
int kolo_work_submit(kolo_loop *loop,
                     int work_class,
                     kolo_work_cb work,
                     kolo_work_done_cb done,
                     void *user,
                     kolo_request *out);

/**
 * Takes back what has not begun: the request's callback comes with KOLO_ECANCELED. A name that is
 * being looked up is given up also when a thread is at it.
 *
 * Errors: KOLO_EBUSY if a thread or the kernel has begun it, or it is over: the callback tells what
 * came of it. KOLO_EBADF when that was told.
 */
int kolo_request_cancel(kolo_loop *loop, kolo_request request);

/* Signals ========================================================================================
 *
 * A signal handle calls a function on the loop when the process gets a signal, outside of the
 * system's signal handler, so that it may do anything. Any number of handles, in any number of
 * loops and threads, may watch the same signal: each hears of it. When the last one stops, what
 * the signal did before is put back. Not to be had on Windows (KOLO_ENOTSUP).
 */

/** The process got signal `number`. Several that come close together may be one callback. */
typedef void (*kolo_signal_cb)(kolo_loop *loop, kolo_signal signal, int number, void *user);

/**
 * Makes a signal handle, which watches nothing yet.
 *
 * Errors: KOLO_EINVAL if `cb` or `out` is NULL; KOLO_ENOBUFS if the loop holds as many handles as
 * it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_signal_open(kolo_loop *loop, kolo_signal_cb cb, void *user, kolo_signal *out);

/**
 * Watches for a signal (SIGINT, SIGTERM, SIGHUP...), in place of the one that was watched before.
 *
 * Errors: KOLO_EINVAL for a number that is no signal, that cannot be caught (SIGKILL, SIGSTOP), or
 * that says that an instruction of the thread failed (SIGSEGV, SIGBUS, SIGFPE, SIGILL);
 * KOLO_ENOBUFS if more than 256 loops watch signals; KOLO_EMFILE if descriptors are short;
 * KOLO_ENOTSUP on a system without signals.
 */
int kolo_signal_start(kolo_loop *loop, kolo_signal signal, int number);

/**
 * Watches no more. A signal that came and was not told yet is not told any more. Stopped already:
 * that is no error.
 */
int kolo_signal_stop(kolo_loop *loop, kolo_signal signal);

/* Foreign descriptors ============================================================================
 *
 * A poll handle watches a descriptor that somebody else reads and writes, such as another library's
 * (libcurl, libpq, c-ares). It is level-triggered: the callback comes in every turn for as long as
 * the descriptor is ready. On Windows only sockets can be watched.
 */

/** What a descriptor is watched for, and found to be; to be combined with |. */
typedef enum kolo_poll_event {
    /** Reading would not block: there is something, or the end, or an error. */
    KOLO_POLL_READABLE = 1,
    /** Writing would not block: there is room, or an error. */
    KOLO_POLL_WRITABLE = 2,
    /**
     * The peer closed its writing side, or the connection broke. A hint: not every system and not
     * every kind of descriptor tells.
     */
    KOLO_POLL_DISCONNECT = 4,
    /** Urgent data can be read (TCP's out-of-band byte). */
    KOLO_POLL_PRIORITY = 8,
} kolo_poll_event;

/**
 * The descriptor is ready for `events` (of kolo_poll_event), and `status` is 0; or watching failed
 * with the error `status`, and `events` is 0. It may come without reason now and then, so what is
 * called on the descriptor must not block.
 */
typedef void (*kolo_poll_cb)(kolo_loop *loop,
                             kolo_poll poll,
                             int status,
                             uint32_t events,
                             void *user);

/**
 * Makes a handle for a descriptor, which is not watched yet. The descriptor stays the caller's:
 * kolo never reads, writes or closes it. Stop or close the handle before the descriptor is closed.
 *
 * Any number of handles may name one descriptor, of which one in each loop can be started. A descriptor
 * that another handle of kolo's has (see kolo_socket) cannot be watched beside it, but a duplicate of
 * it can. Nor should what is being watched be adopted before the poll is closed: the drivers "poller"
 * and "polling" refuse the second registration, with KOLO_EEXIST.
 *
 * Errors: KOLO_EINVAL if `cb` or `out` is NULL; KOLO_EBADF for a descriptor that is not open;
 * KOLO_EEXIST for one that another handle of kolo's has, of whatever loop; KOLO_ENOBUFS if the loop
 * holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_poll_open(kolo_loop *loop,
                   kolo_socket descriptor,
                   kolo_poll_cb cb,
                   void *user,
                   kolo_poll *out);

/**
 * Watches for `events` (of kolo_poll_event), in place of those that were watched for before.
 *
 * Errors: KOLO_EINVAL for no events and for unknown ones; KOLO_EEXIST if another started handle of
 * this loop watches the same descriptor; KOLO_EPERM for a kind of descriptor that cannot be
 * watched, such as a regular file's; KOLO_EBADF also for a descriptor that is closed.
 */
int kolo_poll_start(kolo_loop *loop, kolo_poll poll, uint32_t events);

/**
 * Watches no more: what this turn found already is not told either. Stopped already: that is no
 * error.
 */
int kolo_poll_stop(kolo_loop *loop, kolo_poll poll);

/* Addresses ======================================================================================
 *
 * An internet address with a port. The functions here take no loop, and may be called from any
 * thread.
 */

/** The family of an address. */
typedef enum kolo_family {
    /** No address. */
    KOLO_FAMILY_NONE = 0,
    /** IPv4. */
    KOLO_FAMILY_IPV4 = 4,
    /** IPv6. */
    KOLO_FAMILY_IPV6 = 6,
} kolo_family;

/** Limits of texts. */
typedef enum kolo_limit {
    /** Bytes that hold every address as kolo_address_format writes it, with its NUL. */
    KOLO_ADDRESS_TEXT_MAX = 80,
    /** Bytes that hold every error as kolo_error_format writes it, with its NUL. */
    KOLO_ERROR_TEXT_MAX = 256,
} kolo_limit;

/** An address and a port. This struct never changes. */
typedef struct kolo_address {
    /** A kolo_family. */
    uint16_t family;
    /** In the processor's own byte order: 80 is 80. */
    uint16_t port;
    /** IPv6: the flow information, as the system has it in sin6_flowinfo. Else 0. */
    uint32_t flow;
    /**
     * IPv6: the number of the interface, for addresses that only mean something on one link
     * (fe80::...). Else 0.
     */
    uint32_t scope;
    /** In network byte order, as it is read. IPv4: the first 4; the others are 0. */
    uint8_t ip[16];
} kolo_address;

/**
 * Reads a numeric address: "127.0.0.1", "::1", "fe80::1%eth0" or "fe80::1%2". Names of hosts are
 * not looked up.
 *
 * Errors: KOLO_EINVAL for anything else, and if `host` or `out` is NULL.
 */
int kolo_address_parse(const char *host, uint16_t port, kolo_address *out);

/**
 * Reads a numeric address with its port: "127.0.0.1:80", "[::1]:80", "[fe80::1%eth0]:80". Where
 * the port is missing ("127.0.0.1", "::1", "[::1]") it is `default_port`. Names are not looked up,
 * neither of hosts nor of services.
 *
 * Errors: KOLO_EINVAL for anything else, and if `endpoint` or `out` is NULL.
 */
int kolo_address_parse_endpoint(const char *endpoint,
                                uint16_t default_port,
                                kolo_address *out);

/**
 * Writes an address with its port: "127.0.0.1:80", "[::1]:80", "[fe80::1%2]:80".
 * KOLO_ADDRESS_TEXT_MAX bytes are enough for any.
 *
 * Returns the length of the text without its NUL.
 *
 * Errors: KOLO_EINVAL if `address` or `text` is NULL, or if the family is none; KOLO_ENOBUFS if
 * text and NUL do not fit into `capacity` bytes: then nothing is written.
 */
int kolo_address_format(const kolo_address *address, char *text, size_t capacity);

/**
 * Writes an address without its port: "127.0.0.1", "::1", "fe80::1%2". KOLO_ADDRESS_TEXT_MAX bytes
 * are enough for any.
 *
 * Returns the length of the text without its NUL.
 *
 * Errors: as kolo_address_format.
 */
int kolo_address_format_ip(const kolo_address *address, char *text, size_t capacity);

/**
 * Whether two addresses are the same: family, address, port and scope. The flow information does
 * not count, nor is an IPv4-mapped address the same as the IPv4 address it stands for (see
 * kolo_address_unmap).
 *
 * Returns 1 if they are, 0 if not.
 *
 * Errors: KOLO_EINVAL if a pointer is NULL or a family is none.
 */
int kolo_address_equal(const kolo_address *one, const kolo_address *other);

/**
 * Puts two addresses in an order, for sorting and for maps: IPv4 before IPv6, then by the bytes of
 * the address, the scope, the port. `out` gets -1 if the first comes first, 1 if the second does, 0
 * if they are equal as kolo_address_equal has it.
 *
 * Errors: KOLO_EINVAL if a pointer is NULL or a family is none.
 */
int kolo_address_compare(const kolo_address *one,
                         const kolo_address *other,
                         int *out);

/**
 * Whether this machine itself is meant: 127.0.0.0/8 or ::1, or the former mapped (::ffff:127.0.0.1).
 *
 * Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
 */
int kolo_address_is_loopback(const kolo_address *address);

/**
 * Whether it is 0.0.0.0 or :: (to listen on: every address of the machine), or the former mapped.
 *
 * Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
 */
int kolo_address_is_unspecified(const kolo_address *address);

/**
 * Whether it is a group's address: 224.0.0.0/4 or ff00::/8, or the former mapped.
 *
 * Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
 */
int kolo_address_is_multicast(const kolo_address *address);

/**
 * Whether it only means something on one link: 169.254.0.0/16 or fe80::/10, or the former mapped.
 * Of such an IPv6 address the scope says on which.
 *
 * Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
 */
int kolo_address_is_link_local(const kolo_address *address);

/**
 * Whether it is an IPv4-mapped IPv6 address (::ffff:192.0.2.1, RFC 4291 2.5.5.2): what a listener
 * for both families sees of an IPv4 client.
 *
 * Returns 1 or 0. Errors: KOLO_EINVAL if `address` is NULL or its family none.
 */
int kolo_address_is_v4_mapped(const kolo_address *address);

/**
 * Turns an IPv4-mapped address into the IPv4 address it stands for, with the same port; any other
 * into itself. `out` may be `address`.
 *
 * Errors: KOLO_EINVAL if a pointer is NULL or the family is none.
 */
int kolo_address_unmap(const kolo_address *address, kolo_address *out);

/**
 * Takes an address from the system's struct sockaddr_in or sockaddr_in6 of `length` bytes, which
 * need not be aligned.
 *
 * Errors: KOLO_EINVAL if `sockaddr` or `out` is NULL, or if `length` is too small for the family;
 * KOLO_EAFNOSUPPORT for another family.
 */
int kolo_address_from_sockaddr(const void *sockaddr, size_t length, kolo_address *out);

/**
 * Writes an address as the system's struct sockaddr_in or sockaddr_in6, which need not be aligned.
 * The system's struct sockaddr_storage has room for every address.
 *
 * Returns how many bytes were written.
 *
 * Errors: KOLO_EINVAL if `address` or `sockaddr` is NULL, or if the family is none; KOLO_ENOBUFS
 * if it does not fit into `capacity` bytes.
 */
int kolo_address_to_sockaddr(const kolo_address *address, void *sockaddr, size_t capacity);

/* The system =====================================================================================
 *
 * Clocks, random bytes, names, memory, processors, interfaces to networks: what programs and
 * bindings ask of the system besides events. Nothing here needs a loop, and every function may be
 * called from any thread.
 *
 * Texts and lists go into memory of the caller's. Where it is too small the answer is KOLO_ENOBUFS,
 * nothing is written there, and `needed` says how much it takes: so a call with a capacity of 0
 * asks for the size. `needed` is written on success, too, and may be NULL.
 */

/** What an interface is, and whether it works; combined with |. */
typedef enum kolo_interface_flag {
    /** Switched on. */
    KOLO_INTERFACE_UP = 1,
    /** Ready to carry packets: what it is plugged into works, too. */
    KOLO_INTERFACE_RUNNING = 2,
    /** Leads back to this machine. */
    KOLO_INTERFACE_LOOPBACK = 4,
    /** Reaches all of its network at once. */
    KOLO_INTERFACE_BROADCAST = 8,
    /** Reaches groups. */
    KOLO_INTERFACE_MULTICAST = 16,
    /** Leads to one other machine, as tunnels do. */
    KOLO_INTERFACE_POINT_TO_POINT = 32,
} kolo_interface_flag;

/** What a descriptor is: see kolo_guess_kind. */
typedef enum kolo_descriptor_kind {
    /** Something else: a raw socket, an event descriptor. */
    KOLO_DESCRIPTOR_UNKNOWN = 0,
    /** A regular file. */
    KOLO_DESCRIPTOR_FILE = 1,
    /** A folder. */
    KOLO_DESCRIPTOR_DIRECTORY = 2,
    /** A terminal: kolo_tty_open. */
    KOLO_DESCRIPTOR_TTY = 3,
    /** A pipe, named or not. */
    KOLO_DESCRIPTOR_PIPE = 4,
    /** A TCP connection, or a socket that is to become one. */
    KOLO_DESCRIPTOR_TCP = 5,
    /** A socket that listens for TCP connections. */
    KOLO_DESCRIPTOR_TCP_LISTENER = 6,
    /** A UDP socket. */
    KOLO_DESCRIPTOR_UDP = 7,
    /** A Unix-domain stream socket. */
    KOLO_DESCRIPTOR_LOCAL = 8,
    /** A socket that listens for Unix-domain streams. */
    KOLO_DESCRIPTOR_LOCAL_LISTENER = 9,
    /** A Unix-domain datagram socket. */
    KOLO_DESCRIPTOR_LOCAL_DATAGRAM = 10,
    /** A device that is no terminal, such as /dev/null or a disk. */
    KOLO_DESCRIPTOR_DEVICE = 11,
} kolo_descriptor_kind;

/**
 * What the operating system is, as uname(2) has it; every text ends with a NUL. This struct never
 * changes.
 */
typedef struct kolo_operating_system {
    /** "Linux". */
    char name[256];
    /** "6.1.0-18-amd64". */
    char release[256];
    /** "#1 SMP PREEMPT_DYNAMIC Debian 6.1.76-1". */
    char version[256];
    /** The kind of processor: "x86_64". */
    char machine[256];
} kolo_operating_system;

/**
 * One processor, and what it did since the system started, in nanoseconds. This struct never
 * changes.
 */
typedef struct kolo_processor {
    /** What it is called, ending with a NUL; empty if the system does not say. */
    char model[96];
    /** Its number. */
    uint32_t number;
    /** Its speed now, in millions of steps a second; 0 if the system does not say. */
    uint32_t mhz;
    /** Time in programs. */
    uint64_t user_ns;
    /** Time in programs of low priority. */
    uint64_t nice_ns;
    /** Time in the kernel. */
    uint64_t system_ns;
    /** Time without work, waiting for disks included. */
    uint64_t idle_ns;
    /** Time in interrupts. */
    uint64_t interrupts_ns;
    /** Zeros. */
    uint64_t reserved[3];
} kolo_processor;

/** One address of an interface, or an interface that has none. This struct never changes. */
typedef struct kolo_interface {
    /** "eth0", ending with a NUL. */
    char name[64];
    /** The number that scopes of addresses refer to. */
    uint32_t index;
    /** Of kolo_interface_flag. */
    uint32_t flags;
    /** The address, its port 0; of family KOLO_FAMILY_NONE if the interface has none. */
    kolo_address address;
    /** The mask of the address' network: 255.255.255.0. Of family KOLO_FAMILY_NONE if there is none. */
    kolo_address netmask;
    /** How many bits of the address are its network's: 24 for 255.255.255.0. */
    uint32_t prefix_length;
    /** The hardware's address; zeros if it has none of six bytes. */
    uint8_t mac[6];
    /** Zeros. */
    uint8_t reserved[22];
} kolo_interface;

/**
 * The monotonic clock in nanoseconds, read now: the clock of kolo_loop_now and of timers. It never
 * goes back and does not jump when somebody sets the time of day. Its numbers mean nothing outside
 * this boot of the machine.
 */
uint64_t kolo_clock_monotonic(void);

/**
 * The time of day: nanoseconds since 1970-01-01 00:00 UTC, negative before it. It jumps when
 * somebody sets it. As in POSIX every day has 86400 seconds: a leap second repeats the second
 * before it, or the system stretches the seconds around it, as it is set up. The numbers reach to
 * the year 2262.
 */
int64_t kolo_clock_wall(void);

/**
 * Fills `length` bytes at `memory` from the system's generator of random bytes (getrandom(2) and
 * its like), fit for keys: all of them, never fewer. A forked child gets other bytes than its
 * parent. Soon after the boot of the machine it may wait until the system has gathered enough
 * chance. `length` may be 0.
 *
 * Errors: KOLO_EINVAL if `memory` is NULL; those of a system without a generator or that hides
 * it (KOLO_ENOSYS, KOLO_ENOENT, KOLO_EPERM): then what stands at `memory` is not to be used.
 */
int kolo_random(void *memory, size_t length);

/**
 * The name of this machine, as it calls itself (gethostname(2)). 256 bytes are enough for any.
 *
 * Returns the length of the text without its NUL.
 *
 * Errors: KOLO_ENOBUFS if text and NUL do not fit into `capacity` bytes; KOLO_EINVAL if `text` is
 * NULL and `capacity` is not 0.
 */
int kolo_hostname(char *text, size_t capacity, size_t *needed);

/**
 * What the operating system is.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP on Windows.
 */
int kolo_uname(kolo_operating_system *out);

/**
 * How long the machine has been up, in nanoseconds; time asleep counts where the system counts it
 * (on Linux).
 *
 * Errors: KOLO_EINVAL if `out_ns` is NULL; KOLO_ENOTSUP on Windows.
 */
int kolo_uptime(uint64_t *out_ns);

/**
 * How many threads wanted to run on average, over the last minute, five minutes and a quarter of
 * an hour (getloadavg(3)): three numbers at `out`.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP where the system does not count that, as on
 * Windows.
 */
int kolo_load_average(double *out);

/**
 * The bytes of memory that this process has now (its resident set).
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP elsewhere than on Linux.
 */
int kolo_resident_memory(uint64_t *out);

/**
 * The memory of the machine in bytes, whatever a control group leaves of it to this process: see
 * kolo_memory_limit.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP on Windows.
 */
int kolo_total_memory(uint64_t *out);

/**
 * The bytes of memory that can be had without swapping: what the machine has left, or what the
 * control group leaves, whichever is less. An estimate.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP elsewhere than on Linux.
 */
int kolo_available_memory(uint64_t *out);

/**
 * The bytes that the control group of this process (cgroups(7), version 1 or 2) lets it have: the
 * narrowest limit of its group and those around it, as containers set them. 0 if there is none
 * below the memory of the machine.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP on Windows.
 */
int kolo_memory_limit(uint64_t *out);

/**
 * How many threads this process can have running at once: the processors that it may use
 * (sched_setaffinity(2)) within the share of them that its control group gives. At least 1; never
 * fails. What a pool of threads is made as large as.
 */
uint32_t kolo_available_parallelism(void);

/**
 * The processors that are switched on, by their numbers, into `list` of `capacity` elements. How
 * many of them this process may use, kolo_available_parallelism says.
 *
 * Returns how many were written.
 *
 * Errors: KOLO_ENOBUFS if there are more than `capacity`; KOLO_EINVAL if `list` is NULL and
 * `capacity` is not 0; KOLO_ENOTSUP elsewhere than on Linux.
 */
int kolo_processors(kolo_processor *list, size_t capacity, size_t *needed);

/**
 * The interfaces of the machine to its networks, into `list` of `capacity` elements: each once for
 * every address that it has, and once without one if it has none, also those that are down.
 * Interfaces come and go, so the count of one call may be too small for the next: try again.
 *
 * Returns how many were written.
 *
 * Errors: KOLO_ENOBUFS if there are more than `capacity`; KOLO_EINVAL if `list` is NULL and
 * `capacity` is not 0; KOLO_ENOTSUP on Windows; those of the system.
 */
int kolo_interfaces(kolo_interface *list, size_t capacity, size_t *needed);

/**
 * What a descriptor is (of kolo_descriptor_kind), so that the right thing can be opened on it: a
 * program's standard streams may be terminals, pipes, files or sockets.
 *
 * Errors: KOLO_EBADF for one that is not open; KOLO_ENOTSUP on Windows.
 */
int kolo_guess_kind(kolo_socket descriptor);

/**
 * The user's home: $HOME (%USERPROFILE% on Windows), or what the system has on file for the user.
 * As getenv(3), not to be called while another thread changes the environment.
 *
 * Returns the length of the path without its NUL.
 *
 * Errors: KOLO_ENOENT if there is none; KOLO_ENOBUFS if path and NUL do not fit into `capacity`
 * bytes; KOLO_EINVAL if `path` is NULL and `capacity` is not 0.
 */
int kolo_home_directory(char *path, size_t capacity, size_t *needed);

/**
 * Where files go that nobody will miss: $TMPDIR, or /tmp (on Windows as GetTempPath2 says),
 * without a slash at the end. It need not exist, and everybody may write there: make files in it
 * under names that nobody can guess. As getenv(3), not to be called while another thread changes
 * the environment.
 *
 * Returns the length of the path without its NUL.
 *
 * Errors: KOLO_ENOBUFS if path and NUL do not fit into `capacity` bytes; KOLO_EINVAL if `path` is
 * NULL and `capacity` is not 0.
 */
int kolo_temporary_directory(char *path, size_t capacity, size_t *needed);

/**
 * The path of the program that is running. On Linux " (deleted)" follows when its file is gone
 * (proc_pid_exe(5)).
 *
 * Returns the length of the path without its NUL.
 *
 * Errors: KOLO_ENOBUFS if path and NUL do not fit into `capacity` bytes; KOLO_EINVAL if `path` is
 * NULL and `capacity` is not 0; those of the system, such as KOLO_ENOENT where /proc is not mounted.
 */
int kolo_executable_path(char *path,
                         size_t capacity,
                         size_t *needed);

/* Streams ========================================================================================
 *
 * A stream carries bytes in both directions, whatever is below: a TCP connection, a Unix-domain
 * socket; or in one, such as a pipe's end. What it does is given once, by a table of callbacks.
 *
 * Writing never blocks and never takes a part: what the system does not take at once is queued, and
 * small writes that one callback makes are sent together when it returns. The queue has a high
 * watermark, at which writes return 1 (pause), a low one, at which on_drain comes (go on), and a
 * hard bound. A connection that breaks is told once, by on_error.
 */

/** Which of a stream's timeouts ran out. */
typedef enum kolo_timeout {
    /** Nothing was received for so long, while reading. */
    KOLO_TIMEOUT_READ = 1,
    /** The peer took nothing for so long, while writes were queued. */
    KOLO_TIMEOUT_WRITE = 2,
} kolo_timeout;

/** A piece of memory. */
typedef struct kolo_buffer {
    /** Where it begins. May be NULL if `len` is 0. */
    void *base;
    /** How many bytes it has. */
    size_t len;
} kolo_buffer;

/**
 * What a stream does: a table of callbacks, copied during the call that takes it, so that one table
 * may serve any number of streams. Begin with KOLO_STREAM_HANDLER_INIT; any callback may be NULL.
 * Each may call anything, and also close its own stream.
 */
typedef struct kolo_stream_handler {
    /** sizeof(kolo_stream_handler), set by KOLO_STREAM_HANDLER_INIT. */
    size_t size;
    /** The connection is made. Not for streams that were accepted or adopted, which are open. */
    void (*on_open)(kolo_loop *loop, kolo_stream stream, void *user);
    /**
     * Bytes came. They are kolo's, and only there during the callback; or they are in the memory
     * that on_buffer gave. A stream whose table has on_data reads from the start; without, what
     * comes waits in the system's buffer.
     */
    void (*on_data)(kolo_loop *loop,
                    kolo_stream stream,
                    const uint8_t *data,
                    size_t length,
                    void *user);
    /**
     * The peer ended its side (half-close): nothing more will be received. Writing goes on, until
     * the program closes the stream. NULL: what is queued is still sent, then the stream closes.
     */
    void (*on_end)(kolo_loop *loop, kolo_stream stream, void *user);
    /** The write queue, having stood at the high watermark or above, has fallen to the low one. */
    void (*on_drain)(kolo_loop *loop, kolo_stream stream, void *user);
    /**
     * A timeout of kolo_stream_set_timeouts ran out: `which` is a kolo_timeout. It counts anew from
     * here. NULL: the stream fails with KOLO_ETIMEDOUT.
     */
    void (*on_timeout)(kolo_loop *loop, kolo_stream stream, int which, void *user);
    /**
     * The connection could not be made (KOLO_ECONNREFUSED, KOLO_ETIMEDOUT...) or broke
     * (KOLO_ECONNRESET...). The stream closes when this returns.
     */
    void (*on_error)(kolo_loop *loop, kolo_stream stream, int error, void *user);
    /** The stream has closed: the last that is heard of it. What `user` points to may be freed. */
    void (*on_close)(kolo_loop *loop, kolo_stream stream, void *user);
    /**
     * Says where the next bytes go: into `out`, which is empty before. Called when there are bytes;
     * the memory must stay until on_data, which follows at once if bytes came. `suggested` is a size
     * that serves well. If it is left empty, reading stops as by kolo_stream_read_stop. A handler that
     * is attached here gets those bytes, in memory of the loop's. NULL: all bytes come so.
     */
    void (*on_buffer)(kolo_loop *loop,
                      kolo_stream stream,
                      size_t suggested,
                      kolo_buffer *out,
                      void *user);
    /**
     * Descriptors came from the peer, for a Unix-domain stream that takes them: see
     * kolo_local_receive_descriptors. `waiting`: so many wait to be taken now, with those that came
     * before. `lost`: some did not come, because this process could hold no more. The bytes they
     * came with follow at once, also if this stops reading. A handler that is attached here gets those
     * bytes in memory of the loop's, even if it has on_buffer.
     */
    void (*on_descriptors)(kolo_loop *loop,
                           kolo_stream stream,
                           size_t waiting,
                           bool lost,
                           void *user);
} kolo_stream_handler;

/**
 * An owned write, or a shutdown, has ended: the memory is the program's again. `status` is 0 when
 * the system has taken everything; KOLO_ECANCELED when the write was cancelled or the stream was
 * closed first; or the error that broke the connection.
 */
typedef void (*kolo_write_cb)(kolo_loop *loop, kolo_stream stream, int status, void *user);

/**
 * Gives a stream its handler: an accepted stream in on_accept, or any stream another one in place
 * of the first, of which nothing more is heard. `user` is the last argument of its callbacks.
 *
 * Errors: KOLO_EINVAL if `handler` is NULL or its size is wrong; the system's if reading cannot
 * begin. In on_accept these come to on_error instead.
 */
int kolo_stream_attach(kolo_loop *loop,
                       kolo_stream stream,
                       const kolo_stream_handler *handler,
                       void *user);

/**
 * The user pointer that was given with the stream's handler; NULL for a stream that has none.
 *
 * Errors: KOLO_EINVAL if `out` is NULL.
 */
int kolo_stream_user(kolo_loop *loop, kolo_stream stream, void **out);

/**
 * Reads again, after kolo_stream_read_stop. (A stream whose handler has on_data reads from the
 * start.) Reading already: that is no error. Before the connection is made: reads from then on.
 *
 * Errors: KOLO_ENOTCONN if the peer has ended its side or the connection broke.
 */
int kolo_stream_read_start(kolo_loop *loop, kolo_stream stream);

/**
 * Reads no more: no on_data and no on_end comes after this returns, until kolo_stream_read_start.
 * Nothing is lost: what the peer sends waits in the system's buffers, and when they are full the
 * peer waits. The read timeout rests. Stopped already: that is no error.
 */
int kolo_stream_read_stop(kolo_loop *loop, kolo_stream stream);

/**
 * Writes bytes: all or none. What the system does not take at once is copied, so the memory may be
 * used again when this returns. Before the connection is made, writes are queued.
 *
 * Returns 0 when the queue is below the high watermark, and 1 when it is at it or above: the bytes
 * are taken, but better wait for on_drain before writing more.
 *
 * Errors: KOLO_EINVAL if `data` is NULL and `length` is not 0; KOLO_ENOBUFS if the queue would pass
 * its bound; KOLO_ENOMEM if there is no memory for the copy (a stream that had nothing queued breaks
 * instead, with that error: the system may have a part already); KOLO_EPIPE after
 * kolo_stream_shutdown; KOLO_ENOTCONN if the connection broke (on_error tells why). Then nothing is
 * taken.
 */
int kolo_stream_write(kolo_loop *loop,
                      kolo_stream stream,
                      const void *data,
                      size_t length);

/**
 * Writes several pieces of memory, one after the other, without copying them. The memory must stay
 * as it is until `done`; without `done`, until the stream has closed. The array of buffers may go
 * when this returns. Writes of a stream, copied or owned, are sent in their order.
 *
 * `done` may be NULL; else it is called exactly once if this succeeds, never before it returns.
 * `out_write` may be NULL; else it gets a name for the write, which kolo_stream_write_cancel takes.
 *
 * Returns 0 or 1 as kolo_stream_write does.
 *
 * Errors: KOLO_EINVAL if `buffers` is NULL and `count` is not 0, and for a buffer with a length and
 * no base; the others as for kolo_stream_write. Then nothing is taken, and `done` is not called.
 */
int kolo_stream_write_owned(kolo_loop *loop,
                            kolo_stream stream,
                            const kolo_buffer *buffers,
                            size_t count,
                            kolo_write_cb done,
                            void *user,
                            uint64_t *out_write);

/**
 * Takes an owned write back: nothing of it is sent, and its `done` comes with KOLO_ECANCELED.
 *
 * Errors: KOLO_EBUSY if a part of it is sent already; KOLO_ENOENT if it has ended or never was.
 */
int kolo_stream_write_cancel(kolo_loop *loop, kolo_stream stream, uint64_t write);

/**
 * Ends our side of the stream once everything queued is sent (half-close). Reading goes on. `done`
 * may be NULL; else it is called when our side has ended: with 0, or with the error of a connection
 * that broke before, of which on_error tells too.
 *
 * Errors: KOLO_EALREADY the second time; KOLO_ENOTCONN if the connection broke.
 */
int kolo_stream_shutdown(kolo_loop *loop, kolo_stream stream, kolo_write_cb done, void *user);

/**
 * Closes the stream when everything queued is sent: the orderly end of a conversation. No more writes
 * are taken; a write timeout bounds how long it may take.
 *
 * A TCP connection that closes while the peer still sends is reset, and what the peer has not read by
 * then may be lost to it. With `linger_ns` only our side ends when everything is sent (half-close).
 * What still comes is thrown away, until the peer ends its side or that time is over, which counts
 * from the end of ours. Then the stream closes. 0: it closes at once.
 *
 * From the call on, with `linger_ns`, neither on_data nor on_end comes, nor a read timeout; and a
 * connection that breaks after everything was sent is no error. on_close comes as ever. What the last
 * call says counts.
 *
 * Errors: the system's if reading cannot begin.
 */
int kolo_stream_finish(kolo_loop *loop,
                       kolo_stream stream,
                       uint64_t linger_ns);

/**
 * Sets the timeouts, in nanoseconds; 0 for none, as at first. `read_idle_ns`: how long nothing may
 * be received while the stream reads. `write_stall_ns`: how long the peer may take nothing while
 * writes are queued. Both count anew from this call. When one runs out, on_timeout comes. They cost
 * nothing per byte. While callbacks keep the loop busy, what the peer does counts all the same: when
 * the descriptor is ready as a timeout runs out, that counts anew, too.
 */
int kolo_stream_set_timeouts(kolo_loop *loop,
                             kolo_stream stream,
                             uint64_t read_idle_ns,
                             uint64_t write_stall_ns);

/**
 * Sets, in bytes, where the write queue counts as drained (`low`) and as full (`high`), and what it
 * holds at most (`limit`; SIZE_MAX for no bound). At first: 16 KiB, 64 KiB, 16 MiB.
 *
 * Errors: KOLO_EINVAL unless low <= high <= limit and high > 0.
 */
int kolo_stream_set_watermarks(kolo_loop *loop,
                               kolo_stream stream,
                               size_t low,
                               size_t high,
                               size_t limit);

/**
 * How many bytes were written and not yet taken by the system.
 *
 * Errors: KOLO_EINVAL if `out_bytes` is NULL.
 */
int kolo_stream_queued(kolo_loop *loop, kolo_stream stream, size_t *out_bytes);

/**
 * Closes the stream as kolo_close does, and has the peer know that it was cut off: with TCP, by a
 * reset (RST). What is carried otherwise has no such thing, and only closes.
 */
int kolo_stream_reset(kolo_loop *loop, kolo_stream stream);

/* TCP ============================================================================================
 *
 * TCP connections are streams: what reads, writes and closes them is above. Here is what makes
 * them, and what only they have.
 */

/**
 * One of several addresses is tried (`status` is 0), or could not be connected to (the error).
 * `address` is only there during the callback. Of attempts that are given up since another one has
 * won nothing is told; nor is it when the handler was replaced by another one.
 */
typedef void (*kolo_attempt_cb)(kolo_loop *loop,
                                kolo_stream stream,
                                const kolo_address *address,
                                int status,
                                void *user);

/**
 * How a connection is made. Begin with KOLO_CONNECT_OPTIONS_INIT; a member that is zero means its
 * default.
 */
typedef struct kolo_connect_options {
    /** sizeof(kolo_connect_options), set by KOLO_CONNECT_OPTIONS_INIT. */
    size_t size;
    /**
     * How long the connection may take to be made, until KOLO_ETIMEDOUT. 0: as long as the system
     * tries.
     */
    uint64_t timeout_ns;
    /**
     * The local address to connect from; port 0 for any. NULL: the system's choice. Read during
     * the call.
     */
    const kolo_address *local;
    /**
     * Leave Nagle's algorithm on: small writes wait for the peer's acknowledgement. By default it
     * is off (TCP_NODELAY).
     */
    bool delay;
    /** Let the local address be one that a former connection still holds (SO_REUSEADDR). */
    bool reuse_address;
    /** The kernel's send buffer in bytes. 0: the system's choice. */
    uint32_t send_buffer;
    /** The kernel's receive buffer in bytes. 0: the system's choice. */
    uint32_t receive_buffer;
    /**
     * With several addresses: how long the next one waits for the one before it, from 10 ms to 2 s.
     * Default 250 ms (RFC 8305).
     */
    uint64_t attempt_delay_ns;
    /**
     * A kolo_family: only addresses of it. KOLO_FAMILY_NONE: of both, or of that of the local
     * address.
     */
    int family;
    /**
     * With several addresses: called for each attempt, for a log. NULL: not called. `user` is the
     * handler's.
     */
    kolo_attempt_cb on_attempt;
} kolo_connect_options;

/**
 * A connection has moved to this loop, and is a new stream here: attach a handler, or it is closed.
 * `status` is 0; or, with `tcp` 0, KOLO_ECANCELED if the loop is being freed, and KOLO_ENOBUFS if
 * it holds as many handles as it can: then the connection is closed.
 */
typedef void (*kolo_move_cb)(kolo_loop *loop, kolo_tcp tcp, int status, void *user);

/**
 * Connects to an address. on_open of the handler comes when the connection is made; until then
 * writes are queued. What the network says against it comes to on_error, also if it says so at
 * once: KOLO_ECONNREFUSED, KOLO_ETIMEDOUT, KOLO_ENETUNREACH, KOLO_EHOSTUNREACH and their like.
 * `options` may be NULL for the defaults.
 *
 * Errors, of which no callback tells: KOLO_EINVAL if `address`, `handler` or `out` is NULL, for an
 * address of no family, for structs of a wrong size, for a delay out of its range, and if the local
 * address, or the family that the options name, is another one;
 * KOLO_EADDRINUSE and KOLO_EADDRNOTAVAIL for the local address; KOLO_EAFNOSUPPORT for a family that
 * the system lacks; KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop
 * holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_tcp_connect(kolo_loop *loop,
                     const kolo_address *address,
                     const kolo_connect_options *options,
                     const kolo_stream_handler *handler,
                     void *user,
                     kolo_tcp *out);

/**
 * Connects to whichever of several addresses answers first ("happy eyeballs", RFC 8305). They stand
 * in the order of preference. They are tried in that order, but IPv4 and IPv6 take turns; the next
 * one when the last has failed, or has not answered within the options' attempt_delay_ns. The first
 * that connects is the stream's, and the others are closed: kolo_tcp_peer says which it was. An
 * address that stands there twice is tried once.
 *
 * on_open of the handler comes when one is connected; until then writes are queued, and functions
 * that need the socket get KOLO_ENOTCONN. on_error comes when all have failed, with the error of the
 * one that came furthest, the first of equals: a peer that refused before one that was silent,
 * before a network that could not reach it, before one that is not there. The options' timeout_ns
 * counts for the whole. Descriptors that run out (KOLO_EMFILE, KOLO_ENFILE) keep attempts from being
 * begun: they wait for those under way, and if there are none, on_error comes with that.
 *
 * Errors, of which no callback tells: KOLO_EINVAL if `addresses`, `handler` or `out` is NULL, if
 * `count` is 0, for an address of no family, for structs of a wrong size, for a delay out of its
 * range, if the options' family and that of the local address differ, and if no address is of it;
 * KOLO_ENOBUFS if the loop holds as many handles as it can; KOLO_ECANCELED while the loop is being
 * freed.
 */
int kolo_tcp_connect_any(kolo_loop *loop,
                         const kolo_address *addresses,
                         size_t count,
                         const kolo_connect_options *options,
                         const kolo_stream_handler *handler,
                         void *user,
                         kolo_tcp *out);

/**
 * Takes over a connected socket from elsewhere, which is open at once (on_open does not come).
 * From success on it is kolo's, and kolo closes it; after an error it is still the caller's.
 *
 * Errors: KOLO_EINVAL if `handler` or `out` is NULL, and for a handler of a wrong size; KOLO_EBADF
 * for a descriptor that is not open; KOLO_EEXIST for one that a handle has already (see kolo_socket);
 * KOLO_ENOTSOCK for one that is no socket; KOLO_ENOTCONN for a socket that is not connected;
 * KOLO_ENOBUFS if the loop holds as many handles as it can; KOLO_ECANCELED while the loop is being
 * freed.
 */
int kolo_tcp_adopt(kolo_loop *loop,
                   kolo_socket socket,
                   const kolo_stream_handler *handler,
                   void *user,
                   kolo_tcp *out);

/**
 * Hands the socket out: from now on it is the caller's to close. The handle closes, and its
 * on_close comes as ever. The socket does not block; bytes that were not read yet are still in it.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while writes are queued, while the connection is
 * being made, and while bytes have been received that on_data has still to hear of, which cannot
 * be put back into the socket: try again in the next on_data. (Only the driver "uring" receives
 * ahead, and not before the first on_data has returned.)
 */
int kolo_tcp_release(kolo_loop *loop, kolo_tcp tcp, kolo_socket *out);

/**
 * Moves a connection to another loop, that of `remote`, on whose thread `arrived` is then called,
 * once. Here the handle closes, and its on_close comes as ever. Nothing is lost: bytes that were
 * not read here are read there. Timeouts, watermarks and the socket's options move with it.
 *
 * Errors, after which the stream is here as it was: KOLO_EINVAL if `remote` or `arrived` is NULL;
 * KOLO_EBUSY while writes are queued, while the connection is being made, and, as with
 * kolo_tcp_release, while bytes have been received that on_data has still to hear of; KOLO_EPIPE after
 * kolo_stream_shutdown; KOLO_ENOTCONN if the connection broke; KOLO_ENOBUFS if as many posts wait
 * there as may; KOLO_ECANCELED if that loop is gone.
 */
int kolo_tcp_move(kolo_loop *loop,
                  kolo_tcp tcp,
                  kolo_remote *remote,
                  kolo_move_cb arrived,
                  void *user);

/**
 * Sends small writes at once (true, as at first), or lets Nagle's algorithm hold them back until
 * the peer has acknowledged those before.
 */
int kolo_tcp_set_nodelay(kolo_loop *loop, kolo_tcp tcp, bool on);

/**
 * Probes a peer that was silent for `idle_s` seconds, every `interval_s` seconds, and takes the
 * connection for broken after `count` probes without an answer. `idle_s` 0: no probes, as at first;
 * `interval_s` or `count` 0: the system's.
 *
 * Errors: KOLO_EINVAL for numbers that the system refuses.
 */
int kolo_tcp_set_keepalive(kolo_loop *loop,
                           kolo_tcp tcp,
                           uint32_t idle_s,
                           uint32_t interval_s,
                           uint32_t count);

/**
 * Whether closing resets the connection, also when it is kolo that closes it: what the peer has not
 * acknowledged is thrown away, and it hears of a reset. Off, as at first, the system sends the rest in the
 * background. It is SO_LINGER with no time (socket(7)). There is no longer time to be had: close(2) would
 * wait for it, on Linux also where the socket does not block, and the loop with it. Who wants the peer
 * heard out uses kolo_stream_finish with a linger time; who wants to break off now, kolo_stream_reset.
 */
int kolo_tcp_set_reset_on_close(kolo_loop *loop,
                                kolo_tcp tcp,
                                bool on);

/**
 * Sets the sizes of the kernel's buffers in bytes; 0 leaves one as it is. The system may give more
 * or less.
 */
int kolo_tcp_set_buffers(kolo_loop *loop,
                         kolo_tcp tcp,
                         uint32_t send_bytes,
                         uint32_t receive_bytes);

/**
 * The sizes of the kernel's buffers in bytes, as the system counts them.
 *
 * Errors: KOLO_EINVAL if either pointer is NULL.
 */
int kolo_tcp_buffers(kolo_loop *loop, kolo_tcp tcp, uint32_t *send_bytes, uint32_t *receive_bytes);

/**
 * The address of this end.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_EAFNOSUPPORT for an adopted socket without an internet
 * address.
 */
int kolo_tcp_local(kolo_loop *loop, kolo_tcp tcp, kolo_address *out);

/**
 * The address of the other end.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTCONN before the connection is made, and when it is
 * broken; KOLO_EAFNOSUPPORT for an adopted socket without an internet address.
 */
int kolo_tcp_peer(kolo_loop *loop, kolo_tcp tcp, kolo_address *out);

/**
 * The socket's descriptor, to look at, or to set options that kolo does not have. It is still
 * kolo's: do not close it, and leave it non-blocking.
 *
 * Errors: KOLO_EINVAL if `out` is NULL.
 */
int kolo_tcp_socket(kolo_loop *loop, kolo_tcp tcp, kolo_socket *out);

/* Names ==========================================================================================
 *
 * Names of hosts and services to addresses, and back: by the system's resolver, which asks what the
 * system is configured to ask (the hosts file, DNS). It blocks, so it runs on the threads of the
 * loop's pool, in the class KOLO_WORK_SLOW: as made, 4 names at a time, while more wait. What needs
 * no asking, a numeric address, goes to no thread.
 *
 * A name that is being looked up is a request. kolo_request_cancel, kolo_close and a timeout end it
 * also while the resolver is at work, and nobody waits for the resolver then, neither the loop nor
 * kolo_loop_free: what it says at last is dropped. (Until it does, it keeps its thread.)
 *
 * Names go to the resolver as they are. One that is not ASCII must be UTF-8, and is sent as that,
 * which few DNS servers know: convert it before (RFC 5891).
 */

/** What addresses are to be used for. */
typedef enum kolo_socket_type {
    /** For streams: TCP. */
    KOLO_SOCKET_STREAM = 1,
    /** For datagrams: UDP. */
    KOLO_SOCKET_DATAGRAM = 2,
} kolo_socket_type;

/**
 * How a name is looked up. Begin with KOLO_RESOLVE_OPTIONS_INIT; a member that is zero means its
 * default.
 */
typedef struct kolo_resolve_options {
    /** sizeof(kolo_resolve_options), set by KOLO_RESOLVE_OPTIONS_INIT. */
    size_t size;
    /** How long it may take, until KOLO_ETIMEDOUT. 0: as long as the resolver tries. */
    uint64_t timeout_ns;
    /** A kolo_family: only addresses of it. KOLO_FAMILY_NONE: of both. */
    int family;
    /** A kolo_socket_type: it matters to the name of a service. Default KOLO_SOCKET_STREAM. */
    int socket_type;
    /** Ask for the canonical name, too (AI_CANONNAME). */
    bool canonical_name;
    /**
     * Without a host: addresses to listen at, which stand for every interface (AI_PASSIVE). By
     * default they are the loopback's.
     */
    bool passive;
    /**
     * With KOLO_FAMILY_IPV6: IPv4 addresses as IPv6 ones that stand for them, if there are no
     * others (AI_V4MAPPED, where the system has it).
     */
    bool v4_mapped;
    /** With v4_mapped: also if there are others (AI_ALL). */
    bool all;
    /**
     * No addresses of a family that no interface has but the loopback (AI_ADDRCONFIG): saves
     * questions to the name server.
     */
    bool address_config;
} kolo_resolve_options;

/**
 * A name was looked up. `status` is 0, and there are `count` addresses, at least one, each once, in
 * the order in which they should be tried (RFC 6724); `canonical_name` is NULL unless it was asked
 * for and is known. All of them are only there during the callback. Otherwise `status` is an error,
 * there are no addresses, and the pointers are NULL:
 *
 * KOLO_EAI_NONAME and KOLO_EAI_NODATA when there is no such name, or no address for it;
 * KOLO_EAI_ADDRFAMILY for a numeric address of another family; KOLO_EAI_AGAIN when the name servers
 * do not answer; the other KOLO_EAI_ of the resolver, and errors of the system; KOLO_ETIMEDOUT;
 * KOLO_ECANCELED when the request was cancelled or closed, or the loop is freed.
 */
typedef void (*kolo_resolve_cb)(kolo_loop *loop,
                                kolo_request request,
                                int status,
                                const kolo_address *addresses,
                                size_t count,
                                const char *canonical_name,
                                void *user);

/**
 * How an address is looked up. Begin with KOLO_REVERSE_OPTIONS_INIT; a member that is zero means its
 * default.
 */
typedef struct kolo_reverse_options {
    /** sizeof(kolo_reverse_options), set by KOLO_REVERSE_OPTIONS_INIT. */
    size_t size;
    /** How long it may take, until KOLO_ETIMEDOUT. 0: as long as the resolver tries. */
    uint64_t timeout_ns;
    /** The address itself as the host's name, and nobody is asked (NI_NUMERICHOST). */
    bool numeric_host;
    /** The port itself as the service's name (NI_NUMERICSERV). */
    bool numeric_service;
    /**
     * A host without a name is an error, KOLO_EAI_NONAME (NI_NAMEREQD). By default its address
     * stands for it.
     */
    bool name_required;
    /** The service is one of datagrams (NI_DGRAM). By default it is one of streams. */
    bool datagram;
    /** Hosts of the own domain without its name (NI_NOFQDN). */
    bool short_name;
} kolo_reverse_options;

/**
 * An address was looked up. `status` is 0; `host` and `service` are only there during the callback.
 * Otherwise it is an error as with kolo_resolve_cb, and they are NULL.
 */
typedef void (*kolo_reverse_cb)(kolo_loop *loop,
                                kolo_request request,
                                int status,
                                const char *host,
                                const char *service,
                                void *user);

/**
 * Looks up the addresses of a host, and the port of a service (getaddrinfo(3)).
 *
 * `host` is a name or a numeric address ("192.0.2.1", "fe80::1%eth0"); NULL for this machine: see
 * the options' `passive`. `service` is a name ("http") or a number ("80"); NULL for port 0. Not both
 * are NULL. `options` may be NULL for the defaults, and `out` if the request is not of interest.
 *
 * `cb` is called exactly once, never inside this call.
 *
 * Errors: KOLO_EINVAL if `cb` is NULL, or both `host` and `service` are; for a text that is empty or
 * not UTF-8, a number above 65535, options of a wrong size, and a family or socket type that there
 * is not; KOLO_ENAMETOOLONG for more than 253 bytes; and those of kolo_work_submit. Then `cb` is not
 * called.
 */
int kolo_resolve(kolo_loop *loop,
                 const char *host,
                 const char *service,
                 const kolo_resolve_options *options,
                 kolo_resolve_cb cb,
                 void *user,
                 kolo_request *out);

/**
 * Looks up the names of an address and its port (getnameinfo(3)). `options` may be NULL for the
 * defaults, and `out` if the request is not of interest.
 *
 * `cb` is called exactly once, never inside this call.
 *
 * Errors: KOLO_EINVAL if `address` or `cb` is NULL, for an address of no family, and for options of a
 * wrong size; and those of kolo_work_submit. Then `cb` is not called.
 */
int kolo_reverse(kolo_loop *loop,
                 const kolo_address *address,
                 const kolo_reverse_options *options,
                 kolo_reverse_cb cb,
                 void *user,
                 kolo_request *out);

/**
 * Connects to a host by its name: looks its addresses up, as kolo_resolve does, and connects to them
 * as kolo_tcp_connect_any does. A numeric host is asked of nobody. `options` may be NULL for the
 * defaults.
 *
 * The resolver is asked once, for both families, as the system is configured to: so the hosts file
 * and the system's order of preference hold. The stream is there from this call on: it may be
 * written to, closed, and limited in time by the options' timeout_ns, which counts the resolving
 * too. In a forked child it fails with KOLO_ECANCELED if the parent was resolving.
 *
 * on_error of the handler hears what the resolver says against the name, KOLO_EAI_NONAME and its
 * like, and otherwise as with kolo_tcp_connect_any.
 *
 * Errors, of which no callback tells: KOLO_EINVAL if `host`, `handler` or `out` is NULL, for a host
 * that is empty or not UTF-8, for structs of a wrong size, for a delay out of its range, and if the
 * options' family and that of the local address differ; KOLO_ENAMETOOLONG for more than 253 bytes;
 * and those of kolo_work_submit.
 */
int kolo_tcp_connect_name(kolo_loop *loop,
                          const char *host,
                          uint16_t port,
                          const kolo_connect_options *options,
                          const kolo_stream_handler *handler,
                          void *user,
                          kolo_tcp *out);

/* Listening ======================================================================================
 *
 * A listener is a socket that accepts connections: TCP's, made here, or those of the Unix domain,
 * further below. It is active, and so keeps the loop alive, until it is paused or closed.
 */

/**
 * What a listener does when a connection cannot be accepted because descriptors or memory are
 * short. In both cases on_error is told, and accepting pauses and is tried again after
 * retry_min_ns, then after twice that, up to retry_max_ns.
 */
typedef enum kolo_accept_policy {
    /** Those who wait stay in the backlog, and are served when descriptors are free again. */
    KOLO_ACCEPT_WAIT = 0,
    /**
     * Those who wait are accepted with a descriptor held in reserve, and reset at once: they can
     * go elsewhere.
     */
    KOLO_ACCEPT_REJECT = 1,
} kolo_accept_policy;

/**
 * How a listener listens. Begin with KOLO_LISTEN_OPTIONS_INIT; a member that is zero means its
 * default.
 */
typedef struct kolo_listen_options {
    /** sizeof(kolo_listen_options), set by KOLO_LISTEN_OPTIONS_INIT. */
    size_t size;
    /** Connections that may wait to be accepted. The system may allow fewer. Default 1024. */
    uint32_t backlog;
    /** Do not let the address be one that former connections still hold (leave SO_REUSEADDR off). */
    bool no_reuse_address;
    /**
     * Let several sockets listen at the same address, among which the system spreads connections
     * (SO_REUSEPORT). KOLO_ENOTSUP where there is no such option.
     */
    bool reuse_port;
    /**
     * An IPv6 address takes no IPv4 connections. By default the unspecified IPv6 address ("::")
     * takes both.
     */
    bool ipv6_only;
    /**
     * Leave Nagle's algorithm on for accepted connections: small writes wait for the peer's
     * acknowledgement. By default it is off (TCP_NODELAY).
     */
    bool delay;
    /** Connections accepted in one turn, at most. Default 64. */
    uint32_t accepts_per_turn;
    /** What to do when descriptors run out: a kolo_accept_policy. */
    int accept_policy;
    /** The first pause after descriptors ran out, in nanoseconds. Default 10 ms. */
    uint64_t retry_min_ns;
    /** The longest pause after they ran out again and again. Default 1 s. */
    uint64_t retry_max_ns;
    /** The kernel's send buffer of accepted connections in bytes. 0: the system's choice. */
    uint32_t send_buffer;
    /** The kernel's receive buffer of accepted connections in bytes. 0: the system's choice. */
    uint32_t receive_buffer;
} kolo_listen_options;

/**
 * What a listener does: a table of callbacks, copied during the call that takes it. Begin with
 * KOLO_LISTENER_HANDLER_INIT; any callback may be NULL.
 */
typedef struct kolo_listener_handler {
    /** sizeof(kolo_listener_handler), set by KOLO_LISTENER_HANDLER_INIT. */
    size_t size;
    /**
     * A connection came: a kolo_tcp or a kolo_local, as the listener. Give it a handler here, with
     * kolo_stream_attach: a stream that has none when this returns is closed.
     */
    void (*on_accept)(kolo_loop *loop, kolo_listener listener, kolo_stream stream, void *user);
    /**
     * A connection could not be accepted: KOLO_EMFILE, KOLO_ENFILE... The listener lives on, and
     * tries again as its accept_policy says. Told once, until accepting succeeds again.
     */
    void (*on_error)(kolo_loop *loop, kolo_listener listener, int error, void *user);
    /** The listener has closed: the last that is heard of it. */
    void (*on_close)(kolo_loop *loop, kolo_listener listener, void *user);
} kolo_listener_handler;

/**
 * Listens at an address. With port 0 the system chooses one, which kolo_listener_address tells.
 * `options` may be NULL for the defaults.
 *
 * Errors: KOLO_EINVAL if `address`, `handler` or `out` is NULL, for an address of no family, for
 * structs of a wrong size, for a policy that there is not, and if retry_min_ns exceeds
 * retry_max_ns; KOLO_EADDRINUSE, KOLO_EADDRNOTAVAIL and KOLO_EACCES for the address;
 * KOLO_EAFNOSUPPORT for a family that the system lacks; KOLO_ENOTSUP for reuse_port where there is
 * no such thing; KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop
 * holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_tcp_listen(kolo_loop *loop,
                    const kolo_address *address,
                    const kolo_listen_options *options,
                    const kolo_listener_handler *handler,
                    void *user,
                    kolo_listener *out);

/**
 * Takes over a listening socket from elsewhere, such as one that a service manager handed to the
 * process. From success on it is kolo's, and kolo closes it; after an error it is still the
 * caller's. Of `options` (NULL for the defaults) what concerns accepting counts.
 *
 * Errors: KOLO_EINVAL if `handler` or `out` is NULL, for structs of a wrong size, and for a socket
 * that does not listen; KOLO_EBADF for a descriptor that is not open; KOLO_EEXIST for one that a
 * handle has already (see kolo_socket); KOLO_ENOTSOCK for one that is no socket; KOLO_ENOBUFS if the
 * loop holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_listener_adopt(kolo_loop *loop,
                        kolo_socket socket,
                        const kolo_listen_options *options,
                        const kolo_listener_handler *handler,
                        void *user,
                        kolo_listener *out);

/**
 * The address at which a listener listens, with the port that the system chose.
 *
 * Errors: KOLO_EINVAL if `out` is NULL.
 */
int kolo_listener_address(kolo_loop *loop, kolo_listener listener, kolo_address *out);

/**
 * Accepts no more until kolo_listener_resume, for a listener of either kind: those who connect wait in
 * the backlog. Paused already: that is no error.
 */
int kolo_listener_pause(kolo_loop *loop,
                        kolo_listener listener);

/** Accepts again. Not paused: that is no error. */
int kolo_listener_resume(kolo_loop *loop, kolo_listener listener);

/* Many loops =====================================================================================
 *
 * A group is a number of loops, each on a thread of its own, behind one address: each listens
 * there, with a socket of its own where the system spreads connections over such sockets
 * (SO_REUSEPORT, Linux), else with a copy of one. A loop that accepts a connection while another
 * has clearly less to do hands it on, so that all have about as many.
 *
 * A group's functions may be called from any thread. Callbacks run on the threads of the group's
 * loops, several at a time: what they share is for the program to protect.
 */

/**
 * A loop of a group begins: called on its thread, with its number, from 0 on. A negative error
 * stops the group before it has begun, and is returned by kolo_group_start; anything else is
 * success.
 */
typedef int (*kolo_group_start_cb)(kolo_loop *loop, uint32_t index, void *user);

/**
 * A loop of a group is asked to stop, and its listeners of the group are closed: called on its
 * thread, once. The place to finish what is still open.
 */
typedef void (*kolo_group_stop_cb)(kolo_loop *loop, uint32_t index, void *user);

/** How a group is made. Begin with KOLO_GROUP_OPTIONS_INIT; a member that is zero means its default. */
typedef struct kolo_group_options {
    /** sizeof(kolo_group_options), set by KOLO_GROUP_OPTIONS_INIT. */
    size_t size;
    /** How each loop is made: see kolo_loop_new. Read during the call. NULL: with the defaults. */
    const kolo_loop_options *loop_options;
    /** Called on each loop's thread before the loop runs. May be NULL. */
    kolo_group_start_cb on_start;
    /** Called on each loop's thread when the group is asked to stop. May be NULL. */
    kolo_group_stop_cb on_stop;
    /** What both get as their last argument. */
    void *user;
    /** How many loops, at most 65536. Default: as many as processors are to be had. */
    uint32_t loops;
    /**
     * 1: listen with copies of one socket also where the system could spread connections over
     * several.
     */
    uint32_t share_socket;
} kolo_group_options;

/**
 * Starts a group: its loops run when this returns. `options` may be NULL for the defaults. Do not
 * free its loops (KOLO_EBUSY); kolo_loop_stop ends one of them alone.
 *
 * Errors: KOLO_EINVAL if `out` is NULL, for options of a wrong size, and for more than 65536 loops;
 * those of kolo_loop_new; KOLO_EAGAIN if the system gives no thread; on_start's. Then none of its
 * loops is there any more.
 */
int kolo_group_start(const kolo_group_options *options, kolo_group *out);

/**
 * How many loops a group has.
 *
 * Errors: KOLO_EBADF for a group that was joined, or never was.
 */
int kolo_group_count(kolo_group group);

/**
 * Makes a remote of one of a group's loops, with which functions can be posted to it: see
 * kolo_loop_remote.
 *
 * Errors: KOLO_EINVAL if `out` is NULL, and for a number of a loop that there is not; KOLO_EBADF for
 * a group that was joined, or never was; KOLO_ENOBUFS if the process holds 65536 remotes.
 */
int kolo_group_remote(kolo_group group,
                      uint32_t index,
                      kolo_remote **out);

/**
 * Listens at an address, on every loop of a group. With port 0 the system chooses one. `options`
 * may be NULL for the defaults. `out_address`, unless it is NULL, gets the address.
 *
 * The handler's callbacks come on the thread of the loop that accepted the connection, or that it
 * was handed to. The listeners close when the group stops.
 *
 * Errors: as kolo_tcp_listen; KOLO_EBADF for a group that was joined, or never was; KOLO_EDEADLK on
 * a thread of a group, which would wait for itself; KOLO_ECANCELED if the group has stopped. If one
 * loop cannot listen, none does.
 */
int kolo_group_listen(kolo_group group,
                      const kolo_address *address,
                      const kolo_listen_options *options,
                      const kolo_listener_handler *handler,
                      void *user,
                      kolo_address *out_address);

/**
 * Stops a group in an orderly way, and does not wait: its listeners close, on_stop is called on
 * each loop, and each loop runs on until nothing keeps it alive, or `grace_ns` nanoseconds are
 * over, after which what is still open is closed. Again: the shorter time counts.
 *
 * Errors: KOLO_EBADF for a group that was joined, or never was.
 */
int kolo_group_stop(kolo_group group, uint64_t grace_ns);

/**
 * Waits until all loops of a group have ended, which takes a kolo_group_stop, and frees the group:
 * its number is dead.
 *
 * Errors: KOLO_EBADF for a group that was joined, or never was; KOLO_EDEADLK on a thread of a
 * group; KOLO_EPANIC if a bug inside kolo ended it.
 */
int kolo_group_join(kolo_group group);

/* UDP ============================================================================================
 *
 * A UDP socket sends and receives datagrams: each arrives whole, once or not at all, in any order.
 *
 * Sending never blocks: what the system does not take at once is queued. What one callback sends goes
 * to the system together when it returns; what the datagrams that came together cause, when all of them
 * have been handed out. Datagrams of one size to one destination then travel through the system as one
 * message, where it can take them apart (Linux), which is several times cheaper; and those that come
 * are taken from it many at a time. The queue has a high watermark, at which sends return 1 (pause), a
 * low one, at which on_drain comes (go on), and a hard bound.
 *
 * What the system or the network has against a datagram is told by on_error, and the socket lives on.
 */

/**
 * How a UDP socket is made. Begin with KOLO_UDP_OPTIONS_INIT; a member that is zero means its
 * default.
 */
typedef struct kolo_udp_options {
    /** sizeof(kolo_udp_options), set by KOLO_UDP_OPTIONS_INIT. */
    size_t size;
    /**
     * Let several sockets have the address (SO_REUSEADDR; on the BSDs and Darwin multicast also
     * needs reuse_port): each of them gets what is sent to a group, one of them the rest.
     */
    bool reuse_address;
    /**
     * Let several sockets have the address, among which the system spreads the senders
     * (SO_REUSEPORT, Linux). KOLO_ENOTSUP where there is no such option.
     */
    bool reuse_port;
    /** An IPv6 address carries no IPv4. By default the unspecified IPv6 address ("::") carries both. */
    bool ipv6_only;
    /** Let datagrams be sent to broadcast addresses. Without it the system refuses (KOLO_EACCES). */
    bool broadcast;
    /**
     * Ask for `to` and `interface` of what comes. Costs about 0.1 us a datagram. KOLO_ENOTSUP on
     * other systems than Linux.
     */
    bool receive_info;
    /** Ask for `tos` of what comes. Likewise. */
    bool receive_tos;
    /**
     * Ask for the network's errors also if the socket is not connected, with the address that each
     * is about (IP_RECVERR). They are told while the socket receives. KOLO_ENOTSUP on other systems
     * than Linux.
     */
    bool report_errors;
    /**
     * Do not let the system put datagrams of the same sender together on their way in (UDP_GRO,
     * Linux). They are handed out one by one in any case.
     */
    bool no_receive_offload;
    /**
     * Do not give datagrams of the same size to the same destination to the system as one message
     * (UDP_SEGMENT, Linux).
     */
    bool no_send_offload;
    /** The kernel's send buffer in bytes. 0: the system's choice. */
    uint32_t send_buffer;
    /**
     * The kernel's receive buffer in bytes. 0: the system's choice. What comes while it is full is
     * lost.
     */
    uint32_t receive_buffer;
} kolo_udp_options;

/**
 * A datagram that came, as on_datagram gets it. It is kolo's, with its bytes, and there until the
 * callback returns. Members may be added.
 */
typedef struct kolo_datagram {
    /** sizeof(kolo_datagram) as the library has it. */
    size_t size;
    /** Its bytes. Not NULL, also if there are none. */
    const uint8_t *data;
    /** How many. May be 0. */
    size_t length;
    /** Who sent it. */
    kolo_address from;
    /**
     * The address it was sent to, if receive_info is on: of this system, or a group. Its port is
     * that of the socket's address and is not told here (0). Else of no family.
     */
    kolo_address to;
    /** The number of the interface it came by, if receive_info is on. Else 0. */
    uint32_t interface;
    /**
     * Its traffic class byte, if receive_tos is on: congestion notification (RFC 3168) in the lower
     * two bits, the differentiated services code point (RFC 2474) above. Else -1.
     */
    int32_t tos;
    /** It was longer than the room for it, and the rest is lost. */
    bool truncated;
} kolo_datagram;

/** A datagram that met an error, as on_error gets it. Members may be added. */
typedef struct kolo_datagram_error {
    /** sizeof(kolo_datagram_error) as the library has it. */
    size_t size;
    /** What went wrong: a kolo_error. */
    int error;
    /** How many datagrams it stands for: those that were refused together for the same reason. */
    uint32_t count;
    /**
     * Where the datagram was to go, where that is known: always for what the system refuses to send;
     * for what the network tells later, if the socket is connected or report_errors is on. Else of
     * no family.
     */
    kolo_address to;
    /**
     * Who told, if the network did and report_errors is on: a router on the way, or the host. Else
     * of no family. Its port is 0.
     */
    kolo_address by;
    /**
     * For KOLO_EMSGSIZE from the network: the largest packet that would have passed, headers
     * included. Else 0.
     */
    uint32_t mtu;
} kolo_datagram_error;

/**
 * What a UDP socket does: a table of callbacks, copied during the call that takes it. Begin with
 * KOLO_UDP_HANDLER_INIT; any callback may be NULL. Each may call anything, and also close its own
 * socket.
 */
typedef struct kolo_udp_handler {
    /** sizeof(kolo_udp_handler), set by KOLO_UDP_HANDLER_INIT. */
    size_t size;
    /**
     * A datagram came. A socket whose table has on_datagram receives from the start; without, what
     * comes waits in the system's buffer until that is full.
     */
    void (*on_datagram)(kolo_loop *loop,
                        kolo_udp udp,
                        const kolo_datagram *datagram,
                        void *user);
    /**
     * The queue of datagrams to send, having stood at the high watermark or above, has fallen to
     * the low one; or after kolo_udp_try_send found the socket full, there is room.
     */
    void (*on_drain)(kolo_loop *loop, kolo_udp udp, void *user);
    /**
     * A datagram met an error: the system refused to send it (KOLO_EMSGSIZE, KOLO_ENETUNREACH,
     * KOLO_EPERM by a firewall), or the network said that it did not arrive (KOLO_ECONNREFUSED,
     * KOLO_EHOSTUNREACH). The socket lives on.
     */
    void (*on_error)(kolo_loop *loop,
                     kolo_udp udp,
                     const kolo_datagram_error *error,
                     void *user);
    /** The socket has closed: the last that is heard of it. What `user` points to may be freed. */
    void (*on_close)(kolo_loop *loop, kolo_udp udp, void *user);
} kolo_udp_handler;

/**
 * Where a datagram goes, and how. Begin with KOLO_TRANSMIT_INIT; a member that is zero means its
 * default.
 */
typedef struct kolo_transmit {
    /** sizeof(kolo_transmit), set by KOLO_TRANSMIT_INIT. */
    size_t size;
    /** Where to. NULL: to the peer that the socket is connected to. */
    const kolo_address *to;
    /**
     * The local address to send from, whose port does not matter: `to` of the datagram that is
     * answered, on a machine with several addresses. NULL: the system's choice. Linux only.
     */
    const kolo_address *source;
    /** The number of the interface to send by. 0: as the system routes it. Linux only. */
    uint32_t interface;
    /**
     * Makes several datagrams of the bytes, each of this size but the last, which may be shorter: at
     * most 64 of them, and 65,507 bytes in all (IPv6: 65,527). 0: one datagram. Where the system
     * cannot take them apart, kolo does.
     */
    uint16_t segment_size;
    /** `tos` counts. If not, the socket's traffic class does. */
    bool has_tos;
    /** The traffic class byte: see kolo_datagram. Linux only. */
    uint8_t tos;
} kolo_transmit;

/**
 * An owned datagram has ended: the memory is the program's again. `status` is 0 when the system has
 * taken it; its error if it did not (of which on_error is not told then); KOLO_ECANCELED if the
 * send was cancelled or the socket closed first.
 */
typedef void (*kolo_udp_sent_cb)(kolo_loop *loop, kolo_udp udp, int status, void *user);

/**
 * Makes a UDP socket at a local address. With port 0 the system chooses one, which kolo_udp_local
 * tells; "0.0.0.0" or "::" with port 0 is what a client wants. `options` may be NULL for the
 * defaults. `user` is the last argument of the handler's callbacks.
 *
 * Errors: KOLO_EINVAL if `address`, `handler` or `out` is NULL, for an address of no family and for
 * structs of a wrong size; KOLO_EADDRINUSE, KOLO_EADDRNOTAVAIL and KOLO_EACCES for the address;
 * KOLO_EAFNOSUPPORT for a family that the system lacks; KOLO_ENOTSUP for options that it lacks;
 * KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many
 * handles as it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_udp_bind(kolo_loop *loop,
                  const kolo_address *address,
                  const kolo_udp_options *options,
                  const kolo_udp_handler *handler,
                  void *user,
                  kolo_udp *out);

/**
 * Takes over a UDP socket from elsewhere, bound or connected or not. From success on it is kolo's,
 * and kolo closes it; after an error it is still the caller's. Of `options` (NULL for the defaults)
 * what concerns sending and receiving counts.
 *
 * Errors: KOLO_EINVAL if `handler` or `out` is NULL, and for structs of a wrong size; KOLO_EBADF for a
 * descriptor that is not open; KOLO_EEXIST for one that a handle has already (see kolo_socket);
 * KOLO_ENOTSOCK for one that is no socket; KOLO_EPROTOTYPE for a socket of another type;
 * KOLO_EAFNOSUPPORT for one of another family than IPv4 and IPv6; KOLO_ENOTSUP for options that the
 * system lacks; KOLO_ENOBUFS if the loop holds as many handles as it can; KOLO_ECANCELED while the
 * loop is being freed.
 */
int kolo_udp_adopt(kolo_loop *loop,
                   kolo_socket socket,
                   const kolo_udp_options *options,
                   const kolo_udp_handler *handler,
                   void *user,
                   kolo_udp *out);

/**
 * Hands the socket out: from now on it is the caller's to close. The handle closes, and its on_close
 * comes as ever. The socket does not block. Datagrams that kolo has received and not handed out yet
 * are lost; those that are still in the socket may have been put together by the system already,
 * unless it was made with no_receive_offload.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while datagrams are queued.
 */
int kolo_udp_release(kolo_loop *loop,
                     kolo_udp udp,
                     kolo_socket *out);

/**
 * Gives a socket another handler in place of its first, of which nothing more is heard. It receives
 * or does not, as before.
 *
 * Errors: KOLO_EINVAL if `handler` is NULL or its size is wrong.
 */
int kolo_udp_attach(kolo_loop *loop,
                    kolo_udp udp,
                    const kolo_udp_handler *handler,
                    void *user);

/**
 * The user pointer that was given with the socket's handler.
 *
 * Errors: KOLO_EINVAL if `out` is NULL.
 */
int kolo_udp_user(kolo_loop *loop, kolo_udp udp, void **out);

/**
 * Connects the socket to a peer, or to another one: sends without an address go there, only what
 * comes from there is received, and the network's errors are told. Nothing is sent for it, so
 * success says nothing about whether there is a peer.
 *
 * Errors: KOLO_EINVAL if `peer` is NULL or of no family; KOLO_EBUSY while datagrams are queued;
 * KOLO_EAFNOSUPPORT for an address of a family that the socket has not; KOLO_ENETUNREACH without a
 * route; KOLO_EACCES for a broadcast address that was not asked for.
 */
int kolo_udp_connect(kolo_loop *loop, kolo_udp udp, const kolo_address *peer);

/**
 * Undoes kolo_udp_connect. Not connected: that is no error.
 *
 * Errors: KOLO_EBUSY while datagrams are queued; KOLO_EADDRINUSE if somebody took the port meanwhile
 * (Linux gives up one that the system chose, and kolo takes it again); KOLO_ENOTSUP where the
 * system has no such thing.
 */
int kolo_udp_disconnect(kolo_loop *loop,
                        kolo_udp udp);

/**
 * Receives again, after kolo_udp_receive_stop; or from now on, for a handler that had no on_datagram
 * when the socket was made. Receiving already: that is no error.
 */
int kolo_udp_receive_start(kolo_loop *loop,
                           kolo_udp udp);

/**
 * Receives no more: no on_datagram comes after this returns, until kolo_udp_receive_start. What kolo
 * had received already is kept until then; beyond that the system's buffer fills, and what comes
 * when it is full is lost. Stopped already: that is no error.
 */
int kolo_udp_receive_stop(kolo_loop *loop,
                          kolo_udp udp);

/**
 * Sends a datagram to `to`, or if that is NULL, to the peer that the socket is connected to. What the
 * system does not take at once is copied, so the memory may be used again when this returns.
 *
 * Returns 0 when the queue is below the high watermark, and 1 when it is at it or above: the datagram
 * is taken, but better wait for on_drain before sending more.
 *
 * Errors: KOLO_EINVAL if `data` is NULL and `length` is not 0, and for an address of no family;
 * KOLO_ENOBUFS if the queue would pass its bound; KOLO_EMSGSIZE for more than a datagram can hold;
 * KOLO_EDESTADDRREQ without an address on a socket that is not connected; KOLO_EAFNOSUPPORT for an
 * address of a family that the socket has not. Then nothing is taken. What the system or the network
 * says comes to on_error.
 */
int kolo_udp_send(kolo_loop *loop,
                  kolo_udp udp,
                  const void *data,
                  size_t length,
                  const kolo_address *to);

/**
 * Sends a datagram whose bytes are in several pieces, or several datagrams (see segment_size), as
 * `transmit` says; NULL for the defaults. Otherwise as kolo_udp_send.
 *
 * Errors: as kolo_udp_send; KOLO_EINVAL also if `buffers` is NULL and `count` is not 0, for a buffer
 * with a length and no base, for a struct of a wrong size, and for more than 64 segments;
 * KOLO_ENOTSUP for what only Linux has.
 */
int kolo_udp_send_with(kolo_loop *loop,
                       kolo_udp udp,
                       const kolo_buffer *buffers,
                       size_t count,
                       const kolo_transmit *transmit);

/**
 * Sends memory without copying it. The memory must stay as it is until `done`; without `done`, until
 * the socket has closed. The array of buffers may go when this returns.
 *
 * `done` may be NULL; else it is called exactly once if this succeeds, never before it returns, and
 * counts for 64 bytes in the queue until then. `out_send` may be NULL; else it gets a name for the
 * send, which kolo_udp_send_cancel takes.
 *
 * Returns 0 or 1 as kolo_udp_send does.
 *
 * Errors: as kolo_udp_send_with. Then nothing is taken, and `done` is not called.
 */
int kolo_udp_send_owned(kolo_loop *loop,
                        kolo_udp udp,
                        const kolo_buffer *buffers,
                        size_t count,
                        const kolo_transmit *transmit,
                        kolo_udp_sent_cb done,
                        void *user,
                        uint64_t *out_send);

/**
 * Takes an owned send back that waits in the queue: nothing of it goes, and its `done` comes with
 * KOLO_ECANCELED.
 *
 * Errors: KOLO_EBUSY if some of its segments are sent already; KOLO_ENOENT if it has ended or never
 * was.
 */
int kolo_udp_send_cancel(kolo_loop *loop, kolo_udp udp, uint64_t send);

/**
 * Sends now or not at all: nothing is queued, and what the system says is returned. (Of several
 * datagrams, see segment_size, some may go and others not: that is success. What was refused is told
 * to on_error, and what found no room is queued.)
 *
 * Errors: KOLO_EAGAIN if the socket is full or datagrams are queued; then on_drain comes when there
 * is room. Else as kolo_udp_send_with, and the system's: KOLO_EMSGSIZE, KOLO_ENETUNREACH,
 * KOLO_EPERM...
 */
int kolo_udp_try_send(kolo_loop *loop,
                      kolo_udp udp,
                      const kolo_buffer *buffers,
                      size_t count,
                      const kolo_transmit *transmit);

/**
 * Sets, in bytes, where the queue of datagrams to send counts as drained (`low`) and as full (`high`),
 * and what it holds at most (`limit`; SIZE_MAX for no bound). A datagram counts for its bytes and 64
 * more. At first: 64 KiB, 256 KiB, 1 MiB.
 *
 * Errors: KOLO_EINVAL unless low <= high <= limit and high > 0.
 */
int kolo_udp_set_watermarks(kolo_loop *loop,
                            kolo_udp udp,
                            size_t low,
                            size_t high,
                            size_t limit);

/**
 * How many bytes of datagrams were sent and not yet taken by the system, each datagram with 64 more.
 *
 * Errors: KOLO_EINVAL if `out_bytes` is NULL.
 */
int kolo_udp_queued(kolo_loop *loop,
                    kolo_udp udp,
                    size_t *out_bytes);

/**
 * The address of this end, with the port that the system chose.
 *
 * Errors: KOLO_EINVAL if `out` is NULL.
 */
int kolo_udp_local(kolo_loop *loop, kolo_udp udp, kolo_address *out);

/**
 * The address that the socket is connected to.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTCONN if it is not connected.
 */
int kolo_udp_peer(kolo_loop *loop, kolo_udp udp, kolo_address *out);

/**
 * The socket's descriptor, to look at, or to set options that kolo does not have. It is still kolo's:
 * do not close or connect it, and leave it non-blocking.
 *
 * Errors: KOLO_EINVAL if `out` is NULL.
 */
int kolo_udp_socket(kolo_loop *loop,
                    kolo_udp udp,
                    kolo_socket *out);

/* UDP options ====================================================================================
 *
 * What can be changed of a UDP socket while it is open: its groups, how far and by which interface its
 * datagrams go, how large they may be on their way.
 */

/** What becomes of datagrams that are larger than a link on their way takes. */
typedef enum kolo_fragmentation {
    /** As the system has it: it learns what fits, and fragments what does not. */
    KOLO_FRAGMENTATION_SYSTEM = 0,
    /** They may be fragmented on the way (IPv4: no DF bit). */
    KOLO_FRAGMENTATION_ALLOW = 1,
    /**
     * They are never fragmented: what does not fit by what the system knows of the path is refused
     * with KOLO_EMSGSIZE.
     */
    KOLO_FRAGMENTATION_FORBID = 2,
    /**
     * They are never fragmented, and what the system knows of the path is ignored: for programs that
     * find out themselves what fits (RFC 8899).
     */
    KOLO_FRAGMENTATION_PROBE = 3,
} kolo_fragmentation;

/**
 * Joins a multicast group, whose port does not matter, at the interface with this number (0: the
 * system's choice), or with a `source` that is not NULL only what that one sends to the group
 * (RFC 4607). It can be joined at several interfaces, and for several sources. Closing leaves all.
 *
 * A socket that is bound to the unspecified address also gets what is sent to groups that others on
 * this machine joined; bind to the group's address to get only that.
 *
 * Errors: KOLO_EINVAL if `group` is NULL, for an address that is no group, for a source of another
 * family and for a group of a family that the socket has not; KOLO_ENODEV for an interface that
 * there is not, or without a route; KOLO_EADDRINUSE for what is joined already; KOLO_ENOBUFS for
 * more groups than the system allows; KOLO_ENOTSUP for what it lacks.
 */
int kolo_udp_join(kolo_loop *loop,
                  kolo_udp udp,
                  const kolo_address *group,
                  const kolo_address *source,
                  uint32_t interface);

/**
 * Leaves what was joined with the same group, source and interface.
 *
 * Errors: as kolo_udp_join; KOLO_EADDRNOTAVAIL for what was not joined.
 */
int kolo_udp_leave(kolo_loop *loop,
                   kolo_udp udp,
                   const kolo_address *group,
                   const kolo_address *source,
                   uint32_t interface);

/** Whether this machine, too, gets what the socket sends to groups that it has joined. At first: yes. */
int kolo_udp_set_multicast_loop(kolo_loop *loop,
                                kolo_udp udp,
                                bool on);

/**
 * How many routers what is sent to groups may pass: 0 stays on this machine, 1, as at first, on the
 * link.
 *
 * Errors: KOLO_EINVAL above 255.
 */
int kolo_udp_set_multicast_ttl(kolo_loop *loop, kolo_udp udp, uint32_t hops);

/**
 * The number of the interface by which what is sent to groups leaves. 0, as at first: as the system
 * routes it.
 *
 * Errors: KOLO_ENODEV and KOLO_EADDRNOTAVAIL for an interface that there is not.
 */
int kolo_udp_set_multicast_interface(kolo_loop *loop, kolo_udp udp, uint32_t interface);

/** Lets datagrams be sent to broadcast addresses, or not. */
int kolo_udp_set_broadcast(kolo_loop *loop, kolo_udp udp, bool on);

/**
 * How many routers a datagram may pass (the hop limit of IPv6).
 *
 * Errors: KOLO_EINVAL for 0 and above 255.
 */
int kolo_udp_set_ttl(kolo_loop *loop, kolo_udp udp, uint32_t hops);

/**
 * The traffic class byte of what is sent: see kolo_datagram.
 *
 * Errors: KOLO_EPERM for what takes privileges.
 */
int kolo_udp_set_tos(kolo_loop *loop, kolo_udp udp, uint8_t tos);

/**
 * What becomes of datagrams that are larger than a link on their way takes: a kolo_fragmentation.
 *
 * Errors: KOLO_EINVAL for a value that there is not; KOLO_ENOTSUP on other systems than Linux,
 * FreeBSD and Darwin.
 */
int kolo_udp_set_fragmentation(kolo_loop *loop, kolo_udp udp, int how);

/**
 * Sets the sizes of the kernel's buffers in bytes; 0 leaves one as it is. The system may give more or
 * less.
 */
int kolo_udp_set_buffers(kolo_loop *loop,
                         kolo_udp udp,
                         uint32_t send_bytes,
                         uint32_t receive_bytes);

/**
 * The sizes of the kernel's buffers in bytes, as the system counts them.
 *
 * Errors: KOLO_EINVAL if either pointer is NULL.
 */
int kolo_udp_buffers(kolo_loop *loop, kolo_udp udp, uint32_t *send_bytes, uint32_t *receive_bytes);

/* Unix-domain sockets ============================================================================
 *
 * Unix-domain streams connect processes of one machine. What reads, writes and closes them is above,
 * with all streams; what pauses their listeners, with all listeners. Here is what makes them, and
 * what only they have: names in the file system, the peer's credentials, and descriptors, also
 * whole handles, that travel from process to process.
 *
 * A name is a path (and `length` its strlen), or on Linux an abstract name, which begins with a zero
 * byte, may have more of them, and is in no file system. A path may have 107 bytes on Linux, 103 on
 * macOS and the BSDs; a deeper place is reached by a relative path, or on Linux through a descriptor
 * of its folder: /proc/self/fd/N/name.
 *
 * Not to be had on Windows (KOLO_ENOTSUP).
 */

/**
 * How a Unix-domain listener listens. Begin with KOLO_LOCAL_LISTEN_OPTIONS_INIT; a member that is
 * zero means its default.
 */
typedef struct kolo_local_listen_options {
    /** sizeof(kolo_local_listen_options), set by KOLO_LOCAL_LISTEN_OPTIONS_INIT. */
    size_t size;
    /** Connections that may wait to be accepted. The system may allow fewer. Default 1024. */
    uint32_t backlog;
    /**
     * The mode of the socket file, such as 0600: who may write to it may connect (on Linux; a folder
     * that others may not enter keeps them out everywhere). It holds before the first can connect.
     * 0: 0777 less the process's umask. Not for abstract names, to which everybody may connect.
     */
    uint32_t mode;
    /**
     * Take the place of a socket file on which nobody listens, as a process leaves it that did not
     * end in order. Never of one on which somebody does, nor of a file that is no socket: that stays
     * KOLO_EADDRINUSE. Whether somebody listens is found out by connecting. Two processes that do
     * this at the same time do not disturb each other, by a lock on the folder (flock(2)), for which
     * this waits up to a tenth of a second; a program that does not heed it, and whose socket is
     * bound but does not listen yet at that moment, loses its file.
     */
    bool replace_stale;
    /**
     * Leave the socket file when the listener closes. By default it is removed then, if it is still
     * the listener's own, and never by a forked child.
     */
    bool keep_file;
    /** Connections accepted in one turn, at most. Default 64. */
    uint32_t accepts_per_turn;
    /**
     * What to do when descriptors run out: a kolo_accept_policy. Those whom KOLO_ACCEPT_REJECT turns
     * away see the connection end.
     */
    int accept_policy;
    /** The first pause after descriptors ran out, in nanoseconds. Default 10 ms. */
    uint64_t retry_min_ns;
    /** The longest pause after they ran out again and again. Default 1 s. */
    uint64_t retry_max_ns;
} kolo_local_listen_options;

/**
 * How a Unix-domain connection is made. Begin with KOLO_LOCAL_CONNECT_OPTIONS_INIT; a member that
 * is zero means its default.
 */
typedef struct kolo_local_connect_options {
    /** sizeof(kolo_local_connect_options), set by KOLO_LOCAL_CONNECT_OPTIONS_INIT. */
    size_t size;
    /**
     * How long the connection may take to be made, until KOLO_ETIMEDOUT: it only takes time while
     * the listener's backlog is full. 0: for ever.
     */
    uint64_t timeout_ns;
} kolo_local_connect_options;

/**
 * Listens at a name: a path, where there must be nothing, or an abstract name. `options` may be
 * NULL for the defaults. Callbacks, and kolo_listener_pause and kolo_listener_resume, are those of
 * all listeners; on_accept gets a kolo_local.
 *
 * Errors: KOLO_EINVAL if `name`, `handler` or `out` is NULL, for no bytes, for a path with a zero
 * byte in it, for structs of a wrong size, for a mode or a policy that there is not, and if
 * retry_min_ns exceeds retry_max_ns; KOLO_EADDRINUSE if there is something at the path, or somebody
 * listens at the name; KOLO_ENAMETOOLONG; KOLO_EACCES, KOLO_ENOENT, KOLO_ENOTDIR, KOLO_EROFS and
 * their like for the path's folder; KOLO_EAGAIN if another process keeps the folder locked, with
 * replace_stale; KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop
 * holds as many handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on
 * Windows, and for an abstract name on other systems than Linux.
 */
int kolo_local_listen(kolo_loop *loop,
                      const char *name,
                      size_t length,
                      const kolo_local_listen_options *options,
                      const kolo_listener_handler *handler,
                      void *user,
                      kolo_listener *out);

/**
 * Takes over a listening Unix-domain socket from elsewhere, such as one that a service manager
 * handed to the process. From success on it is kolo's, and kolo closes it; after an error it is
 * still the caller's. Its file stays when it closes. Of `options` (NULL for the defaults) what
 * concerns accepting counts.
 *
 * Errors: KOLO_EINVAL if `handler` or `out` is NULL, for structs of a wrong size, and for a socket
 * that does not listen; KOLO_EBADF for a descriptor that is not open; KOLO_EEXIST for one that a
 * handle has already (see kolo_socket); KOLO_ENOTSOCK for one that is no socket; KOLO_EAFNOSUPPORT for
 * one that is not of the Unix domain; KOLO_ENOBUFS if the loop holds as many handles as it can;
 * KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
 */
int kolo_local_listener_adopt(kolo_loop *loop,
                              kolo_socket socket,
                              const kolo_local_listen_options *options,
                              const kolo_listener_handler *handler,
                              void *user,
                              kolo_listener *out);

/**
 * Connects to who listens at a name. on_open of the handler comes when the connection is made;
 * until then writes are queued. What the system says against it comes to on_error: KOLO_ENOENT if
 * there is no such name, KOLO_ECONNREFUSED if nobody listens there, KOLO_EACCES, KOLO_EPROTOTYPE for
 * a socket of another type. While the listener's backlog is full, it is tried again. `options` may
 * be NULL for the defaults.
 *
 * Errors, of which no callback tells: KOLO_EINVAL if `name`, `handler` or `out` is NULL, for no
 * bytes, for a path with a zero byte in it, and for structs of a wrong size; KOLO_ENAMETOOLONG;
 * KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many
 * handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows, and for
 * an abstract name on other systems than Linux.
 */
int kolo_local_connect(kolo_loop *loop,
                       const char *name,
                       size_t length,
                       const kolo_local_connect_options *options,
                       const kolo_stream_handler *handler,
                       void *user,
                       kolo_local *out);

/**
 * Makes two connected streams (socketpair(2)), which are open at once: on_open does not come.
 *
 * Errors: KOLO_EINVAL if a handler or an `out` is NULL, and for a handler of a wrong size;
 * KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many
 * handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
 */
int kolo_local_pair(kolo_loop *loop,
                    const kolo_stream_handler *first_handler,
                    void *first_user,
                    const kolo_stream_handler *second_handler,
                    void *second_user,
                    kolo_local *out_first,
                    kolo_local *out_second);

/**
 * Takes over a connected Unix-domain stream socket from elsewhere, which is open at once (on_open
 * does not come). From success on it is kolo's, and kolo closes it; after an error it is still the
 * caller's.
 *
 * Errors: KOLO_EINVAL if `handler` or `out` is NULL, and for a handler of a wrong size; KOLO_EBADF
 * for a descriptor that is not open; KOLO_EEXIST for one that a handle has already (see kolo_socket);
 * KOLO_ENOTSOCK for one that is no socket; KOLO_EAFNOSUPPORT for one that is not of the Unix domain;
 * KOLO_EPROTOTYPE for one that keeps messages apart;
 * KOLO_ENOTCONN for one that is not connected; KOLO_ENOBUFS if the loop holds as many handles as it
 * can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
 */
int kolo_local_adopt(kolo_loop *loop,
                     kolo_socket socket,
                     const kolo_stream_handler *handler,
                     void *user,
                     kolo_local *out);

/**
 * Hands the socket out: from now on it is the caller's to close. The handle closes, and its
 * on_close comes as ever. The socket does not block; bytes that were not read yet are still in it.
 * Received descriptors that were not taken are closed.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while writes are queued, while the connection is
 * being made, and in on_descriptors, since the bytes that the descriptors came with are still to be
 * told; KOLO_ENOTSUP on Windows.
 */
int kolo_local_release(kolo_loop *loop, kolo_local local, kolo_socket *out);

/**
 * Who is at the other end of a connection: the process that made it, or that listened, as they
 * were then; with a pair, who made it. `process` gets 0 where the system does not tell it (it does
 * on Linux and macOS), or if it is not visible from here; it may have ended since, and its number be
 * another's. `user` and `group` are the effective ones.
 *
 * Errors: KOLO_EINVAL if a pointer is NULL; KOLO_ENOTCONN while the connection is being made;
 * KOLO_ENOTSUP where the system does not tell.
 */
int kolo_local_peer_credentials(kolo_loop *loop,
                                kolo_local local,
                                int64_t *process,
                                uint32_t *user,
                                uint32_t *group);

/**
 * The name of a Unix-domain listener, or of this end of a stream: the listener's, if it was
 * accepted; usually none, and `out_length` 0, for others. A zero byte is put behind it; 128 bytes
 * of `room` are always enough.
 *
 * Errors: KOLO_EINVAL if `buffer` or `out_length` is NULL; KOLO_ENOBUFS if there is not `room` for
 * it; KOLO_ENOTSUP on Windows.
 */
int kolo_local_name(kolo_loop *loop,
                    kolo_handle handle,
                    char *buffer,
                    size_t room,
                    size_t *out_length);

/**
 * The name of the other end of a stream: the listener's, if this one connected; usually none, and
 * `out_length` 0, for others. A zero byte is put behind it; 128 bytes of `room` are always enough.
 *
 * Errors: KOLO_EINVAL if `buffer` or `out_length` is NULL; KOLO_ENOBUFS if there is not `room` for
 * it; KOLO_ENOTCONN while the connection is being made; KOLO_ENOTSUP on Windows.
 */
int kolo_local_peer_name(kolo_loop *loop,
                         kolo_local local,
                         char *buffer,
                         size_t room,
                         size_t *out_length);

/**
 * Asks for sizes of the kernel's buffers in bytes; 0 leaves one as it is. The system may give more
 * or less. (On Linux what one end may have under way to the other is its send buffer.)
 */
int kolo_local_set_buffers(kolo_loop *loop,
                           kolo_local local,
                           uint32_t send_bytes,
                           uint32_t receive_bytes);

/**
 * The socket's descriptor, to look at, or to set options that kolo does not have. It is still
 * kolo's: do not close it, and leave it non-blocking.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTSUP on Windows.
 */
int kolo_local_socket(kolo_loop *loop, kolo_local local, kolo_socket *out);

/**
 * Writes bytes, which are copied, and with the first of them passes `count` descriptors to the
 * peer: at least one, at most 253. It takes its turn among the other writes. The descriptors are
 * duplicated by this call, so the caller's stay its own and may be closed.
 *
 * `done` may be NULL; else it is called exactly once if this succeeds, never before it returns.
 * `out_write` may be NULL; else it gets a name for the write, which kolo_stream_write_cancel takes.
 *
 * Returns 0 or 1 as kolo_stream_write does.
 *
 * Errors: KOLO_EINVAL if `data` or `descriptors` is NULL, for no bytes, and for no descriptors or
 * too many; KOLO_EBADF also for a descriptor that is not open; KOLO_EMFILE if descriptors are short;
 * KOLO_ENOTSUP on Windows; the others as for kolo_stream_write. Then nothing is taken. (If too many
 * descriptors of this user's are on their way, on Linux, the connection breaks with
 * KOLO_ETOOMANYREFS.)
 */
int kolo_local_write_with_descriptors(kolo_loop *loop,
                                      kolo_local local,
                                      const void *data,
                                      size_t length,
                                      const int *descriptors,
                                      size_t count,
                                      kolo_write_cb done,
                                      void *user,
                                      uint64_t *out_write);

/**
 * Writes bytes, which are copied, and passes a handle's descriptor with them: a TCP connection or
 * listener, a UDP socket, a Unix-domain stream or listener, a pipe, of the same loop. The peer makes
 * a handle of it again: kolo_local_take_stream, kolo_local_take_listener.
 *
 * The handle itself stays as it is, and shares its connection with the peer: usually the next call
 * is to close it, which the connection outlives. (Its shutdown and its reset it would not: they are
 * the connection's.) What this side has read of it is not passed; what it has written is sent first.
 *
 * `done`, `out_write` and what is returned are as with kolo_local_write_with_descriptors.
 *
 * Errors: KOLO_EINVAL for a handle without a descriptor of kolo's, for no bytes, and if `data` is
 * NULL; KOLO_EBUSY while the handle has writes queued; the others as there.
 */
int kolo_local_send_handle(kolo_loop *loop,
                           kolo_local local,
                           kolo_handle handle,
                           const void *data,
                           size_t length,
                           kolo_write_cb done,
                           void *user,
                           uint64_t *out_write);

/**
 * Takes descriptors that the peer passes, from now on, or no more. A stream that does not has them
 * dropped by the system. on_descriptors tells of them, before the bytes that they came with; then
 * they wait to be taken, at most 1012 on one stream (more are closed), and those that are not taken
 * are closed with the stream. Of a peer that is not trusted, mind that each counts against the limit
 * of this process.
 */
int kolo_local_receive_descriptors(kolo_loop *loop,
                                   kolo_local local,
                                   bool on);

/**
 * How many received descriptors wait to be taken.
 *
 * Errors: KOLO_EINVAL if `out_count` is NULL; KOLO_ENOTSUP on Windows.
 */
int kolo_local_descriptors_waiting(kolo_loop *loop, kolo_local local, size_t *out_count);

/**
 * What kind of handle the first descriptor that waits would be: a kolo_kind, or 0 for one of which
 * kolo makes no handle, such as a file's.
 *
 * Errors: KOLO_EINVAL if `out_kind` is NULL; KOLO_ENOENT if none waits; KOLO_ENOTSUP on Windows.
 */
int kolo_local_next_kind(kolo_loop *loop, kolo_local local, int *out_kind);

/**
 * Takes the first received descriptor that waits: it is the caller's to close, or to give to
 * kolo_udp_adopt and its like. Programs that the process starts do not inherit it.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOENT if none waits; KOLO_ENOTSUP on Windows.
 */
int kolo_local_take_descriptor(kolo_loop *loop, kolo_local local, int *out);

/**
 * Takes the first received descriptor that waits and opens it as the stream that it is: a kolo_tcp,
 * a kolo_local or a kolo_pipe, which kolo_kind_of tells. It is open at once: on_open does not
 * come.
 *
 * Errors: KOLO_EINVAL if `handler` or `out` is NULL, for a handler of a wrong size, and if it is no
 * stream; KOLO_ENOENT if none waits; KOLO_ENOTCONN if it is not connected; KOLO_ENOBUFS if the loop
 * holds as many handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on
 * Windows. Then it still waits.
 */
int kolo_local_take_stream(kolo_loop *loop,
                           kolo_local local,
                           const kolo_stream_handler *handler,
                           void *user,
                           kolo_stream *out);

/**
 * Takes the first received descriptor that waits and opens it as the listener that it is, of TCP or
 * the Unix domain, with the default options.
 *
 * Errors: as for kolo_local_take_stream; KOLO_EINVAL if it is no listener. Then it still waits.
 */
int kolo_local_take_listener(kolo_loop *loop,
                             kolo_local local,
                             const kolo_listener_handler *handler,
                             void *user,
                             kolo_listener *out);

/* Pipes ==========================================================================================
 *
 * Pipes are streams: what reads, writes and closes them is above. Here is what makes them: anonymous
 * pipes, named ones, and descriptors from elsewhere, such as the standard input and output.
 *
 * Most pipes carry bytes in one direction. Reading an end that only writes is KOLO_ENOTCONN, as after
 * the peer's end; writing one that only reads is KOLO_EPIPE, as after kolo_stream_shutdown. A handler
 * with on_data may be given to either: it reads where there is something to read. An end that only
 * writes keeps the loop alive while writes are queued. A reader that goes away is KOLO_EPIPE to
 * on_error at the next write, and never the signal SIGPIPE. kolo_stream_shutdown of an end that only
 * writes closes its descriptor, which is how the reader hears of the end.
 *
 * Whether reading and writing wait is a property of the open file description, not of the descriptor
 * (open(2)): a shell's standard output that one process makes non-blocking is so for all that
 * inherited it. kolo_pipe_reopen leaves such descriptors alone where it can. Where it cannot, and with
 * kolo_pipe_adopt, the description is changed, and changed back when the handle closes or releases it.
 * A process that is killed does not get to that.
 *
 * Not to be had on Windows (KOLO_ENOTSUP).
 */

/** Which way a pipe's end carries bytes, seen from this process. */
typedef enum kolo_direction {
    /** To this process: it is read. */
    KOLO_DIRECTION_READ = 1,
    /** From this process: it is written. */
    KOLO_DIRECTION_WRITE = 2,
} kolo_direction;

/**
 * Makes an anonymous pipe (pipe(2)) with both ends in this loop.
 *
 * Errors: KOLO_EINVAL if a handler or an `out` is NULL, and for a handler of a wrong size;
 * KOLO_EMFILE and KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many
 * handles as it can; KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
 */
int kolo_pipe_pair(kolo_loop *loop,
                   const kolo_stream_handler *reader_handler,
                   void *reader_user,
                   const kolo_stream_handler *writer_handler,
                   void *writer_user,
                   kolo_pipe *out_reader,
                   kolo_pipe *out_writer);

/**
 * Makes an anonymous pipe with one end in this loop, which is read or written as `direction` (a
 * kolo_direction) says. The other end is the caller's to close, for a thread or another process: it
 * waits in reading and writing, as programs expect it, and is not inherited (FD_CLOEXEC) until that
 * is asked for.
 *
 * Errors: KOLO_EINVAL for a direction that there is not, if `handler`, `out` or `out_other` is NULL,
 * and for a handler of a wrong size; the others as for kolo_pipe_pair.
 */
int kolo_pipe_half(kolo_loop *loop,
                   int direction,
                   const kolo_stream_handler *handler,
                   void *user,
                   kolo_pipe *out,
                   int *out_other);

/**
 * Opens a named pipe (fifo(7)), which must exist; `direction` is a kolo_direction.
 *
 * Reading, it opens at once, also before there is a writer; its on_end comes when the last writer
 * has gone. To serve writers that come and go, keep a writing end open too.
 *
 * Errors: KOLO_EINVAL for what is no named pipe, for a direction that there is not, if `path`,
 * `handler` or `out` is NULL, and for a handler of a wrong size; KOLO_ENXIO for writing while there
 * is no reader; KOLO_ENOENT, KOLO_EACCES and their like for the path; the others as for
 * kolo_pipe_pair.
 */
int kolo_pipe_open(kolo_loop *loop,
                   const char *path,
                   int direction,
                   const kolo_stream_handler *handler,
                   void *user,
                   kolo_pipe *out);

/**
 * Takes over a descriptor from elsewhere: a pipe's end, a terminal, a stream socket. Which way it
 * carries bytes is what it was opened for. From success on it is kolo's, and kolo closes it; after
 * an error it is still the caller's. The open file description does not block from then on, for
 * whoever shares it, until the handle closes or releases it. (A socket stays so.)
 *
 * Errors: KOLO_EPERM for what cannot be waited for, because it is always ready: regular files,
 * folders, disks, and, if it is to be read, devices such as /dev/null; KOLO_EPROTOTYPE for a socket
 * that keeps messages apart; KOLO_EBADF for a descriptor that is not open; KOLO_EEXIST for one that a
 * handle has already (see kolo_socket); KOLO_EINVAL if `handler` or `out` is NULL, and for a handler
 * of a wrong size; KOLO_ENOBUFS if the loop holds as many handles as it can; KOLO_ECANCELED while the
 * loop is being freed; KOLO_ENOTSUP on Windows.
 */
int kolo_pipe_adopt(kolo_loop *loop,
                    int descriptor,
                    const kolo_stream_handler *handler,
                    void *user,
                    kolo_pipe *out);

/**
 * Opens what a descriptor of somebody else's refers to, such as 0 or 1, once more for kolo. The
 * descriptor stays its owner's.
 *
 * On Linux an anonymous pipe or a terminal gets an open file description of kolo's own (through
 * /proc/self/fd), and nobody is disturbed. Otherwise, also where /proc is not mounted or the
 * permission is lacking, it is a duplicate, and what is said of kolo_pipe_adopt holds.
 *
 * Errors: as for kolo_pipe_adopt but KOLO_EEXIST; KOLO_EMFILE if descriptors are short.
 */
int kolo_pipe_reopen(kolo_loop *loop,
                     int descriptor,
                     const kolo_stream_handler *handler,
                     void *user,
                     kolo_pipe *out);

/**
 * Hands the descriptor out: from now on it is the caller's to close. The handle closes, and its
 * on_close comes as ever. Bytes that were not read yet are still in it. It blocks if it did when it
 * came.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while writes are queued; KOLO_ENOTCONN after a
 * shutdown that closed it; KOLO_ENOTSUP on Windows.
 */
int kolo_pipe_release(kolo_loop *loop, kolo_pipe pipe, int *out);

/**
 * The descriptor, to look at, or to set options that kolo does not have. It is still kolo's: do not
 * close it, and leave it non-blocking.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_ENOTCONN after a shutdown that closed it; KOLO_ENOTSUP
 * on Windows.
 */
int kolo_pipe_descriptor(kolo_loop *loop, kolo_pipe pipe, int *out);

/* Child processes ================================================================================
 *
 * A process handle stands for a program that this process started, and is there as long as that
 * program runs. When it ends, its function is called, once, with its exit status; then the handle
 * closes by itself, and its on_close (kolo_on_close) is the last that is heard of it. So nothing
 * needs to be closed or waited for, and no zombie stays.
 *
 * What keeps a program from being started is an error of kolo_process_spawn: no process, no
 * descriptor and no stream is left of it then, and kolo_process_failed_step says what failed.
 *
 * kolo waits for its own children only, each by name (on Linux by a descriptor, elsewhere woken by
 * SIGCHLD): those of other code are left to it. On Windows every call returns KOLO_ENOTSUP.
 */

/** What one of a program's descriptors is to be. */
typedef enum kolo_stdio_type {
    /**
     * This process' own descriptor of the same number. One of 0, 1 and 2 that is closed here, or
     * has FD_CLOEXEC, is the null device there; another one that is closed is KOLO_EBADF.
     */
    KOLO_STDIO_INHERIT = 0,
    /** The null device: reads the end, writes into nothing. */
    KOLO_STDIO_NULL = 1,
    /**
     * `descriptor`, which stays the caller's. It is the same open file: where it does not block
     * here, it does not block there.
     */
    KOLO_STDIO_DESCRIPTOR = 2,
    /**
     * The file `path`, opened with `open_flags` and `mode` during the call. (A FIFO is opened when
     * its other end is, unless O_NONBLOCK is among the flags.)
     */
    KOLO_STDIO_FILE = 3,
    /** A pipe that the program reads: what is written to `out_stream`. */
    KOLO_STDIO_CHILD_READS = 4,
    /** A pipe that the program writes: what `out_stream` receives. */
    KOLO_STDIO_CHILD_WRITES = 5,
    /** A pair of connected sockets, for both directions. */
    KOLO_STDIO_BOTH_WAYS = 6,
    /** Not open there. Not for 0, 1 and 2. */
    KOLO_STDIO_NONE = 7,
} kolo_stdio_type;

/** What a spawn that failed was doing. */
typedef enum kolo_spawn_step {
    /** Making the new process, and what is needed for it: its place in the loop, memory. */
    KOLO_SPAWN_CREATE = 1,
    /** Putting it into its session or process group. */
    KOLO_SPAWN_GROUP = 2,
    /** Giving it its descriptors. */
    KOLO_SPAWN_DESCRIPTORS = 3,
    /** Making the terminal its controlling one. */
    KOLO_SPAWN_TERMINAL = 4,
    /** Setting its resource limits, niceness or parent-death signal. */
    KOLO_SPAWN_LIMITS = 5,
    /** Changing its user, group or groups. */
    KOLO_SPAWN_CREDENTIALS = 6,
    /** Changing to its directory. */
    KOLO_SPAWN_DIRECTORY = 7,
    /** Starting the program. */
    KOLO_SPAWN_PROGRAM = 8,
} kolo_spawn_step;

/** One of a program's descriptors. Begin with KOLO_STDIO_INIT. */
typedef struct kolo_stdio {
    /** sizeof(kolo_stdio), set by KOLO_STDIO_INIT. */
    size_t size;
    /** A kolo_stdio_type. */
    int type;
    /** For KOLO_STDIO_FILE: the permissions of a file that is made (see open(2)). */
    uint32_t mode;
    /** For KOLO_STDIO_DESCRIPTOR. */
    kolo_socket descriptor;
    /** For KOLO_STDIO_FILE. */
    const char *path;
    /** For KOLO_STDIO_FILE: the system's O_RDONLY, O_WRONLY | O_CREAT | O_TRUNC and the like. */
    int open_flags;
    /** For pipes: the stream's handler, which must be there, and the user pointer that it gets. */
    const kolo_stream_handler *handler;
    /** The last argument of the handler's callbacks. */
    void *user;
    /**
     * For pipes: gets the stream. It is a stream like any other, and outlives the program: close
     * it, or let its end close it.
     */
    kolo_stream *out_stream;
} kolo_stdio;

/** A limit on a resource (setrlimit(2)). */
typedef struct kolo_resource_limit {
    /** The system's number for it: RLIMIT_NOFILE, RLIMIT_CPU... */
    int resource;
    /** The limit. UINT64_MAX: none. */
    uint64_t soft;
    /** Up to where the program may raise the limit. UINT64_MAX: none. */
    uint64_t hard;
} kolo_resource_limit;

/**
 * A program to be started, and how. Begin with KOLO_PROCESS_OPTIONS_INIT; all but `program` may
 * stay zero.
 */
typedef struct kolo_process_options {
    /** sizeof(kolo_process_options), set by KOLO_PROCESS_OPTIONS_INIT. */
    size_t size;
    /**
     * The program. A name without a slash is looked for in the folders of the variable PATH of the
     * environment that it gets (/bin and /usr/bin without one); one with a slash, unless it begins
     * with it, from the directory that it starts in.
     */
    const char *program;
    /**
     * Its arguments, a NULL after the last; the first is what it finds as its own name. No shell
     * sees them. NULL: only the name.
     */
    const char *const *arguments;
    /** Its environment, each "NAME=value", a NULL after the last. NULL: this process'. */
    const char *const *environment;
    /** The directory that it starts in. NULL: this process'. */
    const char *directory;
    /**
     * Its descriptors: the first one is its descriptor 0, and so on. Those of 0, 1 and 2 that are
     * not among them are inherited; no others are passed on.
     */
    const kolo_stdio *stdio;
    /** How many, at most 1024. */
    size_t stdio_count;
    /** Its resource limits, where they differ from this process'. */
    const kolo_resource_limit *limits;
    /** How many, at most 64. */
    size_t limit_count;
    /** Its supplementary groups (setgroups(2)), if not NULL. */
    const uint32_t *groups;
    /** How many, at most 65536 (and what the system takes). */
    size_t group_count;
    /**
     * The user that it runs as (setuid(2)), if `set_user`. If this process is root, it is in no
     * supplementary group then but those of `groups`.
     */
    uint32_t user;
    /** The group that it runs as (setgid(2)), if `set_group`. */
    uint32_t group;
    /** The permissions that files made by it do not get (umask(2)), if `set_umask`. */
    uint32_t umask;
    /** The process group of this session that it joins; 0: this process', unless `new_group`. */
    int process_group;
    /** So much nicer than this process (nice(2)). */
    int nice;
    /**
     * The signal that it gets when the thread that starts it ends (prctl(2)); 0: none. Linux only,
     * elsewhere KOLO_ENOTSUP.
     */
    int parent_death_signal;
    /** `user` counts. */
    bool set_user;
    /** `group` counts. */
    bool set_group;
    /** `umask` counts. */
    bool set_umask;
    /** It leads a new process group (setpgid(2)): see kolo_process_kill_group. */
    bool new_group;
    /** It leads a new session without a terminal, and in it a new group (setsid(2)). */
    bool new_session;
    /** It leads a new session, whose terminal is its descriptor 0 (TIOCSCTTY). */
    bool controlling_terminal;
    /**
     * Leaves it every descriptor that is open here without FD_CLOEXEC. Otherwise it gets none but
     * those of `stdio`.
     */
    bool keep_descriptors;
    /**
     * It is killed (SIGKILL) when its handle is closed while it runs, also by kolo_loop_free, which
     * waits until all that it has killed are gone: for a moment, or a second at most if the system
     * cannot end them.
     */
    bool kill_on_close;
} kolo_process_options;

/**
 * A program has ended: by itself, with the exit code `status` (0 to 255; 0 means that all went
 * well), and `signal` is 0; or by the signal `signal`, and `status` is 128 + `signal`. `status` is
 * KOLO_ECHILD if that cannot be known: other code of this process waited for it, or ignores
 * SIGCHLD; or this is a fork of the process that started it.
 *
 * The handle closes when this returns. Bytes that the program wrote may still come to a stream, and
 * the end of the stream does.
 */
typedef void (*kolo_exit_cb)(kolo_loop *loop,
                             kolo_process process,
                             int status,
                             int signal,
                             void *user);

/**
 * What a program, and those children of its own that it waited for, used (getrusage(2)). Begin with
 * KOLO_RESOURCE_USAGE_INIT.
 */
typedef struct kolo_resource_usage {
    /** sizeof(kolo_resource_usage), set by KOLO_RESOURCE_USAGE_INIT. */
    size_t size;
    /** Processor time in its own code. */
    uint64_t user_ns;
    /** Processor time in the system, on its behalf. */
    uint64_t system_ns;
    /** The most memory that it had resident at once. */
    uint64_t resident_max_bytes;
    /** Page faults that needed no reading. */
    uint64_t minor_faults;
    /** Page faults that read from a disk. */
    uint64_t major_faults;
    /** Times that a file system read for it. */
    uint64_t block_reads;
    /** Times that a file system wrote for it. */
    uint64_t block_writes;
    /** Times that it gave the processor up, to wait. */
    uint64_t voluntary_switches;
    /** Times that the processor was taken from it. */
    uint64_t involuntary_switches;
} kolo_resource_usage;

/**
 * Starts a program. When it has ended, `on_exit` is called, exactly once; NULL if that is of no
 * interest.
 *
 * The program begins with this process' environment, directory, user, limits, process group and
 * standard descriptors, unless the options say otherwise. Signals that are handled here do to it
 * what they do by default, SIGPIPE also if it is ignored here; others that are ignored stay so; none
 * is blocked. It takes this thread as long as the system needs to have the program loaded, some
 * tenths of a millisecond, however much memory this process has.
 *
 * Errors, after which nothing is left of it and nothing is called back, not even the on_close of its
 * streams: KOLO_ENOENT for a program or a directory that is not there; KOLO_EACCES for one that may
 * not be used; KOLO_ENOTDIR; KOLO_ENOEXEC for a file that is no program (also a script without #!);
 * KOLO_E2BIG for arguments and environment that are too long; KOLO_EPERM for what this process may not
 * change; KOLO_EMFILE, KOLO_ENFILE, KOLO_EAGAIN, KOLO_ENOMEM if descriptors, processes or memory are
 * short; KOLO_EBADF for a descriptor to be passed on that is not open; KOLO_EINVAL if `options`, the
 * program or `out` is NULL, for an unknown type, a pipe without handler or `out_stream`, `arguments`
 * without a name, more than one of `process_group`, `new_group` and `new_session`, too many groups or
 * limits, or a limit that cannot be; KOLO_ENOBUFS if the loop holds as many handles as it can;
 * KOLO_ECANCELED while the loop is being freed.
 */
int kolo_process_spawn(kolo_loop *loop,
                       const kolo_process_options *options,
                       kolo_exit_cb on_exit,
                       void *user,
                       kolo_process *out);

/**
 * What the last kolo_process_spawn on this thread failed at, a kolo_spawn_step: a missing directory
 * and a missing program are both KOLO_ENOENT. 0 if it did not fail, or for a wrong argument.
 */
int kolo_process_failed_step(void);

/**
 * The number that the system gave the program (its pid): always positive. While on_exit runs it is
 * not used again.
 */
int kolo_process_id(kolo_loop *loop, kolo_process process);

/**
 * Sends a signal to the program (kill(2)): SIGTERM asks it to end, SIGKILL ends it, 0 only asks
 * whether that would be allowed. It never hits another process that got its number.
 *
 * Errors: KOLO_ESRCH if it has ended (in its on_exit; after that the handle is closed); KOLO_EPERM
 * for one that changed its user; KOLO_EINVAL for a number that is no signal.
 */
int kolo_process_kill(kolo_loop *loop, kolo_process process, int signal);

/**
 * Sends a signal to the process group that the program was started as the leader of (`new_group`,
 * `new_session`): to it and to those that it started, unless they left the group. On Linux also in
 * its on_exit, for those that it leaves behind.
 *
 * Errors: KOLO_EINVAL for one that was not started as a leader; KOLO_ESRCH if nobody is left; the
 * others as for kolo_process_kill.
 */
int kolo_process_kill_group(kolo_loop *loop, kolo_process process, int signal);

/**
 * What the program has used of the machine, in its on_exit.
 *
 * Errors: KOLO_EBUSY while it runs; KOLO_ECHILD if its status is not known either; KOLO_EINVAL if
 * `out` is NULL or its size is wrong.
 */
int kolo_process_usage(kolo_loop *loop, kolo_process process, kolo_resource_usage *out);

/**
 * Sends a signal to any process, or with a negative number to a process group (kill(2)). For a
 * program that kolo started kolo_process_kill is better: it never hits another one. Any thread.
 *
 * As with kill(2), a `pid` of 0 is every process of the caller's group, the caller too; -1 is every
 * process that the caller may signal, which for root is nearly all of the system (on Linux all but the
 * first one and the caller). So check a number before it comes here: one that was never set is 0, and one
 * that failed to be found is often -1.
 *
 * Errors: KOLO_ESRCH if there is none; KOLO_EPERM if it may not be; KOLO_EINVAL for a number that
 * is no signal.
 */
int kolo_kill(int pid,
              int signal);

/* Terminals ======================================================================================
 *
 * A terminal is a stream: what reads, writes and closes it is above. Here is what opens one, its
 * modes, and the size of its window. On Windows every function answers KOLO_ENOTSUP.
 *
 * A mode is the terminal's, not the handle's. The one that it was found in is put back when every
 * handle that has set another one is closed, or the loop freed; when the process ends, by exit or
 * by a signal whose disposition is the default one; and while it is stopped by SIGTSTP. It is not
 * put back by SIGKILL or SIGSTOP (after which it is set again when the process goes on), by _exit
 * and exec, nor by real-time signals; a program with a handler of its own for a signal that ends
 * it calls kolo_tty_reset_mode there. A forked child leaves the terminal alone unless it sets a
 * mode itself. From the background nothing is put back: the terminal is somebody else's then.
 */

/** What a terminal does with keys and text. */
typedef enum kolo_tty_mode {
    /**
     * As the terminal was found: as a rule it hands out whole lines, which the user can edit, and
     * shows what is typed.
     */
    KOLO_TTY_NORMAL = 0,
    /**
     * Every byte as it is, both ways (cfmakeraw): keys come at once and are not shown, Ctrl-C is
     * the byte 3 and no signal, and a new line is written as "\r\n".
     */
    KOLO_TTY_RAW = 1,
    /**
     * Keys come at once and are not shown, but those that make signals make them, and text is
     * written as ever.
     */
    KOLO_TTY_CBREAK = 2,
    /** Keys as KOLO_TTY_RAW has them, and text written as ever: "\n" is a new line. */
    KOLO_TTY_RAW_INPUT = 3,
} kolo_tty_mode;

/** The size of a terminal's window. What the terminal does not know is 0. This struct never changes. */
typedef struct kolo_window_size {
    /** Characters in a line. */
    uint16_t columns;
    /** Lines. */
    uint16_t rows;
    /** Pixels from left to right. */
    uint16_t width_px;
    /** Pixels from top to bottom. */
    uint16_t height_px;
} kolo_window_size;

/** The window has become as large as `size` says. */
typedef void (*kolo_tty_resize_cb)(kolo_loop *loop,
                                   kolo_tty tty,
                                   const kolo_window_size *size,
                                   void *user);

/**
 * Opens a terminal as a stream, for what the descriptor is open for: reading, writing or both. It
 * is open at once (on_open does not come), and its mode stays as it is. In the normal mode the end
 * of input (Ctrl-D on an empty line) is on_end.
 *
 * The descriptor stays the caller's. kolo opens the terminal anew and works with an open file
 * description of its own: that of a standard stream is shared with the shell and with every
 * program that it has started, and one that no longer waits (O_NONBLOCK) would surprise them.
 * Where it cannot be opened anew (no permission, as after su; a terminal out of sight; the
 * emulator's side of a pseudo-terminal), the description is shared after all, does not wait while
 * the handle is open, and is put back when that closes.
 *
 * Errors: KOLO_EINVAL if `handler` or `out` is NULL, and for a handler of a wrong size; KOLO_ENOTTY
 * for what is no terminal; KOLO_EBADF for a descriptor that is not open; KOLO_EMFILE and
 * KOLO_ENFILE if descriptors are short; KOLO_ENOBUFS if the loop holds as many handles as it can;
 * KOLO_ECANCELED while the loop is being freed; KOLO_ENOTSUP on Windows.
 */
int kolo_tty_open(kolo_loop *loop,
                  kolo_socket descriptor,
                  const kolo_stream_handler *handler,
                  void *user,
                  kolo_tty *out);

/**
 * Sets the terminal's mode (of kolo_tty_mode), at once: keys that wait to be read stay.
 * KOLO_TTY_NORMAL puts back the mode that the terminal was found in, whichever handle has set
 * another one. A program in the background that does this is stopped (SIGTTOU), as every program
 * that changes the terminal.
 *
 * Errors: KOLO_EINVAL for a mode that there is not; KOLO_EIO for a terminal that was hung up, and
 * in the background where nobody could continue the program; KOLO_ENOBUFS if 64 terminals of the
 * process are in another mode already; KOLO_EMFILE if descriptors are short; KOLO_ENOTSUP on
 * Windows.
 */
int kolo_tty_set_mode(kolo_loop *loop, kolo_tty tty, int mode);

/**
 * Puts every terminal of the process back into the mode it was found in, at once, until a mode is
 * set again: for a handler of a signal that ends the process, and before exec. In a forked child it
 * does nothing: the terminal is its parent's.
 *
 * Async-signal-safe: it may be called in a signal handler. Any thread. It leaves kolo_system_error
 * as it is.
 *
 * Errors: those of the system for the first that cannot be put back, such as KOLO_EIO for one that
 * was hung up; KOLO_EBUSY in a handler for a fault inside kolo's own change of a mode. On Windows
 * there is nothing to put back.
 */
int kolo_tty_reset_mode(void);

/**
 * The size of the terminal's window, as it is now.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_EIO for a terminal that was hung up; KOLO_ENOTSUP on
 * Windows.
 */
int kolo_tty_window_size(kolo_loop *loop, kolo_tty tty, kolo_window_size *out);

/**
 * Calls `cb` when the size of the window has become another one, in place of the one it called
 * before; NULL: calls none. The system tells by SIGWINCH, so only the process' own terminal
 * (tty(4)) is heard of, and only in the foreground; what changed meanwhile is told when the
 * process goes on in it. Several changes may be one callback. This does not keep the loop alive.
 *
 * Errors: KOLO_ENOBUFS if more than 256 loops watch signals; KOLO_EMFILE and KOLO_ENFILE if
 * descriptors are short; KOLO_EIO for a terminal that was hung up; KOLO_ENOTSUP on Windows.
 */
int kolo_tty_on_resize(kolo_loop *loop, kolo_tty tty, kolo_tty_resize_cb cb, void *user);

/* Watching files and folders =====================================================================
 *
 * A watch tells of changes to a file, or to a folder and what is in it. What is watched is a path:
 * when its file is replaced, as editors do it, or removed and made again, the watch goes on with
 * what is there then. A symbolic link is followed; those below a watched folder are not. Events come
 * in the order in which things happened, and nothing is lost in silence: see KOLO_WATCH_OVERFLOW.
 *
 * Linux uses inotify(7): one descriptor for all watches of a loop, no thread. It stays until the
 * loop is freed, since closing it may take tenths of a second. Each watched folder
 * takes one of fs.inotify.max_user_watches, and each loop that watches, or has watched, one of
 * fs.inotify.max_user_instances. The kernel does not tell what is written through memory mappings,
 * nor what another machine does to a shared file system: for that, and for files that the system
 * makes up (/proc, /sys), a watch can look again and again (`poll_ns`). Other systems tell by
 * FSEvents, kqueue or ReadDirectoryChangesW, less exactly: renames may be told as removed and
 * created, and a path that is removed and made again may not be found again.
 */

/**
 * What can happen to what is watched. An event is exactly one of them; several, combined with |,
 * say which are asked for.
 */
typedef enum kolo_watch_change {
    /**
     * A name has got a file or folder: made, moved here from outside of what is watched, or put in
     * the place of another. A folder that appears in one that is watched recursively is told with
     * all that is in it. With an empty path: what is watched is there (again), or another file has
     * taken its place, as editors save.
     */
    KOLO_WATCH_CREATED = 1,
    /**
     * The contents of a file changed. One event stands for all writes until it is told. It is no
     * promise that the writer is done.
     */
    KOLO_WATCH_MODIFIED = 2,
    /** Attributes changed: permissions, owner, times. */
    KOLO_WATCH_METADATA = 4,
    /**
     * A name is gone: removed, or moved to outside of what is watched, then with all that was in
     * it. With an empty path: what is watched is gone. The watch goes on, and tells when it is there
     * again.
     */
    KOLO_WATCH_REMOVED = 8,
    /**
     * A file or folder has got another name inside of what is watched; a file that had the new name
     * before is gone. Where this is not asked for it is told as removed and created.
     */
    KOLO_WATCH_RENAMED = 16,
    /**
     * Changes were lost: look at everything anew. Told in any case, when everything is watched
     * again. Also told once after kolo_loop_fork.
     */
    KOLO_WATCH_OVERFLOW = 32,
    /** A file or folder cannot be watched or read: see `error`. The rest goes on. Told in any case. */
    KOLO_WATCH_ERROR = 64,
    /**
     * Everything is watched from now on. Told once. What happens below the folders in a watched
     * folder may be missed before.
     */
    KOLO_WATCH_READY = 128,
} kolo_watch_change;

/**
 * How a path is watched. Begin with KOLO_WATCH_OPTIONS_INIT; a member that is zero means its
 * default.
 */
typedef struct kolo_watch_options {
    /** sizeof(kolo_watch_options), set by KOLO_WATCH_OPTIONS_INIT. */
    size_t size;
    /**
     * What is told, of kolo_watch_change. What nobody asks for the system is not asked for: without
     * KOLO_WATCH_MODIFIED a busy log file costs nothing. Default: everything.
     */
    uint32_t changes;
    /**
     * A folder is watched with all folders below it, also those that come later. Default: only what
     * is in the folder itself.
     */
    bool recursive;
    /**
     * The system is not asked: it is looked again and again, on a thread of the loop's pool, with so
     * much time in between, at least a millisecond. The next look begins only after the last has
     * ended. Default: the system is asked.
     */
    uint64_t poll_ns;
} kolo_watch_options;

/** What a polling watch knows of a file. */
typedef struct kolo_watch_state {
    /** Its length in bytes. */
    uint64_t bytes;
    /** When its contents were last modified: nanoseconds since 1970, negative before. */
    int64_t modified_ns;
    /** Its number in its file system; 0 on Windows. */
    uint64_t inode;
    /** Its type and permissions as stat(2) has them; on Windows 1 if it can be written, or 0. */
    uint32_t mode;
} kolo_watch_state;

/** An event, there until the callback returns. Later versions may have more at its end. */
typedef struct kolo_watch_event {
    /** What this library knows of it, in bytes. */
    size_t size;
    /** What happened: one of kolo_watch_change. */
    int change;
    /** KOLO_WATCH_ERROR: why; otherwise 0. */
    int error;
    /**
     * What it happened to, relative to what is watched, and empty for what is watched itself; with
     * the new name if it was renamed. Never NULL, ends with a NUL. Bytes as the file system has
     * them, which need not be UTF-8; on Windows UTF-8.
     */
    const char *path;
    /** Its length without the NUL. */
    size_t path_length;
    /** KOLO_WATCH_RENAMED: the former name, in the same way; otherwise NULL. */
    const char *from;
    /** Its length without the NUL. */
    size_t from_length;
    /** What it was, for a watch that polls and if there was something; otherwise NULL. */
    const kolo_watch_state *before;
    /** What it is, for a watch that polls and if there is something; otherwise NULL. */
    const kolo_watch_state *after;
    /** It happened to a folder. A symbolic link is none, wherever it leads. */
    bool is_directory;
} kolo_watch_event;

/** Something happened. */
typedef void (*kolo_watch_cb)(kolo_loop *loop,
                              kolo_watch watch,
                              const kolo_watch_event *event,
                              void *user);

/**
 * Watches what is at `path` from now on; a relative one counts from the current folder as it is
 * now. What happens to it, and to the names in it if it is a folder, is told from this call on (by a
 * watch that polls a folder: from KOLO_WATCH_READY on). The folders below are watched in the turns
 * that follow, so that opening is quick, however many they are. `options` may be NULL for the
 * defaults. The watch holds the loop until it is closed: see kolo_unref.
 *
 * Errors: KOLO_EINVAL if `path`, `cb` or `out` is NULL, for an empty path, unknown changes, and
 * options of a wrong size; KOLO_ENOENT, KOLO_EACCES, KOLO_ENOTDIR, KOLO_ELOOP and the like if there
 * is nothing at the path or it must not be read; KOLO_ENOSPC if fs.inotify.max_user_watches is
 * reached, KOLO_EMFILE if fs.inotify.max_user_instances is, or descriptors are short; KOLO_EAGAIN
 * and KOLO_ENOBUFS if the pool has no thread or no room for a watch that polls; KOLO_ENOBUFS if the
 * loop holds as many handles as it can; KOLO_ECANCELED while the loop is being freed.
 */
int kolo_watch_open(kolo_loop *loop,
                    const char *path,
                    const kolo_watch_options *options,
                    kolo_watch_cb cb,
                    void *user,
                    kolo_watch *out);

/**
 * Writes the path that is watched, made absolute, and a NUL into `path`, which has room for
 * `capacity` bytes; returns its length.
 *
 * Errors: KOLO_EINVAL if `path` is NULL; KOLO_ENOBUFS if it does not fit.
 */
int kolo_watch_path(kolo_loop *loop, kolo_watch watch, char *path, size_t capacity);

/* The file system ================================================================================
 *
 * Operations on names. Each comes twice. kolo_fs_stat has it done on a thread of the loop's pool
 * (KOLO_WORK_FILES), and then calls `done` on the loop; kolo_fs_stat_sync does it here and now, needs
 * no loop, and may be called from any thread.
 *
 * What is under way is a request, as with kolo_work_submit: `done` comes exactly once, never before
 * the function returns, and `out`, which may be NULL, gets its number for kolo_request_cancel. Paths
 * are texts that end with a NUL, of any bytes (Windows: UTF-8), and are copied.
 *
 * The errors of the operation itself, which the first form tells to `done` and the second one
 * returns, are those of the system call that is named: KOLO_ENOENT, KOLO_EACCES, KOLO_ENOTDIR,
 * KOLO_ELOOP, KOLO_ENAMETOOLONG, KOLO_EROFS, KOLO_EXDEV and so on; kolo_system_error tells the
 * system's own number. Besides, the first form returns KOLO_EINVAL if a path or `done` is NULL,
 * KOLO_ENOBUFS if as much work waits as may or the loop holds as many handles as it can, KOLO_EAGAIN
 * if the system gives no thread, KOLO_ECANCELED while the loop is being freed; then `done` does not
 * come.
 *
 * Windows: kolo_fs_mkdtemp, kolo_fs_chown, kolo_fs_lchown, kolo_fs_lutimes and kolo_fs_statfs answer
 * KOLO_ENOTSUP; of permissions there is only whether a file may be written to.
 */

/** What a name stands for. */
typedef enum kolo_file_type {
    /** Something else, or not told. */
    KOLO_FILE_TYPE_UNKNOWN = 0,
    /** A regular file. */
    KOLO_FILE_TYPE_REGULAR = 1,
    /** A directory. */
    KOLO_FILE_TYPE_DIRECTORY = 2,
    /** A symbolic link. */
    KOLO_FILE_TYPE_LINK = 3,
    /** A FIFO (named pipe). */
    KOLO_FILE_TYPE_FIFO = 4,
    /** A Unix-domain socket. */
    KOLO_FILE_TYPE_SOCKET = 5,
    /** A character device. */
    KOLO_FILE_TYPE_CHARACTER_DEVICE = 6,
    /** A block device. */
    KOLO_FILE_TYPE_BLOCK_DEVICE = 7,
} kolo_file_type;

/** What is asked of kolo_fs_access; to be combined with |. */
typedef enum kolo_access {
    /** It is there. */
    KOLO_ACCESS_EXISTS = 0,
    /** It may be executed; a directory, gone through. */
    KOLO_ACCESS_EXECUTE = 1,
    /** It may be written to. */
    KOLO_ACCESS_WRITE = 2,
    /** It may be read. */
    KOLO_ACCESS_READ = 4,
} kolo_access;

/** How kolo_fs_copy copies; to be combined with |. */
typedef enum kolo_copy_flag {
    /** Fails with KOLO_EEXIST if the target exists. */
    KOLO_COPY_EXCLUSIVE = 1,
    /**
     * The copy must share the blocks of the original until one of them is changed; where the file
     * system cannot do that it fails, most often with KOLO_ENOTSUP, KOLO_EXDEV or KOLO_EINVAL.
     * Without this flag they are shared where that can be done.
     */
    KOLO_COPY_REFLINK = 2,
} kolo_copy_flag;

/** For the times that kolo_fs_utimes does not take from its arguments; to be combined with |. */
typedef enum kolo_utimes_flag {
    /** The file was read now. */
    KOLO_UTIMES_ACCESSED_NOW = 1,
    /** When it was read stays as it is. */
    KOLO_UTIMES_ACCESSED_KEEP = 2,
    /** The file was changed now. */
    KOLO_UTIMES_MODIFIED_NOW = 4,
    /** When it was changed stays as it is. */
    KOLO_UTIMES_MODIFIED_KEEP = 8,
} kolo_utimes_flag;

/** What is known of a file (stat(2)). Times are nanoseconds since 1970, or before it if negative. */
typedef struct kolo_stat {
    /** sizeof(kolo_stat), set by KOLO_STAT_INIT. */
    size_t size;
    /** A kolo_file_type. */
    uint32_t type;
    /** Permissions: the lowest twelve bits of st_mode. */
    uint32_t mode;
    /** The file system that it is in. */
    uint64_t device;
    /** Its number there: with `device`, what tells one file from another. */
    uint64_t inode;
    /** Names that it has. */
    uint64_t links;
    /** Its length in bytes. */
    uint64_t length;
    /** What it takes on the disk, in bytes. */
    uint64_t allocated;
    /** The device that it stands for, if it is one. */
    uint64_t special_device;
    /** Its owner. */
    uint32_t uid;
    /** Its group. */
    uint32_t gid;
    /** A size that reading and writing serve well with. */
    uint64_t block_size;
    /** When it was last read. */
    int64_t accessed_ns;
    /** When its bytes were last changed. */
    int64_t modified_ns;
    /** When anything about it was last changed. */
    int64_t changed_ns;
    /** When it was made; 0 where that is not known. */
    int64_t created_ns;
} kolo_stat;

/** As kolo_fs_cb, with what is known of the file; NULL if `status` is not 0. */
typedef void (*kolo_stat_cb)(kolo_loop *loop,
                             kolo_request request,
                             int status,
                             const kolo_stat *stat,
                             void *user);

/**
 * An operation is done: `status` is 0, or what went wrong; KOLO_ECANCELED when it was taken back, or
 * the request closed.
 */
typedef void (*kolo_fs_cb)(kolo_loop *loop, kolo_request request, int status, void *user);

/** As kolo_fs_cb, with a path of so many bytes and a NUL; NULL if `status` is not 0. */
typedef void (*kolo_path_cb)(kolo_loop *loop,
                             kolo_request request,
                             int status,
                             const char *path,
                             size_t length,
                             void *user);

/** How much a file system holds (statfs(2)). */
typedef struct kolo_statfs {
    /** sizeof(kolo_statfs), set by KOLO_STATFS_INIT. */
    size_t size;
    /** What kind it is, as Linux numbers them (f_type); elsewhere 0. */
    uint64_t kind;
    /** The size of a block in bytes: the unit of the next three. */
    uint64_t block_size;
    /** Blocks in all. */
    uint64_t blocks;
    /** Free blocks. */
    uint64_t blocks_free;
    /** Free blocks that a program without privileges can have. */
    uint64_t blocks_available;
    /** Files in all that there can be. */
    uint64_t files;
    /** Files that there can still be. */
    uint64_t files_free;
} kolo_statfs;

/** As kolo_fs_cb, with what the file system holds; NULL if `status` is not 0. */
typedef void (*kolo_statfs_cb)(kolo_loop *loop,
                               kolo_request request,
                               int status,
                               const kolo_statfs *statfs,
                               void *user);

/**
 * As kolo_fs_cb, with the bytes that were read, written or copied: also if `status` says that an error
 * came before all were.
 */
typedef void (*kolo_transfer_cb)(kolo_loop *loop,
                                 kolo_request request,
                                 int status,
                                 uint64_t length,
                                 void *user);

/** Tells what is known of a file, of what a symbolic link leads to (stat(2)). */
int kolo_fs_stat(kolo_loop *loop,
                 const char *path,
                 kolo_stat_cb done,
                 void *user,
                 kolo_request *out);

/** As kolo_fs_stat, here and now. Any thread. `out` begins with its `size`. */
int kolo_fs_stat_sync(const char *path, kolo_stat *out);

/** Tells what is known of a file, of a symbolic link itself (lstat(2)). */
int kolo_fs_lstat(kolo_loop *loop,
                  const char *path,
                  kolo_stat_cb done,
                  void *user,
                  kolo_request *out);

/** As kolo_fs_lstat, here and now. Any thread. `out` begins with its `size`. */
int kolo_fs_lstat_sync(const char *path, kolo_stat *out);

/**
 * Asks whether the process may use a file: `mode` is of kolo_access (access(2)). By the time the
 * answer comes it may be different.
 *
 * Errors at once: KOLO_EINVAL for a mode that there is not.
 */
int kolo_fs_access(kolo_loop *loop,
                   const char *path,
                   uint32_t mode,
                   kolo_fs_cb done,
                   void *user,
                   kolo_request *out);

/** As kolo_fs_access, here and now. Any thread. */
int kolo_fs_access_sync(const char *path, uint32_t mode);

/** Makes a directory with the permissions `mode`, less those that the process masks (mkdir(2)). */
int kolo_fs_mkdir(kolo_loop *loop,
                  const char *path,
                  uint32_t mode,
                  kolo_fs_cb done,
                  void *user,
                  kolo_request *out);

/** As kolo_fs_mkdir, here and now. Any thread. */
int kolo_fs_mkdir_sync(const char *path, uint32_t mode);

/**
 * Makes a directory whose name is `prefix` and six characters that no other has, for this user alone
 * (mkdtemp(3)), and tells its path.
 */
int kolo_fs_mkdtemp(kolo_loop *loop,
                    const char *prefix,
                    kolo_path_cb done,
                    void *user,
                    kolo_request *out);

/**
 * As kolo_fs_mkdtemp, here and now. Any thread. The path and a NUL are written to
 * `text`, if `capacity` bytes hold them, else it returns KOLO_ENOBUFS. Returns the path's length.
 */
int kolo_fs_mkdtemp_sync(const char *prefix, char *text, size_t capacity);

/** Removes a directory, which must be empty (rmdir(2)). */
int kolo_fs_rmdir(kolo_loop *loop,
                  const char *path,
                  kolo_fs_cb done,
                  void *user,
                  kolo_request *out);

/** As kolo_fs_rmdir, here and now. Any thread. */
int kolo_fs_rmdir_sync(const char *path);

/** Removes a name, and the file with its last one (unlink(2)). */
int kolo_fs_unlink(kolo_loop *loop,
                   const char *path,
                   kolo_fs_cb done,
                   void *user,
                   kolo_request *out);

/** As kolo_fs_unlink, here and now. Any thread. */
int kolo_fs_unlink_sync(const char *path);

/** Gives a file another name, in place of what had that name (rename(2)). */
int kolo_fs_rename(kolo_loop *loop,
                   const char *path,
                   const char *new_path,
                   kolo_fs_cb done,
                   void *user,
                   kolo_request *out);

/** As kolo_fs_rename, here and now. Any thread. */
int kolo_fs_rename_sync(const char *path, const char *new_path);

/** Gives a file a second name (link(2)). */
int kolo_fs_link(kolo_loop *loop,
                 const char *path,
                 const char *new_path,
                 kolo_fs_cb done,
                 void *user,
                 kolo_request *out);

/** As kolo_fs_link, here and now. Any thread. */
int kolo_fs_link_sync(const char *path, const char *new_path);

/** Makes a symbolic link at `path` that leads to `target` (symlink(2)). */
int kolo_fs_symlink(kolo_loop *loop,
                    const char *target,
                    const char *path,
                    kolo_fs_cb done,
                    void *user,
                    kolo_request *out);

/** As kolo_fs_symlink, here and now. Any thread. */
int kolo_fs_symlink_sync(const char *target, const char *path);

/** Tells where a symbolic link leads (readlink(2)). */
int kolo_fs_readlink(kolo_loop *loop,
                     const char *path,
                     kolo_path_cb done,
                     void *user,
                     kolo_request *out);

/**
 * As kolo_fs_readlink, here and now. Any thread. The path and a NUL are written to
 * `text`, if `capacity` bytes hold them, else it returns KOLO_ENOBUFS. Returns the path's length.
 */
int kolo_fs_readlink_sync(const char *path, char *text, size_t capacity);

/** Tells the absolute path without links, "." and ".." (realpath(3)). */
int kolo_fs_realpath(kolo_loop *loop,
                     const char *path,
                     kolo_path_cb done,
                     void *user,
                     kolo_request *out);

/**
 * As kolo_fs_realpath, here and now. Any thread. The path and a NUL are written to
 * `text`, if `capacity` bytes hold them, else it returns KOLO_ENOBUFS. Returns the path's length.
 */
int kolo_fs_realpath_sync(const char *path, char *text, size_t capacity);

/** Makes a file shorter, or longer by zeros (truncate(2)). */
int kolo_fs_truncate(kolo_loop *loop,
                     const char *path,
                     uint64_t length,
                     kolo_fs_cb done,
                     void *user,
                     kolo_request *out);

/** As kolo_fs_truncate, here and now. Any thread. */
int kolo_fs_truncate_sync(const char *path, uint64_t length);

/** Sets a file's permissions (chmod(2)). */
int kolo_fs_chmod(kolo_loop *loop,
                  const char *path,
                  uint32_t mode,
                  kolo_fs_cb done,
                  void *user,
                  kolo_request *out);

/** As kolo_fs_chmod, here and now. Any thread. */
int kolo_fs_chmod_sync(const char *path, uint32_t mode);

/** Sets a file's owner and group; UINT32_MAX leaves one as it is (chown(2)). */
int kolo_fs_chown(kolo_loop *loop,
                  const char *path,
                  uint32_t uid,
                  uint32_t gid,
                  kolo_fs_cb done,
                  void *user,
                  kolo_request *out);

/** As kolo_fs_chown, here and now. Any thread. */
int kolo_fs_chown_sync(const char *path, uint32_t uid, uint32_t gid);

/** As kolo_fs_chown, of a symbolic link itself (lchown(2)). */
int kolo_fs_lchown(kolo_loop *loop,
                   const char *path,
                   uint32_t uid,
                   uint32_t gid,
                   kolo_fs_cb done,
                   void *user,
                   kolo_request *out);

/** As kolo_fs_lchown, here and now. Any thread. */
int kolo_fs_lchown_sync(const char *path, uint32_t uid, uint32_t gid);

/**
 * Sets when a file was last read and last changed: to these times, or what `flags` (of
 * kolo_utimes_flag) say instead (utimensat(2)).
 *
 * Errors at once: KOLO_EINVAL for flags that there are not, or that contradict each other.
 */
int kolo_fs_utimes(kolo_loop *loop,
                   const char *path,
                   int64_t accessed_ns,
                   int64_t modified_ns,
                   uint32_t flags,
                   kolo_fs_cb done,
                   void *user,
                   kolo_request *out);

/** As kolo_fs_utimes, here and now. Any thread. */
int kolo_fs_utimes_sync(const char *path, int64_t accessed_ns, int64_t modified_ns, uint32_t flags);

/**
 * As kolo_fs_utimes, of a symbolic link itself.
 *
 * Errors at once: KOLO_EINVAL as there.
 */
int kolo_fs_lutimes(kolo_loop *loop,
                    const char *path,
                    int64_t accessed_ns,
                    int64_t modified_ns,
                    uint32_t flags,
                    kolo_fs_cb done,
                    void *user,
                    kolo_request *out);

/** As kolo_fs_lutimes, here and now. Any thread. */
int kolo_fs_lutimes_sync(const char *path,
                         int64_t accessed_ns,
                         int64_t modified_ns,
                         uint32_t flags);

/** Tells how much the file system at `path` holds (statfs(2)). */
int kolo_fs_statfs(kolo_loop *loop,
                   const char *path,
                   kolo_statfs_cb done,
                   void *user,
                   kolo_request *out);

/** As kolo_fs_statfs, here and now. Any thread. `out` begins with its `size`. */
int kolo_fs_statfs_sync(const char *path, kolo_statfs *out);

/**
 * Copies a regular file: its bytes and its permissions, in place of what stood in `new_path`; `flags`
 * are of kolo_copy_flag. Where the file system can share blocks (btrfs, XFS), that is all it does;
 * otherwise the kernel copies where it can. kolo_request_cancel stops it also while it runs.
 *
 * When it fails there is no target any more, unless it failed before that was changed.
 *
 * Errors of its own: KOLO_EINVAL if both are the same file, or the source is no regular one;
 * KOLO_EISDIR if it is a directory.
 *
 * Errors at once: KOLO_EINVAL for flags that there are not.
 */
int kolo_fs_copy(kolo_loop *loop,
                 const char *path,
                 const char *new_path,
                 uint32_t flags,
                 kolo_transfer_cb done,
                 void *user,
                 kolo_request *out);

/**
 * As kolo_fs_copy, here and now. Any thread. `out`, which may be NULL, gets the
 * bytes copied.
 */
int kolo_fs_copy_sync(const char *path, const char *new_path, uint32_t flags, uint64_t *out);

/* Files ==========================================================================================
 *
 * An open file is a handle, made by kolo_file_open. Reads and writes are positional: any number of them
 * can be under way at once, in any order. What the system has in memory, bytes and names, is read, and
 * opened for reading, without another thread; what may have to wait for a disk is done on the loop's
 * pool (KOLO_WORK_FILES), or, with the driver "uring", by the kernel alone, as far as it can. All are
 * told in the same way: what is under way is a request, whose `done` comes exactly once, never before
 * the function returns; `out`, which may be NULL, gets its number for kolo_request_cancel.
 *
 * kolo_close closes a file like every handle: its number is dead at once. Operations under way are
 * still done, and the descriptor is closed after the last of them. kolo_file_close does the same and
 * tells what close(2) says.
 *
 * The functions that end with _sync do it here and now, which may have to wait for a disk. The errors
 * of the operation itself, which the others tell to `done`, they return: those of the system call that
 * is named. Besides, the others return KOLO_EINVAL if `done` is NULL, KOLO_ENOBUFS if as much work waits
 * as may or the loop holds as many handles as it can, KOLO_EAGAIN if the system gives no thread,
 * KOLO_ECANCELED while the loop is being freed; then `done` does not come.
 */

/**
 * How a file is opened; to be combined with |. Without KOLO_OPEN_WRITE and KOLO_OPEN_APPEND it is opened
 * for reading.
 */
typedef enum kolo_open_flag {
    /** It is read. */
    KOLO_OPEN_READ = 1,
    /** It is written. */
    KOLO_OPEN_WRITE = 2,
    /** It is written, each time at its end, whatever the offset says. */
    KOLO_OPEN_APPEND = 4,
    /** It is made if it does not exist. */
    KOLO_OPEN_CREATE = 8,
    /** It is made, and must not exist before (KOLO_EEXIST). */
    KOLO_OPEN_EXCLUSIVE = 16,
    /** What stands in it is thrown away. */
    KOLO_OPEN_TRUNCATE = 32,
    /** It must be a directory (KOLO_ENOTDIR): for kolo_open_options.directory, kolo_directory_open_file. */
    KOLO_OPEN_DIRECTORY = 64,
    /** It must not be a symbolic link (KOLO_ELOOP). */
    KOLO_OPEN_NO_FOLLOW = 128,
    /** Opening does not wait for the other side of a FIFO. */
    KOLO_OPEN_NO_WAIT = 256,
    /** A write is over when it is on the disk, with all that is known of the file. */
    KOLO_OPEN_SYNC = 512,
    /** A write is over when it is on the disk, with what is needed to read it. */
    KOLO_OPEN_DATA_SYNC = 1024,
    /**
     * Neither "..", nor an absolute path, nor a symbolic link leads out of the directory in which the
     * path begins (KOLO_EXDEV): openat2(2). Linux 5.6; elsewhere KOLO_ENOTSUP.
     */
    KOLO_OPEN_BENEATH = 2048,
} kolo_open_flag;

/** Where in a file. */
typedef enum kolo_offset {
    /**
     * Where the last operation at the current position ended: for what has no other positions, such as
     * pipes and terminals (which are better streams: reading them keeps a thread waiting). One
     * operation at a time: the next one gets KOLO_EBUSY, for there would be no order between them.
     */
    KOLO_OFFSET_CURRENT = -1,
} kolo_offset;

/** How a file is opened. Begin with KOLO_OPEN_OPTIONS_INIT; a member that is zero means its default. */
typedef struct kolo_open_options {
    /** sizeof(kolo_open_options), set by KOLO_OPEN_OPTIONS_INIT. */
    size_t size;
    /** Of kolo_open_flag. Default: to read. */
    uint32_t flags;
    /** The permissions of a file that is made, less those that the process masks. Default 0666. */
    uint32_t mode;
    /** The open directory in which a relative path begins. Default: the process's working directory. */
    kolo_file directory;
} kolo_open_options;

/**
 * A file is open: `status` is 0 and `file` its handle; or `status` says what went wrong, and `file`
 * is 0.
 */
typedef void (*kolo_file_cb)(kolo_loop *loop,
                             kolo_request request,
                             int status,
                             kolo_file file,
                             void *user);

/**
 * A file was sent: `status` is 0 and `sent` the bytes that the system has taken; or `status` says what
 * came between, and `sent` how many bytes were taken before.
 */
typedef void (*kolo_send_file_cb)(kolo_loop *loop,
                                  kolo_stream stream,
                                  int status,
                                  uint64_t sent,
                                  void *user);

/**
 * Opens a file (open(2)). `options` may be NULL: to read.
 *
 * Errors at once, besides those of the part's introduction: KOLO_EINVAL if `path` is NULL, for flags
 * that there are not, and for KOLO_OPEN_TRUNCATE of a file that is not written or KOLO_OPEN_DIRECTORY of
 * one that is; KOLO_EBADF for a directory that is closed. To `done`: KOLO_ENOENT, KOLO_EACCES,
 * KOLO_EISDIR, KOLO_EMFILE and so on; KOLO_ENOBUFS if the loop holds as many handles as it can.
 */
int kolo_file_open(kolo_loop *loop,
                   const char *path,
                   const kolo_open_options *options,
                   kolo_file_cb done,
                   void *user,
                   kolo_request *out);

/** As kolo_file_open, here and now. */
int kolo_file_open_sync(kolo_loop *loop,
                        const char *path,
                        const kolo_open_options *options,
                        kolo_file *out);

/**
 * Makes a handle for a descriptor that was opened elsewhere, which is kolo's from then on. Whether it
 * blocks is left as it is.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBADF for a descriptor that is not open; KOLO_EEXIST for
 * one that a handle has already (see kolo_socket); KOLO_ENOBUFS if the loop holds as many handles as
 * it can; KOLO_ECANCELED while the loop is being freed. Then the descriptor is still the caller's.
 * Windows: KOLO_ENOTSUP.
 */
int kolo_file_adopt(kolo_loop *loop,
                    kolo_socket descriptor,
                    kolo_file *out);

/**
 * Takes the descriptor out of kolo: it is the caller's, and the handle is closed.
 *
 * Errors: KOLO_EINVAL if `out` is NULL; KOLO_EBUSY while operations on the file are under way.
 * Windows: KOLO_ENOTSUP.
 */
int kolo_file_release(kolo_loop *loop, kolo_file file, kolo_socket *out);

/**
 * Tells the file's descriptor, which stays kolo's: it must not be closed.
 *
 * Errors: KOLO_EINVAL if `out` is NULL. Windows: KOLO_ENOTSUP.
 */
int kolo_file_descriptor(kolo_loop *loop, kolo_file file, kolo_socket *out);

/**
 * Closes a file, and tells `done` what close(2) says of what was written: on file systems over a
 * network, KOLO_EIO, KOLO_EDQUOT, KOLO_ENOSPC. The handle is closed at once, and its kolo_on_close comes
 * as after kolo_close. That the bytes are on a disk only kolo_file_fsync tells.
 *
 * When this itself fails, the file is still open.
 */
int kolo_file_close(kolo_loop *loop,
                    kolo_file file,
                    kolo_fs_cb done,
                    void *user,
                    kolo_request *out);

/** As kolo_file_close, here and now. The handle is closed in any case. */
int kolo_file_close_sync(kolo_loop *loop, kolo_file file);

/**
 * Reads from `offset` on until `length` bytes of `memory` are full or the file ends: only at its end
 * `done` is told fewer, and 0 at the end itself. (At KOLO_OFFSET_CURRENT, what one read(2) brings.) The
 * memory is kolo's until `done`.
 *
 * To `done`: KOLO_EIO, KOLO_EISDIR, KOLO_EBADF for a file that is not open for reading, KOLO_ESPIPE for
 * one that has no positions and so on; KOLO_ECANCELED.
 *
 * Errors at once, besides those of the part's introduction: KOLO_EINVAL if `memory` is NULL and `length`
 * is not 0, and for a negative offset that is not KOLO_OFFSET_CURRENT; KOLO_EBUSY at the current position
 * while another operation is under way there.
 */
int kolo_file_read(kolo_loop *loop,
                   kolo_file file,
                   void *memory,
                   size_t length,
                   int64_t offset,
                   kolo_transfer_cb done,
                   void *user,
                   kolo_request *out);

/**
 * As kolo_file_read, into several pieces of memory, one after the other. The array of buffers may
 * go when this returns.
 */
int kolo_file_read_vectored(kolo_loop *loop,
                            kolo_file file,
                            const kolo_buffer *buffers,
                            size_t count,
                            int64_t offset,
                            kolo_transfer_cb done,
                            void *user,
                            kolo_request *out);

/**
 * Writes `length` bytes at `offset`: all of them, unless an error comes between. Then `done` gets the
 * error, and how many bytes were written before. The memory must stay as it is until `done`.
 *
 * To `done`: KOLO_ENOSPC, KOLO_EDQUOT, KOLO_EFBIG, KOLO_EIO, KOLO_EBADF for a file that is not open for
 * writing and so on; KOLO_ECANCELED.
 *
 * Errors at once: as kolo_file_read.
 */
int kolo_file_write(kolo_loop *loop,
                    kolo_file file,
                    const void *memory,
                    size_t length,
                    int64_t offset,
                    kolo_transfer_cb done,
                    void *user,
                    kolo_request *out);

/**
 * As kolo_file_write, from several pieces of memory, one after the other. The array of buffers may
 * go when this returns.
 */
int kolo_file_write_vectored(kolo_loop *loop,
                             kolo_file file,
                             const kolo_buffer *buffers,
                             size_t count,
                             int64_t offset,
                             kolo_transfer_cb done,
                             void *user,
                             kolo_request *out);

/**
 * As kolo_file_read, here and now: `out` gets the bytes read. An error that comes after some were read
 * is told by the next call.
 */
int kolo_file_read_sync(kolo_loop *loop,
                        kolo_file file,
                        void *memory,
                        size_t length,
                        int64_t offset,
                        size_t *out);

/** As kolo_file_read_sync, into several pieces of memory, one after the other. */
int kolo_file_read_vectored_sync(kolo_loop *loop,
                                 kolo_file file,
                                 const kolo_buffer *buffers,
                                 size_t count,
                                 int64_t offset,
                                 size_t *out);

/**
 * As kolo_file_write, here and now: `out` gets the bytes written. If that is fewer than `length`, the next
 * call tells why.
 */
int kolo_file_write_sync(kolo_loop *loop,
                         kolo_file file,
                         const void *memory,
                         size_t length,
                         int64_t offset,
                         size_t *out);

/** As kolo_file_write_sync, from several pieces of memory, one after the other. */
int kolo_file_write_vectored_sync(kolo_loop *loop,
                                  kolo_file file,
                                  const kolo_buffer *buffers,
                                  size_t count,
                                  int64_t offset,
                                  size_t *out);

/** Tells what is known of the file (fstat(2)). */
int kolo_file_stat(kolo_loop *loop,
                   kolo_file file,
                   kolo_stat_cb done,
                   void *user,
                   kolo_request *out);

/** As kolo_file_stat, here and now. `out` begins with its `size`. */
int kolo_file_stat_sync(kolo_loop *loop, kolo_file file, kolo_stat *out);

/** Has what was written put on the disk, with all that is known of the file (fsync(2)). */
int kolo_file_fsync(kolo_loop *loop,
                    kolo_file file,
                    kolo_fs_cb done,
                    void *user,
                    kolo_request *out);

/** As kolo_file_fsync, here and now. */
int kolo_file_fsync_sync(kolo_loop *loop, kolo_file file);

/** Has what was written put on the disk, with what is needed to read it (fdatasync(2)). */
int kolo_file_fdatasync(kolo_loop *loop,
                        kolo_file file,
                        kolo_fs_cb done,
                        void *user,
                        kolo_request *out);

/** As kolo_file_fdatasync, here and now. */
int kolo_file_fdatasync_sync(kolo_loop *loop, kolo_file file);

/** Makes the file shorter, or longer by zeros (ftruncate(2)). */
int kolo_file_truncate(kolo_loop *loop,
                       kolo_file file,
                       uint64_t length,
                       kolo_fs_cb done,
                       void *user,
                       kolo_request *out);

/** As kolo_file_truncate, here and now. */
int kolo_file_truncate_sync(kolo_loop *loop, kolo_file file, uint64_t length);

/** Sets the file's permissions (fchmod(2)). */
int kolo_file_chmod(kolo_loop *loop,
                    kolo_file file,
                    uint32_t mode,
                    kolo_fs_cb done,
                    void *user,
                    kolo_request *out);

/** As kolo_file_chmod, here and now. */
int kolo_file_chmod_sync(kolo_loop *loop, kolo_file file, uint32_t mode);

/** Sets the file's owner and group; UINT32_MAX leaves one as it is (fchown(2)). Windows: KOLO_ENOTSUP. */
int kolo_file_chown(kolo_loop *loop,
                    kolo_file file,
                    uint32_t uid,
                    uint32_t gid,
                    kolo_fs_cb done,
                    void *user,
                    kolo_request *out);

/** As kolo_file_chown, here and now. */
int kolo_file_chown_sync(kolo_loop *loop, kolo_file file, uint32_t uid, uint32_t gid);

/** Sets when the file was last read and last changed, as kolo_fs_utimes does (futimens(2)). */
int kolo_file_utimes(kolo_loop *loop,
                     kolo_file file,
                     int64_t accessed_ns,
                     int64_t modified_ns,
                     uint32_t flags,
                     kolo_fs_cb done,
                     void *user,
                     kolo_request *out);

/** As kolo_file_utimes, here and now. */
int kolo_file_utimes_sync(kolo_loop *loop,
                          kolo_file file,
                          int64_t accessed_ns,
                          int64_t modified_ns,
                          uint32_t flags);

/**
 * Sends `length` bytes of a file from `offset` on over a stream, in the order of its writes, and tells
 * `done`, which may be NULL, when the system has taken them. UINT64_MAX bytes: to the file's end.
 *
 * What the system has in memory does not pass through the program (sendfile(2)); what has to come from a
 * disk is read by the loop's pool, so that the loop does not wait. The bytes count for neither
 * kolo_stream_queued nor the watermarks: they cost no memory but for at most 128 KiB of what was read
 * ahead. A peer that does not take them is what the write timeout is for, which rests while a disk is
 * waited for.
 *
 * The file may be closed at once: what is under way is still sent. `out`, which may be NULL, gets the
 * write's name for kolo_stream_write_cancel, which takes it back as long as nothing of it is sent.
 *
 * When the file becomes shorter, or cannot be read, before all is sent, the stream fails: `done` gets
 * KOLO_ENODATA, or why it cannot be read, and so does on_error. The connection is then reset, where there
 * is such a thing, so that a part never looks like the whole.
 *
 * Returns 0 or 1, as kolo_stream_write does.
 *
 * Errors: as kolo_stream_write; KOLO_EBADF for a closed file, and one that is not open for reading;
 * KOLO_EINVAL for a range that no file has; KOLO_ENOBUFS if 256 files are queued. Then `done` does not
 * come.
 */
int kolo_stream_send_file(kolo_loop *loop,
                          kolo_stream stream,
                          kolo_file file,
                          uint64_t offset,
                          uint64_t length,
                          kolo_send_file_cb done,
                          void *user,
                          uint64_t *out);

/* Directories ====================================================================================
 *
 * An open directory is a handle. Its names come in batches, one whenever kolo_directory_read asks for
 * it, in no particular order and without "." and "..": a directory of millions takes no memory, and who
 * is busy asks later. kolo_close closes it. Requests and errors are as with files.
 */

/**
 * A directory is open: `status` is 0 and `directory` its handle; or `status` says what went wrong, and
 * `directory` is 0.
 */
typedef void (*kolo_directory_cb)(kolo_loop *loop,
                                  kolo_request request,
                                  int status,
                                  kolo_directory directory,
                                  void *user);

/** One name of a directory. */
typedef struct kolo_directory_entry {
    /** The name, without the directory, ended by a NUL. */
    const char *name;
    /** Its length, without the NUL. */
    size_t length;
    /** What it names, a kolo_file_type; of a symbolic link, that it is one. */
    uint32_t type;
} kolo_directory_entry;

/**
 * The next names of a directory, which are there until this returns: none (`count` is 0) when it has no
 * more; or `status` says what went wrong.
 */
typedef void (*kolo_entries_cb)(kolo_loop *loop,
                                kolo_request request,
                                int status,
                                const kolo_directory_entry *entries,
                                size_t count,
                                void *user);

/** A name found: see kolo_directory_read_sync. It is there until this returns. */
typedef void (*kolo_entry_cb)(kolo_loop *loop,
                              kolo_directory directory,
                              const kolo_directory_entry *entry,
                              void *user);

/**
 * Opens a directory (opendir(3)).
 *
 * Errors at once: KOLO_EINVAL if `path` is NULL; as kolo_file_open. To `done`: KOLO_ENOENT, KOLO_ENOTDIR,
 * KOLO_EACCES, KOLO_EMFILE and so on; KOLO_ENOBUFS if the loop holds as many handles as it can.
 */
int kolo_directory_open(kolo_loop *loop,
                        const char *path,
                        kolo_directory_cb done,
                        void *user,
                        kolo_request *out);

/** As kolo_directory_open, here and now. */
int kolo_directory_open_sync(kolo_loop *loop, const char *path, kolo_directory *out);

/**
 * As kolo_directory_open, for a directory that is open as a file: so that one that was found beneath
 * another (KOLO_OPEN_BENEATH) can be listed. The file stays open. Windows: KOLO_ENOTSUP.
 */
int kolo_directory_open_file(kolo_loop *loop,
                             kolo_file file,
                             kolo_directory_cb done,
                             void *user,
                             kolo_request *out);

/** As kolo_directory_open_file, here and now. */
int kolo_directory_open_file_sync(kolo_loop *loop, kolo_file file, kolo_directory *out);

/**
 * Reads the next names (readdir(3)).
 *
 * Errors at once, besides those of files: KOLO_EBUSY while another reading of this directory is under
 * way. To `done`: KOLO_EIO, KOLO_ENOENT for a directory that was removed, and so on; KOLO_ECANCELED.
 */
int kolo_directory_read(kolo_loop *loop,
                        kolo_directory directory,
                        kolo_entries_cb done,
                        void *user,
                        kolo_request *out);

/**
 * Reads the next names here and now, and calls `each` with them, one after the other, before it
 * returns. It must not free or run the loop (KOLO_EBUSY). Returns how many names there were: 0 when
 * the directory has no more.
 *
 * Errors: KOLO_EINVAL if `each` is NULL; KOLO_EBUSY while a reading of this directory is under way;
 * those of readdir(3).
 */
int kolo_directory_read_sync(kolo_loop *loop,
                             kolo_directory directory,
                             kolo_entry_cb each,
                             void *user);

/* Simulations ====================================================================================
 *
 * Servers and clients on virtual time and a network in memory, with faults, all drawn from one seed: a
 * program on kolo can be tested with hours of traffic in seconds, on networks that lose packets, reset
 * connections and fall apart, and a failure is a number. The same seed, the same program and the same
 * version of kolo give the same run, to the byte.
 *
 * kolo_sim_new makes a world, kolo_sim_loop_new a loop on one of its hosts, which is used like any
 * other: timers, hooks, TCP, UDP, names (kolo_sim_set_name), work, posts. kolo_sim_run then runs all
 * its loops, on the calling thread: time passes when no loop has anything to do, at once, and a little
 * with every turn. Work runs on the loop's own thread, after a time that is drawn; so do files, which
 * are the real disk's. What other threads post comes when it comes, and a run with them cannot be
 * repeated. Everything else needs a kernel and gets KOLO_ENOTSUP: foreign descriptors, adopted and
 * released sockets, moving a stream, Unix-domain sockets, pipes, terminals, signals, processes,
 * watched files, multicast, broadcast and control messages of UDP.
 *
 * The program must do its part: draw its random numbers from kolo_sim_random, and ask no other clock
 * than kolo_loop_now. kolo_sim_digest tells whether two runs were the same, kolo_sim_on_trace shows
 * where they part.
 *
 * A simulation is a number. It belongs to the thread that made it, with its loops: other threads get
 * KOLO_EWRONGTHREAD. A number that was freed, or never was one, gets KOLO_EBADF. Addresses of hosts
 * are looked at without their ports. Probabilities are in parts per million (_ppm).
 */

/** Why a run has ended. */
typedef enum kolo_sim_outcome {
    /** Nothing keeps any loop alive. */
    KOLO_SIM_DONE = 0,
    /** The condition of kolo_sim_run_until has come true. */
    KOLO_SIM_MET = 1,
    /** A loop was stopped (kolo_loop_stop). */
    KOLO_SIM_STOPPED = 2,
    /** The time is over. */
    KOLO_SIM_TIME_LIMIT = 3,
    /**
     * Loops are alive, but nothing can happen any more: they wait for each other, or for nothing. A
     * server that waits for clients counts as alive, unless its listener has no reference (kolo_unref).
     */
    KOLO_SIM_QUIET = 4,
} kolo_sim_outcome;

/** What a member of kolo_sim_options means that is zero. */
typedef enum kolo_sim_preset {
    /** A network that works, and whatever is legal in small: partial reads and writes, varying delays. */
    KOLO_SIM_USUAL = 0,
    /** Nothing is partial, and no delay varies: for tests that count. */
    KOLO_SIM_PLAIN = 1,
    /**
     * A bad network: long and varying delays, lost and doubled packets, connections that are refused
     * and reset, small buffers, half of all reads and writes partial.
     */
    KOLO_SIM_HARSH = 2,
} kolo_sim_preset;

/** The network between two hosts, in each direction. Begin with KOLO_SIM_LINK_INIT. */
typedef struct kolo_sim_link {
    /** sizeof(kolo_sim_link), set by KOLO_SIM_LINK_INIT. */
    size_t size;
    /** How long a packet is under way, at least. With latency_max_ns 0 too: 50 to 500 microseconds. */
    uint64_t latency_min_ns;
    /**
     * How long a packet is under way, at most; 0: as latency_min_ns. Datagrams overtake each other, the
     * segments of one connection do not.
     */
    uint64_t latency_max_ns;
    /** Bytes per second; packets wait for those before them. 0: no limit. */
    uint64_t bandwidth;
    /**
     * The largest packet in bytes, from 64 to 65536; 0: 1460. Connections send segments of this size;
     * larger datagrams travel in pieces, each of which may be lost.
     */
    uint32_t packet_max;
    /** How likely a packet is lost. TCP sends it again. */
    uint32_t loss_ppm;
    /** How likely a datagram comes twice. */
    uint32_t duplicate_ppm;
    /** How likely a segment with data resets its connection, on both sides (KOLO_ECONNRESET). */
    uint32_t reset_ppm;
    /** How likely a connection is refused (KOLO_ECONNREFUSED), though somebody listens. */
    uint32_t refuse_ppm;
} kolo_sim_link;

/**
 * How a simulation is made. Begin with KOLO_SIM_OPTIONS_INIT; a member that is zero means what the
 * preset says.
 */
typedef struct kolo_sim_options {
    /** sizeof(kolo_sim_options), set by KOLO_SIM_OPTIONS_INIT. */
    size_t size;
    /** What all chance is drawn from. */
    uint64_t seed;
    /**
     * The network between hosts, where kolo_sim_set_link says nothing else. Read during the call. NULL:
     * the preset's.
     */
    const kolo_sim_link *link;
    /** How long one turn of a loop takes, at least: the time until it may have its next. 1 microsecond. */
    uint64_t turn_min_ns;
    /** How long one turn of a loop takes, at most. 20 microseconds. */
    uint64_t turn_max_ns;
    /** How long work, files and names take, at least. 50 microseconds. */
    uint64_t work_min_ns;
    /** How long work, files and names take, at most. 5 milliseconds. */
    uint64_t work_max_ns;
    /** How long sent bytes may go unacknowledged until KOLO_ETIMEDOUT. 924 seconds. */
    uint64_t give_up_ns;
    /** A kolo_sim_preset. */
    uint32_t preset;
    /** How likely a reading call brings only a part of what has come. */
    uint32_t partial_read_ppm;
    /** How likely a writing call takes only a part of what there is room for. */
    uint32_t partial_write_ppm;
    /** The kernel's send buffer of a socket in bytes, where its owner does not set one. */
    uint32_t send_buffer;
    /** The kernel's receive buffer of a socket in bytes, where its owner does not set one. */
    uint32_t receive_buffer;
    /** Sockets that one loop may have; one more gets KOLO_EMFILE. 0: no limit. */
    uint32_t descriptors;
} kolo_sim_options;

/**
 * Whether a run is to end: any value but 0 ends it. Called before every turn, with no callback
 * running. It may use the loops, also free one, but not run them (KOLO_EBUSY).
 */
typedef int (*kolo_sim_condition_cb)(kolo_sim sim, void *user);

/**
 * Gets a line about what has happened, `length` bytes and a NUL, without a line end: the time in
 * seconds, by whom, what, from where, to where, and for bytes how many and a hash of them.
 */
typedef void (*kolo_sim_trace_cb)(const char *line, size_t length, void *user);

/**
 * Makes a world with nobody in it. `options` may be NULL for the defaults, with seed 0.
 *
 * Errors: KOLO_EINVAL if `out` is NULL, for options of a wrong size, a preset that there is not, a
 * minimum that is greater than its maximum, a time of more than a year, a probability above a million,
 * and a packet size out of its range.
 */
int kolo_sim_new(const kolo_sim_options *options,
                 kolo_sim *out);

/**
 * Frees a simulation: its number is dead. Its loops stay, and can still be used, run by kolo_loop_run,
 * and freed.
 *
 * Errors: KOLO_EBUSY inside a callback of one of its loops.
 */
int kolo_sim_free(kolo_sim sim);

/**
 * Makes a loop on the host at an address, which is made if there is none. Several loops on one host
 * are like programs on one machine: they share its ports, and reach each other by the loopback
 * addresses, too. `options` may be NULL; of them the driver, the pool, measure_time and the watchdogs
 * mean nothing here: a callback takes no virtual time.
 *
 * It is freed by kolo_loop_free, which closes its sockets as those of a program that ends. kolo_sim_run
 * runs it, with the others. kolo_loop_run runs the simulation until this loop is done, and gets
 * KOLO_EDEADLK if nothing can happen any more and it is still alive; with KOLO_RUN_NOWAIT the loop has
 * one turn, and no time passes. kolo_loop_detach_thread gets KOLO_ENOTSUP.
 *
 * Errors: KOLO_EINVAL if `host` or `out` is NULL, for an unspecified, loopback or multicast address, and
 * for options of a wrong size.
 */
int kolo_sim_loop_new(kolo_sim sim,
                      const kolo_address *host,
                      const kolo_loop_options *options,
                      kolo_loop **out);

/**
 * Gives a host another address, of the same family or the other. A host has sockets of IPv6 if it has
 * an address of IPv6.
 *
 * Errors: KOLO_ENOENT if there is no such host; KOLO_EADDRINUSE if a host has the address; KOLO_EINVAL
 * for an unspecified, loopback or multicast address.
 */
int kolo_sim_add_address(kolo_sim sim,
                         const kolo_address *host,
                         const kolo_address *address);

/**
 * Says what a name stands for: `count` addresses, in the order in which they should be tried; with none
 * the name is forgotten. Case does not matter. Addresses need not be a host's.
 *
 * Errors: KOLO_EINVAL if `name` is NULL or no UTF-8, or `addresses` is NULL with a count.
 */
int kolo_sim_set_name(kolo_sim sim,
                      const char *name,
                      const kolo_address *addresses,
                      size_t count);

/**
 * Runs all loops for at most `limit_ns` nanoseconds of virtual time (UINT64_MAX: without limit): until
 * nothing keeps any of them alive, nothing can happen any more, or one is stopped. While any loop is
 * alive, those that are not have their turns, too: take the reference (kolo_unref) from what serves
 * others, and the run ends when they are done.
 *
 * Returns a kolo_sim_outcome.
 *
 * Errors: KOLO_EBUSY inside a callback of one of its loops.
 */
int kolo_sim_run(kolo_sim sim,
                 uint64_t limit_ns);

/**
 * As kolo_sim_run, and until `condition` returns another value than 0.
 *
 * Errors: KOLO_EINVAL if `condition` is NULL; as there.
 */
int kolo_sim_run_until(kolo_sim sim,
                       uint64_t limit_ns,
                       kolo_sim_condition_cb condition,
                       void *user);

/** Nanoseconds of virtual time since the simulation was made. */
int kolo_sim_elapsed(kolo_sim sim, uint64_t *out_ns);

/** A random number from the seed. Drawing one changes what is drawn after it. */
int kolo_sim_random(kolo_sim sim, uint64_t *out);

/**
 * A number for all that has happened: packets, calls on sockets, turns, with their times and bytes. Two
 * runs with the same digest were the same, as far as one number of 64 bits can tell.
 */
int kolo_sim_digest(kolo_sim sim,
                    uint64_t *out);

/**
 * Has `cb` called with a line about each thing that happens from now on, after the turn in which it
 * happened. Tracing does not change the run. NULL: no more.
 */
int kolo_sim_on_trace(kolo_sim sim, kolo_sim_trace_cb cb, void *user);

/**
 * Says how the network between two hosts is, in both directions, from now on; NULL: as between all.
 *
 * Errors: KOLO_ENOENT if there is no such host; KOLO_EINVAL for a link of a wrong size, and as
 * kolo_sim_new.
 */
int kolo_sim_set_link(kolo_sim sim,
                      const kolo_address *a,
                      const kolo_address *b,
                      const kolo_sim_link *link);

/**
 * Cuts two hosts off from each other: nothing passes, also not what is under way. Connections notice
 * after give_up_ns, or by their own timeouts.
 *
 * Errors: KOLO_ENOENT if there is no such host.
 */
int kolo_sim_partition(kolo_sim sim,
                       const kolo_address *a,
                       const kolo_address *b);

/**
 * Undoes kolo_sim_partition.
 *
 * Errors: KOLO_ENOENT if there is no such host.
 */
int kolo_sim_heal(kolo_sim sim, const kolo_address *a, const kolo_address *b);

/** Undoes every kolo_sim_partition. */
int kolo_sim_heal_all(kolo_sim sim);

/**
 * Resets all connections between two hosts, as a firewall that was started anew. Returns how many.
 *
 * Errors: KOLO_ENOENT if there is no such host.
 */
int kolo_sim_reset_connections(kolo_sim sim, const kolo_address *a, const kolo_address *b);

/**
 * How many sockets a loop of the simulation may have; what exceeds it gets KOLO_EMFILE. 0: no limit.
 * Those it has stay.
 *
 * Errors: KOLO_EINVAL for a loop that is not the simulation's, and if it is NULL; KOLO_EBADF for one
 * that was freed; KOLO_EWRONGTHREAD for one of another thread.
 */
int kolo_sim_set_descriptors(kolo_sim sim,
                             kolo_loop *loop,
                             uint32_t descriptors);

#ifdef __cplusplus
}
#endif

/* Initialisers ===================================================================================
 *
 * For the structs that carry their size: kolo_stream_handler handler = KOLO_STREAM_HANDLER_INIT;
 * A language that cannot use them fills the struct with zeros and sets its size.
 */

#define KOLO_LOOP_OPTIONS_INIT { sizeof(kolo_loop_options), NULL, 0, 0, 0, NULL, NULL, false, 0, 0, NULL, NULL }
#define KOLO_METRICS_INIT { sizeof(kolo_metrics), 0, 0, 0, 0, 0, 0, 0, 0 }
#define KOLO_GROUP_OPTIONS_INIT { sizeof(kolo_group_options), NULL, NULL, NULL, NULL, 0, 0 }
#define KOLO_POOL_OPTIONS_INIT { sizeof(kolo_pool_options), 0, 0, 0, 0, 0, 0 }
#define KOLO_STREAM_HANDLER_INIT \
    { sizeof(kolo_stream_handler), NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL }
#define KOLO_CONNECT_OPTIONS_INIT \
    { sizeof(kolo_connect_options), 0, NULL, false, false, 0, 0, 0, 0, NULL }
#define KOLO_RESOLVE_OPTIONS_INIT \
    { sizeof(kolo_resolve_options), 0, 0, 0, false, false, false, false, false }
#define KOLO_REVERSE_OPTIONS_INIT \
    { sizeof(kolo_reverse_options), 0, false, false, false, false, false }
#define KOLO_LISTEN_OPTIONS_INIT \
    { sizeof(kolo_listen_options), 0, false, false, false, false, 0, 0, 0, 0, 0, 0 }
#define KOLO_LISTENER_HANDLER_INIT { sizeof(kolo_listener_handler), NULL, NULL, NULL }
#define KOLO_LOCAL_CONNECT_OPTIONS_INIT { sizeof(kolo_local_connect_options), 0 }
#define KOLO_LOCAL_LISTEN_OPTIONS_INIT \
    { sizeof(kolo_local_listen_options), 0, 0, false, false, 0, 0, 0, 0 }
#define KOLO_UDP_OPTIONS_INIT \
    { sizeof(kolo_udp_options), false, false, false, false, false, false, false, false, false, 0, 0 }
#define KOLO_UDP_HANDLER_INIT { sizeof(kolo_udp_handler), NULL, NULL, NULL, NULL }
#define KOLO_TRANSMIT_INIT { sizeof(kolo_transmit), NULL, NULL, 0, 0, false, 0 }
#define KOLO_STDIO_INIT \
    { sizeof(kolo_stdio), KOLO_STDIO_INHERIT, 0, 0, NULL, 0, NULL, NULL, NULL }
#define KOLO_PROCESS_OPTIONS_INIT \
    { sizeof(kolo_process_options), NULL, NULL, NULL, NULL, NULL, 0, NULL, 0, NULL, 0, 0, 0, 0, 0, \
      0, 0, false, false, false, false, false, false, false, false }
#define KOLO_SIM_LINK_INIT { sizeof(kolo_sim_link), 0, 0, 0, 0, 0, 0, 0, 0 }
#define KOLO_SIM_OPTIONS_INIT \
    { sizeof(kolo_sim_options), 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define KOLO_WATCH_OPTIONS_INIT { sizeof(kolo_watch_options), 0, false, 0 }
#define KOLO_RESOURCE_USAGE_INIT { sizeof(kolo_resource_usage), 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define KOLO_STAT_INIT { sizeof(kolo_stat), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }
#define KOLO_STATFS_INIT { sizeof(kolo_statfs), 0, 0, 0, 0, 0, 0, 0 }
#define KOLO_OPEN_OPTIONS_INIT { sizeof(kolo_open_options), 0, 0, 0 }

#endif /* KOLO_H */
