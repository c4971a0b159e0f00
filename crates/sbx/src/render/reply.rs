//! The text form of each reply.

use anstyle::AnsiColor;
use sbx_engine::command::{
    DoctorReply, GcReply, InspectReply, LogLine, Outcome, PlanReply, PortsReply, Reply,
    SandboxBrief, Status, VersionReply,
};
use sbx_spec::{ByteSize, Isolation, SandboxSpec};

use super::table::{columns, pairs, status};
use super::{Paint, escape};

/// A reply as text for standard output.
pub(super) fn text(reply: &Reply, quiet: bool, wide: bool, paint: Paint) -> String {
    match reply {
        Reply::Session(_) | Reply::Done {} => String::new(),
        Reply::Sandbox(sandbox) => format!("{}\n", sandbox.sandbox.name),
        Reply::List(list) if quiet => list
            .sandboxes
            .iter()
            .map(|sandbox| format!("{}\n", sandbox.name))
            .collect(),
        Reply::List(list) => listing(&list.sandboxes, paint),
        Reply::Inspect(inspect) => inspection(inspect, paint),
        Reply::Acted(acted) => acted.done.iter().map(|name| format!("{name}\n")).collect(),
        Reply::Logs(logs) => logs.lines.iter().map(|line| log(line, paint)).collect(),
        Reply::Plan(plan) => planned(plan, paint),
        Reply::Doctor(doctor) => checks(doctor, quiet, paint),
        Reply::Gc(gc) => freed(gc, quiet),
        Reply::PolicyEdited(edited) => super::policy::edited(edited),
        Reply::PolicyList(list) => super::policy::listing(list, quiet, wide, paint),
        Reply::Checked(checked) => super::policy::checked(checked, paint),
        Reply::Ports(ports) => published(ports, quiet),
        Reply::Pending(pending) => super::question::pending(pending, quiet, paint),
        Reply::Answered(answered) => super::question::answered(answered),
        Reply::Audit(found) => super::audit::records(found, paint),
        Reply::Version(version) => versions(version),
    }
}

fn published(ports: &PortsReply, quiet: bool) -> String {
    if ports.ports.is_empty() && !quiet {
        let name = &ports.sandbox;
        return format!("{name} publishes no port; `sbx ports {name} --publish 8080:80` does\n");
    }
    let lines = ports.ports.iter().map(|port| format!("{}\n", port.shown));
    let closed = if ports.open || quiet {
        ""
    } else {
        "they open when the sandbox starts\n"
    };
    lines.chain([closed.to_owned()]).collect()
}

fn listing(sandboxes: &[SandboxBrief], paint: Paint) -> String {
    let dash = || "-".to_owned();
    let row = |sandbox: &SandboxBrief| {
        vec![
            sandbox.name.to_string(),
            sandbox
                .agent
                .as_ref()
                .map_or_else(dash, ToString::to_string),
            sandbox
                .isolation
                .map_or_else(dash, |isolation| isolation.to_string()),
            status(sandbox.status).to_owned(),
            if sandbox.ports.is_empty() {
                dash()
            } else {
                escape(&sandbox.ports.join(", "))
            },
            sandbox
                .workspace
                .as_ref()
                .map_or_else(dash, |path| escape(&path.to_string_lossy())),
        ]
    };
    let rows: Vec<_> = sandboxes.iter().map(row).collect();
    let heads = ["NAME", "AGENT", "ISOLATION", "STATUS", "PORTS", "WORKSPACE"];
    let plain = columns(&heads, &rows);
    // Painted last, so that colours do not count as width.
    let lines = plain
        .lines()
        .zip(std::iter::once(None).chain(sandboxes.iter().map(Some)));
    lines
        .map(|(line, sandbox)| painted(line, sandbox, paint) + "\n")
        .collect()
}

fn painted(line: &str, sandbox: Option<&SandboxBrief>, paint: Paint) -> String {
    let color = match sandbox.map(|sandbox| sandbox.status) {
        None => return paint.with(line, anstyle::Style::new().bold()),
        Some(Status::Running) => AnsiColor::Green,
        Some(Status::Broken) => AnsiColor::Red,
        Some(_) => return line.to_owned(),
    };
    paint.color(line, color)
}

