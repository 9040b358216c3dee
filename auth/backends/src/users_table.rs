//! The users of one users file at one time, and what changed from one to the next.

use crate::user::{User, commonest_cost};
use sluice_auth::{AddressRule, Coverage, Ipv6Prefix, Method, PasswordHash, Secret, Verifiable};
use sluice_spi::config::{self, Problem, Section};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::ops::Bound;
use std::sync::Arc;

/// Salt and hash of a password that nobody has: 32 zero bytes do not come out of Argon2.
const NOBODY: ([u8; 16], [u8; 32]) = ([0; 16], [0; 32]);

/// All users by name.
#[derive(Debug)]
pub struct UserTable {
    users: BTreeMap<String, Arc<User>>,
    nobody: Arc<PasswordHash>,
    verifiable: Verifiable,
}

impl UserTable {
    /// Reads a users file. `file` is its name for messages, `protocols` the names that there are.
    pub(crate) fn read(file: &str, text: &str, protocols: &[&str]) -> Result<Self, Vec<Problem>> {
        let users = config::read(file, text, |root| read_users(root, protocols))?;
        let cost = commonest_cost(users.values().map(Arc::as_ref));
        let nobody = PasswordHash::new(cost, NOBODY.0.to_vec(), Secret::new(NOBODY.1));
        let nobody = nobody.map_err(|error| {
            vec![Problem {
                file: file.to_owned(),
                line: 1,
                column: 1,
                key: String::new(),
                message: error.to_string(),
            }]
        })?;
        Ok(Self {
            verifiable: verifiable(&users),
            users,
            nobody: Arc::new(nobody),
        })
    }

    /// A user by its exact name.
    pub fn get(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// Users in the order of their names, after `after`.
    pub fn list<'a>(&'a self, after: Option<&str>) -> impl Iterator<Item = &'a Arc<User>> + use<'a> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.users
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(_, user)| user)
    }

    /// Number of users.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there is no user at all.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The methods that the users have verifiers for. Those that are locked out do not count.
    pub fn verifiable(&self) -> Verifiable {
        self.verifiable.clone()
    }

    /// What to check the password of a user against that does not exist, so that it takes as long.
    pub(crate) fn nobody(&self) -> &Arc<PasswordHash> {
        &self.nobody
    }

    /// What is different in `next`, in the order of names.
    pub(crate) fn changes_to(&self, next: &UserTable) -> Vec<UserChange> {
        let removed = self
            .users
            .iter()
            .filter(|(name, _)| !next.users.contains_key(*name));
        let mut changes: Vec<UserChange> = removed
            .map(|(name, before)| UserChange {
                name: name.clone(),
                before: Some(Arc::clone(before)),
                after: None,
            })
            .collect();
        for (name, after) in &next.users {
            let before = self.users.get(name);
            if before.is_none_or(|before| before != after) {
                changes.push(UserChange {
                    name: name.clone(),
                    before: before.cloned(),
                    after: Some(Arc::clone(after)),
                });
            }
        }
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        changes
    }
}

fn verifiable(users: &BTreeMap<String, Arc<User>>) -> Verifiable {
    let counted = || users.values().filter(|user| !user.disabled);
    Method::ALL
        .into_iter()
        .fold(Verifiable::default(), |found, method| {
            let can = counted().filter(|user| user.can_prove_by(method)).count();
            let coverage = match can {
                0 => Coverage::None,
                all if all == counted().count() => Coverage::All,
                _ => Coverage::Some,
            };
            found.with(method, coverage)
        })
}

/// One user that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserChange {
    /// Its name.
    pub name: String,
    /// As it was; `None`: it is new.
    pub before: Option<Arc<User>>,
    /// As it is; `None`: it is gone.
    pub after: Option<Arc<User>>,
}

impl UserChange {
    /// Whether the user is gone.
    pub fn deleted(&self) -> bool {
        self.after.is_none()
    }

    /// Whether the user was locked out.
    pub fn disabled(&self) -> bool {
        let locked = |user: &Option<Arc<User>>| user.as_ref().is_some_and(|user| user.disabled);
        locked(&self.after) && !locked(&self.before)
    }

    /// Whether a user that was there has another password now.
    pub fn password_changed(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => before.password != after.password,
            _ => false,
        }
    }

    /// Whether what the user's live sessions rest on is gone, so that they must end: the user, its admission or
    /// its password. Other changes apply to new sessions.
    pub fn ends_sessions(&self) -> bool {
        self.deleted() || self.disabled() || self.password_changed()
    }
}

/// Who has which fixed addresses.
#[derive(Default)]
struct Taken {
    ipv4: HashMap<Ipv4Addr, String>,
    ipv6: HashMap<Ipv6Prefix, String>,
}

impl Taken {
    /// Reports an address that another user has: both could not be served at once.
    fn note(&mut self, user: &User, section: &Section<'_>) {
        if let AddressRule::Static(address) = user.profile.ipv4
            && let Some(other) = self.ipv4.insert(address, user.name().to_owned())
        {
            section.report("ipv4", format!("{address} is the address of {other:?} already"));
        }
        if let AddressRule::Static(prefix) = user.profile.ipv6
            && let Some(other) = self.ipv6.insert(prefix, user.name().to_owned())
        {
            section.report("ipv6", format!("{prefix} is the prefix of {other:?} already"));
        }
    }
}

fn read_users(root: &Section<'_>, protocols: &[&str]) -> BTreeMap<String, Arc<User>> {
    let mut users = BTreeMap::new();
    let mut taken = Taken::default();
    for section in root.sections("user") {
        let Some(user) = User::read(&section, protocols) else {
            continue;
        };
        taken.note(&user, &section);
        let name = user.name().to_owned();
        if users.insert(name.clone(), Arc::new(user)).is_some() {
            section.report("name", format!("there is another user {name:?} in this file"));
        }
    }
    users
}
