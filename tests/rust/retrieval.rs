//! Scores compared with a slow reference, the order of ties, builds with any number of threads, languages, publication,
//! input. One file of more than 500 lines, because all tests share the reference.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use agentdistill::retrieval::{Bm25Builder, Bm25Index, BuildOptions, JsonlFile, Language, Parameters, Passage};
use agentdistill::{Error, Result};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tantivy::Term;
use tantivy::collector::TopDocs;
use tantivy::fieldnorm::FieldNormReader;
use tantivy::query::{BooleanQuery, Query, TermQuery};
use tantivy::schema::IndexRecordOption;
use tempfile::tempdir;

fn passage(number: usize, title: &str, text: &str) -> Passage {
    Passage { id: number.to_string(), title: title.to_owned(), text: text.to_owned(), score: 0.0 }
}

fn build(path: &Path, passages: &[Passage]) -> Result<Bm25Index> {
    build_with(path, passages, BuildOptions::default())
}

fn build_with(path: &Path, passages: &[Passage], options: BuildOptions) -> Result<Bm25Index> {
    let mut builder = Bm25Builder::new(path, options)?;
    passages.iter().try_for_each(|passage| builder.add(passage.clone()))?;
    builder.finish()
}

/// Computes BM25 for every passage by its definition, with Lucene's idf and Tantivy's one-byte lengths. Valid for words
/// that the analyzer does not change.
fn reference(passages: &[Passage], title_weight: u32, query: &str, parameters: Parameters) -> Vec<f64> {
    let (k1, b) = (f64::from(parameters.k1), f64::from(parameters.b));
    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(' ').filter(|word| !word.is_empty())
    }
    let count = passages.len() as f64;
    let body = |Passage { title, text, .. }: &Passage| [&**title].repeat(title_weight as usize).join(" ") + " " + text;
    let bodies: Vec<String> = passages.iter().map(body).collect();
    let documents: Vec<Vec<&str>> = bodies.iter().map(|body| words(body).collect()).collect();
    let average = documents.iter().map(Vec::len).sum::<usize>() as f64 / count;
    let mut scores = vec![0.0; documents.len()];
    for word in words(query) {
        let frequency = |document: &Vec<&str>| document.iter().filter(|other| **other == word).count() as f64;
        let frequencies: Vec<f64> = documents.iter().map(frequency).collect();
        let df = frequencies.iter().filter(|&&tf| tf > 0.0).count() as f64;
        for ((score, document), tf) in scores.iter_mut().zip(&documents).zip(frequencies) {
            let length = FieldNormReader::id_to_fieldnorm(FieldNormReader::fieldnorm_to_id(document.len() as u32));
            let norm = k1 * (1.0 - b + b * f64::from(length) / average);
            let share = if tf > 0.0 { tf / (tf + norm) } else { 0.0 };
            *score += (1.0 + (count - df + 0.5) / (df + 0.5)).ln() * (1.0 + k1) * share;
        }
    }
    scores
}

/// Returns the scores that Tantivy's own search finds in the same files.
fn plain(path: &Path, query: &str, k: usize) -> Vec<f32> {
    let index = tantivy::Index::open_in_dir(path).unwrap();
    let body = index.schema().get_field("body").unwrap();
    let words = query.split(' ').filter(|word| !word.is_empty()).map(|word| Term::from_field_text(body, word));
    let terms = words.map(|word| Box::new(TermQuery::new(word, IndexRecordOption::WithFreqs)) as Box<dyn Query>);
    let (query, collector) = (BooleanQuery::union(terms.collect()), TopDocs::with_limit(k).order_by_score());
    let found = index.reader().unwrap().searcher().search(&query, &collector).unwrap();
    found.into_iter().map(|(score, _)| score).collect()
}

