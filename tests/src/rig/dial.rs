//! Dialling the gateway from a guest with `xl2tpd` and `pppd`.

use super::guest::Guest;
use std::net::Ipv4Addr;

/// How `xl2tpd` and `pppd` in a guest dial the gateway.
#[derive(Clone, Debug)]
pub struct Xl2tpd {
    /// Address of the gateway.
    pub server: String,
    /// PPP user name.
    pub user: String,
    /// PPP password.
    pub password: String,
    /// Tunnel secret; `None`: no challenge is answered.
    pub secret: Option<String>,
    /// Whether the client challenges the gateway too.
    pub challenge: bool,
    /// Methods by which the client does not prove who it is, by pppd's names.
    pub refuses: Vec<&'static str>,
    /// More lines for pppd's options.
    pub ppp: Vec<String>,
}

/// A PPP link as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The interface, such as `ppp0`.
    pub interface: String,
    /// The client's address.
    pub local: Ipv4Addr,
    /// The gateway's address on the link.
    pub remote: Ipv4Addr,
    /// Name servers the client was told.
    pub dns: Vec<Ipv4Addr>,
}

/// Files of a connection in the guest's `/mnt`.
const LOGS: [&str; 2] = ["pppd.log", "xl2tpd.log"];

impl Xl2tpd {
    /// Dials with PAP and IPv6, and without a tunnel secret.
    pub fn new(server: &str, user: &str, password: &str) -> Self {
        Self {
            server: server.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
            secret: None,
            challenge: false,
            refuses: vec!["chap", "mschap", "mschap-v2", "eap"],
            ppp: Vec::new(),
        }
    }

    /// What pppd is told of who dials.
    pub(super) fn ppp_options(&self) -> String {
        let options = [
            "noauth",
            "debug",
            "logfile /mnt/pppd.log",
            "noipdefault",
            "nodefaultroute",
            "noproxyarp",
            "usepeerdns",
            "maxfail 1",
            "+ipv6",
        ];
        let mut text = options.join("\n");
        text.push_str(&format!(
            "\nuser \"{}\"\npassword \"{}\"\n",
            self.user, self.password
        ));
        for method in &self.refuses {
            text.push_str(&format!("refuse-{method}\n"));
        }
        for line in &self.ppp {
            text.push_str(&format!("{line}\n"));
        }
        text
    }

    fn configuration(&self) -> String {
        let challenge = if self.challenge { "yes" } else { "no" };
        format!(
            "[global]\nport = 1701\nauth file = /run/l2tp-secrets\n[lac gateway]\nlns = {}\n\
             pppoptfile = /mnt/ppp.opts\nlength bit = yes\nautodial = yes\nredial = no\nname = rigclient\n\
             challenge = {challenge}\n",
            self.server
        )
    }

    /// Starts xl2tpd in the guest; it dials at once.
    #[track_caller]
    pub fn start(&self, guest: &mut Guest) {
        // xl2tpd takes quotes in its secrets file for a part of the secret.
        let secrets = self
            .secret
            .as_ref()
            .map(|secret| format!("* * {secret}\n"))
            .unwrap_or_default();
        std::fs::write(guest.path("ppp.opts"), self.ppp_options()).unwrap();
        std::fs::write(guest.path("xl2tpd.conf"), self.configuration()).unwrap();
        std::fs::write(guest.path("secrets"), secrets).unwrap();
        for log in LOGS {
            let _ = std::fs::remove_file(guest.path(log));
        }
        guest.must(
            "umask 077; cp /mnt/secrets /run/l2tp-secrets; : >/run/ip-up; : >/run/ipv6-up\n\
             busybox setsid xl2tpd -D -c /mnt/xl2tpd.conf -C /run/l2tp-control -p /run/xl2tpd.pid >/mnt/xl2tpd.log 2>&1 &",
        );
    }

    /// Dials and waits until IPCP is up.
    #[track_caller]
    pub fn connect(&self, guest: &mut Guest) -> Link {
        self.start(guest);
        Self::wait_up(guest, 20)
    }

    /// Ends the connection, if it is up, and then xl2tpd, which stops its tunnel. Waits until all of it is gone.
    #[track_caller]
    pub fn stop(guest: &mut Guest) {
        if guest.run("pidof pppd").code == 0 {
            Self::hang_up(guest);
        }
        Self::shut_down(guest);
    }

    /// Ends xl2tpd as the shutdown of its machine would: it stops its tunnel, whatever is in it. Waits until it is
    /// gone; what it leaves of pppd is killed, which would only find out slowly that nobody answers any more.
    #[track_caller]
    pub fn shut_down(guest: &mut Guest) {
        guest.must("kill -TERM $(pidof xl2tpd)");
        let gone = guest.until(15, "! pidof xl2tpd >/dev/null");
        assert!(gone, "xl2tpd did not end");
        guest.run("kill -KILL $(pidof pppd)");
    }

    /// Ends pppd in the guest as a user would: it closes its link, and xl2tpd then the call.
    #[track_caller]
    pub fn hang_up(guest: &mut Guest) {
        guest.must("kill -TERM $(pidof pppd)");
        Self::wait_hung_up(guest, 15);
    }

    /// Waits until pppd has ended, however it came to that.
    #[track_caller]
    pub fn wait_hung_up(guest: &mut Guest, seconds: u32) {
        let gone = guest.until(seconds, "! pidof pppd >/dev/null");
        assert!(gone, "pppd still runs");
    }

    /// Waits until IPCP is up.
    #[track_caller]
    pub fn wait_up(guest: &mut Guest, seconds: u32) -> Link {
        let up = guest.until(seconds, "[ -s /run/ip-up ]");
        assert!(up, "the link did not come up");
        let text = guest.must("tail -n 1 /run/ip-up");
        let mut words = text.split_whitespace();
        let interface = words.next().unwrap_or_default().to_owned();
        let mut addresses = words.map(|word| word.parse().unwrap_or_else(|_| panic!("no address: {text}")));
        Link {
            interface,
            local: addresses.next().expect("the client's address"),
            remote: addresses.next().expect("the gateway's address"),
            dns: addresses.collect(),
        }
    }
}

impl Link {
    /// Waits for the link-local addresses of IPv6: the client's and the gateway's.
    #[track_caller]
    pub fn wait_ipv6(&self, guest: &mut Guest, seconds: u32) -> [String; 2] {
        let up = guest.until(seconds, "[ -s /run/ipv6-up ]");
        assert!(up, "IPv6 did not come up");
        let text = guest.must("tail -n 1 /run/ipv6-up");
        let words: Vec<&str> = text.split_whitespace().collect();
        let [_, local, remote] = words[..] else {
            panic!("ipv6-up was called with {text}");
        };
        [local.to_owned(), remote.to_owned()]
    }

    /// Waits for an address that the client has made from a router advertisement.
    #[track_caller]
    pub fn wait_advertised(&self, guest: &mut Guest, seconds: u32) -> std::net::Ipv6Addr {
        let show = format!(
            "ip -6 -o addr show dev {} scope global -tentative",
            self.interface
        );
        let found = guest.until(seconds, &format!("{show} | grep -q inet6"));
        assert!(found, "no router advertisement gave an address");
        let text = guest.must(&show);
        let address = text
            .split_whitespace()
            .nth(3)
            .and_then(|word| word.split('/').next());
        address
            .and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("{text}"))
    }
}
