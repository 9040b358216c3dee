//! Raw sockets: each shard is given the packets of its own paths and no others, and codecs speak for themselves.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use bytes::{BufMut, BytesMut};
use sluice_dataplane::{Routes, Slow, UdpSocket, UserPath, mesh};
use sluice_spi::config::Section;
use sluice_spi::{
    Claim, DataPath, Demux, Descriptor, Factory, LocalRef, MachineKey, Module, Opened, PathCodec, PathKey,
    PathSpec, Payload, PeerAddr, Released, ShardId, Shards,
};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;
use support::*;

/// A protocol number for experiments (RFC 3692, 2.1).
const PROTOCOL: u8 = 253;

/// The toy over IP itself: octet 7 behind the IP header names the shard.
struct RawToy;

impl Module for RawToy {
    fn descriptor(&self) -> &'static Descriptor {
        ToyModule.descriptor()
    }

    fn classify(&self, first: &[u8]) -> Claim {
        ToyModule.classify(first)
    }

    fn demux(&self, packet: &[u8]) -> Demux {
        ToyModule.demux(packet)
    }

    fn packet_filter(&self, shard: ShardId, shards: Shards) -> Option<Vec<(u16, u8, u8, u32)>> {
        // X = length of the IP header; A = octet X + 7; A %= virtual shards; A %= shards; all of it if A is the shard.
        Some(vec![
            (0xb1, 0, 0, 0),
            (0x50, 0, 0, 7),
            (0x94, 0, 0, u32::from(Shards::VIRTUAL)),
            (0x94, 0, 0, u32::from(shards.count())),
            (0x15, 0, 1, u32::from(shard.0)),
            (0x06, 0, 0, u32::MAX),
            (0x06, 0, 0, 0),
        ])
    }

    fn configure(&self, section: &Section<'_>) -> Box<dyn Factory> {
        ToyModule.configure(section)
    }
}

/// A codec that answers each packet with a control message.
struct Talkative {
    inner: Box<dyn PathCodec>,
    key: u32,
    owed: Option<Instant>,
}

impl PathCodec for Talkative {
    fn open(&mut self, packet: &mut [u8], from: &PeerAddr, now: Instant) -> Opened {
        self.owed = Some(now);
        self.inner.open(packet, from, now)
    }

    fn release(&mut self, now: Instant) -> Option<Released> {
        self.inner.release(now)
    }

    fn held_until(&self) -> Option<Instant> {
        self.inner.held_until()
    }

    fn speaks_at(&self) -> Option<Instant> {
        self.owed
    }

    fn speak(&mut self, now: Instant, out: &mut BytesMut) -> bool {
        let is_due = self.owed.take_if(|at| *at <= now).is_some();
        if is_due {
            out.put_slice(&[MAGIC, KIND_CONTROL, 0, 0]);
            out.put_u32(self.key);
        }
        is_due
    }

    fn seal(&mut self, payload: Payload<'_>, out: &mut BytesMut) -> bool {
        self.inner.seal(payload, out)
    }

    fn overhead(&self) -> usize {
        self.inner.overhead()
    }

    fn hot_state(&self) -> Vec<u8> {
        self.inner.hot_state()
    }
}

fn ends(remote: Ipv4Addr, local: Ipv4Addr) -> PeerAddr {
    PeerAddr {
        remote: (remote, 0).into(),
        local: (local, 0).into(),
    }
}

/// Adds one raw socket at an address to each data plane.
fn raw(outside: &Netns, paths: &mut [UserPath], address: Ipv4Addr) {
    let shards = Shards::new(paths.len() as u16);
    let sockets = outside.within(|| UdpSocket::raw_group(address, PROTOCOL, shards, &RawToy).unwrap());
    // Another process goes on with them in the same way.
    let descriptors = sockets.into_iter().map(Into::into).collect();
    let sockets = UdpSocket::adopt_raw(descriptors, shards, &RawToy).unwrap();
    for (path, socket) in paths.iter_mut().zip(sockets) {
        path.add_socket(LISTENER, &RawToy, socket);
    }
}

#[test]
fn packets_come_to_their_shard_alone_and_codecs_answer() {
    let Some(outside) = Netns::new() else { return };
    let waker = || -> Arc<dyn Fn() + Send + Sync> { Arc::new(|| {}) };
    let routes = Arc::new(Routes::new(16));
    let ports = mesh(vec![waker(), waker()]);
    let mut paths: Vec<UserPath> = ports
        .into_iter()
        .map(|port| on_port(port, routes.clone()))
        .collect();
    let (own, far) = (Ipv4Addr::new(127, 0, 0, 1), Ipv4Addr::new(127, 0, 0, 2));
    raw(&outside, &mut paths, own);
    let mut sender = vec![alone()];
    raw(&outside, &mut sender, far);
    let mut sender = sender.remove(0);
    let peer = ends(far, own);
    for (shard, key) in [(0, 0x0003_0010u32), (1, 0x0003_0011)] {
        let codec = Box::new(Talkative {
            inner: ToyCodec::boxed(key, peer),
            key,
            owed: None,
        });
        let spec = PathSpec {
            key: PathKey(key),
            peer,
            codec,
            filter: filter("", ""),
            mtu: 1400,
        };
        paths[shard].install(MachineKey(key), LocalRef(1), spec).unwrap();
        let to = install(&mut sender, key, ends(own, far), filter("", ""), 1400);
        for round in 0..20u8 {
            sender.send_frame(to, &[0xc0, 0x21, round]);
        }
    }
    sender.flush();
    let [first, second] = &mut paths[..] else { panic!() };
    let (mut one, mut two, mut answers) = (0, 0, 0);
    until(
        &mut [first, second, &mut sender],
        "all packets and their answers",
        |paths| {
            let [first, second, sender] = paths else { panic!() };
            let frames = |path: &mut UserPath| {
                let items = slow(path).into_iter();
                items.filter(|item| matches!(item, Slow::Frame { .. })).count()
            };
            one += frames(first);
            two += frames(second);
            let heard = slow(sender).into_iter();
            answers += heard
                .filter(|item| matches!(item, Slow::Datagram { from, .. } if *from == ends(own, far)))
                .count();
            (one, two, answers) == (20, 20, 40)
        },
    );
    for path in &paths {
        assert_eq!(reasons(path), [], "nothing else was received");
        assert_eq!(path.totals().datagrams_in, 20);
    }
}
