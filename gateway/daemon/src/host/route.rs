//! Links, addresses and routes by rtnetlink.

use super::netlink::Netlink;
use super::{Address, Link, Route};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};
use netlink_sys::protocols::NETLINK_ROUTE;
use sluice_auth::IpPrefix;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The origin our routes carry (`ip route` shows `proto 83`), so that they are told from everybody else's. The
/// number is free in the kernel's and iproute2's lists.
pub(super) const OUR_PROTOCOL: u8 = 83;

/// An rtnetlink socket.
pub(super) struct Rtnetlink(Netlink);

impl Rtnetlink {
    pub(super) fn open() -> io::Result<Self> {
        Netlink::open(NETLINK_ROUTE).map(Self)
    }

    /// All network interfaces.
    pub(super) fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.0.dump(Message::GetLink(LinkMessage::default()))?;
        Ok(answers.into_iter().filter_map(link).collect())
    }

    /// All addresses of this host.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let answers = self.0.dump(Message::GetAddress(AddressMessage::default()))?;
        Ok(answers.into_iter().filter_map(address).collect())
    }

    /// The routes of the main table, both families.
    pub(super) fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            match self.0.dump(Message::GetRoute(request)) {
                Ok(answers) => routes.extend(answers.into_iter().filter_map(route)),
                // A kernel without this family has no routes of it.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(routes)
    }

    pub(super) fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.0.order(Message::SetLink(message), 0)
    }

    pub(super) fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.0.order(Message::SetLink(message), 0)
    }

    pub(super) fn add_address(&mut self, index: u32, address: IpAddr, length: u8) -> io::Result<()> {
        let message = address_message(index, address, length);
        self.0
            .order(Message::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(super) fn remove_address(&mut self, index: u32, address: IpAddr, length: u8) -> io::Result<()> {
        self.0
            .order(Message::DelAddress(address_message(index, address, length)), 0)
    }

    pub(super) fn add_route(&mut self, index: u32, prefix: IpPrefix) -> io::Result<()> {
        self.0.order(
            Message::NewRoute(route_message(index, prefix)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    pub(super) fn remove_route(&mut self, index: u32, prefix: IpPrefix) -> io::Result<()> {
        self.0.order(Message::DelRoute(route_message(index, prefix)), 0)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn address_message(index: u32, address: IpAddr, length: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = length;
    message.header.index = index;
    // Nobody else is on this link, so there is no duplicate to look for and the address works at once.
    message.header.flags = AddressHeaderFlags::Nodad;
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    message.header.scope = if link_local {
        AddressScope::Link
    } else {
        AddressScope::Universe
    };
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
    ];
    message
}

fn route_message(index: u32, prefix: IpPrefix) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(prefix.address());
    message.header.destination_prefix_length = prefix.length();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(OUR_PROTOCOL);
    // IPv4 directly on a link; for IPv6 the kernel knows one scope only.
    message.header.scope = if prefix.address().is_ipv4() {
        RouteScope::Link
    } else {
        RouteScope::Universe
    };
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(prefix.address().into()),
        RouteAttribute::Oif(index),
    ];
    message
}

fn link(message: Message) -> Option<Link> {
    let Message::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            _ => {}
        }
    }
    Some(link)
}

fn address(message: Message) -> Option<Address> {
    let Message::NewAddress(message) = message else {
        return None;
    };
    // On a link between two hosts `Address` is the other end's; `Local` is ours where there is one.
    let own = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some(Address {
        link: message.header.index,
        address: own.or(any)?,
        length: message.header.prefix_len,
    })
}

fn route(message: Message) -> Option<Route> {
    let Message::NewRoute(message) = message else {
        return None;
    };
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    if table.unwrap_or(u32::from(header.table)) != u32::from(RouteHeader::RT_TABLE_MAIN)
        || matches!(
            header.kind,
            RouteType::Broadcast | RouteType::Multicast | RouteType::Local
        )
    {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut link = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::MultiPath(hops) => link = hops.first().map(|hop| hop.interface_index),
            _ => {}
        }
    }
    Some(Route {
        prefix: IpPrefix::new(destination, header.destination_prefix_length)?,
        link,
        protocol: u8::from(header.protocol),
    })
}
