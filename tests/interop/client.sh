#!/bin/sh
# Usage: client.sh PORT FUNCTION bg|fg <JOBS
# The C tool gearman: a line is UNIQUE TAB PAYLOAD, the unique may be empty; fg prints how each job ends.
# It shows no progress.
port=$1 function=$2 mode=$3
tab=$(printf '\t')
while IFS= read -r line; do
    unique=${line%%"$tab"*} payload=${line#*"$tab"}
    set -- -h 127.0.0.1 -p "$port" -f "$function"
    [ -z "$unique" ] || set -- "$@" -u "$unique"
    if [ "$mode" = bg ]; then
        printf %s "$payload" | gearman "$@" -b || exit 1
    elif result=$(printf %s "$payload" | gearman "$@" 2>/dev/null); then
        echo "complete $result"
    else
        echo fail
    fi
done
