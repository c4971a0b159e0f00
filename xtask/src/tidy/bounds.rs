//! The number in a row of LIMITS.md is the number in the code.

/// What a cell says: its first number, alone and scaled by the unit behind it (bytes, or
/// milliseconds). `None` where it says none.
fn said(cell: &str) -> Option<[u64; 2]> {
    let start = cell.find(|c: char| c.is_ascii_digit())?;
    let rest = cell.get(start..)?;
    let end = rest
        .find(|c: char| !(c.is_ascii_digit() || c == ','))
        .unwrap_or(rest.len());
    let digits: String = rest
        .get(..end)?
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    let number: u64 = digits.parse().ok()?;
    let unit: String = rest
        .get(end..)?
        .trim_start()
        .chars()
        .take_while(char::is_ascii_alphabetic)
        .collect();
    let scale = match unit.as_str() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "s" => 1_000,
        "days" => 86_400_000,
        _ => 1,
    };
    Some([number, number.checked_mul(scale)?])
}

/// The value that `name` is given in `code`, in bytes or milliseconds where its type says so;
/// `None` where it is not a plain number.
fn defined(code: &str, name: &str) -> Option<u64> {
    code.lines().find_map(|line| {
        let line = line.trim();
        let value = match line.split_once(&format!("const {name}: ")) {
            Some((_, rest)) => rest.split_once(" = ")?.1.trim_end_matches(';'),
            None => line
                .strip_prefix(name)?
                .strip_prefix(": ")?
                .trim_end_matches(','),
        };
        evaluate(value)
    })
}

/// Products and shifts of numbers, durations and sizes.
fn evaluate(text: &str) -> Option<u64> {
    let calls = [
        ("Duration::from_secs(", 1_000),
        ("Duration::from_millis(", 1),
        ("ByteSize::mib(", 1 << 20),
        ("ByteSize::gib(", 1 << 30),
    ];
    for (call, scale) in calls {
        if let Some(inner) = text.strip_prefix(call) {
            return evaluate(inner.strip_suffix(')')?)?.checked_mul(scale);
        }
    }
    if let Some((left, right)) = text.split_once(" << ") {
        return evaluate(left)?.checked_shl(u32::try_from(evaluate(right)?).ok()?);
    }
    if let Some((left, right)) = text.split_once(" * ") {
        return evaluate(left)?.checked_mul(evaluate(right)?);
    }
    let digits: String = text
        .trim()
        .trim_end_matches(".0")
        .chars()
        .filter(|c| *c != '_')
        .collect();
    digits.parse().ok()
}

/// What is wrong with a row, if both sides are plain numbers and differ.
pub(super) fn differ(cell: &str, code: &str, name: &str) -> Option<String> {
    let (said, defined) = (said(cell)?, defined(code, name)?);
    (!said.contains(&defined)).then(|| format!("says `{cell}`, but `{name}` is {defined}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_compared_in_the_unit_of_either_side() {
        let code = "pub const A: usize = 64 * 1024;\nconst T: Duration = Duration::from_secs(10);\n\
                    const S: u32 = 30;\nconst D: ByteSize = ByteSize::gib(20);\nconst R: f64 = 16.0 * 1024.0;\n";
        for (cell, name) in [
            ("64 KiB", "A"),
            ("65,536", "A"),
            ("10 s, `-t`", "T"),
            ("30 s, configurable", "S"),
            ("20 GiB", "D"),
            ("16 KiB a second after 256 KiB", "R"),
        ] {
            assert_eq!(differ(cell, code, name), None, "{cell}");
        }
        assert!(differ("64 MiB", code, "A").is_some());
        assert!(differ("11 s", code, "T").is_some());
    }

    #[test]
    fn a_field_of_the_defaults_is_a_bound_too() {
        let code = "    pub handles: usize,\n    handles: 1 << 16,\n";
        assert_eq!(differ("65,536", code, "handles"), None);
        assert!(differ("65,537", code, "handles").is_some());
    }

    #[test]
    fn what_is_no_plain_number_is_left_alone() {
        assert_eq!(differ("two for each", "const A: usize = 2;", "A"), None);
        assert_eq!(differ("3", "const A: usize = B + 1;", "A"), None);
    }
}
