//! What is remembered of names, within bounds.

use super::Found;
use crate::race::IpFamily;
use sluice_auth::HostName;
use std::collections::HashMap;
use tokio::time::Instant;

/// What is known of a name, and until when.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) found: Found,
    pub(crate) until: Instant,
}

/// A map of two generations: when the young one is full, it becomes the old one and what was old is forgotten. What is
/// used while it is old is young again. So the names in use stay, and nothing is ever searched for.
struct Generations {
    young: HashMap<HostName, Kept>,
    old: HashMap<HostName, Kept>,
    /// Most names of one generation.
    half: usize,
}

impl Generations {
    fn new(most: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: most.div_ceil(2),
        }
    }

    fn get(&mut self, name: &HostName, now: Instant) -> Option<Found> {
        if let Some(kept) = self.young.get(name) {
            return (kept.until > now).then(|| kept.found.clone());
        }
        let kept = self.old.remove(name).filter(|kept| kept.until > now)?;
        self.put(name, kept.clone());
        Some(kept.found)
    }

    fn put(&mut self, name: &HostName, kept: Kept) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half && !self.young.contains_key(name) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(name.clone(), kept);
    }

    fn forget(&mut self, name: &HostName) {
        self.young.remove(name);
        self.old.remove(name);
    }
}

/// The cache: addresses and failures, each family for itself.
pub(crate) struct Cache {
    /// By family: addresses, failures.
    families: [(Generations, Generations); 2],
}

impl Cache {
    /// A cache of so many names with addresses and so many without, in each family.
    pub(crate) fn new(positive: usize, negative: usize) -> Self {
        let pair = || (Generations::new(positive), Generations::new(negative));
        Self {
            families: [pair(), pair()],
        }
    }

    fn family(&mut self, family: IpFamily) -> &mut (Generations, Generations) {
        let [v4, v6] = &mut self.families;
        match family {
            IpFamily::V4 => v4,
            IpFamily::V6 => v6,
        }
    }

    /// What is known, if that still holds.
    pub(crate) fn get(&mut self, name: &HostName, family: IpFamily, now: Instant) -> Option<Found> {
        let (positive, negative) = self.family(family);
        positive.get(name, now).or_else(|| negative.get(name, now))
    }

    /// Remembers something in place of what was known.
    pub(crate) fn put(&mut self, name: &HostName, family: IpFamily, kept: Kept) {
        let (positive, negative) = self.family(family);
        let (this, other) = match kept.found {
            Ok(_) => (positive, negative),
            Err(_) => (negative, positive),
        };
        other.forget(name);
        this.put(name, kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::LookupFailure;
    use sluice_auth::Host;
    use std::time::Duration;

    fn name(text: &str) -> HostName {
        match Host::parse(text.as_bytes()) {
            Ok(Host::Name(name)) => name,
            other => panic!("{other:?}"),
        }
    }

    fn kept(found: Found, until: Instant) -> Kept {
        Kept { found, until }
    }

    fn address() -> Found {
        Ok(["192.0.2.1".parse().unwrap()].into())
    }

    #[test]
    fn what_is_known_ends_with_its_time() {
        let (mut cache, now) = (Cache::new(4, 4), Instant::now());
        let until = now + Duration::from_secs(5);
        cache.put(&name("a"), IpFamily::V4, kept(address(), until));
        assert_eq!(cache.get(&name("a"), IpFamily::V4, now), Some(address()));
        assert_eq!(cache.get(&name("a"), IpFamily::V6, now), None);
        assert_eq!(cache.get(&name("a"), IpFamily::V4, until), None);
        cache.put(
            &name("a"),
            IpFamily::V4,
            kept(Err(LookupFailure::NotFound), until + Duration::from_secs(5)),
        );
        assert_eq!(
            cache.get(&name("a"), IpFamily::V4, now),
            Some(Err(LookupFailure::NotFound))
        );
        cache.put(&name("a"), IpFamily::V4, kept(address(), until));
        assert_eq!(cache.get(&name("a"), IpFamily::V4, now), Some(address()));
    }

    #[test]
    fn it_is_bounded_and_names_in_use_stay() {
        let (mut cache, now) = (Cache::new(100, 10), Instant::now());
        let until = now + Duration::from_secs(5);
        cache.put(&name("used"), IpFamily::V4, kept(address(), until));
        for index in 0..10_000 {
            cache.put(&name(&format!("n{index}")), IpFamily::V4, kept(address(), until));
            assert!(cache.get(&name("used"), IpFamily::V4, now).is_some(), "{index}");
            let (positive, _) = &cache.families[0];
            assert!(positive.young.len() + positive.old.len() <= 100);
        }
    }

    #[test]
    fn names_that_do_not_exist_displace_none_that_do() {
        let (mut cache, now) = (Cache::new(4, 4), Instant::now());
        let until = now + Duration::from_secs(5);
        cache.put(&name("real"), IpFamily::V4, kept(address(), until));
        for index in 0..1000 {
            cache.put(
                &name(&format!("n{index}")),
                IpFamily::V4,
                kept(Err(LookupFailure::NotFound), until),
            );
        }
        assert_eq!(cache.get(&name("real"), IpFamily::V4, now), Some(address()));
        let (_, negative) = &cache.families[0];
        assert!(negative.young.len() + negative.old.len() <= 4);
        let mut none = Cache::new(0, 0);
        none.put(&name("a"), IpFamily::V4, kept(address(), until));
        assert_eq!(none.get(&name("a"), IpFamily::V4, now), None);
    }
}
