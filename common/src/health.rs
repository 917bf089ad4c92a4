//! Asks a process's admin port (`http`) whether it is ready.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::env::Env;

/// A process that takes longer to say how it is, is not well.
const LIMIT: Duration = Duration::from_secs(1);
/// No health answer is longer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What a process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It works.
    Ready,
    /// Its own words why not.
    NotReady(String),
    /// It does not answer; why.
    Silent(String),
}

/// Asks `/healthz` at `address`.
pub async fn ask(env: &Env, address: &str) -> Health {
    match env.timeout(LIMIT, fetch(address)).await {
        Err(_) => Health::Silent(format!("its admin port {address} does not answer in time")),
        Ok(Err(error)) => {
            Health::Silent(format!("its admin port {address} does not answer: {error}"))
        }
        Ok(Ok(answer)) => parse(&answer),
    }
}

async fn fetch(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn parse(answer: &str) -> Health {
    let status = answer.split(' ').nth(1).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match status {
        "200" => Health::Ready,
        "503" => {
            let reasons: Vec<&str> = body.lines().map(str::trim).collect();
            Health::NotReady(reasons.join("; "))
        }
        _ => Health::Silent(
            "its admin port is answered by something that is not Penstock".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        assert_eq!(parse("HTTP/1.1 200 OK\r\n\r\nready\n"), Health::Ready);
        assert_eq!(
            parse("HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nraft: no leader\nkv: closed\n"),
            Health::NotReady("raft: no leader; kv: closed".to_owned())
        );
        assert!(matches!(parse("220 ftp ready"), Health::Silent(_)));
        assert!(matches!(parse(""), Health::Silent(_)));
    }
}
