//! One handle for each execution and process, for as long as somebody keeps it.

use std::num::NonZeroU64;

use super::*;
use crate::record::Identity;

/// The only execution and process of a registry that was not used.
const NOBODY: (usize, usize) = (1, 1);

fn thread(tgid: u32, tid: u32) -> record::Execution {
    record::Execution {
        tgid: Tgid(tgid),
        tid: Tid(tid),
        identity: None,
    }
}

/// A goroutine on a thread.
fn task(tgid: u32, tid: u32, word: u64, generation: u32) -> record::Execution {
    let identity = NonZeroU64::new(word).map(|word| Identity {
        word,
        generation,
        parent: None,
        source: 0,
    });
    record::Execution {
        identity,
        ..thread(tgid, tid)
    }
}

#[test]
fn the_same_numbers_give_the_same_handle() {
    let mut executions = Executions::default();
    // Several for each place of `recent`.
    let tids = 0..100;
    let first: Vec<_> = tids.clone().map(|tid| executions.execution(&thread(7, tid))).collect();
    let again: Vec<_> = tids.map(|tid| executions.execution(&thread(7, tid))).collect();
    assert_eq!(first, again);
    assert_eq!(executions.len(), (101, 2));
    for (n, execution) in first.iter().enumerate() {
        assert_eq!(executions.get(execution.id), *execution);
        assert_eq!(executions.tgid(execution.process), Tgid(7));
        assert!(first.iter().skip(n + 1).all(|other| other.id != execution.id));
    }
}

#[test]
fn a_thread_is_its_own_execution_and_that_of_its_tasks() {
    let mut executions = Executions::default();
    let tasks = [task(7, 8, 0x1000, 1), task(7, 8, 0x1000, 2), task(7, 8, 0x2000, 1)];
    let [first, later, other] = tasks.map(|numbers| executions.execution(&numbers));
    let own = executions.execution(&thread(7, 8));
    assert_eq!(own.thread, own.id);
    for task in [first, later, other] {
        assert_ne!(task.id, own.id);
        assert_eq!((task.thread, task.process), (own.id, own.process));
    }
    assert_ne!(first.id, later.id, "the word is used again");
    // On another thread it counts as another execution.
    let moved = executions.execution(&task(7, 9, 0x1000, 1));
    assert_ne!((moved.id, moved.thread), (first.id, first.thread));
    assert_eq!(moved.process, first.process);
}

#[test]
fn a_process_has_one_handle_over_exec_and_fork() {
    let mut executions = Executions::default();
    let process = executions.process(Tgid(7));
    let before = executions.execution(&thread(7, 7));
    assert_eq!(before.process, process);
    // exec(2) makes no new numbers; a fork does.
    assert_eq!(executions.execution(&thread(7, 7)), before);
    assert_ne!(executions.process(Tgid(8)), process);
    assert_eq!(executions.without_thread(process).process, process);
}

#[test]
fn numbers_that_are_used_again_after_a_sweep_give_another_handle() {
    let mut executions = Executions::default();
    let before = executions.execution(&thread(7, 7));
    executions.sweep();
    assert_eq!(executions.len(), NOBODY);
    let nobody = executions.nobody(0).execution;
    assert_eq!(executions.get(before.id), nobody);
    assert_eq!(executions.tgid(before.process), Tgid(0));
    let after = executions.execution(&thread(7, 7));
    assert_ne!(after.id, before.id);
    assert_ne!(after.process, before.process);
    assert_eq!(executions.get(before.id), nobody);
}

#[test]
fn a_sweep_leaves_what_is_kept_with_its_thread_and_process() {
    let mut executions = Executions::default();
    let kept = executions.execution(&task(7, 8, 0x1000, 1));
    executions.execution(&task(7, 8, 0x1000, 2));
    executions.execution(&thread(7, 9));
    executions.execution(&thread(6, 6));
    let process = executions.process(Tgid(5));
    executions.keep(kept.id);
    executions.keep_process(process);
    executions.sweep();
    // Nobody, the task, its thread; and the processes of these, and the other one.
    assert_eq!(executions.len(), (3, 3));
    assert_eq!(executions.execution(&task(7, 8, 0x1000, 1)), kept);
    assert_eq!(executions.execution(&thread(7, 8)).id, kept.thread);
    assert_eq!(executions.process(Tgid(5)), process);
    // It is kept in one sweep only.
    executions.sweep();
    assert_eq!(executions.len(), NOBODY);
}

#[test]
fn nobody_is_never_forgotten_and_has_no_thread() {
    let mut executions = Executions::default();
    let nobody = executions.nobody(3);
    assert_eq!(executions.get(nobody.stamp().execution), nobody.execution);
    assert_eq!(executions.execution(&record::Execution::default()), nobody.execution);
    executions.sweep();
    assert_eq!(executions.execution(&record::Execution::default()), nobody.execution);
    let lone = executions.process(Tgid(7));
    let without = executions.without_thread(lone);
    let with = executions.execution(&thread(7, 7));
    for (execution, expected) in [(nobody.execution, false), (without, false), (with, true)] {
        let author = Author { execution, time_ns: 3 };
        assert_eq!(executions.author(author.stamp()), expected.then_some(author));
    }
    assert_eq!(executions.author(Stamp::default()), None);
}

#[test]
fn millions_of_short_lived_executions_stay_below_a_bound() {
    const LONG_LIVED: u32 = 1000;
    let mut executions = Executions::default();
    let kept: Vec<_> = (0..LONG_LIVED)
        .map(|tid| executions.execution(&thread(7, 1 + tid)))
        .collect();
    let mut sweeps = 0;
    for word in 1..=2_000_000 {
        if executions.are_crowded() {
            for execution in &kept {
                executions.keep(execution.id);
            }
            executions.sweep();
            sweeps += 1;
        }
        executions.execution(&task(7, 1, word, 0));
        assert!(executions.executions.len() <= SWEEP_AT);
    }
    assert!(
        sweeps <= 2_000_000 / (SWEEP_AT - LONG_LIVED as usize - 2) + 1,
        "{sweeps}"
    );
    assert!(kept.iter().all(|execution| executions.get(execution.id) == *execution));
}

#[test]
fn many_that_are_kept_make_sweeps_rare() {
    let mut executions = Executions::default();
    let mut sweeps = 0;
    let mut kept = Vec::new();
    for tid in 1..=200_000 {
        if executions.are_crowded() {
            for &id in &kept {
                executions.keep(id);
            }
            executions.sweep();
            sweeps += 1;
        }
        kept.push(executions.execution(&thread(7, tid)).id);
    }
    assert_eq!((executions.len(), sweeps), ((200_001, 2), 4));
}

#[test]
fn sizes() {
    assert_eq!(size_of::<Stamp>(), 16);
    assert_eq!(size_of::<Execution>(), 24);
}
