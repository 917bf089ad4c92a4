//! A port that somebody else has.

use std::{fs, net::TcpListener, process::Command};

use tests::{binary, cluster::Cluster, run};

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    for role in ["mgmtd", "meta", "storage"] {
        let dir = tempfile::tempdir_in(binary::scratch()).expect("a directory can be made");
        let path = dir.path().join("config.toml");
        let manager = if role == "mgmtd" {
            ""
        } else {
            "mgmtd = [\"127.0.0.1:1\"]\n"
        };
        let text = format!(
            "node_id = 1\nlisten = \"{address}\"\nadmin_listen = \"127.0.0.1:0\"\ndata = \"{}\"\n{manager}",
            dir.path().join("data").display()
        );
        fs::write(&path, text).expect("a file can be written");
        let mut command = Command::new("timeout");
        command
            .arg("20")
            .arg(binary::path())
            .args([role, "--config"])
            .arg(&path);
        run::run(&mut command).expect_error(1, &[&address, "already in use"]);
    }
}

#[test]
fn dev_up_names_the_service_whose_port_is_taken() {
    let cluster = Cluster::up(&["--storage", "1", "--replicas", "1"]);
    let address = cluster.service("meta-1").address;
    cluster.dev(&["down"]).expect_ok("dev down");
    let taken = TcpListener::bind(&address).expect("the port is free after dev down");
    let ended = cluster.dev_up(&[]);
    ended.expect_error(1, &["meta-1", &address, "already in use"]);
    drop(taken);
    cluster
        .dev_up(&[])
        .expect_ok("dev up once the port is free");
}
