//! Users.

use super::{Result, blocking};
use crate::admin::Plane;
use crate::admin::call::{Call, escape, json, located, noted};
use crate::admin::problem::{Detail, Problem};
use crate::admin::views;
use axum::http::StatusCode;
use serde::{Deserialize, Deserializer, Serialize};
use sluice_auth::{AddressRule, Identity, MAX_NAME, Profile, Secret, parse_timestamp};
use sluice_auth_backends::{LocalUsers, User, UserChange, UserTable, UsersError};
use sluice_core::Address;
use sluice_spi::TerminateCause;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
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

/// The addresses that users have for themselves: what [`sluice_core::Engine::set_static_addresses`] is to be told
/// whenever users change.
pub fn static_addresses(users: &UserTable) -> Vec<Address> {
    let mut addresses = Vec::new();
    for user in users.list(None) {
        if let AddressRule::Static(address) = user.profile.ipv4 {
            addresses.push(Address::V4(address));
        }
        if let AddressRule::Static(prefix) = user.profile.ipv6 {
            addresses.push(Address::V6(prefix));
        }
    }
    addresses
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
    /// The protocols it may use; null: all.
    protocols: Option<Vec<String>>,
    /// The groups that it is in, for rules.
    groups: Vec<String>,
}

impl From<&User> for UserView {
    fn from(user: &User) -> Self {
        let profile = &user.profile;
        Self {
            name: user.name().to_owned(),
            enabled: !user.disabled,
            expires: user.expires.map(views::time),
            protocols: user.protocols.clone(),
            groups: profile.groups.clone(),
            ipv4: profile.ipv4.to_string(),
            ipv6: profile.ipv6.to_string(),
            dns: profile.dns.iter().map(ToString::to_string).collect(),
            mtu: profile.mtu,
            max_sessions: profile.max_sessions,
            session_timeout: profile.session_timeout.map(|timeout| timeout.as_secs()),
            idle_timeout: profile.idle_timeout.map(|timeout| timeout.as_secs()),
        }
    }
}

pub(crate) async fn list(call: Call) -> Result {
    let params = call.params();
    let (limit, cursor) = (params.limit(), params.text("cursor"));
    params.finish()?;
    let table = call.plane.users().table();
    let mut users = table.list(cursor.as_deref());
    let page: Vec<_> = users.by_ref().take(limit).collect();
    let more = users.next().is_some();
    let next = page.last().filter(|_| more).map(|user| user.name().to_owned());
    let views: Vec<UserView> = page.iter().map(|user| UserView::from(&***user)).collect();
    call.page(&views, next)
}

fn find(call: &Call, name: &str) -> std::result::Result<Arc<User>, Problem> {
    let found = call.plane.users().file().get(name);
    found.ok_or_else(|| UsersError::Unknown(name.to_owned()).into())
}

pub(crate) async fn show(call: Call) -> Result {
    let user = find(&call, call.param("name"))?;
    json(StatusCode::OK, &UserView::from(&*user))
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
    /// The protocols it may use; null: all.
    protocols: Option<Vec<String>>,
    /// The groups that it is in, for rules.
    #[serde(default)]
    groups: Vec<String>,
}

fn yes() -> bool {
    true
}

