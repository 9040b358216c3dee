//! Alerts and dashboard, held against the gateway's own metrics: every name, label and value they use is one that a
//! gateway shows.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use sluice_auth::RejectReason;
use sluice_core::{Refused, State};
use sluice_dataplane::Dropped;
use sluice_egress::Counter;
use sluice_metrics::{Labels, Metrics, PoolUse, ProtocolLabels};
use sluice_spi::TerminateCause;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Labels that Prometheus adds to every series.
const ADDED: [&str; 2] = ["instance", "job"];

/// Labels whose values come from the configuration or the build, so that rules cannot name any.
const OPEN: [&str; 6] = ["backend", "method", "pool", "version", "revision", "le"];

type Words = BTreeSet<String>;

/// Series by name; the values of each of their labels.
type Families = BTreeMap<String, BTreeMap<String, Words>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// What a gateway with all modules shows.
fn families() -> Families {
    let protocol = |module: &&dyn sluice_spi::Module| {
        let descriptor = module.descriptor();
        ProtocolLabels {
            name: descriptor.name,
            drop_reasons: descriptor.drop_reasons.to_vec(),
            events: descriptor.counters,
        }
    };
    let causes: Vec<&'static str> = TerminateCause::ALL.iter().map(|cause| cause.as_str()).collect();
    let labels = Labels {
        version: "1".into(),
        revision: "1".into(),
        protocols: sluice_registry::MODULES.iter().map(protocol).collect(),
        dataplane_drop_reasons: Dropped::ALL.iter().map(|reason| reason.as_str()).collect(),
        states: State::ALL
            .into_iter()
            .filter(|state| *state != State::Closed)
            .map(State::as_str)
            .collect(),
        causes: causes.clone(),
        refusals: Refused::ALL.map(Refused::as_str).to_vec(),
        limits: vec!["user_sessions", "user_quota"],
        revocations: vec!["denied"],
        setup_failures: causes.clone(),
        egress: Counter::ALL
            .iter()
            .map(|counter| (counter.family(), counter.label()))
            .collect(),
        backends: vec!["file"],
        methods: vec!["pap"],
        rejects: RejectReason::ALL.map(RejectReason::as_str).to_vec(),
    };
    let metrics = Metrics::new(&labels).unwrap();
    let pool = |ipv6| PoolUse {
        pool: "default".into(),
        ipv6,
        held: 1,
        kept: 1,
        blocked: 1,
        free: 1,
    };
    metrics.set_pools(&[pool(false), pool(true)]);
    let mut families = Families::new();
    let text = metrics.gather().unwrap();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        for selector in selectors(line) {
            let labels = families.entry(selector.name).or_default();
            for (label, _, value) in selector.matchers {
                labels.entry(label).or_default().insert(value);
            }
        }
    }
    families
}

/// A metric in an expression with what stands in braces after it.
#[derive(Debug)]
struct Selector {
    name: String,
    /// Label, operator, value.
    matchers: Vec<(String, String, String)>,
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Every `sluice_…` in a text, with its matchers.
fn selectors(text: &str) -> Vec<Selector> {
    let starts = text.match_indices("sluice_").map(|(at, _)| at);
    let starts = starts.filter(|at| !text[..*at].ends_with(is_name));
    starts
        .map(|at| {
            let rest = &text[at..];
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let matchers = rest[end..]
                .strip_prefix('{')
                .and_then(|rest| rest.split_once('}'));
            Selector {
                name: rest[..end].to_owned(),
                matchers: matchers.map_or_else(Vec::new, |(inside, _)| matchers_of(inside)),
            }
        })
        .collect()
}

fn matchers_of(inside: &str) -> Vec<(String, String, String)> {
    let mut parts = inside.split('"');
    let mut list = Vec::new();
    while let (Some(head), Some(value)) = (parts.next(), parts.next()) {
        let head = head.trim_start_matches([',', ' ']);
        let at = head.find(|c| !is_name(c)).unwrap();
        list.push((
            head[..at].to_owned(),
            head[at..].trim().to_owned(),
            value.to_owned(),
        ));
    }
    list
}

/// Holds the metrics of a text, their labels and the values of these against what a gateway shows.
fn check(place: &str, text: &str, families: &Families) -> Words {
    let found = selectors(text);
    for Selector { name, matchers } in &found {
        let labels = families.get(name);
        let labels = labels.unwrap_or_else(|| panic!("{place}: no gateway shows {name}"));
        for (label, operator, value) in matchers {
            if ADDED.contains(&label.as_str()) {
                continue;
            }
            let known = labels.get(label);
            let known = known.unwrap_or_else(|| panic!("{place}: {name} has no label {label}"));
            let open = OPEN.contains(&label.as_str()) || value.starts_with('$');
            let values = value
                .split('|')
                .filter(|_| !open && !operator.is_empty())
                .filter(|value| !known.contains(*value));
            let unknown: Vec<_> = values.collect();
            assert_eq!(
                unknown, [""; 0],
                "{place}: {label} of {name} is never that, but {known:?}"
            );
        }
    }
    found.into_iter().map(|selector| selector.name).collect()
}

/// The names after a keyword: `- alert: NAME`.
fn names_after<'a>(text: &'a str, word: &str) -> BTreeSet<&'a str> {
    text.lines()
        .filter_map(|line| line.trim().strip_prefix(word))
        .map(str::trim)
        .collect()
}

