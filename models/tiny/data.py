"""What the demonstration model learns from: training splits that lie in ../shared/data, read where they are.

No file of theirs is copied here. Left out on purpose, because their terms are non-commercial, research only or not
stated: MRPC, SICK, CoNLL-2003, and in STS-B the parts MSRpar, MSRvid and deft. Development and test splits are read
for scores only; a text of theirs that also stands in a training split is dropped from pre-training.
"""

import csv
import json
import re
from pathlib import Path

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
QUESTIONS = {"ABBR": "abbreviation", "ENTY": "entity", "DESC": "description", "HUM": "human", "LOC": "location", "NUM": "number"}
LABELS = {"sentiment": ["negative", "positive"], "question": list(QUESTIONS.values())}


def table(path):
    return [line.split("\t") for line in (DATA / path).read_text(encoding="utf-8").splitlines()]


def clinc():
    return json.loads((DATA / "clinc150/data_full.json").read_text())


def labels(task):
    return LABELS.get(task) or sorted({label for _, label in clinc()["train"]})


def tidy(text):
    """Takes the spaces of older corpora out again (`do n't`, ` , `), so that a text looks as people type it."""
    text = text.replace("-LRB-", "(").replace("-RRB-", ")").replace("``", '"').replace("''", '"')
    text = re.sub(r" (n't|'s|'re|'ve|'ll|'d|'m)\b", r"\1", text)
    return " ".join(re.sub(r" ([.,;:?!%)])", r"\1", text).split())


def task(name, split):
    """The (text, label index) pairs of a task: `train`, or `test`, which is the development set for sentiment."""
    if name == "sentiment":
        rows = table(f"glue/SST-2/{'train' if split == 'train' else 'dev'}.tsv")[1:]
        pairs = [(text, int(label)) for text, label in rows]
    elif name == "question":
        path = DATA / "trec" / ("train_5500.label" if split == "train" else "TREC_10.label")
        rows = [line.split(" ", 1) for line in path.read_text(encoding="latin1").splitlines()]
        pairs = [(text, list(QUESTIONS).index(label.split(":")[0])) for label, text in rows]
    else:
        index = {label: i for i, label in enumerate(labels(name))}
        pairs = [(text, index[label]) for text, label in clinc()[split]]
    return [(tidy(text), label) for text, label in pairs]


def corpus():
    """Texts and pairs of texts for pre-training, each once."""
    texts = [row[3] for row in table("glue/CoLA/train.tsv")]
    texts += [text for text, _ in task("question", "train")]
    with open(DATA / "banking77/train.csv", newline="", encoding="utf-8") as file:
        texts += [" ".join(row["text"].split()) for row in csv.DictReader(file)]
    texts += [text for part in ("train", "oos_train") for text, _ in clinc()[part]]
    texts += whole([text for text, _ in task("sentiment", "train")])
    pairs = [row[1:3] for row in table("glue/RTE/train.tsv")[1:]]
    pairs += [row[7:9] for row in table("glue/STS-B/train.tsv")[1:] if row[2] in ("images", "headlines")]
    hidden = {text for name in ("sentiment", "question", "intent") for text, _ in task(name, "test")}
    singles = list(dict.fromkeys(t for t in map(tidy, texts) if t not in hidden))
    return singles, list(dict.fromkeys((tidy(a), tidy(b)) for a, b in pairs))


def whole(phrases):
    """Those that are not a part of another: SST-2 has every phrase of a sentence as a row of its own."""
    kept, seen = [], set()
    for phrase in sorted(set(phrases), key=lambda p: (-len(p.split()), p)):
        words = phrase.split()
        runs = {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(len(words), i + 40) + 1)}
        if phrase not in seen:
            kept.append(phrase)
            seen |= runs
    return kept
