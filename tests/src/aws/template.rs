//! template.yaml, evaluated with values of its parameters.

use std::process::Command;

use serde_json::Value;

/// The properties of a resource. `parameters` are `NAME=VALUE`; the others have their defaults.
///
/// Names that only AWS knows stay as they are.
///
/// # Panics
/// The template has no such resource or parameter, or the parameter does not accept the value.
pub fn properties(resource: &str, parameters: &[&str]) -> Value {
    script("template_resource.py", &[&[resource], parameters].concat())
}

/// The JSON that a script of the folder `tests/stack` prints.
pub(super) fn script(name: &str, arguments: &[&str]) -> Value {
    let output = Command::new(crate::project_path(".tools/venv/bin/python"))
        .arg(crate::project_path("tests/stack").join(name))
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}; `make tools-demo` installs Python"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{name}: {error}"))
}
