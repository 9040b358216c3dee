//! Calls that the gateway places.

use super::Result;
use crate::admin::call::{Call, escape, json, located};
use crate::admin::control::PlaceCall;
use crate::admin::problem::{Code, Problem};
use axum::http::StatusCode;
use serde::Deserialize;
use sluice_auth::Secret;
use sluice_spi::Originate;
use std::net::SocketAddr;
use utoipa::ToSchema;

/// Longest label, in bytes.
const MAX_LABEL: usize = 64;

/// Longest number or sub-address, in bytes: far above any there is, far below a control message.
const MAX_NUMBER: usize = 128;

/// Line speed asked for where nothing is said: any.
const ANY_SPEED: (u32, u32) = (0, u32::MAX);

/// A call to be placed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PlaceCall)]
pub(crate) struct Place {
    /// The name of this call: what becomes of it is shown under `/v1/calls/{label}`.
    label: String,
    /// The listener to call from.
    listener: String,
    /// The tunnel to use; null: one to `peer`, opened where there is none.
    tunnel: Option<String>,
    /// The peer's address and port, where no tunnel is given.
    peer: Option<String>,
    /// The number to call.
    called: String,
    #[serde(default)]
    sub_address: String,
    /// Slowest acceptable line speed, in bits per second.
    min_speed: Option<u32>,
    /// Fastest acceptable line speed, in bits per second.
    max_speed: Option<u32>,
    /// Name to log in as, where the answering side asks us.
    user: Option<String>,
    /// The password to it.
    password: Option<Password>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CallPassword, value_type = String, format = Password)]
struct Password(String);

impl Place {
    fn read(self) -> std::result::Result<PlaceCall, Problem> {
        let fit = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
        if self.label.is_empty() || !fit(&self.label, MAX_LABEL) {
            let rule = format!("must be 1 to {MAX_LABEL} bytes without control characters");
            return Err(Problem::member("label", rule));
        }
        if !fit(&self.called, MAX_NUMBER) {
            return Err(Problem::member(
                "called",
                format!("may have {MAX_NUMBER} bytes at most"),
            ));
        }
        if !fit(&self.sub_address, MAX_NUMBER) {
            return Err(Problem::member(
                "sub_address",
                format!("may have {MAX_NUMBER} bytes at most"),
            ));
        }
        let speed = (
            self.min_speed.unwrap_or(ANY_SPEED.0),
            self.max_speed.unwrap_or(ANY_SPEED.1),
        );
        if speed.0 > speed.1 {
            return Err(Problem::member("min_speed", "may not be over max_speed"));
        }
        let tunnel = self.tunnel.map(|id| id.parse()).transpose();
        let tunnel = tunnel.map_err(|_| Problem::member("tunnel", "must be the id of a tunnel"))?;
        let peer = self.peer.map(|peer| peer.parse::<SocketAddr>()).transpose();
        let peer = peer.map_err(|_| Problem::member("peer", "must be an address with its port"))?;
        if tunnel.is_none() == peer.is_none() {
            return Err(Problem::member("peer", "give either a tunnel or a peer"));
        }
        let login = match (self.user, self.password) {
            (Some(user), password) => {
                let password = password.map_or_else(Secret::default, |Password(text)| Secret::new(text));
                Some((user, password))
            }
            (None, Some(_)) => return Err(Problem::member("password", "needs a user as well")),
            (None, None) => None,
        };
        Ok(PlaceCall {
            listener: self.listener,
            tunnel,
            peer,
            call: Originate {
                label: self.label,
                called: self.called,
                sub_address: self.sub_address,
                speed,
                login,
            },
        })
    }
}

pub(crate) async fn place(call: Call) -> Result {
    let placing = call.json::<Place>()?.read()?;
    let label = placing.call.label.clone();
    let calls = call.plane.events().calls();
    if !calls.placed(&label) {
        let detail = format!("a call with the label {label:?} was placed already");
        return Err(Problem::new(Code::Conflict, detail));
    }
    if let Err(error) = call.plane.control().place_call(placing).await {
        calls.refused(&label);
        return Err(error.into());
    }
    let answer = json(StatusCode::ACCEPTED, &calls.get(&label))?;
    Ok(located(answer, &format!("/v1/calls/{}", escape(&label))))
}

pub(crate) async fn show(call: Call) -> Result {
    let found = call.plane.events().calls().get(call.param("label"));
    let found = found.ok_or_else(|| Problem::not_found("call with such a label (any more)"))?;
    json(StatusCode::OK, &found)
}
