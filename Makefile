# Each target does all of its own set-up in .venv/ (see .ci/setup) and is quick when it is already there.
BIN := .venv/bin

.PHONY: demo test check

demo:  ## seeds -> dataset -> student, on the embedded teacher: no key, no GPU
	@.ci/setup demo
	@$(BIN)/python examples/demo.py

check:  ## the inner loop: format, lint, types, layers, unit tests
	@.ci/setup check
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/pytest -m "not slow"

test:  ## everything, with the real engines and models
	@.ci/setup test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/pytest
