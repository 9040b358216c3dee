//! What relays of datagrams cost: heap memory while they are idle, and descriptors. It is one test, alone in its
//! process, for it counts what all threads do.
#![allow(unsafe_code, clippy::unwrap_used, clippy::panic)]

use bytes::BytesMut;
use sluice_dataplane::relay::datagrams::{
    DatagramPool, DatagramRelay, Decision, Options, Outcome, Resolve, Settings,
};
use sluice_spi::{ClientDatagram, DropReason, RelayCodec, RelaySpec, Target};
use sluice_testkit::Seeded;
use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

/// Most heap memory in bytes of an idle relay that has spoken with one target, with its task, its timer and what the
/// runtime keeps of its two sockets.
const MOST_MEMORY: usize = 2_560;
/// The same without any datagram yet, and so without a socket towards targets.
const MOST_AT_FIRST: usize = 1_536;

/// How long all of this may take.
const LIMIT: Duration = Duration::from_secs(60);
const RELAYS: usize = 500;

struct Counting;

static HEAP: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is done by the system's allocator; counting changes nothing about that.
unsafe impl GlobalAlloc for Counting {
    // SAFETY: as the trait demands of the caller.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.alloc(layout) }
    }

    // SAFETY: as the trait demands of the caller.
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HEAP.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// All goes to one address, which is the owner's.
struct Plain;

impl RelayCodec for Plain {
    fn open<'a>(&'a mut self, packet: &'a [u8], _: Instant) -> ClientDatagram<'a> {
        ClientDatagram::To {
            target: b"the only one",
            payload: packet,
        }
    }

    fn target(&self, _: &[u8]) -> Result<Target, DropReason> {
        Ok(Target {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST).into(),
            port: 9,
        })
    }

    fn seal(&mut self, _: SocketAddr, payload: &[u8], out: &mut BytesMut) -> Result<(), DropReason> {
        out.extend_from_slice(payload);
        Ok(())
    }

    fn overhead(&self) -> usize {
        0
    }

    fn held_until(&self) -> Option<Instant> {
        None
    }

    fn expire(&mut self, _: Instant) -> usize {
        0
    }
}

struct Owner(SocketAddr);

impl Resolve for Owner {
    fn decide(&self, _: Target) -> Decision {
        Decision::Now(Ok(self.0.into()))
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn heap() -> usize {
    HEAP.load(Ordering::Relaxed)
}

/// Opens relays, tells what each takes, before and after it has relayed, and ends them.
async fn measure(pool: &Rc<DatagramPool>, target: &UdpSocket) {
    let local = Ipv4Addr::LOCALHOST;
    let owner = Rc::new(Owner(target.local_addr().unwrap()));
    let settings = Rc::new(Settings::default());
    let client = UdpSocket::bind((local, 0)).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let mut tasks: Vec<JoinHandle<Outcome>> = Vec::with_capacity(RELAYS);
    let mut handles = Vec::with_capacity(RELAYS);
    let mut addresses = Vec::with_capacity(RELAYS);
    let before = heap();
    for _ in 0..RELAYS {
        let spec = RelaySpec {
            client: (local, 0).into(),
            codec: Box::new(Plain),
        };
        let options = Options {
            settings: settings.clone(),
            idle: Some(Duration::from_secs(600)),
            lifetime: Some(Duration::from_secs(86_400)),
            ..Options::default()
        };
        let (relay, address) = DatagramRelay::open(spec, local.into(), pool, owner.clone(), options).unwrap();
        handles.push(relay.handle());
        addresses.push(address);
        tasks.push(spawn_local(relay.run()));
        yield_now().await;
    }
    let at_first = (heap() - before) / RELAYS;
    for (address, handle) in addresses.iter().zip(&handles) {
        client.send_to(b"question", address).unwrap();
        while handle.stats().up.delivered.packets == 0 {
            yield_now().await;
        }
        let (_, from) = target.recv_from(&mut [0; 100]).unwrap();
        target.send_to(b"answer", from).unwrap();
        while handle.stats().down.delivered.packets == 0 {
            yield_now().await;
        }
        client.recv_from(&mut [0; 100]).unwrap();
    }
    let memory = (heap() - before) / RELAYS;
    println!("an idle relay takes {at_first} bytes of heap, and {memory} once it has relayed");
    assert!(at_first <= MOST_AT_FIRST, "{at_first}");
    assert!(memory <= MOST_MEMORY, "{memory}");
    for handle in handles {
        handle.end();
    }
    for task in tasks {
        assert!(matches!(task.await.unwrap(), Outcome::Ended(_)));
    }
}

#[test]
fn an_idle_relay_is_small_and_leaves_nothing_behind() {
    let target = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    target.set_read_timeout(Some(LIMIT)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async {
        let pool = DatagramPool::new(Box::new(Seeded::new(1)));
        // The runtime and the pool have their own memory after the first time.
        measure(&pool, &target).await;
        let (open, used) = (descriptors(), heap());
        measure(&pool, &target).await;
        assert_eq!(descriptors(), open);
        let left = heap().saturating_sub(used);
        assert!(left < 10_000, "{left} bytes were left");
    };
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(LIMIT, limited).await.unwrap()
    });
}
