//! What is trained: A, B and the gates of every chosen site, and the head, as plain f32 matrices.
//!
//! `y += s ((x At) o g) Bt`. At each step the ranks that take part are packed into an ordinary task, scale and gate
//! folded into B, so the forward pass is the runtime's own; [`Live::gradients`] takes the fold apart again:
//! with `u_j = s g_j B_j`, `dB_j = s g_j du_j` and `dg_j = s <B_j, du_j>`. A rank whose gate is 0 is left out; steps that
//! ask whether it revives compute `dg_j` alone (`model::linear::probe`). AdaLoRA's singular values are gates too.
//!
//! B is kept transposed, `[R x out]`, so that row j of a site's three matrices is its rank j.

mod base;
mod bound;
mod export;
mod facts;
mod head;

use std::{collections::BTreeMap, sync::Arc};

pub use self::facts::{Facts, GateInit, Method, Trainable};
use self::head::LiveHead;
use super::random::Random;
use crate::{
    error::{Error, Result},
    kernel::panel::{OwnedPanels, Precision},
    mat::{Mat, Matrix},
    model::{
        Classifier, Level, Model, Task,
        backward::Gradients,
        linear::{
            LowRank, LowRankPart,
            probe::{ClosedRanks, Probe},
        },
        parameters::{BaseKinds, BaseParameter},
        sites::Site,
    },
    spec::Problem,
};

/// What a parameter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `[R x in]`
    A,
    /// `[R x out]`: B transposed.
    B,
    /// `[R x 1]`
    Gate,
    /// Of the head.
    Head,
    /// Of a linear of the base, `[1 x N]`.
    Bias,
    /// Weight or bias of a norm of the base, `[1 x H]`.
    Norm,
    /// Of a linear of the base, `[N x K]`.
    Weight,
    /// A table of the base's embedding layer, `[rows x E]`.
    Embedding,
}

/// One trained matrix.
#[derive(Debug, Clone)]
pub struct Parameter {
    /// `<module>.a`, `.b`, `.gate`, or the tensor's own name in a checkpoint.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its values.
    pub value: Matrix,
}

/// Deviation of AdaLoRA's singular vectors at the start, as peft has it.
const VECTOR_DEVIATION: f64 = 0.02;
/// What peft adds to the rank that AdaLoRA's scale divides by.
const RANK_EPSILON: f32 = 1e-5;

/// One trained site.
#[derive(Debug, Clone)]
struct LiveSite {
    /// Module path with the model class's prefix.
    path: String,
    site: Site,
    a: usize,
    b: usize,
    gate: Option<usize>,
    scale: f32,
}

/// Everything that is trained.
#[derive(Debug, Clone)]
pub struct Live {
    /// The matrices.
    pub parameters: Vec<Parameter>,
    sites: Vec<LiveSite>,
    head: LiveHead,
    problem: Problem,
    level: Level,
    labels: Arc<[String]>,
    slots: usize,
    kinds: BaseKinds,
    base: Vec<(usize, BaseParameter)>,
}

/// The task of one step, which ranks of each site are in it, and which are closed and asked whether they revive.
#[derive(Debug)]
pub struct Bound {
    /// The task.
    pub task: Task,
    ranks: Vec<Vec<usize>>,
    asked: Vec<Vec<usize>>,
    closed: Vec<Option<Arc<ClosedRanks>>>,
}

impl Bound {
    /// Gradients of zero for the gates of closed ranks, by slot.
    pub(super) fn probes(&self) -> Vec<Option<Probe>> {
        let closed = self.closed.iter();
        closed.map(|c| Some(Probe::new(c.as_ref()?))).collect()
    }
}

