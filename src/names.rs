//! Names to addresses, and back: the system's resolver, on the pool's threads.
//!
//! Whatever the system is configured to ask is asked (hosts file, DNS, multicast DNS): getaddrinfo(3) and getnameinfo(3)
//! themselves, in [`WorkClass::Slow`]. What needs no asking, a numeric host, does not go to a thread.

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::address;
use crate::error::{Code, Result};
use crate::event_loop::Loop;
use crate::net::tcp::Family;
use crate::pool::{Job, WorkClass};
use crate::request::{Hold, Request};
use crate::sys;

/// The longest name that DNS can hold (RFC 1035, 2.3.4), as a text without its last dot.
const NAME_MAX: usize = 253;

/// What addresses are to be used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum SocketType {
    /// For streams: TCP.
    #[default]
    Stream = 1,
    /// For datagrams: UDP.
    Datagram = 2,
}

/// How [`Loop::resolve_with`] looks up a name. `..Default::default()` leaves the rest as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolveOptions {
    /// Only addresses of this family; `None`: of both.
    pub family: Option<Family>,
    /// What the addresses are for: it matters to the name of a service.
    pub socket_type: SocketType,
    /// The canonical name is asked for, too (`AI_CANONNAME`).
    pub canonical_name: bool,
    /// Without a host: addresses to listen at, which stand for every interface (`AI_PASSIVE`). Otherwise the loopback's.
    pub passive: bool,
    /// With [`Family::V6`]: IPv4 addresses as IPv6 ones that stand for them, if there are no others (`AI_V4MAPPED`, where the
    /// system has it).
    pub v4_mapped: bool,
    /// With `v4_mapped`: also if there are others (`AI_ALL`).
    pub all: bool,
    /// No addresses of a family that no interface has but the loopback (`AI_ADDRCONFIG`). Saves questions to the name
    /// server. Off as made: a machine that is off the network finds its own names all the same.
    pub address_config: bool,
    /// How long it may take, until [`Code::ETIMEDOUT`]; `None`: as long as the resolver tries.
    pub timeout: Option<Duration>,
}

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Its addresses, each once, in the order in which they should be tried (RFC 6724). Never none.
    pub addresses: Vec<SocketAddr>,
    /// The host's canonical name, if [`ResolveOptions::canonical_name`] asked for it.
    pub canonical_name: Option<String>,
}

/// How [`Loop::reverse`] looks up an address. `..Default::default()` leaves the rest as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReverseOptions {
    /// The address itself as the host's name, nobody is asked (`NI_NUMERICHOST`).
    pub numeric_host: bool,
    /// The port itself as the service's name (`NI_NUMERICSERV`).
    pub numeric_service: bool,
    /// A host without a name is an error, [`Code::EAI_NONAME`] (`NI_NAMEREQD`). Otherwise its address stands for it.
    pub name_required: bool,
    /// The service is one of datagrams (`NI_DGRAM`); otherwise of streams.
    pub datagram: bool,
    /// Hosts of the own domain without its name (`NI_NOFQDN`).
    pub short_name: bool,
    /// How long it may take, until [`Code::ETIMEDOUT`]; `None`: as long as the resolver tries.
    pub timeout: Option<Duration>,
}

/// The names of an address and a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// The host's.
    pub host: String,
    /// The service's: `"http"`, or the number of the port.
    pub service: String,
}

/// What a text for a service means.
enum Service {
    Port(u16),
    Name(String),
}

fn service_of(text: Option<&str>) -> Result<Service> {
    let Some(text) = text else {
        return Ok(Service::Port(0));
    };
    check_text(text)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // The resolver would cut a number that is too great.
        let port = text.parse().map_err(|_| Code::EINVAL)?;
        return Ok(Service::Port(port));
    }
    Ok(Service::Name(text.to_owned()))
}

/// Whether a name can be asked for.
pub(crate) fn check_host(host: &str) -> Result<()> {
    check_text(host)
}

fn check_text(text: &str) -> Result<()> {
    if text.is_empty() || text.contains('\0') {
        return Err(Code::EINVAL.into());
    }
    if text.strip_suffix('.').unwrap_or(text).len() > NAME_MAX {
        return Err(Code::ENAMETOOLONG.into());
    }
    Ok(())
}

