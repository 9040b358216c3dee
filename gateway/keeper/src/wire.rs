//! The messages between keeper and worker.
//!
//! A message is one packet: version, kind, then fields. Integers are big-endian; text has a length before it.
//! Descriptors travel beside the message and are counted in it.

use crate::{MAX_NAME, MAX_PER_MESSAGE, MAX_STATUS};
use std::time::Duration;

/// The version of this format. A keeper outlives its workers, so after an upgrade the two may differ.
pub(crate) const VERSION: u8 = 1;

/// The longest message: a batch of single-descriptor names, each of full length.
pub(crate) const MAX_MESSAGE: usize = 8 + MAX_PER_MESSAGE * (MAX_NAME + 3);

/// What a name holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sockets, devices, pipes.
    Descriptors,
    /// One memfd.
    Memory,
}

/// Why a worker is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartReason {
    /// The first worker of this keeper: a cold start.
    First,
    /// The worker before asked for a restart.
    Requested,
    /// The worker before ended unasked; the text says how.
    Crashed(String),
}

/// Why the keeper did not take what a worker gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The keeper holds as many descriptors as it may.
    Full,
    /// Fewer descriptors arrived than the message announced: the keeper's process is out of descriptors.
    Lost,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "the keeper's descriptor limit is reached",
            Self::Lost => "the keeper's process is out of descriptors",
        })
    }
}

/// From worker to keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToKeeper {
    Store {
        kind: Kind,
        name: String,
        count: usize,
    },
    Remove {
        name: String,
    },
    Ready,
    Restart,
    Stop,
    Status(String),
    /// "Kill me if you do not hear this again within the time."
    Alive(Duration),
}

/// From keeper to worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ToWorker {
    Start {
        restarts: u32,
        limit: u32,
        reason: StartReason,
    },
    Held(Vec<(Kind, String, usize)>),
    HeldEnd,
    Reload,
    Shutdown,
    Stop,
    Refused {
        name: String,
        why: Refusal,
    },
}

/// A message that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("format version {0}, not {VERSION}")]
    Version(u8),
    #[error("unknown kind {0}")]
    Kind(u8),
    #[error("fields do not fit the message")]
    Fields,
}

/// Whether text is a name: 1 to [`MAX_NAME`] printable ASCII characters, no space.
pub(crate) fn valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic())
}

/// Cuts text to a number of octets at a character boundary.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed::Fields)?;
        self.0 = tail;
        Ok(head)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, tail) = self.0.split_first().ok_or(Malformed::Fields)?;
        self.0 = tail;
        Ok(first)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed::Fields)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// Text of at most 255 octets with a one-octet length.
    fn text(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.u8()?);
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| Malformed::Fields)
    }

    fn name(&mut self) -> Result<String, Malformed> {
        let name = self.text()?;
        if valid_name(&name) {
            Ok(name)
        } else {
            Err(Malformed::Fields)
        }
    }

    fn kind(&mut self) -> Result<Kind, Malformed> {
        match self.u8()? {
            0 => Ok(Kind::Descriptors),
            1 => Ok(Kind::Memory),
            _ => Err(Malformed::Fields),
        }
    }

    /// A number of descriptors that fits one message; a memory is always one.
    fn count(&mut self, kind: Kind) -> Result<usize, Malformed> {
        let count = usize::from(self.u8()?);
        let most = if kind == Kind::Memory { 1 } else { MAX_PER_MESSAGE };
        if (1..=most).contains(&count) {
            Ok(count)
        } else {
            Err(Malformed::Fields)
        }
    }

    fn end<T>(self, value: T) -> Result<T, Malformed> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(Malformed::Fields)
        }
    }
}

fn open(packet: &[u8]) -> Result<(u8, Fields<'_>), Malformed> {
    let mut fields = Fields(packet);
    match fields.u8()? {
        VERSION => Ok((fields.u8()?, fields)),
        other => Err(Malformed::Version(other)),
    }
}

/// Appends text of at most 255 octets; longer text is cut.
fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = cut(text, usize::from(u8::MAX));
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

fn put_held(out: &mut Vec<u8>, kind: Kind, name: &str, count: usize) {
    out.push(u8::from(kind == Kind::Memory));
    put_text(out, name);
    out.push(u8::try_from(count).unwrap_or(u8::MAX));
}

impl ToKeeper {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Store { kind, name, count } => {
                out.push(1);
                put_held(&mut out, *kind, name, *count);
            }
            Self::Remove { name } => {
                out.push(2);
                put_text(&mut out, name);
            }
            Self::Ready => out.push(3),
            Self::Restart => out.push(4),
            Self::Stop => out.push(5),
            Self::Status(text) => {
                out.push(6);
                put_text(&mut out, cut(text, MAX_STATUS));
            }
            Self::Alive(within) => {
                out.push(7);
                let ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
                out.extend_from_slice(&ms.to_be_bytes());
            }
        }
        out
    }

    pub(crate) fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let (kind, mut fields) = open(packet)?;
        let message = match kind {
            1 => {
                let kind = fields.kind()?;
                Self::Store {
                    kind,
                    name: fields.name()?,
                    count: fields.count(kind)?,
                }
            }
            2 => Self::Remove { name: fields.name()? },
            3 => Self::Ready,
            4 => Self::Restart,
            5 => Self::Stop,
            6 => Self::Status(fields.text()?),
            7 => Self::Alive(Duration::from_millis(fields.u32()?.into())),
            other => return Err(Malformed::Kind(other)),
        };
        fields.end(message)
    }
}

