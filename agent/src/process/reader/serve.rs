//! The reader's side: answers questions from a pipe.

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
};

use super::Question;
use crate::process::ProcRoot;

/// Name that the program is started by as a reader, and its `comm`.
pub(in crate::process) const NAME: &str = "spoor-reader";
/// First bytes that a reader writes: another program that was started in its place writes something else.
pub(super) const GREETING: &[u8] = b"spoor-reader 1\n";
/// Upper bound on bytes of an encoded question.
const MOST_QUESTION_BYTES: usize = 8192;

/// First byte of a piece of an answer.
pub(super) mod tag {
    /// The reader still works.
    pub const ALIVE: u8 = 0;
    /// The answer was found: 4 bytes of length and the data follow.
    pub const FOUND: u8 = 1;
    /// There is no answer: it cannot be read.
    pub const NOTHING: u8 = 2;
}

/// Returns true if this process was started as a reader.
pub fn is_reader() -> bool {
    env::args_os().next().is_some_and(|name| name == NAME)
}

/// Answers questions from standard input until that ends.
pub fn serve() -> ExitCode {
    // If that fails, the process is named after the link that it was started by, which does no harm.
    let _ = nix::sys::prctl::set_name(c"spoor-reader");
    let (stdin, mut stdout) = (io::stdin().lock(), io::stdout().lock());
    match answer_all(stdin, &mut stdout, &ProcRoot::default()) {
        Ok(()) => ExitCode::SUCCESS,
        // The agent is gone.
        Err(_) => ExitCode::FAILURE,
    }
}

fn answer_all(mut questions: impl Read, answers: &mut impl Write, root: &ProcRoot) -> io::Result<()> {
    answers.write_all(GREETING)?;
    answers.flush()?;
    loop {
        let mut length = [0; 4];
        if questions.read_exact(&mut length).is_err() {
            return Ok(());
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MOST_QUESTION_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        questions.read_exact(&mut bytes)?;
        let question = Question::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
        let answer = question.answer(root, &mut || {
            // An error is ignored here: if the agent is gone, writing the answer fails, too.
            let _ = answers.write_all(&[tag::ALIVE]).and_then(|()| answers.flush());
        });
        match answer {
            Some(bytes) => {
                let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
                answers.write_all(&[&[tag::FOUND], &length.to_le_bytes()[..]].concat())?;
                answers.write_all(&bytes)?;
            }
            None => answers.write_all(&[tag::NOTHING])?,
        }
        answers.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn asked(questions: &[Question], root: &ProcRoot) -> Vec<u8> {
        let mut bytes = Vec::new();
        for question in questions {
            let encoded = question.encode().unwrap();
            bytes.extend((encoded.len() as u32).to_le_bytes());
            bytes.extend(encoded);
        }
        let mut answers = Vec::new();
        answer_all(bytes.as_slice(), &mut answers, root).unwrap();
        answers
    }

    #[test]
    fn each_question_has_its_answer() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("7")).unwrap();
        fs::write(directory.path().join("7/cmdline"), "a\0b\0").unwrap();
        let root = ProcRoot::new(directory.path());
        let answers = asked(&[Question::CommandLine(7), Question::CommandLine(8)], &root);
        assert_eq!(answers, [GREETING, b"\x01\x04\0\0\0a\0b\0", b"\x02"].concat());
    }

    #[test]
    fn what_is_no_question_ends_it() {
        let mut answers = Vec::new();
        let root = ProcRoot::new("/nonexistent");
        assert!(answer_all(&b"\xff\xff\xff\xff"[..], &mut answers, &root).is_err());
        assert!(answer_all(&b"\x01\0\0\0\x09"[..], &mut answers, &root).is_err());
        assert!(answer_all(&b"\x01\0"[..], &mut answers, &root).is_ok());
    }
}
