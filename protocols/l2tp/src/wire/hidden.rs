//! Hiding of AVP values (RFC 2661, 4.3) and the digest of tunnel authentication (4.4.3).

use bytes::{BufMut, BytesMut};
use md5::{Digest, Md5};
use sluice_auth::Secret;
use sluice_spi::Entropy;

const BLOCK: usize = 16;
/// Longest value that can be hidden: the AVP's 1023 octets less its header and the inner length.
pub const MAX_HIDDEN: usize = 1023 - 6 - 2;
/// Most octets of padding added to mask the length of a hidden value.
const MAX_PADDING: usize = 15;

fn first_mask(kind: u16, secret: &Secret, vector: &[u8]) -> [u8; BLOCK] {
    Md5::new()
        .chain_update(kind.to_be_bytes())
        .chain_update(secret.expose())
        .chain_update(vector)
        .finalize()
        .into()
}

fn next_mask(secret: &Secret, cipher: &[u8]) -> [u8; BLOCK] {
    Md5::new()
        .chain_update(secret.expose())
        .chain_update(cipher)
        .finalize()
        .into()
}

/// Recovers a hidden value. `None` where the inner length, which an attacker chooses, does not fit what is
/// there: also the sign of a wrong secret.
pub fn reveal(kind: u16, secret: &Secret, vector: &[u8], hidden: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(hidden.len());
    let mut mask = first_mask(kind, secret, vector);
    for block in hidden.chunks(BLOCK) {
        plain.extend(block.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        mask = next_mask(secret, block);
    }
    let (&length, value) = plain.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(length));
    value.get(..length).map(<[u8]>::to_vec)
}

/// Appends the hidden form of a value of at most [`MAX_HIDDEN`] octets, with random padding.
pub fn hide(
    kind: u16,
    secret: &Secret,
    vector: &[u8],
    value: &[u8],
    entropy: &mut dyn Entropy,
    out: &mut BytesMut,
) {
    let value = &value[..value.len().min(MAX_HIDDEN)];
    let mut noise = [0; 1 + MAX_PADDING];
    entropy.fill(&mut noise);
    let (&mut count, padding) = match noise.split_first_mut() {
        Some((count, padding)) => (count, padding),
        None => return,
    };
    let room = MAX_HIDDEN - value.len();
    let count = usize::from(count) % (1 + MAX_PADDING.min(room));
    let mut plain = Vec::with_capacity(2 + value.len() + count);
    plain.put_u16(u16::try_from(value.len()).unwrap_or_default());
    plain.extend_from_slice(value);
    plain.extend_from_slice(&padding[..count]);
    let mut mask = first_mask(kind, secret, vector);
    for block in plain.chunks_mut(BLOCK) {
        for (byte, mask) in block.iter_mut().zip(mask) {
            *byte ^= mask;
        }
        mask = next_mask(secret, block);
    }
    out.extend_from_slice(&plain);
}

/// The response to a tunnel challenge: MD5 over the number of the message that carries it, the secret and the
/// challenge.
pub fn challenge_response(message: u16, secret: &Secret, challenge: &[u8]) -> [u8; 16] {
    let [_, id] = message.to_be_bytes();
    Md5::new()
        .chain_update([id])
        .chain_update(secret.expose())
        .chain_update(challenge)
        .finalize()
        .into()
}

/// Whether a response is the right one, in constant time.
pub fn response_matches(message: u16, secret: &Secret, challenge: &[u8], response: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    challenge_response(message, secret, challenge)
        .ct_eq(response)
        .into()
}
