//! `sorank sweep`: many `sorank train` runs, one after the other, a row a run, and a table of means.
//!
//! Each run is a process of its own with the arguments that `train` has, so that a sweep is nothing that could not be done
//! by hand. A row is written when a run is done; a sweep that is started again leaves out what has a row.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Failure, output::Output};
use crate::{
    error::Error,
    train::sweep::{HEADER, Row, Trial, left, plan, read, table},
};

/// Trains every seed x method x strength on every task and prints a table of mean scores. Rows go to OUT/rows.csv as runs
/// end; started again, it goes on where that file ends.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory of rows.csv and of what each run wrote
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// A preset of `sorank train --task` and the directory of its files; may be given more than once
    #[arg(long = "task", value_name = "NAME=DIR", value_parser = pair, required = true)]
    tasks: Vec<(String, String)>,
    /// Methods, each with its strengths after an equals sign: lora, sora=0.5:1, adalora=4:6 (SoRA: lambda; AdaLoRA: target
    /// rank; LoRA: rank)
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "lora,sora", value_parser = method)]
    methods: Vec<(String, Vec<Option<f64>>)>,
    /// Seeds
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "1,2,3"
    )]
    seeds: Vec<u64>,
    /// Print what would run, and the table of what has
    #[arg(long)]
    dry_run: bool,
    /// What every run is given besides: arguments of `sorank train`, after `--`
    #[arg(last = true, value_name = "TRAIN ARGUMENTS")]
    rest: Vec<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, dir) = text.split_once('=').ok_or("NAME=DIR is wanted")?;
    match name.contains(',') || name.is_empty() {
        true => Err(format!("{name:?} is no name of a task")),
        false => Ok((name.to_owned(), dir.to_owned())),
    }
}

fn method(text: &str) -> Result<(String, Vec<Option<f64>>), String> {
    let Some((name, strengths)) = text.split_once('=') else {
        return Ok((text.to_owned(), vec![None]));
    };
    let number = |s: &str| {
        s.parse()
            .map(Some)
            .map_err(|_| format!("{s:?} is no number"))
    };
    let strengths: Result<_, String> = strengths.split(':').map(number).collect();
    Ok((name.to_owned(), strengths?))
}

/// The arguments of `sorank train` that a trial is.
fn arguments(
    trial: &Trial,
    dir: &str,
    out: &Path,
    rest: &[String],
) -> Result<Vec<String>, Failure> {
    let mut all: Vec<String> = [
        "train",
        "--task",
        &trial.task,
        "--data-dir",
        dir,
        "--method",
        &trial.method,
    ]
    .map(str::to_owned)
    .into();
    if let Some(strength) = trial.strength {
        let flag = match &*trial.method {
            "sora" => "--lambda",
            "adalora" => "--target-rank",
            "lora" => "--r-max",
            other => {
                return Err(Failure::Usage(format!(
                    "{other} has no strength; {strength} was given"
                )));
            }
        };
        all.extend([flag.to_owned(), strength.to_string()]);
    }
    all.extend([
        "--seed".to_owned(),
        trial.seed.to_string(),
        "--quiet".to_owned(),
    ]);
    all.extend(["--out".to_owned(), out.display().to_string()]);
    all.extend_from_slice(rest);
    Ok(all)
}

/// The row of a run from what it wrote.
fn row(trial: &Trial, dir: &Path) -> Result<Row, Error> {
    let read = |name: &str| {
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        Ok::<_, Error>((path, text))
    };
    let json = |path: &Path, text: &str| {
        let wrong = |e: serde_json::Error| Error::format(path, e.to_string());
        serde_json::from_str::<serde_json::Value>(text).map_err(wrong)
    };
    let (path, text) = read("sorank.json")?;
    let made = json(&path, &text)?;
    let metric = made["plan"]["metric"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let (epochs_path, epochs) = read("metrics.jsonl")?;
    let last = json(&epochs_path, epochs.lines().last().unwrap_or_default())?;
    let best = &made["best"];
    let whole = |path: &Path, value: &serde_json::Value, what: &str| {
        let number = value.as_u64();
        number
            .map(|n| n as usize)
            .ok_or_else(|| Error::format(path, format!("has no {what}")))
    };
    let score = |path: &Path, epoch: &serde_json::Value| {
        let score = epoch["scores"][&metric].as_f64();
        score.ok_or_else(|| Error::format(path, format!("has no score {metric:?}")))
    };
    Ok(Row {
        epoch: whole(&path, &best["epoch"], "best epoch")?,
        score: score(&path, best)?,
        parameters: whole(&path, &best["kept_parameters"], "kept parameters")?,
        last_score: score(&epochs_path, &last)?,
        last_parameters: whole(&epochs_path, &last["kept_parameters"], "kept parameters")?,
        seconds: last["seconds"].as_f64().unwrap_or_default(),
        trial: trial.clone(),
        metric,
    })
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.out).map_err(Error::io(&args.out))?;
    let path = args.out.join("rows.csv");
    let mut rows = match std::fs::read_to_string(&path) {
        Ok(text) => read(&text).map_err(|why| Error::format(&path, why))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(Error::io(&path)(e).into()),
    };
    let tasks: Vec<String> = args.tasks.iter().map(|(name, _)| name.clone()).collect();
    let todo = left(plan(&tasks, &args.methods, &args.seeds), &rows);
    let program = std::env::current_exe().map_err(Error::io(Path::new("sorank")))?;
    for (i, trial) in todo.iter().enumerate() {
        let dir = args.tasks.iter().find(|(name, _)| *name == trial.task);
        let (_, dir) = dir.expect("a trial is of a task that was given");
        let out = args.out.join(trial.name());
        let arguments = arguments(trial, dir, &out, &args.rest)?;
        eprintln!(
            "{} of {}: sorank {}",
            i + 1,
            todo.len(),
            arguments.join(" ")
        );
        if args.dry_run {
            continue;
        }
        // A run that ended before its row was written is not done again.
        if !out.join("metrics.jsonl").exists() {
            let mut command = Command::new(&program);
            command.args(&arguments).stdout(Stdio::null());
            let status = command.status().map_err(Error::io(&program))?;
            if !status.success() {
                let what = format!("{}: sorank train ended with {status}", trial.name());
                return Err(Failure::Failed(what));
            }
        }
        let row = row(trial, &out)?;
        append(&path, &row).map_err(Error::io(&path))?;
        rows.push(row);
    }
    let mut out = Output::stdout();
    super::rows::go_on(out.text(&table(&rows))?)?;
    super::rows::go_on(out.flush()?)
}

/// One row more, in one write.
fn append(path: &Path, row: &Row) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)?;
    let head = match file.metadata()?.len() {
        0 => format!("{HEADER}\n"),
        _ => String::new(),
    };
    file.write_all(format!("{head}{}\n", row.line()).as_bytes())?;
    file.sync_data()
}
