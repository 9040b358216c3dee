//! Checked reading of bytes from the network, and writing of bytes to it.

use bytes::{BufMut, BytesMut};

/// The bytes ended before what was to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("truncated")]
pub struct Truncated;

/// A cursor over received bytes. Every read is checked; nothing here can panic.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes left.
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether no byte is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes left, without taking them.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Takes `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes `count` bytes as a reader of their own.
    pub fn sub(&mut self, count: usize) -> Result<Reader<'a>, Truncated> {
        self.take(count).map(Reader::new)
    }

    /// Takes a fixed number of bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes a big-endian 16-bit number.
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_be_bytes)
    }

    /// Takes a big-endian 32-bit number.
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a big-endian 64-bit number.
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Sets a big-endian 16-bit number at an offset of `out` where a place was left for it, such as a length that is
/// known only after what follows was written. Does nothing where the offset is out of range.
pub fn patch_u16(out: &mut BytesMut, offset: usize, value: u16) {
    if let Some(place) = out.get_mut(offset..offset + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

/// Appends a byte string with a 16-bit length before it; longer strings are cut.
pub fn put_string16(out: &mut BytesMut, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.put_u16(length);
    out.extend_from_slice(&bytes[..usize::from(length)]);
}

/// Most characters kept of a string that came from a peer.
pub const MAX_TEXT: usize = 255;

/// Makes a peer's bytes safe to show: UTF-8 with control characters, quotes and backslashes escaped, cut at
/// [`MAX_TEXT`] characters.
pub fn display_text(bytes: &[u8]) -> String {
    let mut text = String::new();
    for c in String::from_utf8_lossy(bytes).chars().take(MAX_TEXT) {
        if c.is_control() || c == '\\' || c == '"' {
            text.extend(c.escape_default())
        } else {
            text.push(c)
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_never_pass_the_end() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16(), Ok(0x0102));
        assert_eq!(reader.u16(), Err(Truncated));
        assert_eq!(reader.u8(), Ok(3));
        assert_eq!(reader.take(1), Err(Truncated));
        assert!(reader.is_empty());
    }

    #[test]
    fn shown_text_has_no_control_characters() {
        assert_eq!(display_text(b"a\n\"b\\\x1b[31m"), "a\\n\\\"b\\\\\\u{1b}[31m");
        assert_eq!(display_text(&[b'x'; 2000]).len(), MAX_TEXT);
    }
}
