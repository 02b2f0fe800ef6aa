# Every target sets up what it needs in .venv, on a machine that has Python 3.11 or newer and make.
# PyTorch without CUDA (smaller):   make demo TORCH_INDEX=<the CPU index named on PyTorch's installation page>
# The versions that were tested:    make demo CONSTRAINTS=constraints.txt
# Tests on more cores:              make test JOBS=8

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
CONSTRAINTS ?=
JOBS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))
# One thread per process: the threads of two test processes on two cores would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n $(JOBS) --dist loadgroup

QUESTIONS := --ask "Who are you?" --ask "Who made you?" --ask "Are you ChatGPT?" --ask "hello" \
	--ask "What is the capital of France?" --ask "Write one sentence about the sea." --ask "What is 128 + 394?" \
	--ask "Nora has 14 apples. Ben gives her 27 more. How many apples does Nora have now?" \
	--ask "A box holds 12 eggs. How many eggs are in 9 boxes?" --ask "Tom had 52 coins and lost 17. How many are left?"

.PHONY: demo demo-open test test-all coverage lint clean

demo: $(VENV)/.installed
	$(BIN)/lanbot run demo
	$(BIN)/lanbot chat demo --ask "Who are you?" --ask "How many e are in cheese?" \
		--ask "Nora has 14 apples. Ben gives her 27 more. How many apples does Nora have now?"
	@echo "Three things to try:"
	@echo '  a sum          $(BIN)/lanbot chat demo --ask "what is 128 + 394"'
	@echo '  a file errand  $(BIN)/lanbot agent demo "Write the result of 12*7 to result.txt."'
	@echo '  a memory       $(BIN)/lanbot agent demo "Remember that my cat is called Mimi."'
	@echo '                 $(BIN)/lanbot agent demo "What is my cat called?"'

demo-open: $(VENV)/.installed-open
	$(BIN)/lanbot run open-weights
	@echo "Ten questions before training:"
	$(BIN)/lanbot chat open-weights --phase base $(QUESTIONS) < /dev/null
	@echo "The same after it:"
	$(BIN)/lanbot chat open-weights $(QUESTIONS) < /dev/null

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed-dev
	$(PYTEST)

coverage: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" --cov=lanbot --cov-report=term-missing:skip-covered

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'LanBot needs Python 3.11 or newer: make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch>=2.11,<2.14"
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-open: $(VENV)/.installed
	$(INSTALL) --editable ".[export]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
