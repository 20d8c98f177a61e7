//! Round trips through each format keep what the format can represent. Anything else is an error with its line number.

use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use agentdistill::Error;
use agentdistill::action::{Action, ActionFormat, Parsed, parse_action};
use agentdistill::formats::{Conversion, Counts, Format, read_trajectories};
use agentdistill::observation::{Observation, ObservationKind};
use agentdistill::trajectory::{Candidate, Outcome, Sampling, Step, Trajectory, TrajectoryKind, VERSION, read_header};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::tempdir;

fn convert(inputs: &[PathBuf], output: &Path, from: Option<Format>, to: Format) -> agentdistill::Result<Counts> {
    let mut conversion = Conversion::new(inputs, output, from, to, Map::new())?;
    while conversion.step()? {}
    Ok(conversion.counts())
}

fn turn(thought: &str, code: &str) -> String {
    format!("Thought: {thought}\nCode:\n```py\n{code}\n```<end_code>")
}

fn step(text: &str, message: &str, answer: Option<&str>) -> Step {
    let kind = if answer.is_some() { ObservationKind::FinalAnswer } else { ObservationKind::Value };
    let final_answer = answer.map(str::to_owned);
    let observation = Some(Observation { kind, final_answer, ..Observation::default() });
    let other = candidate("Another one.", None);
    Step {
        candidates: vec![other, candidate(text, observation)],
        winner: 1,
        votes: vec![("42".into(), 2)],
        prompt_token_ids: None,
        message: message.to_owned(),
        state: None,
        seconds: 0.5,
        model_seconds: 0.0,
        cached_tokens: 0,
    }
}

fn candidate(text: &str, observation: Option<Observation>) -> Candidate {
    Candidate {
        text: text.to_owned(),
        prefix: String::new(),
        token_ids: None,
        logprobs: None,
        reasoning: String::new(),
        finish_reason: None,
        action: Some(parse_action(text, ActionFormat::Code)),
        observation,
    }
}

/// Words that have no special meaning in a completion.
fn words() -> impl Strategy<Value = String> {
    "[a-zé\"\\\\{}\\[\\],]{1,8}( [a-z0-9ü'\"\\\\{}]{1,8}){0,4}"
}

prop_compose! {
    fn trajectories()(task_id in words(), question in words(), answer in words(), reference in prop::option::of(words()),
            system in prop::option::of(words()), score in prop::option::of(0.0..1.0), usage in any::<(u32, u32)>(),
            steps in prop::collection::vec((words(), words(), words()), 0..4), given in 0..2usize) -> Trajectory {
        let given = given.min(steps.len());
        let steps: Vec<Step> = steps
            .iter()
            .map(|(thought, code, told)| step(&turn(thought, &format!("x = {code:?}\nprint(x)")), &format!("Observation:\n{told}"), None))
            .chain([step(&turn("Done.", "final_answer(x)"), "", Some(&answer))])
            .collect();
        let mut sampling = Sampling::default();
        if given > 0 {
            sampling.settings_mut().insert("given_steps".into(), given.into());
        }
        Trajectory {
            version: VERSION, task_id, reference, aliases: vec![], task_set: "set".into(), kind: TrajectoryKind::Agent,
            model: "teacher".into(),
            messages: system.map(|system| ("system".into(), system)).into_iter().chain([("user".into(), question.clone())]).collect(),
            question, steps, outcome: Outcome::FinalAnswer, answer: Some(answer), score, grader: None, error: None, sampling,
            usage: (usage.0.into(), usage.1.into()), seconds: 1.0,
        }
    }
}

