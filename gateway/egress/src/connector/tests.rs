use super::*;
use crate::proxy_protocol::Version;
use crate::request::{Endpoints, Judge, Timeouts};
use crate::resolver::NameServers;
use crate::resolver::script::{Says, Script};
use crate::upstream::{Login, Speaks};
use sluice_auth::Secret;
use std::cell::RefCell;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A judge that denies what it is told to, gives everything else one way, and notes what it was asked.
#[derive(Default)]
struct Rules {
    denied: Vec<IpAddr>,
    denied_name: Option<&'static str>,
    way: Way,
    forward: bool,
    asked: RefCell<Vec<String>>,
}

impl Judge for Rules {
    fn name(&self, name: &HostName, port: u16) -> Result<Named, Denied> {
        self.asked.borrow_mut().push(format!("{name}:{port}"));
        match self.denied_name {
            Some(denied) if denied == name.as_str() => Err(Denied),
            _ if self.forward => Ok(Named::Forward(self.way.clone())),
            _ => Ok(Named::Resolve),
        }
    }

    fn address(&self, address: SocketAddr) -> Result<Way, Denied> {
        self.asked.borrow_mut().push(address.to_string());
        if self.denied.contains(&address.ip()) {
            Err(Denied)
        } else {
            Ok(self.way.clone())
        }
    }
}

fn by(upstream: &str) -> Rules {
    Rules {
        way: Way {
            upstream: Some(upstream.into()),
            ..Way::default()
        },
        ..Rules::default()
    }
}

fn target(text: &str) -> Target {
    let (host, port) = text.rsplit_once(':').unwrap();
    Target {
        host: Host::parse(host.as_bytes()).unwrap(),
        port: port.parse().unwrap(),
    }
}

const CLIENT: &str = "198.51.100.7:4000";
const GATEWAY: &str = "203.0.113.1:1080";

fn request<'a>(target: &'a Target, judge: &'a Rules) -> Request<'a> {
    Request {
        target,
        judge,
        asker: 1,
        client: Some(Endpoints {
            source: CLIENT.parse().unwrap(),
            destination: GATEWAY.parse().unwrap(),
        }),
        timeouts: Timeouts::DEFAULT,
    }
}

fn connector(change: impl FnOnce(&mut EgressConfig)) -> Connector {
    let mut config = EgressConfig::default();
    config.resolver.hosts = None;
    config.resolver.servers = NameServers::Listed(Vec::new());
    change(&mut config);
    Connector::new(Egress::new(config, None).unwrap())
}

impl Connector {
    async fn to(&self, text: &str, judge: &Rules) -> Result<Connected, Failed> {
        let target = target(text);
        self.connect(request(&target, judge)).await
    }

    fn count(&self, counter: Counter) -> u64 {
        self.egress.counters().get(counter)
    }
}

async fn listen(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address whose port refuses.
async fn closed() -> SocketAddr {
    listen("127.0.0.1:0").await.1
}

#[tokio::test]
async fn an_address_is_judged_and_reached() {
    let (listener, at) = listen("127.0.0.1:0").await;
    let (connector, rules) = (connector(|_| {}), Rules::default());
    let connected = connector.to(&at.to_string(), &rules).await.unwrap();
    let (_, peer) = listener.accept().await.unwrap();
    assert_eq!(connected.local().unwrap(), peer);
    assert_eq!(connected.address, Some(at));
    // A mapped address is judged and connected to as what it means.
    let mapped = format!("[::ffff:127.0.0.1]:{}", at.port());
    assert_eq!(connector.to(&mapped, &rules).await.unwrap().address, Some(at));
    assert_eq!(*rules.asked.borrow(), [at.to_string(), at.to_string()]);
    assert_eq!(connector.count(Counter::Connected), 2);
    assert_eq!(connector.count(Counter::LookupMiss), 0);
}

#[tokio::test]
async fn failures_are_told_and_counted() {
    let connector = connector(|config| config.ipv6 = false);
    let refusing = closed().await;
    let failed = connector
        .to(&refusing.to_string(), &Rules::default())
        .await
        .unwrap_err();
    assert_eq!(
        (failed.failure, failed.address),
        (ChannelFailure::Refused, Some(refusing))
    );
    let failed = connector.to("[::1]:9", &Rules::default()).await.unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::Family, Cause::FamilyDisabled)
    );
    let denying = Rules {
        denied: vec![Ipv4Addr::LOCALHOST.into()],
        denied_name: Some("a.example"),
        ..Rules::default()
    };
    for (to, cause) in [
        ("127.0.0.1:9", Cause::AddressDenied),
        ("a.example:9", Cause::NameDenied),
    ] {
        let failed = connector.to(to, &denying).await.unwrap_err();
        assert_eq!((failed.failure, failed.cause), (ChannelFailure::Denied, cause));
    }
    let failed = connector.to("127.0.0.1:9", &by("nobody")).await.unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::Upstream, Cause::Upstream(Fault::Unknown))
    );
    for (counter, count) in [
        (Counter::Refused, 1),
        (Counter::Family, 1),
        (Counter::Denied, 2),
        (Counter::Upstream, 1),
        (Counter::UpstreamUnknown, 1),
        (Counter::Connected, 0),
    ] {
        assert_eq!(connector.count(counter), count, "{counter:?}");
    }
}

