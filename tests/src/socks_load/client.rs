//! A SOCKS5 client (RFC 1928, RFC 1929) that waits for each answer before it goes on, as clients do.

use super::Login;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const CONNECT: u8 = 1;
const ASSOCIATE: u8 = 3;

/// A client that is logged in.
pub(super) struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects and logs in.
    pub(super) async fn connect(login: &Login) -> io::Result<Self> {
        let mut stream = super::socket()?.connect(login.server).await?;
        stream.set_nodelay(true)?;
        stream.write_all(&[5, 1, 2]).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        must(answer == [5, 2])?;
        let mut words = vec![1];
        for word in [&login.user, &login.password] {
            words.push(u8::try_from(word.len()).map_err(io::Error::other)?);
            words.extend_from_slice(word.as_bytes());
        }
        stream.write_all(&words).await?;
        stream.read_exact(&mut answer).await?;
        must(answer == [1, 0])?;
        Ok(Self { stream })
    }

    /// A connection to a target.
    pub(super) async fn reach(mut self, target: SocketAddr) -> io::Result<TcpStream> {
        self.request(CONNECT, target).await?;
        Ok(self.stream)
    }

    /// A relay of datagrams: where to send them, and the connection that it lives as long as.
    pub(super) async fn associate(mut self) -> io::Result<(SocketAddr, TcpStream)> {
        let anywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
        let relay = self.request(ASSOCIATE, anywhere).await?;
        Ok((relay, self.stream))
    }

    async fn request(&mut self, command: u8, address: SocketAddr) -> io::Result<SocketAddr> {
        let mut words = vec![5, command, 0];
        encode(address, &mut words);
        self.stream.write_all(&words).await?;
        let mut head = [0; 4];
        self.stream.read_exact(&mut head).await?;
        must(head == [5, 0, 0, 1])?;
        let mut address = [0; 6];
        self.stream.read_exact(&mut address).await?;
        let [a, b, c, d, high, low] = address;
        Ok((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into())
    }
}

fn encode(address: SocketAddr, out: &mut Vec<u8>) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(1);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

/// A datagram to a target, with so many bytes of payload.
pub(super) fn datagram(target: SocketAddr, payload: usize) -> Vec<u8> {
    let mut datagram = vec![0, 0, 0];
    encode(target, &mut datagram);
    datagram.resize(datagram.len() + payload, 7);
    datagram
}

fn must(held: bool) -> io::Result<()> {
    held.then_some(()).ok_or(io::ErrorKind::InvalidData.into())
}
