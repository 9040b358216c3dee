//! One control protocol at work: the automaton of RFC 1661 with its timer, counters, identifiers and packets.
//! LCP, IPCP and IPV6CP differ in their [`Options`] only.

use crate::drops;
use crate::fsm::{Actions, Event, State, transition};
use crate::header::protocol;
use crate::output::Env;
use crate::wire::{OptionWalk, Packet, RawOption, code};
use std::time::{Duration, Instant};

/// Rounds of a negotiation (Configure-Requests judged, and refusals of ours) before it is given up: the RFC
/// asks for a limit of one's own (RFC 1661, 4.5). A negotiation in which every option is refused once and
/// Naks reach their limit takes less than twenty.
const MAX_ROUNDS: u8 = 32;
/// Times that a repeated Configure-Request is acknowledged again while open before it is taken for a new one.
const MAX_REPEATS: u8 = 3;
/// How long after opening, in restart intervals, a repeated Configure-Request is taken for a repetition.
const REPEAT_WINDOW: u32 = 4;
/// Silence after which a peer that speaks for the first time is taken for one that was not there before. A peer
/// with a shorter way has answered by then.
const LATE_PEER: Duration = Duration::from_millis(5);

/// Why a negotiation cannot succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// We are talking to ourselves.
    Loopback,
    /// The peer does not let itself be authenticated, or wants us to be by a way we don't know.
    AuthRefused,
    /// Too many rounds.
    NotConverging,
    /// We were given no address.
    NoAddress,
}

/// What a control protocol tells the layer above after each step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    /// This-Layer-Down.
    pub(crate) down: bool,
    /// This-Layer-Up.
    pub(crate) up: bool,
    /// This-Layer-Finished.
    pub(crate) finished: bool,
    /// The negotiation cannot succeed: close.
    pub(crate) failure: Option<Failure>,
}

/// The answer to a Configure-Request.
pub(crate) enum Judgement {
    /// Every option is acceptable.
    Ack,
    /// Configure-Nak with these options.
    Nak(Vec<u8>),
    /// Configure-Reject with these options.
    Reject(Vec<u8>),
    /// It can never be acceptable.
    Fail(Failure),
}

/// Collects the options to refuse. Rejects go before Naks (RFC 1661, 5.3 and 5.4).
pub(crate) struct Judge {
    nak: Vec<u8>,
    reject: Vec<u8>,
    may_nak: bool,
}

impl Judge {
    /// An option that we never accept.
    pub(crate) fn reject(&mut self, option: RawOption<'_>) {
        self.reject.extend_from_slice(option.whole);
    }

    /// An option with a value that we don't accept; `suggest` appends one that we do. Once the peer got too many
    /// Naks the option is rejected instead (RFC 1661, 4.6: Max-Failure).
    pub(crate) fn nak(&mut self, option: RawOption<'_>, suggest: impl FnOnce(&mut Vec<u8>)) {
        if self.may_nak {
            suggest(&mut self.nak);
        } else {
            self.reject(option);
        }
    }

    /// Asks for an option that the peer left out.
    pub(crate) fn ask(&mut self, suggest: impl FnOnce(&mut Vec<u8>)) {
        if self.may_nak {
            suggest(&mut self.nak);
        }
    }

    /// What to answer.
    pub(crate) fn conclude(self) -> Judgement {
        if !self.reject.is_empty() {
            Judgement::Reject(self.reject)
        } else if !self.nak.is_empty() {
            Judgement::Nak(self.nak)
        } else {
            Judgement::Ack
        }
    }
}

/// The options of one control protocol.
pub(crate) trait Options {
    /// Its protocol number.
    const PROTOCOL: u16;

