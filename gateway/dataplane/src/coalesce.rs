//! Joins consecutive packets of one flow into super-packets, so that many cross into the kernel by one call and
//! one pass through its network stack.
//!
//! Two packets are joined only inside one session and one flow, and only if cutting the super-packet gives them
//! back as they were: no IP options and no fragments; type of service, hop limit and DF equal (and, without DF,
//! consecutive identifications); TCP with no other flags than ACK and PSH, the same acknowledgement, window and
//! options, and no gap; UDP of equal size. The checksums of all joined packets were verified, so that a damaged
//! packet stays as damaged as it came. A shorter segment or PSH ends a super-packet, and so does any packet of
//! its flow that cannot be joined: order within a flow is never changed.

use crate::ListenerId;
use crate::checksum::{Sum, pseudo_header};
use crate::packet::{IPV4_HEADER, Ip, TCP, TCP_HEADER, UDP, UDP_HEADER, put, u16_at, u32_at};
use crate::tun::Offloads;
use crate::vnet::{NEEDS_CHECKSUM, Super, VNET_HEADER, VnetHeader};
use sluice_spi::PathKey;
use std::io::IoSlice;
use std::ops::Range;

/// Super-packets that can be added to at one time.
const MAX_OPEN: usize = 16;
/// Most octets of a super-packet: what an IP header can say.
const MAX_TOTAL: usize = 65_535;
/// Most packets joined by TCP; more would only be of tiny segments.
const MAX_TCP: usize = 128;
/// Most packets joined by UDP: what all kernels accept (`UDP_MAX_SEGMENTS`).
const MAX_UDP: usize = 64;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Whose packets may be joined: those of one path.
pub(crate) type Owner = (ListenerId, PathKey);

/// A list index that means none.
const END: u32 = u32::MAX;

/// The payload of a joined packet, and the next one's.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u32,
    length: u32,
    next: u32,
}

/// A packet, or a super-packet of which it is the first.
#[derive(Clone, Debug)]
struct Entry {
    owner: Owner,
    ip: Ip,
    /// Where the first packet is.
    start: usize,
    /// Octets of headers.
    header: usize,
    /// Octets of payload in the first packet, and so in all but the last.
    segment: usize,
    /// Octets of payload in all.
    payload: usize,
    count: usize,
    /// The last packet's flags of TCP had PSH.
    push: bool,
    /// Whether the first packet's checksums were found right; they are looked at when a second one comes.
    verified: Option<bool>,
    first_piece: u32,
    last_piece: u32,
}

/// What a packet is to the coalescer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// It may begin a super-packet or be added to one.
    Joinable { header: usize },
    /// It is of a known flow, but stands alone.
    Alone,
    /// It is not known of which flow it is.
    Opaque,
}

/// The packets of one batch, in the order in which they are to be written.
#[derive(Debug)]
pub(crate) struct Coalescer {
    offloads: Offloads,
    entries: Vec<Entry>,
    pieces: Vec<Piece>,
    /// Indices of the entries that can be added to, the one begun last at the end.
    open: Vec<usize>,
}

