# Each target works from nothing: .ci/setup makes .venv and installs gearmand, gearman and jq where they are missing.

# The checkout's tools, run by the python3 of .venv; a user's PATH lacks sbin, where gearmand is.
RUN = PATH="$(CURDIR)/bin:$(CURDIR)/.venv/bin:$$PATH:/usr/local/sbin:/usr/sbin"

.PHONY: venv demo test check bench chaos clean

venv:
	@.ci/setup venv

demo:
	@.ci/setup demo
	@$(RUN) examples/demo/run

test:
	@.ci/setup test
	@$(RUN) python3 -m pytest -q -n 2

check:
	@.ci/setup test
	@$(RUN) python3 -m pytest -q -n 2 -m "not slow"

bench:
	@.ci/setup test
	@$(RUN) bench/run

chaos:
	@.ci/setup test
	@$(RUN) bench/chaos

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
