//! From a backend's answer to what a session gets: the user's limit, addresses, timeouts.

use super::Engine;
use crate::SessionId;
use crate::blocks::Family;
use crate::config::EngineConfig;
use crate::event::EngineEvent;
use crate::leases::{For, Leases, NoAddress};
use crate::model::{Address, Session, SessionLimits, State};
use crate::table::lock;
use crate::time::{Now, to_millis};
use sluice_auth::{AddressRule, Grants, Identity, Profile, RejectReason, Verdict};
use sluice_spi::TerminateCause;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What was found for one family, and the pool it came from.
type Found = Option<(Address, Option<String>)>;

/// Why a family has nothing for the session, and the pool meant.
type Missing = (NoAddress, String);

/// How a session stands when the answer comes.
enum Standing {
    /// It waits for it, and claims to be this user.
    Waiting(Option<Identity>),
    /// It was accepted before, as this user, with these grants.
    Accepted(Identity, Box<Grants>, State),
    /// Too late: it is being ended.
    Ending,
}

impl Engine {
    /// A backend's answer for a session that asked. Gives what its machine is to be told. A session that proves
    /// itself again as the same user keeps what it has.
    pub fn authorize(&self, id: SessionId, answer: Result<Profile, RejectReason>, now: Now) -> Verdict {
        let result = answer.and_then(|mut profile| {
            let proof = std::mem::take(&mut profile.proof);
            Ok((self.accept(id, &profile, now)?, proof))
        });
        let snapshot = self.table.session(id, |live| {
            live.session.rejected = result.as_ref().err().copied();
            live.session.clone()
        });
        if let Some(session) = snapshot {
            self.tell(EngineEvent::AuthDecided {
                session: Arc::new(session),
                result: result.as_ref().map(|_| ()).map_err(|reason| *reason),
            });
        }
        match result {
            Ok((grants, proof)) => Verdict::Accept {
                grants: Box::new(grants),
                proof,
            },
            Err(reason) => Verdict::Reject(reason),
        }
    }

    fn accept(&self, id: SessionId, profile: &Profile, now: Now) -> Result<Grants, RejectReason> {
        let user = &profile.identity;
        match self.standing(id) {
            Standing::Ending => return Err(RejectReason::Unavailable),
            Standing::Accepted(identity, grants, _) if identity == *user => return Ok(*grants),
            // Whose session it is does not change once data may flow.
            Standing::Accepted(_, _, state) if !state.is_opening() => {
                return Err(RejectReason::NotPermitted);
            }
            Standing::Accepted(identity, grants, _) => {
                self.give_back(id, &grants, now);
                self.rename(id, Some(identity), user);
            }
            Standing::Waiting(claimed) => self.rename(id, claimed, user),
        }
        let config = self.config();
        self.join(id, profile, &config)?;
        let granted = self.grant(id, profile, &config, now);
        if granted.is_err() {
            // It no longer counts, but is still found under the user's name.
            self.table.leave_user(user.as_str(), id);
            self.enter(id, user);
        }
        granted
    }

    fn standing(&self, id: SessionId) -> Standing {
        let standing = self.table.session(id, |live| {
            let session = &live.session;
            if live.ending.is_some() || session.state == State::Closing {
                return Standing::Ending;
            }
            match (&session.identity, &session.grants) {
                (Some(identity), Some(grants)) => {
                    Standing::Accepted(identity.clone(), Box::new(grants.clone()), session.state)
                }
                (identity, _) => Standing::Waiting(identity.clone()),
            }
        });
        standing.unwrap_or(Standing::Ending)
    }

    /// Enters a session under the name that the backend gave its user.
    fn rename(&self, id: SessionId, former: Option<Identity>, user: &Identity) {
        if let Some(former) = former.filter(|former| former != user) {
            self.table.leave_user(former.as_str(), id);
        }
        self.table
            .session(id, |live| live.session.identity = Some(user.clone()));
        self.enter(id, user);
    }

