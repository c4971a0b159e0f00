//! The images that containers are made of: our own, loaded once, and the
//! user's.

use std::io::Write;
use std::path::Path;
use std::thread::JoinHandle;

use http_body_util::BodyExt;
use http_body_util::channel::Channel;
use hyper::Method;
use hyper::body::Bytes;
use sbx_spec::{Pull, SandboxName};
use serde_json::Value;

use super::bodies::{self, GUEST_PROGRAM};
use super::client::{Body, encoded, shown};
use super::{Client, IMAGE, failed, objects};
use crate::command::{Cancel, Code, Error};
use crate::plan::{Docker, KitProgram};

/// Bytes of an archive that are handed on at once.
const CHUNK: usize = 256 * 1024;
/// Chunks that wait for the engine.
const WAITING: usize = 4;
/// Longest variable of an image that is taken over, and most of them.
const MAX_VARIABLE: usize = 32 * 1024;
const MAX_VARIABLES: usize = 200;

/// An image of the engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Loaded {
    /// Its id.
    pub(crate) id: String,
    /// The variables that it gives to its programs.
    pub(crate) env: Vec<(String, String)>,
}

/// The image that the keeper of the network runs in: empty, since the program
/// is mounted, or for an engine elsewhere with the program in it.
///
/// # Errors
/// If the engine does not take it.
pub(crate) async fn sidecar(client: &Client, program: Option<&[u8]>) -> Result<Loaded, Error> {
    let key = sbx_images::Key::of(&[b"network-1", program.unwrap_or_default()]);
    let tag = key.as_str().get(..12).unwrap_or_default().to_owned();
    let mut archive = tar::Builder::new(Vec::new());
    let io = |error| failed("make the archive of an image").because(error);
    for (name, mode) in [
        ("run/", 0o755),
        ("run/sbx/", 0o755),
        ("run/sbx/bin/", 0o755),
    ] {
        entry(&mut archive, name, mode, &[]).map_err(io)?;
    }
    let text = program.unwrap_or_default();
    entry(&mut archive, "run/sbx/bin/sbx-guest", 0o755, text).map_err(io)?;
    let archive = archive.into_inner().map_err(io)?;
    load(client, "sbx-network", &tag, move |sink| sink(&archive)).await
}

/// Appends a directory (whose name ends in a slash) or a file of root's.
pub(super) fn entry(
    archive: &mut tar::Builder<Vec<u8>>,
    name: &str,
    mode: u32,
    text: &[u8],
) -> std::io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(text.len() as u64);
    header.set_entry_type(if name.ends_with('/') {
        tar::EntryType::Directory
    } else {
        tar::EntryType::Regular
    });
    archive.append_data(&mut header, name, text)
}

