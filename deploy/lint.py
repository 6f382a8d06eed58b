"""Checks what lies in deploy/ as far as it can be checked without a cluster, and says what it checked and what not.

    python -m venv target/lint && target/lint/bin/pip install -r deploy/lint.txt
    target/lint/bin/pip install --no-deps kserve==0.21.0
    target/lint/bin/python deploy/lint.py

Dockerfile: hadolint. Kubernetes: kustomize (`kubectl kustomize`) renders each overlay, each object is checked against
the schemas of Kubernetes, and the probes, ports, names and selectors against each other. KServe: field names against
the models of its own client. systemd: systemd-analyze verify and security. Envoy: against the protocol buffers of its
configuration. Settings: each SORANK_ variable and each key of serve.toml against the flags of the binary, where
SORANK_BIN names one. Exits 1 when a check fails; a tool that is not there is a check skipped, and is said.
"""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
OVERLAYS = sorted(p for p in (HERE / "kubernetes/overlays").iterdir() if (p / "kustomization.yaml").exists())
KUBERNETES = ["1.32", "1.37"]  # the oldest and the newest that are checked
WORST_EXPOSURE = 15  # of 100, as systemd-analyze security counts: 1.5 of 10

failed, skipped, checked = [], [], []


def check(what, ok, why=""):
    (checked if ok else failed).append(what)
    print(f"{'ok    ' if ok else 'FAILED'}  {what}" + (f"\n        {why.strip()}" if why and not ok else ""))


def skip(what, why):
    skipped.append(what)
    print(f"skipped {what}: {why}")


def tool(name):
    beside = BIN / name
    return str(beside) if beside.exists() else shutil.which(name)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode == 0, done.stdout + done.stderr, done.stdout


def dockerfile():
    if hadolint := tool("hadolint"):
        ok, said, _ = run(hadolint, "--failure-threshold", "info", str(HERE / "Dockerfile"))
        check("Dockerfile: hadolint", ok, said)
    else:
        skip("Dockerfile: hadolint", "not installed")
    text = (HERE / "Dockerfile").read_text()
    last = text[text.rindex("\nFROM ") :]
    check("Dockerfile: non-root by number, a health check, no shell form",
          re.search(r"^USER [1-9]\d*:", last, re.M) and "HEALTHCHECK" in last
          and not re.search(r"^(RUN|CMD [^\[]|ENTRYPOINT [^\[])", last, re.M))
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M):
        for path in source.split():
            check(f"Dockerfile: {path} is in the tree", (HERE.parent / path).exists())
    skip("Dockerfile: a build", "takes images from a registry; `docker build -f deploy/Dockerfile .` where there is one")


def schemas(objects, what):
    if not (validate := tool("kubernetes-validate")):
        return skip(f"{what}: Kubernetes schemas", "kubernetes-validate is not installed")
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump_all(objects, file)
        file.flush()
        for version in KUBERNETES:
            ok, said, _ = run(validate, "--strict", "--quiet", "-k", version, file.name)
            check(f"{what}: {len(objects)} objects against the schemas of Kubernetes {version}", ok, said)


def together(objects, what):
    by = {(o["kind"], o["metadata"]["name"]): o for o in objects}
    deployment = next((o for (kind, _), o in by.items() if kind == "Deployment"), None)
    if deployment is None:
        return
    pod = deployment["spec"]["template"]
    labels, spec = pod["metadata"]["labels"], pod["spec"]
    container = spec["containers"][0]
    ports = {p["name"] for p in container["ports"]}
    volumes = {v["name"] for v in spec["volumes"]}
    within = lambda selector: bool(selector) and selector.items() <= labels.items()
    services = [o["spec"] for (kind, _), o in by.items() if kind == "Service"]
    budget = next(o for (kind, _), o in by.items() if kind == "PodDisruptionBudget")["spec"]
    scaler = next(o for (kind, _), o in by.items() if kind == "HorizontalPodAutoscaler")["spec"]
    selectors = [*(s["selector"] for s in services), budget["selector"].get("matchLabels"), deployment["spec"]["selector"].get("matchLabels")]
    check(f"{what}: selectors choose the pods", all(within(s) for s in selectors), str(selectors))
    check(f"{what}: ports and volumes have names that exist",
          all(p["targetPort"] in ports for s in services for p in s["ports"])
          and all(container[f"{p}Probe"]["httpGet"]["port"] in ports for p in ("startup", "readiness", "liveness"))
          and all(m["name"] in volumes for m in container["volumeMounts"]))
    check(f"{what}: the autoscaler scales the deployment",
          ("Deployment", scaler["scaleTargetRef"]["name"]) in by)
    maps = [f["configMapRef"]["name"] for f in container["envFrom"] if "configMapRef" in f]
    check(f"{what}: the configuration is there", all(("ConfigMap", name) in by for name in maps), str(maps))
    settings = by["ConfigMap", maps[0]]["data"]
    grace, ends = spec["terminationGracePeriodSeconds"], float(settings["SORANK_DRAIN_DELAY"]) + float(settings["SORANK_DRAIN_TIMEOUT"])
    check(f"{what}: a pod is not killed while it drains", grace > ends, f"{grace} s, drains {ends} s")
    for name in ("SORANK_CACHE", "SORANK_MODEL", "SORANK_STATE_FILE", "SORANK_ADAPTER_DIR"):
        if path := settings.get(name):
            mounted = any(path.startswith(m["mountPath"]) for m in container["volumeMounts"])
            check(f"{what}: {name}={path} is mounted", mounted)


