//! The layout of the repository: which crate may know which, how long files may be, what every protocol's folder
//! looks like, what no file may contain.
#![allow(clippy::unwrap_used, clippy::panic)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest source file, in lines: what a reader can hold in mind.
const MAX_LINES: usize = 700;

/// What each crate may depend on within the workspace. Protocol modules are not named here: they may depend on
/// [`MODULE_MAY`], and only the registry may depend on them.
const ARROWS: &[(&str, &[&str])] = &[
    ("sluice-auth", &[]),
    ("sluice-metrics", &[]),
    ("sluice-keeper", &[]),
    ("sluice-spi", &["sluice-auth"]),
    // Backends read their configuration by the reader of the contract's crate.
    ("sluice-auth-backends", &["sluice-auth", "sluice-spi"]),
    ("sluice-testkit", &["sluice-auth", "sluice-spi"]),
    ("sluice-core", &["sluice-auth", "sluice-spi"]),
    ("sluice-dataplane", &["sluice-auth", "sluice-spi"]),
    ("sluice-egress", &["sluice-auth", "sluice-spi"]),
    ("sluice-store", &["sluice-core"]),
    (
        "sluice",
        &[
            "sluice-auth",
            "sluice-auth-backends",
            "sluice-core",
            "sluice-dataplane",
            "sluice-egress",
            "sluice-keeper",
            "sluice-metrics",
            "sluice-registry",
            "sluice-spi",
            "sluice-store",
        ],
    ),
];

/// What a protocol module may depend on within the workspace.
const MODULE_MAY: &[&str] = &["sluice-auth", "sluice-ppp", "sluice-spi"];

/// Crates without sockets, threads, clocks or randomness of their own: nothing of the kind may be found under them.
const SANS_IO: &[&str] = &[
    "sluice-auth",
    "sluice-spi",
    "sluice-ppp",
    "sluice-registry",
    "sluice-core",
];
const NEVER_UNDER_SANS_IO: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "rustix",
    "nix",
    "getrandom",
    "rand",
    "tracing",
];

/// Licences under which a dependency of the gateway may be had.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Files and folders of every protocol module.
const MODULE_FILES: &[&str] = &[
    "SPEC.md",
    "src/checkpoint.rs",
    "src/codec.rs",
    "src/config.rs",
    "src/lib.rs",
    "src/machine",
    "src/module.rs",
    "src/wire",
    "tests",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn output(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn metadata() -> Value {
    let version = output(Command::new("rustc").arg("-vV"));
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let arguments = [
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--filter-platform",
        host,
    ];
    serde_json::from_str(&output(Command::new(env!("CARGO")).args(arguments))).unwrap()
}

/// The files under version control, with their text where they are text.
fn files() -> Vec<(String, String)> {
    let listed =
        output(Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]));
    let names = listed.split('\0').filter(|name| !name.is_empty());
    names
        .filter_map(|name| Some((name.to_owned(), std::fs::read_to_string(root().join(name)).ok()?)))
        .collect()
}

/// The graph of everything that is compiled into the crates of the workspace, tests left out.
struct Graph {
    packages: BTreeMap<String, Value>,
    edges: BTreeMap<String, Vec<String>>,
    members: BTreeMap<String, String>,
}

impl Graph {
    fn read() -> Self {
        let metadata = metadata();
        let packages: BTreeMap<String, Value> = metadata["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|package| (package["id"].as_str().unwrap().to_owned(), package.clone()))
            .collect();
        let members = metadata["workspace_members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| {
                let id = id.as_str().unwrap().to_owned();
                (packages[&id]["name"].as_str().unwrap().to_owned(), id)
            });
        let members = members.collect();
        let edges = metadata["resolve"]["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| {
                let is_normal = |dependency: &&Value| {
                    let mut kinds = dependency["dep_kinds"].as_array().unwrap().iter();
                    kinds.any(|kind| kind["kind"].is_null())
                };
                let to = node["deps"].as_array().unwrap().iter().filter(is_normal);
                let to = to
                    .map(|dependency| dependency["pkg"].as_str().unwrap().to_owned())
                    .collect();
                (node["id"].as_str().unwrap().to_owned(), to)
            });
        let edges = edges.collect();
        Self {
            packages,
            edges,
            members,
        }
    }

    fn name(&self, id: &str) -> &str {
        self.packages[id]["name"].as_str().unwrap()
    }

    /// The workspace crates that a workspace crate depends on.
    fn inside(&self, name: &str) -> BTreeSet<&str> {
        let ids = self.edges[&self.members[name]].iter();
        ids.filter(|id| self.packages[*id]["source"].is_null())
            .map(|id| self.name(id))
            .collect()
    }

    /// Everything under a workspace crate, itself included.
    fn under(&self, name: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut open = vec![self.members[name].as_str()];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(self.edges[id].iter().map(String::as_str));
            }
        }
        seen
    }

    /// The protocol modules: the crates in `protocols/` that are none of the shared ones.
    fn modules(&self) -> Vec<&str> {
        let shared = ["sluice-spi", "sluice-testkit", "sluice-registry", "sluice-ppp"];
        let in_protocols = |id: &str| {
            let manifest = self.packages[id]["manifest_path"].as_str().unwrap();
            Path::new(manifest)
                .strip_prefix(root())
                .is_ok_and(|path| path.starts_with("protocols"))
        };
        let modules = self
            .members
            .iter()
            .filter(|(name, id)| in_protocols(id) && !shared.contains(&name.as_str()));
        modules.map(|(name, _)| name.as_str()).collect()
    }
}

