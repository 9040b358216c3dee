//! Typed control messages (RFC 2661, 6).

use super::result::ResultCode;
use std::fmt;

/// Numbers of the message types (RFC 2661, 3.2).
pub mod number {
    #![allow(missing_docs)]
    pub const SCCRQ: u16 = 1;
    pub const SCCRP: u16 = 2;
    pub const SCCCN: u16 = 3;
    pub const STOPCCN: u16 = 4;
    pub const HELLO: u16 = 6;
    pub const OCRQ: u16 = 7;
    pub const OCRP: u16 = 8;
    pub const OCCN: u16 = 9;
    pub const ICRQ: u16 = 10;
    pub const ICRP: u16 = 11;
    pub const ICCN: u16 = 12;
    pub const CDN: u16 = 14;
    pub const WEN: u16 = 15;
    pub const SLI: u16 = 16;

    /// The name of a message type.
    pub fn name(number: u16) -> &'static str {
        match number {
            SCCRQ => "SCCRQ",
            SCCRP => "SCCRP",
            SCCCN => "SCCCN",
            STOPCCN => "StopCCN",
            HELLO => "HELLO",
            OCRQ => "OCRQ",
            OCRP => "OCRP",
            OCCN => "OCCN",
            ICRQ => "ICRQ",
            ICRP => "ICRP",
            ICCN => "ICCN",
            CDN => "CDN",
            WEN => "WEN",
            SLI => "SLI",
            _ => "unknown",
        }
    }
}

/// Protocol version 1, revision 0: the only one there is (4.4.3).
pub const PROTOCOL_VERSION: u16 = 0x0100;
/// The receive window of a peer that names none (4.4.3).
pub const DEFAULT_WINDOW: u16 = 4;
/// Bit of the framing masks: synchronous.
pub const FRAMING_SYNC: u32 = 1;
/// Bit of the framing masks: asynchronous.
pub const FRAMING_ASYNC: u32 = 2;
/// Bit of the bearer masks: digital.
pub const BEARER_DIGITAL: u32 = 1;
/// Bit of the bearer masks: analog.
pub const BEARER_ANALOG: u32 = 2;

/// SCCRQ and SCCRP: what one end says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Protocol version; [`PROTOCOL_VERSION`].
    pub version: u16,
    /// Host Name, at least one octet.
    pub host_name: Vec<u8>,
    /// Framing capabilities.
    pub framing: u32,
    /// Assigned Tunnel ID, never 0.
    pub tunnel_id: u16,
    /// Bearer capabilities: present where the sender can place outgoing calls.
    pub bearer: Option<u32>,
    /// Receive window size, never 0.
    pub window: Option<u16>,
    /// A challenge that the receiver must answer.
    pub challenge: Option<Vec<u8>>,
    /// The answer to the receiver's challenge (SCCRP).
    pub response: Option<[u8; 16]>,
    /// Tie breaker (SCCRQ).
    pub tie_breaker: Option<[u8; 8]>,
    /// Firmware revision.
    pub firmware: Option<u16>,
    /// Vendor name.
    pub vendor: Option<Vec<u8>>,
}

/// SCCCN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scccn {
    /// The answer to the receiver's challenge.
    pub response: Option<[u8; 16]>,
}

/// StopCCN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopCcn {
    /// The sender's tunnel id.
    pub tunnel_id: u16,
    /// Why.
    pub result: ResultCode,
}

/// ICRQ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Icrq {
    /// Assigned Session ID, never 0.
    pub session_id: u16,
    /// Call serial number.
    pub serial: u32,
    /// Bearer type.
    pub bearer: Option<u32>,
    /// Physical channel id, for logs only.
    pub channel: Option<u32>,
    /// Calling number.
    pub calling: Option<Vec<u8>>,
    /// Called number.
    pub called: Option<Vec<u8>>,
    /// Sub-address.
    pub sub_address: Option<Vec<u8>>,
}

/// OCRQ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ocrq {
    /// Assigned Session ID, never 0.
    pub session_id: u16,
    /// Call serial number.
    pub serial: u32,
    /// Slowest line speed acceptable, bits per second.
    pub minimum_bps: u32,
    /// Fastest line speed acceptable, bits per second.
    pub maximum_bps: u32,
    /// Bearer types acceptable.
    pub bearer: u32,
    /// Framing types acceptable.
    pub framing: u32,
    /// Number to call.
    pub called: Vec<u8>,
    /// Sub-address.
    pub sub_address: Option<Vec<u8>>,
}

/// ICRP and OCRP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Assigned Session ID, never 0.
    pub session_id: u16,
    /// Physical channel id (OCRP), for logs only.
    pub channel: Option<u32>,
}