    /// A negotiation begins: ask for what we want, whatever was refused before.
    fn restart(&mut self, env: &mut Env<'_>);

    /// Appends the options we ask for. Between two calls of other methods it always gives the same.
    fn request(&self, out: &mut Vec<u8>);

    /// Looks at the peer's options, which can all be read. What is acknowledged applies from now on.
    fn judge(&mut self, options: OptionWalk<'_>, judge: Judge, env: &mut Env<'_>) -> Judgement;

    /// The peer acknowledged ours.
    fn acked(&mut self) -> Result<(), Failure>;

    /// The peer suggests other values.
    fn naked(&mut self, options: OptionWalk<'_>, env: &mut Env<'_>) -> Result<(), Failure>;

    /// The peer rejects options of ours.
    fn rejected(&mut self, options: OptionWalk<'_>) -> Result<(), Failure>;
}

/// The Configure-Requests that came lately, by a digest, so that repetitions and stragglers on a path that
/// duplicates and reorders are told from a peer that begins anew.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    last: Option<u32>,
    older: [Option<u32>; 3],
    repeats: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    New,
    Repeated,
    Stale,
}

impl Recent {
    fn look(&mut self, packet: Packet<'_>) -> Seen {
        // FNV-1a: a collision costs the peer a retransmission, nothing else.
        let digest = packet
            .body
            .iter()
            .chain([&packet.id])
            .fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
            });
        if self.last == Some(digest) {
            return Seen::Repeated;
        }
        if let Some(slot) = self.older.iter_mut().find(|slot| **slot == Some(digest)) {
            // Once only: a peer that insists has begun anew with the same words.
            *slot = None;
            return Seen::Stale;
        }
        let [a, b, _] = self.older;
        self.older = [self.last, a, b];
        self.last = Some(digest);
        self.repeats = 0;
        Seen::New
    }
}

/// What the actions that answer a packet are to send.
#[derive(Clone, Copy)]
struct Reply<'a> {
    code: u8,
    id: u8,
    body: &'a [u8],
}

const NO_REPLY: Reply<'static> = Reply {
    code: 0,
    id: 0,
    body: &[],
};

/// One control protocol.
pub(crate) struct Cp<O> {
    pub(crate) options: O,
    state: State,
    /// Identifier of the last Configure-Request sent.
    request_id: u8,
    /// Whether an answer to it is still to come.
    awaiting: bool,
    /// Identifier of the next packet that we begin an exchange with.
    next_id: u8,
    restart_count: u8,
    /// Configure-Naks sent since the last Configure-Ack.
    naks: u8,
    rounds: u8,
    /// The peer sent a Terminate-Request while we were negotiating.
    peer_left: bool,
    /// When the first Configure-Request since the lower layer came up was sent, until the peer is heard.
    unheard: Option<Instant>,
    recent: Recent,
    opened: Option<Instant>,
    timer: Option<Instant>,
    /// What our Terminate-Request says.
    farewell: &'static str,
}

impl<O: Options> Cp<O> {
    pub(crate) fn new(options: O) -> Self {
        Self {
            options,
            state: State::Initial,
            request_id: 0,
            awaiting: false,
            next_id: 1,
            restart_count: 0,
            naks: 0,
            rounds: 0,
            peer_left: false,
            unheard: None,
            recent: Recent::default(),
            opened: None,
            timer: None,
            farewell: "",
        }
    }

    /// Goes on in `state` with this identifier for the next packet: from a checkpoint, or from a LAC.
    pub(crate) fn resume(&mut self, state: State, next_id: u8) {
        self.state = state;
        self.next_id = next_id;
    }

