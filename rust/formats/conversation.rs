//! Converts messages into a trajectory. All formats share this: opening messages, then turns of a model and the
//! messages that it got.
//!
//! The reader of a format adds messages to a [`Conversation`] in order, and the conversation divides them into steps.
//! [`Metadata`] provides what the messages do not contain.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, de};
use sha2::{Digest, Sha256};

use super::assistant_turn::{OBSERVATION, code_turn};
use super::metadata::{Metadata, given_steps};
use crate::action::{Action, ActionFormat, Parsed, parse_action, thought_text};
use crate::observation::{Observation, ObservationKind};
use crate::trajectory::{Candidate, Outcome, Step, Trajectory, TrajectoryKind, VERSION};

/// The prefix of a task in smolagents and in the paper's code.
pub const TASK: &str = "New task:\n";
/// Their labels for the value of a cell's last line, and for the text after an error.
const LAST_OUTPUT: &str = "Last output from code snippet:\n";
const RETRY: &str = "\nNow let's retry: ";

/// The author of a message.
#[derive(Clone, Copy)]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
    /// A role of smolagents, like [`Role::ToolCall`].
    ToolResponse,
    ToolCall,
}

impl Role {
    /// # Errors
    ///
    /// An unknown name.
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
    /// Returns whether messages of this role answer calls.
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

/// An episode while it is being read.
#[derive(Default)]
pub struct Conversation {
    pub metadata: Metadata,
    /// Whether this package wrote the record.
    pub is_ours: bool,
    opening: Vec<(String, String)>,
    turns: Vec<Turn>,
    /// Whether the model acts by tool calls. A last turn without calls is then an answer.
    calls: bool,
    pub usage: (u64, u64),
    pub seconds: f64,
}

/// A turn of the model, and the messages that it got afterwards.
#[derive(Default)]
pub struct Turn {
    text: String,
    /// Whether the text ends with calls.
    calls: bool,
    reasoning: String,
    message: String,
    pub prompt_token_ids: Option<Vec<u32>>,
    pub token_ids: Option<Vec<u32>>,
    pub logprobs: Option<Vec<f64>>,
    pub cached_tokens: u64,
    pub seconds: f64,
}

impl Conversation {
    pub fn new(metadata: Option<Metadata>) -> Self {
        Self { is_ours: metadata.is_some(), metadata: metadata.unwrap_or_default(), ..Self::default() }
    }

    /// Adds one message.
    pub fn say(&mut self, role: Role, text: String) {
        match role {
            Role::System => self.tell("system", text),
            Role::User => self.tell("user", text),
            Role::Assistant => _ = self.turn(text),
            Role::Tool => self.observe(text),
            Role::ToolResponse => self.observe(without_call_id(text)),
            Role::ToolCall => {} // it repeats the assistant's message
        }
    }

    /// Adds the thinking of a reasoning model to its last turn. In a record that we wrote, it stays apart from the text.
    pub fn reason(&mut self, reasoning: String) {
        if let Some(turn) = self.turns.last_mut() {
            turn.reasoning = reasoning;
        }
    }

    /// Adds the model's next text. Texts without a message in between form one turn, unless the first has called tools,
    /// whose results are then missing in the log.
    pub fn turn(&mut self, text: String) -> &mut Turn {
        match self.turns.last_mut() {
            Some(turn) if turn.message.is_empty() && !turn.calls => join(&mut turn.text, text),
            last => {
                if let Some(turn) = last.filter(|turn| turn.message.is_empty()) {
                    turn.message = format!("{OBSERVATION}\n");
                }
                self.turns.push(Turn { text, ..Turn::default() });
            }
        }
        self.turns.last_mut().expect("there is one now")
    }

    /// Adds the model's next turn: a thought, and tool calls as code.
    pub fn act(&mut self, thought: &str, code: &str) -> &mut Turn {
        self.calls = true;
        let thought = thought_text(thought);
        let text = code_turn(&thought, code);
        let parsed = parse_action(&text, ActionFormat::Code);
        let is_read = matches!(parsed, Parsed::Action(Action { code: Some(read), .. }) if read.trim() == code.trim());
        // If the thought itself looks like an action, tags mark it as a thought.
        let marked = || format!("<think>\n{thought}\n</think>\n{}", code_turn("", code));
        let text = if is_read || thought.is_empty() { text } else { marked() };
        let turn = self.turn(text);
        turn.calls = true;
        turn
    }

    /// Adds the result of the last action.
    pub fn observe(&mut self, text: String) {
        let observation = if text.trim_start().starts_with(OBSERVATION) || self.turns.is_empty() {
            text
        } else {
            format!("{OBSERVATION}\n{text}")
        };
        self.tell("user", observation);
    }

    fn tell(&mut self, role: &str, text: String) {
        match self.turns.last_mut() {
            Some(turn) => join(&mut turn.message, text),
            None => self.opening.push((role.to_owned(), text.strip_prefix(TASK).map(str::to_owned).unwrap_or(text))),
        }
    }

