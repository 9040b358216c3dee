//! Realms: which of them are served, how a name is looked up, and what a realm's users get by default.

use crate::{AddressRule, Identity, Profile};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// Longest realm, in bytes: that of a domain name (RFC 1035, 2.3.4; RFC 7542, 2.2 makes a realm one).
const MAX_REALM: usize = 253;

/// What fills the gaps of a user's profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileDefaults {
    /// Pool of IPv4 addresses, in place of the gateway's default pool.
    pub ipv4_pool: Option<String>,
    /// Pool of IPv6 prefixes, in place of the gateway's default pool.
    pub ipv6_pool: Option<String>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Largest IP packet towards the user, in bytes.
    pub mtu: Option<u16>,
    /// Simultaneous sessions of one user.
    pub max_sessions: Option<u32>,
    /// Longest life of a session.
    pub session_timeout: Option<Duration>,
    /// Longest silence of a session.
    pub idle_timeout: Option<Duration>,
}

impl ProfileDefaults {
    /// Fills what the profile leaves open. What the user has of its own stays.
    pub fn fill(&self, profile: &mut Profile) {
        if let (AddressRule::DefaultPool, Some(pool)) = (&profile.ipv4, &self.ipv4_pool) {
            profile.ipv4 = AddressRule::Pool(pool.clone());
        }
        if let (AddressRule::DefaultPool, Some(pool)) = (&profile.ipv6, &self.ipv6_pool) {
            profile.ipv6 = AddressRule::Pool(pool.clone());
        }
        if profile.dns.is_empty() {
            profile.dns.clone_from(&self.dns);
        }
        profile.mtu = profile.mtu.or(self.mtu);
        profile.max_sessions = profile.max_sessions.or(self.max_sessions);
        profile.session_timeout = profile.session_timeout.or(self.session_timeout);
        profile.idle_timeout = profile.idle_timeout.or(self.idle_timeout);
    }
}

/// A realm that is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Realm {
    /// Its name, compared without regard to case.
    pub name: String,
    /// Whether backends see the name without the realm.
    pub strip: bool,
    /// Names of the backends that are asked, in order; empty: all, in the gateway's order.
    pub backends: Vec<String>,
    /// What its users get where their own profile says nothing.
    pub defaults: ProfileDefaults,
}

/// What happens to a name with a realm that is in no table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// It is looked up as it is, realm included.
    #[default]
    Serve,
    /// It is refused.
    Refuse,
}

/// Why a realm table cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RealmError {
    /// Not a name that a realm can have.
    #[error("{0:?} cannot be a realm: 1 to 253 characters without @, blanks and control characters")]
    Name(String),
    /// Listed twice.
    #[error("the realm {0} is listed twice")]
    Twice(String),
    /// The default realm is not in the table.
    #[error("the default realm {0} is not one of the realms")]
    NoDefault(String),
}

/// How a name is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved<'a> {
    /// The name that backends see. Realms in it are in lower case where the table lists them.
    pub name: String,
    /// The realm's entry; `None`: no realm applies.
    pub realm: Option<&'a Realm>,
}

/// The realms of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RealmTable {
    realms: BTreeMap<String, Realm>,
    default: Option<String>,
    unlisted: Unlisted,
}

fn is_realm_name(name: &str) -> bool {
    let allowed = |c: char| c != '@' && !c.is_whitespace() && !c.is_control();
    !name.is_empty() && name.len() <= MAX_REALM && name.chars().all(allowed)
}

impl RealmTable {
    /// Makes a table. `default` is the realm of names that have none: it must be one of `realms`.
    pub fn new(realms: Vec<Realm>, default: Option<&str>, unlisted: Unlisted) -> Result<Self, RealmError> {
        let mut table = Self {
            realms: BTreeMap::new(),
            default: default.map(str::to_ascii_lowercase),
            unlisted,
        };
        for mut realm in realms {
            if !is_realm_name(&realm.name) {
                return Err(RealmError::Name(realm.name));
            }
            realm.name.make_ascii_lowercase();
            if table.realms.contains_key(&realm.name) {
                return Err(RealmError::Twice(realm.name));
            }
            table.realms.insert(realm.name.clone(), realm);
        }
        match &table.default {
            Some(name) if !table.realms.contains_key(name) => Err(RealmError::NoDefault(name.clone())),
            _ => Ok(table),
        }
    }

