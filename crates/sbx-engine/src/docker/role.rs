//! The role `sbx dock`: speaks with the engine, and carries what goes between
//! its containers and the rest of the sandbox.
//!
//! It makes the containers or takes those of an earlier start, attaches to
//! them, starts them, and then locks itself down: no file, no new connection.
//! The containers end with their standard input, which is an end of this
//! process; whatever ends it ends them.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use sbx_proto::dock::{MAX_SAID, Place, Places, UP, Wire, first};
use sbx_sys::jail::{Jail, Profile};
use sbx_sys::spawn::Resource;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, ReadHalf};
use tokio::net::UnixStream;

use super::bodies::{self, Network};
use super::client::Client;
use super::config::DockConfig;
use super::streams::{self, Input, Output};
use super::{failed, images, objects};
use crate::command::Error;
use crate::role::Role;
use crate::setup;

/// The link to the first process of the agent's container.
const LINK: i32 = 4;
/// Where it is told how the start goes, a JSON line.
const REPORT: i32 = 5;
/// Frames of the network engine, if there is one.
const WIRE: i32 = 6;

/// How long the keeper of the network may take to set it up.
const UP_LIMIT: Duration = Duration::from_secs(20);
/// How long an engine may take to say how a container ended, and the keeper of
/// the network to end after it.
const PARTING: Duration = Duration::from_secs(3);

type Reader = Output<ReadHalf<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>>;

/// A container that is up.
struct Up {
    output: Reader,
    input: Input,
}

/// Runs the containers to their end.
///
/// # Errors
/// If they could not be made, or ended otherwise than by powering off.
pub(crate) fn run(role: Role) -> Result<(), Error> {
    let config: DockConfig = role.config()?;
    let link = StdStream::from(role.fd(LINK)?);
    let report = StdStream::from(role.fd(REPORT)?);
    let wire = config.network.then(|| role.fd(WIRE)).transpose()?;
    drop(role);
    let told = report.try_clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| failed("prepare").because(source))?;
    let done = runtime.block_on(dock(&config, link, &report, wire));
    if let (Err(error), Ok(report)) = (&done, told) {
        let line = json!({
            "failed": error.message, "causes": error.causes, "hint": error.hint,
        });
        // Whose start this was may be gone, and its log has it as well.
        let _ = tell(&report, &line);
    }
    done
}

fn tell(mut report: &StdStream, line: &Value) -> std::io::Result<()> {
    std::io::Write::write_all(&mut report, format!("{line}\n").as_bytes())
}

async fn dock(
    config: &DockConfig,
    link: StdStream,
    report: &StdStream,
    wire: Option<OwnedFd>,
) -> Result<(), Error> {
    let engine = &config.docker.engine;
    let client = Client::connect(&engine.endpoint, &engine.ssh).await?;
    let filter = bodies::filter(engine, false);
    let filter = filter.as_deref();
    let mut keeper = None;
    let mut network = None;
    let mut aside = None;
    if wire.is_some() {
        let own = bodies::filter(engine, !engine.tap);
        let id = kept(&client, config, own.as_deref(), &mut aside).await?;
        keeper = Some(match network_up(&client, config, &id).await {
            Ok(up) => up,
            // Whoever was killed between attaching and starting has closed the
            // input of the next start, and of that alone.
            Err(_) => network_up(&client, config, &id).await?,
        });
        network = Some(id);
    }
    let id = agent(&client, config, network.as_deref(), filter, aside).await?;
    let (up, end) = match agent_up(&client, config, &id).await {
        Ok(up) => up,
        Err(_) => agent_up(&client, config, &id).await?,
    };
    let mut walls = vec![json!({
        "wall": "engine",
        "by": config.docker.engine.name,
        "network": if network.is_some() { "of a keeper" } else { "none" },
    })];
    client.hang_up().await;
    let own = Jail::new(Profile::Carrier)
        .limit(Resource::Core, 0)
        .apply()
        .map_err(|source| failed("lock down who speaks with the engine").because(source))?;
    if let Ok(Value::Array(own)) = serde_json::to_value(&own) {
        walls.extend(own);
    }
    tell(report, &json!({ "ready": { "walls": walls } }))
        .map_err(|source| failed("say how the start goes").because(source))?;
    link.set_nonblocking(true)
        .map_err(|source| failed("watch a socket").because(source))?;
    let link =
        UnixStream::from_std(link).map_err(|source| failed("watch a socket").because(source))?;
    carry(link, up, wire.zip(keeper), end).await
}

