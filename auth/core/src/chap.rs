//! The computations of CHAP with MD5 (RFC 1994) and of MS-CHAPv2 (RFC 2759, 8).
//!
//! MD4, DES and a SHA-1 of a password's hash are no protection by today's measure. They are here because every
//! built-in client speaks them.

use crate::Secret;
use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use md4::Md4;
use md5::{Digest, Md5};
use sha1::Sha1;
use std::fmt::Write;
use zeroize::Zeroizing;

/// Length of the challenges of MS-CHAPv2, the authenticator's and the peer's (RFC 2759, 3 and 4).
pub const MSCHAP_CHALLENGE: usize = 16;
/// Length of MS-CHAPv2's NT-Response (RFC 2759, 4).
pub const NT_RESPONSE: usize = 24;
/// Length of the hash of a password by MD4.
pub const NT_HASH: usize = 16;
/// Length of the answer of CHAP with MD5 (RFC 1994, 4.1).
pub const CHAP_RESPONSE: usize = 16;
/// Longest password that has an NT hash, in UTF-16 code units (RFC 2759, 8.1).
const MAX_PASSWORD: usize = 256;

/// `Magic1` and `Magic2` of RFC 2759, 8.7.
const MAGIC1: &[u8] = b"Magic server to client signing constant";
const MAGIC2: &[u8] = b"Pad to make it do more than one iteration";

/// What proves knowledge of a secret by CHAP: MD5 of identifier, secret and challenge (RFC 1994, 4.1).
pub fn chap_response(id: u8, secret: &Secret, challenge: &[u8]) -> [u8; CHAP_RESPONSE] {
    let digest = Md5::new_with_prefix([id])
        .chain_update(secret.expose())
        .chain_update(challenge);
    digest.finalize().into()
}

/// `NtPasswordHash` (RFC 2759, 8.3), which is as good as the password. `None` for a password that is no UTF-8 or
/// has more than 256 UTF-16 code units: it cannot be typed at a client of MS-CHAPv2.
pub fn nt_hash(password: &Secret) -> Option<Secret> {
    let text = std::str::from_utf8(password.expose()).ok()?;
    let mut units = Zeroizing::new(Vec::with_capacity(2 * text.len()));
    units.extend(text.encode_utf16().flat_map(u16::to_le_bytes));
    (units.len() <= 2 * MAX_PASSWORD).then(|| Secret::new(Md4::digest(units.as_slice()).to_vec()))
}

/// `HashNtPasswordHash` (RFC 2759, 8.4): what the keys of MPPE are derived from (RFC 3079, 3.4).
pub fn nt_hash_hash(nt_hash: &Secret) -> Secret {
    Secret::new(Md4::digest(nt_hash.expose()).to_vec())
}

/// The user name that goes into MS-CHAPv2's hashes: without the domain before a backslash (RFC 2759, 4).
pub fn without_domain(name: &[u8]) -> &[u8] {
    name.rsplit(|&byte| byte == b'\\').next().unwrap_or(name)
}

/// `ChallengeHash` (RFC 2759, 8.2). The name may have its domain.
fn challenge_hash(
    peer_challenge: &[u8; MSCHAP_CHALLENGE],
    challenge: &[u8; MSCHAP_CHALLENGE],
    name: &[u8],
) -> [u8; 8] {
    let digest = Sha1::new_with_prefix(peer_challenge)
        .chain_update(challenge)
        .chain_update(without_domain(name))
        .finalize();
    let mut short = [0; 8];
    short.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    short
}

/// `GenerateNTResponse` from the hash of the password (RFC 2759, 8.1). The name may have its domain.
pub fn nt_response(
    nt_hash: &Secret,
    peer_challenge: &[u8; MSCHAP_CHALLENGE],
    challenge: &[u8; MSCHAP_CHALLENGE],
    name: &[u8],
) -> [u8; NT_RESPONSE] {
    let clear = challenge_hash(peer_challenge, challenge, name);
    // ChallengeResponse (RFC 2759, 8.5): the hash, padded to 21 octets, is three keys of 56 bits.
    let mut padded = Zeroizing::new([0u8; 21]);
    padded
        .iter_mut()
        .zip(nt_hash.expose())
        .for_each(|(to, from)| *to = *from);
    let mut response = [0; NT_RESPONSE];
    for (part, key) in response.chunks_exact_mut(8).zip(padded.chunks_exact(7)) {
        let mut block = clear.into();
        Des::new(&(*spread(key)).into()).encrypt_block(&mut block);
        part.copy_from_slice(&block);
    }
    response
}

/// A key of 56 bits with a place for parity after each seven. DES does not look at parity.
fn spread(key: &[u8]) -> Zeroizing<[u8; 8]> {
    let bits = key.iter().fold(0u64, |bits, &byte| bits << 8 | u64::from(byte));
    let mut spread = Zeroizing::new([0; 8]);
    for (byte, shift) in spread.iter_mut().zip((0..8).rev()) {
        *byte = ((bits >> (7 * shift) & 0x7f) << 1) as u8;
    }
    spread
}

/// `GenerateAuthenticatorResponse` (RFC 2759, 8.7), by which the authenticator proves that it knows the hash too:
/// `S=` and 40 hexadecimal digits. The name may have its domain.
pub fn authenticator_response(
    nt_hash_hash: &Secret,
    nt_response: &[u8; NT_RESPONSE],
    peer_challenge: &[u8; MSCHAP_CHALLENGE],
    challenge: &[u8; MSCHAP_CHALLENGE],
    name: &[u8],
) -> String {
    let digest = Sha1::new_with_prefix(nt_hash_hash.expose())
        .chain_update(nt_response)
        .chain_update(MAGIC1)
        .finalize();
    let digest = Sha1::new_with_prefix(digest)
        .chain_update(challenge_hash(peer_challenge, challenge, name))
        .chain_update(MAGIC2)
        .finalize();
    let mut text = String::with_capacity(42);
    text.push_str("S=");
    for byte in digest {
        // Writing into a `String` cannot fail.
        let _ = write!(text, "{byte:02X}");
    }
    text
}

#[cfg(test)]
#[path = "chap_tests.rs"]
mod tests;
