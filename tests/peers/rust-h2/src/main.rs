//! The crates h2 and rustls as one end of tunnels: CONNECT over mutual TLS.  It writes one JSON object per line.
//!
//!   rust-h2 serve CERTIFICATE KEY ROOTS PORT STREAMS [REFUSED]      dials what a CONNECT names; at most STREAMS at a time;
//!                                                                   refuses the first REFUSED ones
//!   rust-h2 dial CERTIFICATE KEY ROOTS PORT AUTHORITY COUNT SIZE    COUNT streams at once on one tunnel, each with SIZE
//!                                                                   bytes to an echo and back, half-closing
//!   rust-h2 stall CERTIFICATE KEY ROOTS PORT AUTHORITY SIZE         the same on a stream that isn't read until its window is
//!                                                                   full and another one has come back whole
//!   rust-h2 hold CERTIFICATE KEY ROOTS PORT AUTHORITY SIZE          the same on a stream that is open before GOAWAY comes
//!   rust-h2 cancel CERTIFICATE KEY ROOTS PORT AUTHORITY             resets a stream after a word and its echo
//!   rust-h2 await CERTIFICATE KEY ROOTS PORT AUTHORITY              says a word, and tells with which code the stream is reset
//!   rust-h2 get CERTIFICATE KEY ROOTS PORT                          asks with GET
//!
//! Each end asks with PING when a tunnel begins.

use std::future::poll_fn;
use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream, client, server};
use http::{Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T = ()> = Result<T, Failure>;

const WORD: Bytes = Bytes::from_static(b"hello");
const CHUNK: usize = 64 * 1024;
const WINDOW: u32 = 256 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = run(&words.iter().map(String::as_str).collect::<Vec<_>>()).await {
        println!(r#"{{"error": {:?}}}"#, error.to_string());
        std::process::exit(1);
    }
}

async fn run(words: &[&str]) -> Outcome {
    let [command, certificate, key, roots, port, rest @ ..] = words else {
        return Err("too few words".into());
    };
    let (mutual, port) = (Mutual::read(certificate, key, roots)?, port.parse()?);
    match (*command, rest) {
        ("serve", [streams]) => serve(mutual, port, streams.parse()?, 0).await,
        ("serve", [streams, refused]) => serve(mutual, port, streams.parse()?, refused.parse()?).await,
        ("dial", [authority, count, size]) => dial(mutual, port, authority, count.parse()?, size.parse()?).await,
        ("stall", [authority, size]) => stall(mutual, port, authority, size.parse()?).await,
        ("hold", [authority, size]) => hold(mutual, port, authority, size.parse()?).await,
        ("cancel", [authority]) => cancel(mutual, port, authority).await,
        ("await", [authority]) => await_end(mutual, port, authority).await,
        ("get", []) => get(mutual, port).await,
        _ => Err(format!("{command} isn't known with {} words", rest.len()).into()),
    }
}

struct Mutual {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl Mutual {
    fn read(certificate: &str, key: &str, roots: &str) -> Outcome<Mutual> {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(roots)? {
            store.add(root?)?;
        }
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
        Ok(Mutual { chain, key: PrivateKeyDer::from_pem_file(key)?, roots: Arc::new(store) })
    }

    fn acceptor(self) -> Outcome<TlsAcceptor> {
        let mut config = ServerConfig::builder_with_protocol_versions(&[&TLS13])
            .with_client_cert_verifier(WebPkiClientVerifier::builder(self.roots).build()?)
            .with_single_cert(self.chain, self.key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config).into())
    }

    fn connector(self) -> Outcome<TlsConnector> {
        let mut config = ClientConfig::builder_with_protocol_versions(&[&TLS13])
            .with_root_certificates(self.roots)
            .with_client_auth_cert(self.chain, self.key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config).into())
    }
}

// the end that takes streams

