use super::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

fn labels() -> Labels {
    Labels {
        version: "1.2.3".into(),
        revision: "abc".into(),
        protocols: vec![
            ProtocolLabels {
                name: "l2tp",
                drop_reasons: vec!["malformed", "spoofed"],
                events: &["retransmit"],
            },
            ProtocolLabels {
                name: "pptp",
                drop_reasons: vec!["malformed"],
                events: &[],
            },
        ],
        dataplane_drop_reasons: vec!["no_session"],
        egress: vec![
            ("connects", "ok"),
            ("connects", "refused"),
            ("lookups", "hit"),
            ("lookup_failures", "busy"),
            ("races", "ipv4"),
            ("upstream_faults", "upstream_login"),
            ("binds", "accepted"),
        ],
        states: vec!["opening", "established"],
        causes: vec!["user-request", "lost-carrier"],
        refusals: vec!["draining", "sessions"],
        limits: vec!["user_sessions"],
        revocations: vec!["denied"],
        setup_failures: vec!["auth_rejected"],
        backends: vec!["none", "file"],
        methods: vec!["pap"],
        rejects: vec!["bad_credentials", "throttled"],
    }
}

fn pool(name: &str, ipv6: bool) -> PoolUse {
    PoolUse {
        pool: name.into(),
        ipv6,
        held: 3,
        kept: 2,
        blocked: 1,
        free: 250,
    }
}

/// One with every family in use.
fn used() -> Metrics {
    let metrics = Metrics::new(&labels()).unwrap();
    metrics.set_pools(&[pool("default", false), pool("default", true)]);
    metrics.config_read(true, UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    metrics
}

/// Help, kind and series (labels and value) of each family.
#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    series: Vec<(BTreeMap<String, String>, f64)>,
}

/// Reads the text format as far as it is used here: label values hold no quotes.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        if line.starts_with("# HELP") {
            current = words[2].to_owned();
            families.entry(current.clone()).or_default().help = words[3].to_owned();
        } else if line.starts_with("# TYPE") {
            families.get_mut(words[2]).unwrap().kind = words[3].to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let labels = series
                .split_once('{')
                .map_or("", |(_, labels)| labels.trim_end_matches('}'));
            let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
                let (name, value) = label.split_once('=').unwrap();
                (name.to_owned(), value.trim_matches('"').to_owned())
            });
            let family = families.get_mut(&current).unwrap();
            assert!(series.starts_with(&current), "{series} in {current}");
            family.series.push((labels.collect(), value.parse().unwrap()));
        }
    }
    families
}

fn value(text: &str, series: &str) -> Option<String> {
    let line = text.lines().find(|line| {
        line.strip_prefix(series)
            .is_some_and(|rest| rest.starts_with(' '))
    })?;
    Some(line[series.len() + 1..].to_owned())
}

#[test]
fn names_follow_the_rules() {
    let families = parse(&used().gather().unwrap());
    assert!(families.len() >= 35, "{}", families.len());
    for (name, family) in &families {
        assert!(name.starts_with("sluice_"), "{name}");
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
            "{name}"
        );
        assert!(
            family.help.len() > 8 && family.help.ends_with('.'),
            "{name}: {}",
            family.help
        );
        assert_eq!(
            family.kind == "counter",
            name.ends_with("_total"),
            "{name} is a {}",
            family.kind
        );
        for unit in [
            "milli", "micro", "_ms", "_kb", "kilo", "minutes", "percent", "_count", "_sum", "_bucket",
        ] {
            assert!(!name.contains(unit), "{name}");
        }
        let timed = name.contains("duration") || name.contains("timestamp") || name.contains("_lag");
        assert!(!timed || name.ends_with("_seconds"), "{name}");
        assert!(family.kind != "histogram" || name.ends_with("_seconds"), "{name}");
        assert!(!family.series.is_empty(), "{name} has no series");
    }
}

