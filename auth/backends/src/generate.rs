//! Passwords made by the gateway, such as that of the user it starts with when there is none.

use sluice_auth::Secret;

/// Characters that are not mistaken for others when read aloud or typed. 32 of them, so that each takes five
/// bits of a random byte and none is likelier than another.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// Groups and characters of a group: 20 characters of 5 bits, so 100 bits.
const GROUPS: usize = 4;
const GROUP: usize = 5;

/// The kernel gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel gave no random bytes")]
pub struct NoRandomness;

/// A random password such as `k3xw9-am2pq-…` with 100 bits of entropy.
pub fn generate_password() -> Result<Secret, NoRandomness> {
    let mut random = zeroize::Zeroizing::new([0u8; GROUPS * GROUP]);
    getrandom::fill(random.as_mut_slice()).map_err(|_| NoRandomness)?;
    let mut password = Vec::with_capacity(GROUPS * (GROUP + 1));
    for group in random.chunks(GROUP) {
        if !password.is_empty() {
            password.push(b'-');
        }
        password.extend(
            group
                .iter()
                .filter_map(|byte| ALPHABET.get(usize::from(byte % 32))),
        );
    }
    Ok(Secret::new(password))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_plain_and_never_the_same() {
        let first = generate_password().unwrap();
        let text = std::str::from_utf8(first.expose()).unwrap();
        assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [5, 5, 5, 5]);
        assert!(text.bytes().all(|b| b == b'-' || ALPHABET.contains(&b)));
        assert_eq!(sluice_auth::check_new_password(&first), Ok(()));
        assert_ne!(first, generate_password().unwrap());
    }

    #[test]
    fn no_character_is_in_the_alphabet_twice_or_easily_mistaken() {
        let mut sorted = ALPHABET.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 32);
        assert!(b"01lo".iter().all(|b| !ALPHABET.contains(b)));
    }
}
