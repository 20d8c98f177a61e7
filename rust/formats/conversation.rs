//! What all formats of agents' logs have in common: somebody opens, then a model and its surroundings take turns.
//!
//! A format's reader says what was said, in order, and a [`Conversation`] makes steps of it; a writer asks a step for
//! its [`Said`]. The fields of a [`Trajectory`] that no conversation says are [`About`], one object under the key
//! `agentdistill`, which other programs pass over.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use memchr::memchr_iter;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::action::call::cell_of_json;
use crate::action::json::Json;
use crate::action::{Action, ActionFormat, Parsed, parse_action, spoken};
use crate::observation::{Observation, ObservationKind};
use crate::trajectory::{Candidate, Outcome, Sampling, Step, Trajectory, TrajectoryKind, VERSION};

/// Setting of a trajectory: how many of its steps it was begun with, which nobody learns.
const GIVEN: &str = "given_steps";
/// What our own messages and smolagents' begin with.
const OBSERVATION: &str = "Observation:";
/// What smolagents puts before a task, and the reference with it.
const TASK: &str = "New task:\n";

/// What is known of an episode besides what was said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub task_set: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<TrajectoryKind>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grader: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub sampling: Sampling,
}

impl About {
    pub const KEY: &str = "agentdistill";

    pub fn of(trajectory: &Trajectory) -> Self {
        Self {
            task_id: Some(trajectory.task_id.clone()),
            question: Some(trajectory.question.clone()),
            reference: trajectory.reference.clone(),
            aliases: trajectory.aliases.clone(),
            task_set: trajectory.task_set.clone(),
            kind: Some(trajectory.kind),
            model: trajectory.model.clone(),
            outcome: Some(trajectory.outcome),
            answer: trajectory.answer.clone(),
            score: trajectory.score,
            grader: trajectory.grader.clone(),
            error: trajectory.error.clone(),
            sampling: trajectory.sampling.clone(),
        }
    }