/// The outcome for a host that needs no asking: a numeric address, or what looks like one and is none.
pub(crate) fn at_once(host: &str, port: u16, options: &ResolveOptions) -> Option<Result<Resolved>> {
    let Some(address) = address::parse(host, port) else {
        // Only addresses have these in them: "fe80::1%gone", "[::1]", "::1:80:", "127.0.0.1%1".
        let is_none = host.contains([':', '%']);
        return is_none.then(|| Err(Code::EAI_NONAME.into()));
    };
    let address = match (address, options.family) {
        (SocketAddr::V4(v4), Some(Family::V6)) if options.v4_mapped => {
            let mapped: Ipv6Addr = v4.ip().to_ipv6_mapped();
            SocketAddr::new(mapped.into(), port)
        }
        (address, None) => address,
        (address, Some(family)) if family == Family::of(&address) => address,
        _ => return Some(Err(Code::EAI_ADDRFAMILY.into())),
    };
    Some(Ok(Resolved {
        addresses: vec![address],
        canonical_name: options.canonical_name.then(|| host.to_owned()),
    }))
}

/// A question to the resolver.
pub(crate) struct Lookup {
    host: Option<String>,
    service: Service,
    options: ResolveOptions,
    found: Option<Result<Resolved>>,
    /// What a simulation has for it, where the system is not asked.
    #[cfg(feature = "sim")]
    answer: Option<Result<Resolved>>,
}

impl Lookup {
    pub fn of_host(host: &str, port: u16, options: ResolveOptions) -> Lookup {
        Lookup {
            host: Some(host.to_owned()),
            service: Service::Port(port),
            options,
            found: None,
            #[cfg(feature = "sim")]
            answer: None,
        }
    }

    fn ask(&self) -> Result<Resolved> {
        #[cfg(feature = "sim")]
        if let Some(answer) = &self.answer {
            return answer.clone();
        }
        let (name, port) = match &self.service {
            Service::Name(name) => (Some(name.as_str()), None),
            Service::Port(port) => (None, Some(*port)),
        };
        let mut resolved = sys::names::resolve(self.host.as_deref(), name, &self.options)?;
        if let Some(port) = port {
            let addresses = resolved.addresses.iter_mut();
            addresses.for_each(|address| address.set_port(port));
        }
        let mut seen = HashSet::new();
        resolved.addresses.retain(|address| seen.insert(*address));
        if resolved.addresses.is_empty() {
            return Err(Code::EAI_NODATA.into());
        }
        Ok(resolved)
    }

    /// With the answer of a simulation, if the loop belongs to one.
    #[cfg(feature = "sim")]
    pub fn in_world_of(mut self, lp: &Loop) -> Lookup {
        let core = lp.core.borrow();
        if let Some(simulated) = core.driver.simulated() {
            let answer = match self.service {
                Service::Port(port) => {
                    crate::sim::resolve(simulated, self.host.as_deref(), port, &self.options)
                }
                // The names of services are the machine's.
                Service::Name(_) => Err(Code::EAI_SERVICE.into()),
            };
            self.answer = Some(answer);
        }
        self
    }

    /// What a request's job brought.
    pub fn outcome(home: Result<Box<Lookup>>) -> Result<Resolved> {
        home.and_then(|lookup| lookup.found.unwrap_or(Err(Code::EPANIC.into())))
    }
}

impl Job for Lookup {
    fn run(&mut self) {
        self.found = Some(self.ask());
    }
}

struct ReverseLookup {
    address: SocketAddr,
    options: ReverseOptions,
    found: Option<Result<Named>>,
    /// As in [`Lookup`].
    #[cfg(feature = "sim")]
    answer: Option<Result<Named>>,
}

/// The answer of a simulation that the loop belongs to.
#[cfg(feature = "sim")]
fn named_in_world_of(
    lp: &Loop,
    address: &SocketAddr,
    options: &ReverseOptions,
) -> Option<Result<Named>> {
    let core = lp.core.borrow();
    let simulated = core.driver.simulated()?;
    Some(crate::sim::named(simulated, address, options))
}

impl Job for ReverseLookup {
    fn run(&mut self) {
        #[cfg(feature = "sim")]
        if let Some(answer) = self.answer.take() {
            self.found = Some(answer);
            return;
        }
        self.found = Some(sys::names::reverse(&self.address, &self.options));
    }
}

