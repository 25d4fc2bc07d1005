#ifndef TOOLS_UI_TABLE_H
#define TOOLS_UI_TABLE_H

/*
 * What commands print: one JSON value as the data, and a table as a view of
 * it, so that --json and the table cannot disagree.
 */

#include "common/err.h"

#include <jansson.h>
#include <stdio.h>

enum ui_kind {
    UI_TEXT,  /* a string */
    UI_COUNT, /* a number */
    UI_SIZE,  /* bytes, shown as "1.2 GiB" */
    UI_MS,    /* milliseconds, shown as "3.2 ms" */
};

struct ui_column {
    const char *key;   /* in each row's object */
    const char *title; /* the heading */
    enum ui_kind kind; /* all but text stand at the right */
};

/*
 * Print an array of objects to stdout, a line each; a value that is absent or
 * of another type shows as "-". Control characters are made visible.
 */
int ui_table_print(const json_t *rows, const struct ui_column *columns,
                   size_t count, struct vn_err *err) VN_MUST_USE;

/* Append a line to an array of facts; ui_facts_print() shows it as two columns
 * without headings. */
void ui_fact(json_t *facts, const char *name, const char *format, ...)
    VN_PRINTF(3, 4);
int ui_facts_print(const json_t *facts, struct vn_err *err) VN_MUST_USE;

/* Print a JSON value and a newline to stdout. */
void ui_json_print(const json_t *json);

/* Print text that may come from a guest or a tar: control bytes become '?'. */
void ui_text_print(FILE *out, const char *text);

#endif
