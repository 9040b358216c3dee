//! What operators see of a control connection and its calls.

use super::{Call, CallState, Control, Kind, State};
use sluice_spi::wire::display_text;
use sluice_spi::{Fact, MachineKey, TunnelInfo};

impl Control {
    pub(super) fn info(&self) -> TunnelInfo {
        let state = match self.state {
            State::Idle => "idle",
            State::Established => "established",
            State::Closing => "closing",
            State::WaitStopReply => "wait-stop-reply",
            State::Gone => "stopped",
        };
        let mut facts = vec![
            Fact::new("state", state),
            Fact::new("calls", self.calls.len().to_string()),
            Fact::new("packets_from_others", self.wrong_peers.to_string()),
            Fact::new("framing_capabilities", mask(self.remote.framing, "async", "sync")),
            Fact::new(
                "bearer_capabilities",
                mask(self.remote.bearer, "analog", "digital"),
            ),
            Fact::new("maximum_channels", self.remote.channels.to_string()),
            Fact::new("firmware_revision", format!("{:#06x}", self.remote.firmware)),
        ];
        if !self.remote.vendor.is_empty() {
            facts.push(Fact::new("vendor_name", display_text(&self.remote.vendor)));
        }
        TunnelInfo {
            key: MachineKey(self.key.into()),
            peer: self.peer,
            peer_name: display_text(&self.remote.host),
            initiated: false,
            facts,
        }
    }

    pub(super) fn call_facts(&self, call: &Call) -> Vec<Fact> {
        let (direction, role) = match call.kind {
            Kind::Outgoing => ("outgoing", "pac"),
            Kind::Incoming => ("incoming", "pns"),
        };
        let state = match call.state {
            CallState::Admission => "admission",
            CallState::WaitConnect => "wait-connect",
            CallState::Established => "established",
        };
        let mut facts = vec![
            Fact::new("local_call_id", call.id.to_string()),
            Fact::new("remote_call_id", call.peer_id.to_string()),
            Fact::new("call_direction", direction),
            Fact::new("call_state", state),
            Fact::new("call_role", role),
            Fact::new("call_serial_number", call.serial.to_string()),
            Fact::new("connect_speed", call.speed.to_string()),
            Fact::new("framing_type", mask(call.framing, "async", "sync")),
            Fact::new("send_window", call.window.to_string()),
            Fact::new("receive_window", self.config().window.to_string()),
        ];
        for (name, text) in [("calling_number", &call.calling), ("called_number", &call.called)] {
            if let Some(text) = text {
                facts.push(Fact::new(name, text.clone()));
            }
        }
        if let Some((errors, _)) = &call.errors {
            facts.push(Fact::new("line_checksum_errors", errors.crc.to_string()));
            facts.push(Fact::new("line_framing_errors", errors.framing.to_string()));
        }
        if let Some(ppp) = &call.ppp {
            facts.extend(ppp.facts());
        }
        facts
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
