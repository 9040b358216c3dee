//! Session keys and how they change (RFC 3078, 7.3; RFC 3079, 3).

use super::Strength;
use rc4::{KeyInit, Rc4, StreamCipher};
use sha1::{Digest, Sha1};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Octets of the longest key.
pub(super) const KEY: usize = 16;
/// `SHApad1` and `SHApad2` (RFC 3079, 3.4).
const PADS: [[u8; 40]; 2] = [[0; 40], [0xf2; 40]];

/// The keys of one direction. Of a shorter strength only the first octets are used.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Key {
    start: [u8; KEY],
    session: [u8; KEY],
    #[zeroize(skip)]
    strength: Strength,
}

impl Key {
    /// The first session key from a master key. A longer one is cut, a shorter one padded on the left with zeroes
    /// (RFC 3079, 4.1 to 4.3).
    pub(super) fn new(master: &[u8], strength: Strength) -> Self {
        let length = strength.key_length();
        let used = master.get(..length).unwrap_or(master);
        let mut start = Zeroizing::new([0; KEY]);
        let padding = length - used.len();
        start
            .iter_mut()
            .skip(padding)
            .zip(used)
            .for_each(|(to, from)| *to = *from);
        let mut key = Self::resume(&start, &start, strength);
        let interim = key.interim();
        key.take(&interim);
        key
    }

    /// Goes on where another process was.
    pub(super) fn resume(start: &[u8; KEY], session: &[u8; KEY], strength: Strength) -> Self {
        Self {
            start: *start,
            session: *session,
            strength,
        }
    }

    /// Appends both keys.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.start);
        out.extend_from_slice(&self.session);
    }

    /// The session key that is in use.
    pub(super) fn session(&self) -> &[u8] {
        part(&self.session, self.strength)
    }

    /// `GetNewKeyFromSHA` (RFC 3078, 7.3).
    fn interim(&self) -> Zeroizing<[u8; KEY]> {
        let [before, after] = PADS;
        let digest = Sha1::new_with_prefix(part(&self.start, self.strength))
            .chain_update(before)
            .chain_update(self.session())
            .chain_update(after)
            .finalize();
        let mut interim = Zeroizing::new([0; KEY]);
        interim.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        interim
    }

    /// Takes a new session key, weakened to its strength.
    fn take(&mut self, key: &[u8; KEY]) {
        self.session = *key;
        let known = self.strength.known_octets();
        self.session
            .iter_mut()
            .zip(known)
            .for_each(|(to, from)| *to = *from);
    }

    /// Changes the session key (RFC 3078, 7.3).
    pub(super) fn change(&mut self) {
        let mut interim = self.interim();
        let length = self.strength.key_length();
        let cipher = Rc4::new_from_slice(part(&interim, self.strength));
        if let (Ok(mut cipher), Some(used)) = (cipher, interim.get_mut(..length)) {
            cipher.apply_keystream(used);
        }
        self.take(&interim);
    }

    /// Fresh tables of the session key (RFC 3078, 5). `None` never comes: RC4 takes keys of either length.
    pub(super) fn cipher(&self) -> Option<Rc4> {
        Rc4::new_from_slice(self.session()).ok()
    }
}

/// The octets of a key that its strength uses.
fn part(key: &[u8; KEY], strength: Strength) -> &[u8] {
    key.get(..strength.key_length()).unwrap_or(key)
}
