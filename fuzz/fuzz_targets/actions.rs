//! Parses any completion in every format. The result must be an action or a failure, and spans must lie in the text.
#![no_main]

use agentdistill::action::{ActionFormat, Parsed, parse_action};
use libfuzzer_sys::fuzz_target;

const FORMATS: [ActionFormat; 5] = [
    ActionFormat::Code,
    ActionFormat::ToolCall,
    ActionFormat::SearchTags,
    ActionFormat::CodeTags,
    ActionFormat::React,
];

fuzz_target!(|completion: &str| {
    for format in FORMATS {
        let Parsed::Action(action) = parse_action(completion, format) else { continue };
        assert!(action.code.is_some() != action.final_answer.is_some());
        let mut end = 0;
        for (_, from, to) in action.spans {
            assert!(end <= from && from < to);
            end = to;
        }
        assert!(end <= completion.chars().count());
    }
});
