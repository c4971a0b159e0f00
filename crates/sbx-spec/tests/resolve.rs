//! Layers in, a specification out: what is written here is what `sbx plan`
//! shows for it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use sbx_spec::{
    Access, ByteSize, Config, EnvVar, GuestPath, HostKind, HostLimits, HostPath, Layers, Limit,
    MountRequest, NetworkPreset, ResolveError, Resolved, SandboxRequest, SandboxSpec,
    SensitivePlaces, WorkspacePath, WorkspaceRequest, differences, resolve,
};

fn host_path(path: &str) -> HostPath {
    HostPath {
        typed: path.into(),
        real: path.into(),
        kind: HostKind::Directory,
        git_common: None,
    }
}

fn on(workspace: &str) -> SandboxRequest {
    SandboxRequest {
        workspace: WorkspaceRequest::Current(host_path(workspace)),
        ..SandboxRequest::default()
    }
}

fn bind(host: &str, guest: &str, access: Access) -> MountRequest {
    MountRequest::Bind {
        host: host_path(host),
        guest: guest_path(guest),
        access,
    }
}

fn guest_path(path: &str) -> GuestPath {
    GuestPath::new(path).unwrap()
}

fn env(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: value.into(),
    }
}

fn resolved_on(
    request: &SandboxRequest,
    config: &str,
    host: &HostLimits,
) -> Result<Resolved, ResolveError> {
    let sensitive = SensitivePlaces::new(Path::new("/home/u"), 1000, &[]);
    let layers = Layers {
        request,
        config: &Config::parse(config).unwrap(),
        kit: &"claude".parse().unwrap(),
        host,
        sensitive: &sensitive,
    };
    resolve(layers, "claude-app".parse().unwrap())
}

fn resolved(request: &SandboxRequest, config: &str) -> Result<Resolved, ResolveError> {
    let host = HostLimits {
        cores: 4,
        memory: ByteSize::gib(12),
        disk: Some(ByteSize::gib(100)),
        cpu_quota: false,
        memory_limit: false,
        pids_limit: false,
        no_cgroup: None,
    };
    resolved_on(request, config, &host)
}

/// The specification in lines.
fn text(resolved: &Resolved) -> String {
    let SandboxSpec {
        name,
        kit,
        isolation,
        driver,
        accel,
        limits,
        ..
    } = &resolved.spec;
    let mut out = format!("{name} {kit} {isolation} {driver} {accel}\n");
    out += &format!(
        "{} cpus, {}, disk {}, {} pids\n",
        limits.cpus, limits.memory, limits.disk, limits.pids
    );
    for share in &resolved.spec.shares {
        let (host, guest) = (share.host.display(), share.guest.as_path().display());
        out += &format!("{:?} {host} -> {guest} {}\n", share.role, share.access);
    }
    for volume in &resolved.spec.volumes {
        out += &format!(
            "volume {} -> {}\n",
            volume.name,
            volume.guest.as_path().display()
        );
    }
    for mount in &resolved.spec.tmpfs {
        out += &format!(
            "tmpfs {} {:?}\n",
            mount.guest.as_path().display(),
            mount.size
        );
    }
    for var in &resolved.spec.env {
        out += &format!("{}={}\n", var.name, var.value);
    }
    let network = &resolved.spec.network;
    out += &format!("in {}\n", resolved.spec.workdir.as_path().display());
    match network.preset {
        Some(preset) => out + &format!("network {preset}\n"),
        None => out,
    }
}

fn error(request: &SandboxRequest) -> String {
    resolved(request, "").unwrap_err().to_string()
}

#[test]
fn nothing_said_takes_the_defaults_of_the_surface() {
    assert_eq!(
        text(&resolved(&on("/home/u/app"), "").unwrap()),
        "claude-app claude microvm auto auto\n\
         4 cpus, 6g, disk 20g, 4096 pids\n\
         Workspace /home/u/app -> /home/u/app direct\n\
         in /home/u/app\n"
    );
}

#[test]
fn flags_win_over_the_configuration_and_it_over_the_defaults() {
    let request = SandboxRequest {
        memory: Some(ByteSize::gib(2)),
        network: Some(NetworkPreset::Locked),
        ..on("/home/u/app")
    };
    let config = "memory = \"3g\"\ncpus = 2\nworkspace-mode = \"ro\"\naccel = \"tcg\"";
    assert_eq!(
        text(&resolved(&request, config).unwrap()),
        "claude-app claude microvm auto tcg\n\
         2 cpus, 2g, disk 20g, 4096 pids\n\
         Workspace /home/u/app -> /home/u/app ro\n\
         in /home/u/app\n\
         network locked\n"
    );
}

