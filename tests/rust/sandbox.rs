//! The sandbox from Rust: States as values, native tools, limits. tests/core/test_sandbox.py covers what needs Python
//! as an oracle.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use agentdistill::Error;
use agentdistill::observation::{Observation, ObservationKind};
use agentdistill::sandbox::{Caller, Limits, Sandbox, State, Tool, Tools};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use sha2::{Digest, Sha256};

fn sandbox() -> Sandbox {
    Sandbox::new(Tools::new(), Limits::default(), 0, None).unwrap()
}

fn quick(limits: Limits) -> Sandbox {
    let limits = Limits { seconds: 0.5, hard_seconds: 0.3, ..limits };
    Sandbox::new(Tools::new(), limits, 0, None).unwrap()
}

fn value(sandbox: &Sandbox, state: &State, code: &str) -> String {
    let (observation, _) = sandbox.run(state, code).unwrap();
    observation.value.clone().unwrap_or_else(|| panic!("{code}: {observation:?}"))
}

#[test]
fn a_cell_prints_gives_a_value_and_leaves_a_state() {
    let sandbox = sandbox();
    let (observation, state) = sandbox.run(sandbox.initial(), "x = 41\nprint('x is', x)\nx + 1").unwrap();
    assert_eq!(observation.kind, ObservationKind::Value);
    assert_eq!(observation.stdout, "x is 41\n");
    assert_eq!(observation.value.as_deref(), Some("42"));
    assert_eq!(value(&sandbox, &state, "x"), "41");
}

#[test]
fn a_state_used_twice_is_a_fork() {
    let sandbox = sandbox();
    let (_, parent) = sandbox.run(sandbox.initial(), "items = [0]").unwrap();
    let cells = (1..=16).map(|i| (parent.clone(), format!("items.append({i})\nitems"))).collect();
    for (i, (observation, state)) in (1..=16).zip(sandbox.run_many(cells, Caller::Waiting).unwrap()) {
        assert_eq!(observation.value.unwrap(), format!("[0, {i}]"));
        assert_eq!(value(&sandbox, &state, "items"), format!("[0, {i}]"));
    }
    assert_eq!(value(&sandbox, &parent, "items"), "[0]");
}

#[test]
fn states_of_all_sizes_take_turns_in_the_same_slots() {
    let sandbox = sandbox();
    let sizes = [0, 1_000, 100_000, 3_000_000, 40_000_000];
    let cells = sizes.map(|size| (sandbox.initial().clone(), format!("held = b'\\x07' * {size}\nn = {size}")));
    let states: Vec<State> =
        sandbox.run_many(cells.to_vec(), Caller::Waiting).unwrap().into_iter().map(|(_, state)| state).collect();
    for round in 0..3 {
        for (size, state) in sizes.iter().zip(&states) {
            let code = "n == len(held) and held.count(7) == n and n";
            assert_eq!(value(&sandbox, state, code), size.to_string(), "round {round}");
        }
    }
}

#[test]
fn a_state_is_the_same_to_the_byte_whatever_its_slot_held_before() {
    let sandbox = sandbox();
    let cells = [
        "n = globals().get('n', 0) + 1",
        "text = 'abc' * 50_000",
        "text = None",
        "rows = [{'i': i, 's': str(i)} for i in range(3_000)]",
        "import random, time\nprint(random.random(), time.time())",
        "del rows",
        "class C:\n    def f(self):\n        return 1 / 0\nC().f()",
        "big = bytearray(30_000_000)",
    ];
    // A tree of States: each one grows from an earlier one.
    let mut random = 12_345_usize;
    let mut grown: Vec<(State, &str, State)> = Vec::new();
    for _ in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let parent =
            grown.get((random >> 33) % (grown.len() + 1)).map_or(sandbox.initial(), |(_, _, state)| state).clone();
        let cell = cells[(random >> 20) % cells.len()];
        let state = sandbox.run(&parent, cell).unwrap().1;
        grown.push((parent, cell, state));
    }
    // Run the same cells again in reverse order, on all threads, in other slots.
    let again = grown.iter().rev().map(|(parent, cell, _)| (parent.clone(), cell.to_string())).collect();
    for ((_, cell, first), (_, second)) in grown.iter().rev().zip(sandbox.run_many(again, Caller::Waiting).unwrap()) {
        assert!(first.to_bytes(None).unwrap() == second.to_bytes(None).unwrap(), "after {cell:?}");
    }
    // Convert each State to bytes over the previous State, over another State that may have more memory, and over
    // itself.
    for (at, (parent, cell, state)) in grown.iter().enumerate() {
        for base in [parent, &grown[(at * 7 + 3) % grown.len()].2, state] {
            let back = State::from_bytes(&state.to_bytes(Some(base)).unwrap(), Some(base), sandbox.limits()).unwrap();
            assert!(back.to_bytes(None).unwrap() == state.to_bytes(None).unwrap(), "after {cell:?}");
        }
    }
}

