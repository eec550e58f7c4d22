//! What a client printed, as JSON.

use serde_json::{Map, Value};

/// JSON as it is, else a table of the kind that python-glanceclient prints: one of properties is an object, any other
/// a list of objects. All values of a table are texts.
#[must_use]
pub fn read(text: &str) -> Option<Value> {
    serde_json::from_str(text.trim()).ok().or_else(|| table(text))
}

fn table(text: &str) -> Option<Value> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
    let mut rows = lines.map(|line| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    let head = rows.next()?;
    let mut whole: Vec<Vec<String>> = Vec::new();
    for row in rows {
        match whole.last_mut() {
            // A long cell goes on in the next line, whose first cell is empty.
            Some(last) if row.first().is_some_and(String::is_empty) => {
                for (cell, more) in last.iter_mut().zip(row).filter(|(_, more)| !more.is_empty()) {
                    cell.push(' ');
                    cell.push_str(&more);
                }
            }
            _ => whole.push(row),
        }
    }
    if head == ["Property", "Value"] {
        let pairs = whole.into_iter().filter_map(|row| <[String; 2]>::try_from(row).ok());
        return Some(Value::Object(pairs.map(|[name, value]| (name, Value::String(value))).collect()));
    }
    let object = |row: Vec<String>| {
        Value::Object(head.iter().cloned().zip(row.into_iter().map(Value::String)).collect::<Map<_, _>>())
    };
    Some(Value::Array(whole.into_iter().map(object).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_and_json() {
        let properties = "+----------+-------+\n| Property | Value |\n+----------+-------+\n| id       | 7     |\n\
                          | message  | a b   |\n|          | c     |\n+----------+-------+\n";
        assert_eq!(read(properties), Some(json!({"id": "7", "message": "a b c"})));
        let list = "+----+------+\n| ID | Name |\n+----+------+\n| 7  |      |\n| 8  | x    |\n+----+------+";
        assert_eq!(read(list), Some(json!([{"ID": "7", "Name": ""}, {"ID": "8", "Name": "x"}])));
        assert_eq!(read("+----+\n| ID |\n+----+\n+----+"), Some(json!([])));
        assert_eq!(read(" {\"id\": 7}\n"), Some(json!({"id": 7})));
        assert_eq!(read("no table"), None);
    }
}
