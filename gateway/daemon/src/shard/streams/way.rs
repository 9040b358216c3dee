//! Where a connection's user may go, and by which way.

use super::Source;
use sluice_auth::policy::{Command, Decision, Effects, Policy, Request, Subject, Upstream};
use sluice_auth::{HostName, Profile};
use sluice_egress::{Denied, Judge, Named, Way};
use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// One request's judge: the policy as it was when the request came.
pub(super) struct Question {
    policy: Arc<Policy>,
    source: Source,
    client: IpAddr,
    profile: Option<Rc<Profile>>,
    command: Command,
    name: RefCell<Option<HostName>>,
    /// What decided last, for the log.
    by: RefCell<String>,
}

impl Question {
    pub(super) fn new(
        policy: Arc<Policy>,
        source: Source,
        client: IpAddr,
        profile: Option<Rc<Profile>>,
        command: Command,
    ) -> Self {
        Self {
            policy,
            source,
            client,
            profile,
            command,
            name: RefCell::new(None),
            by: RefCell::new(String::new()),
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            command: self.command,
            listener: &self.source.origin.listener,
            protocol: self.source.origin.protocol,
            client: Some(self.client),
            user: self.profile.as_deref().map(Subject::from),
        }
    }

    fn note(&self, decision: &Decision<'_>) {
        *self.by.borrow_mut() = match decision.rule() {
            Some(rule) => format!("rule {}", rule.rule.name),
            None => decision.by.as_str().to_owned(),
        };
    }

    /// What decided last.
    pub(super) fn by(&self) -> String {
        self.by.borrow().clone()
    }

    /// What a decision about an address gives.
    pub(super) fn effects(&self, address: SocketAddr) -> Effects {
        let name = self.name.borrow();
        let decision =
            self.policy
                .decide_address(&self.request(), name.as_ref(), address.ip(), address.port());
        let own = self.profile.as_deref().map(Effects::from);
        decision.effects(own.as_ref())
    }

    /// Whether nothing unknown can make it allowed any more.
    pub(super) fn is_hopeless(&self) -> bool {
        let denied = self.policy.decide_unknown(&self.request()).denied();
        if let Some(decision) = &denied {
            self.note(decision);
        }
        denied.is_some()
    }
}

fn way(effects: &Effects) -> Way {
    Way {
        source4: effects.source_ipv4,
        source6: effects.source_ipv6,
        interface: effects.interface.clone(),
        mark: effects.fwmark,
        upstream: match &effects.upstream {
            Some(Upstream::Named(name)) => Some(name.clone()),
            Some(Upstream::Direct) | None => None,
        },
        header: None,
    }
}

impl Judge for Question {
    fn name(&self, name: &HostName, port: u16) -> Result<Named, Denied> {
        *self.name.borrow_mut() = Some(name.clone());
        let early = self.policy.decide_name(&self.request(), name, port);
        if let Some(decision) = early.denied() {
            self.note(&decision);
            return Err(Denied);
        }
        Ok(Named::Resolve)
    }

    fn address(&self, address: SocketAddr) -> Result<Way, Denied> {
        let name = self.name.borrow();
        let decision =
            self.policy
                .decide_address(&self.request(), name.as_ref(), address.ip(), address.port());
        self.note(&decision);
        if !decision.allowed() {
            return Err(Denied);
        }
        let own = self.profile.as_deref().map(Effects::from);
        Ok(way(&decision.effects(own.as_ref())))
    }
}