def kubernetes():
    if not (kubectl := tool("kubectl")):
        return skip("Kubernetes: everything", "kubectl, which renders the overlays, is not installed")
    for overlay in OVERLAYS:
        what = f"kubernetes/{overlay.name}"
        ok, said, out = run(kubectl, "kustomize", str(overlay))
        check(f"{what}: renders", ok, said)
        if ok:
            objects = [o for o in yaml.safe_load_all(out) if o]
            schemas(objects, what)
            together(objects, what)
    skip("Kubernetes: admission, scheduling, probes", "needs a cluster")


def fields(models):
    """Of each of KServe's models: its JSON fields and their types, read from the source without importing it."""
    found = {}
    for path in models.glob("v1*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                tables = {t.targets[0].id: ast.literal_eval(t.value) for t in node.body
                          if isinstance(t, ast.Assign) and getattr(t.targets[0], "id", "") in ("openapi_types", "attribute_map")}
                if len(tables) == 2:
                    found[node.name] = {tables["attribute_map"][k]: v for k, v in tables["openapi_types"].items()}
    return found


def unknown(value, kind, models, at=""):
    """The fields in `value` that a `kind` does not have."""
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return [bad for i, item in enumerate(value) for bad in unknown(item, inner[1], models, f"{at}[{i}]")]
    if kind not in models:
        return []
    wrong = [f"{at}.{key}" for key in value if key not in models[kind]]
    return wrong + [bad for key, item in value.items() if key in models[kind] for bad in unknown(item, models[kind][key], models, f"{at}.{key}")]


def kserve():
    runtime, service = (yaml.safe_load((HERE / f"kserve/{name}.yaml").read_text()) for name in ("runtime", "service"))
    # The container is Kubernetes' own: it is checked as part of a pod.
    pod = {"containers": runtime["spec"]["containers"], "volumes": runtime["spec"]["volumes"]}
    schemas([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runtime"}, "spec": pod}], "kserve/runtime: its container")
    spec = importlib.util.find_spec("kserve")
    if spec is None:
        return skip("kserve: field names", "the package kserve is not installed")
    models = fields(Path(spec.submodule_search_locations[0]) / "models")
    for value, kind in ((runtime, "V1alpha1ServingRuntime"), (service, "V1beta1InferenceService")):
        bad = unknown(value, kind, models, kind)
        check(f"kserve: fields of {kind} ({len(models)} models read)", kind in models and not bad, ", ".join(bad))
    model = service["spec"]["predictor"]["model"]
    formats = {f["name"] for f in runtime["spec"]["supportedModelFormats"]}
    check("kserve: the service's runtime and format are the runtime's",
          model["runtime"] == runtime["metadata"]["name"] and model["modelFormat"]["name"] in formats)


def systemd():
    if not (analyze := tool("systemd-analyze")):
        return skip("systemd: unit", "systemd-analyze is not installed")
    unit = (HERE / "systemd/sorank.service").read_text()
    with tempfile.TemporaryDirectory() as dir:
        path = Path(dir) / "sorank.service"
        # Verify wants the binary to be there; what it is does not matter to it.
        path.write_text(unit.replace("/usr/local/bin/sorank", "/bin/true"))
        _, said, _ = run(analyze, "verify", "--man=no", str(path))
        mine = [line for line in said.splitlines() if "sorank" in line]
        check("systemd: verify", not mine, "\n".join(mine))
        ok, said, _ = run(analyze, "security", "--offline=yes", f"--threshold={WORST_EXPOSURE}", str(path))
        exposure = next((line for line in said.splitlines() if "exposure level" in line), said)
        check(f"systemd: {exposure.strip(' →')}", ok, said)


def envoy():
    try:
        from google.protobuf import json_format
        from envoy.config.bootstrap.v3 import bootstrap_pb2
        from envoy.extensions.filters.http.lua.v3 import lua_pb2  # noqa: F401  named in typed_config
        from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
        from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
    except ImportError as error:
        return skip("envoy: configuration", f"xds-protos is not installed ({error})")
    try:
        json_format.ParseDict(yaml.safe_load((HERE / "envoy/envoy.yaml").read_text()), bootstrap_pb2.Bootstrap())
        check("envoy: against the protocol buffers of its configuration", True)
    except json_format.ParseError as error:
        check("envoy: against the protocol buffers of its configuration", False, str(error))
    skip("envoy: a run", "no envoy here")


def settings():
    if not (binary := os.environ.get("SORANK_BIN")):
        return skip("settings: names", "SORANK_BIN names no binary")
    help_text = run(binary, "serve", "--help")[1]
    variables = set(re.findall(r"env: (SORANK_\w+)", help_text)) | {"SORANK_CACHE", "SORANK_SIMD", "SORANK_LOG"}
    flags = set(re.findall(r"--([a-z][a-z-]+)", help_text))
    used = set()
    for path in [*HERE.rglob("*.yaml"), HERE / "Dockerfile", HERE / "systemd/sorank.service", HERE.parent / "docs/deploy.md"]:
        used |= set(re.findall(r"SORANK_[A-Z_]+", path.read_text()))
    unknown_names = used - variables
    check(f"settings: {len(used)} variables exist", not unknown_names, ", ".join(sorted(unknown_names)))
    toml = (HERE / "systemd/serve.toml").read_text()
    keys = set(re.findall(r"^([a-z-]+) =", toml, re.M))
    args = set(re.findall(r"- --([a-z-]+)", (HERE / "kserve/runtime.yaml").read_text()))
    check(f"settings: {len(keys | args)} flags exist", keys | args <= flags, ", ".join(sorted((keys | args) - flags)))


for part in (dockerfile, kubernetes, kserve, systemd, envoy, settings):
    part()
print(f"{len(checked)} checks passed, {len(failed)} failed, {len(skipped)} skipped")
sys.exit(bool(failed))
