//! The part of bm25x's own Python package that retrieval.py needs.

use bm25x::{BM25, Method, TokenizerMode};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

const DELTA: f32 = 0.5; // of other variants of BM25

#[pyclass(frozen)]
struct Index(BM25);

#[pymethods]
impl Index {
    /// Build an index in a folder.
    #[staticmethod]
    fn build(texts: Vec<String>, folder: &str, k1: f32, b: f32) -> PyResult<()> {
        let index = BM25::open(folder, Method::Lucene, k1, b, DELTA, TokenizerMode::Stem, true);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        index.and_then(|mut index| index.add(&texts)).map(drop).map_err(PyOSError::new_err)
    }

    #[staticmethod]
    fn open(folder: &str, k1: f32, b: f32) -> PyResult<Self> {
        let index = BM25::open(folder, Method::Lucene, k1, b, DELTA, TokenizerMode::Stem, true);
        index.map(Self).map_err(PyOSError::new_err)
    }

    /// The numbers of the best passages for each query.
    fn search_batch(&self, queries: Vec<String>, k: usize) -> Vec<Vec<usize>> {
        let queries: Vec<&str> = queries.iter().map(String::as_str).collect();
        let found = self.0.search_batch(&queries, k);
        found.iter().map(|passages| passages.iter().map(|passage| passage.index).collect()).collect()
    }
}

#[pymodule]
mod bm25x_binding {
    #[pymodule_export]
    use super::Index;
}
