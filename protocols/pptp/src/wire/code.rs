//! Result codes, error codes and reasons (RFC 2637, 2), and what they are in RFC 2866's terms.

use sluice_spi::TerminateCause;

/// Result Codes of Start-Control-Connection-Reply (2.2).
pub mod start {
    /// Successful channel establishment.
    pub const OK: u8 = 1;
    /// General error.
    pub const ERROR: u8 = 2;
    /// Command channel exists already.
    pub const EXISTS: u8 = 3;
    /// Requester is not authorised.
    pub const NOT_AUTHORISED: u8 = 4;
    /// The protocol version of the requester is not supported.
    pub const VERSION: u8 = 5;
}

/// Reasons of Stop-Control-Connection-Request (2.3).
pub mod stop {
    /// General request to clear the control connection.
    pub const NONE: u8 = 1;
    /// The peer's version of the protocol cannot be supported.
    pub const PROTOCOL: u8 = 2;
    /// The requester is being shut down.
    pub const LOCAL_SHUTDOWN: u8 = 3;
}

/// Result Codes of Stop-Control-Connection-Reply and Echo-Reply (2.4, 2.6).
pub mod reply {
    /// Done.
    pub const OK: u8 = 1;
    /// General error.
    pub const ERROR: u8 = 2;
}

/// Result Codes of Outgoing-Call-Reply (2.8).
pub mod outgoing {
    /// Connected.
    pub const CONNECTED: u8 = 1;
    /// General error.
    pub const ERROR: u8 = 2;
    /// No carrier.
    pub const NO_CARRIER: u8 = 3;
    /// Busy.
    pub const BUSY: u8 = 4;
    /// No dial tone.
    pub const NO_DIAL_TONE: u8 = 5;
    /// Not established in time.
    pub const TIMED_OUT: u8 = 6;
    /// Administratively prohibited.
    pub const NOT_ACCEPTED: u8 = 7;
}

/// Result Codes of Incoming-Call-Reply (2.10).
pub mod incoming {
    /// The PAC should answer the call.
    pub const CONNECT: u8 = 1;
    /// General error.
    pub const ERROR: u8 = 2;
    /// The PAC should not answer the call; it should hang up or say that it is busy.
    pub const NOT_ACCEPTED: u8 = 3;
}

/// Result Codes of Call-Disconnect-Notify (2.13).
pub mod disconnect {
    /// Lost carrier.
    pub const LOST_CARRIER: u8 = 1;
    /// General error.
    pub const ERROR: u8 = 2;
    /// For administrative reasons.
    pub const ADMINISTRATIVE: u8 = 3;
    /// Upon a Call-Clear-Request.
    pub const REQUESTED: u8 = 4;
}

/// General Error Codes (2.16).
pub mod error {
    /// None.
    pub const NONE: u8 = 0;
    /// No control connection exists yet.
    pub const NOT_CONNECTED: u8 = 1;
    /// Length or Magic Cookie is wrong.
    pub const BAD_FORMAT: u8 = 2;
    /// A field is out of range.
    pub const BAD_VALUE: u8 = 3;
    /// Not enough resources now.
    pub const NO_RESOURCE: u8 = 4;
    /// The Call ID is not valid in this context.
    pub const BAD_CALL_ID: u8 = 5;
    /// An error of the PAC.
    pub const PAC_ERROR: u8 = 6;

    /// The error in words.
    pub fn name(code: u8) -> &'static str {
        match code {
            NONE => "no error",
            NOT_CONNECTED => "not connected",
            BAD_FORMAT => "bad format",
            BAD_VALUE => "bad value",
            NO_RESOURCE => "no resource",
            BAD_CALL_ID => "bad call id",
            PAC_ERROR => "error of the PAC",
            _ => "unknown error",
        }
    }
}

/// What a Result Code of Call-Disconnect-Notify means.
pub fn disconnect_cause(result: u8) -> (TerminateCause, &'static str) {
    match result {
        disconnect::LOST_CARRIER => (TerminateCause::LostCarrier, "lost carrier"),
        disconnect::ERROR => (TerminateCause::NasError, "general error"),
        disconnect::ADMINISTRATIVE => (TerminateCause::AdminReset, "administrative reasons"),
        disconnect::REQUESTED => (TerminateCause::UserRequest, "requested"),
        _ => (TerminateCause::NasError, "unknown reason"),
    }
}

/// The Result Code of Call-Disconnect-Notify for an end of ours.
pub fn disconnect_for(cause: TerminateCause) -> u8 {
    match cause {
        TerminateCause::UserRequest | TerminateCause::HostRequest => disconnect::REQUESTED,
        TerminateCause::LostCarrier | TerminateCause::LostService => disconnect::LOST_CARRIER,
        TerminateCause::NasError | TerminateCause::PortError => disconnect::ERROR,
        _ => disconnect::ADMINISTRATIVE,
    }
}

/// Why a call that we asked for was not established, in words: a Result Code of Outgoing-Call-Reply.
pub fn outgoing_name(result: u8) -> &'static str {
    match result {
        outgoing::CONNECTED => "connected",
        outgoing::ERROR => "general error",
        outgoing::NO_CARRIER => "no carrier",
        outgoing::BUSY => "busy",
        outgoing::NO_DIAL_TONE => "no dial tone",
        outgoing::TIMED_OUT => "timed out",
        outgoing::NOT_ACCEPTED => "not accepted",
        _ => "unknown result",
    }
}

/// The Reason of Stop-Control-Connection-Request for an end of ours.
pub fn stop_for(cause: TerminateCause) -> u8 {
    match cause {
        TerminateCause::AdminReboot | TerminateCause::NasReboot => stop::LOCAL_SHUTDOWN,
        _ => stop::NONE,
    }
}

/// The Reason of a Stop-Control-Connection-Request in words.
pub fn stop_name(reason: u8) -> &'static str {
    match reason {
        stop::NONE => "no reason given",
        stop::PROTOCOL => "protocol version",
        stop::LOCAL_SHUTDOWN => "shutting down",
        _ => "unknown reason",
    }
}
