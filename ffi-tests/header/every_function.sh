#!/usr/bin/env bash
# every_function.sh HEADER C_FOLDER - each function of the header is called by a C test, and each that takes a loop stands
# in the tables of misuse.c.
set -euo pipefail
code=$(gcc -E -P "$1" | tr '\n' ' ')
functions=$(grep -oE '\bkolo_[a-z0-9_]+ *\(' <<<"$code" | tr -d ' (' | sort -u)
with_loop=$(grep -oE '\bkolo_[a-z0-9_]+ *\((struct )?kolo_loop \*' <<<"$code" | grep -oE '^kolo_[a-z0-9_]+' | sort -u)
[ "$(wc -w <<<"$functions")" -gt 50 ] && [ "$(wc -w <<<"$with_loop")" -gt 40 ]
missing=0
for function in $functions; do
    if ! grep -qE "\b$function\(" "$2"/*.c; then
        echo "    no C test calls $function"
        missing=1
    fi
done
for function in $with_loop; do
    if ! grep -q "\b$function\b" "$2/misuse.c"; then
        echo "    misuse.c does not know $function"
        missing=1
    fi
done
exit $missing