/// LCP and authentication that a LAC has done (4.4.5).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyAvps {
    /// Options of the first Configure-Request received.
    pub initial_received: Option<Vec<u8>>,
    /// Options of the last Configure-Request sent.
    pub last_sent: Option<Vec<u8>>,
    /// Options of the last Configure-Request received.
    pub last_received: Option<Vec<u8>>,
    /// Authentication type.
    pub auth_type: Option<u16>,
    /// Name the client gave.
    pub name: Option<Vec<u8>>,
    /// Challenge given to the client.
    pub challenge: Option<Vec<u8>>,
    /// Identifier of the exchange.
    pub id: Option<u16>,
    /// Response of the client, or its password.
    pub response: Option<Vec<u8>>,
}

impl ProxyAvps {
    /// Whether none of the AVPs was there.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for ProxyAvps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Name, challenge and response are what an attacker would look for in a log.
        f.debug_struct("ProxyAvps")
            .field("auth_type", &self.auth_type)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// ICCN and OCCN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Speed of the line as the LAC sends, bits per second.
    pub tx_speed: u32,
    /// Framing type.
    pub framing: u32,
    /// Speed of the line as the LAC receives, where it is another.
    pub rx_speed: Option<u32>,
    /// Whether data must be sequenced.
    pub sequencing_required: bool,
    /// Private group id (ICCN).
    pub private_group: Option<Vec<u8>>,
    /// What the LAC has done already (ICCN).
    pub proxy: ProxyAvps,
}

/// The Q.931 Cause Code AVP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Q931Cause {
    /// Cause code.
    pub code: u16,
    /// Q.931 message code.
    pub message: u8,
    /// Advisory message, escaped for display when it was received.
    pub advisory: String,
}

/// PPP Disconnect Cause (RFC 3145).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectCause {
    /// Disconnect code.
    pub code: u16,
    /// Control protocol number it is about.
    pub protocol: u16,
    /// 0: either, 1: the peer, 2: the local end.
    pub direction: u8,
    /// Text, escaped for display when it was received.
    pub message: String,
}

/// CDN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cdn {
    /// The sender's session id.
    pub session_id: u16,
    /// Why.
    pub result: ResultCode,
    /// What the telephone network said.
    pub q931: Option<Q931Cause>,
    /// What PPP said (RFC 3145).
    pub disconnect: Option<DisconnectCause>,
}

/// The counters of WEN, since the call began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallErrors {
    /// PPP frames with a wrong checksum.
    pub crc: u32,
    /// Badly framed packets.
    pub framing: u32,
    /// Receive buffers overrun.
    pub hardware: u32,
    /// Buffers overrun.
    pub buffer: u32,
    /// Timeouts.
    pub timeouts: u32,
    /// Alignment errors.
    pub alignment: u32,
}

/// The maps of SLI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// ACCM the LAC uses for what it sends.
    pub send: u32,
    /// ACCM the LAC uses for what it receives.
    pub receive: u32,
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Start-Control-Connection-Request.
    Sccrq(Start),
    /// Start-Control-Connection-Reply.
    Sccrp(Start),
    /// Start-Control-Connection-Connected.
    Scccn(Scccn),
    /// Stop-Control-Connection-Notification.
    StopCcn(StopCcn),
    /// Hello.
    Hello,
    /// Outgoing-Call-Request.
    Ocrq(Ocrq),
    /// Outgoing-Call-Reply.
    Ocrp(Reply),
    /// Outgoing-Call-Connected.
    Occn(Connected),
    /// Incoming-Call-Request.
    Icrq(Icrq),
    /// Incoming-Call-Reply.
    Icrp(Reply),
    /// Incoming-Call-Connected.
    Iccn(Connected),
    /// Call-Disconnect-Notify.
    Cdn(Cdn),
    /// WAN-Error-Notify.
    Wen(CallErrors),
    /// Set-Link-Info.
    Sli(LinkInfo),
}

impl Message {
    /// The number of its type.
    pub fn number(&self) -> u16 {
        match self {
            Message::Sccrq(_) => number::SCCRQ,
            Message::Sccrp(_) => number::SCCRP,
            Message::Scccn(_) => number::SCCCN,
            Message::StopCcn(_) => number::STOPCCN,
            Message::Hello => number::HELLO,
            Message::Ocrq(_) => number::OCRQ,
            Message::Ocrp(_) => number::OCRP,
            Message::Occn(_) => number::OCCN,
            Message::Icrq(_) => number::ICRQ,
            Message::Icrp(_) => number::ICRP,
            Message::Iccn(_) => number::ICCN,
            Message::Cdn(_) => number::CDN,
            Message::Wen(_) => number::WEN,
            Message::Sli(_) => number::SLI,
        }
    }
}
