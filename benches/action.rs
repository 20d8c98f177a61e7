//! Speed of parsing completions: a typical one, a long chain of thought, and a hostile one.

use agentdistill::action::{ActionFormat, parse_action};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn actions(c: &mut Criterion) {
    let code =
        "total = 0\nfor row in rows:\n    total += row['price'] * row['n']  # dollars\nprint(f\"{total:.2f}\")\n";
    let usual = format!("Thought: I add up what each row costs.\nCode:\n```py\n{code}```<end_code>");
    let thinking = format!("<think>\n{}\n</think>\n{usual}", "Let me see whether that is so. ".repeat(500));
    let hostile = "```py\n'''\n```\n".repeat(2000);
    let mut group = c.benchmark_group("parse_action");
    for (name, completion) in [("usual", &usual), ("16 kB of thinking", &thinking), ("hostile", &hostile)] {
        group.throughput(Throughput::Bytes(completion.len() as u64));
        group.bench_function(name, |b| b.iter(|| parse_action(completion, ActionFormat::Code)));
    }
}

criterion_group!(benches, actions);
criterion_main!(benches);
