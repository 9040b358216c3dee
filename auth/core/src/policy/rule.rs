//! Rules as they are written.

use super::effects::Effects;
use crate::IpPrefix;
use crate::host::{BadHost, HostName};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// What a client asks for. A new kind of request is one more variant and its line in [`Command::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Command {
    /// A session of a tunnel: link and addresses, without a destination.
    Session,
    /// A connection to a destination.
    Connect,
    /// Waiting for a connection from a destination.
    Bind,
    /// Datagrams to and from destinations.
    Udp,
}

impl Command {
    /// Every command, in order.
    pub const ALL: [Command; 4] = [Command::Session, Command::Connect, Command::Bind, Command::Udp];

    /// The word for it in the configuration, the API and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Session => "session",
            Command::Connect => "connect",
            Command::Bind => "bind",
            Command::Udp => "udp",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// No command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("none of session, connect, bind, udp")]
pub struct UnknownCommand;

impl FromStr for Command {
    type Err = UnknownCommand;

    fn from_str(text: &str) -> Result<Self, UnknownCommand> {
        let found = Self::ALL.into_iter().find(|command| command.as_str() == text);
        found.ok_or(UnknownCommand)
    }
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is carried out.
    Allow,
    /// It is refused.
    Deny,
}

impl Action {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Allow => "allow",
            Action::Deny => "deny",
        }
    }
}

/// Users that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UserPattern {
    /// Whoever has authenticated: `*`.
    Authenticated,
    /// All of a realm, in lower case: `@isp.example`.
    Realm(String),
    /// One user, by the exact name that backends know it by.
    Name(String),
}

/// Text that is no user pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not \"*\", \"@REALM\" or the name of a user")]
pub struct BadUserPattern;

impl FromStr for UserPattern {
    type Err = BadUserPattern;

    fn from_str(text: &str) -> Result<Self, BadUserPattern> {
        match (text, text.strip_prefix('@')) {
            ("*", _) => Ok(Self::Authenticated),
            ("" | "@", _) => Err(BadUserPattern),
            (_, _) if text.chars().any(char::is_control) || text.len() > crate::MAX_NAME => {
                Err(BadUserPattern)
            }
            (_, Some(realm)) if realm.contains('@') => Err(BadUserPattern),
            (_, Some(realm)) => Ok(Self::Realm(realm.to_ascii_lowercase())),
            (_, None) => Ok(Self::Name(text.to_owned())),
        }
    }
}

/// Names that a rule is about. Labels are compared as a whole: `evil-example.com` is not below `example.com`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DomainPattern {
    /// Any name: `*`.
    Any,
    /// This name alone: `example.com`.
    Exact(HostName),
    /// The names below, without the name itself: `*.example.com`.
    Below(HostName),
    /// The name and all below it: `.example.com`.
    Within(HostName),
}

impl DomainPattern {
    /// Whether it means a name.
    pub fn matches(&self, name: &HostName) -> bool {
        let below = |suffix: &HostName| {
            let head = name.as_str().strip_suffix(suffix.as_str());
            head.is_some_and(|head| head.ends_with('.'))
        };
        match self {
            DomainPattern::Any => true,
            DomainPattern::Exact(exact) => exact == name,
            DomainPattern::Below(suffix) => below(suffix),
            DomainPattern::Within(suffix) => suffix == name || below(suffix),
        }
    }
}

impl FromStr for DomainPattern {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return suffix.parse().map(Self::Below);
        }
        match text.strip_prefix('.') {
            Some(suffix) => suffix.parse().map(Self::Within),
            None => text.parse().map(Self::Exact),
        }
    }
}

/// Ports from one to another, both included, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Text that is no port range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a port or a range such as \"8000-8999\"")]
pub struct BadPortRange;

impl PortRange {
    /// `None` where it is empty or has port 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(&self) -> u16 {
        self.last
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = BadPortRange;

    fn from_str(text: &str) -> Result<Self, BadPortRange> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse().ok() } else { None }
        };
        port(first)
            .zip(port(last))
            .and_then(|(first, last)| Self::new(first, last))
            .ok_or(BadPortRange)
    }
}

/// What a rule is about. Values of one matcher are alternatives; all matchers must hold; an empty one always does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matchers {
    /// Names of listeners.
    pub listeners: Vec<String>,
    /// Names of protocol modules.
    pub protocols: Vec<String>,
    /// Addresses of clients. A request without a known client address matches none.
    pub clients: Vec<IpPrefix>,
    /// Users. A request without a user matches none.
    pub users: Vec<UserPattern>,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// Commands.
    pub commands: Vec<Command>,
    /// Addresses of destinations, and IPv4 addresses embedded in them.
    pub destinations: Vec<IpPrefix>,
    /// Names of destinations. A request that gave an address matches none.
    pub domains: Vec<DomainPattern>,
    /// Ports of destinations.
    pub ports: Vec<PortRange>,
}

