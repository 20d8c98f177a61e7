//! How do messages become a trajectory? What all formats have in common: opening messages, then turns of a model and what
//! it was told.
//!
//! A format's reader adds its messages to a [`Conversation`] in order, and that makes steps of them. A record's
//! [`Metadata`] says what the messages do not.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};

use super::assistant_turn::{OBSERVATION, code_turn};
use super::metadata::{Metadata, given_steps};
use crate::action::{Action, ActionFormat, Parsed, parse_action, spoken};
use crate::observation::{Observation, ObservationKind};
use crate::trajectory::{Candidate, Outcome, Step, Trajectory, TrajectoryKind, VERSION};

/// What smolagents puts before a task, and the reference with it.
pub const TASK: &str = "New task:\n";
/// What they put before the value of a cell's last line, and after an error.
const LAST_OUTPUT: &str = "Last output from code snippet:\n";
const RETRY: &str = "\nNow let's retry: ";

/// Who speaks.
#[derive(Clone, Copy)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
    /// smolagents', and [`Role::ToolCall`], too.
    ToolResponse,
    ToolCall,
}

impl Role {
    /// # Errors
    ///
    /// A name that is not known.
    pub fn of(name: &str) -> Result<Self, String> {
        const NAMES: [(Role, &[&str]); 6] = [
            (Role::System, &["system", "developer"]),
            (Role::User, &["user", "human"]),
            (Role::Assistant, &["assistant", "gpt", "agent", "model"]),
            (Role::Tool, &["tool", "function", "observation", "ipython", "environment"]),
            (Role::ToolResponse, &["tool-response", "tool_response"]),
            (Role::ToolCall, &["tool-call", "tool_call"]),
        ];
        let plain = name.strip_prefix("MessageRole.").unwrap_or(name);
        let known = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(plain));
        let found = NAMES.into_iter().find(|(_, names)| known(names));
        found.map(|(role, _)| role).ok_or_else(|| format!("a message of the role {name:?}, which is not known"))
    }
}

impl Role {
    /// Whether it answers calls.
    pub fn is_tool(self) -> bool {
        matches!(self, Self::Tool | Self::ToolResponse)
    }
}

impl<'de> Deserialize<'de> for Role {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        Self::of(&Name::deserialize(deserializer)?.0).map_err(de::Error::custom)
    }
}

/// An episode as it is read.
#[derive(Default)]
pub struct Conversation {
    pub metadata: Metadata,
    opening: Vec<(String, String)>,
    turns: Vec<Turn>,
    /// Whether it acts by calls of tools, so that words alone are an answer.
    calls: bool,
    pub usage: (u64, u64),
    pub seconds: f64,
}

/// What a model said, and what it was told.
#[derive(Default)]
pub struct Turn {
    text: String,
    told: String,
    pub prompt_token_ids: Option<Vec<u32>>,
    pub token_ids: Option<Vec<u32>>,
    pub logprobs: Option<Vec<f64>>,
    pub cached_tokens: u64,
    pub seconds: f64,
}

impl Conversation {
    pub fn new(metadata: Option<Metadata>) -> Self {
        Self { metadata: metadata.unwrap_or_default(), ..Self::default() }
    }

    /// Says one message.
    pub fn say(&mut self, role: Role, text: String) {
        match role {
            Role::System => self.tell("system", text),
            Role::User => self.tell("user", text),
            Role::Assistant => _ = self.turn(text),
            Role::Tool => self.observe(text),
            Role::ToolResponse => self.observe(without_call_id(text)),
            Role::ToolCall => {} // it repeats what the assistant said
        }
    }

    /// The model's next words; those that follow its own are one turn with them.
    pub fn turn(&mut self, text: String) -> &mut Turn {
        match self.turns.last_mut() {
            Some(turn) if turn.told.is_empty() => join(&mut turn.text, text),
            _ => self.turns.push(Turn { text, ..Turn::default() }),
        }
        self.turns.last_mut().expect("there is one now")
    }

    /// The model's next words, with calls of tools as code.
    pub fn act(&mut self, thought: &str, code: &str) -> &mut Turn {
        self.calls = true;
        let thought = spoken(thought);
        let text = code_turn(&thought, code);
        let parsed = parse_action(&text, ActionFormat::Code);
        let is_read = matches!(parsed, Parsed::Action(Action { code: Some(read), .. }) if read.trim() == code.trim());
        // A thought that itself looks like an action is marked as one.
        let marked = || format!("<think>\n{thought}\n</think>\n{}", code_turn("", code));
        let text = if is_read || thought.is_empty() { text } else { marked() };
        self.turn(text)
    }

