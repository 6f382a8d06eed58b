//! Which seconds of a run the machine gave whole: the host of a virtual machine takes half of a core at times.
//!
//! When the host runs both virtual cores on the two hardware threads of one core, or a neighbour beside them, the guest's clocks
//! of CPU time go on as if nothing had happened, and a token costs 1.7 times the CPU time, on both cores at once, for some
//! tenths of a second (of 3,400 batches 128 had 390 to 410 us a token, the others 228). So a window is judged by the server's
//! CPU time a token, which does not know how long a row waited; latencies play no part in it.
//!
//! Not here: the load (`load`), percentiles. Needs `/proc`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::load::Answered;

/// Long beside the clock of /proc (10 ms) and a batch (30 ms), short beside the time between two disturbances.
pub(crate) const WINDOW: Duration = Duration::from_secs(2);
/// A window with more than this many times the median CPU time a token was disturbed. A batch on either edge of a window is
/// 1 % of it; a tenth of a second at half speed is 3.5 %.
pub(crate) const TOLERANCE: f64 = 1.04;

/// Samples of a process's CPU time, one at the end of each window.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Sample>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    at: Duration,
    cpu_ticks: u64,
}

/// One window, and whether it and the one before it were undisturbed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    from: Duration,
    to: Duration,
    pub(crate) quiet: bool,
}

/// Clock ticks of a process's user and system time, fields 14 and 15 of `/proc/PID/stat`.
fn cpu_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let fields = stat.rsplit_once(')').expect("a name in brackets").1;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<u64>().expect("a number");
    ticks(11) + ticks(12)
}

/// Begins to sample now; the times count from here.
pub(crate) fn watch(process: u32) -> Watch {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let start = Instant::now();
    let thread = std::thread::spawn(move || {
        let sample = || Sample {
            at: start.elapsed(),
            cpu_ticks: cpu_ticks(process),
        };
        let mut samples = vec![sample()];
        while !stopped.load(SeqCst) {
            std::thread::sleep(WINDOW);
            samples.push(sample());
        }
        samples
    });
    Watch { stop, thread }
}

impl Watch {
    pub(crate) fn stop(self) -> Vec<Sample> {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("it only reads a file")
    }
}

/// The windows between `samples`, judged by the tokens of the rows that were `answered` in each.
pub(crate) fn windows(
    samples: Vec<Sample>,
    answered: &[Answered],
    tokens: &[usize],
) -> Vec<Window> {
    let cost = |pair: &[Sample]| {
        let inside = |row: &&Answered| (pair[0].at..pair[1].at).contains(&row.done);
        let done: usize = answered
            .iter()
            .filter(inside)
            .map(|row| tokens[row.request])
            .sum();
        (pair[1].cpu_ticks - pair[0].cpu_ticks) as f64 / done.max(1) as f64
    };
    let costs: Vec<f64> = samples.windows(2).map(cost).collect();
    let median = crate::median(&mut costs.clone());
    let mut before = true;
    let judged = samples.windows(2).zip(costs).map(|(pair, cost)| {
        let whole = cost <= TOLERANCE * median;
        // What a disturbance left in the queue is served in the window after it.
        let quiet = std::mem::replace(&mut before, whole) && whole;
        Window {
            from: pair[0].at,
            to: pair[1].at,
            quiet,
        }
    });
    judged.collect()
}

/// Whether a row was due and answered within quiet windows.
pub(crate) fn covers(windows: &[Window], row: &Answered) -> bool {
    let touched = |window: &&Window| window.from <= row.done && row.due <= window.to;
    windows.iter().filter(touched).all(|window| window.quiet)
}
