//! Questions about new programs that have no reply yet, so that facts of an earlier program are not reported for the
//! present one.

use std::collections::HashMap;

use super::{Answer, Question, Reply};
use crate::record::Tgid;

/// Filter for facts of a process from before its present program. Replies come in the order of the questions.
#[derive(Default)]
pub(super) struct Lives {
    /// Questions about a new program that have no reply yet, by process.
    awaited: HashMap<Tgid, u32>,
}

impl Lives {
    /// Notes a question that is being asked.
    pub(super) fn asked(&mut self, question: &Question) {
        if let Question::Exec { tgid, .. } = question {
            *self.awaited.entry(*tgid).or_default() += 1;
        }
    }

    /// Returns the answers of a reply that are about the present program.
    pub(super) fn take(&mut self, reply: Reply) -> Vec<Answer> {
        let Reply {
            is_asked: _,
            exec,
            mut answers,
        } = reply;
        if let Some(tgid) = exec
            && let Some(awaited) = self.awaited.get_mut(&tgid)
        {
            *awaited -= 1;
            if *awaited == 0 {
                self.awaited.remove(&tgid);
            }
        }
        answers.retain(|answer| match answer {
            Answer::Facts(facts) => !self.awaited.contains_key(&Tgid(facts.tgid)),
            Answer::Matched(..) | Answer::Late(..) | Answer::Seen(_) | Answer::Ring => true,
        });
        answers
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.awaited.is_empty()
    }
}
