# shellcheck shell=bash disable=SC2034
# What the tests of the command line share. Sourced with the arguments of the
# test: the program and the source tree.

set -u
VN=$1
SOURCE=$2
HERE=$SOURCE/tests/cli
unset VNSTORE_STORE
if [ ! -x "$VN" ]; then
    echo "no program '$VN'" >&2
    exit 1
fi
export LC_ALL=C.UTF-8
DIR=$(mktemp -d "${TMPDIR:-/tmp}/vn-cli-XXXXXX")
MOUNT=
failures=0

cleanup()
{
    [ -z "$MOUNT" ] || umount "$MOUNT"
    rm -rf "$DIR"
}
trap cleanup EXIT

bad()
{
    echo "FAILED: $*" >&2
    failures=$((failures + 1))
}

# run STATUS COMMAND...: its stdout and stderr go to $DIR/out and $DIR/err.
run()
{
    local wanted=$1 status
    shift
    "$@" >"$DIR/out" 2>"$DIR/err" </dev/null
    status=$?
    if [ $status -ne "$wanted" ]; then
        bad "exit status $status, not $wanted: $*"
        sed 's/^/    /' "$DIR/err" >&2
    fi
}

# says FILE TEXT: the last command's out or err has the text.
says()
{
    grep -qF -- "$2" "$DIR/$1" ||
        bad "std$1 lacks '$2': $(head -c 300 "$DIR/$1")"
}

# refused COMMAND TEXT ARGUMENT...: exit status 1 and one line on stderr,
# "vnstore: COMMAND: ...TEXT...", nothing on stdout.
refused()
{
    local command=$1 text=$2
    shift 2
    run 1 "$VN" "$command" "$@"
    says err "$text"
    says err "vnstore: $command: "
    [ "$(wc -l <"$DIR/err")" -eq 1 ] || bad "not one line: $command $*"
    [ ! -s "$DIR/out" ] || bad "words on stdout: $command $*"
}

same()
{
    cmp "$1" "$2" >&2 || bad "'$1' and '$2' differ"
}

finish()
{
    [ $failures -eq 0 ] || echo "$failures failures" >&2
    [ $failures -eq 0 ]
    exit
}
