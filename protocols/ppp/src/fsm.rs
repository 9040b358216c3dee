//! The option negotiation automaton of RFC 1661, section 4.1, as a pure function: no timers, no packets.

use std::fmt;

/// States (RFC 1661, 4.2). The numbers are those of the table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// The lower layer is down and nobody wants the link.
    Initial = 0,
    /// The lower layer is down and the link is wanted.
    Starting = 1,
    /// The lower layer is up and nobody wants the link.
    Closed = 2,
    /// Wanted, but the peer does not take part: waits for its Configure-Request.
    Stopped = 3,
    /// We are ending the link.
    Closing = 4,
    /// The link is ending while it is still wanted.
    Stopping = 5,
    /// A Configure-Request was sent.
    ReqSent = 6,
    /// Ours was acknowledged, the peer's was not yet.
    AckRcvd = 7,
    /// The peer's was acknowledged, ours was not yet.
    AckSent = 8,
    /// Both were acknowledged.
    Opened = 9,
}

impl State {
    /// All states, by number.
    pub const ALL: [State; 10] = [
        State::Initial,
        State::Starting,
        State::Closed,
        State::Stopped,
        State::Closing,
        State::Stopping,
        State::ReqSent,
        State::AckRcvd,
        State::AckSent,
        State::Opened,
    ];

    /// Whether the restart timer runs in this state.
    pub fn has_timer(self) -> bool {
        (State::Closing..=State::AckSent).contains(&self)
    }

    /// Whether options are being negotiated.
    pub fn is_negotiating(self) -> bool {
        (State::ReqSent..=State::AckSent).contains(&self)
    }

    /// Whether the lower layer is up.
    pub fn is_up(self) -> bool {
        self >= State::Closed
    }
}

/// Events (RFC 1661, 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The lower layer is up.
    Up,
    /// The lower layer is down.
    Down,
    /// The link is wanted.
    Open,
    /// The link is no longer wanted.
    Close,
    /// TO+: the restart timer expired, tries are left.
    Timeout,
    /// TO-: the restart timer expired for the last time.
    LastTimeout,
    /// RCR+: an acceptable Configure-Request.
    GoodRequest,
    /// RCR-: a Configure-Request that cannot be accepted.
    BadRequest,
    /// RCA: a Configure-Ack.
    Ack,
    /// RCN: a Configure-Nak or Configure-Reject.
    Nak,
    /// RTR: a Terminate-Request.
    TerminateRequest,
    /// RTA: a Terminate-Ack.
    TerminateAck,
    /// RUC: a packet of unknown code.
    UnknownCode,
    /// RXJ+: a Code-Reject or Protocol-Reject of something we can do without.
    HarmlessReject,
    /// RXJ-: a Code-Reject or Protocol-Reject of something we cannot do without.
    FatalReject,
    /// RXR: Echo-Request, Echo-Reply, Discard-Request.
    Echo,
}

impl Event {
    /// All events, in the order of the table's rows.
    pub const ALL: [Event; 16] = [
        Event::Up,
        Event::Down,
        Event::Open,
        Event::Close,
        Event::Timeout,
        Event::LastTimeout,
        Event::GoodRequest,
        Event::BadRequest,
        Event::Ack,
        Event::Nak,
        Event::TerminateRequest,
        Event::TerminateAck,
        Event::UnknownCode,
        Event::HarmlessReject,
        Event::FatalReject,
        Event::Echo,
    ];
}

/// Actions (RFC 1661, 4.4), as a set. They are carried out in the order of the constants.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions(u16);

impl Actions {
    /// Nothing to do.
    pub const NONE: Actions = Actions(0);
    /// This-Layer-Down.
    pub const TLD: Actions = Actions(1);
    /// Initialize-Restart-Count.
    pub const IRC: Actions = Actions(1 << 1);
    /// Zero-Restart-Count.
    pub const ZRC: Actions = Actions(1 << 2);
    /// Send-Configure-Request.
    pub const SCR: Actions = Actions(1 << 3);
    /// Send-Configure-Ack.
    pub const SCA: Actions = Actions(1 << 4);
    /// Send-Configure-Nak or -Reject.
    pub const SCN: Actions = Actions(1 << 5);
    /// Send-Terminate-Request.
    pub const STR: Actions = Actions(1 << 6);
    /// Send-Terminate-Ack.
    pub const STA: Actions = Actions(1 << 7);
    /// Send-Code-Reject.
    pub const SCJ: Actions = Actions(1 << 8);
    /// Send-Echo-Reply.
    pub const SER: Actions = Actions(1 << 9);
    /// This-Layer-Up.
    pub const TLU: Actions = Actions(1 << 10);
    /// This-Layer-Started.
    pub const TLS: Actions = Actions(1 << 11);
    /// This-Layer-Finished.
    pub const TLF: Actions = Actions(1 << 12);

    const NAMES: [&'static str; 13] = [
        "tld", "irc", "zrc", "scr", "sca", "scn", "str", "sta", "scj", "ser", "tlu", "tls", "tlf",
    ];

    /// Both sets together.
    pub const fn and(self, other: Actions) -> Actions {
        Actions(self.0 | other.0)
    }

    /// Whether all of `other` are in this set.
    pub const fn has(self, other: Actions) -> bool {
        self.0 & other.0 == other.0
    }

