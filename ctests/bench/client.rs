//! The client of the benchmarked TLS servers: one thread that keeps so many connections in flight.
//! Each is a handshake, a request, and its answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use harness::servers::load::{Key, config, connection};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection};
use serde::{Deserialize, Serialize};

/// How long answers took, from the connection's beginning, in microseconds.
#[derive(Serialize, Deserialize)]
pub struct Latency {
    pub median: f64,
    pub percentile_99: f64,
}

struct Client {
    socket: TcpStream,
    tls: ClientConnection,
    began: Instant,
    /// When the answer came.
    answered: Option<Instant>,
}

impl Client {
    fn new(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let mut tls = connection(config);
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        tls.writer().write_all(request)?; // sent when the handshake is complete
        Ok(Self {
            socket: TcpStream::connect(address)?,
            tls,
            began: Instant::now(),
            answered: None,
        })
    }

    /// Goes on as far as the socket allows; true when the server has answered and closed.
    fn go_on(&mut self) -> io::Result<bool> {
        loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.socket) {
                    Err(why) if would_block(&why) => break,
                    written => written?,
                };
            }
            match self.tls.read_tls(&mut self.socket) {
                Err(why) if would_block(&why) => return Ok(false),
                Err(why) if self.answered.is_none() => return Err(why),
                Ok(0) | Err(_) if self.answered.is_some() => return Ok(true),
                Ok(0) | Err(_) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
            }
            self.tls.process_new_packets().map_err(io::Error::other)?;
            let mut answer = [0; 512];
            if matches!(self.tls.reader().read(&mut answer), Ok(1..)) {
                self.answered.get_or_insert_with(Instant::now);
            }
        }
    }
}

fn would_block(why: &io::Error) -> bool {
    matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// The main function of the client's process.
pub fn serve(address: SocketAddr, in_flight: usize, count: usize) -> io::Result<()> {
    let latency = load(address, in_flight, count)?;
    println!("{}", ron::to_string(&latency).expect("it is plain data"));
    Ok(())
}

fn load(address: SocketAddr, in_flight: usize, count: usize) -> io::Result<Latency> {
    /// Clients that begin together, so that the server's queue of new connections never overflows.
    const MOST_BEGINNING: usize = 256;
    let config = config(Key::Ec, &TLS13);
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut clients: Vec<Option<Client>> = (0..in_flight.min(count)).map(|_| None).collect();
    let mut idle: Vec<usize> = (0..clients.len()).rev().collect();
    let (mut begun, mut microseconds) = (0, Vec::new());
    while microseconds.len() < count {
        for _ in 0..MOST_BEGINNING.min(count - begun).min(idle.len()) {
            let place = idle.pop().expect("there are as many");
            let mut client = Client::new(address, &config)?;
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry()
                .register(&mut client.socket, Token(place), both)?;
            clients[place] = Some(client);
            begun += 1;
        }
        match poll.poll(&mut events, None) {
            Err(why) if why.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let Token(place) = event.token();
            let Some(client) = &mut clients[place] else {
                continue;
            };
            if client.go_on()? {
                let took = client.answered.map(|answered| answered - client.began);
                microseconds.extend(took.map(|took| took.as_secs_f64() * 1e6));
                clients[place] = None;
                idle.push(place);
            }
        }
    }
    microseconds.sort_by(f64::total_cmp);
    let quantile = |part: f64| microseconds[(part * (microseconds.len() - 1) as f64) as usize];
    Ok(Latency {
        median: quantile(0.5),
        percentile_99: quantile(0.99),
    })
}
