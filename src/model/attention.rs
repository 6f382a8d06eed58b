//! Attention of every sequence of a batch: which kernel call its facts mean.

use super::block::Pass;
use crate::{
    mat::{Mat, MatMut},
    spec::LayerSpec,
};

/// What happens to q and k before attention: rotary positions.
pub fn positions(_spec: &LayerSpec, _pass: Pass<'_>, _qkv: MatMut<'_>) {}

/// Attention over `qkv [T x 3H]`, sequence by sequence, into `out [T x H]`. TEMPORARY naive body.
pub fn forward(_spec: &LayerSpec, pass: Pass<'_>, _layer: usize, qkv: Mat<'_>, mut out: MatMut<'_>) {
    let h = out.cols();
    let d = h / pass.heads;
    let scale = 1.0 / (d as f32).sqrt();
    for s in 0..pass.batch.sequences() {
        let rows = pass.batch.rows(s);
        for n in 0..pass.heads {
            for i in rows.clone() {
                let q = &qkv.row(i)[n * d..][..d];
                let mut p: Vec<f32> = rows.clone().map(|j| q.iter().zip(&qkv.row(j)[h + n * d..][..d]).map(|(a, b)| a * b).sum::<f32>() * scale).collect();
                let len = p.len();
                crate::kernel::softmax::softmax(MatMut::new(&mut p, 1, len));
                let y = &mut out.row_mut(i)[n * d..][..d];
                y.fill(0.0);
                for (j, p) in rows.clone().zip(&p) {
                    for (y, v) in y.iter_mut().zip(&qkv.row(j)[2 * h + n * d..][..d]) {
                        *y += p * v;
                    }
                }
            }
        }
    }
}
