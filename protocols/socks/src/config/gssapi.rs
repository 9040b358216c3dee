//! What a listener says about the GSS-API method (RFC 1961).

use sluice_auth::gss::ContextKeys;
use sluice_spi::config::Section;
use std::path::PathBuf;
use std::str::FromStr;

/// The service of the default principal, as clients expect it: curl and Dante ask for `rcmd`.
const SERVICE: &str = "rcmd";
/// Longest principal in octets.
const MAX_PRINCIPAL: usize = 255;

/// How messages are protected, in the order of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Minimum {
    /// Not at all, where the client wants it so: it authenticates, and all else is as without a method.
    None,
    /// Nobody can change them.
    Integrity,
    /// And nobody else can read them.
    Confidentiality,
}

impl FromStr for Minimum {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "none" => Ok(Minimum::None),
            "integrity" => Ok(Minimum::Integrity),
            "confidentiality" => Ok(Minimum::Confidentiality),
            _ => Err(()),
        }
    }
}

/// How contexts are accepted, and what they are to protect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gssapi {
    /// The keys and the name.
    pub keys: ContextKeys,
    /// Less protection is refused.
    pub minimum: Minimum,
    /// Whether the protection level may come unwrapped, as clients of NEC send it.
    pub nec: bool,
}

impl Gssapi {
    /// Reads the keys of the method, of which `gssapi_keytab` switches it on.
    pub(super) fn from_section(section: &Section<'_>) -> Option<Self> {
        let keytab = section.text_or("gssapi_keytab", "");
        let principal = section.text_or("gssapi_principal", SERVICE);
        let minimum = section.parsed(
            "gssapi_protection",
            "\"none\", \"integrity\" or \"confidentiality\"",
        );
        let nec = section.boolean("gssapi_nec", false);
        if !is_principal(&principal) {
            section.report(
                "gssapi_principal",
                "must be a service such as \"rcmd\", \"rcmd@HOST\", or a principal such as \"rcmd/HOST@REALM\"",
            );
        }
        if section.has("gssapi_keytab") {
            if !keytab.starts_with('/') {
                section.report("gssapi_keytab", "must be the absolute path of a keytab");
            }
            return Some(Self {
                keys: ContextKeys {
                    keytab: PathBuf::from(keytab),
                    principal,
                },
                minimum: minimum.unwrap_or(Minimum::Integrity),
                nec,
            });
        }
        for key in ["gssapi_principal", "gssapi_protection", "gssapi_nec"] {
            if section.has(key) {
                section.report(key, "needs gssapi_keytab");
            }
        }
        None
    }
}

fn is_principal(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_PRINCIPAL
        && !text.starts_with(['@', '/'])
        && text.bytes().all(|octet| octet.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::super::{AuthMethod, Config};
    use super::*;
    use sluice_spi::config::read;

    const KEYTAB: &str = "gssapi_keytab = \"/etc/sluice/socks.keytab\"\n";

    fn config(text: &str) -> Config {
        read("a", text, Config::from_section).unwrap()
    }

    #[test]
    fn a_keytab_switches_it_on() {
        assert_eq!(config("").gssapi, None);
        let on = config(KEYTAB);
        assert_eq!(
            on.methods,
            [AuthMethod::Password, AuthMethod::None, AuthMethod::Gssapi]
        );
        let expected = Gssapi {
            keys: ContextKeys {
                keytab: "/etc/sluice/socks.keytab".into(),
                principal: "rcmd".to_owned(),
            },
            minimum: Minimum::Integrity,
            nec: false,
        };
        assert_eq!(on.gssapi, Some(expected));
    }

    #[test]
    fn all_keys_are_read() {
        let text = format!(
            "{KEYTAB}gssapi_principal = \"socks/proxy.example@EXAMPLE\"\ngssapi_protection = \"confidentiality\"\n\
             gssapi_nec = true\nmethods = [\"gssapi\"]\n"
        );
        let config = config(&text);
        assert_eq!(config.methods, [AuthMethod::Gssapi]);
        let gssapi = config.gssapi.unwrap();
        assert_eq!(gssapi.keys.principal, "socks/proxy.example@EXAMPLE");
        assert_eq!((gssapi.minimum, gssapi.nec), (Minimum::Confidentiality, true));
        assert!(Minimum::None < Minimum::Integrity && Minimum::Integrity < Minimum::Confidentiality);
    }

    #[test]
    fn problems_name_their_keys() {
        for (text, key) in [
            ("gssapi_keytab = \"socks.keytab\"\n", "gssapi_keytab"),
            ("methods = [\"gssapi\"]\n", "methods"),
            (&format!("{KEYTAB}methods = [\"password\"]\n"), "gssapi_keytab"),
            (
                &format!("{KEYTAB}gssapi_protection = \"some\"\n"),
                "gssapi_protection",
            ),
            (
                &format!("{KEYTAB}gssapi_principal = \"@HOST\"\n"),
                "gssapi_principal",
            ),
            (
                &format!("{KEYTAB}gssapi_principal = \"a b\"\n"),
                "gssapi_principal",
            ),
            ("gssapi_principal = \"socks\"\n", "gssapi_principal"),
            ("gssapi_protection = \"none\"\n", "gssapi_protection"),
            ("gssapi_nec = true\n", "gssapi_nec"),
        ] {
            let problems = read("a", text, Config::from_section).unwrap_err();
            let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
            assert_eq!(keys, [key], "{text}");
        }
    }
}
