//! The reliable control channel of one tunnel (RFC 2661, 5.8).

use super::wire;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Messages kept that arrived before their turn.
const MAX_EARLY: usize = 64;
/// Longest time between two transmissions (RFC 2661, 5.8).
const MAX_INTERVAL: Duration = Duration::from_secs(8);

/// A message in the queue.
#[derive(Debug)]
struct Message {
    session: u16,
    body: Vec<u8>,
    ns: u16,
    sent: bool,
}

/// What to do with a control message that came in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ordered {
    /// Bodies whose turn has come, with the session id of each.
    pub(super) ready: Vec<(u16, Vec<u8>)>,
}

/// Sequence numbers and queues of one tunnel.
#[derive(Debug)]
pub(super) struct Channel {
    next_send: u16,
    next_receive: u16,
    queue: VecDeque<Message>,
    early: BTreeMap<u16, (u16, Vec<u8>)>,
    window: usize,
    first_interval: Duration,
    interval: Duration,
    max_tries: u8,
    tries: u8,
    deadline: Option<Instant>,
    ack_due: bool,
    /// Transmissions beyond the first of each message.
    pub(super) retransmissions: u64,
}

/// Whether `a` comes before `b`, modulo 65,536.
fn before(a: u16, b: u16) -> bool {
    a != b && b.wrapping_sub(a) < 0x8000
}

impl Channel {
    pub(super) fn new(interval: Duration, max_tries: u8) -> Self {
        Self {
            next_send: 0,
            next_receive: 0,
            queue: VecDeque::new(),
            early: BTreeMap::new(),
            // RFC 2661, 4.4.3: without the AVP a window of 4 is assumed.
            window: 4,
            first_interval: interval,
            interval,
            max_tries,
            tries: 0,
            deadline: None,
            ack_due: false,
            retransmissions: 0,
        }
    }

    /// Sets the peer's receive window.
    pub(super) fn set_window(&mut self, window: u16) {
        self.window = usize::from(window).max(1);
    }

    /// Queues a message and gives its sequence number.
    pub(super) fn send(&mut self, session: u16, body: Vec<u8>) -> u16 {
        let ns = self.next_send;
        self.next_send = ns.wrapping_add(1);
        self.queue.push_back(Message {
            session,
            body,
            ns,
            sent: false,
        });
        ns
    }

    /// Whether a message has left at least once.
    pub(super) fn was_sent(&self, ns: u16) -> bool {
        !self.queue.iter().any(|message| message.ns == ns && !message.sent)
    }

    /// Whether every message was acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes the numbers of a message that came in, and its body.
    pub(super) fn receive(&mut self, session: u16, ns: u16, nr: u16, body: &[u8]) -> Ordered {
        let mut ready = Vec::new();
        if !before(self.next_send, nr) {
            let former = self.queue.len();
            while self
                .queue
                .front()
                .is_some_and(|message| message.sent && before(message.ns, nr))
            {
                self.queue.pop_front();
            }
            if self.queue.len() < former {
                (self.tries, self.interval, self.deadline) = (0, self.first_interval, None);
            }
        }
        if body.is_empty() {
            return Ordered { ready };
        }
        self.ack_due = true;
        if ns == self.next_receive {
            ready.push((session, body.to_vec()));
            self.next_receive = ns.wrapping_add(1);
            while let Some(message) = self.early.remove(&self.next_receive) {
                ready.push(message);
                self.next_receive = self.next_receive.wrapping_add(1);
            }
        } else if before(self.next_receive, ns) && self.early.len() < MAX_EARLY {
            self.early.insert(ns, (session, body.to_vec()));
        }
        Ordered { ready }
    }

