"""What transformers' TokenClassificationPipeline finds with the `tags` adapters of models/golden.

    python tests/reference/tags.py [family ...]        writes tests/reference/tags/<family>.json

The weights are random, so every rule of grouping meets every odd case; the texts below add cases of their own
(characters outside the vocabulary, several code points a character, a special token spelled in the text).
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
warnings.filterwarnings("ignore")

from peft import PeftModel
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast, pipeline

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "models/golden"
STRATEGIES = ["none", "simple", "first", "average", "max"]
TEXTS = [
    "Ann-Marie O'Neil, of St. Ives (Cornwall), met Dr. Wu at 10:45.",
    "Zürich – Kraków: cafe\u0301, naïve façade; ﬁne ½ 東京 タワー 🙂👩‍👩‍👧 end",
    "a [SEP] in the text, and </s> too.",
    "  two  spaces ,a tab\tand unbroken-words/like.this ",
    "x",
    "The government of Naples announced a new railway, didn't it? They'll see.",
]


def main(families):
    for family in families or sorted(p.parent.parent.name for p in GOLDEN.glob("*/adapters/tags")):
        home = GOLDEN / family
        labels = json.loads((home / "adapters/tags/labels.json").read_text())
        tok = PreTrainedTokenizerFast(tokenizer_file=str(home / "base/tokenizer.json"))
        vocab = tok.get_vocab()
        tok.unk_token = next((t for t in ["[UNK]", "<unk>"] if t in vocab), None)
        model = AutoModelForTokenClassification.from_pretrained(
            home / "base", num_labels=len(labels), id2label=dict(enumerate(labels)),
            ignore_mismatched_sizes=True, attn_implementation="eager",
        )
        model = PeftModel.from_pretrained(model.float(), home / "adapters/tags").eval()
        names = ["input_ids", "attention_mask"]
        if getattr(model.config, "type_vocab_size", 0) > 1:
            names.append("token_type_ids")
        tok.model_input_names = names
        run = pipeline("token-classification", model=model.base_model.model, tokenizer=tok, device="cpu")
        golden = json.loads((home / "golden.json").read_text())["texts"]
        texts = [row[0] for row in golden if len(row) == 1 and row[0].strip()] + TEXTS
        out = {"texts": texts}
        for strategy in STRATEGIES:
            key = "entity" if strategy == "none" else "entity_group"
            out[strategy] = [
                [[e[key], e["start"], e["end"], e["word"], round(float(e["score"]), 6)]
                 for e in run(text, aggregation_strategy=strategy)]
                for text in texts
            ]
        lines = [json.dumps(k) + ": [\n" + ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in v)
                 + "\n]" for k, v in out.items()]
        path = Path(__file__).resolve().parent / "tags" / f"{family}.json"
        path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")
        print(family, {s: sum(map(len, out[s])) for s in STRATEGIES}, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
