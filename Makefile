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

ENGINE = agf.c agf.h $(wildcard kernels/*.h kernels/*.inc)
CLI = tools/agf_cli.c $(wildcard tools/cli_*.h)
TESTS = test_golden test_methods test_api test_hostile
PYTHON_TESTS = test_oracle test_pictures test_convert test_readme

all: build/agf build/libagf.so build/libagf.a

build:
	mkdir -p build

build/agf.o: $(ENGINE) | build
	$(CC) $(WARNINGS) $(CFLAGS) -c agf.c -o $@

build/agf: $(CLI) build/agf.o
	$(CC) $(WARNINGS) $(CFLAGS) -I. tools/agf_cli.c build/agf.o -o $@ $(LDLIBS)

build/libagf.so: $(ENGINE) | build
	$(CC) $(WARNINGS) $(CFLAGS) -fPIC -shared -Wl,-soname,$(SONAME) agf.c -o $@ $(LDLIBS)

build/libagf.a: build/agf.o
	$(AR) rcs $@ build/agf.o

build/test_hostile: tests/tiny.h tests/exercise.h

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
	for n in vgg19 vgg16_bn resnet50 resnet18; do build/venv/bin/python tests/make_golden.py --full $$n --out build/full || exit 1; done
	build/test_golden --full build/full

# PyTorch, and what the battery of experiments needs, into the tests' environment: then nothing in Python is skipped.
torch:
	sh tests/environment.sh torch eval

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

clean:
	rm -rf build

.PHONY: all demo test test-full torch bench mca dist install clean
