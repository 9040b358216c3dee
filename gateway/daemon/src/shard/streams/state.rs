//! The form of what there is of a connection between two workers. It holds bytes of the user and is for the next
//! worker alone, in memory that ends with the keeper.

use super::super::standing::Asked;
use bytes::{BufMut, Bytes, BytesMut};
use sluice_auth::{AddressRule, HostName, Identity, Profile};
use sluice_dataplane::relay;
use sluice_dataplane::relay::datagrams;
use sluice_spi::LocalRef;
use sluice_spi::checkpoint::{self, CheckpointError};
use sluice_spi::wire::{Reader, put_string16};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

/// The format that this version writes, and the only one it reads.
const FORMAT: u16 = 3;

const STREAMS: u8 = 1;
const DATAGRAMS: u8 = 2;
const WAITING: u8 = 3;

type Read<T> = Result<T, CheckpointError>;

/// All that there is of a connection beside its sockets and the engine's record of its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The machine's name of the session.
    pub(super) local: LocalRef,
    /// Whose it is; `None`: nobody authenticated.
    pub(super) profile: Option<Profile>,
    /// What was asked of policy.
    pub(super) asked: Asked,
    /// The machine's checkpoint.
    pub(super) checkpoint: Bytes,
    /// What it was doing.
    pub(super) doing: Doing,
}

/// What a connection was doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// Its streams were joined. Sockets: the client's and the target's.
    Streams(relay::ParkedState),
    /// Its datagrams were relayed. Sockets: the client's connection, the one that the client sends datagrams to, and
    /// those that send to targets.
    Datagrams {
        /// The relay.
        relay: datagrams::ParkedState,
        /// What the client is to be sent on its connection.
        unsent: Bytes,
    },
    /// Its peer was waited for. Sockets: the client's and the one that listens.
    Waiting {
        /// Where the peer was told to come to.
        told: SocketAddr,
        /// Whom it waits for; none: anybody.
        peers: Vec<IpAddr>,
        /// What the client is to be sent.
        unsent: Bytes,
    },
}

impl State {
    /// As bytes.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(512);
        out.put_u32(self.local.0);
        put_bytes(&mut out, &self.checkpoint);
        match &self.profile {
            Some(profile) => {
                out.put_u8(1);
                put_profile(&mut out, profile);
            }
            None => out.put_u8(0),
        }
        put_text(&mut out, self.asked.command);
        put_option(&mut out, self.asked.name.as_ref().map(HostName::as_str));
        put_option(&mut out, self.asked.address);
        out.put_u16(self.asked.port);
        match &self.doing {
            Doing::Streams(relay) => {
                out.put_u8(STREAMS);
                put_bytes(&mut out, &relay.encode());
            }
            Doing::Datagrams { relay, unsent } => {
                out.put_u8(DATAGRAMS);
                put_bytes(&mut out, &relay.encode());
                put_bytes(&mut out, unsent);
            }
            Doing::Waiting { told, peers, unsent } => {
                out.put_u8(WAITING);
                put_text(&mut out, told);
                put_list(&mut out, peers);
                put_bytes(&mut out, unsent);
            }
        }
        checkpoint::seal(FORMAT, &out)
    }

    /// From bytes, checked to the last of them.
    pub(super) fn decode(from: &[u8]) -> Read<Self> {
        let (format, mut reader) = checkpoint::open(from)?;
        if format != FORMAT {
            return Err(CheckpointError::Format(format));
        }
        let reader = &mut reader;
        let state = Self {
            local: LocalRef(reader.u32()?),
            checkpoint: Bytes::copy_from_slice(bytes(reader)?),
            profile: match reader.u8()? {
                0 => None,
                1 => Some(profile(reader)?),
                _ => return Err(CheckpointError::Invalid("flag")),
            },
            asked: Asked {
                command: value(reader)?,
                name: name(reader)?,
                address: option(reader)?,
                port: reader.u16()?,
            },
            doing: match reader.u8()? {
                STREAMS => Doing::Streams(relay::ParkedState::decode(bytes(reader)?)?),
                DATAGRAMS => Doing::Datagrams {
                    relay: datagrams::ParkedState::decode(bytes(reader)?)?,
                    unsent: Bytes::copy_from_slice(bytes(reader)?),
                },
                WAITING => Doing::Waiting {
                    told: value(reader)?,
                    peers: list(reader)?,
                    unsent: Bytes::copy_from_slice(bytes(reader)?),
                },
                _ => return Err(CheckpointError::Invalid("kind of relay")),
            },
        };
        match reader.is_empty() {
            true => Ok(state),
            false => Err(CheckpointError::Invalid("length")),
        }
    }
}

fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    out.put_slice(bytes);
}

fn put_text(out: &mut BytesMut, text: impl Display) {
    put_string16(out, text.to_string().as_bytes());
}

fn put_option<T: Display>(out: &mut BytesMut, value: Option<T>) {
    put_text(out, value.map(|value| value.to_string()).unwrap_or_default());
}

fn put_list<T: Display>(out: &mut BytesMut, list: &[T]) {
    let count = u16::try_from(list.len()).unwrap_or(u16::MAX);
    out.put_u16(count);
    for item in list.iter().take(usize::from(count)) {
        put_text(out, item);
    }
}

fn put_profile(out: &mut BytesMut, profile: &Profile) {
    let Profile {
        identity,
        realm,
        groups,
        ipv4,
        ipv6,
        dns,
        mtu,
        max_sessions,
        session_timeout,
        idle_timeout,
        // What a protocol answers its peer with is no part of who it is.
        proof: _,
    } = profile;
    put_text(out, identity.as_str());
    put_option(out, realm.as_ref());
    put_list(out, groups);
    put_text(out, ipv4);
    put_text(out, ipv6);
    put_list(out, dns);
    put_option(out, *mtu);
    put_option(out, *max_sessions);
    put_option(out, session_timeout.map(|timeout| timeout.as_millis()));
    put_option(out, idle_timeout.map(|timeout| timeout.as_millis()));
}

fn bytes<'a>(reader: &mut Reader<'a>) -> Read<&'a [u8]> {
    let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    Ok(reader.take(length)?)
}

fn text<'a>(reader: &mut Reader<'a>) -> Read<&'a str> {
    let length = reader.u16()?;
    str::from_utf8(reader.take(length.into())?).map_err(|_| CheckpointError::Invalid("text"))
}

fn parsed<T: FromStr>(text: &str) -> Read<T> {
    text.parse().map_err(|_| CheckpointError::Invalid("value"))
}

fn value<T: FromStr>(reader: &mut Reader<'_>) -> Read<T> {
    parsed(text(reader)?)
}

fn name(reader: &mut Reader<'_>) -> Read<Option<HostName>> {
    let text = text(reader)?;
    let parsed = || HostName::parse(text.as_bytes()).map_err(|_| CheckpointError::Invalid("name"));
    (!text.is_empty()).then(parsed).transpose()
}

/// Nothing is an empty text.
fn option<T: FromStr>(reader: &mut Reader<'_>) -> Read<Option<T>> {
    let text = text(reader)?;
    (!text.is_empty()).then(|| parsed(text)).transpose()
}

fn list<T: FromStr>(reader: &mut Reader<'_>) -> Read<Vec<T>> {
    (0..reader.u16()?).map(|_| value(reader)).collect()
}

