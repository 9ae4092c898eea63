# `make demo` and `make test` work from nothing; see README.

VENV = .venv
RUN = PATH="$(CURDIR)/bin:$(CURDIR)/$(VENV)/bin:$$PATH"

help:
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile

demo: ## photographs are resized, some die, are fixed and come back
	@.ci/setup demo
	@$(RUN) examples/demo/run

test: ## every test (minutes)
	@.ci/setup test
	$(RUN) python -m pytest -q -n 2 tests

check: ## the quick tests (under a minute)
	@.ci/setup test
	$(RUN) python -m pytest -q -n 2 -m "not slow" tests

venv: ## the virtual environment alone
	@.ci/setup venv

clean: ## remove what make made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache demo-out

.PHONY: help demo test check venv clean
