#!/usr/bin/env bash
# All that needs a GPU, in at most eight minutes: correctness, then times, then NVIDIA's checkers in what time is left. What fails
# is reported, and the rest goes on.
#
#   bash benchmarks/gpu_all.sh [FOLDER]      FOLDER receives tests.log, gpu.log and gpu.json (default: benchmarks/results)
set -u
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
python3 -c 'from tinyunet import backend; print(backend.choose("cuda")[1])' || exit 1
failed=0
workers=$(python3 -c 'import xdist' 2>/dev/null && echo "-n 8")  # most of the time kernels are compiled, each on one core
tests() {  # SECONDS ARGUMENTS: warnings, of CuPy or of a NumPy newer than ours, fail nothing here
  timeout -k 5 "$1" python3 -m pytest -v --tb=short -W default --continue-on-collection-errors -p no:cacheprovider -m gpu "${@:2}" 2>&1
}
echo "== tests on the GPU"
# shellcheck disable=SC2086  # two words, or none
tests 150 $workers tests/cuda tests/gpu -k "not nvidias" | tee "$out/tests.log" | tail -n 25
[ "${PIPESTATUS[0]}" = 0 ] || failed=1
grep -E '(^| )(FAILED|ERROR) ' "$out/tests.log" | sort -u | head -n 40  # also where time was short, and pytest said nothing
echo "== times ($SECONDS s)"
python3 benchmarks/gpu.py --seconds $((400 - SECONDS)) --out "$out/gpu.json" 2>&1 | tee "$out/gpu.log"
[ "${PIPESTATUS[0]}" = 0 ] || failed=1
[ -f "$out/gpu.json" ] && python3 benchmarks/gpu_tables.py "$out/gpu.json" --print
echo "== compute-sanitizer ($SECONDS s)"
tests $((465 - SECONDS)) tests/gpu -k "nvidias and (memcheck or racecheck)" | tee -a "$out/tests.log" | tail -n 15
[ "${PIPESTATUS[0]}" = 0 ] || failed=1
echo "== $SECONDS s"
exit $failed
