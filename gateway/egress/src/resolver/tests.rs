use super::script::{Says, Script};
use super::*;
use sluice_auth::Host;
use std::time::Instant as Clock;

fn name(text: &str) -> HostName {
    match Host::parse(text.as_bytes()) {
        Ok(Host::Name(name)) => name,
        other => panic!("{other:?}"),
    }
}

fn ips(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn config(script: &Script) -> ResolverConfig {
    ResolverConfig {
        servers: NameServers::Listed(vec![script.address]),
        hosts: None,
        timeout: Duration::from_secs(5),
        tries: 1,
        ..ResolverConfig::default()
    }
}

struct Setup {
    script: Script,
    counters: Arc<Counters>,
    resolver: Resolver,
}

async fn setup(change: impl FnOnce(&mut ResolverConfig)) -> Setup {
    let script = Script::start().await;
    let mut config = config(&script);
    change(&mut config);
    let counters = Arc::new(Counters::default());
    let resolver = Resolver::new(Names::new(config, counters.clone()));
    Setup {
        script,
        counters,
        resolver,
    }
}

impl Setup {
    async fn look_up(&self, text: &str, family: IpFamily) -> Result<Vec<IpAddr>, LookupFailure> {
        self.look_up_for(text, family, 1).await
    }

    async fn look_up_for(
        &self,
        text: &str,
        family: IpFamily,
        asker: u64,
    ) -> Result<Vec<IpAddr>, LookupFailure> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let found = self.resolver.lookup(&name(text), family, asker, deadline).await;
        found.map(|addresses| addresses.to_vec())
    }
}

use IpFamily::{V4, V6};

#[tokio::test]
async fn addresses_are_looked_up_by_family_and_remembered() {
    let setup = setup(|_| {}).await;
    setup
        .script
        .v4("a.example", Says::Addresses(ips(&["192.0.2.1", "192.0.2.2"])));
    setup
        .script
        .v6("a.example", Says::Addresses(ips(&["2001:db8::1"])));
    for _ in 0..3 {
        assert_eq!(
            setup.look_up("a.example", V4).await,
            Ok(ips(&["192.0.2.1", "192.0.2.2"]))
        );
        assert_eq!(setup.look_up("A.example.", V6).await, Ok(ips(&["2001:db8::1"])));
    }
    assert_eq!(setup.script.asked(), ["A a.example", "AAAA a.example"]);
    assert_eq!(setup.counters.get(Counter::LookupMiss), 2);
    assert_eq!(setup.counters.get(Counter::LookupHit), 4);
}

#[tokio::test]
async fn failures_are_told_apart_and_remembered() {
    let setup = setup(|config| config.timeout = Duration::from_millis(300)).await;
    setup.script.v4("empty.example", Says::NoData);
    setup.script.v4("broken.example", Says::ServerFailure);
    setup.script.v4("silent.example", Says::Silence);
    for _ in 0..2 {
        for (text, failure) in [
            ("nobody.example", LookupFailure::NotFound),
            ("empty.example", LookupFailure::NoData),
            ("broken.example", LookupFailure::ServerFailure),
        ] {
            assert_eq!(setup.look_up(text, V4).await, Err(failure), "{text}");
        }
    }
    assert_eq!(
        setup.look_up("silent.example", V4).await,
        Err(LookupFailure::Timeout)
    );
    for counter in [
        Counter::LookupNotFound,
        Counter::LookupNoData,
        Counter::LookupServerFailure,
        Counter::LookupTimeout,
    ] {
        assert_eq!(setup.counters.get(counter), 1, "{counter:?}");
    }
    assert_eq!(setup.counters.get(Counter::LookupNegativeHit), 3);
}

#[tokio::test]
async fn nonsense_is_a_failure_of_the_server() {
    let setup = setup(|config| config.timeout = Duration::from_millis(500)).await;
    setup.script.v4("odd.example", Says::Garbage);
    let failure = setup.look_up("odd.example", V4).await.unwrap_err();
    assert!(
        matches!(failure, LookupFailure::ServerFailure | LookupFailure::Timeout),
        "{failure:?}"
    );
    // An address of the other family is none of this one.
    setup
        .script
        .v4("mixed.example", Says::Addresses(ips(&["2001:db8::1"])));
    assert_eq!(
        setup.look_up("mixed.example", V4).await,
        Err(LookupFailure::NoData)
    );
}