#[test]
fn alerts_use_metrics_that_there_are() {
    let families = families();
    let used = check("rules.yml", &read("deploy/prometheus/rules.yml"), &families);
    assert!(used.len() >= 15, "{used:?}");
    check(
        "rules_test.yml",
        &read("deploy/prometheus/rules_test.yml"),
        &families,
    );
    check("operations.md", &read("gateway/docs/operations.md"), &families);
}

#[test]
fn every_alert_is_tested_and_explained() {
    let rules = read("deploy/prometheus/rules.yml");
    let alerts = names_after(&rules, "- alert:");
    assert!(alerts.len() >= 15, "{alerts:?}");
    let (tests, manual) = (
        read("deploy/prometheus/rules_test.yml"),
        read("gateway/docs/operations.md"),
    );
    for alert in &alerts {
        assert!(
            tests.contains(&format!("alertname=\"{alert}\"")),
            "{alert} is not tested"
        );
        assert!(
            manual.contains(&format!("`{alert}`")),
            "operations.md says nothing of {alert}"
        );
    }
    let jobs = read("deploy/prometheus/scrape.yml");
    let jobs = names_after(&jobs, "- job_name:");
    for job in rules
        .split("job=\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap())
    {
        assert!(jobs.contains(job), "scrape.yml has no job {job}");
    }
}

#[test]
fn alerts_go_off_when_they_should() {
    let fetched = root().join("target/tools/promtool");
    let program = if fetched.exists() {
        fetched
    } else {
        "promtool".into()
    };
    let run = |arguments: &[&str]| {
        let output = Command::new(&program)
            .args(arguments)
            .current_dir(root().join("deploy/prometheus"))
            .output();
        match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("without promtool, which deploy/test-deps.sh fetches: {arguments:?} left out");
            }
            Err(error) => panic!("{error}"),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "promtool {arguments:?}: {text}");
            }
        }
    };
    run(&["check", "rules", "rules.yml"]);
    run(&["check", "config", "--syntax-only", "scrape.yml"]);
    run(&["test", "rules", "rules_test.yml"]);
}

/// All texts in a JSON value.
fn texts<'a>(value: &'a Value, into: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => into.push(text),
        Value::Array(list) => list.iter().for_each(|value| texts(value, into)),
        Value::Object(map) => map.values().for_each(|value| texts(value, into)),
        _ => {}
    }
}

/// The labels that the last `by (…)` of an expression's outermost aggregations leave, or those of every gateway.
fn grouped(expression: &str) -> BTreeSet<&str> {
    let groups = expression.split("by (").skip(1);
    let labels: BTreeSet<&str> = groups
        .filter_map(|rest| rest.split(')').next())
        .flat_map(|inside| inside.split(','))
        .map(str::trim)
        .collect();
    if labels.is_empty() { ADDED.into() } else { labels }
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let families = families();
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/sluice.json")).unwrap();
    let mut all = Vec::new();
    texts(&dashboard, &mut all);
    let mut used = Words::new();
    for text in all {
        used.append(&mut check("sluice.json", text, &families));
    }
    assert!(used.len() >= 30, "{used:?}");
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "every panel has an id of its own");
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let title = panel["title"].as_str().unwrap();
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{title} shows nothing");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            let depth = expression.matches('(').count();
            assert_eq!(depth, expression.matches(')').count(), "{title}: {expression}");
            assert!(expression.contains("$instance"), "{title} mixes gateways");
            let by = grouped(expression);
            for label in &by {
                let known = |selector: &Selector| families[&selector.name].contains_key(*label);
                // The text format has the bounds of histograms as a label of their buckets.
                let known = selectors(expression).iter().any(known) || ADDED.contains(label);
                assert!(known, "{title}: nothing in it has a label {label}");
            }
            let legend = target["legendFormat"].as_str().unwrap();
            for label in legend
                .split("{{")
                .skip(1)
                .map(|rest| rest.split("}}").next().unwrap())
            {
                assert!(
                    by.contains(label),
                    "{title}: no label {label} is left for the legend"
                );
            }
        }
    }
}

#[test]
fn panels_do_not_overlap() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/sluice.json")).unwrap();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{} is too wide", panel["title"]);
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(taken.insert((x, y)), "{} lies over another panel", panel["title"]);
            }
        }
    }
}
