/*
 * YAML into a tree of nodes with places.
 *
 * Built from libyaml's events, not from its documents: there aliases are
 * already resolved and anchors forgotten, so one could not refuse them. They
 * are refused, as are tags and more than one document: a VNE file says what
 * it means where it says it, and nothing can grow by being repeated.
 *
 * Limits: VNE_FILE_MAX bytes (the caller's), DEPTH_MAX levels, so that
 * recursion here and in the reader is bounded, and NODES_MAX nodes: a byte can
 * make at most one node, of about 100 bytes.
 */

#include "coord/vne_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 16u
#define NODES_MAX 100000u

struct reader {
    yaml_parser_t parser;
    const char *file;
    struct vn_err *err;
    size_t nodes;
};

static inline void vn_auto_event(yaml_event_t *event)
{
    yaml_event_delete(event);
}

static struct vne_node *read_node(struct reader *reader, yaml_event_t *event,
                                  unsigned depth);

/* ---- errors ------------------------------------------------------------- */

static int fail_at(struct vn_err *err, const char *file, size_t line,
                   size_t column, const char *sentence)
{
    return vn_fail(err, VN_E_FORMAT, "%s:%zu:%zu: %s", file, line, column,
                   sentence);
}

int vne_node_fail(struct vn_err *err, const char *file,
                  const struct vne_node *node, const char *format, ...)
{
    char sentence[VN_ERR_MSG_SIZE];
    va_list args;

    va_start(args, format);
    vsnprintf(sentence, sizeof(sentence), format, args);
    va_end(args);
    /* What it quotes may hold anything, and ends up on a terminal. */
    for (char *p = sentence; *p; p++)
        if ((unsigned char)*p < ' ' || *p == 127)
            *p = '?';
    return fail_at(err, file, node->line, node->column, sentence);
}

int vne_node_wrap(struct vn_err *err, const char *file,
                  const struct vne_node *node)
{
    return vn_wrap(err, "%s:%zu:%zu", file, node->line, node->column);
}

static int fail_mark(struct reader *reader, const yaml_mark_t *mark,
                     const char *sentence)
{
    return fail_at(reader->err, reader->file, mark->line + 1, mark->column + 1,
                   sentence);
}

/* What libyaml says about wrong syntax, where it says it. */
static int fail_syntax(struct reader *reader)
{
    const yaml_parser_t *p = &reader->parser;
    const char *problem = p->problem ? p->problem : "cannot be read";
    yaml_mark_t mark = p->problem_mark;
    char sentence[256];

    /* Bad bytes come with an offset only, and without a mark. */
    if (p->error == YAML_READER_ERROR)
        return vn_fail(reader->err, VN_E_FORMAT,
                       "%s:%zu:%zu: %s (byte %zu of the file)", reader->file,
                       p->mark.line + 1, p->mark.column + 1, problem,
                       p->problem_offset);
    if (p->error == YAML_MEMORY_ERROR)
        abort();
    if (p->context)
        snprintf(sentence, sizeof(sentence), "%s (%s that began at line %zu)",
                 problem, p->context, p->context_mark.line + 1);
    else
        snprintf(sentence, sizeof(sentence), "%s", problem);
    return fail_mark(reader, &mark, sentence);
}

/* ---- nodes -------------------------------------------------------------- */

void vne_node_free(struct vne_node *node)
{
    if (!node)
        return;
    for (size_t i = 0; i < node->count; i++)
        vne_node_free(node->items[i]);
    free(node->items);
    free(node->text);
    free(node);
}

static void add_item(struct vne_node *node, struct vne_node *item)
{
    struct vne_node **items;

    /* Room doubles at every power of two. */
    if ((node->count & (node->count - 1)) == 0) {
        items = reallocarray(node->items, node->count ? node->count * 2 : 1,
                             sizeof(struct vne_node *));
        if (!items)
            abort(); /* NODES_MAX bounds it */
        node->items = items;
    }
    node->items[node->count++] = item;
}

