//! The commands that pages show, as their readers would paste them.
//!
//! Every block of `sh` or `python` is commands. All of a page's are one script, in their order, but for those that the
//! list `pages.txt` names with the reason why they aren't run.

use anyhow::{Context, Result, ensure};

/// A line of the list: which commands of a page aren't run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The page, by its path in the repository.
    pub page: String,
    /// How the commands begin.
    pub beginning: String,
    /// Why they aren't run.
    pub why: String,
}

/// Reads the list: `page: beginning  # why`, a line each; a line that begins with `#` is a remark.
///
/// # Errors
/// A line is of another form.
pub fn read_list(text: &str) -> Result<Vec<Left>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| left(line).with_context(|| line.to_owned())).collect()
}

fn left(line: &str) -> Result<Left> {
    let (what, why) = line.rsplit_once("  # ").context("no reason behind two blanks and #")?;
    let (page, beginning) = what.split_once(": ").context("no page before a colon")?;
    ensure!(!beginning.trim().is_empty() && !why.trim().is_empty(), "nothing on one side");
    Ok(Left { page: page.to_owned(), beginning: beginning.trim().to_owned(), why: why.trim().to_owned() })
}

/// What a page shows: one command of a shell with all its lines, or a program for Python.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// Of a shell.
    Command(String),
    /// Of Python.
    Program(String),
}

impl Shown {
    /// As bash reads it.
    #[must_use]
    pub fn script(&self) -> String {
        match self {
            Self::Command(command) => format!("{command}\n"),
            Self::Program(program) => format!("python3 - <<'END OF PROGRAM'\n{program}END OF PROGRAM\n"),
        }
    }

    /// Whether the list names it.
    #[must_use]
    pub fn begins(&self, beginning: &str) -> bool {
        let (Self::Command(text) | Self::Program(text)) = self;
        text.starts_with(beginning)
    }
}

/// What a page shows, in its order.
#[must_use]
pub fn shown(page: &str) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| line.trim_start() != "```").collect();
        match language {
            "sh" => found.extend(commands(&block)),
            "python" => {
                found.push(Shown::Program(block.iter().map(|line| format!("{line}\n")).collect()));
            }
            _ => {}
        }
    }
    found
}

/// A line that ends with `\` or `|` goes on in the next one.
fn commands(block: &[&str]) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut command = String::new();
    for line in block {
        if command.is_empty() {
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            command.push_str(line.trim_start());
        } else {
            command.push('\n');
            command.push_str(line);
        }
        if !line.ends_with('\\') && !line.ends_with('|') {
            found.push(Shown::Command(std::mem::take(&mut command)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_commands_and_programs() {
        let page = "# Page\n```sh\na \\\n  b\n\n# remark\nc |\n  d # e\n```\ntext\n```json\n{}\n```\n- item\n\n  ```sh\n  \
                    f\n  ```\n```python\ng\n  h\n```\n";
        let command = |text: &str| Shown::Command(text.to_owned());
        let program = Shown::Program("g\n  h\n".to_owned());
        assert_eq!(
            shown(page),
            [command("a \\\n  b"), command("c |\n  d # e"), command("f"), program.clone()]
        );
        assert_eq!(program.script(), "python3 - <<'END OF PROGRAM'\ng\n  h\nEND OF PROGRAM\n");
        assert!(command("sam build").begins("sam ") && !command("sam build").begins("build"));
    }

    #[test]
    fn the_list_has_a_reason_for_each() {
        let read = read_list("# remark\n\nREADME.md: sam deploy  # needs an account\n").unwrap();
        let (page, beginning) = ("README.md".to_owned(), "sam deploy".to_owned());
        assert_eq!(read, [Left { page, beginning, why: "needs an account".to_owned() }]);
        for wrong in ["README.md: sam deploy", "sam deploy  # needs an account", "README.md:   # needs"] {
            assert!(read_list(wrong).is_err(), "{wrong}");
        }
    }
}
