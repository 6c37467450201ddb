#!/bin/sh
# Makes the tables of bench/RESULTS.md, a command each. A run that was killed continues.
#
#   sh bench/results.sh PICTURES SQUEEZENET.agf     all; PICTURES: ImageNet photographs, the class's number in the name (0271.jpg)
#   sh bench/results.sh PICTURES SQUEEZENET.agf LITE0.agf   those of EfficientNet-Lite0 too (tests/test_convert.py says where its weights are)
#   sh bench/results.sh                             those on the demo network alone: minutes
#
# With both networks about four hours on two cores. PYTHON names the interpreter with what tools/agf_eval.py needs
# (default python3), JOBS the number of processes (default 2).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
pictures=${1:-}
squeezenet=${2:-}
lite0=${3:-}
jobs=${JOBS:-2}
out=build/results
# Two methods run the network once for each sample or step: fewer than by default, so that the tables take minutes.
methods="-m agf -m agf_a -m agf_lc -m gradient -m gradient_x_input -m smoothgrad:samples=10 -m integrated_gradients:steps=10
  -m gradcam -m fullgrad -m lrp_a1b0 -m lrp_a2b1 -m clrp -m sglrp -m layercam -m hirescam -m lrp_lc"
label_free="-m agf -m agf:neighbours=5 -m agf:shared -m agf:cosine -m agf:own -m agf_a -m agf_a:neighbours=5 -m agf_a:shared -m agf_a:own
  -m gradcam -m lrp_a1b0 -m activation_norm"
label_free_odd="-m agf -m agf:own -m agf_a -m agf_a:own -m agf_a:shared -m gradcam -m lrp_a1b0"
ablations="-m agf:no_a -m agf:no_fx -m agf:no_fdx -m agf:no_m -m agf:no_reg -m agf:fx_gradcam"

scenes() { # FOLDER SCENES OBJECTS SEED
  [ -f "$1/labels.csv" ] || $python tools/train_demo.py --scenes "$2" --objects "$3" --seed "$4" --out "$1"
}

evaluate() { # NAME TITLE ARGUMENTS...
  name=$1 title=$2
  shift 2
  echo "== $title"
  $python tools/agf_eval.py "$@" -o "$out/$name" --title "$title" --into bench/RESULTS.md >"$out/$name.log"
}

every() { # PICTURES N CSV: each Nth picture and its class
  [ -f "$3" ] || $python - "$1" "$2" >"$3" <<'END'
import os, sys
print("file,label")
for name in sorted(name for name in os.listdir(sys.argv[1]) if name[:4].isdigit())[:: int(sys.argv[2])]:
    print(f"{name},{int(name[:4])}")
END
}

weighty() { # NAME NETWORK MODEL: an experiment for each question, with its summary
  main="-m agf -m agf_a -m agf_lc -m lrp_lc -m lrp_a1b0 -m sglrp -m gradcam"
  more="$main -m layercam -m gradient_x_input"
  common="--jobs $jobs --threads 1 --sheet 0"
  halved="--labels $half $common"
  # shellcheck disable=SC2086 # words
  {
    evaluate "$1-single" "Single deletion: $2, ImageNet" single-delete "$3" "$pictures" $halved $more
    evaluate "$1-grid2" "Grid pointing 2x2: $2, ImageNet" grid "$3" "$pictures" $halved $main --cells 2 --grids 300 --asked 1
    evaluate "$1-insert-delete" "Insertion and deletion: $2, ImageNet" insert-delete "$3" "$pictures" $halved $more --steps 28
    evaluate "$1-perturb" "Perturbation: $2, ImageNet" perturb "$3" "$pictures" $halved $more
    evaluate "$1-grid3" "Grid pointing 3x3: $2, ImageNet" grid "$3" "$pictures" $halved $main --cells 3 --grids 300 --asked 1
    evaluate "$1-sanity" "Randomised weights: $2, ImageNet" sanity "$3" "$pictures" $halved $more --stages 4 --explain target
    # Solving for the missing pixels costs ten times the network's runs: a quarter of the pictures.
    evaluate "$1-road" "Perturbation with ROAD: $2, ImageNet" perturb "$3" "$pictures" --labels $eighth $common $main --fill road
  }
  $python tools/agf_eval.py summary $out/"$1"-single $out/"$1"-grid2 $out/"$1"-insert-delete $out/"$1"-perturb $out/"$1"-grid3 \
    $out/"$1"-sanity $out/"$1"-road -o $out/"$1"-summary --title "Which method for which question: $2" --into bench/RESULTS.md
}

