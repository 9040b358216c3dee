//! A Kerberos realm and a gateway, in a namespace and a directory of their own. Nothing of the host's Kerberos is read
//! or written.

use serde_json::Value;
use sluice_tests::rig::{Gateway, Namespace, Running, ready, run, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The gateway that was built with the feature.
const BINARY: &str = "SLUICE_GSSAPI_BIN";
const PASSWORD: &str = "correct horse battery";
/// How long a service's ticket of `brief` lasts.
pub(crate) const BRIEF: Duration = Duration::from_secs(8);

const MANUAL: &str = include_str!("../../../gateway/docs/operations.md");

/// What the manual says about the listener and the realm, with these lines in the listener.
fn manual(keys: &Path, listener: &str) -> String {
    let keytab = "gssapi_keytab = \"/etc/sluice/keys/socks.keytab\"\n";
    let blocks = MANUAL.split("\n```").skip(1).step_by(2);
    let mut blocks = blocks.filter_map(|block| block.strip_prefix("toml\n"));
    let block = blocks
        .find(|block| block.contains(keytab))
        .expect("the manual has it");
    assert!(block.contains("example.org"));
    let own = format!("gssapi_keytab = \"{}/keytab\"\n{listener}\n", keys.display());
    block.replace(keytab, &own).replace("example.org", "sluice.test")
}

const CONFIG: &str = r#"
[gateway]
name = "proxy"
state_dir = "{dir}/state"

[sandbox]
seccomp = "required"

[[listener]]
protocol = "socks"
addresses = ["127.0.0.1:1080"]
MANUAL

[pools.default]
ipv4 = ["10.64.0.0/24"]

[[rule]]
name = "own"
action = "allow"
destinations = ["127.0.0.0/8"]
ports = ["8000", "9000", "9001"]
"#;

/// Names are not looked up, and clocks may differ by two seconds.
const KRB5: &str = "[libdefaults]
default_realm = SLUICE.TEST
dns_lookup_realm = false
dns_lookup_kdc = false
dns_canonicalize_hostname = false
rdns = false
kdc_timesync = 0
clockskew = 2
[realms]
SLUICE.TEST = {
 kdc = 127.0.0.1:8888
}
";

const KDC: &str = "[kdcdefaults]
kdc_listen = 127.0.0.1:8888
kdc_tcp_listen = 127.0.0.1:8888
[realms]
SLUICE.TEST = {
 database_name = {dir}/kdc/principal
 key_stash_file = {dir}/kdc/stash
 acl_file = {dir}/kdc/acl
}
[dbmodules]
db_module_dir = {tools}
[logging]
kdc = FILE:{dir}/kdc/log
";

pub(crate) struct Case {
    pub(crate) gateway: Gateway,
    namespace: Namespace,
    realm: PathBuf,
    _directory: TempDir,
    _running: Vec<Running>,
}

impl Case {
    /// A gateway with the keys of `rcmd/localhost`, with these lines in its listener, and with the accounts alice and
    /// dave; a web server with a file; and tickets for alice, dave, mallory, who has no account, and `brief`.
    pub(crate) fn start(listener: &str) -> Option<Self> {
        if !ready() {
            return None;
        }
        let binary = std::env::var_os(BINARY).map(PathBuf::from);
        let binary = binary.unwrap_or_else(|| {
            panic!("set {BINARY} to a gateway that was built with the feature gssapi, as make test does")
        });
        let namespace = Namespace::new("gssapi");
        // With only loopback addresses of one family, the resolver leaves out the other, literal addresses too.
        namespace.ip("address add 192.0.2.1/32 dev lo");
        let directory = tempfile::tempdir().unwrap();
        let realm = directory.path().to_owned();
        let mut running = vec![make_realm(&namespace, &realm)];
        // Elsewhere than the gateway's own files: its sandbox has to leave that directory readable.
        let keys = realm.join("keys");
        std::fs::create_dir(&keys).unwrap();
        std::fs::rename(realm.join("keytab"), keys.join("keytab")).unwrap();
        std::fs::write(keys.join("krb5.conf"), KRB5).unwrap();
        let environment = [("KRB5_CONFIG", keys.join("krb5.conf"))];
        let config = CONFIG.replace("MANUAL", &manual(&keys, listener));
        let own = tempfile::tempdir().unwrap();
        let gateway = Gateway::start_built(own, &namespace, &config, &binary, &environment);
        for user in ["alice", "dave", "brief"] {
            gateway.add_user(user, PASSWORD);
        }
        gateway.must(&["users", "disable", "dave"]);
        let random = run(Command::new("head")
            .args(["-c", "3000000", "/dev/urandom"])
            .stdout(std::fs::File::create(realm.join("file")).unwrap()));
        random.unwrap();
        let mut web = namespace.command("/usr/bin/python3");
        web.args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"]);
        web.arg(&realm).arg("8000");
        running.push(Running::start(
            web.stdout(Stdio::null()).stderr(Stdio::null()),
            None,
        ));
        namespace.wait_listening(8000);
        Some(Self {
            gateway,
            namespace,
            realm,
            _directory: directory,
            _running: running,
        })
    }

    pub(crate) fn realm(&self) -> &Path {
        &self.realm
    }

    /// A command of a principal's that runs in the namespace, possibly after others.
    pub(crate) fn command_as(&self, user: &str, words: &[&str]) -> Command {
        let mut command = self.namespace.command(words[0]);
        command.args(&words[1..]);
        environment(&mut command, &self.realm, user);
        command
    }

    /// What the client of `client.py` says, as a principal.
    #[track_caller]
    pub(crate) fn client(&self, user: &str, words: &[&str]) -> Value {
        self.client_after(user, &[], words)
    }

    /// The same for a client that is started by another command.
    #[track_caller]
    pub(crate) fn client_after(&self, user: &str, before: &[&str], words: &[&str]) -> Value {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gssapi/client.py");
        let all = [before, &["/usr/bin/python3", script], words].concat();
        let said = run(&mut self.command_as(user, &all));
        let said = said.unwrap_or_else(|error| panic!("{error}\n{}", self.gateway.last_log()));
        let last = said.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {said}"))
    }

    /// A client that goes on, once it is joined.
    pub(crate) fn holding(&self, user: &str, level: &str) -> Running {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gssapi/client.py");
        let words = ["/usr/bin/python3", script, "hold", "--level", level];
        let said = self.realm.join("held");
        let mut command = self.command_as(user, &words);
        command.stdout(std::fs::File::create(&said).unwrap());
        let running = Running::start(&mut command, None);
        wait_for("a joined client", Duration::from_secs(20), || {
            self.held().contains("joined").then_some(())
        });
        running
    }

    /// What the client that goes on has said.
    pub(crate) fn held(&self) -> String {
        std::fs::read_to_string(self.realm.join("held")).unwrap_or_default()
    }

    /// What ended last.
    #[track_caller]
    pub(crate) fn last(&self) -> Value {
        wait_for("no session to be left", Duration::from_secs(10), || {
            self.gateway.sessions().is_empty().then_some(())
        });
        let page = self
            .gateway
            .json(&["sessions", "list", "--history", "--limit", "1"]);
        page["items"][0].clone()
    }
}

/// Where `make test-deps` puts the programs of packages that would start a server.
fn tools() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools");
    path.canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}: run make test-deps", path.display()))
}

