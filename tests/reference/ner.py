"""A small named-entity adapter for all-MiniLM-L6-v2, and what transformers' pipeline finds with it.

    python tests/reference/ner.py train     trains tests/reference/ner/adapter (LoRA of rank 4 on query and value, 9 labels)
    python tests/reference/ner.py golden    writes tests/reference/ner/golden.json

The data (CoNLL-2003, IOB1) is read from ../shared and is not written anywhere: golden.json names the sentences by
their number in eng.testb (from 0, documents' headers not counted) and holds labels, offsets, scores and a hash of
each word. A sentence's text is its words with a space between. Training stops after a fixed number of steps; the
adapter is useful, not good.
"""

import json
import os
import random
import shutil
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
BASE = SHARED / "models/all-MiniLM-L6-v2"
HERE = Path(__file__).resolve().parent / "ner"
LABELS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC"]
SENTENCES, STEPS, BATCH, RATE = 500, 160, 16, 4e-3
STRATEGIES = ["none", "simple", "first", "average", "max"]


def sentences(name):
    """Lists of (word, IOB1 tag)."""
    out, now = [], []
    for line in (SHARED / "data/conll2003" / name).read_text(encoding="utf-8").split("\n"):
        fields = line.split()
        if not fields or fields[0] == "-DOCSTART-":
            if now:
                out.append(now)
            now = []
        else:
            now.append((fields[0], fields[-1]))
    return out


def bio(tags):
    """IOB1 to BIO: an I- that begins an entity becomes B-."""
    out, last = [], "O"
    for tag in tags:
        begins = tag.startswith("I-") and (last == "O" or last[2:] != tag[2:])
        out.append("B-" + tag[2:] if begins else tag)
        last = tag
    return out


def base():
    names = dict(enumerate(LABELS))
    return AutoModelForTokenClassification.from_pretrained(
        BASE, num_labels=len(LABELS), id2label=names, label2id={n: i for i, n in names.items()},
        attn_implementation="eager",
    ).float()


def train():
    torch.manual_seed(7)
    random.seed(7)
    tok = AutoTokenizer.from_pretrained(BASE)
    config = LoraConfig(task_type="TOKEN_CLS", r=4, lora_alpha=8, target_modules=["query", "value"])
    model = get_peft_model(base(), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1.0, (STEPS - s) / (0.5 * STEPS)))
    data = sentences("eng.train")
    model.train()
    for step in range(STEPS):
        rows = random.sample(data, BATCH)
        words = [[w for w, _ in r] for r in rows]
        x = tok(words, is_split_into_words=True, return_tensors="pt", padding=True, truncation=True, max_length=96)
        y = torch.full_like(x["input_ids"], -100)
        for i, r in enumerate(rows):
            tags, last = bio([t for _, t in r]), None
            for j, w in enumerate(x.word_ids(i)):
                if w is not None:
                    tag = tags[w]
                    if w == last:
                        tag = "I-" + tag[2:] if tag != "O" else tag
                    y[i, j] = LABELS.index(tag)
                last = w
        loss = model(**x, labels=y).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(step, float(loss), flush=True)
    shutil.rmtree(HERE / "adapter", ignore_errors=True)
    model.save_pretrained(HERE / "adapter")
    (HERE / "adapter/README.md").unlink(missing_ok=True)
    path = HERE / "adapter/adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "all-MiniLM-L6-v2"
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (HERE / "adapter/labels.json").write_text(json.dumps(LABELS) + "\n")


def fnv(text):
    """FNV-1a, 32 bits."""
    h = 0x811C9DC5
    for byte in text.encode():
        h = (h ^ byte) * 0x01000193 & 0xFFFFFFFF
    return h


def golden():
    tok = AutoTokenizer.from_pretrained(BASE)
    model = PeftModel.from_pretrained(base(), HERE / "adapter").eval()
    # The module with the adapter's layers in it: the same weights, and a class that the pipeline knows.
    run = pipeline("token-classification", model=model.base_model.model, tokenizer=tok, device="cpu")
    texts = [" ".join(w for w, _ in s) for s in sentences("eng.testb")[:SENTENCES]]
    answers = {}
    for strategy in STRATEGIES:
        rows = [run(t, aggregation_strategy=strategy) for t in texts]
        key = "entity" if strategy == "none" else "entity_group"
        answers[strategy] = [
            [[e[key], e["start"], e["end"], fnv(e["word"]), round(float(e["score"]), 6)] for e in row] for row in rows
        ]
        print(strategy, sum(map(len, rows)), "entities")
    lines = ",\n".join(
        json.dumps(s) + ": [\n" + ",\n".join(json.dumps(r, separators=(",", ":")) for r in rows) + "]"
        for s, rows in answers.items()
    )
    (HERE / "golden.json").write_text("{" + lines + "}\n")


if __name__ == "__main__":
    {"train": train, "golden": golden}[sys.argv[1]]()
