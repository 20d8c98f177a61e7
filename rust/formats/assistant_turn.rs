//! Renders a model's turn in a format of messages.

use crate::action::{Action, ActionFormat, Parsed};
use crate::trajectory::{Candidate, Step};

/// The label of messages with the result of an action, as in our prompts and smolagents'.
pub const OBSERVATION: &str = "Observation:";

/// The winner of a step, as prompts show it (`assistant_turn` in `rollouts/prompt.py`).
pub enum AssistantTurn<'a> {
    Code { thought: &'a str, code: &'a str },
    Text(&'a str),
}

impl<'a> AssistantTurn<'a> {
    pub fn of(step: &'a Step) -> Self {
        const MAX_CHARS: usize = 2_000;
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
                Self::Text(text.char_indices().nth(MAX_CHARS).map_or(text, |(end, _)| &text[..end]))
            }
            Some(Candidate { text, .. }) => Self::Text(text.trim()),
        }
    }

    pub fn text(&self) -> String {
        match self {
            Self::Code { thought, code } => code_turn(thought, code),
            Self::Text(text) => (*text).to_owned(),
        }
    }
}

/// Returns the key `reasoning_content` and the winner's thinking before its text, if it has any.
pub fn reasoning(step: &Step) -> Option<(&'static str, &str)> {
    let chosen = step.candidates.get(step.winner)?;
    (!chosen.reasoning.is_empty()).then_some(("reasoning_content", &chosen.reasoning))
}

/// Returns a turn that runs code, in the format [`ActionFormat::Code`].
pub fn code_turn(thought: &str, code: &str) -> String {
    let thought = thought.trim();
    let label = if thought.is_empty() { "" } else { "Thought: " };
    let end = if thought.is_empty() { "" } else { "\n" };
    format!("{label}{thought}{end}Code:\n```py\n{code}\n```<end_code>")
}

/// Returns the message after a step without its label. Formats with a role for observations need no label.
pub fn without_label(message: &str) -> &str {
    message.strip_prefix(OBSERVATION).and_then(|rest| rest.strip_prefix('\n')).unwrap_or(message)
}
