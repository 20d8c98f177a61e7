//! The rules of the vote, one by one. tests/core/test_vote.py compares canonical forms with Python itself.

use agentdistill::observation::{Observation, ObservationKind};
use agentdistill::vote::{Compat, Vote, vote};

fn value(value: &str) -> Observation {
    Observation { value: Some(value.to_owned()), ..Observation::default() }
}

fn printed(stdout: &str) -> Observation {
    Observation { stdout: stdout.to_owned(), ..Observation::default() }
}

fn answered(answer: &str, json: Option<&str>) -> Observation {
    Observation {
        kind: ObservationKind::FinalAnswer,
        final_answer: Some(answer.to_owned()),
        final_answer_json: json.map(str::to_owned),
        stdout: "noise that differs".to_owned() + answer,
        ..Observation::default()
    }
}

fn failed(kind: ObservationKind) -> Observation {
    Observation { kind, ..printed("41") }
}

fn of(observations: &[Observation], compat: Option<Compat>) -> Vote {
    vote(observations.iter().map(Some), compat)
}

#[test]
fn the_same_thing_done() {
    let same: &[(Observation, Observation)] = &[
        (value("1"), value("1.0")),
        (value("1"), value("'1'")),
        (value("1e3"), value("1000")),
        (value("-0.0"), value("0")),
        (value("0.10"), value("1e-1")),
        (value("{'a': 1, 'b': [2, 3]}"), value("{'b': (2.0, 3), 'a': 1}")),
        (value("{3, 1, 2}"), value("{1, 2, 3}")),
        (value("'a  b'"), value("' a b\\n'")),
        (value("<A  object>"), value("<A object>")),
        (printed("1.0\n"), printed("1")),
        (printed("a  b \n\n c"), printed("a b\nc\n")),
        (printed("x\n{'a': 1, 'b': 2}"), printed("x\n{'b': 2, 'a': 1.0}")),
        (answered("41", Some("41")), answered("41.0", Some("41.0"))),
        (answered("41", Some("\"41\"")), answered("41", None)),
        (answered("['a', 'b']", Some("[\"a\", \"b\"]")), answered("('a', 'b')", Some("[\"a\", \"b\"]"))),
        (answered("{'b': None, 'a': True}", Some("{}")), answered("{'a': True, 'b': None}", None)),
        (answered(&format!("1{}", "0".repeat(400)), None), answered("1e400", None)),
    ];
    for (one, other) in same {
        let vote = of(&[one.clone(), other.clone()], None);
        assert_eq!((vote.winner, vote.agreement, vote.counts.len()), (Some(0), 1.0, 1), "{one:?} and {other:?}");
    }
}

#[test]
fn different_things_done() {
    let different: &[(Observation, Observation)] = &[
        (value("'Paris'"), value("'paris'")),
        (value("1"), value("2")),
        (value("1"), printed("1")),
        (value("1"), answered("1", None)),
        (value("0.1"), value("0.10000000000000001")),
        (value("10000000000000000000000"), value("10000000000000000000001")),
        (value("'007'"), value("7")),
        (value("[1, 2]"), value("[2, 1]")),
        (value("[1, '2 3']"), value("[1, 2, 3]")),
        (value("{}"), value("set()")),
        (answered("41", Some("41")), answered("42", Some("42"))),
        (answered("hacked", Some("42")), answered("42", Some("42"))), // the text is the answer
        (Observation { value: Some("1".into()), ..printed("a") }, printed("a\n=> 1")),
    ];
    for (one, other) in different {
        let vote = of(&[one.clone(), other.clone()], None);
        assert_eq!((vote.winner, vote.agreement, vote.counts.len()), (Some(0), 0.5, 2), "{one:?} and {other:?}");
    }
}

#[test]
fn failures_are_dropped_and_ties_go_to_the_first() {
    use ObservationKind::*;
    let failures: Vec<Observation> =
        [Exception, Timeout, OutOfMemory, ToolError, Killed].into_iter().map(failed).collect();
    let candidates =
        [failures.as_slice(), &[printed("2"), printed("1"), printed("1.0"), printed("2.0"), printed("3")]].concat();
    let voted = of(&candidates, None);
    let counts = [("2", 2), ("1", 2), ("3", 1)].map(|(outcome, votes)| (outcome.to_owned(), votes));
    assert_eq!(voted, Vote { winner: Some(5), counts: counts.into(), dropped: vec![0, 1, 2, 3, 4], agreement: 0.4 });

    let none = Vote { winner: None, counts: vec![], dropped: vec![0, 1, 2, 3, 4], agreement: 0.0 };
    assert_eq!(of(&failures, None), none);
    assert_eq!(of(&[], None), Vote { dropped: vec![], ..none.clone() });
    assert_eq!(of(&failures, Some(Compat::Reference)), Vote { winner: Some(0), ..none.clone() });
    assert_eq!(of(&[], Some(Compat::Reference)), Vote { dropped: vec![], ..none });
    assert_eq!(vote([None, Some(&printed("1"))], None).winner, Some(1), "what did not parse is dropped");
}

/// The paper's code compares only the printed output, verbatim.
#[test]
fn the_reference_does_not_see_answers() {
    let silent = |answer| Observation { stdout: String::new(), ..answered(answer, None) };
    let vote = of(&[silent("41"), silent("42"), silent("42")], Some(Compat::Reference));
    assert_eq!((vote.winner, vote.counts), (Some(0), vec![(String::new(), 3)]));
    let vote = of(&[printed("1"), printed("1.0"), printed("1.0")], Some(Compat::Reference));
    assert_eq!((vote.winner, vote.agreement), (Some(1), 2.0 / 3.0));
}
