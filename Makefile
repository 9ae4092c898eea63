# Each target works from nothing: .ci/setup makes .venv and installs gearmand, gearman and jq where they are missing.

# The checkout's tools, run by the python3 of .venv; a user's PATH lacks sbin, where gearmand is.
RUN = PATH="$(CURDIR)/bin:$(CURDIR)/.venv/bin:$$PATH:/usr/local/sbin:/usr/sbin"

PREFIX = /usr/local
PYTHON =
ROOMS = libgm $(patsubst %/__init__.py,%,$(wildcard libgm/*/__init__.py))
TOOLS = $(notdir $(wildcard bin/gm-*))
LIB = $(DESTDIR)$(PREFIX)/lib/gearmang
BIN = $(DESTDIR)$(PREFIX)/bin
SHARE = $(DESTDIR)$(PREFIX)/share

# How long make chaos breaks things, and the seed of what it does
SECONDS = 60
SEED = 1

.PHONY: venv demo test check bench chaos clean install uninstall deb

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
	@.ci/setup bench
	@$(RUN) bench/run

chaos:
	@.ci/setup test
	@$(RUN) tests/chaos/run --seconds=$(SECONDS) --seed=$(SEED)

# Tools and library lie side by side, as they are; PYTHON, where it is given, is the interpreter they are run by.
install:
	install -d $(ROOMS:%="$(LIB)/%") "$(BIN)" "$(SHARE)/doc/gearmang" "$(SHARE)/bash-completion/completions" \
	    "$(SHARE)/zsh/site-functions" "$(SHARE)/fish/vendor_completions.d" $(foreach n,1 5 7,"$(SHARE)/man/man$(n)")
	install -m 755 bin/gm-* "$(LIB)"
	$(foreach room,$(ROOMS),install -m 644 $(room)/*.py "$(LIB)/$(room)" &&) true
	[ -z "$(PYTHON)" ] || sed -i '1s|.*|#!$(PYTHON)|' $(TOOLS:%="$(LIB)/%")
	$(foreach n,1 5 7,install -m 644 man/*.$(n) "$(SHARE)/man/man$(n)" &&) true
	install -m 644 README LICENSE "$(SHARE)/doc/gearmang"
	cp -R contrib "$(SHARE)/doc/gearmang" && rm -rf "$(SHARE)/doc/gearmang/contrib/debian"
	find "$(SHARE)/doc/gearmang/contrib" -type f -exec sed -i 's|/usr/local/bin|$(PREFIX)/bin|g' {} +
	install -m 644 completions/gearmang.bash "$(SHARE)/bash-completion/completions"
	install -m 644 completions/_gearmang "$(SHARE)/zsh/site-functions"
	install -m 644 completions/gearmang.fish "$(SHARE)/fish/vendor_completions.d"
	for tool in $(TOOLS); do \
	    ln -sf ../lib/gearmang/$$tool "$(BIN)/$$tool" && \
	    ln -sf gearmang.bash "$(SHARE)/bash-completion/completions/$$tool" && \
	    ln -sf gearmang.fish "$(SHARE)/fish/vendor_completions.d/$$tool.fish" || exit 1; \
	done
	@[ -n "$(DESTDIR)" ] || $(or $(PYTHON),python3) -c 'import docopt, tabulate, tqdm, python3_gearman' || \
	    echo "make install: $(or $(PYTHON),python3) needs: pip install docopt tabulate tqdm python3-gearman" >&2

uninstall:
	rm -rf "$(LIB)" "$(SHARE)/doc/gearmang"
	rm -f $(TOOLS:%="$(BIN)/%") $(TOOLS:%="$(SHARE)/bash-completion/completions/%") \
	    $(TOOLS:%="$(SHARE)/fish/vendor_completions.d/%.fish") "$(SHARE)/zsh/site-functions/_gearmang" \
	    "$(SHARE)/bash-completion/completions/gearmang.bash" "$(SHARE)/fish/vendor_completions.d/gearmang.fish" \
	    $(foreach n,1 5 7,$(patsubst man/%,"$(SHARE)/man/man$(n)/%",$(wildcard man/*.$(n))))

deb:
	@.ci/setup venv
	@$(RUN) contrib/debian/make-deb dist

clean:
	rm -rf .venv .peers build dist *.egg-info .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
