//! Relays that are taken apart and go on, byte for byte.

use super::*;
use proptest::prelude::*;
use sluice_spi::checkpoint::CheckpointError;

async fn parked(task: JoinHandle<Outcome>) -> Box<Parked> {
    match task.await.unwrap() {
        Outcome::Parked(parked) => parked,
        Outcome::Ended(ended) => panic!("{ended:?}"),
    }
}

/// As another process gets it.
fn carried(parked: Parked) -> Parked {
    Parked {
        state: ParkedState::decode(&parked.state.encode()).unwrap(),
        ..parked
    }
}

/// What was on its way at the pauses.
#[derive(Debug, Default)]
struct Seen {
    nothing: usize,
    rest: usize,
    piped: usize,
}

/// Sends both ways, and hands the relay over again and again meanwhile, at most `apart` rounds apart.
async fn transfer(pools: [Rc<Pool>; 2], seed: u64, length: usize, apart: usize) -> Seen {
    let mut random = Seeded::new(seed);
    let (up, down) = (random.bytes(length), random.bytes(length));
    let rig = Rig::new(&pools[0], Options::default()).await;
    // Bytes come in fast and go out slowly, so that they wait in the relay.
    for (from, to) in [(&rig.relay.client, &rig.client), (&rig.relay.target, &rig.target)] {
        SockRef::from(from).set_send_buffer_size(32 << 10).unwrap();
        SockRef::from(to).set_recv_buffer_size(32 << 10).unwrap();
    }
    let running = rig.start();
    let (client_read, client_write) = running.client.into_split();
    let (target_read, target_write) = running.target.into_split();
    let (mut task, mut handle) = (running.task, running.handle);
    let mut rounds = random.split();
    let handovers = async {
        let mut seen = Seen::default();
        for round in 1.. {
            for _ in 0..rounds.below(apart) {
                yield_now().await;
            }
            let held = pools.iter().map(|pool| pool.stats().pipes_in_use).sum::<usize>();
            handle.pause();
            let parked = match task.await.unwrap() {
                Outcome::Parked(parked) => parked,
                Outcome::Ended(ended) => return (ended, seen),
            };
            let unsent = parked.state.up.unsent.len() + parked.state.down.unsent.len();
            match (unsent, held) {
                (0, _) => seen.nothing += 1,
                (_, 0) => seen.rest += 1,
                _ => seen.piped += 1,
            }
            let relay = Relay::resume(carried(*parked), &pools[round % 2], None, None).unwrap();
            handle = relay.handle();
            task = spawn_local(relay.run());
        }
        unreachable!()
    };
    let [one, two, three, four] = [(); 4].map(|()| random.split());
    let (to_target, to_client, (), (), (ended, seen)) = tokio::join!(
        receive(target_read, one, 100_000, 2),
        receive(client_read, two, 100_000, 2),
        send(client_write, &up, three, 500_000),
        send(target_write, &down, four, 500_000),
        handovers,
    );
    assert_same(&to_target, &up);
    assert_same(&to_client, &down);
    assert_eq!(ended.cause, Cause::FinBoth);
    let all = Octets {
        received: length as u64,
        delivered: length as u64,
    };
    assert_eq!((ended.stats.up, ended.stats.down), (all, all));
    seen
}

#[test]
fn a_copied_transfer_goes_on_byte_for_byte() {
    on_one_thread(async {
        let pool = || {
            Pool::new(PoolConfig {
                pipes: 0,
                ..PoolConfig::default()
            })
        };
        let seen = transfer([pool(), pool()], 1, 2 << 20, 4).await;
        assert!(seen.rest > 3 && seen.piped == 0, "{seen:?}");
    });
}

#[test]
fn a_spliced_transfer_goes_on_byte_for_byte() {
    on_one_thread(async {
        let seen = transfer([pool(), pool()], 2, 4 << 20, 60).await;
        assert!(seen.piped > 3, "{seen:?}");
    });
}

#[test]
fn ends_of_streams_are_handed_over() {
    on_one_thread(async {
        let pool = pool();
        let mut running = Running::new(&pool, Options::default()).await;
        running.client.write_all(b"question").await.unwrap();
        running.client.shutdown().await.unwrap();
        let mut question = Vec::new();
        running.target.read_to_end(&mut question).await.unwrap();
        running.handle.pause();
        let stopped = parked(running.task).await;
        assert!(stopped.state.up.finished && !stopped.state.down.ended);
        let relay = Relay::resume(carried(*stopped), &pool, None, None).unwrap();
        let task = spawn_local(relay.run());
        running.target.write_all(b"answer").await.unwrap();
        running.target.shutdown().await.unwrap();
        let mut answer = Vec::new();
        running.client.read_to_end(&mut answer).await.unwrap();
        assert_eq!((&question[..], &answer[..]), (&b"question"[..], &b"answer"[..]));
        let ended = ended(task).await;
        assert_eq!((ended.cause, ended.stats.up.received), (Cause::FinBoth, 8));
    });
}

#[test]
fn an_end_that_waits_behind_bytes_is_handed_over() {
    on_one_thread(async {
        let pool = pool();
        let bytes = Seeded::new(5).bytes(40_000);
        let options = Options {
            early_up: bytes.clone(),
            ..Options::default()
        };
        let rig = Rig::new(&pool, options).await;
        let mut stopped = rig.relay.pause().unwrap();
        assert_same(&stopped.state.up.unsent, &bytes);
        // As if the client's end had been read before all was delivered.
        stopped.state.up.ended = true;
        let relay = Relay::resume(carried(stopped), &pool, None, None).unwrap();
        let _task = spawn_local(relay.run());
        assert_same(&receive(rig.target, Seeded::new(1), 9_000, 0).await, &bytes);
    });
}