    /// Makes a session be found under a user's name, as long as it is there.
    pub(super) fn enter(&self, id: SessionId, user: &Identity) {
        self.table.claim_user(user.as_str(), id);
        if self.table.session(id, |_| ()).is_none() {
            self.table.leave_user(user.as_str(), id);
        }
    }

    fn join(&self, id: SessionId, profile: &Profile, config: &EngineConfig) -> Result<(), RejectReason> {
        let limit = profile.max_sessions.or(config.limits.per_user);
        let user = profile.identity.as_str();
        let replaced = self.table.join_user(user, id, limit, config.limits.user_full);
        for oldest in replaced.map_err(|_| RejectReason::TooManySessions)? {
            self.end_session(oldest, TerminateCause::PortPreempted);
        }
        Ok(())
    }

    fn grant(
        &self,
        id: SessionId,
        profile: &Profile,
        config: &EngineConfig,
        now: Now,
    ) -> Result<Grants, RejectReason> {
        let random = lock(&self.mint).random();
        let wanted = For {
            user: profile.identity.as_str(),
            session: id,
            now: to_millis(now.wall),
        };
        // A connection's user is somewhere already: it needs no address of ours.
        let is_connection = self.table.session(id, |live| live.session.tunnel.is_none());
        let mut leases = lock(&self.leases);
        let found = match is_connection {
            Some(true) => Ok((None, None)),
            _ => find_both(&mut leases, profile, config, wanted, random),
        };
        let assembled = found.map(|(ipv4, ipv6)| {
            let grants = assemble(&leases, profile, config, &ipv4, &ipv6);
            (grants, pool_of(ipv4), pool_of(ipv6))
        });
        let changes = leases.take_changes();
        drop(leases);
        self.save_sticky(changes);
        let (grants, ipv4_pool, ipv6_pool) = assembled.map_err(|(reason, pool)| {
            self.tell_missing(reason, pool, profile);
            RejectReason::NoAddress
        })?;
        let limits = SessionLimits {
            session_timeout: profile.session_timeout.or(config.defaults.session_timeout),
            idle_timeout: profile.idle_timeout.or(config.defaults.idle_timeout),
        };
        let taken = self.table.session(id, |live| {
            live.session.grants = Some(grants.clone());
            live.session.ipv4_pool = ipv4_pool;
            live.session.ipv6_pool = ipv6_pool;
            live.session.limits = limits;
            live.become_state(State::Establishing);
        });
        if taken.is_none() {
            // It ended meanwhile: what it would have had goes back.
            self.give_back(id, &grants, now);
            return Err(RejectReason::Unavailable);
        }
        Ok(grants)
    }

    fn tell_missing(&self, reason: NoAddress, pool: String, profile: &Profile) {
        match reason {
            NoAddress::Exhausted { news: true } => self.tell(EngineEvent::PoolExhausted { pool }),
            NoAddress::NoPool => self.tell(EngineEvent::PoolUnknown {
                pool,
                identity: profile.identity.clone(),
            }),
            NoAddress::Exhausted { news: false } | NoAddress::Taken => {}
        }
    }

    fn give_back(&self, id: SessionId, grants: &Grants, now: Now) {
        self.table.session(id, |live| {
            live.session.grants = None;
            live.session.ipv4_pool = None;
            live.session.ipv6_pool = None;
        });
        let mut leases = lock(&self.leases);
        for address in Session::addresses_of(grants) {
            leases.release(address, id, to_millis(now.wall));
        }
        let changes = leases.take_changes();
        drop(leases);
        self.save_sticky(changes);
    }
}

fn pool_of(found: Found) -> Option<String> {
    found.and_then(|(_, pool)| pool)
}

