//! Going on from where a LAC got to with the peer (RFC 2661, 4.4.5).

use super::Ppp;
use super::auth::Given;
use crate::api::Proxy;
use crate::config::{MIN_MRU, ProxyPolicy};
use crate::fsm::State;
use crate::lcp::LcpValues;
use crate::wire::{AuthProtocol, LcpOption, OptionWalk};
use sluice_spi::Severity;
use std::time::Instant;

/// Values of the Proxy Authen Type AVP (RFC 2661, 4.4.5): a password typed at a prompt, CHAP, PAP.
const TYPE_TEXT: u16 = 1;
const TYPE_CHAP: u16 = 2;
const TYPE_PAP: u16 = 3;
/// Identifier of our next LCP packet when the LAC's last is not known. High, so that it is unlikely to be one
/// that the LAC has used lately.
const FIRST_ID: u8 = 0x80;

/// What a LAC collected of the peer.
struct Collected {
    name: Vec<u8>,
    given: Given,
    /// Identifier of the peer's packet where it awaits an answer.
    answer_to: Option<u8>,
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
        match self.collected(proxy, ours.auth) {
            Ok(collected) => self.go_on(ours, peer, collected, now),
            Err(why) => {
                self.renegotiate(why);
                return false;
            }
        }
        true
    }

    /// What the LAC collected by the method that it asked for, or nothing where it asked but did not wait: a peer asked
    /// for PAP repeats its request until it is answered, and by CHAP we challenge it ourselves. `Err`: why there is no
    /// going on from it.
    fn collected(
        &self,
        proxy: Proxy,
        asked: Option<AuthProtocol>,
    ) -> Result<Option<Collected>, &'static str> {
        let (kind, method) = match (proxy.auth_type, asked) {
            (Some(kind @ (TYPE_PAP | TYPE_TEXT)), None | Some(AuthProtocol::Pap)) => {
                (Some(kind), AuthProtocol::Pap)
            }
            (Some(TYPE_CHAP), Some(method @ (AuthProtocol::Chap | AuthProtocol::MsChapV2))) => {
                (Some(TYPE_CHAP), method)
            }
            (None, Some(method)) => (None, method),
            (None, None) => return Err("the LAC passed on no password"),
            _ => return Err("the LAC authenticated the peer by a method that is not spoken here"),
        };
        if !self.lcp.options.permits(method) {
            return Err("the LAC authenticated the peer by a method that is not allowed here");
        }
        let collected = match kind {
            Some(TYPE_CHAP) => chap_answer(proxy, method),
            Some(kind) => login(proxy, kind, asked.is_some()),
            None => None,
        };
        match (&collected, asked) {
            (None, None) => Err("the LAC passed on no password"),
            _ => Ok(collected),
        }
    }

    fn renegotiate(&mut self, why: &str) {
        self.out
            .notice(Severity::Info, format!("LCP is negotiated anew: {why}"));
    }

    fn go_on(&mut self, ours: LcpValues, peer: LcpValues, collected: Option<Collected>, now: Instant) {
        self.lcp.options.adopt(ours, peer);
        self.lcp.resume(State::Opened, FIRST_ID);
        match collected {
            Some(Collected {
                name,
                given,
                answer_to,
            }) => {
                self.announce_link(now);
                self.begin_proxy_auth(&name, given, answer_to, now);
            }
            None => self.on_lcp_up(now),
        }
    }
}

/// The password of Proxy Authen types 1 and 3, which need a name and a response. Where the LAC asked for it by other
/// means than PAP, the peer expects no answer.
fn login(proxy: Proxy, kind: u16, by_pap: bool) -> Option<Collected> {
    let awaits = kind == TYPE_PAP && by_pap;
    Some(Collected {
        name: proxy.name?,
        given: Given::Password(proxy.response?),
        answer_to: awaits.then(|| proxy.id.unwrap_or(0)),
    })
}

/// The answer to the LAC's challenge of Proxy Authen type 2, which needs all the AVPs.
fn chap_answer(proxy: Proxy, method: AuthProtocol) -> Option<Collected> {
    let (id, challenge) = (proxy.id?, proxy.challenge?);
    Some(Collected {
        name: proxy.name?,
        given: Given::by_chap(method, id, &challenge, proxy.response?.expose())?,
        answer_to: Some(id),
    })
}

/// The values of a Configure-Request that was acknowledged. `None`: it has what we could not have agreed to.
fn agreed(options: &[u8]) -> Option<LcpValues> {
    let mut values = LcpValues::default();
    for option in OptionWalk::new(options) {
        match LcpOption::decode(option.ok()?) {
            LcpOption::Mru(mru) if mru >= MIN_MRU => values.mru = Some(mru),
            LcpOption::Accm(accm) => values.accm = Some(accm),
            LcpOption::Auth(offer) => values.auth = Some(offer.spoken()?),
            LcpOption::Magic(magic) if magic != 0 => values.magic = magic,
            LcpOption::Pfc => values.pfc = true,
            LcpOption::Acfc => values.acfc = true,
            _ => return None,
        }
    }
    Some(values)
}
