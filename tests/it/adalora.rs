//! AdaLoRA against peft: fourteen steps, the ranks open after each, and what is left at the end.

use std::collections::BTreeMap;

use sorank::{
    adapter::Adapter,
    mat::Matrix,
    model::Level,
    spec::Problem,
    train::{
        Example, Kind, Learner, Method, Optimizer, Rates, Settings, Shares,
        adalora::{Allocator, Budget},
        sora::GateInit,
    },
};

use crate::{
    fixtures::{PARITY, distance, manifest_dir, read_tensors},
    training::fixture,
};

/// Of losses, norms and every parameter after fourteen steps, relative to the largest element; torch's own f32 run strays
/// by 2e-6 (`f32_noise`), and Adam divides what rounding leaves of small gradients by their own size.
const STEPS: f32 = 2e-5;

struct Golden {
    index: serde_json::Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Golden {
    fn read() -> Self {
        let dir = manifest_dir().join("tests/reference/adalora");
        let read = |name: &str| std::fs::read(dir.join(name)).expect("tests/reference/adalora");
        let index = serde_json::from_slice(&read("steps.json")).expect("steps.json is JSON");
        let tensors = read_tensors(&read("steps.safetensors"));
        Self { index, tensors }
    }

    fn number(&self, key: &str) -> f64 {
        self.index[key].as_f64().expect("a number")
    }

    /// In the shape that the trainer keeps: B transposed, values as a column.
    fn matrix(&self, name: &str, kind: Kind) -> Matrix {
        let (shape, data) = self.tensors.get(name).unwrap_or_else(|| panic!("{name}"));
        match (kind, &shape[..]) {
            (Kind::B, &[n, r]) => {
                let turned = (0..r).flat_map(|j| (0..n).map(move |i| data[i * r + j]));
                Matrix::from_vec(turned.collect(), r, n)
            }
            (_, &[n, k]) => Matrix::from_vec(data.clone(), n, k),
            (_, &[n]) => Matrix::from_vec(data.clone(), 1, n),
            _ => panic!("{name} has shape {shape:?}"),
        }
    }
}

#[test]
fn fourteen_steps_equal_pefts() {
    let (f, g) = (fixture("bert"), Golden::read());
    let budget = &g.index["budget"];
    let whole = |key: &str| budget[key].as_u64().expect("a whole number") as usize;
    let real = |key: &str| budget[key].as_f64().expect("a number") as f32;
    let facts = sorank::train::Facts {
        method: Method::Adalora,
        sites: &[],
        r_max: whole("init_r"),
        alpha: g.number("alpha") as f32,
        gate_init: GateInit::Ones,
        problem: Problem::SingleLabelClassification,
        level: Level::Sequence,
        labels: (0..3).map(|i| format!("LABEL_{i}")).collect(),
        seed: 1,
    };
    let mut live = sorank::train::Live::new(&f.model, &facts).expect("everything is there");
    for p in &mut live.parameters {
        match p.kind {
            Kind::A | Kind::B => p.value = g.matrix(&format!("init.{}", p.name), p.kind),
            Kind::Gate => assert!(p.value.as_slice().iter().all(|v| *v == 0.0)),
            _ => {}
        }
    }
    let settings = Settings {
        weight_decay: g.number("decay"),
        gate_weight_decay: g.number("decay"),
        head_weight_decay: g.number("head_decay"),
        gate_eps: Settings::default().eps,
        clip: g.number("clip"),
        ..Settings::default()
    };
    let steps = g.number("steps") as usize;
    let share = |key: &str| whole(key) as f64 / steps as f64;
    let budget = Budget {
        target_rank: whole("target_r"),
        first: share("tinit"),
        last: share("tfinal"),
        every: whole("deltaT"),
        betas: (real("beta1"), real("beta2")),
        orthogonality: real("orth_reg_weight"),
    };
    let allocator = || Allocator::new(budget, steps, &live);
    let mut optimizer = Optimizer::new(settings, &live.parameters).with_budget(allocator());
    let own = allocator();
    let examples = f.examples();
    let rows: Vec<&Example> = examples.iter().collect();
    let mut learner = Learner::new(&f.model, live, Shares::default(), 1).expect("a learner");
    for step in 0..steps {
        // A checkpoint's importance is all that another allocator needs to go on, in the fall and after the last choice.
        if step == 5 || step == 12 {
            let mut other = own.clone();
            let budget = optimizer.budget().expect("it has one");
            let saved: Vec<_> = budget.importance().map(|(p, m)| (p, m.clone())).collect();
            for ((p, to), (q, from)) in other.importance_mut().zip(saved) {
                assert_eq!(p, q);
                assert_ne!(*to, from);
                *to = from;
            }
            optimizer = optimizer.with_budget(other);
        }
        let bound = learner.bind(true);
        let (loss, mut gradients) = learner.gradients(&bound, &rows, step as u64);
        let term = (optimizer.budget().expect("it has one"))
            .orthogonality(&learner.live.parameters, &mut gradients.clone());
        let rates = Rates::all(g.index["lr"][step].as_f64().expect("a rate"));
        let parameters = &mut learner.live.parameters;
        let norm = optimizer.step(parameters, &mut gradients, &|_| None, rates);
        let near = |what: &str, got: f64| {
            let want = g.index[what][step].as_f64().expect("a number");
            let error = (got - want).abs() / want;
            assert!(
                error <= f64::from(STEPS),
                "{what} of step {step}: {error:e}"
            );
        };
        near("loss", loss + term);
        near("norm", norm);
        for (path, _, gates) in learner.live.ranks() {
            let open: String = gates
                .iter()
                .map(|g| ["0", "1"][usize::from(*g != 0.0)])
                .collect();
            let want = &g.index["open"][step][&path];
            assert_eq!(want.as_str(), Some(&*open), "{path}, step {step}");
        }
        assert_eq!(optimizer.wants_all(), step + 1 < steps - whole("tfinal"));
    }
    for p in &learner.live.parameters {
        let want = g.matrix(&format!("final.{}", p.name), p.kind);
        let error = distance(p.value.as_slice(), want.as_slice());
        assert!(error <= STEPS, "{}: {error:e}", p.name);
    }
    // What is written is an ordinary adapter of the ranks that are left.
    let bound = learner.bind(false);
    let trained = learner.logits(&bound, &rows);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("adapter");
    let adapter = learner.live.adapter(&f.model);
    adapter.write(&path).unwrap_or_else(|e| panic!("{e}"));
    let read = Adapter::read(&path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(read.parameters(), learner.live.kept().1);
    let task = f
        .model
        .bind("trained", &read)
        .unwrap_or_else(|e| panic!("{e}"));
    let served = crate::gradients::answers(&f.model, &task, &rows);
    for (s, trained) in trained.iter().enumerate() {
        let error = distance(served.row(s), trained.row(0));
        assert!(error <= PARITY, "row {s}: {error:e}");
    }
}
