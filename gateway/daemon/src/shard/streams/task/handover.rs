//! One connection over a restart.

use super::super::super::handover::{KeptConnection, reset};
use super::super::super::standing::Asked;
use super::super::super::{Ask, Connection};
use super::super::state::{Doing, State};
use super::super::{Source, Streams, datagrams};
use super::{Other, Running, Task};
use bytes::BytesMut;
use sluice_auth::Profile;
use sluice_auth::policy::Command;
use sluice_dataplane::relay::datagrams as data;
use sluice_dataplane::relay::{Parked, ParkedState, Relay};
use sluice_egress::ParkedWait;
use sluice_spi::{ChannelFailure, ChannelRef, Input, PeerAddr};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use tokio::net::TcpStream;

impl Task {
    /// The task of a connection of the worker before, whose sockets come with [`Task::resume`].
    pub(in super::super) fn restored(
        streams: Rc<Streams>,
        source: Source,
        connection: Connection,
        peer: PeerAddr,
    ) -> Self {
        Self {
            streams,
            source,
            connection,
            client: None,
            peer,
            unsent: BytesMut::new(),
            client_ended: false,
            closing: false,
            other: None,
        }
    }

    /// Leaves joined streams, which have stopped, to the next worker. False: they cannot be left, and are reset.
    pub(super) fn hand_over_streams(&self, parked: Parked) -> bool {
        let sockets = vec![parked.client, parked.target];
        self.leave(Doing::Streams(parked.state), sockets, None)
    }

    /// Leaves the connection of a tunnel to the next worker: nothing more is read, and what its machine still says is
    /// sent. False: it is no tunnel's. One that does not take what it is sent ends.
    pub(super) fn hand_over_tunnel(&mut self) -> bool {
        if !self.unsent.is_empty() || self.client_ended {
            return false;
        }
        let duplicate = self
            .client
            .as_ref()
            .and_then(|client| client.as_fd().try_clone_to_owned().ok());
        let ground = &self.streams.ground;
        let Some(connection) = duplicate else { return false };
        let Some(tunnel) = ground.with(|driver, now| driver.leave_tunnel(&self.connection, now)) else {
            return false;
        };
        self.client_ended = true;
        let kept = KeptConnection::of_tunnel(tunnel, connection);
        self.streams.handover.leave(kept);
        true
    }

    /// Takes the connection of a tunnel from the worker before, and lives on as any other. It must not move before it is
    /// told to.
    pub(in super::super) async fn resume_tunnel(mut self, connection: OwnedFd) {
        match adopt(connection) {
            Ok(client) => self.client = Some(client),
            Err(error) => {
                tracing::warn!("a tunnel does not go on after a restart: {error}");
                self.lost();
            }
        }
        self.run().await;
    }

    /// Leaves a relay of datagrams, or a wait for a peer, to the next worker. Whatever else a connection may be doing, it
    /// does not outlive this one.
    pub(super) async fn hand_over(&mut self) {
        if self.other.as_ref().is_some_and(|other| other.waiting.is_some()) {
            self.hand_over_wait();
        } else {
            self.hand_over_datagrams().await;
        }
    }

    fn hand_over_wait(&mut self) {
        let Some(Other {
            channel,
            opening,
            waiting: Some(waiting),
            ..
        }) = self.other.take()
        else {
            return;
        };
        // It shares the listener.
        drop(opening);
        let parked = Rc::into_inner(waiting).and_then(|waiting| waiting.park().ok());
        let client = self.client.take().map(TcpStream::into_std);
        let (Some(parked), Some(Ok(client))) = (parked, client) else {
            let failure = ChannelFailure::Resources;
            return self.tell(Input::ChannelFailed { channel, failure });
        };
        let sockets = vec![OwnedFd::from(client), parked.listener];
        let doing = Doing::Waiting {
            told: parked.told,
            peers: parked.peers,
            unsent: self.unsent.split().freeze(),
        };
        let asked = Asked::without_destination(Command::Bind);
        if !self.leave(doing, sockets, Some(asked)) {
            let failure = ChannelFailure::Resources;
            self.tell(Input::ChannelFailed { channel, failure });
        }
    }

    /// Stops a relay of datagrams and leaves it to the next worker.
    async fn hand_over_datagrams(&mut self) {
        let Some(Other {
            channel,
            datagrams: Some(running),
            ..
        }) = self.other.take_if(|other| other.datagrams.is_some())
        else {
            return;
        };
        let failure = ChannelFailure::Resources;
        let Some(parked) = running.park().await else {
            return self.tell(Input::ChannelFailed { channel, failure });
        };
        let Some(Ok(client)) = self.client.take().map(TcpStream::into_std) else {
            return self.tell(Input::ChannelFailed { channel, failure });
        };
        let mut sockets = vec![OwnedFd::from(client), parked.client];
        sockets.extend(parked.targets);
        let doing = Doing::Datagrams {
            relay: parked.state,
            unsent: self.unsent.split().freeze(),
        };
        if !self.leave(doing, sockets, None) {
            self.tell(Input::ChannelFailed { channel, failure });
        }
    }

