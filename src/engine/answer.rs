//! What a row's outputs mean: logits to labels and scores.

use std::sync::Arc;

use super::tags::Entity;
use crate::{
    kernel::softmax,
    mat::{MatMut, Matrix},
    model::Classifier,
    spec::Problem,
};

/// The answer to one row.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// One vector.
    Embedding(Vec<f32>),
    /// A vector a token, `[T x H]`.
    Tokens(Matrix),
    /// Labels and scores.
    Classes(Classes),
    /// What was found, in order of the text.
    Tags(Vec<Entity>),
    /// The logit of a pair.
    Relevance(f32),
    /// An output is not a finite number: the task's weights overflow on this text, and nothing can be said.
    Overflow,
}

impl Answer {
    /// The same, or [`Answer::Overflow`] where a number in it is not finite.
    pub(super) fn checked(self) -> Self {
        let finite = match &self {
            Answer::Embedding(vector) => vector.iter().all(|x| x.is_finite()),
            Answer::Tokens(vectors) => vectors.as_slice().iter().all(|x| x.is_finite()),
            // A logit without end may have a score of 0 or 1.
            Answer::Classes(classes) => classes.logits.iter().all(|x| x.is_finite()),
            Answer::Tags(found) => found.iter().all(|e| e.score.is_finite()),
            Answer::Relevance(logit) => logit.is_finite(),
            Answer::Overflow => false,
        };
        if finite { self } else { Answer::Overflow }
    }
}

/// The outputs of a sequence classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Classes {
    /// Raw outputs, one a label.
    pub logits: Vec<f32>,
    /// Single label: softmax. Multi-label: a sigmoid each. Regression: the logits.
    pub scores: Vec<f32>,
    /// Names, one an output.
    pub labels: Arc<[String]>,
    /// Which of the three it is.
    pub problem: Problem,
}

impl Classes {
    /// Reads `logits` as `classifier` means them.
    pub fn new(classifier: &Classifier, logits: &[f32]) -> Self {
        let mut scores = logits.to_vec();
        match classifier.problem {
            Problem::Regression => {}
            Problem::SingleLabelClassification => {
                let n = scores.len();
                softmax::softmax(MatMut::new(&mut scores, 1, n));
            }
            Problem::MultiLabelClassification => softmax::sigmoid(&mut scores),
        }
        Self {
            logits: logits.to_vec(),
            scores,
            labels: classifier.labels.clone(),
            problem: classifier.problem,
        }
    }

    /// Index of the best output; the first of equals.
    pub fn best(&self) -> usize {
        let better = |best: usize, i: usize| {
            if self.logits[i] > self.logits[best] {
                i
            } else {
                best
            }
        };
        (1..self.logits.len()).fold(0, better)
    }
}
