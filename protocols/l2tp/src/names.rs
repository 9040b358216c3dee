//! Why packets are dropped and what is counted: closed sets of names.

use sluice_spi::DropReason;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Drop reasons of L2TP itself.
        pub(crate) mod drops {
            use super::DropReason;
            $($(#[$doc])* pub(crate) const $name: DropReason = DropReason($text);)*
            pub(crate) const ALL: &[&str] = &[$($text),*];
        }
    };
}

reasons! {
    /// L2F (RFC 2341), which another module speaks.
    L2F = "l2f";
    /// L2TPv3 (RFC 3931).
    L2TPV3 = "l2tpv3";
    /// No protocol of this port.
    VERSION = "version";
    /// A header that cannot be right.
    HEADER = "bad_header";
    /// AVPs that cannot be right, before anything is known of the sender.
    MALFORMED = "malformed";
    /// A control message without a message type.
    NO_TYPE = "no_message_type";
    /// No tunnel has the id.
    UNKNOWN_TUNNEL = "unknown_tunnel";
    /// No session has the id.
    UNKNOWN_SESSION = "unknown_session";
    /// The sender is not the peer of the tunnel.
    WRONG_PEER = "wrong_peer";
    /// It acknowledges what was never sent.
    WRONG_NR = "wrong_nr";
    /// Control message further ahead than our window.
    OUTSIDE_WINDOW = "outside_window";
    /// Received before.
    DUPLICATE = "duplicate";
    /// More requests for tunnels than are served.
    RATE = "rate_limited";
    /// Too many half-open peers from there.
    SHARE = "half_open_share";
    /// A half-open peer made way for another.
    EVICTED = "half_open_evicted";
    /// As many tunnels as there may be.
    TUNNEL_LIMIT = "tunnel_limit";
    /// A source with as many tunnels as there are places left.
    TUNNEL_SHARE = "tunnel_share";
    /// The peer is not served.
    NOT_SERVED = "peer_not_served";
    /// A message that makes no sense before the tunnel is established.
    HALF_OPEN = "half_open_message";
    /// The tie between two requests was ours.
    TIE = "tie_breaker";
    /// StopCCN or CDN with an identifier that is not the peer's.
    WRONG_ID = "wrong_assigned_id";
    /// A message type that may be ignored.
    IGNORED_TYPE = "ignored_message_type";
    /// Data before the session is established, more than is kept.
    EARLY_DATA = "early_data";
    /// Data of a session that is ending.
    LATE_DATA = "late_data";
    /// Data without the sequence numbers that are required.
    NO_SEQUENCE = "sequence_missing";
    /// Data whose turn is over, or that came twice.
    OLD_SEQUENCE = "sequence_old";
    /// PPP without a protocol, or an IP packet that is none.
    BAD_PAYLOAD = "bad_payload";
    /// The tunnel is over.
    CLOSED = "tunnel_closed";
    /// WAN-Error-Notify more often than allowed.
    WEN_RATE = "wen_rate";
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
        /// SCCRQ answered with SCCRP.
        TUNNEL_REQUESTS = "tunnel_requests";
        /// SCCRQ that came again and was answered again.
        REPEATED_REQUESTS = "tunnel_requests_repeated";
        /// Tunnels refused for want of a right response.
        AUTH_FAILED = "tunnel_auth_failed";
        /// Tunnels refused for other reasons.
        REFUSED = "tunnels_refused";
        /// Control messages sent again.
        RETRANSMITS = "control_retransmits";
        /// HELLOs sent.
        HELLOS = "hellos";
        /// Sessions refused.
        CALLS_REFUSED = "calls_refused";
        /// WAN-Error-Notify received.
        WAN_ERRORS = "wan_errors";
        /// A peer that moved and was followed.
        PEER_MOVED = "peer_moved";
        /// AVPs or messages that ended a session or tunnel.
        PROTOCOL_ERRORS = "protocol_errors";
    }
}
