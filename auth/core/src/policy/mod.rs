//! Authorization: who may do what, and what they are given for it. One model for tunnels and for proxied
//! connections.
//!
//! # Rules
//! Rules are tried in their order, and the first whose matchers all hold decides. Where none does, the default
//! decides: for connections it is to deny, because a proxied connection goes wherever its client says and an
//! empty configuration must not be an open proxy; for tunnel sessions it is to allow, because they have
//! authenticated, and reach only what addresses and routes let them. Either can be configured.
//!
//! # The built-in denial
//! Some destinations are special: loopback, private networks, cloud metadata, this gateway's own listeners and
//! more (see [`Special`]). An allowing rule holds for a special destination only where it says so by listing it:
//! one of its `destinations` must be a prefix that lies as a whole in the special range. So 10.1.0.0/16 and
//! 10.1.2.3 open what they say, while 0.0.0.0/0 and a rule without destinations open nothing special; and
//! 169.254.0.0/16 does not open 169.254.169.254, which has a range of its own. The gateway's own listeners are
//! opened only by their address itself in a rule that has `ports` as well. A flag would be less precise: it
//! would open whatever special addresses a wide prefix or a name has. Where no rule decides, special
//! destinations are denied, whatever the default.
//!
//! Addresses which embed IPv4 addresses (mapped, compatible, NAT64, 6to4, Teredo) are judged by what they embed
//! too: rules about either hold, and all that is special of them must be opened.
//!
//! # Names
//! A name is decided twice: [`Policy::decide_name`] before it is resolved, so that what is denied anyway costs no
//! look-up, and [`Policy::decide_address`] for each address it resolves to, where the name counts as well. Only
//! addresses that were allowed may be connected to; so a name that resolves to a special address (DNS rebinding)
//! gains nothing. Rules are never passed over for good because something is unknown: see [`Early`]. Where a
//! name goes unresolved to an upstream proxy, rules about addresses cannot be checked, which is why that is
//! only right where [`Early::Final`] allowed it.
//!
//! # Effects
//! What a session is given is merged field by field: the deciding rule's value, then that of the user's profile
//! (where the realm's defaults are already in), then that of the policy's defaults.

mod bucket;
mod effects;
mod explain;
mod index;
mod newcomers;
mod own;
mod quota;
mod request;
mod rule;
mod sets;
mod special;

pub use crate::buckets::source_key as source_of;
pub use bucket::{Taken, TokenBucket};
pub use effects::{ByteRate, Effects, SendProxy, SessionRate, SharedLimits, Upstream};
pub use explain::{Explanation, Passed};
pub use newcomers::{Newcomers, TooMany};
pub use own::Own;
pub use quota::{Period, Quota, QuotaUse};
pub use request::{By, Decision, Early, Request, RuleRef, Subject, Target};
pub use rule::{
    Action, BadPortRange, BadUserPattern, Command, DomainPattern, Matcher, Matchers, PortRange, Rule,
    UnknownCommand, UserPattern,
};
pub use sets::MAX_RULES;
pub(crate) use special::canonical;
pub use special::{Special, special, special_ranges};

use crate::host::HostName;
use index::Index;
use sets::RuleSet;
use special::Faces;
use std::net::IpAddr;
use std::sync::Arc;

/// What holds where no rule decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// What becomes of requests with a destination.
    pub connections: Action,
    /// What becomes of tunnel sessions.
    pub sessions: Action,
    /// What is given where neither a rule nor the user's profile says something.
    pub effects: Effects,
}

impl Default for Defaults {
    /// Connections are denied, tunnel sessions allowed; nothing is given.
    fn default() -> Self {
        Self {
            connections: Action::Deny,
            sessions: Action::Allow,
            effects: Effects::default(),
        }
    }
}

/// There are more rules than [`MAX_RULES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there may be {MAX_RULES} rules at most")]
pub struct TooManyRules;

/// A set of rules, ready for decisions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Arc<[Rule]>,
    defaults: Arc<Defaults>,
    index: Arc<Index>,
    own: Arc<Own>,
}

impl Default for Policy {
    /// No rules, and the usual defaults.
    fn default() -> Self {
        Self::compiled(Vec::new(), Defaults::default())
    }
}

