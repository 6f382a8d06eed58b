//! A sweep over seeds, methods and strengths: which runs there are, what has been seen of them, and the table of means.
//!
//! Pure: a plan, rows, and the text of both. A run is known by its key (task, method, strength, seed), so that a file of
//! rows says what is still to do. Running them is `cli/sweep`'s.

use std::collections::BTreeMap;

/// One run to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Of the data.
    pub task: String,
    /// As `--method` calls it.
    pub method: String,
    /// SoRA's lambda (or xi), AdaLoRA's target rank, LoRA's rank; `None` where a method has none.
    pub strength: Option<f64>,
    /// Seed.
    pub seed: u64,
}

/// What came of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Which.
    pub trial: Trial,
    /// The metric that chose the epoch.
    pub metric: String,
    /// The epoch, from 1.
    pub epoch: usize,
    /// Its score.
    pub score: f64,
    /// Parameters of A and B in its open ranks.
    pub parameters: usize,
    /// The score of the last epoch.
    pub last_score: f64,
    /// Its parameters.
    pub last_parameters: usize,
    /// Seconds of training, scoring left out.
    pub seconds: f64,
}

/// The first line of a file of rows.
pub const HEADER: &str =
    "task,method,strength,seed,metric,epoch,score,parameters,last_score,last_parameters,seconds";

impl Trial {
    /// A name that no other run of a sweep has, fit for a directory.
    pub fn name(&self) -> String {
        let strength = self.strength.map(|s| format!("-{s}")).unwrap_or_default();
        format!("{}-{}{strength}-seed{}", self.task, self.method, self.seed)
    }

    fn group(&self) -> (String, String, String) {
        let strength = self.strength.map(|s| s.to_string());
        let strength = strength.unwrap_or_default();
        (self.method.clone(), strength, self.task.clone())
    }
}

/// Every run, all methods and tasks of a seed before the next seed: a sweep that is cut short has whole seeds.
pub fn plan(tasks: &[String], methods: &[(String, Vec<Option<f64>>)], seeds: &[u64]) -> Vec<Trial> {
    let mut out = Vec::new();
    for &seed in seeds {
        for task in tasks {
            for (method, strengths) in methods {
                out.extend(strengths.iter().map(|&strength| Trial {
                    task: task.clone(),
                    method: method.clone(),
                    strength,
                    seed,
                }));
            }
        }
    }
    out
}

/// Those of `plan` that `rows` have nothing of.
pub fn left(plan: Vec<Trial>, rows: &[Row]) -> Vec<Trial> {
    let done = |t: &Trial| rows.iter().any(|r| r.trial == *t);
    plan.into_iter().filter(|t| !done(t)).collect()
}

impl Row {
    /// As a line, without its end.
    pub fn line(&self) -> String {
        let t = &self.trial;
        let strength = t.strength.map(|s| s.to_string()).unwrap_or_default();
        format!(
            "{},{},{strength},{},{},{},{},{},{},{},{:.1}",
            t.task,
            t.method,
            t.seed,
            self.metric,
            self.epoch,
            self.score,
            self.parameters,
            self.last_score,
            self.last_parameters,
            self.seconds
        )
    }
}

/// The rows of a file that [`HEADER`] heads.
///
/// # Errors
/// The line that is none, by its number.
pub fn read(text: &str) -> Result<Vec<Row>, String> {
    let mut lines = text.lines().enumerate();
    match lines.next() {
        None => return Ok(Vec::new()),
        Some((_, HEADER)) => {}
        Some((_, other)) => return Err(format!("line 1 is {other:?}, not {HEADER:?}")),
    }
    let filled = lines.filter(|(_, line)| !line.trim().is_empty());
    filled
        .map(|(i, line)| row(line).ok_or_else(|| format!("line {}: {line:?} is no row", i + 1)))
        .collect()
}

fn row(line: &str) -> Option<Row> {
    let parts: Vec<&str> = line.split(',').collect();
    let [
        task,
        method,
        strength,
        seed,
        metric,
        epoch,
        score,
        parameters,
        last,
        kept,
        seconds,
    ] = parts[..]
    else {
        return None;
    };
    Some(Row {
        trial: Trial {
            task: task.into(),
            method: method.into(),
            strength: match strength {
                "" => None,
                some => Some(some.parse().ok()?),
            },
            seed: seed.parse().ok()?,
        },
        metric: metric.into(),
        epoch: epoch.parse().ok()?,
        score: score.parse().ok()?,
        parameters: parameters.parse().ok()?,
        last_score: last.parse().ok()?,
        last_parameters: kept.parse().ok()?,
        seconds: seconds.parse().ok()?,
    })
}

/// Mean, and deviation of a sample (`None` of one).
pub fn mean_and_deviation(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
    (
        mean,
        (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()),
    )
}

