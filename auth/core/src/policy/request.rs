//! What is asked of a policy, and its answers.

use super::effects::Effects;
use super::rule::{Action, Command, Rule};
use super::special::Special;
use crate::Profile;
use crate::host::HostName;
use std::net::IpAddr;

/// Who asks: a user whose credentials were right.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The name that backends know it by.
    pub name: &'a str,
    /// Its realm, where it has one; compared without regard to case. It may be given where the name has lost
    /// it by stripping.
    pub realm: Option<&'a str>,
    /// The groups it is in.
    pub groups: &'a [String],
}

impl<'a> From<&'a Profile> for Subject<'a> {
    /// The user with the realm it was looked up in, or else the one that its name has.
    fn from(profile: &'a Profile) -> Self {
        Self {
            name: profile.identity.as_str(),
            realm: profile.realm.as_deref().or(profile.identity.realm()),
            groups: &profile.groups,
        }
    }
}

/// A request without its destination.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is wanted.
    pub command: Command,
    /// Name of the listener that the client came to.
    pub listener: &'a str,
    /// Name of the protocol module.
    pub protocol: &'a str,
    /// The client's address, where there is one.
    pub client: Option<IpAddr>,
    /// The user; `None`: nobody authenticated.
    pub user: Option<Subject<'a>>,
}

/// What is known of the destination.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// There is one, but not yet known: a UDP association before its first datagram, BIND for any peer.
    Unknown,
    /// A name that is not resolved yet.
    Name(&'a HostName, u16),
    /// An address and the name it was resolved from, if it was.
    Address(Option<&'a HostName>, IpAddr, u16),
}

/// A rule in its place.
#[derive(Clone, Copy, Debug)]
pub struct RuleRef<'p> {
    /// Its place, from 0.
    pub index: usize,
    /// The rule.
    pub rule: &'p Rule,
}

/// What decided.
#[derive(Clone, Copy, Debug)]
pub enum By<'p> {
    /// A rule.
    Rule(RuleRef<'p>),
    /// The built-in denial: the destination is special and no rule opens it.
    Builtin(Special),
    /// No rule: the default at the end.
    Default,
}

impl By<'_> {
    /// A stable word for logs and counters: `rule`, `default`, or the class of the destination.
    pub fn as_str(&self) -> &'static str {
        match self {
            By::Rule(_) => "rule",
            By::Builtin(special) => special.as_str(),
            By::Default => "default",
        }
    }
}

/// An answer.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'p> {
    /// Whether the request is carried out.
    pub action: Action,
    /// What decided.
    pub by: By<'p>,
    /// What the defaults give.
    pub(super) defaults: &'p Effects,
}

impl<'p> Decision<'p> {
    /// Whether the request is carried out.
    pub fn allowed(&self) -> bool {
        self.action == Action::Allow
    }

    /// What is given: by the rule where it says something, then by the user's profile, then by the defaults.
    pub fn effects(&self, profile: Option<&Effects>) -> Effects {
        let below = profile.map(|profile| profile.or(self.defaults));
        let below = below.as_ref().unwrap_or(self.defaults);
        match self.by {
            By::Rule(RuleRef { rule, .. }) => rule.effects.or(below),
            By::Builtin(_) | By::Default => below.clone(),
        }
    }

    /// The rule that decided.
    pub fn rule(&self) -> Option<RuleRef<'p>> {
        match self.by {
            By::Rule(rule) => Some(rule),
            By::Builtin(_) | By::Default => None,
        }
    }
}

/// An answer to a question asked before all was known.
#[derive(Clone, Copy, Debug)]
pub enum Early<'p> {
    /// Nothing that is still unknown can change it, but that an allowed name may turn out to have addresses
    /// which the built-in denial covers.
    Final(Decision<'p>),
    /// Some destinations would be allowed: ask again when it is known.
    Depends,
}

impl<'p> Early<'p> {
    /// The denial, where it is certain by now.
    pub fn denied(&self) -> Option<Decision<'p>> {
        match self {
            Early::Final(decision) if !decision.allowed() => Some(*decision),
            Early::Final(_) | Early::Depends => None,
        }
    }
}