pub(super) fn rule<T: std::str::FromStr>(
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

/// When a user expires.
pub(super) fn expiry(text: &str) -> std::result::Result<SystemTime, Problem> {
    let wrong = || Problem::member("expires", "must be a day or a time, such as 2027-01-31");
    parse_timestamp(text).ok_or_else(wrong)
}

/// The addresses of a user's resolvers.
pub(super) fn resolvers(texts: &[String]) -> std::result::Result<Vec<IpAddr>, Problem> {
    let read = |text: &String| {
        let wrong = |_| Problem::member("dns", format!("must be IP addresses, not {text:?}"));
        text.parse().map_err(wrong)
    };
    texts.iter().map(read).collect()
}

/// All of a new user but its name and password.
type Complete = Box<dyn FnOnce(&mut User) + Send>;

impl Create {
    fn read(self) -> std::result::Result<(Identity, Secret, Complete), Problem> {
        let wrong = || {
            Problem::member(
                "name",
                format!("must be 1 to {MAX_NAME} bytes without control characters"),
            )
        };
        let name = Identity::parse(self.name.as_bytes()).ok_or_else(wrong)?;
        let expires = self.expires.as_deref().map(expiry).transpose()?;
        let profile = Profile {
            ipv4: rule("ipv4", self.ipv4.as_deref())?,
            ipv6: rule("ipv6", self.ipv6.as_deref())?,
            dns: resolvers(&self.dns)?,
            mtu: self.mtu,
            max_sessions: self.max_sessions,
            session_timeout: self.session_timeout.map(Duration::from_secs),
            idle_timeout: self.idle_timeout.map(Duration::from_secs),
            groups: self.groups,
            ..Profile::new(name.clone())
        };
        let (disabled, protocols) = (!self.enabled, self.protocols);
        let complete = move |user: &mut User| {
            user.profile = profile;
            user.disabled = disabled;
            user.expires = expires;
            user.protocols = protocols;
        };
        Ok((name, self.password.0, Box::new(complete)))
    }
}

/// A problem with a new user that only the whole file shows, such as an address that another user has: told about
/// the member of the request where it is that user's.
fn of_new_user(mut problem: Problem, call: &Call) -> Problem {
    let place = format!("user[{}].", call.plane.users().table().len());
    for error in &mut problem.errors {
        let member = error
            .detail
            .strip_prefix(&place)
            .and_then(|rest| rest.split_once(": "));
        if let Some((member, text)) = member {
            *error = Detail {
                pointer: format!("#/{member}"),
                detail: text.to_owned(),
            };
        }
    }
    match problem.errors.is_empty() {
        true => problem,
        false => Problem::invalid(problem.errors),
    }
}

pub(crate) async fn create(call: Call) -> Result {
    let (name, password, complete) = call.json::<Create>()?.read()?;
    let known = name.clone();
    let changed = change(&call, name.as_str(), move |users| {
        // Hashing waits for the pool, and writing for the disk: neither is for the threads that serve others.
        Handle::current().block_on(users.create_user(known, password, complete))
    });
    let changed = changed.await.map_err(|problem| of_new_user(problem, &call))?;
    let answer = json(StatusCode::CREATED, &changed.user)?;
    Ok(located(
        answer,
        &format!("/v1/users/{}", escape(&changed.user.name)),
    ))
}

/// An answer about a change that ends sessions.
pub(super) fn ending(answer: &impl Serialize, sessions: usize) -> Result {
    Ok(noted(
        json(StatusCode::OK, answer)?,
        format!("ended sessions: {sessions}"),
    ))
}

/// A user after a change.
#[derive(Serialize, ToSchema)]
#[schema(as = ChangedUser)]
pub(crate) struct Changed {
    user: UserView,
    /// Its sessions that are being ended.
    pub(super) ended_sessions: usize,
}

/// Does what a change of users means for the engine: keeps their fixed addresses free for them, and ends the
/// sessions of those that may not have them any more. Gives the number of sessions of one of them; others can be
/// among them where the file was edited by hand meanwhile.
pub(crate) fn take_effect(plane: &Plane, changes: &[UserChange], counted: &str) -> usize {
    let addresses = static_addresses(&plane.users().table());
    plane.engine().set_static_addresses(&addresses);
    if !changes.is_empty() {
        plane.control().users_changed();
    }
    let mut ended = 0;
    for change in changes.iter().filter(|change| change.ends_sessions()) {
        let sessions = plane.engine().end_user(&change.name, TerminateCause::AdminReset);
        if change.name == counted {
            ended += sessions;
        }
    }
    ended
}

/// Changes the users file, ends the sessions that this ends, and gives the user as it is now.
pub(super) async fn change<E: Into<Problem> + Send + 'static>(
    call: &Call,
    name: &str,
    edit: impl FnOnce(&LocalUsers) -> std::result::Result<Vec<UserChange>, E> + Send + 'static,
) -> std::result::Result<Changed, Problem> {
    let users = call.plane.users().clone();
    let changes = blocking(move || edit(&users)).await?.map_err(Into::into)?;
    Ok(Changed {
        ended_sessions: take_effect(&call.plane, &changes, name),
        user: UserView::from(&*find(call, name)?),
    })
}

async fn set_disabled(call: Call, disabled: bool) -> Result {
    let name = call.param("name").to_owned();
    let known = name.clone();
    let edit = move |users: &LocalUsers| users.update_user(&known, |user| user.disabled = disabled);
    let changed = change(&call, &name, edit).await?;
    ending(&changed, changed.ended_sessions)
}

pub(crate) async fn disable(call: Call) -> Result {
    set_disabled(call, true).await
}

pub(crate) async fn enable(call: Call) -> Result {
    set_disabled(call, false).await
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangePassword)]
pub(crate) struct Password {
    password: NewPassword,
}

pub(crate) async fn password(call: Call) -> Result {
    let Password { password } = call.json()?;
    let name = call.param("name").to_owned();
    let known = name.clone();
    let edit = move |users: &LocalUsers| Handle::current().block_on(users.set_password(&known, password.0));
    let changed = change(&call, &name, edit).await?;
    ending(&changed, changed.ended_sessions)
}

/// A user that was deleted.
#[derive(Serialize, ToSchema)]
#[schema(as = DeletedUser)]
pub(crate) struct Deleted {
    /// Its sessions that are being ended.
    ended_sessions: usize,
}

pub(crate) async fn delete(call: Call) -> Result {
    let name = call.param("name").to_owned();
    let (users, known) = (call.plane.users().clone(), name.clone());
    let changes = blocking(move || users.delete_user(&known)).await??;
    let ended_sessions = take_effect(&call.plane, &changes, &name);
    ending(&Deleted { ended_sessions }, ended_sessions)
}
