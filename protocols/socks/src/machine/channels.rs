//! What becomes of a request: the channel that it asks for, the replies, the relay.

use super::{CLIENT, Connection, OTHER, Phase, SESSION, Version};
use crate::checkpoint::Saved;
use crate::codec::Codec;
use crate::config::Config;
use crate::names::counts;
use crate::protection::Datagrams;
use crate::wire::{Command, Message, Reply, v4};
use bytes::Bytes;
use sluice_auth::Host;
use sluice_spi::{Direction, Ended, Event, Fact, RelayCodec, RelaySpec, StreamCodec, Target, TerminateCause};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

impl Connection {
    /// Does what the client asks for, unless it may not.
    pub(super) fn start(&mut self) {
        self.deadline = None;
        if let Some(denied) = self.denied {
            let text = format!("not admitted: {}", denied.code);
            let ended = Ended::new(TerminateCause::ServiceUnavailable, denied.code, text);
            return self.fail(denied.reply, ended);
        }
        let Some(target) = self.target.clone() else {
            return self.refuse(Reply::GeneralFailure);
        };
        if !self.config.commands.contains(&self.command) {
            return self.refuse(Reply::CommandNotSupported);
        }
        match self.command {
            Command::Connect if target.port == 0 => self.refuse(Reply::GeneralFailure),
            Command::Connect => self.ask(Event::OpenChannel {
                session: SESSION,
                channel: OTHER,
                target,
            }),
            Command::Bind => self.ask(Event::ListenChannel {
                session: SESSION,
                channel: OTHER,
                from: target,
            }),
            Command::UdpAssociate => match self.relay_client(&target) {
                Some(client) => {
                    self.target = Some(Target {
                        host: Host::Address(client.ip()),
                        port: client.port(),
                    });
                    self.open_relay(client);
                }
                None => self.refuse(Reply::NotAllowed),
            },
        }
    }

    fn ask(&mut self, event: Event) {
        self.phase = Phase::Opening;
        self.has_other = true;
        self.event(event);
    }

    fn open_relay(&mut self, client: SocketAddr) {
        let plain = Codec::new(self.config.udp_reassembly);
        let codec: Box<dyn RelayCodec> = match self.datagram_protection().0 {
            Some(protection) => Box::new(Datagrams::new(plain, protection)),
            None => Box::new(plain),
        };
        self.ask(Event::OpenRelay {
            session: SESSION,
            channel: OTHER,
            relay: Box::new(RelaySpec { client, codec }),
        });
    }

    /// Where a client's datagrams will come from: always its own address, and the port that it says where it can know
    /// it. A client behind a translator knows neither (RFC 1928, 6: it then says zeros, or should). `None`: it names an
    /// address that is not its own, and may not.
    fn relay_client(&self, stated: &Target) -> Option<SocketAddr> {
        let strict = self.config.udp_strict_client;
        let own = self.peer.remote.ip().to_canonical();
        let port = match stated.host {
            Host::Address(address) if address == own => Some(stated.port),
            Host::Address(address) if address.is_unspecified() => Some(stated.port).filter(|_| strict),
            _ if strict => return None,
            _ => None,
        };
        Some(SocketAddr::new(own, port.unwrap_or(0)))
    }

    /// The other channel is connected.
    pub(super) fn opened(&mut self, local: SocketAddr, remote: SocketAddr) {
        let told = match (self.phase, self.command) {
            (Phase::Opening, Command::Connect) => local,
            (Phase::Listening, Command::Bind) => remote,
            _ => return,
        };
        self.local = Some(local);
        self.remote = Some(remote);
        self.deadline = None;
        self.succeed(told);
        self.phase = Phase::Joined;
        self.up();
        let (early, codec) = self.stream_codec();
        self.join(early, codec);
    }

    /// The other channel waits, or relays.
    pub(super) fn listening(&mut self, local: SocketAddr, now: Instant) {
        match (self.phase, self.command) {
            (Phase::Opening, Command::Bind) => {
                self.local = Some(local);
                self.deadline = Some(now + self.config.bind_timeout);
                self.phase = Phase::Listening;
                self.succeed(local);
            }
            (Phase::Opening, Command::UdpAssociate) => {
                self.local = Some(local);
                self.phase = Phase::Relaying;
                self.input = Vec::new();
                self.deadline = self.datagram_protection().1;
                self.succeed(local);
                self.up();
                self.notice_gone();
            }
            // After a restart, which may have moved it.
            (Phase::Relaying | Phase::Listening, _) => self.local = Some(local),
            _ => {}
        }
    }

    fn succeed(&mut self, bound: SocketAddr) {
        self.traced(Direction::Out, || format!("granted, {bound}"));
        match self.version {
            Some(Version::V4) => {
                self.count(counts::code(v4::Code::Granted));
                self.output.push(&Message::v4(v4::Code::Granted, bound));
            }
            _ => {
                self.count(counts::reply(Reply::Succeeded));
                self.say(&Message::reply(Reply::Succeeded, bound));
            }
        }
    }

    /// Tells the client that its request comes to nothing.
    pub(super) fn reply_failure(&mut self, reply: Reply) {
        self.traced(Direction::Out, || format!("refused: {}", reply.as_str()));
        match self.version {
            Some(Version::V4) => {
                let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                self.count(counts::code(v4::Code::Rejected));
                self.output.push(&Message::v4(v4::Code::Rejected, nowhere));
            }
            _ => {
                self.count(counts::reply(reply));
                self.say(&Message::failure(reply));
            }
        }
    }

    fn up(&mut self) {
        let mut facts = Vec::with_capacity(3);
        facts.push(Fact::new("command", self.command.as_str()));
        facts.extend(self.target_fact());
        facts.extend(self.remote_fact());
        self.event(Event::SessionUp {
            session: SESSION,
            facts,
        });
    }

    fn join(&mut self, early: Bytes, codec: Option<Box<dyn StreamCodec>>) {
        self.event(Event::Join {
            session: SESSION,
            first: CLIENT,
            second: OTHER,
            early,
            codec,
        });
    }

    /// A connection that goes on after a restart. Its sockets are there already: it takes up its channels again.
    pub(crate) fn restored(config: Arc<Config>, saved: Saved, now: Instant) -> Self {
        let mut connection = Self::new(config, saved.key, saved.peer);
        let established = saved.established;
        connection.version = Some(established.version);
        connection.method = established.method;
        connection.command = established.command;
        connection.admission = super::Admission::Answered;
        connection.user = established.user;
        connection.local = established.local;
        connection.remote = established.remote;
        connection.has_session = true;
        connection.has_other = true;
        let client = match &established.target.host {
            Host::Address(address) => SocketAddr::new(*address, established.target.port),
            Host::Name(_) => connection.peer.remote,
        };
        connection.target = Some(established.target);
        let tunnel = connection.info();
        connection.event(Event::Recovered {
            tunnel,
            sessions: vec![SESSION],
        });
        if let (Some(wait), Some(from)) = (established.wait, connection.target.clone()) {
            let left = wait.left.min(connection.config.bind_timeout);
            connection.deadline = Some(now + left);
            connection.input = wait.early;
            connection.event(Event::ListenChannel {
                session: SESSION,
                channel: OTHER,
                from,
            });
            connection.phase = Phase::Listening;
        } else if connection.command == Command::UdpAssociate {
            connection.open_relay(client);
            connection.phase = Phase::Relaying;
        } else {
            connection.phase = Phase::Joined;
            connection.join(Bytes::new(), None);
        }
        connection
    }
}
