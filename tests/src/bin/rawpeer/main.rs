//! One end of connections for the raw-socket test. It makes exactly the system calls that it reads, one line of
//! standard input each, and answers each with a line: `ok …`, or `err` and the error number.
//!
//! Sockets have names. Bytes are in hex, several buffers with `,` between them.

mod syscalls;

use std::{
    collections::HashMap,
    io::{BufRead, Write},
    net::SocketAddr,
    os::fd::RawFd,
    sync::mpsc,
    thread::JoinHandle,
    time::Duration,
};

use syscalls::{Address, Errno, PROCESSOR_WORDS, Receiving, Sending};

/// Reason why a command gave no answer.
#[derive(Debug)]
enum Fault {
    /// A system call failed.
    System(Errno),
    /// The command is unknown, or names an object that does not exist.
    Script(String),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

fn script(what: impl Into<String>) -> Fault {
    Fault::Script(what.into())
}

#[derive(Default)]
struct Peer {
    sockets: HashMap<String, RawFd>,
    threads: HashMap<String, JoinHandle<Result<String, Fault>>>,
}

fn main() {
    let mut peer = Peer::default();
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match peer.run(&line) {
            Ok(answer) => format!("ok {answer}"),
            Err(Fault::System(errno)) => format!("err {}", errno.0),
            Err(Fault::Script(what)) => format!("bad {what} in: {line:.80}"),
        };
        // The test has ended.
        if writeln!(output, "{answer}").and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

impl Peer {
    fn run(&mut self, line: &str) -> Result<String, Fault> {
        if let Some(script) = line.strip_prefix("fork ") {
            return self.fork(script);
        }
        if let Some(command) = line.strip_prefix("thread ") {
            let (name, script) = command.split_once(' ').ok_or_else(|| script("no script"))?;
            return self.thread(name, script);
        }
        let words: Vec<&str> = line.split(' ').collect();
        self.open(&words)
    }

    /// Runs a command that makes a socket, or gives one a name; passes on others.
    fn open(&mut self, words: &[&str]) -> Result<String, Fault> {
        match words {
            ["listen", name, address, backlog] => {
                let (fd, bound) = syscalls::listen(&parse_address(address)?, number(backlog)?)?;
                self.name(name, fd);
                Ok(bound)
            }
            ["connect", name, address] => self.connect(name, address, None, false),
            ["connect-from", name, address, local] => self.connect(name, address, Some(local), false),
            ["connect-nonblocking", name, address] => self.connect(name, address, None, true),
            ["connect-by-sending", name, address, bytes] => {
                let (fd, sent) = syscalls::connect_by_sending(&parse_address(address)?, &unhex(bytes)?)?;
                self.name(name, fd);
                Ok(sent?.to_string())
            }
            ["connect-late", name, address] => {
                let (fd, result) = syscalls::connect_late(&parse_address(address)?)?;
                self.name(name, fd);
                Ok(result?.to_string())
            }
            ["fast-open", listener] => Ok(syscalls::fast_open(self.fd(listener)?)?.to_string()),
            ["accept", name, listener, with_flags] => {
                let fd = syscalls::accept(self.fd(listener)?, *with_flags == "accept4")?;
                Ok(self.name(name, fd))
            }
            ["duplicate", how, name, new] => {
                let fd = syscalls::duplicate(self.fd(name)?, parse(how)?)?;
                Ok(self.name(new, fd))
            }
            ["send-fd", name, via] => Ok(syscalls::send_fd(self.fd(via)?, self.fd(name)?)?.to_string()),
            ["receive-fd", name, via] => {
                let fd = syscalls::receive_fd(self.fd(via)?)?;
                Ok(self.name(name, fd))
            }
            _ => self.transfer(words),
        }
    }

    /// Runs a command that moves bytes; passes on others.
    fn transfer(&mut self, words: &[&str]) -> Result<String, Fault> {
        match words {
            ["send", name, how, buffers] => {
                let buffers = buffers.split(',').map(unhex).collect::<Result<Vec<_>, _>>()?;
                let pieces: Vec<&[u8]> = buffers.iter().map(Vec::as_slice).collect();
                Ok(syscalls::send(self.fd(name)?, parse(how)?, &pieces)?.to_string())
            }
            ["receive", name, how, sizes] => {
                let sizes = sizes.split(',').map(number).collect::<Result<Vec<_>, _>>()?;
                Ok(syscalls::receive(self.fd(name)?, parse(how)?, &sizes)?.to_string())
            }
            ["send-all", name, how, piece, repeat, head, unit, tail] => {
                let (fd, how) = (self.fd(name)?, parse(how)?);
                let (unit, repeat) = (unhex(unit)?, number(repeat)?);
                let mut sender = Sender::new(fd, how, number(piece)?);
                sender.put(&unhex(head)?)?;
                for _ in 0..repeat {
                    sender.put(&unit)?;
                }
                sender.put(&unhex(tail)?)?;
                sender.flush()?;
                Ok(sender.sent.to_string())
            }
            ["receive-all", name, how, piece, total, pause_us] => {
                let (fd, how) = (self.fd(name)?, parse(how)?);
                let (total, piece, pause) = (number(total)?, number(piece)?, number(pause_us)?);
                let mut left = total;
                while left > 0 {
                    match syscalls::receive(fd, how, &[piece.min(left)])? {
                        0 => return Err(script(format!("{left} of {total} bytes are missing"))),
                        received => left -= received,
                    }
                    std::thread::sleep(Duration::from_micros(pause as u64));
                }
                Ok(total.to_string())
            }
            ["splice", from, to, bytes] => {
                let (from, to, bytes) = (self.fd(from)?, self.fd(to)?, number(bytes)?);
                Ok(syscalls::splice_through(from, to, bytes)?.to_string())
            }
            ["converse", listener, address, count, pause_us, request, body, answer] => {
                let conversation = Conversation {
                    listener: self.fd(listener)?,
                    address: parse_address(address)?,
                    pause: Duration::from_micros(number(pause_us)? as u64),
                    body: unhex(body)?,
                    answer: unhex(answer)?,
                };
                let (request, count) = (unhex(request)?, number(count)?);
                for index in 0..count {
                    conversation.hold(&numbered(&request, index))?;
                }
                Ok(count.to_string())
            }
            _ => self.control(words),
        }
    }

    /// Runs any other command.
    fn control(&mut self, words: &[&str]) -> Result<String, Fault> {
        match words {
            ["tag-addresses"] => Ok(syscalls::tag_addresses()?.to_string()),
            ["untag-addresses"] => Ok(syscalls::untag_addresses().to_string()),
            // Missing or forbidden processors do not matter.
            ["processors", "all"] => Ok(syscalls::run_on(&[u64::MAX; PROCESSOR_WORDS])?.to_string()),
            ["processors", "first"] => {
                let mut first = false;
                let allowed = syscalls::processors()?;
                let mask = allowed.map(|word| {
                    let lowest = if first { 0 } else { word & word.wrapping_neg() };
                    first |= lowest != 0;
                    lowest
                });
                Ok(syscalls::run_on(&mask)?.to_string())
            }
            ["join", name] => {
                let thread = self.threads.remove(*name);
                let thread = thread.ok_or_else(|| script(format!("no thread {name}")))?;
                thread.join().unwrap_or_else(|_| Err(script("a thread panicked")))
            }
            ["replace", name, by] => Ok(syscalls::replace(self.fd(name)?, self.fd(by)?)?.to_string()),
            ["memory-is-free", name] => Ok(syscalls::memory_is_free(self.fd(name)?)?.to_string()),
            ["upper-layer", name] => Ok(syscalls::kernel_tls(self.fd(name)?)?.to_string()),
            ["shutdown", name] => Ok(syscalls::shutdown(self.fd(name)?, libc::SHUT_WR)?.to_string()),
            ["shutdown-read", name] => Ok(syscalls::shutdown(self.fd(name)?, libc::SHUT_RD)?.to_string()),
            ["shutdown-both", name] => Ok(syscalls::shutdown(self.fd(name)?, libc::SHUT_RDWR)?.to_string()),
            ["reset-on-close", name] => Ok(syscalls::reset_on_close(self.fd(name)?)?.to_string()),
            ["close", name] => {
                let fd = self.fd(name)?;
                self.sockets.remove(*name);
                Ok(syscalls::close(fd)?.to_string())
            }
            ["close-range", name] => {
                let fd = self.fd(name)?;
                self.sockets.remove(*name);
                Ok(syscalls::close_range(fd)?.to_string())
            }
            ["reap", child] => Ok(syscalls::reap(number(child)?)?.to_string()),
            ["sleep", milliseconds] => {
                std::thread::sleep(Duration::from_millis(number(milliseconds)? as u64));
                Ok(String::new())
            }
            _ => Err(script("no such command")),
        }
    }

    fn connect(&mut self, name: &str, address: &str, local: Option<&str>, nonblocking: bool) -> Result<String, Fault> {
        let local = local.map(parse_address).transpose()?;
        let (fd, result) = syscalls::connect(&parse_address(address)?, local.as_ref(), nonblocking)?;
        self.name(name, fd);
        Ok(result?.to_string())
    }

    /// Runs a script in another thread, with the present sockets; `join` returns its last answer. When this returns,
    /// the thread is in its first system call, or has ended.
    fn thread(&mut self, name: &str, script: &str) -> Result<String, Fault> {
        let mut peer = Self {
            sockets: self.sockets.clone(),
            threads: HashMap::new(),
        };
        let lines: Vec<String> = script.split(';').map(str::to_owned).collect();
        let (sender, begun) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // The receiver is gone if starting failed.
            let _ = sender.send(syscalls::thread_id());
            let mut answer = String::new();
            for line in &lines {
                answer = peer.run(line)?;
            }
            Ok(answer)
        });
        let id = begun.recv().map_err(|_| self::script("the thread did not begin"))?;
        while !thread.is_finished() && !syscalls::reads_a_socket(id) {
            std::thread::yield_now();
        }
        self.threads.insert(name.to_owned(), thread);
        Ok(id.to_string())
    }

