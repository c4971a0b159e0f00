//! The commands on sandboxes that exist: ls, inspect, start, stop, rm, logs.

use clap::Args;
use sbx_engine::command::{
    Code, Command, Error, InspectRequest, LogsRequest, LsRequest, RmRequest, StartRequest,
    StopRequest,
};
use sbx_spec::SandboxName;

use super::sandbox::{value, wrong};

/// List sandboxes
///
/// Shows running and stopped ones; -q prints names only.
/// Example: sbx ls --json
#[derive(Args, Debug)]
pub(crate) struct LsFlags {
    /// List those too whose state cannot be read
    #[arg(short, long)]
    all: bool,
}

/// Show everything known about a sandbox, and what enforces it
///
/// Example: sbx inspect claude-app
#[derive(Args, Debug)]
pub(crate) struct InspectFlags {
    /// The sandbox
    #[arg(value_name = "NAME")]
    name: String,
}

/// Start stopped sandboxes, and keep them up until `sbx stop`
///
/// Example: sbx start claude-app
#[derive(Args, Debug)]
pub(crate) struct StartFlags {
    /// The sandboxes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Stop sandboxes; their disks stay
///
/// Programs inside are asked to end and forced after the grace.
/// Example: sbx stop -t 5 claude-app
#[derive(Args, Debug)]
pub(crate) struct StopFlags {
    /// Force it after so many seconds
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<String>,

    /// The sandboxes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Remove sandboxes; workspace files stay
///
/// Asks first, and says what would be lost. Example: sbx rm claude-app
#[derive(Args, Debug)]
pub(crate) struct RmFlags {
    /// Do not ask, and stop running ones first
    #[arg(short, long)]
    force: bool,

    /// Remove every sandbox
    #[arg(long, conflicts_with = "names")]
    all: bool,

    /// The sandboxes
    #[arg(value_name = "NAME", required_unless_present = "all")]
    names: Vec<String>,
}

/// Show what a sandbox's boot, guest and supervisor wrote down
///
/// Example: sbx logs -f claude-app
#[derive(Args, Debug)]
pub(crate) struct LogsFlags {
    /// Go on until interrupted
    #[arg(short, long)]
    follow: bool,

    /// Show only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<String>,

    /// The sandbox
    #[arg(value_name = "NAME")]
    name: String,
}

pub(super) fn name(text: &str) -> Result<SandboxName, Error> {
    value("NAME", Some(text))?.ok_or_else(|| Error::new(Code::Usage, "no sandbox is named"))
}

fn names(texts: &[String]) -> Result<Vec<SandboxName>, Error> {
    let mut found: Vec<SandboxName> = Vec::new();
    for text in texts {
        let name = name(text)?;
        if !found.contains(&name) {
            found.push(name);
        }
    }
    Ok(found)
}

impl LsFlags {
    pub(super) fn command(&self) -> Command {
        Command::Ls(LsRequest { all: self.all })
    }
}

impl InspectFlags {
    pub(super) fn command(&self) -> Result<Command, Error> {
        Ok(Command::Inspect(InspectRequest {
            name: name(&self.name)?,
        }))
    }
}

impl StartFlags {
    pub(super) fn command(&self) -> Result<Command, Error> {
        Ok(Command::Start(StartRequest {
            names: names(&self.names)?,
        }))
    }
}

impl StopFlags {
    pub(super) fn command(&self) -> Result<Command, Error> {
        let grace_s: Option<u32> = value("--time", self.time.as_deref())?;
        if let Some(text) = self
            .time
            .as_deref()
            .filter(|_| grace_s.is_some_and(|s| s > 3600))
        {
            return Err(wrong("--time", text, &"at most 3600 seconds"));
        }
        Ok(Command::Stop(StopRequest {
            names: names(&self.names)?,
            grace_s,
        }))
    }
}

impl RmFlags {
    pub(super) fn command(&self) -> Result<Command, Error> {
        Ok(Command::Rm(RmRequest {
            names: names(&self.names)?,
            all: self.all,
            force: self.force,
        }))
    }
}

impl LogsFlags {
    pub(super) fn command(&self) -> Result<Command, Error> {
        Ok(Command::Logs(LogsRequest {
            name: name(&self.name)?,
            follow: self.follow,
            tail: value("--tail", self.tail.as_deref())?,
        }))
    }
}
