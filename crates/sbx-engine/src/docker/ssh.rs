//! An engine on another host, by the caller's own `ssh`: its standard streams
//! carry a connection of the program `docker` there, as those of the caller's
//! own client do.
//!
//! What `ssh` asks a person it asks nobody: it fails, and its words are told.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use sbx_sys::spawn::{Signal, Spawn};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

use crate::command::Caller;

/// Longest part of a destination.
const MAX_PART: usize = 255;
/// Most that is read of what `ssh` says, in bytes.
const MAX_SAID: usize = 4096;
/// How many of its last lines are told.
const LAST: usize = 3;
/// What `ssh` needs of the caller's environment.
const VARIABLES: [&str; 2] = ["PATH", "SSH_AUTH_SOCK"];

/// Where `ssh` leads.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destination {
    /// The account there, if it is not what the caller's configuration says.
    pub user: Option<String>,
    /// The host, as the caller's configuration knows it.
    pub host: String,
    /// Its port, if it is not what the caller's configuration says.
    pub port: Option<u16>,
    /// The engine's socket there, if it is not that of its own client.
    pub socket: Option<String>,
}

impl Destination {
    /// That in `[USER@]HOST[:PORT][/SOCKET]`, without anything that `ssh` or
    /// the shell behind it could take for something else.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let plain = |text: &str, more: &[u8]| {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || more.contains(&byte);
            (1..=MAX_PART).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(fits)
        };
        let (whole, socket) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let socket = Some(socket).filter(|socket| !matches!(*socket, "" | "/"));
        if socket.is_some_and(|socket| !plain(socket, b"/._-")) {
            return None;
        }
        let (user, host) = match whole.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, whole),
        };
        let (host, port) = match host.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port)
            }
            None => {
                let end = host.find(':').unwrap_or(host.len());
                let (name, port) = host.split_at(end);
                plain(name, b"._-").then_some((name, port))?
            }
        };
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().ok()?),
            None => port.is_empty().then_some(None)?,
        };
        if user.is_some_and(|user| !plain(user, b"._-")) {
            return None;
        }
        Some(Self {
            user: user.map(str::to_owned),
            host: host.to_owned(),
            port,
            socket: socket.map(str::to_owned),
        })
    }

    /// What `ssh` is told.
    fn arguments(&self) -> Vec<String> {
        let mut arguments: Vec<String> = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-T"]
            .map(str::to_owned)
            .into();
        for (flag, value) in [
            ("-l", self.user.clone()),
            ("-p", self.port.map(|port| port.to_string())),
        ] {
            arguments.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        }
        arguments.extend(["--".to_owned(), self.host.clone(), "docker".to_owned()]);
        if let Some(socket) = &self.socket {
            arguments.extend(["--host".to_owned(), format!("unix://{socket}")]);
        }
        arguments.extend(["system", "dial-stdio"].map(str::to_owned));
        arguments
    }
}

impl std::fmt::Display for Destination {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ssh://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(self.socket.as_deref().unwrap_or_default())
    }
}

/// The variables of `caller` that `ssh` gets.
pub(crate) fn variables(caller: &Caller) -> Vec<(String, String)> {
    let home = caller.home.to_str().map(str::to_owned);
    let home = home.map(|home| ("HOME".to_owned(), home));
    let named = caller.engines.iter();
    let named = named.filter(|(name, _)| VARIABLES.contains(&name.as_str()));
    named.cloned().chain(home).collect()
}

/// A connection by a process of `ssh`, which ends with it, or with the thread
/// that made it.
pub(super) struct Connection {
    stream: UnixStream,
    said: OwnedFd,
    heard: bool,
}

impl Connection {
    /// A new one.
    pub(super) fn open(to: &Destination, variables: &[(String, String)]) -> io::Result<Self> {
        let (near, far) = UnixStream::pair()?;
        let far = OwnedFd::from(far.into_std()?);
        // Programs do not expect streams that do not wait.
        rustix::io::ioctl_fionbio(&far, false)?;
        let (said, saying) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let saying = blocking(saying)?;
        let mut spawn = Spawn::path(program(variables)?)
            .args(to.arguments())
            .with_fd(far.try_clone()?, 0)
            .with_fd(far, 1)
            .with_fd(saying, 2);
        // Away from the terminal, where it could ask, and from its ^C.
        spawn.new_session = true;
        spawn.parent_death_signal = Some(Signal::KILL);
        for (name, value) in variables {
            spawn = spawn.env(name, value);
        }
        // Whom it belongs to may not be able to wait for it by then.
        let _child = spawn.spawn().map_err(io::Error::other)?;
        Ok(Self {
            stream: near,
            said,
            heard: false,
        })
    }

