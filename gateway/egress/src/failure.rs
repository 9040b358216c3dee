//! Why a target was not reached.

use crate::resolver::LookupFailure;
use crate::upstream::Fault;
use sluice_spi::ChannelFailure;
use std::fmt;
use std::io;
use std::net::SocketAddr;

/// A target was not reached: what the client is told, and what the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What the client is told. Where several addresses failed it is the most meaningful failure, by its order.
    pub failure: ChannelFailure,
    /// What happened.
    pub cause: Cause,
    /// The address that it happened to; `None`: it came to no address.
    pub address: Option<SocketAddr>,
}

/// What happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The judge denied the name.
    NameDenied,
    /// The judge denied the address.
    AddressDenied,
    /// The gateway does not use addresses of this family, or none that the name has.
    FamilyDisabled,
    /// The name was not found out.
    Lookup(LookupFailure),
    /// The socket could not be made as the way says. The error number of the system.
    Socket(i32),
    /// The system could not connect. The error number of the system.
    Connect(i32),
    /// Nobody answered within the time.
    ConnectTimeout,
    /// All the time was used up.
    OverallTimeout,
    /// A router said that the packets had gone too far (ICMP time exceeded).
    HopLimit,
    /// An upstream did not do its part.
    Upstream(Fault),
    /// An upstream did not reach the target, and said so: the SOCKS reply or the HTTP status.
    UpstreamReply(u16),
    /// No port of the range is free.
    NoPort,
    /// Nobody came within the time.
    NobodyCame,
}

impl Cause {
    /// The stable code used in logs and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::NameDenied => "name_denied",
            Cause::AddressDenied => "address_denied",
            Cause::FamilyDisabled => "family_disabled",
            Cause::Lookup(failure) => failure.as_str(),
            Cause::Socket(_) => "socket",
            Cause::Connect(_) => "connect",
            Cause::ConnectTimeout => "connect_timeout",
            Cause::OverallTimeout => "overall_timeout",
            Cause::HopLimit => "hop_limit",
            Cause::Upstream(fault) => fault.as_str(),
            Cause::UpstreamReply(_) => "upstream_reply",
            Cause::NoPort => "no_port",
            Cause::NobodyCame => "nobody_came",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Cause::Socket(errno) | Cause::Connect(errno) => {
                write!(f, ": {}", io::Error::from_raw_os_error(*errno))
            }
            Cause::UpstreamReply(code) => write!(f, ": {code}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.failure.as_str())?;
        if let Some(address) = self.address {
            write!(f, " at {address}")?;
        }
        write!(f, " ({})", self.cause)
    }
}

impl std::error::Error for Failed {}

impl Failed {
    pub(crate) fn new(failure: ChannelFailure, cause: Cause) -> Self {
        Self {
            failure,
            cause,
            address: None,
        }
    }

    pub(crate) fn at(self, address: SocketAddr) -> Self {
        Self {
            address: Some(address),
            ..self
        }
    }

    /// A system call on the way to a connection failed.
    pub(crate) fn connect(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Self::new(of_errno(errno), Cause::Connect(errno))
    }

    /// A socket could not be made as it should be. Whatever is missing, it is the gateway that has not got it.
    pub(crate) fn socket(error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let failure = match of_errno(errno) {
            failure @ (ChannelFailure::Family | ChannelFailure::NetworkUnreachable) => failure,
            _ => ChannelFailure::Resources,
        };
        Self::new(failure, Cause::Socket(errno))
    }

    pub(crate) fn denied(cause: Cause) -> Self {
        Self::new(ChannelFailure::Denied, cause)
    }

    pub(crate) fn upstream(fault: Fault) -> Self {
        Self::new(ChannelFailure::Upstream, Cause::Upstream(fault))
    }

    /// The more meaningful of two failures; the first of two that mean the same.
    pub(crate) fn worse(self, other: Self) -> Self {
        if other.failure > self.failure { other } else { self }
    }
}

