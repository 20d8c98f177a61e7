//! Formats of messages: OpenAI's with `tool_calls`, TRL's `messages`, and TRL's `prompt` and `completion`.
//!
//! A record has `messages`, or `prompt` and `completion`. Each of them is a text or a list of
//! `{role, content, tool_calls}`. A record may also have `tools` and `id`. Sources: OpenAI's API reference (chat
//! completions) and TRL's "Dataset formats".
//!
//! - `openai`: a step with code is a call of the tool `python`, and its Thought is the content of the message. The
//!   result is a message with the role `tool`. Arguments are JSON in a string, as in the API.
//! - `messages`: the same as text, in the form that students are trained on: `Thought:`, `Code:` and a block, then a
//!   user message that starts with `Observation:`.
//! - `prompt-completion`: one record for each step, so that a loss on completions covers what the model wrote. Steps
//!   that the episode was given occur only in prompts.
//!
//! All three are read, as well as calls of any tool, which become the Python code that makes them. An assistant's turns
//! in a `prompt` are steps that the episode was given. The thinking of a reasoning model is `reasoning_content`. In
//! records of others, it is read as part of the Thought. Not written: candidates other than the winner of each step.

use serde::{Deserialize, Deserializer, de};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::assistant_turn::{AssistantTurn, reasoning, without_label};
use super::conversation::{Conversation, Role, join};
use super::fields::Text;
use super::metadata::{Metadata, given_steps};
use super::python_tool::{PYTHON, call_code, python_tool};
use crate::action::json::Json;
use crate::trajectory::{Step, Trajectory};

#[derive(Deserialize)]
pub struct Record {
    #[serde(default)]
    id: Text,
    #[serde(default, deserialize_with = "super::fields::nested")]
    messages: Option<Vec<Message>>,
    #[serde(default)]
    prompt: Option<Messages>,
    #[serde(default)]
    completion: Option<Messages>,
    #[serde(default, rename = "agentdistill", deserialize_with = "super::fields::nested")]
    metadata: Option<Metadata>,
}

enum Messages {
    Text(String),
    List(Vec<Message>),
}

impl<'de> Deserialize<'de> for Messages {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?.get();
        let read = if json.starts_with('"') {
            serde_json::from_str(json).map(Self::Text)
        } else {
            serde_json::from_str(json).map(Self::List)
        };
        read.map_err(de::Error::custom)
    }
}

#[derive(Deserialize)]
pub struct Message {
    role: Role,
    #[serde(default)]
    content: Text,
    /// vLLM and others name this field `reasoning`, and Ollama's API names it `thinking`.
    #[serde(default)]
    reasoning_content: Text,
    #[serde(default)]
    reasoning: Text,
    #[serde(default)]
    thinking: Text,
    /// The same in parts: OpenRouter's, and LiteLLM's.
    #[serde(default)]
    reasoning_details: Option<Vec<Thought>>,
    #[serde(default)]
    thinking_blocks: Option<Vec<Thought>>,
    /// What OpenAI's models say in place of a content.
    #[serde(default)]
    refusal: Text,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
    /// The only call of a message in OpenAI's older protocol.
    #[serde(default)]
    function_call: Option<Function>,
    /// The call that a tool's message answers.
    #[serde(default)]
    tool_call_id: Text,
}

/// A part of a model's thinking. An encrypted part has no text.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Thought {
    text: Text,
    summary: Text,
    thinking: Text,
}

#[derive(Deserialize)]
#[serde(try_from = "AnyCall")]
pub struct Call {
    id: Text,
    pub function: Function,
}

#[derive(Deserialize)]
pub struct Function {
    pub name: String,
    #[serde(default)]
    pub arguments: Json,
}

/// A call in OpenAI's API, of a function or of a custom tool, whose input is a text; or in a flat form, such as
/// LangChain's.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AnyCall {
    id: Text,
    function: Option<Function>,
    custom: Option<Custom>,
    name: Option<String>,
    args: Json,
    arguments: Json,
    input: Json,
}

