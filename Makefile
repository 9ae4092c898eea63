# Each target works from nothing: .ci/setup makes .venv and installs gearmand, gearman and jq where they are missing.

# The checkout's tools, run by the python3 of .venv; a user's PATH lacks sbin, where gearmand is.
RUN = .ci/as-owner env PATH="$(CURDIR)/bin:$(CURDIR)/.venv/bin:$$PATH:/usr/local/sbin:/usr/sbin"

PREFIX = /usr/local
PYTHON =
ROOMS = libgm $(patsubst %/__init__.py,%,$(wildcard libgm/*/__init__.py))
TOOLS = $(notdir $(wildcard bin/gm-*))
LIB = $(DESTDIR)$(PREFIX)/lib/gearmang
BIN = $(DESTDIR)$(PREFIX)/bin
SHARE = $(DESTDIR)$(PREFIX)/share
DOC = $(SHARE)/doc/gearmang
CONTRIB = $(filter-out contrib/debian,$(wildcard contrib/*))

# How long make chaos breaks things, and the seed of what it does
SECONDS = 60
SEED = 1

# The Debian suite of make suites
SUITE = trixie

.PHONY: venv demo lint test check bench chaos clean html install install-files uninstall deb suites

venv:
	@.ci/setup venv

demo:
	@.ci/setup demo
	@$(RUN) examples/demo/run

lint:
	@.ci/setup lint
	@$(RUN) .ci/lint

# The tests run also where a linter complains; either failure is make's. Four at once on two cores: many wait more than they work.
PYTEST = $(RUN) .ci/lint; lint=$$?; $(RUN) env -u PYTHONDONTWRITEBYTECODE python3 -m pytest -q -n 4 --dist worksteal

test:
	@.ci/setup test
	@$(PYTEST) && exit $$lint

check:
	@.ci/setup test
	@$(PYTEST) -m "not slow" && exit $$lint

bench:
	@.ci/setup bench
	@$(RUN) bench/run

chaos:
	@.ci/setup test
	@$(RUN) tests/chaos/run --seconds=$(SECONDS) --seed=$(SEED)

# Tools and library lie side by side, as they are. With PYTHON=PROGRAM they are run by it, not by the first python3 on PATH.
install:
	@case '$(PYTHON)' in *' '* | [!/]*) echo "make install: PYTHON=$(PYTHON): give an absolute path without blanks:" \
	    "it becomes the first line of the tools" >&2; exit 2;; esac
	@[ -n "$(DESTDIR)" ] || "$(or $(PYTHON),python3)" -c 'import docopt, python3_gearman, tabulate, tqdm' 2>/dev/null || \
	    { echo "make install: $(or $(PYTHON),python3): cannot import docopt, python3_gearman, tabulate and tqdm:" \
	    "give PYTHON=VENV/bin/python3 of an environment that has them, or use make deb" >&2; exit 1; }
	@umask 022 && $(MAKE) --no-print-directory install-files

install-files:
	rm -rf "$(LIB)"
	install -d $(ROOMS:%="$(LIB)/%") "$(BIN)" "$(DOC)" "$(SHARE)/bash-completion/completions" \
	    "$(SHARE)/zsh/site-functions" "$(SHARE)/fish/vendor_completions.d" $(foreach n,1 5 7,"$(SHARE)/man/man$(n)")
	install -m 755 bin/gm-* "$(LIB)"
	$(foreach room,$(ROOMS),install -m 644 $(room)/*.py "$(LIB)/$(room)" &&) true
	[ -z "$(PYTHON)" ] || sed -i '1s|.*|#!$(PYTHON)|' $(TOOLS:%="$(LIB)/%")
	$(foreach n,1 5 7,install -m 644 man/*.$(n) "$(SHARE)/man/man$(n)" &&) true
	install -m 644 README HACKING NEWS LICENSE "$(DOC)"
	$(foreach folder,$(CONTRIB),install -d "$(DOC)/$(folder)" && install -m 644 $(folder)/* "$(DOC)/$(folder)" &&) true
	find "$(DOC)/contrib" -type f -exec sed -i 's|/usr/local/bin|$(PREFIX)/bin|g' {} +
	install -m 644 completions/gearmang.bash "$(SHARE)/bash-completion/completions"
	install -m 644 completions/_gearmang "$(SHARE)/zsh/site-functions"
	install -m 644 completions/gearmang.fish "$(SHARE)/fish/vendor_completions.d"
	for tool in $(TOOLS); do \
	    ln -sf ../lib/gearmang/$$tool "$(BIN)/$$tool" && \
	    ln -sf gearmang.bash "$(SHARE)/bash-completion/completions/$$tool" && \
	    ln -sf gearmang.fish "$(SHARE)/fish/vendor_completions.d/$$tool.fish" || exit 1; \
	done

uninstall:
	rm -rf "$(LIB)" "$(DOC)"
	rm -f $(TOOLS:%="$(BIN)/%") $(TOOLS:%="$(SHARE)/bash-completion/completions/%") \
	    $(TOOLS:%="$(SHARE)/fish/vendor_completions.d/%.fish") "$(SHARE)/zsh/site-functions/_gearmang" \
	    "$(SHARE)/bash-completion/completions/gearmang.bash" "$(SHARE)/fish/vendor_completions.d/gearmang.fish" \
	    $(foreach n,1 5 7,$(patsubst man/%,"$(SHARE)/man/man$(n)/%",$(wildcard man/*.$(n))))

deb:
	@.ci/setup venv
	@$(RUN) contrib/debian/make-deb dist

# The manual as HTML, in build/html; needs mandoc.
html:
	@man/make-html build/html && echo build/html/index.html

# The README followed in a new system of a Debian suite: as root, with debootstrap; tests/suites/run says more.
suites:
	@nice -n 10 tests/suites/run $(SUITE)

clean:
	rm -rf .venv .peers build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
