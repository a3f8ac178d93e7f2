//! `include/kolo.h` is what the source says.
//!
//! The header is a manual: its parts come in the order below, each with its introduction, then its
//! types, then its functions. cbindgen knows one order for a whole library (all types, then all
//! functions), so it is run over each file of `src/capi` by itself, and the parts are put together
//! here. `KOLO_BLESS=1` (`make header`) writes the header, otherwise it is compared.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use cbindgen::{Builder, Config};

/// The files of `src/capi` that are parts of the header, in its order.
const PARTS: &[&str] = &[
    "types",
    "error",
    "event_loop",
    "handle",
    "timer",
    "hook",
    "remote",
    "work",
    "signal",
    "poll",
    "address",
    "system",
    "stream",
    "tcp",
    "names",
    "listener",
    "group",
    "udp",
    "udp_options",
    "local",
    "pipe",
    "process",
    "tty",
    "watch",
    "fs",
    "file",
    "directory",
    "sim",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn source(part: &str) -> PathBuf {
    root().join("src/capi").join(part).with_extension("rs")
}

fn config() -> Config {
    Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml")
}

/// The whole header.
fn generate() -> String {
    let config = config();
    let text = |text: &Option<String>| text.as_deref().unwrap_or("").trim().to_owned();
    let guard = text(&config.include_guard);
    let mut out = format!(
        "{}\n#ifndef {guard}\n#define {guard}\n\n",
        text(&config.header)
    );
    for include in &config.sys_includes {
        writeln!(out, "#include <{include}>").unwrap();
    }
    out.push_str(&version());
    out.push_str("\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n");
    for part in PARTS {
        out.push('\n');
        out.push_str(&banner(part));
        out.push('\n');
        out.push_str(tidy(&declarations(part, &config)).trim());
        out.push('\n');
    }
    out.push_str("\n#ifdef __cplusplus\n}\n#endif\n\n");
    writeln!(out, "{}\n\n#endif /* {guard} */", text(&config.trailer)).unwrap();
    out
}

fn version() -> String {
    let [major, minor, patch] = [
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
        env!("CARGO_PKG_VERSION_PATCH"),
    ];
    format!(
        "
/** The version of this header; kolo_version tells that of the library. */
#define KOLO_VERSION_MAJOR {major}
#define KOLO_VERSION_MINOR {minor}
#define KOLO_VERSION_PATCH {patch}
#define KOLO_VERSION (KOLO_VERSION_MAJOR << 16 | KOLO_VERSION_MINOR << 8 | KOLO_VERSION_PATCH)
"
    )
}

/// A part's introduction: the first lines of its file.
fn banner(part: &str) -> String {
    let source = fs::read_to_string(source(part)).unwrap();
    let mut lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    let title = lines.next().expect("a file begins with its title").trim();
    let rule = "=".repeat(96 - title.len() - 1);
    let mut banner = format!("/* {title} {rule}\n");
    for line in lines {
        writeln!(banner, " *{line}").unwrap();
    }
    banner + " */\n"
}

/// What cbindgen makes of one file.
fn declarations(part: &str, config: &Config) -> String {
    let mut config = config.clone();
    (config.header, config.include_guard, config.trailer) = (None, None, None);
    config.sys_includes.clear();
    config.cpp_compat = false;
    config.export.include = types(part);
    let bindings = Builder::new()
        .with_config(config)
        .with_src(source(part))
        .generate()
        .unwrap_or_else(|error| panic!("cbindgen on {part}.rs: {error}"));
    let mut bytes = Vec::new();
    bindings.write(&mut bytes);
    String::from_utf8(bytes).expect("a header in UTF-8")
}

/// The types that a file declares. By itself cbindgen leaves out those that no function of the same
/// file uses.
fn types(part: &str) -> Vec<String> {
    let source = fs::read_to_string(source(part)).unwrap();
    let names = source.lines().filter_map(|line| {
        let rest = ["pub struct ", "pub enum ", "pub type "]
            .iter()
            .find_map(|start| line.strip_prefix(start))?;
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        Some(rest[..end.unwrap_or(rest.len())].to_owned())
    });
    names.filter(|name| name.starts_with("kolo_")).collect()
}

/// Types go by their typedefs everywhere, and a comment of one line takes one.
fn tidy(header: &str) -> String {
    let mut out = Vec::new();
    let mut lines = header.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("typedef struct") || line.starts_with("typedef enum") {
            out.push(line.to_owned());
        } else if line.trim() == "/**" {
            let indent = &line[..line.len() - 3];
            let first = lines.next().expect("a comment ends");
            if lines.peek().is_some_and(|line| line.trim() == "*/") {
                lines.next();
                let text = first.trim().trim_start_matches("* ");
                out.push(format!("{indent}/** {text} */"));
            } else {
                out.extend([line.to_owned(), first.trim_end().to_owned()]);
            }
        } else {
            let line = line.replace("struct kolo_", "kolo_");
            out.push(line.replace("enum kolo_", "kolo_").trim_end().to_owned());
        }
    }
    out.join("\n") + "\n"
}

