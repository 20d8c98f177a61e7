//! Passages and the BM25 index in Python.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use super::{AnyText, RetrievalError, short};
use crate::Error;
use crate::retrieval::{Bm25Builder, Bm25Index, JsonlPassages, Passage};
use crate::search_tool::for_reading;

/// Passages indexed between two looks at Python: its progress callback, its signals.
const BATCH: usize = 10_000;

/// BM25 (k1 1.2, b 0.75) over passages on disk. A query is a bag of words: any string is a valid one.
#[pyclass(frozen, name = "Bm25Index", module = "agentdistill._core")]
pub struct PyBm25Index(pub Arc<Bm25Index>);

#[pymethods]
impl PyBm25Index {
    /// Index ``(id, title, text)`` triples, or a JSONL file with ``id|_id``, ``title``, ``text`` or ``contents``.
    ///
    /// ``progress`` is called now and then with the number of passages read. The index appears at ``path`` only when
    /// complete. Raises RetrievalError (with file and line for a bad line; for a path that exists).
    #[staticmethod]
    #[pyo3(signature = (passages, path, *, overwrite = false, skip_bad = false, progress = None))]
    fn build(
        py: Python<'_>,
        passages: &Bound<'_, PyAny>,
        path: PathBuf,
        overwrite: bool,
        skip_bad: bool,
        progress: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let mut source = match passages.extract::<PathBuf>() {
            Ok(file) => Source::File(JsonlPassages::open(&file, skip_bad)?),
            Err(_) => Source::Iterable { passages: passages.try_iter()?, seen: 0, skip_bad, skipped: 0 },
        };
        let mut builder = Bm25Builder::new(&path, overwrite)?;
        let mut indexed = 0;
        loop {
            let added = source.add_to(&mut builder, py)?;
            indexed += added;
            py.check_signals()?;
            if let Some(progress) = progress {
                progress.call1((indexed,))?;
            }
            if added < BATCH {
                break;
            }
        }
        let skipped = source.skipped();
        Ok(Self(Arc::new(py.detach(|| builder.finish(skipped))?)))
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
        Ok(for_reading(&self.search(py, query, k)?))
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

    /// What is known of the index: ``documents``, ``bytes``, ``version``, ``path``, ``skipped``, ``analyzer``.
    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = PyDict::new(py);
        let metadata = self.0.metadata();
        info.set_item("documents", metadata.documents)?;
        info.set_item("bytes", self.0.bytes())?;
        info.set_item("version", metadata.version)?;
        info.set_item("path", self.0.path().as_os_str())?;
        info.set_item("skipped", metadata.skipped)?;
        info.set_item("analyzer", &metadata.analyzer)?;
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

enum Source<'py> {
    File(JsonlPassages),
    Iterable { passages: Bound<'py, pyo3::types::PyIterator>, seen: u64, skip_bad: bool, skipped: u64 },
}

impl Source<'_> {
    /// Adds the next passages, [`BATCH`] of them unless it ends; returns how many.
    fn add_to(&mut self, builder: &mut Bm25Builder, py: Python<'_>) -> PyResult<usize> {
        match self {
            Self::File(passages) => Ok(py.detach(|| {
                let mut added = 0;
                for passage in passages.take(BATCH) {
                    builder.add(&passage?)?;
                    added += 1;
                }
                Ok::<_, Error>(added)
            })?),
            Self::Iterable { passages, seen, skip_bad, skipped } => {
                let mut batch = Vec::new();
                while batch.len() < BATCH {
                    let Some(item) = passages.next().transpose()? else { break };
                    *seen += 1;
                    match passage(&item) {
                        Ok(passage) => batch.push(passage),
                        Err(_) if *skip_bad => *skipped += 1,
                        Err(error) => {
                            let message = format!("passage {seen} is no (id, title, text) of strings: {error}");
                            return Err(RetrievalError::new_err(message));
                        }
                    }
                }
                py.detach(|| batch.iter().try_for_each(|passage| builder.add(passage)))?;
                Ok(batch.len())
            }
        }
    }

    fn skipped(&self) -> u64 {
        match self {
            Self::File(passages) => passages.skipped(),
            Self::Iterable { skipped, .. } => *skipped,
        }
    }
}

fn passage(item: &Bound<'_, PyAny>) -> PyResult<Passage> {
    if let Ok(passage) = item.cast::<Passage>() {
        return Ok(passage.get().clone());
    }
    let [id, title, text]: [AnyText; 3] = item
        .extract::<Vec<AnyText>>()?
        .try_into()
        .map_err(|items: Vec<_>| PyValueError::new_err(format!("it has {} parts", items.len())))?;
    Ok(Passage { id: id.0, title: title.0, text: text.0, score: 0.0 })
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
