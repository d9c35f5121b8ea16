//! Traces for people: [`Printer`] collects spans to traces, and prints each trace as a tree with bars.
//!
//! [`crate::traces`] assembles the traces, [`render()`] draws them. Only [`Printer`] has a thread, a clock and a stream.

mod printer;
mod render;
mod row;
mod text;

pub use printer::Printer;
pub use render::{Style, render};
pub use text::printable;

#[cfg(test)]
mod tests;
