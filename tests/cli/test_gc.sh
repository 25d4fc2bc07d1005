#!/bin/bash
# Retention from the command line: delete, prune, gc; several at once; a gc
# that is killed; a full disk that a gc frees.
. "${0%/*}/lib.sh"

S=$DIR/store
W=$DIR/work
mkdir "$W"
export VNSTORE_STORE=$S

# image FILE SEED MEGABYTES: random content of its own.
image()
{
    python3 - "$@" <<'PYTHON'
import random, sys
open(sys.argv[1], "wb").write(
    random.Random(int(sys.argv[2])).randbytes(int(sys.argv[3]) << 20))
PYTHON
}

# value EXPRESSION: of the JSON in $DIR/out, as Python.
value()
{
    python3 -c 'import json, sys
d = json.load(open(sys.argv[1])); print(eval(sys.argv[2]))' "$DIR/out" "$1"
}

is()
{
    [ "$1" = "$2" ] || bad "'$1' is not '$2' ($3)"
}

# space: bytes of all pack files of $S.
space()
{
    find "$S/packs" -name '*.pack' -printf '%s\n' |
        awk '{ sum += $1 } END { print sum + 0 }'
}

run 0 "$VN" init "$S"
run 0 "$VN" gc
run 0 "$VN" gc --json --dry-run
is "$(value 'd["packs_removed"]')" 0 "gc of nothing"
refused prune "lab" lab --keep-last 1
refused prune "letters" lab@1 --keep-last 1
run 64 "$VN" prune lab
says err "no rule keeps anything"
run 64 "$VN" prune lab --keep-last 0
run 64 "$VN" prune --keep-last 1
says err "SERIES is missing"
run 64 "$VN" prune lab --keep-daily x
says err "keep-daily"
run 64 "$VN" prune lab --keep-daily -1
run 64 "$VN" gc --threshold 0
run 64 "$VN" gc --threshold 101
run 64 "$VN" gc --wait 1x
run 64 "$VN" gc extra

# Five snapshots of 3 MiB of their own and 2 MiB in common.
image "$W/common" 1 2
for i in 1 2 3 4 5; do
    image "$W/own$i" "1$i" 3
    cat "$W/common" "$W/own$i" >"$W/disk$i"
    cp "$W/disk$i" "$W/disk"
    run 0 "$VN" put lab "$W/disk"
done
run 0 "$VN" put other "$W/own1"
before=$(space)

# prune: first as a dry run, which changes nothing.
run 0 "$VN" prune lab --keep-last 2 --dry-run
says out "would be deleted"
run 0 "$VN" prune lab --keep-last 2 --keep-monthly 1 --json --dry-run
is "$(value '[s["keep"] for s in d["snapshots"]]')" \
    "[True, True, False, False, False]" "keep"
is "$(value 'd["snapshots"][0]["reasons"]')" "['last', 'monthly']" "reasons"
is "$(value 'd["snapshots"][0]["name"]')" "lab@5" "newest first"
is "$(value '(d["kept"], d["deleted"])')" "(2, 3)" "counts"
run 0 "$VN" show lab@1
run 0 "$VN" prune lab --keep-last 2
says out "lab@5"
says out "(deleted)"
refused show "lab@1" lab@1
run 0 "$VN" show other@1
run 0 "$VN" prune lab --keep-last 2 --json
is "$(value 'd["deleted"]')" 0 "nothing left to prune"

# gc: a dry run says what the gc does.
run 0 "$VN" gc --dry-run --json
planned=$(value '(d["packs_removed"], d["chunks_removed"])')
run 0 "$VN" gc --json
is "$(value '(d["packs_removed"], d["chunks_removed"])')" "$planned" "as planned"
is "$(value 'd["packs_waiting"]')" 0 "nobody is waited for"
[ "$(space)" -lt $((before * 3 / 4)) ] || bad "gc freed too little: $(space)"
run 0 "$VN" gc
says out "space freed"
run 0 "$VN" verify
for i in 4 5; do
    run 0 "$VN" get "lab@$i" -o "$DIR/g$i"
    same "$W/disk$i" "$DIR/g$i/file/disk"
done
run 0 "$VN" get other@1 -o "$DIR/o"
same "$W/own1" "$DIR/o/file/own1"
bash -c 'exec 5>"$2/fd"; "$1" gc --progress-fd 5 >/dev/null' - "$VN" "$DIR" ||
    bad "gc --progress-fd"
is "$(tail -n 1 "$DIR/fd")" "100/100" "progress"
if command -v python3 >/dev/null; then
    run 0 python3 -B "$SOURCE/tests/verify/store.py" --quick "$S"
fi

# A gc that is killed at each of its steps; the next one goes on.
for point in store.index.condemn store.index.sweep store.gc.swept \
    store.pack.remove store.pack.removed; do
    run 0 "$VN" put lab "$W/disk1"
    run 0 "$VN" prune lab --keep-last 1
    run 0 "$VN" put lab "$W/own2" "$W/own3"
    run 0 "$VN" prune lab --keep-last 1
    run 137 env VN_FAULT="$point:1:kill" "$VN" gc
    run 0 "$VN" verify
    run 0 "$VN" gc
    run 0 "$VN" verify
done
run 0 "$VN" gc
run 0 "$VN" stats --json
packs=$(value 'd["packs"]')
is "$(find "$S/packs" -name '*.pack' | wc -l)" "$packs" "files and index agree"

# put, prune and gc at once, from several processes.
(for i in 1 2 3 4 5 6; do
    "$VN" put a "$W/disk$((i % 5 + 1))" >/dev/null &&
        "$VN" prune a --keep-last 1 >/dev/null || exit 1
done) &
one=$!
(for i in 1 2 3 4 5 6; do
    "$VN" put b "$W/own$((i % 5 + 1))" >/dev/null &&
        "$VN" prune b --keep-last 1 >/dev/null || exit 1
done) &
two=$!
while kill -0 $one 2>/dev/null || kill -0 $two 2>/dev/null; do
    "$VN" gc --wait 1 >/dev/null || bad "a gc beside writers failed"
done
wait $one || bad "a writer beside gc failed"
wait $two || bad "another writer beside gc failed"
run 0 "$VN" gc
run 0 "$VN" verify
run 0 "$VN" get a@6 -o "$DIR/a6"
same "$W/disk2" "$DIR/a6/file/disk2"

# A full disk: put fails, delete and gc work, then there is space again.
MOUNT=$DIR/small
mkdir "$MOUNT"
if mount -t tmpfs -o size=20m none "$MOUNT" 2>/dev/null; then
    F=$MOUNT/store
    run 0 "$VN" init "$F"
    cat "$W/own1" "$W/own2" "$W/own3" >"$W/big1"
    cat "$W/own4" "$W/own5" "$W/disk1" >"$W/big2"
    run 0 "$VN" put -s "$F" x "$W/big1"
    refused put "No space" -s "$F" x "$W/big2"
    run 0 "$VN" verify -s "$F"
    run 0 "$VN" delete -s "$F" x@1
    run 0 "$VN" gc -s "$F"
    run 0 "$VN" put -s "$F" x "$W/big2"
    run 0 "$VN" verify -s "$F"
else
    MOUNT=
fi
finish
