//! Every way in which a connection and its session end.

use super::{Admission, CLIENT, Connection, OTHER, Phase, SESSION, Version};
use crate::config::AuthMethod;
use crate::names::counts;
use crate::wire::{Command, Message, Reply, VERSION4};
use sluice_auth::{Host, RejectReason};
use sluice_spi::{ChannelFailure, ChannelRef, Close, Direction, Ended, Event, JoinEnd, TerminateCause};

impl Connection {
    /// Closes the client's connection where nothing else is to be closed.
    pub(super) fn close_client(&mut self) {
        self.close_channels(Close::Finish, Close::Finish);
    }

    fn close_channels(&mut self, client: Close, other: Close) {
        if std::mem::take(&mut self.has_other) {
            self.event(Event::CloseChannel {
                channel: OTHER,
                close: other,
            });
        }
        if std::mem::take(&mut self.has_client) {
            self.event(Event::CloseChannel {
                channel: CLIENT,
                close: client,
            });
        }
        self.over();
    }

    fn over(&mut self) {
        self.phase = Phase::Over;
        self.deadline = None;
        self.input = Vec::new();
    }

    fn session_down(&mut self, ended: Ended) {
        if std::mem::take(&mut self.has_session) {
            self.event(Event::SessionDown {
                session: SESSION,
                ended,
            });
        }
    }

    /// Closes everything, then ends the session.
    pub(super) fn end(&mut self, close: Close, ended: Ended) {
        let other = match self.phase {
            Phase::Joined => close,
            _ => Close::Finish,
        };
        self.close_channels(close, other);
        self.session_down(ended);
    }

    /// Answers the request with a failure and ends.
    pub(super) fn fail(&mut self, reply: Reply, ended: Ended) {
        self.reply_failure(reply);
        self.end(Close::Finish, ended);
    }

    /// Refuses a request for what it is.
    pub(super) fn refuse(&mut self, reply: Reply) {
        let text = match &self.target {
            Some(target) => format!("{} {target}: {}", self.command.as_str(), reply.as_str()),
            None => reply.as_str().to_owned(),
        };
        self.fail(reply, Ended::new(TerminateCause::UserError, reply.as_str(), text));
    }

    /// A name or password is not right, or nobody can say. The client is not told which.
    pub(super) fn auth_failed(&mut self, reason: RejectReason) {
        let cause = match reason {
            RejectReason::Unavailable | RejectReason::NoAddress => TerminateCause::ServiceUnavailable,
            _ => TerminateCause::UserError,
        };
        let text = format!("login refused: {}", reason.as_str());
        self.count(counts::AUTH_FAILED);
        self.refuse_login(Ended::new(cause, "auth_rejected", text));
    }

    fn refuse_login(&mut self, ended: Ended) {
        if self.method == AuthMethod::Gssapi {
            return self.gss_abort(ended);
        }
        self.traced(Direction::Out, || "login refused".to_owned());
        self.output.push(&Message::status(false));
        self.end(Close::Finish, ended);
    }

    /// A channel was not opened, or is gone.
    pub(super) fn failed(&mut self, channel: ChannelRef, failure: ChannelFailure) {
        if channel == CLIENT {
            self.has_client = false;
            return self.client_reset();
        }
        if channel != OTHER || !self.has_other {
            return;
        }
        self.has_other = false;
        match self.phase {
            Phase::Opening | Phase::Listening => {
                let (reply, cause) = self.outcome(failure);
                let what = self.command.as_str();
                let text = match &self.target {
                    Some(target) => format!("{what} {target}: {}", failure.as_str()),
                    None => format!("{what}: {}", failure.as_str()),
                };
                self.fail(reply, Ended::new(cause, failure.as_str(), text));
            }
            Phase::Joined => {
                let text = "the connection to the target did not outlive a restart";
                self.end(
                    Close::Reset,
                    Ended::new(TerminateCause::LostService, "not_resumed", text),
                );
            }
            Phase::Relaying => {
                let text = format!("the relay failed: {}", failure.as_str());
                self.end(
                    Close::Finish,
                    Ended::new(TerminateCause::PortError, "relay_failed", text),
                );
            }
            _ => {}
        }
    }

