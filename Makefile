# AGF in C. `make` builds build/agf and the libraries, `make test` runs every test that this machine can run.
CC ?= cc
AR ?= ar
CFLAGS ?= -O2 -g
WARNINGS = -std=c99 -Wall -Wextra -Wpedantic
LDLIBS = -lm -lpthread
PREFIX ?= /usr/local

ENGINE = agf.c agf.h $(wildcard kernels/*.h kernels/*.inc)
CLI = tools/agf_cli.c $(wildcard tools/cli_*.h)

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

build/test_golden: tests/test_golden.c tests/testing.h build/agf.o
	$(CC) $(WARNINGS) $(CFLAGS) tests/test_golden.c build/agf.o -o $@ $(LDLIBS)

clean:
	rm -rf build

.PHONY: all clean
