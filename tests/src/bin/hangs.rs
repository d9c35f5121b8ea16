//! A file system that answers until it is told to hang. `hangs DIRECTORY FILE` mounts itself at DIRECTORY, where `app`
//! is an executable copy of FILE. It prints `mounted`. From the first line of its standard input on it reads questions
//! and answers none, like a server that waits for a network. It ends with its input, or after two minutes; processes
//! that wait for it then get an error.
//!
//! The protocol is the kernel's own, include/uapi/linux/fuse.h, reduced to one read-only file.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io::{BufRead, Read, Write, stdin},
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// Time limit of the program: a failing test must not wait for it forever.
const LIMIT: Duration = Duration::from_secs(120);
const HEAD_BYTES: usize = 40;
/// Size of the largest question: FUSE_MIN_READ_BUFFER, and more than a read-only file system gets.
const MOST_QUESTION_BYTES: usize = 256 << 10;
const ROOT: u64 = 1;
const APP: u64 = 2;
/// Keeps read pages in the page cache (FOPEN_KEEP_CACHE): a process that runs the file continues while the file system
/// hangs.
const KEEP_CACHE: u32 = 1 << 1;

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), Some(file)) = (arguments.next(), arguments.next()) else {
        bail!("hangs DIRECTORY FILE");
    };
    let content = fs::read(&file).context("cannot read the file")?;
    let device = File::options().read(true).write(true).open("/dev/fuse")?;
    let target = CString::new(directory.as_bytes())?;
    mount(&target, &device)?;
    let hangs = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&hangs);
    std::thread::spawn(move || serve(&device, &content, &told));
    println!("mounted");
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            hangs.store(true, Ordering::SeqCst);
        }
        // The receiver waits for this message only.
        let _ = ended.send(());
    });
    let _ = end.recv_timeout(LIMIT);
    // SAFETY: a string that ends in NUL and outlives the call.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    Ok(())
}

fn mount(target: &CStr, device: &File) -> Result<()> {
    let text = |text: &str| CString::new(text).context("a NUL byte");
    let (source, kind) = (text("hangs")?, text("fuse.hangs")?);
    let options = text(&format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other",
        device.as_raw_fd()
    ))?;
    // SAFETY: strings that end in NUL and outlive the call.
    let result = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            libc::MS_RDONLY | libc::MS_NODEV,
            options.as_ptr().cast(),
        )
    };
    if result != 0 {
        bail!("cannot mount: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// Answers until it hangs; then it only reads questions. Ends with the connection.
fn serve(mut device: &File, content: &[u8], hangs: &AtomicBool) {
    let mut question = vec![0; MOST_QUESTION_BYTES];
    loop {
        let length = match device.read(&mut question) {
            Ok(length) if length >= HEAD_BYTES => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            _ => return,
        };
        if hangs.load(Ordering::SeqCst) {
            continue;
        }
        let question = &question[..length];
        let unique = &question[8..16];
        let (error, body) = match answer(question, content) {
            None => continue,
            Some(Ok(body)) => (0, body),
            Some(Err(error)) => (-error, Vec::new()),
        };
        let length = 16 + body.len() as u32;
        let bytes = [&length.to_le_bytes()[..], &error.to_le_bytes(), unique, &body].concat();
        // The asking process may have been killed meanwhile.
        let _ = device.write_all(&bytes);
    }
}

/// Returns the answer to a question; `None` if it needs none.
fn answer(question: &[u8], content: &[u8]) -> Option<Result<Vec<u8>, i32>> {
    let u32_at = |at: usize| {
        question
            .get(at..at + 4)
            .map_or(0, |b| u32::from_le_bytes(b.try_into().unwrap()))
    };
    let u64_at = |at: usize| {
        question
            .get(at..at + 8)
            .map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()))
    };
    let (opcode, node) = (u32_at(4), u64_at(16));
    let size = content.len() as u64;
    Some(match opcode {
        // LOOKUP
        1 if node == ROOT && question[HEAD_BYTES..].starts_with(b"app\0") => Ok([
            &APP.to_le_bytes()[..],
            &0u64.to_le_bytes(),
            // The name is valid for an hour, the attributes for no time.
            &3600u64.to_le_bytes(),
            &[0; 16],
            &attributes(APP, size),
        ]
        .concat()),
        1 => Err(libc::ENOENT),
        // FORGET, INTERRUPT, BATCH_FORGET
        2 | 36 | 42 => return None,
        // GETATTR
        3 => Ok([&[0; 16][..], &attributes(node, size)].concat()),
        // OPEN, OPENDIR
        14 | 27 => Ok([&0u64.to_le_bytes()[..], &KEEP_CACHE.to_le_bytes(), &[0; 4]].concat()),
        // READ
        15 => {
            let begin = u64_at(HEAD_BYTES + 8).min(size) as usize;
            let end = (begin + u32_at(HEAD_BYTES + 16) as usize).min(content.len());
            Ok(content[begin..end].to_vec())
        }
        // STATFS
        17 => Ok(vec![0; 80]),
        // RELEASE, FLUSH, RELEASEDIR, DESTROY
        18 | 25 | 29 | 38 => Ok(Vec::new()),
        // INIT: version 7.31, no flags, reads and writes of 128 KiB.
        26 => {
            let mut out = vec![0; 64];
            out[..4].copy_from_slice(&7u32.to_le_bytes());
            out[4..8].copy_from_slice(&31u32.to_le_bytes());
            out[8..12].copy_from_slice(&(128u32 << 10).to_le_bytes());
            out[20..24].copy_from_slice(&(128u32 << 10).to_le_bytes());
            Ok(out)
        }
        _ => Err(libc::ENOSYS),
    })
}

/// Returns a `struct fuse_attr`.
fn attributes(node: u64, size: u64) -> Vec<u8> {
    let (mode, size) = match node {
        ROOT => (libc::S_IFDIR | 0o755, 0),
        _ => (libc::S_IFREG | 0o755, size),
    };
    let longs = [node, size, size.div_ceil(512), 0, 0, 0];
    let words = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0u32];
    let longs = longs.iter().flat_map(|number| number.to_le_bytes());
    longs
        .chain(words.iter().flat_map(|number| number.to_le_bytes()))
        .collect()
}