every_method() { # NAME NETWORK MODEL: on fewer pictures, and segmentation of scenes by its features under a head for them
  common="--jobs $jobs --threads 1 --sheet 0"
  head=build/$1-scenes.agf
  [ -f "$head" ] || $python bench/scene_head.py "$3" "$head"
  # shellcheck disable=SC2086 # words
  {
    evaluate "$1-every-segment" "Segmentation, every method: $2 under a head for scenes with two objects" segment "$head" build/scenes2 \
      --explain target $common $methods
    evaluate "$1-every-grid2" "Grid pointing 2x2, every method: $2, ImageNet" grid "$3" "$pictures" --labels $eighth $common \
      --cells 2 --grids 40 --asked 1 $methods
    evaluate "$1-every-insert-delete" "Insertion and deletion, every method: $2, ImageNet" insert-delete "$3" "$pictures" \
      --labels $eighth $common --steps 28 $methods
    evaluate "$1-every-perturb" "Perturbation, every method: $2, ImageNet" perturb "$3" "$pictures" --labels $eighth $common $methods
  }
}

mkdir -p $out
scenes build/scenes1 100 1 8
scenes build/scenes2 100 2 7
scenes build/scenes4 150 4 9
scenes build/scenes2n 160 2 7
scenes build/scenes1n 200 1 9
scenes build/scenes1m 400 1 21
[ -f build/odd/labels.csv ] || $python tools/train_demo.py --odd 160 --out build/odd
demo=tests/demo/demo.agf
[ -f build/two/scenes/labels.csv ] || $python bench/two_classes.py $demo build/two
# shellcheck disable=SC2086 # the methods are words
{
  evaluate demo-segment "Segmentation: demo network, scenes with two objects" segment $demo build/scenes2 \
    --explain target $methods $ablations
  evaluate demo-grid2 "Grid pointing 2x2: demo network" grid $demo build/scenes1 --grids 20 --cells 2 --probability sigmoid \
    $methods $ablations
  for outputs in one two; do
    evaluate two-classes-$outputs "Two classes, $outputs output(s): demo network, scenes with an object of each" segment \
      build/two/$outputs.agf build/two/scenes --explain target -m agf -m agf_a -m agf_lc -m gradcam -m sglrp -m clrp
  done
  evaluate demo-perturb "Perturbation, predicted class: demo network, scenes with two objects" perturb $demo build/scenes2 \
    --limit 60 $methods $ablations
  evaluate demo-perturb-second "Perturbation, second object's class: demo network, scenes with two objects" perturb $demo \
    build/scenes2 --limit 60 --explain second $methods $ablations
  evaluate demo-speed "Time: demo network, 1 thread" speed $demo build/scenes1 --limit 10 --threads 1 $methods
  evaluate demo-grid3 "Grid pointing 3x3: demo network" grid $demo build/scenes1 --grids 10 --cells 3 --probability sigmoid \
    $methods $ablations
  # tools/train_demo.py --multilabel --out build/multilabel, which takes minutes
  multilabel=build/multilabel/multilabel.agf
  [ -f $multilabel ] || multilabel=$demo
  evaluate multilabel "Several labels a picture: scenes with four objects" segment-classes $multilabel \
    build/scenes4 --probability sigmoid --objects label:mask --objects second:second_mask --objects third:third_mask \
    --objects fourth:fourth_mask $methods
  gated=tests/demo/gated.agf # made by tools/train_demo.py --gated
  manner="network in the manner of MobileNetV3"
  evaluate gated-segment "Segmentation: $manner, scenes with two objects" segment $gated build/scenes2 --explain target $methods
  evaluate gated-grid2 "Grid pointing 2x2: $manner" grid $gated build/scenes1 --grids 20 --cells 2 $methods
  evaluate gated-insert-delete "Insertion and deletion: $manner, scenes with two objects" insert-delete $gated build/scenes2 \
    --limit 30 $methods
  evaluate gated-perturb "Perturbation, predicted class: $manner, scenes with two objects" perturb $gated build/scenes2 \
    --limit 40 $methods
  # Of scenes that no choice was made on: the best of seven numbers on one set of scenes is the best there by chance alone.
  evaluate label-free-neighbours "Label-free: how many neighbours" label-free tests/demo/selfsup.agf build/scenes1m \
    --bank tests/demo/selfsup.bank -m agf -m agf:neighbours=2 -m agf:neighbours=3 -m agf:neighbours=5 -m agf:neighbours=10 \
    -m agf:neighbours=20 -m agf:neighbours=50 -m agf_a -m agf_a:neighbours=5
  # What the self-supervised network is compared with is made beside it: tools/train_demo.py --self-supervised --out build/selfsup
  selfsup=build/selfsup
  if [ -f $selfsup/selfsup-trunk.agf ]; then
    evaluate label-free-segment "Label-free: objects cut out, self-supervised network" label-free $selfsup/selfsup.agf \
      build/scenes1n --bank $selfsup/selfsup.bank --trunk $selfsup/selfsup-trunk.agf $label_free
    evaluate label-free-place "Label-free: objects cut out, latent vector by place" label-free $selfsup/selfsup-trunk.agf \
      build/scenes1n --bank $selfsup/selfsup-trunk.bank -m agf -m agf_a
    evaluate label-free-control "Label-free: objects cut out, network that was never trained" label-free $selfsup/control.agf \
      build/scenes1n --bank $selfsup/control.bank -m agf -m agf_a -m gradcam
    evaluate label-free-odd "Label-free: the odd object, self-supervised network" odd-object $selfsup/selfsup.agf build/odd --pair pair \
      --objects-column objects_mask $label_free_odd
    evaluate label-free-odd-trunk "Label-free: the odd object, latent vector by place" odd-object $selfsup/selfsup-trunk.agf build/odd \
      --pair pair --objects-column objects_mask -m agf -m agf_a
    $python bench/odd_object.py $selfsup/selfsup.agf $selfsup/selfsup-trunk.agf build/odd --into bench/RESULTS.md
    evaluate label-free-odd-control "Label-free: the odd object, network that was never trained" odd-object $selfsup/control.agf \
      build/odd --pair pair --objects-column objects_mask -m agf -m agf_a
    for net in selfsup-probe control-probe; do
      evaluate $net-segment "Per-class maps of a linear probe: $net" segment $selfsup/$net.agf build/scenes2n --explain target \
        -m agf -m agf_a -m agf_lc -m gradcam
    done
    evaluate multilabel-segment "Per-class maps of a network trained with labels" segment $multilabel build/scenes2n \
      --explain target -m agf -m agf_a -m agf_lc -m gradcam
  fi
  if [ -n "$pictures" ]; then
    evaluate imagenet-speed "Time: SqueezeNet 1.1, ImageNet, 1 thread" speed "$squeezenet" "$pictures" --limit 5 --threads 1 \
      $methods
    # Every second picture, and every eighth: of all classes, where --limit would take the first.
    half=$out/half.csv eighth=$out/eighth.csv
    every "$pictures" 2 $half
    every "$pictures" 8 $eighth
    weighty squeezenet "SqueezeNet 1.1" "$squeezenet"
    if [ -n "$lite0" ]; then
      weighty lite0 "EfficientNet-Lite0" "$lite0"
      every_method lite0 "EfficientNet-Lite0" "$lite0"
    fi
  fi
}
