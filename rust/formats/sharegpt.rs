//! ShareGPT, as read by LLaMA-Factory (`formatting: sharegpt`).
//!
//! A record has `conversations`, a list of `{from, value}`, and may have `system`, `tools` (JSON in a string) and `id`.
//! Odd turns are `human` or `observation`. Even turns are `gpt` or `function_call`, and the last turn is one of these.
//! A `function_call` is JSON, `{"name", "arguments"}` or a list of such objects, after an optional
//! `<think>...</think>`. Turns with `role` and `content` are read, too. Source: LLaMA-Factory's `data/converter.py` and `data/formatter.py`.
//!
//! A step with code is written as a `function_call` of the tool `python`, with its Thought between `<think>` tags. Any
//! other step is written as `gpt`. The thinking of a reasoning model is in a field that LLaMA-Factory ignores,
//! `reasoning_content`. Not written: candidates other than the winner of each step.

use serde::Deserialize;
use serde_json::{Value, json};

use super::assistant_turn::{AssistantTurn, reasoning, without_label};
use super::chat::{Function, code_of};
use super::conversation::{Conversation, Role};
use super::fields::Text;
use super::metadata::Metadata;
use super::python_tool::{PYTHON, python_tool};
use crate::trajectory::Trajectory;

const THINK: (&str, &str) = ("<think>", "</think>");

#[derive(Deserialize)]
pub struct Record {
    #[serde(default)]
    id: Text,
    #[serde(default)]
    system: Text,
    #[serde(default, deserialize_with = "super::fields::nested")]
    conversations: Option<Vec<Turn>>,
    #[serde(default, rename = "agentdistill", deserialize_with = "super::fields::nested")]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Turn {
    #[serde(alias = "role")]
    from: String,
    #[serde(alias = "content")]
    value: Text,
    #[serde(default)]
    reasoning_content: Text,
}

impl Record {
    pub fn read(self) -> Result<Conversation, String> {
        let mut conversation = Conversation::new(self.metadata);
        if let Some(system) = self.system.0.filter(|system| !system.is_empty()) {
            conversation.say(Role::System, system);
        }
        for Turn { from, value, reasoning_content } in self.conversations.ok_or("it has no conversations")? {
            let value = value.or_empty();
            match &from[..] {
                "function_call" => call(&mut conversation, &value)?,
                _ => conversation.say(Role::of(&from)?, value),
            }
            if let Some(reasoning) = reasoning_content.0 {
                conversation.reason(reasoning);
            }
        }
        conversation.metadata.task_id = conversation.metadata.task_id.take().or(self.id.0);
        Ok(conversation)
    }
}

/// Adds a `function_call` to the conversation.
fn call(conversation: &mut Conversation, value: &str) -> Result<(), String> {
    let (thought, json) = match value.trim_start().strip_prefix(THINK.0).and_then(|rest| rest.split_once(THINK.1)) {
        Some((thought, json)) => (thought.trim(), json),
        None => ("", value),
    };
    let functions: Vec<Function> = if json.trim_start().starts_with('[') {
        serde_json::from_str(json)
    } else {
        serde_json::from_str(json).map(|function| vec![function])
    }
    .map_err(|error| format!("a function_call is not JSON: {error}"))?;
    conversation.act(thought, &code_of(&functions));
    Ok(())
}

pub fn write(trajectory: &Trajectory) -> Value {
    let turn = |from: &str, value: &str| json!({"from": from, "value": value});
    let said = |from: &str, value: &str, step| {
        let mut turn = turn(from, value);
        if let Some((key, said)) = reasoning(step) {
            turn[key] = said.into();
        }
        turn
    };
    let opened = trajectory.messages.iter().map(|(role, text)| match &role[..] {
        "user" => turn("human", text),
        "assistant" => turn("gpt", text),
        role => turn(role, text),
    });
    let mut conversations: Vec<Value> = opened.collect();
    for (number, step) in trajectory.steps.iter().enumerate() {
        let observation = match AssistantTurn::of(step) {
            AssistantTurn::Code { thought, code } => {
                let call = json!({"name": PYTHON, "arguments": {"code": code}});
                let thought =
                    if thought.is_empty() { String::new() } else { format!("<think>\n{thought}\n</think>\n\n") };
                conversations.push(said("function_call", &format!("{thought}{call}"), step));
                turn("observation", without_label(&step.message))
            }
            AssistantTurn::Text(text) => {
                conversations.push(said("gpt", text, step));
                turn("human", &step.message)
            }
        };
        if number + 1 < trajectory.steps.len() {
            conversations.push(observation);
        }
    }
    let tools = json!([python_tool()["function"]]).to_string();
    json!({"conversations": conversations, "tools": tools, Metadata::KEY: Metadata::of(trajectory)})
}
