//! What routes, interfaces, marks and routers do to connections, in network namespaces of the tests' own.
#![allow(clippy::unwrap_used, clippy::panic)]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sluice_auth::{Host, HostName};
use sluice_egress::{
    Cause, Connected, Connector, Denied, Egress, EgressConfig, Failed, Judge, Named, Request, Timeouts, Way,
};
use sluice_spi::{ChannelFailure, Target};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A network namespace that lives as long as this and what was made in it.
struct Netns(File);

impl Netns {
    /// `None`, with a printed reason, where namespaces cannot be made.
    fn new() -> Option<Netns> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("skipped: network namespaces need root");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("sluice-egress-{}-{number}", std::process::id());
        run(&format!("ip netns add {name}"));
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        run(&format!("ip netns del {name}"));
        let netns = Netns(file);
        netns.run("ip link set lo up");
        Some(netns)
    }

    /// Does something within the namespace, on a thread of its own.
    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let work = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(work).join().unwrap())
    }

    fn set(&self, parameter: &str, value: &str) {
        self.within(|| std::fs::write(format!("/proc/sys/net/{parameter}"), value).unwrap());
    }

    fn run(&self, command: &str) {
        self.within(|| run(command));
    }

    /// Connects from within.
    fn connect(&self, to: &str, way: Way) -> Result<(Connected, SocketAddr), Failed> {
        self.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let address: SocketAddr = to.parse().unwrap();
                let target = Target {
                    host: Host::Address(address.ip()),
                    port: address.port(),
                };
                let timeouts = Timeouts {
                    connect: Duration::from_secs(3),
                    ..Timeouts::DEFAULT
                };
                let connector = Connector::new(Egress::new(EgressConfig::default(), None).unwrap());
                let request = Request {
                    target: &target,
                    judge: &Always(way),
                    asker: 0,
                    client: None,
                    timeouts,
                };
                let connected = connector.connect(request).await?;
                let local = connected.local().unwrap();
                Ok((connected, local))
            })
        })
    }
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// Everything may go everywhere, by one way.
struct Always(Way);

impl Judge for Always {
    fn name(&self, _: &HostName, _: u16) -> Result<Named, Denied> {
        Ok(Named::Resolve)
    }

    fn address(&self, _: SocketAddr) -> Result<Way, Denied> {
        Ok(self.0.clone())
    }
}

#[test]
fn what_routes_say_is_what_the_client_is_told() {
    let Some(netns) = Netns::new() else { return };
    netns.run("ip route add prohibit 10.8.0.0/24");
    netns.run("ip route add unreachable 10.7.0.0/24");
    netns.run("ip -6 route add unreachable fd07::/64");
    for (to, failure, errno) in [
        (
            "10.9.0.1:80",
            ChannelFailure::NetworkUnreachable,
            libc::ENETUNREACH,
        ),
        (
            "[fd09::1]:80",
            ChannelFailure::NetworkUnreachable,
            libc::ENETUNREACH,
        ),
        ("10.7.0.1:80", ChannelFailure::HostUnreachable, libc::EHOSTUNREACH),
        (
            "[fd07::1]:80",
            ChannelFailure::HostUnreachable,
            libc::EHOSTUNREACH,
        ),
        ("10.8.0.1:80", ChannelFailure::Denied, libc::EACCES),
        ("127.0.0.1:80", ChannelFailure::Refused, libc::ECONNREFUSED),
        ("[::1]:80", ChannelFailure::Refused, libc::ECONNREFUSED),
    ] {
        let failed = netns.connect(to, Way::default()).unwrap_err();
        assert_eq!(
            (failed.failure, failed.cause),
            (failure, Cause::Connect(errno)),
            "{to}"
        );
        assert_eq!(failed.address, Some(to.parse().unwrap()));
    }
}

/// A namespace behind a router: `10.1.0.2` there, `10.1.0.1` here, where `10.2.0.0/24` is as well.
fn behind_a_router() -> Option<(Netns, Netns)> {
    let (host, router) = (Netns::new()?, Netns::new()?);
    host.run("ip link add near type veth peer name far");
    let fd = std::os::fd::AsRawFd::as_raw_fd(&router.0);
    host.run(&format!(
        "ip link set far netns /proc/{}/fd/{fd}",
        std::process::id()
    ));
    host.run("ip addr add 10.1.0.2/24 dev near");
    host.run("ip link set near up");
    router.run("ip addr add 10.1.0.1/24 dev far");
    router.run("ip link set far up");
    router.run("ip link add away type veth peer name gone");
    router.run("ip addr add 10.2.0.1/24 dev away");
    router.run("ip link set away up");
    router.run("ip link set gone up");
    router.set("ipv4/ip_forward", "1");
    Some((host, router))
}

#[test]
fn packets_that_go_too_far_are_a_timeout() {
    let Some((host, router)) = behind_a_router() else {
        return;
    };
    host.run("ip route add default via 10.1.0.1");
    host.set("ipv4/ip_default_ttl", "1");
    let failed = host.connect("10.2.0.2:80", Way::default()).unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::TimedOut, Cause::HopLimit)
    );
    // What a router says otherwise is told apart from it.
    router.run("ip route add unreachable 10.3.0.0/24");
    host.set("ipv4/ip_default_ttl", "64");
    let failed = host.connect("10.3.0.2:80", Way::default()).unwrap_err();
    assert_eq!(failed.failure, ChannelFailure::HostUnreachable);
    assert_eq!(failed.cause, Cause::Connect(libc::EHOSTUNREACH));
}

#[test]
fn source_mark_and_interface_choose_the_way() {
    let Some((host, router)) = behind_a_router() else {
        return;
    };
    let listener = router.within(|| TcpListener::bind("10.2.0.1:80").unwrap());
    host.run("ip addr add 10.1.0.3/24 dev near");
    // Only marked packets have a way there.
    host.run("ip route add default via 10.1.0.1 table 77");
    host.run("ip rule add fwmark 7 lookup 77");
    let failed = host.connect("10.2.0.1:80", Way::default()).unwrap_err();
    assert_eq!(failed.failure, ChannelFailure::NetworkUnreachable);
    let way = Way {
        mark: Some(7),
        source4: Some(Ipv4Addr::new(10, 1, 0, 3)),
        interface: Some("near".into()),
        ..Way::default()
    };
    let (connected, local) = host.connect("10.2.0.1:80", way.clone()).unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!((local, peer.ip()), (peer, "10.1.0.3".parse().unwrap()));
    assert_eq!(connected.way, way);
}
