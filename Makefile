# AGF in C. `make` builds the program and the libraries, `make demo` shows it at work, `make test` runs every test that this machine
# can run. No target needs Python but the tests' Python parts, and those are skipped without it.
CC ?= cc
AR ?= ar
CFLAGS ?= -O2 -g
WARNINGS = -std=c99 -Wall -Wextra -Wpedantic
LDLIBS = -lm -lpthread
PREFIX ?= /usr/local
SONAME = libagf.so.1
VERSION = $(shell sed -n 's/^\#define AGF_VERSION_M[A-Z]* //p; s/^\#define AGF_VERSION_PATCH //p' agf.h | paste -sd.)

# The program also reads WebP and TIFF where what does so is installed for $(CC): libwebp-dev, libtiff-dev.
PKG_CONFIG ?= pkg-config
has = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo 'int main(void) { return 0; }' | \
  $(CC) $(CFLAGS) -x c - $$($(PKG_CONFIG) --cflags --libs $(1)) -o /dev/null 2>/dev/null && echo $(1))
WEBP := $(call has,libwebp)
TIFF := $(call has,libtiff-4)
CLI_FLAGS := $(WEBP:%=-DCLI_WEBP) $(TIFF:%=-DCLI_TIFF)
CLI_LIBS :=
ifneq ($(strip $(WEBP) $(TIFF)),)
CLI_FLAGS += $(shell $(PKG_CONFIG) --cflags $(WEBP) $(TIFF))
CLI_LIBS := $(shell $(PKG_CONFIG) --libs $(WEBP) $(TIFF))
endif

MAKEFLAGS += -j2