/// The first place where two texts differ.
fn difference(expected: &str, found: &str) -> String {
    let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let same = expected.iter().zip(&found).take_while(|(a, b)| a == b);
    let at = same.count();
    let mut text = format!("from line {} on:\n", at + 1);
    for (mark, lines) in [("source", &expected), ("header", &found)] {
        for line in lines.iter().skip(at).take(6) {
            writeln!(text, "  {mark}: {line}").unwrap();
        }
    }
    text
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_header_is_what_the_source_says() {
    let path = root().join("include/kolo.h");
    let generated = generate();
    if std::env::var_os("KOLO_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, &generated).unwrap();
        return;
    }
    let checked_in = read(&path);
    assert!(
        generated == checked_in,
        "include/kolo.h is not what src/capi says, {}Run `make header` to write it anew.",
        difference(&generated, &checked_in)
    );
}

#[test]
fn every_file_of_the_abi_is_in_the_header() {
    for entry in fs::read_dir(root().join("src/capi")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let exports = read(&path).contains("#[no_mangle]");
        assert!(!exports || PARTS.contains(&name.as_str()), "{name}");
    }
}

#[test]
fn errors_are_those_of_the_library() {
    let header = generate();
    let from = header.find("typedef enum kolo_error").unwrap();
    let list = &header[from..from + header[from..].find('}').unwrap()];
    let declared: BTreeMap<String, i32> = list
        .lines()
        .filter_map(|line| {
            let (name, number) = line.trim().trim_end_matches(',').split_once(" = ")?;
            let name = name.strip_prefix("KOLO_")?;
            Some((name.to_owned(), number.parse().expect("a number")))
        })
        .collect();
    let own = kolo::Code::ALL.iter();
    let mut expected: BTreeMap<String, i32> = own
        .map(|code| (code.name().to_owned(), code.number()))
        .collect();
    expected.insert("OK".to_owned(), 0);
    assert_eq!(declared, expected);
}

/// The program at the top of the header, and its initialisers, as a C and a C++ compiler see them.
#[cfg(unix)]
#[test]
fn the_headers_example_compiles() {
    let header = generate();
    let example: String = header
        .lines()
        .skip_while(|line| *line != " * An echo server")
        .take_while(|line| *line != " * What holds everywhere")
        .filter_map(|line| line.strip_prefix(" *     "))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(example.contains("int main(void)"), "{example}");
    let initialised: String = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define KOLO_")?.split_once("_INIT"))
        .map(|(name, _)| {
            let name = name.to_lowercase();
            format!(
                "kolo_{name} a_{name} = KOLO_{}_INIT;\n",
                name.to_uppercase()
            )
        })
        .collect();
    // Those that may grow have one, but for what only kolo fills in.
    let (count, sized) = (
        initialised.lines().count(),
        header.matches("\n    size_t size;").count(),
    );
    assert!(count > 10 && count <= sized, "{count} of {sized}");

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("header");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("kolo.h"), &header).unwrap();
    for (standard, file) in [("c99", "example.c"), ("c++11", "example.cc")] {
        let file = folder.join(file);
        fs::write(&file, format!("{example}{initialised}")).unwrap();
        let output = std::process::Command::new(std::env::var_os("CC").unwrap_or("cc".into()))
            .arg(format!("-std={standard}"))
            .args("-Wall -Wextra -Wpedantic -Wconversion -Werror -fsyntax-only -I".split(' '))
            .args([&folder, &file])
            .output()
            .expect("a C compiler, which linking Rust programs needs too");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{standard}:\n{errors}");
    }
}
