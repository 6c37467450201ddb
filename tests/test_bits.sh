#!/bin/sh
# The same bits everywhere: tests/bits.c built by gcc and clang, -O0 and -O3, for x86-64, i686, aarch64 and armv7, run with every
# instruction set, on 1, 2 and 5 threads; each line that it prints must be the one in tests/bits.txt. Not every combination sees
# every network: where a run is slow (no optimisation, an emulated processor) it gets the small ones that together hold every op.
# Nor does every network see several threads everywhere: where other suites use the processors too, threads wait for each other, and
# what takes one of them 2 seconds took two of them 5 minutes.
#
#   test_bits.sh            the library as it was built (build/agf.o), its vector kernels on every network and the portable ones on few;
#                           CI=true: run what this machine can run, say what it cannot
#   test_bits.sh --write    make tests/bits.txt anew, from the portable kernels (then AGF_BITS_VERSION has to grow)
#   test_bits.sh --all      every network in every combination; takes many minutes
set -u
cd "$(dirname "$0")/.." || exit 1
build=${BUILD:-build}
out=$build/test_bits
few='corners vgg_tiny adaptive_uneven conv_logits pooled_conv_logits avgpool_edges maxpool_edges grouped_odd asymmetric long_strides
gray image_readers image_batchnorm linear_middle concat_odd add_self relu6_inverted add_relu6 cancelling copies responses'
fewer='conv_logits grouped_odd linear_middle long_strides'

have() { command -v "$1" >/dev/null 2>&1; }

# compile OUTPUT SOURCES...: with the compiler and the flags of the build at hand
compile() {
  to=$1
  shift
  # shellcheck disable=SC2086 # flags are several words
  $compiler $flags -std=c99 -o "$to" "$@" -lm -lpthread 2>"$to.log"
}

# run NAME: one build and its runs, a line "ok", "FAIL ..." or "SKIP ..." for each
run() {
  name=$1
  runner=
  isas=ref
  machine=$(uname -m)
  case $name in
    x86_64-* | x86_64) isas='ref avx2 avx512' ;;
    aarch64-* | aarch64) isas='ref neon' runner=qemu-aarch64 ;;
    armv7*) runner=qemu-arm ;;
  esac
  case $name in
    *-gcc-*) compiler=gcc ;;
    *) compiler=clang ;;
  esac
  flags=-${name##*-}
  case $name in
    i686-gcc-*) compiler=i686-linux-gnu-gcc ;;
    aarch64-gcc-*) compiler=aarch64-linux-gnu-gcc ;;
    aarch64-clang-*) flags="$flags --target=aarch64-linux-gnu" ;;
    armv7vfp4-*) compiler=arm-linux-gnueabihf-gcc flags="$flags -mfpu=vfpv4" ;; # an FMA instruction; without, our own fmaf
    armv7-*) compiler=arm-linux-gnueabihf-gcc ;;
  esac
  # a native machine of that kind needs neither a cross compiler nor an emulator
  case $name in
    "$machine") runner= compiler=${CC:-cc} flags=-O1 ;; # the engine is built already
    x86_64-*) [ "$machine" = x86_64 ] || { echo "SKIP $name: this is a machine of kind $machine"; return; } ;;
    aarch64-*) [ "$machine" = aarch64 ] && runner= compiler=${compiler#aarch64-linux-gnu-} ;;
  esac
  case $name in
    x86_64-* | "$machine") ;;
    *) flags="$flags -static" ;;
  esac
  have "${compiler%% *}" || { echo "SKIP $name: $compiler is not installed"; return; }
  [ -z "$runner" ] || have "$runner" || { echo "SKIP $name: $runner is not installed"; return; }
  echo 'int main(void) { return 0; }' >$out/$name.probe.c
  compile $out/$name.probe $out/$name.probe.c || { echo "SKIP $name: $compiler has no C library for this target"; return; }
  $runner $out/$name.probe || { echo "SKIP $name: this machine does not run its programs"; return; }
  engine=agf.c
  [ "$name" = "$machine" ] && engine=$build/agf.o
  compile $out/$name "$engine" tests/bits.c || { echo "FAIL $name: does not compile, see $out/$name.log"; return; }
  for isa in $isas; do
    case $isa in
      avx2 | avx512)
        flag=$isa
        [ $isa = avx512 ] && flag=avx512f
        grep -qw $flag /proc/cpuinfo || { echo "SKIP $name $isa: this processor lacks it"; continue; }
        ;;
    esac
    case $name-$isa in
      x86_64-gcc-O3-ref | aarch64-gcc-O3-neon) cases= threads=1 ;;
      "$machine-ref") cases=$few threads=1,2,5; [ "$isas" = ref ] && cases= ;;
      x86_64-gcc-O3-* | "$machine-$isa") cases= threads=1,2,5 ;;
      aarch64-*-O0-* | aarch64-*-ref | armv7-*) cases=$fewer threads=2 ;; # slow code, or a software fmaf, on an emulated processor
      *) cases=$few threads=2 ;;
    esac
    [ "$all" ] && cases=
    # shellcheck disable=SC2086 # cases are several words
    if ! $runner $out/$name --isa $isa --threads $threads $cases >$out/$name-$isa.txt; then
      echo "FAIL $name $isa: $(grep -v '^[0-9a-f]\{64\}  ' $out/$name-$isa.txt | head -n 3 | tr '\n' ' ')(all of it: $out/$name-$isa.txt)"
      continue
    fi
    grep '^[0-9a-f]\{64\}  ' $out/$name-$isa.txt >$out/$name-$isa.sha
    odd=$(grep -vxF -f tests/bits.txt $out/$name-$isa.sha | sed 's/.*  //' | tr '\n' ' ')
    if [ ! -s $out/$name-$isa.sha ]; then
      echo "FAIL $name $isa: no hashes"
    elif [ "$odd" ]; then
      echo "FAIL $name $isa: bits differ from tests/bits.txt in $odd"
    elif [ -z "$cases" ] && [ "$(wc -l <$out/$name-$isa.sha)" != "$(wc -l <tests/bits.txt)" ]; then
      echo "FAIL $name $isa: not every network of tests/bits.txt was run"
    else
      echo "ok   $name $isa"
    fi
  done
}

