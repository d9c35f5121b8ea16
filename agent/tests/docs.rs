//! Compares docs/ with the code, and holds doc comments to a form.
//!
//! docs/loss.md explains each counter that there is, and none that there is not.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use agent_ebpf::abi::Counter;
use spoor::{
    config::{Command, Invocation},
    engine::Core,
    metrics::Metrics,
    preflight::capability::{CAPABILITIES, Capability},
};

/// Words that begin no doc comment: its first line is to name the item's subject or its action.
const NO_SUBJECTS: [&str; 10] = [
    "What", "It", "Its", "Of", "These", "They", "That", "Those", "Who", "Whose",
];

/// The folders whose doc comments are held to that, from the root of the workspace.
const DOCUMENTED: [&str; 5] = ["agent-ebpf", "agent/src", "agent/tests", "tests", "xtask"];

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/loss.md");
    fs::read_to_string(path).expect("docs/loss.md can be read")
}

/// The names in the first column of the tables of a section.
fn explained(page: &str, section: &str) -> BTreeSet<String> {
    let heading = format!("\n## {section}\n");
    let (_, rest) = page.split_once(&heading).expect("the section is there");
    let section = rest.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    cells
        .flat_map(|cell| cell.split("`, `"))
        .map(|name| name.trim_end_matches('`').to_owned())
        .collect()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

#[test]
fn each_counter_of_the_kernel_side() {
    let counted = names(Counter::ALL.iter().map(|counter| counter.name()));
    assert_eq!(explained(&page(), "Kernel side"), counted);
}

#[test]
fn each_counter_of_core() {
    let invocation = Invocation::new(["spoor".into(), "run".into()], |_| None).expect("the defaults are valid");
    let Command::Run(settings) = invocation.command else {
        panic!("this is spoor run");
    };
    let core = Core::new(&settings.trace.core, 0);
    let counted = names(core.counters().into_iter().map(|(name, _)| name));
    assert_eq!(explained(&page(), "Core"), counted);
}

#[test]
fn each_counter_of_the_export() {
    let (page, text) = (page(), Metrics::default().render());
    let mut causes = BTreeSet::new();
    let mut metrics = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        match line.split_once("{cause=\"") {
            Some((_, rest)) => causes.extend(rest.split('"').next().map(str::to_owned)),
            None => metrics.extend(line.split(['{', ' ']).next().map(str::to_owned)),
        }
    }
    assert_eq!(explained(&page, "Export"), causes);
    let told = explained(&page, "Levels and progress");
    let missing: Vec<_> = metrics.difference(&told).collect();
    assert_eq!(missing, Vec::<&String>::new(), "docs/loss.md says nothing of them");
}

#[test]
fn each_capability() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/capabilities.md");
    let page = fs::read_to_string(path).expect("docs/capabilities.md can be read");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `CAP_"));
    let cells = rows.map(|row| {
        row.split(" | ")
            .map(|cell| cell.trim_matches('`').to_owned())
            .take(2)
            .collect()
    });
    let explained: Vec<Vec<String>> = cells.collect();
    let used = CAPABILITIES.iter().map(|capability| {
        let name = capability.name.trim_start_matches("CAP_");
        vec![name.to_owned(), capability.kernels.to_owned()]
    });
    assert_eq!(explained, used.collect::<Vec<_>>());
    assert!(page.contains(&format!("setcap {}+ep", Capability::setcap_list())));
}

#[test]
fn doc_comments_begin_with_a_subject_or_a_verb() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in DOCUMENTED {
        rust_files(&root.join(folder), &mut files);
    }
    let mut wrong = String::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("the file can be read");
        let lines: Vec<Option<&str>> = text.lines().map(doc_line).collect();
        for (index, line) in lines.iter().enumerate() {
            let begins = index.checked_sub(1).is_none_or(|before| lines[before].is_none());
            let word = line.and_then(|line| line.split(|c: char| !c.is_alphanumeric()).next());
            if begins && word.is_some_and(|word| NO_SUBJECTS.contains(&word)) {
                wrong += &format!("{}:{}: {}\n", file.display(), index + 1, line.unwrap_or_default());
            }
        }
    }
    assert!(files.len() > 100, "{files:?}");
    assert!(wrong.is_empty(), "first lines that do not stand alone:\n{wrong}");
}

fn doc_line(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("///").or(line.strip_prefix("//!")).map(str::trim)
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        // Corpora hold tens of thousands of inputs, target directories other crates.
        if path.is_dir() && !path.ends_with("corpus") && !path.ends_with("target") {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
