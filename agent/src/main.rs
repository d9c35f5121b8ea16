//! The `spoor` command.

fn main() {}