    /// What the last action did.
    pub fn observe(&mut self, text: String) {
        let said = if text.trim_start().starts_with(OBSERVATION) || self.turns.is_empty() {
            text
        } else {
            format!("{OBSERVATION}\n{text}")
        };
        self.tell("user", said);
    }

    fn tell(&mut self, role: &str, text: String) {
        match self.turns.last_mut() {
            Some(turn) => join(&mut turn.told, text),
            None => self.opening.push((role.to_owned(), text.strip_prefix(TASK).map(str::to_owned).unwrap_or(text))),
        }
    }

    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// # Errors
    ///
    /// When nobody asked, or no model answered and no error says why.
    pub fn into_trajectory(self) -> Result<Trajectory, String> {
        let Self { mut metadata, opening, mut turns, calls, usage, seconds } = self;
        if turns.is_empty() && metadata.error.is_none() && metadata.outcome.is_none() {
            return Err("there is no turn of an assistant in it".to_owned());
        }
        let asked = || opening.iter().rev().find(|(role, _)| role == "user").map(|(_, text)| text.clone());
        let question = metadata.question.take().or_else(asked).ok_or("nobody asks anything in it")?;
        if let Some(turn) = turns.last_mut().filter(|turn| calls && metadata.outcome.is_none() && turn.is_words()) {
            turn.text = format!("<answer>{}</answer>", turn.text.trim());
        }
        let format = metadata.action_format(turns.iter().map(|turn| turn.text.as_str()));
        let parsed: Vec<Parsed> = turns.iter().map(|turn| parse_action(&turn.text, format)).collect();
        let acts = |parsed: &Parsed| matches!(parsed, Parsed::Action(Action { code: Some(_), .. }));
        let kind = metadata.kind.unwrap_or(match &parsed[..] {
            [only] if !acts(only) => TrajectoryKind::Cot,
            _ => TrajectoryKind::Agent,
        });
        let ended = Ending::of(turns.last(), parsed.last(), metadata.answer.take(), metadata.error.is_some());
        let outcome = metadata.outcome.unwrap_or(ended.outcome);
        let error = metadata.error.or_else(|| ended.error.filter(|_| outcome == Outcome::Error).map(str::to_owned));
        let last = turns.len().saturating_sub(1);
        let steps = turns
            .into_iter()
            .zip(parsed)
            .enumerate()
            .map(|(number, (turn, parsed))| {
                let answer = ended.answer.as_deref().filter(|_| number == last && outcome == Outcome::FinalAnswer);
                step(turn, parsed, kind, number == last, answer)
            })
            .collect();
        Ok(Trajectory {
            version: VERSION,
            task_id: metadata.task_id.unwrap_or_else(|| task_id(&question, given_steps(&metadata.sampling))),
            question,
            reference: metadata.reference,
            aliases: metadata.aliases,
            task_set: metadata.task_set,
            kind,
            model: metadata.model,
            messages: opening,
            steps,
            outcome,
            answer: ended.answer,
            score: metadata.score,
            grader: metadata.grader,
            error,
            sampling: metadata.sampling,
            usage,
            seconds,
        })
    }
}

impl Turn {
    /// Whether it is nothing but words, and the last ones.
    fn is_words(&self) -> bool {
        let is_action = matches!(parse_action(&self.text, ActionFormat::Code), Parsed::Action(_));
        !is_action && self.told.is_empty() && !self.text.trim().is_empty()
    }
}

/// A task without an id is known by its question, as in files of tasks (task.py); a later step of it, on its own, by its
/// number too.
fn task_id(question: &str, given: usize) -> String {
    let digest = Sha256::digest(question.as_bytes());
    let id: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    if given > 0 { format!("{id}/{}", given + 1) } else { id }
}

/// How a log ends, where it does not say so itself.
struct Ending {
    outcome: Outcome,
    answer: Option<String>,
    error: Option<&'static str>,
}

impl Ending {
    fn of(turn: Option<&Turn>, parsed: Option<&Parsed>, answer: Option<String>, failed: bool) -> Self {
        let found = |outcome, answer, error| Self { outcome, answer, error };
        let out_of_steps = turn.is_some_and(|turn| turn.told.contains("Reached max steps")); // as smolagents says it
        match (answer, turn, parsed) {
            (answer, ..) if out_of_steps => found(Outcome::OutOfSteps, answer, None),
            (Some(answer), ..) => found(Outcome::FinalAnswer, Some(answer), None),
            (None, Some(turn), Some(Parsed::Action(action))) => match action.code.as_deref() {
                None => found(Outcome::FinalAnswer, action.final_answer.clone(), None),
                Some(code) if code.contains("final_answer(") && !turn.told.contains("Error") => {
                    match printed_answer(&turn.told).or_else(|| literal_answer(code)) {
                        Some(answer) => found(Outcome::FinalAnswer, Some(answer), None),
                        None => found(Outcome::Error, None, Some("it answered, but its log does not say what")),
                    }
                }
                Some(_) => found(Outcome::OutOfSteps, None, None),
            },
            (None, ..) if failed => found(Outcome::Error, None, None),
            (None, ..) => found(Outcome::ParseFailure, None, None),
        }
    }
}

