//! The agent in the user databases, and its home.

use std::path::Path;

use rustix::fs::Mode;
use sbx_proto::link::AgentUser;

use super::Warnings;
use super::early::make_directory;
use super::etc::replace;
use super::mounts::give;
use crate::error::{Attempt as _, Result};
use crate::launch::identity::{AGENT_HOME, AGENT_NAME, login_shell};

/// Writes the agent's entries and makes its home.
pub(super) fn write(agent: &AgentUser, warnings: &mut Warnings) {
    let (uid, gid) = (agent.uid.to_string(), agent.gid.to_string());
    let entries = [
        (
            "/etc/passwd",
            format!("{AGENT_NAME}:x:{uid}:{gid}::{AGENT_HOME}:{}", login_shell()),
            Some(uid),
            0o644,
        ),
        (
            "/etc/group",
            format!("{AGENT_NAME}:x:{gid}:"),
            Some(gid),
            0o644,
        ),
        (
            "/etc/shadow",
            format!("{AGENT_NAME}:!:19000:0:99999:7:::"),
            None,
            0o640,
        ),
    ];
    for (path, entry, id, mode) in entries {
        let old = std::fs::read_to_string(path).unwrap_or_default();
        let new = with_entry(&old, &entry, id.as_deref());
        warnings.note(replace(Path::new(path), new.as_bytes(), mode));
    }
    warnings.note(make_home(agent));
}

fn make_home(agent: &AgentUser) -> Result<()> {
    let home = Path::new(AGENT_HOME);
    if !home.exists() {
        make_directory(home)?;
        rustix::fs::chmod(home, Mode::from_raw_mode(0o755)).attempt("open up the home")?;
    }
    give(home, agent)
}

/// `database` with `entry` in place of every line that has its name or `id`
/// in the third field. Root's line stays whatever it says.
fn with_entry(database: &str, entry: &str, id: Option<&str>) -> String {
    let name = entry.split(':').next();
    let mut out = String::with_capacity(database.len() + entry.len() + 1);
    for line in database.lines() {
        let mut fields = line.split(':');
        let same_name = fields.next() == name;
        let same_id = id.is_some() && fields.nth(1) == id && !line.starts_with("root:");
        if !same_name && !same_id && !line.is_empty() {
            out.push_str(line);
            out.push('\n');
        }
    }
    out.push_str(entry);
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nnode:x:1000:1000::/home/node:/bin/sh\n";
    const AGENT: &str = "agent:x:1000:1000::/home/agent:/bin/bash";

    #[test]
    fn the_agent_replaces_whoever_has_its_id() {
        let text = with_entry(PASSWD, AGENT, Some("1000"));
        assert_eq!(text, format!("root:x:0:0:root:/root:/bin/bash\n{AGENT}\n"));
    }

    #[test]
    fn other_accounts_stay_as_they_are() {
        let text = with_entry(PASSWD, AGENT, Some("1001"));
        assert_eq!(text, format!("{PASSWD}{AGENT}\n"));
    }

    #[test]
    fn writing_twice_changes_nothing() {
        let once = with_entry(PASSWD, AGENT, Some("1000"));
        assert_eq!(with_entry(&once, AGENT, Some("1000")), once);
        let shadow = with_entry("root:*:1::::::\n", "agent:!:19000:0:99999:7:::", None);
        assert_eq!(
            with_entry(&shadow, "agent:!:19000:0:99999:7:::", None),
            shadow
        );
    }

    #[test]
    fn a_missing_database_is_made() {
        assert_eq!(with_entry("", AGENT, Some("1000")), format!("{AGENT}\n"));
    }

    #[test]
    fn root_is_never_replaced() {
        let text = with_entry(PASSWD, "agent:x:0:0::/home/agent:/bin/bash", Some("0"));
        assert!(text.starts_with("root:x:0:0"));
    }
}
