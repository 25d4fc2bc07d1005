#!/bin/bash
# put of files that others write meanwhile: what was cut is refused by name, what
# was changed or has grown is kept in a state that it had.
. "${0%/*}/lib.sh"

export VNSTORE_STORE=$DIR/store
export VNSTORE_THREADS=2 # else all of the file may have been read at once
run 0 "$VN" init "$VNSTORE_STORE"

# fresh FROM COUNT: MiB of the image become new random bytes.
fresh()
{
    dd if=/dev/urandom of="$DIR/image" bs=1M seek="$1" count="$2" \
        conv=notrunc status=none
}

# beside COMMAND...: do it while put stands at its first pack. Sets `status`.
beside()
{
    local put
    env VN_FAULT=store.pack.write:1:stop "$VN" put vm "$DIR/image" \
        >"$DIR/out" 2>"$DIR/err" </dev/null &
    put=$!
    until grep -q '^State:.*T' "/proc/$put/status"; do
        kill -0 $put 2>/dev/null || break
        sleep 0.05
    done
    "$@"
    kill -CONT $put
    wait $put
    status=$?
}

cut_is_refused()
{
    beside truncate -s 100M "$DIR/image"
    [ $status -eq 1 ] || bad "status $status: cut, $1"
    says err "image': it was cut from 167772160 to 104857600 bytes while it was"
    run 0 "$VN" list --json
    is_count "$2"
    truncate -s 160M "$DIR/image"
    fresh 100 60
}

is_count()
{
    local found
    found=$(python3 -c 'import json, sys; print(len(json.load(sys.stdin)["snapshots"]))' \
        <"$DIR/out")
    [ "$found" = "$1" ] || bad "$found snapshots, not $1"
}

fresh 0 160
cut_is_refused "nothing known" 0
run 0 "$VN" put vm "$DIR/image"
fresh 0 48
cut_is_refused "most of it known" 1

# Changed behind what was read: the change is in the snapshot.
fresh 0 48
beside fresh 120 8
[ $status -eq 0 ] || bad "status $status: changed"
run 0 "$VN" get vm@2 -o "$DIR/changed"
same "$DIR/image" "$DIR/changed/file/image"

# Longer than it was: the snapshot has what was there.
cp "$DIR/image" "$DIR/before"
fresh 0 48
dd if="$DIR/image" of="$DIR/before" bs=1M count=48 conv=notrunc status=none
beside truncate -s 200M "$DIR/image"
[ $status -eq 0 ] || bad "status $status: grown"
run 0 "$VN" get vm@3 -o "$DIR/grown"
same "$DIR/before" "$DIR/grown/file/image"

run 0 "$VN" verify
finish
