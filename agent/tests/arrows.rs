//! Holds the imports of the agent to the directions that the design allows.
//!
//! A room is a file or a folder at the top of `agent/src`. The folders of `engine/` are rooms of their own; the folders of
//! `engine/proto/` are the parsers, one protocol each. An arrow leads from a room to each other room that its files name, in
//! a `use` or in a path. Code under `#[cfg(test)]` draws no arrow.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    iter::Peekable,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, TokenStream, TokenTree, token_stream::IntoIter};

/// Arrows that the design forbids, from a room to a room.
const FORBIDDEN: [Arrow<'_>; 8] = [
    ("flow", "causality"),
    ("causality", "flow"),
    ("flow", "trace"),
    ("causality", "proto"),
    // Except from CONVENTIONS.
    ("trace", PARSERS),
    ("causality", "process"),
    ("process", "config"),
    ("config", "trace"),
];

/// Forbidden arrows that are still there, in the order of `FORBIDDEN`.
const STILL_THERE: &[Arrow<'_>] = &[];

/// Rooms that still import each other in a circle, each circle in alphabetical order.
const STILL_CIRCLES: &[&[&str]] = &[];

/// Names the end of an arrow to a module that reads one protocol: a folder of the room `proto`.
const PARSERS: &str = "proto's parsers";

/// The one folder of `trace` that may name the parsers: it says how each protocol's exchange becomes a span.
const CONVENTIONS: [&str; 3] = ["engine", "trace", "conventions"];

/// From a room, to a room.
type Arrow<'a> = (&'a str, &'a str);

/// Path of a module or an item, from the crate's root.
type Place = Vec<String>;

type Tokens = Peekable<IntoIter>;

#[test]
fn forbidden_arrows_are_not_drawn() {
    let agent = Agent::read();
    let drawn = FORBIDDEN.into_iter().filter(|(from, to)| agent.has(from, to));
    let drawn: Vec<_> = drawn.collect();
    let shown = agent.shown(|arrow| drawn.contains(&arrow));
    assert_eq!(
        drawn, STILL_THERE,
        "forbidden arrows, and the files that draw them:\n{shown}"
    );
}

#[test]
fn rooms_import_each_other_in_no_circle() {
    let agent = Agent::read();
    let circles = agent.circles();
    let shown = agent.shown(|(from, to)| {
        let both = |circle: &Vec<&str>| circle.contains(&from) && circle.contains(&to);
        circles.iter().any(both)
    });
    assert_eq!(
        circles, STILL_CIRCLES,
        "arrows in circles, and the files that draw them:\n{shown}"
    );
}

#[test]
fn paths_are_found_in_uses_and_in_code() {
    let modules = [
        "engine",
        "engine::flow",
        "engine::proto",
        "engine::proto::http1",
        "hash",
    ];
    let modules: BTreeSet<Place> = modules.into_iter().map(place).collect();
    let found = |text: &str| {
        let tokens: TokenStream = text.parse().expect("this is Rust");
        let mut reader = Reader::new(&modules, place("engine::flow"));
        reader.read(tokens);
        reader.named.into_iter().map(|path| path.join("::")).collect::<Vec<_>>()
    };
    assert_eq!(
        found("use crate::{engine::{proto::{self, Half}, Workload as W}, hash::*};"),
        ["engine::Workload", "engine::proto", "engine::proto::Half", "hash"]
    );
    assert_eq!(
        found("fn f() { super::proto::http1::f(self.a) }"),
        ["engine::proto::http1::f"]
    );
    assert_eq!(found("mod inner { use super::super::hash; }"), ["engine::hash"]);
    assert_eq!(found("fn f() { say!(\"{}\", crate::hash::f()) }"), ["hash::f"]);
    // No arrows: a test, a doc comment, another crate's module of the same name, a path of a type.
    assert_eq!(
        found("#[cfg(test)] mod tests { use crate::hash; } #[cfg(test)] use crate::hash;"),
        [""; 0]
    );
    assert_eq!(
        found("/// See [`crate::hash`].\nfn f() { other::hash::f(); Self::f() }"),
        [""; 0]
    );

    let mut parent = Reader::new(&modules, place("engine"));
    parent.read(
        "pub use flow::Flow; fn f() { proto::http1::f(); }"
            .parse()
            .expect("this is Rust"),
    );
    let named: Vec<_> = parent.named.iter().map(|path| path.join("::")).collect();
    assert_eq!(named, ["engine::flow::Flow", "engine::proto::http1::f"]);
}

/// The agent's rooms, and the arrows between them.
struct Agent {
    /// Each arrow, with the files that draw it.
    arrows: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Agent {
    /// Reads all files of the library.
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = BTreeMap::new();
        collect(&root, &mut Vec::new(), &mut files);
        let modules: BTreeSet<Place> = files.keys().cloned().collect();
        let folders: BTreeSet<Place> = files
            .iter()
            .filter(|(_, path)| path.ends_with("mod.rs"))
            .map(|(module, _)| module.clone())
            .collect();

        let mut arrows = BTreeMap::<_, BTreeSet<String>>::new();
        for (module, path) in &files {
            let text = fs::read_to_string(path).expect("the file can be read");
            let mut reader = Reader::new(&modules, module.clone());
            reader.read(text.parse().expect("the file is Rust"));
            let from = room(module, &folders);
            let named = path.strip_prefix(&root).unwrap_or(path).display().to_string();
            for place in reader.named {
                for to in ends(&place, module, &folders).into_iter().filter(|to| *to != from) {
                    arrows.entry((from.clone(), to)).or_default().insert(named.clone());
                }
            }
        }
        Self { arrows }
    }

    fn has(&self, from: &str, to: &str) -> bool {
        self.arrows.contains_key(&(from.to_owned(), to.to_owned()))
    }

    /// Returns the sets of rooms that reach each other by arrows.
    fn circles(&self) -> Vec<Vec<&str>> {
        let rooms: BTreeSet<&str> = self.arrows.keys().map(|(from, _)| from.as_str()).collect();
        let reached: BTreeMap<&str, BTreeSet<&str>> = rooms.iter().map(|room| (*room, self.reached(room))).collect();
        let circles = rooms.iter().map(|room| {
            let both = |other: &&&str| reached[*room].contains(**other) && reached[**other].contains(room);
            rooms.iter().filter(both).copied().collect::<Vec<_>>()
        });
        let circles: BTreeSet<Vec<&str>> = circles.filter(|circle| !circle.is_empty()).collect();
        circles.into_iter().collect()
    }

    /// Returns the rooms that a room reaches by one arrow or several.
    fn reached<'a>(&'a self, room: &'a str) -> BTreeSet<&'a str> {
        let (mut reached, mut open) = (BTreeSet::new(), vec![room]);
        while let Some(room) = open.pop() {
            let next = self.arrows.keys().filter(|(from, _)| from == room);
            open.extend(next.map(|(_, to)| to.as_str()).filter(|to| reached.insert(*to)));
        }
        reached
    }

    /// Returns a line for each chosen arrow, with the files that draw it.
    fn shown(&self, chosen: impl Fn(Arrow<'_>) -> bool) -> String {
        let chosen = self.arrows.iter().filter(|((from, to), _)| chosen((from, to)));
        let lines = chosen.map(|((from, to), files)| {
            let files: Vec<&str> = files.iter().map(String::as_str).collect();
            format!("  {from} → {to}: {}\n", files.join(", "))
        });
        lines.collect()
    }
}

/// Returns the room of a module or an item.
fn room(place: &[String], folders: &BTreeSet<Place>) -> String {
    let is_room = |module: &[String]| module[0] == "engine" && folders.contains(module);
    let named = match place {
        [engine, inner, ..] if is_room(&[engine.clone(), inner.clone()]) => inner,
        [room, ..] => room,
        [] => return "the crate".to_owned(),
    };
    named.clone()
}

/// Returns the ends of an arrow to a place: its room, and `PARSERS` if the place is in one.
fn ends(place: &[String], from: &[String], folders: &BTreeSet<Place>) -> Vec<String> {
    let mut ends = vec![room(place, folders)];
    if let [engine, proto, parser, ..] = place
        && (engine.as_str(), proto.as_str()) == ("engine", "proto")
        && folders.contains(&[engine.clone(), proto.clone(), parser.clone()][..])
        && ends[0] != room(from, folders)
        && !from.iter().map(String::as_str).take(CONVENTIONS.len()).eq(CONVENTIONS)
    {
        ends.push(PARSERS.to_owned());
    }
    ends
}

/// Adds the files of a folder, by module. Leaves out lib.rs and main.rs, which may name every room, and tests.
fn collect(folder: &Path, module: &mut Place, files: &mut BTreeMap<Place, PathBuf>) {
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        let name = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
        if name == "tests" || (module.is_empty() && ["main", "lib"].contains(&name.as_str())) {
            continue;
        }
        if name == "mod" {
            files.insert(module.clone(), path);
            continue;
        }
        module.push(name);
        if path.is_dir() {
            collect(&path, module, files);
        } else {
            files.insert(module.clone(), path);
        }
        module.pop();
    }
}

/// Reads the places that a file names.
struct Reader<'a> {
    /// All modules of the crate.
    modules: &'a BTreeSet<Place>,
    /// The module that is being read.
    module: Place,
    named: BTreeSet<Place>,
}

