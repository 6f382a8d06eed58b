//! The TOML file of `sorank serve` and `sorank train`: each key is a flag without its dashes, and becomes one before the
//! real flags are parsed, so that there is one parser, one set of checks and one list of names. A flag given counts
//! before an environment variable, and that before the file. [`used`] is the way back, from flags to a file.

use std::{
    ffi::OsString,
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::Failure;

/// Whichever of `serve` and `train` the arguments of the process name, with the flags of its file put before its own.
pub(super) fn with_config(
    cli: &Command,
    mut args: Vec<OsString>,
) -> Result<Vec<OsString>, Failure> {
    let name = args
        .get(1)
        .and_then(|name| name.to_str())
        .unwrap_or("")
        .to_owned();
    let Some(command) = cli.find_subcommand(&name) else {
        return Ok(args);
    };
    let path = match &*name {
        "serve" => value(&args, "config", None).or_else(|| std::env::var_os("SORANK_CONFIG")),
        "train" => value(&args, "config", None).or_else(|| cut_run(&args)),
        _ => None,
    };
    let Some(path) = path else {
        return Ok(args);
    };
    let shown = Path::new(&path).display().to_string();
    let text =
        std::fs::read_to_string(&path).map_err(|e| Failure::Usage(format!("{shown}: {e}")))?;
    let given = |arg: &Arg| {
        let variable = (arg.get_env()).is_some_and(|name| std::env::var_os(name).is_some());
        // Adapters of a server's file and of its flags add up.
        let adds_up = name == "serve" && matches!(arg.get_action(), ArgAction::Append);
        let long = arg.get_long().unwrap_or_default();
        variable || !adds_up && is_given(&args, long, arg.get_short())
    };
    let flags =
        flags(command, &text, given).map_err(|why| Failure::Usage(format!("{shown}: {why}")))?;
    let rest = args.split_off(2);
    args.extend(flags.into_iter().map(OsString::from));
    args.extend(rest);
    Ok(args)
}

/// Where a run keeps what it needs to go on, until its result takes the name `out`.
pub(super) fn partial(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// The name of a run's settings beside its result.
pub(super) const RUN: &str = "run.toml";

/// The settings of the run that `--resume` goes on with.
fn cut_run(args: &[OsString]) -> Option<OsString> {
    if !is_given(args, "resume", None) {
        return None;
    }
    let out = value(args, "out", Some('o'))?;
    let path = partial(Path::new(&out)).join(RUN);
    path.exists().then(|| path.into())
}

/// Whether a flag stands among `args`.
fn is_given(args: &[OsString], long: &str, short: Option<char>) -> bool {
    let (long, with_value) = (format!("--{long}"), format!("--{long}="));
    let short = short.map(|c| format!("-{c}"));
    args.iter().skip(2).filter_map(|a| a.to_str()).any(|arg| {
        let short = short.as_ref().is_some_and(|s| arg.starts_with(s.as_str()));
        arg == long || arg.starts_with(&with_value) || short
    })
}

/// The last value of a flag among `args`.
fn value(args: &[OsString], long: &str, short: Option<char>) -> Option<OsString> {
    let (long, with_value) = (format!("--{long}"), format!("--{long}="));
    let short = short.map(|c| format!("-{c}"));
    let (mut found, mut args) = (None, args.iter().skip(2));
    while let Some(arg) = args.next() {
        let Some(arg) = arg.to_str() else { continue };
        if arg == long || short.as_deref() == Some(arg) {
            found = args.next().cloned().or(found);
        } else if let Some(value) = arg.strip_prefix(&with_value) {
            found = Some(value.into());
        }
    }
    found
}

/// The flags of `command` that `text` stands for; without those that are `given` otherwise.
fn flags(
    command: &Command,
    text: &str,
    given: impl Fn(&Arg) -> bool,
) -> Result<Vec<String>, String> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| e.to_string())?;
    let mut flags = Vec::new();
    for (key, value) in table {
        let name = key.replace('_', "-");
        let arg = command
            .get_arguments()
            .find(|a| a.get_long() == Some(&*name));
        let Some(arg) = arg.filter(|_| name != "config") else {
            let command = command.get_name();
            return Err(format!("{key}: sorank {command} has no flag --{name}"));
        };
        if given(arg) {
            continue;
        }
        let flag = format!("--{name}");
        match value {
            toml::Value::Boolean(true) => flags.push(flag),
            toml::Value::Boolean(false) => {}
            toml::Value::Array(items) if repeatable(arg) => {
                for item in items {
                    flags.push(format!("{flag}={}", scalar(&key, item)?));
                }
            }
            // [adapter] name = "dir"
            toml::Value::Table(items) if is_named(arg) => {
                for (name, item) in items {
                    flags.push(format!("{flag}={name}={}", scalar(&key, item)?));
                }
            }
            item => flags.push(format!("{flag}={}", scalar(&key, item)?)),
        }
    }
    Ok(flags)
}

fn repeatable(arg: &Arg) -> bool {
    matches!(arg.get_action(), clap::ArgAction::Append)
}