    /// Runs a script in a child, commands with `;` between them; then the child ends.
    fn fork(&mut self, script: &str) -> Result<String, Fault> {
        let child = syscalls::fork()?;
        if child != 0 {
            return Ok(child.to_string());
        }
        let good = script.split(';').all(|line| self.run(line).is_ok());
        syscalls::exit(i32::from(!good))
    }

    fn name(&mut self, name: &str, fd: RawFd) -> String {
        self.sockets.insert(name.to_owned(), fd);
        fd.to_string()
    }

    fn fd(&self, name: &str) -> Result<RawFd, Fault> {
        self.sockets
            .get(name)
            .copied()
            .ok_or_else(|| script(format!("no socket {name}")))
    }
}

/// Sender of many bytes in pieces of one size, of which it holds no more than one.
struct Sender {
    fd: RawFd,
    how: Sending,
    piece: Vec<u8>,
    piece_bytes: usize,
    sent: usize,
}

impl Sender {
    fn new(fd: RawFd, how: Sending, piece_bytes: usize) -> Self {
        Self {
            fd,
            how,
            piece: Vec::with_capacity(piece_bytes),
            piece_bytes,
            sent: 0,
        }
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.piece_bytes - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == self.piece_bytes {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let mut left = self.piece.as_slice();
        while !left.is_empty() {
            let sent = syscalls::send(self.fd, self.how, &[left])?;
            self.sent += sent;
            left = &left[sent..];
        }
        self.piece.clear();
        Ok(())
    }
}

/// A connection with one exchange and both ends here. The request's body comes in a call of its own.
struct Conversation {
    listener: RawFd,
    address: Address,
    pause: Duration,
    body: Vec<u8>,
    answer: Vec<u8>,
}

impl Conversation {
    fn hold(&self, request: &[u8]) -> Result<(), Fault> {
        let (client, connected) = syscalls::connect(&self.address, None, false)?;
        connected?;
        let server = syscalls::accept(self.listener, true)?;
        for (from, to, bytes) in [
            (client, server, request),
            (client, server, &self.body),
            (server, client, &self.answer),
        ] {
            let sent = syscalls::send(from, Sending::Write, &[bytes])?;
            let received = syscalls::receive(to, Receiving::Read, &[bytes.len()])?;
            if (sent, received) != (bytes.len(), bytes.len()) {
                return Err(script(format!(
                    "sent {sent}, received {received} of {} bytes",
                    bytes.len()
                )));
            }
        }
        syscalls::close(client)?;
        syscalls::close(server)?;
        std::thread::sleep(self.pause);
        Ok(())
    }
}

/// Returns the bytes with a number's digits in the places of `#`.
fn numbered(bytes: &[u8], number: usize) -> Vec<u8> {
    let is_place = |byte: &u8| *byte == b'#';
    let places = bytes.iter().filter(|byte| is_place(byte)).count();
    let text = format!("{number:0places$}");
    let mut digits = text.bytes();
    let digit = |byte: &u8| {
        if is_place(byte) {
            digits.next().unwrap_or(*byte)
        } else {
            *byte
        }
    };
    bytes.iter().map(digit).collect()
}

fn number(word: &str) -> Result<usize, Fault> {
    word.parse().map_err(|_| script(format!("no number {word}")))
}

fn parse<T: std::str::FromStr>(word: &str) -> Result<T, Fault> {
    word.parse().map_err(|_| script(format!("no such way: {word}")))
}

fn parse_address(word: &str) -> Result<Address, Fault> {
    if let Some(path) = word.strip_prefix("unix:") {
        return Ok(Address::Unix(path.to_owned()));
    }
    let ip = |word: &str| {
        word.parse::<SocketAddr>()
            .map_err(|_| script(format!("no address {word}")))
    };
    match word.strip_prefix("mptcp:") {
        Some(rest) => Ok(Address::Multipath(ip(rest)?)),
        None => Ok(Address::Ip(ip(word)?)),
    }
}

fn unhex(digits: &str) -> Result<Vec<u8>, Fault> {
    if digits == "-" {
        return Ok(Vec::new());
    }
    let byte = |at| {
        digits
            .get(at..at + 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    (0..digits.len())
        .step_by(2)
        .map(|at| byte(at).ok_or_else(|| script("no hex")))
        .collect()
}
