//! The options of LCP (RFC 1661, 6; RFC 1662, 7).

use crate::api::Carrier;
use crate::config::{DEFAULT_MRU, MIN_MRU, PppConfig};
use crate::cp::{Failure, Judge, Judgement, Options};
use crate::header::protocol;
use crate::output::Env;
use crate::wire::{AuthOffer, AuthProtocol, LcpOption, OptionWalk, RawOption};
use sluice_auth::{Coverage, Verifiable};
use sluice_spi::{Entropy, random_u32};

/// Equal magic numbers in a row that prove a loop: that three random ones agree by chance has a probability of
/// 1.3e-29 (RFC 1661, 6.4).
pub(crate) const MAX_COLLISIONS: u8 = 3;
/// Map of a peer that negotiates none: everything is escaped (RFC 1662, 7.1).
pub(crate) const DEFAULT_ACCM: u32 = u32::MAX;

/// One side's options; what is absent has its default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LcpValues {
    pub(crate) mru: Option<u16>,
    pub(crate) accm: Option<u32>,
    /// How this side wants the other to authenticate.
    pub(crate) auth: Option<AuthProtocol>,
    /// 0: none.
    pub(crate) magic: u32,
    pub(crate) pfc: bool,
    pub(crate) acfc: bool,
}

impl LcpValues {
    /// Largest information field this side takes.
    pub(crate) fn mru(&self) -> u16 {
        self.mru.unwrap_or(DEFAULT_MRU)
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let magic = Some(self.magic).filter(|&magic| magic != 0);
        let options = [
            self.mru.map(LcpOption::Mru),
            self.accm.map(LcpOption::Accm),
            self.auth.map(|method| LcpOption::Auth(method.into())),
            magic.map(LcpOption::Magic),
            self.pfc.then_some(LcpOption::Pfc),
            self.acfc.then_some(LcpOption::Acfc),
        ];
        for option in options.into_iter().flatten() {
            option.encode(out);
        }
    }
}

/// LCP's side of a negotiation.
pub(crate) struct Lcp {
    /// What we begin with.
    wanted: LcpValues,
    /// What we ask for now; once open, what the peer agreed to.
    pub(crate) ours: LcpValues,
    /// What the peer asked for and got.
    pub(crate) peer: LcpValues,
    /// Whether we can answer a peer that asks who we are.
    has_login: bool,
    /// The methods that may be agreed on, the preferred one first.
    methods: Box<[AuthProtocol]>,
    /// Magic number that we suggested in the last Configure-Nak.
    suggested: u32,
    collisions: u8,
    /// Times the peer suggested another way to authenticate.
    auth_naks: u8,
}

impl Lcp {
    /// `demand_auth`: the peer has to authenticate itself. `carrier` says how much it takes, and what can be checked.
    pub(crate) fn new(config: &PppConfig, demand_auth: bool, has_login: bool, carrier: &Carrier) -> Self {
        let largest = carrier.mtu;
        let methods = methods(config, demand_auth.then_some(&carrier.verifiable));
        let mru = config.mru.unwrap_or(DEFAULT_MRU).min(largest.max(MIN_MRU));
        let wanted = LcpValues {
            mru: Some(mru).filter(|&mru| mru != DEFAULT_MRU),
            accm: Some(config.accm),
            auth: methods.first().copied().filter(|_| demand_auth),
            magic: 0,
            pfc: config.pfc,
            acfc: config.acfc,
        };
        Self {
            wanted,
            ours: wanted,
            peer: LcpValues::default(),
            has_login,
            methods,
            suggested: 0,
            collisions: 0,
            auth_naks: 0,
        }
    }

    /// Begins with what a LAC and the peer agreed on, as far as it is less than what we would ask for.
    pub(crate) fn start_from(&mut self, agreed: &LcpValues) {
        let mru = self.wanted.mru().min(agreed.mru().max(MIN_MRU));
        self.wanted.mru = Some(mru).filter(|&mru| mru != DEFAULT_MRU);
        self.wanted.accm = agreed.accm.or(self.wanted.accm);
        self.wanted.pfc &= agreed.pfc;
        self.wanted.acfc &= agreed.acfc;
    }