/// Whether its values are names with something after `=`.
fn is_named(arg: &Arg) -> bool {
    let shown = arg.get_value_names().unwrap_or_default();
    shown.iter().any(|shown| shown.contains('='))
}

fn scalar(key: &str, value: toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text),
        toml::Value::Integer(n) => Ok(n.to_string()),
        toml::Value::Float(x) => Ok(x.to_string()),
        other => Err(format!(
            "{key}: expected a string, a number or true (a list where the flag is repeatable), found {}",
            other.type_str()
        )),
    }
}

/// The settings that `matches` of `command` came to, defaults too, as a file that [`with_config`] reads; without the flags
/// in `leave`, and with `instead` of what is given for some.
pub(super) fn used(
    command: &Command,
    matches: &ArgMatches,
    leave: &[&str],
    instead: &[(&str, String)],
) -> String {
    let (mut out, mut heading) = (String::new(), None);
    for arg in command.get_arguments() {
        let (id, Some(long)) = (arg.get_id().as_str(), arg.get_long()) else {
            continue;
        };
        if leave.contains(&long) || ["help", "version"].contains(&long) {
            continue;
        }
        let told = instead.iter().find(|(name, _)| *name == long);
        let value = match (told, arg.get_action()) {
            (Some((_, value)), _) => written(value),
            (None, ArgAction::SetTrue) => matches.get_flag(id).to_string(),
            (None, action) => {
                let Some(values) = matches.get_raw(id) else {
                    continue;
                };
                let values: Vec<String> = values.map(|v| written(&v.to_string_lossy())).collect();
                match action {
                    ArgAction::Append => format!("[{}]", values.join(", ")),
                    _ => values.concat(),
                }
            }
        };
        if heading != Some(arg.get_help_heading()) {
            heading = Some(arg.get_help_heading());
            let shown = arg.get_help_heading().unwrap_or("Run");
            let gap = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{gap}# {shown}");
        }
        let _ = writeln!(out, "{long} = {value}");
    }
    out
}

/// A flag's value as TOML: a number where it is one, else a string.
fn written(value: &str) -> String {
    let number = format!("x = {value}").parse::<toml::Table>().ok();
    let number = number.filter(|t| t.len() == 1 && (t["x"].is_integer() || t["x"].is_float()));
    match number {
        Some(_) => value.to_owned(),
        // JSON's escapes are TOML's too.
        None => serde_json::Value::from(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    fn command(name: &str) -> Command {
        let cli = Cli::command();
        cli.find_subcommand(name).expect("a command").clone()
    }

    #[cfg(feature = "server")]
    #[test]
    fn keys_become_flags_and_what_is_given_counts_before_the_file() {
        let text = "
            port = 9000
            max_queue = 7
            allow-runtime-adapters = true
            quiet = false
            api-key = ['a', 'b']
            host = '0.0.0.0'
            [adapter]
            intent = './intent'
        ";
        let command = command("serve");
        let mut got = flags(&command, text, |a| a.get_long() == Some("host")).unwrap();
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
        let wrong = |text| flags(&command, text, |_| false).unwrap_err();
        assert!(wrong("port = 2020-01-01").contains("port: expected"));
        assert!(wrong("host = ['a', 'b']").contains("host: expected"));
        assert!(wrong("host = {a = 'b'}").contains("host: expected"));
        assert!(wrong("x = 1").contains("x: sorank serve has no flag --x"));
        assert!(flags(&command, "x = ", |_| false).is_err());
    }

    #[test]
    fn a_file_that_was_written_is_read_as_the_same_flags() {
        let given = [
            "train",
            "--model",
            "m",
            "--train",
            "a \"b\".tsv",
            "--lr",
            "0.001",
            "--sites",
            "query,value",
            "--out",
            "x",
            "--recompute",
            "--text",
            "3",
        ];
        let command = command("train");
        let parse = |args: Vec<String>| command.clone().get_matches_from(args);
        let matches = parse(given.map(str::to_owned).to_vec());
        let text = used(&command, &matches, &["out"], &[("threads", "2".to_owned())]);
        assert!(text.contains("lr = 0.001\n"), "{text}");
        let mut again = vec!["train".to_owned(), "--out=y".to_owned()];
        again.extend(flags(&command, &text, |_| false).unwrap());
        let again = parse(again);
        assert_eq!(used(&command, &again, &["out"], &[]), text);
        assert_eq!(again.get_raw("out").map(|v| v.count()), Some(1));
    }

    #[test]
    fn flags_are_seen_however_they_are_spelt() {
        let args: Vec<OsString> = ["sorank", "train", "-o", "a", "--lr=2", "--seed", "3"]
            .map(OsString::from)
            .to_vec();
        let given = |long, short| is_given(&args, long, short);
        assert!(given("out", Some('o')) && given("lr", None) && given("seed", None));
        assert!(!given("see", None) && !given("quiet", Some('q')));
        assert_eq!(value(&args, "lr", None), Some("2".into()));
        assert_eq!(value(&args, "out", Some('o')), Some("a".into()));
        assert_eq!(value(&args, "config", None), None);
    }
}
