//! The classic BPF program that steers packets to their shard's socket.
//!
//! For UDP the kernel pulls the transport header before it runs a reuseport program (`run_bpf_filter` in
//! `net/core/sock_reuseport.c`), so offset 0 is the first octet of the L2TP header. A load behind the end of the
//! packet would end the program with 0, which is a socket's index: the length is looked at first. A result that
//! is no socket's index makes the kernel choose by its hash of the addresses.

use sluice_spi::Shards;

/// A result that is no socket's index.
const BY_ADDRESS: u32 = u32::MAX;

// Instruction codes of classic BPF (Linux, include/uapi/linux/filter.h).
const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
const LOAD_LENGTH: u16 = 0x80; // BPF_LD | BPF_W | BPF_LEN
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const JUMP_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const MODULO: u16 = 0x94; // BPF_ALU | BPF_MOD | BPF_K
const RETURN_VALUE: u16 = 0x16; // BPF_RET | BPF_A
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Shortest packet that means anything: a data message without a length field, with two octets of PPP.
pub(crate) const SHORTEST: u32 = 8;
const VERSION_MASK: u32 = 0x000f;
const VERSION: u32 = 2;
const FLAG_LENGTH: u32 = 0x4000;

/// The program for so many shards, as (code, jt, jf, k). Jumps count from the instruction behind.
pub(crate) fn program(shards: Shards) -> Vec<(u16, u8, u8, u32)> {
    let virtual_mask = u32::from(Shards::VIRTUAL - 1);
    vec![
        (LOAD_LENGTH, 0, 0, 0),
        (JUMP_AT_LEAST, 0, 12, SHORTEST), // shorter: to the end
        (LOAD_HALF, 0, 0, 0),
        (AND, 0, 0, VERSION_MASK),
        (JUMP_EQUAL, 0, 9, VERSION), // another protocol: to the end
        (LOAD_HALF, 0, 0, 0),
        (JUMP_ANY_BIT, 0, 2, FLAG_LENGTH), // no length field: the id is at 2
        (LOAD_HALF, 0, 0, 4),
        (JUMP_EQUAL, 5, 2, 0), // no id yet: to the end
        (LOAD_HALF, 0, 0, 2),
        (JUMP_EQUAL, 3, 0, 0), // no id yet: to the end
        (AND, 0, 0, virtual_mask),
        (MODULO, 0, 0, u32::from(shards.count())),
        (RETURN_VALUE, 0, 0, 0),
        (RETURN, 0, 0, BY_ADDRESS),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::L2tp;
    use sluice_spi::{Module, ShardId};

    /// Runs a program as the kernel does: loads behind the end give 0.
    fn run(program: &[(u16, u8, u8, u32)], packet: &[u8]) -> u32 {
        let mut accumulator = 0u32;
        let mut at = 0;
        loop {
            let (code, jump_true, jump_false, k) = program[at];
            at += 1;
            let mut jump = |taken: bool| at += usize::from(if taken { jump_true } else { jump_false });
            match code {
                LOAD_LENGTH => accumulator = packet.len() as u32,
                LOAD_HALF => match packet.get(k as usize..k as usize + 2) {
                    Some(half) => accumulator = u32::from(u16::from_be_bytes([half[0], half[1]])),
                    None => return 0,
                },
                JUMP_EQUAL => jump(accumulator == k),
                JUMP_ANY_BIT => jump(accumulator & k != 0),
                JUMP_AT_LEAST => jump(accumulator >= k),
                AND => accumulator &= k,
                MODULO => accumulator %= k,
                RETURN_VALUE => return accumulator,
                RETURN => return k,
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn the_program_does_what_steer_does() {
        let mut random = 7u32;
        for count in 2..=Shards::VIRTUAL {
            let shards = Shards::new(count);
            let program = program(shards);
            for _ in 0..2000 {
                let mut packet = [0u8; 12];
                for octet in &mut packet {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    *octet = (random >> 24) as u8;
                }
                // Mostly L2TPv2, sometimes without an id, sometimes short.
                packet[1] = if random & 0x30 == 0 { packet[1] } else { 2 };
                if random & 0xc0 == 0 {
                    packet[2..6].fill(0);
                }
                let packet = &packet[..(random as usize >> 9) % 13];
                let wanted = L2tp.steer(packet, shards);
                let got = run(&program, packet);
                let got = (got != BY_ADDRESS).then_some(ShardId(got as u16));
                assert_eq!(got, wanted, "{packet:x?} of {count}");
            }
        }
    }

    #[test]
    fn one_shard_needs_no_program() {
        assert!(L2tp.steering_program(Shards::new(1)).is_none());
        assert!(L2tp.steering_program(Shards::new(2)).is_some());
    }
}
