//! A relay whose target is no longer there, in a network namespace of its own whose only link goes down.
#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use sluice_dataplane::relay::{Cause, Options, Outcome, Pool, PoolConfig, Relay, Side};
use socket2::SockRef;
use std::io::ErrorKind;
use std::time::Duration;
use support::Netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long the target's connection may have bytes that nobody acknowledges.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long the relay may take to end.
const LIMIT: Duration = Duration::from_secs(30);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

#[test]
fn a_target_that_does_not_answer_any_more_is_an_error_of_the_target() {
    let Some(netns) = Netns::new() else {
        return;
    };
    let cause = netns.within(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let ((mut client, accepted), (connected, mut target)) = (pair().await, pair().await);
            SockRef::from(&connected)
                .set_tcp_user_timeout(Some(PATIENCE))
                .unwrap();
            let relay = Relay::new(
                accepted,
                connected,
                &Pool::new(PoolConfig::default()),
                Options::default(),
            );
            let conversation = async {
                client.write_all(b"one").await.unwrap();
                target.read_exact(&mut [0; 3]).await.unwrap();
                client.write_all(b"two").await.unwrap();
                // The relay reads this in the same turn of the thread, when the link is down.
                netns.run("ip link set lo down");
                tokio::time::sleep(LIMIT).await;
            };
            tokio::select! {
                () = conversation => panic!("the relay does not end"),
                outcome = relay.unwrap().run() => match outcome {
                    Outcome::Ended(ended) => ended.cause,
                    Outcome::Parked(_) => panic!("parked"),
                },
            }
        })
    });
    assert_eq!(cause, Cause::Error(Side::Target, ErrorKind::TimedOut));
}
