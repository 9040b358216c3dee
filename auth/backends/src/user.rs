//! One user of the users file: what is known of it, and how it is read and written.

use crate::key_ring::Envelope;
use crate::verifiers::{CHAP, NT_HASH};
use sluice_auth::{
    AddressRule, Argon2Cost, Identity, Method, PasswordHash, Profile, Proof, RejectReason, format_timestamp,
    parse_timestamp,
};
use sluice_spi::config::{Section, format_duration};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use toml_edit::{Array, Value};

/// Smallest MTU that can be given: every IPv4 link carries 68 bytes (RFC 791, 3.2).
const MIN_MTU: u64 = 68;

/// Most simultaneous sessions that can be given.
const MAX_SESSIONS: u64 = 1_000_000;

/// Most groups of one user, and the longest name of a group in bytes: the policy looks each of them up for every
/// session and connection.
const MAX_GROUPS: usize = 64;
const MAX_GROUP: usize = 64;

/// Bounds of timeouts: shorter ones end sessions that are still being set up.
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(10)..=Duration::from_secs(365 * 86_400);

/// A user with a password of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// What it gets, and its name: as backends see it, with its realm where that is not stripped.
    pub profile: Profile,
    /// The hash of its password.
    pub password: Arc<PasswordHash>,
    /// The password itself, sealed.
    pub chap: Option<Envelope>,
    /// The NT hash of the password, sealed.
    pub nt_hash: Option<Envelope>,
    /// Whether it is locked out.
    pub disabled: bool,
    /// When it stops working.
    pub expires: Option<SystemTime>,
    /// The protocols it may use, by module name; `None`: all.
    pub protocols: Option<Vec<String>>,
}

/// Reads RFC 3339 text.
struct Timestamp(SystemTime);

impl FromStr for Timestamp {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        parse_timestamp(text).map(Timestamp).ok_or(())
    }
}