fn said(step: &Step) -> (Option<String>, String, String) {
    match &step.candidates[step.winner].action {
        Some(Parsed::Action(Action { thought, code, .. })) => (code.clone(), thought.clone(), step.message.clone()),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_a_format_says_comes_back(trajectory in trajectories()) {
        for format in Format::ALL {
            let records = format.write(&trajectory);
            let given = trajectory.sampling.settings().get("given_steps").and_then(Value::as_u64).unwrap_or(0) as usize;
            let expected = if format == Format::PromptCompletion { trajectory.steps.len() - given } else { 1 };
            prop_assert_eq!(records.len(), expected);
            let last = records.last().unwrap();
            prop_assert!(!last.contains('\n'), "one line");
            let found = Format::of(last.as_bytes()).unwrap();
            prop_assert!(found == format || found == Format::Openai && format == Format::Messages, "{:?}", found);
            let back = format.read(last.as_bytes()).unwrap();
            prop_assert_eq!(&back.question, &trajectory.question);
            prop_assert_eq!(&back.messages, &trajectory.messages);
            prop_assert_eq!(back.steps.iter().map(said).collect::<Vec<_>>(), trajectory.steps.iter().map(said).collect::<Vec<_>>());
            prop_assert_eq!(back.outcome, trajectory.outcome);
            prop_assert_eq!((&back.answer, &back.reference, back.score), (&trajectory.answer, &trajectory.reference, trajectory.score));
            prop_assert_eq!((back.kind, &back.model, &back.task_set), (trajectory.kind, &trajectory.model, &trajectory.task_set));
            let answered = &back.steps.last().unwrap().candidates.last().unwrap().observation;
            prop_assert_eq!(&answered.as_ref().unwrap().final_answer, &trajectory.answer);
            if format == Format::PromptCompletion {
                let last = trajectory.steps.len() - 1;
                prop_assert_eq!(back.sampling.settings().get("given_steps").cloned().unwrap_or(0.into()), Value::from(last));
                prop_assert!(back.task_id.starts_with(&trajectory.task_id[..]));
            } else {
                prop_assert_eq!(&back.sampling, &trajectory.sampling);
                prop_assert_eq!(&back.task_id, &trajectory.task_id);
            }
            if matches!(format, Format::Agentdistill | Format::Reference | Format::Smolagents | Format::Atif) {
                prop_assert_eq!(back.usage, trajectory.usage);
            }
        }
    }

    /// Records in which an expected part is replaced give an error or a trajectory, never a panic.
    #[test]
    fn any_value_in_any_place_is_read_or_refused(trajectory in trajectories(), place in any::<prop::sample::Index>(),
            other in prop::sample::select(vec![json!(null), json!(1.5), json!("text"), json!("[{"), json!([]), json!([[1]]), json!({}),
                json!({"type": "image"}), json!([{"type": "image"}]), json!(true)])) {
        for format in Format::ALL {
            let mut record: Value = serde_json::from_str(&format.write(&trajectory)[0]).unwrap();
            let mut pointers = vec![];
            all_pointers(&record, String::new(), &mut pointers);
            *record.pointer_mut(place.get::<String>(&pointers)).unwrap() = other.clone();
            let bytes = record.to_string();
            let _ = Format::of(bytes.as_bytes());
            let _ = format.read(bytes.as_bytes()).map(|trajectory| format.write(&trajectory));
        }
    }

    /// The layout of records and the ends of blocks make no difference.
    #[test]
    fn every_layout_is_read(trajectories in prop::collection::vec(trajectories(), 1..4), format in prop::sample::select(Format::ALL.to_vec()),
            blank in prop::sample::select(vec!["", "\n", " \n\n"])) {
        let folder = tempdir().unwrap();
        let values: Vec<Value> = trajectories.iter().flat_map(|one| format.write(one)).map(|json| serde_json::from_str(&json).unwrap()).collect();
        let joined = |texts: Vec<String>, glue: &str| texts.join(glue);
        let lines = || values.iter().map(Value::to_string).collect::<Vec<_>>();
        let pretty = || values.iter().map(|value| serde_json::to_string_pretty(value).unwrap()).collect::<Vec<_>>();
        let layouts = [
            joined(lines(), "\n"), joined(lines(), "\n") + "\n", joined(pretty(), "\n"), format!("[{}]", joined(lines(), ",")),
            format!("[\n{}\n]\n", joined(pretty(), ",\n")), format!("\u{feff}{}", joined(lines(), "\r\n")),
        ];
        for (number, text) in layouts.iter().enumerate() {
            let (path, output) = (folder.path().join(format!("{number}.json")), folder.path().join("out.jsonl"));
            fs::write(&path, format!("{text}{blank}")).unwrap();
            let counts = convert(&[path], &output, None, Format::Agentdistill).unwrap();
            prop_assert_eq!(counts, Counts { read: values.len(), written: values.len() }, "layout {}", number);
            let read: Vec<String> = read_trajectories(&output).unwrap().into_iter().map(|one| one.question).collect();
            let expected: Vec<String> = values.iter().map(|value| format.read(value.to_string().as_bytes()).unwrap().question).collect();
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[\\[\\]{},:\"a1\\\\ \n]{0,60}") {
        let folder = tempdir().unwrap();
        for bytes in [&bytes[..], text.as_bytes()] {
            let (path, output) = (folder.path().join("in.json"), folder.path().join("out.jsonl"));
            fs::write(&path, bytes).unwrap();
            let done = convert(&[path], &output, None, Format::Agentdistill);
            prop_assert!(done.is_ok_and(|counts| counts.read == 0) || !output.exists() || bytes.trim_ascii().is_empty());
            let _ = fs::remove_file(&output);
        }
    }
}

fn all_pointers(value: &Value, here: String, all: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| all_pointers(field, format!("{here}/{name}"), all))
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(number, item)| all_pointers(item, format!("{here}/{number}"), all));
        }
        _ => {}
    }
    all.push(here);
}

