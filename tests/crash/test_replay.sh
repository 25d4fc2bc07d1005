#!/usr/bin/env bash
# Crash replay: record the workload, make the states that a crash may leave,
# check each. Then the same as if the store had forgotten a sync: that must be
# found, or the replay finds nothing.
#
# Usage: test_replay.sh PROGRAMS RECORDER [OPTION...]
#   PROGRAMS holds crash_workload and crash_replay, RECORDER is the library;
#   the options go to crash_replay. By hand, for an hour or two:
#     tests/crash/test_replay.sh build/release/bin \
#         build/release/tests/crash/libcrash_recorder.so --rounds=300 --seed=7
set -u
programs=$1
recorder=$2
shift 2
# Not tmpfs, if it can be helped: there packs are not written with O_DIRECT.
dir=$(mktemp -d "${TMPDIR:-/tmp}/vn-crash-XXXXXX")
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/root"

# The recorder comes before the sanitizer's library, which is fine.
ASAN_OPTIONS=${ASAN_OPTIONS-}:verify_asan_link_order=0 \
    VN_RECORD_DIR=$dir/root VN_RECORD_LOG=$dir/log LD_PRELOAD=$recorder \
    "$programs/crash_workload" "$dir/root" || exit 1

if ! "$programs/crash_replay" "$@" "$dir/log" "$dir/root"; then
    keep=$(mktemp -d "${TMPDIR:-/tmp}/vn-crash-log-XXXXXX")
    cp -a "$dir/log" "$dir/root" "$keep"
    echo "the log and what it is of: $keep"
    exit 1
fi

scratch=$(mktemp -d "$(test -w /dev/shm && echo /dev/shm || echo "$dir")/vn-crash-XXXXXX")
trap 'rm -rf "$dir" "$scratch"' EXIT
for what in packs folders index config names; do
    if "$programs/crash_replay" --scratch="$scratch" --forget=$what \
        "$dir/log" "$dir/root" >"$dir/out"; then
        echo "nothing was found without the syncs of: $what"
        exit 1
    fi
    grep -q FAILED "$dir/out" || exit 1
    echo "without the syncs of $what: $(sed -n 's/.*--rounds=[0-9]*: //p' \
        "$dir/out" | cut -c1-60)"
done
