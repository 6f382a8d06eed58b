"""What `sorank merge` writes loads in transformers and answers as base + adapter.

    python tests/reference/merged_loads.py SORANK_BINARY [family ...]

For each golden family: merge the adapters mixed, qv2 and reg into its base, load the result with
AutoModelForSequenceClassification, and compare its logits with the golden ones of transformers + peft. Any
missing or unexpected key of the load is a failure.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

GOLDEN = Path(__file__).resolve().parents[2] / "models" / "golden"
LIMIT = 1e-4  # relative to the largest logit: the merged weight is rounded to f32 once more


def main(binary, *families):
    worst = 0.0
    for family in families or ["bert", "roberta", "deberta-v2", "modernbert", "nomic_bert", "gte", "jina_embeddings_v3"]:
        index = json.loads((GOLDEN / family / "golden.json").read_text())
        golden = load_file(GOLDEN / family / "golden.safetensors")
        for name in ["mixed", "qv2", "reg"]:
            with tempfile.TemporaryDirectory() as tmp:
                out = Path(tmp) / "merged"
                adapter = GOLDEN / family / "adapters" / name
                base = GOLDEN / family / "base"
                subprocess.run(
                    [binary, "merge", "--model", base, "--adapter", f"{name}={adapter}", "--out", out], check=True,
                    capture_output=True,
                )
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    out, attn_implementation="eager", output_loading_info=True
                )
                assert not info["missing_keys"] and not info["unexpected_keys"], (family, name, info)
                model.eval()
                rows = []
                for ids, types in zip(index["ids"], index["types"]):
                    batch = dict(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long))
                    if getattr(model.config, "type_vocab_size", 0) > 1:
                        batch["token_type_ids"] = torch.tensor([types])
                    with torch.inference_mode():
                        rows.append(model(**batch).logits[0])
                want = golden[f"logits.{name}"]
                error = ((torch.stack(rows) - want).abs().max() / want.abs().max()).item()
                print(f"{family:12} {name:6} {error:.1e}")
                assert error < LIMIT, (family, name, error)
                worst = max(worst, error)
    print(f"largest relative difference {worst:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
