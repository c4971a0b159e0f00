//! The package managers and clients that agents use, as they are, against the
//! registries that this host's own tools use: under the preset that nobody
//! has to choose they work with nothing to set, and what a rule denies they
//! say so.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Fact, Home, Isolation, WebServer, client, host, in_each_isolation};

in_each_isolation![
    curl_git_npm_node_and_pip_work_with_nothing_to_set_and_name_the_rule_that_denies_them,
];

/// Two repositories as a server without git in it has them.
const REPOSITORIES: &str = "for name in open closed; do
    git init -q -b main made-$name; cd made-$name
    echo inside > file; git add file
    git -c user.name=a -c user.email=a@a.example commit -qm one
    cd ..; git clone -q --bare made-$name $name.git
    git -C $name.git update-server-info
done";

/// How long a client may take to say that it was denied: what it needs to
/// start on a processor that is emulated and shared, and less than what any
/// of them waits for a server that does not answer.
const AT_ONCE: Duration = Duration::from_secs(90);

/// The host of an address of the web.
fn host_of(url: &str) -> String {
    let rest = url.split("://").nth(1).unwrap();
    let authority = rest.split('/').next().unwrap();
    authority.split(':').next().unwrap().to_owned()
}

fn curl_git_npm_node_and_pip_work_with_nothing_to_set_and_name_the_rule_that_denies_them(
    isolation: Isolation,
) {
    let name =
        "curl_git_npm_node_and_pip_work_with_nothing_to_set_and_name_the_rule_that_denies_them";
    if !Fact::NpmRegistry.holds_for(name) || !Fact::PipIndex.holds_for(name) {
        return;
    }
    let home = Home::of(isolation);
    let files = home.root().join("files");
    fs::create_dir(&files).unwrap();
    host("/bin/bash", &["-ec", REPOSITORIES], &files);
    let server = WebServer::of_files(home.root(), &files);
    // Where this host's npm and pip fetch from, which the preset allows
    // because the host says so.
    let registry = client("npm", &["config", "get", "registry"], Path::new("/"));
    let registry = registry.trim().trim_end_matches('/');
    let settings = client("python3", &["-m", "pip", "config", "list"], Path::new("/"));
    let index = settings.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.ends_with(".index-url")
            .then(|| value.trim_matches('\'').to_owned())
    });
    let index = index.unwrap_or_default();
    let app = home.project("clients");
    home.sbx(["run", "-d", "--name", "clients", "--memory", "1g"])
        .arg("shell")
        .cwd(&app)
        .env("npm_config_registry", registry)
        .env("PIP_INDEX_URL", &index)
        .env("SSL_CERT_FILE", server.root())
        .succeeds();
    let inside = |script: &str| {
        let call = home.sbx(["exec", "clients", "bash", "-c", script]);
        call.cwd(&app).within(Duration::from_secs(300)).output()
    };
    let service = format!("localhost:{}", server.port());
    let rule = |words: &[&str]| {
        let rule = [&["policy"], words, &["--sandbox", "clients"]].concat();
        home.sbx(rule).succeeds();
    };
    rule(&["allow", "network", &service, "--inspect"]);
    assert_eq!(inside("env | grep -ic proxy").text(), "0");

    let repository = format!("https://host.docker.internal:{}", server.port());
    let curl = format!("curl -sS --max-time 120 {registry}/is-number");
    let node =
        format!("node -e 'fetch(\"{registry}/is-number\").then(r => r.text()).then(console.log)'");
    let from = if index.is_empty() {
        String::new()
    } else {
        format!("--index-url {index}")
    };
    let pip = format!(
        "python3 -m venv .venv && .venv/bin/pip install -q {from} six==1.16.0 >&2 && \
         .venv/bin/python -c 'import six; print(six.__version__)'"
    );
    let npm = |package: &str| {
        format!(
            "npm install --no-audit --no-fund --registry {registry} {package} >&2 && ls node_modules"
        )
    };
    let git = |name: &str| format!("git clone -q {repository}/{name}.git && cat {name}/file");
    for (script, expected) in [
        (&curl, "\"versions\""),
        (&node, "\"versions\""),
        (&npm("is-number@7.0.0"), "is-number"),
        (&pip, "1.16.0"),
        (&git("open"), "inside"),
    ] {
        let said = inside(script).with_code(0).text();
        assert!(said.contains(expected), "{script}: {said}");
    }

    let registry_host = host_of(registry);
    rule(&["deny", "network", &registry_host]);
    rule(&["deny", "network", &service, "--path", "/closed.git/**"]);
    let denied = format!("sandbox deny {registry_host}");
    let closed = format!("sandbox deny {service} /closed.git/**");
    for (script, named) in [
        (&curl, &denied),
        (&node, &denied),
        (&npm("is-odd@3.0.1"), &denied),
        (&git("closed"), &closed),
    ] {
        let asked = Instant::now();
        let output = inside(script);
        assert!(asked.elapsed() < AT_ONCE, "{script}: {output}");
        let said = format!("{}{}", output.text(), output.errors());
        assert!(said.contains(named), "{script}: {output}");
    }
    // Nothing else is denied by that.
    let again = inside(&format!("cd /tmp && {}", git("open")));
    assert_eq!(again.with_code(0).text(), "inside");
    let heard = server.heard();
    assert!(
        heard.iter().all(|line| !line.contains("closed")),
        "{heard:?}"
    );
    home.sbx(["rm", "-f", "clients"]).succeeds();
}
