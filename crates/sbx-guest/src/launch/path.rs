//! Where programs are found: PATH of every session, and the start-up file
//! that gives it back to login shells, whose `/etc/profile` sets its own.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::Context;
use super::identity::Identity;

/// Below the home of everybody but root.
const OWN: &str = "/.local/bin";
const SYSTEM: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// PATH of a session that asks for none.
pub(crate) fn search_path(context: &Context, identity: &Identity) -> OsString {
    let mut path: Vec<u8> = Vec::new();
    if identity.uid != 0 {
        path.extend_from_slice(identity.home.as_bytes());
        path.extend_from_slice(OWN.as_bytes());
        path.push(b':');
    }
    path.extend(shared(context));
    OsString::from_vec(path)
}

/// A fragment of `/etc/profile` for any Bourne shell that sets the same PATH,
/// or the one that the sandbox was given.
pub(crate) fn profile(context: &Context) -> Vec<u8> {
    let mut text = b"# Written by sbx at each start.\n".to_vec();
    let given = context.env.iter().rfind(|(name, _)| &name[..] == b"PATH");
    match given {
        Some((_, path)) => assign(&mut text, path),
        None => {
            assign(&mut text, &shared(context));
            let own = format!("[ \"${{UID:-$(id -u)}}\" = 0 ] || PATH=\"$HOME{OWN}:$PATH\"\n");
            text.extend_from_slice(own.as_bytes());
        }
    }
    text.extend_from_slice(b"export PATH\n");
    text
}

fn shared(context: &Context) -> Vec<u8> {
    let mut path: Vec<u8> = Vec::new();
    for kit in &context.kit_paths {
        path.extend_from_slice(kit);
        path.push(b':');
    }
    path.extend_from_slice(SYSTEM);
    path
}

fn assign(text: &mut Vec<u8>, path: &[u8]) {
    text.extend_from_slice(b"PATH='");
    for &byte in path {
        match byte {
            b'\'' => text.extend_from_slice(b"'\\''"),
            // No shell could hold it.
            0 => {}
            _ => text.push(byte),
        }
    }
    text.extend_from_slice(b"'\n");
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::process::Command;

    use sbx_proto::link::AgentUser;
    use sbx_proto::session::User;

    use super::super::child::bytes;
    use super::super::identity::resolve;
    use super::*;

    fn context(env: &[(&str, &str)]) -> Context {
        Context {
            agent: AgentUser {
                uid: 1000,
                gid: 1000,
                groups: vec![],
            },
            env: env
                .iter()
                .map(|(name, value)| (bytes(name), bytes(value)))
                .collect(),
            kit_paths: vec![bytes("/opt/sbx/kits/claude/bin")],
            workdir: None,
            bare: false,
        }
    }

    /// PATH after a shell that came from elsewhere read the fragment.
    #[expect(
        clippy::disallowed_methods,
        reason = "a test of what a shell makes of it"
    )]
    fn path_in_a_shell(shell: &str, context: &Context, home: &str, uid: &str) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("00-sbx.sh");
        std::fs::write(&file, profile(context)).unwrap();
        // `id` says who it is where the shell does not.
        let script = format!("id() {{ echo {uid}; }}; set -eu; . \"$0\"; command -p printenv PATH");
        let output = Command::new(shell)
            .args(["-c", &script])
            .arg(&file)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        output.stdout
    }

    fn expected(context: &Context, user: &User) -> Vec<u8> {
        let identity = resolve(user, &context.agent, None).unwrap();
        let mut path = search_path(context, &identity).as_bytes().to_vec();
        path.push(b'\n');
        path
    }

    #[test]
    fn a_login_shell_finds_what_every_session_finds() {
        let context = context(&[]);
        let agent = path_in_a_shell("/bin/dash", &context, "/home/agent", "1000");
        assert_eq!(agent, expected(&context, &User::Agent));
        let root = path_in_a_shell("/bin/dash", &context, "/root", "0");
        assert_eq!(root, expected(&context, &User::Root));
        assert!(root.starts_with(b"/opt/sbx/kits/claude/bin:/usr/local/sbin:"));
    }

    #[test]
    fn bash_knows_who_it_is_without_asking() {
        let context = context(&[]);
        let is_root = rustix::process::getuid().is_root();
        let user = if is_root { User::Root } else { User::Agent };
        let path = path_in_a_shell("/bin/bash", &context, "/home/agent", "nobody");
        assert_eq!(path, expected(&context, &user));
    }

    #[test]
    fn a_login_shell_keeps_the_path_that_the_sandbox_was_given() {
        let odd = "/a b:/it's/$HOME/`x`";
        let path = path_in_a_shell("/bin/sh", &context(&[("PATH", odd)]), "/", "1000");
        assert_eq!(path, format!("{odd}\n").into_bytes());
    }

    #[test]
    fn the_fragment_defines_nothing_but_path() {
        let text = String::from_utf8(profile(&context(&[]))).unwrap();
        let names = text.lines().filter(|line| line.contains('='));
        assert!(names.clone().all(|line| line.contains("PATH=")), "{text}");
    }
}
