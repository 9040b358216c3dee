//! Masquerading by an nftables table of our own, spoken directly over nfnetlink.
//!
//! The table `inet sluice` has two chains. `postrouting` is hooked where source addresses are translated and
//! jumps, for what leaves by an interface meant, to `clients`; that has one counted rule for each block. Each rule
//! carries a comment, by which it is recognised after a restart and by which its counter is read.
//!
//! Layouts and numbers are those of linux/netfilter/nf_tables.h and nfnetlink.h; integers are big-endian.

use super::netlink::Netlink;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkSerializable,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use serde::Serialize;
use sluice_auth::IpPrefix;
use std::io;
use std::net::IpAddr;

/// Our table.
pub(super) const TABLE: &str = "sluice";
const HOOKED: &str = "postrouting";
const CLIENTS: &str = "clients";

/// Rules in the table: a batch goes to the kernel in one piece, and each rule takes some 300 of its bytes.
pub(super) const MAX_RULES: usize = 1024;

const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const GETCHAIN: u16 = 4;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;

const FAMILY_UNSPECIFIED: u8 = 0;
const FAMILY_INET: u8 = 1;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
/// The only kind of user data nft(8) shows: a comment.
const USERDATA_COMMENT: u8 = 0;

const HOOK_FORWARD: u32 = 2;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_SOURCE_NAT: u32 = 100;
const POLICY_DROP: u32 = 0;
const POLICY_ACCEPT: u32 = 1;
const REGISTER_VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const IPV4_SOURCE: u32 = 12;
const IPV6_SOURCE: u32 = 8;
const VERDICT_JUMP: i32 = -3;
/// Length of an interface name with its padding, as the kernel compares it.
const INTERFACE_LENGTH: usize = 16;

/// What is masqueraded, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Source blocks.
    pub blocks: Vec<IpPrefix>,
    /// Interfaces packets leave by; empty: all but `tun`.
    pub interfaces: Vec<String>,
    /// The clients' own device.
    pub tun: String,
}

impl Masquerade {
    /// The comments of the rules, in order: what the table is recognised by.
    fn comments(&self) -> Vec<String> {
        let mut comments: Vec<String> = self.exits().map(|(_, name)| name.to_owned()).collect();
        if self.interfaces.is_empty() {
            comments = vec![format!("not {}", self.tun)];
        }
        comments.extend(self.blocks.iter().map(|block| block.to_string()));
        comments
    }

    /// How the name of the interface is compared, and with what.
    fn exits(&self) -> impl Iterator<Item = (u32, &str)> {
        let but = self
            .interfaces
            .is_empty()
            .then_some((NOT_EQUAL, self.tun.as_str()));
        self.interfaces
            .iter()
            .map(|name| (EQUAL, name.as_str()))
            .chain(but)
    }
}

/// What one block's rule has translated: first packets of connections, as the rule sees no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MasqueradeCount {
    /// The block.
    pub block: String,
    /// Connections begun (packets the rule saw).
    pub packets: u64,
    /// The bytes of these packets.
    pub bytes: u64,
}

/// A message of the nftables subsystem: its type, family, and attributes.
struct Message {
    kind: u16,
    family: u8,
    /// Identifies the subsystem in the messages around a batch.
    resource: u16,
    attributes: Vec<u8>,
}

impl Message {
    fn new(kind: u16, family: u8, attributes: Attributes) -> Self {
        Self {
            kind: SUBSYSTEM << 8 | kind,
            family,
            resource: 0,
            attributes: attributes.0,
        }
    }

    fn around(kind: u16) -> Self {
        Self {
            kind,
            family: FAMILY_UNSPECIFIED,
            resource: SUBSYSTEM,
            attributes: Vec::new(),
        }
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        4 + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let [high, low] = self.resource.to_be_bytes();
        let header = [self.family, 0, high, low];
        for (to, from) in buffer.iter_mut().zip(header.iter().chain(&self.attributes)) {
            *to = *from;
        }
    }
}

