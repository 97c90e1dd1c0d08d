//! A clock and the memory counter around work whose inputs are loaded already: what every `bench` prints.

use serde::Serialize;
use std::time::Instant;

/// One measured loop, as one JSON line.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    /// What was done.
    pub name: String,
    /// How often: lines, pairs, requests, tokens, ... as the verb says.
    pub n: u64,
    /// Wall time, loading apart.
    pub seconds: f64,
    /// `n / seconds`; `None` where the clock saw no time pass.
    pub per_s: Option<f64>,
    /// Largest resident memory of the process so far, in MiB, everything loaded included; `None` where the system does not say.
    pub peak_rss_mb: Option<f64>,
}

impl Measurement {
    /// A loop over `n` things that took `seconds`.
    pub fn new(name: impl Into<String>, n: u64, seconds: f64) -> Self {
        let per_s = (seconds > 0.0).then(|| n as f64 / seconds);
        Measurement { name: name.into(), n, seconds, per_s, peak_rss_mb: peak_rss_mb() }
    }
}

/// Times `work` on `n` things.
pub fn measure<T>(name: impl Into<String>, n: usize, work: impl FnOnce() -> T) -> (Measurement, T) {
    let started = Instant::now();
    let done = work();
    (Measurement::new(name, n as u64, started.elapsed().as_secs_f64()), done)
}

/// `VmHWM` of `/proc/self/status`, which counts in KiB.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some((kib / 1024.0 * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_five_keys_in_order() {
        let line = serde_json::to_string(&Measurement { peak_rss_mb: Some(12.5), ..Measurement::new("words", 3, 1.5) }).unwrap();
        assert_eq!(line, r#"{"name":"words","n":3,"seconds":1.5,"per_s":2.0,"peak_rss_mb":12.5}"#);
        assert_eq!(Measurement::new("words", 3, 0.0).per_s, None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_counts_what_was_held() {
        let before = peak_rss_mb().expect("Linux says");
        let held = vec![1u8; 64 << 20];
        let (measured, sum) = measure("sum", held.len(), || held.iter().map(|b| u64::from(*b)).sum::<u64>());
        assert_eq!((measured.n, sum), (64 << 20, 64 << 20));
        assert!(measured.peak_rss_mb.unwrap() >= before.max(64.0), "{before} {:?}", measured.peak_rss_mb);
    }
}
