//! Why a request is decided as it is: every rule tried one by one.

use super::Policy;
use super::own::Own;
use super::request::{By, Decision, Early, Request, RuleRef, Target};
use super::rule::{Action, Command, Matcher, Matchers, Rule, UserPattern};
use super::special::{Faces, Special, class_of, special};
use crate::host::HostName;
use std::net::IpAddr;

/// Why a rule did not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Passed {
    /// This matcher, the first that did not, does not hold.
    Failed(Matcher),
    /// This matcher, the first of its kind, is about something that is not known yet; the others hold.
    Unknown(Matcher),
}

/// How a request is decided, and why.
#[derive(Clone, Debug)]
pub struct Explanation<'p> {
    /// The answer, as a decision gives it.
    pub answer: Early<'p>,
    /// The rules before the one that decides, or all of them, in order, with the reason why they did not.
    pub passed: Vec<(RuleRef<'p>, Passed)>,
    /// The class of the destination's address, where it is known and special, whether or not that decided.
    pub special: Option<Special>,
}

/// Whether a matcher holds; `None`: not known yet.
type Held = Option<bool>;

/// All of a destination that is known.
struct Known<'a> {
    port: Option<u16>,
    /// `Some(None)`: there is no name.
    name: Option<Option<&'a HostName>>,
    faces: Option<Faces>,
}

impl<'a> Known<'a> {
    fn of(target: Target<'a>) -> Self {
        let (port, name, address) = match target {
            Target::Unknown => (None, None, None),
            Target::Name(name, port) => (Some(port), Some(Some(name)), None),
            Target::Address(name, address, port) => (Some(port), Some(name), Some(address)),
        };
        Self {
            port,
            name,
            faces: address.map(Faces::of),
        }
    }
}

fn any<T>(list: &[T], holds: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(holds)
}

impl Matchers {
    /// Whether the matcher of commands holds. What is about destinations is not about tunnel sessions.
    pub(super) fn takes(&self, command: Command) -> bool {
        let possible = command != Command::Session || !self.about_destinations();
        possible && any(&self.commands, |listed| *listed == command)
    }

    fn of_user(&self, request: &Request<'_>) -> bool {
        any(&self.users, |pattern| {
            let Some(user) = request.user else { return false };
            match pattern {
                UserPattern::Authenticated => true,
                UserPattern::Name(name) => name == user.name,
                UserPattern::Realm(realm) => user.realm.is_some_and(|own| own.eq_ignore_ascii_case(realm)),
            }
        })
    }

    fn of_group(&self, request: &Request<'_>) -> bool {
        let groups = request.user.map_or(&[][..], |user| user.groups);
        any(&self.groups, |group| groups.contains(group))
    }

    fn of_client(&self, client: Option<IpAddr>) -> bool {
        any(&self.clients, |prefix| {
            client.is_some_and(|client| prefix.contains(client))
        })
    }

    fn of_port(&self, port: Option<u16>) -> Held {
        if self.ports.is_empty() {
            return Some(true);
        }
        port.map(|port| any(&self.ports, |range| range.contains(port)))
    }

    fn of_domain(&self, name: Option<Option<&HostName>>) -> Held {
        if self.domains.is_empty() {
            return Some(true);
        }
        name.map(|name| name.is_some_and(|name| any(&self.domains, |pattern| pattern.matches(name))))
    }

    fn of_destination(&self, faces: Option<&Faces>) -> Held {
        if self.destinations.is_empty() {
            return Some(true);
        }
        faces.map(|faces| {
            faces
                .meant()
                .any(|face| any(&self.destinations, |prefix| prefix.contains(face)))
        })
    }

    /// Whether the rule lists an address as one that is special.
    fn opens(&self, face: IpAddr, port: u16, own: &Own) -> bool {
        let lists = |length: u8| {
            let mut destinations = self.destinations.iter();
            destinations.any(|prefix| prefix.contains(face) && prefix.length() >= length)
        };
        let as_special = class_of(face).is_none_or(|(range, _)| lists(range.length()));
        let full = if face.is_ipv4() { 32 } else { 128 };
        as_special && (!own.has(face, port) || (lists(full) && !self.ports.is_empty()))
    }
}

impl Rule {
    /// The first matcher that does not hold, or is not known to.
    fn passes(&self, request: &Request<'_>, known: &Known<'_>, own: &Own) -> Option<Passed> {
        let matchers = &self.matchers;
        let named = |list: &[String], word: &str| any(list, |listed| listed == word);
        let opened = || match (self.action, &known.faces, known.port) {
            (Action::Allow, Some(faces), Some(port)) => {
                faces.all().all(|face| matchers.opens(face, port, own))
            }
            _ => true,
        };
        let tried = [
            (Matcher::Command, Some(matchers.takes(request.command))),
            (
                Matcher::Listener,
                Some(named(&matchers.listeners, request.listener)),
            ),
            (
                Matcher::Protocol,
                Some(named(&matchers.protocols, request.protocol)),
            ),
            (Matcher::Client, Some(matchers.of_client(request.client))),
            (Matcher::User, Some(matchers.of_user(request))),
            (Matcher::Group, Some(matchers.of_group(request))),
            (Matcher::Port, matchers.of_port(known.port)),
            (Matcher::Domain, matchers.of_domain(known.name)),
            (
                Matcher::Destination,
                matchers.of_destination(known.faces.as_ref()),
            ),
            (Matcher::Special, Some(opened())),
        ];
        let failed = tried.iter().find(|(_, held)| *held == Some(false));
        let unknown = tried.iter().find(|(_, held)| held.is_none());
        failed
            .map(|(matcher, _)| Passed::Failed(*matcher))
            .or_else(|| unknown.map(|(matcher, _)| Passed::Unknown(*matcher)))
    }
}

impl Policy {
    /// Why a request is decided as it is. `target` is ignored for tunnel sessions. Slower than a decision by
    /// the number of rules.
    pub fn explain(&self, request: &Request<'_>, target: Target<'_>) -> Explanation<'_> {
        let known = match request.command {
            Command::Session => Known::of(Target::Unknown),
            _ => Known::of(target),
        };
        let special = match target {
            Target::Address(_, address, port) if request.command != Command::Session => {
                special(address, port, &self.own)
            }
            _ => None,
        };
        let mut passed = Vec::new();
        let mut decided = None;
        for (index, rule) in self.rules.iter().enumerate() {
            let rule_ref = RuleRef { index, rule };
            match rule.passes(request, &known, &self.own) {
                Some(why) => passed.push((rule_ref, why)),
                None => {
                    decided = Some(rule_ref);
                    break;
                }
            }
        }
        let decision = match (decided, special) {
            (Some(rule), _) => self.decision(rule.rule.action, By::Rule(rule)),
            (None, Some(special)) => self.decision(Action::Deny, By::Builtin(special)),
            (None, None) => self.default_decision(request.command),
        };
        Explanation {
            answer: early(decision, &passed),
            passed,
            special,
        }
    }
}

/// The answer, given the rules before that may hold once all is known.
fn early<'p>(decision: Decision<'p>, passed: &[(RuleRef<'p>, Passed)]) -> Early<'p> {
    let mut possible = passed.iter().filter(|(_, why)| matches!(why, Passed::Unknown(_)));
    let depends = if decision.allowed() {
        possible.next().is_some()
    } else {
        possible.any(|(rule, _)| rule.rule.action == Action::Allow)
    };
    if depends {
        Early::Depends
    } else {
        Early::Final(decision)
    }
}
