//! Getting a new password: from a terminal without echo, from standard input, or made up.

use super::Failure;
use super::args::PasswordArgs;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use sluice_auth_backends::generate_password;
use std::io::{BufRead, IsTerminal, Write};

/// Longest line read as a password, in bytes.
const MAX_LINE: u64 = 1024;

/// The password, and whether it was made up and must be shown.
pub(super) fn get(args: &PasswordArgs) -> Result<(String, bool), Failure> {
    if args.generate {
        return Ok((generate()?, true));
    }
    let input = std::io::stdin();
    if args.password_stdin || !input.is_terminal() {
        return Ok((first_line(input.lock())?, false));
    }
    let first = prompt("Password: ")?;
    if prompt("Again: ")? != first {
        return Err(Failure::Usage("the two passwords are not the same".to_owned()));
    }
    Ok((first, false))
}

fn first_line(input: impl BufRead) -> Result<String, Failure> {
    let mut line = String::new();
    input.take(MAX_LINE).read_line(&mut line)?;
    let line = line.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(Failure::Usage(
            "no password was given on standard input".to_owned(),
        ));
    }
    Ok(line.to_owned())
}

fn prompt(text: &str) -> Result<String, Failure> {
    let input = std::io::stdin();
    let modes = tcgetattr(&input).map_err(std::io::Error::from)?;
    let mut silent = modes.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    let mut error = std::io::stderr();
    write!(error, "{text}")?;
    error.flush()?;
    tcsetattr(&input, OptionalActions::Flush, &silent).map_err(std::io::Error::from)?;
    let line = first_line(input.lock());
    let restored = tcsetattr(&input, OptionalActions::Flush, &modes).map_err(std::io::Error::from);
    writeln!(error)?;
    restored?;
    line
}

/// Makes a password up.
fn generate() -> Result<String, Failure> {
    let secret = generate_password().map_err(|error| Failure::Refused(error.to_string()))?;
    Ok(String::from_utf8_lossy(secret.expose()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_password() {
        assert_eq!(first_line(&b"a b \r\nrest"[..]).unwrap(), "a b ");
        assert_eq!(first_line(&b"x"[..]).unwrap(), "x");
        assert!(first_line(&b"\nrest"[..]).is_err());
        assert!(first_line(&b""[..]).is_err());
    }
}
