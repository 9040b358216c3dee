//! Security contexts (GSS-API, RFC 2743) as the gateway's parts see them, without the library that has the keys.
//!
//! A protocol machine gives an initiator's tokens to a [`Negotiation`], away from the shard's thread, as it may read
//! files. When the context stands, [`SecurityContext`] wraps and unwraps messages; that needs nothing but the keys, and
//! is done where the messages are.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The longest token that protocols carry: its length has two octets (RFC 1961, 3.4).
pub const MAX_TOKEN: usize = 65_535;

/// With which keys contexts are accepted, and under which name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContextKeys {
    /// The file of the keys.
    pub keytab: PathBuf,
    /// The name: `SERVICE` or `SERVICE@HOST`, or a whole principal, such as `SERVICE/HOST@REALM`.
    pub principal: String,
}

/// Begins contexts with the keys of one [`ContextKeys`].
pub trait Contexts: Send + Sync {
    /// The beginning of one. It may read files.
    ///
    /// # Errors
    ///
    /// Where there are no keys.
    fn begin(&self) -> Result<Box<dyn Negotiation>, ContextFailure>;
}

/// A context that does not stand yet.
pub trait Negotiation: Send {
    /// Takes the initiator's next token. It may read and write files.
    ///
    /// # Errors
    ///
    /// Where there will be no context.
    fn accept(self: Box<Self>, token: &[u8]) -> Result<ContextStep, ContextFailure>;
}

/// What a token led to. Tokens are shown to nobody.
pub enum ContextStep {
    /// The initiator is to be sent a token and to answer with another.
    Continue {
        /// The token.
        reply: Vec<u8>,
        /// What takes the answer.
        negotiation: Box<dyn Negotiation>,
    },
    /// The context stands.
    Established(Box<Established>),
}

/// A context that stands, with what is known of it.
pub struct Established {
    /// A token for the initiator; it may be empty.
    pub reply: Vec<u8>,
    /// The initiator's name, as octets for people: with Kerberos its principal, `NAME@REALM`.
    pub initiator: Vec<u8>,
    /// Whether messages can be protected against changes.
    pub integrity: bool,
    /// Whether messages can be made unreadable to others.
    pub confidentiality: bool,
    /// How long it is good for; `None`: for ever.
    pub lifetime: Option<Duration>,
    /// The context.
    pub context: Box<dyn SecurityContext>,
}

/// What was known of a message's place in its sequence, as far as the initiator asked for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It came in its turn, or order is not looked at.
    InOrder,
    /// Others that were before it are missing, or it came after one that was behind it.
    OutOfOrder,
    /// It was there before, or it is so old that nobody can say.
    Repeated,
}

/// What an unwrapped message is, beside its octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwrapped {
    /// Whether it was unreadable to others.
    pub confidential: bool,
    /// Its place in the sequence.
    pub order: Order,
}

/// A context that stands. It is used by one thread at a time, whichever.
pub trait SecurityContext: Send {
    /// Protects a message, and gives the token to `put`, at once and in one piece.
    ///
    /// # Errors
    ///
    /// Where the context has ended, or cannot do it.
    fn wrap(
        &mut self,
        confidential: bool,
        message: &[u8],
        put: &mut dyn FnMut(&[u8]),
    ) -> Result<(), ContextFailure>;

    /// Takes a message out of its token, and gives it to `put`, at once and in one piece.
    ///
    /// # Errors
    ///
    /// Where it is none of this context's.
    fn unwrap(&mut self, token: &[u8], put: &mut dyn FnMut(&[u8])) -> Result<Unwrapped, ContextFailure>;

    /// The longest message whose token has at most so many octets; 0: there is none.
    fn longest_message(&self, confidential: bool, token: usize) -> usize;
}

/// Why there is no context, or no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ContextReason {
    /// The token is none, or was changed.
    Token,
    /// The clocks of both sides differ by more than is allowed.
    ClockSkew,
    /// The token was used before.
    Replay,
    /// The initiator's ticket, or the context, is not good any more.
    Expired,
    /// The gateway has no key for what the initiator was given, or cannot read it.
    NoKey,
    /// No library, thread or time is left for it.
    Unavailable,
    /// Another reason, which the words say.
    Other,
}

impl ContextReason {
    /// All reasons, for closed metric label sets.
    pub const ALL: [ContextReason; 7] = [
        ContextReason::Token,
        ContextReason::ClockSkew,
        ContextReason::Replay,
        ContextReason::Expired,
        ContextReason::NoKey,
        ContextReason::Unavailable,
        ContextReason::Other,
    ];
}

impl fmt::Display for ContextReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ContextReason::Token => "the token is not valid",
            ContextReason::ClockSkew => "the client's clock and this host's differ by too much",
            ContextReason::Replay => "the client's token was used before",
            ContextReason::Expired => "the client's ticket or context has expired",
            ContextReason::NoKey => "the keytab has no key for the client's ticket, or cannot be read",
            ContextReason::Unavailable => "nobody can check the token now",
            ContextReason::Other => "the context was refused",
        })
    }
}

/// Why there is no context, or no message, with the library's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({detail})")]
pub struct ContextFailure {
    /// The reason.
    pub reason: ContextReason,
    /// The library's own words, for operators.
    pub detail: String,
}

impl ContextFailure {
    /// Puts both together.
    pub fn new(reason: ContextReason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

impl fmt::Debug for ContextStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContextStep::Continue { .. } => f.write_str("Continue"),
            ContextStep::Established(established) => established.fmt(f),
        }
    }
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established")
            .field("initiator", &String::from_utf8_lossy(&self.initiator))
            .field("integrity", &self.integrity)
            .field("confidentiality", &self.confidentiality)
            .field("lifetime", &self.lifetime)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for dyn Negotiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Negotiation")
    }
}

impl fmt::Debug for dyn SecurityContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecurityContext")
    }
}
