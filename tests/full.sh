#!/usr/bin/env bash
# Shows at full size what the end-to-end tests show small, and prints a table: what, size, seconds, longest stall.
# usage: tests/full.sh [DIR]
#   DIR  an empty or new directory on a disk with 25 GB free; default target/full below this repository.
# Needs what scripts/test needs (fio, git, python3), and FUSE. PENSTOCK_BIN names a program `penstock` to use instead of
# building one. About twenty minutes. Ends with exit code 0 when everything was equal, nothing failed and no stall was
# longer than 5 s (STALL_LIMIT).
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
"$top/scripts/packages" gcc:gcc fusermount3:fuse3 fio:fio git:git python3:python3 diff:diffutils
source "$top/tests/prepare.sh" "${1:-$top/target/full}"
mnt=$data/mnt
STALL_LIMIT=${STALL_LIMIT:-5}
rows=()
failed=0
prober=

finish() {
  local code=$?
  [ -n "$prober" ] && kill "$prober" 2>/dev/null
  penstock dev down >/dev/null 2>&1
  penstock dev down --data "$work/three" >/dev/null 2>&1
  if [ "$code" -ne 0 ]; then
    echo "it failed; the logs are in $data/logs" >&2
    table
  else
    rm -rf "$work"
  fi
}
trap finish EXIT

now() { date +%s.%N; }
since() { python3 -c "import sys; print(f'{float(sys.argv[2]) - float(sys.argv[1]):.1f}')" "$1" "$(now)"; }

# row WHAT SIZE SECONDS STALL: a line of the table.
row() {
  rows+=("$(printf '%-46s %-24s %8s %8s' "$1" "$2" "$3" "$4")")
  printf '%s\n' "${rows[-1]}"
}

table() {
  printf '\n%-46s %-24s %8s %8s\n' what size seconds 'stall s'
  printf '%s\n' "${rows[@]}"
}

