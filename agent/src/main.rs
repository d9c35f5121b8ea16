//! The `spoor` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use spoor::{cmd, config::Invocation, process::reader};

/// musl's allocator is slow, and Core makes many small boxes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if reader::is_reader() {
        return reader::serve();
    }
    match Invocation::from_process() {
        Ok(invocation) => cmd::execute(&invocation),
        Err(error) => error.exit(),
    }
}