impl Loop {
    /// Looks up the addresses of a host, and the port of a service, with default options: see [`Loop::resolve_with`].
    ///
    /// Errors: as there.
    ///
    /// # Example
    ///
    /// ```
    /// use kolo::{Loop, RunMode};
    ///
    /// let lp = Loop::new()?;
    /// lp.resolve("localhost", "7000", |_, resolved| match resolved {
    ///     Ok(resolved) => println!("{:?}", resolved.addresses),
    ///     Err(error) => println!("{error}"),
    /// })?;
    /// lp.run(RunMode::Default)?;
    /// # Ok::<(), kolo::Error>(())
    /// ```
    pub fn resolve(
        &self,
        host: &str,
        service: &str,
        done: impl FnOnce(&Loop, Result<Resolved>) + 'static,
    ) -> Result<Request> {
        self.resolve_with(Some(host), Some(service), &ResolveOptions::default(), done)
    }

    /// Looks up the addresses of a host, and the port of a service (getaddrinfo(3)).
    ///
    /// `host` is a name or a numeric address (`"192.0.2.1"`, `"fe80::1%eth0"`); without one the addresses are this
    /// machine's: see [`ResolveOptions::passive`]. Names go to the resolver as they are: one that is not ASCII is sent in
    /// UTF-8, which DNS servers seldom know; convert it before (RFC 5891). `service` is a name (`"http"`) or a number;
    /// without one the port is 0.
    ///
    /// The system's resolver is asked on a thread of the pool, in [`WorkClass::Slow`]: as made, 4 names at a time, while
    /// more wait. A numeric host with a numeric service is known at once, and goes to no thread.
    ///
    /// `done` is called exactly once, never inside this call. [`Request::cancel`] and the timeout end a request also while
    /// the resolver works at it: what the resolver then says is dropped, and so it holds up nobody but those who wait for
    /// the same thread. Errors for `done`: [`Code::EAI_NONAME`] and [`Code::EAI_NODATA`] when there is no such name, or no
    /// address for it; [`Code::EAI_AGAIN`] when the name servers do not answer; the others of getaddrinfo;
    /// [`Code::ETIMEDOUT`]; [`Code::ECANCELED`] when the request was canceled or closed.
    ///
    /// Errors: [`Code::EINVAL`] for neither host nor service, for an empty text, one with a NUL in it, and a number above
    /// 65535; [`Code::ENAMETOOLONG`] for more than 253 bytes; those of [`Loop::work`]. Then `done` is not called.
    pub fn resolve_with(
        &self,
        host: Option<&str>,
        service: Option<&str>,
        options: &ResolveOptions,
        done: impl FnOnce(&Loop, Result<Resolved>) + 'static,
    ) -> Result<Request> {
        self.resolve_request(host, service, options, |lp, _, outcome| done(lp, outcome))
    }

    /// As [`Loop::resolve_with`], for a `done` that is told which request it is of.
    pub(crate) fn resolve_request(
        &self,
        host: Option<&str>,
        service: Option<&str>,
        options: &ResolveOptions,
        done: impl FnOnce(&Loop, Request, Result<Resolved>) + 'static,
    ) -> Result<Request> {
        if host.is_none() && service.is_none() {
            return Err(Code::EINVAL.into());
        }
        host.map_or(Ok(()), check_host)?;
        let service = service_of(service)?;
        if let (Some(host), Service::Port(port)) = (host, &service) {
            if let Some(outcome) = at_once(host, *port, options) {
                return self.submit_done(outcome.map(Box::new), |lp, request, outcome| {
                    done(lp, request, outcome.map(|resolved| *resolved))
                });
            }
        }
        let lookup = Lookup {
            host: host.map(str::to_owned),
            service,
            options: options.clone(),
            found: None,
            #[cfg(feature = "sim")]
            answer: None,
        };
        #[cfg(feature = "sim")]
        let lookup = lookup.in_world_of(self);
        let done = |lp: &Loop, request, home| done(lp, request, Lookup::outcome(home));
        let request = self.submit(WorkClass::Slow, lookup, Hold::MayAbandon, done)?;
        self.limit_lookup(request, options.timeout)
    }

