//! Dialling the gateway from a guest with `pptp` and `pppd`.

use super::dial::{Link, Xl2tpd};
use super::guest::Guest;

/// How `pptp` and `pppd` in a guest dial the gateway.
#[derive(Clone, Debug)]
pub struct Pptp(Xl2tpd);

impl Pptp {
    /// Dials with PAP and IPv6.
    pub fn new(server: &str, user: &str, password: &str) -> Self {
        Self(Xl2tpd::new(server, user, password))
    }

    /// Dials by another method of authentication than those that are refused, by pppd's names.
    pub fn refusing(mut self, methods: &[&'static str]) -> Self {
        self.0.refuses = methods.to_vec();
        self
    }

    /// Starts pppd in the guest, which starts pptp; it dials at once.
    #[track_caller]
    pub fn start(&self, guest: &mut Guest) {
        std::fs::write(guest.path("ppp.opts"), self.0.ppp_options()).unwrap();
        let _ = std::fs::remove_file(guest.path("pppd.log"));
        guest.must(&format!(
            ": >/run/ip-up; : >/run/ipv6-up\n\
             busybox setsid pppd nodetach pty 'pptp {} --nolaunchpppd --loglevel 2' file /mnt/ppp.opts \
             >/mnt/pptp.log 2>&1 &",
            self.0.server
        ));
    }

    /// Dials and waits until IPCP is up.
    #[track_caller]
    pub fn connect(&self, guest: &mut Guest) -> Link {
        self.start(guest);
        Xl2tpd::wait_up(guest, 30)
    }

    /// Ends pppd as a user would: it closes its link, and pptp then the call and the connection.
    #[track_caller]
    pub fn hang_up(guest: &mut Guest) {
        Xl2tpd::hang_up(guest);
    }
}
