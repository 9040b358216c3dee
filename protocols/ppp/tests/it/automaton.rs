//! Every cell of RFC 1661's state transition table.

use sluice_ppp::fsm::{Event, State, transition};
use std::collections::BTreeSet;

const TABLE: &str = include_str!("../data/rfc1661_table.txt");

const EVENTS: [(&str, Event); 16] = [
    ("Up", Event::Up),
    ("Down", Event::Down),
    ("Open", Event::Open),
    ("Close", Event::Close),
    ("TO+", Event::Timeout),
    ("TO-", Event::LastTimeout),
    ("RCR+", Event::GoodRequest),
    ("RCR-", Event::BadRequest),
    ("RCA", Event::Ack),
    ("RCN", Event::Nak),
    ("RTR", Event::TerminateRequest),
    ("RTA", Event::TerminateAck),
    ("RUC", Event::UnknownCode),
    ("RXJ+", Event::HarmlessReject),
    ("RXJ-", Event::FatalReject),
    ("RXR", Event::Echo),
];

/// Actions and state number of a cell; `None` for an illegal one.
fn parse(cell: &str) -> Option<(BTreeSet<String>, usize)> {
    let cell = cell.trim();
    if cell == "-" {
        return None;
    }
    let (actions, state) = cell.rsplit_once('/').unwrap_or(("", cell));
    let state = state.trim_end_matches(char::is_alphabetic).parse().unwrap();
    let actions = actions
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned);
    Some((actions.collect(), state))
}

#[test]
fn every_cell_of_the_table_is_as_the_rfc_has_it() {
    let mut rows = TABLE.lines().filter(|line| !line.starts_with('#')).skip(1);
    let mut cells = 0;
    for (name, event) in EVENTS {
        let row: Vec<&str> = rows.next().unwrap().split('|').collect();
        assert_eq!(row[0].trim(), name);
        assert_eq!(row.len(), 11, "{name}");
        for state in State::ALL {
            let expected = parse(row[1 + state as usize]);
            let got = transition(state, event)
                .map(|(actions, next)| (actions.names().map(str::to_owned).collect(), next as usize));
            assert_eq!(got, expected, "{name} in {state:?}");
            cells += 1;
        }
    }
    assert_eq!((cells, rows.next()), (160, None));
}

#[test]
fn the_timer_runs_where_timeouts_can_happen() {
    for state in State::ALL {
        assert_eq!(
            state.has_timer(),
            transition(state, Event::Timeout).is_some(),
            "{state:?}"
        );
    }
}
