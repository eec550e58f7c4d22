//! Pages that are opened in trouble: each failure code and each alarm has an entry, and no entry is about nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use image_tasks_domain::FailureCode;
use template_tests::{Template, entries, repository_file};

/// What the entries of a page are about, each once.
fn subjects(page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (names, _) in entries(page) {
        assert!(!names.is_empty(), "{page}: a heading without a name in a code span");
        for name in names {
            assert!(found.insert(name.clone()), "{page}: {name} has two entries");
        }
    }
    found
}

#[test]
fn each_failure_code_has_an_entry_that_says_what_to_do() {
    let codes: BTreeSet<String> = FailureCode::ALL.iter().map(|code| code.name().to_owned()).collect();
    assert_eq!(subjects("troubleshooting.md"), codes);
    for (names, text) in entries("troubleshooting.md") {
        assert!(text.contains("**Do:**"), "{names:?}");
    }
}

#[test]
fn each_alarm_has_an_entry_that_says_what_rings_where_to_look_and_what_to_do() {
    let template = Template::load();
    let deployed: BTreeSet<String> =
        template.resources("AWS::CloudWatch::Alarm").map(|(id, _)| id.to_owned()).collect();
    let documented: BTreeSet<String> =
        subjects("runbook.md").into_iter().map(|name| format!("{name}Alarm")).collect();
    assert_eq!(documented, deployed);
    for (names, text) in entries("runbook.md") {
        for part in ["- **Rings:**", "- **Look:**", "- **Do:**", "```"] {
            assert!(text.contains(part), "{names:?}: {part}");
        }
    }
}

/// All Rust code below a folder of the repository.
fn code_below(folder: &Path) -> String {
    let mut code = String::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            code += &code_below(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            code += &fs::read_to_string(path).unwrap();
        }
    }
    code
}

#[test]
fn lines_that_the_runbook_searches_for_are_logged() {
    let code = code_below(&repository_file("crates"));
    let runbook = fs::read_to_string(repository_file("docs/runbook.md")).unwrap();
    let searched: BTreeSet<&str> = runbook
        .split("message = \"")
        .skip(1)
        .map(|rest| rest.split_once('"').expect("a closing quote").0)
        .collect();
    assert!(!searched.is_empty());
    for message in searched {
        assert!(code.contains(&format!("\"{message}\"")), "nothing logs {message:?}");
    }
}
