//! The load on a server: clients that complete their handshake and ask for a page, and clients that
//! go away in the middle of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, Stream};

/// The server's key that a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    Ec,
    Rsa,
}

#[derive(Clone)]
pub struct Load {
    pub address: SocketAddr,
    /// The server's keys; clients ask for each in turn.
    pub keys: &'static [Key],
    /// How many handshakes are to be completed, and as many more are dropped.
    pub handshakes: usize,
}

/// When a client goes away.
#[derive(Clone, Copy, Debug)]
pub enum LeaveAfter {
    /// It has sent its first flight.
    Hello,
    /// The server's answer to that has begun.
    Answer,
    /// It has sent all, and the server may still be at work.
    Handshake,
}

const LEAVING: [LeaveAfter; 3] = [LeaveAfter::Hello, LeaveAfter::Answer, LeaveAfter::Handshake];

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct Score {
    pub completed: usize,
    pub dropped: usize,
    /// Why handshakes were lost, one line each.
    pub losses: Vec<String>,
    pub elapsed: Duration,
}

/// Clients at the same time: enough for hundreds of jobs to wait, few for the test's own machine.
const CLIENTS: usize = 48;

/// Bytes that a client reads at most.
const MOST_OF_ANSWER: u64 = 4096;

/// How long a client waits for the server; generous, as the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

impl Load {
    /// Runs the load, and `meanwhile` on the calling thread.
    pub fn run<T>(&self, meanwhile: impl FnOnce() -> T) -> (Score, T) {
        let configs = self.configs();
        let score = Mutex::new(Score::default());
        let tickets = AtomicUsize::new(0);
        let start = Instant::now();
        let result = thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    loop {
                        let ticket = tickets.fetch_add(1, Relaxed);
                        if ticket >= 2 * self.handshakes {
                            break;
                        }
                        let (number, stays) = (ticket / 2, ticket.is_multiple_of(2));
                        let config = &configs[number % configs.len()];
                        let end = match stays {
                            true => complete(self.address, config),
                            false => leave(self.address, config, LEAVING[number % LEAVING.len()]),
                        };
                        let mut score = score.lock().expect("nobody panics");
                        match end {
                            Ok(()) if stays => score.completed += 1,
                            Ok(()) => score.dropped += 1,
                            Err(why) => score.losses.push(why.to_string()),
                        }
                    }
                });
            }
            meanwhile()
        });
        let mut score = score.into_inner().expect("nobody panics");
        score.elapsed = start.elapsed();
        (score, result)
    }

    /// One for each key and version of TLS.
    fn configs(&self) -> Vec<Arc<ClientConfig>> {
        let of_key = |key: &Key| [config(*key, &TLS12), config(*key, &TLS13)];
        self.keys.iter().flat_map(of_key).collect()
    }
}

/// Waits until a server that is starting completes a handshake.
pub fn wait_until_served(address: SocketAddr, key: Key) -> Result<(), Failed> {
    let start = Instant::now();
    loop {
        match complete(address, &config(key, &TLS13)) {
            Ok(()) => return Ok(()),
            Err(_) if start.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
            Err(why) => return Err(format!("the server does not answer: {why}").into()),
        }
    }
}

/// Clients with TLS 1.3 that go away: in so many threads, so many one after the other.
pub fn lose_clients(
    address: SocketAddr,
    threads: usize,
    count: usize,
    after: LeaveAfter,
) -> io::Result<()> {
    let config = config(Key::Ec, &TLS13);
    let lose = || (0..count).try_for_each(|_| leave(address, &config, after));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..threads).map(|_| scope.spawn(lose)).collect();
        let mut ends = clients.into_iter().map(|client| client.join());
        ends.try_for_each(|end| end.expect("nobody panics"))
    })
}

fn complete(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<()> {
    let (mut client, mut socket) = (connection(config), connect(address)?);
    let mut stream = Stream::new(&mut client, &mut socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let end = stream.take(MOST_OF_ANSWER).read_to_end(&mut answer);
    // Not every server ends with an alert.
    if answer.starts_with(b"HTTP/1.") {
        return Ok(());
    }
    end?;
    Err(ErrorKind::UnexpectedEof.into())
}

fn leave(address: SocketAddr, config: &Arc<ClientConfig>, after: LeaveAfter) -> io::Result<()> {
    let (mut client, mut socket) = (connection(config), connect(address)?);
    match after {
        LeaveAfter::Handshake => client.complete_io(&mut socket).map(drop),
        LeaveAfter::Hello => client.write_tls(&mut socket).map(drop),
        LeaveAfter::Answer => {
            client.write_tls(&mut socket)?;
            client.read_tls(&mut socket).map(drop)
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A client's side of a connection that has not begun.
pub fn connection(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from("localhost").expect("a valid name");
    ClientConnection::new(Arc::clone(config), name).expect("a valid configuration")
}

/// For clients that ask for this key and speak this version.
pub fn config(key: Key, version: &'static rustls::SupportedProtocolVersion) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier {
        key,
        provider: Arc::clone(&provider),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("ring has both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Takes any certificate, but checks that the server has its key, which is of the wanted kind.
#[derive(Debug)]
struct Verifier {
    key: Key,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        match self.key {
            Key::Ec => vec![SignatureScheme::ECDSA_NISTP256_SHA256],
            // HAProxy looks for the second.
            Key::Rsa => vec![
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PKCS1_SHA256,
            ],
        }
    }
}
