//! JSON values as YAML 1.2 in block style. Every JSON string is a YAML
//! double-quoted string, so a string that could be read as anything else is
//! written as JSON.

use serde_json::Value;

/// The document.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                out.push_str(&" ".repeat(indent));
                out.push_str(&scalar(&Value::String(key.clone())));
                out.push(':');
                nested(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&" ".repeat(indent));
                out.push('-');
                let mut inner = String::new();
                nested(item, indent + 2, &mut inner);
                // A mapping begins on the line of its dash.
                match inner.strip_prefix('\n') {
                    Some(lines) => {
                        out.push(' ');
                        out.push_str(lines.trim_start());
                    }
                    None => out.push_str(&inner),
                }
            }
        }
        other => {
            out.push_str(&scalar(other));
            out.push('\n');
        }
    }
}

fn nested(value: &Value, indent: usize, out: &mut String) {
    let compound = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    out.push(if compound { '\n' } else { ' ' });
    block(value, indent, out);
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a text is itself in YAML: a word of letters that is none of the
/// words with a meaning, possibly with digits, dashes and the like inside.
fn is_plain(text: &str) -> bool {
    let special = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c))
        && !special.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_a_yaml_reader_reads_back() {
        let value = serde_json::json!({
            "version": 1,
            "none": [],
            "sandboxes": [
                { "name": "a-b", "ports": ["127.0.0.1:80->80/tcp"], "workspace": null },
                { "name": "yes", "ports": [], "text": "a: b\n# c" },
            ],
            "nested": [[1, 2], [{ "a": 1 }]],
        });
        assert_eq!(
            text(&value),
            "nested:\n  - - 1\n    - 2\n  - - a: 1\nnone: []\nsandboxes:\n  - name: a-b\n    ports:\n      \
             - \"127.0.0.1:80->80/tcp\"\n    workspace: null\n  - name: \"yes\"\n    ports: []\n    \
             text: \"a: b\\n# c\"\nversion: 1\n"
        );
    }
}
