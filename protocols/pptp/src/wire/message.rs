//! Control messages.

/// In each control message, to find the beginning of messages by.
pub const MAGIC: u32 = 0x1a2b_3c4d;
/// PPTP Message Type of control messages. Type 2, management, is not defined (1.4).
pub const CONTROL: u16 = 1;
/// Octets of the header of each message: length, both types, magic cookie and a reserved field.
pub const HEADER: usize = 12;
/// Octets of the longest message, Incoming-Call-Request.
pub const LONGEST: usize = 220;
/// The protocol version that this is: 1.0.
pub const VERSION: u16 = 0x0100;
/// Octets of names and numbers; shorter ones are filled up with zeroes.
pub const TEXT: usize = 64;
/// Octets of Call Statistics.
pub const STATISTICS: usize = 128;

/// Framing Capabilities and Framing Type: asynchronous.
pub const FRAMING_ASYNC: u32 = 1;
/// Framing Capabilities and Framing Type: synchronous.
pub const FRAMING_SYNC: u32 = 2;
/// Bearer Capabilities and Bearer Type: analog.
pub const BEARER_ANALOG: u32 = 1;
/// Bearer Capabilities and Bearer Type: digital.
pub const BEARER_DIGITAL: u32 = 2;

/// Control Message Types (1.4).
pub mod number {
    /// Start-Control-Connection-Request.
    pub const START_REQUEST: u16 = 1;
    /// Start-Control-Connection-Reply.
    pub const START_REPLY: u16 = 2;
    /// Stop-Control-Connection-Request.
    pub const STOP_REQUEST: u16 = 3;
    /// Stop-Control-Connection-Reply.
    pub const STOP_REPLY: u16 = 4;
    /// Echo-Request.
    pub const ECHO_REQUEST: u16 = 5;
    /// Echo-Reply.
    pub const ECHO_REPLY: u16 = 6;
    /// Outgoing-Call-Request.
    pub const OUTGOING_REQUEST: u16 = 7;
    /// Outgoing-Call-Reply.
    pub const OUTGOING_REPLY: u16 = 8;
    /// Incoming-Call-Request.
    pub const INCOMING_REQUEST: u16 = 9;
    /// Incoming-Call-Reply.
    pub const INCOMING_REPLY: u16 = 10;
    /// Incoming-Call-Connected.
    pub const INCOMING_CONNECTED: u16 = 11;
    /// Call-Clear-Request.
    pub const CLEAR_REQUEST: u16 = 12;
    /// Call-Disconnect-Notify.
    pub const DISCONNECT_NOTIFY: u16 = 13;
    /// WAN-Error-Notify.
    pub const WAN_ERROR: u16 = 14;
    /// Set-Link-Info.
    pub const LINK_INFO: u16 = 15;

    /// The message's name; `None`: there is no such message.
    pub fn name(number: u16) -> Option<&'static str> {
        Some(match number {
            START_REQUEST => "Start-Control-Connection-Request",
            START_REPLY => "Start-Control-Connection-Reply",
            STOP_REQUEST => "Stop-Control-Connection-Request",
            STOP_REPLY => "Stop-Control-Connection-Reply",
            ECHO_REQUEST => "Echo-Request",
            ECHO_REPLY => "Echo-Reply",
            OUTGOING_REQUEST => "Outgoing-Call-Request",
            OUTGOING_REPLY => "Outgoing-Call-Reply",
            INCOMING_REQUEST => "Incoming-Call-Request",
            INCOMING_REPLY => "Incoming-Call-Reply",
            INCOMING_CONNECTED => "Incoming-Call-Connected",
            CLEAR_REQUEST => "Call-Clear-Request",
            DISCONNECT_NOTIFY => "Call-Disconnect-Notify",
            WAN_ERROR => "WAN-Error-Notify",
            LINK_INFO => "Set-Link-Info",
            _ => return None,
        })
    }

    /// The message's length in octets, which is always the same; `None`: there is no such message.
    pub fn length(number: u16) -> Option<usize> {
        Some(match number {
            START_REQUEST | START_REPLY => 156,
            STOP_REQUEST | STOP_REPLY | ECHO_REQUEST | CLEAR_REQUEST => 16,
            ECHO_REPLY => 20,
            OUTGOING_REQUEST => 168,
            OUTGOING_REPLY => 32,
            INCOMING_REQUEST => super::LONGEST,
            INCOMING_REPLY | LINK_INFO => 24,
            INCOMING_CONNECTED => 28,
            DISCONNECT_NOTIFY => 148,
            WAN_ERROR => 40,
            _ => return None,
        })
    }
}