    /// Goes on with what was agreed before, by a LAC or before a restart.
    pub(crate) fn adopt(&mut self, ours: LcpValues, peer: LcpValues) {
        self.ours = ours;
        self.peer = peer;
    }

    /// Whether a peer may prove who it is by this.
    pub(crate) fn permits(&self, method: AuthProtocol) -> bool {
        self.methods.contains(&method)
    }

    fn judge_auth(&self, option: RawOption<'_>, asked: AuthOffer, values: &mut LcpValues, judge: &mut Judge) {
        match asked {
            _ if !self.has_login => judge.reject(option),
            _ => match (asked.spoken(), self.methods.first()) {
                (Some(method), _) if self.permits(method) => values.auth = Some(method),
                (_, Some(&best)) => judge.nak(option, |out| LcpOption::Auth(best.into()).encode(out)),
                (_, None) => judge.reject(option),
            },
        }
    }

    /// What to ask for after the peer suggested something else.
    fn after_nak(&self, suggested: Option<AuthProtocol>) -> Option<AuthProtocol> {
        if suggested.is_some_and(|method| self.methods.contains(&method)) {
            return suggested;
        }
        let mut rest = self
            .methods
            .iter()
            .skip_while(|&&method| Some(method) != self.ours.auth);
        rest.nth(1).or(self.methods.last()).copied()
    }

    /// The comparison of RFC 1661, 6.4: a request with our own magic number gets a Configure-Nak with another
    /// one, whatever else is in it. `None`: it has another.
    fn judge_collision(&mut self, options: OptionWalk<'_>, entropy: &mut dyn Entropy) -> Option<Judgement> {
        let ours = LcpOption::Magic(self.ours.magic);
        let collides =
            self.ours.magic != 0 && options.flatten().any(|option| LcpOption::decode(option) == ours);
        if !collides {
            self.collisions = 0;
            return None;
        }
        self.collisions = self.collisions.saturating_add(1);
        if self.collisions >= MAX_COLLISIONS {
            return Some(Judgement::Fail(Failure::Loopback));
        }
        self.suggested = new_magic(entropy, &[self.ours.magic]);
        let mut nak = Vec::new();
        LcpOption::Magic(self.suggested).encode(&mut nak);
        Some(Judgement::Nak(nak))
    }

    fn suggest_magic(&mut self, option: RawOption<'_>, judge: &mut Judge, entropy: &mut dyn Entropy) {
        self.suggested = new_magic(entropy, &[self.ours.magic]);
        judge.nak(option, |out| LcpOption::Magic(self.suggested).encode(out));
    }

    fn judge_bad_length(&mut self, option: RawOption<'_>, judge: &mut Judge, entropy: &mut dyn Entropy) {
        // A Configure-Nak shows how the option would be right (RFC 1661, 6).
        match option.kind {
            LcpOption::MRU => judge.nak(option, |out| LcpOption::Mru(DEFAULT_MRU).encode(out)),
            LcpOption::ACCM => judge.nak(option, |out| LcpOption::Accm(0).encode(out)),
            LcpOption::MAGIC => self.suggest_magic(option, judge, entropy),
            LcpOption::PFC => judge.nak(option, |out| LcpOption::Pfc.encode(out)),
            LcpOption::ACFC => judge.nak(option, |out| LcpOption::Acfc.encode(out)),
            _ => judge.reject(option),
        }
    }
}

/// The methods of the configuration in its order, each once. As the server those come first that can be checked for
/// everybody, and those that nobody can be checked by are left out, unless that leaves none.
fn methods(config: &PppConfig, verifiable: Option<&Verifiable>) -> Box<[AuthProtocol]> {
    let Some(verifiable) = verifiable else {
        return config.auth_methods.clone().into();
    };
    let of = |wanted: Coverage| {
        let methods = config.auth_methods.iter().copied();
        methods.filter(move |&method| method.coverage(verifiable, &config.eap_methods) == wanted)
    };
    let found: Box<[AuthProtocol]> = of(Coverage::All).chain(of(Coverage::Some)).collect();
    if found.is_empty() {
        return config.auth_methods.clone().into();
    }
    found
}

