/*
 * CPU features, word by word: a register of a leaf each. Names are those of
 * Linux's /proc/cpuinfo, where people look; bits without a name here are told
 * by their place.
 */

#include "capture/xen_cpu.h"

#include "common/auto.h"
#include "common/cursor.h"

#include <stdio.h>
#include <string.h>

enum reg { EAX, EBX, ECX, EDX };

struct word {
    uint32_t leaf, subleaf;
    enum reg reg;
    uint32_t ignored; /* switched by the guest or Xen, or says nothing */
    const char *names[32];
};

#define NO_SUBLEAF UINT32_MAX
#define BIT(n)     (1u << (n))

static const struct word words[] = {
    {.leaf = 1,
     .subleaf = NO_SUBLEAF,
     .reg = EDX,
     .ignored = BIT(9) | BIT(28), /* APIC, HTT */
     .names = {"fpu", "vme",  "de",  "pse",   "tsc", "msr",  "pae",
               "mce", "cx8",  NULL,  NULL,    "sep", "mtrr", "pge",
               "mca", "cmov", "pat", "pse36", NULL,  NULL,   NULL,
               NULL,  NULL,   "mmx", "fxsr",  "sse", "sse2", "ss"}},
    {.leaf = 1,
     .subleaf = NO_SUBLEAF,
     .reg = ECX,
     .ignored = BIT(27) | BIT(31), /* OSXSAVE, hypervisor */
     .names = {"sse3",  "pclmulqdq", NULL,     NULL,     NULL,    "vmx",
               NULL,    NULL,        NULL,     "ssse3",  NULL,    NULL,
               "fma",   "cx16",      NULL,     NULL,     NULL,    "pcid",
               NULL,    "sse4_1",    "sse4_2", "x2apic", "movbe", "popcnt",
               NULL,    "aes",       "xsave",  NULL,     "avx",   "f16c",
               "rdrand"}},
    {.leaf = 7,
     .subleaf = 0,
     .reg = EBX,
     .names = {"fsgsbase", NULL,         NULL,       "bmi1",       "hle",
               "avx2",     NULL,         "smep",     "bmi2",       "erms",
               "invpcid",  "rtm",        NULL,       NULL,         "mpx",
               NULL,       "avx512f",    "avx512dq", "rdseed",     "adx",
               "smap",     "avx512ifma", NULL,       "clflushopt", "clwb",
               NULL,       NULL,         NULL,       "avx512cd",   "sha_ni",
               "avx512bw", "avx512vl"}},
    {.leaf = 7,
     .subleaf = 0,
     .reg = ECX,
     .ignored = BIT(4), /* OSPKE */
     .names = {NULL, "avx512vbmi", "umip", "pku", NULL, NULL, "avx512_vbmi2",
               NULL, "gfni", "vaes", "vpclmulqdq", "avx512_vnni",
               "avx512_bitalg", NULL, "avx512_vpopcntdq"}},
    {.leaf = 7, .subleaf = 0, .reg = EDX, .names = {[4] = "fsrm"}},
    {.leaf = 7,
     .subleaf = 1,
     .reg = EAX,
     .names = {[4] = "avx_vnni", [5] = "avx512_bf16"}},
    {.leaf = 0xd,
     .subleaf = 1,
     .reg = EAX,
     .names = {"xsaveopt", "xsavec", "xgetbv1", "xsaves"}},
    {.leaf = 0x80000001,
     .subleaf = NO_SUBLEAF,
     .reg = EDX,
     .ignored = 0x0183f3ff, /* copies of leaf 1 on some makers' CPUs */
     .names = {[11] = "syscall",
               [20] = "nx",
               [22] = "mmxext",
               [25] = "fxsr_opt",
               [26] = "pdpe1gb",
               [27] = "rdtscp",
               [29] = "lm",
               [30] = "3dnowext",
               [31] = "3dnow"}},
    {.leaf = 0x80000001,
     .subleaf = NO_SUBLEAF,
     .reg = ECX,
     .ignored = BIT(1), /* CMP_LEGACY */
     .names = {[0] = "lahf_lm",
               [2] = "svm",
               [4] = "cr8_legacy",
               [5] = "abm",
               [6] = "sse4a",
               [7] = "misalignsse",
               [8] = "3dnowprefetch",
               [11] = "xop",
               [15] = "lwp",
               [16] = "fma4",
               [21] = "tbm"}},
    {.leaf = 0x80000008,
     .subleaf = NO_SUBLEAF,
     .reg = EBX,
     .names = {[0] = "clzero", [9] = "wbnoinvd"}},
};

#define MISSING_MAX 12 /* named; more are counted */

struct missing {
    char text[384];
    size_t used;
    unsigned count;
};

static void add_missing(struct missing *m, const struct word *word,
                        unsigned bit)
{
    static const char *const regs[] = {"eax", "ebx", "ecx", "edx"};
    char place[32];
    const char *name = word->names[bit];
    int n;

    if (m->count++ >= MISSING_MAX)
        return;
    if (!name) {
        snprintf(place, sizeof(place), "%x.%s[%u]", word->leaf, regs[word->reg],
                 bit);
        name = place;
    }
    n = snprintf(m->text + m->used, sizeof(m->text) - m->used, "%s%s",
                 m->used ? ", " : "", name);
    if (n > 0 && (size_t)n < sizeof(m->text) - m->used)
        m->used += (size_t)n;
}

static const struct xen_cpu_leaf *find(const struct xen_cpu_leaf *leaves,
                                       size_t count, const struct word *word)
{
    for (size_t i = 0; i < count; i++)
        if (leaves[i].leaf == word->leaf && leaves[i].subleaf == word->subleaf)
            return &leaves[i];
    return NULL;
}

static void compare(const struct xen_cpu_leaf *saved,
                    const struct xen_cpu_leaf *host, size_t host_count,
                    struct missing *missing)
{
    for (size_t w = 0; w < VN_COUNT(words); w++) {
        const struct xen_cpu_leaf *there = find(host, host_count, &words[w]);
        uint32_t lacking;

        if (saved->leaf != words[w].leaf || saved->subleaf != words[w].subleaf)
            continue;
        lacking = saved->regs[words[w].reg] & ~words[w].ignored &
                  ~(there ? there->regs[words[w].reg] : 0);
        for (unsigned bit = 0; bit < 32; bit++)
            if (lacking & BIT(bit))
                add_missing(missing, &words[w], bit);
    }
}

int xen_cpu_check(const uint8_t *saved, size_t size,
                  const struct xen_cpu_leaf *host, size_t host_count,
                  struct vn_err *err)
{
    struct cursor c = cursor_of(saved, size);
    struct missing missing = {.used = 0};

    while (cursor_left(&c) >= XEN_CPU_LEAF_SIZE) {
        struct xen_cpu_leaf leaf = {.leaf = cursor_le32(&c),
                                    .subleaf = cursor_le32(&c)};

        for (unsigned i = 0; i < 4; i++)
            leaf.regs[i] = cursor_le32(&c);
        compare(&leaf, host, host_count, &missing);
    }
    if (missing.count == 0)
        return 0;
    return vn_fail(err, VN_E_UNSUPPORTED,
                   "the CPU of this host lacks %u features that the domain "
                   "was started with: %s%s",
                   missing.count, missing.text,
                   missing.count > MISSING_MAX ? ", ..." : "");
}
