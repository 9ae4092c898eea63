#!/bin/sh
# gm-work --pipe size -- ./size.sh     A job is the name of a file; its result the size.
while IFS= read -r record; do
    file=$(printf '%s\n' "$record" | jq -r .data)
    if said=$(LC_ALL=C wc -c 2>&1 <"$file"); then
        jq -cn --arg said "$said" '{ok: true, result: ($said | ltrimstr(" "))}'
    else
        jq -cn --arg said "$said" '{ok: false, error: $said, verdict: "dead"}'
    fi
done
