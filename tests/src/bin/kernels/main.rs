//! Features of the running kernel: the cases of the raw-socket test and some more, with each result on a line. `cargo
//! xtask kernels` runs this in virtual machines, and on the host.
//!
//! `whole`, the default: everything. `preempt`: only the parts that differ where the kernel preempts everywhere.
//! `withheld`: as on kernels that lack something. All other arguments are roles of this program's own children.

mod bpf;
mod features;
mod killed;
mod lossy;
mod threads;
mod withheld;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use features::Report;
use spoor::process::reader;

fn main() -> ExitCode {
    // The agent of `withheld` starts its readers from the program that it runs in.
    if reader::is_reader() {
        return reader::serve();
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] | ["whole"] => suite(true),
        ["preempt"] => suite(false),
        ["withheld"] => withheld::each_in_turn().map(|count| {
            println!("{count} programs and fields, each withheld in turn");
            true
        }),
        ["agent", hooks, kind, name, file, selection @ ..] => {
            withheld::agent(hooks, kind, name, file, selection).map(|()| true)
        }
        ["hammer"] => bpf::hammer().map(|()| true),
        _ => Err(anyhow::anyhow!("no such part: {words:?}")),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether nothing failed.
fn suite(whole: bool) -> Result<bool> {
    let mut report = Report::default();
    if whole {
        features::raw(&mut report);
    }
    report.feature("threads and their calls", threads::exact);
    report.feature("beside a process that calls bpf(2) all the time", lossy::hammered);
    report.feature("killed, nothing is left", killed::nothing_left);
    Ok(report.all_good())
}

/// Returns the path of a program in this one's folder.
fn beside(name: &str) -> Result<PathBuf> {
    let path = own_path()?.with_file_name(name);
    ensure!(path.is_file(), "there is no {}: build it", path.display());
    Ok(path)
}

fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("cannot tell where this program is")
}
