use super::{Limiter, Permit, check_level, colours_wanted, session_span, set_user};
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

#[test]
fn a_line_of_a_session_carries_its_id_peer_and_user() {
    let sink = Sink::default();
    let writer = sink.clone();
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(move || writer.clone());
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let span = session_span("01SESSION", &"192.0.2.7:1701");
        set_user(&span, "ann@home.example");
        span.in_scope(|| tracing::info!("established"));
    });
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["message"], "established");
    let span = &line["span"];
    assert_eq!(span["session"], "01SESSION");
    assert_eq!(span["peer"], "192.0.2.7:1701");
    assert_eq!(span["user"], "ann@home.example");
}
