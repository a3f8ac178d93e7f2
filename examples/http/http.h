/* http.h: what http_server.c needs to know about HTTP, paths and folders. Nothing here knows of kolo. */
#ifndef HTTP_H
#define HTTP_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* openat2, and the rest of POSIX under -std=c99 */
#endif
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

enum {
    HEADER_BYTES_MAX = 16 * 1024,      /* a request line and its fields; longer: 431 */
    REQUEST_LINE_BYTES_MAX = 8 * 1024, /* longer: 414 */
    FIELDS_MAX = 100,                  /* more: 431 */
    BODY_BYTES_MAX = 1024 * 1024,      /* a request's body is read and thrown away up to here; more: 413 */
    PATH_BYTES_MAX = 4096,             /* PATH_MAX of most systems */
    LISTING_ENTRIES_MAX = 10000,       /* longer listings are cut, and say so */
    LISTING_BYTES_MAX = 4 * 1024 * 1024
};

/* ---- text.c: text and dates ---- */

/* A piece of somebody else's text, not NUL-terminated. */
struct text {
    const char *at;
    size_t length;
};

bool text_is(struct text text, const char *expected);
bool text_is_nocase(struct text text, const char *expected_lowercase);
struct text text_trim(struct text text);
/* Cuts what stands before the first `separator` off the front of `rest`; all of it where there is none. */
struct text text_cut(struct text *rest, char separator);
/* Digits only, at least one; a number that is too large for 64 bits becomes the largest. */
bool text_number(struct text text, uint64_t *out);

/* Text that grows. Failing to grow is remembered, so that it needs to be asked about only once, at the end. */
struct builder {
    char *text;
    size_t length, capacity;
    bool failed;
};

/* Where `more` bytes may be put behind the text, or NULL; the caller adds to the length what it has put there. */
char *builder_room(struct builder *out, size_t more);
void put_bytes(struct builder *out, const void *bytes, size_t length);
void put(struct builder *out, const char *text);
/* For lines of known length; text of any length goes through the others. */
void put_format(struct builder *out, const char *format, ...);
/* A path as it may stand in a URL and in an HTML attribute: all but unreserved characters and slashes encoded. */
void put_url_path(struct builder *out, const char *path);
void put_html(struct builder *out, const char *text);
/* Text for a log: what a terminal might obey is written as \xNN. Cut to fit, NUL-terminated. */
void format_printable(struct text text, char *out, size_t capacity);

void format_date(time_t when, char out[32]);
/* Understands the three forms that RFC 9110 asks servers to. */
bool parse_date(struct text text, int64_t *out);

/* ---- request.c: what a client asks for ---- */

struct request {
    struct text method, target;
    struct text range, if_range, if_match, if_none_match, if_modified_since, if_unmodified_since;
    uint64_t body_length;
    bool head; /* the method is HEAD */
    bool keep_alive;
    bool says_keep_alive; /* HTTP/1.0 clients want to be told */
    bool expects_continue;
};

/* Looks for the end of a header, with its empty line, in `data`; earlier calls have looked at the first *scanned bytes.
 * Gives 0 with the length (0: not whole yet), or an HTTP status when it can never become a header. Lines end in CR LF
 * and nothing else: who is lenient here may see other requests than a proxy in between does. */
int find_header(const char *data, size_t length, size_t *scanned, size_t *header_length);
/* Gives 0, or the HTTP status that answers a header like this. The request points into the header. */
int parse_request(const char *header, size_t length, struct request *request);
/* The conditions of RFC 9110 section 13.2.2 in their order: 200, 304 or 412. */
int evaluate_conditions(const struct request *request, const char *etag, int64_t modified);
/* Understands one range of bytes: 206 with the range, 416, or 200 (no range asked for, or none that is understood: the
 * whole file is a right answer to any of them). */
int evaluate_range(const struct request *request, const char *etag, int64_t modified, uint64_t size, uint64_t *first,
                   uint64_t *length);
const char *status_text(int status);

/* ---- files.c: what is there to be asked for ---- */

/* The folder that is served. */
struct root {
    char *path; /* canonical */
    int file;
};

/* 0, or -1 with errno. */
int root_open(struct root *root, const char *path);
void root_close(struct root *root);
/* Turns the path of a request's target into one relative to the root, without empty names and "."; the root itself is
 * ".". `folder` tells whether it ended in a slash. Gives 0 or an HTTP status. A ".." is refused: every client resolves
 * it before it asks. */
int decode_path(struct text target, char path[PATH_BYTES_MAX], bool *folder);
/* Opens such a path for reading where the system does not keep it beneath the root: resolves the links, refuses what is
 * not below the root, and walks to it one name at a time without following links, so that a link put in the way after
 * the check is refused too. Gives -1 with errno. */
int open_walking(const struct root *root, const char *path);
const char *content_type(const char *path);
/* Changes whenever the file does: another file, another length or another time. */
void format_etag(uint64_t inode, uint64_t size, int64_t modified_ns, char out[80]);
/* Writes the listing of an open folder as a page. Takes the descriptor. Gives 0, or -1 with errno. */
int put_listing(struct builder *page, int file, const char *path);

#endif