fn read(record: Value) -> Trajectory {
    let record = record.to_string();
    Format::of(record.as_bytes()).and_then(|format| format.read(record.as_bytes())).unwrap()
}

#[test]
fn calls_of_tools_are_read_as_python_that_makes_them() {
    let call = |name: &str, arguments: Value| json!({"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}});
    let arguments =
        json!({"query": "Ulm \"Minster\"", "k": 3, "deep": true, "of": null, "a-b": [1, {"x": false}]}).to_string();
    let messages = json!([
        {"role": "system", "content": "Search."},
        {"role": "user", "content": [{"type": "text", "text": "How high?"}]},
        {"role": "assistant", "content": null, "tool_calls": [call("search", arguments.into()), call("python", json!({"code": "x = 1\nx"}))]},
        {"role": "tool", "tool_call_id": "1", "content": "161.53 m"},
        {"role": "assistant", "content": "161.53 m"},
    ]);
    let trajectory = read(json!({"messages": messages, "tools": []}));
    let (code, _, message) = said(&trajectory.steps[0]);
    let call = r#"print(search(query="Ulm \"Minster\"", k=3, deep=True, of=None, **{"a-b": [1, {"x": False}]}))"#;
    assert_eq!(code.unwrap(), format!("{call}\nx = 1\nx"));
    assert_eq!(message, "Observation:\n161.53 m");
    assert_eq!((trajectory.outcome, trajectory.answer.as_deref()), (Outcome::FinalAnswer, Some("161.53 m")));
    assert_eq!(trajectory.kind, TrajectoryKind::Agent);
    assert_eq!(trajectory.question, "How high?");
    assert_eq!(trajectory.steps[1].candidates[0].text, "<answer>161.53 m</answer>", "words alone are its answer");
}

#[test]
fn the_papers_logs_are_read() {
    let part = |role: &str, text: &str| json!({"role": role, "content": [{"type": "text", "text": text}]});
    let log_data = json!({
        "messages": [
            part("system", "You are an expert."),
            part("MessageRole.USER", "New task:\nWhat is 6 times 7?\n\nIMPORTANT: think."),
            part("assistant", "Thought: I multiply.\nCode:\n```py\nprint(6 * 8)\n```<end_code>"),
            part("tool-call", "Calling tools:\n[{'id': 'call_1'}]"),
            part("tool-response", "Call id: call_1\nObservation:\nExecution logs:\n48\nLast output from code snippet:\nNone"),
            part("assistant", "Thought: Again.\nCode:\n```py\nfinal_answer(6 * 7)\n```<end_code>"),
            part("tool-response", "Call id: call_2\nObservation:\nExecution logs:\nLast output from code snippet:\n42"),
        ],
        "original_memory": {"steps": []},
        "metadata": {"performance": {"total_duration": 2.5}},
    });
    let line = |log_data: Value| json!({"model_id": "m", "question": "What is 6 times 7?", "generated_answer": 42, "true_answer": "42", "log_data": log_data, "cost": 0.1, "score": true});
    let trajectory = read(line(log_data.clone()));
    assert_eq!(trajectory, read(line(log_data.to_string().into())), "as on the hub");
    assert_eq!((trajectory.answer.as_deref(), trajectory.reference.as_deref()), (Some("42"), Some("42")));
    assert_eq!((trajectory.score, trajectory.outcome, trajectory.seconds), (Some(1.0), Outcome::FinalAnswer, 2.5));
    assert_eq!(trajectory.messages[1].1, "What is 6 times 7?\n\nIMPORTANT: think.");
    assert_eq!(trajectory.question, "What is 6 times 7?");
    assert_eq!(trajectory.steps[0].message, "Observation:\nExecution logs:\n48\nLast output from code snippet:\nNone");
    assert_eq!(trajectory.sampling.settings()["compat"], "reference");
    let seen = trajectory.steps[0].candidates[0].observation.as_ref().unwrap();
    assert_eq!((&seen.stdout[..], seen.value.as_deref(), seen.error.as_deref()), ("48\n", None, None));
    assert_eq!(said(&trajectory.steps[1]), (Some("final_answer(6 * 7)".into()), "Again.".into(), String::new()));

    let failed = read(json!({"model_id": "m", "question": "Q", "error": "no server", "log_data": null, "cost": 0.0}));
    assert_eq!((failed.outcome, failed.error.as_deref(), failed.steps.len()), (Outcome::Error, Some("no server"), 0));

    let chain = read(
        json!({"id": 3, "question": "Q", "answer": "A", "dataset_name": "d", "generated_answer": "A", "response": "So <answer>A</answer>",
        "messages": [{"role": "user", "content": "Q"}], "input_tokens": 5, "output_tokens": 7, "score": 0}),
    );
    assert_eq!((chain.kind, &chain.task_id[..], &chain.task_set[..]), (TrajectoryKind::Cot, "3", "d"));
    assert_eq!((chain.usage, chain.score, chain.reference.as_deref()), ((5, 7), Some(0.0), Some("A")));
}

#[test]
fn an_answer_is_found_where_the_log_has_it() {
    let log = |code: &str, told: Option<&str>| {
        let mut messages =
            vec![json!({"role": "user", "content": "Q"}), json!({"role": "assistant", "content": turn("T", code)})];
        messages.extend(told.map(|told| json!({"role": "user", "content": told})));
        let read = read(json!({"messages": messages}));
        (read.outcome, read.answer)
    };
    let answer = |text: &str| (Outcome::FinalAnswer, Some(text.to_owned()));
    assert_eq!(log("final_answer('Ulm')", None), answer("Ulm"));
    assert_eq!(log("x = 1\nfinal_answer(answer=\"Ulm, or so\")\n", None), answer("Ulm, or so"));
    assert_eq!(log("final_answer(42.5)", None), answer("42.5"));
    assert_eq!(log("final_answer(x)", Some("Observation:\nLast output from code snippet:\n[1, 2]")), answer("[1, 2]"));
    assert_eq!(log("final_answer(x)", Some("Observation:\nFinal answer: 7")), answer("7"));
    assert_eq!(log("final_answer(x)", None).0, Outcome::Error);
    assert_eq!(log("final_answer('Ulm')", Some("Observation:\nError:\nNameError: x")), (Outcome::OutOfSteps, None));
    assert_eq!(log("print(1)", Some("Observation:\n1")), (Outcome::OutOfSteps, None));
    let observation = |told: &str| {
        let messages = json!([{"role": "user", "content": "Q"}, {"role": "assistant", "content": turn("T", "1/0")}, {"role": "user", "content": told}]);
        read(json!({"messages": messages})).steps[0].candidates[0].observation.clone().unwrap()
    };
    assert_eq!(observation("Observation:\nError:\nZeroDivisionError").kind, ObservationKind::Exception);
    assert_eq!(observation("Observation:\n3").stdout, "3");
    assert_eq!(observation("<tool_response>\n  3\n4\n</tool_response>").stdout, "  3\n4");
    assert_eq!(observation("<information>\nDoc 1\n</information>\n").stdout, "Doc 1");
    let several = "<tool_response>3</tool_response>\n<tool_response>4</tool_response>";
    assert_eq!(observation(several).stdout, several);
}

#[test]
fn several_of_one_task_are_samples_of_it_and_those_without_an_id_are_named() {
    let folder = tempdir().unwrap();
    let record = |id: Value| {
        json!({"id": id, "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]})
            .to_string()
    };
    let (one, two) = (folder.path().join("logs.train.jsonl"), folder.path().join("two.jsonl"));
    fs::write(&one, [record("a".into()), record(json!(null)), record("a".into())].join("\n")).unwrap();
    fs::write(&two, record("a".into())).unwrap();
    let output = folder.path().join("out.jsonl");
    convert(&[one, two], &output, None, Format::Agentdistill).unwrap();
    let read = read_trajectories(&output).unwrap();
    assert_eq!(read.iter().map(|one| &one.task_id[..]).collect::<Vec<_>>(), ["a", "4ae81572f06e", "a#2", "a#3"]);
    assert_eq!(
        read.iter().map(|one| one.sampling.settings().get("samples").cloned()).collect::<Vec<_>>(),
        [None, None, Some(2.into()), Some(3.into())]
    );
    assert!(read_header(&output).unwrap().is_some());
}

#[test]
fn what_cannot_be_read_is_named_with_its_line() {
    let folder = tempdir().unwrap();
    let good = r#"{"messages":[{"role":"user","content":"Q"},{"role":"assistant","content":"A"}]}"#;
    let cases = [
        (format!("{good}\n\n{{\"messages\":7}}\n"), ":3: not a record of openai: invalid type: integer `7`"),
        (format!("{good}\n{{\"messages\":[]}}\n"), ":2: not a record of openai: there is no turn of an assistant"),
        (format!("{good}\n{}", &good[..40]), ":2: not a record of openai: EOF while parsing"),
        (good.replace("user", "narrator"), ":1: not a record of openai: a message of the role \"narrator\""),
        (good.replace("\"A\"", "[{\"type\":\"image_url\"}]"), ":1: not a record of openai: a part that is image_url, not text"),
        (format!("[\n{good},\n{{\"messages\": 7}}\n]"), ":3: not a record of openai: invalid type: integer `7`"),
        (format!("[{good}, 5]"), ":1: not a record of openai: invalid type: integer `5`"),
        (format!("[{good},\n"), ":2: not a record of openai: EOF while parsing"),
        ("{\"a\": 1, \"b\": 2}\n".into(), ":1: no known format has the fields a, b; say which one it is"),
        ("{\"agentdistill\":\"tasks\",\"version\":1}\n{}\n".into(), ":1: this is a file of tasks, not of trajectories"),
        ("{\"schema_version\": \"ATIF-v2.0\", \"agent\": {}, \"steps\": []}".into(), ":1: not a record of atif: its version is"),
        ("{\"conversations\": [{\"from\": \"human\", \"value\": \"Q\"}, {\"from\": \"function_call\", \"value\": \"{\"}]}".into(), ":1: not a record of sharegpt: a function_call is not JSON"),
    ];
    for (text, message) in cases {
        let (path, output) = (folder.path().join("in.json"), folder.path().join("out.jsonl"));
        fs::write(&path, &text).unwrap();
        let error = convert(&[path], &output, None, Format::Messages).unwrap_err();
        assert!(matches!(error, Error::Trajectory { .. }), "{error:?}");
        assert!(error.to_string().contains(message), "{text}: {error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }
}

#[test]
fn an_output_is_whole_and_no_input() {
    let folder = tempdir().unwrap();
    let (path, list) = (folder.path().join("in.jsonl"), folder.path().join("out.json"));
    fs::write(&path, "").unwrap();
    let same = folder.path().join(".").join("in.jsonl");
    assert!(matches!(convert(from_ref(&path), &same, None, Format::Openai), Err(Error::Argument(_))));
    assert!(matches!(convert(from_ref(&path), &list, None, Format::Agentdistill), Err(Error::Argument(_))));
    convert(&[path], &list, None, Format::Openai).unwrap();
    assert_eq!(fs::read_to_string(&list).unwrap(), "[]\n");
}
