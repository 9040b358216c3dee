//! Configuration of a SOCKS listener.

mod gssapi;

pub use gssapi::{Gssapi, Minimum};

use crate::wire::{Command, method};
use sluice_auth::IpPrefix;
use sluice_spi::config::Section;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

/// Longest payload of a datagram that parts are put together to: what fits a UDP datagram of IPv4.
const MAX_DATAGRAM: u64 = 65_507;
/// Most octets that may be kept for a target before it is there: with one read of the gateway (16 KiB), what a relay
/// takes at its beginning (64 KiB).
const MAX_EARLY: u64 = 48 << 10;
/// Most rules about clients that need not authenticate: they are looked through for each connection.
const MAX_PREFIXES: usize = 1000;

/// How a client may authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// By name and password (RFC 1929).
    Password,
    /// By a security context (RFC 1961).
    Gssapi,
    /// Not at all, where [`Config::no_auth_from`] has the client's address.
    None,
}

impl AuthMethod {
    /// Its number in a greeting (RFC 1928, 3).
    pub fn number(self) -> u8 {
        match self {
            AuthMethod::Password => method::LOGIN,
            AuthMethod::Gssapi => method::GSSAPI,
            AuthMethod::None => method::NONE,
        }
    }
}

impl FromStr for AuthMethod {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "password" => Ok(AuthMethod::Password),
            "gssapi" => Ok(AuthMethod::Gssapi),
            "none" => Ok(AuthMethod::None),
            _ => Err(()),
        }
    }
}

/// How parts of datagrams are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reassembly {
    /// Longest life of an incomplete datagram.
    pub timeout: Duration,
    /// Longest payload.
    pub bytes: usize,
}

/// A set of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// SOCKS4 and SOCKS4a.
    pub v4: bool,
    /// SOCKS5.
    pub v5: bool,
}

/// Configuration of a listener.
#[derive(Clone, Debug)]
pub struct Config {
    /// Versions served. Connections of others are closed without an answer.
    pub versions: Versions,
    /// Methods, the best first.
    pub methods: Vec<AuthMethod>,
    /// How contexts are accepted; `None`: they are not.
    pub gssapi: Option<Gssapi>,
    /// Clients that need not authenticate. SOCKS4 is served to them alone, for it has no passwords.
    pub no_auth_from: Vec<IpPrefix>,
    /// Commands served.
    pub commands: Vec<Command>,
    /// Longest time from the connection to the end of the request.
    pub handshake_timeout: Duration,
    /// Longest wait of BIND for its connection.
    pub bind_timeout: Duration,
    /// What a client may send ahead of the answer to its request, in octets: more is left with the kernel.
    pub early_bytes: usize,
    /// How parts of datagrams are put together; `None`: they are dropped.
    pub udp_reassembly: Option<Reassembly>,
    /// Whether UDP ASSOCIATE is refused to clients that give another address than theirs.
    pub udp_strict_client: bool,
}

/// A version or command as configuration names it.
struct Word<T>(T);

impl FromStr for Word<u8> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "4" => Ok(Word(4)),
            "5" => Ok(Word(5)),
            _ => Err(()),
        }
    }
}

impl FromStr for Word<Command> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let found = Command::ALL.into_iter().find(|command| command.as_str() == text);
        found.map(Word).ok_or(())
    }
}

impl Config {
    /// Whether a client need not authenticate.
    pub fn trusts(&self, client: IpAddr) -> bool {
        self.methods.contains(&AuthMethod::None)
            && self.no_auth_from.iter().any(|prefix| prefix.contains(client))
    }

