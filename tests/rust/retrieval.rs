//! Scores against a slow reference, the order of ties, bounded memory, publication, bad input.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use agentdistill::retrieval::{Bm25Builder, Bm25Index, JsonlPassages, Passage};
use agentdistill::{Error, Result};
use proptest::prelude::*;
use tantivy::fieldnorm::FieldNormReader;
use tempfile::tempdir;

fn passage(number: usize, title: &str, text: &str) -> Passage {
    Passage { id: number.to_string(), title: title.to_owned(), text: text.to_owned(), score: 0.0 }
}

fn build(path: &Path, passages: &[Passage]) -> Result<Bm25Index> {
    let mut builder = Bm25Builder::new(path, false)?;
    passages.iter().try_for_each(|passage| builder.add(passage))?;
    builder.finish(0)
}

/// BM25 as defined, with Lucene's idf and Tantivy's one-byte lengths; for words that the analyzer leaves alone.
fn reference(passages: &[Passage], query: &str) -> Vec<f64> {
    let words = |passage: &Passage| -> Vec<String> {
        passage
            .title
            .split(' ')
            .chain(passage.text.split(' '))
            .filter(|word| !word.is_empty())
            .map(String::from)
            .collect()
    };
    let documents: Vec<Vec<String>> = passages.iter().map(words).collect();
    let count = documents.len() as f64;
    let average = documents.iter().map(Vec::len).sum::<usize>() as f64 / count;
    let score = |document: &Vec<String>| {
        let term = |word: &str| {
            let tf = document.iter().filter(|other| *other == word).count() as f64;
            let df = documents.iter().filter(|document| document.iter().any(|other| other == word)).count() as f64;
            let length = FieldNormReader::id_to_fieldnorm(FieldNormReader::fieldnorm_to_id(document.len() as u32));
            let norm = 1.2 * (1.0 - 0.75 + 0.75 * f64::from(length) / average);
            (1.0 + (count - df + 0.5) / (df + 0.5)).ln() * 2.2 * tf / (tf + norm)
        };
        query.split(' ').filter(|word| !word.is_empty()).map(term).sum()
    };
    documents.iter().map(score).collect()
}

const WORDS: [&str; 12] = ["zq0", "zq1", "zq2", "zq3", "zq4", "zq5", "zq6", "zq7", "zq8", "zq9", "zq10", "zq11"];

fn text(longest: usize) -> impl Strategy<Value = String> {
    // Squared, so that some words are rare.
    let word = (0..WORDS.len() * WORDS.len()).prop_map(|square| WORDS[square.isqrt()]);
    prop::collection::vec(word, 0..longest).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn scores_are_bm25(
        contents in prop::collection::vec((text(4), text(90)), 1..60),
        queries in prop::collection::vec(text(6), 1..6),
        k in 1..70usize,
    ) {
        let passages: Vec<Passage> =
            contents.iter().enumerate().map(|(number, (title, text))| passage(number, title, text)).collect();
        let folder = tempdir().unwrap();
        let index = build(&folder.path().join("index"), &passages).unwrap();
        let batch = index.search_batch(&queries, k).unwrap();
        for (query, found) in queries.iter().zip(batch) {
            prop_assert_eq!(&found, &index.search(query, k).unwrap(), "a batch gives what single searches give");
            let scores = reference(&passages, query);
            let mut best: Vec<f64> = scores.iter().copied().filter(|&score| score > 0.0).collect();
            best.sort_by(|a, b| b.total_cmp(a));
            best.truncate(k);
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-5 * b.abs();
            prop_assert_eq!(found.len(), best.len());
            for (rank, passage) in found.iter().enumerate() {
                let number: usize = passage.id.parse().unwrap();
                prop_assert!(near(passage.score.into(), best[rank]), "rank {} of {:?}: {:?}", rank, query, passage);
                prop_assert!(near(passage.score.into(), scores[number]));
                prop_assert_eq!(&passage.title, &passages[number].title);
                prop_assert_eq!(&passage.text, &passages[number].text);
            }
            for pair in found.windows(2).filter(|pair| pair[0].score == pair[1].score) {
                let [first, second] = [&pair[0].id, &pair[1].id].map(|id| id.parse::<usize>().unwrap());
                prop_assert!(first < second, "ties in the order of indexing");
            }
        }
    }

    #[test]
    fn any_string_is_a_query(query in any::<String>(), k in 1..5usize) {
        thread_local! {
            static INDEX: (tempfile::TempDir, Bm25Index) = {
                let folder = tempdir().unwrap();
                let index = build(&folder.path().join("index"), &[passage(0, "Title", "a text of words")]).unwrap();
                (folder, index)
            };
        }
        INDEX.with(|(_, index)| index.search(&query, k).map(|_| ())).unwrap();
    }
}

