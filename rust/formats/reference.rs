//! The logs of the paper's own code (Nardien/agent-distillation): one line of JSON for each question.
//!
//! - A record of an agent has `model_id`, `question`, `generated_answer`, `true_answer`, `log_data` and `cost`, and
//!   `score` after grading. `log_data` contains `messages` (smolagents' memory) and `metadata`. On the hub it is JSON
//!   in a string. If the run failed it is null, and `error` gives the reason. Messages have the roles `system`, `user`,
//!   `assistant`, `tool-call` and `tool-response`, and their contents are lists of `{type: "text", text}`.
//! - A record of a chain of thought has the task's `id`, `question`, `answer` and `dataset_name`, and then
//!   `generated_answer`, `messages`, `response`, `input_tokens`, `output_tokens` and `score`.
//!
//! If an agent ran out of steps, its last message, a final answer as text, is only in the last conversation of
//! `original_memory`.
//!
//! Source: `exps_research/unified_framework` and `train_utils/preprocess.py` of that repository. Not read: plans and
//! `cost`. Not written: candidates other than the winner of each step, token ids.

use serde::Deserialize;
use serde_json::{Value, json};

use super::assistant_turn::AssistantTurn;
use super::chat::{Message, say_all};
use super::conversation::{Conversation, TASK};
use super::fields::Text;
use super::metadata::Metadata;
use crate::trajectory::{Outcome, Trajectory, TrajectoryKind};

#[derive(Deserialize)]
pub struct Record {
    #[serde(default)]
    id: Text,
    #[serde(default)]
    model_id: Text,
    question: Text,
    #[serde(default)]
    generated_answer: Text,
    #[serde(default)]
    true_answer: Text,
    #[serde(default)]
    answer: Text,
    #[serde(default)]
    dataset_name: Text,
    #[serde(default)]
    error: Text,
    #[serde(default, deserialize_with = "super::fields::nested")]
    log_data: Option<LogData>,
    #[serde(default, deserialize_with = "super::fields::nested")]
    messages: Option<Vec<Message>>,
    #[serde(default)]
    response: Text,
    #[serde(default)]
    input_tokens: Option<u64>,
    #[serde(default)]
    output_tokens: Option<u64>,
    #[serde(default, deserialize_with = "super::fields::score")]
    score: Option<f64>,
    #[serde(default, rename = "agentdistill", deserialize_with = "super::fields::nested")]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct LogData {
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(default)]
    original_memory: Memory,
    #[serde(default)]
    metadata: LogMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Memory {
    steps: Vec<MemoryStep>,
}

/// A step of the memory. Its messages are empty, except for a plan and for the last message of an agent out of steps.
#[derive(Deserialize)]
struct MemoryStep {
    #[serde(default)]
    messages: Vec<Message>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct LogMetadata {
    performance: Performance,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Performance {
    total_duration: f64,
}

impl Record {
    pub fn read(self) -> Result<Conversation, String> {
        let is_new = self.metadata.is_none();
        let mut conversation = Conversation::new(self.metadata);
        if is_new {
            conversation.metadata = Metadata {
                task_id: self.id.0,
                question: self.question.0,
                reference: self.true_answer.0.or(self.answer.0),
                task_set: self.dataset_name.or_empty(),
                model: self.model_id.or_empty(),
                answer: self.generated_answer.0,
                score: self.score,
                error: self.error.0,
                ..Metadata::default()
            };
            conversation.metadata.set("compat", "reference");
        }
        let failed = self.log_data.is_none() && self.messages.is_none();
        if failed && conversation.metadata.error.is_none() {
            return Err("it has neither log_data nor messages, and no error says why".to_owned());
        }
        if let Some(log_data) = self.log_data {
            conversation.seconds = log_data.metadata.performance.total_duration;
            say_all(&mut conversation, log_data.messages);
            let last = log_data.original_memory.steps.iter().rev().find_map(|step| step.messages.last()?.model_text());
            if let Some(word) = last.filter(|word| is_new && conversation.metadata.answer.as_deref() == Some(word)) {
                conversation.metadata.outcome = Some(Outcome::OutOfSteps);
                conversation.metadata.set("last_word", true);
                conversation.turn(word.to_owned());
            }
        } else if let Some(messages) = self.messages {
            conversation.metadata.kind = Some(TrajectoryKind::Cot);
            let passages = messages.last().map_or(0, Message::passages);
            if is_new && passages > 0 {
                conversation.metadata.set("passages", passages);
            }
            say_all(&mut conversation, messages);
            conversation.turn(self.response.or_empty());
        }
        conversation.usage = (self.input_tokens.unwrap_or(0), self.output_tokens.unwrap_or(0));
        Ok(conversation)
    }
}

pub fn write(trajectory: &Trajectory) -> Value {
    match trajectory.kind {
        TrajectoryKind::Agent => write_agent(trajectory),
        TrajectoryKind::Cot => write_chain(trajectory),
    }
}

fn write_agent(trajectory: &Trajectory) -> Value {
    let part = |role: &str, text: &str| json!({"role": role, "content": [{"type": "text", "text": text}]});
    let mut messages: Vec<Value> = Vec::new();
    for (role, text) in &trajectory.messages {
        let task = if role == "user" && !text.starts_with(TASK) { TASK } else { "" };
        messages.push(part(role, &format!("{task}{text}")));
    }
    for (number, step) in trajectory.steps.iter().enumerate() {
        messages.push(part("assistant", &AssistantTurn::of(step).text()));
        if !step.message.is_empty() {
            let call = format!("Call id: call_{}\n", number + 1);
            let message = step.message.strip_prefix(&call).unwrap_or(&step.message);
            messages.push(part("tool-response", &format!("{call}{message}")));
        }
    }
    let log_data = json!({
        "messages": messages,
        "metadata": {
            "task": trajectory.question,
            "model": {"model_id": trajectory.model},
            "total_steps": trajectory.steps.len(),
            "success": trajectory.answer.is_some(),
            "final_answer": trajectory.answer,
            "performance": {"total_duration": trajectory.seconds},
        },
    });
    json!({
        "model_id": trajectory.model,
        "question": trajectory.question,
        "generated_answer": trajectory.answer,
        "true_answer": trajectory.reference,
        "log_data": log_data,
        "input_tokens": trajectory.usage.0,
        "output_tokens": trajectory.usage.1,
        "score": trajectory.score,
        Metadata::KEY: Metadata::of(trajectory),
    })
}

fn write_chain(trajectory: &Trajectory) -> Value {
    let message = |(role, content): &(String, String)| json!({"role": role, "content": content});
    json!({
        "id": trajectory.task_id,
        "question": trajectory.question,
        "answer": trajectory.reference,
        "dataset_name": trajectory.task_set,
        "generated_answer": trajectory.answer,
        "response": trajectory.steps.first().map_or(String::new(), |step| AssistantTurn::of(step).text()),
        "messages": trajectory.messages.iter().map(message).collect::<Vec<_>>(),
        "input_tokens": trajectory.usage.0,
        "output_tokens": trajectory.usage.1,
        "score": trajectory.score,
        Metadata::KEY: Metadata::of(trajectory),
    })
}
