//! What a connection's relay is given, and how it is given something else while it runs.

use super::super::standing::{Asked, Limited, Standing};
use super::Streams;
use super::task::{HALF_CLOSED, IDLE, IDLE_DATAGRAMS};
use super::way::Question;
use crate::limits::{Ledger, Limits, Refused};
use sluice_auth::policy::{Command, Effects, Policy};
use sluice_dataplane::relay::{self, Handle, Limit, Timeouts, datagrams};
use sluice_egress::Denied;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// What requests are judged by.
pub(super) struct Rules {
    /// The number of the policy.
    pub(super) judged: u64,
    /// The policy.
    pub(super) policy: Arc<Policy>,
    /// What sessions share.
    pub(super) ledger: Arc<Ledger>,
}

impl Streams {
    /// What requests are judged by now.
    pub(super) fn rules(&self) -> Rules {
        Rules {
            // Before the policy: what changes meanwhile is found later.
            judged: self.ledger.generation(),
            policy: self.policy.load_full(),
            ledger: self.ledger.clone(),
        }
    }
}

/// What joined streams are given.
pub(super) struct Granted {
    /// When they come apart by themselves.
    pub(super) timeouts: Timeouts,
    /// The limit of what the client sends.
    pub(super) up: Option<Box<dyn Limit>>,
    /// The limit of what the client is sent.
    pub(super) down: Option<Box<dyn Limit>>,
    /// What their session stands on.
    pub(super) standing: Rc<Standing>,
}

/// When joined streams come apart by themselves.
pub(super) fn timeouts(effects: &Effects) -> Timeouts {
    Timeouts {
        idle: Some(effects.idle_timeout.unwrap_or(IDLE)),
        half_closed: Some(effects.half_closed_timeout.unwrap_or(HALF_CLOSED)),
        lifetime: effects.lifetime,
    }
}

impl Question {
    /// Whether the limits of what an allowing decision gives let the session be.
    pub(super) fn admit(&self, effects: &Effects) -> Result<(), Denied> {
        if self.ledger.is_free(effects) && self.standing.is_none() {
            return Ok(());
        }
        let now = super::super::standing::present();
        let admitted = match &self.standing {
            Some(standing) => standing.admit_target(effects, &self.ledger, now),
            None => self
                .ledger
                .admit(&self.who, effects, &mut self.held.borrow_mut(), now),
        };
        admitted.map_err(|refused| {
            self.refused.set(Some(refused));
            refused.as_str().clone_into(&mut self.by.borrow_mut());
            Denied
        })
    }

    /// The limit that refused it last.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused.get()
    }

    /// What its session stands on from now on, as it was given these effects.
    pub(super) fn stand(&self, effects: &Effects, address: Option<SocketAddr>, port: u16) -> Rc<Standing> {
        let asked = Asked {
            command: self.command,
            name: self.name.borrow().clone(),
            address: address.map(|address| address.ip()),
            port: address.map_or(port, |address| address.port()),
        };
        let (who, held) = (self.who.clone(), self.held.take());
        Standing::new(asked, who, held, effects, self.judged, &self.ledger)
    }

    /// What joined streams are given. `address` is what is at the other end, where it is known.
    pub(super) fn grant(&self, effects: &Effects, address: Option<SocketAddr>, port: u16) -> Box<Granted> {
        let (up, down) = self.limits(effects);
        Box::new(Granted {
            timeouts: timeouts(effects),
            up,
            down,
            standing: self.stand(effects, address, port),
        })
    }

    /// Counts the session, which was admitted before a restart.
    pub(super) fn take_in(&self) {
        self.ledger.take_in(&self.who, &mut self.held.borrow_mut());
    }

    pub(super) fn limits(&self, effects: &Effects) -> Limits {
        self.ledger
            .limits(&self.who, effects, tokio::time::Instant::now().into_std())
    }

    /// What the session of a connection from the worker before stands on, with what it is given now. It is judged soon.
    pub(super) fn stand_again(&self, asked: Asked) -> (Rc<Standing>, Effects) {
        let effects = asked.effects(&self.policy, &self.request(), self.profile.as_deref());
        let effects = effects.unwrap_or_else(|| self.policy.defaults().effects.clone());
        self.take_in();
        let (who, held) = (self.who.clone(), self.held.take());
        let has_several = asked.command == Command::Udp;
        let standing = Standing::new(asked, who, held, &effects, 0, &self.ledger);
        if has_several {
            standing.has_several(effects.clone());
        }
        (standing, effects)
    }

    /// What joined streams of the worker before are given, to go on.
    pub(super) fn grant_again(&self, asked: Asked) -> Box<Granted> {
        let (standing, effects) = self.stand_again(asked);
        let (up, down) = self.limits(&effects);
        Box::new(Granted {
            timeouts: timeouts(&effects),
            up,
            down,
            standing,
        })
    }
}

/// Joined streams that run.
pub(super) struct Joined(pub(super) Handle);

impl Limited for Joined {
    fn change(&self, effects: &Effects, (up, down): Limits) {
        self.0.change(relay::Change {
            timeouts: timeouts(effects),
            up,
            down,
        });
    }

    /// They have one target, and nothing to remember of it.
    fn forget(&self) {}
}

/// A relay of datagrams that runs.
pub(super) struct Relayed(pub(super) datagrams::Handle);

impl Limited for Relayed {
    fn change(&self, effects: &Effects, (up, down): Limits) {
        self.0.change(datagrams::Change {
            idle: Some(effects.idle_timeout.unwrap_or(IDLE_DATAGRAMS)),
            lifetime: effects.lifetime,
            up,
            down,
        });
    }

    fn forget(&self) {
        self.0.forget_flows();
    }
}