#[test]
fn bytes_over_a_base_need_that_base() {
    let sandbox = sandbox();
    let run = |state: &State, code: &str| sandbox.run(state, code).unwrap().1;
    let base = run(sandbox.initial(), "x = [1]");
    let (state, sibling) = (run(&base, "x.append(2)"), run(sandbox.initial(), "x = [2]"));
    let bytes = state.to_bytes(Some(&base)).unwrap();
    assert!(bytes.len() < state.to_bytes(None).unwrap().len());
    for wrong in [None, Some(sandbox.initial()), Some(&sibling), Some(&state)] {
        let error = State::from_bytes(&bytes, wrong, sandbox.limits()).unwrap_err().to_string();
        assert!(error.contains("give the State of the step before"), "{error}");
    }
    // Create the base again, as another process would.
    let base = State::from_bytes(&base.to_bytes(None).unwrap(), None, sandbox.limits()).unwrap();
    let back = State::from_bytes(&bytes, Some(&base), sandbox.limits()).unwrap();
    assert_eq!(value(&sandbox, &back, "x"), "[1, 2]");
}

#[test]
fn native_tools_take_and_give_json() {
    let tool: Arc<dyn Tool> = Arc::new(|arguments: &str| match arguments {
        "[[1], {\"b\": \"\u{e9}\"}]" => Ok("{\"c\": [true, null]}".to_string()),
        other => Err(format!("not {other}")),
    });
    let tools = Tools::from([("search".to_string(), tool)]);
    let sandbox = Sandbox::new(tools, Limits { tool_calls: 3, ..Limits::default() }, 0, None).unwrap();
    let run = |code| sandbox.run(sandbox.initial(), code).unwrap().0;

    let observation = run("search(1, b='\u{e9}')");
    assert_eq!(observation.value.as_deref(), Some("{'c': [True, None]}"));
    let [call] = &observation.tool_calls[..] else { panic!("{observation:?}") };
    assert_eq!((call.name.as_str(), call.result.as_deref()), ("search", Some("{\"c\": [true, null]}")));

    let observation = run("search()");
    assert_eq!(observation.kind, ObservationKind::ToolError);
    assert_eq!(observation.tool_calls[0].error.as_deref(), Some("not [[], {}]"));
    assert!(observation.error.unwrap().ends_with("ToolError: not [[], {}]"));

    let observation =
        run("for i in range(9):\n    try:\n        search()\n    except ToolError as error:\n        pass\nstr(error)");
    assert_eq!(observation.kind, ObservationKind::Exception, "{observation:?}"); // `error` is unbound after its block
    let observation = run(
        "n = 0\nfor i in range(9):\n    try: search()\n    except ToolError as error: n += '3 times' in str(error)\nn",
    );
    assert_eq!((observation.value.as_deref(), observation.tool_calls.len()), (Some("6"), 3));
}

