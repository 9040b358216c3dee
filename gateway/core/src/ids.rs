//! The public names of sessions and tunnels: 26 characters of Crockford's base 32 that order by time.

use sluice_spi::Entropy;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

/// Length of an identifier's text.
pub const ID_TEXT: usize = 26;

/// Crockford's base 32: no I, L, O, U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Bits of randomness below the 48 bits of time.
const RANDOM_BITS: u32 = 80;

/// Text that is no identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an identifier of 26 letters and digits")]
pub struct IdError;

fn to_text(value: u128) -> [u8; ID_TEXT] {
    let mut text = [b'0'; ID_TEXT];
    let mut rest = value;
    for place in text.iter_mut().rev() {
        let digit = usize::try_from(rest & 31).unwrap_or(0);
        *place = ALPHABET.get(digit).copied().unwrap_or(b'0');
        rest >>= 5;
    }
    text
}

fn from_text(text: &str) -> Result<u128, IdError> {
    if text.len() != ID_TEXT {
        return Err(IdError);
    }
    let mut value: u128 = 0;
    for (index, byte) in text.bytes().enumerate() {
        let byte = byte.to_ascii_uppercase();
        let digit = ALPHABET.iter().position(|&c| c == byte).ok_or(IdError)?;
        // 26 characters hold 130 bits: the first may not be over 7.
        if index == 0 && digit > 7 {
            return Err(IdError);
        }
        value = (value << 5) | u128::try_from(digit).map_err(|_| IdError)?;
    }
    Ok(value)
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// From the 16 octets of [`Self::to_bytes`].
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }

            /// The identifier in 16 octets that order as it does.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// When it was minted, in milliseconds since 1970.
            pub fn milliseconds(self) -> u64 {
                u64::try_from(self.0 >> RANDOM_BITS).unwrap_or(u64::MAX)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = to_text(self.0);
                f.pad(std::str::from_utf8(&text).unwrap_or(""))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Reads the text, in upper or lower case.
            fn from_str(text: &str) -> Result<Self, IdError> {
                from_text(text).map(Self)
            }
        }
    };
}

identifier! {
    /// The public name of a session, which is its Acct-Session-Id too.
    SessionId
}
identifier! {
    /// The public name of a tunnel.
    TunnelId
}

/// Mints identifiers: 48 bits of milliseconds and 80 random bits, each greater than the one before, also within
/// a millisecond and over a clock set back.
pub(crate) struct Mint {
    entropy: Box<dyn Entropy>,
    last: u128,
}

impl Mint {
    pub(crate) fn new(entropy: Box<dyn Entropy>) -> Self {
        Self { entropy, last: 0 }
    }

    /// Makes sure that later identifiers are greater than a restored one.
    pub(crate) fn seen(&mut self, id: u128) {
        self.last = self.last.max(id);
    }

    fn next(&mut self, wall: SystemTime) -> u128 {
        let time = u128::from(crate::time::to_millis(wall)) & ((1 << 48) - 1);
        let mut random = [0; 16];
        self.entropy.fill(&mut random);
        let random = u128::from_be_bytes(random);
        let fresh = (time << RANDOM_BITS) | (random >> (128 - RANDOM_BITS));
        // In the same millisecond, go up by a random step, so that the next identifier is no easy guess.
        let next = if fresh > self.last {
            fresh
        } else {
            self.last.saturating_add(1 + (random >> 64))
        };
        self.last = next;
        next
    }

    pub(crate) fn session(&mut self, wall: SystemTime) -> SessionId {
        SessionId(self.next(wall))
    }

    pub(crate) fn tunnel(&mut self, wall: SystemTime) -> TunnelId {
        TunnelId(self.next(wall))
    }

    /// 64 random bits for a choice, such as that of an address.
    pub(crate) fn random(&mut self) -> u64 {
        sluice_spi::random_u64(self.entropy.as_mut())
    }
}

impl SessionId {
    pub(crate) fn value(self) -> u128 {
        self.0
    }

    /// The smallest identifier.
    #[cfg(test)]
    pub(crate) const fn from_value(value: u128) -> Self {
        Self(value)
    }
}

impl TunnelId {
    pub(crate) fn value(self) -> u128 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sluice_testkit::Seeded;
    use std::time::Duration;

    #[test]
    fn identifiers_grow_within_a_millisecond_and_when_the_clock_is_set_back() {
        let mut mint = Mint::new(Box::new(Seeded::new(1)));
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut last = mint.session(start);
        assert_eq!(last.milliseconds(), 1_700_000_000_000);
        for step in 0..10_000u64 {
            let wall = start - Duration::from_millis(step % 3);
            let next = mint.session(wall);
            assert!(next > last);
            assert!(next.to_string() > last.to_string());
            last = next;
        }
    }

    #[test]
    fn identifiers_stay_above_restored_ones() {
        let mut mint = Mint::new(Box::new(Seeded::new(1)));
        mint.seen(SessionId::from_value(u128::MAX >> 2).value());
        assert!(mint.session(SystemTime::UNIX_EPOCH) > SessionId::from_value(u128::MAX >> 2));
    }

    #[test]
    fn text_that_is_none_is_refused() {
        for text in [
            "",
            "0",
            "8ZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "0000000000000000000000000U",
            "é000000000000000000000000",
        ] {
            assert_eq!(text.parse::<SessionId>(), Err(IdError), "{text}");
        }
        assert_eq!("7ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse(), Ok(SessionId(u128::MAX)));
        assert_eq!("7zzzzzzzzzzzzzzzzzzzzzzzzz".parse(), Ok(SessionId(u128::MAX)));
    }

    proptest! {
        #[test]
        fn text_and_octets_read_back(value: u128) {
            let id = SessionId(value);
            prop_assert_eq!(id.to_string().len(), ID_TEXT);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            prop_assert_eq!(SessionId::from_bytes(id.to_bytes()), id);
        }
    }
}