#[derive(Deserialize)]
struct Custom {
    name: String,
    #[serde(default)]
    input: Json,
}

impl TryFrom<AnyCall> for Call {
    type Error = &'static str;

    fn try_from(call: AnyCall) -> Result<Self, Self::Error> {
        let custom = call.custom.map(|custom| Function { name: custom.name, arguments: custom.input });
        let arguments = [call.args, call.arguments, call.input].into_iter().find(|given| *given != Json::default());
        let flat = call.name.map(|name| Function { name, arguments: arguments.unwrap_or_default() });
        let function = call.function.or(custom).or(flat).ok_or("a call without a function")?;
        if function.name.trim().is_empty() {
            return Err("a call without the name of its function");
        }
        Ok(Self { id: call.id, function })
    }
}

impl Message {
    /// Returns the message's text, if it is from the model.
    pub fn model_text(&self) -> Option<&str> {
        matches!(self.role, Role::Assistant).then_some(self.content.0.as_deref()).flatten()
    }

    /// Returns the number of passages that the paper's code inserted into the message.
    pub fn passages(&self) -> usize {
        self.content.0.as_deref().map_or(0, |text| text.matches("\n===== Document ").count())
    }
}

impl Record {
    pub fn read(self) -> Result<Conversation, String> {
        let mut conversation = Conversation::new(self.metadata);
        match (self.messages, self.prompt, self.completion) {
            (Some(messages), ..) => say_all(&mut conversation, messages),
            (None, Some(prompt), Some(completion)) => {
                say_all(&mut conversation, prompt.by(Role::User));
                conversation.metadata.set_given(conversation.turns());
                say_all(&mut conversation, completion.by(Role::Assistant));
            }
            _ => return Err("it has neither messages nor prompt and completion".to_owned()),
        }
        conversation.metadata.task_id = conversation.metadata.task_id.take().or(self.id.0);
        Ok(conversation)
    }
}

impl Messages {
    fn by(self, role: Role) -> Vec<Message> {
        match self {
            Self::List(messages) => messages,
            Self::Text(text) => vec![Message {
                role,
                content: Text(Some(text)),
                reasoning_content: Text(None),
                reasoning: Text(None),
                thinking: Text(None),
                reasoning_details: None,
                thinking_blocks: None,
                refusal: Text(None),
                tool_calls: None,
                function_call: None,
                tool_call_id: Text(None),
            }],
        }
    }
}

pub fn say_all(conversation: &mut Conversation, mut messages: Vec<Message>) {
    sort_results(&mut messages);
    for message in messages {
        let Message { role, content, refusal, tool_calls, function_call, .. } = message;
        let parts = [message.reasoning_details, message.thinking_blocks].map(Option::unwrap_or_default).map(in_one);
        let reasonings = [message.reasoning_content, message.reasoning, message.thinking].map(Text::or_empty);
        let mut reasoning = reasonings.into_iter().chain(parts).find(|text| !text.is_empty()).unwrap_or_default();
        let mut thought = if conversation.is_ours { String::new() } else { std::mem::take(&mut reasoning) };
        join(&mut thought, content.0.or(refusal.0).unwrap_or_default());
        let calls: Vec<Function> = tool_calls.into_iter().flatten().map(|call| call.function).collect();
        let calls = if calls.is_empty() { Vec::from_iter(function_call) } else { calls }; // some clients write both
        match &calls[..] {
            [] => conversation.say(role, thought),
            calls => _ = conversation.act(&thought, &code_of(calls)),
        }
        if !reasoning.is_empty() {
            conversation.reason(reasoning);
        }
    }
}

fn in_one(thoughts: Vec<Thought>) -> String {
    let mut whole = String::new();
    for Thought { text, summary, thinking } in thoughts {
        join(&mut whole, text.0.or(summary.0).or(thinking.0).unwrap_or_default());
    }
    whole
}

