//! Questions in order, bounded and counted; names of containers that come late.

use std::{fs, path::PathBuf, time::Instant};

use super::*;
use crate::{config, engine::trace::Resource, runtimes::Runtime};

#[test]
fn what_was_learned_of_the_program_before_is_not_said_of_the_new_one() {
    let facts = |tgid, name: &str| {
        Answer::Facts(ProcessFacts {
            tgid,
            runtime: Runtime::Unknown,
            resource: Arc::new(Resource {
                service_name: name.to_owned(),
                attributes: Vec::new(),
            }),
        })
    };
    let reply = |exec, answer| Reply {
        is_asked: true,
        exec,
        answers: vec![answer],
    };
    let names = |answers: Vec<Answer>| -> Vec<String> {
        let name = |answer: &Answer| match answer {
            Answer::Facts(facts) => facts.resource.service_name.clone(),
            Answer::Matched(tgid, _) => format!("selected {tgid}"),
            Answer::Late(tgid, _) => format!("late {tgid}"),
            Answer::Ring => "ring".to_owned(),
            Answer::Seen(_) => "seen".to_owned(),
        };
        answers.iter().map(name).collect()
    };
    let mut lives = Lives::default();
    let exec = Question::Exec {
        tgid: Tgid(7),
        hint: ExecHint::default(),
        provisional: false,
    };
    lives.asked(&Question::Facts {
        tgid: Tgid(7),
        parent: None,
    });
    lives.asked(&exec);
    lives.asked(&exec);
    // The shell that was forked has become another program, twice, before anything was known of it.
    assert_eq!(names(lives.take(reply(None, facts(7, "shell")))), [""; 0]);
    assert_eq!(names(lives.take(reply(None, facts(8, "other")))), ["other"]);
    assert_eq!(names(lives.take(reply(Some(Tgid(7)), facts(7, "env")))), [""; 0]);
    assert_eq!(
        names(lives.take(reply(Some(Tgid(7)), Answer::Matched(Tgid(7), None)))),
        ["selected 7"]
    );
    assert_eq!(names(lives.take(reply(None, facts(7, "shop")))), ["shop"]);
}

/// A process file system with process 1, and a container's process 7 of which the runtime has written nothing yet.
fn container() -> (tempfile::TempDir, PathBuf) {
    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let directory = tempfile::tempdir().unwrap();
    for tgid in [1, 7] {
        let process = directory.path().join(tgid.to_string());
        fs::create_dir(&process).unwrap();
        let stat = format!("{tgid} (x) S 1 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 5 1 2");
        fs::write(process.join("stat"), stat).unwrap();
        fs::write(process.join("cgroup"), format!("0::/system.slice/docker-{ID}.scope\n")).unwrap();
    }
    let state = directory.path().join("1/root/var/lib/docker/containers").join(ID);
    fs::create_dir_all(&state).unwrap();
    (directory, state.join("config.v2.json"))
}

fn next(inspector: &mut Inspector) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = inspector.answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "there is no answer");
        thread::sleep(Duration::from_millis(5));
    }
}

fn name(answer: Answer) -> String {
    match answer {
        Answer::Facts(facts) => facts.resource.service_name.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_container_gets_the_name_that_comes_late() {
    let (directory, state) = container();
    let root = ProcRoot::new(directory.path());
    let mut inspector = Inspector::start(root, Rules::default(), Family::Sock, Waker::new().unwrap()).unwrap();
    inspector.ask(Question::Facts {
        tgid: Tgid(7),
        parent: None,
    });
    assert_ne!(name(next(&mut inspector)), "web");
    fs::write(state, r#"{"Name":"/web"}"#).unwrap();
    assert_eq!(name(next(&mut inspector)), "web");
    inspector.ask(Question::Facts {
        tgid: Tgid(7),
        parent: None,
    });
    assert_eq!(name(next(&mut inspector)), "web");
}

#[test]
fn a_process_whose_containers_name_comes_late_is_selected() {
    let (directory, state) = container();
    let root = ProcRoot::new(directory.path());
    let rules = config::Selection {
        containers: vec!["web".to_owned()],
        ..config::Selection::default()
    };
    let selection = Rules::new(root.clone(), &rules).unwrap();
    let mut inspector = Inspector::start(root, selection, Family::Sock, Waker::new().unwrap()).unwrap();
    inspector.ask(Question::Exec {
        tgid: Tgid(7),
        hint: ExecHint::default(),
        provisional: true,
    });
    assert!(matches!(next(&mut inspector), Answer::Matched(Tgid(7), None)));
    fs::write(state, r#"{"Name":"/web"}"#).unwrap();
    assert!(matches!(next(&mut inspector), Answer::Late(Tgid(7), Rule::Container(name)) if name == "web"));
}

#[test]
fn questions_are_bounded_and_each_of_them_is_counted() {
    let (questions, asked) = mpsc::channel();
    let (reply, replies) = mpsc::channel();
    let mut inspector = Inspector {
        questions,
        replies,
        lives: Lives::default(),
        answers: VecDeque::new(),
        open: 0,
        hints_left_out: 0,
        refused: 0,
        retries_refused: Arc::default(),
    };
    let exec = |tgid| Question::Exec {
        tgid,
        hint: ExecHint {
            comm: "shop".to_owned(),
            ..ExecHint::default()
        },
        provisional: true,
    };
    for tgid in 0..MOST_OPEN as u32 {
        inspector.ask(exec(Tgid(tgid)));
    }
    inspector.ask(exec(Tgid(1_000_000)));
    inspector.ask(Question::Facts {
        tgid: Tgid(7),
        parent: None,
    });
    inspector.ask(Question::Ended(Tgid(8)));
    inspector.ask(Question::Look {
        targets: BTreeSet::new(),
        rules: true,
    });
    let counted = inspector.counters();
    assert_eq!(
        counted,
        [
            ("question_refused", 2),
            ("hint_left_out", (MOST_OPEN - MOST_WITH_HINTS) as u64),
            ("retry_refused", 0)
        ]
    );
    // Nobody waits for a decision for good.
    assert!(matches!(
        inspector.answer(),
        Some(Answer::Matched(Tgid(1_000_000), None))
    ));
    let waiting: Vec<Question> = asked.try_iter().collect();
    assert_eq!(waiting.len(), MOST_OPEN + 1, "the look at all processes is not refused");
    let hinted = |question: &&Question| matches!(question, Question::Exec { hint, .. } if !hint.comm.is_empty());
    assert_eq!(waiting.iter().filter(hinted).count(), MOST_WITH_HINTS);
    for question in &waiting {
        let exec = question.exec();
        reply
            .send(Reply {
                is_asked: true,
                exec,
                answers: Vec::new(),
            })
            .unwrap();
    }
    assert!(inspector.answer().is_none() && inspector.open == 0 && inspector.lives.is_empty());
    inspector.ask(exec(Tgid(9)));
    assert_eq!(inspector.refused(), 2);
}
