//! A netlink socket used synchronously: a request goes out, its answers come back, the socket is closed.

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

/// How long the kernel may take to answer; it answers at once, so silence is a fault and must not hang the start.
const PATIENCE: Duration = Duration::from_secs(5);
/// Space asked for in each direction, in bytes: a batch of rules must go out in one piece.
const BUFFER: usize = 1 << 20;
/// Netlink aligns messages to four octets.
const ALIGNMENT: usize = 4;

/// A socket of one netlink protocol.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket towards the kernel.
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        // What the system grants is enough for all but the largest batches, and those fail with a clear error.
        let _ = sockopt::set_socket_send_buffer_size(&socket, BUFFER);
        let _ = sockopt::set_socket_recv_buffer_size(&socket, BUFFER);
        Ok(Self { socket, sequence: 0 })
    }

    /// Appends a message to a packet; gives its sequence number.
    fn append<I: NetlinkSerializable>(&mut self, packet: &mut Vec<u8>, message: I, flags: u16) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = packet.len();
        packet.resize(start + message.buffer_len().next_multiple_of(ALIGNMENT), 0);
        if let Some(space) = packet.get_mut(start..start + message.buffer_len()) {
            message.serialize(space);
        }
        self.sequence
    }

    /// Asks for a list.
    pub(super) fn dump<I>(&mut self, request: I) -> io::Result<Vec<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut packet = Vec::new();
        let sequence = self.append(&mut packet, request, NLM_F_REQUEST | NLM_F_DUMP);
        self.socket.send(&packet, 0)?;
        let mut list = Vec::new();
        loop {
            let (packet, _) = self.socket.recv_from_full()?;
            for (number, payload) in messages(&packet) {
                match payload {
                    _ if number != sequence => {}
                    NetlinkPayload::InnerMessage(message) => list.push(message),
                    NetlinkPayload::Done(_) => return Ok(list),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) => return Ok(list),
                    _ => {}
                }
            }
        }
    }

    /// Asks for one object.
    pub(super) fn get<I>(&mut self, request: I) -> io::Result<Option<I>>
    where
        I: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut packet = Vec::new();
        let sequence = self.append(&mut packet, request, NLM_F_REQUEST);
        self.socket.send(&packet, 0)?;
        let (packet, _) = self.socket.recv_from_full()?;
        for (number, payload) in messages(&packet) {
            match payload {
                NetlinkPayload::InnerMessage(message) if number == sequence => return Ok(Some(message)),
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    let error = error.to_io();
                    return if error.kind() == io::ErrorKind::NotFound {
                        Ok(None)
                    } else {
                        Err(error)
                    };
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Has something done.
    pub(super) fn order<I>(&mut self, request: I, flags: u16) -> io::Result<()>
    where
        I: NetlinkSerializable + NetlinkDeserializable,
    {
        self.batch(std::iter::once((request, NLM_F_REQUEST | NLM_F_ACK | flags)))
    }

    /// Sends messages as one packet and waits until each that asked for it is acknowledged. The first error, of
    /// whichever message, ends the wait.
    pub(super) fn batch<I>(&mut self, requests: impl Iterator<Item = (I, u16)>) -> io::Result<()>
    where
        I: NetlinkSerializable + NetlinkDeserializable,
    {
        let mut packet = Vec::new();
        let mut waiting = BTreeSet::new();
        for (request, flags) in requests {
            let sequence = self.append(&mut packet, request, flags);
            if flags & NLM_F_ACK != 0 {
                waiting.insert(sequence);
            }
        }
        self.socket.send(&packet, 0)?;
        while !waiting.is_empty() {
            let (packet, _) = self.socket.recv_from_full()?;
            for (number, payload) in messages::<I>(&packet) {
                if let NetlinkPayload::Error(error) = payload {
                    if error.code.is_some() {
                        return Err(error.to_io());
                    }
                    waiting.remove(&number);
                }
            }
        }
        Ok(())
    }
}

/// The messages of a packet with their sequence numbers. One that cannot be read is passed over: newer kernels
/// describe things this release does not know, and they are not ours.
fn messages<I: NetlinkDeserializable>(packet: &[u8]) -> Vec<(u32, NetlinkPayload<I>)> {
    let mut list = Vec::new();
    let mut rest = packet;
    while let Ok(buffer) = NetlinkBuffer::new_checked(rest) {
        let length = buffer.length() as usize;
        let Some(bytes) = rest.get(..length).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        if let Ok(message) = NetlinkMessage::<I>::deserialize(bytes) {
            let (header, payload) = message.into_parts();
            list.push((header.sequence_number, payload));
        }
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or(&[]);
    }
    list
}
