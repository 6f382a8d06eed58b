"""What the p99 over p50 of `benches/serve` can be: a queue without any loss, simulated with the same lengths and load.

    python benches/serve/queue.py ../shared [rows/s] [seconds]

Two servers, first come first served, Poisson arrivals. A row of n tokens takes 1.3 + 0.228 n ms on one server (measured: CPU
time of the server's batches) and 7 % more while both are busy; 2 ms of HTTP and tokenising before it. Needs `tokenizers`.
Not here: batches, several adapters, anything that the machine takes away: those only add to the tail.
"""
import pathlib
import random
import statistics
import sys

from tokenizers import Tokenizer

FIXED, PER_TOKEN, BOTH_BUSY, BEFORE = 1.3, 0.228, 1.07, 2.0


def lengths(shared, count=1000):
    """Tokens of the rows that `main.rs` makes: the same generator over the same sentences."""
    state = 1

    def below(n):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (state >> 33) % n

    lines = (shared / "data/glue/STS-B/dev.tsv").read_text().split("\n")[1:]
    sentences = [text for line in lines for text in line.split("\t")[7:9]]
    rows = [" ".join(sentences[below(len(sentences))] for _ in range(below(8) + 1)) for _ in range(count)]
    tokenizer = Tokenizer.from_file(str(shared / "models/all-MiniLM-L6-v2/tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(rows)]


def ratio(tokens, rate, seconds, seed):
    """p99 over p50 of one run."""
    chance = random.Random(seed)
    arrivals, at = [], 0.0
    while at < seconds * 1000:
        at += chance.expovariate(rate / 1000)
        arrivals.append((at, FIXED + PER_TOKEN * chance.choice(tokens)))
    latencies, waiting, running, now, coming = [], [], [], 0.0, 0
    while coming < len(arrivals) or running:
        speed = 1 / BOTH_BUSY if len(running) == 2 else 1.0
        ends = now + min((left for left, _ in running), default=float("inf")) / speed
        arrives = arrivals[coming][0] if coming < len(arrivals) else float("inf")
        then = min(ends, arrives)
        running = [(left - (then - now) * speed, since) for left, since in running]
        now = then
        if arrives < ends:
            waiting.append((arrivals[coming][1], arrives))
            coming += 1
        else:
            done = min(running)
            running.remove(done)
            latencies.append(now - done[1] + BEFORE)
        while waiting and len(running) < 2:
            running.append(waiting.pop(0))
    latencies.sort()
    return latencies[int(0.99 * len(latencies))] / latencies[len(latencies) // 2]


def main():
    shared = pathlib.Path(sys.argv[1])
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 66.0
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 150.0
    tokens = lengths(shared)
    runs = sorted(ratio(tokens, rate, seconds, seed) for seed in range(60))
    at_most = sum(run <= 3 for run in runs)
    print(f"{len(tokens)} rows of {min(tokens)} to {max(tokens)} tokens, {rate} rows/s, 60 runs of {seconds} s")
    print(f"p99 / p50: median {statistics.median(runs):.2f}, 5 % {runs[3]:.2f}, 95 % {runs[56]:.2f}; at most 3 in {at_most} of 60")


if __name__ == "__main__":
    main()