/// What the code gave to `final_answer`, as the observation after it says: ours, or smolagents'.
fn printed_answer(told: &str) -> Option<String> {
    let (_, answer) = told.rsplit_once(LAST_OUTPUT).or_else(|| told.rsplit_once("\nFinal answer: "))?;
    let answer = answer.trim();
    (!answer.is_empty() && answer != "None").then(|| answer.to_owned())
}

/// The same where it stands in the code itself: a string without escapes, or a number.
fn literal_answer(code: &str) -> Option<String> {
    let (_, call) = code.rsplit_once("final_answer(")?;
    let given = call.trim_end().strip_suffix(')')?.trim();
    let given = given.strip_prefix("answer=").unwrap_or(given);
    let quoted = |quote| given.strip_prefix(quote)?.strip_suffix(quote).filter(|text| !text.contains([quote, '\\']));
    quoted('"').or_else(|| quoted('\'')).or_else(|| given.parse::<f64>().ok().map(|_| given)).map(str::to_owned)
}

fn step(turn: Turn, parsed: Parsed, kind: TrajectoryKind, last: bool, answer: Option<&str>) -> Step {
    let acted = kind == TrajectoryKind::Agent;
    let observation =
        (acted && matches!(parsed, Parsed::Action(_))).then(|| observation(&turn.told, answer, turn.seconds));
    let candidate = Candidate {
        text: turn.text,
        prefix: String::new(),
        reasoning: String::new(),
        token_ids: turn.token_ids,
        logprobs: turn.logprobs,
        finish_reason: None,
        action: acted.then_some(parsed),
        observation,
    };
    Step {
        candidates: vec![candidate],
        winner: 0,
        votes: vec![],
        prompt_token_ids: turn.prompt_token_ids,
        message: if last { String::new() } else { turn.told },
        state: None,
        seconds: turn.seconds,
        model_seconds: 0.0,
        cached_tokens: turn.cached_tokens,
    }
}

/// What a cell did, as far as the message after it says.
fn observation(told: &str, answer: Option<&str>, seconds: f64) -> Observation {
    let seen = told.trim_start().strip_prefix(OBSERVATION).unwrap_or(told).trim_start();
    let failed = seen.lines().any(|line| line.starts_with("Error:") || line.starts_with("Error in "));
    let (stdout, value, error) =
        logged(told).unwrap_or(if failed { ("", None, Some(seen)) } else { (seen, None, None) });
    let kind = match answer {
        Some(_) => ObservationKind::FinalAnswer,
        None if error.is_some() => ObservationKind::Exception,
        None => ObservationKind::Value,
    };
    Observation {
        kind,
        stdout: stdout.to_owned(),
        value: value.filter(|_| answer.is_none()).map(str::to_owned),
        error: error.map(str::to_owned),
        final_answer: answer.map(str::to_owned),
        seconds,
        ..Observation::default()
    }
}

/// What a cell printed, returned and raised, in the words of smolagents, and so of the paper's code.
fn logged(told: &str) -> Option<(&str, Option<&str>, Option<&str>)> {
    let raised = told.rsplit_once("Observation:\nError:\n");
    let (seen, error) = match raised.and_then(|(seen, said)| Some((seen, said.rsplit_once(RETRY)?.0))) {
        Some((seen, error)) => (seen.strip_suffix('\n').unwrap_or(seen), Some(error)),
        None => (told, None),
    };
    match seen.split_once("Execution logs:\n") {
        None => error.map(|error| ("", None, Some(error))),
        Some((_, logs)) if error.is_some() => Some((logs, None, error)),
        Some((_, logs)) => {
            let (stdout, value) = logs.rsplit_once(LAST_OUTPUT)?;
            Some((stdout, Some(value).filter(|&value| value != "None"), None))
        }
    }
}

/// Goes on with `more` on a line of its own.
pub fn join(text: &mut String, more: String) {
    if text.is_empty() {
        *text = more;
    } else if !more.is_empty() {
        text.push('\n');
        text.push_str(&more);
    }
}

/// smolagents' message of a tool without its first line, which names the call.
fn without_call_id(mut text: String) -> String {
    if text.starts_with("Call id: ")
        && let Some(end) = text.find('\n')
    {
        text.drain(..=end);
    }
    text
}
