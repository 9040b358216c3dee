//! The classic BPF program that leaves a shard's socket its own packets: a raw socket is given every packet of its IP
//! protocol.
//!
//! A raw IPv4 socket's filter sees the packet from its IP header on (`raw_rcv` in `net/ipv4/raw.c`). A load behind the
//! end of the packet ends the program with 0, which means that the packet is not for this socket.

use crate::wire::gre::{FIXED, FLAGS, PROTOCOL};
use sluice_spi::{ShardId, Shards};

// Instruction codes of classic BPF (Linux, include/uapi/linux/filter.h).
const LOAD_HEADER_LENGTH: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
const LOAD_HALF: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const MODULO: u16 = 0x94; // BPF_ALU | BPF_MOD | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// The program for a shard, as (code, jt, jf, k). Jumps count from the instruction behind.
pub(crate) fn program(shard: ShardId, shards: Shards) -> Vec<(u16, u8, u8, u32)> {
    vec![
        (LOAD_HEADER_LENGTH, 0, 0, 0),
        (LOAD_HALF, 0, 0, 0),
        (AND, 0, 0, FIXED.into()),
        (JUMP_EQUAL, 0, 7, FLAGS.into()), // not enhanced GRE: to the end
        (LOAD_HALF, 0, 0, 2),
        (JUMP_EQUAL, 0, 5, PROTOCOL.into()), // no PPP: to the end
        (LOAD_HALF, 0, 0, 6),
        (AND, 0, 0, u32::from(Shards::VIRTUAL - 1)),
        (MODULO, 0, 0, u32::from(shards.count())),
        (JUMP_EQUAL, 0, 1, u32::from(shard.0)), // another shard's: to the end
        (RETURN, 0, 0, u32::MAX),
        (RETURN, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::gre;
    use bytes::BytesMut;

    /// Runs a program as the kernel does: loads behind the end give 0.
    fn run(program: &[(u16, u8, u8, u32)], packet: &[u8]) -> u32 {
        let (mut accumulator, mut index, mut at) = (0u32, 0usize, 0);
        loop {
            let (code, jump_true, jump_false, k) = program[at];
            at += 1;
            match code {
                LOAD_HEADER_LENGTH => index = usize::from(packet[0] & 15) * 4,
                LOAD_HALF => match packet.get(index + k as usize..index + k as usize + 2) {
                    Some(half) => accumulator = u32::from(u16::from_be_bytes([half[0], half[1]])),
                    None => return 0,
                },
                JUMP_EQUAL => at += usize::from(if accumulator == k { jump_true } else { jump_false }),
                AND => accumulator &= k,
                MODULO => accumulator %= k,
                RETURN => return k,
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn each_shard_is_left_its_own_calls_and_nothing_else() {
        for count in 1..=4 {
            let shards = Shards::new(count);
            for call in (0..=u16::MAX).step_by(97) {
                for ip_header in [20u8, 24] {
                    let mut packet = BytesMut::zeroed(ip_header.into());
                    packet[0] = 0x40 | (ip_header / 4);
                    let start = gre::put(call, Some(1), None, &mut packet);
                    packet.extend_from_slice(b"x");
                    gre::finish(start, 1, &mut packet);
                    for shard in (0..count).map(ShardId) {
                        let taken = run(&program(shard, shards), &packet) != 0;
                        assert_eq!(taken, shards.of_id(call) == shard);
                    }
                    packet[start] |= 0x80;
                    assert_eq!(run(&program(shards.of_id(call), shards), &packet), 0);
                    assert_eq!(run(&program(shards.of_id(call), shards), &packet[..start + 3]), 0);
                }
            }
        }
    }
}
