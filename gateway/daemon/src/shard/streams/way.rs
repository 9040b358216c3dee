//! Where a connection's user may go, and by which way.

use super::super::standing::{Standing, given_early};
use super::Source;
use super::limits::Rules;
use crate::limits::{Held, Ledger, Refused, Who};
use sluice_auth::policy::{Command, Decision, Early, Effects, Policy, Request, SendProxy, Subject, Upstream};
use sluice_auth::{HostName, Profile};
use sluice_egress::proxy_protocol::Version;
use sluice_egress::{Denied, Judge, Named, Way};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// One request's judge: the policy as it was when the request came.
pub(super) struct Question {
    pub(super) policy: Arc<Policy>,
    source: Source,
    client: IpAddr,
    pub(super) profile: Option<Rc<Profile>>,
    pub(super) command: Command,
    pub(super) name: RefCell<Option<HostName>>,
    /// What decided last, for the log.
    pub(super) by: RefCell<String>,
    pub(super) ledger: Arc<Ledger>,
    /// The number of the policy.
    pub(super) judged: u64,
    pub(super) who: Who,
    pub(super) held: RefCell<Held>,
    /// The limit that refused it last.
    pub(super) refused: Cell<Option<Refused>>,
    /// What the session stands on already that this is about one target of.
    pub(super) standing: Option<Rc<Standing>>,
}

impl Question {
    pub(super) fn new(
        rules: Rules,
        source: Source,
        client: IpAddr,
        profile: Option<Rc<Profile>>,
        command: Command,
    ) -> Self {
        Self {
            judged: rules.judged,
            policy: rules.policy,
            ledger: rules.ledger,
            who: Who::new(profile.as_deref().map(|profile| &profile.identity), client),
            held: RefCell::default(),
            refused: Cell::new(None),
            standing: None,
            source,
            client,
            profile,
            command,
            name: RefCell::new(None),
            by: RefCell::new(String::new()),
        }
    }

    /// What another question of the same session is made of.
    pub(super) fn parts(&self) -> (Source, IpAddr, Option<Rc<Profile>>, Command) {
        (
            self.source.clone(),
            self.client,
            self.profile.clone(),
            self.command,
        )
    }

    /// About one target of a session that is there already.
    pub(super) fn of(mut self, standing: Option<Rc<Standing>>) -> Self {
        self.standing = standing;
        self
    }

    pub(super) fn request(&self) -> Request<'_> {
        Request {
            command: self.command,
            listener: &self.source.origin.listener,
            protocol: self.source.origin.protocol,
            client: Some(self.client),
            user: self.profile.as_deref().map(Subject::from),
        }
    }

    fn note(&self, decision: &Decision<'_>) {
        *self.by.borrow_mut() = match decision.rule() {
            Some(rule) => format!("rule {}", rule.rule.name),
            None => decision.by.as_str().to_owned(),
        };
    }

    /// What decided last.
    pub(super) fn by(&self) -> String {
        self.by.borrow().clone()
    }

    /// What a decision about an address gives.
    pub(super) fn effects(&self, address: SocketAddr) -> Effects {
        let name = self.name.borrow();
        self.given(
            &self
                .policy
                .decide_address(&self.request(), name.as_ref(), address.ip(), address.port()),
        )
    }

    fn given(&self, decision: &Decision<'_>) -> Effects {
        let own = self.profile.as_deref().map(Effects::from);
        decision.effects(own.as_ref())
    }

    fn given_early(&self, early: &Early<'_>) -> Effects {
        given_early(&self.policy, early, self.profile.as_deref())
    }

    /// What the name gives that was asked about last, whose addresses are not known.
    pub(super) fn effects_of_name(&self, port: u16) -> Effects {
        match &*self.name.borrow() {
            Some(name) => self.given_early(&self.policy.decide_name(&self.request(), name, port)),
            None => self.effects_of_unknown(),
        }
    }

    /// What is given whatever the destination will be.
    pub(super) fn effects_of_unknown(&self) -> Effects {
        self.given_early(&self.policy.decide_unknown(&self.request()))
    }

    /// Whether nothing unknown can make it allowed any more. Asked of what goes through no upstream: whoever would have
    /// to go through one must not go past it.
    pub(super) fn is_hopeless(&self) -> bool {
        let early = self.policy.decide_unknown(&self.request());
        if let Some(decision) = early.denied() {
            self.note(&decision);
        } else if let Early::Final(decision) = &early
            && let Some(Upstream::Named(name)) = self.given(decision).upstream
        {
            *self.by.borrow_mut() = format!("upstream {name}, which takes connections alone");
        } else {
            return false;
        }
        let (listener, client) = (&*self.source.origin.listener, self.client);
        let (command, by) = (self.command.as_str(), self.by());
        tracing::debug!(listener, %client, command, by, "a request is denied whatever its target");
        true
    }
}

pub(super) fn way(effects: &Effects) -> Way {
    Way {
        source4: effects.source_ipv4,
        source6: effects.source_ipv6,
        interface: effects.interface.clone(),
        mark: effects.fwmark,
        upstream: match &effects.upstream {
            Some(Upstream::Named(name)) => Some(name.clone()),
            Some(Upstream::Direct) | None => None,
        },
        header: match effects.send_proxy {
            Some(SendProxy::V1) => Some(Version::V1),
            Some(SendProxy::V2) => Some(Version::V2),
            Some(SendProxy::Off) | None => None,
        },
        timeout: effects.connect_timeout,
    }
}