/// Result Code and General Error Code of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Result Code; what it means depends on the message.
    pub result: u8,
    /// General Error Code (2.16), where the result says that there is one.
    pub error: u8,
}

impl Outcome {
    /// A result that is no general error.
    pub fn plain(result: u8) -> Self {
        Self { result, error: 0 }
    }

    /// A general error: Result Code 2 of every message that has one.
    pub fn error(error: u8) -> Self {
        Self { result: 2, error }
    }
}

/// What one end says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Protocol Version.
    pub version: u16,
    /// Framing Capabilities.
    pub framing: u32,
    /// Bearer Capabilities.
    pub bearer: u32,
    /// Maximum Channels: calls that a PAC can have; 0 from a PNS.
    pub channels: u16,
    /// Firmware Revision.
    pub firmware: u16,
    /// Host Name, at most [`TEXT`] octets.
    pub host: Vec<u8>,
    /// Vendor Name, at most [`TEXT`] octets.
    pub vendor: Vec<u8>,
}

/// Outgoing-Call-Request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutgoingRequest {
    /// The PNS's name of the call.
    pub call_id: u16,
    /// Call Serial Number.
    pub serial: u16,
    /// Slowest acceptable line speed in bits per second.
    pub minimum_bps: u32,
    /// Fastest acceptable line speed in bits per second.
    pub maximum_bps: u32,
    /// Bearer Type.
    pub bearer: u32,
    /// Framing Type.
    pub framing: u32,
    /// Packet Receive Window Size.
    pub window: u16,
    /// Packet Processing Delay in tenths of a second.
    pub delay: u16,
    /// Phone Number, at most [`TEXT`] octets.
    pub phone: Vec<u8>,
    /// Subaddress, at most [`TEXT`] octets.
    pub sub_address: Vec<u8>,
}

/// Outgoing-Call-Reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutgoingReply {
    /// The PAC's name of the call.
    pub call_id: u16,
    /// The PNS's name of it.
    pub peer_call_id: u16,
    /// Whether it was established.
    pub outcome: Outcome,
    /// Cause Code, of ISDN that of Q.931.
    pub cause: u16,
    /// Connect Speed in bits per second.
    pub speed: u32,
    /// Packet Receive Window Size.
    pub window: u16,
    /// Packet Processing Delay in tenths of a second.
    pub delay: u16,
    /// Physical Channel ID.
    pub channel: u32,
}

/// Incoming-Call-Request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IncomingRequest {
    /// The PAC's name of the call.
    pub call_id: u16,
    /// Call Serial Number.
    pub serial: u16,
    /// Call Bearer Type.
    pub bearer: u32,
    /// Physical Channel ID.
    pub channel: u32,
    /// Dialed Number, at most [`TEXT`] octets.
    pub dialed: Vec<u8>,
    /// Dialing Number, at most [`TEXT`] octets.
    pub dialing: Vec<u8>,
    /// Subaddress, at most [`TEXT`] octets.
    pub sub_address: Vec<u8>,
}

/// Incoming-Call-Reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncomingReply {
    /// The PNS's name of the call.
    pub call_id: u16,
    /// The PAC's name of it.
    pub peer_call_id: u16,
    /// Whether the PAC shall answer the call.
    pub outcome: Outcome,
    /// Packet Receive Window Size.
    pub window: u16,
    /// Packet Transmit Delay in tenths of a second.
    pub delay: u16,
}

