//! Builds the eBPF programs (crate `agent-ebpf`, binary `spoor-ebpf`) and leaves the object at `$OUT_DIR/spoor-ebpf`,
//! where the agent embeds it:
//!
//! ```ignore
//! aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/spoor-ebpf"))
//! ```
//!
//! The compiler is Debian's (`rustc-web`), because it comes with a core library for the BPF target: nothing has to be
//! built from source and no nightly is needed. The linker is bpf-linker, which must use the same LLVM as that
//! compiler. `cargo xtask setup` installs both.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const CARGO: &str = "/usr/bin/cargo";
const RUSTC: &str = "/usr/bin/rustc";
const TARGET: &str = "bpfel-unknown-none";
const SETUP: &str = "Run `cargo xtask setup`: it installs what is missing, or says what to install by hand.";

/// Inherited variables that still count for the inner cargo. All other `CARGO_*` and `RUST*` describe the outer build:
/// its compiler, flags, wrappers (clippy's too) and profile.
const KEPT: [&str; 8] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "RUST_BACKTRACE",
    "RUSTUP_HOME",
];

/// The release profile of the object, whatever the workspace says about the agent's own. BTF is made from the debug
/// information, so nothing may be stripped.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
];

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe eBPF programs were not built: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?).join("..");
    let out = PathBuf::from(variable("OUT_DIR")?);
    for path in ["agent-ebpf/src", "agent-ebpf/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PATH");

    let compiler_llvm = check_compiler()?;
    let linker = find_linker(&root)?;
    for tool in [Path::new(RUSTC), &linker] {
        println!("cargo::rerun-if-changed={}", tool.display());
    }
    if let Some(linker_llvm) = linked_llvm(&linker)
        && linker_llvm != compiler_llvm
    {
        return Err(mismatch(&linker, &linker_llvm, &compiler_llvm));
    }

    // A target directory of its own, for the outer cargo holds the lock on the usual one while this script runs; one for
    // check, clippy, tests and releases, for the object is the same in all of them.
    let shared = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    let target_dir = shared.unwrap_or(&out).join("ebpf");
    let output = inner_cargo(&root, &target_dir, &linker)?
        .output()
        .map_err(|error| format!("cannot start {CARGO}: {error}. {SETUP}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        eprintln!("{messages}");
        if speaks_of_llvm(&messages) {
            let linker_llvm = linked_llvm(&linker).unwrap_or_else(|| "another".to_owned());
            return Err(mismatch(&linker, &linker_llvm, &compiler_llvm));
        }
        return Err(format!("{CARGO} ended with {}; its messages are above.", output.status));
    }
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }

    let object = target_dir.join(TARGET).join("release/spoor-ebpf");
    fs::copy(&object, out.join("spoor-ebpf"))
        .map_err(|error| format!("cannot copy {} to {}: {error}", object.display(), out.display()))?;
    Ok(())
}

/// The inner build's command, with nothing of the outer build in its environment.
fn inner_cargo(root: &Path, target_dir: &Path, linker: &Path) -> Result<Command, String> {
    let mut cargo = Command::new(CARGO);
    for (key, _) in env::vars_os() {
        let Some(name) = key.to_str() else { continue };
        let outer = name.starts_with("CARGO") || name.starts_with("RUST");
        if outer && !KEPT.iter().any(|kept| name.starts_with(kept)) {
            cargo.env_remove(name);
        }
    }
    // The kernel's register layout (`PtRegs`) is that of the machine that the agent is built for.
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
    ];
    cargo
        .current_dir(root)
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--package",
            "agent-ebpf",
            "--bin",
            "spoor-ebpf",
        ])
        .args(["--features", "programs", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .envs(PROFILE)
        .env("RUSTC", RUSTC)
        // aya-ebpf uses `asm_experimental_arch`, and no other crate gets unstable features.
        .env("RUSTC_BOOTSTRAP", "aya_ebpf")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(cargo)
}

/// Makes sure that Debian's compiler is there with a core library for BPF; gives the major version of its LLVM.
fn check_compiler() -> Result<String, String> {
    for tool in [CARGO, RUSTC] {
        if !Path::new(tool).exists() {
            return Err(format!(
                "{tool} (Debian's, package rustc-web or cargo-web) is missing. {SETUP}"
            ));
        }
    }
    let libraries = rustc(&["--print", "target-libdir", "--target", TARGET])?;
    if !Path::new(libraries.trim()).is_dir() {
        return Err(format!(
            "{RUSTC} has no core library for {TARGET} (package libstd-rust-web-dev-bpf): {} is missing. {SETUP}",
            libraries.trim()
        ));
    }
    let version = rustc(&["-vV"])?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))
        .and_then(|llvm| llvm.split('.').next())
        .map(str::to_owned)
        .ok_or_else(|| format!("`{RUSTC} -vV` does not say its LLVM version:\n{version}"))
}

fn rustc(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(RUSTC)
        .args(arguments)
        .output()
        .map_err(|error| format!("cannot start {RUSTC}: {error}. {SETUP}"))?;
    if !output.status.success() {
        let messages = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{RUSTC} {}` failed: {messages}{SETUP}", arguments.join(" ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The bpf-linker that `cargo xtask setup` built for this project, else the one on `PATH` or among cargo's own.
fn find_linker(root: &Path) -> Result<PathBuf, String> {
    let mut folders = vec![root.join(".cache/tools/bin")];
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.extend(env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin")));
    folders.extend(env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin")));
    folders
        .iter()
        .map(|folder| folder.join("bpf-linker"))
        .find(|linker| linker.is_file())
        .ok_or_else(|| format!("bpf-linker is neither in .cache/tools/bin nor on PATH. {SETUP}"))
}

/// The major version of the LLVM library that the linker loads, read from its list of needed libraries; nothing when
/// LLVM is linked into it.
fn linked_llvm(linker: &Path) -> Option<String> {
    let bytes = fs::read(linker).ok()?;
    // Debian names it `libLLVM.so.22.1`, before LLVM 18 `libLLVM-17.so.1`.
    ["libLLVM.so.", "libLLVM-"].iter().find_map(|name| {
        let start = bytes.windows(name.len()).position(|window| window == name.as_bytes())? + name.len();
        let digits: String = bytes[start..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .map(|&byte| byte as char)
            .collect();
        (!digits.is_empty()).then_some(digits)
    })
}

/// What bpf-linker or the loader says when the compiler's bitcode is of another LLVM, or that LLVM is not installed.
fn speaks_of_llvm(messages: &str) -> bool {
    [
        "Unknown attribute kind",
        "Invalid record",
        "Invalid bitcode",
        "Producer: 'LLVM",
        "libLLVM",
    ]
    .iter()
    .any(|text| messages.contains(text))
}

fn mismatch(linker: &Path, linker_llvm: &str, compiler_llvm: &str) -> String {
    format!(
        "LLVM mismatch: {RUSTC} writes LLVM {compiler_llvm} bitcode, but {} reads with LLVM {linker_llvm}. Both must \
         be of the same major version. Remove that bpf-linker, or update the rustc-web packages; then:\n{SETUP}",
        linker.display()
    )
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("cargo did not set {name} for the build script: {error}"))
}
