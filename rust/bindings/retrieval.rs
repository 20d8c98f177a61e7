//! Passages and the BM25 index in Python.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator, PyList, PyTuple, PyType};
use serde_json::Value as Json;

use super::{AnyText, RetrievalError, short};
use crate::retrieval::{Bm25Builder, Bm25Index, BuildOptions, Fields, JsonlFile, Passage};
use crate::search_tool;

/// Passages indexed between two looks at Python: its progress callback, its signals.
const BATCH: usize = 10_000;

/// BM25 (k1 1.2, b 0.75) over passages on disk. A query is a bag of words: any string is a valid one.
#[pyclass(frozen, name = "Bm25Index", module = "agentdistill._core")]
pub struct PyBm25Index(pub Arc<Bm25Index>);

#[pymethods]
impl PyBm25Index {
    /// Index passages: an iterable of ``(id, title, text)`` or of dicts with ``id|_id``, ``title``, ``text`` (or
    /// ``contents``); or files and folders of them, which ``agentdistill.files.corpus`` reads.
    ///
    /// A title counts ``title_weight`` times. ``progress`` is called now and then with the number of passages indexed and, for files, the share of them that
    /// has been read, 0 to 1. The index appears at ``path`` only when complete. Raises RetrievalError (with file and
    /// line for a bad line; for a path that exists), ValueError for a language that is not known, a title that does not
    /// count, or under 64 MB of memory.
    #[staticmethod]
    #[pyo3(signature = (
        passages, path, *, language = "english", title_weight = 1, overwrite = false, skip_bad = false, memory_mb = 1024, progress = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords")]
    fn build(
        py: Python<'_>,
        passages: &Bound<'_, PyAny>,
        path: PathBuf,
        language: &str,
        title_weight: u32,
        overwrite: bool,
        skip_bad: bool,
        memory_mb: usize,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let options = BuildOptions {
            language: language.parse()?,
            title_weight,
            overwrite,
            skip_bad,
            memory: memory_mb.saturating_mul(1 << 20),
        };
        let sources = sources(passages)?;
        let mut builder = Bm25Builder::new(&path, options)?;
        let total: u64 = sources.iter().map(|source| source.bytes).sum();
        let tick = |documents: u64, bytes: u64| {
            py.check_signals()?;
            let share = (total > 0).then(|| bytes as f64 / total as f64);
            progress.map_or(Ok(()), |progress| progress.call1((documents, share)).map(drop))
        };
        let mut before = 0;
        for source in sources {
            source.add_to(&mut builder, skip_bad, py, |documents, bytes| tick(documents, before + bytes))?;
            before += source.bytes;
        }
        py.detach(|| builder.wait())?;
        tick(builder.documents(), total)?;
        Ok(Self(Arc::new(py.detach(|| builder.finish())?)))
    }

    /// Open an index. Raises RetrievalError when there is none, or one of another version.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Ok(Self(Arc::new(py.detach(|| Bm25Index::open(&path))?)))
    }

    /// The ``k`` passages of highest score, best first.
    #[pyo3(signature = (query, k = 3))]
    fn search(&self, py: Python<'_>, query: AnyText, k: i64) -> PyResult<Vec<Passage>> {
        let k = natural(k)?;
        Ok(py.detach(|| self.0.search(&query.0, k))?)
    }

    /// ``search`` as text for a model to read: what a cell's ``web_search`` returns.
    #[pyo3(signature = (query, k = 3))]
    fn search_text(&self, py: Python<'_>, query: AnyText, k: i64) -> PyResult<String> {
        Ok(search_tool::for_reading(&self.search(py, query, k)?))
    }

    /// ``search`` for many queries, in parallel on all cores.
    #[pyo3(signature = (queries, k = 3))]
    fn search_batch(&self, py: Python<'_>, queries: Vec<AnyText>, k: i64) -> PyResult<Vec<Vec<Passage>>> {
        let k = natural(k)?;
        Ok(py.detach(|| self.0.search_batch(&queries, k))?)
    }

    /// By its path: another process opens the same folder.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (PathBuf,))> {
        Ok((PyType::new::<Self>(py).getattr("open")?, (std::path::absolute(self.0.path())?,)))
    }

    /// What is known of the index: ``documents``, ``bytes``, ``version``, ``path``, ``skipped``, ``language``,
    /// ``analyzer``, ``title_weight``.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = PyDict::new(py);
        let metadata = self.0.metadata();
        info.set_item("documents", metadata.documents)?;
        info.set_item("bytes", self.0.bytes())?;
        info.set_item("version", metadata.version)?;
        info.set_item("path", self.0.path().as_os_str())?;
        info.set_item("skipped", metadata.skipped)?;
        info.set_item("language", metadata.language.to_string())?;
        info.set_item("analyzer", metadata.language.description())?;
        info.set_item("title_weight", metadata.title_weight)?;
        Ok(info)
    }

    fn __len__(&self) -> usize {
        self.0.metadata().documents as usize
    }

    fn __repr__(&self) -> String {
        format!("Bm25Index({:?}, documents={})", self.0.path(), self.__len__())
    }
}

