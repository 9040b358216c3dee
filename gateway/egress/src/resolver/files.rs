//! The files that say where and what names are: like `/etc/resolv.conf` and `/etc/hosts`. They are looked at again
//! every few seconds, and read again when they have changed.

use super::{Found, LookupFailure, MAX_ADDRESSES, NameServers, ResolverConfig};
use crate::race::IpFamily;
use sluice_auth::{Host, HostName};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How often the files are looked at, at most: a look costs a system call.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How much of a file is read. Longer ones are lists to block names by, and are for a name server.
const MAX_FILE: u64 = 4 << 20;

/// Most name servers of a file (resolv.conf(5), MAXNS).
const MAX_SERVERS: usize = 3;

const DNS_PORT: u16 = 53;

type HostsMap = HashMap<HostName, Vec<IpAddr>>;

/// The files and what they said.
pub(crate) struct Files {
    resolv_conf: Option<PathBuf>,
    hosts: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    looked: Option<Instant>,
    resolv_stamp: Stamp,
    hosts_stamp: Stamp,
    servers: Arc<[SocketAddr]>,
    /// Counts the changes of the servers.
    generation: u64,
    names: HostsMap,
}

/// Tells whether a file is the one that was read: its number changes where it was replaced by renaming, as those do who
/// write it while others may read.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

impl Files {
    pub(crate) fn new(config: &ResolverConfig) -> Self {
        let (resolv_conf, servers) = match &config.servers {
            NameServers::File(path) => (Some(path.clone()), Vec::new()),
            NameServers::Listed(servers) => (None, servers.clone()),
        };
        Self {
            resolv_conf,
            hosts: config.hosts.clone(),
            state: Mutex::new(State {
                looked: None,
                resolv_stamp: None,
                hosts_stamp: None,
                servers: servers.into(),
                generation: 0,
                names: HashMap::new(),
            }),
        }
    }

    fn look<R>(&self, now: Instant, read: impl FnOnce(&State) -> R) -> R {
        // Nothing panics while it is held; if anything did, what was read before is still whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let due = state
            .looked
            .is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_EVERY);
        if due {
            self.refresh(&mut state);
            state.looked = Some(now);
        }
        read(&state)
    }

    fn refresh(&self, state: &mut State) {
        if let Some(path) = &self.resolv_conf {
            let stamp = stamp(path);
            if state.looked.is_none() || stamp != state.resolv_stamp {
                state.resolv_stamp = stamp;
                state.servers = read_servers(&text(path)).into();
                state.generation += 1;
            }
        }
        if let Some(path) = &self.hosts {
            let stamp = stamp(path);
            if state.looked.is_none() || stamp != state.hosts_stamp {
                state.hosts_stamp = stamp;
                state.names = read_hosts(&text(path));
            }
        }
    }

    /// The name servers, and a number that changes with them.
    pub(crate) fn servers(&self, now: Instant) -> (u64, Arc<[SocketAddr]>) {
        self.look(now, |state| (state.generation, state.servers.clone()))
    }

    /// What the hosts file says of a name. A name in the file has no other addresses than those.
    pub(crate) fn hosts(&self, name: &HostName, family: IpFamily, now: Instant) -> Option<Found> {
        self.hosts.as_ref()?;
        self.look(now, |state| {
            let all = state.names.get(name)?.iter().copied();
            let of_family = all.filter(|ip| ip.is_ipv4() == (family == IpFamily::V4));
            let addresses: Vec<IpAddr> = of_family.take(MAX_ADDRESSES).collect();
            Some(if addresses.is_empty() {
                Err(LookupFailure::NoData)
            } else {
                Ok(addresses.into())
            })
        })
    }
}

/// The text of a file; empty where there is none.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // What could be read counts.
        let _ = file.take(MAX_FILE).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The words of a line before its comment.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(['#', ';'])
        .next()
        .unwrap_or("")
        .split_ascii_whitespace()
}

/// The servers of a text like resolv.conf. Its other directives are of no use here: names are full, and the time of a
/// look-up is the gateway's own affair.
fn read_servers(text: &str) -> Vec<SocketAddr> {
    let server = |line| {
        let mut words = words(line);
        let address: IpAddr = (words.next()? == "nameserver")
            .then(|| words.next())??
            .parse()
            .ok()?;
        Some(SocketAddr::new(address, DNS_PORT))
    };
    let servers: Vec<SocketAddr> = text.lines().filter_map(server).take(MAX_SERVERS).collect();
    if servers.is_empty() {
        return vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT))];
    }
    servers
}

