//! What is worth showing about a tunnel or session, kept small.

use sluice_spi::Fact;
use std::fmt;
use std::sync::Arc;

/// Ends a name and a value. Both are escaped for display, so that neither holds one.
const END: char = '\n';

/// Names and values worth showing: stable names in `snake_case`, and values already escaped for display. A session has
/// some sixteen of them for all its life, so they are one block of memory, which all snapshots share.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Facts(Arc<str>);

impl Facts {
    /// Puts names and values together, in this order.
    pub fn new<'a>(facts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for (name, value) in facts {
            for part in [name, value] {
                text.extend(
                    part.chars()
                        .map(|letter| if letter == END { ' ' } else { letter }),
                );
                text.push(END);
            }
        }
        Self(text.into())
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator(END);
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }
}

impl From<&[Fact]> for Facts {
    fn from(facts: &[Fact]) -> Self {
        Self::new(facts.iter().map(|fact| (fact.name, fact.value.as_str())))
    }
}

impl fmt::Debug for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Facts;
    use sluice_spi::Fact;

    #[test]
    fn come_back_in_order() {
        let facts = Facts::from(
            &[
                Fact::new("mru", "1400"),
                Fact::new("name", ""),
                Fact::new("a", "b c"),
            ][..],
        );
        let pairs: Vec<_> = facts.iter().collect();
        assert_eq!(pairs, [("mru", "1400"), ("name", ""), ("a", "b c")]);
        assert_eq!(format!("{facts:?}"), r#"{"mru": "1400", "name": "", "a": "b c"}"#);
        assert_eq!(Facts::default().iter().count(), 0);
        assert_eq!(Facts::default(), Facts::new([]));
    }

    #[test]
    fn a_line_end_does_not_make_another_fact() {
        let facts = Facts::new([("name", "a\nb\nc"), ("other", "d")]);
        let pairs: Vec<_> = facts.iter().collect();
        assert_eq!(pairs, [("name", "a b c"), ("other", "d")]);
    }
}
