use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn config(window: u16) -> ChannelConfig {
    let retransmit = Retransmit {
        initial: SECOND,
        maximum: 8 * SECOND,
        tries: 5,
    };
    ChannelConfig {
        window,
        ack_delay: Duration::from_millis(100),
        setup: Retransmit {
            tries: 2,
            ..retransmit
        },
        established: retransmit,
    }
}

/// An established channel towards a peer with this window.
fn channel(peer_window: u16) -> Channel {
    let mut channel = Channel::new(config(8));
    channel.set_peer_window(peer_window);
    channel.set_established();
    channel
}

fn message(mark: u8) -> Pending {
    Pending {
        session: 0,
        owner: mark.into(),
        probe: false,
        body: Bytes::copy_from_slice(&[mark]),
    }
}

fn send(channel: &mut Channel, marks: std::ops::Range<u8>) {
    for mark in marks {
        channel.send(message(mark), Priority::Normal);
    }
}

fn header(ns: u16, nr: u16) -> ControlHeader {
    ControlHeader {
        tunnel: 1,
        session: 0,
        ns,
        nr,
    }
}

/// Everything the channel sends now, as numbers; acknowledgements are left out.
fn sent(channel: &mut Channel, now: Instant) -> Vec<u16> {
    std::iter::from_fn(|| channel.poll(now))
        .filter(|outgoing| !outgoing.body.is_empty())
        .map(|outgoing| outgoing.ns)
        .collect()
}

/// Acknowledges everything before `nr`.
fn acknowledge(channel: &mut Channel, nr: u16, now: Instant) {
    assert_eq!(
        channel.receive(&header(0, nr), &[], now),
        Received::Acknowledgement
    );
}

#[test]
fn r10_slow_start_then_congestion_avoidance() {
    let now = Instant::now();
    let mut channel = channel(8);
    send(&mut channel, 0..200);
    assert_eq!(sent(&mut channel, now), [0]);
    let mut windows = Vec::new();
    let mut next = 1;
    for _ in 0..7 {
        acknowledge(&mut channel, next, now);
        windows.push(channel.congestion().0);
        next += u16::try_from(sent(&mut channel, now).len()).unwrap();
    }
    // One more for each acknowledgement until the threshold, the peer's window, is reached.
    assert_eq!(windows, [2, 3, 4, 5, 6, 7, 8]);
    acknowledge(&mut channel, next, now);
    assert_eq!(channel.congestion().0, 8, "never beyond the peer's window");
}

#[test]
fn r10_a_retransmission_halves_the_threshold_and_starts_slowly() {
    let now = Instant::now();
    let mut channel = channel(16);
    send(&mut channel, 0..100);
    let mut next = 0;
    for _ in 0..8 {
        next += u16::try_from(sent(&mut channel, now).len()).unwrap();
        acknowledge(&mut channel, next, now);
    }
    let on_the_way = sent(&mut channel, now);
    let (window, _) = channel.congestion();
    assert_eq!(window, 9);
    let later = now + SECOND;
    assert!(channel.handle_timeout(later));
    assert_eq!(channel.congestion(), (1, 4));
    assert_eq!(
        sent(&mut channel, later),
        [on_the_way[0]],
        "the oldest alone is sent again"
    );
    // Slow start up to the threshold of 4, then one more per window.
    let mut windows = Vec::new();
    let mut upto = on_the_way[0];
    for _ in 0..8 {
        upto += 1;
        acknowledge(&mut channel, upto, later);
        windows.push(channel.congestion().0);
        sent(&mut channel, later);
    }
    assert_eq!(windows, [2, 3, 4, 4, 4, 4, 5, 5]);
}

#[test]
fn r10_a_window_of_one_is_lock_step_and_large_ones_are_capped() {
    let now = Instant::now();
    let mut channel = channel(1);
    send(&mut channel, 0..3);
    assert_eq!(sent(&mut channel, now), [0]);
    acknowledge(&mut channel, 1, now);
    assert_eq!(sent(&mut channel, now), [1]);
    let mut wide = self::channel(65_535);
    for _ in 0..2000 {
        wide.send(message(1), Priority::Normal);
    }
    let mut next = 0;
    for _ in 0..300 {
        next += u16::try_from(sent(&mut wide, now).len()).unwrap();
        acknowledge(&mut wide, next, now);
    }
    assert!(wide.congestion().0 <= MAX_SEND_WINDOW);
}