    /// The actions' names in the RFC's letters.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let bits = self.0;
        Self::NAMES
            .into_iter()
            .enumerate()
            .filter(move |(index, _)| bits >> index & 1 == 1)
            .map(|(_, name)| name)
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

/// What an event does in a state: the actions and the new state. `None`: the event cannot happen there.
pub fn transition(state: State, event: Event) -> Option<(Actions, State)> {
    match event {
        Event::Up | Event::Down | Event::Open | Event::Close => administrative(state, event),
        Event::Timeout | Event::LastTimeout => timeout(state, event),
        _ if !state.is_up() => None,
        Event::GoodRequest | Event::BadRequest => request(state, event == Event::GoodRequest),
        Event::Ack => Some(ack(state)),
        Event::Nak => Some(nak(state)),
        Event::TerminateRequest => Some(terminate_request(state)),
        Event::TerminateAck => Some(terminate_ack(state)),
        Event::UnknownCode => Some((Actions::SCJ, state)),
        Event::HarmlessReject if state == State::AckRcvd => Some((Actions::NONE, State::ReqSent)),
        Event::HarmlessReject => Some((Actions::NONE, state)),
        Event::FatalReject => Some(fatal_reject(state)),
        Event::Echo if state == State::Opened => Some((Actions::SER, state)),
        Event::Echo => Some((Actions::NONE, state)),
    }
}

fn administrative(state: State, event: Event) -> Option<(Actions, State)> {
    use State::*;
    const BEGIN: Actions = Actions::IRC.and(Actions::SCR);
    const END: Actions = Actions::IRC.and(Actions::STR);
    Some(match (event, state) {
        (Event::Up, Initial) => (Actions::NONE, Closed),
        (Event::Up, Starting) => (BEGIN, ReqSent),
        (Event::Down, Closed | Closing) => (Actions::NONE, Initial),
        (Event::Down, Stopped) => (Actions::TLS, Starting),
        (Event::Down, Stopping | ReqSent | AckRcvd | AckSent) => (Actions::NONE, Starting),
        (Event::Down, Opened) => (Actions::TLD, Starting),
        (Event::Open, Initial) => (Actions::TLS, Starting),
        (Event::Open, Closed) => (BEGIN, ReqSent),
        (Event::Open, Closing) => (Actions::NONE, Stopping),
        (Event::Open, _) => (Actions::NONE, state),
        (Event::Close, Starting) => (Actions::TLF, Initial),
        (Event::Close, Stopped) => (Actions::NONE, Closed),
        (Event::Close, Stopping) => (Actions::NONE, Closing),
        (Event::Close, ReqSent | AckRcvd | AckSent) => (END, Closing),
        (Event::Close, Opened) => (Actions::TLD.and(END), Closing),
        (Event::Close, _) => (Actions::NONE, state),
        _ => return None,
    })
}

fn timeout(state: State, event: Event) -> Option<(Actions, State)> {
    use State::*;
    let tries_left = event == Event::Timeout;
    Some(match (state, tries_left) {
        (Closing | Stopping, true) => (Actions::STR, state),
        (Closing, false) => (Actions::TLF, Closed),
        (Stopping, false) => (Actions::TLF, Stopped),
        (ReqSent | AckRcvd, true) => (Actions::SCR, ReqSent),
        (AckSent, true) => (Actions::SCR, AckSent),
        (ReqSent | AckRcvd | AckSent, false) => (Actions::TLF, Stopped),
        _ => return None,
    })
}

fn request(state: State, good: bool) -> Option<(Actions, State)> {
    use State::*;
    let answer = if good { Actions::SCA } else { Actions::SCN };
    let answered = if good { AckSent } else { ReqSent };
    Some(match state {
        Initial | Starting => return None,
        Closed => (Actions::STA, Closed),
        Stopped => (Actions::IRC.and(Actions::SCR).and(answer), answered),
        Closing | Stopping => (Actions::NONE, state),
        ReqSent | AckSent => (answer, answered),
        AckRcvd if good => (answer.and(Actions::TLU), Opened),
        AckRcvd => (answer, AckRcvd),
        Opened => (Actions::TLD.and(Actions::SCR).and(answer), answered),
    })
}

fn ack(state: State) -> (Actions, State) {
    use State::*;
    match state {
        Closed | Stopped => (Actions::STA, state),
        ReqSent => (Actions::IRC, AckRcvd),
        AckRcvd => (Actions::SCR, ReqSent),
        AckSent => (Actions::IRC.and(Actions::TLU), Opened),
        Opened => (Actions::TLD.and(Actions::SCR), ReqSent),
        Initial | Starting | Closing | Stopping => (Actions::NONE, state),
    }
}

fn nak(state: State) -> (Actions, State) {
    use State::*;
    match state {
        Closed | Stopped => (Actions::STA, state),
        ReqSent | AckSent => (Actions::IRC.and(Actions::SCR), state),
        AckRcvd => (Actions::SCR, ReqSent),
        Opened => (Actions::TLD.and(Actions::SCR), ReqSent),
        Initial | Starting | Closing | Stopping => (Actions::NONE, state),
    }
}

fn terminate_request(state: State) -> (Actions, State) {
    use State::*;
    match state {
        ReqSent | AckRcvd | AckSent => (Actions::STA, ReqSent),
        Opened => (Actions::TLD.and(Actions::ZRC).and(Actions::STA), Stopping),
        _ => (Actions::STA, state),
    }
}

fn terminate_ack(state: State) -> (Actions, State) {
    use State::*;
    match state {
        Closing => (Actions::TLF, Closed),
        Stopping => (Actions::TLF, Stopped),
        AckRcvd => (Actions::NONE, ReqSent),
        Opened => (Actions::TLD.and(Actions::SCR), ReqSent),
        _ => (Actions::NONE, state),
    }
}

fn fatal_reject(state: State) -> (Actions, State) {
    use State::*;
    match state {
        Closed | Closing => (Actions::TLF, Closed),
        Opened => (Actions::TLD.and(Actions::IRC).and(Actions::STR), Stopping),
        _ => (Actions::TLF, Stopped),
    }
}
