#!/usr/bin/env bash
# Every fault point in the code is documented, and the other way round.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

in_code=$(grep -rhoE 'fault_hit\("[a-z.]+"\)' --include='*.c' \
    common store violin capture restore coord tools |
    sed -E 's/.*"([a-z.]+)".*/\1/' | sort -u)
# A row may shorten names that share a beginning: `store.pack.create`, `.write`
in_docs=$(grep -E '^\| `' docs/FAULTS.md | cut -d'|' -f2 |
    grep -oE '`[a-z.]+`' | tr -d '`' |
    awk '/^\./ { print prefix $0; next }
         { prefix = $0; sub(/\.[a-z]+$/, "", prefix); print }' | sort -u)
diff <(echo "$in_code") <(echo "$in_docs") || {
    echo "docs/FAULTS.md and the code differ (< code, > document)"
    exit 1
}
