//! Compiles the harness and the part of the HTTP example that knows no kolo; for libFuzzer with coverage and the address
//! sanitizer, which then come from the C compiler: clang.

fn main() {
    let sources = [
        "harness/address.c",
        "harness/calls.c",
        "harness/http_request.c",
        "../examples/http/request.c",
        "../examples/http/text.c",
        "../examples/http/files.c",
    ];
    let mut build = cc::Build::new();
    build
        .files(sources)
        .include("harness")
        .include("../include")
        .include("../examples/http")
        .std("c99")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .flag("-g");
    if std::env::var_os("CARGO_FEATURE_LIBFUZZER").is_some() {
        build.compiler("clang");
        build.flag("-fsanitize=address,undefined");
        build.flag("-fno-sanitize-recover=undefined");
        build.flag("-fsanitize-undefined-trap-on-error"); // its own runtime is not there
        build.flag("-fsanitize-coverage=inline-8bit-counters,pc-table,trace-cmp");
    }
    build.compile("harness");
    for source in sources {
        println!("cargo:rerun-if-changed={source}");
    }
    for header in [
        "harness/fuzz.h",
        "../include/kolo.h",
        "../examples/http/http.h",
    ] {
        println!("cargo:rerun-if-changed={header}");
    }
}