#[tokio::test]
async fn a_name_leads_only_where_its_addresses_may() {
    let script = Script::start().await;
    let (listener, at) = listen("127.0.0.2:0").await;
    let local = [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(127, 0, 0, 2).into()];
    script.v4("rebind.example", Says::Addresses(local.to_vec()));
    script.v6("rebind.example", Says::NoData);
    script.v4("inside.example", Says::Addresses(vec![local[0]]));
    let connector = connector(|config| config.resolver.servers = NameServers::Listed(vec![script.address]));
    let rules = Rules {
        denied: vec![local[0]],
        ..Rules::default()
    };
    // A connection to the denied one would be noticed: it has the same port, and is first.
    let trap = TcpListener::bind((Ipv4Addr::LOCALHOST, at.port())).await;
    let name = format!("rebind.example:{}", at.port());
    let connected = connector.to(&name, &rules).await.unwrap();
    assert_eq!(connected.address, Some(at));
    listener.accept().await.unwrap();
    if let Ok(trap) = trap {
        let came = tokio::time::timeout(Duration::from_millis(20), trap.accept()).await;
        assert!(came.is_err());
    }
    let denied = format!("127.0.0.1:{}", at.port());
    assert_eq!(*rules.asked.borrow(), [name, denied, at.to_string()]);
    let failed = connector.to("inside.example:80", &rules).await.unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::Denied, Cause::AddressDenied)
    );
    let failed = connector.to("nobody.example:80", &rules).await.unwrap_err();
    assert_eq!(failed.failure, ChannelFailure::HostUnreachable);
    assert_eq!(failed.cause, Cause::Lookup(crate::LookupFailure::NotFound));
    assert_eq!(connector.count(Counter::WonIpv4), 1);
}

#[tokio::test]
async fn both_families_race() {
    let script = Script::start().await;
    let (listener, at) = listen("127.0.0.1:0").await;
    script.v4("two.example", Says::Addresses(vec![at.ip()]));
    script.v6("two.example", Says::Addresses(vec!["::1".parse().unwrap()]));
    let connector = connector(|config| config.resolver.servers = NameServers::Listed(vec![script.address]));
    let rules = Rules::default();
    let name = format!("two.example:{}", at.port());
    let connected = connector.to(&name, &rules).await.unwrap();
    assert_eq!(connected.address, Some(at));
    listener.accept().await.unwrap();
    let mut asked = script.asked();
    asked.sort();
    assert_eq!(asked, ["A two.example", "AAAA two.example"]);
}

#[tokio::test]
async fn a_target_is_told_of_the_client() {
    let (listener, at) = listen("127.0.0.1:0").await;
    let connector = connector(|_| {});
    let rules = Rules {
        way: Way {
            header: Some(Version::V1),
            ..Way::default()
        },
        ..Rules::default()
    };
    let connected = connector.to(&at.to_string(), &rules).await.unwrap();
    drop(connected);
    let mut text = String::new();
    listener
        .accept()
        .await
        .unwrap()
        .0
        .read_to_string(&mut text)
        .await
        .unwrap();
    assert_eq!(text, "PROXY TCP4 198.51.100.7 203.0.113.1 4000 1080\r\n");
}

