//! Wire vectors from text files.
//!
//! A file has lines `name: hex bytes`; white space between the digits is free, and a line that starts with white
//! space goes on with the bytes of the line before. `#` starts a comment that reaches to the end of its line;
//! comments before a vector say where it comes from (an RFC section, a capture of a product) and are kept with
//! it.

/// One named vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vector {
    /// Its name, unique in its file.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Where it comes from: the comment before it.
    pub source: String,
}

/// Reads the text of a file; an error names the line.
pub fn parse(text: &str) -> Result<Vec<Vector>, String> {
    let mut vectors: Vec<Vector> = Vec::new();
    let mut source: Vec<&str> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |what: &str| format!("line {}: {what}", index + 1);
        let (content, comment) = match line.split_once('#') {
            Some((content, comment)) => (content, Some(comment.trim())),
            None => (line, None),
        };
        if content.trim().is_empty() {
            source.extend(comment);
            continue;
        }
        let digits = if content.starts_with(char::is_whitespace) {
            content
        } else {
            let (name, digits) = content.split_once(':').ok_or_else(|| wrong("no name"))?;
            if vectors.iter().any(|vector| vector.name == name.trim()) {
                return Err(wrong("the name was used before"));
            }
            source.extend(comment);
            vectors.push(Vector {
                name: name.trim().to_owned(),
                bytes: Vec::new(),
                source: source.join(" "),
            });
            source.clear();
            digits
        };
        let vector = vectors.last_mut().ok_or_else(|| wrong("nothing to go on with"))?;
        vector
            .bytes
            .extend(hex(digits).ok_or_else(|| wrong("not pairs of hexadecimal digits"))?);
    }
    Ok(vectors)
}

/// Reads a file that is part of the repository, given by `include_str!`. Panics where it is not well formed or
/// a vector does not say where it comes from.
pub fn load(text: &str) -> Vec<Vector> {
    let vectors = parse(text).expect("vectors");
    for vector in &vectors {
        assert!(!vector.source.is_empty(), "vector {} has no source", vector.name);
    }
    vectors
}

/// The bytes of one vector by its name; panics where there is none.
pub fn find<'a>(vectors: &'a [Vector], name: &str) -> &'a [u8] {
    let found = vectors.iter().find(|vector| vector.name == name);
    &found
        .unwrap_or_else(|| panic!("no vector is called {name}"))
        .bytes
}

/// Reads hexadecimal digits with white space anywhere between pairs.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !c.is_whitespace())
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()?;
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    Some(
        digits
            .chunks(2)
            .map(|pair| (pair[0] * 16 + pair[1]) as u8)
            .collect(),
    )
}

/// Writes bytes as hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_comments_and_continuations() {
        let text =
            "# RFC 2661, 5.8\nzlb: c802 000c 0001 0000\n  0000 0001\n\n# a capture\nhello: c8 02 # inline\n";
        let vectors = load(text);
        assert_eq!(find(&vectors, "zlb"), hex("c802000c0001000000000001").unwrap());
        assert_eq!(vectors[0].source, "RFC 2661, 5.8");
        assert_eq!(vectors[1].source, "a capture inline");
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            parse("a: 0\n").unwrap_err(),
            "line 1: not pairs of hexadecimal digits"
        );
        assert_eq!(parse("\nwhat\n").unwrap_err(), "line 2: no name");
        assert_eq!(parse("  00\n").unwrap_err(), "line 1: nothing to go on with");
        assert_eq!(
            parse("a: 00\na: 00\n").unwrap_err(),
            "line 2: the name was used before"
        );
    }

    #[test]
    fn hex_is_read_as_written() {
        assert_eq!(hex(&to_hex(&[0, 1, 0xfe, 0xff])), Some(vec![0, 1, 0xfe, 0xff]));
        assert_eq!(hex("0g"), None);
    }
}
