//! What a session stands on: what was asked of policy for it, and what it has of the ledger. As policy and users change,
//! and as it uses up a quota, it may stand no longer.

use super::Plane;
use super::driver::Driver;
use crate::limits::{Account, Held, Ledger, Limits, Refused, Who};
use sluice_auth::policy::{ByteRate, Command, Early, Effects, Policy, Request, SharedLimits, Subject};
use sluice_auth::{HostName, Profile, RejectReason};
use sluice_core::Now;
use sluice_spi::{Ended, LocalRef, PathStats, TerminateCause};
use std::cell::{Cell, RefCell};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// What was asked of policy for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What is wanted.
    pub command: Command,
    /// The name that the client gave, where it gave one.
    pub name: Option<HostName>,
    /// The address that is at the other end; `None`: there is none, or nobody here knows it.
    pub address: Option<IpAddr>,
    /// The port there; 0 without a destination.
    pub port: u16,
}

impl Asked {
    /// Something without a destination that is known.
    pub fn without_destination(command: Command) -> Self {
        Self {
            command,
            name: None,
            address: None,
            port: 0,
        }
    }

    /// What policy gives now; `None`: it denies it.
    pub(super) fn effects(
        &self,
        policy: &Policy,
        request: &Request<'_>,
        profile: Option<&Profile>,
    ) -> Option<Effects> {
        let early = match (self.command, &self.name, self.address) {
            (Command::Session, ..) => Early::Final(policy.decide_session(request)),
            (_, name, Some(address)) => {
                Early::Final(policy.decide_address(request, name.as_ref(), address, self.port))
            }
            (_, Some(name), None) => policy.decide_name(request, name, self.port),
            (_, None, None) => policy.decide_unknown(request),
        };
        early
            .denied()
            .is_none()
            .then(|| given_early(policy, &early, profile))
    }
}

/// What is given by a decision that may not be final: what all possible ones have in common.
pub(super) fn given_early(policy: &Policy, early: &Early<'_>, profile: Option<&Profile>) -> Effects {
    let own = profile.map(Effects::from);
    match early {
        Early::Final(decision) => decision.effects(own.as_ref()),
        Early::Depends => {
            let defaults = &policy.defaults().effects;
            own.map_or_else(|| defaults.clone(), |own| own.or(defaults))
        }
    }
}

/// A running relay that can be given other timeouts and limits.
pub trait Limited {
    /// Gives it these from now on.
    fn change(&self, effects: &Effects, limits: Limits);

    /// Policy has changed: whatever it remembers of decisions is to be forgotten.
    fn forget(&self);
}

/// The realm of a user that authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownRealm {
    /// Nobody remembers.
    Unknown,
    /// This, or none.
    Is(Option<Arc<str>>),
}

/// What a session stands on.
pub struct Standing {
    pub(super) asked: Asked,
    pub(super) who: Who,
    realm: KnownRealm,
    held: RefCell<Held>,
    accounts: RefCell<Vec<Arc<Account>>>,
    /// Bytes that were charged to the accounts, of the counters that there are now.
    charged: Cell<u64>,
    /// The number of the policy by which it was judged last.
    judged: Cell<u64>,
    /// A sum of the rates and timeouts that it was given last.
    given: Cell<u64>,
    /// What a relay to several targets was given, by all rules that its targets are under.
    several: RefCell<Option<Box<Effects>>>,
    relay: RefCell<Option<Box<dyn Limited>>>,
}

impl Standing {
    /// What a session stands on that was given this, with the number of the policy that gave it.
    pub fn new(
        asked: Asked,
        who: Who,
        held: Held,
        effects: &Effects,
        judged: u64,
        ledger: &Ledger,
    ) -> Rc<Self> {
        let standing = Self {
            accounts: RefCell::new(accounts(ledger, &who, effects)),
            asked,
            who,
            realm: KnownRealm::Unknown,
            held: RefCell::new(held),
            charged: Cell::new(0),
            judged: Cell::new(judged),
            given: Cell::new(sum(effects)),
            several: RefCell::new(None),
            relay: RefCell::new(None),
        };
        Rc::new(standing)
    }

    /// Says that its relay has several targets, and what it is given whatever they are.
    pub fn has_several(&self, effects: Effects) {
        *self.several.borrow_mut() = Some(Box::new(effects));
    }

