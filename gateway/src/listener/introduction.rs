//! What a proxy says of a connection before it hands it over (PROXY protocol, versions 1 and 2).

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::{io::AsyncReadExt as _, net::TcpStream};

/// Reads whose connection it is. `None`: the proxy looks after us by it, or does not tell whose it is.
///
/// Not a byte more is read: what comes behind is the client's.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut first = [0; SIGNATURE.len()];
    stream.read_exact(&mut first).await?;
    if first == *SIGNATURE {
        return read_block(stream).await;
    }
    let mut line = first.to_vec();
    while line.starts_with(b"PROXY ") && !line.ends_with(b"\n") && line.len() < LONGEST_LINE {
        read_on(stream, &mut line).await?;
    }
    introduced(&line).ok_or_else(malformed)
}

/// Reads more of a `line`, as far as it is here and not beyond its end.
async fn read_on(stream: &mut TcpStream, line: &mut Vec<u8>) -> io::Result<()> {
    let mut more = vec![0; LONGEST_LINE.saturating_sub(line.len())];
    let here = stream.peek(&mut more).await?;
    if here == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let end = more.iter().take(here).position(|byte| *byte == b'\n');
    more.truncate(end.map_or(here, |end| end + 1));
    stream.read_exact(&mut more).await?;
    line.append(&mut more);
    Ok(())
}

/// Whom a line of version 1 introduces, if it is one.
fn introduced(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = line.strip_prefix("PROXY ")?.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, _, port, _) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let address = match family {
        "TCP4" => IpAddr::V4(source.parse().ok()?),
        "TCP6" => IpAddr::V6(source.parse().ok()?),
        _ => return None,
    };
    let is_plain = port.bytes().all(|byte| byte.is_ascii_digit()) && words.next().is_none();
    is_plain.then_some(Some(SocketAddr::new(address, port.parse().ok()?)))
}

/// Whom a block of version 2 introduces. What it tells besides is not read.
async fn read_block(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_BLOCK {
        return Err(malformed());
    }
    let mut block = vec![0; length];
    stream.read_exact(&mut block).await?;
    let source = match (command, family) {
        (PROXY, TCP4) => source::<4>(&block),
        (PROXY, TCP6) => source::<16>(&block),
        (LOCAL | PROXY, _) => return Ok(None),
        _ => None,
    };
    source.map(Some).ok_or_else(malformed)
}

/// The first of two addresses, and the first of the two ports behind them.
fn source<const LENGTH: usize>(block: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; LENGTH]>,
{
    let (address, rest) = block.split_first_chunk::<LENGTH>()?;
    let (_, ports) = rest.split_first_chunk::<LENGTH>()?;
    let (port, _) = ports.split_first_chunk().filter(|_| ports.len() >= 4)?;
    Some(SocketAddr::new(IpAddr::from(*address), u16::from_be_bytes(*port)))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no introduction")
}

/// What version 2 begins with: no protocol of any client.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version and command.
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Family and transport.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// Bytes of version 1 at most.
const LONGEST_LINE: usize = 107;

/// Bytes of version 2 behind its head: addresses, and what proxies like to add.
const LONGEST_BLOCK: usize = 2048;

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[tokio::test]
    async fn a_client_is_introduced_and_not_a_byte_of_its_own_is_read() {
        for (said, source) in [
            (line("TCP4 192.0.2.1 198.51.100.1 4711 443"), Some("192.0.2.1:4711")),
            (line("TCP6 2001:db8::1 2001:db8::2 4711 443"), Some("[2001:db8::1]:4711")),
            (line("UNKNOWN"), None),
            (line("UNKNOWN ffff::1 ffff::2 1 2"), None),
            (block(PROXY, TCP4, &ADDRESSES), Some("192.0.2.1:4711")),
            (block(PROXY, TCP4, &[&ADDRESSES[..], &[4, 0, 1, 0]].concat()), Some("192.0.2.1:4711")),
            (block(PROXY, TCP6, &[&[0x20; 32][..], &ADDRESSES[8..]].concat()), Some(TWENTIES)),
            (block(LOCAL, TCP4, &ADDRESSES), None),
            (block(LOCAL, 0, b""), None),
            (block(PROXY, 0, b""), None),
        ] {
            let sent = [&said[..], b"GET /"].concat();
            for parts in [vec![&sent[..]], sent.chunks(7).collect()] {
                let (read, rest) = introduce(&parts).await;
                assert_eq!(read.unwrap(), source.map(|source| source.parse().unwrap()), "{said:?}");
                assert_eq!(rest, b"GET /", "{said:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_introduction_is_refused() {
        for said in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\n".to_vec(),
            line("TCP4 192.0.2.1 198.51.100.1 4711"),
            line("TCP4 192.0.2.1 198.51.100.1 4711 443 1"),
            line("TCP4 2001:db8::1 2001:db8::2 4711 443"),
            line("TCP6 192.0.2.1 198.51.100.1 4711 443"),
            line("TCP4 192.0.2.1 198.51.100.1 +471 443"),
            line("TCP4 192.0.2.1 198.51.100.1 65536 443"),
            line("TCP4  192.0.2.1 198.51.100.1 4711 443"),
            line("UDP4 192.0.2.1 198.51.100.1 4711 443"),
            line(&"x".repeat(200)),
            block(0x31, TCP4, &ADDRESSES),
            block(0x22, TCP4, &ADDRESSES),
            block(PROXY, TCP4, &ADDRESSES[..11]),
            block(PROXY, TCP6, &ADDRESSES),
            block(PROXY, TCP4, &[0; 2049]),
            SIGNATURE.to_vec(),
            b"PROXY".to_vec(),
        ] {
            let (read, _) = introduce(&[&said]).await;
            assert!(read.is_err(), "{said:?}: {read:?}");
        }
    }

    /// What is read of `parts` that come one by one, and what is left.
    async fn introduce(parts: &[&[u8]]) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        proxy.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let says = async {
            for part in parts {
                proxy.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            proxy.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(read(&mut stream), says);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        (read, rest)
    }

    fn line(words: &str) -> Vec<u8> {
        format!("PROXY {words}\r\n").into_bytes()
    }

    fn block(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, block].concat()
    }

    /// From 192.0.2.1:4711 to 198.51.100.1:443.
    const ADDRESSES: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];

    const TWENTIES: &str = "[2020:2020:2020:2020:2020:2020:2020:2020]:4711";
}
