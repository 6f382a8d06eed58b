"""Encoders of random weights: sorank beside ONNX Runtime, OpenVINO and CTranslate2, in one interleaved run.

    python benches/peers/compare.py --sorank target/release/examples/peer --dir DIR --prepare
    python benches/peers/compare.py --sorank target/release/examples/peer --dir DIR --precision int8 --cases 8x128,1x16

Every peer gets the same checkpoint (`engines.py` exports it once to DIR). Answers are compared first: the first token's
state of rows of many lengths, with ONNX Runtime's in f32. Then rounds: each engine runs the case once a round, whoever is
first changes, and a ratio is the median over rounds of peer over sorank of the same round.
sorank is a child process that times itself (`examples/peer.rs`). Cases: ROWSxTOKENS; `sorted` and `arrival`: 256 texts of
log-normal lengths (4 to 128, mean 22) in batches of 32, for the peers sorted by length or not; sorank always takes them in
order of arrival. Peers run these with two threads and with two streams of one thread.
"""
import argparse
import json
import os
import statistics
import subprocess
import time

import numpy

import engines

# Smallest cosine to f32 answers: rounding of random weights, far from any wrong answer (which has a cosine near 0).
LEAST_COSINE = {"f32": 0.999999, "bf16": 0.999, "int8": 0.98}
# Idle time before each engine, so that spinning threads of the one before have gone to sleep.
PAUSE = 0.05


def mixed_lengths(count):
    lengths = numpy.exp(numpy.random.default_rng(11).normal(2.83, 0.72, count)).round().clip(4, 128)
    return [int(n) for n in lengths]


def batches_of(case):
    """Lengths by batch, for the peers and for sorank."""
    if case in ("sorted", "arrival"):
        lengths = mixed_lengths(256)
        chunks = lambda of: [of[i : i + 32] for i in range(0, len(of), 32)]
        return chunks(sorted(lengths) if case == "sorted" else lengths), chunks(lengths)
    rows, tokens = case.split("x")
    return [[int(tokens)] * int(rows)], [[int(tokens)] * int(rows)]


def feeds_of(batches):
    """Ids as `examples/peer.rs` makes them."""
    feeds = []
    for lengths in batches:
        ids = iter(range(sum(lengths)))
        feeds.append(engines.pad([[1000 + next(ids) * 7919 % 29000 for _ in range(n)] for n in lengths]))
    return feeds


class Sorank:
    def __init__(self, program, directory, dtype, threads):
        self.child = subprocess.Popen(
            [program, directory, dtype, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "SORANK_CACHE": directory})
        assert self.child.stdout.readline().strip() == "ready", f"{program} did not start"

    def ask(self, **line):
        self.child.stdin.write(json.dumps(line) + "\n")
        self.child.stdin.flush()
        return json.loads(self.child.stdout.readline())

    def milliseconds(self, batches):
        return self.ask(batches=batches)["ms"]

    def first_states(self, batches):
        return self.ask(batches=batches, answers=True)["first"]


def check(reference, ours, peers, precision):
    """Everybody's state of the first token of rows of several lengths, against `reference`."""
    batches = [[5, 17, 64, 33, 128, 4], [16]]
    feeds = feeds_of(batches)
    want = numpy.concatenate([out[:, 0] for out in reference(feeds)])
    found = {"sorank": numpy.array(ours.first_states(batches))}
    found.update({name: numpy.concatenate([out[:, 0] for out in run(feeds)]) for name, run in peers.items()})
    for name, got in found.items():
        cosine = (got * want).sum(1) / numpy.linalg.norm(got, axis=1) / numpy.linalg.norm(want, axis=1)
        print(f"  answers of {name}: least cosine {cosine.min():.7f}, largest difference {abs(got - want).max():.2e}")
        if name == "sorank":
            assert cosine.min() >= LEAST_COSINE[precision], "sorank's answers are wrong"


def measure(case, ours, peers, rounds):
    theirs, own = batches_of(case)
    feeds = feeds_of(theirs)
    times = {name: [] for name in ["sorank", *peers]}
    order = list(times)
    for round_ in range(rounds + 1):
        for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
            time.sleep(PAUSE)
            repeats = 9 if sum(map(sum, own)) < 200 else 1
            spent = []
            for _ in range(repeats):
                if name == "sorank":
                    spent.append(ours.milliseconds(own))
                else:
                    start = time.perf_counter()
                    peers[name](feeds)
                    spent.append(1e3 * (time.perf_counter() - start))
            if round_:
                times[name].append(statistics.median(spent))
    rows = {}
    for name, spent in times.items():
        ratios = [t / s for t, s in zip(spent, times["sorank"])]
        rows[name] = {"median_ms": statistics.median(spent), "over_sorank": statistics.median(ratios)}
        print(f"  {case:8} {name:28} {rows[name]['median_ms']:9.2f} ms   {rows[name]['over_sorank']:5.2f} x", flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sorank", required=True)
    parser.add_argument("--dir", required=True, help="where exported models are kept")
    parser.add_argument("--prepare", action="store_true", help="only export what is missing")
    parser.add_argument("--shape", choices=engines.SHAPES, default="bert-base")
    parser.add_argument("--precision", choices=["f32", "bf16", "int8"], default="f32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", default="8x128,1x16")
    parser.add_argument("--only", default="", help="peers whose name contains one of these, by comma")
    args = parser.parse_args()
    directory = os.path.join(args.dir, args.shape)
    if args.prepare:
        return engines.prepare(args.shape, directory)
    wanted = lambda name: any(word in name for word in args.only.split(","))
    ours = Sorank(args.sorank, directory, args.precision, 2)
    cases = args.cases.split(",")
    kinds = [False, True] if {"sorted", "arrival"} & set(cases) else [False]
    peers = {}
    for streams in kinds:
        for name, run in engines.peers(directory, args.precision, streams):
            name = f"{name}, {'2 streams' if streams else '2 threads'}"
            if wanted(name):
                peers[name] = run
    print(f"{args.shape} {args.precision}, {args.rounds} rounds")
    check(engines.OnnxRuntime(os.path.join(directory, "model.onnx"), 1, 2), ours, peers, args.precision)
    found = {case: measure(case, ours, peers, args.rounds) for case in cases}
    print(json.dumps({"shape": args.shape, "precision": args.precision, "rounds": args.rounds, "cases": found}))


if __name__ == "__main__":
    main()
