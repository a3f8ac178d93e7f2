/* request.c: HTTP/1 requests: where one ends, what it says, and under which conditions it wants what. */
#include "http.h"

#include <string.h>

static bool is_token(struct text text)
{
    for (size_t i = 0; i < text.length; i++) {
        char c = text.at[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')
              || (c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL)))
            return false;
    }
    return text.length > 0;
}

int find_header(const char *data, size_t length, size_t *scanned, size_t *header_length)
{
    size_t at = *scanned, end = length < HEADER_BYTES_MAX ? length : HEADER_BYTES_MAX;
    *header_length = 0;
    for (; at < end; at++) {
        char c = data[at];
        if (c == '\0' || (c == '\n') != (at > 0 && data[at - 1] == '\r'))
            return 400;
        if (c == '\n' && at >= 3 && data[at - 2] == '\n') {
            *header_length = at + 1;
            break;
        }
    }
    /* However much came at once: the answer is the same. */
    if (at >= REQUEST_LINE_BYTES_MAX && memchr(data, '\n', REQUEST_LINE_BYTES_MAX) == NULL) {
        *header_length = 0;
        return 414;
    }
    if (*header_length > 0)
        return 0;
    *scanned = at;
    return at >= HEADER_BYTES_MAX ? 431 : 0;
}

static int parse_request_line(struct text line, struct request *request, bool *old)
{
    request->method = text_cut(&line, ' ');
    request->target = text_cut(&line, ' ');
    request->head = text_is(request->method, "HEAD");
    if (!is_token(request->method) || request->target.length == 0)
        return 400;
    for (size_t i = 0; i < request->target.length; i++) {
        unsigned char byte = (unsigned char)request->target.at[i];
        if (byte <= 0x20 || byte == 0x7f || byte == '#')
            return 400;
    }
    if (line.length != 8 || memcmp(line.at, "HTTP/", 5) != 0 || line.at[5] < '0' || line.at[5] > '9' || line.at[6] != '.'
        || line.at[7] < '0' || line.at[7] > '9')
        return 400;
    if (line.at[5] != '1')
        return 505;
    *old = line.at[7] == '0';
    request->keep_alive = !*old;
    return 0;
}

/* http://host/path, as to a proxy, means the same as /path. */
static int reduce_target(struct request *request)
{
    struct text *target = &request->target;
    if (target->at[0] == '/' || (text_is(*target, "*") && text_is(request->method, "OPTIONS")))
        return 0;
    struct text scheme = {target->at, 7};
    if (target->length <= 7 || !text_is_nocase(scheme, "http://"))
        return text_is(request->method, "CONNECT") ? 0 : 400;
    struct text rest = {target->at + 7, target->length - 7};
    while (rest.length > 0 && rest.at[0] != '/' && rest.at[0] != '?')
        rest.at++, rest.length--;
    if (rest.at == target->at + 7)
        return 400;
    if (rest.length == 0 || rest.at[0] == '?')
        rest.at = "/", rest.length = 1; /* the query means nothing here */
    *target = rest;
    return 0;
}

