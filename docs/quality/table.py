"""Prints the tables of ../quality.md from comparison.csv: `python docs/quality/table.py`.

A row of the file is one epoch of one run. *last* is the score after the last epoch, which chooses nothing; *best* the best of
all epochs on the rows that are scored. Trains nothing and knows nothing of sorank.
"""
import csv
import pathlib
import statistics

FULL = 331_776  # parameters in A and B of LoRA r = 8 on all linears of MiniLM-L6
TASKS = ["trec", "cola", "sick", "stsb", "mrpc", "rte"]
# method, strength, rate, travel, window, bound
SORA = ("sora", "0.7", "0.001", "3", "0.4:0.8", "0.7")
METHODS = {
    "LoRA r = 8": ("lora", "8", "0.001", "", "", ""),
    "SoRA in a window, at most 70 %": SORA,
    "SoRA in a window, no bound": SORA[:-1] + ("",),
    "AdaLoRA, target 6": ("adalora", "6", "0.002", "", "", ""),
    "AdaLoRA, target 5": ("adalora", "5", "0.002", "", "", ""),
}
KEY = ["method", "strength", "lr", "gate_travel", "gate_window", "keep"]


def runs():
    """(setting, task, seed) -> its epochs, in order: (percent, kept percent, seconds)."""
    found = {}
    with open(pathlib.Path(__file__).with_name("comparison.csv")) as file:
        for row in csv.DictReader(file):
            at = (tuple(row[k] for k in KEY), row["task"], int(row["seed"]))
            kept = 100 * int(row["kept_parameters"]) / FULL
            found.setdefault(at, []).append((100 * float(row["score"]), kept, float(row["seconds"])))
    # A bound that is met anyway changes no bit (tests/it/cuts.rs), so those runs were not made twice.
    for (setting, task, seed), epochs in list(found.items()):
        if setting == METHODS["SoRA in a window, no bound"] and epochs[-1][1] <= 70:
            found.setdefault((SORA, task, seed), epochs)
    return found


def deviation(values):
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def scores(found):
    for name, setting in METHODS.items():
        print(f"\n{name}\n| task | seeds | last | deviation | by seed | kept | best |\n|---|---|---|---|---|---|---|")
        means, by_seed = [], {}
        for task in TASKS:
            of = {seed: e for (s, t, seed), e in sorted(found.items()) if s == setting and t == task}
            if not of:
                continue
            last = [e[-1][0] for e in of.values()]
            best = statistics.mean(max(x[0] for x in e) for e in of.values())
            kept = statistics.mean(e[-1][1] for e in of.values())
            each = ", ".join(f"{x:.1f}" for x in last)
            print(f"| {task} | {len(of)} | {statistics.mean(last):.2f} | {deviation(last):.2f} | {each} | {kept:.1f} % | {best:.2f} |")
            means.append((task, statistics.mean(last), kept, best))
            for seed, e in of.items():
                by_seed.setdefault(seed, {})[task] = (e[-1][0], e[-1][1])
        if not means:
            continue
        for label, rows in [("mean", means), ("without RTE", [m for m in means if m[0] != "rte"])]:
            last, kept, best = (statistics.mean(m[i] for m in rows) for i in (1, 2, 3))
            print(f"| {label} of {len(rows)} | | {last:.2f} | | | {kept:.1f} % | {best:.2f} |")
        for seed, of in sorted(by_seed.items()):
            score, kept = (statistics.mean(x[i] for x in of.values()) for i in (0, 1))
            print(f"seed {seed}, {len(of)} tasks: {score:.2f} with {kept:.1f} %")


def times(found):
    """When SoRA first has AdaLoRA's best score of the same task and seed, in epochs."""
    for name in ("AdaLoRA, target 6", "AdaLoRA, target 5"):
        print(f"\nSoRA against {name}: epoch of its best score, SoRA's first epoch at that score or above, SoRA's own best")
        within, pairs = 0, 0
        for task in TASKS:
            line = []
            for seed in (1, 2, 3):
                other, own = found.get((METHODS[name], task, seed)), found.get((SORA, task, seed))
                if not other or not own:
                    continue
                top = max(other, key=lambda e: e[0])[0]
                theirs = next(i for i, e in enumerate(other, 1) if e[0] == top)
                ours = next((i for i, e in enumerate(own, 1) if e[0] >= top), None)
                best = max(range(len(own)), key=lambda i: own[i][0]) + 1
                pairs += 1
                within += ours is not None and ours <= 0.7 * theirs
                line.append(f"{theirs}, {ours or 'never'}, {best}")
            print(f"{task}: " + "; ".join(line))
        print(f"within 70 % of AdaLoRA's epochs: {within} of {pairs}")


if __name__ == "__main__":
    all_runs = runs()
    scores(all_runs)
    times(all_runs)
