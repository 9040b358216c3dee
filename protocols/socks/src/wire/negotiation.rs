//! What a SOCKS5 client says before its request: the methods it knows (RFC 1928, 3), and its name and password
//! (RFC 1929).

use super::{LOGIN_VERSION, Parsed};
use sluice_spi::wire::{Reader, Truncated};
use std::fmt;

/// The methods that a client offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting<'a> {
    /// Their numbers: any, in any order, repeated or not, and possibly none.
    pub methods: &'a [u8],
}

impl Greeting<'_> {
    /// Whether a method is among them.
    pub fn offers(&self, method: u8) -> bool {
        self.methods.contains(&method)
    }
}

/// A name and a password: octets, of no character set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Login<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The password.
    pub password: &'a [u8],
}

impl fmt::Debug for Login<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// The sub-negotiation is of a version that nobody has specified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("username/password negotiation of version {0}")]
pub struct NotALogin(pub u8);

/// Reads a greeting; its first octet, the version, was looked at before.
pub fn greeting(bytes: &[u8]) -> Parsed<Greeting<'_>> {
    read_greeting(bytes).ok()
}

fn read_greeting(bytes: &[u8]) -> Result<(Greeting<'_>, usize), Truncated> {
    let mut reader = Reader::new(bytes);
    reader.u8()?;
    let count = reader.u8()?;
    let methods = reader.take(count.into())?;
    Ok((Greeting { methods }, bytes.len() - reader.len()))
}

/// Reads a name and a password. Either may be empty, which RFC 1929 does not have: it says 1 to 255.
pub fn login(bytes: &[u8]) -> Result<Parsed<Login<'_>>, NotALogin> {
    match bytes.first() {
        Some(&version) if version != LOGIN_VERSION => Err(NotALogin(version)),
        _ => Ok(read_login(bytes).ok()),
    }
}

fn read_login(bytes: &[u8]) -> Result<(Login<'_>, usize), Truncated> {
    let mut reader = Reader::new(bytes);
    reader.u8()?;
    let length = reader.u8()?;
    let name = reader.take(length.into())?;
    let length = reader.u8()?;
    let password = reader.take(length.into())?;
    Ok((Login { name, password }, bytes.len() - reader.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_has_as_many_methods_as_it_says() {
        assert_eq!(greeting(&[5, 0]), Some((Greeting { methods: &[] }, 2)));
        assert_eq!(greeting(&[5, 2, 2]), None);
        assert_eq!(greeting(&[5]), None);
        let mut all = vec![5, 255];
        all.extend(0..255u8);
        let (read, length) = greeting(&all).unwrap();
        assert_eq!((read.methods.len(), length), (255, 257));
        assert!(read.offers(254) && !read.offers(255));
        let (read, length) = greeting(&[5, 3, 2, 2, 0x80, 9, 9]).unwrap();
        assert_eq!((read.methods, length), (&[2, 2, 0x80][..], 5));
    }

    #[test]
    fn a_login_is_octets() {
        let (read, length) = login(&[1, 2, 0xff, 0, 3, b'a', b':', 0, 7]).unwrap().unwrap();
        assert_eq!(
            (read.name, read.password, length),
            (&[0xff, 0][..], &b"a:\0"[..], 8)
        );
        let (read, length) = login(&[1, 0, 0]).unwrap().unwrap();
        assert_eq!((read.name, read.password, length), (&b""[..], &b""[..], 3));
        let long = [&[1, 255][..], &[b'u'; 255], &[255], &[b'p'; 255]].concat();
        assert_eq!(login(&long).unwrap().unwrap().1, 513);
        for length in 0..long.len() {
            assert_eq!(login(&long[..length]), Ok(None));
        }
        assert_eq!(login(&[5]), Err(NotALogin(5)));
    }

    #[test]
    fn a_password_is_not_shown() {
        let login = Login {
            name: b"bob",
            password: b"hunter2",
        };
        assert_eq!(format!("{login:?}"), "Login { name: [98, 111, 98], .. }");
    }
}
