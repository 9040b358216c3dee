//! Relays whose client's bytes go through a codec.

use super::*;
use std::num::NonZeroU64;

/// Each frame is a length in two octets and so many octets, all changed. One of 0xffff octets cannot be.
#[derive(Default)]
struct Toy {
    held: Vec<u8>,
    /// Frames that it still seals.
    left: Option<usize>,
}

const BAD: DropReason = DropReason("toy_bad");
const CUT: DropReason = DropReason("toy_cut");
const OVER: DropReason = DropReason("toy_over");
const LARGEST: usize = 1000;

fn changed(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|octet| octet ^ 0x5a)
}

impl StreamCodec for Toy {
    fn open(&mut self, bytes: &[u8], payload: &mut Vec<u8>) -> Result<(), DropReason> {
        self.held.extend_from_slice(bytes);
        while let Some((&[high, low], rest)) = self.held.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length == 0xffff {
                return Err(BAD);
            }
            let Some(frame) = rest.get(..length) else { break };
            payload.extend(changed(frame));
            self.held.drain(..2 + length);
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), DropReason> {
        if self.held.is_empty() { Ok(()) } else { Err(CUT) }
    }

    fn seal(&mut self, payload: &[u8], out: &mut Vec<u8>) -> Result<(), DropReason> {
        assert!((1..=LARGEST).contains(&payload.len()));
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(1).ok_or(OVER)?;
        }
        out.extend(frame(payload));
        Ok(())
    }

    fn largest(&self) -> usize {
        LARGEST
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    length.into_iter().chain(changed(payload)).collect()
}

fn coded() -> Options {
    Options {
        codec: Some(Box::<Toy>::default()),
        ..Options::default()
    }
}

async fn ended(running: Running) -> Ended {
    match running.task.await.unwrap() {
        Outcome::Ended(ended) => ended,
        Outcome::Parked(_) => panic!("it was parked"),
    }
}

async fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[test]
fn payload_goes_through_the_codec_both_ways_and_is_what_is_counted() {
    on_one_thread(async {
        let options = Options {
            early_up: [frame(b"early"), frame(b"cut")[..3].to_vec()].concat(),
            early_down: b"a reply".to_vec(),
            ..coded()
        };
        let mut running = Running::new(&pool(), options).await;
        running.client.write_all(&frame(b"cut")[3..]).await.unwrap();
        running.client.write_all(&frame(b"")).await.unwrap();
        assert_eq!(read(&mut running.target, 8).await, b"earlycut");
        assert_eq!(read(&mut running.client, 7).await, b"a reply");
        running.target.write_all(b"down").await.unwrap();
        assert_eq!(read(&mut running.client, 6).await, frame(b"down"));
        running.target.shutdown().await.unwrap();
        assert_eq!(running.client.read(&mut [0; 9]).await.unwrap(), 0);
        running.client.write_all(&frame(b"last")).await.unwrap();
        running.client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        running.target.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"last");
        let ended = ended(running).await;
        assert_eq!(ended.cause, Cause::FinBoth);
        let octets = |bytes| Octets {
            received: bytes,
            delivered: bytes,
        };
        assert_eq!((ended.stats.up, ended.stats.down), (octets(12), octets(4)));
    });
}

