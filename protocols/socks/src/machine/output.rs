//! Messages that wait to be sent to the client.

use crate::wire::Message;
use bytes::BytesMut;

/// Octets of the most that a connection says: the method, the status of a login, and two replies with the longest
/// address.
const ROOM: usize = 2 + 2 + 22 + 22;

/// Messages in a row. A connection says each of them once, so that their room is bounded without a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    bytes: [u8; ROOM],
    length: u8,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            bytes: [0; ROOM],
            length: 0,
        }
    }
}

impl Output {
    /// Adds a message.
    pub(super) fn push(&mut self, message: &Message) {
        let rest = self.bytes.get_mut(usize::from(self.length)..).unwrap_or_default();
        for (place, octet) in rest.iter_mut().zip(message.as_bytes()) {
            *place = *octet;
            self.length += 1;
        }
    }

    /// Moves everything to `out` and says how much it was; `None`: nothing.
    pub(super) fn take(&mut self, out: &mut BytesMut) -> Option<usize> {
        let length = usize::from(std::mem::take(&mut self.length));
        let bytes = self.bytes.get(..length)?;
        out.extend_from_slice(bytes);
        (length > 0).then_some(length)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Reply, method};

    #[test]
    fn there_is_room_for_everything_that_a_connection_says() {
        let bound = "[2001:db8::1]:1".parse().unwrap();
        let mut output = Output::default();
        let mut expected = Vec::new();
        for message in [
            Message::method(method::LOGIN),
            Message::status(true),
            Message::reply(Reply::Succeeded, bound),
            Message::reply(Reply::Succeeded, bound),
        ] {
            output.push(&message);
            expected.extend_from_slice(message.as_bytes());
        }
        let mut out = BytesMut::from(&b"before"[..]);
        assert_eq!(output.take(&mut out), Some(ROOM));
        assert_eq!(&out[6..], expected);
        assert_eq!(output.take(&mut out), None);
        assert!(output.is_empty());
    }
}
