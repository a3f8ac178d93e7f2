//! Gives the shared library the name under which programs ask for it at run time: `libkolo.so.MAJOR` on ELF systems,
//! `@rpath/libkolo.MAJOR.dylib` on Apple's. `make install` makes the links that go with it.
//! And says whether the driver over io_uring can be built (`cfg(kolo_uring)`).

use std::env;

/// Where the crate `io-uring` can be built; Cargo.toml says the same.
const URING_PROCESSORS: [&str; 5] = ["x86_64", "aarch64", "riscv64", "loongarch64", "powerpc64"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(kolo_uring)");
    let system = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    let processor = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    if system == "linux" && URING_PROCESSORS.contains(&processor.as_str()) {
        println!("cargo:rustc-cfg=kolo_uring");
    }

    let major = env::var("CARGO_PKG_VERSION_MAJOR").expect("cargo sets the package's version");
    let family = env::var("CARGO_CFG_TARGET_FAMILY").unwrap_or_default();
    let vendor = env::var("CARGO_CFG_TARGET_VENDOR").unwrap_or_default();

    if !family.split(',').any(|name| name == "unix") {
        return; // a DLL carries no version in its name
    }
    let argument = if vendor == "apple" {
        format!("-Wl,-install_name,@rpath/libkolo.{major}.dylib")
    } else if system == "solaris" || system == "illumos" {
        format!("-Wl,-h,libkolo.so.{major}")
    } else {
        format!("-Wl,-soname,libkolo.so.{major}")
    };
    println!("cargo:rustc-cdylib-link-arg={argument}");
}
