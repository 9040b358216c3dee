use super::*;
use crate::hash_pool::hash_now;
use sluice_auth::{AddressRule, Argon2Cost, Identity, PasswordHash, Secret, parse_timestamp};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

const A: &str =
    "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$k9ohroejZy1PN5E1SbHNPug6vB8eQAahb5SOAp6iGF4";

fn hash(password: &str) -> PasswordHash {
    hash_now(Argon2Cost::new(8, 1, 1).unwrap(), &Secret::new(password)).unwrap()
}

fn user(name: &str) -> User {
    User::new(Identity::parse(name.as_bytes()).unwrap(), hash("pw"))
}

/// A directory with a users file of this text, opened.
fn opened(text: &str) -> (TempDir, UsersFile) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    fs::write(&path, text).unwrap();
    let users = UsersFile::open(&path, vec!["l2tp", "pptp"]).unwrap();
    (directory, users)
}

fn text_of(users: &UsersFile) -> String {
    fs::read_to_string(users.path()).unwrap()
}

fn names(changes: &[UserChange]) -> Vec<&str> {
    changes.iter().map(|change| change.name.as_str()).collect()
}

fn sample() -> String {
    format!(
        "# Our users.\n# Ask the office first.\n\n# The boss.\n[[user]]\nname = \"alice@corp.example\"\npassword = \"{A}\" # of May\n\n\
         [[user]]\nname = \"bob\"\npassword = '{A}'\nexpires = \"2027-01-31\"\nipv4 = \"192.0.2.7\"\n\
         ipv6 = \"pool:gold\"\ndns = [\"192.0.2.53\", \"2001:db8::53\"]\nmtu = 1400\nmax_sessions = 2\n\
         session_timeout = \"1d\"\nidle_timeout = \"30m\"\nprotocols = [\"l2tp\"] # no other\n\
         groups = [\"staff\", \"Night shift\"]\n"
    )
}

#[test]
fn reads_all_a_user_may_have() {
    let (_directory, users) = opened(&sample());
    assert_eq!(users.table().len(), 2);
    let bob = users.get("bob").unwrap();
    assert_eq!(bob.expires, parse_timestamp("2027-02-01T00:00:00Z"));
    assert_eq!(
        bob.profile.ipv4,
        AddressRule::Static("192.0.2.7".parse().unwrap())
    );
    assert_eq!(bob.profile.ipv6, AddressRule::Pool("gold".into()));
    assert_eq!(bob.profile.dns.len(), 2);
    assert_eq!((bob.profile.mtu, bob.profile.max_sessions), (Some(1400), Some(2)));
    assert_eq!(bob.profile.session_timeout, Some(Duration::from_secs(86400)));
    assert_eq!(bob.profile.idle_timeout, Some(Duration::from_secs(1800)));
    assert_eq!(bob.protocols.as_deref(), Some(&["l2tp".to_owned()][..]));
    assert_eq!(bob.profile.groups, ["staff", "Night shift"]);
    let alice = users.get("alice@corp.example").unwrap();
    assert_eq!(
        *alice,
        User::new(
            Identity::parse(b"alice@corp.example").unwrap(),
            A.parse().unwrap()
        )
    );
    assert!(users.get("alice").is_none());
    assert!(users.get("Bob").is_none());
}

#[test]
fn reports_all_problems_and_never_a_password() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    let text = format!(
        "[[user]]\nname = \"a\"\npassword = \"hunter2\"\n[[user]]\npassword = \"{A}\"\nexpires = \"soon\"\n\
         [[user]]\nname = \"b\"\npassword = \"{}\"\nipv4 = \"pool:\"\n[[user]]\nname = \"c\"\npasword = \"hunter3\"\n\
         [[user]]\nname = \"d\"\npassword = \"{A}\"\nprotocols = [\"x25\"]\nipv4 = \"192.0.2.1\"\n\
         [[user]]\nname = \"d\"\npassword = \"{A}\"\nprotocols = []\nipv4 = \"192.0.2.1\"\n\
         groups = [\"\"]\n",
        A.replace("m=8", "m=4194304")
    );
    fs::write(&path, &text).unwrap();
    let Err(UsersError::Invalid(problems)) = UsersFile::open(&path, vec!["l2tp"]) else {
        panic!("must be refused");
    };
    let found: Vec<(usize, &str)> = problems.iter().map(|p| (p.line, p.key.as_str())).collect();
    assert_eq!(
        found,
        [
            (3, "user[0].password"),
            (4, "user[1].name"),
            (6, "user[1].expires"),
            (9, "user[2].password"),
            (10, "user[2].ipv4"),
            (11, "user[3].password"),
            (13, "user[3].pasword"),
            (17, "user[4].protocols"),
            (20, "user[5].name"),
            (22, "user[5].protocols"),
            (23, "user[5].ipv4"),
            (24, "user[5].groups"),
        ]
    );
    let shown = UsersError::Invalid(problems).to_string();
    assert!(!shown.contains("hunter") && !shown.contains("$k9oh"), "{shown}");
}

