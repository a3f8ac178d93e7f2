#!/usr/bin/env bash
# run.sh PREFIX [SUITE...] - the tests of the C ABI against an installed kolo: PREFIX has include/kolo.h, lib/libkolo.so,
# lib/libkolo.a and lib/pkgconfig/kolo.pc. Suites: header c clang uring valgrind cpp python luajit; all without SUITE.
# (And `sanitizer`, of scripts/check-sanitizers.)
#
# Prints each test as "ok NAME" or "FAILED NAME" and ends with a line "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")" || exit 2

if [ $# -lt 1 ] || [ ! -f "$1/include/kolo.h" ]; then
    echo "usage: ffi-tests/run.sh PREFIX [header|c|clang|uring|valgrind|cpp|python|luajit]..." >&2
    echo "       PREFIX is where kolo is installed" >&2
    exit 2
fi
prefix=$(cd "$1" && pwd)
shift
suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(header c clang uring valgrind cpp python luajit)

build=$(mktemp -d)
logs=$build/logs
mkdir "$logs"
passed=0
failed=0

export LD_LIBRARY_PATH=$prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig
export KOLO_LIBRARY=$prefix/lib/libkolo.so KOLO_HEADER=$prefix/include/kolo.h
unset KOLO_DRIVER KOLO_TEST_NO_FORK KOLO_TEST_SECONDS KOLO_TEST_SEED KOLO_TEST_VALGRIND

common_flags=(-Wall -Wextra -Wpedantic -Wconversion -Werror "-I$prefix/include")
c_flags=("${common_flags[@]}" -Wstrict-prototypes -Wmissing-prototypes)
shared=("-L$prefix/lib" -lkolo)
# What a program needs beside the static library, as the installed package says.
read -r -a static < <(pkg-config --static --libs kolo 2>/dev/null | sed 's/-lkolo\b//')
static=("$prefix/lib/libkolo.a" "${static[@]}" -lpthread)

# ---- jobs: each test program writes to a log of its own; two run at a time, logs are shown in order ----
names=()
pids=()
jobs_at_once=2

trap '[ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null; rm -rf "$build"' EXIT
trap 'exit 130' INT TERM

# job NAME SECONDS COMMAND...
job() {
    local name=$1 seconds=$2
    shift 2
    # (`wait -n` would take the status away from `finish`.)
    while [ "$(jobs -pr | wc -l)" -ge "$jobs_at_once" ]; do sleep 0.02; done
    timeout -k 10 "$seconds" "$@" >"$logs/${#names[@]}" 2>&1 </dev/null &
    names+=("$name")
    pids+=($!)
}

# valgrind 3.19 does not know epoll_pwait2 and pidfd_open, says so at length, and answers ENOSYS, which kolo can live
# with.
without_noise() {
    sed -E '/^--[0-9]+-- WARNING: unhandled .* syscall: (434|441)$/,/^--[0-9]+-- it at http/d' "$1"
}

# Shows what the jobs said, in their order, and counts it. A program that fails without naming a test has failed as one.
finish() {
    local i log status ok bad
    for i in "${!names[@]}"; do
        log=$logs/$i
        wait "${pids[$i]}"
        status=$?
        without_noise "$log"
        [ "$status" != 124 ] || echo "    stopped: no end in time"
        ok=$(grep -c '^ok ' "$log")
        bad=$(grep -c '^FAILED ' "$log")
        if [ "$bad" = 0 ] && [ "$status" != 0 ]; then
            echo "FAILED ${names[$i]} (exit status $status)"
            bad=1
        elif [ $((ok + bad)) = 0 ]; then
            echo "FAILED ${names[$i]} (no test ran)"
            bad=1
        elif [ "$bad" != 0 ] && [ "$status" = 0 ]; then
            echo "FAILED ${names[$i]} (exit status 0 in spite of failures)"
            bad=$((bad + 1))
        fi
        passed=$((passed + ok))
        failed=$((failed + bad))
    done
    names=()
    pids=()
}

# one NAME SECONDS COMMAND... - a command that is a test by itself, such as a compiler's run
one() {
    local name=$1 seconds=$2
    shift 2
    # shellcheck disable=SC2016 # expanded by the inner shell
    job "$name" "$seconds" bash -c '
        name=$1; shift
        if "$@"; then echo "ok     $name"; else status=$?; echo "FAILED $name (exit status $status)"; exit 1; fi' one "$name" "$@"
}

heading() { printf '\n-- %s\n' "$*"; }

need() {
    local tool
    for tool in "$@"; do
        if ! command -v "$tool" >/dev/null; then
            echo "FAILED tool/$tool (is not installed)"
            failed=$((failed + 1))
        fi
    done
}

# ---- suites ----

suite_header() {
    local compiler standard unit
    heading "the header, compiled alone and twice, in every mode"
    for compiler in gcc clang; do
        for standard in c99 c11 c17; do
            for unit in alone twice use; do
                one "header/$unit.$standard.$compiler" 60 \
                    "$compiler" -x c "-std=$standard" "${c_flags[@]}" -fsyntax-only "header/$unit.c"
            done
        done
    done
    for compiler in g++ clang++; do
        for standard in c++11 c++17 c++20; do
            for unit in alone twice use; do
                one "header/$unit.$standard.$compiler" 60 \
                    "$compiler" -x c++ "-std=$standard" "${common_flags[@]}" -fsyntax-only "header/$unit.c"
            done
        done
    done
    one header/every_function_is_tested 60 header/every_function.sh "$prefix/include/kolo.h" c
    finish
    heading "two translation units, shared and static, C and C++"
    for compiler in "gcc -x c -std=c99" "clang -x c -std=c17" "g++ -x c++ -std=c++11" "clang++ -x c++ -std=c++20"; do
        local binary=$build/header_${compiler%% *}
        # shellcheck disable=SC2086 # the compiler comes with its options
        one "header/link_shared.${compiler%% *}" 60 $compiler "${common_flags[@]}" \
            header/use.c header/other_unit.c -o "$binary.shared" -x none "${shared[@]}"
        # shellcheck disable=SC2086
        one "header/link_static.${compiler%% *}" 60 $compiler "${common_flags[@]}" \
            header/use.c header/other_unit.c -o "$binary.static" -x none "${static[@]}"
    done
    finish
    for compiler in gcc clang g++ clang++; do
        job "header/run_shared.$compiler" 60 "$build/header_$compiler.shared"
        job "header/run_static.$compiler" 60 "$build/header_$compiler.static"
    done
    finish
}

c_programs=()
for file in c/*.c; do
    [ "$file" = c/harness.c ] || c_programs+=("$(basename "$file" .c)")
done

# build_c FOLDER COMPILER LIBRARIES...
build_c() {
    local folder=$build/$1 compiler=$2 program
    shift 2
    [ ! -d "$folder" ] || return 0
    mkdir "$folder"
    for program in "${c_programs[@]}"; do
        one "build/$program.$compiler" 120 "$compiler" -std=c99 -O1 -g "${c_flags[@]}" -pthread \
            "c/$program.c" c/harness.c -o "$folder/$program" "$@"
    done
    finish
}

suite_c() {
    local program
    heading "C programs, built by gcc, shared library"
    build_c gcc gcc "${shared[@]}"
    for program in "${c_programs[@]}"; do job "$program" 300 "$build/gcc/$program"; done
    finish
}

suite_clang() {
    local program
    heading "C programs, built by clang, static library, portable driver"
    build_c clang clang "${static[@]}"
    export KOLO_DRIVER=polling
    for program in "${c_programs[@]}"; do job "$program" 300 "$build/clang/$program"; done
    finish
    unset KOLO_DRIVER
}

has_uring() {
    KOLO_DRIVER=uring python3 -c 'import ctypes, os
kolo = ctypes.CDLL(os.environ["KOLO_LIBRARY"])
exit(kolo.kolo_loop_new(None, ctypes.byref(ctypes.c_void_p())) != 0)'
}

suite_uring() {
    local program
    heading "C programs, built by gcc, shared library, driver over io_uring"
    build_c gcc gcc "${shared[@]}"
    if ! has_uring; then
        echo "left out: this system does not let io_uring be used"
        return
    fi
    export KOLO_DRIVER=uring
    for program in "${c_programs[@]}"; do job "$program" 300 "$build/gcc/$program"; done
    finish
    unset KOLO_DRIVER
}

suite_valgrind() {
    local program valgrind=(valgrind --quiet --leak-check=full --show-leak-kinds=definite,indirect,possible
        --errors-for-leak-kinds=definite,indirect,possible --error-exitcode=9 --num-callers=30
        --fair-sched=yes --suppressions=c/valgrind.supp)
    heading "C and C++ programs under valgrind: no error, no leak"
    build_c gcc gcc "${shared[@]}"
    one "build/wrapper.valgrind" 120 g++ -std=c++17 -O1 -g "${common_flags[@]}" -pthread cpp/wrapper.cc \
        -o "$build/wrapper.valgrind" "${shared[@]}"
    finish
    export KOLO_TEST_SECONDS=120 KOLO_TEST_VALGRIND=1
    # valgrind lets no program raise the limit that it was started with, and some tests need many descriptors.
    [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge 4096 ] || ulimit -S -n "$(ulimit -H -n)"
    for program in "${c_programs[@]}"; do
        job "$program" 1200 "${valgrind[@]}" "$build/gcc/$program"
    done
    job wrapper 300 "${valgrind[@]}" "$build/wrapper.valgrind"
    finish
    if has_uring; then
        heading "TCP and disks over io_uring under valgrind"
        # Not the others: valgrind 3.19 does not know that a fork leaves the ring out (MADV_DONTFORK), and fails on an
        # assertion of its own when the child maps memory there; nor that io_uring_enter waits, so that meanwhile no
        # other thread of the program runs, for which a loop may be waiting.
        export KOLO_DRIVER=uring
        for program in listener tcp fs_disk; do
            job "$program.uring" 1200 "${valgrind[@]}" "$build/gcc/$program"
        done
        finish
        unset KOLO_DRIVER
    fi
    unset KOLO_TEST_SECONDS KOLO_TEST_VALGRIND
}

# With KOLO_SANITIZER (address or thread), and an instrumented library with all that it needs in KOLO_SANITIZER_LIBRARIES.
suite_sanitizer() {
    local program libraries plain=("${c_flags[@]}")
    heading "C programs with the $KOLO_SANITIZER sanitizer"
    read -r -a libraries <<<"$KOLO_SANITIZER_LIBRARIES"
    c_flags+=("-fsanitize=$KOLO_SANITIZER")
    # The runtime comes with the library: see there.
    if [ "$KOLO_SANITIZER" = thread ]; then
        c_flags+=("-fno-sanitize-link-runtime")
        build_c sanitizer clang "${libraries[@]}"
    else
        build_c sanitizer gcc "${libraries[@]}"
    fi
    c_flags=("${plain[@]}")
    # What a sanitizer reports must fail the test in whose process it is.
    # (A test of terminals faults on purpose, to see what kolo's own handler does then.)
    export ASAN_OPTIONS=exitcode=77:detect_leaks=1:handle_segv=0 TSAN_OPTIONS=exitcode=77:report_signal_unsafe=0:handle_segv=0 KOLO_TEST_SECONDS=120
    for program in "${c_programs[@]}"; do
        # It closes descriptors behind the loop's back, at which Rust's standard library ends a debug build, as this is one.
        [ "$program" != faults ] || continue
        job "$program" 600 "$build/sanitizer/$program"
    done
    finish
    unset ASAN_OPTIONS TSAN_OPTIONS KOLO_TEST_SECONDS
}

suite_cpp() {
    local compiler standard file name
    heading "C++ programs"
    for compiler in g++ clang++; do
        for standard in c++11 c++17 c++20; do
            for file in cpp/*.cc; do
                name=$(basename "$file" .cc).$standard.$compiler
                one "build/$name" 120 "$compiler" "-std=$standard" -O1 -g "${common_flags[@]}" -pthread \
                    "$file" -o "$build/$name" "${shared[@]}"
            done
        done
    done
    finish
    for compiler in g++ clang++; do
        for standard in c++11 c++17 c++20; do
            for file in cpp/*.cc; do
                name=$(basename "$file" .cc).$standard.$compiler
                job "$name" 120 "$build/$name"
            done
        done
    done
    finish
}

suite_python() {
    heading "Python, ctypes on the shared library"
    job python 300 python3 python/test_echo.py
    finish
}

suite_luajit() {
    heading "LuaJIT, ffi on the header and the shared library"
    job luajit 300 luajit luajit/test_echo.lua
    finish
}

need gcc g++ clang clang++ valgrind python3 luajit pkg-config
for suite in "${suites[@]}"; do
    if ! declare -F "suite_$suite" >/dev/null; then
        echo "there is no suite $suite" >&2
        exit 2
    fi
    "suite_$suite"
done

echo
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