/// The base template, whose archive `write` writes if the engine does not have
/// it yet.
///
/// # Errors
/// If the engine does not take it.
pub(crate) async fn template(
    client: &Client,
    digest: &str,
    write: impl FnOnce(&mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()>
    + Send
    + 'static,
) -> Result<Loaded, Error> {
    let tag = digest.get(..12).unwrap_or(digest);
    load(client, "sbx-template", tag, write).await
}

/// The image that the container of `sandbox` was made of, if it was made.
///
/// # Errors
/// If the engine does not answer.
pub(crate) async fn in_use(
    client: &Client,
    owner: &str,
    sandbox: &SandboxName,
) -> Result<Option<Loaded>, Error> {
    let name = bodies::name_of(owner, sandbox);
    let found = objects::container(client, &name, owner, sandbox).await?;
    let Some(id) = found.and_then(|found| found.from) else {
        return Ok(None);
    };
    let there = inspect(client, &id).await?;
    Ok(Some(there.unwrap_or(Loaded {
        id,
        env: Vec::new(),
    })))
}

/// The image that the user named.
///
/// # Errors
/// If there is none, it may not be fetched, or it cannot be.
pub(crate) async fn foreign(
    client: &Client,
    reference: &str,
    pull: Pull,
    cancel: &mut Cancel,
    told: &mut (dyn FnMut(&str) + Send),
) -> Result<Loaded, Error> {
    let there = inspect(client, reference).await?;
    match (there, pull) {
        (Some(image), Pull::Missing | Pull::Never) => return Ok(image),
        (None, Pull::Never) => {
            let what = format!("the engine has no image `{}`", shown(reference));
            return Err(Error::new(Code::Image, what)
                .hint("leave `--pull never` out, or load it: `docker pull`, `docker load`"));
        }
        (_, Pull::Always) | (None, Pull::Missing) => {}
    }
    let what = format!("fetch the image `{}`", shown(reference));
    // Without a tag an engine fetches all there are.
    let last = reference.rsplit('/').next().unwrap_or(reference);
    let tag = if last.contains([':', '@']) {
        ""
    } else {
        "&tag=latest"
    };
    let path = format!("/images/create?fromImage={}{tag}", encoded(reference));
    let mut refused = None;
    let mut heard = |line: &Value| {
        let text = |key: &str| line.get(key).and_then(Value::as_str);
        if let Some(error) = text("error").or_else(|| text("message")) {
            refused = Some(shown(error));
        }
        if let Some(status) = text("status") {
            told(&shown(status));
        }
        Ok(())
    };
    let status = tokio::select! {
        status = client.transfer(Method::POST, &path, None, &mut heard) => status?,
        () = cancel.cancelled() => return Err(Error::new(Code::Interrupted, "interrupted while fetching an image")),
    };
    if let Some(why) = refused {
        return Err(failed(&what).because(std::io::Error::other(why)));
    }
    match inspect(client, reference).await? {
        Some(image) if status.is_success() => Ok(image),
        _ => Err(failed(&what).because(std::io::Error::other(status.to_string()))),
    }
}

async fn load(
    client: &Client,
    name: &str,
    tag: &str,
    write: impl FnOnce(&mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()>
    + Send
    + 'static,
) -> Result<Loaded, Error> {
    let reference = format!("{name}:{tag}");
    if let Some(image) = inspect(client, &reference).await? {
        return Ok(image);
    }
    let what = format!("load the image `{reference}`");
    let change = encoded(&format!("LABEL {IMAGE}={name}"));
    // Not every engine reads a tag that stands by itself.
    let name = encoded(&reference);
    let path = format!("/images/create?fromSrc=-&repo={name}&changes={change}");
    let (body, writer) = streamed(write);
    let mut refused = None;
    let mut heard = |line: &Value| {
        let said = line.get("error").or_else(|| line.get("message"));
        if let Some(error) = said.and_then(Value::as_str) {
            refused = Some(shown(error));
        }
        Ok(())
    };
    let status = client
        .transfer(Method::POST, &path, Some(body), &mut heard)
        .await;
    let written = joined(writer);
    let status = status?;
    written.map_err(|error| failed(&what).because(error))?;
    if let Some(why) = refused {
        return Err(failed(&what).because(std::io::Error::other(why)));
    }
    match inspect(client, &reference).await? {
        Some(image) if status.is_success() => Ok(image),
        _ => Err(failed(&what).because(std::io::Error::other(status.to_string()))),
    }
}

/// A body of what `write` writes on a thread of its own, and its outcome.
pub(super) fn streamed(
    write: impl FnOnce(&mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> std::io::Result<()>
    + Send
    + 'static,
) -> (Body, JoinHandle<std::io::Result<()>>) {
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(WAITING);
    let runtime = tokio::runtime::Handle::current();
    let writer = std::thread::spawn(move || {
        let mut put = |bytes: &[u8]| {
            for chunk in bytes.chunks(CHUNK) {
                let chunk = Bytes::copy_from_slice(chunk);
                runtime
                    .block_on(sender.send_data(chunk))
                    .map_err(|_| std::io::Error::other("the engine takes no more of it"))?;
            }
            Ok(())
        };
        write(&mut put)
    });
    (body.boxed_unsync(), writer)
}

/// The outcome of a writer, whose body has been read to its end or dropped.
fn joined(writer: JoinHandle<std::io::Result<()>>) -> std::io::Result<()> {
    let broken = |_| Err(std::io::Error::other("its writer broke"));
    writer.join().unwrap_or_else(broken)
}

/// Copies our program and those of the agent into the container `id` of an
/// engine that mounts nothing of this host.
///
/// # Errors
/// If the engine does not take them.
pub(super) async fn copy_in(client: &Client, id: &str, docker: &Docker) -> Result<(), Error> {
    let what = "copy programs into a container";
    let (guest, kit) = (docker.guest.clone(), docker.kit.clone());
    let (body, writer) = streamed(move |put| programs(Putting(put), &guest, kit.as_ref()));
    let path = format!("/containers/{id}/archive?path=%2F");
    let mut refused = None;
    let mut heard = |line: &Value| {
        refused = line.get("message").and_then(Value::as_str).map(shown);
        Ok(())
    };
    let status = client
        .transfer(Method::PUT, &path, Some(body), &mut heard)
        .await;
    let written = joined(writer);
    let status = status?;
    written.map_err(|error| failed(what).because(error))?;
    if status.is_success() {
        return Ok(());
    }
    let why = refused.unwrap_or_else(|| status.to_string());
    Err(failed(what).because(std::io::Error::other(why)))
}

/// An archive of our program and those of the agent.
fn programs(to: impl Write, guest: &Path, kit: Option<&KitProgram>) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.mode(tar::HeaderMode::Deterministic);
    // Engines do not read entries of files with holes.
    archive.sparse(false);
    archive.append_path_with_name(guest, GUEST_PROGRAM.trim_start_matches('/'))?;
    if let Some(kit) = kit {
        let name = format!("opt/sbx/kits/{}", kit.name);
        archive.append_dir_all(name, &kit.path)?;
    }
    archive.finish()
}

/// Writes by handing on.
struct Putting<'a>(&'a mut dyn FnMut(&[u8]) -> std::io::Result<()>);

impl Write for Putting<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.0)(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The image `reference`, if the engine has it.
async fn inspect(client: &Client, reference: &str) -> Result<Option<Loaded>, Error> {
    let what = format!("look for the image `{}`", shown(reference));
    // The slashes of its name are the path's.
    let name: Vec<_> = reference.split('/').map(encoded).collect();
    let path = format!("/images/{}/json", name.join("/"));
    let found = client.call(Method::GET, &path, None).await?.found(&what)?;
    let Some(found) = found else { return Ok(None) };
    let id = found
        .get("Id")
        .and_then(Value::as_str)
        .and_then(objects::id);
    let env = found.pointer("/Config/Env").and_then(Value::as_array);
    let variable = |text: &Value| {
        let (name, value) = text.as_str()?.split_once('=')?;
        let fits = name.len() + value.len() <= MAX_VARIABLE && !name.is_empty();
        fits.then(|| (name.to_owned(), value.to_owned()))
    };
    Ok(Some(Loaded {
        id: id.ok_or_else(|| failed(&what))?,
        env: env
            .into_iter()
            .flatten()
            .filter_map(variable)
            .take(MAX_VARIABLES)
            .collect(),
    }))
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    use super::*;

    #[test]
    fn a_program_with_holes_is_an_ordinary_file_of_the_archive() {
        let mut guest = tempfile::NamedTempFile::new().unwrap();
        guest.write_all(b"begin").unwrap();
        guest.seek(SeekFrom::Start(1 << 20)).unwrap();
        guest.write_all(b"end").unwrap();
        let mut written = Vec::new();
        programs(&mut written, guest.path(), None).unwrap();
        let mut archive = tar::Archive::new(&written[..]);
        let mut entries = archive.entries().unwrap();
        let entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.header().entry_type(), tar::EntryType::Regular);
        assert_eq!(entry.size(), (1 << 20) + 3);
        assert!(entries.next().is_none());
    }
}
