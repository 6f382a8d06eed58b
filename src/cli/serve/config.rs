//! The TOML file of `sorank serve`: each key is a flag without its dashes, and becomes one before the real flags are
//! parsed, so that there is one parser, one set of checks and one list of names.

use std::{ffi::OsString, path::Path};

use super::Failure;

/// The arguments of the process, with those of the file that `--config` or `SORANK_CONFIG` names put before its flags.
/// Only `sorank serve` has one.
pub(crate) fn with_config(mut args: Vec<OsString>) -> Result<Vec<OsString>, Failure> {
    if args.get(1).is_none_or(|command| command != "serve") {
        return Ok(args);
    }
    let Some(path) = config_path(&args) else {
        return Ok(args);
    };
    let shown = Path::new(&path).display().to_string();
    let text =
        std::fs::read_to_string(&path).map_err(|e| Failure::Usage(format!("{shown}: {e}")))?;
    let set = |variable: &str| std::env::var_os(variable).is_some();
    let flags = flags(&text, set).map_err(|why| Failure::Usage(format!("{shown}: {why}")))?;
    let rest = args.split_off(2);
    args.extend(flags.into_iter().map(OsString::from));
    args.extend(rest);
    Ok(args)
}

fn config_path(args: &[OsString]) -> Option<OsString> {
    let mut found = std::env::var_os("SORANK_CONFIG");
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(arg) = arg.to_str() else { continue };
        if arg == "--config" {
            found = args.next().cloned().or(found);
        } else if let Some(path) = arg.strip_prefix("--config=") {
            found = Some(path.into());
        }
    }
    found
}

/// The flags that `text` stands for; without those whose environment variable is `set`.
fn flags(text: &str, set: impl Fn(&str) -> bool) -> Result<Vec<String>, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    let mut flags = Vec::new();
    for (key, value) in table {
        let flag = format!("--{}", key.replace('_', "-"));
        let variable = key.replace('-', "_").to_uppercase();
        let plural = variable == "ADAPTER" && set("SORANK_ADAPTERS");
        if plural || set(&format!("SORANK_{variable}")) {
            continue;
        }
        match value {
            toml::Value::Boolean(true) => flags.push(flag),
            toml::Value::Boolean(false) => {}
            toml::Value::Array(items) => {
                for item in items {
                    flags.push(format!("{flag}={}", scalar(&key, item)?));
                }
            }
            // [adapter] name = "dir"
            toml::Value::Table(items) => {
                for (name, item) in items {
                    flags.push(format!("{flag}={name}={}", scalar(&key, item)?));
                }
            }
            item => flags.push(format!("{flag}={}", scalar(&key, item)?)),
        }
    }
    Ok(flags)
}

fn scalar(key: &str, value: toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(n) => Ok(n.to_string()),
        toml::Value::Float(x) => Ok(x.to_string()),
        other => Err(format!(
            "{key}: expected a string, a number, true, or a list of them, found {}",
            other.type_str()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_flags_and_a_variable_counts_before_the_file() {
        let text = "
            port = 9000
            max_queue = 7
            allow-runtime-adapters = true
            json-output = false
            api-key = ['a', 'b']
            host = '0.0.0.0'
            [adapter]
            intent = './intent'
        ";
        let mut got = flags(text, |v| v == "SORANK_HOST").unwrap();
        got.sort();
        let want = [
            "--adapter=intent=./intent",
            "--allow-runtime-adapters",
            "--api-key=a",
            "--api-key=b",
            "--max-queue=7",
            "--port=9000",
        ];
        assert_eq!(got, want);
        assert!(
            flags("x = 2020-01-01", |_| false)
                .unwrap_err()
                .contains("x: expected")
        );
        assert!(flags("x = ", |_| false).is_err());
    }
}
