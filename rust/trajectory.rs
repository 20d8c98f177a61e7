//! What is an episode, as it is kept and trained on?
//!
//! All of it: enough to train on, to grade again, and to enter again at any step. Files of trajectories are in file.rs.
//!
//! Not here: other formats ([`crate::formats`]), making trajectories (the agent loop, in Python), choosing among them,
//! turning them into training examples.

use std::cell::RefCell;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::action::Parsed;
use crate::error::{Error, Place, Result};
use crate::json;
use crate::observation::Observation;

mod file;
mod records;

pub use file::{TrajectoryWriter, read_header};
pub(crate) use file::{header_line, is_header, is_unfinished, sync_folder};
pub(crate) use records::{Record, Records};

/// The version of the format that this build writes, and the highest that it reads.
pub const VERSION: u32 = 1;

/// One episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Trajectory {
    #[serde(deserialize_with = "known_version")]
    pub version: u32, // stays the first field: a newer format is recognised before it is misread
    pub task_id: String,
    pub question: String,
    /// The task's own answer.
    pub reference: Option<String>,
    /// Other answers that are as right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    pub task_set: String,
    pub kind: TrajectoryKind,
    pub model: String,
    /// `(role, content)` of what stood before the first step.
    pub messages: Vec<(String, String)>,
    #[serde(deserialize_with = "with_winners")]
    pub steps: Vec<Step>,
    pub outcome: Outcome,
    pub answer: Option<String>,
    pub score: Option<f64>,
    pub grader: Option<String>,
    pub error: Option<String>,
    pub sampling: Sampling,
    /// Prompt and completion tokens.
    pub usage: (u64, u64),
    #[serde(deserialize_with = "null_as_nan")]
    pub seconds: f64,
}

/// The sampling settings of the model, as JSON. A run has the same in each trajectory, and they are there once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling(Arc<Map<String, Value>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrajectoryKind {
    #[default]
    Agent,
    /// A chain of thought, for the baseline: one step, no actions.
    Cot,
}

/// How an episode ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    #[default]
    FinalAnswer,
    OutOfSteps,
    /// Its last step could not be parsed.
    ParseFailure,
    /// Its last completion hit the token limit.
    CutCompletion,
    /// The model could not be had; `error` says why.
    ModelError,
    SandboxError,
    Error,
}

/// One turn of the model: all its candidates, and the one that went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Step {
    #[serde(deserialize_with = "without_room")]
    pub candidates: Vec<Candidate>,
    pub winner: usize,
    pub votes: Vec<(String, usize)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// What the model was told after this step; "" after the last.
    pub message: String,
    /// The State after the winner, as bytes whose base is the State before this step; where it was asked for.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "to_base64",
        deserialize_with = "from_base64"
    )]
    pub state: Option<Vec<u8>>,
    #[serde(deserialize_with = "null_as_nan")]
    pub seconds: f64,
    /// Of `seconds`, those that passed until the model had answered.
    #[serde(default, deserialize_with = "null_as_nan")]
    pub model_seconds: f64,
    /// Tokens of the prompt that the model's engine had read before, and did not read again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
}

/// One completion of a step, and what it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Candidate {
    pub text: String,
    /// What the model was given as the beginning of `text` (the first-thought prefix).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// What a reasoning model thought before `text`, without the tags; `token_ids` have it too.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// One per token. JSON has no infinities: what is not finite is written as null, and read back as NaN.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "nulls_as_nan")]
    pub logprobs: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// `None` in a chain of thought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Parsed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
}

impl Trajectory {
    /// One line of JSON, without the newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists are always JSON")
    }

    /// # Errors
    ///
    /// [`Error::Trajectory`] when the line is no trajectory, or one of a newer version.
    pub fn from_json(line: &str) -> Result<Self> {
        parse(line.as_bytes(), || Place::Nowhere)
    }
}

impl Sampling {
    pub fn settings(&self) -> &Map<String, Value> {
        &self.0
    }

    pub fn settings_mut(&mut self) -> &mut Map<String, Value> {
        Arc::make_mut(&mut self.0)
    }
}

impl From<Map<String, Value>> for Sampling {
    fn from(settings: Map<String, Value>) -> Self {
        Self(settings.into())
    }
}

impl Serialize for Sampling {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.settings().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        thread_local! {
            static LAST: RefCell<(Box<str>, Sampling)> = RefCell::default();
        }
        let json = <&RawValue>::deserialize(deserializer)?.get();
        LAST.with_borrow_mut(|(known, sampling)| {
            if **known != *json {
                let settings: Map<String, Value> = serde_json::from_str(json).map_err(de::Error::custom)?;
                (*known, *sampling) = (json.into(), settings.into());
            }
            Ok(sampling.clone())
        })
    }
}

fn parse<T: de::DeserializeOwned>(line: &[u8], place: impl FnOnce() -> Place) -> Result<T> {
    json::parse(line).map_err(|error| Error::trajectory(place(), format!("not a trajectory: {error}")))
}

fn known_version<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u32, D::Error> {
    match u32::deserialize(deserializer)? {
        version @ 1..=VERSION => Ok(version),
        version => Err(de::Error::custom(format!(
            "it is of version {version}, and this agentdistill reads versions up to {VERSION}: update agentdistill"
        ))),
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn to_base64<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    bytes.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes)).serialize(serializer)
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Vec<u8>>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| BASE64_STANDARD.decode(text)).transpose().map_err(de::Error::custom)
}

/// Lists grow with room for four, and most steps have one candidate: of a file, this is a fifth of what it takes.
fn without_room<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<T>, D::Error> {
    let mut list = Vec::deserialize(deserializer)?;
    list.shrink_to_fit();
    Ok(list)
}

/// Steps whose winner is one of their candidates.
fn with_winners<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<Step>, D::Error> {
    let steps = Vec::<Step>::deserialize(deserializer)?;
    match (1..).zip(&steps).find(|(_, step)| step.winner >= step.candidates.len()) {
        None => Ok(steps),
        Some((number, Step { winner, candidates, .. })) => Err(de::Error::custom(format!(
            "the winner of step {number} is {winner}, but there are {} candidates",
            candidates.len()
        ))),
    }
}

fn null_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn nulls_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Vec<f64>>, D::Error> {
    let numbers: Option<Vec<Option<f64>>> = Option::deserialize(deserializer)?;
    Ok(numbers.map(|numbers| numbers.into_iter().map(|number| number.unwrap_or(f64::NAN)).collect()))
}