/// Checks that the results are the best k with their scores, and that equal passages are in the order of indexing.
fn check(passages: &[Passage], index: &Bm25Index, query: &str, k: usize) -> TestCaseResult {
    let found = index.search(query, k).unwrap();
    let contents = |number: usize| (&passages[number].title, &passages[number].text);
    let mut copies: HashMap<_, Vec<usize>> = HashMap::new();
    (0..passages.len()).for_each(|number| copies.entry(contents(number)).or_default().push(number));
    let mut seen = HashMap::new();
    // For a word in nearly all passages, Tantivy's weight ln(1 + 0.003) has few significant digits in an f32.
    let near = |a: f32, b: f64| (f64::from(a) - b).abs() <= 1e-5 * b.abs() + 1e-6;
    let scores = reference(passages, index.metadata().title_weight, query, index.parameters());
    let mut best: Vec<usize> = (0..passages.len()).filter(|&number| scores[number] > 0.0).collect();
    best.sort_by(|&a, &b| scores[b].total_cmp(&scores[a])); // a stable sort
    best.truncate(k);
    prop_assert_eq!(found.len(), best.len());
    for (rank, (found, best)) in found.iter().zip(best).enumerate() {
        let number: usize = found.id.parse().unwrap();
        prop_assert!(near(found.score, scores[number]), "{:?} has {}", found, scores[number]);
        prop_assert!(near(found.score, scores[best]), "rank {} of {:?} is {:?}, not {}", rank, query, found, best);
        let equal = &copies[&contents(number)];
        let nth = seen.entry(contents(number)).or_insert(0);
        prop_assert_eq!(number, equal[*nth], "equal passages come in the order of indexing");
        *nth += 1;
        prop_assert_eq!((&found.title, &found.text), contents(number));
    }
    if index.parameters() != Parameters::default() {
        return Ok(());
    }
    let plain = plain(index.path(), query, k);
    prop_assert_eq!(found.len(), plain.len());
    prop_assert!(found.iter().zip(plain).all(|(found, plain)| near(found.score, plain.into())));
    Ok(())
}

/// A repeatable generator of words with the frequencies of a language: the word of rank r has a probability
/// proportional to 1 / r.
struct Words {
    state: u64,
    vocabulary: f64,
}

impl Words {
    fn number(&mut self) -> f64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 11) as f64 / (1u64 << 53) as f64
    }

    fn text(&mut self, words: usize) -> String {
        let mut word = || format!("zq{}", self.vocabulary.powf(self.number()) as usize);
        (0..words).map(|_| word()).collect::<Vec<_>>().join(" ")
    }

    /// Generates passages of up to `longest` words, of which `distinct` are different.
    fn passages(&mut self, documents: usize, distinct: usize, longest: f64) -> Vec<Passage> {
        let texts: Vec<String> = (0..distinct)
            .map(|_| {
                let words = (longest * self.number()) as usize;
                self.text(words)
            })
            .collect();
        (0..documents).map(|number| passage(number, "", &texts[(self.number() * distinct as f64) as usize])).collect()
    }
}

fn query() -> impl Strategy<Value = String> {
    // Squared, so that some words are rare. Some are repeated, or occur in no passage.
    let word = (0..30 * 30usize).prop_map(|square| format!("zq{}", square.isqrt()));
    prop::collection::vec(word, 0..9).prop_map(|words| words.join(" "))
}

