//! ATIF, the Agent Trajectory Interchange Format of Harbor. Writes v1.7, and reads v1.0 to v1.7.
//!
//! A record has `schema_version`, `session_id`, `agent` (`name`, `version`, `model_name`), `steps`, `final_metrics` and
//! `extra`. A step has `step_id` (from 1), `source` (`system`, `user`, `agent`) and `message`. An agent's step may have
//! `reasoning_content`, `tool_calls` (`tool_call_id`, `function_name`, `arguments`), `observation.results`
//! (`source_call_id`, `content`), `metrics` (`prompt_token_ids`, `completion_token_ids`, `logprobs`, `cached_tokens`)
//! and `is_copied_context`. The last one marks a step that must not be trained on; such steps at the start were given
//! to the episode. Source: Harbor's RFC 0001.
//!
//! Not read: images, subagents, costs, timestamps. Not written: candidates other than the winner of each step, log
//! probabilities that are not finite, States.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::assistant_turn::{AssistantTurn, reasoning, without_label};
use super::chat::{Function, code_of};
use super::conversation::{Conversation, Role};
use super::fields::Text;
use super::metadata::{Metadata, given_steps};
use super::python_tool::{PYTHON, python_tool};
use crate::action::json::Json;
use crate::trajectory::Trajectory;

const VERSION: &str = "ATIF-v1.7";