/// The names of a text like hosts: an address and its names in each line.
fn read_hosts(text: &str) -> HostsMap {
    let mut names = HostsMap::new();
    for line in text.lines() {
        let mut words = words(line);
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
            continue;
        };
        for word in words {
            if let Ok(Host::Name(name)) = Host::parse(word.as_bytes()) {
                let addresses = names.entry(name).or_default();
                if !addresses.contains(&address) && addresses.len() < 2 * MAX_ADDRESSES {
                    addresses.push(address);
                }
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        match Host::parse(text.as_bytes()) {
            Ok(Host::Name(name)) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn servers_are_read_from_a_file_of_any_kind() {
        let text = "# comment\n; comment\nsearch lan example\nnameserver 192.0.2.53 # ours\n nameserver\t2001:db8::53\n\
                    nameserver nowhere\nnameservers 192.0.2.9\noptions ndots:5\nnameserver 192.0.2.54\nnameserver 192.0.2.55\n";
        let servers: Vec<String> = read_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:53", "192.0.2.54:53"]);
        assert_eq!(read_servers("search lan\n"), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(read_servers("nameserver"), ["127.0.0.1:53".parse().unwrap()]);
    }

    #[test]
    fn hosts_are_read_by_line_and_name() {
        let names = read_hosts(
            "127.0.0.1 localhost # me\n192.0.2.1 A.Example a\n2001:db8::1 a.example\n192.0.2.1 a.example\nbad b\n\n192.0.2.9",
        );
        let of = |text| names.get(&name(text)).cloned().unwrap_or_default();
        assert_eq!(
            of("a.example"),
            [
                "192.0.2.1".parse::<IpAddr>().unwrap(),
                "2001:db8::1".parse().unwrap()
            ]
        );
        assert_eq!(of("a"), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
        assert!(of("b").is_empty());
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_file_that_was_replaced_counts_however_alike_it_looks() {
        let folder = tempfile::tempdir().unwrap();
        let (resolv, other) = (folder.path().join("resolv.conf"), folder.path().join("new"));
        fs::write(&resolv, "nameserver 192.0.2.53\n").unwrap();
        let files = Files::new(&ResolverConfig {
            servers: NameServers::File(resolv.clone()),
            hosts: None,
            ..ResolverConfig::default()
        });
        let now = Instant::now();
        assert_eq!(*files.servers(now).1, ["192.0.2.53:53".parse().unwrap()]);
        fs::write(&other, "nameserver 192.0.2.54\n").unwrap();
        let written = fs::metadata(&resolv).unwrap().modified().unwrap();
        File::options()
            .write(true)
            .open(&other)
            .unwrap()
            .set_modified(written)
            .unwrap();
        fs::rename(&other, &resolv).unwrap();
        let (_, servers) = files.servers(now + LOOK_EVERY);
        assert_eq!(*servers, ["192.0.2.54:53".parse().unwrap()]);
    }

    #[test]
    fn a_changed_file_counts_after_a_few_seconds() {
        let folder = tempfile::tempdir().unwrap();
        let (hosts, resolv) = (folder.path().join("hosts"), folder.path().join("resolv.conf"));
        fs::write(&hosts, "192.0.2.1 a.example\n").unwrap();
        fs::write(&resolv, "nameserver 192.0.2.53\n").unwrap();
        let files = Files::new(&ResolverConfig {
            servers: NameServers::File(resolv.clone()),
            hosts: Some(hosts.clone()),
            ..ResolverConfig::default()
        });
        let now = Instant::now();
        let v4 = |now| files.hosts(&name("a.example"), IpFamily::V4, now);
        assert_eq!(v4(now), Some(Ok(["192.0.2.1".parse().unwrap()].into())));
        assert_eq!(
            files.hosts(&name("a.example"), IpFamily::V6, now),
            Some(Err(LookupFailure::NoData))
        );
        assert_eq!(files.hosts(&name("b.example"), IpFamily::V4, now), None);
        let (generation, servers) = files.servers(now);
        assert_eq!(*servers, ["192.0.2.53:53".parse().unwrap()]);
        fs::write(&hosts, "192.0.2.22 a.example\n").unwrap();
        fs::write(&resolv, "nameserver 2001:db8::53\n").unwrap();
        let soon = now + Duration::from_secs(1);
        assert_eq!(v4(soon), Some(Ok(["192.0.2.1".parse().unwrap()].into())));
        assert_eq!(files.servers(soon).0, generation);
        let later = now + LOOK_EVERY;
        assert_eq!(v4(later), Some(Ok(["192.0.2.22".parse().unwrap()].into())));
        assert_ne!(files.servers(later).0, generation);
        fs::remove_file(&hosts).unwrap();
        assert_eq!(v4(later + LOOK_EVERY), None);
    }
}
