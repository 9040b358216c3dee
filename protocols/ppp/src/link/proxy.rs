//! Going on from where a LAC got to with the peer (RFC 2661, 4.4.5).

use super::Ppp;
use crate::api::Proxy;
use crate::config::{MIN_MRU, ProxyPolicy};
use crate::fsm::State;
use crate::lcp::LcpValues;
use crate::wire::{AuthOffer, LcpOption, OptionWalk};
use sluice_auth::{Method, Secret};
use sluice_spi::Severity;
use std::time::Instant;

/// Values of the Proxy Authen Type AVP (RFC 2661, 4.4.5) that carry a password.
const TYPE_TEXT: u16 = 1;
const TYPE_PAP: u16 = 3;
/// Identifier of our next LCP packet when the LAC's last is not known. High, so that it is unlikely to be one
/// that the LAC has used lately.
const FIRST_ID: u8 = 0x80;

/// A name and password that a LAC collected.
struct Login {
    name: Vec<u8>,
    password: Secret,
    /// Identifier of the peer's request where it was PAP.
    id: Option<u8>,
}

impl Ppp {
    /// Whether the link went on from the LAC's negotiation; false: LCP is still to be negotiated.
    pub(super) fn start_from_proxy(&mut self, proxy: Proxy, now: Instant) -> bool {
        if !self.server || self.config.proxy == ProxyPolicy::Ignore {
            return false;
        }
        let sent = proxy.last_sent.as_deref().and_then(agreed);
        let received = proxy.last_received.as_deref().and_then(agreed);
        if let Some(sent) = &sent {
            self.lcp.options.start_from(sent);
        }
        let (Some(ours), Some(peer)) = (sent, received) else {
            if proxy.last_sent.is_some() || proxy.last_received.is_some() {
                self.renegotiate("the LAC and the peer agreed on options that are not spoken here");
            }
            return false;
        };
        if self.config.proxy == ProxyPolicy::Renegotiate {
            return false;
        }
        if peer.auth.is_some() {
            self.renegotiate("the peer wants us to authenticate");
            return false;
        }
        let login = match proxy.auth_type {
            Some(TYPE_PAP | TYPE_TEXT) => proxy_login(proxy),
            // The LAC did not authenticate: the peer, asked for PAP, repeats its request until it is answered.
            None if ours.auth.is_some() => None,
            _ => {
                self.renegotiate("the LAC authenticated the peer by a method that is not spoken here");
                return false;
            }
        };
        if login.is_none() && ours.auth.is_none() {
            self.renegotiate("the LAC passed on no password");
            return false;
        }
        self.go_on(ours, peer, login, now);
        true
    }

    fn renegotiate(&mut self, why: &str) {
        self.out
            .notice(Severity::Info, format!("LCP is negotiated anew: {why}"));
    }

    fn go_on(&mut self, ours: LcpValues, peer: LcpValues, login: Option<Login>, now: Instant) {
        self.lcp.options.adopt(ours, peer);
        self.lcp.resume(State::Opened, FIRST_ID);
        match login {
            // Where the LAC asked for the password by other means than PAP, the peer expects no more questions.
            Some(login) => {
                self.announce_link(now);
                let answer_to = login.id.filter(|_| ours.auth.is_some());
                self.begin_proxy_auth(&login.name, login.password, answer_to, now);
            }
            None => self.on_lcp_up(now),
        }
    }
}

/// The password of Proxy Authen types 1 and 3, which need a name and a response.
fn proxy_login(proxy: Proxy) -> Option<Login> {
    let is_pap = proxy.auth_type == Some(TYPE_PAP);
    Some(Login {
        name: proxy.name?,
        password: proxy.response?,
        id: is_pap.then(|| proxy.id.unwrap_or(0)),
    })
}

/// The values of a Configure-Request that was acknowledged. `None`: it has what we could not have agreed to.
fn agreed(options: &[u8]) -> Option<LcpValues> {
    let mut values = LcpValues::default();
    for option in OptionWalk::new(options) {
        match LcpOption::decode(option.ok()?) {
            LcpOption::Mru(mru) if mru >= MIN_MRU => values.mru = Some(mru),
            LcpOption::Accm(accm) => values.accm = Some(accm),
            LcpOption::Auth(AuthOffer::Pap) => values.auth = Some(Method::Pap),
            LcpOption::Magic(magic) if magic != 0 => values.magic = magic,
            LcpOption::Pfc => values.pfc = true,
            LcpOption::Acfc => values.acfc = true,
            _ => return None,
        }
    }
    Some(values)
}