#[test]
fn several_workspaces_and_mounts_keep_their_order_and_modes() {
    let mut linked = host_path("/home/u/tree");
    linked.git_common = Some("/home/u/repo/.git".into());
    let request = SandboxRequest {
        workspace: WorkspaceRequest::Paths(vec![
            WorkspacePath {
                host: linked,
                read_only: false,
            },
            WorkspacePath {
                host: host_path("/srv/doc"),
                read_only: true,
            },
        ]),
        mounts: vec![
            bind("/home/u/.rustup", "/home/agent/.rustup", Access::ReadOnly),
            MountRequest::Volume {
                name: "cache".into(),
                guest: guest_path("/cache"),
            },
            MountRequest::Tmpfs {
                guest: guest_path("/fast"),
                size: None,
            },
        ],
        env: vec![env("A", "1"), env("MY_TOKEN", "secret"), env("A", "2")],
        ..SandboxRequest::default()
    };
    let resolved = resolved(&request, "").unwrap();
    assert_eq!(
        text(&resolved),
        "claude-app claude microvm auto auto\n\
         4 cpus, 6g, disk 20g, 4096 pids\n\
         Workspace /home/u/tree -> /home/u/tree direct\n\
         GitCommon /home/u/repo/.git -> /home/u/repo/.git direct\n\
         Workspace /srv/doc -> /srv/doc ro\n\
         Mount /home/u/.rustup -> /home/agent/.rustup ro\n\
         volume cache -> /cache\n\
         tmpfs /fast None\n\
         A=2\n\
         in /home/u/tree\n"
    );
    assert_eq!(resolved.credentials, [env("MY_TOKEN", "secret")]);
}

#[test]
fn without_a_workspace_sessions_start_at_home() {
    let request = SandboxRequest {
        workspace: WorkspaceRequest::None,
        ..SandboxRequest::default()
    };
    assert!(text(&resolved(&request, "").unwrap()).contains("in /home/agent\n"));
}

#[test]
fn limits_the_host_cannot_give_are_errors() {
    let with = |change: fn(&mut SandboxRequest)| {
        let mut request = on("/home/u/app");
        change(&mut request);
        error(&request)
    };
    assert_eq!(
        with(|r| r.memory = "1k".parse().ok()),
        "--memory 1k: a guest needs at least 128m"
    );
    assert_eq!(
        with(|r| r.memory = "10t".parse().ok()),
        "--memory 10t: this host has 12g"
    );
    assert_eq!(
        with(|r| r.cpus = "5".parse().ok()),
        "--cpus 5: this host has 4"
    );
    assert_eq!(
        with(|r| r.cpus = "1.5".parse().ok()),
        "--cpus 1.5: no cgroup here can hold a fraction of a processor"
    );
    assert_eq!(
        with(|r| r.disk = "1t".parse().ok()),
        "--disk 1t: the file system of the sandboxes has 100g"
    );
    assert_eq!(
        with(|r| r.pids = Some(1)),
        "--pids-limit 1: it is a number from 32 to 4194304"
    );
}

#[test]
fn a_fraction_is_taken_where_a_cgroup_holds_it() {
    let host = HostLimits {
        cores: 2,
        memory: ByteSize::gib(1),
        disk: None,
        cpu_quota: true,
        memory_limit: true,
        pids_limit: true,
        no_cgroup: None,
    };
    let request = SandboxRequest {
        cpus: "1.5".parse().ok(),
        ..on("/srv/app")
    };
    let spec = resolved_on(&request, "", &host).unwrap().spec;
    assert_eq!(spec.limits.cpus.milli(), 1500);
    assert_eq!(spec.limits.memory, ByteSize::mib(512));
}

#[test]
fn what_is_guarded_less_was_said_and_is_a_container() {
    use sbx_spec::{Isolation, WorkspaceGuard};
    let asked = |isolation, guard| SandboxRequest {
        isolation: Some(isolation),
        guard,
        ..on("/srv/app")
    };
    let guard = |request: &SandboxRequest, config: &str| {
        let spec = resolved(request, config).map(|resolved| resolved.spec);
        spec.map(|spec| spec.guard)
            .map_err(|error| error.to_string())
    };
    let (existing, full) = (WorkspaceGuard::Existing, WorkspaceGuard::Full);
    let file = "workspace-guard = \"existing\"";
    let contained = asked(Isolation::Container, None);
    assert_eq!(guard(&contained, ""), Ok(full));
    assert_eq!(guard(&contained, file), Ok(existing));
    let said = asked(Isolation::Container, Some(full));
    assert_eq!(guard(&said, file), Ok(full));
    let said = asked(Isolation::Container, Some(existing));
    assert_eq!(guard(&said, ""), Ok(existing));
    // What the configuration says of containers is not about a machine.
    assert_eq!(guard(&asked(Isolation::MicroVm, None), file), Ok(full));
    let refused = guard(&asked(Isolation::MicroVm, Some(existing)), "");
    assert!(refused.unwrap_err().contains("--workspace-guard existing"));
}

