//! Programs that trust fsync and check what they read: SQLite and fio.

use std::process::Command;

use tests::{cluster::Cluster, run};

const SQLITE: &str = r"
import sqlite3, sys
path, transactions = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect(path, isolation_level=None)
db.execute('create table t (id integer primary key, word text)')
for k in range(transactions):
    db.execute('begin')
    db.execute('insert into t values (?, ?)', (k, 'w' * (k % 300)))
    if k % 3 == 0:
        db.execute('update t set word = ? where id = ?', ('u' * 50, k // 2))
    db.execute('commit')
db.close()
db = sqlite3.connect(path)
assert db.execute('pragma integrity_check').fetchone() == ('ok',), 'integrity_check'
assert db.execute('select count(*) from t').fetchone() == (transactions,), 'rows'
";

#[test]
fn sqlite_keeps_its_integrity() {
    if !run::installed("python3") {
        return;
    }
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    let path = cluster.mount().join("test.db").display().to_string();
    run::ok("python3", ["-c", SQLITE, &path, "1000"]);
    cluster.remount();
    let check = "import sqlite3, sys; \
        assert sqlite3.connect(sys.argv[1]).execute('pragma integrity_check').fetchone() == ('ok',)";
    run::ok("python3", ["-c", check, &path]);
}

#[test]
fn fio_reads_back_what_it_wrote_at_random() {
    if !run::installed("fio") {
        return;
    }
    let cluster = Cluster::up(&["--storage", "3", "--replicas", "3"]);
    for (name, engine, direct) in [("buffered", "psync", "0"), ("direct", "io_uring", "1")] {
        let mut fio = Command::new("fio");
        fio.arg(format!("--name={name}"))
            .arg(format!("--directory={}", cluster.mount().display()))
            .arg(format!("--ioengine={engine}"))
            .arg(format!("--direct={direct}"))
            .args([
                "--rw=randwrite",
                "--bs=4k",
                "--size=16m",
                "--iodepth=8",
                "--end_fsync=1",
            ])
            // Without the last one fio leaves a file in the working directory.
            .args(["--verify=crc32c", "--verify_fatal=1", "--randseed=7"])
            .arg("--verify_state_save=0");
        run::run(&mut fio).expect_ok("fio --verify");
    }
}