    /// `waits` is what was asked of policy for a connection whose peer has not come.
    fn leave(&self, doing: Doing, descriptors: Vec<OwnedFd>, waits: Option<Asked>) -> bool {
        let ground = &self.streams.ground;
        let Some(left) = ground.with(|driver, now| driver.leave(&self.connection, waits, now)) else {
            reset(&descriptors);
            return false;
        };
        let state = State {
            local: left.local,
            profile: left.profile.map(|profile| Profile::clone(&profile)),
            asked: left.asked,
            checkpoint: left.checkpoint,
            doing,
        };
        self.streams.handover.leave(KeptConnection {
            session: left.session,
            state: state.encode(),
            descriptors,
        });
        true
    }

    /// Goes on where the worker before stopped, and then lives on as any other.
    pub(in super::super) async fn resume(mut self, doing: Doing, asked: Asked, sockets: Vec<OwnedFd>) {
        let wanted = self.connection.outbox.pop();
        match (doing, wanted) {
            (
                Doing::Streams(state),
                Some(Ask::Join {
                    local: session,
                    second,
                    profile,
                    ..
                }),
            ) => {
                let Ok([client, target]) = <[OwnedFd; 2]>::try_from(sockets) else {
                    return self.unlike().await;
                };
                let granted = *self.question(profile, asked.command).grant_again(asked);
                let timeouts = granted.timeouts;
                let parked = Parked {
                    client,
                    target,
                    state: ParkedState { timeouts, ..state },
                };
                match Relay::resume(parked, &self.streams.pool, granted.up, granted.down) {
                    Ok(relay) => {
                        let relay = Running::new(relay);
                        granted.standing.set_charged(relay.carried());
                        self.run_relay(session, relay, granted.standing).await;
                    }
                    Err(error) => {
                        tracing::warn!("a connection does not go on after a restart: {error}");
                        let (channel, failure) = (second, ChannelFailure::Resources);
                        self.tell(Input::ChannelFailed { channel, failure });
                    }
                }
            }
            (Doing::Datagrams { relay, unsent }, Some(ask @ Ask::Relay { .. })) => {
                self.unsent.extend_from_slice(&unsent);
                self.resume_datagrams(relay, ask, asked, sockets);
            }
            (Doing::Waiting { told, peers, unsent }, Some(Ask::Listen { channel, profile, .. })) => {
                self.unsent.extend_from_slice(&unsent);
                self.resume_wait(channel, profile, (told, peers), sockets);
            }
            _ => {
                reset(&sockets);
                return self.unlike().await;
            }
        }
        self.run().await;
    }

    fn resume_wait(
        &mut self,
        channel: ChannelRef,
        profile: Option<Rc<Profile>>,
        (told, peers): (SocketAddr, Vec<IpAddr>),
        sockets: Vec<OwnedFd>,
    ) {
        let sockets = <[OwnedFd; 2]>::try_from(sockets).ok();
        let Some((client, listener)) = sockets.map(|[client, listener]| (adopt(client), listener)) else {
            return self.lost();
        };
        self.client = client.ok();
        if self.client.is_none() {
            return self.lost();
        }
        let question = self.question(profile, Command::Bind);
        question.take_in();
        if question.is_hopeless() {
            let failure = ChannelFailure::Denied;
            return self.tell(Input::ChannelFailed { channel, failure });
        }
        let parked = ParkedWait {
            listener,
            told,
            peers,
        };
        match self.streams.out().connector.resume_bind(parked) {
            Ok(waiting) => {
                let mut other = Other::new(channel);
                other.wait(waiting, question);
                self.other = Some(other);
                self.tell(Input::ChannelListening { channel, local: told });
            }
            Err(error) => {
                tracing::warn!("a wait for a peer does not go on after a restart: {error}");
                let failure = ChannelFailure::Resources;
                self.tell(Input::ChannelFailed { channel, failure });
            }
        }
    }

    fn resume_datagrams(&mut self, state: data::ParkedState, ask: Ask, asked: Asked, sockets: Vec<OwnedFd>) {
        let Ask::Relay {
            local: session,
            channel,
            profile,
            relay: spec,
            ..
        } = ask
        else {
            return;
        };
        let mut sockets = sockets.into_iter();
        let (connection, client) = (sockets.next(), sockets.next());
        self.client = connection.and_then(|connection| adopt(connection).ok());
        let (Some(client), true) = (client, self.client.is_some()) else {
            return self.lost();
        };
        let parked = data::Parked {
            client,
            targets: sockets.collect(),
            state,
        };
        let asker = self.asker(profile.as_deref());
        let question = self.question(profile, asked.command);
        let local = self.peer.local.ip().to_canonical();
        match datagrams::resume(&self.streams, *spec, parked, local, &question, asked, asker) {
            Ok((relay, standing, local)) => {
                let running = datagrams::start(
                    &self.streams,
                    &self.source,
                    &self.connection,
                    session,
                    relay,
                    standing,
                );
                self.other = Some(Other {
                    datagrams: Some(running),
                    ..Other::new(channel)
                });
                self.tell(Input::ChannelListening { channel, local });
            }
            Err(failure) => self.tell(Input::ChannelFailed { channel, failure }),
        }
    }

    /// The machine is not what its sockets and the rest say it is.
    async fn unlike(mut self) {
        tracing::error!("a connection does not go on after a restart: its parts do not fit");
        self.lost();
        self.run().await;
    }
}

fn adopt(connection: OwnedFd) -> io::Result<TcpStream> {
    let stream = std::net::TcpStream::from(connection);
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}
