//! The GSS-API method (RFC 1961), with contexts that tests can read: see `sluice_testkit::gss`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod negotiation;
mod served;

use common::*;
use sluice_socks::wire::gssapi::{self, Kind, Message};
use sluice_testkit::StreamNode;
use sluice_testkit::gss::Context;

sluice_testkit::count_memory!();

/// A keytab, and no other method.
const KEYTAB: &str = "gssapi_keytab = \"/keytab\"\nmethods = [\"gssapi\"]\n";
/// A greeting that offers GSS-API.
const HELLO_GSSAPI: &[u8] = &[5, 1, 1];
/// What refuses.
const ABORT: &[u8] = &gssapi::ABORT;

/// A message.
fn frame(kind: Kind, token: &[u8]) -> Vec<u8> {
    let header = gssapi::header(kind, token.len()).unwrap();
    [&header[..], token].concat()
}

/// A client of a gateway, with its side of the context.
struct Client {
    node: StreamNode,
    context: Context,
    read: usize,
}

impl Client {
    /// One that has said hello to a gateway with `text` beside its keytab.
    fn new(text: &str) -> Self {
        Self::of(node(&format!("{KEYTAB}{text}")))
    }

    fn of(node: StreamNode) -> Self {
        let mut client = Self {
            node,
            context: Context::client(),
            read: 0,
        };
        say(&mut client.node, HELLO_GSSAPI);
        client
    }

    /// One whose context stands.
    fn known(text: &str, token: &[u8]) -> Self {
        let mut client = Self::new(text);
        client.say(Kind::Context, token);
        assert_eq!(client.hears(2), [5, 1]);
        assert_eq!(client.token(Kind::Context), b"welcome");
        client
    }

    /// One that has agreed on a level.
    fn agreed(text: &str, level: u8) -> Self {
        let mut client = Self::known(text, b"bob@REALM");
        client.ask_level(level);
        assert_eq!(client.level(), level);
        client
    }

    /// One that is served.
    fn served(text: &str, level: u8, request: &[u8]) -> Self {
        let mut client = Self::agreed(text, level);
        client.send(level > 1, request);
        assert_eq!(to_hex(&client.receive(level > 1)), GRANTED);
        client
    }

    fn say(&mut self, kind: Kind, token: &[u8]) {
        say(&mut self.node, &frame(kind, token));
    }

    /// Sends a message under protection.
    fn send(&mut self, confidential: bool, message: &[u8]) {
        let token = self.context.token(confidential, message);
        self.say(Kind::Data, &token);
    }

    fn ask_level(&mut self, level: u8) {
        let token = self.context.token(false, &[level]);
        self.say(Kind::Level, &token);
    }

    /// The next octets that it was sent.
    fn hears(&mut self, length: usize) -> Vec<u8> {
        let sent = self.node.sent(CLIENT);
        let heard = sent.get(self.read..self.read + length);
        let heard = heard.unwrap_or_else(|| panic!("no {length} octets:\n{}", self.node.log.text()));
        self.read += length;
        heard.to_vec()
    }

    /// The next message that it was sent.
    fn token(&mut self, kind: Kind) -> Vec<u8> {
        let rest = &self.node.sent(CLIENT)[self.read..];
        match gssapi::message(rest, kind) {
            Ok(Some((Message::Token(token), length))) => {
                let token = token.to_vec();
                self.read += length;
                token
            }
            other => panic!("{other:?}:\n{}", self.node.log.text()),
        }
    }

    fn level(&mut self) -> u8 {
        let token = self.token(Kind::Level);
        match self.context.message(&token) {
            (level, false) if level.len() == 1 => level[0],
            other => panic!("{other:?}"),
        }
    }

    /// The next message under protection.
    fn receive(&mut self, confidential: bool) -> Vec<u8> {
        let token = self.token(Kind::Data);
        let (message, is_confidential) = self.context.message(&token);
        assert_eq!(is_confidential, confidential);
        message
    }

    /// That it was refused and nothing is left, with the code.
    fn is_refused(&mut self) -> &'static str {
        assert_eq!(self.hears(2), ABORT);
        assert_eq!(self.read, self.node.sent(CLIENT).len());
        is_over(&self.node);
        ended(&self.node).code
    }
}

fn to_hex(bytes: &[u8]) -> String {
    sluice_testkit::vectors::to_hex(bytes)
}

/// A whole conversation, with payload right behind the request and in a frame of its own.
fn conversation(level: u8, request: &[u8]) -> Vec<u8> {
    let mut context = Context::client();
    let confidential = level > 1;
    let mut script = HELLO_GSSAPI.to_vec();
    script.extend(frame(Kind::Context, b"more"));
    script.extend(frame(Kind::Context, b"bob@REALM"));
    script.extend(frame(Kind::Level, &context.token(false, &[level])));
    let first = [request, b"GET"].concat();
    script.extend(frame(Kind::Data, &context.token(confidential, &first)));
    script.extend(frame(Kind::Data, &context.token(confidential, b" /")));
    script
}
