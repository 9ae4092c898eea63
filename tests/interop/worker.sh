#!/bin/sh
# Usage: worker.sh PORT FUNCTION LOG
# The C tool gearman: a job is {"n": NUMBER, "how": HOW}; what is not JSON fails.
# LOG gets a line per job: its payload in base64, and how.
if [ $# -eq 3 ]; then
    exec gearman -w -h 127.0.0.1 -p "$1" -f "$2" -- "$0" "$3"
fi
work=$(mktemp) || exit 1   # of a job: its payload
trap 'rm -f "$work"' EXIT
cat >"$work"
how=$(jq -r '.how // "ok"' "$work" 2>/dev/null) || how=undecodable
echo "$(base64 -w0 "$work") $how" >>"$1"
case $how in
    fail | raise | undecodable) exit 1 ;;
    *) printf 'done %s' "$(jq .n "$work")" ;;
esac
