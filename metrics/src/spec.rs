//! What the label sets are: lists that the gateway's own types and its modules' descriptors give.

/// A protocol module's names.
#[derive(Clone, Debug)]
pub struct ProtocolLabels {
    /// The module's name.
    pub name: &'static str,
    /// Every reason by which its packets are dropped, or its connections not taken in.
    pub drop_reasons: Vec<&'static str>,
    /// Every other name by which it counts.
    pub events: &'static [&'static str],
}

/// All label sets. No value comes from a peer, a user or an address.
#[derive(Clone, Debug, Default)]
pub struct Labels {
    /// Version of the gateway.
    pub version: String,
    /// Revision of its source; empty: not known.
    pub revision: String,
    /// The modules.
    pub protocols: Vec<ProtocolLabels>,
    /// Reasons by which the data plane drops packets.
    pub dataplane_drop_reasons: Vec<&'static str>,
    /// States of sessions and tunnels that are shown.
    pub states: Vec<&'static str>,
    /// Terminate causes.
    pub causes: Vec<&'static str>,
    /// Reasons why sessions and tunnels are not admitted.
    pub refusals: Vec<&'static str>,
    /// Limits of policy that refuse sessions.
    pub limits: Vec<&'static str>,
    /// What ends live sessions by a change around them.
    pub revocations: Vec<&'static str>,
    /// Reasons why an admitted session was never established.
    pub setup_failures: Vec<&'static str>,
    /// What is counted about the way to targets, by families and labels that its owner has.
    pub egress: Vec<(&'static str, &'static str)>,
    /// Authentication backends, with the name that stands for none.
    pub backends: Vec<&'static str>,
    /// Authentication methods.
    pub methods: Vec<&'static str>,
    /// Reasons why authentication refuses.
    pub rejects: Vec<&'static str>,
}

/// Parts of a session's setup whose durations are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// From the call to the first credentials.
    Opening,
    /// From the credentials to their verdict.
    Authenticating,
    /// From the verdict until user data flows.
    Establishing,
    /// All of it.
    Total,
}

impl Phase {
    /// All phases.
    pub const ALL: [Phase; 4] = [
        Phase::Opening,
        Phase::Authenticating,
        Phase::Establishing,
        Phase::Total,
    ];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Opening => "opening",
            Phase::Authenticating => "authenticating",
            Phase::Establishing => "establishing",
            Phase::Total => "total",
        }
    }
}

/// What became of a session that was recorded before a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RestoreResult {
    /// It goes on.
    Recovered,
    /// Its peer no longer knows it, or did not answer.
    Lost,
    /// Its record could not be used and was set aside.
    SetAside,
}

impl RestoreResult {
    /// All results.
    pub const ALL: [RestoreResult; 3] = [
        RestoreResult::Recovered,
        RestoreResult::Lost,
        RestoreResult::SetAside,
    ];

    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            RestoreResult::Recovered => "recovered",
            RestoreResult::Lost => "lost",
            RestoreResult::SetAside => "set_aside",
        }
    }
}

/// How many addresses of one family of a pool are in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUse {
    /// The pool's name in the configuration.
    pub pool: String,
    /// Whether these are IPv6 prefixes rather than IPv4 addresses.
    pub ipv6: bool,
    /// Held by sessions.
    pub held: u64,
    /// Kept for the users that had them last.
    pub kept: u64,
    /// Not to be given to anybody.
    pub blocked: u64,
    /// Free.
    pub free: u64,
}
