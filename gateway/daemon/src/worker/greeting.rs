//! What is printed at the first start: what is listening, and what to try next.

use super::Prepared;
use crate::config::{Config, EMBEDDED_NAME};
use sluice_auth::Secret;
use std::fmt::Write as _;
use std::net::SocketAddr;

/// The whole greeting. Secrets are in it only where they were made just now: it goes to standard output, never to
/// the log.
pub(super) fn text(prepared: &Prepared) -> String {
    let config = &prepared.config;
    let mut out = String::new();
    let version = env!("CARGO_PKG_VERSION");
    let what = match config.source == EMBEDDED_NAME {
        true => "its embedded default: everything it listens on is on this machine's loopback".to_owned(),
        false => config.source.clone(),
    };
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<12} {value}");
    };
    for (index, listener) in config.listeners.iter().enumerate() {
        let of_it = prepared
            .listening
            .iter()
            .filter(|one| one.listener == index && one.sockets.is_ok());
        let addresses: Vec<String> = of_it.map(|one| one.address.to_string()).collect();
        line(listener.module.descriptor().title, &addresses.join(", "));
    }
    for pool in &config.engine.pools {
        let blocks: Vec<String> = pool
            .ipv4
            .iter()
            .map(ToString::to_string)
            .chain(pool.ipv6.iter().map(ToString::to_string))
            .collect();
        line(
            "addresses",
            &format!("{} (pool {})", blocks.join(", "), pool.name),
        );
    }
    if let Some(address) = api(prepared) {
        line("REST API", &format!("{}://{address}/v1", scheme(config)));
        if config.metrics.listen.is_none() {
            line("metrics", &format!("{}://{address}/metrics", scheme(config)));
        }
    }
    let metrics = prepared.admin.listeners.metrics.as_ref();
    if let Some(address) = metrics.and_then(|listener| listener.local_addr().ok()) {
        line("metrics", &format!("http://{address}/metrics"));
    }
    line("local socket", &config.admin.socket.display().to_string());
    line("state", &config.gateway.state_dir.display().to_string());
    secrets(prepared, &mut line);
    for (name, off) in off(prepared) {
        line("OFF", &format!("{name}: {off}"));
    }
    let tries = tries(prepared);
    format!("Sluice {version} runs with {what}\n\n{out}\nTry next:\n{tries}\n")
}

fn api(prepared: &Prepared) -> Option<SocketAddr> {
    prepared.admin.listeners.tcp.as_ref()?.local_addr().ok()
}

fn scheme(config: &Config) -> &'static str {
    match config.admin.tls {
        Some(_) => "https",
        None => "http",
    }
}

fn secrets(prepared: &Prepared, line: &mut impl FnMut(&str, &str)) {
    let text = |secret: &Secret| String::from_utf8_lossy(secret.expose()).into_owned();
    if let Some((name, password)) = &prepared.state.first_user {
        line(
            "user",
            &format!("{name}   password {}   (shown only now)", text(password)),
        );
    }
    if let Some(token) = &prepared.state.first_token {
        line("admin token", &format!("{}   (shown only now)", text(token)));
    }
}

fn off(prepared: &Prepared) -> Vec<(&'static str, &str)> {
    let mut off = Vec::new();
    let (device, host) = (&prepared.network.device, &prepared.network.host);
    // Without the device there is nothing to tell the host.
    if let Some(service) = [device, host].into_iter().find(|service| !service.on) {
        off.push((service.name, service.detail.as_str()));
    }
    let failed = prepared
        .listening
        .iter()
        .filter_map(|one| one.sockets.as_ref().err());
    off.extend(failed.map(|reason| ("listener", reason.as_str())));
    off
}

fn tries(prepared: &Prepared) -> String {
    let socket = prepared.config.admin.socket.display();
    let client = match prepared.config.source == EMBEDDED_NAME {
        true => String::new(),
        false => format!(" --socket {socket}"),
    };
    let mut tries = format!("  sluice status{client}\n  sluice sessions watch{client}\n");
    if prepared.state.users.table().list(None).next().is_none() {
        let _ = writeln!(
            tries,
            "  sluice users add NAME{client}        (there is no user yet)"
        );
    }
    if let Some(address) = api(prepared) {
        let scheme = scheme(&prepared.config);
        let tls = prepared.config.admin.tls.as_ref();
        let trust = tls.map_or_else(String::new, |tls| {
            format!(" --cacert {}", tls.certificate.display())
        });
        let _ = writeln!(
            tries,
            "  curl{trust} -H \"Authorization: Bearer $TOKEN\" {scheme}://{address}/v1/sessions"
        );
    }
    tries
}
