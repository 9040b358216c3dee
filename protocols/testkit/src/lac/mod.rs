//! An L2TP access concentrator with PPP clients behind it, to try an LNS with.
//!
//! It shares no code with the gateway's own L2TP and PPP, so that each checks the other. [`Lac`] is one tunnel
//! with its calls and is sans-IO; [`storm`] runs thousands of them over real sockets; a [`Script`] makes it
//! misbehave.

mod channel;
mod echo;
mod ppp;
pub mod script;
pub mod storm;
mod tunnel;
pub mod wire;

pub use ppp::Learned;
pub use script::{Act, Damage, Outgoing, Rule, Script, When};
pub use tunnel::{CallId, Lac, LacEvent};

use std::time::Duration;

/// How a LAC and its clients behave.
#[derive(Clone, Debug)]
pub struct LacConfig {
    /// Host Name it gives.
    pub host_name: String,
    /// Secret shared with the LNS: it then challenges the LNS, and answers its challenge.
    pub secret: Option<Vec<u8>>,
    /// Whether the Assigned Tunnel ID is sent hidden; needs a secret.
    pub hide: bool,
    /// Calls to place, one PPP client each.
    pub calls: usize,
    /// Name and password of the clients. `{}` in the name stands for the number of the call, counted from
    /// [`LacConfig::first_call`].
    pub user: String,
    /// Password of the clients.
    pub password: Vec<u8>,
    /// Number of the first call.
    pub first_call: usize,
    /// Calling Number of every call; empty: the AVP is not sent.
    pub calling: String,
    /// Whether the clients ask for IPv4.
    pub ipv4: bool,
    /// Whether the clients ask for IPv6.
    pub ipv6: bool,
    /// Whether the clients ask for an IPv4 address and name servers, as nearly all do.
    pub ask_address: bool,
    /// Whether the clients ask for protocol, address and control field compression.
    pub compression: bool,
    /// Largest packet the clients receive.
    pub mru: u16,
    /// Whether the first IPCP request follows the PAP request at once, without waiting for the answer.
    pub eager_ncp: bool,
    /// Time to the first retransmission of a control message.
    pub retransmit: Duration,
    /// Retransmissions of a control message.
    pub tries: u8,
    /// HELLO after this much silence; `None`: never.
    pub hello: Option<Duration>,
    /// What it does wrong.
    pub script: Script,
}

impl Default for LacConfig {
    fn default() -> Self {
        Self {
            host_name: "lac.test".into(),
            secret: None,
            hide: false,
            calls: 1,
            user: "user".into(),
            password: b"password".to_vec(),
            first_call: 0,
            calling: String::new(),
            ipv4: true,
            ipv6: true,
            ask_address: true,
            compression: false,
            mru: 1400,
            eager_ncp: false,
            retransmit: Duration::from_secs(1),
            tries: 5,
            hello: Some(Duration::from_secs(60)),
            script: Script::default(),
        }
    }
}

impl LacConfig {
    /// The name of one client.
    pub fn user_name(&self, call: usize) -> String {
        self.user.replace("{}", &(self.first_call + call).to_string())
    }
}