    /// How a name is looked up; `None`: its realm is not served.
    pub fn resolve(&self, identity: &Identity) -> Option<Resolved<'_>> {
        let realm = match (identity.realm(), &self.default) {
            (Some(name), _) => match self.realms.get(&name.to_ascii_lowercase()) {
                None if self.unlisted == Unlisted::Refuse => return None,
                found => found,
            },
            (None, Some(default)) => self.realms.get(default),
            (None, None) => None,
        };
        let name = match realm {
            None => identity.as_str().to_owned(),
            Some(realm) if realm.strip => identity.user().to_owned(),
            Some(realm) => format!("{}@{}", identity.user(), realm.name),
        };
        Some(Resolved { name, realm })
    }

    /// All realms, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Realm> {
        self.realms.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(name: &str, strip: bool) -> Realm {
        Realm {
            name: name.to_owned(),
            strip,
            ..Realm::default()
        }
    }

    fn lookup(table: &RealmTable, name: &str) -> Option<(String, Option<String>)> {
        let identity = Identity::parse(name.as_bytes()).unwrap();
        let resolved = table.resolve(&identity)?;
        Some((resolved.name, resolved.realm.map(|realm| realm.name.clone())))
    }

    fn found(name: &str, realm: &str) -> Option<(String, Option<String>)> {
        Some((name.to_owned(), (!realm.is_empty()).then(|| realm.to_owned())))
    }

    #[test]
    fn without_a_table_names_are_looked_up_as_they_are() {
        let table = RealmTable::default();
        assert_eq!(lookup(&table, "bob"), found("bob", ""));
        assert_eq!(lookup(&table, "bob@Home.example"), found("bob@Home.example", ""));
    }

    #[test]
    fn listed_realms_are_stripped_or_kept_whatever_their_case() {
        let realms = vec![realm("ISP.example", true), realm("corp.example", false)];
        let table = RealmTable::new(realms, None, Unlisted::Refuse).unwrap();
        assert_eq!(lookup(&table, "bob@isp.EXAMPLE"), found("bob", "isp.example"));
        assert_eq!(
            lookup(&table, "bob@Corp.example"),
            found("bob@corp.example", "corp.example")
        );
        assert_eq!(lookup(&table, "bob"), found("bob", ""));
        assert_eq!(lookup(&table, "bob@other.example"), None);
        assert_eq!(
            lookup(&table, "bob@corp.example@isp.example"),
            found("bob@corp.example", "isp.example")
        );
    }

    #[test]
    fn the_default_realm_is_that_of_bare_names() {
        let kept = RealmTable::new(
            vec![realm("a.example", false)],
            Some("A.example"),
            Unlisted::Serve,
        )
        .unwrap();
        assert_eq!(lookup(&kept, "bob"), found("bob@a.example", "a.example"));
        assert_eq!(lookup(&kept, "bob@b.example"), found("bob@b.example", ""));
        let stripped =
            RealmTable::new(vec![realm("a.example", true)], Some("a.example"), Unlisted::Serve).unwrap();
        assert_eq!(lookup(&stripped, "bob"), found("bob", "a.example"));
    }

    #[test]
    fn bad_tables_are_refused() {
        let make = |realms, default| RealmTable::new(realms, default, Unlisted::Serve).unwrap_err();
        assert_eq!(
            make(vec![realm("a@b", true)], None),
            RealmError::Name("a@b".into())
        );
        assert_eq!(make(vec![realm("", true)], None), RealmError::Name(String::new()));
        assert_eq!(
            make(vec![realm("a", true), realm("A", false)], None),
            RealmError::Twice("a".into())
        );
        assert_eq!(
            make(vec![realm("a", true)], Some("b")),
            RealmError::NoDefault("b".into())
        );
    }

    #[test]
    fn defaults_fill_only_what_is_open() {
        let defaults = ProfileDefaults {
            ipv4_pool: Some("gold".into()),
            ipv6_pool: Some("gold6".into()),
            dns: vec!["192.0.2.53".parse().unwrap()],
            mtu: Some(1400),
            max_sessions: Some(2),
            session_timeout: Some(Duration::from_secs(3600)),
            idle_timeout: Some(Duration::from_secs(60)),
        };
        let mut profile = Profile::new(Identity::parse(b"bob").unwrap());
        profile.ipv6 = AddressRule::None;
        profile.max_sessions = Some(9);
        defaults.fill(&mut profile);
        assert_eq!(profile.ipv4, AddressRule::Pool("gold".into()));
        assert_eq!(profile.ipv6, AddressRule::None);
        assert_eq!((profile.mtu, profile.max_sessions), (Some(1400), Some(9)));
        assert_eq!(profile.dns, defaults.dns);
        assert_eq!(profile.idle_timeout, defaults.idle_timeout);
        assert_eq!(profile.session_timeout, defaults.session_timeout);
    }
}
