/* The retention policy, as tables: which of these times stay, and why. */

#include "unit/store_fixture.h"

#include "store/retention.h"

/* Reasons in the order of the items as they are given, a letter each:
 * l h d w m u; "-": deleted. */
struct item {
    const char *time; /* NULL: not known */
    const char *reasons;
};

struct scene {
    const char *name;
    struct store_keep keep;
    struct item items[16]; /* in the order of their commits */
};

static const struct scene scenes[] = {
    {"nothing to do", {.last = 3}, {{0}}},
    {"no rule keeps anything",
     {0},
     {{"2026-01-01T00:00:00Z", "-"}, {"2026-01-02T00:00:00Z", "-"}}},
    {"last",
     {.last = 2},
     {{"2026-01-01T00:00:00Z", "-"},
      {"2026-01-02T00:00:00Z", "l"},
      {"2026-01-03T00:00:00Z", "l"}}},
    {"more than there are",
     {.last = 4000000000u, .daily = 4000000000u},
     {{"2026-01-01T00:00:00Z", "ld"}, {"2026-01-02T00:00:00Z", "ld"}}},
    {"time counts, not the order of commits",
     {.last = 1},
     {{"2026-01-03T00:00:00Z", "l"}, {"2026-01-02T00:00:00Z", "-"}}},
    {"a tie: the later commit is the newer",
     {.last = 1, .hourly = 1},
     {{"2026-01-01T00:00:00Z", "-"},
      {"2026-01-01T00:00:00Z", "-"},
      {"2026-01-01T00:00:00Z", "lh"}}},
    {"the newest of each hour, of hours that have any",
     {.hourly = 3},
     {{"2026-01-01T05:59:59Z", "-"},
      {"2026-01-01T06:00:00Z", "-"},
      {"2026-01-01T06:59:59Z", "h"},
      {"2026-01-01T10:00:00Z", "h"},
      {"2026-01-01T11:30:00Z", "-"},
      {"2026-01-01T11:31:00Z", "h"}}},
    {"days of UTC",
     {.daily = 2},
     {{"2026-03-28T23:59:59Z", "-"},
      {"2026-03-29T00:00:00Z", "-"},
      {"2026-03-29T23:59:59Z", "d"},
      {"2026-03-30T00:00:00Z", "d"}}},
    {"weeks begin on Monday, also over the new year",
     {.weekly = 2},
     {{"2025-12-28T23:00:00Z", "-"}, /* Sunday */
      {"2025-12-29T00:00:00Z", "-"}, /* Monday of week 1 */
      {"2026-01-04T23:59:59Z", "w"}, /* Sunday of week 1 */
      {"2026-01-05T00:00:00Z", "w"}}},
    {"months, with a leap day",
     {.monthly = 3},
     {{"2023-02-28T12:00:00Z", "m"}, /* of another year */
      {"2024-02-01T00:00:00Z", "-"},
      {"2024-02-29T23:59:59Z", "m"},
      {"2024-03-01T00:00:00Z", "m"}}},
    {"rules each for itself",
     {.last = 1, .hourly = 1, .daily = 2, .weekly = 2, .monthly = 2},
     {{"2025-12-31T00:00:00Z", "m"},
      {"2026-01-20T00:00:00Z", "-"},
      {"2026-01-25T10:00:00Z", "w"},
      {"2026-01-30T10:00:00Z", "d"},
      {"2026-01-31T10:00:00Z", "-"},
      {"2026-01-31T10:59:00Z", "lhdwm"}}},
    {"an unknown time stays and counts for nothing",
     {.last = 1},
     {{NULL, "u"}, {"2026-01-01T00:00:00Z", "l"}, {NULL, "u"}}},
    {"only unknown times", {.last = 1, .monthly = 1}, {{NULL, "u"}}},
    {"before 1970",
     {.hourly = 1, .weekly = 2},
     {{"1969-12-28T23:59:59Z", "w"}, /* Sunday */
      {"1969-12-29T00:00:00Z", "-"},
      {"1969-12-31T23:59:59Z", "-"},
      {"1970-01-01T00:00:00Z", "hw"}}},
};

