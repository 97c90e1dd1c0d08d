//! UTC time as text. Clocks stand in run ids and under `timing` in `run.json`, nowhere else.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, as `2026-11-24T11:02:03Z` (RFC 3339).
pub fn utc_now() -> String {
    let [year, month, day, hour, minute, second] = civil(SystemTime::now());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Now, as `20261124T110203Z`: sorts by time and is a plain file name.
pub fn compact_utc_now() -> String {
    utc_now().chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

/// Year, month, day, hour, minute, second. A clock before 1970 reads as 1970.
fn civil(time: SystemTime) -> [u64; 6] {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Proleptic Gregorian calendar in 400-year eras whose years begin on 1 March, so that the leap day is the last of a year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    [year, month, day, rest / 3_600, rest % 3_600 / 60, rest % 60]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn seconds_become_dates() {
        for (seconds, expected) in [
            (0, [1970, 1, 1, 0, 0, 0]),
            (951_782_399, [2000, 2, 28, 23, 59, 59]),
            (951_782_400, [2000, 2, 29, 0, 0, 0]),
            (1_735_689_599, [2024, 12, 31, 23, 59, 59]),
            (1_795_518_123, [2026, 11, 24, 11, 2, 3]),
            (4_107_542_400, [2100, 3, 1, 0, 0, 0]),
        ] {
            assert_eq!(civil(UNIX_EPOCH + Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn text_forms_have_their_shape() {
        assert_eq!(utc_now().len(), "2026-11-24T11:02:03Z".len());
        assert_eq!(compact_utc_now().len(), "20261124T110203Z".len());
    }
}
