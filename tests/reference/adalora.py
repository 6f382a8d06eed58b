"""Makes tests/reference/adalora/: fourteen AdaLoRA steps of the tiny BERT as peft does them.

    python tests/reference/adalora.py            (with torch, transformers, peft)

peft's own model, loss (its orthogonality term included), budget and masks; torch's AdamW, gradients clipped, in the order
that peft's documentation gives: backward, step, update_and_allocate, zero_grad; steps counted from 1. Computed in f64 from f32
starting values. `f32_noise` is how far torch's own f32 run strays, relative to the largest element of each tensor; the
script fails where the two runs open different ranks.

steps.json: settings, and after each step the loss, the norm before the clip, the budget's open ranks by site (a string
of 0 and 1). steps.safetensors: init.<site>.{a,b}, final.<site>.{a,b,gate}, final.<parameter of the head>.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "models/golden"))

import make
import torch
from families import FAMILIES
from make_train import LABELS, ROWS
from peft import AdaLoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file

NAME, OUT = "bert", Path(__file__).resolve().parent / "adalora"
STEPS = 14
BUDGET = dict(init_r=4, target_r=2, tinit=2, tfinal=4, deltaT=2, beta1=0.85, beta2=0.85, orth_reg_weight=0.5)
ALPHA, CLIP, DECAY, HEAD_DECAY = 8, 1.0, 0.1, 0.0
LR = [0.004 * min(i + 1, 3, (STEPS - i) / 4) for i in range(STEPS)]


class Run:
    def __init__(self, dtype):
        family = FAMILIES[NAME]
        base = make.load_base(NAME, family, ROOT / "models/golden" / NAME)
        self.sites = make.linears(base, family.head)
        config = AdaLoraConfig(
            task_type=TaskType.SEQ_CLS, target_modules=self.sites, lora_alpha=ALPHA, total_step=STEPS,
            modules_to_save=["pooler", "classifier"], **BUDGET,
        )
        self.model = get_peft_model(base, config).to(dtype).eval()
        self.params = {}
        for path, p in self.model.named_parameters():
            path = path.removeprefix("base_model.model.").replace(".default", "").replace("modules_to_save.", "")
            for part, short in (("lora_A", "a"), ("lora_B", "b"), ("lora_E", "gate")):
                if f".{part}" in path:
                    path = path.replace(f".{part}", f".{short}")
                    if part != "lora_E":
                        p.data.copy_(make.draw(f"adalora/{path}", p.shape, 0.02))
            if p.requires_grad:
                self.params[path] = p
        ids, types = make.tokenize(ROOT / "models/golden" / NAME / "base/tokenizer.json")
        longest = max(len(ids[r]) for r in ROWS)
        pad = lambda rows: torch.tensor([rows[r] + [0] * (longest - len(rows[r])) for r in ROWS])
        mask = torch.tensor([[1] * len(ids[r]) + [0] * (longest - len(ids[r])) for r in ROWS])
        self.batch = dict(input_ids=pad(ids), attention_mask=mask, token_type_ids=pad(types), labels=torch.tensor(LABELS))

    def steps(self):
        groups = {True: [], False: []}
        for name, p in self.params.items():
            groups[name.endswith((".a", ".b", ".gate"))].append(p)
        adam = torch.optim.AdamW([dict(params=groups[True], weight_decay=DECAY), dict(params=groups[False], weight_decay=HEAD_DECAY)])
        trace = dict(loss=[], norm=[], open=[])
        for step in range(1, STEPS + 1):
            for group in adam.param_groups:
                group["lr"] = LR[step - 1]
            loss = self.model(**self.batch).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(list(self.params.values()), CLIP)
            adam.step()
            self.model.base_model.update_and_allocate(step)
            adam.zero_grad()
            trace["loss"].append(loss.item())
            trace["norm"].append(norm.item())
            gates = {s: self.params[f"{s}.gate"].view(-1) for s in self.sites}
            trace["open"].append({s: "".join("01"[int(g != 0)] for g in v) for s, v in gates.items()})
        trace["loss_after"] = self.model(**self.batch).loss.item()
        return trace


def run(dtype):
    r = Run(dtype)
    tensors = {f"init.{k}": p.detach().clone() for k, p in r.params.items() if k.endswith((".a", ".b"))}
    trace = r.steps()
    return trace, tensors | {f"final.{k}": p.detach() for k, p in r.params.items()}


torch.set_num_threads(1)
exact, tensors = run(torch.float64)
rough, other = run(torch.float32)
assert exact["open"] == rough["open"], "a rank hangs on rounding; choose other settings"
noise = max((v - other[k]).abs().max().item() / v.abs().max().item() for k, v in tensors.items())
OUT.mkdir(exist_ok=True)
save_file({k: v.float().contiguous() for k, v in tensors.items()}, OUT / "steps.safetensors", metadata={"format": "pt"})
index = dict(steps=STEPS, alpha=ALPHA, clip=CLIP, decay=DECAY, head_decay=HEAD_DECAY, lr=LR, budget=BUDGET, f32_noise=float(f"{noise:.2g}"), **exact)
lines = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in index.items()]
(OUT / "steps.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
print("noise", noise, "open", [sum(v.count("1") for v in o.values()) for o in exact["open"]], exact["loss"])
