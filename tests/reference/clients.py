"""Clients of other projects against a running server, unchanged: the official `openai` client, TEI's request shapes by
`huggingface_hub`, vLLM's adapter calls, the Open Inference Protocol by Triton's client and by KServe's own.

    python tests/reference/clients.py URL TOKEN

The server holds models/golden/bert: base `base`, adapters mixed, qv2, tags, embed; root models/golden/bert/adapters.
Prints a line a client; any surprise is an exception.
"""

import asyncio
import math
import sys

import numpy as np
import openai
import requests
import tritonclient.http as triton
from huggingface_hub import InferenceClient
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

URL, TOKEN = sys.argv[1], sys.argv[2]
TEXTS = ["the cat sat", "a dog ran to the house and back again", "we saw it"]
ADMIN = {"Authorization": f"Bearer {TOKEN}"}


def near(a, b):
    assert np.allclose(a, b, atol=1e-6), (a, b)


def refuses(error, call):
    try:
        call()
    except error as refused:
        return refused
    raise AssertionError(f"expected {error.__name__}")


def openai_client():
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key="unused", max_retries=0)
    # Without encoding_format the client asks for base64 and decodes it itself.
    packed = client.embeddings.create(model="base", input=TEXTS)
    plain = client.embeddings.create(model="base", input=TEXTS, encoding_format="float")
    near([d.embedding for d in packed.data], [d.embedding for d in plain.data])
    assert [d.index for d in packed.data] == [0, 1, 2] and packed.usage.total_tokens > 0 and packed.model == "base"
    adapted = client.embeddings.create(model="embed", input=TEXTS[0])
    assert not np.allclose(adapted.data[0].embedding, packed.data[0].embedding, atol=1e-3)
    short = client.embeddings.create(model="base", input="the cat sat", dimensions=8)
    assert len(short.data[0].embedding) == 8 and math.isclose(np.linalg.norm(short.data[0].embedding), 1, abs_tol=1e-5)
    models = {m.id: m for m in client.models.list()}
    assert {"base", "mixed", "qv2", "tags", "embed"} <= set(models), models
    assert client.models.retrieve("mixed").parent == "base"
    gone = refuses(openai.NotFoundError, lambda: client.embeddings.create(model="nobody", input="x"))
    assert gone.code == "model_not_found", gone.body
    bad = refuses(openai.BadRequestError, lambda: client.embeddings.create(model="base", input="the cat " * 5000))
    assert bad.code == "context_length_exceeded", bad.body
    return f"openai {openai.__version__}: embeddings (float, base64, dimensions), models, 404, 400"


def tei():
    client = InferenceClient(base_url=URL)
    embed = requests.post(f"{URL}/embed", json={"inputs": TEXTS, "truncate": True}).json()
    assert len(embed) == 3 and all(math.isclose(np.linalg.norm(v), 1, abs_tol=1e-5) for v in embed)
    tokens = requests.post(f"{URL}/embed_all", json={"inputs": TEXTS[0]}).json()
    assert len(tokens) == 1 and len(tokens[0][0]) == len(embed[0])
    one = requests.post(f"{URL}/predict", json={"inputs": TEXTS[0], "adapter": "mixed"}).json()
    many = requests.post(f"{URL}/predict", json={"inputs": [[t] for t in TEXTS], "adapter": "mixed"}).json()
    assert many[0] == one and len(many) == 3
    pair = requests.post(f"{URL}/predict", json={"inputs": TEXTS[:2], "adapter": "mixed"}).json()
    assert pair != one and isinstance(pair[0], dict), "two strings are a pair"
    similar = client.sentence_similarity(TEXTS[0], TEXTS[1:], model=f"{URL}/similarity")
    near(similar, [np.dot(embed[0], v) for v in embed[1:]])
    pieces = requests.post(f"{URL}/tokenize", json={"inputs": TEXTS}).json()
    assert {"id", "text", "special", "start", "stop"} <= set(pieces[0][0])
    back = requests.post(f"{URL}/decode", json={"ids": [[p["id"] for p in row] for row in pieces]}).json()
    assert back == TEXTS, back
    info = requests.get(f"{URL}/info").json()
    assert info["max_input_length"] > 0 and "classifier" in info["model_type"]
    found = requests.post(f"{URL}/token_classify", json={"inputs": TEXTS[0], "adapter": "tags"}).json()
    assert all({"entity_group", "score", "word", "start", "end"} == set(e) for e in found)
    wrong = requests.post(f"{URL}/embed", json={"inputs": 3})
    assert wrong.status_code == 422 and wrong.json()["error_type"] == "Validation"
    empty = requests.post(f"{URL}/embed", json={"inputs": []})
    assert empty.status_code == 400 and empty.json()["error_type"] == "Empty"
    assert requests.get(f"{URL}/health").status_code == 200
    assert "te_request_count" in requests.get(f"{URL}/metrics").text
    return "TEI shapes (requests, huggingface_hub): embed, embed_all, predict, similarity, tokenize, decode, info, errors"


