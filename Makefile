# AGF in C. `make` builds the program and the libraries, `make demo` shows it at work, `make test` runs every test that this machine
# can run. No target needs Python but the tests' Python parts, and those are skipped without it.
#
#   make [CC=...] [CFLAGS=...] [BUILD=dir]          everything that is made goes below $(BUILD); objects know no other flags than these
#   make install [PREFIX=/usr/local] [DESTDIR=...]  and make uninstall with the same words
#   make test [SUITES="test_api test_cli"]          CI=true adds the suites that take minutes (tests/run.sh)
CC ?= cc
AR ?= ar
CFLAGS ?= -O2 -g
WARNINGS = -std=c99 -Wall -Wextra -Wpedantic
LDLIBS = -lm -lpthread
PREFIX ?= /usr/local
BUILD ?= build
export BUILD
SONAME = libagf.so.1
VERSION = $(shell sed -n 's/^\#define AGF_VERSION_M[A-Z]* //p; s/^\#define AGF_VERSION_PATCH //p' agf.h | paste -sd.)

# The program also reads WebP and TIFF, and writes PNG files faster, where what does so is installed for $(CC): libwebp-dev, libtiff-dev,
# zlib1g-dev, and libisal-dev beside it.
PKG_CONFIG ?= pkg-config
has = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo 'int main(void) { return 0; }' | \
  $(CC) $(CFLAGS) -x c - $$($(PKG_CONFIG) --cflags --libs $(1)) -o /dev/null 2>/dev/null && echo $(1))
WEBP := $(call has,libwebp)
TIFF := $(call has,libtiff-4)
ZLIB := $(call has,zlib)
ISAL := $(if $(ZLIB),$(call has,libisal))
CLI_FLAGS := $(WEBP:%=-DCLI_WEBP) $(TIFF:%=-DCLI_TIFF) $(ZLIB:%=-DCLI_ZLIB) $(ISAL:%=-DCLI_ISAL)
CLI_LIBS :=
ifneq ($(strip $(WEBP) $(TIFF) $(ZLIB)),)
CLI_FLAGS += $(shell $(PKG_CONFIG) --cflags $(WEBP) $(TIFF) $(ZLIB) $(ISAL))
CLI_LIBS := $(shell $(PKG_CONFIG) --libs $(WEBP) $(TIFF) $(ZLIB) $(ISAL))
endif

MAKEFLAGS += -j2