#[pymethods]
impl Passage {
    #[new]
    #[pyo3(signature = (id, title, text, score = 0.0))]
    fn py_new(id: String, title: String, text: String, score: f32) -> Self {
        Self { id, title, text, score }
    }

    fn __repr__(&self) -> String {
        let Self { id, title, text, score } = self;
        format!("Passage({id:?}, {title:?}, {}, score={score:.3})", short(text))
    }
}

/// Passages as text for a model to read, the best first: what a cell's ``web_search`` returns.
#[pyfunction]
pub fn for_reading(passages: Vec<Passage>) -> String {
    search_tool::for_reading(&passages)
}

/// Where passages come from.
struct Source<'py> {
    /// The file, if it is one.
    path: Option<PathBuf>,
    /// Size of the file, and how many passages those are.
    bytes: u64,
    rows: u64,
    /// Without them, the file is one of JSON lines.
    passages: Option<Bound<'py, PyIterator>>,
}

/// An iterable is one source; of paths, agentdistill.files.corpus says what is there.
fn sources<'py>(passages: &Bound<'py, PyAny>) -> PyResult<Vec<Source<'py>>> {
    let paths = match passages.extract::<PathBuf>() {
        Ok(path) => vec![path],
        Err(_) if passages.is_instance_of::<PyList>() || passages.is_instance_of::<PyTuple>() => {
            passages.extract().unwrap_or_default()
        }
        Err(_) => vec![],
    };
    if paths.is_empty() {
        return Ok(vec![Source { path: None, bytes: 0, rows: 0, passages: Some(passages.try_iter()?) }]);
    }
    let found = passages.py().import("agentdistill.files.corpus")?.call_method1("find_passages", (paths,))?;
    let found: Vec<(PathBuf, u64, u64, Option<Bound<'py, PyAny>>)> = found.extract()?;
    let source = |(path, bytes, rows, passages): (_, _, _, Option<Bound<'py, PyAny>>)| {
        let passages = passages.map(|passages| passages.try_iter()).transpose()?;
        Ok(Source { path: Some(path), bytes, rows, passages })
    };
    found.into_iter().map(source).collect()
}

impl Source<'_> {
    /// Adds all there is; `tick` is told now and then how many are indexed, and how many bytes have been read.
    fn add_to(
        &self,
        builder: &mut Bm25Builder,
        skip_bad: bool,
        py: Python<'_>,
        tick: impl Fn(u64, u64) -> PyResult<()>,
    ) -> PyResult<()> {
        let Some(passages) = &self.passages else {
            let mut file = JsonlFile::open(self.path.as_deref().unwrap_or(Path::new("")))?;
            while let Some(lines) = py.detach(|| file.next_lines(builder.run_bytes()))? {
                py.detach(|| builder.add_lines(lines))?;
                tick(builder.documents(), file.bytes_read())?;
            }
            return tick(builder.documents(), self.bytes);
        };
        let mut passages = passages.clone();
        let mut seen = 0;
        loop {
            let mut batch = Vec::with_capacity(BATCH);
            let before = seen;
            for item in passages.by_ref().take(BATCH) {
                seen += 1;
                match passage(&item?) {
                    Ok(passage) => batch.push(passage),
                    Err(_) if skip_bad => builder.skip(),
                    Err(message) => {
                        let file = self.path.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default();
                        return Err(RetrievalError::new_err(format!("{file}passage {seen}: {message}")));
                    }
                }
            }
            py.detach(|| batch.into_iter().try_for_each(|passage| builder.add(passage)))?;
            tick(builder.documents(), (self.bytes * seen).checked_div(self.rows).unwrap_or(0))?;
            if seen < before + BATCH as u64 {
                return Ok(());
            }
        }
    }
}

fn passage(item: &Bound<'_, PyAny>) -> Result<Passage, String> {
    if let Ok(passage) = item.cast::<Passage>() {
        return Ok(passage.get().clone());
    }
    if let Ok(fields) = item.cast::<PyDict>() {
        let field = |name| fields.get_item(name).ok().flatten().map_or(Json::Null, |value| json(&value));
        let [id, _id, title, text, contents] = ["id", "_id", "title", "text", "contents"].map(field);
        return Fields { id, _id, title, text, contents }.passage();
    }
    match item.extract::<Vec<AnyText>>().map(<[AnyText; 3]>::try_from) {
        Ok(Ok([id, title, text])) => Ok(Passage { id: id.0, title: title.0, text: text.0, score: 0.0 }),
        _ => Err(format!("{} is neither (id, title, text) of strings nor a dict", short(&item.to_string()))),
    }
}

/// What of a value matters: its text, or what else it is.
fn json(value: &Bound<'_, PyAny>) -> Json {
    if let Ok(text) = value.extract::<AnyText>() {
        Json::String(text.0)
    } else if let Ok(number) = value.extract::<i64>() {
        number.into()
    } else if value.is_none() {
        Json::Null
    } else {
        Json::Array(vec![])
    }
}

impl AsRef<str> for AnyText {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

fn natural(k: i64) -> PyResult<usize> {
    usize::try_from(k)
        .ok()
        .filter(|&k| k > 0)
        .ok_or_else(|| PyValueError::new_err(format!("k must be at least 1, not {k}")))
}
