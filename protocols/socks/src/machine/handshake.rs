//! From the first octet to the request.

use super::{Admission, Connection, Phase, SESSION, Version};
use crate::config::AuthMethod;
use crate::module::NAME;
use crate::names::{counts, drops};
use crate::wire::{self, Command, Message, Reply, VERSION4, VERSION5, method, v4};
use sluice_auth::{AuthRequest, Credentials, Host, Identity, RejectReason, Secret};
use sluice_spi::wire::display_text;
use sluice_spi::{CallInfo, Direction, Event, SessionKind, Severity, Target};
use std::net::{IpAddr, Ipv4Addr};

/// Methods that are shown of those that a client offers.
const MAX_SHOWN: usize = 8;

impl Connection {
    /// Reads as many messages as there are, and says how many octets they were.
    pub(super) fn consume(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let read = match self.phase {
                Phase::Greeting => self.greeting(rest),
                // One step of a client at a time: what it says next is looked at once the engine has answered.
                Phase::Login | Phase::Token | Phase::Level | Phase::Request
                    if self.admission == Admission::Pending =>
                {
                    None
                }
                Phase::Login => self.login(rest),
                Phase::Token => self.context_token(rest),
                Phase::Level => self.protection_level(rest),
                Phase::Request if self.has_keys() => self.wrapped_request(rest),
                Phase::Request => self.request(rest),
                _ => None,
            };
            match read {
                Some(length) => used += length,
                None => return used,
            }
        }
    }

    /// The first message. Its length, or `None` where it is not whole or nothing comes of it.
    fn greeting(&mut self, bytes: &[u8]) -> Option<usize> {
        let served = self.config.versions;
        match *bytes.first()? {
            VERSION5 if served.v5 => self.greeting5(bytes),
            VERSION4 if served.v4 => self.request4(bytes),
            other => {
                self.event(Event::Dropped(drops::VERSION));
                self.leave(format!("a connection of version {other}, which is not served"));
                None
            }
        }
    }

    fn greeting5(&mut self, bytes: &[u8]) -> Option<usize> {
        let (greeting, length) = wire::greeting(bytes)?;
        self.version = Some(Version::V5);
        let Some(method) = self.select(greeting) else {
            self.count(counts::NO_METHOD);
            self.output.push(&Message::method(method::NO_ACCEPTABLE));
            let some = greeting.methods.get(..MAX_SHOWN).unwrap_or(greeting.methods);
            let count = greeting.methods.len();
            self.leave(format!("none of its {count} methods may be used: {some:?}"));
            return None;
        };
        self.method = method;
        self.output.push(&Message::method(method.number()));
        match method {
            AuthMethod::Password => self.phase = Phase::Login,
            AuthMethod::Gssapi => self.begin_gssapi(),
            AuthMethod::None => self.phase = Phase::Request,
        }
        self.open_session();
        Some(length)
    }

    /// The best method that the client offers and may use.
    fn select(&self, greeting: wire::Greeting<'_>) -> Option<AuthMethod> {
        let client = self.peer.remote.ip();
        let usable = |method: &&AuthMethod| {
            greeting.offers(method.number()) && (**method != AuthMethod::None || self.config.trusts(client))
        };
        self.config.methods.iter().find(usable).copied()
    }

    fn open_session(&mut self) {
        self.has_session = true;
        let call = CallInfo {
            kind: SessionKind::Connection,
            peer: self.peer,
            calling: None,
            called: None,
            label: None,
        };
        self.event(Event::SessionOpening {
            session: SESSION,
            call,
        });
    }

    fn login(&mut self, bytes: &[u8]) -> Option<usize> {
        let (login, length) = match wire::login(bytes) {
            Ok(parsed) => parsed?,
            Err(wrong) => {
                self.traced(Direction::In, || wrong.to_string());
                self.auth_failed(RejectReason::BadCredentials);
                return None;
            }
        };
        self.traced(Direction::In, || {
            format!("login of \"{}\"", display_text(login.name))
        });
        if self.denied.is_some() {
            // Nobody is asked any more; it is the request that is refused.
            self.accept_login();
            return Some(length);
        }
        // No user has such a name, and none has no password.
        let identity = Identity::parse(login.name).filter(|_| !login.password.is_empty());
        let Some(identity) = identity else {
            self.auth_failed(RejectReason::BadCredentials);
            return None;
        };
        self.user = Some(display_text(login.name).into());
        let request = AuthRequest {
            protocol: NAME,
            credentials: Credentials::Pap {
                identity,
                password: Secret::new(login.password),
            },
            peer: Some(self.peer.remote),
            calling: None,
            called: None,
        };
        self.phase = Phase::Verdict;
        self.event(Event::AuthRequested {
            session: SESSION,
            request: Box::new(request),
        });
        Some(length)
    }

    /// The client may make its request.
    pub(super) fn accept_login(&mut self) {
        if self.method == AuthMethod::Gssapi {
            return self.accept_context();
        }
        self.traced(Direction::Out, || "login accepted".to_owned());
        self.output.push(&Message::status(true));
        self.phase = Phase::Request;
    }

    pub(super) fn request(&mut self, bytes: &[u8]) -> Option<usize> {
        let (request, length) = match wire::request(bytes) {
            Ok(parsed) => parsed?,
            Err(reply) => {
                self.traced(Direction::In, || {
                    format!("a request that is none: {}", reply.as_str())
                });
                self.refuse(reply);
                return None;
            }
        };
        self.command = request.command;
        self.count(counts::command(request.command));
        let host = match request.address.host() {
            // Of its own address a client may say what is none: PySocks has the name "0" for nowhere. Its datagrams
            // come from where its connection comes from, whatever it says.
            Err(_) if request.command == Command::UdpAssociate => {
                Ok(Host::Address(Ipv4Addr::UNSPECIFIED.into()))
            }
            host => host,
        };
        match host {
            Ok(host) => {
                self.target = Some(Target {
                    host,
                    port: request.port,
                });
                self.trace_request();
                self.start();
            }
            Err(bad) => {
                self.traced(Direction::In, || format!("{}: {bad}", request.command.as_str()));
                self.refuse(Reply::HostUnreachable);
            }
        }
        Some(length)
    }

    fn request4(&mut self, bytes: &[u8]) -> Option<usize> {
        let (request, length) = match v4::request(bytes) {
            Ok(parsed) => parsed?,
            Err(bad) => {
                self.reject4(format!("a SOCKS4 request that is none: {bad}"));
                return None;
            }
        };
        self.version = Some(Version::V4);
        self.count(counts::command(request.command));
        let host = match request.destination {
            v4::Destination::Address(address) => Ok(Host::Address(IpAddr::V4(address))),
            v4::Destination::Name(name) => wire::Address::Name(name).host(),
        };
        let host = match host {
            Ok(host) => host,
            Err(bad) => {
                self.reject4(format!("a SOCKS4 request for no host: {bad}"));
                return None;
            }
        };
        let any = matches!(&host, Host::Address(address) if address.is_unspecified());
        if request.command == Command::Connect && any {
            self.reject4("a SOCKS4 request for no address".to_owned());
            return None;
        }
        if !self.config.trusts(self.peer.remote.ip()) {
            self.count(counts::AUTH_REQUIRED);
            self.reject4("a SOCKS4 client that would have to authenticate".to_owned());
            return None;
        }
        self.command = request.command;
        self.user = (!request.user.is_empty()).then(|| display_text(request.user).into());
        self.target = Some(Target {
            host,
            port: request.port,
        });
        self.phase = Phase::Admission;
        self.open_session();
        Some(length)
    }

    /// Refuses a SOCKS4 request that did not become a session.
    fn reject4(&mut self, text: String) {
        let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
        self.count(counts::REJECTED);
        self.output.push(&Message::v4(v4::Code::Rejected, nowhere));
        self.leave(text);
    }

    /// Ends a connection that did not become a session, with a word to whoever looks for the cause.
    fn leave(&mut self, text: String) {
        self.event(Event::Notice {
            session: None,
            severity: Severity::Debug,
            text: format!("{}: {text}", self.peer.remote),
        });
        self.close_client();
    }
}
