//! What OpenStack's own tests said, held against what is expected of each.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};

/// What all names of these tests begin with.
pub const PACKAGE: &str = "tempest.api.image.v2.";

/// How a test went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Pass,
    /// It didn't run.
    Skip,
    /// It failed.
    Fail,
}

impl Outcome {
    const ALL: [(&'static str, Self); 3] = [("pass", Self::Pass), ("skip", Self::Skip), ("fail", Self::Fail)];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, outcome)| *outcome == self).map_or("", |(name, _)| name)
    }
}

/// Outcomes by the tests' names behind [`PACKAGE`]. What ends a class as a whole has the class's name.
pub type Outcomes = BTreeMap<String, Outcome>;

/// The list of what is expected: `pass NAME`, `skip NAME: why`, `fail NAME: why`.
///
/// # Errors
/// A line that is none of these, with its number: a test that isn't passed has a reason.
pub fn expected(text: &str) -> anyhow::Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    {
        let number = at + 1;
        let (outcome, rest) = line.split_once(' ').with_context(|| format!("line {number} has no name"))?;
        let outcome = Outcome::ALL.iter().find(|(name, _)| *name == outcome);
        let (_, outcome) = outcome.with_context(|| format!("line {number} is no pass, skip or fail"))?;
        let name = match (outcome, rest.split_once(": ")) {
            (Outcome::Pass, None) => rest,
            (Outcome::Skip | Outcome::Fail, Some((name, _))) => name,
            (Outcome::Pass, Some(_)) => bail!("line {number} has a reason, but passes"),
            (Outcome::Skip | Outcome::Fail, None) => bail!("line {number} has no reason"),
        };
        if outcomes.insert(name.to_owned(), *outcome).is_some() {
            bail!("line {number} names {name} again");
        }
    }
    Ok(outcomes)
}

/// What `tempest run` printed: `{0} tempest.api...test_name [1.2s] ... ok`.
#[must_use]
pub fn printed(text: &str) -> Outcomes {
    let mut outcomes = Outcomes::new();
    for line in text.lines() {
        let Some((test, outcome)) = line.split_once(" ... ") else { continue };
        let Some(at) = test.find(PACKAGE) else { continue };
        let outcome = match outcome.split([':', ' ']).next() {
            Some("ok") => Outcome::Pass,
            Some("SKIPPED") => Outcome::Skip,
            _ => Outcome::Fail,
        };
        let name = test.get(at + PACKAGE.len()..).unwrap_or_default();
        let name: String =
            name.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '.')).collect();
        outcomes.insert(name, outcome);
    }
    outcomes
}

/// Each difference: the line that the list would need, and what it says.
#[must_use]
pub fn differences(expected: &Outcomes, found: &Outcomes) -> Vec<String> {
    let mut told = Vec::new();
    for (name, outcome) in found {
        match expected.get(name) {
            Some(expected) if expected == outcome => {}
            Some(expected) => {
                told.push(format!("{} {name} (the list says {})", outcome.name(), expected.name()))
            }
            None => told.push(format!("{} {name} (not in the list)", outcome.name())),
        }
    }
    let gone = expected.keys().filter(|name| !found.contains_key(*name));
    told.extend(gone.map(|name| format!("{name} (in the list, but not run)")));
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
{0} tempest.api.image.v2.test_versions.VersionsTest.test_list_versions [0.1s] ... ok
{1} tempest.api.image.v2.test_images.A.test_upload [id-1,smoke] [2.0s] ... FAILED

Captured traceback:
    ... it failed
{0} setUpClass (tempest.api.image.v2.admin.test_images.B) ... SKIPPED: B skipped: as it is not available
{0} setUpClass (tempest.api.image.v2.test_images.C) [0.000000s] ... FAILED
{0} tempest.api.image.v2.test_images.A.test_off ... SKIPPED: not here
Ran: 5 tests in 3.0000 sec.
";

    #[test]
    fn outcomes_are_read_and_compared() {
        let found = printed(PRINTED);
        let list = "# Text.\npass test_versions.VersionsTest.test_list_versions\n\
                    fail test_images.A.test_upload: uploads come later\nskip admin.test_images.B: not offered\n\
                    fail test_images.C: uploads come later\nskip test_images.A.test_off: not offered\n";
        assert_eq!(found, expected(list).unwrap());
        assert_eq!(differences(&expected(list).unwrap(), &found), [""; 0]);
        let older = "fail test_versions.VersionsTest.test_list_versions: why\nskip test_images.Gone: why\n";
        let told = differences(&expected(older).unwrap(), &found);
        assert_eq!(told.len(), 6, "{told:?}");
        assert!(told.iter().any(|line| line.starts_with("pass test_versions.") && line.ends_with("(the list says fail)")));
        assert!(told.iter().any(|line| line == "test_images.Gone (in the list, but not run)"));
        assert!(told.iter().any(|line| line == "fail test_images.C (not in the list)"));
    }

    #[test]
    fn a_list_gives_reasons() {
        for bad in ["pass", "fail a.b", "skip a.b", "maybe a.b: why", "pass a.b: why", "pass a\npass a"] {
            assert!(expected(bad).is_err(), "{bad}");
        }
    }
}