fn profile(reader: &mut Reader<'_>) -> Read<Profile> {
    let millis = |timeout: Option<u64>| timeout.map(Duration::from_millis);
    let identity = Identity::parse(text(reader)?.as_bytes());
    Ok(Profile {
        identity: identity.ok_or(CheckpointError::Invalid("user name"))?,
        realm: option(reader)?,
        groups: list(reader)?,
        ipv4: value::<AddressRule<_>>(reader)?,
        ipv6: value::<AddressRule<_>>(reader)?,
        dns: list::<IpAddr>(reader)?,
        mtu: option(reader)?,
        max_sessions: option(reader)?,
        session_timeout: millis(option(reader)?),
        idle_timeout: millis(option(reader)?),
        proof: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_auth::policy::Command;
    use sluice_dataplane::relay::{Octets, ParkedFlow, Timeouts};
    use sluice_testkit::mutate;

    fn flow(unsent: &[u8]) -> ParkedFlow {
        ParkedFlow {
            unsent: unsent.to_vec(),
            octets: Octets {
                received: 10 + unsent.len() as u64,
                delivered: 10,
            },
            ended: false,
            finished: false,
        }
    }

    fn states() -> Vec<State> {
        let profile = Profile {
            realm: Some("home".to_owned()),
            groups: vec!["staff".to_owned(), "guests".to_owned()],
            ipv4: AddressRule::Static([192, 0, 2, 7].into()),
            ipv6: AddressRule::Pool("gold".to_owned()),
            dns: vec![[9, 9, 9, 9].into()],
            mtu: Some(1400),
            max_sessions: Some(3),
            session_timeout: Some(Duration::from_secs(9)),
            idle_timeout: Some(Duration::from_millis(7500)),
            ..Profile::new(Identity::parse(b"bob@home").unwrap())
        };
        let streams = State {
            local: LocalRef(1),
            profile: Some(profile),
            asked: Asked {
                command: Command::Connect,
                name: Some(HostName::parse(b"www.example").unwrap()),
                address: Some([192, 0, 2, 80].into()),
                port: 443,
            },
            checkpoint: Bytes::from_static(b"machine"),
            doing: Doing::Streams(relay::ParkedState {
                up: flow(b"to the target"),
                down: flow(b""),
                timeouts: Timeouts {
                    idle: Some(Duration::from_secs(5)),
                    ..Timeouts::default()
                },
                silent: Duration::from_secs(1),
                age: Duration::from_secs(77),
            }),
        };
        let datagrams = State {
            local: LocalRef(7),
            profile: None,
            asked: Asked::without_destination(Command::Udp),
            checkpoint: Bytes::new(),
            doing: Doing::Datagrams {
                relay: datagrams::ParkedState {
                    client: "192.0.2.1:5000".parse().unwrap(),
                    up: datagrams::Traffic::default(),
                    down: datagrams::Traffic::default(),
                    peers: vec!["[2001:db8::1]:53".parse().unwrap()],
                    silent: Duration::ZERO,
                    age: Duration::from_secs(60),
                },
                unsent: Bytes::from_static(b"reply"),
            },
        };
        let plain = State {
            profile: Some(Profile::new(Identity::parse(b"carol").unwrap())),
            ..streams.clone()
        };
        let waiting = State {
            asked: Asked::without_destination(Command::Bind),
            doing: Doing::Waiting {
                told: "[2001:db8::9]:4021".parse().unwrap(),
                peers: vec![[192, 0, 2, 80].into(), "2001:db8::1".parse().unwrap()],
                unsent: Bytes::from_static(b"first reply"),
            },
            ..plain.clone()
        };
        vec![streams, datagrams, plain, waiting]
    }

    #[test]
    fn a_state_reads_back_as_it_was() {
        for state in states() {
            assert_eq!(State::decode(&state.encode()).unwrap(), state);
        }
    }

    #[test]
    fn a_damaged_state_is_refused() {
        for state in states() {
            let whole = state.encode();
            for damaged in mutate::all(&whole, 5, 300) {
                assert!(damaged == whole || State::decode(&damaged).is_err());
            }
            let (format, body) = checkpoint::open(&whole).unwrap();
            let newer = checkpoint::seal(format + 1, body.rest());
            assert_eq!(State::decode(&newer), Err(CheckpointError::Format(format + 1)));
            // With a right checksum around wrong contents it is refused, or it is something that can be.
            for damaged in mutate::all(body.rest(), 6, 300) {
                if let Ok(state) = State::decode(&checkpoint::seal(format, &damaged)) {
                    assert_eq!(State::decode(&state.encode()).unwrap(), state);
                }
            }
        }
    }
}
