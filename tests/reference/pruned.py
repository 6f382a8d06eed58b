"""Whether peft gives the same logits for an adapter that `sorank prune` wrote as for the factors it was made of.

    sorank prune models/golden/bert/adapters/mixed --rank 2 --out DIR
    python tests/reference/pruned.py models/golden/bert DIR [LOGITS.jsonl]

Compares peft's logits over the fixture's texts with those of the original adapter whose products B A were cut to the
same ranks by numpy, and with the lines of `sorank classify --use pruned` where they are given.
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

family, pruned = Path(sys.argv[1]), Path(sys.argv[2])
texts = json.loads((family / "golden.json").read_text())["texts"]
tok = PreTrainedTokenizerFast(tokenizer_file=str(family / "base/tokenizer.json"))


def load(adapter):
    base = AutoModelForSequenceClassification.from_pretrained(family / "base", attn_implementation="eager").float()
    return PeftModel.from_pretrained(base, adapter).eval()


def logits(model):
    with torch.inference_mode():
        return torch.cat([model(**tok(*row, return_tensors="pt", return_token_type_ids=True)).logits for row in texts])


kept = load(pruned)
ranks = {n: m.lora_A["default"].weight.shape[0] for n, m in kept.named_modules() if hasattr(m, "lora_A") and m.lora_A}
whole = load(family / "adapters/mixed")
with torch.no_grad():
    for name, module in whole.named_modules():
        if hasattr(module, "lora_A") and module.lora_A:
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            u, s, v = torch.linalg.svd(b.double() @ a.double(), full_matrices=False)
            r = min(ranks.get(name, 0), a.shape[0])
            cut = torch.zeros_like(a, dtype=torch.double), torch.zeros_like(b, dtype=torch.double)
            cut[0][:r], cut[1][:, :r] = v[:r], u[:, :r] * s[:r]
            a.copy_(cut[0])
            b.copy_(cut[1])
x, y = logits(kept), logits(whole)
print("ranks", sorted(ranks.values()))
print("peft with the pruned adapter against numpy's cut:", float((x - y).abs().max() / y.abs().max()))
if len(sys.argv) > 3:
    rows = [json.loads(line)["logits"] for line in open(sys.argv[3])]
    z = torch.tensor(rows)
    print("peft against sorank:", float((x - z).abs().max() / x.abs().max()))
