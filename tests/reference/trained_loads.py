"""What `sorank train` writes loads in peft and answers as sorank does.

    python tests/reference/trained_loads.py SORANK_BINARY [family ...]

For each golden family: train SoRA, LoRA and AdaLoRA on a few labelled texts, load the result with peft on the same base, and compare its
logits, row by row, with those of `sorank classify`. peft warns of any key that it does not know or misses: that fails.
"""

import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parents[2] / "models" / "golden"
sys.path.insert(0, str(HERE))

import make  # first: sets the environment that transformers reads
import torch
from peft import PeftModel

from families import FAMILIES

LIMIT = 1e-4  # relative to the largest logit
TEXTS = [("the coffee was cold", "bad"), ("a wonderful hotel", "good"), ("what a slow, rude place", "bad"), ("warm and kind people", "good")]
KNOWN = ["bert", "roberta", "distilbert", "electra", "xlm-roberta", "camembert", "mpnet", "albert", "deberta-v2", "deberta-v2-own", "modernbert",
         "nomic_bert", "gte", "jina_embeddings_v3"]


def logits_of_peft(family, adapter, tokens):
    model = make.load_base(family, FAMILIES[family], HERE / family, labels=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*keys.*")
        model = PeftModel.from_pretrained(model, adapter).eval()
    return torch.stack([make.forward(family, model, *row).logits[0] for row in tokens])


def main(binary, *families):
    worst = 0.0
    for family in families or KNOWN:
        base = HERE / family / "base"
        tok = make.PreTrainedTokenizerFast(tokenizer_file=str(base / "tokenizer.json"))
        tokens = [(e["input_ids"], e["token_type_ids"]) for e in (tok(t, return_token_type_ids=True) for t, _ in TEXTS)]
        with tempfile.TemporaryDirectory() as tmp:
            data = Path(tmp) / "rows.tsv"
            data.write_text("text\tlabel\n" + "".join(f"{t}\t{label}\n" for t, label in 6 * TEXTS))
            texts = Path(tmp) / "texts.jsonl"
            texts.write_text("".join(json.dumps({"text": t}) + "\n" for t, _ in TEXTS))
            for method in ("sora", "lora", "adalora"):
                out = Path(tmp) / method
                run = lambda *args: subprocess.run([binary, *map(str, args)], check=True, capture_output=True, text=True).stdout
                run("train", "--model", base, "--train", data, "--dev", data, "--out", out, "--method", method,
                    "--epochs", 3, "--batch", 8, "--lr", 0.02, "--r-max", 4, "--lambda", 8, "--quiet")
                said = run("classify", "--model", base, "--adapter", f"a={out}", "--use", "a", "--input", texts, "--quiet")
                ours = torch.tensor([json.loads(line)["logits"] for line in said.splitlines()])
                want = logits_of_peft(family, out, tokens)
                error = ((ours - want).abs().max() / want.abs().max()).item()
                print(f"{family:14} {method:5} {error:.1e}", flush=True)
                assert error < LIMIT, (family, method, error)
                worst = max(worst, error)
    print(f"largest relative difference {worst:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
