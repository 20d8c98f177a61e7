//! Arguments that a cell forges for a tool: the tool sees only `[[positional], {keyword}]`.
#![no_main]

use std::sync::{Arc, LazyLock};

use agentdistill::sandbox::{Limits, Sandbox, Tool, Tools};
use libfuzzer_sys::fuzz_target;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let tool: Arc<dyn Tool> = Arc::new(|arguments: &str| {
        type Arguments = (Vec<serde_json::Value>, serde_json::Map<String, serde_json::Value>);
        serde_json::from_str::<Arguments>(arguments).expect("checked before");
        Ok("null".to_string())
    });
    Sandbox::new(Tools::from([("tool".into(), tool)]), Limits::default(), 0, Some(1)).unwrap()
});

fuzz_target!(|arguments: &str| {
    let hex: String = arguments.bytes().map(|byte| format!("{byte:02x}")).collect();
    let code = format!("import wit_world\nwit_world.call_tool('tool', bytes.fromhex('{hex}').decode())");
    let (observation, _) = SANDBOX.run(SANDBOX.initial(), &code).unwrap();
    assert_eq!(observation.tool_calls.len(), 1, "{observation:?}");
});
