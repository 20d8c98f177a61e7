//! The parts of a trajectory that a conversation does not contain.
//!
//! They are stored in one object under the key `agentdistill`, which other programs ignore. All fields are optional;
//! what is missing is derived from the conversation (`conversation.rs`).

use memchr::memchr_iter;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::action::{ActionFormat, Parsed, parse_action};
use crate::trajectory::{Outcome, Sampling, Trajectory, TrajectoryKind};

/// The setting for the number of steps that a trajectory was given. These steps are not trained on.
const GIVEN: &str = "given_steps";

/// The parts of a trajectory that a conversation does not contain. See the module documentation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metadata {
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

impl Metadata {
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

    /// Adds a setting.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.sampling.settings_mut().insert(name.to_owned(), value.into());
    }

    /// Returns the format of the actions. It comes from the settings, or else from the first of `texts` that shows a
    /// format, which then becomes a setting.
    pub fn action_format<'a>(&mut self, mut texts: impl Iterator<Item = &'a str>) -> ActionFormat {
        const SETTING: &str = "action_format";
        const MARKS: [(&str, ActionFormat); 4] = [
            ("<tool_call>", ActionFormat::ToolCall),
            ("<search>", ActionFormat::SearchTags),
            ("<|begin_of_query|>", ActionFormat::SearchTags),
            ("<execute>", ActionFormat::CodeTags),
        ];
        if let Some(name) = self.sampling.settings().get(SETTING) {
            return ActionFormat::deserialize(name).unwrap_or_default();
        }
        let mark_at = |text: &str| MARKS.into_iter().find(|(mark, _)| text.starts_with(mark));
        let marked = |text: &str| memchr_iter(b'<', text.as_bytes()).find_map(|at| mark_at(&text[at..]));
        let unread = |text: &str| matches!(parse_action(text, ActionFormat::Code), Parsed::Failure(_));
        let found = texts.find_map(|text| marked(text).filter(|_| unread(text)));
        let Some((_, format)) = found else { return ActionFormat::Code };
        let name = serde_json::to_value(format).expect("a name is JSON");
        self.sampling.settings_mut().insert(SETTING.to_owned(), name);
        format
    }

    /// Records that the first `steps` steps were given to the model.
    pub fn set_given(&mut self, steps: usize) {
        if steps > 0 {
            self.sampling.settings_mut().insert(GIVEN.to_owned(), steps.into());
        }
    }

    /// Removes the number of given steps, for a record whose prompt contains them.
    pub fn clear_given(&mut self) {
        self.sampling.settings_mut().shift_remove(GIVEN);
    }
}

/// Returns the number of steps that a trajectory was given.
pub fn given_steps(sampling: &Sampling) -> usize {
    let given = sampling.settings().get(GIVEN).and_then(Value::as_u64);
    given.and_then(|given| usize::try_from(given).ok()).unwrap_or(0)
}

fn is_empty(sampling: &Sampling) -> bool {
    sampling.settings().is_empty()
}