/// Sorts the results of parallel calls into the order of the calls, because the code prints them in that order.
fn sort_results(messages: &mut [Message]) {
    let mut at = 0;
    while at < messages.len() {
        let calls = messages[at].tool_calls.as_deref().unwrap_or_default();
        let ids: Vec<String> = calls.iter().map(|call| call.id.0.clone().unwrap_or_default()).collect();
        let results = messages[at + 1..].iter().take_while(|message| message.role.is_tool()).count();
        if ids.len() > 1 {
            let place = |message: &Message| ids.iter().position(|id| message.tool_call_id.0.as_ref() == Some(id));
            messages[at + 1..=at + results].sort_by_key(|message| place(message).unwrap_or(ids.len()));
        }
        at += 1 + results;
    }
}

/// Returns tool calls as the Python code that makes them.
pub fn code_of<'a>(functions: impl IntoIterator<Item = &'a Function>) -> String {
    let code = functions.into_iter().map(|function| call_code(&function.name, &function.arguments));
    code.collect::<Vec<_>>().join("\n")
}

pub fn write_openai(trajectory: &Trajectory) -> Value {
    let mut messages = opening(trajectory);
    let last = trajectory.steps.len().saturating_sub(1);
    for (number, step) in trajectory.steps.iter().enumerate() {
        let id = format!("call_{}", number + 1);
        let observation = match AssistantTurn::of(step) {
            AssistantTurn::Code { thought, code } => {
                let arguments = json!({"code": code}).to_string();
                let call = json!({"id": id, "type": "function", "function": {"name": PYTHON, "arguments": arguments}});
                messages
                    .push(with_reasoning(json!({"role": "assistant", "content": thought, "tool_calls": [call]}), step));
                json!({"role": "tool", "content": without_label(&step.message), "tool_call_id": id})
            }
            AssistantTurn::Text(text) => {
                messages.push(with_reasoning(message("assistant", text), step));
                message("user", &step.message)
            }
        };
        if number < last {
            messages.push(observation);
        }
    }
    json!({"messages": messages, "tools": [python_tool()], Metadata::KEY: Metadata::of(trajectory)})
}

pub fn write_messages(trajectory: &Trajectory) -> Value {
    json!({"messages": plain_messages(trajectory), Metadata::KEY: Metadata::of(trajectory)})
}

/// Returns one record for each step that the model wrote.
pub fn write_prompt_completion(trajectory: &Trajectory) -> Vec<Value> {
    let messages = plain_messages(trajectory);
    let before = trajectory.messages.len();
    (given_steps(&trajectory.sampling)..trajectory.steps.len())
        .map(|step| {
            let turn = before + 2 * step;
            let mut metadata = Metadata::of(trajectory);
            metadata.task_id = Some(format!("{}/{}", trajectory.task_id, step + 1));
            metadata.clear_given(); // the prompt contains these steps
            if step + 1 < trajectory.steps.len() {
                (metadata.outcome, metadata.answer, metadata.score, metadata.grader) = (None, None, None, None);
            }
            json!({"prompt": messages[..turn], "completion": [messages[turn]], Metadata::KEY: metadata})
        })
        .collect()
}

/// Returns the conversation as text, up to the model's last turn.
fn plain_messages(trajectory: &Trajectory) -> Vec<Value> {
    let mut messages = opening(trajectory);
    for (number, step) in trajectory.steps.iter().enumerate() {
        messages.push(with_reasoning(message("assistant", &AssistantTurn::of(step).text()), step));
        if number + 1 < trajectory.steps.len() {
            messages.push(message("user", &step.message));
        }
    }
    messages
}

fn opening(trajectory: &Trajectory) -> Vec<Value> {
    trajectory.messages.iter().map(|(role, content)| message(role, content)).collect()
}

fn with_reasoning(mut message: Value, step: &Step) -> Value {
    if let Some((key, said)) = reasoning(step) {
        message[key] = said.into();
    }
    message
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}
