//! Why sessions and tunnels end.

use std::fmt;
use std::str::FromStr;

macro_rules! causes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// Why a session ended, with the names and numbers of Acct-Terminate-Cause (RFC 2866, 5.10).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum TerminateCause { $($(#[$doc])* $name = $value,)* }

        impl TerminateCause {
            /// All causes, for closed metric label sets.
            pub const ALL: &'static [TerminateCause] = &[$(TerminateCause::$name),*];

            /// The stable code used in metrics, logs and the API.
            pub fn as_str(self) -> &'static str {
                match self { $(TerminateCause::$name => $text,)* }
            }
        }
    };
}

causes! {
    /// The user asked for it.
    UserRequest = 1, "user-request";
    /// The peer or its line is gone.
    LostCarrier = 2, "lost-carrier";
    /// Service can no longer be given.
    LostService = 3, "lost-service";
    /// No traffic for longer than allowed.
    IdleTimeout = 4, "idle-timeout";
    /// The longest session time is over.
    SessionTimeout = 5, "session-timeout";
    /// An operator ended the session.
    AdminReset = 6, "admin-reset";
    /// An operator is ending service on the gateway.
    AdminReboot = 7, "admin-reboot";
    /// An error on the port that required ending the session.
    PortError = 8, "port-error";
    /// The gateway or its peer broke the protocol.
    NasError = 9, "nas-error";
    /// The gateway ended the session for a reason that is no error.
    NasRequest = 10, "nas-request";
    /// The gateway crashed or was restarted cold.
    NasReboot = 11, "nas-reboot";
    /// The gateway no longer needs the port.
    PortUnneeded = 12, "port-unneeded";
    /// The port was taken for a use of higher priority.
    PortPreempted = 13, "port-preempted";
    /// The gateway suspended the virtual session.
    PortSuspended = 14, "port-suspended";
    /// The gateway could not give the requested service.
    ServiceUnavailable = 15, "service-unavailable";
    /// The gateway ends the session to call back.
    Callback = 16, "callback";
    /// The user's input was wrong, such as a password.
    UserError = 17, "user-error";
    /// The login host ended the session.
    HostRequest = 18, "host-request";
}

impl TerminateCause {
    /// The number of the cause in Acct-Terminate-Cause.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The cause with a number, where RFC 2866 gives it one.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|cause| cause.number() == number)
    }
}

impl fmt::Display for TerminateCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TerminateCause {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|cause| cause.as_str() == text)
            .ok_or_else(|| format!("no terminate cause is called {text:?}"))
    }
}

/// How something ended: the cause for accounting, a stable code for counters, and words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The cause in RFC 2866's terms.
    pub cause: TerminateCause,
    /// A stable, low-cardinality code such as `auth_rejected` or `control_timeout`.
    pub code: &'static str,
    /// What happened, in words. Text that came from the peer is already escaped.
    pub text: String,
}

impl Ended {
    /// Puts the three together.
    pub fn new(cause: TerminateCause, code: &'static str, text: impl Into<String>) -> Self {
        Self {
            cause,
            code,
            text: text.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TerminateCause;

    #[test]
    fn names_and_numbers_map_both_ways() {
        assert_eq!(TerminateCause::ALL.len(), 18);
        for &cause in TerminateCause::ALL {
            assert_eq!(cause.as_str().parse(), Ok(cause));
            assert_eq!(TerminateCause::from_number(cause.number()), Some(cause));
        }
        assert!(TerminateCause::from_number(0).is_none());
        assert!("nonsense".parse::<TerminateCause>().is_err());
    }
}
