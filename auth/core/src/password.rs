//! Argon2id password hashes in the PHC string format, with bounds on what they may cost to check.

use crate::{MAX_NAME, Secret};
use base64ct::{Base64Unpadded, Encoding};
use std::fmt;
use std::str::FromStr;
use subtle::ConstantTimeEq;

/// The only version of Argon2 accepted: 1.3, written 19 (RFC 9106, 3.1).
const VERSION: &str = "v=19";

/// Longest PHC string read, in bytes: all fields at their largest fit.
const MAX_PHC: usize = 256;

/// What one hash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Argon2Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Argon2Cost {
    /// 19 MiB, 2 passes, 1 lane: the floor recommended by OWASP's password storage cheat sheet.
    pub const DEFAULT: Argon2Cost = Argon2Cost {
        memory_kib: 19_456,
        passes: 2,
        lanes: 1,
    };

    /// Most memory one hash may ask for, in KiB. With one job per core this bounds the whole pool, so that a
    /// line in a users file cannot take the gateway's memory.
    pub const MAX_MEMORY_KIB: u32 = 65_536;

    /// Most memory times passes, in KiB: four times the default, so that no user's hash holds a hashing thread
    /// for much longer than others'.
    pub const MAX_WORK_KIB: u32 = 4 * 19_456 * 2;

    /// Most lanes. They are computed one after the other and only cost memory accesses here.
    pub const MAX_LANES: u32 = 4;

    /// Makes a cost of memory in KiB, passes and lanes; `None` where it is out of bounds, or less memory than
    /// Argon2 can work with (8 KiB a lane, RFC 9106, 3.1).
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Option<Self> {
        let in_bounds = (1..=Self::MAX_LANES).contains(&lanes)
            && (8 * lanes..=Self::MAX_MEMORY_KIB).contains(&memory_kib)
            && passes >= 1
            && memory_kib
                .checked_mul(passes)
                .is_some_and(|work| work <= Self::MAX_WORK_KIB);
        in_bounds.then_some(Self {
            memory_kib,
            passes,
            lanes,
        })
    }

    /// Memory in KiB.
    pub fn memory_kib(self) -> u32 {
        self.memory_kib
    }

    /// Passes over the memory.
    pub fn passes(self) -> u32 {
        self.passes
    }

    /// Lanes.
    pub fn lanes(self) -> u32 {
        self.lanes
    }
}

/// Why a text is no password hash that can be used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    /// Not `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
    #[error("not an Argon2id hash of the form $argon2id$v=19$m=19456,t=2,p=1$SALT$HASH")]
    Form,
    /// A clear password, or a hash of another kind.
    #[error("not an Argon2id hash: passwords are never stored in clear or by weaker functions")]
    Kind,
    /// An older version of Argon2.
    #[error("not version 19 of Argon2")]
    Version,
    /// Too dear or too cheap to be computed here.
    #[error(
        "cost out of bounds: m from 8 to {max_memory}, t at least 1, m times t up to {max_work}, p from 1 to {max_lanes}",
        max_memory = Argon2Cost::MAX_MEMORY_KIB,
        max_work = Argon2Cost::MAX_WORK_KIB,
        max_lanes = Argon2Cost::MAX_LANES
    )]
    Cost,
    /// Salt shorter than 8 or longer than 48 bytes.
    #[error("salt must be 8 to 48 bytes in unpadded base64")]
    Salt,
    /// Hash shorter than 16 or longer than 64 bytes.
    #[error("hash must be 16 to 64 bytes in unpadded base64")]
    Output,
}

/// An Argon2id hash of a password. It is compared in constant time, and never shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    cost: Argon2Cost,
    salt: Vec<u8>,
    output: Secret,
}

impl PasswordHash {
    /// Puts a hash together from what was computed. Salt: 8 to 48 bytes (RFC 9106, 3.1 asks for 8 at least);
    /// output: 16 to 64 bytes.
    pub fn new(cost: Argon2Cost, salt: Vec<u8>, output: Secret) -> Result<Self, PasswordHashError> {
        if !(8..=48).contains(&salt.len()) {
            return Err(PasswordHashError::Salt);
        }
        if !(16..=64).contains(&output.expose().len()) {
            return Err(PasswordHashError::Output);
        }
        Ok(Self { cost, salt, output })
    }

