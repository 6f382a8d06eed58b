//! From texts to answers: names to tasks, texts to tokens, tokens to batches, hidden states to answers.
//!
//! An [`Engine`] is one model, its tokenizer and a registry of tasks. [`Engine::admit`] asks everything that can be
//! wrong with a request (an unknown adapter, a text too long, a task that cannot do it); what it returns can only
//! succeed. Synchronous throughout; queues, clocks and sockets belong to `server/`.

pub mod answer;
mod fan;
mod loading;
pub mod refused;
pub mod registry;
pub mod request;
pub mod resident;
pub mod scheduler;
pub mod selftest;
pub mod tags;

use std::sync::Arc;

use rayon::prelude::*;

use self::scheduler::Item;
pub use self::{
    answer::{Answer, Classes},
    refused::Refused,
    registry::Registry,
    request::{Admitted, Request, Want},
    resident::Resident,
    tags::{Aggregation, Entity},
};
use crate::{
    error::{Error, Result},
    mat::Matrix,
    model::{Batch, Classifier, Embedder, Level, Model, Sequence, Task},
    text::{Encoded, Limit, Tokenizer},
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
        let generation = model.packed().content_hash().to_owned();
        let registry = Registry::new(Resident::new(model.base_task()?, generation));
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

    /// Tokenises and checks `request`, cut as `limit` says (a [`crate::text::Truncate`] or a [`Limit`], of which the
    /// model's own is the most). The task is held by what is returned: replacing the adapter later does not
    /// change this request's answer.
    ///
    /// # Errors
    /// [`Error::UnknownAdapter`], [`Error::WrongTask`], [`Error::TooLong`], [`Error::EmptyInput`].
    pub fn admit(&self, request: &Request<'_>, limit: impl Into<Limit>) -> Result<Admitted> {
        self.admit_sharing(request, limit.into(), &mut None)
    }

    /// As [`Engine::admit`], for requests of one text: `encoded` is its tokens once one of them was admitted.
    fn admit_sharing(
        &self,
        request: &Request<'_>,
        limit: Limit,
        encoded: &mut Option<Arc<Encoded>>,
    ) -> Result<Admitted> {
        let task = self.registry.get(request.adapter)?;
        self.admit_to(&task, request, limit, encoded)
    }

    /// As [`Engine::admit`], for a task that was looked up before; the request's own `adapter` is not looked at.
    /// `encoded` is the text's tokens once a request of the same text was admitted, `None` before.
    ///
    /// # Errors
    /// As [`Engine::admit`].
    pub fn admit_to(
        &self,
        task: &Arc<Resident>,
        request: &Request<'_>,
        limit: impl Into<Limit>,
        encoded: &mut Option<Arc<Encoded>>,
    ) -> Result<Admitted> {
        can(task, request)?;
        let encoded = match encoded {
            Some(encoded) => encoded.clone(),
            None => encoded
                .insert(Arc::new(self.encode(request, task, limit.into())?))
                .clone(),
        };
        let pieces = match request.want {
            Want::Tags(_) => tags::pieces(&self.tokenizer, request.text, &encoded),
            _ => Vec::new(),
        };
        Ok(Admitted {
            encoded,
            task: task.clone(),
            want: request.want,
            pieces,
        })
    }

    /// Admits token ids instead of a text, for anything but tags; the special tokens are added where they are not there.
    ///
    /// # Errors
    /// As [`Engine::admit`].
    pub fn admit_ids(
        &self,
        task: &Arc<Resident>,
        ids: &[u32],
        want: Want,
        limit: impl Into<Limit>,
    ) -> Result<Admitted> {
        if ids.is_empty() {
            return Err(Error::EmptyInput);
        }
        let request = Request {
            text: "",
            pair: None,
            adapter: None,
            want,
        };
        can(task, &request)?;
        let encoded = self.tokenizer.encode_ids(ids, self.within(limit.into()))?;
        Ok(Admitted {
            encoded: Arc::new(self.fitting(encoded, task)?),
            task: task.clone(),
            want,
            pieces: Vec::new(),
        })
    }

    /// `limit`, at most what the model takes.
    fn within(&self, limit: Limit) -> Limit {
        let max = limit.max.min(self.model.max_tokens());
        Limit { max, ..limit }
    }

    fn encode(&self, request: &Request<'_>, task: &Task, limit: Limit) -> Result<Encoded> {
        if [Some(request.text), request.pair]
            .into_iter()
            .flatten()
            .any(|t| t.trim().is_empty())
        {
            return Err(Error::EmptyInput);
        }
        let limit = self.within(limit);
        let encoded = self.tokenizer.encode(request.text, request.pair, limit)?;
        self.fitting(encoded, task)
    }

    /// `encoded`, if the model has a row for each of its ids.
    fn fitting(&self, mut encoded: Encoded, task: &Task) -> Result<Encoded> {
        let vocab = self.model.spec().vocab;
        if let Some(id) = encoded.ids.iter().find(|&&id| id as usize >= vocab) {
            let why = format!("it has token id {id} and the model has {vocab} rows");
            return Err(unable(task, "read this text", why));
        }
        let types = self.model.spec().embed.types.max(1) as u32;
        // Families with one token type call both halves of a pair type 0.
        encoded
            .types
            .iter_mut()
            .for_each(|t| *t = (*t).min(types - 1));
        Ok(encoded)
    }

    /// Answers `rows`, in their order. Rows of all adapters share batches; a row whose numbers overflow has
    /// [`Answer::Overflow`], and its neighbours have theirs.
    pub fn run(&self, rows: &[Admitted]) -> Vec<Answer> {
        let items: Vec<Item> = rows
            .iter()
            .map(|row| Item {
                tokens: row.encoded.ids.len(),
                task: Arc::as_ptr(&row.task) as usize,
                text: Arc::as_ptr(&row.encoded) as usize,
            })
            .collect();
        let mut answers: Vec<Option<Answer>> = rows.iter().map(|_| None).collect();
        for plan in scheduler::plan(&items, self.max_batch_tokens) {
            self.run_batch(rows, &plan, &mut answers);
        }
        answers
            .into_iter()
            .map(|a| a.expect("the plan names every row once").checked())
            .collect()
    }

    /// Admits and answers many requests; each row its own result, with the number of its tokens.
    ///
    /// Consecutive requests of one text are tokenised once, and the layers that none of their tasks adapts are
    /// computed once; the bits are those of each request alone.
    pub fn answer(
        &self,
        requests: &[Request<'_>],
        limit: impl Into<Limit>,
    ) -> Vec<Result<(Answer, usize)>> {
        let texts: Vec<&[Request<'_>]> = requests
            .chunk_by(|a, b| a.text == b.text && a.pair == b.pair)
            .collect();
        let limit = limit.into();
        let admit = |requests: &&[Request<'_>]| {
            let mut encoded = None;
            let admit = |r| self.admit_sharing(r, limit, &mut encoded);
            requests.iter().map(admit).collect::<Vec<_>>()
        };
        let admitted: Vec<Vec<Result<Admitted>>> = texts.par_iter().map(admit).collect();
        let admitted: Vec<Result<Admitted>> = admitted.into_iter().flatten().collect();
        let mut errors = Vec::with_capacity(admitted.len());
        let mut good = Vec::with_capacity(admitted.len());
        for result in admitted {
            errors.push(result.map(|row| good.push(row)).err());
        }
        let mut answers = self.run(&good).into_iter().zip(&good);
        let next = |error: Option<Error>| match error {
            Some(error) => Err(error),
            None => match answers.next().expect("one answer an admitted row") {
                (Answer::Overflow, row) => Err(Error::Overflow {
                    task: row.task.shown(),
                }),
                (answer, row) => Ok((answer, row.encoded.len())),
            },
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
                .is_some_and(|last| std::ptr::eq(*last, task.task()))
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
        let texts: Vec<*const Encoded> = plan
            .iter()
            .map(|&row| Arc::as_ptr(&rows[row].encoded))
            .collect();
        let encoded = fan::forward(&self.model, &batch, &tasks, &texts);
        for group in batch.groups() {
            let task = tasks[group.task];
            let mut classified = Vec::new();
            for s in group.sequences.clone() {
                let row = &rows[plan[s]];
                let hidden = encoded.view().row_range(batch.rows(s));
                match row.want {
                    Want::Embedding | Want::Pooled => {
                        let normalize = task.embedder.normalize && row.want == Want::Embedding;
                        let embedder = Embedder {
                            normalize,
                            ..task.embedder
                        };
                        let vector = self.model.embed(embedder, hidden);
                        answers[plan[s]] = Some(Answer::Embedding(vector));
                    }
                    Want::Tokens => {
                        let mut vectors = Matrix::zeros(hidden.rows(), hidden.cols());
                        vectors.view_mut().copy_from(hidden);
                        answers[plan[s]] = Some(Answer::Tokens(vectors));
                    }
                    Want::Tags(how) => {
                        let classifier = classifier_of(task);
                        let logits = self.model.tag(&classifier.head, hidden);
                        if !logits.as_slice().iter().all(|x| x.is_finite()) {
                            // Otherwise it would be a text in which nothing was found.
                            answers[plan[s]] = Some(Answer::Overflow);
                            continue;
                        }
                        let labels = &classifier.labels;
                        let found =
                            tags::entities(&self.tokenizer, &row.pieces, logits, labels, how);
                        answers[plan[s]] = Some(Answer::Tags(found));
                    }
                    Want::Classes | Want::Relevance => classified.push(s),
                }
            }
            if classified.is_empty() {
                continue;
            }
            let classifier = classifier_of(task);
            let of = classified.iter().map(|&s| batch.rows(s));
            let logits = (self.model).classify(&classifier.head, encoded.view(), of);
            for (i, s) in classified.into_iter().enumerate() {
                let logits = logits.row(i);
                answers[plan[s]] = Some(match rows[plan[s]].want {
                    Want::Relevance => Answer::Relevance(logits[0]),
                    _ => Answer::Classes(Classes::new(classifier, logits)),
                });
            }
        }
    }
}

fn classifier_of(task: &Task) -> &Classifier {
    (task.classifier.as_ref()).expect("admission asked whether the task has a head")
}

fn unable(task: &Task, wanted: &'static str, why: impl Into<String>) -> Error {
    Error::WrongTask {
        task: task.shown(),
        wanted,
        why: why.into(),
    }
}

/// Whether `task` can do what `request` wants.
fn can(task: &Task, request: &Request<'_>) -> Result<()> {
    let (wanted, level) = match request.want {
        Want::Embedding | Want::Pooled | Want::Tokens => return Ok(()),
        Want::Classes => ("classify", Level::Sequence),
        Want::Relevance => ("rerank", Level::Sequence),
        Want::Tags(_) => ("tag", Level::Token),
    };
    let Some(classifier) = &task.classifier else {
        return Err(unable(task, wanted, "it has no classification head"));
    };
    match (classifier.level, level) {
        (Level::Token, Level::Sequence) => {
            return Err(unable(task, wanted, "its head labels tokens, not texts"));
        }
        (Level::Sequence, Level::Token) => {
            return Err(unable(task, wanted, "its head labels texts, not tokens"));
        }
        _ => {}
    }
    match request.want {
        Want::Tags(_) if request.pair.is_some() => Err(unable(
            task,
            wanted,
            "a pair was given, and tags are of one text",
        )),
        Want::Relevance if classifier.head.outputs() != 1 => {
            let outputs = classifier.head.outputs();
            let why = format!("its head has {outputs} outputs, and a score is one");
            Err(unable(task, wanted, why))
        }
        _ => Ok(()),
    }
}
