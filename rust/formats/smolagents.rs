//! smolagents' memory: the steps of one run.
//!
//! A run is a list of steps, as returned by `agent.memory.get_full_steps()`, or the object around it that
//! `RunResult.dict()` returns (`output`, `state`, `steps`, `token_usage`, `timing`). A step has a `system_prompt`, a
//! `task` or a `plan`, or is an ActionStep: `step_number`, `timing`, `model_output`, `code_action`, `tool_calls`
//! (`{id, type, function}`), `observations`, `error`, `action_output`, `token_usage`, `is_final_answer`. Source:
//! smolagents 1.26, `memory.py` and `agents.py`.
//!
//! The action is the step's own code or calls, and the Thought is the model's text before them. This also holds if the
//! model's text does not contain the action, as with a ToolCallingAgent.
//!
//! Not read: `model_input_messages` (which repeat earlier steps), images, and the work of managed agents within a step.
//! Not written: candidates other than the winner of each step, token ids.

use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::assistant_turn::{AssistantTurn, without_label};
use super::chat::{Call, code_of};
use super::conversation::{Conversation, Role};
use super::fields::Text;
use super::metadata::Metadata;
use super::parse;
use crate::action::json::Json;
use crate::action::{Action, ActionFormat, Parsed, parse_action};
use crate::observation::ObservationKind;
use crate::trajectory::{Outcome, Trajectory};

/// The error of the step in which an agent that is out of steps gives its answer.
const MAX_STEPS: &str = "AgentMaxStepsError";

#[derive(Default, Deserialize)]
struct Run {
    #[serde(default)]
    output: Text,
    #[serde(default)]
    state: Option<String>,
    #[serde(default, deserialize_with = "super::fields::nested")]
    steps: Option<Vec<Step>>,
    #[serde(default, deserialize_with = "super::fields::nested")]
    token_usage: Option<TokenUsage>,
    #[serde(default, rename = "agentdistill", deserialize_with = "super::fields::nested")]
    metadata: Option<Metadata>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    step_number: Option<IgnoredAny>,
    #[serde(default)]
    system_prompt: Text,
    #[serde(default)]
    task: Text,
    #[serde(default)]
    plan: Text,
    #[serde(default)]
    timing: Timing,
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
    #[serde(default)]
    error: Option<Failure>,
    #[serde(default)]
    model_output: Text,
    #[serde(default)]
    model_output_message: Option<Message>,
    #[serde(default)]
    code_action: Text,
    #[serde(default)]
    observations: Text,
    #[serde(default)]
    action_output: Text,
    #[serde(default)]
    token_usage: Option<TokenUsage>,
    #[serde(default)]
    is_final_answer: bool,
}

/// The calls in the model's message. The step itself does not have them if one of them failed.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    tool_calls: Option<Vec<Call>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Timing {
    duration: Option<f64>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default, rename = "type")]
    kind: Text,
    #[serde(default)]
    message: Text,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenUsage {
    input_tokens: u64,
    output_tokens: u64,
}

pub fn read(record: &[u8]) -> Result<Conversation, String> {
    let run = if record.trim_ascii_start().starts_with(b"[") {
        Run { steps: Some(parse(record)?), ..Run::default() }
    } else {
        parse(record)?
    };
    let mut conversation = Conversation::new(run.metadata);
    let mut used = TokenUsage::default();
    for step in run.steps.ok_or("it has no steps")? {
        step.read(&mut conversation, &mut used);
    }
    let TokenUsage { input_tokens, output_tokens } = run.token_usage.unwrap_or(used);
    conversation.usage = (input_tokens, output_tokens);
    let metadata = &mut conversation.metadata;
    metadata.answer = metadata.answer.take().or(run.output.0);
    if run.state.as_deref() == Some("max_steps_error") {
        metadata.outcome = metadata.outcome.or(Some(Outcome::OutOfSteps));
    }
    Ok(conversation)
}

