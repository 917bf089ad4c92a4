#!/usr/bin/env bash
# A fault campaign with real processes: kill -9, hangs, partitions, full disks, while clients work and everything is checked.
# usage: tests/campaign.sh [SECONDS [SEED [DIR]]]
#   SECONDS  how long things break (default 1800); some minutes more to begin and to compare everything
#   SEED     what breaks and when (default: drawn, and printed)
#   DIR      a new or empty directory with 6 GB free; default target/campaign below this repository
# Needs root, for network namespaces and loop devices; the machine's own network is not touched. PENSTOCK_BIN names a program to use
# instead of building one. Ends with exit code 0 when nothing was lost, nothing was wrong and no stall was longer than 5 s.
# However it ends, also by Ctrl-C, no process, mount, loop device or network is left; on failure DIR is kept.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
"$top/scripts/packages" gcc:gcc fusermount3:fuse3 ip:iproute2 mkfs.ext4:e2fsprogs unshare:util-linux mount:mount
seconds=${1:-1800}
seed=${2:-}
source "$top/tests/prepare.sh" "${3:-$top/target/campaign}"
cargo build --release --quiet --manifest-path "$top/Cargo.toml" --package penstock-campaign
PENSTOCK_BIN=$(command -v penstock)
export PENSTOCK_BIN

finish() {
  local code=$?
  if [ "$code" -ne 0 ]; then
    echo "it failed; the logs are in $data/logs, everything else beside them" >&2
  else
    rm -rf "$work"
  fi
}
trap finish EXIT

"${CARGO_TARGET_DIR:-$top/target}/release/penstock-campaign" --seconds "$seconds" ${seed:+--seed "$seed"} --dir "$data"