impl User {
    /// A user with nothing but defaults.
    pub fn new(name: Identity, password: PasswordHash) -> Self {
        Self {
            profile: Profile::new(name),
            password: Arc::new(password),
            chap: None,
            nt_hash: None,
            disabled: false,
            expires: None,
            protocols: None,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.profile.identity.as_str()
    }

    /// Whether there is what a method can be checked against.
    pub fn can_prove_by(&self, method: Method) -> bool {
        match method {
            Method::Pap | Method::Gssapi | Method::Certificate => true,
            Method::Chap => self.chap.is_some(),
            Method::MsChapV2 => self.nt_hash.is_some() || self.chap.is_some(),
        }
    }

    /// Whether an account whose password was right may be used at this time of day, by this protocol.
    pub fn admits(&self, protocol: &str, wall: SystemTime) -> Result<(), RejectReason> {
        if self.disabled {
            return Err(RejectReason::Disabled);
        }
        if self.expires.is_some_and(|expires| expires <= wall) {
            return Err(RejectReason::Expired);
        }
        match &self.protocols {
            Some(protocols) if !protocols.iter().any(|permitted| permitted == protocol) => {
                Err(RejectReason::NotPermitted)
            }
            _ => Ok(()),
        }
    }

    /// Reads one `[[user]]`; `None` where it lacks what every user needs, which is then reported. `protocols`
    /// are the names that there are.
    pub(crate) fn read(section: &Section<'_>, protocols: &[&str]) -> Option<Self> {
        let identity = read_name(section);
        let password = read_password(section);
        let (chap, nt_hash) = (read_sealed(section, CHAP), read_sealed(section, NT_HASH));
        let number = |key, range| section.optional_integer(key, range);
        let disabled = section.boolean("disabled", false);
        let expires: Option<Timestamp> = section.parsed(
            "expires",
            "a time such as \"2027-01-31\" or \"2027-01-31T12:00:00Z\"",
        );
        let permitted = read_protocols(section, protocols);
        let groups = read_groups(section);
        let pool =
            |key, example| section.parsed(key, &format!("\"pool\", \"pool:NAME\", \"none\" or {example}"));
        let ipv4 = pool("ipv4", "an IPv4 address").unwrap_or_default();
        let ipv6 = section
            .parsed(
                "ipv6",
                "\"pool\", \"pool:NAME\", \"none\" or a prefix such as \"2001:db8::/64\"",
            )
            .unwrap_or_default();
        let dns = section.list("dns", "an address such as \"192.0.2.53\"");
        let mtu = number("mtu", MIN_MTU..=u64::from(u16::MAX)).and_then(|mtu| u16::try_from(mtu).ok());
        let max_sessions = number("max_sessions", 1..=MAX_SESSIONS).and_then(|n| u32::try_from(n).ok());
        let session_timeout = section.optional_duration("session_timeout", TIMEOUTS);
        let idle_timeout = section.optional_duration("idle_timeout", TIMEOUTS);
        Some(Self {
            profile: Profile {
                identity: identity?,
                realm: None,
                groups,
                ipv4,
                ipv6,
                dns,
                mtu,
                max_sessions,
                session_timeout,
                idle_timeout,
                proof: Proof::default(),
            },
            password: Arc::new(password?),
            chap,
            nt_hash,
            disabled,
            expires: expires.map(|Timestamp(time)| time),
            protocols: permitted,
        })
    }

    /// Its keys in the file, in order; `None` where the default says the same.
    pub(crate) fn fields(&self) -> [(&'static str, Option<Value>); 15] {
        let Profile {
            groups,
            ipv4,
            ipv6,
            dns,
            mtu,
            max_sessions,
            session_timeout,
            idle_timeout,
            ..
        } = &self.profile;
        let list = |items: &[String]| Value::from(items.iter().map(String::as_str).collect::<Array>());
        let dns: Vec<String> = dns.iter().map(ToString::to_string).collect();
        let duration = |duration: &Option<Duration>| duration.map(|d| Value::from(format_duration(d)));
        [
            ("name", Some(self.name().into())),
            ("password", Some(self.password.to_phc().into())),
            (CHAP, self.chap.as_ref().map(|sealed| sealed.to_string().into())),
            (
                NT_HASH,
                self.nt_hash.as_ref().map(|sealed| sealed.to_string().into()),
            ),
            ("disabled", self.disabled.then(|| true.into())),
            ("expires", self.expires.map(|time| format_timestamp(time).into())),
            ("protocols", self.protocols.as_deref().map(list)),
            ("groups", (!groups.is_empty()).then(|| list(groups))),
            ("ipv4", address(ipv4)),
            ("ipv6", address(ipv6)),
            ("dns", (!dns.is_empty()).then(|| list(&dns))),
            ("mtu", mtu.map(|mtu| i64::from(mtu).into())),
            ("max_sessions", max_sessions.map(|n| i64::from(n).into())),
            ("session_timeout", duration(session_timeout)),
            ("idle_timeout", duration(idle_timeout)),
        ]
    }
}

fn address<T: std::fmt::Display + PartialEq>(rule: &AddressRule<T>) -> Option<Value> {
    (*rule != AddressRule::DefaultPool).then(|| rule.to_string().into())
}

fn read_name(section: &Section<'_>) -> Option<Identity> {
    let name = section.required_text("name");
    let identity = Identity::parse(name.as_bytes());
    if identity.is_none() && section.has("name") {
        section.report("name", "must be 1 to 255 bytes without control characters");
    }
    identity
}

/// Reads the hash. What stands there is never repeated: it may be a password in clear.
fn read_password(section: &Section<'_>) -> Option<PasswordHash> {
    let text = section.required_text("password");
    if !section.has("password") {
        return None;
    }
    match text.parse() {
        Ok(hash) => Some(hash),
        Err(error) => {
            let error: sluice_auth::PasswordHashError = error;
            section.report(
                "password",
                format!("{error}; `sluice users` makes users and sets passwords"),
            );
            None
        }
    }
}

/// Reads a sealed secret. What stands there is never repeated: it may be a password in clear.
fn read_sealed(section: &Section<'_>, key: &str) -> Option<Envelope> {
    let text = section.text(key)?;
    let sealed = text.parse();
    if let Err(error) = &sealed {
        let error: &crate::key_ring::NoEnvelope = error;
        section.report(key, format!("{error}; `sluice users passwd` makes them"));
    }
    sealed.ok()
}

fn read_protocols(section: &Section<'_>, known: &[&str]) -> Option<Vec<String>> {
    if !section.has("protocols") {
        return None;
    }
    let permitted: Vec<String> = section.list("protocols", "the name of a protocol");
    if permitted.is_empty() {
        section.report(
            "protocols",
            "must have one at least; to lock a user out: disabled = true",
        );
    }
    for name in &permitted {
        if !known.contains(&name.as_str()) {
            section.report(
                "protocols",
                format!("there is no protocol {name:?}, only {}", known.join(", ")),
            );
        }
    }
    Some(permitted)
}

fn read_groups(section: &Section<'_>) -> Vec<String> {
    let groups: Vec<String> = section.list("groups", "the name of a group");
    if groups.len() > MAX_GROUPS {
        section.report("groups", format!("there may be {MAX_GROUPS} at most"));
    }
    let fit = |name: &String| (1..=MAX_GROUP).contains(&name.len()) && !name.chars().any(char::is_control);
    if !groups.iter().all(fit) {
        section.report(
            "groups",
            format!("each must be 1 to {MAX_GROUP} bytes without control characters"),
        );
    }
    groups
}

/// The cost that most of the users' hashes have: what an unknown user is made to cost as well.
pub(crate) fn commonest_cost<'a>(users: impl Iterator<Item = &'a User>) -> Argon2Cost {
    let mut counts: std::collections::HashMap<Argon2Cost, usize> = std::collections::HashMap::new();
    for user in users {
        *counts.entry(user.password.cost()).or_default() += 1;
    }
    let rank =
        |(cost, count): &(Argon2Cost, usize)| (*count, cost.memory_kib() * cost.passes(), cost.lanes());
    counts
        .into_iter()
        .max_by_key(rank)
        .map_or(Argon2Cost::DEFAULT, |(cost, _)| cost)
}