impl Matchers {
    /// Whether it is about destinations: such a rule never matches a command that has none.
    pub fn about_destinations(&self) -> bool {
        !(self.destinations.is_empty() && self.domains.is_empty() && self.ports.is_empty())
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name for people; may be empty.
    pub name: String,
    /// Its line in the configuration, from 1; 0 where it comes from elsewhere.
    pub line: usize,
    /// What becomes of requests it matches.
    pub action: Action,
    /// What it is about.
    pub matchers: Matchers,
    /// What it gives, where it allows.
    pub effects: Effects,
}

/// The matchers in the order in which they are tried by [`explain`](super::Policy::explain).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matcher {
    /// The command.
    Command,
    /// The listener.
    Listener,
    /// The protocol.
    Protocol,
    /// The client's address.
    Client,
    /// The user.
    User,
    /// The user's groups.
    Group,
    /// The destination's port.
    Port,
    /// The destination's name.
    Domain,
    /// The destination's address.
    Destination,
    /// The destination is special and the rule, which allows, does not list it.
    Special,
}

impl Matcher {
    /// The word for it: the key of the configuration, where it is one.
    pub fn as_str(self) -> &'static str {
        match self {
            Matcher::Command => "commands",
            Matcher::Listener => "listeners",
            Matcher::Protocol => "protocols",
            Matcher::Client => "clients",
            Matcher::User => "users",
            Matcher::Group => "groups",
            Matcher::Port => "ports",
            Matcher::Domain => "domains",
            Matcher::Destination => "destinations",
            Matcher::Special => "special",
        }
    }
}

/// A prefix within IPv6's mapped IPv4 addresses as the IPv4 prefix; others as they are.
pub(super) fn unmapped(prefix: IpPrefix) -> IpPrefix {
    let IpAddr::V6(v6) = prefix.address() else {
        return prefix;
    };
    let v4 = v6.to_ipv4_mapped().zip(prefix.length().checked_sub(96));
    v4.and_then(|(address, length)| IpPrefix::new(address.into(), length))
        .unwrap_or(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_of_labels_not_of_letters() {
        let matches = |pattern: &str, name: &str| {
            let pattern: DomainPattern = pattern.parse().unwrap();
            pattern.matches(&name.parse().unwrap())
        };
        for (pattern, name, wanted) in [
            ("example.com", "EXAMPLE.com.", true),
            ("example.com", "www.example.com", false),
            (".example.com", "example.com", true),
            (".example.com", "a.b.example.com", true),
            (".example.com", "evil-example.com", false),
            (".example.com", "example.com.evil.example", false),
            ("*.example.com", "example.com", false),
            ("*.Example.com.", "www.example.com", true),
            ("*.example.com", "evil-example.com", false),
            (".bücher.example", "www.xn--bcher-kva.example", true),
            (".com", "example.com", true),
            ("*", "anything.example", true),
        ] {
            assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
        }
        for text in [
            "",
            ".",
            "*.",
            "**",
            "a*.example",
            "*.*.example",
            "192.0.2.1",
            "127.1",
            "[::1]",
        ] {
            assert!(text.parse::<DomainPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn users_commands_and_ports_read_as_written() {
        assert_eq!("*".parse(), Ok(UserPattern::Authenticated));
        assert_eq!(
            "@ISP.example".parse(),
            Ok(UserPattern::Realm("isp.example".into()))
        );
        assert_eq!(
            "ann@isp.example".parse(),
            Ok(UserPattern::Name("ann@isp.example".into()))
        );
        for text in ["", "@", "@a@b", "a\nb"] {
            assert_eq!(text.parse::<UserPattern>(), Err(BadUserPattern), "{text:?}");
        }
        for command in Command::ALL {
            assert_eq!(command.as_str().parse(), Ok(command));
        }
        assert!("Connect".parse::<Command>().is_err());
        assert_eq!("443".parse::<PortRange>().ok(), PortRange::new(443, 443));
        assert_eq!("1-65535".parse::<PortRange>().ok(), PortRange::new(1, 65535));
        for text in ["", "0", "-", "1-", "-1", "2-1", "65536", "+1", "1-2-3", "http"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn mapped_prefixes_mean_ipv4() {
        let unmapped = |text: &str| unmapped(text.parse().unwrap()).to_string();
        assert_eq!(unmapped("::ffff:10.0.0.0/104"), "10.0.0.0/8");
        assert_eq!(unmapped("::ffff:0:0/96"), "0.0.0.0/0");
        assert_eq!(unmapped("::/0"), "::/0");
        assert_eq!(unmapped("::ffff:0:0/95"), "::fffe:0:0/95");
    }
}