fn specification(spec: &SandboxSpec) -> String {
    let mut lines = vec![
        ("agent", spec.kit.to_string()),
        ("isolation", spec.isolation.to_string()),
        ("cpus", spec.limits.cpus.to_string()),
        ("memory", spec.limits.memory.to_string()),
        ("pids", spec.limits.pids.to_string()),
        ("workdir", escape(&spec.workdir.as_path().to_string_lossy())),
        (
            "network",
            spec.network
                .preset
                .map_or("as the user's policy says".to_owned(), |p| p.to_string()),
        ),
    ];
    // What a container has nothing of is not listed.
    if spec.isolation == Isolation::MicroVm {
        lines.extend([
            ("driver", spec.driver.to_string()),
            ("accel", spec.accel.to_string()),
            ("disk", spec.limits.disk.to_string()),
        ]);
    }
    if spec.isolation == Isolation::Container {
        lines.push(("guard", spec.guard.to_string()));
    }
    for share in &spec.shares {
        let host = escape(&share.host.to_string_lossy());
        let guest = escape(&share.guest.as_path().to_string_lossy());
        lines.push(("share", format!("{host} -> {guest} ({})", share.access)));
    }
    for volume in &spec.volumes {
        let guest = escape(&volume.guest.as_path().to_string_lossy());
        lines.push(("volume", format!("{} -> {guest}", escape(&volume.name))));
    }
    for mount in &spec.tmpfs {
        let size = mount
            .size
            .map(|size| format!(" ({size})"))
            .unwrap_or_default();
        lines.push((
            "tmpfs",
            escape(&mount.guest.as_path().to_string_lossy()) + &size,
        ));
    }
    for var in &spec.env {
        lines.push(("env", escape(&var.name)));
    }
    pairs(&lines)
}

fn inspection(inspect: &InspectReply, paint: Paint) -> String {
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let known = |text: &Option<String>| text.as_deref().map(escape).unwrap_or_default();
    let mut text = pairs(&[
        ("name", inspect.sandbox.name.to_string()),
        ("status", status(inspect.sandbox.status).to_owned()),
        ("problem", known(&inspect.problem)),
        ("supervisor", number(inspect.supervisor.map(u64::from))),
        (
            "up",
            inspect.up_s.map(|s| format!("{s} s")).unwrap_or_default(),
        ),
        ("sessions", number(inspect.sessions.map(u64::from))),
        ("driver", known(&inspect.driver)),
        ("accel", known(&inspect.accel)),
        ("kernel", known(&inspect.kernel)),
        (
            "disk used",
            inspect.disk_used.map(ByteSize::about).unwrap_or_default(),
        ),
        ("directory", escape(&inspect.directory.to_string_lossy())),
    ]);
    text += &heading("created as", paint);
    text += &specification(&inspect.spec);
    if !inspect.limits.is_empty() {
        text += &heading("limits", paint);
        let row = |limit: &sbx_engine::command::Enforced| {
            vec![
                escape(&limit.limit),
                escape(&limit.value),
                escape(&limit.by),
            ]
        };
        text += &columns(
            &["LIMIT", "VALUE", "HELD BY"],
            &inspect.limits.iter().map(row).collect::<Vec<_>>(),
        );
    }
    if !inspect.promises.is_empty() {
        text += &heading("promises", paint);
        let row = |line: &sbx_engine::command::PromiseKept| {
            let words = line.caveat.as_deref().unwrap_or(&line.says);
            vec![
                line.promise.name().to_owned(),
                escape(&line.kept),
                escape(words),
            ]
        };
        text += &columns(
            &["PROMISE", "KEPT", "WHAT IS SO"],
            &inspect.promises.iter().map(row).collect::<Vec<_>>(),
        );
    }
    if !inspect.walls.is_empty() {
        text += &heading("walls", paint);
        let row = |wall: &sbx_engine::command::Wall| {
            let up = if wall.up { "up" } else { "missing" };
            vec![
                escape(&wall.process),
                escape(&wall.wall),
                up.to_owned(),
                known(&wall.note),
            ]
        };
        text += &columns(
            &["PROCESS", "WALL", "STATE", "NOTE"],
            &inspect.walls.iter().map(row).collect::<Vec<_>>(),
        );
    }
    if !inspect.held.is_empty() {
        text += &heading("held: changed inside, not on the host", paint);
        for held in &inspect.held {
            text += &format!(
                "{}/{}\n",
                escape(&held.share.to_string_lossy()),
                escape(&held.path)
            );
        }
    }
    text
}

fn heading(text: &str, paint: Paint) -> String {
    format!("\n{}\n", paint.with(text, anstyle::Style::new().bold()))
}

/// A line of a log.
pub(crate) fn log(line: &LogLine, paint: Paint) -> String {
    let source = paint.color(&format!("{:<10}", escape(&line.source)), AnsiColor::Cyan);
    format!("{source} {}\n", escape(&line.text))
}

fn planned(plan: &PlanReply, paint: Paint) -> String {
    let what = if plan.exists {
        "exists"
    } else {
        "to be created"
    };
    let mut text = format!("{} ({what})\n", plan.spec.name);
    text += &specification(&plan.spec);
    if !plan.facts.is_empty() {
        text += &heading("facts", paint);
        let rows: Vec<(&str, String)> = plan
            .facts
            .iter()
            .map(|fact| (fact.name.as_str(), escape(&fact.value)))
            .collect();
        text += &pairs(&rows);
    }
    text += &heading("steps", paint);
    for (number, step) in plan.steps.iter().enumerate() {
        let cached = if step.cached { " (done before)" } else { "" };
        text += &format!("{}. {}{cached}\n", number + 1, escape(&step.what));
        for detail in &step.detail {
            text += &format!("   {}\n", escape(detail));
        }
    }
    for warning in &plan.warnings {
        text += &paint.color(
            &format!("warning: {}\n", escape(warning)),
            AnsiColor::Yellow,
        );
    }
    text
}