static void run_scene(const struct scene *scene)
{
    struct retention_item items[16] = {0};
    size_t count = 0;

    while (count < 16 && scene->items[count].reasons) {
        const char *time = scene->items[count].time;

        items[count].seq = count + 1;
        items[count].number = count;
        items[count].has_time = time != NULL;
        if (time)
            assert_true(retention_parse_time(time, &items[count].time));
        count++;
    }
    retention_apply(&scene->keep, items, count);
    for (size_t i = 0; i < count; i++) {
        const char *wanted = scene->items[items[i].number].reasons;
        char got[RETENTION_REASONS + 2] = "-";
        size_t n = 0;

        for (unsigned r = 0; r < RETENTION_REASONS; r++)
            if (items[i].reasons & 1u << r) {
                got[n++] = "lhdwmu"[r];
                got[n] = 0;
            }
        if (strcmp(got, wanted) != 0)
            fail_msg("%s, item %zu: '%s', not '%s'", scene->name,
                     items[i].number, got, wanted);
    }
    for (size_t i = 1; i < count; i++)
        assert_true(!items[i - 1].has_time ||
                    (items[i].has_time && items[i].time <= items[i - 1].time));
}

static void test_scenes(void **state)
{
    (void)state;
    for (size_t i = 0; i < VN_COUNT(scenes); i++)
        run_scene(&scenes[i]);
}

/* The host's time zone plays no part. */
static void test_time_zones(void **state)
{
    static const char *const zones[] = {"Pacific/Kiritimati", "America/Lima",
                                        "Europe/Berlin", "XYZ+11:30"};

    (void)state;
    for (size_t i = 0; i < VN_COUNT(zones); i++) {
        assert_int_equal(setenv("TZ", zones[i], 1), 0);
        tzset();
        for (size_t k = 0; k < VN_COUNT(scenes); k++)
            run_scene(&scenes[k]);
    }
    unsetenv("TZ");
    tzset();
}

/* Years of daily snapshots under a usual rule: pruning every day gives the
 * same as pruning once at the end, and never more than the rules add up to. */
static void test_every_day(void **state)
{
    enum { DAYS = 1000 };
    const struct store_keep keep = {
        .last = 3, .daily = 7, .weekly = 5, .monthly = 12};
    struct retention_item *all = vn_alloc(DAYS * sizeof(*all));
    struct retention_item kept[64];
    size_t count = 0;

    (void)state;
    for (unsigned day = 0; day < DAYS; day++) {
        struct retention_item item = {.seq = day + 1,
                                      .time = 1700000000 + day * 86400ll,
                                      .has_time = true};
        size_t n = 0;

        all[day] = item;
        kept[count++] = item;
        retention_apply(&keep, kept, count);
        for (size_t i = 0; i < count; i++)
            if (kept[i].reasons)
                kept[n++] = kept[i];
        count = n;
        assert_true(count <= 3 + 7 + 5 + 12);
    }
    retention_apply(&keep, all, DAYS);
    for (size_t i = 0, k = 0; i < DAYS; i++)
        if (all[i].reasons) {
            assert_true(k < count);
            assert_int_equal(all[i].seq, kept[k].seq);
            k++;
        }
    free(all);
}

static void test_times(void **state)
{
    static const char *const bad[] = {
        "",
        "unknown",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00z",
        "2026-01-31 12:00:00Z",
        "2026-02-31T12:00:00Z",
        "2026-13-01T12:00:00Z",
        "2026-00-01T12:00:00Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T12:60:00Z",
        "2026-01-31T12:00:61Z",
        "2025-02-29T12:00:00Z",
        "+026-01-31T12:00:00Z",
        "2026-01-31T12:00:00Z ",
        "2026-01-31T 1:00:00Z",
    };
    int64_t t = 7;

    (void)state;
    for (size_t i = 0; i < VN_COUNT(bad); i++)
        if (retention_parse_time(bad[i], &t))
            fail_msg("'%s' is a time", bad[i]);
    assert_int_equal(t, 7);
    assert_true(retention_parse_time("1970-01-02T00:00:01Z", &t));
    assert_int_equal(t, 86401);
    assert_true(retention_parse_time("2024-02-29T12:00:00Z", &t));
    assert_int_equal(t, 1709208000);
    for (unsigned i = 0; i < RETENTION_REASONS; i++)
        assert_true(strlen(retention_reason_name(
                        (enum retention_reason)(1u << i))) > 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scenes),
        cmocka_unit_test(test_time_zones),
        cmocka_unit_test(test_every_day),
        cmocka_unit_test(test_times),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
