//! Makes the tests ignored ones unless `IMAGE_TASKS_CONFORMANCE` says that the real services are here.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(conformance)");
    println!("cargo::rerun-if-env-changed=IMAGE_TASKS_CONFORMANCE");
    if std::env::var_os("IMAGE_TASKS_CONFORMANCE").is_some_and(|value| value == "1") {
        println!("cargo::rustc-cfg=conformance");
    }
}