impl NetlinkDeserializable for Message {
    type Error = io::Error;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, io::Error> {
        match payload.split_first_chunk::<4>() {
            Some(([family, _, high, low], attributes)) => Ok(Self {
                kind: header.message_type,
                family: *family,
                resource: u16::from_be_bytes([*high, *low]),
                attributes: attributes.to_vec(),
            }),
            None => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Attributes being written.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn put(mut self, kind: u16, value: &[u8]) -> Self {
        // Values here are names of at most a few hundred octets and nests of a few such.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, text: &str) -> Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }

    fn number(self, kind: u16, number: u32) -> Self {
        self.put(kind, &number.to_be_bytes())
    }

    fn nest(self, kind: u16, inner: Self) -> Self {
        const NESTED: u16 = 0x8000;
        self.put(kind | NESTED, &inner.0)
    }

    /// A constant that a register is compared or combined with.
    fn data(self, kind: u16, value: &[u8]) -> Self {
        self.nest(kind, Self::default().put(1, value))
    }

    fn expression(self, name: &str, data: Self) -> Self {
        let inner = Self::default()
            .text(EXPRESSION_NAME, name)
            .nest(EXPRESSION_DATA, data);
        self.nest(LIST_ELEMENT, inner)
    }

    fn meta(self, key: u32) -> Self {
        self.expression("meta", Self::default().number(2, key).number(1, REGISTER))
    }

    fn compare(self, how: u32, value: &[u8]) -> Self {
        self.expression(
            "cmp",
            Self::default().number(1, REGISTER).number(2, how).data(3, value),
        )
    }

    /// Matches the source address.
    fn source(self, block: IpPrefix) -> Self {
        let (protocol, offset, value) = match block.address() {
            IpAddr::V4(v4) => (FAMILY_IPV4, IPV4_SOURCE, v4.octets().to_vec()),
            IpAddr::V6(v6) => (FAMILY_IPV6, IPV6_SOURCE, v6.octets().to_vec()),
        };
        let length = value.len() as u32;
        let load = Self::default().number(1, REGISTER).number(2, NETWORK_HEADER);
        let mut rule = self.meta(META_NFPROTO).compare(EQUAL, &[protocol]);
        rule = rule.expression("payload", load.number(3, offset).number(4, length));
        if u32::from(block.length()) < length * 8 {
            let mask = mask(usize::from(block.length()), value.len());
            let bits = Self::default()
                .number(1, REGISTER)
                .number(2, REGISTER)
                .number(3, length);
            rule = rule.expression("bitwise", bits.data(4, &mask).data(5, &vec![0; value.len()]));
        }
        rule.compare(EQUAL, &value)
    }

    fn jump(self, chain: &str) -> Self {
        let verdict = Self::default().put(1, &VERDICT_JUMP.to_be_bytes()).text(2, chain);
        let data = Self::default().nest(2, verdict);
        self.expression(
            "immediate",
            Self::default().number(1, REGISTER_VERDICT).nest(2, data),
        )
    }
}

/// `bits` ones and then zeros, in `octets` octets.
fn mask(bits: usize, octets: usize) -> Vec<u8> {
    (0..octets)
        .map(|octet| match bits.saturating_sub(octet * 8) {
            0 => 0,
            left @ 1..=7 => 0xff << (8 - left),
            _ => 0xff,
        })
        .collect()
}

/// An interface's name as a register holds it.
fn interface(name: &str) -> Vec<u8> {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(INTERFACE_LENGTH, 0);
    padded
}

fn rule(chain: &str, comment: &str, expressions: Attributes) -> Message {
    let text = [comment.as_bytes(), &[0]].concat();
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    let comment = [&[USERDATA_COMMENT, length], text.as_slice()].concat();
    let attributes = Attributes::default()
        .text(RULE_TABLE, TABLE)
        .text(RULE_CHAIN, chain)
        .nest(RULE_EXPRESSIONS, expressions)
        .put(RULE_USERDATA, &comment);
    Message::new(NEWRULE, FAMILY_INET, attributes)
}

/// A rule's comment, and its counter in packets and bytes if it has one.
type Rule = (String, Option<(u64, u64)>);

/// An nfnetlink socket.
pub(super) struct Nftables(Netlink);

impl Nftables {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_NETFILTER).map(Self)
    }

    /// Puts the table in place of any there was, in one transaction: no packet sees half of it.
    pub(super) fn install(&mut self, masquerade: &Masquerade) -> io::Result<()> {
        let name = || Attributes::default().text(TABLE_NAME, TABLE);
        let chain = |name: &str| {
            Attributes::default()
                .text(CHAIN_TABLE, TABLE)
                .text(CHAIN_NAME, name)
        };
        let hook = Attributes::default()
            .number(HOOK_NUMBER, HOOK_POSTROUTING)
            .number(HOOK_PRIORITY, PRIORITY_SOURCE_NAT);
        let hooked = chain(HOOKED)
            .nest(CHAIN_HOOK, hook)
            .number(CHAIN_POLICY, POLICY_ACCEPT)
            .text(CHAIN_TYPE, "nat");
        let mut messages = vec![
            // Made first so that it can be deleted in every case.
            Message::new(NEWTABLE, FAMILY_INET, name()),
            Message::new(DELTABLE, FAMILY_INET, name()),
            Message::new(NEWTABLE, FAMILY_INET, name()),
            Message::new(NEWCHAIN, FAMILY_INET, hooked),
            Message::new(NEWCHAIN, FAMILY_INET, chain(CLIENTS)),
        ];
        let comments = masquerade.comments();
        let exits = masquerade.exits().map(|(how, name)| {
            let match_ = Attributes::default()
                .meta(META_OIFNAME)
                .compare(how, &interface(name));
            (HOOKED, match_.jump(CLIENTS))
        });
        let blocks = masquerade.blocks.iter().map(|&block| {
            let counted = Attributes::default()
                .source(block)
                .expression("counter", Attributes::default());
            (CLIENTS, counted.expression("masq", Attributes::default()))
        });
        for ((chain, expressions), comment) in exits.chain(blocks).zip(&comments) {
            messages.push(rule(chain, comment, expressions));
        }
        if comments.len() > MAX_RULES {
            let text = format!(
                "{} rules, where {MAX_RULES} are possible; use fewer blocks",
                comments.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.transact(messages)
    }

    /// Removes the table if it is there.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        let name = || Attributes::default().text(TABLE_NAME, TABLE);
        self.transact(vec![
            Message::new(NEWTABLE, FAMILY_INET, name()),
            Message::new(DELTABLE, FAMILY_INET, name()),
        ])
    }

    fn transact(&mut self, messages: Vec<Message>) -> io::Result<()> {
        // Appended: a rule otherwise goes before those that are there. Errors are reported unasked, and one
        // acknowledgement tells of success; one for each rule would be more than the socket can hold.
        let flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_APPEND;
        let last = messages.len().saturating_sub(1);
        let flags = move |i| if i == last { flags | NLM_F_ACK } else { flags };
        let inner = messages
            .into_iter()
            .enumerate()
            .map(|(i, message)| (message, flags(i)));
        let begin = std::iter::once((Message::around(BATCH_BEGIN), NLM_F_REQUEST));
        let end = std::iter::once((Message::around(BATCH_END), NLM_F_REQUEST));
        self.0.batch(begin.chain(inner).chain(end))
    }

    /// Whether our table is there.
    pub(super) fn present(&mut self) -> io::Result<bool> {
        let name = Attributes::default().text(TABLE_NAME, TABLE);
        Ok(self.0.get(Message::new(GETTABLE, FAMILY_INET, name))?.is_some())
    }

    /// Whether the table there is the one wanted.
    pub(super) fn matches(&mut self, masquerade: &Masquerade) -> io::Result<bool> {
        let rules = self.rules()?;
        Ok(rules
            .into_iter()
            .map(|(comment, _)| comment)
            .eq(masquerade.comments()))
    }

    /// The counters of the blocks' rules.
    pub(super) fn counts(&mut self) -> io::Result<Vec<MasqueradeCount>> {
        let counted = |(block, count): Rule| {
            count.map(|(packets, bytes)| MasqueradeCount {
                block,
                packets,
                bytes,
            })
        };
        Ok(self.rules()?.into_iter().filter_map(counted).collect())
    }

    /// Comments and counters of our rules, those of the hooked chain first.
    fn rules(&mut self) -> io::Result<Vec<Rule>> {
        let mut rules = Vec::new();
        if !self.present()? {
            return Ok(rules);
        }
        for chain in [HOOKED, CLIENTS] {
            let which = Attributes::default()
                .text(RULE_TABLE, TABLE)
                .text(RULE_CHAIN, chain);
            for answer in self.0.dump(Message::new(GETRULE, FAMILY_INET, which))? {
                let of_chain = find(&answer.attributes, RULE_CHAIN).is_some_and(|name| text(name) == chain);
                let of_table = find(&answer.attributes, RULE_TABLE).is_some_and(|name| text(name) == TABLE);
                if of_chain && of_table {
                    rules.push((comment(&answer.attributes), counter(&answer.attributes)));
                }
            }
        }
        Ok(rules)
    }

    /// Names of foreign chains that drop what is forwarded unless a rule of theirs says otherwise.
    pub(super) fn dropping_forward_chains(&mut self) -> io::Result<Vec<String>> {
        let answers = self
            .0
            .dump(Message::new(GETCHAIN, FAMILY_UNSPECIFIED, Attributes::default()))?;
        Ok(answers.iter().filter_map(dropping_forward_chain).collect())
    }
}

fn dropping_forward_chain(chain: &Message) -> Option<String> {
    let family = match chain.family {
        FAMILY_INET => "inet",
        FAMILY_IPV4 => "ip",
        FAMILY_IPV6 => "ip6",
        _ => return None,
    };
    let hook = find(&chain.attributes, CHAIN_HOOK)?;
    let forwards = find(hook, HOOK_NUMBER).and_then(number) == Some(HOOK_FORWARD);
    let drops = find(&chain.attributes, CHAIN_POLICY).and_then(number) == Some(POLICY_DROP);
    let table = text(find(&chain.attributes, CHAIN_TABLE)?);
    let name = text(find(&chain.attributes, CHAIN_NAME)?);
    (forwards && drops).then(|| format!("{family} {table} {name}"))
}

/// The attributes in a run of them, kind and value, up to the first that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// The bits of a kind that are flags.
    const FLAGS: u16 = 0xc000;
    std::iter::from_fn(move || {
        let ([l0, l1, k0, k1], _) = bytes.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((u16::from_ne_bytes([*k0, *k1]) & !FLAGS, value))
    })
}

/// The value of the first attribute of a kind.
fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(other, _)| *other == kind)
        .map(|(_, value)| value)
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|&byte| byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(value.get(..end).unwrap_or(&[])).into_owned()
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn comment(rule: &[u8]) -> String {
    match find(rule, RULE_USERDATA) {
        Some([USERDATA_COMMENT, length, rest @ ..]) => text(rest.get(..usize::from(*length)).unwrap_or(rest)),
        _ => String::new(),
    }
}