/// The table: a line a method, strength and task, over its seeds; and, where a method and strength has every task, a line of
/// means over tasks (of each task's mean).
pub fn table(rows: &[Row]) -> String {
    let mut groups: BTreeMap<(String, String, String), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups.entry(row.trial.group()).or_default().push(row);
    }
    let tasks: std::collections::BTreeSet<&str> = rows.iter().map(|r| &*r.trial.task).collect();
    let mut out = String::from(
        "| method | strength | task | seeds | score | deviation | last | parameters | seconds |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    let mut over: BTreeMap<(&str, &str), Vec<[f64; 4]>> = BTreeMap::new();
    for ((method, strength, task), of) in &groups {
        let every = |value: &dyn Fn(&Row) -> f64| of.iter().map(|r| value(r)).collect::<Vec<_>>();
        let mean = |value: &dyn Fn(&Row) -> f64| mean_and_deviation(&every(value)).0;
        let (score, deviation) = mean_and_deviation(&every(&|r| 100.0 * r.score));
        let last = mean(&|r| 100.0 * r.last_score);
        let (parameters, seconds) = (mean(&|r| r.parameters as f64), mean(&|r| r.seconds));
        let deviation = deviation.map(|d| format!("{d:.2}")).unwrap_or_default();
        out += &format!(
            "| {method} | {strength} | {task} | {} | {score:.2} | {deviation} | {last:.2} | {parameters:.0} | {seconds:.0} |\n",
            of.len()
        );
        let means = over.entry((method, strength)).or_default();
        means.push([score, last, parameters, seconds]);
    }
    for ((method, strength), means) in over {
        if means.len() == tasks.len() && tasks.len() > 1 {
            let mean = |i: usize| means.iter().map(|m| m[i]).sum::<f64>() / means.len() as f64;
            out += &format!(
                "| {method} | {strength} | all {} | | {:.2} | | {:.2} | {:.0} | {:.0} |\n",
                tasks.len(),
                mean(0),
                mean(1),
                mean(2),
                mean(3)
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(task: &str, method: &str, strength: Option<f64>, seed: u64, score: f64) -> Row {
        Row {
            trial: Trial {
                task: task.into(),
                method: method.into(),
                strength,
                seed,
            },
            metric: "accuracy".into(),
            epoch: 3,
            score,
            parameters: 1000,
            last_score: score - 0.01,
            last_parameters: 900,
            seconds: 12.0,
        }
    }

    #[test]
    fn a_sweep_goes_on_where_its_rows_end() {
        let names = |of: &[&str]| of.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let methods = [
            ("lora".to_owned(), vec![None]),
            ("sora".to_owned(), vec![Some(0.5), Some(1.0)]),
        ];
        let all = plan(&names(&["a", "b"]), &methods, &[1, 2]);
        assert_eq!(all.len(), 12);
        assert!(all[..6].iter().all(|t| t.seed == 1), "whole seeds first");
        let mut unique: Vec<String> = all.iter().map(Trial::name).collect();
        unique.dedup();
        assert_eq!(unique.len(), 12);
        let done = [
            row("a", "lora", None, 1, 0.9),
            row("b", "sora", Some(0.5), 2, 0.8),
        ];
        let rest = left(all, &done);
        assert_eq!(rest.len(), 10);
        assert!(rest.iter().all(|t| done.iter().all(|r| r.trial != *t)));
    }

    #[test]
    fn rows_are_read_as_they_were_written_and_others_are_refused_by_line() {
        let rows = [
            row("a", "lora", None, 1, 0.9),
            row("a", "sora", Some(0.25), 3, 1.0 / 3.0),
        ];
        let lines: Vec<String> = rows.iter().map(Row::line).collect();
        let text = format!("{HEADER}\n{}\n", lines.join("\n"));
        assert_eq!(read(&text).unwrap(), rows);
        assert_eq!(read("").unwrap(), []);
        assert!(read("other\n").unwrap_err().contains("line 1"));
        let cut = &text[..text.len() - 8];
        assert!(read(cut).is_ok() || read(cut).unwrap_err().contains("line 3"));
        assert!(
            read(&format!("{HEADER}\na,b\n"))
                .unwrap_err()
                .contains("line 2")
        );
    }

    #[test]
    fn the_table_has_means_deviations_and_whole_methods() {
        let rows = [
            row("a", "lora", None, 1, 0.90),
            row("a", "lora", None, 2, 0.92),
            row("b", "lora", None, 1, 0.50),
            row("a", "sora", Some(1.0), 1, 0.95),
        ];
        let table = table(&rows);
        assert!(
            table.contains("| lora |  | a | 2 | 91.00 | 1.41 | 90.00 | 1000 | 12 |"),
            "{table}"
        );
        assert!(table.contains("| lora |  | all 2 | | 70.50 | |"), "{table}");
        assert!(table.contains("| sora | 1 | a | 1 | 95.00 |  |"), "{table}");
        assert!(!table.contains("| sora | 1 | all"), "{table}");
    }
}
