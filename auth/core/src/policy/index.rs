//! The rules turned round: for each value of each matcher the set of rules that hold there.
//!
//! A decision takes one look-up for each matcher, whatever the number of rules, joins the sets, and takes the first
//! rule of what is left. With 100 rules that is some 200 ns.

use super::own::Own;
use super::request::{Request, Subject};
use super::rule::{Action, Command, DomainPattern, Rule, UserPattern};
use super::sets::{Addresses, Key, ListedAddresses, Ranges, RuleSet, Size, Span, Words, span};
use super::special::{Faces, canonical, special_ranges};
use crate::IpPrefix;
use crate::host::HostName;
use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;

/// All matchers of all rules. Where a rule has no such matcher it is in the set called `any`.
#[derive(Clone, Debug)]
pub(super) struct Index {
    size: Size,
    /// In the order of the commands.
    commands: [RuleSet; Command::ALL.len()],
    listeners: Named,
    protocols: Named,
    clients: Placed,
    users: Users,
    groups: Named,
    ports: Ported,
    domains: Domains,
    destinations: Placed,
    allowing: RuleSet,
    openers: Openers,
    /// For every special address a set that is not empty.
    specials: Addresses,
}

#[derive(Clone, Debug)]
struct Named {
    any: RuleSet,
    words: Words,
}

#[derive(Clone, Debug)]
struct Placed {
    any: RuleSet,
    addresses: Addresses,
}

#[derive(Clone, Debug)]
struct Ported {
    any: RuleSet,
    ranges: Ranges<u16>,
}

#[derive(Clone, Debug)]
struct Users {
    any: RuleSet,
    authenticated: RuleSet,
    names: Words,
    realms: Words,
}

#[derive(Clone, Debug)]
struct Domains {
    any: RuleSet,
    every_name: RuleSet,
    exact: Words,
    below: Words,
    /// Labels of the longest suffix in `below`: no look-up needs to go deeper.
    deepest: usize,
}

/// Which allowing rules list special addresses.
#[derive(Clone, Debug)]
struct Openers {
    addresses: Addresses,
    /// Rules that list an address by itself, with ports: these open our own listeners.
    single: HashMap<IpAddr, RuleSet>,
}

fn named(rules: &[Rule], words_of: impl Fn(&Rule) -> &[String]) -> Named {
    let mut words = Words::default();
    for (index, rule) in rules.iter().enumerate() {
        for word in words_of(rule) {
            words.insert(word, index);
        }
    }
    Named {
        any: having(rules, |rule| words_of(rule).is_empty()),
        words,
    }
}

fn having(rules: &[Rule], condition: impl Fn(&Rule) -> bool) -> RuleSet {
    let held = rules.iter().enumerate().filter(|(_, rule)| condition(rule));
    held.map(|(index, _)| index).collect()
}

fn placed(rules: &[Rule], prefixes_of: impl Fn(&Rule) -> &[IpPrefix]) -> Placed {
    let mut listed = ListedAddresses::default();
    for (index, rule) in rules.iter().enumerate() {
        for prefix in prefixes_of(rule) {
            listed.push(index, span(*prefix));
        }
    }
    Placed {
        any: having(rules, |rule| prefixes_of(rule).is_empty()),
        addresses: Addresses::new(listed),
    }
}

fn users(rules: &[Rule]) -> Users {
    let mut users = Users {
        any: having(rules, |rule| rule.matchers.users.is_empty()),
        authenticated: RuleSet::EMPTY,
        names: Words::default(),
        realms: Words::default(),
    };
    for (index, rule) in rules.iter().enumerate() {
        for pattern in &rule.matchers.users {
            match pattern {
                UserPattern::Authenticated => users.authenticated.insert(index),
                UserPattern::Name(name) => users.names.insert(name, index),
                UserPattern::Realm(realm) => users.realms.insert(realm, index),
            }
        }
    }
    users
}

fn domains(rules: &[Rule]) -> Domains {
    let mut domains = Domains {
        any: having(rules, |rule| rule.matchers.domains.is_empty()),
        every_name: RuleSet::EMPTY,
        exact: Words::default(),
        below: Words::default(),
        deepest: 0,
    };
    for (index, rule) in rules.iter().enumerate() {
        for pattern in &rule.matchers.domains {
            if let DomainPattern::Below(suffix) | DomainPattern::Within(suffix) = pattern {
                domains.below.insert(suffix.as_str(), index);
                domains.deepest = domains.deepest.max(suffix.as_str().split('.').count());
            }
            if let DomainPattern::Exact(name) | DomainPattern::Within(name) = pattern {
                domains.exact.insert(name.as_str(), index);
            }
            if *pattern == DomainPattern::Any {
                domains.every_name.insert(index);
            }
        }
    }
    domains
}

