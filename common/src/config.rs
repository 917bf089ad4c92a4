//! Configuration files: TOML, every key with a default, unknown keys refused with the nearest right name,
//! all of it printable with comments (`--print-config`).
//!
//! A configuration is a plain serde struct with `#[serde(default, deny_unknown_fields)]` that implements
//! `Config`: it lists one line of documentation for each key, and a test in its crate calls
//! `undocumented_keys` so that none is forgotten.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

/// A role's settings.
pub trait Config: Serialize + DeserializeOwned + Default {
    /// One line for each key, by its dotted path: `("device.queue_depth", "I/Os in flight per disk")`.
    fn docs() -> &'static [(&'static str, &'static str)];
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}`{}; --print-config shows all keys", suggest(nearest.as_deref()))]
    UnknownKey {
        /// The key, as a dotted path.
        key: String,
        /// The right name it is nearest to.
        nearest: Option<String>,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("the configuration is not valid: {0}")]
    Invalid(#[from] toml::de::Error),
}

fn suggest(nearest: Option<&str>) -> String {
    nearest
        .map(|name| format!(" (did you mean `{name}`?)"))
        .unwrap_or_default()
}

/// Reads a configuration file.
///
/// # Errors
/// See `ConfigError`.
pub fn load<C: Config>(path: &Path) -> Result<C, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text)
}

/// Reads a configuration from text.
///
/// # Errors
/// See `ConfigError`.
pub fn parse<C: Config>(text: &str) -> Result<C, ConfigError> {
    let given: toml::Table = text.parse()?;
    check_keys(&given, C::docs(), "")?;
    Ok(C::deserialize_table(given)?)
}

trait FromTable: Sized {
    fn deserialize_table(table: toml::Table) -> Result<Self, toml::de::Error>;
}

impl<C: DeserializeOwned> FromTable for C {
    fn deserialize_table(table: toml::Table) -> Result<Self, toml::de::Error> {
        table.try_into()
    }
}

fn check_keys(
    given: &toml::Table,
    docs: &[(&'static str, &'static str)],
    prefix: &str,
) -> Result<(), ConfigError> {
    for (name, value) in given {
        let key = format!("{prefix}{name}");
        if docs.iter().any(|(documented, _)| *documented == key) {
            continue;
        }
        let below = format!("{key}.");
        match value {
            toml::Value::Table(table) if docs.iter().any(|(k, _)| k.starts_with(&below)) => {
                check_keys(table, docs, &below)?;
            }
            _ => {
                let nearest = docs
                    .iter()
                    .map(|(candidate, _)| *candidate)
                    .min_by_key(|candidate| strsim::damerau_levenshtein(candidate, &key))
                    .map(str::to_owned);
                return Err(ConfigError::UnknownKey { key, nearest });
            }
        }
    }
    Ok(())
}

/// The configuration as TOML, each key under its comment.
///
/// # Panics
/// When the struct cannot be written as TOML: a bug of its definition.
pub fn print<C: Config>(config: &C) -> String {
    let table = toml::Table::try_from(config).expect("configurations are TOML tables");
    let mut text = String::new();
    print_table(&mut text, &table, C::docs(), "");
    text
}

fn print_table(out: &mut String, table: &toml::Table, docs: &[(&str, &str)], prefix: &str) {
    // Plain values first: in TOML everything after a [header] belongs to it.
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        let documented = docs.iter().find(|(candidate, _)| *candidate == key);
        if let Some((_, comment)) = documented {
            writeln!(out, "# {comment}\n{name} = {value}").expect("writing to a String");
        }
    }
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        if let toml::Value::Table(inner) = value
            && !docs.iter().any(|(candidate, _)| *candidate == key)
        {
            writeln!(out, "\n[{key}]").expect("writing to a String");
            print_table(out, inner, docs, &format!("{key}."));
        }
    }
}

/// Keys without documentation, and documentation without a key. For a test in the configuration's crate:
/// the answer must be empty.
pub fn undocumented_keys<C: Config>() -> Vec<String> {
    let table = toml::Table::try_from(C::default()).expect("configurations are TOML tables");
    let mut keys = Vec::new();
    collect_keys(&table, C::docs(), "", &mut keys);
    let documented: Vec<String> = C::docs().iter().map(|(key, _)| (*key).to_owned()).collect();
    let mut wrong: Vec<String> = keys
        .iter()
        .filter(|k| !documented.contains(k))
        .cloned()
        .collect();
    wrong.extend(documented.into_iter().filter(|k| !keys.contains(k)));
    wrong
}

fn collect_keys(table: &toml::Table, docs: &[(&str, &str)], prefix: &str, keys: &mut Vec<String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            toml::Value::Table(inner) if !docs.iter().any(|(k, _)| *k == key) => {
                collect_keys(inner, docs, &format!("{key}."), keys);
            }
            _ => keys.push(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        listen: String,
        disk: Disk,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Disk {
        queue_depth: u32,
    }

    impl Default for Example {
        fn default() -> Self {
            Self {
                listen: "127.0.0.1:0".to_owned(),
                disk: Disk { queue_depth: 64 },
            }
        }
    }

    impl Config for Example {
        fn docs() -> &'static [(&'static str, &'static str)] {
            &[
                ("listen", "address to listen on"),
                ("disk.queue_depth", "I/Os in flight"),
            ]
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        let text = print(&Example::default());
        assert!(
            text.contains("# I/Os in flight\nqueue_depth = 64"),
            "{text}"
        );
        assert_eq!(parse::<Example>(&text).unwrap(), Example::default());
        assert!(undocumented_keys::<Example>().is_empty());
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = parse::<Example>("[disk]\nqueue_dept = 3")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`disk.queue_dept` (did you mean `disk.queue_depth`?)"),
            "{error}"
        );
        let error = parse::<Example>("lisen = 3").unwrap_err().to_string();
        assert!(error.contains("did you mean `listen`"), "{error}");
    }

    #[test]
    fn missing_keys_take_their_defaults() {
        let example = parse::<Example>("listen = \"x\"").unwrap();
        assert_eq!(
            (example.listen.as_str(), example.disk.queue_depth),
            ("x", 64)
        );
    }
}