#[test]
fn r09_retransmits_after_1_2_4_8_8_seconds_and_gives_up() {
    let start = Instant::now();
    let mut channel = channel(4);
    send(&mut channel, 0..1);
    assert_eq!(sent(&mut channel, start), [0]);
    let mut times = Vec::new();
    let end = loop {
        let at = channel.deadline().unwrap();
        if !channel.handle_timeout(at) {
            break at;
        }
        assert_eq!(sent(&mut channel, at), [0]);
        times.push((at - start).as_secs());
    };
    assert_eq!(times, [1, 3, 7, 15, 23]);
    assert_eq!((end - start).as_secs(), 31, "a full cycle (RFC 2661, 5.7)");
}

#[test]
fn r09_another_schedule_counts_until_established() {
    let start = Instant::now();
    let mut channel = Channel::new(config(8));
    send(&mut channel, 0..1);
    sent(&mut channel, start);
    let mut tries = 0;
    while channel.handle_timeout(channel.deadline().unwrap()) {
        let at = start + SECOND * 60;
        sent(&mut channel, at);
        tries += 1;
    }
    assert_eq!(tries, 2);
}

#[test]
fn r09_other_messages_of_the_peer_do_not_keep_a_dead_exchange_alive() {
    let start = Instant::now();
    let mut channel = channel(4);
    send(&mut channel, 0..1);
    sent(&mut channel, start);
    let mut ns = 0;
    let end = loop {
        let at = channel.retransmit_at.unwrap();
        channel.receive(&header(ns, 0), &[1], at);
        ns += 1;
        if !channel.handle_timeout(at) {
            break at;
        }
        sent(&mut channel, at);
        assert!(ns < 100);
    };
    assert_eq!((end - start).as_secs(), 31);
}

#[test]
fn r16_unreachable_shortens_the_budget_until_the_peer_is_heard() {
    let tries = |heard: bool| {
        let start = Instant::now();
        let mut channel = channel(4);
        send(&mut channel, 0..1);
        sent(&mut channel, start);
        channel.note_unreachable();
        assert!(channel.handle_timeout(start), "it ends nothing by itself");
        if heard {
            channel.receive(&header(0, 0), &[1], start);
        }
        let mut tries = 0;
        while channel.handle_timeout(channel.retransmit_at.unwrap()) {
            sent(&mut channel, start);
            tries += 1;
        }
        tries
    };
    assert_eq!((tries(false), tries(true)), (3, 5));
}

#[test]
fn r07_what_acknowledges_the_future_is_dropped_whole() {
    let now = Instant::now();
    let mut channel = channel(4);
    send(&mut channel, 0..1);
    sent(&mut channel, now);
    assert_eq!(channel.receive(&header(0, 2), &[1], now), Received::WrongNr);
    assert_eq!(channel.nr(), 0, "the message is not taken either");
    assert!(!channel.is_idle());
    assert_eq!(channel.receive(&header(0, 1), &[1], now), Received::InOrder);
    assert!(channel.is_idle());
    // An old Nr takes nothing away from the message.
    assert_eq!(channel.receive(&header(1, 0), &[1], now), Received::InOrder);
}

#[test]
fn r07_numbers_compare_modulo_65536() {
    let now = Instant::now();
    let mut channel = channel(4);
    channel.nr = 16;
    // RFC 2661, 5.8: with 15 as the last, 0 to 15 and 32784 to 65535 are duplicates.
    for ns in [0, 15, 32_784, 65_535] {
        assert_eq!(
            channel.receive(&header(ns, 0), &[1], now),
            Received::Duplicate,
            "{ns}"
        );
    }
    assert_eq!(
        channel.receive(&header(32_783, 0), &[1], now),
        Received::OutsideWindow
    );
    let mut channel = self::channel(4);
    channel.next_ns = 65_534;
    channel.nr = 65_534;
    send(&mut channel, 0..6);
    assert_eq!(sent(&mut channel, now), [65_534]);
    acknowledge(&mut channel, 65_535, now);
    assert_eq!(sent(&mut channel, now), [65_535, 0]);
    acknowledge(&mut channel, 1, now);
    assert_eq!(channel.receive(&header(0, 1), &[3], now), Received::Queued);
    assert_eq!(channel.receive(&header(65_535, 1), &[2], now), Received::Queued);
    assert_eq!(channel.receive(&header(65_534, 1), &[1], now), Received::InOrder);
    let marks: Vec<u8> = std::iter::from_fn(|| channel.pop_ready())
        .map(|(_, body)| body[0])
        .collect();
    assert_eq!((marks, channel.nr()), (vec![2, 3], 1));
}

