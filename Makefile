# make demo: the whole DAG on small stand-in data, in a scratch folder     make test: lint, types, contracts, tests
# make repro: the real data, budget cpu                                    make ui: the MLflow UI on the runs
# make reliability: kills, faults, fuzzing; hours
# make show: experiments beside each other                                 make send-runs: results that the store missed
PYTHON ?= python3
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
ifneq ($(words $(CURDIR)),1)
$(error the path of this checkout holds a space, which make and pip do not take: move it)
endif
DEMO := $(CURDIR)/.demo
export PATH := $(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1

.PHONY: demo test reliability lint repro show ui send-runs lock
.DELETE_ON_ERROR:

# Installed from the lock, hashes checked; made again when the lock changes.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: fewlabel needs Python 3.11 or newer; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.installed
	@rm -rf $(DEMO) && mkdir $(DEMO)
	@git ls-files -z --cached --others --exclude-standard -- . ':!dvc.lock' | tar --null --files-from=- --create | tar --extract -C $(DEMO)
	@cd $(DEMO) && git init --quiet && git config user.name demo && git config user.email demo@localhost \
		&& git config commit.gpgsign false && git config core.hooksPath /dev/null \
		&& git add --all && git commit --quiet --message "Demo"
	cd $(DEMO) && env -u MLFLOW_TRACKING_URI dvc exp run --name demo -S budget=smoke -S data.source=embedded -S 'cells.metric_methods=[contrastive,prototypes]' -S 'cells.gradient_methods=[maml,reptile]' -S 'cells.tasks=[5w1s]' -S 'cells.label_cells=[20-0]' -S 'cells.frozen_cells=[20-0]' -S 'cells.transfer_seeds=[0]'
	@cd $(DEMO) && dvc plots show --out plots > /dev/null
	@echo; echo "Done, on stand-in data: the numbers prove the pipeline, not the methods. Where to look:"
	@echo "  report        $(DEMO)/reports/index.html"
	@echo "  leaderboard   $(DEMO)/metrics/comparison.csv"
	@echo "  plots page    $(DEMO)/plots/index.html"
	@echo "  MLflow UI     $(BIN)/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///$(DEMO)/mlflow.db"

lint: $(VENV)/.installed
	ruff check .
	ruff format --check .
	mypy
	PYTHONPATH=src:. lint-imports

test: lint
	pytest

# Hours: many kills, full disks, damaged files and whole pipelines at once.
reliability: $(VENV)/.installed
	RELIABILITY=long pytest tests/reliability --show-capture=stdout -rP

repro: $(VENV)/.installed
	dvc repro

# Experiments beside each other: what differs among them, on one protocol a family. Those that wait, which have no number
# yet and so would differ in all, are in `dvc queue status`.
show: $(VENV)/.installed
	dvc exp show --only-changed --hide-queued --no-pager --drop '^(Created|Executor|rev|(src|stages|data/|results|metrics/).*|.*-transductive[.].*|few-shot.*(10w|20w|w5s|all-|within|tutorial).*|label-efficiency.*([0-9]{3,}-per-class|which-).*)$$'

# The runs in this checkout's mlflow.db, or in the database that MLFLOW_TRACKING_URI names. A server shows its own.
ui: $(VENV)/.installed
	@case "$$MLFLOW_TRACKING_URI" in \
	http*) echo "open the address of MLFLOW_TRACKING_URI in a browser" ;; \
	*) MLFLOW_BACKEND_STORE_URI=$$(python -c 'from fewlabel.tracking import store; print(store.address(store.root()))') \
		mlflow ui --host 127.0.0.1 ;; esac

# The results that no run in the store carries, as after the store was down.
send-runs: $(VENV)/.installed
	@python -m fewlabel.tracking.send

# Newest versions that fit pyproject.toml, for every platform and Python it supports. Needs uv.
lock:
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-header --quiet --upgrade --output-file requirements.lock
