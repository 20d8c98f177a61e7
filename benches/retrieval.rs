//! Speed of searching and building an index of generated passages, whose word frequencies follow Zipf's law like those
//! of a language. BENCHMARKS.md has figures for real text.

use agentdistill::retrieval::{Bm25Builder, Bm25Index, BuildOptions, Passage};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const PASSAGES: usize = 100_000;
const WORDS: usize = 96; // per passage
const VOCABULARY: f64 = 200_000.0;

/// A repeatable generator of words: the word of rank r has a probability proportional to 1 / r.
struct Words(u64);

impl Words {
    fn next(&mut self) -> String {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let uniform = (self.0 >> 11) as f64 / (1u64 << 53) as f64;
        format!("zq{}", VOCABULARY.powf(uniform) as usize)
    }

    fn text(&mut self, words: usize) -> String {
        (0..words).map(|_| self.next()).collect::<Vec<_>>().join(" ")
    }
}

fn build(path: &std::path::Path, passages: &[Passage]) -> Bm25Index {
    let mut builder = Bm25Builder::new(path, BuildOptions { overwrite: true, ..BuildOptions::default() }).unwrap();
    passages.iter().for_each(|passage| builder.add(passage.clone()).unwrap());
    builder.finish().unwrap()
}

fn retrieval(c: &mut Criterion) {
    let mut words = Words(1);
    let passages: Vec<Passage> = (0..PASSAGES)
        .map(|number| Passage { id: number.to_string(), title: words.text(3), text: words.text(WORDS), score: 0.0 })
        .collect();
    let queries: Vec<String> = (0..512).map(|number| words.text(3 + number % 8)).collect();
    let folder = tempfile::tempdir().unwrap();
    let index = build(&folder.path().join("index"), &passages);

    let mut group = c.benchmark_group("100,000 passages");
    group.sample_size(10);
    group.throughput(Throughput::Elements(queries.len() as u64));
    for k in [3, 10] {
        let search = || queries.iter().for_each(|query| drop(index.search(query, k).unwrap()));
        group.bench_function(format!("search, k = {k}"), |b| b.iter(search));
        group.bench_function(format!("search_batch, k = {k}"), |b| b.iter(|| index.search_batch(&queries, k).unwrap()));
    }
    let some = &passages[..10_000];
    group.throughput(Throughput::Elements(some.len() as u64));
    group.bench_function("build 10,000", |b| b.iter(|| build(&folder.path().join("other"), some)));
}

criterion_group!(benches, retrieval);
criterion_main!(benches);