    /// Says what relays its bytes.
    pub fn set_relay(&self, relay: Box<dyn Limited>) {
        *self.relay.borrow_mut() = Some(relay);
    }

    /// Says that so many bytes, of the counters that there are now, were charged before.
    pub fn set_charged(&self, bytes: u64) {
        self.charged.set(bytes);
    }

    /// Whether one more target of its relay is within the limits of the target's rule. Those hold for all of its targets
    /// from then on, where they are stricter.
    pub fn admit_target(&self, effects: &Effects, ledger: &Ledger, now: Now) -> Result<(), Refused> {
        ledger.admit(&self.who, effects, &mut self.held.borrow_mut(), now)?;
        let mut several = self.several.borrow_mut();
        if let Some(former) = several.as_mut() {
            let stricter = strictest(former, effects);
            if stricter != **former {
                self.give(&stricter, ledger, now);
                **former = stricter;
            }
        }
        Ok(())
    }

    fn give(&self, effects: &Effects, ledger: &Ledger, now: Now) {
        *self.accounts.borrow_mut() = accounts(ledger, &self.who, effects);
        if self.given.replace(sum(effects)) != sum(effects)
            && let Some(relay) = &*self.relay.borrow()
        {
            relay.change(effects, ledger.limits(&self.who, effects, now.instant));
        }
    }

    /// Charges what was carried since the last time; gives the name of a quota of which nothing is left.
    fn charge(&self, stats: &PathStats, wall: SystemTime) -> Option<String> {
        let accounts = self.accounts.borrow();
        if accounts.is_empty() {
            return None;
        }
        let total = stats.rx_bytes.saturating_add(stats.tx_bytes);
        let before = self.charged.replace(total);
        // Counters that fell are those of a new path.
        let bytes = total.checked_sub(before).unwrap_or(total);
        let mut used_up = None;
        for account in accounts.iter() {
            if !account.charge(bytes, wall) {
                used_up = Some(account.name().to_owned());
            }
        }
        used_up
    }
}

fn accounts(ledger: &Ledger, who: &Who, effects: &Effects) -> Vec<Arc<Account>> {
    if effects.per_user.quota.is_none() && effects.per_source.quota.is_none() {
        return Vec::new();
    }
    ledger.accounts(who, effects, SystemTime::now())
}

/// A sum of what a running relay is given: where it stays, so does what it is given.
fn sum(effects: &Effects) -> u64 {
    let mut hasher = DefaultHasher::new();
    let shared = |limits: &SharedLimits| (limits.rate_up, limits.rate_down);
    (effects.rate_up, effects.rate_down).hash(&mut hasher);
    (shared(&effects.per_user), shared(&effects.per_source)).hash(&mut hasher);
    (
        effects.idle_timeout,
        effects.half_closed_timeout,
        effects.lifetime,
    )
        .hash(&mut hasher);
    hasher.finish()
}

/// What both rules leave to a relay that is under both.
fn strictest(one: &Effects, other: &Effects) -> Effects {
    let slower = |one: Option<ByteRate>, other: Option<ByteRate>| match (one, other) {
        (Some(one), Some(other)) if other.per_second < one.per_second => Some(other),
        (one, other) => one.or(other),
    };
    let shared = |one: &SharedLimits, other: &SharedLimits| SharedLimits {
        rate_up: slower(one.rate_up, other.rate_up),
        rate_down: slower(one.rate_down, other.rate_down),
        quota: one.quota.as_ref().or(other.quota.as_ref()).cloned(),
        ..one.clone()
    };
    Effects {
        rate_up: slower(one.rate_up, other.rate_up),
        rate_down: slower(one.rate_down, other.rate_down),
        per_user: shared(&one.per_user, &other.per_user),
        per_source: shared(&one.per_source, &other.per_source),
        ..one.clone()
    }
}

/// How a session ends that its machine is told to end, in more exact words than the machine has.
#[derive(Debug)]
pub struct Ending {
    /// The cause that its machine was told.
    pub cause: TerminateCause,
    /// A stable code.
    pub code: &'static str,
    /// What happened.
    pub text: String,
}

