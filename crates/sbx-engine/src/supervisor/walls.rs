//! What the parts of a sandbox say of their own walls, as `inspect` shows it.
//!
//! A part says so before it reads the first hostile byte, and does not start
//! without its first walls; a line that says nothing stops the start.

use std::path::Path;

use sbx_sys::jail::{Access, Jail, Place, Profile};
use sbx_sys::spawn::Resource;
use serde_json::Value;

use crate::command::{Code, Error, Wall};

/// The walls in the line a part has started with: `{"ready":{"walls":[…]}}`
/// or `{"ready":[…]}`, each a word or an object with the word as `wall`.
///
/// # Errors
/// If the line is none of these, or names no wall.
pub(super) fn read(process: &str, line: &str) -> Result<Vec<Wall>, Error> {
    let value: Value = serde_json::from_str(line).unwrap_or_default();
    if let Some(failed) = value.get("failed").and_then(Value::as_str) {
        let mut error = Error::new(Code::HostUnfit, failed.to_owned());
        let causes = value.get("causes").cloned().unwrap_or_default();
        error.causes = serde_json::from_value(causes).unwrap_or_default();
        let hint = value.get("hint").and_then(Value::as_str);
        let ours = "`sbx doctor` says what this host lacks for a container";
        return Err(error.hint(hint.unwrap_or(ours)));
    }
    let ready = value.get("ready").unwrap_or(&Value::Null);
    let list = ready.get("walls").unwrap_or(ready).as_array();
    let walls: Vec<_> = list
        .into_iter()
        .flatten()
        .filter_map(|wall| one(process, wall))
        .collect();
    if walls.is_empty() {
        return Err(Error::new(
            Code::Jail,
            format!("{process} did not say which walls it has"),
        ));
    }
    Ok(walls)
}

/// A wall the guest says it has.
pub(super) fn of_guest(wall: &str) -> Wall {
    Wall {
        process: "guest".to_owned(),
        wall: wall.to_owned(),
        up: true,
        note: None,
    }
}

/// Puts the walls around the supervisor itself, once everything it needs
/// from outside is open: it keeps its run directory and sockets, and can
/// neither execute, nor connect anywhere, nor change what the next start of
/// the sandbox obeys.
///
/// # Errors
/// If a wall cannot be put up: the start ends then.
pub(super) fn raise(run: &Path, runtime: &Path) -> Result<Vec<Wall>, Error> {
    let failed = |source: sbx_sys::Error| {
        Error::new(Code::Jail, "cannot lock the supervisor down").because(source)
    };
    let standing = Jail::new(Profile::Supervisor)
        .file(Place::Path(run.to_owned()), Access::Manage)
        .file(Place::Path(runtime.to_owned()), Access::Manage)
        .limit(Resource::Core, 0)
        .apply()
        .map_err(failed)?;
    let list = serde_json::to_value(&standing)
        .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))?;
    read(
        "supervisor",
        &serde_json::json!({ "ready": list }).to_string(),
    )
}

fn one(process: &str, wall: &Value) -> Option<Wall> {
    let (name, note) = match wall {
        Value::String(text) => match text.split_once(" (") {
            Some((name, note)) => (name.to_owned(), Some(note.trim_end_matches(')').to_owned())),
            None => (text.clone(), None),
        },
        Value::Object(fields) => {
            let name = fields.get("wall")?.as_str()?.to_owned();
            let notes: Vec<_> = fields
                .iter()
                .filter(|(key, _)| *key != "wall")
                .map(note)
                .collect();
            (name, (!notes.is_empty()).then(|| notes.join(", ")))
        }
        _ => return None,
    };
    let up = !name.ends_with("-refused");
    let name = name.trim_end_matches("-refused").to_owned();
    Some(Wall {
        process: process.to_owned(),
        wall: name,
        up,
        note,
    })
}

fn note((key, value): (&String, &Value)) -> String {
    let key = key.replace('_', " ");
    match value {
        Value::Bool(true) => key,
        Value::Bool(false) => format!("not {key}"),
        Value::String(text) => format!("{key} {text}"),
        Value::Array(list) => list
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(" "),
        other => format!("{key} {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_and_says_what_was_refused() {
        let line = r#"{"ready":{"walls":["landlock (abi 7, 2 places)","no_new_privs"]}}"#;
        let walls = read("share s0", line).unwrap();
        assert_eq!(walls[0].wall, "landlock");
        assert_eq!(walls[0].note.as_deref(), Some("abi 7, 2 places"));
        let line =
            r#"{"ready":[{"wall":"namespaces-refused","why":"no"},{"wall":"seccomp","calls":9}]}"#;
        let walls = read("vmm", line).unwrap();
        assert_eq!((walls[0].wall.as_str(), walls[0].up), ("namespaces", false));
        assert_eq!(walls[1].note.as_deref(), Some("calls 9"));
    }

    #[test]
    fn a_part_that_names_no_wall_does_not_start() {
        for line in ["", "{}", r#"{"ready":{"walls":[]}}"#, r#"{"ready":true}"#] {
            assert_eq!(read("net", line).unwrap_err().code, Code::Jail, "{line}");
        }
    }
}