#[test]
fn a_bad_file_keeps_the_old_users() {
    let (_directory, users) = opened(&sample());
    assert!(!users.is_stale().unwrap());
    fs::write(users.path(), "[[user]\n").unwrap();
    assert!(users.is_stale().unwrap());
    assert!(matches!(users.reload(), Err(UsersError::Invalid(_))));
    assert!(users.get("bob").is_some());
    // Nor is it written over.
    assert!(matches!(users.delete_user("bob"), Err(UsersError::Invalid(_))));
    assert_eq!(text_of(&users), "[[user]\n");
    fs::remove_file(users.path()).unwrap();
    assert!(matches!(users.reload(), Err(UsersError::Io { .. })));
    assert!(users.get("bob").is_some());
}

#[test]
fn a_reload_says_what_changed() {
    let (_directory, users) = opened(&sample());
    let other = hash("other").to_phc();
    let text = format!(
        "[[user]]\nname = \"bob\"\npassword = \"{other}\"\n[[user]]\nname = \"carol\"\npassword = \"{A}\"\n"
    );
    let held = users.table();
    fs::write(users.path(), text).unwrap();
    let changes = users.reload().unwrap();
    assert_eq!(names(&changes), ["alice@corp.example", "bob", "carol"]);
    assert!(changes[0].deleted() && changes[0].ends_sessions());
    assert!(changes[1].password_changed() && changes[1].ends_sessions() && !changes[1].deleted());
    assert!(changes[2].before.is_none() && !changes[2].ends_sessions());
    assert_eq!(held.len(), 2, "a snapshot does not change");
    assert!(held.get("carol").is_none());
    assert_eq!(users.reload().unwrap(), []);
}

#[test]
fn changes_keep_comments_and_other_users_as_they_are() {
    let (_directory, users) = opened(&sample());
    let changes = users.update_user("alice@corp.example", |alice| {
        alice.disabled = true;
        alice.profile.mtu = Some(1280);
    });
    let changes = changes.unwrap();
    assert!(changes[0].disabled() && changes[0].ends_sessions());
    let expected = sample().replace("# of May\n", "# of May\ndisabled = true\nmtu = 1280\n");
    assert_eq!(text_of(&users), expected);

    let fresh = hash("new");
    users
        .update_user("alice@corp.example", |alice| {
            alice.password = Arc::new(fresh.clone())
        })
        .unwrap();
    assert!(text_of(&users).contains(&format!("password = \"{}\" # of May\n", fresh.to_phc())));

    let changes = users.update_user("bob", |bob| {
        bob.protocols = None;
        bob.profile.ipv4 = AddressRule::DefaultPool;
        bob.expires = parse_timestamp("2028-01-01T00:00:00Z");
    });
    assert!(!changes.unwrap()[0].ends_sessions());
    let text = text_of(&users);
    assert!(
        !text.contains("protocols") && !text.contains("192.0.2.7"),
        "{text}"
    );
    assert!(text.contains("expires = \"2028-01-01T00:00:00Z\"\n"));
    assert!(users.update_user("bob", |_| ()).unwrap().is_empty());
}

