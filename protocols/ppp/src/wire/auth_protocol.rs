//! The authentication protocols of LCP (RFC 1661, 6.2).

use super::chap;
use super::eap::EapMethod;
use crate::header::protocol;
use sluice_auth::{Coverage, Method, Verifiable};

/// What an Authentication-Protocol option names, of what is spoken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AuthProtocol {
    /// PAP (RFC 1334).
    Pap,
    /// CHAP with MD5 (RFC 1994).
    Chap,
    /// MS-CHAPv2 (RFC 2759).
    MsChapV2,
    /// EAP (RFC 3748), whose methods are agreed on later.
    Eap,
}

impl AuthProtocol {
    /// All of them, the strongest first. EAP, which is what is in it, is left to those who want nothing else.
    pub const ALL: [AuthProtocol; 4] = [
        AuthProtocol::MsChapV2,
        AuthProtocol::Chap,
        AuthProtocol::Pap,
        AuthProtocol::Eap,
    ];

    /// The name used in configuration, facts and traces.
    pub fn as_str(self) -> &'static str {
        match self {
            AuthProtocol::Pap => "pap",
            AuthProtocol::Chap => "chap",
            AuthProtocol::MsChapV2 => "mschapv2",
            AuthProtocol::Eap => "eap",
        }
    }

    /// Whom it can be checked for; by EAP, whom one of its methods can.
    pub fn coverage(self, verifiable: &Verifiable, eap: &[EapMethod]) -> Coverage {
        match self {
            AuthProtocol::Pap => verifiable.coverage(Method::Pap),
            AuthProtocol::Chap => verifiable.coverage(Method::Chap),
            AuthProtocol::MsChapV2 => verifiable.coverage(Method::MsChapV2),
            AuthProtocol::Eap => {
                let methods = eap.iter().map(|method| method.coverage(verifiable));
                methods.max().unwrap_or(Coverage::None)
            }
        }
    }

    /// The number of its packets' protocol.
    pub fn number(self) -> u16 {
        match self {
            AuthProtocol::Pap => protocol::PAP,
            AuthProtocol::Chap | AuthProtocol::MsChapV2 => protocol::CHAP,
            AuthProtocol::Eap => protocol::EAP,
        }
    }

    /// The algorithm that the option names beside the number, where it does.
    pub fn algorithm(self) -> Option<u8> {
        match self {
            AuthProtocol::Pap | AuthProtocol::Eap => None,
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