impl ToWorker {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        match self {
            Self::Start {
                restarts,
                limit,
                reason,
            } => {
                out.push(1);
                out.extend_from_slice(&restarts.to_be_bytes());
                out.extend_from_slice(&limit.to_be_bytes());
                let (code, text) = match reason {
                    StartReason::First => (0, ""),
                    StartReason::Requested => (1, ""),
                    StartReason::Crashed(how) => (2, how.as_str()),
                };
                out.push(code);
                put_text(&mut out, text);
            }
            Self::Held(batch) => {
                out.push(2);
                for (kind, name, count) in batch {
                    put_held(&mut out, *kind, name, *count);
                }
            }
            Self::HeldEnd => out.push(3),
            Self::Reload => out.push(4),
            Self::Shutdown => out.push(5),
            Self::Stop => out.push(6),
            Self::Refused { name, why } => {
                out.push(7);
                put_text(&mut out, name);
                out.push(match why {
                    Refusal::Full => 0,
                    Refusal::Lost => 1,
                });
            }
        }
        out
    }

    pub(crate) fn decode(packet: &[u8]) -> Result<Self, Malformed> {
        let (kind, mut fields) = open(packet)?;
        let message = match kind {
            1 => {
                let (restarts, limit, code, text) =
                    (fields.u32()?, fields.u32()?, fields.u8()?, fields.text()?);
                let reason = match code {
                    0 => StartReason::First,
                    1 => StartReason::Requested,
                    2 => StartReason::Crashed(text),
                    _ => return Err(Malformed::Fields),
                };
                Self::Start {
                    restarts,
                    limit,
                    reason,
                }
            }
            2 => {
                let mut batch = Vec::new();
                while !fields.0.is_empty() {
                    let kind = fields.kind()?;
                    batch.push((kind, fields.name()?, fields.count(kind)?));
                }
                Self::Held(batch)
            }
            3 => Self::HeldEnd,
            4 => Self::Reload,
            5 => Self::Shutdown,
            6 => Self::Stop,
            7 => {
                let name = fields.name()?;
                let why = match fields.u8()? {
                    0 => Refusal::Full,
                    1 => Refusal::Lost,
                    _ => return Err(Malformed::Fields),
                };
                Self::Refused { name, why }
            }
            other => return Err(Malformed::Kind(other)),
        };
        fields.end(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to_keeper() -> Vec<ToKeeper> {
        vec![
            ToKeeper::Store {
                kind: Kind::Descriptors,
                name: "udp/1".into(),
                count: 253,
            },
            ToKeeper::Store {
                kind: Kind::Memory,
                name: "m".repeat(64),
                count: 1,
            },
            ToKeeper::Remove { name: "udp/1".into() },
            ToKeeper::Ready,
            ToKeeper::Restart,
            ToKeeper::Stop,
            ToKeeper::Status("12 sessions".into()),
            ToKeeper::Alive(Duration::from_millis(1500)),
        ]
    }

    fn to_worker() -> Vec<ToWorker> {
        vec![
            ToWorker::Start {
                restarts: 7,
                limit: 4096,
                reason: StartReason::Crashed("signal 9".into()),
            },
            ToWorker::Start {
                restarts: 0,
                limit: 1,
                reason: StartReason::First,
            },
            ToWorker::Start {
                restarts: 1,
                limit: 1,
                reason: StartReason::Requested,
            },
            ToWorker::Held(vec![
                (Kind::Descriptors, "a".into(), 3),
                (Kind::Memory, "b".into(), 1),
            ]),
            ToWorker::HeldEnd,
            ToWorker::Reload,
            ToWorker::Shutdown,
            ToWorker::Stop,
            ToWorker::Refused {
                name: "a".into(),
                why: Refusal::Full,
            },
            ToWorker::Refused {
                name: "a".into(),
                why: Refusal::Lost,
            },
        ]
    }

    #[test]
    fn messages_survive_the_wire() {
        for message in to_keeper() {
            assert_eq!(ToKeeper::decode(&message.encode()), Ok(message));
        }
        for message in to_worker() {
            assert_eq!(ToWorker::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn a_shortened_or_lengthened_message_is_refused_or_means_something_else() {
        for message in to_keeper() {
            let whole = message.encode();
            for end in 0..whole.len() {
                assert_ne!(ToKeeper::decode(&whole[..end]), Ok(message.clone()));
            }
            let longer = [whole.as_slice(), &[0]].concat();
            assert_eq!(ToKeeper::decode(&longer), Err(Malformed::Fields), "{message:?}");
        }
    }

    #[test]
    fn bad_fields_are_refused() {
        let mut message = ToKeeper::Ready.encode();
        message[0] = 2;
        assert_eq!(ToKeeper::decode(&message), Err(Malformed::Version(2)));
        assert_eq!(ToKeeper::decode(&[VERSION, 99]), Err(Malformed::Kind(99)));
        let name = |name: &str| ToKeeper::decode(&ToKeeper::Remove { name: name.into() }.encode());
        for bad in ["", "two words", "line\nbreak", "é", &"x".repeat(65)] {
            assert_eq!(name(bad), Err(Malformed::Fields), "{bad:?}");
        }
        let count = |kind, count| {
            ToKeeper::decode(
                &ToKeeper::Store {
                    kind,
                    name: "a".into(),
                    count,
                }
                .encode(),
            )
            .is_ok()
        };
        assert!(count(Kind::Descriptors, 253));
        assert!(!count(Kind::Descriptors, 0));
        assert!(!count(Kind::Descriptors, 254));
        assert!(!count(Kind::Memory, 2));
    }

    #[test]
    fn the_largest_batch_fits_a_message() {
        let batch = (0..MAX_PER_MESSAGE)
            .map(|_| (Kind::Descriptors, "n".repeat(MAX_NAME), 1))
            .collect();
        assert!(ToWorker::Held(batch).encode().len() <= MAX_MESSAGE);
    }

    #[test]
    fn text_is_cut_at_a_character() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