fn text(longest: usize) -> impl Strategy<Value = String> {
    let word = (0..12 * 12usize).prop_map(|square| format!("zq{}", square.isqrt()));
    prop::collection::vec(word, 0..longest).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn scores_are_bm25(
        contents in prop::collection::vec((text(4), text(90)), 1..60),
        queries in prop::collection::vec(text(6), 1..6),
        title_weight in 1..5u32,
        k in 1..70usize,
    ) {
        let passages: Vec<Passage> =
            contents.iter().enumerate().map(|(number, (title, text))| passage(number, title, text)).collect();
        let folder = tempdir().unwrap();
        let options = BuildOptions { title_weight, ..BuildOptions::default() };
        let index = build_with(&folder.path().join("index"), &passages, options).unwrap();
        let batch = index.search_batch(&queries, k).unwrap();
        for (query, found) in queries.iter().zip(batch) {
            prop_assert_eq!(found, index.search(query, k).unwrap(), "a batch gives what single searches give");
            check(&passages, &index, query, k)?;
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Uses many blocks of documents, words that nearly all documents have, and words that only one has.
    #[test]
    fn pruning_loses_nothing(
        state in any::<u64>(),
        vocabulary in 2.0..5_000.0,
        (documents, distinct) in (1..4_000usize).prop_flat_map(|documents| (Just(documents), 1..=documents)),
        longest in 1.0..40.0,
        queries in prop::collection::vec(query(), 1..5),
        k in prop_oneof![1..20usize, 1..5_000usize],
        k1 in prop_oneof![Just(0.0f32), 0.0..4.0f32, 0.0..100.0f32],
        b in prop_oneof![Just(0.0f32), Just(1.0f32), 0.0..1.0f32],
    ) {
        let passages = Words { state, vocabulary }.passages(documents, distinct, longest);
        let folder = tempdir().unwrap();
        let index = build(&folder.path().join("index"), &passages).unwrap();
        queries.iter().try_for_each(|query| check(&passages, &index, query, k))?;
        let other = Bm25Index::open(index.path(), Parameters { k1, b }).unwrap();
        queries.iter().try_for_each(|query| check(&passages, &other, query, k))?;
    }

}

proptest! {
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

/// Has more blocks than the first phases of a search take.
#[test]
fn pruning_loses_nothing_of_many() {
    let mut words = Words { state: 1, vocabulary: 20_000.0 };
    let passages = words.passages(120_000, 100_000, 12.0);
    let folder = tempdir().unwrap();
    let index = build(&folder.path().join("index"), &passages).unwrap();
    for number in 0..18 {
        let query = words.text(1 + number % 8);
        check(&passages, &index, &query, [1, 10, 1_000][number % 3]).unwrap();
    }
}

/// The index is identical to the byte for any number of threads and any memory, and equal passages keep their order.
/// The first passages have so many words that a run of them has several parts.
#[test]
fn threads_and_memory_make_no_difference() {
    let text = |from: usize| (from..from + 120).map(|word| format!("w{word} ")).collect::<String>() + "same";
    let from = |number: usize| if number < 3_000 { number * 120 } else { number % 791 };
    let passages: Vec<Passage> =
        (0..20_000).map(|number| passage(number, &format!("t{}", number % 97), &text(from(number)))).collect();
    let folder = tempdir().unwrap();
    let built = |threads: usize, memory: usize| {
        let path = folder.path().join(format!("{threads}-{memory}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options = BuildOptions { memory: memory << 20, ..BuildOptions::default() };
        let index = pool.install(|| build_with(&path, &passages, options)).unwrap();
        let first: Vec<String> = index.search("same", 20).unwrap().into_iter().map(|passage| passage.id).collect();
        assert_eq!(first, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
        contents(&path)
    };
    let one = built(1, 4_096);
    for (threads, memory) in [(1, 64), (16, 64), (3, 300)] {
        let other = built(threads, memory);
        assert!(one.keys().eq(other.keys()), "{:?}", other.keys());
        let differ: Vec<_> = one.keys().filter(|name| one[*name] != other[*name]).collect();
        assert!(differ.is_empty(), "{differ:?} differ with {threads} threads and {memory} MB");
    }
}

/// Returns the files of an index. Tantivy's file names consist of a random number and the kind; only the kind counts.
/// Its document store is left out, because its documents are empty and its blocks depend on how they were written.
fn contents(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    let kind = |path: &Path| {
        let name = path.extension().or(path.file_name()).unwrap();
        name.to_str().unwrap().to_owned()
    };
    let counts = |path: &PathBuf| !["json", "store"].contains(&kind(path).as_str());
    files.filter(counts).map(|path| (kind(&path), fs::read(&path).unwrap())).collect()
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

/// Finds other forms and parts of words in each language.
#[test]
fn languages() {
    let cases = [
        ("german", "Die Häuser der Straße", "Haus", true),
        ("german", "Die Häuser der Straße", "die der", false),
        ("english", "running", "runs", true),
        ("none", "running", "runs", false),
        ("none", "The Corran", "the", true),
        ("arabic", "الكتاب", "كتاب", true),
        ("turkish", "evler", "ev", true),
        ("cjk", "東京都庁は新宿にある。", "東京", true),
        ("cjk", "東京都庁は新宿にある。", "京都", true), // the cost of pairs
        ("cjk", "東京都庁は新宿にある。", "宿東", false),
        ("cjk", "東京都庁は新宿にある。", "新", false),
        ("cjk", "猫、犬", "犬", true),
        ("cjk", "猫、犬", "猫犬", false),
        ("cjk", "서울특별시", "특별", true),
        ("cjk", "ＢＭ２５ means Rank", "bm25", true),
        ("cjk", "BM25の順位rank", "ＲＡＮＫ", true),
        ("cjk", "ｶﾀｶﾅ", "カタカナ", true),
        ("cjk", "が行", "か\u{3099}行", true),
        // Composed or decomposed, full width, ligatures, case folding.
        ("english", "cafe\u{301}s", "CAFÉ", true),
        ("english", "café", "cafe", false),
        ("english", "ＢＭ２５ ﬁeld", "bm25 xyz", true),
        ("english", "the ﬁelds", "FIELD", true),
        ("german", "STRASSE", "Straße", true),
        ("greek", "ΟΔΟΣ", "οδός", true),
        ("none", "ΟΔΟΣ", "οδος", true),
        ("none", "İstanbul", "I\u{307}STANBUL", true),
        ("none", "naïve", "NAI\u{308}VE", true),
        ("none", "x\u{304}y", "y", false),
        ("none", "हिन्दी", "हिन", false),
        ("none", "தமிழ்நாடு", "தமிழ்நாடு", true),
        // Characters that nobody sees, within words and between them.
        ("none", "co\u{ad}opera\u{2060}te", "cooperate", true),
        ("none", "cooperate", "co\u{200d}ope\u{fe0f}rate", true),
        ("none", "\u{feff}first", "first", true),
        ("none", "שלום\u{200f}", "שלום", true),
        ("none", "می\u{200c}خواهم", "خواهم", true),
        ("none", "one\u{200b}two", "two", true),
    ];
    for (name, text, query, expected) in cases {
        let folder = tempdir().unwrap();
        let path = folder.path().join("index");
        let options = BuildOptions { language: name.parse().unwrap(), ..BuildOptions::default() };
        build_with(&path, &[passage(0, "", text)], options).unwrap();
        let index = Bm25Index::open(&path, Parameters::default()).unwrap();
        assert_eq!(index.metadata().language.to_string(), name);
        assert_eq!(!index.search(query, 1).unwrap().is_empty(), expected, "{query:?} in {text:?}, {name}");
    }
    assert_eq!(Language::all().count(), 19);
    let error = "klingon".parse::<Language>().unwrap_err().to_string();
    assert!(error.starts_with("the language is \"klingon\", and must be one of english, arabic, "), "{error}");
}

#[test]
fn lines_of_jsonl() {
    let good: BTreeMap<&str, (&str, &str, &str)> = BTreeMap::from([
        (r#"{"id": "a", "title": "T", "text": "x"}"#, ("a", "T", "x")),
        (r#"{"_id": "a", "title": "T", "text": "x", "metadata": {"k": 1}}"#, ("a", "T", "x")),
        (r#"{"id": 7, "text": "x"}"#, ("7", "", "x")),
        (r#"{"id": 123456789012345678901234567890, "text": "x"}"#, ("123456789012345678901234567890", "", "x")),
        (r#"{"id": -1.50, "text": "\ud83d"}"#, ("-1.50", "", "\u{fffd}")),
        (r#"{"id": "a", "title": null, "text": "x"}"#, ("a", "", "x")),
        (r#"{"id": "a", "contents": "\"T\"\nx\ny"}"#, ("a", "T", "x\ny")),
        (r#"{"id": "a", "contents": "x"}"#, ("a", "", "x")),
        ("\u{feff}{\"id\": \"a\", \"text\": \"x\"}\r", ("a", "", "x")),
    ]);
    let bad: &[(&[u8], &str)] = &[
        (b"{\"id\": \"a\"", "not JSON"),
        (b"[1]", "not a JSON object but a list"),
        (b"{\"text\": \"x\"}", "no field `id` or `_id`"),
        (b"{\"id\": [], \"text\": \"x\"}", "its id is a list; it must be a string or a number"),
        (b"{\"id\": \"a\", \"title\": \"T\"}", "no field `text` or `contents`"),
        (b"{\"id\": \"a\", \"text\": 1}", "`text` is a number, not a string"),
        (b"{\"id\": \"a\", \"text\": \"\xff\"}", "not JSON"),
    ];
    let folder = tempdir().unwrap();
    let file = folder.path().join("corpus.jsonl");
    let read = || -> Result<Vec<Result<Passage>>> {
        let lines = JsonlFile::open(&file)?.next_lines(1 << 20)?.unwrap();
        Ok(lines.passages().collect())
    };
    for (line, (id, title, text)) in good {
        fs::write(&file, line).unwrap();
        let [Ok(passage)] = &read().unwrap()[..] else { panic!("{line}") };
        assert_eq!(passage, &Passage { id: id.into(), title: title.into(), text: text.into(), score: 0.0 }, "{line}");
    }
    for (line, message) in bad {
        fs::write(
            &file,
            [b"{\"id\": \"a\", \"text\": \"x\"}\n\n", *line, b"\n{\"id\": \"b\", \"text\": \"y\"}"].concat(),
        )
        .unwrap();
        let [Ok(_), Err(error), Ok(_)] = &read().unwrap()[..] else { panic!("{message}") };
        let (error, expected) = (error.to_string(), format!("{}:3: {message}", file.display()));
        assert!(error.starts_with(&expected), "{error}\nis not\n{expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However a file is compressed, and in whatever pieces it is read, whole lines come out with the right numbers.
    #[test]
    fn files_are_read_in_pieces(
        lines in prop::collection::vec(prop::option::of("[a-zé]{0,30}"), 1..40),
        size in 1..300usize,
        ends in any::<bool>(),
    ) {
        let line = |text: &Option<String>| match text {
            Some(text) => serde_json::json!({"id": 1, "text": text}).to_string(),
            None => "bad".to_owned(),
        };
        let text = lines.iter().map(line).collect::<Vec<_>>().join("\n") + if ends { "\n" } else { "" };
        let (half, rest) = text.as_bytes().split_at(text.len() / 2);
        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = |bytes| zstd::encode_all(bytes, 1).unwrap();
        let folder = tempdir().unwrap();
        let file = folder.path().join("corpus");
        for bytes in [text.clone().into_bytes(), [gzip(half), gzip(rest)].concat(), [gzip(half), gzip(rest), vec![0; 70_000]].concat(), [zstd(half), zstd(rest)].concat()] {
            fs::write(&file, &bytes).unwrap();
            let mut reader = JsonlFile::open(&file).unwrap();
            let mut read = Vec::new();
            while let Some(lines) = reader.next_lines(size).unwrap() {
                read.extend(lines.passages().map(|passage| match passage {
                    Ok(passage) => Ok(passage.text),
                    Err(error) => Err(error.to_string()),
                }));
            }
            prop_assert_eq!(reader.bytes_read(), bytes.len() as u64);
            let expected: Vec<_> = (1..).zip(&lines).map(|(number, text)| {
                let wrong = format!("{}:{number}: not JSON: expected value (column 1)", file.display());
                text.clone().ok_or(wrong)
            }).collect();
            prop_assert_eq!(read, expected);
        }
    }
}

#[test]
fn a_list_is_said_to_be_one() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("corpus.json");
    for list in ["[{\"id\": 1, \"text\": \"x\"}]", "\n [\n{\"id\": 1, \"text\": \"x\"}\n]\n"] {
        fs::write(&file, list).unwrap();
        let error = JsonlFile::open(&file).unwrap().next_lines(1 << 20).err().unwrap().to_string();
        assert!(error.contains("corpus.json:1: the file is one JSON list"), "{error}");
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

    let new = || Bm25Builder::new(&path, BuildOptions::default());
    let mut builder = new().unwrap();
    builder.add(passage(0, "", "one")).unwrap();
    assert!(!path.exists());
    retrieval_error(new().map(|_| ()), "another process is building");
    drop(builder);
    assert_eq!(entries(), 0, "a build given up leaves nothing");
    retrieval_error(new().unwrap().finish().map(|_| ()), "no passages");
    assert_eq!(entries(), 0);

    // The rest of a killed build does not disturb the next build.
    fs::create_dir_all(folder.path().join(".index.building/part-0")).unwrap();
    fs::write(folder.path().join(".index.building/part-0/junk"), "junk").unwrap();
    let old = build(&path, &[passage(0, "", "one")]).unwrap();
    assert_eq!(entries(), 1);

    retrieval_error(build(&path, &[]).map(|_| ()), "already");
    let overwrite = BuildOptions { overwrite: true, ..BuildOptions::default() };
    let new = build_with(&path, &[passage(1, "", "two")], overwrite).unwrap();
    assert_eq!(entries(), 1);
    assert_eq!(old.search("one", 1).unwrap()[0].id, "0", "an index that is open survives its replacement");
    assert_eq!(new.search("two", 1).unwrap()[0].id, "1");
}

/// In a folder that others may write to, links at the building site are not followed.
#[test]
fn a_building_site_is_ours() {
    let folder = tempdir().unwrap();
    let [home, site] = ["home", ".index.building"].map(|name| folder.path().join(name));
    fs::create_dir_all(home.join("photos")).unwrap();
    fs::write(home.join("photos/1"), "x").unwrap();
    let build = || build(&folder.path().join("index"), &[passage(0, "", "one")]);
    symlink(&home, &site).unwrap();
    assert!(build().err().unwrap().to_string().contains("this is not a folder of yours"));
    fs::remove_file(&site).unwrap();
    fs::create_dir(&site).unwrap();
    symlink(home.join("photos"), site.join("run-0")).unwrap();
    symlink(home.join("photos/1"), site.join("lock")).unwrap();
    assert!(build().is_err());
    assert_eq!(fs::read_to_string(home.join("photos/1")).unwrap(), "x");
}

/// Returns the metadata of an index of version 3, which has no checksums.
fn version_3(documents: usize) -> String {
    format!(r#"{{"version": 3, "documents": {documents}, "skipped": 0, "language": "english", "title_weight": 1}}"#)
}

/// A byte that changes anywhere is an error. Without checksums, as in version 3, it is an error or a different answer,
/// but never a panic, a hang or the end of the process.
#[test]
fn damage_is_an_error() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("index");
    let passages = Words { state: 7, vocabulary: 300.0 }.passages(3_000, 2_000, 12.0);
    let index = build(&path, &passages).unwrap();
    index.check().unwrap();
    let open = || Bm25Index::open(&path, Parameters::default());
    let written = fs::read(path.join("agentdistill.json")).unwrap();
    let mut random = Words { state: 11, vocabulary: 0.0 };
    let names = index.metadata().checksums.keys();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        let file = path.join(name);
        let whole = fs::read(&file).unwrap();
        for round in 0..40 {
            let mut bytes = whole.clone();
            let Some(last) = bytes.len().checked_sub(1) else { continue };
            // At both ends, where lengths and tables are, and in between.
            let at = match round % 3 {
                0 => (round / 3).min(last),
                1 => last.saturating_sub(round / 3),
                _ => (random.number() * last as f64) as usize,
            };
            bytes[at] ^= [0xff, 0x01, 0x80][round % 2];
            replace(&file, &bytes);
            let error = open().and_then(|index| index.check()).unwrap_err().to_string();
            assert!(error.contains("the index is damaged"), "{name}: {error}");
            replace(&path.join("agentdistill.json"), version_3(passages.len()).as_bytes());
            let _ = open().and_then(|index| index.search_batch(&["zq1 zq2 zq7 zq250", "zq299"], 10));
            replace(&path.join("agentdistill.json"), &written);
        }
        replace(&file, &whole);
    }
    open().unwrap().check().unwrap();
}

/// Replaces a file by another one. A memory-mapped file must not be written to.
fn replace(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

/// The cost of a query is bounded for any length: only its first 1,024 distinct words count.
#[test]
fn the_words_of_a_query_are_bounded() {
    let folder = tempdir().unwrap();
    let passages: Vec<Passage> = (0..3_000).map(|number| passage(number, "", &format!("zq{number}"))).collect();
    let index = build(&folder.path().join("index"), &passages).unwrap();
    let query = |words: usize| (0..words).map(|word| format!("zq{word} ")).collect::<String>();
    assert_eq!(index.search(&query(1_024), 3_000).unwrap().len(), 1_024);
    assert_eq!(index.search(&query(3_000), 3_000).unwrap(), index.search(&query(1_024), 3_000).unwrap());
    let long = format!("zq7 {} zq8", "é, ".repeat(1 << 20));
    assert_eq!(index.search(&long, 9).unwrap().len(), 1);
}

#[test]
fn what_is_no_index_of_ours_is_refused() {
    let folder = tempdir().unwrap();
    let open = |name: &str| {
        let index = Bm25Index::open(&folder.path().join(name), Parameters::default());
        index.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(open("absent").contains("there is no index here"));
    fs::create_dir(folder.path().join("other")).unwrap();
    fs::write(folder.path().join("other/file"), "mine").unwrap();
    assert!(open("other").contains("this is not an index"));
    let options = BuildOptions { overwrite: true, ..BuildOptions::default() };
    let overwrite = Bm25Builder::new(&folder.path().join("other"), options).map(|_| ()).unwrap_err();
    assert!(overwrite.to_string().contains("something here that is not an index"));

    let path = folder.path().join("index");
    build(&path, &[passage(0, "", "one")]).unwrap();
    let metadata = path.join("agentdistill.json");
    let written = fs::read_to_string(&metadata).unwrap();
    fs::write(&metadata, written.replace("\"version\": 5", "\"version\": 1")).unwrap();
    assert!(open("index").contains("of version 1, and this agentdistill reads versions 3 to 5; build it"));
    fs::write(&metadata, written.replace("\"title_weight\": 1", "\"title_weight\": 2")).unwrap();
    assert!(open("index").contains("damaged (it is not what was written)"));
    fs::write(&metadata, version_3(1)).unwrap();
    assert_eq!(open("index"), "");
    fs::write(&metadata, version_3(5)).unwrap();
    assert!(open("index").contains("it holds 1 of 5 passages"));
    fs::write(&metadata, "junk").unwrap();
    assert!(open("index").contains("damaged"));
    fs::write(&metadata, &written).unwrap();
    for name in ["passages", "passage_ends", "block_bounds"] {
        let whole = fs::read(path.join(name)).unwrap();
        fs::write(path.join(name), &whole[1..]).unwrap();
        assert!(open("index").contains("build it again"), "{name} has lost its beginning");
        fs::write(path.join(name), whole).unwrap();
    }
    fs::remove_file(path.join("meta.json")).unwrap();
    assert!(open("index").contains("build it again"));
}
