#!/bin/sh
# Makes the tables of bench/RESULTS.md, a command each. A run that was killed continues.
#
#   sh bench/results.sh PICTURES SQUEEZENET.agf     all; PICTURES: ImageNet photographs, the class's number in the name (0271.jpg)
#   sh bench/results.sh                             those on the demo network alone
#
# PYTHON names the interpreter with what tools/agf_eval.py needs (default python3).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
pictures=${1:-}
squeezenet=${2:-}
out=build/results
# Two methods run the network once for each sample or step: fewer than by default, so that the tables take minutes.
methods="-m agf -m agf_a -m agf_lc -m gradient -m gradient_x_input -m smoothgrad:samples=10 -m integrated_gradients:steps=10
  -m gradcam -m fullgrad -m lrp_a1b0 -m lrp_a2b1 -m clrp -m sglrp -m layercam -m hirescam -m lrp_lc"
label_free="-m agf -m agf:neighbours=5 -m agf:shared -m agf:cosine -m agf:own -m agf_a -m agf_a:neighbours=5 -m agf_a:shared -m agf_a:own
  -m gradcam -m lrp_a1b0 -m activation_norm"
label_free_odd="-m agf -m agf:own -m agf_a -m agf_a:own -m agf_a:shared -m gradcam -m lrp_a1b0"
ablations="-m agf:no_a -m agf:no_fx -m agf:no_fdx -m agf:no_m -m agf:no_reg -m agf:fx_gradcam"

scenes() { # FOLDER OBJECTS SEED
  [ -f "$1/labels.csv" ] || $python tools/train_demo.py --scenes 100 --objects "$2" --seed "$3" --out "$1"
}

evaluate() { # NAME TITLE ARGUMENTS...
  name=$1 title=$2
  shift 2
  echo "== $title"
  $python tools/agf_eval.py "$@" -o "$out/$name" --title "$title" --into bench/RESULTS.md >"$out/$name.log"
}

mkdir -p $out
scenes build/scenes1 1 8
scenes build/scenes4 4 9
[ -f build/scenes1n/labels.csv ] || $python tools/train_demo.py --scenes 200 --objects 1 --seed 9 --out build/scenes1n
[ -f build/odd/labels.csv ] || $python tools/train_demo.py --odd 120 --out build/odd
scenes build/scenes2 2 7
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
    build/scenes4 --objects label:mask --objects second:second_mask --objects third:third_mask --objects fourth:fourth_mask $methods
  gated=tests/demo/gated.agf # made by tools/train_demo.py --gated
  manner="network in the manner of MobileNetV3"
  evaluate gated-segment "Segmentation: $manner, scenes with two objects" segment $gated build/scenes2 --explain target $methods
  evaluate gated-grid2 "Grid pointing 2x2: $manner" grid $gated build/scenes1 --grids 20 --cells 2 $methods
  evaluate gated-insert-delete "Insertion and deletion: $manner, scenes with two objects" insert-delete $gated build/scenes2 \
    --limit 25 $methods
  evaluate gated-perturb "Perturbation, predicted class: $manner, scenes with two objects" perturb $gated build/scenes2 \
    --limit 40 $methods
  # What the self-supervised network is compared with is made beside it: tools/train_demo.py --self-supervised --out build/selfsup
  selfsup=build/selfsup
  if [ -f $selfsup/selfsup-trunk.agf ]; then
    evaluate label-free-segment "Label-free: objects cut out, self-supervised network" label-free $selfsup/selfsup.agf \
      build/scenes1n --bank $selfsup/selfsup.bank --trunk $selfsup/selfsup-trunk.agf $label_free
    evaluate label-free-control "Label-free: objects cut out, network that was never trained" label-free $selfsup/control.agf \
      build/scenes1n --bank $selfsup/control.bank -m agf -m agf_a -m gradcam
    evaluate label-free-odd "Label-free: the odd object, self-supervised network" odd-object $selfsup/selfsup.agf build/odd --pair pair \
      --objects-column objects_mask $label_free_odd
    evaluate label-free-odd-trunk "Label-free: the odd object, latent vector by place" odd-object $selfsup/selfsup-trunk.agf build/odd \
      --pair pair --objects-column objects_mask -m agf -m agf_a
    evaluate label-free-odd-control "Label-free: the odd object, network that was never trained" odd-object $selfsup/control.agf \
      build/odd --pair pair --objects-column objects_mask -m agf -m agf_a
    for net in selfsup-probe control-probe; do
      evaluate $net-segment "Per-class maps of a linear probe: $net" segment $selfsup/$net.agf build/scenes2 --explain target \
        -m agf -m agf_a -m agf_lc -m gradcam
    done
    evaluate multilabel-segment "Per-class maps of a network trained with labels" segment $multilabel build/scenes2 \
      --explain target -m agf -m agf_a -m agf_lc -m gradcam
  fi
  if [ -n "$pictures" ]; then
    evaluate imagenet-speed "Time: SqueezeNet 1.1, ImageNet, 1 thread" speed "$squeezenet" "$pictures" --limit 5 --threads 1 \
      $methods
    evaluate imagenet-perturb "Perturbation: SqueezeNet 1.1, ImageNet" perturb "$squeezenet" "$pictures" --limit 25 $methods
    # The grid is four times the network's size: the methods that matter most there, over more grids.
    evaluate imagenet-grid2 "Grid pointing 2x2: SqueezeNet 1.1, ImageNet" grid "$squeezenet" "$pictures" --grids 30 --cells 2 \
      -m agf -m gradcam -m sglrp -m agf_a -m agf_lc -m lrp_lc -m layercam -m hirescam
    evaluate imagenet-insert-delete "Insertion and deletion: SqueezeNet 1.1, ImageNet" insert-delete "$squeezenet" "$pictures" \
      --limit 10 -m agf -m agf_a -m agf_lc -m gradcam -m sglrp -m lrp_lc -m layercam -m hirescam
  fi
}
