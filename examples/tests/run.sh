#!/usr/bin/env bash
# run.sh PREFIX [WORD] - builds the C examples against the kolo installed in PREFIX, as any C program would be, with
# gcc and clang and warnings as errors, and tries each with real clients. With a WORD, only tests whose name holds it.
# Needs gcc, clang, pkg-config, python3, curl, wrk and valgrind.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    sed -n '2,4s/^# //p' "$0" >&2
    exit 2
fi
prefix=$(cd "$1" && pwd)
cd "$(dirname "$0")"
for tool in gcc clang pkg-config curl wrk valgrind; do
    command -v "$tool" >/dev/null || { echo "run.sh needs $tool" >&2; exit 2; }
done
exec python3 -u -B run.py "$prefix" "${2:-}"
