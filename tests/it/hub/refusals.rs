//! What the hub says no to: each message names the repository, the revision, the status and what to do; and who gets the token.

use super::{BASE_COMMIT, World, complains, files, mock::Repo, repo, says, tiny, world};

fn with_token(world: &World, args: &[&str], token: &str) -> std::process::Output {
    let out = world.command(args).env("HF_TOKEN", token).output();
    out.expect("it starts")
}

fn expect(why: &str, parts: &[&str]) {
    for part in parts {
        assert!(why.contains(part), "{part}: {why}");
    }
}

#[test]
fn a_repository_that_is_not_there_or_private_says_so() {
    let world = world();
    let args = ["classify", "--model", "owner/typo", "a text"];
    let said = [
        "owner/typo is no directory here",
        "owner/typo@main",
        "no such repository, or a private one",
    ];
    expect(
        &world.fails(&args),
        &[&said[..], &["HTTP 401", "none was given (HF_TOKEN"]].concat(),
    );
    let why = complains(&args, &with_token(&world, &args, "hf_x"));
    expect(
        &why,
        &[&said[..], &["HTTP 404", "the one given does not open it"]].concat(),
    );
    assert!(!why.contains("hf_x"), "{why}");
}

#[test]
fn a_revision_that_is_not_there_says_so() {
    let world = world();
    let why = world.fails(&["pull", "owner/tiny@nightly"]);
    expect(
        &why,
        &[
            "owner/tiny@nightly",
            "HTTP 404",
            "no such branch, tag or commit",
            "/owner/tiny/tree/main",
        ],
    );
    assert!(!world.folder("owner/tiny").exists());
}

#[test]
fn a_gated_repository_says_where_its_conditions_are() {
    let world = world();
    let gated = Repo {
        gated: Some("hf_granted".to_owned()),
        ..repo(BASE_COMMIT, files(&tiny("base")))
    };
    world.mock.put("owner/gated", gated);
    let args = ["pull", "owner/gated"];
    let page = format!(
        "accept its conditions at {}/owner/gated",
        world.mock.endpoint
    );
    expect(
        &world.fails(&args),
        &[
            "owner/gated@main: config.json",
            "HTTP 401",
            &page,
            "none was given",
        ],
    );
    let why = complains(&args, &with_token(&world, &args, "hf_other"));
    expect(&why, &["HTTP 403", &page, "the one given does not open it"]);
    says(&args, &with_token(&world, &args, "hf_granted"));
}

#[test]
fn a_token_comes_from_flag_variable_or_file_and_goes_to_the_endpoint_alone() {
    let world = world();
    let private = Repo {
        private: Some("hf_right".to_owned()),
        ..repo(BASE_COMMIT, files(&tiny("base")))
    };
    world.mock.put("owner/private", private);
    let args = ["pull", "owner/private"];
    world.fails(&args);
    let flag = ["pull", "owner/private", "--token", "hf_right"];
    says(&flag, &with_token(&world, &flag, "hf_wrong"));
    let asked = world.mock.asked();
    let at_store: Vec<_> = asked.iter().filter(|asked| asked.at_store).collect();
    assert!(
        !at_store.is_empty() && at_store.iter().all(|asked| asked.token.is_none()),
        "{asked:?}"
    );
    assert!(
        asked.iter().any(|asked| asked.method == "HEAD"),
        "{asked:?}"
    );

    says(&args, &with_token(&world, &args, "hf_right"));
    std::fs::write(world.home.path().join("token"), "hf_right\n").expect("written");
    world.prints(&args);
}

#[test]
fn a_repository_without_what_is_wanted_says_what_it_holds() {
    let world = world();
    let why = world.fails(&["classify", "--adapter", "x=owner/tiny", "a text"]);
    expect(
        &why,
        &[
            "owner/tiny@main",
            "holds a base (config.json) and no adapter",
        ],
    );
    let why = world.fails(&["embed", "--model", "owner/intent", "a text"]);
    expect(
        &why,
        &[
            "owner/intent@main",
            "holds an adapter (adapter_config.json) and no base",
        ],
    );
    let mut pickled = files(&tiny("base"));
    let weights = pickled.remove("model.safetensors").expect("there");
    pickled.insert("pytorch_model.bin".to_owned(), weights);
    world.mock.put("owner/pickled", repo(BASE_COMMIT, pickled));
    let why = world.fails(&["pull", "owner/pickled"]);
    expect(
        &why,
        &[
            "holds no model.safetensors, only pytorch_model.bin",
            "convert it once",
            "refs/pr/N",
        ],
    );
    assert!(world.blobs("owner/pickled").is_empty());
}

#[test]
fn names_from_a_hostile_hub_stay_inside_the_cache() {
    let world = world();
    let mut hostile = files(&tiny("base"));
    hostile.remove("model.safetensors");
    let index = r#"{"weight_map": {"a": "../../../../evil.safetensors"}}"#;
    hostile.insert("model.safetensors.index.json".to_owned(), index.into());
    hostile.insert("../../../../evil.safetensors".to_owned(), b"x".to_vec());
    world
        .mock
        .put("owner/hostile", repo(BASE_COMMIT, hostile.clone()));
    let why = world.fails(&["pull", "owner/hostile"]);
    expect(
        &why,
        &[
            "weight_map",
            "expected names of .safetensors files beside it",
        ],
    );

    hostile.remove("model.safetensors.index.json");
    hostile.insert("model.safetensors".to_owned(), b"x".to_vec());
    hostile.insert(
        "modules.json".to_owned(),
        br#"[{"path": "../../../.."}]"#.to_vec(),
    );
    hostile.insert("../../../../config.json".to_owned(), b"{}".to_vec());
    world.mock.put("owner/hostile", repo(BASE_COMMIT, hostile));
    let _ = world.run(&["pull", "owner/hostile"]);
    assert!(!world.home.path().join("config.json").exists());
    world.mock.put(
        "owner/commit",
        repo("../../../../evil", files(&tiny("base"))),
    );
    let why = world.fails(&["pull", "owner/commit"]);
    expect(&why, &["expected a commit of 40 hexadecimal digits"]);
}

#[test]
fn usage_is_said_before_anything_is_asked_for() {
    let world = world();
    for args in [
        &["pull", "bert-base-uncased"][..],
        &["pull", "a/b@c", "--revision", "d"],
        &["pull", "a/b", "--revision", "../d"],
    ] {
        assert_eq!(world.run(args).status.code(), Some(2), "{args:?}");
    }
    assert!(world.mock.asked().is_empty());
}
