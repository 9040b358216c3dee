//! A name server for tests: it says what it is told to, over UDP and TCP, and notes what it was asked.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;

/// What is answered to one question.
#[derive(Clone)]
pub(crate) enum Says {
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// That the name is another's, with that one's addresses.
    Alias(&'static str, Vec<IpAddr>),
    /// Addresses, by TCP only.
    ByTcp(Vec<IpAddr>),
    NoData,
    NotFound,
    ServerFailure,
    Silence,
    Garbage,
}

/// The server. Names it was not told of do not exist.
pub(crate) struct Script {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    says: Mutex<HashMap<(String, u16), Says>>,
    asked: Mutex<Vec<String>>,
}

impl Drop for Script {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Script {
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let (address, shared) = (udp.local_addr().unwrap(), Arc::new(Shared::default()));
        let tasks = vec![
            tokio::spawn(serve_udp(udp, shared.clone())),
            tokio::spawn(serve_tcp(tcp, shared.clone())),
        ];
        Self {
            address,
            shared,
            tasks,
        }
    }

    pub(crate) fn v4(&self, name: &str, says: Says) {
        self.shared
            .says
            .lock()
            .unwrap()
            .insert((name.to_owned(), A), says);
    }

    pub(crate) fn v6(&self, name: &str, says: Says) {
        self.shared
            .says
            .lock()
            .unwrap()
            .insert((name.to_owned(), AAAA), says);
    }

    /// What it was asked, such as "A www.example".
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }
}

async fn serve_udp(socket: UdpSocket, shared: Arc<Shared>) {
    let mut query = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut query).await.unwrap();
        if let Some(answer) = shared.answer(&query[..length], false) {
            socket.send_to(&answer, from).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let shared = shared.clone();
        tokio::spawn(async move {
            while let Ok(length) = stream.read_u16().await {
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await.unwrap();
                if let Some(answer) = shared.answer(&query, true) {
                    stream
                        .write_u16(u16::try_from(answer.len()).unwrap())
                        .await
                        .unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
    }
}

impl Shared {
    fn answer(&self, query: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let (name, end) = read_name(query);
        let kind = u16::from_be_bytes([query[end], query[end + 1]]);
        let question = &query[12..end + 4];
        let word = if kind == A { "A" } else { "AAAA" };
        let by = if tcp { " by TCP" } else { "" };
        self.asked.lock().unwrap().push(format!("{word} {name}{by}"));
        let says = self
            .says
            .lock()
            .unwrap()
            .get(&(name, kind))
            .cloned()
            .unwrap_or(Says::NotFound);
        let message = |code: u8, truncated: bool, answers: Vec<Vec<u8>>, authority: Vec<Vec<u8>>| {
            let mut out = query[..2].to_vec();
            out.extend([0x81 | u8::from(truncated) << 1, 0x80 | code, 0, 1, 0]);
            out.push(u8::try_from(answers.len()).unwrap());
            out.extend([0, u8::try_from(authority.len()).unwrap(), 0, 0]);
            out.extend(question);
            out.extend(answers.concat());
            out.extend(authority.concat());
            Some(out)
        };
        let addresses = |name: &[u8], list: &[IpAddr]| -> Vec<Vec<u8>> {
            list.iter().map(|ip| address_record(name, *ip)).collect()
        };
        const ASKED: &[u8] = &[0xc0, 12];
        match says {
            Says::Addresses(list) => message(0, false, addresses(ASKED, &list), Vec::new()),
            Says::ByTcp(_) if !tcp => message(0, true, Vec::new(), Vec::new()),
            Says::ByTcp(list) => message(0, false, addresses(ASKED, &list), Vec::new()),
            Says::Alias(of, list) => {
                let mut records = vec![record(ASKED, CNAME, &labels(of))];
                records.extend(addresses(&labels(of), &list));
                message(0, false, records, Vec::new())
            }
            Says::NoData => message(0, false, Vec::new(), vec![soa()]),
            Says::NotFound => message(3, false, Vec::new(), vec![soa()]),
            Says::ServerFailure => message(2, false, Vec::new(), Vec::new()),
            Says::Garbage => Some(
                [
                    &query[..2],
                    &[0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0],
                    question,
                    &[0xc0; 40],
                ]
                .concat(),
            ),
            Says::Silence => None,
        }
    }
}

/// The name of a query's question, and where it ends.
fn read_name(query: &[u8]) -> (String, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..=at + length].to_vec()).unwrap());
        at += length + 1;
    }
    (labels.join("."), at + 1)
}

fn labels(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label.bytes());
    }
    out.push(0);
    out
}

fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = name.to_vec();
    out.extend(kind.to_be_bytes());
    out.extend([0, 1, 0, 0, 1, 0x2c]);
    out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

fn address_record(name: &[u8], address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => record(name, A, &address.octets()),
        IpAddr::V6(address) => record(name, AAAA, &address.octets()),
    }
}

fn soa() -> Vec<u8> {
    let mut data = [labels("ns.example"), labels("admin.example")].concat();
    for number in [1u32, 3600, 600, 86400, 30] {
        data.extend(number.to_be_bytes());
    }
    record(&labels("example"), SOA, &data)
}
