#include "ui_table.h"

#include "common/auto.h"
#include "common/io.h"

#include <errno.h>
#include <libsmartcols.h>
#include <stdarg.h>
#include <stdlib.h>

VN_AUTO_DEFINE(table, struct libscols_table *, scols_unref_table)

/* The text of one cell. Owned by the caller. */
static char *cell_text(const json_t *value, enum ui_kind kind)
{
    char size[16];

    switch (kind) {
    case UI_TEXT:
        if (json_is_string(value))
            return vn_strdup(json_string_value(value));
        break;
    case UI_COUNT:
        if (json_is_integer(value))
            return vn_format("%lld", (long long)json_integer_value(value));
        break;
    case UI_SIZE:
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            break;
        io_format_size((uint64_t)json_integer_value(value), size);
        return vn_strdup(size);
    case UI_MS:
        if (json_is_number(value))
            return vn_format("%.1f ms", json_number_value(value));
        break;
    }
    return vn_strdup("-");
}

static int fill_line(struct libscols_table *table, const json_t *row,
                     const struct ui_column *columns, size_t count)
{
    struct libscols_line *line = scols_table_new_line(table, NULL);

    if (!line)
        return -1;
    for (size_t i = 0; i < count; i++) {
        vn_auto(free) char *text =
            cell_text(json_object_get(row, columns[i].key), columns[i].kind);

        if (scols_line_set_data(line, i, text) < 0)
            return -1;
    }
    return 0;
}

static int print(const json_t *rows, const struct ui_column *columns,
                 size_t count, int headings, struct vn_err *err)
{
    vn_auto(table) struct libscols_table *table = scols_new_table();
    size_t i;
    json_t *row;

    if (!table || scols_table_enable_noheadings(table, !headings) < 0)
        return vn_fail(err, ENOMEM, "make a table");
    for (i = 0; i < count; i++)
        if (!scols_table_new_column(
                table, columns[i].title, 0,
                columns[i].kind == UI_TEXT ? 0 : SCOLS_FL_RIGHT))
            return vn_fail(err, ENOMEM, "make a table");
    json_array_foreach (rows, i, row)
        if (fill_line(table, row, columns, count) < 0)
            return vn_fail(err, ENOMEM, "make a table");
    if (scols_print_table(table) < 0)
        return vn_fail(err, VN_E_STATE, "the table could not be printed");
    return 0;
}

int ui_table_print(const json_t *rows, const struct ui_column *columns,
                   size_t count, struct vn_err *err)
{
    return print(rows, columns, count, 1, err);
}

void ui_fact(json_t *facts, const char *name, const char *format, ...)
{
    json_t *row = json_object();
    char *text = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        abort();
    va_end(args);
    json_object_set_new(row, "name", json_string(name));
    json_object_set_new(row, "value", json_string(text));
    json_array_append_new(facts, row);
    free(text);
}

int ui_facts_print(const json_t *facts, struct vn_err *err)
{
    static const struct ui_column columns[] = {
        {"name", "NAME", UI_TEXT},
        {"value", "VALUE", UI_TEXT},
    };

    return print(facts, columns, VN_COUNT(columns), 0, err);
}

void ui_json_print(const json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    putchar('\n');
}

void ui_text_print(FILE *out, const char *text)
{
    for (const char *at = text; *at; at++) {
        unsigned char byte = (unsigned char)*at;

        fputc(byte < 0x20 || byte == 0x7f ? '?' : byte, out);
    }
}
