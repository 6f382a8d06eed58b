"""Golden values of the real encoder all-MiniLM-L6-v2: embeddings and its Spearman correlation on STS-B dev.

    python tests/reference/minilm.py [--shared ../shared] [--rows 24] [--out models/golden/minilm/golden.json]

As its modules.json says: mean over tokens, then L2 norm; at most 256 tokens (sentence_bert_config.json), special
tokens included; the padding that its tokenizer.json asks for is not done. transformers computes each text alone,
float32, eager attention. Sentences are read from the data by file, row (from 0, after the header) and column and
are not written to the output: only our computed numbers are. With `join` n > 1 a text is n rows in sequence, a
space between, so that one of them is cut at 256 tokens.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import numpy as np
import torch
import transformers
from scipy.stats import pearsonr, spearmanr
from tokenizers import Tokenizer
from transformers import BertModel

ROOT = Path(__file__).resolve().parents[2]
DEV = "data/glue/STS-B/dev.tsv"
MAX_TOKENS = 256


def read_tsv(path):
    """GLUE's tab-separated files know no quoting: a quote is a character like any other."""
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    header = lines[0].split("\t")
    return [dict(zip(header, line.split("\t"))) for line in lines[1:]]


class Encoder:
    def __init__(self, path):
        self.model = BertModel.from_pretrained(path, attn_implementation="eager").float().eval()
        self.tok = Tokenizer.from_file(str(path / "tokenizer.json"))
        self.tok.no_padding()
        self.tok.enable_truncation(MAX_TOKENS)
        self.cache = {}

    def __call__(self, text):
        """Number of tokens, and the embedding as float32."""
        if text not in self.cache:
            ids = self.tok.encode(text).ids
            with torch.inference_mode():
                mask = torch.ones(1, len(ids), dtype=torch.long)
                h = self.model(input_ids=torch.tensor([ids]), attention_mask=mask).last_hidden_state[0]
                e = torch.nn.functional.normalize(h.mean(0), dim=0)
            self.cache[text] = (len(ids), e.numpy())
        return self.cache[text]


def choose(rows, count):
    """Rows of all lengths: the texts sorted by length, taken at even steps, and one long text made of many."""
    texts = [(len(r[c]), i, c) for i, r in enumerate(rows) for c in ("sentence1", "sentence2")]
    texts.sort()
    steps = np.linspace(0, len(texts) - 1, count - 1).round().astype(int)
    return [dict(row=i, column=c, join=1) for _, i, c in (texts[s] for s in steps)] + [
        dict(row=100, column="sentence1", join=40)
    ]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("--shared", type=Path, default=ROOT / "../shared")
    args.add_argument("--rows", type=int, default=24)
    args.add_argument("--out", type=Path, default=ROOT / "models/golden/minilm/golden.json")
    args = args.parse_args()
    if not args.shared.exists():
        print(f"skipped: {args.shared} is absent")
        return
    encode = Encoder(args.shared / "models/all-MiniLM-L6-v2")
    rows = read_tsv(args.shared / DEV)

    chosen = []
    for r in choose(rows, args.rows):
        text = " ".join(rows[r["row"] + j][r["column"]] for j in range(r["join"]))
        length, e = encode(text)
        chosen.append(dict(file=DEV, **r, ids_len=length, embedding=[float(np.format_float_scientific(x)) for x in e]))

    cosines = [float(encode(r["sentence1"])[1].astype(np.float64) @ encode(r["sentence2"])[1]) for r in rows]
    scores = [float(r["score"]) for r in rows]
    golden = dict(
        model="models/all-MiniLM-L6-v2",
        made_by=dict(script="tests/reference/minilm.py", torch=torch.__version__.split("+")[0], transformers=transformers.__version__),
        pooling="mean",
        normalise=True,
        max_tokens=MAX_TOKENS,
        pairs=len(rows),
        tokens=sum(encode(r[c])[0] for r in rows for c in ("sentence1", "sentence2")),
        spearman=float(spearmanr(cosines, scores).statistic),
        pearson=float(pearsonr(cosines, scores).statistic),
        cosines_first=cosines[:16],
    )
    body = json.dumps(golden, indent=1)[:-2] + ',\n "rows": [\n'
    body += ",\n".join("  " + json.dumps(r) for r in chosen) + "\n ]\n}\n"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(body)
    print(f"{len(rows)} pairs, {golden['tokens']} tokens: spearman {golden['spearman']:.6f} pearson {golden['pearson']:.6f}")
    print(f"{len(chosen)} embeddings, tokens {[r['ids_len'] for r in chosen]}, {args.out.stat().st_size / 1000:.0f} kB in {args.out.name}")


if __name__ == "__main__":
    main()
