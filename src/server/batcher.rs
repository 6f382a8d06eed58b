//! Rows that wait, and the threads that run them: while a batch is running the next one gathers.
//!
//! No timer and no wait for company: an idle server runs a row at once, a busy one takes the more the longer its queue
//! is ([`Budget::of`]), as [`scheduler::next`] picks. Workers have threads of their own, so that a long batch holds up
//! its own share of the machine only. The queue is bounded in rows; a task may hold most of it but not all, so that others find
//! room while it floods. Rows whose receiver is gone (the client left, the deadline passed) are never run. A panic fails
//! the rows of its batch and nothing else.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::engine::{
    Admitted, Answer,
    scheduler::{self, Budget, Item},
};

/// A task may hold this many times the free rows of the queue: alone it gets 4/5 of it.
const SHARE: usize = 4;
/// Tokens that one thread should have at once: products over fewer rows do not use a core's multipliers fully.
const TOKENS_PER_THREAD: usize = 64;

/// How a batch is computed: an engine's `run`, or a test's stand-in.
pub type Compute = Arc<dyn Fn(&[Admitted]) -> Result<Vec<Answer>, Lost> + Send + Sync>;

/// What a batch was, for who counts.
#[derive(Debug, Clone, Copy)]
pub struct Ran {
    /// Its rows.
    pub rows: usize,
    /// Their tokens.
    pub tokens: usize,
    /// Distinct tasks.
    pub tasks: usize,
    /// How long it took.
    pub took: Duration,
    /// It panicked: its rows failed.
    pub panicked: bool,
    /// Rows that still wait.
    pub waiting: usize,
}

/// Told of every batch.
pub type Observe = Arc<dyn Fn(Ran) + Send + Sync>;

/// The answer to a row.
#[derive(Debug)]
pub struct Done {
    /// The answer.
    pub answer: Answer,
    /// How long it waited.
    pub queued: Duration,
    /// How long its batch took.
    pub inference: Duration,
}

/// Why a row that was taken has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Its batch panicked.
    Panicked,
    /// The base's files are not what they were: no answer can be trusted.
    BaseChanged,
}

/// The queue has no room for these rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Where the answer to a row will be.
pub type Reply = oneshot::Receiver<Result<Done, Lost>>;

struct Job {
    row: Admitted,
    since: Instant,
    reply: oneshot::Sender<Result<Done, Lost>>,
}

impl Job {
    fn item(&self) -> Item {
        Item {
            tokens: self.row.encoded.len(),
            task: Arc::as_ptr(&self.row.task) as usize,
            text: Arc::as_ptr(&self.row.encoded) as usize,
        }
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    sizes: Sizes,
    compute: Compute,
    observe: Observe,
}

/// The queue and its threads. Dropping it finishes what waits.
pub struct Batcher {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Batcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batcher")
            .field("sizes", &self.shared.sizes)
            .finish_non_exhaustive()
    }
}

/// Sizes of a batcher.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows that may wait.
    pub queue: usize,
    /// Tokens of a batch.
    pub batch_tokens: usize,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Batches that run at once, each on its own share of `threads`.
    pub workers: usize,
    /// Threads of all workers.
    pub threads: usize,
}

impl Sizes {
    fn threads_each(&self) -> usize {
        (self.threads / self.workers.max(1)).max(1)
    }
}

