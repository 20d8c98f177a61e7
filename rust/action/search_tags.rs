//! Parses a query between tags: `<search>...</search>` (Search-R1), `<|begin_of_query|>...<|end_of_query|>`
//! (R1-Searcher) or `<|begin_search_query|>...<|end_search_query|>` (Search-o1).
//!
//! - **A query** becomes a call of `web_search`. Only the first one counts; the text after it is dropped, because the
//!   model invented it. The closing tag may be missing, because engines often cut off a stop sequence.
//! - **A final answer** before any query is `<answer>...</answer>`, or else text that is marked as an answer
//!   (`plain_answer.rs`).
//! - **Thought** is the text before the query or the answer. R1-Searcher and Search-o1 search while they think, so a
//!   query inside `<think>` counts if the thinking has not ended, or if documents follow the query there.

use super::call::cell;
use super::json::Json;
use super::plain_answer::plain_answer;
use super::tags::{ANSWER, Content, Tagged};
use super::text::{thought, trimmed_all};
use super::thinking::{Reply, after_thinking};
use super::{Act, Action, FailureReason, ParseFailureKind, ParseResult};

pub const INSTRUCTION: &str = "Think, then ask between <search> and </search>, or write the answer between <answer> and \
                       </answer>.";

const QUERIES: [(&str, &str); 3] = [
    ("<search>", "</search>"),
    ("<|begin_of_query|>", "<|end_of_query|>"),
    ("<|begin_search_query|>", "<|end_search_query|>"),
];
/// Tags that open the results of a query.
const DOCUMENTS: [&str; 3] = ["<information>", "<|begin_of_documents|>", "<|begin_search_result|>"];

pub fn read(completion: &str) -> ParseResult {
    let first_query = |from: usize| {
        let queries = QUERIES.into_iter().filter_map(|tags| Tagged::find(completion, from, tags, Content::Text));
        queries.min_by_key(|query| query.start)
    };
    let (body, query) = match after_thinking(completion, first_query, |query| query.start..query.end) {
        Reply::Spoken { body, action } => (body, action),
        Reply::Unended { start } => (start, first_query(start)),
    };
    let searched = (body > 0).then(|| first_query(0)).flatten().filter(|query| {
        query.end <= body && DOCUMENTS.iter().any(|documents| completion[query.end..body].contains(documents))
    });
    let (body, query) = if searched.is_some() { (0, searched) } else { (body, query) };
    let before = query.as_ref().map_or(completion.len(), |query| query.start);
    if let Some(answer) = Tagged::find(&completion[..before], body, ANSWER, Content::Text) {
        let content = trimmed_all(completion, answer.content);
        if !content.is_empty() {
            return Ok(Action::new(completion, thought(completion, 0..answer.start), Act::Answer(content)));
        }
    }
    let Some(query) = query else {
        let (start, answer) = plain_answer(completion, body)
            .ok_or_else(|| FailureReason::no_action("Your reply has neither a query nor a final answer."))?;
        return Ok(Action::new(completion, thought(completion, 0..start), Act::Answer(answer)));
    };
    let asked = trimmed_all(completion, query.content);
    if asked.is_empty() {
        return Err(FailureReason(ParseFailureKind::EmptyCode, "Your query is empty.".into()));
    }
    let words = Json::from(&completion[asked.clone()]);
    let cell = cell("web_search", &[words], &[]).expect("that is a name");
    Ok(Action::new(completion, thought(completion, 0..query.start), Act::Cell(cell, vec![asked])))
}