#[test]
fn a_container_takes_no_flag_of_machines_and_no_limit_that_nothing_holds() {
    let contained = SandboxRequest {
        isolation: Some(sbx_spec::Isolation::Container),
        ..on("/srv/app")
    };
    let defaults = resolved(&contained, "").unwrap().spec;
    assert_eq!(defaults.isolation, sbx_spec::Isolation::Container);
    let flag = |request: SandboxRequest| match resolved(&request, "").unwrap_err() {
        ResolveError::Limit(flag, _, _) | ResolveError::NoMachine(flag) => flag,
        other => panic!("{other}"),
    };
    let request = || contained.clone();
    let with = |change: fn(&mut SandboxRequest)| {
        let mut request = request();
        change(&mut request);
        flag(request)
    };
    assert_eq!(with(|it| it.disk = Some(ByteSize::gib(1))), "--disk");
    assert_eq!(with(|it| it.memory = Some(ByteSize::gib(1))), "--memory");
    assert_eq!(with(|it| it.cpus = "1".parse().ok()), "--cpus");
    assert_eq!(with(|it| it.pids = Some(100)), "--pids-limit");
    assert_eq!(with(|it| it.driver = "qemu".parse().ok()), "--driver");
    assert_eq!(with(|it| it.accel = "tcg".parse().ok()), "--accel");
    for (line, flag) in [
        ("memory = \"1g\"", "--memory"),
        ("cpus = 1", "--cpus"),
        ("pids-limit = 100", "--pids-limit"),
    ] {
        let error = resolved(&contained, line).unwrap_err();
        let refused = matches!(&error, ResolveError::Limit(found, _, _) if *found == flag);
        assert!(refused, "{line}: {error}");
    }
    // What the configuration says of machines is not about it.
    let of_file = resolved(
        &on("/srv/app"),
        "isolation = \"container\"\naccel = \"tcg\"",
    );
    assert_eq!(of_file.unwrap().spec.isolation, defaults.isolation);
    let held = HostLimits {
        cores: 2,
        memory: ByteSize::gib(2),
        disk: None,
        cpu_quota: true,
        memory_limit: true,
        pids_limit: true,
        no_cgroup: None,
    };
    let mut limited = request();
    limited.memory = Some(ByteSize::gib(1));
    limited.pids = Some(100);
    let spec = resolved_on(&limited, "", &held).unwrap().spec;
    assert_eq!(spec.asked, [Limit::Memory, Limit::Pids]);
    let spec = resolved_on(&contained, "cpus = 1", &held).unwrap().spec;
    assert_eq!(spec.asked, [Limit::Cpus]);
    let spec = resolved(&contained, "disk = \"2g\"").unwrap().spec;
    assert_eq!(spec.asked, [Limit::Disk]);
}

#[test]
fn a_small_host_gets_no_more_memory_than_it_has() {
    let host = HostLimits {
        cores: 1,
        memory: ByteSize::mib(300),
        disk: Some(ByteSize::gib(1)),
        cpu_quota: false,
        memory_limit: false,
        pids_limit: false,
        no_cgroup: None,
    };
    let limits = resolved_on(&on("/srv/app"), "", &host).unwrap().spec.limits;
    assert_eq!(
        (limits.memory, limits.disk),
        (ByteSize::mib(300), ByteSize::gib(1))
    );
}

#[test]
fn the_home_directory_is_a_workspace_only_when_it_is_named() {
    let request = on("/home/u");
    assert_eq!(
        error(&request),
        "`/home/u` cannot be a workspace: it is the home directory"
    );
    let hint = resolved(&request, "").unwrap_err().hint().unwrap();
    assert!(hint.contains("--allow-sensitive-mount /home/u"), "{hint}");
    let named = SandboxRequest {
        allow_sensitive: vec!["/home/u".into()],
        ..request
    };
    assert!(resolved(&named, "").is_ok());
}

#[test]
fn naming_another_place_allows_nothing() {
    let request = SandboxRequest {
        allow_sensitive: vec!["/home/u/.ssh".into()],
        ..on("/home/u/.aws")
    };
    assert!(resolved(&request, "").is_err());
    let parent = SandboxRequest {
        allow_sensitive: vec!["/home".into()],
        ..on("/home/u")
    };
    assert!(resolved(&parent, "").is_err());
}

