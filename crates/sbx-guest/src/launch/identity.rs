//! Who a program runs as: ids, home and shell, from `/etc/passwd` inside and
//! nothing else (no name service is in this program).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sbx_proto::link::AgentUser;
use sbx_proto::session::User;

use crate::launch::Failure;

/// Home of the agent user.
pub(crate) const AGENT_HOME: &str = "/home/agent";
/// Name of the agent user.
pub(crate) const AGENT_NAME: &str = "agent";
const BASH: &str = "/bin/bash";
const SH: &str = "/bin/sh";
/// Longest user database that is read, in bytes.
const MAX_DATABASE: u64 = 1024 * 1024;

/// The shell of a login: that of our template, or what an image has instead.
pub(crate) fn login_shell() -> &'static str {
    if Path::new(BASH).exists() { BASH } else { SH }
}

/// What stands in for a shell that an image does not have.
pub(crate) fn in_place_of(program: &Path) -> Option<&'static str> {
    let absent = program == Path::new(BASH) && !program.exists();
    (absent && Path::new(SH).exists()).then_some(SH)
}

/// A user, resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) name: String,
    pub(crate) home: String,
    pub(crate) shell: String,
}

/// Resolves `user` with the text of `/etc/passwd` (`None` if unreadable).
pub(crate) fn resolve(
    user: &User,
    agent: &AgentUser,
    passwd: Option<&str>,
) -> Result<Identity, Failure> {
    let entries = || passwd.unwrap_or_default().lines().filter_map(parse_entry);
    match user {
        User::Agent => Ok(Identity {
            uid: agent.uid,
            gid: agent.gid,
            groups: agent.groups.clone(),
            name: AGENT_NAME.to_owned(),
            home: AGENT_HOME.to_owned(),
            shell: login_shell().to_owned(),
        }),
        User::Root => Ok(Identity {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            name: "root".to_owned(),
            home: "/root".to_owned(),
            shell: login_shell().to_owned(),
        }),
        User::Ids { uid, gid } => {
            let known = entries().find(|entry| entry.uid == *uid);
            Ok(Identity {
                uid: *uid,
                gid: *gid,
                ..known.unwrap_or_else(|| Identity {
                    uid: *uid,
                    gid: *gid,
                    groups: Vec::new(),
                    name: uid.to_string(),
                    home: "/".to_owned(),
                    shell: "/bin/sh".to_owned(),
                })
            })
        }
        User::Name { name } if name == AGENT_NAME => resolve(&User::Agent, agent, passwd),
        User::Name { name } if name == "root" => resolve(&User::Root, agent, passwd),
        User::Name { name } => entries()
            .find(|entry| entry.name == *name)
            .ok_or_else(|| Failure {
                code: 125,
                message: format!("no user `{name}` in the sandbox"),
            }),
    }
}

/// The user that an entry of `/etc/passwd` describes.
fn parse_entry(line: &str) -> Option<Identity> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1)?;
    let shell = fields.next().filter(|shell| !shell.is_empty());
    Some(Identity {
        uid,
        gid,
        groups: Vec::new(),
        name: name.to_owned(),
        home: home.to_owned(),
        shell: shell.unwrap_or("/bin/sh").to_owned(),
    })
}

/// The text of `/etc/passwd`, if it is one.
pub(crate) fn read_passwd() -> Option<String> {
    let mut bytes = Vec::new();
    File::open("/etc/passwd")
        .ok()?
        .take(MAX_DATABASE)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\n\
        www:x:33:34:www:/var/www:/usr/sbin/nologin\npg:x:999:999::/var/lib/pg:\n";

    fn agent() -> AgentUser {
        AgentUser {
            uid: 1000,
            gid: 1001,
            groups: vec![44],
        }
    }

    #[test]
    fn finds_a_user_by_name_and_by_id() {
        let name = User::Name { name: "www".into() };
        let www = resolve(&name, &agent(), Some(PASSWD)).unwrap();
        assert_eq!((www.uid, www.gid, www.home.as_str()), (33, 34, "/var/www"));
        let ids = User::Ids { uid: 999, gid: 5 };
        let pg = resolve(&ids, &agent(), Some(PASSWD)).unwrap();
        assert_eq!(
            (pg.gid, pg.home.as_str(), pg.shell.as_str()),
            (5, "/var/lib/pg", "/bin/sh")
        );
    }

    #[test]
    fn ids_without_an_entry_live_in_the_root_directory() {
        let ids = User::Ids { uid: 7, gid: 8 };
        let user = resolve(&ids, &agent(), None).unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (7, 8, "/"));
    }

    #[test]
    fn a_user_that_is_not_there_is_named_in_the_refusal() {
        let name = User::Name {
            name: "nobody2".into(),
        };
        let failure = resolve(&name, &agent(), Some(PASSWD)).unwrap_err();
        assert_eq!(failure.code, 125);
        assert!(failure.message.contains("nobody2"));
    }

    #[test]
    fn the_agent_is_not_looked_up_in_files_that_it_can_change() {
        let passwd = "agent:x:0:0::/root:/bin/sh\n";
        let name = User::Name {
            name: "agent".into(),
        };
        let user = resolve(&name, &agent(), Some(passwd)).unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (1000, 1001, vec![44]));
    }
}
