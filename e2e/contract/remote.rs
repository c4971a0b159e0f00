//! Engines elsewhere, over TLS and by `ssh`: whom the caller's own client would
//! believe, and nobody else.

use std::fs;

use e2e::{Authority, Fact, Home, Kind, Listener, Output, SshServer, free_port};

/// A session in a sandbox without a workspace, by calls that `with` completes.
fn session(home: &Home, with: &dyn Fn(e2e::Sbx) -> e2e::Sbx, script: &str) -> Output {
    let run = ["run", "--isolation", "docker", "--memory", "512m"];
    let flags = ["--no-workspace", "--name", "far", "shell", "--", "-c"];
    with(home.sbx(run).args(flags).arg(script)).output()
}

/// What a sandbox there does from its start to its removal.
fn life(home: &Home, with: &dyn Fn(e2e::Sbx) -> e2e::Sbx) {
    let open = Listener::open();
    let rule = format!("localhost:{}", open.port());
    let run = ["run", "--isolation", "docker", "--memory", "512m"];
    let flags = ["--no-workspace", "--name", "far", "--allow-network", &rule];
    let fetch = format!(
        "id -un; curl -s --max-time 20 http://host.sbx.internal:{}/",
        open.port()
    );
    let shell = ["shell", "--", "-c", &fetch];
    let out = with(home.sbx(run).args(flags).args(shell)).succeeds();
    assert_eq!(out.text(), "agent\ncanary-sings");
    let call = |args: &[&str]| with(home.sbx(args)).succeeds().text();
    call(&["exec", "far", "sh", "-c", "echo kept > ~/kept"]);
    call(&["stop", "far"]);
    assert_eq!(call(&["exec", "far", "cat", "/home/agent/kept"]), "kept");
    let every: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let back = with(home.sbx(["exec", "-i", "far", "cat"])).input(every.clone());
    assert_eq!(back.succeeds().bytes(), every);
    call(&["rm", "-f", "far"]);
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn an_engine_that_is_spoken_with_over_tls_is_verified_and_knows_its_caller() {
    let name = "an_engine_that_is_spoken_with_over_tls_is_verified_and_knows_its_caller";
    let Some(mut home) = Home::with_engine(name, Kind::Docker, Some(free_port())) else {
        return;
    };
    let root = home.root().to_owned();
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.vouch(&root.join("tls"), "127.0.0.1");
    authority.vouch(&root.join("caller"), "caller");
    authority.known(&root.join("nobody"));
    authority.vouch(&root.join("misled"), "caller");
    stranger.known(&root.join("misled"));
    stranger.vouch(&root.join("unknown"), "caller");
    authority.known(&root.join("unknown"));
    home.engine_mut().down();
    home.engine_mut().up();

    let by = |directory: &str| {
        let directory = root.join(directory);
        move |call: e2e::Sbx| {
            call.env("DOCKER_TLS_VERIFY", "1")
                .env("DOCKER_CERT_PATH", &directory)
        }
    };
    life(&home, &by("caller"));

    let context = root.join("docker/contexts");
    fs::create_dir_all(context.join("meta/0a1b")).unwrap();
    let address = home.engine().address();
    let meta = format!(
        r#"{{"Name":"far","Endpoints":{{"docker":{{"Host":"{address}","SkipTLSVerify":false}}}}}}"#
    );
    fs::write(context.join("meta/0a1b/meta.json"), &meta).unwrap();
    fs::create_dir_all(context.join("tls/0a1b")).unwrap();
    fs::rename(root.join("caller"), context.join("tls/0a1b/docker")).unwrap();
    let by_context = |call: e2e::Sbx| {
        call.env("DOCKER_HOST", "")
            .env("DOCKER_CONFIG", root.join("docker"))
            .env("DOCKER_CONTEXT", "far")
    };
    life(&home, &by_context);

    for (directory, why) in [
        ("misled", "invalid peer certificate"),
        ("nobody", "ertificate"),
        ("unknown", "ertificate"),
        ("absent", "ca.pem"),
    ] {
        let refused = session(&home, &by(directory), "true").with_code(125);
        assert!(refused.errors().contains(why), "{directory}: {refused}");
        assert!(refused.errors().contains("DOCKER_CERT_PATH"), "{refused}");
    }
    let clear = session(&home, &|call| call, "true").with_code(125);
    assert!(clear.errors().contains("DOCKER_TLS_VERIFY"), "{clear}");
    let blind = meta.replace("false", "true");
    fs::write(context.join("meta/0a1b/meta.json"), blind).unwrap();
    let blind = session(&home, &by_context, "true").with_code(125);
    assert!(blind.errors().contains("whoever answers"), "{blind}");
}

#[test]
fn an_engine_behind_ssh_is_reached_without_a_question_or_says_why_not() {
    let name = "an_engine_behind_ssh_is_reached_without_a_question_or_says_why_not";
    if !Fact::SshServer.holds_for(name) {
        return;
    }
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let server = SshServer::start(home.root());
    let socket = home.engine().socket().replacen("unix://", "", 1);
    let there = |socket: &str| {
        let address = format!("ssh://{}{socket}", server.address());
        let path = server.path();
        move |call: e2e::Sbx| call.env("DOCKER_HOST", &address).env("PATH", &path)
    };
    // Nobody is asked whether to believe a key that is not known.
    let unknown = session(&home, &there(&socket), "true").with_code(125);
    let verified = "Host key verification failed";
    assert!(unknown.errors().contains(verified), "{unknown}");
    server.known_otherwise();
    let other = session(&home, &there(&socket), "true").with_code(125);
    assert!(other.errors().contains(verified), "{other}");
    server.known();
    life(&home, &there(&socket));

    let workspace = ["run", "--isolation", "docker", "shell"];
    let workspace = home.sbx(workspace).cwd(home.project("app"));
    let refused = there(&socket)(workspace).output().with_code(125);
    assert!(refused.errors().contains("--no-workspace"), "{refused}");
    let absent = session(&home, &there("/nowhere/x.sock"), "true").with_code(125);
    assert!(absent.errors().contains("/nowhere/x.sock"), "{absent}");
    let without = session(
        &home,
        &|call| there(&socket)(call).env("PATH", "/nowhere"),
        "true",
    );
    let without = without.with_code(125);
    assert!(without.errors().contains("no program `ssh`"), "{without}");
}