/// Enough passages for several parts: what they give is what one part gives, and equal passages keep their order.
#[test]
fn parts_make_the_same_index() {
    let text =
        |number: usize| (0..200).map(|word| format!("w{} ", number * word % 10_007)).collect::<String>() + "same";
    let passages: Vec<Passage> =
        (0..20_000).map(|number| passage(number, &format!("t{}", number % 97), &text(number % 7919))).collect();
    let folder = tempdir().unwrap();
    let one = build(&folder.path().join("one"), &passages).unwrap();
    let mut builder = Bm25Builder::with_budget(&folder.path().join("many"), false, 16 << 20).unwrap();
    let parts = || fs::read_dir(folder.path().join(".many.building")).unwrap().count() - 1; // less the lock
    for passage in &passages {
        builder.add(passage).unwrap();
    }
    assert!((2..20).contains(&parts()), "{} parts", parts());
    let many = builder.finish(0).unwrap();
    for query in ["same", "t5 same", "w12", "w1000 w900 t3", "same same w5"] {
        assert_eq!(one.search(query, 50).unwrap(), many.search(query, 50).unwrap(), "{query}");
    }
    let first: Vec<String> = one.search("same", 20).unwrap().into_iter().map(|passage| passage.id).collect();
    assert_eq!(first, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn the_analyzer_is_english() {
    let folder = tempdir().unwrap();
    let passages = [passage(0, "Running", "The horses of Corran."), passage(1, "Walks", "A horse's walk; É t é")];
    let index = build(&folder.path().join("index"), &passages).unwrap();
    let found = |query: &str| -> Vec<String> {
        let mut ids: Vec<String> = index.search(query, 9).unwrap().into_iter().map(|passage| passage.id).collect();
        ids.sort();
        ids
    };
    let cases: &[(&str, &[&str])] = &[
        ("runs", &["0"]),
        ("HORSE", &["0", "1"]),
        ("walking", &["1"]),
        ("the of a", &[]),
        ("", &[]),
        ("AND OR NOT ( [ \" : ^ ~ * ? \\ title:running", &["0"]),
        ("é", &["1"]),
    ];
    for &(query, expected) in cases {
        assert_eq!(found(query), expected, "{query:?}");
    }
    let once = index.search("corran horse", 1).unwrap()[0].score;
    let twice = index.search("corran corran horse horse", 1).unwrap()[0].score;
    assert_eq!(twice, 2.0 * once, "a word said twice counts twice");
}

#[test]
fn lines_of_jsonl() {
    let good: BTreeMap<&str, (&str, &str, &str)> = BTreeMap::from([
        (r#"{"id": "a", "title": "T", "text": "x"}"#, ("a", "T", "x")),
        (r#"{"_id": "a", "title": "T", "text": "x", "metadata": {"k": 1}}"#, ("a", "T", "x")),
        (r#"{"id": 7, "text": "x"}"#, ("7", "", "x")),
        (r#"{"id": "a", "title": null, "text": "x"}"#, ("a", "", "x")),
        (r#"{"id": "a", "contents": "\"T\"\nx\ny"}"#, ("a", "T", "x\ny")),
        (r#"{"id": "a", "contents": "x"}"#, ("a", "", "x")),
        ("\u{feff}{\"id\": \"a\", \"text\": \"x\"}\r", ("a", "", "x")),
    ]);
    let bad: &[(&[u8], &str)] = &[
        (b"{\"id\": \"a\"", "not JSON"),
        (b"[1]", "not a JSON object but a list"),
        (b"{\"text\": \"x\"}", "no field `id` or `_id`"),
        (b"{\"id\": [], \"text\": \"x\"}", "its id is a list, not a string"),
        (b"{\"id\": \"a\", \"title\": \"T\"}", "no field `text` or `contents`"),
        (b"{\"id\": \"a\", \"text\": 1}", "`text` is a number, not a string"),
        (b"{\"id\": \"a\", \"text\": \"\xff\"}", "not JSON"),
    ];
    let folder = tempdir().unwrap();
    let file = folder.path().join("corpus.jsonl");
    for (line, (id, title, text)) in good {
        fs::write(&file, line).unwrap();
        let read: Vec<Passage> = JsonlPassages::open(&file, false).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(read, [Passage { id: id.into(), title: title.into(), text: text.into(), score: 0.0 }], "{line}");
    }
    for (line, message) in bad {
        fs::write(
            &file,
            [b"{\"id\": \"a\", \"text\": \"x\"}\n\n", *line, b"\n{\"id\": \"b\", \"text\": \"y\"}"].concat(),
        )
        .unwrap();
        let error = JsonlPassages::open(&file, false).unwrap().collect::<Result<Vec<_>>>().unwrap_err().to_string();
        let expected = format!("{}:3: {message}", file.display());
        assert!(error.starts_with(&expected), "{error}\nis not\n{expected}");
        let mut passages = JsonlPassages::open(&file, true).unwrap();
        let ids: Vec<String> = passages.by_ref().map(|passage| passage.unwrap().id).collect();
        assert_eq!((ids, passages.skipped()), (vec!["a".to_owned(), "b".to_owned()], 1));
    }
}

#[test]
fn an_index_appears_only_when_complete() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("index");
    let entries = || fs::read_dir(folder.path()).unwrap().count();
    let retrieval_error = |result: Result<()>, part: &str| match result {
        Err(Error::Retrieval { message, .. }) => assert!(message.contains(part), "{message}"),
        other => panic!("{other:?}"),
    };

    let mut builder = Bm25Builder::new(&path, false).unwrap();
    builder.add(&passage(0, "", "one")).unwrap();
    assert!(!path.exists());
    retrieval_error(Bm25Builder::new(&path, false).map(|_| ()), "another process is building");
    drop(builder);
    assert_eq!(entries(), 0, "a build given up leaves nothing");
    retrieval_error(Bm25Builder::new(&path, false).unwrap().finish(0).map(|_| ()), "no passages");
    assert_eq!(entries(), 0);

    // What a killed build leaves does not disturb the next.
    fs::create_dir_all(folder.path().join(".index.building/part-0")).unwrap();
    fs::write(folder.path().join(".index.building/part-0/junk"), "junk").unwrap();
    let old = build(&path, &[passage(0, "", "one")]).unwrap();
    assert_eq!(entries(), 1);

    retrieval_error(build(&path, &[]).map(|_| ()), "already");
    let mut builder = Bm25Builder::new(&path, true).unwrap();
    builder.add(&passage(1, "", "two")).unwrap();
    let new = builder.finish(3).unwrap();
    assert_eq!(entries(), 1);
    assert_eq!(old.search("one", 1).unwrap()[0].id, "0", "an index that is open survives its replacement");
    assert_eq!(new.search("two", 1).unwrap()[0].id, "1");
    assert_eq!((new.metadata().documents, new.metadata().skipped), (1, 3));
}

#[test]
fn what_is_no_index_of_ours_is_refused() {
    let folder = tempdir().unwrap();
    let open = |name: &str| Bm25Index::open(&folder.path().join(name)).map(|_| ()).unwrap_err().to_string();
    assert!(open("absent").contains("there is no index here"));
    fs::create_dir(folder.path().join("other")).unwrap();
    fs::write(folder.path().join("other/file"), "mine").unwrap();
    assert!(open("other").contains("this is not an index"));
    let overwrite = Bm25Builder::new(&folder.path().join("other"), true).map(|_| ()).unwrap_err();
    assert!(overwrite.to_string().contains("something here that is not an index"));

    let path = folder.path().join("index");
    build(&path, &[passage(0, "", "one")]).unwrap();
    let metadata = path.join("agentdistill.json");
    let written = fs::read_to_string(&metadata).unwrap();
    fs::write(&metadata, written.replace("\"version\": 1", "\"version\": 2")).unwrap();
    assert!(open("index").contains("of version 2, and this agentdistill reads version 1; build it"));
    fs::write(&metadata, written.replace("\"documents\": 1", "\"documents\": 5")).unwrap();
    assert!(open("index").contains("it holds 1 of 5 passages"));
    fs::write(&metadata, "junk").unwrap();
    assert!(open("index").contains("damaged"));
    fs::write(&metadata, &written).unwrap();
    fs::remove_file(path.join("meta.json")).unwrap();
    assert!(open("index").contains("build it again"));
}