/// Finds addresses of both families, or takes none.
fn find_both(
    leases: &mut Leases,
    profile: &Profile,
    config: &EngineConfig,
    wanted: For<'_>,
    random: u64,
) -> Result<(Found, Found), Missing> {
    let defaults = &config.defaults;
    let ipv4 = source(&profile.ipv4, &defaults.ipv4_pool, Address::V4);
    let ipv4 = find(leases, Family::V4, ipv4, wanted, random)?;
    let ipv6 = source(&profile.ipv6, &defaults.ipv6_pool, Address::V6);
    match find(leases, Family::V6, ipv6, wanted, random) {
        Ok(ipv6) => Ok((ipv4, ipv6)),
        Err(missing) => {
            if let Some((address, _)) = ipv4 {
                leases.release(address, wanted.session, wanted.now);
            }
            Err(missing)
        }
    }
}

/// Where an address is to come from.
enum Source<'a> {
    Pool(&'a str),
    Static(Address),
    Nowhere,
}

fn source<'a, T: Copy>(
    rule: &'a AddressRule<T>,
    default: &'a Option<String>,
    address: impl Fn(T) -> Address,
) -> Source<'a> {
    match rule {
        AddressRule::DefaultPool => default.as_deref().map_or(Source::Nowhere, Source::Pool),
        AddressRule::Pool(pool) => Source::Pool(pool),
        AddressRule::Static(fixed) => Source::Static(address(*fixed)),
        AddressRule::None => Source::Nowhere,
    }
}

fn find(
    leases: &mut Leases,
    family: Family,
    source: Source<'_>,
    wanted: For<'_>,
    random: u64,
) -> Result<Found, Missing> {
    match source {
        Source::Nowhere => Ok(None),
        Source::Pool(pool) => {
            let address = leases.allocate(family, pool, wanted, random);
            let address = address.map_err(|reason| (reason, pool.to_owned()))?;
            Ok(Some((address, Some(pool.to_owned()))))
        }
        Source::Static(address) => {
            let taken = leases.take(address, wanted);
            taken.map_err(|reason| (reason, String::new()))?;
            Ok(Some((address, None)))
        }
    }
}

/// Puts together what a session gets. Name servers: the user's own, else those of its address's pool, else the
/// defaults.
fn assemble(leases: &Leases, profile: &Profile, config: &EngineConfig, ipv4: &Found, ipv6: &Found) -> Grants {
    let defaults = &config.defaults;
    // A static address inside a pool's blocks is on the same link as the pool's.
    let pool = |found: &Found| {
        let (address, pool) = found.as_ref()?;
        match pool {
            Some(name) => leases.pool(name),
            None => leases.pool_around(*address),
        }
    };
    let (pool4, pool6) = (pool(ipv4), pool(ipv6));
    let mut grants = Grants {
        nbns: pool4.map(|pool| pool.nbns.clone()).unwrap_or_default(),
        mtu: profile.mtu.or(defaults.mtu),
        ..Grants::default()
    };
    if profile.dns.is_empty() {
        let fallback = split(&defaults.dns);
        let dns4 = pool4.map(|pool| pool.dns4.clone()).filter(|dns| !dns.is_empty());
        let dns6 = pool6.map(|pool| pool.dns6.clone()).filter(|dns| !dns.is_empty());
        grants.dns4 = dns4.unwrap_or(fallback.0);
        grants.dns6 = dns6.unwrap_or(fallback.1);
    } else {
        (grants.dns4, grants.dns6) = split(&profile.dns);
    }
    if let Some((Address::V4(address), _)) = ipv4 {
        grants.ipv4 = Some(*address);
        let of_pool = pool4.and_then(|pool| pool.gateway());
        let default_pool = defaults.ipv4_pool.as_deref().and_then(|name| leases.pool(name));
        let of_default = || default_pool.and_then(|pool| pool.gateway());
        grants.ipv4_gateway = of_pool.or(defaults.ipv4_gateway).or_else(of_default);
    }
    if let Some((Address::V6(prefix), _)) = ipv6 {
        grants.ipv6_prefix = Some(*prefix);
    }
    grants
}

fn split(addresses: &[IpAddr]) -> (Vec<Ipv4Addr>, Vec<Ipv6Addr>) {
    let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => ipv4.push(*address),
            IpAddr::V6(address) => ipv6.push(*address),
        }
    }
    (ipv4, ipv6)
}
