#!/usr/bin/env bash
# All that needs a GPU, in at most eight minutes: correctness, then times. What fails is reported, and the rest goes on.
#
#   bash benchmarks/gpu_all.sh [FOLDER]      FOLDER receives tests.log, gpu.log and gpu.json (default: benchmarks/results)
set -u
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD
failed=0
echo "== tests on the GPU"
timeout 170 python3 -m pytest -q -m gpu tests/cuda tests/gpu -k "not nvidias" -p no:cacheprovider 2>&1 | tee "$out/tests.log" | tail -n 40
[ "${PIPESTATUS[0]}" = 0 ] || failed=1
echo "== compute-sanitizer ($SECONDS s)"
timeout 100 python3 -m pytest -q -m gpu tests/gpu -k "nvidias and (memcheck or racecheck)" -p no:cacheprovider 2>&1 | tee -a "$out/tests.log" | tail -n 15
[ "${PIPESTATUS[0]}" = 0 ] || failed=1
echo "== times ($SECONDS s)"
timeout $((470 - SECONDS)) python3 benchmarks/gpu.py --out "$out/gpu.json" 2>&1 | tee "$out/gpu.log"
[ "${PIPESTATUS[0]}" = 0 ] || failed=1
[ -f "$out/gpu.json" ] && python3 benchmarks/gpu_tables.py "$out/gpu.json" --print
echo "== $SECONDS s"
exit $failed