/// Both ways at once with small buffers on all sides, so that frames are cut everywhere and much has to wait.
#[test]
fn bulk_is_exact_and_never_spliced() {
    on_one_thread(async {
        let pool = pool();
        let (near, far) = (pair().await, pair().await);
        for stream in [&near.0, &near.1, &far.0, &far.1] {
            narrow(stream);
        }
        let mut random = Seeded::new(7);
        let up = random.bytes(3_000_000);
        let down = random.bytes(3_000_000);
        let Running {
            client,
            target,
            handle,
            task,
        } = Rig::between(near, far, &pool, coded()).start();
        let (mut client_in, mut client_out) = client.into_split();
        let (mut target_in, mut target_out) = target.into_split();
        let frames: Vec<u8> = up.chunks(40_000).flat_map(frame).collect();
        let sends = spawn_local(async move {
            client_out.write_all(&frames).await.unwrap();
            client_out.shutdown().await.unwrap();
        });
        let bulk = down.clone();
        let answers = spawn_local(async move {
            target_out.write_all(&bulk).await.unwrap();
            target_out.shutdown().await.unwrap();
        });
        let arrives = spawn_local(async move {
            let mut got = Vec::new();
            target_in.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut got = Vec::new();
        client_in.read_to_end(&mut got).await.unwrap();
        let mut payload = Vec::new();
        let mut toy = Toy::default();
        toy.open(&got, &mut payload).unwrap();
        assert!(payload == down && toy.finish().is_ok());
        assert!(arrives.await.unwrap() == up);
        sends.await.unwrap();
        answers.await.unwrap();
        assert!(matches!(task.await.unwrap(), Outcome::Ended(_)));
        let stats = handle.stats();
        assert_eq!((stats.up.delivered, stats.down.delivered), (3_000_000, 3_000_000));
        assert_eq!((stats.up.received, stats.down.received), (3_000_000, 3_000_000));
        assert_eq!(pool.stats().spliced, 0);
    });
}

#[test]
fn a_stream_that_cannot_go_on_is_reset_on_both_sides() {
    on_one_thread(async {
        for (bytes, end, reason) in [(&[0xff, 0xff][..], false, BAD), (&frame(b"cut")[..4], true, CUT)] {
            let mut running = Running::new(&pool(), coded()).await;
            running.client.write_all(bytes).await.unwrap();
            if end {
                running.client.shutdown().await.unwrap();
            }
            for stream in [&mut running.client, &mut running.target] {
                let error = stream.read(&mut [0; 9]).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            assert_eq!(ended(running).await.cause, Cause::Codec(reason));
        }
    });
}

#[test]
fn a_codec_that_seals_no_more_ends_the_relay() {
    on_one_thread(async {
        let toy = Toy {
            left: Some(1),
            ..Toy::default()
        };
        let options = Options {
            codec: Some(Box::new(toy)),
            ..Options::default()
        };
        let mut running = Running::new(&pool(), options).await;
        running.target.write_all(b"one").await.unwrap();
        assert_eq!(read(&mut running.client, 5).await, frame(b"one"));
        running.target.write_all(b"two").await.unwrap();
        let ended = ended(running).await;
        assert_eq!(ended.cause, Cause::Codec(OVER));
        assert_eq!((ended.stats.down.received, ended.stats.down.delivered), (3, 3));
    });
}

#[test]
fn early_bytes_that_are_bad_are_no_relay() {
    on_one_thread(async {
        let ((mut client, accepted), (connected, mut target)) = (pair().await, pair().await);
        let options = Options {
            early_up: vec![0xff, 0xff],
            ..coded()
        };
        let refused = Relay::new(accepted, connected, &pool(), options);
        assert!(matches!(refused, Err(RelayError::Codec(BAD))));
        for stream in [&mut client, &mut target] {
            let error = stream.read(&mut [0; 9]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    });
}

/// What a codec knows stays in its process.
#[test]
fn a_relay_with_a_codec_ends_where_it_would_be_parked() {
    on_one_thread(async {
        let running = Running::new(&pool(), coded()).await;
        running.handle.pause();
        assert_eq!(ended(running).await.cause, Cause::Asked);
        let relay = Rig::new(&pool(), coded()).await.relay;
        assert_eq!(relay.pause().unwrap_err().cause, Cause::Asked);
    });
}

/// The limit of a direction is of what is read, in whatever form.
#[test]
fn limits_hold_for_coded_directions() {
    on_one_thread(async {
        let now = now();
        let bucket = Bucket::new(NonZeroU64::new(1_000_000).unwrap(), MIN_BURST, now);
        let options = Options {
            down: Some(Box::new(Share::new(&bucket))),
            ..coded()
        };
        let mut running = Running::new(&pool(), options).await;
        let sent = MIN_BURST as usize + 200_000;
        let mut target = running.target;
        let sends = spawn_local(async move { target.write_all(&vec![1; sent]).await.map(|()| target) });
        let mut got = 0;
        let mut toy = Toy::default();
        let mut buffer = vec![0; 1 << 16];
        while got < sent {
            let length = running.client.read(&mut buffer).await.unwrap();
            let mut payload = Vec::new();
            toy.open(&buffer[..length], &mut payload).unwrap();
            got += payload.len();
        }
        assert!(now.elapsed() >= Duration::from_millis(190), "{:?}", now.elapsed());
        drop(sends.await.unwrap().unwrap());
    });
}
