//! The authentication protocols of LCP (RFC 1661, 6.2).

use super::chap;
use crate::header::protocol;
use sluice_auth::Method;

/// What an Authentication-Protocol option names, of what is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AuthProtocol {
    /// PAP (RFC 1334).
    Pap,
    /// CHAP with MD5 (RFC 1994).
    Chap,
    /// MS-CHAPv2 (RFC 2759).
    MsChapV2,
}

impl AuthProtocol {
    /// All of them, the strongest first.
    pub const ALL: [AuthProtocol; 3] = [AuthProtocol::MsChapV2, AuthProtocol::Chap, AuthProtocol::Pap];

    /// The name used in configuration, facts and traces.
    pub fn as_str(self) -> &'static str {
        self.method().as_str()
    }

    /// What backends have to check.
    pub fn method(self) -> Method {
        match self {
            AuthProtocol::Pap => Method::Pap,
            AuthProtocol::Chap => Method::Chap,
            AuthProtocol::MsChapV2 => Method::MsChapV2,
        }
    }

    /// The number of its packets' protocol.
    pub fn number(self) -> u16 {
        match self {
            AuthProtocol::Pap => protocol::PAP,
            AuthProtocol::Chap | AuthProtocol::MsChapV2 => protocol::CHAP,
        }
    }

    /// The algorithm that the option names beside the number, where it does.
    pub fn algorithm(self) -> Option<u8> {
        match self {
            AuthProtocol::Pap => None,
            AuthProtocol::Chap => Some(chap::MD5),
            AuthProtocol::MsChapV2 => Some(chap::MSCHAP_V2),
        }
    }

    /// That of a CHAP algorithm. MS-CHAP version 1 has none: it is never spoken.
    pub fn of_algorithm(algorithm: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|one| one.algorithm() == Some(algorithm))
    }
}
