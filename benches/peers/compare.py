"""BERT-base of random weights: sorank beside ONNX Runtime and OpenVINO, in one interleaved run.

    python benches/peers/compare.py --sorank target/release/examples/peer --rounds 7

Every peer gets the same checkpoint, exported once with torch.onnx (padded batches, attention mask). Rounds are interleaved:
each engine runs each case once a round; medians are compared. sorank is a child process that times itself
(`examples/peer.rs`): it gets a case on a line of stdin and answers milliseconds on a line of stdout.
Needs torch, transformers, onnx, onnxruntime, openvino; what is missing is left out and said.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time


def lengths_of(case):
    rows, tokens = case.split("x")
    return [int(tokens)] * int(rows)


def export(directory):
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(), add_pooling_layer=False).eval()
    model.save_pretrained(directory)
    ids = torch.ones(2, 8, dtype=torch.long)
    path = os.path.join(directory, "model.onnx")
    axes = {0: "rows", 1: "tokens"}
    torch.onnx.export(
        model, (ids, torch.ones_like(ids)), path, input_names=["input_ids", "attention_mask"],
        output_names=["last"], dynamic_axes={"input_ids": axes, "attention_mask": axes, "last": axes},
        opset_version=17, dynamo=False,
    )
    return path


def onnxruntime_engine(path, threads):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def openvino_engine(path, threads, precision):
    import openvino as ov

    core = ov.Core()
    config = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(path), "CPU", config).create_infer_request()
    return lambda feed: request.infer(feed)


class Sorank:
    def __init__(self, program, directory, dtype, threads):
        self.child = subprocess.Popen(
            [program, directory, dtype, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "SORANK_CACHE": directory})
        assert self.child.stdout.readline().strip() == "ready", f"{program} did not start"

    def milliseconds(self, case):
        self.child.stdin.write(case + "\n")
        self.child.stdin.flush()
        return float(self.child.stdout.readline())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sorank", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", default="1x16,1x128,8x128,32x32")
    args = parser.parse_args()
    import numpy

    with tempfile.TemporaryDirectory() as directory:
        path = export(directory)
        engines = {}
        makers = {
            "ONNX Runtime f32": lambda: onnxruntime_engine(path, args.threads),
            "OpenVINO f32": lambda: openvino_engine(path, args.threads, "f32"),
            "OpenVINO bf16": lambda: openvino_engine(path, args.threads, "bf16"),
        }
        for name, make in makers.items():
            try:
                engines[name] = make()
            except ImportError as error:
                print(f"left out: {name} ({error})")
        ours = {d: Sorank(args.sorank, directory, d, args.threads) for d in ("f32", "bf16", "int8")}
        found = {}
        for case in args.cases.split(","):
            lengths = lengths_of(case)
            ids = numpy.random.default_rng(7).integers(1000, 30000, (len(lengths), max(lengths)))
            feed = {"input_ids": ids, "attention_mask": numpy.ones_like(ids)}
            times = {name: [] for name in [*engines, *(f"sorank {d}" for d in ours)]}
            for round_ in range(args.rounds + 1):
                for name, engine in engines.items():
                    start = time.perf_counter()
                    engine(feed)
                    times[name].append(1e3 * (time.perf_counter() - start))
                for dtype, child in ours.items():
                    times[f"sorank {dtype}"].append(child.milliseconds(case))
            found[case] = {name: {"median": statistics.median(t[1:]), "best": min(t[1:])} for name, t in times.items()}
            for name, t in found[case].items():
                print(f"{case:8} {name:18} median {t['median']:9.2f} ms   best {t['best']:9.2f} ms", flush=True)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