    /// What is to be sent now: messages in the window, or an acknowledgement where nothing carries it.
    pub(super) fn transmit(&mut self, tunnel: u16, now: Instant, out: &mut Vec<Vec<u8>>) {
        let nr = self.next_receive;
        for message in self
            .queue
            .iter_mut()
            .take(self.window)
            .filter(|message| !message.sent)
        {
            message.sent = true;
            self.ack_due = false;
            out.push(wire::control(
                tunnel,
                message.session,
                message.ns,
                nr,
                &message.body,
            ));
            self.deadline.get_or_insert(now + self.interval);
        }
        if self.deadline.is_none() && self.queue.front().is_some_and(|message| message.sent) {
            self.deadline = Some(now + self.interval);
        }
        if self.ack_due {
            self.ack_due = false;
            out.push(wire::control(tunnel, 0, self.next_send_on_wire(), nr, &[]));
        }
    }

    /// Ns of a ZLB: that of the next message to be transmitted for the first time.
    fn next_send_on_wire(&self) -> u16 {
        let unsent = self.queue.iter().find(|message| !message.sent);
        unsent.map_or(self.next_send, |message| message.ns)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Sends the oldest message again; false where the peer does not answer any more.
    pub(super) fn handle_timeout(&mut self, tunnel: u16, now: Instant, out: &mut Vec<Vec<u8>>) -> bool {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return true;
        }
        self.tries += 1;
        if self.tries > self.max_tries {
            self.deadline = None;
            return false;
        }
        self.interval = (self.interval * 2).min(MAX_INTERVAL);
        self.deadline = Some(now + self.interval);
        if let Some(message) = self.queue.front() {
            self.retransmissions += 1;
            out.push(wire::control(
                tunnel,
                message.session,
                message.ns,
                self.next_receive,
                &message.body,
            ));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel() -> Channel {
        Channel::new(Duration::from_secs(1), 3)
    }

    fn sent(channel: &mut Channel, now: Instant) -> Vec<(u16, u16, usize)> {
        let mut out = Vec::new();
        channel.transmit(7, now, &mut out);
        out.iter().map(|bytes| numbers(bytes)).collect()
    }

    fn numbers(bytes: &[u8]) -> (u16, u16, usize) {
        match wire::parse(bytes) {
            Some(wire::Packet::Control { ns, nr, body, .. }) => (ns, nr, body.len()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_window_holds_messages_back_until_acknowledged() {
        let now = Instant::now();
        let mut channel = channel();
        channel.set_window(2);
        for body in [b"a", b"b", b"c"] {
            channel.send(0, body.to_vec());
        }
        assert_eq!(sent(&mut channel, now), [(0, 0, 1), (1, 0, 1)]);
        channel.receive(0, 0, 1, b"");
        assert_eq!(sent(&mut channel, now), [(2, 0, 1)]);
        channel.receive(0, 0, 3, b"");
        assert!(channel.is_idle() && channel.poll_timeout().is_none());
    }

    #[test]
    fn messages_are_given_in_order_and_once_and_always_acknowledged() {
        let now = Instant::now();
        let mut channel = channel();
        assert_eq!(channel.receive(0, 1, 0, b"second").ready, []);
        assert_eq!(sent(&mut channel, now), [(0, 0, 0)]);
        let ready = channel.receive(5, 0, 0, b"first").ready;
        assert_eq!(ready, [(5, b"first".to_vec()), (0, b"second".to_vec())]);
        assert_eq!(sent(&mut channel, now), [(0, 2, 0)]);
        assert_eq!(channel.receive(0, 0, 0, b"first").ready, []);
        assert_eq!(sent(&mut channel, now), [(0, 2, 0)]);
    }

    #[test]
    fn retransmission_doubles_and_ends() {
        let start = Instant::now();
        let mut channel = channel();
        channel.send(0, b"x".to_vec());
        sent(&mut channel, start);
        let mut times = Vec::new();
        let mut out = Vec::new();
        while let Some(at) = channel.poll_timeout() {
            times.push((at - start).as_secs());
            channel.handle_timeout(7, at, &mut out);
        }
        assert_eq!(times, [1, 3, 7, 15]);
        assert_eq!((out.len(), channel.retransmissions), (3, 3));
    }

    #[test]
    fn acknowledgements_of_what_was_never_sent_are_ignored() {
        let mut channel = channel();
        channel.send(0, b"x".to_vec());
        sent(&mut channel, Instant::now());
        channel.receive(0, 0, 9, b"");
        assert!(!channel.is_idle());
    }
}
