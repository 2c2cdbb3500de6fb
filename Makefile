# Everything runs in .venv, which the targets make themselves. PYTHON is any 3.10 to 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# On Linux the index's newest torch brings gigabytes of CUDA packages, which nothing here needs. This version is one that
# the suite passes on; take another with `make TORCH=torch`.
TORCH ?= torch==2.13.0

.PHONY: demo test test-slow lint check bench notebooks clean

demo: $(VENV)/.demo  ## The main job, offline: make demo [LLM=openai:gpt-5-mini] [URL=http://gpu:8080]
	$(BIN)/python -m langchain_aligner.demo $(if $(LLM),--llm $(LLM)) $(if $(URL),--url $(URL))

test: $(VENV)/.test  ## All tests but the slow ones, with coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -m "not slow" $(ARGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

test-slow: $(VENV)/.slow  ## The tests that take long or need foreign servers
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/.lint  ## Style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python

check: lint test  ## What has to pass before a commit

bench: $(VENV)/.demo  ## The figures in docs/benchmarks.md
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/langchain_overhead.py

notebooks: $(VENV)/.test  ## Runs the notebooks and keeps what they show
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

clean:  ## Removes what the targets made
	rm -rf $(VENV) build dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet $(TORCH)
	touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[demo]"
	touch $@

$(VENV)/.test $(VENV)/.lint $(VENV)/.slow: $(VENV)/.%: $(VENV)/.torch pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[demo,llama-index,train]" --group $*
	touch $@