#[test]
fn the_root_directory_is_never_a_workspace() {
    let request = SandboxRequest {
        allow_sensitive: vec![PathBuf::from("/")],
        ..on("/")
    };
    assert_eq!(
        error(&request),
        "`/` cannot be a workspace: inside, it would hide the sandbox's own `/`"
    );
}

#[test]
fn keys_are_mounted_only_when_they_are_named() {
    let with = |allow: &[&str]| SandboxRequest {
        mounts: vec![bind("/home/u/.ssh", "/keys", Access::ReadOnly)],
        allow_sensitive: allow.iter().map(PathBuf::from).collect(),
        ..on("/home/u/app")
    };
    assert_eq!(
        error(&with(&[])),
        "`/home/u/.ssh` cannot be mounted: `/home/u/.ssh` is keys or start-up files of the host's user"
    );
    assert!(resolved(&with(&["/home/u/.ssh"]), "").is_ok());
}

#[test]
fn nothing_is_mounted_over_what_the_guest_stands_on() {
    for target in ["/", "/proc/x", "/dev", "/opt/sbx/kits", "/usr"] {
        let request = SandboxRequest {
            mounts: vec![bind("/srv/data", target, Access::ReadWrite)],
            ..on("/home/u/app")
        };
        assert!(error(&request).contains("would hide"), "{target}");
    }
}

#[test]
fn sockets_and_devices_are_not_mounted() {
    let mut socket = host_path("/srv/app.sock");
    socket.kind = HostKind::Special;
    let mount = MountRequest::Bind {
        host: socket,
        guest: guest_path("/s"),
        access: Access::ReadOnly,
    };
    let request = SandboxRequest {
        mounts: vec![mount],
        ..on("/home/u/app")
    };
    assert!(error(&request).contains("neither a directory nor an ordinary file"));
}

#[test]
fn two_mounts_at_one_place_are_an_error() {
    let request = SandboxRequest {
        mounts: vec![
            bind("/srv/a", "/x", Access::ReadOnly),
            bind("/srv/b", "/x", Access::ReadOnly),
        ],
        ..on("/home/u/app")
    };
    assert_eq!(error(&request), "two mounts stand at `/x`");
}

fn differs(spec: &SandboxSpec, request: &SandboxRequest) -> Vec<String> {
    differences(spec, request, None)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_same_command_again_differs_in_nothing() {
    let request = SandboxRequest {
        memory: Some(ByteSize::gib(2)),
        mounts: vec![bind("/srv/a", "/a", Access::ReadOnly)],
        ..on("/home/u/app")
    };
    let spec = resolved(&request, "").unwrap().spec;
    assert_eq!(differs(&spec, &request), [""; 0]);
    assert_eq!(differs(&spec, &SandboxRequest::default()), [""; 0]);
    assert_eq!(differs(&spec, &on("/somewhere/else")), [""; 0]);
}

#[test]
fn what_counts_only_at_creation_is_named_when_it_differs() {
    let spec = resolved(&on("/home/u/app"), "").unwrap().spec;
    let request = SandboxRequest {
        memory: Some(ByteSize::gib(8)),
        network: Some(NetworkPreset::None),
        workspace_access: Some(Access::ReadOnly),
        mounts: vec![bind("/srv/a", "/a", Access::ReadOnly)],
        ..on("/home/u/app")
    };
    assert_eq!(
        differs(&spec, &request),
        [
            "it has --memory 6g, not 8g",
            "it has --network unsaid (the user's own), not none",
            "it has --workspace-mode direct, not ro",
            "it has --mount none, not /a",
        ]
    );
    let kit = "shell".parse().unwrap();
    let agent = differences(&spec, &on("/home/u/app"), Some(&kit));
    assert_eq!(agent[0].to_string(), "it has agent claude, not shell");
}

#[test]
fn another_workspace_differs_when_it_was_typed() {
    let spec = resolved(&on("/home/u/app"), "").unwrap().spec;
    let paths = |path: &str, read_only| SandboxRequest {
        workspace: WorkspaceRequest::Paths(vec![WorkspacePath {
            host: host_path(path),
            read_only,
        }]),
        ..SandboxRequest::default()
    };
    assert_eq!(differs(&spec, &paths("/home/u/app", false)), [""; 0]);
    assert_eq!(
        differs(&spec, &paths("/srv/b", false)),
        ["it has workspace /home/u/app:direct, not /srv/b"]
    );
    assert_eq!(
        differs(&spec, &paths("/home/u/app", true)),
        ["it has workspace /home/u/app:direct, not /home/u/app:ro"]
    );
    let none = SandboxRequest {
        workspace: WorkspaceRequest::None,
        ..SandboxRequest::default()
    };
    assert_eq!(
        differs(&spec, &none),
        ["it has workspace /home/u/app:direct, not none"]
    );
}