fn upstream(name: &str, speaks: Speaks, servers: &[SocketAddr]) -> Upstream {
    Upstream {
        name: name.into(),
        speaks,
        servers: servers.iter().map(|server| target(&server.to_string())).collect(),
        login: None,
        through: None,
        remote_names: true,
        way: Way::default(),
        fast_open: false,
        connect_timeout: Upstream::CONNECT_TIMEOUT,
        reply_timeout: Upstream::REPLY_TIMEOUT,
    }
}

/// Plays an upstream's server for one connection: each step is what is expected and what is answered.
async fn serve(listener: &TcpListener, steps: &[(&[u8], &[u8])]) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    for (expected, answer) in steps {
        let mut got = vec![0; expected.len()];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(got, *expected);
        stream.write_all(answer).await.unwrap();
    }
    stream
}

#[tokio::test]
async fn a_socks5_upstream_is_given_names_and_leaves_the_targets_bytes() {
    let (listener, at) = listen("127.0.0.1:0").await;
    let connector = connector(|config| {
        config.upstreams = vec![Upstream {
            login: Some(Login {
                user: "me".into(),
                password: Secret::new("secret"),
            }),
            fast_open: true,
            ..upstream("up", Speaks::Socks5, &[at])
        }];
    });
    let rules = Rules {
        forward: true,
        ..by("up")
    };
    let steps: [(&[u8], &[u8]); 3] = [
        (b"\x05\x02\x00\x02", b"\x05\x02"),
        (b"\x01\x02me\x06secret", b"\x01\x00"),
        (
            b"\x05\x01\x00\x03\x09a.example\x00\x50",
            b"\x05\x00\x00\x01\xc6\x33\x64\x01\x04\x38hello",
        ),
    ];
    let (connected, mut served) =
        tokio::join!(connector.to("a.example:80", &rules), serve(&listener, &steps));
    let mut connected = connected.unwrap();
    assert_eq!(connected.local().unwrap(), "198.51.100.1:1080".parse().unwrap());
    assert_eq!(connected.address, None);
    let mut greeting = [0; 5];
    connected.stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"hello");
    connected.stream.write_all(b"back").await.unwrap();
    let mut back = [0; 4];
    served.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"back");
    // Only the name was judged: its addresses are nobody's business here.
    assert_eq!(*rules.asked.borrow(), ["a.example:80"]);
}

#[tokio::test]
async fn an_upstream_that_takes_no_names_is_given_addresses() {
    let script = Script::start().await;
    script.v4("a.example", Says::Addresses(vec!["192.0.2.9".parse().unwrap()]));
    script.v6("a.example", Says::NoData);
    let (listener, at) = listen("127.0.0.1:0").await;
    let connector = connector(|config| {
        config.resolver.servers = NameServers::Listed(vec![script.address]);
        config.upstreams = vec![Upstream {
            remote_names: false,
            way: Way {
                header: Some(Version::V1),
                ..Way::default()
            },
            ..upstream("up", Speaks::Http, &[at])
        }];
    });
    let rules = Rules {
        forward: true,
        ..by("up")
    };
    let sent = b"PROXY TCP4 198.51.100.7 203.0.113.1 4000 1080\r\nCONNECT 192.0.2.9:80 HTTP/1.1\r\nHost: 192.0.2.9:80\r\n\r\n";
    let steps: [(&[u8], &[u8]); 1] = [(sent, b"HTTP/1.1 200 OK\r\n\r\n")];
    let (connected, _served) = tokio::join!(connector.to("a.example:80", &rules), serve(&listener, &steps));
    assert_eq!(connected.unwrap().address, Some("192.0.2.9:80".parse().unwrap()));
    assert_eq!(*rules.asked.borrow(), ["a.example:80", "192.0.2.9:80"]);
}