fn checks(doctor: &DoctorReply, quiet: bool, paint: Paint) -> String {
    let mut text = String::new();
    for check in &doctor.checks {
        let (word, color) = match check.outcome {
            Outcome::Pass if quiet => continue,
            Outcome::Pass => ("pass", AnsiColor::Green),
            Outcome::Warn => ("warn", AnsiColor::Yellow),
            Outcome::Fail => ("fail", AnsiColor::Red),
        };
        let (title, found) = (escape(&check.title), escape(&check.found));
        text += &format!("{}  {title}: {found}\n", paint.color(word, color));
        if let Some(cure) = &check.cure {
            text += &format!("      {}\n", escape(cure));
        }
    }
    text
}

fn freed(gc: &GcReply, quiet: bool) -> String {
    let mut text = String::new();
    if !quiet {
        for item in &gc.items {
            let path = item
                .path
                .as_ref()
                .map(|path| format!(" {}", escape(&path.to_string_lossy())));
            let size = ByteSize::bytes(item.bytes).about();
            text += &format!(
                "{size:>8}  {}{}\n",
                escape(&item.what),
                path.unwrap_or_default()
            );
        }
    }
    let verb = if gc.dry_run { "would free" } else { "freed" };
    text + &format!("{verb} {}\n", ByteSize::bytes(gc.freed).about())
}

fn versions(version: &VersionReply) -> String {
    let or_none = |text: &Option<String>| text.as_deref().map_or("none yet".to_owned(), escape);
    pairs(&[
        ("sbx", escape(&version.sbx)),
        ("protocol", version.protocol.to_string()),
        ("kernel", or_none(&version.kernel)),
        ("template", or_none(&version.template)),
        (
            "qemu",
            version
                .qemu
                .as_deref()
                .map_or("not found".to_owned(), escape),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use sbx_engine::command::{Check, GcItem, ListReply};

    use super::*;

    fn brief(name: &str, status: Status) -> SandboxBrief {
        SandboxBrief {
            name: name.parse().unwrap(),
            agent: (status != Status::Broken).then(|| "claude".parse().unwrap()),
            isolation: (status != Status::Broken).then_some(sbx_spec::Isolation::MicroVm),
            status,
            ports: Vec::new(),
            workspace: (status != Status::Broken).then(|| "/src/a\u{1b}b".into()),
            created: Some(0),
        }
    }

    #[test]
    fn a_list_has_the_columns_of_the_surface() {
        let reply = Reply::List(ListReply {
            sandboxes: vec![
                brief("claude-app", Status::Running),
                brief("x1", Status::Broken),
            ],
        });
        assert_eq!(
            text(&reply, false, false, Paint::none()),
            "NAME        AGENT   ISOLATION  STATUS   PORTS  WORKSPACE\n\
             claude-app  claude  microvm    running  -      /src/a\\u{1b}b\n\
             x1          -       -          broken   -      -\n"
        );
        assert_eq!(text(&reply, true, false, Paint::none()), "claude-app\nx1\n");
    }

    #[test]
    fn an_empty_list_is_its_headings() {
        let reply = Reply::List(ListReply::default());
        assert_eq!(
            text(&reply, false, false, Paint::none()),
            "NAME  AGENT  ISOLATION  STATUS  PORTS  WORKSPACE\n"
        );
        assert_eq!(text(&reply, true, false, Paint::none()), "");
    }

    #[test]
    fn a_check_that_fails_shows_its_cure() {
        let reply = Reply::Doctor(DoctorReply {
            checks: vec![Check {
                id: "qemu".into(),
                title: "QEMU".into(),
                outcome: Outcome::Fail,
                found: "not installed".into(),
                cure: Some("apt-get install qemu-system-x86".into()),
            }],
        });
        assert_eq!(
            text(&reply, false, false, Paint::none()),
            "fail  QEMU: not installed\n      apt-get install qemu-system-x86\n"
        );
    }

    #[test]
    fn what_was_freed_is_summed_up() {
        let item = GcItem {
            what: "kernel of an older version".into(),
            path: None,
            bytes: 2048,
        };
        let reply = Reply::Gc(GcReply {
            dry_run: true,
            items: vec![item],
            freed: 2048,
        });
        assert_eq!(
            text(&reply, false, false, Paint::none()),
            "      2k  kernel of an older version\nwould free 2k\n"
        );
    }
}