#[test]
fn r08_out_of_order_inside_the_window_waits_and_outside_is_dropped_but_acknowledged() {
    let now = Instant::now();
    let mut channel = channel(4);
    for ns in 1..8 {
        assert_eq!(
            channel.receive(&header(ns, 0), &[ns as u8], now),
            Received::Queued
        );
        let answer = channel.poll(now).unwrap();
        assert_eq!((answer.body.len(), answer.nr), (0, 0));
    }
    assert_eq!(channel.receive(&header(8, 0), &[8], now), Received::OutsideWindow);
    assert!(channel.poll(now).is_some());
    assert_eq!(channel.ahead.len(), 7);
    assert_eq!(channel.receive(&header(0, 0), &[0], now), Received::InOrder);
    assert_eq!(std::iter::from_fn(|| channel.pop_ready()).count(), 7);
    assert_eq!(channel.receive(&header(3, 0), &[3], now), Received::Duplicate);
    let answer = channel.poll(now).unwrap();
    assert_eq!((answer.body.len(), answer.nr), (0, 8));
}

#[test]
fn r08_nr_is_fresh_on_retransmission_and_an_acknowledgement_takes_no_number() {
    let now = Instant::now();
    let mut channel = channel(4);
    send(&mut channel, 0..1);
    assert_eq!(channel.poll(now).unwrap().nr, 0);
    channel.receive(&header(0, 0), &[1], now);
    let bare = channel.acknowledgement();
    assert_eq!((bare.ns, bare.nr), (1, 1));
    assert_eq!(channel.next_ns(), 1);
    let later = now + SECOND;
    channel.handle_timeout(later);
    let again = channel.poll(later).unwrap();
    assert_eq!((again.ns, again.nr), (0, 1));
}

#[test]
fn r11_acknowledgements_wait_shortly_and_travel_with_messages() {
    let now = Instant::now();
    let mut channel = channel(4);
    channel.receive(&header(0, 0), &[1], now);
    assert_eq!(channel.poll(now), None);
    let at = channel.deadline().unwrap();
    assert_eq!(at - now, Duration::from_millis(100));
    let bare = channel.poll(at).unwrap();
    assert!(bare.body.is_empty() && bare.nr == 1);
    // With a message to send there is no need of one.
    channel.receive(&header(1, 0), &[1], at);
    send(&mut channel, 0..1);
    let message = channel.poll(at).unwrap();
    assert_eq!((message.body.len(), message.nr), (1, 2));
    acknowledge(&mut channel, 1, at);
    assert_eq!(channel.deadline(), None);
    // Half a window of messages is acknowledged at once.
    for ns in 2..7 {
        channel.receive(&header(ns, 1), &[1], at);
    }
    assert_eq!(channel.poll(at).map(|bare| bare.nr), Some(7));
}

#[test]
fn r12_urgent_messages_go_first() {
    let now = Instant::now();
    let mut channel = channel(4);
    send(&mut channel, 0..3);
    channel.send(message(9), Priority::Urgent);
    let first = channel.poll(now).unwrap();
    assert_eq!(first.body[..], [9]);
    assert!(channel.cancel(1));
    assert!(!channel.cancel(1));
    acknowledge(&mut channel, 1, now);
    let marks: Vec<u8> = std::iter::from_fn(|| channel.poll(now))
        .map(|outgoing| outgoing.body[0])
        .collect();
    assert_eq!(marks, [0, 2]);
}

#[test]
fn a_lost_batch_is_sent_again_as_the_window_opens() {
    let now = Instant::now();
    let mut channel = channel(4);
    send(&mut channel, 0..4);
    sent(&mut channel, now);
    for nr in 1..3 {
        acknowledge(&mut channel, nr, now);
        sent(&mut channel, now);
    }
    // 2 and 3 are lost.
    let later = now + SECOND;
    assert!(channel.handle_timeout(later));
    assert_eq!(sent(&mut channel, later), [2]);
    acknowledge(&mut channel, 3, later);
    assert_eq!(sent(&mut channel, later), [3]);
    acknowledge(&mut channel, 4, later);
    assert!(channel.is_idle());
    assert_eq!(channel.retransmit_at, None);
}

