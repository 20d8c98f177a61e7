//! The threads that share work: a pool for each process.
//!
//! A forked child (multiprocessing, a data loader) has the memory of its parent and none of its threads, so it would wait
//! for ever for a pool that its parent made. It gets one of its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// The pool of this process, made when it is first asked for: one thread for each core, or `RAYON_NUM_THREADS`.
pub(crate) fn pool() -> &'static ThreadPool {
    // Slots by process id, so that a child does not look at a slot that a thread of its parent was just filling.
    static POOLS: [OnceLock<(u32, ThreadPool)>; 256] = [const { OnceLock::new() }; 256];
    let process = std::process::id();
    let first = process as usize;
    (0..POOLS.len())
        .map(|step| POOLS[(first + step) % POOLS.len()].get_or_init(|| (process, new_pool())))
        .find_map(|(owner, pool)| (*owner == process).then_some(pool))
        .expect("forked from one another, at most 256 processes deep")
}

/// How many threads share work here: those of the pool that this code runs in, or of the process's.
pub(crate) fn count() -> usize {
    match rayon::current_thread_index() {
        Some(_) => rayon::current_num_threads(),
        None => pool().current_num_threads(),
    }
}

/// Runs `work` in the pool, or in the one that this thread belongs to.
pub(crate) fn share<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    match rayon::current_thread_index() {
        Some(_) => work(),
        None => pool().install(work),
    }
}

/// Begins `work` in the pool. Should it panic, its result is dropped, and the process goes on.
pub(crate) fn spawn(work: impl FnOnce() + Send + 'static) {
    pool().spawn(move || drop(catch_unwind(AssertUnwindSafe(work))));
}

fn new_pool() -> ThreadPool {
    ThreadPoolBuilder::new().build().expect("the system has threads")
}
