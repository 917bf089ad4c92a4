# Sourced by the long runs, with DIR as "$1": puts `penstock` on the PATH (PENSTOCK_BIN, or built) and sets $work to an empty
# directory, $data to where the cluster goes there, for all commands.
if [ -n "${PENSTOCK_BIN:-}" ]; then
  PATH=$(cd "$(dirname "$PENSTOCK_BIN")" && pwd):$PATH
else
  cargo build --release --quiet --manifest-path "$top/Cargo.toml" --package penstock
  PATH=${CARGO_TARGET_DIR:-$top/target}/release:$PATH
fi
unset PENSTOCK_DATA PENSTOCK_CLUSTER

work=$1
mkdir -p "$work"
if [ -n "$(ls -A "$work")" ]; then
  echo "$work is not empty; name another directory, or remove what an earlier run left" >&2
  exit 2
fi
work=$(cd "$work" && pwd)
data=$work/cluster
export PENSTOCK_DATA=$data PENSTOCK_CLUSTER=$data/cluster.toml