#[tokio::test]
async fn an_upstream_is_reached_through_another() {
    let (listener, at) = listen("127.0.0.1:0").await;
    let inner: SocketAddr = "192.0.2.1:1080".parse().unwrap();
    let connector = connector(|config| {
        config.upstreams = vec![
            Upstream {
                through: Some("outer".into()),
                ..upstream("inner", Speaks::Socks5, &[inner])
            },
            upstream("outer", Speaks::Http, &[at]),
        ];
    });
    let rules = by("inner");
    let steps: [(&[u8], &[u8]); 3] = [
        (
            b"CONNECT 192.0.2.1:1080 HTTP/1.1\r\nHost: 192.0.2.1:1080\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ),
        (b"\x05\x01\x00", b"\x05\x00"),
        (
            b"\x05\x01\x00\x01\xc0\x00\x02\x09\x00\x50",
            b"\x05\x00\x00\x01\0\0\0\0\0\0",
        ),
    ];
    let (connected, served) = tokio::join!(connector.to("192.0.2.9:80", &rules), serve(&listener, &steps));
    let connected = connected.unwrap();
    assert_eq!(connected.local().unwrap(), served.peer_addr().unwrap());
    // The outer one works, and cannot reach the inner one.
    let steps: [(&[u8], &[u8]); 1] = [(
        b"CONNECT 192.0.2.1:1080 HTTP/1.1\r\nHost: 192.0.2.1:1080\r\n\r\n",
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
    )];
    let (failed, _) = tokio::join!(connector.to("192.0.2.9:80", &rules), serve(&listener, &steps));
    let failed = failed.unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::Upstream, Cause::Upstream(Fault::Unreachable))
    );
}

#[tokio::test]
async fn what_an_upstream_says_is_passed_on() {
    let (listener, at) = listen("127.0.0.1:0").await;
    let connector = connector(|config| config.upstreams = vec![upstream("up", Speaks::Socks5, &[at])]);
    let rules = by("up");
    let request: &[u8] = b"\x05\x01\x00\x01\xc0\x00\x02\x09\x00\x50";
    for _ in 0..5 {
        let steps: [(&[u8], &[u8]); 2] = [(b"\x05\x01\x00", b"\x05\x00"), (request, b"\x05\x05")];
        let (failed, _) = tokio::join!(connector.to("192.0.2.9:80", &rules), serve(&listener, &steps));
        let failed = failed.unwrap_err();
        assert_eq!(
            (failed.failure, failed.cause),
            (ChannelFailure::Refused, Cause::UpstreamReply(5))
        );
        assert_eq!(failed.address, Some("192.0.2.9:80".parse().unwrap()));
    }
    for (answer, fault) in [
        (&b"\x05\xff"[..], Fault::Login),
        (b"\x04\x00", Fault::Malformed),
        (b"\x05", Fault::Closed),
    ] {
        let steps: [(&[u8], &[u8]); 1] = [(b"\x05\x01\x00", answer)];
        let (failed, ()) = tokio::join!(connector.to("192.0.2.9:80", &rules), async {
            drop(serve(&listener, &steps).await);
        });
        let failed = failed.unwrap_err();
        assert_eq!(
            (failed.failure, failed.cause),
            (ChannelFailure::Upstream, Cause::Upstream(fault))
        );
        assert_eq!(connector.count(fault.counter()), 1);
    }
    // Three faults in a row: it is left alone.
    let failed = connector.to("192.0.2.9:80", &rules).await.unwrap_err();
    assert_eq!(failed.cause, Cause::Upstream(Fault::Resting));
}