all=${AGF_BITS_ALL:-}
mkdir -p $out || exit 1
case ${1:-} in
  --run)
    run "$2" >"$out/$2.result"
    exit 0
    ;;
  --write)
    compiler=${CC:-cc} flags=-O2
    compile $out/write agf.c tests/bits.c || { cat $out/write.log; exit 1; }
    $out/write --isa ref --threads 1,2,5 >$out/write.txt || { grep -v '^[0-9a-f]\{64\}  ' $out/write.txt; exit 1; }
    grep '^[0-9a-f]\{64\}  ' $out/write.txt | grep -v ', later$' >tests/bits.txt
    grep '^[0-9a-f]\{64\}  .*, later$' $out/write.txt >>tests/bits.txt
    exit 0
    ;;
  --all) export AGF_BITS_ALL=1 ;;
esac

# the slow ones first, two at a time
builds='armv7-gcc-O3 aarch64-gcc-O3 aarch64-gcc-O0 x86_64-gcc-O0 x86_64-clang-O0 aarch64-clang-O3 aarch64-clang-O0 armv7vfp4-gcc-O3
i686-gcc-O0 x86_64-gcc-O3 x86_64-clang-O3 i686-gcc-O3'
if [ -z "${CI:-}$all" ] && [ "${1:-}" != --all ]; then
  echo "SKIP other compilers, cross builds and emulated processors: CI=true or --all runs them, for minutes"
  builds=$(uname -m)
fi
rm -f $out/*.result $out/*.sha
echo "$builds" | tr ' ' '\n' | xargs -P 2 -n 1 sh tests/test_bits.sh --run
for name in $builds; do cat "$out/$name.result"; done | tee $out/results
failed=$(grep -c '^FAIL' $out/results)
skipped=$(grep -c '^SKIP' $out/results)
[ "${CI:-}$all" ] || skipped=$((skipped + 1))
echo "$(grep -c '^ok' $out/results) passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && grep -q '^ok' $out/results
