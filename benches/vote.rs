//! Speed of the vote on the eight candidates of a step.

use agentdistill::observation::Observation;
use agentdistill::vote::vote;
use criterion::{Criterion, criterion_group, criterion_main};

fn votes(c: &mut Criterion) {
    let candidates = |outcome: fn(usize) -> Observation| (0..8).map(outcome).collect::<Vec<_>>();
    let numbers = candidates(|index| Observation { value: Some(format!("{}.0", index % 3)), ..Observation::default() });
    let tables = candidates(|index| {
        let rows: Vec<String> =
            (0..100).map(|row| format!("'key {row}': [{row}, {row}.50, 'text {}']", index % 3)).collect();
        Observation { value: Some(format!("{{{}}}", rows.join(", "))), ..Observation::default() }
    });
    let texts = candidates(|index| Observation {
        stdout: format!("[1] A title\nwith {index} and a text of some words\n").repeat(50),
        ..Observation::default()
    });
    let mut group = c.benchmark_group("vote of 8");
    for (name, observations) in [("numbers", numbers), ("dictionaries of 100", tables), ("3 kB of print", texts)] {
        group.bench_function(name, |b| b.iter(|| vote(observations.iter().map(Some), None)));
    }
}

criterion_group!(benches, votes);
criterion_main!(benches);
