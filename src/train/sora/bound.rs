//! A bound on what stays: ranks that change the base least are closed until few enough are left.
//!
//! A variant of ours, not the paper's. Not here: when (`run`), and whether a closed rank may come back (only while gates move).

use super::Live;

impl Live {
    /// Closes ranks until at most `share` of the parameters that A and B began with is left, first those whose update
    /// `g_j B_j A_j` of the site's weight has the smallest squared norm (Frobenius) a parameter. Sites without gates stay as they are.
    pub fn keep_at_most(&mut self, share: f64) {
        let (mut full, mut open) = (0, Vec::new());
        for (i, site) in self.sites.iter().enumerate() {
            let value = |of: usize| &self.parameters[of].value;
            let (a, b) = (value(site.a), value(site.b));
            let cost = a.cols() + b.cols();
            full += a.rows() * cost;
            let square = |row: &[f32]| row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>();
            for j in (0..a.rows()).filter(|_| site.gate.is_some()) {
                let gate = f64::from(site.scale * self.gate_of(site, j));
                if gate != 0.0 {
                    let change = gate.powi(2) * square(a.row(j)) * square(b.row(j));
                    open.push((change / cost as f64, i, j, cost));
                }
            }
        }
        open.sort_by(|x, y| x.0.total_cmp(&y.0));
        let mut kept = self.kept().1;
        for (_, i, j, cost) in open {
            if kept as f64 <= share * full as f64 {
                break;
            }
            let gate = self.sites[i]
                .gate
                .expect("only sites with gates were looked at");
            self.parameters[gate].value.view_mut().row_mut(j)[0] = 0.0;
            kept -= cost;
        }
    }
}
