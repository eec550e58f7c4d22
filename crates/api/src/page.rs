//! Pages of records that an answer can hold, whatever the records are.

use serde::Serialize;

/// Most bytes of a page's records. A function's answer has 6 MB (Lambda developer guide, "Lambda quotas"), in which the body
/// is one JSON string; the rest is for what stands around the records.
const MOST: usize = 5 << 20;

/// The first records, as many as an answer holds, and one at least: a record by itself always fits.
pub(crate) fn fitting<T: Serialize>(records: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut left = MOST;
    let mut fitting = Vec::new();
    for record in records {
        let text = serde_json::to_vec(&record).unwrap_or_default();
        // Inside a string each of these two is escaped once more. JSON has no characters that take more than that.
        let escapes = text.iter().filter(|byte| matches!(byte, b'"' | b'\\')).count();
        let size = text.len() + escapes + ",".len();
        if size > left && !fitting.is_empty() {
            break;
        }
        left = left.saturating_sub(size);
        fitting.push(record);
    }
    fitting
}
