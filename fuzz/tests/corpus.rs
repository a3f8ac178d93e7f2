//! Replays the corpus: what libFuzzer has found worth keeping, each input as a test would run it. A broken promise ends
//! the process; with KOLO_FUZZ_NAMES=1 the last line before that names the input.

use std::io::Write;
use std::path::Path;

fn replay(name: &str, target: fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no inputs in {}", folder.display());
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        if std::env::var_os("KOLO_FUZZ_NAMES").is_some() {
            // Not through `eprintln!`, which the test harness would hold back until it is too late.
            let said = writeln!(std::io::stderr(), "{}", file.display());
            said.unwrap();
        }
        target(&bytes);
    }
    println!("figure: corpus-{name} {} inputs", files.len());
    files.len()
}

#[test]
fn addresses() {
    replay("address", kolo_fuzz::address);
}

#[test]
fn http_requests() {
    replay("http_request", kolo_fuzz::http_request);
}

// Other tests would open and close descriptors meanwhile, and the targets count them: so this one has them wait.
#[test]
fn calls() {
    let inputs = replay("calls", kolo_fuzz::calls);
    assert!(kolo_fuzz::calls_made() > inputs as u64);
    println!(
        "figure: corpus-calls-made {} calls",
        kolo_fuzz::calls_made()
    );
}
