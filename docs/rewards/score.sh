#!/bin/sh
# An example of a scorer in plain sh: images that compress well score high.
# Use it with `program = ["sh", "docs/rewards/score.sh"]` and `image = "path"`.
while IFS= read -r line; do
    id=$(printf '%s' "$line" | sed 's/^{"id":\([0-9]*\).*/\1/')
    scores=$(printf '%s\n' "$line" | tr '{' '\n' | sed -n 's/^"path":"\([^"]*\)".*/\1/p' |
        while IFS= read -r path; do
            printf '%s-%d' "$comma" "$(wc -c <"$path")"
            comma=,
        done)
    printf '{"id":%s,"scores":[%s]}\n' "$id" "$scores"
done
