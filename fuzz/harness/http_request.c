/* What a client sends to the HTTP example: where a request ends does not depend on how its bytes were cut into pieces, all
 * that is found lies within the request, and no path leads out of the folder that is served. */
#include "fuzz.h"
#include "http.h"

static void check_within(struct text text, const char *header, size_t length)
{
    if (text.at == NULL)
        return;
    /* The one text that is not the client's stands for an empty path. */
    REQUIRE((text.length == 1 && text.at[0] == '/')
            || (text.at >= header && text.length <= length && text.at + text.length <= header + length));
}

static void check_path(const struct request *request)
{
    char path[PATH_BYTES_MAX];
    bool folder = false;
    if (request->target.at[0] != '/')
        return;
    int status = decode_path(request->target, path, &folder);
    REQUIRE(status == 0 || status == 400 || status == 403 || status == 404 || status == 414);
    if (status != 0)
        return;
    size_t length = strnlen(path, sizeof path);
    REQUIRE(length > 0 && length < sizeof path);
    REQUIRE(path[0] != '/' && path[length - 1] != '/');
    for (const char *name = path; name != NULL;) {
        const char *end = strchr(name, '/');
        size_t bytes = end == NULL ? strlen(name) : (size_t)(end - name);
        REQUIRE(bytes > 0 && !(bytes == 2 && memcmp(name, "..", 2) == 0));
        REQUIRE(!(bytes == 1 && name[0] == '.') || strcmp(path, ".") == 0);
        name = end == NULL ? NULL : end + 1;
    }
    REQUIRE(content_type(path) != NULL);
    struct builder page = {NULL, 0, 0, false};
    put_url_path(&page, path);
    put_html(&page, path);
    REQUIRE(!page.failed);
    for (size_t i = 0; i < page.length; i++)
        REQUIRE(page.text[i] != '<' && page.text[i] != '>' && page.text[i] != '"');
    free(page.text);
}

static void check_request(const char *header, size_t length)
{
    struct request request;
    uint64_t first = 0, count = 0;
    char printable[64];
    int status = parse_request(header, length, &request);
    REQUIRE(status == 0 || (status >= 400 && status < 600));
    if (status != 0) {
        REQUIRE(strcmp(status_text(status), "Unknown") != 0);
        return;
    }
    check_within(request.method, header, length);
    check_within(request.target, header, length);
    check_within(request.range, header, length);
    check_within(request.if_range, header, length);
    check_within(request.if_none_match, header, length);
    REQUIRE(request.method.length > 0 && request.target.length > 0);
    REQUIRE(request.body_length <= BODY_BYTES_MAX);
    format_printable(request.target, printable, sizeof printable);
    for (const char *at = printable; *at != '\0'; at++)
        REQUIRE((unsigned char)*at >= 0x20 && (unsigned char)*at < 0x7f);
    check_path(&request);

    int conditions = evaluate_conditions(&request, "\"1-2-3\"", 784111777);
    REQUIRE(conditions == 200 || conditions == 304 || conditions == 412);
    static const uint64_t sizes[] = {0, 1, 1000, UINT64_MAX / 2};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int range = evaluate_range(&request, "\"1-2-3\"", 784111777, sizes[i], &first, &count);
        REQUIRE(range == 200 || range == 206 || range == 416);
        if (range == 206)
            REQUIRE(count > 0 && first < sizes[i] && count <= sizes[i] - first);
    }
}

/* As the server does it: whole at once. The end of the header, or 0; the status. */
static int find_whole(const char *data, size_t length, size_t *end)
{
    size_t scanned = 0;
    return find_header(data, length, &scanned, end);
}

/* Piece by piece; the bytes say how large the pieces are. */
static int find_in_pieces(const char *data, size_t length, size_t piece, size_t *end)
{
    size_t scanned = 0;
    int status = 0;
    *end = 0;
    for (size_t come = 0; come < length && status == 0 && *end == 0;) {
        come = length - come < piece ? length : come + piece;
        status = find_header(data, come, &scanned, end);
        REQUIRE(scanned <= come && scanned <= HEADER_BYTES_MAX);
    }
    return status;
}

void fuzz_http_request(const uint8_t *bytes, size_t length)
{
    if (length == 0)
        return;
    size_t piece = 1 + bytes[0] % 16;
    length--;
    char *data = malloc(length > 0 ? length : 1); /* no byte more, so that reading past its end is seen */
    REQUIRE(data != NULL);
    memcpy(data, bytes + 1, length);
    size_t whole_end, end;
    int whole = find_whole(data, length, &whole_end);
    int status = find_in_pieces(data, length, piece, &end);
    /* Which of two faults is told may depend on what has come; that there is one does not. */
    REQUIRE((whole == 0) == (status == 0) && whole_end == end);
    if (whole == 0 && end > 0) {
        char *header = malloc(end);
        REQUIRE(header != NULL);
        memcpy(header, data, end);
        check_request(header, end);
        free(header);
    }
    int64_t when;
    struct text text = {data, length};
    if (parse_date(text, &when)) {
        char date[32];
        format_date((time_t)when, date);
        REQUIRE(strlen(date) > 0 && strlen(date) <= 29);
    }
    free(data);
}