int parse_request(const char *header, size_t length, struct request *request)
{
    static const struct {
        const char *name;
        size_t member;
    } kept[] = {
        {"range", offsetof(struct request, range)},
        {"if-range", offsetof(struct request, if_range)},
        {"if-match", offsetof(struct request, if_match)},
        {"if-none-match", offsetof(struct request, if_none_match)},
        {"if-modified-since", offsetof(struct request, if_modified_since)},
        {"if-unmodified-since", offsetof(struct request, if_unmodified_since)},
    };
    struct text rest = {header, length}, line, name, value;
    struct text coding = {NULL, 0}, expectation = {NULL, 0};
    bool old = false, has_host = false, has_length = false, says_close = false, says_keep_alive = false;
    int fields = 0;
    memset(request, 0, sizeof *request);
    line = text_cut(&rest, '\n');
    line.length--; /* find_header has seen to it that a CR stands before every LF */
    if (line.length + 2 > REQUEST_LINE_BYTES_MAX)
        return 414;
    int status = parse_request_line(line, request, &old);
    if (status == 0)
        status = reduce_target(request);
    if (status != 0)
        return status;
    while (line = text_cut(&rest, '\n'), --line.length > 0) {
        if (++fields > FIELDS_MAX)
            return 431;
        value = line;
        name = text_cut(&value, ':');
        /* also refuses a line without a colon, a space before it, and the folded lines of old */
        if (name.length == line.length || !is_token(name))
            return 400;
        value = text_trim(value);
        for (size_t i = 0; i < value.length; i++)
            if (((unsigned char)value.at[i] < 0x20 && value.at[i] != '\t') || value.at[i] == 0x7f)
                return 400;
        if (text_is_nocase(name, "host")) {
            if (has_host || (value.length > 0 && (memchr(value.at, ' ', value.length) || memchr(value.at, '/', value.length)
                                                  || memchr(value.at, ',', value.length))))
                return 400;
            has_host = true;
        } else if (text_is_nocase(name, "content-length")) {
            if (has_length || !text_number(value, &request->body_length))
                return 400;
            has_length = true;
        } else if (text_is_nocase(name, "transfer-encoding")) {
            if (coding.at != NULL)
                return 400;
            coding = value;
        } else if (text_is_nocase(name, "expect")) {
            expectation = value;
        } else if (text_is_nocase(name, "connection")) {
            while (value.length > 0) {
                struct text option = text_trim(text_cut(&value, ','));
                says_close = says_close || text_is_nocase(option, "close");
                says_keep_alive = says_keep_alive || text_is_nocase(option, "keep-alive");
            }
        } else {
            for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
                if (text_is_nocase(name, kept[i].name))
                    *(struct text *)(void *)((char *)request + kept[i].member) = value;
        }
    }
    if (!old && !has_host)
        return 400;
    /* Where a request's body ends must be beyond doubt, or its bytes could pass for the next request. */
    if (coding.at != NULL)
        return old || has_length ? 400 : text_is_nocase(coding, "chunked") ? 411 : 501;
    if (request->body_length > BODY_BYTES_MAX)
        return 413;
    if (expectation.at != NULL && !old) {
        if (!text_is_nocase(expectation, "100-continue"))
            return 417;
        request->expects_continue = true;
    }
    request->says_keep_alive = old && says_keep_alive && !says_close;
    request->keep_alive = !says_close && (!old || says_keep_alive);
    return 0;
}

/* Whether a list of entity tags ("*", or tags with commas between) holds ours. `weak`: a W/ does not matter. */
static bool etag_listed(struct text list, const char *etag, bool weak)
{
    while (list.length > 0) {
        struct text item = text_trim(text_cut(&list, ',')); /* ours has no comma in it */
        if (text_is(item, "*"))
            return true;
        if (weak && item.length > 2 && memcmp(item.at, "W/", 2) == 0)
            item.at += 2, item.length -= 2;
        if (text_is(item, etag))
            return true;
    }
    return false;
}

int evaluate_conditions(const struct request *request, const char *etag, int64_t modified)
{
    int64_t date;
    if (request->if_match.at != NULL) {
        if (!etag_listed(request->if_match, etag, false))
            return 412;
    } else if (request->if_unmodified_since.at != NULL && parse_date(request->if_unmodified_since, &date)
               && modified > date) {
        return 412;
    }
    if (request->if_none_match.at != NULL)
        return etag_listed(request->if_none_match, etag, true) ? 304 : 200;
    if (request->if_modified_since.at != NULL && parse_date(request->if_modified_since, &date) && modified <= date)
        return 304;
    return 200;
}

int evaluate_range(const struct request *request, const char *etag, int64_t modified, uint64_t size, uint64_t *first,
                   uint64_t *length)
{
    struct text end = request->range, begin;
    uint64_t from = 0, to = UINT64_MAX;
    int64_t date;
    if (end.at == NULL || request->head)
        return 200;
    if (request->if_range.at != NULL && !text_is(request->if_range, etag)
        && !(parse_date(request->if_range, &date) && date == modified))
        return 200; /* it has changed since */
    begin = text_cut(&end, '=');
    end = text_trim(end);
    if (!text_is_nocase(begin, "bytes") || end.length < 2 || memchr(end.at, '-', end.length) == NULL)
        return 200;
    begin = text_cut(&end, '-');
    if (begin.length == 0) { /* -n: the last n */
        uint64_t count;
        if (!text_number(end, &count))
            return 200;
        if (count == 0)
            return 416;
        if (size == 0)
            return 200;
        from = count < size ? size - count : 0;
    } else {
        if (!text_number(begin, &from) || (end.length > 0 && (!text_number(end, &to) || to < from)))
            return 200;
        if (from >= size)
            return 416;
    }
    *first = from;
    *length = (to < size ? to + 1 : size) - from;
    return 206;
}

const char *status_text(int status)
{
    switch (status) {
    case 200: return "OK";
    case 204: return "No Content";
    case 206: return "Partial Content";
    case 301: return "Moved Permanently";
    case 304: return "Not Modified";
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 411: return "Length Required";
    case 412: return "Precondition Failed";
    case 413: return "Content Too Large";
    case 414: return "URI Too Long";
    case 416: return "Range Not Satisfiable";
    case 417: return "Expectation Failed";
    case 431: return "Request Header Fields Too Large";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 505: return "HTTP Version Not Supported";
    default: return "Unknown";
    }
}
