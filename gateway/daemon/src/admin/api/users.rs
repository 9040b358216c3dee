//! Users.

use super::Result;
use crate::admin::call::{Call, json};
use crate::admin::problem::Problem;
use crate::admin::store::{UserChange, UserEntry};
use crate::admin::views;
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use sluice_auth::{AddressRule, Secret, check_new_password, parse_timestamp};
use sluice_spi::TerminateCause;
use std::time::Duration;
use utoipa::ToSchema;

/// A password on its way in: it can be read, and never be written.
#[derive(ToSchema)]
#[schema(as = NewPassword, value_type = String, format = Password)]
pub(crate) struct NewPassword(Secret);

impl<'de> Deserialize<'de> for NewPassword {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

impl NewPassword {
    fn check(self, member: &str) -> std::result::Result<Secret, Problem> {
        match check_new_password(&self.0) {
            Ok(()) => Ok(self.0),
            Err(weak) => Err(Problem::member(member, weak.to_string())),
        }
    }
}

/// A user.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(crate) struct UserView {
    /// Its name, realm included.
    name: String,
    enabled: bool,
    /// From when it may not log in any more.
    expires: Option<String>,
    /// `pool`, `pool:NAME`, `none`, or an address.
    ipv4: String,
    /// `pool`, `pool:NAME`, `none`, or a prefix.
    ipv6: String,
    dns: Vec<String>,
    mtu: Option<u16>,
    max_sessions: Option<u32>,
    /// Longest life of a session, in seconds.
    session_timeout: Option<u64>,
    /// Longest silence of a session, in seconds.
    idle_timeout: Option<u64>,
}

impl From<&UserEntry> for UserView {
    fn from(user: &UserEntry) -> Self {
        Self {
            name: user.name.clone(),
            enabled: user.enabled,
            expires: user.expires.map(views::time),
            ipv4: user.ipv4.to_string(),
            ipv6: user.ipv6.to_string(),
            dns: user.dns.iter().map(ToString::to_string).collect(),
            mtu: user.mtu,
            max_sessions: user.max_sessions,
            session_timeout: user.session_timeout.map(|timeout| timeout.as_secs()),
            idle_timeout: user.idle_timeout.map(|timeout| timeout.as_secs()),
        }
    }
}

pub(crate) async fn list(call: Call) -> Result {
    let params = call.params();
    let (limit, cursor) = (params.limit(), params.text("cursor"));
    params.finish()?;
    let users = call.plane.users().list().await?;
    let after = |user: &&UserEntry| cursor.as_deref().is_none_or(|cursor| user.name.as_str() > cursor);
    let mut wanted = users.iter().filter(after);
    let page: Vec<&UserEntry> = wanted.by_ref().take(limit).collect();
    let more = wanted.next().is_some();
    let next = page.last().filter(|_| more).map(|user| user.name.clone());
    let views: Vec<UserView> = page.into_iter().map(UserView::from).collect();
    call.page(&views, next)
}

pub(crate) async fn show(call: Call) -> Result {
    let user = call.plane.users().get(call.param("name").to_owned()).await?;
    json(StatusCode::OK, &UserView::from(&user))
}

/// A new user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = CreateUser)]
pub(crate) struct Create {
    /// Its name, realm included.
    name: String,
    password: NewPassword,
    #[serde(default = "yes")]
    #[schema(default = true)]
    enabled: bool,
    /// A day, after which it may not log in any more, or a time (RFC 3339, UTC).
    expires: Option<String>,
    /// `pool`, `pool:NAME`, `none`, or an address.
    ipv4: Option<String>,
    /// `pool`, `pool:NAME`, `none`, or a prefix.
    ipv6: Option<String>,
    #[serde(default)]
    dns: Vec<String>,
    mtu: Option<u16>,
    max_sessions: Option<u32>,
    /// Longest life of a session, in seconds.
    session_timeout: Option<u64>,
    /// Longest silence of a session, in seconds.
    idle_timeout: Option<u64>,
}

fn yes() -> bool {
    true
}

fn rule<T: std::str::FromStr>(
    member: &str,
    text: Option<&str>,
) -> std::result::Result<AddressRule<T>, Problem> {
    let Some(text) = text else {
        return Ok(AddressRule::DefaultPool);
    };
    let wrong = || {
        Problem::member(
            member,
            "must be pool, pool:NAME, none, or an address of its family",
        )
    };
    text.parse().map_err(|_| wrong())
}

impl Create {
    fn read(self) -> std::result::Result<(UserEntry, Secret), Problem> {
        let expires = self.expires.map(|text| {
            let wrong = || Problem::member("expires", "must be a day or a time, such as 2027-01-31");
            parse_timestamp(&text).ok_or_else(wrong)
        });
        let dns = self.dns.iter().map(|text| {
            let wrong = |_| Problem::member("dns", format!("must be IP addresses, not {text:?}"));
            text.parse().map_err(wrong)
        });
        let entry = UserEntry {
            enabled: self.enabled,
            expires: expires.transpose()?,
            ipv4: rule("ipv4", self.ipv4.as_deref())?,
            ipv6: rule("ipv6", self.ipv6.as_deref())?,
            dns: dns.collect::<std::result::Result<_, _>>()?,
            mtu: self.mtu,
            max_sessions: self.max_sessions,
            session_timeout: self.session_timeout.map(Duration::from_secs),
            idle_timeout: self.idle_timeout.map(Duration::from_secs),
            ..UserEntry::new(self.name)
        };
        Ok((entry, self.password.check("password")?))
    }
}

pub(crate) async fn create(call: Call) -> Result {
    let (entry, password) = call.json::<Create>()?.read()?;
    call.plane.users().create(entry.clone(), password).await?;
    json(StatusCode::CREATED, &UserView::from(&entry))
}

/// A user after a change.
#[derive(Serialize, ToSchema)]
pub(crate) struct Changed {
    user: UserView,
    /// Its sessions that are being ended.
    ended_sessions: usize,
}

async fn change(call: &Call, change: UserChange, end: bool) -> Result {
    let name = call.param("name").to_owned();
    let user = call.plane.users().change(name.clone(), change).await?;
    let ended_sessions = match end {
        true => call.plane.engine().end_user(&name, TerminateCause::AdminReset),
        false => 0,
    };
    let user = UserView::from(&user);
    json(StatusCode::OK, &Changed { user, ended_sessions })
}

fn enabled(enabled: bool) -> UserChange {
    UserChange {
        enabled: Some(enabled),
        password: None,
    }
}

pub(crate) async fn disable(call: Call) -> Result {
    change(&call, enabled(false), true).await
}

pub(crate) async fn enable(call: Call) -> Result {
    change(&call, enabled(true), false).await
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangePassword)]
pub(crate) struct Password {
    password: NewPassword,
    /// Whether the user's sessions are ended, so that it has to use the new one.
    #[serde(default)]
    end_sessions: bool,
}

pub(crate) async fn password(call: Call) -> Result {
    let Password {
        password,
        end_sessions,
    } = call.json()?;
    let password = Some(password.check("password")?);
    let new = UserChange {
        enabled: None,
        password,
    };
    change(&call, new, end_sessions).await
}

/// A user that was deleted.
#[derive(Serialize, ToSchema)]
pub(crate) struct Deleted {
    /// Its sessions that are being ended.
    ended_sessions: usize,
}

pub(crate) async fn delete(call: Call) -> Result {
    let name = call.param("name").to_owned();
    call.plane.users().delete(name.clone()).await?;
    let ended_sessions = call.plane.engine().end_user(&name, TerminateCause::AdminReset);
    json(StatusCode::OK, &Deleted { ended_sessions })
}
