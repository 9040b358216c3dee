//! What authentication leaves for encryption of the link: the keys that MPPE begins with (RFC 3079).

use crate::Secret;
use crate::chap::NT_RESPONSE;
use sha1::{Digest, Sha1};
use std::fmt;

/// Length of the keys from MS-CHAPv2. Shorter strengths of MPPE begin with their first 8 octets (RFC 3079, 3.4).
const LENGTH: usize = 16;

/// `Magic1` of RFC 3079, 3.4.
const MASTER: &[u8] = b"This is the MPPE Master Key";
/// `Magic2`: for the keys that the client sends by.
const CLIENT_SENDS: &[u8] =
    b"On the client side, this is the send key; on the server side, it is the receive key.";
/// `Magic3`: for the keys that the server sends by.
const SERVER_SENDS: &[u8] =
    b"On the client side, this is the receive key; on the server side, it is the send key.";
/// `SHSpad1` and `SHSpad2`.
const PADS: [[u8; 40]; 2] = [[0; 40], [0xf2; 40]];

/// MasterSendKey and MasterReceiveKey of one end of a link, of 16 octets at least. Neither shown nor kept.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKeys {
    /// For what this end sends.
    pub send: Secret,
    /// For what it receives.
    pub receive: Secret,
}

impl SessionKeys {
    /// The authenticator's after MS-CHAPv2 (RFC 3079, 3.4): of the hash of the password's hash, and the answer.
    pub fn of_mschap(nt_hash_hash: &Secret, nt_response: &[u8; NT_RESPONSE]) -> Self {
        let master = Sha1::new_with_prefix(nt_hash_hash.expose())
            .chain_update(nt_response)
            .chain_update(MASTER);
        let master = first(&master.finalize());
        let start = |magic: &[u8]| {
            let [before, after] = PADS;
            let key = Sha1::new_with_prefix(master.expose())
                .chain_update(before)
                .chain_update(magic)
                .chain_update(after);
            first(&key.finalize())
        };
        Self {
            send: start(SERVER_SENDS),
            receive: start(CLIENT_SENDS),
        }
    }

    /// Those of the other end.
    #[must_use]
    pub fn of_peer(self) -> Self {
        Self {
            send: self.receive,
            receive: self.send,
        }
    }
}

fn first(digest: &[u8]) -> Secret {
    Secret::new(digest.get(..LENGTH).unwrap_or(digest))
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chap::{nt_hash, nt_hash_hash};

    #[test]
    fn keys_are_those_of_the_rfcs_example() {
        // RFC 3079, 3.5.3, whose answer is that of RFC 2759, 9.2.
        let response = [
            0x82, 0x30, 0x9e, 0xcd, 0x8d, 0x70, 0x8b, 0x5e, 0xa0, 0x8f, 0xaa, 0x39, 0x81, 0xcd, 0x83, 0x54,
            0x42, 0x33, 0x11, 0x4a, 0x3d, 0x85, 0xd6, 0xdf,
        ];
        let send = [
            0x8b, 0x7c, 0xdc, 0x14, 0x9b, 0x99, 0x3a, 0x1b, 0xa1, 0x18, 0xcb, 0x15, 0x3f, 0x56, 0xdc, 0xcb,
        ];
        let hash = nt_hash(&Secret::new("clientPass")).unwrap();
        let server = SessionKeys::of_mschap(&nt_hash_hash(&hash), &response);
        assert_eq!(server.send.expose(), send);
        assert_ne!(server.receive, server.send);
        let client = server.clone().of_peer();
        assert_eq!((&client.send, &client.receive), (&server.receive, &server.send));
        assert_eq!(format!("{server:?}"), "SessionKeys(…)");
    }
}
