//! Taking connections in.

use super::task::Task;
use super::{Source, Streams};
use crate::config::Intake;
use sluice_egress::proxy_protocol::{self, Header, NoHeader};
use sluice_spi::PeerAddr;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// Pause after an accept that failed for want of descriptors or memory: it would fail again at once. The waiting
/// connections stay in the kernel's queue.
const PAUSE: Duration = Duration::from_millis(100);

/// Why an accept failed, in metrics.
pub const ACCEPT_FAILED: &str = "accept_failed";

/// Takes in the connections of one listening socket, for as long as the shard lives.
pub(in super::super) async fn accept(
    streams: Rc<Streams>,
    source: Source,
    listener: TcpListener,
    intake: Rc<Intake>,
) {
    let mut complained = false;
    // Connections have it from their listener, unless that listens everywhere.
    let own = listener
        .local_addr()
        .ok()
        .filter(|own| !own.ip().is_unspecified());
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                complained = false;
                let local = own.map_or_else(|| stream.local_addr(), Ok);
                // Else it is gone already.
                if let Ok(local) = local {
                    let peer = PeerAddr { remote, local };
                    if intake.trusts(remote.ip()) {
                        let time = intake.header_time;
                        tokio::task::spawn_local(announced(
                            streams.clone(),
                            source.clone(),
                            stream,
                            peer,
                            time,
                        ));
                    } else {
                        take_in(&streams, &source, stream, peer);
                    }
                }
            }
            Err(error) if concerns_one(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    let name = &*source.origin.listener;
                    tracing::warn!(listener = name, "no connection is accepted for now: {error}");
                }
                count(&streams, &source, ACCEPT_FAILED);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an error is about the one connection that would have been accepted (accept(2)).
fn concerns_one(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn count(streams: &Streams, source: &Source, reason: &str) {
    if let Some(metrics) = streams.metrics.protocol(source.origin.protocol) {
        metrics.dropped.get(reason).inc();
    }
}

/// Takes in a connection that a proxy passes on, once it has said whose it is.
async fn announced(streams: Rc<Streams>, source: Source, stream: TcpStream, peer: PeerAddr, time: Duration) {
    let peer = match proxy_protocol::read(&stream, time).await {
        Ok(Header::Proxied(ends)) => PeerAddr {
            remote: ends.source,
            ..peer
        },
        Ok(Header::Own) => peer,
        Err(why) => {
            count(&streams, &source, why.as_str());
            if why != NoHeader::Nothing {
                let (listener, proxy) = (&*source.origin.listener, peer.remote);
                tracing::debug!(listener, %proxy, "a connection without a PROXY protocol header: {why}");
            }
            return;
        }
    };
    // Those that come while the shard stops have no time left.
    if !streams.handover.has_begun() {
        take_in(&streams, &source, stream, peer);
    }
}

fn take_in(streams: &Rc<Streams>, source: &Source, stream: TcpStream, peer: PeerAddr) {
    let made = streams
        .ground
        .with(|driver, now| driver.connected(source.listener, peer, now));
    match made {
        Ok(connection) => {
            let task = Task::new(streams.clone(), source.clone(), connection, stream, peer);
            tokio::task::spawn_local(task.run());
        }
        Err(error) => {
            tracing::error!(
                listener = &*source.origin.listener,
                "a connection cannot be served: {error}"
            );
        }
    }
}
