//! Spans in a file of OTLP JSON that an agent writes.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read as _},
    path::PathBuf,
};

/// Text that each span has once: a parent's id has another name.
const MARK: &[u8] = b"\"spanId\":";

/// Counter of a file's spans. The file is removed with this value.
pub struct SpanFile {
    path: PathBuf,
    file: Option<File>,
    /// The end of what was read, shorter than the mark, which may go on in what comes.
    tail: Vec<u8>,
    spans: u64,
}

impl SpanFile {
    /// Counts the spans of a file that an agent will create.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            tail: Vec::new(),
            spans: 0,
        }
    }

    /// Returns the number of spans so far. A file that cannot be read has no more of them, which is said.
    pub fn count(&mut self) -> u64 {
        if let Err(error) = self.read()
            && error.kind() != ErrorKind::NotFound
        {
            eprintln!("cannot read the spans in {}: {error}", self.path.display());
        }
        self.spans
    }

    /// Reads what was appended since the last call.
    fn read(&mut self) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::open(&self.path)?),
        };
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            self.tail.extend_from_slice(&buffer[..read]);
            self.spans += self.tail.windows(MARK.len()).filter(|text| *text == MARK).count() as u64;
            self.tail.drain(..self.tail.len().saturating_sub(MARK.len() - 1));
        }
    }
}

impl Drop for SpanFile {
    fn drop(&mut self) {
        // The agent may have failed before it created the file.
        if let Err(error) = fs::remove_file(&self.path)
            && error.kind() != ErrorKind::NotFound
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn spans_are_counted_as_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spans.jsonl");
        let mut counted = SpanFile::new(path.clone());
        assert_eq!(counted.count(), 0);
        let mut file = File::create(&path).unwrap();
        let mut write = |text: &str| file.write_all(text.as_bytes()).unwrap();
        write("{\"spanId\":\"a1\",\"parentSpanId\":\"b2\"},{\"spa");
        assert_eq!(counted.count(), 1);
        assert_eq!(counted.count(), 1);
        write("nId\":\"c3\"}\n");
        assert_eq!(counted.count(), 2);
        drop(counted);
        assert!(!path.exists());
    }
}
