//! What operators see of a tunnel and its calls.

use super::{Call, State, Tunnel};
use crate::codec::Sequencing;
use crate::wire::header::ControlHeader;
use crate::wire::message::{Message, number};
use sluice_spi::wire::display_text;
use sluice_spi::{Direction, Event, Fact, MachineKey, TunnelInfo};

impl Tunnel {
    pub(super) fn info(&self) -> TunnelInfo {
        let state = match self.state {
            State::WaitReply => "wait-reply",
            State::Established => "established",
            State::Closing => "closing",
            State::Stopped | State::Gone => "stopped",
        };
        let mut facts = vec![
            Fact::new("state", state),
            Fact::new("local_tunnel_id", self.key.to_string()),
            Fact::new("remote_tunnel_id", self.peer_tunnel.to_string()),
            Fact::new("send_window", self.channel.peer_window().to_string()),
            Fact::new("receive_window", self.config().window.to_string()),
            Fact::new("ns", self.channel.next_ns().to_string()),
            Fact::new("nr", self.channel.nr().to_string()),
            Fact::new("calls", self.calls.len().to_string()),
            Fact::new("packets_from_others", self.wrong_peers.to_string()),
            Fact::new("authenticated", self.secret().is_some().to_string()),
            Fact::new("framing_capabilities", mask(self.remote.framing, "sync", "async")),
        ];
        if let Some(bearer) = self.remote.bearer {
            facts.push(Fact::new(
                "bearer_capabilities",
                mask(bearer, "digital", "analog"),
            ));
        }
        if !self.remote.vendor.is_empty() {
            facts.push(Fact::new("vendor_name", display_text(&self.remote.vendor)));
        }
        if let Some(firmware) = self.remote.firmware {
            facts.push(Fact::new("firmware_revision", format!("{firmware:#06x}")));
        }
        if let Some(time) = self.channel.round_trip() {
            facts.push(Fact::new("round_trip_us", time.as_micros().to_string()));
        }
        TunnelInfo {
            key: MachineKey(self.key.into()),
            peer: self.peer,
            peer_name: display_text(&self.remote.host_name),
            initiated: self.initiated,
            facts,
        }
    }

    pub(super) fn call_facts(&self, call: &Call) -> Vec<Fact> {
        let sequencing = match call.sequencing {
            Sequencing::Off => "off",
            Sequencing::Mirror => "on_request",
            Sequencing::Always => "required",
        };
        let mut facts = vec![
            Fact::new("local_session_id", call.sid.to_string()),
            Fact::new("remote_session_id", call.peer_sid.to_string()),
            Fact::new("call_direction", call.kind.name()),
            Fact::new("call_state", call.state.name()),
            Fact::new("call_role", if call.kind.is_lns() { "lns" } else { "lac" }),
            Fact::new("call_serial_number", call.serial.to_string()),
            Fact::new("data_sequencing", sequencing),
            Fact::new("tx_connect_speed", call.tx_speed.to_string()),
            Fact::new(
                "rx_connect_speed",
                call.rx_speed.unwrap_or(call.tx_speed).to_string(),
            ),
            Fact::new("framing_type", mask(call.framing, "sync", "async")),
        ];
        if let Some(bearer) = call.bearer {
            facts.push(Fact::new("bearer_type", mask(bearer, "digital", "analog")));
        }
        let texts = [
            ("calling_number", &call.calling),
            ("called_number", &call.called),
            ("sub_address", &call.sub_address),
            ("private_group", &call.private_group),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                facts.push(Fact::new(name, text.clone()));
            }
        }
        if let Some(channel) = call.physical_channel {
            facts.push(Fact::new("physical_channel", channel.to_string()));
        }
        if call.errors_at.is_some() {
            facts.push(Fact::new("line_checksum_errors", call.errors.crc.to_string()));
            facts.push(Fact::new("line_framing_errors", call.errors.framing.to_string()));
        }
        if let Some(ppp) = &call.ppp {
            facts.extend(ppp.facts());
        }
        facts
    }

    /// Shows a received message of a call whose trace is on.
    pub(super) fn trace_message(&mut self, header: &ControlHeader, message: &Message) {
        let Some(call) = self.calls.get(&header.session).filter(|call| call.trace) else {
            return;
        };
        let session = call.local;
        let name = number::name(message.number());
        self.event(Event::Traced {
            session,
            direction: Direction::In,
            text: format!("L2TP {name} Ns {} Nr {}", header.ns, header.nr),
        });
    }
}

/// The names of the two bits of a mask.
fn mask(bits: u32, first: &str, second: &str) -> String {
    match bits & 3 {
        1 => first.to_owned(),
        2 => second.to_owned(),
        3 => format!("{first}, {second}"),
        _ => "none".to_owned(),
    }
}
