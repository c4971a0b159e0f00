//! The containers, volumes and images of a sandbox: found by their labels,
//! ended and removed.
//!
//! Whatever an engine lists, nothing is touched that does not carry the label
//! of this state directory.

use hyper::{Method, StatusCode};
use sbx_spec::SandboxName;
use serde_json::{Value, json};

use super::bodies::name_of;
use super::client::encoded;
use super::{Client, FROM, MADE, OWNER, SANDBOX, failed};
use crate::command::Error;

/// Longest name or id that is believed.
const MAX_ID: usize = 256;

/// What a sandbox leaves with an engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stray {
    /// What it is, for the user.
    pub(crate) what: String,
    /// The sandbox that it was of.
    pub(crate) sandbox: SandboxName,
}

/// A container that is there.
pub(super) struct Container {
    pub(super) id: String,
    pub(super) running: bool,
    /// What it was made as.
    pub(super) made: Option<String>,
    /// Of which image it was made at first.
    pub(super) from: Option<String>,
    /// Whose network it is in.
    pub(super) network: Option<String>,
}

/// The container called `name`, if it is there and this sandbox's.
pub(super) async fn container(
    client: &Client,
    name: &str,
    owner: &str,
    sandbox: &SandboxName,
) -> Result<Option<Container>, Error> {
    let what = format!("look for the container `{name}`");
    let path = format!("/containers/{}/json", encoded(name));
    let found = client.call(Method::GET, &path, None).await?.found(&what)?;
    let Some(found) = found else { return Ok(None) };
    let labels = found.pointer("/Config/Labels");
    if !is_of(labels, owner, Some(sandbox)) {
        let why = "there is one of that name which is not this sandbox's";
        return Err(failed(&what)
            .because(std::io::Error::other(why))
            .hint(format!("rename or remove it: `docker rm {name}`")));
    }
    let own = found.get("Id").and_then(Value::as_str).and_then(id);
    let own = own.ok_or_else(|| failed(&what))?;
    let text = |at: &str| found.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let label = |name: &str| labels?.get(name)?.as_str().map(str::to_owned);
    Ok(Some(Container {
        id: own,
        running: found.pointer("/State/Running").and_then(Value::as_bool) == Some(true),
        made: label(MADE),
        from: label(FROM).as_deref().and_then(id),
        network: text("/HostConfig/NetworkMode"),
    }))
}

/// Makes a container, and returns its id.
pub(super) async fn make(client: &Client, name: &str, body: &Value) -> Result<String, Error> {
    let what = format!("make the container `{name}`");
    let path = format!("/containers/create?name={}", encoded(name));
    let made = client
        .call(Method::POST, &path, Some(body))
        .await?
        .good(&what)?;
    let made = made.get("Id").and_then(Value::as_str).and_then(id);
    made.ok_or_else(|| failed(&what))
}

/// Starts a container.
pub(super) async fn start(client: &Client, name: &str, id: &str) -> Result<(), Error> {
    let what = format!("start the container `{name}`");
    let path = format!("/containers/{id}/start");
    client.call(Method::POST, &path, None).await?.good(&what)?;
    Ok(())
}

/// Ends a container at once; one that is not up is as good as ended.
pub(super) async fn kill(client: &Client, id: &str) -> Result<(), Error> {
    let path = format!("/containers/{id}/kill");
    let answer = client.call(Method::POST, &path, None).await?;
    match answer.status {
        StatusCode::CONFLICT | StatusCode::NOT_FOUND => {}
        _ => drop(answer.good("end a container")?),
    }
    let path = format!("/containers/{id}/wait?condition=not-running");
    client
        .call(Method::POST, &path, None)
        .await?
        .found("wait for a container")?;
    Ok(())
}

/// Removes a container, whatever it does, with the volumes that have no name.
pub(super) async fn delete(client: &Client, id: &str) -> Result<(), Error> {
    let path = format!("/containers/{id}?force=1&v=1");
    let answer = client.call(Method::DELETE, &path, None).await?;
    answer.found("remove a container").map(drop)
}

