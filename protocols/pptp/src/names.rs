//! Why packets are dropped and what is counted: closed sets of names.

use sluice_spi::DropReason;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Drop reasons of PPTP itself.
        pub(crate) mod drops {
            use super::DropReason;
            $($(#[$doc])* pub(crate) const $name: DropReason = DropReason($text);)*
            pub(crate) const ALL: &[&str] = &[$($text),*];
        }
    };
}

reasons! {
    /// A GRE header that cannot be right.
    HEADER = "bad_header";
    /// No call has the id.
    UNKNOWN_CALL = "unknown_call";
    /// The sender is not the peer of the control connection.
    WRONG_PEER = "wrong_peer";
    /// A message that is not defined.
    IGNORED_TYPE = "ignored_message_type";
    /// As many control connections as there may be.
    CONNECTION_LIMIT = "connection_limit";
    /// A source with as many control connections as it may have.
    SOURCE_LIMIT = "source_limit";
    /// As many control connections that are not established as there may be.
    HALF_OPEN = "half_open_limit";
    /// Not established in time.
    START_TIMEOUT = "start_timeout";
    /// Octets that are no PPTP.
    MALFORMED = "malformed";
    /// Data before the call is established.
    EARLY_DATA = "early_data";
    /// Data of a call that is ending.
    LATE_DATA = "late_data";
    /// Data whose turn is over, or that came twice.
    OLD_SEQUENCE = "sequence_old";
    /// Data with a number too far ahead of the last.
    FAR_SEQUENCE = "sequence_far_ahead";
    /// An acknowledgement of what was never sent.
    WRONG_ACK = "wrong_acknowledgement";
    /// PPP without a protocol, or an IP packet that is none.
    BAD_PAYLOAD = "bad_payload";
    /// WAN-Error-Notify more often than allowed.
    WAN_ERROR_RATE = "wan_error_rate";
}

/// Names of other things counted.
pub(crate) mod counts {
    macro_rules! counters {
        ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
            $($(#[$doc])* pub(crate) const $name: &str = $text;)*
            pub(crate) const ALL: &[&str] = &[$($text),*];
        };
    }
    counters! {
        /// Control connections refused.
        REFUSED = "connections_refused";
        /// Calls refused.
        CALLS_REFUSED = "calls_refused";
        /// Echo-Requests sent.
        ECHOES = "echoes";
        /// WAN-Error-Notify received.
        WAN_ERRORS = "wan_errors";
        /// Messages that ended a call or a control connection.
        PROTOCOL_ERRORS = "protocol_errors";
    }
}