    /// What a failure is to the client, and to accounting.
    fn outcome(&self, failure: ChannelFailure) -> (Reply, TerminateCause) {
        match failure {
            ChannelFailure::TimedOut => (Reply::TtlExpired, TerminateCause::ServiceUnavailable),
            ChannelFailure::NetworkUnreachable => {
                (Reply::NetworkUnreachable, TerminateCause::ServiceUnavailable)
            }
            ChannelFailure::HostUnreachable => (Reply::HostUnreachable, TerminateCause::ServiceUnavailable),
            ChannelFailure::Refused => (Reply::ConnectionRefused, TerminateCause::HostRequest),
            ChannelFailure::Family => {
                // An address of the wrong family is the client's choice; a name that has no other is not.
                let named = matches!(&self.target, Some(target) if matches!(target.host, Host::Name(_)));
                let reply = if named {
                    Reply::NetworkUnreachable
                } else {
                    Reply::AddressTypeNotSupported
                };
                (reply, TerminateCause::ServiceUnavailable)
            }
            ChannelFailure::UpstreamCommand => {
                (Reply::CommandNotSupported, TerminateCause::ServiceUnavailable)
            }
            ChannelFailure::UpstreamAddress => {
                (Reply::AddressTypeNotSupported, TerminateCause::ServiceUnavailable)
            }
            ChannelFailure::Upstream => (Reply::GeneralFailure, TerminateCause::ServiceUnavailable),
            ChannelFailure::Resources => (Reply::GeneralFailure, TerminateCause::PortError),
            ChannelFailure::Denied => (Reply::NotAllowed, TerminateCause::NasRequest),
        }
    }

    /// Joined channels came apart, and both are closed; or a relay ended, and its control connection ends with it
    /// (RFC 1928, 7: the one is not without the other).
    pub(super) fn parted(&mut self, end: JoinEnd) {
        let with_client = match self.phase {
            Phase::Joined => false,
            Phase::Relaying => true,
            _ => return,
        };
        let (cause, code, text) = match end {
            JoinEnd::Finished => (TerminateCause::UserRequest, "finished", "both sides ended"),
            JoinEnd::FirstReset => (
                TerminateCause::LostCarrier,
                "client_reset",
                "the client's connection was reset",
            ),
            JoinEnd::SecondReset => (
                TerminateCause::HostRequest,
                "target_reset",
                "the target's connection was reset",
            ),
            JoinEnd::Idle => (TerminateCause::IdleTimeout, "idle", "nothing went either way"),
            JoinEnd::HalfClosed => (
                TerminateCause::IdleTimeout,
                "half_closed",
                "one side had ended, and the other did not",
            ),
            JoinEnd::Lifetime => (
                TerminateCause::SessionTimeout,
                "lifetime",
                "it lasted as long as it may",
            ),
            JoinEnd::Asked => (
                TerminateCause::NasRequest,
                "asked",
                "the gateway was told to end it",
            ),
            JoinEnd::Codec(reason) => {
                self.event(Event::Dropped(reason));
                (
                    TerminateCause::UserError,
                    reason.0,
                    "the client's messages cannot be read on, or none can be sent to it",
                )
            }
        };
        self.has_other = false;
        let ended = Ended::new(cause, code, text);
        if with_client {
            return self.end(Close::Finish, ended);
        }
        self.over();
        self.session_down(ended);
    }

    /// Looks whether the client, having ended its sending, can still want anything: it may have said everything, its
    /// payload included, and wait for what comes back.
    pub(super) fn notice_gone(&mut self) {
        if !self.finished {
            return;
        }
        let may_wait = match self.phase {
            Phase::Over | Phase::Joined => return,
            Phase::Relaying => {
                let text = "the client ended its connection";
                return self.end(
                    Close::Finish,
                    Ended::new(TerminateCause::UserRequest, "finished", text),
                );
            }
            Phase::Greeting => false,
            Phase::Login | Phase::Token | Phase::Level | Phase::Request => {
                self.admission == Admission::Pending
            }
            Phase::Context | Phase::Verdict => true,
            Phase::Admission | Phase::Opening => self.command == Command::Connect,
            Phase::Listening => false,
        };
        if !may_wait || self.input.is_empty() {
            self.gone(Close::Finish, TerminateCause::UserRequest, "the client left");
        }
    }

    /// The client's connection was reset.
    pub(super) fn client_reset(&mut self) {
        match self.phase {
            Phase::Over => {}
            Phase::Relaying | Phase::Joined => {
                let text = "the client's connection was reset";
                self.end(
                    Close::Reset,
                    Ended::new(TerminateCause::LostCarrier, "client_reset", text),
                );
            }
            _ => self.gone(
                Close::Reset,
                TerminateCause::LostCarrier,
                "the client's connection was reset",
            ),
        }
    }