fn environment(command: &mut Command, realm: &Path, user: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path).chain([tools(), "/usr/sbin".into()]);
    command
        .env("PATH", std::env::join_paths(path).unwrap())
        .env("KRB5_CONFIG", realm.join("krb5.conf"))
        .env("KRB5_KDC_PROFILE", realm.join("kdc.conf"))
        .env("KRB5CCNAME", realm.join(format!("tickets-{user}")));
}

/// Makes a realm with its KDC, the keys of the service, and tickets.
fn make_realm(namespace: &Namespace, realm: &Path) -> Running {
    let write = |name: &str, text: &str| {
        let text = text.replace("{dir}", &realm.display().to_string());
        let text = text.replace("{tools}", &tools().display().to_string());
        std::fs::write(realm.join(name), text).unwrap();
    };
    std::fs::create_dir(realm.join("kdc")).unwrap();
    write("krb5.conf", KRB5);
    write("kdc.conf", KDC);
    let call = |words: &[&str], input: Option<&str>| {
        let mut command = namespace.command(words[0]);
        command.args(&words[1..]);
        environment(&mut command, realm, words.last().unwrap());
        if let Some(input) = input {
            write("input", input);
            command.stdin(std::fs::File::open(realm.join("input")).unwrap());
        }
        run(&mut command).unwrap_or_else(|error| panic!("{error}"));
    };
    call(
        &["kdb5_util", "create", "-s", "-P", "master", "-r", "SLUICE.TEST"],
        None,
    );
    let keytab = realm.join("keytab").display().to_string();
    let mut words = format!("addprinc -randkey rcmd/localhost\nktadd -k {keytab} rcmd/localhost\n");
    for user in ["alice", "dave", "mallory", "brief"] {
        words.push_str(&format!("addprinc -pw password {user}\n"));
    }
    call(&["kadmin.local"], Some(&words));
    let mut kdc = namespace.command("krb5kdc");
    kdc.args(["-n"]).stdout(Stdio::null()).stderr(Stdio::null());
    environment(&mut kdc, realm, "kdc");
    let kdc = Running::start(&mut kdc, None);
    namespace.wait_listening(8888);
    for user in ["alice", "dave", "mallory"] {
        call(&["kinit", user], Some("password\n"));
        let mut ticket = namespace.command("kvno");
        ticket.arg("rcmd/localhost");
        environment(&mut ticket, realm, user);
        run(&mut ticket).unwrap_or_else(|error| panic!("{error}"));
    }
    kdc
}

impl Case {
    /// A new ticket for `brief`, which lasts [`BRIEF`].
    pub(crate) fn brief_ticket(&self) {
        let lifetime = format!("{}s", BRIEF.as_secs());
        std::fs::write(self.realm.join("input"), "password\n").unwrap();
        let mut command = self.command_as("brief", &["kinit", "-l", &lifetime, "brief"]);
        command.stdin(std::fs::File::open(self.realm.join("input")).unwrap());
        run(&mut command).unwrap();
    }
}