    /// The form of the actions: what the settings say, else what the turns are written in, which becomes a setting.
    fn action_format(&mut self, turns: &[Turn]) -> ActionFormat {
        const SETTING: &str = "action_format";
        const MARKS: [(&str, ActionFormat); 4] = [
            ("<tool_call>", ActionFormat::ToolCall),
            ("<search>", ActionFormat::SearchTags),
            ("<|begin_of_query|>", ActionFormat::SearchTags),
            ("<execute>", ActionFormat::CodeTags),
        ];
        if let Some(said) = self.sampling.settings().get(SETTING) {
            return ActionFormat::deserialize(said).unwrap_or_default();
        }
        let mark_at = |text: &str| MARKS.into_iter().find(|(mark, _)| text.starts_with(mark));
        let marked = |turn: &Turn| memchr_iter(b'<', turn.text.as_bytes()).find_map(|at| mark_at(&turn.text[at..]));
        let unread = |turn: &Turn| matches!(parse_action(&turn.text, ActionFormat::Code), Parsed::Failure(_));
        let found = turns.iter().find_map(|turn| marked(turn).filter(|_| unread(turn)));
        let Some((_, format)) = found else { return ActionFormat::Code };
        let name = serde_json::to_value(format).expect("a name is JSON");
        self.sampling.settings_mut().insert(SETTING.to_owned(), name);
        format
    }
}

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
    pub about: About,
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
    pub fn new(about: Option<About>) -> Self {
        Self { about: about.unwrap_or_default(), ..Self::default() }
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
        let text = turn_text(&thought, code);
        let parsed = parse_action(&text, ActionFormat::Code);
        let is_read = matches!(parsed, Parsed::Action(Action { code: Some(read), .. }) if read.trim() == code.trim());
        // A thought that itself looks like an action is marked as one.
        let marked = || format!("<think>\n{thought}\n</think>\n{}", turn_text("", code));
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

    /// The first turns that are there were only given to the model.
    pub fn set_given(&mut self, turns: usize) {
        if turns > 0 {
            self.about.sampling.settings_mut().insert(GIVEN.to_owned(), turns.into());
        }
    }

    /// # Errors
    ///
    /// When nobody asked, or no model answered and no error says why.
    pub fn into_trajectory(self) -> Result<Trajectory, String> {
        let Self { mut about, opening, mut turns, calls, usage, seconds } = self;
        if turns.is_empty() && about.error.is_none() && about.outcome.is_none() {
            return Err("there is no turn of an assistant in it".to_owned());
        }
        let asked = || opening.iter().rev().find(|(role, _)| role == "user").map(|(_, text)| text.clone());
        let question = about.question.take().or_else(asked).ok_or("nobody asks anything in it")?;
        if let Some(turn) = turns.last_mut().filter(|turn| calls && about.outcome.is_none() && turn.is_words()) {
            turn.text = format!("<answer>{}</answer>", turn.text.trim());
        }
        let format = about.action_format(&turns);
        let parsed: Vec<Parsed> = turns.iter().map(|turn| parse_action(&turn.text, format)).collect();
        let acts = |parsed: &Parsed| matches!(parsed, Parsed::Action(Action { code: Some(_), .. }));
        let kind = about.kind.unwrap_or(match &parsed[..] {
            [only] if !acts(only) => TrajectoryKind::Cot,
            _ => TrajectoryKind::Agent,
        });
        let ended = Ending::of(turns.last(), parsed.last(), about.answer.take(), about.error.is_some());
        let outcome = about.outcome.unwrap_or(ended.outcome);
        let error = about.error.or_else(|| ended.error.filter(|_| outcome == Outcome::Error).map(str::to_owned));
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
            task_id: about.task_id.unwrap_or_else(|| task_id(&question, given(&about.sampling))),
            question,
            reference: about.reference,
            aliases: about.aliases,
            task_set: about.task_set,
            kind,
            model: about.model,
            messages: opening,
            steps,
            outcome,
            answer: ended.answer,
            score: about.score,
            grader: about.grader,
            error,
            sampling: about.sampling,
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
    let (_, answer) =
        told.rsplit_once("Last output from code snippet:\n").or_else(|| told.rsplit_once("\nFinal answer: "))?;
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
    let (kind, error) = match answer {
        Some(_) => (ObservationKind::FinalAnswer, None),
        None if failed => (ObservationKind::Exception, Some(seen.to_owned())),
        None => (ObservationKind::Value, None),
    };
    let stdout = if error.is_some() { String::new() } else { seen.to_owned() };
    Observation { kind, stdout, error, final_answer: answer.map(str::to_owned), seconds, ..Observation::default() }
}

// ---- writing -----------------------------------------------------------------------------------

/// A step as others say it: its winner, in the form that the conversation keeps (as `prompt.assistant_turn`).
pub enum Said<'a> {
    Code { thought: &'a str, code: &'a str },
    Text(&'a str),
}

impl<'a> Said<'a> {
    pub fn of(step: &'a Step) -> Self {
        const LONGEST: usize = 2_000;
        match step.candidates.get(step.winner) {
            None => Self::Text(""),
            Some(Candidate { action: Some(Parsed::Action(action)), text, .. }) => match action {
                Action { thought, code: Some(code), format: ActionFormat::Code, .. } => {
                    Self::Code { thought: thought.trim(), code: code.trim_matches('\n') }
                }
                _ => Self::Text(text.trim()),
            },
            Some(Candidate { action: Some(Parsed::Failure(_)), text, .. }) => {
                let text = text.trim();
                Self::Text(text.char_indices().nth(LONGEST).map_or(text, |(end, _)| &text[..end]))
            }
            Some(Candidate { text, .. }) => Self::Text(text.trim()),
        }
    }

    pub fn text(&self) -> String {
        match self {
            Self::Code { thought, code } => turn_text(thought, code),
            Self::Text(text) => (*text).to_owned(),
        }
    }
}

pub fn turn_text(thought: &str, code: &str) -> String {
    let thought = thought.trim();
    let label = if thought.is_empty() { "" } else { "Thought: " };
    let end = if thought.is_empty() { "" } else { "\n" };
    format!("{label}{thought}{end}Code:\n```py\n{code}\n```<end_code>")
}

/// A step's message without the word before it, which formats with a role for observations do not need.
pub fn observed(message: &str) -> &str {
    message.strip_prefix(OBSERVATION).and_then(|rest| rest.strip_prefix('\n')).unwrap_or(message)
}

/// How many of its first steps a trajectory was given.
pub fn given_steps(trajectory: &Trajectory) -> usize {
    given(&trajectory.sampling)
}

fn given(sampling: &Sampling) -> usize {
    let given = sampling.settings().get(GIVEN).and_then(Value::as_u64);
    given.and_then(|given| usize::try_from(given).ok()).unwrap_or(0)
}

// ---- calls of tools ----------------------------------------------------------------------------

/// Name of the tool that runs a step's code, in formats where actions are calls.
pub const PYTHON: &str = "python";

/// That tool, as OpenAI's protocol describes tools.
pub fn python_tool() -> Value {
    let code = json!({"type": "string", "description": "Python code. Variables stay from call to call."});
    let parameters = json!({"type": "object", "properties": {"code": code}, "required": ["code"]});
    json!({"type": "function", "function": function(parameters)})
}

fn function(parameters: Value) -> Value {
    let description = "Run Python. Print what you want to see; final_answer(...) ends the work.";
    json!({"name": PYTHON, "description": description, "parameters": parameters})
}

/// A call of a tool as code; one that no code can make, as it was written.
pub fn call_code(name: &str, arguments: &Json) -> String {
    cell_of_json(name, arguments).unwrap_or_else(|| format!("{name}({})", arguments.literal()))
}

// ---- lenient fields ----------------------------------------------------------------------------

/// A text, or what else stands where one is expected: null, a number, a list of parts whose texts are taken.
#[derive(Clone, Debug, Default)]
pub struct Text(pub Option<String>);

impl Text {
    pub fn or_empty(self) -> String {
        self.0.unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor { is_part: false })
    }
}