#[test]
fn users_come_and_go_and_the_heading_stays() {
    let (_directory, users) = opened(&sample());
    let mut carol = user("carol@isp.example");
    carol.profile.ipv6 = AddressRule::Static("2001:db8:7::/64".parse().unwrap());
    carol.protocols = Some(vec!["pptp".into()]);
    let changes = users.create_user(&carol).unwrap();
    assert_eq!(names(&changes), ["carol@isp.example"]);
    assert_eq!(*users.get("carol@isp.example").unwrap(), carol);
    assert!(matches!(users.create_user(&carol), Err(UsersError::Exists(_))));

    assert!(users.delete_user("alice@corp.example").unwrap()[0].deleted());
    let text = text_of(&users);
    assert!(
        text.starts_with("# Our users.\n# Ask the office first.\n\n[[user]]\nname = \"bob\""),
        "{text}"
    );
    assert!(!text.contains("boss"));
    users.delete_user("bob").unwrap();
    users.delete_user("carol@isp.example").unwrap();
    assert!(users.table().is_empty());
    assert!(matches!(users.delete_user("bob"), Err(UsersError::Unknown(_))));
    users.create_user(&user("dave")).unwrap();
    let text = text_of(&users);
    assert!(
        text.contains("# Our users.") && text.contains("name = \"dave\""),
        "{text}"
    );
}

#[test]
fn what_another_editor_did_is_kept_and_reported_with_the_change() {
    let (_directory, users) = opened(&sample());
    let edited = format!("{}\n[[user]]\nname = \"zoe\"\npassword = \"{A}\"\n", sample());
    fs::write(users.path(), edited).unwrap();
    let changes = users.delete_user("bob").unwrap();
    assert_eq!(names(&changes), ["bob", "zoe"]);
    assert!(text_of(&users).contains("zoe") && users.get("zoe").is_some());
    assert!(!users.is_stale().unwrap());
}

#[test]
fn a_file_changed_between_reading_and_writing_is_left_alone() {
    let (directory, users) = opened(&sample());
    let (_, stamp) = replace::read(users.path(), MAX_USERS_FILE).unwrap();
    fs::write(users.path(), "# mine\n").unwrap();
    assert_eq!(replace::replace(users.path(), "# theirs\n", stamp).unwrap(), None);
    assert_eq!(text_of(&users), "# mine\n");
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "no temporary file is left"
    );
}

#[test]
fn invalid_changes_are_refused_and_nothing_is_written() {
    let (_directory, users) = opened(&sample());
    let refused = users.update_user("alice@corp.example", |alice| {
        alice.profile.ipv4 = AddressRule::Static("192.0.2.7".parse().unwrap());
    });
    assert!(matches!(refused, Err(UsersError::Invalid(_))));
    let refused = users.update_user("bob", |bob| {
        bob.profile.identity = Identity::parse(b"rob").unwrap()
    });
    assert!(matches!(refused, Err(UsersError::Renamed)));
    let mut eve = user("eve");
    eve.protocols = Some(vec!["x25".into()]);
    assert!(matches!(users.create_user(&eve), Err(UsersError::Invalid(_))));
    assert_eq!(text_of(&users), sample());
    assert_eq!(users.table().len(), 2);
}

#[test]
fn written_files_are_for_their_owner_alone_and_links_stay_links() {
    let (directory, users) = opened(&sample());
    fs::set_permissions(users.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(users.is_exposed().unwrap());
    users.delete_user("bob").unwrap();
    assert!(!users.is_exposed().unwrap());

    let link = directory.path().join("link.toml");
    std::os::unix::fs::symlink("users.toml", &link).unwrap();
    let linked = UsersFile::open(&link, vec!["l2tp"]).unwrap();
    linked.create_user(&user("eve")).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(text_of(&users).contains("eve"));
}

#[test]
fn a_new_file_is_made_once_with_a_tight_mode() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    UsersFile::create(&path).unwrap();
    assert!(matches!(UsersFile::create(&path), Err(UsersError::Io { .. })));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let users = UsersFile::open(&path, vec!["l2tp"]).unwrap();
    assert!(users.table().is_empty() && !users.is_exposed().unwrap());
    users.create_user(&user("bob")).unwrap();
    assert!(text_of(&users).contains(HEADING));
    assert!(users.get("bob").is_some());
}

#[test]
fn users_written_in_line_can_be_changed_as_well() {
    let (_directory, users) = opened(&format!("user = [{{ name = \"bob\", password = \"{A}\" }}]\n"));
    users.update_user("bob", |bob| bob.disabled = true).unwrap();
    users.create_user(&user("eve")).unwrap();
    assert!(users.get("bob").unwrap().disabled && users.get("eve").is_some());
}