#[test]
fn limits_end_a_cell_and_spare_the_state() {
    let hasty = quick(Limits { memory_mb: 64, stdout_chars: 100, ..Limits::default() });
    let patient =
        Sandbox::new(Tools::new(), Limits { seconds: 60.0, memory_mb: 64, ..Limits::default() }, 0, None).unwrap();
    for (code, kind, part) in [
        ("while True: pass", ObservationKind::Timeout, "TimeoutError: the cell took longer"),
        ("try:\n    while True: pass\nexcept Exception as e: y = type(e)", ObservationKind::Value, ""),
        (
            "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
            ObservationKind::Killed,
            "0.3 s",
        ),
        ("sum(range(10**12))", ObservationKind::Killed, "0.3 s"),
        ("import re\nre.match('(a+)+$', 'a' * 40 + 'b')", ObservationKind::Killed, "0.3 s"),
        ("raise TimeoutError('mine')", ObservationKind::Exception, "TimeoutError: mine"),
        ("b = 'a' * 10**9", ObservationKind::OutOfMemory, "MemoryError"),
        ("b = []\nwhile True: b.append('a' * 10**6)", ObservationKind::OutOfMemory, "MemoryError"),
        ("def f(n): return f(n + 1)\nf(0)", ObservationKind::Exception, "RecursionError: maximum recursion depth"),
        ("b = []\nfor i in range(100_000): b = [b]\ndel b", ObservationKind::Killed, "recursed too deeply"),
        ("import os\nos._exit(0)", ObservationKind::Killed, "killed"),
        ("import os\nos.abort()", ObservationKind::Killed, "killed"),
        ("raise SystemExit(3)", ObservationKind::Exception, "exited with status 3"),
    ] {
        // Only endless cells need a short time limit. On a busy machine, other cells might exceed it.
        let endless = code.contains("True: pass") || part == "0.3 s";
        let sandbox = if endless { &hasty } else { &patient };
        let (_, state) = sandbox.run(sandbox.initial(), "x = 1").unwrap();
        let (observation, after) = sandbox.run(&state, code).unwrap();
        assert_eq!(observation.kind, kind, "{code}: {observation:?}");
        assert!(observation.error.as_deref().unwrap_or_default().contains(part), "{code}: {observation:?}");
        assert_eq!(value(sandbox, &after, "x"), "1", "after {code}");
    }
    let (observation, _) = hasty.run(hasty.initial(), "print('a' * 1000 + 'b' * 1000)").unwrap();
    let (start, end) = ("a".repeat(50), "b".repeat(49));
    assert_eq!(observation.stdout, format!("{start}\n[... 1901 characters left out ...]\n{end}\n"));
    assert_eq!(observation.truncated, 1901);
}

#[test]
fn time_in_tools_does_not_count() {
    let tool: Arc<dyn Tool> = Arc::new(|_: &str| {
        std::thread::sleep(Duration::from_millis(300));
        Ok("null".to_string())
    });
    let limits = Limits { seconds: 0.2, hard_seconds: 0.1, ..Limits::default() };
    let sandbox = Sandbox::new(Tools::from([("slow".to_string(), tool)]), limits, 0, None).unwrap();
    let (observation, _) = sandbox.run(sandbox.initial(), "slow()\nslow()\n1").unwrap();
    assert_eq!(observation.kind, ObservationKind::Value, "{observation:?}");
}

