//! Vectors as routes give them: prompts before, dimensions and the norm after.

use std::time::Instant;

use super::{
    body::Inputs,
    failure::Failure,
    options::DefaultPrompt,
    select::Choice,
    state::{App, State},
    submit::{self, Answers, Ask},
};
use crate::{
    engine::{Answer, Want},
    kernel::pool,
    text::Limit,
};

/// What is made of a vector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Keep the first so many numbers.
    pub(super) dimensions: Option<usize>,
    /// Divide by the norm, after cutting.
    pub(super) normalize: bool,
}

impl State {
    /// What stands before each text: the prompt of that name, or the default one of the server, or of the model.
    pub(super) fn prompt(&self, name: Option<&str>) -> Result<&str, Failure> {
        let sentence = self.engine.model().sentence();
        let name = match (name, &self.options.default_prompt) {
            (None, Some(DefaultPrompt::Text(text))) => return Ok(text),
            (None, Some(DefaultPrompt::Named(name))) => Some(name.as_str()),
            (None, None) => sentence.default_prompt.as_deref(),
            (named, _) => named,
        };
        let Some(name) = name else {
            return Ok("");
        };
        let prompt = sentence.prompts.get(name).map(String::as_str);
        prompt.ok_or_else(|| {
            let known: Vec<&str> = sentence.prompts.keys().map(String::as_str).collect();
            let known = known.join(", ");
            let why = format!("no prompt is named {name:?}; known: {known}");
            Failure::invalid("prompt_name", why)
        })
    }

    /// Checks what is asked of a vector.
    pub(super) fn shape(
        &self,
        dimensions: Option<usize>,
        normalize: bool,
    ) -> Result<Shape, Failure> {
        let whole = self.engine.model().spec().hidden;
        match dimensions {
            Some(n) if n == 0 || n > whole => {
                let why = format!("expected 1 to {whole}, found {n}");
                Err(Failure::invalid("dimensions", why))
            }
            dimensions => Ok(Shape {
                dimensions,
                normalize,
            }),
        }
    }
}

/// A vector an input and adapter, and the rest of the answer.
pub(super) async fn embed(
    app: &App,
    inputs: Inputs,
    prompt: &str,
    choice: Choice,
    limit: Limit,
    deadline: Instant,
    shape: Shape,
) -> Result<(Vec<Vec<f32>>, Answers), Failure> {
    let ask = Ask {
        field: "inputs",
        texts: inputs.texts(prompt),
        choice,
        want: Want::Pooled,
        limit,
        deadline,
    };
    let mut answers = submit::answer(app, ask).await?;
    let vectors = std::mem::take(&mut answers.answers).into_iter();
    let vectors = vectors.map(|answer| {
        let Answer::Embedding(mut vector) = answer else {
            unreachable!("a vector was asked for")
        };
        vector.truncate(shape.dimensions.unwrap_or(usize::MAX));
        if shape.normalize {
            pool::normalize(&mut vector);
        }
        vector
    });
    Ok((vectors.collect(), answers))
}
