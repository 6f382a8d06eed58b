//! The gradient of the embedding layer: of its projection, its norm and its tables, whichever are trained.

use super::Embedding;
use crate::{
    mat::{Mat, Matrix},
    model::{
        backward::Gradients,
        batch::Batch,
        linear::backward::{InputGradient, Trained, Transposed},
        parameters::{NormAt, TableAt},
        task::Task,
    },
    spec::Positions,
};

impl Embedding {
    /// Adds what is trained here to `gradients`, given the gradient `d [T x H]` of [`Embedding::forward`]'s answer.
    pub fn backward(
        &self,
        batch: &Batch,
        task: &Task,
        transposed: &Transposed,
        d: Mat<'_>,
        gradients: &mut Gradients,
    ) {
        let (t, width) = (batch.tokens(), self.width());
        let deeper = !gradients.base.norms.is_empty() || !gradients.base.tables.is_empty();
        let mut narrow = Matrix::default();
        let mut d = d;
        if let Some(project) = &self.project {
            let mut x = Matrix::zeros(t, width);
            self.rows(batch, x.view_mut());
            // x = wide Wt + b
            let to = match deeper {
                true => InputGradient::Write(narrow.reshape(t, width)),
                false => InputGradient::None,
            };
            let trained = Trained::at(project, Some(task), gradients);
            project.backward(transposed, x.view(), d, trained, to);
            d = narrow.view();
        }
        if !deeper {
            return;
        }
        let mut before = Matrix::default();
        if let Some(norm) = &self.norm {
            let mut x = Matrix::zeros(t, width);
            self.sums(batch, x.view_mut());
            // wide = norm(sum of rows)
            let of_norm = gradients.base.norms.get_mut(&NormAt::Embedding);
            norm.backward(x.view(), d, before.reshape(t, width), of_norm);
            d = before.view();
        }
        // sum += table[row]
        let tables = &mut gradients.base.tables;
        if tables.is_empty() {
            return;
        }
        self.each(batch, |t, at, row| {
            // Reference implementations keep the rows of padding as they are.
            let padding = match at {
                TableAt::Word => true,
                TableAt::Position => matches!(self.positions, Positions::FromPad { .. }),
                TableAt::Types => false,
            };
            if padding && row == self.pad as usize {
                return;
            }
            if let Some(table) = tables.get_mut(&at) {
                let mut table = table.view_mut();
                let to = table.row_mut(row).iter_mut();
                to.zip(d.row(t)).for_each(|(to, d)| *to += d);
            }
        });
    }
}