impl Judge for Question {
    fn name(&self, name: &HostName, port: u16) -> Result<Named, Denied> {
        *self.name.borrow_mut() = Some(name.clone());
        let early = self.policy.decide_name(&self.request(), name, port);
        if let Some(decision) = early.denied() {
            self.note(&decision);
            return Err(Denied);
        }
        if let Early::Final(decision) = &early
            && leads_to_an_upstream(decision)
        {
            self.note(decision);
            let effects = self.given(decision);
            self.admit(&effects)?;
            return Ok(Named::Forward(way(&effects)));
        }
        Ok(Named::Resolve)
    }

    fn address(&self, address: SocketAddr) -> Result<Way, Denied> {
        let name = self.name.borrow();
        let decision =
            self.policy
                .decide_address(&self.request(), name.as_ref(), address.ip(), address.port());
        self.note(&decision);
        if !decision.allowed() {
            return Err(Denied);
        }
        let effects = self.given(&decision);
        self.admit(&effects)?;
        Ok(way(&effects))
    }
}

/// Whether a rule leads to an upstream by its own words. Addresses of a name that goes there as it is are never checked,
/// so that what the gateway's owner has said of all connections is not enough.
fn leads_to_an_upstream(decision: &Decision<'_>) -> bool {
    let own = decision
        .rule()
        .and_then(|found| found.rule.effects.upstream.as_ref());
    matches!(own, Some(Upstream::Named(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use sluice_auth::Host;
    use sluice_core::Origin;
    use sluice_spi::ShardId;
    use std::time::Duration;

    const UPSTREAM: &str =
        "[[upstream]]\nname = \"up\"\nprotocol = \"socks5\"\nservers = [\"192.0.2.1:1080\"]\n";

    fn question(rules: &str, command: Command) -> Question {
        let listener = "[[listener]]\nprotocol = \"socks\"\naddresses = [\"127.0.0.1\"]\n";
        let text = format!("{listener}{UPSTREAM}{rules}");
        let config = Config::parse("a.toml", &text, sluice_registry::MODULES).unwrap();
        let origin = Origin {
            protocol: "socks",
            listener: "socks".into(),
            shard: ShardId(0),
        };
        let source = Source {
            listener: 0,
            origin: Rc::new(origin),
        };
        let client = "192.0.2.7".parse().unwrap();
        let rules = Rules {
            judged: 1,
            policy: Arc::new(config.policy),
            ledger: Arc::default(),
        };
        Question::new(rules, source, client, None, command)
    }

    fn name(question: &Question) -> Result<Named, Denied> {
        let Ok(Host::Name(name)) = Host::parse(b"host.example") else {
            panic!("a name");
        };
        question.name(&name, 443)
    }

    #[test]
    fn a_name_goes_to_an_upstream_only_where_a_rule_leads_there_for_certain() {
        let through = "[[rule]]\nname = \"r\"\naction = \"allow\"\nports = [\"443\"]\nupstream = \"up\"\n\
                       send_proxy = \"v2\"\nconnect_timeout = \"3s\"\nidle_timeout = \"9s\"\n";
        let question = |rules: &str| question(rules, Command::Connect);
        let certain = question(through);
        let Ok(Named::Forward(way)) = name(&certain) else {
            panic!("it is certain");
        };
        assert_eq!(way.upstream.as_deref(), Some("up"));
        assert_eq!(
            (way.header, way.timeout),
            (Some(Version::V2), Some(Duration::from_secs(3)))
        );
        assert_eq!(certain.by(), "rule r");
        let given = certain.effects_of_name(443);
        assert_eq!(given.idle_timeout, Some(Duration::from_secs(9)));
        for rules in [
            // Another rule may turn out to hold for its addresses.
            format!("[[rule]]\naction = \"deny\"\ndestinations = [\"192.0.2.0/24\"]\n{through}"),
            // Only the gateway as a whole has an upstream.
            "[policy]\nupstream = \"up\"\n[[rule]]\naction = \"allow\"\n".to_owned(),
            "[policy]\nupstream = \"up\"\ndefault = \"allow\"\n".to_owned(),
            // The rule says otherwise.
            "[policy]\nupstream = \"up\"\n[[rule]]\naction = \"allow\"\nupstream = \"direct\"\n".to_owned(),
        ] {
            assert_eq!(name(&question(&rules)), Ok(Named::Resolve), "{rules}");
        }
        assert_eq!(name(&question("")), Err(Denied));
        // Its addresses, once looked up, go there all the same.
        let checked = question("[policy]\nupstream = \"up\"\n[[rule]]\naction = \"allow\"\n");
        let way = checked.address("93.184.215.14:443".parse().unwrap()).unwrap();
        assert_eq!(way.upstream.as_deref(), Some("up"));
        assert_eq!(checked.address("10.0.0.1:443".parse().unwrap()), Err(Denied));
    }

    #[test]
    fn what_upstreams_do_not_take_is_hopeless_where_all_must_go_there() {
        for (rules, hopeless) in [
            ("", true),
            ("[[rule]]\naction = \"allow\"\n", false),
            ("[[rule]]\naction = \"allow\"\nupstream = \"up\"\n", true),
            (
                "[policy]\nupstream = \"up\"\n[[rule]]\naction = \"allow\"\n",
                true,
            ),
            // Some may go another way.
            (
                "[policy]\nupstream = \"up\"\n[[rule]]\naction = \"allow\"\nports = [\"53\"]\nupstream = \"direct\"\n",
                false,
            ),
            (
                "[[rule]]\naction = \"allow\"\nports = [\"53\"]\nupstream = \"up\"\n[[rule]]\naction = \"allow\"\n",
                false,
            ),
        ] {
            for command in [Command::Udp, Command::Bind] {
                assert_eq!(question(rules, command).is_hopeless(), hopeless, "{rules}");
            }
        }
    }
}
