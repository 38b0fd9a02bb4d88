//! What a test does where it cannot check everything: it says so, and in continuous integration it fails.

use std::io::Write;

/// Whether the tests run where everything that they need has to be there; `.ci/run` says so.
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Reports what is not checked, past the capture of passing tests.
pub fn report(what: &str) {
    // A report that cannot be written is no reason to fail.
    let _ = writeln!(std::io::stderr(), "NOT CHECKED: {what}");
}

/// [`report`]s what is not checked here.
///
/// # Panics
/// With `CI=true`: a check that is not made there is made nowhere.
pub fn not_checked(what: &str) {
    assert!(!is_ci(), "not checked, but CI=true: {what}");
    report(what);
}

/// Whether the cases are wanted that take minutes on a software driver: `FLOWDPPO_LONG_TESTS=1`.
pub fn long_tests() -> bool {
    std::env::var("FLOWDPPO_LONG_TESTS").is_ok_and(|value| value == "1")
}