/// Keeps the files of a container as an image, and returns its id.
pub(super) async fn keep(client: &Client, id_of: &str, labels: &Value) -> Result<String, Error> {
    let what = "keep the files of a container";
    let path = format!("/commit?container={id_of}&pause=0&comment=sbx");
    let body = json!({ "Labels": labels });
    let kept = client
        .call(Method::POST, &path, Some(&body))
        .await?
        .good(what)?;
    let kept = kept.get("Id").and_then(Value::as_str).and_then(id);
    kept.ok_or_else(|| failed(what))
}

/// Ends what of a sandbox is up.
///
/// # Errors
/// If the engine does not do it.
pub(crate) async fn end(client: &Client, owner: &str, sandbox: &SandboxName) -> Result<(), Error> {
    for found in containers(client, owner, Some(sandbox)).await? {
        if found.running {
            kill(client, &found.id).await?;
        }
    }
    Ok(())
}

/// Removes everything of a sandbox.
///
/// # Errors
/// If the engine does not do it.
pub(crate) async fn remove(
    client: &Client,
    owner: &str,
    sandbox: &SandboxName,
) -> Result<(), Error> {
    let mut found = containers(client, owner, Some(sandbox)).await?;
    // Whose network it is goes after who uses it.
    found.sort_by_key(|one| one.keeps_network);
    for one in found {
        delete(client, &one.id).await?;
    }
    for (name, _) in volumes(client, owner, Some(sandbox)).await? {
        let path = format!("/volumes/{}", encoded(&name));
        let answer = client.call(Method::DELETE, &path, None).await?;
        answer.found("remove a volume")?;
    }
    remove_images(client, images(client, owner, Some(sandbox)).await?).await
}

/// Removes images, those that others are made of after those.
async fn remove_images(
    client: &Client,
    mut images: Vec<(String, SandboxName)>,
) -> Result<(), Error> {
    while !images.is_empty() {
        let before = images.len();
        let mut left = Vec::new();
        for (id, sandbox) in images {
            let path = format!("/images/{}?force=1", encoded(&id));
            let answer = client.call(Method::DELETE, &path, None).await?;
            if answer.status == StatusCode::CONFLICT {
                left.push((id, sandbox));
            } else {
                answer.found("remove an image")?;
            }
        }
        if left.len() == before {
            let why = std::io::Error::other("something else is made of it");
            return Err(failed("remove an image").because(why));
        }
        images = left;
    }
    Ok(())
}

/// What is there of sandboxes that are not among `known`.
///
/// # Errors
/// If the engine does not answer.
pub(crate) async fn strays(
    client: &Client,
    owner: &str,
    known: &[SandboxName],
) -> Result<Vec<Stray>, Error> {
    let mut strays = Vec::new();
    let mut note = |kind: &str, sandbox: SandboxName| {
        if !known.contains(&sandbox) {
            strays.push(Stray {
                what: format!("{kind} of `{sandbox}`, which is not there"),
                sandbox,
            });
        }
    };
    for found in containers(client, owner, None).await? {
        note("a container", found.sandbox);
    }
    for (_, sandbox) in volumes(client, owner, None).await? {
        note("a volume", sandbox);
    }
    for (_, sandbox) in images(client, owner, None).await? {
        note("an image", sandbox);
    }
    Ok(strays)
}

/// Removes them.
///
/// # Errors
/// If the engine does not do it.
pub(crate) async fn remove_strays(
    client: &Client,
    owner: &str,
    strays: &[Stray],
) -> Result<(), Error> {
    let mut done: Vec<&SandboxName> = Vec::new();
    for stray in strays {
        if !done.contains(&&stray.sandbox) {
            remove(client, owner, &stray.sandbox).await?;
            done.push(&stray.sandbox);
        }
    }
    Ok(())
}

struct Listed {
    id: String,
    keeps_network: bool,
    running: bool,
    sandbox: SandboxName,
}

async fn containers(
    client: &Client,
    owner: &str,
    sandbox: Option<&SandboxName>,
) -> Result<Vec<Listed>, Error> {
    let path = format!("/containers/json?all=1&filters={}", filter(owner, sandbox));
    let list = client.call(Method::GET, &path, None).await?;
    let list = list.good("list the containers")?;
    let listed = |one: &Value| {
        let labels = one.get("Labels");
        is_of(labels, owner, sandbox).then_some(())?;
        let of: SandboxName = labels?.get(SANDBOX)?.as_str()?.parse().ok()?;
        // What is made of an image that was made of ours has its labels too.
        let ours = name_of(owner, &of);
        let names = one.get("Names")?.as_array()?.iter();
        let keeps_network = names
            .filter_map(Value::as_str)
            .map(|name| name.trim_start_matches('/'))
            .find_map(|name| match name.strip_prefix(ours.as_str())? {
                "" => Some(false),
                "-net" => Some(true),
                _ => None,
            })?;
        Some(Listed {
            id: id(one.get("Id")?.as_str()?)?,
            keeps_network,
            running: !matches!(
                one.get("State").and_then(Value::as_str),
                Some("created" | "exited" | "dead" | "configured" | "stopped")
            ),
            sandbox: of,
        })
    };
    Ok(items(&list).filter_map(listed).collect())
}