    /// Reads a listener's `socks` section. Problems are reported into the section.
    ///
    /// | key | default | meaning |
    /// |---|---|---|
    /// | `versions` | `["5", "4"]` | `5`: SOCKS5; `4`: SOCKS4 and SOCKS4a |
    /// | `methods` | `["password", "none", "gssapi"]` | of SOCKS5, the best first; `none` is for clients in `no_auth_from` only, `gssapi` needs a keytab |
    /// | `no_auth_from` | none | prefixes of clients that need not authenticate; SOCKS4 is for them only |
    /// | `commands` | all | `connect`, `bind`, `udp_associate` |
    /// | `handshake_timeout` | 10s | 1s to 2m, from the connection to the end of the request |
    /// | `bind_timeout` | 2m | 1s to 10m (SOCKS4's notes have 2 minutes) |
    /// | `early_bytes` | 16384 | 1 to 49152: what a client may send before it is answered |
    /// | `udp_fragments` | false | put parts of datagrams together (RFC 1928, 7: optional) |
    /// | `udp_fragment_timeout` | 5s | 5s (RFC 1928, 7: no less) to 1m |
    /// | `udp_fragment_bytes` | 65507 | 1 to 65507: longest payload put together |
    /// | `gssapi_keytab` | none | file with the keys of the service; without it there is no GSS-API (RFC 1961) |
    /// | `gssapi_principal` | `rcmd` | the service: `SERVICE`, `SERVICE@HOST`, or a principal; without a host any in the keytab |
    /// | `gssapi_protection` | `integrity` | what clients have to ask for at least: `none`, `integrity`, `confidentiality` |
    /// | `gssapi_nec` | false | take the protection level unwrapped too, as clients of NEC send it |
    /// | `udp_strict_client` | false | refuse UDP ASSOCIATE with another address than the client's, and hold it to its port |
    pub fn from_section(section: &Section<'_>) -> Self {
        let fragments = section.boolean("udp_fragments", false);
        let reassembly = Reassembly {
            timeout: section.duration("udp_fragment_timeout", seconds(5), seconds(5)..=seconds(60)),
            bytes: size(section, "udp_fragment_bytes", MAX_DATAGRAM, 1..=MAX_DATAGRAM),
        };
        let gssapi = Gssapi::from_section(section);
        let (methods, no_auth_from) = authentication(section, gssapi.is_some());
        Self {
            versions: versions(section),
            methods,
            gssapi,
            no_auth_from,
            commands: commands(section),
            handshake_timeout: section.duration("handshake_timeout", seconds(10), seconds(1)..=seconds(120)),
            bind_timeout: section.duration("bind_timeout", seconds(120), seconds(1)..=seconds(600)),
            early_bytes: size(section, "early_bytes", 16_384, 1..=MAX_EARLY),
            udp_reassembly: fragments.then_some(reassembly),
            udp_strict_client: section.boolean("udp_strict_client", false),
        }
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn size(section: &Section<'_>, key: &str, default: u64, range: std::ops::RangeInclusive<u64>) -> usize {
    usize::try_from(section.integer(key, default, range)).unwrap_or(usize::MAX)
}

/// A list that has a default where the file has no such key, and that must not be empty.
fn list<T: FromStr>(section: &Section<'_>, key: &str, wanted: &str, default: Vec<T>) -> Vec<T> {
    if !section.has(key) {
        return default;
    }
    let given = section.list(key, wanted);
    if given.is_empty() {
        section.report(key, "must name at least one");
    }
    given
}

fn versions(section: &Section<'_>) -> Versions {
    let given = list(section, "versions", "\"5\" or \"4\"", vec![Word(5), Word(4)]);
    let has = |version| given.iter().any(|Word(given)| *given == version);
    Versions {
        v4: has(4),
        v5: has(5),
    }
}

fn commands(section: &Section<'_>) -> Vec<Command> {
    let all = Command::ALL.map(Word).into();
    let wanted = "\"connect\", \"bind\" or \"udp_associate\"";
    let given: Vec<Word<Command>> = list(section, "commands", wanted, all);
    given.into_iter().map(|Word(command)| command).collect()
}

fn authentication(section: &Section<'_>, has_keytab: bool) -> (Vec<AuthMethod>, Vec<IpPrefix>) {
    // Clients offer GSS-API whether or not they have a ticket: last of all, it is for those who have nothing else.
    let mut all = vec![AuthMethod::Password, AuthMethod::None];
    all.extend(has_keytab.then_some(AuthMethod::Gssapi));
    let methods = list(section, "methods", "\"password\", \"gssapi\" or \"none\"", all);
    match (methods.contains(&AuthMethod::Gssapi), has_keytab) {
        (true, false) => section.report("methods", "\"gssapi\" needs gssapi_keytab"),
        (false, true) => section.report("gssapi_keytab", "needs \"gssapi\" in methods"),
        _ => {}
    }
    let no_auth_from: Vec<IpPrefix> =
        section.list("no_auth_from", "an address or prefix such as 192.0.2.0/24");
    if no_auth_from.len() > MAX_PREFIXES {
        section.report("no_auth_from", format!("must be at most {MAX_PREFIXES}"));
    }
    let without = methods.contains(&AuthMethod::None);
    if !without && !no_auth_from.is_empty() {
        section.report("no_auth_from", "needs \"none\" in methods");
    }
    if methods == [AuthMethod::None] && no_auth_from.is_empty() {
        section.report("methods", "serves nobody: \"none\" needs no_auth_from");
    }
    (methods, no_auth_from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_spi::config::read;

    fn config(text: &str) -> Config {
        read("a", text, Config::from_section).unwrap()
    }

    #[test]
    fn the_default_serves_all_versions_to_users_with_a_password() {
        let config = config("");
        assert_eq!(config.versions, Versions { v4: true, v5: true });
        assert_eq!(config.methods, [AuthMethod::Password, AuthMethod::None]);
        assert_eq!(config.commands, Command::ALL);
        assert_eq!(
            (config.handshake_timeout, config.bind_timeout, config.early_bytes),
            (seconds(10), seconds(120), 16_384)
        );
        assert_eq!((config.udp_reassembly, config.udp_strict_client), (None, false));
        assert!(!config.trusts([127, 0, 0, 1].into()));
    }

    #[test]
    fn trust_needs_the_address_and_the_method() {
        let some = config("no_auth_from = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n");
        assert!(some.trusts([192, 0, 2, 9].into()));
        assert!(some.trusts("::ffff:192.0.2.9".parse().unwrap()));
        assert!(some.trusts("2001:db8::1".parse().unwrap()));
        assert!(!some.trusts([192, 0, 3, 9].into()));
    }

    #[test]
    fn all_keys_are_read() {
        let config = config(
            "versions = [\"5\"]\nmethods = [\"none\"]\nno_auth_from = [\"::/0\"]\ncommands = [\"udp_associate\"]\n\
             handshake_timeout = \"3s\"\nbind_timeout = \"1m\"\nearly_bytes = 100\nudp_fragments = true\n\
             udp_fragment_timeout = \"7s\"\nudp_fragment_bytes = 9\nudp_strict_client = true\n",
        );
        assert_eq!(config.versions, Versions { v4: false, v5: true });
        assert_eq!(config.methods, [AuthMethod::None]);
        assert_eq!(config.commands, [Command::UdpAssociate]);
        assert_eq!(
            (config.handshake_timeout, config.bind_timeout),
            (seconds(3), seconds(60))
        );
        assert_eq!((config.early_bytes, config.udp_strict_client), (100, true));
        let reassembly = Reassembly {
            timeout: seconds(7),
            bytes: 9,
        };
        assert_eq!(config.udp_reassembly, Some(reassembly));
    }

    #[test]
    fn problems_name_their_keys() {
        let text = "versions = []\nmethods = [\"kerberos\"]\nno_auth_from = [\"300.0.0.0\"]\ncommands = [\"ping\"]\n\
                    handshake_timeout = \"0s\"\nbind_timeout = \"1h\"\nearly_bytes = 49153\n\
                    udp_fragment_timeout = \"4s\"\nudp_fragment_bytes = 65508\nudp_fragment = true\n";
        let problems = read("a", text, Config::from_section).unwrap_err();
        let mut keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        keys.dedup();
        assert_eq!(
            keys,
            [
                "versions",
                "methods",
                "no_auth_from",
                "commands",
                "handshake_timeout",
                "bind_timeout",
                "early_bytes",
                "udp_fragment_timeout",
                "udp_fragment_bytes",
                "udp_fragment"
            ]
        );
        let most = read("a", "early_bytes = 49152\n", Config::from_section).unwrap();
        assert_eq!(most.early_bytes, 49_152);
        for (text, key) in [
            ("methods = [\"none\"]\n", "methods"),
            (
                "methods = [\"password\"]\nno_auth_from = [\"::/0\"]\n",
                "no_auth_from",
            ),
        ] {
            let problems = read("a", text, Config::from_section).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].key, key);
        }
    }
}