    /// Whether it is not open and will not be so again by itself.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(
            self.state,
            State::Initial | State::Starting | State::Closed | State::Closing
        )
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == State::Opened
    }

    pub(crate) fn timer(&self) -> Option<Instant> {
        self.timer
    }

    pub(crate) fn peer_left(&self) -> bool {
        self.peer_left
    }

    pub(crate) fn next_id(&self) -> u8 {
        self.next_id
    }

    /// An identifier for a packet that begins an exchange.
    pub(crate) fn take_id(&mut self) -> u8 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }

    pub(crate) fn open(&mut self, env: &mut Env<'_>) -> Signals {
        self.run(Event::Open, NO_REPLY, env)
    }

    pub(crate) fn up(&mut self, env: &mut Env<'_>) -> Signals {
        self.rounds = 0;
        self.naks = 0;
        self.recent = Recent::default();
        self.unheard = Some(env.now);
        self.run(Event::Up, NO_REPLY, env)
    }

    pub(crate) fn close(&mut self, farewell: &'static str, env: &mut Env<'_>) -> Signals {
        self.farewell = farewell;
        self.run(Event::Close, NO_REPLY, env)
    }

    /// The peer refuses the whole protocol in a way that cannot be got over (RXJ-).
    pub(crate) fn refused(&mut self, env: &mut Env<'_>) -> Signals {
        self.run(Event::FatalReject, NO_REPLY, env)
    }

    pub(crate) fn handle_timeout(&mut self, env: &mut Env<'_>) -> Signals {
        if self.timer.is_none_or(|at| at > env.now) {
            return Signals::default();
        }
        self.timer = None;
        let again = self.restart_count > 0 && !(self.peer_left && self.state.is_negotiating());
        let event = if again { Event::Timeout } else { Event::LastTimeout };
        self.run(event, NO_REPLY, env)
    }

    /// A packet of this protocol, other than the codes that only LCP has.
    pub(crate) fn handle(&mut self, packet: Packet<'_>, env: &mut Env<'_>) -> Signals {
        if !self.state.is_up() {
            env.out.dropped(drops::PHASE);
            return Signals::default();
        }
        let reply = Reply {
            code: code::TERMINATE_ACK,
            id: packet.id,
            body: &[],
        };
        match packet.code {
            code::CONFIGURE_REQUEST => self.handle_request(packet, env),
            code::CONFIGURE_ACK | code::CONFIGURE_NAK | code::CONFIGURE_REJECT => {
                self.handle_answer(packet, env)
            }
            code::TERMINATE_REQUEST => {
                self.peer_left |= self.state.is_negotiating();
                self.run(Event::TerminateRequest, reply, env)
            }
            // While open it takes the link down, as a new Configure-Request does.
            code::TERMINATE_ACK if self.is_open() && !env.limits.renegotiation(env.now) => {
                env.out.dropped(drops::LIMIT);
                Signals::default()
            }
            code::TERMINATE_ACK => self.run(Event::TerminateAck, reply, env),
            code::CODE_REJECT => self.handle_code_reject(packet, env),
            _ => self.handle_unknown(packet, env),
        }
    }

    fn handle_request(&mut self, packet: Packet<'_>, env: &mut Env<'_>) -> Signals {
        if !packet.options().is_sound() {
            env.out.dropped(drops::MALFORMED);
            return Signals::default();
        }
        let mut reply = Reply {
            code: code::CONFIGURE_ACK,
            id: packet.id,
            body: packet.body,
        };
        if matches!(self.state, State::Closed | State::Closing | State::Stopping) {
            return self.run(Event::GoodRequest, reply, env);
        }
        let seen = self.recent.look(packet);
        if seen == Seen::Stale {
            env.out.dropped(drops::STALE);
            return Signals::default();
        }
        if seen == Seen::Repeated && self.is_open() && self.is_repetition(env) {
            env.out.send_packet(O::PROTOCOL, reply.code, reply.id, reply.body);
            return Signals::default();
        }
        if self.is_open() && !env.limits.renegotiation(env.now) {
            env.out.dropped(drops::LIMIT);
            return Signals::default();
        }
        self.peer_left = false;
        if let Err(signals) = self.count_round() {
            return signals;
        }
        self.repeat_for_late_peer(env);
        let judge = Judge {
            nak: Vec::new(),
            reject: Vec::new(),
            may_nak: self.naks < env.config.max_failure,
        };
        let body = match self.options.judge(packet.options(), judge, env) {
            Judgement::Ack => {
                self.naks = 0;
                return self.run(Event::GoodRequest, reply, env);
            }
            Judgement::Fail(failure) => return failed(failure),
            Judgement::Nak(body) => {
                reply.code = code::CONFIGURE_NAK;
                // A Nak that only repeats the last is no sign that the peer does not listen.
                self.naks = self.naks.saturating_add(u8::from(seen == Seen::New));
                body
            }
            Judgement::Reject(body) => {
                reply.code = code::CONFIGURE_REJECT;
                body
            }
        };
        reply.body = &body;
        self.run(Event::BadRequest, reply, env)
    }

    /// The peer speaks for the first time, and our Configure-Request is without an answer. Often the peer was not
    /// there yet when it came: a LAC says that a call is connected before its PPP has started. So the request is
    /// repeated at once instead of when the restart timer runs out. It goes before our answer: a peer that has it
    /// already acknowledges it again and opens only then (RFC 1661, 4.1: RCR+ in Ack-Sent).
    fn repeat_for_late_peer(&mut self, env: &mut Env<'_>) {
        let Some(since) = self.unheard.take() else { return };
        let late = env.now.saturating_duration_since(since) >= LATE_PEER;
        if O::PROTOCOL == protocol::LCP && late && self.awaiting && self.state == State::ReqSent {
            self.send_request(true, env);
        }
    }

    /// While open, the Configure-Request that was acknowledged last comes again soon: our Configure-Ack was lost,
    /// or the path duplicates. To acknowledge it again is what the peer needs; to go back to negotiating, as a
    /// new one would have it, would take down a link that works.
    fn is_repetition(&mut self, env: &Env<'_>) -> bool {
        let window = env.config.restart_interval * REPEAT_WINDOW;
        let soon = self
            .opened
            .is_some_and(|opened| env.now.saturating_duration_since(opened) <= window);
        self.recent.repeats = self.recent.repeats.saturating_add(1);
        soon && self.recent.repeats <= MAX_REPEATS
    }

    fn handle_answer(&mut self, packet: Packet<'_>, env: &mut Env<'_>) -> Signals {
        self.unheard = None;
        if !self.awaiting || packet.id != self.request_id {
            env.out.dropped(drops::STALE);
            return Signals::default();
        }
        let mut asked = Vec::new();
        self.options.request(&mut asked);
        let fits = match packet.code {
            code::CONFIGURE_ACK => packet.body == asked,
            code::CONFIGURE_REJECT => {
                !packet.body.is_empty() && packet.options().is_sound() && is_among(packet.options(), &asked)
            }
            _ => packet.options().is_sound(),
        };
        if !fits {
            env.out.dropped(drops::MALFORMED);
            return Signals::default();
        }
        self.awaiting = false;
        let (event, outcome) = match packet.code {
            code::CONFIGURE_ACK => (Event::Ack, self.options.acked()),
            code::CONFIGURE_NAK => (Event::Nak, self.options.naked(packet.options(), env)),
            _ => (Event::Nak, self.options.rejected(packet.options())),
        };
        if let Err(failure) = outcome {
            return failed(failure);
        }
        if event == Event::Nak
            && let Err(signals) = self.count_round()
        {
            return signals;
        }
        self.run(event, NO_REPLY, env)
    }

    fn count_round(&mut self) -> Result<(), Signals> {
        self.rounds = self.rounds.saturating_add(1);
        if self.rounds > MAX_ROUNDS {
            return Err(failed(Failure::NotConverging));
        }
        Ok(())
    }

    fn handle_code_reject(&mut self, packet: Packet<'_>, env: &mut Env<'_>) -> Signals {
        match packet.rejected_code() {
            Ok(code::CONFIGURE_REQUEST..=code::CODE_REJECT) => self.run(Event::FatalReject, NO_REPLY, env),
            Ok(_) => self.run(Event::HarmlessReject, NO_REPLY, env),
            Err(_) => {
                env.out.dropped(drops::MALFORMED);
                Signals::default()
            }
        }
    }

    fn handle_unknown(&mut self, packet: Packet<'_>, env: &mut Env<'_>) -> Signals {
        if !env.limits.reject(env.now) {
            env.out.dropped(drops::LIMIT);
            return Signals::default();
        }
        let mut body = Vec::new();
        packet.encode(&mut body);
        body.truncate(usize::from(env.peer_mru).saturating_sub(crate::wire::HEADER));
        let reply = Reply {
            code: code::CODE_REJECT,
            id: 0,
            body: &body,
        };
        self.run(Event::UnknownCode, reply, env)
    }

    /// Takes the automaton one step and carries out its actions.
    fn run(&mut self, event: Event, reply: Reply<'_>, env: &mut Env<'_>) -> Signals {
        let Some((actions, next)) = transition(self.state, event) else {
            return Signals::default();
        };
        let terminating = matches!(next, State::Closing | State::Stopping);
        if actions.has(Actions::IRC) {
            self.restart_count = if terminating {
                env.config.max_terminate
            } else {
                env.config.max_configure
            };
        }
        if actions.has(Actions::ZRC) {
            self.restart_count = 0;
            self.arm(env);
        }
        if actions.has(Actions::SCR) {
            self.send_request(event == Event::Timeout, env);
        }
        if actions.has(Actions::SCA) || actions.has(Actions::SCN) {
            env.out.send_packet(O::PROTOCOL, reply.code, reply.id, reply.body);
        }
        if actions.has(Actions::STR) {
            self.restart_count = self.restart_count.saturating_sub(1);
            let id = self.take_id();
            env.out
                .send_packet(O::PROTOCOL, code::TERMINATE_REQUEST, id, self.farewell.as_bytes());
            self.arm(env);
        }
        if actions.has(Actions::STA) {
            env.out
                .send_packet(O::PROTOCOL, code::TERMINATE_ACK, reply.id, &[]);
        }
        if actions.has(Actions::SCJ) {
            let id = self.take_id();
            env.out
                .send_packet(O::PROTOCOL, code::CODE_REJECT, id, reply.body);
        }
        self.enter(next, actions, env.now)
    }

    fn enter(&mut self, next: State, actions: Actions, now: Instant) -> Signals {
        self.state = next;
        if !next.has_timer() {
            self.timer = None;
        }
        if actions.has(Actions::TLU) {
            self.opened = Some(now);
            self.rounds = 0;
            self.recent.repeats = 0;
        }
        Signals {
            down: actions.has(Actions::TLD),
            up: actions.has(Actions::TLU),
            finished: actions.has(Actions::TLF),
            failure: None,
        }
    }

    /// Sends a Configure-Request. One that only repeats the last keeps its identifier (RFC 1661, 5.1), so that an
    /// answer which is merely late still counts.
    fn send_request(&mut self, repeat: bool, env: &mut Env<'_>) {
        if !self.state.is_negotiating() {
            self.options.restart(env);
        }
        if !repeat {
            self.request_id = self.take_id();
        }
        self.awaiting = true;
        self.restart_count = self.restart_count.saturating_sub(1);
        let mut body = Vec::new();
        self.options.request(&mut body);
        env.out
            .send_packet(O::PROTOCOL, code::CONFIGURE_REQUEST, self.request_id, &body);
        self.arm(env);
    }

    fn arm(&mut self, env: &Env<'_>) {
        self.timer = Some(env.now + env.config.restart_interval.max(MIN_RESTART));
    }
}

/// Shortest restart interval: keeps a mistaken configuration from sending without a pause.
const MIN_RESTART: Duration = Duration::from_millis(10);

fn failed(failure: Failure) -> Signals {
    Signals {
        failure: Some(failure),
        ..Signals::default()
    }
}

/// Whether every type in `options` is one of those in `asked`.
fn is_among(options: OptionWalk<'_>, asked: &[u8]) -> bool {
    options.flatten().all(|option| {
        OptionWalk::new(asked)
            .flatten()
            .any(|other| other.kind == option.kind)
    })
}
