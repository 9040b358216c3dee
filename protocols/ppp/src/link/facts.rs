//! What is known of a link, for operators.

use super::Ppp;
use crate::cp::Cp;
use crate::ipv6cp::link_local;
use crate::wire::AuthProtocol;
use sluice_spi::Fact;

impl Ppp {
    /// What was negotiated, for operators: of LCP once it was open, of the network protocols while they are.
    pub fn facts(&self) -> Vec<Fact> {
        let mut facts = self.link_facts();
        self.network_facts(&mut facts);
        facts
    }

    pub(super) fn link_facts(&self) -> Vec<Fact> {
        let (ours, peer) = (&self.lcp.options.ours, &self.lcp.options.peer);
        let yes = |flag: bool| if flag { "yes" } else { "no" };
        let map =
            |accm: Option<u32>| accm.map_or_else(|| "default".to_owned(), |accm| format!("{accm:#010x}"));
        let mut facts = vec![
            Fact::new("lcp_state", format!("{:?}", self.lcp.state())),
            Fact::new("mru_local", ours.mru().to_string()),
            Fact::new("mru_peer", peer.mru().to_string()),
            Fact::new("accm_local", map(ours.accm)),
            Fact::new("accm_peer", map(peer.accm)),
            Fact::new("magic_local", format!("{:#010x}", ours.magic)),
            Fact::new("magic_peer", format!("{:#010x}", peer.magic)),
            Fact::new("pfc_sent", yes(self.header().pfc)),
            Fact::new("acfc_sent", yes(self.header().acfc)),
            Fact::new(
                "auth",
                ours.auth.or(peer.auth).map_or("none", AuthProtocol::as_str),
            ),
        ];
        if let Some(identification) = &self.peer_identification {
            facts.push(Fact::new("peer_identification", identification.to_string()));
        }
        facts
    }

    fn network_facts(&self, facts: &mut Vec<Fact>) {
        let Some(network) = &self.network else { return };
        let mut add = |name: &'static str, value: String| facts.push(Fact::new(name, value));
        add("mtu", self.mtu(network.grants.as_deref()).to_string());
        if let Some(ipcp) = network
            .ipcp
            .as_ref()
            .filter(|cp| cp.is_open())
            .map(|cp| &cp.options)
        {
            if let Some(peer) = ipcp.peer {
                add("ipv4_peer", peer.to_string());
            }
            if let Some(local) = ipcp.local {
                add("ipv4_local", local.to_string());
            }
            let [dns1, nbns1, dns2, nbns2] = ipcp.servers;
            for (name, servers) in [("dns", [dns1, dns2]), ("nbns", [nbns1, nbns2])] {
                let shown: Vec<String> = servers
                    .into_iter()
                    .flatten()
                    .map(|server| server.to_string())
                    .collect();
                if !shown.is_empty() {
                    add(name, shown.join(", "));
                }
            }
        }
        if let Some(ipv6cp) = network
            .ipv6cp
            .as_ref()
            .filter(|cp| cp.is_open())
            .map(|cp| &cp.options)
        {
            add("ipv6_local", ipv6cp.local_address().to_string());
            if ipv6cp.peer != 0 {
                add("ipv6_peer", link_local(ipv6cp.peer).to_string());
            }
            if let Some(prefix) = network.grants.as_ref().and_then(|grants| grants.ipv6_prefix) {
                add("ipv6_prefix", prefix.to_string());
            }
        }
        let state = |name: &'static str, state: Option<crate::fsm::State>| {
            state.map(|state| Fact::new(name, format!("{state:?}")))
        };
        let states = [
            state("ipcp_state", network.ipcp.as_ref().map(Cp::state)),
            state("ipv6cp_state", network.ipv6cp.as_ref().map(Cp::state)),
        ];
        facts.extend(states.into_iter().flatten());
    }
}