/// What an error number of `connect` means to a client.
pub(crate) fn of_errno(errno: i32) -> ChannelFailure {
    match errno {
        // The host, or a firewall in its place, says no; a reset in answer to a SYN is the same.
        libc::ECONNREFUSED | libc::ECONNRESET | libc::ECONNABORTED | libc::EPIPE | libc::ENOPROTOOPT => {
            ChannelFailure::Refused
        }
        libc::ENETUNREACH | libc::ENETDOWN | libc::ENODEV | libc::ENXIO | libc::ENONET => {
            ChannelFailure::NetworkUnreachable
        }
        // EINVAL: an address that there can be no route to, such as a link-local one without its interface.
        libc::EHOSTUNREACH | libc::EHOSTDOWN | libc::EINVAL => ChannelFailure::HostUnreachable,
        libc::ETIMEDOUT => ChannelFailure::TimedOut,
        // The host's own firewall or a prohibiting route.
        libc::EACCES | libc::EPERM => ChannelFailure::Denied,
        libc::EAFNOSUPPORT | libc::EPFNOSUPPORT | libc::EPROTONOSUPPORT => ChannelFailure::Family,
        // EADDRNOTAVAIL (no port left), EMFILE, ENFILE, ENOMEM, ENOBUFS, EAGAIN, and what nobody expects.
        _ => ChannelFailure::Resources,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers_are_what_the_client_is_told() {
        for (errno, failure) in [
            (libc::ECONNREFUSED, ChannelFailure::Refused),
            (libc::ECONNRESET, ChannelFailure::Refused),
            (libc::ENETUNREACH, ChannelFailure::NetworkUnreachable),
            (libc::ENETDOWN, ChannelFailure::NetworkUnreachable),
            (libc::EHOSTUNREACH, ChannelFailure::HostUnreachable),
            (libc::EHOSTDOWN, ChannelFailure::HostUnreachable),
            (libc::ETIMEDOUT, ChannelFailure::TimedOut),
            (libc::EADDRNOTAVAIL, ChannelFailure::Resources),
            (libc::EMFILE, ChannelFailure::Resources),
            (libc::ENFILE, ChannelFailure::Resources),
            (libc::ENOMEM, ChannelFailure::Resources),
            (libc::EACCES, ChannelFailure::Denied),
            (libc::EPERM, ChannelFailure::Denied),
            (libc::EAFNOSUPPORT, ChannelFailure::Family),
        ] {
            let failed = Failed::connect(&io::Error::from_raw_os_error(errno));
            assert_eq!((failed.failure, failed.cause), (failure, Cause::Connect(errno)));
        }
    }

    #[test]
    fn what_the_gateway_may_not_do_to_a_socket_is_not_the_clients_fault() {
        for (errno, failure) in [
            (libc::EPERM, ChannelFailure::Resources),
            (libc::EADDRNOTAVAIL, ChannelFailure::Resources),
            (libc::ENODEV, ChannelFailure::NetworkUnreachable),
            (libc::EAFNOSUPPORT, ChannelFailure::Family),
        ] {
            let failed = Failed::socket(&io::Error::from_raw_os_error(errno));
            assert_eq!((failed.failure, failed.cause), (failure, Cause::Socket(errno)));
        }
    }

    #[test]
    fn the_more_meaningful_failure_counts_and_the_first_of_equals() {
        let all = ChannelFailure::ALL.map(|failure| Failed::new(failure, Cause::ConnectTimeout));
        for (index, first) in all.iter().enumerate() {
            for second in &all[index..] {
                assert_eq!(first.worse(*second).failure, second.failure);
                assert_eq!(second.worse(*first).failure, second.failure);
            }
        }
        let refused = Failed::connect(&io::Error::from_raw_os_error(libc::ECONNREFUSED));
        let reset = Failed::connect(&io::Error::from_raw_os_error(libc::ECONNRESET));
        assert_eq!(refused.worse(reset), refused);
    }

    #[test]
    fn a_failure_reads_well() {
        let failed = Failed::connect(&io::Error::from_raw_os_error(libc::ECONNREFUSED))
            .at("192.0.2.1:80".parse().unwrap());
        assert_eq!(
            failed.to_string(),
            "refused at 192.0.2.1:80 (connect: Connection refused (os error 111))"
        );
        let failed = Failed::denied(Cause::NameDenied);
        assert_eq!(failed.to_string(), "denied (name_denied)");
    }
}