impl Policy {
    /// Compiles rules. Prefixes of mapped IPv4 addresses become the IPv4 prefixes they mean.
    pub fn new(mut rules: Vec<Rule>, defaults: Defaults) -> Result<Self, TooManyRules> {
        if rules.len() > MAX_RULES {
            return Err(TooManyRules);
        }
        for rule in &mut rules {
            let matchers = &mut rule.matchers;
            for prefix in matchers.clients.iter_mut().chain(&mut matchers.destinations) {
                *prefix = rule::unmapped(*prefix);
            }
        }
        Ok(Self::compiled(rules, defaults))
    }

    fn compiled(rules: Vec<Rule>, defaults: Defaults) -> Self {
        Self {
            index: Arc::new(Index::new(&rules)),
            rules: rules.into(),
            defaults: Arc::new(defaults),
            own: Arc::default(),
        }
    }

    /// The same policy for a gateway that listens on these addresses, which are known only as it runs.
    pub fn with_own(mut self, own: Own) -> Self {
        self.own = Arc::new(own);
        self
    }

    /// The rules, in order.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What holds where no rule decides.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    fn decision<'p>(&'p self, action: Action, by: By<'p>) -> Decision<'p> {
        Decision {
            action,
            by,
            defaults: &self.defaults.effects,
        }
    }

    fn default_decision(&self, command: Command) -> Decision<'_> {
        let action = match command {
            Command::Session => self.defaults.sessions,
            Command::Connect | Command::Bind | Command::Udp => self.defaults.connections,
        };
        self.decision(action, By::Default)
    }

    /// The decision of the first rule of a set, or of the default.
    fn first(&self, set: &RuleSet, command: Command) -> Decision<'_> {
        let rule = set
            .first()
            .and_then(|index| Some((index, self.rules.get(index)?)));
        rule.map_or_else(
            || self.default_decision(command),
            |(index, rule)| self.decision(rule.action, By::Rule(RuleRef { index, rule })),
        )
    }

    /// Whether a tunnel session may be, once its user has authenticated. The command of the request is taken
    /// to be [`Command::Session`].
    pub fn decide_session(&self, request: &Request<'_>) -> Decision<'_> {
        let command = Command::Session;
        let request = Request { command, ..*request };
        self.first(&self.index.of_request(&request), command)
    }

    /// Whether a request is worth going on with whose destination is not known yet: a UDP association before its
    /// first datagram, or BIND for any peer. What is known later is asked for with [`Policy::decide_address`].
    pub fn decide_unknown(&self, request: &Request<'_>) -> Early<'_> {
        let possible = self.index.of_request(request);
        let mut certain = possible;
        self.index.narrow_to_any_destination(&mut certain);
        self.early(possible, &certain, request.command)
    }

    /// Whether a name is worth resolving. Port 0 is in no rule's `ports`.
    pub fn decide_name(&self, request: &Request<'_>, name: &HostName, port: u16) -> Early<'_> {
        let mut possible = self.index.of_request(request);
        self.index.narrow_to_name(&mut possible, Some(name), port);
        let mut certain = possible;
        self.index.narrow_to_any_address(&mut certain);
        self.early(possible, &certain, request.command)
    }

    /// Whether an address may be connected to, sent to, or accepted from. `name` is the name that the client gave
    /// and that resolved to it.
    pub fn decide_address(
        &self,
        request: &Request<'_>,
        name: Option<&HostName>,
        address: IpAddr,
        port: u16,
    ) -> Decision<'_> {
        let faces = Faces::of(address);
        let mut held = self.index.of_request(request);
        self.index.narrow_to_name(&mut held, name, port);
        let is_special = self.index.narrow_to_address(&mut held, &faces, port, &self.own);
        let class = match held.first() {
            None if is_special => special(address, port, &self.own),
            _ => None,
        };
        class.map_or_else(
            || self.first(&held, request.command),
            |class| self.decision(Action::Deny, By::Builtin(class)),
        )
    }

    fn early(&self, possible: RuleSet, certain: &RuleSet, command: Command) -> Early<'_> {
        let decision = self.first(certain, command);
        let end = certain.first().unwrap_or(usize::MAX);
        let mut uncertain = possible;
        uncertain.drop(certain, self.index.size());
        let mut before = uncertain.iter_before(end);
        let allows = |index: usize| {
            self.rules
                .get(index)
                .is_some_and(|rule| rule.action == Action::Allow)
        };
        let depends = if decision.allowed() {
            before.next().is_some()
        } else {
            before.any(allows)
        };
        if depends {
            Early::Depends
        } else {
            Early::Final(decision)
        }
    }
}

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
