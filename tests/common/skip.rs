//! For tests that cannot check everything on this machine: they report it, and fail in continuous integration.

use std::io::Write;

/// Whether the tests run in continuous integration (`.ci/run`), where everything that they need must be installed.
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Reports what is not checked, bypassing the capture of passing tests.
pub fn report(what: &str) {
    // A report that cannot be written does not fail the test.
    let _ = writeln!(std::io::stderr(), "NOT CHECKED: {what}");
}

/// [`report`]s what is not checked here.
///
/// # Panics
/// With `CI=true`: otherwise the check would never run anywhere.
pub fn not_checked(what: &str) {
    assert!(!is_ci(), "not checked, but CI=true: {what}");
    report(what);
}

/// Whether to run the cases that take minutes on a software driver: `FLOWDPPO_LONG_TESTS=1`.
pub fn long_tests() -> bool {
    std::env::var("FLOWDPPO_LONG_TESTS").is_ok_and(|value| value == "1")
}
