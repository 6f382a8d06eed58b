//! From texts to answers: names to tasks, texts to tokens, tokens to batches, hidden states to answers.
//!
//! An [`Engine`] is one model, its tokenizer and a registry of tasks. [`Engine::admit`] asks everything that can be
//! wrong with a request (an unknown adapter, a text too long, a task that cannot do it); what it returns can only
//! succeed. Synchronous throughout; queues, clocks and sockets belong to `server/`.

pub mod answer;
pub mod registry;
pub mod request;
pub mod scheduler;

use std::sync::Arc;

use rayon::prelude::*;

use self::scheduler::Item;
pub use self::{
    answer::{Answer, Classes},
    registry::Registry,
    request::{Admitted, Request, Want},
};
use crate::{
    error::{Error, Result},
    mat::{Mat, Matrix},
    model::{Batch, Level, Model, Sequence, Task},
    text::{Limit, Tokenizer, Truncate},
};

/// One model, its tokenizer, its tasks.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    tokenizer: Tokenizer,
    registry: Registry,
    /// The most tokens of one batch; a single longer row still runs, alone.
    max_batch_tokens: usize,
}

/// Tokens of a batch where the caller names no number: enough rows to keep the kernels at their best, few
/// enough that activations stay near the cores.
pub const DEFAULT_BATCH_TOKENS: usize = 2048;

impl Engine {
    /// An engine over `model`; its bare base is a task from the start.
    ///
    /// # Errors
    /// When the checkpoint's own head is damaged, or the tokenizer makes ids that the model has no rows for.
    pub fn new(model: Model, tokenizer: Tokenizer, max_batch_tokens: usize) -> Result<Self> {
        let registry = Registry::new(model.base_task()?);
        Ok(Self {
            model,
            tokenizer,
            registry,
            max_batch_tokens: max_batch_tokens.max(1),
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The tasks by name.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Tokenises and checks `request`. The task is held by what is returned: replacing the adapter later does not
    /// change this request's answer.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`], [`Error::WrongTask`], [`Error::TooLong`], [`Error::EmptyInput`].
    pub fn admit(&self, request: &Request<'_>, truncate: Truncate) -> Result<Admitted> {
        let task = self.registry.get(request.adapter)?;
        let unable = |wanted, why: String| Error::WrongTask {
            task: task.shown(),
            wanted,
            why,
        };
        if request.want == Want::Classes {
            match task.classifier.as_ref().map(|c| c.level) {
                None => return Err(unable("classify", "it has no classification head".into())),
                Some(Level::Token) => {
                    return Err(unable(
                        "classify",
                        "its head labels tokens, not texts".into(),
                    ));
                }
                Some(Level::Sequence) => {}
            }
        }
        if [Some(request.text), request.pair]
            .into_iter()
            .flatten()
            .any(|t| t.trim().is_empty())
        {
            return Err(Error::EmptyInput);
        }
        let limit = Limit {
            max: self.model.max_tokens(),
            truncate,
        };
        let mut encoded = self.tokenizer.encode(request.text, request.pair, limit)?;
        let vocab = self.model.spec().vocab;
        if let Some(id) = encoded.ids.iter().find(|&&id| id as usize >= vocab) {
            let why = format!("the tokenizer made id {id} and the model has {vocab} rows");
            return Err(unable("read this text", why));
        }
        let types = self.model.spec().embed.types.max(1) as u32;
        // Families with one token type call both halves of a pair type 0.
        encoded
            .types
            .iter_mut()
            .for_each(|t| *t = (*t).min(types - 1));
        Ok(Admitted {
            encoded,
            task,
            want: request.want,
        })
    }

    /// Answers `rows`, in their order. Rows of all adapters share batches.
    pub fn run(&self, rows: &[Admitted]) -> Vec<Answer> {
        let items: Vec<Item> = rows
            .iter()
            .map(|row| Item {
                tokens: row.encoded.ids.len(),
                task: Arc::as_ptr(&row.task) as usize,
            })
            .collect();
        let mut answers: Vec<Option<Answer>> = rows.iter().map(|_| None).collect();
        for plan in scheduler::plan(&items, self.max_batch_tokens) {
            self.run_batch(rows, &plan, &mut answers);
        }
        answers
            .into_iter()
            .map(|a| a.expect("the plan names every row once"))
            .collect()
    }

    /// Admits and answers many requests; each row its own result, with the number of its tokens.
    pub fn answer(
        &self,
        requests: &[Request<'_>],
        truncate: Truncate,
    ) -> Vec<Result<(Answer, usize)>> {
        let admitted: Vec<Result<Admitted>> = requests
            .par_iter()
            .map(|r| self.admit(r, truncate))
            .collect();
        let mut errors = Vec::with_capacity(admitted.len());
        let mut good = Vec::with_capacity(admitted.len());
        for result in admitted {
            errors.push(result.map(|row| good.push(row)).err());
        }
        let tokens = good.iter().map(|row| row.encoded.len());
        let mut answers = self.run(&good).into_iter().zip(tokens);
        let next = |error: Option<Error>| match error {
            Some(error) => Err(error),
            None => Ok(answers.next().expect("one answer an admitted row")),
        };
        errors.into_iter().map(next).collect()
    }

    fn run_batch(&self, rows: &[Admitted], plan: &[usize], answers: &mut [Option<Answer>]) {
        let mut tasks: Vec<&Task> = Vec::new();
        let mut sequences = Vec::with_capacity(plan.len());
        for &row in plan {
            let Admitted { encoded, task, .. } = &rows[row];
            // The plan puts neighbours of one task together, so looking at the last one suffices.
            if !tasks
                .last()
                .is_some_and(|last| std::ptr::eq(*last, &**task))
            {
                tasks.push(task);
            }
            let task = tasks.len() - 1;
            sequences.push(Sequence {
                ids: &encoded.ids,
                types: &encoded.types,
                task,
            });
        }
        let batch = Batch::pack(sequences);
        let encoded = self.model.forward(&batch, &tasks, &mut ());
        for group in batch.groups() {
            let wants = |want| {
                group
                    .sequences
                    .clone()
                    .filter(move |&s| rows[plan[s]].want == want)
            };
            let task = tasks[group.task];
            for s in wants(Want::Embedding) {
                answers[plan[s]] =
                    Some(self.embedding(task, encoded.view().row_range(batch.rows(s))));
            }
            let of_classes: Vec<usize> = wants(Want::Classes).collect();
            for (s, answer) in
                of_classes
                    .iter()
                    .zip(self.classes(task, &batch, &encoded, &of_classes))
            {
                answers[plan[*s]] = Some(answer);
            }
        }
    }

    fn embedding(&self, task: &Task, rows: Mat<'_>) -> Answer {
        Answer::Embedding(self.model.embed(task.embedder, rows))
    }

    fn classes(&self, task: &Task, batch: &Batch, encoded: &Matrix, of: &[usize]) -> Vec<Answer> {
        let Some(classifier) = task.classifier.as_ref().filter(|_| !of.is_empty()) else {
            return Vec::new();
        };
        let sequences = of.iter().map(|&s| batch.rows(s));
        let logits = self
            .model
            .classify(&classifier.head, encoded.view(), sequences);
        (0..of.len())
            .map(|i| Answer::Classes(Classes::new(classifier, logits.row(i))))
            .collect()
    }
}