impl Ending {
    /// The end as the machine gave it, in these words.
    pub(super) fn explain(&self, ended: &Ended) -> Option<Ended> {
        (self.cause == ended.cause).then(|| Ended::new(ended.cause, self.code, self.text.clone()))
    }
}

/// What is asked of whoever knows a session's user.
pub enum Again {
    /// It is as it may be, with this.
    Is(Box<Profile>),
    /// It may be no longer.
    Refused(RejectReason),
    /// Nobody can say.
    Unknown,
}

/// Sessions of a slot for which something is to be done.
#[derive(Default)]
pub(super) struct Shaken {
    /// Policy or users have changed since they were judged.
    pub(super) stale: Vec<LocalRef>,
    /// Nothing is left of this quota of theirs.
    pub(super) used_up: Vec<(LocalRef, String)>,
}

impl Shaken {
    /// Charges a session, and looks whether it stands as it did.
    pub(super) fn look_at(
        &mut self,
        local: LocalRef,
        standing: &Standing,
        stats: Option<&PathStats>,
        generation: u64,
        wall: SystemTime,
    ) {
        let used_up = stats.and_then(|stats| standing.charge(stats, wall));
        self.used_up.extend(used_up.map(|quota| (local, quota)));
        if standing.judged.get() != generation {
            self.stale.push(local);
        }
    }
}

impl<P: Plane> Driver<P> {
    /// Ends or judges again those for which that is to be done.
    pub(super) fn settle_shaken(&mut self, slot: u32, shaken: Shaken, now: Now) {
        for (local, quota) in shaken.used_up {
            let text = format!("the quota {quota} is used up");
            self.revoke(slot, local, TerminateCause::NasRequest, "quota_used_up", text);
        }
        for local in shaken.stale {
            self.judge_again(slot, local, now);
        }
    }

    /// Charges a session's last bytes.
    pub(super) fn charge_last(standing: Option<&Rc<Standing>>, stats: &PathStats, now: Now) {
        if let Some(standing) = standing {
            // It ends anyway.
            let _ = standing.charge(stats, now.wall);
        }
    }

    /// Ends a session for what has changed around it.
    fn revoke(
        &mut self,
        slot: u32,
        local: LocalRef,
        cause: TerminateCause,
        code: &'static str,
        text: String,
    ) {
        let Some(tunnel) = self.slots.get_mut(slot) else {
            return;
        };
        let protocol = tunnel.origin.protocol;
        let Some(entry) = tunnel.sessions.get_mut(&local) else {
            return;
        };
        let id = entry.id;
        if self.engine.end_session(id, cause) {
            entry.ending = Some(Box::new(Ending { cause, code, text }));
            self.counters.revoked(protocol, code);
        }
    }

    /// Asks policy again for a session, with its user as it is now.
    fn judge_again(&mut self, slot: u32, local: LocalRef, now: Now) {
        // Before anything is asked: what changes meanwhile is found the next time.
        let generation = self.ledger.generation();
        let Some(tunnel) = self.slots.get_mut(slot) else {
            return;
        };
        let origin = tunnel.origin.clone();
        let Some(entry) = tunnel.sessions.get_mut(&local) else {
            return;
        };
        let Some(standing) = entry.standing.clone() else {
            return;
        };
        standing.judged.set(generation);
        let realm = match (&entry.profile, &standing.realm) {
            (Some(profile), _) => Some(profile.realm.as_deref()),
            (None, KnownRealm::Is(realm)) => Some(realm.as_deref()),
            (None, KnownRealm::Unknown) => None,
        };
        let again = match &standing.who.user {
            Some(user) => self.authority.again(user, realm, origin.protocol, now),
            None => Again::Unknown,
        };
        let profile = match again {
            Again::Refused(reason) => {
                let text = format!("the user may not have it any more: {}", reason.as_str());
                return self.revoke(slot, local, TerminateCause::AdminReset, "user_changed", text);
            }
            Again::Is(profile) => {
                let profile = Rc::new(*profile);
                if entry.profile.is_some() {
                    entry.profile = Some(profile.clone());
                }
                Some(profile)
            }
            // A session of nobody is judged as one. Of a tunnel's user nothing else is known.
            Again::Unknown if entry.profile.is_none() && standing.who.user.is_some() => return,
            Again::Unknown => entry.profile.clone(),
        };
        let request = Request {
            command: standing.asked.command,
            listener: &origin.listener,
            protocol: origin.protocol,
            client: Some(entry.peer.ip()),
            user: profile.as_deref().map(Subject::from),
        };
        let policy = self.policy.load_full();
        let Some(effects) = standing.asked.effects(&policy, &request, profile.as_deref()) else {
            let text = "policy does not allow it any more".to_owned();
            return self.revoke(slot, local, TerminateCause::NasRequest, "denied", text);
        };
        self.ledger
            .take_in(&standing.who, &mut standing.held.borrow_mut());
        if let Some(several) = standing.several.borrow_mut().as_mut() {
            **several = effects.clone();
        }
        standing.give(&effects, &self.ledger, now);
        if let Some(relay) = &*standing.relay.borrow() {
            relay.forget();
        }
    }