fn ports(rules: &[Rule]) -> Ported {
    let listed = rules.iter().enumerate().flat_map(|(index, rule)| {
        let ports = rule.matchers.ports.iter();
        ports.map(move |range| (index, range.first(), range.last()))
    });
    Ported {
        any: having(rules, |rule| rule.matchers.ports.is_empty()),
        ranges: Ranges::new(listed.collect()),
    }
}

fn commands(rules: &[Rule]) -> [RuleSet; Command::ALL.len()] {
    Command::ALL.map(|command| having(rules, |rule| rule.matchers.takes(command)))
}

/// A span without holes that lie inside it.
fn gaps<K: Key>(first: K, last: K, mut holes: Vec<(K, K)>) -> Vec<(K, K)> {
    holes.sort_unstable();
    let mut gaps = Vec::new();
    let mut from = Some(first);
    for (hole, end) in holes {
        let Some(start) = from else { break };
        if let Some(before) = hole.previous().filter(|before| *before >= start) {
            gaps.push((start, before));
        }
        // A hole may lie in a wider one.
        from = end.next().map(|next| next.max(start));
    }
    if let Some(start) = from.filter(|start| *start <= last) {
        gaps.push((start, last));
    }
    gaps
}

fn openers(rules: &[Rule]) -> Openers {
    let mut listed = ListedAddresses::default();
    let mut single: HashMap<IpAddr, RuleSet> = HashMap::new();
    for (index, rule) in rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| rule.action == Action::Allow)
    {
        for prefix in &rule.matchers.destinations {
            open(&mut listed, index, *prefix);
            if prefix.is_single() && !rule.matchers.ports.is_empty() {
                single
                    .entry(prefix.address())
                    .or_insert(RuleSet::EMPTY)
                    .insert(index);
            }
        }
    }
    Openers {
        addresses: Addresses::new(listed),
        single,
    }
}

/// All special addresses, as if each class were a rule.
fn specials() -> Addresses {
    let mut listed = ListedAddresses::default();
    for (range, class) in special_ranges() {
        if let Some(class) = class {
            open(&mut listed, class as usize, range);
        }
    }
    Addresses::new(listed)
}

/// A listed prefix opens what it holds of the special range in which it lies as a whole, without the special
/// ranges that lie within it: 169.254.0.0/16 does not open 169.254.169.254, and 0.0.0.0/0 opens nothing.
fn open(listed: &mut ListedAddresses, rule: usize, prefix: IpPrefix) {
    let around = special_ranges().filter(|(range, _)| range.covers(&prefix));
    let innermost = around.max_by_key(|(range, _)| range.length());
    let Some((_, Some(_))) = innermost else { return };
    let inside = special_ranges().map(|(range, _)| range);
    let inside = inside.filter(|range| prefix.covers(range) && *range != prefix);
    match span(prefix) {
        Span::V4(first, last) => {
            let holes = inside.filter_map(|range| match span(range) {
                Span::V4(first, last) => Some((first, last)),
                Span::V6(..) => None,
            });
            let gaps = gaps(first, last, holes.collect());
            listed
                .v4
                .extend(gaps.into_iter().map(|(first, last)| (rule, first, last)));
        }
        Span::V6(first, last) => {
            let holes = inside.filter_map(|range| match span(range) {
                Span::V6(first, last) => Some((first, last)),
                Span::V4(..) => None,
            });
            let gaps = gaps(first, last, holes.collect());
            listed
                .v6
                .extend(gaps.into_iter().map(|(first, last)| (rule, first, last)));
        }
    }
}

impl Index {
    /// `rules` are [`super::sets::MAX_RULES`] at most.
    pub(super) fn new(rules: &[Rule]) -> Self {
        Self {
            size: Size::of(rules.len()),
            commands: commands(rules),
            listeners: named(rules, |rule| &rule.matchers.listeners),
            protocols: named(rules, |rule| &rule.matchers.protocols),
            clients: placed(rules, |rule| &rule.matchers.clients),
            users: users(rules),
            groups: named(rules, |rule| &rule.matchers.groups),
            ports: ports(rules),
            domains: domains(rules),
            destinations: placed(rules, |rule| &rule.matchers.destinations),
            allowing: having(rules, |rule| rule.action == Action::Allow),
            openers: openers(rules),
            specials: specials(),
        }
    }