#[test]
fn timeouts_go_on_where_they_were() {
    in_virtual_time(async {
        let pool = pool();
        let second = Duration::from_secs(1);
        let options = Options {
            timeouts: Timeouts {
                idle: Some(10 * second),
                half_closed: None,
                lifetime: Some(100 * second),
            },
            ..Options::default()
        };
        let (client, target) = (pair().await, pair().await);
        tokio::time::pause();
        let running = Rig::between(client, target, &pool, options).start();
        settle().await;
        tokio::time::advance(4 * second).await;
        running.handle.pause();
        let stopped = parked(running.task).await;
        assert_eq!(stopped.state.silent.as_secs(), 4);
        assert_eq!(stopped.state.age.as_secs_f64().round(), 4.0);
        tokio::time::advance(50 * second).await;
        let relay = Relay::resume(carried(*stopped), &pool, None, None).unwrap();
        let task = spawn_local(relay.run());
        settle().await;
        tokio::time::advance(5 * second).await;
        settle().await;
        assert!(!task.is_finished());
        tokio::time::advance(2 * second).await;
        assert_eq!(ended(task).await.cause, Cause::Idle);
    });
}

#[test]
fn what_cannot_be_is_not_resumed() {
    on_one_thread(async {
        let rig = Rig::new(&pool(), Options::default()).await;
        let mut stopped = rig.relay.pause().unwrap();
        stopped.state.down.octets.received = 5;
        let refused = Relay::resume(stopped, &pool(), None, None);
        assert!(matches!(refused, Err(RelayError::Unsound)));
    });
}

fn any_flow() -> impl Strategy<Value = ParkedFlow> {
    let unsent = proptest::collection::vec(any::<u8>(), 0..300);
    (unsent, any::<u32>(), any::<bool>(), any::<bool>()).prop_map(|(unsent, delivered, ended, finished)| {
        let delivered = u64::from(delivered);
        ParkedFlow {
            octets: Octets {
                received: delivered + unsent.len() as u64,
                delivered,
            },
            ended,
            finished: finished && ended && unsent.is_empty(),
            unsent,
        }
    })
}

fn any_state() -> impl Strategy<Value = ParkedState> {
    let time = || proptest::option::of((0..1_000_000_000_u64).prop_map(Duration::from_millis));
    let timeouts = (time(), time(), time());
    (
        any_flow(),
        any_flow(),
        timeouts,
        0..1_000_000_u64,
        0..1_000_000_000_u64,
    )
        .prop_map(
            |(up, down, (idle, half_closed, lifetime), silent, age)| ParkedState {
                up,
                down,
                timeouts: Timeouts {
                    idle,
                    half_closed,
                    lifetime,
                },
                silent: Duration::from_millis(silent),
                age: Duration::from_millis(age),
            },
        )
}

proptest! {
    #[test]
    fn states_come_out_as_they_went_in(state in any_state()) {
        prop_assert_eq!(ParkedState::decode(&state.encode()).unwrap(), state);
    }

    #[test]
    fn damaged_states_are_refused(state in any_state(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = state.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(ParkedState::decode(&bytes).is_err());
        prop_assert!(ParkedState::decode(&bytes[..at]).is_err());
    }

    #[test]
    fn any_bytes_with_a_good_checksum_do_no_harm(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(state) = ParkedState::decode(&sluice_spi::checkpoint::seal(2, &body)) {
            prop_assert!(state.up.is_sound() && state.down.is_sound());
        }
    }
}

#[test]
fn other_formats_and_impossible_states_are_refused() {
    let flow = ParkedFlow {
        unsent: vec![1, 2, 3],
        octets: Octets {
            received: 10,
            delivered: 7,
        },
        ended: true,
        finished: false,
    };
    let good = ParkedState {
        up: flow.clone(),
        down: flow,
        timeouts: Timeouts::default(),
        silent: Duration::MAX,
        age: Duration::ZERO,
    };
    let (_, body) = sluice_spi::checkpoint::open(&good.encode())
        .map(|(format, body)| (format, body.rest().to_vec()))
        .unwrap();
    let sealed = |format, body: &[u8]| ParkedState::decode(&sluice_spi::checkpoint::seal(format, body));
    assert_eq!(sealed(1, &body), Err(CheckpointError::Format(1)));
    assert_eq!(
        sealed(2, &[&body[..], &[0]].concat()),
        Err(CheckpointError::Invalid("length"))
    );
    let decoded = sealed(2, &body).unwrap();
    assert_eq!(
        decoded.silent.as_secs(),
        100 * 365 * 24 * 3600,
        "as long as can be written"
    );
    for (at, value, error) in [
        (0, 4, CheckpointError::Invalid("flags")),
        (0, 2, CheckpointError::Invalid("direction")),
        (8, 11, CheckpointError::Invalid("direction")),
        (8, 6, CheckpointError::Invalid("direction")),
        (17, 255, CheckpointError::Truncated),
        (48, 1, CheckpointError::Invalid("duration")),
    ] {
        let mut changed = body.clone();
        changed[at] = value;
        assert_eq!(sealed(2, &changed), Err(error), "octet {at}");
    }
}

#[test]
fn users_bytes_are_not_shown() {
    let flow = ParkedFlow {
        unsent: b"secret".to_vec(),
        octets: Octets::default(),
        ended: false,
        finished: false,
    };
    assert!(!format!("{flow:?}").contains("115, 101"));
}
