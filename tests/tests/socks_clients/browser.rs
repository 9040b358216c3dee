//! A page in a browser. Chromium is a large package, so that this is a test of its own: `make test-browser`.

use crate::case::{Case, PROXY, TRUSTED};
use sluice_tests::rig::{Lab, wait_for};
use std::process::Stdio;
use std::time::Duration;

/// Browsers have no passwords for SOCKS; names are the proxy's to look up.
const PAGE: &str = "<html><body><p id=word>waiting</p><script>\n\
    fetch('file').then(answer => answer.arrayBuffer()).then(octets => {\n\
    document.getElementById('word').textContent = 'octets: ' + octets.byteLength; });\n\
    </script></body></html>\n";

#[test]
#[ignore = "needs Chromium: make test-browser"]
fn chromium_shows_a_page_and_what_its_script_fetches() {
    let Some(case) = Case::start() else { return };
    let _web = case.web();
    std::fs::write(case.world().join("page.html"), PAGE).unwrap();
    case.clients
        .ip(&format!("route replace 10.99.0.0/24 dev eth0 src {TRUSTED}"));
    // Browsers drop their connections as an address comes or goes, as one of IPv6 does some time after its interface.
    case.clients
        .sh("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1")
        .unwrap();
    // With SOCKS4 it would look names up itself, and here it cannot.
    for (version, host) in [("socks4", Lab::WORLD), ("socks5", "web4.test")] {
        let mut browser = case.clients.command("timeout");
        browser
            .args([
                "60",
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--dump-dom",
            ])
            .args(["--disable-background-networking", "--disable-component-update"])
            .arg("--virtual-time-budget=20000")
            .arg(format!(
                "--user-data-dir={}/{version}",
                case.gateway.directory().display()
            ))
            .arg(format!("--proxy-server={version}://{PROXY}:1080"))
            .arg(format!("http://{host}:8000/page.html"))
            .stderr(Stdio::null());
        let shown = String::from_utf8(case.run(&mut browser)).unwrap();
        let expected = format!("octets: {}", case.file().len());
        assert!(
            shown.contains(&expected),
            "{version}: {shown}\n{:#}",
            case.gateway.json(&["sessions", "list", "--history"])
        );
    }
    wait_for("all sessions to end", Duration::from_secs(20), || {
        case.gateway.sessions().is_empty().then_some(())
    });
    // What it wants of its makers besides is not there.
    let page = case.gateway.json(&["sessions", "list", "--history"]);
    let sessions = page["items"].as_array().unwrap();
    let served = sessions.iter().filter(|session| {
        let received = session["counters"]["tx_bytes"].as_u64();
        received.is_some_and(|octets| octets > case.file().len() as u64)
    });
    assert!(served.count() >= 2, "{page}");
    assert!(!case.gateway.log().contains("ERROR"));
}
