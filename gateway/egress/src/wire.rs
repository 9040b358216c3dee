//! Handshakes over a connection.

use crate::upstream::{Fault, Handshake, Progress, Refusal};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// How much of an answer is looked at at once: more than the common ones have.
const LOOK: usize = 1024;

/// Runs a handshake to its end. What follows it stays unread, so that the connection is whatever it is for alone.
pub(crate) async fn run(
    stream: &TcpStream,
    machine: &mut dyn Handshake,
) -> Result<Option<SocketAddr>, Refusal> {
    const CLOSED: Refusal = Refusal::Fault(Fault::Closed);
    let mut out = Vec::new();
    let mut input = [0; LOOK];
    loop {
        out.clear();
        machine.transmit(&mut out);
        write_all(stream, &out).await.map_err(|_| CLOSED)?;
        let seen = stream.peek(&mut input).await.map_err(|_| CLOSED)?;
        if seen == 0 {
            return Err(CLOSED);
        }
        let (used, progress) = machine.receive(input.get(..seen).unwrap_or_default())?;
        take(stream, &mut input, used).await.map_err(|_| CLOSED)?;
        if let Progress::Reached(bound) = progress {
            return Ok(bound);
        }
    }
}

/// Reads what was looked at.
pub(crate) async fn take(stream: &TcpStream, buffer: &mut [u8], mut count: usize) -> io::Result<()> {
    while count > 0 {
        let Some(part) = buffer.get_mut(..count) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        match stream.try_read(part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => count = count.saturating_sub(read),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.readable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of it.
pub(crate) async fn write_all(stream: &TcpStream, mut octets: &[u8]) -> io::Result<()> {
    while !octets.is_empty() {
        match stream.try_write(octets) {
            Ok(written) => octets = octets.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