    /// What it costs to check a password against it.
    pub fn cost(&self) -> Argon2Cost {
        self.cost
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Length of the hash, in bytes.
    pub fn output_length(&self) -> usize {
        self.output.expose().len()
    }

    /// The hash itself, for the few places that compute with it. To compare, use [`PasswordHash::matches`].
    pub fn output(&self) -> &[u8] {
        self.output.expose()
    }

    /// Whether a hash computed with the same cost, salt and length is this one, in constant time.
    pub fn matches(&self, computed: &[u8]) -> bool {
        self.output.expose().ct_eq(computed).into()
    }

    /// The PHC string, for the users file only.
    pub fn to_phc(&self) -> String {
        let Argon2Cost {
            memory_kib,
            passes,
            lanes,
        } = self.cost;
        let salt = Base64Unpadded::encode_string(&self.salt);
        let output = Base64Unpadded::encode_string(self.output.expose());
        format!("$argon2id${VERSION}$m={memory_kib},t={passes},p={lanes}${salt}${output}")
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordHash")
            .field("cost", &self.cost)
            .finish_non_exhaustive()
    }
}

/// Reads `m=…,t=…,p=…`.
fn parse_cost(text: &str) -> Result<Argon2Cost, PasswordHashError> {
    let number = |part: Option<&str>, name: &str| -> Result<u32, PasswordHashError> {
        let digits = part
            .and_then(|part| part.strip_prefix(name))
            .ok_or(PasswordHashError::Form)?;
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PasswordHashError::Form);
        }
        digits.parse().map_err(|_| PasswordHashError::Cost)
    };
    let mut parts = text.split(',');
    let memory_kib = number(parts.next(), "m=")?;
    let passes = number(parts.next(), "t=")?;
    let lanes = number(parts.next(), "p=")?;
    if parts.next().is_some() {
        return Err(PasswordHashError::Form);
    }
    Argon2Cost::new(memory_kib, passes, lanes).ok_or(PasswordHashError::Cost)
}

impl FromStr for PasswordHash {
    type Err = PasswordHashError;

    fn from_str(text: &str) -> Result<Self, PasswordHashError> {
        let Some(rest) = text.strip_prefix("$argon2id$") else {
            return Err(PasswordHashError::Kind);
        };
        if text.len() > MAX_PHC {
            return Err(PasswordHashError::Form);
        }
        let fields: Vec<&str> = rest.split('$').collect();
        let [version, cost, salt, output] = fields.as_slice() else {
            return Err(PasswordHashError::Form);
        };
        if *version != VERSION {
            return Err(PasswordHashError::Version);
        }
        let salt = Base64Unpadded::decode_vec(salt).map_err(|_| PasswordHashError::Salt)?;
        let output = Base64Unpadded::decode_vec(output).map_err(|_| PasswordHashError::Output)?;
        Self::new(parse_cost(cost)?, salt, Secret::new(output))
    }
}

/// Why a new password is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassword {
    /// Fewer than 8 characters.
    #[error("a password has at least 8 characters")]
    Short,
    /// More bytes than PAP can carry.
    #[error("a password has at most {MAX_NAME} bytes")]
    Long,
}