static bool means_null(const yaml_event_t *event)
{
    const char *text = (const char *)event->data.scalar.value;

    return event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (!*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static int next_event(struct reader *reader, yaml_event_t *ret)
{
    if (!yaml_parser_parse(&reader->parser, ret))
        return fail_syntax(reader);
    return 0;
}

/* Anchors and tags of any node. */
static int check_plain(struct reader *reader, const yaml_event_t *event)
{
    const yaml_char_t *anchor = NULL, *tag = NULL;

    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    if (event->type == YAML_ALIAS_EVENT)
        return fail_mark(reader, &event->start_mark,
                         "aliases (*name) are not supported, write the value "
                         "out");
    if (anchor)
        return fail_mark(reader, &event->start_mark,
                         "anchors (&name) are not supported");
    if (tag)
        return fail_mark(reader, &event->start_mark,
                         "tags (!name) are not supported");
    return 0;
}

static int fill_scalar(struct reader *reader, const yaml_event_t *event,
                       struct vne_node *node)
{
    const char *text = (const char *)event->data.scalar.value;
    size_t size = event->data.scalar.length;

    if (strlen(text) != size)
        return fail_mark(reader, &event->start_mark, "a NUL in a text");
    node->kind = VNE_SCALAR;
    node->null = means_null(event);
    /* Block texts end with a line break that nobody means. */
    while (size && text[size - 1] == '\n')
        size--;
    node->text = strndup(text, size);
    if (!node->text)
        abort();
    return 0;
}

/* Items up to the end of a list or map. */
static int fill_items(struct reader *reader, struct vne_node *node,
                      yaml_event_type_t end, unsigned depth)
{
    for (;;) {
        vn_auto(event) yaml_event_t event = {.type = YAML_NO_EVENT};
        struct vne_node *item;

        if (next_event(reader, &event) < 0)
            return -1;
        if (event.type == end)
            return 0;
        item = read_node(reader, &event, depth + 1);
        if (!item)
            return -1;
        add_item(node, item);
        if (node->kind == VNE_MAP && node->count % 2 == 1 &&
            item->kind != VNE_SCALAR)
            return vne_node_fail(reader->err, reader->file, item,
                                 "a key must be a plain word");
    }
}

/* The node that begins with `event`. */
static struct vne_node *read_node(struct reader *reader, yaml_event_t *event,
                                  unsigned depth)
{
    vn_auto(vne_node) struct vne_node *node = vn_alloc(sizeof(*node));
    int rc;

    node->line = event->start_mark.line + 1;
    node->column = event->start_mark.column + 1;
    if (check_plain(reader, event) < 0)
        return NULL;
    if (depth > DEPTH_MAX || ++reader->nodes > NODES_MAX) {
        fail_mark(reader, &event->start_mark,
                  depth > DEPTH_MAX ? "nested too deeply" : "too many values");
        return NULL;
    }
    if (event->type == YAML_SCALAR_EVENT) {
        rc = fill_scalar(reader, event, node);
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        node->kind = VNE_LIST;
        rc = fill_items(reader, node, YAML_SEQUENCE_END_EVENT, depth);
    } else {
        node->kind = VNE_MAP;
        rc = fill_items(reader, node, YAML_MAPPING_END_EVENT, depth);
    }
    return rc < 0 ? NULL : vn_steal(&node);
}

/* ---- documents ---------------------------------------------------------- */

/* Skip to the first event of the content; an empty file has none. */
static int first_event(struct reader *reader, yaml_event_t *ret)
{
    do {
        yaml_event_delete(ret);
        if (next_event(reader, ret) < 0)
            return -1;
        if (ret->type == YAML_STREAM_END_EVENT)
            return fail_mark(reader, &ret->start_mark, "the file is empty");
    } while (ret->type == YAML_STREAM_START_EVENT ||
             ret->type == YAML_DOCUMENT_START_EVENT);
    return 0;
}

static int check_end(struct reader *reader)
{
    for (;;) {
        vn_auto(event) yaml_event_t event = {.type = YAML_NO_EVENT};

        if (next_event(reader, &event) < 0)
            return -1;
        if (event.type == YAML_STREAM_END_EVENT)
            return 0;
        if (event.type != YAML_DOCUMENT_END_EVENT)
            return fail_mark(reader, &event.start_mark,
                             "a second document begins");
    }
}

struct vne_node *vne_node_parse(const char *text, size_t size, const char *file,
                                struct vn_err *err)
{
    struct reader reader = {.file = file, .err = err};
    vn_auto(event) yaml_event_t event = {.type = YAML_NO_EVENT};
    struct vne_node *node = NULL;

    if (!yaml_parser_initialize(&reader.parser))
        abort();
    yaml_parser_set_encoding(&reader.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text,
                                 size);
    if (first_event(&reader, &event) == 0)
        node = read_node(&reader, &event, 0);
    if (node && check_end(&reader) < 0) {
        vne_node_free(node);
        node = NULL;
    }
    yaml_parser_delete(&reader.parser);
    return node;
}
