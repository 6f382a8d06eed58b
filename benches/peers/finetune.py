"""LoRA and AdaLoRA as torch + peft train them, epoch by epoch: scores over seeds, and how long until the best.

    python benches/peers/finetune.py --method adalora --lr 2e-3 --task trec --data ../shared/data/trec --model ../shared/models/all-MiniLM-L6-v2

The other side is `sorank train` with the same data, epochs, batch and threads, whose `metrics.jsonl` has seconds by epoch.
Batch 32 of alike length, at most 128 tokens, AdamW (decay 0.01), 6 % warm-up, clip 1, pooler and classifier trained, f32;
AdaLoRA's rank budget falls from 10 to 50 % of the steps. One JSON object an epoch: score on the test set, and
seconds of all epochs so far with and without scoring. Needs torch, transformers, peft. Saves nothing.
"""
import argparse
import csv
import json
import pathlib
import random
import time

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

ROWS = 32


def trec(directory):
    for name in ("train_5500.label", "TREC_10.label"):
        lines = (pathlib.Path(directory) / name).read_text("latin-1").splitlines()
        yield [((line.split(" ", 1)[1],), line.split(":", 1)[0]) for line in lines]


def sick(directory):
    for name in ("SICK_train.txt", "SICK_test_annotated.txt"):
        with open(pathlib.Path(directory) / name) as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            yield [((r["sentence_A"], r["sentence_B"]), r["entailment_judgment"]) for r in rows]


def alike(lengths, generator):
    """Batches of rows of about the same length, in random order."""
    order = list(range(len(lengths)))
    generator.shuffle(order)
    pools = [sorted(order[i : i + 50 * ROWS], key=lengths.__getitem__) for i in range(0, len(order), 50 * ROWS)]
    batches = [pool[i : i + ROWS] for pool in pools for i in range(0, len(pool), ROWS)]
    generator.shuffle(batches)
    return batches


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("lora", "adalora"), required=True)
    parser.add_argument("--task", choices=("trec", "sick"), required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.0, help="of states and attention weights; sorank's default is 0 too")
    parser.add_argument("--r", type=int, default=8, help="rank, AdaLoRA's at the start")
    parser.add_argument("--target-r", type=int, default=6, help="AdaLoRA's mean rank at the end")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = random.Random(args.seed)

    train, test = dict(trec=trec, sick=sick)[args.task](args.data)
    labels = sorted({label for _, label in train})
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    def encode(rows):
        ids = [tokenizer(*texts, truncation=True, max_length=128) for texts, _ in rows]
        return ids, [labels.index(label) for _, label in rows]

    def tensors(ids, answers, of):
        return tokenizer.pad([ids[i] for i in of], return_tensors="pt"), torch.tensor([answers[i] for i in of])

    train, test = encode(train), encode(test)
    steps = -(-len(train[0]) // ROWS)
    total = args.epochs * steps
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=len(labels), dtype=torch.float32,
        hidden_dropout_prob=args.dropout, attention_probs_dropout_prob=args.dropout,
    )
    shared = dict(
        lora_alpha=16, target_modules=["query", "key", "value", "dense"], exclude_modules=".*pooler.*",
        modules_to_save=["classifier", "pooler"], task_type="SEQ_CLS",
    )
    ada = args.method == "adalora"
    budget = dict(init_r=args.r, target_r=args.target_r, tinit=total // 10, tfinal=total // 2, deltaT=1, total_step=total)
    model = get_peft_model(model, AdaLoraConfig(**budget, **shared) if ada else LoraConfig(r=args.r, **shared))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01)
    warm = max(1, round(0.06 * total))
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / warm, (total - s) / max(1, total - warm)))

    lengths = [len(x["input_ids"]) for x in train[0]]
    by_length = sorted(range(len(test[0])), key=lambda i: len(test[0][i]["input_ids"]))
    step, trained, start = 0, 0.0, time.perf_counter()
    for epoch in range(1, args.epochs + 1):
        model.train()
        began = time.perf_counter()
        for of in alike(lengths, generator):
            inputs, answers = tensors(*train, of)
            model(**inputs, labels=answers).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            rate.step()
            if ada:
                model.base_model.update_and_allocate(step)
            optimizer.zero_grad()
            step += 1
        trained += time.perf_counter() - began
        model.eval()
        right = 0
        with torch.no_grad():
            for i in range(0, len(by_length), ROWS):
                inputs, answers = tensors(*test, by_length[i : i + ROWS])
                right += int((model(**inputs).logits.argmax(-1) == answers).sum())
        print(json.dumps(dict(
            task=args.task, method=args.method, seed=args.seed, epoch=epoch, accuracy=round(right / len(by_length), 4), seconds=round(time.perf_counter() - start, 1),
            without_scoring=round(trained, 1), threads=args.threads)), flush=True)


if __name__ == "__main__":
    main()