#[test]
fn names_that_need_quoting_survive() {
    let (_directory, users) = opened("");
    for name in [
        "o'neil \"x\" \\ y",
        "jürgen@köln.example",
        "[[user]]",
        "a = 1 # b",
    ] {
        users.create_user(&user(name)).unwrap();
        assert!(users.get(name).is_some(), "{name}");
    }
    assert_eq!(users.table().len(), 4);
    let all: Vec<String> = users
        .table()
        .list(None)
        .map(|user| user.name().to_owned())
        .collect();
    let rest: Vec<String> = users
        .table()
        .list(Some(&all[1]))
        .map(|user| user.name().to_owned())
        .collect();
    assert_eq!(rest, all[2..]);
}

#[test]
fn disabled_expired_and_not_permitted_are_told_apart() {
    use sluice_auth::RejectReason::{Disabled, Expired, NotPermitted};
    let noon = parse_timestamp("2027-01-31T12:00:00Z").unwrap();
    let mut bob = user("bob");
    assert_eq!(bob.admits("l2tp", noon), Ok(()));
    bob.protocols = Some(vec!["pptp".into()]);
    assert_eq!(bob.admits("l2tp", noon), Err(NotPermitted));
    assert_eq!(bob.admits("pptp", noon), Ok(()));
    bob.expires = parse_timestamp("2027-01-31");
    assert_eq!(bob.admits("pptp", noon), Ok(()));
    assert_eq!(
        bob.admits("pptp", noon + Duration::from_secs(43_200)),
        Err(Expired)
    );
    bob.disabled = true;
    assert_eq!(bob.admits("pptp", noon), Err(Disabled));
}

#[test]
fn an_unknown_user_costs_what_most_users_cost() {
    let (_directory, users) = opened("");
    assert_eq!(users.table().nobody().cost(), Argon2Cost::DEFAULT);
    let (_directory, users) = opened(&sample());
    assert_eq!(users.table().nobody().cost(), Argon2Cost::new(8, 1, 1).unwrap());
}

#[test]
fn a_file_with_twenty_thousand_users_reads_and_changes() {
    let text: String = (0..20_000)
        .map(|n| format!("[[user]]\nname = \"user{n}\"\npassword = \"{A}\"\n"))
        .collect();
    let (_directory, users) = opened(&text);
    assert_eq!(users.delete_user("user77").unwrap().len(), 1);
    assert_eq!(users.table().len(), 19_999);
}

#[test]
fn the_heading_of_a_new_file_stays_above_the_first_user() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    UsersFile::create(&path).unwrap();
    let users = UsersFile::open(&path, vec!["l2tp"]).unwrap();
    users.create_user(&user("alice")).unwrap();
    users.create_user(&user("bob")).unwrap();
    let text = text_of(&users);
    assert!(text.starts_with(HEADING), "{text}");
    assert!(text.trim_end().ends_with('"'), "{text}");
    users.delete_user("alice").unwrap();
    users.delete_user("bob").unwrap();
    assert_eq!(text_of(&users).trim_end(), HEADING.trim_end());
    users.create_user(&user("carl")).unwrap();
    assert!(text_of(&users).starts_with(HEADING));
}

#[test]
fn a_later_process_goes_on_with_the_users_there_were() {
    let kept = Arc::new(Mutex::new(String::new()));
    let keeping = || -> Keep {
        let kept = Arc::clone(&kept);
        Box::new(move |text| text.clone_into(&mut kept.lock().unwrap()))
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users.toml");
    fs::write(&path, sample()).unwrap();
    let users = UsersFile::open_keeping(&path, vec!["l2tp"], keeping()).unwrap();
    assert_eq!(*kept.lock().unwrap(), sample());
    users.create_user(&user("carl")).unwrap();
    drop(users);
    // Somebody is in the middle of an edit when the next process starts.
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}\n[[user]]\nna")).unwrap();
    let text = kept.lock().unwrap().clone();
    let users = UsersFile::resume(&path, vec!["l2tp"], &text, keeping()).unwrap();
    assert!(users.get("carl").is_some() && users.is_stale().unwrap());
    assert!(users.reload().is_err());
    assert!(users.get("carl").is_some() && users.is_stale().unwrap());
    fs::remove_file(&path).unwrap();
    assert!(users.is_stale().is_err() && users.reload().is_err());
    // The edit is done, and what changed since the process before is told.
    fs::write(&path, whole.replace("\"bob\"", "\"rob\"")).unwrap();
    let changes = users.reload().unwrap();
    assert_eq!(names(&changes), ["bob", "rob"]);
    assert!(!users.is_stale().unwrap());
    assert!(kept.lock().unwrap().contains("rob"));
}
