# Sluice: build, test, measure. `make test` installs what the tests need (Debian packages, as root) and runs them all.
CARGO ?= cargo
export SLUICE_BIN ?= $(CURDIR)/target/release/sluice

# The gateway with GSS-API, for the tests of that.
export SLUICE_GSSAPI_BIN ?= $(CURDIR)/target/sluice-gssapi

.PHONY: all build tools deb gssapi test test-deps test-unit test-interop test-browser lint bench drill fuzz clean

all: build

build:
	$(CARGO) build --release

# What puts load on a gateway and measures it, beside the gateway.
tools: build
	$(CARGO) build --release -p sluice-tests --bins

# The Debian package, in target/debian.
deb: build
	deploy/debian/build.sh $(SLUICE_BIN) target/debian

test-deps:
	deploy/test-deps.sh

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	$(CARGO) clippy -p sluice -p sluice-auth-backends --features sluice/gssapi --all-targets --quiet -- -D warnings

# Unit, property, scenario and API tests of every crate; the rig's tests follow, one at a time.
test-unit:
	$(CARGO) test --workspace --exclude sluice-tests --quiet
	$(CARGO) test -p sluice-auth-backends --features gssapi --quiet gssapi

# All but two crates is what the unit tests have built already.
gssapi:
	$(CARGO) build -p sluice --features gssapi
	cp target/debug/sluice $(SLUICE_GSSAPI_BIN)

test-interop: tools gssapi
	$(CARGO) test -p sluice-tests -- --test-threads=1 --nocapture

# A page in Chromium, which is a large package: not a part of `make test`.
test-browser: tools
	deploy/test-deps.sh chromium
	$(CARGO) test -p sluice-tests --test socks_clients -- --test-threads=1 --ignored

test: test-deps lint test-unit test-interop

# Measures the gateway (as root, about a quarter of an hour) and writes tests/bench/RESULTS.md; then its SOCKS side beside
# other servers, which writes tests/bench/SOCKS.md.
bench: test-deps tools
	target/release/measure
	target/release/measure-socks

# Fault drills and storms at full count (as root, about a quarter of an hour); writes tests/drill/RESULTS.md.
drill: test-deps tools
	target/release/drill

# A minute of every fuzz target; needs `cargo install cargo-fuzz`. A short seeded run of each is part of `make test`.
FUZZ_TIME ?= 60
fuzz:
	$(CARGO) run -q -p sluice-tests --bin fuzz-seeds tests/fuzz/corpus
	for target in $(basename $(notdir $(wildcard tests/fuzz/fuzz_targets/*.rs))); do \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir tests/fuzz $$target -- -max_total_time=$(FUZZ_TIME) -max_len=1500 \
	    || exit 1; \
	done

clean:
	$(CARGO) clean
