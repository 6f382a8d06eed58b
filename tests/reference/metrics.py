"""Scores of random predictions by scikit-learn, scipy and seqeval, for the trainer's own metrics to be held against:
tests/reference/metrics.json. Needs numpy, scikit-learn, scipy, seqeval.

    python tests/reference/metrics.py
"""

import json
import random
import warnings
from pathlib import Path

from scipy.stats import pearsonr, spearmanr
from seqeval import metrics as entities
from sklearn import metrics

warnings.filterwarnings("ignore")
rng = random.Random(17)


def classes(labels, rows, right):
    truth = [rng.randrange(labels) for _ in range(rows)]
    said = [t if rng.random() < right else rng.randrange(labels) for t in truth]
    scores = {
        "accuracy": metrics.accuracy_score(truth, said),
        "matthews": metrics.matthews_corrcoef(truth, said),
        "macro_f1": metrics.f1_score(truth, said, average="macro"),
    }
    if labels == 2:
        scores["f1"] = metrics.f1_score(truth, said)
    return {"labels": labels, "truth": truth, "said": said, "scores": scores}


def regression(rows, noise, steps):
    # Multiples of 1 / steps, a power of two: exact as f32.
    truth = [round(rng.uniform(0, 5) * steps) / steps for _ in range(rows)]
    said = [round((t + rng.gauss(0, noise)) * steps) / steps for t in truth]
    scores = {
        "pearson": pearsonr(said, truth)[0],
        "spearman": spearmanr(said, truth)[0],
        "mse": metrics.mean_squared_error(truth, said),
    }
    return {"truth": truth, "said": said, "scores": scores}


def many(labels, rows):
    truth = [[rng.random() < 0.3 for _ in range(labels)] for _ in range(rows)]
    said = [[t if rng.random() < 0.8 else rng.random() < 0.5 for t in row] for row in truth]
    numbers = lambda rows: [[int(x) for x in row] for row in rows]
    scores = {
        "f1": metrics.f1_score(numbers(truth), numbers(said), average="micro"),
        "macro_f1": metrics.f1_score(numbers(truth), numbers(said), average="macro", zero_division=0),
        "accuracy": metrics.accuracy_score(numbers(truth), numbers(said)),
    }
    return {"truth": truth, "said": said, "scores": scores}


def tags(sentences, kinds, wild):
    """Sentences of BIO or, when `wild`, of tags in any order at all."""
    names = ["O"] + [f"{how}-{kind}" for kind in kinds for how in "BI"]

    def sentence():
        n, out = rng.randrange(1, 12), []
        while len(out) < n:
            if wild:
                out.append(rng.choice(names))
            elif rng.random() < 0.5:
                out.append("O")
            else:
                kind = rng.choice(kinds)
                out += [f"B-{kind}"] + [f"I-{kind}"] * rng.randrange(3)
        return out[:n]

    truth = [sentence() for _ in range(sentences)]
    said = [[t if rng.random() < 0.85 else rng.choice(names) for t in row] for row in truth]
    scores = {
        "f1": entities.f1_score(truth, said),
        "precision": entities.precision_score(truth, said),
        "recall": entities.recall_score(truth, said),
        "macro_f1": entities.f1_score(truth, said, average="macro"),
        "accuracy": entities.accuracy_score(truth, said),
    }
    return {"names": names, "truth": truth, "said": said, "scores": scores}


golden = {
    "classes": [classes(2, 200, 0.7), classes(2, 30, 0.0), classes(6, 300, 0.6), classes(40, 60, 0.3)],
    "regression": [regression(150, 0.8, 1024), regression(80, 2.0, 2)],
    "many": [many(5, 120), many(2, 9)],
    "tags": [tags(60, ["PER", "LOC", "ORG"], False), tags(60, ["PER", "A-B"], True), tags(3, ["X"], True)],
}
out = Path(__file__).with_suffix(".json")
out.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
print(f"{out}: {out.stat().st_size} bytes")
