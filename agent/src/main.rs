//! The `spoor` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use spoor::{allocator::Allocator, cmd, config::Invocation, process::reader};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() -> ExitCode {
    if reader::is_reader() {
        return reader::serve();
    }
    match Invocation::from_process() {
        Ok(invocation) => cmd::execute(&invocation),
        Err(error) => error.exit(),
    }
}
