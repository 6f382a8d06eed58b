"""Downloads a repository with Python's huggingface_hub, or finds it in the cache, and prints its directory.

    python hub_cache.py online|offline OWNER/NAME REVISION

HF_ENDPOINT and HF_HOME say where; tests/it/hub/python.rs points them at its mock.
"""

import sys

import huggingface_hub


def main() -> None:
    mode, repository, revision = sys.argv[1:]
    files = ["config.json", "tokenizer.json", "model.safetensors"]
    offline = mode == "offline"
    for name in files:
        path = huggingface_hub.hf_hub_download(repository, name, revision=revision, local_files_only=offline)
        with open(path, "rb") as file:
            assert file.read(), path
    print(
        huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=files, local_files_only=offline
        )
    )


if __name__ == "__main__":
    main()
