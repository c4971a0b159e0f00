//! A web server for tests: HTTP/1.1 and HTTP/2, in TLS where it is given a
//! certificate and its key, in clear otherwise. It prints `up`, then a line
//! for each request. `/events` waits in its midst for a request of
//! `/release`; `/socket` becomes an echo.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, port, rest @ ..] = &arguments[..] else {
        return Err("usage: web ADDRESS PORT [CERTIFICATE KEY]".into());
    };
    let acceptor = match rest {
        [certificate, key] => Some(acceptor(certificate, key)?),
        _ => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(format!("{address}:{port}")).await?;
        say("up");
        let release = Arc::new(Notify::new());
        loop {
            let (stream, _) = listener.accept().await?;
            let (release, acceptor) = (Arc::clone(&release), acceptor.clone());
            tokio::spawn(async move {
                let served = async {
                    let Some(acceptor) = acceptor else {
                        let mut first = [0; 3];
                        stream.peek(&mut first).await?;
                        return match &first {
                            b"PRI" => http2(stream, release).await,
                            _ => http1(stream, &release).await,
                        };
                    };
                    let stream = acceptor.accept(stream).await?;
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        http2(stream, release).await
                    } else {
                        http1(stream, &release).await
                    }
                };
                // A client that leaves is no failure of the server.
                let _left = served.await;
            });
        }
    })
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[expect(clippy::print_stdout, reason = "its lines are what tests wait for")]
fn say(line: &str) {
    println!("{line}");
}

fn size(path: &str) -> Option<usize> {
    path.strip_prefix("/bytes/")?.parse().ok()
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    release: &Notify,
) -> Result<(), Failure> {
    let (read, mut write) = tokio::io::split(stream);
    let mut read = BufReader::new(read);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if read.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let first = lines.first().cloned().unwrap_or_default();
        say(&first);
        let field = |name: &str| {
            let value = lines.iter().find_map(|line| {
                let (found, value) = line.split_once(": ")?;
                found.eq_ignore_ascii_case(name).then(|| value.to_owned())
            });
            value.unwrap_or_default()
        };
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        if field("expect") == "100-continue" {
            write.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut length: usize = field("content-length").parse().unwrap_or(0);
        let mut heard = length;
        let mut room = vec![0; 65_536];
        while length > 0 {
            let most = length.min(room.len());
            let count = read.read(&mut room[..most]).await?;
            if count == 0 {
                return Ok(());
            }
            length -= count;
        }
        if field("transfer-encoding") == "chunked" {
            loop {
                let mut line = String::new();
                read.read_line(&mut line).await?;
                let count = usize::from_str_radix(line.trim_end(), 16)?;
                let mut chunk = vec![0; count + 2];
                read.read_exact(&mut chunk).await?;
                heard += count;
                if count == 0 {
                    break;
                }
            }
        }
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        match &path[..] {
            "/events" => {
                write.write_all(chunked).await?;
                write.write_all(b"9\r\ndata: 1\n\n\r\n").await?;
                release.notified().await;
                write.write_all(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n").await?;
            }
            "/trailers" => {
                write.write_all(chunked).await?;
                write
                    .write_all(b"3\r\nabc\r\n0\r\nDigest: x\r\n\r\n")
                    .await?;
            }
            "/socket" => {
                let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: \
                            websocket\r\n\r\n";
                write.write_all(head.as_bytes()).await?;
                tokio::io::copy(&mut read, &mut write).await?;
                return Ok(());
            }
            "/hang" => {
                say("hangs");
                // Ends when the client does, one way or another.
                let _gone = read.read(&mut [0]).await;
                say("left");
                return Ok(());
            }
            "/both" => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: \
                            3\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
                write.write_all(head.as_bytes()).await?;
            }
            path => {
                if path == "/hints" {
                    write
                        .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
                        .await?;
                }
                if path == "/release" {
                    release.notify_one();
                }
                let body = match size(path) {
                    Some(size) => vec![b'x'; size],
                    None => format!("{first} {heard}\n").into_bytes(),
                };
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                write.write_all(head.as_bytes()).await?;
                if !first.starts_with("HEAD ") {
                    write.write_all(&body).await?;
                }
            }
        }
        write.flush().await?;
    }
}

async fn http2<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    release: Arc<Notify>,
) -> Result<(), Failure> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        let release = Arc::clone(&release);
        tokio::spawn(async move {
            let path = request.uri().path().to_owned();
            let line = format!("{} {path} HTTP/2", request.method());
            say(&line);
            if request.method() == http::Method::HEAD {
                respond.send_response(Response::new(()), true)?;
                return Ok(());
            }
            let mut body = request.into_body();
            let mut heard = 0;
            while let Some(data) = body.data().await {
                let count = data?.len();
                heard += count;
                body.flow_control().release_capacity(count)?;
            }
            if path == "/hints" {
                let mut interim = Response::new(());
                *interim.status_mut() = StatusCode::EARLY_HINTS;
                respond.send_informational(interim)?;
            }
            let mut answer = respond.send_response(Response::new(()), false)?;
            match &path[..] {
                "/events" => {
                    answer.send_data(Bytes::from_static(b"data: 1\n\n"), false)?;
                    release.notified().await;
                    answer.send_data(Bytes::from_static(b"data: 2\n\n"), true)?;
                }
                "/trailers" => {
                    answer.send_data(Bytes::from_static(b"abc"), false)?;
                    let mut trailers = HeaderMap::new();
                    trailers.insert("digest", HeaderValue::from_static("x"));
                    answer.send_trailers(trailers)?;
                }
                path => {
                    if path == "/release" {
                        release.notify_one();
                    }
                    let body = match size(path) {
                        Some(size) => vec![b'x'; size],
                        None => format!("{line} {heard}\n").into_bytes(),
                    };
                    answer.send_data(Bytes::from(body), true)?;
                }
            }
            Ok::<(), Failure>(())
        });
    }
    Ok(())
}