impl Coalescer {
    pub(crate) fn new(offloads: Offloads) -> Self {
        Coalescer {
            offloads,
            entries: Vec::new(),
            pieces: Vec::new(),
            open: Vec::with_capacity(MAX_OPEN + 1),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes the packet in `range` of the arena, whose length is what its header says.
    pub(crate) fn push(&mut self, arena: &[u8], owner: Owner, ip: Ip, range: Range<usize>) {
        let packet = arena.get(range.clone()).unwrap_or_default();
        let shape = self.shape(packet, ip);
        let place = match shape {
            Shape::Opaque => {
                self.open
                    .retain(|&index| self.entries.get(index).is_some_and(|entry| entry.owner != owner));
                None
            }
            Shape::Alone | Shape::Joinable { .. } => self.find_flow(arena, owner, ip, packet),
        };
        if let (Some(place), Shape::Joinable { header }) = (place, shape)
            && self.join(arena, place, packet, header, range.start)
        {
            return;
        }
        if let Some(place) = place {
            self.open.remove(place);
        }
        self.begin(owner, ip, range, packet, shape);
    }

    fn shape(&self, packet: &[u8], ip: Ip) -> Shape {
        if ip.later_fragment || !matches!(ip.protocol, TCP | UDP) {
            return Shape::Opaque;
        }
        let Some(transport) = packet.get(ip.transport..ip.total) else {
            return Shape::Opaque;
        };
        if ip.fragment || ip.options {
            return if transport.len() < 4 {
                Shape::Opaque
            } else {
                Shape::Alone
            };
        }
        let allowed = if ip.protocol == TCP {
            self.offloads.tcp
        } else {
            self.offloads.udp
        };
        let header = if ip.protocol == TCP {
            tcp_header(transport)
        } else {
            udp_header(transport)
        };
        match header {
            Some(header) if allowed => Shape::Joinable {
                header: ip.transport + header,
            },
            _ if transport.len() < 4 => Shape::Opaque,
            _ => Shape::Alone,
        }
    }

    /// The place in the open list of the flow that a packet is of.
    fn find_flow(&self, arena: &[u8], owner: Owner, ip: Ip, packet: &[u8]) -> Option<usize> {
        let addresses = packet.get(ip.addresses())?;
        let ports = packet.get(ip.transport..ip.transport + 4)?;
        self.open.iter().rposition(|&index| {
            self.entries.get(index).is_some_and(|entry| {
                let first = arena.get(entry.start..).unwrap_or_default();
                entry.owner == owner
                    && entry.ip.protocol == ip.protocol
                    && entry.ip.v6 == ip.v6
                    && first.get(ip.addresses()) == Some(addresses)
                    && first.get(entry.ip.transport..entry.ip.transport + 4) == Some(ports)
            })
        })
    }

    /// Adds a packet to an open super-packet; false: it cannot be added.
    fn join(&mut self, arena: &[u8], place: usize, packet: &[u8], header: usize, start: usize) -> bool {
        let Some(entry) = self
            .open
            .get(place)
            .and_then(|&index| self.entries.get_mut(index))
        else {
            return false;
        };
        let Some(first) = arena.get(entry.start..entry.start + entry.header + entry.segment) else {
            return false;
        };
        let length = packet.len().saturating_sub(header);
        let most = if entry.ip.protocol == TCP {
            MAX_TCP
        } else {
            MAX_UDP
        };
        let fits = entry.header == header
            && length <= entry.segment
            && entry.count < most
            && entry.header + entry.payload + length <= MAX_TOTAL;
        if !fits || !continues(entry, first, packet) || !is_intact(packet, entry.ip) {
            return false;
        }
        if !*entry.verified.get_or_insert_with(|| is_intact(first, entry.ip)) {
            return false;
        }
        let index = self.pieces.len() as u32;
        self.pieces.push(Piece {
            start: (start + header) as u32,
            length: length as u32,
            next: END,
        });
        match self.pieces.get_mut(entry.last_piece as usize) {
            Some(last) => last.next = index,
            None => entry.first_piece = index,
        }
        entry.last_piece = index;
        entry.count += 1;
        entry.payload += length;
        entry.push = entry.ip.protocol == TCP && tcp_flags(packet, entry.ip) & PSH != 0;
        if entry.push || length < entry.segment {
            self.open.remove(place);
        }
        true
    }

    fn begin(&mut self, owner: Owner, ip: Ip, range: Range<usize>, packet: &[u8], shape: Shape) {
        let joinable = match shape {
            Shape::Joinable { header } => Some(header),
            Shape::Alone | Shape::Opaque => None,
        };
        let header = joinable.unwrap_or(0);
        let segment = packet.len().saturating_sub(header);
        let push = joinable.is_some() && ip.protocol == TCP && tcp_flags(packet, ip) & PSH != 0;
        self.entries.push(Entry {
            owner,
            ip,
            start: range.start,
            header,
            segment,
            payload: segment,
            count: 1,
            push,
            verified: None,
            first_piece: END,
            last_piece: END,
        });
        if joinable.is_some() && !push {
            if self.open.len() >= MAX_OPEN {
                self.open.remove(0);
            }
            self.open.push(self.entries.len() - 1);
        }
    }

    /// Hands everything to `write`, in order: the pieces of one packet or super-packet each time, its virtio header
    /// first, and how many packets it holds.
    pub(crate) fn flush(&mut self, arena: &mut [u8], mut write: impl FnMut(&[IoSlice<'_>], usize)) {
        for entry in &self.entries {
            let header = if entry.count > 1 {
                finish(arena, entry)
            } else {
                VnetHeader::PLAIN.encode(entry.ip.v6)
            };
            self.write_entry(arena, entry, &header, &mut write);
        }
        self.entries.clear();
        self.pieces.clear();
        self.open.clear();
    }

    fn write_entry(
        &self,
        arena: &[u8],
        entry: &Entry,
        header: &[u8; VNET_HEADER],
        write: &mut impl FnMut(&[IoSlice<'_>], usize),
    ) {
        let first = arena
            .get(entry.start..entry.start + entry.header + entry.segment)
            .unwrap_or_default();
        if entry.count == 1 {
            write(&[IoSlice::new(header), IoSlice::new(first)], 1);
            return;
        }
        let mut slices = [IoSlice::new(&[]); MAX_TCP + 2];
        let mut used = 0;
        let mut add = |bytes| {
            if let Some(place) = slices.get_mut(used) {
                *place = IoSlice::new(bytes);
                used += 1;
            }
        };
        add(&header[..]);
        add(first);
        let mut next = entry.first_piece;
        while let Some(piece) = self.pieces.get(next as usize) {
            let start = piece.start as usize;
            add(arena
                .get(start..start + piece.length as usize)
                .unwrap_or_default());
            next = piece.next;
        }
        write(slices.get(..used).unwrap_or_default(), entry.count);
    }
}

/// Length of a TCP header before data that may be joined.
fn tcp_header(segment: &[u8]) -> Option<usize> {
    let header = segment.first_chunk::<TCP_HEADER>()?;
    let length = usize::from(header[12] >> 4) * 4;
    let plain_flags = header[13] & !PSH == ACK && header[12] & 15 == 0;
    (plain_flags && length >= TCP_HEADER && segment.len() > length).then_some(length)
}

/// Length of a UDP header before data that may be joined. A checksum of zero was never computed and cannot be
/// verified.
fn udp_header(datagram: &[u8]) -> Option<usize> {
    let whole = usize::from(u16_at(datagram, 4)) == datagram.len();
    (whole && datagram.len() > UDP_HEADER && u16_at(datagram, 6) != 0).then_some(UDP_HEADER)
}

fn tcp_flags(packet: &[u8], ip: Ip) -> u8 {
    packet.get(ip.transport + 13).copied().unwrap_or(0)
}

/// Whether the headers of a packet are what cutting the super-packet would give it.
fn continues(entry: &Entry, first: &[u8], packet: &[u8]) -> bool {
    let same = |range: Range<usize>| first.get(range.clone()) == packet.get(range);
    let network = if entry.ip.v6 {
        // Traffic class, flow label, next header and hop limit.
        same(0..4) && same(6..8)
    } else {
        let dont_fragment = entry.ip.dont_fragment(first);
        let id = u16_at(first, 4).wrapping_add(entry.count as u16);
        // Without DF the identification matters; with it, it has no meaning (RFC 6864).
        same(0..2) && same(6..10) && (dont_fragment || u16_at(packet, 4) == id)
    };
    let at = entry.ip.transport;
    if !network || entry.ip.protocol == UDP {
        return network;
    }
    let next = u32_at(first, at + 4).wrapping_add(entry.payload as u32);
    // Acknowledgement and data offset; window; urgent pointer and options.
    u32_at(packet, at + 4) == next
        && same(at + 8..at + 13)
        && same(at + 14..at + 16)
        && same(at + 18..entry.header)
}

/// Whether all checksums of a packet are right.
fn is_intact(packet: &[u8], ip: Ip) -> bool {
    let header = ip.v6
        || packet
            .get(..IPV4_HEADER)
            .is_some_and(|header| Sum::default().add(header).is_valid());
    let (Some(addresses), Some(transport)) = (packet.get(ip.addresses()), packet.get(ip.transport..)) else {
        return false;
    };
    let sum = pseudo_header(addresses, ip.protocol, transport.len()).add(transport);
    header && sum.is_valid()
}

/// Makes the first packet's headers those of the super-packet, and gives the virtio header for it.
fn finish(arena: &mut [u8], entry: &Entry) -> [u8; VNET_HEADER] {
    let ip = entry.ip;
    let total = entry.header + entry.payload;
    let transport_length = total - ip.transport;
    let headers = arena
        .get_mut(entry.start..entry.start + entry.header)
        .unwrap_or_default();
    if ip.v6 {
        put(headers, 4, &(transport_length as u16).to_be_bytes());
    } else {
        put(headers, 2, &(total as u16).to_be_bytes());
        put(headers, 10, &[0, 0]);
        let sum = Sum::default()
            .add(headers.get(..ip.transport).unwrap_or_default())
            .complement();
        put(headers, 10, &sum);
    }
    let checksum_offset = if ip.protocol == TCP { 16 } else { 6 };
    if ip.protocol == UDP {
        put(
            headers,
            ip.transport + 4,
            &(transport_length as u16).to_be_bytes(),
        );
    } else if entry.push {
        let flags = tcp_flags(headers, ip) | PSH;
        put(headers, ip.transport + 13, &[flags]);
    }
    let addresses = headers.get(ip.addresses()).unwrap_or_default();
    let unfinished = pseudo_header(addresses, ip.protocol, transport_length).folded();
    put(headers, ip.transport + checksum_offset, &unfinished);
    VnetHeader {
        flags: NEEDS_CHECKSUM,
        kind: if ip.protocol == TCP {
            Super::Tcp
        } else {
            Super::Udp
        },
        header_length: entry.header as u16,
        segment: entry.segment as u16,
        checksum_start: ip.transport as u16,
        checksum_offset: checksum_offset as u16,
    }
    .encode(ip.v6)
}