/// An element of a list that stands for a text.
struct Part(Text);

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor { is_part: true }).map(Self)
    }
}

struct TextVisitor {
    is_part: bool,
}

impl<'de> de::Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(Some(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Text, E> {
        Ok(Text(Some(text)))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Text, E> {
        Ok(Text(Some(Json::from(Value::from(value)).literal())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
        Ok(Text(Some(number.to_string())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
        Ok(Text(Some(number.to_string())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Text, E> {
        Ok(Text(Some(Json::from(Value::from(number)).literal())))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        if !self.is_part {
            let value = Value::deserialize(de::value::MapAccessDeserializer::new(map))?;
            return Ok(Text(Some(Json::from(value).literal())));
        }

        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Type,
            Text,
            Other(String),
        }

        let (mut kind, mut text, mut others) = (Text(None), Text(None), Map::new());
        while let Some(field) = map.next_key()? {
            match field {
                Field::Type => kind = map.next_value()?,
                Field::Text => text = map.next_value()?,
                Field::Other(name) => _ = others.insert(name, map.next_value()?),
            }
        }
        match (kind.0.as_deref(), &text.0) {
            (None | Some("text"), Some(_)) => Ok(text),
            (None, None) => Ok(Text(Some(Json::from(Value::Object(others)).literal()))),
            (Some(kind), _) => Err(de::Error::custom(format!("a part that is {kind}, not text"))),
        }
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        if self.is_part {
            let value = Value::deserialize(de::value::SeqAccessDeserializer::new(seq))?;
            return Ok(Text(Some(Json::from(value).literal())));
        }
        let mut whole = seq.next_element::<Part>()?.map_or(String::new(), |Part(text)| text.or_empty());
        while let Some(Part(text)) = seq.next_element()? {
            whole.push('\n');
            whole.push_str(&text.or_empty());
        }
        Ok(Text(Some(whole)))
    }
}

/// A number, or a boolean that stands for one.
pub fn score<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Bool(right) => Ok(Some(f64::from(u8::from(right)))),
        Value::Number(number) => Ok(number.as_f64()),
        other => Err(de::Error::custom(format!("the score is {other}, not a number"))),
    }
}

/// A value, or a string that holds it as JSON (so nested columns are kept in tables), or null.
pub fn nested<'de, D: Deserializer<'de>, T: de::DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    struct Visitor<T>(PhantomData<T>);

    impl<'de, T: de::DeserializeOwned> de::Visitor<'de> for Visitor<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object, a list, or a string that holds one as JSON")
        }

        fn visit_str<E: de::Error>(self, json: &str) -> Result<Self::Value, E> {
            serde_json::from_str(json).map_err(E::custom)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Some)
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            T::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Some)
        }
    }

    deserializer.deserialize_any(Visitor(PhantomData))
}

fn is_empty(sampling: &Sampling) -> bool {
    sampling.settings().is_empty()
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