    pub fn turns(&self) -> usize {
        self.turns.len()
    }

    /// # Errors
    ///
    /// If there is no question, or if there is neither a turn of the model nor an error that explains its absence.
    pub fn into_trajectory(self) -> Result<Trajectory, String> {
        let Self { mut metadata, opening, mut turns, calls, usage, seconds, .. } = self;
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
    /// Returns whether this is the last turn and consists of text without an action.
    fn is_words(&self) -> bool {
        let is_action = matches!(parse_action(&self.text, ActionFormat::Code), Parsed::Action(_));
        !is_action && self.message.is_empty() && !self.text.trim().is_empty()
    }
}

/// Returns the id of a task that has none: a hash of its question, as for files of tasks (`task.py`). The id of a
/// single later step also has the step's number.
fn task_id(question: &str, given: usize) -> String {
    let digest = Sha256::digest(question.as_bytes());
    let id: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    if given > 0 { format!("{id}/{}", given + 1) } else { id }
}

/// The end of an episode, where the log does not state it.
struct Ending {
    outcome: Outcome,
    answer: Option<String>,
    error: Option<&'static str>,
}

impl Ending {
    fn of(turn: Option<&Turn>, parsed: Option<&Parsed>, answer: Option<String>, failed: bool) -> Self {
        let found = |outcome, answer, error| Self { outcome, answer, error };
        let out_of_steps = turn.is_some_and(|turn| turn.message.contains("Reached max steps")); // smolagents' wording
        match (answer, turn, parsed) {
            (answer, ..) if out_of_steps => found(Outcome::OutOfSteps, answer, None),
            (Some(answer), ..) => found(Outcome::FinalAnswer, Some(answer), None),
            (None, Some(turn), Some(Parsed::Action(action))) => match action.code.as_deref() {
                None => found(Outcome::FinalAnswer, action.final_answer.clone(), None),
                Some(code) if code.contains("final_answer(") && !turn.message.contains("Error") => {
                    match printed_answer(&turn.message).or_else(|| literal_answer(code)) {
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

/// Returns the argument of `final_answer`, as printed in the observation after the code. Both our wording and
/// smolagents' are recognised.
fn printed_answer(message: &str) -> Option<String> {
    let (_, answer) = message.rsplit_once(LAST_OUTPUT).or_else(|| message.rsplit_once("\nFinal answer: "))?;
    let answer = answer.trim();
    (!answer.is_empty() && answer != "None").then(|| answer.to_owned())
}

/// Returns the argument of `final_answer` from the code, if it is a string without escapes or a number.
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
        (acted && matches!(parsed, Parsed::Action(_))).then(|| observation(&turn.message, answer, turn.seconds));
    let candidate = Candidate {
        text: turn.text,
        prefix: String::new(),
        reasoning: turn.reasoning,
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
        message: if last { String::new() } else { turn.message },
        state: None,
        seconds: turn.seconds,
        model_seconds: 0.0,
        cached_tokens: turn.cached_tokens,
    }
}

/// Returns the observation of a cell, as far as the message after it shows.
fn observation(message: &str, answer: Option<&str>, seconds: f64) -> Observation {
    let seen = untagged(message.trim_start().strip_prefix(OBSERVATION).unwrap_or(message).trim_start());
    let failed = seen.lines().any(|line| line.starts_with("Error:") || line.starts_with("Error in "));
    let (stdout, value, error) =
        logged(message).unwrap_or(if failed { ("", None, Some(seen)) } else { (seen, None, None) });
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

/// Removes the tags that some action formats and chat templates put around the result of an action.
fn untagged(text: &str) -> &str {
    const TAGS: [(&str, &str); 2] = [("<tool_response>", "</tool_response>"), ("<information>", "</information>")];
    let inner = |(start, end)| {
        let inner: &str = text.trim_end().strip_prefix(start)?.strip_suffix(end)?;
        (!inner.contains(start)).then_some(inner.trim_matches('\n'))
    };
    TAGS.into_iter().find_map(inner).unwrap_or(text)
}

/// Splits a message into printed output, value and error. smolagents and the paper's code word messages like this.
fn logged(message: &str) -> Option<(&str, Option<&str>, Option<&str>)> {
    let raised = message.rsplit_once("Observation:\nError:\n");
    let (seen, error) = match raised.and_then(|(seen, rest)| Some((seen, rest.rsplit_once(RETRY)?.0))) {
        Some((seen, error)) => (seen.strip_suffix('\n').unwrap_or(seen), Some(error)),
        None => (message, None),
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

/// Appends `more` on a new line.
pub fn join(text: &mut String, more: String) {
    if text.is_empty() {
        *text = more;
    } else if !more.is_empty() {
        text.push('\n');
        text.push_str(&more);
    }
}

/// Removes the first line of smolagents' tool message, which names the call.
fn without_call_id(mut text: String) -> String {
    if text.starts_with("Call id: ")
        && let Some(end) = text.find('\n')
    {
        text.drain(..=end);
    }
    text
}