#[derive(Deserialize)]
pub struct Record {
    schema_version: String,
    #[serde(default)]
    session_id: Text,
    #[serde(default)]
    trajectory_id: Text,
    #[serde(default, deserialize_with = "super::fields::nested")]
    agent: Option<Agent>,
    #[serde(default, deserialize_with = "super::fields::nested")]
    steps: Option<Vec<Step>>,
    #[serde(default, deserialize_with = "super::fields::nested")]
    final_metrics: Option<FinalMetrics>,
    #[serde(default, deserialize_with = "super::fields::nested")]
    extra: Option<Extra>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Agent {
    name: Text,
    model_name: Text,
}

#[derive(Deserialize)]
struct Step {
    source: String,
    #[serde(default)]
    message: Text,
    #[serde(default)]
    reasoning_content: Text,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
    #[serde(default)]
    observation: Option<CallResults>,
    #[serde(default)]
    metrics: Option<Metrics>,
    #[serde(default)]
    is_copied_context: Option<bool>,
}

#[derive(Deserialize)]
struct Call {
    #[serde(default)]
    tool_call_id: Text,
    function_name: String,
    #[serde(default)]
    arguments: Json,
}

#[derive(Deserialize)]
struct CallResults {
    results: Vec<CallResult>,
}

#[derive(Deserialize)]
struct CallResult {
    #[serde(default)]
    source_call_id: Text,
    #[serde(default)]
    content: Text,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metrics {
    cached_tokens: Option<u64>,
    prompt_token_ids: Option<Vec<u32>>,
    completion_token_ids: Option<Vec<u32>>,
    logprobs: Option<Vec<f64>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FinalMetrics {
    total_prompt_tokens: Option<u64>,
    total_completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Extra {
    #[serde(default, rename = "agentdistill", deserialize_with = "super::fields::nested")]
    metadata: Option<Metadata>,
}

impl Record {
    pub fn read(self) -> Result<Conversation, String> {
        if !self.schema_version.starts_with("ATIF-v1.") {
            return Err(format!("its version is {:?}, but only ATIF-v1 can be read", self.schema_version));
        }
        let metadata = self.extra.and_then(|extra| extra.metadata);
        let is_ours = metadata.is_some();
        let mut conversation = Conversation::new(metadata);
        if !is_ours {
            conversation.metadata.task_id = self.trajectory_id.0.or(self.session_id.0);
            let agent = self.agent.unwrap_or_default();
            conversation.metadata.model = agent.model_name.0.or(agent.name.0).unwrap_or_default();
        }
        let copied = |step: &&Step| step.source != "agent" || step.is_copied_context == Some(true);
        let steps = self.steps.ok_or("it has no steps")?;
        let given = steps.iter().take_while(copied).filter(|step| step.source == "agent").count();
        conversation.metadata.set_given(given);
        steps.into_iter().try_for_each(|step| step.read(&mut conversation))?;
        let used = self.final_metrics.unwrap_or_default();
        conversation.usage = (used.total_prompt_tokens.unwrap_or(0), used.total_completion_tokens.unwrap_or(0));
        Ok(conversation)
    }
}

impl Step {
    fn read(mut self, conversation: &mut Conversation) -> Result<(), String> {
        let ids: Vec<Text> = self.tool_calls.iter().flatten().map(|call| call.tool_call_id.clone()).collect();
        let message = self.message.or_empty();
        if self.source != "agent" {
            conversation.say(Role::of(&self.source)?, message);
        } else {
            let mut reasoning = self.reasoning_content.or_empty();
            let before = if conversation.is_ours { String::new() } else { std::mem::take(&mut reasoning) };
            let thought = [before, message];
            let thought: Vec<&str> = thought.iter().map(|text| &text[..]).filter(|text| !text.is_empty()).collect();
            let calls: Vec<Function> = self.tool_calls.into_iter().flatten().map(Call::function).collect();
            let text = thought.join("\n");
            let turn = match &calls[..] {
                [] => conversation.turn(text),
                calls => conversation.act(&text, &code_of(calls)),
            };
            if let Some(metrics) = self.metrics {
                turn.cached_tokens = metrics.cached_tokens.unwrap_or(0);
                turn.prompt_token_ids = metrics.prompt_token_ids;
                turn.token_ids = metrics.completion_token_ids;
                turn.logprobs = metrics.logprobs;
            }
            if !reasoning.is_empty() {
                conversation.reason(reasoning);
            }
        }
        if let Some(seen) = &mut self.observation {
            let place =
                |result: &CallResult| ids.iter().position(|id| id.0.is_some() && id.0 == result.source_call_id.0);
            seen.results.sort_by_key(|result| place(result).unwrap_or(ids.len())); // into the order of the calls
        }
        for result in self.observation.into_iter().flat_map(|seen| seen.results) {
            conversation.observe(result.content.or_empty());
        }
        Ok(())
    }
}

impl Call {
    fn function(self) -> Function {
        Function { name: self.function_name, arguments: self.arguments }
    }
}

pub fn write(trajectory: &Trajectory) -> Value {
    let mut steps: Vec<Value> = Vec::new();
    for (role, text) in &trajectory.messages {
        let source = match &role[..] {
            "system" => "system",
            "assistant" => "agent",
            _ => "user",
        };
        steps.push(json!({"step_id": steps.len() + 1, "source": source, "message": text}));
    }
    for (number, step) in trajectory.steps.iter().enumerate() {
        let id = format!("call_{}", number + 1);
        let mut record = Map::new();
        let mut set = |key: &str, value: Value| _ = record.insert(key.to_owned(), value);
        set("step_id", (steps.len() + 1).into());
        set("source", "agent".into());
        if let Some((key, said)) = reasoning(step) {
            set(key, said.into());
        }
        let call = match AssistantTurn::of(step) {
            AssistantTurn::Code { thought, code } => {
                set("message", thought.into());
                let arguments = json!({"code": code});
                set("tool_calls", json!([{"tool_call_id": id, "function_name": PYTHON, "arguments": arguments}]));
                Some(id)
            }
            AssistantTurn::Text(text) => {
                set("message", text.into());
                None
            }
        };
        if !step.message.is_empty() {
            let content = if call.is_some() { without_label(&step.message) } else { &step.message };
            let mut result = json!({"content": content});
            if let Some(id) = call {
                result["source_call_id"] = id.into();
            }
            set("observation", json!({"results": [result]}));
        }
        if let Some(metrics) = metrics(step) {
            set("metrics", metrics);
        }
        if number < given_steps(&trajectory.sampling) {
            set("is_copied_context", true.into());
        }
        steps.push(Value::Object(record));
    }
    let mut agent =
        json!({"name": "agentdistill", "version": env!("CARGO_PKG_VERSION"), "tool_definitions": [python_tool()]});
    if !trajectory.model.is_empty() {
        agent["model_name"] = trajectory.model[..].into();
    }
    let total_steps = steps.len();
    json!({
        "schema_version": VERSION,
        "session_id": trajectory.task_id,
        "agent": agent,
        "steps": steps,
        "final_metrics": {
            "total_prompt_tokens": trajectory.usage.0,
            "total_completion_tokens": trajectory.usage.1,
            "total_steps": total_steps,
        },
        "extra": {Metadata::KEY: Metadata::of(trajectory)},
    })
}

fn metrics(step: &crate::trajectory::Step) -> Option<Value> {
    let chosen = step.candidates.get(step.winner)?;
    let mut metrics = Map::new();
    let mut set = |key: &str, value: Value| _ = metrics.insert(key.to_owned(), value);
    if let Some(ids) = &step.prompt_token_ids {
        set("prompt_tokens", ids.len().into());
        set("prompt_token_ids", ids[..].into());
    }
    if step.cached_tokens > 0 {
        set("cached_tokens", step.cached_tokens.into());
    }
    if let Some(ids) = &chosen.token_ids {
        set("completion_tokens", ids.len().into());
        set("completion_token_ids", ids[..].into());
    }
    if let Some(logprobs) = chosen.logprobs.as_ref().filter(|logprobs| logprobs.iter().all(|p| p.is_finite())) {
        set("logprobs", logprobs[..].into());
    }
    (!metrics.is_empty()).then_some(Value::Object(metrics))
}
