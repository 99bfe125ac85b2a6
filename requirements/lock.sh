#!/bin/sh
# Resolves every lock file from pyproject.toml. torch is left out (see README.md in this folder).
set -eu
cd "$(dirname "$0")/.."
lock() {
    .venv/bin/uv pip compile --quiet --custom-compile-command "make lock" --generate-hashes \
        pyproject.toml requirements/torch-needs.in "$@"
}
lock --extra cpu --extra pgvector --extra milvus --output-file requirements/service.lock
lock --extra gpu --extra pgvector --extra milvus --output-file requirements/service-gpu.lock
lock --extra cpu --extra training --output-file requirements/trainer.lock
lock --extra cpu --extra training --extra pgvector --extra milvus --extra servers --extra dev \
    --output-file requirements/dev.lock
