#!/bin/bash
# vnstore diff: tables, JSON and exit statuses; and init --id, so that it runs
# on ids of both kinds.
. "${0%/*}/lib.sh"

W=$DIR/work
mkdir "$W"

value()
{
    python3 -c 'import json, sys
d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$DIR/out" "$1"
}

is()
{
    [ "$1" = "$2" ] || bad "'$1' is not '$2'"
}

run 64 "$VN" init --id md5 "$DIR/none"
says err "neither blake3 nor sha256"
[ ! -e "$DIR/none" ] || bad "a store was made"

for id in blake3 sha256; do
    S=$DIR/$id
    run 0 "$VN" init --id $id "$S"
    grep -q "\"identity\": \"$id\"" "$S/config.json" || bad "identity of $id"
    head -c 3000000 /dev/urandom >"$W/disk"
    echo hello >"$W/notes"
    run 0 "$VN" -s "$S" put im "$W/disk" "$W/notes"
    printf x | dd of="$W/disk" bs=1 seek=8192 conv=notrunc status=none
    truncate -s 5000000 "$W/disk"
    run 0 "$VN" -s "$S" put im "$W/disk" "$W/notes"
    printf x | dd of="$W/disk" bs=1 seek=4999999 conv=notrunc status=none
    run 0 "$VN" -s "$S" put im "$W/disk"

    run 0 "$VN" -s "$S" diff im@1 im@1
    says out "2 objects are equal"
    run 1 "$VN" -s "$S" diff im@1 im@2
    says out "file/disk changed"
    says out "1 of 2 objects differ, in 1 pages, 4.0 KiB"
    if grep -q notes "$DIR/out"; then bad "an equal object is listed"; fi
    run 1 "$VN" -s "$S" diff --ranges im@1 im@3
    says out "only in A"
    grep -qE '^file/disk +8192 +4096$' "$DIR/out" || bad "no range at 8192"
    grep -qE '^file/disk +4997120 +2880$' "$DIR/out" || bad "no last range"
    run 1 "$VN" -s "$S" diff --json --ranges im@2 im@3
    is "$(value 'd["equal"], d["pages"], d["bytes"]')" "(False, 2, 2886)"
    is "$(value '[(o["name"], o["change"]) for o in d["objects"]]')" \
        "[('file/disk', 'changed'), ('file/notes', 'only in A')]"
    is "$(value 'd["objects"][0]["ranges"]')" "[[4997120, 2880]]"
    run 2 "$VN" -s "$S" diff im@1 im@9
    says err "vnstore: diff: there is no snapshot 'im@9'"
    run 0 "$VN" -s "$S" verify
done
run 2 "$VN" -s "$W" diff a b
says err "no store"
run 64 "$VN" -s "$S" diff im@1
run 64 "$VN" -s "$S" diff im@1 im@2 im@3

# Machines have sums of their own; the largest change comes first.
export PYTHONDONTWRITEBYTECODE=1
python3 "$HERE/xl_file.py" make "$W/a" pvh web 0
python3 "$HERE/xl_file.py" make "$W/b" pvh web 3
run 0 "$VN" -s "$S" put vm "$W/a"
run 0 "$VN" -s "$S" put vm "$W/b"
run 1 "$VN" -s "$S" diff vm@1 vm@2
sed -n 2p "$DIR/out" | grep -q '^vm/web/ram/memory *changed' || bad "first line"
grep -qE '^web +2 +4 +12.1 KiB$' "$DIR/out" || bad "no sum of the machine"
run 1 "$VN" -s "$S" diff --json vm@1 vm@2
is "$(value '[(v["name"], v["pages"]) for v in d["vms"]]')" "[('web', 4)]"
finish