/// A magic number other than 0 and those given.
fn new_magic(entropy: &mut dyn Entropy, not: &[u32]) -> u32 {
    let mut magic = random_u32(entropy);
    while magic == 0 || not.contains(&magic) {
        magic = magic.wrapping_add(1);
    }
    magic
}

impl Options for Lcp {
    const PROTOCOL: u16 = protocol::LCP;

    fn restart(&mut self, env: &mut Env<'_>) {
        let magic = new_magic(env.entropy, &[self.ours.magic, self.peer.magic]);
        self.ours = LcpValues { magic, ..self.wanted };
        self.auth_naks = 0;
    }

    fn request(&self, out: &mut Vec<u8>) {
        self.ours.encode(out);
    }

    fn judge(&mut self, options: OptionWalk<'_>, mut judge: Judge, env: &mut Env<'_>) -> Judgement {
        if let Some(judgement) = self.judge_collision(options, env.entropy) {
            return judgement;
        }
        let mut values = LcpValues::default();
        for option in options.flatten() {
            match LcpOption::decode(option) {
                LcpOption::Mru(mru) if mru < MIN_MRU => {
                    judge.nak(option, |out| LcpOption::Mru(MIN_MRU).encode(out));
                }
                LcpOption::Mru(mru) => values.mru = Some(mru),
                LcpOption::Accm(accm) => values.accm = Some(accm),
                LcpOption::Auth(asked) => self.judge_auth(option, asked, &mut values, &mut judge),
                LcpOption::Magic(0) => self.suggest_magic(option, &mut judge, env.entropy),
                LcpOption::Magic(magic) => values.magic = magic,
                LcpOption::Pfc => values.pfc = true,
                LcpOption::Acfc => values.acfc = true,
                LcpOption::BadLength(_) => self.judge_bad_length(option, &mut judge, env.entropy),
                LcpOption::Quality(_)
                | LcpOption::Callback(_)
                | LcpOption::Mrru(_)
                | LcpOption::ShortSequence
                | LcpOption::Endpoint(..)
                | LcpOption::Unknown(_) => judge.reject(option),
            }
        }
        let judgement = judge.conclude();
        if matches!(judgement, Judgement::Ack) {
            self.peer = values;
        }
        judgement
    }

    fn acked(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn naked(&mut self, options: OptionWalk<'_>, env: &mut Env<'_>) -> Result<(), Failure> {
        for option in options.flatten() {
            match LcpOption::decode(option) {
                // We take less than we offered, never more: more does not fit the carrier.
                LcpOption::Mru(mru) if (MIN_MRU..self.wanted.mru()).contains(&mru) => {
                    self.ours.mru = Some(mru)
                }
                LcpOption::Accm(accm) => self.ours.accm = self.ours.accm.map(|ours| ours | accm),
                LcpOption::Auth(asked) if self.ours.auth.is_some() => {
                    // What the peer suggests, else our next, and not for ever.
                    self.ours.auth = self.after_nak(asked.spoken());
                    self.auth_naks = self.auth_naks.saturating_add(1);
                    if self.auth_naks >= env.config.max_failure {
                        return Err(Failure::AuthRefused);
                    }
                }
                LcpOption::Magic(magic) if self.ours.magic != 0 => {
                    if magic == self.suggested {
                        self.collisions = self.collisions.saturating_add(1);
                        if self.collisions >= MAX_COLLISIONS {
                            return Err(Failure::Loopback);
                        }
                    }
                    self.ours.magic = new_magic(env.entropy, &[self.ours.magic, self.peer.magic, magic]);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn rejected(&mut self, options: OptionWalk<'_>) -> Result<(), Failure> {
        for option in options.flatten() {
            match option.kind {
                LcpOption::MRU => self.ours.mru = None,
                LcpOption::ACCM => self.ours.accm = None,
                LcpOption::AUTH => return Err(Failure::AuthRefused),
                LcpOption::MAGIC => self.ours.magic = 0,
                LcpOption::PFC => self.ours.pfc = false,
                LcpOption::ACFC => self.ours.acfc = false,
                _ => {}
            }
        }
        Ok(())
    }
}