    /// How large its sets are.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// The rules whose matchers hold that have nothing to do with the destination.
    pub(super) fn of_request(&self, request: &Request<'_>) -> RuleSet {
        let size = self.size;
        let commands = self.commands.get(request.command as usize);
        let mut set = *commands.unwrap_or(&RuleSet::EMPTY);
        self.listeners.narrow(&mut set, size, [request.listener]);
        self.protocols.narrow(&mut set, size, [request.protocol]);
        self.clients.narrow(&mut set, size, request.client.map(canonical));
        self.users.narrow(&mut set, size, request.user.as_ref());
        let groups = request.user.iter().flat_map(|user| user.groups);
        self.groups.narrow(&mut set, size, groups.map(String::as_str));
        set
    }

    /// Keeps of a set the rules without any matcher about the destination.
    pub(super) fn narrow_to_any_destination(&self, set: &mut RuleSet) {
        set.keep(&self.ports.any, self.size);
        set.keep(&self.domains.any, self.size);
        self.narrow_to_any_address(set);
    }

    /// Keeps of a set the rules that hold for any address.
    pub(super) fn narrow_to_any_address(&self, set: &mut RuleSet) {
        set.keep(&self.destinations.any, self.size);
    }

    /// Keeps of a set the rules whose matchers hold for a port and a name, or for no name.
    pub(super) fn narrow_to_name(&self, set: &mut RuleSet, name: Option<&HostName>, port: u16) {
        let mut ports = self.ports.any;
        ports.add(self.ports.ranges.get(port), self.size);
        set.keep(&ports, self.size);
        self.domains.narrow(set, self.size, name);
    }

    /// Keeps of a set the rules whose matchers hold for an address. True where the address is special: then no
    /// allowing rule is kept that does not list it as such.
    pub(super) fn narrow_to_address(&self, set: &mut RuleSet, faces: &Faces, port: u16, own: &Own) -> bool {
        self.destinations.narrow(set, self.size, faces.meant());
        let mut special = false;
        for face in faces.all() {
            if !self.specials.get(face).is_empty() {
                special = true;
                self.close(set, self.openers.addresses.get(face));
            }
            if own.has(face, port) {
                special = true;
                self.close(set, self.openers.single.get(&face).unwrap_or(&RuleSet::EMPTY));
            }
        }
        special
    }

    /// Takes out of a set the allowing rules that are not among the openers.
    fn close(&self, set: &mut RuleSet, openers: &RuleSet) {
        let mut closed = self.allowing;
        closed.drop(openers, self.size);
        set.drop(&closed, self.size);
    }
}

impl Named {
    fn narrow<'a>(&self, set: &mut RuleSet, size: Size, words: impl IntoIterator<Item = &'a str>) {
        // No rule has such a matcher.
        if self.words.is_empty() {
            return;
        }
        let mut held = self.any;
        for rules in words.into_iter().filter_map(|word| self.words.get(word)) {
            held.add(rules, size);
        }
        set.keep(&held, size);
    }
}

impl Placed {
    fn narrow(&self, set: &mut RuleSet, size: Size, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut held = self.any;
        for address in addresses {
            held.add(self.addresses.get(address), size);
        }
        set.keep(&held, size);
    }
}

impl Users {
    fn narrow(&self, set: &mut RuleSet, size: Size, user: Option<&Subject<'_>>) {
        let Some(user) = user else {
            return set.keep(&self.any, size);
        };
        let mut held = self.any;
        held.add(&self.authenticated, size);
        if let Some(rules) = self.names.get(user.name) {
            held.add(rules, size);
        }
        if let (Some(realm), false) = (user.realm, self.realms.is_empty())
            && let Some(rules) = self.realms.get(&lower_case(realm))
        {
            held.add(rules, size);
        }
        set.keep(&held, size);
    }
}

fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
        text.to_ascii_lowercase().into()
    } else {
        text.into()
    }
}

impl Domains {
    fn narrow(&self, set: &mut RuleSet, size: Size, name: Option<&HostName>) {
        let Some(name) = name.map(HostName::as_str) else {
            return set.keep(&self.any, size);
        };
        let mut held = self.any;
        held.add(&self.every_name, size);
        if let Some(rules) = self.exact.get(name) {
            held.add(rules, size);
        }
        for (dot, _) in name.rmatch_indices('.').take(self.deepest) {
            let suffix = name.get(dot + 1..).unwrap_or("");
            if let Some(rules) = self.below.get(suffix) {
                held.add(rules, size);
            }
        }
        set.keep(&held, size);
    }
}