#[test]
fn an_interrupt_does_not_wait_for_a_tool() {
    let entered = Arc::new(AtomicBool::new(false));
    let signal = entered.clone();
    let tool: Arc<dyn Tool> = Arc::new(move |_: &str| {
        signal.store(true, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(2));
        Ok("null".to_string())
    });
    let tools = Tools::from([("stuck".to_string(), tool)]);
    let sandbox = Sandbox::new(tools, Limits::default(), 0, Some(2)).unwrap();
    let cells = ["stuck()", "while True: pass"].map(|code| (sandbox.initial().clone(), code.to_string()));
    let started = Instant::now();
    let error =
        sandbox.run_many(cells.to_vec(), Caller::Interruptible(&|| entered.load(Ordering::SeqCst))).unwrap_err();
    assert!(error.to_string().contains("interrupted"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(value(&sandbox, sandbox.initial(), "1 + 1"), "2");
}

#[test]
fn a_tool_may_run_cells_itself() {
    let inner = sandbox();
    let tool: Arc<dyn Tool> = Arc::new(move |_: &str| Ok(value(&inner, inner.initial(), "6 * 7")));
    let sandbox = Sandbox::new(Tools::from([("nested".into(), tool)]), Limits::default(), 0, Some(1)).unwrap();
    assert_eq!(value(&sandbox, sandbox.initial(), "nested()"), "42");
}

#[test]
fn the_same_seed_sees_the_same() {
    let code = "import random, time, uuid, os\n(random.random(), time.time(), uuid.uuid4(), os.urandom(3), {'a', 'b'})";
    let seen = |seed, threads| {
        let sandbox = Sandbox::new(Tools::new(), Limits::default(), seed, Some(threads)).unwrap();
        let cells = vec![(sandbox.initial().clone(), code.to_string()); 4];
        let mut values: Vec<_> =
            sandbox.run_many(cells, Caller::Waiting).unwrap().into_iter().map(|(o, _)| o.value.unwrap()).collect();
        values.dedup();
        assert_eq!(values.len(), 1);
        values.remove(0)
    };
    assert_eq!(seen(1, 1), seen(1, 3));
    assert_ne!(seen(1, 1), seen(2, 1));
}

#[test]
fn states_go_to_bytes_and_back() {
    let sandbox = sandbox();
    let (_, state) = sandbox.run(sandbox.initial(), "import random\nx = [random.random() for _ in range(3)]").unwrap();
    let bytes = state.to_bytes(None).unwrap();
    assert!(bytes.len() < 32 << 10, "{} bytes", bytes.len());
    let back = State::from_bytes(&bytes, None, &Limits::default()).unwrap();
    assert_eq!(back.to_bytes(None).unwrap(), bytes);
    let code = "import time\n(x, random.random(), time.time())";
    assert_eq!(value(&sandbox, &back, code), value(&sandbox, &state, code));
}

#[test]
fn states_with_pages_all_over_the_memory_go_to_bytes_and_back() {
    let sandbox = sandbox();
    for step in 1..=12 {
        // References are counted in the objects themselves, so some hundred to some thousand regions of memory change.
        let code = format!(
            "import sys\nmodules = list(sys.modules.values())[::{step}]\nheld = [list(vars(m).values()) for m in modules]"
        );
        let (_, state) = sandbox.run(sandbox.initial(), &code).unwrap();
        let back = State::from_bytes(&state.to_bytes(None).unwrap(), None, sandbox.limits()).unwrap();
        assert_eq!(value(&sandbox, &back, "len(held) == len(modules)"), "True");
    }
}

#[test]
fn a_state_larger_than_the_limits_is_refused() {
    let [large, small] = [128, 16].map(|memory_mb| quick(Limits { memory_mb, ..Limits::default() }));
    let (_, state) = large.run(large.initial(), "held = bytearray(60_000_000)").unwrap();
    for error in [
        small.run(&state, "1").unwrap_err(),
        State::from_bytes(&state.to_bytes(None).unwrap(), None, small.limits()).unwrap_err(),
    ] {
        assert!(error.to_string().contains("Limits.memory_mb"), "{error}");
    }
    assert_eq!(value(&large, &state, "len(held)"), "60000000");
}

/// Returns the bytes of a State with a chosen body. The checksum is right, because anybody can compute it.
fn forged(genuine: &[u8], body: &[u8]) -> Vec<u8> {
    let body = zstd::bulk::compress(body, 1).unwrap();
    let mut bytes = genuine[..72].to_vec();
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.extend(body);
    bytes
}

/// Bytes of a State with their base: a first State, and a State over it.
static GENUINE: LazyLock<[(Vec<u8>, Option<State>); 2]> = LazyLock::new(|| {
    let sandbox = sandbox();
    let first = sandbox.initial().clone();
    let (_, second) = sandbox.run(&first, "x = [str(i) for i in range(99)]").unwrap();
    [(first.to_bytes(None).unwrap(), None), (second.to_bytes(Some(&first)).unwrap(), Some(first))]
});

#[test]
fn bytes_that_unpack_to_more_than_the_limits_are_refused_unpacked() {
    let limits = Limits { memory_mb: 16, ..Limits::default() };
    // One body has only zeros. The other has a hundred thousand pages, all of whose lines claim to be new and equal the
    // image's.
    let numbers = [0, 0, 0, 3 << 30, 100_000].map(u64::to_le_bytes).concat();
    let indexes: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let pages = [numbers, indexes, vec![0xff; 16 * 100_000], vec![0; 2 * 64 * 100_000]].concat();
    for body in [vec![0; 400 << 20], pages] {
        let error = State::from_bytes(&forged(&GENUINE[0].0, &body), None, &limits).unwrap_err();
        assert!(error.to_string().contains("Limits.memory_mb"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_bytes_are_refused(which in 0..2usize, at in any::<Index>(), flip in 1u8..) {
        let ((bytes, base), limits) = (&GENUINE[which], Limits::default());
        let at = at.index(bytes.len());
        let mut damaged = bytes.clone();
        damaged[at] ^= flip;
        prop_assert!(matches!(State::from_bytes(&damaged, base.as_ref(), &limits), Err(Error::Sandbox(_))));
        prop_assert!(matches!(State::from_bytes(&bytes[..at], base.as_ref(), &limits), Err(Error::Sandbox(_))));
    }

    #[test]
    fn forged_bytes_are_refused_or_a_state_like_any_other(
        which in 0..2usize,
        changes in vec((any::<Index>(), any::<u8>()), 1..9),
        number in 0..5usize,
        instead in prop_oneof![Just(None), any::<u64>().prop_map(Some), (0..1u64 << 16).prop_map(Some)],
        cut in prop_oneof![4 => Just(None), 1 => any::<Index>().prop_map(Some)],
    ) {
        let (bytes, base) = &GENUINE[which];
        let mut body = zstd::decode_all(&bytes[104..]).unwrap();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Some(instead) = instead {
            body[number * 8..][..8].copy_from_slice(&instead.to_le_bytes());
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        let sandbox = quick(Limits::default());
        match State::from_bytes(&forged(bytes, &body), base.as_ref(), sandbox.limits()) {
            Err(error) => prop_assert!(matches!(error, Error::Sandbox(_)), "{error}"),
            Ok(state) => {
                sandbox.run(&state, "1 + 1").unwrap();
                let bytes = state.to_bytes(None).unwrap();
                prop_assert_eq!(State::from_bytes(&bytes, None, sandbox.limits()).unwrap().to_bytes(None).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn only_json_reaches_a_tool(arguments in forged_arguments()) {
        static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
            let tool: Arc<dyn Tool> = Arc::new(|arguments: &str| {
                type Arguments = (Vec<serde_json::Value>, serde_json::Map<String, serde_json::Value>);
                serde_json::from_str::<Arguments>(arguments).expect("checked before");
                Ok("null".to_string())
            });
            Sandbox::new(Tools::from([("tool".into(), tool)]), Limits::default(), 0, None).unwrap()
        });
        let hex: String = arguments.bytes().map(|byte| format!("{byte:02x}")).collect();
        let code = format!("import wit_world\nwit_world.call_tool('tool', bytes.fromhex('{hex}').decode())");
        let (observation, _) = SANDBOX.run(SANDBOX.initial(), &code).unwrap();
        let [call] = &observation.tool_calls[..] else { panic!("{observation:?}") };
        prop_assert_eq!(&call.arguments, &arguments);
        prop_assert_eq!(call.result.is_some(), observation.kind == ObservationKind::Value);
    }
}

/// JSON as a cell may forge it: close enough to valid to be accepted by mistake.
fn forged_arguments() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("1".into()),
        Just("-0".into()),
        Just("1e999".into()),
        Just("NaN".into()),
        Just("null".into()),
        Just("\"\\ud800\"".into()),
        Just("01".into()),
        "[0-9]{1,400}",
        "\"[^\"\\\\]{0,5}\"",
        ".{0,3}",
    ];
    let value = scalar.prop_recursive(6, 64, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec(("\"[a-c\u{0}]{0,2}\"", inner), 0..4).prop_map(|items| {
                let items: Vec<_> = items.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
                format!("{{{}}}", items.join(","))
            }),
        ]
    });
    prop_oneof![
        (vec(value.clone(), 0..3), value.clone())
            .prop_map(|(items, keywords)| format!("[[{}],{keywords}]", items.join(","))),
        value,
        (0..400usize).prop_map(|depth| format!("[[{}0{}],{{}}]", "[".repeat(depth), "]".repeat(depth))),
    ]
}

#[test]
fn wrong_arguments_are_refused() {
    let new = |limits, threads| Sandbox::new(Tools::new(), limits, 0, threads);
    for limits in [
        Limits { seconds: 0.0, ..Limits::default() },
        Limits { seconds: f64::NAN, ..Limits::default() },
        Limits { hard_seconds: -1.0, ..Limits::default() },
        Limits { memory_mb: 1, ..Limits::default() },
        Limits { memory_mb: 4096, ..Limits::default() },
    ] {
        assert!(matches!(new(limits.clone(), None), Err(Error::Argument(_))), "{limits:?}");
    }
    assert!(matches!(new(Limits::default(), Some(0)), Err(Error::Argument(_))));
    for name in ["", "two words", "1st", "final_answer", "a.b"] {
        let tool: Arc<dyn Tool> = Arc::new(|_: &str| Ok("null".to_string()));
        let tools = Tools::from([(name.to_string(), tool)]);
        assert!(matches!(Sandbox::new(tools, Limits::default(), 0, None), Err(Error::Argument(_))), "{name:?}");
    }
}

#[test]
fn many_threads_share_a_sandbox() {
    let sandbox = sandbox();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let mut state = sandbox.initial().clone();
                for step in 0..30 {
                    let (observation, next) = sandbox.run(&state, &format!("x = ({thread}, {step})\nx")).unwrap();
                    assert_eq!(
                        observation,
                        Observation {
                            value: Some(format!("({thread}, {step})")),
                            seconds: observation.seconds,
                            ..Observation::default()
                        }
                    );
                    state = next;
                }
            });
        }
    });
}
