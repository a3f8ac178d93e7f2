/* text.c: pieces of text, text that grows, and dates. */
#include "http.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *builder_room(struct builder *out, size_t more)
{
    if (out->failed)
        return NULL;
    if (out->capacity - out->length < more) {
        size_t capacity = (out->length + more) * 2;
        char *text = realloc(out->text, capacity);
        if (text == NULL) {
            out->failed = true;
            return NULL;
        }
        out->text = text;
        out->capacity = capacity;
    }
    return out->text + out->length;
}

void put_bytes(struct builder *out, const void *bytes, size_t length)
{
    char *room = builder_room(out, length);
    if (room != NULL) {
        memcpy(room, bytes, length);
        out->length += length;
    }
}

void put(struct builder *out, const char *text)
{
    put_bytes(out, text, strlen(text));
}

void put_format(struct builder *out, const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof line)
        out->failed = true;
    else
        put_bytes(out, line, (size_t)length);
}

void put_url_path(struct builder *out, const char *path)
{
    static const char hex[] = "0123456789ABCDEF";
    for (const char *at = path; *at != '\0'; at++) {
        unsigned char byte = (unsigned char)*at;
        if ((byte >= '0' && byte <= '9') || (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z')
            || strchr("-._~/", byte) != NULL) {
            put_bytes(out, at, 1);
        } else {
            char encoded[3] = {'%', hex[byte >> 4], hex[byte & 15]};
            put_bytes(out, encoded, sizeof encoded);
        }
    }
}

void put_html(struct builder *out, const char *text)
{
    for (; *text != '\0'; text++) {
        switch (*text) {
        case '&': put(out, "&amp;"); break;
        case '<': put(out, "&lt;"); break;
        case '>': put(out, "&gt;"); break;
        case '"': put(out, "&quot;"); break;
        case '\'': put(out, "&#39;"); break;
        default: put_bytes(out, text, 1);
        }
    }
}

void format_printable(struct text text, char *out, size_t capacity)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t length = 0;
    for (size_t i = 0; i < text.length && length + 5 <= capacity; i++) {
        unsigned char byte = (unsigned char)text.at[i];
        if (byte >= 0x20 && byte < 0x7f && byte != '\\') {
            out[length++] = (char)byte;
        } else {
            out[length++] = '\\';
            out[length++] = 'x';
            out[length++] = hex[byte >> 4];
            out[length++] = hex[byte & 15];
        }
    }
    out[length] = '\0';
}

bool text_is(struct text text, const char *expected)
{
    return text.length == strlen(expected) && memcmp(text.at, expected, text.length) == 0;
}

bool text_is_nocase(struct text text, const char *expected_lowercase)
{
    if (text.length != strlen(expected_lowercase))
        return false;
    for (size_t i = 0; i < text.length; i++) {
        char c = text.at[i];
        if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != expected_lowercase[i])
            return false;
    }
    return true;
}

struct text text_trim(struct text text)
{
    while (text.length > 0 && (text.at[0] == ' ' || text.at[0] == '\t'))
        text.at++, text.length--;
    while (text.length > 0 && (text.at[text.length - 1] == ' ' || text.at[text.length - 1] == '\t'))
        text.length--;
    return text;
}

struct text text_cut(struct text *rest, char separator)
{
    const char *end = rest->length > 0 ? memchr(rest->at, separator, rest->length) : NULL;
    struct text front = {rest->at, end != NULL ? (size_t)(end - rest->at) : rest->length};
    size_t cut = end != NULL ? front.length + 1 : front.length;
    rest->at += cut;
    rest->length -= cut;
    return front;
}

bool text_number(struct text text, uint64_t *out)
{
    uint64_t number = 0;
    for (size_t i = 0; i < text.length; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(text.at[i] - '0');
        number = number > (UINT64_MAX - digit) / 10 ? UINT64_MAX : number * 10 + digit;
    }
    *out = number;
    return text.length > 0;
}

void format_date(time_t when, char out[32])
{
    struct tm parts;
    if (gmtime_r(&when, &parts) == NULL || strftime(out, 32, "%a, %d %b %Y %H:%M:%S GMT", &parts) == 0)
        strcpy(out, "Thu, 01 Jan 1970 00:00:00 GMT");
}

bool parse_date(struct text text, int64_t *out)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    char copy[40], month_name[4];
    int64_t day, month, year, hour, minute, second;
    int d, y, h, m, s, end = 0;
    if (text.length >= sizeof copy)
        return false;
    memcpy(copy, text.at, text.length);
    copy[text.length] = '\0';
    if (sscanf(copy, "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d GMT%n", &d, month_name, &y, &h, &m, &s, &end) == 6
        && end > 0) {
        /* Sun, 06 Nov 1994 08:49:37 GMT */
    } else if (sscanf(copy, "%*[A-Za-z], %2d-%3[A-Za-z]-%2d %2d:%2d:%2d GMT%n", &d, month_name, &y, &h, &m, &s, &end) == 6
               && end > 0) {
        y += y < 70 ? 2000 : 1900; /* Sunday, 06-Nov-94 08:49:37 GMT */
    } else if (sscanf(copy, "%*3[A-Za-z] %3[A-Za-z] %2d %2d:%2d:%2d %4d%n", month_name, &d, &h, &m, &s, &y, &end) == 6
               && end > 0) {
        /* Sun Nov  6 08:49:37 1994 */
    } else {
        return false;
    }
    const char *found = strlen(month_name) == 3 ? strstr(months, month_name) : NULL;
    if (copy[end] != '\0' || found == NULL || (found - months) % 3 != 0 || y < 1 || d < 1 || d > 31 || h < 0 || h > 23
        || m < 0 || m > 59 || s < 0 || s > 60)
        return false;
    day = d, hour = h, minute = m, second = s;
    month = (found - months) / 3 + 1;
    year = month <= 2 ? y - 1 : y; /* years that begin in March: the leap day is the last one */
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    int64_t days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719468;
    *out = ((days * 24 + hour) * 60 + minute) * 60 + second;
    return true;
}
