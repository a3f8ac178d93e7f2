#!/usr/bin/env bash
# run.sh PREFIX - the installed library as an outside program meets it. The last line is "N passed, N failed".
# PREFIX is a finished install; what is installed elsewhere here comes from the same build.
set -uo pipefail
[ $# = 1 ] || { echo "usage: $0 PREFIX" >&2 && exit 2; }
prefix=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/../.." || exit 2
root=$PWD
outside=$root/tests/packaging/outside

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Only the install under test may be found.
unset PKG_CONFIG_PATH LD_LIBRARY_PATH CMAKE_PREFIX_PATH kolo_DIR
version=$(sed -n 's/^version *= *"\(.*\)"/\1/p' Cargo.toml | head -n 1)
major=${version%%.*}
strict=(-std=c99 -O1 -Wall -Wextra -Wpedantic -Werror)

passed=0
failed=0

# check NAME FUNCTION - the function's output is shown only when it fails.
check() {
    local name=$1 status=0
    shift
    # In a subshell with -e, not in a condition: there -e would be ignored inside the function.
    (set -e && "$@") >"$work/log" 2>&1
    status=$?
    if [ $status = 0 ]; then
        passed=$((passed + 1))
        echo "ok     $name"
    else
        failed=$((failed + 1))
        echo "FAILED $name (status $status)"
        sed 's/^/       /' "$work/log"
    fi
}

limited() { timeout -k 5 60 "$@"; }

# What the program of one way of linking must not depend on, or must.
needs_shared() { readelf -d "$1" | grep -q "NEEDED.*\[libkolo.so.$major\]"; }
needs_no_shared() { ! readelf -d "$1" | grep -q 'NEEDED.*libkolo'; }

pkg() { PKG_CONFIG_PATH=$1/lib/pkgconfig pkg-config "${@:2}"; }

with_pkg_config_shared() {
    cc "${strict[@]}" -o "$work/shared" "$outside/program.c" $(pkg "$1" --cflags --libs kolo)
    needs_shared "$work/shared"
    LD_LIBRARY_PATH=$1/lib limited "$work/shared" "$(pkg "$1" --modversion kolo)"
}

with_pkg_config_static() {
    cc "${strict[@]}" -o "$work/static" "$outside/program.c" $(pkg "$1" --cflags --libs kolo-static)
    needs_no_shared "$work/static"
    limited "$work/static" "$(pkg "$1" --modversion kolo-static)"
}

with_pkg_config_all_static() {
    cc "${strict[@]}" -static -o "$work/all_static" "$outside/program.c" $(pkg "$1" --static --cflags --libs kolo)
    readelf -l "$work/all_static" >"$work/segments"
    ! grep -q INTERP "$work/segments" || return 1
    limited "$work/all_static" "$version"
}

with_cmake() {
    local build=$work/cmake-$RANDOM
    limited cmake -S "$outside" -B "$build" -DCMAKE_PREFIX_PATH="$1" -DKOLO_WANTED="$major.0" \
        -DCMAKE_C_FLAGS="-Wall -Wextra -Werror"
    limited cmake --build "$build"
    needs_shared "$build/shared"
    needs_no_shared "$build/static"
    limited "$build/shared" "$version"
    limited "$build/static" "$version"
}

with_cmake_of_another_major_version() {
    ! limited cmake -S "$outside" -B "$work/cmake-other" -DCMAKE_PREFIX_PATH="$prefix" -DKOLO_WANTED="$((major + 1)).0" \
        >"$work/cmake-other.log" 2>&1 || return 1
    grep -q "considered but not accepted" "$work/cmake-other.log"
}

soname() {
    readelf -d "$prefix/lib/libkolo.so" | grep -q "SONAME.*\[libkolo.so.$major\]"
    [ "$(readlink "$prefix/lib/libkolo.so")" = "libkolo.so.$major" ]
    [ "$(readlink "$prefix/lib/libkolo.so.$major")" = "libkolo.so.$version" ]
    [ -f "$prefix/lib/libkolo.so.$version" ] && [ ! -L "$prefix/lib/libkolo.so.$version" ]
}

# Beside the system's own, a program that links kolo gets no other library into its process.
only_system_libraries() {
    readelf -d "$prefix/lib/libkolo.so" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' >"$work/needed"
    [ -s "$work/needed" ]
    ! grep -vE '^(libc|libm|libdl|librt|libpthread|libutil|libgcc_s|ld-linux[-a-z0-9_]*)\.so(\.[0-9]+)?$' "$work/needed"
}

staged() {
    local stage=$work/stage
    make --no-print-directory -C "$root" install DESTDIR="$stage" PREFIX=/usr LIBDIR=/usr/lib/multiarch
    (cd "$stage" && find . -type f -o -type l) | sort >"$work/files"
    sort >"$work/expected" <<FILES
./usr/include/kolo.h
./usr/lib/multiarch/cmake/kolo/koloConfig.cmake
./usr/lib/multiarch/cmake/kolo/koloConfigVersion.cmake
./usr/lib/multiarch/cmake/kolo/koloTargets.cmake
./usr/lib/multiarch/libkolo.a
./usr/lib/multiarch/libkolo.so
./usr/lib/multiarch/libkolo.so.$major
./usr/lib/multiarch/libkolo.so.$version
./usr/lib/multiarch/pkgconfig/kolo-static.pc
./usr/lib/multiarch/pkgconfig/kolo.pc
./usr/share/doc/kolo/CHANGELOG.md
./usr/share/doc/kolo/LICENSE-APACHE
./usr/share/doc/kolo/LICENSE-MIT
./usr/share/doc/kolo/README.md
FILES
    diff "$work/expected" "$work/files"
    cmp include/kolo.h "$stage/usr/include/kolo.h"
    # A path of the machine that built it would be wrong wherever the package is installed.
    ! grep -rlE "$stage|$root" "$stage/usr/lib/multiarch/pkgconfig" "$stage/usr/lib/multiarch/cmake" || return 1
    ! grep -rl '@' "$stage/usr/lib/multiarch/pkgconfig" "$stage/usr/lib/multiarch/cmake" || return 1
    # Other folders than the default ones, through the same files.
    cc "${strict[@]}" -o "$work/staged" "$outside/program.c" \
        $(PKG_CONFIG_PATH=$stage/usr/lib/multiarch/pkgconfig pkg-config --cflags --libs kolo-static)
    limited "$work/staged" "$version"
    with_cmake "$stage/usr/lib/multiarch/cmake"
}

uninstalled() {
    local stage=$work/stage
    echo theirs >"$stage/usr/lib/multiarch/libother.so"
    make --no-print-directory -C "$root" uninstall DESTDIR="$stage" PREFIX=/usr LIBDIR=/usr/lib/multiarch
    [ "$(cd "$stage" && find . -type f -o -type l)" = ./usr/lib/multiarch/libother.so ]
    [ ! -e "$stage/usr/lib/multiarch/cmake/kolo" ] && [ ! -e "$stage/usr/share/doc/kolo" ]
}

libraries_outside_the_prefix() {
    make --no-print-directory -C "$root" install PREFIX="$work/apart" LIBDIR="$work/elsewhere/lib64"
    cc "${strict[@]}" -o "$work/apart.program" "$outside/program.c" \
        $(PKG_CONFIG_PATH=$work/elsewhere/lib64/pkgconfig pkg-config --cflags --libs kolo-static)
    limited "$work/apart.program" "$version"
    with_cmake "$work/elsewhere/lib64/cmake"
}

readme_c_program() {
    python3 tests/packaging/readme.py c README.md >"$work/readme.c"
    cc "${strict[@]}" -Wno-unused-parameter -o "$work/readme" "$work/readme.c" $(pkg "$prefix" --cflags --libs kolo) -Wl,-rpath,"$prefix/lib"
    limited python3 tests/packaging/echo_client.py "$work/readme" 0
}

readme_rust_program() {
    local crate=$work/readme-rust
    mkdir -p "$crate/src"
    python3 tests/packaging/readme.py rust README.md >"$crate/src/main.rs"
    cat >"$crate/Cargo.toml" <<TOML
[package]
name = "readme"
version = "0.0.0"
edition = "2021"
[dependencies]
kolo = { path = "$root" }
[workspace]
TOML
    cp Cargo.lock "$crate/"
    CARGO_TARGET_DIR=$root/build/readme timeout -k 5 600 cargo build --quiet --manifest-path "$crate/Cargo.toml"
    limited python3 tests/packaging/echo_client.py "$root/build/readme/debug/readme" 0
}

cp -a "$prefix" "$work/moved"

check "pkg-config, shared library" with_pkg_config_shared "$prefix"
check "pkg-config, static library" with_pkg_config_static "$prefix"
check "pkg-config, all static" with_pkg_config_all_static "$prefix"
check "CMake, shared and static" with_cmake "$prefix"
check "CMake refuses another major version" with_cmake_of_another_major_version
check "moved tree, pkg-config, shared library" with_pkg_config_shared "$work/moved"
check "moved tree, pkg-config, static library" with_pkg_config_static "$work/moved"
check "moved tree, CMake" with_cmake "$work/moved"
check "soname and links" soname
check "needs only the system's libraries" only_system_libraries
check "exported symbols, struct sizes, constants" scripts/abi "$prefix"
check "install in a staging folder" staged
check "uninstall takes away kolo's files and no others" uninstalled
check "libraries in a folder outside the prefix" libraries_outside_the_prefix
check "links of the pages" python3 tests/packaging/links.py
check "README's C program" readme_c_program
check "README's Rust program" readme_rust_program

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
