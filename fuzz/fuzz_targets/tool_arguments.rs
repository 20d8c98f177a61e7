//! Lets a cell forge arguments for a tool. The tool must see only `[[positional], {keyword}]`, and must read the same
//! values as the cell's own json. The tool's result must also come through.
#![no_main]

use std::sync::{Arc, LazyLock};

use agentdistill::sandbox::{Limits, Sandbox, Tool, Tools};
use libfuzzer_sys::fuzz_target;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let tool: Arc<dyn Tool> = Arc::new(|arguments: &str| {
        type Arguments = (Vec<serde_json::Value>, serde_json::Map<String, serde_json::Value>);
        let arguments: Arguments = serde_json::from_str(arguments).expect("checked before");
        Ok(serde_json::to_string(&arguments).unwrap())
    });
    Sandbox::new(Tools::from([("tool".into(), tool)]), Limits::default(), 0, Some(1)).unwrap()
});

fuzz_target!(|arguments: &str| {
    let hex: String = arguments.bytes().map(|byte| format!("{byte:02x}")).collect();
    // serde_json reads integers beyond 64 bits as floats.
    let code = format!(
        "import functools, json, wit_world\n\
         arguments = bytes.fromhex('{hex}').decode()\n\
         result = wit_world.call_tool('tool', arguments)\n\
         read = functools.partial(json.loads, parse_int=float)\n\
         assert read(result) == read(arguments), result"
    );
    let (observation, _) = SANDBOX.run(SANDBOX.initial(), &code).unwrap();
    let [call] = &observation.tool_calls[..] else { panic!("{observation:?}") };
    assert!(call.error.is_some() || observation.error.is_none(), "{observation:?}");
});
