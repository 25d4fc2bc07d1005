/* vnstore doctor: what works on this host, what does not, and why. */

#include "cmd_doctor.h"
#include "cmd.h"
#include "ui_table.h"

#include "common/jsonx.h"

#include <stdio.h>

static json_t *examine(void)
{
    static const char *const states[] = {
        [DOCTOR_OK] = "ok",
        [DOCTOR_WARN] = "warn",
        [DOCTOR_NO] = "no",
    };
    json_t *rows = json_array();

    for (size_t i = 0; i < doctor_check_count; i++) {
        struct doctor_result result = {.state = DOCTOR_OK};

        doctor_checks[i].run(&result);
        json_array_append_new(
            rows,
            json_pack("{ss ss ss ss ss}", "check", doctor_checks[i].name, "for",
                      doctor_checks[i].what, "state", states[result.state],
                      "found", result.found, "hint", result.hint));
    }
    return rows;
}

/* What to do, below the table: a line for each check that has a hint. */
static int print_hints(const json_t *rows, struct vn_err *err)
{
    vn_auto(json) json_t *hints = json_array();
    const json_t *row;
    size_t i;

    json_array_foreach (rows, i, row) {
        const char *hint = jsonx_string_or(row, "hint", "");

        if (hint[0])
            ui_fact(hints, jsonx_string_or(row, "check", ""), "%s", hint);
    }
    if (json_array_size(hints) == 0)
        return 0;
    putchar('\n');
    return ui_facts_print(hints, err);
}

int cmd_doctor(int argc, char **argv, struct vn_err *err)
{
    static const struct cmd_syntax syntax = {
        .common = CMD_JSON,
        .doc = "Try what snapshots need on this host, as this user: ok,"
               " warn (something is worse without it) or no (something"
               " is impossible without it). The exit status is 0.",
    };
    static const struct ui_column columns[] = {
        {"check", "CHECK", UI_TEXT},
        {"state", "STATE", UI_TEXT},
        {"found", "FOUND", UI_TEXT},
    };
    vn_auto(json) json_t *rows = NULL, *out = NULL;
    struct cmd_common args;

    cmd_parse(&syntax, argc, argv, &args, NULL);
    rows = examine();
    if (args.json) {
        out = json_pack("{sO}", "checks", rows);
        ui_json_print(out);
        return CMD_OK;
    }
    if (ui_table_print(rows, columns, VN_COUNT(columns), err) < 0)
        return -1;
    return print_hints(rows, err);
}