# A user who never stops: makes, syncs, renames, reads, lists, removes. Ends on SIGTERM; tells rounds, longest, errors.
start_prober() {
  mkdir -p "$mnt/probe"
  python3 - "$mnt/probe" >"$work/probe.out" <<'P' &
import os, signal, sys, time
directory, stop = sys.argv[1], []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
rounds, longest, errors = 0, 0.0, []
while not stop:
    begin = time.monotonic()
    try:
        a, b, data = f"{directory}/a", f"{directory}/b", bytes([rounds % 251]) * 10000
        with open(a, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.rename(a, b)
        with open(b, "rb") as f:
            assert f.read() == data, "read something else than was written"
        assert os.listdir(directory) == ["b"], "the directory lists something else"
        os.unlink(b)
    except Exception as error:
        errors.append(repr(error))
    longest = max(longest, time.monotonic() - begin)
    rounds += 1
    time.sleep(0.02)
print(f"{rounds} {longest:.2f} {len(errors)} {errors[:3]}")
P
  prober=$!
}

# stop_prober: sets $stall; fails when the user saw an error or waited too long.
stop_prober() {
  kill "$prober"
  wait "$prober" || true
  prober=
  local rounds errors text
  read -r rounds stall errors text <"$work/probe.out"
  if [ "$errors" -ne 0 ]; then
    echo "the user saw $errors errors in $rounds rounds: $text" >&2
    failed=1
  fi
  if python3 -c "import sys; sys.exit(float('$stall') <= float('$STALL_LIMIT'))"; then
    echo "a stall of $stall s, at most $STALL_LIMIT s are allowed" >&2
    failed=1
  fi
}

# Waits until all targets of all chains serve.
wait_complete() {
  local begin
  begin=$(now)
  until penstock admin chain list --json | python3 -c '
import json, sys
chains = json.load(sys.stdin)
sys.exit(not chains or any(t["state"] != "serving" for c in chains for t in c["targets"]))'; do
    if python3 -c "import sys; sys.exit(float('$(since "$begin")') < 300)"; then
      penstock admin chain list >&2
      echo "the chains are not complete after 300 s" >&2
      exit 1
    fi
    sleep 0.2
  done
}

fresh() { # drops what the kernel holds: unmounts and mounts again
  penstock dev kill mount --signal TERM >/dev/null
  until penstock dev status | grep -q '^mount .*dead'; do sleep 0.1; done
  penstock dev start mount >/dev/null
}

pids() { penstock dev status --json | python3 -c 'import json, sys; print(*[s["pid"] for s in json.load(sys.stdin) if s["pid"]])'; }

# ---- up
begin=$(now)
penstock dev up --storage 3 --replicas 3
row "dev up, 3 storage nodes, 3 copies" "" "$(since "$begin")" ""

# ---- idle
wait_complete
idle=$(python3 - $(pids) <<'P'
import sys, time
def cpu(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100
def memory(pid):
    return sum(int(l.split()[1]) for l in open(f"/proc/{pid}/smaps_rollup") if l.startswith("Pss:")) / 1024
before = sum(map(cpu, sys.argv[1:]))
time.sleep(10)
print(f"{sum(map(memory, sys.argv[1:])):.0f} MiB, {(sum(map(cpu, sys.argv[1:])) - before) * 10:.1f} % CPU")
P
)
row "idle: memory of all processes, one core" "$idle" 10 ""

# ---- a real tree, a storage node killed in the middle
python3 - "$work/tree" <<'P'
import os, shutil, sys
target, files, size = sys.argv[1], 0, 0
for base in ("/usr/bin", "/usr/lib", "/usr/include", "/usr/share"):
    for directory, _, names in os.walk(base):
        if files >= 10000 and size >= 500e6:
            break
        made = target + directory
        os.makedirs(made, exist_ok=True)
        for name in names:
            path = os.path.join(directory, name)
            if os.path.islink(path) or os.path.isfile(path):
                shutil.copy2(path, made, follow_symlinks=False)
                files += not os.path.islink(path)
                size += os.lstat(path).st_size
# A machine without enough of its own gets some more.
for number in range(max(0, 10000 - files)):
    open(f"{target}/more-{number}", "wb").write(os.urandom(2000))
if size < 500e6:
    open(f"{target}/more", "wb").write(os.urandom(int(500e6 - size)))
P
size="$(find "$work/tree" -type f | wc -l) files, $(du -sm --apparent-size "$work/tree" | cut -f1) MB"
start_prober
begin=$(now)
cp -a "$work/tree" "$mnt/tree" &
copy=$!
until [ "$(find "$mnt/tree" -type f 2>/dev/null | head -2000 | wc -l)" -ge 2000 ]; do sleep 0.1; done
penstock dev kill storage-2
wait "$copy"
stop_prober
row "copy a tree, storage-2 killed in the middle" "$size" "$(since "$begin")" "$stall"
begin=$(now)
diff -r --no-dereference "$work/tree" "$mnt/tree"
row "diff -r" "$size" "$(since "$begin")" ""

start_prober
begin=$(now)
penstock dev start storage-2
wait_complete
row "storage-2 started, all chains complete" "" "$(since "$begin")" ""
begin=$(now)
penstock dev kill storage-1
diff -r --no-dereference "$work/tree" "$mnt/tree"
stop_prober
row "diff -r, storage-1 killed" "$size" "$(since "$begin")" "$stall"
fresh
begin=$(now)
diff -r --no-dereference "$work/tree" "$mnt/tree"
row "diff -r, nothing cached" "$size" "$(since "$begin")" ""
penstock dev start storage-1
wait_complete

# ---- developers' work
if [ -d "$top/.git" ]; then
  begin=$(now)
  git clone --quiet --no-local "$top" "$mnt/clone"
  git -C "$mnt/clone" fsck --full >/dev/null 2>&1
  row "git clone, git fsck" "$(du -sm --apparent-size "$mnt/clone" | cut -f1) MB" "$(since "$begin")" ""
fi
begin=$(now)
(
  unset CARGO_TARGET_DIR
  cd "$mnt"
  cargo init --quiet --vcs none --bin small
  cd small
  cargo build --offline --quiet
  [ "$(./target/debug/small)" = "Hello, world!" ]
)
row "cargo build of a small crate" "" "$(since "$begin")" ""

# ---- databases
begin=$(now)
python3 - "$mnt/test.db" 10000 <<'P'
import sqlite3, sys
path, transactions = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect(path, isolation_level=None)
db.execute("create table t (id integer primary key, word text)")
for k in range(transactions):
    db.execute("begin")
    db.execute("insert into t values (?, ?)", (k, "w" * (k % 300)))
    db.execute("commit")
db.close()
db = sqlite3.connect(path)
assert db.execute("pragma integrity_check").fetchone() == ("ok",)
assert db.execute("select count(*) from t").fetchone() == (transactions,)
P
row "SQLite, integrity_check" "10000 transactions" "$(since "$begin")" ""
begin=$(now)
fio --name=verify --directory="$mnt" --rw=randwrite --bs=4k --size=128m --ioengine=io_uring --direct=1 --iodepth=16 \
  --end_fsync=1 --verify=crc32c --verify_fatal=1 --verify_state_save=0 --output="$work/fio.out"
rm -f "$mnt"/verify.*
row "fio randwrite --verify=crc32c" "128 MiB of 4 KiB" "$(since "$begin")" ""

# ---- a large file
written=$work/written
begin=$(now)
# openssl's stream would need openssl; this is quick, and the same bytes never come twice.
python3 - <<'P' | tee >(sha256sum >"$written") | dd of="$mnt/large" bs=1M iflag=fullblock conv=fsync status=none
import os, sys
piece = bytearray(os.urandom(1 << 20))
for k in range(4096):
    piece[:8] = k.to_bytes(8, "little")
    sys.stdout.buffer.write(piece)
P
row "write a file" "4 GiB" "$(since "$begin")" ""
fresh
begin=$(now)
[ "$(sha256sum <"$mnt/large")" = "$(cat "$written")" ]
row "read it back, nothing cached, equal" "4 GiB" "$(since "$begin")" ""
rm "$mnt/large"

# ---- the metadata server
start_prober
begin=$(now)
penstock dev kill meta-1
penstock dev start meta-1
stop_prober
row "meta-1 killed and started" "" "$(since "$begin")" "$stall"

# ---- everything at once
python3 -c "
import os
f = os.open('$mnt/synced', os.O_CREAT | os.O_WRONLY)
os.write(f, b'7' * 100000)
os.fsync(f)"
begin=$(now)
# shellcheck disable=SC2046
kill -9 $(pids)
penstock dev up >/dev/null
row "kill -9 of everything, dev up" "" "$(since "$begin")" ""
begin=$(now)
diff -r --no-dereference "$work/tree" "$mnt/tree"
[ "$(tr -d 7 <"$mnt/synced" | wc -c) $(wc -c <"$mnt/synced")" = "0 100000" ]
python3 -c "
import sqlite3
assert sqlite3.connect('$mnt/test.db').execute('pragma integrity_check').fetchone() == ('ok',)"
row "everything is there and equal" "$size" "$(since "$begin")" ""

# ---- down
begin=$(now)
left=$(pids)
penstock dev down
for pid in $left; do
  if [ -d "/proc/$pid" ] && ! grep -q '^State:.*Z' "/proc/$pid/status"; then
    echo "process $pid is left" >&2
    failed=1
  fi
done
if grep -q " $data" /proc/self/mountinfo; then
  echo "a mount is left" >&2
  failed=1
fi
row "dev down: no process, no mount left" "" "$(since "$begin")" ""

# ---- three managers, their leader killed
data=$work/three
mnt=$data/mnt
export PENSTOCK_DATA=$data PENSTOCK_CLUSTER=$data/cluster.toml
penstock dev up --storage 3 --replicas 3 --mgmtd 3 >/dev/null
start_prober
begin=$(now)
leader() { penstock status --json 2>/dev/null | python3 -c 'import json, sys; print(json.load(sys.stdin)["leader"] or 0)' 2>/dev/null || echo 0; }
old=$(leader)
name=$(penstock dev status --json | python3 -c "
import json, sys
print(*[s['name'] for s in json.load(sys.stdin) if s['node'] == $old])")
penstock dev kill "$name"
until new=$(leader) && [ "$new" != 0 ] && [ "$new" != "$old" ]; do sleep 0.1; done
penstock dev kill storage-3
until ! penstock admin chain list | grep -q '@3:serving'; do sleep 0.1; done
penstock dev start storage-3
wait_complete
penstock dev start "$name"
stop_prober
row "leader of 3 mgmtd ($name), then storage-3 killed" "" "$(since "$begin")" "$stall"
penstock dev down >/dev/null

table
[ "$failed" -eq 0 ] || { echo "FAILED, see above" >&2; exit 1; }
echo "all equal, no error, no stall above $STALL_LIMIT s"