#[tokio::test]
async fn equal_look_ups_are_one() {
    let setup = setup(|_| {}).await;
    setup.script.v4("a.example", Says::Addresses(ips(&["192.0.2.1"])));
    let deadline = Instant::now() + Duration::from_secs(20);
    let name = name("a.example");
    let mut all: Vec<_> = (0..20)
        .map(|asker| Box::pin(setup.resolver.lookup(&name, V4, asker, deadline)))
        .collect();
    // All of them start before any is answered.
    for lookup in &mut all {
        let poll =
            std::future::poll_fn(|context| std::task::Poll::Ready(lookup.as_mut().poll(context))).await;
        assert!(poll.is_pending());
    }
    for lookup in all {
        assert_eq!(*lookup.await.unwrap(), *ips(&["192.0.2.1"]));
    }
    assert_eq!(setup.script.asked(), ["A a.example"]);
    assert_eq!(setup.counters.get(Counter::LookupJoined), 19);
}

#[tokio::test]
async fn long_answers_come_by_tcp_and_are_cut() {
    let setup = setup(|_| {}).await;
    let many: Vec<IpAddr> = (1..=40).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    setup.script.v4("many.example", Says::ByTcp(many.clone()));
    assert_eq!(
        setup.look_up("many.example", V4).await,
        Ok(many[..MAX_ADDRESSES].to_vec())
    );
    assert_eq!(setup.script.asked(), ["A many.example", "A many.example by TCP"]);
}

#[tokio::test]
async fn an_alias_leads_to_its_addresses() {
    let setup = setup(|_| {}).await;
    setup
        .script
        .v4("www.example", Says::Alias("real.example", ips(&["192.0.2.1"])));
    setup
        .script
        .v4("two.example", Says::Alias("real.example", Vec::new()));
    setup
        .script
        .v4("real.example", Says::Addresses(ips(&["192.0.2.2"])));
    assert_eq!(setup.look_up("www.example", V4).await, Ok(ips(&["192.0.2.1"])));
    assert_eq!(setup.look_up("two.example", V4).await, Ok(ips(&["192.0.2.2"])));
    setup
        .script
        .v4("loop.example", Says::Alias("loop.example", Vec::new()));
    assert!(setup.look_up("loop.example", V4).await.is_err());
}

#[tokio::test]
async fn names_are_asked_for_as_they_are() {
    let setup = setup(|_| {}).await;
    setup.script.v4("printer", Says::Addresses(ips(&["192.0.2.1"])));
    assert_eq!(setup.look_up("printer", V4).await, Ok(ips(&["192.0.2.1"])));
    assert_eq!(setup.look_up("scanner", V4).await, Err(LookupFailure::NotFound));
    assert_eq!(
        setup.look_up("_x.-y.example", V4).await,
        Err(LookupFailure::NotFound)
    );
    assert_eq!(setup.look_up("localhost", V4).await, Ok(ips(&["127.0.0.1"])));
    assert_eq!(setup.look_up("a.localhost", V6).await, Ok(ips(&["::1"])));
    assert_eq!(
        setup.script.asked(),
        ["A printer", "A scanner", "A _x.-y.example"]
    );
}

#[tokio::test]
async fn the_hosts_file_comes_first() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "192.0.2.7 a.example box\n").unwrap();
    let setup = setup(|config| config.hosts = Some(file.path().to_owned())).await;
    setup.script.v4("a.example", Says::Addresses(ips(&["192.0.2.1"])));
    assert_eq!(setup.look_up("a.example", V4).await, Ok(ips(&["192.0.2.7"])));
    assert_eq!(setup.look_up("box", V4).await, Ok(ips(&["192.0.2.7"])));
    assert_eq!(setup.look_up("a.example", V6).await, Err(LookupFailure::NoData));
    assert_eq!(setup.script.asked(), [""; 0]);
    assert_eq!(setup.counters.get(Counter::LookupHosts), 3);
}

