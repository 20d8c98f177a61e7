//! Passages and the BM25 index in Python.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyIterator, PyList, PyTuple, PyType};
use serde_json::Value as Json;

use super::{AnyText, RetrievalError, compat, short, without_gil};
use crate::retrieval::{Bm25Builder, Bm25Index, BuildOptions, Fields, Id, JsonlFile, Parameters, Passage};
use crate::search_tool::{self, SearchTool};

/// The number of passages indexed between two calls into Python (the progress callback, and a check for signals).
const BATCH: usize = 10_000;

/// BM25 over passages on disk. Any string is a valid query: a bag of words, of which the first 1,024 distinct ones
/// count.
#[pyclass(frozen, name = "Bm25Index", module = "agentdistill._core")]
pub struct PyBm25Index(pub Arc<Bm25Index>);

#[pymethods]
impl PyBm25Index {
    /// Index passages: an iterable of ``(id, title, text)`` or of dicts with ``id|_id``, ``title``, ``text`` (or
    /// ``contents``); or files and folders of them, which ``agentdistill.files.corpus`` reads.
    ///
    /// The words of a title count ``title_weight`` times. ``progress`` is called from time to time with the number of
    /// passages indexed and, for files, the fraction read, 0 to 1. The index appears at ``path`` only when it is
    /// complete. Raises RetrievalError for a bad line (with file and line) and for an existing path, ValueError for an
    /// unknown language, a ``title_weight`` that is not positive, or less than 64 MB of memory.
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
        let builder = without_gil(py, || Bm25Builder::new(&path, options))??;
        Ok(Self(Arc::new(fill(py, builder, passages, skip_bad, progress)?)))
    }

    /// Add passages to the index that is now at the path, and open the result. They are given as to ``build``, whose
    /// language and title weight apply. An added passage replaces those of the index with the same id.
    ///
    /// Raises RetrievalError for a bad line, for an index that is damaged or older than version 4, and while another
    /// process is changing it. Then nothing is changed.
    #[pyo3(signature = (passages, *, skip_bad = false, memory_mb = 1024, progress = None))]
    fn add(
        &self,
        py: Python<'_>,
        passages: &Bound<'_, PyAny>,
        skip_bad: bool,
        memory_mb: usize,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let options = BuildOptions { skip_bad, memory: memory_mb.saturating_mul(1 << 20), ..BuildOptions::default() };
        let builder = without_gil(py, || Bm25Builder::extend(self.0.path(), self.0.parameters(), options))??;
        Ok(Self(Arc::new(fill(py, builder, passages, skip_bad, progress)?)))
    }

    /// Delete all passages with these ids from the index that is now at the path, and open the result.
    ///
    /// Raises RetrievalError if an id is not in the index or no passage would remain, and for the reasons of ``add``.
    /// Then nothing is deleted.
    fn delete(&self, py: Python<'_>, ids: Vec<AnyText>) -> PyResult<Self> {
        let ids = ids.into_iter().map(String::from);
        Ok(Self(Arc::new(without_gil(py, || self.0.delete(ids))??)))
    }

    /// Merge all segments of the index that is now at the path, without the deleted passages, and open the result: the
    /// index that a build of its passages makes.
    #[pyo3(signature = (*, memory_mb = 1024))]
    fn merge(&self, py: Python<'_>, memory_mb: usize) -> PyResult<Self> {
        Ok(Self(Arc::new(without_gil(py, || self.0.merge(memory_mb.saturating_mul(1 << 20)))??)))
    }

    /// Open an index with the BM25 parameters ``k1`` (0 to 100: how much repetitions of a word count) and ``b`` (0 to
    /// 1: how much long passages are penalized).
    ///
    /// Raises RetrievalError if there is no index, or if it has another version or is damaged; ValueError for
    /// parameters out of range.
    #[staticmethod]
    #[pyo3(signature = (path, k1 = 1.2, b = 0.75))]
    fn open(py: Python<'_>, path: PathBuf, k1: f32, b: f32) -> PyResult<Self> {
        Ok(Self(Arc::new(without_gil(py, || Bm25Index::open(&path, Parameters { k1, b }))??)))
    }

    /// Verify every byte. Raises RetrievalError, which names the damaged files. An index of version 3 has no checksums,
    /// so it is verified only in part.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        Ok(without_gil(py, || self.0.check())??)
    }

    /// Search, and return the ``k`` passages with the highest scores, best first.
    #[pyo3(signature = (query, k = 3))]
    fn search(&self, py: Python<'_>, query: AnyText, k: i64) -> PyResult<Vec<Passage>> {
        let k = natural(k)?;
        Ok(without_gil(py, || self.0.search(&query.0, k))??)
    }

    /// Search, and return the passages as text for a model to read, as a cell's ``web_search`` does. ``compat``:
    /// "reference" is the form of the paper's code.
    #[pyo3(signature = (query, k = 3, *, compat = None))]
    fn search_text(&self, py: Python<'_>, query: AnyText, k: i64, compat: Option<&str>) -> PyResult<String> {
        for_reading(self.search(py, query, k)?, compat)
    }

    /// The index as a sandbox tool that returns ``k`` passages, at most 100, in the form of ``search_text``.
    #[pyo3(signature = (k = 3, *, compat = None))]
    fn tool(&self, k: i64, compat: Option<&str>) -> PyResult<PySearchTool> {
        let k = natural(k)?;
        if k > SearchTool::MOST {
            return Err(PyValueError::new_err(format!(
                "k is {k}: a tool returns at most {} passages",
                SearchTool::MOST
            )));
        }
        Ok(PySearchTool(Arc::new(SearchTool { index: self.0.clone(), k, compat: self::compat(compat)? })))
    }

    /// Search for many queries in parallel on all cores.
    #[pyo3(signature = (queries, k = 3))]
    fn search_batch(&self, py: Python<'_>, queries: Vec<AnyText>, k: i64) -> PyResult<Vec<Vec<Passage>>> {
        let k = natural(k)?;
        Ok(without_gil(py, || self.0.search_batch(&queries, k))??)
    }

    /// The passages with this title, in the order of indexing. Case does not count. They are found by the title's words:
    /// all with the title among the best 1,000, and those before and after these. At most about 4 MiB.
    fn page(&self, py: Python<'_>, title: AnyText) -> PyResult<Vec<Passage>> {
        Ok(without_gil(py, || self.0.page(&title.0))??)
    }

    /// Pickle by path: the process that unpickles it opens the same folder.
    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, (PathBuf, f32, f32))> {
        let Parameters { k1, b } = self.0.parameters();
        Ok((PyType::new::<Self>(py).getattr("open")?, (std::path::absolute(self.0.path())?, k1, b)))
    }

    /// ``documents``, ``segments``, ``deleted`` (passages that the segments still contain), ``bytes``, ``version``,
    /// ``path``, ``skipped``, ``language``, ``analyzer``, ``title_weight``, and the search parameters ``k1`` and ``b``.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = PyDict::new(py);
        let metadata = self.0.metadata();
        info.set_item("documents", metadata.documents)?;
        info.set_item("segments", self.0.segments())?;
        info.set_item("deleted", self.0.deleted())?;
        info.set_item("bytes", self.0.bytes())?;
        info.set_item("version", metadata.version)?;
        info.set_item("path", self.0.path().as_os_str())?;
        info.set_item("skipped", metadata.skipped)?;
        info.set_item("language", metadata.language.to_string())?;
        info.set_item("analyzer", metadata.language.description())?;
        info.set_item("title_weight", metadata.title_weight)?;
        let Parameters { k1, b } = self.0.parameters();
        info.set_item("k1", decimal(k1))?;
        info.set_item("b", decimal(b))?;
        Ok(info)
    }

    fn __len__(&self) -> usize {
        self.0.metadata().documents as usize
    }

    /// Iterate over all passages, in the order of indexing. Their scores are 0.
    fn __iter__(&self) -> PyPassageIterator {
        PyPassageIterator { index: self.0.clone(), next: 0 }
    }

    fn __repr__(&self) -> String {
        format!("Bm25Index({:?}, documents={})", self.0.path(), self.__len__())
    }
}