/// Incoming-Call-Connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IncomingConnected {
    /// The PNS's name of the call.
    pub peer_call_id: u16,
    /// Connect Speed in bits per second.
    pub speed: u32,
    /// Packet Receive Window Size.
    pub window: u16,
    /// Packet Transmit Delay in tenths of a second.
    pub delay: u16,
    /// Framing Type.
    pub framing: u32,
}

/// Call-Disconnect-Notify.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disconnect {
    /// The PAC's name of the call.
    pub call_id: u16,
    /// Why.
    pub outcome: Outcome,
    /// Cause Code, of ISDN that of Q.931.
    pub cause: u16,
    /// Call Statistics, at most [`STATISTICS`] octets.
    pub statistics: Vec<u8>,
}

/// WAN-Error-Notify: errors of the line since the call began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WanError {
    /// The PNS's name of the call.
    pub peer_call_id: u16,
    /// Wrong checksums.
    pub crc: u32,
    /// Wrong framing.
    pub framing: u32,
    /// Overruns of the hardware.
    pub hardware: u32,
    /// Overruns of buffers.
    pub buffer: u32,
    /// Time-outs.
    pub timeouts: u32,
    /// Wrong alignment.
    pub alignment: u32,
}

/// Set-Link-Info: the control-character maps of an asynchronous line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// The PAC's name of the call.
    pub peer_call_id: u16,
    /// Send ACCM.
    pub send: u32,
    /// Receive ACCM.
    pub receive: u32,
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Start-Control-Connection-Request.
    StartRequest(Start),
    /// Start-Control-Connection-Reply.
    StartReply(Start, Outcome),
    /// Stop-Control-Connection-Request, with its Reason.
    StopRequest(u8),
    /// Stop-Control-Connection-Reply.
    StopReply(Outcome),
    /// Echo-Request, with its Identifier.
    EchoRequest(u32),
    /// Echo-Reply, with the Identifier of the request.
    EchoReply(u32, Outcome),
    /// Outgoing-Call-Request.
    OutgoingRequest(OutgoingRequest),
    /// Outgoing-Call-Reply.
    OutgoingReply(OutgoingReply),
    /// Incoming-Call-Request.
    IncomingRequest(IncomingRequest),
    /// Incoming-Call-Reply.
    IncomingReply(IncomingReply),
    /// Incoming-Call-Connected.
    IncomingConnected(IncomingConnected),
    /// Call-Clear-Request, with the PNS's name of the call.
    ClearRequest(u16),
    /// Call-Disconnect-Notify.
    DisconnectNotify(Disconnect),
    /// WAN-Error-Notify.
    WanError(WanError),
    /// Set-Link-Info.
    LinkInfo(LinkInfo),
}

impl Message {
    /// Its Control Message Type.
    pub fn number(&self) -> u16 {
        match self {
            Message::StartRequest(_) => number::START_REQUEST,
            Message::StartReply(..) => number::START_REPLY,
            Message::StopRequest(_) => number::STOP_REQUEST,
            Message::StopReply(_) => number::STOP_REPLY,
            Message::EchoRequest(_) => number::ECHO_REQUEST,
            Message::EchoReply(..) => number::ECHO_REPLY,
            Message::OutgoingRequest(_) => number::OUTGOING_REQUEST,
            Message::OutgoingReply(_) => number::OUTGOING_REPLY,
            Message::IncomingRequest(_) => number::INCOMING_REQUEST,
            Message::IncomingReply(_) => number::INCOMING_REPLY,
            Message::IncomingConnected(_) => number::INCOMING_CONNECTED,
            Message::ClearRequest(_) => number::CLEAR_REQUEST,
            Message::DisconnectNotify(_) => number::DISCONNECT_NOTIFY,
            Message::WanError(_) => number::WAN_ERROR,
            Message::LinkInfo(_) => number::LINK_INFO,
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        number::name(self.number()).unwrap_or_default()
    }
}
