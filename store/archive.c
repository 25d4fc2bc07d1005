#include "store/archive_internal.h"

/*
 * Snapshots as tar files: what export and import share.
 *
 * Purpose: a snapshot leaves the store in a form that needs no vnstore to be
 * read, and comes back from it, in this or another store, proven whole.
 *
 * How: archive_export.c writes, archive_import.c reads, both as streams in one
 * pass, so that either end may be a pipe. The manifest comes first, because an
 * importer must know names and sizes before the data; the sums come last,
 * because an exporter knows them only then. Holes are kept as holes (GNU
 * sparse format 1.0 inside PAX, which GNU tar, bsdtar and Python read); sums
 * are over the whole content, so that sha256sum agrees after an extraction.
 *
 * Invariants: two exports of one snapshot are equal byte for byte (sorted
 * names, no clock, no user, no host). An import commits only what has every
 * object of the manifest, each once, with its size and its sum.
 *
 * Limits: the list of runs of a sparse member has ARCHIVE_RUNS_MAX entries: two
 * decimal numbers of at most 15 digits each, 512 KiB of text at most, since
 * libarchive keeps the list in memory on both sides. Images with more runs
 * have their smallest holes written as zeros; an importer finds them again
 * page by page. Documents are held against ARCHIVE_MANIFEST_MAX and _SUMS_MAX
 * before they are read.
 *
 * Concurrency: none of its own; one call runs in its caller's thread.
 *
 * Not done: compression (`vnstore export -o - | zstd` does it better), and
 * libarchive's other formats and filters, some of which start programs.
 */

#include "common/io.h"
#include "common/jsonx.h"

#include <archive.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t zeros[65536];

static int check_part(const char *name, const char *part, size_t size,
                      struct vn_err *err)
{
    if (size == 0)
        return vn_fail(err, VN_E_FORMAT,
                       "object name '%s' is absolute or has an empty part",
                       name);
    if ((size == 1 && part[0] == '.') ||
        (size == 2 && part[0] == '.' && part[1] == '.'))
        return vn_fail(err, VN_E_FORMAT, "object name '%s' has a '.' or '..'",
                       name);
    for (size_t i = 0; i < size; i++)
        if ((uint8_t)part[i] < 0x20 || part[i] == 0x7f || part[i] == '\\')
            return vn_fail(err, VN_E_FORMAT,
                           "object name '%s' has a control byte or backslash",
                           name);
    return 0;
}

int archive_member_check(const char *name, struct vn_err *err)
{
    const char *part = name;

    if (strlen(name) > ARCHIVE_NAME_MAX)
        return vn_fail(err, VN_E_LIMIT,
                       "object name '%.40s...' is longer than %u bytes", name,
                       ARCHIVE_NAME_MAX);
    if (strcmp(name, ARCHIVE_MANIFEST) == 0 || strcmp(name, ARCHIVE_SUMS) == 0)
        return vn_fail(err, VN_E_FORMAT,
                       "object name '%s' is reserved in archives", name);
    for (;;) {
        size_t size = strcspn(part, "/");

        if (check_part(name, part, size, err) < 0)
            return -1;
        if (part[size] == '\0')
            return 0;
        part += size + 1;
    }
}

int archive_fail(struct archive *tar, const char *doing, struct vn_err *err)
{
    int code = archive_errno(tar);
    const char *text = archive_error_string(tar);

    /* libarchive's own codes: -1 other, EILSEQ format, EINVAL usage. */
    if (code <= 0 || code >= VN_E_CORRUPT || code == EILSEQ || code == EINVAL)
        return vn_fail(err, VN_E_FORMAT, "%s: %s", doing,
                       text ? text : "unknown error");
    return vn_fail(err, code, "%s", doing);
}

static void must(int ok)
{
    if (!ok)
        abort(); /* OpenSSL without memory or without SHA-256 */
}

EVP_MD_CTX *archive_sum_new(void)
{
    EVP_MD_CTX *sum = EVP_MD_CTX_new();

    must(sum && EVP_DigestInit_ex(sum, EVP_sha256(), NULL));
    return sum;
}

void archive_sum_add(EVP_MD_CTX *sum, const void *data, size_t size)
{
    must(EVP_DigestUpdate(sum, data, size));
}

void archive_sum_zeros(EVP_MD_CTX *sum, uint64_t size)
{
    while (size) {
        size_t n = size < sizeof(zeros) ? (size_t)size : sizeof(zeros);

        archive_sum_add(sum, zeros, n);
        size -= n;
    }
}

void archive_sum_end(EVP_MD_CTX *sum, char hex[ARCHIVE_HEX_SIZE])
{
    uint8_t digest[EVP_MAX_MD_SIZE];

    must(EVP_DigestFinal_ex(sum, digest, NULL));
    io_hex(digest, (ARCHIVE_HEX_SIZE - 1) / 2, hex);
}

/* One line without its newline. */
static int parse_line(json_t *sums, const char *line, size_t size,
                      struct vn_err *err)
{
    enum { HEX = ARCHIVE_HEX_SIZE - 1, NAME = HEX + 2 };
    vn_auto(free) char *name = NULL;
    uint8_t digest[HEX / 2];
    char hex[ARCHIVE_HEX_SIZE];

    if (size <= NAME || memcmp(line + HEX, "  ", 2) != 0 ||
        memchr(line, '\0', size))
        return vn_fail(err, VN_E_FORMAT, "%s: a line is not '<sum>  <name>'",
                       ARCHIVE_SUMS);
    memcpy(hex, line, HEX);
    hex[HEX] = '\0';
    name = strndup(line + NAME, size - NAME);
    if (!name)
        abort();
    if (io_unhex(hex, digest, sizeof(digest), err) < 0)
        return vn_wrap(err, "%s: sum of '%s'", ARCHIVE_SUMS, name);
    io_hex(digest, sizeof(digest), hex); /* lower case */
    if (json_object_get(sums, name))
        return vn_fail(err, VN_E_FORMAT, "%s: '%s' is listed twice",
                       ARCHIVE_SUMS, name);
    if (json_object_set_new(sums, name, json_string(hex)) < 0)
        return vn_fail(err, VN_E_FORMAT, "%s: '%s' is not UTF-8", ARCHIVE_SUMS,
                       name);
    return 0;
}

json_t *archive_sums_parse(const char *text, size_t size, struct vn_err *err)
{
    vn_auto(json) json_t *sums = json_object();

    while (size) {
        const char *end = memchr(text, '\n', size);
        size_t line;

        if (!end)
            return vn_fail_ptr(err, VN_E_FORMAT, "%s: the last line is cut",
                               ARCHIVE_SUMS);
        line = (size_t)(end - text);
        if (parse_line(sums, text, line, err) < 0)
            return NULL;
        text += line + 1;
        size -= line + 1;
    }
    return vn_steal(&sums);
}

void archive_locale_enter(struct archive_locale *l)
{
    l->before = (locale_t)0;
    l->own = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
    if (l->own)
        l->before = uselocale(l->own);
}

void archive_locale_leave(struct archive_locale *l)
{
    if (!l->own)
        return;
    uselocale(l->before);
    freelocale(l->own);
    l->own = (locale_t)0;
}
