#!/bin/sh
# How much of the multiply-add pipes the NEON inner loops can use on boards that are not at hand: agf.c compiled by aarch64 gcc (and
# clang beside it) for Cortex-A53 (Raspberry Pi 3 and Zero 2 W), Cortex-A72 (Raspberry Pi 4) and Neoverse N1 (the model nearest to Cortex-A76, Raspberry Pi 5), each innermost
# loop cut out of the assembly and put through llvm-mca 19 (14 models neoverse-n1 as a cortex-a72).
#
# It is an upper bound: llvm-mca assumes that every load hits the first-level cache, that every branch is predicted and that the
# front end keeps up. A share is multiply-adds per cycle over the most that the same model gives to independent ones.
#
# For the walks over nonzeros the last columns estimate time against a dense loop at the peak where 0.5, 0.25 and 0.1 of the elements
# are not 0: 16 d nonzeros and one mispredicted branch for each pixel and block of channels (15 cycles on A72, 11 on N1, 7 on A53).
#
# Fails if the dense tile of W x gets less than 0.96 from gcc (A53, which runs in order, is told but not judged), or if an inner loop of a
# convolution touches the stack. The dense tile of |W| |x| also forms both magnitudes, which takes the same pipes; it runs where a network
# feeds a convolution with few zeros and is explained. (Loops of 8 multiply-adds named agf_dense are what is left of a row that six pixels do
# not divide.) The depthwise loops are those of 16 multiply-adds named agf_gconv that do not touch the stack.
set -u
cd "$(dirname "$0")/.." || exit 1
out=build/mca
mca=${LLVM_MCA:-llvm-mca-19}
skip() { echo "SKIP mca: $*"; echo "0 passed, 0 failed, 1 skipped"; exit 0; }
command -v "$mca" >/dev/null || skip "$mca is not installed (package llvm-19)"
command -v aarch64-linux-gnu-gcc >/dev/null || skip "aarch64-linux-gnu-gcc is not installed"
mkdir -p $out || exit 1

# every innermost loop with a multiply-add, as DIR/FUNCTION.N.s
cat >$out/loops.awk <<'EOF'
/^[A-Za-z_][A-Za-z0-9_]*:/ { name = $1; sub(/:.*/, "", name); n = loops = 0; split("", at); split("", ends); next }
/^\.L[A-Za-z0-9_]*:/ { label = $1; sub(/:.*/, "", label); at[label] = n; next }
/^[ \t]+[a-z]/ {
  line[n++] = $0
  if ($1 !~ /^(b|b\.?(eq|ne|cs|hs|cc|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)|cbn?z|tbn?z)$/ || !($NF in at)) next
  body = ""
  fmla = inner = 0
  for (i = at[$NF]; i < n; i++) {
    body = body line[i] "\n"
    fmla += line[i] ~ /[ \t]fmla[ \t]/
    inner += i in ends
  }
  ends[n - 1]
  if (!fmla || inner) next
  file = dir "/" name "." loops++ ".s"
  printf "%s", body >file
  close(file)
}
EOF

# cycles FILE CPU: of 1000 iterations
cycles() { "$mca" -mtriple=aarch64 -mcpu="$2" -iterations=1000 "$1" 2>/dev/null | awk '/^Total Cycles:/ { print $3 }'; }

i=0
while [ $i -lt 24 ]; do
  echo "fmla v$i.4s, v30.4s, v31.s[0]"
  i=$((i + 1))
done >$out/peak.s

passed=0 failed=0
for cpu in cortex-a53 cortex-a72 neoverse-n1; do
  peak=$(cycles $out/peak.s $cpu)
  miss=15
  [ $cpu = neoverse-n1 ] && miss=11
  [ $cpu = cortex-a53 ] && miss=7
  for compiler in aarch64-linux-gnu-gcc 'clang --target=aarch64-linux-gnu'; do
    command -v "${compiler%% *}" >/dev/null || { echo "SKIP $compiler: not installed"; continue; }
    dir=$out/$cpu-${compiler%% *}
    rm -rf "$dir"
    mkdir "$dir"
    $compiler -std=c99 -O2 -mcpu=$cpu -S agf.c -o "$dir/agf.s" || { echo "FAIL $compiler -mcpu=$cpu does not compile agf.c"; exit 1; }
    awk -v dir="$dir" -f $out/loops.awk "$dir/agf.s"
    echo
    echo "$cpu, $($compiler --version | head -n 1)"
    printf '%-34s %5s %7s %6s %6s   %s\n' loop fmla cycles share stack 'time against dense at 0.5 0.25 0.1'
    for loop in "$dir"/agf_dense_*.s "$dir"/agf_conv_*neon*.s "$dir"/agf_gconv_*.s "$dir"/agf_linear*neon*.s; do
      [ -e "$loop" ] || continue
      name=$(basename "$loop" .s)
      fmla=$(grep -c '[[:space:]]fmla[[:space:]]' "$loop")
      stack=$(grep -c '\[sp' "$loop")
      case $name in
        agf_dense_* | agf_conv_*)
          [ "$stack" = 0 ] || { failed=$((failed + 1)); echo "FAIL $name: $stack stack accesses"; continue; }
          ;;
      esac
      passed=$((passed + 1))
      # told are the kernels for 32 outputs of x as it is, one row for what rotations and tails repeat
      case $name in *_16__neon* | agf_conv_3*_abs_*) continue ;; esac
      sed 's/v[0-9]*\./v./g; s/[qxws][0-9]*/r/g; s/\.L.*//' "$loop" | cksum >"$loop.sum"
      grep -qxF -f "$loop.sum" "$dir/told" 2>/dev/null && continue
      cat "$loop.sum" >>"$dir/told"
      awk -v name="$name" -v fmla="$fmla" -v cycles="$(cycles "$loop" $cpu)" -v peak="$peak" -v stack="$stack" -v miss=$miss 'BEGIN {
        share = fmla * peak / 24 / cycles
        printf "%-34s %5d %7.2f %6.3f %6d  ", name, fmla, cycles / 1000, share, stack
        if (name ~ /conv_(3|taps)/)
          for (d = 0.5; d > 0.05; d = d == 0.5 ? 0.25 : d - 0.15)
            printf " %.2f", (d * cycles / 1000 + miss / 16) / (fmla * peak / 24000)
        print ""
      }' | tee "$dir/row"
      case $cpu:$compiler:$name in
        cortex-a53:*) ;;
        *gcc:agf_dense_w*)
          [ "$fmla" -lt 24 ] || awk '{ exit !($4 >= 0.96) }' "$dir/row" || { failed=$((failed + 1)); echo "FAIL $name: less than 0.96"; }
          ;;
      esac
    done
  done
done
echo
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed != 0 ]