ENGINE = agf.c agf.h $(wildcard kernels/*.h kernels/*.inc)
CLI = tools/agf_cli.c $(wildcard tools/cli_*.h)
TESTS = test_golden test_api test_methods test_hostile test_v1 soak check_kernels check_plan check_tables check_math
PYTHON_TESTS = random_graphs test_chains test_pictures test_python test_convert test_tflite test_eval test_readme
# What takes minutes, for CI: the bits of every compiler and target, the drop-in pair, hostile input under sanitizers, and more.
SLOW_TESTS = test_dist test_page test_notebook compile_cost test_cmake test_make test_package test_hostile_cli test_oracle test_contrast check_seeds $(CHECKED:%=%-checked) lint

all: lib $(BUILD)/agf

# The libraries, which need nothing but a C compiler.
lib: $(BUILD)/libagf.so $(BUILD)/libagf.a

$(BUILD):
	mkdir -p "$@"

# Position-independent, so that the shared library is made of the same object: compiling the kernels takes a while. So the tests that look
# inside the engine are linked with its kernels too (tests/inside.h).
$(BUILD)/agf.o: $(ENGINE) | $(BUILD)
	$(CC) $(WARNINGS) $(CFLAGS) '-DAGF_INTERNAL=__attribute__((visibility("hidden")))' -fPIC -c agf.c -o $@

# The program's object, made beside the engine's; where it cannot be made, the libraries are made first.
STB := $(shell echo '\#include <stb/stb_image.h>' | $(CC) -E -x c - >/dev/null 2>&1 && echo yes)
ifeq ($(STB),)
$(BUILD)/agf_cli.o: | lib
endif
$(BUILD)/agf_cli.o: $(CLI) agf.h | $(BUILD)
ifeq ($(STB),)
	@echo "make: the program needs stb's headers: apt-get install libstb-dev. The libraries are made." >&2; exit 1
endif
	$(CC) $(WARNINGS) $(CFLAGS) $(CLI_FLAGS) -I. -c tools/agf_cli.c -o $@

$(BUILD)/agf: $(BUILD)/agf_cli.o $(BUILD)/agf.o
	$(CC) $(CFLAGS) $^ -o $@ $(CLI_LIBS) $(LDLIBS)

$(BUILD)/libagf.so: $(BUILD)/agf.o
	$(CC) $(CFLAGS) -shared -Wl,-soname,$(SONAME) $(BUILD)/agf.o -o $@ $(LDLIBS)

$(BUILD)/libagf.a: $(BUILD)/agf.o
	$(AR) rcs $@ $(BUILD)/agf.o

$(BUILD)/test_hostile.o $(BUILD)/test_v1.o: tests/tiny.h tests/exercise.h tests/ledger.h
$(BUILD)/test_api.o: tests/ledger.h
$(BUILD)/soak.o: tests/tiny.h

$(BUILD)/test_%.o: tests/test_%.c tests/testing.h agf.h | $(BUILD)
	$(CC) $(WARNINGS) $(CFLAGS) -c $< -o $@

$(BUILD)/soak.o: tests/soak.c tests/testing.h agf.h | $(BUILD)
	$(CC) $(WARNINGS) $(CFLAGS) -c $< -o $@

# These look inside the engine. What is seen of plans and tables does not depend on the optimiser; at -O0 compilers take no AVX-512.
$(BUILD)/check_%.o: tests/check_%.c tests/testing.h tests/inside.h $(ENGINE) | $(BUILD)
	$(CC) $(WARNINGS) $(CFLAGS) -c $< -o $@
$(BUILD)/check_plan.o $(BUILD)/check_tables.o: CFLAGS += -O0 -DAGF_NO_SIMD

$(TESTS:%=$(BUILD)/%): $(BUILD)/%: $(BUILD)/%.o $(BUILD)/agf.o
	$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)

test: all $(TESTS:%=$(BUILD)/%)
	@TESTS="$(TESTS)" PYTHON_TESTS="$(PYTHON_TESTS)" SLOW_TESTS="$(SLOW_TESTS)" sh tests/run.sh

# The network and the scenes that the repository carries (made by tools/train_demo.py).
demo: $(BUILD)/agf
	sh tools/demo.sh

# The networks of real size, made and explained: minutes, and 2 GB below $(BUILD)/.
test-full: $(BUILD)/test_golden
	sh tests/environment.sh
	mkdir -p $(BUILD)/full
	for n in vgg19 vgg16_bn resnet50 resnet18; do build/venv/bin/python tests/make_golden.py --full $$n --out $(BUILD)/full && echo $$n; done >$(BUILD)/full/cases.txt
	$(BUILD)/test_golden --full $(BUILD)/full

# PyTorch, what the battery of experiments needs, a compiler for Windows, macOS and browsers, and what drives a browser into the tests' environment: then nothing in
# Python is skipped.
torch:
	sh tests/environment.sh torch eval zig page notebook

# How fast it is here: kernels, stages, whole programs, and beside its peers where they are installed.
bench: $(BUILD)/agf $(BUILD)/libagf.so $(BUILD)/check_kernels
	sh bench/run.sh

# An upper bound for the NEON loops on Raspberry Pi's processors.
mca:
	sh bench/mca.sh

# The web page, in $(BUILD)/page: the engine as WebAssembly with the demo network, to be hosted anywhere.
page:
	sh tests/environment.sh zig
	sh tools/page/build.sh $(BUILD)/page

# The drop-in pair: dist/agf.h and dist/agf.c.
dist:
	python3 tools/amalgamate.py dist

# Quoted, for folders with a space.
TO = "$(DESTDIR)$(PREFIX)"
install: all
	mkdir -p $(TO)/bin $(TO)/include $(TO)/lib/pkgconfig
	install -m 755 $(BUILD)/agf $(TO)/bin/agf
	install -m 644 agf.h $(TO)/include/agf.h
	@# a program for another machine does not run here: then there is no manual page
	if $(BUILD)/agf help --man >$(BUILD)/agf.1 2>/dev/null; then mkdir -p $(TO)/share/man/man1 && install -m 644 $(BUILD)/agf.1 $(TO)/share/man/man1/agf.1; fi
	install -m 644 $(BUILD)/libagf.a $(TO)/lib/libagf.a
	install -m 755 $(BUILD)/libagf.so $(TO)/lib/libagf.so.$(VERSION)
	ln -sf libagf.so.$(VERSION) $(TO)/lib/$(SONAME)
	ln -sf $(SONAME) $(TO)/lib/libagf.so
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$${prefix}/lib' 'includedir=$${prefix}/include' 'Name: agf' \
	  'Description: Attribution maps for convolutional networks' 'Version: $(VERSION)' 'Cflags: -I$${includedir}' \
	  'Libs: -L$${libdir} -lagf' 'Libs.private: -lm -lpthread' >$(TO)/lib/pkgconfig/agf.pc

uninstall:
	rm -f $(TO)/bin/agf $(TO)/include/agf.h $(TO)/lib/libagf.a $(TO)/lib/libagf.so $(TO)/lib/$(SONAME) $(TO)/lib/libagf.so.$(VERSION) \
	  $(TO)/lib/pkgconfig/agf.pc $(TO)/share/man/man1/agf.1

# Checkers: the portable engine under clang's sanitizers (gcc's need gigabytes for the kernels). `checked` is ASan and UBSan in one, for
# CI; the programs print what they count like any suite.
CLANG ?= clang
CHECKED = test_hostile test_api soak
SANITIZED = $(CLANG) -std=c99 -Wall -Wextra -O1 -g -fno-omit-frame-pointer -DAGF_NO_SIMD
sanitize_asan = -fsanitize=address
sanitize_ubsan = -fsanitize=undefined -fno-sanitize-recover=undefined
sanitize_tsan = -fsanitize=thread
sanitize_checked = -fsanitize=address,undefined -fno-sanitize-recover=undefined
define sanitizer
$(BUILD)/agf-$(1).o: $(ENGINE) | $(BUILD)
	$(SANITIZED) $(sanitize_$(1)) -c agf.c -o $$@

$(BUILD)/%-$(1): tests/%.c tests/testing.h tests/tiny.h tests/exercise.h tests/ledger.h $(BUILD)/agf-$(1).o
	$(SANITIZED) $(sanitize_$(1)) $$< $(BUILD)/agf-$(1).o -o $$@ $(LDLIBS)
endef
$(foreach name,asan ubsan tsan checked,$(eval $(call sanitizer,$(name))))

asan ubsan checked: %: $(foreach test,$(CHECKED),$(BUILD)/$(test)-%)
	for t in $(CHECKED); do $(BUILD)/$$t-$@ || exit 1; done

tsan: $(BUILD)/soak-tsan $(BUILD)/test_api-tsan
	$(BUILD)/soak-tsan 10 && $(BUILD)/test_api-tsan

valgrind: $(BUILD)/soak $(BUILD)/test_api
	SOAK_CHECKED=1 valgrind -q --error-exitcode=1 --leak-check=full $(BUILD)/soak 2
	AGF_ISA=avx2 valgrind -q --error-exitcode=1 --leak-check=full $(BUILD)/test_api

# 2,000 explanations in one session, three times, and eight threads with sessions on one model: the same bits, no growth.
soak: $(BUILD)/soak
	$(BUILD)/soak 60

# Coverage-guided fuzzing of model files with ASan and UBSan: libFuzzer, 10 minutes unless FUZZ_SECONDS says otherwise. What it finds is
# in $(BUILD)/fuzz. `make coverage` then prints the line coverage of what reads, infers and plans.
FUZZ_SECONDS ?= 600
$(BUILD)/fuzz_model: tests/fuzz/fuzz_model.c tests/tiny.h tests/exercise.h tests/ledger.h $(ENGINE) | $(BUILD)
	$(SANITIZED) -DAGF_NO_SIMD -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined $< agf.c -o $@ $(LDLIBS)

fuzz: $(BUILD)/fuzz_model
	mkdir -p $(BUILD)/fuzz $(BUILD)/corpus
	$(BUILD)/fuzz_model -max_total_time=$(FUZZ_SECONDS) -max_len=24576 -timeout=10 -dict=tests/fuzz/model.dict -print_final_stats=1 \
	  -artifact_prefix=$(BUILD)/fuzz/ $(BUILD)/corpus tests/fuzz/model

# The program's picture decoders, from small files of every kind.
$(BUILD)/fuzz_picture: tests/fuzz/fuzz_picture.c $(CLI) $(BUILD)/agf.o
	$(CLANG) -std=gnu99 -O1 -g -I. -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined $< $(BUILD)/agf.o -o $@ $(LDLIBS)

fuzz-pictures: $(BUILD)/fuzz_picture
	mkdir -p $(BUILD)/fuzz $(BUILD)/pictures
	$(BUILD)/fuzz_picture -max_total_time=$(FUZZ_SECONDS) -max_len=65536 -rss_limit_mb=1500 -timeout=20 -artifact_prefix=$(BUILD)/fuzz/ \
	  $(BUILD)/pictures tests/fuzz/picture

$(BUILD)/fuzz_replay: tests/fuzz/fuzz_model.c tests/tiny.h tests/exercise.h tests/ledger.h $(ENGINE) | $(BUILD)
	$(SANITIZED) -DAGF_NO_SIMD -DFUZZ_REPLAY -fprofile-instr-generate -fcoverage-mapping $< agf.c -o $@ $(LDLIBS)

coverage: $(BUILD)/fuzz_replay
	LLVM_PROFILE_FILE=$(BUILD)/fuzz.profraw $(BUILD)/fuzz_replay tests/fuzz/model/*.agf $$(find $(BUILD)/corpus -type f 2>/dev/null)
	sh tests/fuzz/coverage.sh

# Static analysis and formatting; what is switched off, and why, stands in .clang-tidy, pyproject.toml and tests/lint.sh.
lint:
	sh tests/lint.sh

format:
	sh tests/lint.sh --format

clean:
	rm -rf "$(BUILD)" dist

.PHONY: all lib demo test test-full torch bench mca page dist install uninstall clean asan ubsan checked tsan valgrind soak fuzz fuzz-pictures \
  coverage lint format
