#!/bin/bash
# Every --help fits a terminal, every option is in the manual, exit statuses
# are those of the manual.
. "${0%/*}/lib.sh"

MAN=$SOURCE/tools/man/vnstore.1.scd
COMPLETION=$SOURCE/tools/completion/vnstore.bash

# check_help NAME ARGUMENT...: width, status, options in the manual.
check_help()
{
    local name=$1 option
    shift
    run 0 "$VN" "$@" --help
    [ -s "$DIR/out" ] || bad "$name --help says nothing"
    awk -v name="$name" 'length($0) > 80 {
        print name " --help: " length($0) " columns: " $0; bad = 1 }
        END { exit bad }' "$DIR/out" >&2 || bad "$name --help is too wide"
    for option in $(grep -oE -- '^ +(-., )?--[a-z-]+' "$DIR/out" |
        grep -oE -- '--[a-z-]+'); do
        grep -qF -- "*$option*" "$MAN" || bad "$MAN lacks $option ($name)"
        grep -qwF -- "$option" "$COMPLETION" ||
            bad "the completion lacks $option ($name)"
    done
    for option in $(grep -oE -- '^ +-[a-z],' "$DIR/out" | grep -oE -- '-.'); do
        grep -qF -- "*$option*" "$MAN" || bad "$MAN lacks $option ($name)"
    done
}

check_help vnstore
commands=$("$VN" --help | sed -n '/^Commands:/,/^$/p' |
    awk 'NR > 1 && NF { print $1 }')
[ "$(echo "$commands" | wc -w)" -ge 11 ] || bad "too few commands: $commands"
for command in $commands; do
    check_help "$command" "$command"
    grep -q "^## vnstore $command\b" "$MAN" || bad "$MAN lacks $command"
    grep -qw "$command" "$COMPLETION" || bad "the completion lacks $command"
    run 64 "$VN" "$command" --no-such-option
    says err "vnstore $command: "
    run 0 "$VN" "$command" --version
done

# Usage errors.
run 64 "$VN"
run 64 "$VN" no-such-command
says err "vnstore: no-such-command: no such command"
run 64 "$VN" --no-such-option
run 64 "$VN" list
says err "no store"
run 64 "$VN" init
says err "STORE is missing"
run 64 "$VN" init a b
run 64 "$VN" list -s "$DIR" extra
run 64 "$VN" put -s "$DIR"
run 64 "$VN" put -s "$DIR" name
run 64 "$VN" get -s "$DIR" name
says err "-o DIR is missing"
run 64 "$VN" get -s "$DIR" -o "$DIR"
run 64 "$VN" export -s "$DIR" name
run 64 "$VN" export -s "$DIR" -o x
run 64 "$VN" import -s "$DIR"
run 64 "$VN" show -s "$DIR"
run 64 "$VN" delete -s "$DIR"
run 64 "$VN" verify -s "$DIR" --progress-fd 99
says err "not an open descriptor"
run 64 "$VN" verify -s "$DIR" --progress-fd x

# Results that cannot be written are a failure.
run 1 bash -c '"$1" doctor >/dev/full' - "$VN"
says err "standard output"

# The doctor works everywhere.
run 0 "$VN" doctor
says out userfaultfd
run 0 "$VN" doctor --json
python3 -m json.tool "$DIR/out" >/dev/null || bad "doctor --json"

if command -v scdoc >/dev/null; then
    scdoc <"$MAN" >/dev/null || bad "$MAN does not compile"
fi
bash -n "$COMPLETION" || bad "the completion does not parse"
finish
