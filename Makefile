# Commands of the project; `make` lists them. Everything runs inside .venv, which `make setup` builds
# from the hash-locked requirements (torch is a step of its own: see requirements/README.md).

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
LOCK ?= requirements/dev.lock
STAMP := $(VENV)/.stamp
# Where torch comes from: empty means the package index that pip is set up with.
TORCH_INDEX ?=
TORCH := torch==2.13.0
HOST_HOME ?= home
PORT ?= 8000
DATA ?=
OUT ?= docs/quality
SEEDS ?= 0
RECIPE ?=
BACKBONE ?=
MODELS ?=
PROFILE ?= standard
TWIN ?=
SURROGATES ?=
MODEL ?=
QUERIES ?= 200
ITEMS ?= 10000000
ENGINE ?= pgvector
CHAOS_SEED ?= 0
SURROGATE ?=
DEFENCE ?= drfgd
EPOCHS ?= 8
ONLY ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test check check-containers format lock openapi sample-model bench-quality bench-robustness bench-broken-defences bench-ablation bench-attack-score bench-search bench-scale bench-chaos bench-reindex bench-scale-out tables clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP) ## Make .venv and install the pinned dependencies (nothing to do when up to date)

$(STAMP): pyproject.toml $(LOCK)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)
	$(BIN)/python -c 'import sys; assert sys.version_info >= (3, 11), f"Python 3.11 or newer is needed, got {sys.version}"'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(STAMP)

run: setup ## Prepare the sample corpus and model, index them and serve on 127.0.0.1:8000
	$(BIN)/hashguard demo --home $(HOST_HOME) --port $(PORT)

test: check ## Everything that CI runs: make check, then pytest
	$(BIN)/python -m pytest -n 2 --dist loadgroup -q

check: setup ## ruff, mypy strict, import contracts, house gauge
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q tests/architecture -p no:cacheprovider

check-containers: setup ## hadolint, docker-compose config, manifests; images built by buildah and tried (needs these tools, and root)
	sh docker/check.sh lint
	sh docker/check.sh build
	PYTHONPATH=clients/python $(BIN)/python -m bench.container_trial --out docs/performance/containers.json

format: setup ## Format and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: ## Resolve requirements/*.lock anew from pyproject.toml
	cd requirements && sh lock.sh

openapi: setup ## Write docs/openapi.json from the code
	$(BIN)/python -m service.api.document docs/openapi.json

sample-model: setup ## Train the next version of the sample model that the package ships (about 15 minutes on 2 cores)
	rm -rf runs/sample
	$(BIN)/hashguard data sample runs/sample/data --pairs 6000 --seed 1
	mkdir -p runs/sample/models
	cp -r service/assets/models/sample runs/sample/models/sample
	folder=$$($(BIN)/hashguard train --data runs/sample/data --name sample --bits 64 --seed 0 --out runs/sample/models \
	    --defence drfgd --recipe drfgd --epochs 16 --set defence.inner.eps_image=0.047058823529411764 \
	    --set schedule.small_side=0 --set augment.text_edits=0.5 --set augment.text_tries=4 \
	    --set augment.text_typos=0.5 | tail -n 1) \
	    && test -f "$$folder/manifest.json" \
	    && rm -rf service/assets/models/sample && mkdir -p service/assets/models/sample \
	    && cp -r "$$folder" service/assets/models/sample/

bench-quality: setup ## Retrieval quality on a manifest folder: DATA=DIR [RECIPE=NAME] [BACKBONE=DIR] [SEEDS=0,1]
	$(BIN)/python -m bench.quality --data $(DATA) --out $(OUT) --seeds $(SEEDS) \
	    $(if $(RECIPE),--recipe $(RECIPE)) $(if $(BACKBONE),--backbone $(BACKBONE))

bench-broken-defences: setup ## Which gates see through broken defences: MODEL=DIR DATA=DIR [SURROGATE=DIR]
	PYTHONPATH=tests/model/evaluation $(BIN)/python -m bench.broken_defences --model $(MODEL) --data $(DATA) \
	    $(if $(SURROGATE),--surrogate $(SURROGATE))

bench-robustness: setup ## Claim: DATA=DIR MODELS=A,B [PROFILE=standard] [PART=seeds] [TWIN=] [SURROGATES=] [WORDNET=]
	$(BIN)/python -m bench.robustness --data $(DATA) --models $(MODELS) --profile $(PROFILE) \
	    $(if $(TWIN),--twin $(TWIN)) $(if $(SURROGATES),--surrogates $(SURROGATES)) \
	    $(if $(PART),--part $(PART)) $(if $(WORDNET),--wordnet $(WORDNET))

bench-attack-score: setup ## What the attack score sees of which attack: DATA=DIR MODEL=DIR [QUERIES=200]
	$(BIN)/python -m bench.attack_score --data $(DATA) --model $(MODEL) --queries $(QUERIES)

bench-ablation: setup ## What each part of a defence earns: DATA=DIR [DEFENCE=drfgd] [EPOCHS=8] [SIZE=48] [ONLY=A,B] [WORDNET=]; hours
	$(BIN)/python -m bench.ablation --data $(DATA) --defence $(DEFENCE) --epochs $(EPOCHS) \
	    $(if $(SIZE),--set architecture.image.size=$(SIZE)) $(if $(WORDNET),--wordnet $(WORDNET)) \
	    $(if $(ONLY),--only "$(ONLY)")

tables: setup ## Write the tables of README and docs/method.md from the data files below docs/
	$(BIN)/python -m bench.tables

bench-search: setup ## Search and bulk-add speed against raw Faiss in the same process
	$(BIN)/python -m bench.search --items 1000000 --bits 64 --out docs/performance/search.json

bench-scale: setup ## Bulk import, restart, memory and search of a large corpus: [ITEMS=10000000]
	$(BIN)/python -m bench.scale --items $(ITEMS) --out docs/performance/scale.json

bench-chaos: setup ## kill -9 of service and worker under load, judged by an oracle (10 minutes and more): [CHAOS_SEED=0]
	$(BIN)/python -m bench.chaos --seed $(CHAOS_SEED) --out docs/performance/chaos.json

bench-reindex: setup ## Searches during a reindex, and its throughput beside plain encoding; wants a quiet machine
	$(BIN)/python -m bench.reindex_load --out docs/performance/reindex-load.json

bench-scale-out: setup ## Two replicas behind nginx under load: killed, reindexed, rolled back: [ENGINE=pgvector] (needs nginx)
	PYTHONPATH=tests:clients/python $(BIN)/python -m bench.scale_out --engine $(ENGINE) \
	    --out docs/performance/scale-out-$(ENGINE).json

clean: ## Remove what the other commands made, the virtual environment included
	rm -rf $(VENV) home build .mypy_cache .ruff_cache .pytest_cache .hypothesis