    /// Looks up the names of an address and its port (getnameinfo(3)).
    ///
    /// Runs, ends and is bounded as [`Loop::resolve_with`]; with both `numeric_host` and `numeric_service` nobody is
    /// asked. Errors for `done`: [`Code::EAI_NONAME`] if a name is required and there is none, and as there.
    ///
    /// Errors: those of [`Loop::work`]. Then `done` is not called.
    pub fn reverse(
        &self,
        address: SocketAddr,
        options: &ReverseOptions,
        done: impl FnOnce(&Loop, Result<Named>) + 'static,
    ) -> Result<Request> {
        self.reverse_request(address, options, |lp, _, outcome| done(lp, outcome))
    }

    pub(crate) fn reverse_request(
        &self,
        address: SocketAddr,
        options: &ReverseOptions,
        done: impl FnOnce(&Loop, Request, Result<Named>) + 'static,
    ) -> Result<Request> {
        if options.numeric_host && options.numeric_service && !options.name_required {
            // Nobody is asked, so the call does not block.
            let outcome = sys::names::reverse(&address, options);
            return self.submit_done(outcome.map(Box::new), |lp, request, outcome| {
                done(lp, request, outcome.map(|named| *named))
            });
        }
        let lookup = ReverseLookup {
            address,
            options: options.clone(),
            found: None,
            #[cfg(feature = "sim")]
            answer: named_in_world_of(self, &address, options),
        };
        let done = |lp: &Loop, request, home: Result<Box<ReverseLookup>>| {
            let outcome = home.and_then(|lookup| lookup.found.unwrap_or(Err(Code::EPANIC.into())));
            done(lp, request, outcome)
        };
        let request = self.submit(WorkClass::Slow, lookup, Hold::MayAbandon, done)?;
        self.limit_lookup(request, options.timeout)
    }

    fn limit_lookup(&self, request: Request, timeout: Option<Duration>) -> Result<Request> {
        if let Some(timeout) = timeout {
            self.limit_request(request, timeout)?;
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(host: &str, options: &ResolveOptions) -> Option<Result<String>> {
        at_once(host, 80, options).map(|outcome| outcome.map(|it| it.addresses[0].to_string()))
    }

    #[test]
    fn numeric_hosts_are_known_at_once() {
        let any = ResolveOptions::default();
        assert_eq!(
            numeric("192.0.2.1", &any),
            Some(Ok("192.0.2.1:80".to_owned()))
        );
        assert_eq!(
            numeric("fe80::1%7", &any),
            Some(Ok("[fe80::1%7]:80".to_owned()))
        );
        assert_eq!(numeric("localhost", &any), None);
        for wrong in [
            "[::1]",
            "::1:80:",
            "fe80::1%no-such-interface",
            "1::2::3",
            "127.0.0.1%1",
        ] {
            assert_eq!(
                numeric(wrong, &any),
                Some(Err(Code::EAI_NONAME.into())),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_numeric_host_has_one_family() {
        let family = |family, v4_mapped| ResolveOptions {
            family: Some(family),
            v4_mapped,
            ..Default::default()
        };
        let wrong = Some(Err(Code::EAI_ADDRFAMILY.into()));
        assert_eq!(numeric("192.0.2.1", &family(Family::V6, false)), wrong);
        assert_eq!(numeric("::1", &family(Family::V4, true)), wrong);
        assert_eq!(
            numeric("192.0.2.1", &family(Family::V6, true)),
            Some(Ok("[::ffff:192.0.2.1]:80".to_owned()))
        );
        assert_eq!(
            numeric("::1", &family(Family::V6, true)),
            Some(Ok("[::1]:80".to_owned()))
        );
    }

    #[test]
    fn services_are_numbers_or_names() {
        assert!(matches!(service_of(None), Ok(Service::Port(0))));
        assert!(matches!(
            service_of(Some("65535")),
            Ok(Service::Port(65535))
        ));
        assert!(matches!(service_of(Some("http")), Ok(Service::Name(_))));
        for wrong in ["", "65536", "99999999999999999999", "a\0b"] {
            assert!(service_of(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_have_a_greatest_length() {
        let longest = "a".repeat(NAME_MAX);
        assert_eq!(check_host(&longest), Ok(()));
        assert_eq!(check_host(&format!("{longest}.")), Ok(()));
        let longer = check_host(&format!("{longest}a"));
        assert_eq!(longer, Err(Code::ENAMETOOLONG.into()));
        assert_eq!(check_host(""), Err(Code::EINVAL.into()));
    }
}