def vllm():
    load = {"lora_name": "sql", "lora_path": "qv2"}
    assert requests.post(f"{URL}/v1/load_lora_adapter", json=load).status_code == 401, "the token is asked for"
    loaded = requests.post(f"{URL}/v1/load_lora_adapter", json=load, headers=ADMIN)
    assert loaded.status_code == 200, loaded.text
    # The same files again change nothing; others under a name that is taken are refused.
    assert requests.post(f"{URL}/v1/load_lora_adapter", json=load, headers=ADMIN).status_code == 200
    again = requests.post(f"{URL}/v1/load_lora_adapter", json=load | {"lora_path": "mixed"}, headers=ADMIN)
    assert again.status_code == 409 and again.json()["error"]["code"] == "lora_adapter_already_loaded"
    cards = {c["id"]: c for c in requests.get(f"{URL}/v1/models").json()["data"]}
    assert cards["sql"]["parent"] == "base"
    body = requests.post(f"{URL}/classify", json={"model": "sql", "input": TEXTS}).json()
    assert [d["index"] for d in body["data"]] == [0, 1, 2] and len(body["data"][0]["probs"]) == body["data"][0]["num_classes"]
    scores = requests.post(f"{URL}/v1/rerank", json={"model": "sql", "query": TEXTS[0], "documents": TEXTS[1:]})
    assert scores.status_code in (200, 400, 422), scores.text
    gone = {"lora_name": "sql", "lora_int_id": 1}
    assert requests.post(f"{URL}/v1/unload_lora_adapter", json=gone, headers=ADMIN).status_code == 200
    assert requests.post(f"{URL}/v1/unload_lora_adapter", json=gone, headers=ADMIN).status_code == 404
    assert requests.post(f"{URL}/classify", json={"model": "sql", "input": "x"}).status_code == 404
    outside = requests.post(f"{URL}/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/etc"}, headers=ADMIN)
    assert outside.status_code == 403 and "/etc" not in outside.text
    return "vLLM's calls: load, load again, models, classify, unload, unload again, a place outside"


def triton_client():
    client = triton.InferenceServerClient(URL.removeprefix("http://"))
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("mixed") and client.is_model_ready("base") and not client.is_model_ready("nobody")
    meta = client.get_model_metadata("mixed")
    assert meta["name"] == "mixed" and meta["inputs"][0]["datatype"] == "BYTES", meta
    text = triton.InferInput(meta["inputs"][0]["name"], [3], "BYTES")
    text.set_data_from_numpy(np.array(TEXTS, dtype=object), binary_data=False)
    names = [o["name"] for o in meta["outputs"]]
    wanted = [triton.InferRequestedOutput(name, binary_data=False) for name in names]
    result = client.infer("mixed", [text], outputs=wanted)
    shapes = {name: result.as_numpy(name).shape for name in names}
    assert all(shape[0] == 3 for shape in shapes.values()), shapes
    names_there = {m["name"] for m in client.get_model_repository_index()}
    assert {"base", "mixed"} <= names_there, names_there
    refused = refuses(triton.InferenceServerException, lambda: client.get_model_metadata("nobody"))
    assert "nobody" in str(refused)
    return f"tritonclient: live, ready, metadata, infer {shapes}, index, an unknown model"


def kserve_client():
    async def ask():
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        assert await client.is_server_live(URL) and await client.is_server_ready(URL)
        assert await client.is_model_ready(URL, "mixed")
        text = InferInput(name="text", shape=[3], datatype="BYTES", data=TEXTS)
        asked = InferRequest(model_name="mixed", infer_inputs=[text])
        return await client.infer(URL, asked, model_name="mixed")

    answer = asyncio.run(ask())
    tensors = {tensor.name: tensor for tensor in answer.outputs}
    said = requests.post(f"{URL}/classify", json={"model": "mixed", "input": TEXTS}).json()
    near(np.reshape(tensors["scores"].data, tensors["scores"].shape), [d["probs"] for d in said["data"]])
    assert list(tensors["label"].data) == [d["label"] for d in said["data"]]
    return f"kserve: live, ready, infer {sorted(tensors)}"


for client in (openai_client, tei, vllm, triton_client, kserve_client):
    print("ok", client(), flush=True)
