//! Commands of stock clients, one after the other, as a person would type them, with what they have to show.
//!
//! ```text
//! # Text.
//! alice$ openstack image create --container-format bare --disk-format raw {run}-one
//!   status = "queued"
//!   id -> image
//! bob@eu-west-1$ glance image-show {image}
//!   fails "404"
//! alice$ sdk cloud.image.get_image("{image}")
//!   name = "{run}-one"
//! ```
//!
//! Before `$` is a user of the stack's Keystone and, behind `@`, a region that isn't the first. `openstack`,
//! `glance` and `curl` are run as they stand, the first with `-f json` where what it prints is looked at. Behind `sdk` is
//! an expression in Python over an openstacksdk connection. Indented lines are [`Expected`]; without one of `fails` the
//! command has to succeed.

use anyhow::{Context as _, bail, ensure};

use crate::expected::Expected;

/// A command and what it has to show.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// In the file, from 1.
    pub line: usize,
    /// Who types it.
    pub user: String,
    /// Where, if not in the first region.
    pub region: Option<String>,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// What it has to show.
    pub expected: Vec<Expected>,
}

impl Row {
    /// As it was typed, nearly.
    #[must_use]
    pub fn command(&self) -> String {
        format!("{}$ {}", self.user, self.words.join(" "))
    }
}

/// Reads a session.
///
/// # Errors
/// A line that is none of a session, with its number.
pub fn read(text: &str) -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let number = at + 1;
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(expectation) = line.strip_prefix("  ") {
            let row = rows.last_mut().with_context(|| format!("line {number} has no command above it"))?;
            row.expected.push(Expected::read(expectation).with_context(|| format!("line {number}"))?);
            continue;
        }
        rows.push(row(number, line).with_context(|| format!("line {number}"))?);
    }
    Ok(rows)
}

fn row(line: usize, text: &str) -> anyhow::Result<Row> {
    let (who, command) = text.split_once("$ ").context("no `user$ ` at its beginning")?;
    let (user, region) = match who.split_once('@') {
        Some((user, region)) => (user, Some(region.to_owned())),
        None => (who, None),
    };
    let words = match command.split_once(' ') {
        Some(("sdk", expression)) => vec!["sdk".to_owned(), expression.to_owned()],
        Some(("openstack" | "glance" | "curl", _)) => words(command)?,
        _ => bail!("{command:?} is neither openstack, glance, curl nor sdk"),
    };
    Ok(Row { line, user: user.to_owned(), region, words, expected: Vec::new() })
}

/// Words as a shell has them, without anything but quotation marks.
fn words(text: &str) -> anyhow::Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    ensure!(quote.is_none(), "a quotation mark is not closed");
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_rows_with_expectations() {
        let rows = read(
            "# Text.\nalice$ openstack image create --property 'a=b c' \"\" x\n  status = \"queued\"\n\n\
             bob@eu-west-1$ sdk [i.name for i in cloud.image.images()]\n  fails \"404\"\n",
        )
        .unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].words, ["openstack", "image", "create", "--property", "a=b c", "", "x"]);
        assert_eq!((rows[0].line, rows[0].user.as_str(), rows[0].expected.len()), (2, "alice", 1));
        assert_eq!(rows[1].words, ["sdk", "[i.name for i in cloud.image.images()]"]);
        assert_eq!((rows[1].user.as_str(), rows[1].region.as_deref()), ("bob", Some("eu-west-1")));
    }

    #[test]
    fn other_lines_are_refused_with_their_number() {
        for (text, told) in [
            ("  status = 1\n", "line 1"),
            ("\nalice$ rm -r x\n", "line 2"),
            ("alice openstack image list\n", "line 1"),
            ("alice$ glance image-show 'x\n", "line 1"),
            ("alice$ glance image-list\n  nothing\n", "line 2"),
        ] {
            assert!(format!("{:#}", read(text).unwrap_err()).contains(told), "{text}");
        }
    }
}
