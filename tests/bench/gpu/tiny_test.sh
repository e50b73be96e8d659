#!/usr/bin/env bash
# gpu_bench at tiny sizes on the emulated device: every row runs, whatever its time is worth; and
# predictions run nothing.
set -euo pipefail
bench=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

status=0
"$bench" --tiny --out="$work/out" --scratch="$work/scratch" --budget=10000 >/dev/null || status=$?
if ((status != 0)) || grep '"error"' "$work/out/bench.jsonl"; then
  echo "FAILED: ended with $status" >&2
  exit 1
fi
for section in limits rat rat_plus attention layers mesa model prompts products sampling elementwise; do
  grep -q "\"section\": \"$section\".*\"figure\"" "$work/out/bench.jsonl" || {
    echo "FAILED: no figure of $section" >&2
    exit 1
  }
done
# Of each kind of row one: these are easily lost, since others of their section are found.
for row in "read alone" "32 query heads on 8 key heads.*batch 3, position 40" \
  "rat decode.*pages of all layers" \
  "rat decode.*batch 3, position 20, one at 70" "rat+ decode.*batch 3, position 20, one at 70" "full attention decode.*position 20, one at 70" \
  "decode, overlapping kernels.*batch 3" \
  "mesa decode.*state float32.*decay 0.99, behind 32 tokens" "mesa decode.*state bfloat16.*decay 0.99"; do
  grep -q "$row.*\"figure\"" "$work/out/bench.jsonl" || {
    echo "FAILED: no figure of $row" >&2
    exit 1
  }
done

"$bench" --predict --bandwidth=2 --sections=rat >"$work/table"
# 64 x (255 entries of 8192 bytes and 51,200 beside them) at 2 TB/s.
grep -q '| rat | .* | batch 64, position 4096 | 137 MB | .* | 68.49 us (predicted)' "$work/table" || {
  cat "$work/table"
  echo "FAILED: no such prediction" >&2
  exit 1
}
status=0
"$bench" --sections=nonsense 2>/dev/null || status=$?
((status == 2)) || { echo "FAILED: nonsense ends with $status" >&2; exit 1; }
