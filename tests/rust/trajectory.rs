//! Round trips, versions, and files whose writers were killed, ran out of disk space, or belong to another run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use agentdistill::action::{ActionFormat, parse_action};
use agentdistill::formats::read_trajectories;
use agentdistill::observation::{Observation, ToolCall};
use agentdistill::trajectory::{
    Candidate, Outcome, Sampling, Step, Trajectory, TrajectoryKind, TrajectoryWriter, VERSION, read_header,
};
use proptest::prelude::*;
use tempfile::tempdir;

fn trajectory(task_id: &str) -> Trajectory {
    Trajectory {
        version: VERSION,
        task_id: task_id.to_owned(),
        question: "What is 6 times 7?".to_owned(),
        reference: Some("42".to_owned()),
        aliases: vec![],
        task_set: String::new(),
        kind: TrajectoryKind::Agent,
        model: String::new(),
        messages: vec![("user".to_owned(), "What is 6 times 7?".to_owned())],
        steps: vec![],
        outcome: Outcome::FinalAnswer,
        answer: Some("42".to_owned()),
        score: Some(1.0),
        grader: None,
        error: None,
        sampling: Sampling::default(),
        usage: (0, 0),
        seconds: 0.0,
    }
}

fn write(path: &Path, run: &str, ids: &[&str]) {
    let mut writer = TrajectoryWriter::open(path, run).unwrap();
    let trajectories: Vec<Trajectory> = ids.iter().map(|id| trajectory(id)).collect();
    writer.append(&trajectories.iter().collect::<Vec<_>>()).unwrap();
}

fn ids(path: &Path) -> Vec<String> {
    read_trajectories(path).unwrap().into_iter().map(|trajectory| trajectory.task_id).collect()
}

prop_compose! {
    fn observations()(stdout in any::<String>(), value in any::<Option<String>>(), error in any::<Option<String>>(),
            truncated in any::<u32>(), seconds in 0.0..1e6, call in any::<(String, Option<String>)>()) -> Observation {
        let (name, result) = call;
        let call = ToolCall { name, arguments: "[[],{}]".into(), result, error: error.clone(), seconds };
        let (truncated, tool_calls) = (truncated as usize, vec![call]);
        Observation { stdout, value, error, truncated, seconds, tool_calls, ..Observation::default() }
    }
}

prop_compose! {
    fn candidates()(text in any::<String>(), prefix in any::<String>(), reasoning in any::<String>(),
            token_ids in any::<Option<Vec<u32>>>(),
            logprobs in prop::option::of(prop::collection::vec(-1e3..0.0, 0..9)),
            finish_reason in any::<Option<String>>(), observation in prop::option::of(observations())) -> Candidate {
        let code = format!("{text}\n```py\n{prefix}\n```");
        let action = Some(parse_action(if text.len() % 2 == 0 { &text } else { &code }, ActionFormat::Code));
        Candidate { text, prefix, reasoning, token_ids, logprobs, finish_reason, action, observation }
    }
}