/// How a container ends, for whoever waits for it.
type End = tokio::task::JoinHandle<Result<Response<Incoming>, Error>>;

/// Starts the agent's container, and waits until its first process has found
/// what it has to.
async fn agent_up(client: &Client, config: &DockConfig, id: &str) -> Result<(Up, End), Error> {
    let what = "set the container up";
    // Answered at once or only when it ends: whoever answers when.
    let end = format!("/containers/{id}/wait?condition=next-exit");
    let end = client.open(&end).await?;
    let (mut output, mut input) = streams::split(client.attach(id).await?);
    let (_, name) = bodies::names(config);
    objects::start(client, &name, id).await?;
    let places = first(&places(config)).ok_or_else(|| failed("say what is mounted"))?;
    let begun = async {
        input.write_all(&places).await?;
        input.flush().await?;
        output.begins().await
    };
    let begun = tokio::time::timeout(UP_LIMIT, begun).await;
    match begun.map_err(|_| failed(what).because(std::io::Error::other("it does not answer")))? {
        Ok(true) => Ok((Up { output, input }, end)),
        Ok(false) => {
            let why = "its first process ended; its log says why";
            Err(failed(what).because(std::io::Error::other(why)))
        }
        Err(error) => Err(failed(what).because(error)),
    }
}

/// Carries until the agent's container ends, and says how it did.
async fn carry(
    link: UnixStream,
    agent: Up,
    network: Option<(OwnedFd, Up)>,
    end: End,
) -> Result<(), Error> {
    let frames = network.map(|(wire, keeper)| {
        tokio::spawn(streams::carry_frames(wire, keeper.output, keeper.input))
    });
    let agent = streams::carry_link(link, agent.output, agent.input);
    tokio::pin!(agent);
    let carried = match frames {
        None => agent.await,
        Some(mut frames) => {
            let carried = tokio::select! {
                carried = &mut agent => carried,
                ended = &mut frames => {
                    let why = match ended {
                        Ok(Err(error)) => error,
                        _ => std::io::Error::other("it ended"),
                    };
                    return Err(failed("keep the network of the container up").because(why));
                }
            };
            // Dropped with its ends, by which the keeper ends too.
            frames.abort();
            carried
        }
    };
    carried.map_err(|source| failed("speak with the container").because(source))?;
    let code = tokio::time::timeout(PARTING, exit_code(end)).await;
    match code.unwrap_or_else(|_| Err(failed("hear how the container ended"))) {
        Ok(0) => Ok(()),
        Ok(code) => {
            let why = format!("its first process ended with {code}");
            Err(failed("keep the container up").because(std::io::Error::other(why)))
        }
        Err(error) => Err(error),
    }
}

async fn exit_code(end: End) -> Result<i64, Error> {
    let what = "hear how the container ended";
    let response = end.await.map_err(|error| failed(what).because(error))??;
    let body = http_body_util::Limited::new(response.into_body(), 64 * 1024);
    let body = body.collect().await;
    let body = body.map_err(|error| failed(what).because(std::io::Error::other(error)))?;
    let body: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let code = body.get("StatusCode").and_then(Value::as_i64);
    code.ok_or_else(|| failed(what))
}

/// The container that keeps the network: that of an earlier start, if it would
/// still be made as it was.
async fn kept(
    client: &Client,
    config: &DockConfig,
    filter: Option<&str>,
    aside: &mut Option<String>,
) -> Result<String, Error> {
    let (name, _) = bodies::names(config);
    let body = bodies::keeper(config, filter);
    let owner = &config.docker.engine.owner;
    if let Some(found) = objects::container(client, &name, owner, &config.name).await? {
        if found.made.as_deref() == body.pointer(MADE_AT).and_then(Value::as_str) {
            if found.running {
                objects::kill(client, &found.id).await?;
            }
            return Ok(found.id);
        }
        // Some engines let none go whose network is used.
        *aside = set_aside(client, config).await?;
        objects::delete(client, &found.id).await?;
    }
    objects::make(client, &name, &body).await
}

