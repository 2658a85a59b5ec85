//! `redoubt exporter`: one scrape is one look at each node.
//!
//! Spec: RFC 9112 as far as a GET without a body needs it; every answer ends its
//! connection.

use crate::arguments::Global;
use crate::scope::{Scope, targets};
use mgmt_proto::code::{Code, Failure};
use redoubt::cards;
use redoubt::exit;
use redoubt::fleet::Target;
use redoubt::metrics::{self, CONTENT_TYPE, Polled};
use redoubt::top::Sample;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Most bytes of a request.
const REQUEST_BYTES: u64 = 8 * 1024;
/// How long a client may take for each step.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most clients at a time.
const CLIENTS: usize = 8;
/// How long a node may take, unless told otherwise: less than Prometheus waits.
const NODE_TIMEOUT_SECONDS: u64 = 5;

pub(crate) fn run(global: &Global, listen: &str) -> Result<(), Failure> {
    let nodes = targets(global, Some("@all"))
        .or_else(|failure| if failure.code == Code::NotFound { targets(global, None) } else { Err(failure) })?
        .nodes;
    let mut global = global.clone();
    global.timeout.get_or_insert(NODE_TIMEOUT_SECONDS);
    let listener = TcpListener::bind(listen)
        .map_err(|error| exit::usage(listen, error.to_string(), "name another address with --listen"))?;
    let address = listener.local_addr().map_or_else(|_| listen.into(), |address| address.to_string());
    log::info!("counters of {} nodes at http://{address}/metrics", nodes.len());
    let clients = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
                clients.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            scope.spawn(|| {
                // A client that goes away is no fault.
                let _ = serve(stream, &global, &nodes);
                clients.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(())
}

fn serve(mut stream: TcpStream, global: &Global, nodes: &[Target]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(CLIENT_TIMEOUT))?;
    stream.set_write_timeout(Some(CLIENT_TIMEOUT))?;
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let count = stream.read(&mut buffer)?;
        request.extend(buffer.iter().take(count));
        if count == 0 || request.len() as u64 > REQUEST_BYTES || Instant::now() > deadline {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&request);
    let mut words = text.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => ("200 OK", CONTENT_TYPE, metrics::text(&poll(global, nodes))),
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "Counters are at /metrics.\n".into()),
        _ => ("405 Method Not Allowed", "text/plain", "GET /metrics\n".into()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    stream.flush()
}

/// Looks at all nodes at the same time.
fn poll(global: &Global, nodes: &[Target]) -> Vec<Polled> {
    let look = |target: &Target| {
        let start = Instant::now();
        let taken = Scope { global, target, dry_run: false, is_alone: false }
            .open()
            .and_then(|mut connection| Ok((Sample::take(&mut connection)?, cards::ask(&mut connection))));
        if let Err(failure) = &taken {
            log::info!("{}: {failure}", target.name);
        }
        let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (sample, cards) = taken.ok().unzip();
        Polled { node: target.name.clone(), sample, cards: cards.unwrap_or_default(), elapsed_ms }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = nodes.iter().map(|node| scope.spawn(move || look(node))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}
