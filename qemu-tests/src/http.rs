//! Fetches a page, as simply as a browser would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The body of `GET path`, if the server answers 200 within a few seconds.
#[must_use]
pub fn get(address: &str, path: &str) -> Option<Vec<u8>> {
    let address: SocketAddr = format!("{address}:80").parse().ok()?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(answer.get(..end)?).into_owned();
    head.split_whitespace().nth(1).filter(|code| *code == "200")?;
    answer.get(end + 4..).map(<[u8]>::to_vec)
}

/// Waits for a page.
#[must_use]
pub fn wait(address: &str, path: &str, limit: Duration) -> Option<Vec<u8>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(body) = get(address, path) {
            return Some(body);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}
