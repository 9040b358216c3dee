//! That bytes come through, all and in order.

use super::*;

/// Sends both ways at once through one relay, with readers as slow as `pause` says.
async fn exchange(pool: &Rc<Pool>, seed: u64, length: usize, pause: usize, narrowed: bool) {
    let mut random = Seeded::new(seed);
    let (up, down) = (random.bytes(length), random.bytes(length / 2 + 1));
    let rig = Rig::new(pool, Options::default()).await;
    if narrowed {
        for stream in [&rig.client, &rig.target, &rig.relay.client, &rig.relay.target] {
            narrow(stream);
        }
    }
    let running = rig.start();
    let (client_read, client_write) = running.client.into_split();
    let (target_read, target_write) = running.target.into_split();
    let most = 1 + random.below(200_000);
    let (to_target, to_client, (), ()) = tokio::join!(
        receive(target_read, random.split(), most, pause),
        receive(client_read, random.split(), most, pause),
        send(client_write, &up, random.split(), most),
        send(target_write, &down, random.split(), most),
    );
    assert_same(&to_target, &up);
    assert_same(&to_client, &down);
    let ended = ended(running.task).await;
    let octets = |bytes: &[u8]| Octets {
        received: bytes.len() as u64,
        delivered: bytes.len() as u64,
    };
    assert_eq!(ended.cause, Cause::FinBoth, "seed {seed}");
    assert_eq!((ended.stats.up, ended.stats.down), (octets(&up), octets(&down)));
    assert_eq!(running.handle.stats(), ended.stats);
}

#[test]
fn random_data_comes_through_both_ways() {
    on_one_thread(async {
        let pool = pool();
        for seed in 0..10 {
            let length = 1 << (11 + seed);
            exchange(&pool, seed, length, (seed % 4) as usize, seed % 2 == 0).await;
        }
        let stats = pool.stats();
        assert!(stats.spliced > 0 && stats.copied > 0, "{stats:?}");
        assert_eq!(stats.pipes_in_use, 0);
    });
}

#[test]
fn bulk_is_spliced_and_small_messages_are_not() {
    on_one_thread(async {
        let pool = pool();
        let mut running = Running::new(&pool, Options::default()).await;
        let mut message = [7; 1_000];
        for _ in 0..100 {
            running.client.write_all(&message).await.unwrap();
            running.target.read_exact(&mut message).await.unwrap();
            running.target.write_all(&message).await.unwrap();
            running.client.read_exact(&mut message).await.unwrap();
        }
        let stats = pool.stats();
        assert_eq!((stats.copied, stats.spliced), (200_000, 0));
        assert_eq!(
            (stats.pipes_in_use, stats.pipes_idle),
            (0, 0),
            "no pipe was opened"
        );
        drop(running);

        let bytes = Seeded::new(1).bytes(16 << 20);
        let mut running = Running::new(&pool, Options::default()).await;
        let mut received = vec![0; bytes.len()];
        let (sent, read) = tokio::join!(
            running.client.write_all(&bytes),
            running.target.read_exact(&mut received)
        );
        sent.and(read).unwrap();
        assert_same(&received, &bytes);
        let stats = pool.stats();
        assert!(stats.spliced > 4 * stats.copied, "{stats:?}");
        assert!(
            (1..=2).contains(&stats.pipes_idle) && stats.pipes_in_use == 0,
            "{stats:?}"
        );
        assert_eq!(stats.refused, 0);
    });
}

#[test]
fn without_a_free_pipe_streams_are_copied() {
    on_one_thread(async {
        for pipes in [0, 1] {
            let pool = Pool::new(PoolConfig {
                pipes,
                ..PoolConfig::default()
            });
            // One that holds the only pipe: nobody reads.
            let stalled = Running::new(&pool, Options::default()).await;
            stuff(&stalled).await;
            assert_eq!(pool.stats().pipes_in_use, pipes);
            let spliced = pool.stats().spliced;
            tokio::join!(
                exchange(&pool, 5, 1 << 20, 0, false),
                exchange(&pool, 6, 1 << 20, 1, false)
            );
            let stats = pool.stats();
            assert_eq!((stats.spliced, stats.pipes_in_use), (spliced, pipes));
            assert!(stats.refused >= 2, "{stats:?}");
            stalled.handle.end();
            assert_eq!(ended(stalled.task).await.cause, Cause::Asked);
            assert_eq!(pool.stats().pipes_in_use, 0);
        }
    });
}

#[test]
fn early_bytes_go_first() {
    on_one_thread(async {
        let mut random = Seeded::new(9);
        let (early_up, early_down) = (random.bytes(BUFFER), b"granted".to_vec());
        let options = Options {
            early_up: early_up.clone(),
            early_down: early_down.clone(),
            ..Options::default()
        };
        let mut rig = Rig::new(&pool(), options).await;
        narrow(&rig.relay.target);
        rig.client.write_all(b"later").await.unwrap();
        rig.target.write_all(b"hello").await.unwrap();
        let mut running = rig.start();
        let mut up = vec![0; BUFFER + 5];
        running.target.read_exact(&mut up).await.unwrap();
        assert_same(&up, &[&early_up[..], b"later"].concat());
        let mut down = [0; 12];
        running.client.read_exact(&mut down).await.unwrap();
        assert_eq!(&down, b"grantedhello");
        let stats = running.handle.stats();
        assert_eq!((stats.up.received, stats.up.delivered), (65_541, 65_541));
        assert_eq!((stats.down.received, stats.down.delivered), (12, 12));
    });
}

#[test]
fn too_many_early_bytes_make_no_relay() {
    on_one_thread(async {
        let ((_client, accepted), (connected, _target)) = (pair().await, pair().await);
        let options = Options {
            early_down: vec![0; BUFFER + 1],
            ..Options::default()
        };
        let refused = Relay::new(accepted, connected, &pool(), options);
        assert!(matches!(refused, Err(RelayError::Early(length)) if length == BUFFER + 1));
    });
}

#[test]
fn a_receiver_that_takes_nothing_stops_the_sender() {
    on_one_thread(async {
        let pool = Pool::new(PoolConfig {
            pipes: 0,
            ..PoolConfig::default()
        });
        let rig = Rig::new(&pool, Options::default()).await;
        for stream in [&rig.client, &rig.target, &rig.relay.client, &rig.relay.target] {
            narrow(stream);
        }
        let running = rig.start();
        stuff(&running).await;
        let up = running.handle.stats().up;
        assert!(up.received - up.delivered <= BUFFER as u64, "{up:?}");
        assert!(up.received < 1 << 20, "{up:?}");
    });
}

#[test]
fn a_thousand_relays_run_on_one_thread() {
    on_one_thread(async {
        let pool = pool();
        let mut all = Vec::new();
        for _ in 0..1_000 {
            all.push(Running::new(&pool, Options::default()).await);
        }
        for round in 0..3_u8 {
            for running in &mut all {
                running.client.write_all(&[round; 300]).await.unwrap();
            }
            for running in &mut all {
                let mut message = [0; 300];
                running.target.read_exact(&mut message).await.unwrap();
                running.target.write_all(&message[..200]).await.unwrap();
            }
            for running in &mut all {
                let mut message = [0; 200];
                running.client.read_exact(&mut message).await.unwrap();
                assert_eq!(message, [round; 200]);
            }
        }
        for running in all {
            drop((running.client, running.target));
            let ended = ended(running.task).await;
            assert_eq!(ended.cause, Cause::FinBoth);
            assert_eq!((ended.stats.up.delivered, ended.stats.down.delivered), (900, 600));
        }
    });
}
