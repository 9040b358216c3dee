//! Why things are dropped and what is counted: closed sets of names.

use crate::wire::{Command, Reply, v4};
use sluice_spi::DropReason;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// Drop reasons: of connections that are closed without an answer, and of a client's datagrams.
        pub(crate) mod drops {
            use super::DropReason;
            $($(#[$doc])* pub(crate) const $name: DropReason = DropReason($text);)*
            pub(crate) const ALL: &[&str] = &[$($text),*];
        }
    };
}

reasons! {
    /// The connection's first octet is no version that is served.
    VERSION = "bad_version";
    /// The datagram ends within its header.
    SHORT = "udp_short";
    /// RSV of the datagram is not 0.
    RESERVED = "udp_reserved";
    /// The datagram's address type is none of RFC 1928's.
    ADDRESS_TYPE = "udp_address_type";
    /// The datagram's target has port 0.
    PORT = "udp_port";
    /// The datagram's target is no address, and no name that may be resolved.
    TARGET = "udp_target";
    /// A part of a datagram, where parts are not put together.
    FRAGMENT = "udp_fragment";
    /// A part of a datagram that has no place in its sequence.
    FRAGMENT_ORDER = "udp_fragment_order";
    /// A datagram whose parts are more than are kept.
    FRAGMENT_SIZE = "udp_fragment_size";
    /// No frame of the GSS-API method, where there must be one; of datagrams, not exactly one.
    GSSAPI_FRAME = "gssapi_frame";
    /// A frame's token is none of the context's, or was changed.
    GSSAPI_TOKEN = "gssapi_token";
    /// A message can be read by others, which was agreed not to be.
    GSSAPI_PROTECTION = "gssapi_protection";
    /// A message came again, or, where there is an order, not in its turn.
    GSSAPI_ORDER = "gssapi_order";
    /// The client refused to go on, in the middle of its stream.
    GSSAPI_ABORT = "gssapi_abort";
    /// The client's stream ended within a frame.
    GSSAPI_CUT = "gssapi_cut";
    /// The context is over.
    GSSAPI_EXPIRED = "gssapi_expired";
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
        /// Requests of each command that could be read.
        CONNECT = "connect_requests";
        /// The same of BIND.
        BIND = "bind_requests";
        /// The same of UDP ASSOCIATE.
        UDP_ASSOCIATE = "udp_associate_requests";
        /// Replies of SOCKS5 by their code.
        SUCCEEDED = "reply_00";
        /// General failure.
        GENERAL_FAILURE = "reply_01";
        /// Not allowed.
        NOT_ALLOWED = "reply_02";
        /// Network unreachable.
        NETWORK_UNREACHABLE = "reply_03";
        /// Host unreachable.
        HOST_UNREACHABLE = "reply_04";
        /// Connection refused.
        CONNECTION_REFUSED = "reply_05";
        /// TTL expired.
        TTL_EXPIRED = "reply_06";
        /// Command not supported.
        COMMAND = "reply_07";
        /// Address type not supported.
        ADDRESS_TYPE = "reply_08";
        /// Replies of SOCKS4 by their code.
        GRANTED = "reply_5a";
        /// Rejected or failed.
        REJECTED = "reply_5b";
        /// None of the methods that a client offers may be used by it.
        NO_METHOD = "no_acceptable_method";
        /// Names and passwords that were refused.
        AUTH_FAILED = "auth_failed";
        /// SOCKS4 clients that would have to authenticate, which they cannot.
        AUTH_REQUIRED = "socks4_auth_required";
        /// Clients that left before they were served.
        CLIENT_GONE = "client_gone";
        /// Clients that did not say in time what they want.
        HANDSHAKE_TIMEOUT = "handshake_timeout";
        /// BIND to which nobody came in time.
        BIND_TIMEOUT = "bind_timeout";
        /// Clients that sent more than is kept before they were answered.
        EARLY_OVERFLOW = "early_overflow";
        /// GSS-API: clients refused for a message that was none, or not the one to come.
        GSSAPI_MESSAGE = "gssapi_message";
        /// For a token that is none, or was changed.
        GSSAPI_TOKEN = "gssapi_token";
        /// For a clock that differs by too much.
        GSSAPI_CLOCK_SKEW = "gssapi_clock_skew";
        /// For a token that was used before.
        GSSAPI_REPLAY = "gssapi_replay";
        /// For a ticket that is not good any more; and contexts that were over while they were used.
        GSSAPI_EXPIRED = "gssapi_expired";
        /// As there is no key for their ticket.
        GSSAPI_NO_KEY = "gssapi_no_key";
        /// As nobody could check their token.
        GSSAPI_UNAVAILABLE = "gssapi_unavailable";
        /// For another reason of the library.
        GSSAPI_OTHER = "gssapi_other";
        /// For a protection level that is too low, or cannot be had.
        GSSAPI_LEVEL = "gssapi_level";
        /// For a request that came unprotected, again, or not in its turn.
        GSSAPI_PROTECTION = "gssapi_protection";
        /// The same, for its place.
        GSSAPI_ORDER = "gssapi_order";
        /// Clients that refused to go on themselves.
        GSSAPI_CLIENT_ABORT = "gssapi_client_abort";
    }

    use super::{Command, Reply, v4};

    /// The counter of a command.
    pub(crate) fn command(command: Command) -> &'static str {
        match command {
            Command::Connect => CONNECT,
            Command::Bind => BIND,
            Command::UdpAssociate => UDP_ASSOCIATE,
        }
    }

    /// The counter of a SOCKS5 reply.
    pub(crate) fn reply(reply: Reply) -> &'static str {
        match reply {
            Reply::Succeeded => SUCCEEDED,
            Reply::GeneralFailure => GENERAL_FAILURE,
            Reply::NotAllowed => NOT_ALLOWED,
            Reply::NetworkUnreachable => NETWORK_UNREACHABLE,
            Reply::HostUnreachable => HOST_UNREACHABLE,
            Reply::ConnectionRefused => CONNECTION_REFUSED,
            Reply::TtlExpired => TTL_EXPIRED,
            Reply::CommandNotSupported => COMMAND,
            Reply::AddressTypeNotSupported => ADDRESS_TYPE,
        }
    }

    /// The counter of a SOCKS4 reply.
    pub(crate) fn code(code: v4::Code) -> &'static str {
        match code {
            v4::Code::Granted => GRANTED,
            v4::Code::Rejected => REJECTED,
        }
    }
}
