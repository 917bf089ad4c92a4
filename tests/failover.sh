#!/usr/bin/env bash
# Measures fail-over: from `kill -9` of a storage node to the end of the slowest write that met it.
# usage: tests/failover.sh [KILLS [DIR]]
#   KILLS  how many, in turns among three nodes (default 50); about 8 seconds each
#   DIR    a new or empty directory with 1 GB free; default target/failover below this repository
# A client writes 4 KiB at a time, durably (O_DIRECT, O_DSYNC), to a chunk of every chain in turns, so one of its writes meets the
# head that was killed. Every write is read back at the end. PENSTOCK_BIN names a program to use instead of building
# one. Ends with exit code 0 when nothing failed and the worst was at most 5 s.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
"$top/scripts/packages" gcc:gcc fusermount3:fuse3 python3:python3
if [ -n "${PENSTOCK_BIN:-}" ]; then
  PATH=$(cd "$(dirname "$PENSTOCK_BIN")" && pwd):$PATH
else
  cargo build --release --quiet --manifest-path "$top/Cargo.toml" --package penstock
  PATH=${CARGO_TARGET_DIR:-$top/target}/release:$PATH
fi
unset PENSTOCK_DATA PENSTOCK_CLUSTER

kills=${1:-50}
work=${2:-$top/target/failover}
mkdir -p "$work"
if [ -n "$(ls -A "$work")" ]; then
  echo "$work is not empty; name another directory, or remove what an earlier run left" >&2
  exit 2
fi
work=$(cd "$work" && pwd)
export PENSTOCK_DATA=$work/cluster PENSTOCK_CLUSTER=$work/cluster/cluster.toml

finish() {
  local code=$?
  penstock dev down >/dev/null 2>&1 || true
  if [ "$code" -ne 0 ]; then
    echo "it failed; the logs are in $PENSTOCK_DATA/logs" >&2
  else
    rm -rf "$work"
  fi
}
trap finish EXIT

penstock dev up --storage 3 --replicas 3
python3 - "$PENSTOCK_DATA/mnt/file" "$kills" <<'P'
import json, mmap, os, subprocess, sys, threading, time

path, kills = sys.argv[1], int(sys.argv[2])
LIMIT, BLOCK, CHUNK = 5.0, 4096, 1 << 20
REPAIR_LIMIT = 60


def chains():
    listed = subprocess.run(["penstock", "admin", "chain", "list", "--json"], capture_output=True, check=True)
    return json.loads(listed.stdout)


def whole():
    return all(t["state"] == "serving" for c in chains() for t in c["targets"])


def wait_whole():
    end = time.monotonic() + REPAIR_LIMIT
    while not whole():
        if time.monotonic() > end:
            sys.exit(f"chains are not whole after {REPAIR_LIMIT} s")
        time.sleep(0.1)


# Twice as many chunks as chains: every chain has one, whatever the order.
places = 2 * len(chains())
acks, errors, written = [], [], {}
stop = threading.Event()


def write():
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_DSYNC)
    block, number = mmap.mmap(-1, BLOCK), 0
    while not stop.is_set():
        number += 1
        place = number % places
        block[:8] = number.to_bytes(8, "little")
        begun = time.monotonic()
        try:
            os.pwrite(fd, block, place * CHUNK)
        except OSError as error:
            errors.append(f"write {number}: {error}")
            continue
        acks.append((begun, time.monotonic()))
        written[place] = number
    os.close(fd)


writer = threading.Thread(target=write)
writer.start()
stalls = []
for kill in range(kills):
    wait_whole()
    time.sleep(0.5)
    node = f"storage-{1 + kill % 3}"
    killed = time.monotonic()
    subprocess.run(["penstock", "dev", "kill", node], capture_output=True, check=True)
    time.sleep(LIMIT)
    met = [end - max(begun, killed) for begun, end in list(acks) if end > killed]
    stalls.append(max(met, default=LIMIT))
    subprocess.run(["penstock", "dev", "start", node], capture_output=True, check=True)
    print(f"kill {kill + 1} of {kills}: {node}, {stalls[-1]:.2f} s", flush=True)
wait_whole()
stop.set()
writer.join()
fd = os.open(path, os.O_RDONLY)
lost = [p for p, n in written.items() if os.pread(fd, 8, p * CHUNK) != n.to_bytes(8, "little")]
os.close(fd)
stalls.sort()
print(f"{kills} kills, {len(acks)} writes acknowledged, {len(errors)} failed, {len(lost)} lost")
print(f"from kill to the end of the slowest write: median {stalls[len(stalls) // 2]:.2f} s, worst {stalls[-1]:.2f} s")
for line in errors[:10]:
    print(line)
sys.exit(1 if errors or lost or stalls[-1] > LIMIT else 0)
P
