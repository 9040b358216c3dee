//! Why frames are refused: a closed set of names.

use sluice_spi::DropReason;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub(crate) const $name: DropReason = DropReason($text);)*

        /// Every reason by which a PPP link drops frames, for the descriptor of the module that carries it.
        pub const DROP_REASONS: &[&str] = &[$($text),*];
    };
}

reasons! {
    /// Too short to have a protocol field.
    SHORT = "ppp_short";
    /// A length that does not fit, or an option that cannot be read.
    MALFORMED = "ppp_malformed";
    /// A control packet larger than any that is of use.
    OVERSIZE = "ppp_oversize";
    /// A protocol whose time has not come, or is over.
    PHASE = "ppp_phase";
    /// A protocol that we do not speak, or not on this link.
    PROTOCOL = "ppp_protocol";
    /// An answer to nothing we have asked, or a packet seen before.
    STALE = "ppp_stale";
    /// A packet with our own magic number.
    LOOPED = "ppp_looped";
    /// More of its kind than is answered.
    LIMIT = "ppp_limit";
    /// User data that is not for the gateway itself, or while its protocol is not open.
    USER_DATA = "ppp_user_data";
    /// Link-local IPv6 that asks for nothing we answer.
    LINK_LOCAL = "ppp_link_local";
    /// A packet in clear where all are to be encrypted.
    MPPE_CLEAR = "mppe_clear";
    /// An encrypted packet too short, or with flags that do not belong to the mode agreed on.
    MPPE_HEADER = "mppe_header";
    /// An encrypted packet that came before, or too late.
    MPPE_OLD = "mppe_old";
    /// An encrypted packet further ahead than keys are changed for one packet.
    MPPE_FAR = "mppe_far";
    /// An encrypted packet that decrypts to nothing that was ever sent.
    MPPE_GARBLED = "mppe_garbled";
    /// An encrypted packet that needs others before it, which are lost.
    MPPE_LOST = "mppe_lost";
    /// Output that the carrier did not take in time.
    OUTPUT_FULL = "ppp_output_full";
}