    /// Why nothing came, as `ssh` says it.
    fn why(&self) -> io::Error {
        let mut text = vec![0; MAX_SAID];
        let count = match rustix::io::read(&self.said, &mut text[..]) {
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(error) => return error.into(),
        };
        let text = String::from_utf8_lossy(text.get(..count).unwrap_or_default());
        // What it failed at it says last.
        let mut lines: Vec<_> = text.split(['\r', '\n']).collect();
        lines.retain(|line| !line.is_empty());
        let last = lines.get(lines.len().saturating_sub(LAST)..);
        match last.unwrap_or_default() {
            [] => io::Error::other("`ssh` ended without a word"),
            last => io::Error::other(super::client::shown(&last.join("; "))),
        }
    }
}

fn blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, false)?;
    Ok(fd)
}

/// The caller's `ssh`.
fn program(variables: &[(String, String)]) -> io::Result<PathBuf> {
    let path = variables.iter().find(|(name, _)| name == "PATH");
    let path = path.map_or("/usr/bin:/bin", |(_, path)| path);
    path.split(':')
        .map(|directory| Path::new(directory).join("ssh"))
        .find(|program| program.is_absolute() && program.is_file())
        .ok_or_else(|| io::Error::other("there is no program `ssh`"))
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut this.stream).poll_read(context, into));
        if into.filled().len() > before {
            this.heard = true;
        }
        match this.heard {
            true => Poll::Ready(read),
            // What was written to it and not read resets the connection.
            false => Poll::Ready(Err(this.why())),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match ready!(Pin::new(&mut this.stream).poll_write(context, bytes)) {
            Err(_) if !this.heard => Poll::Ready(Err(this.why())),
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn a_destination_is_read_and_nothing_in_it_is_a_flag_or_for_a_shell() {
        for text in [
            "h",
            "me@h.example:22",
            "me@h/run/user/1/x.sock",
            "[fe80::1]:7",
        ] {
            let destination = Destination::parse(text).unwrap();
            assert_eq!(destination.to_string(), format!("ssh://{text}"));
        }
        let told = Destination::parse("me@h:7/x.sock").unwrap().arguments();
        let told = told.join(" ");
        assert!(
            told.ends_with("-l me -p 7 -- h docker --host unix:///x.sock system dial-stdio"),
            "{told}"
        );
        assert!(told.contains("BatchMode=yes"), "{told}");
        for text in [
            "",
            "-oProxyCommand=x",
            "-l@h",
            "a b",
            "me:secret@h",
            "h:x",
            "h:70000",
            "h/a;b",
            "h/$x",
            "[h]",
            "h\n",
        ] {
            assert_eq!(Destination::parse(text), None, "{text:?}");
        }
    }

    /// A program in the place of `ssh`.
    fn as_ssh(script: &str) -> (tempfile::TempDir, Vec<(String, String)>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("ssh");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let at = root.path().to_str().unwrap();
        let variables = vec![("PATH".to_owned(), format!(".:{at}:/bin"))];
        (root, variables)
    }

    #[tokio::test]
    async fn what_ssh_says_is_told_where_it_connects_nobody_and_bytes_go_where_it_does() {
        let to = Destination::parse("h").unwrap();
        let (_root, variables) =
            as_ssh("head -c 1 >/dev/null; printf 'a \\033[2J key\\r\\nunknown\\n' >&2");
        let mut stream = Connection::open(&to, &variables).unwrap();
        stream.write_all(b"a request").await.unwrap();
        let error = stream.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.to_string(), "a \\u{1b}[2J key; unknown");

        let (_root, variables) = as_ssh("exec cat");
        let mut stream = Connection::open(&to, &variables).unwrap();
        stream.write_all(b"back").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"back");

        let none = vec![("PATH".to_owned(), ".:relative".to_owned())];
        assert!(Connection::open(&to, &none).is_err());
    }
}
