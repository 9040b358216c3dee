//! One call of a tunnel.

use crate::codec::{DataState, Sequencing};
use crate::wire::message::CallErrors;
use bytes::Bytes;
use sluice_auth::Verifiable;
use sluice_ppp::{Accm, Login, Ppp, PppHeader};
use sluice_spi::LocalRef;
use std::time::Instant;

/// Frames kept that arrive before the message which lets a call carry data. A client's first LCP frame follows
/// its ICCN by 90 µs, and may overtake it.
pub(crate) const EARLY_FRAMES: usize = 4;

/// Which of the four state tables of RFC 2661, 7.4 and 7.5 a call follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Incoming call, we are the LNS.
    IncomingLns,
    /// Incoming call, we are the LAC.
    IncomingLac,
    /// Outgoing call, we are the LNS.
    OutgoingLns,
    /// Outgoing call, we are the LAC.
    OutgoingLac,
}

impl Kind {
    /// Whether we asked the peer for the call.
    pub(crate) fn is_placed(self) -> bool {
        matches!(self, Kind::IncomingLac | Kind::OutgoingLns)
    }

    /// Whether we are the LNS of the call.
    pub(crate) fn is_lns(self) -> bool {
        matches!(self, Kind::IncomingLns | Kind::OutgoingLns)
    }

    /// The name that operators see.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::IncomingLns | Kind::IncomingLac => "incoming",
            Kind::OutgoingLns | Kind::OutgoingLac => "outgoing",
        }
    }
}

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallState {
    /// The engine was asked whether it may be.
    Admission,
    /// The tunnel is not established yet.
    WaitTunnel,
    /// ICRQ or OCRQ sent.
    WaitReply,
    /// ICRP sent, or OCRP received.
    WaitConnect,
    /// Data flows.
    Established,
}

impl CallState {
    /// The name that operators see.
    pub(crate) fn name(self) -> &'static str {
        match self {
            CallState::Admission => "admission",
            CallState::WaitTunnel => "wait-tunnel",
            CallState::WaitReply => "wait-reply",
            CallState::WaitConnect => "wait-connect",
            CallState::Established => "established",
        }
    }
}

/// Where the data plane stands with a call's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathStage {
    /// We have asked for it.
    pub(crate) wanted: bool,
    /// The driver has taken our request.
    pub(crate) live: bool,
}

/// One call.
pub(crate) struct Call {
    pub(crate) local: LocalRef,
    pub(crate) sid: u16,
    /// The peer's session id; 0: not known yet.
    pub(crate) peer_sid: u16,
    pub(crate) kind: Kind,
    pub(crate) state: CallState,
    pub(crate) serial: u32,
    pub(crate) calling: Option<String>,
    pub(crate) called: Option<String>,
    pub(crate) sub_address: Option<String>,
    pub(crate) private_group: Option<String>,
    pub(crate) bearer: Option<u32>,
    pub(crate) framing: u32,
    pub(crate) physical_channel: Option<u32>,
    pub(crate) tx_speed: u32,
    pub(crate) rx_speed: Option<u32>,
    /// Label, raw number and sub-address, speeds and login of a call that we place.
    pub(crate) label: Option<String>,
    pub(crate) dial: Option<Dial>,
    pub(crate) login: Option<Login>,
    /// How its peer can be asked to authenticate.
    pub(crate) verifiable: Verifiable,
    pub(crate) sequencing: Sequencing,
    pub(crate) data: DataState,
    pub(crate) ppp: Option<Box<Ppp>>,
    pub(crate) path: PathStage,
    /// PPP header of the path.
    pub(crate) header: PppHeader,
    pub(crate) up: bool,
    pub(crate) early: Vec<Bytes>,
    pub(crate) errors: CallErrors,
    pub(crate) errors_at: Option<Instant>,
    pub(crate) accm: Option<Accm>,
    pub(crate) trace: bool,
}

/// What to dial.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    pub(crate) called: Vec<u8>,
    pub(crate) sub_address: Vec<u8>,
    pub(crate) speed: (u32, u32),
}

impl Call {
    pub(crate) fn new(local: LocalRef, sid: u16, kind: Kind, state: CallState) -> Self {
        Self {
            local,
            sid,
            peer_sid: 0,
            kind,
            state,
            serial: 0,
            calling: None,
            called: None,
            sub_address: None,
            private_group: None,
            bearer: None,
            framing: 0,
            physical_channel: None,
            tx_speed: 0,
            rx_speed: None,
            label: None,
            dial: None,
            login: None,
            verifiable: Verifiable::default(),
            sequencing: Sequencing::Off,
            data: DataState::new(Sequencing::Off),
            ppp: None,
            path: PathStage::default(),
            header: PppHeader::default(),
            up: false,
            early: Vec::new(),
            errors: CallErrors::default(),
            errors_at: None,
            accm: None,
            trace: false,
        }
    }
}