async fn serve(mutual: Mutual, port: u16, streams: u32, refused: usize) -> Outcome {
    let (acceptor, listener) = (mutual.acceptor()?, TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?);
    let (drains, drain) = watch::channel(());
    let mut stop = signal(SignalKind::terminate())?;
    let refusals = Arc::new(AtomicUsize::new(refused));
    println!(r#"{{"listening": {port}}}"#);
    loop {
        tokio::select! {
            socket = listener.accept() => {
                let (socket, acceptor) = (socket?.0, acceptor.clone());
                let (drain, refusals) = (drain.clone(), refusals.clone());
                tokio::spawn(async move {
                    if let Err(error) = tunnel(socket, acceptor, streams, drain, refusals).await {
                        println!(r#"{{"tunnel": {:?}}}"#, error.to_string());
                    }
                });
            }
            _ = stop.recv() => break,
        }
    }
    drop((listener, drain));
    drains.send_replace(());
    drains.closed().await; // each tunnel has ended with its last stream
    Ok(())
}

async fn tunnel(
    socket: TcpStream, acceptor: TlsAcceptor, streams: u32, mut drain: watch::Receiver<()>, refusals: Arc<AtomicUsize>,
) -> Outcome {
    socket.set_nodelay(true)?;
    let tls = acceptor.accept(socket).await?;
    let caller = caller(tls.get_ref().1.peer_certificates())?;
    let mut tunnel = server::Builder::new().max_concurrent_streams(streams).handshake(tls).await?;
    tokio::spawn(ask(tunnel.ping_pong()));
    let mut drains = false;
    loop {
        tokio::select! {
            request = tunnel.accept() => match request {
                Some(request) => take(request?, &caller, &refusals),
                None => return Ok(()),
            },
            _ = drain.changed(), if !drains => {
                drains = true;
                tunnel.graceful_shutdown();
            }
        }
    }
}

fn caller(chain: Option<&[CertificateDer<'_>]>) -> Outcome<String> {
    let [leaf, ..] = chain.unwrap_or_default() else { return Err("no certificate".into()) };
    let leaf = webpki::EndEntityCert::try_from(leaf)?;
    Ok(leaf.valid_uri_names().next().unwrap_or_default().to_owned())
}

fn take(
    (request, mut answer): (Request<RecvStream>, SendResponse<Bytes>), caller: &str, refusals: &AtomicUsize,
) {
    let (head, body) = request.into_parts();
    let authority = head.uri.authority().map(|each| each.to_string()).unwrap_or_default();
    if refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        println!(r#"{{"refused": {authority:?}}}"#);
        answer.send_reset(Reason::REFUSED_STREAM);
        return;
    }
    println!(r#"{{"method": "{}", "authority": {authority:?}, "caller": {caller:?}}}"#, head.method);
    tokio::spawn(async move {
        if let Err(error) = relay(&authority, body, answer).await {
            match error.downcast_ref().and_then(code) {
                Some(code) => println!(r#"{{"reset": {code:?}}}"#),
                None => println!(r#"{{"stream": {:?}}}"#, error.to_string()),
            }
        }
    });
}

/// The code with which the peer has reset a stream, if that is what has happened.
fn code(error: &h2::Error) -> Option<String> {
    let reason = error.reason().filter(|_| error.is_reset() && error.is_remote());
    reason.map(|reason| format!("{reason:?}"))
}

async fn relay(authority: &str, body: RecvStream, mut answer: SendResponse<Bytes>) -> Outcome {
    let Ok(mut application) = TcpStream::connect(authority).await else {
        answer.send_response(with_status(StatusCode::SERVICE_UNAVAILABLE)?, true)?;
        return Ok(());
    };
    application.set_nodelay(true)?;
    let mut stream = answer.send_response(with_status(StatusCode::OK)?, false)?;
    let (from, to) = application.split();
    let done = tokio::try_join!(upwards(body, to), downwards(from, &mut stream));
    if done.is_err() {
        stream.send_reset(Reason::CONNECT_ERROR); // nothing, if it was the peer who has reset it
        application.set_zero_linger()?;
    }
    done.map(|_| ())
}

fn with_status(status: StatusCode) -> Outcome<Response<()>> {
    Ok(Response::builder().status(status).body(())?)
}

async fn upwards(mut body: RecvStream, mut to: WriteHalf<'_>) -> Outcome {
    while let Some(data) = body.data().await {
        let data = data?;
        to.write_all(&data).await?;
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(to.shutdown().await?)
}

async fn downwards(mut from: ReadHalf<'_>, stream: &mut SendStream<Bytes>) -> Outcome {
    let mut data = BytesMut::new();
    loop {
        data.reserve(CHUNK);
        if from.read_buf(&mut data).await? == 0 {
            return Ok(stream.send_data(Bytes::new(), true)?);
        }
        send(stream, data.split().freeze()).await?;
    }
}

// the end that opens them

async fn connected(mutual: Mutual, port: u16) -> Outcome<SendRequest<Bytes>> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    socket.set_nodelay(true)?;
    let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let tls = mutual.connector()?.connect(name, socket).await?;
    let (requests, mut tunnel) = client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW) // one stream that stalls leaves room for another
        .handshake(tls)
        .await?;
    let ping = tunnel.ping_pong();
    tokio::spawn(tunnel);
    ask(ping).await; // after that it is known what the peer allows
    Ok(requests)
}

async fn ask(ping: Option<PingPong>) {
    if let Some(mut ping) = ping {
        let is_answered = ping.ping(Ping::opaque()).await.is_ok();
        println!(r#"{{"is_ping_answered": {is_answered}}}"#);
    }
}

async fn open(requests: &SendRequest<Bytes>, authority: &str) -> Outcome<(SendStream<Bytes>, RecvStream)> {
    let target = Uri::builder().authority(authority).build()?;
    let request = Request::builder().method(Method::CONNECT).uri(target).body(())?;
    let (answer, stream) = requests.clone().ready().await?.send_request(request, false)?;
    let answer = answer.await?;
    if answer.status() != StatusCode::OK {
        return Err(format!("answered with {}", answer.status().as_u16()).into());
    }
    Ok((stream, answer.into_body()))
}

async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Outcome {
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(CHUNK));
        let room = poll_fn(|context| stream.poll_capacity(context)).await.ok_or("the stream has ended")??;
        if room > 0 {
            stream.send_data(data.split_to(room.min(data.len())), false)?;
        }
    }
    Ok(())
}

async fn send_and_end(stream: &mut SendStream<Bytes>, data: Bytes) -> Outcome {
    send(stream, data).await?;
    Ok(stream.send_data(Bytes::new(), true)?)
}

/// Reads to the end, or `size` bytes.
async fn receive(body: &mut RecvStream, size: usize, back: &mut Vec<u8>) -> Outcome {
    while back.len() < size {
        let Some(data) = body.data().await else { return Ok(()) };
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        back.extend_from_slice(&data);
    }
    Ok(())
}

fn noise(size: usize) -> Outcome<Bytes> {
    let mut data = vec![0; size];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut data)?;
    Ok(data.into())
}

fn same(sent: &Bytes, back: &[u8]) -> Outcome {
    if back == sent { Ok(()) } else { Err(format!("{} bytes came back, not what was sent", back.len()).into()) }
}

async fn exchange(requests: &SendRequest<Bytes>, authority: &str, size: usize) -> Outcome {
    let (mut stream, mut body) = open(requests, authority).await?;
    let (sent, mut back) = (noise(size)?, Vec::new());
    tokio::try_join!(send_and_end(&mut stream, sent.clone()), receive(&mut body, usize::MAX, &mut back))?;
    same(&sent, &back)
}

async fn talk(stream: &mut SendStream<Bytes>, body: &mut RecvStream) -> Outcome {
    let mut back = Vec::new();
    send(stream, WORD).await?;
    receive(body, WORD.len(), &mut back).await?;
    same(&WORD, &back)
}

async fn dial(mutual: Mutual, port: u16, authority: &str, count: usize, size: usize) -> Outcome {
    let requests = connected(mutual, port).await?;
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (requests, authority) = (requests.clone(), authority.to_owned());
        all.spawn(async move { exchange(&requests, &authority, size).await });
    }
    let (mut good, mut bad) = (0, String::new());
    for result in all.join_all().await {
        match result {
            Ok(()) => good += 1,
            Err(error) => bad = error.to_string(),
        }
    }
    println!(r#"{{"good": {good}, "last_failure": {bad:?}}}"#);
    Ok(())
}

async fn stall(mutual: Mutual, port: u16, authority: &str, size: usize) -> Outcome {
    let requests = connected(mutual, port).await?;
    let (mut stream, mut body) = open(&requests, authority).await?;
    let sent = noise(size)?;
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move { send_and_end(&mut stream, sent).await }
    });
    let mut back = Vec::new();
    while back.len() < WINDOW as usize {
        back.extend_from_slice(&body.data().await.ok_or("ended early")??); // nothing is released
    }
    exchange(&requests, authority, size / 16).await?;
    let more = poll_fn(|context| Poll::Ready(body.poll_data(context).is_ready())).await;
    println!(r#"{{"unread": {}, "beyond": {more}, "is_all_sent": {}}}"#, back.len(), sending.is_finished());
    body.flow_control().release_capacity(back.len())?;
    receive(&mut body, usize::MAX, &mut back).await?;
    sending.await??;
    same(&sent, &back)?;
    println!(r#"{{"good": 1}}"#);
    Ok(())
}

async fn hold(mutual: Mutual, port: u16, authority: &str, size: usize) -> Outcome {
    let mut requests = connected(mutual, port).await?;
    let (mut stream, mut body) = open(&requests, authority).await?;
    talk(&mut stream, &mut body).await?;
    println!(r#"{{"is_open": true}}"#);
    let goaway = loop {
        if let Err(error) = poll_fn(|context| requests.poll_ready(context)).await {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // h2 wakes nobody at a GOAWAY
    };
    println!(r#"{{"goaway": "{:?}"}}"#, goaway.reason().ok_or("no GOAWAY")?);
    let (sent, mut back) = (noise(size)?, Vec::new());
    tokio::try_join!(send_and_end(&mut stream, sent.clone()), receive(&mut body, usize::MAX, &mut back))?;
    same(&sent, &back)?;
    println!(r#"{{"good": 1}}"#);
    Ok(())
}

async fn cancel(mutual: Mutual, port: u16, authority: &str) -> Outcome {
    let requests = connected(mutual, port).await?;
    let (mut stream, mut body) = open(&requests, authority).await?;
    talk(&mut stream, &mut body).await?;
    stream.send_reset(Reason::CANCEL);
    exchange(&requests, authority, CHUNK).await?; // the tunnel is as good as before
    println!(r#"{{"good": 1}}"#);
    Ok(())
}

async fn await_end(mutual: Mutual, port: u16, authority: &str) -> Outcome {
    let requests = connected(mutual, port).await?;
    let (mut stream, mut body) = open(&requests, authority).await?;
    send(&mut stream, WORD).await?;
    match body.data().await {
        Some(Err(error)) => println!(r#"{{"reset": {:?}}}"#, code(&error).ok_or(error)?),
        Some(Ok(_)) => return Err("there is data".into()),
        None => return Err("it has ended in order".into()),
    }
    Ok(())
}

async fn get(mutual: Mutual, port: u16) -> Outcome {
    let requests = connected(mutual, port).await?;
    let request = Request::get(format!("https://127.0.0.1:{port}/")).body(())?;
    let (answer, _) = requests.ready().await?.send_request(request, true)?;
    println!(r#"{{"status": {}}}"#, answer.await?.status().as_u16());
    Ok(())
}
