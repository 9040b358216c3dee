//! A DNS server with a few names, for gateways that look names up.

use super::net::Namespace;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the server says of a name. It knows of no other names than those it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// It has this address, and none of the other family.
    Address(IpAddr),
    /// The server fails (SERVFAIL).
    Failure,
    /// No answer at all.
    Nothing,
}

/// How often the server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Octets of a message's header (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// Type numbers (RFC 1035, 3.2.2; RFC 3596, 2.1).
const A: u16 = 1;
const AAAA: u16 = 28;

/// A running server; ended when dropped.
pub struct Names {
    over: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Names {
    /// Serves these names in a namespace.
    pub fn serve(namespace: &Namespace, at: SocketAddr, names: &[(&str, Say)]) -> Self {
        let socket = namespace.inside(|| UdpSocket::bind(at).unwrap());
        socket.set_read_timeout(Some(LOOK)).unwrap();
        let names: Vec<(String, Say)> = names
            .iter()
            .map(|(name, say)| ((*name).to_owned(), *say))
            .collect();
        let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (ends, notes) = (over.clone(), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !ends.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if let Some(answer) = answer(&buffer[..length], &names, &notes) {
                    // A client that is gone needs none.
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Self {
            over,
            asked,
            thread: Some(thread),
        }
    }

    /// The names that it was asked for, each as often as it was.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) && !std::thread::panicking() {
            panic!("the DNS server failed");
        }
    }
}

/// The name of the first question, its type, and where the question ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut name, mut at) = (String::new(), HEADER);
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if !name.is_empty() {
            name.push('.');
        }
        let label = query.get(at..at + length)?;
        name.push_str(&String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
    let kind = query.get(at..at + 2)?;
    Some((name, u16::from_be_bytes([kind[0], kind[1]]), at + 4))
}

fn answer(query: &[u8], names: &[(String, Say)], asked: &Mutex<Vec<String>>) -> Option<Vec<u8>> {
    let (name, kind, end) = question(query)?;
    asked.lock().unwrap().push(name.clone());
    let say = names
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, say)| *say);
    let (code, address) = match say {
        Some(Say::Nothing) => return None,
        Some(Say::Failure) => (2, None),
        Some(Say::Address(address)) => {
            let wanted = if address.is_ipv4() { A } else { AAAA };
            (0, Some(address).filter(|_| kind == wanted))
        }
        None => (3, None),
    };
    // An answer that is recursive and not authoritative.
    let mut message = query.get(..2)?.to_vec();
    message.extend_from_slice(&[
        0x81,
        0x80 | code,
        0,
        1,
        0,
        u8::from(address.is_some()),
        0,
        0,
        0,
        0,
    ]);
    message.extend_from_slice(query.get(HEADER..end)?);
    if let Some(address) = address {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        // The name is where the question has it; class IN, a second to live.
        message.extend_from_slice(&[0xc0, HEADER as u8]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 1, 0, octets.len() as u8]);
        message.extend_from_slice(&octets);
    }
    Some(message)
}
