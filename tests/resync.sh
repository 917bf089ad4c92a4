#!/usr/bin/env bash
# Measures the resync of a storage node whose disk was replaced by an empty one, while clients write.
# usage: tests/resync.sh [GIB [DIR]]
#   GIB  how much the chain holds (default 10); the disk needs four times as much, and some
#   DIR  a new or empty directory; default target/resync below this repository
# One chain of three nodes on one machine and one disk, filled by fio with blocks that carry checksums. WRITERS (default 4)
# threads write 64 KiB at a time, durably (O_DIRECT, O_DSYNC), all the time: before, while the node is away, and during the
# resync. At the end the two other nodes are killed and everything is read from the refilled one. Prints the rate of the
# resync, also as a share of the raw disk (fio in the same run), the latency of the writes, and the time until the target
# serves. `penstock admin chain show` is what it looks at meanwhile. PENSTOCK_BIN names a program to use instead of building
# one. Ends with exit code 0 when nothing failed.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
"$top/scripts/packages" gcc:gcc fusermount3:fuse3 python3:python3 fio:fio
gib=${1:-10}
writers=${WRITERS:-4}
source "$top/tests/prepare.sh" "${2:-$top/target/resync}"

free=$(($(stat -f -c '%a * %S' "$work") >> 30))
if [ "$free" -lt $((4 * gib + 6)) ]; then
  echo "$work has $free GiB free; $gib GiB on three nodes need $((4 * gib + 6)). Name a smaller size or another directory" >&2
  rmdir "$work"
  exit 2
fi

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

# raw READ_OR_WRITE: the rate of 1 MiB requests to a new file on the same disk, in MiB/s.
raw() {
  fio --name=raw --filename="$work/raw" --size=2g --rw="$1" --bs=1M --ioengine=io_uring --iodepth=8 --direct=1 \
    --end_fsync=1 --output-format=json 2>/dev/null | python3 -c '
import json, sys
text = sys.stdin.read()
job = json.loads(text[text.index("{"):])["jobs"][0]
print(max(job[side]["bw_bytes"] for side in ("read", "write")) / 2**20)'
}
raw_write=$(raw write)
raw_read=$(raw read)
rm -f "$work/raw"

penstock dev up --storage 3 --replicas 3 --chains 1
blocks=(--name=fill --filename="$data/mnt/file" --size="${gib}g" --bs=1M --direct=1 --ioengine=io_uring --iodepth=8
  --verify=crc32c --verify_fatal=1)
fio "${blocks[@]}" --rw=write --do_verify=0 >/dev/null

python3 - "$data" "$gib" "$writers" "$raw_write" "$raw_read" <<'P'
import json, mmap, os, random, shutil, subprocess, sys, threading, time

data, gib, writers, raw_write, raw_read = sys.argv[1], *map(float, sys.argv[2:])
BLOCK, PLACES = 64 << 10, 4096
BEFORE = 15
LIMIT = 3600


def penstock(*arguments):
    return subprocess.run(["penstock", *arguments], capture_output=True, check=True).stdout


def chain():
    (only,) = json.loads(penstock("admin", "chain", "show", "--json"))
    return only


class Writer(threading.Thread):
    """Overwrites blocks of a file of its own at random, and remembers how long each took."""

    def __init__(self, number):
        super().__init__(daemon=True)
        self.path = f"{data}/mnt/writer-{number}"
        self.acks, self.error, self.stopping = [], None, False

    def run(self):
        block, number = mmap.mmap(-1, BLOCK), 0
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_DSYNC)
            while not self.stopping:
                number += 1
                block[:8] = number.to_bytes(8, "little")
                begun = time.monotonic()
                os.pwrite(fd, block, random.randrange(PLACES // int(writers)) * BLOCK)
                self.acks.append((begun, time.monotonic()))
            os.close(fd)
        except OSError as failed:
            self.error = failed


def latency(name, since, until):
    took = sorted(end - begun for w in threads for begun, end in list(w.acks) if since <= begun < until)
    if not took:
        sys.exit(f"no write ended {name}")
    at = lambda share: took[min(len(took) - 1, int(len(took) * share))] * 1000
    rate = len(took) / (until - since)
    print(f"writes {name:24s} {rate:7.0f}/s  p50 {at(0.5):7.1f} ms  p99 {at(0.99):7.1f} ms  worst {took[-1] * 1000:7.0f} ms")


def wait_state(target, states, show=False):
    end, line = time.monotonic() + LIMIT, 0
    while True:
        seen = next(t for t in chain()["targets"] if t["id"] == target)
        if seen["state"] in states:
            return time.monotonic()
        if time.monotonic() > end:
            sys.exit(f"target {target} is {seen['state']} after {LIMIT} s")
        if show and seen["resync"] and time.monotonic() - line > 10:
            line, r = time.monotonic(), seen["resync"]
            print(f"  {100 * r['done_bytes'] // max(r['total_bytes'], 1):3d} %  {r['bytes_per_second'] / 2**20:5.0f} MiB/s  "
                  f"{r['seconds_left']} s left", flush=True)
        time.sleep(0.2)


tail = chain()["targets"][-1]
services = json.loads(penstock("dev", "status", "--json"))
name = next(s["name"] for s in services if s["kind"] == "storage" and s["node"] == tail["node"])
threads = [Writer(number) for number in range(int(writers))]
for thread in threads:
    thread.start()
begun = time.monotonic()
time.sleep(BEFORE)
full = time.monotonic()
penstock("dev", "kill", name)
wait_state(tail["id"], ["offline"])
alone = time.monotonic()
shutil.rmtree(f"{data}/{name}/data/disk-0")
time.sleep(BEFORE / 3)
started = time.monotonic()
penstock("dev", "start", name)
print(f"{name} starts with an empty disk; {gib:.0f} GiB are to be sent", flush=True)
syncing = wait_state(tail["id"], ["syncing", "serving"])
serving = wait_state(tail["id"], ["serving"], show=True)
for thread in threads:
    thread.stopping = True
for thread in threads:
    thread.join()

rate = gib * 1024 / (serving - syncing)
print(f"raw disk: 1 MiB writes to a new file {raw_write:.0f} MiB/s, reads {raw_read:.0f} MiB/s")
print(f"resync: {gib:.0f} GiB in {serving - syncing:.1f} s, {rate:.0f} MiB/s, {100 * rate / raw_write:.0f} % of a raw write; "
      "each byte is read and written on this one disk")
print(f"time to serving: {serving - started:.1f} s from the start of the process")
latency("before", begun, full)
latency("with two copies", alone, started)
latency("during the resync", syncing, serving)
errors = [str(w.error) for w in threads if w.error]
print("\n".join(errors[:10]) if errors else "no write failed")
for service in services:
    if service["kind"] == "storage" and service["name"] != name:
        penstock("dev", "kill", service["name"])
sys.exit(1 if errors else 0)
P
fio "${blocks[@]}" --rw=write --verify_only=1 >/dev/null
echo "every block is read back from the refilled node alone"
