//! What the engine of a [`crate::Node`] answers.

use sluice_auth::{AuthRequest, Grants, Ipv6Prefix, RejectReason, Verdict};
use sluice_spi::{CallInfo, Refusal};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

type Admit = dyn FnMut(&CallInfo) -> Result<(), Refusal> + Send;
type Judge = dyn FnMut(&AuthRequest) -> Verdict + Send;
/// What the engine of a node answers.
pub struct Policy {
    /// Answers [`sluice_spi::Event::SessionOpening`].
    pub admit: Box<Admit>,
    /// How long that takes.
    pub admission_delay: Duration,
    /// Answers [`sluice_spi::Event::AuthRequested`].
    pub judge: Box<Judge>,
    /// How long that takes.
    pub judging_delay: Duration,
}

impl Policy {
    /// Admits every session at once and gives every user the next of 254 addresses, after 5 ms.
    pub fn accept_all() -> Self {
        let mut last = 0u8;
        Self {
            admit: Box::new(|_| Ok(())),
            admission_delay: Duration::ZERO,
            judge: Box::new(move |_| {
                last = last.checked_add(1).filter(|&last| last < 255).unwrap_or(1);
                Verdict::accept(Box::new(grants(last)))
            }),
            judging_delay: Duration::from_millis(5),
        }
    }

    /// Admits every session and refuses every user.
    pub fn reject_all(reason: RejectReason) -> Self {
        Self {
            judge: Box::new(move |_| Verdict::Reject(reason)),
            ..Self::accept_all()
        }
    }
}

/// The grants of user number `number`: 10.0.0.`number` behind 10.0.0.254 and 2001:db8:0:`number`::/64, with name
/// servers of both families.
pub fn grants(number: u8) -> Grants {
    Grants {
        ipv4: Some(Ipv4Addr::new(10, 0, 0, number)),
        ipv4_gateway: Some(Ipv4Addr::new(10, 0, 0, 254)),
        ipv6_prefix: Ipv6Prefix::new(Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(number), 0, 0, 0, 0), 64),
        dns4: vec![Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)],
        dns6: vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53)],
        nbns: Vec::new(),
        mtu: None,
    }
}
