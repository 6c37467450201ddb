# AGF in C. `make` builds the program and the libraries, `make demo` shows it at work, `make test` runs every test that this machine
# can run. No target needs Python but the tests' Python parts, and those are skipped without it.
CC ?= cc
AR ?= ar
CFLAGS ?= -O2 -g
WARNINGS = -std=c99 -Wall -Wextra -Wpedantic
LDLIBS = -lm -lpthread

ENGINE = agf.c agf.h $(wildcard kernels/*.h kernels/*.inc)
CLI = tools/agf_cli.c $(wildcard tools/cli_*.h)
TESTS = test_golden test_api
PYTHON_TESTS = test_oracle test_pictures test_convert test_readme

all: build/agf build/libagf.so build/libagf.a

build:
	mkdir -p build

build/agf.o: $(ENGINE) | build
	$(CC) $(WARNINGS) $(CFLAGS) -c agf.c -o $@

build/agf: $(CLI) build/agf.o
	$(CC) $(WARNINGS) $(CFLAGS) -I. tools/agf_cli.c build/agf.o -o $@ $(LDLIBS)

build/libagf.so: $(ENGINE) | build
	$(CC) $(WARNINGS) $(CFLAGS) -fPIC -shared agf.c -o $@ $(LDLIBS)

build/libagf.a: build/agf.o
	$(AR) rcs $@ build/agf.o

build/test_%: tests/test_%.c tests/testing.h build/agf.o
	$(CC) $(WARNINGS) $(CFLAGS) $< build/agf.o -o $@ $(LDLIBS)

test: all $(TESTS:%=build/%)
	@TESTS="$(TESTS)" PYTHON_TESTS="$(PYTHON_TESTS)" sh tests/run.sh

# The network and the scenes that the repository carries (made by tools/train_demo.py).
demo: build/agf
	sh tools/demo.sh

# The networks of real size, made and explained: minutes, and 2 GB below build/.
test-full: build/test_golden
	sh tests/environment.sh
	for n in vgg19 vgg16_bn resnet50 resnet18; do build/venv/bin/python tests/make_golden.py --full $$n --out build/full || exit 1; done
	build/test_golden --full build/full

# PyTorch into the tests' environment, for the converter's tests against it.
torch:
	sh tests/environment.sh torch

clean:
	rm -rf build

.PHONY: all demo test test-full torch clean
