//! Tests in a network of their own, where the names are the test's too.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

/// What the resolver finds in the network.
#[derive(Clone, Copy)]
pub struct Names {
    /// /etc/hosts
    pub hosts: &'static str,
    /// /etc/resolv.conf; the name server is the test's: see [`NameServer`].
    pub resolver: &'static str,
    /// Whether names that the hosts file has not are asked of the name server.
    pub asks: bool,
}

/// This machine is 127.0.0.1, ::1, and 2001:db8::1 on a link where 2001:db8::dead takes packets and never answers.
const SET_UP: &str = "
    ip link set lo up &&
    ip link add kolo0 type veth peer name kolo1 &&
    ip link set kolo0 up && ip link set kolo1 up &&
    ip -6 addr add 2001:db8::1/64 dev kolo0 nodad &&
    ip -6 neigh add 2001:db8::dead lladdr 02:00:00:00:00:99 dev kolo0 nud permanent &&
    mount --bind \"$KOLO_TEST_FILES.hosts\" /etc/hosts &&
    mount --bind \"$KOLO_TEST_FILES.resolv\" /etc/resolv.conf &&
    { [ ! -e /etc/nsswitch.conf ] || mount --bind \"$KOLO_TEST_FILES.nsswitch\" /etc/nsswitch.conf; } ||
    exit 77
    exec \"$@\"";

/// Runs the test in a process, a network and a view of files of its own; says so and does not where that is not permitted.
#[macro_export]
macro_rules! in_own_network {
    ($names:expr, $test:expr) => {{
        fn here() {}
        let name = std::any::type_name_of_val(&here);
        let name = name.split("::").nth(1).unwrap();
        $crate::network::run_in_own_network(name, $names, $test);
    }};
}

pub fn run_in_own_network(name: &str, names: Names, test: impl FnOnce()) {
    const OWN_NETWORK: &str = "KOLO_TEST_IN_OWN_NETWORK";
    if std::env::var(OWN_NETWORK).is_ok_and(|own| own == name) {
        return test();
    }
    let files = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let hosts = if names.asks { "files dns" } else { "files" };
    let switch = format!("hosts: {hosts}\nservices: files\n");
    for (end, content) in [
        ("hosts", names.hosts),
        ("resolv", names.resolver),
        ("nsswitch", &switch),
    ] {
        std::fs::write(files.with_extension(end), content).unwrap();
    }
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "--net"])
        .args(["sh", "-c", SET_UP, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(OWN_NETWORK, name)
        .env("KOLO_TEST_FILES", &files)
        .output();
    let permitted = |output: &std::process::Output| {
        let text = String::from_utf8_lossy(&output.stderr);
        output.status.code() != Some(77) && !text.starts_with("unshare: ")
    };
    match output {
        Ok(output) if permitted(&output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{}\n{text}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(output) => eprintln!(
            "{name}: skipped, no network of its own: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(error) => eprintln!("{name}: skipped, no unshare(1): {error}"),
    }
}

/// A name server (RFC 1035) that does what a test says: nothing, unless told.
pub struct NameServer(UdpSocket);

pub struct Query {
    bytes: Vec<u8>,
    from: std::net::SocketAddr,
    /// "www.test"
    pub name: String,
    /// 1: A, 28: AAAA, 12: PTR.
    pub kind: u16,
}

#[allow(dead_code)]
pub enum Answer {
    Addresses(&'static [&'static str]),
    /// RCODE.
    Error(u8),
}

impl NameServer {
    pub fn open() -> NameServer {
        NameServer(UdpSocket::bind("127.0.0.1:53").unwrap())
    }

    pub fn next(&self) -> Query {
        let mut bytes = vec![0; 1500];
        let (length, from) = self.0.recv_from(&mut bytes).unwrap();
        bytes.truncate(length);
        let (mut labels, mut at) = (Vec::new(), 12);
        while bytes[at] > 0 {
            let end = at + 1 + usize::from(bytes[at]);
            labels.push(String::from_utf8(bytes[at + 1..end].to_vec()).unwrap());
            at = end;
        }
        let kind = u16::from_be_bytes([bytes[at + 1], bytes[at + 2]]);
        // Without what stands behind the question.
        bytes.truncate(at + 5);
        Query {
            bytes,
            from,
            name: labels.join("."),
            kind,
        }
    }

    pub fn answer(&self, query: Query, answer: &Answer) {
        let mut reply = query.bytes;
        let (code, addresses) = match answer {
            Answer::Addresses(addresses) => (0, *addresses),
            Answer::Error(code) => (*code, &[][..]),
        };
        let of_kind = addresses.iter().filter_map(|address| {
            let ip: IpAddr = address.parse().unwrap();
            match (ip, query.kind) {
                (IpAddr::V4(v4), 1) => Some(v4.octets().to_vec()),
                (IpAddr::V6(v6), 28) => Some(v6.octets().to_vec()),
                _ => None,
            }
        });
        let of_kind: Vec<_> = of_kind.collect();
        // A response, recursion available; one question, so many answers, nothing else.
        reply[2] |= 0x80;
        reply[3] = 0x80 | code;
        reply[4..12].copy_from_slice(&[0, 1, 0, of_kind.len() as u8, 0, 0, 0, 0]);
        for data in of_kind {
            // The name of the question; its type; class IN; 60 seconds.
            reply.extend([0xc0, 12, 0, query.kind as u8, 0, 1, 0, 0, 0, 60]);
            reply.extend([0, data.len() as u8]);
            reply.extend(data);
        }
        self.0.send_to(&reply, query.from).unwrap();
    }

    /// Answers for ever, on a thread.
    pub fn serve(self, answers: impl Fn(&str) -> Answer + Send + 'static) {
        std::thread::spawn(move || loop {
            let query = self.next();
            let answer = answers(&query.name);
            self.answer(query, &answer);
        });
    }
}

/// The pool's threads of the class for names that there are in this process.
pub fn slow_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| {
        let name = task.unwrap().path().join("comm");
        std::fs::read_to_string(name).ok() // it may have ended
    });
    names.filter(|name| name.trim() == "kolo-slow").count()
}