impl Live {
    /// Starts everything: A uniform within `1 / sqrt(in)`, B zero (AdaLoRA: A and B normal with deviation 0.02, gates
    /// zero), the head as the checkpoint has it where it has one of this shape, else normal with deviation 0.02.
    ///
    /// # Errors
    /// A site that no linear answers to; a head's tensor that cannot be read.
    pub fn new(model: &Model, facts: &Facts<'_>) -> Result<Self> {
        let prefixes = model.spec().names.prefixes;
        let prefix = prefixes
            .iter()
            .find(|p| !p.is_empty())
            .copied()
            .unwrap_or("");
        let mut live = Self {
            parameters: Vec::new(),
            sites: Vec::new(),
            head: LiveHead::new(match facts.level {
                Level::Sequence => model.spec().sequence_head,
                Level::Token => model.spec().token_head,
            }),
            problem: facts.problem,
            level: facts.level,
            labels: facts.labels.clone().into(),
            slots: model.packed().slots(),
            kinds: BaseKinds::default(),
            base: Vec::new(),
        };
        let trainable = facts.method.trainable();
        if trainable.low_rank {
            let mut used = vec![false; facts.sites.len()];
            for site in model.sites().all() {
                let path = format!("{prefix}{}", site.path);
                let named = |name: &String| {
                    path == *name
                        || path
                            .strip_suffix(name.as_str())
                            .is_some_and(|p| p.ends_with('.'))
                };
                let mut wanted = facts.sites.is_empty();
                for (name, used) in facts.sites.iter().zip(&mut used) {
                    if named(name) {
                        (*used, wanted) = (true, true);
                    }
                }
                if wanted {
                    live.add_site(path, site, facts);
                }
            }
            if let Some(i) = used.iter().position(|u| !u) {
                let why = format!("no linear of this base is called {:?}", facts.sites[i]);
                return Err(Error::format(model.tensors().path(), why));
            }
        }
        live.add_base(model, trainable.base)?;
        live.add_head(model, prefix, facts)?;
        Ok(live)
    }

    fn push(&mut self, name: String, kind: Kind, value: Matrix) -> usize {
        self.parameters.push(Parameter { name, kind, value });
        self.parameters.len() - 1
    }

    fn add_site(&mut self, path: String, site: &Site, facts: &Facts<'_>) {
        let (r, k, n) = (facts.r_max, site.inputs, site.columns.len());
        let start = |part: &str, rows: usize, cols: usize, draw: &dyn Fn(&mut Random) -> f64| {
            let mut random = Random::new(facts.seed, &format!("{path}.{part}"));
            let values = (0..rows * cols).map(|_| draw(&mut random) as f32);
            Matrix::from_vec(values.collect(), rows, cols)
        };
        let uniform = |random: &mut Random| (2.0 * random.uniform() - 1.0) / (k as f64).sqrt();
        let small = |random: &mut Random| VECTOR_DEVIATION * random.normal();
        let (a, b, gate, scale) = match facts.method {
            Method::Adalora => (
                start("a", r, k, &small),
                start("b", r, n, &small),
                Some(Matrix::zeros(r, 1)),
                facts.alpha / (r as f32 + RANK_EPSILON),
            ),
            _ => (
                start("a", r, k, &uniform),
                Matrix::zeros(r, n),
                (facts.method.trainable().gates).then(|| match facts.gate_init {
                    GateInit::Ones => start("gate", r, 1, &|_| 1.0),
                    GateInit::Normal => start("gate", r, 1, &Random::normal),
                }),
                facts.alpha / r as f32,
            ),
        };
        let a = self.push(format!("{path}.a"), Kind::A, a);
        let b = self.push(format!("{path}.b"), Kind::B, b);
        let gate = gate.map(|g| self.push(format!("{path}.gate"), Kind::Gate, g));
        let site = site.clone();
        self.sites.push(LiveSite {
            path,
            site,
            a,
            b,
            gate,
            scale,
        });
    }

    /// Places of A, B and the gates of every site that has gates.
    pub(super) fn triplets(&self) -> Vec<[usize; 3]> {
        let sites = self.sites.iter();
        sites.filter_map(|s| Some([s.a, s.b, s.gate?])).collect()
    }