impl<'a> Reader<'a> {
    fn new(modules: &'a BTreeSet<Place>, module: Place) -> Self {
        let named = BTreeSet::new();
        Self { modules, module, named }
    }

    /// Notes the places that `tokens` name outside tests.
    fn read(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        // A name behind `::` belongs to the path of another crate or of a type.
        let mut inside_path = false;
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' && is_cfg_test(&mut tokens) => skip_item(&mut tokens),
                TokenTree::Punct(punct) if punct.as_char() == ':' && takes(&mut tokens, ':') => {
                    inside_path = true;
                    continue;
                }
                TokenTree::Ident(ident) if ident == "mod" => self.read_module(&mut tokens),
                TokenTree::Ident(ident) if !inside_path => {
                    // A name without `::` is no path: a variable, or `pub(crate)`.
                    let path = tokens.peek().is_some_and(|token| is(token, ':'));
                    if let Some(start) = self.start(&ident.to_string()).filter(|_| path) {
                        self.read_path(start, &mut tokens);
                    }
                }
                TokenTree::Group(group) => self.read(group.stream()),
                _ => {}
            }
            inside_path = false;
        }
    }

    /// Reads the inline module behind the word `mod`, if it is one.
    fn read_module(&mut self, tokens: &mut Tokens) {
        let Some(TokenTree::Ident(name)) = tokens.next() else {
            return;
        };
        if let Some(TokenTree::Group(body)) = tokens.peek() {
            let body = body.stream();
            tokens.next();
            self.module.push(name.to_string());
            self.read(body);
            self.module.pop();
        }
    }

    /// Returns the place that a path's first name stands for, if it is one of this crate.
    fn start(&self, name: &str) -> Option<Place> {
        match name {
            "crate" => Some(Place::new()),
            "self" => Some(self.module.clone()),
            "super" => Some(self.module[..self.module.len() - 1].to_vec()),
            child => {
                let child = [&self.module[..], &[child.to_owned()]].concat();
                self.modules.contains(&child).then_some(child)
            }
        }
    }

    /// Notes the places of a path or a tree of paths. `place` stands for its first name, which has been read.
    fn read_path(&mut self, mut place: Place, tokens: &mut Tokens) {
        while takes(tokens, ':') {
            takes(tokens, ':');
            match tokens.peek() {
                Some(TokenTree::Ident(name)) => step(&mut place, &name.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.read_branches(&place, group.stream());
                    tokens.next();
                    return;
                }
                // `::*`, or the `::<` of type arguments.
                _ => break,
            }
            tokens.next();
        }
        self.named.insert(place);
    }

    /// Notes the places of the branches `{a, b::c, self, *}` behind a place.
    fn read_branches(&mut self, place: &Place, branches: TokenStream) {
        let mut tokens = branches.into_iter().peekable();
        while let Some(token) = tokens.next() {
            let mut place = place.clone();
            if let TokenTree::Ident(name) = token {
                step(&mut place, &name.to_string());
            }
            self.read_path(place, &mut tokens);
            // A branch may end in `as Name`.
            while tokens.next().is_some_and(|token| !is(&token, ',')) {}
        }
    }
}

/// Follows one name of a path.
fn step(place: &mut Place, name: &str) {
    match name {
        "self" => {}
        "super" => {
            place.pop();
        }
        name => place.push(name.to_owned()),
    }
}

/// Skips the attribute behind a `#`; returns whether it is `#[cfg(test)]`.
fn is_cfg_test(tokens: &mut Tokens) -> bool {
    takes(tokens, '!');
    let attribute = tokens.next().map(|token| token.to_string()).unwrap_or_default();
    attribute.replace(' ', "") == "[cfg(test)]"
}

/// Skips an item, a field or a variant.
fn skip_item(tokens: &mut Tokens) {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => is(token, ';') || is(token, ','),
    };
    while tokens.next().is_some_and(|token| !ends(&token)) {}
}

fn is(token: &TokenTree, char: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == char)
}

/// Skips a character if it is the next token; returns whether it was.
fn takes(tokens: &mut Tokens, char: char) -> bool {
    tokens.next_if(|token| is(token, char)).is_some()
}

fn place(path: &str) -> Place {
    path.split("::").map(str::to_owned).collect()
}
