//! Files through programs that send others' connections through a proxy.

use crate::case::{Case, PASSWORD, PROXY, PYTHON, tool};
use sluice_tests::rig::{Lab, Running};
use std::process::Stdio;

#[test]
fn curl_under_proxychains_gets_files_by_address_and_by_name() {
    let Some(case) = Case::start() else { return };
    let _web = case.web();
    let config = case.write(
        "proxychains.conf",
        &format!(
            "strict_chain\nproxy_dns\nremote_dns_subnet 224\nquiet_mode\n[ProxyList]\n\
             socks5 {PROXY} 1080 bob {PASSWORD}\n"
        ),
    );
    for host in [Lab::WORLD, "web.test"] {
        let mut client = case.clients.command("proxychains4");
        client
            .arg("-f")
            .arg(&config)
            .args(["curl", "-s", "-f", "--max-time", "20"]);
        let got = case.run(client.arg(format!("http://{host}:8000/file")));
        assert!(got == case.file(), "{host}: {} octets", got.len());
    }
    case.all_ended_well(Some("bob"), 2);
}

#[test]
fn redsocks_takes_connections_that_know_of_no_proxy() {
    let Some(case) = Case::start() else { return };
    let _web = case.web();
    let config = format!(
        "base {{ log_debug = off; log_info = off; log = stderr; daemon = off; redirector = iptables; }}\n\
         redsocks {{ local_ip = 127.0.0.1; local_port = 12345; ip = {PROXY}; port = 1080; type = socks5;\n\
         login = \"bob\"; password = \"{PASSWORD}\"; }}\n"
    );
    let config = case.write("redsocks.conf", &config);
    let mut command = case.clients.command(tool("redsocks"));
    let _redsocks = Running::start(command.arg("-c").arg(config).stderr(Stdio::null()), None);
    case.clients.wait_listening(12345);
    // The gateway forwards nothing: by this route alone nobody gets there.
    case.clients.ip(&format!("route add {} via {PROXY}", Lab::WORLD));
    case.clients.nft(
        "table ip nat { chain output { type nat hook output priority -100; ip daddr 198.51.100.2 tcp dport 8000 \
         redirect to :12345; }; }",
    );
    let mut client = case.clients.command("curl");
    client.args(["-s", "-f", "--noproxy", "*", "--max-time", "20"]);
    let got = case.run(client.arg(format!("http://{}:8000/file", Lab::WORLD)));
    assert!(got == case.file(), "{} octets", got.len());
    case.all_ended_well(Some("bob"), 1);
}

/// A server of files that connects to its clients for each transfer.
const FTP_SERVER: &str = r#"
import sys
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
authorizer = DummyAuthorizer()
authorizer.add_anonymous(sys.argv[1], perm='elrw')
FTPHandler.authorizer = authorizer
FTPServer(('198.51.100.2', 21), FTPHandler).serve_forever()
"#;

/// Lists, gets and puts over connections that the server makes.
const FTP_COMMANDS: &str =
    "open 198.51.100.2\nuser anonymous me\nbinary\nls . list\nget file got\nput got copy\nquit\n";

#[test]
fn active_ftp_under_socksify_takes_connections_by_bind() {
    let Some(case) = Case::start() else { return };
    let mut command = case.lab.world.command(PYTHON);
    command.args(["-c", FTP_SERVER]).arg(case.world());
    let _server = Running::start(command.stderr(Stdio::null()), None);
    case.lab.world.wait_listening(21);
    let commands = case.write("commands", FTP_COMMANDS);
    let mut client = case.socksify();
    client
        .args(["timeout", "60", "inetutils-ftp", "-A", "-i", "-n", "-v"])
        .current_dir(case.gateway.directory())
        .stdin(std::fs::File::open(commands).unwrap());
    let output = client.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let copy = std::fs::read(case.world().join("copy"))
        .unwrap_or_else(|error| panic!("{error}\n{said}{}", String::from_utf8_lossy(&output.stderr)));
    assert!(copy == case.file(), "{} octets\n{said}", copy.len());
    let list = std::fs::read_to_string(case.gateway.directory().join("list")).unwrap();
    assert!(list.contains("file"), "{list}\n{said}");
    // The connection of commands, a list, a file there and one back.
    case.all_ended_well(Some("bob"), 4);
}
