//! The envelope of every checkpoint: a magic, a format number, a length and a CRC-32C. Nothing in a checkpoint
//! is trusted over live evidence, and a damaged or newer one is refused as a whole.

use crate::wire::Reader;
use bytes::{BufMut, Bytes, BytesMut};

const MAGIC: u32 = 0x534c_4350; // "SLCP"
const HEADER: usize = 4 + 2 + 4;

/// Largest body accepted, in bytes: a tunnel with all its 65,535 calls fits.
pub const MAX_BODY: usize = 64 << 20;

/// Why a checkpoint cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Shorter or longer than it says.
    #[error("truncated")]
    Truncated,
    /// Not a checkpoint.
    #[error("not a checkpoint")]
    Magic,
    /// Bytes were changed.
    #[error("checksum mismatch")]
    Checksum,
    /// Written in a format that this version does not read.
    #[error("format {0} is not known to this version")]
    Format(u16),
    /// A field holds what it never can.
    #[error("invalid {0}")]
    Invalid(&'static str),
}

impl From<crate::wire::Truncated> for CheckpointError {
    fn from(_: crate::wire::Truncated) -> Self {
        CheckpointError::Truncated
    }
}

/// Wraps a body written in `format`.
pub fn seal(format: u16, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER + body.len() + 4);
    out.put_u32(MAGIC);
    out.put_u16(format);
    out.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    out.extend_from_slice(body);
    let checksum = crc32c::crc32c(&out);
    out.put_u32(checksum);
    out.freeze()
}

/// Checks an envelope and gives the format number and the body.
pub fn open(bytes: &[u8]) -> Result<(u16, Reader<'_>), CheckpointError> {
    let mut reader = Reader::new(bytes);
    if reader.u32()? != MAGIC {
        return Err(CheckpointError::Magic);
    }
    let format = reader.u16()?;
    let length = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    if length > MAX_BODY || reader.len() != length + 4 {
        return Err(CheckpointError::Truncated);
    }
    let body = reader.sub(length)?;
    let checked = &bytes[..HEADER + length];
    if reader.u32()? != crc32c::crc32c(checked) {
        return Err(CheckpointError::Checksum);
    }
    Ok((format, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_was_sealed() {
        let sealed = seal(3, b"state");
        let (format, body) = open(&sealed).unwrap();
        assert_eq!((format, body.rest()), (3, &b"state"[..]));
    }

    #[test]
    fn refuses_every_truncation_and_every_flipped_bit() {
        let sealed = seal(1, b"some state");
        for length in 0..sealed.len() {
            assert!(open(&sealed[..length]).is_err());
        }
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&damaged).is_err(), "bit {bit}");
        }
        let mut longer = sealed.to_vec();
        longer.push(0);
        assert!(open(&longer).is_err());
    }
}
