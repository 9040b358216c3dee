//! Runs a race: look-ups and attempts at once, the first connection wins, the others are closed.

use crate::failure::{Cause, Failed};
use crate::race::{Eyeballs, IpFamily, Race, Step};
use crate::request::Way;
use crate::resolver::{Addresses, LookupFailure};
use sluice_spi::ChannelFailure;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::time::Instant;

/// A future of this thread.
pub(crate) type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a look-up gives.
pub(crate) type Found = Result<Addresses, LookupFailure>;

/// An address that may be tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) address: SocketAddr,
    pub(crate) way: Way,
}

/// Connects to candidates.
pub(crate) trait Attempt {
    /// A connection.
    type Stream;

    /// Connects to one.
    fn attempt(&self, candidate: Candidate) -> Local<'_, Result<Self::Stream, Failed>>;
}

/// The look-ups of a name that a race starts with; `None`: the family is not used.
pub(crate) struct Lookups<'a> {
    pub(crate) v4: Option<Local<'a, Found>>,
    pub(crate) v6: Option<Local<'a, Found>>,
}

/// One running attempt.
struct Running<'a, S> {
    address: SocketAddr,
    connecting: Local<'a, Result<S, Failed>>,
}

enum Happened<S> {
    Found(IpFamily, Found),
    Attempted(SocketAddr, Result<S, Failed>),
    Time,
}

/// Races the addresses of a name for a connection, until `deadline` at the latest. `admit` is asked for each address
/// before it becomes a candidate.
pub(crate) async fn race<A: Attempt>(
    pace: Eyeballs,
    mut lookups: Lookups<'_>,
    admit: impl Fn(IpAddr) -> Result<Candidate, Failed>,
    connector: &A,
    deadline: Instant,
) -> Result<(A::Stream, SocketAddr), Failed> {
    let mut race: Race<Candidate> = Race::new(pace, |family| match family {
        IpFamily::V4 => lookups.v4.is_some(),
        IpFamily::V6 => lookups.v6.is_some(),
    });
    let all_families = lookups.v4.is_some() && lookups.v6.is_some();
    let mut outcome = Outcome::default();
    let mut running: Vec<Running<'_, A::Stream>> = Vec::new();
    loop {
        let wake = match race.poll(Instant::now()) {
            Step::Start(candidate) => {
                running.push(Running {
                    address: candidate.address,
                    connecting: connector.attempt(candidate),
                });
                continue;
            }
            Step::Exhausted => return Err(outcome.failed(all_families)),
            Step::Wait(at) => at.map_or(deadline, |at| at.min(deadline)),
        };
        match happened(&mut lookups, &mut running, wake).await {
            Happened::Found(family, Ok(addresses)) => {
                let candidates = addresses
                    .iter()
                    .filter_map(|address| outcome.keep(admit(*address)));
                let candidates: Vec<_> = candidates.collect();
                race.answer(family, candidates, Instant::now());
            }
            Happened::Found(family, Err(failure)) => {
                outcome.lookup(failure);
                race.answer(family, [], Instant::now());
            }
            Happened::Attempted(address, Ok(stream)) => return Ok((stream, address)),
            Happened::Attempted(_, Err(failed)) => {
                race.failed(is_local(&failed));
                outcome.add(failed);
            }
            Happened::Time if Instant::now() >= deadline => {
                let late = Failed::new(ChannelFailure::TimedOut, Cause::OverallTimeout);
                let late = running.first().map_or(late, |attempt| late.at(attempt.address));
                outcome.add(late);
                return Err(outcome.failed(all_families));
            }
            Happened::Time => {}
        }
    }
}

/// Whether an attempt failed without a packet to the network.
fn is_local(failed: &Failed) -> bool {
    use ChannelFailure::{Family, NetworkUnreachable, Resources};
    matches!(failed.failure, NetworkUnreachable | Family | Resources)
        || matches!(failed.cause, Cause::Socket(_))
}

/// Waits for the next thing to happen.
async fn happened<S>(
    lookups: &mut Lookups<'_>,
    running: &mut Vec<Running<'_, S>>,
    wake: Instant,
) -> Happened<S> {
    let mut time = pin!(tokio::time::sleep_until(wake));
    poll_fn(|context| {
        // The first family of RFC 8305 is looked at first, in case both answers are there.
        for (family, lookup) in [(IpFamily::V6, &mut lookups.v6), (IpFamily::V4, &mut lookups.v4)] {
            if let Some(found) = poll_lookup(lookup, context) {
                return Poll::Ready(Happened::Found(family, found));
            }
        }
        for index in 0..running.len() {
            let Some(attempt) = running.get_mut(index) else {
                break;
            };
            if let Poll::Ready(result) = attempt.connecting.as_mut().poll(context) {
                let ended = running.swap_remove(index);
                return Poll::Ready(Happened::Attempted(ended.address, result));
            }
        }
        time.as_mut().poll(context).map(|()| Happened::Time)
    })
    .await
}

fn poll_lookup(lookup: &mut Option<Local<'_, Found>>, context: &mut Context<'_>) -> Option<Found> {
    match lookup.as_mut()?.as_mut().poll(context) {
        Poll::Ready(found) => {
            *lookup = None;
            Some(found)
        }
        Poll::Pending => None,
    }
}

/// What came of all addresses that did not connect.
#[derive(Default)]
struct Outcome {
    worst: Option<Failed>,
    lookup: Option<LookupFailure>,
}

impl Outcome {
    /// That the host's kernel has not got a family says nothing where there were addresses of the other.
    fn add(&mut self, failed: Failed) {
        let lacking = |failed: &Failed| failed.failure == ChannelFailure::Family;
        self.worst = Some(match self.worst {
            None => failed,
            Some(worst) if lacking(&worst) && !lacking(&failed) => failed,
            Some(worst) if lacking(&failed) => worst,
            Some(worst) => worst.worse(failed),
        });
    }

    fn keep(&mut self, admitted: Result<Candidate, Failed>) -> Option<Candidate> {
        admitted.map_err(|failed| self.add(failed)).ok()
    }

    fn lookup(&mut self, failure: LookupFailure) {
        self.lookup = Some(self.lookup.map_or(failure, |first| first.max(failure)));
    }

    /// The failure of it all. A look-up that failed, or found nothing of a family, matters only if there was no
    /// address at all.
    fn failed(self, all_families: bool) -> Failed {
        if let Some(worst) = self.worst {
            return worst;
        }
        let failure = self.lookup.unwrap_or(LookupFailure::NotFound);
        if failure == LookupFailure::NoData && !all_families {
            return Failed::new(ChannelFailure::Family, Cause::FamilyDisabled);
        }
        Failed::new(failure.meaning(), Cause::Lookup(failure))
    }
}

#[cfg(test)]
mod tests;
