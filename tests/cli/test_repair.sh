#!/bin/bash
# Damage from the command line: verify, also fast and killed and gone on with;
# repair, also without an index and beside others; healing by putting again.
. "${0%/*}/lib.sh"

S=$DIR/store
W=$DIR/work
mkdir "$W"
export VNSTORE_STORE=$S

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

# damage FILE OFFSET: other bytes there.
damage()
{
    printf '\1\2\3\4\5' |
        dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

largest()
{
    find "$S/packs" -name '*.pack' -printf '%s %p\n' | sort -n | tail -n 1 |
        cut -d' ' -f2
}

python3 -c 'import random, sys
open(sys.argv[1], "wb").write(random.Random(4).randbytes(20 << 20))' "$W/disk"
cp "$W/disk" "$W/first"
run 0 "$VN" init "$S"
run 0 "$VN" put lab "$W/disk"
damage "$W/disk" 9000000
cp "$W/disk" "$W/second"
run 0 "$VN" put lab "$W/disk"

# Nothing wrong.
run 0 "$VN" verify --fast
run 0 "$VN" verify --fast --json
is "$(value '(d["mode"], d["resumed"], d["findings"])')" \
    "('fast', False, [])" "fast"
run 0 "$VN" repair
run 0 "$VN" repair --dry-run --json
is "$(value '(d["dry_run"], d["rebuilt"], d["counts"]["lost"])')" \
    "(True, False, 0)" "nothing to repair"

# A verify that was killed, and gone on with.
refused verify "no run to go on with" --resume
run 64 "$VN" verify --resume --fast
run 64 "$VN" verify --resume lab@1
run 137 env VN_FAULT=store.verify.pack:3:kill "$VN" verify
[ -s "$S/verify.state" ] || bad "a killed verify left no state"
run 0 "$VN" verify --resume
says err "packs were not read again"
refused verify "no run to go on with" --resume
run 137 env VN_FAULT=store.verify.state:1:kill "$VN" verify
run 0 "$VN" verify --resume --json
is "$(value '(d["mode"], d["resumed"], d["counts"]["packs_before"])')" \
    "('full', True, 1)" "gone on with"

# A damaged page: named, given up, healed.
damage "$(largest)" 100000
run 0 "$VN" verify --fast
run 1 "$VN" verify
says out "needed by snapshot 'lab@1', object 'file/disk': pages "
says out "by snapshot 'lab@2'"
run 1 "$VN" verify --json
is "$(value '[f["uses"][0]["snapshot"] for f in d["findings"]
    if f["kind"] == "chunk"]')" "['lab@1']" "uses"
run 1 "$VN" repair --dry-run
says out "(would be)"
run 2 "$VN" repair
says out "lost now"
run 1 "$VN" verify
says out "is lost"
run 1 "$VN" get lab@1 -o "$DIR/g0"
cp "$W/second" "$W/disk"
run 0 "$VN" put lab "$W/disk"
run 0 "$VN" verify
run 0 "$VN" gc
run 0 "$VN" verify
run 0 "$VN" get lab@1 -o "$DIR/g1"
same "$W/first" "$DIR/g1/file/disk"
run 0 "$VN" get lab@2 -o "$DIR/g2"
same "$W/second" "$DIR/g2/file/disk"

# No index, an index of garbage, and one that is not asked for.
run 0 "$VN" delete lab@3
run 0 "$VN" list --json
before=$(value '[s["id"] for s in d["snapshots"]]')
rm "$S/index/data.mdb"
refused list "no index"
run 1 "$VN" repair --dry-run
refused list "no index"
run 0 "$VN" repair
says out "built anew"
run 0 "$VN" list --json
is "$(value '[s["id"] for s in d["snapshots"]]')" "$before" "the same list"
head -c 20000 /dev/urandom >"$S/index/data.mdb"
refused list "vnstore repair"
run 0 "$VN" repair --json
is "$(value '(d["rebuilt"], d["counts"]["snapshots"])')" "(True, 2)" "garbage"
damage "$S/index/data.mdb" $((5 * 4096 + 10))
refused verify "is damaged: page 5"
refused list "is damaged: page 5"
run 0 "$VN" repair
says out "is damaged: page 5"
run 0 "$VN" repair --rebuild-index
run 0 "$VN" list --json
is "$(value '[s["id"] for s in d["snapshots"]]')" "$before" "once more the same"
run 0 "$VN" verify
run 0 "$VN" put lab "$W/disk"
says out "lab@4"

# Killed in the middle, it is run again.
for point in store.repair.built store.repair.aside store.repair.swapped; do
    run 137 env VN_FAULT="$point:1:kill" "$VN" repair --rebuild-index
    run 0 "$VN" repair
    run 0 "$VN" verify
    run 0 "$VN" get lab@1 -o "$DIR/$point"
    same "$W/first" "$DIR/$point/file/disk"
done

# While another has the store open its index stays.
env VN_FAULT=store.verify.pack:2:stop "$VN" verify >"$DIR/other" 2>&1 &
other=$!
for _ in $(seq 600); do
    grep -q '^State:.*T' "/proc/$other/status" && break
    sleep 0.1
done
refused repair "process $other has store" --rebuild-index
kill -CONT $other
wait $other || bad "verify beside repair"
run 0 "$VN" repair --rebuild-index

run 64 "$VN" repair extra
refused repair "no store at" -s "$DIR/none"
finish
