#!/usr/bin/env bash
# Measures fail-over: from `kill -9` of a storage node to the end of the slowest write that met it.
# usage: tests/failover.sh [KILLS [DIR]]
#   KILLS  how many, in turns among three nodes (default 50); a few seconds each
#   DIR    a new or empty directory with 1 GB free; default target/failover below this repository
# A client writes 4 KiB at a time, durably (O_DIRECT, O_DSYNC), to a chunk of every chain in turns, so one of its writes meets the
# head that was killed. Every write is read back at the end. PENSTOCK_BIN names a program to use instead of building
# one. Ends with exit code 0 when nothing failed and the worst was at most 5 s.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
"$top/scripts/packages" gcc:gcc fusermount3:fuse3 python3:python3
kills=${1:-50}
source "$top/tests/prepare.sh" "${2:-$top/target/failover}"

finish() {
  local code=$?
  penstock dev down >/dev/null 2>&1 || true
  if [ "$code" -ne 0 ]; then
    echo "it failed; the logs are in $data/logs" >&2
  else
    rm -rf "$work"
  fi
}
trap finish EXIT

penstock dev up --storage 3 --replicas 3
python3 - "$data/mnt/file" "$kills" <<'P'
import json, mmap, os, subprocess, sys, threading, time

path, kills = sys.argv[1], int(sys.argv[2])
LIMIT, BLOCK, CHUNK = 5.0, 4096, 1 << 20
REPAIR_LIMIT = 60


def penstock(*arguments):
    return subprocess.run(["penstock", *arguments], capture_output=True, check=True).stdout


def chains():
    return json.loads(penstock("admin", "chain", "list", "--json"))


def whole():
    return all(t["state"] == "serving" for c in chains() for t in c["targets"])


# Twice as many chunks as chains: every chain has one, whatever the order.
places = 2 * len(chains())


class Writer(threading.Thread):
    """Writes to all places in turns, and tells whoever waits of each write that ends."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ended = threading.Condition()
        self.acks, self.errors, self.written, self.stopping = [], [], {}, False

    def run(self):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_DSYNC)
        block, number = mmap.mmap(-1, BLOCK), 0
        while not self.stopping:
            number += 1
            place = number % places
            block[:8] = number.to_bytes(8, "little")
            begun, error = time.monotonic(), None
            try:
                os.pwrite(fd, block, place * CHUNK)
            except OSError as failed:
                error = f"write {number}: {failed}"
            with self.ended:
                if error:
                    self.errors.append(error)
                else:
                    self.acks.append((begun, time.monotonic()))
                    self.written[place] = number
                self.ended.notify_all()
        os.close(fd)

    def goes_round(self, limit):
        """Waits until every place was written once more; false when that is not so in time."""
        with self.ended:
            goal = len(self.acks) + places
            return self.ended.wait_for(lambda: len(self.acks) >= goal, limit)


def wait_whole():
    end = time.monotonic() + REPAIR_LIMIT
    while not whole():
        if time.monotonic() > end:
            sys.exit(f"chains are not whole after {REPAIR_LIMIT} s")
        # Looks again after a round of writes, or a second if they wait for the repair.
        writer.goes_round(1)


writer = Writer()
writer.start()
stalls = []
for kill in range(kills):
    wait_whole()
    if not writer.goes_round(LIMIT):
        sys.exit(f"no round of writes in {LIMIT} s although all chains are whole")
    node = f"storage-{1 + kill % 3}"
    killed = time.monotonic()
    penstock("dev", "kill", node)
    # The write under way, and one to every chain after it.
    done = writer.goes_round(2 * LIMIT)
    met = [end - max(begun, killed) for begun, end in list(writer.acks) if end > killed]
    stalls.append(max(met) if done else 2 * LIMIT)
    penstock("dev", "start", node)
    print(f"kill {kill + 1} of {kills}: {node}, {stalls[-1]:.2f} s", flush=True)
wait_whole()
writer.stopping = True
writer.join()
fd = os.open(path, os.O_RDONLY)
lost = [p for p, n in writer.written.items() if os.pread(fd, 8, p * CHUNK) != n.to_bytes(8, "little")]
os.close(fd)
stalls.sort()
errors = writer.errors
print(f"{kills} kills, {len(writer.acks)} writes acknowledged, {len(errors)} failed, {len(lost)} lost")
print(f"from kill to the end of the slowest write: median {stalls[len(stalls) // 2]:.2f} s, worst {stalls[-1]:.2f} s")
for line in errors[:10]:
    print(line)
sys.exit(1 if errors or lost or stalls[-1] > LIMIT else 0)
P