    /// The task of a step: open ranks. Those whose gate is 0 have a gradient of it only when `all` is set; that of their A
    /// and B is 0 whatever comes.
    pub fn bind(&self, model: &Model, all: bool) -> Bound {
        let (mut ranks, mut asked) = (Vec::new(), Vec::new());
        let mut by_slot: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, site) in self.sites.iter().enumerate() {
            let r = self.parameters[site.a].value.rows();
            let (open, closed) = (0..r).partition::<Vec<_>, _>(|&j| self.gate_of(site, j) != 0.0);
            ranks.push(open);
            asked.push(if all { closed } else { Vec::new() });
            by_slot.entry(site.site.slot).or_default().push(i);
        }
        let (mut factors, mut closed) = (vec![None; self.slots], vec![None; self.slots]);
        for (slot, sites) in by_slot {
            factors[slot] = self.pack(&sites, &ranks);
            closed[slot] = self.pack_closed(&sites, &asked).map(Arc::new);
        }
        let classifier = Classifier {
            head: Arc::new(self.head()),
            level: self.level,
            labels: self.labels.clone(),
            problem: self.problem,
        };
        let task = model.assemble(factors, Some(classifier));
        Bound {
            task,
            ranks,
            asked,
            closed,
        }
    }

    fn gate_of(&self, site: &LiveSite, j: usize) -> f32 {
        site.gate
            .map_or(1.0, |g| self.parameters[g].value.row(j)[0])
    }

    fn pack(&self, sites: &[usize], ranks: &[Vec<usize>]) -> Option<LowRank> {
        let (mut stacked, mut parts, mut first) = (Vec::new(), Vec::new(), 0);
        for &i in sites {
            let (site, kept) = (&self.sites[i], &ranks[i]);
            if kept.is_empty() {
                continue;
            }
            let (a, b) = (
                &self.parameters[site.a].value,
                &self.parameters[site.b].value,
            );
            kept.iter()
                .for_each(|&j| stacked.extend_from_slice(a.row(j)));
            let n = b.cols();
            let mut up = vec![0.0; n * kept.len()];
            for (c, &j) in kept.iter().enumerate() {
                let by = site.scale * self.gate_of(site, j);
                for (r, &b) in b.row(j).iter().enumerate() {
                    up[r * kept.len() + c] = b * by;
                }
            }
            let up = Mat::new(&up, n, kept.len());
            parts.push(LowRankPart {
                columns: site.site.columns.clone(),
                ranks: first..first + kept.len(),
                up: OwnedPanels::pack(up, Precision::F32, false),
            });
            first += kept.len();
        }
        if first == 0 {
            return None;
        }
        let k = stacked.len() / first;
        let down = Matrix::from_vec(stacked, first, k);
        Some(LowRank { down, parts })
    }

    fn pack_closed(&self, sites: &[usize], asked: &[Vec<usize>]) -> Option<ClosedRanks> {
        let (mut stacked, mut parts, mut first) = (Vec::new(), Vec::new(), 0);
        let rows = |of: usize, ranks: &[usize]| {
            let value = &self.parameters[of].value;
            ranks.iter().flat_map(|&j| value.row(j)).copied().collect()
        };
        for &i in sites {
            let (site, ranks) = (&self.sites[i], &asked[i]);
            if ranks.is_empty() {
                continue;
            }
            let a: Vec<f32> = rows(site.a, ranks);
            stacked.extend(a);
            let columns = site.site.columns.clone();
            let up = Matrix::from_vec(rows(site.b, ranks), ranks.len(), columns.len());
            parts.push((columns, first..first + ranks.len(), up));
            first += ranks.len();
        }
        let k = stacked.len().checked_div(first)?;
        let down = Matrix::from_vec(stacked, first, k);
        Some(ClosedRanks { down, parts })
    }

    /// Whether a chosen site is part of the linear in `slot`.
    pub fn trains(&self, slot: usize) -> bool {
        self.sites.iter().any(|s| s.site.slot == slot)
    }

    /// The gradient of every parameter, from those of `bound`'s task and of the base.
    pub fn gradients(&self, bound: &Bound, from: Gradients) -> Vec<Matrix> {
        let zeros = |p: &Parameter| Matrix::zeros(p.value.rows(), p.value.cols());
        let mut out: Vec<Matrix> = self.parameters.iter().map(zeros).collect();
        let mut first: BTreeMap<usize, (usize, usize)> = BTreeMap::new(); // rank and part within a slot
        for (site, kept) in self.sites.iter().zip(&bound.ranks) {
            if kept.is_empty() {
                continue;
            }
            let (rank, part) = first.entry(site.site.slot).or_default();
            let low = from.factors[site.site.slot].as_ref();
            let low = low.expect("a slot with factors has their gradient");
            let du = &low.up[*part];
            for (c, &j) in kept.iter().enumerate() {
                let by = site.scale * self.gate_of(site, j);
                out[site.a]
                    .view_mut()
                    .row_mut(j)
                    .copy_from_slice(low.down.row(*rank + c));
                let b = self.parameters[site.b].value.row(j);
                let mut dot = 0.0f64;
                let mut db = out[site.b].view_mut();
                for ((db, &d), &b) in db.row_mut(j).iter_mut().zip(du.row(c)).zip(b) {
                    *db = by * d;
                    dot += f64::from(b) * f64::from(d);
                }
                if let Some(gate) = site.gate {
                    out[gate].view_mut().row_mut(j)[0] = (f64::from(site.scale) * dot) as f32;
                }
            }
            *rank += kept.len();
            *part += 1;
        }
        let mut first = vec![0; self.slots]; // rank within a slot
        for (site, asked) in self.sites.iter().zip(&bound.asked) {
            let (Some(gate), Some(probe)) = (site.gate, from.probes.get(site.site.slot)) else {
                continue;
            };
            let first = &mut first[site.site.slot];
            for (&j, d) in asked
                .iter()
                .zip(probe.iter().flat_map(|p| &p.gates[*first..]))
            {
                out[gate].view_mut().row_mut(j)[0] = (f64::from(site.scale) * d) as f32;
            }
            *first += asked.len();
        }
        self.head_gradients(&from.head, &mut out);
        self.base_gradients(from.base, &mut out);
        out
    }

    /// Which rows of every parameter took part in `bound`; `None` is all.
    pub fn masks(&self, bound: &Bound) -> Vec<Option<Vec<bool>>> {
        let mut out = vec![None; self.parameters.len()];
        let took_part = bound.ranks.iter().zip(&bound.asked);
        for (site, (open, asked)) in self.sites.iter().zip(took_part) {
            let r = self.parameters[site.a].value.rows();
            if open.len() + asked.len() < r {
                let mask: Vec<bool> = (0..r).map(|j| open.binary_search(&j).is_ok()).collect();
                [Some(site.a), Some(site.b), site.gate]
                    .into_iter()
                    .flatten()
                    .for_each(|i| out[i] = Some(mask.clone()));
            }
        }
        out
    }

    /// Ranks whose gate is open, and parameters of A and B in them.
    pub fn kept(&self) -> (usize, usize) {
        let mut total = (0, 0);
        for site in &self.sites {
            let r = self.parameters[site.a].value.rows();
            let open = (0..r).filter(|&j| self.gate_of(site, j) != 0.0).count();
            total.0 += open;
            total.1 += open * (site.site.inputs + site.site.columns.len());
        }
        total
    }

    /// Rank and gates of every site, by module path.
    pub fn ranks(&self) -> Vec<(String, usize, Vec<f32>)> {
        let of = |site: &LiveSite| {
            let r = self.parameters[site.a].value.rows();
            let gates: Vec<f32> = (0..r).map(|j| self.gate_of(site, j)).collect();
            let rank = gates.iter().filter(|g| **g != 0.0).count();
            (site.path.clone(), rank, gates)
        };
        self.sites.iter().map(of).collect()
    }
}
