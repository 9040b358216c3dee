//! Result and error codes of StopCCN and CDN (RFC 2661, 4.4.2).

use sluice_spi::TerminateCause;

/// Result codes of StopCCN.
pub mod stop {
    #![allow(missing_docs)]
    pub const GENERAL: u16 = 1;
    pub const ERROR: u16 = 2;
    pub const EXISTS: u16 = 3;
    pub const NOT_AUTHORIZED: u16 = 4;
    pub const VERSION: u16 = 5;
    pub const SHUTTING_DOWN: u16 = 6;
    pub const STATE_MACHINE: u16 = 7;
}

/// Result codes of CDN.
pub mod cdn {
    #![allow(missing_docs)]
    pub const CARRIER_LOST: u16 = 1;
    pub const ERROR: u16 = 2;
    pub const ADMINISTRATIVE: u16 = 3;
    pub const NO_FACILITIES: u16 = 4;
    pub const NO_FACILITIES_EVER: u16 = 5;
    pub const INVALID_DESTINATION: u16 = 6;
    pub const NO_CARRIER: u16 = 7;
    pub const BUSY: u16 = 8;
    pub const NO_DIAL_TONE: u16 = 9;
    pub const TIMED_OUT: u16 = 10;
    pub const NO_FRAMING: u16 = 11;
}

/// General error codes.
pub mod error {
    #![allow(missing_docs)]
    pub const NONE: u16 = 0;
    pub const NO_CONTROL_CONNECTION: u16 = 1;
    pub const WRONG_LENGTH: u16 = 2;
    pub const OUT_OF_RANGE: u16 = 3;
    pub const NO_RESOURCES: u16 = 4;
    pub const INVALID_SESSION: u16 = 5;
    pub const VENDOR: u16 = 6;
    pub const TRY_ANOTHER: u16 = 7;
    pub const UNKNOWN_MANDATORY: u16 = 8;
}

/// The value of a Result Code AVP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultCode {
    /// Result code: one of [`stop`] or [`cdn`].
    pub result: u16,
    /// Error code, where there is one: one of [`error`]. With StopCCN result 5 the highest version supported.
    pub error: Option<u16>,
    /// Words for people, in UTF-8; escaped for display when it was received.
    pub message: String,
}

impl ResultCode {
    /// A result without an error code.
    pub fn plain(result: u16) -> Self {
        Self {
            result,
            ..Self::default()
        }
    }

    /// A result with an error code and words.
    pub fn with_error(result: u16, error: u16, message: impl Into<String>) -> Self {
        Self {
            result,
            error: Some(error),
            message: message.into(),
        }
    }
}

/// The name of an error code.
pub fn error_name(code: u16) -> &'static str {
    match code {
        error::NONE => "no general error",
        error::NO_CONTROL_CONNECTION => "no control connection exists",
        error::WRONG_LENGTH => "wrong length",
        error::OUT_OF_RANGE => "value out of range",
        error::NO_RESOURCES => "insufficient resources",
        error::INVALID_SESSION => "session id invalid here",
        error::VENDOR => "vendor-specific error",
        error::TRY_ANOTHER => "try another",
        error::UNKNOWN_MANDATORY => "unknown mandatory AVP",
        _ => "unknown error",
    }
}

/// The name of a StopCCN result code.
pub fn stop_name(code: u16) -> &'static str {
    match code {
        stop::GENERAL => "general request",
        stop::ERROR => "general error",
        stop::EXISTS => "control channel already exists",
        stop::NOT_AUTHORIZED => "not authorized",
        stop::VERSION => "protocol version not supported",
        stop::SHUTTING_DOWN => "shutting down",
        stop::STATE_MACHINE => "state machine error",
        _ => "unknown result",
    }
}

/// The name of a CDN result code.
pub fn cdn_name(code: u16) -> &'static str {
    match code {
        cdn::CARRIER_LOST => "carrier lost",
        cdn::ERROR => "general error",
        cdn::ADMINISTRATIVE => "administrative reasons",
        cdn::NO_FACILITIES => "no facilities for now",
        cdn::NO_FACILITIES_EVER => "no facilities",
        cdn::INVALID_DESTINATION => "invalid destination",
        cdn::NO_CARRIER => "no carrier detected",
        cdn::BUSY => "busy",
        cdn::NO_DIAL_TONE => "no dial tone",
        cdn::TIMED_OUT => "not established in time",
        cdn::NO_FRAMING => "no framing detected",
        _ => "unknown result",
    }
}

/// The cause for accounting of a CDN received with this result.
pub fn cdn_cause(code: u16) -> TerminateCause {
    match code {
        cdn::CARRIER_LOST | cdn::NO_CARRIER => TerminateCause::LostCarrier,
        cdn::ADMINISTRATIVE => TerminateCause::UserRequest,
        cdn::NO_FACILITIES | cdn::NO_FACILITIES_EVER | cdn::BUSY | cdn::NO_DIAL_TONE => {
            TerminateCause::ServiceUnavailable
        }
        cdn::INVALID_DESTINATION | cdn::TIMED_OUT | cdn::NO_FRAMING => TerminateCause::PortError,
        _ => TerminateCause::NasError,
    }
}

/// The cause for accounting of a StopCCN received with this result.
pub fn stop_cause(code: u16) -> TerminateCause {
    match code {
        stop::GENERAL => TerminateCause::NasRequest,
        stop::SHUTTING_DOWN => TerminateCause::NasReboot,
        _ => TerminateCause::NasError,
    }
}

/// The CDN that tells the peer of a session that ended on our side with this cause.
pub fn cdn_for(cause: TerminateCause) -> ResultCode {
    ResultCode::plain(match cause {
        TerminateCause::LostCarrier | TerminateCause::LostService => cdn::CARRIER_LOST,
        TerminateCause::ServiceUnavailable => cdn::NO_FACILITIES,
        _ => cdn::ADMINISTRATIVE,
    })
}
