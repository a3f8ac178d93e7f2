//! Names that no server is asked for: numbers, this machine's own, and what cannot be one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use kolo::{Code, Loop, Named, ResolveOptions, Resolved, ReverseOptions};

use super::world::{called, Callback, Token, World};

impl World {
    pub fn resolve(&mut self, lp: &Loop, number: u32) {
        let (at, token, port) = (self.handles.len(), Token::new(), (number >> 8) as u16);
        let long = "x".repeat(254);
        let (host, expected) = match number % 8 {
            0 => ("", Err(Code::EINVAL)),
            1 => (long.as_str(), Err(Code::ENAMETOOLONG)),
            2 => ("1.2.3.4:80", Ok(Err(Code::EAI_NONAME))),
            3 => ("192.0.2.7", Ok(Ok(Some("192.0.2.7")))),
            4 => ("2001:db8::7", Ok(Ok(Some("2001:db8::7")))),
            _ => ("localhost", Ok(Ok(None))),
        };
        let limit = number.is_multiple_of(3);
        let options = ResolveOptions {
            timeout: limit.then(|| Duration::from_nanos(u64::from(number))),
            ..Default::default()
        };
        let done = move |lp: &Loop, outcome: kolo::Result<Resolved>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                let code = outcome.as_ref().err().map(|error| error.code());
                let addresses = outcome.map_or(Vec::new(), |resolved| resolved.addresses);
                let known: Option<Result<Option<IpAddr>, Code>> = expected
                    .ok()
                    .map(|it| it.map(|text| text.and_then(|text| text.parse().ok())));
                let fits = match (code, known) {
                    (Some(Code::ETIMEDOUT), _) => limit,
                    (Some(code), Some(Err(expected))) => code == expected,
                    (None, Some(Ok(Some(ip)))) => addresses == [SocketAddr::new(ip, port)],
                    (None, Some(Ok(None))) => is_this_machine(&addresses, port),
                    _ => false,
                };
                world.note(|| format!("{addresses:?}"));
                world.request_done(at, code, fits);
            });
        };
        let got = lp.resolve_with(Some(host), Some(&port.to_string()), &options, done);
        match expected {
            Err(code) => {
                self.outcome("Loop::resolve_with", got.map(drop), Some(code));
            }
            Ok(_) => self.name_requested("Loop::resolve_with", got),
        }
    }

    pub fn reverse(&mut self, lp: &Loop, number: u32) {
        let (at, token, port) = (self.handles.len(), Token::new(), (number >> 8) as u16);
        let address = SocketAddr::new(Ipv4Addr::new(192, 0, 2, number as u8).into(), port);
        let options = ReverseOptions {
            numeric_host: true,
            numeric_service: true,
            ..Default::default()
        };
        let done = move |lp: &Loop, outcome: kolo::Result<Named>| {
            let _token = &token;
            called(lp, Callback::Done, Some(at), |world| {
                let code = outcome.as_ref().err().map(|error| error.code());
                let named = outcome.unwrap_or_default();
                let fits = named.host == address.ip().to_string()
                    && named.service == address.port().to_string();
                world.request_done(at, code, fits);
            });
        };
        let got = lp.reverse(address, &options, done);
        self.name_requested("Loop::reverse", got);
    }

    fn name_requested(&mut self, call: &str, got: kolo::Result<kolo::Request>) {
        if let Some(at) = self.requested(call, got, None) {
            // The resolver is not waited for.
            self.request(at).given_up = true;
            self.count("name asked for");
        }
    }
}

fn is_this_machine(addresses: &[SocketAddr], port: u16) -> bool {
    let own = |address: &SocketAddr| address.ip().is_loopback() && address.port() == port;
    !addresses.is_empty() && addresses.iter().all(own)
}