#[tokio::test]
async fn the_first_server_that_works_is_used() {
    let (listener, at) = listen("127.0.0.1:0").await;
    let servers = [closed().await, at];
    let connector = connector(|config| config.upstreams = vec![upstream("up", Speaks::Http, &servers)]);
    let rules = by("up");
    let sent = b"CONNECT 192.0.2.9:80 HTTP/1.1\r\nHost: 192.0.2.9:80\r\n\r\n";
    for round in 0..5 {
        let steps: [(&[u8], &[u8]); 1] = [(sent, b"HTTP/1.1 200 OK\r\n\r\n")];
        let (connected, _served) =
            tokio::join!(connector.to("192.0.2.9:80", &rules), serve(&listener, &steps));
        connected.unwrap();
        // After three failures the first one is not tried any more.
        assert_eq!(
            connector.count(Counter::UpstreamUnreachable),
            u64::min(round + 1, 3)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_is_given_up_in_time() {
    let (_listener, at) = listen("127.0.0.1:0").await;
    let connector = connector(|config| {
        config.upstreams = vec![
            Upstream {
                reply_timeout: Duration::from_secs(7),
                ..upstream("short", Speaks::Socks5, &[at])
            },
            upstream("long", Speaks::Socks5, &[at]),
        ];
    });
    let start = Instant::now();
    let failed = connector.to("192.0.2.9:80", &by("short")).await.unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::Upstream, Cause::Upstream(Fault::Timeout))
    );
    assert_eq!(start.elapsed().as_secs(), 7);
    let (target, rules) = (target("192.0.2.9:80"), by("long"));
    let hurried = Request {
        timeouts: Timeouts {
            overall: Duration::from_secs(3),
            ..Timeouts::DEFAULT
        },
        ..request(&target, &rules)
    };
    let start = Instant::now();
    let failed = connector.connect(hurried).await.unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::TimedOut, Cause::OverallTimeout)
    );
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test]
async fn what_is_given_up_is_closed_and_counted() {
    let (listener, at) = listen("127.0.0.1:0").await;
    let connector = connector(|config| config.upstreams = vec![upstream("up", Speaks::Socks5, &[at])]);
    let rules = by("up");
    let mut accepted = tokio::select! {
        result = connector.to("192.0.2.9:80", &rules) => panic!("{result:?}"),
        accepted = listener.accept() => accepted.unwrap().0,
    };
    let mut rest = Vec::new();
    // The greeting may or may not have left; then the connection ends.
    let _ = accepted.read_to_end(&mut rest).await;
    assert_eq!(connector.count(Counter::GivenUp), 1);
}

#[tokio::test(start_paused = true)]
async fn a_way_says_how_long_reaching_an_address_may_take() {
    // An upstream that accepts nobody, and so says nothing.
    let (listener, at) = listen("127.0.0.1:0").await;
    let connector = connector(|config| config.upstreams = vec![upstream("up", Speaks::Socks5, &[at])]);
    let mut rules = by("up");
    rules.way.timeout = Some(Duration::from_secs(2));
    let start = Instant::now();
    let failed = connector.to("192.0.2.9:80", &rules).await.unwrap_err();
    assert_eq!(
        (failed.failure, failed.cause),
        (ChannelFailure::TimedOut, Cause::OverallTimeout)
    );
    assert_eq!(start.elapsed(), Duration::from_secs(2));
    drop(listener);
}

#[tokio::test]
async fn a_server_with_a_name_is_looked_up_without_being_judged() {
    let script = Script::start().await;
    let (listener, at) = listen("127.0.0.1:0").await;
    script.v4("proxy.example", Says::Addresses(vec![at.ip()]));
    script.v6("proxy.example", Says::NoData);
    let connector = connector(|config| {
        config.resolver.servers = NameServers::Listed(vec![script.address]);
        let named = target(&format!("proxy.example:{}", at.port()));
        config.upstreams = vec![Upstream {
            servers: vec![named],
            ..upstream("up", Speaks::Http, &[])
        }];
    });
    let rules = by("up");
    let sent = b"CONNECT 192.0.2.9:80 HTTP/1.1\r\nHost: 192.0.2.9:80\r\n\r\n";
    let steps: [(&[u8], &[u8]); 1] = [(sent, b"HTTP/1.1 200 OK\r\n\r\n")];
    let (connected, _served) = tokio::join!(connector.to("192.0.2.9:80", &rules), serve(&listener, &steps));
    connected.unwrap();
    assert_eq!(*rules.asked.borrow(), ["192.0.2.9:80"]);
}

#[tokio::test]
async fn a_new_configuration_keeps_what_is_known_of_names() {
    let script = Script::start().await;
    let (_listener, at) = listen("127.0.0.1:0").await;
    script.v4("a.example", Says::Addresses(vec![at.ip()]));
    script.v6("a.example", Says::NoData);
    let old = connector(|config| config.resolver.servers = NameServers::Listed(vec![script.address]));
    let name = format!("a.example:{}", at.port());
    old.to(&name, &Rules::default()).await.unwrap();
    let config = EgressConfig {
        upstreams: vec![upstream("up", Speaks::Http, &[at])],
        ..old.egress.config.clone()
    };
    let new = Connector::new(Egress::new(config, Some(&old.egress)).unwrap());
    new.to(&name, &Rules::default()).await.unwrap();
    assert_eq!(script.asked().len(), 2);
    assert_eq!(new.count(Counter::Connected), 2);
}