/// Takes the agent's container away, if there is one, and keeps its files as
/// an image.
async fn set_aside(client: &Client, config: &DockConfig) -> Result<Option<String>, Error> {
    let (_, name) = bodies::names(config);
    let owner = &config.docker.engine.owner;
    let Some(found) = objects::container(client, &name, owner, &config.name).await? else {
        return Ok(None);
    };
    if found.running {
        objects::kill(client, &found.id).await?;
    }
    let labels = json!(bodies::labels(config));
    let image = objects::keep(client, &found.id, &labels).await?;
    objects::delete(client, &found.id).await?;
    Ok(Some(image))
}

/// Where a body says what it was made as.
const MADE_AT: &str = "/Labels/dev.sbx.made";

/// Starts the keeper of the network, and waits until the interface is up.
async fn network_up(client: &Client, config: &DockConfig, id: &str) -> Result<Up, Error> {
    let (name, _) = bodies::names(config);
    let what = "set up the network of the container";
    let broken = |source: std::io::Error| failed(what).because(source);
    let (mut output, mut input) = streams::split(client.attach(id).await?);
    objects::start(client, &name, id)
        .await
        .map_err(|error| match config.docker.engine.tap {
            true => error.hint("it needs the device /dev/net/tun there: `modprobe tun`"),
            false => error,
        })?;
    let wire = Wire {
        net: setup::addresses(),
        mac: sbx_net::layout::GUEST_MAC.0,
    };
    let wire = first(&wire).ok_or_else(|| failed(what))?;
    input.write_all(&wire).await.map_err(broken)?;
    let said = tokio::time::timeout(UP_LIMIT, output.line(MAX_SAID)).await;
    match said.map_err(|_| failed(what).because(std::io::Error::other("it does not answer")))? {
        Ok(said) if said == UP => Ok(Up { output, input }),
        Ok(said) => {
            let said = super::client::shown(&said);
            Err(failed(what).because(std::io::Error::other(said)))
        }
        Err(error) => Err(broken(error)),
    }
}

/// The agent's container: that of an earlier start, if it would still be made
/// as it was, else one from the files of that.
async fn agent(
    client: &Client,
    config: &DockConfig,
    network: Option<&str>,
    filter: Option<&str>,
    mut aside: Option<String>,
) -> Result<String, Error> {
    let (_, name) = bodies::names(config);
    let owner = &config.docker.engine.owner;
    let joined = network.map_or(Network::None, Network::Of);
    let mut body = bodies::agent(config, &joined, filter);
    if let Some(found) = objects::container(client, &name, owner, &config.name).await? {
        let in_place =
            network.is_none_or(|id| found.network.as_deref() == Some(&format!("container:{id}")));
        if in_place && found.made.as_deref() == body.pointer(MADE_AT).and_then(Value::as_str) {
            if found.running {
                objects::kill(client, &found.id).await?;
            }
            return Ok(found.id);
        }
        // What is mounted where is fixed when a container is made.
        aside = set_aside(client, config).await?;
    }
    if let Some(image) = aside {
        body["Image"] = json!(image);
    }
    let id = objects::make(client, &name, &body).await?;
    if !config.docker.engine.local {
        images::copy_in(client, &id, &config.docker).await?;
    }
    Ok(id)
}

/// What the first process inside has to find before it runs anything.
fn places(config: &DockConfig) -> Places {
    use std::os::unix::ffi::OsStrExt;
    let place = |bind: &super::config::Bind| Place {
        path: bind.guest.as_os_str().as_bytes().to_vec().into(),
        device: bind.is.0,
        inode: bind.is.1,
    };
    Places {
        places: config.binds.iter().map(place).collect(),
    }
}
