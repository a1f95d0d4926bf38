# `make` alone lists the targets. CI calls these and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.run
DEV_STAMP := $(VENV)/.dev
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

#: A commit whose contracts are not to be broken.
AGAINST ?= origin/main
#: A folder of deploy/kubernetes/overlays.
OVERLAY ?= development

# What pip and Python are told elsewhere is meant for other projects; where packages come from is this machine's say.
PIP_KEPT := PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_NO_INDEX PIP_FIND_LINKS PIP_PROXY PIP_CERT PIP_CLIENT_CERT PIP_TRUSTED_HOST \
	PIP_KEYRING_PROVIDER PIP_TIMEOUT PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_CACHE_DIR PIP_NO_CACHE_DIR PIP_CONFIG_FILE
PYTHON_KEPT := PYTHON PYTHON_KEPT PYTHONUTF8 PYTHONIOENCODING PYTHONUNBUFFERED PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX
unexport $(filter-out $(PIP_KEPT) PIP_KEPT,$(filter PIP_%,$(.VARIABLES)))
unexport $(filter-out $(PYTHON_KEPT),$(filter PYTHON%,$(.VARIABLES))) __PYVENV_LAUNCHER__
# Louder than a pip.conf.
export PIP_USER := 0

.DEFAULT_GOAL := help
.PHONY: help run kafka test test-browser test-kafka test-docker test-observability test-kubernetes cluster-secrets deploy roll-back roll-back-all smoke \
	cluster-login check-workflows check-contracts check-dependencies image scan-image sbom coverage check-release package check format proto pins reference dashboards \
	traps browser bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Codebank needs Python 3.11 or newer; this is " + sys.version.split()[0] + "\nhint: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): requirements/run.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(DEV_STAMP): requirements/dev.txt $(RUN_STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements/dev.txt
	@touch $@

run: $(RUN_STAMP) ## run everything on this machine and print the addresses; Ctrl-C stops it
	@$(BIN)/codebank up $(ARGS)

kafka: $(RUN_STAMP) ## run real Kafka, Kafka Connect and Elasticsearch (needs Java and Maven); Ctrl-C stops them
	@$(BIN)/codebank servers

test: $(DEV_STAMP) ## run the tests; needs no server, no Java, no container engine, no browser
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

test-browser: $(DEV_STAMP) ## run the tests that need Chromium; fails where it is missing
	TEST_BROWSER=required TEST_CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest -m browser $(ARGS)

test-kafka: $(DEV_STAMP) ## run the tests on real Kafka, Kafka Connect and Elasticsearch (needs Java and Maven)
	TEST_KAFKA=$${TEST_KAFKA:-on} $(BIN)/python -m pytest -m kafka $(ARGS)

test-docker: $(DEV_STAMP) ## build the images, run them with compose, kill and stop them; needs a container engine or root on Debian
	TEST_DOCKER=$${TEST_DOCKER:-on} $(BIN)/python -m pytest -m docker --capture=sys $(ARGS)

test-observability: $(DEV_STAMP) ## run every rule, query and alert on real Prometheus (Debian's, not installed); follow a trace
	TEST_OBSERVABILITY=$${TEST_OBSERVABILITY:-on} $(BIN)/python -m pytest -m observability $(ARGS)
	TEST_CHROMIUM="$(CHROMIUM)" $(BIN)/python -m pytest tests/test_traces.py -m "browser or not browser" -k one_trace

test-kubernetes: $(DEV_STAMP) ## run the manifests on real Kubernetes programs; the first time builds them, a quarter of an hour
	TEST_KUBERNETES=$${TEST_KUBERNETES:-on} $(BIN)/python -m pytest -rs --durations=12 --capture=sys tests/kubernetes $(ARGS)

cluster-secrets: $(RUN_STAMP) ## make the secrets and certificates of the development overlay, once; never in the tree
	@$(BIN)/python deploy/kubernetes/make_secrets.py deploy/kubernetes/overlays/$(OVERLAY)

deploy: ## roll OVERLAY out to the cluster that kubectl speaks to, in order; takes back what does not become ready
	@$(PYTHON) deploy/kubernetes/roll_out.py $(OVERLAY) $(ARGS)

roll-back: ## bring ROLE back to the version before
	kubectl --namespace codebank rollout undo deployment/$(ROLE)
	kubectl --namespace codebank rollout status deployment/$(ROLE) --timeout=300s

smoke: ## pay once in the cluster, from a pod, and follow the payment to the statement
	@$(PYTHON) deploy/kubernetes/smoke.py

roll-back-all: ## bring the roles back to what was at work before the last roll-out
	@$(PYTHON) deploy/kubernetes/roll_out.py $(OVERLAY) --back

cluster-login: ## write KUBECONFIG_TEXT, a secret of the environment, to the file KUBECONFIG
	@umask 077; test -n "$$KUBECONFIG_TEXT" && printf '%s' "$$KUBECONFIG_TEXT" > "$$KUBECONFIG"

check-workflows: $(DEV_STAMP) ## read the workflows with actionlint (built once) and zizmor
	"$$($(BIN)/python -m tests.kubernetes.tools actionlint)"/actionlint .github/workflows/*.yml
	$(BIN)/zizmor --offline --no-progress --config .github/zizmor.yml .github/workflows

check-contracts: $(DEV_STAMP) ## lint the protocol, and compare it and the REST with those of AGAINST (buf and oasdiff, built once)
	$(BIN)/python -m tests.contracts $(AGAINST)

check-dependencies: $(DEV_STAMP) ## ask osv.dev for known faults of what we depend on (osv-scanner, built once)
	"$$($(BIN)/python -m tests.kubernetes.tools osv-scanner)"/osv-scanner scan source \
		--lockfile requirements.txt:requirements/dev.txt --lockfile requirements.txt:requirements/image.txt --lockfile deploy/connect/sink/pom.xml

image: ## build the image codebank:local
	docker build --file deploy/Dockerfile --tag codebank:local .

scan-image: $(DEV_STAMP) ## ask osv.dev for known faults of what is in the image codebank:local
	"$$($(BIN)/python -m tests.kubernetes.tools osv-scanner)"/osv-scanner scan image codebank:local

sbom: $(DEV_STAMP) ## list what is in the image codebank:local, as SPDX in dist/sbom.json
	@mkdir -p dist
	"$$($(BIN)/python -m tests.kubernetes.tools osv-scanner)"/osv-scanner scan image --all-packages --offline-vulnerabilities --format spdx-2-3 --output-file dist/sbom.json codebank:local

coverage: $(DEV_STAMP) ## run the tests and tell which lines none of them came by; fails below 75 % (real servers are tested apart)
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov=codebank --cov-report=term:skip-covered --cov-report=xml --cov-fail-under=75 $(ARGS)

check-release: ## check that VERSION is the package's, and that the changelog tells of it
	@grep -qx 'version = "$(VERSION:v%=%)"' pyproject.toml || { echo "VERSION=$(VERSION) is not the version in pyproject.toml"; exit 1; }
	@grep -q '^## $(VERSION:v%=%)' CHANGELOG.md || { echo "CHANGELOG.md has no section $(VERSION:v%=%)"; exit 1; }

package: $(DEV_STAMP) ## build the package into dist/
	$(BIN)/python -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir dist .

check: $(DEV_STAMP) ## lint, types, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_tidy.py

format: $(DEV_STAMP) ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(DEV_STAMP) ## make src/codebank/v1 from proto/
	$(BIN)/python tests/generate.py src

reference: $(DEV_STAMP) ## make docs/reference.md and docs/asyncapi.json from the program
	$(BIN)/codebank reference > docs/reference.md
	$(BIN)/codebank reference --events > docs/asyncapi.json

dashboards: $(DEV_STAMP) ## make Grafana's dashboards from deploy/observability/grafana
	$(BIN)/python deploy/observability/grafana/make.py

traps: $(DEV_STAMP) ## list the traps and whether each has its test
	@$(BIN)/python tests/traps.py

browser: ## install Chromium where apt-get can
	apt-get update -qq && apt-get install -y -qq chromium

bench: $(RUN_STAMP) ## measure Authorize beside an echo and plain SQL, in a minute and a half
	$(BIN)/codebank bench authorize $(or $(ARGS),--rounds 3 --seconds 1)

pins: ## make the pins of requirements/ anew (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-strip-extras --no-emit-index-url pyproject.toml --extra embedded --extra tracing --group build -o requirements/run.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-strip-extras --no-emit-index-url pyproject.toml --extra embedded --extra tracing --group build --group dev -c requirements/run.txt -o requirements/dev.txt
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-strip-extras --no-emit-index-url pyproject.toml --extra tracing --group build -c requirements/run.txt -o requirements/image.txt

clean: ## remove the environment and what tools leave behind
	rm -rf $(VENV) .coverage coverage.xml .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist src/*.egg-info