ENGINE = agf.c agf.h $(wildcard kernels/*.h kernels/*.inc)
CLI = tools/agf_cli.c $(wildcard tools/cli_*.h)
TESTS = test_golden test_api test_methods test_hostile test_v1 soak check_kernels check_plan check_math
PYTHON_TESTS = test_oracle random_graphs test_pictures test_python test_convert test_eval test_readme

all: build/agf build/libagf.so build/libagf.a

build:
	mkdir -p build

# Position-independent, so that the shared library is made of the same object: compiling the kernels takes a while.
build/agf.o: $(ENGINE) | build
	$(CC) $(WARNINGS) $(CFLAGS) -fPIC -c agf.c -o $@

build/agf: $(CLI) build/agf.o
	$(CC) $(WARNINGS) $(CFLAGS) $(CLI_FLAGS) -I. tools/agf_cli.c build/agf.o -o $@ $(CLI_LIBS) $(LDLIBS)

build/libagf.so: build/agf.o
	$(CC) $(CFLAGS) -shared -Wl,-soname,$(SONAME) build/agf.o -o $@ $(LDLIBS)

build/libagf.a: build/agf.o
	$(AR) rcs $@ build/agf.o

build/test_hostile build/test_v1: tests/tiny.h tests/exercise.h tests/ledger.h
build/test_api: tests/ledger.h

build/test_%: tests/test_%.c tests/testing.h build/agf.o
	$(CC) $(WARNINGS) $(CFLAGS) $< build/agf.o -o $@ $(LDLIBS)

# These look inside the engine.
build/check_%: tests/check_%.c tests/testing.h $(ENGINE) | build
	$(CC) $(WARNINGS) $(CFLAGS) $< -o $@ $(LDLIBS)

test: all $(TESTS:%=build/%)
	@TESTS="$(TESTS)" PYTHON_TESTS="$(PYTHON_TESTS)" sh tests/run.sh

# The network and the scenes that the repository carries (made by tools/train_demo.py).
demo: build/agf
	sh tools/demo.sh

# The networks of real size, made and explained: minutes, and 2 GB below build/.
test-full: build/test_golden
	sh tests/environment.sh
	mkdir -p build/full
	for n in vgg19 vgg16_bn resnet50 resnet18; do build/venv/bin/python tests/make_golden.py --full $$n --out build/full && echo $$n; done >build/full/cases.txt
	build/test_golden --full build/full

# PyTorch, what the battery of experiments needs, and a compiler for Windows and macOS into the tests' environment: then nothing in
# Python is skipped.
torch:
	sh tests/environment.sh torch eval zig

# How fast it is here: kernels, stages, whole programs, and beside its peers where they are installed.
bench: build/agf build/libagf.so build/check_kernels
	sh bench/run.sh

# An upper bound for the NEON loops on Raspberry Pi's processors.
mca:
	sh bench/mca.sh

# The drop-in pair: dist/agf.h and dist/agf.c.
dist:
	python3 tools/amalgamate.py dist

install: all
	mkdir -p $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 755 build/agf $(DESTDIR)$(PREFIX)/bin/agf
	install -m 644 agf.h $(DESTDIR)$(PREFIX)/include/agf.h
	install -m 644 build/libagf.a $(DESTDIR)$(PREFIX)/lib/libagf.a
	install -m 755 build/libagf.so $(DESTDIR)$(PREFIX)/lib/libagf.so.$(VERSION)
	ln -sf libagf.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/$(SONAME)
	ln -sf $(SONAME) $(DESTDIR)$(PREFIX)/lib/libagf.so
	printf 'prefix=%s\nName: agf\nDescription: Attribution maps for convolutional networks\nVersion: %s\nCflags: -I$${prefix}/include\nLibs: -L$${prefix}/lib -lagf\nLibs.private: -lm -lpthread\n' \
	  '$(PREFIX)' '$(VERSION)' >$(DESTDIR)$(PREFIX)/lib/pkgconfig/agf.pc

# Checkers. clang: gcc's sanitizers need gigabytes for the kernels.
CLANG ?= clang
CHECKED = test_hostile test_api soak
SANITIZED = $(CLANG) -std=c99 -Wall -Wextra -O1 -g -fno-omit-frame-pointer
build/%-asan: SANITIZE = -fsanitize=address -DAGF_NO_SIMD
build/%-ubsan: SANITIZE = -fsanitize=undefined -fno-sanitize-recover=undefined -DAGF_NO_SIMD
build/%-tsan: SANITIZE = -fsanitize=thread -DAGF_NO_SIMD
build/%-asan build/%-ubsan build/%-tsan: tests/%.c tests/testing.h tests/tiny.h tests/exercise.h tests/ledger.h $(ENGINE) | build
	$(SANITIZED) $(SANITIZE) $< agf.c -o $@ $(LDLIBS)

asan: $(CHECKED:%=build/%-asan)
	for t in $(CHECKED); do build/$$t-asan || exit 1; done

ubsan: $(CHECKED:%=build/%-ubsan)
	for t in $(CHECKED); do build/$$t-ubsan || exit 1; done

tsan: build/soak-tsan build/test_api-tsan
	build/soak-tsan 10 && build/test_api-tsan

valgrind: build/soak build/test_api
	SOAK_CHECKED=1 valgrind -q --error-exitcode=1 --leak-check=full build/soak 2
	AGF_ISA=avx2 valgrind -q --error-exitcode=1 --leak-check=full build/test_api

# 2,000 explanations in one session, three times, and eight threads with sessions on one model: the same bits, no growth.
soak: build/soak
	build/soak 60

build/soak: tests/soak.c tests/testing.h tests/tiny.h build/agf.o
	$(CC) $(WARNINGS) $(CFLAGS) $< build/agf.o -o $@ $(LDLIBS)

# Coverage-guided fuzzing of model files with ASan and UBSan: libFuzzer, 10 minutes unless FUZZ_SECONDS says otherwise. What it finds is
# in build/fuzz. `make coverage` then prints the line coverage of what reads, infers and plans.
FUZZ_SECONDS ?= 600
build/fuzz_model: tests/fuzz/fuzz_model.c tests/tiny.h tests/exercise.h tests/ledger.h $(ENGINE) | build
	$(SANITIZED) -DAGF_NO_SIMD -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined $< agf.c -o $@ $(LDLIBS)

fuzz: build/fuzz_model
	mkdir -p build/fuzz build/corpus
	build/fuzz_model -max_total_time=$(FUZZ_SECONDS) -max_len=24576 -timeout=10 -dict=tests/fuzz/model.dict -print_final_stats=1 \
	  -artifact_prefix=build/fuzz/ build/corpus tests/fuzz/model

# The program's picture decoders, from small files of every kind.
build/fuzz_picture: tests/fuzz/fuzz_picture.c $(CLI) build/agf.o
	$(CLANG) -std=gnu99 -O1 -g -I. -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined $< build/agf.o -o $@ $(LDLIBS)

fuzz-pictures: build/fuzz_picture
	mkdir -p build/fuzz build/pictures
	build/fuzz_picture -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -rss_limit_mb=1500 -timeout=20 -artifact_prefix=build/fuzz/ \
	  build/pictures tests/fuzz/picture

build/fuzz_replay: tests/fuzz/fuzz_model.c tests/tiny.h tests/exercise.h tests/ledger.h $(ENGINE) | build
	$(SANITIZED) -DAGF_NO_SIMD -DFUZZ_REPLAY -fprofile-instr-generate -fcoverage-mapping $< agf.c -o $@ $(LDLIBS)

coverage: build/fuzz_replay
	LLVM_PROFILE_FILE=build/fuzz.profraw build/fuzz_replay tests/fuzz/model/*.agf $$(find build/corpus -type f 2>/dev/null)
	sh tests/fuzz/coverage.sh

# Static analysis; what is switched off, and why, stands in .clang-tidy and tests/lint.sh.
lint:
	sh tests/lint.sh

format-check:
	clang-format --dry-run --Werror agf.c tests/*.c tests/*.h tests/fuzz/*.c

clean:
	rm -rf build

.PHONY: all demo test test-full torch bench mca dist install clean asan ubsan tsan valgrind soak fuzz fuzz-pictures coverage lint format-check
