//! The walk over configuration options (RFC 1661, 6).

use super::Malformed;

/// One configuration option as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawOption<'a> {
    /// Type of the option.
    pub kind: u8,
    /// Its data, without type and length.
    pub data: &'a [u8],
    /// The whole option, for copying into a Configure-Reject.
    pub whole: &'a [u8],
}

/// Walks over options. Each step takes two octets at least; a length below two or beyond the end gives one
/// [`Malformed`] and ends the walk.
#[derive(Clone, Copy, Debug)]
pub struct OptionWalk<'a> {
    rest: &'a [u8],
}

impl<'a> OptionWalk<'a> {
    /// Starts at the first option.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Whether all of it can be read.
    pub fn is_sound(self) -> bool {
        self.into_iter().all(|option| option.is_ok())
    }

    fn step(&mut self) -> Result<RawOption<'a>, Malformed> {
        let (&kind, &length) = match self.rest {
            [kind, length, ..] => (kind, length),
            _ => return Err(Malformed),
        };
        let (whole, rest) = self.rest.split_at_checked(usize::from(length)).ok_or(Malformed)?;
        let data = whole.get(2..).ok_or(Malformed)?;
        self.rest = rest;
        Ok(RawOption { kind, data, whole })
    }
}

impl<'a> Iterator for OptionWalk<'a> {
    type Item = Result<RawOption<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.rest = &[];
        }
        Some(step)
    }
}

/// Appends an option. Data of more than 253 octets cannot be an option and is cut.
pub fn put_option(out: &mut Vec<u8>, kind: u8, data: &[u8]) {
    let data = data.get(..253).unwrap_or(data);
    let length = u8::try_from(data.len() + 2).unwrap_or(u8::MAX);
    out.extend_from_slice(&[kind, length]);
    out.extend_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_below_two_end_the_walk() {
        for length in [0, 1] {
            let body = [1, 4, 5, 220, 2, length, 7, 2];
            let walked: Vec<_> = OptionWalk::new(&body).collect();
            assert_eq!(walked.len(), 2);
            assert_eq!(walked[0].unwrap().data, [5, 220]);
            assert_eq!(walked[1], Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn a_walk_ends_and_covers_what_it_read(body in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut covered = 0;
            let mut steps = 0;
            for option in OptionWalk::new(&body) {
                steps += 1;
                if let Ok(option) = option {
                    prop_assert_eq!(option.whole.len(), option.data.len() + 2);
                    covered += option.whole.len();
                }
            }
            prop_assert!(steps <= body.len() / 2 + 1);
            prop_assert_eq!(OptionWalk::new(&body).is_sound(), covered == body.len());
        }
    }
}