prop_compose! {
    fn trajectories()(task_id in any::<String>(), question in any::<String>(), answer in any::<Option<String>>(),
            score in prop::option::of(-1e9..1e9), error in any::<Option<String>>(), seconds in 0.0..1e9,
            usage in any::<(u64, u64)>(), temperature in 0.0..2.0, aliases in any::<Vec<String>>(), messages in any::<Vec<(String, String)>>(),
            steps in prop::collection::vec((prop::collection::vec(candidates(), 1..4), any::<Vec<(String, u16)>>(),
                any::<Option<Vec<u8>>>()), 0..4),
            ) -> Trajectory {
        let steps = steps.into_iter().map(|(candidates, votes, state)| Step {
            winner: candidates.len() - 1, candidates, prompt_token_ids: None, message: question.clone(), state, seconds,
            model_seconds: seconds / 2.0, cached_tokens: usage.0,
            votes: votes.into_iter().map(|(outcome, votes)| (outcome, votes.into())).collect(),
        }).collect();
        let temperature = serde_json::Value::from(temperature);
        let sampling = serde_json::Map::from_iter([("temperature".to_owned(), temperature)]).into();
        Trajectory {
            question, answer, aliases, score, error, seconds, usage, messages, steps, sampling, ..trajectory(&task_id)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn json_round_trips(trajectory in trajectories()) {
        let json = trajectory.to_json();
        prop_assert!(!json.contains('\n'), "one line");
        prop_assert_eq!(&Trajectory::from_json(&json).unwrap(), &trajectory);
        let laid_out = serde_json::to_string_pretty(&trajectory).unwrap();
        prop_assert_eq!(Trajectory::from_json(&laid_out).unwrap().to_json(), json);
    }

    /// If a writer is killed at any byte, readers see the whole lines, and the next writer continues after them.
    #[test]
    fn a_torn_file_heals(cut in 0..2000usize) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        write(&path, "{}", &["a", "b", "c"]);
        let whole = fs::read(&path).unwrap();
        let cut = cut % (whole.len() + 1);
        fs::write(&path, &whole[..cut]).unwrap();
        let lines = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
        // A line that lacks only its newline is whole.
        let complete = lines + usize::from(lines > 0 && whole.get(cut) == Some(&b'\n'));
        let kept = ["a", "b", "c"][..complete.saturating_sub(1)].to_vec();
        prop_assert_eq!(ids(&path), kept.clone());
        let writer = TrajectoryWriter::open(&path, "{}").unwrap();
        let missing: Vec<&str> = ["a", "b", "c"].into_iter().filter(|id| !writer.done().contains(*id)).collect();
        prop_assert_eq!(writer.done().len(), kept.len());
        drop(writer);
        write(&path, "{}", &missing);
        prop_assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

#[test]
fn numbers_that_json_cannot_say_are_read_back_as_nan() {
    let candidate = Candidate {
        text: String::new(),
        prefix: String::new(),
        token_ids: None,
        logprobs: Some(vec![-0.5, f64::NEG_INFINITY]),
        reasoning: String::new(),
        finish_reason: None,
        action: None,
        observation: None,
    };
    let step = Step {
        candidates: vec![candidate],
        winner: 0,
        votes: vec![],
        prompt_token_ids: None,
        message: String::new(),
        state: None,
        seconds: f64::NAN,
        model_seconds: f64::NAN,
        cached_tokens: 0,
    };
    let read = Trajectory::from_json(&Trajectory { steps: vec![step], ..trajectory("a") }.to_json()).unwrap();
    let logprobs = read.steps[0].candidates[0].logprobs.clone().unwrap();
    assert!(logprobs[0] == -0.5 && logprobs[1].is_nan() && read.steps[0].seconds.is_nan());
}

#[test]
fn a_run_goes_on_only_as_itself() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let run = r#"{"model":"m","n":8,"temperature":0.4}"#;
    write(&path, run, &["a"]);
    write(&path, r#"{"temperature": 0.4, "model": "m", "n": 8}"#, &["b"]);
    assert_eq!(read_header(&path).unwrap().as_deref(), Some(run));
    let refused = |run: &str| TrajectoryWriter::open(&path, run).unwrap_err().to_string();
    let message = refused(r#"{"model": "other", "n": 8, "k": 3}"#);
    let differing = r#"k (there absent, now 3), model (there "m", now "other"), temperature (there 0.4, now absent)"#;
    assert!(message.contains(differing), "{message}");
    assert!(refused("[]").starts_with("run is not a JSON object"));

    let mut writer = TrajectoryWriter::open(&path, run).unwrap();
    assert!(refused(run).contains("another process is writing"));
    let (b, c) = (trajectory("b"), trajectory("c"));
    assert!(writer.append(&[&c, &b]).unwrap_err().to_string().contains("task \"b\" is already in"));
    assert!(writer.append(&[&c, &c]).unwrap_err().to_string().contains("task \"c\" is already in"));
    assert_eq!(ids(&path), ["a", "b"], "none of a refused call is written");
    writer.append(&[&c]).unwrap();
    assert_eq!(ids(&path), ["a", "b", "c"]);
}

#[test]
fn files_that_are_not_ours() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let header = r#"{"agentdistill":"trajectories","version":1,"run":{}}"#;
    let line = trajectory("a").to_json();
    let newer = line.replace("\"version\":1", "\"version\":2");
    let cases = [
        (format!("{header}\nnot json\n{line}\n"), ":2: not a trajectory: expected"),
        (format!("{header}\n{line}\n{{}}\n"), ":3: not a trajectory: missing field"),
        (
            format!("{newer}\n"),
            ":1: not a trajectory: it is of version 2, and this agentdistill reads versions up to 1",
        ),
        (format!("{}\n", header.replace(":1,", ":9,")), ":1: not a trajectory: it is of version 9"),
        (format!("{}\n", header.replace("trajectories", "tasks")), ":1: this is a file of tasks, not of trajectories"),
    ];
    for (content, message) in cases {
        fs::write(&path, content).unwrap();
        for error in [read_trajectories(&path).unwrap_err(), TrajectoryWriter::open(&path, "{}").unwrap_err()] {
            assert!(error.to_string().contains(&format!("t.jsonl{message}")), "{error}");
        }
    }

    let step = r#""steps":[{"candidates":[{"text":"t","action":{"code":"x"}}]}]"#;
    let error = Trajectory::from_json(&line.replace(r#""steps":[]"#, step)).unwrap_err();
    assert!(error.to_string().contains("an action has a thought, and a failure to parse one a kind"), "{error}");

    let step = r#""steps":[{"candidates":[{"text":"t"}],"winner":1,"votes":[],"message":"","seconds":0}]"#;
    let error = Trajectory::from_json(&line.replace(r#""steps":[]"#, step)).unwrap_err().to_string();
    assert!(error.contains("the winner of step 1 is 1, but there are 1 candidates"), "{error}");
    let deep = format!(r#""sampling":{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let error = Trajectory::from_json(&line.replace(r#""sampling":{}"#, &deep)).unwrap_err().to_string();
    assert!(error.contains("recursion limit exceeded"), "{error}");
    let lone = Trajectory::from_json(&line.replace("What is", r"\ud83d \ud83d\ude00")).unwrap();
    assert!(lone.question.starts_with("\u{fffd} \u{1f600}"), "{}", lone.question);

    // Files without a header, or concatenated from several files, can be read. Writing requires a header that names the
    // run.
    fs::write(&path, format!("{line}\n{header}\n\n{line}")).unwrap();
    assert_eq!(ids(&path), ["a", "a"]);
    assert_eq!(read_header(&path).unwrap(), None);
    assert!(TrajectoryWriter::open(&path, "{}").unwrap_err().to_string().contains("has no header line"));
    assert!(read_trajectories(&folder.path().join("absent")).unwrap_err().to_string().contains("absent: No such file"));
}

/// A refused file keeps every byte. Only the end of a file with a header of the same run may be cut off, and only a
/// header without a line after it may be replaced.
#[test]
fn a_refused_file_keeps_every_byte() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let header = r#"{"agentdistill":"trajectories","version":1,"run":{}}"#;
    let other = header.replace("{}", r#"{"n":8}"#);
    let line = trajectory("a").to_json();
    let half = &line[..line.len() / 2];
    let refused = [
        r#"{"accuracy": 0.93, "weeks": true}"#.to_owned(),
        r#"{"accuracy": [0.93, "#.to_owned(),
        "important, and no newline".to_owned(),
        "-----BEGIN".to_owned(),
        "\n\n".to_owned(),
        " ".to_owned(),
        "{\n".to_owned(),
        half.to_owned(),
        format!("{line}\n{half}"),
        format!("{other}\n{half}"),
        format!("{header}\n{{\"accuracy\": 0.93}}"),
        format!("{header}\n{line}\nimportant, and no newline"),
        format!("{}\n{half}", header.replace("trajectories", "tasks")),
    ];
    // A compressed file can be read but not appended to.
    let compressed = zstd::bulk::compress(format!("{header}\n{line}\n").as_bytes(), 1).unwrap();
    for content in refused.into_iter().map(String::into_bytes).chain([compressed]) {
        fs::write(&path, &content).unwrap();
        assert!(TrajectoryWriter::open(&path, "{}").is_err(), "{}", content.escape_ascii());
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    assert_eq!(ids(&path), ["a"]);
    let cut = [
        (&header[..20], vec![]),
        (&header[..5], vec![]),
        (header, vec![]),
        (&*other, vec![]), // its run failed before its first trajectory
        (&*format!("{header}\n{line}\n{half}"), vec!["a"]),
        (&*format!("{header}\n{line}\n{half}\0\0\0"), vec!["a"]),
        (&*format!("{header}\n{line}"), vec!["a"]),
    ];
    for (content, done) in cut {
        fs::write(&path, content).unwrap();
        assert_eq!(TrajectoryWriter::open(&path, "{}").unwrap().done().iter().collect::<Vec<_>>(), done, "{content}");
        assert!(fs::read_to_string(&path).unwrap().starts_with(&format!("{header}\n")), "{content}");
        assert_eq!(ids(&path), done);
    }
}

/// Uses more than one block of lines, so that a block ends in the middle of a line.
#[test]
fn large_files_are_read_in_order() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("t.jsonl");
    let expected: Vec<String> = (0..400).map(|number| number.to_string()).collect();
    let long: Vec<Trajectory> =
        expected.iter().map(|id| Trajectory { question: id.repeat(50_000), ..trajectory(id) }).collect();
    TrajectoryWriter::open(&path, "{}").unwrap().append(&long.iter().collect::<Vec<_>>()).unwrap();
    assert!(fs::metadata(&path).unwrap().len() > 40 << 20);
    assert_eq!(ids(&path), expected);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{}\n").unwrap();
    assert!(read_trajectories(&path).unwrap_err().to_string().contains("t.jsonl:402: "));
}
