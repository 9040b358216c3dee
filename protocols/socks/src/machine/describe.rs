//! What operators see of a connection.

use super::{Connection, SESSION, Version};
use crate::config::AuthMethod;
use crate::wire::Command;
use sluice_auth::Host;
use sluice_spi::{Direction, Event, Fact, TunnelInfo};

impl Connection {
    pub(super) fn info(&self) -> TunnelInfo {
        TunnelInfo {
            key: self.key,
            peer: self.peer,
            peer_name: self.user.as_deref().unwrap_or_default().to_owned(),
            initiated: false,
            facts: self.facts(),
        }
    }

    pub(super) fn facts(&self) -> Vec<Fact> {
        let mut facts = vec![Fact::new("state", self.phase.name())];
        let Some(version) = self.version else {
            return facts;
        };
        facts.push(Fact::new("socks_version", version.number().to_string()));
        match version {
            Version::V5 => {
                facts.push(Fact::new("auth_method", self.method.as_str()));
                let level = self.gss.as_ref().and_then(|gss| gss.level());
                facts.extend(level.map(|level| Fact::new("protection", level.as_str())));
            }
            // Nothing proves it, so it is no user.
            Version::V4 => {
                let id = self.user.as_deref();
                facts.extend(id.map(|id| Fact::new("socks4_user_id", id)));
            }
        }
        if let Some(target) = self.target_fact() {
            facts.push(Fact::new("command", self.command.as_str()));
            facts.push(target);
        }
        let bound = self
            .local
            .map(|local| Fact::new("bound_address", local.to_string()));
        facts.extend(bound);
        let remote = self
            .remote
            .map(|remote| Fact::new("remote_address", remote.to_string()));
        facts.extend(remote);
        facts
    }

    /// Where the client wants to go, or whom it expects, or where it sends from.
    pub(super) fn target_fact(&self) -> Option<Fact> {
        let name = match self.command {
            Command::UdpAssociate => "client_source",
            _ => "target",
        };
        self.target
            .as_ref()
            .map(|target| Fact::new(name, target.to_string()))
    }

    /// The other end of the second channel, where the target does not say it.
    pub(super) fn remote_fact(&self) -> Option<Fact> {
        let named = matches!(&self.target, Some(target) if matches!(target.host, Host::Name(_)));
        let remote = self.remote.filter(|_| named || self.command == Command::Bind)?;
        Some(Fact::new("remote_address", remote.to_string()))
    }

    /// Shows a message while the trace is on. Passwords are in none.
    pub(super) fn traced(&mut self, direction: Direction, text: impl FnOnce() -> String) {
        if self.trace && self.has_session {
            let version = self.version.map_or(0, Version::number);
            let text = format!("SOCKS{version} {}", text());
            self.event(Event::Traced {
                session: SESSION,
                direction,
                text,
            });
        }
    }

    pub(super) fn trace_request(&mut self) {
        if !self.trace {
            return;
        }
        let target = self.target.as_ref().map(ToString::to_string).unwrap_or_default();
        let text = format!("request {} {target}", self.command.as_str());
        self.traced(Direction::In, || text);
    }
}

impl AuthMethod {
    /// The name used in configuration and descriptions.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthMethod::Password => "password",
            AuthMethod::Gssapi => "gssapi",
            AuthMethod::None => "none",
        }
    }
}
