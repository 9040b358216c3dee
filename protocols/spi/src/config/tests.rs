use super::*;

#[test]
fn finds_all_problems_at_once_in_order() {
    let text = "name = 5\nhelo = \"60s\"\n[l2tp]\nwindow = 0\n[[peer]]\nnet = \"x\"\n";
    let problems = read("a.toml", text, |root| {
        root.text("name");
        root.duration(
            "hello",
            Duration::from_secs(60),
            Duration::ZERO..=Duration::from_secs(99),
        );
        root.section("l2tp").integer("window", 4, 1..=100);
        for peer in root.sections("peer") {
            peer.parsed::<std::net::IpAddr>("net", "an address");
        }
    })
    .unwrap_err();
    let shown: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        shown,
        [
            "a.toml:1:8: name: must be a string, not an integer",
            "a.toml:2:1: helo: is not a key of this table; did you mean hello?",
            "a.toml:4:10: l2tp.window: must be a whole number from 1 to 100",
            "a.toml:6:7: peer[0].net: must be an address, not \"x\"",
        ]
    );
}

#[test]
fn a_hopeless_document_is_given_up_after_a_thousand_problems() {
    let text = "[[user]]\nnmae = 1\n".repeat(MAX_PROBLEMS + 1);
    let problems = read("a.toml", &text, |root| {
        root.sections("user")
            .iter()
            .for_each(|user| _ = user.text("name"));
    });
    assert_eq!(problems.unwrap_err().len(), MAX_PROBLEMS);
}

#[test]
fn syntax_errors_have_a_place() {
    let problems = read("a.toml", "a = 1\nb = = 2\n", |root| root.integer("a", 0, 0..=9)).unwrap_err();
    assert_eq!(problems[0].line, 2);
}

#[test]
fn defaults_fill_what_is_not_there() {
    let seconds = Duration::from_secs;
    let got = read("a", "", |root| {
        let l2tp = root.section("l2tp");
        (
            l2tp.duration("hello", seconds(60), seconds(1)..=seconds(99)),
            l2tp.boolean("on", true),
        )
    });
    assert_eq!(got, Ok((seconds(60), true)));
}

#[test]
fn settings_hold_what_was_given_and_what_was_not_without_secrets() {
    let text = "secret = \"hunter2\"\nname = \"a\\\"b\"\n[pools.b]\nsize = 3\n[pools.a]\n";
    let document = read_document("a", text, |root| {
        root.secret("secret");
        root.text("name");
        root.boolean("on", true);
        root.choice("mode", 2, &[("first", 1), ("second", 2)]);
        let pools = root.named_sections("pools");
        for (_, pool) in &pools {
            pool.integer("size", 7, 0..=9);
        }
        pools.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    })
    .unwrap();
    assert_eq!(document.value, ["a", "b"]);
    assert!(!format!("{document:?}").contains("hunter2"));
    let shown: Vec<(&str, Option<&str>, bool)> = document
        .settings
        .iter()
        .map(|setting| {
            let value = match &setting.value {
                SettingValue::Plain(value) => Some(value.as_str()),
                SettingValue::Secret(_) => None,
            };
            (setting.key.as_str(), value, setting.given)
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("secret", None, true),
            ("name", Some("\"a\\\"b\""), true),
            ("on", Some("true"), false),
            ("mode", Some("\"second\""), false),
            ("pools.a.size", Some("7"), false),
            ("pools.b.size", Some("3"), true),
        ]
    );
}

#[test]
fn durations_read_back() {
    for text in ["1ms", "5s", "1h30m", "1d", "2m500ms"] {
        assert_eq!(format_duration(parse_duration(text).unwrap()), text);
    }
    for text in [
        "",
        "5",
        "s",
        "5x",
        "99999999999s",
        "-1s",
        "4294967295d4294967295d",
    ] {
        assert!(parse_duration(text).is_none() || text.ends_with('d'), "{text}");
    }
}

#[test]
fn an_empty_list_may_be_a_mistake_and_sections_know_their_line() {
    let text = "[[a]]\nx = [\"1\"]\n\n[[a]]\nx = []\n";
    let mut lines = Vec::new();
    let problems = read("f", text, |root| {
        for section in root.sections("a") {
            lines.push(section.line());
            section.non_empty_list::<u8>("x", "numbers");
            section.non_empty_list::<u8>("y", "numbers");
        }
    })
    .unwrap_err();
    assert_eq!(lines, [1, 4]);
    let shown: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        shown,
        ["f:5:5: a[1].x: must not be empty: leave it out, or give numbers"]
    );
}