#[test]
fn crates_depend_only_in_the_direction_of_the_arrows() {
    let graph = Graph::read();
    let modules = graph.modules();
    assert!(modules.contains(&"sluice-l2tp"), "{modules:?}");
    for name in graph.members.keys().map(String::as_str) {
        let allowed: BTreeSet<&str> = match name {
            "sluice-tests" => continue,
            "sluice-registry" => modules.iter().copied().chain(["sluice-spi"]).collect(),
            "sluice-ppp" => ["sluice-auth", "sluice-spi"].into(),
            _ if modules.contains(&name) => MODULE_MAY.iter().copied().collect(),
            _ => {
                let arrows = ARROWS.iter().find(|(from, _)| *from == name);
                let (_, to) = arrows.unwrap_or_else(|| panic!("{name} has no line in ARROWS"));
                to.iter().copied().collect()
            }
        };
        let wrong: Vec<_> = graph
            .inside(name)
            .into_iter()
            .filter(|to| !allowed.contains(to))
            .collect();
        assert_eq!(wrong, [""; 0], "{name} may not depend on these");
    }
}

#[test]
fn machines_have_no_way_to_the_outside() {
    let graph = Graph::read();
    for name in SANS_IO.iter().copied().chain(graph.modules()) {
        for id in graph.under(name) {
            let found = graph.name(id);
            assert!(!NEVER_UNDER_SANS_IO.contains(&found), "{name} can reach {found}");
        }
    }
    assert!(
        !graph
            .under("sluice-keeper")
            .iter()
            .any(|id| graph.name(id) == "tokio"),
        "the keeper has no async"
    );
    // Of the data plane only the relays are made of tasks.
    for (name, text) in files() {
        let sources = name.strip_prefix("gateway/dataplane/src/");
        let is_sync = sources.is_some_and(|path| !path.starts_with("relay/"));
        assert!(!is_sync || !text.contains("tokio::"), "{name} has no async");
    }
}

#[test]
fn dependencies_are_released_and_permissively_licensed() {
    let graph = Graph::read();
    for id in graph.under("sluice") {
        let package = &graph.packages[id];
        let Some(source) = package["source"].as_str() else {
            continue;
        };
        let name = graph.name(id);
        assert!(source.starts_with("registry+"), "{name} comes from {source}");
        let licence = package["license"]
            .as_str()
            .unwrap_or_default()
            .replace('/', " OR ");
        let permitted = |part: &str| {
            let mut parts = part.split(" AND ");
            parts.all(|part| LICENCES.contains(&part.trim().trim_matches(['(', ')'])))
        };
        let groups = |text: &str| {
            text.split(" AND (")
                .all(|group| group.split(" OR ").any(permitted))
        };
        assert!(groups(&licence), "{name} has the licence {licence:?}");
    }
}

#[test]
fn every_protocol_looks_the_same() {
    let graph = Graph::read();
    for module in graph.modules() {
        let manifest = graph.packages[&graph.members[module]]["manifest_path"]
            .as_str()
            .unwrap();
        let folder = Path::new(manifest).parent().unwrap();
        for file in MODULE_FILES {
            let alternative = folder.join(file).with_extension("").join("mod.rs");
            assert!(
                folder.join(file).exists() || alternative.exists(),
                "{module} has no {file}"
            );
        }
    }
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    let graph = Graph::read();
    for id in graph.members.values() {
        let path = graph.packages[id]["manifest_path"].as_str().unwrap();
        let manifest = std::fs::read_to_string(path).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{path}");
    }
}

#[test]
fn files_are_short() {
    let long: Vec<_> = files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .collect();
    assert_eq!(long, [], "longer than {MAX_LINES} lines");
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    // Put together here, so that this file passes itself.
    let forbidden: Vec<String> = ["work", "root", "home"]
        .iter()
        .map(|folder| format!("/{folder}/"))
        .collect();
    for (name, text) in files() {
        if name == "Cargo.lock" {
            continue;
        }
        for word in &forbidden {
            let places = text.match_indices(word.as_str());
            // Inside a longer, relative path the same word is no absolute path.
            let mut absolute = places.filter(|(at, _)| {
                let before = text[..*at].chars().next_back();
                before.is_none_or(|before| !before.is_alphanumeric() && !"._-*}~".contains(before))
            });
            assert!(absolute.next().is_none(), "{name} has the path {word}");
        }
    }
}

#[test]
fn unsafe_code_is_explained_where_it_stands() {
    let (block, implementation) = (["unsafe", "{"].join(" "), ["unsafe", "impl"].join(" "));
    for (name, text) in files().into_iter().filter(|(name, _)| name.ends_with(".rs")) {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            if !line.contains(&block) && !line.contains(&implementation)
                || line.trim_start().starts_with("//")
            {
                continue;
            }
            // The proof stands in the comment above, possibly above the statement that the block is part of.
            let near = &lines[number.saturating_sub(8)..number];
            let explained = near.iter().any(|line| line.contains("SAFETY"));
            assert!(explained, "{name}:{}: no SAFETY comment", number + 1);
        }
    }
}
