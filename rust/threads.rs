//! The thread pool for shared work, one for each process.
//!
//! A forked child (multiprocessing, a data loader) has its parent's memory but none of its threads. With its parent's
//! pool it would wait forever, so it gets a pool of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Returns the pool of this process. The first call creates it, with one thread for each core or `RAYON_NUM_THREADS`
/// threads.
pub(crate) fn pool() -> &'static ThreadPool {
    // Slots are chosen by process id, so a child does not wait for a slot that a thread of its parent was initializing.
    static POOLS: [OnceLock<(u32, ThreadPool)>; 256] = [const { OnceLock::new() }; 256];
    let process = std::process::id();
    let first = process as usize;
    (0..POOLS.len())
        .map(|step| POOLS[(first + step) % POOLS.len()].get_or_init(|| (process, new_pool())))
        .find_map(|(owner, pool)| (*owner == process).then_some(pool))
        .expect("forked from one another, at most 256 processes deep")
}

/// Returns the number of threads that share work: those of the current pool, or else of the process's pool.
pub(crate) fn count() -> usize {
    match rayon::current_thread_index() {
        Some(_) => rayon::current_num_threads(),
        None => pool().current_num_threads(),
    }
}

/// Runs `work` in the pool that this thread belongs to, or else in the process's pool.
pub(crate) fn share<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match rayon::current_thread_index() {
        Some(_) => work(),
        None => pool().install(work),
    }
}

/// Starts `work` in the pool. A panic in it is caught, and the process continues.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) {
    pool().spawn(move || drop(catch_unwind(AssertUnwindSafe(work))));
}

fn new_pool() -> ThreadPool {
    ThreadPoolBuilder::new().build().expect("the system has threads")
}
