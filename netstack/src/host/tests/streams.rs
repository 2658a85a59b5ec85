//! Connections as streams of octets.

use super::*;
use embedded_io::{BufRead, ErrorKind, Read, ReadReady, Write, WriteReady};

#[test]
fn a_connection_is_read_and_written_like_any_stream() {
    let (mut server, mut client) = (host(1, 1), host(2, 2));
    server.listen(22, 1, TcpOptions::MANAGEMENT).unwrap();
    let to = client.connect(Ipv4Addr::new(10, 0, 0, 1), 22, TcpOptions::MANAGEMENT).unwrap();
    assert_eq!(client.stream(to).unwrap().write(b"early"), Err(StreamError::Closed), "not open yet");
    let mut random = Random(1);
    let mut now = 0;
    let mut go_on = |client: &mut Host, server: &mut Host| {
        for _ in 0..10 {
            exchange(client, server, now, &mut random, 0);
            now += 50 * MS;
        }
    };
    go_on(&mut client, &mut server);
    let from = server.accept(22).unwrap();

    let mut stream = server.stream(from).unwrap();
    assert_eq!((stream.read(&mut [0; 4]), stream.read_ready()), (Err(StreamError::Empty), Ok(false)));
    assert_eq!(stream.fill_buf(), Err(StreamError::Empty));
    assert_eq!(embedded_io::Error::kind(&StreamError::Empty), ErrorKind::Interrupted);

    let mut stream = client.stream(to).unwrap();
    assert_eq!(stream.write_ready(), Ok(true));
    stream.write_all(b"hello, stream").unwrap();
    stream.flush().unwrap();
    go_on(&mut client, &mut server);
    let mut stream = server.stream(from).unwrap();
    let mut start = [0; 5];
    assert_eq!((stream.read(&mut start), &start), (Ok(5), b"hello"));
    assert_eq!(stream.fill_buf(), Ok(&b", stream"[..]));
    stream.consume(2);
    assert_eq!(stream.fill_buf(), Ok(&b"stream"[..]));
    stream.consume(100);
    assert_eq!((stream.read(&mut start), stream.read(&mut [])), (Err(StreamError::Empty), Ok(0)));

    // Until there is no more room, and then until there is.
    let mut stream = client.stream(to).unwrap();
    while stream.write(&[7; 1000]).is_ok() {}
    assert_eq!((stream.write(&[7]), stream.write_ready()), (Err(StreamError::Full), Ok(false)));
    go_on(&mut client, &mut server);
    assert!(server.read(from, &mut [0; 4000]) > 0);

    client.close(to, 500 * MS);
    let mut total = 0;
    for _ in 0..100 {
        go_on(&mut client, &mut server);
        total += server.read(from, &mut vec![0; 100_000]);
    }
    assert!(total > 0);
    let mut stream = server.stream(from).unwrap();
    assert_eq!((stream.read(&mut start), stream.fill_buf()), (Ok(0), Ok(&[][..])), "the end");
    assert!(server.stream(ConnectionId(77)).is_none());
}