/// Checks a password that is to be set. No rule about kinds of characters (NIST SP 800-63B, 5.1.1.2): 8
/// characters at least, and no more bytes than PAP can carry (RFC 1334, 2.2.1).
pub fn check_new_password(password: &Secret) -> Result<(), WeakPassword> {
    let bytes = password.expose();
    if bytes.len() > MAX_NAME {
        return Err(WeakPassword::Long);
    }
    let characters = std::str::from_utf8(bytes).map_or(bytes.len(), |text| text.chars().count());
    if characters < 8 {
        return Err(WeakPassword::Short);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Of "correct horse", by the reference implementation in C.
    const PHC: &str =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$k9ohroejZy1PN5E1SbHNPug6vB8eQAahb5SOAp6iGF4";

    fn error(text: &str) -> PasswordHashError {
        text.parse::<PasswordHash>().unwrap_err()
    }

    #[test]
    fn a_hash_reads_back_as_it_was_written() {
        let hash: PasswordHash = PHC.parse().unwrap();
        assert_eq!(hash.cost(), Argon2Cost::DEFAULT);
        assert_eq!(hash.salt(), b"somesaltsomesalt");
        assert_eq!(hash.output_length(), 32);
        assert_eq!(hash.to_phc(), PHC);
    }

    #[test]
    fn what_is_no_argon2id_hash_is_refused_with_the_reason() {
        assert_eq!(error("hunter2"), PasswordHashError::Kind);
        assert_eq!(
            error("$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAA"),
            PasswordHashError::Kind
        );
        assert_eq!(
            error("$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ"),
            PasswordHashError::Form
        );
        assert_eq!(error(&format!("{PHC}$")), PasswordHashError::Form);
        assert_eq!(
            error(&format!("{PHC}{}", "A".repeat(300))),
            PasswordHashError::Form
        );
        assert_eq!(error(&PHC.replace("v=19", "v=16")), PasswordHashError::Version);
        assert_eq!(error(&PHC.replace("t=2,", "")), PasswordHashError::Form);
        assert_eq!(
            error(&PHC.replace("p=1", "p=1,data=AAAA")),
            PasswordHashError::Form
        );
        assert_eq!(
            error(&PHC.replace("m=19456", "m=+19456")),
            PasswordHashError::Form
        );
        assert_eq!(
            error(&PHC.replace("c29tZXNhbHRzb21lc2FsdA", "AAAA")),
            PasswordHashError::Salt
        );
        assert_eq!(
            error(&PHC.replace("c29tZXNhbHRzb21lc2FsdA", "!")),
            PasswordHashError::Salt
        );
        let short = format!("{}AAAA", &PHC[..PHC.rfind('$').unwrap() + 1]);
        assert_eq!(error(&short), PasswordHashError::Output);
    }

    #[test]
    fn costs_are_bounded() {
        for cost in [
            "m=4194304,t=2,p=1",
            "m=19456,t=4000000,p=1",
            "m=19456,t=2,p=64",
            "m=7,t=1,p=1",
            "m=19456,t=0,p=1",
            "m=99999999999999999999,t=1,p=1",
            "m=65537,t=1,p=1",
            "m=31,t=1,p=4",
        ] {
            assert_eq!(
                error(&PHC.replace("m=19456,t=2,p=1", cost)),
                PasswordHashError::Cost,
                "{cost}"
            );
        }
        for cost in [
            "m=65536,t=2,p=1",
            "m=7168,t=5,p=1",
            "m=47104,t=1,p=1",
            "m=12288,t=3,p=4",
        ] {
            assert!(
                PHC.replace("m=19456,t=2,p=1", cost)
                    .parse::<PasswordHash>()
                    .is_ok(),
                "{cost}"
            );
        }
    }

    #[test]
    fn debug_never_shows_the_hash() {
        let shown = format!("{:?}", PHC.parse::<PasswordHash>().unwrap());
        assert_eq!(
            shown,
            "PasswordHash { cost: Argon2Cost { memory_kib: 19456, passes: 2, lanes: 1 }, .. }"
        );
    }

    #[test]
    fn new_passwords_are_long_enough_and_fit_into_pap() {
        let check = |text: &str| check_new_password(&Secret::new(text));
        assert_eq!(check("1234567"), Err(WeakPassword::Short));
        assert_eq!(check("ééééééé"), Err(WeakPassword::Short));
        assert_eq!(check("12345678"), Ok(()));
        assert_eq!(check(&"x".repeat(255)), Ok(()));
        assert_eq!(check(&"x".repeat(256)), Err(WeakPassword::Long));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\$argon2id)?(\\$v=19)?(\\$m=[0-9]{0,12},t=[0-9]{0,4},p=[0-9]{0,3})?[$A-Za-z0-9+/=,é]{0,80}") {
            if let Ok(hash) = text.parse::<PasswordHash>() {
                prop_assert_eq!(hash.to_phc().parse::<PasswordHash>(), Ok(hash));
            }
        }

        #[test]
        fn any_hash_reads_back(salt in proptest::collection::vec(any::<u8>(), 8..=48),
                               output in proptest::collection::vec(any::<u8>(), 16..=64)) {
            let hash = PasswordHash::new(Argon2Cost::DEFAULT, salt, Secret::new(output)).unwrap();
            prop_assert_eq!(hash.to_phc().parse::<PasswordHash>(), Ok(hash));
        }
    }
}
