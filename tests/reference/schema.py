"""Runs schemathesis, which makes requests from the server's own OpenAPI description, against the built-in model.

    python tests/reference/schema.py target/debug/sorank

No answer may be a 5xx, and each must be JSON where the description says so. Needs schemathesis from PyPI.
"""

import pathlib
import subprocess
import sys

BINARY = sys.argv[1]
TOOL = pathlib.Path(sys.executable).parent / "schemathesis"

server = subprocess.Popen(
    [BINARY, "serve", "--port", "0", "--quiet", "--allow-runtime-adapters", "--adapter-root", "models/tiny/adapters"],
    stdout=subprocess.PIPE, text=True)
try:
    url = next(line.split("listening on ")[1].split()[0] for line in server.stdout if "listening on " in line)
    done = subprocess.run([str(TOOL), "run", f"{url}/api-doc/openapi.json", "--checks", "not_a_server_error",
                           "--max-examples", "100", "--seed", "23", "--request-timeout", "10"])
    assert server.poll() is None, "the server ended"
    sys.exit(done.returncode)
finally:
    server.kill()