#[test]
fn a_queue_without_end_is_noticed() {
    let mut channel = channel(4);
    for _ in 0..=MAX_QUEUE {
        assert!(!channel.is_overrun());
        channel.send(message(1), Priority::Normal);
    }
    assert!(channel.is_overrun());
}

#[test]
fn a_restored_channel_sends_again_at_once_and_goes_on() {
    let now = Instant::now();
    let mut channel = channel(8);
    send(&mut channel, 0..5);
    sent(&mut channel, now);
    acknowledge(&mut channel, 1, now);
    sent(&mut channel, now);
    channel.receive(&header(0, 1), &[1], now);
    let state = channel.state();
    let mut restored = Channel::restore(config(8), state.clone(), now);
    assert_eq!(restored.state(), state);
    assert_eq!(sent(&mut restored, now), [1]);
    acknowledge(&mut restored, 3, now);
    assert_eq!(sent(&mut restored, now), [3, 4]);
    assert_eq!(restored.receive(&header(0, 3), &[1], now), Received::Duplicate);
    assert_eq!(restored.receive(&header(1, 3), &[1], now), Received::InOrder);
}

/// Two channels over a link that loses, doubles and reorders: everything arrives once and in order.
#[test]
fn everything_arrives_once_and_in_order_over_any_link() {
    for seed in 1..40u32 {
        let mut random = seed;
        let mut next = move |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        let start = Instant::now();
        let mut now = start;
        let mut ends = [channel(4), channel(4)];
        for end in &mut ends {
            end.config.established.tries = 1000;
            send(end, 0..60);
        }
        let mut wire: Vec<(usize, Instant, ControlHeader, Bytes)> = Vec::new();
        let mut got = [Vec::new(), Vec::new()];
        while got.iter().any(|got| got.len() < 60) || !ends.iter().all(Channel::is_idle) {
            for (from, end) in ends.iter_mut().enumerate() {
                assert!(end.handle_timeout(now));
                while let Some(outgoing) = end.poll(now) {
                    for _ in 0..1 + u32::from(next(10) < 3) {
                        if next(10) < 3 {
                            continue;
                        }
                        let delay = Duration::from_millis(u64::from(1 + next(40)));
                        let header = header(outgoing.ns, outgoing.nr);
                        wire.push((1 - from, now + delay, header, outgoing.body.clone()));
                    }
                }
            }
            now += Duration::from_millis(5);
            let (due, rest): (Vec<_>, Vec<_>) = wire.into_iter().partition(|(_, at, ..)| *at <= now);
            wire = rest;
            for (to, _, header, body) in due {
                if ends[to].receive(&header, &body, now) == Received::InOrder {
                    got[to].push(body[0]);
                    while let Some((_, body)) = ends[to].pop_ready() {
                        got[to].push(body[0]);
                    }
                }
            }
            assert!(now - start < Duration::from_secs(3600), "seed {seed} hangs");
        }
        assert!(got.iter().all(|got| got.iter().copied().eq(0..60)), "seed {seed}");
    }
}

#[test]
fn what_is_kept_for_later_has_a_bound_in_octets() {
    let now = Instant::now();
    let mut channel = Channel::new(config(256));
    let body = vec![7; 1000];
    let kept = (1..=200)
        .filter(|&ns| channel.receive(&header(ns, 0), &body, now) == Received::Queued)
        .count();
    assert_eq!(kept, MAX_AHEAD / body.len());
    assert_eq!(
        channel.receive(&header(200, 0), &body, now),
        Received::OutsideWindow
    );
    assert_eq!(
        channel.receive(&header(1, 0), &body, now),
        Received::Queued,
        "a copy of what is kept takes no room"
    );
    // The one that was missing comes: all that was kept has its turn, and there is room again.
    assert_eq!(channel.receive(&header(0, 0), &body, now), Received::InOrder);
    assert_eq!(std::iter::from_fn(|| channel.pop_ready()).count(), kept);
    let next = channel.nr();
    assert_eq!(
        channel.receive(&header(next + 1, 0), &body, now),
        Received::Queued
    );
}