#[test]
fn label_sets_are_closed() {
    let names = BTreeSet::from([
        "protocol", "state", "result", "reason", "phase", "cause", "event", "backend", "method", "pool",
        "family", "version", "revision", "le",
    ]);
    let metrics = used();
    let count = |text: &str| {
        parse(text)
            .values()
            .map(|family| family.series.len())
            .sum::<usize>()
    };
    let before = count(&metrics.gather().unwrap());
    let l2tp = metrics.protocol("l2tp").unwrap();
    for peer in 0..1000 {
        let evil = format!("user{peer}@198.51.100.{peer}");
        l2tp.dropped.get(&evil).inc();
        l2tp.events.get(&evil).inc();
        l2tp.sessions.get(&evil).inc();
        l2tp.tunnels.get(&evil).inc();
        l2tp.terminations.get(&evil).inc();
        l2tp.refusals.get(&evil).inc();
        l2tp.setup_failures.get(&evil).inc();
        metrics.dataplane_drops.get(&evil).inc();
        metrics
            .backend("file")
            .unwrap()
            .answered("pap", Some(&evil), Duration::ZERO);
        metrics
            .backend("file")
            .unwrap()
            .answered(&evil, None, Duration::ZERO);
        assert!(metrics.protocol(&evil).is_none() && metrics.backend(&evil).is_none());
    }
    let text = metrics.gather().unwrap();
    assert!(!text.contains("198.51.100"));
    assert_eq!(
        count(&text),
        before + 9,
        "one series `other` in each family that was abused"
    );
    assert_eq!(
        value(
            &text,
            "sluice_packets_dropped_total{protocol=\"l2tp\",reason=\"other\"}"
        )
        .as_deref(),
        Some("1000")
    );
    for (name, family) in parse(&text) {
        for (labels, _) in family.series {
            assert!(
                labels.keys().all(|label| names.contains(label.as_str())),
                "{name}: {labels:?}"
            );
        }
    }
}

#[test]
fn every_listed_series_starts_at_zero() {
    let text = Metrics::new(&labels()).unwrap().gather().unwrap();
    for series in [
        "sluice_sessions{protocol=\"pptp\",state=\"established\"}",
        "sluice_session_setups_total{protocol=\"l2tp\",reason=\"none\",result=\"established\"}",
        "sluice_session_setups_total{protocol=\"l2tp\",reason=\"auth_rejected\",result=\"failed\"}",
        "sluice_session_terminations_total{cause=\"lost-carrier\",protocol=\"l2tp\"}",
        "sluice_refusals_total{protocol=\"l2tp\",reason=\"draining\"}",
        "sluice_packets_dropped_total{protocol=\"none\",reason=\"no_session\"}",
        "sluice_protocol_events_total{event=\"retransmit\",protocol=\"l2tp\"}",
        "sluice_auth_requests_total{backend=\"file\",method=\"pap\",result=\"accepted\"}",
        "sluice_auth_requests_total{backend=\"none\",method=\"pap\",result=\"throttled\"}",
        "sluice_session_setup_duration_seconds_count{phase=\"total\",protocol=\"l2tp\"}",
        "sluice_restore_sessions_total{result=\"set_aside\"}",
        "sluice_worker_restarts_total",
    ] {
        assert_eq!(value(&text, series).as_deref(), Some("0"), "{series}");
    }
    let build = "sluice_build_info{revision=\"abc\",version=\"1.2.3\"}";
    assert_eq!(value(&text, build).as_deref(), Some("1"));
}