/// Packets and bytes of a rule's counter.
fn counter(rule: &[u8]) -> Option<(u64, u64)> {
    for (_, expression) in attributes(find(rule, RULE_EXPRESSIONS)?) {
        if find(expression, EXPRESSION_NAME).is_some_and(|name| text(name) == "counter") {
            let data = find(expression, EXPRESSION_DATA)?;
            let read = |kind| {
                find(data, kind)?
                    .first_chunk()
                    .map(|bytes| u64::from_be_bytes(*bytes))
            };
            return Some((read(COUNTER_PACKETS)?, read(COUNTER_BYTES)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_length_asked_for() {
        assert_eq!(mask(0, 4), [0, 0, 0, 0]);
        assert_eq!(mask(9, 4), [0xff, 0x80, 0, 0]);
        assert_eq!(mask(31, 4), [0xff, 0xff, 0xff, 0xfe]);
        assert_eq!(mask(48, 16)[..7], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]);
    }

    #[test]
    fn answers_cut_short_are_no_harm() {
        let whole = rule(
            CLIENTS,
            "10.0.0.0/8",
            Attributes::default().source("10.0.0.0/8".parse().unwrap()),
        );
        assert_eq!(comment(&whole.attributes), "10.0.0.0/8");
        for end in 0..whole.attributes.len() {
            let cut = whole.attributes.get(..end).unwrap();
            let _ = (comment(cut), counter(cut), find(cut, RULE_CHAIN).map(text));
        }
    }
}