async fn volumes(
    client: &Client,
    owner: &str,
    sandbox: Option<&SandboxName>,
) -> Result<Vec<(String, SandboxName)>, Error> {
    let path = format!("/volumes?filters={}", filter(owner, sandbox));
    let list = client.call(Method::GET, &path, None).await?;
    let list = list.good("list the volumes")?;
    let none = Value::Null;
    let list = list.get("Volumes").unwrap_or(&none);
    Ok(named(list, "Name", owner, sandbox))
}

async fn images(
    client: &Client,
    owner: &str,
    sandbox: Option<&SandboxName>,
) -> Result<Vec<(String, SandboxName)>, Error> {
    let path = format!("/images/json?all=1&filters={}", filter(owner, sandbox));
    let list = client.call(Method::GET, &path, None).await?;
    let list = list.good("list the images")?;
    // Ours have no name, and what somebody gave one is theirs.
    let unnamed = |image: &&Value| {
        let tags = image.get("RepoTags").and_then(Value::as_array);
        tags.is_none_or(|tags| tags.iter().all(|tag| tag == "<none>:<none>"))
    };
    let list: Vec<_> = items(&list).filter(unnamed).cloned().collect();
    Ok(named(&Value::Array(list), "Id", owner, sandbox))
}

fn named(
    list: &Value,
    key: &str,
    owner: &str,
    sandbox: Option<&SandboxName>,
) -> Vec<(String, SandboxName)> {
    let one = |item: &Value| {
        let labels = item.get("Labels");
        is_of(labels, owner, sandbox).then_some(())?;
        let of = labels?.get(SANDBOX)?.as_str()?.parse().ok()?;
        Some((id(item.get(key)?.as_str()?)?, of))
    };
    items(list).filter_map(one).collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn filter(owner: &str, sandbox: Option<&SandboxName>) -> String {
    let mut labels = vec![format!("{OWNER}={owner}")];
    labels.extend(sandbox.map(|name| format!("{SANDBOX}={name}")));
    encoded(&json!({ "label": labels }).to_string())
}

/// Whether something with these labels is of this state directory and, if one
/// is named, of this sandbox.
fn is_of(labels: Option<&Value>, owner: &str, sandbox: Option<&SandboxName>) -> bool {
    let label = |name: &str| labels?.get(name)?.as_str();
    label(OWNER) == Some(owner)
        && match sandbox {
            Some(name) => label(SANDBOX) == Some(name.as_str()),
            None => label(SANDBOX).is_some(),
        }
}

/// An id or a name, if it can be a part of a path.
pub(super) fn id(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-:".contains(&byte);
    let fits = !text.is_empty() && text.len() <= MAX_ID && text.bytes().all(plain);
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_other_labels_is_nobody_s_of_ours() {
        let name: SandboxName = "box".parse().unwrap();
        let labels = |owner: &str, sandbox: &str| json!({ OWNER: owner, SANDBOX: sandbox });
        let ours = labels("a", "box");
        assert!(is_of(Some(&ours), "a", Some(&name)));
        assert!(is_of(Some(&ours), "a", None));
        for other in [
            labels("b", "box"),
            labels("a", "other"),
            json!({}),
            json!(null),
        ] {
            assert!(!is_of(Some(&other), "a", Some(&name)), "{other}");
        }
        assert!(!is_of(None, "a", None));
        let list = json!([
            { "Id": "x1", "Labels": ours },
            { "Id": "../x2", "Labels": ours },
            { "Id": "x3", "Labels": labels("b", "box") },
        ]);
        assert_eq!(named(&list, "Id", "a", None), [("x1".to_owned(), name)]);
    }
}
