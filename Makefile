# kolo's commands. `make help` lists them; the work of more than a few lines is in scripts/.

PREFIX     ?= /usr/local
LIBDIR     ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR    ?= $(PREFIX)/share
DESTDIR    ?=
CARGO      ?= cargo
CC         ?= cc
ARGS       ?=
FEATURES   ?= default
MINUTES    ?= 2
STEPS      ?= 20000000

export CARGO_TARGET_DIR := $(CURDIR)/target
NATIVE_LIBS  := $(CARGO_TARGET_DIR)/release/native-libs
LOCAL_PREFIX := $(CURDIR)/build/prefix
INSTALL_PATHS = PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' INCLUDEDIR='$(INCLUDEDIR)' DATADIR='$(DATADIR)' DESTDIR='$(DESTDIR)'

.DEFAULT_GOAL := build
.PHONY: build install uninstall prefix run test bench doc header abi check-features check-model check-sanitizers check-loom check-sim check-faults check-targets fuzz soak reliability fmt clean help

# Not plain `cargo build`: with the Rust library among the crate types, cargo leaves link-time optimisation out.
# rustc also tells what a program must link beside the static library.
## build: the library, shared and static, in target/release (what plain `make` does); FEATURES=net,fs for a part of it
build:
	@scripts/need rust cc:gcc libc6-dev
	$(CARGO) rustc --lib --release --locked --no-default-features --features 'capi,$(FEATURES)' --crate-type cdylib,staticlib -- \
	    --print native-static-libs='$(NATIVE_LIBS)'
	@touch '$(NATIVE_LIBS)'

## install: header, libraries, pkg-config file, CMake package; PREFIX=/usr/local DESTDIR= LIBDIR= INCLUDEDIR=
install:
	@scripts/built || $(MAKE) --no-print-directory build
	@$(INSTALL_PATHS) scripts/install

## uninstall: take away what install put there; the same variables as for install
uninstall:
	@$(INSTALL_PATHS) scripts/uninstall

# What the examples, tests and benchmarks are built against: an installed kolo in this folder.
prefix: build
	@PREFIX='$(LOCAL_PREFIX)' scripts/install

## run: build kolo and serve this folder over HTTP on 127.0.0.1; ARGS="--port 8080"
run:
	@CC='$(CC)' scripts/run $(ARGS)

## test: every test, after installing what the tests need
test:
	@scripts/test

## bench: kolo beside libuv, libev, libevent, mio, tokio, raw epoll and raw io_uring; ARGS= goes to benches/run
bench:
	@scripts/bench $(ARGS)

## doc: the Rust pages in target/doc/kolo, the C manual (the header) in target/doc/kolo.h
doc:
	@scripts/need rust
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --locked
	cp include/kolo.h target/doc/kolo.h
	@echo "Rust: target/doc/kolo/index.html"
	@echo "C:    target/doc/kolo.h"

## header: write include/kolo.h anew from src/capi
header:
	KOLO_BLESS=1 $(CARGO) test --locked --features capi --test header

## abi: write new functions, structs and constants to the lists in packaging/ that a test compares
abi: prefix
	@scripts/abi '$(LOCAL_PREFIX)' --bless

## check-faults: real faults, the long tests too: failing system calls, storms of signals, broken networks; minutes
check-faults:
	@scripts/check-faults

## check-features: lint every combination of the cargo features
check-features:
	@scripts/check-features

## check-model: random sequences of calls against a model, on every driver, with fresh seeds; STEPS=20000000 SEED=
check-model:
	@scripts/check-model $(STEPS) $(or $(SEED),fresh)

## check-sanitizers: the C programs under the address and the thread sanitizer, kolo instrumented too
check-sanitizers:
	@scripts/check-sanitizers

## check-sim: simulated worlds, harsh ones, one for each seed; SEEDS=300, BASE= the first
check-sim:
	@scripts/check-sim $(SEEDS) $(BASE)

## check-loom: wakes and posts in every order in which threads may meet
check-loom:
	@scripts/check-loom

## check-targets: type-check and lint for Windows, FreeBSD and macOS; TARGETS= for others
check-targets:
	@scripts/check-targets

## fuzz: any bytes for the parsers and for sequences of C calls, with sanitizers; MINUTES= in all, TARGETS=
fuzz:
	@scripts/fuzz $$(( $(MINUTES) * 60 / $(words $(or $(TARGETS),1 2 3)) )) $(TARGETS)

## soak: everything at once, and whether memory or descriptors grow; MINUTES=
soak:
	@scripts/soak $(MINUTES)

## reliability: the figures of the last runs, into docs/reliability.md
reliability:
	@scripts/reliability

## fmt: format the Rust source
fmt:
	$(CARGO) fmt

## clean: take away everything that was built
clean:
	rm -rf target build

## help: this list
help:
	@sed -n 's/^## \([a-z-]*\): /\1	/p' $(MAKEFILE_LIST) | expand -t 16
