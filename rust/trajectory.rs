//! The trajectory: an episode as it is stored and trained on.
//!
//! A trajectory contains everything needed to train on it, to grade it again, and to resume it at any step. `file.rs`
//! writes files of trajectories.
//!
//! This module does not cover other formats ([`crate::formats`]), the creation of trajectories (the agent loop, in
//! Python), their selection, or their conversion into training examples.

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

/// The version of the format that this build writes. It is also the newest version that it reads.
pub const VERSION: u32 = 1;

/// One episode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Trajectory {
    #[serde(deserialize_with = "known_version")]
    pub version: u32, // must stay the first field, so that a newer format is detected first
    pub task_id: String,
    pub question: String,
    /// The reference answer of the task.
    pub reference: Option<String>,
    /// Other answers that count as correct.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    pub task_set: String,
    pub kind: TrajectoryKind,
    pub model: String,
    /// The messages before the first step, as `(role, content)`.
    pub messages: Vec<(String, String)>,
    #[serde(deserialize_with = "with_winners")]
    pub steps: Vec<Step>,
    pub outcome: Outcome,
    pub answer: Option<String>,
    pub score: Option<f64>,
    pub grader: Option<String>,
    pub error: Option<String>,
    pub sampling: Sampling,
    /// The number of prompt tokens and of completion tokens.
    pub usage: (u64, u64),
    #[serde(deserialize_with = "null_as_nan")]
    pub seconds: f64,
}

/// The model's sampling settings as JSON. All trajectories of a run have the same settings and share them in memory.
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
    /// The last step could not be parsed.
    ParseFailure,
    /// The last completion reached the token limit.
    CutCompletion,
    /// The model could not be called. `error` gives the reason.
    ModelError,
    SandboxError,
    Error,
}

/// One turn of the model: all candidates, and the one that the episode continued with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Step {
    #[serde(deserialize_with = "without_room")]
    pub candidates: Vec<Candidate>,
    pub winner: usize,
    pub votes: Vec<(String, usize)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// The message that the model got after this step; empty after the last step.
    pub message: String,
    /// The serialized State after the winner, as a difference to the State before this step. Present only on request.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        serialize_with = "to_base64",
        deserialize_with = "from_base64"
    )]
    pub state: Option<Vec<u8>>,
    #[serde(deserialize_with = "null_as_nan")]
    pub seconds: f64,
    /// The part of `seconds` until the model had answered.
    #[serde(default, deserialize_with = "null_as_nan")]
    pub model_seconds: f64,
    /// The number of prompt tokens that the model's engine had cached.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cached_tokens: u64,
}

/// One completion of a step, and its result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "python", pyo3::pyclass(frozen, get_all, eq, from_py_object, module = "agentdistill._core"))]
pub struct Candidate {
    pub text: String,
    /// The beginning of `text` that was given to the model (the first-thought prefix).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The thinking of a reasoning model before `text`, without its tags. `token_ids` include it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// One for each token. JSON has no infinities: values that are not finite are written as null and read as NaN.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "nulls_as_nan")]
    pub logprobs: Option<Vec<f64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<String>,
    /// `None` for a chain of thought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Parsed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observation: Option<Observation>,
}

impl Trajectory {
    /// Returns the trajectory as one line of JSON, without a newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists are always JSON")
    }

    /// # Errors
    ///
    /// [`Error::Trajectory`] if the line is not a trajectory, or has a newer version.
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

/// Deserializes a list without spare capacity. Vectors grow with room for four elements, and most steps have one
/// candidate, so this saves a fifth of a file's memory.
fn without_room<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<T>, D::Error> {
    let mut list = Vec::deserialize(deserializer)?;
    list.shrink_to_fit();
    Ok(list)
}

/// Deserializes steps, and checks that each winner is one of the step's candidates.
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
