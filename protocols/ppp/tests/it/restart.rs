//! Checkpoints: a link goes on from one as if nothing had happened, and nothing else is taken for one.

use crate::harness::{Pair, Script, Seeded, carrier, login};
use bytes::BytesMut;
use sluice_ppp::{Carrier, Ppp, PppConfig, protocol};
use sluice_spi::checkpoint::CheckpointError;
use sluice_spi::wire::Reader;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

fn checkpoint(link: &Ppp, now: Instant) -> Vec<u8> {
    let mut out = BytesMut::new();
    assert!(link.checkpoint(&mut out, now));
    out.to_vec()
}

fn restore_with(bytes: &[u8], carrier: Carrier, now: Instant) -> Result<Ppp, CheckpointError> {
    let mut reader = Reader::new(bytes);
    let link = Ppp::restore(
        &mut reader,
        Arc::new(PppConfig::default()),
        carrier,
        Box::new(Seeded(99)),
        now,
    )?;
    assert!(reader.is_empty(), "{} octets left", reader.len());
    Ok(link)
}

fn restore(bytes: &[u8], now: Instant) -> Result<Ppp, CheckpointError> {
    restore_with(bytes, carrier(), now)
}

#[test]
fn only_an_open_link_has_a_checkpoint() {
    let mut script = Script::server(PppConfig::default());
    let mut out = BytesMut::new();
    assert!(!script.link.checkpoint(&mut out, script.now));
    script.authenticate();
    assert!(!script.link.checkpoint(&mut out, script.now) && out.is_empty());
    script.packet(protocol::IPCP, 1, 1, "0306 0a400007");
    script.acknowledge(protocol::IPCP);
    assert!(script.link.checkpoint(&mut out, script.now));
    script.packet(protocol::LCP, 5, 1, "");
    assert!(!script.link.checkpoint(&mut BytesMut::new(), script.now));
}

#[test]
fn a_restored_link_knows_what_it_knew_and_says_nothing() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    script.packet(protocol::LCP, 12, 1, "11223344 6d65");
    let bytes = checkpoint(&script.link, script.now);
    for secret in [&b"hunter2"[..], b"hunter"] {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
    let later = script.now + 1000 * SECOND;
    let mut restored = restore(&bytes, later).unwrap();
    assert_eq!(restored.path(), script.link.path());
    assert_eq!(restored.facts(), script.link.facts());
    assert_eq!(restored.header(), script.link.header());
    assert!(restored.poll_event().is_none() && !restored.poll_frame(&mut BytesMut::new()));
    // Timers go on from what remained.
    let left = |link: &Ppp, now: Instant| link.poll_timeout().unwrap().duration_since(now).as_millis();
    assert_eq!(left(&restored, later), left(&script.link, script.now));
    // A checkpoint of the restored link is the same one.
    assert_eq!(checkpoint(&restored, later), bytes);
}

#[test]
fn the_peer_notices_nothing_of_a_restart() {
    for end in 0..2 {
        let mut pair = Pair::new(21, PppConfig::default(), PppConfig::default(), login());
        pair.start();
        assert!(pair.run(SECOND, |pair| pair.both_up()
            && pair.trace.iter().any(|line| line.contains("advert"))));
        pair.run(2 * SECOND, |_| false);
        let bytes = checkpoint(&pair.links[end], pair.now);
        pair.links[end] = restore(&bytes, pair.now).unwrap();
        let before = pair.trace.len();
        pair.run(3600 * SECOND, |_| false);
        assert!(pair.both_up(), "{}", pair.tail());
        let after = &pair.trace[before..];
        assert!(after.iter().any(|line| line.contains("Echo-Reply")));
        assert!(
            !after.iter().any(|line| line.contains("Configure")),
            "{}",
            pair.tail()
        );
        assert_eq!((pair.said[0].links, pair.said[1].links), (1, 1));
    }
}

#[test]
fn a_restored_link_ends_and_renegotiates_like_any_other() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    let bytes = checkpoint(&script.link, script.now);
    script.link = restore(&bytes, script.now).unwrap();
    script.packet(protocol::PAP, 1, 9, "05 616c696365 07 68756e74657232");
    assert_eq!(script.sent(), ["PAP Ack id=9 \"\""]);
    script.packet(protocol::LCP, 1, 7, "0506 0a0b0c0d");
    assert!(script.said.path.is_none());
    script.acknowledge(protocol::LCP);
    script.packet(protocol::PAP, 1, 10, "05 616c696365 07 68756e74657232");
    assert_eq!(script.said.asked, 2);
    script.packet(protocol::IPCP, 1, 1, "0306 0a400007");
    script.acknowledge(protocol::IPCP);
    assert!(script.said.path.is_some());
    assert_eq!(script.said.ups, 1, "Up is not said again after a restart");
}

#[test]
fn what_was_being_negotiated_is_negotiated_after_the_restart() {
    let mut script = Script::server(PppConfig::default());
    script.authenticate();
    script.packet(protocol::IPCP, 1, 1, "0306 0a400007");
    script.acknowledge(protocol::IPCP);
    let bytes = checkpoint(&script.link, script.now);
    script.link = restore(&bytes, script.now).unwrap();
    script.forget();
    script.drain();
    assert_eq!(
        script.sent(),
        ["IPV6CP Configure-Request id=2 <interface-id 0:0:0:1>"]
    );
    script.packet(protocol::IPV6CP, 1, 1, "010a 0000000000000009");
    script.acknowledge(protocol::IPV6CP);
    assert!(script.said.path.unwrap().filter.ipv6.is_some());
}

#[test]
fn a_smaller_carrier_after_the_restart_is_heeded() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    let bytes = checkpoint(&script.link, script.now);
    let smaller = Carrier {
        mtu: 1400,
        ..carrier()
    };
    let restored = restore_with(&bytes, smaller, script.now).unwrap();
    assert_eq!(restored.path().unwrap().mtu, 1400);
}

#[test]
fn every_truncation_is_refused() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    let bytes = checkpoint(&script.link, script.now);
    for length in 0..bytes.len() {
        assert!(restore(&bytes[..length], script.now).is_err(), "cut at {length}");
    }
}

#[test]
fn changed_checkpoints_are_refused_or_make_a_link_that_works() {
    let mut script = Script::server(PppConfig::default());
    script.establish();
    let bytes = checkpoint(&script.link, script.now);
    assert!(matches!(
        restore(&[0, 9, 1], script.now),
        Err(CheckpointError::Format(9))
    ));
    let mut refused = 0;
    for at in 0..bytes.len() {
        for value in [0, 1, 2, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] = value;
            let mut reader = Reader::new(&changed);
            let now = script.now;
            let restored = Ppp::restore(
                &mut reader,
                Arc::new(PppConfig::default()),
                carrier(),
                Box::new(Seeded(1)),
                now,
            );
            let Ok(mut link) = restored else {
                refused += 1;
                continue;
            };
            assert!(link.path().is_some());
            link.handle_frame(&[0xc0, 0x21, 9, 1, 0, 8, 0, 0, 0, 1], now);
            link.handle_timeout(now + 3600 * SECOND);
            link.facts();
        }
    }
    assert!(refused > 50, "{refused}");
}
