//! The flags of `sorank serve`, which are variables and keys of a file too.

use serde_json::Value;

use super::{
    process::command,
    server::{Server, agent},
};

#[test]
fn a_flag_counts_before_a_variable_and_a_variable_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("serve.toml");
    let text = "max-client-batch-size = 11\nmax_concurrent_requests = 12\nmax-batch-requests = 13\n\
                served-model-name = 'of-the-file'\nauto-truncate = true\n";
    std::fs::write(&file, text).unwrap();
    let mut command = command(&["--max-client-batch-size", "31"]);
    command
        .env("SORANK_CONFIG", &file)
        .env("SORANK_MAX_CLIENT_BATCH_SIZE", "21")
        .env("SORANK_MAX_CONCURRENT_REQUESTS", "22");
    let server = Server::of(command.spawn().unwrap()).unwrap();
    let info = server.get("/info").json();
    let got = [
        "max_client_batch_size",
        "max_concurrent_requests",
        "max_batch_requests",
    ]
    .map(|key| info[key].clone());
    assert_eq!(got, [31, 22, 13].map(Value::from));
    assert_eq!(info["served_model_name"], "of-the-file");
    assert_eq!(info["auto_truncate"], true);
}

/// Every flag of `sorank serve` with a value that differs from its default; `DIR` is a directory that exists.
const SETTINGS: &str = "
    host = '127.0.0.1'
    port = 0
    admin-port = 0
    served-model-name = ['first', 'second']
    accept-any-model = true
    cors-allow-origin = 'https://app.example'
    json-output = true
    max-queue = 100
    max-concurrent-requests = 50
    max-client-batch-size = 9
    max-batch-requests = 11
    batch-workers = 1
    payload-limit = 100000
    auto-truncate = true
    default-prompt = 'query: '
    request-timeout = 5.5
    read-timeout = 3
    drain-timeout = 2
    drain-delay = 0.1
    metric-adapters = 3
    allow-runtime-adapters = true
    adapter-root = 'DIR'
    adapter-dir = 'DIR'
    adapter-store = 's3://bucket/adapters'
    state-file = 'DIR/state.json'
    max-adapters = 5
    max-adapter-bytes = 10000000
    max-adapter-rank = 64
    max-adapter-file-bytes = 5000000
    api-key = ['one', 'two']
    admin-token = 'token'
    max-batch-tokens = 512
    threads = 1
    quiet = true
    no-mmap = true
    dtype = 'bf16'
";
/// Flags that stand beside others of [`SETTINGS`], or belong to a model that is not here.
const ASIDE: [&str; 9] = [
    "config",
    "help",
    "version",
    "model",
    "revision",
    "adapter",
    "default-prompt-name",
    "offline",
    "otlp-endpoint",
];

#[test]
fn every_flag_is_a_variable_and_a_key_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = SETTINGS.replace("DIR", dir.path().to_str().unwrap());
    let settings: toml::Table = text.parse().unwrap();
    let help = command(&["--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let flags = help.lines().filter_map(|line| {
        let at = line
            .trim_start()
            .split("--")
            .nth(1)
            .filter(|_| line.trim_start().starts_with('-'))?;
        at.split([' ', '=', '[']).next()
    });
    let flags: Vec<&str> = flags.filter(|flag| !ASIDE.contains(flag)).collect();
    assert!(flags.len() > 30, "{help}");
    let missing: Vec<&&str> = flags
        .iter()
        .filter(|f| !settings.contains_key(**f))
        .collect();
    assert!(missing.is_empty(), "not tried: {missing:?}");

    let file = dir.path().join("serve.toml");
    std::fs::write(&file, &text).unwrap();
    let mut by_file = command(&["--config", file.to_str().unwrap()]);
    let mut by_variables = command(&[]);
    for flag in flags {
        let value = match &settings[flag] {
            toml::Value::String(text) => text.clone(),
            toml::Value::Array(all) => {
                let all: Vec<&str> = all.iter().filter_map(toml::Value::as_str).collect();
                all.join(",")
            }
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            other => other.as_bool().unwrap().to_string(),
        };
        let variable = format!("SORANK_{}", flag.to_uppercase().replace('-', "_"));
        assert!(help.contains(&format!("[env: {variable}")), "{variable}");
        by_variables.env(variable, value);
    }
    for command in [&mut by_file, &mut by_variables] {
        let server = Server::of(command.spawn().unwrap()).unwrap();
        let info = server.get("/info").json();
        let keys = [
            "max_client_batch_size",
            "max_concurrent_requests",
            "max_batch_requests",
            "max_batch_tokens",
        ];
        assert_eq!(
            keys.map(|key| info[key].clone()),
            [9, 50, 11, 512].map(Value::from)
        );
        assert_eq!(
            (&info["model_id"], &info["model_dtype"]),
            (&"first".into(), &"bf16".into())
        );
        let list = server.get("/v1/lora_adapters").json();
        let keys = ["max_adapters", "max_rank", "max_bytes"].map(|key| list[key].clone());
        assert_eq!(keys, [5, 64, 10_000_000].map(Value::from));
        let without_key = agent().get(format!("{}/info", server.url)).call().unwrap();
        assert_eq!(without_key.status(), 401);
    }
}

#[test]
fn a_place_of_adapters_that_is_not_there_ends_the_start() {
    for (flag, place) in [
        ("--adapter-root", "nowhere"),
        ("--adapter-dir", "nowhere"),
        ("--adapter-store", "bucket/x"),
    ] {
        let out = command(&[flag, place]).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success() && said.contains(flag) && said.contains(place),
            "{said}"
        );
    }
}

#[test]
fn a_word_that_is_no_flag_is_refused_in_the_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("serve.toml");
    std::fs::write(&file, "max-quque = 3\n").unwrap();
    let out = command(&["--config", file.to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.code() == Some(2) && said.contains("max-quque"),
        "{said}"
    );
}