    /// Whether the session of a tunnel may be, with its user's profile as policy completes it.
    pub(super) fn admit(
        &mut self,
        slot: u32,
        local: LocalRef,
        mut profile: Profile,
        now: Now,
    ) -> Result<Profile, RejectReason> {
        let generation = self.ledger.generation();
        let tunnel = self.slots.get_mut(slot).ok_or(RejectReason::Unavailable)?;
        let is_connection = tunnel.is_bare_connection();
        let origin = &tunnel.origin;
        let entry = tunnel.sessions.get_mut(&local).ok_or(RejectReason::Unavailable)?;
        let request = Request {
            command: Command::Session,
            listener: &origin.listener,
            protocol: origin.protocol,
            client: Some(entry.peer.ip()),
            user: Some(Subject::from(&profile)),
        };
        let asked = Asked::without_destination(Command::Session);
        let policy = self.policy.load();
        let effects = asked.effects(&policy, &request, Some(&profile));
        let effects = effects.ok_or(RejectReason::NotPermitted)?;
        if is_connection {
            // What it may do is asked for each time, and its relay keeps to the timeouts.
            (profile.session_timeout, profile.idle_timeout) = (None, None);
            return Ok(profile);
        }
        let who = Who::new(Some(&profile.identity), entry.peer.ip());
        // One that proves itself again is no new session.
        let mut held = entry
            .standing
            .take()
            .map_or_else(Held::default, |former| former.held.take());
        if let Err(refused) = self.ledger.admit(&who, &effects, &mut held, now) {
            self.counters.limited(origin.protocol, refused.as_str());
            tracing::info!(listener = &*origin.listener, peer = %entry.peer, user = profile.identity.as_str(),
                code = refused.as_str(), "a session is refused: {refused}");
            return Err(match refused {
                Refused::UserQuota | Refused::SourceQuota => RejectReason::NotPermitted,
                _ => RejectReason::TooManySessions,
            });
        }
        let mut standing = Standing::new(asked, who, held, &effects, generation, &self.ledger);
        if let Some(standing) = Rc::get_mut(&mut standing) {
            standing.realm = KnownRealm::Is(profile.realm.as_deref().map(Arc::from));
        }
        entry.standing = Some(standing);
        profile.max_sessions = effects.per_user.sessions;
        profile.session_timeout = effects.lifetime;
        profile.idle_timeout = effects.idle_timeout;
        Ok(profile)
    }

    /// A session was refused after all.
    pub(super) fn stand_down(&mut self, slot: u32, local: LocalRef) {
        let tunnel = self.slots.get_mut(slot);
        if let Some(entry) = tunnel.and_then(|tunnel| tunnel.sessions.get_mut(&local)) {
            entry.standing = None;
        }
    }

    /// What the session of a restored tunnel stands on: it is judged soon.
    pub(super) fn standing_again(&self, user: &sluice_auth::Identity, peer: IpAddr) -> Rc<Standing> {
        let (who, mut held) = (Who::new(Some(user), peer), Held::default());
        self.ledger.take_in(&who, &mut held);
        let asked = Asked::without_destination(Command::Session);
        Standing::new(asked, who, held, &Effects::default(), 0, &self.ledger)
    }
}

/// The present, for whoever has no driver at hand.
pub(super) fn present() -> Now {
    Now {
        instant: Instant::now(),
        wall: SystemTime::now(),
    }
}

#[cfg(test)]
mod tests;
