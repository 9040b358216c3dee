//! Where users are kept and how their passwords are checked: `[users]` and `[realms.NAME]`.

use super::resolve;
use super::sections::size;
use sluice_auth::{IpPrefix, ProfileDefaults, Rate, Realm, RealmTable, ThrottleConfig, Unlisted};
use sluice_auth_backends::{CacheConfig, HashPoolConfig, VerifierKinds};
use sluice_core::PoolConfig;
use sluice_spi::config::Section;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86400);
/// Most failed logins a minute that can be allowed.
const MAX_FAILURES: u64 = 1_000_000;

/// `[users]` and `[realms.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Users {
    /// The users file.
    pub file: PathBuf,
    /// The keys of what is sealed in it.
    pub key_file: PathBuf,
    /// What new passwords are kept as, beside their Argon2id hash.
    pub verifiers: VerifierKinds,
    /// The certificates of EAP-TLS.
    pub certificates: Option<CertificateFiles>,
    /// The threads that hash passwords.
    pub hashing: HashPoolConfig,
    /// The cache of passwords that were right.
    pub cache: CacheConfig,
    /// Failed logins that are tolerated.
    pub throttle: ThrottleConfig,
    /// How a name's realm is treated.
    pub realms: RealmTable,
}

/// Reads both tables.
pub(super) fn read(root: &Section<'_>, state_dir: &Path, pools: &[PoolConfig]) -> Users {
    let section = root.section("users");
    Users {
        file: resolve(state_dir, &section.text_or("file", "users.toml")),
        key_file: resolve(state_dir, &section.text_or("key_file", "users.key")),
        verifiers: verifiers(&section),
        certificates: certificates(&section),
        hashing: hashing(&section),
        cache: cache(&section),
        throttle: throttle(&section),
        realms: realms(&section, root, pools),
    }
}

/// Files by which users prove themselves by certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The gateway's own certificate with its chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities that users' certificates are issued by.
    pub client_ca: PathBuf,
}

fn certificates(section: &Section<'_>) -> Option<CertificateFiles> {
    let keys = ["tls_certificate", "tls_key", "tls_client_ca"];
    match keys.map(|key| section.text(key).map(PathBuf::from)) {
        [Some(certificate), Some(key), Some(client_ca)] => Some(CertificateFiles {
            certificate,
            key,
            client_ca,
        }),
        [None, None, None] => None,
        _ => {
            section.report(
                "tls_certificate",
                "tls_certificate, tls_key and tls_client_ca go together",
            );
            None
        }
    }
}

fn verifiers(section: &Section<'_>) -> VerifierKinds {
    let names: Vec<String> = section.list("verifiers", "\"argon2id\", \"chap\" or \"nt\"");
    let has = |name: &str| names.iter().any(|known| known == name);
    if let Some(other) = names
        .iter()
        .find(|name| !["argon2id", "chap", "nt"].contains(&name.as_str()))
    {
        section.report(
            "verifiers",
            format!("there is no {other:?}, only \"argon2id\", \"chap\" and \"nt\""),
        );
    } else if section.has("verifiers") && !has("argon2id") {
        section.report("verifiers", "must have \"argon2id\": every password is kept so");
    }
    VerifierKinds {
        chap: has("chap"),
        nt: has("nt"),
    }
}

fn hashing(section: &Section<'_>) -> HashPoolConfig {
    let default = HashPoolConfig::default();
    let threads = section.optional_integer("hash_threads", 1..=64).map(size);
    let queue = section.optional_integer("hash_queue", 1..=1_000_000).map(size);
    HashPoolConfig {
        threads: threads.unwrap_or(default.threads),
        queue: queue.unwrap_or(default.queue),
        deadline: section.duration("hash_deadline", default.deadline, SECOND..=120 * SECOND),
    }
}

fn cache(section: &Section<'_>) -> CacheConfig {
    let default = CacheConfig::default();
    let slots = section.integer("cache_slots", u64::from(default.slots), 8..=16 << 20);
    CacheConfig {
        slots: u32::try_from(slots).unwrap_or(default.slots),
        ttl: section.duration("cache_time", default.ttl, Duration::ZERO..=30 * DAY),
    }
}

fn throttle(section: &Section<'_>) -> ThrottleConfig {
    let default = ThrottleConfig::default();
    let rate = |key: &str, default: Option<Rate>| {
        let default = default.map_or(0, |rate| u64::from(rate.failures));
        let failures = u32::try_from(section.integer(key, default, 0..=MAX_FAILURES)).unwrap_or(0);
        (failures > 0).then(|| Rate::per_minute(failures))
    };
    ThrottleConfig {
        per_user: rate("failures_per_user", default.per_user),
        per_source: rate("failures_per_source", default.per_source),
        exempt_sources: section.list::<IpPrefix>(
            "exempt_sources",
            "an address or a prefix such as \"192.0.2.0/24\"",
        ),
        capacity: default.capacity,
    }
}

fn realms(section: &Section<'_>, root: &Section<'_>, pools: &[PoolConfig]) -> RealmTable {
    let unlisted = section.choice(
        "unlisted_realms",
        Unlisted::Serve,
        &[("serve", Unlisted::Serve), ("refuse", Unlisted::Refuse)],
    );
    let default = section.text("default_realm");
    let sections = root.named_sections("realms");
    let realms = sections.iter().map(|(name, section)| realm(name, section, pools));
    RealmTable::new(realms.collect(), default.as_deref(), unlisted).unwrap_or_else(|error| {
        section.report("default_realm", error.to_string());
        RealmTable::default()
    })
}

fn realm(name: &str, section: &Section<'_>, pools: &[PoolConfig]) -> Realm {
    let pool = |key: &str| {
        let pool = section.text(key)?;
        if !pools.iter().any(|known| known.name == pool) {
            section.report(key, format!("there is no pool {pool:?}"));
        }
        Some(pool)
    };
    let year = 365 * DAY;
    let number = |key: &str, range| {
        let number = section.optional_integer(key, range)?;
        u32::try_from(number).ok()
    };
    Realm {
        name: name.to_owned(),
        strip: section.boolean("strip", false),
        backends: Vec::new(),
        defaults: ProfileDefaults {
            ipv4_pool: pool("ipv4_pool"),
            ipv6_pool: pool("ipv6_pool"),
            dns: section.list("dns", "an address such as \"192.0.2.53\""),
            mtu: number("mtu", 68..=65535).and_then(|mtu| u16::try_from(mtu).ok()),
            max_sessions: number("max_sessions", 1..=1_000_000),
            session_timeout: section.optional_duration("session_timeout", 10 * SECOND..=year),
            idle_timeout: section.optional_duration("idle_timeout", 10 * SECOND..=year),
        },
    }
}
