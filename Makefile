PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test lint docs tutorials clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/robustdeq reproduce digits

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/pyright

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

tutorials: install
	$(BIN)/python docs/notebooks.py

clean:
	rm -rf site .venv .pytest_cache .ruff_cache .hypothesis
