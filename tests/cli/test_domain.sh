#!/bin/bash
# Domains of a store, as their users see them: what is counted as new, what
# list and show tell, tars, and names that are refused.
. "${0%/*}/lib.sh"

export VNSTORE_STORE=$DIR/store
run 0 "$VN" init "$VNSTORE_STORE"
head -c 3000000 /dev/urandom >"$DIR/image"
cp "$DIR/image" "$DIR/other"
printf 'changed' | dd of="$DIR/other" bs=1 seek=1000000 conv=notrunc \
    status=none

# counted new N, known N: of the last command's --json, in pages.
counted()
{
    python3 - "$DIR/out" "$@" <<'END' || bad "counted: $(tr -d '\n' <"$DIR/out")"
import json, sys
found = json.load(open(sys.argv[1]))["bytes"]
for key, pages in zip(sys.argv[2::2], sys.argv[3::2]):
    assert found[key] == int(pages) * 4096, (key, found[key] / 4096)
END
}

# The table without a domain has no column for it.
run 0 "$VN" put own "$DIR/image" --json
counted new 733 known 0
run 0 "$VN" list
grep -q DOMAIN "$DIR/out" && bad "a column too many"
run 0 "$VN" show own@1
grep -qi domain "$DIR/out" && bad "a line too many"

# Each domain stores it once, whoever had it before.
for domain in red blue; do
    run 0 "$VN" put --domain $domain "$domain" "$DIR/image" --json
    counted new 733 known 0
    run 0 "$VN" put "$domain" --domain=$domain "$DIR/other" --json
    counted new 1 unchanged 732 known 0
    run 0 "$VN" put elsewhere "$DIR/other" --domain $domain --json
    counted new 0 known 733
done
run 0 "$VN" put red "$DIR/image" --domain green --json
counted new 733 unchanged 0 known 0
run 0 "$VN" list
says out DOMAIN
grep -q '^own@1 .* -$' "$DIR/out" || bad "own@1 has a domain"
grep -q '^red@1 .* red$' "$DIR/out" || bad "red@1 has none"
grep -q '^red@3 .* green$' "$DIR/out" || bad "red@3 has another"
run 0 "$VN" list --json
python3 - "$DIR/out" <<'END' || bad "list --json"
import json, sys
rows = json.load(open(sys.argv[1]))["snapshots"]
assert {r["name"]: r.get("domain") for r in rows} == {
    "own@1": None, "red@1": "red", "red@2": "red", "elsewhere@1": "red",
    "blue@1": "blue", "blue@2": "blue", "elsewhere@2": "blue",
    "red@3": "green"}
END
run 0 "$VN" show blue@2
grep -q '^domain *blue$' "$DIR/out" || bad "show"
run 0 "$VN" get blue@2 -o "$DIR/got"
same "$DIR/other" "$DIR/got/file/other"
run 0 "$VN" verify

# Between domains: compared by content, exported whole.
run 0 "$VN" put compare "$DIR/image"
run 0 "$VN" put compare "$DIR/image" --domain red
run 0 "$VN" diff compare@1 compare@2
run 0 "$VN" export red@1 -o "$DIR/red1.tar"
run 0 "$VN" export compare@2 --since compare@1 -o "$DIR/whole.tar"
[ "$(stat -c %s "$DIR/whole.tar")" -gt 3000000 ] || bad "left out"
tar xOf "$DIR/red1.tar" red@1/manifest.json | grep -q -i domain &&
    bad "the tar names a domain"
run 0 "$VN" import "$DIR/red1.tar" --name tar@1 --json
counted new 0 known 733
run 0 "$VN" import "$DIR/red1.tar" --name tar@2 --domain blue --json
counted new 0 known 733
run 0 "$VN" import "$DIR/red1.tar" --name tar@3 --domain violet --json
counted new 733 known 0
run 0 "$VN" show tar@3
grep -q '^domain *violet$' "$DIR/out" || bad "show of tar@3"

# An incremental tar wants its base in the same domain.
cp "$DIR/image" "$DIR/file"
run 0 "$VN" put step "$DIR/file" --domain red
printf 'changed' | dd of="$DIR/file" bs=1 seek=2000000 conv=notrunc status=none
run 0 "$VN" put step "$DIR/file" --domain red
run 0 "$VN" export step@2 --since step@1 -o "$DIR/step.tar"
[ "$(stat -c %s "$DIR/step.tar")" -lt 60000 ] || bad "not incremental"
refused import "another domain" "$DIR/step.tar" --name again@1
refused import "another domain" "$DIR/step.tar" --name again@1 --domain blue
run 0 "$VN" import "$DIR/step.tar" --name again@1 --domain red
run 0 "$VN" get again@1 -o "$DIR/again"
same "$DIR/file" "$DIR/again/file/file"

# Names.
for name in "" . -x a/b 'a b' "$(printf '%065d' 1)"; do
    run 64 "$VN" put x "$DIR/image" --domain "$name"
    says err "is no name of a domain"
    run 64 "$VN" import "$DIR/red1.tar" --name x@1 --domain "$name"
    says err "is no name of a domain"
done
run 0 "$VN" put x "$DIR/image" --domain "$(printf '%064d' 1)"
run 0 "$VN" gc --recompress=zstd --threshold 1
run 0 "$VN" verify
finish