impl Step {
    fn read(self, conversation: &mut Conversation, used: &mut TokenUsage) {
        if let Some(system) = self.system_prompt.0 {
            return conversation.say(Role::System, system);
        }
        if let Some(task) = self.task.0 {
            return conversation.say(Role::User, task);
        }
        if let Some(plan) = self.plan.0 {
            _ = conversation.turn(plan);
            return;
        }
        if self.step_number.is_none() {
            return; // the FinalAnswerStep; the step before it has the output
        }
        let is_last_word = self.error.as_ref().is_some_and(|error| error.kind.0.as_deref() == Some(MAX_STEPS));
        let output = self.model_output.0.unwrap_or_default();
        let asked = self.model_output_message.and_then(|message| message.tool_calls);
        let calls = self.tool_calls.filter(|calls| !calls.is_empty()).or(asked).unwrap_or_default();
        let code = self.code_action.0.unwrap_or_else(|| code_of(calls.iter().map(|call| &call.function)));
        let seconds = self.timing.duration.unwrap_or(0.0);
        let turn = if is_last_word && output.is_empty() {
            // An agent that is out of steps is asked once more for its answer.
            conversation.metadata.outcome = conversation.metadata.outcome.or(Some(Outcome::OutOfSteps));
            conversation.metadata.answer = conversation.metadata.answer.take().or(self.action_output.0.clone());
            conversation.turn(self.action_output.0.clone().unwrap_or_default())
        } else if code.trim().is_empty() || acts(&output, &code) {
            conversation.turn(output)
        } else {
            conversation.act(&thought(&output, &code), &code)
        };
        turn.seconds = seconds;
        conversation.seconds += seconds;
        let observations = self.observations.or_empty();
        let message = |failure: Failure| failure.message.0.or(failure.kind.0).unwrap_or_default();
        let failed = self.error.map(message).filter(|message| !observations.contains(message));
        if !observations.is_empty() {
            conversation.observe(observations);
        }
        if let Some(message) = failed {
            conversation.observe(format!("Error:\n{message}"));
        }
        if self.is_final_answer {
            conversation.metadata.answer = conversation.metadata.answer.take().or(self.action_output.0);
        }
        if let Some(TokenUsage { input_tokens, output_tokens }) = self.token_usage {
            used.input_tokens += input_tokens;
            used.output_tokens += output_tokens;
        }
    }
}

/// Returns whether the model's text contains this code as its action.
fn acts(output: &str, code: &str) -> bool {
    let parsed = parse_action(output, ActionFormat::Code);
    matches!(parsed, Parsed::Action(Action { code: Some(read), .. }) if read.trim() == code.trim())
}

/// Returns the model's text before its action. A ToolCallingAgent's call is JSON after `Action:`. A CodeAgent with
/// structured output writes an object that includes its thought. Code may also be in tags that the agent defines.
fn thought(output: &str, code: &str) -> String {
    if let Some(Json::Object(fields)) = Json::read(output.trim()) {
        let thought = fields.iter().find(|(name, _)| name == "thought");
        return thought.and_then(|(_, thought)| thought.as_text()).unwrap_or_default().to_owned();
    }
    let before = match parse_action(output, ActionFormat::Code) {
        Parsed::Action(Action { thought, code: Some(_), .. }) => return thought, // for code that the agent corrected
        _ => output.find(code.trim()).map(|at| &output[..at]),
    };
    if let Some(before) = before {
        let tag = before.trim_end().rfind(char::is_whitespace).map_or(0, |blank| blank + 1);
        return before[..tag].trim_end().trim_end_matches("Code:").to_owned();
    }
    static CALL: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?s)(?:\bAction:\s*)?(?:```\w*\s*)?\{.*$").expect("it is valid"));
    CALL.replace(output, "").into_owned()
}

pub fn write(trajectory: &Trajectory) -> Value {
    let mut steps: Vec<Value> = Vec::new();
    for (role, text) in &trajectory.messages {
        steps.push(match &role[..] {
            "system" => json!({"system_prompt": text}),
            _ => json!({"task": text, "task_images": null}),
        });
    }
    let mut start = 0.0;
    for (number, step) in trajectory.steps.iter().enumerate() {
        let turn = AssistantTurn::of(step);
        let observation = step.candidates.get(step.winner).and_then(|chosen| chosen.observation.as_ref());
        let is_final = trajectory.outcome == Outcome::FinalAnswer && number + 1 == trajectory.steps.len();
        let (code, calls) = match turn {
            AssistantTurn::Code { code, .. } => {
                let function = json!({"name": "python_interpreter", "arguments": code});
                (
                    Some(code),
                    vec![json!({"id": format!("call_{}", number + 1), "type": "function", "function": function})],
                )
            }
            AssistantTurn::Text(_) => (None, vec![]),
        };
        let failed =
            observation.filter(|done| !matches!(done.kind, ObservationKind::Value | ObservationKind::FinalAnswer));
        let error = failed.map(|done| json!({"type": "AgentExecutionError", "message": done.error}));
        let output = observation.and_then(|done| done.value.as_ref());
        let end = start + step.seconds;
        steps.push(json!({
            "step_number": number + 1,
            "timing": {"start_time": start, "end_time": end, "duration": step.seconds},
            "model_input_messages": null,
            "tool_calls": calls,
            "error": error,
            "model_output_message": null,
            "model_output": turn.text(),
            "code_action": code,
            "observations": without_label(&step.message),
            "observations_images": null,
            "action_output": if is_final { trajectory.answer.as_ref() } else { output },
            "token_usage": null,
            "is_final_answer": is_final,
        }));
        start = end;
    }
    let (input, output) = trajectory.usage;
    let state = if trajectory.outcome == Outcome::FinalAnswer { "success" } else { "max_steps_error" };
    json!({
        "output": trajectory.answer,
        "state": state,
        "steps": steps,
        "token_usage": {"input_tokens": input, "output_tokens": output, "total_tokens": input.saturating_add(output)},
        "timing": {"start_time": 0.0, "end_time": trajectory.seconds, "duration": trajectory.seconds},
        Metadata::KEY: Metadata::of(trajectory),
    })
}
