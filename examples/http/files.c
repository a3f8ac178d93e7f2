/* files.c: opens what a path names, and nothing outside the root; content types; listings of folders. */
#include "http.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
enum { OPEN_FLAGS = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY };

int open_walking(const struct root *root, const char *path)
{
    char joined[PATH_BYTES_MAX * 2];
    int length = snprintf(joined, sizeof joined, "%s/%s", root->path, path);
    if (length < 0 || (size_t)length >= sizeof joined)
        return errno = ENAMETOOLONG, -1;
    char *real = realpath(joined, NULL);
    if (real == NULL)
        return -1;
    size_t root_length = strcmp(root->path, "/") == 0 ? 0 : strlen(root->path);
    int file = -1;
    if (strncmp(real, root->path, root_length) != 0 || (real[root_length] != '/' && real[root_length] != '\0')) {
        errno = EXDEV; /* as kolo says it */
    } else {
        char *at = real + root_length, *name = NULL;
        file = openat(root->file, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        while (file >= 0 && *(at += strspn(at, "/")) != '\0') {
            name = at;
            at += strcspn(at, "/");
            if (*at != '\0')
                *at++ = '\0';
            int parent = file;
            file = openat(parent, name, OPEN_FLAGS | O_NOFOLLOW);
            int error = errno;
            close(parent);
            errno = error;
        }
    }
    int error = errno;
    free(real);
    errno = error;
    return file;
}

int root_open(struct root *root, const char *path)
{
    root->file = -1;
    root->path = realpath(path, NULL);
    if (root->path == NULL)
        return -1;
    root->file = open(root->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root->file < 0) {
        int error = errno;
        root_close(root);
        errno = error;
        return -1;
    }
    return 0;
}

void root_close(struct root *root)
{
    if (root->file >= 0)
        close(root->file);
    root->file = -1;
    free(root->path);
    root->path = NULL;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int decode_path(struct text target, char path[PATH_BYTES_MAX], bool *folder)
{
    size_t length = 0, name = 0;
    for (size_t i = 0; i <= target.length; i++) {
        if (i == target.length || target.at[i] == '/') {
            size_t name_length = length - name;
            if (name_length == 2 && memcmp(path + name, "..", 2) == 0)
                return 403;
            if (name_length == 1 && path[name] == '.')
                length = name, name_length = 0;
            *folder = name_length == 0;
            if (name_length > 0 && i < target.length)
                path[length++] = '/';
            name = length;
            continue;
        }
        char byte = target.at[i];
        if (byte == '%') {
            int high = i + 2 < target.length ? hex_digit(target.at[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(target.at[i + 2]) : -1;
            if (low < 0)
                return 400;
            byte = (char)(high << 4 | low);
            i += 2;
            if (byte == '\0')
                return 400;
            if (byte == '/')
                return 404; /* a slash that is part of a name: no file has one */
        }
        path[length++] = byte;
        if (length >= PATH_BYTES_MAX - 2)
            return 414;
    }
    if (*folder && length > 0)
        length--;
    if (length == 0)
        path[length++] = '.';
    path[length] = '\0';
    return 0;
}
const char *content_type(const char *path)
{
    static const struct {
        const char *extension, *type;
    } types[] = {
        {"html", "text/html; charset=utf-8"}, {"htm", "text/html; charset=utf-8"},
        {"xhtml", "application/xhtml+xml"}, {"css", "text/css; charset=utf-8"},
        {"js", "text/javascript; charset=utf-8"}, {"mjs", "text/javascript; charset=utf-8"},
        {"json", "application/json"}, {"map", "application/json"}, {"jsonld", "application/ld+json"},
        {"webmanifest", "application/manifest+json"}, {"wasm", "application/wasm"},
        {"xml", "text/xml; charset=utf-8"}, {"xsl", "text/xml; charset=utf-8"}, {"rss", "application/rss+xml"},
        {"atom", "application/atom+xml"}, {"csv", "text/csv; charset=utf-8"},
        {"tsv", "text/tab-separated-values; charset=utf-8"}, {"ics", "text/calendar; charset=utf-8"},
        {"vcf", "text/vcard; charset=utf-8"}, {"vtt", "text/vtt; charset=utf-8"},
        /* pictures */
        {"png", "image/png"}, {"apng", "image/apng"}, {"jpg", "image/jpeg"}, {"jpeg", "image/jpeg"},
        {"gif", "image/gif"}, {"webp", "image/webp"}, {"avif", "image/avif"}, {"svg", "image/svg+xml"},
        {"ico", "image/x-icon"}, {"bmp", "image/bmp"}, {"tif", "image/tiff"}, {"tiff", "image/tiff"},
        {"heic", "image/heic"}, {"jxl", "image/jxl"},
        /* sound and films */
        {"mp3", "audio/mpeg"}, {"m4a", "audio/mp4"}, {"aac", "audio/aac"}, {"ogg", "audio/ogg"}, {"oga", "audio/ogg"},
        {"opus", "audio/ogg"}, {"flac", "audio/flac"}, {"wav", "audio/wav"}, {"mid", "audio/midi"},
        {"weba", "audio/webm"}, {"mp4", "video/mp4"}, {"m4v", "video/mp4"}, {"webm", "video/webm"},
        {"ogv", "video/ogg"}, {"mov", "video/quicktime"}, {"mkv", "video/x-matroska"}, {"avi", "video/x-msvideo"},
        {"mpeg", "video/mpeg"}, {"ts", "video/mp2t"}, {"m3u8", "application/vnd.apple.mpegurl"},
        /* fonts */
        {"woff", "font/woff"}, {"woff2", "font/woff2"}, {"ttf", "font/ttf"}, {"otf", "font/otf"},
        /* documents and archives */
        {"pdf", "application/pdf"}, {"rtf", "application/rtf"}, {"epub", "application/epub+zip"},
        {"ps", "application/postscript"}, {"doc", "application/msword"}, {"xls", "application/vnd.ms-excel"},
        {"ppt", "application/vnd.ms-powerpoint"},
        {"docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"},
        {"xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"},
        {"pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"},
        {"odt", "application/vnd.oasis.opendocument.text"}, {"ods", "application/vnd.oasis.opendocument.spreadsheet"},
        {"odp", "application/vnd.oasis.opendocument.presentation"}, {"zip", "application/zip"},
        {"gz", "application/gzip"}, {"tgz", "application/gzip"}, {"bz2", "application/x-bzip2"},
        {"xz", "application/x-xz"}, {"zst", "application/zstd"}, {"7z", "application/x-7z-compressed"},
        {"tar", "application/x-tar"}, {"jar", "application/java-archive"},
        /* text that a browser should show, not save; also whole names without an extension */
        {"txt", ""}, {"text", ""}, {"md", ""}, {"markdown", ""}, {"rst", ""}, {"adoc", ""}, {"log", ""}, {"diff", ""},
        {"patch", ""}, {"conf", ""}, {"cfg", ""}, {"ini", ""}, {"toml", ""}, {"yaml", ""}, {"yml", ""}, {"lock", ""},
        {"c", ""}, {"h", ""}, {"cc", ""}, {"cpp", ""}, {"cxx", ""}, {"hh", ""}, {"hpp", ""}, {"rs", ""}, {"go", ""},
        {"py", ""}, {"rb", ""}, {"pl", ""}, {"lua", ""}, {"sh", ""}, {"java", ""}, {"kt", ""}, {"swift", ""},
        {"zig", ""}, {"sql", ""}, {"tex", ""}, {"cmake", ""}, {"mk", ""}, {"in", ""}, {"pc", ""}, {"s", ""},
        {"gitignore", ""}, {"gitattributes", ""}, {"editorconfig", ""}, {"readme", ""}, {"license", ""},
        {"licence", ""}, {"copying", ""}, {"authors", ""}, {"changelog", ""}, {"contributing", ""}, {"notice", ""},
        {"todo", ""}, {"news", ""}, {"install", ""}, {"makefile", ""}, {"dockerfile", ""},
    };
    const char *name = strrchr(path, '/'), *dot;
    name = name != NULL ? name + 1 : path;
    dot = strrchr(name, '.');
    struct text extension = {dot != NULL ? dot + 1 : name, 0};
    extension.length = strlen(extension.at);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (text_is_nocase(extension, types[i].extension))
            return types[i].type[0] != '\0' ? types[i].type : "text/plain; charset=utf-8";
    return "application/octet-stream";
}

void format_etag(uint64_t inode, uint64_t size, int64_t modified_ns, char out[80])
{
    snprintf(out, 80, "\"%" PRIx64 "-%" PRIx64 "-%" PRIx64 "\"", inode, size, (uint64_t)modified_ns);
}

struct entry {
    char *name;
    off_t size;
    time_t modified;
    bool folder;
};

static int compare_entries(const void *left, const void *right)
{
    const struct entry *a = left, *b = right;
    if (a->folder != b->folder)
        return a->folder ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Reads a folder, sorted, up to LISTING_ENTRIES_MAX. Takes the descriptor. Gives the number of entries, -1: errno. */
static int read_folder(int file, struct entry **out, bool *cut)
{
    struct entry *entries = NULL;
    size_t count = 0, capacity = 0;
    DIR *folder = fdopendir(file);
    if (folder == NULL) {
        int error = errno;
        close(file);
        errno = error;
        return -1;
    }
    struct dirent *item;
    while ((item = readdir(folder)) != NULL) {
        struct stat info;
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
            continue;
        if (count == LISTING_ENTRIES_MAX) {
            *cut = true;
            break;
        }
        if (count == capacity) {
            size_t wanted = capacity > 0 ? capacity * 2 : 64;
            struct entry *grown = realloc(entries, wanted * sizeof *grown);
            if (grown == NULL)
                break;
            entries = grown;
            capacity = wanted;
        }
        /* A link is shown as what it is: where it leads is found out, and checked, when somebody follows it. */
        if (fstatat(dirfd(folder), item->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0)
            continue; /* gone already */
        struct entry entry = {strdup(item->d_name), info.st_size, info.st_mtime, S_ISDIR(info.st_mode)};
        if (entry.name == NULL)
            break;
        entries[count++] = entry;
    }
    *cut = *cut || item != NULL;
    closedir(folder);
    if (count > 0)
        qsort(entries, count, sizeof *entries, compare_entries);
    *out = entries;
    return (int)count;
}

static void put_entry(struct builder *page, const struct entry *entry)
{
    char date[32] = "";
    struct tm parts;
    if (gmtime_r(&entry->modified, &parts) != NULL && strftime(date, sizeof date, "%Y-%m-%d %H:%M", &parts) == 0)
        date[0] = '\0';
    put(page, "<tr><td><a href=\"./"); /* "./": a name with a colon is no scheme */
    put_url_path(page, entry->name);
    put(page, entry->folder ? "/\">" : "\">");
    put_html(page, entry->name);
    put(page, entry->folder ? "/</a><td><td>" : "</a><td>");
    if (!entry->folder)
        put_format(page, "%jd<td>", (intmax_t)entry->size);
    put_format(page, "%s\n", date);
}

int put_listing(struct builder *page, int file, const char *path)
{
    struct entry *entries = NULL;
    bool cut = false, is_root = strcmp(path, ".") == 0;
    int count = read_folder(file, &entries, &cut);
    if (count < 0)
        return -1;
    const char *shown = is_root ? "" : path;
    put(page, "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
              "<meta name=\"viewport\" content=\"width=device-width\">\n"
              "<meta name=\"color-scheme\" content=\"light dark\">\n<title>/");
    put_html(page, shown);
    put(page, "</title>\n<style>body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em}"
              "td{padding-right:2em}td:nth-child(n+2){text-align:right;white-space:nowrap;opacity:.7}</style>\n<h1>/");
    put_html(page, shown);
    put(page, "</h1>\n<table>\n");
    if (!is_root)
        put(page, "<tr><td><a href=\"../\">../</a><td><td>\n");
    for (int i = 0; i < count; i++) {
        if (page->length < LISTING_BYTES_MAX - 16 * 1024) /* room for the longest entry and the end */
            put_entry(page, &entries[i]);
        else
            cut = true;
        free(entries[i].name);
    }
    free(entries);
    put(page, cut ? "</table>\n<p>And more: the listing is cut here.\n" : "</table>\n");
    if (page->failed)
        return errno = ENOMEM, -1;
    return 0;
}
