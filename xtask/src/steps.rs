//! Steps of an installation: they run side by side, each with a log, progress and times.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

/// The work of a step. It writes its output to the log at the given path.
pub type Work<'a> = Box<dyn FnOnce(&Path) -> Result<()> + Send + 'a>;

/// A step, with the steps that must be done before.
pub struct Step<'a> {
    /// Unique among the steps of a run; shown to the user.
    pub name: String,
    /// Names of steps. One that is not among the steps of the run counts as done.
    pub after: Vec<String>,
    /// Processor time on the machine on which it was measured, in seconds.
    pub cpu_seconds: u32,
    /// Work of the step.
    pub work: Work<'a>,
}

/// Steps that take less time are not shown: there was nothing to do.
const SHORT: Duration = Duration::from_secs(1);

/// Returns the minutes that the steps take with two processors, rounded up; 0 for no steps.
///
/// Packages are installed one after the other, so twice the processors is not half the time.
pub fn estimated_minutes(steps: &[Step<'_>]) -> u32 {
    let cpu_seconds: u32 = steps.iter().map(|step| step.cpu_seconds).sum();
    cpu_seconds.div_ceil(2 * 60)
}

#[derive(Default)]
struct State {
    done: BTreeSet<String>,
    failure: Option<anyhow::Error>,
}

/// Runs all steps, each as soon as those before it are done. Prints when each begins and ends, in time since `start`,
/// unless it takes less than a second. After a failure no further step begins.
///
/// # Errors
/// The first failure, with the step's name.
pub fn run(steps: Vec<Step<'_>>, start: Instant, logs: &Path) -> Result<()> {
    fs::create_dir_all(logs).with_context(|| format!("cannot make the folder {}", logs.display()))?;
    let names: BTreeSet<String> = steps.iter().map(|step| step.name.clone()).collect();
    let state = Mutex::new(State::default());
    let changed = Condvar::new();
    std::thread::scope(|scope| {
        for step in steps {
            let (state, changed, names) = (&state, &changed, &names);
            scope.spawn(move || {
                let waits = |state: &mut State| {
                    let open = |name: &String| names.contains(name) && !state.done.contains(name);
                    state.failure.is_none() && step.after.iter().any(open)
                };
                let guard = state.lock().unwrap_or_else(PoisonError::into_inner);
                let guard = changed.wait_while(guard, waits).unwrap_or_else(PoisonError::into_inner);
                if guard.failure.is_some() {
                    return;
                }
                drop(guard);
                let begun = Instant::now();
                let result = announced(&step.name, start, || (step.work)(&log_file(logs, &step.name)));
                let took = begun.elapsed();
                let mut guard = state.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(end) = ending(&step.name, result.is_ok(), took) {
                    println!("{}  {end}", clock(start.elapsed()));
                }
                match result {
                    Ok(()) => {
                        guard.done.insert(step.name.clone());
                    }
                    Err(error) if guard.failure.is_none() => {
                        guard.failure = Some(error.context(format!("{}: failed", step.name)));
                    }
                    // Only the first failure is the cause; the logs of the others stay.
                    Err(_) => {}
                }
                changed.notify_all();
            });
        }
    });
    let state = state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.failure {
        Some(failure) => Err(failure),
        None if state.done.len() == names.len() => Ok(()),
        None => Err(anyhow!("a step did not end")),
    }
}

/// Does the work of a step. Prints that the step has begun once it is no short one.
fn announced<T>(name: &str, start: Instant, work: impl FnOnce() -> T) -> T {
    let begun = clock(start.elapsed());
    // Dropped when the work ends, in whatever way.
    let (works, worked) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if worked.recv_timeout(SHORT) == Err(mpsc::RecvTimeoutError::Timeout) {
                println!("{begun}  {name} …");
            }
        });
        let result = work();
        drop(works);
        result
    })
}

/// Returns what is printed at a step's end; `None`: it was a short one that did not fail.
fn ending(name: &str, is_done: bool, took: Duration) -> Option<String> {
    let seconds = took.as_secs_f64();
    match is_done {
        true => (took >= SHORT).then(|| format!("{name}: done after {seconds:.0} s")),
        false => Some(format!("{name}: FAILED after {seconds:.0} s")),
    }
}

/// Formats minutes and seconds, as ` 3:07`.
pub fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:>3}:{:02}", seconds / 60, seconds % 60)
}

/// Returns the path of a step's log, without characters that need quotes in a shell.
fn log_file(logs: &Path, name: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    logs.join(format!("{}.log", name.chars().map(plain).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use anyhow::bail;

    use super::*;

    fn step<'a>(name: &str, after: &[&str], work: impl FnOnce() -> Result<()> + Send + 'a) -> Step<'a> {
        Step {
            name: name.to_owned(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            cpu_seconds: 50,
            work: Box::new(move |_| work()),
        }
    }

    #[test]
    fn a_step_begins_when_those_before_it_are_done() {
        let order = Mutex::new(Vec::new());
        let note = |name: &'static str| {
            let order = &order;
            move || {
                order.lock().unwrap().push(name);
                Ok(())
            }
        };
        let logs = tempfile::tempdir().unwrap();
        let steps = vec![
            step("c", &["b", "not installed"], note("c")),
            step("b", &["a"], note("b")),
            step("a", &[], note("a")),
        ];
        assert_eq!(estimated_minutes(&steps), 2);
        run(steps, Instant::now(), logs.path()).unwrap();
        assert_eq!(*order.lock().unwrap(), ["a", "b", "c"]);
    }

    #[test]
    fn steps_that_had_nothing_to_do_are_not_shown() {
        let (none, some) = (Duration::from_millis(400), Duration::from_secs(40));
        assert_eq!(ending("build", true, none), None);
        assert_eq!(ending("build", true, some).as_deref(), Some("build: done after 40 s"));
        assert_eq!(ending("build", false, none).as_deref(), Some("build: FAILED after 0 s"));
    }

    #[test]
    fn nothing_begins_after_a_failure() {
        let logs = tempfile::tempdir().unwrap();
        let begun = Mutex::new(false);
        let steps = vec![
            step("first", &[], || bail!("no network")),
            step("second", &["first"], || {
                *begun.lock().unwrap() = true;
                Ok(())
            }),
        ];
        let error = run(steps, Instant::now(), logs.path()).unwrap_err();
        assert_eq!(format!("{error:#}"), "first: failed: no network");
        assert!(!*begun.lock().unwrap());
    }

    #[test]
    fn shown_times_and_log_names() {
        assert_eq!(clock(Duration::from_secs(187)), "  3:07");
        assert_eq!(log_file(Path::new("/l"), "Go 1.26.5"), Path::new("/l/Go-1.26.5.log"));
    }
}
