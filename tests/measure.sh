#!/usr/bin/env bash
# Measures a mounted directory beside the raw disk, in one run, and prints a table with ratios.
# usage: tests/measure.sh MOUNTED_DIR RAW_DIR
#   MOUNTED_DIR  a directory on the Penstock mount
#   RAW_DIR      a directory on the file system that holds the storage data (the raw disk to compare with)
# Needs fio and python3. Sizes: SIZE (default 512m), SECONDS_EACH (default 8). About three minutes; removes what it made.
# The machine should be idle. Compare ratios of one run only: absolute figures vary from machine to machine.
set -euo pipefail

if [ $# -ne 2 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then
  sed -n '2,8p' "$0" >&2
  exit 2
fi
SIZE=${SIZE:-512m}
EACH=${SECONDS_EACH:-8}
mounted=$(mktemp -d "$1/measure.XXXXXX")
raw=$(mktemp -d "$2/measure.XXXXXX")
trap 'rm -rf "$mounted" "$raw"' EXIT

# load DIR ARGS...: one fio run; prints "MiB/s IOPS mean-latency-us".
load() {
  local dir=$1
  shift
  fio --name=load --directory="$dir" --filename=data --size="$SIZE" --output-format=json "$@" 2>/dev/null |
    python3 -c '
import json, sys
text = sys.stdin.read()
job = json.loads(text[text.index("{"):])["jobs"]
assert all(j["error"] == 0 for j in job), "fio reported an error"
sides = [j[k] for j in job for k in ("read", "write") if j[k]["io_bytes"]]
print(sum(s["bw_bytes"] for s in sides) / 2**20, sum(s["iops"] for s in sides), sides[0]["clat_ns"]["mean"] / 1000)'
}

# row NAME RAW_ENGINE MOUNT_ENGINE ARGS...: the same load on both, and the ratio.
row() {
  local name=$1 raw_engine=$2 mount_engine=$3
  shift 3
  local r m
  r=$(load "$raw" --ioengine="$raw_engine" "$@")
  m=$(load "$mounted" --ioengine="$mount_engine" "$@")
  python3 - "$name" $r $m <<'P'
import sys
name, rb, ri, rl, mb, mi, ml = sys.argv[1], *map(float, sys.argv[2:])
print(f"{name:34s} raw {rb:8.1f} MiB/s {ri:8.0f}/s   mount {mb:8.1f} MiB/s {mi:8.0f}/s {ml:9.0f} us   ratio {mi / ri:6.3f}")
P
}

drop() { sync; echo 3 > /proc/sys/vm/drop_caches 2>/dev/null || true; }

row "write 1 MiB, depth 8, direct" io_uring io_uring --rw=write --bs=1M --iodepth=8 --direct=1 --end_fsync=1
row "write 1 MiB, buffered, fsync" psync psync --rw=write --bs=1M --end_fsync=1
drop
row "read 1 MiB, depth 16, direct" io_uring io_uring --rw=read --bs=1M --iodepth=16 --direct=1
drop
row "read 1 MiB, buffered, cold" psync psync --rw=read --bs=1M
drop
row "random read 4 KiB, depth 1" psync psync --rw=randread --bs=4k --direct=1 --time_based --runtime="$EACH"
row "random read 4 KiB, depth 32" io_uring io_uring --rw=randread --bs=4k --iodepth=32 --direct=1 --time_based --runtime="$EACH"
row "random write 4 KiB, depth 16" io_uring io_uring --rw=randwrite --bs=4k --iodepth=16 --direct=1 --fsync=64 --time_based --runtime="$EACH"
rm -f "$mounted/data" "$raw/data"

# Small files: create (exclusive, close), stat after dropping dentries, unlink; per second, 1 and 4 processes.
for processes in 1 4; do
  for dir in "$raw" "$mounted"; do
    python3 - "$dir" "$processes" "$([ "$dir" = "$raw" ] && echo raw || echo mount)" <<'P'
import multiprocessing, os, sys, time
base, processes, label = sys.argv[1], int(sys.argv[2]), sys.argv[3]
COUNT = 2000
each = COUNT // processes
for p in range(processes):
    os.mkdir(f"{base}/{p}")
def create(p):
    for k in range(each):
        os.close(os.open(f"{base}/{p}/f{k}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
def stat(p):
    for k in range(each):
        os.stat(f"{base}/{p}/f{k}")
def unlink(p):
    for k in range(each):
        os.unlink(f"{base}/{p}/f{k}")
def rate(step):
    start = time.perf_counter()
    workers = [multiprocessing.Process(target=step, args=(p,)) for p in range(processes)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert all(w.exitcode == 0 for w in workers)
    return each * processes / (time.perf_counter() - start)
created = rate(create)
try:
    open("/proc/sys/vm/drop_caches", "w").write("2")
except OSError:
    pass
looked = rate(stat)
removed = rate(unlink)
for p in range(processes):
    os.rmdir(f"{base}/{p}")
print(f"small files, {processes} processes, {label:6s}      create {created:8.0f}/s   cold stat {looked:8.0f}/s   unlink {removed:8.0f}/s")
P
  done
done