#[tokio::test]
async fn who_asks_for_too_much_waits_and_the_others_do_not() {
    let setup = setup(|config| {
        config.at_once = 4;
        config.waiting = 8;
        config.timeout = Duration::from_secs(2);
    })
    .await;
    setup.script.v4("a.example", Says::Addresses(ips(&["192.0.2.1"])));
    let names: Vec<HostName> = (0..10)
        .map(|index| name(&format!("slow{index}.example")))
        .collect();
    names
        .iter()
        .for_each(|name| setup.script.v4(name.as_str(), Says::Silence));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut slow: Vec<_> = names
        .iter()
        .map(|name| Box::pin(setup.resolver.lookup(name, V4, 1, deadline)))
        .collect();
    let mut refused = 0;
    for lookup in &mut slow {
        let poll =
            std::future::poll_fn(|context| std::task::Poll::Ready(lookup.as_mut().poll(context))).await;
        refused += usize::from(poll == std::task::Poll::Ready(Err(LookupFailure::Busy)));
    }
    assert_eq!(
        refused, 7,
        "one of four turns and two of eight places are one asker's share"
    );
    assert_eq!(setup.counters.get(Counter::LookupBusy), 7);
    let start = Clock::now();
    assert_eq!(
        setup.look_up_for("a.example", V4, 2).await,
        Ok(ips(&["192.0.2.1"]))
    );
    assert!(
        start.elapsed() < Duration::from_millis(1500),
        "the other does not wait for them"
    );
    drop(slow);
}

#[tokio::test]
async fn a_storm_of_names_that_do_not_exist_is_survived() {
    let setup = setup(|config| {
        config.cache = 4;
        config.negative_cache = 16;
    })
    .await;
    setup.script.v4("a.example", Says::Addresses(ips(&["192.0.2.1"])));
    assert!(setup.look_up("a.example", V4).await.is_ok());
    for index in 0..200 {
        let text = format!("storm{index}.example");
        assert_eq!(setup.look_up(&text, V4).await, Err(LookupFailure::NotFound));
    }
    assert!(setup.look_up("a.example", V4).await.is_ok());
    assert_eq!(setup.counters.get(Counter::LookupHit), 1);
    let state = setup.resolver.names.lock();
    assert_eq!((state.flights.len(), state.wanting), (0, 0));
}

#[tokio::test]
async fn a_look_up_goes_on_when_nobody_waits_for_it() {
    let setup = setup(|_| {}).await;
    setup.script.v4("a.example", Says::Addresses(ips(&["192.0.2.1"])));
    let name = name("a.example");
    let mut gone = Box::pin(
        setup
            .resolver
            .lookup(&name, V4, 1, Instant::now() + Duration::from_secs(20)),
    );
    // Its task asks as long as somebody wants to know at its start.
    while setup.script.asked().is_empty() {
        let poll = std::future::poll_fn(|context| std::task::Poll::Ready(gone.as_mut().poll(context))).await;
        assert!(poll.is_pending());
        tokio::task::yield_now().await;
    }
    drop(gone);
    let mut known = None;
    while known.is_none() {
        tokio::task::yield_now().await;
        known = setup.resolver.names.lock().cache.get(&name, V4, Instant::now());
    }
    assert_eq!(*known.unwrap().unwrap(), *ips(&["192.0.2.1"]));
}

#[tokio::test]
async fn a_dead_server_is_a_failure_and_the_next_one_answers() {
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = dead.local_addr().unwrap();
    drop(dead);
    let setup = setup(|config| {
        let NameServers::Listed(servers) = &mut config.servers else {
            panic!()
        };
        servers.insert(0, address);
    })
    .await;
    setup.script.v4("a.example", Says::Addresses(ips(&["192.0.2.1"])));
    assert_eq!(setup.look_up("a.example", V4).await, Ok(ips(&["192.0.2.1"])));
}

#[test]
fn shards_share_what_is_known() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let server = runtime();
    let script = server.block_on(Script::start());
    script.v4("a.example", Says::Addresses(ips(&["192.0.2.1"])));
    let names = Names::new(config(&script), Arc::default());
    let shard = |names: Arc<Names>| {
        std::thread::spawn(move || {
            let resolver = Resolver::new(names);
            let deadline = Instant::now() + Duration::from_secs(20);
            runtime().block_on(resolver.lookup(&name("a.example"), V4, 1, deadline))
        })
    };
    let shards: Vec<_> = (0..3).map(|_| shard(names.clone())).collect();
    let found: Vec<Found> = server.block_on(async {
        let joined = shards
            .into_iter()
            .map(|shard| tokio::task::spawn_blocking(|| shard.join().unwrap()));
        let mut found = Vec::new();
        for joined in joined.collect::<Vec<_>>() {
            found.push(joined.await.unwrap());
        }
        found
    });
    for found in found {
        assert_eq!(*found.unwrap(), *ips(&["192.0.2.1"]));
    }
    assert_eq!(script.asked(), ["A a.example"]);
}
