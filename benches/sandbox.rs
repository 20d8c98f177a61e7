//! Cost of a cell: in place, from another State, and as a candidate of a step. BENCHMARKS.md has the figures.

use agentdistill::sandbox::{Caller, Limits, Sandbox, State, Tools};
use criterion::{Criterion, criterion_group, criterion_main};

const CELL: &str = "print(2 + 2)";

fn sandbox() -> Sandbox {
    Sandbox::new(Tools::new(), Limits::default(), 0, Some(1)).unwrap()
}

fn after(sandbox: &Sandbox, state: &State, code: &str) -> State {
    sandbox.run(state, code).unwrap().1
}

/// States of the sizes that agents have: a few variables; functions, classes and a table; the text of a search; a large
/// list.
fn states(sandbox: &Sandbox) -> Vec<State> {
    [
        "x = 1",
        "import re, decimal\nclass C:\n    n = 1\nd = {i: str(i) for i in range(5_000)}\nr = re.compile(r'(\\d+)-(\\w+)')",
        "texts = [bytes([i % 256]) * 1000 for i in range(16_000)]",
        "rows = [{'i': i, 's': str(i)} for i in range(70_000)]",
    ]
    .map(|code| after(sandbox, sandbox.initial(), code))
    .to_vec()
}

fn cells(c: &mut Criterion) {
    let sandbox = sandbox();
    c.bench_function("cell from the first State", |b| b.iter(|| sandbox.run(sandbox.initial(), CELL).unwrap()));
    c.bench_function("five cells, each in place", |b| {
        b.iter(|| (0..5).fold(sandbox.initial().clone(), |state, _| after(&sandbox, &state, CELL)))
    });
}

fn switches(c: &mut Criterion) {
    let sandbox = sandbox();
    for state in states(&sandbox) {
        let name = format!("switch to a State of {} kB, cell, new State", state.nbytes() / 1000);
        c.bench_function(&name, |b| b.iter(|| sandbox.run(&state, "x = 2").unwrap()));
    }
}

fn steps(c: &mut Criterion) {
    let sandbox = sandbox();
    let state = after(&sandbox, sandbox.initial(), "total = 0\ndef f(n):\n    return n * n");
    let candidates: Vec<_> = (0..8).map(|i| (state.clone(), format!("total += f({i})\nprint(total)"))).collect();
    c.bench_function("step of 8 candidates", |b| {
        b.iter(|| sandbox.run_many(candidates.clone(), Caller::Waiting).unwrap())
    });
}

fn many(c: &mut Criterion) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in [1, all] {
        let sandbox = Sandbox::new(Tools::new(), Limits::default(), 0, Some(threads)).unwrap();
        let cells = vec![(sandbox.initial().clone(), CELL.to_string()); 256];
        let name = format!("256 cells from the first State, {threads} threads");
        c.bench_function(&name, |b| b.iter(|| sandbox.run_many(cells.clone(), Caller::Waiting).unwrap()));
    }
}

fn python(c: &mut Criterion) {
    let sandbox = sandbox();
    for (name, code) in [
        ("100,000 turns of a loop", "total = 0\nfor i in range(100_000):\n    total += i"),
        ("sum of 100,000 squares", "total = sum(i * i for i in range(100_000))"),
        (
            "2,000 records to JSON and back",
            "import json\nrows = json.loads(json.dumps([{'id': i} for i in range(2_000)]))",
        ),
    ] {
        c.bench_function(name, |b| b.iter(|| sandbox.run(sandbox.initial(), code).unwrap()));
    }
}

fn bytes(c: &mut Criterion) {
    let sandbox = sandbox();
    let state = after(&sandbox, sandbox.initial(), "x = 1");
    let bytes = state.to_bytes(None).unwrap();
    c.bench_function(&format!("State to {} kB of bytes", bytes.len() / 1000), |b| {
        b.iter(|| state.to_bytes(None).unwrap())
    });
    c.bench_function("State from bytes", |b| b.iter(|| State::from_bytes(&bytes, None, &Limits::default()).unwrap()));
}

criterion_group!(benches, cells, switches, steps, many, python, bytes);
criterion_main!(benches);
