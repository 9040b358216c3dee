use super::{EventLog, Limiter, Permit, check_level, colours_wanted};
use sluice_core::{EngineEvent, Observer};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing_subscriber::layer::SubscriberExt;

#[test]
fn each_cause_has_its_own_budget_and_says_what_was_held_back() {
    let start = Instant::now();
    let mut limiter = Limiter::new(2, 10, start);
    assert_eq!(limiter.permit("a", start), Some(Permit { held_back: 0 }));
    assert_eq!(limiter.permit("a", start), Some(Permit { held_back: 0 }));
    assert_eq!(limiter.permit("a", start), None);
    assert_eq!(limiter.permit("a", start), None);
    assert_eq!(limiter.permit("b", start), Some(Permit { held_back: 0 }));
    let later = start + Duration::from_secs(1);
    assert_eq!(limiter.permit("a", later), Some(Permit { held_back: 2 }));
    assert_eq!(limiter.permit("a", later), Some(Permit { held_back: 0 }));
}

#[test]
fn memory_and_lines_stay_bounded_with_any_number_of_causes() {
    let start = Instant::now();
    let mut limiter = Limiter::new(1, 100, start);
    let passed = (0..100_000)
        .filter(|cause| limiter.permit(*cause, start).is_some())
        .count();
    assert_eq!(passed, 101);
    assert_eq!(limiter.causes.len(), 100);
    let later = start + Duration::from_secs(60);
    assert!(limiter.permit(200_000, later).is_some());
    assert!(limiter.causes.len() <= 100);
}

#[test]
fn levels_are_checked() {
    assert_eq!(check_level("info,sluice::admin=debug"), Ok(()));
    assert!(check_level("info,=,=").is_err());
    assert!(check_level("sluice=loud").is_err());
}

#[test]
fn no_color_of_any_value_but_the_empty_one_means_no_colour() {
    assert!(colours_wanted(None));
    assert!(colours_wanted(Some("".into())));
    assert!(!colours_wanted(Some("1".into())));
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The lines written by `work`, as JSON.
fn lines(work: impl FnOnce()) -> Vec<serde_json::Value> {
    let sink = Sink::default();
    let writer = sink.clone();
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn the_life_of_a_session_is_logged_with_its_id_peer_and_user() {
    let harness = crate::admin::testing::Harness::start();
    let id = harness.session(1, "ann@home");
    let session = std::sync::Arc::new(harness.engine.session(id).unwrap());
    let ended = sluice_spi::Ended::new(sluice_spi::TerminateCause::UserRequest, "bye", "it hung up");
    let now = crate::admin::testing::now();
    harness
        .engine
        .session_down(id, &ended, sluice_spi::PathStats::default(), now);
    let closed = std::sync::Arc::new(harness.engine.session(id).unwrap());
    let log = EventLog::new(5, Instant::now());
    let lines = lines(|| {
        for event in [EngineEvent::SessionUp(session), EngineEvent::SessionDown(closed)] {
            log.on_event(&event);
        }
    });
    let said: Vec<&str> = lines
        .iter()
        .map(|line| line["message"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["session established", "session ended: it hung up"]);
    assert!(lines[0]["addresses"].as_str().unwrap().starts_with("10.64.0."));
    assert_eq!(lines[1]["cause"], "user-request");
    for line in lines {
        assert_eq!(line["session"], id.to_string());
        assert_eq!(line["peer"], "192.0.2.1:1701");
        assert_eq!(line["user"], "ann@home");
    }
}

#[test]
fn a_peer_that_is_refused_again_and_again_causes_few_lines() {
    let log = EventLog::new(5, Instant::now());
    let event = EngineEvent::TunnelRefused {
        origin: sluice_core::Origin {
            protocol: "echo",
            listener: "echo".into(),
            shard: sluice_spi::ShardId(0),
        },
        peer: crate::admin::testing::peer(1),
        reason: sluice_core::Refused::PeerTunnels,
    };
    let start = Instant::now();
    let lines = lines(|| (0..1000).for_each(|_| log.on_event(&event)));
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    assert!((5..=5 * seconds).contains(&lines.len()), "{}", lines.len());
}