#[pyclass(name = "_PassageIterator", module = "agentdistill._core")]
struct PyPassageIterator {
    index: Arc<Bm25Index>,
    next: u32,
}

#[pymethods]
impl PyPassageIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&mut self) -> PyResult<Option<Passage>> {
        let Some((number, passage)) = self.index.next_passage(self.next)? else { return Ok(None) };
        self.next = number + 1;
        Ok(Some(passage))
    }
}

#[pymethods]
impl Passage {
    #[new]
    #[pyo3(signature = (id, title, text, score = 0.0))]
    fn py_new(id: AnyText, title: AnyText, text: AnyText, score: f32) -> Self {
        Self { id: id.into(), title: title.into(), text: text.into(), score }
    }

    fn __repr__(&self) -> String {
        let Self { id, title, text, score } = self;
        format!("Passage({id:?}, {title:?}, {}, score={score:.3})", short(text))
    }
}

/// A search that the sandbox runs natively, without the GIL; returned by ``Bm25Index.tool``.
#[pyclass(frozen, name = "SearchTool", module = "agentdistill._core")]
pub struct PySearchTool(pub Arc<SearchTool>);

/// Passages as text for a model to read, best first, as a cell's ``web_search`` returns them. ``compat``: "reference"
/// is the form of the paper's code.
#[pyfunction]
#[pyo3(signature = (passages, *, compat = None))]
pub fn for_reading(passages: Vec<Passage>, compat: Option<&str>) -> PyResult<String> {
    Ok(search_tool::for_reading(&passages, self::compat(compat)?))
}