#[test]
fn what_is_noted_is_shown() {
    let metrics = used();
    let l2tp = metrics.protocol("l2tp").unwrap();
    l2tp.rx.bytes.inc_by(1500);
    l2tp.tx.packets.inc();
    l2tp.setups.inc();
    l2tp.sessions.get("established").set(7);
    l2tp.setup_took(Phase::Authenticating, Duration::from_millis(20));
    metrics
        .backend("file")
        .unwrap()
        .answered("pap", None, Duration::from_micros(50));
    metrics.restored(RestoreResult::Recovered, 12);
    metrics.nat_bytes.observe(4096);
    metrics.config_read(false, UNIX_EPOCH + Duration::from_secs(1_900_000_000));
    let text = metrics.gather().unwrap();
    for (series, expected) in [
        ("sluice_rx_bytes_total{protocol=\"l2tp\"}", "1500"),
        ("sluice_rx_bytes_total{protocol=\"pptp\"}", "0"),
        ("sluice_tx_packets_total{protocol=\"l2tp\"}", "1"),
        (
            "sluice_session_setups_total{protocol=\"l2tp\",reason=\"none\",result=\"established\"}",
            "1",
        ),
        ("sluice_sessions{protocol=\"l2tp\",state=\"established\"}", "7"),
        (
            "sluice_session_setup_duration_seconds_bucket{phase=\"authenticating\",protocol=\"l2tp\",le=\"0.01\"}",
            "0",
        ),
        (
            "sluice_session_setup_duration_seconds_bucket{phase=\"authenticating\",protocol=\"l2tp\",le=\"0.025\"}",
            "1",
        ),
        (
            "sluice_auth_requests_total{backend=\"file\",method=\"pap\",result=\"accepted\"}",
            "1",
        ),
        ("sluice_restore_sessions_total{result=\"recovered\"}", "12"),
        ("sluice_nat_bytes_total", "4096"),
        ("sluice_config_last_reload_successful", "0"),
        ("sluice_config_reload_success_timestamp_seconds", "1800000000"),
        (
            "sluice_pool_addresses{family=\"ipv6\",pool=\"default\",state=\"held\"}",
            "3",
        ),
    ] {
        assert_eq!(value(&text, series).as_deref(), Some(expected), "{series}");
    }
    assert_ne!(
        value(&text, "sluice_process_resident_memory_bytes").as_deref(),
        Some("0")
    );
}

#[test]
fn the_way_to_targets_is_shown_by_its_owners_names() {
    let metrics = used();
    metrics.egress("connects", "refused").unwrap().observe(3);
    let text = metrics.gather().unwrap();
    let shown = |result| {
        value(
            &text,
            &format!("sluice_egress_connects_total{{result=\"{result}\"}}"),
        )
    };
    assert_eq!(shown("refused").as_deref(), Some("3"));
    assert_eq!(shown("ok").as_deref(), Some("0"));
    assert!(metrics.egress("connects", "unheard_of").is_none());
    assert!(metrics.egress("unheard_of", "ok").is_none());
}

#[test]
fn pools_that_are_gone_are_not_shown_and_their_number_is_bounded() {
    let metrics = used();
    metrics.set_pools(&[pool("gold", false)]);
    let text = metrics.gather().unwrap();
    assert!(text.contains("pool=\"gold\"") && !text.contains("pool=\"default\""));
    let many: Vec<PoolUse> = (0..5000).map(|n| pool(&format!("pool{n}"), false)).collect();
    metrics.set_pools(&many);
    let text = metrics.gather().unwrap();
    assert_eq!(
        text.lines()
            .filter(|line| line.starts_with("sluice_pool_addresses{"))
            .count(),
        MAX_POOL_SERIES
    );
}

#[test]
fn two_gateways_in_one_process_do_not_mix() {
    let (one, two) = (used(), used());
    one.protocol("l2tp").unwrap().setups.inc();
    assert_eq!(two.protocol("l2tp").unwrap().setups.get(), 0);
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Ok(promtool) => promtool,
        Err(error) => {
            println!("skipped: promtool cannot be run ({error}); Debian has it in the package prometheus");
            return;
        }
    };
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(used().gather().unwrap().as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}",
        String::from_utf8_lossy(&said)
    );
}
