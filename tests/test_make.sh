#!/bin/sh
# The Makefile as people use it who package the engine: a folder for what is made, installed below a folder with a space and gone again,
# a machine without stb's headers, `make clean`. The portable kernels, unoptimised, which compile quickly.
set -u
cd "$(dirname "$0")/.." || exit 1
root=$PWD
work=${BUILD:-build}/test_make
case $work in /*) ;; *) work=$root/$work ;; esac
unset MAKEFLAGS MFLAGS MAKELEVEL BUILD # of the make that runs the tests
passed=0 failed=0
rm -rf "$work"
mkdir -p "$work/copy/build" "$work/copy/dist"
log=$work/log
ok() { passed=$((passed + 1)); }
fail() { failed=$((failed + 1)); echo "FAIL $*"; }
check() { # LABEL COMMAND...
  label=$1
  shift
  if "$@" >"$log" 2>&1; then ok; else fail "$label:" && tail -n 5 "$log"; fi
}
made=$work/made
quickly() { make "BUILD=$made" 'CFLAGS=-O0 -DAGF_NO_SIMD' "$@"; }

# A compiler that finds no stb: it preprocesses nothing.
cat >"$work/no-stb" <<'END_OF_COMPILER'
#!/bin/sh
for word; do if [ "$word" = -E ]; then exit 1; fi; done
exec cc "$@"
END_OF_COMPILER
chmod +x "$work/no-stb"
if quickly "CC=$work/no-stb" >"$work/said" 2>&1; then fail 'without stb: make says that all is well'; else ok; fi
check 'without stb: the package is named' grep -q 'apt-get install libstb-dev' "$work/said"
for library in libagf.so libagf.a; do check "without stb: $library" test -f "$made/$library"; done

to="$work/with space"
if echo '#include <stb/stb_image.h>' | cc -E -x c - >/dev/null 2>&1; then
  check 'install' quickly install "DESTDIR=$to" PREFIX=/usr
  check 'the installed program' "$to/usr/bin/agf" --version
  check 'the installed header' cmp agf.h "$to/usr/include/agf.h"
  for name in libagf.a libagf.so libagf.so.1; do check "installed: $name" test -f "$to/usr/lib/$name"; done
  # what compresses PNG files is what there is
  for without in 'ISAL=' 'ISAL= ZLIB= TIFF='; do
    command -v python3 >/dev/null || { echo "SKIP without $without: python3 is not installed"; continue; }
    rm -f "$made/agf" "$made/agf_cli.o"
    # shellcheck disable=SC2086 # several words
    check "without $without" quickly "$made/agf" $without
    check "without $without: PNG files" env "AGF_BIN=$made/agf" python3 tests/test_cli.py test_pngs_of_every_kind_and_with_every_number_of_threads
  done
  # shellcheck disable=SC2016 # pkg-config's own variables
  check 'agf.pc' grep -qx 'libdir=${prefix}/lib' "$to/usr/lib/pkgconfig/agf.pc"
  check 'agf.pc: the prefix' grep -qx 'prefix=/usr' "$to/usr/lib/pkgconfig/agf.pc"
  check 'uninstall' quickly uninstall "DESTDIR=$to" PREFIX=/usr
  left=$(find "$to" ! -type d)
  if [ -z "$left" ]; then ok; else fail "uninstall leaves $left"; fi
else
  echo "SKIP install and uninstall: libstb-dev is not installed"
fi

cp Makefile agf.h "$work/copy"
check 'clean' make -C "$work/copy" clean
left=$(ls -d "$work/copy/build" "$work/copy/dist" 2>/dev/null)
if [ -z "$left" ]; then ok; else fail "clean leaves $left"; fi

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