impl Batcher {
    /// Starts the threads.
    ///
    /// # Panics
    /// When the system gives no thread.
    pub fn start(sizes: Sizes, compute: Compute, observe: Observe) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            sizes: Sizes {
                queue: sizes.queue.max(1),
                batch_tokens: sizes.batch_tokens.max(1),
                batch_rows: sizes.batch_rows.max(1),
                ..sizes
            },
            compute,
            observe,
        });
        let worker = |number: usize| {
            let shared = shared.clone();
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(sizes.threads_each())
                .thread_name(move |thread| format!("batch-{number}-{thread}"))
                .build()
                .expect("the system gives threads at start");
            std::thread::Builder::new()
                .name(format!("batcher-{number}"))
                .spawn(move || pool.install(|| shared.work()))
                .expect("the system gives a thread at start")
        };
        let workers = (0..sizes.workers.max(1)).map(worker).collect();
        Self { shared, workers }
    }

    /// Puts `rows` into the queue, all or none.
    ///
    /// # Errors
    /// When there is no room, for all or for their tasks.
    pub fn submit(&self, rows: Vec<Admitted>) -> Result<Vec<Reply>, Full> {
        let mut queue = self.shared.lock();
        let free = (self.shared.sizes.queue).saturating_sub(queue.waiting.len());
        if queue.closed || rows.len() > free || self.floods(&queue, &rows, free) {
            return Err(Full);
        }
        let since = Instant::now();
        let mut replies = Vec::with_capacity(rows.len());
        for row in rows {
            let (reply, receiver) = oneshot::channel();
            queue.waiting.push_back(Job { row, since, reply });
            replies.push(receiver);
        }
        drop(queue);
        self.shared.wake.notify_one();
        Ok(replies)
    }

    /// Whether a task of `rows` would hold more than its share. A queue that has room for [`SHARE`] times what it holds
    /// is not looked at.
    fn floods(&self, queue: &Queue, rows: &[Admitted], free: usize) -> bool {
        if queue.waiting.len() + rows.len() <= SHARE * (free - rows.len()) {
            return false;
        }
        rows.iter().any(|row| {
            let same = |other: &&Admitted| Arc::ptr_eq(&other.task, &row.task);
            let held = queue.waiting.iter().map(|j| &j.row).filter(same).count();
            let coming = rows.iter().filter(same).count();
            held > 0 && held + coming > SHARE * (free - rows.len())
        })
    }

    /// Rows that wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// Which tasks the waiting rows are for, by address.
    pub fn waiting_tasks(&self) -> std::collections::HashSet<usize> {
        let queue = self.shared.lock();
        queue.waiting.iter().map(|job| job.item().task).collect()
    }
}

impl Drop for Batcher {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its batches; one of its own has been reported by the hook.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing that can panic runs under this lock but the allocator.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        while let Some((jobs, waiting)) = self.next() {
            self.run(jobs, waiting);
        }
    }

    /// Waits for rows and takes the next batch; `None` once the queue is closed and empty.
    fn next(&self) -> Option<(Vec<Job>, usize)> {
        let mut queue = self.lock();
        loop {
            queue.waiting.retain(|job| !job.reply.is_closed());
            if !queue.waiting.is_empty() {
                break;
            }
            if queue.closed {
                return None;
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let items: Vec<Item> = queue.waiting.iter().map(Job::item).collect();
        let sizes = &self.sizes;
        let budget = Budget::of(
            items.iter().map(|item| item.tokens).sum(),
            sizes.workers,
            TOKENS_PER_THREAD * sizes.threads_each(),
            sizes.batch_tokens,
        );
        let mut picked = scheduler::next(&items, budget);
        if picked.len() > sizes.batch_rows {
            let oldest = picked.iter().position(|&row| row == 0).unwrap_or(0);
            picked.swap(0, oldest);
            picked.truncate(sizes.batch_rows);
        }
        let mut jobs: Vec<Option<Job>> = queue.waiting.drain(..).map(Some).collect();
        let batch = picked
            .iter()
            .map(|&row| jobs[row].take().expect("a batch names a row once"))
            .collect();
        queue.waiting.extend(jobs.into_iter().flatten());
        let waiting = queue.waiting.len();
        if waiting > 0 {
            self.wake.notify_one();
        }
        Some((batch, waiting))
    }

    fn run(&self, jobs: Vec<Job>, waiting: usize) {
        let start = Instant::now();
        let (rows, replies): (Vec<Admitted>, Vec<_>) = jobs
            .into_iter()
            .map(|job| (job.row, (job.reply, start - job.since)))
            .unzip();
        let answers = catch_unwind(AssertUnwindSafe(|| (self.compute)(&rows)));
        let took = start.elapsed();
        let mut tasks: Vec<_> = rows.iter().map(|r| Arc::as_ptr(&r.task)).collect();
        tasks.sort_unstable();
        tasks.dedup();
        let ran = Ran {
            rows: rows.len(),
            tokens: rows.iter().map(|r| r.encoded.len()).sum(),
            tasks: tasks.len(),
            took,
            panicked: answers.is_err(),
            waiting,
        };
        drop(rows); // the leases, before anyone hears of the answers
        (self.observe)(ran);
        // A receiver that is gone meanwhile is nobody's loss.
        match answers {
            Ok(Ok(answers)) => {
                for (answer, (reply, queued)) in answers.into_iter().zip(replies) {
                    let inference = took;
                    let _ = reply.send(Ok(Done {
                        answer,
                        queued,
                        inference,
                    }));
                }
            }
            lost => {
                let why = lost.map_or(Lost::Panicked, |lost| lost.err().unwrap_or(Lost::Panicked));
                for (reply, _) in replies {
                    let _ = reply.send(Err(why));
                }
            }
        }
    }
}
