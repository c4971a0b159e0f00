//! The commands that README shows, so that a test can run them.

/// Lines of the fenced `sh` blocks, without comments and empty lines; a line that ends in `\` is
/// joined with the next.
pub(crate) fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut open = false;
    let mut joined = String::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(fence) = line.strip_prefix("```") {
            open = !open && fence.trim() == "sh";
            continue;
        }
        if !open || line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) => {
                joined.push_str(part.trim_end());
                joined.push(' ');
            }
            None => {
                commands.push(format!("{joined}{}", without_comment(line)));
                joined.clear();
            }
        }
    }
    commands
}

/// Cuts a comment that stands apart from the command by two spaces.
fn without_comment(line: &str) -> &str {
    line.split_once("  #")
        .map_or(line, |(command, _)| command.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blocks_of_shell_are_commands() {
        let text =
            "`a`\n```sh\nb -x\n\n# c\nd \\\n  e   # f\n```\n```text\ng\n```\n```sh\nh '#'\n```\n";
        assert_eq!(commands(text), ["b -x", "d e", "h '#'"]);
    }
}