/// Adds passages to a builder, and completes its index. `progress` is called as ``Bm25Index.build`` says.
fn fill(
    py: Python<'_>,
    mut builder: Bm25Builder,
    passages: &Bound<'_, PyAny>,
    skip_bad: bool,
    progress: Option<&Bound<'_, PyAny>>,
) -> PyResult<Bm25Index> {
    let sources = sources(passages)?;
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
    without_gil(py, || builder.wait())??;
    tick(builder.documents(), total)?;
    Ok(without_gil(py, || builder.finish())??)
}

/// A source of passages.
struct Source<'py> {
    /// The path, if the source is a file.
    path: Option<PathBuf>,
    /// The size of the file in bytes, and the number of passages in it.
    bytes: u64,
    rows: u64,
    /// The passages. `None` for a file of JSON lines, which the core reads.
    passages: Option<Bound<'py, PyIterator>>,
}

/// Returns the sources of an argument. An iterable is one source; agentdistill.files.corpus finds the files of a path.
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
    /// Adds all passages of the source. `tick` is called from time to time with the number of passages indexed and of
    /// bytes read.
    fn add_to(
        &self,
        builder: &mut Bm25Builder,
        skip_bad: bool,
        py: Python<'_>,
        tick: impl Fn(u64, u64) -> PyResult<()>,
    ) -> PyResult<()> {
        let Some(passages) = &self.passages else {
            let mut file = JsonlFile::open(self.path.as_deref().unwrap_or(Path::new("")))?;
            while let Some(lines) = without_gil(py, || file.next_lines(builder.run_bytes()))?? {
                without_gil(py, || builder.add_lines(lines))??;
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
            without_gil(py, || batch.into_iter().try_for_each(|passage| builder.add(passage)))??;
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
        let value = |name| fields.get_item(name).ok().flatten();
        let id = |name| value(name).map_or(Ok(Id::Absent), |value| id_of(&value));
        let text = |name| value(name).map_or(Ok(Json::Null), |value| json(name, &value));
        let (id, _id, title, text, contents) =
            (id("id")?, id("_id")?, text("title")?, text("text")?, text("contents")?);
        return Fields { id, _id, title, text, contents }.passage();
    }
    match item.extract::<Vec<AnyText>>().map(<[AnyText; 3]>::try_from) {
        Ok(Ok([id, title, text])) => Ok(Passage { id: id.0, title: title.0, text: text.0, score: 0.0 }),
        _ => Err(format!("{} is neither (id, title, text) of strings nor a dict", short(&item.to_string()))),
    }
}

/// Converts a value of a field: a string, or `None`.
fn json(name: &str, value: &Bound<'_, PyAny>) -> Result<Json, String> {
    match value.extract::<AnyText>() {
        Ok(text) => Ok(Json::String(text.0)),
        Err(_) if value.is_none() => Ok(Json::Null),
        Err(_) => Err(format!("`{name}` is of the type {}, not a string", type_of(value))),
    }
}

/// Converts an id: a string, or an integer of any size.
fn id_of(value: &Bound<'_, PyAny>) -> Result<Id, String> {
    if let Ok(text) = value.extract::<AnyText>() {
        return Ok(Id::Text(text.0));
    }
    // Calls __index__, so that numpy's integers count as integers.
    let number = if value.is_instance_of::<PyBool>() { None } else { value.call_method0("__index__").ok() };
    match number.and_then(|number| number.str().ok()) {
        Some(digits) => Ok(Id::Text(digits.to_string())),
        None if value.is_none() => Ok(Id::Absent),
        None => Err(format!("its id is of the type {}; it must be a string or an integer", type_of(value))),
    }
}

fn type_of(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map(|name| name.to_string()).unwrap_or_default()
}

/// Returns the shortest decimal of an `f32`: 1.2 instead of 1.2000000476837158.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(number.into())
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
