//! Events and traces.

use super::*;

/// The id of the last event in a piece of a stream.
fn last_id(text: &str) -> String {
    let mut ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
    ids.next_back().unwrap().to_owned()
}

#[test]
fn events_come_as_they_happen_and_go_on_after_a_break() {
    let harness = Harness::start();
    let mut stream = harness.follow("?types=session_up,session_down", None);
    let head = stream.until("\r\n\r\n");
    assert!(
        head.contains("200 OK") && head.contains("text/event-stream"),
        "{head}"
    );
    let first = harness.session(1, "ann").to_string();
    let text = stream.until(&first);
    assert!(
        text.contains("event: session_up") && !text.contains("session_opened"),
        "{text}"
    );
    assert!(!text.contains("correct horse"));
    let last = last_id(&text);
    drop(stream);
    let second = harness.session(2, "bob").to_string();
    let third = harness.session(3, "cy").to_string();
    let mut stream = harness.follow("?types=session_up", Some(&last));
    let text = stream.until(&third);
    assert!(
        text.contains(&second) && !text.contains(&first) && !text.contains("events_lost"),
        "{text}"
    );
    let mut stream = harness.follow("", Some("00000001-5"));
    let text = stream.until(&third);
    assert!(
        text.contains("event: events_lost") && text.contains("tunnel_up"),
        "{text}"
    );
}

#[test]
fn events_of_one_session_can_be_followed() {
    let harness = Harness::start();
    let (ann, bob) = (harness.session(1, "ann"), harness.session(2, "bob"));
    let mut stream = harness.follow(&format!("?session={bob}"), Some(""));
    let text = stream.until("session_up");
    assert!(
        text.contains("auth_requested") && !text.contains(&ann.to_string()),
        "{text}"
    );
    assert_eq!(harness.ask("GET", "/v1/events?session=x", "").status, 400);
}

#[test]
fn streams_end_with_the_gateway() {
    let harness = Harness::start();
    let mut stream = harness.follow("", None);
    stream.until("\r\n\r\n");
    harness.plane.stop();
    assert!(stream.ends());
}

#[test]
fn a_stream_ends_with_the_token_it_was_asked_for_with() {
    let harness = Harness::start();
    let token = harness.token(&[Scope::Read]);
    let mut stream = harness.follow_as(&token, "", None);
    stream.until("\r\n\r\n");
    let other = harness.token(&[Scope::Read]);
    let delete = |token: &str| {
        let id = token.split('_').nth(1).unwrap();
        let reply = harness.ask("DELETE", &format!("/v1/tokens/{id}"), "");
        assert_eq!(reply.status, 204);
    };
    delete(&other);
    let seen = harness.session(1, "ann").to_string();
    stream.until(&seen);
    delete(&token);
    assert!(stream.ends());
}

#[test]
fn a_trace_is_started_read_downloaded_and_ended() {
    let harness = Harness::start();
    let id = harness.session(1, "ann");
    let path = format!("/v1/sessions/{id}");
    assert_eq!(harness.ask("GET", &format!("{path}/trace"), "").status, 404);
    let start = |body: &str| harness.ask("POST", &format!("{path}:trace"), body);
    assert_eq!(start("{\"seconds\": 0}").status, 400);
    assert_eq!(start("{\"seconds\": 3601}").status, 400);
    assert_eq!(start("{\"seconds\": 60}").status, 201);
    assert_eq!(start("").status, 409);
    let view = harness.ask("GET", &format!("{path}/trace"), "").json();
    assert_eq!(
        (view["state"].clone(), view["packets"].clone()),
        ("running".into(), 1.into())
    );
    assert_eq!(view["lines"][0]["text"], "LCP Configure-Request");
    let pcap = harness.ask("GET", &format!("{path}/trace/pcap"), "");
    assert_eq!(pcap.header("content-type"), Some("application/vnd.tcpdump.pcap"));
    assert_eq!(pcap.body[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
    assert_eq!(harness.ask("POST", &format!("{path}/trace:stop"), "").status, 204);
    let view = harness.ask("GET", &format!("{path}/trace?after=1"), "").json();
    assert_eq!(
        (view["state"].clone(), view["lines"].as_array().unwrap().len()),
        ("ended".into(), 0)
    );
    assert_eq!(harness.ask("DELETE", &format!("{path}/trace"), "").status, 204);
    assert_eq!(harness.ask("DELETE", &format!("{path}/trace"), "").status, 404);
    assert_eq!(harness.asked.take(), ["trace true", "trace false", "trace false"]);
}

#[test]
fn a_type_of_events_that_there_is_not_is_refused() {
    let harness = Harness::start();
    let reply = harness.ask("GET", "/v1/events?types=session_up,sesion_down", "");
    assert_eq!(
        (reply.status, reply.json()["errors"][0]["pointer"].clone()),
        (400, "?types".into())
    );
}
