//! Changes of what a user is given.

use super::Result;
use super::users::{change, ending, expiry, resolvers, rule};
use crate::admin::call::Call;
use crate::admin::problem::Problem;
use serde::{Deserialize, Deserializer};
use sluice_auth_backends::{LocalUsers, User};
use std::time::Duration;
use utoipa::ToSchema;

/// A member that is there, if only with null.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What changes of a user: members that are left out stay as they are, and null takes back what was said (RFC 7396).
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChangeUser)]
pub(crate) struct Change {
    /// A day, after which it may not log in any more, or a time (RFC 3339, UTC).
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    expires: Option<Option<String>>,
    /// `pool`, `pool:NAME`, `none`, or an address.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    ipv4: Option<Option<String>>,
    /// `pool`, `pool:NAME`, `none`, or a prefix.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    ipv6: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    dns: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u16>)]
    mtu: Option<Option<u16>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>)]
    max_sessions: Option<Option<u32>>,
    /// Longest life of a session, in seconds.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    session_timeout: Option<Option<u64>>,
    /// Longest silence of a session, in seconds.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    idle_timeout: Option<Option<u64>>,
    /// The protocols it may use; null: all.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    protocols: Option<Option<Vec<String>>>,
    /// The groups that it is in, for rules.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    groups: Option<Option<Vec<String>>>,
}

type Edit = Box<dyn FnOnce(&mut User) + Send>;

/// What is to be done with a user.
#[derive(Default)]
struct Edits(Vec<Edit>);

impl Edits {
    /// Where a member was given: reads it, and keeps what is to be done with it.
    fn add<T, V: Send + 'static>(
        &mut self,
        member: Option<T>,
        read: impl FnOnce(T) -> std::result::Result<V, Problem>,
        set: impl FnOnce(&mut User, V) + Send + 'static,
    ) -> std::result::Result<(), Problem> {
        if let Some(value) = member.map(read).transpose()? {
            self.0.push(Box::new(move |user| set(user, value)));
        }
        Ok(())
    }
}

impl Change {
    fn read(self) -> std::result::Result<Edits, Problem> {
        let seconds = |timeout: Option<u64>| Ok(timeout.map(Duration::from_secs));
        let mut edits = Edits::default();
        edits.add(
            self.expires,
            |text| text.as_deref().map(expiry).transpose(),
            |user, expires| user.expires = expires,
        )?;
        edits.add(
            self.ipv4,
            |text| rule("ipv4", text.as_deref()),
            |user, ipv4| user.profile.ipv4 = ipv4,
        )?;
        edits.add(
            self.ipv6,
            |text| rule("ipv6", text.as_deref()),
            |user, ipv6| user.profile.ipv6 = ipv6,
        )?;
        edits.add(
            self.dns,
            |texts| resolvers(&texts.unwrap_or_default()),
            |user, dns| user.profile.dns = dns,
        )?;
        edits.add(self.mtu, Ok, |user, mtu| user.profile.mtu = mtu)?;
        edits.add(self.max_sessions, Ok, |user, most| {
            user.profile.max_sessions = most
        })?;
        edits.add(self.session_timeout, seconds, |user, timeout| {
            user.profile.session_timeout = timeout;
        })?;
        edits.add(self.idle_timeout, seconds, |user, timeout| {
            user.profile.idle_timeout = timeout;
        })?;
        edits.add(self.protocols, Ok, |user, protocols| user.protocols = protocols)?;
        edits.add(self.groups, Ok, |user, groups| {
            user.profile.groups = groups.unwrap_or_default();
        })?;
        Ok(edits)
    }
}

pub(crate) async fn patch(call: Call) -> Result {
    let edits = call.json::<Change>()?.read()?;
    let name = call.param("name").to_owned();
    let known = name.clone();
    let edit = move |users: &LocalUsers| {
        users.update_user(&known, |user| edits.0.into_iter().for_each(|edit| edit(user)))
    };
    let changed = change(&call, &name, edit).await?;
    ending(&changed, changed.ended_sessions)
}