    fn gone(&mut self, close: Close, cause: TerminateCause, text: &str) {
        self.count(counts::CLIENT_GONE);
        let text = format!("{text} while {}", self.phase.what());
        self.end(close, Ended::new(cause, "client_gone", text));
    }

    /// The client sent more ahead than is kept.
    pub(super) fn overflow(&mut self) {
        self.count(counts::EARLY_OVERFLOW);
        let text = format!("the client sent too much ahead while {}", self.phase.what());
        self.end(
            Close::Reset,
            Ended::new(TerminateCause::UserError, "early_overflow", text),
        );
    }

    /// The deadline is over.
    pub(super) fn expired(&mut self) {
        match self.phase {
            Phase::Listening => {
                self.count(counts::BIND_TIMEOUT);
                let text = "nobody came to the address that was bound";
                let ended = Ended::new(TerminateCause::ServiceUnavailable, "bind_timeout", text);
                self.fail(Reply::TtlExpired, ended);
            }
            Phase::Joined | Phase::Relaying => self.context_over(),
            Phase::Context | Phase::Verdict => {
                let text = "the login was not judged in time";
                let ended = Ended::new(TerminateCause::ServiceUnavailable, "auth_timeout", text);
                self.refuse_login(ended);
            }
            phase => {
                self.count(counts::HANDSHAKE_TIMEOUT);
                // Of SOCKS5 only requests are answered; SOCKS4 has nothing else.
                if phase == Phase::Admission
                    || phase == Phase::Greeting && self.input.first() == Some(&VERSION4)
                {
                    self.version = Some(Version::V4);
                    self.reply_failure(Reply::GeneralFailure);
                }
                let text = format!("time is over while {}", phase.what());
                let ended = Ended::new(TerminateCause::IdleTimeout, "handshake_timeout", text);
                self.end(Close::Finish, ended);
            }
        }
    }

    /// Ends by order of the gateway.
    pub(super) fn terminate(&mut self, cause: TerminateCause, code: &'static str) {
        let ended = match cause {
            // A restart: others go on in the next process.
            TerminateCause::NasReboot if self.has_keys() => {
                let text = "its keys end with the process that has them";
                Ended::new(cause, "keys_lost", text)
            }
            _ => Ended::new(cause, code, format!("ended: {cause}")),
        };
        match self.phase {
            Phase::Over => {}
            Phase::Greeting
            | Phase::Login
            | Phase::Token
            | Phase::Level
            | Phase::Request
            | Phase::Relaying => self.end(Close::Finish, ended),
            Phase::Context | Phase::Verdict => self.refuse_login(ended),
            Phase::Admission | Phase::Opening | Phase::Listening => self.fail(Reply::GeneralFailure, ended),
            // Neither side may take the middle of a stream for its end.
            Phase::Joined => self.end(Close::Reset, ended),
        }
    }
}

impl Phase {
    /// What was going on, for the words about an end.
    pub(super) fn what(self) -> &'static str {
        match self {
            Phase::Greeting => "it was to greet",
            Phase::Login => "it was to say its name and password",
            Phase::Token => "it was to send a token for its context",
            Phase::Context => "its token was checked",
            Phase::Verdict => "its name was checked",
            Phase::Level => "it was to say its protection level",
            Phase::Request => "it was to make its request",
            Phase::Admission => "its session was to be admitted",
            Phase::Opening => "its request was being done",
            Phase::Listening => "a connection was waited for",
            Phase::Joined | Phase::Relaying => "it was served",
            Phase::Over => "it had ended",
        }
    }

    /// The name of the state for operators.
    pub(super) fn name(self) -> &'static str {
        match self {
            Phase::Greeting => "greeting",
            Phase::Login => "login",
            Phase::Token => "token",
            Phase::Context => "context",
            Phase::Verdict => "authenticating",
            Phase::Level => "protection_level",
            Phase::Request => "request",
            Phase::Admission => "admission",
            Phase::Opening => "opening",
            Phase::Listening => "listening",
            Phase::Joined => "joined",
            Phase::Relaying => "relaying",
            Phase::Over => "over",
        }
    }
}

impl Version {
    /// Its number.
    pub(crate) fn number(self) -> u8 {
        match self {
            Version::V4 => VERSION4,
            Version::V5 => crate::wire::VERSION5,
        }
    }
}
