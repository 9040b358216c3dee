//! The gateway's own listeners, as destinations.

use super::special::canonical;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// The addresses and ports on which the gateway itself listens. A client that reached them through the gateway
/// would come from an address that is trusted more than its own, or in a circle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// All ports, sorted: most destinations have another one, and that is quickly seen.
    ports: Vec<u16>,
    exact: HashSet<SocketAddr>,
    wildcard: HashSet<u16>,
    host: HashSet<IpAddr>,
}

impl Own {
    /// `listeners` are all listening addresses, those of the admin plane and of metrics as well; `host` all
    /// addresses of this host, and those that are translated to it by others.
    ///
    /// A listener on 0.0.0.0 or :: is on every address of the host and on loopback, whatever the family: a
    /// socket on :: may take IPv4 too.
    pub fn new(
        listeners: impl IntoIterator<Item = SocketAddr>,
        host: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let mut own = Self {
            host: host.into_iter().map(canonical).collect(),
            ..Self::default()
        };
        for listener in listeners {
            let (ip, port) = (canonical(listener.ip()), listener.port());
            own.ports.push(port);
            if ip.is_unspecified() {
                own.wildcard.insert(port);
            } else {
                own.exact.insert(SocketAddr::new(ip, port));
            }
        }
        own.ports.sort_unstable();
        own.ports.dedup();
        own
    }

    /// Whether the gateway listens there.
    pub fn has(&self, address: IpAddr, port: u16) -> bool {
        if self.ports.binary_search(&port).is_err() {
            return false;
        }
        let address = canonical(address);
        let here = || address.is_loopback() || address.is_unspecified() || self.host.contains(&address);
        // An unspecified destination is the loopback interface.
        self.exact.contains(&SocketAddr::new(address, port))
            || (self.wildcard.contains(&port) && here())
            || (address.is_unspecified()
                && self
                    .exact
                    .iter()
                    .any(|own| own.port() == port && own.ip().is_loopback()))
    }
}

#[cfg(test)]
mod tests {
    use super::Own;
    use std::net::IpAddr;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_wildcard_listens_on_every_address_of_the_host() {
        let own = Own::new(
            ["[::]:1080".parse().unwrap(), "127.0.0.1:8701".parse().unwrap()],
            [ip("203.0.113.1"), ip("2001:db8::1")],
        );
        for address in [
            "203.0.113.1",
            "2001:db8::1",
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::ffff:203.0.113.1",
        ] {
            assert!(own.has(ip(address), 1080), "{address}");
        }
        assert!(!own.has(ip("203.0.113.2"), 1080));
        assert!(!own.has(ip("203.0.113.1"), 1081));
        assert!(own.has(ip("127.0.0.1"), 8701));
        assert!(own.has(ip("0.0.0.0"), 8701));
        assert!(!own.has(ip("203.0.113.1"), 8701));
        assert!(!Own::default().has(ip("127.0.0.1"), 80));
    }
}
